/*
 * Service accounts: how programs come in. The token is shown once, when the
 * account is made, and is good until the account is deleted; what it may do is
 * looked up, so a change holds from the next request on.
 *
 * Nobody gives what he does not hold. An add-on's own permission is nobody's
 * before its account brings it, so that account may hold it.
 */
#include <errno.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/str.h"
#include "services/authd/authd.h"
#include "services/authd/permission.h"

#include "libcommon/banned.h"

static int
fill_addons(struct api_call *call, struct store_txn *txn, const struct service_record *record,
            struct service_account *reply)
{
    reply->addon = api_alloc(call, ADDONS_MAX * sizeof(*reply->addon));
    if (!reply->addon)
        return -ENOMEM;
    for (unsigned bit = ADDON_BIT_FIRST; bit < ADDON_BIT_FIRST + ADDONS_MAX; bit++) {
        struct addon_record addon;
        if (!(record->addons >> bit & 1))
            continue;
        int r = addon_by_bit(txn, bit, &addon);
        if (r != STORE_OK)
            return r < 0 ? r : -EPROTO;
        reply->addon[reply->n_addon++] =
            (struct addon){ api_strdup(call, addon.id), api_strdup(call, addon.name) };
    }
    return 0;
}

static enum api_status
fill(struct api_call *call, struct store_txn *txn, const struct service_record *record,
     struct service_account *reply)
{
    *reply = (struct service_account){
        .name = api_strdup(call, record->name),
        .display_name = api_strdup(call, record->display_name),
        .source = SERVICE_ACCOUNT_SOURCE_AZURE_IO_T_EDGE,
    };
    int r = permission_ids(call, txn, record->required, &reply->required, &reply->n_required);
    if (r == 0)
        r = fill_addons(call, txn, record, reply);
    return r < 0 ? api_fail_errno(call, r, "cannot read the service account") : API_OK;
}

static enum api_status
find_service(struct api_call *call, struct store_txn *txn, const char *name,
             struct service_record *ret_record)
{
    int r = service_get(txn, name, ret_record);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the service account");
    return r == STORE_OK ? API_OK : api_fail(call, API_NOT_FOUND, "/name", "service not found");
}

/* Both spellings are in use; one request says one thing. */
static enum api_status
choose_display_name(struct api_call *call, const char **display_name, const char *other)
{
    if (!other)
        return API_OK;
    if (api_sent(call, "/displayName") && !str_eq(*display_name, other))
        return api_fail(call, API_INVALID, "/displayname", "displayName says something else");
    *display_name = other;
    return API_OK;
}

/* Which other account brings the add-on with that bit. STORE_OK, STORE_NOT_FOUND or -errno. */
static int
find_bringer(struct store_txn *txn, unsigned bit, const struct service_record *except,
             struct service_record *ret_other)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int r = store_iter_init(&it, txn, DB_SERVICES, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        r = service_decode(it.value, it.size, ret_other);
        if (r < 0 || (ret_other->addons >> bit & 1 && ret_other->id != except->id))
            return r;
    }
    return r;
}

static enum api_status
add_addon(struct api_call *call, struct store_txn *txn, const struct addon *addon,
          const char *pointer, struct service_record *record)
{
    struct service_record other;
    unsigned bit;
    if (!addon_id_is_valid(addon->id))
        return api_fail(call, API_INVALID, pointer,
                        "not of the form APP_<NAME>_RW, or the device's own");
    int r = permission_find(txn, addon->id, &bit);
    if (r == STORE_OK && record->addons >> bit & 1)
        return api_fail(call, API_INVALID, pointer, "given twice");
    if (r == STORE_OK)
        r = find_bringer(txn, bit, record, &other);
    if (r == STORE_OK)
        return api_fail(call, API_INVALID, pointer, "the service %s brings it", other.name);
    if (r == STORE_NOT_FOUND)
        r = addon_put(txn, addon->id, addon->name ? addon->name : addon->id, &bit);
    if (r == ADDON_TOO_MANY)
        return api_fail(call, API_FORBIDDEN, NULL,
                        "add-on creation failed: maximum add-on limit reached");
    if (r < 0)
        return api_fail_errno(call, r, "cannot save the add-on");
    record->addons |= UINT64_C(1) << bit;
    return API_OK;
}

static enum api_status
set_addons(struct api_call *call, struct store_txn *txn, const struct addon *addons, size_t n,
           struct service_record *record)
{
    enum api_status status = API_OK;
    record->addons = 0;
    for (size_t i = 0; i < n && status == API_OK; i++)
        status = add_addon(call, txn, &addons[i], api_printf(call, "/addon/%zu/id", i), record);
    return status;
}

/* What the account did not hold before must be the caller's, or its own add-ons'. */
static enum api_status
set_required(struct api_call *call, struct store_txn *txn, const char *const *ids, size_t n,
             struct service_record *record)
{
    uint64_t may = record->required | record->addons;
    uint64_t bits = may;
    enum api_status status = permission_set(call, txn, ids, n, "/required", &bits);
    if (status != API_OK)
        return status;
    uint64_t beyond = bits & ~(may | call->who->permissions);
    for (size_t i = 0; beyond && i < n; i++) {
        unsigned bit;
        int r = permission_find(txn, ids[i], &bit);
        if (r < 0)
            return api_fail_errno(call, r, "cannot read the permissions");
        if (beyond >> bit & 1)
            return api_fail(call, API_FORBIDDEN, api_printf(call, "/required/%zu", i),
                            "you do not hold %s yourself", ids[i]);
    }
    record->required = bits;
    return API_OK;
}

static int
save(struct store_txn *txn, const struct service_record *record)
{
    int r = service_put(txn, record);
    return r < 0 ? r : addons_settle(txn);
}

/* A change of what add-ons there are changes the rights of all who hold them. */
static struct rights_change *
change_of(struct authd *a, struct api_call *call, const struct service_record *record,
          bool addons_change)
{
    return addons_change ? rights_change(a, call, FORGET_ALL, 0)
                         : rights_change(a, call, FORGET_USER, service_user_id(record));
}

enum api_status
authd_get_azure_iotedge_services(struct authd *self, struct api_call *call)
{
    (void)self;
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    int r = store_iter_init(&it, txn, DB_SERVICES, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct service_record record;
        struct service_account item;
        r = service_decode(it.value, it.size, &record);
        if (r < 0)
            break;
        enum api_status status = fill(call, txn, &record, &item);
        if (status != API_OK)
            return status;
        api_item(call, &item);
    }
    return r < 0 ? api_fail_errno(call, r, "cannot read the service accounts") : API_OK;
}

/* Is there room, and is the name free? */
static enum api_status
check_new(struct api_call *call, struct store_txn *txn, const char *name)
{
    struct service_record taken;
    uint64_t n = 0;
    int r = service_get(txn, name, &taken);
    if (r == STORE_OK)
        return api_fail(call, API_INVALID, "/name", "the name %s is in use", name);
    if (r == STORE_NOT_FOUND)
        r = store_count(txn, DB_SERVICES, &n);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the service accounts");
    return n < SERVICES_MAX
               ? API_OK
               : api_fail(call, API_FORBIDDEN, NULL,
                          "service creation failed: maximum service limit reached");
}

static int
make_token(struct authd *a, struct api_call *call, struct service_record *record,
           const char **ret_token)
{
    struct jwt_claims claims = {
        .user_id = -1,
        .name = api_printf(call, "%s%s", SERVICE_PREFIX, record->name),
        .iat = record->created_us / 1000000,
        .exp = SERVICE_END_S,
    };
    return claims.name
               ? token_make(a, call, &claims, record->required, record->token_hash, ret_token)
               : -ENOMEM;
}

enum api_status
authd_post_azure_iotedge_services(struct authd *self, struct api_call *call,
                                  const struct service_account *body,
                                  struct service_account *reply)
{
    struct service_record record = { .created_us = clock_wall_us() };
    const char *token = NULL;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    const char *display_name = body->display_name;
    enum api_status status = choose_display_name(call, &display_name, body->displayname);
    if (status == API_OK)
        status = check_new(call, txn, body->name);
    if (status == API_OK)
        status = set_addons(call, txn, body->addon, body->n_addon, &record);
    if (status == API_OK)
        status = set_required(call, txn, body->required, body->n_required, &record);
    if (status != API_OK)
        return status;
    if (record.addons != 0 && !change_of(self, call, &record, true))
        return API_INTERNAL;
    int r = str_copy(record.name, sizeof(record.name), body->name);
    if (r == 0)
        r = str_copy(record.display_name, sizeof(record.display_name), display_name);
    if (r == 0)
        r = record_next(txn, "next.service", &record.id);
    if (r == 0)
        r = make_token(self, call, &record, &token);
    if (r == 0)
        r = save(txn, &record);
    if (r < 0)
        return api_fail_errno(call, r, "cannot save the service account");
    api_audit_message(call, "Service account %s made by %s", record.name, call->who->name);
    status = fill(call, txn, &record, reply);
    reply->token = token;
    return status;
}

enum api_status
authd_put_azure_iotedge_service(struct authd *self, struct api_call *call,
                                const struct authd_put_azure_iotedge_service_path *path,
                                struct service_account *reply)
{
    struct service_record record;
    struct service_account_put put = { 0 };
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    enum api_status status = find_service(call, txn, path->name, &record);
    if (status == API_OK)
        status = api_merge(call, &service_account_put_desc, &put);
    if (status != API_OK)
        return status;
    uint64_t addons_before = record.addons;
    const char *display_name = put.display_name ? put.display_name : record.display_name;
    status = choose_display_name(call, &display_name, put.displayname);
    if (status == API_OK && api_sent(call, "/addon"))
        status = set_addons(call, txn, put.addon, put.n_addon, &record);
    if (status == API_OK && api_sent(call, "/required"))
        status = set_required(call, txn, put.required, put.n_required, &record);
    if (status != API_OK)
        return status;
    if (!change_of(self, call, &record, record.addons != addons_before))
        return API_INTERNAL;
    int r = 0;
    if (display_name != record.display_name)
        r = str_copy(record.display_name, sizeof(record.display_name), display_name);
    if (r == 0)
        r = save(txn, &record);
    if (r < 0)
        return api_fail_errno(call, r, "cannot save the service account");
    api_audit_message(call, "Service account %s changed by %s", record.name, call->who->name);
    return fill(call, txn, &record, reply);
}

enum api_status
authd_delete_azure_iotedge_service(struct authd *self, struct api_call *call,
                                   const struct authd_delete_azure_iotedge_service_path *path)
{
    struct service_record record;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    enum api_status status = find_service(call, txn, path->name, &record);
    if (status != API_OK)
        return status;
    if (!change_of(self, call, &record, record.addons != 0))
        return API_INTERNAL;
    int r = service_delete(txn, record.name);
    if (r == STORE_OK)
        r = addons_settle(txn);
    if (r < 0)
        return api_fail_errno(call, r, "cannot delete the service account");
    api_audit_message(call, "Service account %s deleted by %s", record.name, call->who->name);
    return API_OK;
}
