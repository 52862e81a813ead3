/*
 * Event streams: the worker of the connection fetches what the daemon has
 * gathered and writes it, until either side ends it.
 */
#ifndef FIELDGATE_GATEWAY_STREAM_H
#define FIELDGATE_GATEWAY_STREAM_H

struct bus_answer;
struct bus_request;
struct forward;
struct http_call;

enum {
    STREAMS_MAX = 64,         /* of each listener: half of its threads at most */
    STREAMS_PER_SESSION = 56, /* of these; the others are for other sessions */
    STREAM_WAIT_MS = 3000,    /* one question to the daemon; a client that left is seen then */
    STREAM_HEARTBEAT_MS = 15000,
    STREAM_WRITE_MS = 10000, /* a client that does not take a block within this is let go */
    STREAM_REOPEN_MS = 30000,
};

/* 'answer' opened a stream (the caller frees it); 'request' can open it again. */
void stream_run(struct http_call *call, const struct forward *f, struct bus_request *request,
                const struct bus_answer *answer);

#endif
