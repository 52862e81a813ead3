/* The text that a scraper reads, and counting from many threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/metrics.h"

enum { TEXT_MAX = 1 << 20 };

static struct buf text;

static const char *
dump(void)
{
    buf_reset(&text);
    metrics_dump(&text, "testd");
    const char *p = buf_text(&text);
    assert_non_null(p);
    return p;
}

static void
assert_line(const char *dumped, const char *line)
{
    char whole[512];
    (void)snprintf(whole, sizeof(whole), "\n%s\n", line);
    const char *found = strstr(dumped, whole + 1);
    if (found == NULL || (found != dumped && found[-1] != '\n'))
        fail_msg("no line %s in:\n%s", line, dumped);
}

static int
n_of(const char *dumped, const char *part)
{
    int n = 0;
    for (const char *p = dumped; (p = strstr(p, part)) != NULL; p++)
        n++;
    return n;
}

static struct metric_counter plain = { .name = "fieldgate_plain_total", .help = "Plain." };
static struct metric_counter first = { .name = "fieldgate_polls_total",
                                       .help = "Polls.",
                                       .labels = "device=\"a\"" };
static struct metric_counter between = { .name = "fieldgate_other_total", .help = "Other." };
static struct metric_counter second = { .name = "fieldgate_polls_total",
                                        .help = "Polls.",
                                        .labels = "device=\"b\"" };
static struct metric_counter gauge = {
    .name = "fieldgate_level", .help = "Level.", .labels = "", .gauge = true
};
static struct metric_histogram latency = { .name = "fieldgate_request_seconds",
                                           .help = "Time." };
static struct metric_histogram labelled = { .name = "fieldgate_write_seconds",
                                            .help = "Time.",
                                            .labels = "op=\"w\"" };

static void
test_lines_have_the_daemon_and_stand_below_one_head(void **state)
{
    (void)state;
    metric_register(&first);
    metric_register(&plain);
    metric_register(&between);
    metric_register(&second);
    metric_add(&plain, 3);
    metric_add(&plain, 4);
    metric_add(&first, UINT64_MAX);
    const char *t = dump();
    assert_line(t, "# HELP fieldgate_plain_total Plain.");
    assert_line(t, "# TYPE fieldgate_plain_total counter");
    assert_line(t, "fieldgate_plain_total{daemon=\"testd\"} 7");
    assert_line(t, "# TYPE fieldgate_polls_total counter\n"
                   "fieldgate_polls_total{daemon=\"testd\",device=\"a\"} 18446744073709551615\n"
                   "fieldgate_polls_total{daemon=\"testd\",device=\"b\"} 0");
    assert_int_equal(n_of(t, "# TYPE fieldgate_polls_total"), 1);
}

static void
bring_up_to_date(void *arg)
{
    metric_set(arg, 42);
}

static void
test_gauges_are_brought_up_to_date_before_a_dump(void **state)
{
    (void)state;
    metric_register(&gauge);
    metric_on_dump(bring_up_to_date, &gauge);
    const char *t = dump();
    assert_line(t, "# TYPE fieldgate_level gauge");
    assert_line(t, "fieldgate_level{daemon=\"testd\"} 42");
}

static void
test_latencies_fall_into_their_buckets(void **state)
{
    (void)state;
    metric_histogram_register(&latency);
    metric_histogram_register(&labelled);
    static const uint64_t times_us[] = { 0, 1, 50, 51, 100, 101, 1638400, 1638401, 10000000 };
    for (size_t i = 0; i < ARRAY_LEN(times_us); i++)
        metric_observe(&latency, times_us[i]);
    const char *t = dump();
    assert_line(t, "# TYPE fieldgate_request_seconds histogram");
    assert_line(t, "fieldgate_request_seconds_bucket{daemon=\"testd\",le=\"0.000050\"} 3");
    assert_line(t, "fieldgate_request_seconds_bucket{daemon=\"testd\",le=\"0.000100\"} 5");
    assert_line(t, "fieldgate_request_seconds_bucket{daemon=\"testd\",le=\"0.000200\"} 6");
    assert_line(t, "fieldgate_request_seconds_bucket{daemon=\"testd\",le=\"0.819200\"} 6");
    assert_line(t, "fieldgate_request_seconds_bucket{daemon=\"testd\",le=\"1.638400\"} 7");
    assert_line(t, "fieldgate_request_seconds_bucket{daemon=\"testd\",le=\"+Inf\"} 9");
    assert_line(t, "fieldgate_request_seconds_count{daemon=\"testd\"} 9");
    assert_line(t, "fieldgate_request_seconds_sum{daemon=\"testd\"} 13.277104");
    assert_line(t, "fieldgate_write_seconds_bucket{daemon=\"testd\",op=\"w\",le=\"+Inf\"} 0");
    assert_int_equal(n_of(t, "fieldgate_request_seconds_bucket"), METRIC_BUCKETS);
    metric_observe(&labelled, UINT64_MAX);
    assert_line(dump(),
                "fieldgate_write_seconds_bucket{daemon=\"testd\",op=\"w\",le=\"+Inf\"} 1");
}

static uint64_t
value_of(const char *dumped, const char *name)
{
    char key[128];
    (void)snprintf(key, sizeof(key), "\n%s{daemon=\"testd\"} ", name);
    const char *p = strstr(dumped, key);
    if (p == NULL)
        fail_msg("no %s", name);
    unsigned long long v = 0;
    assert_int_equal(sscanf(p + strlen(key), "%llu", &v), 1);
    return v;
}

static void
test_the_process_tells_about_itself(void **state)
{
    (void)state;
    const char *t = dump();
    uint64_t rss = value_of(t, "fieldgate_process_resident_memory_bytes");
    uint64_t pss = value_of(t, "fieldgate_process_proportional_memory_bytes");
    assert_true(rss > 500000 && pss > 100000 && pss <= rss + (1 << 20));
    uint64_t fds = value_of(t, "fieldgate_process_open_fds");
    assert_true(fds >= 3);
    assert_true(value_of(t, "fieldgate_process_threads") >= 1);
    (void)value_of(t, "fieldgate_process_cpu_seconds_total");
    FILE *f = fopen("/dev/null", "re");
    assert_non_null(f);
    assert_int_equal(value_of(dump(), "fieldgate_process_open_fds"), fds + 1);
    (void)fclose(f);
    assert_int_equal(value_of(dump(), "fieldgate_process_open_fds"), fds);
}

static void
test_every_line_is_well_formed(void **state)
{
    (void)state;
    const char *t = dump();
    assert_int_equal(t[strlen(t) - 1], '\n');
    for (const char *line = t; *line != '\0'; line = strchr(line, '\n') + 1)
        assert_true(strncmp(line, "# HELP fieldgate_", 17) == 0 ||
                    strncmp(line, "# TYPE fieldgate_", 17) == 0 ||
                    strncmp(line, "fieldgate_", 10) == 0);
}

enum { THREADS = 4, ADDS = 20000 };

static void *
count_a_lot(void *arg)
{
    (void)arg;
    for (int i = 0; i < ADDS; i++) {
        metric_add(&between, 1);
        metric_observe(&labelled, (uint64_t)i);
    }
    return NULL;
}

static void
test_threads_count_while_it_is_dumped(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count_a_lot, NULL), 0);
    for (int i = 0; i < 10; i++)
        (void)dump();
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_line(dump(), "fieldgate_other_total{daemon=\"testd\"} 80000");
    assert_line(dump(), "fieldgate_write_seconds_count{daemon=\"testd\",op=\"w\"} 80001");
}

static void
put_families(void *arg, struct buf *b, const char *daemon)
{
    struct buf label;
    buf_init(&label, 64);
    metric_put_label(&label, "device", arg);
    metric_put_head(b, "fieldgate_kin_total", "Kin.", false);
    metric_put_sample(b, "fieldgate_kin_total", daemon, buf_text(&label), 5);
    buf_done(&label);
}

static void
test_families_come_last_with_labels_escaped(void **state)
{
    (void)state;
    static char name[] = "a\"b\\c\nd";
    metric_on_families(put_families, name);
    assert_line(dump(), "# HELP fieldgate_kin_total Kin.\n# TYPE fieldgate_kin_total counter\n"
                        "fieldgate_kin_total{daemon=\"testd\",device=\"a\\\"b\\\\c\\nd\"} 5");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_have_the_daemon_and_stand_below_one_head),
        cmocka_unit_test(test_gauges_are_brought_up_to_date_before_a_dump),
        cmocka_unit_test(test_latencies_fall_into_their_buckets),
        cmocka_unit_test(test_the_process_tells_about_itself),
        cmocka_unit_test(test_every_line_is_well_formed),
        cmocka_unit_test(test_threads_count_while_it_is_dumped),
        cmocka_unit_test(test_families_come_last_with_labels_escaped),
    };
    buf_init(&text, TEXT_MAX);
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    buf_done(&text);
    return r;
}
