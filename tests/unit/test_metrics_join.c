/*
 * Several metrics texts in one: each name explained once, samples together.
 */
#include "gateway/metrics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/base.h"

static void
assert_joins(const char *const *texts, size_t n, const char *expected)
{
    struct metrics_text t[4];
    struct buf out;
    buf_init(&out, 65536);
    for (size_t i = 0; i < n; i++)
        t[i] = (struct metrics_text){ .p = texts[i], .len = strlen(texts[i]) };
    assert_int_equal(metrics_join(&out, t, n), 0);
    assert_string_equal(buf_text(&out), expected);
    buf_done(&out);
}

static void
test_samples_of_one_name_stand_together(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "# HELP a x\n# TYPE a counter\na{d=\"1\"} 1\n# HELP b y\n# TYPE b gauge\nb{d=\"1\"} "
        "2\n",
        "# HELP b y\n# TYPE b gauge\nb{d=\"2\"} 4\n# HELP a x\n# TYPE a counter\na{d=\"2\"} "
        "3\n",
    };
    assert_joins(texts, 2,
                 "# HELP a x\n# TYPE a counter\na{d=\"1\"} 1\na{d=\"2\"} 3\n"
                 "# HELP b y\n# TYPE b gauge\nb{d=\"1\"} 2\nb{d=\"2\"} 4\n");
}

static void
test_buckets_belong_to_their_histogram(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "# HELP h x\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n",
        "# HELP h x\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_sum 2\nh_count 2\nh_other 5\n",
    };
    assert_joins(texts, 2,
                 "# HELP h x\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n"
                 "h_bucket{le=\"1\"} 2\nh_sum 2\nh_count 2\nh_other 5\n");
}

static void
test_comments_blank_lines_and_half_lines_are_left_out(void **state)
{
    (void)state;
    static const char *const texts[] = { "# hello\n\na 1\nb 2", "" };
    assert_joins(texts, 2, "a 1\n");
}

int
main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_samples_of_one_name_stand_together),
        cmocka_unit_test(test_buckets_belong_to_their_histogram),
        cmocka_unit_test(test_comments_blank_lines_and_half_lines_are_left_out),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
