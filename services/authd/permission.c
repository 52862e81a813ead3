#include "services/authd/permission.h"

#include <errno.h>
#include <string.h>

#include "gen/permissions.h"
#include "libcommon/api.h"
#include "libcommon/str.h"
#include "services/authd/record.h"

#include "libcommon/banned.h"

/* In DB_CONFIG: the bits that service accounts bring. */
static const char brought_key[] = "addons";

#define X(bit, id, name, description) | UINT64_C(1) << (bit)
const uint64_t permission_builtin = 0 PERMISSION_TABLE(X);
#undef X

static const char *
builtin_id(unsigned bit)
{
    switch (bit) {
#define X(number, word, name, description)                                                     \
    case (number):                                                                             \
        return #word;
        PERMISSION_TABLE(X)
#undef X
    }
    return NULL;
}

static bool
find_builtin(const char *id, unsigned *ret_bit)
{
#define X(bit, word, name, description)                                                        \
    if (str_eq(id, #word)) {                                                                   \
        *ret_bit = (bit);                                                                      \
        return true;                                                                           \
    }
    PERMISSION_TABLE(X)
#undef X
    return false;
}

int
permission_known(struct store_txn *txn, uint64_t *ret_bits)
{
    uint64_t brought;
    int r = record_number(txn, brought_key, &brought);
    if (r == 0)
        *ret_bits = permission_builtin | (brought & ADDON_BITS);
    return r;
}

/* ---- records: id -> bit, name ---- */

static int
decode_value(const void *value, size_t size, struct addon_record *ret_addon)
{
    struct rd r;
    rd_init(&r, value, size);
    ret_addon->bit = rd_u8(&r);
    size_t len;
    const char *name = rd_str16(&r, &len);
    if (!rd_ended(&r) || ret_addon->bit < ADDON_BIT_FIRST ||
        ret_addon->bit >= ADDON_BIT_FIRST + ADDONS_MAX ||
        str_copy_len(ret_addon->name, sizeof(ret_addon->name), name, len) < 0)
        return -EPROTO;
    return STORE_OK;
}

static int
decode(const struct store_iter *it, struct addon_record *ret_addon)
{
    if (str_copy_len(ret_addon->id, sizeof(ret_addon->id), it->key, it->key_size) < 0)
        return -EPROTO;
    return decode_value(it->value, it->size, ret_addon);
}

static int
put(struct store_txn *txn, const struct addon_record *addon)
{
    struct buf b;
    buf_init(&b, ADDON_NAME_SIZE + 16);
    buf_put_u8(&b, addon->bit);
    buf_put_str16(&b, addon->name, strlen(addon->name));
    int r =
        b.err ? b.err : store_put(txn, DB_ADDONS, addon->id, strlen(addon->id), b.data, b.len);
    buf_done(&b);
    return r;
}

int
permission_find(struct store_txn *txn, const char *id, unsigned *ret_bit)
{
    const void *value;
    size_t size;
    struct addon_record addon;
    if (find_builtin(id, ret_bit))
        return STORE_OK;
    if (!addon_id_is_valid(id))
        return STORE_NOT_FOUND;
    int r = store_get(txn, DB_ADDONS, id, strlen(id), &value, &size);
    if (r == STORE_OK)
        r = decode_value(value, size, &addon);
    if (r == STORE_OK)
        *ret_bit = addon.bit;
    return r;
}

static int
addon_ids(struct api_call *call, struct store_txn *txn, const char *ret_by_bit[64])
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int r = store_iter_init(&it, txn, DB_ADDONS, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct addon_record addon;
        r = decode(&it, &addon);
        if (r < 0)
            return r;
        ret_by_bit[addon.bit] = api_strdup(call, addon.id);
        if (!ret_by_bit[addon.bit])
            return -ENOMEM;
    }
    return r < 0 ? r : 0;
}

int
permission_ids(struct api_call *call, struct store_txn *txn, uint64_t bits,
               const char ***ret_ids, size_t *ret_n)
{
    const char *by_bit[64];
    const char **ids = api_alloc(call, 64 * sizeof(*ids));
    size_t n = 0;
    if (!ids)
        return -ENOMEM;
    for (unsigned bit = 0; bit < 64; bit++)
        by_bit[bit] = builtin_id(bit);
    int r = bits & ADDON_BITS ? addon_ids(call, txn, by_bit) : 0;
    if (r < 0)
        return r;
    for (unsigned bit = 0; bit < 64; bit++)
        if (bits >> bit & 1 && by_bit[bit])
            ids[n++] = by_bit[bit];
    *ret_ids = ids;
    *ret_n = n;
    return 0;
}

/* ---- add-ons ---- */

bool
addon_id_is_valid(const char *id)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    size_t len = strlen(id);
    unsigned bit;
    return len > strlen("APP__RW") && len < ADDON_ID_SIZE && strncmp(id, "APP_", 4) == 0 &&
           str_eq(id + len - 3, "_RW") && strspn(id, allowed) == len && !find_builtin(id, &bit);
}

int
addon_by_bit(struct store_txn *txn, unsigned bit, struct addon_record *ret_addon)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int r = store_iter_init(&it, txn, DB_ADDONS, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        r = decode(&it, ret_addon);
        if (r < 0 || ret_addon->bit == bit)
            return r;
    }
    return r;
}

/* The lowest bit that no add-on has. 0, ADDON_TOO_MANY or -errno. */
static int
free_bit(struct store_txn *txn, uint8_t *ret_bit)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    uint64_t taken = 0;
    int r = store_iter_init(&it, txn, DB_ADDONS, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct addon_record addon;
        r = decode(&it, &addon);
        if (r == 0)
            taken |= UINT64_C(1) << addon.bit;
    }
    if (r < 0)
        return r;
    for (unsigned bit = ADDON_BIT_FIRST; bit < ADDON_BIT_FIRST + ADDONS_MAX; bit++)
        if (!(taken >> bit & 1)) {
            *ret_bit = (uint8_t)bit;
            return 0;
        }
    return ADDON_TOO_MANY;
}

int
addon_put(struct store_txn *txn, const char *id, const char *name, unsigned *ret_bit)
{
    struct addon_record addon = { 0 };
    unsigned bit;
    int r = permission_find(txn, id, &bit);
    if (r == STORE_OK)
        addon.bit = (uint8_t)bit;
    else if (r == STORE_NOT_FOUND)
        r = free_bit(txn, &addon.bit);
    if (r == 0)
        r = str_copy(addon.id, sizeof(addon.id), id);
    if (r == 0)
        r = str_copy(addon.name, sizeof(addon.name), name);
    if (r == 0)
        r = put(txn, &addon);
    if (r == 0)
        *ret_bit = addon.bit;
    return r;
}

/* What service accounts bring, and what they and roles hold. */
static int
add_services(struct store_txn *txn, uint64_t *brought, uint64_t *held)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int r = store_iter_init(&it, txn, DB_SERVICES, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct service_record service;
        r = service_decode(it.value, it.size, &service);
        if (r == 0) {
            *brought |= service.addons;
            *held |= service.required;
        }
    }
    return r < 0 ? r : 0;
}

static int
add_roles(struct store_txn *txn, uint64_t *held)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int r = store_iter_init(&it, txn, DB_ROLES, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct role_record role;
        r = role_decode(it.value, it.size, &role);
        if (r == 0)
            *held |= role.permissions;
    }
    return r < 0 ? r : 0;
}

int
addons_settle(struct store_txn *txn)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    uint64_t brought = 0, held = 0;
    uint8_t value[8];
    int r = add_services(txn, &brought, &held);
    if (r == 0)
        r = add_roles(txn, &held);
    if (r == 0)
        r = store_put(txn, DB_CONFIG, brought_key, strlen(brought_key),
                      store_key_u64(value, brought), sizeof(value));
    if (r == 0)
        r = store_iter_init(&it, txn, DB_ADDONS, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct addon_record addon;
        r = decode(&it, &addon);
        if (r == 0 && !((brought | held) >> addon.bit & 1))
            r = store_iter_del(&it);
    }
    return r < 0 ? r : 0;
}
