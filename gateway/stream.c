/*
 * Event streams. See stream.h.
 */
#include "gateway/stream.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "gateway/forward.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "libcommon/buf.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"

#include "libcommon/banned.h"

/* Why a round of a stream was the last one. */
enum stream_end {
    STREAM_GOES_ON,
    STREAM_ENDED,       /* the daemon said so */
    STREAM_CLIENT_GONE, /* or too slow */
    STREAM_DAEMON_GONE,
    STREAM_SIGNED_OUT, /* or without the permission now */
    STREAM_STOPPING,
    STREAM_REFUSED, /* could not be opened again */
};

struct stream {
    struct http_call *call;
    const struct forward *f;
    struct bus_request *request; /* the one that opened it */
    uint64_t id;                 /* the daemon's */
    uint64_t written_us;
    bool inside_block; /* the last bytes did not end a block: nothing may come between */
};

static int
read_id(const struct bus_reply *reply, uint64_t *ret_id)
{
    struct rd in;
    rd_init(&in, reply->body.p, reply->body.len);
    *ret_id = rd_u64(&in);
    return rd_ended(&in) ? 0 : -EBADMSG;
}

static int
ask(struct stream *s, uint8_t kind, struct bus_answer *ret_answer)
{
    struct bus_request request = {
        .kind = kind,
        .id = s->id,
        .who = s->request->who,
        .deadline_us = clock_mono_us() + STREAM_WAIT_MS * 1000ull,
    };
    return bus_ask(forward_peer(s->call, s->f), &request, false, ret_answer);
}

static void
close_at_daemon(struct stream *s)
{
    struct bus_answer a;
    if (ask(s, BUS_KIND_STREAM_CLOSE, &a) == 0) /* else it is gone, or notices by itself */
        bus_answer_done(&a);
}

static bool
ends_block(const char *bytes, size_t n)
{
    return n >= 2 && bytes[n - 1] == '\n' && bytes[n - 2] == '\n';
}

static enum stream_end
put(struct stream *s, const char *bytes, size_t n)
{
    if (http_stream_put(s->call, bytes, n, STREAM_WRITE_MS) < 0)
        return STREAM_CLIENT_GONE;
    s->written_us = clock_mono_us();
    s->inside_block = !ends_block(bytes, n);
    return STREAM_GOES_ON;
}

/* Between two answers of the daemon. */
static enum stream_end
look_around(struct stream *s)
{
    struct http_call *call = s->call;
    if (gateway_is_stopping(call->gateway))
        return STREAM_STOPPING;
    if (http_client_is_gone(call))
        return STREAM_CLIENT_GONE;
    if (!forward_may_go_on(call, s->f, s->request))
        return STREAM_SIGNED_OUT;
    if (!s->inside_block && clock_mono_us() - s->written_us >= STREAM_HEARTBEAT_MS * 1000ull)
        return put(s, ":\n\n", 3);
    return STREAM_GOES_ON;
}

static void
wait_a_little(void)
{
    const struct timespec t = { .tv_nsec = 50 * 1000 * 1000 };
    (void)nanosleep(&t, NULL); /* shorter is fine */
}

static enum stream_end
take_next(struct stream *s)
{
    struct bus_answer a;
    int r = ask(s, BUS_KIND_STREAM_NEXT, &a);
    if (r == -ETIMEDOUT)
        return STREAM_GOES_ON;
    if (r < 0)
        return STREAM_DAEMON_GONE;
    enum stream_end end = STREAM_GOES_ON;
    if (a.reply.status == 404)
        end = STREAM_DAEMON_GONE; /* another life of it, which knows nothing of us */
    else if (a.reply.status == 503 || a.reply.status == 504)
        wait_a_little(); /* it was too busy to take the question in time */
    else if (a.reply.status >= 400)
        end = STREAM_ENDED;
    else if (a.reply.body.len > 0)
        end = put(s, a.reply.body.p, a.reply.body.len);
    if (end == STREAM_GOES_ON && a.reply.end)
        end = STREAM_ENDED;
    bus_answer_done(&a);
    return end;
}

/* Opens it again with the request it began with. */
static enum stream_end
reopen_once(struct stream *s)
{
    struct bus_answer a;
    int r = forward_ask(s->call, s->f, s->request, &a);
    if (r < 0)
        return STREAM_DAEMON_GONE;
    enum stream_end end = STREAM_REFUSED;
    if (a.reply.body_kind == BUS_BODY_STREAM && read_id(&a.reply, &s->id) == 0)
        end = STREAM_GOES_ON;
    else if (a.reply.status == 503)
        end = STREAM_DAEMON_GONE; /* it is not ready yet */
    bus_answer_done(&a);
    return end;
}

/* Until the daemon is back. */
static enum stream_end
reopen(struct stream *s)
{
    uint64_t until_us = clock_mono_us() + STREAM_REOPEN_MS * 1000ull;
    if (s->inside_block) /* half an event: end it as one that nobody can read */
        (void)put(s, "\n\n", 2);
    while (clock_mono_us() < until_us) {
        enum stream_end end = look_around(s);
        if (end == STREAM_GOES_ON && bus_peer_is_up(forward_peer(s->call, s->f))) {
            end = reopen_once(s);
            if (end == STREAM_GOES_ON) {
                log_info("stream: opened again daemon=%s", forward_daemon(s->f));
                return end;
            }
        }
        if (end != STREAM_GOES_ON && end != STREAM_DAEMON_GONE)
            return end;
        wait_a_little();
    }
    return STREAM_DAEMON_GONE;
}

static void
finish(struct stream *s, enum stream_end end)
{
    switch (end) {
    case STREAM_CLIENT_GONE:
        close_at_daemon(s);
        return;
    case STREAM_SIGNED_OUT:
        close_at_daemon(s);
        (void)put(s, ": signed out\n\n", 14); /* the connection ends anyway */
        break;
    case STREAM_STOPPING:
        (void)put(s, ": closing\n\n", 11); /* as above */
        close_at_daemon(s);
        break;
    case STREAM_DAEMON_GONE:
    case STREAM_REFUSED:
        (void)put(s, ": service unavailable\n\n", 23); /* as above */
        break;
    case STREAM_ENDED:
    case STREAM_GOES_ON:
    default:
        break;
    }
    (void)http_chunked_end(s->call); /* as above */
}

static void
follow(struct stream *s)
{
    enum stream_end end = STREAM_GOES_ON;
    s->written_us = clock_mono_us();
    if (http_stream_begin(s->call) < 0) {
        close_at_daemon(s);
        return;
    }
    while (end == STREAM_GOES_ON) {
        end = take_next(s);
        if (end == STREAM_DAEMON_GONE)
            end = reopen(s);
        if (end == STREAM_GOES_ON)
            end = look_around(s);
    }
    finish(s, end);
}

/* ---- who may have one ---- */

struct slot {
    bool used;
    int64_t user_id, session_id; /* service accounts have only the one */
};

static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;
static struct slot slots[2][STREAMS_MAX]; /* plain, secure */

/* NULL: the listener, or the session or service account, has as many as it may. */
static struct slot *
take_slot(const struct http_call *call, const struct bus_principal *who)
{
    struct slot *found = NULL;
    unsigned n_same = 0;
    pthread_mutex_lock(&slots_lock);
    for (unsigned i = 0; i < STREAMS_MAX; i++) {
        struct slot *s = &slots[call->secure][i];
        n_same += s->used && s->user_id == who->user_id && s->session_id == who->session_id;
        if (!s->used)
            found = s;
    }
    if (n_same >= STREAMS_PER_SESSION)
        found = NULL;
    if (found != NULL)
        *found = (struct slot){ true, who->user_id, who->session_id };
    pthread_mutex_unlock(&slots_lock);
    return found;
}

static void
give_slot(struct slot *s)
{
    pthread_mutex_lock(&slots_lock);
    s->used = false;
    pthread_mutex_unlock(&slots_lock);
}

void
stream_run(struct http_call *call, const struct forward *f, struct bus_request *request,
           const struct bus_answer *answer)
{
    struct gateway *g = call->gateway;
    struct stream s = { .call = call, .f = f, .request = request };
    if (read_id(&answer->reply, &s.id) < 0) {
        log_err("stream: a daemon gave no stream id daemon=%s", forward_daemon(f));
        (void)http_fail(call, 500, "internal error");
        return;
    }
    if (call->method == METHOD_HEAD) {
        close_at_daemon(&s);
        struct http_reply reply = { .status = 200, .content_type = "text/event-stream" };
        (void)http_answer(call, &reply);
        return;
    }
    struct slot *slot = take_slot(call, &request->who);
    if (slot == NULL) {
        close_at_daemon(&s);
        (void)http_fail(call, 503, "too many event streams");
        return;
    }
    atomic_fetch_add(&g->n_streams, 1);
    follow(&s);
    atomic_fetch_sub(&g->n_streams, 1);
    give_slot(slot);
}
