/* The default payload of message groups, byte for byte. */
#include "services/cloudd/payload.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void
put_uint(struct payload *p, uint64_t v, uint8_t quality)
{
    struct buf b;
    buf_init(&b, 4096);
    struct tag_sample s = { .quality = quality,
                            .ts_us = 1772417472964368,
                            .value = { .type = TAG_UINT64, .u = v } };
    payload_put_value(&b, &s);
    payload_value(p, b.data, b.len);
    buf_done(&b);
}

static void
one_value_has_the_documented_text(void **state)
{
    (void)state;
    struct buf b;
    struct payload p;
    buf_init(&b, 4096);
    payload_begin(&p, &b);
    payload_tag(&p, "modbus_tcp_master", "pump1", "flow");
    put_uint(&p, 42, TAG_GOOD);
    payload_end(&p, NULL, 0);
    assert_string_equal(buf_text(&b),
                        "{\"tags\":{\"modbus_tcp_master\":{\"pump1\":{\"flow\":{\"values\":["
                        "{\"updateTimeStamp\":\"2026-03-02T02:11:12Z\",\"value\":42}]}}}}}");
    buf_done(&b);
}

static void
tags_group_by_provider_and_source(void **state)
{
    (void)state;
    struct buf b;
    struct payload p;
    struct payload_property properties[] = { { "site", "n\"1" }, { "line", "2" } };
    buf_init(&b, 4096);
    payload_begin(&p, &b);
    payload_tag(&p, "a", "s", "x");
    put_uint(&p, UINT64_MAX, TAG_GOOD);
    put_uint(&p, 9007199254740993, TAG_UNCERTAIN);
    payload_tag(&p, "a", "s", "y");
    put_uint(&p, 1, TAG_GOOD);
    payload_tag(&p, "a", "t", "x");
    put_uint(&p, 2, TAG_GOOD);
    payload_tag(&p, "b", "t", "x");
    put_uint(&p, 3, TAG_GOOD);
    payload_end(&p, properties, 2);
#define AT "{\"updateTimeStamp\":\"2026-03-02T02:11:12Z\",\"value\":"
    assert_string_equal(buf_text(&b),
                        "{\"tags\":{\"a\":{\"s\":{\"x\":{\"values\":[" AT
                        "18446744073709551615}," AT "9007199254740993}]},\"y\":{\"values\":[" AT
                        "1}]}},\"t\":{\"x\":{\"values\":[" AT
                        "2}]}}},\"b\":{\"t\":{\"x\":{\"values\":[" AT "3}]}}}},"
                        "\"properties\":{\"site\":\"n\\\"1\",\"line\":\"2\"}}");
    buf_done(&b);
}

static void
a_bad_value_is_null_and_says_why(void **state)
{
    (void)state;
    struct buf b;
    struct payload p;
    buf_init(&b, 4096);
    payload_begin(&p, &b);
    payload_tag(&p, "a", "s", "x");
    put_uint(&p, 5, TAG_BAD_TIMEOUT);
    payload_end(&p, NULL, 0);
    assert_string_equal(buf_text(&b), "{\"tags\":{\"a\":{\"s\":{\"x\":{\"values\":[" AT
                                      "null,\"quality\":\"timeout\"}]}}}}}");
    buf_done(&b);
}

static void
a_message_without_tags_is_still_json(void **state)
{
    (void)state;
    struct buf b;
    struct payload p;
    buf_init(&b, 4096);
    payload_begin(&p, &b);
    payload_end(&p, NULL, 0);
    assert_string_equal(buf_text(&b), "{\"tags\":{}}");
    buf_done(&b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_value_has_the_documented_text),
        cmocka_unit_test(tags_group_by_provider_and_source),
        cmocka_unit_test(a_bad_value_is_null_and_says_why),
        cmocka_unit_test(a_message_without_tags_is_still_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
