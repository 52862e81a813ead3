/*
 * Types, values and bytes of the tag bus: proto/README.md section 3.
 */
#include "libcommon/tagbus.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/json.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

enum {
    BATCH_VERSION = 1,
    BATCH_HEADER = 32,
    BATCH_SAMPLE = 24,
    BATCH_TAIL_MAX = 1 << 20,
};

static const char *const type_texts[] = {
    [TAG_BOOLEAN] = "boolean", [TAG_INT8] = "int8",     [TAG_INT16] = "int16",
    [TAG_INT32] = "int32",     [TAG_INT64] = "int64",   [TAG_UINT8] = "uint8",
    [TAG_UINT16] = "uint16",   [TAG_UINT32] = "uint32", [TAG_UINT64] = "uint64",
    [TAG_FLOAT] = "float",     [TAG_DOUBLE] = "double", [TAG_STRING] = "string",
    [TAG_RAW] = "raw",
};

static const char *const quality_texts[] = {
    [TAG_GOOD] = "good",
    [TAG_UNCERTAIN] = "uncertain",
    [TAG_BAD_NEVER] = "never",
    [TAG_BAD_TIMEOUT] = "timeout",
    [TAG_BAD_CONNECTION] = "connection",
    [TAG_BAD_EXCEPTION] = "exception",
    [TAG_BAD_REPLY] = "reply",
    [TAG_BAD_CONFIG] = "config",
    [TAG_BAD_OFFLINE] = "offline",
};

const char *
tag_quality_text(uint8_t q)
{
    return q < ARRAY_LEN(quality_texts) ? quality_texts[q] : "unknown";
}

const char *
tag_type_text(uint8_t type)
{
    return type >= TAG_BOOLEAN && type <= TAG_RAW ? type_texts[type] : "unknown";
}

static bool
is_bytes(uint8_t type)
{
    return type == TAG_STRING || type == TAG_RAW;
}

/* ---- JSON ---- */

static void
raw_json(struct buf *b, const struct tag_value *v)
{
    char hex[2 * TAG_BYTES_MAX + 1];
    MUST(v->n_bytes <= TAG_BYTES_MAX);
    hex_encode(v->bytes, v->n_bytes, hex);
    jw_strn(b, hex, 2u * v->n_bytes);
}

void
tag_value_json(struct buf *b, const struct tag_value *v)
{
    switch (v->type) {
    case TAG_BOOLEAN:
        jw_bool(b, v->b);
        break;
    case TAG_INT8:
    case TAG_INT16:
    case TAG_INT32:
    case TAG_INT64:
        jw_i64(b, v->i);
        break;
    case TAG_UINT8:
    case TAG_UINT16:
    case TAG_UINT32:
    case TAG_UINT64:
        jw_u64(b, v->u);
        break;
    case TAG_FLOAT:
        jw_float(b, (float)v->d);
        break;
    case TAG_DOUBLE:
        jw_double(b, v->d);
        break;
    case TAG_STRING:
        jw_strn(b, (const char *)v->bytes, v->n_bytes);
        break;
    case TAG_RAW:
        raw_json(b, v);
        break;
    default:
        jw_null(b);
    }
}

/* Least and most of the signed and the unsigned types, by enum tag_type. */
static const struct {
    int64_t min;
    uint64_t max;
} int_ranges[] = {
    [TAG_INT8] = { INT8_MIN, INT8_MAX },    [TAG_INT16] = { INT16_MIN, INT16_MAX },
    [TAG_INT32] = { INT32_MIN, INT32_MAX }, [TAG_INT64] = { INT64_MIN, INT64_MAX },
    [TAG_UINT8] = { 0, UINT8_MAX },         [TAG_UINT16] = { 0, UINT16_MAX },
    [TAG_UINT32] = { 0, UINT32_MAX },       [TAG_UINT64] = { 0, UINT64_MAX },
};

static int
number_from_json(const struct cJSON *item, uint8_t type, struct tag_value *v)
{
    const char *text = json_number(item);
    if (text == NULL)
        return -EINVAL;
    if (type >= TAG_INT8 && type <= TAG_INT64)
        return parse_i64(text, int_ranges[type].min, (int64_t)int_ranges[type].max, &v->i);
    if (type >= TAG_UINT8 && type <= TAG_UINT64) {
        int64_t negative = 0;
        if (text[0] == '-') /* an integer below zero is out of range, not of another kind */
            return parse_i64(text, INT64_MIN, INT64_MAX, &negative) == -EINVAL ? -EINVAL
                                                                               : -ERANGE;
        return parse_u64(text, 0, int_ranges[type].max, &v->u);
    }
    int r = parse_double(text, &v->d);
    if (r < 0 || type == TAG_DOUBLE)
        return r;
    v->d = (double)(float)v->d;
    return isfinite(v->d) ? 0 : -ERANGE;
}

static int
bytes_from_json(const struct cJSON *item, uint8_t type, size_t max_bytes, struct tag_value *v)
{
    const char *text = json_text(item);
    if (text == NULL)
        return -EINVAL;
    size_t len = strlen(text);
    size_t n = type == TAG_RAW ? len / 2 : len;
    if (n > max_bytes || n > TAG_BYTES_MAX)
        return -ERANGE;
    CLEANUP(freep) uint8_t *bytes = malloc(n + 1);
    if (bytes == NULL)
        return -ENOMEM;
    if (type == TAG_STRING)
        memcpy(bytes, text, n);
    else if (hex_decode(text, len, bytes, n) != (int)n)
        return -EINVAL;
    v->n_bytes = (uint16_t)n;
    v->bytes = MOVE_PTR(bytes);
    return 0;
}

int
tag_value_from_json(const struct cJSON *item, uint8_t type, size_t max_bytes,
                    struct tag_value *ret_value)
{
    struct tag_value v = { .type = type };
    int r = 0;
    if (is_bytes(type))
        r = bytes_from_json(item, type, max_bytes, &v);
    else if (type == TAG_BOOLEAN && cJSON_IsBool(item))
        v.u = cJSON_IsTrue(item) ? 1 : 0;
    else if (type > TAG_BOOLEAN && type < TAG_STRING)
        r = number_from_json(item, type, &v);
    else
        r = -EINVAL;
    if (r == 0)
        *ret_value = v;
    return r;
}

void
tag_value_done(struct tag_value *v)
{
    if (is_bytes(v->type)) {
        union { /* the bytes came from malloc in bytes_from_json */
            const uint8_t *shown;
            void *owned;
        } bytes = { .shown = v->bytes };
        free(bytes.owned);
    }
    *v = (struct tag_value){ 0 };
}

bool
tag_value_equal(const struct tag_value *a, const struct tag_value *b)
{
    if (a->type != b->type)
        return false;
    if (is_bytes(a->type))
        return a->n_bytes == b->n_bytes &&
               (a->n_bytes == 0 || memcmp(a->bytes, b->bytes, a->n_bytes) == 0);
    if (a->type == TAG_BOOLEAN)
        return a->b == b->b;
    return a->u == b->u; /* floats by their bits: NaN equals itself */
}

/* ---- one value ---- */

/* The eight bytes of a value that is no text. */
static uint64_t
value_bits(const struct tag_value *v)
{
    return v->type == TAG_BOOLEAN ? v->b : v->u;
}

/* Is this a kind of value, and are its eight bytes sound? */
static inline bool
bits_are_sound(uint8_t type, uint64_t bits)
{
    return type > TAG_BOOLEAN ? type < TAG_STRING : type == TAG_BOOLEAN && bits <= 1;
}

void
tag_value_encode(struct buf *b, const struct tag_value *v)
{
    buf_put_u8(b, v->type);
    if (is_bytes(v->type)) {
        MUST(v->n_bytes <= TAG_BYTES_MAX);
        buf_put_str16(b, (const char *)v->bytes, v->n_bytes);
    } else {
        buf_put_u64(b, value_bits(v));
    }
}

int
tag_value_decode(struct rd *in, struct tag_value *ret_value)
{
    struct tag_value v = { .type = rd_u8(in) };
    if (is_bytes(v.type)) {
        size_t n = 0;
        v.bytes = (const uint8_t *)rd_str16(in, &n);
        if (v.bytes == NULL || n > TAG_BYTES_MAX)
            return -EBADMSG;
        v.n_bytes = (uint16_t)n;
    } else {
        v.u = rd_u64(in);
        if (in->bad || !bits_are_sound(v.type, v.u))
            return -EBADMSG;
    }
    *ret_value = v;
    return 0;
}

void
tag_sample_encode(struct buf *b, const struct tag_sample *s)
{
    buf_put_u32(b, s->no);
    buf_put_u8(b, s->quality);
    buf_put_u8(b, s->aux);
    buf_put_u64(b, (uint64_t)s->ts_us);
    tag_value_encode(b, &s->value);
}

int
tag_sample_decode(struct rd *in, struct tag_sample *ret_sample)
{
    struct tag_sample s;
    s.no = rd_u32(in);
    s.quality = rd_u8(in);
    s.aux = rd_u8(in);
    s.ts_us = (int64_t)rd_u64(in);
    if (s.quality > TAG_BAD_OFFLINE || tag_value_decode(in, &s.value) < 0)
        return -EBADMSG;
    *ret_sample = s;
    return 0;
}

/* ---- definitions ---- */

void
tag_def_encode(struct buf *b, const struct tag_def *d)
{
    buf_put_u32(b, d->no);
    buf_put_u8(b, d->type);
    buf_put_u8(b, d->access);
    buf_put_u16(b, d->size);
    buf_put_u32(b, d->interval_ms);
    buf_put_str8(b, d->provider, strlen(d->provider));
    buf_put_str8(b, d->source, strlen(d->source));
    buf_put_str8(b, d->name, strlen(d->name));
    buf_put_str8(b, d->unit, strlen(d->unit));
}

static int
read_text(struct rd *in, char *out, size_t out_size)
{
    size_t len = 0;
    const char *p = rd_str8(in, &len);
    if (p == NULL || memchr(p, '\0', len) != NULL || !utf8_valid(p, len) ||
        str_copy_len(out, out_size, p, len) < 0)
        return -EBADMSG;
    return 0;
}

int
tag_def_decode(struct rd *in, struct tag_def *d)
{
    d->no = rd_u32(in);
    d->type = rd_u8(in);
    d->access = rd_u8(in);
    d->size = rd_u16(in);
    d->interval_ms = rd_u32(in);
    if (d->no == 0 || d->type < TAG_BOOLEAN || d->type > TAG_RAW ||
        d->access > (TAG_ACCESS_READ | TAG_ACCESS_WRITE) || d->size > TAG_BYTES_MAX)
        return -EBADMSG;
    if (read_text(in, d->provider, sizeof(d->provider)) < 0 ||
        read_text(in, d->source, sizeof(d->source)) < 0 ||
        read_text(in, d->name, sizeof(d->name)) < 0 ||
        read_text(in, d->unit, sizeof(d->unit)) < 0)
        return -EBADMSG;
    return 0;
}

/* ---- batches ---- */

int
tag_batch_open(struct rd *in, struct tag_batch *ret_batch)
{
    const uint8_t *p = rd_bytes(in, BATCH_HEADER);
    if (p == NULL || p[0] != 'F' || p[1] != 'T' || p[2] != BATCH_VERSION || p[3] != 0)
        return -EBADMSG;
    uint16_t count = get_u16(p + 24);
    uint32_t tail = get_u32(p + 28);
    if (count > TAG_BATCH_MAX || tail > BATCH_TAIL_MAX || get_u16(p + 26) != 0 ||
        rd_left(in) != (size_t)count * BATCH_SAMPLE + tail)
        return -EBADMSG;
    *ret_batch = (struct tag_batch){
        .epoch = get_u64(p + 4),
        .seq = get_u64(p + 12),
        .generation = get_u32(p + 20),
        .count = count,
    };
    return 0;
}

/* A text value: how far before the end of the message its bytes begin, and how many. */
static int
decode_bytes(const uint8_t *p, const uint8_t *after, const uint8_t *end, struct tag_value *v)
{
    uint32_t back = get_u32(p + 16);
    uint32_t n = get_u32(p + 20);
    if (n > TAG_BYTES_MAX || n > back || back > (size_t)(end - after))
        return -EBADMSG;
    v->u = 0;
    v->bytes = end - back;
    v->n_bytes = (uint16_t)n;
    return 0;
}

static inline int
decode_sample(const uint8_t *p, const uint8_t *end, struct tag_sample *s)
{
    uint8_t type = p[4];
    s->no = get_u32(p);
    s->quality = p[5];
    s->aux = p[6];
    s->ts_us = (int64_t)get_u64(p + 8);
    s->value.type = type;
    s->value.u = get_u64(p + 16);
    s->value.bytes = NULL;
    s->value.n_bytes = 0;
    if (s->quality > TAG_BAD_OFFLINE || p[7] != 0)
        return -EBADMSG;
    if (bits_are_sound(type, s->value.u))
        return 0;
    return is_bytes(type) ? decode_bytes(p, p + BATCH_SAMPLE, end, &s->value) : -EBADMSG;
}

int
tag_batch_next(struct rd *in, struct tag_sample *ret_sample)
{
    const uint8_t *p = rd_bytes(in, BATCH_SAMPLE);
    return p == NULL ? -EBADMSG : decode_sample(p, in->end, ret_sample);
}

int
tag_batch_samples(struct rd *in, const struct tag_batch *batch, struct tag_sample *samples)
{
    const uint8_t *p = rd_bytes(in, (size_t)batch->count * BATCH_SAMPLE);
    if (p == NULL)
        return -EBADMSG;
    for (size_t i = 0; i < batch->count; i++)
        if (decode_sample(p + i * BATCH_SAMPLE, in->end, &samples[i]) < 0)
            return -EBADMSG;
    return 0;
}

void
tag_batch_builder_init(struct tag_batch_builder *b)
{
    buf_init(&b->head, BATCH_HEADER + TAG_BATCH_MAX * BATCH_SAMPLE + BATCH_TAIL_MAX);
    buf_init(&b->tail, BATCH_TAIL_MAX);
    b->count = 0;
}

void
tag_batch_builder_done(struct tag_batch_builder *b)
{
    buf_done(&b->head);
    buf_done(&b->tail);
    b->count = 0;
}

/* The room for the header, once per batch. */
static int
batch_begin(struct tag_batch_builder *b)
{
    buf_reset(&b->head);
    buf_reset(&b->tail);
    if (buf_reserve(&b->head, BATCH_HEADER) == NULL)
        return -ENOMEM;
    b->head.len = BATCH_HEADER;
    return 0;
}

int
tag_batch_put(struct tag_batch_builder *b, const struct tag_sample *s)
{
    const struct tag_value *v = &s->value;
    if (b->count == TAG_BATCH_MAX)
        return -E2BIG;
    if (b->count == 0 && batch_begin(b) < 0)
        return -ENOMEM;
    uint8_t *p = (uint8_t *)buf_reserve(&b->head, BATCH_SAMPLE);
    if (p == NULL)
        return -ENOMEM;
    put_u32(p, s->no);
    p[4] = v->type;
    p[5] = s->quality;
    p[6] = s->aux;
    p[7] = 0;
    put_u64(p + 8, (uint64_t)s->ts_us);
    if (is_bytes(v->type)) {
        MUST(v->n_bytes <= TAG_BYTES_MAX);
        put_u32(p + 16, (uint32_t)b->tail.len); /* from the start; tag_batch_finish turns it */
        put_u32(p + 20, v->n_bytes);
        buf_put(&b->tail, v->bytes, v->n_bytes);
        if (b->tail.err != 0) {
            int r = b->tail.err;
            b->tail.err = 0; /* what is in it is whole */
            return r;
        }
    } else {
        put_u64(p + 16, value_bits(v));
    }
    b->head.len += BATCH_SAMPLE;
    b->count++;
    return 0;
}

int
tag_batch_finish(struct tag_batch_builder *b, uint64_t epoch, uint64_t seq, uint32_t generation,
                 struct bus_str *ret_message)
{
    if (b->count == 0 && batch_begin(b) < 0)
        return -ENOMEM;
    uint32_t tail = (uint32_t)b->tail.len;
    if (tail > 0) {
        uint8_t *p = (uint8_t *)b->head.data + BATCH_HEADER;
        for (size_t i = 0; i < b->count; i++, p += BATCH_SAMPLE)
            if (is_bytes(p[4]))
                put_u32(p + 16, tail - get_u32(p + 16));
        buf_put(&b->head, b->tail.data, tail);
    }
    uint16_t count = b->count;
    b->count = 0;
    if (b->head.err != 0)
        return b->head.err;
    uint8_t *h = (uint8_t *)b->head.data;
    h[0] = 'F';
    h[1] = 'T';
    h[2] = BATCH_VERSION;
    h[3] = 0;
    put_u64(h + 4, epoch);
    put_u64(h + 12, seq);
    put_u32(h + 20, generation);
    put_u16(h + 24, count);
    put_u16(h + 26, 0);
    put_u32(h + 28, tail);
    *ret_message = (struct bus_str){ .p = b->head.data, .len = (uint32_t)b->head.len };
    return 0;
}
