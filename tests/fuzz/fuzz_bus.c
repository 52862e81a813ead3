/*
 * Whatever comes as a message of the bus: read as requests, then as replies.
 * An envelope that is accepted points only into itself, and is encoded to the
 * bytes it came as and to the same fields (proto/README.md section 2).
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/bus_private.h"
#include "libcommon/str.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The bytes of one envelope, its length word included. */
struct span {
    const uint8_t *from, *to;
};

static void
check_inside(struct span e, struct bus_str s)
{
    if (s.p == NULL) {
        MUST(s.len == 0);
        return;
    }
    const uint8_t *p = (const uint8_t *)s.p;
    MUST(p >= e.from && p <= e.to && s.len <= (size_t)(e.to - p));
}

static void
check_same_text(struct bus_str a, struct bus_str b)
{
    MUST((a.p == NULL) == (b.p == NULL) && a.len == b.len);
    MUST(a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

/* What was encoded, in bytes of its own so that a read past it is seen. */
static uint8_t *
copy_encoded(const struct buf *b, struct span came)
{
    MUST(b->err == 0 && b->len == (size_t)(came.to - came.from));
    MUST(memcmp(b->data, came.from, b->len) == 0);
    uint8_t *copy = malloc(b->len);
    MUST(copy != NULL);
    memcpy(copy, b->data, b->len);
    return copy;
}

/* ---- requests ---- */

static void
check_request(const struct bus_request *r, struct span e)
{
    MUST(r->kind >= BUS_KIND_API && r->kind <= BUS_KIND_STREAM_CLOSE);
    MUST(r->body_kind <= BUS_BODY_STREAM && r->who.kind <= BUS_WHO_DAEMON);
    MUST(r->n_path <= BUS_PATH_MAX && r->n_query <= BUS_QUERY_MAX);
    MUST(memchr(r->who.name, '\0', sizeof(r->who.name)) != NULL);
    MUST(memchr(r->who.addr, '\0', sizeof(r->who.addr)) != NULL);
    for (size_t i = 0; i < r->n_path; i++) {
        MUST(r->path[i].p != NULL);
        check_inside(e, r->path[i]);
    }
    for (size_t i = 0; i < r->n_query; i++) {
        MUST(r->query_name[i].p != NULL);
        check_inside(e, r->query_name[i]);
        check_inside(e, r->query_value[i]);
    }
    check_inside(e, r->content_type);
    check_inside(e, r->body);
    MUST(r->body_kind != BUS_BODY_NONE || r->body.len == 0);
}

static void
check_same_principal(const struct bus_principal *a, const struct bus_principal *b)
{
    MUST(a->kind == b->kind && a->user_id == b->user_id && a->session_id == b->session_id);
    MUST(a->permissions == b->permissions);
    MUST(str_eq(a->name, b->name) && str_eq(a->addr, b->addr));
}

static void
check_same_request(const struct bus_request *a, const struct bus_request *b)
{
    MUST(a->kind == b->kind && a->op == b->op && a->id == b->id);
    MUST(a->deadline_us == b->deadline_us && a->body_kind == b->body_kind);
    check_same_principal(&a->who, &b->who);
    MUST(a->n_path == b->n_path && a->n_query == b->n_query);
    for (size_t i = 0; i < a->n_path; i++)
        check_same_text(a->path[i], b->path[i]);
    for (size_t i = 0; i < a->n_query; i++) {
        check_same_text(a->query_name[i], b->query_name[i]);
        check_same_text(a->query_value[i], b->query_value[i]);
    }
    check_same_text(a->content_type, b->content_type);
    check_same_text(a->body, b->body);
}

static void
encode_request_again(const struct bus_request *r, struct span came)
{
    struct buf b;
    buf_init(&b, BUS_MESSAGE_MAX);
    MUST(bus_request_size(r) == (size_t)(came.to - came.from));
    bus_request_encode(&b, r);
    uint8_t *copy = copy_encoded(&b, came);
    struct span e = { copy, copy + b.len };
    struct rd in;
    struct bus_request again;
    rd_init(&in, copy, b.len);
    MUST(bus_request_decode(&in, &again) == 0 && rd_ended(&in));
    check_request(&again, e);
    check_same_request(r, &again);
    free(copy);
    buf_done(&b);
}

static void
read_requests(const uint8_t *data, size_t size)
{
    struct rd in;
    uint16_t n = 0;
    rd_init(&in, data, size);
    if (bus_message_open(&in, &n) < 0)
        return;
    MUST(n >= 1 && n <= BUS_BATCH_MAX);
    for (size_t i = 0; i < n; i++) {
        struct span e = { .from = in.at };
        struct bus_request r;
        if (bus_request_decode(&in, &r) < 0)
            return;
        e.to = in.at;
        check_request(&r, e);
        encode_request_again(&r, e);
    }
}

/* ---- replies ---- */

static void
check_reply(const struct bus_reply *r, struct span e)
{
    MUST(r->status >= 100 && r->status <= 599 && r->body_kind <= BUS_BODY_PIPE);
    check_inside(e, r->content_type);
    check_inside(e, r->file_name);
    check_inside(e, r->body);
    MUST(r->body_kind != BUS_BODY_NONE || r->body.len == 0);
    MUST(r->body_kind != BUS_BODY_STREAM || r->body.len == 8);
}

static void
check_same_reply(const struct bus_reply *a, const struct bus_reply *b)
{
    MUST(a->id == b->id && a->status == b->status && a->body_kind == b->body_kind);
    MUST(a->end == b->end && a->retry_after_s == b->retry_after_s);
    check_same_text(a->content_type, b->content_type);
    check_same_text(a->file_name, b->file_name);
    check_same_text(a->body, b->body);
}

/* "Ask again alone" is written by the server's own way, never by bus_reply_encode. */
static void
write_reply(struct buf *b, const struct bus_reply *r, uint8_t flags)
{
    if ((flags & BUS_REPLY_ALONE) == 0) {
        bus_reply_encode(b, r);
        return;
    }
    size_t size = bus_reply_size(r);
    char *p = buf_reserve(b, size);
    MUST(size > 0 && p != NULL);
    bus_reply_write((uint8_t *)p, r, BUS_REPLY_ALONE);
    b->len += size;
}

static void
encode_reply_again(const struct bus_reply *r, uint8_t flags, struct span came)
{
    struct buf b;
    buf_init(&b, BUS_MESSAGE_MAX);
    MUST(bus_reply_size(r) == (size_t)(came.to - came.from));
    write_reply(&b, r, flags);
    uint8_t *copy = copy_encoded(&b, came);
    struct span e = { copy, copy + b.len };
    struct rd in;
    struct bus_reply again;
    rd_init(&in, copy, b.len);
    if ((flags & BUS_REPLY_ALONE) != 0) { /* only who gathers knows what to do with it */
        MUST(bus_reply_decode(&in, &again) < 0);
    } else {
        MUST(bus_reply_decode(&in, &again) == 0 && rd_ended(&in));
        check_reply(&again, e);
        check_same_reply(r, &again);
    }
    free(copy);
    buf_done(&b);
}

static void
read_replies(const uint8_t *data, size_t size)
{
    struct rd in;
    uint16_t n = 0;
    rd_init(&in, data, size);
    if (bus_message_open(&in, &n) < 0)
        return;
    for (size_t i = 0; i < n; i++) {
        struct span e = { .from = in.at };
        struct bus_reply r;
        uint8_t flags = 0;
        if (bus_reply_decode_flags(&in, &r, &flags) < 0)
            return;
        e.to = in.at;
        check_reply(&r, e);
        encode_reply_again(&r, flags, e);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_requests(data, size);
    read_replies(data, size);
    return 0;
}
