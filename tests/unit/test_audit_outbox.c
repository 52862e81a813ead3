/*
 * The audit outbox on a real store: whatever is taken back, cut off or
 * restarted, every record that was committed reaches auditd under a number
 * that grows. auditd is played by the test.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "libcommon/audit.h"
#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/metrics.h"
#include "libcommon/svc.h"

enum { DB_OUTBOX, DEADLINE_US = 5 * 1000 * 1000 };

static const char *const dbs[] = { "outbox" };
static const struct svc_info info = { .name = "testd", .dbs = dbs, .n_dbs = 1, .schema = 1 };
static char dir[] = "/tmp/test_audit_outbox.XXXXXX";
static struct svc svc = { .info = &info };
static struct audit_outbox *outbox;

/* ---- the line to auditd ---- */

static int call_error; /* what bus_call returns */
static bus_reply_fn *asked;
static void *asked_arg;
static uint64_t seqs[4096]; /* of the records of the last message */
static size_t n_seqs, n_messages;
static char sender[33]; /* of the last message */

int
bus_peer(struct bus *bus, const char *name, struct bus_peer **ret_peer)
{
    static int any;
    (void)bus;
    assert_string_equal(name, "auditd");
    *ret_peer = (struct bus_peer *)(void *)&any;
    return 0;
}

int
bus_peer_watch(struct bus_peer *peer, bus_peer_fn *fn, void *arg)
{
    (void)peer;
    (void)fn;
    (void)arg;
    return 0;
}

int
bus_call(struct bus_peer *peer, const struct bus_request *request, bus_reply_fn *fn, void *arg)
{
    (void)peer;
    if (call_error < 0)
        return call_error;
    CLEANUP(json_freep) cJSON *tree = NULL;
    struct json_error e;
    assert_int_equal(json_parse(request->body.p, request->body.len, &tree, &e), 0);
    (void)snprintf(sender, sizeof(sender), "%s", json_text(json_get(tree, "store"))); /* fits */
    n_seqs = 0;
    const cJSON *record;
    cJSON_ArrayForEach(record, json_get(tree, "records"))
        assert_int_equal(json_u64(json_get(record, "seq"), &seqs[n_seqs++]), 0);
    assert_null(asked); /* one message at a time */
    asked = fn;
    asked_arg = arg;
    n_messages++;
    return 0;
}

static void
auditd_answers(uint16_t status, uint64_t acked)
{
    char body[48];
    int n = snprintf(body, sizeof(body), "{\"acked\":%llu}", (unsigned long long)acked);
    struct bus_reply reply = { .status = status,
                               .body_kind = BUS_BODY_JSON,
                               .body = { body, (uint32_t)n } };
    bus_reply_fn *fn = asked;
    assert_non_null(fn);
    asked = NULL;
    fn(asked_arg, 0, &reply);
}

static void
auditd_takes_all(void)
{
    while (asked)
        auditd_answers(200, seqs[n_seqs - 1]);
}

/* ---- reads that fail ---- */

static int good_reads = -1; /* until they fail; negative: they do not */
int __real_store_iter_next(struct store_iter *it);
int __wrap_store_iter_next(struct store_iter *it);

int
__wrap_store_iter_next(struct store_iter *it)
{
    if (good_reads == 0)
        return -EIO;
    good_reads -= good_reads > 0;
    return __real_store_iter_next(it);
}

/* ---- a table that is large ---- */

static uint64_t table_bytes; /* 0: what it is */
int __real_store_bytes(struct store_txn *txn, unsigned db, uint64_t *ret_bytes);
int __wrap_store_bytes(struct store_txn *txn, unsigned db, uint64_t *ret_bytes);

int
__wrap_store_bytes(struct store_txn *txn, unsigned db, uint64_t *ret_bytes)
{
    int r = __real_store_bytes(txn, db, ret_bytes);
    if (r == 0 && table_bytes > 0)
        *ret_bytes = table_bytes;
    return r;
}

/* ---- a daemon that lives several times ---- */

void __wrap_metric_register(struct metric_counter *m);

void
__wrap_metric_register(struct metric_counter *m)
{
    (void)m;
}

static void
start(void)
{
    assert_int_equal(store_open(dir, dbs, 1, 1, NULL, &svc.store), 0);
    assert_int_equal(audit_open(&svc, DB_OUTBOX, &outbox), 0);
    assert_int_equal(audit_start(outbox), 0);
}

static void
stop(void)
{
    audit_close(outbox);
    store_close(svc.store);
    asked = NULL;
}

static int
set_up(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/test_audit_outbox.XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_int_equal(loop_new(&svc.loop), 0);
    call_error = 0;
    good_reads = -1;
    n_messages = 0;
    asked = NULL;
    start();
    return 0;
}

static int
tear_down(void **state)
{
    (void)state;
    stop();
    loop_free(svc.loop);
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command);
}

static struct audit_record
any_record(void)
{
    return (struct audit_record){
        .event = "e", .message = "m", .detail = "{}", .source = "s", .addr = "", .at_us = 1
    };
}

static void
commit_one(void)
{
    struct audit_record record = any_record();
    assert_int_equal(audit_event(outbox, &record), 0);
}

/* A change that was taken back after its record had been written. */
static void
take_back_one(void)
{
    struct store_txn *txn = NULL;
    struct audit_record record = any_record();
    assert_int_equal(store_begin(svc.store, &txn), 0);
    assert_int_equal(audit_put(outbox, txn, &record), 0);
    store_abort(txn);
}

static void
wait_for_message(void)
{
    for (uint64_t end = clock_mono_us() + DEADLINE_US; !asked && clock_mono_us() < end;)
        assert_int_equal(loop_round(svc.loop, 10000), 0);
    assert_non_null(asked);
}

static uint64_t
n_kept(void)
{
    struct store_txn *txn = NULL;
    uint64_t n = 0;
    assert_int_equal(store_read(svc.store, &txn), 0);
    assert_int_equal(store_count(txn, DB_OUTBOX, &n), 0);
    store_abort(txn);
    return n;
}

/* ---- tests ---- */

static void
a_record_that_auditd_has_is_deleted_with_the_next_write(void **state)
{
    (void)state;
    commit_one();
    auditd_takes_all();
    assert_int_equal(n_kept(), 1); /* the newest keeps the numbers */
    commit_one();
    auditd_takes_all();
    assert_int_equal(n_kept(), 1);
    assert_int_equal(audit_backlog(outbox), 0);
}

static void
a_deletion_that_was_taken_back_is_made_later(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++)
        commit_one();
    auditd_takes_all();
    take_back_one();
    commit_one();
    auditd_takes_all();
    assert_int_equal(n_kept(), 1);
}

static void
a_record_that_cannot_be_read_is_not_taken_for_delivered(void **state)
{
    (void)state;
    good_reads = 1; /* with the write; what is to be sent is read after it */
    commit_one();
    good_reads = -1;
    assert_int_equal(n_messages, 0);
    assert_int_equal(audit_backlog(outbox), 1);
    wait_for_message();
    assert_int_equal(n_seqs, 1);
    assert_int_equal(seqs[0], 1);
}

static void
numbers_that_were_taken_back_are_no_backlog(void **state)
{
    (void)state;
    commit_one();
    take_back_one();
    take_back_one();
    auditd_takes_all();
    assert_int_equal(audit_backlog(outbox), 0);
    commit_one();
    assert_int_equal(seqs[0], 4);
    auditd_takes_all();
    assert_int_equal(audit_backlog(outbox), 0);
}

static void
numbers_grow_over_restarts_however_much_was_delivered_and_taken_back(void **state)
{
    (void)state;
    uint64_t last = 0;
    call_error = -EHOSTUNREACH;
    for (int i = 0; i < 3000; i++) /* more than are deleted with one write */
        commit_one();
    take_back_one();
    call_error = 0;
    stop();
    start();
    assert_int_equal(seqs[0], 1);
    auditd_takes_all();
    last = seqs[n_seqs - 1];
    assert_int_equal(last, 3000);
    assert_in_range(n_kept(), 1, 2200);
    for (int i = 0; i < 3; i++) {
        take_back_one();
        take_back_one();
        stop();
        start();
        auditd_takes_all(); /* repeats: auditd has them */
        commit_one();
        assert_true(seqs[n_seqs - 1] > last);
        last = seqs[n_seqs - 1];
        auditd_takes_all();
    }
}

static void
what_auditd_did_not_confirm_is_sent_again(void **state)
{
    (void)state;
    commit_one();
    auditd_answers(507, 1);
    assert_int_equal(audit_backlog(outbox), 1);
    wait_for_message();
    assert_int_equal(seqs[0], 1);
    stop();
    start();
    assert_int_equal(seqs[0], 1);
    auditd_takes_all();
    assert_int_equal(audit_backlog(outbox), 0);
}

static void
a_store_that_was_restored_from_a_copy_sends_under_a_new_id(void **state)
{
    (void)state;
    char before[sizeof(sender)];
    for (int i = 0; i < 3; i++)
        commit_one();
    auditd_takes_all();
    memcpy(before, sender, sizeof(sender));
    call_error = -EHOSTUNREACH; /* auditd is away for more records than the copy lacks */
    for (int i = 0; i < 10; i++)
        commit_one();
    call_error = 0;
    wait_for_message();
    assert_string_equal(sender, before);
    size_t first = seqs[0];
    auditd_answers(200, 20); /* it has seen 20 of this store: the copy was made before */
    assert_int_equal(audit_backlog(outbox), 10); /* whatever is there goes again */
    wait_for_message();
    assert_string_not_equal(sender, before);
    assert_true(seqs[0] <= first);
    memcpy(before, sender, sizeof(sender));
    auditd_takes_all();
    assert_int_equal(audit_backlog(outbox), 0);
    stop();
    start();
    commit_one();
    assert_string_equal(sender, before); /* it is kept */
    auditd_takes_all();
}

/* Restored while auditd was away: what was recorded since has numbers that auditd has seen. */
static void
a_restored_store_is_told_apart_before_it_sends_what_is_new(void **state)
{
    (void)state;
    char before[sizeof(sender)];
    for (int i = 0; i < 3; i++)
        commit_one();
    auditd_takes_all();
    memcpy(before, sender, sizeof(sender));
    stop();
    call_error = -EHOSTUNREACH;
    start();
    for (int i = 0; i < 10; i++)
        commit_one(); /* 4 to 13 */
    call_error = 0;
    wait_for_message();
    assert_int_equal(seqs[n_seqs - 1], 3);
    auditd_answers(200, 5); /* it has 4 and 5 of the store that this is a copy of */
    wait_for_message();
    assert_string_not_equal(sender, before);
    assert_true(seqs[0] <= 4);
    assert_int_equal(seqs[n_seqs - 1], 13);
    auditd_takes_all();
    assert_int_equal(audit_backlog(outbox), 0);
}

static void
the_newest_record_is_never_deleted_and_keeps_the_numbers(void **state)
{
    (void)state;
    struct audit_record record = any_record();
    struct store_txn *txn = NULL;
    commit_one();
    auditd_answers(200, 9); /* an older copy: now there is an id, too */
    wait_for_message();
    auditd_takes_all();
    call_error = -EHOSTUNREACH;
    assert_int_equal(store_begin(svc.store, &txn), 0);
    for (int i = 0; i < 2048; i++)
        assert_int_equal(audit_put(outbox, txn, &record), 0);
    assert_int_equal(store_commit(txn), 0);
    audit_kick(outbox);
    call_error = 0;
    wait_for_message();
    auditd_takes_all();
    stop();
    start();
    auditd_takes_all();
    commit_one();
    assert_non_null(asked);
    assert_true(seqs[0] > 2048);
    auditd_takes_all();
}

static void
a_record_is_refused_when_undelivered_ones_take_too_many_bytes(void **state)
{
    (void)state;
    struct audit_record record = any_record();
    record.detail = "a text of some length";
    commit_one();
    table_bytes = (uint64_t)AUDIT_OUTBOX_MIB << 20;
    assert_int_equal(audit_event(outbox, &record), -ENOSPC);
    auditd_takes_all();
    assert_int_equal(audit_event(outbox, &record), 0);
    table_bytes = 0;
}

static void
a_long_text_is_cut_between_characters(void **state)
{
    (void)state;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    CLEANUP(json_freep) cJSON *tree = NULL;
    struct audit_record record = any_record();
    struct store_iter it;
    struct json_error e;
    static char message[3 * AUDIT_MESSAGE_MAX + 1], detail[AUDIT_DETAIL_MAX + 2];
    char text[2 * sizeof(detail)];
    for (size_t i = 0; i < AUDIT_MESSAGE_MAX; i++)
        memcpy(message + 3 * i, "\xE2\x82\xAC", 3);
    memset(detail, 'x', AUDIT_DETAIL_MAX + 1);
    record.message = message;
    record.detail = detail;
    assert_int_equal(audit_event(outbox, &record), 0);
    assert_int_equal(store_read(svc.store, &txn), 0);
    assert_int_equal(store_iter_init(&it, txn, DB_OUTBOX, NULL, 0, true), 0);
    assert_int_equal(store_iter_next(&it), STORE_OK);
    int n = snprintf(text, sizeof(text), "{%.*s}", (int)it.size, (const char *)it.value);
    store_iter_done(&it);
    assert_int_equal(json_parse(text, (size_t)n, &tree, &e), 0);
    assert_int_equal(strlen(json_text(json_get(tree, "message"))), 510);
    assert_int_equal(strlen(json_text(json_get(tree, "detail"))), AUDIT_DETAIL_MAX);
    auditd_takes_all();
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        T(a_record_that_auditd_has_is_deleted_with_the_next_write),
        T(a_deletion_that_was_taken_back_is_made_later),
        T(a_record_that_cannot_be_read_is_not_taken_for_delivered),
        T(numbers_that_were_taken_back_are_no_backlog),
        T(numbers_grow_over_restarts_however_much_was_delivered_and_taken_back),
        T(a_store_that_was_restored_from_a_copy_sends_under_a_new_id),
        T(a_restored_store_is_told_apart_before_it_sends_what_is_new),
        T(the_newest_record_is_never_deleted_and_keeps_the_numbers),
        T(a_record_is_refused_when_undelivered_ones_take_too_many_bytes),
        T(a_long_text_is_cut_between_characters),
        T(what_auditd_did_not_confirm_is_sent_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
