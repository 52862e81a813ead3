/* Bodies from members, and values held against the contract of this build. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cjson/cJSON.h>
#include <errno.h>

#include "libcommon/base.h"
#include "libcommon/json.h"
#include "services/fieldgatectl/body.h"
#include "services/fieldgatectl/ops.h"
#include "tests/unit/ctl_said.h"

/* The body that assignments (NULL after the last) make, or the exit code in *ret_code. */
static const char *
body_of(const char *op, const char *const *sets, int *ret_code)
{
    static char text[1024];
    cJSON *tree = cJSON_CreateObject();
    struct buf b;
    buf_init(&b, sizeof(text));
    said_nothing();
    *ret_code = CTL_OK;
    for (; *sets != NULL && *ret_code == CTL_OK; sets++)
        *ret_code = body_set(ops_find(op), *sets, tree);
    jw_tree(&b, tree);
    assert_non_null(buf_text(&b));
    memcpy(text, b.data, b.len + 1);
    buf_done(&b);
    cJSON_Delete(tree);
    return text;
}

static void
test_values_take_the_types_of_their_members(void **state)
{
    (void)state;
    static const struct {
        const char *op, *sets[4], *want;
    } cases[] = {
        { "postRoles",
          { "name=5", "description=a=b", "permissions=A,B" },
          "{\"name\":\"5\",\"description\":\"a=b\",\"permissions\":[\"A\",\"B\"]}" },
        { "postRoles", { "permissions=[\"A\"]" }, "{\"permissions\":[\"A\"]}" },
        { "postRoles", { "permissions=" }, "{\"permissions\":[]}" },
        { "putMqttClient",
          { "willMessage.topic=t", "willMessage.qos=1", "enable=false" },
          "{\"willMessage\":{\"topic\":\"t\",\"qos\":1},\"enable\":false}" },
        { "putMqttClient",
          { "willMessage={\"qos\":2}", "willMessage.topic=t" },
          "{\"willMessage\":{\"qos\":2,\"topic\":\"t\"}}" },
        { "putUsersMe",
          { "email=null", "description=" },
          "{\"email\":null,\"description\":\"\"}" },
        { "putTagsAccess",
          { "dataValue=18446744073709551615" },
          "{\"dataValue\":18446744073709551615}" },
        { "putTagsAccess", { "dataValue=on top" }, "{\"dataValue\":\"on top\"}" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int code;
        assert_string_equal(body_of(cases[i].op, cases[i].sets, &code), cases[i].want);
        assert_int_equal(code, CTL_OK);
        assert_string_equal(said, "");
    }
}

static void
test_what_cannot_be_set_is_told(void **state)
{
    (void)state;
    static const struct {
        const char *op, *sets[4], *said;
    } cases[] = {
        { "postRoles", { "name" }, "member=value" },
        { "postRoles", { "nam=x" }, "no member nam" },
        { "postRoles", { "=x" }, "no member " },
        { "postRoles", { "id=5" }, "no member id" },
        { "postRoles", { "name.a=5" }, "no members" },
        { "postRoles", { "permissions.0=5" }, "no members" },
        { "postRoles", { "name=a", "name=b" }, "set twice" },
        { "putMqttClient", { "port=x" }, "integer 1..65535" },
        { "putMqttClient", { "willMessage=5", "willMessage.qos=1" }, "set twice" },
        { "putUser", { "roles=5,6" }, "list of 1..16" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int code;
        (void)body_of(cases[i].op, cases[i].sets, &code);
        assert_int_equal(code, CTL_USAGE);
        if (strstr(said, cases[i].said) == NULL)
            fail_msg("case %zu: %s", i, said);
    }
    int code;
    (void)body_of("postUsers", (const char *const[]){ "pasword=Some-word-1", NULL }, &code);
    assert_non_null(strstr(said, "--set pasword: there is no member"));
    assert_null(strstr(said, "Some-word")); /* it may be a secret */
}

static void
test_values_are_held_against_the_contract(void **state)
{
    (void)state;
    static const struct {
        const char *name, *value, *pointer; /* pointer NULL: it is fine */
    } cases[] = {
        { "limit", "1", NULL },      { "limit", "2147483647", NULL },
        { "limit", "0", "/limit" },  { "limit", "2147483648", "/limit" },
        { "limit", "1x", "/limit" }, { "limit", "", "/limit" },
        { "sort", "asc", NULL },     { "sort", "Asc", "/sort" },
        { "monitor", "true", NULL }, { "monitor", "yes", "/monitor" },
        { "names", "a,b", NULL },    { "names", "\xff", "/names" },
    };
    const struct ctl_op *op = ops_find("getAudits");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct api_fault fault;
        int r = ops_check_values(op->query_desc, &cases[i].name, &cases[i].value, 1, &fault);
        assert_int_equal(r, cases[i].pointer != NULL ? -EINVAL : 0);
        if (r < 0)
            assert_string_equal(fault.pointer, cases[i].pointer);
    }
    assert_int_equal(ops_check_values(NULL, NULL, NULL, 0, NULL), 0);
}

static void
test_bodies_are_held_against_the_contract(void **state)
{
    (void)state;
    static const struct {
        const char *op, *body, *pointer;
    } cases[] = {
        { "postRoles", "{\"name\":\"a\",\"permissions\":[\"X\"]}", NULL },
        { "postRoles", "{\"name\":\"a\"}", "/permissions" },
        { "postRoles", "{\"name\":\"a\",\"permissions\":[\"\"]}", "/permissions/0" },
        { "postRoles", "{\"name\":\"a\",", "" },
        { "postRoles", "", "" },
        { "postRoles", "[]", "" },
        { "putRole", "{}", NULL },
        { "putRole", "{\"name\":\"\"}", "/name" },
        { "deleteTwice", NULL, NULL },
    };
    for (size_t i = 0; cases[i].body != NULL; i++) {
        struct api_fault fault;
        int r =
            ops_check_body(ops_find(cases[i].op), cases[i].body, strlen(cases[i].body), &fault);
        assert_int_equal(r, cases[i].pointer != NULL ? -EINVAL : 0);
        if (r < 0)
            assert_string_equal(fault.pointer, cases[i].pointer);
    }
}

static void
test_near_names_are_suggested(void **state)
{
    (void)state;
    static const struct {
        const char *name, *near;
    } cases[] = {
        { "getUsrs", "getUsers, " },
        { "GETUSERS", "getUsers, " },
        { "monitor", "getTagsMonitor" },
        { "qqqqqqqqqq", "shows all" },
        { "", "shows all" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        said_nothing();
        assert_null(ops_find(cases[i].name));
        ops_suggest(cases[i].name);
        if (strstr(said, cases[i].near) == NULL)
            fail_msg("%s: %s", cases[i].name, said);
    }
}

static void
test_a_secret_in_an_argument_is_warned_of(void **state)
{
    (void)state;
    int code;
    body_of("postUsers", (const char *const[]){ "password=Some-word-1", NULL }, &code);
    assert_int_equal(code, CTL_OK);
    assert_non_null(strstr(said, "see password in an argument"));
    assert_null(strstr(said, "Some-word"));
    body_of("postUsers", (const char *const[]){ "name=x", NULL }, &code);
    assert_string_equal(said, "");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_take_the_types_of_their_members),
        cmocka_unit_test(test_what_cannot_be_set_is_told),
        cmocka_unit_test(test_values_are_held_against_the_contract),
        cmocka_unit_test(test_bodies_are_held_against_the_contract),
        cmocka_unit_test(test_near_names_are_suggested),
        cmocka_unit_test(test_a_secret_in_an_argument_is_warned_of),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
