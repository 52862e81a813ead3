/*
 * Forwarding. See forward.h.
 */
#include "gateway/forward.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/front.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/pipe.h"
#include "gateway/refusals.h"
#include "gateway/stream.h"
#include "gateway/upload.h"
#include "libcommon/api.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/spool.h"
#include "libcommon/svc.h"

#include "libcommon/banned.h"

enum { FILE_PIECE = 32 * 1024, TYPE_MAX = 128 };

struct bus_peer *
forward_peer(const struct http_call *call, const struct forward *f)
{
    return call->gateway->peers[f->match->route->daemon];
}

const char *
forward_daemon(const struct forward *f)
{
    return route_daemons[f->match->route->daemon];
}

static void
fill_request(const struct http_call *call, const struct forward *f, struct bus_request *request)
{
    request->kind = BUS_KIND_API;
    request->op = f->match->route->op;
    request->id = call->id;
    request->who = f->grant->who;
    request->n_path = (uint8_t)f->match->n_values;
    for (unsigned i = 0; i < f->match->n_values; i++)
        request->path[i] = f->match->value[i];
    request->n_query = (uint8_t)f->n_query;
    for (unsigned i = 0; i < f->n_query; i++) {
        request->query_name[i] = f->query_name[i];
        request->query_value[i] = f->query_value[i];
    }
    request->body_kind = BUS_BODY_NONE;
    request->content_type = (struct bus_str){ 0 };
    request->body = (struct bus_str){ 0 };
}

int
forward_ask(struct http_call *call, const struct forward *f, struct bus_request *request,
            struct bus_answer *ret_answer)
{
    const struct route *route = f->match->route;
    request->deadline_us = clock_mono_us() + route->timeout_ms * 1000ull;
    return bus_ask(forward_peer(call, f), request, route->gather, ret_answer);
}

bool
forward_may_go_on(struct http_call *call, const struct forward *f, struct bus_request *request)
{
    struct auth_grant grant;
    if (call->token == NULL)
        return true;
    switch (auth_check(call->gateway->auth, call->token, call->token_len, call->addr, &grant)) {
    case AUTH_OK:
        request->who = grant.who;
        return auth_refusal(&grant, f->match->route->permission) == NULL;
    case AUTH_REFUSED:
        return false;
    case AUTH_BUSY:
    case AUTH_AWAY:
    default:
        return true; /* not known now */
    }
}

/* ---- replies ---- */

/* A header value made of bytes of a daemon: printable ASCII without '"' and '\\'. */
static void
copy_quotable(char *out, size_t out_size, struct bus_str text)
{
    size_t n = 0;
    for (uint32_t i = 0; i < text.len && n + 1 < out_size; i++) {
        char c = text.p[i];
        out[n++] = c >= 0x20 && c < 0x7f && c != '"' && c != '\\' ? c : '_';
    }
    out[n] = '\0';
}

/* The header of a file, or of what is like one. */
struct file_head {
    struct http_reply reply;
    char type[TYPE_MAX], headers[256];
};

static void
fill_file_head(struct file_head *head, const struct bus_reply *reply)
{
    char offered[160];
    *head = (struct file_head){ .reply = { .status = reply->status,
                                           .content_type = "application/octet-stream",
                                           .headers = head->headers } };
    copy_quotable(head->type, sizeof(head->type), reply->content_type);
    if (head->type[0] != '\0')
        head->reply.content_type = head->type;
    copy_quotable(offered, sizeof(offered), reply->file_name);
    if (offered[0] != '\0')
        (void)snprintf(head->headers, sizeof(head->headers),
                       "Content-Disposition: attachment; filename=\"%s\"\r\n", offered);
}

static void
send_file_bytes(struct http_call *call, int fd, uint64_t left)
{
    char *piece = buf_reserve(&call->worker->body, FILE_PIECE);
    while (piece != NULL && left > 0) {
        size_t want = left < FILE_PIECE ? (size_t)left : FILE_PIECE;
        ssize_t n = read(fd, piece, want);
        if (n <= 0)
            break;
        if (http_put(call, piece, (size_t)n) < 0)
            return;
        left -= (uint64_t)n;
    }
    if (left > 0) {
        call->close = true; /* the client sees that it is cut short */
        log_err("forward: a file to send was shorter than announced left=%llu",
                (unsigned long long)left);
    }
}

static void
send_file(struct http_call *call, const struct bus_reply *reply)
{
    char path[PATH_MAX];
    struct file_head head;
    struct stat st;
    if (spool_path(call->gateway->svc->spool_dir, reply->body.p, reply->body.len, path,
                   sizeof(path)) < 0) {
        log_err("forward: a daemon gave no good file name");
        (void)http_fail(call, 500, "internal error");
        return;
    }
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        log_err("forward: cannot open a file to send error=%s", strerror(errno));
        if (fd >= 0)
            close(fd);
        (void)http_fail(call, 500, "internal error");
        return;
    }
    (void)unlink(path); /* its bytes live as long as 'fd'; else the sweep takes it */
    fill_file_head(&head, reply);
    buf_done(&call->worker->body); /* the request's is not needed any more */
    buf_init(&call->worker->body, FILE_PIECE);
    if (http_begin(call, &head.reply, (uint64_t)st.st_size) == 0 && call->method != METHOD_HEAD)
        send_file_bytes(call, fd, (uint64_t)st.st_size);
    close(fd);
}

static void
send_pipe(struct http_call *call, const struct forward *f, struct bus_request *request,
          const struct bus_reply *reply)
{
    struct file_head head;
    fill_file_head(&head, reply);
    pipe_run(call, f, request, reply->body, &head.reply);
}

/* A refusal of the bus itself (proto/README.md section 2) has no text. */
static void
answer_plain(struct http_call *call, const struct forward *f, unsigned status)
{
    switch (status) {
    case 403:
        (void)http_fail(call, 403, "permission denied");
        break;
    case 404:
        (void)http_fail(call, 404, "not found");
        break;
    case 503:
        (void)http_fail_away(call, forward_daemon(f));
        break;
    case 504:
        (void)http_fail(call, 504, "no answer in time");
        break;
    default:
        (void)http_fail(call, status < 500 ? (int)status : 500,
                        status < 500 ? "request refused" : "internal error");
        break;
    }
}

static void
answer(struct http_call *call, const struct forward *f, const struct bus_reply *reply)
{
    char type[TYPE_MAX];
    struct http_reply out = { .status = reply->status, .retry_after_s = reply->retry_after_s };
    if (out.status < 200 || out.status > 599) {
        log_err("forward: a daemon answered status=%d", out.status);
        (void)http_fail(call, 500, "internal error");
        return;
    }
    copy_quotable(type, sizeof(type), reply->content_type);
    switch (reply->body_kind) {
    case BUS_BODY_NONE:
        if (reply->status >= 400) {
            answer_plain(call, f, reply->status);
            return;
        }
        break;
    case BUS_BODY_JSON:
        out.content_type = "application/json";
        out.body = reply->body.p;
        out.len = reply->body.len;
        break;
    case BUS_BODY_BYTES:
        out.content_type = type[0] != '\0' ? type : "application/octet-stream";
        out.body = reply->body.p;
        out.len = reply->body.len;
        break;
    case BUS_BODY_FILE:
        send_file(call, reply);
        return;
    default:
        log_err("forward: unknown kind of body kind=%u", reply->body_kind);
        (void)http_fail(call, 500, "internal error");
        return;
    }
    (void)http_answer(call, &out);
}

static void
answer_error(struct http_call *call, const struct forward *f, int error)
{
    switch (error) {
    case -EHOSTUNREACH:
    case -ECONNRESET:
        (void)http_fail_away(call, forward_daemon(f));
        break;
    case -ETIMEDOUT:
        (void)http_fail(call, 504, "no answer in time");
        break;
    case -E2BIG:
    case -EMSGSIZE:
        (void)http_fail(call, 413, "request too large");
        break;
    default:
        log_err("forward: no usable answer daemon=%s op=%s error=%s", forward_daemon(f),
                f->match->route->name, strerror(-error));
        (void)http_fail(call, 500, "internal error");
        break;
    }
}

/* ---- bodies ---- */

static bool
is_form(const struct http_call *call, const struct route *route)
{
    return route->form && call->content_type != NULL &&
           strncasecmp(call->content_type, "multipart/form-data", 19) == 0;
}

/*
 * Takes the body of the request. 0; < 0 when it failed (answered if there is
 * anyone to answer). 'spooled' gets the file's name, if it becomes one.
 */
static int
take_body(struct http_call *call, const struct route *route, struct bus_request *request,
          char spooled[UPLOAD_NAME_SIZE])
{
    spooled[0] = '\0';
    if (call->body_done)
        return 0;
    if (route->body_max == 0) {
        /* Some clients send "{}" where nothing is wanted. */
        int r = http_read_body(call, HTTP_DISCARD_MAX);
        return r;
    }
    if (is_form(call, route)) {
        int r = upload_spool(call, route->body_max, spooled);
        if (r < 0)
            return r;
        request->body_kind = BUS_BODY_FILE;
        request->content_type = (struct bus_str){ .p = call->content_type,
                                                  .len = (uint32_t)strlen(call->content_type) };
        request->body = (struct bus_str){ .p = spooled, .len = (uint32_t)strlen(spooled) };
        return 0;
    }
    int r = http_read_body(call, route->body_max);
    if (r < 0)
        return r;
    const struct buf *body = &call->worker->body;
    if (body->len > 0) {
        request->body_kind = BUS_BODY_JSON;
        request->body = (struct bus_str){ .p = body->data, .len = (uint32_t)body->len };
    }
    return 0;
}

/* The daemon removes what it takes; here goes what it refused or never saw. */
static void
drop_spooled(const struct http_call *call, const char *spooled)
{
    if (spooled[0] != '\0')
        spool_remove(call->gateway->svc->spool_dir, spooled, strlen(spooled));
}

/* A body may have taken its time: the caller may be signed out by now. Answered when false. */
static bool
still_may(struct http_call *call, const struct forward *f, struct bus_request *request)
{
    const struct route *route = f->match->route;
    if (call->body_read == 0 || route->permission == API_PERMISSION_OPEN)
        return true;
    if (!front_sign_in_check(call, route, f->grant))
        return false;
    request->who = f->grant->who;
    return true;
}

void
forward_run(struct http_call *call, const struct forward *f)
{
    const struct route *route = f->match->route;
    char spooled[UPLOAD_NAME_SIZE];
    struct bus_request request;
    struct bus_answer a;
    fill_request(call, f, &request);
    /* Nothing is read for a daemon that is away. */
    if (!bus_peer_is_up(forward_peer(call, f))) {
        (void)http_fail_away(call, forward_daemon(f));
        return;
    }
    if (take_body(call, route, &request, spooled) < 0)
        return;
    if (!still_may(call, f, &request)) {
        drop_spooled(call, spooled);
        return;
    }
    int r = forward_ask(call, f, &request, &a);
    drop_spooled(call, spooled);
    if (r < 0) {
        answer_error(call, f, r);
        return;
    }
    refusals_note_reply(call->gateway->refusals, &request.who, call->addr, route, call->id,
                        &a.reply);
    if (a.reply.body_kind == BUS_BODY_STREAM)
        stream_run(call, f, &request, &a);
    else if (a.reply.body_kind == BUS_BODY_PIPE && a.reply.status == 200)
        send_pipe(call, f, &request, &a.reply);
    else
        answer(call, f, &a.reply);
    bus_answer_done(&a);
}
