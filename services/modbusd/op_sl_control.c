/* Apply, undo, log level, and what the slave tells about itself. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/json.h"
#include "libcommon/log.h"
#include "services/modbusd/op_sl.h"
#include "services/modbusd/sl_hub.h"
#include "services/modbusd/sl_tcp.h"
#include "libcommon/banned.h"

enum { LOAD_ARENA_MAX = 512 << 20, REPLY_MAX = 128 << 20 };

/* ---- start and apply ---- */

static int
ensure_defaults(struct modbusd *d, struct api_arena *a)
{
    struct store_txn *txn;
    int r = store_begin(d->svc->store, &txn);
    if (r < 0)
        return r;
    r = sl_config_ensure_defaults(a, txn);
    if (r == 0)
        return store_commit(txn);
    store_abort(txn);
    return r;
}

void
modbusd_load_ser_slaves(struct modbusd *d)
{
    CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(1 << 20);
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    const struct sl_line_config *lines[SERIAL_PORTS_MAX];
    int r = a ? store_read(d->svc->store, &txn) : -ENOMEM;
    if (r == 0)
        r = sl_config_load_lines(a, txn, lines);
    if (r == 0)
        sl_engine_set_lines(d->slave, lines);
    else
        log_err("modbusd: the configuration of serial slaves cannot be read error=%s",
                strerror(r < 0 ? -r : ENOENT));
}

int
modbusd_load_slave(struct modbusd *d)
{
    CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(LOAD_ARENA_MAX);
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    struct sl_config cfg;
    int r = a ? ensure_defaults(d, a) : -ENOMEM;
    if (r == 0)
        r = store_read(d->svc->store, &txn);
    if (r == 0)
        r = sl_config_load(a, txn, &cfg);
    if (r == -EPROTO) {
        log_err("modbusd: the configuration of the slave cannot be read");
        return 0;
    }
    if (r == 0)
        r = sl_engine_set(d->slave, &cfg, -1);
    if (r == 0)
        modbusd_load_ser_slaves(d);
    return r;
}

/* What becomes the running configuration with the commit of 'call', and is its memory. */
struct applied {
    struct api_call *call;
    struct api_arena *arena; /* of 'cfg' */
    struct sl_config cfg;
    int fd; /* listens on another port than before; -1: on none */
};

static void
take_over(void *self, void *arg)
{
    struct modbusd *d = self;
    struct applied *a = arg;
    int r = sl_engine_set(d->slave, &a->cfg, a->fd);
    api_arena_free(a->arena);
    modbusd_load_ser_slaves(d);
    if (r == 0)
        return;
    api_hold(a->call);
    api_finish(a->call, api_fail(a->call, API_INTERNAL, NULL,
                                 "stored, but not taken over: %s; apply again", strerror(-r)));
}

static void
give_back(void *self, void *arg)
{
    struct applied *a = arg;
    (void)self;
    if (a->fd >= 0)
        (void)close(a->fd); /* nobody heard of it */
    api_arena_free(a->arena);
}

/* The staged configuration becomes the running one; what it is. */
static int
load_applied(struct store_txn *txn, struct applied *a, struct sl_config *ret_before)
{
    int r = sl_config_load_slave(a->arena, txn, ret_before);
    if (r == 0)
        r = config_apply(txn, SIDE_SLAVE, NULL, NULL);
    return r == 0 ? sl_config_load(a->arena, txn, &a->cfg) : r;
}

/* Maybe in a thread of its own (x-worker). */
enum api_status
sl_apply(struct api_call *call)
{
    struct applied *a = api_alloc(call, sizeof(*a));
    struct store_txn *txn = api_txn(call);
    struct sl_config before;
    if (!txn || !a)
        return API_INTERNAL;
    a->call = call;
    a->fd = -1;
    a->arena = api_arena_new(LOAD_ARENA_MAX);
    if (!a->arena)
        return API_INTERNAL;
    api_on_failure(call, give_back, a);
    api_after_commit(call, take_over, a);
    int r = load_applied(txn, a, &before);
    if (r != 0)
        return op_store_error(call, r);
    if (a->cfg.enable && (!before.enable || a->cfg.port != before.port))
        r = sl_tcp_listen(a->cfg.port, &a->fd);
    return r < 0 ? api_fail(call, API_CONFLICT, "/listenPort",
                            "Input value failed: listenPort %u cannot be opened: %s",
                            a->cfg.port, strerror(-r))
                 : API_OK;
}

enum api_status
modbusd_apply_slave_config(struct modbusd *self, struct api_call *call)
{
    (void)self; /* the loop's */
    return sl_apply(call);
}

enum api_status
modbusd_undo_slave_config(struct modbusd *self, struct api_call *call)
{
    (void)self; /* the loop's */
    return op_undo(call, SIDE_SLAVE);
}

enum api_status
modbusd_get_slave_config_change(struct modbusd *self, struct api_call *call,
                                struct config_change *reply)
{
    (void)self;
    return op_get_change(call, SIDE_SLAVE, reply);
}

/* ---- log level: one of the daemon ---- */

enum api_status
modbusd_get_slave_log_level(struct modbusd *self, struct api_call *call)
{
    return modbusd_get_master_log_level(self, call);
}

enum api_status
modbusd_put_slave_log_level(struct modbusd *self, struct api_call *call,
                            const struct log_level_body *body)
{
    return modbusd_put_master_log_level(self, call, body);
}

/* ---- overview of what is staged ---- */

struct overview {
    uint64_t n_tags, n_refs, n_unknown, n_misplaced, n_touched;
};

/* Does the tag hub list the tag of an entry of DB_REF_NAME? */
static bool
is_listed(const struct modbusd *d, const void *key, size_t size)
{
    char text[STORE_KEY_MAX + 1];
    memcpy(text, key, size);
    text[size] = '\0';
    char *source = strchr(text, '/'), *name = source ? strchr(source + 1, '/') : NULL;
    if (!name)
        return false;
    *source = *name = '\0';
    struct tag_def def;
    return sl_hub_lookup(d, text, source + 1, name + 1, &def);
}

static int
count_unknown(const struct modbusd *d, struct store_txn *txn, uint64_t *ret_n)
{
    struct store_iter it;
    int r = store_iter_init(&it, txn, DB_REF_NAME, NULL, 0, false);
    if (r < 0)
        return r;
    *ret_n = 0;
    while ((r = store_iter_next(&it)) == STORE_OK)
        *ret_n += !is_listed(d, it.key, it.key_size);
    store_iter_done(&it);
    return r < 0 ? r : 0;
}

/* Reference tags of the zones without a place. */
static int
count_misplaced(struct store_txn *txn, uint64_t *ret_n)
{
    *ret_n = 0;
    for (uint32_t format = 0; format < SL_N_FORMATS; format++) {
        struct store_iter it;
        uint8_t from[8];
        put_u32(from, format);
        put_u32(from + 4, UINT32_MAX);
        int r = store_iter_init(&it, txn, DB_ZONE_PLACE, from, sizeof(from), false);
        if (r < 0)
            return r;
        while ((r = store_iter_next(&it)) == STORE_OK &&
               memcmp(it.key, from, sizeof(from)) == 0) {
            struct sl_walk w;
            struct config_key key;
            struct bus_str text;
            uint32_t zone = get_u32(it.value);
            r = sl_walk_begin(&w, txn, DB_REF, KIND_REF, zone);
            if (r < 0)
                break;
            while ((r = sl_walk_next(&w, zone, &key, &text)) == STORE_OK)
                (*ret_n)++;
            sl_walk_done(&w);
            if (r < 0)
                break;
        }
        store_iter_done(&it);
        if (r < 0)
            return r;
    }
    return 0;
}

static int
count_all(const struct modbusd *d, struct store_txn *txn, struct overview *ret_o)
{
    int r = store_count(txn, DB_SL_TAG, &ret_o->n_tags);
    if (r == 0)
        r = store_count(txn, DB_REF, &ret_o->n_refs);
    if (r == 0)
        r = config_count_touched(txn, SIDE_SLAVE, &ret_o->n_touched);
    if (r == 0)
        r = count_unknown(d, txn, &ret_o->n_unknown);
    return r < 0 ? r : count_misplaced(txn, &ret_o->n_misplaced);
}

/* Of all zones, whichever slave shows them. */
static void
write_counts(struct buf *b, const struct overview *o)
{
    uint64_t n_invalid = o->n_unknown + o->n_misplaced;
    jw_ku64(b, "tagCount", o->n_tags + o->n_refs);
    jw_ku64(b, "invalidTagCount", n_invalid < o->n_refs ? n_invalid : o->n_refs);
    jw_kbool(b, "isConfigError", n_invalid > 0);
    jw_kstr(b, "configErrorReason",
            o->n_unknown     ? "Unknown tag"
            : o->n_misplaced ? "Invalid address"
                             : "");
}

static int
write_tcp(struct api_arena *a, struct store_txn *txn, const struct overview *o, struct buf *b)
{
    struct tcp_slave slave;
    struct config_key key = config_key_sl_one(SL_ONE_SLAVE);
    int r = config_get(a, txn, &key, &slave);
    if (r != 0)
        return r;
    jw_open(b, '{');
    jw_ki64(b, "tcpSlaveId", MODBUSD_SLAVE_ID);
    jw_ki64(b, "enable", slave.enable);
    write_counts(b, o);
    jw_close(b, '}');
    return 0;
}

static int
write_serial(struct api_arena *a, struct store_txn *txn, const struct overview *o,
             struct buf *b)
{
    for (uint32_t id = 1; id <= SERIAL_PORTS_MAX; id++) {
        struct ser_slave slave;
        char port[16];
        struct config_key key = sl_config_ser_key(id);
        int r = config_get(a, txn, &key, &slave);
        if (r < 0)
            return r;
        if (r == STORE_NOT_FOUND)
            continue;
        (void)snprintf(port, sizeof(port), "PORT %u", id); /* fits */
        jw_open(b, '{');
        jw_ku64(b, "serSlaveId", id);
        jw_ki64(b, "enable", slave.enable);
        jw_kstr(b, "portName", port);
        jw_ki64(b, "format", slave.format);
        write_counts(b, o);
        jw_close(b, '}');
    }
    return 0;
}

static int
write_overview(struct api_arena *a, struct store_txn *txn, const struct overview *o,
               struct buf *b)
{
    struct slave_param params;
    struct config_key key = config_key_sl_one(SL_ONE_PARAMS);
    int r = config_get(a, txn, &key, &params);
    if (r != 0)
        return r;
    buf_puts(b, "{\"data\":{");
    jw_kstr(b, "version", API_VERSION);
    jw_ki64(b, "enableFailEvent", params.enable_fail_event);
    jw_kbool(b, "isConfigChanged", o->n_touched > 0);
    buf_printf(b, ",\"tcp\":{\"enable\":%d,\"tcpSlaves\":[", (int)params.enable_tcp_slaves);
    r = write_tcp(a, txn, o, b);
    buf_printf(b, "]},\"serial\":{\"enable\":%d,\"serSlaves\":[",
               (int)params.enable_ser_slaves);
    if (r == 0)
        r = write_serial(a, txn, o, b);
    buf_puts(b, "]}}}");
    return r;
}

enum api_status
modbusd_get_slave_overview(struct modbusd *self, struct api_call *call)
{
    struct overview o;
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    int r = count_all(self, txn, &o);
    if (r == 0)
        r = write_overview(api_call_arena(call), txn, &o, api_reply_buf(call));
    return r != 0 ? op_store_error(call, r) : API_OK;
}

/* ---- what is running, and how it does ---- */

enum api_status
modbusd_get_slave_protocol_status(struct modbusd *self, struct api_call *call,
                                  struct protocol_status *reply)
{
    (void)call;
    struct sl_stats s;
    struct sl_line_stats line;
    bool runs, is_open;
    sl_engine_get_stats(self->slave, &s);
    runs = s.enabled;
    is_open = s.open || !s.enabled;
    for (uint32_t port = 0; port < SERIAL_PORTS_MAX; port++) {
        sl_engine_line_stats(self->slave, port, &line);
        runs |= line.is_wanted;
        is_open &= line.is_open || !line.is_wanted;
    }
    reply->status = !runs || (is_open && s.n_misplaced == 0 && s.n_unknown == 0);
    return API_OK;
}

static void
write_counters(struct buf *b, const struct sl_counters *n)
{
    jw_ku64(b, "recvValidReqs", n->valid);
    jw_ku64(b, "recvInvalidReqs", n->invalid);
    jw_ku64(b, "sentResps", n->responses);
    jw_ku64(b, "sentExceptions", n->exceptions);
}

enum api_status
modbusd_get_slave_tcp_status(struct modbusd *self, struct api_call *call)
{
    struct sl_stats s;
    struct sl_conn_stats conn;
    struct buf *b = api_reply_buf(call);
    sl_engine_get_stats(self->slave, &s);
    buf_puts(b, "{\"data\":{");
    jw_kstr(b, "mode", "TCP");
    jw_ku64(b, "numConns", s.n_conns);
    write_counters(b, &s.all);
    jw_name(b, "conns");
    jw_open(b, '[');
    for (size_t at = 0; sl_engine_conn_stats(self->slave, at, &conn); at++) {
        jw_open(b, '{');
        jw_kstr(b, "status", sl_conn_status_text(conn.status));
        jw_ku64(b, "connId", conn.id);
        jw_kstr(b, "remoteIpPort", conn.remote);
        write_counters(b, &conn.n);
        jw_close(b, '}');
    }
    jw_close(b, ']');
    buf_puts(b, "}}");
    return API_OK;
}

static const char *
line_status(const struct sl_line_stats *s)
{
    if (!s->is_open)
        return "No connection";
    return s->counts.valid > 0 ? "OK" : "No communication yet";
}

static void
write_line(struct buf *b, uint32_t id, const struct sl_line_stats *s)
{
    jw_open(b, '{');
    jw_ku64(b, "serSlaveId", id);
    jw_kstr(b, "status", line_status(s));
    jw_kstr(b, "mode", s->ascii ? "ASCII" : "RTU");
    jw_ku64(b, "portNumber", id);
    jw_ku64(b, "slaveId", s->unit);
    jw_ku64(b, "recvBytes", s->heard);
    jw_ku64(b, "recvValidReqs", s->counts.valid);
    jw_ku64(b, "recvBroadcasts", s->broadcasts);
    jw_ku64(b, "sentResps", s->counts.responses);
    jw_ku64(b, "sentExceptions", s->counts.exceptions);
    jw_close(b, '}');
}

enum api_status
modbusd_get_slave_serial_status(struct modbusd *self, struct api_call *call)
{
    struct sl_line_stats all[SERIAL_PORTS_MAX];
    struct sl_counters sum = { 0 };
    struct buf *b = api_reply_buf(call);
    for (uint32_t port = 0; port < SERIAL_PORTS_MAX; port++) {
        sl_engine_line_stats(self->slave, port, &all[port]);
        if (!all[port].is_wanted)
            continue;
        sum.valid += all[port].counts.valid;
        sum.responses += all[port].counts.responses;
        sum.exceptions += all[port].counts.exceptions;
    }
    buf_puts(b, "{\"data\":{");
    jw_kstr(b, "role", "Slave");
    jw_ku64(b, "recvValidReqs", sum.valid);
    jw_ku64(b, "sentResps", sum.responses);
    jw_ku64(b, "sentExceptions", sum.exceptions);
    jw_name(b, "ports");
    jw_open(b, '[');
    for (uint32_t port = 0; port < SERIAL_PORTS_MAX; port++)
        if (all[port].is_wanted)
            write_line(b, port + 1, &all[port]);
    jw_close(b, ']');
    buf_puts(b, "}}");
    return API_OK;
}

enum api_status
modbusd_get_slave_platform_tags(struct modbusd *self, struct api_call *call)
{
    struct tag_def def;
    struct buf b;
    buf_init(&b, REPLY_MAX);
    buf_printf(&b, "{\"count\":%zu,\"data\":[", sl_engine_n_tags(self->slave));
    for (size_t at = 0; sl_engine_def(self->slave, at, &def); at++)
        op_put_platform_tag(&b, &def);
    buf_puts(&b, "]}");
    return modbusd_reply(call, &b);
}
