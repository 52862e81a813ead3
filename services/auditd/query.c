/*
 * Finding records. Most filters and orders need only the event and the
 * source, which stand in the index by time; texts of messages are looked for
 * in one walk over the records, whose outcome is kept as a bit per record.
 */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/str.h"
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

/* Like strcasestr(3), for text without a terminator; ASCII letters only. */
static bool
contains(struct trail_text t, const char *word)
{
    size_t n = strlen(word);
    int first = n ? tolower((unsigned char)word[0]) : 0;
    if (n == 0)
        return true;
    for (size_t i = 0; i + n <= t.len; i++) {
        if (tolower((unsigned char)t.p[i]) != first)
            continue;
        size_t k = 1;
        while (k < n && tolower((unsigned char)t.p[i + k]) == tolower((unsigned char)word[k]))
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

static bool
source_passes(const struct trail_filter *f, uint64_t key)
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
    if (!f->event_passes[event] || !source_passes(f, r->source_key))
        return false;
    if (event == trail_n_events && !has_word(&f->names, r->name.p, r->name.len))
        return false;
    for (size_t i = 0; i < f->messages.n; i++)
        if (contains(r->message, f->messages.words[i]))
            return true;
    return f->messages.n == 0;
}

/* ---- a page ---- */

enum { EVENTS_MAX = 512, RANKS_MAX = EVENTS_MAX };

struct search {
    struct store_txn *txn;
    const struct trail_filter *filter;
    uint64_t first_id, n_ids;
    uint8_t *bits;             /* by id - first_id: passes; NULL: event and source decide */
    bool bits_needed;          /* a message filter, or names of unknown events */
    uint16_t rank[EVENTS_MAX]; /* of an event in the wanted order */
    size_t n_ranks;
    uint64_t count[RANKS_MAX];               /* that pass, by rank */
    uint64_t from[RANKS_MAX], to[RANKS_MAX]; /* rows of the page, counted within the rank */
    uint64_t at[RANKS_MAX];                  /* where they go in the page */
    uint64_t seen[RANKS_MAX];
    uint64_t *ids;
    size_t n_found, limit;
};

static const char *
rank_text(size_t event, enum trail_order order)
{
    bool known = event < trail_n_events;
    switch (order) {
    case TRAIL_BY_CATEGORY:
        return known ? trail_events[event].category : "Maintenance";
    case TRAIL_BY_NAME:
        return known ? trail_events[event].name : "";
    case TRAIL_BY_SEVERITY:
        return known ? trail_events[event].severity : "notice";
    case TRAIL_BY_TIME:
    case TRAIL_BY_ID:
        break;
    }
    return "";
}

/* Equal texts share a rank; ranks follow the texts' order. */
static void
rank_events(struct search *s, enum trail_order order, bool descending)
{
    size_t greatest = 0;
    for (size_t i = 0; i <= trail_n_events; i++) {
        const char *mine = rank_text(i, order);
        size_t smaller = 0;
        for (size_t k = 0; k <= trail_n_events; k++) {
            /* Count each different text once. */
            const char *other = rank_text(k, order);
            bool repeated = false;
            for (size_t j = 0; j < k && !repeated; j++)
                repeated = str_eq(rank_text(j, order), other);
            int c = strcmp(other, mine);
            smaller += !repeated && (descending ? c > 0 : c < 0);
        }
        s->rank[i] = (uint16_t)smaller;
        greatest = smaller > greatest ? smaller : greatest;
    }
    s->n_ranks = greatest + 1;
}

static bool
passes(const struct search *s, uint64_t id, uint32_t event, uint64_t source_key,
       size_t *ret_rank)
{
    size_t i = s->filter->every_event && s->n_ranks == 1 ? 0 : trail_event_by_code(event);
    *ret_rank = s->rank[i];
    if (s->bits_needed) {
        uint64_t at = id - s->first_id;
        return at < s->n_ids && (s->bits[at / 8] >> (at % 8) & 1);
    }
    return s->filter->event_passes[i] && source_passes(s->filter, source_key);
}

/* One walk over the records decides what only their texts can tell. */
static int
read_texts(struct search *s)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    s->bits = calloc(s->n_ids / 8 + 1, 1);
    if (!s->bits)
        return -ENOMEM;
    int r = store_iter_init(&it, s->txn, TRAIL_DB_RECORDS, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct trail_record t;
        uint64_t id = store_u64_key(it.key), at = id - s->first_id;
        r = trail_decode(id, it.value, it.size, &t);
        if (r == 0 && at < s->n_ids && trail_filter_passes(s->filter, &t))
            s->bits[at / 8] = (uint8_t)(s->bits[at / 8] | 1u << (at % 8));
    }
    return r < 0 ? r : 0;
}

/* Index entries in order of time, or of arrival. */
static int
next_entry(struct store_iter *it, bool by_time, uint64_t *ret_id, uint32_t *ret_event,
           uint64_t *ret_source_key)
{
    int r = store_iter_next(it);
    if (r != STORE_OK)
        return r;
    const uint8_t *v = it->value, *k = it->key;
    if (it->size < 12 || it->key_size != (by_time ? 16u : 8u))
        return -EPROTO;
    *ret_id = get_u64(by_time ? k + 8 : k);
    *ret_event = get_u32(v);
    *ret_source_key = get_u64(v + 4);
    return STORE_OK;
}

static int
count_ranks(struct search *s)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    uint64_t id, key;
    uint32_t event;
    int r = store_iter_init(&it, s->txn, TRAIL_DB_TIMES, NULL, 0, false);
    while (r == 0 && (r = next_entry(&it, true, &id, &event, &key)) == STORE_OK) {
        size_t rank;
        if (passes(s, id, event, key, &rank))
            s->count[rank]++;
    }
    return r < 0 ? r : 0;
}

/* Which rows of each rank are on the page. */
static void
lay_out(struct search *s, uint64_t offset)
{
    uint64_t begin = 0, end = offset + s->limit;
    for (size_t i = 0; i < s->n_ranks; i++) {
        uint64_t after = begin + s->count[i];
        uint64_t from = begin > offset ? begin : offset, to = after < end ? after : end;
        s->from[i] = from - begin;
        s->to[i] = to > from ? to - begin : s->from[i];
        s->at[i] = from - offset;
        if (to > from)
            s->n_found += to - from;
        begin = after;
    }
}

static int
collect(struct search *s, bool by_time, bool descending)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    uint64_t id, key;
    uint32_t event;
    size_t left = s->n_found;
    int r = store_iter_init(&it, s->txn, by_time ? TRAIL_DB_TIMES : TRAIL_DB_RECORDS, NULL, 0,
                            descending);
    while (r == 0 && left > 0 &&
           (r = next_entry(&it, by_time, &id, &event, &key)) == STORE_OK) {
        size_t rank;
        if (!passes(s, id, event, key, &rank))
            continue;
        uint64_t row = s->seen[rank]++;
        if (row >= s->from[rank] && row < s->to[rank]) {
            s->ids[s->at[rank] + row - s->from[rank]] = id;
            left--;
        }
    }
    if (r >= 0 && left > 0) /* counted before, in the same view */
        r = -EPROTO;
    return r < 0 ? r : 0;
}

int
trail_query(struct store_txn *txn, const struct trail_state *state,
            const struct trail_filter *filter, enum trail_order order, bool descending,
            uint64_t offset, size_t limit, uint64_t ret_ids[TRAIL_PAGE_MAX], size_t *ret_n,
            uint64_t *ret_total)
{
    MUST(trail_n_events < EVENTS_MAX && limit <= TRAIL_PAGE_MAX);
    struct search *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    *s = (struct search){ .txn = txn,
                          .filter = filter,
                          .first_id = state->next_id - state->n,
                          .n_ids = state->n,
                          .ids = ret_ids,
                          .limit = limit };
    s->bits_needed = filter->messages.n > 0 || filter->unknown_names;
    bool by_rank = order != TRAIL_BY_TIME && order != TRAIL_BY_ID;
    s->n_ranks = 1;
    if (by_rank)
        rank_events(s, order, descending);
    int r = s->bits_needed ? read_texts(s) : 0;
    if (r == 0 && !s->bits_needed && filter->every_event && filter->sources.n == 0 && !by_rank)
        s->count[0] = state->n;
    else if (r == 0)
        r = count_ranks(s);
    if (r == 0) {
        lay_out(s, offset);
        r = collect(s, order == TRAIL_BY_TIME, descending);
    }
    if (r == 0) {
        *ret_n = s->n_found;
        *ret_total = 0;
        for (size_t i = 0; i < s->n_ranks; i++)
            *ret_total += s->count[i];
    }
    free(s->bits);
    free(s);
    return r;
}
