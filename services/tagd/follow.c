/*
 * Event streams of tag values. Lines of one round gather in the stream's own
 * buffer and leave as one block; the text of a line is made once per sample
 * (line.c), however many streams carry it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/api.h"
#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/log.h"
#include "libcommon/loop.h"
#include "libcommon/str.h"
#include "services/tagd/tagd.h"
#include "libcommon/banned.h"

/* A block leaves at this size, so that what a slow client loses is bounded too. */
enum { FOLLOW_BLOCK = 64 << 10 };

struct follow {
    struct follow *next, **at; /* of tagd's list */
    struct follow *next_dirty;
    bool dirty;
    struct tagd *d;
    struct api_stream *stream;
    struct buf out;
    uint64_t interval_us, due_us; /* interval 0: every update */
    struct loop_timer timer;
    size_t next_sent; /* of a round of all tags that is under way; n: none is */
    size_t n;
    struct tagview_listener *tags;
    bool all; /* of the source, as the catalogue stands */
    char provider[TAG_NAME_MAX + 1], source[TAG_NAME_MAX + 1];
};

/* Sends what gathered. False: the stream closed meanwhile, which freed 'f'. */
static bool
send_out(struct follow *f)
{
    struct tagd *d = f->d;
    struct buf out = f->out;
    buf_init(&f->out, out.max);
    d->sending = f;
    if (out.err == 0 && out.len > 0)
        api_stream_send(f->stream, out.data, out.len);
    bool there = d->sending == f;
    if (there && out.err == 0) { /* it keeps its memory */
        buf_reset(&out);
        f->out = out;
    } else {
        buf_done(&out);
    }
    d->sending = NULL;
    return there;
}

static void
mark_dirty(struct follow *f)
{
    if (f->dirty)
        return;
    f->dirty = true;
    f->next_dirty = f->d->dirty;
    f->d->dirty = f;
}

static void
add_line(struct follow *f, struct tagview_tag *t)
{
    size_t len;
    const char *line = tagd_line(t, &len);
    if (line == NULL)
        return;
    buf_put(&f->out, line, len);
    mark_dirty(f);
}

static void
on_update(struct tagview_listener *l)
{
    struct follow *f = l->owner;
    add_line(f, l->tag);
    if (f->out.len >= FOLLOW_BLOCK)
        (void)send_out(f); /* nothing after it uses f */
}

/*
 * Goes on with the last values of all tags. What a stream may be behind is
 * bounded: the round pauses at half of that, and goes on before a later sleep,
 * when the client has taken some. False: the stream closed, which freed 'f'.
 */
static bool
send_more(struct follow *f)
{
    while (f->next_sent < f->n &&
           api_stream_backlog(f->stream) + f->out.len <= TAGD_BACKLOG_MAX / 2) {
        struct tagview_tag *t = f->tags[f->next_sent++].tag;
        if (t->has_sample)
            add_line(f, t);
        if (f->out.len >= FOLLOW_BLOCK && !send_out(f))
            return false;
    }
    return true;
}

static void
send_all(struct follow *f)
{
    if (f->next_sent < f->n)
        return; /* the client is not through with the last round */
    f->next_sent = 0;
    mark_dirty(f); /* send_more begins before the sleep */
}

static void
on_timer(void *arg)
{
    struct follow *f = arg;
    uint64_t now = loop_now_us(f->d->svc->loop);
    f->due_us += f->interval_us;
    if (f->due_us <= now) /* behind by whole intervals: keep the phase, skip them */
        f->due_us += (now - f->due_us) / f->interval_us * f->interval_us + f->interval_us;
    if (loop_timer_set(f->d->svc->loop, &f->timer, f->due_us) < 0)
        log_err("follow: no memory for a timer");
    send_all(f);
}

static void
unlink_dirty(struct follow *f)
{
    if (!f->dirty)
        return;
    struct follow **at = &f->d->dirty;
    while (*at != NULL && *at != f)
        at = &(*at)->next_dirty;
    if (*at == f)
        *at = f->next_dirty;
    f->dirty = false;
}

static void
release_tags(struct tagd *d, struct tagview_listener *tags, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        tagview_unlisten(&tags[i]);
        tagview_release(d->view, tags[i].tag);
    }
    free(tags);
    d->n_followed -= n;
}

static void
follow_free(struct follow *f)
{
    struct tagd *d = f->d;
    loop_timer_cancel(d->svc->loop, &f->timer);
    unlink_dirty(f);
    release_tags(d, f->tags, f->n);
    *f->at = f->next;
    if (f->next != NULL)
        f->next->at = f->at;
    d->n_follows--;
    if (d->sending == f)
        d->sending = NULL;
    buf_done(&f->out);
    free(f);
}

static void
on_closed(void *arg)
{
    follow_free(arg);
}

void
tagd_follow_flush(void *tagd)
{
    struct tagd *d = tagd;
    while (d->dirty != NULL) {
        struct follow *f = d->dirty;
        d->dirty = f->next_dirty;
        f->dirty = false;
        if (send_more(f))
            (void)send_out(f); /* f is off the list */
    }
    for (struct follow *f = d->follows; f != NULL; f = f->next)
        if (f->next_sent < f->n)
            mark_dirty(f);
}

/* ---- which tags ---- */

/* 'f' follows 't' too; there is room in f->tags. False without memory. */
static bool
take_tag(struct follow *f, struct tagview_tag *t)
{
    if (t == NULL)
        return false;
    struct tagview_listener *l = &f->tags[f->n++];
    *l = (struct tagview_listener){ .fn = on_update, .owner = f, .tag = t };
    if (f->interval_us == 0)
        tagview_listen(t, l);
    f->d->n_followed++;
    return true;
}

static bool
listed_before(const char *const *names, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (strcmp(names[k], names[i]) == 0)
            return true;
    return false;
}

/* 0, -ENOMEM or -E2BIG. */
static int
take_names(struct follow *f, const char *const *names, size_t n)
{
    if (n > TAGD_FOLLOWED_MAX - f->d->n_followed)
        return -E2BIG;
    f->tags = calloc(n, sizeof(f->tags[0]));
    if (f->tags == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        if (!listed_before(names, i) && /* a tag has one listener of a stream */
            !take_tag(f, tagview_hold(f->d->view, f->provider, f->source, names[i])))
            return -ENOMEM;
    return 0;
}

static bool
is_of_source(const struct follow *f, const struct tagview_tag *t)
{
    return strcmp(t->source, f->source) == 0 && strcmp(t->provider, f->provider) == 0;
}

/* What the catalogue lists now of the source, in its order. 0, -ENOMEM or -E2BIG. */
static int
take_source(struct follow *f)
{
    struct tagd *d = f->d;
    size_t n = 0, at = 0;
    for (struct tagview_tag *t; (t = tagview_next(d->view, &at)) != NULL;)
        n += is_of_source(f, t);
    if (n > TAGD_FOLLOWED_MAX - d->n_followed)
        return -E2BIG;
    struct tagview_listener *tags = calloc(n > 0 ? n : 1, sizeof(tags[0]));
    if (tags == NULL)
        return -ENOMEM;
    struct tagview_listener *old = f->tags;
    size_t n_old = f->n;
    bool paused = f->next_sent < f->n;
    f->tags = tags;
    f->n = 0;
    at = 0;
    for (struct tagview_tag *t; (t = tagview_next(d->view, &at)) != NULL;)
        if (is_of_source(f, t)) /* it is there: holding it costs no memory */
            (void)take_tag(f, tagview_hold(d->view, t->provider, t->source, t->name));
    f->next_sent = paused ? 0 : f->n;
    release_tags(d, old, n_old); /* after the new ones are held */
    return 0;
}

void
tagd_follow_catalogue(void *tagd)
{
    struct tagd *d = tagd;
    for (struct follow *f = d->follows; f != NULL; f = f->next) {
        int r = f->all ? take_source(f) : 0;
        if (r < 0)
            log_err("follow: a stream keeps its old tags error=%s", strerror(-r));
    }
}

int
tagd_follow(struct tagd *d, struct api_call *call, const char *provider, const char *source,
            const char *const *names, size_t n, uint32_t interval_ms)
{
    if (d->n_follows >= TAGD_FOLLOWS_MAX)
        return api_fail(call, API_UNAVAILABLE, NULL, "all %d event streams are in use",
                        TAGD_FOLLOWS_MAX);
    struct follow *f = calloc(1, sizeof(*f));
    if (f == NULL || str_copy(f->provider, sizeof(f->provider), provider) < 0 ||
        str_copy(f->source, sizeof(f->source), source) < 0) {
        free(f);
        return api_fail_errno(call, -ENOMEM, "no memory for a stream of %zu tags", n);
    }
    f->d = d;
    f->all = n == 0;
    f->interval_us = (uint64_t)interval_ms * 1000;
    buf_init(&f->out, 2 * FOLLOW_BLOCK + TAGD_LINE_MAX);
    loop_timer_init(&f->timer, on_timer, f);
    f->next = d->follows;
    f->at = &d->follows;
    if (f->next != NULL)
        f->next->at = &f->next;
    d->follows = f;
    d->n_follows++;
    int r = n > 0 ? take_names(f, names, n) : take_source(f);
    if (r < 0) {
        follow_free(f);
        return api_fail(call, API_UNAVAILABLE, NULL, "too many tags are followed");
    }
    f->stream = api_stream_open(call, TAGD_BACKLOG_MAX, on_closed, f);
    if (f->stream == NULL) {
        follow_free(f);
        return API_UNAVAILABLE;
    }
    if (interval_ms > 0) {
        f->due_us = loop_now_us(d->svc->loop) + f->interval_us;
        if (loop_timer_set(d->svc->loop, &f->timer, f->due_us) < 0)
            log_err("follow: no memory for a timer");
    }
    f->next_sent = f->n;
    send_all(f); /* so that no update falls between a read and this */
    return API_OK;
}

void
tagd_follow_get_stats(const struct tagd *d, struct follow_stats *ret_stats)
{
    *ret_stats = (struct follow_stats){ .streams = d->n_follows };
    for (const struct follow *f = d->follows; f != NULL; f = f->next) {
        ret_stats->backlog += api_stream_backlog(f->stream);
    }
}
