/*
 * State that survives, on LMDB.
 *
 * Each environment belongs to one process, which holds a lock file beside it.
 * Table 0 is ours: the schema version and the store's uuid. The map begins
 * small and doubles between transactions; it is address space, not disk.
 * Reading transactions are kept and renewed, so that a view costs next to
 * nothing.
 */
#include "libcommon/store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <lmdb.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"

#include "libcommon/banned.h"

enum {
    FIRST_MAP_BYTES = 64 << 20,
    READERS_MAX = 32,
    MAP_RETRY_US = 60 * 1000 * 1000,
    UUID_SIZE = 16,
    BEGIN_TRIES = 2, /* an environment that was given up costs one */
    LARGE_BYTES = 4 << 20,
    CHANGE_BYTES = 64, /* what a change is taken to cost beside its own */
};

static const char META_TABLE[] = "_store";
static const char META_SCHEMA[] = "schema";
static const char META_UUID[] = "uuid";

/* A walk's cursor; on its transaction's list until one of both ends. */
struct walk {
    struct walk *next, **link;
    struct store_txn *txn;
    MDB_cursor *cursor;
    bool ended;
    bool reposition; /* the record under the cursor was deleted: seek 'key' again */
    size_t key_size;
    uint8_t key[STORE_KEY_MAX];
};

struct store_txn {
    struct store *store;
    MDB_txn *txn; /* a reading one in the pool: reset, to be renewed */
    bool writing;
    int err; /* the first failure of a write: commit refuses */
    uint64_t changed_bytes;
    struct walk *walks;
    struct store_txn *next; /* in the pool, or of those that are open */
};

struct store {
    char *dir;
    int lock_fd;
    char **names; /* of the tables */
    size_t n_dbs;
    MDB_env *env;
    MDB_dbi dbis[STORE_DB_MAX]; /* the caller's tables, then ours */
    uint8_t uuid[UUID_SIZE];

    pthread_mutex_t lock;   /* of what follows; never held while a transaction works */
    pthread_cond_t written; /* 'writing' ended */
    struct store_txn *pool;
    struct store_txn *reading; /* views that are open */
    bool writing;
    pthread_t writer_thread; /* while 'writing' */
    struct store_txn writer;
    size_t map_limit;      /* a map of this size was refused; 0: none was */
    uint64_t map_retry_us; /* when it is tried again */
    struct store_stats stats;

    /* Of any thread: a transaction that fails has LMDB's lock, which comes after ours. */
    atomic_bool grow;   /* a transaction found the map full */
    atomic_bool reopen; /* LMDB gave up on this opening of the environment */
    bool swollen;       /* a large transaction was committed */
};

/* ---- errors ---- */

/* LMDB's codes (positive errno or its own) as negative errno. */
static int
map_error(int code)
{
    switch (code) {
    case MDB_SUCCESS:
        return 0;
    case MDB_MAP_FULL:
    case ENOSPC:
    case EDQUOT:
    case EFBIG: /* a limit of file size: no room either */
        return -ENOSPC;
    case MDB_KEYEXIST:
        return -EEXIST;
    case MDB_BAD_VALSIZE:
        return -EINVAL;
    case MDB_TXN_FULL:
        return -E2BIG;
    case MDB_READERS_FULL:
        return -EMFILE;
    default:
        return code > 0 ? -code : -EIO;
    }
}

/* For failures inside a transaction: a failed write spoils it. */
static int
txn_error(struct store_txn *txn, int code)
{
    int r = map_error(code);
    if (r == 0)
        return 0;
    if (code == MDB_MAP_FULL)
        txn->store->grow = true;
    if (code == MDB_PANIC)
        txn->store->reopen = true;
    if (txn->writing && txn->err == 0 && code != MDB_KEYEXIST && code != MDB_BAD_VALSIZE)
        txn->err = r;
    return txn->err != 0 ? txn->err : r;
}

/* LMDB takes what it only reads without const. */
static MDB_val
val_of(const void *bytes, size_t size)
{
    MDB_val v = { .mv_size = size };
    memcpy(&v.mv_data, &bytes, sizeof(bytes));
    return v;
}

/* ---- the environment ---- */

static size_t
env_used_bytes(MDB_env *env)
{
    MDB_envinfo info;
    MDB_stat stat;
    (void)mdb_env_info(env, &info); /* neither fails with valid arguments */
    (void)mdb_env_stat(env, &stat);
    return (info.me_last_pgno + 1) * (size_t)stat.ms_psize;
}

static size_t
env_map_bytes(MDB_env *env)
{
    MDB_envinfo info;
    (void)mdb_env_info(env, &info);
    return info.me_mapsize;
}

/* Room for one more transaction of the greatest size. Only while none is open. */
static void
make_room(struct store *s)
{
    size_t used = env_used_bytes(s->env);
    size_t map = env_map_bytes(s->env);
    size_t want = map;

    if (s->grow)
        want *= 2;
    while (want < used || want - used < STORE_TXN_MAX)
        want *= 2;
    s->grow = false;
    if (want == map ||
        (s->map_limit != 0 && want >= s->map_limit && clock_mono_us() < s->map_retry_us))
        return;
    int code = mdb_env_set_mapsize(s->env, want);
    if (code == 0) {
        s->map_limit = 0;
        return;
    }
    log_debug("store: cannot grow the map bytes=%zu: %s", want, mdb_strerror(code));
    s->map_limit = want;
    s->map_retry_us = clock_mono_us() + MAP_RETRY_US;
    s->reopen = true; /* the old map is gone */
}

static int
env_open(struct store *s)
{
    MDB_env *env = NULL;
    int code = mdb_env_create(&env);
    if (code != 0)
        return map_error(code);
    code = mdb_env_set_mapsize(env, FIRST_MAP_BYTES);
    if (code == 0)
        code = mdb_env_set_maxreaders(env, READERS_MAX);
    if (code == 0)
        code = mdb_env_set_maxdbs(env, STORE_DB_MAX);
    if (code == 0)
        code = mdb_env_open(env, s->dir, MDB_NOTLS, 0600);
    if (code != 0) {
        mdb_env_close(env);
        return map_error(code);
    }
    int n_dead = 0;
    code = mdb_reader_check(env, &n_dead);
    if (code != 0 || n_dead > 0)
        log_debug("store: readers of a past life dir=%s n=%d code=%d", s->dir, n_dead, code);
    s->env = env;
    return 0;
}

static void
env_close(struct store *s)
{
    while (s->pool != NULL) {
        struct store_txn *txn = s->pool;
        s->pool = txn->next;
        mdb_txn_abort(txn->txn);
        free(txn);
    }
    if (s->env != NULL)
        mdb_env_close(s->env);
    s->env = NULL;
}

/* Opens the tables in 'txn' (makes them, when it writes). 0 or LMDB's code. */
static int
open_tables(struct store *s, MDB_txn *txn)
{
    for (size_t i = 0; i < s->n_dbs; i++) {
        int code = mdb_dbi_open(txn, s->names[i], MDB_CREATE, &s->dbis[i]);
        if (code != 0)
            return code;
    }
    return mdb_dbi_open(txn, META_TABLE, MDB_CREATE, &s->dbis[s->n_dbs]);
}

/*
 * A write of the meta page that failed makes LMDB refuse to go on with this
 * opening, whatever the reason was. A fresh one reads what the disk holds.
 */
static int
env_reopen(struct store *s)
{
    if (s->reading != NULL || s->writing)
        return -EIO; /* until the last transaction is closed */
    env_close(s);
    int r = env_open(s);
    if (r < 0)
        return r;
    MDB_txn *txn = NULL;
    int code = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn); /* the tables are there */
    if (code == 0) {
        code = open_tables(s, txn);
        if (code == 0)
            code = mdb_txn_commit(txn);
        else
            mdb_txn_abort(txn);
    }
    if (code != 0)
        return map_error(code);
    s->reopen = false;
    log_debug("store: opened again dir=%s", s->dir);
    return 0;
}

/* ---- opening ---- */

/* Makes the entries of a directory durable. */
static int
sync_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int r = fsync(fd) < 0 ? -errno : 0;
    (void)close(fd); /* nothing was written through it */
    return r;
}

static int
make_dir(const char *dir)
{
    if (mkdir(dir, 0700) < 0)
        return errno == EEXIST ? 0 : -errno;
    CLEANUP(freep) char *parent = NULL;
    if (asprintf(&parent, "%s/..", dir) < 0) {
        parent = NULL;
        return -ENOMEM;
    }
    return sync_dir(parent);
}

static int
lock_dir(struct store *s)
{
    CLEANUP(freep) char *path = NULL;
    if (asprintf(&path, "%s/lock.owner", s->dir) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->lock_fd < 0)
        return -errno;
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? -EBUSY : -errno;
    return 0;
}

static int
put_meta(struct store_txn *txn, const char *name, const void *value, size_t size)
{
    MDB_val k = val_of(name, strlen(name));
    MDB_val v = val_of(value, size);
    struct store *s = txn->store;
    return txn_error(txn, mdb_put(txn->txn, s->dbis[s->n_dbs], &k, &v, 0));
}

/* STORE_OK, STORE_NOT_FOUND, or -errno; a record of another size is -EIO. */
static int
get_meta(struct store_txn *txn, const char *name, void *out, size_t size)
{
    MDB_val k = val_of(name, strlen(name));
    MDB_val v;
    struct store *s = txn->store;
    int code = mdb_get(txn->txn, s->dbis[s->n_dbs], &k, &v);
    if (code == MDB_NOTFOUND)
        return STORE_NOT_FOUND;
    if (code != 0)
        return txn_error(txn, code);
    if (v.mv_size != size)
        return -EIO;
    memcpy(out, v.mv_data, size);
    return STORE_OK;
}

static int
put_schema(struct store_txn *txn, uint32_t schema)
{
    uint8_t bytes[4];
    put_u32(bytes, schema);
    return put_meta(txn, META_SCHEMA, bytes, sizeof(bytes));
}

/* A new store: its uuid and schema. */
static int
found_store(struct store_txn *txn, uint32_t schema)
{
    struct store *s = txn->store;
    if (getrandom(s->uuid, UUID_SIZE, 0) != UUID_SIZE)
        return -EIO;
    int r = put_meta(txn, META_UUID, s->uuid, UUID_SIZE);
    return r < 0 ? r : put_schema(txn, schema);
}

/* Checks the schema, brings an older one up step by step. */
static int
settle_schema(struct store_txn *txn, uint32_t schema, store_migrate_fn *migrate)
{
    uint8_t bytes[4] = { 0 };
    int r = get_meta(txn, META_UUID, txn->store->uuid, UUID_SIZE);
    if (r == STORE_NOT_FOUND)
        return found_store(txn, schema);
    if (r == STORE_OK)
        r = get_meta(txn, META_SCHEMA, bytes, sizeof(bytes));
    if (r != STORE_OK)
        return r < 0 ? r : -EIO;

    uint32_t from = get_u32(bytes);
    if (from == schema)
        return 0;
    if (from > schema || migrate == NULL)
        return -EPROTO;
    for (; from < schema; from++) {
        r = migrate(txn, from);
        if (r < 0)
            return r;
    }
    return put_schema(txn, schema);
}

/* The first transaction: tables, uuid, schema. Writes nothing when nothing is new. */
static int
settle(struct store *s, uint32_t schema, store_migrate_fn *migrate)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    MDB_envinfo info;

    int r = store_begin(s, &txn);
    if (r != 0)
        return r;
    (void)mdb_env_info(s->env, &info);
    bool is_new = info.me_last_txnid == 0;
    int code = open_tables(s, txn->txn);
    if (code != 0)
        return txn_error(txn, code);
    r = settle_schema(txn, schema, migrate);
    if (r < 0)
        return r;
    /* Handles of tables stay only when their transaction commits; unchanged, that is free. */
    r = store_commit(MOVE_PTR(txn));
    if (r == 0 && is_new)
        r = sync_dir(s->dir);
    return r;
}

int
store_open(const char *dir, const char *const *dbs, size_t n_dbs, uint32_t schema,
           store_migrate_fn *migrate, struct store **ret_store)
{
    MUST(n_dbs < STORE_DB_MAX);
    struct store *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return -ENOMEM;
    s->lock_fd = -1;
    s->n_dbs = n_dbs;
    pthread_mutex_init(&s->lock, NULL); /* neither fails with default attributes */
    pthread_cond_init(&s->written, NULL);
    s->dir = strdup(dir);
    s->names = calloc(n_dbs + 1, sizeof(*s->names));
    int r = s->dir == NULL || s->names == NULL ? -ENOMEM : 0;
    for (size_t i = 0; r == 0 && i < n_dbs; i++) {
        s->names[i] = strdup(dbs[i]);
        if (s->names[i] == NULL)
            r = -ENOMEM;
    }
    if (r == 0)
        r = make_dir(dir);
    if (r == 0)
        r = lock_dir(s);
    if (r == 0)
        r = env_open(s);
    if (r == 0)
        r = settle(s, schema, migrate);
    if (r < 0) {
        store_close(s);
        return r;
    }
    s->stats = (struct store_stats){ 0 }; /* counts what the daemon does */
    *ret_store = s;
    return 0;
}

void
store_close(struct store *s)
{
    if (s == NULL)
        return;
    MUST(!s->writing);
    while (s->reading != NULL) /* of calls that the end of the process cuts off */
        store_abort(s->reading);
    env_close(s);
    if (s->lock_fd >= 0)
        (void)close(s->lock_fd); /* gives up the lock */
    for (size_t i = 0; s->names != NULL && i < s->n_dbs; i++)
        free(s->names[i]);
    pthread_cond_destroy(&s->written);
    pthread_mutex_destroy(&s->lock);
    free(s->names);
    free(s->dir);
    free(s);
}

const uint8_t *
store_uuid(const struct store *s)
{
    return s->uuid;
}

/* ---- transactions ---- */

/* A view that is kept, or a new one; LMDB's code. */
static int
try_read(struct store *s, struct store_txn **ret_txn)
{
    struct store_txn *txn = s->pool;
    int code;

    if (txn != NULL) {
        s->pool = txn->next;
        code = mdb_txn_renew(txn->txn);
        if (code != 0)
            mdb_txn_abort(txn->txn);
    } else {
        txn = calloc(1, sizeof(*txn));
        if (txn == NULL)
            return ENOMEM;
        txn->store = s;
        code = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn->txn);
    }
    if (code != 0)
        free(txn);
    else
        *ret_txn = txn;
    return code;
}

static int
try_write(struct store *s)
{
    s->writer = (struct store_txn){ .store = s, .writing = true };
    return mdb_txn_begin(s->env, NULL, 0, &s->writer.txn);
}

/* Could the environment be opened, which works now, once it is closed? */
static bool
has_descriptors(const struct store *s)
{
    enum { NEEDED = 4 };
    int fds[NEEDED], n = 0;
    while (n < NEEDED && (fds[n] = fcntl(s->lock_fd, F_DUPFD_CLOEXEC, 0)) >= 0)
        n++;
    for (int i = 0; i < n; i++)
        (void)close(fds[i]); /* the lock stays with the descriptor that they are copies of */
    return n == NEEDED;
}

/*
 * With the lock held: opens the environment again where LMDB has given up on
 * it, and makes room. 0 or -errno.
 */
static int
prepare(struct store *s)
{
    enum {
        TRIES = 3
    }; /* a map that cannot grow costs one, an environment that was given up another */
    /* LMDB keeps the pages of its largest transaction until the environment is closed. */
    if (s->swollen && s->reading == NULL && !s->writing && has_descriptors(s)) {
        s->swollen = false;
        s->reopen = true;
    }
    for (int i = 0; i < TRIES; i++) {
        int r = s->reopen ? env_reopen(s) : 0;
        if (r < 0)
            return r;
        /* With a view, too: the write that follows it could not, while the view is open. */
        if (s->reading == NULL && !s->writing)
            make_room(s);
        if (!s->reopen)
            return 0;
    }
    return -EIO;
}

/* With the lock held. A view goes to *ret_txn. */
static int
begin_reading(struct store *s, struct store_txn **ret_txn)
{
    int code = MDB_PANIC;
    for (int i = 0; code == MDB_PANIC && i < BEGIN_TRIES; i++) {
        int r = prepare(s);
        if (r < 0)
            return r;
        code = try_read(s, ret_txn);
        if (code == MDB_PANIC)
            s->reopen = true;
    }
    return map_error(code);
}

/*
 * With the lock held, while nobody writes. 'writing' is claimed first: LMDB's
 * own lock is never waited for with ours, since who writes may need ours.
 */
static int
claim_writing(struct store *s)
{
    int code = MDB_PANIC;
    for (int i = 0; code == MDB_PANIC && i < BEGIN_TRIES; i++) {
        int r = prepare(s);
        if (r < 0)
            return r;
        s->writing = true;
        s->writer_thread = pthread_self();
        pthread_mutex_unlock(&s->lock);
        code = try_write(s);
        pthread_mutex_lock(&s->lock);
        if (code == MDB_PANIC)
            s->reopen = true;
        if (code != 0) {
            s->writing = false;
            pthread_cond_broadcast(&s->written);
        }
    }
    return map_error(code);
}

int
store_read(struct store *s, struct store_txn **ret_txn)
{
    struct store_txn *txn = NULL;
    pthread_mutex_lock(&s->lock);
    int r = begin_reading(s, &txn);
    if (r == 0) {
        MUST(txn != NULL); /* an analyzer cannot know that no fault is 0 in map_error */
        txn->next = s->reading;
        s->reading = txn;
        *ret_txn = txn;
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

static int
begin_writing(struct store *s, bool waits, struct store_txn **ret_txn)
{
    pthread_mutex_lock(&s->lock);
    while (s->writing && waits) {
        MUST(!pthread_equal(s->writer_thread, pthread_self()));
        pthread_cond_wait(&s->written, &s->lock);
    }
    int r = s->writing ? -EBUSY : claim_writing(s);
    if (r == 0)
        *ret_txn = &s->writer;
    pthread_mutex_unlock(&s->lock);
    return r;
}

int
store_begin(struct store *s, struct store_txn **ret_txn)
{
    return begin_writing(s, true, ret_txn);
}

int
store_try_begin(struct store *s, struct store_txn **ret_txn)
{
    return begin_writing(s, false, ret_txn);
}

bool
store_is_writing(struct store *s)
{
    pthread_mutex_lock(&s->lock);
    bool writing = s->writing;
    pthread_mutex_unlock(&s->lock);
    return writing;
}

/* The writing transaction is over; 'code' is what LMDB said of its commit. */
static void
end_writing(struct store *s, int code, bool committed, uint64_t took_us)
{
    pthread_mutex_lock(&s->lock);
    s->writing = false;
    if (code == MDB_MAP_FULL)
        s->grow = true;
    if (committed) {
        s->stats.commits++;
        s->stats.commit_us_sum += took_us;
        s->swollen |= s->writer.changed_bytes >= LARGE_BYTES;
    } else if (code != 0) {
        s->stats.failed_commits++;
    }
    pthread_cond_broadcast(&s->written);
    pthread_mutex_unlock(&s->lock);
}

static void
end_walks(struct store_txn *txn)
{
    while (txn->walks != NULL) {
        struct walk *w = txn->walks;
        txn->walks = w->next;
        mdb_cursor_close(w->cursor);
        free(w);
    }
}

/*
 * LMDB reports a write that was cut short as EIO. Whether the disk is full is
 * told by one more page at the end of the file, which is taken away again.
 */
static bool
disk_is_full(struct store *s)
{
    static const uint8_t page[4096];
    struct stat st;
    int fd = -1;

    if (mdb_env_get_fd(s->env, &fd) != 0 || fstat(fd, &st) < 0)
        return false;
    ssize_t n = pwrite(fd, page, sizeof(page), st.st_size);
    bool full = n < 0 ? map_error(errno) == -ENOSPC : n < (ssize_t)sizeof(page);
    if (n > 0 && ftruncate(fd, st.st_size) < 0)
        log_debug("store: cannot take back a page: %m"); /* what is left there does no harm */
    return full;
}

int
store_commit(struct store_txn *txn)
{
    struct store *s = txn->store;
    MUST(txn->writing);
    end_walks(txn);
    if (txn->err != 0) {
        int r = txn->err;
        mdb_txn_abort(txn->txn);
        end_writing(s, -r, false, 0);
        return r;
    }

    uint64_t start_us = clock_mono_us();
    int code = mdb_txn_commit(txn->txn);
    uint64_t took_us = clock_mono_us() - start_us;
    int error = code == EIO && disk_is_full(s) ? ENOSPC : code;
    end_writing(s, code, code == 0, took_us);
    return map_error(error);
}

void
store_abort(struct store_txn *txn)
{
    if (txn == NULL)
        return;
    struct store *s = txn->store;
    end_walks(txn);
    if (txn->writing) {
        mdb_txn_abort(txn->txn);
        end_writing(s, 0, false, 0);
        return;
    }
    mdb_txn_reset(txn->txn);
    pthread_mutex_lock(&s->lock);
    struct store_txn **at = &s->reading;
    while (*at != txn)
        at = &(*at)->next;
    *at = txn->next;
    txn->next = s->pool;
    s->pool = txn;
    pthread_mutex_unlock(&s->lock);
}

void
store_abortp(struct store_txn **txn)
{
    store_abort(*txn);
}

/* ---- records ---- */

static MDB_dbi
table(const struct store_txn *txn, unsigned db)
{
    MUST(db < txn->store->n_dbs);
    return txn->store->dbis[db];
}

static bool
key_fits(size_t key_size)
{
    return key_size >= 1 && key_size <= STORE_KEY_MAX;
}

int
store_get(struct store_txn *txn, unsigned db, const void *key, size_t key_size,
          const void **ret_value, size_t *ret_size)
{
    if (!key_fits(key_size))
        return -EINVAL;
    MDB_val k = val_of(key, key_size);
    MDB_val v;
    int code = mdb_get(txn->txn, table(txn, db), &k, &v);
    if (code == MDB_NOTFOUND)
        return STORE_NOT_FOUND;
    if (code != 0)
        return txn_error(txn, code);
    *ret_value = v.mv_data;
    *ret_size = v.mv_size;
    return STORE_OK;
}

static int
put(struct store_txn *txn, unsigned db, const void *key, size_t key_size, const void *value,
    size_t size, unsigned flags)
{
    MUST(txn->writing);
    if (!key_fits(key_size))
        return -EINVAL;
    txn->changed_bytes += key_size + size + CHANGE_BYTES;
    MDB_val k = val_of(key, key_size);
    MDB_val v = val_of(value, size);
    return txn_error(txn, mdb_put(txn->txn, table(txn, db), &k, &v, flags));
}

int
store_put(struct store_txn *txn, unsigned db, const void *key, size_t key_size,
          const void *value, size_t size)
{
    return put(txn, db, key, key_size, value, size, 0);
}

int
store_append(struct store_txn *txn, unsigned db, const void *key, size_t key_size,
             const void *value, size_t size)
{
    return put(txn, db, key, key_size, value, size, MDB_APPEND);
}

int
store_del(struct store_txn *txn, unsigned db, const void *key, size_t key_size)
{
    MUST(txn->writing);
    if (!key_fits(key_size))
        return -EINVAL;
    txn->changed_bytes += CHANGE_BYTES;
    MDB_val k = val_of(key, key_size);
    int code = mdb_del(txn->txn, table(txn, db), &k, NULL);
    return code == MDB_NOTFOUND ? STORE_NOT_FOUND : txn_error(txn, code);
}

int
store_clear(struct store_txn *txn, unsigned db)
{
    MUST(txn->writing);
    return txn_error(txn, mdb_drop(txn->txn, table(txn, db), 0));
}

int
store_count(struct store_txn *txn, unsigned db, uint64_t *ret_n)
{
    MDB_stat stat;
    int code = mdb_stat(txn->txn, table(txn, db), &stat);
    if (code != 0)
        return txn_error(txn, code);
    *ret_n = stat.ms_entries;
    return 0;
}

int
store_bytes(struct store_txn *txn, unsigned db, uint64_t *ret_bytes)
{
    MDB_stat stat;
    int code = mdb_stat(txn->txn, table(txn, db), &stat);
    if (code != 0)
        return txn_error(txn, code);
    *ret_bytes = (uint64_t)stat.ms_psize *
                 (stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages);
    return 0;
}

/* ---- walks ---- */

int
store_iter_init(struct store_iter *it, struct store_txn *txn, unsigned db, const void *from,
                size_t from_size, bool backwards)
{
    *it = (struct store_iter){ .backwards = backwards };
    if (from != NULL && !key_fits(from_size))
        return -EINVAL;
    struct walk *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return -ENOMEM;
    int code = mdb_cursor_open(txn->txn, table(txn, db), &w->cursor);
    if (code != 0) {
        free(w);
        return txn_error(txn, code);
    }
    if (from != NULL) {
        memcpy(w->key, from, from_size);
        w->key_size = from_size;
    }
    w->txn = txn;
    w->next = txn->walks;
    w->link = &txn->walks;
    if (w->next != NULL)
        w->next->link = &w->next;
    txn->walks = w;
    it->cursor = w;
    return 0;
}

/* To the first key >= w->key, or backwards to the last one <= it. */
static int
walk_seek(struct walk *w, bool backwards, MDB_val *k, MDB_val *v)
{
    *k = (MDB_val){ .mv_size = w->key_size, .mv_data = w->key };
    int code = mdb_cursor_get(w->cursor, k, v, MDB_SET_RANGE);
    if (!backwards)
        return code;
    if (code == MDB_NOTFOUND)
        return mdb_cursor_get(w->cursor, k, v, MDB_LAST);
    if (code == 0 &&
        (k->mv_size != w->key_size || memcmp(k->mv_data, w->key, w->key_size) != 0))
        return mdb_cursor_get(w->cursor, k, v, MDB_PREV);
    return code;
}

int
store_iter_next(struct store_iter *it)
{
    struct walk *w = it->cursor;
    MDB_val k, v;
    int code;

    if (w->ended)
        return STORE_NOT_FOUND;
    if (w->reposition || (!it->started && w->key_size > 0))
        code = walk_seek(w, it->backwards, &k, &v);
    else if (it->started)
        code = mdb_cursor_get(w->cursor, &k, &v, it->backwards ? MDB_PREV : MDB_NEXT);
    else
        code = mdb_cursor_get(w->cursor, &k, &v, it->backwards ? MDB_LAST : MDB_FIRST);
    w->reposition = false;
    it->started = true;
    if (code == MDB_NOTFOUND) {
        w->ended = true;
        return STORE_NOT_FOUND;
    }
    if (code != 0)
        return txn_error(w->txn, code);
    it->key = k.mv_data;
    it->key_size = k.mv_size;
    it->value = v.mv_data;
    it->size = v.mv_size;
    return STORE_OK;
}

int
store_iter_del(struct store_iter *it)
{
    struct walk *w = it->cursor;
    MUST(w->txn->writing && it->started && !w->ended && !w->reposition);
    /* Where the cursor stands after a deletion depends on how pages merged: seek instead. */
    memcpy(w->key, it->key, it->key_size);
    w->key_size = it->key_size;
    w->txn->changed_bytes += CHANGE_BYTES;
    int code = mdb_cursor_del(w->cursor, 0);
    if (code != 0)
        return txn_error(w->txn, code);
    w->reposition = true;
    it->key = NULL;
    return 0;
}

void
store_iter_done(struct store_iter *it)
{
    struct walk *w = it->cursor;
    if (w == NULL)
        return;
    it->cursor = NULL;
    mdb_cursor_close(w->cursor);
    *w->link = w->next;
    if (w->next != NULL)
        w->next->link = w->link;
    free(w);
}

/* ---- statistics ---- */

void
store_get_stats(struct store *s, struct store_stats *ret_stats)
{
    pthread_mutex_lock(&s->lock);
    *ret_stats = s->stats;
    if (!s->reopen)
        ret_stats->used_bytes = env_used_bytes(s->env);
    pthread_mutex_unlock(&s->lock);
}
