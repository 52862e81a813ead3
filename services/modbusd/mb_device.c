/* Devices, their commands and tags, and the links they share: made and exchanged while others
 * go on. */
#include "services/modbusd/mb_plan.h"

#include <errno.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "libcommon/banned.h"

enum { CONNECT_STEP_US = 1000 };

/* ---- what a tag may be ---- */

/* Units (bits or registers) of a codec. */
unsigned
mb_codec_units(const struct mb_codec *c)
{
    return c->bits ? c->size : c->size / 2u;
}

/* The function that writes 'n' units of a command's data; 0: none does. */
uint8_t
mb_writing_func(uint8_t func, unsigned n)
{
    uint8_t f = func;
    if (func == MB_READ_COILS)
        f = n == 1 ? MB_WRITE_COIL : MB_WRITE_COILS;
    else if (func == MB_READ_HOLDING)
        f = n == 1 ? MB_WRITE_REG : MB_WRITE_REGS;
    return mb_func_writes(f) && n <= mb_func_write_max(f) ? f : 0;
}

const char *
mb_tag_check(const struct mb_cmd_config *cmd, const struct mb_tag_config *tag,
             struct mb_codec *ret_codec, uint8_t *ret_access)
{
    bool bits = mb_func_bits(cmd->func), reads = mb_func_reads(cmd->func);
    bool both = cmd->func == MB_READ_WRITE_REGS;
    uint8_t access = tag->access;
    if (!reads)
        access &= TAG_ACCESS_WRITE;
    if (cmd->func == MB_READ_INPUT_BITS || cmd->func == MB_READ_INPUT)
        access &= TAG_ACCESS_READ;
    if (access == 0)
        return "access of the tag does not go with func of its command";
    unsigned read_size = bits ? cmd->read_n : cmd->read_n * 2u;
    unsigned write_size = bits ? cmd->write_n : cmd->write_n * 2u;
    unsigned size = reads && (access & TAG_ACCESS_READ || !both) ? read_size : write_size;
    const char *wrong = mb_codec_init(ret_codec, tag->type, bits, tag->offset, tag->data_size,
                                      size, cmd->swap, &cmd->scaling);
    if (wrong)
        return wrong;
    bool can_write = mb_codec_writable(ret_codec, &cmd->scaling) &&
                     mb_writing_func(cmd->func, mb_codec_units(ret_codec)) != 0;
    if (both && (unsigned)ret_codec->offset + ret_codec->size > write_size)
        can_write = false;
    if (!can_write)
        access &= TAG_ACCESS_READ;
    if (access == 0)
        return "a tag of this type, size and offset cannot be written by its command";
    *ret_access = access;
    return NULL;
}

static size_t
data_size(const struct mb_cmd_config *cmd, size_t units)
{
    return mb_func_bits(cmd->func) ? (units + 7) / 8 : 2 * units;
}

size_t
mb_cmd_read_size(const struct mb_cmd_config *cmd)
{
    return mb_func_reads(cmd->func) ? data_size(cmd, cmd->read_n) : 0;
}

size_t
mb_cmd_write_size(const struct mb_cmd_config *cmd)
{
    return mb_func_writes(cmd->func) ? data_size(cmd, cmd->write_n) : 0;
}

/* ---- links ---- */

static uint32_t
connect_timeout_ms(const struct mb_engine *e)
{
    uint32_t ms = e->iface.timeout_ms;
    return ms < 200 ? 200 : ms > 5000 ? 5000 : ms;
}

static struct mb_link *
link_new(struct mb_engine *e, const struct mb_iface_config *iface)
{
    struct mb_link *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->e = e;
    l->iface = iface;
    l->limit = 1;
    l->lost_unit = -1;
    l->directs_end = &l->directs;
    loop_timer_init(&l->timer, mb_link_timer, l);
    l->next = e->links;
    e->links = l;
    return l;
}

static struct mb_link *
link_to_address(struct mb_engine *e, const struct mb_address *a)
{
    for (struct mb_link *l = e->links; l; l = l->next)
        if (!l->port && l->tcp.address.port == a->port && str_eq(l->tcp.address.text, a->text))
            return l;
    struct mb_link *l = link_new(e, &e->iface);
    if (!l)
        return NULL;
    struct mb_conn_events events = { mb_link_done, mb_link_state, l };
    mb_tcp_init(&l->tcp, e->loop, a, &events, &e->conn);
    mb_tcp_set_timeout(&l->tcp, connect_timeout_ms(e));
    l->conn.traffic = e->traffic;
    return l;
}

/* Whoever talks on a line while another does destroys both: never overtaking. */
static struct mb_link *
link_to_port(struct mb_engine *e, struct mb_port *p)
{
    if (p->link)
        return p->link;
    struct mb_link *l = link_new(e, &p->iface);
    if (!l)
        return NULL;
    struct mb_conn_events events = { mb_link_done, mb_link_state, l };
    mb_line_init(&l->line, e->loop, &p->line, &events, &e->conn);
    l->strict_until_us = UINT64_MAX;
    l->conn.traffic = p->traffic;
    l->port = p;
    p->link = l;
    return l;
}

static void
link_free_if_empty(struct mb_link *l)
{
    if (l->devs)
        return;
    struct mb_link **at = &l->e->links;
    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    if (l->port)
        l->port->link = NULL;
    mb_conn_stop(&l->conn);
    loop_timer_cancel(l->e->loop, &l->timer);
    free(l->heap);
    free(l);
}

/* Many that are new at once connect one after the other. */
static void
link_start(struct mb_link *l)
{
    struct mb_engine *e = l->e;
    uint64_t now = clock_mono_us();
    if (l->conn.state == MB_CONN_STOPPED) {
        e->connect_us += CONNECT_STEP_US;
        if (e->connect_us < now)
            e->connect_us = now;
        l->conn.not_before_us = e->connect_us;
    }
    mb_conn_start(&l->conn);
}

/* Room in the heap for all commands of the link and 'n' more. */
static int
link_reserve(struct mb_link *l, size_t n)
{
    n += 2;
    for (const struct mb_dev *d = l->devs; d; d = d->next_in_link)
        n += d->n_cmds;
    if (n <= l->cap_heap)
        return 0;
    struct mb_cmd **heap = reallocarray(l->heap, n, sizeof(struct mb_cmd *));
    if (!heap)
        return -ENOMEM;
    l->heap = heap;
    l->cap_heap = n;
    return 0;
}

static void
link_count_devs(struct mb_link *l)
{
    unsigned n_concurrent = 0;
    l->n_devs = l->n_silent = 0;
    l->limit = 1;
    for (const struct mb_dev *d = l->devs; d; d = d->next_in_link) {
        l->n_devs++;
        l->n_silent += d->silent > 0;
        n_concurrent += d->limit > 1;
        if (d->limit > l->limit)
            l->limit = d->limit;
    }
    if (l->n_silent == l->n_devs)
        l->probe_after_us = 0; /* nobody is there to be protected */
    l->share = MB_IN_FLIGHT_MAX;
    if (l->n_devs == 1)
        return;
    /* A device that falls silent with all it may ask leaves room for the others. */
    l->share = n_concurrent > 1 ? MB_IN_FLIGHT_MAX / 4 : MB_IN_FLIGHT_MAX / 2;
    if (l->limit > MB_IN_FLIGHT_MAX / 2)
        l->limit = MB_IN_FLIGHT_MAX / 2;
}

static void
link_add(struct mb_link *l, struct mb_dev *d)
{
    d->link = l;
    d->next_in_link = l->devs;
    l->devs = d;
    link_count_devs(l);
    for (size_t i = 0; i < d->n_cmds; i++)
        mb_cmd_plan(&d->cmds[i]);
}

/* Nothing of 'd' is in the link any more; who waits for it is told. */
static void
link_remove(struct mb_dev *d)
{
    struct mb_link *l = d->link;
    struct mb_direct_result gone = { .status = MB_DIRECT_GONE };
    for (size_t i = 0; i < d->n_cmds; i++)
        mb_link_unplan(l, &d->cmds[i]);
    for (unsigned i = 0; i < MB_IN_FLIGHT_MAX; i++) {
        struct mb_op *op = l->conn.slots[i].used ? l->conn.slots[i].owner : NULL;
        if (!op || op->dev != d)
            continue;
        mb_conn_forget(&l->conn, op);
        if (op->is_direct)
            mb_direct_finish(l->e, CONTAINER_OF(op, struct mb_direct, op), &gone);
    }
    struct mb_direct *over = NULL;
    for (struct mb_direct **q_at = &l->directs; *q_at;) {
        struct mb_direct *q = *q_at;
        if (q->op.dev != d) {
            q_at = &q->next;
            continue;
        }
        *q_at = q->next;
        q->next = over;
        over = q;
    }
    mb_link_find_end(l);
    mb_directs_finish(l->e, over, &gone);
    struct mb_dev **at = &l->devs;
    while (*at != d)
        at = &(*at)->next_in_link;
    *at = d->next_in_link;
    d->link = NULL;
    link_count_devs(l);
}

/* ---- devices ---- */

static void
dev_free(struct mb_dev *d)
{
    if (!d)
        return;
    for (size_t i = 0; d->cmds && i < d->n_cmds; i++) {
        free(d->cmds[i].written);
        free(d->cmds[i].is_written);
        free(d->cmds[i].fault.data);
        free(d->cmds[i].status_data);
    }
    free(d->cmds);
    free(d->tags);
    free(d->bytes);
    free(d->names);
    free(d->name);
    free(d);
}

static void
dev_freep(struct mb_dev **d)
{
    dev_free(*d);
}

static size_t
name_size(const struct mb_tag_config *t)
{
    return strlen(t->name) + strlen(t->unit) + 2;
}

static bool
dev_alloc(struct mb_dev *d, const struct mb_dev_config *cfg)
{
    size_t n_tags = 0, n_bytes = 1, n_names = 1;
    for (size_t i = 0; i < cfg->n_cmds; i++) {
        n_tags += cfg->cmds[i].n_tags;
        n_names += strlen(cfg->cmds[i].name) + 1;
        for (size_t k = 0; k < cfg->cmds[i].n_tags; k++) {
            n_names += name_size(&cfg->cmds[i].tags[k]);
            if (mb_type_sized(cfg->cmds[i].tags[k].type))
                n_bytes += cfg->cmds[i].tags[k].data_size;
        }
    }
    d->cmds = calloc(cfg->n_cmds + 1, sizeof(*d->cmds));
    d->tags = calloc(n_tags + 1, sizeof(*d->tags));
    d->bytes = calloc(1, n_bytes);
    d->names = calloc(1, n_names);
    d->name = strdup(cfg->name);
    d->n_cmds = cfg->n_cmds;
    d->n_tags = n_tags;
    return d->cmds && d->tags && d->bytes && d->names && d->name;
}

/* What is shown or written instead: 'room' bytes, the first 'size' of them the user's. */
static bool
fill_instead(uint8_t **ret_data, enum mb_instead func, const char *text, size_t size,
             size_t room)
{
    if (func == MB_KEEP || size == 0)
        return true;
    *ret_data = calloc(1, room);
    if (*ret_data && func == MB_USER_DATA)
        mb_user_data(text, *ret_data, size);
    return *ret_data != NULL;
}

static bool
cmd_fill(struct mb_dev *d, struct mb_cmd *c, const struct mb_cmd_config *cfg)
{
    size_t read_size = mb_cmd_read_size(cfg), write_size = mb_cmd_write_size(cfg);
    c->op = (struct mb_op){ .dev = d, .cmd = c };
    c->id = cfg->id;
    c->func = cfg->func;
    c->enable = cfg->enable;
    c->cyclic = cfg->cyclic;
    c->merge = cfg->merge;
    c->asked_by = c;
    c->read_addr = cfg->read_addr;
    c->read_n = cfg->read_n;
    c->write_addr = cfg->write_addr;
    c->write_n = cfg->write_n;
    c->scaling = cfg->scaling;
    c->interval_us = cfg->interval_ms * 1000ull;
    c->quality = TAG_BAD_NEVER;
    if (!fill_instead(&c->status_data, cfg->status_func, cfg->status_data, read_size,
                      read_size))
        return false;
    if (!mb_func_writes(c->func))
        return true;
    c->fault.tout_us = cfg->fault_tout_s * 1000000ull;
    if (!fill_instead(&c->fault.data, cfg->fault_func, cfg->fault_data, write_size,
                      2u * c->write_n))
        return false;
    c->written = calloc(1, 2u * c->write_n);
    c->is_written = calloc(1, c->write_n);
    return c->written && c->is_written;
}

static char *
put_name(char **at, const char *text)
{
    char *out = *at;
    size_t size = strlen(text) + 1;
    memcpy(out, text, size);
    *at += size;
    return out;
}

static bool
dev_fill(struct mb_dev *d, const struct mb_dev_config *cfg, uint8_t quality)
{
    struct mb_tag *t = d->tags;
    uint8_t *bytes = d->bytes;
    char *names = d->names;
    for (size_t i = 0; i < cfg->n_cmds; i++) {
        const struct mb_cmd_config *cc = &cfg->cmds[i];
        struct mb_cmd *c = &d->cmds[i];
        if (!cmd_fill(d, c, cc))
            return false;
        c->name = put_name(&names, cc->name);
        c->tags = t;
        c->n_tags = cc->n_tags;
        for (size_t k = 0; k < cc->n_tags; k++, t++) {
            const struct mb_tag_config *tc = &cc->tags[k];
            const char *wrong = mb_tag_check(cc, tc, &t->codec, &t->access);
            MUST(!wrong);
            t->no = tc->id;
            t->type = mb_codec_tag_type(&t->codec);
            t->quality = c->enable ? quality : TAG_BAD_CONFIG;
            if (t->quality == TAG_BAD_CONFIG)
                t->ts_us = clock_wall_us();
            t->cmd = c;
            t->dev = d;
            t->name = put_name(&names, tc->name);
            t->unit = put_name(&names, tc->unit);
            if (mb_type_sized(tc->type)) {
                t->bytes = bytes;
                bytes += tc->data_size;
            }
        }
    }
    return true;
}

static bool
same_codec(const struct mb_codec *a, const struct mb_codec *b)
{
    return a->type == b->type && a->mask == b->mask && a->bits == b->bits &&
           a->scaled == b->scaled && a->offset == b->offset && a->size == b->size;
}

/* The same tag as before keeps its value; one that is still switched off, since when. */
static void
keep_value(struct mb_tag *t, const struct mb_tag *old)
{
    if (t->quality == TAG_BAD_CONFIG && old->quality == TAG_BAD_CONFIG)
        t->ts_us = old->ts_us;
    if (!same_codec(&t->codec, &old->codec) || t->quality == TAG_BAD_CONFIG ||
        old->quality == TAG_BAD_CONFIG)
        return;
    t->quality = old->quality;
    t->aux = old->aux;
    t->is_fault = old->is_fault;
    t->bits = old->bits;
    t->n_bytes = old->n_bytes;
    t->ts_us = old->ts_us;
    if (t->bytes && old->n_bytes)
        memcpy(t->bytes, old->bytes, old->n_bytes);
}

/* On the same connection or line? */
static bool
same_place(const struct mb_dev *x, const struct mb_dev *y)
{
    if (x->port_id || y->port_id)
        return x->port_id == y->port_id;
    return x->port == y->port && str_eq(x->addr, y->addr);
}

/* Does it mean the same values of the same device? */
static bool
same_data(const struct mb_cmd *a, const struct mb_cmd *b)
{
    const struct mb_dev *x = a->op.dev, *y = b->op.dev;
    const struct mb_scaling *s = &a->scaling, *t = &b->scaling;
    return a->func == b->func && a->read_addr == b->read_addr && a->read_n == b->read_n &&
           a->write_addr == b->write_addr && a->write_n == b->write_n && s->on == t->on &&
           (!s->on || (s->slope == t->slope && s->offset == t->offset)) && x->unit == y->unit &&
           same_place(x, y);
}

/* Values of tags that were there; false: some have none, and wait for one. */
static bool
keep_values(struct mb_cmd *c, const struct mb_cmd *old)
{
    bool all = true;
    size_t k = 0;
    /* Both lists are in order of number. */
    for (size_t i = 0; i < c->n_tags; i++) {
        struct mb_tag *t = &c->tags[i];
        while (k < old->n_tags && old->tags[k].no < t->no)
            k++;
        if (k < old->n_tags && old->tags[k].no == t->no)
            keep_value(t, &old->tags[k]);
        all &= t->quality != TAG_BAD_NEVER || !(t->access & TAG_ACCESS_READ);
    }
    return all;
}

static void
keep_cmd(struct mb_cmd *c, const struct mb_cmd *old)
{
    bool same = same_data(c, old), all = same && keep_values(c, old);
    c->counts = old->counts;
    /* A grid that stood still would count all its periods as left out. */
    if (c->interval_us == old->interval_us && mb_cmd_is_polled(old)) {
        c->grid_us = old->grid_us;
        c->first = old->first || !all;
        if (all)
            c->due_us = old->due_us;
    }
    if (!same)
        return;
    if (c->written && old->written) {
        memcpy(c->written, old->written, 2u * c->write_n);
        memcpy(c->is_written, old->is_written, c->write_n);
        c->n_written = old->n_written;
        mb_fault_keep(c, old, clock_mono_us());
    }
    if (c->enable && old->enable) {
        c->failed_us = old->failed_us;
        c->fail_told = old->fail_told;
        c->quality = old->quality;
        c->aux = old->aux;
        c->bad_told_us = old->bad_told_us;
    }
}

static void
keep_dev(struct mb_dev *d, const struct mb_dev *old)
{
    size_t k = 0;
    for (size_t i = 0; i < d->n_cmds; i++) {
        while (k < old->n_cmds && old->cmds[k].id < d->cmds[i].id)
            k++;
        if (k < old->n_cmds && old->cmds[k].id == d->cmds[i].id)
            keep_cmd(&d->cmds[i], &old->cmds[k]);
    }
    if (d->unit == old->unit && same_place(d, old))
        keep_value(&d->status, &old->status);
    d->status_stale = true;
    d->health = old->health;
    d->counts = old->counts;
}

static size_t
dev_place(const struct mb_engine *e, uint32_t id)
{
    size_t low = 0, high = e->n_devs;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (e->devs[mid]->id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static int
reserve_dev(struct mb_engine *e)
{
    if (e->n_devs < e->cap_devs)
        return 0;
    size_t cap = e->cap_devs ? 2 * e->cap_devs : 16;
    struct mb_dev **devs = reallocarray(e->devs, cap, sizeof(struct mb_dev *));
    if (!devs)
        return -ENOMEM;
    e->devs = devs;
    e->cap_devs = cap;
    return 0;
}

static bool
has_address(const struct mb_dev_config *cfg, struct mb_address *ret_address)
{
    return mb_address_parse(cfg->addr, cfg->port, ret_address) == 0 &&
           !str_eq(ret_address->text, "0.0.0.0") && !str_eq(ret_address->text, "::");
}

struct mb_port *
mb_port_find(const struct mb_engine *e, uint32_t id)
{
    struct mb_port *p = e->ports;
    while (p && p->id != id)
        p = p->next;
    return p;
}

/* What the devices of this configuration are asked with; NULL: an interface never heard of. */
static const struct mb_iface_config *
iface_of(const struct mb_engine *e, const struct mb_dev_config *cfg)
{
    if (cfg->port_id == 0)
        return &e->iface;
    const struct mb_port *p = mb_port_find(e, cfg->port_id);
    return p ? &p->iface : NULL;
}

/* The link to it, made if it is the first there; it is in use once the device is in. */
static struct mb_link *
link_of(struct mb_engine *e, const struct mb_dev_config *cfg)
{
    struct mb_address address;
    if (cfg->port_id)
        return link_to_port(e, mb_port_find(e, cfg->port_id));
    return has_address(cfg, &address) ? link_to_address(e, &address) : NULL;
}

static struct mb_dev *
dev_new(struct mb_engine *e, const struct mb_dev_config *cfg, uint8_t quality)
{
    struct mb_dev *d = calloc(1, sizeof(*d));
    if (!d)
        return NULL;
    if (!dev_alloc(d, cfg) || !dev_fill(d, cfg, quality)) {
        dev_free(d);
        return NULL;
    }
    d->id = cfg->id;
    d->e = e;
    d->iface = iface_of(e, cfg);
    d->port_id = cfg->port_id;
    d->unit = cfg->unit;
    d->limit = cfg->limit;
    d->port = cfg->port;
    (void)str_copy(d->addr, sizeof(d->addr), cfg->addr); /* a literal fits, else it stays "" */
    d->status = (struct mb_tag){ .no = MB_STATUS_TAG_BASE + cfg->id,
                                 .type = TAG_INT32,
                                 .access = TAG_ACCESS_READ,
                                 .quality = quality,
                                 .ts_us = quality == TAG_BAD_CONFIG ? clock_wall_us() : 0,
                                 .name = "status",
                                 .unit = "",
                                 .dev = d };
    return d;
}

int
mb_engine_set_device(struct mb_engine *e, const struct mb_dev_config *cfg)
{
    struct mb_address address;
    bool polled = cfg->enable && (cfg->port_id || has_address(cfg, &address));
    if (!iface_of(e, cfg))
        return -ENODEV;
    CLEANUP(dev_freep)
    struct mb_dev *d = dev_new(e, cfg, polled ? TAG_BAD_NEVER : TAG_BAD_CONFIG);
    if (!d || reserve_dev(e) < 0)
        return -ENOMEM;
    struct mb_link *l = polled ? link_of(e, cfg) : NULL;
    if (polled && !l)
        return -ENOMEM;
    if (l && link_reserve(l, d->n_cmds) < 0) {
        link_free_if_empty(l);
        return -ENOMEM;
    }
    size_t at = dev_place(e, cfg->id);
    struct mb_dev *old = at < e->n_devs && e->devs[at]->id == cfg->id ? e->devs[at] : NULL;
    for (size_t i = 0; i < d->n_cmds; i++)
        mb_cmd_first_due(e, &d->cmds[i]);
    if (old)
        keep_dev(d, old);
    if (!polled)
        d->health = (struct mb_health){ 0 };
    mb_dev_regroup(d);
    e->is_listed = false;
    /* In before the old one is out: a connection that both use stays. */
    if (l) {
        link_add(l, d);
        link_start(l);
    }
    if (old) {
        struct mb_link *old_link = old->link;
        if (old_link) {
            link_remove(old);
            link_free_if_empty(old_link);
        }
        dev_free(old);
        e->devs[at] = MOVE_PTR(d);
    } else {
        memmove(&e->devs[at + 1], &e->devs[at], (e->n_devs - at) * sizeof(struct mb_dev *));
        e->devs[at] = MOVE_PTR(d);
        e->n_devs++;
    }
    if (l)
        mb_link_pump(l);
    return 0;
}

void
mb_engine_remove_device(struct mb_engine *e, uint32_t id)
{
    size_t at = dev_place(e, id);
    if (at >= e->n_devs || e->devs[at]->id != id)
        return;
    struct mb_dev *d = e->devs[at];
    struct mb_link *l = d->link;
    e->is_listed = false;
    if (l) {
        link_remove(d);
        link_free_if_empty(l);
    }
    dev_free(d);
    e->n_devs--;
    memmove(&e->devs[at], &e->devs[at + 1], (e->n_devs - at) * sizeof(struct mb_dev *));
}

/* Takes it over; 'port_id' as in mb_dev_config. */
static void
set_iface(struct mb_engine *e, uint32_t port_id, struct mb_iface_config *iface,
          const struct mb_iface_config *cfg)
{
    bool regroup =
        iface->merge.gap != cfg->merge.gap || iface->merge.quantity != cfg->merge.quantity;
    *iface = *cfg;
    for (size_t i = 0; regroup && i < e->n_devs; i++)
        if (e->devs[i]->port_id == port_id)
            mb_dev_regroup(e->devs[i]);
}

void
mb_engine_set_iface(struct mb_engine *e, const struct mb_iface_config *cfg)
{
    set_iface(e, 0, &e->iface, cfg);
    for (struct mb_link *l = e->links; l; l = l->next)
        if (!l->port)
            mb_tcp_set_timeout(&l->tcp, connect_timeout_ms(e));
}

int
mb_engine_set_port(struct mb_engine *e, const struct mb_port_config *cfg)
{
    struct mb_port *p = mb_port_find(e, cfg->id);
    if (!p) {
        p = calloc(1, sizeof(*p));
        if (!p)
            return -ENOMEM;
        p->id = cfg->id;
        p->next = e->ports;
        e->ports = p;
    }
    p->line = cfg->line;
    if (p->link)
        mb_line_configure(&p->link->line, &p->line);
    set_iface(e, p->id, &p->iface, &cfg->iface);
    return 0;
}

int
mb_engine_new(struct loop *loop, const struct mb_engine_hooks *hooks,
              struct mb_engine **ret_engine)
{
    struct mb_engine *e = calloc(1, sizeof(*e));
    if (!e)
        return -ENOMEM;
    e->loop = loop;
    e->hooks = *hooks;
    e->start_us = clock_mono_us();
    loop_timer_init(&e->fault_timer, mb_fault_timer, e);
    e->iface = (struct mb_iface_config){ .provider = "modbus_tcp_master",
                                         .retry_count = 3,
                                         .timeout_ms = 1000 };
    *ret_engine = e;
    return 0;
}

void
mb_engine_free(struct mb_engine *e)
{
    if (!e)
        return;
    while (e->n_devs)
        mb_engine_remove_device(e, e->devs[e->n_devs - 1]->id);
    while (e->ports) {
        struct mb_port *p = e->ports;
        e->ports = p->next;
        free(p);
    }
    loop_timer_cancel(e->loop, &e->fault_timer);
    free(e->devs);
    free(e->all);
    free(e);
}
