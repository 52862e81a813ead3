/*
 * Failed sign-ins and the locks they cause. Unknown names are counted like
 * known ones, so that a lock does not tell which names exist. While the
 * daemon runs, the monotonic clock counts; the store keeps wall-clock times,
 * since only they mean something after a restart.
 *
 * The table is bounded: when it is full, the entry of an unknown name that
 * failed longest ago makes room. Entries of accounts are never pushed out, so
 * a flood of invented names gives nobody more attempts at a real one.
 */
#include <errno.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "services/authd/authd.h"

#include "libcommon/banned.h"

enum { MINUTE_US = 60 * 1000000, TELL_US = MINUTE_US, VALUE_MAX = 8 * LOCK_FAILS_MAX + 16 };

static struct lock_entry *
find(const struct authd *a, const char *name)
{
    for (size_t i = 0; i < LOCK_ENTRIES_MAX; i++)
        if (str_eq(a->locks.all[i].name, name))
            return &a->locks.all[i];
    return NULL;
}

static bool
is_locked(const struct authd *a, const struct lock_entry *e)
{
    return a->lock_rule.enable && e->locked_until_mono_us > mono_us(a);
}

/* Forgets failures that are too old to count. */
static void
age(const struct authd *a, struct lock_entry *e)
{
    int64_t since = mono_us(a) - a->lock_rule.fail_window * MINUTE_US;
    uint8_t old = 0;
    while (old < e->n_fails && e->fail_mono_us[old] < since)
        old++;
    e->n_fails = (uint8_t)(e->n_fails - old);
    memmove(e->fail_mono_us, e->fail_mono_us + old, e->n_fails * sizeof(e->fail_mono_us[0]));
}

static int64_t
last_seen(const struct lock_entry *e)
{
    int64_t last = e->n_fails ? e->fail_mono_us[e->n_fails - 1] : INT64_MIN;
    return e->locked_until_mono_us > last ? e->locked_until_mono_us : last;
}

/* A free entry, made so if need be; '*ret_pushed_out' gets the name that had it, or "". */
static struct lock_entry *
take(struct authd *a, char ret_pushed_out[RECORD_NAME_SIZE])
{
    struct lock_entry *oldest = NULL;
    ret_pushed_out[0] = '\0';
    for (size_t i = 0; i < LOCK_ENTRIES_MAX; i++) {
        struct lock_entry *e = &a->locks.all[i];
        if (e->name[0] == '\0')
            return e;
        age(a, e);
        bool idle = e->n_fails == 0 && !is_locked(a, e);
        if (idle || (!e->is_account && (!oldest || last_seen(e) < last_seen(oldest))))
            oldest = e;
        if (idle)
            break;
    }
    /* At most USERS_MAX entries are of accounts, and there are 1,024 more. */
    if (!oldest)
        oldest = &a->locks.all[0];
    memcpy(ret_pushed_out, oldest->name, RECORD_NAME_SIZE);
    return oldest;
}

static int
store_entry(const struct authd *a, struct store_txn *txn, const struct lock_entry *e)
{
    int64_t wall = clock_wall_us(), now = mono_us(a);
    struct buf b;
    buf_init(&b, VALUE_MAX);
    buf_put_u8(&b, e->is_account);
    buf_put_u64(&b,
                e->locked_until_mono_us ? (uint64_t)(wall + e->locked_until_mono_us - now) : 0);
    buf_put_u8(&b, e->n_fails);
    for (size_t i = 0; i < e->n_fails; i++)
        buf_put_u64(&b, (uint64_t)(wall + e->fail_mono_us[i] - now));
    int r = b.err ? b.err : store_put(txn, DB_LOCKS, e->name, strlen(e->name), b.data, b.len);
    buf_done(&b);
    return r;
}

static int
load_entry(struct authd *a, struct lock_entry *e, const struct store_iter *it)
{
    struct rd r;
    rd_init(&r, it->value, it->size);
    if (str_copy_len(e->name, sizeof(e->name), it->key, it->key_size) < 0)
        return -EPROTO;
    int64_t wall = clock_wall_us(), mono = (int64_t)clock_mono_us();
    int64_t lock_max = a->lock_rule.lock_window * MINUTE_US;
    e->is_account = rd_u8(&r);
    int64_t until = (int64_t)rd_u64(&r);
    if (until) {
        /* However the clock was set meanwhile: no lock lasts longer than the rule says. */
        int64_t left = until - wall;
        e->locked_until_mono_us = mono + (left > lock_max ? lock_max : left);
    }
    e->n_fails = rd_u8(&r);
    if (e->n_fails > LOCK_FAILS_MAX)
        return -EPROTO;
    for (size_t i = 0; i < e->n_fails; i++) {
        int64_t ago = wall - (int64_t)rd_u64(&r);
        e->fail_mono_us[i] = mono - (ago < 0 ? 0 : ago);
    }
    return rd_ended(&r) ? 0 : -EPROTO;
}

int
locks_open(struct authd *a)
{
    a->locks.all = calloc(LOCK_ENTRIES_MAX, sizeof(a->locks.all[0]));
    if (!a->locks.all)
        return -ENOMEM;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int r = store_read(a->svc->store, &txn);
    if (r == 0)
        r = store_iter_init(&it, txn, DB_LOCKS, NULL, 0, false);
    for (size_t i = 0; r == 0 && (r = store_iter_next(&it)) == STORE_OK && i < LOCK_ENTRIES_MAX;
         i++)
        r = load_entry(a, &a->locks.all[i], &it);
    return r < 0 ? r : 0;
}

void
locks_close(struct authd *a)
{
    free(a->locks.all);
    a->locks.all = NULL;
}

bool
locks_is_locked(const struct authd *a, const char *name)
{
    const struct lock_entry *e = find(a, name);
    return e && is_locked(a, e);
}

unsigned
locks_fails(const struct authd *a, const char *name)
{
    struct lock_entry *e = find(a, name);
    if (!e || !a->lock_rule.enable)
        return 0;
    age(a, e);
    return e->n_fails;
}

int
locks_fail(struct authd *a, struct store_txn *txn, const char *name, bool is_account,
           bool *ret_locked)
{
    int r = 0;
    *ret_locked = false;
    if (!a->lock_rule.enable)
        return 0;
    struct lock_entry *e = find(a, name);
    if (!e) {
        char pushed_out[RECORD_NAME_SIZE];
        e = take(a, pushed_out);
        memset(e, 0, sizeof(*e));
        if (pushed_out[0] && txn)
            r = store_del(txn, DB_LOCKS, pushed_out, strlen(pushed_out));
        if (str_copy(e->name, sizeof(e->name), name) < 0)
            return -EINVAL;
    }
    e->is_account = is_account;
    age(a, e);
    if (e->n_fails == LOCK_FAILS_MAX) { /* the rule asked for more before */
        e->n_fails--;
        memmove(e->fail_mono_us, e->fail_mono_us + 1, e->n_fails * sizeof(e->fail_mono_us[0]));
    }
    e->fail_mono_us[e->n_fails++] = mono_us(a);
    if (e->n_fails >= a->lock_rule.fail_times) {
        e->n_fails = 0;
        e->locked_until_mono_us = mono_us(a) + a->lock_rule.lock_window * MINUTE_US;
        e->told_mono_us = mono_us(a);
        e->n_untold = 0;
        *ret_locked = true;
    }
    if (r < 0 || !txn)
        return r;
    return store_entry(a, txn, e);
}

int
locks_clear_stored(struct authd *a, struct store_txn *txn, const char *name)
{
    if (!find(a, name))
        return 0;
    int r = store_del(txn, DB_LOCKS, name, strlen(name));
    return r < 0 ? r : 0;
}

void
locks_clear(struct authd *a, const char *name)
{
    for (size_t i = 0; i < LOCK_ENTRIES_MAX; i++)
        if (!name || str_eq(a->locks.all[i].name, name))
            memset(&a->locks.all[i], 0, sizeof(a->locks.all[i]));
}

unsigned
locks_refused(struct authd *a, const char *name)
{
    struct lock_entry *e = find(a, name);
    if (!e)
        return 0;
    e->n_untold++;
    if (mono_us(a) - e->told_mono_us < TELL_US)
        return 0;
    unsigned n = e->n_untold;
    e->told_mono_us = mono_us(a);
    e->n_untold = 0;
    return n;
}
