/*
 * multipart/form-data: what browsers and curl send is split, what is broken
 * is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "libcommon/api_private.h"

#define TYPE "multipart/form-data; boundary=XX"

static struct api_form_entry parts[4];
static size_t n_parts;
static char body[1024];

static int
split(const char *type, const char *text)
{
    size_t n = strlen(text);
    memcpy(body, text, n + 1);
    n_parts = 99;
    return api_form_split(type, body, n, parts, 4, &n_parts);
}

static void
a_form_with_a_file_and_a_value_is_split(void **state)
{
    (void)state;
    assert_int_equal(split(TYPE, "--XX\r\nContent-Disposition: form-data; name=\"f\"; "
                                 "filename=\"a b.crt\"\r\nContent-Type: text/plain\r\n\r\n"
                                 "line1\r\nline2\r\n--XX\r\n"
                                 "Content-Disposition: form-data; name=v\r\n\r\n\r\n--XX--\r\n"),
                     0);
    assert_int_equal(n_parts, 2);
    assert_string_equal(parts[0].name, "f");
    assert_string_equal(parts[0].file_name, "a b.crt");
    assert_int_equal(parts[0].n, 12);
    assert_memory_equal(parts[0].bytes, "line1\r\nline2", 12);
    assert_string_equal(parts[1].name, "v");
    assert_null(parts[1].file_name);
    assert_int_equal(parts[1].n, 0);
}

static void
a_quoted_boundary_and_a_preamble_are_accepted(void **state)
{
    (void)state;
    assert_int_equal(split("multipart/form-data; boundary=\"a b\"",
                           "hello\r\n--a b\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n"
                           "1\r\n--a b--"),
                     0);
    assert_int_equal(n_parts, 1);
    assert_memory_equal(parts[0].bytes, "1", 1);
}

static void
broken_forms_are_refused(void **state)
{
    (void)state;
    static const char *const broken[] = {
        "", "--XX", "--XX\r\n", "--XX\r\nfoo", "--XX\r\nContent-Disposition: form-data\r\n\r\n1\r\n--XX--",
        "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1",
        "--YY\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--YY--",
        "--XX\r\n\r\n1\r\n--XX--",
    };
    for (size_t i = 0; i < ARRAY_LEN(broken); i++)
        assert_int_equal(split(TYPE, broken[i]), -EINVAL);
    assert_int_equal(split("multipart/form-data", "--XX--"), -EINVAL);
    assert_int_equal(split("multipart/form-data; boundary=", "--XX--"), -EINVAL);
}

static void
too_many_parts_are_refused(void **state)
{
    (void)state;
    char text[1024] = "";
    for (int i = 0; i < 5; i++)
        strncat(text, "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n",
                sizeof(text) - strlen(text) - 1);
    strncat(text, "--XX--", sizeof(text) - strlen(text) - 1);
    assert_int_equal(split(TYPE, text), -E2BIG);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_form_with_a_file_and_a_value_is_split),
        cmocka_unit_test(a_quoted_boundary_and_a_preamble_are_accepted),
        cmocka_unit_test(broken_forms_are_refused),
        cmocka_unit_test(too_many_parts_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
