/*
 * Trust in certificates. See trust.h.
 */
#include "services/fieldgatectl/trust.h"

#include <errno.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <string.h>
#include <strings.h>

#include "libcommon/str.h"

#include "libcommon/banned.h"

/* In place of OpenSSL's verification (SSL_CTX_set_cert_verify_callback(3)): 1 goes on. */
static int
verify(X509_STORE_CTX *store, void *arg)
{
    struct trust *t = arg;
    unsigned n = sizeof(t->offered);
    X509 *cert = X509_STORE_CTX_get0_cert(store);
    t->was_offered = cert != NULL && X509_digest(cert, EVP_sha256(), t->offered, &n) == 1;
    if (t->is_pinned) {
        t->was_refused = !t->was_offered || memcmp(t->offered, t->pin, sizeof(t->pin)) != 0;
        t->why = "not the certificate that is trusted";
        if (t->was_refused)
            X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
        else
            X509_STORE_CTX_set_error(store, X509_V_OK);
    } else {
        t->was_refused = X509_verify_cert(store) != 1;
        t->why = X509_verify_cert_error_string(X509_STORE_CTX_get_error(store));
    }
    return t->was_refused ? 0 : 1;
}

void
trust_install(void *ssl_ctx, struct trust *t)
{
    SSL_CTX *ctx = ssl_ctx;
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_cert_verify_callback(ctx, verify, t);
    /* A resumed session shows no certificate. */
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
}

void
trust_text(const uint8_t sha256[TRUST_SIZE], char ret_text[TRUST_TEXT_SIZE])
{
    for (unsigned i = 0; i < TRUST_SIZE; i++) {
        hex_encode(sha256 + i, 1, ret_text + (size_t)3 * i);
        ret_text[3 * i + 2] = i + 1 < TRUST_SIZE ? ':' : '\0';
    }
}

int
trust_read(const char *text, uint8_t ret_sha256[TRUST_SIZE])
{
    char digits[2 * TRUST_SIZE];
    size_t n = 0;
    if (strncasecmp(text, "SHA256:", 7) == 0)
        text += 7;
    for (; *text != '\0'; text++) {
        if (*text == ':' && n > 0 && n % 2 == 0)
            continue;
        if (n == sizeof(digits))
            return -EINVAL;
        digits[n++] = *text;
    }
    uint8_t sha256[TRUST_SIZE];
    if (n != sizeof(digits) || hex_decode(digits, n, sha256, sizeof(sha256)) != TRUST_SIZE)
        return -EINVAL;
    memcpy(ret_sha256, sha256, sizeof(sha256));
    return 0;
}
