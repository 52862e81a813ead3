/* Times as text, over the whole range, against the C library's calendar. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <time.h>

#include "libcommon/clock.h"

static void
assert_format(int64_t wall_us, int digits, const char *want)
{
    char text[CLOCK_TEXT_SIZE];
    clock_format(wall_us, digits, text);
    assert_string_equal(text, want);
}

static void
test_known_times_read_as_they_should(void **state)
{
    (void)state;
    assert_format(0, 0, "1970-01-01T00:00:00Z");
    assert_format(1772417532964368, 6, "2026-03-02T02:12:12.964368Z");
    assert_format(1772417532964368, 3, "2026-03-02T02:12:12.964Z");
    assert_format(1772417532964368, 9, "2026-03-02T02:12:12.964368000Z");
    assert_format(1772417532964368, 1, "2026-03-02T02:12:12.9Z");
    assert_format(-1, 6, "1969-12-31T23:59:59.999999Z");
    assert_format(-1000000, 0, "1969-12-31T23:59:59Z");
    assert_format(951782400000000, 0, "2000-02-29T00:00:00Z");
    assert_format(4107542400000000, 0, "2100-03-01T00:00:00Z"); /* no leap year */
}

static void
test_years_outside_four_digits_are_clamped(void **state)
{
    (void)state;
    assert_format(-62135596800000000, 0, "0001-01-01T00:00:00Z");
    assert_format(-62135596800000001, 6, "0001-01-01T00:00:00.000000Z");
    assert_format(INT64_MIN, 3, "0001-01-01T00:00:00.000Z");
    assert_format(253402300799999999, 6, "9999-12-31T23:59:59.999999Z");
    assert_format(253402300800000000, 6, "9999-12-31T23:59:59.999999Z");
    assert_format(INT64_MAX, 3, "9999-12-31T23:59:59.999Z");
}

static void
test_every_third_day_agrees_with_the_c_library(void **state)
{
    (void)state;
    for (int64_t s = -62135596800; s < 253402300800; s += 3 * 86400 + 12347) {
        time_t t = (time_t)s;
        struct tm tm;
        char want[128];
        assert_non_null(gmtime_r(&t, &tm));
        (void)snprintf(want, sizeof(want), "%04d-%02d-%02dT%02d:%02d:%02dZ", tm.tm_year + 1900,
                       tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
        assert_format(s * 1000000, 0, want);
    }
}

static void
test_clocks_run_forward_in_microseconds(void **state)
{
    (void)state;
    struct timespec ts;
    uint64_t before = clock_mono_us();
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    uint64_t after = clock_mono_us();
    uint64_t now = (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
    assert_true(before <= now && now <= after);
    assert_true(clock_wall_us() > 1600000000000000);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_times_read_as_they_should),
        cmocka_unit_test(test_years_outside_four_digits_are_clamped),
        cmocka_unit_test(test_every_third_day_agrees_with_the_c_library),
        cmocka_unit_test(test_clocks_run_forward_in_microseconds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
