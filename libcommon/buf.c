/*
 * Buffers and readers with sticky errors. A buffer keeps one byte beyond
 * 'max' for the terminator that buf_text adds, so that text may be exactly
 * 'max' bytes long.
 */
#include "libcommon/buf.h"

#include <errno.h>
#include <string.h>

#include "libcommon/banned.h"

enum { BUF_FIRST_CAP = 128 };

void
buf_init(struct buf *b, size_t max)
{
    MUST(max < SIZE_MAX / 2);
    *b = (struct buf){ .max = max };
}

void
buf_done(struct buf *b)
{
    free(b->data);
    buf_init(b, b->max);
}

void
buf_reset(struct buf *b)
{
    b->len = 0;
    b->err = 0;
}

/* Room for 'n' bytes and a terminator. */
static char *
grow(struct buf *b, size_t n)
{
    if (n > b->max - b->len) {
        b->err = -E2BIG;
        return NULL;
    }
    size_t need = b->len + n + 1;
    size_t cap = b->cap < BUF_FIRST_CAP ? BUF_FIRST_CAP : b->cap * 2;
    if (cap > b->max + 1)
        cap = b->max + 1;
    if (cap < need)
        cap = need;
    char *data = realloc(b->data, cap);
    if (data == NULL) {
        b->err = -ENOMEM;
        return NULL;
    }
    b->data = data;
    b->cap = cap;
    return data + b->len;
}

char *
buf_reserve(struct buf *b, size_t n)
{
    if (b->err != 0)
        return NULL;
    if (n < b->cap - b->len)
        return b->data + b->len;
    return grow(b, n);
}

void
buf_put(struct buf *b, const void *bytes, size_t n)
{
    char *p = buf_reserve(b, n);
    if (p == NULL || n == 0)
        return;
    memcpy(p, bytes, n);
    b->len += n;
}

void
buf_puts(struct buf *b, const char *text)
{
    buf_put(b, text, strlen(text));
}

void
buf_putc(struct buf *b, char c)
{
    char *p = buf_reserve(b, 1);
    if (p == NULL)
        return;
    *p = c;
    b->len++;
}

void
buf_vprintf(struct buf *b, const char *fmt, va_list args)
{
    char *p = buf_reserve(b, 0);
    if (p == NULL)
        return;

    va_list again;
    va_copy(again, args);
    int n = vsnprintf(p, b->cap - b->len, fmt, args);
    if (n < 0) {
        b->err = -ENOMEM;
    } else if ((size_t)n < b->cap - b->len) {
        b->len += (size_t)n;
    } else if ((p = buf_reserve(b, (size_t)n)) != NULL) {
        (void)vsnprintf(p, (size_t)n + 1, fmt, again); /* same arguments, room is there */
        b->len += (size_t)n;
    }
    va_end(again);
}

void
buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    buf_vprintf(b, fmt, args);
    va_end(args);
}

void
buf_put_u8(struct buf *b, uint8_t v)
{
    buf_putc(b, (char)v);
}

void
buf_put_u16(struct buf *b, uint16_t v)
{
    char *p = buf_reserve(b, 2);
    if (p == NULL)
        return;
    put_u16((uint8_t *)p, v);
    b->len += 2;
}

void
buf_put_u32(struct buf *b, uint32_t v)
{
    char *p = buf_reserve(b, 4);
    if (p == NULL)
        return;
    put_u32((uint8_t *)p, v);
    b->len += 4;
}

void
buf_put_u64(struct buf *b, uint64_t v)
{
    char *p = buf_reserve(b, 8);
    if (p == NULL)
        return;
    put_u64((uint8_t *)p, v);
    b->len += 8;
}

void
buf_put_str8(struct buf *b, const char *text, size_t len)
{
    if (b->err != 0)
        return;
    if (len > UINT8_MAX) {
        b->err = -E2BIG;
        return;
    }
    buf_put_u8(b, (uint8_t)len);
    buf_put(b, text, len);
}

void
buf_put_str16(struct buf *b, const char *text, size_t len)
{
    if (b->err != 0)
        return;
    if (len > UINT16_MAX) {
        b->err = -E2BIG;
        return;
    }
    buf_put_u16(b, (uint16_t)len);
    buf_put(b, text, len);
}

void
buf_patch_u32(struct buf *b, size_t at, uint32_t v)
{
    if (b->err != 0)
        return;
    MUST(b->len >= 4 && at <= b->len - 4);
    put_u32((uint8_t *)b->data + at, v);
}

const char *
buf_text(struct buf *b)
{
    char *p = buf_reserve(b, 0);
    if (p == NULL)
        return NULL;
    *p = '\0';
    return b->data;
}

void
rd_init(struct rd *r, const void *bytes, size_t n)
{
    static const uint8_t none[1];
    const uint8_t *at = n == 0 ? none : bytes;
    *r = (struct rd){ .at = at, .end = at + n };
}

const uint8_t *
rd_bytes(struct rd *r, size_t n)
{
    if (r->bad || n > rd_left(r)) {
        r->bad = true;
        return NULL;
    }
    const uint8_t *p = r->at;
    r->at += n;
    return p;
}

uint8_t
rd_u8(struct rd *r)
{
    const uint8_t *p = rd_bytes(r, 1);
    return p == NULL ? 0 : p[0];
}

uint16_t
rd_u16(struct rd *r)
{
    const uint8_t *p = rd_bytes(r, 2);
    return p == NULL ? 0 : get_u16(p);
}

uint32_t
rd_u32(struct rd *r)
{
    const uint8_t *p = rd_bytes(r, 4);
    return p == NULL ? 0 : get_u32(p);
}

uint64_t
rd_u64(struct rd *r)
{
    const uint8_t *p = rd_bytes(r, 8);
    return p == NULL ? 0 : get_u64(p);
}

const char *
rd_str8(struct rd *r, size_t *ret_len)
{
    size_t len = rd_u8(r);
    const char *p = (const char *)rd_bytes(r, len);
    *ret_len = p == NULL ? 0 : len;
    return p;
}

const char *
rd_str16(struct rd *r, size_t *ret_len)
{
    size_t len = rd_u16(r);
    const char *p = (const char *)rd_bytes(r, len);
    *ret_len = p == NULL ? 0 : len;
    return p;
}

void
rd_text16(struct rd *r, char *out, size_t out_size)
{
    size_t len;
    const char *text = rd_str16(r, &len);
    if (text == NULL || len >= out_size || memchr(text, '\0', len) != NULL) {
        r->bad = true;
        len = 0;
    }
    if (len > 0)
        memcpy(out, text, len);
    out[len] = '\0';
}
