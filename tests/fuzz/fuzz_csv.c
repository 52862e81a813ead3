/*
 * CSV of audit records: the bytes of five texts, parted by 0x1e. A reader that
 * follows RFC 4180 and shares nothing with the writer gets them back, and no
 * cell begins as a formula does.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "services/auditd/csv.h"
#include "services/auditd/trail.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_CELLS = 12 };

/* The cell at 'at', without its quotes, into 'out'; returns where it ends. */
static size_t
read_cell(const struct buf *b, size_t at, struct buf *out)
{
    buf_reset(out);
    if (b->data[at] != '"') {
        while (b->data[at] != ',' && b->data[at] != '\r') {
            MUST(b->data[at] != '"' && b->data[at] != '\n');
            buf_putc(out, b->data[at++]);
            MUST(at < b->len);
        }
        return at;
    }
    for (at++; at + 1 < b->len; at++) {
        if (b->data[at] == '"' && b->data[++at] != '"')
            return at;
        buf_putc(out, b->data[at]);
    }
    abort(); /* a quote that is never closed */
}

static bool
is_risky(const struct buf *cell, size_t at)
{
    return at < cell->len && memchr("=+-@\t\r\n", cell->data[at], 7) != NULL;
}

static void
check_cell(const struct buf *cell, struct trail_text wanted)
{
    size_t n_apostrophes = 0;
    MUST(!is_risky(cell, 0));
    while (n_apostrophes < cell->len && cell->data[n_apostrophes] == '\'')
        n_apostrophes++;
    size_t skip = n_apostrophes > 0 && is_risky(cell, n_apostrophes) ? 1 : 0;
    MUST(cell->len - skip == wanted.len);
    MUST(wanted.len == 0 || memcmp(cell->data + skip, wanted.p, wanted.len) == 0);
}

static struct trail_text
next_text(const uint8_t **at, const uint8_t *end)
{
    const uint8_t *mark = *at < end ? memchr(*at, 0x1e, (size_t)(end - *at)) : NULL;
    const uint8_t *to = mark != NULL ? mark : end;
    struct trail_text t = { (const char *)*at, (size_t)(to - *at) };
    *at = mark != NULL ? mark + 1 : end;
    return t;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *at_in = data, *end = data + size;
    struct trail_record r = { .id = size, .request_id = size % 3 };
    struct trail_text *const texts[] = { &r.name, &r.message, &r.detail, &r.source, &r.addr };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        *texts[i] = next_text(&at_in, end);
    const struct trail_text nothing = { "", 0 };
    const struct trail_text *wanted[N_CELLS] = {
        [1] = &nothing,  [3] = &r.name, [5] = &r.message, [6] = &r.detail,
        [7] = &r.source, [8] = &r.addr, [9] = &nothing
    };
    struct buf line, cell;
    buf_init(&line, 4 << 20);
    buf_init(&cell, 4 << 20);
    csv_put_record(&line, &r);
    MUST(line.err == 0 && line.len > 2);
    size_t at = 0;
    for (size_t i = 0; i < N_CELLS; i++) {
        at = read_cell(&line, at, &cell);
        MUST(cell.err == 0);
        if (wanted[i] != NULL)
            check_cell(&cell, *wanted[i]);
        MUST(line.data[at++] == (i + 1 < N_CELLS ? ',' : '\r'));
    }
    MUST(at + 1 == line.len && line.data[at] == '\n');
    buf_done(&cell);
    buf_done(&line);
    return 0;
}
