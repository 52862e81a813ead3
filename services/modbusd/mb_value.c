#include "services/modbusd/mb_value.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/str.h"
#include "libcommon/banned.h"

/* mb_type -> bytes, tag bus type */
static const struct {
    uint8_t size, tag_type;
} types[MB_N_TYPES] = {
    [MB_BOOLEAN] = { 2, TAG_BOOLEAN }, [MB_INT8] = { 1, TAG_INT8 },
    [MB_INT16] = { 2, TAG_INT16 },     [MB_INT32] = { 4, TAG_INT32 },
    [MB_INT64] = { 8, TAG_INT64 },     [MB_UINT8] = { 1, TAG_UINT8 },
    [MB_UINT16] = { 2, TAG_UINT16 },   [MB_UINT32] = { 4, TAG_UINT32 },
    [MB_UINT64] = { 8, TAG_UINT64 },   [MB_FLOAT] = { 4, TAG_FLOAT },
    [MB_DOUBLE] = { 8, TAG_DOUBLE },   [MB_STRING] = { 0, TAG_STRING },
    [MB_BYTEARRAY] = { 0, TAG_RAW },   [MB_RAW] = { 0, TAG_RAW },
};

static const uint8_t swap_mask[MB_SWAP_MAX + 1] = { 0, 1, 2, 3, 7, 6 };

bool
mb_type_sized(enum mb_type type)
{
    return types[type].size == 0;
}

static bool
is_signed(unsigned type)
{
    return type >= MB_INT8 && type <= MB_INT64;
}

static bool
is_integer(unsigned type)
{
    return type >= MB_INT8 && type <= MB_UINT64;
}

unsigned
mb_type_size(enum mb_type type, bool bits, unsigned type_size)
{
    if (mb_type_sized(type))
        return bits ? type_size * 8 : type_size;
    if (type == MB_BOOLEAN)
        return bits ? 1 : 2;
    return bits ? types[type].size * 8u : types[type].size;
}

const char *
mb_codec_init(struct mb_codec *c, enum mb_type type, bool bits, unsigned offset,
              unsigned type_size, unsigned data_size, unsigned swap,
              const struct mb_scaling *scaling)
{
    unsigned size = mb_type_size(type, bits, type_size);
    if (size == 0 || (mb_type_sized(type) && type_size > TAG_BYTES_MAX))
        return "dataSize must be 1..4000";
    if (offset > data_size || size > data_size - offset)
        return "offset and size of the tag lie outside the data of the command";
    if (bits && (type == MB_FLOAT || type == MB_DOUBLE || type == MB_STRING))
        return "this dataType cannot be made of bits";
    if (bits && mb_type_sized(type) && offset % 8)
        return "offset of bytes among bits must be a multiple of 8";
    if (!bits && type == MB_BOOLEAN && offset % 2)
        return "offset of a boolean among registers must be even";
    *c = (struct mb_codec){
        .type = (uint8_t)type,
        .mask = type == MB_RAW || bits || type == MB_BOOLEAN ? 0 : swap_mask[swap],
        .bits = bits,
        .scaled = scaling->on && (is_integer(type) || type == MB_FLOAT || type == MB_DOUBLE),
        .offset = (uint16_t)offset,
        .size = (uint16_t)size,
    };
    if (!mb_type_sized(type))
        c->mask &= (uint8_t)(types[type].size == 1 ? 1 : types[type].size - 1);
    return NULL;
}

uint8_t
mb_codec_tag_type(const struct mb_codec *c)
{
    return c->scaled ? TAG_DOUBLE : types[c->type].tag_type;
}

bool
mb_codec_writable(const struct mb_codec *c, const struct mb_scaling *scaling)
{
    if (c->scaled && scaling->slope == 0)
        return false;
    return c->bits || (c->offset % 2 == 0 && c->size % 2 == 0);
}

static uint64_t
get_bits(const uint8_t *data, unsigned at, unsigned n)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < n; i++, at++)
        v |= (uint64_t)(data[at / 8] >> at % 8 & 1) << i;
    return v;
}

static void
put_bits(uint8_t *out, unsigned n, uint64_t v)
{
    memset(out, 0, (n + 7) / 8);
    for (unsigned i = 0; i < n; i++)
        out[i / 8] |= (uint8_t)((v >> i & 1) << i % 8);
}

static uint64_t
get_bytes(const uint8_t *p, unsigned n, unsigned mask)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < n; i++)
        v = v << 8 | p[i ^ mask];
    return v;
}

/* Exchanges bytes in whole groups; a rest keeps smaller groups, at last single bytes. */
static void
swap_bytes(uint8_t *out, const uint8_t *in, unsigned n, unsigned mask)
{
    for (unsigned done = 0, group = 8; group >= 1; group /= 2)
        for (; n - done >= group; done += group)
            for (unsigned i = 0; i < group; i++)
                out[done + i] = in[done + (i ^ (mask & (group - 1)))];
}

/* Bytes up to the first NUL that are valid UTF-8; others become '?'. */
static uint16_t
clean_text(uint8_t *text, unsigned n)
{
    const uint8_t *nul = memchr(text, 0, n);
    if (nul)
        n = (unsigned)(nul - text);
    for (unsigned i = 0; i < n;) {
        unsigned len = 1;
        while (len <= 4 && i + len <= n && !utf8_valid((const char *)text + i, len))
            len++;
        if (len > 4 || i + len > n) {
            text[i] = '?';
            len = 1;
        }
        i += len;
    }
    return (uint16_t)n;
}

static int64_t
sign_extend(uint64_t v, unsigned n_bytes)
{
    unsigned shift = 64 - 8 * n_bytes;
    return (int64_t)(v << shift) >> shift;
}

static double
as_double(unsigned type, uint64_t bits)
{
    if (type == MB_DOUBLE) {
        double d;
        memcpy(&d, &bits, sizeof(d));
        return d;
    }
    if (type == MB_FLOAT) {
        uint32_t word = (uint32_t)bits;
        float f;
        memcpy(&f, &word, sizeof(f));
        return (double)f;
    }
    return is_signed(type) ? (double)sign_extend(bits, types[type].size) : (double)bits;
}

static void
decode_bytes(const struct mb_codec *c, const uint8_t *data, uint8_t *room,
             struct tag_value *ret_value)
{
    unsigned n = c->bits ? c->size / 8u : c->size;
    const uint8_t *p = data + (c->bits ? c->offset / 8u : c->offset);
    swap_bytes(room, p, n, c->mask);
    ret_value->type = types[c->type].tag_type;
    ret_value->u = 0;
    ret_value->bytes = room;
    ret_value->n_bytes = c->type == MB_STRING ? clean_text(room, n) : (uint16_t)n;
}

void
mb_decode(const struct mb_codec *c, const struct mb_scaling *scaling, const uint8_t *data,
          uint8_t *room, struct tag_value *ret_value)
{
    if (types[c->type].size == 0) {
        decode_bytes(c, data, room, ret_value);
        return;
    }
    ret_value->bytes = NULL;
    ret_value->n_bytes = 0;
    uint64_t v;
    if (c->bits)
        v = get_bits(data, c->offset, c->size);
    else if (c->size == 1)
        v = data[c->offset ^ c->mask];
    else
        v = get_bytes(data + c->offset, c->size, c->mask);
    if (c->scaled) {
        ret_value->type = TAG_DOUBLE;
        ret_value->d = scaling->slope * as_double(c->type, v) + scaling->offset;
        return;
    }
    ret_value->type = types[c->type].tag_type;
    if (c->type == MB_BOOLEAN) {
        ret_value->u = 0;
        ret_value->b = v != 0;
    } else if (is_signed(c->type)) {
        ret_value->i = sign_extend(v, types[c->type].size);
    } else if (c->type == MB_FLOAT || c->type == MB_DOUBLE) {
        ret_value->d = as_double(c->type, v);
    } else {
        ret_value->u = v;
    }
}

static int
encode_bytes(const struct mb_codec *c, const struct tag_value *v, uint8_t *out)
{
    unsigned n = c->bits ? c->size / 8u : c->size;
    if (v->n_bytes > n || (c->type != MB_STRING && v->n_bytes != n))
        return -ERANGE;
    /* It would be read back as another text. */
    if (c->type == MB_STRING && v->n_bytes &&
        (memchr(v->bytes, 0, v->n_bytes) || !utf8_valid((const char *)v->bytes, v->n_bytes)))
        return -EINVAL;
    uint8_t whole[TAG_BYTES_MAX] = { 0 };
    if (v->n_bytes)
        memcpy(whole, v->bytes, v->n_bytes);
    swap_bytes(out, whole, n, c->mask);
    return 0;
}

/* 'd' as the bits of the raw type, rounded to the nearest. */
static int
from_double(unsigned type, double d, uint64_t *ret_bits)
{
    if (!isfinite(d))
        return -EINVAL;
    if (type == MB_DOUBLE) {
        memcpy(ret_bits, &d, sizeof(d));
        return 0;
    }
    if (type == MB_FLOAT) {
        float f = (float)d;
        uint32_t word;
        if (!isfinite(f))
            return -ERANGE;
        memcpy(&word, &f, sizeof(word));
        *ret_bits = word;
        return 0;
    }
    d = round(d);
    int width = 8 * types[type].size;
    double top = ldexp(1, is_signed(type) ? width - 1 : width);
    if (d >= top || d < (is_signed(type) ? -top : 0))
        return -ERANGE;
    *ret_bits = is_signed(type) ? (uint64_t)(int64_t)d : (uint64_t)d;
    return 0;
}

static int
raw_bits(const struct mb_codec *c, const struct mb_scaling *scaling, const struct tag_value *v,
         uint64_t *ret_bits)
{
    if (c->scaled)
        return from_double(c->type, (v->d - scaling->offset) / scaling->slope, ret_bits);
    if (c->type == MB_BOOLEAN) {
        *ret_bits = v->b;
        return 0;
    }
    if (c->type == MB_FLOAT || c->type == MB_DOUBLE)
        return from_double(c->type, v->d, ret_bits);
    unsigned width = 8u * types[c->type].size;
    if (is_signed(c->type)) {
        if (sign_extend((uint64_t)v->i, types[c->type].size) != v->i)
            return -ERANGE;
    } else if (width < 64 && v->u >> width) {
        return -ERANGE;
    }
    *ret_bits = v->u;
    return 0;
}

int
mb_encode(const struct mb_codec *c, const struct mb_scaling *scaling, const struct tag_value *v,
          uint8_t *out)
{
    if (v->type != mb_codec_tag_type(c))
        return -EINVAL;
    if (types[c->type].size == 0)
        return encode_bytes(c, v, out);
    uint64_t bits = 0;
    int r = raw_bits(c, scaling, v, &bits);
    if (r < 0)
        return r;
    if (c->bits) {
        put_bits(out, c->size, bits);
        return 0;
    }
    for (unsigned i = 0; i < c->size; i++)
        out[i ^ (c->size > 1 ? c->mask : 0u)] = (uint8_t)(bits >> 8 * (c->size - 1 - i));
    return 0;
}
