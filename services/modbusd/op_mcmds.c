/* Commands, and the tags made with them. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "services/modbusd/op.h"
#include "libcommon/banned.h"

enum { RECORD_ARENA_MAX = 1 << 20 };

static enum api_status
wrong(struct api_call *call, size_t i, const char *member, const char *text)
{
    return api_fail(call, API_INVALID, op_pointer(call, i, member), "Input value failed: %s %s",
                    member, text);
}

static enum api_status
check_range(struct api_call *call, size_t i, const struct mcmd *cmd)
{
    unsigned func = (unsigned)cmd->func;
    if (mb_func_reads(func)) {
        if (cmd->read_quantity > mb_func_read_max(func))
            return wrong(call, i, "readQuantity", "is more than the function can read");
        if (cmd->read_address + cmd->read_quantity > 65536)
            return wrong(call, i, "readQuantity", "reaches past address 65535");
    }
    if (mb_func_writes(func)) {
        if (cmd->write_quantity > mb_func_write_max(func))
            return wrong(call, i, "writeQuantity", "is more than the function can write");
        if (cmd->write_address + cmd->write_quantity > 65536)
            return wrong(call, i, "writeQuantity", "reaches past address 65535");
    } else if (cmd->mode != 0) {
        return wrong(call, i, "mode", "1 is for functions that write");
    }
    return API_OK;
}

/* Data of the user must be all the data of the command, no more and no less. */
static enum api_status
check_user_data(struct api_call *call, size_t i, const char *member, const char *text,
                size_t size)
{
    size_t n = mb_user_data_size(text);
    if (n == size)
        return API_OK;
    return api_fail(call, API_INVALID, op_pointer(call, i, member),
                    "Input value failed: %s has %zu bytes, the data of the command %zu", member,
                    n, size);
}

static enum api_status
check_instead(struct api_call *call, size_t i, const struct mb_cmd_config *cmd)
{
    size_t read_size = mb_cmd_read_size(cmd), write_size = mb_cmd_write_size(cmd);
    if (cmd->fault_func != MB_KEEP && write_size == 0)
        return wrong(call, i, "fpFunc", "1 and 2 are for functions that write");
    if (cmd->status_func != MB_KEEP && read_size == 0)
        return wrong(call, i, "stFunc", "1 and 2 are for functions that read");
    enum api_status status = API_OK;
    if (cmd->fault_func == MB_USER_DATA)
        status = check_user_data(call, i, "fpData", cmd->fault_data, write_size);
    if (status == API_OK && cmd->status_func == MB_USER_DATA)
        status = check_user_data(call, i, "stData", cmd->status_data, read_size);
    return status;
}

/* What the record says by itself. */
static enum api_status
check_values(struct api_call *call, size_t i, const struct mcmd *cmd)
{
    struct mb_cmd_config config;
    if (cmd->scaling_func == 2 && cmd->point_source_min == cmd->point_source_max)
        return wrong(call, i, "pointSourceMax", "must differ from pointSourceMin");
    config_to_cmd(cmd, &config);
    if (config.scaling.on &&
        (!isfinite(config.scaling.slope) || !isfinite(config.scaling.offset)))
        return wrong(call, i, "scalingFunc", "leads to a slope that is no finite number");
    enum api_status status = check_range(call, i, cmd);
    return status == API_OK ? check_instead(call, i, &config) : status;
}

/* Does it speak to all units of a serial line? Nobody may answer then. */
static bool
is_broadcast(const struct remote_dev *dev)
{
    return dev->has_master_ser_iface_id && dev->slave_id == 0;
}

static enum api_status
check_broadcast(struct api_call *call, struct store_txn *txn, size_t i, uint32_t dev_id,
                const struct mcmd *cmd)
{
    struct remote_dev dev;
    struct config_key key = config_key_dev(dev_id);
    if (!mb_func_reads((unsigned)cmd->func))
        return API_OK;
    int r = config_get(api_call_arena(call), txn, &key, &dev);
    if (r != 0)
        return op_store_error(call, r);
    return is_broadcast(&dev)
               ? wrong(call, i, "func", "must only write: slaveId 0 is all units")
               : API_OK;
}

enum api_status
op_check_only_writes(struct api_call *call, struct store_txn *txn, const char *at, uint32_t dev)
{
    struct store_iter it;
    struct config_key key = config_key_dev(dev);
    bool reads = false;
    int r = store_iter_init(&it, txn, DB_CMD, key.bytes, key.size, false);
    if (r < 0)
        return op_store_error(call, r);
    while (!reads && (r = store_iter_next(&it)) == STORE_OK && it.key_size >= key.size &&
           memcmp(it.key, key.bytes, key.size) == 0) {
        struct mcmd cmd;
        r = api_store_value(api_call_arena(call), it.value, it.size, &mcmd_desc, &cmd);
        if (r < 0)
            break;
        reads = mb_func_reads((unsigned)cmd.func);
    }
    store_iter_done(&it);
    if (r < 0)
        return op_store_error(call, r);
    if (!reads)
        return API_OK;
    return api_fail(call, API_INVALID, api_printf(call, "%s/slaveId", at),
                    "Input value failed: slaveId 0 is all units, for commands that only write");
}

static enum api_status
check_name(struct api_call *call, struct store_txn *txn, size_t i, uint32_t dev,
           const struct mcmd *cmd, uint32_t id)
{
    uint32_t other;
    int r = config_cmd_named(txn, dev, cmd->name, &other);
    if (r < 0)
        return op_store_error(call, r);
    if (r == STORE_OK && other != id)
        return api_fail(call, API_INVALID, op_pointer(call, i, "name"), "name exists already");
    return API_OK;
}

/* The tags that the command has already must still fit. */
static enum api_status
check_tags(struct api_call *call, struct store_txn *txn, const struct config_key *key,
           const struct mcmd *cmd)
{
    struct store_iter it;
    struct mb_cmd_config config;
    enum api_status status = API_OK;
    config_to_cmd(cmd, &config);
    int r = store_iter_init(&it, txn, DB_TAG, key->bytes, key->size, false);
    if (r < 0)
        return op_store_error(call, r);
    while (status == API_OK && (r = store_iter_next(&it)) == STORE_OK &&
           it.key_size >= key->size && memcmp(it.key, key->bytes, key->size) == 0) {
        struct tag_for_mcmds tag;
        struct mb_tag_config tag_config;
        struct mb_codec codec;
        uint8_t access;
        r = api_store_value(api_call_arena(call), it.value, it.size, &tag_for_mcmds_desc, &tag);
        if (r < 0)
            break;
        config_to_tag(&tag, &tag_config);
        const char *text = mb_tag_check(&config, &tag_config, &codec, &access);
        if (text)
            status = api_fail(call, API_INVALID, NULL, "Input value failed: tag %s: %s",
                              tag.name, text);
    }
    store_iter_done(&it);
    return r < 0 ? op_store_error(call, r) : status;
}

enum api_status
op_stage_cmd(struct api_call *call, struct api_arena *a, struct store_txn *txn, size_t i,
             const struct config_key *key, struct mcmd cmd)
{
    uint32_t id = config_key_id(key), dev = config_key_part(key, 0);
    enum api_status status = check_values(call, i, &cmd);
    if (status == API_OK)
        status = check_broadcast(call, txn, i, dev, &cmd);
    if (status == API_OK)
        status = check_name(call, txn, i, dev, &cmd, id);
    if (status == API_OK)
        status = check_tags(call, txn, key, &cmd);
    if (status != API_OK)
        return status;
    cmd.has_mcmd_id = true;
    cmd.mcmd_id = id;
    cmd.remote_dev_id = dev;
    cmd.n_tags = 0;
    int r = config_put(a, txn, key, &cmd);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

/* ---- autoCreate=tags ---- */

/* 'n_made' counts over all commands of the request. */
static enum api_status
auto_create(struct api_call *call, struct store_txn *txn, size_t i,
            const struct config_key *key, const struct mcmd *cmd, size_t *n_made)
{
    struct mb_cmd_config config;
    struct tag_for_mcmds tag;
    config_to_cmd(cmd, &config);
    bool bits = mb_func_bits(config.func), reads = mb_func_reads(config.func);
    int r = api_defaults(api_call_arena(call), &tag_for_mcmds_desc, &tag);
    if (r < 0)
        return op_store_error(call, r);
    if (cmd->has_data_type)
        tag.data_type = cmd->data_type;
    enum mb_type type = (enum mb_type)tag.data_type;
    unsigned units = reads ? config.read_n : config.write_n;
    unsigned size = bits ? units : units * 2;
    if (mb_type_sized(type)) {
        tag.has_data_size = true;
        tag.data_size = bits ? size / 8 : size;
    }
    unsigned one = mb_type_size(type, bits, (unsigned)tag.data_size);
    unsigned n = one ? size / one : 0;
    if (n == 0)
        return wrong(call, i, "dataType", "does not fit into the data of the command");
    *n_made += n;
    if (*n_made > MODBUSD_AUTO_TAGS_MAX)
        return api_fail(call, API_INVALID, op_pointer(call, i, NULL),
                        "Input value failed: autoCreate makes at most %d tags at once",
                        MODBUSD_AUTO_TAGS_MAX);
    for (unsigned k = 0; k < n; k++) {
        struct config_key tag_key;
        tag.offset = k * one;
        tag.name = n == 1 ? cmd->name : api_printf(call, "%s_t%u", cmd->name, k + 1);
        if (!tag.name)
            return API_TOO_LARGE;
        enum api_status status = op_add_tag(call, txn, i, key, &config, &tag, &tag_key);
        if (status != API_OK)
            return status;
    }
    return API_OK;
}

/* The same for a command that is there already, unless it has tags. 'a': for the records. */
static enum api_status
auto_create_below(struct api_call *call, struct api_arena *a, struct store_txn *txn,
                  const struct config_key *key, size_t *n_made)
{
    struct mcmd cmd;
    struct config_key *tags;
    size_t n_tags;
    int r = config_keys_below(a, txn, key, KIND_TAG, &tags, &n_tags);
    if (r == 0)
        r = config_get(a, txn, key, &cmd);
    if (r != 0)
        return op_store_error(call, r);
    if (n_tags > 0)
        return API_OK;
    cmd.has_data_type = mb_func_bits((uint8_t)cmd.func);
    cmd.data_type = MCMD_DATA_TYPE_BOOLEAN;
    enum api_status status = auto_create(call, txn, 0, key, &cmd, n_made);
    if (status != API_INVALID)
        return status;
    const char *pointer, *text;
    api_take_failure(call, &pointer, &text);
    return api_fail(call, API_INVALID, "/mcmdsFile", "command %s: %s", cmd.name, text);
}

enum api_status
op_auto_tags(struct api_call *call, struct store_txn *txn, const struct config_key *dev)
{
    struct config_key *cmds;
    size_t n_cmds, n_made = 0;
    enum api_status status = API_OK;
    int r = config_keys_below(api_call_arena(call), txn, dev, KIND_CMD, &cmds, &n_cmds);
    if (r < 0)
        return op_store_error(call, r);
    for (size_t i = 0; i < n_cmds && status == API_OK; i++) {
        CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(RECORD_ARENA_MAX);
        status = a ? auto_create_below(call, a, txn, &cmds[i], &n_made)
                   : op_store_error(call, -ENOMEM);
    }
    return status;
}

/* ---- operations ---- */

enum api_status
modbusd_get_mcmds(struct modbusd *self, struct api_call *call)
{
    (void)self;
    return op_reply_all(call, KIND_CMD);
}

static enum api_status
add(struct api_call *call, struct store_txn *txn, size_t i, const struct mcmd *cmd,
    bool with_tags, size_t *n_made, struct config_key *ret_key)
{
    if (cmd->has_data_type && !with_tags)
        return wrong(call, i, "dataType", "is for autoCreate=tags");
    struct remote_dev dev;
    uint32_t dev_id = (uint32_t)cmd->remote_dev_id, id;
    struct config_key dev_key = config_key_dev(dev_id);
    int r = config_get(api_call_arena(call), txn, &dev_key, &dev);
    if (r == STORE_NOT_FOUND)
        return api_fail(call, API_INVALID, op_pointer(call, i, "remoteDevId"),
                        "Parent's data should exist");
    if (r == 0)
        r = config_next_id(txn, KIND_CMD, &id);
    if (r != 0)
        return op_store_error(call, r);
    *ret_key = config_key_cmd(dev_id, id);
    enum api_status status = op_stage_cmd(call, api_call_arena(call), txn, i, ret_key, *cmd);
    if (status == API_OK && with_tags)
        status = auto_create(call, txn, i, ret_key, cmd, n_made);
    return status;
}

enum api_status
modbusd_post_mcmds(struct modbusd *self, struct api_call *call,
                   const struct modbusd_post_mcmds_query *query, const struct mcmd *body,
                   size_t n_body)
{
    (void)self;
    struct store_txn *txn = api_txn(call);
    struct config_key *keys = api_alloc(call, n_body * sizeof(*keys));
    size_t n_made = 0;
    if (!txn || !keys)
        return txn ? API_TOO_LARGE : API_INTERNAL;
    enum api_status status = op_check_room(call, txn, DB_CMD, n_body, MODBUSD_CMDS_MAX);
    for (size_t i = 0; i < n_body && status == API_OK; i++)
        status = add(call, txn, i, &body[i], query->has_auto_create, &n_made, &keys[i]);
    if (status == API_OK)
        status = op_check_original_limits(call, txn);
    return status == API_OK ? op_reply_added(call, keys, n_body) : status;
}

enum api_status
modbusd_delete_mcmds(struct modbusd *self, struct api_call *call)
{
    (void)self;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    int r = config_del_all(txn, KIND_CMD);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

/* The key of an existing command; otherwise refused. */
static enum api_status
find(struct api_call *call, struct store_txn *txn, int64_t id, struct config_key *ret_key)
{
    if (!txn)
        return API_INTERNAL;
    int r = config_find_cmd(txn, (uint32_t)id, ret_key);
    if (r == STORE_NOT_FOUND)
        return op_not_found(call);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

enum api_status
modbusd_get_mcmd(struct modbusd *self, struct api_call *call,
                 const struct modbusd_get_mcmd_path *path)
{
    (void)self;
    struct config_key key;
    enum api_status status = find(call, api_view(call), path->mcmd_id, &key);
    return status == API_OK ? op_reply_one(call, &key) : status;
}

static enum api_status
replace(struct modbusd *self, struct api_call *call, struct store_txn *txn,
        const struct config_key *key, const struct mcmd *cmd)
{
    (void)self;
    if (cmd->remote_dev_id != config_key_part(key, 0))
        return wrong(call, 0, "remoteDevId", "cannot change");
    if (cmd->has_data_type)
        return wrong(call, 0, "dataType", "is for autoCreate=tags");
    enum api_status status = op_stage_cmd(call, api_call_arena(call), txn, 0, key, *cmd);
    return status == API_OK ? op_reply_one(call, key) : status;
}

enum api_status
modbusd_put_mcmd(struct modbusd *self, struct api_call *call,
                 const struct modbusd_put_mcmd_path *path, const struct mcmd *body)
{
    struct config_key key;
    struct store_txn *txn = api_txn(call);
    enum api_status status = find(call, txn, path->mcmd_id, &key);
    return status == API_OK ? replace(self, call, txn, &key, body) : status;
}

enum api_status
modbusd_patch_mcmd(struct modbusd *self, struct api_call *call,
                   const struct modbusd_patch_mcmd_path *path)
{
    struct config_key key;
    struct mcmd cmd;
    struct store_txn *txn = api_txn(call);
    enum api_status status = find(call, txn, path->mcmd_id, &key);
    if (status == API_OK)
        status = op_patch(call, txn, &key, &mcmd_desc, &cmd);
    return status == API_OK ? replace(self, call, txn, &key, &cmd) : status;
}

enum api_status
modbusd_delete_mcmd(struct modbusd *self, struct api_call *call,
                    const struct modbusd_delete_mcmd_path *path)
{
    (void)self;
    struct config_key key;
    struct store_txn *txn = api_txn(call);
    enum api_status status = find(call, txn, path->mcmd_id, &key);
    if (status != API_OK)
        return status;
    int r = config_del(api_call_arena(call), txn, &key);
    return r != 0 ? op_store_error(call, r) : API_OK;
}
