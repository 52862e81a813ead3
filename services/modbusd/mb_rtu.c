/*
 * RTU frames (Modbus over Serial Line V1.02, 2.5.1). The end of a frame is
 * where the answer to the request must end; silence is the second means,
 * because a program cannot see 1.5 characters of it.
 */
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "services/modbusd/mb_serial.h"
#include "libcommon/banned.h"

enum { CRC_SIZE = 2, FRAME_MIN = 1 + 1 + CRC_SIZE };

uint64_t
mb_rtu_silence_us(uint32_t baud_rate, uint64_t char_ns)
{
    return baud_rate > 19200 ? 1750 : (7 * char_ns + 1999) / 2000;
}

/* One step of 6.2.2 for each value of a byte: polynomial 0xA001, low bit first. */
static uint16_t
crc_step(uint16_t crc, uint8_t byte)
{
    static const uint16_t of_nibble[16] = {
        0x0000, 0xCC01, 0xD801, 0x1400, 0xF001, 0x3C00, 0x2800, 0xE401,
        0xA001, 0x6C00, 0x7800, 0xB401, 0x5000, 0x9C01, 0x8801, 0x4400,
    };
    crc = (uint16_t)(crc >> 4 ^ of_nibble[(crc ^ byte) & 15]);
    return (uint16_t)(crc >> 4 ^ of_nibble[(crc ^ byte >> 4) & 15]);
}

uint16_t
mb_crc16(const uint8_t *bytes, size_t n)
{
    uint16_t crc = 0xFFFF;
    for (size_t i = 0; i < n; i++)
        crc = crc_step(crc, bytes[i]);
    return crc;
}

size_t
mb_answer_size(const uint8_t head[MB_HEAD_SIZE], uint8_t func)
{
    unsigned quantity = get_u16(head + 3);
    if (func == (head[0] | 0x80))
        return 2;
    if (func != head[0])
        return 0;
    if (!mb_func_reads(func))
        return MB_HEAD_SIZE;
    return 2 + (mb_func_bits(func) ? (quantity + 7u) / 8u : quantity * 2u);
}

static size_t
encode(uint8_t unit, const uint8_t *pdu, size_t n, uint8_t out[MB_SERIAL_MAX])
{
    MUST(n >= 1 && n <= MB_PDU_MAX);
    out[0] = unit;
    memcpy(out + 1, pdu, n);
    uint16_t crc = mb_crc16(out, 1 + n);
    out[1 + n] = (uint8_t)(crc & 0xFF);
    out[2 + n] = (uint8_t)(crc >> 8);
    return 1 + n + CRC_SIZE;
}

/* The CRC of a frame and of its CRC is zero. */
static bool
is_whole(const uint8_t *bytes, size_t n)
{
    return n >= FRAME_MIN && n <= MB_RTU_MAX && mb_crc16(bytes, n) == 0;
}

static enum mb_seen
give(const uint8_t *bytes, size_t n, struct mb_serial_frame *ret_frame)
{
    ret_frame->n = (uint16_t)(n - 1 - CRC_SIZE);
    memcpy(ret_frame->pdu, bytes + 1, ret_frame->n);
    return MB_SEEN_FRAME;
}

static enum mb_seen
look(const struct mb_awaited *a, const uint8_t *bytes, size_t n, bool quiet,
     struct mb_serial_frame *ret_frame)
{
    bool begun = false;
    for (size_t at = 0; at < n; at++) {
        if (bytes[at] != a->unit)
            continue;
        if (at + 1 == n) {
            begun |= !quiet; /* a single byte may be anything */
            break;
        }
        size_t size = mb_answer_size(a->head, bytes[at + 1]);
        if (size == 0)
            continue;
        size += 1 + CRC_SIZE;
        if (n - at >= size && is_whole(bytes + at, size))
            return give(bytes + at, size, ret_frame);
        begun = true;
    }
    if (!quiet)
        return begun ? MB_SEEN_PART : MB_SEEN_NOTHING;
    if (is_whole(bytes, n))
        return bytes[0] == a->unit ? give(bytes, n, ret_frame) : MB_SEEN_FOREIGN;
    return begun ? MB_SEEN_CORRUPT : MB_SEEN_NOTHING;
}

const struct mb_framing mb_rtu = { "RTU", encode, look };
