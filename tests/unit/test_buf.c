/* Buffers that stop at their maximum, readers that stop at their end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "libcommon/buf.h"
#include "tests/unit/fail_alloc.h"

static void
test_a_buffer_fills_to_its_maximum_and_not_past_it(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 5);
    buf_puts(&b, "12345");
    assert_int_equal(b.err, 0);
    assert_string_equal(buf_text(&b), "12345");
    buf_putc(&b, '6');
    assert_int_equal(b.err, -E2BIG);
    assert_null(buf_text(&b));
    buf_puts(&b, "");
    assert_int_equal(b.len, 5);
    buf_reset(&b);
    assert_int_equal(b.err, 0);
    buf_puts(&b, "ab");
    assert_string_equal(buf_text(&b), "ab");
    buf_done(&b);
    assert_null(b.data);
    assert_int_equal(b.max, 5);
    buf_done(&b);
}

static void
test_an_empty_buffer_is_an_empty_text(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 0);
    assert_non_null(buf_reserve(&b, 0));
    buf_put(&b, NULL, 0);
    assert_string_equal(buf_text(&b), "");
    assert_null(buf_reserve(&b, 1));
    assert_int_equal(b.err, -E2BIG);
    buf_done(&b);
}

static void
test_a_huge_reserve_is_refused_without_overflow(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 100);
    buf_putc(&b, 'x');
    assert_null(buf_reserve(&b, SIZE_MAX));
    assert_int_equal(b.err, -E2BIG);
    buf_done(&b);
}

static void
test_printing_grows_as_needed_and_respects_the_maximum(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1000);
    for (int i = 0; i < 50; i++)
        buf_printf(&b, "%04d-%s;", i, "abcdefghi");
    assert_int_equal(b.err, 0);
    assert_int_equal(b.len, 50 * 15);
    assert_memory_equal(b.data + 49 * 15, "0049-abcdefghi;", 15);
    buf_printf(&b, "%300d", 1);
    assert_int_equal(b.err, -E2BIG);
    assert_int_equal(b.len, 50 * 15);
    buf_done(&b);
    /* exactly full, from every level of filling */
    for (size_t n = 0; n < 300; n++) {
        buf_init(&b, 300);
        for (size_t i = 0; i < n; i++)
            buf_putc(&b, 'x');
        buf_printf(&b, "%*d", (int)(300 - n), 7);
        assert_int_equal(b.err, n == 300 ? -E2BIG : 0);
        assert_int_equal(b.len, 300);
        assert_int_equal(b.data[299], '7');
        buf_done(&b);
    }
}

static void
test_what_was_put_is_read_back(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4096);
    buf_put_u8(&b, 0xA1);
    buf_put_u16(&b, 0xA1B2);
    buf_put_u32(&b, 0xDEADBEEF);
    buf_put_u64(&b, 0x0123456789ABCDEFu);
    buf_put_str8(&b, "pump", 4);
    buf_put_str16(&b, "flow", 4);
    buf_patch_u32(&b, 3, 0xCAFEF00D);
    assert_int_equal(b.err, 0);
    assert_memory_equal(b.data, "\xA1\xA1\xB2\xCA\xFE\xF0\x0D\x01\x23", 9);

    struct rd r;
    size_t len;
    rd_init(&r, b.data, b.len);
    assert_int_equal(rd_u8(&r), 0xA1);
    assert_int_equal(rd_u16(&r), 0xA1B2);
    assert_int_equal(rd_u32(&r), 0xCAFEF00D);
    assert_true(rd_u64(&r) == 0x0123456789ABCDEFu);
    assert_memory_equal(rd_str8(&r, &len), "pump", 4);
    assert_int_equal(len, 4);
    assert_false(rd_ended(&r));
    assert_memory_equal(rd_str16(&r, &len), "flow", 4);
    assert_true(rd_ended(&r));
    buf_done(&b);
}

static void
test_strings_longer_than_their_length_field_are_refused(void **state)
{
    (void)state;
    static const char text[65536] = { 0 };
    struct buf b;
    buf_init(&b, 200000);
    buf_put_str8(&b, text, 255);
    buf_put_str16(&b, text, 65535);
    assert_int_equal(b.err, 0);
    assert_int_equal(b.len, 256 + 65537);
    buf_put_str8(&b, text, 256);
    assert_int_equal(b.err, -E2BIG);
    buf_reset(&b);
    buf_put_str16(&b, text, 65536);
    assert_int_equal(b.err, -E2BIG);
    assert_int_equal(b.len, 0);
    buf_done(&b);
}

static void
test_a_short_message_is_bad_for_good(void **state)
{
    (void)state;
    struct rd r;
    size_t len = 9;
    rd_init(&r,
            "\x05"
            "abc",
            4);
    assert_null(rd_str8(&r, &len));
    assert_int_equal(len, 0);
    assert_true(r.bad);
    assert_int_equal(rd_u8(&r), 0);
    assert_null(rd_bytes(&r, 0));
    assert_false(rd_ended(&r));

    rd_init(&r, NULL, 0);
    assert_true(rd_ended(&r));
    assert_non_null(rd_bytes(&r, 0));
    assert_int_equal(rd_u64(&r), 0);
    assert_true(r.bad);

    rd_init(&r, "abc", 3);
    assert_null(rd_bytes(&r, SIZE_MAX));
    assert_true(r.bad);
}

static void
test_an_empty_string_is_not_a_missing_one(void **state)
{
    (void)state;
    struct rd r;
    size_t len = 9;
    rd_init(&r, "\0", 1);
    assert_non_null(rd_str8(&r, &len));
    assert_int_equal(len, 0);
    assert_true(rd_ended(&r));
}

static void
test_no_memory_is_an_error_that_stays(void **state)
{
    (void)state;
    long n = 0;
    do {
        struct buf b;
        buf_init(&b, 100000);
        fail_alloc_begin(n++);
        for (int i = 0; i < 200; i++)
            buf_printf(&b, "%030d", i);
        bool failed = fail_alloc_end();
        assert_int_equal(b.err, failed ? -ENOMEM : 0);
        assert_true(failed ? b.len < 6000 : b.len == 6000);
        buf_done(&b);
    } while (fail_alloc_hit);
    assert_true(n > 3);
}

static void
test_a_text_comes_back_whole_or_is_bad(void **state)
{
    (void)state;
    struct buf b;
    struct rd r;
    char out[5];
    buf_init(&b, 100);
    buf_put_str16(&b, "four", 4);
    buf_put_str16(&b, "a\0b", 3);
    buf_put_str16(&b, "fives", 5);
    rd_init(&r, b.data, b.len);
    rd_text16(&r, out, sizeof(out));
    assert_string_equal(out, "four");
    assert_false(r.bad);
    rd_text16(&r, out, sizeof(out));
    assert_string_equal(out, "");
    assert_true(r.bad);
    rd_init(&r, b.data + b.len - 7, 7);
    rd_text16(&r, out, sizeof(out));
    assert_true(r.bad);
    buf_done(&b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_buffer_fills_to_its_maximum_and_not_past_it),
        cmocka_unit_test(test_an_empty_buffer_is_an_empty_text),
        cmocka_unit_test(test_a_huge_reserve_is_refused_without_overflow),
        cmocka_unit_test(test_printing_grows_as_needed_and_respects_the_maximum),
        cmocka_unit_test(test_what_was_put_is_read_back),
        cmocka_unit_test(test_strings_longer_than_their_length_field_are_refused),
        cmocka_unit_test(test_a_short_message_is_bad_for_good),
        cmocka_unit_test(test_an_empty_string_is_not_a_missing_one),
        cmocka_unit_test(test_a_text_comes_back_whole_or_is_bad),
        cmocka_unit_test(test_no_memory_is_an_error_that_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
