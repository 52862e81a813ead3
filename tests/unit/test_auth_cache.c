/*
 * The gateway's memory of tokens: who is known, for how long, and that a
 * change of rights leaves nothing behind.
 */
#include "gateway/auth_cache.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>

#include <cmocka.h>

enum { SECOND = 1000000, NOW = 1000 * SECOND, RECHECK = 60 * SECOND };

static void
digest_of(unsigned n, uint8_t out[AUTH_DIGEST_SIZE])
{
    memset(out, 0, AUTH_DIGEST_SIZE);
    uint64_t x = (n + 1) * 0x9e3779b97f4a7c15u; /* spread like a hash */
    memcpy(out, &x, sizeof(x));
    memcpy(out + 8, &n, sizeof(n));
}

static struct auth_grant
grant_of(int64_t user, int64_t session)
{
    return (struct auth_grant){
        .who = { .kind = BUS_WHO_USER, .user_id = user, .session_id = session },
        .valid_until_us = NOW + 3600ull * SECOND,
    };
}

static struct auth_cache *
make(void)
{
    struct auth_cache *c = NULL;
    assert_int_equal(auth_cache_new(&c), 0);
    return c;
}

static void
put(struct auth_cache *c, unsigned n, int64_t user, int64_t session, uint64_t now_us)
{
    uint8_t d[AUTH_DIGEST_SIZE];
    struct auth_grant g = grant_of(user, session);
    digest_of(n, d);
    assert_true(auth_cache_put(c, d, &g, 1, auth_cache_mark(c), now_us));
}

static enum auth_cache_outcome
get(struct auth_cache *c, unsigned n, uint64_t now_us)
{
    uint8_t d[AUTH_DIGEST_SIZE];
    struct auth_grant g;
    digest_of(n, d);
    return auth_cache_get(c, d, now_us, RECHECK, &g);
}

static void
test_token_is_known_until_its_end(void **state)
{
    (void)state;
    struct auth_cache *c = make();
    assert_int_equal(get(c, 1, NOW), AUTH_CACHE_UNKNOWN);
    put(c, 1, 7, 8, NOW);
    assert_int_equal(get(c, 1, NOW + SECOND), AUTH_CACHE_KNOWN);
    assert_int_equal(get(c, 2, NOW), AUTH_CACHE_UNKNOWN);
    assert_int_equal(get(c, 1, NOW + 3600ull * SECOND), AUTH_CACHE_UNKNOWN);
    struct auth_cache_stats s;
    auth_cache_get_stats(c, &s);
    assert_int_equal(s.size, 0);
    assert_int_equal(s.hits, 1);
    assert_int_equal(s.misses, 3);
    auth_cache_free(c);
}

static void
test_old_token_is_checked_again_by_one_caller(void **state)
{
    (void)state;
    struct auth_cache *c = make();
    put(c, 1, 7, 8, NOW);
    uint64_t later = NOW + RECHECK;
    assert_int_equal(get(c, 1, later), AUTH_CACHE_STALE);
    assert_int_equal(get(c, 1, later + SECOND), AUTH_CACHE_KNOWN);
    assert_int_equal(get(c, 1, later + AUTH_CACHE_CLAIM_US), AUTH_CACHE_STALE);
    put(c, 1, 7, 8, later + AUTH_CACHE_CLAIM_US);
    assert_int_equal(get(c, 1, later + 2 * AUTH_CACHE_CLAIM_US), AUTH_CACHE_KNOWN);
    auth_cache_free(c);
}

static void
test_refused_token_is_refused_for_a_second(void **state)
{
    (void)state;
    struct auth_cache *c = make();
    uint8_t d[AUTH_DIGEST_SIZE];
    digest_of(1, d);
    put(c, 1, 7, 8, NOW);
    assert_true(auth_cache_refuse(c, d, 1, auth_cache_mark(c), NOW));
    assert_int_equal(get(c, 1, NOW + SECOND / 2), AUTH_CACHE_REFUSED);
    assert_int_equal(get(c, 1, NOW + SECOND + 1), AUTH_CACHE_UNKNOWN);
    auth_cache_free(c);
}

static void
test_forgetting_hits_what_it_names(void **state)
{
    (void)state;
    struct auth_cache *c = make();
    assert_false(auth_cache_was_told(c));
    put(c, 1, 7, 71, NOW);
    put(c, 2, 7, 72, NOW);
    put(c, 3, 8, 81, NOW);
    auth_cache_forget_session(c, 1, 72);
    assert_int_equal(get(c, 1, NOW), AUTH_CACHE_KNOWN);
    assert_int_equal(get(c, 2, NOW), AUTH_CACHE_UNKNOWN);
    auth_cache_forget_user(c, 1, 7);
    assert_int_equal(get(c, 1, NOW), AUTH_CACHE_UNKNOWN);
    assert_int_equal(get(c, 3, NOW), AUTH_CACHE_KNOWN);
    auth_cache_forget_all(c, 1);
    assert_int_equal(get(c, 3, NOW), AUTH_CACHE_UNKNOWN);
    assert_true(auth_cache_was_told(c));
    auth_cache_free(c);
}

static void
test_answer_older_than_the_last_change_is_not_kept(void **state)
{
    (void)state;
    struct auth_cache *c = make();
    uint8_t d[AUTH_DIGEST_SIZE];
    struct auth_grant g = grant_of(7, 8);
    digest_of(1, d);
    uint64_t mark = auth_cache_mark(c);
    auth_cache_forget_user(c, 5, 7);
    assert_false(auth_cache_put(c, d, &g, 4, mark, NOW));
    assert_false(auth_cache_refuse(c, d, 4, mark, NOW));
    assert_true(auth_cache_put(c, d, &g, 5, mark, NOW));
    auth_cache_free(c);
}

static void
test_epochs_may_begin_anew_after_forgetting_all(void **state)
{
    (void)state;
    struct auth_cache *c = make();
    uint8_t d[AUTH_DIGEST_SIZE];
    struct auth_grant g = grant_of(7, 8);
    digest_of(1, d);
    auth_cache_forget_user(c, 100, 7);
    uint64_t mark = auth_cache_mark(c);
    auth_cache_forget_all(c, 1); /* authd lives anew */
    assert_false(auth_cache_put(c, d, &g, 100, mark, NOW));
    assert_true(auth_cache_put(c, d, &g, 1, auth_cache_mark(c), NOW));
    auth_cache_free(c);
}

static void
test_oldest_goes_when_there_are_too_many(void **state)
{
    (void)state;
    struct auth_cache *c = make();
    enum { TOO_MANY = 3 * AUTH_CACHE_SHARDS * AUTH_CACHE_PER_SHARD };
    for (unsigned i = 0; i < TOO_MANY; i++)
        put(c, i, 1, i + 1, NOW + i);
    struct auth_cache_stats s;
    auth_cache_get_stats(c, &s);
    assert_int_equal(s.size, AUTH_CACHE_SHARDS * AUTH_CACHE_PER_SHARD);
    assert_int_equal(get(c, 0, NOW + TOO_MANY), AUTH_CACHE_UNKNOWN);
    assert_int_equal(get(c, TOO_MANY - 1, NOW + TOO_MANY), AUTH_CACHE_KNOWN);
    auth_cache_free(c);
}

static void
test_used_sessions_are_listed_once(void **state)
{
    (void)state;
    struct auth_cache *c = make();
    struct auth_touch out[4];
    put(c, 1, 7, 71, NOW);
    put(c, 2, -1, 0, NOW); /* a service account has no session */
    assert_int_equal(auth_cache_touched(c, out, 4), 1);
    assert_int_equal(out[0].session_id, 71);
    assert_int_equal(auth_cache_touched(c, out, 4), 0);
    assert_int_equal(get(c, 1, NOW + SECOND), AUTH_CACHE_KNOWN);
    assert_int_equal(auth_cache_touched(c, out, 4), 1);
    assert_int_equal(out[0].used_us, NOW + SECOND);
    auth_cache_free(c);
}

/* ---- threads: after forget returned, no older grant is found ---- */

struct race {
    struct auth_cache *cache;
    _Atomic uint64_t epoch; /* authd's */
    _Atomic bool stop;
};

static void *
keep_putting(void *arg)
{
    struct race *r = arg;
    uint8_t d[AUTH_DIGEST_SIZE];
    digest_of(1, d);
    while (!atomic_load(&r->stop)) {
        uint64_t mark = auth_cache_mark(r->cache);
        uint64_t epoch = atomic_load(&r->epoch);
        struct auth_grant g = grant_of(7, 8);
        g.who.permissions = epoch; /* rights of that time */
        (void)auth_cache_put(r->cache, d, &g, epoch, mark,
                             NOW); /* refused or not: both right */
    }
    return NULL;
}

static void
test_no_grant_survives_the_change_that_took_it(void **state)
{
    (void)state;
    struct race r = { .cache = make(), .epoch = 1 };
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, keep_putting, &r), 0);
    uint8_t d[AUTH_DIGEST_SIZE];
    digest_of(1, d);
    for (uint64_t epoch = 2; epoch < 20000; epoch++) {
        atomic_store(&r.epoch, epoch);
        if (epoch % 3 == 0)
            auth_cache_forget_all(r.cache, epoch);
        else
            auth_cache_forget_session(r.cache, epoch, 8);
        struct auth_grant g;
        if (auth_cache_get(r.cache, d, NOW, RECHECK, &g) == AUTH_CACHE_KNOWN)
            assert_true(g.who.permissions >= epoch);
    }
    atomic_store(&r.stop, true);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    auth_cache_free(r.cache);
}

int
main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_token_is_known_until_its_end),
        cmocka_unit_test(test_old_token_is_checked_again_by_one_caller),
        cmocka_unit_test(test_refused_token_is_refused_for_a_second),
        cmocka_unit_test(test_forgetting_hits_what_it_names),
        cmocka_unit_test(test_answer_older_than_the_last_change_is_not_kept),
        cmocka_unit_test(test_epochs_may_begin_anew_after_forgetting_all),
        cmocka_unit_test(test_oldest_goes_when_there_are_too_many),
        cmocka_unit_test(test_used_sessions_are_listed_once),
        cmocka_unit_test(test_no_grant_survives_the_change_that_took_it),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
