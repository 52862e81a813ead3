/*
 * Whatever bytes come as a token: refused, unless this key signed them. The
 * same bytes are then signed as claims, which reaches the parser behind the
 * signature: it must refuse or read them, and no more.
 */
#include <errno.h>
#include <sodium.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "libcommon/base.h"
#include "services/authd/jwt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char header[] = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.";

static size_t
put_base64(char *out, size_t out_size, const uint8_t *bytes, size_t n)
{
    sodium_bin2base64(out, out_size, bytes, n, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    return strlen(out);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t key[JWT_KEY_SIZE] = { 42 };
    static char text[2 * JWT_TEXT_MAX];
    uint8_t mac[crypto_auth_hmacsha256_BYTES];
    struct jwt_subject subject;
    if (sodium_init() < 0)
        return 0;
    MUST(jwt_check(key, (const char *)data, size, &subject) == -EBADMSG);
    if (size > JWT_TEXT_MAX)
        return 0;
    size_t len = sizeof(header) - 1;
    memcpy(text, header, len);
    len += put_base64(text + len, sizeof(text) - len, data, size);
    crypto_auth_hmacsha256(mac, (const uint8_t *)text, len, key);
    text[len++] = '.';
    len += put_base64(text + len, sizeof(text) - len, mac, sizeof(mac));
    int r = jwt_check(key, text, len, &subject);
    MUST(r == 0 || r == -EBADMSG);
    /* It goes into the lookup of a service account. */
    MUST(r != 0 || memchr(subject.name, '\0', sizeof(subject.name)) != NULL);
    return 0;
}
