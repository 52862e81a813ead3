/*
 * Request targets: decoding, tricks, matching, query parameters.
 */
#include "gateway/route.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/base.h"

static const struct route table[] = {
    { .method = "GET", .path = "/users", .name = "getUsers" },
    { .method = "POST", .path = "/users", .name = "postUsers" },
    { .method = "GET", .path = "/users/me", .name = "getUsersMe" },
    { .method = "GET", .path = "/users/{id}", .name = "getUser" },
    { .method = "DELETE", .path = "/users/{id}", .name = "deleteUser" },
    { .method = "PUT", .path = "/users/{id}/password", .name = "putPassword" },
    { .method = "GET", .path = "/tags/access/{p}/{s}/{t}", .name = "getTag" },
};

static struct route_tree *
make_tree(void)
{
    struct route_tree *t = NULL;
    assert_int_equal(route_tree_new(table, ARRAY_LEN(table), &t), 0);
    return t;
}

/* Finds 'target'; the outcome, with the match. */
static int
find(const char *target, enum http_method method, struct route_match *ret_match)
{
    static char out[ROUTE_TARGET_MAX];
    struct route_path path;
    const char *reason = NULL;
    struct route_tree *t = make_tree();
    assert_int_equal(route_split(target, out, &path, &reason), 0);
    int r = route_find(t, method, &path, 0, ret_match);
    route_tree_free(t);
    return r;
}

static void
assert_finds(const char *target, enum http_method method, const char *name)
{
    struct route_match m = { 0 };
    assert_int_equal(find(target, method, &m), ROUTE_FOUND);
    assert_string_equal(m.route->name, name);
}

static void
test_fixed_segment_is_preferred_to_a_value(void **state)
{
    (void)state;
    assert_finds("/users", METHOD_GET, "getUsers");
    assert_finds("/users", METHOD_POST, "postUsers");
    assert_finds("/users/me", METHOD_GET, "getUsersMe");
    assert_finds("/users/m", METHOD_GET, "getUser");
    assert_finds("/users/mee", METHOD_HEAD, "getUser");
}

static void
test_value_is_taken_when_the_fixed_segment_leads_nowhere(void **state)
{
    (void)state;
    assert_finds("/users/me/password", METHOD_PUT, "putPassword");
}

static void
test_values_are_decoded_once(void **state)
{
    (void)state;
    struct route_match m = { 0 };
    assert_int_equal(find("/tags/access/a%20b/%C3%A9%25/~._-", METHOD_GET, &m), ROUTE_FOUND);
    assert_int_equal(m.n_values, 3);
    assert_int_equal(m.value[0].len, 3);
    assert_memory_equal(m.value[0].p, "a b", 3);
    assert_memory_equal(m.value[1].p, "\xc3\xa9%", 3);
    assert_memory_equal(m.value[2].p, "~._-", 4);
}

static void
test_unknown_paths_and_other_methods_are_told_apart(void **state)
{
    (void)state;
    struct route_match m = { 0 };
    assert_int_equal(find("/nobody", METHOD_GET, &m), ROUTE_UNKNOWN);
    assert_int_equal(find("/users/", METHOD_GET, &m), ROUTE_UNKNOWN);
    assert_int_equal(find("/tags", METHOD_GET, &m), ROUTE_UNKNOWN);
    assert_int_equal(find("/users/1/password/x", METHOD_PUT, &m), ROUTE_UNKNOWN);
    assert_int_equal(find("/users/1", METHOD_PATCH, &m), ROUTE_OTHER_METHOD);
    assert_int_equal(m.methods, 1u << METHOD_GET | 1u << METHOD_DELETE);
    assert_int_equal(find("/users/1", METHOD_OPTIONS, &m), ROUTE_OTHER_METHOD);
}

static void
test_two_routes_for_one_path_are_refused(void **state)
{
    (void)state;
    static const struct route twice[] = {
        { .method = "GET", .path = "/a/{x}" },
        { .method = "GET", .path = "/a/{y}" },
    };
    struct route_tree *t = NULL;
    assert_int_equal(route_tree_new(twice, 2, &t), -EINVAL);
}

static void
test_whole_generated_table_is_found(void **state)
{
    (void)state;
    char out[ROUTE_TARGET_MAX];
    struct route_tree *t = NULL;
    assert_int_equal(route_tree_new(routes, n_routes, &t), 0);
    for (size_t i = 0; i < n_routes; i++) {
        char target[ROUTE_TARGET_MAX];
        size_t n = 0;
        for (const char *p = routes[i].path; *p != '\0'; p++) {
            /* "{name}" as sent by a client: "7" */
            if (*p == '{') {
                p = strchr(p, '}');
                target[n++] = '7';
            } else {
                target[n++] = *p;
            }
        }
        target[n] = '\0';
        struct route_path path;
        struct route_match m;
        const char *reason = NULL;
        assert_int_equal(route_split(target, out, &path, &reason), 0);
        assert_int_equal(route_find(t, method_parse(routes[i].method), &path, 0, &m),
                         ROUTE_FOUND);
        assert_ptr_equal(m.route, &routes[i]);
    }
    route_tree_free(t);
}

static void
test_tricks_in_the_path_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "users",
        "//users",
        "/users//me",
        "/users/./me",
        "/users/../me",
        "/..",
        "/users/%2e",
        "/%2E%2e/x",
        "/a%2fb",
        "/a%2Fb",
        "/a%5cb",
        "/a\\b",
        "/%00",
        "/a%0d%0ab",
        "/%7f",
        "/%",
        "/%4",
        "/%zz",
        "/%252e",
        "/%25%32%65",
        "/a%2541",
        "/\xc3\xa9",
        "/%ff",
        "/%c0%af",
        "/%ed%a0%80",
        "/a\x01",
        "/a b\x7f",
        "/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17",
    };
    char out[ROUTE_TARGET_MAX];
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct route_path path;
        const char *reason = NULL;
        assert_int_equal(route_split(bad[i], out, &path, &reason), -EINVAL);
        assert_non_null(reason);
    }
}

static void
test_path_that_is_too_long_is_refused(void **state)
{
    (void)state;
    char target[ROUTE_TARGET_MAX + 1], out[ROUTE_TARGET_MAX];
    struct route_path path;
    const char *reason = NULL;
    memset(target, 'a', sizeof(target));
    target[0] = '/';
    target[ROUTE_TARGET_MAX] = '\0';
    assert_int_equal(route_split(target, out, &path, &reason), -EINVAL);
    target[ROUTE_TARGET_MAX - 1] = '\0';
    assert_int_equal(route_split(target, out, &path, &reason), 0);
    assert_int_equal(path.segment[0].len, ROUTE_TARGET_MAX - 2);
}

static int
query(const char *text, struct bus_str *name, struct bus_str *value, const char **ret_reason)
{
    static char out[ROUTE_QUERY_BYTES];
    return route_query(text, out, name, value, ret_reason);
}

static void
test_query_is_decoded(void **state)
{
    (void)state;
    struct bus_str name[BUS_QUERY_MAX], value[BUS_QUERY_MAX];
    const char *reason = NULL;
    assert_int_equal(query("a=1&&b=x+y%2B%26%3d&c&d=&%C3%A9=1=2", name, value, &reason), 5);
    assert_string_equal(name[0].p, "a");
    assert_string_equal(value[0].p, "1");
    assert_string_equal(value[1].p, "x y+&=");
    assert_string_equal(name[2].p, "c");
    assert_null(value[2].p);
    assert_non_null(value[3].p);
    assert_int_equal(value[3].len, 0);
    assert_string_equal(name[4].p, "\xc3\xa9");
    assert_string_equal(value[4].p, "1=2");
    assert_int_equal(query("", name, value, &reason), 0);
}

static void
test_bad_queries_are_refused(void **state)
{
    (void)state;
    struct bus_str name[BUS_QUERY_MAX], value[BUS_QUERY_MAX];
    const char *reason = NULL;
    static const char *const bad[] = {
        "=1",
        "a=%",
        "a=%0",
        "a=%zz",
        "a=%00",
        "%00=1",
        "a=%ff",
        ("a=1&b=2&c=3&d=4&e=5&f=6&g=7&h=8&i=9&j=10&k=11&l=12&m=13"
         "&n=14&o=15&p=16&q=17")
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(query(bad[i], name, value, &reason), -EINVAL);
    assert_int_equal(query("a=1&b=2&%61=3", name, value, &reason), -EEXIST);
    assert_string_equal(reason, "a");
}

static void
test_query_that_is_too_long_is_refused(void **state)
{
    (void)state;
    struct bus_str name[BUS_QUERY_MAX], value[BUS_QUERY_MAX];
    const char *reason = NULL;
    char text[ROUTE_QUERY_BYTES];
    memset(text, 'a', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(query(text, name, value, &reason), -EINVAL);
    text[sizeof(text) - 2] = '\0';
    assert_int_equal(query(text, name, value, &reason), 1);
    assert_int_equal(name[0].len, ROUTE_QUERY_BYTES - 2);
}

int
main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_fixed_segment_is_preferred_to_a_value),
        cmocka_unit_test(test_value_is_taken_when_the_fixed_segment_leads_nowhere),
        cmocka_unit_test(test_values_are_decoded_once),
        cmocka_unit_test(test_unknown_paths_and_other_methods_are_told_apart),
        cmocka_unit_test(test_two_routes_for_one_path_are_refused),
        cmocka_unit_test(test_whole_generated_table_is_found),
        cmocka_unit_test(test_tricks_in_the_path_are_refused),
        cmocka_unit_test(test_path_that_is_too_long_is_refused),
        cmocka_unit_test(test_query_is_decoded),
        cmocka_unit_test(test_bad_queries_are_refused),
        cmocka_unit_test(test_query_that_is_too_long_is_refused),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
