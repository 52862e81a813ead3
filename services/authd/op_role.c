/*
 * Roles, and the catalogue of permissions they are made of.
 */
#include <errno.h>
#include <string.h>

#include "libcommon/str.h"
#include "services/authd/authd.h"
#include "services/authd/permission.h"

#include "libcommon/banned.h"

/* Those of add-ons, with whose they are. */
static int
list_addons(struct api_call *call, struct store_txn *txn)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int r = store_iter_init(&it, txn, DB_SERVICES, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct service_record service;
        r = service_decode(it.value, it.size, &service);
        for (unsigned bit = ADDON_BIT_FIRST; r == 0 && bit < 64; bit++) {
            struct addon_record addon;
            if (!(service.addons >> bit & 1))
                continue;
            r = addon_by_bit(txn, bit, &addon);
            if (r != STORE_OK)
                return r < 0 ? r : -EPROTO;
            struct permission item = {
                .id = addon.id,
                .name = addon.name,
                .description = api_printf(call, "Of the service account %s.", service.name),
            };
            api_item(call, &item);
        }
    }
    return r < 0 ? r : 0;
}

enum api_status
authd_get_permissions(struct authd *self, struct api_call *call)
{
    (void)self;
    static const struct permission all[] = {
#define X(bit, word, text, about) { .id = #word, .name = (text), .description = (about) },
        PERMISSION_TABLE(X)
#undef X
    };
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        api_item(call, &all[i]);
    int r = list_addons(call, txn);
    return r < 0 ? api_fail_errno(call, r, "cannot read the permissions") : API_OK;
}

static int
list_holders(struct api_call *call, struct store_txn *txn, uint64_t role_id, struct role *role)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int r = store_iter_init(&it, txn, DB_USERS, NULL, 0, false);
    role->users = api_alloc(call, USERS_MAX * sizeof(*role->users));
    if (!role->users)
        return -ENOMEM;
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct user_record user;
        r = user_decode(it.value, it.size, &user);
        if (r == 0 && user_has_role(&user, role_id) && role->n_users < USERS_MAX)
            role->users[role->n_users++] =
                (struct role_user){ (int64_t)user.id, api_strdup(call, user.name) };
    }
    return r < 0 ? r : 0;
}

static enum api_status
fill(struct api_call *call, struct store_txn *txn, const struct role_record *record,
     struct role *ret_role)
{
    uint64_t known;
    *ret_role = (struct role){
        .id = (int64_t)record->id,
        .name = api_strdup(call, record->name),
        .description = api_strdup(call, record->description),
    };
    int r = permission_known(txn, &known);
    if (r == 0)
        r = permission_ids(call, txn, role_permissions(record, known), &ret_role->permissions,
                           &ret_role->n_permissions);
    if (r == 0)
        r = list_holders(call, txn, record->id, ret_role);
    return r < 0 ? api_fail_errno(call, r, "cannot read the roles") : API_OK;
}

static enum api_status
find_role(struct api_call *call, struct store_txn *txn, int64_t id,
          struct role_record *ret_role)
{
    int r = role_get(txn, (uint64_t)id, ret_role);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the role");
    return r == STORE_OK ? API_OK : api_fail(call, API_NOT_FOUND, "/id", "role not found");
}

enum api_status
permission_set(struct api_call *call, struct store_txn *txn, const char *const *ids, size_t n,
               const char *pointer, uint64_t *bits)
{
    uint64_t known, found = 0;
    int r = permission_known(txn, &known);
    for (size_t i = 0; i < n && r == 0; i++) {
        unsigned bit;
        r = permission_find(txn, ids[i], &bit);
        if (r == STORE_NOT_FOUND || (r == STORE_OK && !((known | *bits) >> bit & 1)))
            return api_fail(call, API_INVALID, api_printf(call, "%s/%zu", pointer, i),
                            "no such permission");
        if (r == STORE_OK)
            found |= UINT64_C(1) << bit;
    }
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the permissions");
    *bits = found;
    return API_OK;
}

/* Puts what the client says into the record, with the checks that need the store. */
static enum api_status
set(struct api_call *call, struct store_txn *txn, const struct role_put *put,
    struct role_record *record)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int r = store_iter_init(&it, txn, DB_ROLES, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct role_record other;
        r = role_decode(it.value, it.size, &other);
        if (r == 0 && other.id != record->id && str_eq(other.name, put->name))
            return api_fail(call, API_INVALID, "/name", "the name %s is in use", put->name);
    }
    if (r >= 0)
        r = str_copy(record->name, sizeof(record->name), put->name);
    if (r == 0)
        r = str_copy(record->description, sizeof(record->description),
                     put->description ? put->description : "");
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the roles");
    return permission_set(call, txn, put->permissions, put->n_permissions, "/permissions",
                          &record->permissions);
}

enum api_status
authd_get_roles(struct authd *self, struct api_call *call)
{
    (void)self;
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    int r = store_iter_init(&it, txn, DB_ROLES, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct role_record record;
        struct role role;
        r = role_decode(it.value, it.size, &record);
        if (r < 0)
            break;
        enum api_status status = fill(call, txn, &record, &role);
        if (status != API_OK)
            return status;
        api_item(call, &role);
    }
    return r < 0 ? api_fail_errno(call, r, "cannot read the roles") : API_OK;
}

enum api_status
authd_get_role(struct authd *self, struct api_call *call,
               const struct authd_get_role_path *path, struct role *reply)
{
    (void)self;
    struct role_record record;
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    enum api_status status = find_role(call, txn, path->id, &record);
    return status == API_OK ? fill(call, txn, &record, reply) : status;
}

enum api_status
authd_post_roles(struct authd *self, struct api_call *call, const struct role *body,
                 struct role *reply)
{
    (void)self;
    struct role_record record = { 0 };
    struct role_put put = { body->name, body->description, body->permissions,
                            body->n_permissions };
    uint64_t n;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    int r = store_count(txn, DB_ROLES, &n);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the roles");
    if (n >= ROLES_MAX)
        return api_fail(call, API_FORBIDDEN, NULL,
                        "role creation failed: maximum role limit reached");
    enum api_status status = set(call, txn, &put, &record);
    if (status != API_OK)
        return status;
    r = record_next(txn, "next.role", &record.id);
    if (r == 0)
        r = role_put(txn, &record);
    if (r < 0)
        return api_fail_errno(call, r, "cannot save the role");
    api_audit_message(call, "Role %s made by %s", record.name, call->who->name);
    return fill(call, txn, &record, reply);
}

enum api_status
authd_put_role(struct authd *self, struct api_call *call,
               const struct authd_put_role_path *path, struct role *reply)
{
    struct role_record record;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    enum api_status status = find_role(call, txn, path->id, &record);
    if (status == API_OK && record.id == ROLE_ADMINISTRATOR)
        status =
            api_fail(call, API_FORBIDDEN, NULL, "the role %s cannot be changed", record.name);
    if (status != API_OK)
        return status;
    struct role now;
    status = fill(call, txn, &record, &now);
    if (status != API_OK)
        return status;
    struct role_put put = { now.name, now.description, now.permissions, now.n_permissions };
    status = api_merge(call, &role_put_desc, &put);
    if (status == API_OK)
        status = set(call, txn, &put, &record);
    if (status != API_OK)
        return status;
    if (!rights_change(self, call, FORGET_ALL, 0))
        return API_INTERNAL;
    int r = role_put(txn, &record);
    if (r == 0)
        r = addons_settle(txn);
    if (r < 0)
        return api_fail_errno(call, r, "cannot save the role");
    api_audit_message(call, "Role %s changed by %s", record.name, call->who->name);
    return fill(call, txn, &record, reply);
}

enum api_status
authd_delete_role(struct authd *self, struct api_call *call,
                  const struct authd_delete_role_path *path)
{
    (void)self;
    struct role_record record;
    struct role now;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    enum api_status status = find_role(call, txn, path->id, &record);
    if (status == API_OK && record.id == ROLE_ADMINISTRATOR)
        status =
            api_fail(call, API_FORBIDDEN, NULL, "the role %s cannot be deleted", record.name);
    if (status == API_OK)
        status = fill(call, txn, &record, &now);
    if (status != API_OK)
        return status;
    if (now.n_users > 0)
        return api_fail(call, API_INVALID, "/id", "the role %s is held by %zu accounts",
                        record.name, now.n_users);
    /* Nobody holds it, so no right changes. */
    int r = role_delete(txn, record.id);
    if (r == 0)
        r = addons_settle(txn);
    if (r < 0)
        return api_fail_errno(call, r, "cannot delete the role");
    api_audit_message(call, "Role %s deleted by %s", record.name, call->who->name);
    return API_OK;
}
