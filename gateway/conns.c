/*
 * The table of connections, and the accept() that fills it. See conns.h and
 * proto/decisions/tls-with-civetweb.md on why accept() is here.
 */
#include "gateway/conns.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway/doors.h"
#include "libcommon/base.h"
#include "libcommon/clock.h"

#include "libcommon/banned.h"

struct conns {
    pthread_mutex_t lock;
    struct conns_limits limits;
    struct conns_stats stats;
    unsigned n_slots; /* slots used so far: the rest was never touched */
    bool stopping, pressed;
    uint64_t n_arrived;
    struct conn slots[CONNS_MAX];
};

static _Atomic(struct conns *) the_conns;

int
conns_new(const struct conns_limits *limits, struct conns **ret_conns)
{
    struct conns *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return -ENOMEM;
    pthread_mutex_init(&c->lock, NULL);
    c->limits = *limits;
    atomic_store(&the_conns, c);
    *ret_conns = c;
    return 0;
}

void
conns_free(struct conns *c)
{
    if (c == NULL)
        return;
    struct conns *mine = c;
    (void)atomic_compare_exchange_strong(&the_conns, &mine, NULL); /* or a later one */
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* Its worker sees end of file, cleans up and calls conns_leave. */
static void
end(struct conns *c, struct conn *conn)
{
    conn->ended = true;
    c->stats.open[conn->group]--;
    (void)shutdown(conn->fd, SHUT_RDWR); /* fails when the peer was faster: as good */
}

static int
compare_orders(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/*
 * Connections wait for a thread in the order they came. Those that came at or
 * after the result still wait: they are as many as there are too few threads.
 */
static uint64_t
first_waiting(const struct conns *c, unsigned group)
{
    uint64_t orders[CONNS_MAX];
    size_t n = 0;
    for (unsigned i = 0; i < c->n_slots; i++)
        if (c->slots[i].used && c->slots[i].group == group)
            orders[n++] = c->slots[i].order;
    if (n <= c->limits.workers[group])
        return UINT64_MAX;
    qsort(orders, n, sizeof(orders[0]), compare_orders);
    return orders[c->limits.workers[group]];
}

/* Who waits for a thread is not idle; given one, it has a moment for its first request. */
static void
excuse_waiting(struct conns *c, unsigned group, uint64_t waiting, uint64_t now_us)
{
    for (unsigned i = 0; i < c->n_slots; i++) {
        struct conn *conn = &c->slots[i];
        if (!conn->used || conn->group != group || conn->order < waiting)
            continue;
        uint64_t since = atomic_load(&conn->idle_since_us);
        /* Unless a thread has just begun with it: then that said 0. */
        if (since != 0 && !atomic_load(&conn->asked))
            (void)atomic_compare_exchange_strong(&conn->idle_since_us, &since,
                                                 now_us + CONNS_FIRST_US);
    }
}

/* The one idle for longest; NULL when none is. */
static struct conn *
find_idle(struct conns *c, unsigned group, uint64_t waiting, uint64_t now_us)
{
    struct conn *oldest = NULL;
    uint64_t oldest_us = now_us - CONNS_IDLE_LEAST_US;
    for (unsigned i = 0; i < c->n_slots; i++) {
        struct conn *conn = &c->slots[i];
        if (!conn->used || conn->ended || conn->group != group)
            continue;
        if (conn->order >= waiting && !atomic_load_explicit(&conn->asked, memory_order_relaxed))
            continue;
        uint64_t since = atomic_load_explicit(&conn->idle_since_us, memory_order_relaxed);
        if (since != 0 && since < oldest_us) {
            oldest = conn;
            oldest_us = since;
        }
    }
    return oldest;
}

/* Ends with its present answer. */
static bool
gives_way(const struct conn *conn)
{
    return conn_yields(conn) && !atomic_load_explicit(&conn->stays, memory_order_relaxed);
}

static bool
can_give_way(const struct conn *conn)
{
    return !conn_yields(conn) && atomic_load_explicit(&conn->asked, memory_order_relaxed) &&
           !atomic_load_explicit(&conn->stays, memory_order_relaxed);
}

/* As many busy ones as there are others without a thread are asked for theirs. */
static void
ask_to_yield(struct conns *c, unsigned group)
{
    unsigned n_used = 0, n_yielding = 0;
    for (unsigned i = 0; i < c->n_slots; i++) {
        const struct conn *conn = &c->slots[i];
        if (conn->used && conn->group == group) {
            n_used++;
            n_yielding += conn->ended || gives_way(conn);
        }
    }
    for (; n_used > c->limits.workers[group] + n_yielding; n_yielding++) {
        struct conn *oldest = NULL;
        for (unsigned i = 0; i < c->n_slots; i++) {
            struct conn *conn = &c->slots[i];
            if (conn->used && !conn->ended && conn->group == group && can_give_way(conn) &&
                (oldest == NULL || conn->order < oldest->order))
                oldest = conn;
        }
        if (oldest == NULL)
            return;
        atomic_store_explicit(&oldest->yields, true, memory_order_relaxed);
    }
}

static bool
is_pressed(const struct conns *c, unsigned group)
{
    return c->stats.open[group] + CONNS_SPARE > c->limits.workers[group];
}

static void
leave(struct conns *c, struct conn *conn)
{
    if (!conn->ended)
        c->stats.open[conn->group]--;
    conn->used = false;
    conn->fd = -1;
    conn->server_conn = NULL;
}

static struct conn *
free_slot(struct conns *c)
{
    for (unsigned i = 0; i < c->n_slots; i++)
        if (!c->slots[i].used)
            return &c->slots[i];
    return c->n_slots < CONNS_MAX ? &c->slots[c->n_slots++] : NULL;
}

static unsigned
count_address(const struct conns *c, uint32_t ip)
{
    unsigned n = 0;
    for (unsigned i = 0; i < c->n_slots; i++) {
        const struct conn *conn = &c->slots[i];
        n += conn->used && !conn->ended && conn->group == CONN_SECURE && conn->ip == ip;
    }
    return n;
}

/* A descriptor that is new cannot be open: whoever had it left without a word. */
static void
drop_closed(struct conns *c, int fd)
{
    for (unsigned i = 0; i < c->n_slots; i++)
        if (c->slots[i].used && c->slots[i].fd == fd)
            leave(c, &c->slots[i]);
}

static int
enter(struct conns *c, int fd, const struct conn *want, uint64_t now_us)
{
    drop_closed(c, fd);
    if (c->stopping)
        return -ECONNREFUSED;
    if (want->group == CONN_SECURE && c->limits.per_address != 0 &&
        count_address(c, want->ip) >= c->limits.per_address)
        return -ECONNREFUSED;
    struct conn *conn = free_slot(c);
    if (conn == NULL)
        return -ECONNREFUSED;
    conn->ip = want->ip;
    conn->port = want->port;
    conn->local_port = want->local_port;
    conn->fd = fd;
    conn->group = want->group;
    conn->used = true;
    conn->ended = false;
    conn->order = c->n_arrived++;
    conn->server_conn = NULL;
    atomic_store_explicit(&conn->asked, false, memory_order_relaxed);
    atomic_store_explicit(&conn->stays, false, memory_order_relaxed);
    atomic_store_explicit(&conn->yields, false, memory_order_relaxed);
    conn_idle(conn, now_us);
    c->stats.open[conn->group]++;
    if (!c->pressed && is_pressed(c, conn->group)) {
        c->pressed = true;
        if (c->limits.on_pressure != NULL)
            c->limits.on_pressure(c->limits.arg);
    }
    return 0;
}

int
conns_enter(struct conns *c, int fd, const struct sockaddr_in *peer,
            const struct sockaddr_in *local, uint64_t now_us)
{
    struct conn want = {
        .ip = peer->sin_addr.s_addr,
        .port = ntohs(peer->sin_port),
        .local_port = ntohs(local->sin_port),
    };
    want.group = want.local_port == c->limits.plain_port ? CONN_PLAIN : CONN_SECURE;
    pthread_mutex_lock(&c->lock);
    int r = enter(c, fd, &want, now_us);
    if (r < 0)
        c->stats.refused++;
    pthread_mutex_unlock(&c->lock);
    return r;
}

struct conn *
conns_find(struct conns *c, uint32_t ip, uint16_t port, uint16_t local_port)
{
    struct conn *found = NULL;
    pthread_mutex_lock(&c->lock);
    for (unsigned i = 0; i < c->n_slots; i++) {
        struct conn *conn = &c->slots[i];
        if (conn->used && conn->port == port && conn->ip == ip &&
            conn->local_port == local_port && (found == NULL || conn->order > found->order))
            found = conn;
    }
    pthread_mutex_unlock(&c->lock);
    return found;
}

void
conns_leave(struct conns *c, struct conn *conn)
{
    if (conn == NULL)
        return;
    pthread_mutex_lock(&c->lock);
    leave(c, conn);
    pthread_mutex_unlock(&c->lock);
}

void
conns_handshake(int fd, void *server_conn)
{
    struct conns *c = atomic_load(&the_conns);
    if (c == NULL)
        return;
    pthread_mutex_lock(&c->lock);
    for (unsigned i = 0; i < c->n_slots; i++)
        if (c->slots[i].used && c->slots[i].fd == fd)
            c->slots[i].server_conn = server_conn;
    pthread_mutex_unlock(&c->lock);
}

struct conn *
conns_find_handshake(struct conns *c, const void *server_conn)
{
    struct conn *found = NULL;
    pthread_mutex_lock(&c->lock);
    for (unsigned i = 0; i < c->n_slots; i++)
        if (c->slots[i].used && c->slots[i].server_conn == server_conn)
            found = &c->slots[i];
    pthread_mutex_unlock(&c->lock);
    return found;
}

static void
end_late(struct conns *c, uint64_t now_us)
{
    for (unsigned i = 0; i < c->n_slots; i++) {
        struct conn *conn = &c->slots[i];
        uint64_t deadline = atomic_load_explicit(&conn->deadline_us, memory_order_relaxed);
        if (conn->used && !conn->ended && deadline != 0 && deadline < now_us) {
            c->stats.late++;
            end(c, conn);
        }
    }
}

bool
conns_check(struct conns *c, uint64_t now_us)
{
    pthread_mutex_lock(&c->lock);
    end_late(c, now_us);
    for (unsigned group = 0; group < CONN_N_GROUPS; group++) {
        if (!is_pressed(c, group))
            continue;
        uint64_t waiting = first_waiting(c, group);
        struct conn *idle;
        excuse_waiting(c, group, waiting, now_us);
        while (is_pressed(c, group) && (idle = find_idle(c, group, waiting, now_us)) != NULL) {
            c->stats.shed++;
            end(c, idle);
        }
        ask_to_yield(c, group);
    }
    c->pressed = is_pressed(c, CONN_SECURE) || is_pressed(c, CONN_PLAIN);
    bool pressed = c->pressed;
    pthread_mutex_unlock(&c->lock);
    return pressed;
}

void
conns_stop(struct conns *c, uint64_t now_us)
{
    pthread_mutex_lock(&c->lock);
    c->stopping = true;
    for (unsigned i = 0; i < c->n_slots; i++) {
        struct conn *conn = &c->slots[i];
        uint64_t since = atomic_load_explicit(&conn->idle_since_us, memory_order_relaxed);
        if (conn->used && !conn->ended && since != 0 && since <= now_us)
            end(c, conn);
    }
    pthread_mutex_unlock(&c->lock);
}

void
conns_get_stats(struct conns *c, struct conns_stats *ret_stats)
{
    pthread_mutex_lock(&c->lock);
    *ret_stats = c->stats;
    pthread_mutex_unlock(&c->lock);
}

/*
 * accept() for the libraries of this process: civetweb has no hook between
 * accepting a connection and giving it a thread. TCP connections go through
 * the table, all others pass.
 */
int
accept(int listener, __SOCKADDR_ARG addr, socklen_t *restrict addr_len)
{
    struct sockaddr_storage peer = { .ss_family = AF_UNSPEC };
    struct sockaddr_in local = { 0 };
    socklen_t peer_len = sizeof(peer), local_len = sizeof(local);
    int fd = door_accept(listener, (struct sockaddr *)&peer, &peer_len);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE)
            (void)usleep(10000); /* the listener stays readable: do not spin */
        return -1;
    }
    struct conns *c = atomic_load(&the_conns);
    if (c != NULL && peer.ss_family == AF_INET) {
        if (getsockname(fd, (struct sockaddr *)&local, &local_len) < 0 ||
            conns_enter(c, fd, (struct sockaddr_in *)&peer, &local, clock_mono_us()) < 0) {
            close(fd);
            errno = ECONNABORTED;
            return -1;
        }
    }
    struct sockaddr *out = addr.__sockaddr__;
    if (out != NULL && addr_len != NULL) {
        memcpy(out, &peer, peer_len < *addr_len ? peer_len : *addr_len);
        *addr_len = peer_len;
    }
    return fd;
}
