/*
 * When sessions and their short-lived tokens end, and that use costs no write
 * of its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/clock.h"
#include "services/authd/authd.h"

#define MINUTE INT64_C(60000000)

struct fixture {
    char dir[64];
    struct svc svc;
    struct authd a;
};

/* In the place of link.c: what the front door is told. */
static struct {
    enum forget_scope scope;
    int64_t id;
    unsigned n;
} forgotten;

void
link_forget_soon(struct authd *a, enum forget_scope scope, int64_t id)
{
    (void)a;
    forgotten.scope = scope;
    forgotten.id = id;
    forgotten.n++;
}

static int
setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    (void)snprintf(f->dir, sizeof(f->dir), "/tmp/test_session.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    assert_int_equal(store_open(f->dir, record_dbs, N_DBS, 1, NULL, &f->svc.store), 0);
    assert_int_equal(loop_new(&f->svc.loop), 0);
    f->a.svc = &f->svc;
    f->a.conf = (struct session_conf){ .timeout_min = 120, .idle_timeout_min = 30 };
    assert_int_equal(sessions_load(&f->a), 0);
    memset(&forgotten, 0, sizeof(forgotten));
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    char command[96];
    sessions_close(&f->a);
    loop_free(f->svc.loop);
    store_close(f->svc.store);
    (void)snprintf(command, sizeof(command), "rm -r '%s'", f->dir);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

static void
put(struct fixture *f, const struct session_record *record)
{
    struct store_txn *txn;
    assert_int_equal(store_begin(f->svc.store, &txn), 0);
    assert_int_equal(session_put(txn, record), 0);
    assert_int_equal(store_commit(txn), 0);
}

/* A session that began now; kept. */
static struct live_session *
begin(struct fixture *f, uint64_t id)
{
    struct session_record record = { .id = id,
                                     .user_id = 1,
                                     .created_us = clock_wall_us(),
                                     .last_us = clock_wall_us(),
                                     .life_us = 120 * MINUTE,
                                     .token_hash = { (uint8_t)id } };
    put(f, &record);
    sessions_add(&f->a, &record);
    return sessions_find(&f->a, id);
}

/* As if it was killed and started again. */
static void
restart(struct fixture *f)
{
    loop_timer_cancel(f->svc.loop, &f->a.sessions.sweep);
    loop_timer_cancel(f->svc.loop, &f->a.sessions.flush);
    memset(&f->a.sessions, 0, sizeof(f->a.sessions));
    assert_int_equal(sessions_load(&f->a), 0);
    assert_true(loop_round(f->svc.loop, 0) >= 0); /* its clock goes on */
}

static uint64_t
commits(const struct fixture *f)
{
    struct store_stats s;
    store_get_stats(f->svc.store, &s);
    return s.commits;
}

static void
session_ends_when_it_was_idle_for_long_and_use_prolongs_it(void **state)
{
    struct fixture *f = *state;
    struct live_session *s = begin(f, 1);
    s->began_mono_us -= 40 * MINUTE;
    s->last_mono_us -= 29 * MINUTE;
    assert_true(sessions_is_live(&f->a, s));
    s->last_mono_us -= 2 * MINUTE;
    assert_false(sessions_is_live(&f->a, s));
    s->last_mono_us += 3 * MINUTE;
    sessions_touch(&f->a, s, 0);
    assert_in_range(sessions_left_us(&f->a, s), 29 * MINUTE, 31 * MINUTE);
}

static void
use_does_not_prolong_a_session_past_its_absolute_end(void **state)
{
    struct fixture *f = *state;
    struct live_session *s = begin(f, 1);
    s->began_mono_us -= 119 * MINUTE;
    sessions_touch(&f->a, s, 0);
    assert_in_range(sessions_left_us(&f->a, s), 1, MINUTE);
    s->began_mono_us -= 2 * MINUTE;
    assert_false(sessions_is_live(&f->a, s));
}

static void
longer_time_out_does_not_reach_a_session_that_began_before_it(void **state)
{
    struct fixture *f = *state;
    struct live_session *s = begin(f, 1);
    f->a.conf.timeout_min = 28800;
    f->a.conf.idle_timeout_min = 1440;
    assert_in_range(sessions_left_us(&f->a, s), 119 * MINUTE, 120 * MINUTE);
    f->a.conf.timeout_min = 60;
    assert_in_range(sessions_left_us(&f->a, s), 59 * MINUTE, 60 * MINUTE);
}

static void
ended_sessions_leave_store_and_table_and_the_front_door_is_told(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn;
    uint64_t n;
    (void)begin(f, 1);
    (void)begin(f, 2);
    sessions_find(&f->a, 2)->last_mono_us -= 31 * MINUTE;
    sessions_rearm(&f->a);
    for (int i = 0; i < 100 && forgotten.n == 0; i++)
        assert_true(loop_round(f->svc.loop, 10000) >= 0);
    assert_int_equal(forgotten.n, 1);
    assert_int_equal(forgotten.scope, FORGET_SESSION);
    assert_int_equal(forgotten.id, 2);
    assert_null(sessions_find(&f->a, 2));
    assert_non_null(sessions_find(&f->a, 1));
    assert_int_equal(store_read(f->svc.store, &txn), 0);
    assert_int_equal(store_count(txn, DB_SESSIONS, &n), 0);
    assert_int_equal(n, 1);
    store_abort(txn);
}

static void
use_is_written_in_batches(void **state)
{
    struct fixture *f = *state;
    for (uint64_t id = 1; id <= 50; id++)
        begin(f, id)->last_mono_us -= 10 * MINUTE;
    uint64_t before = commits(f);
    for (int round = 0; round < 100; round++) {
        for (uint64_t id = 1; id <= 50; id++)
            sessions_touch(&f->a, sessions_find(&f->a, id), 0);
        assert_true(loop_round(f->svc.loop, 0) >= 0);
    }
    assert_int_equal(commits(f), before);
    sessions_close(&f->a); /* as at an orderly stop */
    assert_int_equal(commits(f), before + 1);
    restart(f);
    assert_in_range(mono_us(&f->a) - sessions_find(&f->a, 50)->last_mono_us, 0, MINUTE);
}

/* ---- short-lived tokens ---- */

static void
make_token(struct fixture *f, uint64_t session, uint8_t byte, int64_t left_us)
{
    struct session_record record = sessions_find(&f->a, session)->record;
    struct session_token *token = &record.tokens[record.n_tokens++];
    memset(token->hash, byte, sizeof(token->hash));
    token->end_us = clock_wall_us() + left_us;
    put(f, &record);
    sessions_set_tokens(&f->a, &record, left_us);
}

static int64_t
left_of(struct fixture *f, uint64_t session, uint8_t byte)
{
    uint8_t hash[RECORD_TOKEN_HASH_SIZE];
    bool is_own = true;
    memset(hash, byte, sizeof(hash));
    int64_t left = sessions_token_left_us(&f->a, sessions_find(&f->a, session), hash, &is_own);
    assert_false(is_own);
    return left;
}

static void
short_lived_token_ends_by_time_and_before_its_session(void **state)
{
    struct fixture *f = *state;
    struct live_session *s = begin(f, 7);
    make_token(f, 7, 0xA1, 15 * MINUTE);
    assert_in_range(left_of(f, 7, 0xA1), 14 * MINUTE, 15 * MINUTE);
    assert_int_equal(left_of(f, 7, 0xA2), 0); /* none of its tokens */
    s->token_end_mono_us[0] = mono_us(&f->a);
    assert_true(left_of(f, 7, 0xA1) <= 0);
    s->token_end_mono_us[0] = mono_us(&f->a) + 15 * MINUTE;
    s->began_mono_us -= 110 * MINUTE; /* 10 minutes are left */
    assert_in_range(left_of(f, 7, 0xA1), 9 * MINUTE, 10 * MINUTE);
    bool is_own = false;
    assert_true(sessions_token_left_us(&f->a, s, s->record.token_hash, &is_own) > 0);
    assert_true(is_own);
}

static void
short_lived_tokens_survive_a_restart_and_end_as_they_would_have(void **state)
{
    struct fixture *f = *state;
    (void)begin(f, 7);
    make_token(f, 7, 0xA1, 5 * MINUTE);
    make_token(f, 7, 0xA2, -MINUTE);      /* over while nobody ran */
    make_token(f, 7, 0xA3, 600 * MINUTE); /* the clock was ahead */
    restart(f);
    assert_in_range(left_of(f, 7, 0xA1), 4 * MINUTE, 5 * MINUTE);
    assert_true(left_of(f, 7, 0xA2) <= 0);
    assert_in_range(left_of(f, 7, 0xA3), 14 * MINUTE, 15 * MINUTE);
}

static void
tokens_that_are_over_make_room_and_the_others_keep_their_end(void **state)
{
    struct fixture *f = *state;
    struct live_session *s = begin(f, 7);
    make_token(f, 7, 0xA1, MINUTE);
    make_token(f, 7, 0xA2, 5 * MINUTE);
    make_token(f, 7, 0xA3, 9 * MINUTE);
    /* The second is over and left out; a new one comes last. */
    struct session_record record = s->record;
    record.tokens[1] = record.tokens[2];
    memset(record.tokens[2].hash, 0xA4, sizeof(record.tokens[2].hash));
    sessions_set_tokens(&f->a, &record, 15 * MINUTE);
    assert_in_range(left_of(f, 7, 0xA1), 1, MINUTE);
    assert_int_equal(left_of(f, 7, 0xA2), 0);
    assert_in_range(left_of(f, 7, 0xA3), 8 * MINUTE, 9 * MINUTE);
    assert_in_range(left_of(f, 7, 0xA4), 14 * MINUTE, 15 * MINUTE);
    sessions_remove(&f->a, 99); /* none of that number */
    record.id = 99;
    sessions_set_tokens(&f->a, &record, MINUTE);
    assert_int_equal(f->a.sessions.n, 1);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(session_ends_when_it_was_idle_for_long_and_use_prolongs_it),
        TEST(use_does_not_prolong_a_session_past_its_absolute_end),
        TEST(longer_time_out_does_not_reach_a_session_that_began_before_it),
        TEST(ended_sessions_leave_store_and_table_and_the_front_door_is_told),
        TEST(use_is_written_in_batches),
        TEST(short_lived_token_ends_by_time_and_before_its_session),
        TEST(short_lived_tokens_survive_a_restart_and_end_as_they_would_have),
        TEST(tokens_that_are_over_make_room_and_the_others_keep_their_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
