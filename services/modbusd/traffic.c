#include "services/modbusd/traffic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/str.h"
#include "libcommon/banned.h"

/* ---- the ring ---- */

int
traffic_reserve(struct traffic *t)
{
    if (!t->entries)
        t->entries = calloc(TRAFFIC_ENTRIES_MAX, sizeof(*t->entries));
    return t->entries ? 0 : -ENOMEM;
}

void
traffic_start(struct traffic *t, bool rolling, const struct traffic_filter *filter)
{
    MUST(t->entries);
    t->rolling = rolling;
    t->filter = *filter;
    t->last = 0;
    t->on = true;
}

void
traffic_stop(struct traffic *t)
{
    t->on = false;
}

void
traffic_done(struct traffic *t)
{
    free(t->entries);
    *t = (struct traffic){ 0 };
}

uint64_t
traffic_oldest(const struct traffic *t)
{
    return t->last > TRAFFIC_ENTRIES_MAX ? t->last - TRAFFIC_ENTRIES_MAX + 1 : 1;
}

static struct traffic_entry *
place_of(const struct traffic *t, uint64_t number)
{
    return &t->entries[(number - 1) % TRAFFIC_ENTRIES_MAX];
}

const struct traffic_entry *
traffic_entry(const struct traffic *t, uint64_t number)
{
    MUST(number >= traffic_oldest(t) && number <= t->last);
    return place_of(t, number);
}

static void
fill(struct traffic_entry *e, const struct traffic_frame *f)
{
    size_t n = f->n < sizeof(e->bytes) ? f->n : sizeof(e->bytes);
    e->at_us = clock_wall_us();
    e->framing = f->framing;
    e->role = f->role;
    e->error = f->error;
    e->fault = f->fault;
    e->sent = f->sent;
    e->request = f->request;
    e->port = f->port;
    e->n = (uint16_t)n;
    memcpy(e->bytes, f->bytes, n);
    if (!f->peer || str_copy(e->peer, sizeof(e->peer), f->peer) < 0)
        e->peer[0] = '\0';
}

/* Bytes without a unit may be of any. */
static bool
passes(const struct traffic_filter *filter, const struct traffic_frame *f)
{
    uint8_t unit, pdu[MB_PDU_MAX];
    if (!filter->on)
        return true;
    if (f->peer && (f->port != filter->port || !str_eq(f->peer, filter->peer)))
        return false;
    return traffic_pdu(f->framing, f->bytes, f->n, &unit, pdu) == 0 || unit == filter->unit;
}

void
traffic_keep(struct traffic *t, const struct traffic_frame *f)
{
    if (!passes(&t->filter, f))
        return;
    fill(place_of(t, ++t->last), f);
    if (!t->rolling && t->last == TRAFFIC_ENTRIES_MAX)
        t->on = false;
}

/* ---- what is in a frame ---- */

/* A PDU with bytes before it, the last of which is the unit, and after it. */
static size_t
binary_pdu(const uint8_t *bytes, size_t n, size_t before, size_t after, uint8_t *ret_unit,
           uint8_t pdu[MB_PDU_MAX])
{
    if (n <= before + after || n - before - after > MB_PDU_MAX)
        return 0;
    *ret_unit = bytes[before - 1];
    memcpy(pdu, bytes + before, n - before - after);
    return n - before - after;
}

/* Colon, then in hexadecimal unit, PDU and LRC, then CR LF. */
static size_t
ascii_pdu(const uint8_t *bytes, size_t n, uint8_t *ret_unit, uint8_t pdu[MB_PDU_MAX])
{
    uint8_t all[1 + MB_PDU_MAX + 1];
    size_t size = n > 3 ? (n - 3) / 2 : 0;
    if (size < 3 || size > sizeof(all) || bytes[0] != ':' ||
        hex_decode((const char *)bytes + 1, 2 * size, all, sizeof(all)) < 0)
        return 0;
    *ret_unit = all[0];
    memcpy(pdu, all + 1, size - 2);
    return size - 2;
}

size_t
traffic_pdu(enum traffic_framing framing, const uint8_t *bytes, size_t n, uint8_t *ret_unit,
            uint8_t pdu[MB_PDU_MAX])
{
    switch (framing) {
    case TRAFFIC_TCP:
        return binary_pdu(bytes, n, MB_HEADER_SIZE, 0, ret_unit, pdu);
    case TRAFFIC_RTU:
        return binary_pdu(bytes, n, 1, 2, ret_unit, pdu);
    case TRAFFIC_ASCII:
        return ascii_pdu(bytes, n, ret_unit, pdu);
    }
    return 0;
}

enum traffic_fault
traffic_fault_of(const uint8_t head[MB_HEAD_SIZE], const uint8_t *pdu, size_t n)
{
    if (n == 0 || pdu[0] != head[0])
        return TRAFFIC_FUNCTION;
    if (mb_func_reads(head[0]) || n != MB_HEAD_SIZE)
        return TRAFFIC_LENGTH;
    return memcmp(pdu + 1, head + 1, 2) != 0 ? TRAFFIC_ADDRESS : TRAFFIC_VALUE;
}

/* ---- in words ---- */

enum { REGS_SHOWN = 32, BITS_SHOWN = 128 };

static const char *const functions[] = {
    [MB_READ_COILS] = "read coils",
    [MB_READ_INPUT_BITS] = "read discrete inputs",
    [MB_READ_HOLDING] = "read holding registers",
    [MB_READ_INPUT] = "read input registers",
    [MB_WRITE_COIL] = "write coil",
    [MB_WRITE_REG] = "write register",
    [MB_WRITE_COILS] = "write coils",
    [MB_WRITE_REGS] = "write registers",
    [MB_READ_WRITE_REGS] = "read and write registers",
};

static void
put_range(struct buf *b, const uint8_t *at)
{
    unsigned first = get_u16(at), n = get_u16(at + 2);
    buf_printf(b, n > 1 ? " %u..%u" : " %u", first, first + n - 1);
}

static void
put_regs(struct buf *b, const uint8_t *bytes, size_t n)
{
    buf_putc(b, ':');
    for (size_t i = 0; i < n / 2 && i < REGS_SHOWN; i++)
        buf_printf(b, " %u", get_u16(bytes + 2 * i));
    buf_puts(b, n / 2 > REGS_SHOWN ? " …" : "");
}

/* In order of their addresses: the first is the lowest bit of the first byte. */
static void
put_bits(struct buf *b, const uint8_t *bytes, size_t n)
{
    buf_puts(b, ": ");
    for (size_t i = 0; i < 8 * n && i < BITS_SHOWN; i++)
        buf_putc(b, bytes[i / 8] >> i % 8 & 1 ? '1' : '0');
    buf_puts(b, 8 * n > BITS_SHOWN ? "…" : "");
}

static void
put_values(struct buf *b, unsigned func, const uint8_t *bytes, size_t n)
{
    if (mb_func_bits(func))
        put_bits(b, bytes, n);
    else
        put_regs(b, bytes, n);
}

/* What stands after the function code of a request, n bytes. */
static void
put_request(struct buf *b, unsigned func, const uint8_t *p, size_t n)
{
    if (func == MB_WRITE_COIL || func == MB_WRITE_REG) {
        buf_printf(b, " %u: %u", get_u16(p),
                   func == MB_WRITE_COIL ? p[2] != 0 : get_u16(p + 2));
        return;
    }
    put_range(b, p);
    if (func == MB_READ_WRITE_REGS && n > 9) {
        buf_puts(b, ", write");
        put_range(b, p + 4);
        put_regs(b, p + 9, n - 9);
    } else if (mb_func_writes(func) && n > 5) {
        put_values(b, func, p + 5, n - 5);
    }
}

void
traffic_put_text(struct buf *b, bool request, const uint8_t *pdu, size_t n)
{
    unsigned func = n > 0 ? pdu[0] & 0x7Fu : 0;
    if (func >= ARRAY_LEN(functions) || !functions[func])
        return;
    buf_puts(b, functions[func]);
    if (pdu[0] & 0x80) {
        if (n > 1)
            buf_printf(b, ": exception %u, %s", pdu[1], mb_exception_text(pdu[1]));
    } else if (!request && mb_func_reads(func)) {
        if (n > 2)
            put_values(b, func, pdu + 2, n - 2);
    } else if (n >= MB_HEAD_SIZE) {
        put_request(b, func, pdu + 1, n - 1);
    }
}
