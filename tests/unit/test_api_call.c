/*
 * Calls and streams with handlers and a bus of the test's own: what is
 * answered is on disk, what is refused leaves nothing behind, and a call is
 * answered once however it ends.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "libcommon/api.h"
#include "libcommon/audit.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/metrics.h"
#include "libcommon/svc.h"

enum { DB_THINGS, DB_NOTES, DB_OUTBOX, N_DBS };
enum {
    READ = 11,
    CHANGE,
    DEFERRED,
    UPLOAD,
    CHANGE_OWN,
    READ_WITH,
    MANY,
    LONG,
    MAYBE
}; /* operations */
enum { FAR_US = 60 * 1000 * 1000 };

static const char *const dbs[N_DBS] = { "things", "notes", "outbox" };
static const struct svc_info info = { .name = "testd", .dbs = dbs, .n_dbs = N_DBS, .schema = 1 };
static char dir[] = "/tmp/test_api_call.XXXXXX";
static struct svc svc = { .info = &info, .spool_dir = dir };

/* ---- the bus ---- */

struct bus_incoming {
    struct bus_request request;
    bool answered;
    uint16_t status;
    uint8_t body_kind;
    bool end;
    size_t n;
    char body[4096];           /* its beginning */
    uint64_t n_things, n_kept, n_noted; /* on disk when it was answered */
};

static bus_peer_fn *gateway_fn;
static void *gateway_arg;

int
bus_peer(struct bus *bus, const char *name, struct bus_peer **ret_peer)
{
    static char peers[2];
    (void)bus;
    *ret_peer = (struct bus_peer *)(void *)&peers[strcmp(name, "gateway") == 0];
    return 0;
}

int
bus_peer_watch(struct bus_peer *peer, bus_peer_fn *fn, void *arg)
{
    (void)peer;
    gateway_fn = fn;
    gateway_arg = arg;
    return 0;
}

int
bus_call(struct bus_peer *peer, const struct bus_request *request, bus_reply_fn *fn, void *arg)
{
    (void)peer;
    (void)request;
    (void)fn;
    (void)arg;
    return -EHOSTUNREACH;
}

const struct bus_request *
bus_incoming_request(const struct bus_incoming *in)
{
    return &in->request;
}

static uint64_t
n_records(unsigned db)
{
    struct store_txn *txn = NULL;
    uint64_t n = 0;
    assert_int_equal(store_read(svc.store, &txn), 0);
    assert_int_equal(store_count(txn, db, &n), 0);
    store_abort(txn);
    return n;
}

void
bus_answer(struct bus_incoming *in, const struct bus_reply *reply)
{
    assert_false(in->answered);
    in->answered = true;
    in->status = reply->status;
    in->body_kind = reply->body_kind;
    in->end = reply->end;
    in->n = reply->body.len;
    if (reply->body.len > 0)
        memcpy(in->body, reply->body.p, in->n < sizeof(in->body) ? in->n : sizeof(in->body));
    in->n_things = n_records(DB_THINGS);
    in->n_kept = n_records(DB_OUTBOX);
    in->n_noted = n_records(DB_NOTES);
}

/* ---- a disk that is full ---- */

static bool disk_is_full;
int __real_store_commit(struct store_txn *txn);
int __wrap_store_commit(struct store_txn *txn);

int
__wrap_store_commit(struct store_txn *txn)
{
    if (!disk_is_full)
        return __real_store_commit(txn);
    store_abort(txn);
    return -ENOSPC;
}

/* ---- views ---- */

static struct store_txn *views[8]; /* open ones */
int __real_store_read(struct store *s, struct store_txn **ret_txn);
int __wrap_store_read(struct store *s, struct store_txn **ret_txn);
void __real_store_abort(struct store_txn *txn);
void __wrap_store_abort(struct store_txn *txn);
void __wrap_store_abortp(struct store_txn **txn);

static size_t
n_views(void)
{
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(views); i++)
        n += views[i] != NULL;
    return n;
}

static void
replace_view(struct store_txn *old, struct store_txn *new)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    size_t i = 0;
    pthread_mutex_lock(&lock);
    while (i < ARRAY_LEN(views) && views[i] != old)
        i++;
    if (i < ARRAY_LEN(views))
        views[i] = new;
    pthread_mutex_unlock(&lock);
}

int
__wrap_store_read(struct store *s, struct store_txn **ret_txn)
{
    int r = __real_store_read(s, ret_txn);
    if (r == 0)
        replace_view(NULL, *ret_txn);
    return r;
}

void
__wrap_store_abort(struct store_txn *txn)
{
    replace_view(txn, NULL);
    __real_store_abort(txn);
}

void
__wrap_store_abortp(struct store_txn **txn)
{
    __wrap_store_abort(*txn);
}

/* ---- the daemon ---- */

static enum api_status (*handler)(struct api_call *call);
static struct api_call *kept; /* by a handler, to finish it later */
static unsigned n_after, n_failures, n_closed;
static struct api_stream *stream;

static enum api_status
run(void *self, struct api_call *call)
{
    (void)self;
    return handler(call);
}

static const struct api_field number_fields[] = {
    { .name = "n", .type = API_T_INT, .flags = API_F_REQUIRED, .max = 9 },
};
static const struct api_desc number_desc = { "number", sizeof(int64_t), number_fields, 1, false };

/* A long change: in its transaction it waits until the test lets it go on. */
static pthread_mutex_t gate_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_moved = PTHREAD_COND_INITIALIZER;
static bool gate_open, at_gate;
static enum api_status (*long_handler)(struct api_call *call);

static enum api_status
run_long(void *self, struct api_call *call)
{
    (void)self;
    return long_handler(call);
}

#define OP .method = "GET", .path = "/", .fn = run, .success = 200
static const struct api_op ops[] = {
    { OP, .id = READ, .name = "read", .permission = API_PERMISSION_OPEN,
      .reply_kind = API_REPLY_OWN },
    { OP, .id = READ_WITH, .name = "readWith", .permission = 5, .reply_kind = API_REPLY_OWN },
    { OP, .id = MANY, .name = "many", .permission = API_PERMISSION_OPEN, .many = true,
      .items_max = 3, .body_desc = &number_desc, .reply_kind = API_REPLY_OWN },
    { OP, .id = MAYBE, .name = "maybe", .permission = API_PERMISSION_OPEN, .optional = true,
      .body_desc = &number_desc, .reply_kind = API_REPLY_OWN },
    { OP, .id = CHANGE, .name = "change", .permission = API_PERMISSION_OPEN,
      .audit = API_AUDIT_CHANGE, .event = "e", .summary = "s", .reply_kind = API_REPLY_EMPTY },
    { OP, .id = DEFERRED, .name = "deferred", .permission = API_PERMISSION_OPEN,
      .audit = API_AUDIT_CHANGE, .event = "e", .summary = "s", .reply_kind = API_REPLY_EMPTY,
      .defer = true },
    { OP, .id = UPLOAD, .name = "upload", .permission = API_PERMISSION_TOKEN,
      .audit = API_AUDIT_CHANGE, .event = "e", .summary = "s", .reply_kind = API_REPLY_EMPTY,
      .form = true },
    { OP, .id = CHANGE_OWN, .name = "changeOwn", .permission = API_PERMISSION_OPEN,
      .audit = API_AUDIT_CHANGE, .event = "e", .summary = "s", .reply_kind = API_REPLY_OWN },
    { .method = "GET", .path = "/", .fn = run_long, .id = LONG, .name = "long", .permission = API_PERMISSION_OPEN,
      .audit = API_AUDIT_CHANGE, .event = "e", .summary = "s", .reply_kind = API_REPLY_EMPTY,
      .success = 200, .worker = true },
};

void __wrap_metric_register(struct metric_counter *m);
void __wrap_metric_histogram_register(struct metric_histogram *h);

void
__wrap_metric_register(struct metric_counter *m)
{
    (void)m;
}

void
__wrap_metric_histogram_register(struct metric_histogram *h)
{
    (void)h;
}

static int
set_up(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/test_api_call.XXXXXX");
    assert_non_null(mkdtemp(dir));
    disk_is_full = false;
    kept = NULL;
    stream = NULL;
    gateway_fn = NULL;
    n_after = n_failures = n_closed = 0;
    assert_int_equal(loop_new(&svc.loop), 0);
    assert_int_equal(store_open(dir, dbs, N_DBS, 1, NULL, &svc.store), 0);
    assert_int_equal(audit_open(&svc, DB_OUTBOX, &svc.outbox), 0);
    assert_int_equal(api_server_new(&svc, ops, ARRAY_LEN(ops), &svc.api), 0);
    return 0;
}

static int
tear_down(void **state)
{
    (void)state;
    api_server_free(svc.api);
    audit_close(svc.outbox);
    assert_int_equal(n_views(), 0);
    store_close(svc.store);
    loop_free(svc.loop);
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command);
}

static struct bus_incoming
request(uint32_t op)
{
    return (struct bus_incoming){ .request = { .kind = BUS_KIND_API,
                                               .op = op,
                                               .id = 7,
                                               .deadline_us = clock_mono_us() + FAR_US } };
}

static void
serve(struct bus_incoming *in, enum api_status (*fn)(struct api_call *call))
{
    handler = fn;
    api_serve(svc.api, in);
}

/* Refused, in words that any JSON reader takes. */
static void
assert_refused(const struct bus_incoming *in, uint16_t status)
{
    struct json_error e;
    assert_true(in->answered);
    assert_int_equal(in->status, status);
    assert_int_equal(in->body_kind, BUS_BODY_JSON);
    assert_int_equal(json_check(in->body, in->n, &e), 0);
}

/* ---- handlers ---- */

static enum api_status
put_thing(struct api_call *call)
{
    struct store_txn *txn = api_txn(call);
    return txn && store_put(txn, DB_THINGS, "k", 1, "v", 1) == 0 ? API_OK : API_INTERNAL;
}

static void
count_after(void *self, void *arg)
{
    (void)self;
    (void)arg;
    n_after++;
}

static void
hold_after(void *self, void *arg)
{
    (void)self;
    api_hold(arg);
    assert_non_null(api_view(arg)); /* must not stay open while the call waits */
    n_after++;
}

static void
hold_and_finish_after(void *self, void *arg)
{
    hold_after(self, arg);
    api_finish(arg, API_OK);
}

static void
count_failure(void *self, void *arg)
{
    (void)self;
    (void)arg;
    n_failures++;
}

static enum api_status
change(struct api_call *call)
{
    api_after_commit(call, count_after, NULL);
    api_on_failure(call, count_failure, NULL);
    return put_thing(call);
}

static enum api_status
change_with_an_answer_of(struct api_call *call, int n_mib)
{
    static const char part[1 << 20];
    for (int i = 0; i < n_mib; i++)
        api_reply_json(call, part, sizeof(part));
    return change(call);
}

static enum api_status
change_with_too_large_an_answer(struct api_call *call)
{
    return change_with_an_answer_of(call, 129);
}

static enum api_status
change_with_an_answer_for_a_file(struct api_call *call)
{
    return change_with_an_answer_of(call, 9);
}

static enum api_status
change_without_memory_for_the_answer(struct api_call *call)
{
    api_reply_buf(call)->err = -ENOMEM;
    return change(call);
}

static enum api_status
change_after_failing(struct api_call *call)
{
    (void)api_fail(call, API_CONFLICT, "/a/\"b\"", "no \"such\"\n\x01 \xFF thing");
    return change(call);
}

static enum api_status
change_and_hold(struct api_call *call)
{
    kept = call;
    api_after_commit(call, hold_after, call);
    return change(call);
}

static enum api_status
change_and_finish_at_once(struct api_call *call)
{
    api_after_commit(call, hold_and_finish_after, call);
    return change(call);
}

static enum api_status
wait_for_later(struct api_call *call)
{
    kept = call;
    assert_non_null(api_view(call));
    return API_PENDING;
}

static void
closed(void *arg)
{
    (void)arg;
    n_closed++;
    stream = NULL;
}

static enum api_status
open_stream(struct api_call *call)
{
    stream = api_stream_open(call, 1 << 20, closed, NULL);
    return stream ? API_OK : API_UNAVAILABLE;
}

static enum api_status
open_stream_and_fail(struct api_call *call)
{
    (void)open_stream(call);
    return api_fail(call, API_CONFLICT, NULL, "after all");
}

static char spooled[128];

static void
spool(const char *name)
{
    (void)snprintf(spooled, sizeof(spooled), "%s/%s", dir, name);
    int fd = open(spooled, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
}

static enum api_status
give_file_and_fail(struct api_call *call)
{
    spool("testd-1-1");
    api_reply_file(call, "application/json", "testd-1-1", "");
    return api_fail(call, API_CONFLICT, NULL, "after all");
}

/* ---- calls ---- */

static void
a_change_is_answered_when_it_is_on_disk_with_its_record(void **state)
{
    (void)state;
    struct bus_incoming in = request(CHANGE);
    serve(&in, change);
    assert_int_equal(in.status, 200);
    assert_int_equal(in.n_things, 1);
    assert_int_equal(in.n_kept, 1);
    assert_int_equal(n_after, 1);
    assert_int_equal(n_failures, 0);
}

static void
a_change_that_cannot_be_committed_is_refused_and_leaves_nothing(void **state)
{
    (void)state;
    struct bus_incoming in = request(CHANGE);
    disk_is_full = true;
    serve(&in, change);
    disk_is_full = false;
    assert_refused(&in, 507);
    assert_int_equal(in.n_things, 0);
    assert_int_equal(in.n_kept, 0);
    assert_int_equal(n_after, 0);
    assert_int_equal(n_failures, 1);
}

static void
a_change_whose_answer_cannot_be_made_is_refused_and_leaves_nothing(void **state)
{
    (void)state;
    struct bus_incoming in = request(CHANGE_OWN), next = request(CHANGE_OWN);
    serve(&in, change_with_too_large_an_answer);
    assert_refused(&in, 413);
    assert_int_equal(in.n_things, 0);
    assert_int_equal(in.n_kept, 0);
    serve(&next, change_without_memory_for_the_answer);
    assert_refused(&next, 503);
    assert_int_equal(next.n_things, 0);
    assert_int_equal(next.n_kept, 0);
    assert_int_equal(n_after, 0);
    assert_int_equal(n_failures, 2);
}

/* Files of the spool, which is the test's directory. */
static size_t
n_spooled(const char *name, off_t *ret_size)
{
    size_t n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        n += strncmp(e->d_name, "testd-", 6) == 0;
    assert_int_equal(closedir(d), 0);
    struct stat st = { 0 };
    if (name != NULL) {
        char path[128];
        (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(unlink(path), 0);
    }
    *ret_size = st.st_size;
    return n;
}

static void
an_answer_too_large_for_a_message_goes_as_a_file(void **state)
{
    (void)state;
    struct bus_incoming in = request(CHANGE_OWN), next = request(CHANGE_OWN);
    off_t size;
    serve(&in, change_with_an_answer_for_a_file);
    assert_int_equal(in.status, 200);
    assert_int_equal(in.body_kind, BUS_BODY_FILE);
    assert_int_equal(in.n_things, 1);
    assert_true(in.n < sizeof(in.body));
    in.body[in.n] = '\0';
    assert_int_equal(n_spooled(in.body, &size), 1);
    assert_int_equal(size, 9 << 20);
    disk_is_full = true; /* as the commit finds it */
    serve(&next, change_with_an_answer_for_a_file);
    disk_is_full = false;
    assert_refused(&next, 507);
    assert_int_equal(n_spooled(NULL, &size), 0);
}

static enum api_status
put_too_large_a_record(struct api_call *call)
{
    return api_fail_errno(call, -E2BIG, "cannot save it");
}

static void
what_is_too_large_to_keep_is_the_client_s_fault(void **state)
{
    (void)state;
    struct bus_incoming in = request(CHANGE);
    serve(&in, put_too_large_a_record);
    assert_refused(&in, 413);
}

static size_t n_elements;

static enum api_status
count_elements(struct api_call *call)
{
    n_elements = call->n_body;
    api_reply_json(call, "{}", 2);
    return API_OK;
}

static void
a_list_has_a_bound_that_is_looked_at_before_it_is_decoded(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        uint16_t status;
        size_t n;
    } cases[] = {
        { "{\"n\":1}", 200, 1 },
        { "[]", 400, 0 },
        { "[{\"n\":1},{\"n\":2},{\"n\":3}]", 200, 3 },
        { "[{\"n\":1},{\"n\":2},{\"n\":3},{\"x\":4}]", 400, 0 },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct bus_incoming in = request(MANY);
        in.request.body_kind = BUS_BODY_JSON;
        in.request.body = (struct bus_str){ cases[i].body, (uint32_t)strlen(cases[i].body) };
        n_elements = 0;
        serve(&in, count_elements);
        assert_int_equal(in.status, cases[i].status);
        assert_int_equal(n_elements, cases[i].n);
        if (i == 3)
            assert_non_null(strstr(in.body, "at most 3 elements"));
    }
}

static void
an_optional_body_may_be_missing_but_is_judged_when_it_is_there(void **state)
{
    (void)state;
    struct bus_incoming none = request(MAYBE), good = request(MAYBE), bad = request(MAYBE);
    n_elements = 9;
    serve(&none, count_elements);
    assert_int_equal(none.status, 200);
    assert_int_equal(n_elements, 0);
    good.request.body_kind = bad.request.body_kind = BUS_BODY_JSON;
    good.request.body = (struct bus_str){ "{\"n\":1}", 7 };
    serve(&good, count_elements);
    assert_int_equal(good.status, 200);
    assert_int_equal(n_elements, 1);
    bad.request.body = (struct bus_str){ "{}", 2 };
    serve(&bad, count_elements);
    assert_int_equal(bad.status, 400);
}

static void
a_handler_that_succeeds_after_a_failure_has_failed(void **state)
{
    (void)state;
    struct bus_incoming in = request(CHANGE);
    serve(&in, change_after_failing);
    assert_refused(&in, 409);
    assert_int_equal(in.n_things, 0);
    assert_int_equal(in.n_kept, 0);
    assert_int_equal(n_after, 0);
}

static void
a_held_call_keeps_no_transaction_and_is_answered_later(void **state)
{
    (void)state;
    struct bus_incoming in = request(CHANGE);
    serve(&in, change_and_hold);
    assert_false(in.answered);
    assert_int_equal(n_after, 2);
    assert_int_equal(n_views(), 0);
    api_finish(kept, API_OK);
    assert_int_equal(in.status, 200);
}

static void
a_call_that_is_held_and_finished_at_once_is_answered_once(void **state)
{
    (void)state;
    struct bus_incoming in = request(CHANGE);
    serve(&in, change_and_finish_at_once);
    assert_int_equal(in.status, 200);
    assert_int_equal(n_after, 2); /* the functions after it ran, too */
    struct bus_incoming next = request(CHANGE);
    serve(&next, change);
    assert_int_equal(next.status, 200);
}

static void
a_pending_call_is_recorded_when_it_is_finished(void **state)
{
    (void)state;
    struct bus_incoming in = request(DEFERRED), other = request(CHANGE);
    serve(&in, wait_for_later);
    assert_false(in.answered);
    serve(&other, change); /* meanwhile */
    api_finish(kept, API_OK);
    assert_int_equal(in.status, 200);
    assert_int_equal(in.n_kept, 2);
}

static void
an_upload_that_is_refused_before_it_is_read_is_removed(void **state)
{
    (void)state;
    static const char name[] = "up-1";
    struct bus_incoming in = request(UPLOAD); /* by nobody: 401 */
    spool(name);
    in.request.body_kind = BUS_BODY_FILE;
    in.request.body = (struct bus_str){ name, sizeof(name) - 1 };
    serve(&in, change);
    assert_refused(&in, 401);
    assert_int_equal(access(spooled, F_OK), -1);
}

static void
only_names_of_the_spool_are_removed(void **state)
{
    (void)state;
    static const char name[] = "../etc/up";
    struct bus_incoming in = request(UPLOAD);
    in.request.body_kind = BUS_BODY_FILE;
    in.request.body = (struct bus_str){ name, sizeof(name) - 1 };
    spool("data");
    serve(&in, change);
    assert_refused(&in, 401);
    assert_int_equal(access(spooled, F_OK), 0);
}

static void
a_file_of_an_answer_that_became_a_refusal_is_removed(void **state)
{
    (void)state;
    struct bus_incoming in = request(READ);
    serve(&in, give_file_and_fail);
    assert_refused(&in, 409);
    assert_int_equal(access(spooled, F_OK), -1);
}

/* ---- changes outside the store ---- */

static unsigned n_effects; /* on the device */

static enum api_status
write_device(struct api_call *call)
{
    enum api_status status = api_note(call, "write 7 to pump/set");
    if (status != API_OK)
        return status;
    kept = call;
    n_effects++;
    return API_PENDING;
}

/* The message of the newest record. */
static void
assert_recorded(const char *message)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    CLEANUP(json_freep) cJSON *tree = NULL;
    struct store_iter it;
    struct json_error e;
    char text[4096];
    assert_int_equal(store_read(svc.store, &txn), 0);
    assert_int_equal(store_iter_init(&it, txn, DB_OUTBOX, NULL, 0, true), 0);
    assert_int_equal(store_iter_next(&it), STORE_OK);
    int n = snprintf(text, sizeof(text), "{%.*s}", (int)it.size, (const char *)it.value);
    store_iter_done(&it);
    assert_int_equal(json_parse(text, (size_t)n, &tree, &e), 0);
    assert_string_equal(json_text(json_get(tree, "message")), message);
    assert_string_equal(json_text(json_get(tree, "event")), "e");
    assert_string_equal(json_text(json_get(tree, "source")), "anna");
    assert_string_equal(json_text(json_get(tree, "addr")), "10.0.0.9");
    assert_string_equal(json_text(json_get(tree, "requestId")), "0000000000000007");
}

static struct bus_incoming
write_request(void)
{
    struct bus_incoming in = request(DEFERRED);
    in.request.who = (struct bus_principal){ .kind = BUS_WHO_USER, .name = "anna",
                                             .addr = "10.0.0.9" };
    return in;
}

static void
an_effect_is_noted_before_it_is_begun_and_recorded_once(void **state)
{
    (void)state;
    struct bus_incoming in = write_request();
    serve(&in, write_device);
    assert_int_equal(n_records(DB_NOTES), 1);
    api_server_settle(svc.api); /* not that of a call under way */
    assert_int_equal(n_records(DB_NOTES), 1);
    assert_int_equal(n_records(DB_OUTBOX), 0);
    api_finish(kept, API_OK);
    assert_int_equal(in.status, 200);
    assert_int_equal(in.n_noted, 1); /* the client need not wait for the record */
    assert_int_equal(n_records(DB_OUTBOX), 1);
    assert_int_equal(n_records(DB_NOTES), 0);
    assert_recorded("write 7 to pump/set");
}

static void
an_effect_that_was_refused_leaves_nothing(void **state)
{
    (void)state;
    struct bus_incoming in = write_request();
    serve(&in, write_device);
    api_finish(kept, api_fail(kept, API_INVALID, NULL, "illegal data address"));
    assert_refused(&in, 400);
    assert_int_equal(in.n_kept, 0);
    assert_int_equal(n_records(DB_NOTES), 0);
}

static void
an_effect_of_unknown_outcome_is_recorded_as_such(void **state)
{
    (void)state;
    struct bus_incoming in = write_request();
    serve(&in, write_device);
    api_note_unsure(kept);
    api_finish(kept, api_fail(kept, API_TIMEOUT, NULL, "no answer"));
    assert_refused(&in, 504);
    assert_int_equal(in.n_kept, 1);
    assert_int_equal(n_records(DB_NOTES), 0);
    assert_recorded("write 7 to pump/set: outcome unknown");
}

static void
an_effect_whose_answer_cannot_be_made_is_recorded_all_the_same(void **state)
{
    (void)state;
    struct bus_incoming in = write_request();
    serve(&in, write_device);
    api_reply_buf(kept)->err = -ENOMEM;
    api_finish(kept, API_OK);
    assert_refused(&in, 503);
    assert_int_equal(in.n_kept, 1);
    assert_int_equal(n_records(DB_NOTES), 0);
    assert_recorded("write 7 to pump/set: outcome unknown");
}

static void
without_room_for_the_note_nothing_is_begun(void **state)
{
    (void)state;
    struct bus_incoming in = write_request();
    n_effects = 0;
    disk_is_full = true;
    serve(&in, write_device);
    disk_is_full = false;
    assert_refused(&in, 507);
    assert_int_equal(n_effects, 0);
    assert_int_equal(n_records(DB_NOTES), 0);
}

static void
an_effect_that_could_not_be_recorded_is_recorded_when_there_is_room(void **state)
{
    (void)state;
    for (int unsure = 0; unsure < 2; unsure++) {
        struct bus_incoming in = write_request();
        serve(&in, write_device);
        disk_is_full = true;
        if (unsure)
            api_note_unsure(kept);
        api_finish(kept, unsure ? api_fail(kept, API_TIMEOUT, NULL, "no answer") : API_OK);
        api_server_settle(svc.api);
        disk_is_full = false;
        if (unsure)
            assert_refused(&in, 504);
        else
            assert_int_equal(in.status, 200);
        assert_int_equal(n_records(DB_NOTES), 1);
        assert_int_equal(n_records(DB_OUTBOX), unsure);
        api_server_settle(svc.api);
        assert_int_equal(n_records(DB_NOTES), 0);
        assert_int_equal(n_records(DB_OUTBOX), unsure + 1);
        assert_recorded("write 7 to pump/set: outcome unknown");
    }
}

static void
an_effect_that_a_death_cut_off_is_recorded_at_the_next_start(void **state)
{
    (void)state;
    struct bus_incoming in = write_request(), next = write_request();
    serve(&in, write_device);
    struct api_call *first = kept;
    struct api_server *old = svc.api;
    assert_int_equal(api_server_new(&svc, ops, ARRAY_LEN(ops), &svc.api), 0);
    api_server_settle(svc.api);
    assert_int_equal(n_records(DB_NOTES), 0);
    assert_int_equal(n_records(DB_OUTBOX), 1);
    assert_recorded("write 7 to pump/set: outcome unknown");
    serve(&next, write_device);
    api_finish(kept, API_OK);
    assert_int_equal(next.status, 200);
    api_finish(first, API_INVALID); /* gives back its memory */
    api_server_free(old);
}

/* ---- streams ---- */

static uint64_t
opened_stream(void)
{
    struct bus_incoming in = request(READ);
    serve(&in, open_stream);
    assert_int_equal(in.body_kind, BUS_BODY_STREAM);
    assert_int_equal(in.n, 8);
    return get_u64((const uint8_t *)in.body);
}

static struct bus_incoming
next_of(uint64_t id)
{
    struct bus_incoming in = request(0);
    in.request.kind = BUS_KIND_STREAM_NEXT;
    in.request.id = id;
    return in;
}

static void
a_stream_of_a_refused_call_is_closed(void **state)
{
    (void)state;
    struct bus_incoming in = request(READ);
    serve(&in, open_stream_and_fail);
    assert_refused(&in, 409);
    assert_int_equal(n_closed, 1);
}

static void
streams_of_a_gateway_that_died_are_closed(void **state)
{
    (void)state;
    uint64_t first = opened_stream(), second = opened_stream();
    struct bus_incoming waiting = next_of(first);
    api_serve(svc.api, &waiting);
    assert_false(waiting.answered);
    assert_non_null(gateway_fn);
    gateway_fn(gateway_arg, true);
    assert_int_equal(n_closed, 0);
    gateway_fn(gateway_arg, false);
    assert_int_equal(n_closed, 2);
    assert_true(waiting.answered && waiting.end);
    struct bus_incoming late = next_of(second);
    api_serve(svc.api, &late);
    assert_int_equal(late.status, 404);
}

enum { BLOCK = 1024 };

static void
send_blocks(size_t n)
{
    char block[BLOCK];
    memset(block, 'x', sizeof(block));
    block[BLOCK - 2] = block[BLOCK - 1] = '\n';
    while (n-- > 0)
        api_stream_send(stream, block, sizeof(block));
}

static void
a_stream_drops_blocks_only_past_its_bound(void **state)
{
    (void)state;
    uint64_t id = opened_stream();
    send_blocks(1024);
    assert_int_equal(api_stream_backlog(stream), 1 << 20);
    /* Taken more slowly than made, never wholly. */
    for (int i = 0; i < 20; i++) {
        struct bus_incoming in = next_of(id);
        api_serve(svc.api, &in);
        assert_int_equal(in.n, 256 << 10);
        send_blocks(256);
        assert_int_equal(api_stream_backlog(stream), 1 << 20);
    }
    send_blocks(3); /* for three others */
    assert_int_equal(api_stream_backlog(stream), 1 << 20);
}

static void
a_block_that_never_fits_costs_no_other(void **state)
{
    (void)state;
    (void)opened_stream();
    send_blocks(10);
    char *large = calloc(1, (1 << 20) + 1);
    assert_non_null(large);
    api_stream_send(stream, large, (1 << 20) + 1);
    free(large);
    assert_int_equal(api_stream_backlog(stream), 10 * BLOCK);
}

static void
an_answer_that_would_come_too_late_carries_nothing(void **state)
{
    (void)state;
    uint64_t id = opened_stream();
    struct bus_incoming waiting = next_of(id), ready = next_of(id), next = next_of(id);
    waiting.request.deadline_us = clock_mono_us() + 600 * 1000;
    api_serve(svc.api, &waiting);
    assert_false(waiting.answered);
    waiting.request.deadline_us = clock_mono_us() + 1000; /* the loop stood still */
    send_blocks(2);
    assert_true(waiting.answered);
    assert_int_equal(waiting.n, 0);
    ready.request.deadline_us = clock_mono_us() + 1000;
    api_serve(svc.api, &ready);
    assert_int_equal(ready.n, 0);
    api_serve(svc.api, &next);
    assert_int_equal(next.n, 2 * BLOCK);
}

static void
a_stream_is_read_only_with_the_permission_that_opened_it(void **state)
{
    (void)state;
    struct bus_incoming in = request(READ_WITH);
    in.request.who = (struct bus_principal){ .kind = BUS_WHO_USER, .permissions = 1 << 5 };
    serve(&in, open_stream);
    assert_int_equal(in.body_kind, BUS_BODY_STREAM);
    struct bus_incoming first = next_of(get_u64((const uint8_t *)in.body)), second = first;
    first.request.who = second.request.who = in.request.who;
    second.request.who.permissions = 1 << 4; /* taken away meanwhile */
    send_blocks(1);
    api_serve(svc.api, &first);
    assert_int_equal(first.n, BLOCK);
    send_blocks(1);
    api_serve(svc.api, &second);
    assert_int_equal(second.status, 403);
    assert_int_equal(second.n, 0);
    assert_true(second.end);
    assert_int_equal(n_closed, 1);
}

/* ---- long changes ---- */

static void
move_gate(bool *what, bool value)
{
    pthread_mutex_lock(&gate_lock);
    *what = value;
    pthread_cond_broadcast(&gate_moved);
    pthread_mutex_unlock(&gate_lock);
}

static void
wait_gate(const bool *what)
{
    pthread_mutex_lock(&gate_lock);
    while (!*what)
        pthread_cond_wait(&gate_moved, &gate_lock);
    pthread_mutex_unlock(&gate_lock);
}

static enum api_status
read_nothing(struct api_call *call)
{
    api_reply_json(call, "{}", 2);
    return API_OK;
}

static enum api_status
long_change(struct api_call *call)
{
    enum api_status status = change(call);
    move_gate(&at_gate, true);
    wait_gate(&gate_open);
    return status;
}

static enum api_status
long_refusal(struct api_call *call)
{
    enum api_status status = long_change(call);
    assert_int_equal(status, API_OK);
    assert_true(api_fail_at(call, "/file", 7, 2, "one thing"));
    assert_true(api_fail_at(call, "/file", 9, 0, "another"));
    return api_fail(call, API_INVALID, "/file", "one thing");
}

/* Begun and in its transaction. */
static struct bus_incoming *
begun(struct bus_incoming *in, enum api_status (*fn)(struct api_call *call))
{
    *in = request(LONG);
    long_handler = fn;
    gate_open = at_gate = false;
    api_serve(svc.api, in);
    wait_gate(&at_gate);
    return in;
}

static void
wait_answer(const struct bus_incoming *in)
{
    uint64_t until_us = clock_mono_us() + FAR_US;
    while (!in->answered && clock_mono_us() < until_us)
        assert_int_equal(loop_round(svc.loop, 10 * 1000), 0);
    assert_true(in->answered);
}

static void
a_long_change_lets_others_read_and_makes_changes_wait(void **state)
{
    (void)state;
    struct bus_incoming in, reads = request(READ), changes = request(CHANGE);
    begun(&in, long_change);
    serve(&reads, read_nothing);
    assert_int_equal(reads.status, 200);
    assert_int_equal(reads.n_things, 0); /* as before the change */
    serve(&changes, change);
    assert_int_equal(loop_round(svc.loop, 0), 0);
    assert_false(in.answered || changes.answered);
    move_gate(&gate_open, true);
    wait_answer(&changes);
    assert_int_equal(in.status, 200);
    assert_int_equal(in.n_kept, 1);
    assert_int_equal(changes.status, 200);
    assert_int_equal(changes.n_kept, 2);
    assert_int_equal(n_after, 2);
}

static void
a_pending_call_that_ends_meanwhile_is_recorded_after_it(void **state)
{
    (void)state;
    struct bus_incoming pending = request(DEFERRED), in;
    serve(&pending, wait_for_later);
    begun(&in, long_change);
    api_finish(kept, API_OK);
    assert_false(pending.answered);
    move_gate(&gate_open, true);
    wait_answer(&pending);
    assert_true(in.answered);
    assert_int_equal(pending.status, 200);
    assert_int_equal(pending.n_kept, 2);
}

static void
what_was_left_over_is_recorded_after_a_long_change_and_does_not_wait_for_it(void **state)
{
    (void)state;
    struct bus_incoming noted = write_request(), in;
    serve(&noted, write_device);
    disk_is_full = true;
    api_finish(kept, API_OK);
    disk_is_full = false;
    assert_int_equal(noted.status, 200);
    begun(&in, long_change);
    api_server_settle(svc.api);
    assert_int_equal(n_records(DB_NOTES), 1);
    move_gate(&gate_open, true);
    wait_answer(&in);
    api_server_settle(svc.api);
    assert_int_equal(n_records(DB_NOTES), 0);
    assert_int_equal(n_records(DB_OUTBOX), 2);
    assert_recorded("write 7 to pump/set: outcome unknown");
}

static void
a_refused_long_change_leaves_nothing_and_tells_each_reason(void **state)
{
    (void)state;
    struct bus_incoming in;
    begun(&in, long_refusal);
    move_gate(&gate_open, true);
    wait_answer(&in);
    assert_refused(&in, 400);
    assert_non_null(strstr(in.body, "{\"pointer\":\"/file\",\"line\":7,\"column\":2,"
                                    "\"message\":\"one thing\"},"
                                    "{\"pointer\":\"/file\",\"line\":9,\"message\":"));
    assert_int_equal(in.n_things, 0);
    assert_int_equal(in.n_kept, 0);
    assert_int_equal(n_after, 0);
}

static void
a_change_whose_time_is_up_while_it_waits_is_not_begun(void **state)
{
    (void)state;
    struct bus_incoming in, late = request(CHANGE);
    begun(&in, long_change);
    late.request.deadline_us = clock_mono_us();
    serve(&late, change);
    move_gate(&gate_open, true);
    wait_answer(&late);
    assert_refused(&late, 504);
    assert_int_equal(late.n_kept, 1);
}

static void
only_so_many_changes_wait(void **state)
{
    (void)state;
    enum { MANY_CALLS = 300 };
    static struct bus_incoming all[MANY_CALLS];
    struct bus_incoming in;
    unsigned n_refused = 0, n_done = 0;
    begun(&in, long_change);
    for (int i = 0; i < MANY_CALLS; i++) {
        all[i] = request(CHANGE);
        all[i].request.deadline_us = UINT64_MAX;
        serve(&all[i], change);
        n_refused += all[i].answered && all[i].status == 503;
    }
    assert_in_range(n_refused, 1, MANY_CALLS - 1);
    move_gate(&gate_open, true);
    wait_answer(&in);
    for (int i = 0; i < MANY_CALLS; i++)
        n_done += all[i].status == 200;
    assert_int_equal(n_done, MANY_CALLS - n_refused);
}

static void
stopping_waits_for_the_commit_and_begins_no_other(void **state)
{
    (void)state;
    struct bus_incoming in, other = request(CHANGE);
    begun(&in, long_change);
    serve(&other, change);
    move_gate(&gate_open, true);
    api_server_stop(svc.api);
    assert_int_equal(in.status, 200);
    assert_int_equal(in.n_kept, 1);
    assert_refused(&other, 503);
    assert_int_equal(loop_round(svc.loop, 0), 0); /* what the thread posted is for nobody */
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        T(a_change_is_answered_when_it_is_on_disk_with_its_record),
        T(a_change_that_cannot_be_committed_is_refused_and_leaves_nothing),
        T(a_change_whose_answer_cannot_be_made_is_refused_and_leaves_nothing),
        T(an_answer_too_large_for_a_message_goes_as_a_file),
        T(what_is_too_large_to_keep_is_the_client_s_fault),
        T(a_list_has_a_bound_that_is_looked_at_before_it_is_decoded),
        T(an_optional_body_may_be_missing_but_is_judged_when_it_is_there),
        T(a_handler_that_succeeds_after_a_failure_has_failed),
        T(a_held_call_keeps_no_transaction_and_is_answered_later),
        T(a_call_that_is_held_and_finished_at_once_is_answered_once),
        T(a_pending_call_is_recorded_when_it_is_finished),
        T(an_upload_that_is_refused_before_it_is_read_is_removed),
        T(only_names_of_the_spool_are_removed),
        T(a_file_of_an_answer_that_became_a_refusal_is_removed),
        T(an_effect_is_noted_before_it_is_begun_and_recorded_once),
        T(an_effect_that_was_refused_leaves_nothing),
        T(an_effect_of_unknown_outcome_is_recorded_as_such),
        T(an_effect_whose_answer_cannot_be_made_is_recorded_all_the_same),
        T(without_room_for_the_note_nothing_is_begun),
        T(an_effect_that_could_not_be_recorded_is_recorded_when_there_is_room),
        T(an_effect_that_a_death_cut_off_is_recorded_at_the_next_start),
        T(a_stream_of_a_refused_call_is_closed),
        T(streams_of_a_gateway_that_died_are_closed),
        T(a_stream_drops_blocks_only_past_its_bound),
        T(a_block_that_never_fits_costs_no_other),
        T(an_answer_that_would_come_too_late_carries_nothing),
        T(a_stream_is_read_only_with_the_permission_that_opened_it),
        T(a_long_change_lets_others_read_and_makes_changes_wait),
        T(a_pending_call_that_ends_meanwhile_is_recorded_after_it),
        T(what_was_left_over_is_recorded_after_a_long_change_and_does_not_wait_for_it),
        T(a_refused_long_change_leaves_nothing_and_tells_each_reason),
        T(a_change_whose_time_is_up_while_it_waits_is_not_begun),
        T(only_so_many_changes_wait),
        T(stopping_waits_for_the_commit_and_begins_no_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
