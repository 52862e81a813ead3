/* modbusd: what it is made of. */
#include <errno.h>

#include "gen/api_modbusd.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/metrics.h"
#include "libcommon/str.h"
#include "libcommon/tagbus.h"
#include "proto/internal.h"
#include "services/modbusd/config.h"
#include "services/modbusd/modbusd.h"
#include "services/modbusd/sl_hub.h"
#include "libcommon/banned.h"

/* field, metric, help, is it a gauge */
#define METRIC_TABLE(X)                                                                        \
    X(conn.requests, requests, "requests_total", "Requests sent to devices", false)            \
    X(conn.replies, replies, "replies_total", "Good answers of devices", false)                \
    X(conn.timeouts, timeouts, "timeouts_total", "Requests without an answer in time", false)  \
    X(conn.exceptions, exceptions, "exceptions_total", "Exception answers", false)             \
    X(conn.bad, bad, "invalid_replies_total", "Answers that did not fit", false)               \
    X(conn.late, late, "late_replies_total", "Answers nobody waited for any more", false)      \
    X(conn.lost_framing, lost_framing, "framing_lost_total", "Streams that were no Modbus",    \
      false)                                                                                   \
    X(conn.connects, connects, "connects_total", "Connections made", false)                    \
    X(conn.connect_failures, connect_failures, "connect_failures_total",                       \
      "Connections that could not be made", false)                                             \
    X(overruns, overruns, "skipped_periods_total",                                             \
      "Periods in which a command was not polled", false)                                      \
    X(directs, directs, "direct_requests_total", "Direct reads and writes", false)             \
    X(fault_writes, fault_writes, "fault_writes_total",                                        \
      "Times fault protection wrote its data", false)                                          \
    X(strict, strict, "strict_total", "Connections that fell back to one request at a time",   \
      false)                                                                                   \
    X(n_tags, n_tags, "tags", "Tags provided", true)                                           \
    X(n_devices, n_devices, "devices", "Devices configured", true)

#define X(field, id, metric, text, is_gauge)                                                   \
    static struct metric_counter m_##id = { .name = "fieldgate_modbus_" metric,                \
                                            .help = (text),                                    \
                                            .gauge = (is_gauge) };
METRIC_TABLE(X)
#undef X

static struct metric_counter m_open = { .name = "fieldgate_modbus_connections",
                                        .help = "Connections to devices by state",
                                        .labels = "state=\"open\"",
                                        .gauge = true };
static struct metric_counter m_connecting = { .name = "fieldgate_modbus_connections",
                                              .help = "Connections to devices by state",
                                              .labels = "state=\"connecting\"",
                                              .gauge = true };
static struct metric_counter m_waiting = { .name = "fieldgate_modbus_connections",
                                           .help = "Connections to devices by state",
                                           .labels = "state=\"waiting\"",
                                           .gauge = true };

static void
update_metrics(void *arg)
{
    const struct modbusd *d = arg;
    struct mb_engine_stats s;
    mb_engine_get_stats(d->engine, &s);
#define X(field, id, metric, text, is_gauge) metric_set(&m_##id, s.field);
    METRIC_TABLE(X)
#undef X
    metric_set(&m_open, s.n_open);
    metric_set(&m_connecting, s.n_connecting);
    metric_set(&m_waiting, s.n_waiting);
}

static void
register_metrics(struct modbusd *d)
{
#define X(field, id, metric, text, is_gauge) metric_register(&m_##id);
    METRIC_TABLE(X)
#undef X
    metric_register(&m_open);
    metric_register(&m_connecting);
    metric_register(&m_waiting);
    metric_on_dump(update_metrics, d);
    metric_on_families(modbusd_put_metrics, d);
}

/* ---- life ---- */

static int
modbusd_open(void *self, struct svc *svc)
{
    struct modbusd *d = self;
    d->svc = svc;
    struct mb_engine_hooks hooks = { sl_hub_publish, sl_hub_changed, modbusd_event, d };
    int r = modbusd_events_new(d);
    if (r == 0)
        r = mb_engine_new(svc->loop, &hooks, &d->engine);
    if (r < 0)
        return r;
    mb_engine_set_traffic(d->engine, 0, &d->traffic);
    return sl_hub_open(d);
}

static int
modbusd_start(void *self, struct svc *svc)
{
    struct modbusd *d = self;
    struct tag_pub_source source = { sl_hub_def, sl_hub_last, d };
    int r = modbusd_load_log_level(d);
    if (r == 0)
        r = tag_pub_open(svc->bus, svc->loop, "modbusd", &source, &svc->tags);
    if (r == 0)
        r = sl_hub_start(d);
    if (r == 0)
        r = modbusd_load(d);
    if (r == 0)
        r = modbusd_load_slave(d);
    if (r == 0)
        register_metrics(d);
    return r;
}

static void
modbusd_stop(void *self, struct svc *svc)
{
    struct modbusd *d = self;
    (void)svc;
    sl_hub_stop(d);
    mb_engine_free(d->engine);
    d->engine = NULL;
    modbusd_events_free(d);
    traffic_done(&d->traffic);
    for (size_t i = 0; i < SERIAL_PORTS_MAX; i++)
        traffic_done(&d->ser_traffic[i]);
    free(d->stale);
    d->stale = NULL;
}

static int
set_original_limits(void *self, const char *value)
{
    struct modbusd *d = self;
    uint32_t on;
    if (parse_u32(value, 0, 1, &on) < 0)
        return -EINVAL;
    d->original_limits = on;
    return 0;
}

int
main(int argc, char **argv)
{
    static const struct svc_option options[] = {
        { "original-limits",
          "1: at most 32 TCP and 31 serial devices, 2048 commands, 128 of them on a serial "
          "port, and 2048 tags, as the original has it (default 0: 1000, 20000, 100000)",
          set_original_limits },
        { NULL, NULL, NULL },
    };
    static const struct svc_internal internals[] = {
        { INTERNAL_TAG_READ, modbusd_serve_tag_read },
        { INTERNAL_TAG_WRITE, modbusd_serve_tag_write },
        { INTERNAL_SECURITY_FACTS, modbusd_serve_security_facts },
        { INTERNAL_SERIAL_CHANGED, modbusd_serve_serial_changed },
        { 0, NULL },
    };
    static const struct svc_info info = {
        .name = "modbusd",
        .ops = modbusd_ops,
        .n_ops = &modbusd_n_ops,
        .internals = internals,
        .options = options,
        .dbs = config_dbs,
        .n_dbs = N_DBS,
        .schema = 1,
        .open = modbusd_open,
        .start = modbusd_start,
        .stop = modbusd_stop,
    };
    static struct modbusd modbusd;
    return svc_main(&info, &modbusd, argc, argv);
}
