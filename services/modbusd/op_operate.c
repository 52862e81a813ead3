/* One tag read or written now: for REST clients, and for the tag hub over the bus. */
#include "services/modbusd/op.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/modbusd/sl_engine.h"
#include "services/modbusd/sl_hub.h"
#include "libcommon/banned.h"

/* Left of a request's time for the answer to travel. */
enum { ANSWER_MARGIN_US = 50000 };

static uint64_t
deadline_of(const struct bus_request *rq)
{
    return rq->deadline_us > ANSWER_MARGIN_US ? rq->deadline_us - ANSWER_MARGIN_US : 0;
}

/* ---- REST ---- */

/* 400 for everything that is not plainly "no such tag": so does the original. */
static enum api_status
refuse(struct api_call *call, const struct mb_direct_result *r)
{
    char room[120];
    const char *text = mb_direct_text(r, room, sizeof(room));
    if (r->status == MB_DIRECT_NOT_FOUND)
        return api_fail(call, API_NOT_FOUND, "/tagName", "%s", text);
    if (r->status == MB_DIRECT_BUSY)
        return api_fail(call, API_TOO_MANY, NULL, "%s", text);
    return api_fail(call, API_INVALID, NULL, "Input value failed: %s", text);
}

static void
write_read(struct api_call *call, const struct mb_direct_result *r)
{
    const struct tag_path *path = call->body;
    char when[CLOCK_TEXT_SIZE];
    struct buf *b = api_reply_buf(call);
    clock_format(r->sample.ts_us, 6, when);
    buf_puts(b, "{\"data\":{");
    jw_kstr(b, "prvdName", path->prvd_name);
    jw_kstr(b, "srcName", path->src_name);
    jw_kstr(b, "tagName", path->tag_name);
    jw_kstr(b, "timestamp", when);
    jw_kstr(b, "dataType", tag_type_text(r->sample.value.type));
    jw_name(b, "dataValue");
    tag_value_json(b, &r->sample.value);
    buf_puts(b, "}}");
}

static void
on_direct_read(void *arg, const struct mb_direct_result *r)
{
    struct api_call *call = arg;
    enum api_status status = API_OK;
    if (r->status == MB_DIRECT_OK)
        write_read(call, r);
    else
        status = refuse(call, r);
    api_finish(call, status);
}

enum api_status
modbusd_direct_read_tag(struct modbusd *self, struct api_call *call,
                        const struct tag_path *body)
{
    struct mb_direct_result now;
    uint32_t no = mb_engine_find(self->engine, body->prvd_name, body->src_name, body->tag_name);
    if (mb_engine_read(self->engine, no, deadline_of(call->request), on_direct_read, call,
                       &now))
        return API_PENDING;
    if (now.status != MB_DIRECT_OK)
        return refuse(call, &now);
    write_read(call, &now);
    return API_OK;
}

static void
on_direct_written(void *arg, const struct mb_direct_result *r)
{
    struct api_call *call = arg;
    if (r->status != MB_DIRECT_OK && mb_direct_is_unsure(r))
        api_note_unsure(call);
    api_finish(call, r->status == MB_DIRECT_OK ? API_OK : refuse(call, r));
}

/* Noted before it is begun: the device is written before its record can be kept. */
static enum api_status
note_write(struct api_call *call, const struct direct_write *body)
{
    const char *value = body->data_value;
    size_t n = utf8_cut(value, strlen(value), 64);
    const char *what =
        api_printf(call, "write %.*s%s to %s/%s/%s", (int)n, value, value[n] ? "…" : "",
                   body->prvd_name, body->src_name, body->tag_name);
    return what ? api_note(call, what) : API_TOO_LARGE;
}

enum api_status
modbusd_direct_write_tag(struct modbusd *self, struct api_call *call,
                         const struct direct_write *body)
{
    struct mb_direct_result now = { .status = MB_DIRECT_NOT_FOUND };
    uint16_t size;
    uint32_t no = mb_engine_find(self->engine, body->prvd_name, body->src_name, body->tag_name);
    uint8_t type = mb_engine_tag_type(self->engine, no, &size);
    if (type == 0)
        return refuse(call, &now);
    if (body->data_type && !str_eq(body->data_type, tag_type_text(type)))
        return api_fail(call, API_INVALID, "/dataType",
                        "Input value failed: the tag is of type %s", tag_type_text(type));
    CLEANUP(json_freep) cJSON *tree = NULL;
    struct json_error e;
    struct tag_value v;
    int r = json_parse(body->data_value, strlen(body->data_value), &tree, &e);
    if (r == 0)
        r = tag_value_from_json(tree, type, size, &v);
    if (r < 0)
        return api_fail(call, API_INVALID, "/dataValue", "Input value failed: no %s that fits",
                        tag_type_text(type));
    enum api_status status = note_write(call, body);
    if (status == API_OK && mb_engine_write(self->engine, no, &v, deadline_of(call->request),
                                            on_direct_written, call, &now))
        status = API_PENDING;
    tag_value_done(&v);
    return status == API_OK ? refuse(call, &now) : status;
}

/* ---- between daemons ---- */

/* TAG_READ and TAG_WRITE of proto/README.md, section 4. */
static uint16_t
status_of(const struct mb_direct_result *r, bool write)
{
    switch (r->status) {
    case MB_DIRECT_OK:
        return API_OK;
    case MB_DIRECT_NOT_FOUND:
        return API_NOT_FOUND;
    case MB_DIRECT_BUSY:
        return API_TOO_MANY;
    case MB_DIRECT_ACCESS:
    case MB_DIRECT_VALUE:
    case MB_DIRECT_DISABLED:
        return API_INVALID;
    case MB_DIRECT_EXCEPTION:
        return write && mb_direct_is_unsure(r) ? API_TIMEOUT : API_INVALID;
    case MB_DIRECT_BAD_REPLY:
    case MB_DIRECT_TIMEOUT:
    case MB_DIRECT_NO_CONNECTION:
    case MB_DIRECT_GONE:
        break;
    }
    return write && !mb_direct_is_unsure(r) ? API_UNAVAILABLE : API_TIMEOUT;
}

static void
answer_error(struct bus_incoming *in, const struct mb_direct_result *r, bool write)
{
    char room[120];
    struct buf b;
    uint16_t status = status_of(r, write);
    buf_init(&b, 512);
    jw_open(&b, '{');
    jw_name(&b, "error");
    jw_open(&b, '{');
    jw_ki64(&b, "code", status);
    jw_kstr(&b, "message", mb_direct_text(r, room, sizeof(room)));
    jw_kstr(&b, "outcome", mb_direct_is_unsure(r) ? "unknown" : "none");
    jw_close(&b, '}');
    jw_close(&b, '}');
    struct bus_reply reply = { .id = bus_incoming_request(in)->id,
                               .status = status,
                               .body_kind = BUS_BODY_JSON,
                               .body = { b.data, (uint32_t)b.len } };
    bus_answer(in, &reply);
    buf_done(&b);
}

static void
answer_read(struct bus_incoming *in, const struct mb_direct_result *r)
{
    struct buf b;
    buf_init(&b, TAG_BYTES_MAX + 64);
    buf_put_u64(&b, (uint64_t)r->sample.ts_us);
    buf_put_u8(&b, r->sample.quality);
    buf_put_u8(&b, r->sample.aux);
    tag_value_encode(&b, &r->sample.value);
    struct bus_reply reply = { .id = bus_incoming_request(in)->id,
                               .status = API_OK,
                               .body_kind = BUS_BODY_BYTES,
                               .body = { b.data, (uint32_t)b.len } };
    bus_answer(in, &reply);
    buf_done(&b);
}

static void
on_bus_read(void *arg, const struct mb_direct_result *r)
{
    struct bus_incoming *in = arg;
    if (r->status == MB_DIRECT_OK)
        answer_read(in, r);
    else
        answer_error(in, r, false);
}

static void
answer_bad(struct bus_incoming *in)
{
    struct mb_direct_result r = { .status = MB_DIRECT_VALUE };
    answer_error(in, &r, false);
}

static void
serve_slave_read(struct modbusd *d, struct bus_incoming *in, uint32_t no)
{
    struct mb_direct_result r;
    sl_hub_read(d, no, &r);
    on_bus_read(in, &r);
}

void
modbusd_serve_tag_read(void *self, struct bus_incoming *in)
{
    struct modbusd *d = self;
    const struct bus_request *rq = bus_incoming_request(in);
    struct mb_direct_result now;
    struct rd body;
    rd_init(&body, rq->body.p, rq->body.len);
    uint32_t no = rd_u32(&body);
    if (!rd_ended(&body))
        answer_bad(in);
    else if (no >= SL_TAG_BASE)
        serve_slave_read(d, in, no);
    else if (!mb_engine_read(d->engine, no, deadline_of(rq), on_bus_read, in, &now))
        on_bus_read(in, &now);
}

static void
on_bus_written(void *arg, const struct mb_direct_result *r)
{
    struct bus_incoming *in = arg;
    struct bus_reply reply = { .id = bus_incoming_request(in)->id, .status = API_OK };
    if (r->status == MB_DIRECT_OK)
        bus_answer(in, &reply);
    else
        answer_error(in, r, true);
}

static void
serve_slave_write(struct modbusd *d, struct bus_incoming *in, uint32_t no,
                  const struct tag_value *v)
{
    struct mb_direct_result r;
    sl_hub_write(d, no, v, &r);
    on_bus_written(in, &r);
}

void
modbusd_serve_tag_write(void *self, struct bus_incoming *in)
{
    struct modbusd *d = self;
    const struct bus_request *rq = bus_incoming_request(in);
    struct mb_direct_result now;
    struct tag_value v;
    struct rd body;
    rd_init(&body, rq->body.p, rq->body.len);
    uint32_t no = rd_u32(&body);
    if (body.bad || tag_value_decode(&body, &v) < 0 || !rd_ended(&body))
        answer_bad(in);
    else if (no >= SL_TAG_BASE)
        serve_slave_write(d, in, no, &v);
    else if (!mb_engine_write(d->engine, no, &v, deadline_of(rq), on_bus_written, in, &now))
        on_bus_written(in, &now);
}
