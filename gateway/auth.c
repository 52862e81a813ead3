/*
 * Tokens, with authd's help. See auth.h; the payloads are in proto/README.md
 * section 4.
 */
#include "gateway/auth.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libcommon/api.h"
#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/loop.h"
#include "libcommon/str.h"
#include "libcommon/svc.h"
#include "proto/internal.h"

#include "libcommon/banned.h"

enum { HELD_MAX = 16 };

struct auth {
    struct svc *svc;
    struct bus_peer *authd;
    struct auth_cache *cache;
    /* turns at authd */
    pthread_mutex_t lock;
    pthread_cond_t turn_free;
    unsigned n_checking, n_waiting;
    /* what an authd that we cannot ask yet wants forgotten, in order; loop thread */
    struct bus_incoming *held[HELD_MAX];
    size_t n_held;
    struct loop_timer held_timer;
    /* report of used sessions; loop thread */
    struct loop_timer touch_timer;
    bool touch_under_way;
    struct auth_touch touched[AUTH_TOUCH_MAX];
};

int
auth_new(struct svc *svc, struct auth **ret_auth)
{
    struct auth *a = calloc(1, sizeof(*a));
    if (a == NULL)
        return -ENOMEM;
    a->svc = svc;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->turn_free, &attr);
    pthread_condattr_destroy(&attr);
    int r = auth_cache_new(&a->cache);
    if (r == 0)
        r = bus_peer(svc->bus, "authd", &a->authd);
    if (r < 0) {
        auth_cache_free(a->cache);
        free(a);
        return r;
    }
    *ret_auth = a;
    return 0;
}

/* ---- turns: a flood of unknown tokens must not occupy authd ---- */

static bool
take_turn(struct auth *a, uint64_t deadline_us)
{
    struct timespec until = { .tv_sec = (time_t)(deadline_us / 1000000),
                              .tv_nsec = (long)(deadline_us % 1000000) * 1000 };
    bool ok = true;
    pthread_mutex_lock(&a->lock);
    if (a->n_checking >= AUTH_CHECKS_MAX && a->n_waiting >= AUTH_WAITERS_MAX)
        ok = false;
    a->n_waiting++;
    while (ok && a->n_checking >= AUTH_CHECKS_MAX)
        ok = pthread_cond_timedwait(&a->turn_free, &a->lock, &until) == 0;
    a->n_waiting--;
    if (ok)
        a->n_checking++;
    pthread_mutex_unlock(&a->lock);
    return ok;
}

static void
give_turn(struct auth *a)
{
    pthread_mutex_lock(&a->lock);
    a->n_checking--;
    pthread_cond_signal(&a->turn_free);
    pthread_mutex_unlock(&a->lock);
}

/* ---- asking authd ---- */

/* 0 or -EBADMSG. */
static int
read_grant(const struct cJSON *tree, uint64_t now_us, struct auth_grant *ret_grant)
{
    struct auth_grant g = { 0 };
    const char *kind = json_text(json_get(tree, "kind"));
    const char *permissions = json_text(json_get(tree, "permissions"));
    const char *name = json_text(json_get(tree, "name"));
    const struct cJSON *session = json_get(tree, "sessionId");
    int64_t valid_until_us = 0;
    if (kind == NULL || permissions == NULL || name == NULL ||
        json_i64(json_get(tree, "userId"), &g.who.user_id) < 0 ||
        (session != NULL && json_i64(session, &g.who.session_id) < 0) ||
        json_i64(json_get(tree, "validUntil"), &valid_until_us) < 0 ||
        parse_u64(permissions, 0, UINT64_MAX, &g.who.permissions) < 0 ||
        str_copy(g.who.name, sizeof(g.who.name), name) < 0)
        return -EBADMSG;
    if (str_eq(kind, "user"))
        g.who.kind = BUS_WHO_USER;
    else if (str_eq(kind, "service"))
        g.who.kind = BUS_WHO_SERVICE;
    else
        return -EBADMSG;
    g.must_change = cJSON_IsTrue(json_get(tree, "mustChange"));
    g.is_derived = cJSON_IsTrue(json_get(tree, "derived"));
    /* From here on by the clock that nobody sets. */
    int64_t left_us = valid_until_us - clock_wall_us();
    g.valid_until_us = left_us > 0 ? now_us + (uint64_t)left_us : now_us;
    *ret_grant = g;
    return 0;
}

/*
 * One AUTH_CHECK. 0: *ret_known tells whether the token is good (then
 * *ret_grant is filled). -errno: no usable answer.
 */
static int
ask(struct auth *a, const char *token, size_t token_len, uint64_t deadline_us, bool *ret_known,
    uint64_t *ret_epoch, struct auth_grant *ret_grant)
{
    struct buf body;
    buf_init(&body, AUTH_TOKEN_MAX + 256);
    jw_open(&body, '{');
    jw_name(&body, "token");
    jw_strn(&body, token, token_len);
    jw_close(&body, '}');
    if (body.err != 0) {
        buf_done(&body);
        return body.err;
    }
    struct bus_request request = {
        .kind = BUS_KIND_INTERNAL,
        .op = INTERNAL_AUTH_CHECK,
        .deadline_us = deadline_us,
        .who = { .kind = BUS_WHO_DAEMON, .name = "gateway" },
        .body_kind = BUS_BODY_JSON,
        .body = { .p = body.data, .len = (uint32_t)body.len },
    };
    struct bus_answer answer;
    int r = bus_ask(a->authd, &request, false, &answer);
    explicit_bzero(body.data, body.len);
    buf_done(&body);
    if (r < 0)
        return r;

    CLEANUP(json_freep) struct cJSON *tree = NULL;
    struct json_error fault;
    unsigned status = answer.reply.status;
    if (status != 200 && status != 401) {
        bus_answer_done(&answer);
        return -EAGAIN; /* it cannot tell now */
    }
    r = json_parse(answer.reply.body.p, answer.reply.body.len, &tree, &fault);
    if (r == 0 && json_u64(json_get(tree, "epoch"), ret_epoch) < 0)
        r = -EBADMSG;
    if (r == 0 && status == 200)
        r = read_grant(tree, clock_mono_us(), ret_grant);
    bus_answer_done(&answer);
    if (r == -EBADMSG || r == -EINVAL)
        log_err("auth: authd's answer cannot be used status=%u", status);
    *ret_known = status == 200;
    return r;
}

/* Asks until the answer is not older than the last change of rights. */
static enum auth_outcome
check_at_authd(struct auth *a, const uint8_t *digest, const char *token, size_t token_len,
               unsigned timeout_ms, struct auth_grant *ret_grant)
{
    for (int tries = 0; tries < 5; tries++) {
        uint64_t mark = auth_cache_mark(a->cache);
        uint64_t epoch = 0;
        bool known = false;
        int r = ask(a, token, token_len, clock_mono_us() + timeout_ms * 1000ull, &known, &epoch,
                    ret_grant);
        if (r < 0)
            return AUTH_AWAY;
        uint64_t now_us = clock_mono_us();
        if (known && auth_cache_put(a->cache, digest, ret_grant, epoch, mark, now_us))
            return AUTH_OK;
        if (!known && auth_cache_refuse(a->cache, digest, epoch, mark, now_us))
            return AUTH_REFUSED;
    }
    return AUTH_BUSY; /* rights changed again and again */
}

static bool
is_token_text(const char *token, size_t len)
{
    if (len == 0 || len > AUTH_TOKEN_MAX)
        return false;
    for (size_t i = 0; i < len; i++)
        if (token[i] <= 0x20 || token[i] >= 0x7f)
            return false;
    return true;
}

static enum auth_outcome
check_unknown(struct auth *a, const uint8_t *digest, const char *token, size_t token_len,
              struct auth_grant *ret_grant)
{
    if (!bus_peer_is_up(a->authd))
        return AUTH_AWAY;
    if (!take_turn(a, clock_mono_us() + AUTH_CHECK_TIMEOUT_MS * 1000ull))
        return AUTH_BUSY;
    /* Others may have asked for the same token meanwhile. */
    enum auth_outcome outcome;
    switch (auth_cache_get(a->cache, digest, clock_mono_us(), UINT64_MAX, ret_grant)) {
    case AUTH_CACHE_KNOWN:
    case AUTH_CACHE_STALE:
        outcome = AUTH_OK;
        break;
    case AUTH_CACHE_REFUSED:
        outcome = AUTH_REFUSED;
        break;
    case AUTH_CACHE_UNKNOWN:
    default:
        outcome =
            check_at_authd(a, digest, token, token_len, AUTH_CHECK_TIMEOUT_MS, ret_grant);
        break;
    }
    give_turn(a);
    return outcome;
}

/* A token known for long. When authd is away or busy it stays good until its own end. */
static enum auth_outcome
check_again(struct auth *a, const uint8_t *digest, const char *token, size_t token_len,
            struct auth_grant *grant)
{
    if (!bus_peer_is_up(a->authd))
        return AUTH_OK;
    struct auth_grant fresh;
    enum auth_outcome outcome =
        check_at_authd(a, digest, token, token_len, AUTH_RECHECK_TIMEOUT_MS, &fresh);
    if (outcome == AUTH_REFUSED)
        return AUTH_REFUSED;
    if (outcome == AUTH_OK)
        *grant = fresh;
    return AUTH_OK;
}

enum auth_outcome
auth_check(struct auth *a, const char *token, size_t token_len, const char *addr,
           struct auth_grant *ret_grant)
{
    if (!is_token_text(token, token_len))
        return AUTH_REFUSED;
    uint8_t digest[AUTH_DIGEST_SIZE];
    crypto_generichash(digest, sizeof(digest), (const unsigned char *)token, token_len, NULL,
                       0);
    uint64_t recheck_us = auth_cache_was_told(a->cache) ? AUTH_RECHECK_US : AUTH_RECHECK_NEW_US;
    enum auth_outcome outcome;
    switch (auth_cache_get(a->cache, digest, clock_mono_us(), recheck_us, ret_grant)) {
    case AUTH_CACHE_KNOWN:
        outcome = AUTH_OK;
        break;
    case AUTH_CACHE_STALE:
        outcome = check_again(a, digest, token, token_len, ret_grant);
        break;
    case AUTH_CACHE_REFUSED:
        outcome = AUTH_REFUSED;
        break;
    case AUTH_CACHE_UNKNOWN:
    default:
        outcome = check_unknown(a, digest, token, token_len, ret_grant);
        break;
    }
    if (outcome == AUTH_OK &&
        str_copy(ret_grant->who.addr, sizeof(ret_grant->who.addr), addr) < 0)
        ret_grant->who.addr[0] = '\0';
    return outcome;
}

const char *
auth_refusal(const struct auth_grant *grant, uint8_t permission)
{
    if (permission == API_PERMISSION_OPEN || permission == API_PERMISSION_SELF)
        return NULL;
    if (grant->must_change)
        return "password must be changed";
    if (permission == API_PERMISSION_TOKEN)
        return NULL;
    if (permission == API_PERMISSION_SESSION)
        return grant->is_derived || grant->who.session_id == 0
                   ? "only the token of a sign-in may do that"
                   : NULL;
    return (grant->who.permissions >> permission & 1) == 0 ? "permission denied" : NULL;
}

/* ---- AUTH_FORGET ---- */

static unsigned
forget(struct auth *a, const struct cJSON *tree)
{
    uint64_t epoch;
    int64_t id;
    if (json_u64(json_get(tree, "epoch"), &epoch) < 0)
        return 400;
    if (cJSON_IsTrue(json_get(tree, "all")))
        auth_cache_forget_all(a->cache, epoch);
    else if (json_i64(json_get(tree, "userId"), &id) == 0 && id != 0)
        auth_cache_forget_user(a->cache, epoch, id);
    else if (json_i64(json_get(tree, "sessionId"), &id) == 0 && id != 0)
        auth_cache_forget_session(a->cache, epoch, id);
    else
        return 400;
    return 200;
}

static void
serve(struct auth *a, struct bus_incoming *in)
{
    CLEANUP(json_freep) struct cJSON *tree = NULL;
    struct json_error fault;
    const struct bus_request *request = bus_incoming_request(in);
    struct bus_reply reply = { .status = 400 };
    if (json_parse(request->body.p, request->body.len, &tree, &fault) == 0)
        reply.status = (uint16_t)forget(a, tree);
    bus_answer(in, &reply);
}

static void
serve_held(void *arg)
{
    struct auth *a = arg;
    loop_timer_cancel(a->svc->loop, &a->held_timer);
    for (size_t i = 0; i < a->n_held; i++)
        serve(a, a->held[i]);
    a->n_held = 0;
}

static void
authd_changed(void *arg, bool up)
{
    if (up)
        serve_held(arg);
}

/*
 * authd begins its life by making us forget all, on its own line. Ours to it
 * may take a moment longer, and meanwhile all tokens would be unknown: so it
 * waits for ours. authd confirms no change of rights before it was served.
 */
void
auth_serve_forget(struct auth *a, struct bus_incoming *in)
{
    bool wait = !bus_peer_is_up(a->authd) && a->n_held < HELD_MAX;
    if (wait && a->n_held == 0)
        wait = loop_timer_set(a->svc->loop, &a->held_timer,
                              loop_now_us(a->svc->loop) + AUTH_FORGET_WAIT_US) == 0;
    if (wait) {
        a->held[a->n_held++] = in;
        return;
    }
    serve_held(a);
    serve(a, in);
}

/* ---- AUTH_TOUCH ---- */

static void
touch_done(void *arg, int error, const struct bus_reply *reply)
{
    struct auth *a = arg;
    a->touch_under_way = false;
    if (error < 0)
        log_debug("auth: used sessions not reported error=%d", error);
    else if (reply->status != 200)
        log_warn("auth: authd refused the used sessions status=%u", reply->status);
}

static void
report_touched(struct auth *a)
{
    size_t n = auth_cache_touched(a->cache, a->touched, AUTH_TOUCH_MAX);
    if (n == 0)
        return;
    int64_t wall_us = clock_wall_us();
    uint64_t mono_us = clock_mono_us();
    struct buf body;
    buf_init(&body, 64 * 1024);
    jw_open(&body, '{');
    jw_name(&body, "sessions");
    jw_open(&body, '[');
    for (size_t i = 0; i < n; i++) {
        jw_open(&body, '{');
        jw_ki64(&body, "id", a->touched[i].session_id);
        jw_ki64(&body, "at", wall_us - (int64_t)(mono_us - a->touched[i].used_us));
        jw_close(&body, '}');
    }
    jw_close(&body, ']');
    jw_close(&body, '}');
    struct bus_request request = {
        .kind = BUS_KIND_INTERNAL,
        .op = INTERNAL_AUTH_TOUCH,
        .deadline_us = mono_us + 5000000,
        .who = { .kind = BUS_WHO_DAEMON, .name = "gateway" },
        .body_kind = BUS_BODY_JSON,
        .body = { .p = body.data, .len = (uint32_t)body.len },
    };
    if (body.err == 0 && bus_call(a->authd, &request, touch_done, a) == 0)
        a->touch_under_way = true;
    buf_done(&body);
}

static void
touch_timer_fired(void *arg)
{
    struct auth *a = arg;
    if (!a->touch_under_way && bus_peer_is_up(a->authd))
        report_touched(a);
    (void)loop_timer_set(a->svc->loop, &a->touch_timer,
                         loop_now_us(a->svc->loop) + AUTH_TOUCH_INTERVAL_US);
}

int
auth_start(struct auth *a)
{
    loop_timer_init(&a->touch_timer, touch_timer_fired, a);
    loop_timer_init(&a->held_timer, serve_held, a);
    int r = bus_peer_watch(a->authd, authd_changed, a);
    if (r < 0)
        return r;
    return loop_timer_set(a->svc->loop, &a->touch_timer,
                          clock_mono_us() + AUTH_TOUCH_INTERVAL_US);
}

void
auth_get_stats(struct auth *a, struct auth_cache_stats *ret_stats)
{
    auth_cache_get_stats(a->cache, ret_stats);
}
