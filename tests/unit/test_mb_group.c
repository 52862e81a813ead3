/*
 * Merged reads in the engine, how requests spread over a period, and how more
 * commands than a line can carry share it: the real engine, connections and sockets against a
 * peer with holes in its registers, on a clock that moves only when nobody has anything left to
 * do.
 */
#define FAKE_PEERS 400

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "libcommon/base.h"
#include "services/modbusd/mb_engine.h"
#include "tests/unit/mb_clock.h"
#include "tests/unit/mb_fake.h"

/* ---- the peer ---- */

enum { TAGS_MAX = 64, INTERVAL_MS = 100, SECOND_US = 1000000 };

/* What it does with a read that touches the hole. */
enum hole { NONE, REFUSES, IGNORES, CLOSES, GARBLES };

static struct {
    struct loop *loop;
    struct fake fake;
    struct mb_engine *engine;
    enum hole hole;
    uint16_t hole_at;
    uint8_t exception;
    bool mute;
    unsigned n_requests;
    uint16_t asked_n[65536]; /* quantity last asked at each address */
    unsigned n_good[TAGS_MAX], n_bad[TAGS_MAX];
    struct tag_sample last[TAGS_MAX];
    struct mb_direct_result direct;
    unsigned n_directs;
    uint64_t slot_us; /* of the busiest millisecond */
    unsigned n_slot, n_slot_most;
    uint64_t step_us;  /* of the clock */
    uint64_t takes_us; /* to answer; one request at a time */
    struct fake_request waits;
    struct loop_timer answer_timer;
} w;

static void
count_slot(void)
{
    if (w.slot_us != clock_us) {
        w.slot_us = clock_us;
        w.n_slot = 0;
    }
    if (++w.n_slot > w.n_slot_most)
        w.n_slot_most = w.n_slot;
}

static void
answer_waiting(void *arg)
{
    (void)arg;
    fake_answer_good(&w.waits);
}

static void
on_request(struct fake_request *r)
{
    uint16_t addr = get_u16(r->pdu + 1), n = get_u16(r->pdu + 3);
    bool touches = w.hole != NONE && w.hole_at >= addr && w.hole_at < addr + n;
    uint8_t short_pdu[] = { r->pdu[0], 2, 0, 0 }, frame[MB_ADU_MAX];
    w.n_requests++;
    w.asked_n[addr] = n;
    count_slot();
    if (w.takes_us) {
        static uint8_t pdu[MB_PDU_MAX];
        assert_false(loop_timer_is_set(&w.answer_timer));
        memcpy(pdu, r->pdu, r->n);
        w.waits = *r;
        w.waits.pdu = pdu;
        assert_int_equal(loop_timer_set(w.loop, &w.answer_timer, clock_us + w.takes_us), 0);
        return;
    }
    if (w.mute || (touches && w.hole == IGNORES))
        return;
    if (!touches)
        fake_answer_good(r);
    else if (w.hole == REFUSES)
        fake_answer_exception(r, w.exception);
    else if (w.hole == GARBLES)
        fake_send(r, frame, fake_frame(r, short_pdu, sizeof(short_pdu), frame));
    else
        (void)shutdown(r->fd, SHUT_RDWR);
}

/* ---- the gateway ---- */

static void
on_sample(void *arg, const struct tag_sample *s)
{
    (void)arg;
    if (s->no >= TAGS_MAX)
        return;
    w.last[s->no] = *s;
    if (s->quality == TAG_GOOD)
        w.n_good[s->no]++;
    else
        w.n_bad[s->no]++;
}

static void
on_changed(void *arg)
{
    (void)arg;
}

static void
on_direct(void *arg, const struct mb_direct_result *r)
{
    (void)arg;
    w.direct = *r;
    w.n_directs++;
}

static void
set_limits(uint32_t gap, uint32_t quantity)
{
    struct mb_iface_config iface = { .provider = "modbus_tcp_master",
                                     .retry_count = 1,
                                     .timeout_ms = 50,
                                     .merge = { gap, quantity } };
    mb_engine_set_iface(w.engine, &iface);
}

static void
on_event(void *arg, const struct mb_event *event)
{
    (void)arg;
    (void)event;
}

static int
set_up(void **state)
{
    (void)state;
    struct mb_engine_hooks hooks = { on_sample, on_changed, on_event, NULL };
    memset(&w, 0, sizeof(w));
    clock_us = SECOND_US;
    w.fake.any = true;
    w.step_us = 1000;
    loop_timer_init(&w.answer_timer, answer_waiting, NULL);
    if (loop_new(&w.loop) < 0 || fake_open(&w.fake, w.loop, on_request, NULL) < 0 ||
        mb_engine_new(w.loop, &hooks, &w.engine) < 0)
        return -1;
    set_limits(8, 125);
    return 0;
}

static int
tear_down(void **state)
{
    (void)state;
    mb_engine_free(w.engine);
    fake_close(&w.fake);
    loop_free(w.loop);
    return 0;
}

static void
run_for(uint64_t us)
{
    clock_run(w.loop, us, w.step_us);
}

static void
count_for(uint64_t us)
{
    w.n_requests = 0;
    memset(w.asked_n, 0, sizeof(w.asked_n));
    memset(w.n_good, 0, sizeof(w.n_good));
    memset(w.n_bad, 0, sizeof(w.n_bad));
    run_for(us);
}

static struct mb_tag_config tags[TAGS_MAX];
static char names[TAGS_MAX][8];

/* A command that may be merged, with one tag at its last address. */
static struct mb_cmd_config
command(uint32_t id, uint8_t func, uint16_t addr, uint16_t n)
{
    bool bits = mb_func_bits(func);
    (void)snprintf(names[id], sizeof(names[id]), "t%u", id);
    tags[id] = (struct mb_tag_config){ .id = id,
                                       .type = bits ? MB_BOOLEAN : MB_UINT16,
                                       .access = TAG_ACCESS_READ,
                                       .offset = (uint16_t)(bits ? n - 1 : 2 * (n - 1)),
                                       .name = names[id],
                                       .unit = "" };
    return (struct mb_cmd_config){ .id = id,
                                   .name = "command",
                                   .enable = true,
                                   .merge = true,
                                   .func = func,
                                   .read_addr = addr,
                                   .read_n = n,
                                   .interval_ms = INTERVAL_MS,
                                   .tags = &tags[id],
                                   .n_tags = 1 };
}

static void
set_device(const struct mb_cmd_config *cmds, size_t n)
{
    struct mb_dev_config cfg = { .id = 1,
                                 .enable = true,
                                 .name = "pump",
                                 .unit = 1,
                                 .addr = "127.0.0.1",
                                 .port = w.fake.port,
                                 .limit = 1,
                                 .cmds = cmds,
                                 .n_cmds = n };
    assert_int_equal(mb_engine_set_device(w.engine, &cfg), 0);
    assert_int_equal(mb_engine_publish_changes(w.engine), 0);
}

/* Of the last window: each of the first n tags had so many good samples, or one more or less.
 */
static void
check_good(unsigned n, unsigned samples)
{
    for (unsigned id = 1; id <= n; id++) {
        assert_in_range(w.n_good[id], samples - 1, samples + 1);
        assert_int_equal(w.n_bad[id], 0);
    }
}

/* ---- tests ---- */

static void
neighbours_are_read_in_one_request_and_each_tag_has_its_own_value(void **state)
{
    (void)state;
    struct mb_cmd_config c[] = { command(1, 3, 100, 10), command(2, 3, 118, 4),
                                 command(3, 3, 110, 1),  command(4, 3, 134, 1),
                                 command(5, 4, 111, 1),  command(6, 3, 120, 5) };
    set_device(c, 6);
    run_for(SECOND_US);
    count_for(SECOND_US);
    check_good(6, 10);
    assert_in_range(w.n_requests, 27,
                    33); /* function 3 up to 124, then behind the gap, function 4 */
    assert_int_equal(w.asked_n[100], 25);
    assert_int_equal(w.asked_n[134], 1);
    static const uint16_t value[] = { 0, 109, 121, 110, 134, 111, 124 };
    for (unsigned id = 1; id <= 6; id++)
        assert_int_equal(w.last[id].value.u, value[id]);
    assert_int_equal(w.last[1].ts_us, w.last[2].ts_us);
}

static void
bits_are_merged_across_bytes(void **state)
{
    (void)state;
    struct mb_cmd_config c[] = { command(1, 1, 3, 7), command(2, 1, 13, 1),
                                 command(3, 1, 15, 2), command(4, 2, 3, 1) };
    set_device(c, 4);
    run_for(SECOND_US);
    count_for(SECOND_US);
    check_good(4, 10);
    assert_in_range(w.n_requests, 18, 22);
    assert_int_equal(w.asked_n[3], 1); /* function 2 was the last */
    /* Every third bit is set. */
    assert_int_equal(w.last[1].value.u, 1);
    assert_int_equal(w.last[2].value.u, 0);
    assert_int_equal(w.last[3].value.u, 0);
    assert_int_equal(w.last[4].value.u, 1);
}

static void
only_what_allows_it_is_merged(void **state)
{
    (void)state;
    struct mb_cmd_config c[] = { command(1, 3, 1, 1), command(2, 3, 2, 1), command(3, 3, 3, 1),
                                 command(4, 3, 4, 1) };
    c[1].merge = false;
    c[2].interval_ms = 200;
    set_device(c, 4);
    run_for(SECOND_US);
    count_for(SECOND_US);
    assert_in_range(w.n_requests, 23,
                    27); /* 1 with 4 over the gap, 2, and 3 at half the pace */
    assert_int_equal(w.asked_n[1], 4);
    set_limits(1, 125);
    run_for(SECOND_US);
    count_for(SECOND_US);
    assert_in_range(w.n_requests, 32, 38); /* the gap is too large now */
    check_good(2, 10);
    set_limits(2, 125);
    run_for(SECOND_US);
    count_for(SECOND_US);
    assert_in_range(w.n_requests, 23, 27);
}

/* No value is lost by the option, whatever the device does where it has no registers. */
static void
check_hole(enum hole hole, uint8_t exception)
{
    struct mb_cmd_config c[] = { command(1, 3, 100, 2), command(2, 3, 104, 2),
                                 command(3, 3, 106, 1) };
    w.hole = hole;
    w.hole_at = 103;
    w.exception = exception;
    set_device(c, 3);
    run_for(SECOND_US);
    count_for(SECOND_US);
    check_good(3, 10);
    assert_in_range(w.n_requests, 28, 32);
    assert_int_equal(w.asked_n[100], 2);
}

static void
what_a_device_refuses_is_asked_one_by_one(void **state)
{
    (void)state;
    check_hole(REFUSES, 2);
    w.hole = NONE;
    count_for(SECOND_US);
    assert_int_equal(w.asked_n[100], 2); /* it is remembered */
    struct mb_cmd_config c[] = { command(1, 3, 100, 2), command(2, 3, 104, 2),
                                 command(3, 3, 106, 1) };
    set_device(c, 3); /* a new configuration: it is tried again */
    run_for(SECOND_US);
    count_for(SECOND_US);
    check_good(3, 10);
    assert_in_range(w.n_requests, 9, 11);
}

static void
a_refusal_that_comes_later_costs_no_sample(void **state)
{
    (void)state;
    struct mb_cmd_config c[] = { command(1, 3, 100, 2), command(2, 3, 104, 2) };
    set_device(c, 2);
    run_for(SECOND_US);
    w.hole = REFUSES;
    w.hole_at = 102;
    w.exception = 2;
    count_for(SECOND_US);
    check_good(2, 10);
    assert_in_range(w.n_requests, 20, 23);
}

static void
merging_is_tried_again_after_an_hour(void **state)
{
    (void)state;
    struct mb_cmd_config c[] = { command(1, 3, 100, 2), command(2, 3, 104, 2) };
    c[0].interval_ms = c[1].interval_ms = 60000;
    w.step_us = 20000;
    w.hole = REFUSES;
    w.hole_at = 102;
    w.exception = 2;
    set_device(c, 2);
    count_for(50 * 60ull * SECOND_US);
    check_good(2, 50);
    assert_in_range(w.n_requests, 99, 104);
    w.hole = NONE;
    run_for(15 * 60ull * SECOND_US);
    count_for(10 * 60ull * SECOND_US);
    check_good(2, 10);
    assert_in_range(w.n_requests, 9, 11);
    assert_int_equal(w.asked_n[100], 6);
}

static void
what_a_device_ignores_is_asked_one_by_one(void **state)
{
    (void)state;
    check_hole(IGNORES, 0);
}

static void
what_a_device_closes_on_is_asked_one_by_one(void **state)
{
    (void)state;
    check_hole(CLOSES, 0);
}

static void
what_a_device_garbles_is_asked_one_by_one(void **state)
{
    (void)state;
    check_hole(GARBLES, 0);
}

static void
a_device_that_was_away_is_still_read_in_one_request(void **state)
{
    (void)state;
    struct mb_cmd_config c[] = { command(1, 3, 100, 2), command(2, 3, 104, 2) };
    set_device(c, 2);
    run_for(SECOND_US);
    w.mute = true;
    count_for(SECOND_US);
    assert_int_equal(w.n_good[1] + w.n_good[2], 0);
    assert_int_equal(w.last[1].quality, TAG_BAD_TIMEOUT);
    assert_int_equal(w.last[2].quality, TAG_BAD_TIMEOUT);
    w.mute = false;
    run_for(SECOND_US);
    count_for(SECOND_US);
    check_good(2, 10);
    assert_in_range(w.n_requests, 9, 11);
}

static void
a_device_that_was_off_at_the_start_is_read_in_one_request_once_it_is_on(void **state)
{
    (void)state;
    struct mb_cmd_config c[] = { command(1, 3, 100, 2), command(2, 3, 104, 2) };
    w.mute = true;
    set_device(c, 2);
    run_for(5 * SECOND_US);
    assert_int_equal(w.last[2].quality, TAG_BAD_TIMEOUT);
    w.mute = false;
    run_for(6 * SECOND_US); /* connections that brought nothing are made anew more seldom */
    count_for(SECOND_US);
    check_good(2, 10);
    assert_in_range(w.n_requests, 9, 11);
}

static void
a_busy_device_is_still_read_in_one_request(void **state)
{
    (void)state;
    struct mb_cmd_config c[] = { command(1, 3, 100, 2), command(2, 3, 104, 2) };
    set_device(c, 2);
    run_for(SECOND_US);
    w.hole = REFUSES;
    w.hole_at = 100;
    w.exception = 6;
    count_for(SECOND_US);
    assert_int_equal(w.last[1].quality, TAG_BAD_EXCEPTION);
    assert_int_equal(w.last[2].quality, TAG_BAD_EXCEPTION);
    w.hole = NONE;
    run_for(SECOND_US);
    count_for(SECOND_US);
    assert_in_range(w.n_requests, 9, 11);
}

static void
a_direct_read_asks_for_its_command_only(void **state)
{
    (void)state;
    struct mb_cmd_config c[] = { command(1, 3, 100, 2), command(2, 3, 104, 2) };
    struct mb_direct_result now;
    set_device(c, 2);
    run_for(SECOND_US);
    w.asked_n[104] = 0;
    assert_true(mb_engine_read(w.engine, 2, clock_us + SECOND_US, on_direct, NULL, &now));
    run_for(50000);
    assert_int_equal(w.n_directs, 1);
    assert_int_equal(w.direct.status, MB_DIRECT_OK);
    assert_int_equal(w.asked_n[104], 2);
}

static void
a_command_that_joins_or_leaves_costs_the_others_no_sample(void **state)
{
    (void)state;
    struct mb_cmd_config c[] = { command(1, 3, 100, 2), command(2, 3, 104, 2),
                                 command(3, 3, 106, 1) };
    struct mb_engine_stats s;
    set_device(c, 2);
    run_for(SECOND_US + 30000);
    count_for(0);
    for (unsigned i = 0; i < 10; i++) {
        set_device(c, i % 2 ? 2 : 3);
        run_for(SECOND_US + 10000 * i);
    }
    assert_in_range(w.n_good[1], 103, 116);
    assert_in_range(w.n_good[2], 103, 116);
    assert_int_equal(w.n_bad[1] + w.n_bad[2] + w.n_bad[3], 0);
    mb_engine_get_stats(w.engine, &s);
    assert_int_equal(s.overruns, 0);
}

static void
requests_of_many_devices_spread_over_the_period(void **state)
{
    (void)state;
    for (unsigned id = 1; id <= FAKE_PEERS; id++) {
        struct mb_cmd_config c = command(1, 3, (uint16_t)id, 1);
        struct mb_dev_config cfg = { .id = id,
                                     .enable = true,
                                     .name = "pump",
                                     .addr = "127.0.0.1",
                                     .port = w.fake.port,
                                     .limit = 1,
                                     .cmds = &c,
                                     .n_cmds = 1 };
        c.interval_ms = 1000;
        char addr[16];
        (void)snprintf(addr, sizeof(addr), "127.0.%u.%u", id / 200, 1 + id % 200);
        cfg.addr = addr;
        assert_int_equal(mb_engine_set_device(w.engine, &cfg), 0);
    }
    assert_int_equal(mb_engine_publish_changes(w.engine), 0);
    count_for(1100000);
    assert_in_range(w.n_requests, FAKE_PEERS, FAKE_PEERS + 80);
    assert_in_range(w.n_slot_most, 1, 5); /* of 400 in 1,000 ms, at the start too */
    w.n_slot_most = 0;
    count_for(10ull * SECOND_US);
    assert_int_equal(w.n_requests, 10 * FAKE_PEERS);
    assert_in_range(w.n_slot_most, 1, 2);
}

/* 30 commands want 300 requests a second, the line carries 100. */
static void
a_line_that_is_too_slow_is_never_idle_and_serves_all(void **state)
{
    (void)state;
    enum { N = 30 };
    struct mb_cmd_config c[N];
    struct mb_engine_stats s;
    for (unsigned i = 0; i < N; i++) {
        c[i] = command(i + 1, 3, (uint16_t)(1 + 200 * i), 1);
        c[i].interval_ms = INTERVAL_MS * (1 + i % 2);
    }
    w.takes_us = 10000;
    set_device(c, N);
    run_for(SECOND_US);
    count_for(30ull * SECOND_US);
    assert_in_range(w.n_requests, 2995, 3001);
    /* Between alike (100 each) and by what they want (133 and 67). */
    for (unsigned id = 1; id <= N; id++)
        assert_in_range(w.n_good[id], 66, 134);
    mb_engine_get_stats(w.engine, &s);
    assert_true(s.overruns > 0);
    assert_int_equal(s.conn.timeouts, 0);
}

int
main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest all[] = {
        T(neighbours_are_read_in_one_request_and_each_tag_has_its_own_value),
        T(bits_are_merged_across_bytes),
        T(only_what_allows_it_is_merged),
        T(what_a_device_refuses_is_asked_one_by_one),
        T(a_refusal_that_comes_later_costs_no_sample),
        T(merging_is_tried_again_after_an_hour),
        T(what_a_device_ignores_is_asked_one_by_one),
        T(what_a_device_closes_on_is_asked_one_by_one),
        T(what_a_device_garbles_is_asked_one_by_one),
        T(a_device_that_was_away_is_still_read_in_one_request),
        T(a_device_that_was_off_at_the_start_is_read_in_one_request_once_it_is_on),
        T(a_busy_device_is_still_read_in_one_request),
        T(a_direct_read_asks_for_its_command_only),
        T(a_command_that_joins_or_leaves_costs_the_others_no_sample),
        T(requests_of_many_devices_spread_over_the_period),
        T(a_line_that_is_too_slow_is_never_idle_and_serves_all),
    };
#undef T
    return cmocka_run_group_tests(all, NULL, NULL);
}
