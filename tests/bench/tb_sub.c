/*
 * A subscriber on the tag bus as any daemon is one: decodes every sample and
 * keeps the last value of each tag.
 *
 * usage: tb_sub DIR NAME SECONDS    SECONDS since the first sample
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/loop.h"
#include "libcommon/tagbus.h"

enum { TAGS = 65536 };

struct subscriber {
    uint64_t first_us, last_us, received, catalogues;
    struct tag_sub *sub;
    struct loop_timer timer;
    struct loop *loop;
    uint64_t seconds;
    struct {
        int64_t ts_us;
        uint64_t value;
        uint8_t quality;
    } last[TAGS];
};

static int
on_catalogue(void *arg, const char *daemon, const struct tag_def *defs, size_t n)
{
    (void)daemon;
    (void)defs;
    struct subscriber *s = arg;
    if (s->catalogues++ == 0 && n > 0) {
        puts("ready");
        (void)fflush(stdout);
    }
    return 0;
}

static void
on_samples(void *arg, const char *daemon, const struct tag_sample *samples, size_t n,
           bool snapshot)
{
    (void)daemon;
    struct subscriber *s = arg;
    for (size_t i = 0; i < n; i++) {
        if (samples[i].no >= TAGS)
            continue;
        s->last[samples[i].no].ts_us = samples[i].ts_us;
        s->last[samples[i].no].value = samples[i].value.u;
        s->last[samples[i].no].quality = samples[i].quality;
    }
    if (snapshot)
        return;
    s->last_us = clock_mono_us();
    if (s->first_us == 0) {
        s->first_us = s->last_us;
        (void)loop_timer_set(s->loop, &s->timer, s->first_us + s->seconds * 1000000u);
    }
    s->received += n;
}

static void
on_presence(void *arg, const char *daemon, bool up)
{
    (void)arg;
    (void)daemon;
    (void)up;
}

static void
finish(void *arg)
{
    struct subscriber *s = arg;
    struct tag_sub_stats stats;
    tag_sub_get_stats(s->sub, &stats);
    printf("received %llu lost_batches %llu of %llu snapshots %llu in %llu us\n",
           (unsigned long long)s->received, (unsigned long long)stats.lost_batches,
           (unsigned long long)stats.batches, (unsigned long long)stats.snapshots,
           (unsigned long long)(s->last_us - s->first_us));
    (void)fflush(stdout);
    _exit(0);
}

int
main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    static struct subscriber s;
    s.seconds = strtoull(argv[3], NULL, 10);
    log_open("tb_sub", LOG_LEVEL_ERR);
    struct bus *bus;
    struct tag_sub_events events = {
        .catalogue = on_catalogue, .samples = on_samples, .presence = on_presence, .arg = &s
    };
    int r = loop_new(&s.loop);
    if (r == 0)
        r = bus_open(s.loop, argv[1], NULL, 0, &bus);
    loop_timer_init(&s.timer, finish, &s);
    if (r == 0)
        r = tag_sub_open(bus, s.loop, argv[2], &events, &s.sub);
    if (r == 0)
        r = loop_run(s.loop);
    (void)fprintf(stderr, "tb_sub: error %d\n", -r);
    _exit(1);
}
