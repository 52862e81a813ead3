/* Each format at its boundaries. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/format.h"

typedef int format_fn(const char *text);

static void
assert_all(format_fn *fn, int want, const char *const *texts, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (fn(texts[i]) != want)
            fail_msg("'%s' gave %d", texts[i], fn(texts[i]));
}
#define GOOD(fn, ...)                                                                          \
    do {                                                                                       \
        static const char *const texts_[] = { __VA_ARGS__ };                                   \
        assert_all(fn, 0, texts_, ARRAY_LEN(texts_));                                          \
    } while (0)
#define BAD(fn, ...)                                                                           \
    do {                                                                                       \
        static const char *const texts_[] = { __VA_ARGS__ };                                   \
        assert_all(fn, -EINVAL, texts_, ARRAY_LEN(texts_));                                    \
    } while (0)

/* Is a text of 'n' times 'c' between 'before' and 'after' accepted? */
static bool
accepts(format_fn *fn, const char *before, size_t n, char c, const char *after)
{
    char *text = malloc(strlen(before) + n + strlen(after) + 1);
    assert_non_null(text);
    memcpy(text, before, strlen(before));
    memset(text + strlen(before), c, n);
    memcpy(text + strlen(before) + n, after, strlen(after) + 1);
    int r = fn(text);
    free(text);
    return r == 0;
}

static void
test_account_name(void **state)
{
    (void)state;
    GOOD(format_account_name, "a", "admin", "7up", "a+=,.@_-", "x@y.z");
    BAD(format_account_name, "", ".a", "_a", "-a", "@", "a b", "a/b", "a\n", "\xC3\xA9");
    assert_true(accepts(format_account_name, "", 64, 'a', ""));
    assert_false(accepts(format_account_name, "", 65, 'a', ""));
}

static void
test_password(void **state)
{
    (void)state;
    GOOD(format_password, "12345678", "!~\"\\'/<>", "admin@123");
    BAD(format_password, "", "1234567", "1234 5678", "1234567\t", "1234567\x7F",
        "\xC3\xA9"
        "234567890");
    assert_true(accepts(format_password, "", 256, 'a', ""));
    assert_false(accepts(format_password, "", 257, 'a', ""));
}

static void
test_email(void **state)
{
    (void)state;
    GOOD(format_email, "a@b", "first.last+tag@example.com", "o'neil@x-y.example", "a@1.b");
    BAD(format_email, "", "a", "@b", "a@", "a@b@c", "a b@c", ".a@b", "a.@b", "a..b@c", "a@-b",
        "a@b-", "a@b..c", "a@.b", "a@b.", "a@1.2.3.4", "\"a\"@b", "a@b c", "a\n@b");
    assert_true(accepts(format_email, "", 64, 'a', "@b"));
    assert_false(accepts(format_email, "", 65, 'a', "@b"));
}

static void
test_email_length(void **state)
{
    (void)state;
    /* 64 + 1 + 3 * 63 = 254 */
    char text[300];
    memset(text, 'a', sizeof(text));
    text[64] = '@';
    for (size_t i = 64 + 63; i < 254; i += 63)
        text[i] = '.';
    text[254] = '\0';
    text[253] = 'a';
    assert_int_equal(format_email(text), 0);
    text[254] = 'a';
    text[255] = '\0';
    assert_int_equal(format_email(text), -EINVAL);
}

static void
test_tag_and_modbus_names(void **state)
{
    (void)state;
    GOOD(format_tag_name, "a", "~._-", "Pump1.flow~2");
    BAD(format_tag_name, "", "a b", "a/b", "a,b", "a:b", "\xC3\xA9");
    assert_true(accepts(format_tag_name, "", 128, '-', ""));
    assert_false(accepts(format_tag_name, "", 129, '-', ""));
    GOOD(format_modbus_name, "a", "~._-", "Pump1.flow~2");
    BAD(format_modbus_name, "", "a b", "a/b", "a#");
    assert_true(accepts(format_modbus_name, "", 128, 'Z', ""));
    assert_false(accepts(format_modbus_name, "", 129, 'Z', ""));
}

static void
test_host_and_ipv4(void **state)
{
    (void)state;
    GOOD(format_ipv4, "0.0.0.0", "255.255.255.255", "10.0.0.1");
    BAD(format_ipv4, "", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1.2.3.4 ", " 1.2.3.4",
        "1.2.3.", "a.b.c.d", "::1", "1.2.3.4/24");
    GOOD(format_host, "10.0.0.1", "::", "fe80::1", "2001:db8::ffff:1.2.3.4", "localhost", "a",
         "plc-1.plant.example", "3com.com", "xn--bcher-kva.example", "1.2.3.a");
    BAD(format_host, "", ".", "a.", ".a", "a..b", "-a", "a-", "a.-b", "a_b", "a b", "1.2.3",
        "300.1.1.1", "123", "[::1]", "fe80::1%eth0", ":::", "12345::", "a/b", "http://a",
        "b\xC3\xBC"
        "cher.example");
    assert_true(accepts(format_host, "", 63, 'a', ".b"));
    assert_false(accepts(format_host, "", 64, 'a', ".b"));
    char name[300];
    memset(name, 'a', sizeof(name));
    for (size_t i = 50; i < 253; i += 51)
        name[i] = '.';
    name[253] = '\0';
    assert_int_equal(format_host(name), 0);
    name[253] = 'a';
    name[254] = '\0';
    assert_int_equal(format_host(name), -EINVAL);
}

static void
test_hex_bytes(void **state)
{
    (void)state;
    GOOD(format_hex_bytes, "00", "00 FF", "ab CD 12");
    BAD(format_hex_bytes, "", "0", "00 ", " 00", "00  FF", "00FF", "0G", "00 F", "00,FF",
        "00-FF");
}

static void
test_mqtt_topics_and_filters(void **state)
{
    (void)state;
    GOOD(format_mqtt_topic, "a", "/", "a/b", "//", "a b", "$SYS/x", "caf\xC3\xA9");
    BAD(format_mqtt_topic, "", "+", "a/+", "#", "a#b", "a+b", "\xFF", "a\xC0\x80");
    GOOD(format_mqtt_filter, "a", "/", "+", "#", "a/#", "+/+", "/+", "+/", "a/+/b/#", "$SYS/#");
    BAD(format_mqtt_filter, "", "a#", "#/a", "a/#/b", "a+", "+a", "a/b+/c", "a/+b", "##", "++",
        "a/b#", "#+", "\xFF");
    assert_true(accepts(format_mqtt_topic, "", 65535, 'a', ""));
    assert_false(accepts(format_mqtt_topic, "", 65536, 'a', ""));
    assert_true(accepts(format_mqtt_filter, "", 65534, 'a', "/") &&
                !accepts(format_mqtt_filter, "", 65534, 'a', "/#"));
}

static void
test_printable(void **state)
{
    (void)state;
    GOOD(format_printable, "", " ", "a b~", "!\"#");
    BAD(format_printable, "\t", "a\n", "\x7F", "\xC3\xA9");
}

static void
test_uuid(void **state)
{
    (void)state;
    GOOD(format_uuid, "00000000-0000-0000-0000-000000000000",
         "123e4567-E89B-12d3-a456-426614174000");
    BAD(format_uuid, "", "123e4567-e89b-12d3-a456-42661417400",
        "123e4567-e89b-12d3-a456-4266141740000", "123e4567ee89b-12d3-a456-426614174000",
        "123e4567-e89b-12d3-a456-42661417400g", "{23e4567-e89b-12d3-a456-42661417400}",
        "123e4567e89b12d3a456426614174000");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_account_name),
        cmocka_unit_test(test_password),
        cmocka_unit_test(test_email),
        cmocka_unit_test(test_email_length),
        cmocka_unit_test(test_tag_and_modbus_names),
        cmocka_unit_test(test_host_and_ipv4),
        cmocka_unit_test(test_hex_bytes),
        cmocka_unit_test(test_mqtt_topics_and_filters),
        cmocka_unit_test(test_printable),
        cmocka_unit_test(test_uuid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
