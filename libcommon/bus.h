/*
 * Request and reply between the gateway and the daemons, over NNG req/rep on
 * ipc sockets (proto/README.md section 2 has the bytes).
 *
 * A request runs at most once: nothing is ever resent. Every request has a
 * deadline (monotonic µs, one machine); a server drops what is past it.
 * Peers are known by the uid that the kernel reports.
 */
#ifndef FIELDGATE_BUS_H
#define FIELDGATE_BUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/buf.h"
#include "libcommon/loop.h"

enum {
    BUS_MESSAGE_MAX = 8 << 20, /* bytes of one message, batch or not */
    BUS_BATCH_MAX = 128,       /* envelopes in one message */
    BUS_PATH_MAX = 6,          /* path values of an operation */
    BUS_QUERY_MAX = 16,        /* query values of a request */
};

/* Text inside a message: not terminated unless said. */
struct bus_str {
    const char *p;
    uint32_t len;
};

enum bus_who { BUS_WHO_NOBODY, BUS_WHO_USER, BUS_WHO_SERVICE, BUS_WHO_DAEMON };

/* Who asks. Made by the gateway (or by a daemon for itself), never by a body. */
struct bus_principal {
    uint8_t kind;         /* enum bus_who */
    int64_t user_id;      /* 0 for nobody and daemons, below 0 for services */
    int64_t session_id;   /* 0 for services and daemons */
    uint64_t permissions; /* bits by enum api_permission (proto/permissions.yaml) */
    char name[66];        /* account, or "daemon" name; terminated */
    char addr[46];        /* source address as text; terminated; "" for daemons */
};

enum bus_kind {
    BUS_KIND_API = 1,     /* an operation of the REST API */
    BUS_KIND_INTERNAL,    /* an operation between daemons (proto/internal.h) */
    BUS_KIND_STREAM_NEXT, /* what a stream has gathered since; waits if nothing */
    BUS_KIND_STREAM_CLOSE,
};

enum bus_body {
    BUS_BODY_NONE,
    BUS_BODY_JSON,
    BUS_BODY_BYTES,  /* anything else, type in content_type */
    BUS_BODY_FILE,   /* the body is a name in the spool directory; receiver removes it */
    BUS_BODY_STREAM, /* reply: the body is the 8-byte id of an open stream */
    BUS_BODY_PIPE,   /* reply: as FILE, a FIFO that is written while it is read */
};

struct bus_request {
    uint8_t kind; /* enum bus_kind */
    uint32_t op;  /* operation id: api_<daemon>.h or proto/internal.h; stream: 0 */
    uint64_t id;  /* request id, for logs and audit; stream: the stream's id */
    uint64_t deadline_us;
    struct bus_principal who;
    uint8_t n_path, n_query;
    struct bus_str path[BUS_PATH_MAX]; /* decoded values, in order of the template */
    struct bus_str query_name[BUS_QUERY_MAX];
    struct bus_str query_value[BUS_QUERY_MAX]; /* .p NULL: name without '=' */
    uint8_t body_kind;                         /* enum bus_body */
    struct bus_str content_type;
    struct bus_str body;
};

struct bus_reply {
    uint64_t id;     /* of the request */
    uint16_t status; /* HTTP status; internal operations use it too */
    uint8_t body_kind;
    bool end;                    /* STREAM_NEXT: the stream is over */
    bool recorded;               /* a refusal that is in the audit log already */
    uint32_t retry_after_s;      /* 0: none */
    struct bus_str content_type; /* for BYTES, FILE and PIPE */
    struct bus_str file_name;    /* FILE and PIPE: name offered to the client */
    struct bus_str body;
};

/* One envelope each; fuzzed. Encoders set buf's error; decoders return 0 or -EBADMSG. */
void bus_request_encode(struct buf *b, const struct bus_request *r);
int bus_request_decode(struct rd *in, struct bus_request *ret_request);
void bus_reply_encode(struct buf *b, const struct bus_reply *r);
int bus_reply_decode(struct rd *in, struct bus_reply *ret_reply);
/* The message around them: begin, n envelopes, end. */
void bus_message_begin(struct buf *b);
void bus_message_end(struct buf *b, uint16_t n_envelopes);
/* 0 with the count and 'in' at the first envelope, or -EBADMSG. */
int bus_message_open(struct rd *in, uint16_t *ret_n);

/* ---- the bus of this process ---- */

struct bus;

/* A daemon and the uid that the kernel must report of it. */
struct bus_user {
    const char *name;
    uint32_t uid;
};

/*
 * 'dir' is $RUNTIME_DIR/bus, which must exist with mode 0750. 'users' are the
 * daemons this process talks with (kept, not copied); none: all run with this
 * process's own uid. Who dials must have one of these uids or our own; who is
 * dialled must have that of its name. Returns 0 or -errno. Never freed: NNG 1.5.2 may hang when sockets close under
 * traffic; a daemon ends by bus_shutdown and exit.
 */
int bus_open(struct loop *loop, const char *dir, const struct bus_user *users, size_t n_users,
             struct bus **ret_bus);
/* Stops receiving, waits up to 'drain_ms' for replies in flight to leave. */
void bus_shutdown(struct bus *bus, unsigned drain_ms);

/* ---- serving ---- */

struct bus_incoming; /* one request being served; owns the bytes it points to */
typedef void bus_serve_fn(void *arg, struct bus_incoming *in);

/*
 * Binds <dir>/<name>.rpc; 'fn' runs on the loop for each request that is not
 * yet past its deadline, and answers it with bus_answer now or later.
 * 0 or -errno (-EADDRINUSE: another instance lives).
 */
int bus_serve(struct bus *bus, const char *name, bus_serve_fn *fn, void *arg);
const struct bus_request *bus_incoming_request(const struct bus_incoming *in);
/* The peer's uid by the kernel. */
uint32_t bus_incoming_uid(const struct bus_incoming *in);
/* Answers and frees 'in'. Loop thread. The reply's bytes are copied; its id is set here. */
void bus_answer(struct bus_incoming *in, const struct bus_reply *reply);
static inline void
bus_answer_status(struct bus_incoming *in, uint16_t status)
{
    struct bus_reply reply = { .status = status };
    bus_answer(in, &reply);
}
/* 200 with the JSON text in 'json', or 500 when it has an error. */
static inline void
bus_answer_json(struct bus_incoming *in, const struct buf *json)
{
    struct bus_reply reply = { .status = json->err != 0 ? 500 : 200 };
    if (json->err == 0) {
        reply.body_kind = BUS_BODY_JSON;
        reply.body = (struct bus_str){ json->data, (uint32_t)json->len };
    }
    bus_answer(in, &reply);
}

/* ---- asking ---- */

struct bus_peer;
/* The daemon 'name'; the same pointer for the same name; connects by itself. 0 or -errno. */
int bus_peer(struct bus *bus, const char *name, struct bus_peer **ret_peer);
/* True while a connection stands. Any thread. */
bool bus_peer_is_up(const struct bus_peer *peer);
/* 'fn' runs on the loop each time the connection came (up) or went. */
typedef void bus_peer_fn(void *arg, bool up);
int bus_peer_watch(struct bus_peer *peer, bus_peer_fn *fn, void *arg);

/*
 * Asks from the loop; 'fn' runs on the loop exactly once, never before
 * bus_call returns. 'error' is 0 with a reply, else
 *   -EHOSTUNREACH  not connected: the request was not executed
 *   -ECONNRESET    connection lost: it may or may not have been executed
 *   -ETIMEDOUT     no answer by its deadline: it may have been executed
 *   -EBADMSG       the answer could not be read
 *   -EAGAIN        too many are under way to this peer: not executed
 *   -ENOMEM        it may or may not have been executed
 * Returns 0 or -errno (then fn is not called).
 */
typedef void bus_reply_fn(void *arg, int error, const struct bus_reply *reply);
int bus_call(struct bus_peer *peer, const struct bus_request *request, bus_reply_fn *fn,
             void *arg);

/*
 * Asks from any other thread and waits. With 'gather', requests of several
 * threads travel in one message while another is under way: only for
 * operations that are answered at once (x-lane: shared). The answer's bytes
 * live until bus_answer_done. Errors as above.
 */
struct bus_answer {
    struct bus_reply reply;
    void *owner;
};
int bus_ask(struct bus_peer *peer, const struct bus_request *request, bool gather,
            struct bus_answer *ret_answer);
void bus_answer_done(struct bus_answer *a);

/* ---- publish and subscribe: bytes only; libcommon/tagbus.h is what daemons use ---- */

struct bus_pub;
/* Binds <dir>/<name>; 0 or -errno. */
int bus_pub_open(struct bus *bus, const char *name, struct bus_pub **ret_pub);
/* Sends to whoever listens; never blocks; slow listeners lose the oldest. 0 or -errno. */
int bus_pub_send(struct bus_pub *pub, const void *bytes, size_t n);

struct bus_sub;
typedef void bus_sub_fn(void *arg, const void *bytes, size_t n);
/* Connects to <dir>/<name> whenever it is there; fn runs on the loop. 0 or -errno. */
int bus_sub_open(struct bus *bus, const char *name, bus_sub_fn *fn, void *arg,
                 struct bus_sub **ret_sub);
/*
 * 'fn' runs on the loop each time the publisher was connected (what it
 * published before is lost), and when messages were dropped here because the
 * loop was too slow. Set it before the loop runs. One per subscription.
 */
typedef void bus_sub_lost_fn(void *arg);
void bus_sub_on_lost(struct bus_sub *sub, bus_sub_lost_fn *fn, void *arg);

/* Counters for metrics. */
struct bus_stats {
    uint64_t served, expired, refused_peers, bad_messages, asked, ask_failed, messages_asked;
};
void bus_get_stats(const struct bus *bus, struct bus_stats *ret_stats);

#endif
