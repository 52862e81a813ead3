/*
 * authd's records: what was put is what is got, what is cut is refused; and
 * the bits that permissions of add-ons have.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "services/authd/permission.h"
#include "services/authd/record.h"

struct fixture {
    char dir[64];
    struct store *store;
    struct store_txn *txn;
};

static int
setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    (void)snprintf(f->dir, sizeof(f->dir), "/tmp/test_authd_record.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    assert_int_equal(store_open(f->dir, record_dbs, N_DBS, 1, NULL, &f->store), 0);
    assert_int_equal(store_begin(f->store, &f->txn), 0);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    char command[96];
    store_abort(f->txn);
    store_close(f->store);
    (void)snprintf(command, sizeof(command), "rm -r '%s'", f->dir);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

static struct service_record
service(const char *name, uint64_t addons, uint64_t required)
{
    struct service_record s = {
        .id = 3, .created_us = 17, .addons = addons, .required = required
    };
    (void)snprintf(s.name, sizeof(s.name), "%s", name);
    memset(s.display_name, 'd', sizeof(s.display_name) - 1);
    memset(s.token_hash, 0xEE, sizeof(s.token_hash));
    return s;
}

static void
service_is_got_as_it_was_put(void **state)
{
    struct fixture *f = *state;
    struct service_record got, made;
    char name[RECORD_SERVICE_NAME_SIZE];
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    made = service(name, UINT64_C(1) << 63, UINT64_MAX);
    assert_int_equal(service_put(f->txn, &made), 0);
    assert_int_equal(service_get(f->txn, name, &got), STORE_OK);
    assert_int_equal(got.id, 3);
    assert_string_equal(got.name, made.name);
    assert_string_equal(got.display_name, made.display_name);
    assert_int_equal(got.created_us, 17);
    assert_true(got.addons == made.addons && got.required == made.required);
    assert_memory_equal(got.token_hash, made.token_hash, sizeof(got.token_hash));
    assert_int_equal(service_delete(f->txn, name), STORE_OK);
    assert_int_equal(service_get(f->txn, name, &got), STORE_NOT_FOUND);
}

static void
cut_or_longer_record_is_refused(void **state)
{
    struct fixture *f = *state;
    struct service_record s = service("x", 0, 1), got;
    uint8_t bytes[1024];
    const void *value;
    size_t size;
    assert_int_equal(service_put(f->txn, &s), 0);
    assert_int_equal(store_get(f->txn, DB_SERVICES, "x", 1, &value, &size), STORE_OK);
    assert_true(size < sizeof(bytes));
    memset(bytes, 0, sizeof(bytes));
    memcpy(bytes, value, size);
    for (size_t n = 0; n < size; n++)
        assert_int_equal(service_decode(bytes, n, &got), -EPROTO);
    assert_int_equal(service_decode(bytes, size, &got), STORE_OK);
    assert_int_equal(service_decode(bytes, size + 1, &got), -EPROTO);
}

static void
session_keeps_its_tokens_and_one_from_before_there_were_any_is_read(void **state)
{
    struct fixture *f = *state;
    struct session_record s = { .id = 9, .user_id = 2, .addr = "::1", .n_tokens = 2 }, got;
    uint8_t bytes[1024], key[8];
    const void *value;
    size_t size;
    memset(s.tokens[1].hash, 0xAB, sizeof(s.tokens[1].hash));
    s.tokens[1].end_us = -1;
    assert_int_equal(session_put(f->txn, &s), 0);
    assert_int_equal(store_get(f->txn, DB_SESSIONS, store_key_u64(key, 9), 8, &value, &size),
                     STORE_OK);
    assert_true(size < sizeof(bytes));
    memcpy(bytes, value, size);
    assert_int_equal(session_decode(bytes, size, &got), STORE_OK);
    assert_int_equal(got.n_tokens, 2);
    assert_memory_equal(got.tokens[1].hash, s.tokens[1].hash, sizeof(s.tokens[1].hash));
    assert_int_equal(got.tokens[1].end_us, -1);
    size_t old = size - 1 - 2 * (RECORD_TOKEN_HASH_SIZE + 8);
    for (size_t n = 0; n < size; n++)
        assert_int_equal(session_decode(bytes, n, &got), n == old ? STORE_OK : -EPROTO);
    assert_int_equal(session_decode(bytes, old, &got), STORE_OK);
    assert_int_equal(got.n_tokens, 0);
    bytes[old] = SESSION_TOKENS_MAX + 1;
    assert_int_equal(session_decode(bytes, size, &got), -EPROTO);
}

/* Tables came later than the first version, whose schema is still the one. */
static void
store_of_the_first_version_is_completed(void **state)
{
    struct fixture *f = *state;
    static const char *const first[] = { "users", "user-names", "roles", "sessions",
                                         "locks", "config",     "key",   "outbox" };
    struct user_record user = { .id = 1, .name = "admin" }, got;
    struct service_record made = service("s", 0, 0), found;
    uint64_t known;
    char dir[80];
    struct store *store = NULL;
    struct store_txn *txn = NULL;
    (void)snprintf(dir, sizeof(dir), "%s/first", f->dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(store_open(dir, first, 8, 1, NULL, &store), 0);
    assert_int_equal(store_begin(store, &txn), 0);
    assert_int_equal(user_put(txn, &user), 0); /* its tables are the first here, too */
    assert_int_equal(store_commit(txn), 0);
    store_close(store);
    assert_int_equal(store_open(dir, record_dbs, N_DBS, 1, NULL, &store), 0);
    assert_int_equal(store_begin(store, &txn), 0);
    assert_int_equal(user_by_name(txn, "admin", &got), STORE_OK);
    assert_int_equal(service_get(txn, "s", &found), STORE_NOT_FOUND);
    assert_int_equal(service_put(txn, &made), 0);
    assert_int_equal(service_get(txn, "s", &found), STORE_OK);
    assert_int_equal(permission_known(txn, &known), 0);
    assert_true(known == permission_builtin);
    store_abort(txn);
    store_close(store);
}

/* ---- add-ons ---- */

static unsigned
add(struct fixture *f, const char *id)
{
    unsigned bit = 0;
    assert_int_equal(addon_put(f->txn, id, "name", &bit), 0);
    return bit;
}

static void
addon_has_one_bit_of_its_own(void **state)
{
    struct fixture *f = *state;
    unsigned bit = add(f, "APP_A_RW"), other = add(f, "APP_B_RW"), found;
    assert_in_range(bit, ADDON_BIT_FIRST, 63);
    assert_in_range(other, ADDON_BIT_FIRST, 63);
    assert_int_not_equal(bit, other);
    assert_int_equal(add(f, "APP_A_RW"), bit);
    assert_int_equal(permission_find(f->txn, "APP_B_RW", &found), STORE_OK);
    assert_int_equal(found, other);
    assert_int_equal(permission_find(f->txn, "APP_MQTT_RW", &found), STORE_OK);
    assert_true(found < ADDON_BIT_FIRST);
    assert_int_equal(permission_find(f->txn, "APP_C_RW", &found), STORE_NOT_FOUND);
    struct addon_record record;
    assert_int_equal(addon_by_bit(f->txn, other, &record), STORE_OK);
    assert_string_equal(record.id, "APP_B_RW");
    assert_int_equal(addon_by_bit(f->txn, 63, &record), STORE_NOT_FOUND);
}

static void
bits_are_as_many_as_there_are_and_then_it_is_told(void **state)
{
    struct fixture *f = *state;
    uint64_t taken = 0;
    for (int i = 0; i < ADDONS_MAX; i++) {
        char id[ADDON_ID_SIZE];
        (void)snprintf(id, sizeof(id), "APP_N%d_RW", i);
        taken |= UINT64_C(1) << add(f, id);
    }
    assert_true(taken == ADDON_BITS);
    unsigned bit = 7;
    assert_int_equal(addon_put(f->txn, "APP_MORE_RW", "", &bit), ADDON_TOO_MANY);
    assert_int_equal(bit, 7);
}

static void
bit_is_free_again_when_nobody_brings_or_holds_it(void **state)
{
    struct fixture *f = *state;
    uint64_t known;
    unsigned found, bit = add(f, "APP_A_RW");
    uint64_t mask = UINT64_C(1) << bit;
    struct service_record owner = service("owner", mask, 0),
                          holder = service("holder", 0, mask);
    struct role_record role = { .id = 5, .name = "r", .permissions = mask };
    assert_int_equal(service_put(f->txn, &owner), 0);
    assert_int_equal(service_put(f->txn, &holder), 0);
    assert_int_equal(role_put(f->txn, &role), 0);
    assert_int_equal(addons_settle(f->txn), 0);
    assert_int_equal(permission_known(f->txn, &known), 0);
    assert_true(known == (permission_builtin | mask));
    /* Without its owner it gives nothing, but others keep its number. */
    assert_int_equal(service_delete(f->txn, "owner"), STORE_OK);
    assert_int_equal(addons_settle(f->txn), 0);
    assert_int_equal(permission_known(f->txn, &known), 0);
    assert_true(known == permission_builtin);
    assert_int_not_equal(add(f, "APP_B_RW"), bit);
    assert_int_equal(service_delete(f->txn, "holder"), STORE_OK);
    assert_int_equal(addons_settle(f->txn), 0);
    assert_int_equal(permission_find(f->txn, "APP_A_RW", &found), STORE_OK);
    assert_int_equal(found, bit);
    assert_int_equal(role_delete(f->txn, 5), STORE_OK);
    assert_int_equal(addons_settle(f->txn), 0);
    assert_int_equal(permission_find(f->txn, "APP_A_RW", &found), STORE_NOT_FOUND);
    assert_int_equal(add(f, "APP_C_RW"), bit);
}

static void
addon_whose_bit_is_out_of_range_cannot_be_read(void **state)
{
    struct fixture *f = *state;
    unsigned bit;
    for (unsigned bad = 0; bad < 256; bad++) {
        const char value[] = { (char)bad, 0, 1, 'n' };
        assert_int_equal(store_put(f->txn, DB_ADDONS, "APP_A_RW", 8, value, sizeof(value)), 0);
        bool good = bad >= ADDON_BIT_FIRST && bad < 64;
        assert_int_equal(permission_find(f->txn, "APP_A_RW", &bit), good ? STORE_OK : -EPROTO);
    }
}

static void
ids_of_addons_have_their_form(void **state)
{
    (void)state;
    assert_true(addon_id_is_valid("APP_X_RW"));
    assert_true(addon_id_is_valid("APP_MY_APP_2_RW"));
    assert_true(addon_id_is_valid("APP_AAAAAAAAAAAAAAAAAAAAAAAAA_RW"));
    static const char *const bad[] = { "",
                                       "APP_RW",
                                       "APP__RW",
                                       "APP_X_R",
                                       "SYS_X_RW",
                                       "APP_x_RW",
                                       "APP_X-RW",
                                       "APP_MQTT_RW",
                                       "APP_X_RW ",
                                       "APP_\xc3\x84_RW",
                                       "APP_AAAAAAAAAAAAAAAAAAAAAAAAAA_RW" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(addon_id_is_valid(bad[i]));
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(store_of_the_first_version_is_completed),
        TEST(service_is_got_as_it_was_put),
        TEST(cut_or_longer_record_is_refused),
        TEST(session_keeps_its_tokens_and_one_from_before_there_were_any_is_read),
        TEST(addon_has_one_bit_of_its_own),
        TEST(bits_are_as_many_as_there_are_and_then_it_is_told),
        TEST(bit_is_free_again_when_nobody_brings_or_holds_it),
        TEST(addon_whose_bit_is_out_of_range_cannot_be_read),
        TEST(ids_of_addons_have_their_form),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
