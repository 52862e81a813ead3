/* Sampling and thresholds of message groups, with time as an argument. */
#include "services/cloudd/group.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/base.h"
#include "tests/unit/fail_alloc.h"

enum { N_TAGS = 3, S = 1000000 };

static const struct group_tag_name names[N_TAGS] = {
    { "p", "s", "a" },
    { "p", "s", "b" },
    { "p", "t", "c" },
};

struct bench {
    struct group *g;
    struct tag_sample now[N_TAGS];
    bool has[N_TAGS];
    unsigned n_messages;
    char last[GROUP_MESSAGE_MAX * 2];
    size_t last_len, most;
};

static const struct tag_sample *
current(void *arg, size_t i)
{
    struct bench *b = arg;
    return b->has[i] ? &b->now[i] : NULL;
}

static void
emit(void *arg, const char *payload, size_t len)
{
    struct bench *b = arg;
    b->n_messages++;
    assert_true(len < sizeof(b->last));
    memcpy(b->last, payload, len);
    b->last[len] = '\0';
    b->last_len = len;
    if (len > b->most)
        b->most = len;
}

static struct bench *
begin(struct group_settings s)
{
    struct bench *b = calloc(1, sizeof(*b));
    assert_non_null(b);
    struct group_events ev = { .current = current, .emit = emit, .arg = b };
    assert_int_equal(group_new(&s, names, N_TAGS, &ev, 100 * S, &b->g), 0);
    return b;
}

static void
end(struct bench *b)
{
    group_free(b->g);
    free(b);
}

/* Tag 'i' gets a value at 'at_us'. */
static void
update(struct bench *b, size_t i, uint64_t v, uint64_t at_us)
{
    b->now[i] =
        (struct tag_sample){ .ts_us = (int64_t)at_us, .value = { .type = TAG_UINT32, .u = v } };
    b->has[i] = true;
    group_update(b->g, i, at_us);
}

/* "a:1,2 c:3" of the last message. */
static const char *
values(const struct bench *b)
{
    static char out[512];
    size_t n = 0;
    out[0] = '\0';
    static const char *const tag[N_TAGS] = { "\"a\":{\"values\"", "\"b\":{\"values\"",
                                             "\"c\":{\"values\"" };
    for (size_t i = 0; i < N_TAGS; i++) {
        const char *at = strstr(b->last, tag[i]);
        const char *stop = at != NULL ? strchr(at, ']') : NULL;
        if (at == NULL)
            continue;
        n += (size_t)snprintf(out + n, sizeof(out) - n, "%s%c:", n > 0 ? " " : "", "abc"[i]);
        for (bool first = true; (at = strstr(at, "\"value\":")) != NULL && at < stop;
             first = false) {
            at += 8;
            n += (size_t)snprintf(out + n, sizeof(out) - n, "%s%.*s", first ? "" : ",",
                                  (int)strcspn(at, ",}"), at);
        }
    }
    return out;
}

static void
a_value_that_never_was_is_not_sent(void **state)
{
    (void)state;
    struct bench *b = begin((struct group_settings){ .sampling = GROUP_LATEST_VALUES,
                                                     .threshold = GROUP_BY_TIME,
                                                     .time_us = 10 * S });
    update(b, 0, 1, 101 * S);
    b->now[1] = (struct tag_sample){ .quality = TAG_BAD_CONFIG };
    b->has[1] = true;
    group_update(b->g, 1, 101 * S);
    group_round(b->g, 110 * S);
    assert_int_equal(b->n_messages, 1);
    assert_string_equal(values(b), "a:1");
    end(b);
}

static void
immediately_sends_each_round(void **state)
{
    (void)state;
    struct bench *b = begin((struct group_settings){ .sampling = GROUP_ALL_VALUES,
                                                     .threshold = GROUP_IMMEDIATELY });
    assert_true(group_due_us(b->g) == UINT64_MAX);
    update(b, 0, 1, 101 * S);
    update(b, 2, 3, 101 * S);
    update(b, 0, 1, 101 * S);
    group_round(b->g, 101 * S);
    assert_int_equal(b->n_messages, 1);
    assert_string_equal(values(b), "a:1,1 c:3");
    group_round(b->g, 102 * S);
    assert_int_equal(b->n_messages, 1);
    assert_true(group_due_us(b->g) == UINT64_MAX);
    end(b);
}

static void
unchanged_values_are_left_out(void **state)
{
    (void)state;
    struct bench *b = begin((struct group_settings){ .sampling = GROUP_ALL_CHANGED_VALUES,
                                                     .threshold = GROUP_IMMEDIATELY });
    update(b, 0, 1, 101 * S);
    group_round(b->g, 101 * S);
    update(b, 0, 1, 102 * S);
    group_round(b->g, 102 * S);
    assert_int_equal(b->n_messages, 1);
    update(b, 0, 2, 103 * S);
    update(b, 0, 1, 103 * S);
    group_round(b->g, 103 * S);
    assert_string_equal(values(b), "a:2,1");
    /* a change of quality is a change; which bad one is not */
    b->now[0].quality = TAG_BAD_TIMEOUT;
    group_update(b->g, 0, 104 * S);
    group_round(b->g, 104 * S);
    assert_string_equal(values(b), "a:null");
    b->now[0].quality = TAG_BAD_OFFLINE;
    group_update(b->g, 0, 105 * S);
    group_round(b->g, 105 * S);
    assert_int_equal(b->n_messages, 3);
    b->now[0].quality = TAG_GOOD;
    group_update(b->g, 0, 106 * S);
    group_round(b->g, 106 * S);
    assert_string_equal(values(b), "a:1");
    end(b);
}

static void
by_time_gathers_and_keeps_its_grid(void **state)
{
    (void)state;
    struct bench *b = begin((struct group_settings){
        .sampling = GROUP_ALL_VALUES, .threshold = GROUP_BY_TIME, .time_us = 10 * S });
    assert_true(group_due_us(b->g) == 110 * S);
    update(b, 0, 1, 101 * S);
    update(b, 1, 2, 102 * S);
    update(b, 0, 3, 103 * S);
    group_round(b->g, 103 * S);
    assert_int_equal(b->n_messages, 0);
    group_round(b->g, 110 * S + 5);
    assert_string_equal(values(b), "a:1,3 b:2");
    assert_true(group_due_us(b->g) == 120 * S);
    group_round(b->g, 120 * S); /* nothing to say */
    assert_int_equal(b->n_messages, 1);
    update(b, 0, 4, 121 * S);
    group_round(b->g, 147 * S); /* late by intervals: one message, the phase stays */
    assert_int_equal(b->n_messages, 2);
    assert_true(group_due_us(b->g) == 150 * S);
    end(b);
}

static void
latest_values_tell_every_tag_each_time(void **state)
{
    (void)state;
    struct bench *b = begin((struct group_settings){
        .sampling = GROUP_LATEST_VALUES, .threshold = GROUP_BY_TIME, .time_us = 10 * S });
    group_round(b->g, 110 * S);
    assert_int_equal(b->n_messages, 0); /* no tag has a value */
    update(b, 0, 1, 111 * S);
    update(b, 0, 2, 112 * S);
    update(b, 1, 7, 112 * S);
    group_round(b->g, 120 * S);
    assert_string_equal(values(b), "a:2 b:7");
    update(b, 1, 8, 121 * S);
    group_round(b->g, 130 * S);
    assert_string_equal(values(b), "a:2 b:8");
    group_round(b->g, 140 * S);
    assert_int_equal(b->n_messages, 3);
    end(b);
}

static void
latest_changed_values_compare_with_what_was_sent(void **state)
{
    (void)state;
    struct bench *b = begin((struct group_settings){ .sampling = GROUP_LATEST_CHANGED_VALUES,
                                                     .threshold = GROUP_BY_TIME,
                                                     .time_us = 10 * S });
    update(b, 0, 1, 101 * S);
    update(b, 1, 5, 101 * S);
    group_round(b->g, 110 * S);
    assert_string_equal(values(b), "a:1 b:5");
    update(b, 0, 2, 111 * S);
    update(b, 0, 1, 112 * S); /* there and back */
    update(b, 1, 6, 112 * S);
    group_round(b->g, 120 * S);
    assert_string_equal(values(b), "b:6");
    update(b, 0, 9, 121 * S);
    update(b, 0, 1, 122 * S);
    group_round(b->g, 130 * S);
    assert_int_equal(b->n_messages, 2);
    end(b);
}

static void
by_size_sends_when_full_or_after_silence(void **state)
{
    (void)state;
    struct bench *b = begin((struct group_settings){ .sampling = GROUP_ALL_VALUES,
                                                     .threshold = GROUP_BY_SIZE,
                                                     .size = 300,
                                                     .idle_us = 5 * S });
    update(b, 0, 1, 101 * S);
    group_round(b->g, 101 * S);
    assert_int_equal(b->n_messages, 0);
    assert_true(group_due_us(b->g) == 106 * S);
    update(b, 0, 2, 104 * S);
    assert_true(group_due_us(b->g) == 109 * S);
    group_round(b->g, 106 * S);
    assert_int_equal(b->n_messages, 0);
    group_round(b->g, 109 * S);
    assert_int_equal(b->n_messages, 1);
    assert_true(group_due_us(b->g) == UINT64_MAX);
    unsigned n = 0;
    while (b->n_messages == 1 && n < 100) {
        update(b, 0, n++, 110 * S);
        group_round(b->g, 110 * S);
    }
    assert_in_range(n, 4, 7);
    assert_in_range(b->last_len, 250, 450);
    end(b);
}

static void
two_messages_keep_their_distance(void **state)
{
    (void)state;
    struct bench *b = begin((struct group_settings){ .sampling = GROUP_ALL_VALUES,
                                                     .threshold = GROUP_IMMEDIATELY,
                                                     .min_interval_us = 3 * S });
    update(b, 0, 1, 101 * S);
    group_round(b->g, 101 * S);
    update(b, 0, 2, 102 * S);
    group_round(b->g, 102 * S);
    update(b, 0, 3, 103 * S);
    group_round(b->g, 103 * S);
    assert_int_equal(b->n_messages, 1);
    assert_true(group_due_us(b->g) == 104 * S);
    group_round(b->g, 104 * S);
    assert_string_equal(values(b), "a:2,3");
    end(b);
}

static void
a_polling_interval_samples_what_is_there(void **state)
{
    (void)state;
    struct bench *b = begin((struct group_settings){
        .sampling = GROUP_ALL_VALUES, .threshold = GROUP_IMMEDIATELY, .poll_us = 2 * S });
    group_round(b->g, 100 * S);
    assert_int_equal(b->n_messages, 0);
    update(b, 0, 1, 101 * S);
    update(b, 0, 2, 101 * S);
    group_round(b->g, 101 * S);
    assert_int_equal(b->n_messages, 0);
    assert_true(group_due_us(b->g) == 102 * S);
    group_round(b->g, 102 * S);
    assert_string_equal(values(b), "a:2");
    group_round(b->g, 104 * S);
    assert_int_equal(b->n_messages, 2);
    end(b);
}

static void
what_gathers_is_bounded(void **state)
{
    (void)state;
    struct bench *b = begin((struct group_settings){
        .sampling = GROUP_ALL_VALUES, .threshold = GROUP_BY_TIME, .time_us = 86400ull * S });
    for (uint64_t i = 0; i < 20000; i++)
        update(b, i % N_TAGS, i, 101 * S + i);
    assert_true(b->n_messages >= 3);
    assert_true(b->most <= GROUP_MESSAGE_MAX + 4096);
    assert_true(group_take_lost(b->g) == 0);
    unsigned n = b->n_messages;
    group_flush(b->g, 102 * S);
    assert_int_equal(b->n_messages, n + 1);
    end(b);
}

static void
what_finds_no_memory_is_counted(void **state)
{
    (void)state;
    struct bench *b = begin((struct group_settings){
        .sampling = GROUP_ALL_VALUES, .threshold = GROUP_BY_TIME, .time_us = 86400ull * S });
    fail_alloc_begin(0);
    update(b, 0, 1, 101 * S);
    assert_true(fail_alloc_end());
    assert_true(group_take_lost(b->g) == 1);
    assert_true(group_take_lost(b->g) == 0);
    update(b, 0, 2, 101 * S);
    assert_true(group_take_lost(b->g) == 0);
    end(b);
}

static void
zero_thresholds_mean_immediately(void **state)
{
    (void)state;
    static const enum group_threshold all[] = { GROUP_BY_TIME, GROUP_BY_SIZE };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        struct bench *b =
            begin((struct group_settings){ .sampling = GROUP_ALL_VALUES, .threshold = all[i] });
        update(b, 0, 1, 101 * S);
        group_round(b->g, 101 * S);
        assert_int_equal(b->n_messages, 1);
        end(b);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_that_never_was_is_not_sent),
        cmocka_unit_test(immediately_sends_each_round),
        cmocka_unit_test(unchanged_values_are_left_out),
        cmocka_unit_test(by_time_gathers_and_keeps_its_grid),
        cmocka_unit_test(latest_values_tell_every_tag_each_time),
        cmocka_unit_test(latest_changed_values_compare_with_what_was_sent),
        cmocka_unit_test(by_size_sends_when_full_or_after_silence),
        cmocka_unit_test(two_messages_keep_their_distance),
        cmocka_unit_test(a_polling_interval_samples_what_is_there),
        cmocka_unit_test(what_gathers_is_bounded),
        cmocka_unit_test(what_finds_no_memory_is_counted),
        cmocka_unit_test(zero_thresholds_mean_immediately),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
