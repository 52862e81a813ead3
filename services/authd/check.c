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
#include "libcommon/str.h"
#include "services/authd/authd.h"
#include "services/authd/permission.h"

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

/* Who a good token is, as the front door is told. */
struct principal {
    bool is_service;
    bool is_derived; /* by a token that a session's own token made */
    bool must_change;
    int64_t user_id;
    uint64_t session_id;
    uint64_t permissions;
    char name[RECORD_NAME_SIZE];
    int64_t left_us; /* as good as that, unless it is taken back */
};

/* All: STORE_OK, STORE_NOT_FOUND (refused) or -errno. */
static int
find_session(struct authd *a, struct store_txn *txn, const struct jwt_subject *subject,
             const uint8_t *hash, struct principal *p)
{
    struct user_record user;
    bool is_own;
    struct live_session *s = sessions_find(a, (uint64_t)subject->session_id);
    if (!s || s->record.user_id != (uint64_t)subject->user_id)
        return STORE_NOT_FOUND;
    p->left_us = sessions_token_left_us(a, s, hash, &is_own);
    if (p->left_us <= 0)
        return STORE_NOT_FOUND;
    int r = user_get(txn, s->record.user_id, &user);
    if (r != STORE_OK)
        return r;
    if (!user.is_active)
        return STORE_NOT_FOUND;
    p->is_derived = !is_own;
    p->user_id = (int64_t)user.id;
    p->session_id = s->record.id;
    p->must_change = user.must_change;
    memcpy(p->name, user.name, sizeof(p->name));
    sessions_touch(a, s, 0);
    r = user.must_change ? STORE_OK : user_permissions(txn, &user, &p->permissions);
    sodium_memzero(&user, sizeof(user));
    return r;
}

static int
find_service(struct store_txn *txn, const struct jwt_subject *subject, const uint8_t *hash,
             struct principal *p)
{
    struct service_record service;
    uint64_t known;
    if (strncmp(subject->name, SERVICE_PREFIX, strlen(SERVICE_PREFIX)) != 0 ||
        subject->name[strlen(SERVICE_PREFIX)] == '\0')
        return STORE_NOT_FOUND;
    int r = service_get(txn, subject->name + strlen(SERVICE_PREFIX), &service);
    if (r == STORE_OK &&
        sodium_memcmp(hash, service.token_hash, sizeof(service.token_hash)) != 0)
        return STORE_NOT_FOUND;
    if (r == STORE_OK)
        r = permission_known(txn, &known);
    if (r != STORE_OK)
        return r;
    p->is_service = true;
    p->user_id = service_user_id(&service);
    p->permissions = service.required & known;
    p->left_us = SERVICE_END_S * 1000000 - clock_wall_us();
    return str_copy(p->name, sizeof(p->name), subject->name);
}

static int
find_principal(struct authd *a, struct store_txn *txn, const char *token, struct principal *p)
{
    struct jwt_subject subject;
    uint8_t hash[JWT_HASH_SIZE];
    size_t len = strlen(token);
    if (jwt_check(a->key, token, len, &subject) < 0)
        return STORE_NOT_FOUND;
    jwt_hash(token, len, hash);
    return subject.session_id == 0 ? find_service(txn, &subject, hash, p)
                                   : find_session(a, txn, &subject, hash, p);
}

static void
write_principal(struct buf *b, const struct principal *p)
{
    char bits[24];
    (void)snprintf(bits, sizeof(bits), "%llu", (unsigned long long)p->permissions); /* fits */
    jw_kstr(b, "kind", p->is_service ? "service" : "user");
    jw_ki64(b, "userId", p->user_id);
    jw_ku64(b, "sessionId", p->session_id);
    jw_kstr(b, "permissions", bits);
    jw_kstr(b, "name", p->name);
    jw_kbool(b, "mustChange", p->must_change);
    jw_kbool(b, "derived", p->is_derived);
    jw_ki64(b, "validUntil", clock_wall_us() + p->left_us);
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
    struct principal p = { 0 };
    int r = store_read(a->svc->store, &txn);
    if (r == 0)
        r = find_principal(a, txn, token, &p);
    if (r < 0) {
        log_err("authd: cannot check a token error=%s", strerror(-r));
        answer(in, API_INTERNAL, &b);
        return;
    }
    jw_open(&b, '{');
    jw_ku64(&b, "epoch", a->epoch);
    if (r == STORE_OK)
        write_principal(&b, &p);
    jw_close(&b, '}');
    answer(in, r == STORE_OK ? API_OK : API_UNAUTHENTICATED, &b);
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
