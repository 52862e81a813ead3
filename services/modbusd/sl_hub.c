#include "services/modbusd/sl_hub.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/audit.h"
#include "libcommon/base.h"
#include "libcommon/log.h"
#include "libcommon/metrics.h"
#include "libcommon/str.h"
#include "libcommon/tagview.h"
#include "proto/internal.h"
#include "services/modbusd/sl_engine.h"
#include "libcommon/banned.h"

static const char self[] = "modbusd";

/* ---- metrics ---- */

/* field, metric, help, is it a gauge */
#define METRIC_TABLE(X)                                                                        \
    X(n_conns, conns, "clients", "Clients connected to the slave", true)                       \
    X(all.valid, valid, "requests_total", "Requests of the slave's clients", false)            \
    X(all.invalid, invalid, "invalid_requests_total",                                          \
      "Frames that were no Modbus or for another unit", false)                                 \
    X(all.responses, responses, "responses_total", "Answers of the slave", false)              \
    X(all.exceptions, exceptions, "exceptions_total", "Exceptions of the slave", false)        \
    X(cut, cut, "cut_clients_total", "Clients that the slave disconnected", false)             \
    X(refused, refused, "refused_clients_total", "Clients over the slave's limit", false)

#define X(field, id, metric, text, is_gauge)                                                   \
    static struct metric_counter m_##id = { .name = "fieldgate_modbus_slave_" metric,          \
                                            .help = (text),                                    \
                                            .gauge = (is_gauge) };
METRIC_TABLE(X)
#undef X

static void
update_metrics(void *arg)
{
    const struct modbusd *d = arg;
    struct sl_stats s;
    sl_engine_get_stats(d->slave, &s);
#define X(field, id, metric, text, is_gauge) metric_set(&m_##id, s.field);
    METRIC_TABLE(X)
#undef X
}

/* ---- writes of clients, to the owners of tags ---- */

struct asked {
    sl_written_fn *fn;
    void *arg;
};

/* TAG_WRITE of proto/README.md, section 4. */
static enum sl_written
outcome_of(int error, const struct bus_reply *reply)
{
    if (error == -EHOSTUNREACH)
        return SL_WRITE_AWAY;
    if (error == -EAGAIN)
        return SL_WRITE_BUSY;
    if (error != 0)
        return SL_WRITE_UNSURE;
    switch (reply->status) {
    case API_OK:
        return SL_WRITTEN;
    case API_INVALID:
        return SL_WRITE_REFUSED;
    case API_TOO_MANY:
        return SL_WRITE_BUSY;
    case API_NOT_FOUND:
    case API_UNAVAILABLE:
        return SL_WRITE_AWAY;
    default:
        return SL_WRITE_UNSURE;
    }
}

static void
on_reply(void *arg, int error, const struct bus_reply *reply)
{
    struct asked a = *(struct asked *)arg;
    free(arg);
    a.fn(a.arg, outcome_of(error, reply));
}

static int
ask_owner(const struct modbusd *d, const struct tagview_tag *tag, const struct tag_value *v,
          uint64_t deadline_us, struct asked *a)
{
    struct bus_peer *peer = NULL;
    const char *owner = tagview_daemon_of(tag);
    int r = owner != NULL ? bus_peer(d->svc->bus, owner, &peer) : -EHOSTUNREACH;
    if (r < 0)
        return r;
    struct buf body;
    buf_init(&body, TAG_BYTES_MAX + 64);
    buf_put_u32(&body, tag->no);
    tag_value_encode(&body, v);
    struct bus_request rq = {
        .kind = BUS_KIND_INTERNAL,
        .op = INTERNAL_TAG_WRITE,
        .deadline_us = deadline_us,
        .who = { .kind = BUS_WHO_DAEMON, .name = "modbusd" },
        .body_kind = BUS_BODY_BYTES,
        .body = { body.data, (uint32_t)body.len },
    };
    r = body.err != 0 ? body.err : bus_call(peer, &rq, on_reply, a);
    buf_done(&body);
    return r;
}

static void
write_tag(void *arg, const struct tagview_tag *tag, const struct tag_value *v,
          uint64_t deadline_us, sl_written_fn *fn, void *fn_arg)
{
    struct asked *a = malloc(sizeof(*a));
    int r = -ENOMEM;
    if (a != NULL) {
        *a = (struct asked){ fn, fn_arg };
        r = ask_owner(arg, tag, v, deadline_us, a);
    }
    if (r == 0)
        return;
    free(a);
    fn(fn_arg, r == -EHOSTUNREACH ? SL_WRITE_AWAY : SL_WRITE_BUSY); /* it was not sent */
}

/* ---- the daemon's own tags ---- */

bool
sl_hub_def(void *arg, size_t at, struct tag_def *ret_def)
{
    const struct modbusd *d = arg;
    size_t n = mb_engine_n_tags(d->engine);
    return at < n ? mb_engine_def(d->engine, at, ret_def)
                  : sl_engine_def(d->slave, at - n, ret_def);
}

bool
sl_hub_last(void *arg, size_t at, struct tag_sample *ret_sample)
{
    const struct modbusd *d = arg;
    size_t n = mb_engine_n_tags(d->engine);
    return at < n ? mb_engine_last(d->engine, at, ret_sample)
                  : sl_engine_last(d->slave, at - n, ret_sample);
}

void
sl_hub_publish(void *arg, const struct tag_sample *s)
{
    struct modbusd *d = arg;
    tag_pub_add(d->svc->tags, s);
    if (d->slave_shows_ours)
        tagview_samples(d->view, self, s, 1, false);
}

/* Those that the slave shows. NULL with *ret_n 0: none; with another: no memory. */
static struct tag_def *
shown_tags(struct modbusd *d, size_t n_refs, size_t *ret_n)
{
    struct tag_def *defs = calloc(n_refs + 1, sizeof(*defs)), def;
    size_t n = 0;
    *ret_n = n_refs;
    for (size_t at = 0; defs != NULL && n < n_refs && sl_hub_def(d, at, &def); at++) {
        const struct tagview_tag *t = tagview_find(d->view, def.provider, def.source, def.name);
        if (t != NULL && t->n_holds > 0)
            defs[n++] = def;
    }
    if (defs != NULL)
        *ret_n = n;
    return defs;
}

/* Tells the view those of our tags that the slave shows. */
static void
show_catalogue(struct modbusd *d)
{
    struct sl_stats s;
    size_t n = 0;
    sl_engine_get_stats(d->slave, &s);
    if (s.n_refs == 0 && !d->slave_shows_ours)
        return;
    struct tag_def *defs = shown_tags(d, s.n_refs, &n);
    if (defs == NULL || tagview_catalogue(d->view, self, defs, n) < 0)
        log_err("modbus: no memory for the tags that the slave shows tags=%zu", n);
    free(defs);
    d->slave_shows_ours = n > 0;
    struct tag_sample last;
    for (size_t at = 0; n > 0 && sl_hub_last(d, at, &last); at++)
        tagview_samples(d->view, self, &last, 1, true);
}

void
sl_hub_changed(void *arg)
{
    struct modbusd *d = arg;
    tag_pub_changed(d->svc->tags);
    show_catalogue(d);
}

bool
sl_hub_lookup(const struct modbusd *d, const char *provider, const char *source,
              const char *name, struct tag_def *ret_def)
{
    const struct tagview_tag *t = tagview_find(d->view, provider, source, name);
    if (t != NULL && tagview_tag_is_listed(t)) {
        *ret_def = (struct tag_def){ .type = t->type, .access = t->access, .size = t->size };
        return true;
    }
    uint32_t no = mb_engine_find(d->engine, provider, source, name);
    return no != 0 && mb_engine_def_of(d->engine, no, ret_def);
}

/* ---- own tags, asked by others ---- */

static enum mb_direct_status
status_of(int r)
{
    switch (r) {
    case 0:
        return MB_DIRECT_OK;
    case -ENOENT:
        return MB_DIRECT_NOT_FOUND;
    case -EACCES:
        return MB_DIRECT_ACCESS;
    default:
        return MB_DIRECT_VALUE;
    }
}

void
sl_hub_read(struct modbusd *d, uint32_t no, struct mb_direct_result *ret_result)
{
    struct mb_direct_result r = { 0 };
    r.status = status_of(sl_engine_read(d->slave, no, &r.sample));
    *ret_result = r;
}

void
sl_hub_write(struct modbusd *d, uint32_t no, const struct tag_value *v,
             struct mb_direct_result *ret_result)
{
    *ret_result =
        (struct mb_direct_result){ .status = status_of(sl_engine_write(d->slave, no, v)) };
}

/* ---- life ---- */

static void
record_failure(void *arg, uint16_t port, int error)
{
    char message[AUDIT_MESSAGE_MAX];
    if (error == 0)
        return; /* the log has it */
    (void)snprintf(message, sizeof(message), "Modbus slave cannot listen on port %u: %s", port,
                   strerror(error)); /* fits */
    modbusd_record(arg, "modbusSlaveFail", message);
}

int
sl_hub_open(struct modbusd *d)
{
    struct sl_engine_hooks hooks = { .sample = sl_hub_publish,
                                     .changed = sl_hub_changed,
                                     .write = write_tag,
                                     .fail = record_failure,
                                     .arg = d };
    int r = tagview_new(&d->view);
    if (r == 0)
        r = sl_engine_new(d->svc->loop, d->view, &hooks, &d->slave);
    if (r == 0)
        sl_engine_set_traffic(d->slave, &d->traffic, d->ser_traffic);
    return r;
}

int
sl_hub_start(struct modbusd *d)
{
    struct bus_peer *ourselves;
    int r = tagview_follow_others(d->view, d->svc->bus, d->svc->loop, self);
    if (r == 0)
        r = bus_peer(d->svc->bus, self, &ourselves); /* connected before it is needed */
#define X(field, id, metric, text, is_gauge) metric_register(&m_##id);
    METRIC_TABLE(X)
#undef X
    metric_on_dump(update_metrics, d);
    return r;
}

void
sl_hub_stop(struct modbusd *d)
{
    /* The view stays: writes under way hold tags in it. */
    sl_engine_free(d->slave);
    d->slave = NULL;
}
