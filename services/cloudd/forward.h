/*
 * Store and forward: messages on disk, per client in order, from when they
 * are made until the broker has acknowledged them. New messages and removals
 * of all clients gather and become one commit; a message can be read (and
 * sent) once it is on disk. So a crash loses nothing that was accepted and
 * may send again what was not yet known to be acknowledged.
 */
#ifndef FIELDGATE_CLOUDD_FORWARD_H
#define FIELDGATE_CLOUDD_FORWARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/store.h"

enum {
    FORWARD_GATHER_MAX = 16 << 20, /* bytes not yet committed, of all clients */
    FORWARD_PURGE_STEP = 2000,     /* messages removed in one transaction */
    FORWARD_EXPIRE_STEP = 1000,    /* messages past their time that one call passes over */
};

struct forward;
struct forward_queue;

struct forward_limits {
    uint64_t max_bytes;
    uint64_t ttl_us; /* 0: for ever */
    bool drop_newest;
};

struct forward_message {
    uint64_t seq;
    bool retain;
    const char *topic; /* terminated */
    const char *payload;
    size_t len;
};

/* Monotonic and wall µs; 'boot' names the run of the kernel, 0: unknown. */
struct forward_clock {
    uint64_t (*mono_us)(void);
    int64_t (*wall_us)(void);
    uint64_t boot;
};

/* 'db' holds the messages. 0 or -errno. */
int forward_new(struct store *s, unsigned db, const struct forward_clock *clock,
                struct forward **ret_forward);
void forward_free(struct forward *f); /* NULL does nothing; queues must be closed */

/* Is there anything that a flush would make durable? */
bool forward_is_dirty(const struct forward *f);
/*
 * Commits what gathered: one transaction, one fsync. 0 or -errno: nothing is
 * lost yet, it is tried again with the next flush.
 */
int forward_flush(struct forward *f);

/* The queue of one client, with what earlier lives left in it. 0 or -errno. */
int forward_open(struct forward *f, uint32_t client, const struct forward_limits *limits,
                 struct forward_queue **ret_queue);
void forward_close(struct forward_queue *q); /* NULL does nothing; flush first */
void forward_limit(struct forward_queue *q, const struct forward_limits *limits);

/*
 * Accepts a message; a copy is made. 0; -ENOBUFS when it was dropped (the
 * bound with drop_newest, or no room to gather), which is counted.
 */
int forward_put(struct forward_queue *q, const char *topic, const void *payload, size_t len,
                bool retain);
/*
 * The next message on disk to be sent, in order; bytes are valid until the
 * next call. STORE_OK, STORE_NOT_FOUND or -errno. Messages past their time
 * are passed over and removed; after FORWARD_EXPIRE_STEP of them the answer is
 * STORE_NOT_FOUND too, and the next flush is followed by another try.
 */
int forward_next(struct forward_queue *q, struct forward_message *ret_message);
/* Acknowledged: it can go. */
int forward_done(struct forward_queue *q, uint64_t seq);
/* Sending starts again with the oldest that is not done (the connection broke). */
void forward_rewind(struct forward_queue *q);

struct forward_stats {
    uint64_t messages, bytes; /* kept */
    uint64_t dropped, expired;
};
void forward_get_stats(const struct forward_queue *q, struct forward_stats *ret_stats);
/* Sequence that the next message will get. */
uint64_t forward_next_seq(const struct forward_queue *q);

/*
 * Removes up to FORWARD_PURGE_STEP messages of a client that is gone.
 * STORE_OK: there may be more; STORE_NOT_FOUND: none left; -errno.
 */
int forward_purge(struct forward *f, uint32_t client);

#endif
