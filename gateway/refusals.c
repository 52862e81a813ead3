/*
 * Reports of refused requests. See refusals.h.
 */
#include "gateway/refusals.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/refusal_table.h"
#include "gateway/route.h"
#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/loop.h"
#include "libcommon/str.h"
#include "libcommon/svc.h"
#include "proto/internal.h"

#include "libcommon/banned.h"

enum { BODY_MAX = 512 * 1024, REPORT_TIMEOUT_US = 2000000 };

struct refusals {
    struct svc *svc;
    struct bus_peer *authd;
    struct refusal_table *table;
    struct loop_post post; /* on its way to the loop while is_posted */
    _Atomic bool is_posted;
    /* the loop's */
    struct loop_timer report_timer, minute;
    uint64_t turned_us; /* when the last minute ended */
    bool is_under_way;
    size_t n_under_way;
    struct refusal report[REFUSALS_REPORT_MAX];
};

/* ---- reporting ---- */

static void
write_refusal(struct buf *b, const struct refusal *r)
{
    char operation[256] = "", id[17];
    if (r->path != NULL)
        (void)snprintf(operation, sizeof(operation), "%s %s", r->method, r->path); /* may cut */
    (void)snprintf(id, sizeof(id), "%016llx", (unsigned long long)r->request_id);  /* fits */
    jw_open(b, '{');
    jw_kstr(b, "source", r->source);
    jw_kstr(b, "addr", r->addr);
    jw_kstr(b, "operation", operation);
    jw_kstr(b, "reason", r->reason);
    jw_ku64(b, "more", r->n_more);
    jw_kstr(b, "requestId", id);
    jw_ki64(b, "at", r->at_us);
    jw_close(b, '}');
}

static void
report_in(struct refusals *r, uint64_t wait_us)
{
    /* Without memory for a timer: with the next refusal. */
    (void)loop_timer_set(r->svc->loop, &r->report_timer, clock_mono_us() + wait_us);
}

static void
report_done(void *arg, int error, const struct bus_reply *reply)
{
    struct refusals *r = arg;
    r->is_under_way = false;
    if (error == 0 && reply->status == 400)
        log_err("refusals: authd cannot read the report n=%zu", r->n_under_way);
    if (error == 0 && (reply->status == 200 || reply->status == 400)) {
        refusal_table_drop(r->table, r->n_under_way);
        report_in(r, 0); /* more may wait */
        return;
    }
    log_debug("refusals: not taken error=%d", error);
    report_in(r, REFUSALS_AGAIN_US);
}

static int
send_report(struct refusals *r)
{
    struct buf body;
    buf_init(&body, BODY_MAX);
    jw_open(&body, '{');
    jw_name(&body, "refused");
    jw_open(&body, '[');
    for (size_t i = 0; i < r->n_under_way; i++)
        write_refusal(&body, &r->report[i]);
    jw_close(&body, ']');
    jw_close(&body, '}');
    struct bus_request request = {
        .kind = BUS_KIND_INTERNAL,
        .op = INTERNAL_AUTH_REFUSED,
        .deadline_us = clock_mono_us() + REPORT_TIMEOUT_US,
        .who = { .kind = BUS_WHO_DAEMON, .name = "gateway" },
        .body_kind = BUS_BODY_JSON,
        .body = { .p = body.data, .len = (uint32_t)body.len },
    };
    int error = body.err;
    if (error == 0)
        error = bus_call(r->authd, &request, report_done, r);
    buf_done(&body);
    return error;
}

static void
report(void *arg)
{
    struct refusals *r = arg;
    if (r->is_under_way)
        return; /* its end looks for more */
    r->n_under_way = refusal_table_peek(r->table, r->report, REFUSALS_REPORT_MAX);
    if (r->n_under_way == 0)
        return;
    if (bus_peer_is_up(r->authd) && send_report(r) == 0)
        r->is_under_way = true;
    else
        report_in(r, REFUSALS_AGAIN_US);
}

static void
turn(struct refusals *r)
{
    uint64_t now_us = clock_mono_us();
    bool is_left = refusal_table_turn(r->table, now_us - r->turned_us);
    r->turned_us = now_us;
    if (is_left)
        (void)loop_timer_set(r->svc->loop, &r->minute, now_us + REFUSAL_MINUTE_US);
}

static void
minute_is_over(void *arg)
{
    struct refusals *r = arg;
    turn(r);
    report(r);
}

static void
woken(void *arg)
{
    struct refusals *r = arg;
    atomic_store(&r->is_posted, false);
    uint64_t now_us = clock_mono_us();
    if (!loop_timer_is_set(&r->minute))
        (void)loop_timer_set(r->svc->loop, &r->minute, now_us + REFUSAL_MINUTE_US);
    if (!r->is_under_way && !loop_timer_is_set(&r->report_timer))
        report_in(r, REFUSALS_GATHER_US);
}

/* ---- noting ---- */

void
refusals_note(struct refusals *r, const struct bus_principal *who, const char *addr,
              const struct route *route, uint64_t request_id, const char *reason)
{
    struct refusal what = {
        .method = route->method,
        .path = route->path,
        .request_id = request_id,
        .at_us = clock_wall_us(),
    };
    (void)str_copy(what.source, sizeof(what.source), who->name); /* both fit */
    (void)str_copy(what.addr, sizeof(what.addr), addr);
    size_t len = utf8_cut(reason, strlen(reason), sizeof(what.reason) - 1);
    memcpy(what.reason, reason, len);
    if (refusal_table_note(r->table, &what) && !atomic_exchange(&r->is_posted, true))
        loop_post(r->svc->loop, &r->post, woken, r);
}

void
refusals_note_reply(struct refusals *r, const struct bus_principal *who, const char *addr,
                    const struct route *route, uint64_t request_id,
                    const struct bus_reply *reply)
{
    CLEANUP(json_freep) struct cJSON *tree = NULL;
    struct json_error fault;
    if (reply->recorded || (reply->status != 401 && reply->status != 403))
        return;
    const char *reason = NULL;
    if (reply->body_kind == BUS_BODY_JSON &&
        json_parse(reply->body.p, reply->body.len, &tree, &fault) == 0)
        reason = json_text(json_get(json_get(tree, "error"), "message"));
    refusals_note(r, who, addr, route, request_id,
                  reason != NULL ? reason : "permission denied");
}

/* ---- life ---- */

int
refusals_new(struct svc *svc, struct refusals **ret_refusals)
{
    struct refusals *r = calloc(1, sizeof(*r));
    if (r == NULL)
        return -ENOMEM;
    r->svc = svc;
    r->turned_us = clock_mono_us();
    loop_timer_init(&r->report_timer, report, r);
    loop_timer_init(&r->minute, minute_is_over, r);
    int error = refusal_table_new(&r->table);
    if (error == 0)
        error = bus_peer(svc->bus, "authd", &r->authd);
    if (error < 0) {
        refusal_table_free(r->table);
        free(r);
        return error;
    }
    *ret_refusals = r;
    return 0;
}

/* What waits, once nobody notes any more. */
static size_t
count_waiting(struct refusals *r)
{
    return r->is_under_way ? r->n_under_way
                           : refusal_table_peek(r->table, r->report, REFUSALS_REPORT_MAX);
}

void
refusals_stop(struct refusals *r)
{
    if (r == NULL)
        return;
    turn(r);
    report(r);
    uint64_t until_us = clock_mono_us() + REFUSALS_STOP_US;
    while (count_waiting(r) > 0 && clock_mono_us() < until_us)
        if (loop_round(r->svc->loop, 20000) < 0)
            break;
    if (count_waiting(r) > 0)
        log_warn("refusals: authd is away, refused requests are not recorded");
}
