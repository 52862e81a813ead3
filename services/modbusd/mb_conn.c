#include "services/modbusd/mb_conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "libcommon/banned.h"

enum { READS_MAX = 8 }; /* of a full buffer at once */

int
mb_address_parse(const char *text, uint16_t port, struct mb_address *ret_address)
{
    struct mb_address a = { .port = port };
    if (inet_pton(AF_INET, text, &a.in.sin_addr) == 1) {
        a.in.sin_family = AF_INET;
        a.in.sin_port = htons(port);
        a.len = sizeof(a.in);
        (void)inet_ntop(AF_INET, &a.in.sin_addr, a.text, sizeof(a.text)); /* fits */
    } else if (inet_pton(AF_INET6, text, &a.in6.sin6_addr) == 1) {
        a.in6.sin6_family = AF_INET6;
        a.in6.sin6_port = htons(port);
        a.len = sizeof(a.in6);
        (void)inet_ntop(AF_INET6, &a.in6.sin6_addr, a.text, sizeof(a.text)); /* fits */
    } else {
        return -EINVAL;
    }
    *ret_address = a;
    return 0;
}

/* ---- of all kinds ---- */

void
mb_conn_enter(struct mb_conn *c, enum mb_conn_state state)
{
    bool useful = c->useful;
    c->state = state;
    c->events.state(c->events.arg, state, useful);
}

void
mb_conn_set_timer(struct mb_conn *c, uint64_t deadline_us)
{
    if (loop_timer_set(c->loop, &c->timer, deadline_us) < 0)
        log_err("modbus: no memory for a timer %s", c->name);
}

void
mb_conn_close(struct mb_conn *c)
{
    loop_io_remove(c->io);
    c->io = NULL;
    if (c->fd >= 0)
        (void)close(c->fd); /* nothing of ours can be lost in it */
    c->fd = -1;
    c->n_in = 0;
    loop_timer_cancel(c->loop, &c->timer);
}

static uint32_t
next_random(struct mb_conn *c)
{
    /* xorshift32: spreads attempts, nothing depends on its quality */
    c->random ^= c->random << 13;
    c->random ^= c->random >> 17;
    c->random ^= c->random << 5;
    return c->random;
}

uint64_t
mb_conn_pause_us(struct mb_conn *c)
{
    uint32_t before = c->failures++;
    if (before == 0)
        return 0;
    unsigned shift = before - 1 > 6 ? 6 : before - 1;
    uint64_t pause = (uint64_t)MB_BACKOFF_MIN_US << shift;
    if (pause > MB_BACKOFF_MAX_US)
        pause = MB_BACKOFF_MAX_US;
    return pause - next_random(c) % (pause / 4);
}

void
mb_conn_end(struct mb_conn *c, struct mb_slot *slot, struct mb_result *r)
{
    void *owner = slot->owner;
    r->sent_us = slot->sent_us;
    r->begun_us = slot->begun_us;
    r->passed_cost_us = slot->passed_cost_us;
    r->crowded = slot->crowded;
    slot->used = false;
    slot->owner = NULL;
    c->n_in_flight--;
    c->events.done(c->events.arg, owner, r);
}

void
mb_conn_init(struct mb_conn *c, const struct mb_conn_kind *kind, struct loop *loop,
             const char *name, loop_timer_fn *on_timer, const struct mb_conn_events *events,
             struct mb_conn_counters *counters)
{
    memset(c, 0, sizeof(*c));
    c->kind = kind;
    c->loop = loop;
    c->events = *events;
    c->counters = counters;
    c->fd = -1;
    (void)snprintf(c->name, sizeof(c->name), "%s", name); /* enough of it for a log */
    /* FNV-1a: every name its own jitter, the same in every run. */
    c->random = 0x811C9DC5u;
    for (const char *p = name; *p; p++)
        c->random = (c->random ^ (uint8_t)*p) * 0x01000193u;
    c->random |= 1;
    loop_timer_init(&c->timer, on_timer, c);
}

void
mb_conn_expire_by(struct mb_conn *c, uint64_t deadline_us)
{
    if (!loop_timer_is_set(&c->timer) || deadline_us < c->timer.deadline_us)
        mb_conn_set_timer(c, deadline_us);
}

void
mb_conn_forget(struct mb_conn *c, const void *owner)
{
    for (unsigned i = 0; i < MB_IN_FLIGHT_MAX; i++)
        if (c->slots[i].used && c->slots[i].owner == owner)
            c->slots[i].owner = NULL;
}

/* ---- TCP ---- */

static struct mb_tcp *
tcp_of(struct mb_conn *c)
{
    return CONTAINER_OF(c, struct mb_tcp, conn);
}

/* What is on the wire, for the traffic log. */
static void
note(struct mb_conn *c, bool sent, enum traffic_error error, enum traffic_fault fault,
     const uint8_t *bytes, size_t n)
{
    const struct mb_tcp *t = tcp_of(c);
    struct traffic_frame f = { .framing = TRAFFIC_TCP,
                               .role = TRAFFIC_MASTER,
                               .sent = sent,
                               .request = sent,
                               .peer = t->address.text,
                               .port = t->address.port,
                               .error = error,
                               .fault = fault,
                               .bytes = bytes,
                               .n = n };
    traffic_note(c->traffic, &f);
}

/* 'slot' NULL: nobody waits for it. */
static void
note_reply(struct mb_conn *c, const struct mb_slot *slot, enum mb_done done,
           const struct mb_frame *f)
{
    enum traffic_error error = TRAFFIC_NO_ERROR;
    enum traffic_fault fault = TRAFFIC_NO_FAULT;
    if (!slot || slot->unit != f->unit) {
        error = slot ? TRAFFIC_OTHER_SERVER : TRAFFIC_UNKNOWN;
        fault = TRAFFIC_UNASKED;
    } else if (done == MB_DONE_BAD) {
        error = TRAFFIC_INVALID;
        fault = traffic_fault_of(slot->head, f->pdu, f->n);
    }
    note(c, false, error, fault, f->pdu - MB_HEADER_SIZE, f->size);
}

static struct mb_slot *
oldest_slot(struct mb_conn *c)
{
    struct mb_slot *oldest = NULL;
    for (unsigned i = 0; c->n_in_flight && i < MB_IN_FLIGHT_MAX; i++)
        if (c->slots[i].used && (!oldest || c->slots[i].sent_us < oldest->sent_us))
            oldest = &c->slots[i];
    return oldest;
}

static bool
others_wait(const struct mb_conn *c, uint8_t unit)
{
    for (unsigned i = 0; c->n_in_flight && i < MB_IN_FLIGHT_MAX; i++)
        if (c->slots[i].used && c->slots[i].unit != unit)
            return true;
    return false;
}

/*
 * The connection is of no more use: end what is in flight, try again later.
 * 'by_us': it was not the peer that ended it. A peer that did has done so
 * while it was busy with the oldest request.
 */
static void
lose(struct mb_conn *c, enum mb_done why, bool by_us)
{
    tcp_of(c)->silences = 0;
    if (c->n_in > 0) /* no frame, or the beginning of one */
        note(c, false, TRAFFIC_INVALID, TRAFFIC_UNFRAMEABLE, c->in, c->n_in);
    mb_conn_close(c);
    c->useful |= by_us;
    uint64_t pause = mb_conn_pause_us(c);
    /* Not open any more before anybody hears of it, so that nobody sends. */
    c->state = MB_CONN_WAITING;
    mb_conn_set_timer(c, clock_mono_us() + pause);
    struct mb_slot *oldest = oldest_slot(c);
    if (oldest && others_wait(c, oldest->unit))
        oldest->crowded = true; /* now it is */
    for (unsigned i = 0; i < MB_IN_FLIGHT_MAX; i++) {
        struct mb_slot *slot = &c->slots[i];
        bool other = why == MB_DONE_LOST && slot != oldest;
        struct mb_result r = { .done = why,
                               .by_us = by_us || other,
                               .now_us = clock_mono_us() };
        if (slot->used)
            mb_conn_end(c, slot, &r);
    }
    mb_conn_enter(c, MB_CONN_WAITING);
    c->useful = false;
}

static void
expire(struct mb_conn *c)
{
    struct mb_tcp *t = tcp_of(c);
    uint64_t now = clock_mono_us(), next = 0;
    unsigned n_over = 0;
    unsigned n_unheard = 0;
    for (unsigned i = 0; i < MB_IN_FLIGHT_MAX; i++) {
        const struct mb_slot *slot = &c->slots[i];
        bool over = slot->used && slot->deadline_us <= now;
        n_over += over;
        n_unheard += over && slot->sent_us > t->answered_us;
    }
    t->silences = (uint8_t)(t->silences + n_unheard);
    bool renew = n_over > 0 && (c->n_in > 0 || t->silences >= MB_SILENCES_MAX);
    if (renew)
        c->state = MB_CONN_WAITING; /* so that nobody sends on it any more */
    for (unsigned i = 0; i < MB_IN_FLIGHT_MAX; i++) {
        struct mb_slot *slot = &c->slots[i];
        if (slot->used && slot->deadline_us <= now) {
            struct mb_result r = { .done = MB_DONE_TIMEOUT, .now_us = now };
            c->counters->timeouts++;
            mb_conn_end(c, slot, &r);
        }
    }
    if (renew) {
        lose(c, MB_DONE_LOST, true);
        return;
    }
    for (unsigned i = 0; i < MB_IN_FLIGHT_MAX; i++)
        if (c->slots[i].used && (next == 0 || c->slots[i].deadline_us < next))
            next = c->slots[i].deadline_us;
    if (next && c->state == MB_CONN_OPEN)
        mb_conn_set_timer(c, next);
}

static struct mb_slot *
slot_of_tid(struct mb_conn *c, uint16_t tid)
{
    for (unsigned i = 0; i < MB_IN_FLIGHT_MAX; i++)
        if (c->slots[i].used && c->slots[i].tid == tid)
            return &c->slots[i];
    return NULL;
}

void
mb_result_judge(struct mb_result *r, const uint8_t head[MB_HEAD_SIZE], const uint8_t *pdu,
                size_t n)
{
    static const enum mb_done done[] = { [MB_CHECK_OK] = MB_DONE_OK,
                                         [MB_CHECK_EXCEPTION] = MB_DONE_EXCEPTION,
                                         [MB_CHECK_BAD] = MB_DONE_BAD };
    r->done = done[mb_pdu_check(head, pdu, n, &r->data, &r->n, &r->exception)];
}

static void
take_frame(struct mb_conn *c, const struct mb_frame *f)
{
    struct mb_slot *slot = slot_of_tid(c, f->tid);
    if (!slot) {
        c->counters->late++;
        if (traffic_is_on(c->traffic))
            note_reply(c, NULL, MB_DONE_BAD, f);
        return;
    }
    struct mb_result r = { .done = MB_DONE_BAD, .now_us = clock_mono_us() };
    if (f->unit == slot->unit)
        mb_result_judge(&r, slot->head, f->pdu, f->n);
    if (traffic_is_on(c->traffic))
        note_reply(c, slot, r.done, f);
    if (r.done == MB_DONE_BAD) {
        c->counters->bad++;
    } else {
        *(r.done == MB_DONE_OK ? &c->counters->replies : &c->counters->exceptions) += 1;
        c->useful = true;
        c->failures = 0;
        tcp_of(c)->silences = 0;
        tcp_of(c)->answered_us = r.now_us;
    }
    mb_conn_end(c, slot, &r);
}

static void
drop_taken(struct mb_conn *c, size_t n)
{
    memmove(c->in, c->in + n, c->n_in - n);
    c->n_in = (uint16_t)(c->n_in - n);
}

/* All whole frames of what arrived. False: the connection was lost on the way. */
static bool
take_frames(struct mb_conn *c)
{
    size_t at = 0;
    while (at < c->n_in) {
        struct mb_frame f;
        enum mb_cut cut = mb_frame_cut(c->in + at, c->n_in - at, &f);
        if (cut == MB_CUT_MORE)
            break;
        if (cut == MB_CUT_LOST) {
            c->counters->lost_framing++;
            drop_taken(c, at);
            lose(c, MB_DONE_BAD, false);
            return false;
        }
        at += f.size;
        take_frame(c, &f);
        if (c->state != MB_CONN_OPEN)
            return false;
    }
    drop_taken(c, at);
    return true;
}

static void
on_readable(struct mb_conn *c)
{
    /* One that sends without an end must not hold the loop: what is left comes next time. */
    for (unsigned i = 0; i < READS_MAX; i++) {
        size_t room = sizeof(c->in) - c->n_in;
        ssize_t n = recv(c->fd, c->in + c->n_in, room, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            lose(c, MB_DONE_LOST, false);
            return;
        }
        c->n_in = (uint16_t)(c->n_in + n);
        if (!take_frames(c) || (size_t)n < room)
            return;
    }
}

static void
on_connected(struct mb_conn *c)
{
    int error = 0;
    socklen_t len = sizeof(error);
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        error = errno;
    if (error != 0 || loop_io_change(c->io, EPOLLIN) < 0) {
        log_debug("modbus: cannot connect %s error=%d", c->name, error);
        c->counters->connect_failures++;
        lose(c, MB_DONE_LOST, false);
        return;
    }
    loop_timer_cancel(c->loop, &c->timer);
    c->counters->connects++;
    c->useful = false;
    mb_conn_enter(c, MB_CONN_OPEN);
}

static void
on_io(void *arg, uint32_t events)
{
    struct mb_conn *c = arg;
    if (c->state == MB_CONN_CONNECTING)
        on_connected(c);
    else if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        on_readable(c);
}

/* All of them only make it quicker, or a dead peer sooner known: failures do not matter. */
static void
set_options(struct mb_conn *c)
{
    int on = 1, idle_s = 30, unsent_ms = 10000;
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unsent_ms, sizeof(unsent_ms));
}

static void
connect_now(struct mb_conn *c)
{
    const struct mb_tcp *t = tcp_of(c);
    c->fd = socket(t->address.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        goto failed;
    set_options(c);
    if (connect(c->fd, &t->address.sa, t->address.len) < 0 && errno != EINPROGRESS)
        goto failed;
    if (loop_io_add(c->loop, c->fd, EPOLLOUT, on_io, c, &c->io) < 0)
        goto failed;
    mb_conn_set_timer(c, clock_mono_us() + t->connect_timeout_ms * 1000ull);
    mb_conn_enter(c, MB_CONN_CONNECTING);
    return;
failed:
    c->counters->connect_failures++;
    lose(c, MB_DONE_LOST, false);
}

static bool
is_over(const struct mb_conn *c)
{
    uint64_t now = clock_mono_us();
    for (unsigned i = 0; i < MB_IN_FLIGHT_MAX; i++)
        if (c->slots[i].used && c->slots[i].deadline_us <= now)
            return true;
    return false;
}

static void
on_timer(void *arg)
{
    struct mb_conn *c = arg;
    switch (c->state) {
    case MB_CONN_WAITING:
        connect_now(c);
        break;
    case MB_CONN_CONNECTING:
        c->counters->connect_failures++;
        lose(c, MB_DONE_LOST, false);
        break;
    case MB_CONN_OPEN:
        /* After a stall of the loop the answer may be here and not be read yet. */
        if (is_over(c))
            on_readable(c);
        if (c->state == MB_CONN_OPEN)
            expire(c);
        break;
    case MB_CONN_STOPPED:
        break;
    }
}

static void
tcp_start(struct mb_conn *c)
{
    c->failures = 0;
    c->state = MB_CONN_WAITING;
    uint64_t now = clock_mono_us();
    mb_conn_set_timer(c, now > c->not_before_us ? now : c->not_before_us);
}

static void
tcp_stop(struct mb_conn *c)
{
    mb_conn_close(c);
    memset(c->slots, 0, sizeof(c->slots));
    c->n_in_flight = 0;
    c->state = MB_CONN_STOPPED;
}

static struct mb_slot *
free_slot(struct mb_conn *c)
{
    for (unsigned i = 0; i < MB_IN_FLIGHT_MAX; i++)
        if (!c->slots[i].used)
            return &c->slots[i];
    return NULL;
}

static void
tcp_send(struct mb_conn *c, uint8_t unit, const uint8_t *pdu, size_t n, uint64_t timeout_us,
         void *owner)
{
    struct mb_tcp *t = tcp_of(c);
    MUST(mb_conn_can_send(c) && n >= MB_HEAD_SIZE);
    struct mb_slot *slot = free_slot(c);
    bool crowded = others_wait(c, unit);
    while (slot_of_tid(c, t->next_tid))
        t->next_tid++;
    uint64_t now = clock_mono_us();
    *slot = (struct mb_slot){ .owner = owner,
                              .used = true,
                              .crowded = crowded,
                              .unit = unit,
                              .tid = t->next_tid++,
                              .sent_us = now,
                              .begun_us = now,
                              .deadline_us = now + timeout_us };
    memcpy(slot->head, pdu, MB_HEAD_SIZE);
    c->n_in_flight++;
    c->counters->requests++;
    uint8_t frame[MB_ADU_MAX];
    size_t size = mb_frame_encode(slot->tid, unit, pdu, n, frame);
    ssize_t sent = send(c->fd, frame, size, MSG_NOSIGNAL);
    if (traffic_is_on(c->traffic) && sent > 0)
        note(c, true, c->again ? TRAFFIC_RESEND : TRAFFIC_NO_ERROR, TRAFFIC_NO_FAULT, frame,
             (size_t)sent);
    /*
     * A peer that has left tens of kilobytes of requests unread, or is gone:
     * the loop will say so at once, outside this call.
     */
    if (sent != (ssize_t)size)
        (void)shutdown(c->fd, SHUT_RDWR);
    mb_conn_expire_by(c, slot->deadline_us);
}

void
mb_tcp_init(struct mb_tcp *t, struct loop *loop, const struct mb_address *address,
            const struct mb_conn_events *events, struct mb_conn_counters *counters)
{
    static const struct mb_conn_kind kind = { tcp_start, tcp_stop, tcp_send };
    char name[sizeof(t->conn.name)];
    memset(t, 0, sizeof(*t));
    (void)snprintf(name, sizeof(name), "address=%s port=%u", address->text,
                   address->port); /* fits */
    mb_conn_init(&t->conn, &kind, loop, name, on_timer, events, counters);
    t->address = *address;
    t->next_tid = 1;
}

void
mb_tcp_set_timeout(struct mb_tcp *t, uint32_t connect_timeout_ms)
{
    t->connect_timeout_ms = connect_timeout_ms;
}
