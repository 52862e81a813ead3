/*
 * What a Modbus device may send: a stream cut into frames, each held against a
 * request, and the values taken out of it in every type. The first byte picks
 * function and quantity.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "services/modbusd/mb_pdu.h"
#include "services/modbusd/mb_value.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
decode_all(bool bits, const uint8_t *bytes, size_t n)
{
    static const struct mb_scaling scalings[] = { { false, 0, 0 }, { true, 0.1, -40 } };
    uint8_t *exact = malloc(n), *room = malloc(n), back[MB_PDU_MAX * 8];
    if (!exact || !room)
        abort();
    memcpy(exact, bytes, n); /* so that the sanitizer sees the end of it */
    for (unsigned i = 0; i < MB_N_TYPES * (MB_SWAP_MAX + 1) * 2; i++) {
        enum mb_type type = (enum mb_type)(i % MB_N_TYPES);
        unsigned swap = i / MB_N_TYPES % (MB_SWAP_MAX + 1);
        const struct mb_scaling *s = &scalings[i / MB_N_TYPES / (MB_SWAP_MAX + 1)];
        unsigned units = (unsigned)(bits ? 8 * n : n),
                 own = mb_type_sized(type) ? (unsigned)n : 0;
        unsigned one = mb_type_size(type, bits, own);
        struct mb_codec c;
        struct tag_value v;
        if (one > units || mb_codec_init(&c, type, bits, units - one, own, units, swap, s))
            continue;
        mb_decode(&c, s, exact, room, &v);
        (void)mb_encode(&c, s, &v, back); /* NaN is refused, all else fits */
        if (type == MB_STRING && v.n_bytes > n)
            abort();
    }
    free(exact);
    free(room);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t funcs[] = { 1, 2, 3, 4, 5, 6, 15, 16, 23 };
    if (size < 1)
        return 0;
    uint8_t func = funcs[data[0] % sizeof(funcs)];
    uint16_t quantity = (uint16_t)(1 + data[0] / sizeof(funcs));
    uint8_t head[MB_HEAD_SIZE] = { func, 0, 0, 0, (uint8_t)quantity };
    const uint8_t *stream = data + 1;
    size_t left = size - 1;
    struct mb_frame f;
    while (mb_frame_cut(stream, left, &f) == MB_CUT_FRAME) {
        const uint8_t *bytes = NULL;
        size_t n = 0;
        uint8_t exception = 0;
        if (f.size > left || f.n < 1 || f.n > MB_PDU_MAX)
            abort();
        if (mb_pdu_check(head, f.pdu, f.n, &bytes, &n, &exception) == MB_CHECK_OK && n > 0) {
            if (bytes < f.pdu || bytes + n > f.pdu + f.n)
                abort();
            decode_all(mb_func_bits(func), bytes, n);
        }
        stream += f.size;
        left -= f.size;
    }
    return 0;
}
