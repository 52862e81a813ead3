/*
 * The line to the front door, which remembers whose token is whose. The rule:
 * an answer that takes rights away leaves only after the front door confirmed
 * that it forgot. It is kept so:
 *
 * - A line is clean once the front door has confirmed "forget all" on it. On
 *   any other line no check is answered (it waits), so nothing can be cached
 *   from this life of authd that this line's "forget all" does not cover.
 * - On a clean line a change sends "forget" and waits for the confirmation.
 * - On a line that is down or not clean it waits for the next line's "forget
 *   all". If the front door died, its cache died too and nobody is left to be
 *   answered; if only the line broke, it comes back.
 * - After 2 s without confirmation the caller is told 503 although the change
 *   is committed: "done" would promise that the old rights are refused, which
 *   nobody confirmed. A repeated request then finds the change made. The line
 *   is not clean any more: "forget all" is sent until it is confirmed.
 */
#include <errno.h>
#include <string.h>

#include "libcommon/json.h"
#include "libcommon/log.h"
#include "proto/internal.h"
#include "services/authd/authd.h"

#include "libcommon/banned.h"

enum { FORGET_TIMEOUT_US = 2000000, FLUSH_AGAIN_US = 200000 };

static void
finish(struct forget *f, bool forgotten)
{
    for (struct forget **p = &f->a->link.forgets; *p; p = &(*p)->next)
        if (*p == f) {
            *p = f->next;
            break;
        }
    bool is_ours = f->is_ours;
    if (f->fn)
        f->fn(f->arg, forgotten); /* frees 'f' unless it is ours */
    if (is_ours)
        free(f);
}

static int
call_gateway(struct authd *a, enum forget_scope scope, int64_t id, uint64_t epoch,
             uint64_t deadline_us, bus_reply_fn *fn, void *arg)
{
    static const char *const names[] = { "all", "userId", "sessionId" };
    struct buf body;
    buf_init(&body, 256);
    jw_open(&body, '{');
    jw_ku64(&body, "epoch", epoch);
    if (scope == FORGET_ALL)
        jw_kbool(&body, names[scope], true);
    else
        jw_ki64(&body, names[scope], id);
    jw_close(&body, '}');
    struct bus_request request = {
        .kind = BUS_KIND_INTERNAL,
        .op = INTERNAL_AUTH_FORGET,
        .deadline_us = deadline_us,
        .who = { .kind = BUS_WHO_DAEMON, .name = "authd" },
        .body_kind = BUS_BODY_JSON,
        .body = { body.data, (uint32_t)body.len },
    };
    int r = body.err ? body.err : bus_call(a->link.gateway, &request, fn, arg);
    buf_done(&body);
    return r;
}

static void
arm(struct authd *a)
{
    uint64_t first = UINT64_MAX;
    for (const struct forget *f = a->link.forgets; f; f = f->next)
        if (!f->is_sent && f->deadline_us < first)
            first = f->deadline_us;
    if (a->link.is_up && !a->link.is_clean && !a->link.is_flushing) {
        uint64_t again = loop_now_us(a->svc->loop) + FLUSH_AGAIN_US;
        first = again < first ? again : first;
    }
    if (first != UINT64_MAX && loop_timer_set(a->svc->loop, &a->link.timer, first) < 0)
        log_warn("authd: out of memory for a timer");
}

/* Nobody confirmed it: what it meant may still be remembered. */
static void
give_up(struct forget *f)
{
    f->a->link.is_clean = false;
    finish(f, false);
}

static void
on_forgotten(void *arg, int error, const struct bus_reply *reply)
{
    struct forget *f = arg;
    struct authd *a = f->a;
    if (error == 0 && reply->status == 200) {
        finish(f, true);
    } else if (error == -EHOSTUNREACH || error == -ECONNRESET) {
        f->is_sent = false; /* waits for the next line */
        arm(a);
    } else {
        log_warn("authd: front door did not confirm a change of rights error=%s",
                 error ? strerror(-error) : "refused");
        give_up(f);
        arm(a);
    }
}

static void
send_forget(struct forget *f)
{
    int r = call_gateway(f->a, f->scope, f->id, f->epoch, f->deadline_us, on_forgotten, f);
    f->is_sent = r == 0;
}

void
link_forget(struct authd *a, struct forget *f, enum forget_scope scope, int64_t id,
            forget_fn *fn, void *arg)
{
    *f = (struct forget){ .next = a->link.forgets,
                          .a = a,
                          .scope = scope,
                          .id = id,
                          .fn = fn,
                          .arg = arg,
                          .epoch = a->epoch,
                          .deadline_us = loop_now_us(a->svc->loop) + FORGET_TIMEOUT_US };
    a->link.forgets = f;
    if (a->link.is_clean)
        send_forget(f);
    if (!f->is_sent)
        arm(a);
}

void
link_forget_soon(struct authd *a, enum forget_scope scope, int64_t id)
{
    struct forget *f = malloc(sizeof(*f));
    if (!f) {
        a->link.is_clean = false; /* checks wait until all is forgotten */
        arm(a);
        return;
    }
    link_forget(a, f, scope, id, NULL, NULL);
    f->is_ours = true;
}

static void
line_became_clean(struct authd *a, uint64_t epoch)
{
    a->link.is_clean = true;
    struct forget *next;
    for (struct forget *f = a->link.forgets; f; f = next) {
        next = f->next;
        if (f->is_sent)
            continue;
        if (f->epoch <= epoch)
            finish(f, true); /* covered by "forget all" */
        else
            send_forget(f);
    }
    size_t n = a->link.n_held;
    a->link.n_held = 0;
    for (size_t i = 0; i < n; i++)
        authd_auth_check(a, a->link.held[i]);
}

struct flush {
    struct authd *a;
    uint64_t generation, epoch;
};

static void
on_flushed(void *arg, int error, const struct bus_reply *reply)
{
    struct flush *f = arg;
    struct authd *a = f->a;
    bool current = f->generation == a->link.generation;
    if (current)
        a->link.is_flushing = false;
    if (current && error == 0 && reply->status == 200)
        line_became_clean(a, f->epoch);
    else if (current)
        arm(a); /* asked again soon */
    free(f);
}

static void
flush_all(struct authd *a)
{
    struct flush *f = malloc(sizeof(*f));
    if (f) {
        *f = (struct flush){ a, a->link.generation, a->epoch };
        uint64_t deadline = loop_now_us(a->svc->loop) + FORGET_TIMEOUT_US;
        a->link.is_flushing =
            call_gateway(a, FORGET_ALL, 0, a->epoch, deadline, on_flushed, f) == 0;
        if (!a->link.is_flushing)
            free(f);
    }
}

static void
on_timer(void *arg)
{
    struct authd *a = arg;
    uint64_t now = loop_now_us(a->svc->loop);
    struct forget *next;
    for (struct forget *f = a->link.forgets; f; f = next) {
        next = f->next;
        if (!f->is_sent && f->deadline_us <= now)
            give_up(f);
    }
    if (a->link.is_up && !a->link.is_clean && !a->link.is_flushing)
        flush_all(a);
    arm(a);
}

static void
on_line(void *arg, bool up)
{
    struct authd *a = arg;
    a->link.generation++; /* what is under way on the old line counts no more */
    a->link.is_up = up;
    a->link.is_clean = a->link.is_flushing = false;
    log_debug("authd: line to the front door %s", up ? "up" : "down");
    if (up)
        flush_all(a);
    arm(a);
}

bool
link_hold_check(struct authd *a, struct bus_incoming *in)
{
    if (a->link.is_clean || a->link.n_held == HELD_CHECKS_MAX)
        return false;
    a->link.held[a->link.n_held++] = in;
    return true;
}

int
link_start(struct authd *a)
{
    loop_timer_init(&a->link.timer, on_timer, a);
    int r = bus_peer(a->svc->bus, "gateway", &a->link.gateway);
    if (r == 0)
        r = bus_peer_watch(a->link.gateway, on_line, a);
    if (r == 0 && bus_peer_is_up(a->link.gateway) && !a->link.is_up)
        on_line(a, true);
    return r;
}

void
link_stop(struct authd *a)
{
    if (!a->svc)
        return;
    loop_timer_cancel(a->svc->loop, &a->link.timer);
    for (size_t i = 0; i < a->link.n_held; i++) {
        struct bus_reply reply = { .id = bus_incoming_request(a->link.held[i])->id,
                                   .status = 503,
                                   .retry_after_s = 1 };
        bus_answer(a->link.held[i], &reply);
    }
    a->link.n_held = 0;
    struct forget *next;
    for (struct forget *f = a->link.forgets; f; f = next) {
        next = f->next;
        if (!f->is_sent)
            finish(f, false);
    }
}
