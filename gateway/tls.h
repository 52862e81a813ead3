/*
 * The TLS side of the HTTPS listener: a certificate made at the first start,
 * the context that hands it out, and its replacement while connections go on.
 */
#ifndef FIELDGATE_GATEWAY_TLS_H
#define FIELDGATE_GATEWAY_TLS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

struct loop;
struct svc;
struct tls;
struct tls_pair;

#define TLS_CERT_FILE "thingspro_https_default.crt"
#define TLS_KEY_FILE "thingspro_https_default.key"

/*
 * Loads the pair from directory 'dir'; makes one first if the certificate is
 * not there (a key without one gets the name <key>.old): ECDSA P-256, self-signed, ten years,
 * for the names and addresses of this machine. Returns 0 or -errno, logged.
 */
int tls_new(const char *dir, struct tls **ret_tls);

/* Follows changes of the files from now on. 0 or -errno. */
int tls_watch(struct tls *t, struct loop *loop);

/*
 * Reads the files again, unless another pair is in use (tls_use). New
 * handshakes get the new pair, connections keep theirs. Returns 0, or -EINVAL
 * with the old pair still in use.
 */
int tls_reload(struct tls *t);

/*
 * A certificate (PEM, followed by those of its issuers) and its key from
 * files. 0 with a pair that the caller owns, -EINVAL, or -ENOMEM; then
 * 'ret_fault' says why, for a person.
 */
int tls_pair_load(const char *cert_path, const char *key_path, struct tls_pair **ret_pair,
                  const char **ret_fault);
void tls_pair_free(struct tls_pair *pair); /* NULL does nothing */

/*
 * New handshakes get this pair, which is owned by 't' from now on; connections
 * keep theirs. It is listed (tls_publish) by the name 'uploaded_as'; NULL: it
 * is that of the directory's files, whose changes have no effect otherwise.
 * Loop thread.
 */
void tls_use(struct tls *t, struct tls_pair *pair, const char *uploaded_as);

/* Is the one in use its own issuer, so that nobody vouches for it? Any thread. */
bool tls_is_self_signed(const struct tls *t);

/* Tells authd the certificate in use, now and after each change (libcommon/cert_publish.h). */
int tls_publish(struct tls *t, struct svc *svc);

/* What the listener offers: see proto/README.md section 4, SECURITY_FACTS. */
struct tls_facts {
    int min_version;                /* on the wire: 0x0301 TLS 1.0 … 0x0304 TLS 1.3 */
    char subject[256], issuer[256]; /* RFC 2253, UTF-8; cut */
    bool self_signed;
    char host[HOST_NAME_MAX + 1];      /* this machine's name; "": it has none */
    bool names_host;                   /* the certificate is for it */
    int64_t not_before_s, not_after_s; /* Unix seconds */
    int key_bits, key_strength;        /* size; bits of security (NIST SP 800-57) */
    char key_type[16];                 /* RSA, EC, … */
    int signature_strength;            /* bits of security; 0: unknown */
    char signature[48];                /* algorithm */
    char key_file[PATH_MAX];
    unsigned key_file_mode; /* permission bits; 0: the file cannot be looked at */
};
/* Of the pair in use now. Does not block. 0, or -EIO: the certificate cannot be read. */
int tls_get_facts(struct tls *t, struct tls_facts *ret_facts);

/* The SSL_CTX, owned by 't'. */
void *tls_context(struct tls *t);

#endif
