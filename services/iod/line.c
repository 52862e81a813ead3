/*
 * The wire of line.h. A character that was written while the wire is free
 * arrives one character time later, the next one another character time after
 * it, and so on: deadlines are absolute, so that nothing adds up. Where
 * characters are shorter than STEP_NS they are handed over in groups, as the
 * FIFO of a UART does, the last of a frame exactly at its time.
 *
 * The masters of the ptys are watched edge-triggered: one whose other end
 * nobody has open is hung up all the time, and would keep the loop awake.
 */
#include "services/iod/line.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

enum {
    QUEUE_SIZE = 4096, /* as a tty has; then the writer waits */
    STEP_NS = 200000,
};

/* From the pty that somebody writes to the one that somebody reads from. */
struct way {
    struct line *line;
    int from, to; /* masters */
    struct loop_io *io;
    struct loop_timer timer;
    uint64_t due_ns;  /* with characters: when the first of them has arrived */
    uint64_t free_ns; /* without: since when the wire is free */
    size_t first, n;  /* of the ring */
    uint8_t ring[QUEUE_SIZE];
};

struct line {
    struct loop *loop;
    uint64_t char_ns;
    int masters[2]; /* near, far */
    char links[2][PATH_MAX];
    struct way ways[2];
    struct line_stats stats;
};

static uint64_t
now_ns(void)
{
    return clock_mono_us() * 1000;
}

/* ---- carrying ---- */

static void
arm(struct way *w)
{
    uint64_t char_ns = w->line->char_ns, at_ns = w->due_ns;
    if (w->n == 0)
        return;
    if (char_ns < STEP_NS) {
        uint64_t rest_ns = (w->n - 1) * char_ns;
        at_ns += rest_ns < STEP_NS ? rest_ns : STEP_NS;
    }
    /* Without memory the next write sets it: the loop makes room for its timers once. */
    (void)loop_timer_set(w->line->loop, &w->timer, (at_ns + 999) / 1000);
}

/* What was written, as far as there is room. */
static void
take(struct way *w)
{
    while (w->n < QUEUE_SIZE) {
        size_t at = (w->first + w->n) % QUEUE_SIZE;
        size_t room = at < w->first ? w->first - at : QUEUE_SIZE - at;
        ssize_t got = read(w->from, w->ring + at, room);
        if (got <= 0)
            break; /* nothing there, or nobody has it open */
        uint64_t now = now_ns();
        if (w->n == 0)
            w->due_ns = (now > w->free_ns ? now : w->free_ns) + w->line->char_ns;
        w->n += (size_t)got;
    }
    if (!loop_timer_is_set(&w->timer))
        arm(w);
}

static void
on_written(void *arg, uint32_t events)
{
    (void)events;
    take(arg);
}

static bool
is_open(int master)
{
    struct pollfd p = { .fd = master };
    return poll(&p, 1, 0) == 0;
}

/* To who reads; what he does not take is lost, as on a wire. */
static void
hand_over(struct way *w, size_t n)
{
    bool listens = is_open(w->to);
    while (n > 0) {
        size_t part = n < QUEUE_SIZE - w->first ? n : QUEUE_SIZE - w->first;
        ssize_t put = listens ? write(w->to, w->ring + w->first, part) : -1;
        size_t carried = put < 0 ? 0 : (size_t)put;
        w->line->stats.carried += carried;
        w->line->stats.lost += part - carried;
        w->first = (w->first + part) % QUEUE_SIZE;
        w->n -= part;
        n -= part;
    }
}

static void
on_due(void *arg)
{
    struct way *w = arg;
    uint64_t now = now_ns(), char_ns = w->line->char_ns;
    if (w->due_ns <= now) {
        uint64_t n = (now - w->due_ns) / char_ns + 1;
        if (n > w->n)
            n = w->n;
        w->due_ns += n * char_ns;
        w->free_ns = w->due_ns - char_ns;
        hand_over(w, (size_t)n);
    }
    take(w);
}

void
line_set(struct line *line, const struct serial_settings *settings)
{
    line->char_ns = serial_char_ns(settings);
}

void
line_get_stats(const struct line *line, struct line_stats *ret_stats)
{
    *ret_stats = line->stats;
}

/* ---- the ptys ---- */

/* In one step, so that the name always leads somewhere. */
static int
make_link(const char *target, const char *name)
{
    char temporary[PATH_MAX];
    int n = snprintf(temporary, sizeof(temporary), "%s.new", name);
    if (n < 0 || (size_t)n >= sizeof(temporary))
        return -ENAMETOOLONG;
    if (unlink(temporary) < 0 && errno != ENOENT)
        return -errno;
    if (symlink(target, temporary) < 0 || rename(temporary, name) < 0)
        return -errno;
    return 0;
}

/*
 * Sets the other end up once: it is raw for who opens it without doing so, and
 * from here on shows whether somebody has it open.
 */
static int
open_pty(const struct serial_settings *settings, const char *link_name, int *ret_master)
{
    char name[64];
    int slave = -1, r = 0;
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (master < 0)
        return -errno;
    if (grantpt(master) < 0 || unlockpt(master) < 0)
        r = -errno;
    if (r == 0)
        r = -ptsname_r(master, name, sizeof(name));
    if (r == 0)
        r = serial_open(name, settings, &slave);
    if (r == 0) {
        (void)close(slave); /* nothing was written */
        r = make_link(name, link_name);
    }
    if (r < 0)
        (void)close(master); /* as above */
    else
        *ret_master = master;
    return r;
}

static int
start_way(struct line *line, unsigned from)
{
    struct way *w = &line->ways[from];
    w->line = line;
    w->from = line->masters[from];
    w->to = line->masters[1 - from];
    loop_timer_init(&w->timer, on_due, w);
    return loop_io_add(line->loop, w->from, EPOLLIN | EPOLLET, on_written, w, &w->io);
}

int
line_new(struct loop *loop, const char *near_link, const char *far_link,
         const struct serial_settings *settings, struct line **ret_line)
{
    const char *const names[2] = { near_link, far_link };
    struct line *line = calloc(1, sizeof(*line));
    if (line == NULL)
        return -ENOMEM;
    line->loop = loop;
    line->masters[0] = line->masters[1] = -1;
    line_set(line, settings);
    int r = 0;
    for (unsigned i = 0; i < 2 && r == 0; i++) {
        r = str_copy(line->links[i], sizeof(line->links[i]), names[i]);
        if (r == 0)
            r = open_pty(settings, names[i], &line->masters[i]);
    }
    for (unsigned i = 0; i < 2 && r == 0; i++)
        r = start_way(line, i);
    if (r < 0) {
        line_free(line);
        return r;
    }
    *ret_line = line;
    return 0;
}

void
line_free(struct line *line)
{
    if (line == NULL)
        return;
    for (unsigned i = 0; i < 2; i++) {
        loop_timer_cancel(line->loop, &line->ways[i].timer);
        loop_io_remove(line->ways[i].io);
        if (line->masters[i] < 0)
            continue;
        (void)unlink(line->links[i]);  /* leads nowhere from here on */
        (void)close(line->masters[i]); /* what was on the wire is lost */
    }
    free(line);
}
