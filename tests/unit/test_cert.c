/*
 * Records of certificates and keys: what was put comes back, what is cut is
 * refused; names, states, and what seals private keys.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libcommon/buf.h"
#include "libcommon/store.h"
#include "services/authd/cert.h"
#include "services/authd/record.h"
#include "services/authd/vault.h"

#define DAY_US (INT64_C(86400) * 1000000)

struct fixture {
    char dir[64], key_file[96];
    struct store *store;
    struct store_txn *txn;
};

static int
set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_true(sodium_init() >= 0);
    (void)snprintf(f->dir, sizeof(f->dir), "/tmp/fg-cert-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->key_file, sizeof(f->key_file), "%s/" VAULT_FILE, f->dir);
    assert_int_equal(store_open(f->dir, record_dbs, N_DBS, 1, NULL, &f->store), 0);
    assert_int_equal(store_begin(f->store, &f->txn), 0);
    *state = f;
    return 0;
}

static int
tear_down(void **state)
{
    struct fixture *f = *state;
    char command[128];
    store_abort(f->txn);
    store_close(f->store);
    (void)snprintf(command, sizeof(command), "rm -r %s", f->dir);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

static struct cert_record
record(uint64_t id)
{
    struct cert_record c = { .id = id,
                             .source = "mqtt-1",
                             .name = "gw.crt",
                             .is_system = true,
                             .told = CERT_EXPIRING,
                             .pem = "-----BEGIN",
                             .pem_len = 10 };
    cert_new_uuid(c.uuid);
    c.info.country.n = X509_VALUES_MAX;
    for (size_t i = 0; i < X509_VALUES_MAX; i++)
        (void)snprintf(c.info.country.text[i], X509_TEXT_SIZE, "C%zu", i);
    memset(c.info.issuer, 'i', X509_TEXT_SIZE - 1);
    c.info.not_before_us = -1;
    c.info.not_after_us = 100 * DAY_US;
    c.info.is_ca = true;
    memset(c.info.hash, 7, X509_HASH_SIZE);
    memset(c.info.key.hash, 8, X509_HASH_SIZE);
    return c;
}

static void
certificate_comes_back_by_its_uuid(void **state)
{
    struct fixture *f = *state;
    struct cert_record a = record(1), b = record(2), got;
    assert_int_equal(cert_put(f->txn, &a), 0);
    assert_int_equal(cert_put(f->txn, &b), 0);
    assert_int_equal(cert_by_uuid(f->txn, b.uuid, &got), STORE_OK);
    assert_int_equal(got.pem_len, b.pem_len);
    assert_memory_equal(got.pem, b.pem, b.pem_len);
    assert_int_equal(got.id, 2);
    assert_string_equal(got.source, b.source);
    assert_string_equal(got.name, b.name);
    assert_true(got.is_system && got.told == CERT_EXPIRING);
    assert_int_equal(got.info.country.n, X509_VALUES_MAX);
    assert_string_equal(got.info.country.text[3], "C3");
    assert_int_equal(got.info.state.n, 0);
    assert_string_equal(got.info.common_name, "");
    assert_string_equal(got.info.issuer, b.info.issuer);
    assert_int_equal(got.info.not_before_us, -1);
    assert_int_equal(got.info.not_after_us, b.info.not_after_us);
    assert_true(got.info.is_ca && !got.info.is_self_signed);
    assert_memory_equal(got.info.hash, b.info.hash, X509_HASH_SIZE);
    assert_memory_equal(got.info.key.hash, b.info.key.hash, X509_HASH_SIZE);
    assert_int_equal(cert_delete(f->txn, 2), STORE_OK);
    assert_int_equal(cert_by_uuid(f->txn, b.uuid, &got), STORE_NOT_FOUND);
    assert_int_equal(cert_by_uuid(f->txn, a.uuid, &got), STORE_OK);
}

static void
record_that_is_cut_is_refused(void **state)
{
    struct fixture *f = *state;
    struct cert_record a = record(1), got;
    uint8_t key[8];
    const void *value;
    size_t size;
    assert_int_equal(cert_put(f->txn, &a), 0);
    assert_int_equal(store_get(f->txn, DB_CERTS, store_key_u64(key, 1), 8, &value, &size), 0);
    for (size_t n = 0; n < size - a.pem_len; n++)
        assert_int_equal(cert_decode(value, n, &got), -EPROTO);
    struct secret_record s = { .id = 1, .source = "s", .name = "n", .box = "b", .box_size = 1 };
    struct secret_record back;
    cert_new_uuid(s.uuid);
    assert_int_equal(secret_put(f->txn, &s), 0);
    assert_int_equal(secret_by_uuid(f->txn, s.uuid, &back), STORE_OK);
    assert_int_equal(store_get(f->txn, DB_SECRETS, store_key_u64(key, 1), 8, &value, &size), 0);
    for (size_t n = 0; n < size - 1; n++)
        assert_int_equal(secret_decode(value, n, &back), -EPROTO);
}

static void
certificate_is_expiring_for_thirty_days_and_expired_after_its_last_moment(void **state)
{
    (void)state;
    struct cert_record c = record(1);
    int64_t end = c.info.not_after_us;
    assert_int_equal(cert_status(&c, end - 30 * DAY_US - 1), CERT_VALID);
    assert_int_equal(cert_status(&c, end - 30 * DAY_US), CERT_EXPIRING);
    assert_int_equal(cert_status(&c, end), CERT_EXPIRING);
    assert_int_equal(cert_status(&c, end + 1000000), CERT_EXPIRED);
    assert_int_equal(cert_status(&c, 0), CERT_VALID);
}

static void
names_are_short_text_without_control_characters(void **state)
{
    (void)state;
    char out[CERT_NAME_SIZE], longest[4 * 129 + 1] = "";
    for (int i = 0; i < 129; i++)
        memcpy(longest + 4 * i, "\xf0\x9f\x94\x91", 5); /* four bytes each */
    assert_int_equal(cert_name(out, longest, 4 * 128), 0);
    assert_int_equal(strlen(out), 4 * 128);
    assert_int_equal(cert_name(out, longest, 4 * 129), -EINVAL);
    assert_int_equal(cert_name(out, longest, 4 * 128 - 1), -EINVAL);
    assert_int_equal(cert_name(out, "", 0), -EINVAL);
    assert_int_equal(cert_name(out, "a\0b", 3), -EINVAL);
    assert_int_equal(cert_name(out, "a\x7f", 2), -EINVAL);
    assert_int_equal(cert_name(out, "a b", 3), 0);
}

static void
vault_fits_what_it_sealed_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    struct vault v = { NULL }, again = { NULL }, other = { NULL };
    struct stat st;
    struct buf a, b;
    buf_init(&a, 200);
    buf_init(&b, 200);
    assert_int_equal(vault_open(&v, f->dir), 0);
    assert_int_equal(stat(f->key_file, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    vault_seal(&v, "secret", 6, &a);
    vault_seal(&v, "secret", 6, &b);
    assert_int_equal(a.len, b.len);
    assert_memory_not_equal(a.data, b.data, a.len);
    assert_null(memmem(a.data, a.len, "secret", 6));
    assert_int_equal(vault_open(&again, f->dir), 0);
    assert_true(vault_fits(&again, a.data, a.len));
    for (size_t i = 0; i < a.len; i++) {
        a.data[i] ^= 1;
        assert_false(vault_fits(&v, a.data, a.len));
        a.data[i] ^= 1;
        assert_false(vault_fits(&v, a.data, i));
    }
    assert_int_equal(unlink(f->key_file), 0);
    assert_int_equal(vault_open(&other, f->dir), 0);
    assert_false(vault_fits(&other, a.data, a.len));
    vault_close(&v);
    assert_false(vault_fits(&v, a.data, a.len));
    vault_close(&again);
    vault_close(&other);
    buf_done(&a);
    buf_done(&b);
}

static void
file_that_is_no_key_stays_and_the_vault_closed(void **state)
{
    struct fixture *f = *state;
    struct vault v = { NULL };
    FILE *file = fopen(f->key_file, "we");
    assert_true(file != NULL && fputs("short", file) >= 0 && fclose(file) == 0);
    assert_int_equal(vault_open(&v, f->dir), -EPROTO);
    assert_false(vault_is_open(&v));
    struct stat st;
    assert_int_equal(stat(f->key_file, &st), 0);
    assert_int_equal(st.st_size, 5);
    assert_int_equal(vault_open(&v, "/no/such/directory"), -ENOENT);
}

static void
uuids_are_random_ones(void **state)
{
    (void)state;
    char a[CERT_UUID_SIZE], b[CERT_UUID_SIZE];
    cert_new_uuid(a);
    cert_new_uuid(b);
    assert_string_not_equal(a, b);
    assert_int_equal(strlen(a), 36);
    assert_int_equal(a[14], '4');
    assert_non_null(strchr("89ab", a[19]));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(certificate_comes_back_by_its_uuid, set_up, tear_down),
        cmocka_unit_test_setup_teardown(record_that_is_cut_is_refused, set_up, tear_down),
        cmocka_unit_test(
            certificate_is_expiring_for_thirty_days_and_expired_after_its_last_moment),
        cmocka_unit_test(names_are_short_text_without_control_characters),
        cmocka_unit_test_setup_teardown(vault_fits_what_it_sealed_and_nothing_else, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(file_that_is_no_key_stays_and_the_vault_closed, set_up,
                                        tear_down),
        cmocka_unit_test(uuids_are_random_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
