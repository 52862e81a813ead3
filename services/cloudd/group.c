/* Sampling and thresholds of a message group: see group.h. */
#include "services/cloudd/group.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/banned.h"

enum {
    /* What a tag adds to a message besides its values: name, brackets. */
    TAG_OVERHEAD = 16,
    /* A message being written may pass its limit by one tag. */
    BUF_MAX = GROUP_MESSAGE_MAX * 2,
};

/* A sampled value: text in 'text', chained per tag. Index 0 is no value. */
struct value {
    uint32_t at, len, next;
};

struct tag {
    const struct group_tag_name *n;
    uint32_t first, last; /* of 'values' */
    uint64_t seen;        /* fingerprint of the value that was sampled last */
    bool has_seen;
    bool dirty; /* in 'dirty' */
};

struct group {
    struct group_settings s;
    struct group_events ev;
    size_t n_tags;
    uint32_t *dirty; /* tags with something to send */
    size_t n_dirty;
    struct value *values;
    uint32_t n_values, cap_values;
    struct buf text, message;
    size_t bytes; /* about the size of the message */
    uint64_t sent_us, sampled_us, next_time_us, next_poll_us;
    bool sent; /* sent_us is set */
    uint64_t lost;
    struct tag tags[];
};

int
group_new(const struct group_settings *settings, const struct group_tag_name *tags,
          size_t n_tags, const struct group_events *events, uint64_t now_us,
          struct group **ret_group)
{
    struct group *g = calloc(1, sizeof(*g) + n_tags * sizeof(g->tags[0]));
    uint32_t *dirty = calloc(n_tags > 0 ? n_tags : 1, sizeof(*dirty));
    if (g == NULL || dirty == NULL) {
        free(g);
        free(dirty);
        return -ENOMEM;
    }
    g->s = *settings;
    if ((g->s.threshold == GROUP_BY_TIME && g->s.time_us == 0) ||
        (g->s.threshold == GROUP_BY_SIZE && g->s.size == 0))
        g->s.threshold = GROUP_IMMEDIATELY;
    g->ev = *events;
    g->dirty = dirty;
    g->n_tags = n_tags;
    for (size_t i = 0; i < n_tags; i++)
        g->tags[i].n = &tags[i];
    buf_init(&g->text, BUF_MAX);
    buf_init(&g->message, BUF_MAX);
    g->n_values = 1;
    g->next_time_us = now_us + g->s.time_us;
    g->next_poll_us = now_us;
    *ret_group = g;
    return 0;
}

void
group_free(struct group *g)
{
    if (g == NULL)
        return;
    buf_done(&g->text);
    buf_done(&g->message);
    free(g->values);
    free(g->dirty);
    free(g);
}

uint64_t
group_take_lost(struct group *g)
{
    uint64_t lost = g->lost;
    g->lost = 0;
    return lost;
}

/* ---- sampling ---- */

/* The last value of tag 'i'; NULL when there is none: one without a time never was. */
static const struct tag_sample *
current(const struct group *g, size_t i)
{
    const struct tag_sample *s = g->ev.current(g->ev.arg, i);
    return s != NULL && s->ts_us > 0 ? s : NULL;
}

/* Equal values of one tag have equal fingerprints; quality counts, which bad one does not. */
static uint64_t
fingerprint(const struct tag_sample *s)
{
    if (!tag_quality_ok(s->quality))
        return 0x9e3779b97f4a7c15u;
    const struct tag_value *v = &s->value;
    switch (v->type) {
    case TAG_BOOLEAN:
        return v->b;
    case TAG_STRING:
    case TAG_RAW: {
        uint64_t h = 0xcbf29ce484222325u;
        for (size_t i = 0; i < v->n_bytes; i++)
            h = (h ^ v->bytes[i]) * 0x100000001b3u;
        return h;
    }
    case TAG_FLOAT:
    case TAG_DOUBLE: {
        double d = v->d == 0 ? 0 : v->d; /* -0 is 0 */
        uint64_t bits;
        memcpy(&bits, &d, sizeof(bits));
        return bits;
    }
    default:
        return v->u;
    }
}

static bool
wants_latest(const struct group *g)
{
    return g->s.sampling == GROUP_LATEST_VALUES || g->s.sampling == GROUP_LATEST_CHANGED_VALUES;
}

static bool
wants_changes(const struct group *g)
{
    return g->s.sampling == GROUP_ALL_CHANGED_VALUES ||
           g->s.sampling == GROUP_LATEST_CHANGED_VALUES;
}

static void
mark_dirty(struct group *g, size_t i)
{
    struct tag *t = &g->tags[i];
    if (t->dirty)
        return;
    t->dirty = true;
    g->dirty[g->n_dirty++] = (uint32_t)i;
    g->bytes += strlen(t->n->name) + TAG_OVERHEAD;
}

static void
append_value(struct group *g, size_t i, const struct tag_sample *s)
{
    if (g->n_values == g->cap_values || g->values == NULL) {
        uint32_t cap = g->cap_values > 0 ? g->cap_values * 2 : 16;
        struct value *more = realloc(g->values, cap * sizeof(*more));
        if (more == NULL) {
            g->lost++;
            return;
        }
        g->values = more;
        g->cap_values = cap;
    }
    size_t at = g->text.len;
    /* The writer puts a comma after a value; the chain does without. */
    buf_putc(&g->text, '[');
    payload_put_value(&g->text, s);
    if (g->text.err != 0) {
        g->text.err = 0;
        g->text.len = at;
        g->lost++;
        return;
    }
    struct tag *t = &g->tags[i];
    uint32_t no = g->n_values++;
    g->values[no] =
        (struct value){ .at = (uint32_t)at + 1, .len = (uint32_t)(g->text.len - at - 1) };
    if (t->first == 0)
        t->first = no;
    else
        g->values[t->last].next = no;
    t->last = no;
    mark_dirty(g, i);
    g->bytes += g->values[no].len + 1;
}

static void
sample(struct group *g, size_t i, uint64_t now_us)
{
    const struct tag_sample *s = current(g, i);
    if (s == NULL)
        return;
    struct tag *t = &g->tags[i];
    uint64_t print = fingerprint(s);
    if (wants_changes(g) && t->has_seen && t->seen == print)
        return;
    g->sampled_us = now_us;
    if (wants_latest(g)) {
        /* What was sent last is what a change is measured by: see write_tag. */
        if (!t->dirty)
            g->bytes += 60;
        mark_dirty(g, i);
        return;
    }
    t->seen = print;
    t->has_seen = true;
    append_value(g, i, s);
    if (g->bytes >= GROUP_MESSAGE_MAX)
        group_flush(g, now_us);
}

void
group_update(struct group *g, size_t i, uint64_t now_us)
{
    if (g->s.poll_us == 0)
        sample(g, i, now_us);
}

/* ---- sending ---- */

static int
by_index(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void
send_message(struct group *g, struct payload *p)
{
    payload_end(p, g->s.properties, g->s.n_properties);
    if (g->message.err == 0)
        g->ev.emit(g->ev.arg, g->message.data, g->message.len);
    else
        g->lost++;
    buf_reset(&g->message);
}

/* Puts what tag 'i' has to say; false when that is nothing. */
static bool
write_tag(struct group *g, struct payload *p, size_t i)
{
    struct tag *t = &g->tags[i];
    if (!wants_latest(g)) {
        payload_tag(p, t->n->provider, t->n->source, t->n->name);
        for (uint32_t no = t->first; no != 0; no = g->values[no].next)
            payload_value(p, g->text.data + g->values[no].at, g->values[no].len);
        return true;
    }
    const struct tag_sample *s = current(g, i);
    if (s == NULL)
        return false;
    uint64_t print = fingerprint(s);
    if (wants_changes(g) && t->has_seen && t->seen == print)
        return false; /* there and back again since the last message */
    t->seen = print;
    t->has_seen = true;
    payload_tag(p, t->n->provider, t->n->source, t->n->name);
    payload_put_value(p->b, s);
    return true;
}

/* 'all': every tag, not only those with news. */
static void
send_all(struct group *g, bool all, uint64_t now_us)
{
    struct payload p;
    size_t n_written = 0, n = all ? g->n_tags : g->n_dirty;
    if (!all)
        qsort(g->dirty, g->n_dirty, sizeof(g->dirty[0]), by_index);
    buf_reset(&g->message);
    payload_begin(&p, &g->message);
    for (size_t k = 0; k < n; k++) {
        n_written += write_tag(g, &p, all ? k : g->dirty[k]);
        if (g->message.len >= GROUP_MESSAGE_MAX && k + 1 < n) {
            send_message(g, &p);
            payload_begin(&p, &g->message);
            n_written = 0;
        }
    }
    if (n_written > 0)
        send_message(g, &p);
    for (size_t k = 0; k < g->n_dirty; k++) {
        struct tag *t = &g->tags[g->dirty[k]];
        t->dirty = false;
        t->first = t->last = 0;
    }
    g->n_dirty = 0;
    g->n_values = 1;
    g->bytes = 0;
    buf_reset(&g->text);
    g->sent = true;
    g->sent_us = now_us;
}

void
group_flush(struct group *g, uint64_t now_us)
{
    if (g->n_dirty > 0)
        send_all(g, false, now_us);
}

/* The next moment on the grid of 'step' from 'at' that lies after 'now'. */
static uint64_t
next_on_grid(uint64_t at, uint64_t step, uint64_t now_us)
{
    return at > now_us ? at : at + ((now_us - at) / step + 1) * step;
}

static bool
held_back(const struct group *g, uint64_t now_us)
{
    return g->sent && now_us < g->sent_us + g->s.min_interval_us;
}

void
group_round(struct group *g, uint64_t now_us)
{
    if (g->s.poll_us > 0 && now_us >= g->next_poll_us) {
        for (size_t i = 0; i < g->n_tags; i++)
            sample(g, i, now_us);
        g->next_poll_us = next_on_grid(g->next_poll_us, g->s.poll_us, now_us);
    }
    switch (g->s.threshold) {
    case GROUP_BY_TIME: {
        if (now_us < g->next_time_us || held_back(g, now_us))
            break;
        bool all = g->s.sampling == GROUP_LATEST_VALUES && g->n_tags > 0;
        if (all || g->n_dirty > 0)
            send_all(g, all, now_us);
        g->next_time_us = next_on_grid(g->next_time_us, g->s.time_us, now_us);
        break;
    }
    case GROUP_BY_SIZE:
        if (g->n_dirty > 0 && !held_back(g, now_us) &&
            (g->bytes >= g->s.size ||
             (g->s.idle_us > 0 && now_us >= g->sampled_us + g->s.idle_us)))
            send_all(g, false, now_us);
        break;
    case GROUP_IMMEDIATELY:
        if (g->n_dirty > 0 && !held_back(g, now_us))
            send_all(g, false, now_us);
        break;
    }
}

uint64_t
group_due_us(const struct group *g)
{
    uint64_t due = UINT64_MAX;
    uint64_t may_send = g->sent ? g->sent_us + g->s.min_interval_us : 0;
    if (g->s.threshold == GROUP_BY_TIME)
        due = g->next_time_us;
    else if (g->n_dirty > 0 && (g->s.threshold == GROUP_IMMEDIATELY || g->bytes >= g->s.size))
        due = may_send;
    else if (g->n_dirty > 0 && g->s.idle_us > 0)
        due = g->sampled_us + g->s.idle_us;
    if (due < may_send)
        due = may_send;
    if (g->s.poll_us > 0 && g->next_poll_us < due)
        due = g->next_poll_us;
    return due;
}
