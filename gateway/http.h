/*
 * One HTTP exchange, without the server library: http.c alone includes it.
 * Workers call these; one worker runs one exchange at a time.
 */
#ifndef FIELDGATE_GATEWAY_HTTP_H
#define FIELDGATE_GATEWAY_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/route.h"
#include "libcommon/buf.h"

struct conn;
struct gateway;

enum {
    HTTP_WORKERS_SECURE = 128, /* threads: streams, and some that streams cannot take */
    HTTP_WORKERS_PLAIN = 160,
    HTTP_HEAD_MAX = 16384,   /* bytes of request line and headers */
    HTTP_HEADERS_MAX = 60,   /* of a request */
    HTTP_TIMEOUT_MS = 10000, /* of a TLS handshake, of the headers, of a pause in a body */
    HTTP_KEEP_ALIVE_MS = 4000,
    HTTP_BYTES_PER_S = 16384, /* a client slower than that, after HTTP_TIMEOUT_MS, is let go */
    HTTP_DISCARD_MAX = 64 * 1024, /* of a body that nobody wants, to keep the connection */
    HTTP_KEEP_BUFFER = 16 * 1024, /* of a worker between requests */
};

/* Memory of a worker thread; what it holds lives as long as the exchange. */
struct worker {
    struct buf out;  /* a reply being assembled */
    struct buf body; /* the request's */
    char date[40];   /* "Date: …\r\n" of date_s */
    int64_t date_s;
    const char *head; /* where the library's buffer begins; NULL: no request yet */
    char path[ROUTE_TARGET_MAX];
    char query[ROUTE_QUERY_BYTES];
};

struct http_call {
    struct gateway *gateway;
    struct worker *worker;
    void *server_conn; /* the library's */
    struct conn *conn; /* ours */
    uint64_t id;       /* request id */
    uint64_t start_us;
    enum http_method method;
    bool secure, loopback;
    bool http10;
    bool chunked;
    bool expects_continue;
    bool close;     /* the connection ends after this exchange */
    bool is_stream; /* left out of the latency metrics */
    uint16_t local_port;
    int64_t content_length; /* 0 for none; -1 when chunked */
    size_t body_read;       /* bytes of it taken so far */
    bool body_done;
    const char *path;  /* as sent */
    const char *query; /* as sent, or NULL */
    const char *host;
    const char *content_type; /* or NULL */
    const char *origin;       /* an allowed one that asks (cors.h), or NULL */
    const char *token;        /* or NULL */
    size_t token_len;
    char addr[46];
    int status; /* answered; 0: not yet */
};

struct http_reply {
    int status;
    const char *content_type; /* NULL: none */
    const char *body;
    size_t len;
    const char *headers; /* more of them, each ended by CRLF; or NULL */
    unsigned retry_after_s;
    bool may_cache; /* no Cache-Control: no-store of ours */
};

/*
 * Starts the workers for what comes from outside: requests come when there is something behind
 * the doors (doors.h). 0 or -errno.
 */
int http_start(struct gateway *g);
/*
 * Opens plain HTTP on this machine, if there is any. Last: whoever gets an answer there may
 * expect all the rest. 0 or -errno.
 */
int http_start_local(struct gateway *g);

/* ---- answering: 0, or -EPIPE when the client is gone ---- */

/* Header and body in one write (HEAD: the header alone). */
int http_answer(struct http_call *call, const struct http_reply *reply);
/* {"error":{"code":…,"message":…}} */
int http_fail(struct http_call *call, int status, const char *message);
/* 405 with the header line 'allow' */
int http_fail_method(struct http_call *call, const char *allow);
/* 503 for the daemon 'name', Retry-After: 1 */
int http_fail_away(struct http_call *call, const char *name);

/* For bodies that are not in memory: the header, with the length to come. */
int http_begin(struct http_call *call, const struct http_reply *reply, uint64_t body_len);
int http_put(struct http_call *call, const void *bytes, size_t n);

/*
 * For bodies whose length nobody knows yet: the header (HEAD: alone); parts of
 * at least a byte; the end. HTTP/1.0: plain bytes, ended by the connection.
 */
int http_chunked_begin(struct http_call *call, const struct http_reply *reply);
int http_chunk(struct http_call *call, const void *bytes, size_t n);
int http_chunked_end(struct http_call *call);
/* Instead of the end: breaks the connection so that the client sees that more was to come. */
void http_break(struct http_call *call);

/* text/event-stream: the header; blocks, each within 'timeout_ms'; http_chunked_end. */
int http_stream_begin(struct http_call *call);
int http_stream_put(struct http_call *call, const void *bytes, size_t n, unsigned timeout_ms);
/* Has the client closed? Does not wait. */
bool http_client_is_gone(struct http_call *call);

/* ---- the body ---- */

/*
 * The next bytes, at most 'n'. > 0: so many; 0: the end; -EPIPE: the client
 * stopped in the middle or broke the framing.
 */
int http_read(struct http_call *call, char *out, size_t n);
/*
 * All of it into worker->body. 0; -E2BIG past 'max', -EPIPE or -ENOMEM, all
 * answered already.
 */
int http_read_body(struct http_call *call, size_t max);

#endif
