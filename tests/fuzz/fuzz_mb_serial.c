/*
 * What may be on a serial line when an answer is awaited, RTU and ASCII. The
 * first byte picks framing and function, the second the quantity. It comes in
 * pieces as long as the third says: the verdict must not depend on them.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "services/modbusd/mb_serial.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The bytes in memory of exactly their size, so that the sanitizer sees the end. */
static enum mb_seen
look(const struct mb_framing *f, const struct mb_awaited *a, const uint8_t *bytes, size_t n,
     bool quiet, struct mb_serial_frame *ret_frame)
{
    uint8_t *exact = malloc(n ? n : 1);
    if (!exact)
        abort();
    memcpy(exact, bytes, n);
    enum mb_seen seen = f->look(a, exact, n, quiet, ret_frame);
    free(exact);
    if (quiet && seen == MB_SEEN_PART)
        abort();
    if (seen == MB_SEEN_FRAME && (ret_frame->n < 1 || ret_frame->n > MB_PDU_MAX))
        abort();
    return seen;
}

/* What was taken for a frame is one: its own bytes are on the line. */
static void
hold_against(const struct mb_framing *f, const struct mb_awaited *a, const uint8_t *bytes,
             size_t n, const struct mb_serial_frame *frame)
{
    uint8_t again[MB_SERIAL_MAX];
    size_t size = f->encode(a->unit, frame->pdu, frame->n, again);
    if (f == &mb_rtu && !memmem(bytes, n, again, size))
        abort();
    if (size > n)
        abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t funcs[] = { 1, 2, 3, 4, 5, 6, 15, 16, 23 };
    if (size < 3 || size > 2048)
        return 0;
    const struct mb_framing *f = data[0] & 1 ? &mb_ascii : &mb_rtu;
    struct mb_awaited a = { 1, { funcs[(data[0] >> 1) % sizeof(funcs)], 0, 0, 0, data[1] } };
    size_t step = 1u + data[2] % 64;
    const uint8_t *bytes = data + 3;
    size_t n = size - 3;
    struct mb_serial_frame frame;
    for (size_t have = 0; have < n; have += step)
        if (look(f, &a, bytes, have, false, &frame) == MB_SEEN_FRAME)
            hold_against(f, &a, bytes, have, &frame);
    if (look(f, &a, bytes, n, true, &frame) == MB_SEEN_FRAME)
        hold_against(f, &a, bytes, n, &frame);
    return 0;
}
