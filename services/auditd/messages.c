/*
 * The messages of the records once more, packed for searching: a block of
 * them is one value that is looked through at the speed of memory, and a
 * message that many records share is looked at once. Made of the records when
 * the last one of a block arrives; those of the newest block are searched
 * themselves.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "services/auditd/trail.h"

#include "libcommon/banned.h"

/* ---- making a block ---- */

enum { SLOTS = 512 };
_Static_assert((int)TRAIL_BLOCK_IDS <= UINT8_MAX && (int)TRAIL_BLOCK_IDS < SLOTS / 2,
               "a byte is enough for the number of a message, the table for all of them");

struct maker {
    struct buf block;
    uint8_t slots[SLOTS]; /* number of a message + 1, by its hash; 0: free */
    size_t at[TRAIL_BLOCK_IDS], len[TRAIL_BLOCK_IDS];
    uint8_t n;
};

/* Copies 't' in lower case; a hash of that (FNV-1a). */
static uint32_t
copy_lower(char *to, struct trail_text t)
{
    uint32_t hash = UINT32_C(2166136261);
    for (size_t i = 0; i < t.len; i++) {
        to[i] = trail_lower(t.p[i]);
        hash = (hash ^ (uint8_t)to[i]) * UINT32_C(16777619);
    }
    return hash;
}

/* The number of a message, which is added when the block does not have it yet. */
static int
number_of(struct maker *m, struct trail_text message, uint8_t *ret_number)
{
    char *text = buf_reserve(&m->block, message.len + 1);
    if (text == NULL)
        return m->block.err;
    size_t slot = copy_lower(text, message) % SLOTS;
    text[message.len] = '\0';
    for (; m->slots[slot] != 0; slot = (slot + 1) % SLOTS) {
        uint8_t k = (uint8_t)(m->slots[slot] - 1);
        if (m->len[k] == message.len &&
            memcmp(m->block.data + m->at[k], text, message.len) == 0) {
            *ret_number = k;
            return 0;
        }
    }
    m->at[m->n] = m->block.len;
    m->len[m->n] = message.len;
    m->block.len += message.len + 1;
    *ret_number = m->n++;
    m->slots[slot] = m->n;
    return 0;
}

static int
make_block(struct maker *m, struct store_txn *txn, uint64_t number)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    uint8_t key[8], numbers[TRAIL_BLOCK_IDS] = { 0 };
    uint64_t first_id = number * TRAIL_BLOCK_IDS;
    buf_put(&m->block, numbers, sizeof(numbers));
    int r = m->block.err;
    if (r == 0)
        r = store_iter_init(&it, txn, TRAIL_DB_RECORDS, store_key_u64(key, first_id),
                            sizeof(key), false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct trail_record t;
        uint64_t id = store_u64_key(it.key);
        if (id - first_id >= TRAIL_BLOCK_IDS)
            break;
        r = trail_decode(id, it.value, it.size, &t);
        if (r == 0)
            r = number_of(m, t.message, &numbers[id - first_id]);
    }
    if (r < 0)
        return r;
    memcpy(m->block.data, numbers, sizeof(numbers));
    return 0;
}

int
trail_messages_make(struct store_txn *txn, uint64_t number)
{
    uint8_t key[8];
    struct maker m = { 0 };
    buf_init(&m.block, TRAIL_MESSAGES_MAX);
    int r = make_block(&m, txn, number);
    if (r == 0)
        r = store_put(txn, TRAIL_DB_MESSAGES, store_key_u64(key, number), sizeof(key),
                      m.block.data, m.block.len);
    buf_done(&m.block);
    return r;
}

/* ---- searching a block ---- */

/* Notes which of the texts, each with a NUL behind it, hold a word, by their numbers. */
static bool
find_word(const char *at, const char *end, const char *word, bool has[UINT8_MAX + 1])
{
    uint8_t number = 0;
    bool found = false;
    const char *hit, *nul;
    while (at < end && (hit = memmem(at, (size_t)(end - at), word, strlen(word))) != NULL) {
        while ((nul = memchr(at, '\0', (size_t)(end - at))) < hit) {
            at = nul + 1;
            number++;
        }
        has[number++] = found = true;
        at = nul + 1;
    }
    return found;
}

int
trail_messages_find(struct store_txn *txn, uint64_t block, const char *words, size_t n_words,
                    uint8_t ret_bits[TRAIL_BITS_SIZE])
{
    uint8_t key[8];
    const void *value;
    size_t size;
    int r = store_get(txn, TRAIL_DB_MESSAGES, store_key_u64(key, block), sizeof(key), &value,
                      &size);
    if (r != STORE_OK)
        return r;
    const uint8_t *numbers = value;
    const char *texts = (const char *)value + TRAIL_BLOCK_IDS;
    const char *end = (const char *)value + size;
    if (size <= TRAIL_BLOCK_IDS || end[-1] != '\0')
        return -EPROTO;
    bool has[UINT8_MAX + 1] = { false }, found = false;
    for (size_t i = 0; i < n_words; i++, words += strlen(words) + 1)
        found |= find_word(texts, end, words, has);
    memset(ret_bits, 0, TRAIL_BITS_SIZE);
    for (size_t i = 0; found && i < TRAIL_BLOCK_IDS; i++)
        if (has[numbers[i]])
            ret_bits[i / 8] = (uint8_t)(ret_bits[i / 8] | 1u << i % 8);
    return STORE_OK;
}
