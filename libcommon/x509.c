#include "libcommon/x509.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

enum { SECURITY_BITS_MIN = 112, LABEL_SIZE = 40 };

struct certs {
    X509 *all[X509_CERTS_MAX];
    unsigned n;
};

static void
certs_done(struct certs *c)
{
    for (unsigned i = 0; i < c->n; i++)
        X509_free(c->all[i]);
    ERR_clear_error();
}

static void
keyp_free(EVP_PKEY **key)
{
    EVP_PKEY_free(*key);
    ERR_clear_error();
}

static int PRINTF_LIKE(2, 3) refuse(char reason[X509_REASON_SIZE], const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(reason, X509_REASON_SIZE, fmt, args); /* a long name may be cut */
    va_end(args);
    reason[utf8_cut(reason, strlen(reason), X509_REASON_SIZE - 1)] = '\0';
    return X509_REFUSED;
}

/* ---- PEM: blocks with a label, text between them ---- */

struct block {
    char label[LABEL_SIZE];
    const char *begin; /* "-----BEGIN" */
    size_t len;        /* to the end of the "-----END" line */
};

/* "-----<word> <label>-----" at the beginning of a line; white space may follow. */
static bool
read_boundary(const char *line, size_t len, const char *word, char label[LABEL_SIZE])
{
    static const char dashes[] = "-----";
    size_t n_dashes = sizeof(dashes) - 1, n_word = strlen(word);
    while (len > 0 && strchr(" \t\r", line[len - 1]) != NULL)
        len--;
    if (len < 2 * n_dashes + n_word + 1 || memcmp(line, dashes, n_dashes) != 0 ||
        memcmp(line + n_dashes, word, n_word) != 0 || line[n_dashes + n_word] != ' ' ||
        memcmp(line + len - n_dashes, dashes, n_dashes) != 0)
        return false;
    size_t from = n_dashes + n_word + 1;
    return from <= len - n_dashes &&
           str_copy_len(label, LABEL_SIZE, line + from, len - n_dashes - from) == 0;
}

static size_t
line_len(const char *at, const char *end)
{
    const char *stop = memchr(at, '\n', (size_t)(end - at));
    return (size_t)((stop != NULL ? stop : end) - at);
}

static const char *
next_line(const char *at, const char *end)
{
    size_t n = line_len(at, end);
    return at + n < end ? at + n + 1 : end;
}

static bool
is_blank(const char *at, const char *end)
{
    while (at < end && strchr(" \t\r\n", *at) != NULL)
        at++;
    return at == end;
}

enum { BLOCK_FOUND, BLOCK_NONE, BLOCK_BROKEN };

/* The next block from '*at' on, which moves behind it. */
static int
next_block(const char **at, const char *end, struct block *ret_block)
{
    char label[LABEL_SIZE];
    const char *p = *at;
    while (p < end && !read_boundary(p, line_len(p, end), "BEGIN", ret_block->label)) {
        /* Not a block that we would take for text, and hand on with a key in it. */
        if (memmem(p, line_len(p, end), "-----", 5) != NULL)
            return BLOCK_BROKEN;
        p = next_line(p, end);
    }
    if (p == end)
        return BLOCK_NONE;
    ret_block->begin = p;
    do {
        p = next_line(p, end);
        if (p == end || read_boundary(p, line_len(p, end), "BEGIN", label))
            return BLOCK_BROKEN;
    } while (!read_boundary(p, line_len(p, end), "END", label));
    *at = next_line(p, end);
    ret_block->len = (size_t)(*at - ret_block->begin);
    return str_eq(label, ret_block->label) ? BLOCK_FOUND : BLOCK_BROKEN;
}

/* The bytes inside; '*ret_encrypted' as the header of an old key says. 0 or X509_REFUSED. */
static int
decode_block(const struct block *b, unsigned char **ret_der, long *ret_len, bool *ret_encrypted)
{
    char *name = NULL, *header = NULL;
    BIO *bio = BIO_new_mem_buf(b->begin, (int)b->len);
    if (bio == NULL)
        return -ENOMEM;
    int ok = PEM_read_bio(bio, &name, &header, ret_der, ret_len);
    BIO_free(bio);
    if (ok == 1)
        *ret_encrypted = strstr(header, "ENCRYPTED") != NULL;
    OPENSSL_free(name);
    OPENSSL_free(header);
    return ok == 1 ? 0 : X509_REFUSED;
}

static int
check_text(const char *pem, size_t len, const char *what, char reason[X509_REASON_SIZE])
{
    if (len == 0)
        return refuse(reason, "the %s file is empty", what);
    if (len > X509_PEM_MAX)
        return refuse(reason, "the %s file has more than %d bytes", what, X509_PEM_MAX);
    if (memchr(pem, '\0', len) != NULL)
        return refuse(reason, "the %s file is no text (PEM)", what);
    return 0;
}

/* ---- certificates ---- */

static int
add_cert(struct certs *c, const struct block *b, char reason[X509_REASON_SIZE])
{
    unsigned char *der = NULL;
    long len = 0;
    bool encrypted = false;
    unsigned number = c->n + 1;
    if (c->n == X509_CERTS_MAX)
        return refuse(reason, "more than %d certificates in one file", X509_CERTS_MAX);
    int r = decode_block(b, &der, &len, &encrypted);
    if (r < 0)
        return r;
    if (r != 0)
        return refuse(reason, "certificate %u: the text between its lines is damaged", number);
    const unsigned char *p = der;
    X509 *x = d2i_X509(NULL, &p, len);
    bool whole = x != NULL && p == der + len;
    OPENSSL_free(der);
    if (!whole) {
        X509_free(x);
        return refuse(reason, "certificate %u: no X.509 certificate", number);
    }
    c->all[c->n++] = x;
    return 0;
}

static int
parse_certs(const char *pem, size_t len, struct certs *c, char reason[X509_REASON_SIZE])
{
    const char *at = pem, *end = pem + len;
    struct block b;
    int r = check_text(pem, len, "certificate", reason), found = BLOCK_FOUND;
    while (r == 0 && !is_blank(at, end) && (found = next_block(&at, end, &b)) == BLOCK_FOUND) {
        if (strstr(b.label, "PRIVATE KEY") != NULL)
            r = refuse(reason, "a private key is in the certificate file");
        else if (!str_eq(b.label, "CERTIFICATE"))
            r = refuse(reason, "the certificate file holds a %s", b.label);
        else
            r = add_cert(c, &b, reason);
    }
    if (r != 0)
        return r;
    if (found == BLOCK_BROKEN)
        return refuse(reason, "the certificate file is cut off or damaged");
    if (c->n == 0)
        return refuse(reason, "no certificate in the file");
    return found == BLOCK_NONE
               ? refuse(reason, "something follows the last certificate of the file")
               : 0;
}

/* ---- keys ---- */

static EVP_PKEY *
decode_pkcs8(const unsigned char **p, long len)
{
    PKCS8_PRIV_KEY_INFO *info = d2i_PKCS8_PRIV_KEY_INFO(NULL, p, len);
    EVP_PKEY *key = info != NULL ? EVP_PKCS82PKEY(info) : NULL;
    PKCS8_PRIV_KEY_INFO_free(info);
    return key;
}

/* By its label, so that no guess leads to a form that asks for a passphrase. */
static EVP_PKEY *
decode_key(const char *label, const unsigned char *der, long len)
{
    const unsigned char *p = der;
    EVP_PKEY *key = NULL;
    if (str_eq(label, "PRIVATE KEY"))
        key = decode_pkcs8(&p, len);
    else if (str_eq(label, "RSA PRIVATE KEY"))
        key = d2i_PrivateKey(EVP_PKEY_RSA, NULL, &p, len);
    else if (str_eq(label, "EC PRIVATE KEY"))
        key = d2i_PrivateKey(EVP_PKEY_EC, NULL, &p, len);
    if (key != NULL && p != der + len) {
        EVP_PKEY_free(key);
        key = NULL;
    }
    return key;
}

static int
add_key(const struct block *b, EVP_PKEY **key, char reason[X509_REASON_SIZE])
{
    unsigned char *der = NULL;
    long len = 0;
    bool encrypted = str_eq(b->label, "ENCRYPTED PRIVATE KEY");
    if (*key != NULL)
        return refuse(reason, "more than one key in the file");
    if (str_eq(b->label, "DSA PRIVATE KEY"))
        return refuse(reason, "a DSA key is too weak");
    int r = encrypted ? 0 : decode_block(b, &der, &len, &encrypted);
    if (r < 0)
        return r;
    if (encrypted)
        r = refuse(reason, "the key is encrypted: store it without a passphrase");
    else if (r != 0)
        r = refuse(reason, "the text between the key's lines is damaged");
    else if ((*key = decode_key(b->label, der, len)) == NULL)
        r = refuse(reason, "no private key of a known kind");
    OPENSSL_clear_free(der, (size_t)len);
    return r;
}

/* What the file may hold besides its key. */
enum company { KEY_ALONE, KEY_WITH_CERTS };

static bool
is_company(enum company allowed, const char *label)
{
    return str_eq(label, "EC PARAMETERS") || /* which openssl ecparam writes before the key */
           (allowed == KEY_WITH_CERTS && str_eq(label, "CERTIFICATE"));
}

static int
parse_key(const char *pem, size_t len, enum company allowed, EVP_PKEY **key,
          char reason[X509_REASON_SIZE])
{
    const char *at = pem, *end = pem + len;
    struct block b;
    int r = check_text(pem, len, "key", reason), found = BLOCK_FOUND;
    while (r == 0 && !is_blank(at, end) && (found = next_block(&at, end, &b)) == BLOCK_FOUND) {
        if (strstr(b.label, "PRIVATE KEY") != NULL)
            r = add_key(&b, key, reason);
        else if (!is_company(allowed, b.label))
            r = refuse(reason, "the key file holds a %s", b.label);
    }
    if (r != 0)
        return r;
    if (found == BLOCK_BROKEN)
        return refuse(reason, "the key file is cut off or damaged");
    if (*key == NULL)
        return refuse(reason, "no private key in the file");
    return found == BLOCK_NONE ? refuse(reason, "something follows the key in its file") : 0;
}

static bool
curve_is_named(const EVP_PKEY *key)
{
    char name[64];
    size_t n;
    int explicit_parameters = 1;
    return EVP_PKEY_get_group_name(key, name, sizeof(name), &n) == 1 &&
           EVP_PKEY_get_int_param(key, OSSL_PKEY_PARAM_EC_DECODED_FROM_EXPLICIT_PARAMS,
                                  &explicit_parameters) == 1 &&
           explicit_parameters == 0;
}

static enum x509_key_kind
key_kind(const EVP_PKEY *key)
{
    switch (EVP_PKEY_get_base_id(key)) {
    case EVP_PKEY_RSA:
    case EVP_PKEY_RSA_PSS:
        return X509_KEY_RSA;
    case EVP_PKEY_EC:
        return X509_KEY_EC;
    case EVP_PKEY_ED25519:
    case EVP_PKEY_ED448:
        return X509_KEY_ED;
    default:
        return X509_KEY_OTHER;
    }
}

/* Verifying takes a step for each bit of the public exponent; in use are 2, 17 and 32. */
static bool
exponent_is_short(const EVP_PKEY *key)
{
    BIGNUM *e = NULL;
    bool is_short = EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_E, &e) == 1 &&
                    BN_num_bits(e) <= X509_RSA_EXPONENT_BITS_MAX;
    BN_free(e);
    return is_short;
}

/* 'whose' begins the reason: "the key", "certificate 2: its key". */
static int
judge_key(const EVP_PKEY *key, int rsa_bits_max, const char *whose,
          char reason[X509_REASON_SIZE])
{
    int bits = EVP_PKEY_get_bits(key);
    switch (key_kind(key)) {
    case X509_KEY_RSA:
        if (bits < X509_RSA_BITS_MIN || bits > rsa_bits_max)
            return refuse(reason, "%s has %d bits, an RSA key needs %d to %d", whose, bits,
                          X509_RSA_BITS_MIN, rsa_bits_max);
        return exponent_is_short(key)
                   ? 0
                   : refuse(reason, "%s has a public exponent of more than %d bits", whose,
                            X509_RSA_EXPONENT_BITS_MAX);
    case X509_KEY_EC:
        if (bits < X509_EC_BITS_MIN)
            return refuse(reason, "%s has %d bits, an elliptic curve key needs %d", whose, bits,
                          X509_EC_BITS_MIN);
        return curve_is_named(key) ? 0 : refuse(reason, "%s has no named curve", whose);
    case X509_KEY_ED:
        return 0;
    case X509_KEY_OTHER:
        break;
    }
    if (EVP_PKEY_get_base_id(key) == EVP_PKEY_DSA)
        return refuse(reason, "%s is DSA, which is too weak", whose);
    return refuse(reason, "%s is not RSA, elliptic curve or Ed25519", whose);
}

/*
 * Numbers of a private key that are longer than the modulus would only keep us
 * busy: OpenSSL computes with whatever is there. More primes than two
 * (RFC 8017 3.2) are in no use, and theirs would have to be looked at, too.
 */
static bool
rsa_is_bounded(const EVP_PKEY *key)
{
    static const char *const names[] = {
        OSSL_PKEY_PARAM_RSA_D,         OSSL_PKEY_PARAM_RSA_FACTOR1,
        OSSL_PKEY_PARAM_RSA_FACTOR2,   OSSL_PKEY_PARAM_RSA_EXPONENT1,
        OSSL_PKEY_PARAM_RSA_EXPONENT2, OSSL_PKEY_PARAM_RSA_COEFFICIENT1
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        BIGNUM *n = NULL;
        bool fits = EVP_PKEY_get_bn_param(key, names[i], &n) == 1 &&
                    BN_num_bits(n) <= EVP_PKEY_get_bits(key);
        BN_clear_free(n);
        if (!fits)
            return false;
    }
    return true;
}

static bool
rsa_has_two_primes(const EVP_PKEY *key)
{
    BIGNUM *third = NULL;
    bool has_third = EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_FACTOR3, &third) == 1;
    BN_clear_free(third);
    return !has_third;
}

/* Whether what 'key' signs is right for 'public_key'. */
static bool
signs_for(EVP_PKEY *key, EVP_PKEY *public_key)
{
    static const unsigned char message[] = "fieldgate";
    unsigned char signature[X509_RSA_KEY_BITS_MAX / 8];
    size_t n = sizeof(signature);
    EVP_MD_CTX *sign = EVP_MD_CTX_new(), *verify = EVP_MD_CTX_new();
    bool ok = sign != NULL && verify != NULL &&
              EVP_DigestSignInit(sign, NULL, NULL, NULL, key) == 1 &&
              EVP_DigestSign(sign, signature, &n, message, sizeof(message)) == 1 &&
              EVP_DigestVerifyInit(verify, NULL, NULL, NULL, public_key) == 1 &&
              EVP_DigestVerify(verify, signature, n, message, sizeof(message)) == 1;
    EVP_MD_CTX_free(sign);
    EVP_MD_CTX_free(verify);
    return ok;
}

static int
check_key(const char *pem, size_t len, enum company allowed, EVP_PKEY **ret_key,
          char reason[X509_REASON_SIZE])
{
    int r = parse_key(pem, len, allowed, ret_key, reason);
    if (r == 0)
        r = judge_key(*ret_key, X509_RSA_KEY_BITS_MAX, "the key", reason);
    if (r != 0)
        return r;
    bool is_rsa = key_kind(*ret_key) == X509_KEY_RSA;
    if (is_rsa && !rsa_has_two_primes(*ret_key))
        return refuse(reason, "the key has more than two primes");
    if ((is_rsa && !rsa_is_bounded(*ret_key)) || !signs_for(*ret_key, *ret_key))
        return refuse(reason, "the numbers of the key do not belong together");
    return 0;
}

/* ---- what they say ---- */

static int
describe_key(const EVP_PKEY *key, struct x509_key_info *ret_info)
{
    unsigned char *der = NULL;
    unsigned n = 0;
    int len = i2d_PUBKEY(key, &der);
    if (len <= 0)
        return -ENOMEM;
    *ret_info = (struct x509_key_info){ .kind = key_kind(key),
                                        .bits = (unsigned)EVP_PKEY_get_bits(key) };
    int ok = EVP_Digest(der, (size_t)len, ret_info->hash, &n, EVP_sha256(), NULL);
    OPENSSL_free(der);
    return ok == 1 ? 0 : -ENOMEM;
}

/* The value of a kind that follows the one at '*at'. False: no more, or one that is no text. */
static bool
next_value(const X509_NAME *name, int nid, int *at, char out[X509_TEXT_SIZE])
{
    unsigned char *text = NULL;
    *at = X509_NAME_get_index_by_NID(name, nid, *at);
    if (*at < 0)
        return false;
    int n =
        ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, *at)));
    bool ok = n >= 0 && memchr(text, '\0', (size_t)n) == NULL &&
              str_copy_len(out, X509_TEXT_SIZE, (const char *)text,
                           utf8_cut((const char *)text, (size_t)n, X509_TEXT_SIZE - 1)) == 0;
    OPENSSL_free(text);
    return ok;
}

static void
read_values(const X509_NAME *name, int nid, struct x509_values *ret_values)
{
    int at = -1;
    ret_values->n = 0;
    while (ret_values->n < X509_VALUES_MAX &&
           next_value(name, nid, &at, ret_values->text[ret_values->n]))
        ret_values->n++;
}

static void
read_value(const X509_NAME *name, int nid, char out[X509_TEXT_SIZE])
{
    int at = -1;
    if (!next_value(name, nid, &at, out))
        out[0] = '\0';
}

/* False: no time that RFC 5280 4.1.2.5 knows. */
static bool
read_time(const ASN1_TIME *t, int64_t *ret_us)
{
    struct tm tm;
    if (ASN1_TIME_to_tm(t, &tm) != 1)
        return false;
    *ret_us = (int64_t)timegm(&tm) * 1000000;
    return true;
}

static int
describe(X509 *x, struct x509_info *ret_info, char reason[X509_REASON_SIZE])
{
    struct x509_info *i = ret_info;
    const X509_NAME *subject = X509_get_subject_name(x), *issuer = X509_get_issuer_name(x);
    const EVP_PKEY *key = X509_get0_pubkey(x);
    unsigned n = 0;
    if (key == NULL)
        return refuse(reason, "certificate 1: the public key is of an unknown kind");
    if (!read_time(X509_get0_notBefore(x), &i->not_before_us) ||
        !read_time(X509_get0_notAfter(x), &i->not_after_us))
        return refuse(reason, "certificate 1: its validity is no time");
    read_values(subject, NID_countryName, &i->country);
    read_values(subject, NID_stateOrProvinceName, &i->state);
    read_values(subject, NID_localityName, &i->locality);
    read_values(subject, NID_organizationName, &i->organization);
    read_value(subject, NID_commonName, i->common_name);
    read_value(issuer, NID_commonName, i->issuer);
    if (i->issuer[0] == '\0')
        read_value(issuer, NID_organizationName, i->issuer);
    (void)OBJ_obj2txt(i->signature, sizeof(i->signature),
                      OBJ_nid2obj(X509_get_signature_nid(x)), 0); /* "UNDEF" at worst */
    i->is_ca = X509_check_ca(x) == 1;
    /* Not judged yet: what would take long to verify counts as signed by somebody else. */
    bool is_quick = key_kind(key) != X509_KEY_RSA || exponent_is_short(key);
    i->is_self_signed = is_quick && X509_self_signed(x, 1) == 1;
    if (X509_digest(x, EVP_sha256(), i->hash, &n) != 1)
        return -ENOMEM;
    return describe_key(key, &i->key);
}

int
x509_read_certs(const char *pem, size_t len, struct x509_info *ret_info,
                char ret_reason[X509_REASON_SIZE])
{
    CLEANUP(certs_done) struct certs c = { .n = 0 };
    struct x509_info info = { 0 };
    int r = parse_certs(pem, len, &c, ret_reason);
    if (r == 0)
        r = describe(c.all[0], &info, ret_reason);
    if (r != 0)
        return r;
    info.n_certs = c.n;
    *ret_info = info;
    return X509_OK;
}

/* ---- judging certificates ---- */

static int
judge_signature(X509 *x, unsigned number, char reason[X509_REASON_SIZE])
{
    int bits = 0;
    if (X509_self_signed(x, 1) == 1)
        return 0;
    if (X509_get_signature_info(x, NULL, NULL, &bits, NULL) != 1)
        return refuse(reason, "certificate %u: its signature is of an unknown kind", number);
    if (bits < SECURITY_BITS_MIN)
        return refuse(reason, "certificate %u: its signature (%s) is too weak", number,
                      OBJ_nid2ln(X509_get_signature_nid(x)));
    return 0;
}

static int
judge_time(const X509 *x, unsigned number, int64_t now_us, char reason[X509_REASON_SIZE])
{
    int64_t from_us, to_us;
    char limit[CLOCK_TEXT_SIZE], now[CLOCK_TEXT_SIZE];
    if (!read_time(X509_get0_notBefore(x), &from_us) ||
        !read_time(X509_get0_notAfter(x), &to_us))
        return refuse(reason, "certificate %u: its validity is no time", number);
    if (now_us >= from_us && now_us <= to_us + 999999) /* its last second is good */
        return 0;
    clock_format(now_us, 0, now);
    clock_format(now_us < from_us ? from_us : to_us, 0, limit);
    (void)refuse(reason, "certificate %u: %s %s, the device's clock says %s", number,
                 now_us < from_us ? "not valid before" : "expired at", limit, now);
    return X509_OUT_OF_DATE;
}

/* That certificate number + 1 issued certificate 'number'. */
static int
judge_issuer(X509 *x, X509 *issuer, unsigned number, char reason[X509_REASON_SIZE])
{
    if (X509_check_issued(issuer, x) != X509_V_OK)
        return refuse(reason, "certificate %u was not issued by certificate %u, which follows",
                      number, number + 1);
    if (X509_check_ca(issuer) != 1)
        return refuse(reason, "certificate %u may not issue others", number + 1);
    if (X509_verify(x, X509_get0_pubkey(issuer)) != 1)
        return refuse(reason, "certificate %u was not signed by certificate %u", number,
                      number + 1);
    return 0;
}

static int
judge_cert(const struct certs *c, unsigned i, int64_t now_us, char reason[X509_REASON_SIZE])
{
    char whose[40];
    X509 *x = c->all[i];
    EVP_PKEY *key = X509_get0_pubkey(x);
    (void)snprintf(whose, sizeof(whose), "certificate %u: its key", i + 1); /* fits */
    if (key == NULL)
        return refuse(reason, "%s is of an unknown kind", whose);
    int r = judge_key(key, X509_RSA_BITS_MAX, whose, reason);
    if (r == 0)
        r = judge_signature(x, i + 1, reason);
    return r == 0 ? judge_time(x, i + 1, now_us, reason) : r;
}

/* The keys first: nothing is verified with one that could take long. */
static int
check_certs(const char *pem, size_t len, int64_t now_us, struct certs *c,
            struct x509_info *ret_info, char reason[X509_REASON_SIZE])
{
    int r = parse_certs(pem, len, c, reason);
    for (unsigned i = 0; r == 0 && i < c->n; i++)
        r = judge_cert(c, i, now_us, reason);
    for (unsigned i = 0; r == 0 && i + 1 < c->n; i++)
        r = judge_issuer(c->all[i], c->all[i + 1], i + 1, reason);
    if (r == 0)
        r = describe(c->all[0], ret_info, reason);
    ret_info->n_certs = c->n;
    return r;
}

int
x509_check_certs(const char *pem, size_t len, int64_t now_us, struct x509_info *ret_info,
                 char ret_reason[X509_REASON_SIZE])
{
    CLEANUP(certs_done) struct certs c = { .n = 0 };
    struct x509_info info = { 0 };
    int r = check_certs(pem, len, now_us, &c, &info, ret_reason);
    if (r == 0)
        *ret_info = info;
    return r;
}

int
x509_check_key(const char *pem, size_t len, struct x509_key_info *ret_info,
               char ret_reason[X509_REASON_SIZE])
{
    CLEANUP(keyp_free) EVP_PKEY *key = NULL;
    int r = check_key(pem, len, KEY_ALONE, &key, ret_reason);
    return r == 0 ? describe_key(key, ret_info) : r;
}

int
x509_check_key_among(const char *pem, size_t len, char ret_reason[X509_REASON_SIZE])
{
    CLEANUP(keyp_free) EVP_PKEY *key = NULL;
    return check_key(pem, len, KEY_WITH_CERTS, &key, ret_reason);
}

int
x509_check_pair(const char *cert_pem, size_t cert_len, const char *key_pem, size_t key_len,
                int64_t now_us, struct x509_info *ret_info, char ret_reason[X509_REASON_SIZE])
{
    CLEANUP(certs_done) struct certs c = { .n = 0 };
    CLEANUP(keyp_free) EVP_PKEY *key = NULL;
    struct x509_info info = { 0 };
    int r = check_certs(cert_pem, cert_len, now_us, &c, &info, ret_reason);
    if (r == 0)
        r = check_key(key_pem, key_len, KEY_ALONE, &key, ret_reason);
    if (r == 0 && EVP_PKEY_eq(X509_get0_pubkey(c.all[0]), key) != 1)
        r = refuse(ret_reason, "the key is not the certificate's");
    if (r == 0)
        *ret_info = info;
    return r;
}
