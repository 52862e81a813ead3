/*
 * Certificates and keys: what is good passes and is described, what is weak,
 * broken, mixed up or out of its time is refused with the reason. All of them
 * are made here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/x509.h"

enum { DAY = 24 * 3600, TEXT_MAX = 64 << 10 };
#define NOW_S INT64_C(1780272000) /* 2026-06-01T00:00:00Z */
#define NOW_US (NOW_S * 1000000)

struct text {
    char p[TEXT_MAX];
    size_t n;
};

static void
add(struct text *t, const char *more)
{
    size_t n = strlen(more);
    assert_true(t->n + n < sizeof(t->p));
    memcpy(t->p + t->n, more, n + 1);
    t->n += n;
}

static void
add_bio(struct text *t, BIO *bio)
{
    char *p;
    long n = BIO_get_mem_data(bio, &p);
    assert_true(n > 0 && t->n + (size_t)n < sizeof(t->p));
    memcpy(t->p + t->n, p, (size_t)n);
    t->n += (size_t)n;
    t->p[t->n] = '\0';
    BIO_free(bio);
}

static void
add_key(struct text *t, EVP_PKEY *key)
{
    BIO *bio = BIO_new(BIO_s_mem());
    assert_int_equal(PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL), 1);
    add_bio(t, bio);
}

static void
add_old_key(struct text *t, EVP_PKEY *key)
{
    BIO *bio = BIO_new(BIO_s_mem());
    assert_int_equal(PEM_write_bio_PrivateKey_traditional(bio, key, NULL, NULL, 0, NULL, NULL),
                     1);
    add_bio(t, bio);
}

static void
add_cert(struct text *t, X509 *x)
{
    BIO *bio = BIO_new(BIO_s_mem());
    assert_int_equal(PEM_write_bio_X509(bio, x), 1);
    add_bio(t, bio);
}

static EVP_PKEY *
curve(const char *name)
{
    EVP_PKEY *key = EVP_EC_gen(name);
    assert_non_null(key);
    return key;
}

static EVP_PKEY *
rsa(unsigned bits)
{
    EVP_PKEY *key = EVP_RSA_gen(bits);
    assert_non_null(key);
    return key;
}

static EVP_PKEY *
named(const char *kind)
{
    EVP_PKEY *key = NULL;
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, kind, NULL);
    assert_true(EVP_PKEY_keygen_init(ctx) == 1 && EVP_PKEY_keygen(ctx, &key) == 1);
    EVP_PKEY_CTX_free(ctx);
    return key;
}

static EVP_PKEY *
dsa(void)
{
    EVP_PKEY *params = NULL, *key = NULL;
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "DSA", NULL);
    unsigned bits = 1024;
    const OSSL_PARAM set[] = { OSSL_PARAM_uint("pbits", &bits), OSSL_PARAM_END };
    assert_true(EVP_PKEY_paramgen_init(ctx) == 1 && EVP_PKEY_CTX_set_params(ctx, set) == 1 &&
                EVP_PKEY_paramgen(ctx, &params) == 1);
    EVP_PKEY_CTX_free(ctx);
    ctx = EVP_PKEY_CTX_new_from_pkey(NULL, params, NULL);
    assert_true(EVP_PKEY_keygen_init(ctx) == 1 && EVP_PKEY_keygen(ctx, &key) == 1);
    EVP_PKEY_CTX_free(ctx);
    EVP_PKEY_free(params);
    return key;
}

/* Of a certificate to be made; zeros mean: self-signed, SHA-256, valid around NOW. */
struct spec {
    const char *cn;
    EVP_PKEY *key, *issuer_key;
    X509 *issuer;
    const EVP_MD *md;
    bool no_md; /* Ed25519 hashes by itself */
    bool ca;
    long from_s, to_s; /* relative to NOW_S */
};

static X509 *
make(const struct spec *s)
{
    X509 *x = X509_new();
    X509_NAME *name = X509_get_subject_name(x);
    const EVP_MD *md = s->no_md ? NULL : s->md != NULL ? s->md : EVP_sha256();
    static const char *const parts[][2] = { { "C", "TW" },
                                            { "ST", "Taipei" },
                                            { "L", "Neihu" },
                                            { "O", "Fieldgate" },
                                            { "O", "Zweite Ä" } };
    X509_set_version(x, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 7);
    ASN1_TIME_set(X509_getm_notBefore(x), (time_t)(NOW_S + (s->from_s ? s->from_s : -DAY)));
    ASN1_TIME_set(X509_getm_notAfter(x), (time_t)(NOW_S + (s->to_s ? s->to_s : 90 * DAY)));
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        assert_int_equal(X509_NAME_add_entry_by_txt(name, parts[i][0], MBSTRING_UTF8,
                                                    (const unsigned char *)parts[i][1], -1, -1,
                                                    0),
                         1);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)s->cn, -1, -1,
                               0);
    X509_set_issuer_name(x, s->issuer != NULL ? X509_get_subject_name(s->issuer) : name);
    X509_set_pubkey(x, s->key);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints,
                                              s->ca ? "critical,CA:TRUE" : "CA:FALSE");
    X509_add_ext(x, ext, -1);
    X509_EXTENSION_free(ext);
    assert_true(X509_sign(x, s->issuer_key != NULL ? s->issuer_key : s->key, md) > 0);
    return x;
}

static void
add_made(struct text *t, const struct spec *s)
{
    X509 *x = make(s);
    add_cert(t, x);
    X509_free(x);
}

static void
assert_certs(const struct text *t, int outcome, const char *reason_part)
{
    struct x509_info info;
    char reason[X509_REASON_SIZE] = "";
    int r = x509_check_certs(t->p, t->n, NOW_US, &info, reason);
    if (r != outcome || (reason_part != NULL && strstr(reason, reason_part) == NULL))
        fail_msg("outcome %d, reason: %s; wanted %d, %s", r, reason, outcome,
                 reason_part ? reason_part : "");
}

static void
assert_key(const struct text *t, int outcome, const char *reason_part)
{
    struct x509_key_info info;
    char reason[X509_REASON_SIZE] = "";
    int r = x509_check_key(t->p, t->n, &info, reason);
    if (r != outcome || (reason_part != NULL && strstr(reason, reason_part) == NULL))
        fail_msg("outcome %d, reason: %s; wanted %d, %s", r, reason, outcome,
                 reason_part ? reason_part : "");
}

static struct text out, other; /* too large for the stack */

static void
fresh(void)
{
    out.n = other.n = 0;
    out.p[0] = other.p[0] = '\0';
}

static void
certificate_is_described(void **state)
{
    (void)state;
    struct x509_info info;
    char reason[X509_REASON_SIZE];
    EVP_PKEY *key = curve("P-256");
    fresh();
    add_made(&out, &(struct spec){ .cn = "gw-1", .key = key, .ca = true });
    assert_int_equal(x509_check_certs(out.p, out.n, NOW_US, &info, reason), X509_OK);
    assert_string_equal(info.common_name, "gw-1");
    assert_string_equal(info.issuer, "gw-1");
    assert_int_equal(info.country.n, 1);
    assert_string_equal(info.country.text[0], "TW");
    assert_string_equal(info.state.text[0], "Taipei");
    assert_string_equal(info.locality.text[0], "Neihu");
    assert_int_equal(info.organization.n, 2);
    assert_string_equal(info.organization.text[1], "Zweite Ä");
    assert_int_equal(info.not_before_us, NOW_US - INT64_C(1000000) * DAY);
    assert_int_equal(info.not_after_us, NOW_US + INT64_C(1000000) * 90 * DAY);
    assert_true(info.is_ca && info.is_self_signed);
    assert_int_equal(info.n_certs, 1);
    assert_string_equal(info.signature, "ecdsa-with-SHA256");
    assert_int_equal(info.key.kind, X509_KEY_EC);
    assert_int_equal(info.key.bits, 256);
    EVP_PKEY_free(key);
}

static void
good_keys_of_all_kinds_pair_with_their_certificates(void **state)
{
    (void)state;
    EVP_PKEY *keys[] = { rsa(2048),      named("RSA-PSS"),   curve("P-224"),   curve("P-256"),
                         curve("P-384"), curve("secp256k1"), named("ED25519"), named("ED448") };
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        struct x509_info info;
        struct x509_key_info key_info;
        char reason[X509_REASON_SIZE] = "";
        fresh();
        add_made(&out, &(struct spec){ .cn = "x", .key = keys[i], .no_md = i >= 6 });
        add_key(&other, keys[i]);
        if (x509_check_pair(out.p, out.n, other.p, other.n, NOW_US, &info, reason) != X509_OK)
            fail_msg("key %zu: %s", i, reason);
        assert_int_equal(x509_check_key(other.p, other.n, &key_info, reason), X509_OK);
        assert_memory_equal(key_info.hash, info.key.hash, X509_HASH_SIZE);
        EVP_PKEY_free(keys[i]);
    }
}

static void
old_forms_of_keys_are_read(void **state)
{
    (void)state;
    EVP_PKEY *ec = curve("P-256"), *big = rsa(2048);
    fresh();
    add(&out, "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n");
    add_old_key(&out, ec);
    assert_key(&out, X509_OK, NULL);
    add_old_key(&other, big);
    assert_non_null(strstr(other.p, "BEGIN RSA PRIVATE KEY"));
    assert_key(&other, X509_OK, NULL);
    EVP_PKEY_free(ec);
    EVP_PKEY_free(big);
}

static void
assert_weak_key(EVP_PKEY *key, const char *reason)
{
    fresh();
    add_key(&out, key);
    assert_key(&out, X509_REFUSED, reason);
    fresh();
    add_made(&out, &(struct spec){ .cn = "weak", .key = key });
    assert_certs(&out, X509_REFUSED, reason);
    EVP_PKEY_free(key);
}

static void
weak_keys_are_refused(void **state)
{
    (void)state;
    assert_weak_key(rsa(1024), "1024 bits, an RSA key needs 2048 to ");
    assert_weak_key(curve("prime192v1"), "192 bits, an elliptic curve key needs 224");
    assert_weak_key(dsa(), "is DSA, which is too weak");
    EVP_PKEY *unnamed = curve("P-256");
    assert_int_equal(EVP_PKEY_set_utf8_string_param(unnamed, OSSL_PKEY_PARAM_EC_ENCODING,
                                                    OSSL_PKEY_EC_ENCODING_EXPLICIT),
                     1);
    assert_weak_key(unnamed, "has no named curve");
}

/* 'exponent' in hex: the public one. */
static EVP_PKEY *
odd_rsa(int bits, int primes, const char *exponent)
{
    EVP_PKEY *key = NULL;
    BIGNUM *e = NULL;
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
    assert_true(BN_hex2bn(&e, exponent) > 0);
    assert_true(
        EVP_PKEY_keygen_init(ctx) == 1 && EVP_PKEY_CTX_set_rsa_keygen_bits(ctx, bits) == 1 &&
        EVP_PKEY_CTX_set_rsa_keygen_primes(ctx, primes) == 1 &&
        EVP_PKEY_CTX_set1_rsa_keygen_pubexp(ctx, e) == 1 && EVP_PKEY_keygen(ctx, &key) == 1);
    EVP_PKEY_CTX_free(ctx);
    BN_free(e);
    return key;
}

/* A certificate is only verified, so its key may be longer. */
static void
private_key_of_rsa_is_at_most_4096_bits(void **state)
{
    (void)state;
    EVP_PKEY *key = odd_rsa(4104, 4, "10001"); /* four are found sooner than two long ones */
    fresh();
    add_key(&out, key);
    assert_key(&out, X509_REFUSED, "4104 bits, an RSA key needs 2048 to 4096");
    fresh();
    add_made(&out, &(struct spec){ .cn = "long", .key = key });
    assert_certs(&out, X509_OK, NULL);
    EVP_PKEY_free(key);
}

static const char bits_65[] = "10000000000000001";

/* OpenSSL computes as long as the numbers of a file are: minutes, in 64 KiB. */
static void
rsa_that_would_only_keep_us_busy_is_refused(void **state)
{
    (void)state;
    static const char bits_64[] = "8000000000000001";
    EVP_PKEY *key = odd_rsa(2048, 3, "10001");
    fresh();
    add_old_key(&out, key);
    assert_key(&out, X509_REFUSED, "the key has more than two primes");
    EVP_PKEY_free(key);
    assert_weak_key(odd_rsa(2048, 2, bits_65), "a public exponent of more than 64 bits");
    key = odd_rsa(2048, 2, bits_64);
    fresh();
    add_key(&out, key);
    assert_key(&out, X509_OK, NULL);
    EVP_PKEY_free(key);
}

static void
what_is_slow_to_verify_is_described_unverified(void **state)
{
    (void)state;
    struct x509_info info;
    char reason[X509_REASON_SIZE];
    EVP_PKEY *key = odd_rsa(2048, 2, bits_65);
    fresh();
    add_made(&out, &(struct spec){ .cn = "slow", .key = key });
    assert_int_equal(x509_read_certs(out.p, out.n, &info, reason), X509_OK);
    assert_string_equal(info.common_name, "slow");
    assert_false(info.is_self_signed);
    EVP_PKEY_free(key);
}

static void
key_that_cannot_sign_is_refused(void **state)
{
    (void)state;
    EVP_PKEY *key = named("X25519");
    fresh();
    add_key(&out, key);
    assert_key(&out, X509_REFUSED, "is not RSA, elliptic curve or Ed25519");
    EVP_PKEY_free(key);
}

static void
encrypted_key_is_refused_and_nobody_is_asked(void **state)
{
    (void)state;
    EVP_PKEY *key = rsa(2048);
    char password[] = "secret";
    fresh();
    BIO *bio = BIO_new(BIO_s_mem());
    PEM_write_bio_PKCS8PrivateKey(bio, key, EVP_aes_128_cbc(), password, 6, NULL, NULL);
    add_bio(&out, bio);
    assert_key(&out, X509_REFUSED, "the key is encrypted");
    bio = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey_traditional(bio, key, EVP_aes_128_cbc(), (unsigned char *)password,
                                         6, NULL, NULL);
    add_bio(&other, bio);
    assert_non_null(strstr(other.p, "Proc-Type: 4,ENCRYPTED"));
    assert_key(&other, X509_REFUSED, "the key is encrypted");
    /* The same under the label of a plain key. */
    fresh();
    bio = BIO_new(BIO_s_mem());
    PEM_write_bio_PKCS8PrivateKey(bio, key, EVP_aes_128_cbc(), password, 6, NULL, NULL);
    add_bio(&other, bio);
    add(&out, "-----BEGIN PRIVATE KEY-----\n");
    *strstr(other.p, "-----END") = '\0';
    add(&out, strchr(other.p, '\n') + 1);
    add(&out, "-----END PRIVATE KEY-----\n");
    assert_key(&out, X509_REFUSED, "no private key of a known kind");
    EVP_PKEY_free(key);
}

static void
key_whose_numbers_do_not_belong_together_is_refused(void **state)
{
    (void)state;
    EVP_PKEY *a = curve("P-256"), *b = curve("P-256"), *mixed = NULL;
    unsigned char point[65];
    size_t n;
    BIGNUM *secret = NULL;
    assert_int_equal(EVP_PKEY_get_bn_param(a, OSSL_PKEY_PARAM_PRIV_KEY, &secret), 1);
    assert_int_equal(
        EVP_PKEY_get_octet_string_param(b, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof(point), &n),
        1);
    OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME, "P-256", 0);
    OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_PRIV_KEY, secret);
    OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, point, n);
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(build);
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
    assert_true(EVP_PKEY_fromdata_init(ctx) == 1 &&
                EVP_PKEY_fromdata(ctx, &mixed, EVP_PKEY_KEYPAIR, params) == 1);
    fresh();
    add_key(&out, mixed);
    assert_key(&out, X509_REFUSED, "do not belong together");
    EVP_PKEY_CTX_free(ctx);
    OSSL_PARAM_free(params);
    OSSL_PARAM_BLD_free(build);
    BN_free(secret);
    EVP_PKEY_free(a);
    EVP_PKEY_free(b);
    EVP_PKEY_free(mixed);
}

static void
key_of_another_certificate_is_refused(void **state)
{
    (void)state;
    struct x509_info info;
    char reason[X509_REASON_SIZE];
    EVP_PKEY *a = curve("P-256"), *b = curve("P-256"), *c = rsa(2048);
    EVP_PKEY *wrong[] = { b, c };
    for (size_t i = 0; i < 2; i++) {
        fresh();
        add_made(&out, &(struct spec){ .cn = "a", .key = a });
        add_key(&other, wrong[i]);
        assert_int_equal(x509_check_pair(out.p, out.n, other.p, other.n, NOW_US, &info, reason),
                         X509_REFUSED);
        assert_string_equal(reason, "the key is not the certificate's");
    }
    EVP_PKEY_free(a);
    EVP_PKEY_free(b);
    EVP_PKEY_free(c);
}

static void
files_of_keys_hold_one_key_and_nothing_else(void **state)
{
    (void)state;
    EVP_PKEY *key = curve("P-256");
    fresh();
    add_key(&out, key);
    size_t whole = out.n;
    add(&out, " \r\n\n");
    assert_key(&out, X509_OK, NULL);
    add(&out, "x");
    assert_key(&out, X509_REFUSED, "something follows the key");
    out.n = whole;
    add_key(&out, key);
    assert_key(&out, X509_REFUSED, "more than one key");
    out.n = whole;
    add_made(&out, &(struct spec){ .cn = "a", .key = key });
    assert_key(&out, X509_REFUSED, "the key file holds a CERTIFICATE");
    out.n = whole / 2;
    assert_key(&out, X509_REFUSED, "cut off or damaged");
    out.n = 0;
    assert_key(&out, X509_REFUSED, "is empty");
    fresh();
    add(&out, "no key");
    assert_key(&out, X509_REFUSED, "no private key in the file");
    out.p[1] = '\0';
    assert_key(&out, X509_REFUSED, "no text");
    out.n = X509_PEM_MAX + 1;
    assert_key(&out, X509_REFUSED, "more than 65536 bytes");
    EVP_PKEY_free(key);
}

static void
key_may_stand_among_certificates_where_that_is_asked(void **state)
{
    (void)state;
    char reason[X509_REASON_SIZE];
    EVP_PKEY *key = curve("P-256");
    fresh();
    add_key(&out, key);
    add_made(&out, &(struct spec){ .cn = "gw", .key = key });
    assert_key(&out, X509_REFUSED, "the key file holds a CERTIFICATE");
    assert_int_equal(x509_check_key_among(out.p, out.n, reason), X509_OK);
    add_key(&out, key);
    assert_int_equal(x509_check_key_among(out.p, out.n, reason), X509_REFUSED);
    assert_non_null(strstr(reason, "more than one key"));
    EVP_PKEY_free(key);
}

static void
files_of_certificates_hold_certificates_and_nothing_else(void **state)
{
    (void)state;
    EVP_PKEY *key = curve("P-256");
    fresh();
    add(&out, "Certificate:\n  Data: what openssl x509 -text writes\n");
    add_made(&out, &(struct spec){ .cn = "a", .key = key });
    size_t whole = out.n;
    assert_certs(&out, X509_OK, NULL);
    add(&out, "x");
    assert_certs(&out, X509_REFUSED, "something follows the last certificate");
    out.n = whole;
    add_key(&out, key);
    assert_certs(&out, X509_REFUSED, "a private key is in the certificate file");
    /* A key's lines that are no boundaries must not pass as text. */
    fresh();
    add(&out, " -----BEGIN PRIVATE KEY-----\nMIGH\n -----END PRIVATE KEY-----\n");
    add_made(&out, &(struct spec){ .cn = "a", .key = key });
    assert_certs(&out, X509_REFUSED, "cut off or damaged");
    fresh();
    add_made(&out, &(struct spec){ .cn = "a", .key = key });
    out.n -= 30;
    assert_certs(&out, X509_REFUSED, "cut off or damaged");
    fresh();
    add(&out, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert_certs(&out, X509_REFUSED, "certificate 1: no X.509 certificate");
    fresh();
    add(&out, "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n");
    assert_certs(&out, X509_REFUSED, "between its lines is damaged");
    fresh();
    add(&out, "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    assert_certs(&out, X509_REFUSED, "holds a X509 CRL");
    fresh();
    add(&out, "hello\n");
    assert_certs(&out, X509_REFUSED, "no certificate in the file");
    EVP_PKEY_free(key);
}

static void
bytes_behind_a_certificate_in_its_block_are_refused(void **state)
{
    (void)state;
    EVP_PKEY *key = curve("P-256");
    X509 *x = make(&(struct spec){ .cn = "a", .key = key });
    unsigned char der[4096], *p = der;
    int n = i2d_X509(x, &p);
    der[n] = 0;
    BIO *bio = BIO_new(BIO_s_mem());
    fresh();
    PEM_write_bio(bio, "CERTIFICATE", "", der, n + 1);
    add_bio(&out, bio);
    assert_certs(&out, X509_REFUSED, "certificate 1: no X.509 certificate");
    X509_free(x);
    EVP_PKEY_free(key);
}

static void
chain_is_accepted_in_order_only(void **state)
{
    (void)state;
    struct x509_info info;
    char reason[X509_REASON_SIZE];
    EVP_PKEY *k[3] = { curve("P-256"), curve("P-256"), rsa(2048) };
    X509 *root = make(&(struct spec){ .cn = "root", .key = k[2], .ca = true });
    X509 *mid = make(&(struct spec){
        .cn = "mid", .key = k[1], .issuer = root, .issuer_key = k[2], .ca = true });
    X509 *leaf =
        make(&(struct spec){ .cn = "leaf", .key = k[0], .issuer = mid, .issuer_key = k[1] });
    X509 *forged =
        make(&(struct spec){ .cn = "leaf", .key = k[0], .issuer = mid, .issuer_key = k[0] });
    X509 *below_leaf =
        make(&(struct spec){ .cn = "x", .key = k[0], .issuer = leaf, .issuer_key = k[0] });
    fresh();
    add_cert(&out, leaf);
    add_cert(&out, mid);
    add_cert(&out, root);
    assert_int_equal(x509_check_certs(out.p, out.n, NOW_US, &info, reason), X509_OK);
    assert_int_equal(info.n_certs, 3);
    assert_string_equal(info.issuer, "mid");
    assert_false(info.is_self_signed || info.is_ca);
    fresh();
    add_cert(&out, leaf);
    add_cert(&out, root);
    add_cert(&out, mid);
    assert_certs(&out, X509_REFUSED, "certificate 1 was not issued by certificate 2");
    fresh();
    add_cert(&out, forged);
    add_cert(&out, mid);
    assert_certs(&out, X509_REFUSED, "certificate 1 was not signed by certificate 2");
    fresh();
    add_cert(&out, below_leaf);
    add_cert(&out, leaf);
    assert_certs(&out, X509_REFUSED, "certificate 2 may not issue others");
    fresh();
    for (int i = 0; i <= X509_CERTS_MAX; i++)
        add_cert(&out, root);
    assert_certs(&out, X509_REFUSED, "more than 8 certificates");
    X509_free(root);
    X509_free(mid);
    X509_free(leaf);
    X509_free(forged);
    X509_free(below_leaf);
    for (int i = 0; i < 3; i++)
        EVP_PKEY_free(k[i]);
}

static void
weak_signatures_are_refused_except_of_the_self_signed(void **state)
{
    (void)state;
    EVP_PKEY *ca_key = rsa(2048), *key = curve("P-256");
    const EVP_MD *weak[] = { EVP_md5(), EVP_sha1() };
    static const char *const names[] = { "md5WithRSAEncryption", "sha1WithRSAEncryption" };
    for (size_t i = 0; i < 2; i++) {
        X509 *root =
            make(&(struct spec){ .cn = "root", .key = ca_key, .ca = true, .md = weak[i] });
        fresh();
        add_cert(&out, root);
        assert_certs(&out, X509_OK, NULL);
        fresh();
        add_made(&out, &(struct spec){ .cn = "leaf",
                                       .key = key,
                                       .issuer = root,
                                       .issuer_key = ca_key,
                                       .md = weak[i] });
        assert_certs(&out, X509_REFUSED, names[i]);
        /* Its own name as issuer, another's key: not self-signed. */
        fresh();
        add_made(&out, &(struct spec){ .cn = "root",
                                       .key = key,
                                       .issuer = root,
                                       .issuer_key = ca_key,
                                       .md = weak[i] });
        assert_certs(&out, X509_REFUSED, "is too weak");
        X509_free(root);
    }
    EVP_PKEY_free(ca_key);
    EVP_PKEY_free(key);
}

static void
time_is_judged_by_the_clock_that_is_given(void **state)
{
    (void)state;
    struct x509_info info;
    char reason[X509_REASON_SIZE];
    EVP_PKEY *key = curve("P-256");
    const int64_t day_us = INT64_C(1000000) * DAY;
    fresh();
    add_made(&out, &(struct spec){ .cn = "a", .key = key });
    assert_int_equal(x509_check_certs(out.p, out.n, NOW_US - day_us, &info, reason), X509_OK);
    assert_int_equal(x509_check_certs(out.p, out.n, NOW_US - day_us - 1, &info, reason),
                     X509_OUT_OF_DATE);
    assert_int_equal(x509_check_certs(out.p, out.n, 0, &info, reason), X509_OUT_OF_DATE);
    assert_string_equal(reason, "certificate 1: not valid before 2026-05-31T00:00:00Z, the "
                                "device's clock says 1970-01-01T00:00:00Z");
    int64_t last_us = NOW_US + 90 * day_us;
    assert_int_equal(x509_check_certs(out.p, out.n, last_us, &info, reason), X509_OK);
    assert_int_equal(x509_check_certs(out.p, out.n, last_us + 1000000, &info, reason),
                     X509_OUT_OF_DATE);
    assert_string_equal(reason, "certificate 1: expired at 2026-08-30T00:00:00Z, the "
                                "device's clock says 2026-08-30T00:00:01Z");
    /* Reading does not judge. */
    assert_int_equal(x509_read_certs(out.p, out.n, &info, reason), X509_OK);
    EVP_PKEY_free(key);
}

static void
reading_tells_of_weak_ones_too(void **state)
{
    (void)state;
    struct x509_info info;
    char reason[X509_REASON_SIZE];
    EVP_PKEY *key = rsa(1024);
    fresh();
    add_made(&out, &(struct spec){ .cn = "old", .key = key, .md = EVP_sha1() });
    assert_int_equal(x509_read_certs(out.p, out.n, &info, reason), X509_OK);
    assert_int_equal(info.key.bits, 1024);
    assert_string_equal(info.signature, "sha1WithRSAEncryption");
    EVP_PKEY_free(key);
}

static void
long_names_are_cut_between_characters(void **state)
{
    (void)state;
    struct x509_info info;
    char reason[X509_REASON_SIZE], bmp[2 * 200];
    EVP_PKEY *key = curve("P-256");
    X509 *x = X509_new();
    for (size_t i = 0; i < sizeof(bmp); i += 2) { /* U+4E2D, three bytes in UTF-8 */
        bmp[i] = 0x4E;
        bmp[i + 1] = 0x2D;
    }
    X509_NAME *name = X509_get_subject_name(x);
    X509_NAME_ENTRY *e = X509_NAME_ENTRY_create_by_NID(NULL, NID_commonName, V_ASN1_BMPSTRING,
                                                       (unsigned char *)bmp, sizeof(bmp));
    assert_non_null(e);
    X509_NAME_add_entry(name, e, -1, 0);
    X509_NAME_ENTRY_free(e);
    X509_set_issuer_name(x, name);
    ASN1_TIME_set(X509_getm_notBefore(x), (time_t)NOW_S);
    ASN1_TIME_set(X509_getm_notAfter(x), (time_t)NOW_S + DAY);
    X509_set_pubkey(x, key);
    assert_true(X509_sign(x, key, EVP_sha256()) > 0);
    fresh();
    add_cert(&out, x);
    assert_int_equal(x509_read_certs(out.p, out.n, &info, reason), X509_OK);
    assert_int_equal(strlen(info.common_name), 255);
    X509_free(x);
    EVP_PKEY_free(key);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(certificate_is_described),
        cmocka_unit_test(good_keys_of_all_kinds_pair_with_their_certificates),
        cmocka_unit_test(old_forms_of_keys_are_read),
        cmocka_unit_test(weak_keys_are_refused),
        cmocka_unit_test(private_key_of_rsa_is_at_most_4096_bits),
        cmocka_unit_test(rsa_that_would_only_keep_us_busy_is_refused),
        cmocka_unit_test(what_is_slow_to_verify_is_described_unverified),
        cmocka_unit_test(key_that_cannot_sign_is_refused),
        cmocka_unit_test(encrypted_key_is_refused_and_nobody_is_asked),
        cmocka_unit_test(key_whose_numbers_do_not_belong_together_is_refused),
        cmocka_unit_test(key_of_another_certificate_is_refused),
        cmocka_unit_test(files_of_keys_hold_one_key_and_nothing_else),
        cmocka_unit_test(key_may_stand_among_certificates_where_that_is_asked),
        cmocka_unit_test(files_of_certificates_hold_certificates_and_nothing_else),
        cmocka_unit_test(bytes_behind_a_certificate_in_its_block_are_refused),
        cmocka_unit_test(chain_is_accepted_in_order_only),
        cmocka_unit_test(weak_signatures_are_refused_except_of_the_self_signed),
        cmocka_unit_test(time_is_judged_by_the_clock_that_is_given),
        cmocka_unit_test(reading_tells_of_weak_ones_too),
        cmocka_unit_test(long_names_are_cut_between_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
