/* The serial master, its interfaces (one for each serial port), and how they do. */
#include "services/modbusd/op.h"

#include <inttypes.h>

#include "libcommon/json.h"
#include "libcommon/banned.h"

enum { REPLY_MAX = 128 << 20, INTERVAL_MIN_MS = 10 };

/* {"data":[…],"count":n}: clients of the original find the data at a fixed place. */
static enum api_status
reply_list(struct api_call *call, struct buf *b, int r, uint64_t n)
{
    buf_printf(b, "],\"count\":%" PRIu64 "}", n);
    if (r == 0)
        return modbusd_reply(call, b);
    buf_done(b);
    return op_store_error(call, r);
}

/* ---- interfaces ---- */

enum api_status
modbusd_get_master_ser_ifaces(struct modbusd *self, struct api_call *call)
{
    (void)self;
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    struct buf b;
    uint64_t n = 0;
    buf_init(&b, REPLY_MAX);
    buf_puts(&b, "{\"data\":[");
    int r = config_write_ser_ifaces(txn, &b, &n);
    return reply_list(call, &b, r, n);
}

/* The key of an interface that there may be. */
static bool
key_of(int64_t id, struct config_key *ret_key)
{
    if (id < 1 || id > SERIAL_PORTS_MAX)
        return false;
    *ret_key = config_key_ser_iface((uint32_t)id);
    return true;
}

enum api_status
modbusd_get_master_ser_iface(struct modbusd *self, struct api_call *call,
                             const struct modbusd_get_master_ser_iface_path *path)
{
    (void)self;
    struct config_key key;
    return key_of(path->master_ser_iface_id, &key) ? op_reply_one(call, &key)
                                                   : op_not_found(call);
}

static enum api_status
check_interval(struct api_call *call, const char *pointer, int64_t ms)
{
    if (ms == 0 || ms >= INTERVAL_MIN_MS)
        return API_OK;
    return api_fail(call, API_INVALID, pointer, "Input value failed: %s must be 0 or 10 to 500",
                    pointer + 1);
}

static enum api_status
check_iface(struct api_call *call, const struct master_ser_iface *iface, int64_t id)
{
    if (iface->ser_master_id != MODBUSD_MASTER_ID)
        return api_fail(call, API_INVALID, "/serMasterId", "Parent's data should exist");
    if (iface->port_value != id - 1)
        return api_fail(call, API_INVALID, "/portValue",
                        "Input value failed: portValue cannot change, each port has its own "
                        "interface");
    enum api_status status = check_interval(call, "/frameInterval", iface->frame_interval);
    return status == API_OK ? check_interval(call, "/charInterval", iface->char_interval)
                            : status;
}

enum api_status
op_stage_ser_iface(struct api_call *call, struct api_arena *a, struct store_txn *txn,
                   const struct config_key *key, struct master_ser_iface iface)
{
    int64_t id = config_key_id(key) - ONE_SER_IFACES;
    enum api_status status = check_iface(call, &iface, id);
    if (status != API_OK)
        return status;
    iface.has_master_ser_iface_id = true;
    iface.master_ser_iface_id = id;
    iface.n_remote_devs = 0;
    int r = config_put(a, txn, key, &iface);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

static enum api_status
save_iface(struct api_call *call, struct store_txn *txn, const struct config_key *key,
           const struct master_ser_iface *iface)
{
    enum api_status status = op_stage_ser_iface(call, api_call_arena(call), txn, key, *iface);
    return status == API_OK ? op_reply_one(call, key) : status;
}

/* What there is of it, for a change. */
static enum api_status
find_iface(struct api_call *call, struct store_txn *txn, int64_t id, struct config_key *ret_key,
           struct master_ser_iface *ret_iface)
{
    if (!txn)
        return API_INTERNAL;
    if (!key_of(id, ret_key))
        return op_not_found(call);
    int r = config_get(api_call_arena(call), txn, ret_key, ret_iface);
    if (r != 0)
        return r < 0 ? op_store_error(call, r) : op_not_found(call);
    return API_OK;
}

enum api_status
modbusd_put_master_ser_iface(struct modbusd *self, struct api_call *call,
                             const struct modbusd_put_master_ser_iface_path *path,
                             const struct master_ser_iface *body)
{
    (void)self;
    struct config_key key;
    struct master_ser_iface old;
    struct store_txn *txn = api_txn(call);
    enum api_status status = find_iface(call, txn, path->master_ser_iface_id, &key, &old);
    return status == API_OK ? save_iface(call, txn, &key, body) : status;
}

enum api_status
modbusd_patch_master_ser_iface(struct modbusd *self, struct api_call *call,
                               const struct modbusd_patch_master_ser_iface_path *path)
{
    (void)self;
    struct config_key key;
    struct master_ser_iface iface;
    struct store_txn *txn = api_txn(call);
    enum api_status status = find_iface(call, txn, path->master_ser_iface_id, &key, &iface);
    if (status == API_OK)
        status = api_merge(call, &master_ser_iface_desc, &iface);
    return status == API_OK ? save_iface(call, txn, &key, &iface) : status;
}

/* The existing one that a clone names at 'pointer'. */
static enum api_status
find_named(struct api_call *call, struct store_txn *txn, const char *pointer, int64_t id,
           struct config_key *ret_key, struct master_ser_iface *ret_iface)
{
    int r = key_of(id, ret_key) ? config_get(api_call_arena(call), txn, ret_key, ret_iface)
                                : STORE_NOT_FOUND;
    if (r == STORE_NOT_FOUND)
        return api_fail(call, API_INVALID, pointer, "Parent's data should exist");
    return r < 0 ? op_store_error(call, r) : API_OK;
}

static enum api_status
clone_to(struct api_call *call, struct store_txn *txn, struct master_ser_iface iface, size_t i,
         int64_t id)
{
    char pointer[64];
    struct config_key key;
    struct master_ser_iface old;
    (void)snprintf(pointer, sizeof(pointer), "/dest/masterSerIfaceIds/%zu", i); /* fits */
    enum api_status status = find_named(call, txn, pointer, id, &key, &old);
    if (status != API_OK)
        return status;
    iface.port_value = id - 1; /* each port has its own interface */
    return op_stage_ser_iface(call, api_call_arena(call), txn, &key, iface);
}

enum api_status
op_clone_ser_iface(struct api_call *call, struct store_txn *txn, const struct clone_body *body)
{
    const struct clone_dest *dest = &body->dest;
    struct config_key key;
    struct master_ser_iface iface;
    struct buf b;
    enum api_status status = find_named(call, txn, "/src/masterSerIfaceId",
                                        body->src.master_ser_iface_id, &key, &iface);
    for (size_t i = 0; i < dest->n_master_ser_iface_ids && status == API_OK; i++)
        status = clone_to(call, txn, iface, i, dest->master_ser_iface_ids[i]);
    if (status != API_OK)
        return status;
    int r = 0;
    buf_init(&b, REPLY_MAX);
    buf_puts(&b, "{\"data\":[");
    for (size_t i = 0; i < dest->n_master_ser_iface_ids && r == 0; i++) {
        key = config_key_ser_iface((uint32_t)dest->master_ser_iface_ids[i]);
        if (i > 0)
            buf_putc(&b, ',');
        r = config_write(txn, &key, &b);
    }
    return reply_list(call, &b, r, dest->n_master_ser_iface_ids);
}

/* ---- master ---- */

enum api_status
modbusd_get_ser_masters(struct modbusd *self, struct api_call *call)
{
    (void)self;
    struct config_key key = config_key_one(ONE_SER_MASTER);
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    struct buf b;
    buf_init(&b, REPLY_MAX);
    buf_puts(&b, "{\"data\":[");
    int r = config_write(txn, &key, &b);
    return reply_list(call, &b, r, 1);
}

enum api_status
modbusd_get_ser_master(struct modbusd *self, struct api_call *call,
                       const struct modbusd_get_ser_master_path *path)
{
    (void)self;
    struct config_key key = config_key_one(ONE_SER_MASTER);
    return path->ser_master_id == MODBUSD_MASTER_ID ? op_reply_one(call, &key)
                                                    : op_not_found(call);
}

enum api_status
op_stage_ser_master(struct api_call *call, struct api_arena *a, struct store_txn *txn,
                    struct ser_master master)
{
    struct config_key key = config_key_one(ONE_SER_MASTER);
    master.has_ser_master_id = master.has_config_id = true;
    master.ser_master_id = MODBUSD_MASTER_ID;
    master.config_id = MODBUSD_CONFIG_ID;
    master.n_master_ser_ifaces = 0;
    int r = config_put(a, txn, &key, &master);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

static enum api_status
save_master(struct api_call *call, struct store_txn *txn, const struct ser_master *master)
{
    struct config_key key = config_key_one(ONE_SER_MASTER);
    enum api_status status = op_stage_ser_master(call, api_call_arena(call), txn, *master);
    return status == API_OK ? op_reply_one(call, &key) : status;
}

enum api_status
modbusd_put_ser_master(struct modbusd *self, struct api_call *call,
                       const struct modbusd_put_ser_master_path *path,
                       const struct ser_master *body)
{
    (void)self;
    if (path->ser_master_id != MODBUSD_MASTER_ID)
        return op_not_found(call);
    struct store_txn *txn = api_txn(call);
    return txn ? save_master(call, txn, body) : API_INTERNAL;
}

enum api_status
modbusd_patch_ser_master(struct modbusd *self, struct api_call *call,
                         const struct modbusd_patch_ser_master_path *path)
{
    (void)self;
    if (path->ser_master_id != MODBUSD_MASTER_ID)
        return op_not_found(call);
    struct config_key key = config_key_one(ONE_SER_MASTER);
    struct ser_master master;
    struct store_txn *txn = api_txn(call);
    enum api_status status = op_patch(call, txn, &key, &ser_master_desc, &master);
    return status == API_OK ? save_master(call, txn, &master) : status;
}

/* ---- how they do ---- */

/* The worst of the devices on a port, as a device's status is that of its commands. */
static const char *
port_status(const struct mb_engine *e, uint32_t id)
{
    static const enum mb_status by_badness[] = { MB_STATUS_NO_CONNECTION, MB_STATUS_TIMEOUT,
                                                 MB_STATUS_BAD_REPLY, MB_STATUS_EXCEPTION };
    struct mb_dev_stats s;
    unsigned seen = 0; /* a bit for each status */
    for (size_t at = 0; mb_engine_dev_stats(e, at, &s); at++)
        if (s.port_id == id && s.polled && s.known)
            seen |= 1u << s.status;
    for (size_t i = 0; i < ARRAY_LEN(by_badness); i++)
        if (seen & 1u << by_badness[i])
            return op_status_text(true, by_badness[i]);
    return op_status_text(seen != 0, MB_STATUS_OK);
}

static void
write_counters(struct buf *b, const struct mb_line_stats *s)
{
    jw_ku64(b, "sentReqs", s->sent);
    jw_ku64(b, "recvValidResps", s->valid);
    jw_ku64(b, "recvInvalidResps", s->invalid - s->checksum);
    jw_ku64(b, "recvCrcLrcErrors", s->checksum);
    jw_ku64(b, "recvExceptions", s->exceptions);
    jw_ku64(b, "timeout", s->timeouts);
}

static void
write_port(const struct mb_engine *e, uint32_t id, const struct mb_line_stats *s, struct buf *b)
{
    jw_open(b, '{');
    jw_kstr(b, "status", port_status(e, id));
    jw_kstr(b, "mode", s->mode);
    jw_ku64(b, "portNumber", id);
    jw_ku64(b, "break", s->breaks);
    jw_ku64(b, "frameError", s->frame_errors);
    jw_ku64(b, "parityError", s->parity_errors);
    jw_ku64(b, "overrunError", s->overruns);
    write_counters(b, s);
    jw_close(b, '}');
}

static void
add_stats(struct mb_line_stats *sum, const struct mb_line_stats *s)
{
    sum->sent += s->sent;
    sum->valid += s->valid;
    sum->invalid += s->invalid;
    sum->checksum += s->checksum;
    sum->exceptions += s->exceptions;
    sum->timeouts += s->timeouts;
}

enum api_status
modbusd_get_master_serial_status(struct modbusd *self, struct api_call *call)
{
    struct mb_line_stats s, sum = { 0 };
    struct buf b;
    for (uint32_t id = 1; id <= SERIAL_PORTS_MAX; id++)
        if (mb_engine_line_stats(self->engine, id, &s))
            add_stats(&sum, &s);
    buf_init(&b, 1 << 20);
    buf_puts(&b, "{\"data\":{");
    jw_kstr(&b, "role", "Master");
    write_counters(&b, &sum);
    jw_name(&b, "Ports");
    jw_open(&b, '[');
    for (uint32_t id = 1; id <= SERIAL_PORTS_MAX; id++)
        if (mb_engine_line_stats(self->engine, id, &s))
            write_port(self->engine, id, &s, &b);
    jw_close(&b, ']');
    buf_puts(&b, "}}");
    return modbusd_reply(call, &b);
}
