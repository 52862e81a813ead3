/* Entries by name and by number, last values, listeners. */
#include "libcommon/tagview.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/metrics.h"
#include "libcommon/str.h"
#include "libcommon/banned.h"

/* Who provides tags. A provider that is not installed costs nothing but its line. */
static const char *const provider_daemons[] = { "modbusd" };

/* A slot of a daemon's table from tag number to entry (open addressing). */
struct by_no {
    uint32_t no; /* 0: empty */
    struct tagview_tag *tag;
};

struct tagview_daemon {
    char name[32];
    struct tag_sub *sub; /* NULL, with 'peer': not followed by tagview_follow */
    struct bus_peer *peer;
    bool known; /* a catalogue came */
    bool up;
    struct tagview_tag **tags; /* in catalogue order */
    size_t n_tags;
    struct by_no *table;
    size_t mask; /* slots - 1 */
};

struct tagview {
    struct tagview_tag **buckets;
    size_t n_buckets; /* a power of two */
    size_t n_entries;
    struct tagview_daemon daemons[TAGVIEW_DAEMONS_MAX];
    size_t n_daemons;
    void (*on_catalogue)(void *arg);
    void *on_catalogue_arg;
    struct tagview_stats stats;
};

static uint64_t
hash_add(uint64_t h, const char *text)
{
    /* FNV-1a; the terminator parts the names */
    do {
        h = (h ^ (uint8_t)*text) * 0x100000001b3u;
    } while (*text++ != '\0');
    return h;
}

static uint64_t
hash_name(const char *provider, const char *source, const char *name)
{
    uint64_t h = 0xcbf29ce484222325u;
    h = hash_add(h, provider);
    h = hash_add(h, source);
    h = hash_add(h, name);
    return h ^ h >> 32;
}

int
tagview_new(struct tagview **ret_view)
{
    struct tagview *v = calloc(1, sizeof(*v));
    if (v == NULL)
        return -ENOMEM;
    v->n_buckets = 1024;
    v->buckets = calloc(v->n_buckets, sizeof(struct tagview_tag *));
    if (v->buckets == NULL) {
        free(v);
        return -ENOMEM;
    }
    *ret_view = v;
    return 0;
}

static void
drop_memo(struct tagview_tag *t)
{
    if (t->memo != NULL)
        t->memo_free(t->memo);
    t->memo = NULL;
}

static void
tag_free(struct tagview_tag *t)
{
    drop_memo(t);
    free(t->bytes);
    free(t);
}

void
tagview_free(struct tagview *v)
{
    if (v == NULL)
        return;
    for (size_t i = 0; i < v->n_buckets; i++) {
        struct tagview_tag *next;
        for (struct tagview_tag *t = v->buckets[i]; t != NULL; t = next) {
            next = t->next;
            tag_free(t);
        }
    }
    for (size_t i = 0; i < v->n_daemons; i++) {
        free(v->daemons[i].tags);
        free(v->daemons[i].table);
    }
    free(v->buckets);
    free(v);
}

static struct tagview_daemon *
daemon_get(struct tagview *v, const char *name, bool make)
{
    for (size_t i = 0; i < v->n_daemons; i++)
        if (str_eq(v->daemons[i].name, name))
            return &v->daemons[i];
    if (!make || v->n_daemons == TAGVIEW_DAEMONS_MAX)
        return NULL;
    struct tagview_daemon *d = &v->daemons[v->n_daemons];
    if (str_copy(d->name, sizeof(d->name), name) < 0)
        return NULL;
    v->n_daemons++;
    return d;
}

bool
tagview_knows(const struct tagview *v, const char *daemon)
{
    for (size_t i = 0; i < v->n_daemons; i++)
        if (str_eq(v->daemons[i].name, daemon))
            return v->daemons[i].known;
    return false;
}

const char *
tagview_daemon_of(const struct tagview_tag *t)
{
    return t->daemon != NULL ? t->daemon->name : NULL;
}

struct bus_peer *
tagview_peer_of(const struct tagview_tag *t)
{
    return t->daemon != NULL ? t->daemon->peer : NULL;
}

void
tagview_on_catalogue(struct tagview *v, void (*fn)(void *arg), void *arg)
{
    v->on_catalogue = fn;
    v->on_catalogue_arg = arg;
}

/* ---- entries by name ---- */

static void
grow(struct tagview *v)
{
    size_t n = v->n_buckets * 2;
    struct tagview_tag **wide = calloc(n, sizeof(struct tagview_tag *));
    if (wide == NULL)
        return; /* longer chains are slower, not wrong */
    for (size_t i = 0; i < v->n_buckets; i++) {
        struct tagview_tag *next;
        for (struct tagview_tag *t = v->buckets[i]; t != NULL; t = next) {
            next = t->next;
            t->next = wide[t->hash & (n - 1)];
            wide[t->hash & (n - 1)] = t;
        }
    }
    free(v->buckets);
    v->buckets = wide;
    v->n_buckets = n;
}

struct tagview_tag *
tagview_find(const struct tagview *v, const char *provider, const char *source,
             const char *name)
{
    uint64_t hash = hash_name(provider, source, name);
    struct tagview_tag *t = v->buckets[hash & (v->n_buckets - 1)];
    while (t != NULL && !(t->hash == hash && str_eq(t->name, name) &&
                          str_eq(t->source, source) && str_eq(t->provider, provider)))
        t = t->next;
    return t;
}

static struct tagview_tag *
tag_get(struct tagview *v, const char *provider, const char *source, const char *name)
{
    struct tagview_tag *t = tagview_find(v, provider, source, name);
    if (t != NULL)
        return t;
    size_t np = strlen(provider) + 1, ns = strlen(source) + 1, nn = strlen(name) + 1;
    if (v->n_entries == TAGVIEW_TAGS_MAX || np > TAG_NAME_MAX + 1 || ns > TAG_NAME_MAX + 1 ||
        nn > TAG_NAME_MAX + 1)
        return NULL;
    t = calloc(1, sizeof(*t) + np + ns + nn);
    if (t == NULL)
        return NULL;
    memcpy(t->text, provider, np);
    memcpy(t->text + np, source, ns);
    memcpy(t->text + np + ns, name, nn);
    t->provider = t->text;
    t->source = t->text + np;
    t->name = t->text + np + ns;
    t->last.quality = TAG_BAD_NEVER;
    t->hash = hash_name(provider, source, name);
    if (v->n_entries >= v->n_buckets)
        grow(v);
    t->next = v->buckets[t->hash & (v->n_buckets - 1)];
    v->buckets[t->hash & (v->n_buckets - 1)] = t;
    v->n_entries++;
    return t;
}

static void
tag_drop_unused(struct tagview *v, struct tagview_tag *t)
{
    if (t->daemon != NULL || t->n_holds > 0)
        return;
    struct tagview_tag **at = &v->buckets[t->hash & (v->n_buckets - 1)];
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    v->n_entries--;
    tag_free(t);
}

struct tagview_tag *
tagview_hold(struct tagview *v, const char *provider, const char *source, const char *name)
{
    struct tagview_tag *t = tag_get(v, provider, source, name);
    if (t != NULL)
        t->n_holds++;
    return t;
}

void
tagview_release(struct tagview *v, struct tagview_tag *t)
{
    MUST(t->n_holds > 0);
    t->n_holds--;
    if (t->n_holds == 0)
        drop_memo(t);
    tag_drop_unused(v, t);
}

void
tagview_listen(struct tagview_tag *t, struct tagview_listener *l)
{
    l->tag = t;
    l->next = t->listeners;
    l->at = &t->listeners;
    if (l->next != NULL)
        l->next->at = &l->next;
    t->listeners = l;
}

void
tagview_unlisten(struct tagview_listener *l)
{
    if (l->at == NULL)
        return;
    *l->at = l->next;
    if (l->next != NULL)
        l->next->at = l->at;
    l->at = NULL;
    l->next = NULL;
}

struct tagview_tag *
tagview_next(const struct tagview *v, size_t *at)
{
    size_t skip = *at;
    for (size_t i = 0; i < v->n_daemons; i++) {
        if (skip < v->daemons[i].n_tags) {
            (*at)++;
            return v->daemons[i].tags[skip];
        }
        skip -= v->daemons[i].n_tags;
    }
    return NULL;
}

bool
tagview_has_provider(const struct tagview *v, const char *provider)
{
    size_t at = 0;
    for (struct tagview_tag *t; (t = tagview_next(v, &at)) != NULL;)
        if (str_eq(t->provider, provider))
            return true;
    return false;
}

static void
tell(struct tagview *v, struct tagview_tag *t)
{
    t->version++;
    struct tagview_listener *next;
    for (struct tagview_listener *l = t->listeners; l != NULL; l = next) {
        next = l->next;
        v->stats.updates++;
        l->fn(l);
    }
}

/* The tag has no provider that could update it: its listeners must not take it for alive. */
static void
tell_lost(struct tagview *v, struct tagview_tag *t, uint8_t quality, int64_t now_us)
{
    t->last.quality = quality;
    t->last.aux = 0;
    t->last.ts_us = now_us;
    t->has_sample = true;
    tell(v, t);
}

/* ---- catalogues ---- */

static size_t
slot_of(const struct tagview_daemon *d, uint32_t no)
{
    size_t i = (no * 0x9e3779b1u) & d->mask;
    while (d->table[i].no != 0 && d->table[i].no != no)
        i = (i + 1) & d->mask;
    return i;
}

static void
set_def(struct tagview_tag *t, struct tagview_daemon *d, const struct tag_def *def)
{
    if (t->type != def->type) {
        t->has_value = t->has_sample = false;
        t->last = (struct tag_sample){ .quality = TAG_BAD_NEVER };
        t->version++;
    }
    t->daemon = d;
    t->no = def->no;
    t->type = def->type;
    t->access = def->access;
    t->size = def->size;
    t->interval_ms = def->interval_ms;
    memcpy(t->unit, def->unit, sizeof(t->unit));
    t->unit[sizeof(t->unit) - 1] = '\0';
    drop_memo(t);
}

/*
 * Those of the old list that nobody lists any more. Somebody who is told may
 * let go of any tag: all are held until the last is told.
 */
static void
withdraw(struct tagview *v, struct tagview_tag *const *old, size_t n_old)
{
    int64_t now = clock_wall_us();
    for (size_t i = 0; i < n_old; i++)
        old[i]->n_holds++;
    for (size_t i = 0; i < n_old; i++)
        if (old[i]->daemon == NULL && old[i]->n_holds > 1)
            tell_lost(v, old[i], TAG_BAD_CONFIG, now);
    for (size_t i = 0; i < n_old; i++)
        tagview_release(v, old[i]);
}

int
tagview_catalogue(void *arg, const char *daemon, const struct tag_def *defs, size_t n)
{
    struct tagview *v = arg;
    struct tagview_daemon *d = daemon_get(v, daemon, true);
    if (d == NULL)
        return -ENOSPC;
    size_t slots = 16;
    while (slots < n * 2)
        slots *= 2;
    struct tagview_tag **tags = calloc(n > 0 ? n : 1, sizeof(struct tagview_tag *));
    struct by_no *table = calloc(slots, sizeof(*table));
    if (tags == NULL || table == NULL) {
        log_err("tags: no memory for a catalogue daemon=%s tags=%zu", daemon, n);
        free(tags);
        free(table);
        return -ENOMEM;
    }
    struct tagview_tag **old = d->tags;
    size_t n_old = d->n_tags;
    for (size_t i = 0; i < n_old; i++)
        old[i]->daemon = NULL;
    free(d->table);
    d->tags = tags;
    d->n_tags = 0;
    d->table = table;
    d->mask = slots - 1;

    for (size_t i = 0; i < n; i++) {
        const struct tag_def *def = &defs[i];
        struct tagview_tag *t =
            def->no == 0 ? NULL : tag_get(v, def->provider, def->source, def->name);
        /* A name that another daemon lists, or twice in this list, keeps its first owner. */
        if (t == NULL || t->daemon != NULL) {
            v->stats.refused_tags++;
            log_warn("tags: tag not taken daemon=%s provider=%s source=%s tag=%s", daemon,
                     def->provider, def->source, def->name);
            continue;
        }
        set_def(t, d, def);
        d->tags[d->n_tags++] = t;
        struct by_no *slot = &d->table[slot_of(d, def->no)];
        *slot = (struct by_no){ .no = def->no, .tag = t };
    }
    if (!d->known)
        d->up = true;
    d->known = true;
    log_debug("tags: catalogue daemon=%s tags=%zu", daemon, d->n_tags);
    withdraw(v, old, n_old);
    free(old);
    if (v->on_catalogue != NULL)
        v->on_catalogue(v->on_catalogue_arg);
    return 0;
}

/* ---- samples ---- */

static bool
is_something(const struct tag_value *value)
{
    if (value->type == TAG_STRING || value->type == TAG_RAW)
        return value->n_bytes > 0;
    return value->type == TAG_BOOLEAN ? value->b : value->u != 0;
}

/* Keeps the value of 's'; its bytes are copied. False without memory. */
static bool
take_value(struct tagview_tag *t, const struct tag_value *value)
{
    struct tag_value copy = *value;
    if (value->type == TAG_STRING || value->type == TAG_RAW) {
        if (value->n_bytes > t->bytes_cap) {
            uint8_t *more = realloc(t->bytes, value->n_bytes);
            if (more == NULL)
                return false;
            t->bytes = more;
            t->bytes_cap = value->n_bytes;
        }
        if (value->n_bytes > 0)
            memcpy(t->bytes, value->bytes, value->n_bytes);
        copy.bytes = t->bytes;
    }
    t->last.value = copy;
    return true;
}

static void
take_sample(struct tagview *v, struct tagview_tag *t, const struct tag_sample *s)
{
    /*
     * A bad sample carries the last good value or zero: what is here stays,
     * and after a start anything but zero was a value once.
     */
    bool good = tag_quality_ok(s->quality);
    if (s->value.type == t->type &&
        (good || (!t->has_value && s->quality != TAG_BAD_NEVER && is_something(&s->value)))) {
        if (!take_value(t, &s->value))
            return;
        t->has_value = true;
    }
    t->last.no = s->no;
    t->last.quality = s->quality;
    t->last.aux = s->aux;
    t->last.ts_us = s->ts_us;
    t->has_sample = true;
    tell(v, t);
}

void
tagview_samples(void *arg, const char *daemon, const struct tag_sample *s, size_t n,
                bool snapshot)
{
    struct tagview *v = arg;
    struct tagview_daemon *d = daemon_get(v, daemon, false);
    if (d == NULL || d->table == NULL)
        return;
    d->up = true;
    v->stats.samples += n;
    for (size_t i = 0; i < n; i++) {
        if (s[i].no == 0)
            continue;
        struct tagview_tag *t = d->table[slot_of(d, s[i].no)].tag;
        if (t == NULL)
            continue;
        /* A snapshot repeats what is known already, except after a gap. */
        if (snapshot && t->has_sample && t->last.ts_us == s[i].ts_us &&
            t->last.quality == s[i].quality)
            continue;
        take_sample(v, t, &s[i]);
    }
}

void
tagview_presence(void *arg, const char *daemon, bool up)
{
    struct tagview *v = arg;
    struct tagview_daemon *d = daemon_get(v, daemon, true);
    if (d == NULL || d->up == up)
        return;
    d->up = up;
    log_info("tags: provider %s daemon=%s", up ? "is back" : "is gone", daemon);
    if (up)
        return;
    int64_t now = clock_wall_us();
    for (size_t i = 0; i < d->n_tags; i++)
        tell_lost(v, d->tags[i], TAG_BAD_OFFLINE, now);
}

void
tagview_get_stats(const struct tagview *v, struct tagview_stats *ret_stats)
{
    *ret_stats = v->stats;
    ret_stats->tags = 0;
    for (size_t i = 0; i < v->n_daemons; i++)
        ret_stats->tags += v->daemons[i].n_tags;
}

/* ---- following the providers ---- */

/* name, metric, help, is it a gauge */
#define METRIC_TABLE(X)                                                                        \
    X(tags, "fieldgate_tags", "Tags listed by the providers", true)                            \
    X(samples, "fieldgate_tag_samples_total", "Samples taken from the tag bus", false)         \
    X(updates, "fieldgate_tag_updates_total", "Updates handed to streams and groups", false)   \
    X(refused, "fieldgate_tag_refused_total", "Tags not taken from a catalogue", false)        \
    X(lost, "fieldgate_tag_lost_batches_total", "Batches missing in a sequence", false)        \
    X(snapshots, "fieldgate_tag_snapshots_total", "Snapshots asked for", false)

#define X(id, metric, text, is_gauge)                                                          \
    static struct metric_counter m_##id = { .name = metric, .help = text, .gauge = is_gauge };
METRIC_TABLE(X)
#undef X

static void
update_metrics(void *arg)
{
    const struct tagview *v = arg;
    struct tagview_stats s;
    uint64_t lost = 0, snapshots = 0;
    tagview_get_stats(v, &s);
    for (size_t i = 0; i < v->n_daemons; i++) {
        struct tag_sub_stats sub = { 0 };
        if (v->daemons[i].sub != NULL)
            tag_sub_get_stats(v->daemons[i].sub, &sub);
        lost += sub.lost_batches;
        snapshots += sub.snapshots;
    }
    metric_set(&m_tags, s.tags);
    metric_set(&m_samples, s.samples);
    metric_set(&m_updates, s.updates);
    metric_set(&m_refused, s.refused_tags);
    metric_set(&m_lost, lost);
    metric_set(&m_snapshots, snapshots);
}

int
tagview_follow(struct tagview *v, struct bus *bus, struct loop *loop)
{
    return tagview_follow_others(v, bus, loop, "");
}

int
tagview_follow_others(struct tagview *v, struct bus *bus, struct loop *loop, const char *self)
{
    struct tag_sub_events events = { .catalogue = tagview_catalogue,
                                     .samples = tagview_samples,
                                     .presence = tagview_presence,
                                     .arg = v };
    for (size_t i = 0; i < ARRAY_LEN(provider_daemons); i++) {
        if (str_eq(provider_daemons[i], self))
            continue;
        struct tagview_daemon *d = daemon_get(v, provider_daemons[i], true);
        MUST(d != NULL); /* the table is shorter than daemons[] */
        int r = bus_peer(bus, d->name, &d->peer);
        if (r == 0)
            r = tag_sub_open(bus, loop, d->name, &events, &d->sub);
        if (r < 0)
            return r;
    }
#define X(id, metric, text, is_gauge) metric_register(&m_##id);
    METRIC_TABLE(X)
#undef X
    metric_on_dump(update_metrics, v);
    return 0;
}

bool
tagview_knows_all(const struct tagview *v)
{
    for (size_t i = 0; i < ARRAY_LEN(provider_daemons); i++)
        if (!tagview_knows(v, provider_daemons[i]))
            return false;
    return true;
}
