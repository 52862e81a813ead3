/* Tags of commands. */
#include "services/modbusd/op.h"

#include <errno.h>

#include "libcommon/str.h"
#include "libcommon/banned.h"

enum api_status
op_check_tag(struct api_call *call, size_t i, const struct mb_cmd_config *cmd,
             const struct tag_for_mcmds *tag)
{
    struct mb_tag_config config;
    struct mb_codec codec;
    uint8_t access;
    bool sized = mb_type_sized((enum mb_type)tag->data_type);
    if (str_eq(tag->name, "status"))
        return api_fail(call, API_INVALID, op_pointer(call, i, "name"),
                        "Input value failed: the name status is reserved");
    if (sized && !tag->has_data_size)
        return api_fail(call, API_INVALID, op_pointer(call, i, "dataSize"),
                        "dataSize should exist");
    if (!sized && tag->has_data_size)
        return api_fail(call, API_INVALID, op_pointer(call, i, "dataSize"),
                        "Input value failed: dataSize is for string, bytearray and raw");
    config_to_tag(tag, &config);
    const char *text = mb_tag_check(cmd, &config, &codec, &access);
    if (text)
        return api_fail(call, API_INVALID, op_pointer(call, i, NULL), "Input value failed: %s",
                        text);
    return API_OK;
}

enum api_status
op_stage_tag(struct api_call *call, struct api_arena *a, struct store_txn *txn, size_t i,
             const struct config_key *key, const struct mb_cmd_config *cmd,
             struct tag_for_mcmds tag)
{
    uint32_t id = config_key_id(key), other;
    enum api_status status = op_check_tag(call, i, cmd, &tag);
    if (status != API_OK)
        return status;
    int r = config_tag_named(txn, config_key_part(key, 0), tag.name, &other);
    if (r < 0)
        return op_store_error(call, r);
    if (r == STORE_OK && other != id)
        return api_fail(call, API_INVALID, op_pointer(call, i, "name"), "name exists already");
    tag.has_tag_id = true;
    tag.tag_id = id;
    tag.mcmd_id = config_key_part(key, 1);
    r = config_put(a, txn, key, &tag);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

enum api_status
op_add_tag(struct api_call *call, struct store_txn *txn, size_t i,
           const struct config_key *cmd_key, const struct mb_cmd_config *cmd,
           struct tag_for_mcmds *tag, struct config_key *ret_key)
{
    uint32_t id;
    enum api_status status = op_check_room(call, txn, DB_TAG, 1, MODBUSD_TAGS_MAX);
    if (status != API_OK)
        return status;
    int r = config_next_id(txn, KIND_TAG, &id);
    if (r != 0)
        return op_store_error(call, r);
    *ret_key = config_key_tag(config_key_part(cmd_key, 0), config_key_part(cmd_key, 1), id);
    return op_stage_tag(call, api_call_arena(call), txn, i, ret_key, cmd, *tag);
}

enum api_status
modbusd_get_master_tags(struct modbusd *self, struct api_call *call)
{
    (void)self;
    return op_reply_all(call, KIND_TAG);
}

/* The command that tags are added to: mostly the same for a whole list. */
struct parent {
    int64_t id;
    struct config_key key;
    struct mb_cmd_config cmd;
};

static enum api_status
find_parent(struct api_call *call, struct store_txn *txn, size_t i, int64_t id,
            struct parent *p)
{
    struct mcmd record;
    if (p->id == id)
        return API_OK;
    int r = config_find_cmd(txn, (uint32_t)id, &p->key);
    if (r == 0)
        r = config_get(api_call_arena(call), txn, &p->key, &record);
    if (r == STORE_NOT_FOUND)
        return api_fail(call, API_INVALID, op_pointer(call, i, "mcmdId"),
                        "Parent's data should exist");
    if (r < 0)
        return op_store_error(call, r);
    config_to_cmd(&record, &p->cmd);
    p->id = id;
    return API_OK;
}

enum api_status
modbusd_post_master_tags(struct modbusd *self, struct api_call *call,
                         const struct tag_for_mcmds *body, size_t n_body)
{
    (void)self;
    struct store_txn *txn = api_txn(call);
    struct config_key *keys = api_alloc(call, n_body * sizeof(*keys));
    if (!txn || !keys)
        return txn ? API_TOO_LARGE : API_INTERNAL;
    struct parent parent = { .id = -1 };
    enum api_status status = op_check_room(call, txn, DB_TAG, n_body, MODBUSD_TAGS_MAX);
    for (size_t i = 0; i < n_body && status == API_OK; i++) {
        struct tag_for_mcmds tag = body[i];
        status = find_parent(call, txn, i, tag.mcmd_id, &parent);
        if (status == API_OK)
            status = op_add_tag(call, txn, i, &parent.key, &parent.cmd, &tag, &keys[i]);
    }
    return status == API_OK ? op_reply_added(call, keys, n_body) : status;
}

enum api_status
modbusd_delete_master_tags(struct modbusd *self, struct api_call *call)
{
    (void)self;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    int r = config_del_all(txn, KIND_TAG);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

static enum api_status
find(struct api_call *call, struct store_txn *txn, int64_t id, struct config_key *ret_key)
{
    if (!txn)
        return API_INTERNAL;
    int r = config_find_tag(txn, (uint32_t)id, ret_key);
    if (r == STORE_NOT_FOUND)
        return op_not_found(call);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

enum api_status
modbusd_get_master_tag(struct modbusd *self, struct api_call *call,
                       const struct modbusd_get_master_tag_path *path)
{
    (void)self;
    struct config_key key;
    enum api_status status = find(call, api_view(call), path->tag_id, &key);
    return status == API_OK ? op_reply_one(call, &key) : status;
}

static enum api_status
replace(struct modbusd *self, struct api_call *call, struct store_txn *txn,
        const struct config_key *key, const struct tag_for_mcmds *tag)
{
    (void)self;
    struct parent parent = { .id = -1 };
    if (tag->mcmd_id != config_key_part(key, 1))
        return api_fail(call, API_INVALID, "/mcmdId",
                        "Input value failed: mcmdId cannot change");
    enum api_status status = find_parent(call, txn, 0, tag->mcmd_id, &parent);
    if (status == API_OK)
        status = op_stage_tag(call, api_call_arena(call), txn, 0, key, &parent.cmd, *tag);
    return status == API_OK ? op_reply_one(call, key) : status;
}

enum api_status
modbusd_put_master_tag(struct modbusd *self, struct api_call *call,
                       const struct modbusd_put_master_tag_path *path,
                       const struct tag_for_mcmds *body)
{
    struct config_key key;
    struct store_txn *txn = api_txn(call);
    enum api_status status = find(call, txn, path->tag_id, &key);
    return status == API_OK ? replace(self, call, txn, &key, body) : status;
}

enum api_status
modbusd_patch_master_tag(struct modbusd *self, struct api_call *call,
                         const struct modbusd_patch_master_tag_path *path)
{
    struct config_key key;
    struct tag_for_mcmds tag;
    struct store_txn *txn = api_txn(call);
    enum api_status status = find(call, txn, path->tag_id, &key);
    if (status == API_OK)
        status = op_patch(call, txn, &key, &tag_for_mcmds_desc, &tag);
    if (status != API_OK)
        return status;
    /* A type without a size drops the size of the type before, unless one was sent. */
    if (!mb_type_sized((enum mb_type)tag.data_type) && !api_sent(call, "/dataSize"))
        tag.has_data_size = false;
    return replace(self, call, txn, &key, &tag);
}

enum api_status
modbusd_delete_master_tag(struct modbusd *self, struct api_call *call,
                          const struct modbusd_delete_master_tag_path *path)
{
    (void)self;
    struct config_key key;
    struct store_txn *txn = api_txn(call);
    enum api_status status = find(call, txn, path->tag_id, &key);
    if (status != API_OK)
        return status;
    int r = config_del(api_call_arena(call), txn, &key);
    return r != 0 ? op_store_error(call, r) : API_OK;
}
