/*
 * Certificates and private keys in authd's store. Certificates are public:
 * uploaded by people, or told by the daemons that use them (system). Private
 * keys are sealed (vault.h) and leave by no operation.
 */
#ifndef FIELDGATE_AUTHD_CERT_H
#define FIELDGATE_AUTHD_CERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/store.h"
#include "libcommon/x509.h"

struct authd;

enum {
    CERTS_MAX = 128,       /* uploaded */
    SYSTEM_CERTS_MAX = 64, /* told by daemons, of all sources together */
    PUBLISHED_MAX = 16,    /* of one source */
    SECRETS_MAX = 128,
    CERT_UUID_SIZE = 37,
    CERT_NAME_SIZE = 128 * 4 + 1, /* 128 characters of UTF-8 */
    CERT_EXPIRING_DAYS = 30,
};

enum cert_status { CERT_VALID, CERT_EXPIRING, CERT_EXPIRED };

struct cert_record {
    uint64_t id;
    char uuid[CERT_UUID_SIZE];
    char source[CERT_NAME_SIZE], name[CERT_NAME_SIZE];
    bool is_system;
    uint8_t told;          /* enum cert_status that has its audit record */
    struct x509_info info; /* all but n_certs, signature, key.kind and key.bits */
    const char *pem;       /* as it came; decoded: in the transaction's memory */
    size_t pem_len;
};

struct secret_record {
    uint64_t id;
    char uuid[CERT_UUID_SIZE];
    char source[CERT_NAME_SIZE], name[CERT_NAME_SIZE];
    uint8_t hash[X509_HASH_SIZE]; /* of its public key */
    const void *box;              /* the PEM file, sealed; memory as above */
    size_t box_size;
};

/* A new random uuid (RFC 9562, version 4). */
void cert_new_uuid(char ret_uuid[CERT_UUID_SIZE]);
/* A name as people give it: 1..128 characters of UTF-8 without control characters. 0 or
 * -EINVAL. */
int cert_name(char out[CERT_NAME_SIZE], const char *text, size_t len);
/*
 * What it is at 'now_us'. A clock that is before its beginning is wrong, but
 * does not make it expired.
 */
enum cert_status cert_status(const struct cert_record *c, int64_t now_us);

/* All: STORE_OK, STORE_NOT_FOUND (by uuid and delete only) or -errno; -EPROTO: cannot be read.
 */
int cert_put(struct store_txn *txn, const struct cert_record *c);
int cert_decode(const void *value, size_t size, struct cert_record *ret_cert);
int cert_by_uuid(struct store_txn *txn, const char *uuid, struct cert_record *ret_cert);
int cert_delete(struct store_txn *txn, uint64_t id);
int secret_put(struct store_txn *txn, const struct secret_record *s);
int secret_decode(const void *value, size_t size, struct secret_record *ret_secret);
int secret_by_uuid(struct store_txn *txn, const char *uuid, struct secret_record *ret_secret);
int secret_delete(struct store_txn *txn, uint64_t id);
/*
 * op_secrets.c: how many private keys there are, and how many of them cannot
 * be opened. Opens each. 0 or -errno; what was counted until then is told.
 */
int secrets_count(const struct authd *a, struct store_txn *txn, size_t *ret_n,
                  size_t *ret_n_lost);

/* cert_expiry.c: tells the audit log, once each, of certificates that expire: at start, daily.
 */
void cert_expiry_start(struct authd *a);
void cert_expiry_stop(struct authd *a);
/* Looks again at the end of this round: a certificate came. For api_after_commit, too. */
void cert_expiry_soon(void *self, void *unused);

/* cert_publish.c: internal operation CERT_PUBLISH */
struct bus_incoming;
void authd_cert_publish(void *self, struct bus_incoming *in);

#endif
