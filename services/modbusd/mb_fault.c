/*
 * Fault protection of writing commands (proto/decisions/fault-protection.md):
 * when the tags of a command have not been written for its time, the device
 * gets zeros or data of the user. One timer serves all commands; it is moved
 * when it fires, not when something is written.
 */
#include "services/modbusd/mb_plan.h"

#include <string.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "libcommon/banned.h"

/* All commands are looked at when it fires: not more often than this. */
enum { FAULT_TICK_US = 50000 };

size_t
mb_user_data_size(const char *text)
{
    return (strlen(text) + 1) / 3;
}

void
mb_user_data(const char *text, uint8_t *out, size_t size)
{
    size_t n = mb_user_data_size(text);
    for (size_t i = 0; i < n && i < size; i++)
        (void)hex_decode(text + 3 * i, 2, out + i, 1); /* the schema saw to its form */
}

static void
watch(struct mb_engine *e, uint64_t when_us)
{
    if (loop_timer_is_set(&e->fault_timer) && e->fault_timer.deadline_us <= when_us)
        return;
    if (loop_timer_set(e->loop, &e->fault_timer, when_us) < 0)
        log_err("modbus: no memory for a timer");
}

static void
set_deadline(struct mb_cmd *c, uint64_t when_us)
{
    c->fault.deadline_us = when_us;
    c->fault.due = false;
    watch(c->op.dev->e, when_us);
    if (!mb_cmd_is_polled(c))
        mb_cmd_unplan(c);
}

void
mb_fault_written(struct mb_cmd *c, uint64_t now)
{
    if (c->fault.data)
        set_deadline(c, now + c->fault.tout_us);
}

void
mb_fault_hold(struct mb_cmd *c, uint64_t until_us)
{
    bool soon = c->fault.due || (c->fault.deadline_us && c->fault.deadline_us < until_us);
    if (soon && !c->fault.sent)
        set_deadline(c, until_us);
}

/* To be asked now, whatever its period. */
static void
hurry(struct mb_cmd *c, uint64_t now)
{
    if (c->in_flight || c->parked)
        return; /* it is planned when it is free */
    mb_cmd_unplan(c);
    c->due_us = now;
    if (c->grid_us < now)
        c->grid_us = now;
    c->first = true; /* its grid stays */
    mb_cmd_plan(c);
    mb_link_wake_at(c->op.dev->link, now);
}

static void
begin(struct mb_cmd *c, uint64_t now)
{
    struct mb_dev *d = c->op.dev;
    log_warn("modbus: fault protection, no new data device=%s command=%s for_s=%u", d->name,
             c->name, (unsigned)(c->fault.tout_us / 1000000));
    c->fault.due = true;
    c->fault.deadline_us = 0;
    hurry(c, now);
}

void
mb_fault_timer(void *arg)
{
    struct mb_engine *e = arg;
    uint64_t now = clock_mono_us(), next = UINT64_MAX;
    for (size_t i = 0; i < e->n_devs; i++) {
        struct mb_dev *d = e->devs[i];
        for (size_t k = 0; d->link && k < d->n_cmds; k++) {
            struct mb_cmd *c = &d->cmds[k];
            if (!c->fault.deadline_us || !c->enable)
                continue;
            if (c->fault.deadline_us <= now)
                begin(c, now);
            else if (c->fault.deadline_us < next)
                next = c->fault.deadline_us;
        }
    }
    if (next != UINT64_MAX)
        watch(e, next > now + FAULT_TICK_US ? next : now + FAULT_TICK_US);
}

/* The device holds the fault data now, and so does what a cyclic command repeats. */
static void
take_over(struct mb_cmd *c)
{
    memcpy(c->written, c->fault.data, 2u * c->write_n);
    memset(c->is_written, 1, c->write_n);
    c->n_written = c->write_n;
    c->op.dev->e->fault_writes++;
    for (size_t i = 0; i < c->n_tags; i++) {
        struct mb_tag *t = &c->tags[i];
        if (t->access & TAG_ACCESS_READ)
            continue; /* function 23 reads it back */
        mb_tag_take(t, &c->scaling, c->written);
        t->is_fault = true;
        t->quality = TAG_UNCERTAIN; /* it has a value now; who tells it says of which kind */
    }
}

void
mb_fault_polled(struct mb_cmd *c, bool done, uint64_t now)
{
    bool sent = c->fault.sent;
    c->fault.sent = false;
    if (sent && done) {
        take_over(c);
        c->fault.due = false;
    } else if (c->fault.due && !sent) {
        c->due_us = now; /* it began while the command was under way */
        c->first = true;
    }
}

/* Its time began then; one that was held back until a later time may have had a longer one. */
static uint64_t
begun_us(const struct mb_fault *f)
{
    return f->deadline_us > f->tout_us ? f->deadline_us - f->tout_us : 0;
}

void
mb_fault_keep(struct mb_cmd *c, const struct mb_cmd *old, uint64_t now)
{
    struct mb_fault *f = &c->fault;
    const struct mb_fault *was = &old->fault;
    if (!f->data)
        return;
    bool watched = was->deadline_us || was->due || (!was->data && c->n_written);
    bool went_on = was->data && old->enable && old->op.dev->link;
    if (watched && went_on && !was->due)
        f->deadline_us = begun_us(was) + f->tout_us;
    else if (watched)
        f->deadline_us = went_on ? now : now + f->tout_us;
    if (f->deadline_us)
        watch(c->op.dev->e, f->deadline_us);
}
