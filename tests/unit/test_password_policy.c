/*
 * The rules for new passwords, one by one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "services/authd/policy.h"

static const struct password_policy lax = { .length_min = 8 };

static void
good(const struct password_policy *policy, const char *password)
{
    assert_null(policy_refuses(policy, "admin", password));
}

static void
bad(const struct password_policy *policy, const char *password)
{
    assert_non_null(policy_refuses(policy, "admin", password));
}

static void
length_is_at_least_what_the_policy_says(void **state)
{
    (void)state;
    struct password_policy p = { .length_min = 10 };
    bad(&p, "123456789");
    good(&p, "1234567890");
}

static void
digit_is_asked_for(void **state)
{
    (void)state;
    struct password_policy p = { .length_min = 8, .at_least_one_digit = true };
    bad(&p, "password");
    good(&p, "passw0rd");
}

static void
special_character_is_asked_for(void **state)
{
    (void)state;
    struct password_policy p = { .length_min = 8, .at_least_one_special = true };
    bad(&p, "passw0rD");
    good(&p, "pass_w0rD");
}

static void
both_cases_are_asked_for(void **state)
{
    (void)state;
    struct password_policy p = { .length_min = 8, .mixed_upper_lower_letters = true };
    bad(&p, "password1");
    bad(&p, "PASSWORD1");
    good(&p, "Password1");
}

static void
known_passwords_are_refused_in_any_case(void **state)
{
    (void)state;
    bad(&lax, "admin@123");
    bad(&lax, "Admin@123");
    bad(&lax, "MOXAMOXA");
    good(&lax, "admin@1234");
}

static void
name_of_the_account_is_refused(void **state)
{
    (void)state;
    assert_non_null(policy_refuses(&lax, "operator1", "operator1"));
    assert_non_null(policy_refuses(&lax, "operator1", "Operator1"));
    assert_null(policy_refuses(&lax, "operator1", "operator12"));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(length_is_at_least_what_the_policy_says),
        cmocka_unit_test(digit_is_asked_for),
        cmocka_unit_test(special_character_is_asked_for),
        cmocka_unit_test(both_cases_are_asked_for),
        cmocka_unit_test(known_passwords_are_refused_in_any_case),
        cmocka_unit_test(name_of_the_account_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
