/*
 * The token of a session or a service account: a JSON Web Token (RFC 7519) signed with
 * HMAC-SHA-256 (HS256, RFC 7518 section 3.2). The header is always the same text, so that there
 * is no algorithm to choose and none to confuse.
 *
 * A valid signature opens nothing by itself: the caller looks up the session or
 * account and compares its token hash.
 */
#ifndef FIELDGATE_AUTHD_JWT_H
#define FIELDGATE_AUTHD_JWT_H

#include <stddef.h>
#include <stdint.h>

enum {
    JWT_KEY_SIZE = 32,
    JWT_TEXT_MAX = 4096, /* a longer token is refused unread */
    JWT_HASH_SIZE = 32,
    JWT_ID_SIZE = 16,
    JWT_NAME_SIZE = 65,
};

struct jwt_claims {
    int64_t user_id;
    int64_t session_id;
    const char *name;
    const char *serial_number;
    const char *const *permissions; /* ids */
    size_t n_permissions;
    int64_t iat, exp; /* Unix seconds */
    uint8_t
        id[JWT_ID_SIZE]; /* "jti": random, so that knowing the key does not tell the token */
};

/* Whose token it says it is. */
struct jwt_subject {
    int64_t user_id, session_id;
    char name[JWT_NAME_SIZE];
};

/* Writes the terminated token. 0; -E2BIG; -ENOMEM. */
int jwt_make(const uint8_t key[JWT_KEY_SIZE], const struct jwt_claims *claims,
             char ret_text[JWT_TEXT_MAX + 1]);

/*
 * Checks form and signature, in time that does not tell how much of a
 * signature was right. 0 with the subject; -EBADMSG otherwise. 'text' needs no
 * terminator and may be any bytes. exp is not looked at: the session's end is
 * kept on a clock that nobody can set.
 */
int jwt_check(const uint8_t key[JWT_KEY_SIZE], const char *text, size_t len,
              struct jwt_subject *ret_subject);

/* What the store keeps of a token. */
void jwt_hash(const char *text, size_t len, uint8_t ret_hash[JWT_HASH_SIZE]);

#endif
