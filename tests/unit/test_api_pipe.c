/*
 * Pipes with a bus of the test's own: what the writer's thread writes comes
 * out of the FIFO in blocks, only a good end has the empty block, and however
 * it ends, 'done' runs once and nothing stays in the spool.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libcommon/api.h"
#include "libcommon/audit.h"
#include "libcommon/buf.h"
#include "libcommon/clock.h"
#include "libcommon/metrics.h"
#include "libcommon/str.h"
#include "libcommon/svc.h"

enum { DB_OUTBOX, N_DBS };
enum { READ = 11, CHANGE };
enum { LARGE = 3 << 20, WAIT_US = 20 * 1000 * 1000 };

static const char *const dbs[N_DBS] = { "outbox" };
static const struct svc_info info = {
    .name = "testd", .dbs = dbs, .n_dbs = N_DBS, .schema = 1
};
static char dir[] = "/tmp/test_api_pipe.XXXXXX", spool[64];
static struct svc svc = { .info = &info, .spool_dir = spool };

/* ---- the bus ---- */

struct bus_incoming {
    struct bus_request request;
    uint16_t status;
    uint8_t body_kind;
    char path[160], type[32], offered[32];
};

int
bus_peer(struct bus *bus, const char *name, struct bus_peer **ret_peer)
{
    static char peer;
    (void)bus;
    (void)name;
    *ret_peer = (struct bus_peer *)(void *)&peer;
    return 0;
}

int
bus_peer_watch(struct bus_peer *peer, bus_peer_fn *fn, void *arg)
{
    (void)peer;
    (void)fn;
    (void)arg;
    return 0;
}

int
bus_call(struct bus_peer *peer, const struct bus_request *request, bus_reply_fn *fn, void *arg)
{
    (void)peer;
    (void)request;
    (void)fn;
    (void)arg;
    return -EHOSTUNREACH;
}

const struct bus_request *
bus_incoming_request(const struct bus_incoming *in)
{
    return &in->request;
}

void
bus_answer(struct bus_incoming *in, const struct bus_reply *reply)
{
    in->status = reply->status;
    in->body_kind = reply->body_kind;
    if (reply->body_kind == BUS_BODY_PIPE)
        (void)snprintf(in->path, sizeof(in->path), "%s/%.*s", spool, (int)reply->body.len,
                       reply->body.p);
    (void)str_copy_len(in->type, sizeof(in->type), reply->content_type.p,
                       reply->content_type.len);
    (void)str_copy_len(in->offered, sizeof(in->offered), reply->file_name.p,
                       reply->file_name.len);
}

static bool disk_is_full;
int __real_store_commit(struct store_txn *txn);
int __wrap_store_commit(struct store_txn *txn);

int
__wrap_store_commit(struct store_txn *txn)
{
    if (!disk_is_full)
        return __real_store_commit(txn);
    store_abort(txn);
    return -ENOSPC;
}

void __wrap_metric_register(struct metric_counter *m);
void __wrap_metric_histogram_register(struct metric_histogram *h);

void
__wrap_metric_register(struct metric_counter *m)
{
    (void)m;
}

void
__wrap_metric_histogram_register(struct metric_histogram *h)
{
    (void)h;
}

/* ---- the daemon ---- */

static api_pipe_fn *writer;
static _Atomic int n_begun, written; /* writers begun; what the last one was told */
static unsigned n_done, n_on_loop;

static void
done(void *arg)
{
    assert_ptr_equal(arg, &n_done);
    n_done++;
}

static enum api_status
answer_by_pipe(void *self, struct api_call *call)
{
    (void)self;
    return api_reply_pipe(call, "application/tar+gz", "a.tar.gz", writer, done, &n_done);
}

#define OP                                                                                     \
    .method = "GET", .path = "/", .fn = answer_by_pipe, .success = 200,                        \
    .permission = API_PERMISSION_OPEN, .reply_kind = API_REPLY_OWN
static const struct api_op ops[] = {
    { OP, .id = READ, .name = "read" },
    { OP, .id = CHANGE, .name = "change", .audit = API_AUDIT_CHANGE, .event = "e",
      .summary = "s" },
};

static int
set_up(void **state)
{
    (void)state;
    (void)signal(SIGPIPE, SIG_IGN); /* as svc_main does */
    (void)snprintf(dir, sizeof(dir), "/tmp/test_api_pipe.XXXXXX");
    assert_non_null(mkdtemp(dir));
    (void)snprintf(spool, sizeof(spool), "%s/spool", dir);
    assert_int_equal(mkdir(spool, 0700), 0);
    disk_is_full = false;
    n_done = n_on_loop = 0;
    n_begun = written = 0;
    assert_int_equal(loop_new(&svc.loop), 0);
    assert_int_equal(store_open(dir, dbs, N_DBS, 1, NULL, &svc.store), 0);
    assert_int_equal(audit_open(&svc, DB_OUTBOX, &svc.outbox), 0);
    assert_int_equal(api_server_new(&svc, ops, ARRAY_LEN(ops), &svc.api), 0);
    return 0;
}

static unsigned
n_spooled(void)
{
    unsigned n = 0;
    DIR *d = opendir(spool);
    assert_non_null(d);
    const struct dirent *e;
    while ((e = readdir(d)) != NULL)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static int
tear_down(void **state)
{
    (void)state;
    api_server_free(svc.api);
    audit_close(svc.outbox);
    store_close(svc.store);
    loop_free(svc.loop);
    assert_int_equal(n_spooled(), 0);
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command);
}

static struct bus_incoming
ask(uint32_t op, api_pipe_fn *fn)
{
    struct bus_incoming in = { .request = { .kind = BUS_KIND_API,
                                            .op = op,
                                            .id = 7,
                                            .deadline_us = clock_mono_us() + WAIT_US } };
    writer = fn;
    api_serve(svc.api, &in);
    return in;
}

/* Lets the loop live until 'n' pipes have ended. */
static void
wait_done(unsigned n)
{
    uint64_t until_us = clock_mono_us() + WAIT_US;
    while (n_done < n && clock_mono_us() < until_us)
        assert_int_equal(loop_round(svc.loop, 10000), 0);
    assert_int_equal(n_done, n);
}

/* The gateway's end. */
static int
open_reader(const struct bus_incoming *in)
{
    assert_int_equal(in->status, 200);
    assert_int_equal(in->body_kind, BUS_BODY_PIPE);
    int fd = open(in->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* All that comes, while the loop lives, too. */
static void
read_all(int fd, struct buf *b)
{
    ssize_t n = 1;
    buf_init(b, 16 << 20);
    while (n > 0) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        assert_int_equal(loop_round(svc.loop, 0), 0);
        n = poll(&p, 1, 10) > 0 ? read(fd, buf_reserve(b, 65536), 65536) : 1;
        if (p.revents != 0 && n > 0)
            b->len += (size_t)n;
    }
    assert_int_equal(n, 0);
    close(fd);
}

/* Takes the blocks out of 'b'; whether the empty one came last. */
static bool
take_blocks(struct buf *b, size_t *ret_n)
{
    size_t n = 0, at = 0;
    while (at + 4 <= b->len) {
        uint32_t len = get_u32((const uint8_t *)b->data + at);
        at += 4;
        if (len == 0) {
            assert_int_equal(at, b->len);
            *ret_n = n;
            return true;
        }
        size_t have = b->len - at < len ? b->len - at : len;
        for (size_t i = 0; i < have; i++) /* the writer's bytes count up */
            assert_int_equal((uint8_t)b->data[at + i], (uint8_t)((n + i) % 251));
        n += have;
        at += len;
    }
    *ret_n = n;
    return false;
}

/* ---- writers ---- */

static int
write_counting(struct api_pipe *p, size_t n)
{
    uint8_t piece[1000];
    int r = 0;
    for (size_t at = 0; at < n && r == 0;) {
        size_t part = n - at < sizeof(piece) ? n - at : sizeof(piece);
        for (size_t i = 0; i < part; i++)
            piece[i] = (uint8_t)((at + i) % 251);
        r = api_pipe_write(p, piece, part);
        at += part;
    }
    return r;
}

static int
write_nothing(struct api_pipe *p, void *arg)
{
    (void)p;
    (void)arg;
    n_begun++;
    return 0;
}

static int
write_large(struct api_pipe *p, void *arg)
{
    (void)arg;
    n_begun++;
    int r = write_counting(p, LARGE);
    written = r;
    return r;
}

static int
write_some_and_fail(struct api_pipe *p, void *arg)
{
    (void)arg;
    n_begun++;
    int r = write_counting(p, 100000);
    return r < 0 ? r : -EIO;
}

static void
count_on_loop(void *arg)
{
    n_on_loop += *(unsigned *)arg;
}

static int
write_with_the_loop(struct api_pipe *p, void *arg)
{
    unsigned two = 2;
    (void)arg;
    n_begun++;
    int r = 0;
    for (int i = 0; i < 100 && r == 0; i++)
        r = api_pipe_on_loop(p, count_on_loop, &two);
    written = r;
    return r;
}

/* ---- tests ---- */

static void
test_all_that_is_written_comes_out_and_the_empty_block_ends_it(void **state)
{
    (void)state;
    static api_pipe_fn *const writers[] = { write_nothing, write_large };
    for (unsigned i = 0; i < ARRAY_LEN(writers); i++) {
        struct bus_incoming in = ask(READ, writers[i]);
        struct buf b;
        size_t n;
        assert_string_equal(in.type, "application/tar+gz");
        assert_string_equal(in.offered, "a.tar.gz");
        read_all(open_reader(&in), &b);
        assert_true(take_blocks(&b, &n));
        assert_int_equal(n, i == 0 ? 0 : LARGE);
        buf_done(&b);
        wait_done(i + 1);
        assert_int_equal(n_spooled(), 0);
    }
}

static void
test_a_writer_that_fails_leaves_no_empty_block(void **state)
{
    (void)state;
    struct bus_incoming in = ask(READ, write_some_and_fail);
    struct buf b;
    size_t n;
    read_all(open_reader(&in), &b);
    assert_false(take_blocks(&b, &n));
    assert_true(n <= 100000);
    buf_done(&b);
    wait_done(1);
}

static void
test_a_writer_learns_that_its_reader_left(void **state)
{
    (void)state;
    struct bus_incoming in = ask(READ, write_large);
    char bytes[100];
    int fd = open_reader(&in);
    struct pollfd p = { .fd = fd, .events = POLLIN };
    assert_int_equal(poll(&p, 1, 20000), 1);
    assert_int_equal(read(fd, bytes, sizeof(bytes)), sizeof(bytes));
    close(fd);
    wait_done(1);
    assert_int_equal(written, -EPIPE);
}

static void
test_a_writer_is_not_begun_when_the_name_is_taken_away(void **state)
{
    (void)state;
    struct bus_incoming in = ask(READ, write_large);
    assert_int_equal(n_spooled(), 1);
    assert_int_equal(unlink(in.path), 0);
    wait_done(1);
    assert_int_equal(n_begun, 0);
}

static void
test_a_call_that_is_refused_takes_its_pipe_back(void **state)
{
    (void)state;
    disk_is_full = true;
    struct bus_incoming in = ask(CHANGE, write_large);
    assert_int_equal(in.status, API_NO_SPACE);
    assert_int_equal(in.body_kind, BUS_BODY_JSON);
    wait_done(1);
    assert_int_equal(n_begun, 0);
    assert_int_equal(n_spooled(), 0);
}

static void
test_too_many_at_once_are_refused_and_an_end_makes_room(void **state)
{
    (void)state;
    struct bus_incoming all[4];
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        all[i] = ask(READ, write_nothing);
        assert_int_equal(all[i].status, 200);
    }
    struct bus_incoming more = ask(READ, write_nothing);
    assert_int_equal(more.status, API_UNAVAILABLE);
    assert_int_equal(n_done, 1);
    struct buf b;
    read_all(open_reader(&all[2]), &b);
    buf_done(&b);
    wait_done(2);
    more = ask(READ, write_nothing);
    assert_int_equal(more.status, 200);
    api_server_stop(svc.api); /* which ends those that nobody came for */
    assert_int_equal(n_done, 6);
    assert_int_equal(n_begun, 1);
}

static void
test_a_writer_borrows_the_loop(void **state)
{
    (void)state;
    struct bus_incoming in = ask(READ, write_with_the_loop);
    struct buf b;
    size_t n;
    read_all(open_reader(&in), &b);
    assert_true(take_blocks(&b, &n));
    buf_done(&b);
    wait_done(1);
    assert_int_equal(n_on_loop, 200);
}

/* Its FIFO full, or the loop no longer there for it. */
static void
test_stopping_ends_writers_at_once(void **state)
{
    (void)state;
    static api_pipe_fn *const writers[] = { write_large, write_with_the_loop };
    for (unsigned i = 0; i < ARRAY_LEN(writers); i++) {
        struct bus_incoming in = ask(READ, writers[i]);
        int fd = open_reader(&in);
        while ((unsigned)n_begun < i + 1)
            (void)poll(NULL, 0, 1);
        (void)poll(NULL, 0, 20); /* mostly enough for it to wait; it ends as well when not */
        uint64_t began_us = clock_mono_us();
        api_server_stop(svc.api);
        assert_true(clock_mono_us() - began_us < WAIT_US / 10);
        assert_int_equal(n_done, i + 1);
        assert_int_equal(written, -ECANCELED);
        close(fd);
    }
    assert_int_equal(n_on_loop, 0);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(test_all_that_is_written_comes_out_and_the_empty_block_ends_it),
        T(test_a_writer_that_fails_leaves_no_empty_block),
        T(test_a_writer_learns_that_its_reader_left),
        T(test_a_writer_is_not_begun_when_the_name_is_taken_away),
        T(test_a_call_that_is_refused_takes_its_pipe_back),
        T(test_too_many_at_once_are_refused_and_an_end_makes_room),
        T(test_a_writer_borrows_the_loop),
        T(test_stopping_ends_writers_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
