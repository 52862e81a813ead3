/*
 * The bytes of requests and replies: proto/README.md section 2. Decoded
 * envelopes point into the message; nothing is copied but the principal.
 */
#include "libcommon/bus.h"

#include <errno.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/bus_private.h"

#include "libcommon/banned.h"

enum {
    WIRE_VERSION = 1,
    /* fixed parts, length word included */
    REQUEST_FIXED = 4 + 4 + 4 + 8 + 8 + 1 + 8 + 8 + 8 + 1 + 1 + 2 + 4,
    REPLY_FIXED = 4 + 8 + 2 + 1 + 1 + 4 + 2 + 2 + 4,
    ENVELOPE_MAX = BUS_MESSAGE_MAX - BUS_HEADER_SIZE,
};

static uint8_t *
write_bytes(uint8_t *p, const void *bytes, size_t n)
{
    if (n > 0)
        memcpy(p, bytes, n);
    return p + n;
}

static uint8_t *
write_str8(uint8_t *p, const char *text, size_t len)
{
    *p = (uint8_t)len;
    return write_bytes(p + 1, text, len);
}

static uint8_t *
write_str16(uint8_t *p, struct bus_str s)
{
    put_u16(p, (uint16_t)s.len);
    return write_bytes(p + 2, s.p, s.len);
}

static bool
fits16(struct bus_str s)
{
    return s.len <= UINT16_MAX;
}

void
bus_header_write(uint8_t *p, uint16_t n_envelopes)
{
    p[0] = 'F';
    p[1] = 'G';
    p[2] = WIRE_VERSION;
    put_u16(p + 3, n_envelopes);
}

size_t
bus_request_size(const struct bus_request *r)
{
    MUST(r->n_path <= BUS_PATH_MAX && r->n_query <= BUS_QUERY_MAX);
    if (!fits16(r->content_type))
        return 0;
    size_t size = REQUEST_FIXED + strlen(r->who.name) + strlen(r->who.addr) +
                  r->content_type.len + r->body.len;
    for (size_t i = 0; i < r->n_path; i++) {
        if (!fits16(r->path[i]))
            return 0;
        size += 2u + r->path[i].len;
    }
    for (size_t i = 0; i < r->n_query; i++) {
        if (!fits16(r->query_name[i]) || !fits16(r->query_value[i]))
            return 0;
        size += 3u + r->query_name[i].len;
        if (r->query_value[i].p != NULL)
            size += 2u + r->query_value[i].len;
    }
    return size <= ENVELOPE_MAX ? size : 0;
}

void
bus_request_write(uint8_t *start, const struct bus_request *r)
{
    uint8_t *p = start + 4;
    *p++ = r->kind;
    *p++ = r->body_kind;
    *p++ = r->n_path;
    *p++ = r->n_query;
    put_u32(p, r->op);
    put_u64(p + 4, r->id);
    put_u64(p + 12, r->deadline_us);
    p += 20;
    *p++ = r->who.kind;
    put_u64(p, (uint64_t)r->who.user_id);
    put_u64(p + 8, (uint64_t)r->who.session_id);
    put_u64(p + 16, r->who.permissions);
    p = write_str8(p + 24, r->who.name, strlen(r->who.name));
    p = write_str8(p, r->who.addr, strlen(r->who.addr));
    for (size_t i = 0; i < r->n_path; i++)
        p = write_str16(p, r->path[i]);
    for (size_t i = 0; i < r->n_query; i++) {
        p = write_str16(p, r->query_name[i]);
        *p++ = r->query_value[i].p != NULL;
        if (r->query_value[i].p != NULL)
            p = write_str16(p, r->query_value[i]);
    }
    p = write_str16(p, r->content_type);
    put_u32(p, r->body.len);
    p = write_bytes(p + 4, r->body.p, r->body.len);
    put_u32(start, (uint32_t)(p - start - 4));
}

size_t
bus_reply_size(const struct bus_reply *r)
{
    if (!fits16(r->content_type) || !fits16(r->file_name))
        return 0;
    size_t size = (size_t)REPLY_FIXED + r->content_type.len + r->file_name.len + r->body.len;
    return size <= ENVELOPE_MAX ? size : 0;
}

void
bus_reply_write(uint8_t *start, const struct bus_reply *r, uint8_t more_flags)
{
    uint8_t *p = start + 4;
    put_u64(p, r->id);
    put_u16(p + 8, r->status);
    p[10] = r->body_kind;
    p[11] = (uint8_t)((r->end ? BUS_REPLY_END : 0) | (r->recorded ? BUS_REPLY_RECORDED : 0) |
                      more_flags);
    put_u32(p + 12, r->retry_after_s);
    p = write_str16(p + 16, r->content_type);
    p = write_str16(p, r->file_name);
    put_u32(p, r->body.len);
    p = write_bytes(p + 4, r->body.p, r->body.len);
    put_u32(start, (uint32_t)(p - start - 4));
}

/* Room for an envelope of 'size' bytes; NULL with b's error set. */
static uint8_t *
envelope_room(struct buf *b, size_t size)
{
    if (b->err == 0 && size == 0)
        b->err = -E2BIG;
    if (b->err != 0)
        return NULL;
    char *p = buf_reserve(b, size);
    if (p != NULL)
        b->len += size;
    return (uint8_t *)p;
}

void
bus_request_encode(struct buf *b, const struct bus_request *r)
{
    uint8_t *p = envelope_room(b, bus_request_size(r));
    if (p != NULL)
        bus_request_write(p, r);
}

void
bus_reply_encode(struct buf *b, const struct bus_reply *r)
{
    uint8_t *p = envelope_room(b, bus_reply_size(r));
    if (p != NULL)
        bus_reply_write(p, r, 0);
}

/* ---- decoding ---- */

static struct bus_str
read_str16(struct rd *in)
{
    size_t len = 0;
    const char *p = rd_str16(in, &len);
    return (struct bus_str){ .p = p, .len = p != NULL ? (uint32_t)len : 0 };
}

static struct bus_str
read_str32(struct rd *in)
{
    uint32_t len = rd_u32(in);
    const uint8_t *p = rd_bytes(in, len);
    return (struct bus_str){ .p = (const char *)p, .len = p != NULL ? len : 0 };
}

/* A text that becomes a terminated one: no NUL inside, short enough. */
static int
read_name(struct rd *in, char *out, size_t out_size)
{
    size_t len = 0;
    const char *p = rd_str8(in, &len);
    if (p == NULL || len >= out_size || memchr(p, '\0', len) != NULL)
        return -EBADMSG;
    memcpy(out, p, len);
    out[len] = '\0';
    return 0;
}

/* The next envelope as a reader of its own; 'in' moves behind it. */
static int
read_envelope(struct rd *in, struct rd *ret_envelope)
{
    uint32_t len = rd_u32(in);
    const uint8_t *p = rd_bytes(in, len);
    if (p == NULL)
        return -EBADMSG;
    rd_init(ret_envelope, p, len);
    return 0;
}

static bool
body_is_sound(uint8_t kind, struct bus_str body)
{
    switch (kind) {
    case BUS_BODY_NONE:
        return body.len == 0;
    case BUS_BODY_JSON:
    case BUS_BODY_BYTES:
        return true;
    case BUS_BODY_FILE:
    case BUS_BODY_PIPE:
        return body.len > 0;
    case BUS_BODY_STREAM:
        return body.len == 8;
    default:
        return false;
    }
}

static int
read_principal(struct rd *in, struct bus_principal *who)
{
    who->kind = rd_u8(in);
    who->user_id = (int64_t)rd_u64(in);
    who->session_id = (int64_t)rd_u64(in);
    who->permissions = rd_u64(in);
    if (who->kind > BUS_WHO_DAEMON)
        return -EBADMSG;
    int r = read_name(in, who->name, sizeof(who->name));
    if (r < 0)
        return r;
    return read_name(in, who->addr, sizeof(who->addr));
}

int
bus_request_decode(struct rd *in, struct bus_request *r)
{
    struct rd e;
    if (read_envelope(in, &e) < 0)
        return -EBADMSG;
    r->kind = rd_u8(&e);
    r->body_kind = rd_u8(&e);
    r->n_path = rd_u8(&e);
    r->n_query = rd_u8(&e);
    r->op = rd_u32(&e);
    r->id = rd_u64(&e);
    r->deadline_us = rd_u64(&e);
    if (r->kind < BUS_KIND_API || r->kind > BUS_KIND_STREAM_CLOSE ||
        r->body_kind > BUS_BODY_STREAM || r->n_path > BUS_PATH_MAX ||
        r->n_query > BUS_QUERY_MAX)
        return -EBADMSG;
    if (read_principal(&e, &r->who) < 0)
        return -EBADMSG;
    for (size_t i = 0; i < r->n_path; i++)
        r->path[i] = read_str16(&e);
    for (size_t i = 0; i < r->n_query; i++) {
        r->query_name[i] = read_str16(&e);
        uint8_t has_value = rd_u8(&e);
        if (has_value > 1)
            return -EBADMSG;
        r->query_value[i] = has_value ? read_str16(&e) : (struct bus_str){ 0 };
    }
    r->content_type = read_str16(&e);
    r->body = read_str32(&e);
    if (!rd_ended(&e) || !body_is_sound(r->body_kind, r->body))
        return -EBADMSG;
    return 0;
}

int
bus_reply_decode_flags(struct rd *in, struct bus_reply *r, uint8_t *ret_flags)
{
    struct rd e;
    if (read_envelope(in, &e) < 0)
        return -EBADMSG;
    r->id = rd_u64(&e);
    r->status = rd_u16(&e);
    r->body_kind = rd_u8(&e);
    uint8_t flags = rd_u8(&e);
    r->end = (flags & BUS_REPLY_END) != 0;
    r->recorded = (flags & BUS_REPLY_RECORDED) != 0;
    r->retry_after_s = rd_u32(&e);
    r->content_type = read_str16(&e);
    r->file_name = read_str16(&e);
    r->body = read_str32(&e);
    if (!rd_ended(&e) ||
        (flags & ~(BUS_REPLY_END | BUS_REPLY_ALONE | BUS_REPLY_RECORDED)) != 0 ||
        r->status < 100 || r->status > 599 || !body_is_sound(r->body_kind, r->body))
        return -EBADMSG;
    *ret_flags = flags;
    return 0;
}

int
bus_reply_decode(struct rd *in, struct bus_reply *ret_reply)
{
    uint8_t flags = 0;
    int r = bus_reply_decode_flags(in, ret_reply, &flags);
    return r < 0 || (flags & BUS_REPLY_ALONE) != 0 ? -EBADMSG : 0;
}

/* ---- the message around envelopes ---- */

void
bus_message_begin(struct buf *b)
{
    MUST(b->len == 0);
    uint8_t *p = (uint8_t *)buf_reserve(b, BUS_HEADER_SIZE);
    if (p == NULL)
        return;
    bus_header_write(p, 0);
    b->len += BUS_HEADER_SIZE;
}

void
bus_message_end(struct buf *b, uint16_t n_envelopes)
{
    MUST(n_envelopes <= BUS_BATCH_MAX);
    if (b->err == 0)
        bus_header_write((uint8_t *)b->data, n_envelopes);
}

int
bus_message_open(struct rd *in, uint16_t *ret_n)
{
    const uint8_t *p = rd_bytes(in, BUS_HEADER_SIZE);
    if (p == NULL || p[0] != 'F' || p[1] != 'G' || p[2] != WIRE_VERSION)
        return -EBADMSG;
    uint16_t n = get_u16(p + 3);
    if (n == 0 || n > BUS_BATCH_MAX)
        return -EBADMSG;
    *ret_n = n;
    return 0;
}
