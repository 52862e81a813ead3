/*
 * Audit records of what happens by itself: devices and commands that fail and
 * come back, a slave that cannot listen. They wait while a long change has the
 * store, and for room on the disk: polling goes on.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "libcommon/audit.h"
#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "services/modbusd/modbusd.h"
#include "libcommon/banned.h"

enum { EVENTS_MAX = 4096, GATHER_US = 100000, AGAIN_US = 5000000 };

struct entry {
    const char *event; /* static */
    int64_t at_us;
    char message[AUDIT_MESSAGE_MAX];
};

struct events {
    struct loop_timer timer;
    struct entry *all;
    size_t n, cap;
    uint64_t n_lost; /* there was no room for them */
};

static const char *const names[] = {
    [MB_EVENT_DEVICE_FAIL] = "modbusDeviceFail",
    [MB_EVENT_DEVICE_BACK] = "modbusDeviceBack",
    [MB_EVENT_COMMAND_FAIL] = "modbusCommandFail",
};

/* ---- words ---- */

static const char *
reason(const struct mb_event *e, char *room, size_t size)
{
    switch (e->quality) {
    case TAG_BAD_CONNECTION:
        return "no connection";
    case TAG_BAD_EXCEPTION:
        (void)snprintf(room, size, "exception %u (%s)", e->exception,
                       mb_exception_text(e->exception)); /* fits */
        return room;
    case TAG_BAD_REPLY:
        return "an invalid answer";
    default:
        return "no answer in time";
    }
}

/* Names of devices and commands are 128 bytes at most: it all fits. */
static void
describe(const struct mb_event *e, char message[AUDIT_MESSAGE_MAX])
{
    char room[80], left_out[60] = "";
    if (e->n_left_out > 0)
        (void)snprintf(left_out, sizeof(left_out), "; %u changes before were not recorded",
                       e->n_left_out);
    if (e->kind == MB_EVENT_DEVICE_BACK)
        (void)snprintf(message, AUDIT_MESSAGE_MAX, "device %s answers again%s", e->device,
                       left_out);
    else if (e->kind == MB_EVENT_DEVICE_FAIL)
        (void)snprintf(message, AUDIT_MESSAGE_MAX, "device %s fails: %s%s", e->device,
                       reason(e, room, sizeof(room)), left_out);
    else
        (void)snprintf(message, AUDIT_MESSAGE_MAX, "command %s of device %s fails: %s",
                       e->command, e->device, reason(e, room, sizeof(room)));
}

/* ---- keeping ---- */

static int
put_all(struct modbusd *d)
{
    struct events *events = d->events;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    int r = store_try_begin(d->svc->store, &txn);
    for (size_t i = 0; r == 0 && i < events->n; i++) {
        const struct entry *e = &events->all[i];
        char message[AUDIT_MESSAGE_MAX + 64];
        int len = snprintf(message, sizeof(message), "%s", e->message); /* fits */
        if (events->n_lost > 0 && i == events->n - 1)
            (void)snprintf(message + len, sizeof(message) - (size_t)len, /* cut, at the worst */
                           "; %" PRIu64 " events after it were not recorded", events->n_lost);
        struct audit_record record = { .event = e->event,
                                       .message = message,
                                       .detail = "",
                                       .source = "modbusd",
                                       .addr = "",
                                       .at_us = e->at_us };
        r = audit_put(d->svc->outbox, txn, &record);
    }
    return r < 0 ? r : store_commit(MOVE_PTR(txn));
}

/* What cannot be kept now is tried again. */
static void
flush(void *arg)
{
    struct modbusd *d = arg;
    struct events *events = d->events;
    if (events->n == 0)
        return;
    int r = put_all(d);
    if (r == 0) {
        audit_kick(d->svc->outbox);
        if (events->n_lost > 0)
            log_err("modbusd: events are not recorded n=%" PRIu64, events->n_lost);
        events->n = 0;
        events->n_lost = 0;
        return;
    }
    if (r != -EBUSY)
        log_err("modbusd: events are not recorded yet n=%zu error=%s", events->n, strerror(-r));
    /* Without memory for the timer: with the next event. */
    (void)loop_timer_set(d->svc->loop, &events->timer,
                         clock_mono_us() + (r == -EBUSY ? GATHER_US : AGAIN_US));
}

static bool
reserve(struct events *events)
{
    if (events->n < events->cap)
        return true;
    size_t cap = events->cap ? 2 * events->cap : 16;
    struct entry *all =
        cap <= EVENTS_MAX ? reallocarray(events->all, cap, sizeof(*events->all)) : NULL;
    if (!all)
        return false;
    events->all = all;
    events->cap = cap;
    return true;
}

void
modbusd_record(struct modbusd *d, const char *event, const char *message)
{
    struct events *events = d->events;
    if (!reserve(events)) {
        events->n_lost++;
        return;
    }
    struct entry *e = &events->all[events->n++];
    e->event = event;
    e->at_us = clock_wall_us();
    (void)snprintf(e->message, sizeof(e->message), "%s", message); /* as long */
    if (!loop_timer_is_set(&events->timer) &&
        loop_timer_set(d->svc->loop, &events->timer, clock_mono_us() + GATHER_US) < 0)
        flush(d);
}

void
modbusd_event(void *arg, const struct mb_event *event)
{
    char message[AUDIT_MESSAGE_MAX];
    describe(event, message);
    modbusd_record(arg, names[event->kind], message);
}

int
modbusd_events_new(struct modbusd *d)
{
    d->events = calloc(1, sizeof(*d->events));
    if (!d->events)
        return -ENOMEM;
    loop_timer_init(&d->events->timer, flush, d);
    return 0;
}

void
modbusd_events_free(struct modbusd *d)
{
    if (!d->events)
        return;
    if (d->svc->outbox)
        flush(d);
    loop_timer_cancel(d->svc->loop, &d->events->timer);
    free(d->events->all);
    free(d->events);
    d->events = NULL;
}
