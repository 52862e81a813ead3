#include "services/modbusd/sl_tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/log.h"
#include "services/modbusd/mb_pdu.h"
#include "libcommon/banned.h"

enum {
    ANSWERS_MAX = 8,  /* gathered into one send */
    ACCEPTS_MAX = 64, /* in one round */
    BACKLOG = 128,
    ACCEPT_PAUSE_US = 1000000, /* when the process has no descriptor left */
    KEEP_ALIVE_PROBES = 3,
};

union address {
    struct sockaddr sa;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
};

struct client {
    struct sl_tcp *t;
    struct client *next, *prev; /* by age */
    struct loop_io *io;
    struct loop_timer timer; /* set while a frame or an answer waits for the client */
    struct sl_job *job;      /* its request that waits for the owner of a tag */
    int fd;
    uint32_t id;
    uint32_t events;  /* the loop watches for */
    uint64_t used_us; /* asked last; 0: never */
    enum sl_conn_status status;
    struct sl_counters n;
    uint16_t port;
    char address[INET6_ADDRSTRLEN];
    uint16_t job_tid; /* of the request of 'job' */
    uint8_t job_unit;
    uint16_t n_in, n_out, out_at;
    uint8_t in[4 * MB_ADU_MAX];
    uint8_t out[ANSWERS_MAX * MB_ADU_MAX];
};

struct sl_tcp {
    struct loop *loop;
    struct sl_map *map;
    struct traffic *traffic; /* NULL: none */
    int fd;                  /* -1: closed */
    struct loop_io *io;
    struct loop_timer pause;
    uint8_t unit;
    unsigned keep_alive_s;
    struct client *first, *last;
    size_t n_clients;
    uint32_t next_id;
    struct sl_counters all;
    uint64_t accepted, refused, cut;
};

/* ---- one client ---- */

static void
client_close(struct client *c)
{
    struct sl_tcp *t = c->t;
    if (c->job != NULL)
        sl_job_forget(c->job);
    loop_timer_cancel(t->loop, &c->timer);
    loop_io_remove(c->io);
    (void)close(c->fd); /* what it did not read is its own loss */
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        t->first = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    else
        t->last = c->prev;
    t->n_clients--;
    free(c);
}

static void
client_cut(struct client *c, const char *why)
{
    log_info("modbus: slave cuts a client off address=%s port=%u reason=%s", c->address,
             c->port, why);
    c->t->cut++;
    client_close(c);
}

static void
count(struct client *c, enum sl_conn_status status)
{
    struct sl_counters *const both[] = { &c->n, &c->t->all };
    c->status = status;
    for (size_t i = 0; i < ARRAY_LEN(both); i++) {
        bool is_valid = status == SL_CONN_OK || status == SL_CONN_EXCEPTION;
        both[i]->valid += is_valid;
        both[i]->invalid += !is_valid;
        both[i]->responses += status == SL_CONN_OK;
        both[i]->exceptions += status == SL_CONN_EXCEPTION;
    }
}

/* For the traffic log. */
static void
note(const struct client *c, bool sent, enum traffic_error error, enum traffic_fault fault,
     const uint8_t *bytes, size_t n)
{
    const struct traffic_frame f = { .framing = TRAFFIC_TCP,
                                     .role = TRAFFIC_SLAVE,
                                     .sent = sent,
                                     .request = !sent,
                                     .peer = c->address,
                                     .port = c->port,
                                     .error = error,
                                     .fault = fault,
                                     .bytes = bytes,
                                     .n = n };
    traffic_note(c->t->traffic, &f);
}

static void
put_answer(struct client *c, uint16_t tid, uint8_t unit, const uint8_t *pdu, size_t n)
{
    MUST(c->n_out + MB_HEADER_SIZE + n <= sizeof(c->out));
    size_t size = mb_frame_encode(tid, unit, pdu, n, c->out + c->n_out);
    note(c, true, TRAFFIC_NO_ERROR, TRAFFIC_NO_FAULT, c->out + c->n_out, size);
    c->n_out = (uint16_t)(c->n_out + size);
    count(c, pdu[0] & 0x80 ? SL_CONN_EXCEPTION : SL_CONN_OK);
}

static void client_go_on(struct client *c);

static void
on_answer(void *arg, const uint8_t *pdu, size_t n)
{
    struct client *c = arg;
    c->job = NULL;
    put_answer(c, c->job_tid, c->job_unit, pdu, n);
    client_go_on(c);
}

static bool
is_for_us(const struct sl_tcp *t, uint8_t unit)
{
    return unit == t->unit || unit == 0 || unit == 0xFF;
}

static void
take_frame(struct client *c, const struct mb_frame *f)
{
    uint8_t pdu[MB_PDU_MAX];
    bool ours = is_for_us(c->t, f->unit);
    note(c, false, ours ? TRAFFIC_NO_ERROR : TRAFFIC_OTHER_SERVER,
         ours ? TRAFFIC_NO_FAULT : TRAFFIC_SERVER_ID, f->pdu - MB_HEADER_SIZE, f->size);
    if (!ours) {
        count(c, SL_CONN_DROPPED);
        return;
    }
    c->used_us = loop_now_us(c->t->loop);
    c->job_tid = f->tid;
    c->job_unit = f->unit;
    size_t n = sl_serve(c->t->map, 0, f->pdu, f->n, pdu, on_answer, c, &c->job);
    if (n > 0)
        put_answer(c, f->tid, f->unit, pdu, n);
}

static bool
has_room(const struct client *c)
{
    return c->job == NULL && sizeof(c->out) - c->n_out >= MB_ADU_MAX;
}

/* Serves what arrived as far as it may. False: this is no Modbus. */
static bool
take_frames(struct client *c)
{
    size_t at = 0;
    enum mb_cut cut = MB_CUT_MORE;
    while (has_room(c) && at < c->n_in) {
        struct mb_frame f;
        cut = mb_frame_cut(c->in + at, c->n_in - at, &f);
        if (cut != MB_CUT_FRAME)
            break;
        at += f.size;
        take_frame(c, &f);
    }
    if (at > 0)
        memmove(c->in, c->in + at, c->n_in - at);
    c->n_in = (uint16_t)(c->n_in - at);
    return cut != MB_CUT_LOST;
}

/* Sends what it takes. False: it is gone. */
static bool
flush(struct client *c)
{
    while (c->out_at < c->n_out) {
        ssize_t n =
            send(c->fd, c->out + c->out_at, (size_t)(c->n_out - c->out_at), MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR;
        c->out_at = (uint16_t)(c->out_at + n);
    }
    c->n_out = c->out_at = 0;
    return true;
}

/* The client owes us the rest of a frame, or the reading of its answers. */
static void
watch(struct client *c)
{
    bool stalled = c->n_out > 0;
    bool owes = stalled || (c->n_in > 0 && c->job == NULL);
    uint32_t events = stalled ? EPOLLOUT : c->job != NULL ? 0 : EPOLLIN;
    if (events != c->events && loop_io_change(c->io, events) == 0)
        c->events = events;
    if (!owes)
        loop_timer_cancel(c->t->loop, &c->timer);
    else if (!loop_timer_is_set(&c->timer) &&
             loop_timer_set(c->t->loop, &c->timer,
                            loop_now_us(c->t->loop) + SL_STALL_S * 1000000ull) < 0)
        log_err("modbus: no memory for a timer address=%s", c->address);
}

/* Answers and sends until something must be waited for. May free the client. */
static void
client_go_on(struct client *c)
{
    for (;;) {
        uint16_t before = c->n_in;
        if (!take_frames(c)) {
            (void)flush(c); /* answers of the requests before the garbage */
            count(c, SL_CONN_INVALID);
            note(c, false, TRAFFIC_INVALID, TRAFFIC_UNFRAMEABLE, c->in, c->n_in);
            client_cut(c, "no Modbus");
            return;
        }
        if (!flush(c)) {
            client_close(c);
            return;
        }
        if (c->n_out > 0 || c->n_in == before)
            break;
        loop_timer_cancel(c->t->loop, &c->timer); /* it owed something, and has given it */
        if (c->job != NULL)
            break;
    }
    watch(c);
}

static void
on_readable(struct client *c)
{
    ssize_t n = recv(c->fd, c->in + c->n_in, sizeof(c->in) - c->n_in, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        client_close(c);
        return;
    }
    c->n_in = (uint16_t)(c->n_in + n);
    client_go_on(c);
}

static void
on_client(void *arg, uint32_t events)
{
    struct client *c = arg;
    if (events & EPOLLOUT && c->n_out > 0)
        client_go_on(c);
    else if (c->job != NULL && events & (EPOLLHUP | EPOLLERR))
        client_close(c);
    else if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        on_readable(c);
}

static void
on_stall(void *arg)
{
    struct client *c = arg;
    client_cut(c, c->n_out > 0 ? "does not read" : "unfinished request");
}

/* ---- many ---- */

static void
set_keep_alive(int fd, unsigned seconds)
{
    int on = seconds > 0, idle_s = (int)seconds;
    int every_s = idle_s / KEEP_ALIVE_PROBES + 1, probes = KEEP_ALIVE_PROBES;
    /* A kernel that refuses one only finds the dead later. */
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    if (!on)
        return;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof(every_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

static struct client *
oldest_unused(const struct sl_tcp *t)
{
    struct client *oldest = NULL;
    for (struct client *c = t->first; c != NULL; c = c->next)
        if (c->job == NULL && (oldest == NULL || c->used_us < oldest->used_us))
            oldest = c;
    return oldest;
}

static bool
make_room(struct sl_tcp *t)
{
    struct client *c = oldest_unused(t);
    if (c != NULL)
        client_cut(c, "too many clients");
    return c != NULL;
}

static void
name_client(struct client *c, const union address *a)
{
    if (a->sa.sa_family == AF_INET) {
        (void)inet_ntop(AF_INET, &a->in.sin_addr, c->address, sizeof(c->address)); /* fits */
        c->port = ntohs(a->in.sin_port);
        return;
    }
    c->port = ntohs(a->in6.sin6_port);
    if (IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr))
        (void)inet_ntop(AF_INET, a->in6.sin6_addr.s6_addr + 12, c->address, sizeof(c->address));
    else
        (void)inet_ntop(AF_INET6, &a->in6.sin6_addr, c->address, sizeof(c->address));
}

/* 'fd' is closed when this fails. */
static int
client_new(struct sl_tcp *t, int fd, const union address *from)
{
    struct client *c = calloc(1, sizeof(*c));
    int on = 1, r = c != NULL ? 0 : -ENOMEM;
    if (r == 0)
        r = loop_io_add(t->loop, fd, EPOLLIN, on_client, c, &c->io);
    if (r < 0) {
        (void)close(fd); /* a client that is told so */
        free(c);
        return r;
    }
    c->t = t;
    c->fd = fd;
    c->id = t->next_id++;
    c->events = EPOLLIN;
    loop_timer_init(&c->timer, on_stall, c);
    name_client(c, from);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* slower without */
    set_keep_alive(fd, t->keep_alive_s);
    c->prev = t->last;
    *(t->last ? &t->last->next : &t->first) = c;
    t->last = c;
    t->n_clients++;
    t->accepted++;
    return 0;
}

/* Nothing can be accepted now: not asked again at once, without end. */
static void
pause_accepting(struct sl_tcp *t)
{
    log_warn("modbus: slave cannot accept clients error=%s", strerror(errno));
    if (loop_io_change(t->io, 0) < 0 ||
        loop_timer_set(t->loop, &t->pause, loop_now_us(t->loop) + ACCEPT_PAUSE_US) < 0)
        log_err("modbus: slave cannot wait with accepting");
}

static void
on_pause_over(void *arg)
{
    struct sl_tcp *t = arg;
    if (t->io != NULL && loop_io_change(t->io, EPOLLIN) < 0)
        log_err("modbus: slave cannot go on accepting");
}

/* False: there is nobody, or nobody can be accepted. */
static bool
accept_one(struct sl_tcp *t)
{
    union address from = { 0 };
    socklen_t len = sizeof(from);
    int fd = accept4(t->fd, &from.sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM))
        pause_accepting(t);
    if (fd < 0)
        return errno == ECONNABORTED || errno == EINTR;
    if (t->n_clients >= SL_CONNS_MAX && !make_room(t)) {
        (void)close(fd); /* refused */
        t->refused++;
        return true;
    }
    if (client_new(t, fd, &from) < 0)
        t->refused++;
    return true;
}

static void
on_listener(void *arg, uint32_t events)
{
    struct sl_tcp *t = arg;
    (void)events;
    for (unsigned i = 0; i < ACCEPTS_MAX && accept_one(t); i++)
        ;
}

/* ---- the server ---- */

static int
listen_at(int family, uint16_t port)
{
    union address a = { 0 };
    socklen_t len = family == AF_INET ? sizeof(a.in) : sizeof(a.in6);
    int on = 1, off = 0;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    a.sa.sa_family = (sa_family_t)family;
    if (family == AF_INET)
        a.in.sin_port = htons(port);
    else
        a.in6.sin6_port = htons(port);
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
        (family == AF_INET ||
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) == 0) &&
        bind(fd, &a.sa, len) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int r = -errno;
    (void)close(fd); /* the reason is what counts */
    return r;
}

int
sl_tcp_listen(uint16_t port, int *ret_fd)
{
    int fd = listen_at(AF_INET6, port);
    if (fd == -EAFNOSUPPORT || fd == -EADDRNOTAVAIL)
        fd = listen_at(AF_INET, port); /* a kernel without IPv6 */
    if (fd < 0)
        return fd;
    *ret_fd = fd;
    return 0;
}

uint16_t
sl_tcp_port(const struct sl_tcp *t)
{
    union address a = { 0 };
    socklen_t len = sizeof(a);
    if (t->fd < 0 || getsockname(t->fd, &a.sa, &len) < 0)
        return 0;
    return ntohs(a.sa.sa_family == AF_INET ? a.in.sin_port : a.in6.sin6_port);
}

int
sl_tcp_new(struct loop *loop, struct sl_tcp **ret_tcp)
{
    struct sl_tcp *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return -ENOMEM;
    t->loop = loop;
    t->fd = -1;
    t->next_id = 1;
    loop_timer_init(&t->pause, on_pause_over, t);
    *ret_tcp = t;
    return 0;
}

int
sl_tcp_serve(struct sl_tcp *t, int fd)
{
    struct loop_io *io = NULL;
    int r = fd >= 0 ? loop_io_add(t->loop, fd, EPOLLIN, on_listener, t, &io) : 0;
    if (r < 0) {
        (void)close(fd); /* nobody knew of it */
        return r;
    }
    loop_timer_cancel(t->loop, &t->pause);
    loop_io_remove(t->io);
    if (t->fd >= 0)
        (void)close(t->fd); /* a listener loses nothing */
    struct client *next;
    for (struct client *c = t->first; c != NULL; c = next) {
        next = c->next;
        client_close(c);
    }
    t->fd = fd;
    t->io = io;
    return 0;
}

void
sl_tcp_free(struct sl_tcp *t)
{
    if (t == NULL)
        return;
    (void)sl_tcp_serve(t, -1); /* closing does not fail */
    free(t);
}

void
sl_tcp_set(struct sl_tcp *t, struct sl_map *map, uint8_t unit, unsigned keep_alive_s)
{
    t->map = map;
    t->unit = unit;
    if (t->keep_alive_s == keep_alive_s)
        return;
    t->keep_alive_s = keep_alive_s;
    for (struct client *c = t->first; c != NULL; c = c->next)
        set_keep_alive(c->fd, keep_alive_s);
}

void
sl_tcp_set_traffic(struct sl_tcp *t, struct traffic *traffic)
{
    t->traffic = traffic;
}

void
sl_tcp_get_stats(const struct sl_tcp *t, struct sl_stats *ret_stats)
{
    ret_stats->n_conns = t->n_clients;
    ret_stats->all = t->all;
    ret_stats->accepted = t->accepted;
    ret_stats->refused = t->refused;
    ret_stats->cut = t->cut;
}

bool
sl_tcp_conn_stats(const struct sl_tcp *t, size_t at, struct sl_conn_stats *ret_stats)
{
    const struct client *c = t->first;
    while (c != NULL && at-- > 0)
        c = c->next;
    if (c == NULL)
        return false;
    bool is_v6 = strchr(c->address, ':') != NULL;
    struct sl_conn_stats s = { .status = c->status, .id = c->id, .n = c->n };
    (void)snprintf(s.remote, sizeof(s.remote), is_v6 ? "[%s]:%u" : "%s:%u", c->address,
                   c->port); /* fits */
    *ret_stats = s;
    return true;
}
