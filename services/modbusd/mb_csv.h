/*
 * The configuration as CSV (libcommon/csv.h), to be edited in a spreadsheet:
 *
 *   version,1
 *   mcmds                              a table
 *   name,enable,func,…                 its columns
 *   flow,1,3,…                         its rows
 *   tags                               the next table
 *   …
 *
 * Two kinds of file: all of the masters, or the commands and tags of one
 * device. The columns are the members of the record's schema
 * (proto/api/modbusd.yaml), in any order; before them stand the names of what
 * a row belongs to. Numbers that are given by us are not in the file: names
 * tell records apart. An empty cell is a member that is not there, or has its
 * default; a text that is there and empty is written as "". A column with a
 * default may be missing, for files of an older release. Empty lines are
 * passed over, and so are empty cells at the end of a line.
 */
#ifndef FIELDGATE_MODBUSD_MB_CSV_H
#define FIELDGATE_MODBUSD_MB_CSV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/api.h"
#include "libcommon/buf.h"

enum { MB_CSV_VERSION = 1 };

enum mb_csv_file { MB_CSV_MASTERS, MB_CSV_MCMDS };

/* The tables, in the order in which they stand in a file: parents first. */
enum mb_csv_table {
    MB_CSV_PARAMS,      /* struct master_param */
    MB_CSV_TCP_MASTERS, /* struct tcp_master */
    MB_CSV_TCP_IFACES,  /* struct master_tcp_iface */
    MB_CSV_SER_MASTERS, /* struct ser_master */
    MB_CSV_SER_IFACES,  /* struct master_ser_iface */
    MB_CSV_DEVS,        /* struct remote_dev */
    MB_CSV_CMDS,        /* struct mcmd */
    MB_CSV_TAGS,        /* struct tag_for_mcmds */
    MB_CSV_TABLES
};
/* Is it part of such a file? */
bool mb_csv_has(enum mb_csv_file file, enum mb_csv_table table);

/* ---- writing; errors stay in 'b' ---- */

void mb_csv_put_version(struct buf *b);
/* The name of a table and its columns. */
void mb_csv_put_head(struct buf *b, enum mb_csv_file file, enum mb_csv_table table);
/*
 * What a record belongs to, where the file has a column for it. Serial devices
 * have names apart: MB_CSV_SERIAL is put before theirs.
 */
#define MB_CSV_SERIAL "serial/"
struct mb_csv_refs {
    const char *dev_name, *cmd_name;
};
void mb_csv_put_row(struct buf *b, enum mb_csv_file file, enum mb_csv_table table,
                    const struct mb_csv_refs *refs, const void *record);

/* ---- reading ---- */

struct mb_csv_reading;
struct mb_csv_row {
    enum mb_csv_table table;
    uint64_t line;
    struct mb_csv_refs refs; /* those that the file has a column for */
    const void *record;      /* decoded and checked by its schema; the parent's number is 0 */
    struct api_arena *arena; /* emptied before the next row */
    const struct mb_csv_reading *reading;
};
/* The cell of a row, from 1, that holds this member or reference; 0: none does. */
size_t mb_csv_cell_of(const struct mb_csv_row *row, const char *member);

struct mb_csv_hooks {
    /* False: read no further. */
    bool (*row)(void *arg, const struct mb_csv_row *row);
    /* What is wrong, in the words of the original; 'column' 0: the line. False: as above. */
    bool (*fault)(void *arg, uint64_t line, uint64_t column, const char *message);
    void *arg;
};
/*
 * Reads a file; changes 'bytes', behind which one more may be written. Goes on
 * after a fault as long as the hook wants it. 0 (with or without faults) or
 * -ENOMEM.
 */
int mb_csv_read(enum mb_csv_file file, char *bytes, size_t n, const struct mb_csv_hooks *hooks);

#endif
