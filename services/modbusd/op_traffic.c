/* The traffic log: what was on the wire, for a person. */
#include <errno.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/modbusd/op.h"
#include "libcommon/banned.h"

enum { LOG_MAX = 16 << 20, TEXT_MAX = 4096 };

/* ---- start and stop ---- */

/* Frames of one running device, on that serial interface; 0: over TCP. */
static enum api_status
filter_for(struct api_call *call, int64_t id, uint32_t serial,
           struct traffic_filter *ret_filter)
{
    struct remote_dev dev;
    struct mb_address address = { .text = "" };
    struct config_key key = config_key_dev((uint32_t)id);
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    int r = api_store_get(api_call_arena(call), txn, DB_DEV_RUN, key.bytes, key.size,
                          &remote_dev_desc, &dev);
    if (r < 0)
        return op_store_error(call, r);
    if (r == STORE_NOT_FOUND ||
        (dev.has_master_ser_iface_id ? dev.master_ser_iface_id : 0) != serial)
        return api_fail(call, API_INVALID, "/remoteDevId", "Fail to find remoteDevId");
    if (!serial)
        r = mb_address_parse(dev.slave_ipaddr, (uint16_t)dev.slave_tcp_port, &address);
    *ret_filter = (struct traffic_filter){ .on = true,
                                           .port = address.port,
                                           .unit = (uint8_t)dev.slave_id };
    if (r == 0)
        r = str_copy(ret_filter->peer, sizeof(ret_filter->peer), address.text);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

struct order {
    struct traffic *traffic;
    bool start, rolling;
    struct traffic_filter filter;
};

static void
carry_out(void *self, void *arg)
{
    (void)self;
    const struct order *o = arg;
    traffic_stop(o->traffic);
    if (o->start)
        traffic_start(o->traffic, o->rolling, &o->filter);
}

/* Started and stopped together with its record in the audit log. */
static enum api_status
capture(struct api_call *call, struct traffic *t, uint32_t serial,
        const struct traffic_action *body)
{
    struct order *o = api_alloc(call, sizeof(*o));
    if (!o)
        return API_TOO_LARGE;
    *o = (struct order){ .traffic = t,
                         .start = body->action == TRAFFIC_ACTION_ACTION_START,
                         .rolling = body->record_mode == 1 };
    if (body->has_remote_dev_id) {
        enum api_status status = filter_for(call, body->remote_dev_id, serial, &o->filter);
        if (status != API_OK)
            return status;
    }
    if (o->start && traffic_reserve(t) < 0)
        return api_fail(call, API_UNAVAILABLE, NULL, "out of memory");
    api_after_commit(call, carry_out, o);
    return API_OK;
}

enum api_status
modbusd_capture_master_tcp_traffic(struct modbusd *self, struct api_call *call,
                                   const struct modbusd_capture_master_tcp_traffic_path *path,
                                   const struct traffic_action *body)
{
    if (path->master_tcp_iface_id != MODBUSD_IFACE_ID)
        return op_not_found(call);
    return capture(call, &self->traffic, 0, body);
}

/* The log of a serial interface that there is; NULL: refused with *ret_status. */
static struct traffic *
find_serial(struct modbusd *d, struct api_call *call, int64_t id, enum api_status *ret_status)
{
    struct master_ser_iface iface;
    struct store_txn *txn = api_view(call);
    *ret_status = API_INTERNAL;
    if (!txn)
        return NULL;
    int r = STORE_NOT_FOUND;
    if (id >= 1 && id <= SERIAL_PORTS_MAX) {
        struct config_key key = config_key_ser_iface((uint32_t)id);
        r = config_get(api_call_arena(call), txn, &key, &iface);
    }
    if (r == STORE_OK)
        return &d->ser_traffic[id - 1];
    *ret_status = r < 0 ? op_store_error(call, r) : op_not_found(call);
    return NULL;
}

enum api_status
modbusd_capture_master_serial_traffic(
    struct modbusd *self, struct api_call *call,
    const struct modbusd_capture_master_serial_traffic_path *path,
    const struct traffic_action *body)
{
    enum api_status status;
    struct traffic *t = find_serial(self, call, path->master_ser_iface_id, &status);
    return t ? capture(call, t, (uint32_t)path->master_ser_iface_id, body) : status;
}

/* ---- reading ---- */

static const char *const errors[] = {
    [TRAFFIC_NO_ERROR] = "",
    [TRAFFIC_RESEND] = "Resend",
    [TRAFFIC_INVALID] = "Invalid",
    [TRAFFIC_UNKNOWN] = "Unknown",
    [TRAFFIC_NOT_SUPPORTED] = "Not Supported",
    [TRAFFIC_OTHER_SERVER] = "Server ID Not Matched",
};

/* 'serial': the interface of a serial port; 0: TCP. */
static void
write_peer(struct buf *b, const struct traffic_entry *e, uint32_t serial)
{
    if (serial) {
        jw_ku64(b, "serialPort", serial - 1);
        return;
    }
    char text[TRAFFIC_PEER_SIZE + 16];
    bool v6 = strchr(e->peer, ':') != NULL;
    (void)snprintf(text, sizeof(text), v6 ? "[%s]:%u" : "%s:%u", e->peer, e->port); /* fits */
    jw_kstr(b, "ip", text);
}

/* 'text' is room for the words. */
static void
write_content(struct buf *b, const struct traffic_entry *e, struct buf *text)
{
    uint8_t unit, pdu[MB_PDU_MAX];
    size_t n = traffic_pdu(e->framing, e->bytes, e->n, &unit, pdu);
    if (n > 0) {
        jw_ku64(b, "slaveId", unit);
        jw_ku64(b, "functionCode", pdu[0]);
    }
    jw_name(b, "data");
    buf_putc(b, '"');
    for (size_t i = 0; i < e->n; i++)
        buf_printf(b, "%02x", e->bytes[i]);
    buf_putc(b, '"');
    buf_reset(text);
    traffic_put_text(text, e->request, pdu, n);
    if (text->len > 0)
        jw_kstr(b, "decoded", buf_text(text));
}

static void
write_entry(struct buf *b, uint64_t number, const struct traffic_entry *e, uint32_t serial,
            struct buf *text)
{
    char time[CLOCK_TEXT_SIZE];
    const char *kind = e->request ? "Request" : "Response";
    clock_format(e->at_us, 6, time);
    jw_open(b, '{');
    jw_ku64(b, "seq", number);
    jw_kstr(b, "role", e->role == TRAFFIC_MASTER ? "Master" : "Slave");
    jw_kstr(b, "packetType", kind);
    write_peer(b, e, serial);
    write_content(b, e, text);
    jw_kstr(b, "time", time);
    jw_kstr(b, "status", e->sent ? "WRITE" : "READ");
    jw_kstr(b, "direction", kind);
    jw_kstr(b, "errorReason", errors[e->error]);
    if (e->fault != TRAFFIC_NO_FAULT)
        jw_ku64(b, "dataInvalidReason", e->fault);
    jw_close(b, '}');
}

static enum api_status
reply(struct api_call *call, const struct traffic *t, uint32_t serial, uint64_t after)
{
    const char *kind = serial ? "serial" : "tcp";
    struct buf b, text;
    uint64_t oldest = traffic_oldest(t), first = after >= oldest ? after + 1 : oldest;
    buf_init(&b, LOG_MAX);
    buf_init(&text, TEXT_MAX);
    buf_printf(&b, "{\"data\":{\"%s\":[", kind);
    for (uint64_t i = first; i <= t->last; i++)
        write_entry(&b, i, traffic_entry(t, i), serial, &text);
    buf_puts(&b, "]");
    jw_ku64(&b, serial ? "serialCount" : "tcpCount",
            first <= t->last ? t->last - first + 1 : 0);
    jw_ku64(&b, serial ? "serialAction" : "tcpAction", t->on);
    jw_ku64(&b, "recordMode", t->rolling);
    jw_ku64(&b, "last", t->last);
    jw_ku64(&b, "lost", after + 1 < oldest ? oldest - after - 1 : 0);
    buf_puts(&b, "}}");
    buf_done(&text);
    return modbusd_reply(call, &b);
}

enum api_status
modbusd_get_master_tcp_traffic(struct modbusd *self, struct api_call *call,
                               const struct modbusd_get_master_tcp_traffic_path *path,
                               const struct modbusd_get_master_tcp_traffic_query *query)
{
    if (path->master_tcp_iface_id != MODBUSD_IFACE_ID)
        return op_not_found(call);
    return reply(call, &self->traffic, 0, query->has_after ? (uint64_t)query->after : 0);
}

enum api_status
modbusd_get_master_serial_traffic(struct modbusd *self, struct api_call *call,
                                  const struct modbusd_get_master_serial_traffic_path *path,
                                  const struct modbusd_get_master_serial_traffic_query *query)
{
    enum api_status status;
    const struct traffic *t = find_serial(self, call, path->master_ser_iface_id, &status);
    return t ? reply(call, t, (uint32_t)path->master_ser_iface_id,
                     query->has_after ? (uint64_t)query->after : 0)
             : status;
}
