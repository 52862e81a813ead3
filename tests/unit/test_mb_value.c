/* Values of every type, order and scaling, out of the data of a command and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/str.h"
#include "services/modbusd/mb_value.h"

static const struct mb_scaling plain = { .on = false };
enum { ROOM = 64 };

static struct mb_codec
codec(enum mb_type type, bool bits, unsigned offset, unsigned size, unsigned swap,
      const struct mb_scaling *s)
{
    struct mb_codec c;
    const char *wrong = mb_codec_init(&c, type, bits, offset, size, bits ? 128 : ROOM, swap, s);
    if (wrong)
        fail_msg("%s", wrong);
    return c;
}

/* Decodes, encodes again, and expects the bytes it came from. */
static struct tag_value
both_ways(const struct mb_codec *c, const struct mb_scaling *s, const uint8_t *data)
{
    static uint8_t room[ROOM];
    uint8_t back[ROOM];
    struct tag_value v;
    mb_decode(c, s, data, room, &v);
    assert_int_equal(v.type, mb_codec_tag_type(c));
    memset(back, 0xEE, sizeof(back));
    assert_int_equal(mb_encode(c, s, &v, back), 0);
    if (!c->bits && c->size > 1)
        assert_memory_equal(back, data + c->offset, c->size);
    return v;
}

static void
each_order_of_bytes_is_the_one_in_the_table(void **state)
{
    (void)state;
    /* the table of mb_value.h: for ABCDEFGH = 11 22 33 44 55 66 77 88 */
    static const struct {
        uint16_t v16;
        uint32_t v32;
        uint64_t v64;
    } table[MB_SWAP_MAX + 1] = {
        { 0x1122, 0x11223344, 0x1122334455667788 }, { 0x2211, 0x22114433, 0x2211443366558877 },
        { 0x1122, 0x33441122, 0x3344112277885566 }, { 0x2211, 0x44332211, 0x4433221188776655 },
        { 0x2211, 0x44332211, 0x8877665544332211 }, { 0x1122, 0x33441122, 0x7788556633441122 },
    };
    uint8_t data[ROOM] = { 0, 0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88 };
    for (unsigned swap = 0; swap <= MB_SWAP_MAX; swap++) {
        struct mb_codec c = codec(MB_UINT16, false, 2, 0, swap, &plain);
        assert_int_equal(both_ways(&c, &plain, data).u, table[swap].v16);
        c = codec(MB_UINT32, false, 2, 0, swap, &plain);
        assert_int_equal(both_ways(&c, &plain, data).u, table[swap].v32);
        c = codec(MB_UINT64, false, 2, 0, swap, &plain);
        assert_true(both_ways(&c, &plain, data).u == table[swap].v64);
        float f;
        c = codec(MB_FLOAT, false, 2, 0, swap, &plain);
        memcpy(&f, &table[swap].v32, sizeof(f));
        assert_true(both_ways(&c, &plain, data).d == (double)f);
        double d;
        c = codec(MB_DOUBLE, false, 2, 0, swap, &plain);
        memcpy(&d, &table[swap].v64, sizeof(d));
        assert_true(both_ways(&c, &plain, data).d == d);
    }
}

static void
signed_numbers_keep_their_sign(void **state)
{
    (void)state;
    uint8_t data[ROOM];
    memset(data, 0xFF, sizeof(data));
    for (unsigned swap = 0; swap <= MB_SWAP_MAX; swap++)
        for (enum mb_type type = MB_INT8; type <= MB_INT64; type++) {
            struct mb_codec c = codec(type, false, 4, 0, swap, &plain);
            struct tag_value v;
            mb_decode(&c, &plain, data, NULL, &v);
            assert_int_equal(v.i, -1);
        }
    uint8_t low[ROOM] = { 0x80, 0, 0, 0, 0, 0, 0, 0 };
    struct mb_codec c = codec(MB_INT64, false, 0, 0, 0, &plain);
    assert_true(both_ways(&c, &plain, low).i == INT64_MIN);
    c = codec(MB_INT16, false, 0, 0, 0, &plain);
    assert_int_equal(both_ways(&c, &plain, low).i, -32768);
}

static void
single_bytes_come_from_their_half_of_the_register(void **state)
{
    (void)state;
    const uint8_t data[ROOM] = { 0x80, 0x01, 0x02, 0x03 };
    struct tag_value v;
    struct mb_codec c = codec(MB_INT8, false, 0, 0, 0, &plain);
    mb_decode(&c, &plain, data, NULL, &v);
    assert_int_equal(v.i, -128);
    assert_false(mb_codec_writable(&c, &plain));
    c = codec(MB_UINT8, false, 0, 0, 1, &plain);
    mb_decode(&c, &plain, data, NULL, &v);
    assert_int_equal(v.u, 1);
    c = codec(MB_UINT8, false, 3, 0, 4, &plain);
    mb_decode(&c, &plain, data, NULL, &v);
    assert_int_equal(v.u, 2);
}

static void
a_boolean_is_a_bit_or_a_register_that_is_not_zero(void **state)
{
    (void)state;
    const uint8_t data[ROOM] = { 0, 0, 0x01, 0, 0, 0x80 };
    const uint8_t bits[16] = { 0x05, 0x80 };
    struct tag_value v;
    static const bool regs[] = { false, true, true };
    for (unsigned i = 0; i < 3; i++) {
        struct mb_codec c = codec(MB_BOOLEAN, false, 2 * i, 0, 3, &plain);
        mb_decode(&c, &plain, data, NULL, &v);
        assert_int_equal(v.type, TAG_BOOLEAN);
        assert_int_equal(v.b, regs[i]);
        uint8_t out[2];
        assert_int_equal(mb_encode(&c, &plain, &v, out), 0);
        assert_int_equal(out[0] << 8 | out[1], regs[i]);
    }
    for (unsigned i = 0; i < 16; i++) {
        struct mb_codec c = codec(MB_BOOLEAN, true, i, 0, 0, &plain);
        assert_int_equal(both_ways(&c, &plain, bits).b, i == 0 || i == 2 || i == 15);
    }
}

static void
bits_make_integers_with_the_first_bit_lowest(void **state)
{
    (void)state;
    const uint8_t bits[16] = { 0xF0, 0xAB, 0xFF, 0x12 };
    struct mb_codec c = codec(MB_UINT8, true, 4, 0, 0, &plain);
    assert_int_equal(both_ways(&c, &plain, bits).u, 0xBF);
    c = codec(MB_UINT16, true, 0, 0, 1, &plain); /* an order of bytes has no meaning here */
    assert_int_equal(both_ways(&c, &plain, bits).u, 0xABF0);
    c = codec(MB_INT8, true, 16, 0, 0, &plain);
    assert_int_equal(both_ways(&c, &plain, bits).i, -1);
    c = codec(MB_RAW, true, 8, 2, 0, &plain);
    struct tag_value v = both_ways(&c, &plain, bits);
    assert_int_equal(v.n_bytes, 2);
    assert_memory_equal(v.bytes, "\xAB\xFF", 2);
}

static void
scaled_numbers_are_double_and_come_back(void **state)
{
    (void)state;
    static const struct {
        struct mb_scaling s;
        double raw, value;
    } table[] = {
        { { true, 0.1, 0 }, 215, 21.5 },
        { { true, 2, -40 }, 20, 0 },
        { { true, -1, 100 }, 30, 70 },
        { { true, 100.0 / 27648, 0 }, 13824, 50 }, /* two points: 0..27648 to 0..100 */
    };
    for (enum mb_type type = MB_INT8; type <= MB_DOUBLE; type++)
        for (size_t i = 0; i < ARRAY_LEN(table); i++) {
            if ((type == MB_INT8 || type == MB_UINT8) || table[i].raw > 32767)
                continue;
            struct mb_codec c = codec(type, false, 0, 0, 0, &table[i].s);
            struct mb_codec raw = codec(type, false, 0, 0, 0, &plain);
            struct tag_value v = { .type = mb_codec_tag_type(&raw) };
            if (type == MB_FLOAT || type == MB_DOUBLE)
                v.d = table[i].raw;
            else
                v.i = (int64_t)table[i].raw;
            uint8_t data[ROOM] = { 0 };
            assert_int_equal(mb_encode(&raw, &plain, &v, data), 0);
            v = both_ways(&c, &table[i].s, data);
            assert_int_equal(v.type, TAG_DOUBLE);
            assert_true(fabs(v.d - table[i].value) < 1e-9);
        }
    struct mb_scaling flat = { true, 0, 5 };
    struct mb_codec c = codec(MB_INT16, false, 0, 0, 0, &flat);
    assert_false(mb_codec_writable(&c, &flat));
    /* text is not scaled */
    c = codec(MB_STRING, false, 0, 4, 0, &table[0].s);
    assert_int_equal(mb_codec_tag_type(&c), TAG_STRING);
}

static void
texts_end_at_their_first_nul_and_are_utf8(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *text;
        unsigned n, swap;
    } table[] = {
        { "Pump 1\0\0", "Pump 1", 8, 0 },
        { "uPpm1 \0\0", "Pump 1", 8, 1 },
        { "\xC3\xA4x\xFFy\xC3", "\xC3\xA4x?y?", 6, 0 },
        { "\xE2\x82\xAC!", "\xE2\x82\xAC!", 4, 0 },
        { "\xED\xA0\x80", "???", 3, 0 },
        { "CDABE", "ABCDE", 5, 2 },
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        uint8_t data[ROOM] = { 0 }, room[ROOM];
        struct tag_value v;
        memcpy(data, table[i].bytes, table[i].n);
        struct mb_codec c = codec(MB_STRING, false, 0, table[i].n, table[i].swap, &plain);
        mb_decode(&c, &plain, data, room, &v);
        assert_int_equal(v.n_bytes, strlen(table[i].text));
        assert_memory_equal(v.bytes, table[i].text, v.n_bytes);
    }
}

static void
raw_is_as_received_and_a_byte_array_is_exchanged(void **state)
{
    (void)state;
    const uint8_t data[ROOM] = { 1, 2, 3, 4, 5, 6 };
    struct mb_codec c = codec(MB_RAW, false, 0, 6, 5, &plain);
    assert_memory_equal(both_ways(&c, &plain, data).bytes, data, 6);
    c = codec(MB_BYTEARRAY, false, 0, 6, 1, &plain);
    assert_memory_equal(both_ways(&c, &plain, data).bytes, "\2\1\4\3\6\5", 6);
    c = codec(MB_BYTEARRAY, false, 0, 6, 3, &plain);
    assert_memory_equal(both_ways(&c, &plain, data).bytes, "\4\3\2\1\6\5", 6);
}

static void
what_does_not_fit_is_refused(void **state)
{
    (void)state;
    static const struct {
        enum mb_type type;
        struct tag_value v;
        int r;
    } table[] = {
        { MB_INT16, { .type = TAG_INT16, .i = 32768 }, -ERANGE },
        { MB_INT16, { .type = TAG_INT16, .i = -32768 }, 0 },
        { MB_INT16, { .type = TAG_UINT16, .i = 1 }, -EINVAL },
        { MB_UINT16, { .type = TAG_UINT16, .u = 65536 }, -ERANGE },
        { MB_UINT32, { .type = TAG_UINT32, .u = 1ull << 32 }, -ERANGE },
        { MB_UINT64, { .type = TAG_UINT64, .u = UINT64_MAX }, 0 },
        { MB_FLOAT, { .type = TAG_FLOAT, .d = 1e39 }, -ERANGE },
        { MB_FLOAT, { .type = TAG_FLOAT, .d = NAN }, -EINVAL },
        { MB_DOUBLE, { .type = TAG_DOUBLE, .d = INFINITY }, -EINVAL },
    };
    uint8_t out[ROOM];
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        struct mb_codec c = codec(table[i].type, false, 0, 0, 0, &plain);
        assert_int_equal(mb_encode(&c, &plain, &table[i].v, out), table[i].r);
    }
    struct mb_scaling tenth = { true, 0.1, 0 };
    struct mb_codec c = codec(MB_UINT16, false, 0, 0, 0, &tenth);
    struct tag_value v = { .type = TAG_DOUBLE, .d = 6553.5 };
    assert_int_equal(mb_encode(&c, &tenth, &v, out), 0);
    v.d = 6553.6;
    assert_int_equal(mb_encode(&c, &tenth, &v, out), -ERANGE);
    v.d = -0.1;
    assert_int_equal(mb_encode(&c, &tenth, &v, out), -ERANGE);
    c = codec(MB_STRING, false, 0, 4, 0, &plain);
    v = (struct tag_value){ .type = TAG_STRING,
                            .bytes = (const uint8_t *)"12345",
                            .n_bytes = 5 };
    assert_int_equal(mb_encode(&c, &plain, &v, out), -ERANGE);
    v.n_bytes = 2; /* shorter text is filled with NUL */
    assert_int_equal(mb_encode(&c, &plain, &v, out), 0);
    assert_memory_equal(out, "12\0\0", 4);
    v.bytes = (const uint8_t *)"1\0002";
    v.n_bytes = 3; /* would be read back as "1" */
    assert_int_equal(mb_encode(&c, &plain, &v, out), -EINVAL);
    v.bytes = (const uint8_t *)"1\xFF";
    v.n_bytes = 2;
    assert_int_equal(mb_encode(&c, &plain, &v, out), -EINVAL);
}

static void
a_tag_outside_its_command_is_refused(void **state)
{
    (void)state;
    struct mb_codec c;
    assert_null(mb_codec_init(&c, MB_UINT32, false, 4, 0, 8, 0, &plain));
    assert_non_null(mb_codec_init(&c, MB_UINT32, false, 5, 0, 8, 0, &plain));
    assert_non_null(mb_codec_init(&c, MB_UINT32, false, 65535, 0, 8, 0, &plain));
    assert_non_null(mb_codec_init(&c, MB_RAW, false, 0, 0, 8, 0, &plain));
    assert_non_null(mb_codec_init(&c, MB_RAW, false, 0, 9, 8, 0, &plain));
    assert_non_null(mb_codec_init(&c, MB_FLOAT, true, 0, 0, 64, 0, &plain));
    assert_non_null(mb_codec_init(&c, MB_RAW, true, 3, 1, 64, 0, &plain));
    assert_non_null(mb_codec_init(&c, MB_BOOLEAN, false, 1, 0, 8, 0, &plain));
    assert_null(mb_codec_init(&c, MB_BOOLEAN, true, 7, 0, 8, 0, &plain));
    assert_non_null(mb_codec_init(&c, MB_BOOLEAN, true, 8, 0, 8, 0, &plain));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_order_of_bytes_is_the_one_in_the_table),
        cmocka_unit_test(signed_numbers_keep_their_sign),
        cmocka_unit_test(single_bytes_come_from_their_half_of_the_register),
        cmocka_unit_test(a_boolean_is_a_bit_or_a_register_that_is_not_zero),
        cmocka_unit_test(bits_make_integers_with_the_first_bit_lowest),
        cmocka_unit_test(scaled_numbers_are_double_and_come_back),
        cmocka_unit_test(texts_end_at_their_first_nul_and_are_utf8),
        cmocka_unit_test(raw_is_as_received_and_a_byte_array_is_exchanged),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(a_tag_outside_its_command_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
