/*
 * The bench profile has two ports, P1 and P2. Programs open
 * <state>/iod/dev/ttyM0 and ttyM1; whoever plays the device at the other end
 * of the line opens line0 and line1 beside them.
 */
#include "services/iod/sys.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "libcommon/base.h"
#include "libcommon/metrics.h"
#include "libcommon/str.h"
#include "services/iod/line.h"

#include "libcommon/banned.h"

enum { N_LINES = 2 };

struct bench {
    struct line *lines[N_LINES];
    char devices[N_LINES][SERIAL_DEVICE_SIZE];
};

static struct metric_counter carried[N_LINES] = {
    { .name = "fieldgate_serial_line_bytes_total",
      .help = "Characters that the lines of the bench carried.",
      .labels = "port=\"P1\"" },
    { .name = "fieldgate_serial_line_bytes_total",
      .help = "Characters that the lines of the bench carried.",
      .labels = "port=\"P2\"" },
};
static struct metric_counter lost[N_LINES] = {
    { .name = "fieldgate_serial_line_lost_bytes_total",
      .help = "Characters that nobody was there to read.",
      .labels = "port=\"P1\"" },
    { .name = "fieldgate_serial_line_lost_bytes_total",
      .help = "Characters that nobody was there to read.",
      .labels = "port=\"P2\"" },
};

static void
count(void *arg)
{
    const struct bench *b = arg;
    for (size_t i = 0; i < N_LINES; i++) {
        struct line_stats s;
        line_get_stats(b->lines[i], &s);
        metric_set(&carried[i], s.carried);
        metric_set(&lost[i], s.lost);
    }
}

static int
make_line(struct bench *b, struct loop *loop, const char *dir, size_t i)
{
    static const struct serial_settings settings = { .baud_rate = 9600,
                                                     .data_bits = 8,
                                                     .stop_half_bits = 2 };
    char far[PATH_MAX];
    int n = snprintf(b->devices[i], sizeof(b->devices[i]), "%s/ttyM%zu", dir, i);
    int m = snprintf(far, sizeof(far), "%s/line%zu", dir, i);
    if (n < 0 || (size_t)n >= sizeof(b->devices[i]) || m < 0 || (size_t)m >= sizeof(far))
        return -ENAMETOOLONG;
    return line_new(loop, b->devices[i], far, &settings, &b->lines[i]);
}

int
bench_new(struct loop *loop, const char *dir, struct bench **ret_bench)
{
    struct bench *b = calloc(1, sizeof(*b));
    if (b == NULL)
        return -ENOMEM;
    int r = mkdir(dir, 0750) < 0 && errno != EEXIST ? -errno : 0;
    for (size_t i = 0; i < N_LINES && r == 0; i++)
        r = make_line(b, loop, dir, i);
    if (r < 0) {
        bench_free(b);
        return r;
    }
    for (size_t i = 0; i < N_LINES; i++) {
        metric_register(&carried[i]);
        metric_register(&lost[i]);
    }
    metric_on_dump(count, b);
    *ret_bench = b;
    return 0;
}

void
bench_free(struct bench *b)
{
    for (size_t i = 0; b != NULL && i < N_LINES; i++)
        line_free(b->lines[i]);
    free(b);
}

int
bench_find(const struct bench *b, struct sys_port ret_ports[SERIAL_PORTS_MAX])
{
    for (size_t i = 0; i < N_LINES; i++) {
        struct sys_port *p = &ret_ports[i];
        *p = (struct sys_port){ .can_rs485 = true, .baud_max = SERIAL_BAUD_MAX };
        (void)snprintf(p->location, sizeof(p->location), "bench/%zu", i); /* fits */
        (void)str_copy(p->device, sizeof(p->device), b->devices[i]);      /* as long */
    }
    return N_LINES;
}

void
bench_set(struct bench *b, const char *device, const struct serial_settings *settings)
{
    for (size_t i = 0; i < N_LINES; i++)
        if (str_eq(b->devices[i], device))
            line_set(b->lines[i], settings);
}
