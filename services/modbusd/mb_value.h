/*
 * Values of tags out of the data of a command, and back.
 *
 * The data of a register command is its registers as received, two bytes
 * each, high byte first; a tag's offset counts these bytes. The data of a
 * command that reads or writes bits is one bit per coil or input; a tag's
 * offset counts bits, and an integer takes as many bits as it is wide, the
 * first one lowest.
 *
 * Order of bytes (member "swap" of a command or a zone), for a value ABCDEFGH that was
 * sent with A at the lowest offset:
 *
 *   swap              16 bit   32 bit   64 bit
 *   0 none            AB       ABCD     ABCDEFGH
 *   1 byte            BA       BADC     BADCFEHG
 *   2 word            AB       CDAB     CDABGHEF
 *   3 byte and word   BA       DCBA     DCBAHGFE
 *   4 all bytes       BA       DCBA     HGFEDCBA  (little-endian)
 *   5 all words       AB       CDAB     GHEFCDAB  (little-endian, bytes exchanged)
 *
 * In strings and byte arrays the same exchange happens in each whole group of
 * eight, four or two bytes; raw is never exchanged. A single byte (int8,
 * uint8) is taken from the other half of its register when bytes are
 * exchanged. A boolean in registers is "the register at this offset is not
 * zero".
 */
#ifndef FIELDGATE_MB_VALUE_H
#define FIELDGATE_MB_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/tagbus.h"

/* Data types of the API, in the order of the schema's enum. */
enum mb_type {
    MB_BOOLEAN,
    MB_INT8,
    MB_INT16,
    MB_INT32,
    MB_INT64,
    MB_UINT8,
    MB_UINT16,
    MB_UINT32,
    MB_UINT64,
    MB_FLOAT,
    MB_DOUBLE,
    MB_STRING,
    MB_BYTEARRAY,
    MB_RAW,
    MB_N_TYPES
};

enum { MB_SWAP_MAX = 5 };

/* value = slope * raw + offset; a scaled number is published as double. */
struct mb_scaling {
    bool on;
    double slope, offset;
};

/* How one tag lies in the data: made once, used for every reply. */
struct mb_codec {
    uint8_t type; /* enum mb_type */
    uint8_t mask; /* exchange of bytes: index ^ mask */
    bool bits;    /* the data are bits */
    bool scaled;
    uint16_t offset; /* bytes, or bits */
    uint16_t size;   /* bytes of the value, or bits */
};

/*
 * 'data_size' is the number of bytes (or bits) of the command's data,
 * 'type_size' the tag's dataSize for string, bytearray and raw. Returns NULL,
 * or what is wrong with it (static text).
 */
const char *mb_codec_init(struct mb_codec *c, enum mb_type type, bool bits, unsigned offset,
                          unsigned type_size, unsigned data_size, unsigned swap,
                          const struct mb_scaling *scaling);

/* Bytes (or bits) a value takes; 'type_size' as above. */
unsigned mb_type_size(enum mb_type type, bool bits, unsigned type_size);
/* Is dataSize given for this type? */
bool mb_type_sized(enum mb_type type);
/* The type on the tag bus (enum tag_type). */
uint8_t mb_codec_tag_type(const struct mb_codec *c);
/* Can it be written without reading first? A half register cannot. */
bool mb_codec_writable(const struct mb_codec *c, const struct mb_scaling *scaling);

/*
 * 'data' holds the command's data as mb_codec_init was told. Bytes of string,
 * bytearray and raw go to 'room' (c->size bytes), which ret_value then points
 * to. A string ends at its first NUL; bytes that are no UTF-8 become '?'.
 */
void mb_decode(const struct mb_codec *c, const struct mb_scaling *scaling, const uint8_t *data,
               uint8_t *room, struct tag_value *ret_value);

/*
 * The bytes (or packed bits from bit 0) of 'v' in 'out', which holds
 * (c->size + 7) / 8 or c->size bytes. Returns 0; -EINVAL: 'v' is not of the
 * codec's tag type, not finite, or a text with a NUL or not of UTF-8;
 * -ERANGE: does not fit.
 */
int mb_encode(const struct mb_codec *c, const struct mb_scaling *scaling,
              const struct tag_value *v, uint8_t *out);

#endif
