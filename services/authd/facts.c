/*
 * What the security advisor is told of accounts and their rules, service
 * accounts, certificates and private keys: facts, no judgement
 * (proto/README.md section 4, SECURITY_FACTS).
 */
#include <errno.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "services/authd/authd.h"
#include "services/authd/cert.h"

#include "libcommon/banned.h"

/*
 * As much as auditd reads. USERS_MAX names in each list take a fifth of it, the
 * names of all certificates, each character escaped, two.
 */
enum { FACTS_MAX = 512 << 10 };

static const int64_t unused_us = INT64_C(90) * 24 * 3600 * 1000000;
static const uint64_t first_id = 1; /* of the account of the first start (main.c) */

/* Which accounts a list names. */
struct user_list {
    const char *name;
    bool (*has)(const struct authd *a, const struct user_record *user, int64_t now_us);
};

static bool
is_disabled(const struct authd *a, const struct user_record *user, int64_t now_us)
{
    (void)a;
    (void)now_us;
    return !user->is_active;
}

static bool
is_administrator(const struct authd *a, const struct user_record *user, int64_t now_us)
{
    (void)a;
    (void)now_us;
    return user->is_active && user_has_role(user, ROLE_ADMINISTRATOR);
}

/* Nobody signed in for 90 days, or ever since it was made as long ago. */
static bool
is_unused(const struct authd *a, const struct user_record *user, int64_t now_us)
{
    (void)a;
    int64_t last_us = user->login_us ? user->login_us : user->created_us;
    return user->is_active && now_us - last_us > unused_us;
}

/* Its password was chosen by somebody else: by who made it, or by who changed it last. */
static bool
has_given_password(const struct authd *a, const struct user_record *user, int64_t now_us)
{
    (void)a;
    (void)now_us;
    return user->is_active && (user->password_is_given ||
                               (user->password_changed_us == 0 && user->id != first_id));
}

static bool
has_old_password(const struct authd *a, const struct user_record *user, int64_t now_us)
{
    int64_t since = user->password_changed_us ? user->password_changed_us : user->created_us;
    int64_t days = (now_us - since) / 1000000 / (24 * 3600);
    return user->is_active && days >= a->policy.reminder_frequency_day;
}

static bool
has_first_password(const struct authd *a, const struct user_record *user, int64_t now_us)
{
    (void)a;
    (void)now_us;
    return user->is_active && user->id == first_id && user->password_changed_us == 0;
}

static const struct user_list lists[] = {
    { "administrators", is_administrator },
    { "disabled", is_disabled },
    { "unused", is_unused },
    { "givenPassword", has_given_password },
    { "oldPassword", has_old_password },
    { "firstPassword", has_first_password },
};

/* The names of the list, and (list NULL) of all active accounts. 0 or -errno. */
static int
put_list(struct buf *b, const struct authd *a, struct store_txn *txn,
         const struct user_list *list)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int64_t now_us = clock_wall_us();
    int r = store_iter_init(&it, txn, DB_USERS, NULL, 0, false);
    jw_name(b, list ? list->name : "active");
    jw_open(b, '[');
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct user_record user;
        r = user_decode(it.value, it.size, &user);
        if (r == STORE_OK && (list ? list->has(a, &user, now_us) : user.is_active))
            jw_str(b, user.name);
    }
    jw_close(b, ']');
    return r < 0 ? r : 0;
}

/* Names of service accounts: with their token anybody could let himself in for good. */
static int
put_managing_services(struct buf *b, struct store_txn *txn)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int r = store_iter_init(&it, txn, DB_SERVICES, NULL, 0, false);
    jw_name(b, "managingServices");
    jw_open(b, '[');
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct service_record service;
        r = service_decode(it.value, it.size, &service);
        if (r == STORE_OK && service.required >> API_PERMISSION_SYS_ACCOUNT_RW & 1)
            jw_str(b, service.name);
    }
    jw_close(b, ']');
    return r < 0 ? r : 0;
}

/* Names, of those in use, too. */
static int
put_expired_certs(struct buf *b, struct store_txn *txn)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int64_t now_us = clock_wall_us();
    int r = store_iter_init(&it, txn, DB_CERTS, NULL, 0, false);
    jw_name(b, "expiredCertificates");
    jw_open(b, '[');
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct cert_record cert;
        r = cert_decode(it.value, it.size, &cert);
        if (r == STORE_OK && cert_status(&cert, now_us) == CERT_EXPIRED)
            jw_str(b, cert.name);
    }
    jw_close(b, ']');
    return r < 0 ? r : 0;
}

static int
put_lost_keys(struct buf *b, const struct authd *a, struct store_txn *txn)
{
    size_t n, n_lost;
    int r = secrets_count(a, txn, &n, &n_lost);
    jw_ku64(b, "lostKeys", n_lost);
    return r;
}

static void
put_rules(struct buf *b, const struct authd *a)
{
    jw_name(b, "policy");
    api_encode(b, &password_policy_desc, &a->policy, true);
    jw_name(b, "lock");
    api_encode(b, &auth_lock_desc, &a->lock_rule, true);
    jw_name(b, "session");
    api_encode(b, &session_conf_desc, &a->conf, true);
}

static uint64_t
count_locked(const struct authd *a)
{
    uint64_t n = 0;
    for (size_t i = 0; i < LOCK_ENTRIES_MAX; i++) {
        const struct lock_entry *e = &a->locks.all[i];
        n += e->name[0] != '\0' && e->is_account && locks_is_locked(a, e->name);
    }
    return n;
}

void
authd_security_facts(void *self, struct bus_incoming *in)
{
    struct authd *a = self;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    struct buf b;
    buf_init(&b, FACTS_MAX);
    jw_open(&b, '{');
    int r = store_read(a->svc->store, &txn);
    if (r == 0)
        r = put_list(&b, a, txn, NULL);
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(lists); i++)
        r = put_list(&b, a, txn, &lists[i]);
    if (r == 0)
        r = put_managing_services(&b, txn);
    if (r == 0)
        r = put_expired_certs(&b, txn);
    if (r == 0)
        r = put_lost_keys(&b, a, txn);
    put_rules(&b, a);
    jw_ku64(&b, "locked", count_locked(a));
    jw_close(&b, '}');
    if (r < 0) {
        log_err("authd: cannot tell the facts error=%s", strerror(-r));
        b.err = r;
    }
    bus_answer_json(in, &b);
    buf_done(&b);
}
