/*
 * Requests that were refused, gathered into audit records so that a flood of
 * them makes few: the first of its kind (same account, address, operation and
 * reason) is a record of its own at once, its repeats within the minute are
 * counted and make one more when the minute is over.
 *
 * Bounds: REFUSALS_MAX kinds in a minute, and in the long run REFUSALS_A_MINUTE
 * records a minute beyond a first REFUSALS_MAX. What is past them is counted
 * in one record, "a rest". As many records wait to be taken when nobody takes
 * them. Knows neither the HTTP server nor the bus.
 */
#ifndef FIELDGATE_GATEWAY_REFUSAL_TABLE_H
#define FIELDGATE_GATEWAY_REFUSAL_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    REFUSALS_MAX = 1024,
    REFUSALS_A_MINUTE = 60,
    REFUSAL_MINUTE_US = 60 * 1000000,
    REFUSAL_REASON_SIZE = 96, /* bytes; longer ones are cut */
};

/* One record. */
struct refusal {
    const char *method, *path; /* of the operation, static; NULL: a rest */
    char source[66];           /* account; "": nobody signed in */
    char addr[46];
    char reason[REFUSAL_REASON_SIZE];
    uint64_t request_id; /* of this or the newest repeat */
    int64_t at_us;       /* wall clock, as above */
    uint32_t n_more;     /* 0: a first one; else so many repeats */
};

struct refusal_table;
int refusal_table_new(struct refusal_table **ret_table); /* 0 or -ENOMEM */
void refusal_table_free(struct refusal_table *t);        /* NULL does nothing */

/*
 * One more (n_more is ignored). Any thread; waits for nothing but others that
 * do the same. True: there is something new to take or to count, so that the
 * minute must be running.
 */
bool refusal_table_note(struct refusal_table *t, const struct refusal *what);

/* ---- one thread ---- */

/*
 * The minute is over, 'elapsed_us' after the last one was: repeats become
 * records, the next one begins. True: some found no room, turn again later.
 */
bool refusal_table_turn(struct refusal_table *t, uint64_t elapsed_us);
/* Copies the records that wait for longest, at most 'max'; returns how many. */
size_t refusal_table_peek(struct refusal_table *t, struct refusal *out, size_t max);
/* These are delivered: the 'n' that wait for longest go. */
void refusal_table_drop(struct refusal_table *t, size_t n);

#endif
