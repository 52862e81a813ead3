/*
 * The open connections of both listeners, so that none of them can keep
 * others out: civetweb gives each connection a thread for as long as it is
 * open, idle or not. What is here decides which may come in (per-address
 * limit), which one must go when threads run short (an idle one at once, a busy
 * one after its present answer), and which one is past its deadline.
 *
 * A connection enters at accept (civetweb's master thread), is worked on by
 * one worker thread, and leaves just before its descriptor is closed: while
 * it is in the table its descriptor is open.
 */
#ifndef FIELDGATE_GATEWAY_CONNS_H
#define FIELDGATE_GATEWAY_CONNS_H

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum conn_group { CONN_SECURE, CONN_PLAIN, CONN_N_GROUPS };
enum {
    CONNS_MAX = 1024,
    CONNS_SPARE = 8,             /* threads kept free by closing idle connections */
    CONNS_IDLE_LEAST_US = 20000, /* one that has just become so is not yet idle */
    CONNS_FIRST_US = 200000,     /* for the first request, from when it has a thread */
    CONNS_SLOW_US = 2000000,     /* waiting for its client so long, in a body or a reply, is */
};

struct conn {
    uint32_t ip;               /* network order */
    uint16_t port, local_port; /* host order */
    int fd;
    uint64_t order;    /* of arrival */
    void *server_conn; /* the HTTP library's, for TLS from the handshake on */
    uint8_t group;     /* enum conn_group */
    bool used, ended;
    _Atomic bool asked;             /* has sent a request */
    _Atomic bool stays;             /* an event stream: no answer ends soon */
    _Atomic bool yields;            /* somebody waits for its thread: ends with its answer */
    _Atomic uint64_t idle_since_us; /* may be in the future; 0: has work */
    _Atomic uint64_t deadline_us;   /* 0: none */
};

struct conns_limits {
    unsigned workers[CONN_N_GROUPS]; /* threads of each listener */
    unsigned per_address; /* connections of one address to CONN_SECURE; 0: no limit */
    uint16_t plain_port;  /* every other local port is CONN_SECURE */
    /*
     * Threads run short: call conns_check soon and until it returns false. Any thread; again
     * when they run short anew, be the first call answered or not.
     */
    void (*on_pressure)(void *arg);
    void *arg;
};

struct conns_stats {
    unsigned open[CONN_N_GROUPS];
    uint64_t refused, shed, late;
};

struct conns;
/* 0 or -ENOMEM. The one table of the process (accept finds it by itself). */
int conns_new(const struct conns_limits *limits, struct conns **ret_conns);
/* When no thread uses it any more. NULL does nothing. */
void conns_free(struct conns *c);

/*
 * A connection was accepted. Returns 0, or -ECONNREFUSED (limit reached,
 * stopping): then the caller closes the descriptor.
 */
int conns_enter(struct conns *c, int fd, const struct sockaddr_in *peer,
                const struct sockaddr_in *local, uint64_t now_us);
/* By addresses, the newest (an older one left without a word); NULL when it is not there. */
struct conn *conns_find(struct conns *c, uint32_t ip, uint16_t port, uint16_t local_port);
/* A TLS handshake begins on 'fd'. */
void conns_handshake(int fd, void *server_conn);
/* By conns_handshake; NULL when it is not there. */
struct conn *conns_find_handshake(struct conns *c, const void *server_conn);
/* Before the descriptor is closed. NULL does nothing. */
void conns_leave(struct conns *c, struct conn *conn);

static inline void
conn_asked(struct conn *conn)
{
    atomic_store_explicit(&conn->asked, true, memory_order_relaxed);
}
static inline void
conn_busy(struct conn *conn)
{
    atomic_store_explicit(&conn->idle_since_us, 0, memory_order_relaxed);
}
static inline void
conn_idle(struct conn *conn, uint64_t now_us)
{
    atomic_store_explicit(&conn->deadline_us, 0, memory_order_relaxed);
    atomic_store_explicit(&conn->idle_since_us, now_us, memory_order_relaxed);
}
/* It waits for the client within a request: as good as idle after CONNS_SLOW_US. */
static inline void
conn_waits(struct conn *conn, uint64_t now_us)
{
    atomic_store_explicit(&conn->idle_since_us, now_us + CONNS_SLOW_US, memory_order_relaxed);
}
/* It follows events: nobody waits for the end of its answer. */
static inline void
conn_stays(struct conn *conn)
{
    atomic_store_explicit(&conn->stays, true, memory_order_relaxed);
}
/* Its present answer should be its last. */
static inline bool
conn_yields(const struct conn *conn)
{
    return atomic_load_explicit(&conn->yields, memory_order_relaxed);
}
/* What the connection does now must be done by then; 0: no limit. */
static inline void
conn_deadline(struct conn *conn, uint64_t deadline_us)
{
    atomic_store_explicit(&conn->deadline_us, deadline_us, memory_order_relaxed);
}

/*
 * Ends those past their deadline and, when threads are short, those idle for
 * longest; while others still wait for a thread, as many of the busy ones as
 * wait are told to yield, the oldest first. Call about once a second; true:
 * threads are short, call again after CONNS_IDLE_LEAST_US.
 */
bool conns_check(struct conns *c, uint64_t now_us);
/* From now on nothing enters, and idle connections end. */
void conns_stop(struct conns *c, uint64_t now_us);
void conns_get_stats(struct conns *c, struct conns_stats *ret_stats);

#endif
