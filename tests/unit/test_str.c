/* Copies, numbers, UTF-8 and hexadecimal at their boundaries. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "libcommon/base.h"
#include "libcommon/str.h"

static void
test_copies_refuse_to_truncate(void **state)
{
    (void)state;
    char out[4] = "xyz";
    assert_int_equal(str_copy(out, sizeof(out), "abc"), 0);
    assert_string_equal(out, "abc");
    assert_int_equal(str_copy(out, sizeof(out), "abcd"), -E2BIG);
    assert_string_equal(out, "");
    assert_int_equal(str_copy_len(out, sizeof(out), "abcdef", 3), 0);
    assert_string_equal(out, "abc");
    assert_int_equal(str_copy_len(out, sizeof(out), NULL, 0), 0);
    assert_string_equal(out, "");
    assert_int_equal(str_copy(out, 0, ""), -E2BIG);
}

static void
test_unsigned_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int result;
        uint64_t value;
    } cases[] = {
        { "0", 0, 0 },
        { "18446744073709551615", 0, UINT64_MAX },
        { "18446744073709551616", -ERANGE, 0 },
        { "99999999999999999999999999999999", -ERANGE, 0 },
        { "99999999999999999999999x", -EINVAL, 0 },
        { "9007199254740993", 0, 9007199254740993 },
        { "", -EINVAL, 0 },
        { "-1", -EINVAL, 0 },
        { "+1", -EINVAL, 0 },
        { " 1", -EINVAL, 0 },
        { "1 ", -EINVAL, 0 },
        { "0x1", -EINVAL, 0 },
        { "1e3", -EINVAL, 0 },
        { "1.0", -EINVAL, 0 },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t v = 77;
        assert_int_equal(parse_u64(cases[i].text, 0, UINT64_MAX, &v), cases[i].result);
        assert_true(v == (cases[i].result == 0 ? cases[i].value : 77));
    }
    uint64_t v = 77;
    assert_int_equal(parse_u64("4", 5, 9, &v), -ERANGE);
    assert_int_equal(parse_u64("10", 5, 9, &v), -ERANGE);
    assert_true(v == 77);
    uint32_t small = 77;
    assert_int_equal(parse_u32("4294967296", 0, UINT32_MAX, &small), -ERANGE);
    assert_int_equal(small, 77);
    assert_int_equal(parse_u32("4294967295", 0, UINT32_MAX, &small), 0);
    assert_true(small == UINT32_MAX);
}

static void
test_signed_numbers(void **state)
{
    (void)state;
    int64_t v = 77;
    assert_int_equal(parse_i64("-9223372036854775808", INT64_MIN, INT64_MAX, &v), 0);
    assert_true(v == INT64_MIN);
    assert_int_equal(parse_i64("9223372036854775807", INT64_MIN, INT64_MAX, &v), 0);
    assert_true(v == INT64_MAX);
    assert_int_equal(parse_i64("-0", INT64_MIN, INT64_MAX, &v), 0);
    assert_true(v == 0);
    assert_int_equal(parse_i64("-5", -5, -5, &v), 0);
    assert_true(v == -5);
    assert_int_equal(parse_i64("-6", -5, 5, &v), -ERANGE);
    assert_int_equal(parse_i64("9223372036854775808", INT64_MIN, INT64_MAX, &v), -ERANGE);
    assert_int_equal(parse_i64("-9223372036854775809", INT64_MIN, INT64_MAX, &v), -ERANGE);
    assert_int_equal(parse_i64("-", INT64_MIN, INT64_MAX, &v), -EINVAL);
    assert_int_equal(parse_i64("--1", INT64_MIN, INT64_MAX, &v), -EINVAL);
    assert_int_equal(parse_i64("", INT64_MIN, INT64_MAX, &v), -EINVAL);
    assert_true(v == -5);
}

static void
test_real_numbers_have_the_grammar_of_json(void **state)
{
    (void)state;
    static const char *const good[] = { "0",
                                        "-0",
                                        "1.5",
                                        "-12.25e2",
                                        "1E+5",
                                        "1e-5",
                                        "10",
                                        "0.1",
                                        "1e308",
                                        "1e-400",
                                        "123456789012345678901234567890" };
    static const char *const bad[] = { "",    "-",   "+1",   "01",  "1.",  ".5", "1e",
                                       "1e+", "0x1", "inf",  "nan", "1 ",  " 1", "1,5",
                                       "1_0", "--1", "1e5x", "1f",  "1.e5" };
    double v = 0;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(parse_double(good[i], &v), 0);
        assert_true(v == strtod(good[i], NULL));
    }
    v = 77;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(parse_double(bad[i], &v), -EINVAL);
    assert_int_equal(parse_double("1e309", &v), -ERANGE);
    assert_int_equal(parse_double("-1e999999999", &v), -ERANGE);
    assert_true(v == 77);
}

static void
test_well_formed_utf8(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t len;
        bool valid;
        size_t count;
    } cases[] = {
        { "", 0, true, 0 },
        { "plain text of more than eight", 29, true, 29 },
        { "a\0b", 3, true, 3 },
        { "\x7F", 1, true, 1 },
        { "\xC2\x80", 2, true, 1 },
        { "\xDF\xBF", 2, true, 1 },
        { "\xE0\xA0\x80", 3, true, 1 },
        { "\xED\x9F\xBF", 3, true, 1 },
        { "\xEE\x80\x80", 3, true, 1 },
        { "\xEF\xBF\xBF", 3, true, 1 },
        { "\xF0\x90\x80\x80", 4, true, 1 },
        { "\xF4\x8F\xBF\xBF", 4, true, 1 },
        { "12345678\xE2\x82\xAC", 11, true, 9 },
        { "1234567\xE2\x82\xAC", 10, true, 8 },
        { "\x80", 1, false, 0 },
        { "\xBF", 1, false, 0 },
        { "\xC0\x80", 2, false, 0 },
        { "\xC1\xBF", 2, false, 0 },
        { "\xC2", 1, false, 0 },
        { "\xC2\x41", 2, false, 0 },
        { "\xE0\x9F\xBF", 3, false, 0 },
        { "\xED\xA0\x80", 3, false, 0 },
        { "\xED\xBF\xBF", 3, false, 0 },
        { "\xE2\x82", 2, false, 0 },
        { "\xE2\x82\x41", 3, false, 0 },
        { "\xF0\x8F\xBF\xBF", 4, false, 0 },
        { "\xF4\x90\x80\x80", 4, false, 0 },
        { "\xF5\x80\x80\x80", 4, false, 0 },
        { "\xF0\x90\x80", 3, false, 0 },
        { "\xFF", 1, false, 0 },
        { "12345678\x80", 9, false, 0 },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_true(utf8_valid(cases[i].text, cases[i].len) == cases[i].valid);
        if (cases[i].valid)
            assert_int_equal(utf8_count(cases[i].text, cases[i].len), cases[i].count);
    }
}

static void
test_a_text_is_cut_between_characters(void **state)
{
    (void)state;
    static const char text[] = "a\xC3\xA9\xE2\x82\xAC!"; /* of 1, 2, 3 and 1 bytes */
    static const size_t want[] = { 0, 1, 1, 3, 3, 3, 6, 7, 7 };
    for (size_t max = 0; max < ARRAY_LEN(want); max++)
        assert_int_equal(utf8_cut(text, sizeof(text) - 1, max), want[max]);
}

static void
test_all_code_points_and_no_surrogate(void **state)
{
    (void)state;
    for (uint32_t c = 0x80; c <= 0x10FFFF; c++) {
        char t[4];
        size_t n = 0;
        if (c >= 0x10000)
            t[n++] = (char)(0xF0 | c >> 18);
        if (c >= 0x800)
            t[n++] = (char)(c >= 0x10000 ? 0x80 | (c >> 12 & 63) : 0xE0 | c >> 12);
        t[n++] = (char)(c >= 0x800 ? 0x80 | (c >> 6 & 63) : 0xC0 | c >> 6);
        t[n++] = (char)(0x80 | (c & 63));
        assert_true(utf8_valid(t, n) == !(c >= 0xD800 && c <= 0xDFFF));
    }
}

static void
test_hexadecimal_there_and_back(void **state)
{
    (void)state;
    static const uint8_t bytes[] = { 0x00, 0xFF, 0x1A, 0xB2 };
    char text[9];
    uint8_t out[4];
    hex_encode(bytes, sizeof(bytes), text);
    assert_string_equal(text, "00FF1AB2");
    assert_int_equal(hex_decode("00ff1Ab2", 8, out, sizeof(out)), 4);
    assert_memory_equal(out, bytes, 4);
    assert_int_equal(hex_decode("", 0, out, 0), 0);
    assert_int_equal(hex_decode("0", 1, out, sizeof(out)), -EINVAL);
    assert_int_equal(hex_decode("0g", 2, out, sizeof(out)), -EINVAL);
    assert_int_equal(hex_decode("00 1", 4, out, sizeof(out)), -EINVAL);
    assert_int_equal(hex_decode("0011223344", 10, out, sizeof(out)), -EINVAL);
    hex_encode(NULL, 0, text);
    assert_string_equal(text, "");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copies_refuse_to_truncate),
        cmocka_unit_test(test_unsigned_numbers),
        cmocka_unit_test(test_signed_numbers),
        cmocka_unit_test(test_real_numbers_have_the_grammar_of_json),
        cmocka_unit_test(test_well_formed_utf8),
        cmocka_unit_test(test_a_text_is_cut_between_characters),
        cmocka_unit_test(test_all_code_points_and_no_surrogate),
        cmocka_unit_test(test_hexadecimal_there_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
