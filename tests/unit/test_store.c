/*
 * The store on a real disk: what was committed is there, what failed is not,
 * a full disk is an error and no more. Faults are put between LMDB and the
 * kernel by system calls of our own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/store.h"

/* ---- faults ---- */

static long fault_in = -1; /* writes and syncs until the one that fails; negative: none */
static int fault_error;
static long n_faults_left; /* how many fail from there on */

static bool
fault_now(void)
{
    if (fault_in < 0 || fault_in-- > 0)
        return false;
    if (--n_faults_left > 0)
        fault_in = 0;
    errno = fault_error;
    return true;
}

static void
fault_set(long in, long n, int error)
{
    fault_in = in;
    n_faults_left = n;
    fault_error = error;
}

/* True when the fault happened. */
static bool
fault_clear(long n)
{
    bool happened = n_faults_left < n;
    fault_in = -1;
    return happened;
}

static void *
real(const char *name)
{
    void *fn = dlsym(RTLD_NEXT, name);
    if (fn == NULL)
        abort();
    return fn;
}

ssize_t
pwrite(int fd, const void *bytes, size_t n, off_t at)
{
    static ssize_t (*fn)(int, const void *, size_t, off_t);
    if (fn == NULL)
        *(void **)&fn = real("pwrite");
    return fault_now() ? -1 : fn(fd, bytes, n, at);
}

ssize_t
writev(int fd, const struct iovec *iov, int n)
{
    static ssize_t (*fn)(int, const struct iovec *, int);
    if (fn == NULL)
        *(void **)&fn = real("writev");
    return fault_now() ? -1 : fn(fd, iov, n);
}

int
fdatasync(int fd)
{
    static int (*fn)(int);
    if (fn == NULL)
        *(void **)&fn = real("fdatasync");
    return fault_now() ? -1 : fn(fd);
}

static size_t refused_map_bytes = SIZE_MAX; /* maps of this size and above */
static int n_large_maps;                    /* of files: those of environments */

static uint64_t clock_shift_us;
uint64_t __real_clock_mono_us(void);
uint64_t __wrap_clock_mono_us(void);

uint64_t
__wrap_clock_mono_us(void)
{
    return __real_clock_mono_us() + clock_shift_us;
}

/* The thread sanitizer maps memory before it is ready to watch us do it. */
__attribute__((no_sanitize("thread"))) void *
mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    if (fd >= 0 && size >= refused_map_bytes) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    n_large_maps += fd >= 0 && size >= 32 << 20;
    long r = syscall(SYS_mmap, at, size, protection, flags, fd, offset);
    return r == -1 ? MAP_FAILED : (void *)r;
}

/* ---- the stores under test ---- */

enum { ALPHA, BETA, N_DBS };
static const char *const dbs[] = { "alpha", "beta" };
static char dir[64];
static struct store *s;

static void
remove_dir(void)
{
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    if (system(command) != 0)
        abort();
}

static int
open_store(void)
{
    return store_open(dir, dbs, N_DBS, 1, NULL, &s);
}

static int
set_up(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/test_store.XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    return open_store();
}

static int
tear_down(void **state)
{
    (void)state;
    fault_in = -1;
    refused_map_bytes = SIZE_MAX;
    clock_shift_us = 0;
    store_close(s);
    s = NULL;
    (void)umount2(dir, MNT_DETACH); /* where a test mounted something */
    remove_dir();
    return 0;
}

static void
reopen(void)
{
    store_close(s);
    s = NULL;
    assert_int_equal(open_store(), 0);
}

static int
put_text(unsigned db, const char *key, const char *value)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    int r = store_begin(s, &txn);
    if (r == 0)
        r = store_put(txn, db, key, strlen(key), value, strlen(value));
    if (r < 0)
        return r;
    return store_commit(MOVE_PTR(txn));
}

static void
assert_text(unsigned db, const char *key, const char *want)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    const void *value = NULL;
    size_t size = 0;
    assert_int_equal(store_read(s, &txn), 0);
    int r = store_get(txn, db, key, strlen(key), &value, &size);
    if (want == NULL) {
        assert_int_equal(r, STORE_NOT_FOUND);
        return;
    }
    assert_int_equal(r, STORE_OK);
    assert_int_equal(size, strlen(want));
    assert_memory_equal(value, want, size);
}

static void
test_what_was_committed_is_there_after_opening_again(void **state)
{
    (void)state;
    assert_int_equal(put_text(ALPHA, "k", "v1"), 0);
    assert_int_equal(put_text(BETA, "k", "v2"), 0);
    assert_int_equal(put_text(BETA, "empty", ""), 0);
    reopen();
    assert_text(ALPHA, "k", "v1");
    assert_text(BETA, "k", "v2");
    assert_text(BETA, "empty", "");
    assert_text(ALPHA, "empty", NULL);
}

static void
test_what_was_aborted_never_was(void **state)
{
    (void)state;
    struct store_txn *txn = NULL;
    assert_int_equal(store_begin(s, &txn), 0);
    assert_int_equal(store_put(txn, ALPHA, "k", 1, "v", 1), 0);
    store_abort(txn);
    store_abort(NULL);
    assert_text(ALPHA, "k", NULL);
}

static void
test_the_directory_is_private_and_new_ones_are_made(void **state)
{
    (void)state;
    struct stat st;
    char nested[96];
    struct store *other = NULL;
    (void)snprintf(nested, sizeof(nested), "%s/new", dir);
    assert_int_equal(store_open(nested, dbs, N_DBS, 1, NULL, &other), 0);
    assert_int_equal(stat(nested, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    (void)snprintf(nested, sizeof(nested), "%s/new/data.mdb", dir);
    assert_int_equal(stat(nested, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    store_close(other);
    (void)snprintf(nested, sizeof(nested), "%s/no/where", dir);
    assert_int_equal(store_open(nested, dbs, N_DBS, 1, NULL, &other), -ENOENT);
    store_close(NULL);
}

static void
test_each_store_has_a_uuid_for_life(void **state)
{
    (void)state;
    uint8_t uuid[16];
    static const uint8_t zero[16];
    memcpy(uuid, store_uuid(s), 16);
    assert_memory_not_equal(uuid, zero, 16);
    reopen();
    assert_memory_equal(store_uuid(s), uuid, 16);
    store_close(s);
    s = NULL;
    remove_dir();
    assert_int_equal(open_store(), 0);
    assert_memory_not_equal(store_uuid(s), uuid, 16);
}

static void
test_a_second_opening_is_refused(void **state)
{
    (void)state;
    struct store *other = NULL;
    assert_int_equal(store_open(dir, dbs, N_DBS, 1, NULL, &other), -EBUSY);
    assert_null(other);
    pid_t pid = fork();
    if (pid == 0)
        _exit(store_open(dir, dbs, N_DBS, 1, NULL, &other) == -EBUSY ? 0 : 1);
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(put_text(ALPHA, "k", "v"), 0); /* ours is none the worse */
}

/* A process that dies with a transaction open, and a view. */
static void
test_a_killed_owner_leaves_a_good_store(void **state)
{
    (void)state;
    store_close(s);
    s = NULL;
    pid_t pid = fork();
    if (pid == 0) {
        struct store_txn *view = NULL, *txn = NULL;
        int r = open_store();
        if (r == 0)
            r = put_text(ALPHA, "answered", "yes");
        if (r == 0)
            r = store_read(s, &view);
        if (r == 0)
            r = store_begin(s, &txn);
        if (r == 0)
            r = store_put(txn, ALPHA, "unanswered", 10, "x", 1);
        if (r == 0)
            (void)kill(getpid(), SIGKILL);
        _exit(1);
    }
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(open_store(), 0);
    assert_text(ALPHA, "answered", "yes");
    assert_text(ALPHA, "unanswered", NULL);
    assert_int_equal(put_text(ALPHA, "next", "1"), 0);
}

/* ---- records ---- */

static void
test_keys_have_their_bounds(void **state)
{
    (void)state;
    char key[STORE_KEY_MAX + 1];
    const void *value;
    size_t size;
    struct store_txn *txn = NULL;
    memset(key, 'k', sizeof(key));
    assert_int_equal(store_begin(s, &txn), 0);
    assert_int_equal(store_put(txn, ALPHA, key, STORE_KEY_MAX, "v", 1), 0);
    assert_int_equal(store_put(txn, ALPHA, key, STORE_KEY_MAX + 1, "v", 1), -EINVAL);
    assert_int_equal(store_put(txn, ALPHA, key, 0, "v", 1), -EINVAL);
    assert_int_equal(store_get(txn, ALPHA, key, 0, &value, &size), -EINVAL);
    assert_int_equal(store_del(txn, ALPHA, key, STORE_KEY_MAX + 1), -EINVAL);
    assert_int_equal(store_get(txn, ALPHA, key, STORE_KEY_MAX, &value, &size), STORE_OK);
    assert_int_equal(store_commit(txn), 0); /* a refusal spoils nothing */
}

static void
test_deleting_clearing_counting(void **state)
{
    (void)state;
    struct store_txn *txn = NULL;
    uint64_t n = 0;
    uint8_t key[8];
    assert_int_equal(store_begin(s, &txn), 0);
    for (uint64_t i = 0; i < 1000; i++)
        assert_int_equal(store_append(txn, ALPHA, store_key_u64(key, i), 8, &i, sizeof(i)), 0);
    assert_int_equal(store_append(txn, ALPHA, store_key_u64(key, 5), 8, "", 0), -EEXIST);
    assert_int_equal(store_count(txn, ALPHA, &n), 0);
    assert_int_equal(n, 1000);
    assert_int_equal(store_del(txn, ALPHA, store_key_u64(key, 500), 8), STORE_OK);
    assert_int_equal(store_del(txn, ALPHA, store_key_u64(key, 500), 8), STORE_NOT_FOUND);
    assert_int_equal(store_count(txn, ALPHA, &n), 0);
    assert_int_equal(n, 999);
    assert_int_equal(store_put(txn, BETA, "b", 1, "b", 1), 0);
    assert_int_equal(store_clear(txn, ALPHA), 0);
    assert_int_equal(store_count(txn, ALPHA, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(store_commit(txn), 0);
    reopen();
    assert_text(BETA, "b", "b");
    assert_int_equal(store_read(s, &txn), 0);
    assert_int_equal(store_count(txn, ALPHA, &n), 0);
    assert_int_equal(n, 0);
    store_abort(txn);
}

static void
test_numbers_as_keys_keep_their_order(void **state)
{
    (void)state;
    uint8_t a[8], b[8];
    static const uint64_t numbers[] = { 0, 1, 255, 256, 1u << 31, UINT64_MAX / 2, UINT64_MAX };
    for (size_t i = 0; i + 1 < ARRAY_LEN(numbers); i++) {
        assert_true(memcmp(store_key_u64(a, numbers[i]), store_key_u64(b, numbers[i + 1]), 8) <
                    0);
        assert_true(store_u64_key(a) == numbers[i]);
    }
}

/* ---- walks ---- */

/* Puts keys 10, 20, … 'n' of them. */
static void
fill(unsigned n)
{
    struct store_txn *txn = NULL;
    uint8_t key[8];
    char value[200];
    memset(value, 'x', sizeof(value)); /* so that they fill many pages */
    assert_int_equal(store_begin(s, &txn), 0);
    for (uint64_t i = 1; i <= n; i++)
        assert_int_equal(
            store_append(txn, ALPHA, store_key_u64(key, 10 * i), 8, value, sizeof(value)), 0);
    assert_int_equal(store_commit(txn), 0);
}

/* The first key of a walk, 0: none. */
static uint64_t
first_from(struct store_txn *txn, uint64_t from, bool backwards)
{
    CLEANUP(store_iter_done) struct store_iter it;
    uint8_t key[8];
    assert_int_equal(store_iter_init(&it, txn, ALPHA, store_key_u64(key, from), 8, backwards),
                     0);
    int r = store_iter_next(&it);
    if (r == STORE_NOT_FOUND) {
        assert_int_equal(store_iter_next(&it), STORE_NOT_FOUND); /* and stays there */
        return 0;
    }
    assert_int_equal(r, STORE_OK);
    return store_u64_key(it.key);
}

static void
test_walks_start_where_they_should(void **state)
{
    (void)state;
    struct store_txn *txn = NULL;
    fill(100);
    assert_int_equal(store_read(s, &txn), 0);
    assert_int_equal(first_from(txn, 0, false), 10);
    assert_int_equal(first_from(txn, 10, false), 10);
    assert_int_equal(first_from(txn, 11, false), 20);
    assert_int_equal(first_from(txn, 1000, false), 1000);
    assert_int_equal(first_from(txn, 1001, false), 0);
    assert_int_equal(first_from(txn, 9, true), 0);
    assert_int_equal(first_from(txn, 10, true), 10);
    assert_int_equal(first_from(txn, 15, true), 10);
    assert_int_equal(first_from(txn, 1000, true), 1000);
    assert_int_equal(first_from(txn, UINT64_MAX, true), 1000);

    for (int backwards = 0; backwards < 2; backwards++) {
        struct store_iter it;
        uint64_t n = 0;
        assert_int_equal(store_iter_init(&it, txn, ALPHA, NULL, 0, backwards), 0);
        while (store_iter_next(&it) == STORE_OK) {
            n++;
            assert_int_equal(store_u64_key(it.key), 10 * (backwards ? 101 - n : n));
            assert_int_equal(it.size, 200);
        }
        assert_int_equal(n, 100);
        assert_int_equal(store_iter_next(&it), STORE_NOT_FOUND);
        store_iter_done(&it);
        store_iter_done(&it);
    }
    struct store_iter it;
    assert_int_equal(store_iter_init(&it, txn, BETA, NULL, 0, false), 0);
    assert_int_equal(store_iter_next(&it), STORE_NOT_FOUND);
    /* not done: it ends with its transaction */
    store_abort(txn);
}

static void
test_a_walk_may_delete_what_it_stands_on(void **state)
{
    (void)state;
    enum { N = 3000 };
    for (int backwards = 0; backwards < 2; backwards++) {
        struct store_txn *txn = NULL;
        struct store_iter it, other;
        uint64_t n = 0, left = 0;
        assert_int_equal(store_begin(s, &txn), 0);
        assert_int_equal(store_clear(txn, ALPHA), 0);
        assert_int_equal(store_commit(txn), 0);
        fill(N);
        assert_int_equal(store_begin(s, &txn), 0);
        assert_int_equal(store_iter_init(&it, txn, ALPHA, NULL, 0, backwards), 0);
        while (store_iter_next(&it) == STORE_OK) {
            n++;
            assert_int_equal(store_u64_key(it.key), 10 * (backwards ? N + 1 - n : n));
            if (n % 5 != 0) /* long runs, so that pages merge */
                assert_int_equal(store_iter_del(&it), 0);
        }
        assert_int_equal(n, N);
        assert_int_equal(store_iter_init(&other, txn, ALPHA, NULL, 0, false), 0);
        while (store_iter_next(&other) == STORE_OK)
            left++;
        assert_int_equal(left, N / 5);
        assert_int_equal(store_commit(txn), 0); /* ends both */
    }
}

static void
test_everything_may_be_deleted_by_a_walk(void **state)
{
    (void)state;
    struct store_txn *txn = NULL;
    struct store_iter it;
    uint64_t n = 0;
    fill(1000);
    assert_int_equal(store_begin(s, &txn), 0);
    assert_int_equal(store_iter_init(&it, txn, ALPHA, NULL, 0, false), 0);
    for (; store_iter_next(&it) == STORE_OK; n++)
        assert_int_equal(store_iter_del(&it), 0);
    assert_int_equal(n, 1000);
    assert_int_equal(store_count(txn, ALPHA, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(store_commit(txn), 0);
}

/* ---- views ---- */

static void
test_a_view_sees_one_moment(void **state)
{
    (void)state;
    struct store_txn *view = NULL, *later = NULL;
    const void *value;
    size_t size;
    assert_int_equal(put_text(ALPHA, "k", "old"), 0);
    assert_int_equal(store_read(s, &view), 0);
    assert_int_equal(put_text(ALPHA, "k", "new"), 0);
    assert_int_equal(store_read(s, &later), 0);
    assert_int_equal(store_get(view, ALPHA, "k", 1, &value, &size), STORE_OK);
    assert_memory_equal(value, "old", 3);
    assert_int_equal(store_get(later, ALPHA, "k", 1, &value, &size), STORE_OK);
    assert_memory_equal(value, "new", 3);
    store_abort(view);
    store_abort(later);
}

static void
test_too_many_views_are_refused_and_come_back(void **state)
{
    (void)state;
    struct store_txn *views[40];
    int n = 0;
    for (int round = 0; round < 3; round++) {
        n = 0;
        while (n < 40 && store_read(s, &views[n]) == 0)
            n++;
        assert_true(n >= 30 && n < 40);
        struct store_txn *one_more = NULL;
        assert_int_equal(store_read(s, &one_more), -EMFILE);
        assert_null(one_more);
        while (n > 0)
            store_abort(views[--n]);
    }
}

static void
test_a_view_costs_next_to_nothing(void **state)
{
    (void)state;
    enum { N = 20000 };
    uint64_t best_us = UINT64_MAX;
    for (int k = 0; k < 5; k++) {
        uint64_t start_us = clock_mono_us();
        for (int i = 0; i < N; i++) {
            struct store_txn *txn = NULL;
            (void)store_read(s, &txn);
            store_abort(txn);
        }
        uint64_t us = clock_mono_us() - start_us;
        if (us < best_us)
            best_us = us;
    }
    print_message("store_read and store_abort: %.0f ns\n", (double)best_us * 1000 / N);
    assert_true(best_us < (uint64_t)N * 5); /* 5 µs: a pooled one, whatever the machine */
}

/* ---- growth ---- */

static void
test_the_map_grows_with_the_records(void **state)
{
    (void)state;
    struct store_stats stats;
    enum { ROUNDS = 8, SIZE = 30 << 20 };
    char *value = calloc(1, SIZE);
    assert_non_null(value);
    for (int i = 0; i < ROUNDS; i++) { /* far past the first 64 MiB */
        struct store_txn *txn = NULL;
        uint8_t key[8];
        assert_int_equal(store_begin(s, &txn), 0);
        assert_int_equal(store_put(txn, ALPHA, store_key_u64(key, (uint64_t)i), 8, value, SIZE),
                         0);
        assert_int_equal(store_commit(txn), 0);
        store_get_stats(s, &stats);
        assert_true(stats.used_bytes >= (uint64_t)(i + 1) * SIZE);
    }
    free(value);
    assert_int_equal(stats.commits, ROUNDS);
    assert_int_equal(stats.failed_commits, 0);
    assert_true(stats.commit_us_sum > 0);
    reopen();
    assert_int_equal(put_text(ALPHA, "small", "x"), 0);
}

static void
test_a_transaction_that_is_too_big_fails_whole_and_alone(void **state)
{
    (void)state;
    enum { SIZE = 20 << 20 };
    struct store_txn *view = NULL, *txn = NULL;
    char *value = calloc(1, SIZE);
    int r = 0;
    assert_non_null(value);
    assert_int_equal(store_read(s, &view), 0); /* so that the map cannot grow meanwhile */
    assert_int_equal(store_begin(s, &txn), 0);
    for (uint64_t i = 0; i < 100 && r == 0; i++) {
        uint8_t key[8];
        r = store_put(txn, ALPHA, store_key_u64(key, i), 8, value, SIZE);
    }
    assert_int_equal(r, -ENOSPC);
    assert_int_equal(store_put(txn, BETA, "k", 1, "v", 1), -ENOSPC); /* stays spoilt */
    assert_int_equal(store_commit(txn), -ENOSPC);
    store_abort(view);
    free(value);
    assert_text(BETA, "k", NULL);
    assert_int_equal(put_text(BETA, "k", "v"), 0);
    assert_text(BETA, "k", "v");
}

/* Writes one record of so many MiB. */
static int
put_mib(uint64_t no, size_t mib)
{
    CLEANUP(freep) char *value = calloc(mib, 1 << 20);
    struct store_txn *txn = NULL;
    uint8_t key[8];
    assert_non_null(value);
    assert_int_equal(store_begin(s, &txn), 0);
    (void)store_put(txn, ALPHA, store_key_u64(key, no), 8, value, mib << 20); /* commit tells */
    return store_commit(txn);
}

static void
test_a_map_that_cannot_grow_ends_in_a_full_store(void **state)
{
    (void)state;
    enum { SIZE = 8 << 20 };
    char *value = calloc(1, SIZE);
    int r = 0;
    uint64_t n = 0;
    assert_non_null(value);
    assert_int_equal(put_text(BETA, "k", "v"), 0);
    refused_map_bytes = (size_t)256 << 20;
    while (r == 0 && n < 100) {
        struct store_txn *txn = NULL;
        uint8_t key[8];
        assert_int_equal(store_begin(s, &txn), 0);
        r = store_put(txn, ALPHA, store_key_u64(key, n), 8, value, SIZE);
        int committed = store_commit(txn);
        assert_int_equal(committed, r);
        n += r == 0;
        assert_text(BETA, "k", "v");
    }
    free(value);
    assert_int_equal(r, -ENOSPC);
    assert_true(n >= 5 && n < 32);
    refused_map_bytes = SIZE_MAX;
    /* There is room now: noticed after a while, without a restart. */
    assert_int_equal(put_mib(n, 8), -ENOSPC);
    clock_shift_us = 61 * 1000 * 1000;
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(put_mib(n + i, 8), 0);
    reopen();
    assert_int_equal(put_text(BETA, "k", "w"), 0);
    assert_text(BETA, "k", "w");
}

static void
test_the_map_grows_for_who_looks_before_it_writes(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 8; i++) {
        struct store_txn *view = NULL;
        assert_int_equal(store_read(s, &view), 0);
        assert_int_equal(put_mib(i, 30), 0);
        store_abort(view);
    }
}

static void
test_closing_ends_views(void **state)
{
    (void)state;
    struct store_txn *view = NULL, *other = NULL;
    struct store_iter it;
    assert_int_equal(put_text(ALPHA, "k", "v"), 0);
    assert_int_equal(store_read(s, &view), 0);
    assert_int_equal(store_read(s, &other), 0);
    assert_int_equal(store_iter_init(&it, view, ALPHA, NULL, 0, false), 0);
    assert_int_equal(store_iter_next(&it), STORE_OK);
    reopen();
    assert_text(ALPHA, "k", "v");
}

/* ---- schemas ---- */

static uint32_t migrated_from[8];
static int n_migrated, migration_result;

static int
migrate(struct store_txn *txn, uint32_t from)
{
    const void *value;
    size_t size;
    if (store_get(txn, ALPHA, "k", 1, &value, &size) != STORE_OK)
        return -EIO;
    migrated_from[n_migrated++] = from;
    char text[16];
    int n = snprintf(text, sizeof(text), "v%u", from + 1);
    int r = store_put(txn, ALPHA, "k", 1, text, (size_t)n);
    return r < 0 ? r : migration_result;
}

static void
test_older_schemas_are_brought_up_newer_ones_refused(void **state)
{
    (void)state;
    assert_int_equal(put_text(ALPHA, "k", "v1"), 0);
    store_close(s);
    s = NULL;
    n_migrated = 0;

    migration_result = -EPROTO; /* the first step fails: nothing changes */
    assert_int_equal(store_open(dir, dbs, N_DBS, 3, migrate, &s), -EPROTO);
    assert_null(s);
    assert_int_equal(open_store(), 0);
    assert_text(ALPHA, "k", "v1");
    store_close(s);
    s = NULL;

    migration_result = 0;
    n_migrated = 0;
    assert_int_equal(store_open(dir, dbs, N_DBS, 3, migrate, &s), 0);
    assert_int_equal(n_migrated, 2);
    assert_int_equal(migrated_from[0], 1);
    assert_int_equal(migrated_from[1], 2);
    assert_text(ALPHA, "k", "v3");
    store_close(s);
    s = NULL;

    assert_int_equal(store_open(dir, dbs, N_DBS, 3, migrate, &s), 0);
    assert_int_equal(n_migrated, 2); /* once */
    store_close(s);
    s = NULL;
    assert_int_equal(store_open(dir, dbs, N_DBS, 2, migrate, &s), -EPROTO);
    assert_int_equal(store_open(dir, dbs, N_DBS, 4, NULL, &s), -EPROTO);
    assert_null(s);
}

static void
test_a_new_table_comes_empty(void **state)
{
    (void)state;
    static const char *const more[] = { "alpha", "beta", "gamma" };
    assert_int_equal(put_text(ALPHA, "k", "v"), 0);
    store_close(s);
    s = NULL;
    assert_int_equal(store_open(dir, more, 3, 1, NULL, &s), 0);
    assert_text(ALPHA, "k", "v");
    assert_text(2, "k", NULL);
    assert_int_equal(put_text(2, "k", "w"), 0);
    assert_text(2, "k", "w");
}

/* ---- failing disks ---- */

static void
test_a_file_that_is_no_store_is_an_error(void **state)
{
    (void)state;
    char path[96];
    static const char junk[16384] = "not a store";
    store_close(s);
    s = NULL;
    (void)snprintf(path, sizeof(path), "%s/data.mdb", dir);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_int_equal(fwrite(junk, 1, sizeof(junk), f), sizeof(junk));
    assert_int_equal(fclose(f), 0);
    assert_int_equal(open_store(), -EIO);
    assert_null(s);
}

static void
test_every_write_that_fails_loses_only_its_own_commit(void **state)
{
    (void)state;
    static const struct {
        int error, result;
        long n;
    } faults[] = {
        { ENOSPC, -ENOSPC, 1 },
        { EIO, -EIO, 1 },
        { EIO, -EIO, 2 },
        { EDQUOT, -ENOSPC, 3 },
    };
    unsigned no = 0;
    for (size_t f = 0; f < ARRAY_LEN(faults); f++) {
        for (long in = 0;; in++) {
            char key[32], good[32];
            (void)snprintf(key, sizeof(key), "bad-%u", no);
            (void)snprintf(good, sizeof(good), "good-%u", no++);
            fault_set(in, faults[f].n, faults[f].error);
            int r = put_text(ALPHA, key, "x");
            bool happened = fault_clear(faults[f].n);
            assert_int_equal(r, happened ? faults[f].result : 0);
            assert_text(ALPHA, key, r == 0 ? "x" : NULL);
            assert_int_equal(put_text(ALPHA, good, "y"), 0); /* at once */
            assert_text(ALPHA, good, "y");
            if (!happened) {
                assert_true(in >= 3); /* pages, sync, meta page */
                break;
            }
        }
    }
    struct store_stats stats;
    store_get_stats(s, &stats);
    assert_true(stats.failed_commits >= 12);
    reopen();
    for (unsigned i = 0; i < no; i++) {
        char good[32];
        (void)snprintf(good, sizeof(good), "good-%u", i);
        assert_text(ALPHA, good, "y");
    }
}

static void
test_a_store_given_up_on_comes_back_when_its_views_are_closed(void **state)
{
    (void)state;
    struct store_txn *view = NULL;
    assert_int_equal(put_text(ALPHA, "k", "old"), 0);
    assert_int_equal(store_read(s, &view), 0);
    fault_set(2, 1, EIO); /* the meta page */
    assert_int_equal(put_text(ALPHA, "k", "new"), -EIO);
    assert_true(fault_clear(1));
    const void *value;
    size_t size;
    assert_int_equal(store_get(view, ALPHA, "k", 1, &value, &size), STORE_OK);
    assert_memory_equal(value, "old", 3);
    int r = put_text(ALPHA, "k", "newer");
    assert_true(r == 0 || r == -EIO);
    store_abort(view);
    assert_int_equal(put_text(ALPHA, "k", "newest"), 0);
    assert_text(ALPHA, "k", "newest");
}

static void
put_megabytes(unsigned n)
{
    static const uint8_t piece[4000];
    struct store_txn *txn = NULL;
    assert_int_equal(store_begin(s, &txn), 0);
    for (uint32_t i = 0; i < n << 8; i++)
        assert_int_equal(store_put(txn, BETA, &i, sizeof(i), piece, sizeof(piece)), 0);
    assert_int_equal(store_commit(txn), 0);
}

static void
test_a_large_transaction_costs_no_memory_once_no_view_is_open(void **state)
{
    (void)state;
    struct store_txn *view = NULL;
    assert_int_equal(put_text(ALPHA, "k", "old"), 0);
    put_megabytes(1); /* not large */
    n_large_maps = 0;
    assert_int_equal(store_read(s, &view), 0);
    put_megabytes(8);
    assert_int_equal(put_text(ALPHA, "k", "new"), 0);
    assert_int_equal(n_large_maps, 0); /* the view needs the environment as it is */
    store_abort(view);
    assert_text(ALPHA, "k", "new");
    int n = n_large_maps;
    assert_true(n > 0); /* opened anew, without the pages that LMDB keeps */
    assert_int_equal(put_text(ALPHA, "k", "newer"), 0);
    assert_text(ALPHA, "k", "newer");
    assert_int_equal(n_large_maps, n);
    put_megabytes(8);
    assert_int_equal(n_large_maps, n);
    assert_int_equal(put_text(ALPHA, "k", "newest"), 0);
    assert_true(n_large_maps > n);
    assert_text(ALPHA, "k", "newest");
}

/* Fills the disk; what was answered stays. */
static void
fill_up(void)
{
    enum { SIZE = 20000 };
    static char value[SIZE];
    uint64_t n = 0;
    int r = 0;
    uint8_t key[8];
    struct store_txn *txn = NULL;

    while (r == 0 && n < 10000) {
        assert_int_equal(store_begin(s, &txn), 0);
        r = store_put(txn, ALPHA, store_key_u64(key, n), 8, value, SIZE);
        assert_int_equal(r, 0);
        r = store_commit(txn);
        if (r == 0)
            n++;
    }
    assert_int_equal(r, -ENOSPC);
    assert_true(n > 10 && n < 10000);
    for (int i = 0; i < 5; i++) { /* it is an error each time */
        assert_int_equal(store_begin(s, &txn), 0);
        assert_int_equal(store_put(txn, ALPHA, "zzzzzzzz", 8, value, SIZE), 0);
        assert_int_equal(store_commit(txn), -ENOSPC);
    }
    uint64_t count = 0;
    assert_int_equal(store_read(s, &txn), 0);
    assert_int_equal(store_count(txn, ALPHA, &count), 0);
    assert_true(count == n);
    store_abort(txn);
}

static void
delete_some(void)
{
    struct store_txn *txn = NULL;
    struct store_iter it;
    assert_int_equal(store_begin(s, &txn), 0);
    assert_int_equal(store_iter_init(&it, txn, ALPHA, NULL, 0, false), 0);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(store_iter_next(&it), STORE_OK);
        assert_int_equal(store_iter_del(&it), 0);
    }
    assert_int_equal(store_commit(txn), 0);
}

static void
test_a_file_that_may_not_grow_is_a_full_disk(void **state)
{
    (void)state;
    struct rlimit old, small = { .rlim_cur = 2 << 20 };
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    fill_up();
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    delete_some();
    assert_int_equal(put_text(BETA, "k", "v"), 0);
    reopen();
    assert_text(BETA, "k", "v");
}

/* A real full disk, which nobody else sees. The last test: the process keeps its own mounts. */
static int
use_small_disk(void)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", dir, "tmpfs", 0, "size=2m") < 0)
        return -errno;
    return 0;
}

static void
test_a_full_disk_is_an_error_and_no_more(void **state)
{
    (void)state;
    store_close(s);
    s = NULL;
    int r = use_small_disk();
    if (r < 0) {
        print_message("NOT TESTED: a full disk; mounting is not permitted: %s\n", strerror(-r));
        return;
    }
    assert_int_equal(open_store(), 0);
    fill_up();
    reopen(); /* a start on the full disk */
    uint64_t n = 0;
    struct store_txn *txn = NULL;
    assert_int_equal(store_read(s, &txn), 0);
    assert_int_equal(store_count(txn, ALPHA, &n), 0);
    store_abort(txn);
    assert_true(n > 10);
    assert_int_equal(mount("none", dir, "tmpfs", MS_REMOUNT, "size=4m"), 0);
    delete_some();
    assert_int_equal(put_text(BETA, "k", "v"), 0);
    assert_text(BETA, "k", "v");
}

/* ---- threads ---- */

enum { WRITES_EACH = 25, PER_WRITE = 20, PADDING = 50000 }; /* the map grows meanwhile */

/* Each write adds PER_WRITE records of ALPHA; BETA's one record says how many there are. */
static int
add_some(void)
{
    static const uint8_t padding[PADDING];
    struct store_txn *txn = NULL;
    const void *value;
    size_t size;
    uint8_t key[8], count[8];
    int r = store_begin(s, &txn);
    if (r < 0)
        return r;
    r = store_get(txn, BETA, "n", 1, &value, &size);
    uint64_t n = r == STORE_OK ? store_u64_key(value) : 0;
    r = r < 0 ? r : 0;
    for (int i = 0; i < PER_WRITE && r == 0; i++)
        r = store_put(txn, ALPHA, store_key_u64(key, n++), 8, padding, PADDING);
    if (r == 0)
        r = store_put(txn, BETA, "n", 1, store_key_u64(count, n), 8);
    if (r == 0)
        return store_commit(txn);
    store_abort(txn);
    return r;
}

static atomic_int n_wrong, n_writing;

static void *
write_often(void *arg)
{
    (void)arg;
    for (int i = 0; i < WRITES_EACH; i++)
        n_wrong += add_some() != 0;
    n_writing--;
    return NULL;
}

/* A view has as many records as its counter says. */
static void *
look_often(void *arg)
{
    (void)arg;
    while (n_writing > 0) {
        struct store_txn *txn = NULL;
        const void *value;
        size_t size;
        uint64_t n = 0;
        if (store_read(s, &txn) != 0) {
            n_wrong++;
            continue;
        }
        int r = store_get(txn, BETA, "n", 1, &value, &size);
        n_wrong += store_count(txn, ALPHA, &n) != 0 ||
                   n != (r == STORE_OK ? store_u64_key(value) : 0);
        store_abort(txn);
        (void)sched_yield();
    }
    return NULL;
}

static void
test_threads_write_one_after_the_other_and_look_at_any_time(void **state)
{
    (void)state;
    pthread_t all[4];
    n_wrong = 0;
    n_writing = 2;
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        assert_int_equal(pthread_create(&all[i], NULL, i < 2 ? write_often : look_often, NULL),
                         0);
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        assert_int_equal(pthread_join(all[i], NULL), 0);
    assert_int_equal(n_wrong, 0);
    struct store_txn *txn = NULL;
    uint64_t n = 0;
    assert_int_equal(store_read(s, &txn), 0);
    assert_int_equal(store_count(txn, ALPHA, &n), 0);
    store_abort(txn);
    assert_int_equal(n, 2 * WRITES_EACH * PER_WRITE);
}

static void *
try_to_write(void *arg)
{
    struct store_txn *txn = NULL;
    int r = store_try_begin(s, &txn);
    store_abort(txn);
    *(int *)arg = r;
    return NULL;
}

static int
tried_in_a_thread(void)
{
    pthread_t thread;
    int r = 1;
    assert_int_equal(pthread_create(&thread, NULL, try_to_write, &r), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    return r;
}

static void
test_who_only_tries_to_write_does_not_wait(void **state)
{
    (void)state;
    struct store_txn *txn = NULL;
    assert_int_equal(store_begin(s, &txn), 0);
    assert_int_equal(tried_in_a_thread(), -EBUSY);
    store_abort(txn);
    assert_int_equal(tried_in_a_thread(), 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_was_committed_is_there_after_opening_again),
        TEST(test_what_was_aborted_never_was),
        TEST(test_the_directory_is_private_and_new_ones_are_made),
        TEST(test_each_store_has_a_uuid_for_life),
        TEST(test_a_second_opening_is_refused),
        TEST(test_a_killed_owner_leaves_a_good_store),
        TEST(test_keys_have_their_bounds),
        TEST(test_deleting_clearing_counting),
        TEST(test_numbers_as_keys_keep_their_order),
        TEST(test_walks_start_where_they_should),
        TEST(test_a_walk_may_delete_what_it_stands_on),
        TEST(test_everything_may_be_deleted_by_a_walk),
        TEST(test_a_view_sees_one_moment),
        TEST(test_too_many_views_are_refused_and_come_back),
        TEST(test_a_view_costs_next_to_nothing),
        TEST(test_the_map_grows_with_the_records),
        TEST(test_a_transaction_that_is_too_big_fails_whole_and_alone),
        TEST(test_a_map_that_cannot_grow_ends_in_a_full_store),
        TEST(test_the_map_grows_for_who_looks_before_it_writes),
        TEST(test_closing_ends_views),
        TEST(test_older_schemas_are_brought_up_newer_ones_refused),
        TEST(test_a_new_table_comes_empty),
        TEST(test_a_file_that_is_no_store_is_an_error),
        TEST(test_every_write_that_fails_loses_only_its_own_commit),
        TEST(test_a_store_given_up_on_comes_back_when_its_views_are_closed),
        TEST(test_a_large_transaction_costs_no_memory_once_no_view_is_open),
        TEST(test_a_file_that_may_not_grow_is_a_full_disk),
        TEST(test_a_full_disk_is_an_error_and_no_more),
        TEST(test_threads_write_one_after_the_other_and_look_at_any_time),
        TEST(test_who_only_tries_to_write_does_not_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
