/* Parameters of all masters; the configuration as a whole, and what it amounts to. */
#include <errno.h>
#include <string.h>

#include "libcommon/json.h"
#include "services/modbusd/op.h"
#include "libcommon/banned.h"

enum { TREE_MAX = 128 << 20, OVERVIEW_MAX = 1 << 20 };

/* ---- parameters ---- */

enum api_status
modbusd_get_master_params(struct modbusd *self, struct api_call *call)
{
    (void)self;
    return op_reply_as_list(call, ONE_PARAMS);
}

static enum api_status
save(struct api_call *call, struct master_param params)
{
    struct config_key key = config_key_one(ONE_PARAMS);
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    params.has_master_param_id = params.has_config_id = true;
    params.master_param_id = MODBUSD_PARAMS_ID;
    params.config_id = MODBUSD_CONFIG_ID;
    int r = config_put(api_call_arena(call), txn, &key, &params);
    return r < 0 ? op_store_error(call, r) : op_reply_as_list(call, ONE_PARAMS);
}

enum api_status
modbusd_put_master_params(struct modbusd *self, struct api_call *call,
                          const struct master_param *body)
{
    (void)self;
    return save(call, *body);
}

/* The staged parameters. */
static enum api_status
get_params(struct api_call *call, struct store_txn *txn, struct master_param *ret_params)
{
    struct config_key key = config_key_one(ONE_PARAMS);
    if (!txn)
        return API_INTERNAL;
    int r = config_get(api_call_arena(call), txn, &key, ret_params);
    return r != 0 ? op_store_error(call, r) : API_OK;
}

enum api_status
modbusd_patch_master_params(struct modbusd *self, struct api_call *call)
{
    (void)self;
    struct master_param params = { 0 };
    enum api_status status = get_params(call, api_txn(call), &params);
    if (status == API_OK)
        status = api_merge(call, &master_param_desc, &params);
    return status == API_OK ? save(call, params) : status;
}

/* ---- the tree ---- */

static int
write_list(struct store_txn *txn, uint32_t which, struct buf *b)
{
    struct config_key key = config_key_one(which);
    buf_putc(b, '[');
    int r = config_write(txn, &key, b);
    buf_putc(b, ']');
    return r;
}

int
op_write_tree(struct store_txn *txn, struct buf *b)
{
    buf_printf(b, "{\"configId\":%d,\"masterParams\":", MODBUSD_CONFIG_ID);
    int r = write_list(txn, ONE_PARAMS, b);
    buf_puts(b, ",\"tcpMasters\":{\"data\":");
    if (r == 0)
        r = write_list(txn, ONE_MASTER, b);
    buf_puts(b, "}}");
    return r;
}

enum api_status
modbusd_get_master_config(struct modbusd *self, struct api_call *call)
{
    (void)self;
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    struct buf b;
    buf_init(&b, TREE_MAX);
    buf_puts(&b, "{\"data\":");
    int r = op_write_tree(txn, &b);
    buf_putc(&b, '}');
    if (r == 0)
        return modbusd_reply(call, &b);
    buf_done(&b);
    return op_store_error(call, r);
}

/* ---- counts ---- */

struct totals {
    uint64_t devs, enabled, cmds, tags;
};

/* Counts the devices, and writes their names as a list. */
static int
write_names(struct api_call *call, struct store_txn *txn, struct buf *b, struct totals *t)
{
    struct store_iter it;
    int r = store_iter_init(&it, txn, DB_DEV, NULL, 0, false);
    if (r < 0)
        return r;
    jw_open(b, '[');
    while ((r = store_iter_next(&it)) == STORE_OK) {
        struct remote_dev dev;
        r = api_store_value(api_call_arena(call), it.value, it.size, &remote_dev_desc, &dev);
        if (r < 0)
            break;
        jw_str(b, dev.name);
        t->devs++;
        t->enabled += dev.enable != 0;
    }
    store_iter_done(&it);
    jw_close(b, ']');
    return r < 0 ? r : 0;
}

static void
write_tcp(struct buf *b, const struct master_param *params, const struct totals *t)
{
    jw_name(b, "tcp");
    jw_open(b, '{');
    jw_ki64(b, "enable", params->enable_tcp_masters);
    jw_name(b, "masterTcpIfaces");
    jw_open(b, '[');
    jw_open(b, '{');
    jw_ku64(b, "masterTcpIfaceId", MODBUSD_IFACE_ID);
    jw_ku64(b, "devCount", t->devs);
    jw_ku64(b, "cmdCount", t->cmds);
    jw_ku64(b, "tagCount", t->tags);
    jw_ku64(b, "enableDevCount", t->enabled);
    jw_close(b, '}');
    jw_close(b, ']');
    jw_close(b, '}');
}

enum api_status
modbusd_get_master_overview(struct modbusd *self, struct api_call *call)
{
    (void)self;
    struct master_param params = { 0 };
    struct totals t = { 0 };
    struct store_txn *txn = api_view(call);
    enum api_status status = get_params(call, txn, &params);
    if (status != API_OK)
        return status;
    struct buf b;
    buf_init(&b, OVERVIEW_MAX);
    buf_puts(&b, "{\"data\":{");
    jw_kstr(&b, "version", API_VERSION);
    jw_ki64(&b, "enableDevFailEvent", params.enable_dev_fail_event);
    jw_ki64(&b, "enableCmdFailEvent", params.enable_cmd_fail_event);
    jw_name(&b, "remoteDevsName");
    int r = write_names(call, txn, &b, &t);
    if (r == 0)
        r = store_count(txn, DB_CMD, &t.cmds);
    if (r == 0)
        r = store_count(txn, DB_TAG, &t.tags);
    write_tcp(&b, &params, &t);
    buf_puts(&b, "}}");
    if (r == 0)
        return modbusd_reply(call, &b);
    buf_done(&b);
    return op_store_error(call, r);
}
