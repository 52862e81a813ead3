/*
 * The search for the records that pass a filter, block by block, some
 * milliseconds at a time. Events and sources are in the index, messages in
 * blocks of their own; only of the newest block, and for names of events that
 * the catalogue lacks, are the records themselves read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "services/auditd/trail.h"

#include "libcommon/banned.h"

/* ---- a block ---- */

struct look {
    struct store_txn *txn;
    const struct trail_filter *filter;
    uint64_t block;
    uint64_t from_id, to_id; /* the records of it that there are */
    bool knows_messages;     /* the bits are right as far as messages tell */
    uint8_t bits[TRAIL_BITS_SIZE];
};

static bool
is_unknown(uint32_t event)
{
    return trail_event_by_code(event) == trail_n_events;
}

static int
passes_record(const struct look *l, uint64_t id, bool *ret_passes)
{
    struct trail_record t;
    int r = trail_get(l->txn, id, &t);
    if (r != STORE_OK)
        return r < 0 ? r : -EPROTO;
    *ret_passes = trail_filter_passes(l->filter, &t);
    return 0;
}

static int
passes_entry(const struct look *l, uint64_t id, const uint8_t *entry, bool *ret_passes)
{
    const struct trail_filter *f = l->filter;
    uint32_t event = get_u32(entry + 16);
    bool passes = f->event_passes[trail_event_by_code(event)] &&
                  trail_filter_passes_source(f, get_u64(entry + 8));
    if (passes && (!l->knows_messages || (f->unknown_names && is_unknown(event))))
        return passes_record(l, id, ret_passes);
    *ret_passes = passes;
    return 0;
}

/* Clears the bits of those that do not pass for another reason than their message. */
static int
look_at_index(struct look *l)
{
    uint8_t key[8];
    const void *value;
    size_t size;
    struct trail_block b = { 0 };
    int r = store_get(l->txn, TRAIL_DB_INDEX, store_key_u64(key, l->block), sizeof(key), &value,
                      &size);
    if (r == STORE_OK)
        r = trail_block_decode(key, sizeof(key), value, size, &b);
    if (r == STORE_NOT_FOUND || (r == STORE_OK && b.first_id + b.n < l->to_id))
        return -EPROTO;
    for (uint64_t id = l->from_id; r == 0 && id < l->to_id; id++) {
        uint64_t i = id - b.first_id;
        bool passes = l->bits[i / 8] >> i % 8 & 1;
        if (passes)
            r = passes_entry(l, id, b.entries + i * TRAIL_ENTRY_SIZE, &passes);
        if (!passes)
            l->bits[i / 8] = (uint8_t)(l->bits[i / 8] & ~(1u << i % 8));
    }
    return r;
}

static int
look_at_block(struct look *l)
{
    const struct trail_filter *f = l->filter;
    int r = STORE_OK;
    memset(l->bits, 0xff, sizeof(l->bits));
    if (f->messages.n > 0)
        r = trail_messages_find(l->txn, l->block, f->lower_messages, f->messages.n, l->bits);
    if (r < 0)
        return r;
    l->knows_messages = r == STORE_OK;
    bool is_over = l->knows_messages && f->every_event && f->sources.n == 0;
    return is_over ? 0 : look_at_index(l);
}

/* ---- a search ---- */

static void
put_words(struct buf *b, const struct trail_words *w)
{
    buf_put_u16(b, (uint16_t)w->n);
    for (size_t i = 0; i < w->n; i++)
        buf_put_str16(b, w->words[i], strlen(w->words[i]));
}

/* Something that is the same for the same filter only. */
static int
put_filter(struct buf *b, const struct trail_filter *f)
{
    put_words(b, &f->categories);
    put_words(b, &f->names);
    put_words(b, &f->severities);
    put_words(b, &f->sources);
    put_words(b, &f->messages);
    return b->err;
}

void
trail_search_done(struct trail_search *s)
{
    buf_done(&s->filter);
    free(s->bits);
    *s = (struct trail_search){ 0 };
}

/* Makes 's' one of this filter, without bits unless it was that already. */
static int
begin_search(struct trail_search *s, const struct trail_state *state,
             const struct trail_filter *filter)
{
    struct buf wanted;
    uint64_t first_id = state->next_id - state->n;
    buf_init(&wanted, 1 << 20);
    int r = put_filter(&wanted, filter);
    bool is_same = r == 0 && wanted.len == s->filter.len && s->first_id <= first_id &&
                   s->end_id <= state->next_id && s->end_id >= first_id &&
                   memcmp(wanted.data, s->filter.data, wanted.len) == 0;
    if (is_same || r < 0) {
        buf_done(&wanted);
        return r;
    }
    trail_search_done(s);
    s->filter = wanted;
    s->first_id = first_id - first_id % TRAIL_BLOCK_IDS;
    s->end_id = first_id;
    return 0;
}

static int
make_bits(struct trail_search *s, uint64_t end_id)
{
    uint64_t blocks = (end_id - s->first_id) / TRAIL_BLOCK_IDS + 1;
    uint8_t *bits = realloc(s->bits, (size_t)blocks * TRAIL_BITS_SIZE);
    if (bits == NULL)
        return -ENOMEM;
    s->bits = bits;
    return 0;
}

/* The block of the record that 's' does not have yet; again, when it has some of it. */
static int
search_block(struct trail_search *s, struct store_txn *txn, const struct trail_state *state,
             const struct trail_filter *filter)
{
    uint64_t trail_id = state->next_id - state->n;
    uint64_t first_id = s->end_id - s->end_id % TRAIL_BLOCK_IDS;
    uint64_t end_id = first_id + TRAIL_BLOCK_IDS;
    struct look l = { .txn = txn,
                      .filter = filter,
                      .block = first_id / TRAIL_BLOCK_IDS,
                      .from_id = first_id > trail_id ? first_id : trail_id,
                      .to_id = end_id < state->next_id ? end_id : state->next_id };
    int r = look_at_block(&l);
    if (r < 0)
        return r;
    memcpy(s->bits + (first_id - s->first_id) / 8, l.bits, sizeof(l.bits));
    s->end_id = l.to_id;
    return 0;
}

int
trail_search_step(struct store_txn *txn, const struct trail_state *state,
                  const struct trail_filter *filter, struct trail_search *s, uint64_t until_us)
{
    int r = begin_search(s, state, filter);
    if (r == 0)
        r = make_bits(s, state->next_id);
    while (r == 0 && s->end_id < state->next_id) {
        r = search_block(s, txn, state, filter);
        if (clock_mono_us() >= until_us)
            break;
    }
    if (r < 0) {
        trail_search_done(s);
        return r;
    }
    return s->end_id < state->next_id ? TRAIL_SEARCH_MORE : TRAIL_SEARCH_DONE;
}
