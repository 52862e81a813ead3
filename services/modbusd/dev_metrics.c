/*
 * Metrics of each device and each serial line. Those of commands would be
 * tens of thousands: getMasterMcmdStatus has them.
 */
#include <stdio.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/metrics.h"
#include "services/modbusd/config.h"
#include "services/modbusd/modbusd.h"

#include "libcommon/banned.h"

enum { LABELS_MAX = 512 };

struct family {
    const char *name, *help;
    size_t at; /* of its counter */
};

static const struct family of_devices[] = {
    { "fieldgate_modbus_device_requests_total", "Requests to a device",
      offsetof(struct mb_counts, sent) },
    { "fieldgate_modbus_device_replies_total", "Good answers of a device",
      offsetof(struct mb_counts, valid) },
    { "fieldgate_modbus_device_invalid_replies_total", "Answers of a device that did not fit",
      offsetof(struct mb_counts, invalid) },
    { "fieldgate_modbus_device_exceptions_total", "Exception answers of a device",
      offsetof(struct mb_counts, exceptions) },
    { "fieldgate_modbus_device_timeouts_total", "Requests to a device without an answer in time",
      offsetof(struct mb_counts, timeouts) },
};

static const struct family of_lines[] = {
    { "fieldgate_modbus_line_requests_total", "Requests on a serial line",
      offsetof(struct mb_line_stats, sent) },
    { "fieldgate_modbus_line_replies_total", "Good answers on a serial line",
      offsetof(struct mb_line_stats, valid) },
    { "fieldgate_modbus_line_invalid_replies_total",
      "Answers on a serial line that did not fit, with a wrong CRC or LRC included",
      offsetof(struct mb_line_stats, invalid) },
    { "fieldgate_modbus_line_checksum_errors_total", "Frames with a wrong CRC or LRC",
      offsetof(struct mb_line_stats, checksum) },
    { "fieldgate_modbus_line_exceptions_total", "Exception answers on a serial line",
      offsetof(struct mb_line_stats, exceptions) },
    { "fieldgate_modbus_line_timeouts_total", "Requests on a serial line without an answer in time",
      offsetof(struct mb_line_stats, timeouts) },
};

static uint64_t
counter_at(const void *counters, size_t at)
{
    uint64_t n;
    memcpy(&n, (const char *)counters + at, sizeof(n));
    return n;
}

static void
put_of_device(const struct family *f, const struct mb_dev_stats *s, struct buf *b,
              const char *daemon)
{
    struct buf labels;
    buf_init(&labels, LABELS_MAX);
    metric_put_label(&labels, "device", s->name);
    /* A device on a serial line may have the name of one over TCP. */
    buf_printf(&labels, ",id=\"%u\"", s->id);
    if (labels.err)
        b->err = labels.err;
    else
        metric_put_sample(b, f->name, daemon, buf_text(&labels), counter_at(&s->counts, f->at));
    buf_done(&labels);
}

static void
put_devices(const struct mb_engine *e, struct buf *b, const char *daemon)
{
    struct mb_dev_stats s;
    if (!mb_engine_dev_stats(e, 0, &s))
        return;
    for (size_t i = 0; i < ARRAY_LEN(of_devices); i++) {
        metric_put_head(b, of_devices[i].name, of_devices[i].help, false);
        for (size_t at = 0; mb_engine_dev_stats(e, at, &s); at++)
            put_of_device(&of_devices[i], &s, b, daemon);
    }
}

static void
put_lines(const struct mb_engine *e, struct buf *b, const char *daemon)
{
    struct mb_line_stats s;
    for (size_t i = 0; i < ARRAY_LEN(of_lines); i++) {
        bool is_first = true;
        for (uint32_t id = 1; id <= SERIAL_PORTS_MAX; id++) {
            char label[32];
            if (!mb_engine_line_stats(e, id, &s))
                continue;
            if (is_first)
                metric_put_head(b, of_lines[i].name, of_lines[i].help, false);
            is_first = false;
            (void)snprintf(label, sizeof(label), "port=\"%u\"", id); /* fits */
            metric_put_sample(b, of_lines[i].name, daemon, label, counter_at(&s, of_lines[i].at));
        }
    }
}

void
modbusd_put_metrics(void *self, struct buf *b, const char *daemon)
{
    const struct modbusd *d = self;
    put_devices(d->engine, b, daemon);
    put_lines(d->engine, b, daemon);
}
