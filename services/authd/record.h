/*
 * The records of authd's store: accounts, roles, service accounts, sessions,
 * failed sign-ins, counters. Plain structs with everything inside, so that they
 * can be copied and kept while a worker runs.
 */
#ifndef FIELDGATE_AUTHD_RECORD_H
#define FIELDGATE_AUTHD_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/store.h"

enum record_db {
    DB_USERS,    /* id -> struct user_record */
    DB_NAMES,    /* account name -> id */
    DB_ROLES,    /* id -> struct role_record */
    DB_SESSIONS, /* id -> struct session_record */
    DB_LOCKS,    /* name as typed -> failed sign-ins (lock.c) */
    DB_CONFIG,   /* "session", "policy", "lock"; numbers: "next…", "epoch", "addons" */
    DB_KEY,      /* "jwt": the signing key */
    DB_CERTS,    /* id -> struct cert_record */
    DB_SECRETS,  /* id -> struct secret_record */
    DB_SERVICES, /* name -> struct service_record */
    DB_ADDONS,   /* id of a permission that an add-on brings -> its bit (permission.c) */
    DB_OUTBOX,   /* audit records on their way; last, as audit.h asks */
    N_DBS
};
extern const char *const record_dbs[N_DBS];

enum {
    RECORD_NAME_SIZE = 65,
    RECORD_EMAIL_SIZE = 255,
    RECORD_DESCRIPTION_SIZE = 512 * 4 + 1, /* 512 characters of UTF-8 */
    RECORD_ROLES_MAX = 16,                 /* of one account */
    RECORD_PASSWORD_SIZE = 128,            /* crypto_pwhash_STRBYTES */
    RECORD_TOKEN_HASH_SIZE = 32,
    RECORD_ADDR_SIZE = 46,
    RECORD_SERVICE_NAME_SIZE = 52, /* with "AzureIoTEdge/" before it a RECORD_NAME_SIZE */
    RECORD_DISPLAY_NAME_SIZE = 128 * 4 + 1, /* 128 characters of UTF-8 */

    USERS_MAX = 256,
    ROLES_MAX = 64,
    SESSIONS_MAX = 1024,
    SERVICES_MAX = 32,
    SESSION_TOKENS_MAX = 4, /* of one session, besides its own */

    ROLE_ADMINISTRATOR = 1, /* holds every permission; cannot be changed */
};

struct user_record {
    uint64_t id;
    char name[RECORD_NAME_SIZE];
    bool has_email, has_description; /* null otherwise */
    char email[RECORD_EMAIL_SIZE];
    char description[RECORD_DESCRIPTION_SIZE];
    bool is_active;
    bool must_change;       /* only operations with x-permission self are open until then */
    int64_t created_us;     /* wall clock */
    bool password_is_given; /* its last change was made by somebody else */
    int64_t password_changed_us; /* 0: never */
    int64_t login_us;            /* 0: never */
    uint64_t roles[RECORD_ROLES_MAX];
    size_t n_roles;
    char password[RECORD_PASSWORD_SIZE]; /* "$argon2id$…" */
};

struct role_record {
    uint64_t id;
    char name[RECORD_NAME_SIZE];
    char description[RECORD_DESCRIPTION_SIZE];
    uint64_t permissions; /* bits; ROLE_ADMINISTRATOR has all whatever this says */
};

/* A program that comes with a token of its own instead of signing in. */
struct service_record {
    uint64_t id; /* never given twice */
    char name[RECORD_SERVICE_NAME_SIZE];
    char display_name[RECORD_DISPLAY_NAME_SIZE];
    int64_t created_us; /* wall clock */
    uint64_t addons;    /* bits of permissions that it brings */
    uint64_t required;  /* bits of those that it holds */
    uint8_t token_hash[RECORD_TOKEN_HASH_SIZE];
};

/* What a session may have besides its own token: one with a short life. */
struct session_token {
    uint8_t hash[RECORD_TOKEN_HASH_SIZE];
    int64_t end_us; /* wall clock */
};

struct session_record {
    uint64_t id, user_id;
    int64_t created_us, last_us; /* wall clock */
    uint64_t life_us;            /* what timeoutMin was when it began */
    char addr[RECORD_ADDR_SIZE];
    uint8_t token_hash[RECORD_TOKEN_HASH_SIZE];
    struct session_token tokens[SESSION_TOKENS_MAX];
    size_t n_tokens;
};

/* All: STORE_OK, STORE_NOT_FOUND (get only) or -errno; -EPROTO for a record that cannot be
 * read. */
int user_get(struct store_txn *txn, uint64_t id, struct user_record *ret_user);
int user_by_name(struct store_txn *txn, const char *name, struct user_record *ret_user);
int user_put(struct store_txn *txn, const struct user_record *user);
int user_delete(struct store_txn *txn, const struct user_record *user);
int user_decode(const void *value, size_t size, struct user_record *ret_user);
/* Whether the account holds the role. */
bool user_has_role(const struct user_record *user, uint64_t role_id);
/* Active accounts that hold ROLE_ADMINISTRATOR, other than 'except'. 0 or -errno. */
int user_count_admins(struct store_txn *txn, uint64_t except, size_t *ret_n);
/* Union over its roles of what is known now. 0 or -errno. */
int user_permissions(struct store_txn *txn, const struct user_record *user, uint64_t *ret_bits);

int role_get(struct store_txn *txn, uint64_t id, struct role_record *ret_role);
int role_put(struct store_txn *txn, const struct role_record *role);
int role_delete(struct store_txn *txn, uint64_t id);
int role_decode(const void *value, size_t size, struct role_record *ret_role);
/* What it holds, ROLE_ADMINISTRATOR's rule included; it gives what is 'known' of that. */
uint64_t role_permissions(const struct role_record *role, uint64_t known);

int service_get(struct store_txn *txn, const char *name, struct service_record *ret_service);
int service_put(struct store_txn *txn, const struct service_record *service);
int service_delete(struct store_txn *txn, const char *name);
int service_decode(const void *value, size_t size, struct service_record *ret_service);

int session_put(struct store_txn *txn, const struct session_record *session);
int session_delete(struct store_txn *txn, uint64_t id);
int session_decode(const void *value, size_t size, struct session_record *ret_session);

/* Puts what 'b' holds under 'id', and frees it. 0 or -errno, also the buffer's own error. */
struct buf;
int record_put(struct store_txn *txn, unsigned db, uint64_t id, struct buf *b);

/* Counters in DB_CONFIG: one more, as stored and returned. 0 or -errno. */
int record_next(struct store_txn *txn, const char *key, uint64_t *ret_value);
/* Its last value; 0 when there is none yet. */
int record_number(struct store_txn *txn, const char *key, uint64_t *ret_value);

#endif
