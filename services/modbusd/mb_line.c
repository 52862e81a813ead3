#include "services/modbusd/mb_line.h"

#include <errno.h>
#include <linux/serial.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "libcommon/banned.h"

static struct mb_line *
line_of(struct mb_conn *c)
{
    return CONTAINER_OF(c, struct mb_line, conn);
}

static uint64_t
chars_us(const struct mb_line *l, uint64_t n)
{
    return (n * l->char_ns + 999) / 1000;
}

/* The intervals of 2.5.1.1 and 2.5.2.1 at this baud rate. */
static void
set_intervals(struct mb_line *l)
{
    const struct mb_line_config *cfg = &l->cfg;
    l->framing = cfg->ascii ? &mb_ascii : &mb_rtu;
    if (cfg->device[0] == '\0')
        return; /* nothing is timed, and there are no settings */
    l->char_ns = serial_char_ns(&cfg->settings);
    l->frame_us = cfg->frame_interval_ms
                      ? cfg->frame_interval_ms * 1000ull
                      : mb_rtu_silence_us(cfg->settings.baud_rate, l->char_ns);
    l->gap_us = cfg->char_interval_ms ? cfg->char_interval_ms * 1000ull
                : cfg->ascii          ? MB_ASCII_CHAR_US
                                      : l->frame_us + MB_LUMP_US;
}

/* ---- time ---- */

/* When nothing can be awaited any more: an answer that has begun may take all the time it
 * needs. */
static uint64_t
answer_by(const struct mb_line *l)
{
    uint64_t by = l->conn.slots[0].deadline_us;
    return l->begun ? by + chars_us(l, MB_SERIAL_MAX) + l->gap_us : by;
}

/* When something is to be done without anything being heard. */
static uint64_t
next_time(const struct mb_line *l)
{
    const struct mb_slot *slot = &l->conn.slots[0];
    switch (l->phase) {
    case MB_LINE_QUEUED:
        return l->quiet_us < slot->deadline_us ? l->quiet_us : slot->deadline_us;
    case MB_LINE_SENDING:
        return l->gone_us;
    case MB_LINE_AWAITING:
        if (l->conn.n_in > 0 && l->heard_us + l->gap_us < answer_by(l))
            return l->heard_us + l->gap_us;
        return answer_by(l);
    case MB_LINE_IDLE:
        break;
    }
    return 0;
}

static void
set_timer(struct mb_line *l)
{
    uint64_t next = next_time(l);
    if (l->conn.state == MB_CONN_OPEN && next)
        mb_conn_set_timer(&l->conn, next);
}

/* ---- the end of a request ---- */

static void
count(struct mb_line *l, enum mb_done done)
{
    struct mb_conn_counters *all = l->conn.counters;
    switch (done) {
    case MB_DONE_OK:
        l->stats.valid++;
        all->replies++;
        break;
    case MB_DONE_EXCEPTION:
        l->stats.exceptions++;
        all->exceptions++;
        break;
    case MB_DONE_BAD:
        l->stats.invalid++;
        all->bad++;
        break;
    case MB_DONE_TIMEOUT:
        l->stats.timeouts++;
        all->timeouts++;
        break;
    case MB_DONE_LOST:
        break;
    }
}

static void
end(struct mb_line *l, struct mb_result *r)
{
    count(l, r->done);
    l->phase = MB_LINE_IDLE;
    l->quiet_us = r->now_us + l->frame_us;
    l->conn.n_in = 0;
    if (r->done == MB_DONE_OK || r->done == MB_DONE_EXCEPTION) {
        l->conn.useful = true;
        l->conn.failures = 0;
    }
    mb_conn_end(&l->conn, &l->conn.slots[0], r);
}

static void
end_without(struct mb_line *l, enum mb_done done)
{
    struct mb_result r = { .done = done, .now_us = clock_mono_us() };
    end(l, &r);
}

/*
 * No use any more: what is in flight is not the fault of its unit. What the
 * driver still holds is thrown away, or close() would wait for it to leave.
 */
static void
lose(struct mb_line *l)
{
    struct mb_conn *c = &l->conn;
    if (c->fd >= 0)
        (void)tcflush(c->fd, TCIOFLUSH);
    mb_conn_close(c);
    uint64_t now = clock_mono_us();
    c->state = MB_CONN_WAITING;
    l->phase = MB_LINE_IDLE;
    l->failed = false;
    mb_conn_set_timer(c, now + mb_conn_pause_us(c));
    struct mb_result r = { .done = MB_DONE_LOST, .by_us = true, .now_us = now };
    if (c->slots[0].used)
        mb_conn_end(c, &c->slots[0], &r);
    mb_conn_enter(c, MB_CONN_WAITING);
    c->useful = false;
}

/* ---- the traffic log ---- */

static void
note(struct mb_line *l, bool sent, enum traffic_error error, enum traffic_fault fault,
     const uint8_t *bytes, size_t n)
{
    struct traffic_frame f = { .framing = l->cfg.ascii ? TRAFFIC_ASCII : TRAFFIC_RTU,
                               .role = TRAFFIC_MASTER,
                               .sent = sent,
                               .request = sent,
                               .error = error,
                               .fault = fault,
                               .bytes = bytes,
                               .n = n };
    if (n > 0)
        traffic_note(l->conn.traffic, &f);
}

/* Without what was on the line before it. */
static void
note_answer(struct mb_line *l, const struct mb_serial_frame *f, enum mb_done done)
{
    uint8_t bytes[MB_SERIAL_MAX];
    const struct mb_slot *slot = &l->conn.slots[0];
    size_t n = l->framing->encode(slot->unit, f->pdu, f->n, bytes);
    bool bad = done == MB_DONE_BAD;
    note(l, false, bad ? TRAFFIC_INVALID : TRAFFIC_NO_ERROR,
         bad ? traffic_fault_of(slot->head, f->pdu, f->n) : TRAFFIC_NO_FAULT, bytes, n);
}

/* ---- hearing ---- */

/* Can the answer to this function equal its request? */
static bool
answer_is_copy(uint8_t func)
{
    return func == MB_WRITE_COIL || func == MB_WRITE_REG;
}

/*
 * Is the copy of the request that was heard its echo? With functions 5 and 6 it
 * may be the answer: then what was seen with others tells. While there is
 * nothing, time does: no unit can have answered before the request had left, the
 * line had been silent and the answer had been sent. Where no UART counts the
 * bits, time tells nothing; there is no line either that could echo.
 */
static bool
is_echo(const struct mb_line *l, uint8_t func)
{
    if (!answer_is_copy(func) || l->echo == MB_ECHO_ALWAYS)
        return true;
    return l->echo == MB_ECHO_UNKNOWN && l->has_uart &&
           l->heard_us < l->gone_us + l->frame_us + chars_us(l, l->n_out);
}

/* Takes our own request out of what was heard, and what was before it. */
static void
drop_echo(struct mb_line *l)
{
    struct mb_conn *c = &l->conn;
    const uint8_t *at = memmem(c->in, c->n_in, l->out, l->n_out);
    if (l->heard_echo || !at || !is_echo(l, c->slots[0].head[0]))
        return;
    l->heard_echo = true;
    size_t n = (size_t)(at - c->in) + l->n_out;
    l->stats.noise += n - l->n_out;
    memmove(c->in, c->in + n, c->n_in - n);
    c->n_in = (uint16_t)(c->n_in - n);
}

/* An answer was good: now it is known whether the line echoes. */
static void
learn_echo(struct mb_line *l, uint8_t func)
{
    if (l->heard_echo)
        l->echo = MB_ECHO_ALWAYS;
    else if (!answer_is_copy(func))
        l->echo = MB_ECHO_NONE;
}

static void
take_frame(struct mb_line *l, const struct mb_serial_frame *f)
{
    const struct mb_slot *slot = &l->conn.slots[0];
    uint8_t func = slot->head[0];
    struct mb_result r = { .done = MB_DONE_BAD, .now_us = clock_mono_us() };
    mb_result_judge(&r, slot->head, f->pdu, f->n);
    if (r.done != MB_DONE_BAD)
        learn_echo(l, func);
    if (traffic_is_on(l->conn.traffic))
        note_answer(l, f, r.done);
    end(l, &r);
}

/* What was heard since the request; 'quiet': and no more comes. */
static void
take(struct mb_line *l, bool quiet)
{
    struct mb_conn *c = &l->conn;
    struct mb_awaited a = { .unit = c->slots[0].unit };
    struct mb_serial_frame frame;
    memcpy(a.head, c->slots[0].head, sizeof(a.head));
    drop_echo(l);
    enum mb_seen seen = l->framing->look(&a, c->in, c->n_in, quiet, &frame);
    l->begun = seen == MB_SEEN_PART;
    switch (seen) {
    case MB_SEEN_FRAME:
        take_frame(l, &frame);
        return;
    case MB_SEEN_CORRUPT:
        note(l, false, TRAFFIC_INVALID, TRAFFIC_UNFRAMEABLE, c->in, c->n_in);
        l->stats.checksum++;
        end_without(l, MB_DONE_BAD);
        return;
    case MB_SEEN_FOREIGN:
        note(l, false, TRAFFIC_OTHER_SERVER, TRAFFIC_UNASKED, c->in, c->n_in);
        l->stats.foreign++;
        c->counters->late++;
        c->n_in = 0;
        break;
    case MB_SEEN_NOTHING:
        if (quiet) {
            note(l, false, TRAFFIC_INVALID, TRAFFIC_UNFRAMEABLE, c->in, c->n_in);
            l->stats.noise += c->n_in;
            c->n_in = 0;
        }
        break;
    case MB_SEEN_PART:
        break;
    }
}

/* Nobody asked: whoever talks must have ended before we do. */
static void
pass_over(struct mb_line *l, size_t n)
{
    note(l, false, TRAFFIC_UNKNOWN, TRAFFIC_UNASKED, l->conn.in, l->conn.n_in);
    l->stats.noise += n;
    l->conn.n_in = 0;
    l->begun = false;
    l->quiet_us = l->heard_us + l->frame_us;
}

static void
on_heard(struct mb_line *l, size_t n)
{
    struct mb_conn *c = &l->conn;
    l->heard_us = clock_mono_us();
    c->n_in = (uint16_t)(c->n_in + n);
    bool waits = l->phase == MB_LINE_SENDING || l->phase == MB_LINE_AWAITING;
    if (!waits || c->slots[0].unit == 0) {
        pass_over(l, n);
        return;
    }
    take(l, false);
    if (c->n_in == sizeof(c->in)) /* longer than any answer */
        pass_over(l, c->n_in);
}

/* False: the port was lost. */
static bool
read_all(struct mb_line *l)
{
    struct mb_conn *c = &l->conn;
    for (;;) {
        ssize_t n = read(c->fd, c->in + c->n_in, sizeof(c->in) - c->n_in);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return true;
        if (n <= 0) {
            log_debug("modbus: port lost %s error=%s", c->name,
                      n < 0 ? strerror(errno) : "end");
            lose(l);
            return false;
        }
        on_heard(l, (size_t)n);
        if (c->state != MB_CONN_OPEN)
            return false;
    }
}

/* ---- sending ---- */

/* As much as the driver takes; the rest when it says so. */
static void
write_some(struct mb_line *l)
{
    struct mb_conn *c = &l->conn;
    ssize_t n = write(c->fd, l->out + l->n_written, (size_t)(l->n_out - l->n_written));
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        l->failed = true; /* told from the timer, never from inside mb_conn_send */
        mb_conn_set_timer(c, clock_mono_us());
        return;
    }
    l->n_written = (uint16_t)(l->n_written + (n > 0 ? n : 0));
    bool all = l->n_written == l->n_out;
    if (loop_io_change(c->io, all ? EPOLLIN : EPOLLIN | EPOLLOUT) < 0)
        l->failed = true;
    l->gone_us = clock_mono_us() + chars_us(l, l->n_out);
    set_timer(l);
}

static void
begin_to_send(struct mb_line *l)
{
    struct mb_conn *c = &l->conn;
    (void)tcflush(c->fd, TCIFLUSH); /* what it cannot drop is read and passed over */
    c->n_in = 0;
    l->phase = MB_LINE_SENDING;
    l->heard_echo = l->begun = false;
    l->n_written = 0;
    c->slots[0].sent_us = c->slots[0].begun_us = clock_mono_us();
    note(l, true, c->again ? TRAFFIC_RESEND : TRAFFIC_NO_ERROR, TRAFFIC_NO_FAULT, l->out,
         l->n_out);
    write_some(l);
}

/* Bytes that the driver has not sent yet; ptys have none. */
static unsigned
not_sent(const struct mb_line *l)
{
    int n = 0;
    if (ioctl(l->conn.fd, TIOCOUTQ, &n) < 0 || n < 0)
        n = 0;
    return (unsigned)n + (unsigned)(l->n_out - l->n_written);
}

/* What the driver holds back is not to leave when nobody waits for its answer any more. */
static void
give_up_sending(struct mb_line *l)
{
    struct mb_conn *c = &l->conn;
    (void)tcflush(c->fd, TCOFLUSH); /* what it cannot drop leaves late */
    if (loop_io_change(c->io, EPOLLIN) < 0)
        l->failed = true;
    end_without(l, MB_DONE_TIMEOUT);
}

/* It should have left. A driver that holds it back (flow control) has the time-out for it. */
static void
on_gone(struct mb_line *l, uint64_t now)
{
    struct mb_slot *slot = &l->conn.slots[0];
    unsigned n = not_sent(l);
    if (n > 0 && now < slot->sent_us + chars_us(l, l->n_out) + l->timeout_us) {
        l->gone_us = now + chars_us(l, n);
        return;
    }
    if (n > 0) {
        give_up_sending(l);
        return;
    }
    l->phase = MB_LINE_AWAITING;
    slot->begun_us = slot->sent_us;
    slot->deadline_us = l->gone_us + (slot->unit == 0 ? MB_TURNAROUND_US : l->timeout_us);
}

static void
on_awaiting(struct mb_line *l, uint64_t now)
{
    if (l->conn.n_in > 0 && now >= l->heard_us + l->gap_us)
        take(l, true);
    if (l->phase == MB_LINE_AWAITING && now >= answer_by(l))
        end_without(l, l->conn.slots[0].unit == 0 ? MB_DONE_OK : MB_DONE_TIMEOUT);
}

static void
on_time(struct mb_line *l, uint64_t now)
{
    switch (l->phase) {
    case MB_LINE_QUEUED:
        if (now >= l->conn.slots[0].deadline_us)
            end_without(l, MB_DONE_TIMEOUT);
        else if (now >= l->quiet_us)
            begin_to_send(l);
        break;
    case MB_LINE_SENDING:
        if (now >= l->gone_us)
            on_gone(l, now);
        break;
    case MB_LINE_AWAITING:
        on_awaiting(l, now);
        break;
    case MB_LINE_IDLE:
        break;
    }
}

static void
on_io(void *arg, uint32_t events)
{
    struct mb_line *l = arg;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !read_all(l))
        return;
    if (events & EPOLLOUT && l->phase == MB_LINE_SENDING && l->n_written < l->n_out)
        write_some(l);
    set_timer(l);
}

/* ---- opening ---- */

static bool
driver_counts(int fd, struct serial_icounter_struct *ret_counts)
{
    return fd >= 0 && ioctl(fd, TIOCGICOUNT, ret_counts) == 0;
}

static int
open_port(struct mb_line *l)
{
    struct mb_conn *c = &l->conn;
    struct serial_icounter_struct counts;
    int r = l->cfg.device[0] ? serial_open(l->cfg.device, &l->cfg.settings, &c->fd) : -ENOENT;
    if (r == 0)
        r = loop_io_add(c->loop, c->fd, EPOLLIN, on_io, l, &c->io);
    if (r < 0)
        return r;
    l->has_uart = driver_counts(c->fd, &counts);
    return 0;
}

static void
open_now(struct mb_line *l)
{
    struct mb_conn *c = &l->conn;
    int r = open_port(l);
    if (r < 0) {
        log_debug("modbus: cannot open %s error=%s", c->name, strerror(-r));
        c->counters->connect_failures++;
        lose(l);
        return;
    }
    c->counters->connects++;
    c->useful = false;
    l->phase = MB_LINE_IDLE;
    l->echo = MB_ECHO_UNKNOWN;
    l->quiet_us = clock_mono_us() + l->frame_us;
    mb_conn_enter(c, MB_CONN_OPEN);
    set_timer(l);
}

static void
on_timer(void *arg)
{
    struct mb_line *l = line_of(arg);
    if (l->conn.state == MB_CONN_WAITING) {
        open_now(l);
        return;
    }
    if (l->conn.state != MB_CONN_OPEN)
        return;
    if (l->failed) {
        lose(l);
        return;
    }
    /* After a stall of the loop the answer may be here and not be read yet. */
    if (!read_all(l))
        return;
    on_time(l, clock_mono_us());
    set_timer(l);
}

/* ---- as a kind of connection ---- */

static void
line_start(struct mb_conn *c)
{
    c->failures = 0;
    c->state = MB_CONN_WAITING;
    mb_conn_set_timer(c, clock_mono_us());
}

static void
line_stop(struct mb_conn *c)
{
    struct mb_line *l = line_of(c);
    if (c->fd >= 0)
        (void)tcflush(c->fd, TCIOFLUSH); /* close() would wait for it to leave */
    mb_conn_close(c);
    memset(c->slots, 0, sizeof(c->slots));
    c->n_in_flight = 0;
    c->state = MB_CONN_STOPPED;
    l->phase = MB_LINE_IDLE;
}

static void
line_send(struct mb_conn *c, uint8_t unit, const uint8_t *pdu, size_t n, uint64_t timeout_us,
          void *owner)
{
    struct mb_line *l = line_of(c);
    MUST(mb_conn_can_send(c) && c->n_in_flight == 0 && n >= MB_HEAD_SIZE);
    uint64_t now = clock_mono_us();
    struct mb_slot *slot = &c->slots[0];
    *slot = (struct mb_slot){ .owner = owner,
                              .used = true,
                              .unit = unit,
                              .sent_us = now,
                              .begun_us = now,
                              .deadline_us = now + l->frame_us + timeout_us };
    memcpy(slot->head, pdu, MB_HEAD_SIZE);
    c->n_in_flight = 1;
    c->counters->requests++;
    l->stats.sent++;
    l->timeout_us = timeout_us;
    l->n_out = (uint16_t)l->framing->encode(unit, pdu, n, l->out);
    l->phase = MB_LINE_QUEUED;
    if (now >= l->quiet_us)
        begin_to_send(l);
    set_timer(l);
}

static bool
same_port(const struct mb_line_config *a, const struct mb_line_config *b)
{
    return str_eq(a->device, b->device) && serial_settings_equal(&a->settings, &b->settings) &&
           a->ascii == b->ascii;
}

void
mb_line_init(struct mb_line *line, struct loop *loop, const struct mb_line_config *cfg,
             const struct mb_conn_events *events, struct mb_conn_counters *counters)
{
    static const struct mb_conn_kind kind = { line_start, line_stop, line_send };
    memset(line, 0, sizeof(*line));
    mb_conn_init(&line->conn, &kind, loop, cfg->device, on_timer, events, counters);
    mb_line_configure(line, cfg);
}

void
mb_line_configure(struct mb_line *line, const struct mb_line_config *cfg)
{
    struct mb_conn *c = &line->conn;
    bool same = same_port(&line->cfg, cfg);
    line->cfg = *cfg;
    (void)snprintf(c->name, sizeof(c->name), "device=%s", cfg->device); /* for the log */
    if (c->state == MB_CONN_OPEN && !same)
        lose(line);
    set_intervals(line);
    if (c->state == MB_CONN_WAITING && !same) {
        c->failures = 0;
        mb_conn_set_timer(c, clock_mono_us());
    }
}

void
mb_line_get_stats(const struct mb_line *line, struct mb_line_stats *ret_stats)
{
    struct serial_icounter_struct counts;
    *ret_stats = line->stats;
    ret_stats->mode = line->framing->name;
    if (!driver_counts(line->conn.fd, &counts))
        return;
    ret_stats->has_uart = true;
    ret_stats->breaks = (uint64_t)counts.brk;
    ret_stats->frame_errors = (uint64_t)counts.frame;
    ret_stats->parity_errors = (uint64_t)counts.parity;
    ret_stats->overruns = (uint64_t)counts.overrun + (uint64_t)counts.buf_overrun;
}
