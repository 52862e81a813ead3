/*
 * What a Modbus client may send: a stream cut into frames, each served over a
 * map of own and of hub tags. The first byte says what the owners of hub tags
 * answer, and whether they do so at once.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/tagview.h"
#include "services/modbusd/mb_pdu.h"
#include "services/modbusd/sl_map.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RW = TAG_ACCESS_READ | TAG_ACCESS_WRITE };

static const struct sl_tag_config own[] = {
    { .id = 1, .name = "a", .type = MB_UINT16, .access = RW },
    { .id = 2, .name = "b", .type = MB_DOUBLE, .offset = 2, .access = RW },
    { .id = 3, .name = "c", .type = MB_STRING, .size = 9, .offset = 10, .access = RW },
    { .id = 4, .name = "d", .type = MB_INT8, .offset = 20, .access = RW },
    { .id = 5, .name = "e", .type = MB_UINT8, .offset = 21, .access = RW },
    { .id = 6, .name = "f", .type = MB_RAW, .size = 200, .offset = 22, .access = RW },
    { .id = 7, .name = "g", .type = MB_BOOLEAN, .offset = 222, .access = RW },
};
static const struct sl_tag_config bits[] = {
    { .id = 11, .name = "k", .type = MB_BOOLEAN, .access = RW },
    { .id = 12, .name = "l", .type = MB_INT16, .offset = 1, .access = RW },
    { .id = 13, .name = "m", .type = MB_RAW, .size = 240, .offset = 24, .access = RW },
};
#define REF(name_, type_, offset_, size_)                                                      \
    {                                                                                          \
        .provider = "p", .source = "s", .name = (name_), .type = (type_), .offset = (offset_), \
        .size = (size_), .access = RW                                                          \
    }
static const struct sl_ref_config refs[] = {
    REF("r1", MB_UINT16, 0, 0), REF("r2", MB_FLOAT, 2, 0),    REF("r3", MB_STRING, 6, 7),
    REF("r4", MB_RAW, 14, 20),  REF("r5", MB_BOOLEAN, 34, 0),
};
static const struct sl_zone_config zones[] = {
    { .format = SL_HOLDING, .n = 120, .swap = 3, .tags = own, .n_tags = ARRAY_LEN(own) },
    { .format = SL_COILS, .n = 2000, .tags = bits, .n_tags = ARRAY_LEN(bits) },
    { .format = SL_HOLDING,
      .address = 120,
      .n = 20,
      .scaling = { true, 0.25, -3 },
      .from_hub = true,
      .refs = refs,
      .n_refs = ARRAY_LEN(refs) },
    { .format = SL_INPUT, .address = 65, .n = 536 },
    { .format = SL_INPUT_BITS, .address = 60, .n = 2500 },
};
static const struct sl_config config = {
    .provider = "p", .source = "own", .zones = zones, .n_zones = ARRAY_LEN(zones)
};

static struct {
    struct loop *loop;
    struct tagview *view;
    uint8_t how;
    sl_written_fn *fn; /* of the write that waits */
    void *fn_arg;
    uint8_t func; /* of the request that is served */
} w;

static void
on_sample(void *arg, const struct tag_sample *s)
{
    (void)arg;
    if (s->value.n_bytes > TAG_BYTES_MAX)
        abort();
}

static void
on_write(void *arg, const struct tagview_tag *tag, const struct tag_value *v,
         uint64_t deadline_us, sl_written_fn *fn, void *fn_arg)
{
    (void)arg;
    (void)tag;
    (void)deadline_us;
    if (v->n_bytes > 20)
        abort();
    if (w.how & 8) {
        w.fn = fn;
        w.fn_arg = fn_arg;
    } else {
        fn(fn_arg, (enum sl_written)(w.how % (SL_WRITE_UNSURE + 1)));
    }
}

static void
check_answer(void *arg, const uint8_t *pdu, size_t n)
{
    (void)arg;
    if (n < 2 || n > MB_PDU_MAX || (pdu[0] | 0x80) != (w.func | 0x80))
        abort();
    if ((pdu[0] & 0x80) && (n != 2 || pdu[1] == 0 || pdu[1] > 11))
        abort();
    if (!(pdu[0] & 0x80) && mb_func_reads(pdu[0]) && n != 2u + pdu[1])
        abort();
}

static void
list_hub(void)
{
    static const uint8_t types[] = { TAG_UINT16, TAG_FLOAT, TAG_STRING, TAG_RAW, TAG_BOOLEAN };
    struct tag_def defs[ARRAY_LEN(refs)];
    memset(defs, 0, sizeof(defs));
    for (size_t i = 0; i < ARRAY_LEN(refs); i++) {
        defs[i].no = (uint32_t)i + 1;
        defs[i].type = types[i];
        memcpy(defs[i].provider, "p", 2);
        memcpy(defs[i].source, "s", 2);
        memcpy(defs[i].name, refs[i].name, 3);
    }
    (void)tagview_catalogue(w.view, "modbusd", defs, ARRAY_LEN(defs));
    for (size_t i = 0; i < ARRAY_LEN(refs); i++) {
        struct tag_sample s = { .no = (uint32_t)i + 1, .ts_us = 1, .value.type = types[i] };
        if (types[i] == TAG_RAW)
            s.value = (struct tag_value){ .type = TAG_RAW,
                                          .bytes = (const uint8_t *)"0123456789abcdefghij",
                                          .n_bytes = 20 };
        tagview_samples(w.view, "modbusd", &s, 1, false);
    }
}

static void
serve(struct sl_map *m, const struct mb_frame *f)
{
    uint8_t out[MB_PDU_MAX], *exact = malloc(f->n);
    struct sl_job *job = NULL;
    if (exact == NULL)
        abort();
    memcpy(exact, f->pdu, f->n); /* so that the sanitizer sees the end of it */
    w.func = f->pdu[0];
    w.fn = NULL;
    size_t n = sl_serve(m, 0, exact, f->n, out, check_answer, NULL, &job);
    free(exact);
    if ((n == 0) != (w.fn != NULL))
        abort();
    if (n > 0)
        check_answer(NULL, out, n);
    while (w.fn != NULL) {
        sl_written_fn *fn = w.fn;
        w.fn = NULL;
        fn(w.fn_arg, (enum sl_written)(w.how % (SL_WRITE_UNSURE + 1)));
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct sl_engine_hooks hooks = { .sample = on_sample, .write = on_write };
    struct sl_map *m = NULL;
    struct mb_frame f;
    if (size < 1)
        return 0;
    if (w.loop == NULL && (loop_new(&w.loop) < 0 || tagview_new(&w.view) < 0))
        abort();
    if (sl_map_new(w.loop, w.view, &hooks, &config, &m) < 0)
        abort();
    list_hub();
    w.how = data[0];
    for (data++, size--; mb_frame_cut(data, size, &f) == MB_CUT_FRAME;
         data += f.size, size -= f.size)
        serve(m, &f);
    sl_map_retire(m);
    return 0;
}
