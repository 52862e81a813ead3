/*
 * authd: see authd.h. This file makes the first state and brings it up.
 */
#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "libcommon/audit.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "proto/internal.h"
#include "services/authd/cert.h"
#include "services/authd/op_auth.h"
#include "services/authd/permission.h"
#include "services/authd/policy.h"

#include "libcommon/banned.h"

/*
 * The account of the first start. Its password is public, so it opens nothing
 * but the change of itself, and the blacklist refuses it as the new one.
 */
static const char first_name[] = "admin";
static const char first_password[] = "admin@123";

static int
make_key(struct store_txn *txn)
{
    uint8_t key[JWT_KEY_SIZE];
    randombytes_buf(key, sizeof(key));
    int r = store_put(txn, DB_KEY, "jwt", 3, key, sizeof(key));
    sodium_memzero(key, sizeof(key));
    return r;
}

static int
make_first_account(struct store_txn *txn)
{
    struct role_record role = { .name = "Administrator", .permissions = permission_builtin };
    struct user_record user = {
        .is_active = true,
        .must_change = true,
        .created_us = clock_wall_us(),
        .roles = { ROLE_ADMINISTRATOR },
        .n_roles = 1,
    };
    int r = str_copy(user.name, sizeof(user.name), first_name);
    if (r == 0)
        r = password_hash_now(first_password, user.password);
    if (r == 0)
        r = record_next(txn, "next.role", &role.id);
    if (r == 0)
        r = record_next(txn, "next.user", &user.id);
    if (r == 0)
        r = role_put(txn, &role);
    return r < 0 ? r : user_put(txn, &user);
}

/* One transaction: either there is a whole first state or none. */
static int
first_start(struct authd *a)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    const void *value;
    size_t size;
    int r = store_begin(a->svc->store, &txn);
    if (r == 0)
        r = store_get(txn, DB_KEY, "jwt", 3, &value, &size);
    if (r != STORE_NOT_FOUND)
        return r;
    struct audit_record record = {
        .event = "systemInitialize",
        .message = "First start: account admin made, its password must be changed",
        .detail = "",
        .source = "authd",
        .addr = "",
        .at_us = clock_wall_us(),
    };
    r = make_key(txn);
    if (r == 0)
        r = make_first_account(txn);
    if (r == 0)
        r = audit_put(a->svc->outbox, txn, &record);
    if (r == 0)
        r = store_commit(MOVE_PTR(txn));
    if (r == 0) {
        audit_kick(a->svc->outbox);
        log_info("authd: first start, account admin made, its password must be changed");
    }
    return r;
}

static int
load_key(struct authd *a, struct store_txn *txn)
{
    const void *value;
    size_t size;
    int r = store_get(txn, DB_KEY, "jwt", 3, &value, &size);
    if (r < 0)
        return r;
    if (r != STORE_OK || size != JWT_KEY_SIZE)
        return -EPROTO;
    a->key = sodium_malloc(JWT_KEY_SIZE);
    if (!a->key)
        return -ENOMEM;
    memcpy(a->key, value, JWT_KEY_SIZE);
    return 0;
}

/* A setting, or its defaults when nobody ever changed it. */
static int
load_setting(struct api_arena *arena, struct store_txn *txn, const char *key,
             const struct api_desc *desc, void *ret_setting)
{
    int r = api_store_get(arena, txn, DB_CONFIG, key, strlen(key), desc, ret_setting);
    return r == STORE_NOT_FOUND ? api_defaults(arena, desc, ret_setting) : r;
}

static int
load(struct authd *a)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    CLEANUP(api_arena_freep) struct api_arena *arena = api_arena_new(1 << 20);
    int r = arena ? store_read(a->svc->store, &txn) : -ENOMEM;
    if (r == 0)
        r = load_key(a, txn);
    if (r == 0)
        r = record_number(txn, "epoch", &a->epoch);
    if (r == 0)
        r = load_setting(arena, txn, "session", &session_conf_desc, &a->conf);
    if (r == 0)
        r = load_setting(arena, txn, "policy", &password_policy_desc, &a->policy);
    if (r == 0)
        r = load_setting(arena, txn, "lock", &auth_lock_desc, &a->lock_rule);
    if (r == 0)
        r = integrity_load(a, txn);
    if (r < 0)
        return r;
    a->conf.max_count = SESSIONS_MAX;
    a->policy.blacklist = policy_blacklist;
    a->policy.n_blacklist = policy_n_blacklist;
    return 0;
}

/* Without the vault all but private keys works: it is opened again when one is uploaded. */
static int
secrets_open(struct authd *a)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    size_t n = 0, lost = 0;
    int r = vault_open(&a->vault, a->svc->state_dir);
    if (r < 0)
        log_err("authd: private keys can neither be opened nor stored file=%s/" VAULT_FILE
                " error=%s",
                a->svc->state_dir, strerror(-r));
    r = store_read(a->svc->store, &txn);
    if (r == 0)
        r = secrets_count(a, txn, &n, &lost);
    if (r == 0 && lost > 0)
        log_err("authd: private keys cannot be opened: " VAULT_FILE
                " is not the file that they were sealed with keys=%zu lost=%zu",
                n, lost);
    return r;
}

static int
authd_open(void *self, struct svc *svc)
{
    struct authd *a = self;
    a->svc = svc;
    if (sodium_init() < 0)
        return -EIO;
    /* What names this device until something on it knows a serial number. */
    hex_encode(store_uuid(svc->store), 6, a->serial);
    return passwords_open(a);
}

static int
authd_start(void *self, struct svc *svc)
{
    struct authd *a = self;
    (void)svc;
    char nobody[32];
    uint8_t random[12];
    randombytes_buf(random, sizeof(random));
    hex_encode(random, sizeof(random), nobody);
    int r = first_start(a);
    if (r == 0)
        r = load(a);
    if (r == 0)
        r = password_hash_now(nobody, a->dummy_hash);
    if (r == 0)
        r = sessions_load(a);
    if (r == 0)
        r = locks_open(a);
    floods_open(a);
    if (r == 0)
        r = secrets_open(a);
    if (r == 0)
        r = link_start(a);
    if (r < 0) {
        log_err("authd: cannot start error=%s", strerror(-r));
        return r;
    }
    sign_in_register_metrics();
    cert_expiry_start(a);
    return 0;
}

static void
authd_stop(void *self, struct svc *svc)
{
    struct authd *a = self;
    (void)svc;
    a->stopping = true;
    link_stop(a);
    sessions_close(a);
    floods_close(a);
    locks_close(a);
    cert_expiry_stop(a);
    vault_close(&a->vault);
    sodium_free(a->key);
    a->key = NULL;
}

int
main(int argc, char **argv)
{
    static const struct svc_internal internals[] = {
        { INTERNAL_AUTH_CHECK, authd_auth_check },
        { INTERNAL_AUTH_TOUCH, authd_auth_touch },
        { INTERNAL_AUTH_REFUSED, authd_auth_refused },
        { INTERNAL_CERT_PUBLISH, authd_cert_publish },
        { INTERNAL_INTEGRITY_TOLD, authd_integrity_told },
        { INTERNAL_SECURITY_FACTS, authd_security_facts },
        { 0, NULL },
    };
    static const struct svc_info info = {
        .name = "authd",
        .ops = authd_ops,
        .n_ops = &authd_n_ops,
        .internals = internals,
        .dbs = record_dbs,
        .n_dbs = N_DBS,
        .schema = 1,
        .open = authd_open,
        .start = authd_start,
        .stop = authd_stop,
    };
    static struct authd authd; /* too large for the stack */
    return svc_main(&info, &authd, argc, argv);
}
