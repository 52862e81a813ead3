#include "services/authd/jwt.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "libcommon/json.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

/* {"alg":"HS256","typ":"JWT"} */
static const char header[] = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.";

enum {
    HEADER_LEN = sizeof(header) - 1,
    SIGNATURE_LEN = 43, /* 32 bytes in base64url without padding (RFC 4648 section 5) */
    CLAIMS_MAX = JWT_TEXT_MAX / 4 * 3,
};
_Static_assert(crypto_auth_hmacsha256_BYTES == 32, "HS256");
_Static_assert(crypto_auth_hmacsha256_KEYBYTES == JWT_KEY_SIZE, "key size");

static void
put_base64(struct buf *b, const void *bytes, size_t n)
{
    size_t size = sodium_base64_encoded_len(n, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    char *at = buf_reserve(b, size);
    if (!at)
        return;
    sodium_bin2base64(at, size, bytes, n, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    b->len += size - 1; /* the terminator is overwritten by what follows */
}

int
jwt_make(const uint8_t key[JWT_KEY_SIZE], const struct jwt_claims *claims,
         char ret_text[JWT_TEXT_MAX + 1])
{
    struct buf json, text;
    char id[2 * JWT_ID_SIZE + 1];
    sodium_bin2hex(id, sizeof(id), claims->id, sizeof(claims->id));

    buf_init(&json, CLAIMS_MAX);
    jw_open(&json, '{');
    jw_ki64(&json, "UserID", claims->user_id);
    jw_kstr(&json, "Name", claims->name);
    jw_kstr(&json, "SerialNumber", claims->serial_number);
    jw_ki64(&json, "SessionID", claims->session_id);
    jw_name(&json, "Permissions");
    jw_open(&json, '[');
    for (size_t i = 0; i < claims->n_permissions; i++)
        jw_str(&json, claims->permissions[i]);
    jw_close(&json, ']');
    jw_ki64(&json, "iat", claims->iat);
    jw_ki64(&json, "exp", claims->exp);
    jw_kstr(&json, "jti", id);
    jw_close(&json, '}');

    buf_init(&text, JWT_TEXT_MAX + 1);
    int r = json.err;
    if (r == 0) {
        uint8_t mac[crypto_auth_hmacsha256_BYTES];
        buf_puts(&text, header);
        put_base64(&text, json.data, json.len);
        if (!text.err)
            crypto_auth_hmacsha256(mac, (const uint8_t *)text.data, text.len, key);
        buf_putc(&text, '.');
        put_base64(&text, mac, sizeof(mac));
        r = text.err;
    }
    if (r == 0) {
        memcpy(ret_text, text.data, text.len);
        ret_text[text.len] = '\0';
        sodium_memzero(text.data, text.len);
    }
    if (json.data)
        sodium_memzero(json.data, json.len);
    buf_done(&json);
    buf_done(&text);
    return r;
}

static int
check_claims(const char *text, size_t len, struct jwt_subject *ret_subject)
{
    char json[CLAIMS_MAX + 1];
    size_t n = 0;
    if (sodium_base642bin((unsigned char *)json, sizeof(json), text, len, NULL, &n, NULL,
                          sodium_base64_VARIANT_URLSAFE_NO_PADDING) != 0)
        return -EBADMSG;
    CLEANUP(json_freep) struct cJSON *tree = NULL;
    struct json_error e;
    struct jwt_subject subject;
    int r = json_parse(json, n, &tree, &e);
    if (r < 0)
        return r == -ENOMEM ? r : -EBADMSG;
    const char *name = json_text(json_get(tree, "Name"));
    if (json_i64(json_get(tree, "UserID"), &subject.user_id) < 0 ||
        json_i64(json_get(tree, "SessionID"), &subject.session_id) < 0 || !name ||
        str_copy(subject.name, sizeof(subject.name), name) < 0)
        return -EBADMSG;
    *ret_subject = subject;
    return 0;
}

int
jwt_check(const uint8_t key[JWT_KEY_SIZE], const char *text, size_t len,
          struct jwt_subject *ret_subject)
{
    if (len > JWT_TEXT_MAX || len <= HEADER_LEN + 1 + SIGNATURE_LEN ||
        memcmp(text, header, HEADER_LEN) != 0)
        return -EBADMSG;
    size_t signed_len = len - SIGNATURE_LEN - 1;
    uint8_t mac[crypto_auth_hmacsha256_BYTES];
    size_t n = 0;
    if (text[signed_len] != '.' ||
        sodium_base642bin(mac, sizeof(mac), text + signed_len + 1, SIGNATURE_LEN, NULL, &n,
                          NULL, sodium_base64_VARIANT_URLSAFE_NO_PADDING) != 0 ||
        n != sizeof(mac))
        return -EBADMSG;
    /* The signature first: what follows parses only what this daemon wrote. */
    if (crypto_auth_hmacsha256_verify(mac, (const uint8_t *)text, signed_len, key) != 0)
        return -EBADMSG;
    return check_claims(text + HEADER_LEN, signed_len - HEADER_LEN, ret_subject);
}

void
jwt_hash(const char *text, size_t len, uint8_t ret_hash[JWT_HASH_SIZE])
{
    crypto_generichash(ret_hash, JWT_HASH_SIZE, (const uint8_t *)text, len, NULL, 0);
}
