/*
 * The index beside the records: what orders and filters need of each, in
 * blocks of a page, and their messages for searches (messages.c). It holds
 * nothing that the records do not, and is made of them where it is missing.
 */
#include <errno.h>
#include <string.h>

#include "libcommon/base.h"
#include "services/auditd/trail.h"

#include "libcommon/banned.h"

int
trail_block_decode(const void *key, size_t key_size, const void *value, size_t size,
                   struct trail_block *ret_block)
{
    if (key_size != 8 || size <= TRAIL_BLOCK_HEAD || size > TRAIL_BLOCK_MAX ||
        (size - TRAIL_BLOCK_HEAD) % TRAIL_ENTRY_SIZE != 0)
        return -EPROTO;
    const uint8_t *p = value;
    *ret_block = (struct trail_block){ .first_id = store_u64_key(key) * TRAIL_BLOCK_IDS,
                                       .n = (size - TRAIL_BLOCK_HEAD) / TRAIL_ENTRY_SIZE,
                                       .least_us = (int64_t)get_u64(p),
                                       .most_us = (int64_t)get_u64(p + 8),
                                       .entries = p + TRAIL_BLOCK_HEAD };
    return STORE_OK;
}

int
trail_index_add(struct store_txn *txn, const struct trail_record *r)
{
    uint8_t key[8], block[TRAIL_BLOCK_MAX];
    const void *value;
    size_t size, at = (size_t)(r->id % TRAIL_BLOCK_IDS) * TRAIL_ENTRY_SIZE + TRAIL_BLOCK_HEAD;
    struct trail_block b = { .least_us = INT64_MAX, .most_us = INT64_MIN };
    store_key_u64(key, r->id / TRAIL_BLOCK_IDS);
    int got = store_get(txn, TRAIL_DB_INDEX, key, sizeof(key), &value, &size);
    if (got < 0)
        return got;
    if (got == STORE_OK) {
        if (trail_block_decode(key, sizeof(key), value, size, &b) < 0 || size != at)
            return -EPROTO;
        memcpy(block, value, size);
    } else {
        memset(block, 0, at);
    }
    put_u64(block, (uint64_t)(b.least_us < r->at_us ? b.least_us : r->at_us));
    put_u64(block + 8, (uint64_t)(b.most_us > r->at_us ? b.most_us : r->at_us));
    put_u64(block + at, (uint64_t)r->at_us);
    put_u64(block + at + 8, r->source_key);
    put_u32(block + at + 16, r->event);
    got = store_put(txn, TRAIL_DB_INDEX, key, sizeof(key), block, at + TRAIL_ENTRY_SIZE);
    if (got == 0 && r->id % TRAIL_BLOCK_IDS == TRAIL_BLOCK_IDS - 1)
        got = trail_messages_make(txn, r->id / TRAIL_BLOCK_IDS);
    return got;
}

int
trail_index_trim(struct store_txn *txn, uint64_t gone_id)
{
    uint8_t key[8];
    if (gone_id % TRAIL_BLOCK_IDS != TRAIL_BLOCK_IDS - 1)
        return 0; /* others of its block are still there */
    store_key_u64(key, gone_id / TRAIL_BLOCK_IDS);
    int r = store_del(txn, TRAIL_DB_INDEX, key, sizeof(key));
    if (r >= 0)
        r = store_del(txn, TRAIL_DB_MESSAGES, key, sizeof(key));
    return r < 0 ? r : 0;
}

/* The id that the index lacks first; 0 or -errno. */
static int
index_end(struct store_txn *txn, uint64_t first_id, uint64_t *ret_id)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    struct trail_block b;
    int r = store_iter_init(&it, txn, TRAIL_DB_INDEX, NULL, 0, true);
    if (r == 0)
        r = store_iter_next(&it);
    if (r == STORE_OK)
        r = trail_block_decode(it.key, it.key_size, it.value, it.size, &b);
    if (r < 0)
        return r;
    *ret_id = r == STORE_OK && b.first_id + b.n > first_id ? b.first_id + b.n : first_id;
    return 0;
}

int
trail_index_catch_up(struct store_txn *txn, const struct trail_state *state, unsigned most)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    uint8_t key[8];
    uint64_t from = 0;
    unsigned n = 0;
    int r = index_end(txn, state->next_id - state->n, &from);
    if (r == 0)
        r = store_iter_init(&it, txn, TRAIL_DB_RECORDS, store_key_u64(key, from), sizeof(key),
                            false);
    while (r == 0 && n < most && (r = store_iter_next(&it)) == STORE_OK) {
        struct trail_record t;
        r = trail_decode(store_u64_key(it.key), it.value, it.size, &t);
        if (r == 0)
            r = trail_index_add(txn, &t);
        n++;
    }
    if (r < 0)
        return r;
    return r == STORE_NOT_FOUND ? (int)n : (int)most;
}
