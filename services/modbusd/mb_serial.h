/*
 * Modbus frames on serial lines: bytes out of a request, and what bytes that
 * were received hold for the one who waits for its answer. Pure functions over
 * bytes; nothing here blocks, allocates, keeps state or knows the time.
 *
 * Modbus over Serial Line V1.02 (section numbers below): RTU is mb_rtu.c,
 * ASCII is mb_ascii.c.
 */
#ifndef FIELDGATE_MB_SERIAL_H
#define FIELDGATE_MB_SERIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "services/modbusd/mb_pdu.h"

enum {
    MB_RTU_MAX = 1 + MB_PDU_MAX + 2,             /* unit, PDU, CRC (2.5.1) */
    MB_ASCII_MAX = 1 + 2 * (MB_PDU_MAX + 2) + 2, /* colon, unit, PDU, LRC, CR LF (2.5.2) */
    MB_SERIAL_MAX = MB_ASCII_MAX,
    MB_ASCII_CHAR_US = 1000000, /* longest pause inside an ASCII frame (2.5.2.1) */
    /* Kernel and USB adapters hand characters over in lumps, up to 16 ms apart. */
    MB_LUMP_US = 30000,
};

/* Whose answer to what is awaited: the unit, and how the PDU of the request began. */
struct mb_awaited {
    uint8_t unit;
    uint8_t head[MB_HEAD_SIZE];
};

enum mb_seen {
    MB_SEEN_NOTHING, /* nothing of an answer yet */
    MB_SEEN_PART,    /* an answer may have begun */
    MB_SEEN_FRAME,   /* a whole frame of the unit; mb_pdu_check tells if it is the answer */
    MB_SEEN_CORRUPT, /* of the unit, but cut off or with a wrong checksum */
    MB_SEEN_FOREIGN, /* a whole frame of another unit */
};

struct mb_serial_frame {
    uint8_t pdu[MB_PDU_MAX];
    uint16_t n; /* 1..MB_PDU_MAX */
};

struct mb_framing {
    const char *name; /* as the API has it */
    /* The frame of a PDU of 1..MB_PDU_MAX bytes; returns its size. */
    size_t (*encode)(uint8_t unit, const uint8_t *pdu, size_t n, uint8_t out[MB_SERIAL_MAX]);
    /*
     * What all bytes since the request hold, whatever was on the line before
     * the answer. 'quiet': the line has been silent since, no more belong to it;
     * then the result is never MB_SEEN_PART. *ret_frame is set with
     * MB_SEEN_FRAME only.
     */
    enum mb_seen (*look)(const struct mb_awaited *a, const uint8_t *bytes, size_t n, bool quiet,
                         struct mb_serial_frame *ret_frame);
};
extern const struct mb_framing mb_rtu, mb_ascii;

/*
 * Silence between two frames of RTU in µs: 3.5 characters of 'char_ns', above
 * 19,200 baud 1.75 ms (2.5.1.1).
 */
uint64_t mb_rtu_silence_us(uint32_t baud_rate, uint64_t char_ns);

/* CRC-16 of RTU, sent low byte first (6.2.2); LRC of ASCII (6.2.1). */
uint16_t mb_crc16(const uint8_t *bytes, size_t n);
uint8_t mb_lrc(const uint8_t *bytes, size_t n);

/*
 * How long the PDU of the answer is that begins with 'func': the answer to the
 * request that began with 'head', an exception, or 0 for anything else.
 */
size_t mb_answer_size(const uint8_t head[MB_HEAD_SIZE], uint8_t func);

#endif
