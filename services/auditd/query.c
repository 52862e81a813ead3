/*
 * Finding records. Most filters and orders need only the event and the
 * source, which stand in the index; texts of messages are looked for in one
 * walk over the records, whose outcome is kept as a bit per record, for the
 * next page of the same search, too.
 */
#include <errno.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/str.h"
#include "services/auditd/select.h"
#include "services/auditd/trail.h"

#include "libcommon/banned.h"

static bool
has_word(const struct trail_words *w, const char *text, size_t len)
{
    for (size_t i = 0; i < w->n; i++)
        if (strlen(w->words[i]) == len && memcmp(w->words[i], text, len) == 0)
            return true;
    return w->n == 0;
}

static inline char
lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

/* Like strcasestr(3), for text without a terminator; ASCII letters only. */
static bool
contains(struct trail_text t, const char *word)
{
    size_t n = strlen(word);
    char first = lower(word[0]);
    if (n == 0)
        return true;
    for (size_t i = 0; i + n <= t.len; i++) {
        if (lower(t.p[i]) != first)
            continue;
        size_t k = 1;
        while (k < n && lower(t.p[i + k]) == lower(word[k]))
            k++;
        if (k == n)
            return true;
    }
    return false;
}

int
trail_filter_prepare(struct trail_filter *f)
{
    f->event_passes = calloc(trail_n_events + 1, sizeof(*f->event_passes));
    f->source_keys = calloc(f->sources.n + 1, sizeof(*f->source_keys));
    if (!f->event_passes || !f->source_keys)
        return -ENOMEM;
    f->every_event = true;
    /*
     * Of an unknown event's name only the record itself can tell. That costs
     * a walk over all records, so it is done only for names that the
     * catalogue does not have.
     */
    f->unknown_names = false;
    for (size_t i = 0; i < f->names.n; i++)
        f->unknown_names |=
            trail_event_by_name(f->names.words[i], strlen(f->names.words[i])) == trail_n_events;
    for (size_t i = 0; i <= trail_n_events; i++) {
        bool known = i < trail_n_events;
        const char *category = known ? trail_events[i].category : "Maintenance";
        const char *severity = known ? trail_events[i].severity : "notice";
        f->event_passes[i] =
            has_word(&f->categories, category, strlen(category)) &&
            has_word(&f->severities, severity, strlen(severity)) &&
            (known ? has_word(&f->names, trail_events[i].name, strlen(trail_events[i].name))
                   : f->names.n == 0 || f->unknown_names);
        f->every_event &= f->event_passes[i];
    }
    for (size_t i = 0; i < f->sources.n; i++)
        f->source_keys[i] = trail_source_key(f->sources.words[i], strlen(f->sources.words[i]));
    return 0;
}

void
trail_filter_done(struct trail_filter *f)
{
    free(f->event_passes);
    free(f->source_keys);
    f->event_passes = NULL;
    f->source_keys = NULL;
}

bool
trail_filter_passes_source(const struct trail_filter *f, uint64_t key)
{
    for (size_t i = 0; i < f->sources.n; i++)
        if (f->source_keys[i] == key)
            return true;
    return f->sources.n == 0;
}

bool
trail_filter_passes(const struct trail_filter *f, const struct trail_record *r)
{
    size_t event = trail_event_by_code(r->event);
    if (!f->event_passes[event] || !trail_filter_passes_source(f, r->source_key))
        return false;
    if (event == trail_n_events && !has_word(&f->names, r->name.p, r->name.len))
        return false;
    for (size_t i = 0; i < f->messages.n; i++)
        if (contains(r->message, f->messages.words[i]))
            return true;
    return f->messages.n == 0;
}

/* ---- texts ---- */

enum { TEXTS_MAX = 8 << 20 }; /* records whose bits are kept for the next page */

static void
put_words(struct buf *b, const struct trail_words *w)
{
    for (size_t i = 0; i < w->n; i++)
        buf_put_str16(b, w->words[i], strlen(w->words[i]));
    buf_putc(b, '\0');
}

/* Something that is the same for the same filter only. */
static int
write_filter(struct buf *b, const struct trail_filter *f)
{
    const struct trail_words *const all[] = { &f->categories, &f->names, &f->severities,
                                              &f->sources, &f->messages };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        buf_put_u16(b, (uint16_t)all[i]->n);
        put_words(b, all[i]);
    }
    return b->err;
}

void
trail_texts_done(struct trail_texts *t)
{
    buf_done(&t->filter);
    free(t->bits);
    *t = (struct trail_texts){ 0 };
}

/* Makes 't' one of this filter, without bits unless it was that already. */
static int
begin_texts(struct trail_texts *t, const struct trail_state *state,
            const struct trail_filter *filter)
{
    struct buf wanted;
    uint64_t first_id = state->next_id - state->n;
    buf_init(&wanted, 1 << 20);
    int r = write_filter(&wanted, filter);
    bool is_same = r == 0 && wanted.len == t->filter.len && t->first_id <= first_id &&
                   t->end_id <= state->next_id && t->end_id >= first_id &&
                   memcmp(wanted.data, t->filter.data, wanted.len) == 0;
    if (is_same || r < 0) {
        buf_done(&wanted);
        return r;
    }
    trail_texts_done(t);
    t->filter = wanted;
    /* Whole bytes, so that a search can begin at any of them. */
    t->first_id = t->end_id = first_id - first_id % 8;
    return 0;
}

static int
make_bits(struct trail_texts *t, uint64_t end_id)
{
    size_t old = (size_t)((t->end_id - t->first_id + 7) / 8);
    size_t size = (size_t)((end_id - t->first_id + 7) / 8);
    uint8_t *bits = realloc(t->bits, size + 1);
    if (bits == NULL)
        return -ENOMEM;
    memset(bits + old, 0, size + 1 - old);
    t->bits = bits;
    return 0;
}

/* Reads the records that 't' does not have yet. 0 or -errno. */
static int
read_texts(struct trail_texts *t, struct store_txn *txn, const struct trail_state *state,
           const struct trail_filter *filter)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    uint8_t key[8];
    int r = begin_texts(t, state, filter);
    if (r == 0)
        r = make_bits(t, state->next_id);
    if (r == 0)
        r = store_iter_init(&it, txn, TRAIL_DB_RECORDS, store_key_u64(key, t->end_id),
                            sizeof(key), false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct trail_record record;
        uint64_t at = store_u64_key(it.key) - t->first_id;
        if (at >= state->next_id - t->first_id)
            break;
        r = trail_decode(store_u64_key(it.key), it.value, it.size, &record);
        if (r == 0 && trail_filter_passes(filter, &record))
            t->bits[at / 8] = (uint8_t)(t->bits[at / 8] | 1u << (at % 8));
    }
    if (r < 0) {
        trail_texts_done(t);
        return r;
    }
    t->end_id = state->next_id;
    return 0;
}

/* ---- pages ---- */

/* A filter that only texts can decide. */
static bool
needs_texts(const struct trail_filter *f)
{
    return f->messages.n > 0 || f->unknown_names;
}

int
trail_query(struct store_txn *txn, const struct trail_state *state,
            const struct trail_filter *filter, struct trail_texts *texts,
            enum trail_order order, bool descending, uint64_t offset, size_t limit,
            uint64_t ret_ids[TRAIL_PAGE_MAX], size_t *ret_n, uint64_t *ret_total)
{
    MUST(limit <= TRAIL_PAGE_MAX);
    CLEANUP(select_freep) struct select *s = NULL;
    struct trail_key keys[TRAIL_PAGE_MAX];
    struct select_what what = { .txn = txn,
                                .filter = filter,
                                .order = order,
                                .descending = descending,
                                .first_id = state->next_id - state->n,
                                .end_id = state->next_id };
    int r = 0;
    if (needs_texts(filter)) {
        r = read_texts(texts, txn, state, filter);
        what.bits = texts->bits;
        what.bits_id = texts->first_id;
    }
    if (r == 0)
        r = select_new(&what, &s);
    if (r == 0)
        r = select_rows(s, offset, limit, keys, ret_n);
    if (r == 0) {
        *ret_total = select_total(s);
        for (size_t i = 0; i < *ret_n; i++)
            ret_ids[i] = keys[i].id;
    }
    if (texts->end_id - texts->first_id > TEXTS_MAX)
        trail_texts_done(texts);
    return r;
}

int
trail_walk_next(struct store_txn *txn, const struct trail_state *state, struct trail_walk *walk,
                size_t most, struct trail_key *ret_keys, size_t *ret_n)
{
    CLEANUP(select_freep) struct select *s = NULL;
    struct select_what what = { .txn = txn,
                                .filter = walk->filter,
                                .order = walk->order,
                                .descending = walk->descending,
                                .first_id = walk->first_id,
                                .end_id = walk->end_id,
                                .after = walk->has_begun ? &walk->last : NULL };
    if (state->next_id - state->n > walk->first_id)
        return -ESTALE;
    if (what.after != NULL && walk->order == TRAIL_BY_ID && walk->descending)
        what.end_id = walk->last.id;
    else if (what.after != NULL && walk->order == TRAIL_BY_ID)
        what.first_id = walk->last.id + 1;
    int r = select_new(&what, &s);
    if (r == 0)
        r = select_rows(s, 0, most, ret_keys, ret_n);
    if (r == 0 && *ret_n > 0) {
        walk->has_begun = true;
        walk->last = ret_keys[*ret_n - 1];
    }
    return r;
}
