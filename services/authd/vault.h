/*
 * What private keys are sealed with: XSalsa20-Poly1305 (libsodium's secretbox)
 * under a key in a file of its own, so that a copy of the store alone gives
 * nothing away. Without that file nothing can be opened any more.
 */
#ifndef FIELDGATE_AUTHD_VAULT_H
#define FIELDGATE_AUTHD_VAULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VAULT_FILE "secrets.key"

struct buf;

struct vault {
    uint8_t *key; /* guarded memory; NULL: not open */
};

/*
 * Reads <dir>/VAULT_FILE, made first (0600, durable) when it is not there.
 * Blocks on the disk. Returns 0, or -errno with the vault still closed
 * (-EPROTO: the file has not the size of a key, and is left as it is).
 */
int vault_open(struct vault *v, const char *dir);
void vault_close(struct vault *v);
bool vault_is_open(const struct vault *v);

/* Adds nonce and box to 'out', whose error is set when they do not fit. The vault is open. */
void vault_seal(const struct vault *v, const void *secret, size_t n, struct buf *out);
/* True: it was sealed with this key and was not changed since. */
bool vault_fits(const struct vault *v, const void *box, size_t size);

#endif
