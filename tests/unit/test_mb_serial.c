/* Frames of serial lines: known ones, every cut, every wrong bit, and what else is on a line.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "libcommon/base.h"
#include "services/modbusd/mb_serial.h"

enum { UNIT = 0x11, LINE_MAX_BYTES = 2048 };

/* Answers to: 03 at 0x006B, 3 registers (Modbus Application Protocol V1.1b3, 6.3). */
static const struct mb_awaited awaited = { UNIT, { 0x03, 0x00, 0x6B, 0x00, 0x03 } };
static const uint8_t answer[] = { 0x03, 0x06, 0x02, 0x2B, 0x00, 0x00, 0x00, 0x64 };
static const uint8_t exception[] = { 0x83, 0x02 };

struct line {
    uint8_t bytes[LINE_MAX_BYTES];
    size_t n;
};

static void
put(struct line *l, const void *bytes, size_t n)
{
    assert_true(l->n + n <= sizeof(l->bytes));
    memcpy(l->bytes + l->n, bytes, n);
    l->n += n;
}

static void
put_frame(struct line *l, const struct mb_framing *f, uint8_t unit, const uint8_t *pdu,
          size_t n)
{
    uint8_t frame[MB_SERIAL_MAX];
    put(l, frame, f->encode(unit, pdu, n, frame));
}

static enum mb_seen
look(const struct mb_framing *f, const struct line *l, bool quiet, struct mb_serial_frame *ret)
{
    return f->look(&awaited, l->bytes, l->n, quiet, ret);
}

static void
assert_answer(const struct mb_framing *f, const struct line *l)
{
    struct mb_serial_frame frame = { 0 };
    assert_int_equal(look(f, l, false, &frame), MB_SEEN_FRAME);
    assert_int_equal(frame.n, sizeof(answer));
    assert_memory_equal(frame.pdu, answer, sizeof(answer));
}

static const struct mb_framing *const both[] = { &mb_rtu, &mb_ascii };

static void
frames_of_the_standard_are_encoded(void **state)
{
    /* Modbus over Serial Line V1.02 has 02 07 41 12 as its example of a CRC (appendix B). */
    static const uint8_t rtu[] = { 0x02, 0x07, 0x41, 0x12 };
    static const uint8_t read[] = { 0x03, 0x00, 0x6B, 0x00, 0x03 };
    static const uint8_t read_rtu[] = { 0x11, 0x03, 0x00, 0x6B, 0x00, 0x03, 0x76, 0x87 };
    static const char read_ascii[] = ":1103006B00037E\r\n";
    uint8_t out[MB_SERIAL_MAX];
    (void)state;
    assert_int_equal(mb_rtu.encode(2, rtu + 1, 1, out), sizeof(rtu));
    assert_memory_equal(out, rtu, sizeof(rtu));
    assert_int_equal(mb_rtu.encode(0x11, read, sizeof(read), out), sizeof(read_rtu));
    assert_memory_equal(out, read_rtu, sizeof(read_rtu));
    assert_int_equal(mb_ascii.encode(0x11, read, sizeof(read), out), strlen(read_ascii));
    assert_memory_equal(out, read_ascii, strlen(read_ascii));
}

static void
the_longest_frames_fit(void **state)
{
    uint8_t pdu[MB_PDU_MAX], out[MB_SERIAL_MAX];
    (void)state;
    memset(pdu, 0xA5, sizeof(pdu));
    assert_int_equal(mb_rtu.encode(1, pdu, sizeof(pdu), out), 256);
    assert_int_equal(mb_ascii.encode(1, pdu, sizeof(pdu), out), 513);
}

static void
an_answer_is_seen_at_its_last_byte_and_not_before(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(both); k++) {
        struct line whole = { .n = 0 };
        struct mb_serial_frame frame;
        put_frame(&whole, both[k], UNIT, answer, sizeof(answer));
        for (size_t n = 1; n < whole.n; n++) {
            struct line cut = whole;
            cut.n = n;
            assert_int_equal(look(both[k], &cut, false, &frame), MB_SEEN_PART);
        }
        assert_answer(both[k], &whole);
    }
}

static void
an_answer_that_is_cut_off_is_corrupt_when_the_line_is_quiet(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(both); k++) {
        struct line l = { .n = 0 };
        struct mb_serial_frame frame;
        put_frame(&l, both[k], UNIT, answer, sizeof(answer));
        while (--l.n > 2)
            assert_int_equal(look(both[k], &l, true, &frame), MB_SEEN_CORRUPT);
        l.n = 1; /* a single byte is noise */
        assert_int_equal(look(both[k], &l, true, &frame), MB_SEEN_NOTHING);
    }
}

static void
no_wrong_bit_passes(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(both); k++) {
        struct line whole = { .n = 0 };
        struct mb_serial_frame frame;
        put_frame(&whole, both[k], UNIT, answer, sizeof(answer));
        for (size_t bit = 0; bit < 8 * whole.n; bit++) {
            struct line l = whole;
            l.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            enum mb_seen seen = look(both[k], &l, true, &frame);
            /* Small letters are the same digits. */
            bool same = both[k] == &mb_ascii && bit % 8 == 5 && whole.bytes[bit / 8] >= 'A';
            assert_int_equal(seen == MB_SEEN_FRAME, same);
        }
    }
}

static void
an_exception_is_a_frame(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(both); k++) {
        struct line l = { .n = 0 };
        struct mb_serial_frame frame = { 0 };
        put_frame(&l, both[k], UNIT, exception, sizeof(exception));
        assert_int_equal(look(both[k], &l, false, &frame), MB_SEEN_FRAME);
        assert_int_equal(frame.n, 2);
        assert_memory_equal(frame.pdu, exception, 2);
    }
}

static void
what_is_on_the_line_before_the_answer_is_passed_over(void **state)
{
    static const uint8_t noise[] = { 0x00, 0xFF, UNIT, 0x03, 0x11, 0x83,
                                     UNIT, 0x00, ':',  '1',  '1' };
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(both); k++)
        for (size_t n = 0; n <= sizeof(noise); n++) {
            struct line l = { .n = 0 };
            put(&l, noise, n);
            put_frame(&l, both[k], UNIT, answer, sizeof(answer));
            assert_answer(both[k], &l);
        }
}

static void
frames_of_other_units_are_foreign_and_passed_over(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(both); k++) {
        struct line l = { .n = 0 };
        struct mb_serial_frame frame;
        put_frame(&l, both[k], UNIT + 1, answer, sizeof(answer));
        assert_int_equal(look(both[k], &l, true, &frame), MB_SEEN_FOREIGN);
        put_frame(&l, both[k], UNIT, answer, sizeof(answer));
        assert_answer(both[k], &l);
    }
}

static void
a_frame_of_the_unit_with_another_function_is_a_frame_when_the_line_is_quiet(void **state)
{
    static const uint8_t other[] = { 0x04, 0x02, 0x00, 0x01 };
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(both); k++) {
        struct line l = { .n = 0 };
        struct mb_serial_frame frame = { 0 };
        put_frame(&l, both[k], UNIT, other, sizeof(other));
        assert_int_equal(look(both[k], &l, true, &frame), MB_SEEN_FRAME);
        assert_int_equal(frame.n, sizeof(other));
    }
}

static void
ascii_frames_that_are_none_are_corrupt_or_nothing(void **state)
{
    static const struct {
        const char *text;
        enum mb_seen seen;
    } cases[] = {
        { "", MB_SEEN_NOTHING },
        { "11030602", MB_SEEN_NOTHING },
        { ":\r\n", MB_SEEN_FOREIGN },
        { ":11\r\n", MB_SEEN_CORRUPT },
        { ":1103\r\n", MB_SEEN_CORRUPT },
        { ":110306022B00000064\r\n", MB_SEEN_CORRUPT },    /* no LRC */
        { ":110306022B0000006455F\r\n", MB_SEEN_CORRUPT }, /* an odd digit */
        { ":11030G022B0000006455\r\n", MB_SEEN_CORRUPT },  /* no digit */
        { ":110306022B0000006455\n", MB_SEEN_CORRUPT },    /* no CR */
        { ":110306022B0000006455\r\n", MB_SEEN_FRAME },
        { ":110306022b0000006455\r\n", MB_SEEN_FRAME },
        { ":1103:110306022B0000006455\r\n", MB_SEEN_FRAME }, /* begun anew */
        { ":110306022B0000006455\r\n:11", MB_SEEN_FRAME },
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct line l = { .n = 0 };
        struct mb_serial_frame frame;
        put(&l, cases[i].text, strlen(cases[i].text));
        assert_int_equal(look(&mb_ascii, &l, true, &frame), cases[i].seen);
    }
}

static void
an_ascii_frame_of_any_length_stays_within_its_room(void **state)
{
    (void)state;
    for (size_t digits = 0; digits < 1200; digits++) {
        struct line l = { .n = 0 };
        struct mb_serial_frame frame;
        put(&l, ":11", 3);
        for (size_t i = 0; i < digits; i++)
            put(&l, "0", 1);
        put(&l, "\r\n", 2);
        assert_int_equal(look(&mb_ascii, &l, true, &frame), MB_SEEN_CORRUPT);
    }
}

static void
the_size_of_an_answer_follows_from_its_request(void **state)
{
    static const struct {
        uint8_t func;
        uint16_t quantity;
        size_t size;
    } cases[] = {
        { 1, 1, 3 },     { 1, 8, 3 },    { 1, 9, 4 },      { 2, 2000, 252 },
        { 3, 125, 252 }, { 4, 1, 4 },    { 5, 1, 5 },      { 6, 77, 5 },
        { 15, 10, 5 },   { 16, 123, 5 }, { 23, 125, 252 },
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint8_t func = cases[i].func, other = func == 3 ? 4 : 3;
        uint8_t head[MB_HEAD_SIZE] = { func, 0, 0, (uint8_t)(cases[i].quantity >> 8),
                                       (uint8_t)cases[i].quantity };
        assert_int_equal(mb_answer_size(head, func), cases[i].size);
        assert_int_equal(mb_answer_size(head, func | 0x80), 2);
        assert_int_equal(mb_answer_size(head, other), 0);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_of_the_standard_are_encoded),
        cmocka_unit_test(the_longest_frames_fit),
        cmocka_unit_test(an_answer_is_seen_at_its_last_byte_and_not_before),
        cmocka_unit_test(an_answer_that_is_cut_off_is_corrupt_when_the_line_is_quiet),
        cmocka_unit_test(no_wrong_bit_passes),
        cmocka_unit_test(an_exception_is_a_frame),
        cmocka_unit_test(what_is_on_the_line_before_the_answer_is_passed_over),
        cmocka_unit_test(frames_of_other_units_are_foreign_and_passed_over),
        cmocka_unit_test(
            a_frame_of_the_unit_with_another_function_is_a_frame_when_the_line_is_quiet),
        cmocka_unit_test(ascii_frames_that_are_none_are_corrupt_or_nothing),
        cmocka_unit_test(an_ascii_frame_of_any_length_stays_within_its_room),
        cmocka_unit_test(the_size_of_an_answer_follows_from_its_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
