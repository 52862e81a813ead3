/*
 * Accounts. The last active administrator can be neither removed, nor
 * disabled, nor stripped of its role: somebody must be able to let people in.
 */
#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/str.h"
#include "services/authd/password.h"
#include "services/authd/permission.h"
#include "services/authd/policy.h"

#include "libcommon/banned.h"

enum { DAY_S = 24 * 60 * 60 };

static const char last_admin_text[] = "the last active administrator must stay";

/* ---- shared ---- */

const char *
time_text(struct api_call *call, int64_t wall_us, int digits)
{
    char text[CLOCK_TEXT_SIZE];
    clock_format(wall_us, digits, text);
    return api_strdup(call, text);
}

static const char *
flag_of(const struct authd *a, const struct user_record *user)
{
    int64_t since = user->password_changed_us ? user->password_changed_us : user->created_us;
    int64_t days = (clock_wall_us() - since) / 1000000 / DAY_S;
    bool remind = a->policy.enable_reminder && days >= a->policy.reminder_frequency_day;
    if (user->must_change)
        return remind ? "passwordMustChange,passwordChangeRemind" : "passwordMustChange";
    return remind ? "passwordChangeRemind" : NULL;
}

enum api_status
account_fill(struct authd *a, struct api_call *call, struct store_txn *txn,
             const struct user_record *user, struct account *ret_account)
{
    uint64_t bits;
    int r = user_permissions(txn, user, &bits);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the account");
    *ret_account = (struct account){
        .id = (int64_t)user->id,
        .name = api_strdup(call, user->name),
        .is_active = user->is_active,
        .email = user->has_email ? api_strdup(call, user->email) : NULL,
        .description = user->has_description ? api_strdup(call, user->description) : NULL,
        .created_at = time_text(call, user->created_us, 0),
        .password_changed_at =
            user->password_changed_us ? time_text(call, user->password_changed_us, 0) : NULL,
        .login_at =
            user->login_us ? time_text(call, user->login_us, 0) : "0001-01-01T00:00:00Z",
        .roles = api_alloc(call, RECORD_ROLES_MAX * sizeof(struct role_ref)),
        .flag = flag_of(a, user),
    };
    if (!ret_account->roles)
        return API_TOO_LARGE;
    r = permission_ids(call, txn, bits, &ret_account->permissions, &ret_account->n_permissions);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the account");
    for (size_t i = 0; i < user->n_roles; i++) {
        struct role_record role;
        r = role_get(txn, user->roles[i], &role);
        if (r < 0)
            return api_fail_errno(call, r, "cannot read the account");
        if (r == STORE_OK)
            ret_account->roles[ret_account->n_roles++] =
                (struct role_ref){ (int64_t)role.id, api_strdup(call, role.name) };
    }
    return API_OK;
}

enum api_status
account_of_caller(struct api_call *call, struct store_txn *txn, struct user_record *ret_user)
{
    if (call->who->kind != BUS_WHO_USER)
        return api_fail(call, API_FORBIDDEN, NULL,
                        "a service account has no account of a person");
    int r = user_get(txn, (uint64_t)call->who->user_id, ret_user);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the account");
    return r == STORE_OK ? API_OK : api_fail(call, API_UNAUTHENTICATED, NULL, "invalid user");
}

/* A NULL text is null. */
static int
set_texts(struct user_record *user, const char *email, const char *description)
{
    user->has_email = email != NULL;
    user->has_description = description != NULL;
    int r = str_copy(user->email, sizeof(user->email), email ? email : "");
    return r < 0 ? r
                 : str_copy(user->description, sizeof(user->description),
                            description ? description : "");
}

static enum api_status
set_roles(struct api_call *call, struct store_txn *txn, const struct role_ref *roles, size_t n,
          struct user_record *user)
{
    user->n_roles = 0;
    for (size_t i = 0; i < n; i++) {
        struct role_record role;
        int r = role_get(txn, (uint64_t)roles[i].id, &role);
        if (r < 0)
            return api_fail_errno(call, r, "cannot read the roles");
        if (r != STORE_OK)
            return api_fail(call, API_INVALID, api_printf(call, "/roles/%zu/id", i),
                            "role not found");
        if (!user_has_role(user, role.id))
            user->roles[user->n_roles++] = role.id;
    }
    return API_OK;
}

static enum api_status
find_user(struct api_call *call, struct store_txn *txn, int64_t id,
          struct user_record *ret_user)
{
    int r = user_get(txn, (uint64_t)id, ret_user);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the account");
    return r == STORE_OK ? API_OK : api_fail(call, API_NOT_FOUND, "/id", "user not found");
}

static bool
is_active_admin(const struct user_record *user)
{
    return user->is_active && user_has_role(user, ROLE_ADMINISTRATOR);
}

/* API_OK when another active administrator is there. */
static enum api_status
keep_one_admin(struct api_call *call, struct store_txn *txn, uint64_t except)
{
    size_t n;
    int r = user_count_admins(txn, except, &n);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the accounts");
    return n > 0 ? API_OK : api_fail(call, API_FORBIDDEN, NULL, "%s", last_admin_text);
}

/* ---- the caller's own ---- */

enum api_status
authd_get_users_me(struct authd *self, struct api_call *call, struct account *reply)
{
    struct user_record user = { 0 };
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    enum api_status status = account_of_caller(call, txn, &user);
    return status == API_OK ? account_fill(self, call, txn, &user, reply) : status;
}

enum api_status
authd_put_users_me(struct authd *self, struct api_call *call, struct account *reply)
{
    struct user_record user = { 0 };
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    enum api_status status = account_of_caller(call, txn, &user);
    if (status != API_OK)
        return status;
    struct account_me_put put = {
        .email = user.has_email ? api_strdup(call, user.email) : NULL,
        .description = user.has_description ? api_strdup(call, user.description) : NULL,
    };
    status = api_merge(call, &account_me_put_desc, &put);
    if (status != API_OK)
        return status;
    int r = set_texts(&user, put.email, put.description);
    if (r == 0)
        r = user_put(txn, &user);
    if (r < 0)
        return api_fail_errno(call, r, "cannot save the account");
    return account_fill(self, call, txn, &user, reply);
}

/* ---- everybody's ---- */

enum api_status
authd_get_users(struct authd *self, struct api_call *call)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    int r = store_iter_init(&it, txn, DB_USERS, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct user_record user = { 0 };
        struct account account;
        r = user_decode(it.value, it.size, &user);
        if (r < 0)
            break;
        enum api_status status = account_fill(self, call, txn, &user, &account);
        if (status != API_OK)
            return status;
        api_item(call, &account);
    }
    return r < 0 ? api_fail_errno(call, r, "cannot read the accounts") : API_OK;
}

enum api_status
authd_get_user(struct authd *self, struct api_call *call,
               const struct authd_get_user_path *path, struct account *reply)
{
    struct user_record user = { 0 };
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    enum api_status status = find_user(call, txn, path->id, &user);
    return status == API_OK ? account_fill(self, call, txn, &user, reply) : status;
}

enum api_status
authd_put_user(struct authd *self, struct api_call *call,
               const struct authd_put_user_path *path, struct account *reply)
{
    struct user_record user = { 0 };
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    enum api_status status = find_user(call, txn, path->id, &user);
    if (status != API_OK)
        return status;
    bool was_admin = is_active_admin(&user);
    struct account_put put = {
        .is_active = user.is_active,
        .email = user.has_email ? api_strdup(call, user.email) : NULL,
        .description = user.has_description ? api_strdup(call, user.description) : NULL,
    };
    status = api_merge(call, &account_put_desc, &put);
    if (status == API_OK && put.n_roles > 0)
        status = set_roles(call, txn, put.roles, put.n_roles, &user);
    if (status != API_OK)
        return status;
    user.is_active = put.is_active;
    if (was_admin && !is_active_admin(&user)) {
        status = keep_one_admin(call, txn, user.id);
        if (status != API_OK)
            return status;
    }
    int r = set_texts(&user, put.email, put.description);
    if (r == 0)
        r = user_put(txn, &user);
    if (api_sent(call, "/isActive") || api_sent(call, "/roles")) {
        struct rights_change *change = rights_change(self, call, FORGET_USER, (int64_t)user.id);
        if (!change)
            return API_INTERNAL;
        if (r == 0 && !user.is_active)
            r = rights_end_sessions_of(change, user.id, 0);
    }
    if (r < 0)
        return api_fail_errno(call, r, "cannot save the account");
    api_audit_message(call, "Account %s changed by %s", user.name, call->who->name);
    return account_fill(self, call, txn, &user, reply);
}

static void
forget_failures(void *self, void *arg)
{
    locks_clear(self, arg);
}

enum api_status
authd_delete_user(struct authd *self, struct api_call *call,
                  const struct authd_delete_user_path *path)
{
    struct user_record user = { 0 };
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    enum api_status status = find_user(call, txn, path->id, &user);
    if (status == API_OK && is_active_admin(&user))
        status = keep_one_admin(call, txn, user.id);
    if (status != API_OK)
        return status;
    char *name = api_strdup(call, user.name);
    struct rights_change *change = rights_change(self, call, FORGET_USER, (int64_t)user.id);
    if (!change || !name)
        return API_INTERNAL;
    int r = rights_end_sessions_of(change, user.id, 0);
    if (r == 0)
        r = user_delete(txn, &user);
    if (r >= 0)
        r = locks_clear_stored(self, txn, user.name);
    if (r < 0)
        return api_fail_errno(call, r, "cannot delete the account");
    api_audit_message(call, "Account %s deleted by %s", user.name, call->who->name);
    api_after_commit(call, forget_failures, name);
    return API_OK;
}

/* ---- new accounts ---- */

/* Everything but the password; checked before hashing, and again after it. */
static enum api_status
build_user(struct authd *a, struct api_call *call, struct store_txn *txn,
           const struct account_post *body, struct user_record *ret_user)
{
    uint64_t n;
    struct user_record taken;
    int r = user_by_name(txn, body->name, &taken);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the accounts");
    if (r == STORE_OK)
        return api_fail(call, API_INVALID, "/name", "the name %s is in use", body->name);
    r = store_count(txn, DB_USERS, &n);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the accounts");
    if (n >= USERS_MAX)
        return api_fail(call, API_FORBIDDEN, NULL,
                        "user creation failed: maximum user limit reached");
    const char *broken = policy_refuses(&a->policy, body->name, body->password);
    if (broken)
        return api_fail(call, API_INVALID, "/password", "%s", broken);
    memset(ret_user, 0, sizeof(*ret_user));
    ret_user->is_active = body->is_active;
    ret_user->created_us = clock_wall_us();
    r = str_copy(ret_user->name, sizeof(ret_user->name), body->name);
    if (r == 0)
        r = set_texts(ret_user, body->email, body->description);
    if (r < 0)
        return api_fail(call, API_INVALID, NULL, "text too long");
    return set_roles(call, txn, body->roles, body->n_roles, ret_user);
}

static void
user_hashed(struct password_job *job)
{
    struct authd *a = job->a;
    struct api_call *call = job->call;
    struct user_record user = { 0 };
    struct store_txn *txn = api_txn(call);
    enum api_status status = txn ? build_user(a, call, txn, call->body, &user) : API_INTERNAL;
    int r = job->error;
    if (status == API_OK) {
        memcpy(user.password, job->made, sizeof(user.password));
        if (r == 0)
            r = record_next(txn, "next.user", &user.id);
        if (r == 0)
            r = user_put(txn, &user);
        if (r == 0)
            /* Failures of the name before there was such an account are not the account's. */
            r = locks_clear_stored(a, txn, user.name);
        if (r < 0)
            status = api_fail_errno(call, r, "cannot save the account");
    }
    if (status == API_OK) {
        api_audit_message(call, "Account %s made by %s", user.name, call->who->name);
        api_after_commit(call, forget_failures, api_strdup(call, user.name));
        status = account_fill(a, call, txn, &user, call->reply);
    }
    sodium_memzero(&user, sizeof(user));
    password_job_free(job);
    api_finish(call, status);
}

enum api_status
authd_post_users(struct authd *self, struct api_call *call, const struct account_post *body,
                 struct account *reply)
{
    (void)reply; /* filled when the password is hashed */
    struct user_record user = { 0 };
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    enum api_status status = build_user(self, call, txn, body, &user);
    if (status != API_OK)
        return status;
    struct password_job *job = password_job_new(self, call);
    if (!job)
        return API_TOO_MANY; /* refused already */
    job->done = user_hashed;
    if (str_copy(job->make, sizeof(job->make), body->password) < 0) {
        password_job_free(job);
        return api_fail(call, API_INVALID, "/password", "the password is too long");
    }
    return password_start(job);
}
