/*
 * A device once more: with another name and address, and all that is below it. Of serial
 * interfaces (op_ser.c) only the settings are copied.
 */
#include <errno.h>
#include <string.h>

#include "services/modbusd/op.h"
#include "libcommon/banned.h"

enum { RECORD_ARENA_MAX = 1 << 20 };

/* The source with what 'dest' gives, at *ret_to. */
static enum api_status
clone_dev(struct api_call *call, struct store_txn *txn, const struct clone_body *body,
          const struct config_key *from, struct config_key *ret_to)
{
    const struct clone_dest *dest = &body->dest;
    struct remote_dev dev;
    uint32_t id;
    int r = config_get(api_call_arena(call), txn, from, &dev);
    if (r == STORE_NOT_FOUND)
        return api_fail(call, API_INVALID, "/src/remoteDevId", "Parent's data should exist");
    if (r == 0)
        r = config_next_id(txn, KIND_DEV, &id);
    if (r != 0)
        return op_store_error(call, r);
    dev.name = dest->name;
    if (dest->has_slave_id)
        dev.slave_id = dest->slave_id;
    if (dest->slave_ipaddr)
        dev.slave_ipaddr = dest->slave_ipaddr;
    if (dest->has_slave_tcp_port)
        dev.slave_tcp_port = dest->slave_tcp_port;
    if (dest->has_enable)
        dev.enable = dest->enable;
    *ret_to = config_key_dev(id);
    return op_save_dev(call, txn, "/dest", ret_to, dev);
}

/* The names that a command and a tag need to be unique for are those of the new device. */
static int
clone_cmd(struct store_txn *txn, const struct config_key *from, uint32_t dev, uint32_t *ret_id)
{
    CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(RECORD_ARENA_MAX);
    struct mcmd cmd;
    uint32_t id;
    int r = a ? config_get(a, txn, from, &cmd) : -ENOMEM;
    if (r == 0)
        r = config_next_id(txn, KIND_CMD, &id);
    if (r != 0)
        return r;
    struct config_key key = config_key_cmd(dev, id);
    cmd.remote_dev_id = dev;
    cmd.mcmd_id = *ret_id = id;
    return config_put(a, txn, &key, &cmd);
}

static int
clone_tag(struct store_txn *txn, const struct config_key *from, uint32_t dev, uint32_t cmd)
{
    CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(RECORD_ARENA_MAX);
    struct tag_for_mcmds tag;
    uint32_t id;
    int r = a ? config_get(a, txn, from, &tag) : -ENOMEM;
    if (r == 0)
        r = config_next_id(txn, KIND_TAG, &id);
    if (r != 0)
        return r;
    struct config_key key = config_key_tag(dev, cmd, id);
    tag.mcmd_id = cmd;
    tag.tag_id = id;
    return config_put(a, txn, &key, &tag);
}

/* Commands with their tags; both lists are in order of their keys. */
static int
clone_below(struct store_txn *txn, uint32_t dev, const struct config_key *cmds, size_t n_cmds,
            const struct config_key *tags, size_t n_tags)
{
    size_t at = 0;
    for (size_t i = 0; i < n_cmds; i++) {
        uint32_t cmd;
        int r = clone_cmd(txn, &cmds[i], dev, &cmd);
        while (r == 0 && at < n_tags &&
               config_key_part(&tags[at], 1) == config_key_part(&cmds[i], 1))
            r = clone_tag(txn, &tags[at++], dev, cmd);
        if (r != 0)
            return r;
    }
    return 0;
}

static enum api_status
check_room(struct api_call *call, struct store_txn *txn, size_t n_cmds, size_t n_tags)
{
    if (n_tags > MODBUSD_AUTO_TAGS_MAX)
        return api_fail(call, API_INVALID, "/src/remoteDevId",
                        "Input value failed: the device has more than %d tags",
                        MODBUSD_AUTO_TAGS_MAX);
    enum api_status status = op_check_room(call, txn, DB_DEV, 1, MODBUSD_DEVS_MAX);
    if (status == API_OK)
        status = op_check_room(call, txn, DB_CMD, n_cmds, MODBUSD_CMDS_MAX);
    if (status == API_OK)
        status = op_check_room(call, txn, DB_TAG, n_tags, MODBUSD_TAGS_MAX);
    return status;
}

static enum api_status
clone_dev_whole(struct api_call *call, struct store_txn *txn, const struct clone_body *body)
{
    struct config_key from = config_key_dev((uint32_t)body->src.remote_dev_id), to;
    struct config_key *cmds = NULL, *tags = NULL;
    size_t n_cmds = 0, n_tags = 0;
    struct api_arena *a = api_call_arena(call);
    int r = config_keys_below(a, txn, &from, KIND_CMD, &cmds, &n_cmds);
    if (r == 0)
        r = config_keys_below(a, txn, &from, KIND_TAG, &tags, &n_tags);
    if (r < 0)
        return op_store_error(call, r);
    enum api_status status = check_room(call, txn, n_cmds, n_tags);
    if (status == API_OK)
        status = clone_dev(call, txn, body, &from, &to);
    if (status != API_OK)
        return status;
    r = clone_below(txn, config_key_id(&to), cmds, n_cmds, tags, n_tags);
    if (r != 0)
        return op_store_error(call, r);
    status = op_check_original_limits(call, txn);
    return status == API_OK ? op_reply_one(call, &to) : status;
}

static enum api_status
should_exist(struct api_call *call, const char *pointer)
{
    return api_fail(call, API_INVALID, pointer, "%s should exist", strrchr(pointer, '/') + 1);
}

static enum api_status
not_for(struct api_call *call, const char *pointer, const char *resource)
{
    return api_fail(call, API_INVALID, pointer, "%s is not for %s", strrchr(pointer, '/') + 1,
                    resource);
}

/* What the one resource needs and the other does not have. */
static enum api_status
check_dev_members(struct api_call *call, const struct clone_body *body)
{
    static const char resource[] = "remote-devs";
    if (!body->src.has_remote_dev_id)
        return should_exist(call, "/src/remoteDevId");
    if (body->src.has_master_ser_iface_id)
        return not_for(call, "/src/masterSerIfaceId", resource);
    if (!body->dest.name)
        return should_exist(call, "/dest/name");
    if (body->dest.n_master_ser_iface_ids > 0)
        return not_for(call, "/dest/masterSerIfaceIds", resource);
    return API_OK;
}

static enum api_status
check_iface_members(struct api_call *call, const struct clone_body *body)
{
    static const char resource[] = "master-ser-ifaces";
    const struct clone_dest *dest = &body->dest;
    if (!body->src.has_master_ser_iface_id)
        return should_exist(call, "/src/masterSerIfaceId");
    if (body->src.has_remote_dev_id)
        return not_for(call, "/src/remoteDevId", resource);
    if (dest->n_master_ser_iface_ids == 0)
        return should_exist(call, "/dest/masterSerIfaceIds");
    if (dest->name)
        return not_for(call, "/dest/name", resource);
    if (dest->has_slave_id)
        return not_for(call, "/dest/slaveId", resource);
    if (dest->slave_ipaddr)
        return not_for(call, "/dest/slaveIpaddr", resource);
    if (dest->has_slave_tcp_port)
        return not_for(call, "/dest/slaveTcpPort", resource);
    if (dest->has_enable)
        return not_for(call, "/dest/enable", resource);
    return API_OK;
}

enum api_status
modbusd_clone_master_config(struct modbusd *self, struct api_call *call,
                            const struct clone_body *body)
{
    (void)self;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    if (body->resource == CLONE_BODY_RESOURCE_MASTER_SER_IFACES) {
        enum api_status status = check_iface_members(call, body);
        return status == API_OK ? op_clone_ser_iface(call, txn, body) : status;
    }
    enum api_status status = check_dev_members(call, body);
    return status == API_OK ? clone_dev_whole(call, txn, body) : status;
}
