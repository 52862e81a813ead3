/* The view of the tag bus: names, values, listeners, providers that come and go. */
#include "libcommon/tagview.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/base.h"
#include "tests/unit/fail_alloc.h"

static struct tag_def
def(uint32_t no, uint8_t type, const char *name)
{
    struct tag_def d = { .no = no, .type = type, .access = TAG_ACCESS_READ };
    (void)snprintf(d.provider, sizeof(d.provider), "p");
    (void)snprintf(d.source, sizeof(d.source), "s");
    (void)snprintf(d.name, sizeof(d.name), "%s", name);
    return d;
}

static void
sample(struct tagview *v, uint32_t no, uint8_t type, uint64_t value, uint8_t quality,
       int64_t ts_us)
{
    struct tag_sample s = {
        .no = no, .quality = quality, .ts_us = ts_us, .value = { .type = type, .u = value }
    };
    tagview_samples(v, "d", &s, 1, false);
}

static unsigned n_heard;

static void
heard(struct tagview_listener *l)
{
    (void)l;
    n_heard++;
}

static int
setup(void **state)
{
    n_heard = 0;
    return tagview_new((struct tagview **)state);
}

static int
teardown(void **state)
{
    tagview_free(*state);
    return 0;
}

static void
a_sample_reaches_the_tag_of_its_number(void **state)
{
    struct tagview *v = *state;
    struct tag_def defs[] = { def(5, TAG_UINT64, "a"), def(4000000000u, TAG_INT16, "b") };
    assert_int_equal(tagview_catalogue(v, "d", defs, 2), 0);
    sample(v, 5, TAG_UINT64, UINT64_MAX, TAG_GOOD, 10);
    sample(v, 4000000000u, TAG_INT16, 7, TAG_GOOD, 11);
    sample(v, 6, TAG_INT16, 9, TAG_GOOD, 12); /* nobody's */
    struct tagview_tag *a = tagview_find(v, "p", "s", "a"), *b = tagview_find(v, "p", "s", "b");
    assert_true(a->has_value && a->last.value.u == UINT64_MAX);
    assert_true(b->has_value && b->last.value.u == 7 && b->last.ts_us == 11);
    assert_null(tagview_find(v, "p", "s", "c"));
    size_t at = 0;
    assert_ptr_equal(tagview_next(v, &at), a);
    assert_ptr_equal(tagview_next(v, &at), b);
    assert_null(tagview_next(v, &at));
}

static void
a_bad_sample_keeps_the_last_good_value(void **state)
{
    struct tagview *v = *state;
    struct tag_def defs[] = { def(1, TAG_UINT32, "a") };
    assert_int_equal(tagview_catalogue(v, "d", defs, 1), 0);
    sample(v, 1, TAG_UINT32, 0, TAG_BAD_TIMEOUT, 1);
    struct tagview_tag *t = tagview_find(v, "p", "s", "a");
    assert_false(t->has_value);
    sample(v, 1, TAG_UINT32, 3, TAG_GOOD, 2);
    sample(v, 1, TAG_UINT32, 0, TAG_BAD_TIMEOUT, 3);
    assert_true(t->has_value && t->last.value.u == 3);
    assert_int_equal(t->last.quality, TAG_BAD_TIMEOUT);
}

static void
a_listener_follows_its_tag_by_name(void **state)
{
    struct tagview *v = *state;
    struct tagview_tag *t = tagview_hold(v, "p", "s", "later");
    struct tagview_listener l = { .fn = heard };
    tagview_listen(t, &l);
    struct tag_def defs[] = { def(1, TAG_UINT32, "later") };
    assert_int_equal(tagview_catalogue(v, "d", defs, 1), 0);
    sample(v, 1, TAG_UINT32, 3, TAG_GOOD, 2);
    assert_int_equal(n_heard, 1);
    assert_int_equal(tagview_catalogue(v, "d", NULL, 0), 0); /* the tag is deleted */
    assert_int_equal(n_heard, 2);
    sample(v, 1, TAG_UINT32, 4, TAG_GOOD, 3);
    assert_int_equal(n_heard, 2);
    assert_ptr_equal(tagview_find(v, "p", "s", "later"), t);
    assert_null(tagview_daemon_of(t));
    defs[0] = def(9, TAG_INT16, "later"); /* and comes back otherwise */
    assert_int_equal(tagview_catalogue(v, "d", defs, 1), 0);
    assert_false(t->has_value);
    sample(v, 9, TAG_INT16, 5, TAG_GOOD, 4);
    assert_int_equal(n_heard, 3);
    assert_int_equal(tagview_catalogue(v, "d", NULL, 0), 0);
    tagview_unlisten(&l);
    tagview_release(v, t);
    assert_null(tagview_find(v, "p", "s", "later"));
}

static void
a_tag_that_is_listed_no_more_is_told_once_and_comes_back(void **state)
{
    struct tagview *v = *state;
    struct tag_def defs[] = { def(1, TAG_UINT32, "a"), def(2, TAG_UINT32, "b") };
    assert_int_equal(tagview_catalogue(v, "d", defs, 2), 0);
    struct tagview_tag *t = tagview_hold(v, "p", "s", "a");
    struct tagview_listener l = { .fn = heard };
    tagview_listen(t, &l);
    sample(v, 1, TAG_UINT32, 3, TAG_GOOD, 2);
    assert_int_equal(tagview_catalogue(v, "d", &defs[1], 1), 0);
    assert_int_equal(n_heard, 2);
    assert_int_equal(t->last.quality, TAG_BAD_CONFIG);
    assert_true(t->last.ts_us > 2 && t->has_value && t->last.value.u == 3);
    assert_int_equal(tagview_catalogue(v, "d", &defs[1], 1), 0);
    assert_int_equal(n_heard, 2);
    assert_int_equal(tagview_catalogue(v, "d", defs, 2), 0);
    struct tag_sample again = { .no = 1, .ts_us = 2, .value = { .type = TAG_UINT32, .u = 3 } };
    tagview_samples(v, "d", &again, 1, true);
    assert_int_equal(n_heard, 3);
    assert_int_equal(t->last.quality, TAG_GOOD);
    tagview_unlisten(&l);
    tagview_release(v, t);
}

static struct tagview *leaving_view;
static struct tagview_listener leaving[2];

/* Whoever is told first leaves, and lets go of all its tags. */
static void
leave(struct tagview_listener *l)
{
    (void)l;
    n_heard++;
    for (size_t i = 0; i < 2; i++) {
        tagview_unlisten(&leaving[i]);
        tagview_release(leaving_view, leaving[i].tag);
    }
}

static void
a_listener_may_let_go_of_its_tags_when_they_go(void **state)
{
    struct tagview *v = leaving_view = *state;
    struct tag_def defs[] = { def(1, TAG_UINT32, "a"), def(2, TAG_UINT32, "b") };
    assert_int_equal(tagview_catalogue(v, "d", defs, 2), 0);
    for (size_t i = 0; i < 2; i++) {
        leaving[i] = (struct tagview_listener){ .fn = leave };
        tagview_listen(tagview_hold(v, "p", "s", defs[i].name), &leaving[i]);
    }
    assert_int_equal(tagview_catalogue(v, "d", NULL, 0), 0);
    assert_int_equal(n_heard, 1);
    assert_null(tagview_find(v, "p", "s", "a"));
    assert_null(tagview_find(v, "p", "s", "b"));
}

static void
a_catalogue_without_memory_leaves_the_old_one(void **state)
{
    struct tagview *v = *state;
    struct tag_def old = def(1, TAG_UINT32, "a"), new = def(1, TAG_UINT32, "b");
    assert_int_equal(tagview_catalogue(v, "d", &old, 1), 0);
    for (long n = 0; n < 2; n++) {
        fail_alloc_begin(n);
        assert_int_equal(tagview_catalogue(v, "d", &new, 1), -ENOMEM);
        (void)fail_alloc_end(); /* the numbers of the tables are known */
        assert_non_null(tagview_find(v, "p", "s", "a"));
        assert_null(tagview_find(v, "p", "s", "b"));
    }
    assert_int_equal(tagview_catalogue(v, "d", &new, 1), 0);
    assert_null(tagview_find(v, "p", "s", "a"));
}

static void
a_provider_that_leaves_is_told_once(void **state)
{
    struct tagview *v = *state;
    struct tag_def defs[] = { def(1, TAG_UINT32, "a") };
    assert_int_equal(tagview_catalogue(v, "d", defs, 1), 0);
    struct tagview_tag *t = tagview_hold(v, "p", "s", "a");
    struct tagview_listener l = { .fn = heard };
    tagview_listen(t, &l);
    sample(v, 1, TAG_UINT32, 3, TAG_GOOD, 2);
    tagview_presence(v, "d", false);
    tagview_presence(v, "d", false);
    assert_int_equal(n_heard, 2);
    assert_int_equal(t->last.quality, TAG_BAD_OFFLINE);
    assert_true(t->has_value && t->last.value.u == 3);
    tagview_presence(v, "d", true);
    struct tag_sample again = { .no = 1, .ts_us = 2, .value = { .type = TAG_UINT32, .u = 3 } };
    tagview_samples(v, "d", &again, 1, true);
    assert_int_equal(n_heard, 3);
    assert_int_equal(t->last.quality, TAG_GOOD);
    tagview_samples(v, "d", &again, 1, true); /* a snapshot that says nothing new */
    assert_int_equal(n_heard, 3);
    tagview_unlisten(&l);
    tagview_release(v, t);
}

static void
text_is_copied(void **state)
{
    struct tagview *v = *state;
    struct tag_def defs[] = { def(1, TAG_STRING, "a") };
    char text[] = "first";
    assert_int_equal(tagview_catalogue(v, "d", defs, 1), 0);
    struct tag_sample s = {
        .no = 1, .value = { .type = TAG_STRING, .bytes = (uint8_t *)text, .n_bytes = 5 }
    };
    tagview_samples(v, "d", &s, 1, false);
    memset(text, 'x', 5);
    struct tagview_tag *t = tagview_find(v, "p", "s", "a");
    assert_int_equal(t->last.value.n_bytes, 5);
    assert_memory_equal(t->last.value.bytes, "first", 5);
}

static void
a_name_keeps_its_first_provider(void **state)
{
    struct tagview *v = *state;
    struct tag_def defs[] = { def(1, TAG_UINT32, "a"), def(2, TAG_UINT32, "a") };
    assert_int_equal(tagview_catalogue(v, "d", defs, 2), 0);
    assert_int_equal(tagview_catalogue(v, "e", defs, 1), 0);
    struct tagview_stats s;
    tagview_get_stats(v, &s);
    assert_int_equal(s.tags, 1);
    assert_int_equal(s.refused_tags, 2);
    struct tagview_tag *t = tagview_find(v, "p", "s", "a");
    assert_string_equal(tagview_daemon_of(t), "d");
    assert_int_equal(tagview_catalogue(v, "d", NULL, 0), 0);
    assert_null(tagview_find(v, "p", "s", "a"));
    assert_true(tagview_knows(v, "e"));
    assert_false(tagview_knows(v, "f"));
}

int
main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_sample_reaches_the_tag_of_its_number),
        TEST(a_bad_sample_keeps_the_last_good_value),
        TEST(a_listener_follows_its_tag_by_name),
        TEST(a_tag_that_is_listed_no_more_is_told_once_and_comes_back),
        TEST(a_listener_may_let_go_of_its_tags_when_they_go),
        TEST(a_catalogue_without_memory_leaves_the_old_one),
        TEST(a_provider_that_leaves_is_told_once),
        TEST(text_is_copied),
        TEST(a_name_keeps_its_first_provider),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
