/*
 * Rows of the audit log as CSV (libcommon/csv.h).
 */
#ifndef FIELDGATE_AUDITD_CSV_H
#define FIELDGATE_AUDITD_CSV_H

struct buf;
struct trail_record;

/*
 * The line with the names of AuditRow's members (proto/api/auditd.yaml); one
 * record. Errors stay in 'b'.
 */
void csv_put_header(struct buf *b);
void csv_put_record(struct buf *b, const struct trail_record *r);

#endif
