/*
 * Certificates and private keys in PEM (RFC 7468), as people upload them: what
 * they say, and whether they are good enough to be used. The one place where
 * X.509 (RFC 5280) is parsed and judged; with OpenSSL, which is not seen
 * outside. A program that uses it links with -lcrypto.
 *
 * Nothing here blocks, reads a clock or asks a terminal: the time is an
 * argument, and what needs a passphrase is refused. A signature is made with
 * each key, which takes an RSA key of 4,096 bits some 10 ms.
 */
#ifndef FIELDGATE_X509_H
#define FIELDGATE_X509_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    X509_PEM_MAX = 64 << 10,  /* bytes of a file */
    X509_CERTS_MAX = 8,       /* certificates in a file */
    X509_VALUES_MAX = 4,      /* of one kind in a subject that are told; more are left out */
    X509_TEXT_SIZE = 257,     /* a value in UTF-8; longer ones are cut */
    X509_HASH_SIZE = 32,      /* SHA-256 */
    X509_REASON_SIZE = 200,   /* for a person, without a final stop */
    X509_RSA_BITS_MIN = 2048, /* what is shorter is refused (NIST SP 800-57, 112 bits) */
    X509_RSA_BITS_MAX = 8192, /* of a certificate; more only costs time */
    X509_RSA_KEY_BITS_MAX = 4096, /* of a private key: each signature with 8,192 takes 0.1 s */
    X509_RSA_EXPONENT_BITS_MAX = 64, /* of the public one; what OpenSSL demands of long keys */
    X509_EC_BITS_MIN = 224,
};

/* What became of it; -ENOMEM besides. */
enum {
    X509_OK,
    X509_REFUSED,     /* not of the right form, too weak, or no pair */
    X509_OUT_OF_DATE, /* expired, or not valid yet */
};

enum x509_key_kind { X509_KEY_RSA, X509_KEY_EC, X509_KEY_ED, X509_KEY_OTHER };

struct x509_key_info {
    enum x509_key_kind kind; /* ED: Ed25519, Ed448; OTHER is never accepted by the checks */
    unsigned bits;
    /* SHA-256 of the public key (SubjectPublicKeyInfo): the same in a certificate and its key.
     */
    uint8_t hash[X509_HASH_SIZE];
};

struct x509_values {
    char text[X509_VALUES_MAX][X509_TEXT_SIZE];
    size_t n;
};

/* The first certificate of a file. */
struct x509_info {
    struct x509_values country, state, locality, organization; /* of the subject */
    char common_name[X509_TEXT_SIZE];                          /* of the subject; "": none */
    char issuer[X509_TEXT_SIZE]; /* its common name, else its organization; "": neither */
    int64_t not_before_us, not_after_us; /* wall clock */
    bool is_ca;                          /* basicConstraints say so */
    bool is_self_signed;                 /* and its signature is right, and quickly verified */
    unsigned n_certs;                    /* in the file, this one included */
    char signature[X509_TEXT_SIZE];      /* algorithm, e.g. "ecdsa-with-SHA256" */
    uint8_t hash[X509_HASH_SIZE]; /* SHA-256 of this certificate in DER: its fingerprint */
    struct x509_key_info key;
};

/*
 * Reads a file of certificates without judging them: one, then those of its
 * issuers. Text before each is allowed, after the last only white space.
 * Returns X509_OK, X509_REFUSED with the reason, or -ENOMEM.
 */
int x509_read_certs(const char *pem, size_t len, struct x509_info *ret_info,
                    char ret_reason[X509_REASON_SIZE]);

/*
 * Reads and judges. Refused are: RSA below 2,048 or above 8,192 bits or with a
 * public exponent above 64 bits, EC below 224 bits or with a curve that is not
 * named, other keys (DSA); signatures
 * with MD5 or SHA-1, but for a self-signed certificate's own, on which nothing
 * rests; what is expired or not valid yet at 'now_us' (wall clock; the reason
 * names it, since the clock may be what is wrong); issuers out of order or that
 * did not sign. Returns one of the outcomes, or -ENOMEM.
 */
int x509_check_certs(const char *pem, size_t len, int64_t now_us, struct x509_info *ret_info,
                     char ret_reason[X509_REASON_SIZE]);

/*
 * Reads and judges a private key: exactly one, not encrypted, as PKCS #8, RSA
 * (PKCS #1) or EC (RFC 5915); rules as above, but RSA up to 4,096 bits and of
 * two primes. A signature made with it must be right. Returns X509_OK, X509_REFUSED with
 * the reason, or -ENOMEM.
 */
int x509_check_key(const char *pem, size_t len, struct x509_key_info *ret_info,
                   char ret_reason[X509_REASON_SIZE]);

/* The same of a file that may hold certificates with its key; they are not looked at. */
int x509_check_key_among(const char *pem, size_t len, char ret_reason[X509_REASON_SIZE]);

/* Both, and that the key is the first certificate's. */
int x509_check_pair(const char *cert_pem, size_t cert_len, const char *key_pem, size_t key_len,
                    int64_t now_us, struct x509_info *ret_info,
                    char ret_reason[X509_REASON_SIZE]);

#endif
