/*
 * The audit trail on a real store: order, filters, pages, rotation, the chain.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "services/auditd/trail.h"

struct fixture {
    char dir[64];
    struct store *store;
    struct trail_state state;
    struct trail_search search;
};

static int
setup_schema(void **state, uint32_t schema, store_migrate_fn *migrate)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    (void)snprintf(f->dir, sizeof(f->dir), "/tmp/test_audit_trail.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    assert_int_equal(store_open(f->dir, trail_dbs, TRAIL_N_DBS, schema, migrate, &f->store), 0);
    f->state.next_id = 1;
    *state = f;
    return 0;
}

static int
setup(void **state)
{
    return setup_schema(state, TRAIL_SCHEMA, trail_migrate);
}

static int
setup_1(void **state)
{
    return setup_schema(state, 1, NULL);
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    char command[96];
    trail_search_done(&f->search);
    store_close(f->store);
    (void)snprintf(command, sizeof(command), "rm -r '%s'", f->dir);
    assert_int_equal(system(command), 0);
    free(f);
    return 0;
}

static struct trail_text
text(const char *s)
{
    return (struct trail_text){ s, strlen(s) };
}

static void
add(struct fixture *f, struct store_txn *txn, const char *event, const char *source,
    const char *message, int64_t at_us)
{
    struct trail_record in = { .name = text(event),
                               .daemon = text("authd"),
                               .addr = text("10.0.0.1"),
                               .source = text(source),
                               .message = text(message),
                               .detail = text("{}"),
                               .at_us = at_us,
                               .request_id = 255 };
    assert_int_equal(trail_append(txn, &f->state, &in), 0);
}

/*
 * 1 signIn admin, 2 signInFail eve, 3 tagWrite admin (the clock was set back),
 * 4 newEvent eve, 5 roleCreate admin
 */
static void
add_some(struct fixture *f)
{
    struct store_txn *txn;
    assert_int_equal(store_begin(f->store, &txn), 0);
    add(f, txn, "signIn", "admin", "admin signed in", 1000);
    add(f, txn, "signInFail", "eve", "Wrong password", 2000);
    add(f, txn, "tagWrite", "admin", "pump1 speed", 500);
    add(f, txn, "newEvent", "eve", "something of a later release", 4000);
    add(f, txn, "roleCreate", "admin", "Role operator made", 5000);
    assert_int_equal(store_commit(txn), 0);
}

/* Some blocks at a time, as the daemon does. */
static void
search_all(struct fixture *f, struct store_txn *txn, const struct trail_filter *filter)
{
    int r = TRAIL_SEARCH_MORE;
    while (trail_filter_needs_search(filter) && r == TRAIL_SEARCH_MORE)
        r = trail_search_step(txn, &f->state, filter, &f->search, 0);
    assert_true(r == TRAIL_SEARCH_DONE || !trail_filter_needs_search(filter));
}

/* Runs a query and compares ids, 0 at the end. */
static void
expect(struct fixture *f, struct trail_filter filter, enum trail_order order, bool descending,
       uint64_t offset, size_t limit, uint64_t total, const uint64_t *ids)
{
    static uint64_t got[TRAIL_PAGE_MAX];
    struct store_txn *txn;
    size_t n = 0, wanted = 0;
    uint64_t got_total = 0;
    while (ids[wanted])
        wanted++;
    assert_int_equal(trail_filter_prepare(&filter), 0);
    assert_int_equal(store_read(f->store, &txn), 0);
    search_all(f, txn, &filter);
    assert_int_equal(trail_query(txn, &f->state, &filter, &f->search, order, descending, offset,
                                 limit, got, &n, &got_total),
                     0);
    assert_int_equal(got_total, total);
    assert_int_equal(n, wanted);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(got[i], ids[i]);
    store_abort(txn);
    trail_filter_done(&filter);
}
#define IDS(...) ((const uint64_t[]){ __VA_ARGS__, 0 })
#define WORDS(...)                                                                             \
    {                                                                                          \
        (const char *[]){ __VA_ARGS__ },                                                       \
            sizeof((const char *[]){ __VA_ARGS__ }) / sizeof(const char *)                     \
    }

static void
record_comes_back_as_it_was(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn;
    struct trail_record r;
    add_some(f);
    assert_int_equal(store_read(f->store, &txn), 0);
    assert_int_equal(trail_get(txn, 2, &r), STORE_OK);
    assert_string_equal(trail_event_of(&r)->id, "AA11");
    assert_string_equal(trail_event_of(&r)->severity, "alert");
    assert_int_equal(r.request_id, 255);
    assert_int_equal(r.at_us, 2000);
    assert_memory_equal(r.message.p, "Wrong password", r.message.len);
    assert_memory_equal(r.addr.p, "10.0.0.1", r.addr.len);
    assert_int_equal(trail_get(txn, 4, &r), STORE_OK);
    assert_int_equal(r.event, 0);
    assert_memory_equal(trail_name(&r).p, "newEvent", 8);
    assert_int_equal(trail_get(txn, 6, &r), STORE_NOT_FOUND);
    store_abort(txn);
}

static void
state_is_the_same_after_loading(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn;
    struct trail_state loaded;
    add_some(f);
    assert_int_equal(store_read(f->store, &txn), 0);
    assert_int_equal(trail_load(txn, &loaded), 0);
    assert_memory_equal(&loaded, &f->state, sizeof(loaded));
    store_abort(txn);
}

static void
orders_sort_and_pages_cut(void **state)
{
    struct fixture *f = *state;
    struct trail_filter all = { 0 };
    add_some(f);
    expect(f, all, TRAIL_BY_ID, false, 0, 100, 5, IDS(1, 2, 3, 4, 5));
    expect(f, all, TRAIL_BY_ID, true, 1, 2, 5, IDS(4, 3));
    expect(f, all, TRAIL_BY_TIME, false, 0, 100, 5, IDS(3, 1, 2, 4, 5));
    expect(f, all, TRAIL_BY_TIME, true, 3, 100, 5, IDS(1, 3));
    expect(f, all, TRAIL_BY_TIME, true, 5, 100, 5, IDS(0));
    /* newEvent, roleCreate, signIn, signInFail, tagWrite; the unknown name sorts first */
    expect(f, all, TRAIL_BY_NAME, false, 0, 100, 5, IDS(4, 5, 1, 2, 3));
    expect(f, all, TRAIL_BY_NAME, true, 1, 3, 5, IDS(2, 1, 5));
    /* alert: 2; notice: the rest, by id */
    expect(f, all, TRAIL_BY_SEVERITY, false, 0, 3, 5, IDS(2, 1, 3));
    expect(f, all, TRAIL_BY_SEVERITY, true, 0, 100, 5, IDS(5, 4, 3, 1, 2));
    /* Account and Access: 1 2 5; Configuration Update: 3; Maintenance: 4 */
    expect(f, all, TRAIL_BY_CATEGORY, false, 2, 2, 5, IDS(5, 3));
}

static void
filters_pass_what_matches_one_word_of_each(void **state)
{
    struct fixture *f = *state;
    add_some(f);
    struct trail_filter names = { .names = WORDS("signIn", "tagWrite") };
    expect(f, names, TRAIL_BY_ID, false, 0, 100, 2, IDS(1, 3));
    struct trail_filter unknown = { .names = WORDS("newEvent", "signIn") };
    expect(f, unknown, TRAIL_BY_ID, false, 0, 100, 2, IDS(1, 4));
    struct trail_filter none = { .names = WORDS("noSuch") };
    expect(f, none, TRAIL_BY_ID, false, 0, 100, 0, IDS(0));
    struct trail_filter sources = { .sources = WORDS("eve") };
    expect(f, sources, TRAIL_BY_TIME, true, 0, 100, 2, IDS(4, 2));
    struct trail_filter part_of_source = { .sources = WORDS("ev") };
    expect(f, part_of_source, TRAIL_BY_TIME, true, 0, 100, 0, IDS(0));
    struct trail_filter messages = { .messages = WORDS("SIGNED", "speed") };
    expect(f, messages, TRAIL_BY_TIME, false, 0, 100, 2, IDS(3, 1));
    expect(f, messages, TRAIL_BY_TIME, false, 1, 1, 2, IDS(1));
    struct trail_filter both = { .severities = WORDS("alert"),
                                 .sources = WORDS("admin", "eve") };
    expect(f, both, TRAIL_BY_ID, false, 0, 100, 1, IDS(2));
    struct trail_filter categories = { .categories = WORDS("Maintenance") };
    expect(f, categories, TRAIL_BY_ID, false, 0, 100, 1, IDS(4));
}

static void
too_long_texts_are_cut_between_characters(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn;
    struct trail_record r;
    char message[TRAIL_MESSAGE_MAX + 40];
    memset(message, 'x', sizeof(message));
    memcpy(message + TRAIL_MESSAGE_MAX - 1, "\xc3\xbc", 2); /* a character across the limit */
    message[sizeof(message) - 1] = '\0';
    assert_int_equal(store_begin(f->store, &txn), 0);
    add(f, txn, "signIn", "admin", message, 1);
    assert_int_equal(trail_get(txn, 1, &r), STORE_OK);
    assert_int_equal(r.message.len, TRAIL_MESSAGE_MAX - 1);
    store_abort(txn);
}

/* A record noted elsewhere. */
struct noted {
    uint64_t id;
    uint8_t hash[TRAIL_HASH_SIZE];
};

/* The first id that is wrong or missing, 0: none; two records at a time. */
static uint64_t
check(const struct fixture *f, struct store_txn *txn, const struct noted *noted)
{
    struct trail_check c;
    trail_check_begin(&c, &f->state);
    if (noted) {
        c.since_id = noted->id;
        memcpy(c.since_hash, noted->hash, TRAIL_HASH_SIZE);
    }
    int r;
    while ((r = trail_check_step(txn, &f->state, &c, 2)) == TRAIL_CHECK_MORE)
        continue;
    assert_int_equal(r, TRAIL_CHECK_DONE);
    assert_true((c.reason == NULL) == (c.bad_id == 0));
    assert_true(c.reason != NULL || c.n == f->state.n);
    return c.bad_id;
}

static struct noted
note(const struct fixture *f)
{
    struct noted n = { .id = f->state.next_id - 1 };
    memcpy(n.hash, f->state.last_hash, TRAIL_HASH_SIZE);
    return n;
}

static void
trimming_takes_the_oldest_and_keeps_the_chain(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn;
    add_some(f);
    add_some(f);
    assert_int_equal(store_begin(f->store, &txn), 0);
    assert_int_equal(check(f, txn, NULL), 0);
    uint64_t bytes = f->state.bytes;
    /* by size: about half, two at a time */
    assert_int_equal(trail_trim(txn, &f->state, bytes / 2, INT64_MIN, 2), 2);
    assert_int_equal(trail_trim(txn, &f->state, bytes / 2, INT64_MIN, 100), 3);
    assert_int_equal(trail_trim(txn, &f->state, bytes / 2, INT64_MIN, 100), 0);
    assert_int_equal(f->state.n, 5);
    assert_int_equal(check(f, txn, NULL), 0);
    assert_int_equal(store_commit(txn), 0);
    expect(f, (struct trail_filter){ 0 }, TRAIL_BY_TIME, false, 0, 100, 5, IDS(8, 6, 7, 9, 10));

    /* by age: 6 (at 1000) and 7 (2000) go, 8 (500) with them; 9 (4000) stays */
    assert_int_equal(store_begin(f->store, &txn), 0);
    assert_int_equal(trail_trim(txn, &f->state, UINT64_MAX, 3000, 100), 3);
    assert_int_equal(check(f, txn, NULL), 0);
    /* all of them: numbers go on */
    assert_int_equal(trail_trim(txn, &f->state, 0, INT64_MIN, 100), 2);
    assert_int_equal(f->state.bytes, 0);
    add(f, txn, "signIn", "admin", "again", 9000);
    assert_int_equal(check(f, txn, NULL), 0);
    assert_int_equal(store_commit(txn), 0);
    expect(f, (struct trail_filter){ 0 }, TRAIL_BY_ID, false, 0, 100, 1, IDS(11));
}

static void
edit_is_found(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn;
    const void *value;
    size_t size;
    uint8_t key[8], copy[512];
    add_some(f);
    assert_int_equal(store_begin(f->store, &txn), 0);
    assert_int_equal(store_get(txn, TRAIL_DB_RECORDS, store_key_u64(key, 3), 8, &value, &size),
                     0);
    assert_true(size < sizeof(copy));
    memcpy(copy, value, size);
    copy[13] ^= 1; /* the time */
    assert_int_equal(store_put(txn, TRAIL_DB_RECORDS, key, 8, copy, size), 0);
    assert_int_equal(check(f, txn, NULL), 3);
    store_abort(txn);
}

static void
gap_is_found_wherever_it_is(void **state)
{
    struct fixture *f = *state;
    add_some(f);
    for (uint64_t id = 1; id <= 5; id++) {
        struct store_txn *txn;
        uint8_t key[8];
        assert_int_equal(store_begin(f->store, &txn), 0);
        assert_int_equal(store_del(txn, TRAIL_DB_RECORDS, store_key_u64(key, id), 8), 0);
        assert_int_equal(check(f, txn, NULL), id);
        store_abort(txn);
    }
}

/* ---- the index against sorting by hand ---- */

enum { MANY = 3000 };

struct row {
    uint64_t id;
    int64_t at_us;
    size_t event; /* 0 signIn, 1 signInFail, 2 of no catalogue */
    bool is_eve;
};

static const char *const event_names[] = { "signIn", "signInFail", "ofNoCatalogue" };
static enum trail_order sorted_by;
static bool sorted_down;

static int
compare_rows(const void *a, const void *b)
{
    const struct row *x = a, *y = b;
    static const int by_severity[] = { 1, 0, 1 }, by_name[] = { 1, 2, 0 };
    int c = 0;
    if (sorted_by == TRAIL_BY_TIME)
        c = x->at_us < y->at_us ? -1 : x->at_us > y->at_us;
    else if (sorted_by == TRAIL_BY_SEVERITY)
        c = by_severity[x->event] - by_severity[y->event];
    else if (sorted_by == TRAIL_BY_NAME)
        c = by_name[x->event] - by_name[y->event];
    if (c == 0)
        c = x->id < y->id ? -1 : 1;
    return sorted_down ? -c : c;
}

/* Clocks: running, standing still, jumping anywhere, mostly running. */
static int64_t
time_of(unsigned clock, size_t i)
{
    switch (clock) {
    case 0:
        return (int64_t)i * 1000000;
    case 1:
        return 77;
    case 2:
        return (int64_t)((uint64_t)random() << 33 ^ (uint64_t)random() << 10);
    default:
        return (int64_t)i * 1000000 - random() % 5000000 -
               (random() % 500 == 0 ? INT64_C(60) * 365 * 86400 * 1000000 : 0);
    }
}

static void
add_many(struct fixture *f, unsigned clock, struct row rows[MANY])
{
    struct store_txn *txn;
    assert_int_equal(store_begin(f->store, &txn), 0);
    for (size_t i = 0; i < MANY; i++) {
        rows[i] = (struct row){ .id = f->state.next_id,
                                .at_us = time_of(clock, i),
                                .event = (size_t)random() % 3,
                                .is_eve = random() % 5 == 0 };
        add(f, txn, event_names[rows[i].event], rows[i].is_eve ? "eve" : "sam", "m",
            rows[i].at_us);
    }
    assert_int_equal(store_commit(txn), 0);
}

/* Pages and the walk of one query, against 'rows', those that pass. */
static void
compare_with(struct fixture *f, const struct trail_filter *filter, struct row *rows, size_t n)
{
    static uint64_t got[TRAIL_PAGE_MAX];
    struct trail_key keys[100];
    struct trail_walk walk = { .filter = filter,
                               .order = sorted_by,
                               .descending = sorted_down,
                               .first_id = f->state.next_id - f->state.n,
                               .end_id = f->state.next_id };
    struct store_txn *txn;
    size_t n_got = 1;
    uint64_t total;
    qsort(rows, n, sizeof(*rows), compare_rows);
    assert_int_equal(store_read(f->store, &txn), 0);
    search_all(f, txn, filter);
    for (size_t at = 0; at <= n; at += 1 + (size_t)random() % 700) {
        size_t limit = 1 + (size_t)random() % TRAIL_PAGE_MAX;
        assert_int_equal(trail_query(txn, &f->state, filter, &f->search, sorted_by, sorted_down,
                                     at, limit, got, &n_got, &total),
                         0);
        assert_int_equal(total, n);
        assert_int_equal(n_got, n - at < limit ? n - at : limit);
        for (size_t i = 0; i < n_got; i++)
            assert_int_equal(got[i], rows[at + i].id);
    }
    for (size_t at = 0; n_got > 0; at += n_got) {
        assert_int_equal(trail_walk_next(txn, &f->state, &walk, 100, keys, &n_got), 0);
        assert_true(n_got > 0 || at == n);
        for (size_t i = 0; i < n_got; i++)
            assert_int_equal(keys[i].id, rows[at + i].id);
    }
    store_abort(txn);
}

static void
pages_are_those_of_a_sorted_list_whatever_the_clock_did(void **state)
{
    struct fixture *f = *state;
    struct trail_filter filters[] = { { 0 },
                                      { .sources = WORDS("eve") },
                                      { .severities = WORDS("notice") } };
    static struct row rows[MANY], passing[MANY];
    for (unsigned clock = 0; clock < 4; clock++) {
        struct store_txn *txn;
        assert_int_equal(store_begin(f->store, &txn), 0);
        assert_true(trail_trim(txn, &f->state, 0, INT64_MIN, UINT32_MAX) >= 0);
        assert_int_equal(store_commit(txn), 0);
        add_many(f, clock, rows);
        for (size_t k = 0; k < ARRAY_LEN(filters); k++) {
            size_t n = 0;
            for (size_t i = 0; i < MANY; i++)
                if (k == 0 || (k == 1 ? rows[i].is_eve : rows[i].event != 1))
                    passing[n++] = rows[i];
            assert_int_equal(trail_filter_prepare(&filters[k]), 0);
            static const enum trail_order orders[] = { TRAIL_BY_TIME, TRAIL_BY_ID,
                                                       TRAIL_BY_NAME, TRAIL_BY_SEVERITY };
            for (size_t o = 0; o < 2 * ARRAY_LEN(orders); o++) {
                sorted_by = orders[o / 2];
                sorted_down = o % 2;
                compare_with(f, &filters[k], passing, n);
            }
            trail_filter_done(&filters[k]);
        }
    }
}

/* One clock set wrong makes the range so wide that all the others look alike at first. */
static void
a_page_is_found_among_many_that_lie_close_together(void **state)
{
    enum { CLOSE = 70000 };
    struct fixture *f = *state;
    static uint64_t got[TRAIL_PAGE_MAX];
    struct trail_filter all = { 0 };
    struct store_txn *txn;
    uint64_t total;
    size_t n;
    assert_int_equal(trail_filter_prepare(&all), 0);
    assert_int_equal(store_begin(f->store, &txn), 0);
    add(f, txn, "signIn", "sam", "m", INT64_MIN);
    for (int64_t i = 0; i < CLOSE; i++)
        add(f, txn, "signIn", "sam", "m", INT64_MAX / 2 - i);
    add(f, txn, "signIn", "sam", "m", INT64_MAX);
    for (unsigned from = 0; from < CLOSE + 2; from += 777) {
        assert_int_equal(trail_query(txn, &f->state, &all, &f->search, TRAIL_BY_TIME, false,
                                     from, 1000, got, &n, &total),
                         0);
        assert_int_equal(total, CLOSE + 2);
        assert_int_equal(n, CLOSE + 2 - from < 1000 ? CLOSE + 2 - from : 1000);
        for (size_t i = 0; i < n; i++) {
            size_t row = from + i;
            uint64_t id = row == 0 || row == CLOSE + 1 ? row + 1 : CLOSE + 2 - row;
            assert_int_equal(got[i], id);
        }
    }
    assert_int_equal(store_commit(txn), 0);
    trail_filter_done(&all);
}

static void
reopen(struct fixture *f, uint32_t schema, store_migrate_fn *migrate)
{
    store_close(f->store);
    assert_int_equal(store_open(f->dir, trail_dbs, TRAIL_N_DBS, schema, migrate, &f->store), 0);
}

static void
an_index_that_lacks_records_is_completed(void **state)
{
    struct fixture *f = *state;
    static struct row rows[MANY];
    struct trail_filter all = { 0 };
    struct store_txn *txn;
    add_many(f, 0, rows);
    assert_int_equal(store_begin(f->store, &txn), 0);
    uint64_t bytes = f->state.bytes / 3;
    f->state.bytes += 777; /* counted in another way */
    assert_true(trail_trim(txn, &f->state, bytes, INT64_MIN, UINT32_MAX) > 0);
    assert_int_equal(store_clear(txn, TRAIL_DB_INDEX), 0); /* as schema 1 left it */
    assert_int_equal(store_clear(txn, TRAIL_DB_MESSAGES), 0);
    assert_int_equal(store_put(txn, TRAIL_DB_TIMES, "k", 1, "v", 1), 0);
    assert_int_equal(store_commit(txn), 0);
    uint64_t counted = f->state.bytes;
    reopen(f, TRAIL_SCHEMA, trail_migrate);
    uint64_t n_times;
    assert_int_equal(store_begin(f->store, &txn), 0);
    assert_int_equal(store_count(txn, TRAIL_DB_TIMES, &n_times), 0);
    assert_int_equal(n_times, 0);
    assert_int_equal(trail_load(txn, &f->state), 0);
    assert_int_equal(f->state.bytes, counted - 777);
    assert_int_equal(trail_index_catch_up(txn, &f->state, 100), 100);
    assert_int_equal(trail_index_catch_up(txn, &f->state, MANY), f->state.n - 100);
    assert_int_equal(trail_index_catch_up(txn, &f->state, MANY), 0);
    add(f, txn, "signIn", "sam", "m", 1); /* and it goes on from there */
    assert_int_equal(store_commit(txn), 0);
    size_t n = (size_t)f->state.n;
    memmove(rows + MANY - n, rows + MANY - n + 1, (n - 1) * sizeof(*rows));
    rows[MANY - 1] = (struct row){ .id = f->state.next_id - 1, .at_us = 1 };
    assert_int_equal(trail_filter_prepare(&all), 0);
    sorted_by = TRAIL_BY_TIME;
    sorted_down = true;
    compare_with(f, &all, rows + MANY - n, n);
    trail_filter_done(&all);
}

static void
a_search_for_texts_goes_on_with_what_is_new(void **state)
{
    struct fixture *f = *state;
    struct trail_filter speed = { .messages = WORDS("speed") };
    for (uint64_t i = 0; i < 5; i++) {
        add_some(f); /* "pump1 speed" is the third of five */
        struct trail_filter other = { .messages = WORDS("role") };
        if (i == 3) {
            expect(f, other, TRAIL_BY_ID, true, 0, 1, 4, IDS(20));
            struct store_txn *txn;
            assert_int_equal(store_begin(f->store, &txn), 0);
            assert_int_equal(trail_trim(txn, &f->state, 0, INT64_MIN, 4), 4);
            assert_int_equal(store_commit(txn), 0);
        }
        uint64_t total = i < 3 ? i + 1 : i;
        expect(f, speed, TRAIL_BY_ID, true, 0, 1, total, IDS(5 * i + 3));
        expect(f, speed, TRAIL_BY_ID, false, 0, 1, total, IDS(i < 3 ? 3 : 8));
    }
}

/* ---- searches against looking at every record ---- */

enum { TEXTS = 1700 };

struct said {
    const char *event;
    char source[8], message[TRAIL_MESSAGE_MAX + 1];
};

/* Said by many, or by one alone; nothing at all; as long as can be; of other alphabets. */
static void
say(struct said *s, unsigned i)
{
    static const char *const events[] = { "signIn", "tagWrite", "ofNoCatalogue", "ofNeither" };
    static const char *const texts[] = { "Account %s changed by admin", "%s signed in", "",
                                         "\xc3\x84nderung von %s \xe2\x80\x94 K\xc3\x84SE",
                                         "%s [AT&T] @`{" };
    s->event = events[random() % 4];
    (void)snprintf(s->source, sizeof(s->source), "user%ld", random() % 3);
    switch (random() % 4) {
    case 0:
        (void)snprintf(s->message, sizeof(s->message), "Record %u of its own", i);
        break;
    case 1:
        memset(s->message, "aBc"[random() % 3], TRAIL_MESSAGE_MAX);
        s->message[random() % 8 == 0 ? TRAIL_MESSAGE_MAX : random() % 9] = '\0';
        break;
    default:
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        (void)snprintf(s->message, sizeof(s->message), texts[random() % 5], s->source);
#pragma GCC diagnostic pop
    }
    s->message[TRAIL_MESSAGE_MAX] = '\0';
}

/* Part of a message, or of none, in any case. */
static void
choose_word(const struct said *said, size_t n, char ret_word[40])
{
    const char *text =
        random() % 8 == 0 ? "in Record \xc3\xa4" : said[(size_t)random() % n].message;
    size_t len = strlen(text), from = len > 0 ? (size_t)random() % len : 0;
    size_t k = 0, most = 1 + (size_t)random() % 39;
    for (; k < most && text[from + k] != '\0'; k++) {
        unsigned char c = (unsigned char)text[from + k];
        if (random() % 2 == 0 && ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')))
            c ^= 0x20;
        ret_word[k] = (char)c;
    }
    ret_word[k] = '\0';
}

/* By another way than the code's: strcasestr in the C locale changes ASCII letters only. */
static bool
passes(const struct trail_filter *f, const struct said *s)
{
    bool found = f->messages.n == 0, named = f->names.n == 0, from = f->sources.n == 0;
    for (size_t i = 0; i < f->messages.n; i++)
        found |= strcasestr(s->message, f->messages.words[i]) != NULL;
    for (size_t i = 0; i < f->names.n; i++)
        named |= strcmp(s->event, f->names.words[i]) == 0;
    for (size_t i = 0; i < f->sources.n; i++)
        from |= strcmp(s->source, f->sources.words[i]) == 0;
    return found && named && from;
}

static void
compare_search(struct fixture *f, struct trail_filter filter, const struct said *said)
{
    static uint64_t wanted[TEXTS + 1], got[TRAIL_PAGE_MAX];
    struct store_txn *txn;
    uint64_t n_wanted = 0, total = 0;
    size_t n = 0;
    for (uint64_t id = f->state.next_id - f->state.n; id < f->state.next_id; id++)
        if (passes(&filter, &said[id - 1]))
            wanted[n_wanted++] = id;
    assert_int_equal(trail_filter_prepare(&filter), 0);
    assert_int_equal(store_read(f->store, &txn), 0);
    search_all(f, txn, &filter);
    for (uint64_t at = 0; at == 0 || at < n_wanted; at += TRAIL_PAGE_MAX) {
        assert_int_equal(trail_query(txn, &f->state, &filter, &f->search, TRAIL_BY_ID, false,
                                     at, TRAIL_PAGE_MAX, got, &n, &total),
                         0);
        assert_int_equal(total, n_wanted);
        assert_int_equal(n, n_wanted - at < TRAIL_PAGE_MAX ? n_wanted - at : TRAIL_PAGE_MAX);
        assert_memory_equal(got, wanted + at, n * sizeof(*got));
    }
    store_abort(txn);
    trail_filter_done(&filter);
}

static void
compare_searches(struct fixture *f, const struct said *said, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        char a[40], b[40];
        size_t n_said = (size_t)f->state.next_id - 1;
        choose_word(said, n_said, a);
        choose_word(said, n_said, b);
        struct trail_words one = WORDS(a), two = WORDS(a, b);
        struct trail_filter f1 = { .messages = random() % 2 ? one : two }, f2 = f1, f3 = f1;
        struct trail_filter f4 = { .names = WORDS("signIn", "ofNeither") };
        f2.names = f4.names;
        f3.names = (struct trail_words)WORDS("tagWrite");
        f3.sources = f2.sources = (struct trail_words)WORDS("user1", "user2");
        compare_search(f, f1, said);
        compare_search(f, f2, said);
        compare_search(f, f3, said);
        compare_search(f, f4, said);
    }
}

static uint64_t
count_of(struct fixture *f, unsigned db)
{
    struct store_txn *txn;
    uint64_t n;
    assert_int_equal(store_read(f->store, &txn), 0);
    assert_int_equal(store_count(txn, db, &n), 0);
    store_abort(txn);
    return n;
}

/* Whole blocks that end among the records that are kept. */
static uint64_t
n_blocks(const struct fixture *f)
{
    return f->state.next_id / TRAIL_BLOCK_IDS -
           (f->state.next_id - f->state.n) / TRAIL_BLOCK_IDS;
}

static void
searches_find_what_looking_at_every_record_finds(void **state)
{
    struct fixture *f = *state;
    static struct said said[TEXTS];
    srandom(7);
    for (unsigned n = 0; n < TEXTS;) {
        struct store_txn *txn;
        /* Blocks that are whole, that begin, that go on; some are rotated away. */
        unsigned until = n + 1 + (unsigned)random() % 230;
        assert_int_equal(store_begin(f->store, &txn), 0);
        for (; n < until && n < TEXTS; n++) {
            say(&said[n], n);
            add(f, txn, said[n].event, said[n].source, said[n].message, (int64_t)n);
        }
        if (n > TEXTS / 2)
            assert_int_equal(trail_trim(txn, &f->state, 0, INT64_MIN, until % 150),
                             until % 150);
        assert_int_equal(store_commit(txn), 0);
        assert_int_equal(count_of(f, TRAIL_DB_MESSAGES), n_blocks(f));
        compare_searches(f, said, 6);
    }
    /* as schema 1 left it, with the end of the process in the middle */
    struct store_txn *txn;
    assert_int_equal(store_begin(f->store, &txn), 0);
    assert_int_equal(store_clear(txn, TRAIL_DB_INDEX), 0);
    assert_int_equal(store_clear(txn, TRAIL_DB_MESSAGES), 0);
    assert_int_equal(store_commit(txn), 0);
    for (int done = 1; done > 0;) {
        for (unsigned lost = 0; lost < 2; lost++) {
            assert_int_equal(store_begin(f->store, &txn), 0);
            done = trail_index_catch_up(txn, &f->state, 130);
            assert_true(done >= 0);
            if (lost == 0)
                store_abort(txn);
            else
                assert_int_equal(store_commit(txn), 0);
        }
    }
    assert_int_equal(count_of(f, TRAIL_DB_MESSAGES), n_blocks(f));
    trail_search_done(&f->search);
    compare_searches(f, said, 20);
    assert_int_equal(store_begin(f->store, &txn), 0);
    uint64_t n_left = f->state.n;
    assert_int_equal(trail_trim(txn, &f->state, 0, INT64_MIN, UINT32_MAX), n_left);
    assert_int_equal(store_commit(txn), 0);
    assert_int_equal(count_of(f, TRAIL_DB_MESSAGES), 0);
    compare_searches(f, said, 2);
}

static void
a_search_goes_on_while_records_arrive_and_are_rotated_away(void **state)
{
    struct fixture *f = *state;
    struct trail_filter filter = { .messages = WORDS("speed"), .sources = WORDS("admin") };
    struct store_txn *txn;
    uint64_t ids[TRAIL_PAGE_MAX], total;
    size_t n;
    while (f->state.n < 5 * TRAIL_BLOCK_IDS) /* "pump1 speed" is the third of five */
        add_some(f);
    assert_int_equal(trail_filter_prepare(&filter), 0);
    assert_int_equal(store_begin(f->store, &txn), 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(trail_search_step(txn, &f->state, &filter, &f->search, 0),
                         TRAIL_SEARCH_MORE);
        for (unsigned k = 0; k < 60; k++)
            add(f, txn, "tagWrite", k == 7 ? "admin" : "eve", "a new SPEED", 1);
        assert_int_equal(trail_trim(txn, &f->state, 0, INT64_MIN, 250), 250);
    }
    search_all(f, txn, &filter);
    assert_int_equal(trail_query(txn, &f->state, &filter, &f->search, TRAIL_BY_ID, false, 49,
                                 100, ids, &n, &total),
                     0);
    assert_int_equal(total, 250 / 5 + 3);
    assert_int_equal(n, 4);
    assert_int_equal(ids[0], 998);
    assert_int_equal(ids[3], 1000 + 120 + 8);
    store_abort(txn);
    trail_filter_done(&filter);
}

static void
a_search_in_broken_messages_is_an_error_and_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    struct trail_filter filter = { .messages = WORDS("speed") };
    uint8_t key[8], broken[TRAIL_BLOCK_IDS + 6] = { 0 };
    struct store_txn *txn;
    while (f->state.next_id <= TRAIL_BLOCK_IDS)
        add_some(f);
    assert_int_equal(trail_filter_prepare(&filter), 0);
    memcpy(broken + TRAIL_BLOCK_IDS, "speed", 6);
    memset(broken, 255, 10); /* numbers that there are not: no record of theirs is found */
    for (size_t size = 0; size <= sizeof(broken); size += 1 + size / 200 * 2) {
        assert_int_equal(store_begin(f->store, &txn), 0);
        assert_int_equal(
            store_put(txn, TRAIL_DB_MESSAGES, store_key_u64(key, 0), 8, broken, size), 0);
        bool is_right = size == sizeof(broken);
        int r = trail_search_step(txn, &f->state, &filter, &f->search, UINT64_MAX);
        assert_int_equal(r, is_right ? TRAIL_SEARCH_DONE : -EPROTO);
        assert_int_equal(f->search.end_id, is_right ? f->state.next_id : 0);
        assert_true((f->search.bits != NULL) == is_right);
        store_abort(txn);
    }
    assert_int_equal(f->search.bits[0], 0);
    assert_int_equal(f->search.bits[1], 0xfc);
    trail_filter_done(&filter);
}

static void
records_that_changed_places_are_found(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn;
    uint8_t keys[2][8], copies[2][512];
    size_t sizes[2];
    add_some(f);
    assert_int_equal(store_begin(f->store, &txn), 0);
    for (unsigned i = 0; i < 2; i++) {
        const void *value;
        store_key_u64(keys[i], i == 0 ? 2 : 4);
        assert_int_equal(store_get(txn, TRAIL_DB_RECORDS, keys[i], 8, &value, &sizes[i]), 0);
        assert_true(sizes[i] < sizeof(copies[i]));
        memcpy(copies[i], value, sizes[i]);
    }
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(
            store_put(txn, TRAIL_DB_RECORDS, keys[i], 8, copies[1 - i], sizes[1 - i]), 0);
    assert_int_equal(check(f, txn, NULL), 2);
    store_abort(txn);
}

static void
a_chain_made_anew_is_found_with_a_hash_noted_before(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn;
    struct noted noted[2];
    add_some(f);
    noted[0] = note(f);
    add_some(f);
    noted[1] = note(f);
    assert_int_equal(store_begin(f->store, &txn), 0);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(check(f, txn, &noted[i]), 0);
    /* the end cut off, and the state with it, as if it had never been */
    assert_int_equal(store_clear(txn, TRAIL_DB_RECORDS), 0);
    assert_int_equal(store_clear(txn, TRAIL_DB_INDEX), 0);
    f->state = (struct trail_state){ .next_id = 1 };
    for (unsigned i = 0; i < 7; i++)
        add(f, txn, "signIn", "eve", "nothing of note", 1);
    assert_int_equal(check(f, txn, NULL), 0);
    assert_int_equal(check(f, txn, &noted[0]), noted[0].id);
    assert_int_equal(check(f, txn, &noted[1]), 8);
    store_abort(txn);
}

static void
rotation_during_a_check_is_no_fault(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn;
    struct trail_check c;
    add_some(f);
    struct noted noted = note(f);
    add_some(f);
    assert_int_equal(store_begin(f->store, &txn), 0);
    trail_check_begin(&c, &f->state);
    assert_int_equal(trail_check_step(txn, &f->state, &c, 2), TRAIL_CHECK_MORE);
    assert_int_equal(trail_trim(txn, &f->state, 0, INT64_MIN, 5), 5);
    add(f, txn, "signIn", "sam", "later", 1); /* not there when it began: not checked */
    assert_int_equal(trail_check_step(txn, &f->state, &c, 100), TRAIL_CHECK_DONE);
    assert_null(c.reason);
    assert_int_equal(c.first_id, 6);
    assert_int_equal(c.next_id, 11);
    assert_false(c.has_compared);
    assert_int_equal(check(f, txn, &noted), 0); /* the last that was rotated away */
    noted.hash[0] ^= 1;
    assert_int_equal(check(f, txn, &noted), 5);
    assert_int_equal(trail_trim(txn, &f->state, 0, INT64_MIN, 100), 6);
    assert_int_equal(check(f, txn, NULL), 0); /* nothing is left */
    store_abort(txn);
}

static void
a_check_that_rotation_overtakes_finds_no_fault_and_compares_nothing(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn;
    struct trail_check c;
    add_some(f);
    assert_int_equal(store_begin(f->store, &txn), 0);
    trail_check_begin(&c, &f->state);
    c.since_id = 4;
    assert_int_equal(trail_check_step(txn, &f->state, &c, 2), TRAIL_CHECK_MORE);
    add(f, txn, "signIn", "sam", "later", 1);
    assert_int_equal(trail_trim(txn, &f->state, 0, INT64_MIN, 100), 6);
    assert_int_equal(trail_check_step(txn, &f->state, &c, 100), TRAIL_CHECK_DONE);
    assert_null(c.reason);
    assert_false(c.has_compared);
    store_abort(txn);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(record_comes_back_as_it_was),
        TEST(state_is_the_same_after_loading),
        TEST(orders_sort_and_pages_cut),
        TEST(filters_pass_what_matches_one_word_of_each),
        TEST(too_long_texts_are_cut_between_characters),
        TEST(trimming_takes_the_oldest_and_keeps_the_chain),
        TEST(pages_are_those_of_a_sorted_list_whatever_the_clock_did),
        TEST(a_page_is_found_among_many_that_lie_close_together),
        cmocka_unit_test_setup_teardown(an_index_that_lacks_records_is_completed, setup_1,
                                        teardown),
        TEST(a_search_for_texts_goes_on_with_what_is_new),
        TEST(searches_find_what_looking_at_every_record_finds),
        TEST(a_search_goes_on_while_records_arrive_and_are_rotated_away),
        TEST(a_search_in_broken_messages_is_an_error_and_leaves_nothing),
        TEST(edit_is_found),
        TEST(gap_is_found_wherever_it_is),
        TEST(records_that_changed_places_are_found),
        TEST(a_chain_made_anew_is_found_with_a_hash_noted_before),
        TEST(rotation_during_a_check_is_no_fault),
        TEST(a_check_that_rotation_overtakes_finds_no_fault_and_compares_nothing),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
