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
    size_t n;
    struct tagview_listener tags[];
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
add_line(struct follow *f, struct tagview_tag *t)
{
    size_t len;
    const char *line = tagd_line(t, &len);
    if (line == NULL)
        return;
    buf_put(&f->out, line, len);
    if (!f->dirty) {
        f->dirty = true;
        f->next_dirty = f->d->dirty;
        f->d->dirty = f;
    }
}

static void
on_update(struct tagview_listener *l)
{
    struct follow *f = l->owner;
    add_line(f, l->tag);
    if (f->out.len >= FOLLOW_BLOCK)
        (void)send_out(f); /* nothing after it uses f */
}

/* The last values of all tags. */
static void
send_all(struct follow *f)
{
    bool there = true;
    for (size_t i = 0; there && i < f->n; i++) {
        if (f->tags[i].tag->has_sample)
            add_line(f, f->tags[i].tag);
        if (f->out.len >= FOLLOW_BLOCK)
            there = send_out(f);
    }
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
follow_free(struct follow *f)
{
    struct tagd *d = f->d;
    loop_timer_cancel(d->svc->loop, &f->timer);
    unlink_dirty(f);
    for (size_t i = 0; i < f->n; i++) {
        tagview_unlisten(&f->tags[i]);
        tagview_release(d->view, f->tags[i].tag);
    }
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
        (void)send_out(f); /* f is off the list */
    }
}

static bool
listed_before(const char *const *names, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (strcmp(names[k], names[i]) == 0)
            return true;
    return false;
}

int
tagd_follow(struct tagd *d, struct api_call *call, const char *provider, const char *source,
            const char *const *names, size_t n, uint32_t interval_ms)
{
    if (d->n_follows >= TAGD_FOLLOWS_MAX)
        return api_fail(call, API_UNAVAILABLE, NULL, "all %d event streams are in use",
                        TAGD_FOLLOWS_MAX);
    struct follow *f = calloc(1, sizeof(*f) + n * sizeof(f->tags[0]));
    if (f == NULL)
        return api_fail_errno(call, -ENOMEM, "no memory for a stream of %zu tags", n);
    f->d = d;
    buf_init(&f->out, 2 * FOLLOW_BLOCK + TAGD_LINE_MAX);
    loop_timer_init(&f->timer, on_timer, f);
    f->next = d->follows;
    f->at = &d->follows;
    if (f->next != NULL)
        f->next->at = &f->next;
    d->follows = f;
    d->n_follows++;
    for (size_t i = 0; i < n; i++) {
        if (listed_before(names, i))
            continue; /* a tag has one listener of a stream */
        struct tagview_tag *t = tagview_hold(d->view, provider, source, names[i]);
        if (t == NULL) {
            follow_free(f);
            return api_fail(call, API_UNAVAILABLE, NULL, "too many tags are followed");
        }
        f->tags[f->n] = (struct tagview_listener){ .fn = on_update, .owner = f, .tag = t };
        f->n++;
    }
    f->stream = api_stream_open(call, TAGD_BACKLOG_MAX, on_closed, f);
    if (f->stream == NULL) {
        follow_free(f);
        return API_UNAVAILABLE;
    }
    for (size_t i = 0; interval_ms == 0 && i < f->n; i++)
        tagview_listen(f->tags[i].tag, &f->tags[i]);
    if (interval_ms > 0) {
        f->interval_us = (uint64_t)interval_ms * 1000;
        f->due_us = loop_now_us(d->svc->loop) + f->interval_us;
        if (loop_timer_set(d->svc->loop, &f->timer, f->due_us) < 0)
            log_err("follow: no memory for a timer");
    }
    send_all(f); /* so that no update falls between a read and this */
    return API_OK;
}

void
tagd_follow_get_stats(const struct tagd *d, struct follow_stats *ret_stats)
{
    *ret_stats = (struct follow_stats){ .streams = d->n_follows };
    for (const struct follow *f = d->follows; f != NULL; f = f->next) {
        size_t backlog = api_stream_backlog(f->stream);
        ret_stats->backlog += backlog;
        if (backlog > ret_stats->backlog_max)
            ret_stats->backlog_max = backlog;
    }
}
