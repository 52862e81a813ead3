/*
 * Commands of a device that are read together: made into groups when the
 * configuration changes, taken apart when the device does not stand it. A
 * group is the chain of its commands by address; the first of them is the one
 * that is planned and asked, the others share its periods.
 */
#include "services/modbusd/mb_plan.h"

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/banned.h"

/* A group that the device did not stand is tried again after this. */
#define APART_US 3600000000ull

static struct mb_range
range_of(const struct mb_cmd *c)
{
    return (struct mb_range){ c->read_addr, c->read_n };
}

static bool
is_mergeable(const struct mb_cmd *c, uint64_t now)
{
    return c->merge && c->enable && mb_func_reads(c->func) && !mb_func_writes(c->func) &&
           c->apart_until_us <= now;
}

static bool
is_same_kind(const struct mb_cmd *a, const struct mb_cmd *b)
{
    return a->func == b->func && a->interval_us == b->interval_us;
}

static int
by_kind_and_address(const void *a, const void *b)
{
    const struct mb_cmd *const *pa = a, *const *pb = b;
    const struct mb_cmd *x = *pa, *y = *pb;
    if (x->func != y->func)
        return x->func < y->func ? -1 : 1;
    if (x->interval_us != y->interval_us)
        return x->interval_us < y->interval_us ? -1 : 1;
    if (x->read_addr != y->read_addr)
        return x->read_addr < y->read_addr ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* What the first says of its periods holds for all. */
void
mb_group_follow(struct mb_cmd *first)
{
    for (struct mb_cmd *c = first->next_merged; c; c = c->next_merged) {
        c->grid_us = first->grid_us;
        c->due_us = first->due_us;
        c->first = first->first;
    }
}

/* The periods of one that has been polled before go on; the first request is when anyone's is.
 */
static void
share_periods(struct mb_cmd *first)
{
    const struct mb_cmd *lead = first;
    uint64_t due = first->due_us;
    bool some_new = false;
    for (const struct mb_cmd *c = first; c; c = c->next_merged) {
        if (lead->first && !c->first)
            lead = c;
        due = c->due_us < due ? c->due_us : due;
        some_new |= c->first;
    }
    first->grid_us = lead->grid_us;
    first->due_us = due;
    first->first = some_new || due != first->grid_us;
    mb_group_follow(first);
}

static void
chain(struct mb_cmd **cmds, size_t n)
{
    struct mb_range whole = range_of(cmds[0]);
    for (size_t i = 1; i < n; i++) {
        uint32_t end = cmds[i]->read_addr + (uint32_t)cmds[i]->read_n;
        cmds[i]->asked_by = cmds[0];
        cmds[i - 1]->next_merged = cmds[i];
        if (end > whole.addr + whole.n)
            whole.n = end - whole.addr;
    }
    cmds[0]->whole = whole;
    cmds[0]->proven = false;
    if (n > 1)
        share_periods(cmds[0]);
}

/* 'cmds' are of one kind, in order of address. */
static void
group_kind(struct mb_cmd **cmds, size_t n, const struct mb_merge_limits *limits,
           struct mb_range *ranges, bool *firsts)
{
    for (size_t i = 0; i < n; i++)
        ranges[i] = range_of(cmds[i]);
    (void)mb_merge_plan(ranges, n, limits, mb_func_bits(cmds[0]->func), firsts); /* counted */
    for (size_t i = 0, next; i < n; i = next) {
        next = i + 1;
        while (next < n && !firsts[next])
            next++;
        chain(cmds + i, next - i);
    }
}

static void
group_all(struct mb_dev *d, struct mb_cmd **cmds, struct mb_range *ranges, bool *firsts)
{
    size_t n = 0;
    uint64_t now = clock_mono_us();
    for (size_t i = 0; i < d->n_cmds; i++) {
        if (!is_mergeable(&d->cmds[i], now))
            continue;
        d->cmds[i].apart_until_us = 0;
        cmds[n++] = &d->cmds[i];
    }
    if (n > 1)
        qsort(cmds, n, sizeof(struct mb_cmd *), by_kind_and_address);
    for (size_t i = 0, next; i < n; i = next) {
        next = i + 1;
        while (next < n && is_same_kind(cmds[i], cmds[next]))
            next++;
        group_kind(cmds + i, next - i, &d->iface->merge, ranges, firsts);
    }
}

/*
 * Reads in flight are as if they had not been sent: they may be of a group that
 * is no more. Writes are of none, and how they end is awaited.
 */
static void
forget_reads(struct mb_dev *d)
{
    struct mb_conn *conn = &d->link->conn;
    for (unsigned i = 0; i < MB_IN_FLIGHT_MAX; i++) {
        struct mb_op *op = conn->slots[i].used ? conn->slots[i].owner : NULL;
        if (!op || op->dev != d || op->is_direct || mb_func_writes(op->cmd->func))
            continue;
        op->cmd->in_flight = false;
        d->n_in_flight--;
        mb_conn_forget(conn, op);
    }
}

static void
ungroup(struct mb_dev *d)
{
    if (d->link) {
        forget_reads(d);
        mb_dev_unpark(d);
    }
    for (size_t i = 0; i < d->n_cmds; i++) {
        struct mb_cmd *c = &d->cmds[i];
        if (d->link)
            mb_link_unplan(d->link, c);
        c->asked_by = c;
        c->next_merged = NULL;
        if (!c->in_flight)
            c->tries = 0;
    }
}

void
mb_dev_regroup(struct mb_dev *d)
{
    ungroup(d);
    struct mb_cmd **cmds = calloc(d->n_cmds + 1, sizeof(struct mb_cmd *));
    struct mb_range *ranges = calloc(d->n_cmds + 1, sizeof(*ranges));
    bool *firsts = calloc(d->n_cmds + 1, sizeof(*firsts));
    if (cmds && ranges && firsts)
        group_all(d, cmds, ranges, firsts);
    else
        log_warn("modbus: no memory to merge reads device=%s", d->name);
    free(cmds);
    free(ranges);
    free(firsts);
    for (size_t i = 0; i < d->n_cmds; i++)
        mb_cmd_plan(&d->cmds[i]);
    if (d->link)
        mb_link_wake_at(d->link, clock_mono_us());
}

unsigned
mb_group_size(const struct mb_cmd *first)
{
    unsigned n = 0;
    for (const struct mb_cmd *c = first; c; c = c->next_merged)
        n++;
    return n;
}

void
mb_dev_merge_again(struct mb_dev *d, uint64_t now)
{
    for (size_t i = 0; i < d->n_cmds; i++)
        if (d->cmds[i].apart_until_us)
            d->cmds[i].apart_until_us = now;
}

/* Does an exception say that this request cannot be served, while others may be? */
static bool
is_refusal(uint8_t exception)
{
    return exception != 5 && exception != 6 && exception != 10 && exception != 11;
}

bool
mb_group_fails(const struct mb_cmd *first, const struct mb_result *r, uint32_t retry_count)
{
    if (!first->next_merged || r->done == MB_DONE_OK || r->by_us)
        return false;
    if (r->done == MB_DONE_EXCEPTION)
        return is_refusal(r->exception);
    /*
     * There are devices that say nothing, or nonsense, or close where they should
     * refuse; a group that was answered once is not for them.
     */
    return !first->proven && (r->done == MB_DONE_LOST || first->tries >= retry_count);
}

void
mb_group_split(struct mb_cmd *first, uint64_t now)
{
    log_info("modbus: merged read is taken apart device=%s func=%u address=%u quantity=%u",
             first->op.dev->name, first->func, first->whole.addr, first->whole.n);
    struct mb_cmd *next;
    for (struct mb_cmd *c = first; c; c = next) {
        next = c->next_merged;
        c->next_merged = NULL;
        c->asked_by = c;
        c->tries = 0;
        c->apart_until_us = now + APART_US;
        mb_cmd_plan(c);
    }
}
