/* Merged reads: who goes with whom, and what is whose in the answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "services/modbusd/mb_merge.h"

enum { RANGES_MAX = 10, SPACE = 4096, CASES = 20000 };

static uint32_t random_state = 1;

/* 0..n-1, the same in every run. */
static uint32_t
random_below(uint32_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state % n;
}

static int
by_addr(const void *a, const void *b)
{
    const struct mb_range *x = a, *y = b;
    return x->addr < y->addr ? -1 : x->addr > y->addr;
}

/* May all of these be one request? By looking at each address. */
static bool
is_allowed(const struct mb_range *r, size_t n, uint32_t gap, uint32_t most)
{
    static uint8_t asked[SPACE];
    uint32_t begin = SPACE, end = 0, idle = 0;
    if (n == 1)
        return true;
    memset(asked, 0, sizeof(asked));
    for (size_t i = 0; i < n; i++) {
        memset(asked + r[i].addr, 1, r[i].n);
        begin = r[i].addr < begin ? r[i].addr : begin;
        end = r[i].addr + r[i].n > end ? r[i].addr + r[i].n : end;
    }
    for (uint32_t at = begin; at < end; at++) {
        idle = asked[at] ? 0 : idle + 1;
        if (idle > gap)
            return false;
    }
    return end - begin <= most;
}

/* The fewest requests into which they can be parted, by trying all ways. */
static size_t
fewest(const struct mb_range *r, size_t n, uint32_t gap, uint32_t most)
{
    size_t best = n;
    for (uint32_t cuts = 0; cuts < 1u << (n - 1); cuts++) {
        size_t from = 0, count = 0;
        bool allowed = true;
        for (size_t i = 1; i <= n; i++) {
            if (i < n && !(cuts >> (i - 1) & 1))
                continue;
            allowed &= is_allowed(r + from, i - from, gap, most);
            from = i;
            count++;
        }
        if (allowed && count < best)
            best = count;
    }
    return best;
}

static size_t
random_ranges(struct mb_range *r, uint32_t most, bool disjoint)
{
    size_t n = 1 + random_below(RANGES_MAX);
    uint32_t at = 0, spread = 1 + random_below(20);
    for (size_t i = 0; i < n; i++) {
        r[i].n = 1 + random_below(most);
        r[i].addr = disjoint ? at + random_below(spread) : random_below(4 * most);
        at = r[i].addr + r[i].n;
    }
    qsort(r, n, sizeof(*r), by_addr);
    return n;
}

/* Every request keeps the limits, and none could take in the range after it. */
static void
check_plan(const struct mb_range *r, size_t n, const struct mb_merge_limits *limits, bool bits,
           bool disjoint)
{
    bool first[RANGES_MAX] = { false };
    uint32_t unit = bits ? 16 : 1;
    uint32_t gap = limits->gap * unit, most = limits->quantity * unit;
    size_t n_requests = mb_merge_plan(r, n, limits, bits, first), counted = 0;
    assert_true(first[0]);
    for (size_t i = 0, next; i < n; i = next, counted++) {
        next = i + 1;
        while (next < n && !first[next])
            next++;
        assert_true(is_allowed(r + i, next - i, gap, most));
        if (next < n)
            assert_false(is_allowed(r + i, next - i + 1, gap, most));
    }
    assert_int_equal(n_requests, counted);
    if (disjoint)
        assert_int_equal(n_requests, fewest(r, n, gap, most));
}

static void
test_a_plan_keeps_its_limits_and_takes_in_what_fits(void **state)
{
    (void)state;
    for (unsigned i = 0; i < CASES; i++) {
        bool bits = random_below(2), disjoint = random_below(2);
        struct mb_merge_limits limits = { random_below(bits ? 3 : 12),
                                          1 + random_below(bits ? 8 : 125) };
        struct mb_range r[RANGES_MAX];
        size_t n = random_ranges(r, bits ? 40 : 30, disjoint);
        check_plan(r, n, &limits, bits, disjoint);
    }
}

static void
test_the_largest_requests_are_125_registers_and_2000_bits(void **state)
{
    (void)state;
    const struct mb_merge_limits limits = { 0, 125 };
    struct mb_range r[3] = { { 0, 100 }, { 100, 25 }, { 125, 1 } };
    bool first[3];
    assert_int_equal(mb_merge_plan(r, 3, &limits, false, first), 2);
    assert_true(!first[1] && first[2]);
    struct mb_range b[3] = { { 7, 1999 }, { 2006, 1 }, { 2007, 1 } };
    assert_int_equal(mb_merge_plan(b, 3, &limits, true, first), 2);
    assert_true(!first[1] && first[2]);
}

static void
test_the_last_address_is_reached(void **state)
{
    (void)state;
    const struct mb_merge_limits limits = { 124, 125 };
    struct mb_range r[2] = { { 65411, 1 }, { 65535, 1 } };
    bool first[2];
    assert_int_equal(mb_merge_plan(r, 2, &limits, false, first), 1);
}

static void
test_each_gets_its_own_part_of_the_answer(void **state)
{
    (void)state;
    uint8_t data[250], part[250];
    for (unsigned i = 0; i < CASES; i++) {
        bool bits = random_below(2);
        struct mb_range whole = { random_below(60000), 1 + random_below(bits ? 2000 : 125) };
        uint32_t from = random_below(whole.n);
        struct mb_range one = { whole.addr + from, 1 + random_below(whole.n - from) };
        for (size_t k = 0; k < sizeof(data); k++)
            data[k] = (uint8_t)random_below(256);
        memset(part, 0xEE, sizeof(part));
        mb_merge_cut(data, &whole, &one, bits, part);
        size_t size = bits ? (one.n + 7) / 8 : 2 * one.n;
        for (uint32_t k = 0; bits && k < 8 * size; k++) {
            uint32_t at = from + k;
            int expected = k < one.n ? data[at / 8] >> at % 8 & 1 : 0;
            assert_int_equal(part[k / 8] >> k % 8 & 1, expected);
        }
        if (!bits)
            assert_memory_equal(part, data + 2 * from, size);
        assert_true(size == sizeof(part) || part[size] == 0xEE);
    }
}

int
main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_a_plan_keeps_its_limits_and_takes_in_what_fits),
        cmocka_unit_test(test_the_largest_requests_are_125_registers_and_2000_bits),
        cmocka_unit_test(test_the_last_address_is_reached),
        cmocka_unit_test(test_each_gets_its_own_part_of_the_answer),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
