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

enum api_status
op_stage_params(struct api_call *call, struct api_arena *a, struct store_txn *txn,
                struct master_param params)
{
    struct config_key key = config_key_one(ONE_PARAMS);
    params.has_master_param_id = params.has_config_id = true;
    params.master_param_id = MODBUSD_PARAMS_ID;
    params.config_id = MODBUSD_CONFIG_ID;
    int r = config_put(a, txn, &key, &params);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

static enum api_status
save(struct api_call *call, struct master_param params)
{
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    enum api_status status = op_stage_params(call, api_call_arena(call), txn, params);
    return status == API_OK ? op_reply_as_list(call, ONE_PARAMS) : status;
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
    struct config_key key = config_key_one(ONE_PARAMS);
    struct master_param params;
    enum api_status status = op_patch(call, api_txn(call), &key, &master_param_desc, &params);
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
    buf_puts(b, "},\"serMasters\":{\"data\":");
    if (r == 0)
        r = write_list(txn, ONE_SER_MASTER, b);
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

/* Where a device is: 0 the TCP interface, else its serial interface. */
struct seat {
    uint32_t dev, iface;
};

struct overview {
    struct totals totals[1 + SERIAL_PORTS_MAX];
    struct seat seats[MODBUSD_DEVS_MAX]; /* in order of their devices */
    size_t n_seats;
};

/* One device: writes its name. */
static int
count_dev(struct api_call *call, const struct store_iter *it, struct overview *o, struct buf *b)
{
    struct remote_dev dev;
    int r = api_store_value(api_call_arena(call), it->value, it->size, &remote_dev_desc, &dev);
    if (r < 0 || it->key_size != 4 || o->n_seats == MODBUSD_DEVS_MAX)
        return r < 0 ? r : -EPROTO;
    uint32_t iface = dev.has_master_ser_iface_id ? (uint32_t)dev.master_ser_iface_id : 0;
    if (iface > SERIAL_PORTS_MAX)
        return -EPROTO;
    jw_str(b, dev.name);
    o->totals[iface].devs++;
    o->totals[iface].enabled += dev.enable != 0;
    o->seats[o->n_seats++] = (struct seat){ get_u32(it->key), iface };
    return 0;
}

/* Counts the devices, and writes their names as a list. */
static int
write_names(struct api_call *call, struct store_txn *txn, struct overview *o, struct buf *b)
{
    struct store_iter it;
    int r = store_iter_init(&it, txn, DB_DEV, NULL, 0, false);
    if (r < 0)
        return r;
    jw_open(b, '[');
    while ((r = store_iter_next(&it)) == STORE_OK)
        if ((r = count_dev(call, &it, o, b)) < 0)
            break;
    store_iter_done(&it);
    jw_close(b, ']');
    return r < 0 ? r : 0;
}

/* Commands or tags: the table is in order of the devices they belong to, as the seats are. */
static int
count_below(struct store_txn *txn, struct overview *o, enum config_db db)
{
    struct store_iter it;
    size_t at = 0;
    int r = store_iter_init(&it, txn, db, NULL, 0, false);
    if (r < 0)
        return r;
    while ((r = store_iter_next(&it)) == STORE_OK && it.key_size >= 4) {
        uint32_t dev = get_u32(it.key);
        while (at < o->n_seats && o->seats[at].dev < dev)
            at++;
        if (at == o->n_seats || o->seats[at].dev != dev)
            continue;
        struct totals *t = &o->totals[o->seats[at].iface];
        *(db == DB_CMD ? &t->cmds : &t->tags) += 1;
    }
    store_iter_done(&it);
    return r < 0 ? r : 0;
}

static void
write_totals(struct buf *b, const struct totals *t)
{
    jw_ku64(b, "devCount", t->devs);
    jw_ku64(b, "cmdCount", t->cmds);
    jw_ku64(b, "tagCount", t->tags);
    jw_ku64(b, "enableDevCount", t->enabled);
}

static void
write_tcp(struct buf *b, const struct master_param *params, const struct overview *o)
{
    jw_name(b, "tcp");
    jw_open(b, '{');
    jw_ki64(b, "enable", params->enable_tcp_masters);
    jw_name(b, "masterTcpIfaces");
    jw_open(b, '[');
    jw_open(b, '{');
    jw_ku64(b, "masterTcpIfaceId", MODBUSD_IFACE_ID);
    write_totals(b, &o->totals[0]);
    jw_close(b, '}');
    jw_close(b, ']');
    jw_close(b, '}');
}

static int
write_ser_ifaces(struct api_call *call, struct store_txn *txn, const struct overview *o,
                 struct buf *b)
{
    for (uint32_t id = 1; id <= SERIAL_PORTS_MAX; id++) {
        struct master_ser_iface iface;
        struct config_key key = config_key_ser_iface(id);
        int r = config_get(api_call_arena(call), txn, &key, &iface);
        if (r < 0)
            return r;
        if (r != STORE_OK)
            continue;
        jw_open(b, '{');
        jw_ku64(b, "masterSerIfaceId", id);
        jw_kstr(b, "portName", api_printf(call, "PORT %u", id));
        jw_ku64(b, "portNumber", id);
        jw_ki64(b, "format", iface.format);
        write_totals(b, &o->totals[id]);
        jw_close(b, '}');
    }
    return 0;
}

/* The list has that name in the original's schema, and the sensible one in its example. */
static int
write_serial(struct api_call *call, struct store_txn *txn, const struct master_param *params,
             const struct overview *o, struct buf *b)
{
    static const char *const names[] = { "masterTcpIfaces", "masterSerIfaces" };
    int r = 0;
    jw_name(b, "serial");
    jw_open(b, '{');
    jw_ki64(b, "enable", params->enable_ser_masters);
    for (size_t i = 0; i < ARRAY_LEN(names) && r == 0; i++) {
        jw_name(b, names[i]);
        jw_open(b, '[');
        r = write_ser_ifaces(call, txn, o, b);
        jw_close(b, ']');
    }
    jw_close(b, '}');
    return r;
}

static int
write_overview(struct api_call *call, struct store_txn *txn, const struct master_param *params,
               struct overview *o, struct buf *b)
{
    jw_kstr(b, "version", API_VERSION);
    jw_ki64(b, "enableDevFailEvent", params->enable_dev_fail_event);
    jw_ki64(b, "enableCmdFailEvent", params->enable_cmd_fail_event);
    jw_name(b, "remoteDevsName");
    int r = write_names(call, txn, o, b);
    if (r == 0)
        r = count_below(txn, o, DB_CMD);
    if (r == 0)
        r = count_below(txn, o, DB_TAG);
    write_tcp(b, params, o);
    return r == 0 ? write_serial(call, txn, params, o, b) : r;
}

enum api_status
modbusd_get_master_overview(struct modbusd *self, struct api_call *call)
{
    (void)self;
    struct master_param params = { 0 };
    struct overview *o = api_alloc(call, sizeof(*o));
    struct store_txn *txn = api_view(call);
    enum api_status status = o ? get_params(call, txn, &params) : API_TOO_LARGE;
    if (status != API_OK)
        return status;
    struct buf b;
    buf_init(&b, OVERVIEW_MAX);
    buf_puts(&b, "{\"data\":{");
    int r = write_overview(call, txn, &params, o, &b);
    buf_puts(&b, "}}");
    if (r == 0)
        return modbusd_reply(call, &b);
    buf_done(&b);
    return op_store_error(call, r);
}
