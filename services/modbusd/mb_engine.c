#include "services/modbusd/mb_engine.h"

#include <errno.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"

enum {
    OVERTAKE_MAX = 4,              /* unanswered requests that others may pass */
    PATIENCE_MIN_US = 10000,       /* before a request may be overtaken */
    HOLD_MAX_SHARED_US = 5000000,  /* pause of a silent unit that others can pass */
    HOLD_MAX_STRICT_US = 30000000, /* … and that blocks them */
    BAD_REPEAT_US = 10000000,      /* a lasting bad quality is told again */
    STRICT_FIRST_US = 60000000,
    CROWDED_TIMEOUTS_MAX = 3, /* in a row: the peer drops what comes meanwhile */
};
#define STRICT_MAX_US 3600000000ull

struct dev;
struct link;
struct cmd;

/* What a request in flight is for. First member of struct cmd and struct direct. */
struct op {
    bool is_direct;
    struct dev *dev;
    struct cmd *cmd;
};

struct tag {
    uint32_t no;
    struct mb_codec codec;
    uint8_t type; /* enum tag_type */
    uint8_t access;
    uint8_t quality, aux;
    uint16_t n_bytes;
    uint64_t bits; /* the last value: union of struct tag_value */
    int64_t ts_us;
    uint8_t *bytes; /* room of codec.size for string and raw */
    const char *name, *unit;
    struct cmd *cmd; /* NULL: the status tag */
    struct dev *dev;
};

struct cmd {
    struct op op;
    uint32_t id;
    uint8_t func;
    bool enable, cyclic;
    bool in_flight, parked;
    bool first; /* not polled yet */
    uint8_t tries;
    uint8_t quality, aux; /* told last for all its tags */
    uint16_t read_addr, read_n, write_addr, write_n;
    struct mb_scaling scaling;
    uint64_t interval_us;
    uint64_t grid_us; /* the present period began */
    uint64_t due_us;  /* when to ask: grid_us, or later for a repetition */
    uint64_t bad_told_us;
    size_t heap_index; /* 0: not in the heap */
    struct cmd *next_parked;
    struct tag *tags;
    size_t n_tags;
    /* of a writing function: what was written, and which units of it */
    uint8_t *written, *is_written;
    unsigned n_written;
};

struct dev {
    uint32_t id;
    struct mb_engine *e;
    struct link *link; /* NULL: not polled */
    struct dev *next_in_link;
    char *name;
    char addr[INET6_ADDRSTRLEN];
    uint16_t port;
    uint8_t unit;
    unsigned limit, n_in_flight;
    bool answered;    /* since it last went silent */
    unsigned silent;  /* time-outs in a row */
    unsigned excused; /* time-outs put down to a crowded link */
    uint64_t hold_until_us;
    struct cmd *parked;
    struct cmd *cmds;
    size_t n_cmds;
    struct tag *tags; /* of all commands */
    size_t n_tags;
    struct tag status;
    uint8_t *bytes; /* room of all sized tags */
    char *names;    /* texts of all tags */
    uint64_t sent, valid, invalid, exceptions, timeouts;
};

struct direct {
    struct op op;
    struct direct *next;
    struct tag *tag;
    bool write;
    uint64_t deadline_us;
    mb_direct_fn *fn; /* NULL: nobody waits */
    void *arg;
    uint8_t pdu[MB_PDU_MAX];
    uint16_t n;
    uint8_t data[MB_PDU_MAX]; /* what is written, as in the PDU */
    uint16_t at, n_units;     /* where in the command's data */
};

struct link {
    struct mb_engine *e;
    struct link *next;
    struct mb_conn conn;
    struct loop_timer timer;
    struct dev *devs;
    unsigned n_devs, limit;
    struct cmd **heap; /* from 1 */
    size_t n_heap, cap_heap;
    struct direct *directs, **directs_end;
    uint64_t srtt_us;
    uint64_t strict_until_us, strict_for_us;
    unsigned crowded_timeouts;
    bool down_told; /* the log knows that there is no connection */
};

struct mb_engine {
    struct loop *loop;
    struct mb_engine_hooks hooks;
    struct mb_iface_config iface;
    uint64_t start_us;
    struct dev **devs; /* by id */
    size_t n_devs, cap_devs;
    struct link *links;
    struct tag **all; /* by number */
    size_t n_all, cap_all;
    size_t n_directs;
    struct mb_conn_counters conn;
    uint64_t overruns, samples, directs, strict;
};

static void pump(struct link *l);

/* ---- what a tag may be ---- */

/* Units (bits or registers) of a codec. */
static unsigned
codec_units(const struct mb_codec *c)
{
    return c->bits ? c->size : c->size / 2u;
}

/* The function that writes 'n' units of a command's data; 0: none does. */
static uint8_t
writing_func(uint8_t func, unsigned n)
{
    uint8_t f = func;
    if (func == MB_READ_COILS)
        f = n == 1 ? MB_WRITE_COIL : MB_WRITE_COILS;
    else if (func == MB_READ_HOLDING)
        f = n == 1 ? MB_WRITE_REG : MB_WRITE_REGS;
    return mb_func_writes(f) && n <= mb_func_write_max(f) ? f : 0;
}

const char *
mb_tag_check(const struct mb_cmd_config *cmd, const struct mb_tag_config *tag,
             struct mb_codec *ret_codec, uint8_t *ret_access)
{
    bool bits = mb_func_bits(cmd->func), reads = mb_func_reads(cmd->func);
    bool both = cmd->func == MB_READ_WRITE_REGS;
    uint8_t access = tag->access;
    if (!reads)
        access &= TAG_ACCESS_WRITE;
    if (cmd->func == MB_READ_INPUT_BITS || cmd->func == MB_READ_INPUT)
        access &= TAG_ACCESS_READ;
    if (access == 0)
        return "access of the tag does not go with func of its command";
    unsigned read_size = bits ? cmd->read_n : cmd->read_n * 2u;
    unsigned write_size = bits ? cmd->write_n : cmd->write_n * 2u;
    unsigned size = reads && (access & TAG_ACCESS_READ || !both) ? read_size : write_size;
    const char *wrong = mb_codec_init(ret_codec, tag->type, bits, tag->offset, tag->data_size,
                                      size, cmd->swap, &cmd->scaling);
    if (wrong)
        return wrong;
    bool can_write = mb_codec_writable(ret_codec, &cmd->scaling) &&
                     writing_func(cmd->func, codec_units(ret_codec)) != 0;
    if (both && (unsigned)ret_codec->offset + ret_codec->size > write_size)
        can_write = false;
    if (!can_write)
        access &= TAG_ACCESS_READ;
    if (access == 0)
        return "a tag of this type, size and offset cannot be written by its command";
    *ret_access = access;
    return NULL;
}

/* ---- heap of commands by due time ---- */

static void
heap_put(struct link *l, size_t i, struct cmd *c)
{
    l->heap[i] = c;
    c->heap_index = i;
}

static void
heap_up(struct link *l, size_t i, struct cmd *c)
{
    for (; i > 1 && l->heap[i / 2]->due_us > c->due_us; i /= 2)
        heap_put(l, i, l->heap[i / 2]);
    heap_put(l, i, c);
}

static void
heap_down(struct link *l, size_t i, struct cmd *c)
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
heap_push(struct link *l, struct cmd *c)
{
    MUST(l->n_heap + 1 < l->cap_heap && c->heap_index == 0);
    heap_up(l, ++l->n_heap, c);
}

static void
heap_remove(struct link *l, struct cmd *c)
{
    size_t i = c->heap_index;
    if (i == 0)
        return;
    c->heap_index = 0;
    struct cmd *last = l->heap[l->n_heap--];
    if (last == c)
        return;
    if (i > 1 && l->heap[i / 2]->due_us > last->due_us)
        heap_up(l, i, last);
    else
        heap_down(l, i, last);
}

/* ---- publishing ---- */

static void
tag_sample_of(const struct tag *t, struct tag_sample *s)
{
    s->no = t->no;
    s->quality = t->quality;
    s->aux = t->aux;
    s->ts_us = t->ts_us;
    s->value.type = t->type;
    s->value.u = t->bits;
    s->value.bytes = t->bytes;
    s->value.n_bytes = t->n_bytes;
}

static void
tell(struct mb_engine *e, const struct tag *t)
{
    struct tag_sample s;
    tag_sample_of(t, &s);
    e->samples++;
    e->hooks.sample(e->hooks.arg, &s);
}

static void
set_status(struct dev *d, enum mb_status status)
{
    struct tag *t = &d->status;
    if (t->quality == TAG_GOOD && (int64_t)t->bits == (int64_t)status)
        return;
    if (status != MB_STATUS_OK)
        log_debug("modbus: device=%s status=%d", d->name, (int)status);
    t->quality = TAG_GOOD;
    t->bits = (uint64_t)status;
    t->ts_us = clock_wall_us();
    tell(d->e, t);
}

/* The data of a read: every tag of it is told, equal values included. */
static void
take_data(struct cmd *c, const uint8_t *data)
{
    struct mb_engine *e = c->op.dev->e;
    int64_t ts = clock_wall_us();
    struct tag_sample s = { .quality = TAG_GOOD, .ts_us = ts };
    for (size_t i = 0; i < c->n_tags; i++) {
        struct tag *t = &c->tags[i];
        if (!(t->access & TAG_ACCESS_READ))
            continue;
        mb_decode(&t->codec, &c->scaling, data, t->bytes, &s.value);
        t->bits = s.value.u;
        t->n_bytes = s.value.n_bytes;
        t->ts_us = ts;
        t->quality = TAG_GOOD;
        t->aux = 0;
        s.no = t->no;
        e->samples++;
        e->hooks.sample(e->hooks.arg, &s);
    }
    c->quality = TAG_GOOD;
}

/* No data: every tag keeps its last value and shows why it is old. */
static void
mark_bad(struct cmd *c, uint8_t quality, uint8_t aux, uint64_t now)
{
    if (c->quality == quality && c->aux == aux && now - c->bad_told_us < BAD_REPEAT_US)
        return;
    /* Nothing was ever written: there is no value that could have become bad. */
    if (!mb_func_reads(c->func) && c->n_written == 0)
        return;
    c->quality = quality;
    c->aux = aux;
    c->bad_told_us = now;
    int64_t ts = clock_wall_us();
    for (size_t i = 0; i < c->n_tags; i++) {
        struct tag *t = &c->tags[i];
        if (t->quality == TAG_BAD_NEVER && !(t->access & TAG_ACCESS_READ))
            continue;
        t->quality = quality;
        t->aux = aux;
        t->ts_us = ts;
        tell(c->op.dev->e, t);
    }
}

static void
mark_device_bad(struct dev *d, uint8_t quality, uint64_t now, bool only_due)
{
    for (size_t i = 0; i < d->n_cmds; i++) {
        struct cmd *c = &d->cmds[i];
        if (c->enable && (!only_due || c->parked || (c->heap_index && c->due_us <= now)))
            mark_bad(c, quality, 0, now);
    }
}

/* ---- time ---- */

/* Is it asked by itself? Writes are, once all their data is known. */
static bool
is_polled(const struct cmd *c)
{
    if (!c->enable || !c->op.dev->link)
        return false;
    if (!mb_func_writes(c->func))
        return true;
    return c->cyclic && c->n_written == c->write_n;
}

/* 0..1 evenly spread over ids, the same in every run (golden ratio). */
static double
spread(uint32_t id)
{
    return (double)(uint32_t)(id * 0x9E3779B9u) / 4294967296.0;
}

static void
first_due(struct mb_engine *e, struct cmd *c)
{
    uint64_t now = clock_mono_us();
    uint64_t from = e->start_us + e->iface.initial_delay_ms * 1000ull;
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
next_period(struct mb_engine *e, struct cmd *c, uint64_t now)
{
    if (c->first) {
        c->first = false;
        if (c->grid_us <= now)
            c->grid_us += ((now - c->grid_us) / c->interval_us + 1) * c->interval_us;
    } else {
        uint64_t skipped = now > c->grid_us ? (now - c->grid_us) / c->interval_us : 0;
        e->overruns += skipped;
        c->grid_us += (skipped + 1) * c->interval_us;
    }
    c->due_us = c->grid_us;
    c->tries = 0;
}

static void
reschedule(struct cmd *c)
{
    if (is_polled(c) && !c->heap_index && !c->parked && !c->in_flight)
        heap_push(c->op.dev->link, c);
}

static uint64_t
patience_us(const struct link *l)
{
    uint64_t timeout = l->e->iface.timeout_ms * 1000ull;
    uint64_t p = l->srtt_us ? 4 * l->srtt_us + 5000 : timeout / 4;
    if (p < PATIENCE_MIN_US)
        p = PATIENCE_MIN_US;
    return p < timeout / 2 ? p : timeout / 2;
}

static bool
may_overtake(const struct link *l, uint64_t now)
{
    return l->n_devs > 1 && now >= l->strict_until_us;
}

/*
 * May one more request go out now? If not, *ret_when is the time at which the
 * oldest request in flight may be overtaken (0: never).
 */
static bool
may_send(const struct link *l, uint64_t now, uint64_t *ret_when)
{
    const struct mb_conn *conn = &l->conn;
    *ret_when = 0;
    if (!mb_conn_can_send(conn))
        return false;
    if (conn->n_in_flight < l->limit)
        return true;
    if (!may_overtake(l, now) || conn->n_in_flight >= l->limit + OVERTAKE_MAX)
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

static void
wake_at(struct link *l, uint64_t when_us)
{
    /* Waking early costs less than moving the timer at every request. */
    if (loop_timer_is_set(&l->timer) && l->timer.deadline_us <= when_us)
        return;
    if (loop_timer_set(l->e->loop, &l->timer, when_us) < 0)
        log_err("modbus: no memory for a timer");
}

/* ---- asking ---- */

static void
finish_direct(struct mb_engine *e, struct direct *q, const struct mb_direct_result *r)
{
    e->n_directs--;
    if (q->fn)
        q->fn(q->arg, r);
    free(q);
}

static void
finish_all(struct mb_engine *e, struct direct *list, const struct mb_direct_result *r)
{
    while (list) {
        struct direct *q = list;
        list = q->next;
        finish_direct(e, q, r);
    }
}

/* After a removal from the middle of the queue. */
static void
find_end(struct link *l)
{
    l->directs_end = &l->directs;
    while (*l->directs_end)
        l->directs_end = &(*l->directs_end)->next;
}

static void
send_op(struct link *l, struct op *op, const uint8_t *pdu, size_t n, uint64_t timeout_us)
{
    op->dev->n_in_flight++;
    op->dev->sent++;
    mb_conn_send(&l->conn, op->dev->unit, pdu, n, timeout_us, op);
}

/* The request that polls (or cyclically writes) a command; its size. */
static int
poll_pdu(const struct cmd *c, uint8_t pdu[MB_PDU_MAX])
{
    struct mb_ask ask = { .func = c->func,
                          .addr = c->read_addr,
                          .n = c->read_n,
                          .write_addr = c->write_addr,
                          .n_write = c->write_n,
                          .data = c->written };
    return mb_pdu_encode(&ask, pdu);
}

static void
send_poll(struct link *l, struct cmd *c)
{
    uint8_t pdu[MB_PDU_MAX];
    int n = poll_pdu(c, pdu);
    MUST(n > 0);
    c->in_flight = true;
    send_op(l, &c->op, pdu, (size_t)n, l->e->iface.timeout_ms * 1000ull);
}

static bool
send_next_direct(struct link *l, uint64_t now)
{
    uint64_t timeout = l->e->iface.timeout_ms * 1000ull;
    for (struct direct **at = &l->directs; *at; at = &(*at)->next) {
        struct direct *q = *at;
        if (q->op.dev->n_in_flight >= q->op.dev->limit)
            continue;
        *at = q->next;
        if (!q->next)
            l->directs_end = at;
        q->next = NULL;
        uint64_t left = q->deadline_us - now; /* expire_directs has seen that there is some */
        send_op(l, &q->op, q->pdu, q->n, left < timeout ? left : timeout);
        return true;
    }
    return false;
}

/* Directs whose client has waited long enough; the earliest deadline of the others. */
static uint64_t
expire_directs(struct link *l, uint64_t now)
{
    uint64_t next = UINT64_MAX;
    struct direct *over = NULL, **over_end = &over;
    for (struct direct **at = &l->directs; *at;) {
        struct direct *q = *at;
        if (q->deadline_us > now) {
            next = q->deadline_us < next ? q->deadline_us : next;
            at = &q->next;
            continue;
        }
        *at = q->next;
        q->next = NULL;
        *over_end = q;
        over_end = &q->next;
    }
    find_end(l);
    struct mb_direct_result r = { .status = l->conn.state == MB_CONN_OPEN
                                                ? MB_DIRECT_TIMEOUT
                                                : MB_DIRECT_NO_CONNECTION };
    finish_all(l->e, over, &r);
    return next;
}

/* Sends the command that is due, or puts it where it has to wait. */
static void
poll_due(struct link *l, struct cmd *c, uint64_t now)
{
    struct dev *d = c->op.dev;
    heap_remove(l, c);
    if (d->n_in_flight >= d->limit) {
        c->parked = true;
        c->next_parked = d->parked;
        d->parked = c;
    } else if (d->hold_until_us > now) {
        mark_bad(c, TAG_BAD_TIMEOUT, 0, now);
        next_period(l->e, c, d->hold_until_us);
        heap_push(l, c);
    } else {
        send_poll(l, c);
    }
}

static void
pump(struct link *l)
{
    uint64_t now = clock_mono_us(), when = UINT64_MAX, passable = 0;
    if (l->directs)
        when = expire_directs(l, now);
    if (l->conn.state == MB_CONN_OPEN) {
        while (may_send(l, now, &passable)) {
            if (l->directs && send_next_direct(l, now))
                continue;
            if (l->n_heap == 0 || l->heap[1]->due_us > now)
                break;
            poll_due(l, l->heap[1], now);
        }
        if (l->n_heap && l->heap[1]->due_us > now && l->heap[1]->due_us < when)
            when = l->heap[1]->due_us;
        bool waits = l->directs || (l->n_heap && l->heap[1]->due_us <= now);
        if (waits && passable && passable < when)
            when = passable;
    }
    if (when != UINT64_MAX)
        wake_at(l, when);
}

static void
on_link_timer(void *arg)
{
    pump(arg);
}

/* ---- answers ---- */

static void
unpark(struct dev *d)
{
    while (d->parked) {
        struct cmd *c = d->parked;
        d->parked = c->next_parked;
        c->next_parked = NULL;
        c->parked = false;
        reschedule(c);
    }
}

static void
go_strict(struct link *l, uint64_t now)
{
    l->strict_for_us = l->strict_for_us == 0 ? STRICT_FIRST_US : 2 * l->strict_for_us;
    if (l->strict_for_us > STRICT_MAX_US)
        l->strict_for_us = STRICT_MAX_US;
    l->strict_until_us = now + l->strict_for_us;
    l->crowded_timeouts = 0;
    l->e->strict++;
    log_info("modbus: peer cannot take several requests, one at a time address=%s port=%u",
             l->conn.address.text, l->conn.address.port);
}

/* What the way it ended tells about overtaking on this link. */
static void
judge_crowding(struct link *l, const struct dev *d, const struct mb_result *r)
{
    if (!r->crowded || r->by_us || l->limit > 1)
        return;
    bool broke = r->done == MB_DONE_BAD || r->done == MB_DONE_LOST;
    if (r->done == MB_DONE_OK || r->done == MB_DONE_EXCEPTION)
        l->crowded_timeouts = 0;
    else if (r->done == MB_DONE_TIMEOUT && d->answered)
        broke = ++l->crowded_timeouts >= CROWDED_TIMEOUTS_MAX;
    if (broke && r->now_us >= l->strict_until_us)
        go_strict(l, r->now_us);
}

static void
unit_answered(struct link *l, struct dev *d, const struct mb_result *r)
{
    d->answered = true;
    d->silent = 0;
    d->excused = 0;
    d->hold_until_us = 0;
    if (!r->crowded) {
        uint64_t rtt = r->now_us - r->sent_us;
        l->srtt_us = l->srtt_us ? (7 * l->srtt_us + rtt) / 8 : rtt + 1;
    }
}

/*
 * The unit did not answer. The first repetition goes out at once, those that
 * the interface's retry count covers after one time-out each, and further
 * ones at doubling pauses; alone on its connection it hurts nobody and is
 * asked without a pause.
 */
static void
unit_silent(struct link *l, struct dev *d, const struct mb_result *r)
{
    if (r->crowded && d->answered && d->excused < CROWDED_TIMEOUTS_MAX) {
        d->excused++;
        return;
    }
    d->silent++;
    d->answered = false;
    uint64_t timeout = l->e->iface.timeout_ms * 1000ull, retries = l->e->iface.retry_count;
    if (l->n_devs <= 1)
        return;
    if (d->silent == 1 && retries > 0 && r->done == MB_DONE_TIMEOUT)
        return;
    uint64_t over = d->silent > retries ? d->silent - retries : 0;
    uint64_t hold = timeout << (over < 16 ? over : 16);
    uint64_t most = may_overtake(l, r->now_us) ? HOLD_MAX_SHARED_US : HOLD_MAX_STRICT_US;
    d->hold_until_us = r->now_us + (hold < most ? hold : most);
}

/* A poll that brought no data, again or given up until its next period. */
static void
poll_failed(struct link *l, struct cmd *c, const struct mb_result *r)
{
    struct dev *d = c->op.dev;
    bool again = false;
    switch (r->done) {
    case MB_DONE_TIMEOUT:
        mark_bad(c, TAG_BAD_TIMEOUT, 0, r->now_us);
        mark_device_bad(d, TAG_BAD_TIMEOUT, r->now_us, true);
        again = c->tries < l->e->iface.retry_count;
        break;
    case MB_DONE_EXCEPTION:
        mark_bad(c, TAG_BAD_EXCEPTION, r->exception, r->now_us);
        break;
    case MB_DONE_BAD:
        again = l->conn.state == MB_CONN_OPEN && c->tries < l->e->iface.retry_count;
        if (!again)
            mark_bad(c, TAG_BAD_REPLY, 0, r->now_us);
        break;
    case MB_DONE_LOST:
        if (r->by_us)
            return; /* as if it had not been sent */
        again = l->conn.useful && c->tries < l->e->iface.retry_count;
        if (!again)
            mark_bad(c, TAG_BAD_CONNECTION, 0, r->now_us);
        break;
    case MB_DONE_OK:
        break;
    }
    if (!again) {
        next_period(l->e, c, r->now_us > d->hold_until_us ? r->now_us : d->hold_until_us);
        return;
    }
    c->tries++;
    if (d->hold_until_us > r->now_us)
        c->due_us = d->hold_until_us;
}

static enum mb_status
status_of(const struct mb_result *r)
{
    switch (r->done) {
    case MB_DONE_EXCEPTION:
        return MB_STATUS_EXCEPTION;
    case MB_DONE_BAD:
        return MB_STATUS_BAD_REPLY;
    case MB_DONE_TIMEOUT:
        return MB_STATUS_TIMEOUT;
    case MB_DONE_LOST:
        return MB_STATUS_NO_CONNECTION;
    case MB_DONE_OK:
        break;
    }
    return MB_STATUS_OK;
}

static void
count(struct dev *d, enum mb_done done)
{
    switch (done) {
    case MB_DONE_OK:
        d->valid++;
        break;
    case MB_DONE_EXCEPTION:
        d->exceptions++;
        break;
    case MB_DONE_BAD:
        d->invalid++;
        break;
    case MB_DONE_TIMEOUT:
        d->timeouts++;
        break;
    case MB_DONE_LOST:
        break;
    }
}

/* A writing command was written as a whole: its tags hold what the device holds. */
static void
tell_written(struct cmd *c)
{
    c->quality = TAG_GOOD;
    for (size_t i = 0; i < c->n_tags; i++) {
        struct tag *t = &c->tags[i];
        if (t->quality == TAG_BAD_NEVER || t->access & TAG_ACCESS_READ)
            continue;
        t->quality = TAG_GOOD;
        t->aux = 0;
        t->ts_us = clock_wall_us();
        tell(c->op.dev->e, t);
    }
}

static void
poll_done(struct link *l, struct cmd *c, const struct mb_result *r)
{
    c->in_flight = false;
    if (r->done == MB_DONE_OK) {
        if (r->data)
            take_data(c, r->data);
        if (mb_func_writes(c->func))
            tell_written(c);
        next_period(l->e, c, r->now_us);
    } else {
        poll_failed(l, c, r);
    }
    reschedule(c);
}

/* Keeps what was written, so that it can be repeated. */
static void
remember_written(struct cmd *c, const struct direct *q)
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
    if (is_polled(c) && !c->heap_index && !c->in_flight && !c->parked) {
        first_due(c->op.dev->e, c);
        c->grid_us += c->interval_us; /* it was written just now */
        c->due_us = c->grid_us;
        heap_push(c->op.dev->link, c);
    }
}

static struct direct *enqueue(struct tag *t, bool write, uint64_t deadline_us, mb_direct_fn *fn,
                              void *arg);

static void
read_back(struct link *l, struct tag *t)
{
    uint64_t deadline = clock_mono_us() + l->e->iface.timeout_ms * 1000ull;
    struct direct *q = enqueue(t, false, deadline, NULL, NULL);
    if (q)
        q->n = (uint16_t)poll_pdu(t->cmd, q->pdu);
}

static void
written(struct link *l, struct direct *q, const struct mb_result *r)
{
    struct cmd *c = q->op.cmd;
    struct tag *t = q->tag;
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
    t->ts_us = clock_wall_us();
    c->quality = TAG_GOOD;
    tell(l->e, t);
}

static void
direct_done(struct link *l, struct direct *q, const struct mb_result *r)
{
    struct mb_direct_result result = { .status = MB_DIRECT_OK, .exception = r->exception };
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
    if (!q->write && r->done != MB_DONE_OK) {
        static const uint8_t quality[] = {
            [MB_DONE_EXCEPTION] = TAG_BAD_EXCEPTION,
            [MB_DONE_BAD] = TAG_BAD_REPLY,
            [MB_DONE_TIMEOUT] = TAG_BAD_TIMEOUT,
            [MB_DONE_LOST] = TAG_BAD_CONNECTION,
        };
        mark_bad(q->op.cmd, quality[r->done], r->exception, r->now_us);
    }
    tag_sample_of(q->tag, &result.sample);
    finish_direct(l->e, q, &result);
}

static void
on_done(void *arg, void *owner, const struct mb_result *r)
{
    struct link *l = arg;
    struct op *op = owner;
    if (!op) {
        pump(l);
        return;
    }
    struct dev *d = op->dev;
    d->n_in_flight--;
    count(d, r->done);
    judge_crowding(l, d, r);
    /* A gateway that says the unit behind it is mute has spent its own time-out on it. */
    bool mute = r->done == MB_DONE_TIMEOUT ||
                (r->done == MB_DONE_EXCEPTION && (r->exception == 10 || r->exception == 11));
    if (mute)
        unit_silent(l, d, r);
    else if (r->done == MB_DONE_OK || r->done == MB_DONE_EXCEPTION)
        unit_answered(l, d, r);
    if (r->done != MB_DONE_LOST || !l->conn.useful)
        set_status(d, status_of(r));
    if (op->is_direct)
        direct_done(l, CONTAINER_OF(op, struct direct, op), r);
    else
        poll_done(l, op->cmd, r);
    if (d->parked)
        unpark(d);
    pump(l);
}

static void
fail_directs(struct link *l, enum mb_direct_status status)
{
    struct direct *all = l->directs;
    struct mb_direct_result r = { .status = status };
    l->directs = NULL;
    l->directs_end = &l->directs;
    finish_all(l->e, all, &r);
}

static void
on_state(void *arg, enum mb_conn_state state, bool useful)
{
    struct link *l = arg;
    const struct mb_address *a = &l->conn.address;
    if (state == MB_CONN_OPEN) {
        if (l->down_told)
            log_info("modbus: connected again address=%s port=%u", a->text, a->port);
        l->down_told = false;
        for (struct dev *d = l->devs; d; d = d->next_in_link)
            d->hold_until_us = 0;
        pump(l);
        return;
    }
    /* A peer that closed after it had answered gets the chance to open again first. */
    if (state != MB_CONN_WAITING || useful)
        return;
    if (!l->down_told)
        log_warn("modbus: no connection address=%s port=%u", a->text, a->port);
    l->down_told = true;
    uint64_t now = clock_mono_us();
    for (struct dev *d = l->devs; d; d = d->next_in_link) {
        mark_device_bad(d, TAG_BAD_CONNECTION, now, false);
        set_status(d, MB_STATUS_NO_CONNECTION);
    }
    fail_directs(l, MB_DIRECT_NO_CONNECTION);
}

/* ---- links ---- */

static uint32_t
connect_timeout_ms(const struct mb_engine *e)
{
    uint32_t ms = e->iface.timeout_ms;
    return ms < 200 ? 200 : ms > 5000 ? 5000 : ms;
}

static struct link *
link_get(struct mb_engine *e, const struct mb_address *a)
{
    for (struct link *l = e->links; l; l = l->next)
        if (l->conn.address.port == a->port && str_eq(l->conn.address.text, a->text))
            return l;
    struct link *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->e = e;
    l->limit = 1;
    l->directs_end = &l->directs;
    struct mb_conn_events events = { on_done, on_state, l };
    mb_conn_init(&l->conn, e->loop, a, &events, &e->conn);
    loop_timer_init(&l->timer, on_link_timer, l);
    l->next = e->links;
    e->links = l;
    return l;
}

static void
link_free_if_empty(struct link *l)
{
    if (l->devs)
        return;
    struct link **at = &l->e->links;
    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    mb_conn_stop(&l->conn);
    loop_timer_cancel(l->e->loop, &l->timer);
    free(l->heap);
    free(l);
}

/* Room in the heap for all commands of the link and 'n' more. */
static int
link_reserve(struct link *l, size_t n)
{
    n += 2;
    for (const struct dev *d = l->devs; d; d = d->next_in_link)
        n += d->n_cmds;
    if (n <= l->cap_heap)
        return 0;
    struct cmd **heap = reallocarray(l->heap, n, sizeof(struct cmd *));
    if (!heap)
        return -ENOMEM;
    l->heap = heap;
    l->cap_heap = n;
    return 0;
}

static void
link_count_devs(struct link *l)
{
    l->n_devs = 0;
    l->limit = 1;
    for (const struct dev *d = l->devs; d; d = d->next_in_link) {
        l->n_devs++;
        if (d->limit > l->limit)
            l->limit = d->limit;
    }
}

static void
link_add(struct link *l, struct dev *d)
{
    d->link = l;
    d->next_in_link = l->devs;
    l->devs = d;
    link_count_devs(l);
    for (size_t i = 0; i < d->n_cmds; i++)
        reschedule(&d->cmds[i]);
}

/* Nothing of 'd' is in the link any more; who waits for it is told. */
static void
link_remove(struct dev *d)
{
    struct link *l = d->link;
    struct mb_direct_result gone = { .status = MB_DIRECT_GONE };
    for (size_t i = 0; i < d->n_cmds; i++)
        heap_remove(l, &d->cmds[i]);
    for (unsigned i = 0; i < MB_IN_FLIGHT_MAX; i++) {
        struct op *op = l->conn.slots[i].used ? l->conn.slots[i].owner : NULL;
        if (!op || op->dev != d)
            continue;
        mb_conn_forget(&l->conn, op);
        if (op->is_direct)
            finish_direct(l->e, CONTAINER_OF(op, struct direct, op), &gone);
    }
    struct direct *over = NULL;
    for (struct direct **q_at = &l->directs; *q_at;) {
        struct direct *q = *q_at;
        if (q->op.dev != d) {
            q_at = &q->next;
            continue;
        }
        *q_at = q->next;
        q->next = over;
        over = q;
    }
    find_end(l);
    finish_all(l->e, over, &gone);
    struct dev **at = &l->devs;
    while (*at != d)
        at = &(*at)->next_in_link;
    *at = d->next_in_link;
    d->link = NULL;
    link_count_devs(l);
}

/* ---- devices ---- */

static void
dev_free(struct dev *d)
{
    if (!d)
        return;
    for (size_t i = 0; d->cmds && i < d->n_cmds; i++) {
        free(d->cmds[i].written);
        free(d->cmds[i].is_written);
    }
    free(d->cmds);
    free(d->tags);
    free(d->bytes);
    free(d->names);
    free(d->name);
    free(d);
}

static void
dev_freep(struct dev **d)
{
    dev_free(*d);
}

static size_t
name_size(const struct mb_tag_config *t)
{
    return strlen(t->name) + strlen(t->unit) + 2;
}

static bool
dev_alloc(struct dev *d, const struct mb_dev_config *cfg)
{
    size_t n_tags = 0, n_bytes = 1, n_names = 1;
    for (size_t i = 0; i < cfg->n_cmds; i++) {
        n_tags += cfg->cmds[i].n_tags;
        for (size_t k = 0; k < cfg->cmds[i].n_tags; k++) {
            n_names += name_size(&cfg->cmds[i].tags[k]);
            if (mb_type_sized(cfg->cmds[i].tags[k].type))
                n_bytes += cfg->cmds[i].tags[k].data_size;
        }
    }
    d->cmds = calloc(cfg->n_cmds + 1, sizeof(*d->cmds));
    d->tags = calloc(n_tags + 1, sizeof(*d->tags));
    d->bytes = calloc(1, n_bytes);
    d->names = calloc(1, n_names);
    d->name = strdup(cfg->name);
    d->n_cmds = cfg->n_cmds;
    d->n_tags = n_tags;
    return d->cmds && d->tags && d->bytes && d->names && d->name;
}

static bool
cmd_fill(struct dev *d, struct cmd *c, const struct mb_cmd_config *cfg)
{
    c->op = (struct op){ .dev = d, .cmd = c };
    c->id = cfg->id;
    c->func = cfg->func;
    c->enable = cfg->enable;
    c->cyclic = cfg->cyclic;
    c->read_addr = cfg->read_addr;
    c->read_n = cfg->read_n;
    c->write_addr = cfg->write_addr;
    c->write_n = cfg->write_n;
    c->scaling = cfg->scaling;
    c->interval_us = cfg->interval_ms * 1000ull;
    c->quality = TAG_BAD_NEVER;
    if (!mb_func_writes(c->func))
        return true;
    c->written = calloc(1, 2u * c->write_n);
    c->is_written = calloc(1, c->write_n);
    return c->written && c->is_written;
}

static char *
put_name(char **at, const char *text)
{
    char *out = *at;
    size_t size = strlen(text) + 1;
    memcpy(out, text, size);
    *at += size;
    return out;
}

static bool
dev_fill(struct dev *d, const struct mb_dev_config *cfg, uint8_t quality)
{
    struct tag *t = d->tags;
    uint8_t *bytes = d->bytes;
    char *names = d->names;
    for (size_t i = 0; i < cfg->n_cmds; i++) {
        const struct mb_cmd_config *cc = &cfg->cmds[i];
        struct cmd *c = &d->cmds[i];
        if (!cmd_fill(d, c, cc))
            return false;
        c->tags = t;
        c->n_tags = cc->n_tags;
        for (size_t k = 0; k < cc->n_tags; k++, t++) {
            const struct mb_tag_config *tc = &cc->tags[k];
            const char *wrong = mb_tag_check(cc, tc, &t->codec, &t->access);
            MUST(!wrong);
            t->no = tc->id;
            t->type = mb_codec_tag_type(&t->codec);
            t->quality = c->enable ? quality : TAG_BAD_CONFIG;
            t->cmd = c;
            t->dev = d;
            t->name = put_name(&names, tc->name);
            t->unit = put_name(&names, tc->unit);
            if (mb_type_sized(tc->type)) {
                t->bytes = bytes;
                bytes += tc->data_size;
            }
        }
    }
    return true;
}

/* The same tag as before keeps its value. */
static void
keep_value(struct tag *t, const struct tag *old)
{
    if (t->type != old->type || t->codec.size != old->codec.size ||
        t->quality == TAG_BAD_CONFIG || old->quality == TAG_BAD_CONFIG)
        return;
    t->quality = old->quality;
    t->aux = old->aux;
    t->bits = old->bits;
    t->n_bytes = old->n_bytes;
    t->ts_us = old->ts_us;
    if (t->bytes && old->n_bytes)
        memcpy(t->bytes, old->bytes, old->n_bytes);
}

static bool
same_range(const struct cmd *a, const struct cmd *b)
{
    return a->func == b->func && a->read_addr == b->read_addr && a->read_n == b->read_n &&
           a->write_addr == b->write_addr && a->write_n == b->write_n;
}

static void
keep_cmd(struct cmd *c, const struct cmd *old)
{
    if (c->interval_us == old->interval_us && old->grid_us != 0) {
        c->grid_us = old->grid_us;
        c->due_us = old->due_us;
        c->first = old->first;
    }
    if (!same_range(c, old))
        return;
    if (c->written && old->written) {
        memcpy(c->written, old->written, 2u * c->write_n);
        memcpy(c->is_written, old->is_written, c->write_n);
        c->n_written = old->n_written;
    }
    if (!c->enable || !old->enable)
        return;
    c->quality = old->quality;
    c->aux = old->aux;
    c->bad_told_us = old->bad_told_us;
    /* Both lists are in order of number. */
    size_t k = 0;
    for (size_t i = 0; i < c->n_tags; i++) {
        while (k < old->n_tags && old->tags[k].no < c->tags[i].no)
            k++;
        if (k < old->n_tags && old->tags[k].no == c->tags[i].no)
            keep_value(&c->tags[i], &old->tags[k]);
    }
}

static void
keep_dev(struct dev *d, const struct dev *old)
{
    size_t k = 0;
    for (size_t i = 0; i < d->n_cmds; i++) {
        while (k < old->n_cmds && old->cmds[k].id < d->cmds[i].id)
            k++;
        if (k < old->n_cmds && old->cmds[k].id == d->cmds[i].id)
            keep_cmd(&d->cmds[i], &old->cmds[k]);
    }
    if (d->status.quality != TAG_BAD_CONFIG && old->status.quality != TAG_BAD_CONFIG)
        keep_value(&d->status, &old->status);
    d->sent = old->sent;
    d->valid = old->valid;
    d->invalid = old->invalid;
    d->exceptions = old->exceptions;
    d->timeouts = old->timeouts;
}

static size_t
dev_place(const struct mb_engine *e, uint32_t id)
{
    size_t low = 0, high = e->n_devs;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (e->devs[mid]->id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static int
reserve_dev(struct mb_engine *e)
{
    if (e->n_devs < e->cap_devs)
        return 0;
    size_t cap = e->cap_devs ? 2 * e->cap_devs : 16;
    struct dev **devs = reallocarray(e->devs, cap, sizeof(struct dev *));
    if (!devs)
        return -ENOMEM;
    e->devs = devs;
    e->cap_devs = cap;
    return 0;
}

static bool
has_address(const struct mb_dev_config *cfg, struct mb_address *ret_address)
{
    return mb_address_parse(cfg->addr, cfg->port, ret_address) == 0 &&
           !str_eq(ret_address->text, "0.0.0.0") && !str_eq(ret_address->text, "::");
}

static struct dev *
dev_new(struct mb_engine *e, const struct mb_dev_config *cfg, uint8_t quality)
{
    struct dev *d = calloc(1, sizeof(*d));
    if (!d)
        return NULL;
    if (!dev_alloc(d, cfg) || !dev_fill(d, cfg, quality)) {
        dev_free(d);
        return NULL;
    }
    d->id = cfg->id;
    d->e = e;
    d->unit = cfg->unit;
    d->limit = cfg->limit;
    d->port = cfg->port;
    (void)str_copy(d->addr, sizeof(d->addr), cfg->addr); /* a literal fits, else it stays "" */
    d->status = (struct tag){ .no = MB_STATUS_TAG_BASE + cfg->id,
                              .type = TAG_INT32,
                              .access = TAG_ACCESS_READ,
                              .quality = quality,
                              .name = "status",
                              .unit = "",
                              .dev = d };
    return d;
}

int
mb_engine_set_device(struct mb_engine *e, const struct mb_dev_config *cfg)
{
    struct mb_address address;
    bool polled = cfg->enable && has_address(cfg, &address);
    CLEANUP(dev_freep) struct dev *d = dev_new(e, cfg, polled ? TAG_BAD_NEVER : TAG_BAD_CONFIG);
    if (!d || reserve_dev(e) < 0)
        return -ENOMEM;
    struct link *l = polled ? link_get(e, &address) : NULL;
    if (polled && !l)
        return -ENOMEM;
    if (l && link_reserve(l, d->n_cmds) < 0) {
        link_free_if_empty(l);
        return -ENOMEM;
    }
    size_t at = dev_place(e, cfg->id);
    struct dev *old = at < e->n_devs && e->devs[at]->id == cfg->id ? e->devs[at] : NULL;
    for (size_t i = 0; i < d->n_cmds; i++)
        first_due(e, &d->cmds[i]);
    if (old)
        keep_dev(d, old);
    /* In before the old one is out: a connection that both use stays. */
    if (l) {
        link_add(l, d);
        mb_conn_start(&l->conn, connect_timeout_ms(e));
    }
    if (old) {
        struct link *old_link = old->link;
        if (old_link) {
            link_remove(old);
            link_free_if_empty(old_link);
        }
        dev_free(old);
        e->devs[at] = MOVE_PTR(d);
    } else {
        memmove(&e->devs[at + 1], &e->devs[at], (e->n_devs - at) * sizeof(struct dev *));
        e->devs[at] = MOVE_PTR(d);
        e->n_devs++;
    }
    if (l)
        pump(l);
    return 0;
}

void
mb_engine_remove_device(struct mb_engine *e, uint32_t id)
{
    size_t at = dev_place(e, id);
    if (at >= e->n_devs || e->devs[at]->id != id)
        return;
    struct dev *d = e->devs[at];
    struct link *l = d->link;
    if (l) {
        link_remove(d);
        link_free_if_empty(l);
    }
    dev_free(d);
    e->n_devs--;
    memmove(&e->devs[at], &e->devs[at + 1], (e->n_devs - at) * sizeof(struct dev *));
}

void
mb_engine_set_iface(struct mb_engine *e, const struct mb_iface_config *cfg)
{
    e->iface = *cfg;
    for (struct link *l = e->links; l; l = l->next)
        mb_conn_start(&l->conn, connect_timeout_ms(e));
}

int
mb_engine_new(struct loop *loop, const struct mb_engine_hooks *hooks,
              struct mb_engine **ret_engine)
{
    struct mb_engine *e = calloc(1, sizeof(*e));
    if (!e)
        return -ENOMEM;
    e->loop = loop;
    e->hooks = *hooks;
    e->start_us = clock_mono_us();
    e->iface = (struct mb_iface_config){ .provider = "modbus_tcp_master",
                                         .retry_count = 3,
                                         .timeout_ms = 1000 };
    *ret_engine = e;
    return 0;
}

void
mb_engine_free(struct mb_engine *e)
{
    if (!e)
        return;
    while (e->n_devs)
        mb_engine_remove_device(e, e->devs[e->n_devs - 1]->id);
    free(e->devs);
    free(e->all);
    free(e);
}

/* ---- catalogue ---- */

static int
by_number(const void *a, const void *b)
{
    const struct tag *const *x = a, *const *y = b;
    return (*x)->no < (*y)->no ? -1 : (*x)->no > (*y)->no;
}

static bool
in_order(const struct mb_engine *e)
{
    for (size_t i = 1; i < e->n_all; i++)
        if (e->all[i - 1]->no > e->all[i]->no)
            return false;
    return true;
}

int
mb_engine_publish_changes(struct mb_engine *e, bool tell_others)
{
    size_t n = 0;
    for (size_t i = 0; i < e->n_devs; i++)
        n += e->devs[i]->n_tags + 1;
    e->n_all = 0;
    if (n > e->cap_all) {
        struct tag **all = reallocarray(e->all, n, sizeof(struct tag *));
        if (!all)
            return -ENOMEM;
        e->all = all;
        e->cap_all = n;
    }
    for (size_t i = 0; i < e->n_devs; i++) {
        struct dev *d = e->devs[i];
        for (size_t k = 0; k < d->n_tags; k++)
            e->all[e->n_all++] = &d->tags[k];
    }
    for (size_t i = 0; i < e->n_devs; i++)
        e->all[e->n_all++] = &e->devs[i]->status;
    if (!in_order(e))
        qsort(e->all, n, sizeof(struct tag *), by_number);
    if (tell_others)
        e->hooks.changed(e->hooks.arg);
    return 0;
}

bool
mb_engine_def(const struct mb_engine *e, size_t at, struct tag_def *ret_def)
{
    if (at >= e->n_all)
        return false;
    const struct tag *t = e->all[at];
    memset(ret_def, 0, sizeof(*ret_def));
    ret_def->no = t->no;
    ret_def->type = t->type;
    ret_def->access = t->access;
    if (t->type == TAG_STRING || t->type == TAG_RAW)
        ret_def->size = t->codec.bits ? t->codec.size / 8 : t->codec.size;
    if (t->cmd)
        ret_def->interval_ms = (uint32_t)(t->cmd->interval_us / 1000);
    /* All were checked against these sizes when they were stored. */
    (void)str_copy(ret_def->provider, sizeof(ret_def->provider), e->iface.provider);
    (void)str_copy(ret_def->source, sizeof(ret_def->source), t->dev->name);
    (void)str_copy(ret_def->name, sizeof(ret_def->name), t->name);
    (void)str_copy(ret_def->unit, sizeof(ret_def->unit), t->unit);
    return true;
}

bool
mb_engine_last(const struct mb_engine *e, size_t at, struct tag_sample *ret_sample)
{
    if (at >= e->n_all)
        return false;
    tag_sample_of(e->all[at], ret_sample);
    return true;
}

static struct tag *
tag_of_number(const struct mb_engine *e, uint32_t no)
{
    struct tag key = { .no = no }, *k = &key;
    struct tag **found =
        e->n_all ? bsearch(&k, e->all, e->n_all, sizeof(struct tag *), by_number) : NULL;
    return found ? *found : NULL;
}

uint32_t
mb_engine_find(const struct mb_engine *e, const char *provider, const char *source,
               const char *name)
{
    if (!str_eq(provider, e->iface.provider))
        return 0;
    for (size_t i = 0; i < e->n_devs; i++) {
        const struct dev *d = e->devs[i];
        if (!str_eq(d->name, source))
            continue;
        if (str_eq(name, d->status.name))
            return d->status.no;
        for (size_t k = 0; k < d->n_tags; k++)
            if (str_eq(d->tags[k].name, name))
                return d->tags[k].no;
        return 0;
    }
    return 0;
}

uint8_t
mb_engine_tag_type(const struct mb_engine *e, uint32_t no, uint16_t *ret_size)
{
    const struct tag *t = tag_of_number(e, no);
    if (!t)
        return 0;
    *ret_size = t->codec.bits ? t->codec.size / 8 : t->codec.size;
    return t->type;
}

/* ---- direct access ---- */

const char *
mb_direct_text(const struct mb_direct_result *r, char *room, size_t room_size)
{
    switch (r->status) {
    case MB_DIRECT_OK:
        return "ok";
    case MB_DIRECT_NOT_FOUND:
        return "tag not found";
    case MB_DIRECT_ACCESS:
        return "the access type of the tag does not allow this";
    case MB_DIRECT_VALUE:
        return "the value does not fit the data type of the tag";
    case MB_DIRECT_DISABLED:
        return "the device or its command is not enabled or has no address";
    case MB_DIRECT_BUSY:
        return "too many direct requests are waiting";
    case MB_DIRECT_EXCEPTION:
        (void)snprintf(room, room_size, "the device answered with exception %u (%s)",
                       r->exception,
                       mb_exception_text(r->exception)); /* fits in any sensible room */
        return room;
    case MB_DIRECT_BAD_REPLY:
        return "the device gave an invalid answer";
    case MB_DIRECT_TIMEOUT:
        return "the device did not answer in time";
    case MB_DIRECT_NO_CONNECTION:
        return "no connection to the device";
    case MB_DIRECT_GONE:
        return "the configuration of the device was changed meanwhile";
    }
    return "";
}

/* At the end of the link's queue; NULL: no memory. */
static struct direct *
enqueue(struct tag *t, bool write, uint64_t deadline_us, mb_direct_fn *fn, void *arg)
{
    struct link *l = t->dev->link;
    struct direct *q = calloc(1, sizeof(*q));
    if (!q)
        return NULL;
    q->op = (struct op){ .is_direct = true, .dev = t->dev, .cmd = t->cmd };
    q->tag = t;
    q->write = write;
    q->deadline_us = deadline_us;
    q->fn = fn;
    q->arg = arg;
    *l->directs_end = q;
    l->directs_end = &q->next;
    l->e->n_directs++;
    l->e->directs++;
    return q;
}

/* The tag, when it can be asked for at all; else NULL with the reason. */
static struct tag *
direct_tag(struct mb_engine *e, uint32_t no, uint8_t access, struct mb_direct_result *r)
{
    struct tag *t = tag_of_number(e, no);
    memset(r, 0, sizeof(*r));
    if (!t)
        r->status = MB_DIRECT_NOT_FOUND;
    else if (!(t->access & access))
        r->status = MB_DIRECT_ACCESS;
    else if (t->cmd && (!t->dev->link || !t->cmd->enable))
        r->status = MB_DIRECT_DISABLED;
    else if (e->n_directs >= MB_DIRECTS_MAX)
        r->status = MB_DIRECT_BUSY;
    else if (t->cmd && t->dev->link->conn.state == MB_CONN_WAITING &&
             t->dev->link->conn.failures > 1)
        r->status = MB_DIRECT_NO_CONNECTION;
    else
        return t;
    return NULL;
}

/*
 * Later, not from inside the caller's call: a request may be answered only
 * after the caller has got its "pending".
 */
static void
pump_soon(struct link *l)
{
    wake_at(l, clock_mono_us());
}

bool
mb_engine_read(struct mb_engine *e, uint32_t no, uint64_t deadline_us, mb_direct_fn *fn,
               void *arg, struct mb_direct_result *ret_now)
{
    struct tag *t = direct_tag(e, no, TAG_ACCESS_READ, ret_now);
    if (!t)
        return false;
    if (!t->cmd) {
        tag_sample_of(t, &ret_now->sample);
        return false;
    }
    /* 23 cannot read without writing. */
    if (t->cmd->func == MB_READ_WRITE_REGS) {
        ret_now->status = MB_DIRECT_ACCESS;
        return false;
    }
    struct direct *q = enqueue(t, false, deadline_us, fn, arg);
    if (!q) {
        ret_now->status = MB_DIRECT_BUSY;
        return false;
    }
    q->n = (uint16_t)poll_pdu(t->cmd, q->pdu);
    pump_soon(t->dev->link);
    return true;
}

bool
mb_engine_write(struct mb_engine *e, uint32_t no, const struct tag_value *v,
                uint64_t deadline_us, mb_direct_fn *fn, void *arg,
                struct mb_direct_result *ret_now)
{
    struct tag *t = direct_tag(e, no, TAG_ACCESS_WRITE, ret_now);
    if (!t)
        return false;
    const struct cmd *c = t->cmd;
    uint8_t data[MB_PDU_MAX] = { 0 };
    if (mb_encode(&t->codec, &c->scaling, v, data) < 0) {
        ret_now->status = MB_DIRECT_VALUE;
        return false;
    }
    struct direct *q = enqueue(t, true, deadline_us, fn, arg);
    if (!q) {
        ret_now->status = MB_DIRECT_BUSY;
        return false;
    }
    unsigned n = codec_units(&t->codec);
    unsigned at = t->codec.bits ? t->codec.offset : t->codec.offset / 2u;
    unsigned base = mb_func_writes(c->func) ? c->write_addr : c->read_addr;
    struct mb_ask ask = { .func = writing_func(c->func, n),
                          .addr = c->read_addr,
                          .n = c->read_n,
                          .write_addr = (uint16_t)(base + at),
                          .n_write = (uint16_t)n,
                          .data = data };
    int size = mb_pdu_encode(&ask, q->pdu);
    MUST(size > 0);
    q->n = (uint16_t)size;
    q->at = (uint16_t)at;
    q->n_units = (uint16_t)n;
    memcpy(q->data, data, sizeof(data));
    pump_soon(t->dev->link);
    return true;
}

/* ---- looking at it ---- */

void
mb_engine_get_stats(const struct mb_engine *e, struct mb_engine_stats *ret_stats)
{
    struct mb_engine_stats s = { .conn = e->conn,
                                 .overruns = e->overruns,
                                 .samples = e->samples,
                                 .directs = e->directs,
                                 .strict = e->strict,
                                 .n_tags = e->n_all,
                                 .n_devices = e->n_devs };
    for (const struct link *l = e->links; l; l = l->next) {
        s.n_open += l->conn.state == MB_CONN_OPEN;
        s.n_connecting += l->conn.state == MB_CONN_CONNECTING;
        s.n_waiting += l->conn.state == MB_CONN_WAITING;
    }
    *ret_stats = s;
}

bool
mb_engine_dev_stats(const struct mb_engine *e, size_t at, struct mb_dev_stats *ret_stats)
{
    if (at >= e->n_devs)
        return false;
    const struct dev *d = e->devs[at];
    *ret_stats = (struct mb_dev_stats){
        .name = d->name,
        .addr = d->addr,
        .port = d->port,
        .unit = d->unit,
        .status = (enum mb_status)d->status.bits,
        .polled = d->link != NULL,
        .known = d->status.quality == TAG_GOOD,
        .sent = d->sent,
        .valid = d->valid,
        .invalid = d->invalid,
        .exceptions = d->exceptions,
        .timeouts = d->timeouts,
    };
    return true;
}
