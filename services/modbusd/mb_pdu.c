#include "services/modbusd/mb_pdu.h"

#include <errno.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/banned.h"

bool
mb_func_reads(unsigned func)
{
    return func <= MB_READ_INPUT || func == MB_READ_WRITE_REGS;
}

bool
mb_func_writes(unsigned func)
{
    return func > MB_READ_INPUT;
}

bool
mb_func_bits(unsigned func)
{
    return func == MB_READ_COILS || func == MB_READ_INPUT_BITS || func == MB_WRITE_COIL ||
           func == MB_WRITE_COILS;
}

unsigned
mb_func_read_max(unsigned func)
{
    if (!mb_func_reads(func))
        return 0;
    return mb_func_bits(func) ? MB_READ_BITS_MAX : MB_READ_REGS_MAX;
}

unsigned
mb_func_write_max(unsigned func)
{
    switch (func) {
    case MB_WRITE_COIL:
    case MB_WRITE_REG:
        return 1;
    case MB_WRITE_COILS:
        return MB_WRITE_BITS_MAX;
    case MB_WRITE_REGS:
        return MB_WRITE_REGS_MAX;
    case MB_READ_WRITE_REGS:
        return MB_RW_WRITE_MAX;
    default:
        return 0;
    }
}

static bool
fits(unsigned addr, unsigned n, unsigned max)
{
    return n >= 1 && n <= max && addr + n <= 65536;
}

/* The data of a write: count byte and bytes. */
static size_t
put_data(const struct mb_ask *ask, size_t n_bytes, uint8_t *out)
{
    out[0] = (uint8_t)n_bytes;
    memcpy(out + 1, ask->data, n_bytes);
    /* Bits past the quantity are zero (6.11). */
    if (mb_func_bits(ask->func) && ask->n_write % 8)
        out[n_bytes] &= (uint8_t)((1u << ask->n_write % 8) - 1);
    return 1 + n_bytes;
}

int
mb_pdu_encode(const struct mb_ask *ask, uint8_t out[MB_PDU_MAX])
{
    unsigned read_max = mb_func_read_max(ask->func), write_max = mb_func_write_max(ask->func);
    if (read_max == 0 && write_max == 0)
        return -EINVAL;
    if (read_max && !fits(ask->addr, ask->n, read_max))
        return -EINVAL;
    if (write_max && !fits(ask->write_addr, ask->n_write, write_max))
        return -EINVAL;
    out[0] = ask->func;
    switch (ask->func) {
    case MB_WRITE_COIL:
        put_u16(out + 1, ask->write_addr);
        put_u16(out + 3, ask->data[0] & 1 ? 0xFF00 : 0);
        return 5;
    case MB_WRITE_REG:
        put_u16(out + 1, ask->write_addr);
        memcpy(out + 3, ask->data, 2);
        return 5;
    case MB_WRITE_COILS:
        put_u16(out + 1, ask->write_addr);
        put_u16(out + 3, ask->n_write);
        return (int)(5 + put_data(ask, (ask->n_write + 7u) / 8u, out + 5));
    case MB_WRITE_REGS:
        put_u16(out + 1, ask->write_addr);
        put_u16(out + 3, ask->n_write);
        return (int)(5 + put_data(ask, ask->n_write * 2u, out + 5));
    case MB_READ_WRITE_REGS:
        put_u16(out + 1, ask->addr);
        put_u16(out + 3, ask->n);
        put_u16(out + 5, ask->write_addr);
        put_u16(out + 7, ask->n_write);
        return (int)(9 + put_data(ask, ask->n_write * 2u, out + 9));
    default:
        put_u16(out + 1, ask->addr);
        put_u16(out + 3, ask->n);
        return 5;
    }
}

enum mb_check
mb_pdu_check(const uint8_t head[MB_HEAD_SIZE], const uint8_t *pdu, size_t n,
             const uint8_t **ret_data, size_t *ret_n, uint8_t *ret_exception)
{
    if (n == 2 && pdu[0] == (head[0] | 0x80)) {
        *ret_exception = pdu[1];
        return MB_CHECK_EXCEPTION;
    }
    if (n < 2 || pdu[0] != head[0])
        return MB_CHECK_BAD;
    if (mb_func_reads(head[0])) {
        unsigned quantity = get_u16(head + 3);
        size_t want = mb_func_bits(head[0]) ? (quantity + 7u) / 8u : quantity * 2u;
        if (pdu[1] != want || n != 2 + want)
            return MB_CHECK_BAD;
        *ret_data = pdu + 2;
        *ret_n = want;
        return MB_CHECK_OK;
    }
    /* 5 and 6 echo the request, 15 and 16 its address and quantity: the same five bytes. */
    if (n != MB_HEAD_SIZE || memcmp(pdu, head, MB_HEAD_SIZE) != 0)
        return MB_CHECK_BAD;
    *ret_data = NULL;
    *ret_n = 0;
    return MB_CHECK_OK;
}

const char *
mb_exception_text(unsigned code)
{
    static const char *const texts[] = {
        [1] = "illegal function",
        [2] = "illegal data address",
        [3] = "illegal data value",
        [4] = "server device failure",
        [5] = "acknowledge",
        [6] = "server device busy",
        [8] = "memory parity error",
        [10] = "gateway path unavailable",
        [11] = "gateway target device failed to respond",
    };
    return code < ARRAY_LEN(texts) && texts[code] ? texts[code] : "unknown";
}

size_t
mb_frame_encode(uint16_t tid, uint8_t unit, const uint8_t *pdu, size_t n,
                uint8_t out[MB_ADU_MAX])
{
    MUST(n >= 1 && n <= MB_PDU_MAX);
    put_u16(out, tid);
    put_u16(out + 2, 0);
    put_u16(out + 4, (uint16_t)(n + 1));
    out[6] = unit;
    memcpy(out + MB_HEADER_SIZE, pdu, n);
    return MB_HEADER_SIZE + n;
}

enum mb_cut
mb_frame_cut(const uint8_t *bytes, size_t n, struct mb_frame *ret_frame)
{
    /* Garbage is noticed as early as its bytes are there. */
    if ((n >= 3 && bytes[2] != 0) || (n >= 4 && bytes[3] != 0) || (n >= 5 && bytes[4] != 0))
        return MB_CUT_LOST;
    if (n < 6)
        return MB_CUT_MORE;
    unsigned len = get_u16(bytes + 4);
    if (len < 2 || len > 1 + MB_PDU_MAX)
        return MB_CUT_LOST;
    if (n < 6 + len)
        return MB_CUT_MORE;
    ret_frame->tid = get_u16(bytes);
    ret_frame->unit = bytes[6];
    ret_frame->pdu = bytes + MB_HEADER_SIZE;
    ret_frame->n = len - 1;
    ret_frame->size = 6 + len;
    return MB_CUT_FRAME;
}
