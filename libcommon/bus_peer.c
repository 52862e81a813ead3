/*
 * The asking side of the bus: one req socket per peer, a context per message
 * under way.
 *
 * The lane gathers. A thread that finds it idle sends its own request at once,
 * by itself. Requests that come while a message is under way wait in the
 * lane's queue; the arrival of the answer sends all of them as the next
 * message, in NNG's thread that brought it, and wakes those it answers. So one
 * request at a time costs no more than a bare send and receive, and many cost
 * one message for all.
 *
 * A request is sent at most once: resending is off, and a send that did not
 * happen because the peer is away is taken back.
 *
 * Locks: peer->lock may be held while NNG is called to receive or to cancel
 * (NNG never calls back from within those, and holds no lock of its own when
 * it does call back); never while sending, which is a system call.
 */
#include "libcommon/bus.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>

#include "libcommon/base.h"
#include "libcommon/bus_private.h"
#include "libcommon/clock.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

enum {
    EXCHANGES_MAX = 1024,        /* messages under way to one peer, the lane's apart */
    LANE_BYTES_MAX = 256 * 1024, /* of a gathered message; a longer request goes by itself */
    GRACE_US = 20000,            /* a peer that was never reached gets this long to appear */
    RECONNECT_MIN_MS = 10,
    RECONNECT_MAX_MS = 100,
    PEER_NAME_MAX = 32,
};

/* ---- waiting: a word per asking thread ---- */

enum { WORD_RUNNING, WORD_ASLEEP, WORD_DONE };

static void
futex_wake(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* True: the word must be woken (the thread sleeps). Its memory may be gone after this. */
static bool
word_finish(_Atomic uint32_t *word)
{
    return atomic_exchange_explicit(word, WORD_DONE, memory_order_acq_rel) == WORD_ASLEEP;
}

/* Until the word is done or 'deadline_us' (0: none) passed; true when done. */
static bool
word_wait(_Atomic uint32_t *word, uint64_t deadline_us)
{
    struct timespec until = {
        .tv_sec = (time_t)(deadline_us / 1000000),
        .tv_nsec = (long)(deadline_us % 1000000) * 1000,
    };
    uint32_t running = WORD_RUNNING;
    atomic_compare_exchange_strong(word, &running, WORD_ASLEEP);
    while (atomic_load_explicit(word, memory_order_acquire) != WORD_DONE) {
        long r = syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, WORD_ASLEEP,
                         deadline_us != 0 ? &until : NULL, NULL, FUTEX_BITSET_MATCH_ANY);
        if (r < 0 && errno == ETIMEDOUT)
            return atomic_load_explicit(word, memory_order_acquire) == WORD_DONE;
    }
    return true;
}

/* ---- the answers of one message, shared by those who asked in it ---- */

struct shared_msg {
    _Atomic uint32_t refs;
    nng_msg *msg;
};

static struct shared_msg *
shared_new(nng_msg *msg, uint32_t refs)
{
    struct shared_msg *s = malloc(sizeof(*s));
    if (s != NULL) {
        atomic_init(&s->refs, refs);
        s->msg = msg;
    }
    return s;
}

static void
shared_drop(struct shared_msg *s)
{
    if (s != NULL && atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) == 1) {
        nng_msg_free(s->msg);
        free(s);
    }
}

/* ---- structures ---- */

/* A message under way, or room for one. Never freed: NNG may still look at it. */
struct exchange {
    struct bus_peer *peer;
    nng_ctx ctx;
    nng_aio *send_wait; /* no callback: the asking thread waits for it */
    nng_aio *send_go;   /* calls went() */
    nng_aio *recv;      /* calls came() */
    enum { EXCHANGE_IDLE, EXCHANGE_SENDING, EXCHANGE_RECEIVING } state;
    bool abandoned; /* nobody wants the answer any more */
    /* In any thread, once per message, without locks held; owns 'msg' (NULL with an error). */
    void (*complete)(struct exchange *x, int error, nng_msg *msg);
    void *arg;
    struct exchange *next;      /* idle ones */
    struct exchange *next_made; /* all of the peer */
};

/* A thread that waits in bus_ask; lives on its stack. */
struct waiter {
    _Atomic uint32_t word;
    int error;
    nng_msg *msg; /* its request as a message, until sent */
    struct shared_msg *owner;
    const uint8_t *at; /* its answer in there */
    uint32_t len;
    int place; /* in the message under way; -1: in the queue */
    struct waiter *next;
};

struct lane {
    struct exchange *exchange;
    bool busy;
    struct waiter *first, **last;            /* for the next message */
    struct waiter *under_way[BUS_BATCH_MAX]; /* NULL: left */
    uint16_t n, n_left;
};

struct bus_call {
    struct bus_peer *peer;
    struct exchange *exchange; /* NULL while waiting for a connection */
    struct loop_timer timer;
    struct loop_post post;
    bus_reply_fn *fn;
    void *arg;
    uint64_t id;
    uint64_t deadline_us;
    nng_msg *request; /* until sent */
    nng_msg *answer;
    int error;
    struct bus_call *next;
};

struct watcher {
    bus_peer_fn *fn;
    void *arg;
    uint64_t seen; /* connects when fn was told of the last 'up' */
    bool up;
    struct watcher *next;
};

struct bus_peer {
    struct bus *bus;
    struct bus_peer *next;
    char name[PEER_NAME_MAX];
    nng_socket socket;
    uint64_t grace_end_us;
    _Atomic uint32_t n_pipes; /* connections: one, or two for a moment */
    _Atomic uint64_t connects;
    pthread_mutex_t lock;
    pthread_cond_t came_up; /* for threads within the grace */
    uint32_t pipes[4];      /* ids of those counted */
    bool posted;
    struct loop_post post;
    struct lane lane;
    struct exchange *idle, *made;
    unsigned n_made;
    /* the loop's own */
    struct bus_call *waiting_calls;
    struct watcher *watchers;
};

bool
bus_peer_is_up(const struct bus_peer *peer)
{
    return atomic_load_explicit(&peer->n_pipes, memory_order_acquire) > 0;
}

/* ---- exchanges ---- */

/* In a thread of NNG: the answer is there, or will never be. */
static void
came(void *arg)
{
    struct exchange *x = arg;
    int r = nng_aio_result(x->recv);
    nng_msg *msg = r == 0 ? nng_aio_get_msg(x->recv) : NULL;
    if (r == 0)
        nng_aio_set_msg(x->recv, NULL);
    x->complete(x, bus_errno(r), msg);
}

/* The request has left: its answer may come. With the lock held. */
static void
exchange_receive(struct exchange *x)
{
    x->state = EXCHANGE_RECEIVING;
    nng_ctx_recv(x->ctx, x->recv);
}

/* In a thread of NNG: the request has left, or was taken back. */
static void
went(void *arg)
{
    struct exchange *x = arg;
    int r = nng_aio_result(x->send_go);
    if (r != 0) {
        nng_msg_free(nng_aio_get_msg(x->send_go));
        nng_aio_set_msg(x->send_go, NULL);
        x->complete(x, -EHOSTUNREACH, NULL);
        return;
    }
    pthread_mutex_lock(&x->peer->lock);
    bool abandoned = x->abandoned;
    if (!abandoned)
        exchange_receive(x);
    pthread_mutex_unlock(&x->peer->lock);
    if (abandoned)
        x->complete(x, -ETIMEDOUT, NULL); /* the next send makes NNG forget this one */
}

/* Sends without waiting; 'complete' follows. x->state is SENDING. */
static void
exchange_send_go(struct exchange *x, nng_msg *msg)
{
    bus_count(&x->peer->bus->stats.messages_asked);
    nng_aio_set_msg(x->send_go, msg);
    nng_ctx_send(x->ctx, x->send_go);
    if (!bus_peer_is_up(x->peer)) /* lost it before pipe_removed could see this send */
        nng_aio_cancel(x->send_go);
}

/*
 * Sends and waits until the message has left, at most until the deadline. 0:
 * 'complete' follows. Else the message was not sent, and is freed.
 */
static int
exchange_send_wait(struct exchange *x, nng_msg *msg, uint64_t deadline_us)
{
    bus_count(&x->peer->bus->stats.messages_asked);
    uint64_t now = clock_mono_us();
    uint64_t left_ms = deadline_us > now ? (deadline_us - now) / 1000 + 1 : 1;
    nng_aio_set_timeout(x->send_wait, left_ms < INT_MAX ? (nng_duration)left_ms : INT_MAX);
    nng_aio_set_msg(x->send_wait, msg);
    nng_ctx_send(x->ctx, x->send_wait);
    if (!bus_peer_is_up(x->peer))
        nng_aio_cancel(x->send_wait);
    nng_aio_wait(x->send_wait);
    int r = nng_aio_result(x->send_wait);
    if (r != 0) {
        nng_msg_free(nng_aio_get_msg(x->send_wait));
        nng_aio_set_msg(x->send_wait, NULL);
        return r == NNG_ETIMEDOUT ? -ETIMEDOUT : r == NNG_ENOMEM ? -ENOMEM : -EHOSTUNREACH;
    }
    pthread_mutex_lock(&x->peer->lock);
    exchange_receive(x);
    pthread_mutex_unlock(&x->peer->lock);
    return 0;
}

/* Nobody waits for the answer any more: 'complete' comes soon. With the lock held. */
static void
exchange_abandon(struct exchange *x)
{
    x->abandoned = true;
    if (x->state == EXCHANGE_RECEIVING)
        nng_aio_cancel(x->recv);
    else if (x->state == EXCHANGE_SENDING)
        nng_aio_cancel(x->send_go);
}

static int
exchange_new(struct bus_peer *peer, struct exchange **ret_exchange)
{
    CLEANUP(freep) struct exchange *x = calloc(1, sizeof(*x));
    if (x == NULL)
        return -ENOMEM;
    x->peer = peer;
    int r = nng_aio_alloc(&x->send_wait, NULL, NULL);
    if (r == 0)
        r = nng_aio_alloc(&x->send_go, went, x);
    if (r == 0)
        r = nng_aio_alloc(&x->recv, came, x);
    if (r == 0)
        r = nng_ctx_open(&x->ctx, peer->socket);
    if (r != 0) {
        nng_aio_free(x->send_wait);
        nng_aio_free(x->send_go);
        nng_aio_free(x->recv);
        return bus_errno(r);
    }
    *ret_exchange = MOVE_PTR(x);
    return 0;
}

/* Makes one that belongs to the caller. With the lock held. -EAGAIN: there are too many. */
static int
exchange_make(struct bus_peer *peer, struct exchange **ret_exchange)
{
    if (peer->n_made >= EXCHANGES_MAX)
        return -EAGAIN;
    struct exchange *x = NULL;
    int r = exchange_new(peer, &x);
    if (r < 0)
        return r;
    MUST(x != NULL); /* an analyzer cannot know that no fault is 0 in bus_errno */
    peer->n_made++;
    x->next_made = peer->made;
    peer->made = x;
    *ret_exchange = x;
    return 0;
}

/* An idle exchange, now in state SENDING. 0 or -errno. */
static int
exchange_get(struct bus_peer *peer, void (*complete)(struct exchange *, int, nng_msg *),
             void *arg, struct exchange **ret_exchange)
{
    int r = 0;
    pthread_mutex_lock(&peer->lock);
    struct exchange *x = peer->idle;
    if (x != NULL)
        peer->idle = x->next;
    else
        r = exchange_make(peer, &x);
    pthread_mutex_unlock(&peer->lock);
    if (r < 0)
        return r;
    x->complete = complete;
    x->arg = arg;
    x->abandoned = false;
    x->state = EXCHANGE_SENDING;
    *ret_exchange = x;
    return 0;
}

static void
exchange_put(struct exchange *x)
{
    pthread_mutex_lock(&x->peer->lock);
    x->state = EXCHANGE_IDLE;
    x->next = x->peer->idle;
    x->peer->idle = x;
    pthread_mutex_unlock(&x->peer->lock);
}

/* ---- the lane ---- */

/* Ends a waiter that is in no message; wakes it. With the lock held. */
static void
fail_queued(struct waiter *w, int error)
{
    nng_msg_free(w->msg);
    w->msg = NULL;
    w->error = error;
    if (word_finish(&w->word))
        futex_wake(&w->word);
}

/* Takes from the queue what fits one message; returns how many bytes of envelopes. */
static size_t
lane_take(struct lane *lane)
{
    size_t bytes = 0;
    lane->n = 0;
    while (lane->first != NULL && lane->n < BUS_BATCH_MAX) {
        struct waiter *w = lane->first;
        size_t more = nng_msg_len(w->msg) - BUS_HEADER_SIZE;
        if (lane->n > 0 && bytes + more > LANE_BYTES_MAX)
            break;
        lane->first = w->next;
        if (lane->first == NULL)
            lane->last = &lane->first;
        w->place = lane->n;
        lane->under_way[lane->n++] = w;
        bytes += more;
    }
    lane->n_left = lane->n;
    return bytes;
}

/* The requests just taken as one message; NULL without memory. */
static nng_msg *
lane_message(struct lane *lane, size_t bytes)
{
    if (lane->n == 1)
        return MOVE_PTR(lane->under_way[0]->msg);
    nng_msg *msg = NULL;
    if (nng_msg_alloc(&msg, BUS_HEADER_SIZE + bytes) != 0)
        return NULL;
    uint8_t *p = nng_msg_body(msg);
    bus_header_write(p, lane->n);
    p += BUS_HEADER_SIZE;
    for (size_t i = 0; i < lane->n; i++) {
        nng_msg *one = MOVE_PTR(lane->under_way[i]->msg);
        size_t len = nng_msg_len(one) - BUS_HEADER_SIZE;
        memcpy(p, (uint8_t *)nng_msg_body(one) + BUS_HEADER_SIZE, len);
        p += len;
        nng_msg_free(one);
    }
    return msg;
}

/*
 * What is to be sent next, or NULL: the lane is idle then. With the lock held.
 */
static nng_msg *
lane_next(struct bus_peer *peer)
{
    struct lane *lane = &peer->lane;
    lane->exchange->abandoned = false;
    while (lane->first != NULL) {
        bool up = bus_peer_is_up(peer);
        size_t bytes = lane_take(lane);
        nng_msg *msg = up ? lane_message(lane, bytes) : NULL;
        if (msg != NULL) {
            lane->exchange->state = EXCHANGE_SENDING;
            return msg;
        }
        for (size_t i = 0; i < lane->n; i++)
            fail_queued(lane->under_way[i], up ? -ENOMEM : -EHOSTUNREACH);
    }
    lane->n = lane->n_left = 0;
    lane->exchange->state = EXCHANGE_IDLE;
    lane->busy = false;
    return NULL;
}

/* Where each answer of a message is. 0, or -EBADMSG when they are not 'n'. */
static int
split_answers(nng_msg *msg, uint16_t n, struct bus_str *ret_at)
{
    struct rd in;
    uint16_t found = 0;
    rd_init(&in, nng_msg_body(msg), nng_msg_len(msg));
    if (bus_message_open(&in, &found) < 0 || found != n)
        return -EBADMSG;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *start = in.at;
        uint32_t len = rd_u32(&in);
        if (rd_bytes(&in, len) == NULL)
            return -EBADMSG;
        ret_at[i] = (struct bus_str){ .p = (const char *)start, .len = len + 4 };
    }
    return rd_ended(&in) ? 0 : -EBADMSG;
}

/* The lane's message is answered, or failed: the next one leaves, then all are woken. */
static void
lane_complete(struct exchange *x, int error, nng_msg *msg)
{
    struct bus_peer *peer = x->peer;
    struct lane *lane = &peer->lane;
    struct bus_str answers[BUS_BATCH_MAX];
    _Atomic uint32_t *wake[BUS_BATCH_MAX];
    size_t n_wake = 0;
    struct shared_msg *owner = NULL;
    pthread_mutex_lock(&peer->lock);
    if (msg != NULL) {
        error = split_answers(msg, lane->n, answers);
        if (error == 0 && (owner = shared_new(msg, 1)) == NULL)
            error = -ENOMEM;
        if (owner == NULL)
            nng_msg_free(msg);
        else
            atomic_fetch_add_explicit(&owner->refs, lane->n_left, memory_order_relaxed);
    }
    for (size_t i = 0; i < lane->n; i++) {
        struct waiter *w = lane->under_way[i];
        if (w == NULL)
            continue;
        w->error = error;
        if (error == 0) {
            w->owner = owner;
            w->at = (const uint8_t *)answers[i].p;
            w->len = answers[i].len;
        }
        if (word_finish(&w->word))
            wake[n_wake++] = &w->word;
    }
    nng_msg *next = lane_next(peer);
    pthread_mutex_unlock(&peer->lock);
    if (next != NULL)
        exchange_send_go(x, next);
    for (size_t i = 0; i < n_wake; i++)
        futex_wake(wake[i]); /* the word may be gone: then nobody is woken */
    shared_drop(owner);
}

/* The deadline passed. True: left; false: the answer came just now. */
static bool
lane_leave(struct bus_peer *peer, struct waiter *w)
{
    struct lane *lane = &peer->lane;
    pthread_mutex_lock(&peer->lock);
    bool left = atomic_load_explicit(&w->word, memory_order_acquire) != WORD_DONE;
    if (left && w->place < 0) {
        struct waiter **at = &lane->first;
        while (*at != w)
            at = &(*at)->next;
        *at = w->next;
        if (w->next == NULL)
            lane->last = at;
        nng_msg_free(w->msg);
    } else if (left) {
        lane->under_way[w->place] = NULL;
        if (--lane->n_left == 0)
            exchange_abandon(lane->exchange);
    }
    pthread_mutex_unlock(&peer->lock);
    return left;
}

static void
ask_gathered(struct bus_peer *peer, nng_msg *msg, uint64_t deadline_us, struct waiter *w)
{
    struct lane *lane = &peer->lane;
    *w = (struct waiter){ .msg = msg };
    pthread_mutex_lock(&peer->lock);
    bool mine = !lane->busy;
    if (mine) {
        lane->busy = true;
        lane->under_way[0] = w;
        lane->n = lane->n_left = 1;
        lane->exchange->abandoned = false;
        w->msg = NULL;
    } else {
        w->place = -1;
        *lane->last = w;
        lane->last = &w->next;
    }
    pthread_mutex_unlock(&peer->lock);
    if (mine) {
        int r = exchange_send_wait(lane->exchange, msg, deadline_us);
        if (r < 0)
            lane_complete(lane->exchange, r, NULL);
    }
    if (!word_wait(&w->word, deadline_us) && lane_leave(peer, w))
        w->error = -ETIMEDOUT;
}

/* ---- asking without the lane ---- */

static void
alone_complete(struct exchange *x, int error, nng_msg *msg)
{
    struct waiter *w = x->arg;
    struct bus_str answer;
    if (msg != NULL) {
        error = split_answers(msg, 1, &answer);
        if (error == 0 && (w->owner = shared_new(msg, 1)) == NULL)
            error = -ENOMEM;
        if (error == 0) {
            w->at = (const uint8_t *)answer.p;
            w->len = answer.len;
        } else {
            nng_msg_free(msg);
        }
    }
    w->error = error;
    if (word_finish(&w->word))
        futex_wake(&w->word);
}

static void
ask_alone(struct bus_peer *peer, nng_msg *msg, uint64_t deadline_us, struct waiter *w)
{
    struct exchange *x = NULL;
    *w = (struct waiter){ 0 };
    w->error = exchange_get(peer, alone_complete, w, &x);
    if (w->error < 0) {
        nng_msg_free(msg);
        return;
    }
    int r = exchange_send_wait(x, msg, deadline_us);
    if (r == 0 && !word_wait(&w->word, deadline_us)) {
        pthread_mutex_lock(&peer->lock);
        exchange_abandon(x);
        pthread_mutex_unlock(&peer->lock);
        (void)word_wait(&w->word, 0); /* true: without a deadline it ends done */
    }
    if (r < 0)
        w->error = r;
    exchange_put(x);
}

/* ---- asking ---- */

/* One request as a message of its own. */
static int
request_message(const struct bus_request *request, nng_msg **ret_msg)
{
    size_t size = bus_request_size(request);
    if (size == 0)
        return -E2BIG;
    if (nng_msg_alloc(ret_msg, BUS_HEADER_SIZE + size) != 0)
        return -ENOMEM;
    uint8_t *p = nng_msg_body(*ret_msg);
    bus_header_write(p, 1);
    bus_request_write(p + BUS_HEADER_SIZE, request);
    return 0;
}

/* True while a peer that was never reached may still appear. */
static bool
in_grace(const struct bus_peer *peer, uint64_t now)
{
    return atomic_load_explicit(&peer->connects, memory_order_acquire) == 0 &&
           now < peer->grace_end_us;
}

/* Is there a connection? A new peer is waited for, for a moment. */
static bool
reachable(struct bus_peer *peer)
{
    if (bus_peer_is_up(peer))
        return true;
    const struct timespec end = {
        .tv_sec = (time_t)(peer->grace_end_us / 1000000),
        .tv_nsec = (long)(peer->grace_end_us % 1000000) * 1000,
    };
    pthread_mutex_lock(&peer->lock);
    while (!bus_peer_is_up(peer) && in_grace(peer, clock_mono_us()))
        (void)pthread_cond_timedwait(&peer->came_up, &peer->lock, &end); /* looked at above */
    pthread_mutex_unlock(&peer->lock);
    return bus_peer_is_up(peer);
}

/* 0, -EBADMSG, or 1: the answer did not fit beside the others. */
static int
read_answer(const struct waiter *w, uint64_t id, struct bus_reply *ret_reply)
{
    struct rd in;
    uint8_t flags = 0;
    rd_init(&in, w->at, w->len);
    if (bus_reply_decode_flags(&in, ret_reply, &flags) < 0 || ret_reply->id != id)
        return -EBADMSG;
    return (flags & BUS_REPLY_ALONE) != 0;
}

int
bus_ask(struct bus_peer *peer, const struct bus_request *request, bool gather,
        struct bus_answer *ret_answer)
{
    struct bus *bus = peer->bus;
    struct waiter w;
    struct bus_reply reply;
    nng_msg *msg = NULL;
    bus_count(&bus->stats.asked);
    int r =
        request->deadline_us > clock_mono_us() ? request_message(request, &msg) : -ETIMEDOUT;
    if (r < 0)
        goto failed;
    if (!reachable(peer)) {
        nng_msg_free(msg);
        r = -EHOSTUNREACH;
        goto failed;
    }
    if (gather)
        ask_gathered(peer, msg, request->deadline_us, &w);
    else
        ask_alone(peer, msg, request->deadline_us, &w);
    r = w.error;
    if (r == 0)
        r = read_answer(&w, request->id, &reply);
    if (r == 1) {
        shared_drop(w.owner);
        return gather ? bus_ask(peer, request, false, ret_answer) : -EBADMSG;
    }
    if (r < 0) {
        if (w.error == 0)
            shared_drop(w.owner);
        goto failed;
    }
    *ret_answer = (struct bus_answer){ .reply = reply, .owner = w.owner };
    return 0;
failed:
    bus_count(&bus->stats.ask_failed);
    return r;
}

void
bus_answer_done(struct bus_answer *a)
{
    shared_drop(a->owner);
    *a = (struct bus_answer){ 0 };
}

/* ---- asking from the loop ---- */

/* On the loop: tells the caller, once. */
static void
call_done(void *arg)
{
    struct bus_call *call = arg;
    struct bus_peer *peer = call->peer;
    struct bus_reply reply;
    struct bus_str at;
    struct rd in;
    loop_timer_cancel(peer->bus->loop, &call->timer);
    if (call->error == 0)
        call->error = split_answers(call->answer, 1, &at);
    if (call->error == 0) {
        rd_init(&in, at.p, at.len);
        if (bus_reply_decode(&in, &reply) < 0 || reply.id != call->id)
            call->error = -EBADMSG;
    }
    if (call->error < 0)
        bus_count(&peer->bus->stats.ask_failed);
    if (call->exchange != NULL)
        exchange_put(call->exchange);
    call->fn(call->arg, call->error, call->error == 0 ? &reply : NULL);
    nng_msg_free(call->request);
    nng_msg_free(call->answer);
    free(call);
}

static void
call_complete(struct exchange *x, int error, nng_msg *msg)
{
    struct bus_call *call = x->arg;
    call->error = error;
    call->answer = msg;
    loop_post(call->peer->bus->loop, &call->post, call_done, call);
}

/* Ends a call that has not been sent. */
static void
call_fail(struct bus_call *call, int error)
{
    loop_timer_cancel(call->peer->bus->loop, &call->timer);
    call->error = error;
    loop_post(call->peer->bus->loop, &call->post, call_done, call);
}

static void
call_unlink(struct bus_call *call)
{
    struct bus_call **at = &call->peer->waiting_calls;
    while (*at != call)
        at = &(*at)->next;
    *at = call->next;
}

static void
call_expired(void *arg)
{
    struct bus_call *call = arg;
    struct bus_peer *peer = call->peer;
    if (call->exchange == NULL) {
        call_unlink(call);
        call_fail(call, call->deadline_us <= clock_mono_us() ? -ETIMEDOUT : -EHOSTUNREACH);
        return;
    }
    /* The exchange is ours until call_done: what is cancelled is this call, or nothing. */
    pthread_mutex_lock(&peer->lock);
    exchange_abandon(call->exchange);
    pthread_mutex_unlock(&peer->lock);
}

static void
call_send(struct bus_call *call)
{
    struct bus_peer *peer = call->peer;
    int r = exchange_get(peer, call_complete, call, &call->exchange);
    if (r == 0)
        r = loop_timer_set(peer->bus->loop, &call->timer, call->deadline_us);
    if (r < 0)
        call_fail(call, r);
    else
        exchange_send_go(call->exchange, MOVE_PTR(call->request));
}

/* Until a peer that was never reached comes up, or its grace is over. */
static void
call_wait(struct bus_call *call)
{
    struct bus_peer *peer = call->peer;
    uint64_t end =
        peer->grace_end_us < call->deadline_us ? peer->grace_end_us : call->deadline_us;
    if (loop_timer_set(peer->bus->loop, &call->timer, end) < 0) {
        call_fail(call, -ENOMEM);
        return;
    }
    call->next = peer->waiting_calls;
    peer->waiting_calls = call;
}

int
bus_call(struct bus_peer *peer, const struct bus_request *request, bus_reply_fn *fn, void *arg)
{
    CLEANUP(freep) struct bus_call *call = calloc(1, sizeof(*call));
    if (call == NULL)
        return -ENOMEM;
    *call = (struct bus_call){
        .peer = peer,
        .fn = fn,
        .arg = arg,
        .id = request->id,
        .deadline_us = request->deadline_us,
    };
    loop_timer_init(&call->timer, call_expired, call);
    int r = request_message(request, &call->request);
    if (r < 0)
        return r;
    bus_count(&peer->bus->stats.asked);
    struct bus_call *made = MOVE_PTR(call);
    if (bus_peer_is_up(peer))
        call_send(made);
    else if (in_grace(peer, clock_mono_us()))
        call_wait(made);
    else
        call_fail(made, -EHOSTUNREACH);
    return 0;
}

/* ---- connections ---- */

static void
tell_watcher(struct watcher *w, bool up, uint64_t connects)
{
    if (w->up && (!up || w->seen != connects)) {
        w->up = false;
        w->fn(w->arg, false);
    }
    if (up && !w->up) {
        w->up = true;
        w->seen = connects;
        w->fn(w->arg, true);
    }
}

/* On the loop: connections came or went. */
static void
peer_changed(void *arg)
{
    struct bus_peer *peer = arg;
    pthread_mutex_lock(&peer->lock);
    peer->posted = false;
    bool up = bus_peer_is_up(peer);
    uint64_t connects = atomic_load_explicit(&peer->connects, memory_order_relaxed);
    pthread_mutex_unlock(&peer->lock);
    while (up && peer->waiting_calls != NULL) {
        struct bus_call *call = peer->waiting_calls;
        peer->waiting_calls = call->next;
        call_send(call);
    }
    for (struct watcher *w = peer->watchers; w != NULL; w = w->next)
        tell_watcher(w, up, connects);
}

/* With the lock held. */
static void
post_change(struct bus_peer *peer)
{
    if (peer->posted)
        return;
    peer->posted = true;
    loop_post(peer->bus->loop, &peer->post, peer_changed, peer);
}

int
bus_peer_watch(struct bus_peer *peer, bus_peer_fn *fn, void *arg)
{
    struct watcher *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return -ENOMEM;
    w->fn = fn;
    w->arg = arg;
    w->next = peer->watchers;
    peer->watchers = w;
    pthread_mutex_lock(&peer->lock);
    post_change(peer); /* it may be up already */
    pthread_mutex_unlock(&peer->lock);
    return 0;
}

/* In a thread of NNG: connected, not in use yet. */
static void
pipe_added(nng_pipe pipe, nng_pipe_ev event, void *arg)
{
    (void)event;
    struct bus_peer *peer = arg;
    bool counted = false;
    if (bus_pipe_is(peer->bus, pipe, peer->name, strlen(peer->name))) {
        pthread_mutex_lock(&peer->lock);
        uint32_t n = atomic_load_explicit(&peer->n_pipes, memory_order_relaxed);
        counted = n < ARRAY_LEN(peer->pipes);
        if (counted) {
            peer->pipes[n] = (uint32_t)nng_pipe_id(pipe);
            atomic_fetch_add(&peer->connects, 1);
            atomic_store_explicit(&peer->n_pipes, n + 1, memory_order_release);
            (void)pthread_cond_broadcast(&peer->came_up); /* never fails */
            post_change(peer);
        }
        pthread_mutex_unlock(&peer->lock);
    }
    if (!counted)
        (void)nng_pipe_close(pipe);
}

/* With the lock held: what has not left yet shall not wait for the peer to come back. */
static void
take_back_sends(struct bus_peer *peer)
{
    nng_aio_cancel(peer->lane.exchange->send_wait);
    nng_aio_cancel(peer->lane.exchange->send_go);
    for (struct exchange *x = peer->made; x != NULL; x = x->next_made) {
        nng_aio_cancel(x->send_wait);
        nng_aio_cancel(x->send_go);
    }
}

/* In a thread of NNG: a connection is gone. What was sent on it has failed already. */
static void
pipe_removed(nng_pipe pipe, nng_pipe_ev event, void *arg)
{
    (void)event;
    struct bus_peer *peer = arg;
    uint32_t id = (uint32_t)nng_pipe_id(pipe);
    pthread_mutex_lock(&peer->lock);
    uint32_t n = atomic_load_explicit(&peer->n_pipes, memory_order_relaxed);
    for (uint32_t i = 0; i < n; i++)
        if (peer->pipes[i] == id) {
            peer->pipes[i] = peer->pipes[--n];
            atomic_store_explicit(&peer->n_pipes, n, memory_order_release);
            post_change(peer);
            break;
        }
    if (n == 0)
        take_back_sends(peer);
    pthread_mutex_unlock(&peer->lock);
}

static int
peer_connect(struct bus_peer *peer)
{
    char url[160];
    int r = bus_url(peer->bus, peer->name, ".rpc", url, sizeof(url));
    if (r < 0)
        return r;
    r = nng_req0_open(&peer->socket);
    if (r == 0) /* before any context: they copy it */
        r = nng_socket_set_ms(peer->socket, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE);
    if (r == 0)
        r = nng_socket_set_ms(peer->socket, NNG_OPT_RECONNMINT, RECONNECT_MIN_MS);
    if (r == 0)
        r = nng_socket_set_ms(peer->socket, NNG_OPT_RECONNMAXT, RECONNECT_MAX_MS);
    if (r == 0)
        r = nng_socket_set_size(peer->socket, NNG_OPT_RECVMAXSZ,
                                BUS_MESSAGE_MAX + BUS_RECV_SLACK);
    if (r == 0)
        r = nng_pipe_notify(peer->socket, NNG_PIPE_EV_ADD_PRE, pipe_added, peer);
    if (r == 0)
        r = nng_pipe_notify(peer->socket, NNG_PIPE_EV_REM_POST, pipe_removed, peer);
    r = bus_errno(r);
    if (r == 0)
        r = exchange_new(peer, &peer->lane.exchange);
    if (r < 0)
        return r;
    peer->lane.exchange->complete = lane_complete;
    peer->lane.last = &peer->lane.first;
    peer->grace_end_us = clock_mono_us() + GRACE_US;
    return bus_errno(nng_dial(peer->socket, url, NULL, NNG_FLAG_NONBLOCK));
}

static int
peer_new(struct bus *bus, const char *name, struct bus_peer **ret_peer)
{
    CLEANUP(freep) struct bus_peer *peer = calloc(1, sizeof(*peer));
    if (peer == NULL)
        return -ENOMEM;
    peer->bus = bus;
    int r = str_copy(peer->name, sizeof(peer->name), name);
    if (r < 0)
        return -ENAMETOOLONG; /* cppcheck-suppress memleak ; CLEANUP frees it */
    pthread_condattr_t attr;
    r = pthread_condattr_init(&attr);
    if (r == 0)
        r = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    if (r == 0)
        r = pthread_cond_init(&peer->came_up, &attr);
    if (r == 0)
        r = pthread_mutex_init(&peer->lock, NULL);
    if (r != 0)
        return -r;
    r = peer_connect(peer);
    if (r < 0) {
        (void)MOVE_PTR(
            peer); /* it may be in NNG's hands by now: kept, as a bus is never freed */
        return r;
    }
    *ret_peer = MOVE_PTR(peer);
    return 0;
}

int
bus_peer(struct bus *bus, const char *name, struct bus_peer **ret_peer)
{
    int r = 0;
    pthread_mutex_lock(&bus->lock);
    struct bus_peer *peer = bus->peers;
    while (peer != NULL && !str_eq(peer->name, name))
        peer = peer->next;
    if (peer == NULL) {
        r = peer_new(bus, name, &peer);
        if (peer != NULL) {
            peer->next = bus->peers;
            bus->peers = peer;
        }
    }
    pthread_mutex_unlock(&bus->lock);
    if (r == 0)
        *ret_peer = peer;
    return r;
}
