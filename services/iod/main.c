/*
 * iod: see iod.h.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/log.h"
#include "libcommon/metrics.h"
#include "proto/internal.h"
#include "services/iod/iod.h"

#include "libcommon/banned.h"

static struct metric_counter ports_here = { .name = "fieldgate_serial_ports",
                                            .help = "Serial ports that are there.",
                                            .gauge = true };

static void
count_ports(const struct iod *d)
{
    struct serial_port ports[SERIAL_PORTS_MAX];
    metric_set(&ports_here, ports_list(d, ports));
}

/* An adapter was plugged in or pulled. */
static void
on_ports(void *self)
{
    struct iod *d = self;
    int r = ports_look(d);
    if (r < 0) {
        log_err("iod: cannot take the serial ports up error=%s", strerror(-r));
        return;
    }
    count_ports(d);
    told_change(d);
}

static int
iod_open(void *self, struct svc *svc)
{
    struct iod *d = self;
    char dir[PATH_MAX];
    d->svc = svc;
    loop_timer_init(&d->look, on_ports, d);
    if (svc->profile != SVC_PROFILE_BENCH)
        return 0;
    int n = snprintf(dir, sizeof(dir), "%s/dev", svc->state_dir);
    int r = n < 0 || (size_t)n >= sizeof(dir) ? -ENAMETOOLONG
                                              : bench_new(svc->loop, dir, &d->bench);
    if (r < 0)
        log_err("iod: cannot make the lines of the bench error=%s", strerror(-r));
    return r;
}

static int
iod_start(void *self, struct svc *svc)
{
    struct iod *d = self;
    int r = ports_load(d);
    if (r == 0 && svc->profile == SVC_PROFILE_DEVICE && d->listed == NULL)
        r = sys_watch_new(svc->loop, "/dev", on_ports, d, &d->watch);
    if (r == 0)
        r = ports_look(d);
    if (r == 0)
        r = told_start(d);
    if (r < 0) {
        log_err("iod: cannot start error=%s", strerror(-r));
        return r;
    }
    metric_register(&ports_here);
    count_ports(d);
    return 0;
}

static void
iod_stop(void *self, struct svc *svc)
{
    struct iod *d = self;
    if (d->told.modbusd != NULL)
        told_stop(d);
    loop_timer_cancel(svc->loop, &d->look);
    sys_watch_free(d->watch);
    d->watch = NULL;
    bench_free(d->bench);
    d->bench = NULL;
}

static int
set_ports(void *self, const char *value)
{
    static struct sys_port ports[SERIAL_PORTS_MAX];
    ((struct iod *)self)->listed = value;
    return sys_listed(value, ports) < 0 ? -EINVAL : 0;
}

int
main(int argc, char **argv)
{
    static const struct svc_option options[] = {
        { "serial-ports", "comma list of ttys (default: those that are found)", set_ports },
        { NULL, NULL, NULL },
    };
    static const struct svc_info info = {
        .name = "iod",
        .ops = iod_ops,
        .n_ops = &iod_n_ops,
        .options = options,
        .dbs = iod_dbs,
        .n_dbs = IOD_N_DBS,
        .schema = 1,
        .open = iod_open,
        .start = iod_start,
        .stop = iod_stop,
    };
    static struct iod iod;
    return svc_main(&info, &iod, argc, argv);
}
