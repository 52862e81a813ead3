/*
 * Signing in. The order is: locked? too many at once? verify in a worker
 * (for unknown names against a hash that fits nothing, which takes as long),
 * then on the loop again everything is looked up anew, for it may have changed.
 */
#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "libcommon/audit.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/metrics.h"
#include "libcommon/str.h"
#include "services/authd/op_auth.h"

#include "libcommon/banned.h"

static const char wrong_text[] = "The account or password you entered is not correct.";
static const char locked_text[] = "The account is locked after too many failed sign-ins.";

static struct metric_counter sign_ins = { .name = "fieldgate_sign_ins_total",
                                          .help = "Sign-ins",
                                          .labels = "outcome=\"ok\"" };
static struct metric_counter sign_ins_failed = { .name = "fieldgate_sign_ins_total",
                                                 .help = "Sign-ins",
                                                 .labels = "outcome=\"failed\"" };
static struct metric_counter sign_ins_locked = { .name = "fieldgate_sign_ins_total",
                                                 .help = "Sign-ins",
                                                 .labels = "outcome=\"locked\"" };

void
sign_in_register_metrics(void)
{
    metric_register(&sign_ins);
    metric_register(&sign_ins_failed);
    metric_register(&sign_ins_locked);
}

enum api_status
authd_get_auth(struct authd *self, struct api_call *call, struct auth_status *reply)
{
    (void)self;
    (void)call; /* the frame let only a good token through */
    reply->data = "ok";
    return API_OK;
}

/* ---- failures ---- */

static int
put_record(struct authd *a, struct store_txn *txn, const struct api_call *call,
           const char *name, const char *event, const char *message)
{
    struct audit_record record = {
        .event = event,
        .message = message,
        .detail = "",
        .source = name,
        .addr = call->who->addr,
        .request_id = call->request->id,
        .at_us = clock_wall_us(),
    };
    return audit_put(a->svc->outbox, txn, &record);
}

/* One transaction: the count, the lock, both records. */
static int
keep_failure(struct password_job *job, const char *why, bool *ret_locked)
{
    struct authd *a = job->a;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    int r = store_begin(a->svc->store, &txn);
    /* It counts in memory even if it cannot be kept: a full disk opens no door. */
    int counted = locks_fail(a, r == 0 ? txn : NULL, job->name, job->user_id != 0, ret_locked);
    r = r < 0 ? r : counted;
    bool told = floods_fail(a, job->call->who->addr);
    if (r == 0 && told)
        r = put_record(a, txn, job->call, job->name, "signInFail", why);
    if (r == 0 && *ret_locked && (told || job->user_id != 0))
        r = put_record(a, txn, job->call, job->name, "accountLock",
                       "Locked after too many failed sign-ins");
    if (r == 0)
        r = store_commit(MOVE_PTR(txn));
    if (r == 0)
        audit_kick(a->svc->outbox);
    return r;
}

void
sign_in_failed(struct password_job *job, const char *why)
{
    struct api_call *call = job->call;
    bool locked = false;
    int r = keep_failure(job, why, &locked);
    metric_add(&sign_ins_failed, 1);
    enum api_status status = r < 0
                                 ? api_fail_errno(call, r, "cannot record the failed sign-in")
                                 : api_fail(call, API_UNAUTHENTICATED, NULL, "%s", wrong_text);
    if (locked)
        log_warn("authd: account locked name=%s addr=%s", job->name, call->who->addr);
    api_refusal_is_recorded(call);
    password_job_free(job);
    api_finish(call, status);
}

enum api_status
sign_in_admit(struct authd *a, struct api_call *call, const char *name)
{
    if (floods_refuse(a, call->who->addr)) {
        metric_add(&sign_ins_failed, 1);
        return api_fail(call, API_TOO_MANY, NULL, "too many failed sign-ins from this address");
    }
    if (locks_is_locked(a, name)) {
        unsigned n = locks_refused(a, name);
        metric_add(&sign_ins_locked, 1);
        api_audit_source(call, name);
        api_refusal_is_recorded(call); /* if not now, with the next */
        if (n > 0)
            api_audit_refusal(call, "signInFail", "%u attempts refused, the account is locked",
                              n);
        return api_fail(call, API_FORBIDDEN, NULL, "%s", locked_text);
    }
    /* As if those under way failed: many at once must not get past the count. */
    if (a->lock_rule.enable &&
        locks_fails(a, name) + password_under_way(a, name) >= (unsigned)a->lock_rule.fail_times)
        return api_fail(call, API_TOO_MANY, NULL, "too many sign-ins of this account at once");
    return API_OK;
}

/* ---- success ---- */

static int
make_token(struct authd *a, struct api_call *call, const struct user_record *user,
           uint64_t permissions, struct session_record *session, const char **ret_token)
{
    struct jwt_claims claims = {
        .user_id = (int64_t)user->id,
        .session_id = (int64_t)session->id,
        .name = user->name,
        .iat = session->created_us / 1000000,
        .exp = (session->created_us + (int64_t)session->life_us) / 1000000,
    };
    return token_make(a, call, &claims, permissions, session->token_hash, ret_token);
}

struct opened {
    struct session_record session;
    char name[RECORD_NAME_SIZE];
};

static void
session_committed(void *self, void *arg)
{
    struct authd *a = self;
    const struct opened *opened = arg;
    sessions_add(a, &opened->session);
    locks_clear(a, opened->name);
    metric_add(&sign_ins, 1);
}

/* Writes the session; the reply is filled. */
static enum api_status
open_session(struct authd *a, struct api_call *call, struct user_record *user)
{
    struct auth_result *reply = call->reply;
    struct store_txn *txn = api_txn(call);
    struct opened *opened = api_alloc(call, sizeof(*opened));
    uint64_t permissions;
    if (!txn || !opened)
        return API_INTERNAL;
    struct session_record *session = &opened->session;
    /* The answer shows when the account signed in before this time. */
    enum api_status status = account_fill(a, call, txn, user, &reply->user);
    if (status != API_OK)
        return status;
    session->user_id = user->id;
    session->created_us = session->last_us = clock_wall_us();
    session->life_us = (uint64_t)a->conf.timeout_min * 60000000;
    user->login_us = session->created_us;
    int r = str_copy(session->addr, sizeof(session->addr), call->who->addr);
    if (r == 0)
        r = str_copy(opened->name, sizeof(opened->name), user->name);
    if (r == 0)
        r = record_next(txn, "next.session", &session->id);
    if (r == 0)
        r = user_permissions(txn, user, &permissions);
    if (r == 0)
        r = make_token(a, call, user, permissions, session, &reply->token);
    if (r == 0)
        r = session_put(txn, session);
    if (r == 0)
        r = user_put(txn, user);
    if (r == 0)
        r = locks_clear_stored(a, txn, user->name);
    if (r < 0)
        return api_fail_errno(call, r, "cannot save the session");
    integrity_show(a, reply);
    api_audit_message(call, "%s signed in", user->name);
    api_audit_detail(call, "", 0);
    api_after_commit(call, session_committed, opened);
    return API_OK;
}

static enum api_status
check_limits(struct authd *a, struct api_call *call, const struct user_record *user)
{
    bool in_all = a->sessions.n >= SESSIONS_MAX;
    if (!in_all && sessions_count(a, user->id) < (size_t)a->conf.max_count_by_user)
        return API_OK;
    api_audit_refusal(call, "signInFail", "Right password, but no session left %s",
                      in_all ? "on this device" : "for the account");
    return api_fail(call, API_FORBIDDEN, NULL,
                    "session creation failed: maximum session limit reached");
}

static void
sign_in_verified(struct password_job *job)
{
    struct authd *a = job->a;
    struct api_call *call = job->call;
    struct user_record user = { 0 };
    api_audit_source(call, job->name);
    if (!job->verified || job->user_id == 0) {
        sign_in_failed(job, job->user_id ? "Wrong password" : "Unknown account");
        return;
    }
    enum api_status status = API_INTERNAL;
    struct store_txn *txn = api_view(call);
    int r = txn ? user_get(txn, job->user_id, &user) : -EIO;
    if (r < 0) {
        status = api_fail_errno(call, r, "cannot read the account");
    } else if (r != STORE_OK || !str_eq(user.password, job->against)) {
        sign_in_failed(job, "The account changed during the sign-in");
        return;
    } else if (!user.is_active) {
        sign_in_failed(job, "The account is not active");
        return;
    } else if (locks_is_locked(a, user.name)) {
        status = api_fail(call, API_FORBIDDEN, NULL, "%s", locked_text);
    } else {
        status = check_limits(a, call, &user);
        if (status == API_OK)
            status = open_session(a, call, &user);
    }
    sodium_memzero(&user, sizeof(user));
    password_job_free(job);
    api_finish(call, status);
}

enum api_status
authd_post_auth(struct authd *self, struct api_call *call, const struct auth_post *body,
                struct auth_result *reply)
{
    (void)reply; /* filled when the password is verified */
    enum api_status status = sign_in_admit(self, call, body->name);
    if (status != API_OK)
        return status;
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    struct user_record user = { 0 };
    int r = user_by_name(txn, body->name, &user);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the account");
    struct password_job *job = password_job_new(self, call);
    if (!job)
        return API_TOO_MANY; /* refused already */
    bool known = r == STORE_OK;
    job->done = sign_in_verified;
    job->user_id = known ? user.id : 0;
    memcpy(job->against, known ? user.password : self->dummy_hash, sizeof(job->against));
    sodium_memzero(&user, sizeof(user));
    /* 256 characters of UTF-8 may be more bytes than any password has: then it is a wrong one.
     */
    if (str_copy(job->verify, sizeof(job->verify), body->password) < 0)
        (void)str_copy(job->verify, sizeof(job->verify), "-"); /* fits */
    if (str_copy(job->name, sizeof(job->name), body->name) < 0) {
        password_job_free(job);
        return API_INVALID;
    }
    return password_start(job);
}
