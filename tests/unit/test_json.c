/* What JSON is accepted, that numbers stay exact, and that text out is right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/str.h"
#include "tests/unit/fail_alloc.h"

enum { TEXT_MAX = 16 << 20 };

static int
parse(const char *text, size_t len, struct cJSON **ret_tree)
{
    struct json_error error = { 0 }, check_error = { 0 };
    /* A copy of its own, so that a sanitizer sees each read past the end. */
    char *exact = malloc(len == 0 ? 1 : len);
    assert_non_null(exact);
    memcpy(exact, text, len);
    int r = json_parse(exact, len, ret_tree, &error);
    assert_int_equal(json_check(exact, len, &check_error), r);
    if (r != 0) {
        assert_true(error.reason[0] != '\0');
        assert_true(error.at <= len);
        assert_int_equal(error.at, check_error.at);
        assert_string_equal(error.reason, check_error.reason);
    }
    free(exact);
    return r;
}

/* Parses 'text' and writes it again as 'want'. */
static void
assert_becomes(const char *text, const char *want)
{
    struct cJSON *tree = NULL;
    if (parse(text, strlen(text), &tree) != 0)
        fail_msg("refused: %s", text);
    struct buf b;
    buf_init(&b, TEXT_MAX);
    jw_tree(&b, tree);
    assert_string_equal(buf_text(&b), want);
    buf_done(&b);
    json_free(tree);
}

static void
test_json_comes_back_compact(void **state)
{
    (void)state;
    static const char *const same[] = {
        "0",
        "-0",
        "null",
        "true",
        "false",
        "\"\"",
        "[]",
        "{}",
        "[[],{}]",
        "{\"a\":1,\"b\":[true,null,\"x\"],\"c\":{\"d\":-1.5e+10}}",
        "{\"\":0}",
        "{\"a\":{\"a\":{\"a\":0}}}",
        "[{\"a\":0},{\"a\":0}]",
        "\"\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001f\"",
        "{\"\\u0001\":0}",
        "\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\x7F/\"",
    };
    for (size_t i = 0; i < ARRAY_LEN(same); i++)
        assert_becomes(same[i], same[i]);
    assert_becomes(" \t\r\n[ 1 , 2 ]\n", "[1,2]");
    assert_becomes("{ \"a\" : 1 , \"b\" : { } }", "{\"a\":1,\"b\":{}}");
    assert_becomes("\"\\u00e9\\/\\ud83d\\ude00\"", "\"\xC3\xA9/\xF0\x9F\x98\x80\"");
    assert_becomes("\"\\uFFFF\"", "\"\xEF\xBF\xBF\"");
}

static void
test_numbers_keep_their_text(void **state)
{
    (void)state;
    static const char *const same[] = {
        "9007199254740993",
        "18446744073709551615",
        "-9223372036854775808",
        "12345678901234567890123456789012345678901234567890123456789012345678901234567",
        "1e400",
        "-1E-400",
        "0.10",
        "1.0",
        "1e5",
        "0e0",
        "[1,[2,[3],4],{\"a\":5,\"b\":[6]},7]",
        "{\"a\":1.10,\"b\":\"2\",\"c\":3.30}",
    };
    for (size_t i = 0; i < ARRAY_LEN(same); i++)
        assert_becomes(same[i], same[i]);
}

static void
test_many_numbers_stay_in_order(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, TEXT_MAX);
    jw_open(&b, '[');
    for (int i = 0; i < 10000; i++) {
        if (i % 7 == 0)
            jw_str(&b, "5");
        jw_double(&b, i * 0.37);
    }
    jw_close(&b, ']');
    char *text = strdup(buf_text(&b));
    assert_non_null(text);
    assert_becomes(text, text);
    free(text);
    buf_done(&b);
}

static void
test_what_is_not_json_is_refused_at_its_place(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t at;
    } cases[] = {
        { "", 0 },
        { " ", 1 },
        { "[", 1 },
        { "{", 1 },
        { "]", 0 },
        { "}", 0 },
        { ",", 0 },
        { "[1", 2 },
        { "[1,", 3 },
        { "[1,]", 3 },
        { "[,1]", 1 },
        { "[1 2]", 3 },
        { "[1}", 2 },
        { "{\"a\"", 4 },
        { "{\"a\":", 5 },
        { "{\"a\":1", 6 },
        { "{\"a\":1,", 7 },
        { "{\"a\":1,}", 7 },
        { "{\"a\" 1}", 5 },
        { "{a:1}", 1 },
        { "{1:1}", 1 },
        { "{\"a\":1]", 6 },
        { "{,}", 1 },
        { "{\"a\":}", 5 },
        { "{\"a\",\"b\"}", 4 },
        { "nul", 0 },
        { "nulll", 4 },
        { "True", 0 },
        { "NaN", 0 },
        { "Infinity", 0 },
        { "'a'", 0 },
        { "01", 1 },
        { "-", 1 },
        { "+1", 0 },
        { "1.", 2 },
        { ".5", 0 },
        { "1e", 2 },
        { "1e+", 3 },
        { "1.e1", 2 },
        { "-a", 1 },
        { "0x10", 1 },
        { "1,5", 1 },
        { "--1", 1 },
        { "[01]", 2 },
        { "[1.]", 3 },
        { "[-]", 2 },
        { "\"", 1 },
        { "\"a", 2 },
        { "\"\\", 2 },
        { "\"\\\"", 3 },
        { "\"\\x\"", 1 },
        { "\"\\u\"", 4 },
        { "\"\\u12\"", 6 },
        { "\"\\u12g4\"", 1 },
        { "\"\n\"", 1 },
        { "\"\x1F\"", 1 },
        { "\"\\u0000\"", 1 },
        { "\"a\\ud800\"", 2 },
        { "\"\\udc00\"", 1 },
        { "\"\\ud800\\u0041\"", 1 },
        { "\"\\ud800\\n\"", 1 },
        { "\"\\ud800\\ud800\"", 1 },
        { "\"\\ud800x\"", 1 },
        { "\"\x80\"", 1 },
        { "\"a\xC3\"", 2 },
        { "\"\xC0\xAF\"", 1 },
        { "\"\xED\xA0\x80\"", 1 },
        { "\"\xF5\x80\x80\x80\"", 1 },
        { "\"\xC3", 1 },
        { "\xEF\xBB\xBF"
          "1",
          0 },
        { "1 1", 2 },
        { "{}{}", 2 },
        { "[] x", 3 },
        { "1\f", 1 },
        { "[1]\v", 3 },
        { "// c\n1", 0 },
        { "{\"a\":1,\"a\":2}", 8 },
        { "{\"a\":1,\"\\u0061\":2}", 8 },
        { "{\"\\ud83d\\ude00\":1,\"\xF0\x9F\x98\x80\":2}", 19 },
        { "[{\"b\":{\"a\":1},\"a\":1,\"b\":2}]", 21 },
        { "{\"\":1,\"\":1}", 7 },
        { "{\"a/b\":1,\"a\\/b\":1}", 10 },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct cJSON *tree = NULL;
        struct json_error error = { 0 };
        if (parse(cases[i].text, strlen(cases[i].text), &tree) != -EINVAL)
            fail_msg("accepted: %s", cases[i].text);
        assert_null(tree);
        (void)json_parse(cases[i].text, strlen(cases[i].text), &tree, &error);
        if (error.at != cases[i].at)
            fail_msg("%s: at %zu (%s)", cases[i].text, error.at, error.reason);
    }
    struct cJSON *tree = NULL;
    assert_int_equal(parse("1\0", 2, &tree), -EINVAL);
    assert_int_equal(parse("\"\0\"", 3, &tree), -EINVAL);
    assert_int_equal(parse("\0", 1, &tree), -EINVAL);
    assert_int_equal(parse("{\0}", 3, &tree), -EINVAL);
    assert_int_equal(parse("[1\0]", 4, &tree), -EINVAL);
    assert_int_equal(parse("\"\\\0\"", 4, &tree), -EINVAL);
}

static void
test_names_differ_in_case_and_escapes(void **state)
{
    (void)state;
    assert_becomes("{\"role\":1,\"ROLE\":2}", "{\"role\":1,\"ROLE\":2}");
    assert_becomes("{\"a\":1,\"\\u0062\":2}", "{\"a\":1,\"b\":2}");
    assert_becomes("{\"\\n\":1,\"n\":2,\"\\\\n\":3}", "{\"\\n\":1,\"n\":2,\"\\\\n\":3}");
}

static void
test_depth_is_bounded(void **state)
{
    (void)state;
    char text[4 * JSON_DEPTH_MAX + 8];
    struct cJSON *tree = NULL;

    memset(text, '[', JSON_DEPTH_MAX);
    memset(text + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
    assert_int_equal(parse(text, 2 * JSON_DEPTH_MAX, &tree), 0);
    json_free(tree);
    tree = NULL;
    memset(text, '[', JSON_DEPTH_MAX + 1);
    memset(text + JSON_DEPTH_MAX + 1, ']', JSON_DEPTH_MAX + 1);
    assert_int_equal(parse(text, 2 * JSON_DEPTH_MAX + 2, &tree), -E2BIG);
    assert_null(tree);
}

static void
test_the_number_of_values_is_bounded(void **state)
{
    (void)state;
    struct cJSON *tree = NULL;
    char *text = malloc(2 * JSON_VALUES_MAX + 10);
    assert_non_null(text);
    /* the array is a value itself */
    for (size_t i = 0; i < JSON_VALUES_MAX; i++) {
        text[2 * i] = i == 0 ? '[' : ',';
        text[2 * i + 1] = '1';
    }
    text[2 * (JSON_VALUES_MAX - 1)] = ']';
    assert_int_equal(parse(text, 2 * (JSON_VALUES_MAX - 1) + 1, &tree), 0);
    json_free(tree);
    tree = NULL;
    text[2 * (JSON_VALUES_MAX - 1)] = ',';
    text[2 * JSON_VALUES_MAX] = ']';
    assert_int_equal(parse(text, 2 * JSON_VALUES_MAX + 1, &tree), -E2BIG);
    assert_null(tree);
    free(text);
}

/* An object of 'n' names, the last one 'last'. */
static void
big_object(struct buf *b, int n, const char *last)
{
    buf_init(b, TEXT_MAX);
    jw_open(b, '{');
    for (int i = 0; i < n - 1; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "name-%d", i);
        jw_ki64(b, name, i);
    }
    jw_ki64(b, last, 1);
    jw_close(b, '}');
    assert_int_equal(b->err, 0);
}

static void
test_repeated_names_are_found_in_big_objects_fast(void **state)
{
    (void)state;
    static const int sizes[] = {
        2, 11, 12, 13, 14, 23, 24, 25, 26, 48, 49, 50, 64, 65, 66, 1000
    };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        for (int k = 0; k < 3; k++) {
            char last[32] = "other";
            struct buf b;
            struct cJSON *tree = NULL;
            if (k > 0)
                (void)snprintf(last, sizeof(last), "name-%d", k == 1 ? 0 : sizes[i] - 2);
            big_object(&b, sizes[i], last);
            assert_int_equal(parse(b.data, b.len, &tree), k == 0 ? 0 : -EINVAL);
            json_free(tree);
            buf_done(&b);
        }
    }
    struct buf b;
    struct json_error error;
    big_object(&b, 300000, "other");
    uint64_t start_us = clock_mono_us();
    assert_int_equal(json_check(b.data, b.len, &error), 0);
    assert_true(clock_mono_us() - start_us < 30000000); /* quadratic takes minutes */
    buf_done(&b);
}

static void
test_members_are_got_by_exact_name_and_kind(void **state)
{
    (void)state;
    static const char text[] = "{\"Name\":\"x\",\"name\":\"y\",\"n\":5,\"f\":5.0,\"s\":\"5\","
                               "\"big\":18446744073709551615,\"min\":-9223372036854775808,"
                               "\"z\":-0,\"t\":true,\"o\":{},\"a\":[],\"nul\":null}";
    struct cJSON *tree = NULL;
    int64_t i = 77;
    uint64_t u = 77;
    assert_int_equal(parse(text, sizeof(text) - 1, &tree), 0);
    assert_string_equal(json_text(json_get(tree, "name")), "y");
    assert_string_equal(json_text(json_get(tree, "Name")), "x");
    assert_null(json_get(tree, "NAME"));
    assert_null(json_get(NULL, "name"));
    assert_null(json_get(json_get(tree, "a"), "name"));
    assert_null(json_get(json_get(tree, "s"), "name"));
    assert_null(json_text(json_get(tree, "n")));
    assert_null(json_text(NULL));
    assert_string_equal(json_number(json_get(tree, "f")), "5.0");
    assert_null(json_number(json_get(tree, "s")));
    assert_null(json_number(json_get(tree, "t")));
    assert_null(json_number(NULL));
    assert_int_equal(json_i64(json_get(tree, "f"), &i), -EINVAL);
    assert_int_equal(json_i64(json_get(tree, "s"), &i), -EINVAL);
    assert_int_equal(json_i64(json_get(tree, "nul"), &i), -EINVAL);
    assert_int_equal(json_i64(json_get(tree, "absent"), &i), -EINVAL);
    assert_int_equal(json_i64(json_get(tree, "big"), &i), -EINVAL);
    assert_true(i == 77);
    assert_int_equal(json_i64(json_get(tree, "n"), &i), 0);
    assert_true(i == 5);
    assert_int_equal(json_i64(json_get(tree, "min"), &i), 0);
    assert_true(i == INT64_MIN);
    assert_int_equal(json_i64(json_get(tree, "z"), &i), 0);
    assert_true(i == 0);
    assert_int_equal(json_u64(json_get(tree, "min"), &u), -EINVAL);
    assert_int_equal(json_u64(json_get(tree, "f"), &u), -EINVAL);
    assert_true(u == 77);
    assert_int_equal(json_u64(json_get(tree, "z"), &u), 0);
    assert_true(u == 0);
    assert_int_equal(json_u64(json_get(tree, "big"), &u), 0);
    assert_true(u == UINT64_MAX);
    json_free(tree);
    json_free(NULL);
}

static void
test_the_writer_puts_commas(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1000);
    jw_open(&b, '{');
    jw_kstr(&b, "a", "x:");
    jw_kstr(&b, "b", NULL);
    jw_ki64(&b, "c", INT64_MIN);
    jw_ku64(&b, "d", UINT64_MAX);
    jw_kbool(&b, "e", false);
    jw_name(&b, "f");
    jw_open(&b, '[');
    jw_open(&b, '[');
    jw_close(&b, ']');
    jw_null(&b);
    jw_raw(&b, "{\"r\":1}\n", 8);
    jw_strn(&b, "abc", 2);
    jw_i64(&b, 0);
    jw_close(&b, ']');
    jw_name(&b, "g\"");
    jw_open(&b, '{');
    jw_close(&b, '}');
    jw_close(&b, '}');
    assert_string_equal(buf_text(&b),
                        "{\"a\":\"x:\",\"b\":null,\"c\":-9223372036854775808,"
                        "\"d\":18446744073709551615,\"e\":false,\"f\":[[],null,{\"r\":1},"
                        "\"ab\",0],\"g\\\"\":{}}");
    buf_reset(&b);
    buf_puts(&b, "data:");
    jw_open(&b, '{');
    jw_close(&b, '}');
    buf_puts(&b, "\n\ndata: ");
    jw_bool(&b, true);
    assert_string_equal(buf_text(&b), "data:{}\n\ndata: true");
    buf_done(&b);
}

static void
test_invalid_utf8_is_replaced_when_written(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1000);
    jw_str(&b, "a\xFF"
               "b\xC3\x80\xE2\x82");
    assert_string_equal(buf_text(&b), "\"a\xEF\xBF\xBD"
                                      "b\xC3\x80\xEF\xBF\xBD\xEF\xBF\xBD\"");
    buf_reset(&b);
    jw_strn(&b, "\0", 1);
    assert_string_equal(buf_text(&b), "\"\\u0000\"");
    buf_done(&b);
}

static const char *
double_text(struct buf *b, double v)
{
    buf_reset(b);
    jw_double(b, v);
    return buf_text(b);
}

static const char *
float_text(struct buf *b, float v)
{
    buf_reset(b);
    jw_float(b, v);
    return buf_text(b);
}

static void
test_reals_are_short(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 100);
    static const struct {
        double v;
        const char *text;
    } doubles[] = {
        { 0, "0" },
        { -0.0, "-0" },
        { 1, "1" },
        { -1, "-1" },
        { 0.1, "0.1" },
        { 23.5, "23.5" },
        { -0.125, "-0.125" },
        { 100000, "100000" },
        { 1e14, "100000000000000" },
        { 1e15, "1e+15" },
        { 0.3, "0.3" },
        { 0.1 + 0.2, "0.30000000000000004" },
        { 1.0 / 3, "0.3333333333333333" },
        { 5e-324, "4.94065645841247e-324" },
        { DBL_MAX, "1.7976931348623157e+308" },
        { 1e22, "1e+22" },
        { 0.0001, "0.0001" },
        { 1e-7, "1e-07" },
        { 123456.789012, "123456.789012" },
        { 999999.5, "999999.5" },
        { 0.000001, "1e-06" },
        { 9007199254740993.0, "9007199254740992" },
        { NAN, "null" },
        { INFINITY, "null" },
        { -INFINITY, "null" },
    };
    for (size_t i = 0; i < ARRAY_LEN(doubles); i++)
        assert_string_equal(double_text(&b, doubles[i].v), doubles[i].text);
    static const struct {
        float v;
        const char *text;
    } floats[] = {
        { 0.0f, "0" },
        { -0.0f, "-0" },
        { 0.1f, "0.1" },
        { 23.5f, "23.5" },
        { 16777216.0f, "16777216" },
        { 16777215.0f, "16777215" },
        { 1e6f, "1000000" },
        { 1.0f / 3, "0.33333334" },
        { FLT_MAX, "3.4028235e+38" },
        { 1e-45f, "1.4013e-45" },
        { 3.14159274f, "3.1415927" },
        { 65504.1f, "65504.1" },
        { NAN, "null" },
        { INFINITY, "null" },
    };
    for (size_t i = 0; i < ARRAY_LEN(floats); i++)
        assert_string_equal(float_text(&b, floats[i].v), floats[i].text);
    buf_done(&b);
}

static uint64_t
random_bits(void)
{
    static uint64_t s = 88172645463325252u; /* xorshift64: the same in every run */
    s ^= s << 13;
    s ^= s >> 7;
    return s ^= s << 17;
}

static void
assert_double_reads_back(struct buf *b, double v)
{
    double again = 0;
    if (!isfinite(v))
        return;
    const char *text = double_text(b, v);
    if (parse_double(text, &again) != 0 || memcmp(&v, &again, sizeof(v)) != 0)
        fail_msg("%a wrote %s", v, text);
    char slow[40];
    int digits = 15;
    do
        (void)snprintf(slow, sizeof(slow), "%.*g", digits, v);
    while (strtod(slow, NULL) != v && digits++ < 17);
    if (fabs(v) >= 1e-4 && fabs(v) < 1e15)
        assert_string_equal(text, slow);
}

static void
assert_float_reads_back(struct buf *b, float v)
{
    if (!isfinite(v))
        return;
    const char *text = float_text(b, v);
    float again = strtof(text, NULL);
    if (memcmp(&v, &again, sizeof(v)) != 0)
        fail_msg("%a wrote %s", (double)v, text);
    char slow[40];
    int digits = 6;
    do
        (void)snprintf(slow, sizeof(slow), "%.*g", digits, (double)v);
    while (strtof(slow, NULL) != v && digits++ < 9);
    if (fabsf(v) >= 1e-4f && strchr(slow, 'e') == NULL)
        assert_string_equal(text, slow);
}

static void
test_random_reals_read_back_exactly(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 100);
    for (int i = 0; i < 200000; i++) {
        uint64_t bits = random_bits();
        double d;
        float f;
        uint32_t low = (uint32_t)bits;
        memcpy(&d, &bits, sizeof(d));
        memcpy(&f, &low, sizeof(f));
        assert_double_reads_back(&b, d);
        assert_float_reads_back(&b, f);
        /* what plants measure */
        double decimal = (double)(int64_t)(bits % 2000000000) - 1e9;
        double power = pow(10, (double)(bits >> 60) / 2);
        assert_double_reads_back(&b, decimal / round(power));
        assert_float_reads_back(&b, (float)(decimal / round(power)));
        assert_double_reads_back(&b, (double)(bits >> 11));
    }
    buf_done(&b);
}

static void
test_reals_do_not_follow_the_locale(void **state)
{
    (void)state;
    static const char *const comma_locales[] = { "de_DE.UTF-8", "fr_FR.UTF-8", "de_DE" };
    for (size_t i = 0; i < ARRAY_LEN(comma_locales); i++)
        if (setlocale(LC_ALL, comma_locales[i]) != NULL)
            break;
    struct buf b;
    double v = 0;
    buf_init(&b, 100);
    assert_string_equal(double_text(&b, 1.0 / 3), "0.3333333333333333");
    assert_int_equal(parse_double("0.5", &v), 0);
    assert_true(v == 0.5);
    (void)setlocale(LC_ALL, "C");
    buf_done(&b);
}

static void
test_trees_made_elsewhere_are_written_too(void **state)
{
    (void)state;
    cJSON *tree = cJSON_CreateObject();
    cJSON *deep = cJSON_CreateArray();
    struct buf b;
    buf_init(&b, 10000);
    assert_non_null(cJSON_AddNumberToObject(tree, "n", 5767077690096479));
    assert_non_null(cJSON_AddNumberToObject(tree, "f", 0.1));
    jw_tree(&b, tree);
    assert_string_equal(buf_text(&b), "{\"n\":5767077690096479,\"f\":0.1}");
    buf_reset(&b);
    for (int i = 0; i < 100; i++) {
        cJSON *outer = cJSON_CreateArray();
        assert_true(cJSON_AddItemToArray(outer, deep));
        deep = outer;
    }
    jw_tree(&b, deep);
    assert_int_equal(b.err, -E2BIG);
    buf_reset(&b);
    jw_tree(&b, NULL);
    assert_string_equal(buf_text(&b), "null");
    buf_done(&b);
    cJSON_Delete(tree);
    cJSON_Delete(deep);
}

static void *
hooked_malloc(size_t size)
{
    return malloc(size); /* counted, unlike calls inside the library */
}

static void
hooked_free(void *p)
{
    free(p);
}

static void
test_no_memory_at_any_point_leaks_nothing(void **state)
{
    (void)state;
    struct buf b;
    cJSON_Hooks hooks = { hooked_malloc, hooked_free };
    cJSON_InitHooks(&hooks);
    big_object(&b, 80, "l\\u0061st");
    long n = 0;
    do {
        struct cJSON *tree = NULL;
        struct json_error error;
        fail_alloc_begin(n++);
        int r = json_parse(b.data, b.len, &tree, &error);
        bool failed = fail_alloc_end();
        assert_int_equal(r, failed ? -ENOMEM : 0);
        assert_true((tree == NULL) == failed);
        json_free(tree);
    } while (fail_alloc_hit);
    assert_true(n > 100);
    cJSON_InitHooks(NULL);
    buf_done(&b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_comes_back_compact),
        cmocka_unit_test(test_numbers_keep_their_text),
        cmocka_unit_test(test_many_numbers_stay_in_order),
        cmocka_unit_test(test_what_is_not_json_is_refused_at_its_place),
        cmocka_unit_test(test_names_differ_in_case_and_escapes),
        cmocka_unit_test(test_depth_is_bounded),
        cmocka_unit_test(test_the_number_of_values_is_bounded),
        cmocka_unit_test(test_repeated_names_are_found_in_big_objects_fast),
        cmocka_unit_test(test_members_are_got_by_exact_name_and_kind),
        cmocka_unit_test(test_the_writer_puts_commas),
        cmocka_unit_test(test_invalid_utf8_is_replaced_when_written),
        cmocka_unit_test(test_reals_are_short),
        cmocka_unit_test(test_random_reals_read_back_exactly),
        cmocka_unit_test(test_reals_do_not_follow_the_locale),
        cmocka_unit_test(test_trees_made_elsewhere_are_written_too),
        cmocka_unit_test(test_no_memory_at_any_point_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
