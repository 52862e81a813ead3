/*
 * Answers written while they are read. See pipe.h.
 */
#include "gateway/pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/forward.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/refusals.h"
#include "libcommon/buf.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/spool.h"
#include "libcommon/svc.h"

#include "libcommon/banned.h"

enum { HEAD = 4, PIECE = 32 * 1024 };

enum pipe_end {
    PIPE_GOES_ON,
    PIPE_COMPLETE,
    PIPE_BROKEN,      /* the writer failed, died or said nothing for too long */
    PIPE_CLIENT_GONE, /* or too slow */
    PIPE_SIGNED_OUT,  /* or without the permission now */
    PIPE_STOPPING,
};

struct pipe {
    struct http_call *call;
    const struct forward *f;
    struct bus_request *request;
    const struct http_reply *head;
    int fd;
    uint8_t length[HEAD]; /* of the next block, as far as it came */
    unsigned n_length;
    uint32_t left;     /* bytes of the present block still to come */
    bool begun;        /* the client has the header */
    uint64_t heard_us; /* when bytes came last */
    uint64_t looked_us;
    uint64_t sent;
};

static int
open_fifo(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0 || !S_ISFIFO(st.st_mode)) {
        close(fd);
        return -EINVAL;
    }
    return fd;
}

/* To the client; the header first. */
static enum pipe_end
put(struct pipe *p, const char *bytes, size_t n)
{
    if (!p->begun && http_chunked_begin(p->call, p->head) < 0)
        return PIPE_CLIENT_GONE;
    p->begun = true;
    if (n > 0 && http_chunk(p->call, bytes, n) < 0)
        return PIPE_CLIENT_GONE;
    p->sent += n;
    return PIPE_GOES_ON;
}

/* Bytes out of the FIFO: blocks, cut anywhere. The empty block is the good end. */
static enum pipe_end
take(struct pipe *p, const char *bytes, size_t n)
{
    enum pipe_end end = PIPE_GOES_ON;
    while (n > 0 && end == PIPE_GOES_ON) {
        size_t part = 1;
        if (p->left > 0) {
            part = n < p->left ? n : p->left;
            end = put(p, bytes, part);
            p->left -= (uint32_t)part;
        } else {
            p->length[p->n_length++] = (uint8_t)*bytes;
        }
        bytes += part;
        n -= part;
        if (p->n_length == HEAD) {
            p->n_length = 0;
            p->left = get_u32(p->length);
            if (p->left == 0)
                return put(p, NULL, 0) == PIPE_GOES_ON ? PIPE_COMPLETE : PIPE_CLIENT_GONE;
        }
    }
    return end;
}

static enum pipe_end
take_next(struct pipe *p, char *piece)
{
    ssize_t n = read(p->fd, piece, PIECE);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? PIPE_GOES_ON : PIPE_BROKEN;
    if (n == 0) /* all who could write have closed it */
        return PIPE_BROKEN;
    p->heard_us = clock_mono_us();
    return take(p, piece, (size_t)n);
}

/* About once a second: does somebody still write, and may somebody still read? */
static enum pipe_end
look_around(struct pipe *p)
{
    uint64_t now_us = clock_mono_us();
    if (now_us - p->looked_us < PIPE_LOOK_MS * 1000ull)
        return PIPE_GOES_ON;
    p->looked_us = now_us;
    if (gateway_is_stopping(p->call->gateway))
        return PIPE_STOPPING;
    if (http_client_is_gone(p->call))
        return PIPE_CLIENT_GONE;
    if (!forward_may_go_on(p->call, p->f, p->request))
        return PIPE_SIGNED_OUT;
    /* A daemon that died before it opened its end leaves no end of file. */
    bool is_away = p->sent == 0 && !bus_peer_is_up(forward_peer(p->call, p->f));
    return is_away || now_us - p->heard_us >= PIPE_SILENCE_MS * 1000ull ? PIPE_BROKEN
                                                                        : PIPE_GOES_ON;
}

static enum pipe_end
copy(struct pipe *p, char *piece)
{
    enum pipe_end end = PIPE_GOES_ON;
    p->heard_us = p->looked_us = clock_mono_us();
    while (end == PIPE_GOES_ON) {
        struct pollfd wanted = { .fd = p->fd, .events = POLLIN };
        if (poll(&wanted, 1, PIPE_LOOK_MS) > 0)
            end = take_next(p, piece);
        if (end == PIPE_GOES_ON)
            end = look_around(p);
    }
    return end;
}

static void
fail(struct pipe *p, enum pipe_end end)
{
    switch (end) {
    case PIPE_SIGNED_OUT:
        refusals_note(p->call->gateway->refusals, &p->request->who, p->call->addr,
                      p->f->match->route, p->call->id, "signed out before the answer began");
        (void)http_fail(p->call, 401, "authentication required");
        break;
    case PIPE_STOPPING:
        (void)http_fail(p->call, 503, "service unavailable");
        break;
    case PIPE_BROKEN:
        if (!bus_peer_is_up(forward_peer(p->call, p->f)))
            (void)http_fail_away(p->call, forward_daemon(p->f));
        else
            (void)http_fail(p->call, 500, "internal error");
        break;
    case PIPE_CLIENT_GONE:
    case PIPE_COMPLETE:
    case PIPE_GOES_ON:
    default:
        p->call->close = true;
        break;
    }
}

static void
finish(struct pipe *p, enum pipe_end end)
{
    if (end == PIPE_COMPLETE) {
        (void)http_chunked_end(p->call); /* the client is gone, or has it */
    } else if (!p->begun) {
        fail(p, end);
    } else {
        http_break(p->call);
        log_warn("pipe: an answer was cut short daemon=%s op=%s sent=%llu reason=%s",
                 forward_daemon(p->f), p->f->match->route->name, (unsigned long long)p->sent,
                 end == PIPE_BROKEN       ? "writer"
                 : end == PIPE_SIGNED_OUT ? "signed-out"
                 : end == PIPE_STOPPING   ? "stopping"
                                          : "client");
    }
}

void
pipe_run(struct http_call *call, const struct forward *f, struct bus_request *request,
         struct bus_str name, const struct http_reply *head)
{
    char path[PATH_MAX];
    struct pipe p = { .call = call, .f = f, .request = request, .head = head };
    int r = spool_path(call->gateway->svc->spool_dir, name.p, name.len, path, sizeof(path));
    if (r == 0 && call->method == METHOD_HEAD) {
        (void)unlink(path);                   /* its writer sees that nobody comes */
        (void)http_chunked_begin(call, head); /* its failure ends the connection */
        return;
    }
    if (r == 0)
        r = p.fd = open_fifo(path);
    if (r < 0) {
        log_err("pipe: a daemon gave no good name error=%s", strerror(-r));
        (void)http_fail(call, 500, "internal error");
        return;
    }
    call->is_stream = true;        /* how long it takes is the client's doing */
    buf_done(&call->worker->body); /* the request's is not needed any more */
    buf_init(&call->worker->body, PIECE);
    char *piece = buf_reserve(&call->worker->body, PIECE);
    enum pipe_end end = piece != NULL ? copy(&p, piece) : PIPE_BROKEN;
    close(p.fd);
    (void)unlink(path); /* mostly the writer did, once both ends were open */
    finish(&p, end);
}
