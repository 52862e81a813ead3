/*
 * Answers that a daemon writes while the client reads them: what comes out of
 * its FIFO goes on as chunks, until either side ends it
 * (proto/README.md section 2, body kind 5).
 */
#ifndef FIELDGATE_GATEWAY_PIPE_H
#define FIELDGATE_GATEWAY_PIPE_H

struct bus_request;
struct bus_str;
struct forward;
struct http_call;
struct http_reply;

enum {
    PIPE_SILENCE_MS = 90000, /* a writer from which nothing comes for so long is given up */
    PIPE_LOOK_MS = 1000,     /* how often it is asked whether the caller still may */
};

/*
 * Answers with 'head' and the bytes of the FIFO 'name' of the spool. A writer
 * that fails before its first byte is answered 500, or 503 where its daemon is
 * gone; later the connection breaks before the last chunk, so that the client
 * sees that bytes are missing (an HTTP/1.0 client: by a reset).
 */
void pipe_run(struct http_call *call, const struct forward *f, struct bus_request *request,
              struct bus_str name, const struct http_reply *head);

#endif
