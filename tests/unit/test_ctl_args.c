/* Command lines of fieldgatectl, and fingerprints as people copy them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>

#include "libcommon/base.h"
#include "services/fieldgatectl/args.h"
#include "services/fieldgatectl/trust.h"
#include "tests/unit/ctl_said.h"

#define BEGIN(...)                                                                             \
    const char *const words[] = { __VA_ARGS__ };                                               \
    struct args a;                                                                             \
    said_nothing();                                                                            \
    args_init(&a, (int)ARRAY_LEN(words), words)

static void
test_words_options_and_values_come_in_order(void **state)
{
    (void)state;
    BEGIN("call", "--limit", "5", "--names=a,b=c", "-o", "f", "-", "--", "--limit");
    const char *limit = NULL, *names = NULL, *output = NULL;
    assert_int_equal(args_next(&a), ARGS_WORD);
    assert_string_equal(a.text, "call");
    assert_int_equal(args_next(&a), ARGS_OPTION);
    assert_false(args_take(&a, "names", &names));
    assert_true(args_take(&a, "limit", &limit));
    assert_string_equal(limit, "5");
    assert_int_equal(args_next(&a), ARGS_OPTION);
    assert_true(args_take(&a, "names", &names));
    assert_string_equal(names, "a,b=c");
    assert_int_equal(args_next(&a), ARGS_OPTION);
    assert_true(args_take(&a, "output", &output));
    assert_string_equal(output, "f");
    assert_int_equal(args_next(&a), ARGS_WORD);
    assert_string_equal(a.text, "-");
    assert_int_equal(args_next(&a), ARGS_WORD);
    assert_string_equal(a.text, "--limit");
    assert_int_equal(args_next(&a), ARGS_END);
    assert_false(a.faulty);
    assert_string_equal(said, "");
}

static void
test_a_value_may_look_like_an_option(void **state)
{
    (void)state;
    BEGIN("--set", "--x", "--min", "-5");
    const char *set = NULL, *min = NULL;
    assert_int_equal(args_next(&a), ARGS_OPTION);
    assert_true(args_take(&a, "set", &set));
    assert_string_equal(set, "--x");
    assert_int_equal(args_next(&a), ARGS_OPTION);
    assert_true(args_take(&a, "min", &min));
    assert_string_equal(min, "-5");
}

static void
test_missing_second_and_needless_values_are_told(void **state)
{
    (void)state;
    BEGIN("--url", "a", "--url", "b", "--raw=1", "--url");
    const char *url = NULL;
    bool raw = false;
    assert_int_equal(args_next(&a), ARGS_OPTION);
    assert_true(args_take(&a, "url", &url) && !a.faulty);
    assert_int_equal(args_next(&a), ARGS_OPTION);
    assert_true(args_take(&a, "url", &url) && a.faulty);
    assert_string_equal(said, "option --url is given twice");
    said_nothing();
    a.faulty = false;
    assert_int_equal(args_next(&a), ARGS_OPTION);
    assert_true(args_flag(&a, "raw", &raw) && a.faulty);
    assert_string_equal(said, "option --raw has no value");
    said_nothing();
    a.faulty = false;
    assert_int_equal(args_next(&a), ARGS_OPTION);
    assert_true(args_take(&a, "url", &url) && a.faulty);
    assert_string_equal(said, "option --url needs a value");
    assert_null(url);
}

static void
test_a_boolean_may_stand_alone(void **state)
{
    (void)state;
    BEGIN("--a", "--b", "false", "--c", "true", "--d=0", "--e", "word");
    static const char *const want[] = { "true", "false", "true", "0", "true" };
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        assert_int_equal(args_next(&a), ARGS_OPTION);
        assert_string_equal(args_bool_value(&a), want[i]);
    }
    assert_int_equal(args_next(&a), ARGS_WORD);
}

static void
test_a_name_longer_than_any_is_shown_whole(void **state)
{
    (void)state;
    BEGIN("--this-is-an-option-with-a-name-that-is-longer-than-any-that-there-can-be=5", "-x");
    assert_int_equal(args_next(&a), ARGS_OPTION);
    assert_int_equal(args_unexpected(&a, ARGS_OPTION), CTL_USAGE);
    assert_non_null(strstr(said, "--this-is-an-option-with-a-name-that-is-longer-than-any-that-"
                                 "there-can-be=5 here"));
    said_nothing();
    assert_int_equal(args_next(&a), ARGS_OPTION);
    assert_int_equal(args_unexpected(&a, ARGS_OPTION), CTL_USAGE);
    assert_non_null(strstr(said, "no option -x here"));
}

static void
test_fingerprints_in_every_writing(void **state)
{
    (void)state;
    static const char text[] = "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:"
                               "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:0F";
    static const char *const good[] = {
        text,
        "SHA256:00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEE0F",
        "00112233445566778899aabbccddeeff00112233445566778899aabbccddee0f",
    };
    static const char *const bad[] = {
        "",
        "00",
        ":00112233445566778899aabbccddeeff00112233445566778899aabbccddee0f",
        "00112233445566778899aabbccddeeff00112233445566778899aabbccddee0",
        "00112233445566778899aabbccddeeff00112233445566778899aabbccddee0fa",
        "00112233445566778899aabbccddeeff00112233445566778899aabbccddeegg",
        "0:0112233445566778899aabbccddeeff00112233445566778899aabbccddee0f",
    };
    uint8_t sha256[TRUST_SIZE];
    char out[TRUST_TEXT_SIZE];
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(trust_read(good[i], sha256), 0);
        trust_text(sha256, out);
        assert_string_equal(out, text);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(trust_read(bad[i], sha256), -EINVAL);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words_options_and_values_come_in_order),
        cmocka_unit_test(test_a_value_may_look_like_an_option),
        cmocka_unit_test(test_missing_second_and_needless_values_are_told),
        cmocka_unit_test(test_a_boolean_may_stand_alone),
        cmocka_unit_test(test_a_name_longer_than_any_is_shown_whole),
        cmocka_unit_test(test_fingerprints_in_every_writing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
