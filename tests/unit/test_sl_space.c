/* Placing zones: taken units are never given twice, and the lowest gap that is wide enough is
 * found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "services/modbusd/sl_space.h"

static struct sl_space space;

static int
set_up(void **state)
{
    (void)state;
    sl_space_init(&space, SL_TABLE_UNITS);
    return 0;
}

static void
test_an_empty_table_is_free_from_its_first_unit_to_its_last(void **state)
{
    (void)state;
    assert_int_equal(sl_space_find(&space, 0, 1), 0);
    assert_int_equal(sl_space_find(&space, 0, 65536), 0);
    assert_int_equal(sl_space_find(&space, 1, 65536), -1);
    assert_int_equal(sl_space_find(&space, 65535, 1), 65535);
    assert_int_equal(sl_space_find(&space, 65535, 2), -1);
    assert_int_equal(sl_space_find(&space, 63, 2), 63);
}

static void
test_what_overlaps_or_reaches_past_the_end_is_not_taken(void **state)
{
    (void)state;
    assert_true(sl_space_take(&space, 60, 10));
    static const uint32_t overlapping[][2] = { { 60, 1 },  { 69, 1 }, { 59, 2 }, { 0, 65536 },
                                               { 64, 64 }, { 0, 61 }, { 69, 5 }, { 60, 10 } };
    for (size_t i = 0; i < sizeof(overlapping) / sizeof(*overlapping); i++)
        assert_false(sl_space_take(&space, overlapping[i][0], overlapping[i][1]));
    assert_true(sl_space_take(&space, 70, 1));
    assert_true(sl_space_take(&space, 0, 60));
    assert_false(sl_space_take(&space, 65535, 2));
    assert_false(sl_space_take(&space, 65536, 1));
    assert_false(sl_space_take(&space, 100, UINT32_MAX));
    assert_true(sl_space_take(&space, 65535, 1));
}

static void
test_the_lowest_gap_that_is_wide_enough_is_found(void **state)
{
    (void)state;
    assert_true(sl_space_take(&space, 0, 10));
    assert_true(sl_space_take(&space, 12, 100));
    assert_int_equal(sl_space_find(&space, 0, 1), 10);
    assert_int_equal(sl_space_find(&space, 0, 2), 10);
    assert_int_equal(sl_space_find(&space, 0, 3), 112);
    assert_int_equal(sl_space_find(&space, 11, 1), 11);
    assert_int_equal(sl_space_find(&space, 11, 2), 112);
    assert_int_equal(sl_space_find(&space, 200, 2), 200);
    assert_int_equal(sl_space_find(&space, 0, 65536 - 112), 112);
    assert_int_equal(sl_space_find(&space, 0, 65536 - 111), -1);
    sl_space_free(&space, 5, 60);
    assert_int_equal(sl_space_find(&space, 0, 60), 5);
    assert_int_equal(sl_space_find(&space, 0, 61), 112);
}

static void
test_a_small_space_ends_where_it_was_told(void **state)
{
    (void)state;
    sl_space_init(&space, 3);
    assert_int_equal(sl_space_find(&space, 0, 3), 0);
    assert_int_equal(sl_space_find(&space, 0, 4), -1);
    assert_int_equal(sl_space_find(&space, 3, 1), -1);
    assert_false(sl_space_take(&space, 2, 2));
    assert_true(sl_space_take(&space, 2, 1));
    assert_int_equal(sl_space_find(&space, 0, 3), -1);
    sl_space_init(&space, SL_SPACE_MAX);
    assert_true(sl_space_take(&space, 0, SL_SPACE_MAX));
    assert_int_equal(sl_space_find(&space, 0, 1), -1);
}

/* Against the same done unit by unit. */
static void
test_ten_thousand_random_zones_are_placed_as_a_simple_search_places_them(void **state)
{
    (void)state;
    static bool plain[65536];
    memset(plain, 0, sizeof(plain));
    srand(1);
    for (int round = 0; round < 10000; round++) {
        uint32_t n = 1 + (uint32_t)rand() % 150, least = (uint32_t)rand() % 60000;
        int32_t expected = -1;
        for (uint32_t at = least, run = 0; at < 65536 && expected < 0; at++) {
            run = plain[at] ? 0 : run + 1;
            if (run == n)
                expected = (int32_t)(at + 1 - n);
        }
        assert_int_equal(sl_space_find(&space, least, n), expected);
        if (expected >= 0) {
            assert_true(sl_space_take(&space, (uint32_t)expected, n));
            memset(plain + expected, 1, n);
        }
        if (round % 3 == 0) {
            uint32_t first = (uint32_t)rand() % 65000, m = (uint32_t)rand() % 500;
            sl_space_free(&space, first, m);
            memset(plain + first, 0, m);
        }
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_an_empty_table_is_free_from_its_first_unit_to_its_last,
                               set_up),
        cmocka_unit_test_setup(test_what_overlaps_or_reaches_past_the_end_is_not_taken, set_up),
        cmocka_unit_test_setup(test_the_lowest_gap_that_is_wide_enough_is_found, set_up),
        cmocka_unit_test_setup(test_a_small_space_ends_where_it_was_told, set_up),
        cmocka_unit_test_setup(
            test_ten_thousand_random_zones_are_placed_as_a_simple_search_places_them, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
