/*
 * Structs from JSON and back: exact numbers, faults that name the culprit,
 * defaults, partial bodies, secrets masked.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <float.h>
#include <string.h>

#include "libcommon/api_private.h"
#include "libcommon/format.h"
#include "libcommon/json.h"

struct inner {
    int64_t size;
    const char *note;
};
struct thing {
    const char *name;
    bool on;
    int64_t port;
    uint64_t big;
    bool has_ratio;
    double ratio;
    int mode;
    const char *secret, *email, *any;
    struct inner inner;
    struct inner *list;
    size_t n_list;
    const char **words;
    size_t n_words;
    int64_t id;
};

static const char *const modes[] = { "dhcp", "static", "3.1" };
static const struct api_field inner_fields[] = {
    { .name = "size", .type = API_T_INT, .offset = offsetof(struct inner, size), .min = 0,
      .max = 10, .dflt = "4" },
    { .name = "note", .type = API_T_STRING, .offset = offsetof(struct inner, note), .len_max = 5 },
};
static const struct api_desc inner_desc = { "inner", sizeof(struct inner), inner_fields,
                                            ARRAY_LEN(inner_fields), false };
static const struct api_field thing_fields[] = {
    { .name = "name", .type = API_T_STRING, .flags = API_F_REQUIRED,
      .offset = offsetof(struct thing, name), .len_min = 1, .len_max = 8,
      .format = format_account_name, .format_name = "account-name" },
    { .name = "on", .type = API_T_BOOL, .offset = offsetof(struct thing, on), .dflt = "true" },
    { .name = "port", .type = API_T_INT, .offset = offsetof(struct thing, port), .min = 1,
      .max = 65535, .dflt = "502" },
    { .name = "big", .type = API_T_UINT, .offset = offsetof(struct thing, big), .min = 0,
      .max = UINT64_MAX, .dflt = "18446744073709551615" },
    { .name = "ratio", .type = API_T_NUMBER, .flags = API_F_HAS,
      .offset = offsetof(struct thing, ratio), .has_offset = offsetof(struct thing, has_ratio),
      .dmin = -DBL_MAX, .dmax = DBL_MAX },
    { .name = "mode", .type = API_T_ENUM, .offset = offsetof(struct thing, mode), .names = modes,
      .n_names = 3, .dflt = "\"static\"" },
    { .name = "secret", .type = API_T_STRING, .flags = API_F_WRITE_ONLY,
      .offset = offsetof(struct thing, secret), .len_max = 16 },
    { .name = "email", .type = API_T_STRING, .flags = API_F_NULLABLE,
      .offset = offsetof(struct thing, email), .len_max = 16 },
    { .name = "any", .type = API_T_RAW, .offset = offsetof(struct thing, any), .len_max = 64 },
    { .name = "inner", .type = API_T_OBJECT,
      .offset = offsetof(struct thing, inner), .sub = &inner_desc },
    { .name = "list", .type = API_T_OBJECT, .flags = API_F_ARRAY,
      .offset = offsetof(struct thing, list), .n_offset = offsetof(struct thing, n_list),
      .items_max = 2, .sub = &inner_desc },
    { .name = "words", .type = API_T_STRING, .flags = API_F_ARRAY,
      .offset = offsetof(struct thing, words), .n_offset = offsetof(struct thing, n_words),
      .items_max = 3, .len_max = 9 },
    { .name = "id", .type = API_T_INT, .flags = API_F_READ_ONLY,
      .offset = offsetof(struct thing, id), .min = INT64_MIN, .max = INT64_MAX },
};
static const struct api_desc thing_desc = { "thing", sizeof(struct thing), thing_fields,
                                            ARRAY_LEN(thing_fields), true };

static struct api_arena *arena;
static struct thing thing;
static struct api_fault f;

static int
decode(const char *text, enum api_decode mode)
{
    struct cJSON *tree = NULL;
    struct json_error e;
    assert_int_equal(json_parse(text, strlen(text), &tree, &e), 0);
    int r = api_decode(arena, &thing_desc, tree, mode, &thing, &f);
    json_free(tree);
    return r;
}

static const char *
encoded(bool store)
{
    static struct buf b;
    buf_done(&b);
    buf_init(&b, 4096);
    api_encode(&b, &thing_desc, &thing, store);
    return buf_text(&b);
}

static int
setup(void **state)
{
    (void)state;
    arena = api_arena_new(1 << 20);
    memset(&thing, 0, sizeof(thing));
    return arena ? 0 : -1;
}

static int
teardown(void **state)
{
    (void)state;
    api_arena_free(arena);
    return 0;
}

static void
missing_members_get_their_defaults(void **state)
{
    (void)state;
    assert_int_equal(decode("{\"name\":\"a\"}", API_DECODE_REQUEST), 0);
    assert_string_equal(encoded(false),
                        "{\"name\":\"a\",\"on\":true,\"port\":502,\"big\":18446744073709551615,"
                        "\"mode\":\"static\",\"email\":null,\"inner\":{\"size\":4},\"list\":[],"
                        "\"words\":[],\"id\":0}");
}

static void
every_type_comes_back_as_it_went_in(void **state)
{
    (void)state;
    const char *text = "{\"name\":\"a\",\"on\":false,\"port\":1,\"big\":9007199254740993,"
                       "\"ratio\":0.1,\"mode\":\"3.1\",\"secret\":\"s\",\"email\":\"e\","
                       "\"any\":{\"x\":[1,9007199254740993,null]},\"inner\":{\"size\":1,"
                       "\"note\":\"\u00e9\"},\"list\":[{\"size\":2},{\"size\":3}],"
                       "\"words\":[\"p\",\"q\"],\"id\":7}";
    assert_int_equal(decode(text, API_DECODE_STORE), 0);
    assert_string_equal(encoded(true), text);
}

static void
write_only_members_never_show(void **state)
{
    (void)state;
    assert_int_equal(decode("{\"name\":\"a\",\"secret\":\"hush\"}", API_DECODE_REQUEST), 0);
    assert_null(strstr(encoded(false), "hush"));
    assert_non_null(strstr(encoded(true), "hush"));
}

static void
faults_name_the_member_and_why(void **state)
{
    (void)state;
    static const struct {
        const char *text, *pointer;
    } cases[] = {
        { "{}", "/name" },
        { "{\"name\":\"\"}", "/name" },
        { "{\"name\":\"with space\"}", "/name" },
        { "{\"name\":\"a b\"}", "/name" },
        { "{\"name\":5}", "/name" },
        { "{\"name\":\"a\",\"b/c~d\":1}", "/b~1c~0d" },
        { "{\"name\":null}", "/name" },
        { "{\"name\":\"a\",\"port\":0}", "/port" },
        { "{\"name\":\"a\",\"port\":65536}", "/port" },
        { "{\"name\":\"a\",\"port\":1.5}", "/port" },
        { "{\"name\":\"a\",\"port\":\"1\"}", "/port" },
        { "{\"name\":\"a\",\"big\":18446744073709551616}", "/big" },
        { "{\"name\":\"a\",\"big\":-1}", "/big" },
        { "{\"name\":\"a\",\"ratio\":1e999}", "/ratio" },
        { "{\"name\":\"a\",\"mode\":\"x\"}", "/mode" },
        { "{\"name\":\"a\",\"on\":1}", "/on" },
        { "{\"name\":\"a\",\"inner\":[]}", "/inner" },
        { "{\"name\":\"a\",\"inner\":{\"size\":11}}", "/inner/size" },
        { "{\"name\":\"a\",\"list\":[{},{\"note\":\"toolong\"}]}", "/list/1/note" },
        { "{\"name\":\"a\",\"list\":[{},{},{}]}", "/list" },
        { "{\"name\":\"a\",\"words\":[\"x\",1]}", "/words/1" },
        { "{\"name\":\"a\",\"nope\":1}", "/nope" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(decode(cases[i].text, API_DECODE_REQUEST), -EINVAL);
        assert_string_equal(f.pointer, cases[i].pointer);
        assert_true(f.message[0] != '\0');
    }
    assert_int_equal(decode("[]", API_DECODE_REQUEST), -EINVAL);
}

static void
a_number_serves_where_an_enum_has_its_text(void **state)
{
    (void)state;
    assert_int_equal(decode("{\"name\":\"a\",\"mode\":3.1}", API_DECODE_REQUEST), 0);
    assert_int_equal(thing.mode, 2);
}

static void
read_only_members_of_a_request_are_ignored(void **state)
{
    (void)state;
    thing.id = 3;
    assert_int_equal(decode("{\"name\":\"a\",\"id\":\"junk\"}", API_DECODE_REQUEST), 0);
    assert_int_equal(thing.id, 3);
}

static void
a_partial_body_changes_only_what_it_names(void **state)
{
    (void)state;
    assert_int_equal(decode("{\"name\":\"a\",\"port\":7,\"inner\":{\"note\":\"n\"},\"ratio\":2}",
                            API_DECODE_REQUEST),
                     0);
    assert_int_equal(decode("{\"inner\":{\"size\":9},\"words\":[\"w\"]}", API_DECODE_PARTIAL), 0);
    assert_string_equal(thing.name, "a");
    assert_int_equal(thing.port, 7);
    assert_int_equal(thing.inner.size, 9);
    assert_string_equal(thing.inner.note, "n");
    assert_true(thing.has_ratio);
    assert_int_equal(thing.n_words, 1);
    assert_int_equal(decode("{\"port\":0}", API_DECODE_PARTIAL), -EINVAL);
}

static void
null_clears_a_nullable_member(void **state)
{
    (void)state;
    assert_int_equal(decode("{\"name\":\"a\",\"email\":\"x\"}", API_DECODE_REQUEST), 0);
    assert_int_equal(decode("{\"email\":null}", API_DECODE_PARTIAL), 0);
    assert_null(thing.email);
}

static void
the_audit_copy_masks_secrets_and_drops_the_unknown(void **state)
{
    (void)state;
    const char *text = "{\"name\":\"a\",\"secret\":\"hush\",\"other\":1,\"inner\":{\"size\":1}}";
    struct cJSON *tree = NULL;
    struct json_error e;
    assert_int_equal(json_parse(text, strlen(text), &tree, &e), 0);
    struct buf b;
    buf_init(&b, 1000);
    api_redact(&b, &thing_desc, tree);
    assert_string_equal(buf_text(&b), "{\"name\":\"a\",\"secret\":\"***\",\"inner\":{\"size\":1}}");
    buf_done(&b);
    json_free(tree);
}

static void
values_of_path_and_query_are_decoded(void **state)
{
    (void)state;
    const struct bus_str names[] = { { "name", 4 }, { "port", 4 }, { "words", 5 }, { "on", 2 } };
    const struct bus_str values[] = { { "n", 1 }, { "80", 2 }, { "a,b", 3 }, { NULL, 0 } };
    assert_int_equal(api_decode_values(arena, &thing_desc, names, values, 4, &thing, &f), 0);
    assert_string_equal(thing.name, "n");
    assert_int_equal(thing.port, 80);
    assert_int_equal(thing.n_words, 2);
    assert_string_equal(thing.words[1], "b");
    assert_true(thing.on);
    const struct bus_str bad[] = { { "n", 1 }, { "8x", 2 } };
    assert_int_equal(api_decode_values(arena, &thing_desc, names, bad, 2, &thing, &f), -EINVAL);
    assert_string_equal(f.pointer, "/port");
}

static void
memory_of_an_arena_is_bounded(void **state)
{
    (void)state;
    struct api_arena *small = api_arena_new(10000);
    assert_non_null(api_arena_alloc(small, 8000));
    assert_null(api_arena_alloc(small, 8000));
    assert_null(api_arena_alloc(small, SIZE_MAX));
    api_arena_free(small);
}

static void
any_json_has_its_bound_to_the_byte(void **state)
{
    (void)state;
    char text[128];
    for (int n = 60; n <= 64; n++) { /* a text of n - 2 characters */
        (void)snprintf(text, sizeof(text), "{\"name\":\"a\",\"any\":\"%0*d\"}", n - 2, 0);
        assert_int_equal(decode(text, API_DECODE_REQUEST), 0);
    }
    (void)snprintf(text, sizeof(text), "{\"name\":\"a\",\"any\":\"%063d\"}", 0);
    assert_int_equal(decode(text, API_DECODE_REQUEST), -EINVAL);
    assert_string_equal(f.pointer, "/any");
}

static void
a_fault_in_a_list_names_the_element_and_whole_tokens(void **state)
{
    (void)state;
    /* Bytes that would be cut between "~" and "1". */
    for (size_t n = 190; n < 260; n++) {
        char name[300], text[400];
        memset(name, 'x', n);
        name[n] = '\0';
        (void)snprintf(text, sizeof(text), "{\"name\":\"a\",\"%s/\":1}", name);
        struct cJSON *tree = NULL;
        struct json_error e;
        assert_int_equal(json_parse(text, strlen(text), &tree, &e), 0);
        assert_int_equal(api_decode_item(arena, &thing_desc, tree, 12, &thing, &f), -EINVAL);
        json_free(tree);
        assert_memory_equal(f.pointer, "/12", 3);
        const char *tilde = strchr(f.pointer, '~');
        assert_true(tilde ? tilde[1] == '1' : strcmp(f.pointer, "/12") == 0);
    }
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(missing_members_get_their_defaults),
        T(every_type_comes_back_as_it_went_in),
        T(write_only_members_never_show),
        T(faults_name_the_member_and_why),
        T(a_number_serves_where_an_enum_has_its_text),
        T(read_only_members_of_a_request_are_ignored),
        T(a_partial_body_changes_only_what_it_names),
        T(null_clears_a_nullable_member),
        T(the_audit_copy_masks_secrets_and_drops_the_unknown),
        T(values_of_path_and_query_are_decoded),
        T(any_json_has_its_bound_to_the_byte),
        T(a_fault_in_a_list_names_the_element_and_whole_tokens),
        T(memory_of_an_arena_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
