/*
 * Refused requests become few records, whatever their number, and each of
 * them is counted in one.
 */
#include "gateway/refusal_table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/base.h"

static struct refusal_table *
make(void)
{
    struct refusal_table *t = NULL;
    assert_int_equal(refusal_table_new(&t), 0);
    return t;
}

/* The request 'id' of the account "u<n>". */
static struct refusal
refusal_of(unsigned n, uint64_t id)
{
    struct refusal r = { .method = "GET", .path = "/users", .request_id = id, .at_us = 1000 };
    (void)snprintf(r.source, sizeof(r.source), "u%u", n);
    (void)snprintf(r.addr, sizeof(r.addr), "192.0.2.1");
    (void)snprintf(r.reason, sizeof(r.reason), "permission denied");
    return r;
}

static bool
note(struct refusal_table *t, unsigned n, uint64_t id)
{
    struct refusal r = refusal_of(n, id);
    return refusal_table_note(t, &r);
}

/* Takes all records; returns how many, and how many requests they tell of. */
static size_t
take(struct refusal_table *t, uint64_t *ret_told)
{
    static struct refusal all[2 * REFUSALS_MAX];
    size_t n = refusal_table_peek(t, all, ARRAY_LEN(all));
    for (size_t i = 0; i < n; i++)
        *ret_told += all[i].n_more > 0 ? all[i].n_more : 1;
    refusal_table_drop(t, n);
    return n;
}

static void
the_first_is_told_at_once_and_repeats_together_when_the_minute_is_over(void **state)
{
    (void)state;
    struct refusal_table *t = make();
    struct refusal got[4];
    assert_true(note(t, 1, 100));
    for (uint64_t id = 101; id < 110; id++)
        assert_false(note(t, 1, id));
    assert_int_equal(refusal_table_peek(t, got, 4), 1);
    assert_int_equal(got[0].request_id, 100);
    assert_int_equal(got[0].n_more, 0);
    assert_int_equal(refusal_table_peek(t, got, 4), 1); /* until it is dropped */
    refusal_table_drop(t, 1);
    assert_false(refusal_table_turn(t, REFUSAL_MINUTE_US));
    assert_int_equal(refusal_table_peek(t, got, 4), 1);
    assert_int_equal(got[0].n_more, 9);
    assert_int_equal(got[0].request_id, 109);
    assert_string_equal(got[0].source, "u1");
    refusal_table_drop(t, 1);
    assert_false(refusal_table_turn(t, REFUSAL_MINUTE_US));
    assert_int_equal(refusal_table_peek(t, got, 4), 0);
    assert_true(note(t, 1, 111)); /* a new minute, a first one again */
    refusal_table_free(t);
}

static void
another_account_address_operation_or_reason_is_another_kind(void **state)
{
    (void)state;
    struct refusal_table *t = make();
    struct refusal other[6];
    for (size_t i = 0; i < ARRAY_LEN(other); i++)
        other[i] = refusal_of(1, i);
    memcpy(other[1].source, "u2", 3);
    memcpy(other[2].addr, "192.0.2.2", 10);
    other[3].method = "PUT";
    other[4].path = "/roles";
    memcpy(other[5].reason, "no token", 9);
    for (size_t i = 0; i < ARRAY_LEN(other); i++)
        assert_true(refusal_table_note(t, &other[i]));
    for (size_t i = 0; i < ARRAY_LEN(other); i++)
        assert_false(refusal_table_note(t, &other[i]));
    uint64_t told = 0;
    assert_int_equal(take(t, &told), ARRAY_LEN(other));
    refusal_table_free(t);
}

static void
more_kinds_than_fit_are_counted_as_a_rest(void **state)
{
    (void)state;
    struct refusal_table *t = make();
    struct refusal last;
    for (unsigned n = 0; n < REFUSALS_MAX; n++)
        assert_true(note(t, n, n));
    assert_true(note(t, REFUSALS_MAX, 1)); /* the first of the rest */
    assert_false(note(t, REFUSALS_MAX + 1, 2));
    assert_false(note(t, 5, 3)); /* known: its own count */
    assert_false(refusal_table_turn(t, 0));
    uint64_t told = 0;
    for (unsigned n = 0; n < REFUSALS_MAX; n++)
        refusal_table_drop(t, 1);
    assert_int_equal(refusal_table_peek(t, &last, 1), 1);
    assert_null(last.path);
    /* u5 could not be paid for, and the queue was full */
    assert_int_equal(take(t, &told), 1);
    assert_int_equal(told, 3);
    refusal_table_free(t);
}

static void
a_flood_of_hours_makes_as_many_records_as_the_bound_says_and_counts_all(void **state)
{
    (void)state;
    enum { MINUTES = 120, EACH = 5000 };
    struct refusal_table *t = make();
    uint64_t told = 0;
    size_t records = 0;
    for (unsigned minute = 0; minute < MINUTES; minute++) {
        for (unsigned i = 0; i < EACH; i++)
            (void)note(t, minute * EACH + i / 2, i);
        (void)refusal_table_turn(t, REFUSAL_MINUTE_US);
        records += take(t, &told);
    }
    assert_int_equal(told, MINUTES * EACH);
    assert_in_range(records, MINUTES * REFUSALS_A_MINUTE,
                    REFUSALS_MAX + MINUTES * (REFUSALS_A_MINUTE + 1));
    refusal_table_free(t);
}

static void
nothing_is_lost_while_nobody_takes_them(void **state)
{
    (void)state;
    enum { MINUTES = 30, EACH = 100 };
    struct refusal_table *t = make();
    uint64_t told = 0;
    for (unsigned minute = 0; minute < MINUTES; minute++) {
        for (unsigned i = 0; i < EACH; i++)
            (void)note(t, minute * EACH + i, i);
        (void)refusal_table_turn(t, REFUSAL_MINUTE_US);
    }
    size_t records = take(t, &told);
    assert_in_range(records, REFUSALS_A_MINUTE, REFUSALS_MAX + 1);
    while (refusal_table_turn(t, REFUSAL_MINUTE_US))
        (void)take(t, &told);
    (void)take(t, &told);
    assert_int_equal(told, MINUTES * EACH);
    refusal_table_free(t);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            the_first_is_told_at_once_and_repeats_together_when_the_minute_is_over),
        cmocka_unit_test(another_account_address_operation_or_reason_is_another_kind),
        cmocka_unit_test(more_kinds_than_fit_are_counted_as_a_rest),
        cmocka_unit_test(
            a_flood_of_hours_makes_as_many_records_as_the_bound_says_and_counts_all),
        cmocka_unit_test(nothing_is_lost_while_nobody_takes_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
