/* Serial slaves: one for a serial port, which no device of the master uses. */
#include "services/modbusd/op_sl.h"
#include "libcommon/banned.h"

/* API_OK with the staged record, or a refusal. */
static enum api_status
find(struct api_call *call, struct store_txn *txn, int64_t id, struct ser_slave *ret_slave)
{
    if (!txn)
        return API_INTERNAL;
    if (id < 1 || id > SERIAL_PORTS_MAX)
        return op_not_found(call);
    struct config_key key = sl_config_ser_key((uint32_t)id);
    int r = config_get(api_call_arena(call), txn, &key, ret_slave);
    if (r != 0)
        return r < 0 ? op_store_error(call, r) : op_not_found(call);
    return API_OK;
}

enum api_status
modbusd_get_ser_slaves(struct modbusd *self, struct api_call *call)
{
    (void)self;
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    for (uint32_t id = 1; id <= SERIAL_PORTS_MAX; id++) {
        struct ser_slave slave;
        struct config_key key = sl_config_ser_key(id);
        int r = config_get(api_call_arena(call), txn, &key, &slave);
        if (r < 0)
            return op_store_error(call, r);
        if (r == STORE_OK)
            api_item(call, &slave);
    }
    return API_OK;
}

enum api_status
modbusd_get_ser_slave(struct modbusd *self, struct api_call *call,
                      const struct modbusd_get_ser_slave_path *path, struct ser_slave *reply)
{
    (void)self;
    return find(call, api_view(call), path->ser_slave_id, reply);
}

static enum api_status
save(struct api_call *call, struct store_txn *txn, struct ser_slave slave,
     struct ser_slave *reply)
{
    uint32_t id = (uint32_t)slave.port_value + 1;
    struct config_key key = sl_config_ser_key(id);
    slave.has_ser_slave_id = true;
    slave.ser_slave_id = id;
    int r = config_put(api_call_arena(call), txn, &key, &slave);
    if (r < 0)
        return op_store_error(call, r);
    *reply = slave;
    return API_OK;
}

enum api_status
modbusd_post_ser_slave(struct modbusd *self, struct api_call *call,
                       const struct ser_slave *body, struct ser_slave *reply)
{
    (void)self;
    uint32_t id = (uint32_t)body->port_value + 1;
    struct config_key key = sl_config_ser_key(id), iface_key = config_key_ser_iface(id);
    struct master_ser_iface iface;
    struct ser_slave old;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    int r = config_get(api_call_arena(call), txn, &iface_key, &iface);
    if (r == STORE_NOT_FOUND) /* each port that iod told of has one */
        return api_fail(call, API_INVALID, "/portValue",
                        "Input value failed: there is no such serial port");
    if (r == 0)
        r = config_get(api_call_arena(call), txn, &key, &old);
    if (r == 0)
        return api_fail(call, API_INVALID, "/portValue",
                        "Input value failed: this serial port has a slave already");
    if (r == STORE_NOT_FOUND)
        r = config_ser_iface_has_devs(txn, id);
    if (r > 0)
        return api_fail(call, API_INVALID, "/portValue",
                        "Input value failed: devices of the master use this serial port");
    return r < 0 ? op_store_error(call, r) : save(call, txn, *body, reply);
}

enum api_status
modbusd_patch_ser_slave(struct modbusd *self, struct api_call *call,
                        const struct modbusd_patch_ser_slave_path *path,
                        struct ser_slave *reply)
{
    (void)self;
    struct ser_slave slave;
    struct store_txn *txn = api_txn(call);
    enum api_status status = find(call, txn, path->ser_slave_id, &slave);
    if (status == API_OK)
        status = api_merge(call, &ser_slave_desc, &slave);
    if (status == API_OK && slave.port_value + 1 != path->ser_slave_id)
        return api_fail(call, API_INVALID, "/portValue",
                        "Input value failed: portValue cannot change, each port has its own "
                        "slave");
    return status == API_OK ? save(call, txn, slave, reply) : status;
}

enum api_status
modbusd_delete_ser_slave(struct modbusd *self, struct api_call *call,
                         const struct modbusd_delete_ser_slave_path *path)
{
    (void)self;
    struct ser_slave slave;
    struct store_txn *txn = api_txn(call);
    enum api_status status = find(call, txn, path->ser_slave_id, &slave);
    if (status != API_OK)
        return status;
    struct config_key key = sl_config_ser_key((uint32_t)path->ser_slave_id);
    int r = sl_config_has_zones(txn, (uint32_t)path->ser_slave_id);
    if (r > 0)
        return api_fail(call, API_INVALID, "/serSlaveId",
                        "Input value failed: zones with this serSlaveId exist");
    if (r == 0)
        r = config_del(api_call_arena(call), txn, &key);
    return r < 0 ? op_store_error(call, r) : API_OK;
}
