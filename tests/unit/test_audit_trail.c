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
};

static int
setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    (void)snprintf(f->dir, sizeof(f->dir), "/tmp/test_audit_trail.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    assert_int_equal(store_open(f->dir, trail_dbs, TRAIL_N_DBS, 1, NULL, &f->store), 0);
    f->state.next_id = 1;
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    char command[96];
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
    assert_int_equal(trail_query(txn, &f->state, &filter, order, descending, offset, limit, got,
                                 &n, &got_total),
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

static void
trimming_takes_the_oldest_and_keeps_the_chain(void **state)
{
    struct fixture *f = *state;
    struct store_txn *txn;
    uint64_t bad;
    add_some(f);
    add_some(f);
    assert_int_equal(store_begin(f->store, &txn), 0);
    assert_int_equal(trail_verify(txn, &f->state, &bad), 0);
    uint64_t bytes = f->state.bytes;
    /* by size: about half, two at a time */
    assert_int_equal(trail_trim(txn, &f->state, bytes / 2, INT64_MIN, 2), 2);
    assert_int_equal(trail_trim(txn, &f->state, bytes / 2, INT64_MIN, 100), 3);
    assert_int_equal(trail_trim(txn, &f->state, bytes / 2, INT64_MIN, 100), 0);
    assert_int_equal(f->state.n, 5);
    assert_int_equal(trail_verify(txn, &f->state, &bad), 0);
    assert_int_equal(store_commit(txn), 0);
    expect(f, (struct trail_filter){ 0 }, TRAIL_BY_TIME, false, 0, 100, 5, IDS(8, 6, 7, 9, 10));

    /* by age: 6 (at 1000) and 7 (2000) go, 8 (500) with them; 9 (4000) stays */
    assert_int_equal(store_begin(f->store, &txn), 0);
    assert_int_equal(trail_trim(txn, &f->state, UINT64_MAX, 3000, 100), 3);
    assert_int_equal(trail_verify(txn, &f->state, &bad), 0);
    /* all of them: numbers go on */
    assert_int_equal(trail_trim(txn, &f->state, 0, INT64_MIN, 100), 2);
    assert_int_equal(f->state.bytes, 0);
    add(f, txn, "signIn", "admin", "again", 9000);
    assert_int_equal(trail_verify(txn, &f->state, &bad), 0);
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
    uint64_t bad = 0;
    add_some(f);
    assert_int_equal(store_begin(f->store, &txn), 0);
    assert_int_equal(store_get(txn, TRAIL_DB_RECORDS, store_key_u64(key, 3), 8, &value, &size),
                     0);
    assert_true(size < sizeof(copy));
    memcpy(copy, value, size);
    copy[13] ^= 1; /* the time */
    assert_int_equal(store_put(txn, TRAIL_DB_RECORDS, key, 8, copy, size), 0);
    assert_int_equal(trail_verify(txn, &f->state, &bad), -EBADMSG);
    assert_int_equal(bad, 3);
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
        uint64_t bad = 0;
        assert_int_equal(store_begin(f->store, &txn), 0);
        assert_int_equal(store_del(txn, TRAIL_DB_RECORDS, store_key_u64(key, id), 8), 0);
        assert_int_equal(trail_verify(txn, &f->state, &bad), -EBADMSG);
        assert_int_equal(bad, id);
        store_abort(txn);
    }
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
        TEST(edit_is_found),
        TEST(gap_is_found_wherever_it_is),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
