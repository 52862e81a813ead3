/*
 * A way to devices: a table of requests in flight, time-outs, and coming back
 * after a loss with growing, jittered pauses. It does not know what is asked or
 * when; that is mb_engine.c. There are two kinds: the TCP connection (struct
 * mb_tcp, here) and the serial line (mb_line.h).
 *
 * TCP: non-blocking socket, frames, transaction ids.
 *
 * A peer that brought no answer at all during MB_SILENCES_MAX time-outs, or that
 * timed out in the middle of a frame, gets a new connection: what is half-dead in between
 * (address translation, a restarted peer, a mixed-up stream) is left behind.
 *
 * A reply whose transaction id is unknown (late, or nonsense) is dropped and
 * counted. A reply that does not fit its request ends that request as
 * MB_DONE_BAD and the connection goes on; when the place of the next frame is
 * lost, all requests end so and the connection is made anew.
 */
#ifndef FIELDGATE_MB_CONN_H
#define FIELDGATE_MB_CONN_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "libcommon/loop.h"
#include "services/modbusd/mb_pdu.h"
#include "services/modbusd/traffic.h"

enum { MB_IN_FLIGHT_MAX = 16 };

struct mb_address {
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    };
    socklen_t len;
    char text[INET6_ADDRSTRLEN]; /* the address in its one canonical spelling */
    uint16_t port;
};
/* From an IPv4 or IPv6 literal; 0 or -EINVAL. */
int mb_address_parse(const char *text, uint16_t port, struct mb_address *ret_address);

enum mb_done {
    MB_DONE_OK,
    MB_DONE_EXCEPTION, /* code in 'exception' */
    MB_DONE_BAD,       /* the answer does not fit, or framing was lost */
    MB_DONE_TIMEOUT,
    MB_DONE_LOST, /* the connection went before the answer */
};

enum mb_conn_state {
    MB_CONN_STOPPED,
    MB_CONN_CONNECTING,
    MB_CONN_OPEN,
    MB_CONN_WAITING, /* for the next attempt */
};

struct mb_result {
    enum mb_done done;
    uint8_t exception;
    const uint8_t *data; /* of a read; valid during the call */
    size_t n;
    uint64_t sent_us, begun_us, now_us;
    uint64_t passed_cost_us; /* as in the slot */
    bool crowded; /* another unit's request was unanswered when this one was sent, or lost */
    bool by_us; /* MB_DONE_LOST: because of others, whom the peer closed on or we gave up on */
};

/* Called on the loop. They may send; they may not stop or free the connection. */
struct mb_conn_events {
    /* A request ended; its place in the table is free already. 'owner' NULL: a forgotten one.
     */
    void (*done)(void *arg, void *owner, const struct mb_result *r);
    /*
     * Entered this state. 'useful': the connection before had brought an
     * answer, or was given up by us because of silence: it may well be made again.
     */
    void (*state)(void *arg, enum mb_conn_state state, bool useful);
    void *arg;
};

struct mb_slot {
    void *owner; /* NULL: forgotten by its owner, still awaited */
    bool used;
    bool crowded;
    uint8_t unit;
    uint8_t head[MB_HEAD_SIZE];
    uint16_t tid;
    uint64_t sent_us, deadline_us;
    /* for the owner, who may change them and the deadline: */
    uint64_t begun_us; /* sent, or since when it is taken to be served */
    uint64_t
        passed_cost_us; /* what it cost one that was answered before it; 0: there is none */
};

/* Counters shared by all connections. */
struct mb_conn_counters {
    uint64_t requests, replies, timeouts, exceptions, bad, late, lost_framing, connects,
        connect_failures;
};

struct mb_conn;
/* What a kind of connection is made of; called through the functions below. */
struct mb_conn_kind {
    void (*start)(struct mb_conn *c);
    void (*stop)(struct mb_conn *c);
    void (*send)(struct mb_conn *c, uint8_t unit, const uint8_t *pdu, size_t n,
                 uint64_t timeout_us, void *owner);
};

/* What all kinds have; first member of each. */
struct mb_conn {
    /* readable by the owner */
    enum mb_conn_state state;
    struct mb_slot slots[MB_IN_FLIGHT_MAX];
    unsigned n_in_flight;
    bool useful;       /* has brought an answer since it was opened */
    uint32_t failures; /* attempts since the last answer */
    char name[272];    /* for the log: "address=… port=…" */
    /* set by the owner */
    uint64_t not_before_us;  /* of the first attempt over TCP; before the start */
    struct traffic *traffic; /* NULL: none */
    bool again;              /* what is sent next was sent before, in vain */
    /* private */
    const struct mb_conn_kind *kind;
    struct loop *loop;
    struct mb_conn_events events;
    struct mb_conn_counters *counters;
    struct loop_io *io;
    struct loop_timer timer;
    uint32_t random; /* for jitter */
    int fd;
    uint16_t n_in;
    uint8_t in[4 * MB_ADU_MAX];
};

struct mb_tcp {
    struct mb_conn conn;
    struct mb_address address; /* readable by the owner */
    /* private */
    uint32_t connect_timeout_ms;
    uint8_t silences; /* time-outs of requests sent after the last answer */
    uint64_t answered_us;
    uint16_t next_tid;
};

/* So many time-outs in a row, nobody answered since the request was sent, and the connection is
 * made anew. */
enum { MB_SILENCES_MAX = 5 };
enum { MB_BACKOFF_MIN_US = 100000, MB_BACKOFF_MAX_US = 5000000 };

/* Stopped; connects when started. 'counters' must outlive it. */
void mb_tcp_init(struct mb_tcp *t, struct loop *loop, const struct mb_address *address,
                 const struct mb_conn_events *events, struct mb_conn_counters *counters);
/* How long an attempt may take; before the start, and at any time. */
void mb_tcp_set_timeout(struct mb_tcp *t, uint32_t connect_timeout_ms);

/* Begins to connect and keeps at it. */
static inline void
mb_conn_start(struct mb_conn *c)
{
    if (c->state == MB_CONN_STOPPED)
        c->kind->start(c);
}
/* Closes; requests in flight are dropped without a word. */
static inline void
mb_conn_stop(struct mb_conn *c)
{
    c->kind->stop(c);
}

static inline bool
mb_conn_can_send(const struct mb_conn *c)
{
    return c->state == MB_CONN_OPEN && c->n_in_flight < MB_IN_FLIGHT_MAX;
}
/*
 * Sends a PDU (n >= MB_HEAD_SIZE) to 'unit'; 'done' follows exactly once
 * and never from inside this call. The caller
 * has checked mb_conn_can_send.
 */
static inline void
mb_conn_send(struct mb_conn *c, uint8_t unit, const uint8_t *pdu, size_t n, uint64_t timeout_us,
             void *owner)
{
    c->kind->send(c, unit, pdu, n, timeout_us, owner);
}
/* A request in flight was given another deadline, this one. */
void mb_conn_expire_by(struct mb_conn *c, uint64_t deadline_us);
/* 'done' will come without this owner; the transaction id stays reserved until then. */
void mb_conn_forget(struct mb_conn *c, const void *owner);

/* ---- for the kinds ---- */

/* Stopped, without a descriptor; 'name' is kept for the log and for the jitter. */
void mb_conn_init(struct mb_conn *c, const struct mb_conn_kind *kind, struct loop *loop,
                  const char *name, loop_timer_fn *on_timer,
                  const struct mb_conn_events *events, struct mb_conn_counters *counters);
/* Enters a state and tells the owner. */
void mb_conn_enter(struct mb_conn *c, enum mb_conn_state state);
void mb_conn_set_timer(struct mb_conn *c, uint64_t deadline_us);
/* Closes the descriptor, forgets what was received and the timer. */
void mb_conn_close(struct mb_conn *c);
/* The pause before the next attempt, which it counts: none after a connection that had worked.
 */
uint64_t mb_conn_pause_us(struct mb_conn *c);
/* What 'pdu' is to the request that began with 'head' (mb_pdu_check): done, exception, data. */
void mb_result_judge(struct mb_result *r, const uint8_t head[MB_HEAD_SIZE], const uint8_t *pdu,
                     size_t n);
/* Ends a request: the rest of 'r' is filled in from its slot. */
void mb_conn_end(struct mb_conn *c, struct mb_slot *slot, struct mb_result *r);

#endif
