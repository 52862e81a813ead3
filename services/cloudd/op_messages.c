/* /mqtt/{id}/messages: message groups. */
#include <string.h>

#include "services/cloudd/cloudd.h"
#include "libcommon/banned.h"

static enum api_status
client_exists(struct cloudd *d, struct api_call *call, int64_t id)
{
    if (cloudd_client(d, (uint32_t)id) == NULL)
        return api_fail(call, API_NOT_FOUND, "/id", "mqtt client not found");
    return API_OK;
}

static enum api_status
load(struct api_call *call, int64_t client, int64_t group, struct message_policy *ret_policy)
{
    uint8_t key[8];
    struct store_txn *txn = api_view(call);
    if (txn == NULL)
        return API_INTERNAL;
    int r = api_store_get(api_call_arena(call), txn, CLOUDD_DB_GROUPS,
                          cloudd_group_key(key, (uint32_t)client, (uint32_t)group), sizeof(key),
                          &message_policy_desc, ret_policy);
    if (r == STORE_NOT_FOUND)
        return api_fail(call, API_NOT_FOUND, "/groupId", "message group not found");
    return r < 0 ? api_fail_errno(call, r, "cannot read message group %lld", (long long)group)
                 : API_OK;
}

static void
complete(int64_t group, struct message_policy *p)
{
    p->has_id = true;
    p->id = group;
    p->has_on_change = true;
    p->on_change = p->sampling_mode == MESSAGE_POLICY_SAMPLING_MODE_ALL_CHANGED_VALUES ||
                   p->sampling_mode == MESSAGE_POLICY_SAMPLING_MODE_LATEST_CHANGED_VALUES;
}

static enum api_status
answer_list(struct api_call *call, int64_t client)
{
    struct store_iter it;
    uint8_t from[8];
    struct store_txn *txn = api_view(call);
    if (txn == NULL)
        return API_INTERNAL;
    int r = store_iter_init(&it, txn, CLOUDD_DB_GROUPS,
                            cloudd_group_key(from, (uint32_t)client, 0), sizeof(from), false);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the message groups");
    while ((r = store_iter_next(&it)) == STORE_OK && it.key_size == 8 &&
           get_u32(it.key) == (uint32_t)client) {
        struct message_policy p = { 0 };
        r = api_store_value(api_call_arena(call), it.value, it.size, &message_policy_desc, &p);
        if (r < 0)
            break;
        complete(get_u32((const uint8_t *)it.key + 4), &p);
        api_item(call, &p);
    }
    store_iter_done(&it);
    return r < 0 ? api_fail_errno(call, r, "cannot read the message groups") : API_OK;
}

/* The number for a new group of this client. */
static enum api_status
take_id(struct api_call *call, int64_t client, int64_t *ret_id)
{
    struct store_iter it;
    uint8_t from[8];
    int64_t last = 0;
    size_t n = 0;
    struct store_txn *txn = api_view(call);
    if (txn == NULL)
        return API_INTERNAL;
    int r = store_iter_init(&it, txn, CLOUDD_DB_GROUPS,
                            cloudd_group_key(from, (uint32_t)client, 0), sizeof(from), false);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the message groups");
    while ((r = store_iter_next(&it)) == STORE_OK && it.key_size == 8 &&
           get_u32(it.key) == (uint32_t)client) {
        last = get_u32((const uint8_t *)it.key + 4);
        n++;
    }
    store_iter_done(&it);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the message groups");
    if (n >= CLOUDD_GROUPS_MAX)
        return api_fail(call, API_FORBIDDEN, NULL,
                        "message group creation failed: maximum message group limit reached");
    *ret_id = last + 1;
    return API_OK;
}

/* What a schema cannot say. 'group' is 0 for a new one. */
static enum api_status
check(struct cloudd *d, struct api_call *call, int64_t client, int64_t group,
      const struct message_policy *p)
{
    size_t n = 0;
    if (p->format[0] != '\0')
        return api_fail(call, API_INVALID, "/format",
                        "a filter of one's own is not offered by this version: leave it empty");
    for (size_t i = 0; i < p->n_properties; i++)
        for (size_t k = 0; k < i; k++)
            if (strcmp(p->properties[i].key, p->properties[k].key) == 0)
                return api_fail(call, API_INVALID, api_printf(call, "/properties/%zu/key", i),
                                "%.140s is there twice", p->properties[i].key);
    enum api_status status = cloudd_check_tags(call, p->tags != NULL ? p->tags : "null", &n);
    if (status != API_OK)
        return status;
    if (n + cloudd_count_tags(d, (uint32_t)client, (uint32_t)group) > CLOUDD_TAGS_MAX)
        return api_fail(call, API_FORBIDDEN, "/tags",
                        "tag creation failed: maximum tag limit reached");
    return API_OK;
}

static enum api_status
apply_later(struct api_call *call, int64_t client, int64_t group)
{
    struct cloudd_policy_key *arg = api_alloc(call, sizeof(*arg));
    if (arg == NULL)
        return API_TOO_LARGE;
    *arg = (struct cloudd_policy_key){ .client = (uint32_t)client, .group = (uint32_t)group };
    api_after_commit(call, cloudd_policy_changed, arg);
    return API_OK;
}

static enum api_status
save(struct api_call *call, int64_t client, int64_t group, const struct message_policy *p)
{
    uint8_t key[8];
    struct store_txn *txn = api_txn(call);
    if (txn == NULL)
        return API_INTERNAL;
    int r = api_store_put(txn, CLOUDD_DB_GROUPS,
                          cloudd_group_key(key, (uint32_t)client, (uint32_t)group), sizeof(key),
                          &message_policy_desc, p);
    if (r < 0)
        return api_fail_errno(call, r, "cannot save message group %lld", (long long)group);
    return apply_later(call, client, group);
}

enum api_status
cloudd_get_mqtt_messages(struct cloudd *self, struct api_call *call,
                         const struct cloudd_get_mqtt_messages_path *path)
{
    enum api_status status = client_exists(self, call, path->id);
    return status == API_OK ? answer_list(call, path->id) : status;
}

enum api_status
cloudd_post_mqtt_message(struct cloudd *self, struct api_call *call,
                         const struct cloudd_post_mqtt_message_path *path,
                         const struct message_policy *body)
{
    int64_t group = 0;
    enum api_status status = client_exists(self, call, path->id);
    if (status == API_OK)
        status = check(self, call, path->id, 0, body);
    if (status == API_OK)
        status = take_id(call, path->id, &group);
    if (status == API_OK)
        status = save(call, path->id, group, body);
    if (status != API_OK)
        return status;
    api_audit_message(call, "message group %lld of MQTT client %lld created", (long long)group,
                      (long long)path->id);
    return answer_list(call, path->id);
}

enum api_status
cloudd_get_mqtt_message(struct cloudd *self, struct api_call *call,
                        const struct cloudd_get_mqtt_message_path *path,
                        struct message_policy *reply)
{
    enum api_status status = client_exists(self, call, path->id);
    if (status == API_OK)
        status = load(call, path->id, path->group_id, reply);
    complete(path->group_id, reply);
    return status;
}

enum api_status
cloudd_put_mqtt_message(struct cloudd *self, struct api_call *call,
                        const struct cloudd_put_mqtt_message_path *path,
                        struct message_policy *reply)
{
    enum api_status status = client_exists(self, call, path->id);
    if (status == API_OK)
        status = load(call, path->id, path->group_id, reply);
    if (status == API_OK)
        status = api_merge(call, &message_policy_desc, reply);
    if (status == API_OK)
        status = check(self, call, path->id, path->group_id, reply);
    if (status == API_OK)
        status = save(call, path->id, path->group_id, reply);
    if (status != API_OK)
        return status;
    api_audit_message(call, "message group %lld of MQTT client %lld changed",
                      (long long)path->group_id, (long long)path->id);
    complete(path->group_id, reply);
    return API_OK;
}

enum api_status
cloudd_delete_mqtt_message(struct cloudd *self, struct api_call *call,
                           const struct cloudd_delete_mqtt_message_path *path)
{
    struct message_policy p = { 0 };
    uint8_t key[8];
    enum api_status status = client_exists(self, call, path->id);
    if (status == API_OK)
        status = load(call, path->id, path->group_id, &p);
    if (status != API_OK)
        return status;
    struct store_txn *txn = api_txn(call);
    if (txn == NULL)
        return API_INTERNAL;
    int r = store_del(txn, CLOUDD_DB_GROUPS,
                      cloudd_group_key(key, (uint32_t)path->id, (uint32_t)path->group_id),
                      sizeof(key));
    if (r < 0)
        return api_fail_errno(call, r, "cannot delete message group %lld",
                              (long long)path->group_id);
    status = apply_later(call, path->id, path->group_id);
    if (status != API_OK)
        return status;
    api_audit_message(call, "message group %lld of MQTT client %lld deleted",
                      (long long)path->group_id, (long long)path->id);
    return answer_list(call, path->id);
}
