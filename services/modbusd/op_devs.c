/* Remote devices. */
#include <errno.h>
#include <inttypes.h>

#include "services/modbusd/op.h"
#include "services/modbusd/sl_config.h"
#include "libcommon/banned.h"

static const char *
below(struct api_call *call, const char *at, const char *member)
{
    const char *text = api_printf(call, "%s/%s", at, member);
    return text ? text : "";
}

static enum api_status
no_parent(struct api_call *call, const char *at, const char *member)
{
    return api_fail(call, API_INVALID, below(call, at, member), "Parent's data should exist");
}

static enum api_status
check_tcp(struct api_call *call, const char *at, const struct remote_dev *dev)
{
    struct mb_address address;
    if (!dev->has_master_tcp_iface_id)
        return api_fail(call, API_INVALID, below(call, at, "masterTcpIfaceId"),
                        "masterTcpIfaceId should exist");
    if (dev->master_tcp_iface_id != MODBUSD_IFACE_ID)
        return no_parent(call, at, "masterTcpIfaceId");
    if (mb_address_parse(dev->slave_ipaddr, (uint16_t)dev->slave_tcp_port, &address) < 0)
        return api_fail(call, API_INVALID, below(call, at, "slaveIpaddr"),
                        "Input value failed: slaveIpaddr must be an IPv4 or IPv6 address");
    return API_OK;
}

static enum api_status
check_serial(struct api_call *call, struct store_txn *txn, const char *at,
             const struct remote_dev *dev, uint32_t id)
{
    struct master_ser_iface iface;
    struct config_key key = config_key_ser_iface((uint32_t)dev->master_ser_iface_id);
    if (dev->has_master_tcp_iface_id)
        return api_fail(
            call, API_INVALID, below(call, at, "masterSerIfaceId"),
            "Input value failed: a device has masterTcpIfaceId or masterSerIfaceId");
    if (dev->master_ser_iface_id < 1 || dev->master_ser_iface_id > SERIAL_PORTS_MAX)
        return no_parent(call, at, "masterSerIfaceId");
    int r = config_get(api_call_arena(call), txn, &key, &iface);
    if (r != 0)
        return r < 0 ? op_store_error(call, r) : no_parent(call, at, "masterSerIfaceId");
    struct ser_slave slave;
    struct config_key slave_key = sl_config_ser_key((uint32_t)dev->master_ser_iface_id);
    r = config_get(api_call_arena(call), txn, &slave_key, &slave);
    if (r < 0)
        return op_store_error(call, r);
    if (r == STORE_OK)
        return api_fail(call, API_INVALID, below(call, at, "masterSerIfaceId"),
                        "Input value failed: a slave uses this serial port");
    if (dev->enable_concurrent_transaction)
        return api_fail(call, API_INVALID, below(call, at, "enableConcurrentTransaction"),
                        "Input value failed: enableConcurrentTransaction must be 0 on a serial "
                        "line");
    return dev->slave_id == 0 ? op_check_only_writes(call, txn, at, id) : API_OK;
}

/* A device stays where it is: its parent is part of what it is. */
static enum api_status
check_parent(struct api_call *call, const struct remote_dev *old, const struct remote_dev *dev)
{
    if (dev->has_master_ser_iface_id != old->has_master_ser_iface_id)
        return api_fail(call, API_INVALID,
                        old->has_master_ser_iface_id ? "/masterTcpIfaceId"
                                                     : "/masterSerIfaceId",
                        "Input value failed: the parent cannot change");
    if (dev->has_master_ser_iface_id && dev->master_ser_iface_id != old->master_ser_iface_id)
        return api_fail(call, API_INVALID, "/masterSerIfaceId",
                        "Input value failed: the parent cannot change");
    return API_OK;
}

/* Rules a schema cannot say; 'id' is the device's own number. */
static enum api_status
check(struct api_call *call, struct store_txn *txn, const char *at,
      const struct remote_dev *dev, uint32_t id)
{
    uint32_t other;
    bool serial = dev->has_master_ser_iface_id;
    enum api_status status =
        serial ? check_serial(call, txn, at, dev, id) : check_tcp(call, at, dev);
    if (status != API_OK)
        return status;
    int r = serial ? config_ser_dev_named(txn, dev->name, &other)
                   : config_dev_named(txn, dev->name, &other);
    if (r < 0)
        return op_store_error(call, r);
    if (r == STORE_OK && other != id)
        return api_fail(call, API_INVALID, below(call, at, "name"), "name exists already");
    r = config_dev_at(txn, dev, &other);
    if (r < 0)
        return op_store_error(call, r);
    if (r == STORE_OK && other != id)
        return api_fail(call, API_INVALID, below(call, at, "slaveId"),
                        "slaveId exists already");
    return API_OK;
}

enum api_status
op_save_dev(struct api_call *call, struct store_txn *txn, const char *at,
            const struct config_key *key, struct remote_dev dev)
{
    uint32_t id = config_key_id(key);
    enum api_status status = check(call, txn, at, &dev, id);
    if (status != API_OK)
        return status;
    dev.has_remote_dev_id = true;
    dev.remote_dev_id = id;
    dev.n_mcmds = 0;
    int r = config_put(api_call_arena(call), txn, key, &dev);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

enum api_status
modbusd_get_remote_devs(struct modbusd *self, struct api_call *call)
{
    (void)self;
    return op_reply_all(call, KIND_DEV);
}

/* Stages new ones; their keys. */
static enum api_status
add_all(struct api_call *call, struct store_txn *txn, const struct remote_dev *devs, size_t n,
        struct config_key *ret_keys)
{
    enum api_status status = op_check_room(call, txn, DB_DEV, n, MODBUSD_DEVS_MAX);
    for (size_t i = 0; i < n && status == API_OK; i++) {
        uint32_t id;
        int r = config_next_id(txn, KIND_DEV, &id);
        if (r != 0)
            return op_store_error(call, r);
        ret_keys[i] = config_key_dev(id);
        status = op_save_dev(call, txn, op_pointer(call, i, NULL), &ret_keys[i], devs[i]);
    }
    return status == API_OK ? op_check_original_limits(call, txn) : status;
}

/* The device of a form, with what is below it in the part mcmdsFile. */
static enum api_status
add_form(struct api_call *call, struct store_txn *txn, bool with_tags)
{
    struct remote_dev dev;
    struct config_key key;
    uint64_t n_cmds, n_tags;
    enum api_status status = api_form_decode(call, &remote_dev_desc, "mcmdsFile", &dev);
    if (status == API_OK)
        status = add_all(call, txn, &dev, 1, &key);
    if (status == API_OK)
        status = op_import_cmds(call, config_key_id(&key), &n_cmds, &n_tags);
    if (status == API_OK && with_tags)
        status = op_auto_tags(call, txn, &key);
    if (status != API_OK)
        return status;
    api_audit_message(call, "%s: %s with %" PRIu64 " commands", call->op->summary, dev.name,
                      n_cmds);
    return op_reply_one(call, &key);
}

enum api_status
modbusd_post_remote_devs(struct modbusd *self, struct api_call *call,
                         const struct modbusd_post_remote_devs_query *query,
                         const struct remote_dev *body, size_t n_body)
{
    (void)self; /* the loop's */
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    if (n_body == 0)
        return add_form(call, txn, query->has_auto_create);
    struct config_key *keys = api_alloc(call, n_body * sizeof(*keys));
    if (!keys)
        return API_TOO_LARGE;
    enum api_status status = add_all(call, txn, body, n_body, keys);
    return status == API_OK ? op_reply_added(call, keys, n_body) : status;
}

enum api_status
modbusd_delete_remote_devs(struct modbusd *self, struct api_call *call)
{
    (void)self;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    int r = config_del_all(txn, KIND_DEV);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

enum api_status
modbusd_get_remote_dev(struct modbusd *self, struct api_call *call,
                       const struct modbusd_get_remote_dev_path *path)
{
    (void)self;
    struct config_key key = config_key_dev((uint32_t)path->remote_dev_id);
    return op_reply_one(call, &key);
}

enum api_status
modbusd_put_remote_dev(struct modbusd *self, struct api_call *call,
                       const struct modbusd_put_remote_dev_path *path,
                       const struct remote_dev *body)
{
    (void)self;
    struct config_key key = config_key_dev((uint32_t)path->remote_dev_id);
    struct remote_dev old;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    int r = config_get(api_call_arena(call), txn, &key, &old);
    if (r != 0)
        return r < 0 ? op_store_error(call, r) : op_not_found(call);
    enum api_status status = check_parent(call, &old, body);
    if (status == API_OK)
        status = op_save_dev(call, txn, "", &key, *body);
    return status == API_OK ? op_reply_one(call, &key) : status;
}

enum api_status
modbusd_patch_remote_dev(struct modbusd *self, struct api_call *call,
                         const struct modbusd_patch_remote_dev_path *path)
{
    (void)self;
    struct config_key key = config_key_dev((uint32_t)path->remote_dev_id);
    struct remote_dev dev;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    int r = config_get(api_call_arena(call), txn, &key, &dev);
    if (r != 0)
        return r < 0 ? op_store_error(call, r) : op_not_found(call);
    struct remote_dev old = dev;
    enum api_status status = api_merge(call, &remote_dev_desc, &dev);
    if (status == API_OK)
        status = check_parent(call, &old, &dev);
    if (status == API_OK)
        status = op_save_dev(call, txn, "", &key, dev);
    return status == API_OK ? op_reply_one(call, &key) : status;
}

enum api_status
modbusd_delete_remote_dev(struct modbusd *self, struct api_call *call,
                          const struct modbusd_delete_remote_dev_path *path)
{
    (void)self;
    struct config_key key = config_key_dev((uint32_t)path->remote_dev_id);
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    int r = config_del(api_call_arena(call), txn, &key);
    if (r != 0)
        return r < 0 ? op_store_error(call, r) : op_not_found(call);
    return API_OK;
}
