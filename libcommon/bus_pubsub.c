/*
 * Publish and subscribe: one pub socket per name served, one sub socket per
 * name followed, everything subscribed.
 *
 * Receiving never has a time-out and is never cancelled: NNG 1.5.2 crashes
 * when a sub socket's receive expires (nng issue 1523). Neither socket is ever
 * closed.
 */
#include "libcommon/bus.h"

#include <errno.h>
#include <string.h>

#include <nng/nng.h>
#include <nng/protocol/pubsub0/pub.h>
#include <nng/protocol/pubsub0/sub.h>

#include "libcommon/base.h"
#include "libcommon/bus_private.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

enum {
    PUB_SENDBUF = 256,   /* messages per slow subscriber */
    SUB_RECVBUF = 1024,  /* messages in NNG */
    SUB_QUEUE_MAX = 256, /* messages between NNG's thread and the loop; a power of two */
    SUB_QUEUE_BYTES = 16 << 20,
    SUB_ROUND_MAX = 64,  /* messages per round of the loop: others want their turn */
    RECONNECT_MIN_MS = 10,
    RECONNECT_MAX_MS = 400,
};

struct bus_pub {
    struct bus *bus;
    struct bus_pub *next;
    nng_socket socket;
    nng_aio *send; /* no callback; a publisher never waits */
};

struct bus_sub {
    struct bus *bus;
    char daemon[32]; /* whose publisher it is */
    nng_socket socket;
    nng_aio *recv;
    bus_sub_fn *fn;
    void *arg;
    bus_sub_lost_fn *lost_fn;
    void *lost_arg;
    pthread_mutex_t lock;
    nng_msg *queue[SUB_QUEUE_MAX];
    size_t head, tail; /* counts; index modulo SUB_QUEUE_MAX */
    size_t bytes;      /* of the queue */
    bool lost;         /* tell lost_fn */
    bool posted;
    struct loop_post post;
};

/* In a thread of NNG: strangers hear nothing. */
static void
subscriber_added(nng_pipe pipe, nng_pipe_ev event, void *arg)
{
    (void)event;
    struct bus_pub *pub = arg;
    uint32_t uid = 0;
    if (!bus_pipe_allowed(pub->bus, pipe, &uid))
        (void)nng_pipe_close(pipe);
}

int
bus_pub_open(struct bus *bus, const char *name, struct bus_pub **ret_pub)
{
    char url[160];
    nng_listener listener;
    int r = bus_url(bus, name, "", url, sizeof(url));
    if (r < 0)
        return r;
    struct bus_pub *pub = calloc(1, sizeof(*pub));
    if (pub == NULL)
        return -ENOMEM;
    pub->bus = bus;
    r = nng_aio_alloc(&pub->send, NULL, NULL);
    if (r == 0)
        r = nng_pub0_open(&pub->socket);
    if (r == 0)
        r = nng_pipe_notify(pub->socket, NNG_PIPE_EV_ADD_PRE, subscriber_added, pub);
    if (r == 0)
        r = nng_socket_set_int(pub->socket, NNG_OPT_SENDBUF, PUB_SENDBUF);
    if (r == 0)
        r = nng_listener_create(&listener, pub->socket, url);
    if (r == 0)
        r = nng_listener_set_int(listener, NNG_OPT_IPC_PERMISSIONS, 0660);
    if (r == 0)
        r = nng_listener_start(listener, 0);
    if (r != 0) { /* nobody is connected yet: closing is safe */
        (void)nng_close(pub->socket);
        nng_aio_free(pub->send);
        free(pub);
        return bus_errno(r);
    }
    pthread_mutex_lock(&bus->lock);
    pub->next = bus->pubs;
    bus->pubs = pub;
    pthread_mutex_unlock(&bus->lock);
    *ret_pub = pub;
    return 0;
}

int
bus_pub_send(struct bus_pub *pub, const void *bytes, size_t n)
{
    nng_msg *msg = NULL;
    if (n > BUS_MESSAGE_MAX)
        return -E2BIG;
    if (nng_msg_alloc(&msg, n) != 0)
        return -ENOMEM;
    if (n > 0)
        memcpy(nng_msg_body(msg), bytes, n);
    nng_aio_set_msg(pub->send, msg);
    nng_send_aio(pub->socket, pub->send);
    nng_aio_wait(pub->send); /* it only queues, per subscriber */
    int r = nng_aio_result(pub->send);
    if (r != 0)
        nng_msg_free(nng_aio_get_msg(pub->send));
    nng_aio_set_msg(pub->send, NULL);
    return bus_errno(r);
}

/* ---- subscribing ---- */

static void deliver(void *arg);

/* With the lock held. */
static void
post_delivery(struct bus_sub *sub)
{
    if (sub->posted)
        return;
    sub->posted = true;
    loop_post(sub->bus->loop, &sub->post, deliver, sub);
}

/* With the lock held: the oldest, now the caller's. */
static nng_msg *
dequeue(struct bus_sub *sub)
{
    nng_msg *msg = sub->queue[sub->head++ % SUB_QUEUE_MAX];
    sub->bytes -= nng_msg_len(msg);
    return msg;
}

/* The next messages in order; returns how many. */
static size_t
take_messages(struct bus_sub *sub, nng_msg *msgs[SUB_ROUND_MAX], bool *ret_lost)
{
    size_t n = 0;
    pthread_mutex_lock(&sub->lock);
    sub->posted = false;
    *ret_lost = sub->lost;
    sub->lost = false;
    while (n < SUB_ROUND_MAX && sub->head != sub->tail)
        msgs[n++] = dequeue(sub);
    if (sub->head != sub->tail)
        post_delivery(sub);
    pthread_mutex_unlock(&sub->lock);
    return n;
}

/* On the loop. */
static void
deliver(void *arg)
{
    struct bus_sub *sub = arg;
    nng_msg *msgs[SUB_ROUND_MAX];
    bool lost = false;
    size_t n = take_messages(sub, msgs, &lost);
    for (size_t i = 0; i < n; i++) {
        sub->fn(sub->arg, nng_msg_body(msgs[i]), nng_msg_len(msgs[i]));
        nng_msg_free(msgs[i]);
    }
    if (lost && sub->lost_fn != NULL)
        sub->lost_fn(sub->lost_arg);
}

/* In a thread of NNG: the oldest gives way when the loop is too slow. */
static void
arrived(void *arg)
{
    struct bus_sub *sub = arg;
    if (nng_aio_result(sub->recv) != 0)
        return; /* only when the process ends */
    nng_msg *msg = nng_aio_get_msg(sub->recv);
    size_t n = nng_msg_len(msg);
    pthread_mutex_lock(&sub->lock);
    while (sub->tail - sub->head == SUB_QUEUE_MAX ||
           (sub->tail != sub->head && sub->bytes + n > SUB_QUEUE_BYTES)) {
        nng_msg_free(dequeue(sub));
        sub->lost = true;
    }
    sub->queue[sub->tail++ % SUB_QUEUE_MAX] = msg;
    sub->bytes += n;
    post_delivery(sub);
    pthread_mutex_unlock(&sub->lock);
    nng_recv_aio(sub->socket, sub->recv);
}

/* In a thread of NNG. */
static void
pipe_added(nng_pipe pipe, nng_pipe_ev event, void *arg)
{
    (void)event;
    struct bus_sub *sub = arg;
    if (!bus_pipe_is(sub->bus, pipe, sub->daemon, strlen(sub->daemon))) {
        (void)nng_pipe_close(pipe);
        return;
    }
    pthread_mutex_lock(&sub->lock);
    sub->lost = true;
    post_delivery(sub);
    pthread_mutex_unlock(&sub->lock);
}

int
bus_sub_open(struct bus *bus, const char *name, bus_sub_fn *fn, void *arg,
             struct bus_sub **ret_sub)
{
    char url[160];
    int r = bus_url(bus, name, "", url, sizeof(url));
    if (r < 0)
        return r;
    struct bus_sub *sub = calloc(1, sizeof(*sub));
    if (sub == NULL)
        return -ENOMEM;
    sub->bus = bus;
    sub->fn = fn;
    sub->arg = arg;
    if (str_copy_len(sub->daemon, sizeof(sub->daemon), name, strcspn(name, ".")) < 0) {
        free(sub);
        return -ENAMETOOLONG;
    }
    (void)pthread_mutex_init(&sub->lock, NULL); /* does not fail for a plain one */
    r = nng_aio_alloc(&sub->recv, arrived, sub);
    if (r == 0)
        r = nng_sub0_open(&sub->socket);
    if (r == 0)
        r = nng_socket_set(sub->socket, NNG_OPT_SUB_SUBSCRIBE, "", 0);
    if (r == 0)
        r = nng_socket_set_int(sub->socket, NNG_OPT_RECVBUF, SUB_RECVBUF);
    if (r == 0)
        r = nng_socket_set_size(sub->socket, NNG_OPT_RECVMAXSZ, BUS_MESSAGE_MAX);
    if (r == 0)
        r = nng_socket_set_ms(sub->socket, NNG_OPT_RECONNMINT, RECONNECT_MIN_MS);
    if (r == 0)
        r = nng_socket_set_ms(sub->socket, NNG_OPT_RECONNMAXT, RECONNECT_MAX_MS);
    if (r == 0)
        r = nng_pipe_notify(sub->socket, NNG_PIPE_EV_ADD_PRE, pipe_added, sub);
    if (r == 0)
        r = nng_dial(sub->socket, url, NULL, NNG_FLAG_NONBLOCK);
    if (r != 0)
        return bus_errno(r); /* 'sub' is kept: its socket may be in use by now */
    nng_recv_aio(sub->socket, sub->recv);
    *ret_sub = sub;
    return 0;
}

void
bus_sub_on_lost(struct bus_sub *sub, bus_sub_lost_fn *fn, void *arg)
{
    sub->lost_fn = fn;
    sub->lost_arg = arg;
}
