/*
 * Records in, and records out when they are too many or too old.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <string.h>

#include "libcommon/audit.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/metrics.h"
#include "libcommon/str.h"
#include "services/auditd/auditd.h"

#include "libcommon/banned.h"

enum {
    UUID_SIZE = 16,
    TRIM_STEP = 500, /* records deleted in one transaction, so that appends get between */
    TRIM_PAUSE_US = 5000,
    CLOCK_STEP_US = 300 * 1000 * 1000, /* more than that at once: the clock was set */
    TRIM_SPARE_PERCENT = 2, /* deleted beyond the limit, so that not every append trims */
};
static const int64_t day_us = INT64_C(24) * 60 * 60 * 1000000;

static struct metric_counter records_added = { .name = "fieldgate_audit_records_total",
                                               .help = "Audit records taken in" };
static struct metric_counter records_repeated = { .name = "fieldgate_audit_repeats_total",
                                                  .help = "Audit records delivered again" };
static struct metric_counter records_rotated = { .name = "fieldgate_audit_rotated_total",
                                                 .help =
                                                     "Audit records deleted by age or size" };
static struct metric_counter trail_bytes = { .name = "fieldgate_audit_bytes",
                                             .help = "Bytes of the audit log",
                                             .gauge = true };

/* ---- in ---- */

struct batch {
    uint8_t sender[UUID_SIZE + TRAIL_DAEMON_MAX]; /* store uuid, daemon */
    size_t sender_size;
    const char *daemon;
    const cJSON *records;
};

/* 'caller': the daemon by its uid; NULL where none is known by that. */
static int
read_batch(const cJSON *tree, const char *caller, struct batch *ret_batch)
{
    struct batch b = { .daemon = caller ? caller : json_text(json_get(tree, "daemon")),
                       .records = json_get(tree, "records") };
    const char *uuid = json_text(json_get(tree, "store"));
    size_t len = b.daemon ? utf8_cut(b.daemon, strlen(b.daemon), TRAIL_DAEMON_MAX) : 0;
    if (!uuid || !b.daemon || !cJSON_IsArray(b.records) ||
        hex_decode(uuid, strlen(uuid), b.sender, UUID_SIZE) != UUID_SIZE)
        return -EBADMSG;
    memcpy(b.sender + UUID_SIZE, b.daemon, len);
    b.sender_size = UUID_SIZE + len;
    *ret_batch = b;
    return 0;
}

static struct trail_text
text_of(const cJSON *record, const char *name)
{
    const char *text = json_text(json_get(record, name));
    return text ? (struct trail_text){ text, strlen(text) } : (struct trail_text){ "", 0 };
}

static int
last_seq(struct store_txn *txn, const struct batch *b, uint64_t *ret_seq)
{
    const void *value;
    size_t size;
    int r = store_get(txn, TRAIL_DB_SENDERS, b->sender, b->sender_size, &value, &size);
    if (r < 0)
        return r;
    if (r == STORE_OK && size != 8)
        return -EPROTO;
    *ret_seq = r == STORE_OK ? store_u64_key(value) : 0;
    return 0;
}

/* What a sender got wrong is kept as it came, cut: a record is worth more than its form. */
static int
append_one(struct store_txn *txn, struct trail_state *state, const struct batch *b,
           const cJSON *record)
{
    struct trail_text id = text_of(record, "requestId");
    struct trail_record in = {
        .name = text_of(record, "event"),
        .daemon = { b->daemon, strlen(b->daemon) },
        .addr = text_of(record, "addr"),
        .source = text_of(record, "source"),
        .message = text_of(record, "message"),
        .detail = text_of(record, "detail"),
    };
    uint8_t bytes[8];
    if (hex_decode(id.p, id.len, bytes, sizeof(bytes)) == 8)
        in.request_id = get_u64(bytes);
    if (json_i64(json_get(record, "at"), &in.at_us) < 0)
        in.at_us = clock_wall_us();
    return trail_append(txn, state, &in);
}

/* Adds all that are new. '*ret_seq': the last number of that store. 0 or -errno. */
static int
append_all(struct auditd *a, struct store_txn *txn, const struct batch *b,
           struct trail_state *state, uint64_t *ret_seq)
{
    uint64_t last = 0, repeats = 0;
    int r = last_seq(txn, b, &last);
    const cJSON *record;
    cJSON_ArrayForEach(record, b->records)
    {
        uint64_t seq = 0;
        if (r == 0 && json_u64(json_get(record, "seq"), &seq) < 0)
            r = -EBADMSG;
        if (r < 0)
            return r;
        if (seq <= last) {
            repeats++;
            continue;
        }
        last = seq;
        r = append_one(txn, state, b, record);
    }
    uint8_t value[8];
    if (r == 0 && state->n > a->state.n)
        r = store_put(txn, TRAIL_DB_SENDERS, b->sender, b->sender_size,
                      store_key_u64(value, last), sizeof(value));
    if (r == 0) {
        metric_add(&records_repeated, repeats);
        *ret_seq = last;
    }
    return r;
}

static void
tell_new(struct auditd *a, uint64_t from_id)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    if (!a->followers || store_read(a->svc->store, &txn) < 0)
        return;
    for (uint64_t id = from_id; id < a->state.next_id; id++) {
        struct trail_record t;
        if (trail_get(txn, id, &t) == STORE_OK)
            auditd_tell_followers(a, &t);
    }
}

static void
check_threshold(struct auditd *a)
{
    uint64_t limit = (uint64_t)a->setting.desired_disk_cache_size_mb << 20;
    uint64_t percent = limit ? a->state.bytes * 100 / limit : 0;
    uint64_t at = (uint64_t)a->setting.alert_threshold;
    /* Rotation keeps the size just below the limit: told again only after it was well below. */
    if (percent + 5 < at)
        a->threshold_told = false;
    if (percent < at || a->threshold_told)
        return;
    char message[96];
    (void)snprintf(message, sizeof(message), "The audit log uses %llu %% of its %lld MB",
                   (unsigned long long)percent,
                   (long long)a->setting.desired_disk_cache_size_mb); /* fits */
    struct audit_record record = { .event = "auditStorageThreshold",
                                   .message = message,
                                   .detail = "",
                                   .source = "auditd",
                                   .addr = "",
                                   .at_us = clock_wall_us() };
    int r = audit_event(a->svc->outbox, &record);
    if (r < 0)
        log_err("auditd: cannot record the threshold error=%s", strerror(-r));
    else
        a->threshold_told = true;
}

void
auditd_append(void *self, struct bus_incoming *in)
{
    struct auditd *a = self;
    const struct bus_request *rq = bus_incoming_request(in);
    CLEANUP(json_freep) cJSON *tree = NULL;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    struct json_error e;
    struct batch b = { .daemon = "?" };
    struct trail_state state = a->state;
    uint64_t seq = 0, first_new = state.next_id;

    int r = rq->body_kind == BUS_BODY_JSON ? json_parse(rq->body.p, rq->body.len, &tree, &e)
                                           : -EBADMSG;
    if (r == 0)
        r = read_batch(tree, svc_caller(a->svc, in), &b);
    if (r == 0)
        r = store_begin(a->svc->store, &txn);
    if (r == 0)
        r = append_all(a, txn, &b, &state, &seq);
    if (r == 0 && state.next_id != first_new)
        r = store_commit(MOVE_PTR(txn));
    store_abort(MOVE_PTR(txn));

    struct bus_reply reply = { .id = rq->id, .status = API_OK, .body_kind = BUS_BODY_JSON };
    char body[48];
    if (r < 0) {
        char name[40];
        log_err("auditd: records not taken daemon=%s error=%s",
                log_safe(b.daemon, name, sizeof(name)), strerror(-r));
        reply.status = r == -ENOSPC                                   ? API_NO_SPACE
                       : r == -EBADMSG || r == -EINVAL || r == -E2BIG ? API_INVALID
                                                                      : API_INTERNAL;
        reply.body_kind = BUS_BODY_NONE;
    } else {
        a->state = state;
        int n = snprintf(body, sizeof(body), "{\"acked\":%llu}", (unsigned long long)seq);
        reply.body = (struct bus_str){ body, (uint32_t)n };
    }
    bus_answer(in, &reply);
    if (r < 0 || state.next_id == first_new)
        return;
    metric_add(&records_added, state.next_id - first_new);
    metric_set(&trail_bytes, state.bytes);
    tell_new(a, first_new);
    if (a->state.bytes > (uint64_t)a->setting.desired_disk_cache_size_mb << 20)
        auditd_trim_soon(a);
    check_threshold(a);
}

/* ---- out ---- */

/* Moves only when the wall clock is set. */
static int64_t
clock_offset_us(void)
{
    return clock_wall_us() - (int64_t)clock_mono_us();
}

/*
 * A clock that is wrong for a while must not make all records old: age counts
 * only while the clock went on evenly since the last look at it, an hour ago
 * at most, and the one before.
 */
static bool
clock_is_steady(const struct auditd *a)
{
    int64_t step_us = clock_offset_us() - a->clock_offset_us;
    return a->clock_was_steady && step_us < CLOCK_STEP_US && step_us > -CLOCK_STEP_US;
}

static int64_t
oldest_kept_us(const struct auditd *a)
{
    if (!a->setting.enable_time_to_live || !clock_is_steady(a))
        return INT64_MIN;
    return clock_wall_us() - a->setting.time_to_live_day * day_us;
}

static void
trim(void *arg)
{
    struct auditd *a = arg;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    struct trail_state state = a->state;
    if (auditd_download_holds(a)) /* its end calls this again, as does the next append */
        return;
    uint64_t limit = (uint64_t)a->setting.desired_disk_cache_size_mb << 20;
    /* Begun at the limit, carried on to a little below it. */
    uint64_t target = limit - limit / 100 * TRIM_SPARE_PERCENT;
    int r = store_begin(a->svc->store, &txn), n = 0;
    if (r == 0)
        n = r = trail_trim(txn, &state, target, oldest_kept_us(a), TRIM_STEP);
    if (n > 0)
        r = store_commit(MOVE_PTR(txn));
    if (r < 0) {
        log_err("auditd: cannot rotate error=%s", strerror(-r));
        return; /* the next append or look at the age tries again */
    }
    if (n == 0)
        return;
    a->state = state;
    metric_add(&records_rotated, (uint64_t)n);
    metric_set(&trail_bytes, state.bytes);
    log_debug("auditd: rotated records=%d left=%llu", n, (unsigned long long)state.n);
    if (n == TRIM_STEP)
        auditd_trim_soon(a);
}

void
auditd_trim_soon(struct auditd *a)
{
    if (!loop_timer_is_set(&a->trim) &&
        loop_timer_set(a->svc->loop, &a->trim, clock_mono_us() + TRIM_PAUSE_US) < 0)
        log_warn("auditd: out of memory for a timer");
}

static void
look_at_age(void *arg)
{
    struct auditd *a = arg;
    uint64_t now_us = clock_mono_us();
    bool is_first = a->tell_head_us == 0;
    a->clock_was_steady = true;
    a->clock_was_steady = !is_first && clock_is_steady(a);
    a->clock_offset_us = clock_offset_us();
    if (a->setting.enable_time_to_live)
        auditd_trim_soon(a);
    if (now_us >= a->tell_head_us) {
        auditd_tell_head(a);
        a->tell_head_us = now_us + (uint64_t)day_us;
    }
    if (loop_timer_set(a->svc->loop, &a->age, now_us + a->age_check_us) < 0)
        log_warn("auditd: out of memory for a timer");
}

void
auditd_init_timers(struct auditd *a)
{
    metric_register(&records_added);
    metric_register(&records_repeated);
    metric_register(&records_rotated);
    metric_register(&trail_bytes);
    metric_set(&trail_bytes, a->state.bytes);
    loop_timer_init(&a->trim, trim, a);
    loop_timer_init(&a->age, look_at_age, a);
    if (a->state.bytes > (uint64_t)a->setting.desired_disk_cache_size_mb << 20)
        auditd_trim_soon(a);
    look_at_age(a);
}

void
auditd_stop_timers(struct auditd *a)
{
    if (!a->svc)
        return;
    loop_timer_cancel(a->svc->loop, &a->trim);
    loop_timer_cancel(a->svc->loop, &a->age);
}

/* ---- what reading calls leave ---- */

int
auditd_record_download(const struct auditd *a, const struct api_call *call, const char *event,
                       const char *message)
{
    struct audit_record record = { .event = event,
                                   .message = message,
                                   .detail = "",
                                   .source = call->who->name,
                                   .addr = call->who->addr,
                                   .request_id = call->request->id,
                                   .at_us = clock_wall_us() };
    return audit_event(a->svc->outbox, &record);
}
