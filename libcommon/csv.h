/*
 * CSV by RFC 4180: cells parted by commas, lines ended by CR LF; a cell that
 * holds a comma, a quote, CR or LF stands in quotes, its quotes doubled. Bytes
 * are not changed otherwise, with one exception: people open such files in
 * spreadsheets, which take a cell that begins with = + - @ TAB CR or LF for a
 * formula or part of one. Such a text gets an apostrophe in front; so does one
 * that begins with apostrophes and then one of these, so that a reader who
 * takes one apostrophe away (csv_unguard) has what was written.
 */
#ifndef FIELDGATE_CSV_H
#define FIELDGATE_CSV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;

/* One cell of text; 'is_first' of its line. Errors stay in 'b'. */
void csv_put_cell(struct buf *b, bool is_first, const char *text, size_t len);
/* One that needs neither guard nor quotes: a number, or nothing. */
void csv_put_bare(struct buf *b, bool is_first, const char *text);
void csv_end_line(struct buf *b);

/*
 * Reading, in place: quotes are undone in the bytes, which the caller keeps
 * and which must be followed by one more byte that may be written. A byte
 * order mark is passed over; LF alone ends a line, too.
 */
struct csv_reader {
    char *at, *end;
    uint64_t line; /* of the row that was read, from 1 */
    uint64_t next_line;
    const char *fault; /* CSV_BAD: what is wrong, for a person */
    size_t fault_cell; /* and in which cell, from 1 */
};
struct csv_cell {
    char *text; /* terminated; may hold NUL or invalid UTF-8: see 'len' */
    size_t len;
    bool quoted;
};
enum { CSV_ROW, CSV_END, CSV_BAD };

void csv_reader_init(struct csv_reader *r, char *bytes, size_t n);
/*
 * The next row, an empty line too: that is one empty cell. CSV_BAD: it has
 * more than 'max' cells, a quote inside a cell that is not quoted, text after
 * a closing quote, or none that closes; reading goes on with the next line.
 */
int csv_read_row(struct csv_reader *r, struct csv_cell *cells, size_t max, size_t *ret_n);
/* Takes away the apostrophe that csv_put_cell put in front. */
void csv_unguard(struct csv_cell *cell);

#endif
