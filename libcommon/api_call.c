/*
 * Runs operations: finds the descriptor, checks the permission again, decodes,
 * calls the handler, commits the change with its audit record, answers.
 *
 * A call goes: begin -> handler -> [pending … api_finish] -> the answer is
 * written -> settle (commit or abort) -> after-commit functions ->
 * [held … api_finish] -> answer -> free. One that noted an effect outside the
 * store is committed after its answer.
 */
#include "libcommon/api.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <string.h>

#include "libcommon/api_private.h"
#include "libcommon/audit.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/metrics.h"
#include "libcommon/spool.h"
#include "libcommon/str.h"
#include "libcommon/svc.h"

#include "libcommon/banned.h"

enum {
    OUT_HEAD = 48, /* room for {"count":…,"data":[ before the items */
    FREE_CALLS_MAX = 64,
    OUT_KEEP = 64 << 10, /* a larger reply buffer is not kept for the next call */
};

struct api_server {
    struct svc *svc;
    const struct api_op **by_id; /* open addressing, power of two */
    size_t mask;
    struct api_call_private *free_calls;
    size_t n_free;
    struct api_streams *streams;
    struct api_pipes *pipes;
    struct api_notes *notes;
    struct api_turns *turns;
};

static struct metric_counter requests_ok = {
    .name = "fieldgate_operations_total", .help = "Operations run", .labels = "outcome=\"ok\""
};
static struct metric_counter requests_refused = {
    .name = "fieldgate_operations_total", .help = "Operations run", .labels = "outcome=\"refused\""
};
static struct metric_counter requests_failed = {
    .name = "fieldgate_operations_total", .help = "Operations run", .labels = "outcome=\"failed\""
};
static struct metric_histogram request_time = {
    .name = "fieldgate_operation_duration_seconds", .help = "From arrival to answer",
};

static const char *
status_text(enum api_status status)
{
#define X(name, http, text) case API_##name: return text;
    switch (status) {
        API_STATUS_TABLE(X)
    }
#undef X
    return "error";
}

/* ---- memory ---- */

static struct api_call_private *
call_new(struct api_server *s)
{
    struct api_call_private *p = s->free_calls;
    if (p) {
        s->free_calls = p->next_free;
        s->n_free--;
        struct api_arena *arena = p->arena;
        struct buf out = p->out;
        memset(p, 0, offsetof(struct api_call_private, parts));
        p->n_parts = 0;
        p->arena = arena;
        p->out = out;
        buf_reset(&p->out);
    } else {
        p = calloc(1, sizeof(*p));
        if (!p)
            return NULL;
        p->arena = api_arena_new(API_ARENA_MAX);
        if (!p->arena) {
            free(p);
            return NULL;
        }
        buf_init(&p->out, API_REPLY_MAX);
    }
    p->call.priv = p;
    p->server = s;
    return p;
}

static void
call_destroy(struct api_call_private *p)
{
    api_arena_free(p->arena);
    buf_done(&p->out);
    free(p);
}

static void
call_free(struct api_call_private *p)
{
    struct api_server *s = p->server;
    json_free(MOVE_PTR(p->tree));
    store_abort(MOVE_PTR(p->wtxn));
    store_abort(MOVE_PTR(p->rtxn));
    if (s->n_free >= FREE_CALLS_MAX) {
        call_destroy(p);
        return;
    }
    api_arena_reset(p->arena);
    if (p->out.cap > OUT_KEEP)
        buf_done(&p->out);
    p->next_free = s->free_calls;
    s->free_calls = p;
    s->n_free++;
}

void *
api_alloc(struct api_call *call, size_t size)
{
    return api_arena_alloc(api_private(call)->arena, size);
}

char *
api_strdup(struct api_call *call, const char *text)
{
    return api_arena_strdup(api_private(call)->arena, text);
}

static char *PRINTF_LIKE(2, 0)
arena_vprintf(struct api_arena *a, const char *fmt, va_list args)
{
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    char *text = n >= 0 ? api_arena_alloc(a, (size_t)n + 1) : NULL;
    if (text)
        (void)vsnprintf(text, (size_t)n + 1, fmt, args); /* measured above */
    return text;
}

char *
api_printf(struct api_call *call, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    char *text = arena_vprintf(api_private(call)->arena, fmt, args);
    va_end(args);
    return text;
}

struct api_arena *
api_call_arena(struct api_call *call)
{
    return api_private(call)->arena;
}

/* ---- refusals ---- */

enum api_status
api_fail(struct api_call *call, enum api_status status, const char *pointer, const char *fmt, ...)
{
    struct api_call_private *p = api_private(call);
    va_list args;
    va_start(args, fmt);
    p->message = arena_vprintf(p->arena, fmt, args);
    va_end(args);
    p->pointer = pointer ? api_arena_strdup(p->arena, pointer) : NULL;
    p->status = status;
    p->detail = p->i18n = NULL;
    p->code = 0;
    return status;
}

void
api_fail_code(struct api_call *call, int code, const char *i18n)
{
    struct api_call_private *p = api_private(call);
    p->code = code;
    p->i18n = i18n ? api_arena_strdup(p->arena, i18n) : NULL;
}

enum api_status
api_fail_errno(struct api_call *call, int error, const char *fmt, ...)
{
    struct api_call_private *p = api_private(call);
    va_list args;
    va_start(args, fmt);
    const char *what = arena_vprintf(p->arena, fmt, args);
    va_end(args);
    if (error == -E2BIG) /* the client's doing, not ours */
        return api_fail(call, API_TOO_LARGE, NULL, "%s: too large", what ? what : "failed");
    enum api_status status = error == -ENOSPC || error == -EDQUOT ? API_NO_SPACE : API_INTERNAL;
    log_err("api: operation failed op=%s what=\"%s\" error=%s", call->op->name,
            what ? what : "?", strerror(-error));
    return api_fail(call, status, NULL, "%s: %s", what ? what : "failed", strerror(-error));
}

/* In the words of the original; what we would say is in "details". */
static enum api_status
fail_as_modbus(struct api_call *call, const struct api_fault *f)
{
    struct api_call_private *p = api_private(call);
    const char *slash = strrchr(f->pointer, '/'), *leaf = slash ? slash + 1 : "body";
    switch (f->kind) {
    case API_FAULT_UNKNOWN:
        (void)api_fail(call, API_INVALID, f->pointer, "No such column: %s", f->message);
        break;
    case API_FAULT_MISSING:
        (void)api_fail(call, API_INVALID, f->pointer, "%s should exist", leaf);
        break;
    case API_FAULT_NOT_INTEGER:
        (void)api_fail(call, API_INVALID, f->pointer, "%s should be an integer.", leaf);
        break;
    case API_FAULT_VALUE:
        (void)api_fail(call, API_INVALID, f->pointer, "Input value failed: %s", f->message);
        break;
    }
    if (f->kind != API_FAULT_UNKNOWN)
        p->detail = api_arena_strdup(p->arena, f->message);
    return API_INVALID;
}

struct api_reason {
    struct api_reason *next;
    uint64_t line, column;
    const char *pointer, *message;
};

bool
api_fail_at(struct api_call *call, const char *pointer, uint64_t line, uint64_t column,
            const char *message)
{
    struct api_call_private *p = api_private(call);
    struct api_reason *r =
        p->n_reasons < API_REASONS_MAX ? api_arena_alloc(p->arena, sizeof(*r)) : NULL;
    if (!r)
        return false;
    *r = (struct api_reason){ .line = line,
                              .column = column,
                              .pointer = api_arena_strdup(p->arena, pointer),
                              .message = message ? api_arena_strdup(p->arena, message)
                                                 : p->message };
    if (!p->reasons)
        p->last_reason = &p->reasons;
    *p->last_reason = r;
    p->last_reason = &r->next;
    p->n_reasons++;
    return true;
}

void
api_take_failure(struct api_call *call, const char **ret_pointer, const char **ret_message)
{
    struct api_call_private *p = api_private(call);
    *ret_pointer = p->pointer;
    *ret_message = p->message ? p->message : "refused";
    p->status = API_PENDING; /* none */
    p->pointer = p->message = NULL;
}

static enum api_status
fail_with_fault(struct api_call *call, const struct api_fault *f)
{
    if (call->op->error_style == API_ERRORS_MODBUS)
        return fail_as_modbus(call, f);
    if (f->kind == API_FAULT_UNKNOWN)
        return api_fail(call, API_INVALID, f->pointer, "unknown member %s", f->message);
    return api_fail(call, API_INVALID, f->pointer, "%s", f->message);
}

/* ---- transactions ---- */

struct store_txn *
api_txn(struct api_call *call)
{
    struct api_call_private *p = api_private(call);
    MUST(!p->committed);
    if (!p->wtxn) {
        int r = store_begin(call->svc->store, &p->wtxn);
        if (r < 0)
            (void)api_fail_errno(call, r, "cannot write"); /* the status is kept in the call */
    }
    return p->wtxn;
}

struct store_txn *
api_view(struct api_call *call)
{
    struct api_call_private *p = api_private(call);
    if (p->wtxn)
        return p->wtxn;
    if (!p->rtxn) {
        int r = store_read(call->svc->store, &p->rtxn);
        if (r < 0)
            (void)api_fail_errno(call, r, "cannot read"); /* the status is kept in the call */
    }
    return p->rtxn;
}

void
api_after_commit(struct api_call *call, void (*fn)(void *self, void *arg), void *arg)
{
    struct api_call_private *p = api_private(call);
    MUST(p->n_after < API_AFTER_MAX);
    p->after[p->n_after].fn = fn;
    p->after[p->n_after++].arg = arg;
}

void
api_on_failure(struct api_call *call, void (*fn)(void *self, void *arg), void *arg)
{
    struct api_call_private *p = api_private(call);
    MUST(!p->on_failure);
    p->on_failure = fn;
    p->on_failure_arg = arg;
}

/* ---- bodies ---- */

enum api_status
api_merge(struct api_call *call, const struct api_desc *desc, void *record)
{
    struct api_call_private *p = api_private(call);
    struct api_fault f;
    int r = p->tree ? api_decode(p->arena, desc, p->tree, API_DECODE_PARTIAL, record, &f) : 0;
    if (r == -EINVAL)
        return fail_with_fault(call, &f);
    return r < 0 ? api_fail_errno(call, r, "cannot decode") : API_OK;
}

bool
api_sent(const struct api_call *call, const char *pointer)
{
    const cJSON *at = api_private(call)->tree;
    while (at && *pointer == '/') {
        const char *end = strchrnul(pointer + 1, '/');
        char name[128];
        if (str_copy_len(name, sizeof(name), pointer + 1, (size_t)(end - pointer - 1)) < 0)
            return false;
        uint32_t index;
        if (cJSON_IsArray(at) && parse_u32(name, 0, INT32_MAX, &index) == 0) {
            at = at->child;
            while (at && index--)
                at = at->next;
        } else {
            at = json_get(at, name);
        }
        pointer = end;
    }
    return at != NULL;
}

/* ---- replies ---- */

static struct buf *
out(struct api_call_private *p)
{
    if (p->out.len == 0)
        (void)buf_reserve(&p->out, OUT_HEAD); /* failure stays in the buf */
    if (p->out.len == 0 && !p->out.err) {
        memset(p->out.data, '[', OUT_HEAD); /* so that the writer puts no comma before the first value */
        p->out.len = OUT_HEAD;
    }
    return &p->out;
}

void
api_item(struct api_call *call, const void *item)
{
    struct api_call_private *p = api_private(call);
    p->n_items++;
    api_encode(out(p), call->op->reply_desc, item, false);
}

struct buf *
api_reply_buf(struct api_call *call)
{
    struct api_call_private *p = api_private(call);
    p->body_kind = BUS_BODY_JSON;
    return out(p);
}

void
api_reply_json(struct api_call *call, const char *json, size_t len)
{
    buf_put(api_reply_buf(call), json, len);
}

void
api_reply_file(struct api_call *call, const char *content_type, const char *spool_name,
               const char *offered_name)
{
    struct api_call_private *p = api_private(call);
    p->body_kind = BUS_BODY_FILE;
    p->content_type = api_strdup(call, content_type);
    p->file_name = api_strdup(call, offered_name);
    p->spool_name = api_strdup(call, spool_name);
}

/* ---- audit ---- */

void
api_audit_message(struct api_call *call, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    api_private(call)->audit_message = arena_vprintf(api_private(call)->arena, fmt, args);
    va_end(args);
}

void
api_audit_detail(struct api_call *call, const char *json, size_t len)
{
    char *text = api_alloc(call, len + 1);
    if (text)
        memcpy(text, json, len);
    api_private(call)->audit_detail = text;
}

void
api_audit_event(struct api_call *call, const char *event)
{
    api_private(call)->audit_event = event;
}

void
api_audit_source(struct api_call *call, const char *name)
{
    api_private(call)->audit_source = api_strdup(call, name);
}

void
api_audit_refusal(struct api_call *call, const char *event, const char *fmt, ...)
{
    struct api_call_private *p = api_private(call);
    va_list args;
    va_start(args, fmt);
    p->refusal_message = arena_vprintf(p->arena, fmt, args);
    va_end(args);
    p->refusal_event = event;
}

void
api_refusal_is_recorded(struct api_call *call)
{
    api_private(call)->refusal_recorded = true;
}

/* {"path":{"id":"3"},"body":{…}}, cut to AUDIT_DETAIL_MAX. */
static const char *
change_detail(struct api_call_private *p)
{
    const struct api_op *op = p->call.op;
    struct buf b;
    buf_init(&b, BUS_MESSAGE_MAX);
    jw_open(&b, '{');
    if (op->path_desc) {
        jw_name(&b, "path");
        jw_open(&b, '{');
        for (size_t i = 0; i < op->path_desc->n_fields && i < p->call.request->n_path; i++) {
            const struct bus_str *v = &p->call.request->path[i];
            jw_name(&b, op->path_desc->fields[i].name);
            jw_strn(&b, v->p, v->len);
        }
        jw_close(&b, '}');
    }
    if (p->tree && op->body_desc) {
        jw_name(&b, "body");
        api_redact(&b, op->body_desc, p->tree);
    }
    jw_close(&b, '}');
    if (!b.err && b.len > AUDIT_DETAIL_MAX) {
        size_t whole = b.len, keep = utf8_cut(b.data, b.len, AUDIT_DETAIL_MAX / 4);
        char *begins = api_arena_alloc(p->arena, keep + 1);
        if (begins)
            memcpy(begins, b.data, keep);
        buf_reset(&b);
        jw_open(&b, '{');
        jw_kbool(&b, "truncated", true);
        jw_ku64(&b, "bytes", whole);
        jw_kstr(&b, "begins", begins);
        jw_close(&b, '}');
    }
    const char *text = buf_text(&b);
    char *copy = text ? api_arena_strdup(p->arena, text) : NULL;
    buf_done(&b);
    return copy ? copy : "{}";
}

static struct audit_record
record_of(struct api_call_private *p, const char *event, const char *message, const char *detail)
{
    return (struct audit_record){
        .event = event,
        .message = message,
        .detail = detail,
        .source = p->audit_source ? p->audit_source : p->call.who->name,
        .addr = p->call.who->addr,
        .request_id = p->call.request->id,
        .at_us = clock_wall_us(),
    };
}

/*
 * Adds the record of the change to the transaction, beginning one where the
 * change had none, and takes its note out. 'more' ends the message.
 */
static int
put_change_record(struct api_call_private *p, const char *more)
{
    struct api_call *call = &p->call;
    if (call->op->audit != API_AUDIT_CHANGE)
        return 0;
    MUST(call->svc->outbox != NULL);
    int r = p->wtxn ? 0 : store_begin(call->svc->store, &p->wtxn);
    if (r < 0)
        return r;
    const char *message = p->audit_message ? p->audit_message : call->op->summary;
    const char *whole = more[0] ? api_printf(call, "%s%s", message, more) : message;
    struct audit_record record =
        record_of(p, p->audit_event ? p->audit_event : call->op->event, whole ? whole : message,
                  p->audit_detail ? p->audit_detail : change_detail(p));
    r = audit_put(call->svc->outbox, p->wtxn, &record);
    return r < 0 ? r : api_note_del(p);
}

static void
keep_refusal_record(struct api_call_private *p)
{
    if (!p->refusal_event || !p->call.svc->outbox)
        return;
    struct audit_record record =
        record_of(p, p->refusal_event, p->refusal_message ? p->refusal_message : "refused", "");
    int r = audit_event(p->call.svc->outbox, &record);
    if (r < 0)
        log_err("api: cannot record a refusal op=%s error=%s", p->call.op->name, strerror(-r));
    else
        p->refusal_recorded = true;
}

/* ---- the end of a call ---- */

static void
write_reason(struct buf *b, const struct api_reason *r)
{
    jw_open(b, '{');
    jw_kstr(b, "pointer", r->pointer);
    if (r->line)
        jw_ku64(b, "line", r->line);
    if (r->column)
        jw_ku64(b, "column", r->column);
    jw_kstr(b, "message", r->message);
    jw_close(b, '}');
}

static void
write_reasons(struct api_call_private *p)
{
    const struct api_reason one = { .pointer = p->pointer,
                                    .message = p->detail ? p->detail : p->message };
    const struct api_reason *r = p->reasons;
    if (!r && p->pointer && p->pointer[0])
        r = &one;
    if (!r)
        return;
    jw_name(&p->out, "details");
    jw_open(&p->out, '[');
    for (; r; r = r->next)
        write_reason(&p->out, r);
    jw_close(&p->out, ']');
}

static void
write_error(struct api_call_private *p, enum api_status status)
{
    struct buf *b = &p->out;
    buf_reset(b);
    p->begin = OUT_HEAD;
    (void)out(p); /* failure stays in the buf */
    const char *text = p->message && p->status == status ? p->message : status_text(status);
    bool ours = p->message && p->status == status;
    bool plain = p->call.op == NULL || p->call.op->error_style == API_ERRORS_PLAIN;
    buf_puts(b, "{\"error\":{");
    if (plain || (ours && p->code))
        jw_ki64(b, "code", plain ? (int)status : p->code);
    if (status == API_INVALID && plain && text != status_text(status)) {
        char *prefixed = api_printf(&p->call, "invalid input, err: %s", text);
        text = prefixed ? prefixed : text;
    }
    jw_kstr(b, "message", text);
    if (ours)
        write_reasons(p);
    if (ours && p->i18n) {
        buf_puts(b, ",\"i18n\":");
        buf_puts(b, p->i18n);
    }
    buf_puts(b, "}}");
}

/* Writes the body of a success, which begins at p->begin in p->out. */
static void
write_success(struct api_call_private *p)
{
    const struct api_op *op = p->call.op;
    struct buf *b = out(p);
    char head[OUT_HEAD];
    int n = 0;
    switch ((enum api_reply_kind)op->reply_kind) {
    case API_REPLY_DATA:
        buf_puts(b, "{\"data\":");
        api_encode(b, op->reply_desc, p->call.reply, false);
        buf_putc(b, '}');
        break;
    case API_REPLY_BARE:
        api_encode(b, op->reply_desc, p->call.reply, false);
        break;
    case API_REPLY_LIST:
        n = snprintf(head, sizeof(head), "{\"count\":%zu,\"data\":[", p->n_items);
        break;
    case API_REPLY_ITEMS:
        n = snprintf(head, sizeof(head), "{\"data\":[");
        break;
    case API_REPLY_EMPTY:
    case API_REPLY_OWN:
        break;
    }
    p->begin = OUT_HEAD - (size_t)n;
    if (n > 0 && !b->err) {
        memcpy(b->data + p->begin, head, (size_t)n);
        buf_puts(b, "]}");
    }
}

/* Before the commit: nothing may be kept that could then not be answered. */
static enum api_status
make_success(struct api_call_private *p, enum api_status status)
{
    bool is_file = p->body_kind == BUS_BODY_FILE || p->body_kind == BUS_BODY_PIPE;
    write_success(p);
    if (p->out.err == -E2BIG)
        return api_fail(&p->call, API_TOO_LARGE, NULL, "the answer is too large: ask for less");
    if (p->out.err || (is_file && (!p->spool_name || !p->file_name)))
        return api_fail(&p->call, API_UNAVAILABLE, NULL, "out of memory");
    enum api_reply_kind kind = (enum api_reply_kind)p->call.op->reply_kind;
    if (kind == API_REPLY_OWN ? p->body_kind != BUS_BODY_JSON : kind == API_REPLY_EMPTY)
        return status;
    status = api_spool_reply(p, p->out.data + p->begin, p->out.len - p->begin, status);
    if (p->spool_name) /* megabytes, maybe: given back here rather than on the loop */
        buf_done(&p->out);
    return status;
}

static void
count_outcome(const struct api_call_private *p, enum api_status status)
{
    metric_add((int)status < 400   ? &requests_ok
               : (int)status < 500 ? &requests_refused
                                   : &requests_failed,
               1);
    metric_observe(&request_time, clock_mono_us() - p->began_us);
}

/* A refusal carries neither a stream nor a file or pipe that the handler had given it. */
static void
drop_own_reply(struct api_call_private *p)
{
    if (p->stream_id)
        api_streams_drop(p->server->streams, p->stream_id);
    if (p->spool_name)
        spool_remove(p->call.svc->spool_dir, p->spool_name, strlen(p->spool_name));
}

/* What was noted is done; its note has become the record, or 'r' says why it could not. */
static void
end_note(struct api_call_private *p, int r)
{
    if (r < 0)
        log_err("api: a record must wait op=%s error=%s", p->call.op->name, strerror(-r));
    else
        audit_kick(p->call.svc->outbox);
    api_note_done(p, r == 0);
}

static void
answer(struct api_call_private *p, enum api_status status)
{
    struct bus_reply reply = { .id = p->call.request->id };
    bool ok = (int)status < 400;
    /* The receiver removes a passed file, also when it refuses before reading it. */
    if (p->call.request->body_kind == BUS_BODY_FILE)
        spool_remove(p->call.svc->spool_dir, p->call.request->body.p, p->call.request->body.len);
    if (ok && p->call.op->reply_kind == API_REPLY_OWN)
        reply.body_kind = p->body_kind;
    else if (ok && p->call.op->reply_kind != API_REPLY_EMPTY)
        reply.body_kind = p->spool_name ? BUS_BODY_FILE : BUS_BODY_JSON;
    if (!ok) {
        drop_own_reply(p);
        write_error(p, status);
        reply.body_kind = p->out.err ? BUS_BODY_NONE : BUS_BODY_JSON;
        reply.recorded = p->refusal_recorded;
        reply.retry_after_s = status == API_UNAVAILABLE || status == API_TOO_MANY ? 1 : 0;
    }
    reply.status = (uint16_t)status;
    if (p->content_type && ok)
        reply.content_type = (struct bus_str){ p->content_type, (uint32_t)strlen(p->content_type) };
    uint8_t stream_id[8];
    if (reply.body_kind == BUS_BODY_FILE || reply.body_kind == BUS_BODY_PIPE) {
        reply.body = (struct bus_str){ p->spool_name, (uint32_t)strlen(p->spool_name) };
        reply.file_name = (struct bus_str){ p->file_name, (uint32_t)strlen(p->file_name) };
    } else if (reply.body_kind == BUS_BODY_STREAM) {
        put_u64(stream_id, p->stream_id);
        reply.body = (struct bus_str){ (const char *)stream_id, sizeof(stream_id) };
    } else if (reply.body_kind != BUS_BODY_NONE && !p->out.err) {
        reply.body = (struct bus_str){ p->out.data + p->begin, (uint32_t)(p->out.len - p->begin) };
    }
    count_outcome(p, status);
    bus_answer(MOVE_PTR(p->in), &reply);
    if (p->wtxn) /* the record of what was noted: see settle */
        end_note(p, store_commit(MOVE_PTR(p->wtxn)));
    call_free(p);
}

/* Nothing happened, or perhaps the effect that was noted. */
static void
settle_refused(struct api_call_private *p)
{
    keep_refusal_record(p);
    if (!p->note)
        return;
    int r;
    if (p->note_unsure) {
        r = put_change_record(p, ": outcome unknown");
    } else {
        r = store_begin(p->call.svc->store, &p->wtxn);
        if (r == 0)
            r = api_note_del(p);
    }
    if (r == 0)
        r = store_commit(MOVE_PTR(p->wtxn));
    store_abort(MOVE_PTR(p->wtxn));
    if (r < 0)
        log_err("api: cannot settle a note op=%s error=%s", p->call.op->name, strerror(-r));
    else
        audit_kick(p->call.svc->outbox);
    api_note_done(p, r == 0);
}

/* Commits or takes back; returns what the client is told. In the thread that has the call. */
static enum api_status
settle(struct api_call_private *p, enum api_status status)
{
    store_abort(MOVE_PTR(p->rtxn));
    if ((int)status >= 400) {
        store_abort(MOVE_PTR(p->wtxn));
        return status;
    }
    int r = put_change_record(p, "");
    if (r < 0)
        store_abort(MOVE_PTR(p->wtxn));
    p->committed = true;
    if (p->note) { /* it is done, and its note durable: the client need not wait for the rest */
        MUST(!p->call.op->worker && !p->held && p->n_after == 0);
        if (r < 0)
            end_note(p, r);
        return status;
    }
    if (r == 0 && !p->wtxn)
        return status;
    if (r == 0)
        r = store_commit(MOVE_PTR(p->wtxn));
    if (r < 0)
        return api_fail_errno(&p->call, r, "cannot save");
    p->has_written = true;
    return status;
}

/* What the handler returned becomes what the client is told. In the thread that has the call. */
static enum api_status
conclude(struct api_call_private *p, enum api_status status)
{
    /* A handler that returned API_OK after api_fail (a NULL api_txn, say) has failed. */
    if ((int)status < 400 && p->status != API_PENDING)
        status = p->status;
    if ((int)status < 400) {
        status = make_success(p, status);
        p->note_unsure |= (int)status >= 400; /* what was noted has happened */
    }
    return settle(p, status);
}

void
api_call_deliver(struct api_call_private *p, enum api_status status)
{
    if (p->has_written && p->call.svc->outbox)
        audit_kick(p->call.svc->outbox);
    if ((int)status >= 400 && !p->committed)
        settle_refused(p);
    if ((int)status >= 400 && p->on_failure)
        p->on_failure(p->call.svc->self, p->on_failure_arg);
    if ((int)status < 400) {
        if (status == API_OK)
            status = (enum api_status)p->call.op->success;
        p->in_after = true;
        for (unsigned i = 0; i < p->n_after; i++)
            p->after[i].fn(p->call.svc->self, p->after[i].arg);
        p->in_after = false;
        if (p->finished)
            status = p->final;
        store_abort(MOVE_PTR(p->rtxn)); /* one that an after-commit function opened */
        if (p->held)
            return;
    }
    answer(p, status);
}

static void
complete(struct api_call_private *p, enum api_status status)
{
    if (status == API_PENDING) {
        MUST(p->call.op->defer && !p->wtxn);
        store_abort(MOVE_PTR(p->rtxn));
        p->pending = true;
        return;
    }
    api_call_deliver(p, conclude(p, status));
}

void
api_call_run(struct api_call_private *p)
{
    complete(p, p->call.op->fn(p->call.svc->self, &p->call));
}

void
api_call_resume(struct api_call_private *p)
{
    p->resumed = false;
    complete(p, p->final);
}

void
api_hold(struct api_call *call)
{
    api_private(call)->held = true;
}

void
api_finish(struct api_call *call, enum api_status status)
{
    struct api_call_private *p = api_private(call);
    MUST(p->pending || p->held);
    if (p->held && status == API_OK)
        status = (enum api_status)call->op->success;
    if (p->in_after) { /* the functions after this one still need the call */
        p->held = false;
        p->finished = true;
        p->final = status;
        return;
    }
    log_set_request(call->request->id);
    if (p->held) {
        p->held = false;
        answer(p, status);
    } else {
        p->pending = false;
        p->resumed = true;
        p->final = status;
        if (!api_turns_take(p->server->turns, p))
            api_call_resume(p);
    }
    log_set_request(0);
}

/* ---- the beginning of a call ---- */

static const struct api_op *
find_op(const struct api_server *s, uint32_t id)
{
    for (size_t i = id & s->mask; s->by_id[i]; i = (i + 1) & s->mask)
        if (s->by_id[i]->id == id)
            return s->by_id[i];
    return NULL;
}

bool
api_permits(uint8_t permission, const struct bus_principal *who)
{
    if (permission == API_PERMISSION_OPEN)
        return true;
    if (who->kind == BUS_WHO_NOBODY)
        return false;
    if (permission == API_PERMISSION_SESSION)
        return who->kind == BUS_WHO_USER && who->session_id != 0;
    return permission == API_PERMISSION_TOKEN || permission == API_PERMISSION_SELF ||
           (who->permissions >> permission & 1) != 0;
}

static enum api_status
check_permission(struct api_call *call)
{
    if (api_permits(call->op->permission, call->who))
        return API_OK;
    if (call->who->kind == BUS_WHO_NOBODY)
        return api_fail(call, API_UNAUTHENTICATED, NULL, "authentication required");
    return api_fail(call, API_FORBIDDEN, NULL, "permission denied");
}

static enum api_status
decode_values(struct api_call *call, const struct api_desc *desc, const struct bus_str *names,
              const struct bus_str *values, size_t n, const void **ret)
{
    if (!desc)
        return API_OK;
    void *out_struct = api_alloc(call, desc->size);
    if (!out_struct)
        return api_fail(call, API_TOO_LARGE, NULL, "request too large");
    struct api_fault f;
    int r = api_decode_values(api_private(call)->arena, desc, names, values, n, out_struct, &f);
    *ret = out_struct;
    if (r == -EINVAL)
        return fail_with_fault(call, &f);
    return r < 0 ? api_fail_errno(call, r, "cannot decode") : API_OK;
}

static const struct api_field *
field_named(const struct api_desc *desc, const char *name)
{
    for (size_t i = 0; i < desc->n_fields; i++)
        if (str_eq(desc->fields[i].name, name))
            return &desc->fields[i];
    return NULL;
}

enum api_status
api_form_decode(struct api_call *call, const struct api_desc *desc, const char *file,
                void *ret_struct)
{
    struct api_call_private *p = api_private(call);
    struct bus_str names[API_FORM_PARTS_MAX], values[API_FORM_PARTS_MAX];
    struct api_fault f = { .kind = API_FAULT_UNKNOWN };
    size_t n = 0;
    for (size_t i = 0; i < p->n_parts; i++) {
        const struct api_form_entry *part = &p->parts[i];
        const struct api_field *field = field_named(desc, part->name);
        if (!field && !str_eq(part->name, file)) {
            (void)snprintf(f.pointer, sizeof(f.pointer), "/%.100s", part->name); /* both fit */
            (void)snprintf(f.message, sizeof(f.message), "%.100s", part->name);
            return fail_with_fault(call, &f);
        }
        if (!field || field->flags & API_F_READ_ONLY) /* as in a JSON body */
            continue;
        names[n] = (struct bus_str){ part->name, (uint32_t)strlen(part->name) };
        values[n++] = (struct bus_str){ part->bytes, (uint32_t)part->n };
    }
    int r = api_decode_values(p->arena, desc, names, values, n, ret_struct, &f);
    if (r == -EINVAL)
        return fail_with_fault(call, &f);
    return r < 0 ? api_fail_errno(call, r, "cannot decode") : API_OK;
}

static enum api_status
decode_many(struct api_call *call, const cJSON *list)
{
    struct api_call_private *p = api_private(call);
    const struct api_desc *desc = call->op->body_desc;
    size_t n = 0, i = 0;
    for (const cJSON *e = list->child; e; e = e->next)
        n++;
    if (n == 0)
        return api_fail(call, API_INVALID, "", "the list is empty");
    struct api_fault f = { 0 };
    if (n > call->op->items_max) {
        (void)snprintf(f.message, sizeof(f.message), "at most %u elements at once",
                       call->op->items_max); /* fits */
        return fail_with_fault(call, &f);
    }
    char *all = api_alloc(call, n * desc->size);
    if (!all)
        return api_fail(call, API_TOO_LARGE, NULL, "request too large");
    for (const cJSON *e = list->child; e; e = e->next, i++) {
        int r = api_decode_item(p->arena, desc, e, i, all + i * desc->size, &f);
        if (r == -EINVAL)
            return fail_with_fault(call, &f);
        if (r < 0)
            return api_fail_errno(call, r, "cannot decode");
    }
    call->body = all;
    call->n_body = n;
    return API_OK;
}

static enum api_status
load_form(struct api_call *call)
{
    int r = api_form_load(api_private(call));
    if (r == -EINVAL || r == -E2BIG)
        return api_fail(call, API_INVALID, NULL, "the form cannot be read");
    return r < 0 ? api_fail_errno(call, r, "cannot read the form") : API_OK;
}

static enum api_status
decode_body(struct api_call *call)
{
    struct api_call_private *p = api_private(call);
    const struct api_op *op = call->op;
    const struct bus_request *rq = call->request;
    if (op->form && rq->body_kind == BUS_BODY_FILE)
        return op->worker ? API_OK : load_form(call); /* there, because it may be large */
    if (!op->body_desc)
        return API_OK;
    if (op->optional && (rq->body_kind == BUS_BODY_NONE || rq->body.len == 0))
        return API_OK;
    if (rq->body_kind != BUS_BODY_JSON)
        return api_fail(call, API_INVALID, "", "a JSON body is required");
    struct json_error e;
    int r = json_parse(rq->body.p, rq->body.len, &p->tree, &e);
    if (r == -ENOMEM)
        return api_fail_errno(call, r, "cannot decode");
    if (r < 0)
        return api_fail(call, API_INVALID, "", "no valid JSON at byte %zu: %s", e.at, e.reason);
    if (op->many && cJSON_IsArray(p->tree))
        return decode_many(call, p->tree);
    void *body = api_alloc(call, op->body_desc->size);
    if (!body)
        return api_fail(call, API_TOO_LARGE, NULL, "request too large");
    struct api_fault f;
    r = api_decode(p->arena, op->body_desc, p->tree,
                   op->partial ? API_DECODE_PARTIAL : API_DECODE_REQUEST, body, &f);
    call->body = body;
    call->n_body = 1;
    if (r == -EINVAL)
        return fail_with_fault(call, &f);
    return r < 0 ? api_fail_errno(call, r, "cannot decode") : API_OK;
}

static enum api_status
prepare(struct api_call *call)
{
    const struct bus_request *rq = call->request;
    enum api_status status = check_permission(call);
    if (status == API_OK)
        status = decode_values(call, call->op->path_desc, NULL, rq->path, rq->n_path, &call->path);
    if (status == API_OK)
        status = decode_values(call, call->op->query_desc, rq->query_name, rq->query_value,
                               rq->n_query, &call->query);
    if (status == API_OK)
        status = decode_body(call);
    if (status == API_OK && call->op->reply_desc) {
        call->reply = api_alloc(call, call->op->reply_desc->size);
        if (!call->reply)
            return api_fail(call, API_TOO_LARGE, NULL, "request too large");
    }
    return status;
}

static void
answer_plain(struct bus_incoming *in, uint16_t status, const char *text)
{
    char body[160];
    int n = snprintf(body, sizeof(body), "{\"error\":{\"code\":%u,\"message\":\"%s\"}}", status, text);
    struct bus_reply reply = { .id = bus_incoming_request(in)->id,
                               .status = status,
                               .body_kind = BUS_BODY_JSON,
                               .body = { body, (uint32_t)n } };
    bus_answer(in, &reply);
}

void
api_serve(struct api_server *s, struct bus_incoming *in)
{
    const struct bus_request *rq = bus_incoming_request(in);
    if (rq->kind != BUS_KIND_API) {
        api_streams_serve(s->streams, in);
        return;
    }
    const struct api_op *op = find_op(s, rq->op);
    if (!op) {
        answer_plain(in, API_NOT_FOUND, "operation not found");
        return;
    }
    struct api_call_private *p = call_new(s);
    if (!p) {
        answer_plain(in, API_UNAVAILABLE, "out of memory");
        return;
    }
    p->in = in;
    p->began_us = clock_mono_us();
    p->call.op = op;
    p->call.svc = s->svc;
    p->call.request = rq;
    p->call.who = &rq->who;
    log_set_request(rq->id);
    enum api_status status = prepare(&p->call);
    if (status != API_OK)
        complete(p, status);
    else if (!api_turns_take(s->turns, p))
        api_call_run(p);
    log_set_request(0);
}

enum api_status
api_call_work(struct api_call_private *p)
{
    const struct api_op *op = p->call.op;
    bool has_form = op->form && p->call.request->body_kind == BUS_BODY_FILE;
    enum api_status status = has_form ? load_form(&p->call) : API_OK;
    if (status == API_OK)
        status = op->fn(p->call.svc->self, &p->call);
    MUST(status != API_PENDING);
    return conclude(p, status);
}

int
api_server_new(struct svc *svc, const struct api_op *ops, size_t n_ops,
               struct api_server **ret_server)
{
    struct api_server *s = calloc(1, sizeof(*s));
    size_t size = 16;
    while (size < n_ops * 2)
        size *= 2;
    if (s)
        /* NOLINTNEXTLINE(bugprone-sizeof-expression): its elements are pointers */
        s->by_id = calloc(size, sizeof(*s->by_id));
    if (s)
        s->streams = api_streams_new(svc);
    if (s)
        s->pipes = api_pipes_new(svc);
    if (s)
        s->turns = api_turns_new(svc);
    if (!s || !s->by_id || !s->streams || !s->pipes || !s->turns || api_notes_new(svc, &s->notes) < 0) {
        api_server_free(s);
        return -ENOMEM;
    }
    s->mask = size - 1;
    s->svc = svc;
    for (size_t i = 0; i < n_ops; i++) {
        size_t at = ops[i].id & s->mask;
        while (s->by_id[at])
            at = (at + 1) & s->mask;
        s->by_id[at] = &ops[i];
    }
    metric_register(&requests_ok);
    metric_register(&requests_refused);
    metric_register(&requests_failed);
    metric_histogram_register(&request_time);
    *ret_server = s;
    return 0;
}

void
api_server_stop(struct api_server *s)
{
    if (!s)
        return;
    api_turns_stop(s->turns);
    api_streams_stop(s->streams);
    api_pipes_stop(s->pipes);
}

void
api_server_free(struct api_server *s)
{
    if (!s)
        return;
    api_turns_free(s->turns);
    while (s->free_calls) {
        struct api_call_private *p = s->free_calls;
        s->free_calls = p->next_free;
        call_destroy(p);
    }
    api_streams_free(s->streams);
    api_pipes_free(s->pipes);
    api_notes_free(s->notes);
    free(s->by_id);
    free(s);
}

struct api_streams *
api_server_streams(struct api_server *s)
{
    return s->streams;
}

struct api_pipes *
api_server_pipes(struct api_server *s)
{
    return s->pipes;
}

struct api_notes *
api_server_notes(struct api_server *s)
{
    return s->notes;
}

void
api_server_settle(struct api_server *s)
{
    api_notes_settle(s->notes);
}
