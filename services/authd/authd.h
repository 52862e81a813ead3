/*
 * authd: accounts, roles, sessions, and the answer to "whose token is this?".
 *
 * Invariants
 * - A token is good while its session is in the table below and its account is
 *   active, that of a service account while the store has the account. The
 *   signature alone opens nothing. A lock stops sign-ins only.
 * - The front door (bus name "gateway") remembers principals. A change that
 *   takes rights away is answered only after the front door has confirmed that
 *   it forgot them (link.c).
 * - The table of sessions is the store's, plus the time of last use. Ages are
 *   measured on the monotonic clock, so setting the date ends no session and
 *   prolongs none.
 * - Passwords are hashed and verified in workers only (password.c).
 */
#ifndef FIELDGATE_AUTHD_H
#define FIELDGATE_AUTHD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "gen/api_authd.h"
#include "gen/permissions.h"
#include "libcommon/api.h"
#include "libcommon/loop.h"
#include "libcommon/svc.h"
#include "services/authd/jwt.h"
#include "services/authd/record.h"
#include "services/authd/vault.h"

/* ---- sessions that live (session.c) ---- */

enum { SESSION_TOKEN_LIFE_US = 15 * 60 * 1000000 };

struct live_session {
    struct session_record record; /* record.last_us may be newer than the store's */
    int64_t began_mono_us, last_mono_us;
    int64_t token_end_mono_us[SESSION_TOKENS_MAX]; /* of record.tokens */
    bool dirty;                                    /* last use is not in the store yet */
};

struct sessions {
    struct live_session all[SESSIONS_MAX]; /* by growing id */
    size_t n;
    struct loop_timer sweep, flush;
};

/* ---- failed sign-ins (lock.c) ---- */

enum { LOCK_FAILS_MAX = 32 /* failTimes' maximum */, LOCK_ENTRIES_MAX = 1024 + USERS_MAX };

struct lock_entry {
    char name[RECORD_NAME_SIZE]; /* "": free */
    bool is_account;             /* an account had that name when the entry was made */
    uint8_t n_fails;
    int64_t fail_mono_us[LOCK_FAILS_MAX]; /* oldest first */
    int64_t locked_until_mono_us;         /* 0: not locked */
    int64_t told_mono_us;                 /* last audit record of a refusal while locked */
    uint32_t n_untold;
};

struct locks {
    struct lock_entry *all; /* LOCK_ENTRIES_MAX */
};

/* ---- sources of failed sign-ins (flood.c) ---- */

enum { FLOOD_ADDRESSES_MAX = 64, FLOOD_FAILS_MAX = 30 /* of an address in a minute */ };

struct flood_entry {
    char addr[RECORD_ADDR_SIZE]; /* "": free */
    unsigned n_fails;
    unsigned n_untold; /* not in the audit log yet */
};

struct floods {
    struct flood_entry all[FLOOD_ADDRESSES_MAX + 1]; /* the last: all that found no place */
    struct loop_timer minute;                        /* its end; set once somebody failed */
};

/* ---- the front door (link.c) ---- */

/* The user is that of struct bus_principal: a service account's is below 0. */
enum forget_scope { FORGET_ALL, FORGET_USER, FORGET_SESSION };
typedef void forget_fn(void *arg, bool forgotten);
enum { HELD_CHECKS_MAX = 256 };

/* One "forget" under way; lives with who waits for it. */
struct forget {
    struct forget *next;
    struct authd *a;
    enum forget_scope scope;
    int64_t id;
    uint64_t epoch, deadline_us;
    bool is_sent;
    bool is_ours; /* allocated by link.c */
    forget_fn *fn;
    void *arg;
};

struct link {
    struct bus_peer *gateway;
    bool is_up, is_clean; /* clean: it has confirmed "forget all" on this line */
    bool is_flushing;     /* "forget all" is under way */
    uint64_t generation;  /* of the line */
    struct forget *forgets;
    struct loop_timer timer;
    struct bus_incoming *held[HELD_CHECKS_MAX]; /* checks that wait for a clean line */
    size_t n_held;
};

/* Of the files of this device, as auditd found them; the numbers are the store's. */
enum integrity { INTEGRITY_OFF, INTEGRITY_GOOD, INTEGRITY_INSECURE };

struct authd {
    struct svc *svc;
    uint8_t *key;                          /* JWT_KEY_SIZE bytes of guarded memory */
    char dummy_hash[RECORD_PASSWORD_SIZE]; /* verified for unknown names */
    char serial[16];
    uint64_t epoch; /* grows with every change of rights; as committed */
    struct session_conf conf;
    struct password_policy policy;
    struct auth_lock lock_rule;
    struct sessions sessions;
    struct locks locks;
    struct floods floods;
    struct link link;
    struct vault vault;
    struct loop_timer expiry; /* of certificates (cert_expiry.c) */
    enum integrity integrity;
    bool integrity_is_unkept;        /* the store has another state: it could not be written */
    struct password_job *jobs;       /* under way */
    struct password_job *job_places; /* PASSWORD_PLACES in guarded memory */
    bool stopping;
};

static inline int64_t
mono_us(const struct authd *a)
{
    return (int64_t)loop_now_us(a->svc->loop);
}

/* session.c */
int sessions_load(struct authd *a);
/* Arms the timers anew after a change of the settings. */
void sessions_rearm(struct authd *a);
void sessions_close(struct authd *a);
struct live_session *sessions_find(struct authd *a, uint64_t id);
bool sessions_is_live(const struct authd *a, const struct live_session *s);
/* µs until it ends unless used again. */
int64_t sessions_left_us(const struct authd *a, const struct live_session *s);
/*
 * µs that the token with this hash opens the session unless it is used again;
 * 0 or less: it does not. '*ret_is_own' tells the session's own token from one
 * that was made with it.
 */
int64_t sessions_token_left_us(const struct authd *a, const struct live_session *s,
                               const uint8_t hash[RECORD_TOKEN_HASH_SIZE], bool *ret_is_own);
/* Live ones of an account (0: all). */
size_t sessions_count(const struct authd *a, uint64_t user_id);
/* After a commit. */
void sessions_add(struct authd *a, const struct session_record *record);
void sessions_remove(struct authd *a, uint64_t id);
/* Those that are in the store now; the last one is new and 'left_us' from its end. */
void sessions_set_tokens(struct authd *a, const struct session_record *record, int64_t left_us);
void sessions_drop_tokens(struct authd *a, uint64_t id);
/* Used 'ago_us' before now. */
void sessions_touch(struct authd *a, struct live_session *s, int64_t ago_us);

/* lock.c */
int locks_open(struct authd *a);
void locks_close(struct authd *a);
bool locks_is_locked(const struct authd *a, const char *name);
/* Failures of 'name' that count now. */
unsigned locks_fails(const struct authd *a, const char *name);
/*
 * One more, kept in 'txn'; '*ret_locked' tells that this one locked it. 0 or
 * -errno (it counts anyway).
 */
int locks_fail(struct authd *a, struct store_txn *txn, const char *name, bool is_account,
               bool *ret_locked);
/* A success: forget in the store, then (after the commit) in memory. */
int locks_clear_stored(struct authd *a, struct store_txn *txn, const char *name);
void locks_clear(struct authd *a, const char *name); /* NULL: all */
/*
 * A sign-in was refused because 'name' is locked. Returns how many refusals
 * the audit record to be written now should tell of, 0 for none: a flood
 * makes one record a minute.
 */
unsigned locks_refused(struct authd *a, const char *name);

/* flood.c */
void floods_open(struct authd *a);
/* Records what is untold. */
void floods_close(struct authd *a);
/* True: 'addr' failed too often in this minute; this attempt is counted and must be refused. */
bool floods_refuse(struct authd *a, const char *addr);
/* One more failure. False: it must not be recorded, it will be with others. */
bool floods_fail(struct authd *a, const char *addr);

/* A program on the device. */
static inline bool
addr_is_local(const char *addr)
{
    return strncmp(addr, "127.", 4) == 0;
}

/* link.c */
int link_start(struct authd *a);
void link_stop(struct authd *a);
/*
 * Has the front door forget principals of before a->epoch. 'fn' runs exactly
 * once, never before this returns: false when there was no confirmation within
 * 2 s. 'f' is the caller's memory until then.
 */
void link_forget(struct authd *a, struct forget *f, enum forget_scope scope, int64_t id,
                 forget_fn *fn, void *arg);
/* The same when nobody waits for it. */
void link_forget_soon(struct authd *a, enum forget_scope scope, int64_t id);
/* True: answered later, when the line is clean. */
bool link_hold_check(struct authd *a, struct bus_incoming *in);

/* ---- service accounts (op_service.c) ---- */

/* Before the name, in tokens, on the bus and in the audit log. */
#define SERVICE_PREFIX "AzureIoTEdge/"
/* 9999-12-31T23:59:59Z: a token ends with its account, never by time. */
#define SERVICE_END_S INT64_C(253402300799)

/* On the bus: never that of a person, and of one account only. */
static inline int64_t
service_user_id(const struct service_record *service)
{
    return -(int64_t)service->id;
}

/* token.c */
/*
 * Signs a token with these permissions and a random part that is kept nowhere.
 * 'claims' has all but the serial number, the permissions and the random part.
 * The text lives as long as the call. 0 or -errno.
 */
int token_make(struct authd *a, struct api_call *call, struct jwt_claims *claims,
               uint64_t permissions, uint8_t ret_hash[JWT_HASH_SIZE], const char **ret_text);

/* check.c: internal operations */
void authd_auth_check(void *self, struct bus_incoming *in);
void authd_auth_touch(void *self, struct bus_incoming *in);
/* refusals.c */
void authd_auth_refused(void *self, struct bus_incoming *in);
/* facts.c: what the security advisor is told (proto/README.md section 4). */
void authd_security_facts(void *self, struct bus_incoming *in);

/* integrity.c */
/* What auditd told last. 0 or -errno. */
int integrity_load(struct authd *a, struct store_txn *txn);
/* Into the answer of a sign-in; nothing when no check ever ran. */
void integrity_show(const struct authd *a, struct auth_result *reply);
void authd_integrity_told(void *self, struct bus_incoming *in); /* internal operation */

/*
 * A change of rights inside a call: begun before the writes, it makes the
 * answer wait until the front door has forgotten (op_session.c). NULL: failed,
 * return API_INTERNAL.
 */
struct rights_change;
struct rights_change *rights_change(struct authd *a, struct api_call *call,
                                    enum forget_scope scope, int64_t id);
/* Ends a session with it: in the transaction now, in memory after the commit. 0 or -errno. */
int rights_end_session(struct rights_change *change, uint64_t session_id);
/*
 * All sessions of an account but 'except' (0: none is spared), which only
 * loses its short-lived tokens. 0 or -errno.
 */
int rights_end_sessions_of(struct rights_change *change, uint64_t user_id, uint64_t except);

/* op_user.c: shared by those that answer with an account */
enum api_status account_fill(struct authd *a, struct api_call *call, struct store_txn *txn,
                             const struct user_record *user, struct account *ret_account);
/* The caller's own account: API_OK or a refusal. */
enum api_status account_of_caller(struct api_call *call, struct store_txn *txn,
                                  struct user_record *ret_user);
/* op_role.c: puts the bits of 'ids' into '*bits', of which those it had need not be known. */
enum api_status permission_set(struct api_call *call, struct store_txn *txn,
                               const char *const *ids, size_t n, const char *pointer,
                               uint64_t *bits);
/* Of the call; 'digits' of the second. NULL without memory. */
const char *time_text(struct api_call *call, int64_t wall_us, int digits);
/* Other people's things may be seen and ended by the caller. */
static inline bool
may_manage_accounts(const struct api_call *call)
{
    return call->who->permissions >> API_PERMISSION_SYS_ACCOUNT_RW & 1;
}

#endif
