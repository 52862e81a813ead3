/*
 * Tokens: what was made is accepted, anything else is not, and the form is
 * the one other programs read.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "services/authd/jwt.h"

static const uint8_t key[JWT_KEY_SIZE] = { 1, 2, 3 };
static const char *const permissions[] = { "SYS_ACCOUNT_RW", "APP_MQTT_RW" };

static struct jwt_claims
claims(void)
{
    return (struct jwt_claims){ .user_id = 1,
                                .session_id = 7,
                                .name = "admin",
                                .serial_number = "0123",
                                .permissions = permissions,
                                .n_permissions = 2,
                                .iat = 1795450917,
                                .exp = 1795537317,
                                .id = { 0xAB } };
}

static void
made_token_is_accepted_and_gives_its_subject(void **state)
{
    (void)state;
    char text[JWT_TEXT_MAX + 1];
    struct jwt_claims c = claims();
    struct jwt_subject s = { 0 };
    assert_int_equal(jwt_make(key, &c, text), 0);
    assert_int_equal(jwt_check(key, text, strlen(text), &s), 0);
    assert_int_equal(s.user_id, 1);
    assert_int_equal(s.session_id, 7);
    assert_string_equal(s.name, "admin");
}

static void
name_of_a_service_account_fits_and_a_longer_one_is_refused(void **state)
{
    (void)state;
    char text[JWT_TEXT_MAX + 1], name[JWT_NAME_SIZE + 1];
    struct jwt_claims c = claims();
    struct jwt_subject s;
    memset(name, 'n', sizeof(name));
    c.user_id = -1;
    c.session_id = 0;
    c.name = name;
    name[JWT_NAME_SIZE - 1] = '\0';
    assert_int_equal(jwt_make(key, &c, text), 0);
    assert_int_equal(jwt_check(key, text, strlen(text), &s), 0);
    assert_int_equal(s.user_id, -1);
    assert_string_equal(s.name, name);
    name[JWT_NAME_SIZE - 1] = 'n';
    name[JWT_NAME_SIZE] = '\0';
    assert_int_equal(jwt_make(key, &c, text), 0);
    assert_int_equal(jwt_check(key, text, strlen(text), &s), -EBADMSG);
}

static void
claims_are_the_documented_ones(void **state)
{
    (void)state;
    char text[JWT_TEXT_MAX + 1], json[JWT_TEXT_MAX];
    struct jwt_claims c = claims();
    size_t n;
    assert_int_equal(jwt_make(key, &c, text), 0);
    char *from = strchr(text, '.') + 1, *to = strrchr(text, '.');
    assert_int_equal(sodium_base642bin((unsigned char *)json, sizeof(json) - 1, from,
                                       (size_t)(to - from), NULL, &n, NULL,
                                       sodium_base64_VARIANT_URLSAFE_NO_PADDING),
                     0);
    json[n] = '\0';
    assert_string_equal(json,
                        "{\"UserID\":1,\"Name\":\"admin\",\"SerialNumber\":\"0123\","
                        "\"SessionID\":7,\"Permissions\":[\"SYS_ACCOUNT_RW\",\"APP_MQTT_RW\"],"
                        "\"iat\":1795450917,\"exp\":1795537317,"
                        "\"jti\":\"ab000000000000000000000000000000\"}");
}

static void
header_of_another_algorithm_is_refused(void **state)
{
    (void)state;
    struct jwt_subject s;
    /* {"alg":"none"} with claims {"UserID":1,"SessionID":7} and no signature. */
    static const char none[] = "eyJhbGciOiJub25lIn0.eyJVc2VySUQiOjEsIlNlc3Npb25JRCI6N30.";
    assert_int_equal(jwt_check(key, none, strlen(none), &s), -EBADMSG);
}

static void
every_changed_character_is_refused(void **state)
{
    (void)state;
    char text[JWT_TEXT_MAX + 1];
    struct jwt_claims c = claims();
    struct jwt_subject s;
    assert_int_equal(jwt_make(key, &c, text), 0);
    size_t len = strlen(text);
    for (size_t i = 0; i < len; i++) {
        char kept = text[i];
        for (const char *p = "AQgw.-_ "; *p; p++) {
            if (*p == kept)
                continue;
            text[i] = *p;
            assert_int_equal(jwt_check(key, text, len, &s), -EBADMSG);
        }
        text[i] = kept;
    }
    for (size_t n = 0; n < len; n++)
        assert_int_equal(jwt_check(key, text, n, &s), -EBADMSG);
}

static void
another_key_is_refused(void **state)
{
    (void)state;
    static const uint8_t other[JWT_KEY_SIZE] = { 1, 2, 4 };
    char text[JWT_TEXT_MAX + 1];
    struct jwt_claims c = claims();
    struct jwt_subject s;
    assert_int_equal(jwt_make(key, &c, text), 0);
    assert_int_equal(jwt_check(other, text, strlen(text), &s), -EBADMSG);
}

static void
claims_that_do_not_fit_are_an_error(void **state)
{
    (void)state;
    static char name[JWT_TEXT_MAX];
    char text[JWT_TEXT_MAX + 1];
    struct jwt_claims c = claims();
    memset(name, 'x', sizeof(name) - 1);
    c.name = name;
    assert_int_equal(jwt_make(key, &c, text), -E2BIG);
}

static void
tokens_of_one_session_differ_by_their_random_part(void **state)
{
    (void)state;
    char a[JWT_TEXT_MAX + 1], b[JWT_TEXT_MAX + 1];
    uint8_t hash_a[JWT_HASH_SIZE], hash_b[JWT_HASH_SIZE];
    struct jwt_claims c = claims();
    assert_int_equal(jwt_make(key, &c, a), 0);
    c.id[15] = 1;
    assert_int_equal(jwt_make(key, &c, b), 0);
    jwt_hash(a, strlen(a), hash_a);
    jwt_hash(b, strlen(b), hash_b);
    assert_memory_not_equal(hash_a, hash_b, sizeof(hash_a));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(made_token_is_accepted_and_gives_its_subject),
        cmocka_unit_test(name_of_a_service_account_fits_and_a_longer_one_is_refused),
        cmocka_unit_test(claims_are_the_documented_ones),
        cmocka_unit_test(header_of_another_algorithm_is_refused),
        cmocka_unit_test(every_changed_character_is_refused),
        cmocka_unit_test(another_key_is_refused),
        cmocka_unit_test(claims_that_do_not_fit_are_an_error),
        cmocka_unit_test(tokens_of_one_session_differ_by_their_random_part),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
