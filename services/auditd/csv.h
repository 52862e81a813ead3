/*
 * CSV by RFC 4180: cells parted by commas, lines ended by CR LF; a cell that
 * holds a comma, a quote, CR or LF stands in quotes, its quotes doubled. Bytes
 * are not changed otherwise, with one exception: people open such files in
 * spreadsheets, which take a cell that begins with = + - @ TAB CR or LF for a
 * formula or part of one. Such a cell gets an apostrophe in front; so does one
 * that begins with apostrophes and then one of these, so that a reader who
 * takes one apostrophe away has what was written.
 */
#ifndef FIELDGATE_AUDITD_CSV_H
#define FIELDGATE_AUDITD_CSV_H

#include <stdbool.h>
#include <stddef.h>

struct buf;
struct trail_record;

/* One cell; 'is_first' of its line. Errors stay in 'b'. */
void csv_put_cell(struct buf *b, bool is_first, const char *text, size_t len);
void csv_end_line(struct buf *b);

/* The line with the names of AuditRow's members (proto/api/auditd.yaml); one record. */
void csv_put_header(struct buf *b);
void csv_put_record(struct buf *b, const struct trail_record *r);

#endif
