/*
 * Which reads of neighbouring addresses of one device go into one request, and
 * how its answer is cut up again. Pure functions over ranges and bytes; who
 * asks them and what an answer means is mb_engine.c's and mb_group.c's.
 */
#ifndef FIELDGATE_MB_MERGE_H
#define FIELDGATE_MB_MERGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Addresses [addr, addr + n), of bits or registers; addr + n <= 65536. */
struct mb_range {
    uint32_t addr, n;
};

/* Both in registers, 16 bits count as one: for reads of bits they are taken 16-fold. */
struct mb_merge_limits {
    uint32_t gap;      /* most addresses between two ranges that nobody asked for, 0..124 */
    uint32_t quantity; /* most addresses in a merged request, 1..125 */
};

/*
 * Joins 'ranges', which are in order of addr, into requests of neighbours:
 * ret_first[i] says whether range i begins a request, which then goes to the
 * next one that does. Each request takes in as many as fit. A range larger than
 * the limit is a request by itself. Returns the number of requests.
 */
size_t mb_merge_plan(const struct mb_range *ranges, size_t n,
                     const struct mb_merge_limits *limits, bool bits, bool *ret_first);

/*
 * The part of an answer's data that is 'part' of 'whole', which holds it: registers
 * big-endian, bits packed from bit 0 (Modbus Application Protocol V1.1b3, 6.1
 * and 6.3). ret_data has room for it; bits above the last are zero.
 */
void mb_merge_cut(const uint8_t *data, const struct mb_range *whole,
                  const struct mb_range *part, bool bits, uint8_t *ret_data);

#endif
