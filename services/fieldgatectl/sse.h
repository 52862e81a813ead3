/*
 * Event streams (HTML Living Standard, section 9.2.6), as they come in pieces.
 * Only "data" is kept: types, ids and comments are passed over.
 */
#ifndef FIELDGATE_CTL_SSE_H
#define FIELDGATE_CTL_SSE_H

#include <stdbool.h>
#include <stddef.h>

#include "libcommon/buf.h"

enum { SSE_EVENT_MAX = 256 * 1024 };

/* One event; 'data' lives during the call and ends with a terminator. <0 ends sse_put with it.
 */
typedef int sse_event_fn(void *arg, const char *data, size_t len);

struct sse {
    struct buf line, data;
    bool after_cr; /* the line ended with CR: an LF that follows belongs to it */
    bool has_data;
};

void sse_init(struct sse *s);
/* Forgets what is unfinished: the stream begins anew. */
void sse_reset(struct sse *s);
void sse_done(struct sse *s);
/* 0; -E2BIG: a line or an event is larger than SSE_EVENT_MAX; -ENOMEM; or what 'event' said. */
int sse_put(struct sse *s, const char *bytes, size_t n, sse_event_fn *event, void *arg);

#endif
