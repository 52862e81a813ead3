/*
 * Locks after failed sign-ins: they count per name, survive a restart, and a
 * flood of invented names does not push out an account's count.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/authd/authd.h"

struct fixture {
    char dir[64];
    struct svc svc;
    struct authd a;
};

static int
setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    (void)snprintf(f->dir, sizeof(f->dir), "/tmp/test_sign_in_lock.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    assert_int_equal(store_open(f->dir, record_dbs, N_DBS, 1, NULL, &f->svc.store), 0);
    assert_int_equal(loop_new(&f->svc.loop), 0);
    f->a.svc = &f->svc;
    f->a.lock_rule = (struct auth_lock){
        .enable = true, .fail_window = 15, .fail_times = 3, .lock_window = 10
    };
    assert_int_equal(locks_open(&f->a), 0);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    char command[96];
    locks_close(&f->a);
    loop_free(f->svc.loop);
    store_close(f->svc.store);
    (void)snprintf(command, sizeof(command), "rm -r '%s'", f->dir);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

static bool
fail_once(struct fixture *f, const char *name, bool is_account)
{
    struct store_txn *txn;
    bool locked;
    assert_int_equal(store_begin(f->svc.store, &txn), 0);
    assert_int_equal(locks_fail(&f->a, txn, name, is_account, &locked), 0);
    assert_int_equal(store_commit(txn), 0);
    return locked;
}

static void
restart(struct fixture *f)
{
    locks_close(&f->a);
    assert_int_equal(locks_open(&f->a), 0);
}

static void
third_failure_locks_that_name_only(void **state)
{
    struct fixture *f = *state;
    assert_false(fail_once(f, "eve", true));
    assert_false(fail_once(f, "bob", true));
    assert_false(fail_once(f, "eve", true));
    assert_int_equal(locks_fails(&f->a, "eve"), 2);
    assert_true(fail_once(f, "eve", true));
    assert_true(locks_is_locked(&f->a, "eve"));
    assert_false(locks_is_locked(&f->a, "bob"));
    assert_false(locks_is_locked(&f->a, "Eve"));
}

static void
failures_outside_the_window_do_not_count(void **state)
{
    struct fixture *f = *state;
    (void)fail_once(f, "eve", true);
    (void)fail_once(f, "eve", true);
    f->a.locks.all[0].fail_mono_us[0] -= 16 * INT64_C(60000000);
    assert_int_equal(locks_fails(&f->a, "eve"), 1);
    assert_false(fail_once(f, "eve", true));
    assert_true(fail_once(f, "eve", true));
}

static void
counts_and_locks_survive_a_restart(void **state)
{
    struct fixture *f = *state;
    (void)fail_once(f, "eve", true);
    (void)fail_once(f, "eve", true);
    restart(f);
    assert_int_equal(locks_fails(&f->a, "eve"), 2);
    assert_true(fail_once(f, "eve", true));
    restart(f);
    assert_true(locks_is_locked(&f->a, "eve"));
}

static void
lock_ends_by_time_and_never_outlasts_the_rule(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 3; i++)
        (void)fail_once(f, "eve", true);
    f->a.locks.all[0].locked_until_mono_us = mono_us(&f->a);
    assert_false(locks_is_locked(&f->a, "eve"));
    /* Stored with a clock that was far ahead: after the restart it ends within lockWindow. */
    for (int i = 0; i < 3; i++)
        (void)fail_once(f, "eve", true);
    f->a.lock_rule.lock_window = 5;
    restart(f);
    assert_true(locks_is_locked(&f->a, "eve"));
    assert_true(f->a.locks.all[0].locked_until_mono_us <=
                mono_us(&f->a) + 301 * INT64_C(1000000));
}

static void
success_forgets(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn;
    (void)fail_once(f, "eve", true);
    assert_int_equal(store_begin(f->svc.store, &txn), 0);
    assert_int_equal(locks_clear_stored(&f->a, txn, "eve"), 0);
    assert_int_equal(store_commit(txn), 0);
    locks_clear(&f->a, "eve");
    assert_int_equal(locks_fails(&f->a, "eve"), 0);
    restart(f);
    assert_int_equal(locks_fails(&f->a, "eve"), 0);
}

static void
disabled_rule_locks_nothing(void **state)
{
    struct fixture *f = *state;
    f->a.lock_rule.enable = false;
    for (int i = 0; i < 40; i++)
        assert_false(fail_once(f, "eve", true));
    assert_false(locks_is_locked(&f->a, "eve"));
}

static void
flood_of_invented_names_keeps_the_count_of_an_account(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn;
    (void)fail_once(f, "eve", true);
    (void)fail_once(f, "eve", true);
    assert_int_equal(store_begin(f->svc.store, &txn), 0);
    for (int i = 0; i < LOCK_ENTRIES_MAX + 100; i++) {
        char name[32];
        bool locked;
        (void)snprintf(name, sizeof(name), "nobody%d", i);
        assert_int_equal(locks_fail(&f->a, txn, name, false, &locked), 0);
    }
    uint64_t n;
    assert_int_equal(store_count(txn, DB_LOCKS, &n), 0);
    assert_int_equal(n, LOCK_ENTRIES_MAX);
    assert_int_equal(store_commit(txn), 0);
    assert_int_equal(locks_fails(&f->a, "eve"), 2);
    assert_int_equal(locks_fails(&f->a, "nobody0"), 0);
}

static void
refusals_while_locked_are_told_once_a_minute(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 3; i++)
        (void)fail_once(f, "eve", true);
    for (int i = 0; i < 7; i++)
        assert_int_equal(locks_refused(&f->a, "eve"), 0);
    f->a.locks.all[0].told_mono_us -= 61 * INT64_C(1000000);
    assert_int_equal(locks_refused(&f->a, "eve"), 8);
    assert_int_equal(locks_refused(&f->a, "eve"), 0);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(third_failure_locks_that_name_only),
        TEST(failures_outside_the_window_do_not_count),
        TEST(counts_and_locks_survive_a_restart),
        TEST(lock_ends_by_time_and_never_outlasts_the_rule),
        TEST(success_forgets),
        TEST(disabled_rule_locks_nothing),
        TEST(flood_of_invented_names_keeps_the_count_of_an_account),
        TEST(refusals_while_locked_are_told_once_a_minute),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
