/*
 * Following values. See watch.h.
 */
#include "services/fieldgatectl/watch.h"

#include <cjson/cJSON.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/fieldgatectl/ask.h"
#include "services/fieldgatectl/ctl.h"
#include "services/fieldgatectl/http.h"
#include "services/fieldgatectl/out.h"
#include "services/fieldgatectl/peer.h"
#include "services/fieldgatectl/reply.h"
#include "services/fieldgatectl/request.h"
#include "services/fieldgatectl/safe.h"
#include "services/fieldgatectl/sig.h"
#include "services/fieldgatectl/sse.h"

#include "libcommon/banned.h"

enum {
    NAME_MAX_LEN = 128,    /* of a provider, a source, a tag */
    TAGS_SIZE = 32 * 1024, /* names of one source, with commas */
    LINE_MAX_SIZE = 2 * SSE_EVENT_MAX,
    PAGE_ROWS = 1000,
    RETRY_MAX_S = 30,
};

struct source {
    struct watch *watch;
    char provider[NAME_MAX_LEN + 1], name[NAME_MAX_LEN + 1];
    struct buf tags; /* comma list; empty: all */
    bool all;        /* asked for without a tag */
    struct request request;
    struct http_transfer t;
    struct sse sse;
    struct buf refusal;
    bool under_way, was_open;
    unsigned tries;             /* in vain, since it was open */
    uint64_t lost_us, retry_us; /* monotonic; lost 0: it is not */
};

struct watch {
    const struct peer *peer;
    const char *interval;
    bool json;
    struct http *http;
    struct out out;
    struct buf line; /* of the event that is shown */
    size_t n;
    struct source *sources[WATCH_SOURCES_MAX];
};

/* ---- one event, one line ---- */

static void
put_word(struct buf *b, const struct cJSON *event, const char *name, char after, bool ascii)
{
    const char *text = json_text(json_get(event, name));
    if (text != NULL)
        safe_line(b, text, strlen(text), ascii);
    buf_putc(b, after);
}

static void
put_value(struct buf *b, const struct cJSON *value, bool ascii)
{
    struct buf text;
    buf_init(&text, SSE_EVENT_MAX);
    if (value != NULL)
        jw_tree(&text, value);
    safe_line(b, text.data, text.len, ascii);
    buf_putc(b, '\t');
    if (text.err < 0)
        b->err = text.err;
    buf_done(&text);
}

/* time, provider/source/tag, value as JSON, quality, unit; tabs between them. */
static void
put_line(struct buf *b, const struct cJSON *event, bool ascii)
{
    char time[CLOCK_TEXT_SIZE] = "?";
    int64_t ts;
    if (json_i64(json_get(event, "ts"), &ts) == 0)
        clock_format(ts, 3, time);
    buf_puts(b, time);
    buf_putc(b, '\t');
    put_word(b, event, "prvdName", '/', ascii);
    put_word(b, event, "srcName", '/', ascii);
    put_word(b, event, "tagName", '\t', ascii);
    put_value(b, json_get(event, "dataValue"), ascii);
    put_word(b, event, "quality", '\t', ascii);
    put_word(b, event, "dataUnit", '\n', ascii);
}

static int
show_event(void *arg, const char *data, size_t len)
{
    struct source *s = arg;
    struct watch *w = s->watch;
    CLEANUP(json_freep) struct cJSON *event = NULL;
    struct json_error error;
    buf_reset(&w->line);
    if (w->json) {
        safe_line(&w->line, data, len,
                  w->out.is_ascii); /* valid JSON has nothing to be changed */
        buf_putc(&w->line, '\n');
    } else if (json_parse(data, len, &event, &error) == 0) {
        put_line(&w->line, event, w->out.is_ascii);
    } else {
        complain("%s/%s: an event is no JSON: %s", s->provider, s->name, error.reason);
        return 0;
    }
    if (w->line.err < 0)
        return w->line.err;
    out_put(&w->out, w->line.data, w->line.len);
    return w->out.err;
}

/* ---- one stream ---- */

static int
on_head(void *arg, int status, const char *type)
{
    struct source *s = arg;
    (void)type;
    buf_reset(&s->refusal);
    sse_reset(&s->sse);
    if (status != 200)
        return 0;
    if (s->lost_us != 0)
        say("%s/%s: connected again after %.1f s; what changed in between is not shown\n",
            s->provider, s->name, (double)(clock_mono_us() - s->lost_us) / 1e6);
    s->was_open = true;
    s->lost_us = 0;
    s->tries = 0;
    return 0;
}

static int
on_data(void *arg, const char *bytes, size_t n)
{
    struct source *s = arg;
    if (s->t.status != 200) {
        size_t room = s->refusal.max - s->refusal.len;
        buf_put(&s->refusal, bytes, n < room ? n : room);
        return 0;
    }
    int r = sse_put(&s->sse, bytes, n, show_event, s);
    out_flush(&s->watch->out);
    return r < 0 ? r : s->watch->out.err;
}

static int
start(struct source *s)
{
    request_transfer(&s->request, &s->t);
    s->t.head = on_head;
    s->t.data = on_data;
    s->t.arg = s;
    s->under_way = true;
    return http_start(s->watch->http, &s->t) < 0 ? out_of_memory() : CTL_OK;
}

static void
retry_later(struct source *s, const char *why)
{
    uint64_t now_us = clock_mono_us();
    unsigned wait_s = s->tries < 5 ? 1u << s->tries : RETRY_MAX_S;
    if (s->lost_us == 0) {
        s->lost_us = now_us;
        say("%s/%s: lost (%s); trying to connect again\n", s->provider, s->name, why);
    }
    s->tries++;
    s->retry_us = now_us + wait_s * 1000000ull;
}

static int
refused(struct source *s)
{
    char what[2 * NAME_MAX_LEN + 8];
    bool passes = s->was_open && (s->t.status >= 500 || s->t.status == 429);
    if (passes) {
        retry_later(s, "the device has no stream for us now");
        return CTL_OK;
    }
    (void)snprintf(what, sizeof(what), "%s/%s", s->provider, s->name); /* fits */
    return reply_tell_refusal(what, s->t.status, s->refusal.data, s->refusal.len);
}

/* A stream has ended: CTL_OK when it is to be tried again. */
static int
ended(struct source *s)
{
    struct watch *w = s->watch;
    s->under_way = false;
    if (w->out.err < 0)
        return out_failed(&w->out, w->out.err);
    switch (s->t.result) {
    case HTTP_DONE:
        if (s->t.status != 200)
            return refused(s);
        retry_later(s, "the device ended the stream");
        return CTL_OK;
    case HTTP_CUT:
    case HTTP_UNREACHABLE:
        if (!s->was_open)
            break;
        retry_later(s, s->t.why);
        return CTL_OK;
    case HTTP_STOPPED:
        complain("%s/%s: an event is larger than %d bytes", s->provider, s->name,
                 SSE_EVENT_MAX);
        return CTL_UNREACHABLE;
    case HTTP_UNTRUSTED:
    case HTTP_NO_FILE:
        break;
    }
    return peer_failed(w->peer, &s->t);
}

/* ---- all of them ---- */

/* Starts what is due; ms until the next is, <0 for none. */
static int
start_due(struct watch *w, int64_t *ret_ms)
{
    uint64_t now_us = clock_mono_us();
    *ret_ms = -1;
    for (size_t i = 0; i < w->n; i++) {
        struct source *s = w->sources[i];
        int64_t left_ms = s->retry_us > now_us ? (int64_t)(s->retry_us - now_us) / 1000 + 1 : 0;
        if (s->under_way)
            continue;
        if (left_ms > 0) {
            *ret_ms = *ret_ms < 0 || left_ms < *ret_ms ? left_ms : *ret_ms;
            continue;
        }
        int code = start(s);
        if (code != CTL_OK)
            return code;
    }
    return CTL_OK;
}

/* The requests, checked: nothing is sent before all are right. */
static int
prepare(struct source *s)
{
    const char *interval = s->watch->interval;
    int code = request_value(&s->request, "provider", s->provider);
    if (code == CTL_OK)
        code = request_value(&s->request, "source", s->name);
    if (code == CTL_OK && !s->all)
        code = request_value(&s->request, "tags", buf_text(&s->tags));
    if (code == CTL_OK)
        code = interval != NULL ? request_value(&s->request, "streamInterval", interval)
                                : request_value(&s->request, "onChanged", "true");
    return code == CTL_OK ? request_check(&s->request) : code;
}

int
watch_run(struct watch *w)
{
    int code = CTL_OK;
    for (size_t i = 0; i < w->n && code == CTL_OK; i++)
        code = prepare(w->sources[i]);
    while (code == CTL_OK) {
        int64_t ms;
        code = start_due(w, &ms);
        struct http_transfer *t = code == CTL_OK ? http_wait(w->http, ms) : NULL;
        if (sig_taken() != 0)
            break;
        if (t != NULL)
            code = ended(t->arg);
    }
    out_flush(&w->out);
    if (code == CTL_OK && sig_taken() != SIGINT)
        code = CTL_SIGNAL + sig_taken();
    return code;
}

/* ---- what is followed ---- */

static void
source_free(struct source *s)
{
    request_done(&s->request);
    sse_done(&s->sse);
    buf_done(&s->tags);
    buf_done(&s->refusal);
    free(s);
}

struct watch *
watch_new(const struct peer *peer, const char *interval, bool json)
{
    struct watch *w = calloc(1, sizeof(*w));
    struct http *http = http_new(&peer->http);
    if (w == NULL || http == NULL) {
        http_free(http);
        free(w);
        return NULL;
    }
    w->peer = peer;
    w->interval = interval;
    w->json = json;
    w->http = http;
    out_stdout(&w->out);
    buf_init(&w->line, LINE_MAX_SIZE);
    return w;
}

void
watch_free(struct watch *w)
{
    if (w == NULL)
        return;
    http_free(w->http); /* first: it calls back into the sources */
    for (size_t i = 0; i < w->n; i++)
        source_free(w->sources[i]);
    buf_done(&w->line);
    free(w);
}

/* The one of these names, made when it is not there; NULL: too many, or no memory. */
static struct source *
find_source(struct watch *w, const char *provider, const char *name)
{
    for (size_t i = 0; i < w->n; i++)
        if (str_eq(w->sources[i]->provider, provider) && str_eq(w->sources[i]->name, name))
            return w->sources[i];
    if (w->n == WATCH_SOURCES_MAX) {
        complain("more than %d sources: name those that you want", WATCH_SOURCES_MAX);
        return NULL;
    }
    struct source *s = calloc(1, sizeof(*s));
    if (s == NULL) {
        (void)out_of_memory(); /* the caller ends */
        return NULL;
    }
    s->watch = w;
    (void)str_copy(s->provider, sizeof(s->provider), provider); /* both fit */
    (void)str_copy(s->name, sizeof(s->name), name);
    buf_init(&s->tags, TAGS_SIZE);
    buf_init(&s->refusal, REPLY_REFUSAL_MAX);
    sse_init(&s->sse);
    request_init(&s->request, ops_find("getTagsMonitor"));
    w->sources[w->n++] = s;
    return s;
}

int
watch_add(struct watch *w, const char *what)
{
    char provider[NAME_MAX_LEN + 1], name[NAME_MAX_LEN + 1];
    const char *slash = strchr(what, '/');
    const char *rest = slash != NULL ? slash + 1 : "";
    size_t len = strcspn(rest, "/");
    const char *tag = rest[len] == '/' ? rest + len + 1 : NULL;
    if (len == 0 ||
        str_copy_len(provider, sizeof(provider), what, (size_t)(slash - what)) < 0 ||
        str_copy_len(name, sizeof(name), rest, len) < 0 ||
        (tag != NULL && strpbrk(tag, "/,") != NULL)) {
        complain("%s: it is PROVIDER/SOURCE or PROVIDER/SOURCE/TAG", what);
        return CTL_USAGE;
    }
    struct source *s = find_source(w, provider, name);
    if (s == NULL)
        return CTL_USAGE;
    s->all = s->all || tag == NULL;
    if (tag != NULL && s->tags.len > 0)
        buf_putc(&s->tags, ',');
    if (tag != NULL)
        buf_puts(&s->tags, tag);
    if (buf_text(&s->tags) != NULL)
        return CTL_OK;
    complain("%s: too many tags of one source; follow the source", what);
    return CTL_USAGE;
}

static int
add_rows(struct watch *w, const struct cJSON *rows, size_t *ret_n)
{
    *ret_n = 0;
    for (const struct cJSON *e = cJSON_IsArray(rows) ? rows->child : NULL; e != NULL;
         e = e->next) {
        const char *provider = json_text(json_get(e, "prvdName"));
        const char *name = json_text(json_get(e, "srcName"));
        ++*ret_n;
        if (provider == NULL || name == NULL || strlen(provider) > NAME_MAX_LEN ||
            strlen(name) > NAME_MAX_LEN)
            continue;
        struct source *s = find_source(w, provider, name);
        if (s == NULL)
            return CTL_USAGE;
        s->all = true;
    }
    return CTL_OK;
}

static int
add_page(struct watch *w, size_t from, size_t *ret_n)
{
    char limit[24], offset[24];
    struct request rq;
    struct cJSON *answer = NULL;
    request_init(&rq, ops_find("getTagsList"));
    (void)snprintf(limit, sizeof(limit), "%d", PAGE_ROWS); /* both fit */
    (void)snprintf(offset, sizeof(offset), "%zu", from);
    int code = request_value(&rq, "limit", limit);
    if (code == CTL_OK)
        code = request_value(&rq, "offset", offset);
    if (code == CTL_OK)
        code = ask(w->peer, &rq, &answer);
    if (code == CTL_OK)
        code = add_rows(w, json_get(answer, "data"), ret_n);
    json_free(answer);
    request_done(&rq);
    return code;
}

int
watch_add_all(struct watch *w)
{
    size_t n = 0;
    for (size_t from = 0; from == 0 || n == PAGE_ROWS; from += PAGE_ROWS) {
        int code = add_page(w, from, &n);
        if (code != CTL_OK)
            return code;
    }
    if (w->n > 0)
        return CTL_OK;
    complain("the device has no tags");
    return CTL_REFUSED;
}
