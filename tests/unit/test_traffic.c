/* The traffic log: its ring, what it lets in, and what it says of a frame. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "libcommon/base.h"
#include "services/modbusd/traffic.h"

static struct traffic traffic;
static const struct traffic_filter all;

static int
set_up(void **state)
{
    (void)state;
    return traffic_reserve(&traffic);
}

static int
tear_down(void **state)
{
    (void)state;
    traffic_done(&traffic);
    return 0;
}

/* A request to read one register of 'unit' at 'port'. */
static void
pass(uint16_t port, uint8_t unit)
{
    uint8_t bytes[MB_ADU_MAX];
    const uint8_t pdu[] = { 3, 0, 1, 0, 1 };
    struct traffic_frame f = { .framing = TRAFFIC_TCP,
                               .sent = true,
                               .request = true,
                               .peer = "10.0.0.1",
                               .port = port,
                               .bytes = bytes,
                               .n = mb_frame_encode(7, unit, pdu, sizeof(pdu), bytes) };
    traffic_note(&traffic, &f);
}

static void
nothing_is_kept_while_it_is_off(void **state)
{
    (void)state;
    struct traffic_frame f = { .bytes = NULL };
    traffic_note(NULL, &f);
    pass(502, 1);
    assert_int_equal(traffic.last, 0);
    assert_true(traffic_oldest(&traffic) > traffic.last);
    traffic_start(&traffic, true, &all);
    pass(502, 1);
    traffic_stop(&traffic);
    pass(502, 2);
    assert_int_equal(traffic.last, 1);
    assert_int_equal(traffic_entry(&traffic, 1)->bytes[6], 1);
}

static void
a_full_log_stops_and_keeps_the_first(void **state)
{
    (void)state;
    traffic_start(&traffic, false, &all);
    for (unsigned i = 0; i < TRAFFIC_ENTRIES_MAX + 10; i++)
        pass((uint16_t)(i + 1), 1);
    assert_false(traffic.on);
    assert_int_equal(traffic.last, TRAFFIC_ENTRIES_MAX);
    assert_int_equal(traffic_oldest(&traffic), 1);
    assert_int_equal(traffic_entry(&traffic, 1)->port, 1);
    traffic_start(&traffic, false, &all);
    assert_int_equal(traffic.last, 0);
}

static void
a_rolling_log_keeps_the_last(void **state)
{
    (void)state;
    traffic_start(&traffic, true, &all);
    for (unsigned i = 0; i < TRAFFIC_ENTRIES_MAX + 10; i++)
        pass((uint16_t)(i + 1), 1);
    assert_true(traffic.on);
    assert_int_equal(traffic.last, TRAFFIC_ENTRIES_MAX + 10);
    assert_int_equal(traffic_oldest(&traffic), 11);
    for (uint64_t n = traffic_oldest(&traffic); n <= traffic.last; n++)
        assert_int_equal(traffic_entry(&traffic, n)->port, n);
}

static void
a_filter_lets_in_one_unit_of_one_peer(void **state)
{
    (void)state;
    struct traffic_filter one = { .on = true, .peer = "10.0.0.1", .port = 502, .unit = 3 };
    traffic_start(&traffic, true, &one);
    pass(502, 2);
    pass(503, 3);
    pass(502, 3);
    assert_int_equal(traffic.last, 1);
    struct traffic_frame garbage = { .framing = TRAFFIC_TCP,
                                     .peer = "10.0.0.1",
                                     .port = 502,
                                     .bytes = (const uint8_t *)"??",
                                     .n = 2 };
    traffic_note(&traffic, &garbage);
    garbage.peer = "10.0.0.2";
    traffic_note(&traffic, &garbage);
    assert_int_equal(traffic.last, 2);
}

static void
too_many_bytes_are_cut_off(void **state)
{
    (void)state;
    uint8_t bytes[2 * MB_SERIAL_MAX] = { 0 };
    struct traffic_frame f = { .framing = TRAFFIC_RTU, .bytes = bytes, .n = sizeof(bytes) };
    traffic_start(&traffic, true, &all);
    traffic_note(&traffic, &f);
    assert_int_equal(traffic_entry(&traffic, 1)->n, MB_SERIAL_MAX);
}

static void
the_pdu_is_found_in_each_framing(void **state)
{
    (void)state;
    static const uint8_t pdu[] = { 16, 0, 9, 0, 1, 2, 0xAB, 0xCD };
    uint8_t bytes[MB_SERIAL_MAX], found[MB_PDU_MAX], unit = 0;
    size_t n[] = { [TRAFFIC_TCP] = mb_frame_encode(1, 17, pdu, sizeof(pdu), bytes) };
    assert_int_equal(traffic_pdu(TRAFFIC_TCP, bytes, n[0], &unit, found), sizeof(pdu));
    assert_memory_equal(found, pdu, sizeof(pdu));
    assert_int_equal(unit, 17);
    const struct mb_framing *framings[] = {
        [TRAFFIC_RTU] = &mb_rtu, [TRAFFIC_ASCII] = &mb_ascii
    };
    for (int i = TRAFFIC_RTU; i <= TRAFFIC_ASCII; i++) {
        size_t size = framings[i]->encode((uint8_t)(17 + i), pdu, sizeof(pdu), bytes);
        memset(found, 0, sizeof(found));
        assert_int_equal(traffic_pdu((enum traffic_framing)i, bytes, size, &unit, found),
                         sizeof(pdu));
        assert_memory_equal(found, pdu, sizeof(pdu));
        assert_int_equal(unit, 17 + i);
    }
    /* Whatever arrived, and however much of it. */
    for (size_t size = 0; size <= sizeof(bytes); size++)
        for (int i = TRAFFIC_TCP; i <= TRAFFIC_ASCII; i++)
            (void)traffic_pdu((enum traffic_framing)i, bytes, size, &unit, found);
}

static void
a_fault_says_what_does_not_fit(void **state)
{
    (void)state;
    static const uint8_t read[] = { 3, 0, 10, 0, 2 }, write[] = { 6, 0, 10, 0, 2 };
    static const struct {
        const uint8_t *head;
        uint8_t pdu[6];
        size_t n;
        enum traffic_fault fault;
    } cases[] = {
        { read, { 4, 4, 0, 1, 0, 2 }, 6, TRAFFIC_FUNCTION },
        { read, { 3, 2, 0, 1 }, 4, TRAFFIC_LENGTH },
        { read, { 3 }, 1, TRAFFIC_LENGTH },
        { read, { 0 }, 0, TRAFFIC_FUNCTION },
        { write, { 6, 0, 10, 0 }, 4, TRAFFIC_LENGTH },
        { write, { 6, 0, 11, 0, 2 }, 5, TRAFFIC_ADDRESS },
        { write, { 6, 0, 10, 0, 3 }, 5, TRAFFIC_VALUE },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_int_equal(traffic_fault_of(cases[i].head, cases[i].pdu, cases[i].n),
                         cases[i].fault);
}

static void
frames_are_put_into_words(void **state)
{
    (void)state;
    static const struct {
        bool request;
        uint8_t pdu[16];
        size_t n;
        const char *text;
    } cases[] = {
        { true, { 3, 0, 10, 0, 4 }, 5, "read holding registers 10..13" },
        { true, { 4, 0, 10, 0, 1 }, 5, "read input registers 10" },
        { false, { 3, 4, 0, 1, 255, 255 }, 6, "read holding registers: 1 65535" },
        { false, { 1, 1, 0x05 }, 3, "read coils: 10100000" },
        { true, { 5, 0, 7, 0xFF, 0 }, 5, "write coil 7: 1" },
        { false, { 6, 0, 7, 1, 0 }, 5, "write register 7: 256" },
        { true, { 16, 0, 7, 0, 1, 2, 0, 9 }, 8, "write registers 7: 9" },
        { false, { 16, 0, 7, 0, 2 }, 5, "write registers 7..8" },
        { true, { 15, 0, 0, 0, 8, 1, 1 }, 7, "write coils 0..7: 10000000" },
        { true,
          { 23, 0, 1, 0, 2, 0, 5, 0, 1, 2, 0, 3 },
          12,
          "read and write registers 1..2, write 5: 3" },
        { false, { 0x83, 2 }, 2, "read holding registers: exception 2, illegal data address" },
        { true, { 43, 14, 1, 0 }, 4, "" },
        { true, { 3, 0 }, 2, "read holding registers" },
        { true, { 0 }, 0, "" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct buf b;
        buf_init(&b, 4096);
        traffic_put_text(&b, cases[i].request, cases[i].pdu, cases[i].n);
        assert_string_equal(buf_text(&b), cases[i].text);
        buf_done(&b);
    }
}

static void
of_many_values_the_first_are_shown(void **state)
{
    (void)state;
    uint8_t pdu[MB_PDU_MAX] = { 3, 250 };
    struct buf b;
    buf_init(&b, 4096);
    traffic_put_text(&b, false, pdu, 252);
    assert_int_equal(b.len,
                     strlen("read holding registers:") + 32 * strlen(" 0") + strlen(" …"));
    buf_reset(&b);
    pdu[0] = 1;
    traffic_put_text(&b, false, pdu, 252);
    assert_int_equal(b.len, strlen("read coils: ") + 128 + strlen("…"));
    buf_done(&b);
}

int
main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(nothing_is_kept_while_it_is_off),    T(a_full_log_stops_and_keeps_the_first),
        T(a_rolling_log_keeps_the_last),       T(a_filter_lets_in_one_unit_of_one_peer),
        T(too_many_bytes_are_cut_off),         T(the_pdu_is_found_in_each_framing),
        T(a_fault_says_what_does_not_fit),     T(frames_are_put_into_words),
        T(of_many_values_the_first_are_shown),
    };
#undef T
    return cmocka_run_group_tests(tests, NULL, NULL);
}
