/*
 * What modbusd knows of the ports: it is told when it comes up, and of each
 * change, until it has taken it (proto/README.md section 4, SERIAL_CHANGED).
 */
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "proto/internal.h"
#include "services/iod/iod.h"

#include "libcommon/banned.h"

enum {
    ASK_TIMEOUT_US = 3000000,
    AGAIN_US = 1000000,  /* modbusd is there and did not take it */
    BODY_MAX = 64 << 10, /* 32 ports */
};

static void
put_ports(const struct iod *d, struct buf *b)
{
    struct serial_port ports[SERIAL_PORTS_MAX];
    buf_init(b, BODY_MAX);
    serial_ports_encode(b, ports, ports_list(d, ports));
}

static void tell(struct iod *d);

static void
on_answer(void *arg, int error, const struct bus_reply *reply)
{
    struct iod *d = arg;
    struct told *t = &d->told;
    bool is_taken = error == 0 && reply->status == API_OK;
    t->is_busy = false;
    if (is_taken) {
        t->known = t->asked;
        tell(d);
        return;
    }
    log_warn("iod: modbusd did not take the serial ports error=%d status=%u", error,
             error == 0 ? reply->status : 0u);
    /* Without memory it is told when it comes up again, or of the next change. */
    (void)loop_timer_set(d->svc->loop, &t->again, loop_now_us(d->svc->loop) + AGAIN_US);
}

/* If there is something to tell and nothing under way. */
static void
tell(struct iod *d)
{
    struct told *t = &d->told;
    struct buf b;
    if (t->is_busy || t->known == t->wanted || !bus_peer_is_up(t->modbusd))
        return;
    put_ports(d, &b);
    struct bus_request request = {
        .kind = BUS_KIND_INTERNAL,
        .op = INTERNAL_SERIAL_CHANGED,
        .deadline_us = clock_mono_us() + ASK_TIMEOUT_US,
        .who = { .kind = BUS_WHO_DAEMON, .name = "iod" },
        .body_kind = BUS_BODY_JSON,
        .body = { b.data, (uint32_t)b.len },
    };
    t->asked = t->wanted;
    int r = b.err != 0 ? b.err : bus_call(t->modbusd, &request, on_answer, d);
    buf_done(&b);
    t->is_busy = r == 0;
    if (r < 0) /* as above */
        (void)loop_timer_set(d->svc->loop, &t->again, loop_now_us(d->svc->loop) + AGAIN_US);
}

static void
on_again(void *arg)
{
    tell(arg);
}

static void
on_modbusd(void *arg, bool up)
{
    if (up)
        told_change(arg); /* one that has just started knows nothing */
}

void
told_change(struct iod *d)
{
    d->told.wanted++;
    tell(d);
}

int
told_start(struct iod *d)
{
    struct told *t = &d->told;
    loop_timer_init(&t->again, on_again, d);
    int r = bus_peer(d->svc->bus, "modbusd", &t->modbusd);
    return r < 0 ? r : bus_peer_watch(t->modbusd, on_modbusd, d);
}

void
told_stop(struct iod *d)
{
    loop_timer_cancel(d->svc->loop, &d->told.again);
}
