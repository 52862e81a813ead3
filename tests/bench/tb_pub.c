/*
 * A provider on the tag bus as any daemon is one: libcommon's loop, bus and
 * tagbus, TAGS numbers of type uint64.
 *
 * usage: tb_pub DIR NAME TAGS RATE SECONDS    RATE samples/s, 0: as it can
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/loop.h"
#include "libcommon/tagbus.h"

enum { ROUND = 20000 }; /* samples of one round of the loop, at most */

struct provider {
    struct loop *loop;
    struct tag_pub *pub;
    uint32_t n_tags;
    uint64_t rate, seconds, began_us, took_us, sent;
    struct loop_timer timer;
};

static bool
tell_def(void *arg, size_t at, struct tag_def *ret_def)
{
    const struct provider *p = arg;
    if (at >= p->n_tags)
        return false;
    *ret_def = (struct tag_def){ .no = (uint32_t)at + 1,
                                 .type = TAG_UINT64,
                                 .access = TAG_ACCESS_READ,
                                 .interval_ms = 1,
                                 .provider = "bench",
                                 .source = "s" };
    (void)snprintf(ret_def->name, sizeof(ret_def->name), "t%zu", at + 1);
    return true;
}

static struct tag_sample
sample_now(const struct provider *p, uint64_t n, int64_t now)
{
    return (struct tag_sample){ .no = (uint32_t)(n % p->n_tags) + 1,
                                .quality = TAG_GOOD,
                                .ts_us = now,
                                .value = { .type = TAG_UINT64, .u = n } };
}

static bool
tell_last(void *arg, size_t at, struct tag_sample *ret_sample)
{
    const struct provider *p = arg;
    if (at >= p->n_tags)
        return false;
    *ret_sample = sample_now(p, at, clock_wall_us());
    return true;
}

static void
serve(void *arg, struct bus_incoming *in)
{
    struct provider *p = arg;
    if (tag_pub_serve(p->pub, in))
        return;
    struct bus_reply reply = { .id = bus_incoming_request(in)->id, .status = 404 };
    bus_answer(in, &reply);
}

/* All is sent, the last batch too. */
static void
finish(void *arg)
{
    const struct provider *p = arg;
    struct tag_pub_stats stats;
    tag_pub_get_stats(p->pub, &stats);
    printf("sent %llu in %llu us, batches %llu\n", (unsigned long long)p->sent,
           (unsigned long long)p->took_us, (unsigned long long)stats.batches);
    (void)fflush(stdout);
    _exit(0);
}

static void
work(void *arg)
{
    struct provider *p = arg;
    uint64_t now = clock_mono_us(), n = ROUND;
    if (p->began_us == 0)
        p->began_us = now;
    uint64_t elapsed = now - p->began_us;
    if (elapsed > p->seconds * 1000000u) {
        p->took_us = elapsed;
        p->timer.fn = finish;
        (void)loop_timer_set(p->loop, &p->timer, now + 500000);
        return;
    }
    if (p->rate != 0) {
        uint64_t due = p->rate * elapsed / 1000000u;
        n = due > p->sent ? due - p->sent : 0;
    }
    int64_t wall = clock_wall_us();
    for (uint64_t i = 0; i < n; i++) {
        struct tag_sample s = sample_now(p, p->sent++, wall);
        tag_pub_add(p->pub, &s);
    }
    (void)loop_timer_set(p->loop, &p->timer, p->rate != 0 ? now + 1000 : now);
}

static void
on_start(void *arg, uint32_t events)
{
    (void)events;
    struct provider *p = arg;
    char c;
    if (read(0, &c, 1) == 1 && p->began_us == 0)
        work(p);
}

int
main(int argc, char **argv)
{
    if (argc != 6)
        return 2;
    static struct provider p;
    p.n_tags = (uint32_t)strtoul(argv[3], NULL, 10);
    p.rate = strtoull(argv[4], NULL, 10);
    p.seconds = strtoull(argv[5], NULL, 10);
    log_open("tb_pub", LOG_LEVEL_WARN);
    struct bus *bus;
    struct loop_io *io;
    struct tag_pub_source source = { .def = tell_def, .last = tell_last, .arg = &p };
    int r = loop_new(&p.loop);
    if (r == 0)
        r = bus_open(p.loop, argv[1], NULL, 0, &bus);
    if (r == 0)
        r = tag_pub_open(bus, p.loop, argv[2], &source, &p.pub);
    if (r == 0)
        r = bus_serve(bus, argv[2], serve, &p);
    loop_timer_init(&p.timer, work, &p);
    if (r == 0)
        r = loop_io_add(p.loop, 0, 1 /* EPOLLIN */, on_start, &p, &io);
    if (r == 0) {
        puts("ready");
        (void)fflush(stdout);
        r = loop_run(p.loop);
    }
    (void)fprintf(stderr, "tb_pub: error %d\n", -r);
    _exit(1);
}
