/* The TCP slave and the parameters of slaves: one of each, there from the first start on. */
#include "services/modbusd/op_sl.h"

#include "libcommon/str.h"
#include "libcommon/banned.h"

static enum api_status
save(struct api_call *call, uint32_t which, const void *record)
{
    struct config_key key = config_key_sl_one(which);
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    int r = config_put(api_call_arena(call), txn, &key, record);
    return r < 0 ? op_store_error(call, r) : op_reply_one(call, &key);
}

/* ---- slave ---- */

enum api_status
modbusd_get_tcp_slaves(struct modbusd *self, struct api_call *call)
{
    (void)self;
    struct config_key key = config_key_sl_one(SL_ONE_SLAVE);
    return op_reply_only(call, &key);
}

enum api_status
modbusd_get_tcp_slave(struct modbusd *self, struct api_call *call,
                      const struct modbusd_get_tcp_slave_path *path)
{
    (void)self;
    struct config_key key = config_key_sl_one(SL_ONE_SLAVE);
    return path->tcp_slave_id == MODBUSD_SLAVE_ID ? op_reply_one(call, &key)
                                                  : op_not_found(call);
}

/* In the tag hub, masters and slave are told apart by their names. */
static enum api_status
check_name(struct api_call *call, struct store_txn *txn, const char *name)
{
    struct config_key tcp_key = config_key_one(ONE_MASTER);
    struct config_key ser_key = config_key_one(ONE_SER_MASTER);
    struct tcp_master tcp;
    struct ser_master ser;
    int r = config_get(api_call_arena(call), txn, &tcp_key, &tcp);
    if (r == 0)
        r = config_get(api_call_arena(call), txn, &ser_key, &ser);
    if (r != 0)
        return op_store_error(call, r);
    return str_eq(tcp.name, name) || str_eq(ser.name, name)
               ? api_fail(call, API_INVALID, "/name", "name exists already")
               : API_OK;
}

static enum api_status
save_slave(struct api_call *call, struct tcp_slave slave)
{
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    enum api_status status = check_name(call, txn, slave.name);
    if (status != API_OK)
        return status;
    slave.has_tcp_slave_id = slave.has_config_id = true;
    slave.tcp_slave_id = MODBUSD_SLAVE_ID;
    slave.config_id = MODBUSD_CONFIG_ID;
    slave.n_szones = 0;
    return save(call, SL_ONE_SLAVE, &slave);
}

enum api_status
modbusd_put_tcp_slave(struct modbusd *self, struct api_call *call,
                      const struct modbusd_put_tcp_slave_path *path,
                      const struct tcp_slave *body)
{
    (void)self;
    return path->tcp_slave_id == MODBUSD_SLAVE_ID ? save_slave(call, *body)
                                                  : op_not_found(call);
}

enum api_status
modbusd_patch_tcp_slave(struct modbusd *self, struct api_call *call,
                        const struct modbusd_patch_tcp_slave_path *path)
{
    (void)self;
    struct config_key key = config_key_sl_one(SL_ONE_SLAVE);
    struct tcp_slave slave;
    if (path->tcp_slave_id != MODBUSD_SLAVE_ID)
        return op_not_found(call);
    enum api_status status = op_patch(call, api_txn(call), &key, &tcp_slave_desc, &slave);
    return status == API_OK ? save_slave(call, slave) : status;
}

/* ---- parameters ---- */

enum api_status
modbusd_get_slave_params(struct modbusd *self, struct api_call *call)
{
    (void)self;
    struct config_key key = config_key_sl_one(SL_ONE_PARAMS);
    return op_reply_one(call, &key);
}

enum api_status
modbusd_patch_slave_params(struct modbusd *self, struct api_call *call)
{
    (void)self;
    struct config_key key = config_key_sl_one(SL_ONE_PARAMS);
    struct slave_param params;
    enum api_status status = op_patch(call, api_txn(call), &key, &slave_param_desc, &params);
    return status == API_OK ? save(call, SL_ONE_PARAMS, &params) : status;
}
