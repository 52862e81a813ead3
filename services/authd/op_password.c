/*
 * Changes of passwords. They end the account's other sessions; the session
 * that made the change goes on, now with its permissions if the change had
 * been forced.
 */
#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/str.h"
#include "services/authd/op_auth.h"
#include "services/authd/policy.h"

#include "libcommon/banned.h"

static enum api_status
check_new(struct authd *a, struct api_call *call, const char *name, const char *password)
{
    const char *broken = policy_refuses(&a->policy, name, password);
    return broken ? api_fail(call, API_INVALID, "/newPassword", "%s", broken) : API_OK;
}

/* The hash is there: writes it. */
static enum api_status
save(struct password_job *job)
{
    struct authd *a = job->a;
    struct api_call *call = job->call;
    struct store_txn *txn = api_txn(call);
    struct user_record user;
    if (!txn)
        return API_INTERNAL;
    int r = user_get(txn, job->user_id, &user);
    if (r == STORE_NOT_FOUND)
        return api_fail(call, API_NOT_FOUND, NULL, "user not found");
    if (r == STORE_OK && !str_eq(user.password, job->against))
        return api_fail(call, API_CONFLICT, NULL, "the password was changed by somebody else");
    if (r == 0)
        r = job->error;
    struct rights_change *change = NULL;
    if (r == 0) {
        change = rights_change(a, call, FORGET_USER, (int64_t)user.id);
        if (!change)
            return API_INTERNAL;
        memcpy(user.password, job->made, sizeof(user.password));
        user.password_changed_us = clock_wall_us();
        user.password_is_given =
            call->who->kind != BUS_WHO_USER || (uint64_t)call->who->user_id != user.id;
        user.must_change = false;
        r = user_put(txn, &user);
    }
    if (r == 0)
        r = rights_end_sessions_of(change, user.id, (uint64_t)call->who->session_id);
    enum api_status status = r < 0 ? api_fail_errno(call, r, "cannot save the password")
                                   : account_fill(a, call, txn, &user, call->reply);
    api_audit_message(call, "Password of %s changed by %s", user.name, call->who->name);
    sodium_memzero(&user, sizeof(user));
    return status;
}

static void
changed(struct password_job *job)
{
    struct api_call *call = job->call;
    enum api_status status;
    if (job->name[0] && job->status == API_UNAUTHENTICATED && !job->verified) {
        sign_in_failed(job, "Wrong old password at a change of the password");
        return;
    }
    if (job->is_same)
        status = api_fail(call, API_INVALID, "/newPassword",
                          "the new password must differ from the old one");
    else
        status = save(job);
    password_job_free(job);
    api_finish(call, status);
}

static enum api_status
job_for(struct authd *a, struct api_call *call, const struct user_record *user,
        const char *new_password, struct password_job **ret_job)
{
    struct password_job *job = password_job_new(a, call);
    if (!job)
        return API_TOO_MANY;
    job->done = changed;
    job->user_id = user->id;
    job->make_must_differ = true;
    memcpy(job->against, user->password, sizeof(job->against));
    if (str_copy(job->make, sizeof(job->make), new_password) < 0) {
        password_job_free(job);
        return api_fail(call, API_INVALID, "/newPassword", "the password is too long");
    }
    *ret_job = job;
    return API_OK;
}

enum api_status
authd_put_users_me_password(struct authd *self, struct api_call *call,
                            const struct password_me_update *body, struct account *reply)
{
    (void)reply; /* filled when the password is hashed */
    struct user_record user;
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    enum api_status status = account_of_caller(call, txn, &user);
    if (status != API_OK)
        return status;
    if (!body->old_password && !user.must_change)
        return api_fail(call, API_INVALID, "/oldPassword", "oldPassword is required");
    status = check_new(self, call, user.name, body->new_password);
    if (status == API_OK && body->old_password)
        status = sign_in_admit(self, call, user.name);
    if (status != API_OK)
        return status;
    struct password_job *job = NULL;
    status = job_for(self, call, &user, body->new_password, &job);
    if (!job)
        return status;
    if (body->old_password) {
        if (str_copy(job->verify, sizeof(job->verify), body->old_password) < 0)
            (void)str_copy(job->verify, sizeof(job->verify), "-"); /* wrong in any case */
        memcpy(job->name, user.name, sizeof(job->name));
        job->status = API_UNAUTHENTICATED; /* unless it is verified */
    }
    sodium_memzero(&user, sizeof(user));
    return password_start(job);
}

enum api_status
authd_put_user_password(struct authd *self, struct api_call *call,
                        const struct authd_put_user_password_path *path,
                        const struct password_update *body, struct account *reply)
{
    (void)reply; /* filled when the password is hashed */
    struct user_record user;
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    int r = user_get(txn, (uint64_t)path->id, &user);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the account");
    if (r != STORE_OK)
        return api_fail(call, API_NOT_FOUND, "/id", "user not found");
    enum api_status status = check_new(self, call, user.name, body->new_password);
    struct password_job *job = NULL;
    if (status == API_OK)
        status = job_for(self, call, &user, body->new_password, &job);
    sodium_memzero(&user, sizeof(user));
    return job ? password_start(job) : status;
}
