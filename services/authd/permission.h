/*
 * The catalogue of permissions: the built-in ones of proto/permissions.yaml,
 * and those that add-ons bring with their service accounts.
 *
 * An add-on's id gets a bit of ADDON_BITS when an account first brings it, and
 * keeps it as long as a service account brings it or anybody holds it. It
 * gives something only while a service account brings it ("known"): a role
 * that holds it meanwhile goes on holding it, and has it again when the add-on
 * comes back.
 */
#ifndef FIELDGATE_AUTHD_PERMISSION_H
#define FIELDGATE_AUTHD_PERMISSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct api_call;
struct store_txn;

enum {
    ADDON_BIT_FIRST = 32, /* permissions.yaml stays below */
    ADDONS_MAX = 32,      /* of all service accounts */
    /* All 64 of this length still fit into a token. */
    ADDON_ID_SIZE = 33,
    ADDON_NAME_SIZE = 128 * 4 + 1, /* 128 characters of UTF-8 */
};
#define ADDON_BITS (UINT64_MAX << ADDON_BIT_FIRST)

struct addon_record {
    char id[ADDON_ID_SIZE];
    char name[ADDON_NAME_SIZE];
    uint8_t bit;
};

/* The built-in ones. */
extern const uint64_t permission_builtin;

/* Those that give something now. 0 or -errno. */
int permission_known(struct store_txn *txn, uint64_t *ret_bits);

/* The bit of an id, known or still held. STORE_OK, STORE_NOT_FOUND or -errno. */
int permission_find(struct store_txn *txn, const char *id, unsigned *ret_bit);

/* The ids of 'bits' by bit number, in memory of the call. 0 or -errno. */
int permission_ids(struct api_call *call, struct store_txn *txn, uint64_t bits,
                   const char ***ret_ids, size_t *ret_n);

/* ---- add-ons ---- */

/* "APP_<NAME>_RW" with NAME of capitals, digits and underscores, and not built in. */
bool addon_id_is_valid(const char *id);

/* By bit. STORE_OK, STORE_NOT_FOUND or -errno. */
int addon_by_bit(struct store_txn *txn, unsigned bit, struct addon_record *ret_addon);

/*
 * Names the add-on, giving it a bit if it has none yet. 0 with the bit,
 * ADDON_TOO_MANY when all are taken, or -errno.
 */
enum { ADDON_TOO_MANY = 1 };
int addon_put(struct store_txn *txn, const char *id, const char *name, unsigned *ret_bit);

/*
 * After a change of service accounts or roles: notes what is brought now, and
 * frees the bits that nobody brings or holds. 0 or -errno.
 */
int addons_settle(struct store_txn *txn);

#endif
