/*
 * The bus of a process, and its serving side (the asking side is bus_peer.c).
 *
 * A server is a rep socket with a context per request being served: a few
 * contexts always receive, more are opened while answers are pending. NNG's
 * callback serves the message in place of the sleeping loop, or leaves it to
 * the loop that is awake. The answers of a message leave together, in the
 * order of its requests.
 */
#include "libcommon/bus.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>

#include "libcommon/base.h"
#include "libcommon/bus_private.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

enum {
    SLOTS_RECEIVING = 4, /* contexts that wait for a message */
    SLOTS_MAX = 1024,    /* messages being served at once; more wait in their sockets */
    SWEEP_US = 5000,
    LEAVE_MS = 50, /* what bytes need to leave before their process may end */
    IN_MAGIC = 0x62757369,
};

/* A context of the rep socket: receives a message, then sends its answer. */
struct slot {
    struct bus_server *server;
    nng_ctx ctx;
    nng_aio *recv; /* calls received() */
    nng_aio *send; /* no callback: see slot_send */
    nng_msg *msg;  /* received, not served yet */
    struct slot *next;
};

struct bus_server {
    struct bus *bus;
    struct bus_server *next;
    bus_serve_fn *fn;
    void *arg;
    nng_socket socket;
    /* the loop's own */
    unsigned n_slots, n_receiving;
    struct slot *sending; /* an answer is on its way out */
    struct loop_timer sweep;
    /* shared with NNG's threads */
    pthread_mutex_t lock;
    struct slot *first, **last; /* messages for the loop */
    bool posted;
    bool stopping;
    struct loop_post post;
    struct {
        uint32_t pipe, uid;
    } pipes[BUS_PIPES_MAX];
    size_t n_pipes;
};

struct bus_incoming {
    uint32_t magic;
    struct batch *batch;
    uint8_t *late; /* encoded answer that waits for those before it */
    size_t late_size;
    bool answered;
    struct bus_request request;
};

/* One message being served. */
struct batch {
    struct slot *slot;
    nng_msg *msg;
    uint32_t uid;
    uint16_t n;       /* requests */
    uint16_t n_put;   /* answers in 'out', in order */
    uint16_t n_holds; /* unanswered requests, and serve_message while it runs */
    nng_msg *answer;  /* n == 1: the message itself */
    struct buf out;   /* n > 1: it grows here */
    size_t late_size; /* of all answers that wait beside it */
    struct bus_incoming in[];
};

static void batch_release(struct batch *b);

/* ---- the bus ---- */

int
bus_open(struct loop *loop, const char *dir, const struct bus_user *users, size_t n_users,
         struct bus **ret_bus)
{
    struct stat st;
    if (stat(dir, &st) < 0)
        return -errno;
    if (!S_ISDIR(st.st_mode))
        return -ENOTDIR;
    if ((st.st_mode & S_IRWXO) != 0) /* NNG's sockets are open to all for a moment */
        return -EPERM;
    CLEANUP(freep) struct bus *bus = calloc(1, sizeof(*bus));
    if (bus == NULL)
        return -ENOMEM;
    bus->loop = loop;
    if (str_copy(bus->dir, sizeof(bus->dir), dir) < 0)
        return -ENAMETOOLONG; /* cppcheck-suppress memleak ; CLEANUP frees it */
    bus->users = users;
    bus->n_users = n_users;
    bus->own_uid = (uint32_t)getuid();
    int r = pthread_mutex_init(&bus->lock, NULL);
    if (r != 0)
        return -r;
    *ret_bus = MOVE_PTR(bus);
    return 0;
}

void
bus_get_stats(const struct bus *bus, struct bus_stats *ret_stats)
{
    *ret_stats = (struct bus_stats){
        .served = atomic_load_explicit(&bus->stats.served, memory_order_relaxed),
        .expired = atomic_load_explicit(&bus->stats.expired, memory_order_relaxed),
        .refused_peers = atomic_load_explicit(&bus->stats.refused_peers, memory_order_relaxed),
        .bad_messages = atomic_load_explicit(&bus->stats.bad_messages, memory_order_relaxed),
        .asked = atomic_load_explicit(&bus->stats.asked, memory_order_relaxed),
        .ask_failed = atomic_load_explicit(&bus->stats.ask_failed, memory_order_relaxed),
        .messages_asked =
            atomic_load_explicit(&bus->stats.messages_asked, memory_order_relaxed),
    };
}

/* ---- slots ---- */

static void
slot_receive(struct slot *s)
{
    s->server->n_receiving++;
    nng_ctx_recv(s->ctx, s->recv);
}

/*
 * Puts the slots whose answer has left back to receiving. NNG takes the
 * message out of the aio in another thread; seen a moment too late, that only
 * costs a look later, and nng_aio_wait comes before anything else is done.
 */
static void
sweep_sending(struct bus_server *server)
{
    struct slot **at = &server->sending;
    while (*at != NULL) {
        struct slot *s = *at;
        if (nng_aio_get_msg(s->send) != NULL) { /* NNG takes it when it is accepted */
            at = &s->next;
            continue;
        }
        nng_aio_wait(s->send); /* at most its last instructions */
        *at = s->next;
        slot_receive(s);
    }
}

/*
 * Sends the answer of what 's' received. The send has no callback, since that
 * would wake one more thread per answer: NNG nearly always takes the message
 * at once, and then its aio holds none. A peer that does not read leaves it
 * there; such slots are looked at again when others are served.
 */
static void
slot_send(struct slot *s, nng_msg *answer)
{
    nng_aio_set_msg(s->send, answer);
    nng_ctx_send(s->ctx, s->send);
    s->next = s->server->sending;
    s->server->sending = s;
    if (nng_aio_get_msg(s->send) == NULL)
        sweep_sending(s->server);
}

static void received(void *arg);

static int
slot_new(struct bus_server *server)
{
    CLEANUP(freep) struct slot *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return -ENOMEM;
    s->server = server;
    int r = nng_aio_alloc(&s->recv, received, s);
    if (r == 0)
        r = nng_aio_alloc(&s->send, NULL, NULL);
    if (r == 0)
        r = nng_ctx_open(&s->ctx, server->socket);
    if (r != 0) {
        nng_aio_free(s->recv);
        nng_aio_free(s->send);
        return bus_errno(r);
    }
    server->n_slots++;
    slot_receive(MOVE_PTR(s));
    return 0;
}

static void sweep_again(void *arg);

/* Some slots must receive, or nobody would ever hear of another message. */
static void
keep_receiving(struct bus_server *server)
{
    if (server->n_receiving < SLOTS_RECEIVING)
        sweep_sending(server);
    while (server->n_receiving < SLOTS_RECEIVING && server->n_slots < SLOTS_MAX)
        if (slot_new(server) < 0)
            break;
    if (server->n_receiving < SLOTS_RECEIVING && !loop_timer_is_set(&server->sweep))
        (void)loop_timer_set(server->bus->loop, &server->sweep,
                             loop_now_us(server->bus->loop) + SWEEP_US);
}

static void
sweep_again(void *arg)
{
    keep_receiving(arg);
}

/* ---- answering ---- */

/* What is said instead of an answer that cannot be sent. */
static struct bus_reply
plain_reply(const struct bus_incoming *in, uint16_t status)
{
    return (struct bus_reply){ .id = in->request.id, .status = status };
}

static void
answer_single(struct batch *b, const struct bus_reply *reply, size_t size)
{
    if (nng_msg_alloc(&b->answer, BUS_HEADER_SIZE + size) != 0) {
        b->answer = NULL;
        return;
    }
    uint8_t *p = nng_msg_body(b->answer);
    bus_header_write(p, 1);
    bus_reply_write(p + BUS_HEADER_SIZE, reply, 0);
}

static void
put_answer(struct batch *b, const void *bytes, size_t size)
{
    buf_put(&b->out, bytes, size);
    b->n_put++;
}

/* Encodes into the batch's message, or beside it while earlier answers are missing. */
static void
answer_in_batch(struct bus_incoming *in, const struct bus_reply *reply, size_t size)
{
    struct batch *b = in->batch;
    struct bus_reply alone = plain_reply(in, 503);
    uint8_t flags = 0;
    size_t rest = (size_t)(b->n - b->n_put) * bus_reply_size(&alone);
    if (b->out.len + b->late_size + size + rest > BUS_MESSAGE_MAX) {
        reply = &alone;
        size = bus_reply_size(&alone);
        flags = BUS_REPLY_ALONE;
    }
    if (in == &b->in[b->n_put]) {
        uint8_t *p = (uint8_t *)buf_reserve(&b->out, size);
        if (p != NULL) {
            bus_reply_write(p, reply, flags);
            b->out.len += size;
        }
        b->n_put++;
    } else {
        in->late = malloc(size);
        in->late_size = size;
        if (in->late != NULL) {
            bus_reply_write(in->late, reply, flags);
            b->late_size += size;
        } else {
            b->out.err = -ENOMEM;
        }
    }
    for (; b->n_put < b->n && b->in[b->n_put].late != NULL;) {
        struct bus_incoming *late = &b->in[b->n_put];
        put_answer(b, late->late, late->late_size);
        b->late_size -= late->late_size;
        free(late->late);
        late->late = NULL;
    }
}

void
bus_answer(struct bus_incoming *in, const struct bus_reply *reply)
{
    MUST(in->magic == IN_MAGIC && !in->answered);
    struct bus_reply r = *reply;
    r.id = in->request.id;
    size_t size = bus_reply_size(&r);
    if (size == 0) {
        log_debug("bus: answer too large op=%u", in->request.op);
        r = plain_reply(in, 500);
        size = bus_reply_size(&r);
    }
    in->answered = true;
    if (in->batch->n == 1)
        answer_single(in->batch, &r, size);
    else
        answer_in_batch(in, &r, size);
    batch_release(in->batch);
}

/* The answer of several requests as a message; NULL without memory. */
static nng_msg *
batch_message(struct batch *b)
{
    nng_msg *msg = NULL;
    bus_message_end(&b->out, b->n);
    if (b->out.err != 0 || nng_msg_alloc(&msg, b->out.len) != 0)
        return NULL;
    memcpy(nng_msg_body(msg), b->out.data, b->out.len);
    return msg;
}

static void
batch_free(struct batch *b)
{
    for (size_t i = 0; i < b->n; i++) {
        b->in[i].magic = 0;
        free(b->in[i].late);
    }
    buf_done(&b->out);
    nng_msg_free(b->msg);
    free(b);
}

/* One answer is there, or the serving of the message is over. */
static void
batch_release(struct batch *b)
{
    if (--b->n_holds > 0)
        return;
    struct slot *slot = b->slot;
    nng_msg *answer = b->n == 1 ? b->answer : batch_message(b);
    if (answer != NULL) {
        slot_send(slot, answer);
    } else {
        /* without memory for the answer: the peer shall not wait for its deadline */
        (void)nng_pipe_close(nng_msg_get_pipe(b->msg));
        slot_receive(slot);
    }
    batch_free(b);
}

const struct bus_request *
bus_incoming_request(const struct bus_incoming *in)
{
    MUST(in->magic == IN_MAGIC);
    return &in->request;
}

uint32_t
bus_incoming_uid(const struct bus_incoming *in)
{
    MUST(in->magic == IN_MAGIC);
    return in->batch->uid;
}

/* ---- serving ---- */

/* Decodes a message into a batch; NULL: cannot be read, or no memory. */
static struct batch *
batch_new(struct slot *slot, nng_msg *msg, uint32_t uid)
{
    struct rd in;
    uint16_t n = 0;
    rd_init(&in, nng_msg_body(msg), nng_msg_len(msg));
    if (bus_message_open(&in, &n) < 0)
        return NULL;
    CLEANUP(freep) struct batch *b = malloc(sizeof(*b) + n * sizeof(b->in[0]));
    if (b == NULL)
        return NULL;
    *b = (struct batch){ .slot = slot, .uid = uid, .n = n, .n_holds = (uint16_t)(n + 1) };
    for (size_t i = 0; i < n; i++) {
        struct bus_incoming *one = &b->in[i];
        one->magic = IN_MAGIC;
        one->batch = b;
        one->late = NULL;
        one->answered = false;
        if (bus_request_decode(&in, &one->request) < 0)
            return NULL;
    }
    if (!rd_ended(&in))
        return NULL; /* NOLINT(clang-analyzer-unix.Malloc): CLEANUP frees it */
    buf_init(&b->out, BUS_MESSAGE_MAX);
    if (n > 1)
        bus_message_begin(&b->out);
    b->msg = msg;
    return MOVE_PTR(b);
}

/* The uid behind a connection, kept since it was accepted. */
static bool
pipe_uid(struct bus_server *server, nng_pipe pipe, uint32_t *ret_uid)
{
    uint32_t id = (uint32_t)nng_pipe_id(pipe);
    bool found = false;
    pthread_mutex_lock(&server->lock);
    for (size_t i = 0; i < server->n_pipes && !found; i++)
        if (server->pipes[i].pipe == id) {
            *ret_uid = server->pipes[i].uid;
            found = true;
        }
    pthread_mutex_unlock(&server->lock);
    return found;
}

static void
serve_message(struct slot *slot)
{
    struct bus_server *server = slot->server;
    struct bus *bus = server->bus;
    nng_msg *msg = MOVE_PTR(slot->msg);
    nng_pipe pipe = nng_msg_get_pipe(msg);
    uint32_t uid = 0;
    if (!pipe_uid(server, pipe, &uid)) { /* gone already: nobody would hear the answer */
        nng_msg_free(msg);
        slot_receive(slot);
        return;
    }
    struct batch *b = batch_new(slot, msg, uid);
    if (b == NULL) {
        bus_count(&bus->stats.bad_messages);
        (void)nng_pipe_close(pipe);
        nng_msg_free(msg);
        slot_receive(slot);
        return;
    }
    uint64_t now = clock_mono_us();
    for (size_t i = 0; i < b->n; i++) {
        struct bus_incoming *in = &b->in[i];
        if (i > 0)
            now = clock_mono_us();
        if (in->request.deadline_us <= now) {
            bus_count(&bus->stats.expired);
            bus_answer_status(in, 504);
        } else {
            bus_count(&bus->stats.served);
            server->fn(server->arg, in);
        }
    }
    batch_release(b);
}

/* On the loop: everything that has arrived. */
static void
serve(void *arg)
{
    struct bus_server *server = arg;
    pthread_mutex_lock(&server->lock);
    struct slot *slot = server->first;
    server->first = NULL;
    server->last = &server->first;
    server->posted = false;
    bool stopping = server->stopping;
    pthread_mutex_unlock(&server->lock);
    while (slot != NULL) {
        struct slot *next = slot->next;
        server->n_receiving--;
        if (stopping)
            nng_msg_free(MOVE_PTR(slot->msg));
        else
            serve_message(slot);
        slot = next;
    }
    if (!stopping)
        keep_receiving(server);
}

/* In a thread of NNG. */
static void
received(void *arg)
{
    struct slot *slot = arg;
    struct bus_server *server = slot->server;
    if (nng_aio_result(slot->recv) != 0)
        return; /* only when the process ends */
    slot->msg = nng_aio_get_msg(slot->recv);
    slot->next = NULL;
    pthread_mutex_lock(&server->lock);
    *server->last = slot;
    server->last = &slot->next;
    bool post = !server->posted;
    server->posted = true;
    pthread_mutex_unlock(&server->lock);
    if (post && !loop_borrow(server->bus->loop, serve, server))
        loop_post(server->bus->loop, &server->post, serve, server);
}

/* In a thread of NNG: a peer connects. */
static void
pipe_added(nng_pipe pipe, nng_pipe_ev event, void *arg)
{
    (void)event;
    struct bus_server *server = arg;
    uint32_t uid = 0;
    bool fits = false;
    if (bus_pipe_allowed(server->bus, pipe, &uid)) {
        pthread_mutex_lock(&server->lock);
        fits = server->n_pipes < BUS_PIPES_MAX;
        if (fits) {
            server->pipes[server->n_pipes].pipe = (uint32_t)nng_pipe_id(pipe);
            server->pipes[server->n_pipes].uid = uid;
            server->n_pipes++;
        }
        pthread_mutex_unlock(&server->lock);
    }
    if (!fits)
        (void)nng_pipe_close(pipe);
}

static void
pipe_removed(nng_pipe pipe, nng_pipe_ev event, void *arg)
{
    (void)event;
    struct bus_server *server = arg;
    uint32_t id = (uint32_t)nng_pipe_id(pipe);
    pthread_mutex_lock(&server->lock);
    for (size_t i = 0; i < server->n_pipes; i++)
        if (server->pipes[i].pipe == id) {
            server->pipes[i] = server->pipes[--server->n_pipes];
            break;
        }
    pthread_mutex_unlock(&server->lock);
}

static int
server_bind(struct bus_server *server, const char *name)
{
    char url[160];
    nng_listener listener;
    int r = bus_url(server->bus, name, ".rpc", url, sizeof(url));
    if (r < 0)
        return r;
    r = nng_listener_create(&listener, server->socket, url);
    if (r == 0)
        r = nng_listener_set_int(listener, NNG_OPT_IPC_PERMISSIONS, 0660);
    if (r == 0)
        r = nng_listener_start(listener, 0);
    return bus_errno(r);
}

int
bus_serve(struct bus *bus, const char *name, bus_serve_fn *fn, void *arg)
{
    struct bus_server *server = calloc(1, sizeof(*server));
    if (server == NULL)
        return -ENOMEM;
    server->bus = bus;
    server->fn = fn;
    server->arg = arg;
    server->last = &server->first;
    loop_timer_init(&server->sweep, sweep_again, server);
    (void)pthread_mutex_init(&server->lock, NULL); /* does not fail for a plain one */
    int r = nng_rep0_open(&server->socket);
    if (r != 0) {
        free(server);
        return bus_errno(r);
    }
    r = nng_socket_set_size(server->socket, NNG_OPT_RECVMAXSZ,
                            BUS_MESSAGE_MAX + BUS_RECV_SLACK);
    if (r == 0)
        r = nng_pipe_notify(server->socket, NNG_PIPE_EV_ADD_PRE, pipe_added, server);
    if (r == 0)
        r = nng_pipe_notify(server->socket, NNG_PIPE_EV_REM_POST, pipe_removed, server);
    r = bus_errno(r);
    while (r == 0 && server->n_receiving < SLOTS_RECEIVING)
        r = slot_new(server);
    if (r == 0)
        r = server_bind(server, name);
    if (r < 0)
        return r; /* the socket stays: closing one with receivers may hang, and the daemon ends
                   */
    pthread_mutex_lock(&bus->lock);
    server->next = bus->servers;
    bus->servers = server;
    pthread_mutex_unlock(&bus->lock);
    return 0;
}

void
bus_shutdown(struct bus *bus, unsigned drain_ms)
{
    uint64_t end = clock_mono_us() + drain_ms * 1000ull;
    const struct timespec tick = { .tv_nsec = 1000000 };
    for (struct bus_server *s = bus->servers; s != NULL; s = s->next) {
        pthread_mutex_lock(&s->lock);
        s->stopping = true;
        pthread_mutex_unlock(&s->lock);
        loop_timer_cancel(bus->loop, &s->sweep);
        while (s->sending != NULL && clock_mono_us() < end) {
            sweep_sending(s);
            if (s->sending != NULL)
                (void)nanosleep(&tick, NULL); /* a shorter sleep does no harm */
        }
    }
    /* A peer that sees the end of the connection may throw away what it had not read. */
    uint64_t left_us = LEAVE_MS * 1000u;
    uint64_t now = clock_mono_us();
    if (now >= end)
        return;
    if (end - now < left_us)
        left_us = end - now;
    if (bus->servers != NULL || bus->pubs != NULL) {
        const struct timespec leave = { .tv_nsec = (long)left_us * 1000 };
        (void)nanosleep(&leave, NULL); /* as above */
    }
}
