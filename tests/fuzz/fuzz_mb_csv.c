/*
 * CSV files of the Modbus configuration: the first byte picks the kind of
 * file. Whatever the bytes are, faults have places in the file; and a row that
 * was accepted, written and read again is the same row.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "services/modbusd/mb_csv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OUT_MAX = 64 << 20 };

struct pass {
    enum mb_csv_file file;
    struct buf out[MB_CSV_TABLES]; /* the accepted rows, as they are written */
    size_t n_rows[MB_CSV_TABLES];
    uint64_t last_line;
    bool expects_no_fault;
};

static bool
on_row(void *arg, const struct mb_csv_row *row)
{
    struct pass *p = arg;
    MUST(row->table < MB_CSV_TABLES && mb_csv_has(p->file, row->table));
    MUST(row->line > 0 && row->line >= p->last_line);
    p->last_line = row->line;
    mb_csv_put_row(&p->out[row->table], p->file, row->table, &row->refs, row->record);
    p->n_rows[row->table]++;
    return true;
}

static bool
on_fault(void *arg, uint64_t line, uint64_t column, const char *message)
{
    struct pass *p = arg;
    (void)column;
    MUST(!p->expects_no_fault && message[0] && line >= p->last_line);
    p->last_line = line;
    return true;
}

static void
read_file(struct pass *p, const void *bytes, size_t n)
{
    struct mb_csv_hooks hooks = { on_row, on_fault, p };
    char *copy = malloc(n + 1);
    MUST(copy != NULL);
    if (n > 0)
        memcpy(copy, bytes, n);
    for (size_t i = 0; i < MB_CSV_TABLES; i++)
        buf_init(&p->out[i], OUT_MAX);
    MUST(mb_csv_read(p->file, copy, n, &hooks) == 0);
    free(copy);
}

static void
pass_done(struct pass *p)
{
    for (size_t i = 0; i < MB_CSV_TABLES; i++)
        buf_done(&p->out[i]);
}

/* The accepted rows as a file of their own. */
static void
write_file(const struct pass *p, struct buf *b)
{
    buf_init(b, OUT_MAX);
    mb_csv_put_version(b);
    for (int t = 0; t < MB_CSV_TABLES; t++)
        if (mb_csv_has(p->file, (enum mb_csv_table)t)) {
            mb_csv_put_head(b, p->file, (enum mb_csv_table)t);
            buf_put(b, p->out[t].data, p->out[t].len);
        }
    MUST(b->err == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct buf written;
    struct pass first = { .file = data[0] & 1 ? MB_CSV_MASTERS : MB_CSV_MCMDS };
    struct pass second = { .file = first.file, .expects_no_fault = true };
    read_file(&first, data + 1, size - 1);
    write_file(&first, &written);
    read_file(&second, written.data, written.len);
    for (size_t t = 0; t < MB_CSV_TABLES; t++) {
        MUST(first.n_rows[t] == second.n_rows[t] && first.out[t].len == second.out[t].len);
        if (first.out[t].len > 0)
            MUST(memcmp(first.out[t].data, second.out[t].data, first.out[t].len) == 0);
    }
    pass_done(&first);
    pass_done(&second);
    buf_done(&written);
    return 0;
}
