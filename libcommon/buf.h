/*
 * A growing buffer with a maximum, and a reader that cannot run past its end.
 * Both carry a sticky error, so that a sequence of puts or gets is checked
 * once, at its end. Numbers are big-endian.
 */
#ifndef FIELDGATE_BUF_H
#define FIELDGATE_BUF_H

#include <endian.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "libcommon/base.h"

struct buf {
    char *data; /* owned; NULL while empty */
    size_t len; /* bytes used */
    size_t cap;
    size_t max; /* bytes 'len' may reach */
    int err;    /* 0, -E2BIG or -ENOMEM: once set, puts do nothing */
};

/* An empty buffer that may grow to 'max' bytes; allocates nothing yet. */
void buf_init(struct buf *b, size_t max);
/* Frees the bytes; 'b' is as after buf_init. Takes half-built ones. */
void buf_done(struct buf *b);
/* Empties it, keeps the memory, clears the error. */
void buf_reset(struct buf *b);
/* Room for 'n' more bytes, not counted in len yet; NULL with b->err set. */
char *buf_reserve(struct buf *b, size_t n);

void buf_put(struct buf *b, const void *bytes, size_t n);
void buf_puts(struct buf *b, const char *text);
void buf_putc(struct buf *b, char c);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_vprintf(struct buf *b, const char *fmt, va_list args) PRINTF_LIKE(2, 0);
void buf_put_u8(struct buf *b, uint8_t v);
void buf_put_u16(struct buf *b, uint16_t v);
void buf_put_u32(struct buf *b, uint32_t v);
void buf_put_u64(struct buf *b, uint64_t v);
/* A length byte (or two) and the bytes; sets -E2BIG when it does not fit. */
void buf_put_str8(struct buf *b, const char *text, size_t len);
void buf_put_str16(struct buf *b, const char *text, size_t len);
/* Overwrites 4 bytes that were put before. */
void buf_patch_u32(struct buf *b, size_t at, uint32_t v);
/* The bytes as a terminated text, still owned by 'b'; NULL with an error. */
const char *buf_text(struct buf *b);

static inline void
put_u16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline void
put_u32(uint8_t *p, uint32_t v)
{
    put_u16(p, (uint16_t)(v >> 16));
    put_u16(p + 2, (uint16_t)v);
}

static inline void
put_u64(uint8_t *p, uint64_t v)
{
    put_u32(p, (uint32_t)(v >> 32));
    put_u32(p + 4, (uint32_t)v);
}

static inline uint16_t
get_u16(const uint8_t *p)
{
    return (uint16_t)((unsigned)p[0] << 8 | p[1]);
}

/* One instruction each: a batch of the tag bus is decoded at memory speed. */
static inline uint32_t
get_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

static inline uint64_t
get_u64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return be64toh(v);
}

/* A reader over bytes that it does not own. */
struct rd {
    const uint8_t *at;
    const uint8_t *end;
    bool bad; /* something was missing; all gets since gave 0 */
};

void rd_init(struct rd *r, const void *bytes, size_t n);
uint8_t rd_u8(struct rd *r);
uint16_t rd_u16(struct rd *r);
uint32_t rd_u32(struct rd *r);
uint64_t rd_u64(struct rd *r);
/* 'n' bytes in place; NULL when they are not there. */
const uint8_t *rd_bytes(struct rd *r, size_t n);
/* Text with a length byte (or two), in place, not terminated. */
const char *rd_str8(struct rd *r, size_t *ret_len);
const char *rd_str16(struct rd *r, size_t *ret_len);
/* Such a text as a C string; one that does not fit or holds a NUL is bad. */
void rd_text16(struct rd *r, char *out, size_t out_size);
static inline size_t
rd_left(const struct rd *r)
{
    return (size_t)(r->end - r->at);
}
/* True when all was there and nothing is left. */
static inline bool
rd_ended(const struct rd *r)
{
    return !r->bad && r->at == r->end;
}

#endif
