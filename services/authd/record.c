#include "services/authd/record.h"

#include <errno.h>
#include <string.h>

#include "libcommon/buf.h"
#include "services/authd/permission.h"

#include "libcommon/banned.h"

const char *const record_dbs[N_DBS] = {
    [DB_USERS] = "users",       [DB_NAMES] = "user-names",  [DB_ROLES] = "roles",
    [DB_SESSIONS] = "sessions", [DB_LOCKS] = "locks",       [DB_CONFIG] = "config",
    [DB_KEY] = "key",           [DB_SERVICES] = "services", [DB_ADDONS] = "addons",
    [DB_CERTS] = "certs",       [DB_SECRETS] = "secrets",   [DB_OUTBOX] = "outbox",
};

enum { RECORD_MAX = 8192 };

/* ---- encoding ---- */

static void
put_text(struct buf *b, const char *text)
{
    buf_put_str16(b, text, strlen(text));
}

static void
get_text(struct rd *r, char *out, size_t size)
{
    size_t len;
    const char *text = rd_str16(r, &len);
    if (!text || len >= size) {
        r->bad = true;
        out[0] = '\0';
        return;
    }
    memcpy(out, text, len);
    out[len] = '\0';
}

static void
get_hash(struct rd *r, uint8_t out[RECORD_TOKEN_HASH_SIZE])
{
    const uint8_t *hash = rd_bytes(r, RECORD_TOKEN_HASH_SIZE);
    if (hash)
        memcpy(out, hash, RECORD_TOKEN_HASH_SIZE);
}

int
record_put(struct store_txn *txn, unsigned db, uint64_t id, struct buf *b)
{
    uint8_t key[8];
    int r = b->err ? b->err : store_put(txn, db, store_key_u64(key, id), 8, b->data, b->len);
    buf_done(b);
    return r;
}

/* ---- accounts ---- */

enum { MUST_CHANGE = 1, PASSWORD_IS_GIVEN = 2 };

int
user_decode(const void *value, size_t size, struct user_record *ret_user)
{
    struct rd r;
    struct user_record u = { 0 };
    rd_init(&r, value, size);
    u.id = rd_u64(&r);
    get_text(&r, u.name, sizeof(u.name));
    u.has_email = rd_u8(&r);
    get_text(&r, u.email, sizeof(u.email));
    u.has_description = rd_u8(&r);
    get_text(&r, u.description, sizeof(u.description));
    u.is_active = rd_u8(&r);
    uint8_t flags = rd_u8(&r);
    u.must_change = flags & MUST_CHANGE;
    u.password_is_given = flags & PASSWORD_IS_GIVEN;
    u.created_us = (int64_t)rd_u64(&r);
    u.password_changed_us = (int64_t)rd_u64(&r);
    u.login_us = (int64_t)rd_u64(&r);
    u.n_roles = rd_u8(&r);
    if (u.n_roles > RECORD_ROLES_MAX)
        return -EPROTO;
    for (size_t i = 0; i < u.n_roles; i++)
        u.roles[i] = rd_u64(&r);
    get_text(&r, u.password, sizeof(u.password));
    if (!rd_ended(&r))
        return -EPROTO;
    *ret_user = u;
    return STORE_OK;
}

int
user_get(struct store_txn *txn, uint64_t id, struct user_record *ret_user)
{
    uint8_t key[8];
    const void *value;
    size_t size;
    int r = store_get(txn, DB_USERS, store_key_u64(key, id), 8, &value, &size);
    return r == STORE_OK ? user_decode(value, size, ret_user) : r;
}

int
user_by_name(struct store_txn *txn, const char *name, struct user_record *ret_user)
{
    const void *value;
    size_t size;
    int r = store_get(txn, DB_NAMES, name, strlen(name), &value, &size);
    if (r != STORE_OK)
        return r;
    return size == 8 ? user_get(txn, store_u64_key(value), ret_user) : -EPROTO;
}

int
user_put(struct store_txn *txn, const struct user_record *user)
{
    struct buf b;
    uint8_t key[8];
    buf_init(&b, RECORD_MAX);
    buf_put_u64(&b, user->id);
    put_text(&b, user->name);
    buf_put_u8(&b, user->has_email);
    put_text(&b, user->email);
    buf_put_u8(&b, user->has_description);
    put_text(&b, user->description);
    buf_put_u8(&b, user->is_active);
    buf_put_u8(&b, (user->must_change ? MUST_CHANGE : 0) |
                       (user->password_is_given ? PASSWORD_IS_GIVEN : 0));
    buf_put_u64(&b, (uint64_t)user->created_us);
    buf_put_u64(&b, (uint64_t)user->password_changed_us);
    buf_put_u64(&b, (uint64_t)user->login_us);
    buf_put_u8(&b, (uint8_t)user->n_roles);
    for (size_t i = 0; i < user->n_roles; i++)
        buf_put_u64(&b, user->roles[i]);
    put_text(&b, user->password);
    int r = store_put(txn, DB_NAMES, user->name, strlen(user->name),
                      store_key_u64(key, user->id), 8);
    if (r < 0) {
        buf_done(&b);
        return r;
    }
    return record_put(txn, DB_USERS, user->id, &b);
}

int
user_delete(struct store_txn *txn, const struct user_record *user)
{
    uint8_t key[8];
    int r = store_del(txn, DB_NAMES, user->name, strlen(user->name));
    return r < 0 ? r : store_del(txn, DB_USERS, store_key_u64(key, user->id), 8);
}

bool
user_has_role(const struct user_record *user, uint64_t role_id)
{
    for (size_t i = 0; i < user->n_roles; i++)
        if (user->roles[i] == role_id)
            return true;
    return false;
}

int
user_count_admins(struct store_txn *txn, uint64_t except, size_t *ret_n)
{
    CLEANUP(store_iter_done) struct store_iter it;
    struct user_record u;
    size_t n = 0;
    int r = store_iter_init(&it, txn, DB_USERS, NULL, 0, false);
    if (r < 0)
        return r;
    while ((r = store_iter_next(&it)) == STORE_OK) {
        r = user_decode(it.value, it.size, &u);
        if (r < 0)
            return r;
        n += u.is_active && u.id != except && user_has_role(&u, ROLE_ADMINISTRATOR);
    }
    if (r < 0)
        return r;
    *ret_n = n;
    return 0;
}

int
user_permissions(struct store_txn *txn, const struct user_record *user, uint64_t *ret_bits)
{
    uint64_t bits = 0, known;
    int r = permission_known(txn, &known);
    if (r < 0)
        return r;
    for (size_t i = 0; i < user->n_roles; i++) {
        struct role_record role;
        r = role_get(txn, user->roles[i], &role);
        if (r < 0)
            return r;
        if (r == STORE_OK)
            bits |= role_permissions(&role, known);
    }
    *ret_bits = bits & known;
    return 0;
}

/* ---- roles ---- */

int
role_decode(const void *value, size_t size, struct role_record *ret_role)
{
    struct rd r;
    struct role_record role = { 0 };
    rd_init(&r, value, size);
    role.id = rd_u64(&r);
    get_text(&r, role.name, sizeof(role.name));
    get_text(&r, role.description, sizeof(role.description));
    role.permissions = rd_u64(&r);
    if (!rd_ended(&r))
        return -EPROTO;
    *ret_role = role;
    return STORE_OK;
}

int
role_get(struct store_txn *txn, uint64_t id, struct role_record *ret_role)
{
    uint8_t key[8];
    const void *value;
    size_t size;
    int r = store_get(txn, DB_ROLES, store_key_u64(key, id), 8, &value, &size);
    return r == STORE_OK ? role_decode(value, size, ret_role) : r;
}

int
role_put(struct store_txn *txn, const struct role_record *role)
{
    struct buf b;
    buf_init(&b, RECORD_MAX);
    buf_put_u64(&b, role->id);
    put_text(&b, role->name);
    put_text(&b, role->description);
    buf_put_u64(&b, role->permissions);
    return record_put(txn, DB_ROLES, role->id, &b);
}

int
role_delete(struct store_txn *txn, uint64_t id)
{
    uint8_t key[8];
    return store_del(txn, DB_ROLES, store_key_u64(key, id), 8);
}

uint64_t
role_permissions(const struct role_record *role, uint64_t known)
{
    return role->id == ROLE_ADMINISTRATOR ? known : role->permissions;
}

/* ---- service accounts ---- */

int
service_decode(const void *value, size_t size, struct service_record *ret_service)
{
    struct rd r;
    struct service_record s = { 0 };
    rd_init(&r, value, size);
    s.id = rd_u64(&r);
    get_text(&r, s.name, sizeof(s.name));
    get_text(&r, s.display_name, sizeof(s.display_name));
    s.created_us = (int64_t)rd_u64(&r);
    s.addons = rd_u64(&r);
    s.required = rd_u64(&r);
    get_hash(&r, s.token_hash);
    if (!rd_ended(&r))
        return -EPROTO;
    *ret_service = s;
    return STORE_OK;
}

int
service_get(struct store_txn *txn, const char *name, struct service_record *ret_service)
{
    const void *value;
    size_t size;
    int r = store_get(txn, DB_SERVICES, name, strlen(name), &value, &size);
    return r == STORE_OK ? service_decode(value, size, ret_service) : r;
}

int
service_put(struct store_txn *txn, const struct service_record *service)
{
    struct buf b;
    buf_init(&b, RECORD_MAX);
    buf_put_u64(&b, service->id);
    put_text(&b, service->name);
    put_text(&b, service->display_name);
    buf_put_u64(&b, (uint64_t)service->created_us);
    buf_put_u64(&b, service->addons);
    buf_put_u64(&b, service->required);
    buf_put(&b, service->token_hash, sizeof(service->token_hash));
    int r = b.err ? b.err
                  : store_put(txn, DB_SERVICES, service->name, strlen(service->name), b.data,
                              b.len);
    buf_done(&b);
    return r;
}

int
service_delete(struct store_txn *txn, const char *name)
{
    return store_del(txn, DB_SERVICES, name, strlen(name));
}

/* ---- sessions ---- */

int
session_decode(const void *value, size_t size, struct session_record *ret_session)
{
    struct rd r;
    struct session_record s = { 0 };
    rd_init(&r, value, size);
    s.id = rd_u64(&r);
    s.user_id = rd_u64(&r);
    s.created_us = (int64_t)rd_u64(&r);
    s.last_us = (int64_t)rd_u64(&r);
    s.life_us = rd_u64(&r);
    get_text(&r, s.addr, sizeof(s.addr));
    get_hash(&r, s.token_hash);
    s.n_tokens = rd_left(&r) > 0 ? rd_u8(&r) : 0; /* not yet there in the first records */
    if (s.n_tokens > SESSION_TOKENS_MAX)
        return -EPROTO;
    for (size_t i = 0; i < s.n_tokens; i++) {
        get_hash(&r, s.tokens[i].hash);
        s.tokens[i].end_us = (int64_t)rd_u64(&r);
    }
    if (!rd_ended(&r))
        return -EPROTO;
    *ret_session = s;
    return STORE_OK;
}

int
session_put(struct store_txn *txn, const struct session_record *session)
{
    struct buf b;
    buf_init(&b, RECORD_MAX);
    buf_put_u64(&b, session->id);
    buf_put_u64(&b, session->user_id);
    buf_put_u64(&b, (uint64_t)session->created_us);
    buf_put_u64(&b, (uint64_t)session->last_us);
    buf_put_u64(&b, session->life_us);
    put_text(&b, session->addr);
    buf_put(&b, session->token_hash, sizeof(session->token_hash));
    buf_put_u8(&b, (uint8_t)session->n_tokens);
    for (size_t i = 0; i < session->n_tokens; i++) {
        buf_put(&b, session->tokens[i].hash, sizeof(session->tokens[i].hash));
        buf_put_u64(&b, (uint64_t)session->tokens[i].end_us);
    }
    return record_put(txn, DB_SESSIONS, session->id, &b);
}

int
session_delete(struct store_txn *txn, uint64_t id)
{
    uint8_t key[8];
    return store_del(txn, DB_SESSIONS, store_key_u64(key, id), 8);
}

/* ---- numbers ---- */

int
record_number(struct store_txn *txn, const char *key, uint64_t *ret_value)
{
    const void *value;
    size_t size;
    int r = store_get(txn, DB_CONFIG, key, strlen(key), &value, &size);
    if (r < 0)
        return r;
    if (r == STORE_OK && size != 8)
        return -EPROTO;
    *ret_value = r == STORE_OK ? store_u64_key(value) : 0;
    return 0;
}

int
record_next(struct store_txn *txn, const char *key, uint64_t *ret_value)
{
    uint64_t n;
    uint8_t value[8];
    int r = record_number(txn, key, &n);
    if (r < 0)
        return r;
    r = store_put(txn, DB_CONFIG, key, strlen(key), store_key_u64(value, n + 1), 8);
    if (r == 0)
        *ret_value = n + 1;
    return r;
}
