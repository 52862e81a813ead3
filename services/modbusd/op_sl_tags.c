/* Own tags of zones. */
#include <errno.h>

#include "services/modbusd/op_sl.h"
#include "libcommon/banned.h"

enum api_status
modbusd_get_slave_tags(struct modbusd *self, struct api_call *call)
{
    (void)self;
    return op_reply_all(call, KIND_SL_TAG);
}

static enum api_status
find(struct api_call *call, struct store_txn *txn, int64_t id, struct config_key *ret_key)
{
    if (!txn)
        return API_INTERNAL;
    int r = config_find_in_zone(txn, KIND_SL_TAG, (uint32_t)id, ret_key);
    if (r == STORE_NOT_FOUND)
        return op_not_found(call);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

static enum api_status
save(struct sl_stage *s, const struct config_key *key, const struct tag_for_szone *tag)
{
    struct szone zone;
    uint32_t other;
    struct config_key zone_key = config_key_zone(config_key_part(key, 0));
    int r = config_get(api_call_arena(s->call), s->txn, &zone_key, &zone);
    if (r != 0)
        return op_store_error(s->call, r);
    enum api_status status = sl_check_tag(s->call, 0, "", &zone, tag);
    if (status != API_OK)
        return status;
    r = config_sl_tag_named(s->txn, tag->name, &other);
    if (r == STORE_OK && other != config_key_id(key))
        return api_fail(s->call, API_INVALID, "/name", "name exists already");
    if (r >= 0)
        r = config_put(api_call_arena(s->call), s->txn, key, tag);
    return r < 0 ? op_store_error(s->call, r) : sl_stage_check(s, 0, &zone_key, &zone);
}

enum api_status
modbusd_patch_slave_tag(struct modbusd *self, struct api_call *call,
                        const struct modbusd_patch_slave_tag_path *path)
{
    struct sl_stage s;
    struct config_key key;
    struct tag_for_szone tag;
    enum api_status status = sl_stage_begin(self, call, &s);
    if (status == API_OK)
        status = find(call, s.txn, path->tag_id, &key);
    if (status == API_OK)
        status = op_patch(call, s.txn, &key, &tag_for_szone_desc, &tag);
    if (status != API_OK)
        return status;
    /* A type without a size drops the size of the type before, unless one was sent. */
    if (!mb_type_sized((enum mb_type)tag.data_type) && !api_sent(call, "/dataSize"))
        tag.has_data_size = false;
    status = save(&s, &key, &tag);
    return status == API_OK ? op_reply_one(call, &key) : status;
}

enum api_status
modbusd_delete_slave_tag(struct modbusd *self, struct api_call *call,
                         const struct modbusd_delete_slave_tag_path *path)
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
