/*
 * The table of live sessions: which there are, when they end, and bringing
 * the times of last use back into the store without a write per request.
 */
#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "services/authd/authd.h"

#include "libcommon/banned.h"

enum {
    MINUTE_US = 60 * 1000000,
    /* Times of last use go to the store this often, and at an orderly stop. */
    FLUSH_US = MINUTE_US,
    /* The front door reports use in batches: an idle session gets this much more. */
    REPORT_LAG_US = 15 * 1000000,
};

static int64_t
clamp(int64_t v, int64_t min, int64_t max)
{
    return v < min ? min : v > max ? max : v;
}

int64_t
sessions_left_us(const struct authd *a, const struct live_session *s)
{
    int64_t now = mono_us(a);
    int64_t life = a->conf.timeout_min * MINUTE_US;
    if ((int64_t)s->record.life_us < life)
        life = (int64_t)s->record.life_us;
    int64_t left = s->began_mono_us + life - now;
    int64_t idle_left =
        s->last_mono_us + a->conf.idle_timeout_min * MINUTE_US + REPORT_LAG_US - now;
    return idle_left < left ? idle_left : left;
}

bool
sessions_is_live(const struct authd *a, const struct live_session *s)
{
    return sessions_left_us(a, s) > 0;
}

int64_t
sessions_token_left_us(const struct authd *a, const struct live_session *s,
                       const uint8_t hash[RECORD_TOKEN_HASH_SIZE], bool *ret_is_own)
{
    int64_t left = sessions_left_us(a, s);
    *ret_is_own = sodium_memcmp(hash, s->record.token_hash, RECORD_TOKEN_HASH_SIZE) == 0;
    if (*ret_is_own)
        return left;
    for (size_t i = 0; i < s->record.n_tokens; i++)
        if (sodium_memcmp(hash, s->record.tokens[i].hash, RECORD_TOKEN_HASH_SIZE) == 0) {
            int64_t token_left = s->token_end_mono_us[i] - mono_us(a);
            return token_left < left ? token_left : left;
        }
    return 0;
}

/* Index of the first session with an id >= 'id'. */
static size_t
lower_bound(const struct sessions *t, uint64_t id)
{
    size_t low = 0, high = t->n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (t->all[mid].record.id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

struct live_session *
sessions_find(struct authd *a, uint64_t id)
{
    size_t i = lower_bound(&a->sessions, id);
    return i < a->sessions.n && a->sessions.all[i].record.id == id ? &a->sessions.all[i] : NULL;
}

size_t
sessions_count(const struct authd *a, uint64_t user_id)
{
    size_t n = 0;
    for (size_t i = 0; i < a->sessions.n; i++) {
        const struct live_session *s = &a->sessions.all[i];
        n += (user_id == 0 || s->record.user_id == user_id) && sessions_is_live(a, s);
    }
    return n;
}

static void
arm_sweep(struct authd *a)
{
    int64_t left = INT64_MAX;
    for (size_t i = 0; i < a->sessions.n; i++) {
        int64_t l = sessions_left_us(a, &a->sessions.all[i]);
        left = l < left ? l : left;
    }
    if (left == INT64_MAX) {
        loop_timer_cancel(a->svc->loop, &a->sessions.sweep);
        return;
    }
    /* A moment later than due, so that one sweep is enough. */
    uint64_t at = loop_now_us(a->svc->loop) + (uint64_t)clamp(left, 0, INT64_MAX / 2) + 1000;
    if (loop_timer_set(a->svc->loop, &a->sessions.sweep, at) < 0)
        log_warn("authd: out of memory for a timer");
}

static void
drop_at(struct sessions *t, size_t i)
{
    memmove(&t->all[i], &t->all[i + 1], (t->n - i - 1) * sizeof(t->all[0]));
    t->n--;
    memset(&t->all[t->n], 0, sizeof(t->all[0])); /* the token's hash with it */
}

void
sessions_remove(struct authd *a, uint64_t id)
{
    struct live_session *s = sessions_find(a, id);
    if (s)
        drop_at(&a->sessions, (size_t)(s - a->sessions.all));
}

void
sessions_add(struct authd *a, const struct session_record *record)
{
    struct sessions *t = &a->sessions;
    MUST(t->n < SESSIONS_MAX); /* the sign-in counted them */
    size_t i = lower_bound(t, record->id);
    memmove(&t->all[i + 1], &t->all[i], (t->n - i) * sizeof(t->all[0]));
    t->n++;
    t->all[i] = (struct live_session){ .record = *record,
                                       .began_mono_us = mono_us(a),
                                       .last_mono_us = mono_us(a) };
    arm_sweep(a);
}

void
sessions_set_tokens(struct authd *a, const struct session_record *record, int64_t left_us)
{
    struct live_session *s = sessions_find(a, record->id);
    if (!s)
        return;
    /* Those that are kept move to the front, in order. */
    size_t kept = 0;
    for (size_t i = 0; i < s->record.n_tokens && kept < record->n_tokens; i++)
        if (memcmp(s->record.tokens[i].hash, record->tokens[kept].hash,
                   RECORD_TOKEN_HASH_SIZE) == 0)
            s->token_end_mono_us[kept++] = s->token_end_mono_us[i];
    MUST(kept + 1 == record->n_tokens);
    s->token_end_mono_us[kept] = mono_us(a) + left_us;
    memcpy(s->record.tokens, record->tokens, sizeof(s->record.tokens));
    s->record.n_tokens = record->n_tokens;
}

void
sessions_drop_tokens(struct authd *a, uint64_t id)
{
    struct live_session *s = sessions_find(a, id);
    if (!s)
        return;
    s->record.n_tokens = 0;
    memset(s->record.tokens, 0, sizeof(s->record.tokens));
}

void
sessions_touch(struct authd *a, struct live_session *s, int64_t ago_us)
{
    int64_t at = mono_us(a) - ago_us;
    if (at <= s->last_mono_us)
        return;
    s->last_mono_us = at;
    s->record.last_us = clock_wall_us() - ago_us;
    s->dirty = true;
    if (!loop_timer_is_set(&a->sessions.flush) &&
        loop_timer_set(a->svc->loop, &a->sessions.flush, loop_now_us(a->svc->loop) + FLUSH_US) <
            0)
        log_warn("authd: out of memory for a timer");
}

/* Brings times of last use into the store. */
static void
flush(void *arg)
{
    struct authd *a = arg;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    int r = store_begin(a->svc->store, &txn);
    bool any = false;
    for (size_t i = 0; i < a->sessions.n && r == 0; i++)
        if (a->sessions.all[i].dirty) {
            any = true;
            r = session_put(txn, &a->sessions.all[i].record);
        }
    if (r == 0 && any)
        r = store_commit(MOVE_PTR(txn));
    if (r < 0) {
        /* They stay dirty; the next use arms the timer again. */
        log_warn("authd: times of last use are not saved error=%s", strerror(-r));
        return;
    }
    for (size_t i = 0; i < a->sessions.n; i++)
        a->sessions.all[i].dirty = false;
}

/* Ends what is over. */
static void
sweep(void *arg)
{
    struct authd *a = arg;
    struct sessions *t = &a->sessions;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    uint64_t epoch = a->epoch;
    int r = store_begin(a->svc->store, &txn);
    if (r == 0)
        r = record_next(txn, "epoch", &epoch);
    size_t n = 0;
    for (size_t i = 0; i < t->n && r >= 0; i++)
        if (!sessions_is_live(a, &t->all[i])) {
            n++;
            r = session_delete(txn, t->all[i].record.id);
        }
    if (n > 0 && r >= 0)
        r = store_commit(MOVE_PTR(txn));
    if (r < 0)
        /* Over they are all the same; after a restart they are swept again. */
        log_warn("authd: ended sessions stay in the store error=%s", strerror(-r));
    else if (n > 0)
        a->epoch = epoch;
    uint64_t id = 0;
    n = 0;
    for (size_t i = 0; i < t->n;) {
        if (sessions_is_live(a, &t->all[i])) {
            i++;
            continue;
        }
        id = t->all[i].record.id;
        n++;
        drop_at(t, i);
        log_debug("authd: session ended by time session=%llu", (unsigned long long)id);
    }
    /* Nobody waits for it, and the front door asks again at the end we told it. */
    if (n > 0)
        link_forget_soon(a, n > 1 ? FORGET_ALL : FORGET_SESSION, (int64_t)id);
    arm_sweep(a);
}

int
sessions_load(struct authd *a)
{
    loop_timer_init(&a->sessions.sweep, sweep, a);
    loop_timer_init(&a->sessions.flush, flush, a);
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int r = store_read(a->svc->store, &txn);
    if (r == 0)
        r = store_iter_init(&it, txn, DB_SESSIONS, NULL, 0, false);
    if (r < 0)
        return r;
    int64_t wall = clock_wall_us(), mono = (int64_t)clock_mono_us();
    while ((r = store_iter_next(&it)) == STORE_OK) {
        if (a->sessions.n == SESSIONS_MAX)
            break;
        struct live_session *s = &a->sessions.all[a->sessions.n];
        r = session_decode(it.value, it.size, &s->record);
        if (r < 0)
            return r;
        /*
         * Only here the wall clock counts, for nothing else spans a restart.
         * Times from the future count as now; the last use may have been
         * FLUSH_US later than the store knows.
         */
        int64_t age = clamp(wall - s->record.created_us, 0, (int64_t)s->record.life_us);
        int64_t idle = clamp(wall - s->record.last_us - FLUSH_US, 0, age);
        s->began_mono_us = mono - age;
        s->last_mono_us = mono - idle;
        for (size_t t = 0; t < s->record.n_tokens; t++)
            s->token_end_mono_us[t] =
                mono + clamp(s->record.tokens[t].end_us - wall, 0, SESSION_TOKEN_LIFE_US);
        a->sessions.n++;
    }
    if (r < 0)
        return r;
    arm_sweep(a);
    return 0;
}

void
sessions_rearm(struct authd *a)
{
    arm_sweep(a);
}

void
sessions_close(struct authd *a)
{
    if (!a->svc)
        return;
    if (loop_timer_is_set(&a->sessions.flush))
        flush(a);
    loop_timer_cancel(a->svc->loop, &a->sessions.sweep);
    loop_timer_cancel(a->svc->loop, &a->sessions.flush);
}
