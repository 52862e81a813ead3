/*
 * The audit outbox: a table in the daemon's own store, so that a change and
 * its record are one transaction. A sender on the loop delivers records to
 * auditd in order, at least once; auditd drops repeats by (store uuid,
 * sequence). auditd may be away for days: the outbox keeps AUDIT_OUTBOX_MAX
 * records or AUDIT_OUTBOX_MIB of them, then changes are refused (507) rather
 * than lost from the record.
 */
#ifndef FIELDGATE_AUDIT_H
#define FIELDGATE_AUDIT_H

#include <stddef.h>
#include <stdint.h>

#include "libcommon/bus.h"
#include "libcommon/store.h"

struct svc;
struct audit_outbox;

enum { AUDIT_OUTBOX_MAX = 1000000, AUDIT_OUTBOX_MIB = 512 };
enum { AUDIT_DETAIL_MAX = 4096, AUDIT_MESSAGE_MAX = 512 }; /* bytes; longer text is cut */

struct audit_record {
    const char *event;   /* name in proto/audit.yaml */
    const char *message; /* for a person */
    const char *detail;  /* JSON text or "" */
    const char *source;  /* account, service or daemon */
    const char *addr;    /* source address or "" */
    uint64_t request_id; /* 0: none */
    int64_t at_us;       /* wall clock */
};

/* The table "outbox" must be the last of the daemon's dbs; 'db' is its index. 0 or -errno. */
int audit_open(struct svc *svc, unsigned db, struct audit_outbox **ret_outbox);
void audit_close(struct audit_outbox *o);
/* Starts delivering (after the bus is open). */
int audit_start(struct audit_outbox *o);
/* Adds to 'txn'. 0 or -errno (-ENOSPC: the outbox is full). */
int audit_put(struct audit_outbox *o, struct store_txn *txn, const struct audit_record *r);
/* Call after a commit that contained records. */
void audit_kick(struct audit_outbox *o);
/* A record with a transaction of its own (an event that no operation caused). */
int audit_event(struct audit_outbox *o, const struct audit_record *r);
uint64_t audit_backlog(const struct audit_outbox *o);

#endif
