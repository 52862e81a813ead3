/*
 * The line to the gateway, which has the HTTPS front: HTTP_APPLY of
 * proto/README.md section 4. One thing is under way at a time - a client's
 * change, or the mending of a difference between what is wanted and what is in
 * force. A change goes so: the gateway prepares it (all that can fail), it is
 * committed here with its audit record, the gateway switches. Whoever dies
 * when: afterwards the two are compared, and what is wanted here is applied.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/audit.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "proto/internal.h"
#include "services/sysd/sysd.h"

#include "libcommon/banned.h"

enum {
    ASK_TIMEOUT_US = 3000000,
    AGAIN_US = 10000000,  /* between tries to mend */
    BUSY_US = 200000,     /* until a change that is under way may be over */
    BODY_MAX = 512 << 10, /* two PEM files, escaped */
};

static void look_at(struct sysd *d, uint64_t at_us);
static void next(struct sysd *d);

/* ---- asking ---- */

static void
begin_body(struct buf *b, const char *step)
{
    buf_init(b, BODY_MAX);
    jw_open(b, '{');
    jw_kstr(b, "step", step);
}

/* Ends the body and sends it. 0 or -errno: then 'fn' is not called. */
static int
ask(struct sysd *d, struct buf *b, bus_reply_fn *fn)
{
    jw_close(b, '}');
    struct bus_request request = {
        .kind = BUS_KIND_INTERNAL,
        .op = INTERNAL_HTTP_APPLY,
        .deadline_us = clock_mono_us() + ASK_TIMEOUT_US,
        .who = { .kind = BUS_WHO_DAEMON, .name = "sysd" },
        .body_kind = BUS_BODY_JSON,
        .body = { b->data, (uint32_t)b->len },
    };
    int r = b->err != 0 ? b->err : bus_call(d->front.gateway, &request, fn, d);
    if (b->data != NULL)
        explicit_bzero(b->data, b->len); /* perhaps a key */
    buf_done(b);
    return r;
}

static int
parse(const struct bus_reply *reply, struct cJSON **ret_tree)
{
    struct json_error error;
    return json_parse(reply->body.p, reply->body.len, ret_tree, &error);
}

static int
read_port(const struct cJSON *tree, const char *name, uint16_t *ret_port)
{
    int64_t port;
    if (json_i64(json_get(tree, name), &port) < 0 || port < 0 || port > 65535)
        return -EBADMSG;
    *ret_port = (uint16_t)port;
    return 0;
}

static int
read_state(const struct bus_reply *reply, struct front_state *ret_state)
{
    CLEANUP(json_freep) struct cJSON *tree = NULL;
    struct front_state s = { 0 };
    if (parse(reply, &tree) < 0)
        return -EBADMSG;
    const char *pair = json_text(json_get(tree, "pair"));
    const char *cert_name = json_text(json_get(tree, "certFileName"));
    const char *fault = json_text(json_get(tree, "fault"));
    s.redirect = cJSON_IsTrue(json_get(tree, "redirectToHttps"));
    if (read_port(tree, "httpsPort", &s.port) < 0 ||
        read_port(tree, "httpPort", &s.http_port) < 0 ||
        read_port(tree, "defaultPort", &s.default_port) < 0 || pair == NULL ||
        cert_name == NULL || fault == NULL || str_copy(s.pair, sizeof(s.pair), pair) < 0 ||
        str_copy(s.cert_name, sizeof(s.cert_name), cert_name) < 0 ||
        str_copy(s.fault, sizeof(s.fault), fault) < 0)
        return -EBADMSG;
    *ret_state = s;
    return 0;
}

/* Takes an answer to "show" or "commit". */
static int
take_state(struct sysd *d, int error, const struct bus_reply *reply)
{
    int r = error != 0 || reply->status != API_OK ? -EIO : read_state(reply, &d->front.state);
    d->front.is_known = d->front.is_known || r == 0;
    return r;
}

static void
put_wanted(const struct sysd *d, struct buf *b, const struct wanted *w)
{
    struct httpserver_config shown;
    httpserver_show(d, w, &shown);
    jw_ki64(b, "httpsPort", shown.https_port);
    jw_kbool(b, "redirectToHttps", shown.redirect_to_https);
    jw_kstr(b, "pair", w->pair);
    jw_kstr(b, "certFileName", w->cert_name);
}

static bool
is_in_force(const struct sysd *d)
{
    const struct front_state *s = &d->front.state;
    struct httpserver_config shown;
    httpserver_show(d, &d->wanted, &shown);
    return shown.https_port == s->port && shown.redirect_to_https == s->redirect &&
           str_eq(d->wanted.pair, s->pair) && str_eq(d->wanted.cert_name, s->cert_name);
}

/* Takes an answer to "prepare". 0, or -errno with nothing to commit. */
static int
read_prepared(int error, const struct bus_reply *reply, uint64_t *ret_id,
              char ret_pair[PAIR_NAME_SIZE])
{
    CLEANUP(json_freep) struct cJSON *tree = NULL;
    if (error != 0 || reply->status != API_OK || parse(reply, &tree) < 0)
        return -EIO;
    const char *pair = json_text(json_get(tree, "pair"));
    if (pair == NULL || json_u64(json_get(tree, "id"), ret_id) < 0)
        return -EBADMSG;
    return str_copy(ret_pair, PAIR_NAME_SIZE, pair);
}

static int
ask_commit(struct sysd *d, uint64_t id, bus_reply_fn *fn)
{
    struct buf b;
    begin_body(&b, "commit");
    jw_ku64(&b, "id", id);
    return ask(d, &b, fn);
}

/* ---- mending ---- */

/* Once for each time that the two differ. */
static void
tell(struct sysd *d, const char *why)
{
    struct front *f = &d->front;
    char text[AUDIT_MESSAGE_MAX];
    struct httpserver_config shown;
    if (str_copy(f->fault, sizeof(f->fault), why) < 0)
        (void)str_copy(f->fault, sizeof(f->fault), "it cannot be applied"); /* fits */
    if (f->is_told)
        return;
    httpserver_show(d, &d->wanted, &shown);
    (void)snprintf(text, sizeof(text),
                   "HTTPS is on port %u instead of what is wanted (port %u): %s", f->state.port,
                   (unsigned)shown.https_port, why); /* cut is fine */
    struct audit_record record = { .event = "httpserverRollback",
                                   .message = text,
                                   .detail = "",
                                   .source = "sysd",
                                   .addr = "",
                                   .at_us = clock_wall_us() };
    log_warn("sysd: the HTTPS front is not as wanted reason=\"%s\"", why);
    int r = audit_event(d->svc->outbox, &record);
    if (r < 0)
        log_err("sysd: cannot record a roll-back error=%s", strerror(-r));
    f->is_told = r == 0; /* else with the next try */
}

static void
mended(struct sysd *d)
{
    if (d->front.fault[0] != '\0')
        log_info("sysd: the HTTPS front is as wanted again");
    d->front.fault[0] = '\0';
    d->front.is_told = false;
}

static void
not_mended(struct sysd *d)
{
    look_at(d, clock_mono_us() + AGAIN_US);
    next(d);
}

static void
on_mend_committed(void *arg, int error, const struct bus_reply *reply)
{
    struct sysd *d = arg;
    if (take_state(d, error, reply) < 0 || !is_in_force(d)) {
        not_mended(d);
        return;
    }
    mended(d);
    next(d);
}

static void
tell_refusal(struct sysd *d, const struct bus_reply *reply)
{
    CLEANUP(json_freep) struct cJSON *tree = NULL;
    const char *message = NULL;
    if (parse(reply, &tree) == 0)
        message = json_text(json_get(tree, "message"));
    tell(d, message != NULL ? message : "the gateway refuses it");
}

static void
on_mend_prepared(void *arg, int error, const struct bus_reply *reply)
{
    struct sysd *d = arg;
    uint64_t id;
    char pair[PAIR_NAME_SIZE];
    int r = read_prepared(error, reply, &id, pair);
    if (r == 0)
        r = ask_commit(d, id, on_mend_committed);
    else if (error == 0)
        tell_refusal(d, reply);
    if (r < 0)
        not_mended(d);
}

static void
mend(struct sysd *d)
{
    struct buf b;
    if (d->front.state.fault[0] != '\0')
        tell(d, d->front.state.fault);
    begin_body(&b, "prepare");
    put_wanted(d, &b, &d->wanted);
    if (ask(d, &b, on_mend_prepared) < 0)
        not_mended(d);
}

static void
on_shown(void *arg, int error, const struct bus_reply *reply)
{
    struct sysd *d = arg;
    if (take_state(d, error, reply) < 0) {
        not_mended(d);
        return;
    }
    if (!is_in_force(d)) {
        mend(d);
        return;
    }
    mended(d);
    next(d);
}

/* Compares what is wanted with what is in force. */
static void
look(void *arg)
{
    struct sysd *d = arg;
    struct buf b;
    if (!d->front.is_up)
        return; /* when the line is up */
    if (d->front.is_busy) {
        look_at(d, clock_mono_us() + BUSY_US);
        return;
    }
    begin_body(&b, "show");
    d->front.is_busy = ask(d, &b, on_shown) == 0;
    if (!d->front.is_busy)
        look_at(d, clock_mono_us() + AGAIN_US);
}

static void
look_at(struct sysd *d, uint64_t at_us)
{
    if (loop_timer_set(d->svc->loop, &d->front.timer, at_us) < 0)
        log_warn("sysd: out of memory for a timer");
}

/* ---- a client's change ---- */

/* Its call was answered. */
static void
end_change(struct sysd *d)
{
    free(d->front.current);
    d->front.current = NULL;
    next(d);
}

static enum api_status
not_in_force(struct sysd *d, struct api_call *call)
{
    (void)str_copy(d->front.fault, sizeof(d->front.fault),
                   "the gateway did not answer"); /* fits */
    return api_fail(call, API_UNAVAILABLE, NULL, "it is saved, but not in force yet");
}

static void
on_committed(void *arg, int error, const struct bus_reply *reply)
{
    struct sysd *d = arg;
    struct api_call *call = d->front.current->call;
    enum api_status status = API_OK;
    if (take_state(d, error, reply) < 0 || !is_in_force(d)) {
        look_at(d, clock_mono_us());
        status = not_in_force(d, call);
    } else {
        mended(d);
    }
    api_finish(call, status);
    end_change(d);
}

static void
on_saved(void *self, void *arg)
{
    struct sysd *d = self;
    (void)arg;
    struct change *c = d->front.current;
    d->wanted = c->target;
    api_hold(c->call);
    c->is_held = ask_commit(d, c->id, on_committed) == 0;
    if (!c->is_held) {
        api_finish(c->call, not_in_force(d, c->call));
        look_at(d, clock_mono_us());
    }
}

/* In the call's transaction, with what the client and the audit log are told. */
static enum api_status
save(struct sysd *d, struct change *c)
{
    struct httpserver_config *shown = c->call->reply;
    struct store_txn *txn = api_txn(c->call);
    if (txn == NULL)
        return API_INTERNAL;
    int r = wanted_save(txn, &c->target);
    if (r < 0)
        return api_fail_errno(c->call, r, "cannot save");
    httpserver_show(d, &c->target, shown);
    api_audit_message(c->call, "HTTPS on port %u, redirect %s, certificate %s",
                      (unsigned)shown->https_port, shown->redirect_to_https ? "on" : "off",
                      shown->cert_file_name);
    api_after_commit(c->call, on_saved, NULL);
    return API_OK;
}

static enum api_status
refusal_of(struct api_call *call, int error, const struct bus_reply *reply)
{
    CLEANUP(json_freep) struct cJSON *tree = NULL;
    if (error != 0 || parse(reply, &tree) < 0 || json_text(json_get(tree, "message")) == NULL)
        return api_fail(call, API_UNAVAILABLE, NULL, "the gateway does not answer");
    const char *pointer = json_text(json_get(tree, "pointer"));
    const char *message = json_text(json_get(tree, "message"));
    enum api_status status = reply->status == API_INVALID    ? API_INVALID
                             : reply->status == API_NO_SPACE ? API_NO_SPACE
                                                             : API_INTERNAL;
    return api_fail(call, status, pointer != NULL && pointer[0] != '\0' ? pointer : NULL, "%s",
                    message);
}

static void
on_prepared(void *arg, int error, const struct bus_reply *reply)
{
    struct sysd *d = arg;
    struct change *c = d->front.current;
    enum api_status status = API_OK;
    if (read_prepared(error, reply, &c->id, c->target.pair) < 0)
        status = refusal_of(c->call, error, reply);
    else
        status = save(d, c);
    api_finish(c->call, status); /* commits: then on_saved has run */
    if (!c->is_held)
        end_change(d);
}

/* API_PENDING, or a refusal. */
static enum api_status
begin(struct sysd *d, struct change *c)
{
    struct buf b;
    enum api_status status = httpserver_resolve(d, c);
    if (status != API_OK)
        return status;
    begin_body(&b, "prepare");
    put_wanted(d, &b, &c->target);
    if (c->cert != NULL)
        jw_kstr(&b, "cert", c->cert);
    if (c->key != NULL)
        jw_kstr(&b, "key", c->key);
    if (ask(d, &b, on_prepared) < 0)
        return api_fail(c->call, API_UNAVAILABLE, NULL, "the gateway does not answer");
    d->front.current = c;
    d->front.is_busy = true;
    return API_PENDING;
}

enum api_status
front_change(struct sysd *d, struct change *c)
{
    struct front *f = &d->front;
    enum api_status status = API_PENDING;
    if (!f->is_busy) {
        status = begin(d, c);
    } else if (f->n_waiting < CHANGES_MAX) {
        *f->end = c;
        f->end = &c->next;
        f->n_waiting++;
    } else {
        status = api_fail(c->call, API_CONFLICT, NULL, "too many changes are under way");
    }
    if (status != API_PENDING)
        free(c);
    return status;
}

/* Nothing is under way any more: the next change that waits. */
static void
next(struct sysd *d)
{
    struct front *f = &d->front;
    f->is_busy = false;
    while (!f->is_busy && f->waiting != NULL) {
        struct change *c = f->waiting;
        f->waiting = c->next;
        if (f->waiting == NULL)
            f->end = &f->waiting;
        f->n_waiting--;
        enum api_status status = c->call->request->deadline_us <= clock_mono_us()
                                     ? api_fail(c->call, API_TIMEOUT, NULL, "no answer in time")
                                     : begin(d, c);
        if (status != API_PENDING) {
            api_finish(c->call, status);
            free(c);
        }
    }
}

/* ---- life ---- */

static void
on_line(void *arg, bool up)
{
    struct sysd *d = arg;
    d->front.is_up = up;
    if (up)
        look_at(d, clock_mono_us());
}

int
front_start(struct sysd *d)
{
    struct front *f = &d->front;
    f->end = &f->waiting;
    loop_timer_init(&f->timer, look, d);
    int r = bus_peer(d->svc->bus, "gateway", &f->gateway);
    if (r == 0)
        r = bus_peer_watch(f->gateway, on_line, d);
    if (r == 0 && bus_peer_is_up(f->gateway) && !f->is_up)
        on_line(d, true);
    return r;
}

void
front_stop(struct sysd *d)
{
    if (d->svc != NULL)
        loop_timer_cancel(d->svc->loop, &d->front.timer);
}
