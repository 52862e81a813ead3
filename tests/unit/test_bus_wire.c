/*
 * Bytes of the bus: what is encoded comes back, what is cut, stretched or out
 * of bounds is refused.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/bus.h"

#define STR(text) ((struct bus_str){ .p = (text), .len = sizeof(text) - 1 })

static void
assert_str(struct bus_str a, struct bus_str b)
{
    assert_int_equal(a.len, b.len);
    if (a.len > 0)
        assert_memory_equal(a.p, b.p, a.len);
}

static struct bus_request
full_request(void)
{
    struct bus_request r = {
        .kind = BUS_KIND_API,
        .op = 0x89abcdef,
        .id = UINT64_C(0xfedcba9876543210),
        .deadline_us = UINT64_C(1) << 60,
        .who = { .kind = BUS_WHO_USER,
                 .user_id = 7,
                 .session_id = -1,
                 .permissions = UINT64_MAX,
                 .name = "admin",
                 .addr = "fe80::1" },
        .n_path = 2,
        .n_query = 3,
        .path = { STR("modbus_tcp_master"), STR("") },
        .query_name = { STR("limit"), STR("flag"), STR("empty") },
        .query_value = { STR("10"), { NULL, 0 }, STR("") },
        .body_kind = BUS_BODY_JSON,
        .content_type = STR("application/json"),
        .body = STR("{\"a\":1}"),
    };
    return r;
}

static void
encode(struct buf *b, const struct bus_request *r)
{
    buf_init(b, BUS_MESSAGE_MAX);
    bus_request_encode(b, r);
    assert_int_equal(b->err, 0);
}

static void
a_request_comes_back_as_it_was(void **state)
{
    (void)state;
    struct bus_request r = full_request();
    struct bus_request got;
    struct buf b;
    struct rd in;
    encode(&b, &r);
    rd_init(&in, b.data, b.len);
    assert_int_equal(bus_request_decode(&in, &got), 0);
    assert_true(rd_ended(&in));
    assert_int_equal(got.kind, r.kind);
    assert_int_equal(got.op, r.op);
    assert_true(got.id == r.id && got.deadline_us == r.deadline_us);
    assert_int_equal(got.who.kind, BUS_WHO_USER);
    assert_true(got.who.user_id == 7 && got.who.session_id == -1);
    assert_true(got.who.permissions == UINT64_MAX);
    assert_string_equal(got.who.name, "admin");
    assert_string_equal(got.who.addr, "fe80::1");
    assert_int_equal(got.n_path, 2);
    assert_str(got.path[0], r.path[0]);
    assert_str(got.path[1], r.path[1]);
    assert_int_equal(got.n_query, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_str(got.query_name[i], r.query_name[i]);
        assert_str(got.query_value[i], r.query_value[i]);
    }
    assert_null(got.query_value[1].p);
    assert_non_null(got.query_value[2].p);
    assert_str(got.content_type, r.content_type);
    assert_str(got.body, r.body);
    buf_done(&b);
}

static void
a_reply_comes_back_as_it_was(void **state)
{
    (void)state;
    struct bus_reply r = {
        .id = 42,
        .status = 503,
        .body_kind = BUS_BODY_FILE,
        .end = true,
        .recorded = true,
        .retry_after_s = 3,
        .content_type = STR("text/csv"),
        .file_name = STR("audit.csv"),
        .body = STR("0123abcd"),
    };
    struct bus_reply got;
    struct buf b;
    struct rd in;
    buf_init(&b, BUS_MESSAGE_MAX);
    bus_reply_encode(&b, &r);
    assert_int_equal(b.err, 0);
    rd_init(&in, b.data, b.len);
    assert_int_equal(bus_reply_decode(&in, &got), 0);
    assert_true(rd_ended(&in));
    assert_true(got.id == 42 && got.status == 503 && got.end && got.recorded &&
                got.retry_after_s == 3);
    assert_int_equal(got.body_kind, BUS_BODY_FILE);
    assert_str(got.content_type, r.content_type);
    assert_str(got.file_name, r.file_name);
    assert_str(got.body, r.body);
    buf_done(&b);
}

static void
every_cut_is_refused(void **state)
{
    (void)state;
    struct bus_request r = full_request();
    struct bus_request got;
    struct buf b;
    encode(&b, &r);
    for (size_t n = 0; n < b.len; n++) {
        struct rd in;
        rd_init(&in, b.data, n);
        assert_int_equal(bus_request_decode(&in, &got), -EBADMSG);
    }
    /* cut, with a length word that hides it */
    for (uint32_t n = 0; n + 4 < b.len; n++) {
        struct rd in;
        put_u32((uint8_t *)b.data, n);
        rd_init(&in, b.data, n + 4);
        assert_int_equal(bus_request_decode(&in, &got), -EBADMSG);
    }
    buf_done(&b);
}

static void
a_byte_too_many_is_refused(void **state)
{
    (void)state;
    struct bus_request r = full_request();
    struct bus_request got;
    struct buf b;
    struct rd in;
    encode(&b, &r);
    buf_putc(&b, 'x');
    put_u32((uint8_t *)b.data, (uint32_t)b.len - 4);
    rd_init(&in, b.data, b.len);
    assert_int_equal(bus_request_decode(&in, &got), -EBADMSG);
    buf_done(&b);
}

static void
values_out_of_bounds_are_refused(void **state)
{
    (void)state;
    /* offset of the byte in the envelope, value */
    static const struct {
        size_t at;
        uint8_t value;
    } cases[] = {
        { 4, 0 },
        { 4, BUS_KIND_STREAM_CLOSE + 1 },
        { 5, BUS_BODY_NONE },
        { 5, BUS_BODY_PIPE },
        { 5, BUS_BODY_STREAM },
        { 6, BUS_PATH_MAX + 1 },
        { 6, 0 },
        { 7, BUS_QUERY_MAX + 1 },
        { 28, BUS_WHO_DAEMON + 1 },
        { 53, 66 },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct bus_request r = full_request();
        struct bus_request got;
        struct buf b;
        struct rd in;
        encode(&b, &r);
        b.data[cases[i].at] = (char)cases[i].value;
        rd_init(&in, b.data, b.len);
        assert_int_equal(bus_request_decode(&in, &got), -EBADMSG);
        buf_done(&b);
    }
}

static void
a_name_with_a_zero_inside_is_refused(void **state)
{
    (void)state;
    struct bus_request r = full_request();
    struct bus_request got;
    struct buf b;
    struct rd in;
    encode(&b, &r);
    char *name = memmem(b.data, b.len, "admin", 5);
    assert_non_null(name);
    name[2] = '\0';
    rd_init(&in, b.data, b.len);
    assert_int_equal(bus_request_decode(&in, &got), -EBADMSG);
    buf_done(&b);
}

static void
texts_that_do_not_fit_set_the_error(void **state)
{
    (void)state;
    static char big[70000];
    memset(big, 'a', sizeof(big));
    struct bus_request r = full_request();
    struct buf b;
    buf_init(&b, BUS_MESSAGE_MAX);
    r.path[0] = (struct bus_str){ .p = big, .len = sizeof(big) };
    bus_request_encode(&b, &r);
    assert_int_equal(b.err, -E2BIG);
    buf_reset(&b);
    r = full_request();
    r.body = (struct bus_str){ .p = big, .len = BUS_MESSAGE_MAX };
    bus_request_encode(&b, &r);
    assert_int_equal(b.err, -E2BIG);
    buf_done(&b);
}

static void
a_message_holds_its_count(void **state)
{
    (void)state;
    struct bus_request r = full_request();
    struct bus_request got;
    struct buf b;
    struct rd in;
    uint16_t n = 0;
    buf_init(&b, BUS_MESSAGE_MAX);
    bus_message_begin(&b);
    for (uint64_t i = 0; i < BUS_BATCH_MAX; i++) {
        r.id = i;
        bus_request_encode(&b, &r);
    }
    bus_message_end(&b, BUS_BATCH_MAX);
    assert_int_equal(b.err, 0);
    rd_init(&in, b.data, b.len);
    assert_int_equal(bus_message_open(&in, &n), 0);
    assert_int_equal(n, BUS_BATCH_MAX);
    for (uint64_t i = 0; i < n; i++) {
        assert_int_equal(bus_request_decode(&in, &got), 0);
        assert_true(got.id == i);
    }
    assert_true(rd_ended(&in));
    buf_done(&b);
}

static void
a_wrong_message_header_is_refused(void **state)
{
    (void)state;
    static const uint8_t good[5] = { 'F', 'G', 1, 0, 1 };
    static const uint8_t bad[][5] = {
        { 'F', 'H', 1, 0, 1 },   { 'G', 'F', 1, 0, 1 }, { 'F', 'G', 0, 0, 1 },
        { 'F', 'G', 2, 0, 1 },   { 'F', 'G', 1, 0, 0 }, { 'F', 'G', 1, 0, 129 },
        { 'F', 'G', 1, 255, 1 },
    };
    struct rd in;
    uint16_t n = 0;
    rd_init(&in, good, 5);
    assert_int_equal(bus_message_open(&in, &n), 0);
    rd_init(&in, good, 4);
    assert_int_equal(bus_message_open(&in, &n), -EBADMSG);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        rd_init(&in, bad[i], 5);
        assert_int_equal(bus_message_open(&in, &n), -EBADMSG);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_comes_back_as_it_was),
        cmocka_unit_test(a_reply_comes_back_as_it_was),
        cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(a_byte_too_many_is_refused),
        cmocka_unit_test(values_out_of_bounds_are_refused),
        cmocka_unit_test(a_name_with_a_zero_inside_is_refused),
        cmocka_unit_test(texts_that_do_not_fit_set_the_error),
        cmocka_unit_test(a_message_holds_its_count),
        cmocka_unit_test(a_wrong_message_header_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
