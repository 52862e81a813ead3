/*
 * Finding rows in the index: those that pass, in order of (primary, id), where
 * primary is the time, the rank of the event in the wanted order, or nothing.
 * No sorted list exists; the place of a row is found by counting, and only
 * what lies near the page is looked at closely.
 */
#ifndef FIELDGATE_AUDITD_SELECT_H
#define FIELDGATE_AUDITD_SELECT_H

#include "services/auditd/trail.h"

enum { SELECT_PAGE_MAX = 16384 };

struct select;

/* What is asked; all that it points to must outlive the select. */
struct select_what {
    struct store_txn *txn;
    const struct trail_filter *filter; /* without its texts, unless there are 'bits' */
    enum trail_order order;
    bool descending;
    uint64_t first_id, end_id;     /* records looked at: first_id <= id < end_id */
    const uint8_t *bits;           /* whether id bits_id + i passes; NULL: the filter decides */
    uint64_t bits_id;              /* the first of a block */
    const struct trail_key *after; /* only rows behind it in that order; NULL: all */
};

/* 0 or -errno. */
int select_new(const struct select_what *what, struct select **ret_select);
void select_free(struct select *s); /* NULL does nothing */
void select_freep(struct select **s);

/* How many rows there are. */
uint64_t select_total(const struct select *s);
/*
 * Rows offset .. offset + limit - 1, limit at most SELECT_PAGE_MAX. 0 or
 * -errno (-EPROTO: the index is broken).
 */
int select_rows(struct select *s, uint64_t offset, size_t limit, struct trail_key *ret_keys,
                size_t *ret_n);

#endif
