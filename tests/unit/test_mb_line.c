/*
 * A serial line against a peer at the other end of a pty that keeps the pace
 * of the baud rate and does everything wrong that happens on a real one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <string.h>
#include <sys/epoll.h>
#include <termios.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/clock.h"
#include "services/modbusd/mb_line.h"

enum {
    WAIT_US = 20000000,
    BAUD = 19200,
    CHAR_US = 573,   /* 11 bits */
    FRAME_US = 2006, /* 3.5 characters */
    TIMEOUT_US = 60000,
    PLENTY_US = 5000000, /* where a time-out is not the matter */
    SEEN_MAX = 32,
};

struct seen {
    void *owner;
    enum mb_done done;
    uint8_t exception;
    size_t n;
    uint8_t data[256];
    bool by_us;
    uint64_t sent_us, at_us;
};

static void send_next(void);

/* What the peer does with a request it has received whole. */
typedef void react_fn(const uint8_t *frame, size_t n);

struct world {
    struct loop *loop;
    int master, slave;
    char device[SERIAL_DEVICE_SIZE];
    struct loop_io *io;
    struct mb_line line;
    struct mb_conn_counters counters;
    struct mb_line_config cfg;
    struct seen seen[SEEN_MAX];
    unsigned n_seen, n_open, n_waiting;
    bool goes_on; /* the next request is sent before an answer is looked at */
    /* the peer */
    react_fn *react;
    bool echo; /* what is received is on the line for all */
    unsigned n_requests, step;
    uint64_t began_us[SEEN_MAX]; /* the first byte of each request came */
    uint64_t heard_us;
    uint8_t in[MB_SERIAL_MAX];
    size_t n_in;
    /* what it sends, paced: one byte at each turn of the timer */
    uint8_t out[4096];
    size_t n_out, out_at;
    uint64_t next_us, char_us;
    struct loop_timer pacer;
};
static struct world w;

/* ---- the peer ---- */

static void
on_pacer(void *arg)
{
    (void)arg;
    uint64_t now = clock_mono_us();
    while (w.out_at < w.n_out && w.next_us <= now) {
        assert_int_equal(write(w.master, w.out + w.out_at++, 1), 1);
        w.next_us += w.char_us;
    }
    if (w.out_at < w.n_out)
        assert_int_equal(loop_timer_set(w.loop, &w.pacer, w.next_us), 0);
    else
        w.out_at = w.n_out = 0;
}

/* Sends after what is on its way, and after a pause. */
static void
say(const uint8_t *bytes, size_t n, uint64_t pause_us)
{
    uint64_t from = clock_mono_us();
    assert_true(w.n_out + n <= sizeof(w.out));
    memcpy(w.out + w.n_out, bytes, n);
    if (w.n_out == 0)
        w.next_us = from + pause_us + w.char_us;
    w.n_out += n;
    assert_int_equal(loop_timer_set(w.loop, &w.pacer, w.next_us), 0);
}

static const struct mb_framing *
framing(void)
{
    return w.cfg.ascii ? &mb_ascii : &mb_rtu;
}

static void
say_pdu(uint8_t unit, const uint8_t *pdu, size_t n)
{
    uint8_t frame[MB_SERIAL_MAX];
    size_t size = framing()->encode(unit, pdu, n, frame);
    say(frame, size, w.n_out ? 0 : w.n_in * w.char_us + FRAME_US);
}

/* Unit and PDU of a request, of either framing. */
static size_t
open_request(const uint8_t *frame, size_t n, uint8_t out[MB_SERIAL_MAX])
{
    if (!w.cfg.ascii) {
        memcpy(out, frame, n - 2);
        return n - 2;
    }
    size_t n_bytes = (n - 3) / 2 - 1; /* without LRC */
    for (size_t i = 0; i < n_bytes; i++) {
        unsigned byte;
        char text[3] = { (char)frame[1 + 2 * i], (char)frame[2 + 2 * i], 0 };
        assert_int_equal(sscanf(text, "%2x", &byte), 1);
        out[i] = (uint8_t)byte;
    }
    return n_bytes;
}

/* Registers count up from their address. */
static void
answer_good(const uint8_t *frame, size_t n)
{
    uint8_t rq[MB_SERIAL_MAX], pdu[MB_PDU_MAX];
    size_t size = open_request(frame, n, rq);
    assert_true(size >= 6);
    uint16_t addr = get_u16(rq + 2), quantity = get_u16(rq + 4);
    if (rq[1] != MB_READ_HOLDING) {
        say_pdu(rq[0], rq + 1, MB_HEAD_SIZE);
        return;
    }
    pdu[0] = rq[1];
    pdu[1] = (uint8_t)(2 * quantity);
    for (unsigned i = 0; i < quantity; i++)
        put_u16(pdu + 2 + 2 * i, (uint16_t)(addr + i));
    say_pdu(rq[0], pdu, 2u + 2u * quantity);
}

static void
answer_nothing(const uint8_t *frame, size_t n)
{
    (void)frame;
    (void)n;
}

/* A request is whole when its checksum is right. */
static bool
is_request(const uint8_t *bytes, size_t n)
{
    if (w.cfg.ascii)
        return n > 2 && bytes[n - 1] == '\n';
    return n >= 8 && mb_crc16(bytes, n) == 0;
}

static void
on_master(void *arg, uint32_t events)
{
    (void)arg;
    (void)events;
    for (;;) {
        ssize_t n = read(w.master, w.in + w.n_in, sizeof(w.in) - w.n_in);
        if (n <= 0)
            return;
        if (w.n_in == 0 && w.n_requests < SEEN_MAX)
            w.began_us[w.n_requests] = clock_mono_us();
        w.n_in += (size_t)n;
        if (!is_request(w.in, w.n_in))
            continue;
        w.n_requests++;
        if (w.echo)
            say(w.in, w.n_in, 0);
        w.react(w.in, w.n_in);
        w.n_in = 0;
    }
}

/* ---- the line ---- */

static void
on_done(void *arg, void *owner, const struct mb_result *r)
{
    struct world *x = arg;
    if (x->goes_on)
        send_next();
    assert_true(x->n_seen < SEEN_MAX);
    struct seen *s = &x->seen[x->n_seen++];
    *s = (struct seen){ .owner = owner,
                        .done = r->done,
                        .exception = r->exception,
                        .n = r->n,
                        .by_us = r->by_us,
                        .sent_us = r->sent_us,
                        .at_us = r->now_us };
    if (r->n)
        memcpy(s->data, r->data, r->n);
}

static void
on_state(void *arg, enum mb_conn_state state, bool useful)
{
    struct world *x = arg;
    (void)useful;
    x->n_open += state == MB_CONN_OPEN;
    x->n_waiting += state == MB_CONN_WAITING;
}

#define UNTIL(cond)                                                                            \
    do {                                                                                       \
        uint64_t until_us_ = clock_mono_us() + WAIT_US;                                        \
        while (!(cond)) {                                                                      \
            assert_true(clock_mono_us() < until_us_);                                          \
            assert_int_equal(loop_round(w.loop, 10000), 0);                                    \
        }                                                                                      \
    } while (0)

/* A pty; the line opens its other end by name. */
static void
open_pty(void)
{
    char name[SERIAL_DEVICE_SIZE];
    assert_int_equal(openpty(&w.master, &w.slave, name, NULL, NULL), 0);
    assert_int_equal(fcntl(w.master, F_SETFL, O_NONBLOCK), 0);
    assert_int_equal(loop_io_add(w.loop, w.master, EPOLLIN, on_master, NULL, &w.io), 0);
    assert_true(strlen(name) < sizeof(w.device));
    memcpy(w.device, name, strlen(name) + 1);
}

static void
close_pty(void)
{
    loop_io_remove(w.io);
    w.io = NULL;
    if (w.master >= 0)
        (void)close(w.master);
    if (w.slave >= 0)
        (void)close(w.slave);
    w.master = w.slave = -1;
    w.n_in = w.n_out = w.out_at = 0;
    loop_timer_cancel(w.loop, &w.pacer);
}

static void
start(react_fn *react, bool ascii)
{
    struct mb_conn_events events = { on_done, on_state, &w };
    w.react = react;
    w.cfg = (struct mb_line_config){
        .settings = { .baud_rate = BAUD,
                      .parity = SERIAL_PARITY_EVEN,
                      .data_bits = 8,
                      .stop_half_bits = 2 },
        .ascii = ascii,
    };
    memcpy(w.cfg.device, w.device, sizeof(w.device));
    mb_line_init(&w.line, w.loop, &w.cfg, &events, &w.counters);
    mb_conn_start(&w.line.conn);
    UNTIL(w.n_open == 1);
}

static int
set_up(void **state)
{
    (void)state;
    memset(&w, 0, sizeof(w));
    w.master = w.slave = -1;
    w.char_us = CHAR_US;
    loop_timer_init(&w.pacer, on_pacer, NULL);
    if (loop_new(&w.loop) < 0)
        return -1;
    open_pty();
    return 0;
}

static int
tear_down(void **state)
{
    (void)state;
    if (w.line.conn.loop)
        mb_conn_stop(&w.line.conn);
    close_pty();
    loop_free(w.loop);
    return 0;
}

static void
ask(uint8_t unit, uint8_t func, uint16_t addr, uint16_t n, uint64_t timeout_us)
{
    static const uint8_t data[] = { 0x12, 0x34, 0x56, 0x78 };
    uint8_t pdu[MB_PDU_MAX];
    struct mb_ask request = {
        .func = func, .addr = addr, .n = n, .write_addr = addr, .n_write = n, .data = data
    };
    int size = mb_pdu_encode(&request, pdu);
    assert_true(size > 0);
    UNTIL(mb_conn_can_send(&w.line.conn));
    mb_conn_send(&w.line.conn, unit, pdu, (size_t)size, timeout_us, &w);
}

static void
send_next(void)
{
    w.goes_on = false;
    ask(5, MB_WRITE_REGS, 0xA5A5, 2, PLENTY_US);
}

static const struct seen *
finish(void)
{
    unsigned before = w.n_seen;
    UNTIL(w.n_seen > before);
    return &w.seen[w.n_seen - 1];
}

static const struct seen *
read_two(uint8_t unit, uint16_t addr, uint64_t timeout_us)
{
    ask(unit, MB_READ_HOLDING, addr, 2, timeout_us);
    return finish();
}

static void
assert_good(const struct seen *s, uint16_t addr)
{
    assert_int_equal(s->done, MB_DONE_OK);
    assert_int_equal(s->n, 4);
    assert_int_equal(get_u16(s->data), addr);
    assert_int_equal(get_u16(s->data + 2), addr + 1);
}

/* ---- tests ---- */

static void
answers_come_through(void **state)
{
    (void)state;
    for (int ascii = 0; ascii <= 1; ascii++) {
        start(answer_good, ascii);
        for (uint16_t addr = 1; addr <= 5; addr++)
            assert_good(read_two(1, addr, PLENTY_US), addr);
        ask(1, MB_WRITE_REGS, 3, 2, PLENTY_US);
        assert_int_equal(finish()->done, MB_DONE_OK);
        ask(1, MB_WRITE_REG, 3, 1, PLENTY_US);
        assert_int_equal(finish()->done, MB_DONE_OK);
        mb_conn_stop(&w.line.conn);
        w.n_open = w.n_seen = 0;
    }
}

/* The engine plans so: the line is not to wait until values have been decoded. */
static void
data_of_an_answer_stays_when_the_next_request_is_sent(void **state)
{
    (void)state;
    for (int ascii = 0; ascii <= 1; ascii++) {
        start(answer_good, ascii);
        w.goes_on = true;
        ask(1, MB_READ_HOLDING, 7, 100, PLENTY_US);
        const struct seen *s = finish();
        assert_int_equal(s->done, MB_DONE_OK);
        assert_int_equal(s->n, 200);
        for (unsigned i = 0; i < 100; i++)
            assert_int_equal(get_u16(s->data + 2 * i), 7 + i);
        assert_int_equal(finish()->done, MB_DONE_OK);
        mb_conn_stop(&w.line.conn);
        w.n_open = w.n_seen = 0;
    }
}

static void
the_line_is_silent_for_a_frame_interval_before_each_request(void **state)
{
    (void)state;
    start(answer_good, false);
    for (unsigned i = 0; i < 5; i++) {
        uint64_t before_us = read_two(1, 7, PLENTY_US)->at_us;
        ask(1, MB_READ_HOLDING, 7, 2, PLENTY_US); /* at once */
        const struct seen *s = finish();
        assert_true(s->sent_us >= before_us + FRAME_US);
    }
}

static void
an_interval_that_is_set_is_kept(void **state)
{
    (void)state;
    start(answer_good, false);
    struct mb_line_config cfg = w.cfg;
    cfg.frame_interval_ms = 40;
    mb_line_configure(&w.line, &cfg);
    uint64_t before_us = read_two(1, 7, PLENTY_US)->at_us;
    const struct seen *s = read_two(1, 7, PLENTY_US);
    assert_true(s->sent_us >= before_us + 40000);
    assert_int_equal(w.n_open, 1); /* for this the port was not opened anew */
}

static void
answer_exception(const uint8_t *frame, size_t n)
{
    uint8_t rq[MB_SERIAL_MAX], pdu[2];
    (void)open_request(frame, n, rq);
    pdu[0] = rq[1] | 0x80;
    pdu[1] = 2;
    say_pdu(rq[0], pdu, sizeof(pdu));
}

static void
exceptions_are_told(void **state)
{
    (void)state;
    start(answer_exception, false);
    const struct seen *s = read_two(1, 7, PLENTY_US);
    assert_int_equal(s->done, MB_DONE_EXCEPTION);
    assert_int_equal(s->exception, 2);
}

static void
the_time_out_begins_when_the_request_has_left(void **state)
{
    (void)state;
    start(answer_nothing, false);
    const struct seen *s = read_two(1, 7, TIMEOUT_US);
    assert_int_equal(s->done, MB_DONE_TIMEOUT);
    assert_true(s->at_us - s->sent_us >= 8 * CHAR_US + TIMEOUT_US);
}

/* It begins in time, and takes longer than the time-out. */
static void
an_answer_that_has_begun_is_heard_to_its_end(void **state)
{
    enum { SLOW_BAUD = 1200, SLOW_CHAR_US = 9167, SLOW_TIMEOUT_US = 500000 };
    (void)state;
    start(answer_good, false);
    struct mb_line_config cfg = w.cfg;
    cfg.settings.baud_rate = SLOW_BAUD;
    w.char_us = SLOW_CHAR_US;
    mb_line_configure(&w.line, &cfg);
    UNTIL(w.n_open == 2);
    ask(1, MB_READ_HOLDING, 0, 40, SLOW_TIMEOUT_US); /* 780 ms on the line */
    const struct seen *s = finish();
    assert_int_equal(s->done, MB_DONE_OK);
    assert_int_equal(s->n, 80);
    assert_true(s->at_us - s->sent_us > SLOW_TIMEOUT_US + 8 * SLOW_CHAR_US);
}

static void
answer_wrong(const uint8_t *frame, size_t n)
{
    static const uint8_t noise[] = { 0x00, 0xFF, 0x80, 0x01, 0x00 };
    uint8_t wrong[16] = { 1, 3, 4, 0, 7, 0, 8, 0x12, 0x34 };
    uint8_t other[] = { 4, 2, 0, 1 };
    switch (w.step) {
    case 0: /* a wrong checksum */
        say(wrong, 9, FRAME_US);
        break;
    case 1: /* cut off */
        say(wrong, 5, FRAME_US);
        break;
    case 2: /* another function */
        say_pdu(1, other, sizeof(other));
        break;
    case 3: /* noise first */
        say(noise, sizeof(noise), FRAME_US);
        answer_good(frame, n);
        break;
    case 4: /* the answer of another unit first */
        say_pdu(2, other, sizeof(other));
        answer_good(frame, n);
        break;
    default:
        answer_good(frame, n);
    }
}

static void
what_goes_wrong_on_a_line_ends_one_request_only(void **state)
{
    static const enum mb_done want[] = { MB_DONE_BAD, MB_DONE_BAD, MB_DONE_BAD,
                                         MB_DONE_OK,  MB_DONE_OK,  MB_DONE_OK };
    (void)state;
    start(answer_wrong, false);
    for (w.step = 0; w.step < ARRAY_LEN(want); w.step++)
        assert_int_equal(read_two(1, 7, PLENTY_US)->done, want[w.step]);
    assert_int_equal(w.line.stats.checksum, 2);
    assert_int_equal(w.line.stats.invalid, 3);
}

/* An answer that comes after its time-out, while the next request waits to be sent. */
static void
answer_late(const uint8_t *frame, size_t n)
{
    uint8_t rq[MB_SERIAL_MAX], pdu[] = { 3, 4, 0xBA, 0xD0, 0xBA, 0xD0 };
    (void)open_request(frame, n, rq);
    if (rq[0] == 2) {
        answer_good(frame, n);
        return;
    }
    uint8_t late[MB_SERIAL_MAX];
    say(late, mb_rtu.encode(1, pdu, sizeof(pdu), late), TIMEOUT_US + 8 * CHAR_US - 2 * CHAR_US);
}

static void
a_late_answer_is_not_taken_for_that_of_another_unit(void **state)
{
    (void)state;
    start(answer_late, false);
    assert_int_equal(read_two(2, 1, PLENTY_US)->done, MB_DONE_OK);
    for (unsigned i = 0; i < 5; i++) {
        (void)read_two(1, 7, TIMEOUT_US); /* just before or after its time is over */
        assert_good(read_two(2, 1, PLENTY_US), 1);
    }
}

static void
the_own_request_heard_again_is_no_answer(void **state)
{
    (void)state;
    for (int ascii = 0; ascii <= 1; ascii++) {
        w.echo = true;
        start(answer_good, ascii);
        assert_good(read_two(1, 7, PLENTY_US), 7);
        ask(1, MB_WRITE_REG, 3, 1, PLENTY_US);
        assert_int_equal(finish()->done, MB_DONE_OK);
        w.react = answer_nothing; /* only the echo comes */
        ask(1, MB_WRITE_REG, 3, 1, TIMEOUT_US);
        assert_int_equal(finish()->done, MB_DONE_TIMEOUT);
        assert_int_equal(w.line.stats.noise, 0);
        mb_conn_stop(&w.line.conn);
        w.n_open = w.n_seen = 0;
    }
}

static void
a_line_may_begin_to_echo_and_cease(void **state)
{
    (void)state;
    for (int ascii = 0; ascii <= 1; ascii++) {
        start(answer_good, ascii);
        for (unsigned i = 0; i < 4; i++) {
            w.echo = i % 2;
            assert_good(read_two(1, 7, PLENTY_US), 7);
            ask(1, MB_WRITE_REG, 3, 1, PLENTY_US);
            assert_int_equal(finish()->done, MB_DONE_OK);
        }
        mb_conn_stop(&w.line.conn);
        w.n_open = w.n_seen = 0;
    }
}

static void
a_write_to_all_units_is_done_without_an_answer(void **state)
{
    (void)state;
    start(answer_nothing, false);
    ask(0, MB_WRITE_REG, 3, 1, PLENTY_US);
    const struct seen *s = finish();
    assert_int_equal(s->done, MB_DONE_OK);
    assert_null(s->n ? s : NULL);
    assert_true(s->at_us - s->sent_us >= MB_TURNAROUND_US);
    assert_int_equal(w.n_requests, 1);
}

/* Talks without end, and never as the unit. */
static void
babble(void *arg)
{
    static const uint8_t noise[4] = { 0xFF, 0xFE, 0xFD, 0xFC };
    struct loop_timer *t = arg;
    assert_true(write(w.master, noise, sizeof(noise)) > 0);
    assert_int_equal(loop_timer_set(w.loop, t, clock_mono_us() + 500), 0);
}

static void
a_line_that_is_never_silent_is_a_time_out(void **state)
{
    struct loop_timer t;
    (void)state;
    start(answer_good, false);
    loop_timer_init(&t, babble, &t);
    babble(&t);
    UNTIL(w.line.stats.noise > 0);
    assert_int_equal(read_two(1, 7, TIMEOUT_US)->done, MB_DONE_TIMEOUT);
    loop_timer_cancel(w.loop, &t);
    assert_good(read_two(1, 7, PLENTY_US), 7);
}

static void
a_lost_port_is_opened_again(void **state)
{
    char link[] = "/tmp/mb-line-XXXXXX";
    struct mb_line_config cfg;
    (void)state;
    start(answer_good, false);
    assert_good(read_two(1, 7, PLENTY_US), 7);
    cfg = w.cfg;
    assert_non_null(mkdtemp(link));
    (void)snprintf(cfg.device, sizeof(cfg.device), "%s/port", link);
    assert_int_equal(symlink(w.device, cfg.device), 0);
    mb_line_configure(&w.line, &cfg);
    UNTIL(w.n_open == 2);
    ask(1, MB_READ_HOLDING, 7, 2, PLENTY_US);
    w.react = answer_nothing;
    UNTIL(w.n_requests == 2);
    /* The adapter is pulled … */
    close_pty();
    const struct seen *s = finish();
    assert_int_equal(s->done, MB_DONE_LOST);
    assert_true(s->by_us);
    assert_int_equal(unlink(cfg.device), 0);
    unsigned n = w.n_waiting;
    UNTIL(w.n_waiting >= n + 2); /* it cannot be opened */
    /* … and put in again. */
    open_pty();
    w.react = answer_good;
    assert_int_equal(symlink(w.device, cfg.device), 0);
    UNTIL(w.n_open == 3);
    assert_good(read_two(1, 9, PLENTY_US), 9);
    (void)unlink(cfg.device);
    (void)rmdir(link);
}

static void
a_request_that_flow_control_holds_back_is_never_sent_late(void **state)
{
    (void)state;
    start(answer_good, false);
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(tcflow(w.slave, TCOOFF), 0);
        assert_int_equal(read_two(1, 7, TIMEOUT_US)->done, MB_DONE_TIMEOUT);
        assert_int_equal(tcflow(w.slave, TCOON), 0);
        /* Nothing is left to do: the loop sleeps. */
        for (unsigned round = 0; round < 3; round++) {
            uint64_t from_us = clock_mono_us();
            assert_int_equal(loop_round(w.loop, 10000), 0);
            assert_true(clock_mono_us() >= from_us + 10000);
        }
        assert_good(read_two(1, 9, PLENTY_US), 9);
        assert_int_equal(w.n_requests, i);
    }
}

static void
a_line_without_a_port_waits_for_one(void **state)
{
    (void)state;
    struct mb_conn_events events = { on_done, on_state, &w };
    struct mb_line_config none = { .device = "" }; /* and no settings */
    mb_line_init(&w.line, w.loop, &none, &events, &w.counters);
    mb_conn_start(&w.line.conn);
    UNTIL(w.n_waiting >= 2);
    mb_conn_stop(&w.line.conn);
    start(answer_good, false);
    assert_good(read_two(1, 7, PLENTY_US), 7);
    unsigned n = w.n_waiting;
    mb_line_configure(&w.line, &none); /* its adapter was pulled */
    assert_int_equal(w.n_waiting, n + 1);
    assert_false(mb_conn_can_send(&w.line.conn));
    mb_line_configure(&w.line, &w.cfg);
    UNTIL(w.n_open == 2);
    assert_good(read_two(1, 9, PLENTY_US), 9);
}

static void
other_settings_open_the_port_anew(void **state)
{
    (void)state;
    start(answer_good, false);
    ask(1, MB_READ_HOLDING, 7, 2, PLENTY_US);
    struct mb_line_config cfg = w.cfg;
    cfg.settings.baud_rate = 38400;
    mb_line_configure(&w.line, &cfg);
    assert_int_equal(w.seen[0].done, MB_DONE_LOST);
    assert_true(w.seen[0].by_us);
    UNTIL(w.n_open == 2);
    assert_good(read_two(1, 7, PLENTY_US), 7);
}

int
main(void)
{
#define LINE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        LINE_TEST(answers_come_through),
        LINE_TEST(data_of_an_answer_stays_when_the_next_request_is_sent),
        LINE_TEST(the_line_is_silent_for_a_frame_interval_before_each_request),
        LINE_TEST(an_interval_that_is_set_is_kept),
        LINE_TEST(exceptions_are_told),
        LINE_TEST(the_time_out_begins_when_the_request_has_left),
        LINE_TEST(an_answer_that_has_begun_is_heard_to_its_end),
        LINE_TEST(what_goes_wrong_on_a_line_ends_one_request_only),
        LINE_TEST(a_late_answer_is_not_taken_for_that_of_another_unit),
        LINE_TEST(the_own_request_heard_again_is_no_answer),
        LINE_TEST(a_line_may_begin_to_echo_and_cease),
        LINE_TEST(a_write_to_all_units_is_done_without_an_answer),
        LINE_TEST(a_line_that_is_never_silent_is_a_time_out),
        LINE_TEST(a_lost_port_is_opened_again),
        LINE_TEST(a_request_that_flow_control_holds_back_is_never_sent_late),
        LINE_TEST(a_line_without_a_port_waits_for_one),
        LINE_TEST(other_settings_open_the_port_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
