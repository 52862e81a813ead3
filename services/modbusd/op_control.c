/* Apply, undo, log level, and what the master tells about itself. */
#include "services/modbusd/op.h"

#include <errno.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "libcommon/banned.h"

/* The loop is not held longer than this by exchanging devices. */
enum { RELOAD_SLICE_US = 4000, RELOAD_AGAIN_US = 5000000, LOAD_ARENA_MAX = 256 << 20 };
enum { MCMD_STATUS_MAX = 64 << 20 };

/* ---- handing devices to the engine ---- */

static int
add_stale(void *arg, uint32_t dev)
{
    struct modbusd *d = arg;
    if (dev == 0) {
        d->iface_stale = true;
        return 0;
    }
    /* Touched records come in order of kind, then device: the same one is near the end. */
    if (d->n_stale > 0 && d->stale[d->n_stale - 1] == dev)
        return 0;
    if (d->n_stale == d->cap_stale) {
        size_t cap = d->cap_stale ? 2 * d->cap_stale : 64;
        uint32_t *stale = reallocarray(d->stale, cap, sizeof(*stale));
        if (!stale)
            return -ENOMEM;
        d->stale = stale;
        d->cap_stale = cap;
    }
    d->stale[d->n_stale++] = dev;
    return 0;
}

static int
by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void
sort_stale(struct modbusd *d)
{
    if (d->n_stale < 2)
        return;
    qsort(d->stale, d->n_stale, sizeof(*d->stale), by_value);
    size_t n = 1;
    for (size_t i = 1; i < d->n_stale; i++)
        if (d->stale[i] != d->stale[n - 1])
            d->stale[n++] = d->stale[i];
    d->n_stale = n;
}

/* One that cannot be decoded is left as it is in the engine: the others must not wait for it.
 */
static int
load_device(struct modbusd *d, struct store_txn *txn, uint32_t dev)
{
    CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(LOAD_ARENA_MAX);
    struct mb_dev_config cfg;
    if (!a)
        return -ENOMEM;
    int r = config_load_dev(a, txn, dev, &cfg);
    if (r == STORE_NOT_FOUND) {
        mb_engine_remove_device(d->engine, dev);
        return 0;
    }
    if (r == -EPROTO) {
        log_err("modbusd: device left out, its configuration cannot be read id=%u", dev);
        return 0;
    }
    cfg.enable = cfg.enable && !d->stopped && !(cfg.port_id ? d->ser_off : d->tcp_off);
    if (r == 0)
        r = mb_engine_set_device(d->engine, &cfg);
    if (r == -ENODEV) {
        log_err("modbusd: device left out, its serial interface is not there id=%u", dev);
        return 0;
    }
    return r;
}

static int
load_params(struct modbusd *d, struct api_arena *a, struct store_txn *txn)
{
    struct master_param params;
    int r = config_load_params(a, txn, &params);
    if (r == -EPROTO) {
        log_err("modbusd: the master parameters cannot be read");
        return 0;
    }
    bool tcp_off = params.enable_tcp_masters == 0, ser_off = params.enable_ser_masters == 0;
    if (r < 0 || (tcp_off == d->tcp_off && ser_off == d->ser_off))
        return r;
    d->tcp_off = tcp_off;
    d->ser_off = ser_off;
    return modbusd_all_stale(d, txn);
}

static int
load_iface(struct modbusd *d, struct store_txn *txn)
{
    CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(1 << 20);
    struct mb_iface_config iface;
    int r = a ? config_load_iface(a, txn, &iface) : -ENOMEM;
    if (r == -EPROTO) {
        log_err("modbusd: the configuration of the interface cannot be read");
        return 0;
    }
    if (r == 0)
        mb_engine_set_iface(d->engine, &iface);
    if (r == 0)
        r = modbusd_load_ports(d, txn);
    return r == 0 ? load_params(d, a, txn) : r;
}

/* Hands over what is stale until the time is up; the last first. */
static int
load_stale(struct modbusd *d, uint64_t until_us)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    int r = store_read(d->svc->store, &txn);
    if (r == 0 && d->iface_stale)
        r = load_iface(d, txn);
    if (r < 0)
        return r;
    d->iface_stale = false;
    while (d->n_stale > 0) {
        r = load_device(d, txn, d->stale[d->n_stale - 1]);
        if (r < 0)
            return r;
        d->n_stale--;
        if (clock_mono_us() >= until_us)
            break;
    }
    return 0;
}

/* Answers those that applied: the configuration is stored in any case, with its record. */
static void
finish_waiters(struct modbusd *d, int r)
{
    struct apply_waiter *all = d->waiters;
    d->waiters = NULL;
    while (all) {
        struct apply_waiter *w = all;
        all = w->next;
        api_finish(w->call, r == 0 ? API_OK
                                   : api_fail(w->call, API_INTERNAL, NULL,
                                              "stored, but not taken over yet: %s; it is tried "
                                              "again",
                                              strerror(-r)));
    }
}

/* All devices are asleep: the second half of a restart. */
static int
begin_again(struct modbusd *d)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    int r = store_read(d->svc->store, &txn);
    if (r == 0)
        r = modbusd_all_stale(d, txn);
    if (r < 0)
        return r;
    d->restarting = d->stopped = false;
    mb_engine_begin(d->engine);
    return 0;
}

static void
on_reload(void *arg)
{
    struct modbusd *d = arg;
    int r = load_stale(d, clock_mono_us() + RELOAD_SLICE_US);
    if (r == 0 && d->n_stale == 0 && d->restarting)
        r = begin_again(d);
    bool done = r < 0 || (d->n_stale == 0 && !d->iface_stale);
    int told = done ? mb_engine_publish_changes(d->engine) : 0;
    r = r < 0 ? r : told;
    uint64_t next = done ? 0 : clock_mono_us();
    d->load_failed = r < 0;
    if (r < 0) {
        /* The configuration is stored; what is missing follows with the next try. */
        log_err("modbusd: cannot take over the configuration error=%s", strerror(-r));
        next = clock_mono_us() + RELOAD_AGAIN_US;
    }
    if (next)
        (void)loop_timer_set(d->svc->loop, &d->reload_timer, next); /* or with the next apply */
    if (done)
        finish_waiters(d, r);
}

int
modbusd_all_stale(struct modbusd *d, struct store_txn *txn)
{
    struct store_iter it;
    int r = store_iter_init(&it, txn, DB_DEV_RUN, NULL, 0, false);
    if (r < 0)
        return r;
    while ((r = store_iter_next(&it)) == STORE_OK)
        if (it.key_size != 4 || (r = add_stale(d, get_u32(it.key))) < 0)
            break;
    store_iter_done(&it);
    if (r < 0)
        return r;
    sort_stale(d);
    return 0;
}

int
modbusd_load(struct modbusd *d)
{
    CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(1 << 20);
    struct store_txn *txn = NULL;
    loop_timer_init(&d->reload_timer, on_reload, d);
    int r = a ? store_begin(d->svc->store, &txn) : -ENOMEM;
    if (r < 0)
        return r;
    r = config_ensure_defaults(a, txn);
    if (r == 0)
        r = modbusd_all_stale(d, txn);
    if (r < 0) {
        store_abort(txn);
        return r;
    }
    r = store_commit(txn);
    d->iface_stale = true;
    if (r == 0)
        r = load_stale(d, UINT64_MAX);
    return r < 0 ? r : mb_engine_publish_changes(d->engine);
}

/* ---- apply and undo ---- */

/* Room for each device once for each kind of its records, as they come. */
static int
waiter_init(struct apply_waiter *w, struct api_call *call, struct store_txn *txn)
{
    uint64_t n = 0, n_run = 0;
    int r = store_count(txn, DB_DEV, &n);
    if (r == 0)
        r = store_count(txn, DB_DEV_RUN, &n_run);
    if (r < 0)
        return r;
    w->call = call;
    w->cap = (size_t)(n + n_run) * KIND_TAG + 1;
    w->devs = api_alloc(call, w->cap * sizeof(*w->devs));
    return w->devs ? 0 : -ENOMEM;
}

static int
note_changed(void *arg, uint32_t dev)
{
    struct apply_waiter *w = arg;
    if (w->n > 0 && w->devs[w->n - 1] == dev)
        return 0;
    if (w->n == w->cap)
        return -EPROTO;
    w->devs[w->n++] = dev;
    return 0;
}

void
modbusd_reload(void *self, void *waiter)
{
    struct modbusd *d = self;
    struct apply_waiter *w = waiter;
    int r = 0;
    for (size_t i = 0; i < w->n && r == 0; i++)
        r = add_stale(d, w->devs[i]);
    sort_stale(d);
    api_hold(w->call);
    w->next = d->waiters;
    d->waiters = w;
    if (r < 0 || loop_timer_set(d->svc->loop, &d->reload_timer, clock_mono_us()) < 0)
        finish_waiters(d, -ENOMEM);
}

enum api_status
modbusd_apply_master_config(struct modbusd *self, struct api_call *call)
{
    (void)self; /* the loop's */
    struct apply_waiter *w = api_alloc(call, sizeof(*w));
    struct store_txn *txn = api_txn(call);
    if (!txn || !w)
        return API_INTERNAL;
    int r = waiter_init(w, call, txn);
    if (r == 0)
        r = config_apply(txn, SIDE_MASTER, note_changed, w);
    if (r < 0)
        return op_store_error(call, r);
    api_after_commit(call, modbusd_reload, w);
    return API_OK;
}

enum api_status
modbusd_undo_master_config(struct modbusd *self, struct api_call *call)
{
    (void)self; /* the loop's */
    return op_undo(call, SIDE_MASTER);
}

enum api_status
modbusd_get_master_config_change(struct modbusd *self, struct api_call *call,
                                 struct config_change *reply)
{
    (void)self;
    return op_get_change(call, SIDE_MASTER, reply);
}

/* ---- log level ---- */

static const char log_level_key[] = "log-level";

static const struct {
    const char *name;
    enum log_level level;
} levels[] = {
    { "ALL", LOG_LEVEL_DEBUG }, { "TRACE", LOG_LEVEL_DEBUG }, { "DEBUG", LOG_LEVEL_DEBUG },
    { "INFO", LOG_LEVEL_INFO }, { "WARN", LOG_LEVEL_WARN },   { "ERROR", LOG_LEVEL_ERR },
    { "FATAL", LOG_LEVEL_OFF }, { "OFF", LOG_LEVEL_OFF },
};

/* Index of levels kept in the store, or -1. */
static int
stored_level(struct store_txn *txn)
{
    const void *value;
    size_t size;
    if (store_get(txn, DB_ONE, log_level_key, strlen(log_level_key), &value, &size) != 0 ||
        size != 1 || *(const uint8_t *)value >= ARRAY_LEN(levels))
        return -1;
    return *(const uint8_t *)value;
}

int
modbusd_load_log_level(struct modbusd *d)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    int r = store_read(d->svc->store, &txn);
    if (r < 0)
        return r;
    int i = stored_level(txn);
    if (i >= 0)
        log_set_level(levels[i].level);
    return 0;
}

enum api_status
modbusd_get_master_log_level(struct modbusd *self, struct api_call *call)
{
    (void)self;
    static const char *const by_level[] = {
        [LOG_LEVEL_ERR] = "ERROR",
        [LOG_LEVEL_WARN] = "WARN",
        [LOG_LEVEL_INFO] = "INFO",
        [LOG_LEVEL_DEBUG] = "DEBUG",
    };
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    int i = stored_level(txn);
    jw_str(api_reply_buf(call), i >= 0 ? levels[i].name : by_level[log_get_level()]);
    return API_OK;
}

static void
set_level(void *self, void *arg)
{
    (void)self;
    log_set_level(levels[*(const uint8_t *)arg].level);
}

enum api_status
modbusd_put_master_log_level(struct modbusd *self, struct api_call *call,
                             const struct log_level_body *body)
{
    (void)self;
    if (!body->log_level)
        return api_fail(call, API_INVALID, "/logLevel", "get 'level' parameter failed");
    uint8_t i = 0;
    while (i < ARRAY_LEN(levels) && !str_eq(levels[i].name, body->log_level))
        i++;
    if (i == ARRAY_LEN(levels))
        return api_fail(call, API_INVALID, "/logLevel",
                        "invalid 'level' parameter value in level options [ALL, TRACE, DEBUG, "
                        "INFO, WARN, ERROR, FATAL, OFF]");
    struct store_txn *txn = api_txn(call);
    uint8_t *kept = api_alloc(call, 1);
    if (!txn || !kept)
        return API_INTERNAL;
    *kept = i;
    int r = store_put(txn, DB_ONE, log_level_key, strlen(log_level_key), kept, 1);
    if (r < 0)
        return op_store_error(call, r);
    api_after_commit(call, set_level, kept);
    return API_OK;
}

/* ---- what is there, and how it does ---- */

enum api_status
modbusd_get_master_platform_tags(struct modbusd *self, struct api_call *call)
{
    struct mb_engine_stats stats;
    struct tag_def def;
    struct buf b;
    mb_engine_get_stats(self->engine, &stats);
    buf_init(&b, 128 << 20);
    buf_printf(&b, "{\"count\":%zu,\"data\":[", stats.n_tags);
    for (size_t at = 0; mb_engine_def(self->engine, at, &def); at++)
        op_put_platform_tag(&b, &def);
    buf_puts(&b, "]}");
    return modbusd_reply(call, &b);
}

const char *
op_status_text(bool known, enum mb_status status)
{
    if (!known)
        return "No communication yet";
    switch (status) {
    case MB_STATUS_OK:
        return "OK";
    case MB_STATUS_TIMEOUT:
        return "Request timeout";
    case MB_STATUS_NO_CONNECTION:
        return "No connection";
    case MB_STATUS_EXCEPTION:
        return "Exception response";
    case MB_STATUS_BAD_REPLY:
        return "Invalid response";
    }
    return "No communication yet";
}

static void
write_counters(struct buf *b, const struct mb_counts *n)
{
    jw_ku64(b, "sentReqs", n->sent);
    jw_ku64(b, "recvValidResps", n->valid);
    jw_ku64(b, "recvInvalidResps", n->invalid);
    jw_ku64(b, "recvExceptions", n->exceptions);
    jw_ku64(b, "timeout", n->timeouts);
}

enum api_status
modbusd_get_master_tcp_status(struct modbusd *self, struct api_call *call)
{
    struct mb_engine_stats stats;
    struct mb_dev_stats s;
    struct mb_counts sum = { 0 };
    mb_engine_get_stats(self->engine, &stats);
    for (size_t at = 0; mb_engine_dev_stats(self->engine, at, &s); at++) {
        if (s.port_id)
            continue;
        sum.sent += s.counts.sent;
        sum.valid += s.counts.valid;
        sum.invalid += s.counts.invalid;
        sum.exceptions += s.counts.exceptions;
        sum.timeouts += s.counts.timeouts;
    }
    struct buf b;
    buf_init(&b, 4 << 20);
    buf_puts(&b, "{\"data\":{");
    jw_kstr(&b, "mode", "TCP");
    jw_ku64(&b, "numConns", stats.n_tcp_open);
    write_counters(&b, &sum);
    jw_name(&b, "conns");
    jw_open(&b, '[');
    for (size_t at = 0; mb_engine_dev_stats(self->engine, at, &s); at++) {
        char peer[80];
        bool v6 = strchr(s.addr, ':') != NULL;
        (void)snprintf(peer, sizeof(peer), v6 ? "[%s]:%u" : "%s:%u", s.addr, s.port); /* fits */
        if (!s.polled || s.port_id)
            continue;
        jw_open(&b, '{');
        jw_kstr(&b, "status", op_status_text(s.known, s.status));
        jw_kstr(&b, "name", s.name);
        jw_kstr(&b, "remoteIpPort", peer);
        jw_ku64(&b, "slaveId", s.unit);
        write_counters(&b, &s.counts);
        jw_close(&b, '}');
    }
    jw_close(&b, ']');
    buf_puts(&b, "}}");
    return modbusd_reply(call, &b);
}

static void
write_mcmds(struct buf *b, const struct mb_engine *e, size_t dev_at, const struct mb_dev_stats *d)
{
    struct mb_cmd_stats s;
    for (size_t at = 0; mb_engine_cmd_stats(e, dev_at, at, &s); at++) {
        jw_open(b, '{');
        jw_ku64(b, "remoteDevId", d->id);
        jw_kstr(b, "remoteDevName", d->name);
        jw_ku64(b, "mcmdId", s.id);
        jw_kstr(b, "mcmdName", s.name);
        jw_kbool(b, "polled", s.polled);
        jw_kstr(b, "status", op_status_text(s.known, s.status));
        write_counters(b, &s.counts);
        jw_close(b, '}');
    }
}

enum api_status
modbusd_get_master_mcmd_status(struct modbusd *self, struct api_call *call,
                               const struct modbusd_get_master_mcmd_status_query *query)
{
    struct mb_dev_stats d;
    struct buf b;
    buf_init(&b, MCMD_STATUS_MAX);
    buf_puts(&b, "{\"data\":[");
    for (size_t at = 0; mb_engine_dev_stats(self->engine, at, &d); at++)
        if (!query->has_remote_dev_id || d.id == query->remote_dev_id)
            write_mcmds(&b, self->engine, at, &d);
    buf_puts(&b, "]}");
    return modbusd_reply(call, &b);
}

enum api_status
modbusd_get_master_protocol_status(struct modbusd *self, struct api_call *call,
                                   struct protocol_status *reply)
{
    (void)call;
    struct mb_dev_stats s;
    reply->status = 1;
    for (size_t at = 0; mb_engine_dev_stats(self->engine, at, &s); at++)
        if (s.polled && (!s.known || s.status != MB_STATUS_OK))
            reply->status = 0;
    return API_OK;
}
