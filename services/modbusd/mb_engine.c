#include "services/modbusd/mb_plan.h"

#include <errno.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/banned.h"

enum {
    PATIENCE_MIN_US = 10000,    /* before a request may be overtaken */
    PATIENCE_FIRST_US = 100000, /* … while no round trip is known, at most */
    /*
     * To ask silent units again costs the others one part in 41 of the time; the
     * other half of 5 % is for finding them out.
     */
    PAUSE_PER_COST = 40,
    PAUSE_ADDED_MAX_US = 15000000, /* costs of several units are added up to here */
    AGAIN_MAX_US = 375000,         /* two of these are 5 % of 15 s */
    ALL_SILENT_PAUSE_US = 5000000,
    SILENT_COUNT_MAX = 5,     /* longer silence makes no difference */
    BAD_REPEAT_US = 10000000, /* a lasting bad quality is told again */
    STRICT_FIRST_US = 60000000,
    CROWDED_TIMEOUTS_MAX = 3, /* in a row: the peer drops what comes meanwhile */
};
#define STRICT_MAX_US 3600000000ull

/* ---- heap of commands by due time ---- */

static void
heap_put(struct mb_link *l, size_t i, struct mb_cmd *c)
{
    l->heap[i] = c;
    c->heap_index = i;
}

static void
heap_up(struct mb_link *l, size_t i, struct mb_cmd *c)
{
    for (; i > 1 && l->heap[i / 2]->due_us > c->due_us; i /= 2)
        heap_put(l, i, l->heap[i / 2]);
    heap_put(l, i, c);
}

static void
heap_down(struct mb_link *l, size_t i, struct mb_cmd *c)
{
    for (;;) {
        size_t child = 2 * i;
        if (child > l->n_heap)
            break;
        if (child < l->n_heap && l->heap[child + 1]->due_us < l->heap[child]->due_us)
            child++;
        if (l->heap[child]->due_us >= c->due_us)
            break;
        heap_put(l, i, l->heap[child]);
        i = child;
    }
    heap_put(l, i, c);
}

/* There is room: link_reserve saw to it. */
static void
heap_push(struct mb_link *l, struct mb_cmd *c)
{
    MUST(l->n_heap + 1 < l->cap_heap && c->heap_index == 0);
    heap_up(l, ++l->n_heap, c);
}

void
mb_link_unplan(struct mb_link *l, struct mb_cmd *c)
{
    size_t i = c->heap_index;
    if (i == 0)
        return;
    c->heap_index = 0;
    struct mb_cmd *last = l->heap[l->n_heap--];
    if (last == c)
        return;
    if (i > 1 && l->heap[i / 2]->due_us > last->due_us)
        heap_up(l, i, last);
    else
        heap_down(l, i, last);
}

void
mb_cmd_unplan(struct mb_cmd *c)
{
    mb_link_unplan(c->op.dev->link, c);
    for (struct mb_cmd **at = &c->op.dev->parked; c->parked; at = &(*at)->next_parked) {
        if (*at != c)
            continue;
        *at = c->next_parked;
        c->next_parked = NULL;
        c->parked = false;
        return;
    }
}

/* ---- publishing ---- */

static void
tell(struct mb_engine *e, const struct mb_tag *t)
{
    struct tag_sample s;
    mb_tag_sample(t, &s);
    e->hooks.sample(e->hooks.arg, &s);
}

static void
set_status(struct mb_dev *d, enum mb_status status)
{
    struct mb_tag *t = &d->status;
    if (t->quality == TAG_GOOD && (int64_t)t->bits == (int64_t)status)
        return;
    if (status != MB_STATUS_OK)
        log_debug("modbus: device=%s status=%d", d->name, (int)status);
    t->quality = TAG_GOOD;
    t->bits = (uint64_t)status;
    t->ts_us = clock_wall_us();
    tell(d->e, t);
}

static void
set_quality(struct mb_cmd *c, uint8_t quality, uint8_t aux)
{
    c->op.dev->status_stale |= c->quality != quality;
    c->quality = quality;
    c->aux = aux;
}

enum mb_status
mb_status_of(uint8_t quality)
{
    switch (quality) {
    case TAG_BAD_TIMEOUT:
        return MB_STATUS_TIMEOUT;
    case TAG_BAD_CONNECTION:
        return MB_STATUS_NO_CONNECTION;
    case TAG_BAD_EXCEPTION:
        return MB_STATUS_EXCEPTION;
    case TAG_BAD_REPLY:
        return MB_STATUS_BAD_REPLY;
    default:
        return MB_STATUS_OK;
    }
}

/* The worst of its commands that are asked and have been heard of; 'else_status' if there is
 * none. */
static void
update_status(struct mb_dev *d, enum mb_status else_status)
{
    static const uint8_t badness[] = { [MB_STATUS_OK] = 0,
                                       [MB_STATUS_EXCEPTION] = 1,
                                       [MB_STATUS_BAD_REPLY] = 2,
                                       [MB_STATUS_TIMEOUT] = 3,
                                       [MB_STATUS_NO_CONNECTION] = 4 };
    enum mb_status worst = MB_STATUS_OK;
    bool any = false;
    for (size_t i = 0; i < d->n_cmds; i++) {
        const struct mb_cmd *c = &d->cmds[i];
        enum mb_status s = mb_status_of(c->quality);
        if (!mb_cmd_is_polled(c) || c->quality == TAG_BAD_NEVER)
            continue;
        any = true;
        if (badness[s] > badness[worst])
            worst = s;
    }
    d->status_stale = false;
    set_status(d, any ? worst : else_status);
}

/* The data of a read: every tag of it is told, equal values included. */
static void
take_data(struct mb_cmd *c, const uint8_t *data)
{
    struct mb_engine *e = c->op.dev->e;
    int64_t ts = clock_wall_us();
    struct tag_sample s = { .quality = TAG_GOOD, .ts_us = ts };
    for (size_t i = 0; i < c->n_tags; i++) {
        struct mb_tag *t = &c->tags[i];
        if (!(t->access & TAG_ACCESS_READ))
            continue;
        mb_decode(&t->codec, &c->scaling, data, t->bytes, &s.value);
        t->bits = s.value.u;
        t->n_bytes = s.value.n_bytes;
        t->ts_us = ts;
        t->quality = TAG_GOOD;
        t->aux = 0;
        s.no = t->no;
        e->hooks.sample(e->hooks.arg, &s);
    }
    set_quality(c, TAG_GOOD, 0);
}

/* The data of a poll, for all commands that it served. */
static void
take_poll_data(struct mb_cmd *c, const uint8_t *data)
{
    if (!c->next_merged) {
        take_data(c, data);
        return;
    }
    c->proven = true;
    for (struct mb_cmd *m = c; m; m = m->next_merged) {
        uint8_t part[MB_PDU_MAX];
        struct mb_range range = { m->read_addr, m->read_n };
        mb_merge_cut(data, &c->whole, &range, mb_func_bits(c->func), part);
        take_data(m, part);
    }
}

/* No data: every tag keeps its last value, or shows what it is to instead, and why. */
static void
mark_bad(struct mb_cmd *c, uint8_t quality, uint8_t aux, uint64_t now)
{
    if (c->quality == quality && c->aux == aux && now - c->bad_told_us < BAD_REPEAT_US)
        return;
    /* Nothing was ever written: there is no value that could have become bad. */
    if (!mb_func_reads(c->func) && c->n_written == 0)
        return;
    set_quality(c, quality, aux);
    c->bad_told_us = now;
    int64_t ts = clock_wall_us();
    for (size_t i = 0; i < c->n_tags; i++) {
        struct mb_tag *t = &c->tags[i];
        if (t->quality == TAG_BAD_NEVER && !(t->access & TAG_ACCESS_READ))
            continue;
        if (c->status_data && t->access & TAG_ACCESS_READ)
            mb_tag_take(t, &c->scaling, c->status_data);
        t->quality = quality;
        t->aux = aux;
        t->ts_us = ts;
        tell(c->op.dev->e, t);
    }
}

/* … of all commands that one request would have served. */
static void
mark_poll_bad(struct mb_cmd *c, uint8_t quality, uint8_t aux, uint64_t now)
{
    for (; c; c = c->next_merged)
        mark_bad(c, quality, aux, now);
}

static void
mark_device_bad(struct mb_dev *d, uint8_t quality, uint64_t now, bool only_due)
{
    for (size_t i = 0; i < d->n_cmds; i++) {
        struct mb_cmd *c = &d->cmds[i];
        const struct mb_cmd *by = c->asked_by;
        if (c->enable && (!only_due || by->parked || (by->heap_index && by->due_us <= now)))
            mark_bad(c, quality, 0, now);
    }
}

/* ---- time ---- */

bool
mb_cmd_is_polled(const struct mb_cmd *c)
{
    if (!c->enable || !c->op.dev->link)
        return false;
    if (!mb_func_writes(c->func))
        return true;
    return c->fault.due || (c->cyclic && c->n_written == c->write_n);
}

/* 0..1 evenly spread over ids, the same in every run (golden ratio). */
static double
spread(uint32_t id)
{
    return (double)(uint32_t)(id * 0x9E3779B9u) / 4294967296.0;
}

void
mb_cmd_first_due(struct mb_engine *e, struct mb_cmd *c)
{
    uint64_t now = clock_mono_us();
    uint64_t from = e->start_us + c->op.dev->iface->initial_delay_ms * 1000ull;
    if (from < now)
        from = now;
    double part = spread(c->op.dev->id);
    /* Slow commands have their first value within a second, then keep to their phase. */
    uint64_t soon = c->interval_us < 1000000 ? c->interval_us : 1000000;
    c->grid_us = from + (uint64_t)(part * (double)c->interval_us);
    c->due_us = from + (uint64_t)(part * (double)soon);
    c->first = true;
}

/* On to the first period that begins after 'now'; counts what is left out. */
static void
next_period(struct mb_engine *e, struct mb_cmd *c, uint64_t now)
{
    if (c->first) {
        c->first = false;
        if (c->grid_us <= now)
            c->grid_us += ((now - c->grid_us) / c->interval_us + 1) * c->interval_us;
    } else {
        uint64_t skipped = now > c->grid_us ? (now - c->grid_us) / c->interval_us : 0;
        if (skipped)
            e->overruns += skipped * mb_group_size(c);
        c->grid_us += (skipped + 1) * c->interval_us;
    }
    c->due_us = c->grid_us;
    c->tries = 0;
    mb_group_follow(c);
}

void
mb_cmd_plan(struct mb_cmd *c)
{
    if (mb_cmd_is_polled(c) && c->asked_by == c && !c->heap_index && !c->parked &&
        !c->in_flight)
        heap_push(c->op.dev->link, c);
}

/* As RFC 6298 has it for retransmission: the usual time, and four times how much it varies. */
static uint64_t
patience_us(const struct mb_link *l)
{
    uint64_t most = l->iface->timeout_ms * 500ull;
    uint64_t p = l->srtt_us ? l->srtt_us + 4 * l->rttvar_us + 5000 : PATIENCE_FIRST_US;
    if (p < PATIENCE_MIN_US)
        p = PATIENCE_MIN_US;
    return p < most ? p : most;
}

static void
learn_round_trip(struct mb_link *l, uint64_t rtt)
{
    if (l->srtt_us == 0) {
        l->srtt_us = rtt + 1;
        l->rttvar_us = rtt / 2;
        return;
    }
    uint64_t off = rtt > l->srtt_us ? rtt - l->srtt_us : l->srtt_us - rtt;
    l->rttvar_us = (3 * l->rttvar_us + off) / 4;
    l->srtt_us = (7 * l->srtt_us + rtt + 7) / 8; /* rounded up: 0 is unknown */
}

static bool
may_overtake(const struct mb_link *l, uint64_t now)
{
    return l->n_devs > 1 && now >= l->strict_until_us;
}

/*
 * May one more request go out now? If not, *ret_when is the time at which the
 * oldest request in flight may be overtaken (0: never).
 */
static bool
may_send(const struct mb_link *l, uint64_t now, uint64_t *ret_when)
{
    const struct mb_conn *conn = &l->conn;
    *ret_when = 0;
    if (!mb_conn_can_send(conn))
        return false;
    if (conn->n_in_flight < l->limit)
        return true;
    if (!may_overtake(l, now))
        return false;
    unsigned n_slow = 0;
    uint64_t patience = patience_us(l), when = UINT64_MAX;
    for (unsigned i = 0; i < MB_IN_FLIGHT_MAX; i++) {
        const struct mb_slot *s = &conn->slots[i];
        if (!s->used)
            continue;
        if (s->sent_us + patience <= now)
            n_slow++;
        else if (s->sent_us + patience < when)
            when = s->sent_us + patience;
    }
    if (conn->n_in_flight - n_slow < l->limit)
        return true;
    *ret_when = when;
    return false;
}

void
mb_link_wake_at(struct mb_link *l, uint64_t when_us)
{
    /* Waking early costs less than moving the timer at every request. */
    if (loop_timer_is_set(&l->timer) && l->timer.deadline_us <= when_us)
        return;
    if (loop_timer_set(l->e->loop, &l->timer, when_us) < 0)
        log_err("modbus: no memory for a timer");
}

/* ---- asking ---- */

void
mb_direct_finish(struct mb_engine *e, struct mb_direct *q, const struct mb_direct_result *r)
{
    struct mb_direct_result told = *r;
    told.sent = q->sent;
    e->n_directs--;
    if (q->fn)
        q->fn(q->arg, &told);
    free(q);
}

void
mb_directs_finish(struct mb_engine *e, struct mb_direct *list, const struct mb_direct_result *r)
{
    while (list) {
        struct mb_direct *q = list;
        list = q->next;
        mb_direct_finish(e, q, r);
    }
}

/* After a removal from the middle of the queue. */
void
mb_link_find_end(struct mb_link *l)
{
    l->directs_end = &l->directs;
    while (*l->directs_end)
        l->directs_end = &(*l->directs_end)->next;
}

static void
send_op(struct mb_link *l, struct mb_op *op, const uint8_t *pdu, size_t n)
{
    op->dev->n_in_flight++;
    op->dev->counts.sent++;
    op->dev->asked_us = clock_mono_us();
    l->conn.again = !op->is_direct && op->cmd->tries > 0;
    mb_conn_send(&l->conn, op->dev->unit, pdu, n, l->iface->timeout_ms * 1000ull, op);
}

/* The request that polls (or cyclically writes) a command; its size. */
int
mb_cmd_pdu(const struct mb_cmd *c, uint8_t pdu[MB_PDU_MAX])
{
    struct mb_ask ask = { .func = c->func,
                          .addr = c->read_addr,
                          .n = c->read_n,
                          .write_addr = c->write_addr,
                          .n_write = c->write_n,
                          .data = c->fault.due ? c->fault.data : c->written };
    return mb_pdu_encode(&ask, pdu);
}

static int
group_pdu(const struct mb_cmd *first, uint8_t pdu[MB_PDU_MAX])
{
    struct mb_ask ask = { .func = first->func,
                          .addr = (uint16_t)first->whole.addr,
                          .n = (uint16_t)first->whole.n };
    return mb_pdu_encode(&ask, pdu);
}

static void
send_poll(struct mb_link *l, struct mb_cmd *c)
{
    uint8_t pdu[MB_PDU_MAX];
    int n = c->next_merged ? group_pdu(c, pdu) : mb_cmd_pdu(c, pdu);
    MUST(n > 0);
    c->in_flight = true;
    c->fault.sent = c->fault.due;
    if (c->tries == 0)
        c->begun_us = clock_mono_us();
    for (struct mb_cmd *m = c; m; m = m->next_merged)
        m->counts.sent++;
    send_op(l, &c->op, pdu, (size_t)n);
}

/* Has the device as many requests in flight as it may? */
static bool
dev_is_busy(const struct mb_dev *d)
{
    unsigned limit = d->limit < d->link->share ? d->limit : d->link->share;
    return d->n_in_flight >= limit;
}

static bool
silent_in_flight(const struct mb_link *l)
{
    for (unsigned i = 0; l->n_silent && i < MB_IN_FLIGHT_MAX; i++) {
        const struct mb_op *op = l->conn.slots[i].used ? l->conn.slots[i].owner : NULL;
        if (op && op->dev->silent)
            return true;
    }
    return false;
}

static bool
send_next_direct(struct mb_link *l)
{
    bool silent = silent_in_flight(l);
    for (struct mb_direct **at = &l->directs; *at; at = &(*at)->next) {
        struct mb_direct *q = *at;
        /* What fault protection has sent must not come after what is written now. */
        if (dev_is_busy(q->op.dev) || q->op.cmd->fault.sent || (silent && q->op.dev->silent))
            continue;
        *at = q->next;
        if (!q->next)
            l->directs_end = at;
        q->next = NULL;
        q->sent = true;
        send_op(l, &q->op, q->pdu, q->n);
        return true;
    }
    return false;
}

/*
 * The client of a request in flight has waited long enough. The request itself
 * is awaited for its whole time: only then it tells something about the unit.
 */
static uint64_t
let_clients_go(struct mb_link *l, uint64_t now)
{
    uint64_t next = UINT64_MAX;
    struct mb_direct_result r = { .status = MB_DIRECT_TIMEOUT, .sent = true };
    for (unsigned i = 0; l->conn.n_in_flight && i < MB_IN_FLIGHT_MAX; i++) {
        struct mb_op *op = l->conn.slots[i].used ? l->conn.slots[i].owner : NULL;
        if (!op || !op->is_direct)
            continue;
        struct mb_direct *q = CONTAINER_OF(op, struct mb_direct, op);
        mb_direct_fn *fn = q->fn;
        if (fn && q->deadline_us > now) {
            next = q->deadline_us < next ? q->deadline_us : next;
        } else if (fn) {
            q->fn = NULL;
            fn(q->arg, &r);
        }
    }
    return next;
}

/*
 * Ends directs whose client has waited long enough, unsent where no round trip
 * fits into what is left; when the next of the others ends.
 */
static uint64_t
expire_directs(struct mb_link *l, uint64_t now)
{
    uint64_t next = let_clients_go(l, now);
    struct mb_direct *over = NULL, **over_end = &over;
    for (struct mb_direct **at = &l->directs; *at;) {
        struct mb_direct *q = *at;
        if (q->deadline_us > now + l->srtt_us) {
            uint64_t end = q->deadline_us - l->srtt_us;
            next = end < next ? end : next;
            at = &q->next;
            continue;
        }
        *at = q->next;
        q->next = NULL;
        *over_end = q;
        over_end = &q->next;
    }
    mb_link_find_end(l);
    struct mb_direct_result r = { .status = l->conn.state == MB_CONN_OPEN
                                                ? MB_DIRECT_TIMEOUT
                                                : MB_DIRECT_NO_CONNECTION };
    mb_directs_finish(l->e, over, &r);
    return next;
}

static void
park(struct mb_cmd *c)
{
    struct mb_dev *d = c->op.dev;
    c->parked = true;
    c->next_parked = d->parked;
    d->parked = c;
}

/* Sends the command that is due, or puts it where it has to wait (false). */
static bool
poll_due(struct mb_link *l, struct mb_cmd *c, uint64_t now)
{
    struct mb_dev *d = c->op.dev;
    mb_link_unplan(l, c);
    if (d->silent) {
        mark_poll_bad(c, d->why, d->why_aux, now);
    } else if (!dev_is_busy(d)) {
        send_poll(l, c);
        return true;
    }
    park(c);
    return false;
}

/* ---- silent units ---- */

/* When a silent unit may be asked: UINT64_MAX while one is. */
static uint64_t
probe_time(const struct mb_link *l)
{
    return silent_in_flight(l) ? UINT64_MAX : l->probe_after_us;
}

/* The silent unit whose turn it is: those that fell silent of late first, then in turn. */
static struct mb_dev *
next_silent(const struct mb_link *l)
{
    struct mb_dev *found = NULL;
    for (struct mb_dev *d = l->devs; d; d = d->next_in_link)
        if (d->silent && d->parked &&
            (!found || d->silent < found->silent ||
             (d->silent == found->silent && d->asked_us < found->asked_us)))
            found = d;
    return found;
}

/* Asks a silent unit if one may be asked, with the command that waits longest. */
static bool
send_probe(struct mb_link *l, uint64_t now)
{
    if (!l->n_silent || probe_time(l) > now)
        return false;
    struct mb_dev *d = next_silent(l);
    if (!d)
        return false;
    struct mb_cmd **first = &d->parked;
    for (struct mb_cmd **at = &d->parked; *at; at = &(*at)->next_parked)
        if ((*at)->due_us < (*first)->due_us)
            first = at;
    struct mb_cmd *c = *first;
    *first = c->next_parked;
    c->next_parked = NULL;
    c->parked = false;
    send_poll(l, c);
    return true;
}

static bool
poll_is_due(const struct mb_link *l, uint64_t now)
{
    return l->n_heap && l->heap[1]->due_us <= now;
}

/* Sends a poll that is due; those that have to wait are put where they do. */
static bool
send_due(struct mb_link *l, uint64_t now)
{
    while (poll_is_due(l, now))
        if (poll_due(l, l->heap[1], now))
            return true;
    return false;
}

/* Directs go first, but a poll that is due comes after each. False: nothing is to be sent. */
static bool
send_next(struct mb_link *l, uint64_t now)
{
    bool direct = l->directs && !l->direct_was_last && send_next_direct(l);
    if (direct || send_probe(l, now) || send_due(l, now)) {
        l->direct_was_last = direct;
        return true;
    }
    if (send_probe(l, now)) /* of what has just been parked */
        return true;
    l->direct_was_last = l->directs && send_next_direct(l);
    return l->direct_was_last;
}

void
mb_link_pump(struct mb_link *l)
{
    uint64_t now = clock_mono_us(), when = UINT64_MAX, passable = 0;
    if (l->e->n_directs)
        when = expire_directs(l, now);
    if (l->conn.state == MB_CONN_OPEN) {
        while (may_send(l, now, &passable))
            if (!send_next(l, now))
                break;
        if (l->n_heap && l->heap[1]->due_us > now && l->heap[1]->due_us < when)
            when = l->heap[1]->due_us;
        uint64_t probe = l->n_silent && next_silent(l) ? probe_time(l) : UINT64_MAX;
        if (probe > now && probe < when)
            when = probe;
        bool waits = l->directs || poll_is_due(l, now) || probe <= now;
        if (waits && passable && passable < when)
            when = passable;
    }
    if (when != UINT64_MAX)
        mb_link_wake_at(l, when);
}

void
mb_link_timer(void *arg)
{
    mb_link_pump(arg);
}

/* ---- answers ---- */

void
mb_dev_unpark(struct mb_dev *d)
{
    while (d->parked) {
        struct mb_cmd *c = d->parked;
        d->parked = c->next_parked;
        c->next_parked = NULL;
        c->parked = false;
        mb_cmd_plan(c);
    }
}

/* Longer each time; a peer that did well without for as long as it was strict begins anew. */
static void
go_strict(struct mb_link *l, uint64_t now)
{
    if (l->strict_for_us == 0 || now > l->strict_until_us + l->strict_for_us)
        l->strict_for_us = STRICT_FIRST_US;
    else if (l->strict_for_us < STRICT_MAX_US / 2)
        l->strict_for_us *= 2;
    else
        l->strict_for_us = STRICT_MAX_US;
    l->strict_until_us = now + l->strict_for_us;
    l->crowded_timeouts = 0;
    l->e->strict++;
    log_info("modbus: peer takes one request at a time %s", l->conn.name);
}

/* What the way it ended tells about overtaking on this link. */
static void
judge_crowding(struct mb_link *l, const struct mb_dev *d, const struct mb_result *r)
{
    if (!r->crowded || r->by_us || l->limit > 1)
        return;
    bool broke = r->done == MB_DONE_BAD || r->done == MB_DONE_LOST;
    if (r->done == MB_DONE_OK || r->done == MB_DONE_EXCEPTION)
        l->crowded_timeouts = 0;
    else if (r->done == MB_DONE_TIMEOUT && !d->silent && !r->passed_cost_us)
        broke = ++l->crowded_timeouts >= CROWDED_TIMEOUTS_MAX;
    if (broke && r->now_us >= l->strict_until_us)
        go_strict(l, r->now_us);
}

/*
 * Was it answered before requests that had been sent earlier? What those have
 * cost it, and so others: the wait until they could be passed, and what its
 * answer took more than usual.
 */
static bool
overtook(struct mb_link *l, const struct mb_result *r)
{
    bool any = false;
    uint64_t rtt = r->now_us - r->begun_us, patience = patience_us(l);
    for (unsigned i = 0; l->conn.n_in_flight && i < MB_IN_FLIGHT_MAX; i++) {
        struct mb_slot *slot = &l->conn.slots[i];
        if (!slot->used || slot->sent_us >= r->sent_us)
            continue;
        any = true;
        if (slot->passed_cost_us == 0)
            slot->passed_cost_us = patience + (rtt > l->srtt_us ? rtt - l->srtt_us : 0);
    }
    return any;
}

static void
set_silent(struct mb_link *l, struct mb_dev *d, unsigned silent)
{
    l->n_silent += (silent > 0) - (d->silent > 0);
    d->silent = silent;
}

/* A peer that serves one after the other has come to the request after this one. */
static void
queue_moved(struct mb_link *l, const struct mb_result *r)
{
    uint64_t timeout = l->iface->timeout_ms * 1000ull;
    struct mb_slot *next = NULL;
    for (unsigned i = 0; l->conn.n_in_flight && i < MB_IN_FLIGHT_MAX; i++) {
        struct mb_slot *slot = &l->conn.slots[i];
        if (!slot->used || !slot->crowded || slot->sent_us <= r->sent_us)
            continue;
        slot->deadline_us = r->now_us + timeout + timeout / 8;
        if (!next || slot->sent_us < next->sent_us)
            next = slot;
    }
    if (!next)
        return;
    next->crowded = false;
    next->begun_us = r->now_us;
    next->deadline_us = r->now_us + timeout;
    mb_conn_expire_by(&l->conn, next->deadline_us);
}

/* The device is back: what was marked bad meanwhile is asked now, not in its next period. */
static void
ask_bad_ones(struct mb_link *l, struct mb_dev *d, uint64_t now)
{
    for (size_t i = 0; i < d->n_cmds; i++) {
        struct mb_cmd *c = &d->cmds[i];
        if (!c->heap_index || c->due_us <= now || c->quality == TAG_GOOD ||
            c->quality == TAG_BAD_NEVER)
            continue;
        mb_link_unplan(l, c);
        c->due_us = now;
        c->first = true; /* its grid stays */
        heap_push(l, c);
    }
}

static void
unit_answered(struct mb_link *l, struct mb_dev *d, const struct mb_result *r)
{
    bool passed = r->crowded && overtook(l, r);
    if (d->health.failed)
        mb_dev_merge_again(d, r->now_us);
    mb_health_answered(d, r->now_us);
    d->excused = 0;
    if (d->silent)
        ask_bad_ones(l, d, r->now_us);
    set_silent(l, d, 0);
    l->lost_unit = -1;
    uint64_t rtt = r->now_us - r->begun_us;
    if (!r->crowded || (passed && (l->srtt_us == 0 || rtt <= patience_us(l))))
        learn_round_trip(l, rtt);
}

/*
 * When a unit stayed silent and nobody who asked after it was answered
 * meanwhile either, then the peer serves one after the other: to overtake
 * there only makes the others time out too. Those that wait are given time
 * again, once; a peer that is dead altogether must be found out.
 */
static void
judge_blocking(struct mb_link *l, const struct mb_dev *culprit, const struct mb_result *r)
{
    uint64_t patience = patience_us(l), timeout = l->iface->timeout_ms * 1000ull;
    bool blocked = false, extend = l->answered_us >= l->extended_us;
    for (unsigned i = 0; !r->passed_cost_us && i < MB_IN_FLIGHT_MAX; i++) {
        struct mb_slot *slot = &l->conn.slots[i];
        const struct mb_op *op = slot->used ? slot->owner : NULL;
        if (!op || op->dev == culprit || op->dev->silent || !slot->crowded ||
            slot->sent_us + patience > r->now_us)
            continue;
        blocked = true;
        if (extend)
            slot->deadline_us = r->now_us + timeout + timeout / 8;
    }
    if (blocked && extend)
        l->extended_us = r->now_us;
    if (blocked && may_overtake(l, r->now_us))
        go_strict(l, r->now_us);
}

/* What a unit that brought nothing has cost the others, who wait or pass it. */
static uint64_t
cost_us(const struct mb_link *l, const struct mb_result *r)
{
    uint64_t spent = r->now_us - r->begun_us, patience = patience_us(l);
    if (r->done == MB_DONE_LOST) /* … and the connection is to be made anew */
        return spent + patience;
    if (r->passed_cost_us)
        return r->passed_cost_us < spent ? r->passed_cost_us : spent;
    return spent > patience && may_overtake(l, r->now_us) ? patience : spent;
}

/*
 * No silent unit is asked before the others have had PAUSE_PER_COST times what
 * this one cost. When all are silent the pause is for the peer: to get rid of
 * what may have gathered there.
 */
static void
charge(struct mb_link *l, uint64_t cost, uint64_t now)
{
    if (l->n_silent == l->n_devs) {
        l->probe_after_us = now + (cost < ALL_SILENT_PAUSE_US ? cost : ALL_SILENT_PAUSE_US);
        return;
    }
    uint64_t pause = PAUSE_PER_COST * cost;
    uint64_t most = now + (pause > PAUSE_ADDED_MAX_US ? pause : PAUSE_ADDED_MAX_US);
    uint64_t after = (l->probe_after_us > now ? l->probe_after_us : now) + pause;
    if (after > most)
        after = most;
    if (after > l->probe_after_us)
        l->probe_after_us = after;
}

/* A unit on a shared connection did not answer in time, or the peer closed on it. */
static void
unit_silent(struct mb_link *l, struct mb_dev *d, const struct mb_result *r)
{
    if (l->n_devs <= 1 || r->sent_us < d->failed_us)
        return; /* alone it hurts nobody; and of requests sent together one counts */
    if (r->done != MB_DONE_LOST)
        judge_blocking(l, d, r);
    if (r->done == MB_DONE_TIMEOUT && r->crowded && !r->passed_cost_us && !d->silent &&
        d->excused < CROWDED_TIMEOUTS_MAX) {
        d->excused++;
        return;
    }
    d->failed_us = r->now_us;
    d->why = r->done == MB_DONE_TIMEOUT ? TAG_BAD_TIMEOUT
             : r->done == MB_DONE_LOST  ? TAG_BAD_CONNECTION
                                        : TAG_BAD_EXCEPTION;
    d->why_aux = r->exception;
    set_silent(l, d, d->silent < SILENT_COUNT_MAX ? d->silent + 1 : d->silent);
    uint64_t cost = cost_us(l, r);
    if (d->silent == 1 && cost <= AGAIN_MAX_US && r->now_us >= l->again_after_us) {
        /* A single answer may have been lost: asked again at once, charged with the next. */
        l->again_after_us = r->now_us + PAUSE_PER_COST * cost;
        l->owed_us = cost;
        return;
    }
    charge(l, cost + l->owed_us, r->now_us);
    l->owed_us = 0;
}

/* The peer closed on a request to 'd'. */
static void
unit_lost(struct mb_link *l, struct mb_dev *d, const struct mb_result *r)
{
    l->lost_two |= l->lost_unit >= 0 && l->lost_unit != d->unit;
    l->lost_unit = d->unit;
    unit_silent(l, d, r);
}

static bool
is_mute_exception(const struct mb_result *r)
{
    return r->done == MB_DONE_EXCEPTION && (r->exception == 10 || r->exception == 11);
}

/* Was it the crowd on the link, as far as is known, and not the unit? */
static bool
is_excused(const struct mb_dev *d, const struct mb_result *r)
{
    return r->done == MB_DONE_TIMEOUT && d->excused > 0 && !d->silent;
}

/* A poll that brought no data, again or given up until its next period. */
static void
poll_failed(struct mb_link *l, struct mb_cmd *c, const struct mb_result *r)
{
    struct mb_dev *d = c->op.dev;
    bool again = false;
    uint8_t why = TAG_BAD_REPLY;
    switch (r->done) {
    case MB_DONE_TIMEOUT:
        why = TAG_BAD_TIMEOUT;
        mark_poll_bad(c, why, 0, r->now_us);
        mark_device_bad(d, TAG_BAD_TIMEOUT, r->now_us, true);
        again = c->tries < l->iface->retry_count;
        break;
    case MB_DONE_EXCEPTION:
        why = TAG_BAD_EXCEPTION;
        mark_poll_bad(c, why, r->exception, r->now_us);
        again = is_mute_exception(r) && c->tries < l->iface->retry_count;
        break;
    case MB_DONE_BAD:
        again = l->conn.state == MB_CONN_OPEN && c->tries < l->iface->retry_count;
        if (!again)
            mark_poll_bad(c, TAG_BAD_REPLY, 0, r->now_us);
        break;
    case MB_DONE_LOST:
        if (r->by_us)
            return; /* as if it had not been sent */
        why = TAG_BAD_CONNECTION;
        again = l->conn.useful && c->tries < l->iface->retry_count;
        if (!again || d->silent)
            mark_poll_bad(c, TAG_BAD_CONNECTION, 0, r->now_us);
        break;
    case MB_DONE_OK:
        break;
    }
    if (again) {
        c->tries++;
        return;
    }
    for (struct mb_cmd *m = is_excused(d, r) ? NULL : c; m; m = m->next_merged)
        mb_health_given_up(m, why, r->exception, r->now_us);
    next_period(l->e, c, r->now_us);
}

static void
count(struct mb_counts *n, enum mb_done done)
{
    switch (done) {
    case MB_DONE_OK:
        n->valid++;
        break;
    case MB_DONE_EXCEPTION:
        n->exceptions++;
        break;
    case MB_DONE_BAD:
        n->invalid++;
        break;
    case MB_DONE_TIMEOUT:
        n->timeouts++;
        break;
    case MB_DONE_LOST:
        break;
    }
}

/* A writing command was written as a whole: its tags hold what the device holds. */
static void
tell_written(struct mb_cmd *c)
{
    set_quality(c, TAG_GOOD, 0);
    for (size_t i = 0; i < c->n_tags; i++) {
        struct mb_tag *t = &c->tags[i];
        if (t->quality == TAG_BAD_NEVER || t->access & TAG_ACCESS_READ)
            continue;
        t->quality = t->is_fault ? TAG_UNCERTAIN : TAG_GOOD;
        t->aux = 0;
        t->ts_us = clock_wall_us();
        tell(c->op.dev->e, t);
    }
}

/* The device works on its next request while we tell of this one. */
static void
poll_answered(struct mb_link *l, struct mb_cmd *c, const struct mb_result *r)
{
    mb_health_polled(c);
    for (struct mb_cmd *m = c->next_merged; m; m = m->next_merged)
        mb_health_polled(m);
    mb_fault_polled(c, true, r->now_us);
    next_period(l->e, c, r->now_us);
    mb_cmd_plan(c);
    mb_link_pump(l);
    if (r->data)
        take_poll_data(c, r->data);
    if (mb_func_writes(c->func))
        tell_written(c);
}

static void
poll_done(struct mb_link *l, struct mb_cmd *c, const struct mb_result *r)
{
    c->in_flight = false;
    for (struct mb_cmd *m = c; m; m = m->next_merged)
        count(&m->counts, r->done);
    if (r->done == MB_DONE_OK)
        poll_answered(l, c, r);
    else if (mb_group_fails(c, r, l->iface->retry_count))
        mb_group_split(c, r->now_us);
    else
        poll_failed(l, c, r);
    if (r->done != MB_DONE_OK)
        mb_fault_polled(c, false, r->now_us);
    if (c->apart_until_us && c->apart_until_us <= r->now_us)
        mb_dev_regroup(c->op.dev);
    mb_cmd_plan(c);
}

/* Keeps what was written, so that it can be repeated. */
static void
remember_written(struct mb_cmd *c, const struct mb_direct *q)
{
    if (!c->written)
        return;
    for (unsigned i = 0; i < q->n_units; i++) {
        unsigned to = q->at + i;
        if (q->tag->codec.bits) {
            uint8_t bit = (uint8_t)(1u << to % 8);
            bool on = q->data[i / 8] >> i % 8 & 1;
            c->written[to / 8] =
                (uint8_t)(on ? c->written[to / 8] | bit : c->written[to / 8] & ~bit);
        } else {
            memcpy(c->written + 2u * to, q->data + 2u * i, 2);
        }
        c->n_written += !c->is_written[to];
        c->is_written[to] = 1;
    }
    if (mb_cmd_is_polled(c) && !c->heap_index && !c->in_flight && !c->parked) {
        mb_cmd_first_due(c->op.dev->e, c);
        c->grid_us += c->interval_us; /* it was written just now */
        c->due_us = c->grid_us;
        heap_push(c->op.dev->link, c);
    }
}

static void
read_back(struct mb_link *l, struct mb_tag *t)
{
    uint64_t deadline = clock_mono_us() + l->iface->timeout_ms * 1000ull;
    struct mb_direct *q = mb_direct_enqueue(t, false, deadline, NULL, NULL);
    if (q)
        q->n = (uint16_t)mb_cmd_pdu(t->cmd, q->pdu);
}

static void
written(struct mb_link *l, struct mb_direct *q, const struct mb_result *r)
{
    struct mb_cmd *c = q->op.cmd;
    struct mb_tag *t = q->tag;
    if (r->data)
        take_data(c, r->data); /* function 23 */
    if (mb_func_writes(c->func))
        remember_written(c, q);
    if (mb_func_reads(c->func) && c->func != MB_READ_WRITE_REGS) {
        read_back(l, t);
        return;
    }
    if (t->access & TAG_ACCESS_READ)
        return; /* 23 has just read it */
    struct tag_value v;
    uint8_t data[MB_PDU_MAX];
    memcpy(data, q->data, sizeof(data));
    struct mb_codec at_start = t->codec;
    at_start.offset = 0;
    mb_decode(&at_start, &c->scaling, data, t->bytes, &v);
    t->bits = v.u;
    t->n_bytes = v.n_bytes;
    t->quality = TAG_GOOD;
    t->aux = 0;
    t->is_fault = false;
    t->ts_us = clock_wall_us();
    set_quality(c, TAG_GOOD, 0);
    tell(l->e, t);
}

static void
direct_done(struct mb_link *l, struct mb_direct *q, const struct mb_result *r)
{
    struct mb_direct_result result = { .status = MB_DIRECT_OK,
                                       .exception = r->exception,
                                       .sent = true };
    switch (r->done) {
    case MB_DONE_OK:
        if (q->write)
            written(l, q, r);
        else
            take_data(q->op.cmd, r->data);
        break;
    case MB_DONE_EXCEPTION:
        result.status = MB_DIRECT_EXCEPTION;
        break;
    case MB_DONE_BAD:
        result.status = MB_DIRECT_BAD_REPLY;
        break;
    case MB_DONE_TIMEOUT:
        result.status = MB_DIRECT_TIMEOUT;
        break;
    case MB_DONE_LOST:
        result.status = MB_DIRECT_NO_CONNECTION;
        break;
    }
    if (q->write && (r->done == MB_DONE_OK || mb_direct_is_unsure(&result)))
        mb_fault_written(q->op.cmd, r->now_us);
    if (!q->write && r->done != MB_DONE_OK) {
        static const uint8_t quality[] = {
            [MB_DONE_EXCEPTION] = TAG_BAD_EXCEPTION,
            [MB_DONE_BAD] = TAG_BAD_REPLY,
            [MB_DONE_TIMEOUT] = TAG_BAD_TIMEOUT,
            [MB_DONE_LOST] = TAG_BAD_CONNECTION,
        };
        mark_bad(q->op.cmd, quality[r->done], r->exception, r->now_us);
    }
    mb_tag_sample(q->tag, &result.sample);
    mb_direct_finish(l->e, q, &result);
}

void
mb_link_done(void *arg, void *owner, const struct mb_result *r)
{
    struct mb_link *l = arg;
    struct mb_op *op = owner;
    if (!op) {
        mb_link_pump(l);
        return;
    }
    struct mb_dev *d = op->dev;
    d->n_in_flight--;
    count(&d->counts, r->done);
    judge_crowding(l, d, r);
    bool answered = r->done == MB_DONE_OK || r->done == MB_DONE_EXCEPTION;
    if (answered) {
        l->answered_us = r->now_us;
        if (l->conn.n_in_flight && l->n_devs > 1 && !may_overtake(l, r->now_us))
            queue_moved(l, r);
    }
    /* A gateway that says the unit behind it is mute has spent its own time-out on it. */
    if (r->done == MB_DONE_TIMEOUT || is_mute_exception(r))
        unit_silent(l, d, r);
    else if (answered)
        unit_answered(l, d, r);
    else if (r->done == MB_DONE_LOST && !r->by_us)
        unit_lost(l, d, r);
    if (d->parked && !d->silent)
        mb_dev_unpark(d);
    if (op->is_direct)
        direct_done(l, CONTAINER_OF(op, struct mb_direct, op), r);
    else
        poll_done(l, op->cmd, r);
    if (d->status_stale || (answered && d->status.quality != TAG_GOOD))
        update_status(d, MB_STATUS_OK);
    mb_health_tell(d);
    mb_link_pump(l);
}

static void
fail_directs(struct mb_link *l, enum mb_direct_status status)
{
    struct mb_direct *all = l->directs;
    struct mb_direct_result r = { .status = status };
    l->directs = NULL;
    l->directs_end = &l->directs;
    mb_directs_finish(l->e, all, &r);
}

/* What is written on change only is not asked, so no answer will say that it is good again. */
static void
tell_unasked(struct mb_dev *d)
{
    for (size_t i = 0; i < d->n_cmds; i++) {
        struct mb_cmd *c = &d->cmds[i];
        if (c->quality == TAG_BAD_CONNECTION && !mb_func_reads(c->func) && !mb_cmd_is_polled(c))
            tell_written(c);
    }
}

/* After the whole link was away everybody begins anew. */
static void
begin_anew(struct mb_link *l)
{
    for (struct mb_dev *d = l->devs; d; d = d->next_in_link) {
        set_silent(l, d, 0);
        mb_dev_unpark(d);
        ask_bad_ones(l, d, clock_mono_us());
        tell_unasked(d);
        update_status(d, MB_STATUS_OK);
    }
    l->probe_after_us = 0;
}

void
mb_link_state(void *arg, enum mb_conn_state state, bool useful)
{
    struct mb_link *l = arg;
    if (state == MB_CONN_OPEN) {
        if (l->down_told) {
            log_info("modbus: connected again %s", l->conn.name);
            begin_anew(l);
        }
        l->down_told = false;
        l->was_open = true;
        mb_link_pump(l);
        return;
    }
    if (state != MB_CONN_WAITING)
        return;
    /*
     * A peer that closed after it had answered gets the chance to open again
     * first; and when it closes on one unit only, the others are not to blame.
     */
    bool one_unit = l->was_open && l->n_devs > 1 && l->lost_unit >= 0 && !l->lost_two;
    l->was_open = l->lost_two = false;
    if (useful || one_unit)
        return;
    if (!l->down_told)
        log_warn("modbus: no connection %s", l->conn.name);
    l->down_told = true;
    uint64_t now = clock_mono_us();
    for (struct mb_dev *d = l->devs; d; d = d->next_in_link) {
        mark_device_bad(d, TAG_BAD_CONNECTION, now, false);
        update_status(d, MB_STATUS_NO_CONNECTION);
        mb_health_lost(d);
        mb_health_tell(d);
    }
    fail_directs(l, MB_DIRECT_NO_CONNECTION);
}
