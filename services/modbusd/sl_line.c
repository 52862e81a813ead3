#include "services/modbusd/sl_line.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <termios.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "services/modbusd/mb_serial.h"
#include "libcommon/banned.h"

enum {
    ALL_UNITS = 0,
    IN_SIZE = 2 * MB_SERIAL_MAX,
};

struct sl_line {
    struct loop *loop;
    struct sl_map *map;
    struct traffic *traffic; /* NULL: none */
    bool is_wanted;          /* by 'cfg' */
    struct sl_line_config cfg;
    uint64_t silence_us, gap_us;
    int fd; /* -1: not open */
    struct loop_io *io;
    struct loop_timer reopen, silent;
    struct sl_job *job; /* a request that waits for the owner of a tag */
    uint64_t heard_us;  /* the last byte */
    uint64_t asked_us;  /* of the request of 'job' */
    uint64_t gone_us;   /* the last bit of our answer */
    bool is_fresh;      /* the first byte of 'in' came after a long silence */
    bool may_echo;      /* the line, as far as is known */
    bool surely_echoes; /* it did where nothing else can have been heard */
    bool heard_echo;    /* of the last answer */
    struct sl_line_stats stats;
    uint16_t n_in, n_out;
    uint8_t in[IN_SIZE];
    uint8_t out[MB_SERIAL_MAX]; /* the last answer */
};

static const struct mb_framing *
framing_of(const struct sl_line *l)
{
    return l->cfg.ascii ? &mb_ascii : &mb_rtu;
}

/* ---- answering ---- */

/* For the traffic log. */
static void
note(const struct sl_line *l, bool sent, const uint8_t *bytes, size_t n)
{
    const struct traffic_frame f = { .framing = l->cfg.ascii ? TRAFFIC_ASCII : TRAFFIC_RTU,
                                     .role = TRAFFIC_SLAVE,
                                     .sent = sent,
                                     .request = !sent,
                                     .bytes = bytes,
                                     .n = n };
    traffic_note(l->traffic, &f);
}

static void
note_request(const struct sl_line *l, uint8_t unit, const uint8_t *pdu, size_t n)
{
    uint8_t bytes[MB_SERIAL_MAX];
    if (traffic_is_on(l->traffic))
        note(l, false, bytes, framing_of(l)->encode(unit, pdu, n, bytes));
}

/* What the driver does not take is lost, as a part of a frame: the master asks again. */
static void
send_answer(struct sl_line *l, const uint8_t *pdu, size_t n)
{
    bool is_exception = pdu[0] & 0x80;
    l->stats.counts.responses += !is_exception;
    l->stats.counts.exceptions += is_exception;
    l->n_out = (uint16_t)framing_of(l)->encode(l->cfg.unit, pdu, n, l->out);
    ssize_t written = write(l->fd, l->out, l->n_out);
    if (written != l->n_out)
        log_debug("modbus: slave could not send device=%s bytes=%zd", l->cfg.device, written);
    note(l, true, l->out, l->n_out);
    l->heard_echo = false;
    l->gone_us = clock_mono_us() + l->n_out * serial_char_ns(&l->cfg.settings) / 1000;
}

static void
on_answer(void *arg, const uint8_t *pdu, size_t n)
{
    struct sl_line *l = arg;
    l->job = NULL;
    if (l->heard_us == l->asked_us) /* else somebody speaks: the master has given up */
        send_answer(l, pdu, n);
}

/* Nobody is to hear of it. */
static void
on_broadcast_done(void *arg, const uint8_t *pdu, size_t n)
{
    struct sl_line *l = arg;
    (void)pdu;
    (void)n;
    l->job = NULL;
}

static void
forget_job(struct sl_line *l)
{
    if (l->job != NULL)
        sl_job_forget(l->job);
    l->job = NULL;
}

static void
serve(struct sl_line *l, uint8_t unit, const uint8_t *pdu, size_t n)
{
    uint8_t answer[MB_PDU_MAX];
    bool is_broadcast = unit == ALL_UNITS;
    forget_job(l);
    if (l->map == NULL)
        return;
    if (l->n_out > 0) {
        l->may_echo = l->heard_echo;
        l->surely_echoes &= l->heard_echo;
    }
    l->asked_us = l->heard_us;
    note_request(l, unit, pdu, n);
    l->stats.counts.valid++;
    l->stats.broadcasts += is_broadcast;
    size_t n_answer = sl_serve(l->map, l->cfg.slave, pdu, n, answer,
                               is_broadcast ? on_broadcast_done : on_answer, l, &l->job);
    if (n_answer > 0 && !is_broadcast)
        send_answer(l, answer, n_answer);
}

/* ---- requests ---- */

/* Of the PDU that begins there, by its function; 0: not known, or not all there. */
static size_t
request_size(const uint8_t *pdu, size_t n)
{
    switch (pdu[0]) {
    case MB_WRITE_COILS:
    case MB_WRITE_REGS:
        return n > 5 ? 6u + pdu[5] : 0;
    case MB_READ_WRITE_REGS:
        return n > 9 ? 10u + pdu[9] : 0;
    default:
        return pdu[0] >= MB_READ_COILS && pdu[0] <= MB_WRITE_REG ? MB_HEAD_SIZE : 0;
    }
}

/*
 * Is what was heard from 'at' on a request? Of a function whose length nobody
 * knows only when it is all there is: the talk of others is full of bytes that
 * could begin one.
 */
static bool
is_request(const struct sl_line *l, size_t at)
{
    const uint8_t *frame = l->in + at;
    size_t n = l->n_in - at;
    if (n < 4 || n > MB_RTU_MAX || (frame[0] != l->cfg.unit && frame[0] != ALL_UNITS))
        return false;
    size_t size = request_size(frame + 1, n - 1);
    bool may_be = size == n - 3 || (size == 0 && at == 0 && l->is_fresh);
    return may_be && mb_crc16(frame, n) == 0;
}

static void
take_rtu(struct sl_line *l)
{
    for (size_t at = 0; at < l->n_in; at++) {
        if (!is_request(l, at))
            continue;
        size_t n = l->n_in - at - 3u;
        l->n_in = 0;
        serve(l, l->in[at], l->in + at + 1, n);
        return;
    }
}

static void
take_ascii(struct sl_line *l)
{
    const uint8_t units[] = { l->cfg.unit, ALL_UNITS };
    struct mb_serial_frame f;
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        struct mb_awaited a = { .unit = units[i] };
        if (framing_of(l)->look(&a, l->in, l->n_in, false, &f) != MB_SEEN_FRAME)
            continue;
        l->n_in = 0;
        serve(l, units[i], f.pdu, f.n);
        return;
    }
}

static void
on_silent(void *arg)
{
    take_rtu(arg);
}

/* ---- hearing ---- */

/* Can the answer be what a master sends that repeats its request? */
static bool
may_be_request(const struct sl_line *l)
{
    uint8_t func = l->out[1];
    return l->cfg.ascii || func == MB_WRITE_COIL || func == MB_WRITE_REG;
}

/*
 * On a two-wire line without suppression we hear ourselves. Before our answer
 * has left nobody else speaks. Later, in a lump, our answer may be heard
 * whole, once: at any time on a line that surely echoes, soon on one that has
 * not shown by an answer without echo that it does not.
 */
static bool
drop_echo(struct sl_line *l, uint64_t now)
{
    bool is_due = l->surely_echoes || now < l->gone_us + MB_LUMP_US;
    bool is_copy = l->may_echo && !l->heard_echo && is_due && l->n_in == l->n_out &&
                   memcmp(l->in, l->out, l->n_out) == 0;
    if (now >= l->gone_us && !is_copy)
        return false;
    l->surely_echoes |= now < l->gone_us || !may_be_request(l);
    l->heard_echo = true;
    l->n_in = 0;
    return true;
}

static void
on_heard(struct sl_line *l, size_t n)
{
    uint64_t now = clock_mono_us();
    l->stats.heard += n;
    l->n_in = (uint16_t)(l->n_in + n);
    l->heard_us = now;
    if (drop_echo(l, now))
        return;
    if (l->cfg.ascii)
        take_ascii(l);
    /* Without memory for the timer the master gets no answer, and asks again. */
    else
        (void)loop_timer_set(l->loop, &l->silent, now + l->silence_us);
}

/* Room for what comes: the beginning of what was heard long ago is none of a frame any more. */
static void
make_room(struct sl_line *l)
{
    uint64_t now = clock_mono_us();
    if (now > l->heard_us + l->gap_us)
        l->n_in = 0;
    if (l->n_in == 0)
        l->is_fresh = now > l->heard_us + l->silence_us;
    if (l->n_in < IN_SIZE)
        return;
    memmove(l->in, l->in + IN_SIZE / 2, IN_SIZE / 2);
    l->n_in = IN_SIZE / 2;
    l->is_fresh = false;
}

/* ---- the port ---- */

static void
plan_reopen(struct sl_line *l)
{
    if (loop_timer_set(l->loop, &l->reopen, clock_mono_us() + SL_LINE_REOPEN_US) < 0)
        log_err("modbus: no memory to open a line again device=%s", l->cfg.device);
}

static void
close_port(struct sl_line *l)
{
    loop_timer_cancel(l->loop, &l->silent);
    loop_io_remove(l->io);
    l->io = NULL;
    if (l->fd >= 0) {
        (void)tcflush(l->fd, TCOFLUSH); /* else close() waits for it to leave */
        (void)close(l->fd);             /* as above */
    }
    l->fd = -1;
    l->n_in = l->n_out = 0;
    forget_job(l);
}

static void
lose_port(struct sl_line *l)
{
    log_warn("modbus: slave lost its line device=%s", l->cfg.device);
    close_port(l);
    plan_reopen(l);
}

static void
on_io(void *arg, uint32_t events)
{
    struct sl_line *l = arg;
    (void)events; /* what there is, reading tells */
    for (;;) {
        make_room(l);
        ssize_t n = read(l->fd, l->in + l->n_in, (size_t)(IN_SIZE - l->n_in));
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            lose_port(l);
            return;
        }
        on_heard(l, (size_t)n);
    }
}

static void
open_port(void *arg)
{
    struct sl_line *l = arg;
    int r = serial_open(l->cfg.device, &l->cfg.settings, &l->fd);
    if (r == 0) {
        r = loop_io_add(l->loop, l->fd, EPOLLIN, on_io, l, &l->io);
        if (r < 0)
            close_port(l);
    }
    if (r < 0)
        plan_reopen(l);
    if (r < 0 && l->stats.error != -r)
        log_err("modbus: slave cannot open its line device=%s error=%s", l->cfg.device,
                strerror(-r));
    if (r == 0)
        log_info("modbus: slave listens device=%s", l->cfg.device);
    l->stats.error = -r;
}

/* ---- life ---- */

int
sl_line_new(struct loop *loop, struct sl_line **ret_line)
{
    struct sl_line *l = calloc(1, sizeof(*l));
    if (l == NULL)
        return -ENOMEM;
    l->loop = loop;
    l->fd = -1;
    loop_timer_init(&l->reopen, open_port, l);
    loop_timer_init(&l->silent, on_silent, l);
    *ret_line = l;
    return 0;
}

void
sl_line_free(struct sl_line *l)
{
    if (l == NULL)
        return;
    sl_line_set(l, NULL);
    free(l);
}

static bool
is_same(const struct sl_line_config *a, const struct sl_line_config *b)
{
    return strcmp(a->device, b->device) == 0 &&
           serial_settings_equal(&a->settings, &b->settings) && a->ascii == b->ascii &&
           a->unit == b->unit && a->slave == b->slave;
}

void
sl_line_set(struct sl_line *l, const struct sl_line_config *cfg)
{
    if (cfg == NULL ? !l->is_wanted : l->is_wanted && is_same(cfg, &l->cfg))
        return;
    loop_timer_cancel(l->loop, &l->reopen);
    close_port(l);
    l->is_wanted = cfg != NULL;
    l->stats.error = 0;
    if (cfg == NULL)
        return;
    l->cfg = *cfg;
    l->silence_us = mb_rtu_silence_us(cfg->settings.baud_rate, serial_char_ns(&cfg->settings));
    l->gap_us = cfg->ascii ? MB_ASCII_CHAR_US : l->silence_us + MB_LUMP_US;
    l->may_echo = true;
    l->surely_echoes = false;
    open_port(l);
}

void
sl_line_set_map(struct sl_line *l, struct sl_map *map)
{
    l->map = map; /* a job goes on in the map that was retired */
}

void
sl_line_set_traffic(struct sl_line *l, struct traffic *traffic)
{
    l->traffic = traffic;
}

void
sl_line_get_stats(const struct sl_line *l, struct sl_line_stats *ret_stats)
{
    *ret_stats = l->stats;
    ret_stats->is_wanted = l->is_wanted;
    ret_stats->is_open = l->fd >= 0;
    ret_stats->ascii = l->cfg.ascii;
    ret_stats->unit = l->cfg.unit;
}
