/*
 * A provider of tags without devices, in the place of modbusd, for tests of
 * what follows the tag bus. It lists modbus_tcp_master/fake/t0…, uint16
 * counters that all step every interval, and beside them
 *
 *   big   uint64 rw   starts at 2^64 - 1
 *   text  string rw   at most 32 bytes
 *   real  double r    never had a value
 *   out   int16 w     cannot be read
 *
 * A write is published at once. "out" refuses 13 as a device would, 14 as
 * modbusd does when too much waits.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/str.h"
#include "libcommon/svc.h"
#include "libcommon/tagbus.h"
#include "proto/internal.h"
#include "libcommon/banned.h"

enum { TAGS_MAX = 100000, TEXT_MAX = 32, N_SPECIAL = 4, BIG = 0, TEXT = 1, REAL = 2, OUT = 3 };

struct provider {
    struct svc *svc;
    uint32_t n, interval_ms; /* of the counters */
    struct loop_timer timer;
    uint64_t due_us;
    uint16_t count;
    int64_t ts_us;
    uint64_t big;
    int16_t out;
    char text[TEXT_MAX];
    uint16_t text_len;
};

static bool
get_def(void *arg, size_t at, struct tag_def *d)
{
    const struct provider *p = arg;
    static const struct tag_def special[N_SPECIAL] = {
        [BIG] = { .type = TAG_UINT64,
                  .access = TAG_ACCESS_READ | TAG_ACCESS_WRITE,
                  .name = "big",
                  .unit = "l/s" },
        [TEXT] = { .type = TAG_STRING,
                   .access = TAG_ACCESS_READ | TAG_ACCESS_WRITE,
                   .name = "text",
                   .size = TEXT_MAX },
        [REAL] = { .type = TAG_DOUBLE, .access = TAG_ACCESS_READ, .name = "real" },
        [OUT] = { .type = TAG_INT16, .access = TAG_ACCESS_WRITE, .name = "out" },
    };
    if (at >= N_SPECIAL + p->n)
        return false;
    *d = at < N_SPECIAL ? special[at]
                        : (struct tag_def){ .type = TAG_UINT16, .access = TAG_ACCESS_READ };
    d->no = (uint32_t)at + 1;
    d->interval_ms = p->interval_ms;
    (void)snprintf(d->provider, sizeof(d->provider), "modbus_tcp_master");
    (void)snprintf(d->source, sizeof(d->source), "fake");
    if (at >= N_SPECIAL)
        (void)snprintf(d->name, sizeof(d->name), "t%zu", at - N_SPECIAL);
    return true;
}

static bool
get_last(void *arg, size_t at, struct tag_sample *s)
{
    const struct provider *p = arg;
    if (at >= N_SPECIAL + p->n)
        return false;
    *s = (struct tag_sample){ .no = (uint32_t)at + 1, .ts_us = p->ts_us };
    switch (at) {
    case BIG:
        s->value = (struct tag_value){ .type = TAG_UINT64, .u = p->big };
        break;
    case TEXT:
        s->value = (struct tag_value){ .type = TAG_STRING,
                                       .bytes = (const uint8_t *)p->text,
                                       .n_bytes = p->text_len };
        break;
    case REAL:
        s->quality = TAG_BAD_TIMEOUT;
        s->value = (struct tag_value){ .type = TAG_DOUBLE };
        break;
    case OUT:
        s->value = (struct tag_value){ .type = TAG_INT16, .i = p->out };
        break;
    default:
        s->value = (struct tag_value){ .type = TAG_UINT16, .u = p->count };
        break;
    }
    return true;
}

static void
publish(struct provider *p, size_t at)
{
    struct tag_sample s;
    if (get_last(p, at, &s))
        tag_pub_add(p->svc->tags, &s);
}

static void
step(void *arg)
{
    struct provider *p = arg;
    p->count++;
    p->ts_us = clock_wall_us();
    for (size_t i = 0; i < p->n; i++)
        publish(p, N_SPECIAL + i);
    p->due_us += (uint64_t)p->interval_ms * 1000;
    (void)loop_timer_set(p->svc->loop, &p->timer, p->due_us);
}

static void
answer(struct bus_incoming *in, uint16_t status, const char *error, const struct buf *bytes)
{
    struct bus_reply r = { .id = bus_incoming_request(in)->id, .status = status };
    if (error != NULL) {
        r.body_kind = BUS_BODY_JSON;
        r.body = (struct bus_str){ error, (uint32_t)strlen(error) };
    } else if (bytes != NULL) {
        r.body_kind = BUS_BODY_BYTES;
        r.body = (struct bus_str){ bytes->data, (uint32_t)bytes->len };
    }
    bus_answer(in, &r);
}

static void
on_read(void *self, struct bus_incoming *in)
{
    struct provider *p = self;
    const struct bus_request *rq = bus_incoming_request(in);
    struct rd body;
    struct tag_sample s;
    rd_init(&body, rq->body.p, rq->body.len);
    uint32_t no = rd_u32(&body);
    if (!rd_ended(&body) || no == 0 || !get_last(p, no - 1, &s)) {
        answer(in, 404, "{\"error\":{\"message\":\"tag not found\"}}", NULL);
        return;
    }
    struct buf b;
    buf_init(&b, 8192);
    buf_put_u64(&b, (uint64_t)s.ts_us);
    buf_put_u8(&b, s.quality);
    buf_put_u8(&b, s.aux);
    tag_value_encode(&b, &s.value);
    answer(in, 200, NULL, &b);
    buf_done(&b);
}

static void
on_write(void *self, struct bus_incoming *in)
{
    struct provider *p = self;
    const struct bus_request *rq = bus_incoming_request(in);
    struct rd body;
    struct tag_value v;
    rd_init(&body, rq->body.p, rq->body.len);
    uint32_t no = rd_u32(&body);
    if (tag_value_decode(&body, &v) < 0 || no == 0 || no > N_SPECIAL) {
        answer(in, 400, "{\"error\":{\"message\":\"no such tag\"}}", NULL);
        return;
    }
    if (no - 1 == OUT && v.i == 13) {
        answer(in, 504, "{\"error\":{\"message\":\"the device does not answer\"}}", NULL);
        return;
    }
    if (no - 1 == OUT && v.i == 14) {
        answer(in, 429, "{\"error\":{\"message\":\"too many requests wait\"}}", NULL);
        return;
    }
    p->ts_us = clock_wall_us();
    if (no - 1 == BIG)
        p->big = v.u;
    if (no - 1 == OUT)
        p->out = (int16_t)v.i;
    if (no - 1 == TEXT && v.n_bytes <= TEXT_MAX) {
        memcpy(p->text, v.bytes, v.n_bytes);
        p->text_len = v.n_bytes;
    }
    publish(p, no - 1);
    answer(in, 200, NULL, NULL);
}

static int
set_tags(void *self, const char *value)
{
    return parse_u32(value, 0, TAGS_MAX, &((struct provider *)self)->n);
}

static int
set_interval(void *self, const char *value)
{
    return parse_u32(value, 1, 86400000, &((struct provider *)self)->interval_ms);
}

static int
start(void *self, struct svc *svc)
{
    struct provider *p = self;
    struct tag_pub_source source = { .def = get_def, .last = get_last, .arg = p };
    p->svc = svc;
    p->ts_us = clock_wall_us();
    p->big = UINT64_MAX;
    p->due_us = clock_mono_us();
    loop_timer_init(&p->timer, step, p);
    int r = tag_pub_open(svc->bus, svc->loop, "modbusd", &source, &svc->tags);
    if (r == 0)
        step(p);
    return r;
}

int
main(int argc, char **argv)
{
    static const struct svc_option options[] = {
        { "tags", "number of counters", set_tags },
        { "interval-ms", "how often they step", set_interval },
        { NULL, NULL, NULL },
    };
    static const struct svc_internal internals[] = {
        { INTERNAL_TAG_READ, on_read },
        { INTERNAL_TAG_WRITE, on_write },
        { 0, NULL },
    };
    static const struct svc_info info = {
        .name = "modbusd", .options = options, .internals = internals, .start = start
    };
    static struct provider provider = { .n = 10, .interval_ms = 1000 };
    return svc_main(&info, &provider, argc, argv);
}
