/*
 * Event streams: blocks gather here until the gateway asks for them
 * (BUS_KIND_STREAM_NEXT). So a slow client holds back nobody: past its bound
 * a stream drops its oldest blocks and counts them.
 */
#include "libcommon/api.h"

#include <string.h>

#include "libcommon/api_private.h"
#include "libcommon/clock.h"
#include "libcommon/metrics.h"
#include "libcommon/svc.h"

#include "libcommon/banned.h"

enum {
    STREAMS_MAX = 128,
    TAKE_MAX = 256 << 10,           /* bytes of one answer */
    ANSWER_BEFORE_US = 500 * 1000,  /* an empty answer leaves this long before the deadline */
    TOO_LATE_US = 50 * 1000,        /* this long before it none may carry anything any more */
    ABANDONED_US = 60 * 1000 * 1000 /* nobody asked for so long: whoever did is gone */
};

struct api_stream {
    struct api_stream *next;
    struct api_streams *all;
    uint64_t id;
    int64_t session_id, user_id;
    uint8_t permission; /* of the operation that opened it */
    struct buf blocks; /* bytes not yet taken begin at 'taken' */
    size_t taken, max_bytes;
    struct bus_incoming *waiting; /* the gateway's question, when there is nothing to tell */
    struct loop_timer timer;      /* answers 'waiting' in time, or finds the stream abandoned */
    void (*closed)(void *arg);
    void *arg;
};

struct api_streams {
    struct svc *svc;
    struct api_stream *first;
    size_t n;
    uint64_t next_id;
    struct bus_peer *gateway; /* NULL until the first stream */
};

static struct metric_counter streams_open = {
    .name = "fieldgate_streams_open", .help = "Event streams open", .gauge = true
};
static struct metric_counter blocks_dropped = {
    .name = "fieldgate_stream_blocks_dropped_total",
    .help = "Event blocks dropped because a client read too slowly",
};

struct api_streams *
api_streams_new(struct svc *svc)
{
    struct api_streams *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->svc = svc;
    /* An id of an earlier life of this daemon must not hit a stream of this one. */
    s->next_id = clock_mono_us() << 16 | 1;
    metric_register(&streams_open);
    metric_register(&blocks_dropped);
    return s;
}

static size_t
unsent(const struct api_stream *s)
{
    return s->blocks.len - s->taken;
}

static void
answer_next(struct bus_incoming *in, uint16_t status, bool end, const char *bytes, size_t n)
{
    struct bus_reply reply = {
        .id = bus_incoming_request(in)->id,
        .status = status,
        .end = end,
        .body_kind = n ? BUS_BODY_BYTES : BUS_BODY_NONE,
        .body = { bytes, (uint32_t)n },
    };
    bus_answer(in, &reply);
}

static void
stream_free(struct api_stream *s)
{
    struct api_streams *all = s->all;
    for (struct api_stream **at = &all->first; *at; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            break;
        }
    all->n--;
    metric_set(&streams_open, all->n);
    loop_timer_cancel(all->svc->loop, &s->timer);
    if (s->waiting)
        answer_next(MOVE_PTR(s->waiting), 200, true, NULL, 0);
    buf_done(&s->blocks);
    void (*closed)(void *arg) = s->closed;
    void *arg = s->arg;
    free(s);
    if (closed)
        closed(arg);
}

/* What an answer carries that comes after its deadline is lost: nobody reads it. */
static bool
is_too_late(const struct bus_incoming *in)
{
    return bus_incoming_request(in)->deadline_us <= clock_mono_us() + TOO_LATE_US;
}

/* Gives the waiting question what there is; whole blocks, as many as fit. */
static void
hand_out(struct api_stream *s)
{
    size_t n = is_too_late(s->waiting) ? 0 : unsent(s);
    const char *from = s->blocks.data + s->taken;
    if (n > TAKE_MAX) {
        n = TAKE_MAX;
        while (n > 0 && !(from[n - 1] == '\n' && n > 1 && from[n - 2] == '\n'))
            n--;
        if (n == 0) /* one block larger than that: give it in pieces */
            n = TAKE_MAX;
    }
    answer_next(MOVE_PTR(s->waiting), 200, false, from, n);
    s->taken += n;
    if (s->taken == s->blocks.len) {
        s->taken = 0;
        buf_reset(&s->blocks);
    }
    /* Losing the timer only delays finding an abandoned stream. */
    (void)loop_timer_set(s->all->svc->loop, &s->timer, clock_mono_us() + ABANDONED_US);
}

static void
on_timer(void *arg)
{
    struct api_stream *s = arg;
    if (s->waiting)
        hand_out(s);
    else
        stream_free(s);
}

/*
 * A gateway that died asks no more, and its successor knows none of the ids:
 * its streams would be in the way of new ones until they count as abandoned.
 * If only the line broke, the gateway opens its streams again.
 */
static void
on_gateway(void *arg, bool up)
{
    if (!up)
        api_streams_stop(arg);
}

static void
watch_gateway(struct api_streams *all)
{
    if (!all->gateway && bus_peer(all->svc->bus, "gateway", &all->gateway) == 0 &&
        bus_peer_watch(all->gateway, on_gateway, all) < 0)
        all->gateway = NULL; /* tried again with the next stream */
}

struct api_stream *
api_stream_open(struct api_call *call, size_t max_bytes, void (*closed)(void *arg), void *arg)
{
    struct api_call_private *p = api_private(call);
    struct api_streams *all = api_server_streams(p->server);
    struct api_stream *s = all->n < STREAMS_MAX ? calloc(1, sizeof(*s)) : NULL;
    if (!s) {
        (void)api_fail(call, API_UNAVAILABLE, NULL, "too many event streams"); /* kept in the call */
        return NULL;
    }
    watch_gateway(all);
    s->all = all;
    s->id = all->next_id++;
    s->session_id = call->who->session_id;
    s->user_id = call->who->user_id;
    s->permission = call->op->permission;
    s->max_bytes = max_bytes;
    buf_init(&s->blocks, max_bytes * 2);
    s->closed = closed;
    s->arg = arg;
    loop_timer_init(&s->timer, on_timer, s);
    (void)loop_timer_set(call->svc->loop, &s->timer, clock_mono_us() + ABANDONED_US); /* as above */
    s->next = all->first;
    all->first = s;
    all->n++;
    metric_set(&streams_open, all->n);
    p->body_kind = BUS_BODY_STREAM;
    p->stream_id = s->id;
    return s;
}

static void
count_dropped(void)
{
    metric_add(&blocks_dropped, 1);
}

/* Makes room for 'len' bytes by dropping whole blocks from the front. */
static void
drop_oldest(struct api_stream *s, size_t len)
{
    while (unsent(s) > 0 && unsent(s) + len > s->max_bytes) {
        const char *from = s->blocks.data + s->taken;
        const char *end = memmem(from, unsent(s), "\n\n", 2);
        s->taken = end ? (size_t)(end + 2 - s->blocks.data) : s->blocks.len;
        count_dropped();
    }
}

/* What was taken must not fill the buffer: it holds twice what may be unsent. */
static void
forget_taken(struct api_stream *s)
{
    if (s->taken == 0 || s->taken < s->blocks.len / 2)
        return;
    memmove(s->blocks.data, s->blocks.data + s->taken, unsent(s));
    s->blocks.len -= s->taken;
    s->taken = 0;
}

void
api_stream_send(struct api_stream *s, const char *block, size_t len)
{
    if (len > s->max_bytes) { /* nothing that could be dropped makes room for it */
        count_dropped();
        return;
    }
    drop_oldest(s, len);
    forget_taken(s);
    buf_put(&s->blocks, block, len);
    if (s->blocks.err) {
        s->blocks.err = 0;
        count_dropped();
    }
    if (s->waiting && unsent(s) > 0)
        hand_out(s);
}

size_t
api_stream_backlog(const struct api_stream *s)
{
    return unsent(s);
}

static void
take_question(struct api_stream *s, struct bus_incoming *in)
{
    if (s->waiting) /* the gateway gave up on the earlier question */
        answer_next(MOVE_PTR(s->waiting), 200, false, NULL, 0);
    s->waiting = in;
    if (unsent(s) > 0) {
        hand_out(s);
        return;
    }
    uint64_t deadline = bus_incoming_request(in)->deadline_us;
    uint64_t at = deadline > ANSWER_BEFORE_US ? deadline - ANSWER_BEFORE_US : 0;
    if (loop_timer_set(s->all->svc->loop, &s->timer, at) < 0)
        hand_out(s);
}

void
api_streams_serve(struct api_streams *all, struct bus_incoming *in)
{
    const struct bus_request *rq = bus_incoming_request(in);
    struct api_stream *s = all->first;
    while (s && s->id != rq->id)
        s = s->next;
    /* Only whoever opened a stream may read it. */
    if (s && (s->session_id != rq->who.session_id || s->user_id != rq->who.user_id))
        s = NULL;
    if (!s) {
        answer_next(in, API_NOT_FOUND, true, NULL, 0);
    } else if (!api_permits(s->permission, &rq->who)) { /* any more */
        answer_next(in, API_FORBIDDEN, true, NULL, 0);
        stream_free(s);
    } else if (rq->kind == BUS_KIND_STREAM_CLOSE) {
        answer_next(in, 200, true, NULL, 0);
        stream_free(s);
    } else {
        take_question(s, in);
    }
}

void
api_streams_stop(struct api_streams *all)
{
    while (all->first) {
        struct api_stream *s = all->first;
        all->first = s->next; /* here already, as the analyzer cannot tell that s->all is 'all' */
        stream_free(s);
    }
}

void
api_streams_drop(struct api_streams *all, uint64_t id)
{
    struct api_stream *s = all->first;
    while (s && s->id != id)
        s = s->next;
    if (s)
        stream_free(s);
}

void
api_streams_free(struct api_streams *all)
{
    if (!all)
        return;
    api_streams_stop(all);
    free(all);
}
