/*
 * auditd: the record of what was done on this device.
 *
 * Every daemon has an outbox in its own store; what it delivers (at least
 * once) is added here in one transaction with the number of the last record
 * of that store, so repeats are dropped and an acknowledged record is on
 * disk. When the disk is full nothing is acknowledged: records wait in their
 * outboxes, and the daemons refuse changes (507) when those are full.
 *
 * The trail (trail.h) knows stores and bytes, this the bus and the clients.
 */
#ifndef FIELDGATE_AUDITD_H
#define FIELDGATE_AUDITD_H

#include "gen/api_auditd.h"
#include "libcommon/api.h"
#include "libcommon/loop.h"
#include "libcommon/svc.h"
#include "services/auditd/integrity.h"
#include "services/auditd/system_log.h"
#include "services/auditd/trail.h"

enum { FOLLOWERS_MAX = 16 };

/* A client that follows the trail (monitor=true). */
struct follower {
    struct follower *next;
    struct auditd *a;
    struct api_stream *stream;
    struct trail_filter filter; /* words live in 'arena' */
    struct api_arena *arena;
};

struct advisor;
struct page;

struct auditd {
    struct svc *svc;
    struct trail_state state; /* as committed */
    struct audit_setting setting;
    bool
        threshold_told; /* auditStorageThreshold is recorded, and the size did not fall since */
    struct trail_search search; /* the last one, or the one under way */
    struct page *pages; /* whose searches are not at their end; the first is under way */
    size_t n_pages;
    struct loop_timer page_timer;
    struct loop_timer trim, age;
    uint64_t age_check_us;      /* how often the age of records is looked at */
    uint64_t tell_head_us;      /* when the journal is told of the newest record; 0: not yet */
    int64_t clock_offset_us;    /* wall clock less monotonic at the last look */
    bool clock_was_steady;      /* then, since the look before it */
    struct download *downloads; /* under way */
    unsigned n_checks;          /* of the chain, under way */
    struct follower *followers;
    size_t n_followers;
    struct system_log log;
    struct integrity integrity;
    struct advisor *advisor;
};

/* append.c */
/* Who takes a log away is in the audit log: a record of its own transaction. 0 or -errno. */
int auditd_record_download(const struct auditd *a, const struct api_call *call,
                           const char *event, const char *message);
void auditd_append(void *self, struct bus_incoming *in);
/* Deletes what is too much or too old, a little at a time; tells of the threshold. */
void auditd_trim_soon(struct auditd *a);
void auditd_init_timers(struct auditd *a);
void auditd_stop_timers(struct auditd *a);

/* download.c */
enum api_status auditd_download(struct auditd *a, struct api_call *call,
                                const struct auditd_get_audits_query *query,
                                const struct trail_filter *filter);
/* Whether rotation waits for one: for 10 minutes, and while the log is not 10 % too large. */
bool auditd_download_holds(const struct auditd *a);

/* page.c */
/* One page; 'words' and 'query' live as long as the call. API_PENDING: its search takes longer.
 */
enum api_status auditd_page(struct auditd *a, struct api_call *call,
                            const struct auditd_get_audits_query *query,
                            const struct trail_filter *words);
void auditd_init_pages(struct auditd *a);
/* Who waits is told 503. */
void auditd_stop_pages(struct auditd *a);

/* verify.c */
/* Tells the journal the id and hash of the newest record. */
void auditd_tell_head(const struct auditd *a);

/* op_audit.c */
/* A filter whose words live in 'arena'. 0 or -ENOMEM; trail_filter_done in any case. */
int auditd_copy_filter(struct api_arena *arena, const struct trail_filter *words,
                       struct trail_filter *ret_filter);
/* One row as JSON (AuditRow of proto/api/auditd.yaml). */
void auditd_put_row(struct buf *b, const struct trail_record *r);
/* Hands a new record to who follows. */
void auditd_tell_followers(struct auditd *a, const struct trail_record *r);
/* op_secadvisor.c: works (loop_work) it has at a time at most: documents, and the machine. */
enum { ADVISOR_WORKS_MAX = 9 };
/* 0 or -errno. */
int advisor_open(struct auditd *a);
/*
 * Who waits for a scan is told 503; documents that are being made are answered, within 3 s.
 * NULL does nothing.
 */
void advisor_stop(struct advisor *s);

/* op_audit.c: what desiredDiskCacheSizeMB may be at most: half of the file system. */
int64_t auditd_max_size_mb(const struct auditd *a);

#endif
