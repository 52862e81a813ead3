/* The TCP master and its interface: one of each, there from the first start on. */
#include "services/modbusd/op.h"

#include "libcommon/str.h"
#include "libcommon/banned.h"

enum api_status
op_reply_as_list(struct api_call *call, uint32_t which)
{
    struct config_key key = config_key_one(which);
    return op_reply_only(call, &key);
}

/* ---- interface ---- */

enum api_status
modbusd_get_master_tcp_ifaces(struct modbusd *self, struct api_call *call)
{
    (void)self;
    return op_reply_as_list(call, ONE_IFACE);
}

enum api_status
modbusd_get_master_tcp_iface(struct modbusd *self, struct api_call *call,
                             const struct modbusd_get_master_tcp_iface_path *path)
{
    (void)self;
    struct config_key key = config_key_one(ONE_IFACE);
    if (path->master_tcp_iface_id != MODBUSD_IFACE_ID)
        return op_not_found(call);
    return op_reply_one(call, &key);
}

enum api_status
op_stage_iface(struct api_call *call, struct api_arena *a, struct store_txn *txn,
               struct master_tcp_iface iface)
{
    struct config_key key = config_key_one(ONE_IFACE);
    if (iface.tcp_master_id != MODBUSD_MASTER_ID)
        return api_fail(call, API_INVALID, "/tcpMasterId", "Parent's data should exist");
    iface.has_master_tcp_iface_id = true;
    iface.master_tcp_iface_id = MODBUSD_IFACE_ID;
    iface.n_remote_devs = 0;
    int r = config_put(a, txn, &key, &iface);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

static enum api_status
save_iface(struct api_call *call, const struct master_tcp_iface *iface)
{
    struct config_key key = config_key_one(ONE_IFACE);
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    enum api_status status = op_stage_iface(call, api_call_arena(call), txn, *iface);
    return status == API_OK ? op_reply_one(call, &key) : status;
}

enum api_status
modbusd_put_master_tcp_iface(struct modbusd *self, struct api_call *call,
                             const struct modbusd_put_master_tcp_iface_path *path,
                             const struct master_tcp_iface *body)
{
    (void)self;
    if (path->master_tcp_iface_id != MODBUSD_IFACE_ID)
        return op_not_found(call);
    return save_iface(call, body);
}

enum api_status
modbusd_patch_master_tcp_iface(struct modbusd *self, struct api_call *call,
                               const struct modbusd_patch_master_tcp_iface_path *path)
{
    (void)self;
    if (path->master_tcp_iface_id != MODBUSD_IFACE_ID)
        return op_not_found(call);
    struct config_key key = config_key_one(ONE_IFACE);
    struct master_tcp_iface iface = { 0 };
    enum api_status status =
        op_patch(call, api_txn(call), &key, &master_tcp_iface_desc, &iface);
    return status == API_OK ? save_iface(call, &iface) : status;
}

/* ---- master ---- */

enum api_status
modbusd_get_tcp_masters(struct modbusd *self, struct api_call *call)
{
    (void)self;
    return op_reply_as_list(call, ONE_MASTER);
}

enum api_status
modbusd_get_tcp_master(struct modbusd *self, struct api_call *call,
                       const struct modbusd_get_tcp_master_path *path)
{
    (void)self;
    struct config_key key = config_key_one(ONE_MASTER);
    if (path->tcp_master_id != MODBUSD_MASTER_ID)
        return op_not_found(call);
    return op_reply_one(call, &key);
}

enum api_status
op_stage_master(struct api_call *call, struct api_arena *a, struct store_txn *txn,
                struct tcp_master master)
{
    struct config_key key = config_key_one(ONE_MASTER);
    struct config_key slave_key = config_key_sl_one(SL_ONE_SLAVE);
    struct tcp_slave slave;
    int r = config_get(a, txn, &slave_key, &slave);
    if (r != 0)
        return op_store_error(call, r);
    if (str_eq(slave.name, master.name))
        return api_fail(call, API_INVALID, "/name", "name exists already");
    master.has_tcp_master_id = master.has_config_id = true;
    master.tcp_master_id = MODBUSD_MASTER_ID;
    master.config_id = MODBUSD_CONFIG_ID;
    master.n_master_tcp_ifaces = 0;
    r = config_put(a, txn, &key, &master);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

static enum api_status
save_master(struct api_call *call, const struct tcp_master *master)
{
    struct config_key key = config_key_one(ONE_MASTER);
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    enum api_status status = op_stage_master(call, api_call_arena(call), txn, *master);
    return status == API_OK ? op_reply_one(call, &key) : status;
}

enum api_status
modbusd_put_tcp_master(struct modbusd *self, struct api_call *call,
                       const struct modbusd_put_tcp_master_path *path,
                       const struct tcp_master *body)
{
    (void)self;
    if (path->tcp_master_id != MODBUSD_MASTER_ID)
        return op_not_found(call);
    return save_master(call, body);
}

enum api_status
modbusd_patch_tcp_master(struct modbusd *self, struct api_call *call,
                         const struct modbusd_patch_tcp_master_path *path)
{
    (void)self;
    if (path->tcp_master_id != MODBUSD_MASTER_ID)
        return op_not_found(call);
    struct config_key key = config_key_one(ONE_MASTER);
    struct tcp_master master = { 0 };
    enum api_status status = op_patch(call, api_txn(call), &key, &tcp_master_desc, &master);
    return status == API_OK ? save_master(call, &master) : status;
}
