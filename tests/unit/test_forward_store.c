/* Store and forward: order, bounds, age, and what a restart finds. */
#include "services/cloudd/forward.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "libcommon/base.h"

static char dir[64];
static struct store *store;
static struct forward *forward;
static uint64_t mono_now;
static int64_t wall_now;

static uint64_t
mono(void)
{
    return mono_now;
}

static int64_t
wall(void)
{
    return wall_now;
}

static void
open_all(uint64_t boot)
{
    static const char *const dbs[] = { "messages" };
    struct forward_clock clock = { .mono_us = mono, .wall_us = wall, .boot = boot };
    assert_int_equal(store_open(dir, dbs, 1, 1, NULL, &store), 0);
    assert_int_equal(forward_new(store, 0, &clock, &forward), 0);
}

static void
close_all(void)
{
    forward_free(forward);
    store_close(store);
}

static int
setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/test-forward-XXXXXX");
    mono_now = 1000;
    wall_now = 1772417472000000;
    return mkdtemp(dir) != NULL ? 0 : -1;
}

static int
teardown(void **state)
{
    (void)state;
    DIR *d = opendir(dir);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.')
            (void)unlinkat(dirfd(d), e->d_name, 0);
    if (d != NULL)
        closedir(d);
    return rmdir(dir);
}

static struct forward_queue *
open_queue(uint32_t client, uint64_t max_bytes, uint64_t ttl_us, bool drop_newest)
{
    struct forward_queue *q;
    struct forward_limits l = { max_bytes, ttl_us, drop_newest };
    assert_int_equal(forward_open(forward, client, &l, &q), 0);
    return q;
}

static void
put(struct forward_queue *q, const char *text)
{
    assert_int_equal(forward_put(q, "t/1", text, strlen(text), true), 0);
}

static void
expect(struct forward_queue *q, const char *text)
{
    struct forward_message m;
    assert_int_equal(forward_next(q, &m), STORE_OK);
    assert_string_equal(m.topic, "t/1");
    assert_true(m.retain);
    assert_int_equal(m.len, strlen(text));
    assert_memory_equal(m.payload, text, m.len);
}

static void
expect_none(struct forward_queue *q)
{
    struct forward_message m;
    assert_int_equal(forward_next(q, &m), STORE_NOT_FOUND);
}

static struct forward_stats
stats(struct forward_queue *q)
{
    struct forward_stats s;
    forward_get_stats(q, &s);
    return s;
}

static void
messages_can_be_sent_once_they_are_on_disk(void **state)
{
    (void)state;
    open_all(1);
    struct forward_queue *q = open_queue(7, 1 << 20, 0, false);
    assert_false(forward_is_dirty(forward));
    put(q, "one");
    put(q, "two");
    expect_none(q);
    assert_true(forward_is_dirty(forward));
    assert_int_equal(forward_flush(forward), 0);
    assert_false(forward_is_dirty(forward));
    expect(q, "one");
    put(q, "three");
    expect(q, "two");
    expect_none(q);
    assert_int_equal(forward_flush(forward), 0);
    expect(q, "three");
    assert_int_equal(stats(q).messages, 3);
    forward_close(q);
    close_all();
}

static void
what_is_not_acknowledged_survives_in_order(void **state)
{
    (void)state;
    open_all(1);
    struct forward_queue *q = open_queue(7, 1 << 20, 0, false);
    struct forward_queue *other = open_queue(8, 1 << 20, 0, false);
    put(q, "one");
    put(other, "elsewhere");
    put(q, "two");
    put(q, "three");
    assert_int_equal(forward_flush(forward), 0);
    struct forward_message m;
    assert_int_equal(forward_next(q, &m), STORE_OK);
    assert_int_equal(forward_next(q, &m), STORE_OK);
    assert_int_equal(forward_done(q, m.seq), 0); /* "two" overtook */
    assert_int_equal(forward_flush(forward), 0);
    put(q, "never on disk");
    forward_close(q);
    forward_close(other);
    close_all();

    open_all(1);
    q = open_queue(7, 1 << 20, 0, false);
    assert_int_equal(stats(q).messages, 2);
    expect(q, "one");
    expect(q, "three");
    expect_none(q);
    put(q, "four");
    assert_int_equal(forward_flush(forward), 0);
    expect(q, "four");
    forward_rewind(q);
    expect(q, "one");
    forward_close(q);
    close_all();
}

static void
a_rewind_does_not_repeat_what_is_done(void **state)
{
    (void)state;
    open_all(1);
    struct forward_queue *q = open_queue(7, 1 << 20, 0, false);
    put(q, "one");
    put(q, "two");
    assert_int_equal(forward_flush(forward), 0);
    struct forward_message m;
    assert_int_equal(forward_next(q, &m), STORE_OK);
    assert_int_equal(forward_done(q, m.seq), 0);
    forward_rewind(q); /* before the removal is committed */
    expect(q, "two");
    forward_close(q);
    close_all();
}

static void
the_oldest_give_way_when_it_is_full(void **state)
{
    (void)state;
    char text[400];
    memset(text, 'x', sizeof(text));
    open_all(1);
    struct forward_queue *q = open_queue(7, 2000, 0, false);
    struct forward_message m;
    for (unsigned i = 0; i < 10; i++) {
        (void)snprintf(text, sizeof(text), "%u", i);
        assert_int_equal(forward_put(q, "t/1", text, sizeof(text), true), 0);
        assert_int_equal(forward_flush(forward), 0);
    }
    struct forward_stats s = stats(q);
    assert_int_equal(s.messages, 4);
    assert_int_equal(s.dropped, 6);
    assert_true(s.bytes <= 2000);
    assert_int_equal(forward_next(q, &m), STORE_OK);
    assert_string_equal(m.payload, "6");
    forward_close(q);
    close_all();
}

static void
the_newest_is_refused_when_it_is_full(void **state)
{
    (void)state;
    char text[400];
    memset(text, 'x', sizeof(text));
    open_all(1);
    struct forward_queue *q = open_queue(7, 2000, 0, true);
    struct forward_message m;
    unsigned n = 0;
    for (unsigned i = 0; i < 10; i++) {
        (void)snprintf(text, sizeof(text), "%u", i);
        n += forward_put(q, "t/1", text, sizeof(text), true) == 0;
    }
    assert_int_equal(n, 4);
    assert_int_equal(stats(q).dropped, 6);
    assert_int_equal(forward_flush(forward), 0);
    assert_int_equal(forward_next(q, &m), STORE_OK);
    assert_string_equal(m.payload, "0");
    forward_close(q);
    close_all();
}

static void
what_has_expired_makes_room_for_the_newest(void **state)
{
    (void)state;
    char text[400];
    memset(text, 'x', sizeof(text));
    open_all(1);
    struct forward_queue *q = open_queue(7, 2000, 60000000, true);
    struct forward_message m;
    for (unsigned i = 0; i < 12; i++) {
        if (i == 2)
            mono_now += 50000000;
        if (i == 10) { /* the first two have expired, nobody looked at them */
            mono_now += 11000000;
            assert_int_equal(stats(q).expired, 0);
        }
        (void)snprintf(text, sizeof(text), "%u", i);
        bool kept = forward_put(q, "t/1", text, sizeof(text), true) == 0;
        assert_int_equal(kept, i < 4 || i >= 10);
        if (i < 10)
            assert_int_equal(forward_flush(forward), 0);
    }
    assert_int_equal(forward_put(q, "t/1", text, sizeof(text), true), -ENOBUFS);
    assert_int_equal(stats(q).expired, 2);
    assert_int_equal(stats(q).dropped, 7);
    assert_int_equal(forward_flush(forward), 0);
    assert_int_equal(stats(q).messages, 4);
    assert_true(stats(q).bytes <= 2000);
    static const char *const left[] = { "2", "3", "10", "11" };
    for (size_t i = 0; i < ARRAY_LEN(left); i++) {
        assert_int_equal(forward_next(q, &m), STORE_OK);
        assert_string_equal(m.payload, left[i]);
    }
    expect_none(q);
    forward_close(q);
    close_all();
}

static void
a_message_under_way_is_not_dropped(void **state)
{
    (void)state;
    char text[900];
    memset(text, 'x', sizeof(text));
    open_all(1);
    struct forward_queue *q = open_queue(7, 2000, 0, false);
    struct forward_message m;
    assert_int_equal(forward_put(q, "t/1", text, sizeof(text), true), 0);
    assert_int_equal(forward_flush(forward), 0);
    assert_int_equal(forward_next(q, &m), STORE_OK);
    uint64_t under_way = m.seq;
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(forward_put(q, "t/1", text, sizeof(text), true), 0);
        assert_int_equal(forward_flush(forward), 0);
    }
    forward_rewind(q);
    assert_int_equal(forward_next(q, &m), STORE_OK);
    assert_true(m.seq == under_way);
    forward_close(q);
    close_all();
}

static void
age_ignores_the_date_within_a_boot(void **state)
{
    (void)state;
    open_all(1);
    struct forward_queue *q = open_queue(7, 1 << 20, 60000000, false);
    put(q, "one");
    assert_int_equal(forward_flush(forward), 0);
    wall_now += 3600000000; /* somebody sets the date */
    mono_now += 59000000;
    expect(q, "one");
    forward_rewind(q);
    mono_now += 2000000;
    expect_none(q);
    assert_int_equal(stats(q).expired, 1);
    assert_int_equal(forward_flush(forward), 0);
    assert_int_equal(stats(q).messages, 0);
    forward_close(q);
    close_all();
}

static void
age_goes_by_the_date_after_a_boot(void **state)
{
    (void)state;
    open_all(1);
    struct forward_queue *q = open_queue(7, 1 << 20, 60000000, false);
    put(q, "one");
    assert_int_equal(forward_flush(forward), 0);
    forward_close(q);
    close_all();
    mono_now = 5;
    wall_now += 30000000;
    open_all(2);
    q = open_queue(7, 1 << 20, 60000000, false);
    expect(q, "one");
    forward_rewind(q);
    wall_now += 31000000;
    expect_none(q);
    forward_close(q);
    close_all();
}

static void
age_goes_by_the_date_when_the_boot_is_not_known(void **state)
{
    (void)state;
    mono_now = 90000000; /* later in its boot than the next start in its own */
    open_all(0);
    struct forward_queue *q = open_queue(7, 1 << 20, 60000000, false);
    put(q, "one");
    assert_int_equal(forward_flush(forward), 0);
    forward_close(q);
    close_all();
    mono_now = 5;
    wall_now += 61000000;
    open_all(0);
    q = open_queue(7, 1 << 20, 60000000, false);
    expect_none(q);
    assert_int_equal(stats(q).expired, 1);
    forward_close(q);
    close_all();
}

static void
many_expired_messages_go_in_steps(void **state)
{
    (void)state;
    enum { STEPS = 40 };
    open_all(1);
    struct forward_queue *q = open_queue(7, 64 << 20, 60000000, false);
    for (unsigned i = 0; i < STEPS * FORWARD_EXPIRE_STEP; i++)
        put(q, "old");
    mono_now += 61000000;
    put(q, "new");
    assert_int_equal(forward_flush(forward), 0);
    for (unsigned i = 1; i <= STEPS; i++) {
        expect_none(q); /* for now */
        assert_int_equal(stats(q).expired, i * FORWARD_EXPIRE_STEP);
        if (i == STEPS / 2)
            assert_int_equal(forward_flush(forward), 0);
    }
    expect(q, "new");
    forward_rewind(q); /* most removals are not committed */
    expect(q, "new");
    assert_int_equal(stats(q).expired, STEPS * FORWARD_EXPIRE_STEP);
    assert_int_equal(forward_flush(forward), 0);
    assert_int_equal(stats(q).messages, 1);
    forward_close(q);
    close_all();
}

static void
a_deleted_client_leaves_nothing(void **state)
{
    (void)state;
    open_all(1);
    struct forward_queue *q = open_queue(7, 64 << 20, 0, false);
    struct forward_queue *other = open_queue(8, 1 << 20, 0, false);
    put(other, "stays");
    for (unsigned i = 0; i < FORWARD_PURGE_STEP + 10; i++)
        put(q, "goes");
    assert_int_equal(forward_flush(forward), 0);
    forward_close(q);
    assert_int_equal(forward_purge(forward, 7), STORE_OK);
    assert_int_equal(forward_purge(forward, 7), STORE_NOT_FOUND);
    assert_int_equal(forward_purge(forward, 7), STORE_NOT_FOUND);
    expect(other, "stays");
    forward_close(other);
    close_all();
}

int
main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(messages_can_be_sent_once_they_are_on_disk),
        TEST(what_is_not_acknowledged_survives_in_order),
        TEST(a_rewind_does_not_repeat_what_is_done),
        TEST(the_oldest_give_way_when_it_is_full),
        TEST(the_newest_is_refused_when_it_is_full),
        TEST(what_has_expired_makes_room_for_the_newest),
        TEST(a_message_under_way_is_not_dropped),
        TEST(age_ignores_the_date_within_a_boot),
        TEST(age_goes_by_the_date_after_a_boot),
        TEST(age_goes_by_the_date_when_the_boot_is_not_known),
        TEST(many_expired_messages_go_in_steps),
        TEST(a_deleted_client_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
