/*
 * tagd: the tag hub. Subscribes to every provider on the tag bus, lists and
 * shows tags, streams their updates, and passes direct reads and writes to
 * the daemon that owns the tag.
 */
#ifndef FIELDGATE_TAGD_H
#define FIELDGATE_TAGD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/svc.h"
#include "libcommon/tagbus.h"
#include "libcommon/tagview.h"

struct api_call;

/* Tables of the store: notes of writes (api_note), and the audit outbox, which is the last. */
enum { TAGD_DB_NOTES, TAGD_DB_OUTBOX, TAGD_N_DBS };

enum {
    TAGD_FOLLOWS_MAX = 64,      /* event streams */
    TAGD_FOLLOWED_MAX = 500000, /* tags of all streams together */
    TAGD_LINE_MAX = 64 << 10,   /* bytes of one tag as JSON */
    TAGD_BACKLOG_MAX = 1 << 20, /* bytes a stream may be behind */
    TAGD_PATIENCE_US = 1000000, /* how long after the start a missing catalogue is awaited */
};

struct follow;

struct tagd {
    struct svc *svc;
    struct tagview *view;
    uint64_t started_us;
    struct follow *follows;
    struct follow *dirty;   /* have text to send at the end of this round */
    struct follow *sending; /* whose text is being handed over; NULL: it closed meanwhile */
    unsigned n_follows;
    size_t n_followed; /* tags of all streams */
};

/* Has every provider told its catalogue, or been given the time to? */
bool tagd_is_ready(const struct tagd *d);

/* ---- line.c ---- */

/* Puts {"prvdName":…} of the tag's last value. */
void tagd_put_json(struct buf *b, const struct tagview_tag *t);
/* The event block of the last value of a held tag; NULL without memory. */
const char *tagd_line(struct tagview_tag *t, size_t *ret_len);

/* ---- follow.c ---- */

/*
 * Opens an event stream on 'names' of a source, or with n 0 on whatever tags it
 * has, as the reply of 'call'. 'interval_ms' 0: every update. Returns an enum
 * api_status.
 */
int tagd_follow(struct tagd *d, struct api_call *call, const char *provider, const char *source,
                const char *const *names, size_t n, uint32_t interval_ms);
/* Before the loop sleeps: what gathered leaves. */
void tagd_follow_flush(void *tagd);
/* After a change of the catalogue. */
void tagd_follow_catalogue(void *tagd);
struct follow_stats {
    uint64_t streams, backlog;
};
void tagd_follow_get_stats(const struct tagd *d, struct follow_stats *ret_stats);

#endif
