/* Catalogue and last values, direct reads and writes, statistics. */
#include "services/modbusd/mb_plan.h"

#include <errno.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "libcommon/banned.h"

/* ---- catalogue ---- */

void
mb_tag_sample(const struct mb_tag *t, struct tag_sample *s)
{
    s->no = t->no;
    s->quality = t->quality;
    s->aux = t->aux;
    s->ts_us = t->ts_us;
    s->value.type = t->type;
    s->value.u = t->bits;
    s->value.bytes = t->bytes;
    s->value.n_bytes = t->n_bytes;
}

void
mb_tag_take(struct mb_tag *t, const struct mb_scaling *scaling, const uint8_t *data)
{
    struct tag_value v;
    mb_decode(&t->codec, scaling, data, t->bytes, &v);
    t->bits = v.u;
    t->n_bytes = v.n_bytes;
}

static int
by_number(const void *a, const void *b)
{
    const struct mb_tag *const *x = a, *const *y = b;
    return (*x)->no < (*y)->no ? -1 : (*x)->no > (*y)->no;
}

static bool
in_order(const struct mb_engine *e)
{
    for (size_t i = 1; i < e->n_all; i++)
        if (e->all[i - 1]->no > e->all[i]->no)
            return false;
    return true;
}

static size_t
count_tags(const struct mb_engine *e)
{
    size_t n = e->n_devs; /* each has its status */
    for (size_t i = 0; i < e->n_devs; i++)
        n += e->devs[i]->n_tags;
    return n;
}

/* Makes 'all' that of the devices there are now; 0 or -ENOMEM (then it is empty). */
static int
list_tags(struct mb_engine *e)
{
    if (e->is_listed)
        return 0;
    size_t n = count_tags(e);
    e->n_all = 0;
    if (n > e->cap_all) {
        struct mb_tag **all = reallocarray(e->all, n, sizeof(struct mb_tag *));
        if (!all)
            return -ENOMEM;
        e->all = all;
        e->cap_all = n;
    }
    for (size_t i = 0; i < e->n_devs; i++) {
        struct mb_dev *d = e->devs[i];
        for (size_t k = 0; k < d->n_tags; k++)
            e->all[e->n_all++] = &d->tags[k];
    }
    for (size_t i = 0; i < e->n_devs; i++)
        e->all[e->n_all++] = &e->devs[i]->status;
    if (!in_order(e))
        qsort(e->all, n, sizeof(struct mb_tag *), by_number);
    e->is_listed = true;
    return 0;
}

int
mb_engine_publish_changes(struct mb_engine *e)
{
    int r = list_tags(e);
    if (r == 0)
        e->hooks.changed(e->hooks.arg);
    return r;
}

size_t
mb_engine_n_tags(struct mb_engine *e)
{
    (void)list_tags(e); /* without memory there are none, for now */
    return e->n_all;
}

static void
define(const struct mb_tag *t, struct tag_def *ret_def)
{
    memset(ret_def, 0, sizeof(*ret_def));
    ret_def->no = t->no;
    ret_def->type = t->type;
    ret_def->access = t->access;
    if (t->type == TAG_STRING || t->type == TAG_RAW)
        ret_def->size = t->codec.bits ? t->codec.size / 8 : t->codec.size;
    if (t->cmd)
        ret_def->interval_ms = (uint32_t)(t->cmd->interval_us / 1000);
    /* All were checked against these sizes when they were stored. */
    (void)str_copy(ret_def->provider, sizeof(ret_def->provider), t->dev->iface->provider);
    (void)str_copy(ret_def->source, sizeof(ret_def->source), t->dev->name);
    (void)str_copy(ret_def->name, sizeof(ret_def->name), t->name);
    (void)str_copy(ret_def->unit, sizeof(ret_def->unit), t->unit);
}

bool
mb_engine_def(struct mb_engine *e, size_t at, struct tag_def *ret_def)
{
    if (at >= mb_engine_n_tags(e))
        return false;
    define(e->all[at], ret_def);
    return true;
}

bool
mb_engine_last(struct mb_engine *e, size_t at, struct tag_sample *ret_sample)
{
    if (at >= mb_engine_n_tags(e))
        return false;
    mb_tag_sample(e->all[at], ret_sample);
    return true;
}

static struct mb_tag *
tag_of_number(struct mb_engine *e, uint32_t no)
{
    struct mb_tag key = { .no = no }, *k = &key;
    size_t n = mb_engine_n_tags(e);
    struct mb_tag **found =
        n ? bsearch(&k, e->all, n, sizeof(struct mb_tag *), by_number) : NULL;
    return found ? *found : NULL;
}

bool
mb_engine_def_of(struct mb_engine *e, uint32_t no, struct tag_def *ret_def)
{
    const struct mb_tag *t = tag_of_number(e, no);
    if (t)
        define(t, ret_def);
    return t != NULL;
}

uint32_t
mb_engine_find(const struct mb_engine *e, const char *provider, const char *source,
               const char *name)
{
    for (size_t i = 0; i < e->n_devs; i++) {
        const struct mb_dev *d = e->devs[i];
        if (!str_eq(d->name, source) || !str_eq(d->iface->provider, provider))
            continue;
        if (str_eq(name, d->status.name))
            return d->status.no;
        for (size_t k = 0; k < d->n_tags; k++)
            if (str_eq(d->tags[k].name, name))
                return d->tags[k].no;
        return 0;
    }
    return 0;
}

uint8_t
mb_engine_tag_type(struct mb_engine *e, uint32_t no, uint16_t *ret_size)
{
    const struct mb_tag *t = tag_of_number(e, no);
    if (!t)
        return 0;
    *ret_size = t->codec.bits ? t->codec.size / 8 : t->codec.size;
    return t->type;
}

/* ---- direct access ---- */

const char *
mb_direct_text(const struct mb_direct_result *r, char *room, size_t room_size)
{
    switch (r->status) {
    case MB_DIRECT_OK:
        return "ok";
    case MB_DIRECT_NOT_FOUND:
        return "tag not found";
    case MB_DIRECT_ACCESS:
        return "the access type of the tag does not allow this";
    case MB_DIRECT_VALUE:
        return "the value does not fit the data type of the tag";
    case MB_DIRECT_DISABLED:
        return "the device or its command is not enabled or has no address";
    case MB_DIRECT_BUSY:
        return "too many direct requests are waiting";
    case MB_DIRECT_EXCEPTION:
        (void)snprintf(room, room_size, "the device answered with exception %u (%s)",
                       r->exception,
                       mb_exception_text(r->exception)); /* fits in any sensible room */
        return room;
    case MB_DIRECT_BAD_REPLY:
        return "the device gave an invalid answer";
    case MB_DIRECT_TIMEOUT:
        return "the device did not answer in time";
    case MB_DIRECT_NO_CONNECTION:
        return "no connection to the device";
    case MB_DIRECT_GONE:
        return "the configuration of the device was changed meanwhile";
    }
    return "";
}

bool
mb_direct_is_unsure(const struct mb_direct_result *r)
{
    if (r->status != MB_DIRECT_EXCEPTION)
        return r->sent;
    /* Illegal function, address, value and "busy" are said before anything is done. */
    return r->exception != 1 && r->exception != 2 && r->exception != 3 && r->exception != 6;
}

/* At the end of the link's queue; NULL: no memory. */
struct mb_direct *
mb_direct_enqueue(struct mb_tag *t, bool write, uint64_t deadline_us, mb_direct_fn *fn,
                  void *arg)
{
    struct mb_link *l = t->dev->link;
    struct mb_direct *q = calloc(1, sizeof(*q));
    if (!q)
        return NULL;
    q->op = (struct mb_op){ .is_direct = true, .dev = t->dev, .cmd = t->cmd };
    q->tag = t;
    q->write = write;
    q->deadline_us = deadline_us;
    q->fn = fn;
    q->arg = arg;
    *l->directs_end = q;
    l->directs_end = &q->next;
    l->e->n_directs++;
    l->e->directs++;
    return q;
}

/* The tag, when it can be asked for at all; else NULL with the reason. */
static struct mb_tag *
direct_tag(struct mb_engine *e, uint32_t no, uint8_t access, struct mb_direct_result *r)
{
    struct mb_tag *t = tag_of_number(e, no);
    memset(r, 0, sizeof(*r));
    if (!t)
        r->status = MB_DIRECT_NOT_FOUND;
    else if (!(t->access & access))
        r->status = MB_DIRECT_ACCESS;
    else if (t->cmd && (!t->dev->link || !t->cmd->enable))
        r->status = MB_DIRECT_DISABLED;
    else if (e->n_directs >= MB_DIRECTS_MAX)
        r->status = MB_DIRECT_BUSY;
    else if (t->cmd && t->dev->link->conn.state == MB_CONN_WAITING &&
             t->dev->link->conn.failures > 1)
        r->status = MB_DIRECT_NO_CONNECTION;
    else
        return t;
    return NULL;
}

/*
 * Later, not from inside the caller's call: a request may be answered only
 * after the caller has got its "pending".
 */
static void
pump_soon(struct mb_link *l)
{
    mb_link_wake_at(l, clock_mono_us());
}

bool
mb_engine_read(struct mb_engine *e, uint32_t no, uint64_t deadline_us, mb_direct_fn *fn,
               void *arg, struct mb_direct_result *ret_now)
{
    struct mb_tag *t = direct_tag(e, no, TAG_ACCESS_READ, ret_now);
    if (!t)
        return false;
    if (!t->cmd) {
        mb_tag_sample(t, &ret_now->sample);
        return false;
    }
    /* 23 cannot read without writing. */
    if (t->cmd->func == MB_READ_WRITE_REGS) {
        ret_now->status = MB_DIRECT_ACCESS;
        return false;
    }
    struct mb_direct *q = mb_direct_enqueue(t, false, deadline_us, fn, arg);
    if (!q) {
        ret_now->status = MB_DIRECT_BUSY;
        return false;
    }
    q->n = (uint16_t)mb_cmd_pdu(t->cmd, q->pdu);
    pump_soon(t->dev->link);
    return true;
}

bool
mb_engine_write(struct mb_engine *e, uint32_t no, const struct tag_value *v,
                uint64_t deadline_us, mb_direct_fn *fn, void *arg,
                struct mb_direct_result *ret_now)
{
    struct mb_tag *t = direct_tag(e, no, TAG_ACCESS_WRITE, ret_now);
    if (!t)
        return false;
    const struct mb_cmd *c = t->cmd;
    uint8_t data[MB_PDU_MAX] = { 0 };
    if (mb_encode(&t->codec, &c->scaling, v, data) < 0) {
        ret_now->status = MB_DIRECT_VALUE;
        return false;
    }
    struct mb_direct *q = mb_direct_enqueue(t, true, deadline_us, fn, arg);
    if (!q) {
        ret_now->status = MB_DIRECT_BUSY;
        return false;
    }
    unsigned n = mb_codec_units(&t->codec);
    unsigned at = t->codec.bits ? t->codec.offset : t->codec.offset / 2u;
    unsigned base = mb_func_writes(c->func) ? c->write_addr : c->read_addr;
    struct mb_ask ask = { .func = mb_writing_func(c->func, n),
                          .addr = c->read_addr,
                          .n = c->read_n,
                          .write_addr = (uint16_t)(base + at),
                          .n_write = (uint16_t)n,
                          .data = data };
    int size = mb_pdu_encode(&ask, q->pdu);
    MUST(size > 0);
    q->n = (uint16_t)size;
    q->at = (uint16_t)at;
    q->n_units = (uint16_t)n;
    memcpy(q->data, data, sizeof(data));
    if (mb_func_writes(c->func))
        mb_fault_hold(t->cmd, deadline_us);
    pump_soon(t->dev->link);
    return true;
}

/* ---- looking at it ---- */

void
mb_engine_set_traffic(struct mb_engine *e, uint32_t port, struct traffic *traffic)
{
    struct mb_port *p = port ? mb_port_find(e, port) : NULL;
    if (p)
        p->traffic = traffic;
    else if (port == 0)
        e->traffic = traffic;
    for (struct mb_link *l = e->links; l; l = l->next)
        if (l->port == p && (p || port == 0))
            l->conn.traffic = traffic;
}

void
mb_engine_begin(struct mb_engine *e)
{
    e->start_us = clock_mono_us();
    e->start_requests = e->conn.requests;
}

bool
mb_engine_is_delayed(const struct mb_engine *e)
{
    return e->conn.requests == e->start_requests &&
           clock_mono_us() < e->start_us + e->iface.initial_delay_ms * 1000ull;
}

void
mb_engine_get_stats(const struct mb_engine *e, struct mb_engine_stats *ret_stats)
{
    struct mb_engine_stats s = { .conn = e->conn,
                                 .overruns = e->overruns,
                                 .directs = e->directs,
                                 .strict = e->strict,
                                 .fault_writes = e->fault_writes,
                                 .n_tags = count_tags(e),
                                 .n_devices = e->n_devs };
    for (const struct mb_link *l = e->links; l; l = l->next) {
        s.n_open += l->conn.state == MB_CONN_OPEN;
        s.n_tcp_open += l->conn.state == MB_CONN_OPEN && !l->port;
        s.n_connecting += l->conn.state == MB_CONN_CONNECTING;
        s.n_waiting += l->conn.state == MB_CONN_WAITING;
    }
    *ret_stats = s;
}

bool
mb_engine_dev_stats(const struct mb_engine *e, size_t at, struct mb_dev_stats *ret_stats)
{
    if (at >= e->n_devs)
        return false;
    const struct mb_dev *d = e->devs[at];
    *ret_stats = (struct mb_dev_stats){
        .id = d->id,
        .name = d->name,
        .addr = d->addr,
        .port_id = d->port_id,
        .port = d->port,
        .unit = d->unit,
        .status = (enum mb_status)d->status.bits,
        .polled = d->link != NULL,
        .known = d->status.quality == TAG_GOOD,
        .counts = d->counts,
    };
    return true;
}

bool
mb_engine_cmd_stats(const struct mb_engine *e, size_t dev_at, size_t at,
                    struct mb_cmd_stats *ret_stats)
{
    if (dev_at >= e->n_devs || at >= e->devs[dev_at]->n_cmds)
        return false;
    const struct mb_cmd *c = &e->devs[dev_at]->cmds[at];
    *ret_stats = (struct mb_cmd_stats){
        .id = c->id,
        .name = c->name,
        .status = mb_status_of(c->quality),
        .polled = mb_cmd_is_polled(c),
        .known = c->quality != TAG_BAD_NEVER && c->quality != TAG_BAD_CONFIG,
        .counts = c->counts,
    };
    return true;
}

bool
mb_engine_line_stats(const struct mb_engine *e, uint32_t port_id,
                     struct mb_line_stats *ret_stats)
{
    const struct mb_port *p = mb_port_find(e, port_id);
    if (!p || !p->link)
        return false;
    mb_line_get_stats(&p->link->line, ret_stats);
    return true;
}
