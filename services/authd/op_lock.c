/*
 * The rules: for passwords, and for locking accounts after failed sign-ins.
 */
#include <string.h>

#include "services/authd/authd.h"
#include "services/authd/policy.h"

#include "libcommon/banned.h"

enum api_status
authd_get_password_policy(struct authd *self, struct api_call *call,
                          struct password_policy *reply)
{
    (void)call;
    *reply = self->policy;
    return API_OK;
}

static void
policy_committed(void *self, void *arg)
{
    ((struct authd *)self)->policy = *(const struct password_policy *)arg;
}

enum api_status
authd_put_password_policy(struct authd *self, struct api_call *call,
                          struct password_policy *reply)
{
    *reply = self->policy;
    enum api_status status = api_merge(call, &password_policy_desc, reply);
    if (status != API_OK)
        return status;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    int r =
        api_store_put(txn, DB_CONFIG, "policy", strlen("policy"), &password_policy_desc, reply);
    if (r < 0)
        return api_fail_errno(call, r, "cannot save");
    api_after_commit(call, policy_committed, reply);
    return API_OK;
}

enum api_status
authd_get_auth_lock(struct authd *self, struct api_call *call, struct auth_lock *reply)
{
    (void)call;
    *reply = self->lock_rule;
    return API_OK;
}

static void
lock_rule_committed(void *self, void *arg)
{
    struct authd *a = self;
    a->lock_rule = *(const struct auth_lock *)arg;
    if (!a->lock_rule.enable)
        locks_clear(a, NULL);
}

enum api_status
authd_put_auth_lock(struct authd *self, struct api_call *call, const struct auth_lock *body,
                    struct auth_lock *reply)
{
    (void)self; /* changes after the commit */
    *reply = *body;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    int r = api_store_put(txn, DB_CONFIG, "lock", strlen("lock"), &auth_lock_desc, reply);
    if (r == 0 && !body->enable)
        r = store_clear(txn, DB_LOCKS);
    if (r < 0)
        return api_fail_errno(call, r, "cannot save");
    api_after_commit(call, lock_rule_committed, reply);
    return API_OK;
}

enum api_status
authd_get_auth_lock_users(struct authd *self, struct api_call *call,
                          struct locked_accounts *reply)
{
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    reply->data = api_alloc(call, USERS_MAX * sizeof(*reply->data));
    if (!reply->data)
        return API_TOO_LARGE;
    for (size_t i = 0; i < LOCK_ENTRIES_MAX && reply->n_data < USERS_MAX; i++) {
        const struct lock_entry *e = &self->locks.all[i];
        struct user_record user;
        if (e->name[0] == '\0' || !locks_is_locked(self, e->name))
            continue;
        int r = user_by_name(txn, e->name, &user);
        if (r < 0)
            return api_fail_errno(call, r, "cannot read");
        if (r == STORE_OK)
            reply->data[reply->n_data++] = (int64_t)user.id;
    }
    return API_OK;
}
