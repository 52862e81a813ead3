/*
 * The trail: audit records in order of arrival, numbered without gaps, each
 * carrying the BLAKE2b hash of itself and of the record before it, so that an
 * edit or a gap in the stored trail can be found. Works on a store only.
 *
 * Record, as stored under its id (numbers big-endian):
 *   u32 event       the four characters of the event's id, 0 when unknown
 *   u64 source key  start of the source's BLAKE2b, for filters
 *   i64 at          wall clock, µs
 *   u64 request id  0: none
 *   text8 event name (only when the event is unknown), text8 daemon,
 *   text8 address, text16 source, text16 message, text16 detail
 *   32 bytes        BLAKE2b-256(hash of the record before, u64 id, all above)
 *
 * Block of the index, as stored under id / TRAIL_BLOCK_IDS:
 *   i64, i64        least and greatest 'at' of its records, also of rotated ones
 *   for each id from the block's first on: i64 at, u64 source key, u32 event
 *
 * Block of messages, stored likewise when all of its records are there:
 *   for each id from the block's first on: u8 number of its message
 *   message 0, 1, …: in lower case as far as ASCII goes, with a NUL behind it
 */
#ifndef FIELDGATE_AUDITD_TRAIL_H
#define FIELDGATE_AUDITD_TRAIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/buf.h"
#include "libcommon/store.h"

enum trail_db {
    TRAIL_DB_RECORDS,  /* id -> record */
    TRAIL_DB_INDEX,    /* number of a block of ids -> what orders and filters need of them */
    TRAIL_DB_SENDERS,  /* store uuid and name of a daemon -> its last sequence number */
    TRAIL_DB_CONFIG,   /* "setting", "state" */
    TRAIL_DB_MESSAGES, /* number of a block of ids -> their messages, for searches */
    TRAIL_DB_TIMES,    /* empty: an index of schema 1 */
    TRAIL_DB_OUTBOX,   /* auditd's own records on their way to itself; last, as audit.h asks */
    TRAIL_N_DBS
};
extern const char *const trail_dbs[TRAIL_N_DBS];
enum { TRAIL_SCHEMA = 2 };
/* Of store_open. What is left to do for schema 2 does trail_index_catch_up. */
int trail_migrate(struct store_txn *txn, uint32_t from);

enum {
    TRAIL_HASH_SIZE = 32,
    TRAIL_NAME_MAX = 64,
    TRAIL_DAEMON_MAX = 32,
    TRAIL_ADDR_MAX = 45,
    TRAIL_SOURCE_MAX = 128,
    TRAIL_MESSAGE_MAX = 512, /* bytes of UTF-8; longer text is cut */
    TRAIL_DETAIL_MAX = 4096,
    TRAIL_VALUE_MAX = 8192, /* bytes of a record as stored */
    TRAIL_REQUEST_ID_SIZE = 17,
};

/* Text inside a record: not terminated. */
struct trail_text {
    const char *p;
    size_t len;
};

struct trail_record {
    uint64_t id;
    uint32_t event;
    uint64_t source_key;
    int64_t at_us;
    uint64_t request_id;
    struct trail_text name, daemon, addr, source, message, detail;
    const uint8_t *hash;
};

/* What changes with every append; kept in the store beside the records. */
struct trail_state {
    uint64_t next_id;                   /* of the next record, from 1 */
    uint64_t n;                         /* records kept: ids next_id - n .. next_id - 1 */
    uint64_t bytes;                     /* that they take, about */
    uint8_t last_hash[TRAIL_HASH_SIZE]; /* of the newest record, ever */
    uint8_t base_hash[TRAIL_HASH_SIZE]; /* of the newest that was rotated away */
};

/* The event catalogue (proto/audit.yaml). */
struct trail_event {
    uint32_t code;
    const char *id, *name, *category, *severity;
};
extern const struct trail_event trail_events[];
extern const size_t trail_n_events;
/* Index by code or name; trail_n_events when there is none. */
size_t trail_event_by_code(uint32_t code);
size_t trail_event_by_name(const char *name, size_t len);
/* What a record shows; for unknown events "Maintenance" and "notice". */
struct trail_text trail_name(const struct trail_record *r);
const struct trail_event *trail_event_of(const struct trail_record *r);
/* As in X-Request-Id; empty for none. */
void trail_request_id(const struct trail_record *r, char ret_text[TRAIL_REQUEST_ID_SIZE]);

/* 0 or -errno. */
int trail_load(struct store_txn *txn, struct trail_state *ret_state);

/*
 * Adds a record: name, daemon, addr, source, message, detail (cut to their
 * limits), at_us and request_id are taken, the rest is filled. 'state' is the
 * caller's working copy: it counts once the transaction is committed. 0 or
 * -errno.
 */
int trail_append(struct store_txn *txn, struct trail_state *state,
                 const struct trail_record *in);

/*
 * Deletes at most 'most' of the oldest records while they take more than
 * 'bytes' or are older than 'before_us' (INT64_MIN: age does not matter).
 * Returns how many, or -errno.
 */
int trail_trim(struct store_txn *txn, struct trail_state *state, uint64_t bytes,
               int64_t before_us, unsigned most);

/* STORE_OK, STORE_NOT_FOUND or -errno. The texts live as long as the transaction. */
int trail_get(struct store_txn *txn, uint64_t id, struct trail_record *ret_record);
/* -EPROTO when the bytes are no record. */
int trail_decode(uint64_t id, const void *value, size_t size, struct trail_record *ret_record);

/*
 * Checks the chain of all records there were at the beginning, some at a
 * time. Without a key a chain proves only that it is whole: who can write the
 * store can make another. That, and records cut off at the end together with
 * the state, is found with the hash of a record that was noted elsewhere.
 */
struct trail_check {
    uint64_t since_id; /* the record noted elsewhere, 0: none, and its hash */
    uint8_t since_hash[TRAIL_HASH_SIZE];
    bool has_compared; /* it with the record; false at the end: that was rotated away, or
                          missing */
    uint64_t first_id, next_id;    /* checked: first_id .. next_id - 1 */
    uint64_t end_id;               /* of what is checked */
    uint64_t n;                    /* records checked */
    uint8_t hash[TRAIL_HASH_SIZE]; /* of next_id - 1 */
    uint8_t end_hash[TRAIL_HASH_SIZE];
    uint64_t bad_id;    /* the first that is wrong or missing; 0: none */
    const char *reason; /* what is wrong; NULL: nothing */
};
enum { TRAIL_CHECK_MORE, TRAIL_CHECK_DONE };
/* Sets all; then since_id and since_hash may be filled. */
void trail_check_begin(struct trail_check *c, const struct trail_state *state);
/* At most 'most' records. TRAIL_CHECK_MORE, TRAIL_CHECK_DONE or -errno. */
int trail_check_step(struct store_txn *txn, const struct trail_state *state,
                     struct trail_check *c, unsigned most);

uint64_t trail_source_key(const char *source, size_t len);

/* ---- the index (index.c) ---- */

enum {
    TRAIL_BLOCK_IDS = 200, /* so that a full block fits into a page */
    TRAIL_ENTRY_SIZE = 20,
    TRAIL_BLOCK_HEAD = 16,
    TRAIL_BLOCK_MAX = TRAIL_BLOCK_HEAD + TRAIL_BLOCK_IDS * TRAIL_ENTRY_SIZE,
};

struct trail_block {
    uint64_t first_id; /* of entry 0; ids before the trail's first mean nothing */
    size_t n;
    int64_t least_us, most_us;
    const uint8_t *entries; /* n * TRAIL_ENTRY_SIZE bytes */
};

/* STORE_OK, or -EPROTO when the bytes are no block. */
int trail_block_decode(const void *key, size_t key_size, const void *value, size_t size,
                       struct trail_block *ret_block);
/*
 * The index with one record more, the next one, which is stored already;
 * without those up to 'gone_id'. 0 or -errno.
 */
int trail_index_add(struct store_txn *txn, const struct trail_record *r);
int trail_index_trim(struct store_txn *txn, uint64_t gone_id);
/*
 * Adds records that the index lacks, at most 'most'. Returns how many it
 * added, less than 'most' when there are no more, or -errno.
 */
int trail_index_catch_up(struct store_txn *txn, const struct trail_state *state, unsigned most);

/* ---- messages for searches (messages.c) ---- */

enum { TRAIL_MESSAGES_MAX = TRAIL_BLOCK_IDS * (1 + TRAIL_VALUE_MAX) };
/* Those of a block whose last record has been stored. 0 or -errno. */
int trail_messages_make(struct store_txn *txn, uint64_t block);

enum { TRAIL_BITS_SIZE = TRAIL_BLOCK_IDS / 8 };
/*
 * Which records of a block have a message that holds one of 'words': those
 * lie one behind the other, in lower case, each with a NUL behind it. Bit
 * i % 8 of byte i / 8 is the block's id number i. STORE_OK; STORE_NOT_FOUND:
 * the block is not whole yet; or -errno.
 */
int trail_messages_find(struct store_txn *txn, uint64_t block, const char *words,
                        size_t n_words, uint8_t ret_bits[TRAIL_BITS_SIZE]);

static inline char
trail_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

/* ---- queries (query.c, search.c) ---- */

enum trail_order {
    TRAIL_BY_TIME,
    TRAIL_BY_ID,
    TRAIL_BY_CATEGORY,
    TRAIL_BY_NAME,
    TRAIL_BY_SEVERITY
};

struct trail_words {
    const char **words;
    size_t n;
};

struct trail_filter {
    struct trail_words categories, names, severities, sources, messages; /* n 0: everything */
    /* made by trail_filter_prepare */
    bool *event_passes; /* trail_n_events + 1; the last is for unknown events */
    uint64_t *source_keys;
    char *lower_messages; /* the words of 'messages', each with a NUL behind it */
    bool every_event, unknown_names;
};
/* 'filter' with its words set; the memory of the rest is the filter's. 0 or -ENOMEM. */
int trail_filter_prepare(struct trail_filter *filter);
void trail_filter_done(struct trail_filter *filter); /* not the words */
bool trail_filter_passes(const struct trail_filter *filter, const struct trail_record *r);
/* As far as the source tells. */
bool trail_filter_passes_source(const struct trail_filter *filter, uint64_t key);

/* Whether it may keep a record out: then a query begins with a search. */
bool trail_filter_needs_search(const struct trail_filter *filter);

/*
 * Which records pass a filter: one bit a record. Kept between queries, so
 * that the next page looks only at what is new. Begin with zeros.
 */
struct trail_search {
    struct buf filter;         /* whose search it is */
    uint64_t first_id, end_id; /* the bits are of these records */
    uint8_t *bits;
};
enum { TRAIL_SEARCH_MORE, TRAIL_SEARCH_DONE };
/*
 * Goes on with the search for 'filter' (begins anew when 's' is one for
 * another) until all records are looked at, or, after at least one block, the
 * monotonic clock says until_us. TRAIL_SEARCH_MORE, TRAIL_SEARCH_DONE, or
 * -errno: then 's' is empty.
 */
int trail_search_step(struct store_txn *txn, const struct trail_state *state,
                      const struct trail_filter *filter, struct trail_search *s,
                      uint64_t until_us);
void trail_search_done(struct trail_search *s);

enum { TRAIL_PAGE_MAX = 1000 };

/*
 * Finds the ids of one page: rows offset .. offset + limit - 1 of those that
 * pass, in that order. *ret_total counts all that pass. limit is at most
 * TRAIL_PAGE_MAX. Walks over the index a few times. 'search' is done in the
 * same transaction when the filter needs one. 0 or -errno.
 */
int trail_query(struct store_txn *txn, const struct trail_state *state,
                const struct trail_filter *filter, const struct trail_search *search,
                enum trail_order order, bool descending, uint64_t offset, size_t limit,
                uint64_t ret_ids[TRAIL_PAGE_MAX], size_t *ret_n, uint64_t *ret_total);

/* Place of a row in an order. */
struct trail_key {
    uint64_t primary; /* what is sorted by, as a number */
    uint64_t id;
};

/* All rows in order, some at a time, in any number of transactions. */
struct trail_walk {
    const struct trail_filter *filter; /* without its texts: the caller looks at those */
    enum trail_order order;
    bool descending;
    uint64_t first_id, end_id; /* as of the beginning: later records are not seen */
    bool has_begun;
    struct trail_key last;
};
/* The next rows, at most 'most'; 0: no more. 0; -ESTALE: records were rotated away since. */
int trail_walk_next(struct store_txn *txn, const struct trail_state *state,
                    struct trail_walk *walk, size_t most, struct trail_key *ret_keys,
                    size_t *ret_n);

#endif
