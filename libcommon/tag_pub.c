/*
 * The provider's side of the tag bus: batches out, catalogue and last values
 * on demand (proto/README.md sections 3 and 4).
 *
 * A batch leaves when the loop is about to sleep, so a lone sample never
 * waits; under load at most one batch per PUB_GAP_US leaves, or a full one.
 */
#include "libcommon/tagbus.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "proto/internal.h"

#include "libcommon/banned.h"

enum {
    PUB_GAP_US = 1000,
    /* An empty batch tells subscribers that they missed nothing: soon after the
     * last one with samples, then seldom. */
    PUB_FIRST_BEAT_US = 1000000,
    PUB_BEAT_US = 10000000,
    PAGE_MAX = 1 << 20, /* bytes of a page of catalogue or snapshot */
    PAGE_SLACK = 8192,  /* more than any one definition or sample */
};

struct tag_pub {
    struct loop *loop;
    struct bus_pub *pub;
    struct tag_pub_source source;
    uint64_t epoch, seq;
    uint32_t generation;
    bool changed; /* tell the new generation, with samples or without */
    struct tag_batch_builder batch;
    uint64_t last_us; /* when the last batch left */
    struct loop_timer flush_timer, beat_timer;
    uint64_t beat_us;
    struct tag_pub_stats stats;
};

static void
set_timer(struct tag_pub *p, struct loop_timer *t, uint64_t deadline_us)
{
    if (loop_timer_set(p->loop, t, deadline_us) < 0)
        log_debug("tagbus: no memory for a timer");
}

/* The next empty batch is due soon, whatever was planned. */
static void
beat_soon(struct tag_pub *p)
{
    if (p->beat_us == PUB_FIRST_BEAT_US)
        return;
    p->beat_us = PUB_FIRST_BEAT_US;
    set_timer(p, &p->beat_timer, clock_mono_us() + PUB_FIRST_BEAT_US);
}

/* Sends what gathered; with nothing gathered the batch repeats the last number. */
static void
send_batch(struct tag_pub *p)
{
    struct bus_str message;
    bool empty = p->batch.count == 0;
    uint16_t count = p->batch.count;
    uint64_t seq = empty ? p->seq : ++p->seq; /* a batch that fails is a gap, and so seen */
    int r = tag_batch_finish(&p->batch, p->epoch, seq, p->generation, &message);
    if (r == 0)
        r = bus_pub_send(p->pub, message.p, message.len);
    if (r < 0)
        log_debug("tagbus: batch not sent error=%d", r);
    if (!empty) {
        p->stats.batches++;
        p->stats.samples += count;
        beat_soon(p);
    }
    p->changed = false;
    p->last_us = clock_mono_us();
}

static void
before_sleep(void *arg)
{
    struct tag_pub *p = arg;
    if (p->batch.count == 0 && !p->changed)
        return;
    uint64_t now = clock_mono_us();
    if (now - p->last_us >= PUB_GAP_US) {
        loop_timer_cancel(p->loop, &p->flush_timer);
        send_batch(p);
    } else if (!loop_timer_is_set(&p->flush_timer)) {
        set_timer(p, &p->flush_timer, p->last_us + PUB_GAP_US);
    }
}

/* The timer only ends the sleep: before_sleep of the same round sends. */
static void
flush_due(void *arg)
{
    (void)arg;
}

static void
beat(void *arg)
{
    struct tag_pub *p = arg;
    uint64_t now = clock_mono_us();
    if (now - p->last_us >= p->beat_us) {
        send_batch(p);
        p->beat_us = PUB_BEAT_US;
    }
    set_timer(p, &p->beat_timer, p->last_us + p->beat_us);
}

int
tag_pub_open(struct bus *bus, struct loop *loop, const char *daemon,
             const struct tag_pub_source *source, struct tag_pub **ret_pub)
{
    char name[64];
    int n = snprintf(name, sizeof(name), "%s.tags", daemon);
    if (n < 0 || (size_t)n >= sizeof(name))
        return -ENAMETOOLONG;
    CLEANUP(freep) struct tag_pub *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return -ENOMEM;
    p->loop = loop;
    p->source = *source;
    p->generation = 1;
    p->beat_us = PUB_BEAT_US;
    if (getrandom(&p->epoch, sizeof(p->epoch), 0) != (ssize_t)sizeof(p->epoch))
        return -EIO;
    tag_batch_builder_init(&p->batch);
    loop_timer_init(&p->flush_timer, flush_due, p);
    loop_timer_init(&p->beat_timer, beat, p);
    int r = loop_before_sleep(loop, before_sleep, p);
    if (r < 0)
        return r;
    struct tag_pub *opened = MOVE_PTR(p); /* the loop knows it now */
    r = bus_pub_open(bus, name, &opened->pub);
    if (r < 0)
        return r;
    set_timer(opened, &opened->beat_timer, clock_mono_us() + PUB_BEAT_US);
    *ret_pub = opened;
    return 0;
}

void
tag_pub_changed(struct tag_pub *p)
{
    if (p->batch.count > 0)
        send_batch(p); /* they belong to the old catalogue */
    p->generation++;
    p->changed = true;
}

void
tag_pub_add(struct tag_pub *p, const struct tag_sample *s)
{
    int r = tag_batch_put(&p->batch, s);
    if (r == -E2BIG) { /* the bytes of its texts are full */
        send_batch(p);
        r = tag_batch_put(&p->batch, s);
    }
    if (r < 0) { /* a sample is lost: make a gap of it, so that subscribers ask */
        p->seq++;
        beat_soon(p);
    }
    if (p->batch.count == TAG_BATCH_MAX)
        send_batch(p);
}

void
tag_pub_get_stats(const struct tag_pub *p, struct tag_pub_stats *ret_stats)
{
    *ret_stats = p->stats;
}

/* ---- catalogue and snapshot ---- */

/* Puts the element at 'at'; false past the end. */
typedef bool put_fn(struct tag_pub *p, struct buf *b, size_t at);

static bool
put_def(struct tag_pub *p, struct buf *b, size_t at)
{
    struct tag_def def = { 0 };
    if (!p->source.def(p->source.arg, at, &def))
        return false;
    tag_def_encode(b, &def);
    return true;
}

static bool
put_last(struct tag_pub *p, struct buf *b, size_t at)
{
    struct tag_sample sample = { 0 };
    if (!p->source.last(p->source.arg, at, &sample))
        return false;
    tag_sample_encode(b, &sample);
    return true;
}

/* The page from element 'from' on; proto/README.md section 4. */
static void
answer_page(struct tag_pub *p, struct bus_incoming *in, put_fn *put, size_t from)
{
    struct buf b;
    buf_init(&b, PAGE_MAX);
    if (p->batch.count > 0)
        send_batch(p); /* so that the page holds after 'seq' */
    buf_put_u64(&b, p->epoch);
    buf_put_u32(&b, p->generation);
    buf_put_u64(&b, p->seq);
    buf_put_u32(&b, 0); /* next */
    buf_put_u32(&b, 0); /* count */
    size_t at = from;
    bool more = true;
    while (b.len < PAGE_MAX - PAGE_SLACK && (more = put(p, &b, at)))
        at++;
    if (b.err == 0) {
        buf_patch_u32(&b, 20, more ? (uint32_t)at : 0);
        buf_patch_u32(&b, 24, (uint32_t)(at - from));
        struct bus_reply reply = {
            .status = 200,
            .body_kind = BUS_BODY_BYTES,
            .body = { .p = b.data, .len = (uint32_t)b.len },
        };
        bus_answer(in, &reply);
    } else {
        bus_answer_status(in, 500);
    }
    buf_done(&b);
}

bool
tag_pub_serve(struct tag_pub *p, struct bus_incoming *in)
{
    const struct bus_request *r = bus_incoming_request(in);
    if (r->kind != BUS_KIND_INTERNAL ||
        (r->op != INTERNAL_TAG_CATALOGUE && r->op != INTERNAL_TAG_SNAPSHOT))
        return false;
    struct rd body;
    rd_init(&body, r->body.p, r->body.len);
    uint32_t from = rd_u32(&body);
    if (!rd_ended(&body))
        bus_answer_status(in, 400);
    else
        answer_page(p, in, r->op == INTERNAL_TAG_CATALOGUE ? put_def : put_last, from);
    return true;
}
