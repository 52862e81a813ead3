/*
 * See csv.h.
 */
#include "libcommon/csv.h"

#include <string.h>

#include "libcommon/buf.h"

#include "libcommon/banned.h"

/* ---- writing ---- */

static bool
begins_like_formula(const char *text, size_t len)
{
    size_t i = 0;
    while (i < len && text[i] == '\'')
        i++;
    return i < len && text[i] != '\0' && strchr("=+-@\t\r\n", text[i]) != NULL;
}

static bool
needs_quotes(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (text[i] == ',' || text[i] == '"' || text[i] == '\r' || text[i] == '\n')
            return true;
    return false;
}

void
csv_put_cell(struct buf *b, bool is_first, const char *text, size_t len)
{
    bool quoted = needs_quotes(text, len);
    if (!is_first)
        buf_putc(b, ',');
    if (quoted)
        buf_putc(b, '"');
    if (begins_like_formula(text, len))
        buf_putc(b, '\'');
    while (len > 0) {
        const char *quote = memchr(text, '"', len);
        size_t n = quote != NULL ? (size_t)(quote - text) + 1 : len;
        buf_put(b, text, n);
        if (quote != NULL)
            buf_putc(b, '"');
        text += n;
        len -= n;
    }
    if (quoted)
        buf_putc(b, '"');
}

void
csv_put_bare(struct buf *b, bool is_first, const char *text)
{
    if (!is_first)
        buf_putc(b, ',');
    buf_puts(b, text);
}

void
csv_end_line(struct buf *b)
{
    buf_puts(b, "\r\n");
}

/* ---- reading ---- */

void
csv_reader_init(struct csv_reader *r, char *bytes, size_t n)
{
    *r = (struct csv_reader){ .at = bytes, .end = bytes + n, .next_line = 1 };
    if (n >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0)
        r->at += 3;
}

static bool
at_line_end(const struct csv_reader *r)
{
    return r->at == r->end || *r->at == '\n' ||
           (*r->at == '\r' && r->at + 1 < r->end && r->at[1] == '\n');
}

static int
bad(struct csv_reader *r, size_t cell, const char *fault)
{
    r->fault = fault;
    r->fault_cell = cell;
    return CSV_BAD;
}

/* The cell behind an opening quote. CSV_ROW, or CSV_BAD. */
static int
read_quoted(struct csv_reader *r, size_t number, struct csv_cell *ret_cell)
{
    char *to = ++r->at;
    bool closed = false;
    *ret_cell = (struct csv_cell){ .text = to, .quoted = true };
    while (r->at < r->end && !closed) {
        if (*r->at == '"') {
            r->at++;
            closed = r->at == r->end || *r->at != '"';
        }
        if (!closed) {
            r->next_line += *r->at == '\n';
            *to++ = *r->at++;
        }
    }
    if (!closed)
        return bad(r, number, "a quote is not closed");
    if (!at_line_end(r) && *r->at != ',')
        return bad(r, number, "there is text after a closing quote");
    ret_cell->len = (size_t)(to - ret_cell->text);
    return CSV_ROW;
}

static int
read_plain(struct csv_reader *r, size_t number, struct csv_cell *ret_cell)
{
    *ret_cell = (struct csv_cell){ .text = r->at };
    while (!at_line_end(r) && *r->at != ',' && *r->at != '"')
        r->at++;
    if (!at_line_end(r) && *r->at == '"')
        return bad(r, number, "there is a quote inside a cell that is not in quotes");
    ret_cell->len = (size_t)(r->at - ret_cell->text);
    return CSV_ROW;
}

static int
read_cells(struct csv_reader *r, struct csv_cell *cells, size_t max, size_t *ret_n)
{
    for (size_t n = 0;; n++) {
        if (n == max)
            return bad(r, n + 1, "there are too many cells");
        int got = r->at < r->end && *r->at == '"' ? read_quoted(r, n + 1, &cells[n])
                                                  : read_plain(r, n + 1, &cells[n]);
        if (got != CSV_ROW)
            return got;
        if (at_line_end(r)) {
            *ret_n = n + 1;
            return CSV_ROW;
        }
        r->at++; /* the comma */
    }
}

/* Past the end of the line, of which what is left is of no use. */
static void
end_line(struct csv_reader *r)
{
    char *lf = r->at < r->end ? memchr(r->at, '\n', (size_t)(r->end - r->at)) : NULL;
    r->at = lf ? lf + 1 : r->end;
    r->next_line++;
}

int
csv_read_row(struct csv_reader *r, struct csv_cell *cells, size_t max, size_t *ret_n)
{
    size_t n = 0;
    if (r->at == r->end)
        return CSV_END;
    r->line = r->next_line;
    int got = read_cells(r, cells, max, &n);
    end_line(r);
    if (got != CSV_ROW)
        return got;
    /* Only now: the byte behind a cell was what ended it. */
    for (size_t i = 0; i < n; i++)
        cells[i].text[cells[i].len] = '\0';
    *ret_n = n;
    return CSV_ROW;
}

void
csv_unguard(struct csv_cell *cell)
{
    if (cell->len > 0 && cell->text[0] == '\'' && begins_like_formula(cell->text, cell->len)) {
        cell->text++;
        cell->len--;
    }
}
