/*
 * Whose token is this? Asked by the front door for each token it does not
 * know, and the reports of which sessions were used.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "services/authd/authd.h"

#include "libcommon/banned.h"

enum {
    /* Reports of use older than that are late beyond reason, or the clock was set. */
    TOUCH_AGO_MAX_US = 60 * 1000000,
    REPLY_MAX = 1024,
};

static void
answer(struct bus_incoming *in, uint16_t status, struct buf *b)
{
    struct bus_reply reply = { .id = bus_incoming_request(in)->id, .status = status };
    if (b->err) {
        reply.status = API_INTERNAL;
    } else if (b->len > 0) {
        reply.body_kind = BUS_BODY_JSON;
        reply.body = (struct bus_str){ b->data, (uint32_t)b->len };
    }
    bus_answer(in, &reply);
    buf_done(b);
}

/* The live session of a good token, with its account; NULL: refused. '*ret_error': -errno or 0.
 */
static struct live_session *
find_principal(struct authd *a, struct store_txn *txn, const char *token,
               struct user_record *ret_user, int *ret_error)
{
    int64_t user_id, session_id;
    uint8_t hash[JWT_HASH_SIZE];
    size_t len = strlen(token);
    *ret_error = 0;
    if (jwt_check(a->key, token, len, &user_id, &session_id) < 0)
        return NULL;
    struct live_session *s = sessions_find(a, (uint64_t)session_id);
    jwt_hash(token, len, hash);
    if (!s || s->record.user_id != (uint64_t)user_id ||
        sodium_memcmp(hash, s->record.token_hash, sizeof(hash)) != 0 || !sessions_is_live(a, s))
        return NULL;
    int r = user_get(txn, s->record.user_id, ret_user);
    if (r < 0)
        *ret_error = r;
    if (r != STORE_OK || !ret_user->is_active)
        return NULL;
    return s;
}

void
authd_auth_check(void *self, struct bus_incoming *in)
{
    struct authd *a = self;
    if (link_hold_check(a, in))
        return;
    const struct bus_request *rq = bus_incoming_request(in);
    CLEANUP(json_freep) struct cJSON *tree = NULL;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    struct json_error e;
    struct buf b;
    buf_init(&b, REPLY_MAX);
    if (!a->link.is_clean) { /* more wait than may */
        answer(in, API_UNAVAILABLE, &b);
        return;
    }
    const char *token = NULL;
    if (rq->body_kind == BUS_BODY_JSON && json_parse(rq->body.p, rq->body.len, &tree, &e) == 0)
        token = json_text(json_get(tree, "token"));
    if (!token) {
        answer(in, API_INVALID, &b);
        return;
    }
    struct user_record user = { 0 };
    uint64_t permissions = 0;
    struct live_session *s = NULL;
    int r = store_read(a->svc->store, &txn);
    if (r == 0)
        s = find_principal(a, txn, token, &user, &r);
    if (s && !user.must_change)
        r = user_permissions(txn, &user, &permissions);
    if (r < 0) {
        log_err("authd: cannot check a token error=%s", strerror(-r));
        answer(in, API_INTERNAL, &b);
        return;
    }
    jw_open(&b, '{');
    jw_ku64(&b, "epoch", a->epoch);
    if (s) {
        char bits[24];
        (void)snprintf(bits, sizeof(bits), "%llu", (unsigned long long)permissions); /* fits */
        sessions_touch(a, s, 0);
        jw_kstr(&b, "kind", "user");
        jw_ku64(&b, "userId", user.id);
        jw_ku64(&b, "sessionId", s->record.id);
        jw_kstr(&b, "permissions", bits);
        jw_kstr(&b, "name", user.name);
        jw_kbool(&b, "mustChange", user.must_change);
        jw_ki64(&b, "validUntil", clock_wall_us() + sessions_left_us(a, s));
    }
    jw_close(&b, '}');
    answer(in, s ? API_OK : API_UNAUTHENTICATED, &b);
}

void
authd_auth_touch(void *self, struct bus_incoming *in)
{
    struct authd *a = self;
    const struct bus_request *rq = bus_incoming_request(in);
    CLEANUP(json_freep) struct cJSON *tree = NULL;
    struct json_error e;
    struct buf b;
    buf_init(&b, REPLY_MAX);
    if (rq->body_kind != BUS_BODY_JSON || json_parse(rq->body.p, rq->body.len, &tree, &e) < 0) {
        answer(in, API_INVALID, &b);
        return;
    }
    int64_t wall = clock_wall_us();
    const cJSON *item;
    cJSON_ArrayForEach(item, json_get(tree, "sessions"))
    {
        uint64_t id;
        int64_t at;
        if (json_u64(json_get(item, "id"), &id) < 0 || json_i64(json_get(item, "at"), &at) < 0)
            continue;
        struct live_session *s = sessions_find(a, id);
        int64_t ago = wall - at;
        ago = ago < 0 ? 0 : ago > TOUCH_AGO_MAX_US ? TOUCH_AGO_MAX_US : ago;
        if (s)
            sessions_touch(a, s, ago);
    }
    answer(in, API_OK, &b);
}
