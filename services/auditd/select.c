/*
 * See select.h. The heads of the blocks tell between which primaries rows lie.
 * Rows of a page are then found like digits of a number: that range is cut
 * into buckets, a walk counts the rows of each, and the bucket that holds the
 * first row of the page becomes the range, until few enough rows are left to
 * be sorted, or a bucket is a single primary, in which rows are in order
 * already. A block whose rows all pass and fall into one bucket is counted
 * without looking into it.
 */
#include "services/auditd/select.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

enum {
    EVENTS_MAX = 512,
    BUCKETS = 4096,
    SORT_MAX = 32768, /* rows that are sorted rather than cut into more buckets */
};
_Static_assert((int)SORT_MAX >= (int)SELECT_PAGE_MAX, "a page can be sorted");

struct range {
    uint64_t from, to; /* primaries, both inside */
};

enum { SLOTS = 2048 }; /* several times the catalogue */
_Static_assert((int)EVENTS_MAX < (int)SLOTS / 2, "catalogue");

/* What there is to know of an event; found by its code, as a million are looked up. */
struct slot {
    uint32_t code; /* 0: free */
    uint16_t rank;
    bool passes;
};

struct select {
    struct select_what w;
    bool every; /* no row of the range is kept out */
    struct slot slots[SLOTS];
    struct slot unknown; /* events of no catalogue */
    uint64_t total;
    struct range all; /* of all rows, or wider; from > to: there are no blocks */

    struct range now;         /* that the buckets stand for */
    bool is_counted;          /* the buckets are those of 'all', and not used yet */
    unsigned shift;           /* a bucket is 2^shift primaries */
    uint64_t bucket[BUCKETS]; /* rows in it; then the number of its next row */
    size_t b_from, b_to;      /* the buckets of the page */
    uint64_t begin, end;      /* rows of the page, counted within 'now' */
    struct trail_key *keys;   /* rows found, and room for more */
    size_t n_keys;
};

/* ---- ranks ---- */

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

/* The rank of a text is the number of events whose text comes before it. */
static uint16_t
rank_of(const struct select *s, size_t event)
{
    uint16_t before = 0;
    if (s->w.order == TRAIL_BY_TIME || s->w.order == TRAIL_BY_ID)
        return 0;
    for (size_t k = 0; k <= trail_n_events; k++) {
        int c = strcmp(rank_text(k, s->w.order), rank_text(event, s->w.order));
        before = (uint16_t)(before + (s->w.descending ? c > 0 : c < 0));
    }
    return before;
}

static size_t
slot_of(uint32_t code)
{
    return code * UINT32_C(2654435769) >> 21;
}

static void
fill_slots(struct select *s)
{
    for (size_t i = 0; i <= trail_n_events; i++) {
        bool known = i < trail_n_events;
        struct slot slot = { .code = known ? trail_events[i].code : 0,
                             .rank = rank_of(s, i),
                             .passes = s->w.filter->event_passes[i] };
        size_t at = slot_of(slot.code);
        while (s->slots[at].code != 0)
            at = (at + 1) % SLOTS;
        *(known ? &s->slots[at] : &s->unknown) = slot;
    }
}

static const struct slot *
event_of(const struct select *s, uint32_t code)
{
    size_t at = slot_of(code);
    while (s->slots[at].code != code && s->slots[at].code != 0)
        at = (at + 1) % SLOTS;
    return s->slots[at].code != 0 ? &s->slots[at] : &s->unknown;
}

/* ---- rows ---- */

static uint64_t
primary_of_time(const struct select *s, int64_t at_us)
{
    uint64_t p = (uint64_t)at_us ^ UINT64_C(1) << 63; /* before 1970 first, too */
    return s->w.descending ? ~p : p;
}

/* Whether 'id' with 'primary' comes behind the row to go on from. */
static bool
is_behind(const struct select *s, uint64_t primary, uint64_t id)
{
    const struct trail_key *a = s->w.after;
    if (a == NULL)
        return true;
    if (primary != a->primary)
        return primary > a->primary;
    return s->w.descending ? id < a->id : id > a->id;
}

/* The primary of an entry of the index, and whether it is a row. */
static inline bool
read_entry(const struct select *s, uint64_t id, const uint8_t *entry, uint64_t *ret_primary)
{
    uint64_t i = id - s->w.bits_id;
    if (s->w.bits != NULL && !(s->w.bits[i / 8] >> (i % 8) & 1))
        return false;
    const struct slot *event = event_of(s, get_u32(entry + 16));
    *ret_primary =
        s->w.order == TRAIL_BY_TIME ? primary_of_time(s, (int64_t)get_u64(entry)) : event->rank;
    if (s->every)
        return true;
    if (s->w.bits == NULL &&
        (!event->passes || !trail_filter_passes_source(s->w.filter, get_u64(entry + 8))))
        return false;
    return is_behind(s, *ret_primary, id);
}

/* ---- walks over the index ---- */

/* What a walk does with a block as a whole; false: its rows one by one. */
typedef bool block_fn(struct select *s, struct range primaries, uint64_t first_id, size_t n);
typedef void row_fn(struct select *s, uint64_t primary, uint64_t id);

/* Between which primaries the rows of a block lie; wider is allowed. */
static struct range
range_of(const struct select *s, const struct trail_block *b)
{
    uint64_t least = primary_of_time(s, b->least_us), most = primary_of_time(s, b->most_us);
    switch (s->w.order) {
    case TRAIL_BY_TIME:
        return least < most ? (struct range){ least, most } : (struct range){ most, least };
    case TRAIL_BY_ID:
        return (struct range){ 0, 0 };
    case TRAIL_BY_CATEGORY:
    case TRAIL_BY_NAME:
    case TRAIL_BY_SEVERITY:
        break;
    }
    return (struct range){ 0, trail_n_events };
}

/* No bit of the block is set. */
static bool
is_without_rows(const struct select *s, const struct trail_block *b)
{
    static const uint8_t none[TRAIL_BITS_SIZE];
    return s->w.bits != NULL &&
           memcmp(s->w.bits + (b->first_id - s->w.bits_id) / 8, none, sizeof(none)) == 0;
}

static void
walk_block(struct select *s, const struct trail_block *b, block_fn *whole, row_fn *row)
{
    uint64_t from = b->first_id > s->w.first_id ? b->first_id : s->w.first_id;
    uint64_t to = b->first_id + b->n < s->w.end_id ? b->first_id + b->n : s->w.end_id;
    if (from >= to || is_without_rows(s, b))
        return;
    if (whole(s, range_of(s, b), s->w.descending ? to - 1 : from, (size_t)(to - from)))
        return;
    for (uint64_t i = 0; i < to - from; i++) {
        uint64_t id = s->w.descending ? to - 1 - i : from + i, primary;
        if (read_entry(s, id, b->entries + (id - b->first_id) * TRAIL_ENTRY_SIZE, &primary))
            row(s, primary, id);
    }
}

/* Blocks in order of ids, or backwards; 'done' ends it early. */
static int
walk(struct select *s, block_fn *whole, row_fn *row, bool (*done)(const struct select *s))
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    struct trail_block b;
    uint8_t key[8];
    if (s->w.first_id >= s->w.end_id)
        return 0;
    uint64_t from = s->w.descending ? s->w.end_id - 1 : s->w.first_id;
    int r = store_iter_init(&it, s->w.txn, TRAIL_DB_INDEX,
                            store_key_u64(key, from / TRAIL_BLOCK_IDS), sizeof(key),
                            s->w.descending);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        r = trail_block_decode(it.key, it.key_size, it.value, it.size, &b);
        if (r < 0)
            break;
        if (s->w.descending ? b.first_id + b.n <= s->w.first_id : b.first_id >= s->w.end_id)
            break;
        walk_block(s, &b, whole, row);
        if (done != NULL && done(s))
            break;
    }
    return r < 0 ? r : 0;
}

/* ---- between which primaries rows lie ---- */

static bool
measure_block(struct select *s, struct range primaries, uint64_t first_id, size_t n)
{
    (void)first_id;
    (void)n;
    s->all.from = primaries.from < s->all.from ? primaries.from : s->all.from;
    s->all.to = primaries.to > s->all.to ? primaries.to : s->all.to;
    return true;
}

/* ---- counting ---- */

static size_t
bucket_of(const struct select *s, uint64_t primary)
{
    return (size_t)((primary - s->now.from) >> s->shift);
}

static bool
is_outside(struct range a, struct range b)
{
    return a.to < b.from || a.from > b.to;
}

/* All of the block's rows in one bucket, and all of them rows. */
static bool
is_of_one_bucket(const struct select *s, struct range primaries)
{
    return s->every && primaries.from >= s->now.from && primaries.to <= s->now.to &&
           bucket_of(s, primaries.from) == bucket_of(s, primaries.to);
}

static bool
count_block(struct select *s, struct range primaries, uint64_t first_id, size_t n)
{
    (void)first_id;
    if (is_outside(primaries, s->now))
        return true;
    if (!is_of_one_bucket(s, primaries))
        return false;
    s->bucket[bucket_of(s, primaries.from)] += n;
    return true;
}

static void
count_row(struct select *s, uint64_t primary, uint64_t id)
{
    (void)id;
    if (primary >= s->now.from && primary <= s->now.to)
        s->bucket[bucket_of(s, primary)]++;
}

/* ---- taking ---- */

/* The primaries of the page's buckets. */
static struct range
page_range(const struct select *s)
{
    struct range r = { s->now.from + ((uint64_t)s->b_from << s->shift), s->now.to };
    if (s->b_to < bucket_of(s, s->now.to))
        r.to = s->now.from + ((uint64_t)(s->b_to + 1) << s->shift) - 1;
    return r;
}

static void
keep(struct select *s, uint64_t primary, uint64_t id)
{
    s->keys[s->n_keys++] = (struct trail_key){ primary, id };
}

static bool
gather_block(struct select *s, struct range primaries, uint64_t first_id, size_t n)
{
    (void)first_id;
    (void)n;
    return is_outside(primaries, page_range(s));
}

static void
gather_row(struct select *s, uint64_t primary, uint64_t id)
{
    struct range page = page_range(s);
    if (primary >= page.from && primary <= page.to && s->n_keys < SORT_MAX)
        keep(s, primary, id);
}

static int
compare_up(const void *a, const void *b)
{
    const struct trail_key *x = a, *y = b;
    if (x->primary != y->primary)
        return x->primary < y->primary ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int
compare_down(const void *a, const void *b)
{
    const struct trail_key *x = a, *y = b;
    if (x->primary != y->primary)
        return x->primary < y->primary ? -1 : 1;
    return x->id > y->id ? -1 : x->id < y->id;
}

/* All rows of the page's buckets, sorted; leaves those of the page. */
static int
take_sorted(struct select *s)
{
    uint64_t before = 0;
    for (size_t i = 0; i < s->b_from; i++)
        before += s->bucket[i];
    s->n_keys = 0;
    int r = walk(s, gather_block, gather_row, NULL);
    if (r < 0)
        return r;
    if (before + s->n_keys < s->end)
        return -EPROTO; /* counted before, in the same view */
    qsort(s->keys, s->n_keys, sizeof(*s->keys), s->w.descending ? compare_down : compare_up);
    s->n_keys = (size_t)(s->end - s->begin);
    memmove(s->keys, s->keys + (s->begin - before), s->n_keys * sizeof(*s->keys));
    return 0;
}

/* Buckets of a single primary: their rows come in order. */
static bool
place_block(struct select *s, struct range primaries, uint64_t first_id, size_t n)
{
    (void)first_id;
    if (is_outside(primaries, page_range(s)))
        return true;
    if (!is_of_one_bucket(s, primaries))
        return false;
    uint64_t *next = &s->bucket[bucket_of(s, primaries.from)];
    if (*next + n > s->begin && *next < s->end)
        return false;
    *next += n;
    return true;
}

static void
place_row(struct select *s, uint64_t primary, uint64_t id)
{
    if (primary < s->now.from || primary > s->now.to)
        return;
    uint64_t row = s->bucket[bucket_of(s, primary)]++;
    if (row < s->begin || row >= s->end)
        return;
    s->keys[row - s->begin] = (struct trail_key){ primary, id };
    s->n_keys++;
}

static bool
is_placed(const struct select *s)
{
    return s->n_keys == s->end - s->begin;
}

static int
take_placed(struct select *s)
{
    uint64_t row = 0;
    for (size_t i = 0; i < BUCKETS; i++) { /* from here on: the number of its next row */
        uint64_t n = s->bucket[i];
        s->bucket[i] = row;
        row += n;
    }
    s->n_keys = 0;
    int r = walk(s, place_block, place_row, is_placed);
    if (r == 0 && !is_placed(s))
        r = -EPROTO; /* counted before, in the same view */
    return r;
}

/* ---- a page ---- */

/* Cuts 'now' into buckets and counts them. 0 or -errno. */
static int
count(struct select *s)
{
    if (s->is_counted) {
        s->is_counted = false;
        return 0;
    }
    s->shift = 0;
    while ((s->now.to - s->now.from) >> s->shift >= BUCKETS)
        s->shift++;
    memset(s->bucket, 0, sizeof(s->bucket));
    return walk(s, count_block, count_row, NULL);
}

/* The buckets of the page; how many rows are in them. */
static uint64_t
find_buckets(struct select *s)
{
    uint64_t row = 0, n = 0;
    s->b_from = s->b_to = BUCKETS;
    for (size_t i = 0; i < BUCKETS && row < s->end; i++) {
        uint64_t after = row + s->bucket[i];
        if (after > s->begin) {
            s->b_from = s->b_from == BUCKETS ? i : s->b_from;
            s->b_to = i;
            n += s->bucket[i];
        }
        row = after;
    }
    return n;
}

/* The first bucket of the page becomes the range, its rows the page. */
static void
narrow(struct select *s)
{
    uint64_t before = 0;
    for (size_t i = 0; i < s->b_from; i++)
        before += s->bucket[i];
    uint64_t inside = s->bucket[s->b_from];
    s->b_to = s->b_from;
    s->now = page_range(s);
    s->begin -= before;
    s->end = s->end - before < inside ? s->end - before : inside;
}

/* Some rows, the first ones, of offset .. offset + limit - 1. */
static int
take_part(struct select *s, uint64_t offset, size_t limit)
{
    s->now = s->all;
    s->begin = offset;
    s->end = offset + limit;
    for (;;) {
        int r = count(s);
        if (r < 0)
            return r;
        uint64_t n = find_buckets(s);
        if (s->b_from == BUCKETS)
            return -EPROTO; /* counted before, in the same view */
        if (s->shift == 0)
            return take_placed(s);
        if (n <= SORT_MAX)
            return take_sorted(s);
        narrow(s);
    }
}

int
select_rows(struct select *s, uint64_t offset, size_t limit, struct trail_key *ret_keys,
            size_t *ret_n)
{
    MUST(limit <= SELECT_PAGE_MAX);
    uint64_t there = offset < s->total ? s->total - offset : 0;
    size_t wanted = there < limit ? (size_t)there : limit, n = 0;
    while (n < wanted) {
        int r = take_part(s, offset + n, wanted - n);
        if (r < 0)
            return r;
        memcpy(ret_keys + n, s->keys, s->n_keys * sizeof(*ret_keys));
        n += s->n_keys;
    }
    *ret_n = n;
    return 0;
}

uint64_t
select_total(const struct select *s)
{
    return s->total;
}

/* Between which primaries rows lie, and how many there are. 0 or -errno. */
static int
look_over(struct select *s)
{
    int r = 0;
    s->all = (struct range){ UINT64_MAX, 0 };
    if (s->w.order == TRAIL_BY_TIME)
        r = walk(s, measure_block, NULL, NULL);
    else
        s->all = range_of(s, &(struct trail_block){ 0 }); /* of any */
    if (r < 0 || s->all.from > s->all.to)
        return r;
    s->now = s->all;
    r = count(s);
    for (size_t i = 0; i < BUCKETS; i++)
        s->total += s->bucket[i];
    s->is_counted = true;
    return r;
}

int
select_new(const struct select_what *what, struct select **ret_select)
{
    MUST(trail_n_events < EVENTS_MAX);
    struct select *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return -ENOMEM;
    s->w = *what;
    const struct trail_filter *f = what->filter;
    s->every = what->bits == NULL && what->after == NULL && f->every_event && f->sources.n == 0;
    fill_slots(s);
    s->keys = malloc(SORT_MAX * sizeof(*s->keys));
    int r = s->keys == NULL ? -ENOMEM : look_over(s);
    if (r < 0)
        select_free(s);
    else
        *ret_select = s;
    return r;
}

void
select_free(struct select *s)
{
    if (s == NULL)
        return;
    free(s->keys);
    free(s);
}

void
select_freep(struct select **s)
{
    select_free(*s);
}
