/*
 * State that survives: one LMDB environment per daemon behind a small
 * interface. An answered commit is on disk. The map grows by itself between
 * transactions; one write transaction may add at most STORE_TXN_MAX bytes.
 * Any thread may use a store; a transaction, its values and its walks are for
 * the thread that began it. On the loop, whichever thread runs it at the
 * moment (loop_borrow), a writing transaction ends before the loop goes on.
 */
#ifndef FIELDGATE_STORE_H
#define FIELDGATE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store;
struct store_txn;

enum { STORE_OK, STORE_NOT_FOUND };
enum { STORE_TXN_MAX = 64 << 20, STORE_KEY_MAX = 511, STORE_DB_MAX = 48 };

/* Brings records from schema 'from' to 'from' + 1 inside 'txn'; 0 or -errno. */
typedef int store_migrate_fn(struct store_txn *txn, uint32_t from);

/*
 * Opens (and makes, mode 0700) directory 'dir'. 'dbs' names the tables, at
 * most STORE_DB_MAX - 1; table numbers below are their indexes. A store of an
 * older schema is migrated in one transaction, step by step; of a newer one
 * is refused with -EPROTO. Checks for dead readers. Returns 0 or -errno
 * (-EBUSY: another process holds it).
 */
int store_open(const char *dir, const char *const *dbs, size_t n_dbs, uint32_t schema,
               store_migrate_fn *migrate, struct store **ret_store);
/* Ends the views that are still open. */
void store_close(struct store *s);
/* 16 random bytes made with the store: which life of this state this is. */
const uint8_t *store_uuid(const struct store *s);

/* A reading view; several may be open. 0 or -errno. End with store_abort. */
int store_read(struct store *s, struct store_txn **ret_txn);
/*
 * The writing transaction. One at a time: waits while another thread has it
 * (a second of the same thread is a programmer's error).
 */
int store_begin(struct store *s, struct store_txn **ret_txn);
/* As store_begin, but without waiting: -EBUSY while another thread has it. For the loop. */
int store_try_begin(struct store *s, struct store_txn **ret_txn);
/* Is there one at this moment, of any thread? */
bool store_is_writing(struct store *s);
/*
 * Makes it durable; consumes txn whatever it returns. 0 or -errno: -ENOSPC
 * (disk full), -EIO, …; then nothing of it is seen. Only after an -EIO of the
 * very last write may the disk hold it nevertheless: the next transaction
 * opens the environment again and sees what is there. Blocks for one fsync.
 */
int store_commit(struct store_txn *txn);
void store_abort(struct store_txn *txn); /* NULL does nothing */
void store_abortp(struct store_txn **txn);

/* Values stay valid until the transaction ends or writes. STORE_OK, STORE_NOT_FOUND or -errno. */
int store_get(struct store_txn *txn, unsigned db, const void *key, size_t key_size,
              const void **ret_value, size_t *ret_size);
/* 0 or -errno. */
int store_put(struct store_txn *txn, unsigned db, const void *key, size_t key_size,
              const void *value, size_t size);
/* Like store_put for a key larger than every other: cheaper. */
int store_append(struct store_txn *txn, unsigned db, const void *key, size_t key_size,
                 const void *value, size_t size);
/* STORE_OK, STORE_NOT_FOUND or -errno. */
int store_del(struct store_txn *txn, unsigned db, const void *key, size_t key_size);
/* Empties a table. */
int store_clear(struct store_txn *txn, unsigned db);
/* Number of records. */
int store_count(struct store_txn *txn, unsigned db, uint64_t *ret_n);
/* Bytes of the pages that hold them. */
int store_bytes(struct store_txn *txn, unsigned db, uint64_t *ret_bytes);

/*
 * Walk in key order (memcmp). Start at the first key >= 'from' (NULL: the
 * first; with 'backwards' the last key <= 'from'). The walk ends with its
 * transaction or with store_iter_done, which comes before that or not at all.
 * Deleting the current record with store_iter_del is allowed, other writes to
 * the table are not.
 */
struct store_iter {
    void *cursor;
    bool started, backwards;
    const void *key;
    size_t key_size;
    const void *value;
    size_t size;
};
int store_iter_init(struct store_iter *it, struct store_txn *txn, unsigned db,
                    const void *from, size_t from_size, bool backwards);
/* STORE_OK with key and value set, STORE_NOT_FOUND at the end, or -errno. */
int store_iter_next(struct store_iter *it);
int store_iter_del(struct store_iter *it);
void store_iter_done(struct store_iter *it);

/* 32- and 64-bit keys in order of their value. */
static inline const void *
store_key_u64(uint8_t out[8], uint64_t v)
{
    for (int i = 7; i >= 0; i--, v >>= 8)
        out[i] = (uint8_t)v;
    return out;
}
static inline uint64_t
store_u64_key(const void *key)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | ((const uint8_t *)key)[i];
    return v;
}

/* For metrics. */
struct store_stats {
    uint64_t commits, commit_us_sum, used_bytes, failed_commits;
};
void store_get_stats(struct store *s, struct store_stats *ret_stats);

#endif
