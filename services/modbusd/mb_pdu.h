/*
 * Modbus on the wire: requests into bytes, replies checked against the
 * request they answer, frames cut out of a TCP stream. Pure functions over
 * bytes; nothing here blocks, allocates or keeps state.
 *
 * Modbus Application Protocol V1.1b3 (section numbers below) and Modbus
 * Messaging on TCP/IP V1.0b (section 3.1.3: the MBAP header).
 */
#ifndef FIELDGATE_MB_PDU_H
#define FIELDGATE_MB_PDU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MB_PDU_MAX = 253,   /* function code and its data */
    MB_HEADER_SIZE = 7, /* transaction, protocol, length, unit */
    MB_ADU_MAX = MB_HEADER_SIZE + MB_PDU_MAX,
    MB_HEAD_SIZE = 5,         /* of a request: function, address, quantity */
    MB_READ_BITS_MAX = 2000,  /* 6.1 */
    MB_READ_REGS_MAX = 125,   /* 6.3 */
    MB_WRITE_BITS_MAX = 1968, /* 6.11 */
    MB_WRITE_REGS_MAX = 123,  /* 6.12 */
    MB_RW_WRITE_MAX = 121,    /* 6.17 */
};

enum mb_func {
    MB_READ_COILS = 1,
    MB_READ_INPUT_BITS = 2,
    MB_READ_HOLDING = 3,
    MB_READ_INPUT = 4,
    MB_WRITE_COIL = 5,
    MB_WRITE_REG = 6,
    MB_WRITE_COILS = 15,
    MB_WRITE_REGS = 16,
    MB_READ_WRITE_REGS = 23,
};

/* Does the function read (23 does both), write, count in bits? */
bool mb_func_reads(unsigned func);
bool mb_func_writes(unsigned func);
bool mb_func_bits(unsigned func);
/* Most bits or registers it may read or write in one request; 0: it does not. */
unsigned mb_func_read_max(unsigned func);
unsigned mb_func_write_max(unsigned func);

/* What one request asks. */
struct mb_ask {
    uint8_t func;                 /* enum mb_func */
    uint16_t addr, n;             /* read part */
    uint16_t write_addr, n_write; /* write part: bits or registers */
    const uint8_t *data; /* to write: registers big-endian, or bits packed from bit 0 */
};

/*
 * The PDU of 'ask' in 'out'. Returns its size, or -EINVAL when a quantity is
 * zero or more than the function takes, or an address runs past 65535.
 */
int mb_pdu_encode(const struct mb_ask *ask, uint8_t out[MB_PDU_MAX]);

enum mb_check { MB_CHECK_OK, MB_CHECK_EXCEPTION, MB_CHECK_BAD };
/*
 * Does 'pdu' answer the request that began with 'head'? MB_CHECK_OK with the
 * data of a read (NULL and 0 for writes), MB_CHECK_EXCEPTION with its code,
 * MB_CHECK_BAD for another function, a wrong length, count or echo.
 */
enum mb_check mb_pdu_check(const uint8_t head[MB_HEAD_SIZE], const uint8_t *pdu, size_t n,
                           const uint8_t **ret_data, size_t *ret_n, uint8_t *ret_exception);
/* "illegal data address", … ; "unknown" for codes the standard does not name. */
const char *mb_exception_text(unsigned code);

/* ---- frames ---- */

struct mb_frame {
    uint16_t tid;
    uint8_t unit;
    const uint8_t *pdu;
    size_t n;    /* of the PDU */
    size_t size; /* of the whole frame */
};

/* Header and PDU in 'out'; returns their size. n is 1..MB_PDU_MAX. */
size_t mb_frame_encode(uint16_t tid, uint8_t unit, const uint8_t *pdu, size_t n,
                       uint8_t out[MB_ADU_MAX]);

enum mb_cut { MB_CUT_FRAME, MB_CUT_MORE, MB_CUT_LOST };
/*
 * The first frame of 'bytes'. MB_CUT_MORE: it is not complete yet.
 * MB_CUT_LOST: this cannot be the start of a frame (protocol not 0, or a
 * length below 2 or above 254), so the place of the next one is unknown.
 */
enum mb_cut mb_frame_cut(const uint8_t *bytes, size_t n, struct mb_frame *ret_frame);

#endif
