/* One connection against a server that does everything wrong, in one loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "services/modbusd/mb_conn.h"
#include "tests/unit/mb_fake.h"

enum { WAIT_US = 20000000, TIMEOUT_US = 100000, PATIENT_US = 8000000, SEEN_MAX = 64 };

/* What the connection told. */
struct seen {
    void *owner;
    enum mb_done done;
    uint8_t exception;
    size_t n;
    uint8_t data[256];
    bool by_us;
};

struct world {
    struct loop *loop;
    struct fake fake;
    union {
        struct mb_conn conn;
        struct mb_tcp tcp;
    };
    struct mb_conn_counters counters;
    struct seen seen[SEEN_MAX];
    unsigned n_seen, n_open, n_waiting;
    unsigned step;       /* for answers that differ by turn */
    uint64_t timeout_us; /* of requests; PATIENT_US unless time-outs are the matter */
    struct loop_timer later;
    struct fake_request held; /* an answer that is sent later */
    uint8_t held_frame[MB_ADU_MAX];
    size_t n_held;
};
static struct world w;

static void
on_done(void *arg, void *owner, const struct mb_result *r)
{
    struct world *x = arg;
    assert_true(x->n_seen < SEEN_MAX);
    struct seen *s = &x->seen[x->n_seen++];
    *s = (struct seen){
        .owner = owner, .done = r->done, .exception = r->exception, .n = r->n, .by_us = r->by_us
    };
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

static void
start(void (*answer)(struct fake_request *r))
{
    struct mb_address a;
    struct mb_conn_events events = { on_done, on_state, &w };
    assert_int_equal(fake_open(&w.fake, w.loop, answer, &w), 0);
    assert_int_equal(mb_address_parse("127.0.0.1", w.fake.port, &a), 0);
    mb_tcp_init(&w.tcp, w.loop, &a, &events, &w.counters);
    mb_tcp_set_timeout(&w.tcp, 1000);
    mb_conn_start(&w.conn);
}

static int
set_up(void **state)
{
    (void)state;
    memset(&w, 0, sizeof(w));
    w.timeout_us = PATIENT_US;
    return loop_new(&w.loop);
}

static int
tear_down(void **state)
{
    (void)state;
    if (w.conn.loop)
        mb_conn_stop(&w.conn);
    fake_close(&w.fake);
    loop_timer_cancel(w.loop, &w.later);
    loop_free(w.loop);
    return 0;
}

#define UNTIL(cond)                                                                            \
    do {                                                                                       \
        uint64_t until_us_ = clock_mono_us() + WAIT_US;                                        \
        while (!(cond)) {                                                                      \
            assert_true(clock_mono_us() < until_us_);                                          \
            assert_int_equal(loop_round(w.loop, 10000), 0);                                    \
        }                                                                                      \
    } while (0)

static void
ask(uint8_t unit, uint8_t func, uint16_t addr, uint16_t n, void *owner)
{
    uint8_t pdu[MB_PDU_MAX];
    struct mb_ask request = { .func = func, .addr = addr, .n = n };
    int size = mb_pdu_encode(&request, pdu);
    assert_int_equal(size, 5);
    UNTIL(mb_conn_can_send(&w.conn));
    mb_conn_send(&w.conn, unit, pdu, (size_t)size, w.timeout_us, owner);
}

/* Asks for two registers at 'addr' and waits for the end of it. */
static const struct seen *
ask_and_wait(uint16_t addr)
{
    static int owner;
    unsigned before = w.n_seen;
    ask(1, 3, addr, 2, &owner);
    UNTIL(w.n_seen == before + 1);
    assert_ptr_equal(w.seen[before].owner, &owner);
    return &w.seen[before];
}

static void
assert_good(const struct seen *s, uint16_t addr)
{
    assert_int_equal(s->done, MB_DONE_OK);
    assert_int_equal(s->n, 4);
    assert_int_equal(get_u16(s->data), addr);
    assert_int_equal(get_u16(s->data + 2), addr + 1);
}

static void
a_good_answer_brings_its_data(void **state)
{
    (void)state;
    start(fake_answer_good);
    for (uint16_t i = 0; i < 20; i++)
        assert_good(ask_and_wait(i), i);
    assert_int_equal(w.fake.n_accepted, 1);
    assert_int_equal(w.counters.replies, 20);
}

static void
answer_exception(struct fake_request *r)
{
    fake_answer_exception(r, 2);
}

static void
an_exception_brings_its_code(void **state)
{
    (void)state;
    start(answer_exception);
    const struct seen *s = ask_and_wait(0);
    assert_int_equal(s->done, MB_DONE_EXCEPTION);
    assert_int_equal(s->exception, 2);
    assert_int_equal(w.conn.state, MB_CONN_OPEN);
}

static void
answer_wrong_tid(struct fake_request *r)
{
    struct fake_request other = *r;
    other.tid = (uint16_t)(r->tid + 7);
    if (w.step++ == 0)
        fake_answer_good(&other);
    else
        fake_answer_good(r);
}

static void
an_unknown_transaction_is_dropped_and_counted(void **state)
{
    (void)state;
    w.timeout_us = TIMEOUT_US;
    start(answer_wrong_tid);
    assert_int_equal(ask_and_wait(5)->done, MB_DONE_TIMEOUT);
    w.timeout_us = PATIENT_US;
    assert_int_equal(w.counters.late, 1);
    assert_good(ask_and_wait(9), 9);
    assert_int_equal(w.fake.n_accepted, 1);
}

static void
send_held(void *arg)
{
    (void)arg;
    fake_send(&w.held, w.held_frame, w.n_held);
}

/* The first answer comes after its time-out, before the second request's. */
static void
answer_late(struct fake_request *r)
{
    if (w.step++ > 0) {
        send_held(NULL);
        fake_answer_good(r);
        return;
    }
    w.held = *r;
    w.n_held = fake_good(r, w.held_frame);
}

static void
a_late_answer_is_not_taken_for_the_next_one(void **state)
{
    (void)state;
    w.timeout_us = TIMEOUT_US;
    start(answer_late);
    assert_int_equal(ask_and_wait(100)->done, MB_DONE_TIMEOUT);
    w.timeout_us = PATIENT_US;
    assert_good(ask_and_wait(200), 200);
    assert_int_equal(w.counters.late, 1);
    assert_good(ask_and_wait(300), 300);
}

/* Kinds of answers that arrive as whole frames but do not fit. */
static void
answer_misfit(struct fake_request *r)
{
    uint8_t frame[MB_ADU_MAX];
    size_t n = fake_good(r, frame);
    switch (w.step) {
    case 0: /* another unit */
        frame[6] ^= 1;
        break;
    case 1: /* another function */
        frame[7] ^= 1;
        break;
    case 2: /* a count that is not what was asked for */
        frame[8] -= 2;
        break;
    case 3: /* fewer bytes than the count says */
        put_u16(frame + 4, get_u16(frame + 4) - 1);
        n--;
        break;
    case 4: /* a byte more */
        put_u16(frame + 4, get_u16(frame + 4) + 1);
        frame[n++] = 0;
        break;
    default:
        break;
    }
    fake_send(r, frame, n);
}

static void
an_answer_that_does_not_fit_is_bad_and_the_connection_stays(void **state)
{
    (void)state;
    start(answer_misfit);
    for (w.step = 0; w.step < 5; w.step++)
        assert_int_equal(ask_and_wait(7)->done, MB_DONE_BAD);
    assert_good(ask_and_wait(7), 7);
    assert_int_equal(w.counters.bad, 5);
    assert_int_equal(w.fake.n_accepted, 1);
}

static void
answer_garbage(struct fake_request *r)
{
    static const uint8_t garbage[] = "HTTP/1.1 400 Bad Request\r\n\r\n";
    if (w.step++ == 0)
        fake_send(r, garbage, sizeof(garbage) - 1);
    else
        fake_answer_good(r);
}

static void
garbage_ends_the_connection_and_a_new_one_is_made(void **state)
{
    (void)state;
    start(answer_garbage);
    assert_int_equal(ask_and_wait(1)->done, MB_DONE_BAD);
    assert_int_equal(w.counters.lost_framing, 1);
    assert_good(ask_and_wait(1), 1);
    assert_int_equal(w.fake.n_accepted, 2);
}

static void
answer_half(struct fake_request *r)
{
    uint8_t frame[MB_ADU_MAX];
    size_t n = fake_good(r, frame);
    fake_send(r, frame, w.step++ == 0 ? n / 2 : n);
}

static void
a_time_out_in_the_middle_of_a_frame_ends_the_connection(void **state)
{
    (void)state;
    w.timeout_us = TIMEOUT_US;
    start(answer_half);
    assert_int_equal(ask_and_wait(1)->done, MB_DONE_TIMEOUT);
    w.timeout_us = PATIENT_US;
    assert_good(ask_and_wait(2), 2);
    assert_int_equal(w.fake.n_accepted, 2);
}

static void
answer_half_and_close(struct fake_request *r)
{
    uint8_t frame[MB_ADU_MAX];
    size_t n = fake_good(r, frame);
    if (w.step++ > 0) {
        fake_send(r, frame, n);
        return;
    }
    fake_send(r, frame, n / 2);
    (void)shutdown(r->fd, SHUT_WR);
}

static void
a_close_in_the_middle_of_a_frame_loses_the_request(void **state)
{
    (void)state;
    start(answer_half_and_close);
    assert_int_equal(ask_and_wait(1)->done, MB_DONE_LOST);
    assert_good(ask_and_wait(2), 2);
    assert_int_equal(w.fake.n_accepted, 2);
}

static void
send_next_byte(void *arg)
{
    static size_t at;
    (void)arg;
    fake_send(&w.held, w.held_frame + at, 1);
    at = at + 1 == w.n_held ? 0 : at + 1;
    if (at > 0)
        assert_int_equal(loop_timer_set(w.loop, &w.later, clock_mono_us() + 1000), 0);
}

static void
answer_bytewise(struct fake_request *r)
{
    w.held = *r;
    w.n_held = fake_good(r, w.held_frame);
    loop_timer_init(&w.later, send_next_byte, NULL);
    send_next_byte(NULL);
}

static void
a_frame_may_come_in_single_bytes(void **state)
{
    (void)state;
    start(answer_bytewise);
    assert_good(ask_and_wait(11), 11);
    assert_good(ask_and_wait(12), 12);
}

static void
on_other(void *arg, uint32_t events)
{
    (void)arg;
    (void)events; /* and stays readable */
}

/* Waits for three requests, then answers them in one segment, the last first. */
static void
answer_three_at_once(struct fake_request *r)
{
    static uint8_t all[3][MB_ADU_MAX];
    static size_t n[3];
    n[w.step] = fake_good(r, all[w.step]);
    if (++w.step < 3)
        return;
    uint8_t bytes[3 * MB_ADU_MAX];
    size_t size = 0;
    for (int i = 2; i >= 0; i--) {
        memcpy(bytes + size, all[i], n[i]);
        size += n[i];
    }
    fake_send(r, bytes, size);
}

static void
merged_answers_in_another_order_find_their_requests(void **state)
{
    (void)state;
    int owners[3];
    start(answer_three_at_once);
    for (uint16_t i = 0; i < 3; i++)
        ask((uint8_t)(i + 1), 3, (uint16_t)(100 * i), 2, &owners[i]);
    UNTIL(w.n_seen == 3);
    for (int i = 0; i < 3; i++) {
        assert_ptr_equal(w.seen[i].owner, &owners[2 - i]);
        assert_good(&w.seen[i], (uint16_t)(100 * (2 - i)));
    }
}

static void
answer_never(struct fake_request *r)
{
    (void)r;
}

static void
each_request_in_flight_has_its_own_time_out(void **state)
{
    (void)state;
    int owners[MB_IN_FLIGHT_MAX];
    w.timeout_us = TIMEOUT_US;
    start(answer_never);
    UNTIL(mb_conn_can_send(&w.conn));
    for (unsigned i = 0; i < MB_IN_FLIGHT_MAX; i++)
        ask((uint8_t)i, 3, 0, 2, &owners[i]);
    assert_false(mb_conn_can_send(&w.conn));
    UNTIL(w.n_seen == MB_IN_FLIGHT_MAX);
    /* Those that expire last may find that the connection was given up already. */
    for (unsigned i = 0; i < MB_IN_FLIGHT_MAX; i++)
        assert_true(w.seen[i].done == MB_DONE_TIMEOUT ||
                    (i > 0 && w.seen[i].done == MB_DONE_LOST && w.seen[i].by_us));
    assert_int_equal(w.conn.n_in_flight, 0);
}

static void
silence_makes_the_connection_anew(void **state)
{
    (void)state;
    w.timeout_us = TIMEOUT_US;
    start(answer_never);
    for (int i = 0; i < MB_SILENCES_MAX; i++)
        assert_int_equal(ask_and_wait(1)->done, MB_DONE_TIMEOUT);
    UNTIL(w.fake.n_accepted == 2);
}

static void
a_forgotten_owner_hears_nothing(void **state)
{
    (void)state;
    int owner;
    w.timeout_us = TIMEOUT_US;
    start(answer_late);
    ask(1, 3, 0, 2, &owner);
    mb_conn_forget(&w.conn, &owner);
    UNTIL(w.n_seen == 1);
    assert_null(w.seen[0].owner);
    assert_int_equal(w.conn.n_in_flight, 0);
}

/*
 * The loop stands still for longer than the time-out, and when it goes on there
 * are more events than it takes in one round: the answer is there all the same.
 */
static void
an_answer_that_came_in_time_counts_after_a_stall(void **state)
{
    enum { OTHERS = 200 };
    static int others[OTHERS][2];
    static struct loop_io *ios[OTHERS];
    (void)state;
    w.timeout_us = TIMEOUT_US;
    int owner;
    start(fake_answer_good);
    UNTIL(mb_conn_can_send(&w.conn) && w.fake.n_accepted == 1);
    for (int i = 0; i < OTHERS; i++) {
        assert_int_equal(pipe(others[i]), 0);
        assert_int_equal(write(others[i][1], "x", 1), 1);
        assert_int_equal(loop_io_add(w.loop, others[i][0], EPOLLIN, on_other, NULL, &ios[i]),
                         0);
    }
    ask(1, 3, 5, 2, &owner);
    while (w.fake.n_requests == 0)
        assert_int_equal(loop_round(w.loop, 0), 0);
    if (w.n_seen == 0) { /* the answer is in the socket, behind many others */
        uint64_t until = clock_mono_us() + TIMEOUT_US + 10000;
        while (clock_mono_us() < until)
            ;
    }
    UNTIL(w.n_seen == 1);
    assert_good(&w.seen[0], 5);
    assert_int_equal(w.counters.timeouts, 0);
    for (int i = 0; i < OTHERS; i++) {
        loop_io_remove(ios[i]);
        (void)close(others[i][0]);
        (void)close(others[i][1]);
    }
}

static void
nobody_listens_and_then_somebody_does(void **state)
{
    (void)state;
    start(fake_answer_good);
    assert_good(ask_and_wait(1), 1);
    uint16_t port = w.fake.port;
    fake_close(&w.fake);
    UNTIL(w.counters.connect_failures >= 3);
    assert_int_not_equal(w.conn.state, MB_CONN_OPEN);
    memset(&w.fake, 0, sizeof(w.fake));
    w.fake.port = port;
    assert_int_equal(fake_open(&w.fake, w.loop, fake_answer_good, &w), 0);
    assert_good(ask_and_wait(2), 2);
}

static void
pauses_between_attempts_grow(void **state)
{
    (void)state;
    start(fake_answer_good);
    fake_close(&w.fake);
    uint64_t began = clock_mono_us();
    UNTIL(w.counters.connect_failures >= 5);
    uint64_t took = clock_mono_us() - began;
    /* none, 100, 200 and 400 ms, each at most a quarter less */
    assert_true(took >= 525000 * 9 / 10);
}

static void
addresses_have_one_spelling(void **state)
{
    (void)state;
    struct mb_address a;
    assert_int_equal(mb_address_parse("2001:DB8:0:0::1", 502, &a), 0);
    assert_string_equal(a.text, "2001:db8::1");
    assert_int_equal(mb_address_parse("10.0.0.1", 502, &a), 0);
    assert_string_equal(a.text, "10.0.0.1");
    static const char *const bad[] = { "", "plc", "10.0.0", "10.0.0.256", "::g", "10.0.0.1 " };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(mb_address_parse(bad[i], 502, &a), -EINVAL);
}

int
main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(a_good_answer_brings_its_data),
        T(an_exception_brings_its_code),
        T(an_unknown_transaction_is_dropped_and_counted),
        T(a_late_answer_is_not_taken_for_the_next_one),
        T(an_answer_that_does_not_fit_is_bad_and_the_connection_stays),
        T(garbage_ends_the_connection_and_a_new_one_is_made),
        T(a_time_out_in_the_middle_of_a_frame_ends_the_connection),
        T(a_close_in_the_middle_of_a_frame_loses_the_request),
        T(a_frame_may_come_in_single_bytes),
        T(merged_answers_in_another_order_find_their_requests),
        T(each_request_in_flight_has_its_own_time_out),
        T(silence_makes_the_connection_anew),
        T(a_forgotten_owner_hears_nothing),
        T(an_answer_that_came_in_time_counts_after_a_stall),
        T(nobody_listens_and_then_somebody_does),
        T(pauses_between_attempts_grow),
        cmocka_unit_test(addresses_have_one_spelling),
    };
#undef T
    return cmocka_run_group_tests(tests, NULL, NULL);
}
