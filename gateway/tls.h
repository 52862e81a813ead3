/*
 * The TLS side of the HTTPS listener: a certificate made at the first start,
 * the context that hands it out, and its replacement while connections go on.
 */
#ifndef FIELDGATE_GATEWAY_TLS_H
#define FIELDGATE_GATEWAY_TLS_H

struct loop;
struct tls;

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
 * Reads the files again. New handshakes get the new pair, connections keep
 * theirs. Returns 0, or -EINVAL with the old pair still in use.
 */
int tls_reload(struct tls *t);

/* The SSL_CTX, owned by 't'. */
void *tls_context(struct tls *t);

#endif
