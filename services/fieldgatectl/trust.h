/*
 * Which certificate of a device is trusted: one that verifies against the
 * authorities, or exactly one by its SHA-256. A device makes its own
 * certificate at first start, and its clock may be wrong then: a pinned one
 * counts whatever its names and dates say, since only its owner holds the key.
 */
#ifndef FIELDGATE_CTL_TRUST_H
#define FIELDGATE_CTL_TRUST_H

#include <stdbool.h>
#include <stdint.h>

enum { TRUST_SIZE = 32, TRUST_TEXT_SIZE = 3 * TRUST_SIZE };

struct trust {
    bool is_pinned;
    uint8_t pin[TRUST_SIZE];
    /* of the last handshake */
    bool was_offered;
    uint8_t offered[TRUST_SIZE];
    bool was_refused; /* not the pinned one, or it does not verify */
    const char *why;  /* then: what is wrong, static text */
};

/*
 * For CURLOPT_SSL_CTX_FUNCTION: the handshakes of this SSL_CTX end where the
 * certificate is not trusted, before anything is sent. 't' outlives them.
 */
void trust_install(void *ssl_ctx, struct trust *t);

/* "AB:CD:…" as 'openssl x509 -fingerprint -sha256' prints it. */
void trust_text(const uint8_t sha256[TRUST_SIZE], char ret_text[TRUST_TEXT_SIZE]);
/* Reads that, colons or not, either case, "SHA256:" before it or not. 0 or -EINVAL. */
int trust_read(const char *text, uint8_t ret_sha256[TRUST_SIZE]);

#endif
