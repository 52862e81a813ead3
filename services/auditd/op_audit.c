/*
 * What clients see of the trail.
 */
#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "services/auditd/auditd.h"

#include "libcommon/banned.h"

enum {
    FOLLOW_BACKLOG_MAX = 1 << 20, /* bytes a slow follower may be behind */
    FOLLOW_ARENA_MAX = 64 << 10,
    BLOCK_MAX = 64 << 10,
    SIZE_MB_MIN = 10,
};

/* ---- rows ---- */

static void
put_text(struct buf *b, const char *name, struct trail_text t)
{
    jw_name(b, name);
    jw_strn(b, t.p, t.len);
}

void
auditd_put_row(struct buf *b, const struct trail_record *r)
{
    const struct trail_event *event = trail_event_of(r);
    char at[CLOCK_TEXT_SIZE], id[TRAIL_REQUEST_ID_SIZE];
    clock_format(r->at_us, 9, at);
    trail_request_id(r, id);
    jw_open(b, '{');
    jw_ku64(b, "id", r->id);
    jw_kstr(b, "eventId", event->id);
    jw_kstr(b, "category", event->category);
    put_text(b, "name", trail_name(r));
    jw_kstr(b, "severity", event->severity);
    put_text(b, "message", r->message);
    put_text(b, "detail", r->detail);
    put_text(b, "source", r->source);
    put_text(b, "sourceIp", r->addr);
    put_text(b, "daemon", r->daemon);
    jw_kstr(b, "requestId", id);
    jw_kstr(b, "createdAt", at);
    jw_close(b, '}');
}

/* ---- following ---- */

static void
follower_free(struct follower *f)
{
    trail_filter_done(&f->filter);
    api_arena_free(f->arena);
    free(f);
}

static void
follower_closed(void *arg)
{
    struct follower *f = arg;
    for (struct follower **p = &f->a->followers; *p; p = &(*p)->next)
        if (*p == f) {
            *p = f->next;
            f->a->n_followers--;
            break;
        }
    follower_free(f);
}

static int
copy_words(struct api_arena *arena, struct trail_words *words)
{
    if (words->n == 0)
        return 0;
    const char **copy = api_arena_alloc(arena, words->n * sizeof(*copy));
    if (!copy)
        return -ENOMEM;
    for (size_t i = 0; i < words->n; i++) {
        copy[i] = api_arena_strdup(arena, words->words[i]);
        if (!copy[i])
            return -ENOMEM;
    }
    words->words = copy;
    return 0;
}

int
auditd_copy_filter(struct api_arena *arena, const struct trail_filter *words,
                   struct trail_filter *ret_filter)
{
    *ret_filter = *words;
    if (copy_words(arena, &ret_filter->categories) < 0 ||
        copy_words(arena, &ret_filter->names) < 0 ||
        copy_words(arena, &ret_filter->severities) < 0 ||
        copy_words(arena, &ret_filter->sources) < 0 ||
        copy_words(arena, &ret_filter->messages) < 0)
        return -ENOMEM;
    return trail_filter_prepare(ret_filter);
}

static struct follower *
follower_new(struct auditd *a, const struct trail_filter *words)
{
    struct follower *f = calloc(1, sizeof(*f));
    if (!f)
        return NULL;
    f->a = a;
    f->arena = api_arena_new(FOLLOW_ARENA_MAX);
    if (!f->arena || auditd_copy_filter(f->arena, words, &f->filter) < 0) {
        follower_free(f);
        return NULL;
    }
    return f;
}

static enum api_status
follow(struct auditd *a, struct api_call *call, const struct trail_filter *words)
{
    static const char hello[] = ": connected\n\n";
    if (a->n_followers == FOLLOWERS_MAX)
        return api_fail(call, API_UNAVAILABLE, NULL, "too many clients follow the audit log");
    struct follower *f = follower_new(a, words);
    if (!f)
        return api_fail_errno(call, -ENOMEM, "cannot follow");
    f->stream = api_stream_open(call, FOLLOW_BACKLOG_MAX, follower_closed, f);
    if (!f->stream) {
        follower_free(f);
        return API_UNAVAILABLE;
    }
    f->next = a->followers;
    a->followers = f;
    a->n_followers++;
    api_stream_send(f->stream, hello, sizeof(hello) - 1);
    return API_OK;
}

void
auditd_tell_followers(struct auditd *a, const struct trail_record *r)
{
    struct buf b;
    buf_init(&b, BLOCK_MAX);
    buf_printf(&b, "id:%llu\nevent:message\ndata:", (unsigned long long)r->id);
    auditd_put_row(&b, r);
    buf_puts(&b, "\n\n");
    struct follower *next;
    for (struct follower *f = a->followers; f && !b.err; f = next) {
        next = f->next; /* a stream may end while it is sent to */
        if (trail_filter_passes(&f->filter, r))
            api_stream_send(f->stream, b.data, b.len);
    }
    if (b.err)
        log_err("auditd: record too large to be followed id=%llu", (unsigned long long)r->id);
    buf_done(&b);
}

/* ---- queries ---- */

enum api_status
auditd_get_audits(struct auditd *self, struct api_call *call,
                  const struct auditd_get_audits_query *query)
{
    struct trail_filter filter = {
        .categories = { query->categories, query->n_categories },
        .names = { query->names, query->n_names },
        .severities = { query->severities, query->n_severities },
        .sources = { query->sources, query->n_sources },
        .messages = { query->messages, query->n_messages },
    };
    if (query->monitor && query->download)
        return api_fail(call, API_INVALID, "/download",
                        "download and monitor exclude each other");
    if (query->monitor)
        return follow(self, call, &filter);
    if (query->download)
        return auditd_download(self, call, query, &filter);
    return auditd_page(self, call, query, &filter);
}

/* ---- records of clients ---- */

/*
 * Only events of their own may be recorded by clients: a record of ours must
 * be ours. Who it was is what the gateway says; the body's source is a detail.
 */
enum api_status
auditd_post_audits(struct auditd *self, struct api_call *call, const struct audit_post *body)
{
    (void)self;
    if (strlen(body->message) > TRAIL_MESSAGE_MAX)
        return api_fail(call, API_INVALID, "/message", "message takes more than %d bytes",
                        TRAIL_MESSAGE_MAX);
    struct buf detail;
    buf_init(&detail, TRAIL_DETAIL_MAX);
    jw_open(&detail, '{');
    jw_kstr(&detail, "source", body->source);
    jw_close(&detail, '}');
    int r = detail.err;
    if (r == 0) {
        api_audit_event(call, body->audit_id == AUDIT_POST_AUDIT_ID_MT31 ? "applicationAlert"
                                                                         : "applicationEvent");
        api_audit_message(call, "%s", body->message);
        api_audit_detail(call, detail.data, detail.len);
    }
    buf_done(&detail);
    return r < 0 ? api_fail_errno(call, r, "cannot record") : API_OK;
}

/* ---- settings ---- */

int64_t
auditd_max_size_mb(const struct auditd *a)
{
    struct statvfs fs;
    if (statvfs(a->svc->state_dir, &fs) < 0)
        return SIZE_MB_MIN;
    int64_t half = (int64_t)((uint64_t)fs.f_blocks * fs.f_frsize / 2 >> 20);
    return half < SIZE_MB_MIN ? SIZE_MB_MIN : half;
}

enum api_status
auditd_get_audits_configuration(struct auditd *self, struct api_call *call,
                                struct audit_setting *reply)
{
    (void)call;
    *reply = self->setting;
    reply->max_size_mb = auditd_max_size_mb(self);
    return API_OK;
}

static void
setting_committed(void *self, void *arg)
{
    struct auditd *a = self;
    a->setting = *(const struct audit_setting *)arg;
    auditd_trim_soon(a);
}

enum api_status
auditd_put_audits_configuration(struct auditd *self, struct api_call *call,
                                struct audit_setting *reply)
{
    *reply = self->setting;
    enum api_status status = api_merge(call, &audit_setting_desc, reply);
    if (status != API_OK)
        return status;
    reply->max_size_mb = auditd_max_size_mb(self);
    if (reply->desired_disk_cache_size_mb > reply->max_size_mb)
        return api_fail(call, API_INVALID, "/desiredDiskCacheSizeMB",
                        "desiredDiskCacheSizeMB must not exceed maxSizeMB, %lld",
                        (long long)reply->max_size_mb);
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    int r = api_store_put(txn, TRAIL_DB_CONFIG, "setting", strlen("setting"),
                          &audit_setting_desc, reply);
    if (r < 0)
        return api_fail_errno(call, r, "cannot save");
    api_after_commit(call, setting_committed, reply);
    return API_OK;
}

enum api_status
auditd_get_audits_profile(struct auditd *self, struct api_call *call,
                          struct audit_profile *reply)
{
    (void)self;
    static const char *severities[] = { "notice", "alert" };
    reply->severities = severities;
    reply->n_severities = ARRAY_LEN(severities);
    reply->events = api_alloc(call, trail_n_events * sizeof(*reply->events));
    reply->names = api_alloc(call, trail_n_events * sizeof(*reply->names));
    if (!reply->events || !reply->names)
        return API_TOO_LARGE;
    for (size_t i = 0; i < trail_n_events; i++) {
        const struct trail_event *e = &trail_events[i];
        reply->events[i] =
            (struct audit_profile_event){ e->id, e->name, e->category, e->severity };
        reply->names[i] = e->name;
    }
    reply->n_events = reply->n_names = trail_n_events;
    return API_OK;
}
