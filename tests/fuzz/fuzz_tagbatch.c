/*
 * Whatever comes from the tag bus, four times over: as a batch, as a page's
 * definitions, as its last values, as values alone. What is accepted points
 * only into the message, and is encoded to what decodes to the same
 * (proto/README.md sections 3 and 4).
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/json.h"
#include "libcommon/str.h"
#include "libcommon/tagbus.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool
is_bytes(uint8_t type)
{
    return type == TAG_STRING || type == TAG_RAW;
}

static void
check_value(const struct tag_value *v, const uint8_t *from, const uint8_t *to)
{
    MUST(v->type >= TAG_BOOLEAN && v->type <= TAG_RAW);
    if (!is_bytes(v->type)) {
        MUST(v->bytes == NULL && v->n_bytes == 0);
        MUST(v->type != TAG_BOOLEAN || v->u <= 1);
        return;
    }
    MUST(v->n_bytes <= TAG_BYTES_MAX);
    MUST(v->bytes >= from && v->bytes <= to && v->n_bytes <= to - v->bytes);
}

static void
check_same_sample(const struct tag_sample *a, const struct tag_sample *b)
{
    MUST(a->no == b->no && a->quality == b->quality && a->aux == b->aux);
    MUST(a->ts_us == b->ts_us && tag_value_equal(&a->value, &b->value));
}

/* What subscribers make of a value for clients is JSON whatever was in it. */
static void
check_json(const struct tag_value *v)
{
    struct buf b;
    struct json_error error;
    buf_init(&b, 1 << 20);
    tag_value_json(&b, v);
    MUST(b.err == 0);
    bool nul = v->type == TAG_STRING && memchr(v->bytes, '\0', v->n_bytes) != NULL;
    MUST(json_check(b.data, b.len, &error) == (nul ? -EINVAL : 0));
    buf_done(&b);
}

/* What was encoded must be the bytes it came as; read again from bytes of its own. */
static uint8_t *
copy_encoded(const struct buf *b, const uint8_t *from, const uint8_t *to)
{
    MUST(b->err == 0 && b->len == (size_t)(to - from));
    MUST(memcmp(b->data, from, b->len) == 0);
    uint8_t *copy = malloc(b->len);
    MUST(copy != NULL);
    memcpy(copy, b->data, b->len);
    return copy;
}

/* ---- a batch ---- */

/* Finishes what 'b' holds: the message is read to the same samples. */
static void
check_rebuilt(struct tag_batch_builder *b, const struct tag_batch *head,
              const struct tag_sample *samples)
{
    struct bus_str message;
    uint16_t count = b->count;
    MUST(tag_batch_finish(b, head->epoch, head->seq, head->generation, &message) == 0);
    MUST(b->count == 0);
    uint8_t *copy = malloc(message.len);
    MUST(copy != NULL);
    memcpy(copy, message.p, message.len);
    struct rd in;
    struct tag_batch again;
    rd_init(&in, copy, message.len);
    MUST(tag_batch_open(&in, &again) == 0 && again.count == count);
    MUST(again.epoch == head->epoch && again.seq == head->seq);
    MUST(again.generation == head->generation);
    for (size_t i = 0; i < count; i++) {
        struct tag_sample s;
        MUST(tag_batch_next(&in, &s) == 0);
        check_value(&s.value, in.at, copy + message.len);
        check_same_sample(&samples[i], &s);
    }
    free(copy);
}

/*
 * All samples into a new batch. Texts that shared bytes do so no more, and may
 * need more batches than the one they came in.
 */
static void
build_again(const struct tag_batch *head, const struct tag_sample *samples)
{
    struct tag_batch_builder b;
    size_t from = 0;
    tag_batch_builder_init(&b);
    for (size_t i = 0; i < head->count; i++) {
        int r = tag_batch_put(&b, &samples[i]);
        if (r == -E2BIG) {
            MUST(i > from);
            check_rebuilt(&b, head, samples + from);
            from = i;
            r = tag_batch_put(&b, &samples[i]);
        }
        MUST(r == 0 && b.count == i - from + 1);
    }
    check_rebuilt(&b, head, samples + from);
    tag_batch_builder_done(&b);
}

static void
read_batch(const uint8_t *data, size_t size)
{
    static struct tag_sample one[TAG_BATCH_MAX], all[TAG_BATCH_MAX];
    struct rd in;
    struct tag_batch head;
    rd_init(&in, data, size);
    if (tag_batch_open(&in, &head) < 0)
        return;
    MUST(head.count <= TAG_BATCH_MAX);
    struct rd whole = in;
    int r = 0;
    for (size_t i = 0; i < head.count && r == 0; i++) {
        r = tag_batch_next(&in, &one[i]);
        if (r == 0) /* bytes come after their sample */
            check_value(&one[i].value, in.at, data + size);
    }
    MUST(tag_batch_samples(&whole, &head, all) == r);
    if (r < 0)
        return;
    MUST(in.at == whole.at);
    for (size_t i = 0; i < head.count; i++) {
        check_same_sample(&one[i], &all[i]);
        check_json(&one[i].value);
    }
    build_again(&head, one);
}

/* ---- pages ---- */

static void
check_def(const struct tag_def *d)
{
    MUST(d->no != 0 && d->type >= TAG_BOOLEAN && d->type <= TAG_RAW);
    MUST(d->size <= TAG_BYTES_MAX && d->access <= (TAG_ACCESS_READ | TAG_ACCESS_WRITE));
    const char *texts[] = { d->provider, d->source, d->name, d->unit };
    const size_t sizes[] = { sizeof(d->provider), sizeof(d->source), sizeof(d->name),
                             sizeof(d->unit) };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        MUST(memchr(texts[i], '\0', sizes[i]) != NULL);
        MUST(utf8_valid(texts[i], strlen(texts[i])));
    }
}

static void
check_same_def(const struct tag_def *a, const struct tag_def *b)
{
    MUST(a->no == b->no && a->type == b->type && a->access == b->access);
    MUST(a->size == b->size && a->interval_ms == b->interval_ms);
    MUST(str_eq(a->provider, b->provider) && str_eq(a->source, b->source));
    MUST(str_eq(a->name, b->name) && str_eq(a->unit, b->unit));
}

static void
read_defs(const uint8_t *data, size_t size)
{
    struct rd in;
    rd_init(&in, data, size);
    while (rd_left(&in) > 0) {
        const uint8_t *from = in.at;
        struct tag_def d, again;
        if (tag_def_decode(&in, &d) < 0)
            return;
        check_def(&d);
        struct buf b;
        buf_init(&b, 4096);
        tag_def_encode(&b, &d);
        uint8_t *copy = copy_encoded(&b, from, in.at);
        struct rd back;
        rd_init(&back, copy, b.len);
        MUST(tag_def_decode(&back, &again) == 0 && rd_ended(&back));
        check_same_def(&d, &again);
        free(copy);
        buf_done(&b);
    }
}

static void
read_samples(const uint8_t *data, size_t size)
{
    struct rd in;
    rd_init(&in, data, size);
    while (rd_left(&in) > 0) {
        const uint8_t *from = in.at;
        struct tag_sample s, again;
        if (tag_sample_decode(&in, &s) < 0)
            return;
        check_value(&s.value, from, in.at);
        struct buf b;
        buf_init(&b, 8192);
        tag_sample_encode(&b, &s);
        uint8_t *copy = copy_encoded(&b, from, in.at);
        struct rd back;
        rd_init(&back, copy, b.len);
        MUST(tag_sample_decode(&back, &again) == 0 && rd_ended(&back));
        check_value(&again.value, copy, copy + b.len);
        check_same_sample(&s, &again);
        free(copy);
        buf_done(&b);
    }
}

static void
read_values(const uint8_t *data, size_t size)
{
    struct rd in;
    rd_init(&in, data, size);
    while (rd_left(&in) > 0) {
        const uint8_t *from = in.at;
        struct tag_value v, again;
        if (tag_value_decode(&in, &v) < 0)
            return;
        check_value(&v, from, in.at);
        check_json(&v);
        struct buf b;
        buf_init(&b, 8192);
        tag_value_encode(&b, &v);
        uint8_t *copy = copy_encoded(&b, from, in.at);
        struct rd back;
        rd_init(&back, copy, b.len);
        MUST(tag_value_decode(&back, &again) == 0 && rd_ended(&back));
        check_value(&again, copy, copy + b.len);
        MUST(tag_value_equal(&v, &again));
        free(copy);
        buf_done(&b);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_batch(data, size);
    read_defs(data, size);
    read_samples(data, size);
    read_values(data, size);
    return 0;
}
