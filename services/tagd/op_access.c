/*
 * GET and PUT /tags/access/…: read and write a tag at its device now. The
 * daemon that owns the tag does it; the answer waits for it.
 *
 * A write changes the world before its audit record can be kept: api_note.
 */
#include <errno.h>
#include <string.h>

#include "gen/api_tagd.h"
#include "libcommon/json.h"
#include "libcommon/str.h"
#include "proto/internal.h"
#include "services/tagd/tagd.h"
#include "libcommon/banned.h"

/* The answer to the client leaves a little before its own deadline. */
enum { ANSWER_MARGIN_US = 100 * 1000, WHY_MAX = 200 };

struct access {
    struct tagd *d;
    struct api_call *call;
    const char *provider, *source, *tag;
    uint8_t type;
    const char *what; /* for the audit record of a write */
    struct buf body;
};

static enum api_status
find_tag(struct tagd *d, struct api_call *call, const char *provider, const char *source,
         const char *name, struct tagview_tag **ret_tag)
{
    if (!tagd_is_ready(d))
        return api_fail(call, API_UNAVAILABLE, NULL, "the tag providers have not answered yet");
    if (provider[0] == '\0' || source[0] == '\0' || name[0] == '\0')
        return api_fail(call, API_INVALID, NULL, "provider, source or tag name is empty");
    struct tagview_tag *t = tagview_find(d->view, provider, source, name);
    if (t != NULL && tagview_tag_is_listed(t)) {
        *ret_tag = t;
        return API_OK;
    }
    if (!tagview_has_provider(d->view, provider))
        return api_fail(call, API_INVALID, "/provider", "invalid provider (%s)", provider);
    return api_fail(call, API_NOT_FOUND, "/tag", "tag not found");
}

/* The reason in an owner's refusal: {"error":{"message":…}} or plain text. */
static void
read_why(const struct bus_reply *r, char out[WHY_MAX])
{
    struct cJSON *tree = NULL;
    struct json_error e;
    const char *text = NULL;
    out[0] = '\0';
    if (r->body.len == 0)
        return;
    if (json_parse(r->body.p, r->body.len, &tree, &e) == 0) {
        const struct cJSON *error = json_get(tree, "error");
        text = json_text(error != NULL && json_text(error) == NULL ? json_get(error, "message")
                                                                   : error);
        if (text == NULL)
            text = json_text(json_get(tree, "message"));
        if (text == NULL)
            text = json_text(tree);
        static const char prefix[] = "invalid input, err: ";
        if (text != NULL && strncmp(text, prefix, sizeof(prefix) - 1) == 0)
            text += sizeof(prefix) - 1;
    }
    if (text != NULL)
        (void)snprintf(out, WHY_MAX, "%s", text); /* cut is fine: it is for a person */
    else if (utf8_valid(r->body.p, r->body.len) && r->body.len < WHY_MAX)
        (void)str_copy_len(out, WHY_MAX, r->body.p, r->body.len); /* fits */
    json_free(tree);
}

static enum api_status
refuse(struct access *a, int error, const struct bus_reply *reply)
{
    if (error == -EHOSTUNREACH)
        return api_fail(a->call, API_UNAVAILABLE, NULL, "the provider %s is not running",
                        a->provider);
    if (error == -ECONNRESET)
        return api_fail(a->call, API_UNAVAILABLE, NULL, "the provider %s stopped meanwhile",
                        a->provider);
    if (error == -ETIMEDOUT)
        return api_fail(a->call, API_TIMEOUT, NULL, "no answer from the device in time");
    if (error < 0 || reply == NULL)
        return api_fail(a->call, API_INTERNAL, NULL, "the answer of %s could not be read",
                        a->provider);
    char why[WHY_MAX];
    read_why(reply, why);
    const char *pointer = reply->status == 400 && a->what != NULL ? "/dataValue" : NULL;
    switch (reply->status) {
    case API_INVALID:
    case API_NOT_FOUND:
    case API_CONFLICT:
    case API_TOO_MANY:
    case API_UNAVAILABLE:
    case API_TIMEOUT:
        return api_fail(a->call, (enum api_status)reply->status, pointer, "%s",
                        why[0] != '\0' ? why : "the device refused");
    default:
        return api_fail(a->call, API_INTERNAL, NULL, "%s",
                        why[0] != '\0' ? why : "the device refused");
    }
}

static int
ask_owner(struct access *a, struct tagview_tag *t, uint32_t op, bus_reply_fn *fn)
{
    struct bus_peer *p = tagview_peer_of(t);
    if (p == NULL)
        return -EHOSTUNREACH;
    struct bus_request rq = {
        .kind = BUS_KIND_INTERNAL,
        .op = op,
        .id = a->call->request->id,
        .deadline_us = a->call->request->deadline_us - ANSWER_MARGIN_US,
        .who = *a->call->who,
        .body_kind = BUS_BODY_BYTES,
        .body = { a->body.data, (uint32_t)a->body.len },
    };
    if (a->body.err != 0)
        return a->body.err;
    int r = bus_call(p, &rq, fn, a);
    return r;
}

static struct access *
access_new(struct tagd *d, struct api_call *call, const struct tagview_tag *t)
{
    struct access *a = api_alloc(call, sizeof(*a));
    if (a == NULL)
        return NULL;
    a->d = d;
    a->call = call;
    a->type = t->type;
    a->provider = api_strdup(call, t->provider);
    a->source = api_strdup(call, t->source);
    a->tag = api_strdup(call, t->name);
    buf_init(&a->body, TAG_BYTES_MAX + 64);
    buf_put_u32(&a->body, t->no);
    return a->provider != NULL && a->source != NULL && a->tag != NULL ? a : NULL;
}

/* ---- read ---- */

static enum api_status
answer_read(struct access *a, const struct bus_reply *reply)
{
    struct rd in;
    struct tag_value v;
    rd_init(&in, reply->body.p, reply->body.len);
    int64_t ts_us = (int64_t)rd_u64(&in);
    uint8_t quality = rd_u8(&in);
    uint8_t aux = rd_u8(&in);
    if (tag_value_decode(&in, &v) < 0 || !rd_ended(&in) || v.type != a->type)
        return refuse(a, -EBADMSG, NULL);
    if (quality == TAG_BAD_EXCEPTION)
        return api_fail(a->call, API_INTERNAL, NULL, "the device refused with exception %u",
                        aux);
    if (quality == TAG_BAD_TIMEOUT || quality == TAG_BAD_CONNECTION)
        return api_fail(a->call, API_TIMEOUT, NULL, "the device does not answer (%s)",
                        tag_quality_text(quality));
    if (!tag_quality_ok(quality))
        return api_fail(a->call, API_INTERNAL, NULL, "the device gave no value (%s)",
                        tag_quality_text(quality));
    struct buf *b = api_reply_buf(a->call);
    jw_open(b, '{');
    jw_kstr(b, "prvdName", a->provider);
    jw_kstr(b, "srcName", a->source);
    jw_kstr(b, "tagName", a->tag);
    char ts[24];
    (void)snprintf(ts, sizeof(ts), "%lld", (long long)(ts_us / 1000)); /* fits */
    jw_kstr(b, "timestamp", ts);
    jw_kstr(b, "dataType", tag_type_text(v.type));
    jw_name(b, "dataValue");
    tag_value_json(b, &v);
    jw_close(b, '}');
    return API_OK;
}

static void
on_read(void *arg, int error, const struct bus_reply *reply)
{
    struct access *a = arg;
    bool ok = error == 0 && reply->status == 200;
    api_finish(a->call, ok ? answer_read(a, reply) : refuse(a, error, reply));
}

enum api_status
tagd_get_tags_access(struct tagd *self, struct api_call *call,
                     const struct tagd_get_tags_access_path *path)
{
    struct tagview_tag *t = NULL;
    enum api_status status = find_tag(self, call, path->provider, path->source, path->tag, &t);
    if (t == NULL)
        return status;
    if (!(t->access & TAG_ACCESS_READ))
        return api_fail(call, API_INVALID, NULL,
                        "wrong access type (w), shoubld be readable (r)");
    struct access *a = access_new(self, call, t);
    if (a == NULL)
        return API_TOO_LARGE;
    int r = ask_owner(a, t, INTERNAL_TAG_READ, on_read);
    buf_done(&a->body);
    return r < 0 ? refuse(a, r, NULL) : API_PENDING;
}

/* ---- write ---- */

/* A device that did not answer may have taken it. The owner may know more. */
static bool
is_unsure(int error, const struct bus_reply *reply)
{
    if (error != 0)
        return error != -EHOSTUNREACH;
    struct cJSON *tree = NULL;
    struct json_error e;
    const char *outcome = NULL;
    if (reply->body.len > 0 && json_parse(reply->body.p, reply->body.len, &tree, &e) == 0)
        outcome = json_text(json_get(json_get(tree, "error"), "outcome"));
    bool unsure = outcome != NULL ? str_eq(outcome, "unknown") : reply->status / 100 != 4;
    json_free(tree);
    return unsure;
}

static void
on_written(void *arg, int error, const struct bus_reply *reply)
{
    struct access *a = arg;
    bool ok = error == 0 && reply->status / 100 == 2;
    if (!ok && is_unsure(error, reply))
        api_note_unsure(a->call);
    api_finish(a->call, ok ? API_OK : refuse(a, error, reply));
}

static enum api_status
read_value(struct api_call *call, const struct tags_access *body, const struct tagview_tag *t,
           struct tag_value *ret_value)
{
    if (body->has_data_type) {
        const struct api_field *f = &call->op->body_desc->fields[0];
        if (!str_eq(f->names[body->data_type], tag_type_text(t->type)))
            return api_fail(call, API_INVALID, "/dataType", "the type of the tag is %s",
                            tag_type_text(t->type));
    }
    struct cJSON *tree = NULL;
    struct json_error e;
    if (body->data_value == NULL ||
        json_parse(body->data_value, strlen(body->data_value), &tree, &e) < 0)
        return api_fail(call, API_INVALID, "/dataValue", "a value is required");
    size_t max = t->size > 0 ? t->size : TAG_BYTES_MAX;
    int r = tag_value_from_json(tree, t->type, max, ret_value);
    json_free(tree);
    if (r == -ERANGE)
        return api_fail(call, API_INVALID, "/dataValue", "the value does not fit into %s",
                        tag_type_text(t->type));
    if (r < 0)
        return api_fail(call, API_INVALID, "/dataValue", "the value is no %s",
                        tag_type_text(t->type));
    return API_OK;
}

/* "write 8 to modbus_tcp_master/pump1/setpoint"; a long text is cut. */
static const char *
describe(struct api_call *call, const struct tagview_tag *t, const struct tag_value *v)
{
    struct buf b;
    buf_init(&b, 6 * TAG_BYTES_MAX + 16);
    tag_value_json(&b, v);
    const char *value = buf_text(&b);
    const char *text = value == NULL ? NULL
                                     : api_printf(call, "write %.64s%s to %s/%s/%s", value,
                                                  strlen(value) > 64 ? "…" : "", t->provider,
                                                  t->source, t->name);
    buf_done(&b);
    return text;
}

enum api_status
tagd_put_tags_access(struct tagd *self, struct api_call *call,
                     const struct tagd_put_tags_access_path *path,
                     const struct tags_access *body)
{
    struct tagview_tag *t = NULL;
    enum api_status status = find_tag(self, call, path->provider, path->source, path->tag, &t);
    if (t == NULL)
        return status;
    if (!(t->access & TAG_ACCESS_WRITE))
        return api_fail(call, API_INVALID, NULL,
                        "wrong access type (r), shoubld be writable (w)");
    struct tag_value v = { 0 };
    status = read_value(call, body, t, &v);
    if (status != API_OK)
        return status;
    struct access *a = access_new(self, call, t);
    if (a != NULL) {
        a->what = describe(call, t, &v);
        tag_value_encode(&a->body, &v);
    }
    tag_value_done(&v);
    if (a == NULL || a->what == NULL)
        return API_TOO_LARGE;
    struct bus_peer *p = tagview_peer_of(t);
    if (p == NULL || !bus_peer_is_up(p)) {
        buf_done(&a->body);
        return refuse(a, -EHOSTUNREACH, NULL);
    }
    status = api_note(call, a->what);
    int r = status == API_OK ? ask_owner(a, t, INTERNAL_TAG_WRITE, on_written) : 0;
    buf_done(&a->body);
    if (status != API_OK)
        return status;
    return r < 0 ? refuse(a, r, NULL) : API_PENDING;
}
