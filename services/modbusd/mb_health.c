/*
 * When a device or a command begins to fail, and when a device is back: told
 * once each, after the retries, and so seldom that a flapping device does not
 * roll the audit log over.
 *
 * A device fails when a poll of it is given up and it has answered nothing
 * since that poll began (or since this command failed before: then it is not
 * the device). A command fails when its poll is given up while the device
 * answers. What fails together with its device is not told one by one.
 */
#include "services/modbusd/mb_plan.h"

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/banned.h"

enum { WINDOW_US = 600000000, DEVICE_EVENTS_MAX = 6, COMMAND_EVENTS_MAX = 20 };

static bool
may_tell(struct mb_budget *b, unsigned most, uint64_t now)
{
    if (b->since_us == 0 || now - b->since_us >= WINDOW_US)
        *b = (struct mb_budget){ .since_us = now };
    if (b->n >= most)
        return false;
    b->n++;
    return true;
}

static void
set_failed(struct mb_dev *d, bool failed, uint8_t why)
{
    struct mb_health *h = &d->health;
    if (h->failed == failed)
        return;
    h->failed = failed;
    h->why = why;
    h->n_changes++;
}

void
mb_health_tell(struct mb_dev *d)
{
    struct mb_health *h = &d->health;
    struct mb_engine *e = d->e;
    if (h->failed == h->told)
        return;
    if (d->iface->dev_fail_event && !may_tell(&h->device, DEVICE_EVENTS_MAX, clock_mono_us()))
        return;
    struct mb_event event = { .kind = h->failed ? MB_EVENT_DEVICE_FAIL : MB_EVENT_DEVICE_BACK,
                              .device = d->name,
                              .quality = h->why,
                              .n_left_out = h->n_changes - 1 };
    h->told = h->failed;
    h->n_changes = 0;
    if (d->iface->dev_fail_event)
        e->hooks.event(e->hooks.arg, &event);
}

void
mb_health_answered(struct mb_dev *d, uint64_t now)
{
    d->health.heard_us = now;
    set_failed(d, false, TAG_GOOD);
}

void
mb_health_lost(struct mb_dev *d)
{
    if (d->n_cmds)
        set_failed(d, true, TAG_BAD_CONNECTION);
}

void
mb_health_polled(struct mb_cmd *c)
{
    c->failed_us = 0;
    c->fail_told = false;
}

void
mb_health_given_up(struct mb_cmd *c, uint8_t quality, uint8_t aux, uint64_t now)
{
    struct mb_dev *d = c->op.dev;
    struct mb_engine *e = d->e;
    uint64_t since = c->failed_us ? c->failed_us : c->begun_us;
    c->failed_us = now;
    if (d->health.heard_us < since)
        set_failed(d, true, quality);
    if (d->health.failed || c->fail_told)
        return;
    if (d->iface->cmd_fail_event && !may_tell(&d->health.command, COMMAND_EVENTS_MAX, now))
        return; /* while it lasts, later */
    c->fail_told = true;
    struct mb_event event = { .kind = MB_EVENT_COMMAND_FAIL,
                              .device = d->name,
                              .command = c->name,
                              .quality = quality,
                              .exception = aux };
    if (d->iface->cmd_fail_event)
        e->hooks.event(e->hooks.arg, &event);
}
