/*
 * Sessions, and the way every change of rights takes: the store, then the
 * table, then the front door, then the answer.
 */
#include <errno.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "services/authd/authd.h"

#include "libcommon/banned.h"

/* ---- changes of rights ---- */

struct rights_change {
    struct authd *a;
    struct api_call *call;
    enum forget_scope scope;
    int64_t id;
    uint64_t epoch;
    uint64_t *gone; /* sessions, SESSIONS_MAX */
    size_t n_gone;
    uint64_t bare; /* a session that only loses its short-lived tokens; 0: none */
    struct forget forget;
};

static void
on_forgotten(void *arg, bool forgotten)
{
    struct rights_change *change = arg;
    if (forgotten)
        api_finish(change->call, API_OK);
    else
        api_finish(change->call,
                   api_fail(change->call, API_UNAVAILABLE, NULL,
                            "the change is made, but the front door did not confirm it"));
}

static void
committed(void *self, void *arg)
{
    struct authd *a = self;
    struct rights_change *change = arg;
    a->epoch = change->epoch;
    for (size_t i = 0; i < change->n_gone; i++)
        sessions_remove(a, change->gone[i]);
    sessions_drop_tokens(a, change->bare);
    api_hold(change->call);
    link_forget(a, &change->forget, change->scope, change->id, on_forgotten, change);
}

struct rights_change *
rights_change(struct authd *a, struct api_call *call, enum forget_scope scope, int64_t id)
{
    struct store_txn *txn = api_txn(call);
    struct rights_change *change = api_alloc(call, sizeof(*change));
    uint64_t *gone = api_alloc(call, SESSIONS_MAX * sizeof(*gone));
    if (!txn || !change || !gone)
        return NULL;
    *change =
        (struct rights_change){ .a = a, .call = call, .scope = scope, .id = id, .gone = gone };
    int r = record_next(txn, "epoch", &change->epoch);
    if (r < 0) {
        (void)api_fail_errno(call, r, "cannot save"); /* the status is kept in the call */
        return NULL;
    }
    api_after_commit(call, committed, change);
    return change;
}

int
rights_end_session(struct rights_change *change, uint64_t session_id)
{
    for (size_t i = 0; i < change->n_gone; i++)
        if (change->gone[i] == session_id)
            return 0;
    MUST(change->n_gone < SESSIONS_MAX); /* callers name live ones only */
    int r = session_delete(api_txn(change->call), session_id);
    if (r >= 0)
        change->gone[change->n_gone++] = session_id;
    return r < 0 ? r : 0;
}

/* In the transaction now, in memory after the commit. */
static int
end_tokens(struct rights_change *change, const struct session_record *session)
{
    struct session_record bare = *session;
    bare.n_tokens = 0;
    change->bare = session->id;
    return session_put(api_txn(change->call), &bare);
}

int
rights_end_sessions_of(struct rights_change *change, uint64_t user_id, uint64_t except)
{
    const struct sessions *t = &change->a->sessions;
    int r = 0;
    for (size_t i = 0; i < t->n && r == 0; i++) {
        const struct session_record *s = &t->all[i].record;
        if (s->user_id == user_id)
            r = s->id == except ? end_tokens(change, s) : rights_end_session(change, s->id);
    }
    return r;
}

/* ---- operations ---- */

static bool
may_see(const struct api_call *call, const struct live_session *s)
{
    return may_manage_accounts(call) || s->record.user_id == (uint64_t)call->who->user_id;
}

/* What the front door has not reported yet: this very request. */
static void
touch_own(struct authd *a, const struct api_call *call)
{
    struct live_session *own = sessions_find(a, (uint64_t)call->who->session_id);
    if (own)
        sessions_touch(a, own, 0);
}

static int
fill(struct api_call *call, struct store_txn *txn, const struct live_session *s,
     struct session *ret_session)
{
    struct user_record user;
    int r = user_get(txn, s->record.user_id, &user);
    if (r < 0)
        return r;
    *ret_session = (struct session){
        .id = (int64_t)s->record.id,
        .user_id = (int64_t)s->record.user_id,
        .user_name = r == STORE_OK ? api_strdup(call, user.name) : "",
        .created_at = time_text(call, s->record.created_us, 6),
        .last_access_at = time_text(call, s->record.last_us, 6),
        .source_ip = api_strdup(call, s->record.addr),
        .is_current = s->record.id == (uint64_t)call->who->session_id,
    };
    return 0;
}

static bool
is_in(const int64_t *list, size_t n, uint64_t id)
{
    for (size_t i = 0; i < n; i++)
        if ((uint64_t)list[i] == id)
            return true;
    return false;
}

enum api_status
authd_get_sessions(struct authd *self, struct api_call *call,
                   const struct authd_get_sessions_query *query)
{
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    touch_own(self, call);
    for (size_t i = 0; i < self->sessions.n; i++) {
        const struct live_session *s = &self->sessions.all[i];
        if (!may_see(call, s) || !sessions_is_live(self, s) ||
            (query->n_user_ids > 0 &&
             !is_in(query->user_ids, query->n_user_ids, s->record.user_id)))
            continue;
        struct session item;
        int r = fill(call, txn, s, &item);
        if (r < 0)
            return api_fail_errno(call, r, "cannot read");
        api_item(call, &item);
    }
    return API_OK;
}

enum api_status
authd_get_session(struct authd *self, struct api_call *call,
                  const struct authd_get_session_path *path, struct session *reply)
{
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    touch_own(self, call);
    const struct live_session *s = sessions_find(self, (uint64_t)path->id);
    if (!s || !may_see(call, s) || !sessions_is_live(self, s))
        return api_fail(call, API_NOT_FOUND, "/id", "session not found");
    int r = fill(call, txn, s, reply);
    return r < 0 ? api_fail_errno(call, r, "cannot read") : API_OK;
}

static enum api_status
end_one(struct authd *a, struct api_call *call, uint64_t id)
{
    struct rights_change *change = rights_change(a, call, FORGET_SESSION, (int64_t)id);
    if (!change)
        return API_INTERNAL;
    int r = rights_end_session(change, id);
    return r < 0 ? api_fail_errno(call, r, "cannot save") : API_OK;
}

enum api_status
authd_delete_session(struct authd *self, struct api_call *call,
                     const struct authd_delete_session_path *path)
{
    const struct live_session *s = sessions_find(self, (uint64_t)path->id);
    if (!s || !may_see(call, s) || !sessions_is_live(self, s))
        return api_fail(call, API_NOT_FOUND, "/id", "session not found");
    if (s->record.id == (uint64_t)call->who->session_id)
        api_audit_message(call, "%s signed out", call->who->name);
    else
        api_audit_message(call, "Session %llu of account %llu ended by %s",
                          (unsigned long long)s->record.id,
                          (unsigned long long)s->record.user_id, call->who->name);
    return end_one(self, call, s->record.id);
}

enum api_status
authd_delete_auth(struct authd *self, struct api_call *call)
{
    const struct live_session *s = sessions_find(self, (uint64_t)call->who->session_id);
    if (!s && call->who->kind == BUS_WHO_SERVICE)
        return api_fail(call, API_FORBIDDEN, NULL,
                        "a service account has no session; it ends by its deletion");
    if (!s)
        return api_fail(call, API_NOT_FOUND, NULL, "session not found");
    api_audit_message(call, "%s signed out", call->who->name);
    return end_one(self, call, s->record.id);
}

static void
note_deleted(struct api_call *call, const struct authd_delete_sessions_query *query, size_t n)
{
    struct buf b;
    buf_init(&b, 16384);
    jw_open(&b, '{');
    jw_name(&b, "ids");
    jw_open(&b, '[');
    for (size_t i = 0; i < query->n_ids; i++)
        jw_i64(&b, query->ids[i]);
    jw_close(&b, ']');
    jw_name(&b, "userIds");
    jw_open(&b, '[');
    for (size_t i = 0; i < query->n_user_ids; i++)
        jw_i64(&b, query->user_ids[i]);
    jw_close(&b, ']');
    jw_close(&b, '}');
    api_audit_message(call, "%zu sessions ended by %s", n, call->who->name);
    if (!b.err)
        api_audit_detail(call, b.data, b.len);
    buf_done(&b);
}

/* Sessions that the caller may not see are as good as absent. */
static bool
is_meant(const struct api_call *call, const struct authd_delete_sessions_query *query,
         const struct live_session *s)
{
    return may_see(call, s) && (is_in(query->ids, query->n_ids, s->record.id) ||
                                is_in(query->user_ids, query->n_user_ids, s->record.user_id));
}

enum api_status
authd_delete_sessions(struct authd *self, struct api_call *call,
                      const struct authd_delete_sessions_query *query)
{
    const struct sessions *t = &self->sessions;
    if (query->n_ids == 0 && query->n_user_ids == 0)
        return api_fail(call, API_INVALID, "/ids", "ids or userIds is required");
    for (size_t i = 0; i < query->n_user_ids; i++)
        if (query->user_ids[i] != call->who->user_id && !may_manage_accounts(call))
            return api_fail(call, API_FORBIDDEN, "/userIds", "permission denied");
    size_t n = 0;
    bool only_own = true;
    for (size_t i = 0; i < t->n; i++)
        if (is_meant(call, query, &t->all[i])) {
            n++;
            only_own = only_own && t->all[i].record.user_id == (uint64_t)call->who->user_id;
        }
    note_deleted(call, query, n);
    if (n == 0)
        return API_OK; /* no rights change */

    struct rights_change *change =
        only_own ? rights_change(self, call, FORGET_USER, call->who->user_id)
                 : rights_change(self, call, FORGET_ALL, 0);
    if (!change)
        return API_INTERNAL;
    for (size_t i = 0; i < t->n; i++) {
        int r = is_meant(call, query, &t->all[i])
                    ? rights_end_session(change, t->all[i].record.id)
                    : 0;
        if (r < 0)
            return api_fail_errno(call, r, "cannot save");
    }
    return API_OK;
}

/* ---- settings ---- */

enum api_status
authd_get_sessions_configuration(struct authd *self, struct api_call *call,
                                 struct session_conf *reply)
{
    (void)call;
    *reply = self->conf;
    return API_OK;
}

static void
conf_committed(void *self, void *arg)
{
    struct authd *a = self;
    a->conf = *(const struct session_conf *)arg;
    sessions_rearm(a);
}

enum api_status
authd_put_sessions_configuration(struct authd *self, struct api_call *call,
                                 struct session_conf *reply)
{
    *reply = self->conf;
    enum api_status status = api_merge(call, &session_conf_desc, reply);
    if (status != API_OK)
        return status;
    reply->max_count = SESSIONS_MAX;
    if (reply->idle_timeout_min > reply->timeout_min)
        return api_fail(call, API_INVALID, "/idleTimeoutMin",
                        "idleTimeoutMin must not exceed timeoutMin");
    /* The front door remembers until when each session is good: shorter times must reach it. */
    api_after_commit(call, conf_committed, reply);
    if (!rights_change(self, call, FORGET_ALL, 0))
        return API_INTERNAL;
    int r = api_store_put(api_txn(call), DB_CONFIG, "session", strlen("session"),
                          &session_conf_desc, reply);
    return r < 0 ? api_fail_errno(call, r, "cannot save") : API_OK;
}
