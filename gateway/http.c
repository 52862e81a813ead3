/*
 * The HTTP server library's only user. It opens the listeners, checks what
 * the library lets pass (framing, repeated or broken headers), and turns a
 * request into a struct http_call. Options and guards answer to traps that
 * proto/decisions/tls-with-civetweb.md lists.
 */
#include "gateway/http.h"

#include <civetweb.h>
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#include "gateway/conns.h"
#include "gateway/cors.h"
#include "gateway/doors.h"
#include "gateway/front.h"
#include "gateway/gateway.h"
#include "gateway/metrics.h"
#include "gateway/tls.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "libcommon/svc.h"

#include "libcommon/banned.h"

enum {
    OUT_MAX = 16 << 20,          /* header and body; a bus message is smaller */
    WRITE_ONCE_MAX = 256 * 1024, /* larger bodies are not copied behind their header */
    DRAIN_MS = 500,
};

struct http {
    struct mg_context *secure, *plain;
    char fixed[320]; /* headers that never change */
};

/*
 * Answers of the API are data, never a page (OWASP REST Security Cheat Sheet);
 * our own pages say instead what they load (docs.c).
 */
#define DATA_HEADERS                                                                           \
    "Cache-Control: no-store\r\n"                                                              \
    "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"

/* ---- requests: what the library lets pass ---- */

struct headers {
    unsigned n_host, n_length, n_encoding, n_once, n_connection;
    bool ends; /* one of Connection does not ask to keep it */
};

static bool
is_number(const char *text)
{
    size_t n = strspn(text, "0123456789");
    return n > 0 && n < 19 && text[n] == '\0';
}

/*
 * Headers that hold one value (RFC 9110, 5.3): given twice, two parties may
 * each take another one. Host and what frames a body is counted in read_header.
 */
static const char *const once[] = { "Authorization", "Content-Type", "Expect", "mx-api-token",
                                    "Origin" };

static const char *
check_once(struct headers *h, const char *name)
{
    for (unsigned i = 0; i < ARRAY_LEN(once); i++) {
        if (strcasecmp(name, once[i]) != 0)
            continue;
        if ((h->n_once & 1u << i) != 0)
            return "a header that has one value is given twice";
        h->n_once |= 1u << i;
    }
    return NULL;
}

/* "Bearer <token>", or any other scheme: no token. */
static void
read_authorization(struct http_call *call, const char *value)
{
    if (strncasecmp(value, "Bearer", 6) != 0 || (value[6] != ' ' && value[6] != '\t'))
        return;
    value += 7;
    value += strspn(value, " \t");
    call->token = value;
}

static const char *
read_header(struct http_call *call, struct headers *h, const char *name, const char *value)
{
    switch (strlen(name)) {
    case 4:
        if (strcasecmp(name, "Host") == 0) {
            call->host = value;
            h->n_host++;
        }
        break;
    case 6:
        if (strcasecmp(name, "Expect") == 0) {
            if (strcasecmp(value, "100-continue") != 0)
                return "only 100-continue can be expected";
            call->expects_continue = true;
        } else if (strcasecmp(name, "Origin") == 0) {
            call->origin = cors_find(&call->gateway->cors, value);
        }
        break;
    case 10:
        if (strcasecmp(name, "Connection") == 0) {
            h->n_connection++;
            h->ends = h->ends || strcasestr(value, "keep-alive") == NULL;
        }
        break;
    case 12:
        if (strcasecmp(name, "Content-Type") == 0)
            call->content_type = value;
        else if (strcasecmp(name, "mx-api-token") == 0) {
            if (call->token != NULL && !str_eq(call->token, value))
                return "two different tokens";
            call->token = value;
        }
        break;
    case 13:
        if (strcasecmp(name, "Authorization") == 0) {
            const char *before = call->token;
            read_authorization(call, value);
            if (before != NULL && !str_eq(before, call->token))
                return "two different tokens";
        }
        break;
    case 14:
        if (strcasecmp(name, "Content-Length") == 0) {
            h->n_length++;
            if (!is_number(value))
                return "Content-Length is not a number";
        }
        break;
    case 17:
        if (strcasecmp(name, "Transfer-Encoding") == 0) {
            h->n_encoding++;
            if (strcasecmp(value, "chunked") != 0)
                return "only chunked is a known transfer encoding";
            call->chunked = true;
        }
        break;
    default:
        break;
    }
    return NULL;
}

/*
 * The library takes blanks before a request for a whole one when they hold an
 * empty line, and then reads on into what is left in its buffer of an earlier
 * request, perhaps somebody else's. So a request begins where the worker's
 * buffer does, or behind one empty line (RFC 9112, 2.2).
 */
static const char *
check_begin(struct worker *w, const char *at)
{
    enum { ALIGNED = _Alignof(max_align_t) };
    if (w->head == NULL) /* memory of malloc: aligned */
        w->head = at - (uintptr_t)at % ALIGNED;
    if (at < w->head)
        w->head = at;
    if (at != w->head && (at != w->head + 2 || memcmp(at - 2, "\r\n", 2) != 0))
        return "only one empty line may come before a request";
    return NULL;
}

/*
 * The library takes any number of blanks where one belongs, and any line end
 * and more blanks behind the version: a header that begins with one would be
 * read as no header by others.
 */
static const char *
check_start_line(const struct mg_request_info *ri)
{
    const char *target_end = ri->query_string != NULL ? ri->query_string : ri->request_uri;
    target_end += strlen(target_end);
    if (ri->request_uri != ri->request_method + strlen(ri->request_method) + 1 ||
        ri->http_version != target_end + 1 + strlen("HTTP/"))
        return "one blank belongs between the parts of a request line";
    if (ri->request_uri[0] != '/')
        return "the target must be a path"; /* the library has a domain of its own to serve */
    if (ri->num_headers > 0 &&
        ri->http_headers[0].name != ri->http_version + strlen(ri->http_version) + 2)
        return "the request line must be ended by CR LF, without continuation lines";
    return NULL;
}

/*
 * Each header as the library split it: a blank before the colon left a second
 * NUL behind the name, a line that continues another or a bare line feed ended
 * its parsing early. Each would let two parties read two different requests.
 */
static const char *
check_shape(const struct mg_request_info *ri)
{
    for (int i = 0; i < ri->num_headers; i++) {
        const struct mg_header *h = &ri->http_headers[i];
        const char *end = h->name + strlen(h->name);
        if (h->value > end + 1 && end[1] == '\0')
            return "blank before the colon of a header";
        const char *p = h->value;
        for (; *p != '\0'; p++) {
            unsigned char c =
                (unsigned char)*p; /* whether char is signed depends on the machine */
            if ((c < 0x20 && c != '\t') || c >= 0x7f)
                return "only printable ASCII is taken in a header";
        }
        /* NUL NUL and the next name where CR LF was, at the end NUL NUL CR. */
        bool last = i == ri->num_headers - 1;
        if (p + 2 - ri->request_method >= HTTP_HEAD_MAX || p[1] != '\0' ||
            (last ? p[2] != '\r' : ri->http_headers[i + 1].name != p + 2))
            return "headers must be ended by CR LF, without continuation lines";
    }
    return NULL;
}

/* NULL, or why the request is refused; all of these end the connection. */
static const char *
read_request(struct http_call *call, const struct mg_request_info *ri)
{
    struct headers h = { 0 };
    if (ri->num_headers > HTTP_HEADERS_MAX)
        return "too many headers";
    const char *fault = check_begin(call->worker, ri->request_method);
    if (fault == NULL)
        fault = check_start_line(ri);
    if (fault == NULL)
        fault = check_shape(ri);
    for (int i = 0; i < ri->num_headers && fault == NULL; i++) {
        fault = check_once(&h, ri->http_headers[i].name);
        if (fault == NULL)
            fault = read_header(call, &h, ri->http_headers[i].name, ri->http_headers[i].value);
    }
    if (fault != NULL)
        return fault;
    if (h.n_host > 1 || (h.n_host == 0 && !call->http10))
        return "exactly one Host is needed";
    if (h.n_length > 1)
        return "Content-Length is given twice";
    if (h.n_encoding > 1 || (h.n_encoding == 1 && (h.n_length > 0 || call->http10)))
        return "Transfer-Encoding cannot be used so";
    call->content_length = call->chunked ? -1 : h.n_length == 1 ? ri->content_length : 0;
    call->body_done = call->content_length == 0;
    if (call->token != NULL)
        call->token_len = strlen(call->token);
    /* The library closes unless asked to keep; so say what it will do. */
    if (h.n_connection > 0 ? h.ends : call->http10)
        call->close = true;
    return NULL;
}

/* ---- replies ---- */

static const struct {
    int status;
    const char *text;
} reasons[] = {
    { 200, "OK" },
    { 201, "Created" },
    { 202, "Accepted" },
    { 204, "No Content" },
    { 302, "Found" },
    { 304, "Not Modified" },
    { 308, "Permanent Redirect" },
    { 400, "Bad Request" },
    { 401, "Unauthorized" },
    { 403, "Forbidden" },
    { 404, "Not Found" },
    { 405, "Method Not Allowed" },
    { 408, "Request Timeout" },
    { 409, "Conflict" },
    { 411, "Length Required" },
    { 413, "Content Too Large" },
    { 414, "URI Too Long" },
    { 415, "Unsupported Media Type" },
    { 417, "Expectation Failed" },
    { 423, "Locked" },
    { 429, "Too Many Requests" },
    { 431, "Request Header Fields Too Large" },
    { 500, "Internal Server Error" },
    { 501, "Not Implemented" },
    { 503, "Service Unavailable" },
    { 504, "Gateway Timeout" },
    { 505, "HTTP Version Not Supported" },
    { 507, "Insufficient Storage" },
};

static const char *
reason(int status)
{
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
        if (reasons[i].status == status)
            return reasons[i].text;
    return "-";
}

static void
put_u64_text(struct buf *b, uint64_t v)
{
    char digits[20];
    size_t n = sizeof(digits);
    do {
        digits[--n] = (char)('0' + v % 10);
        v /= 10;
    } while (v != 0);
    buf_put(b, digits + n, sizeof(digits) - n);
}

static void
put_date(struct worker *w)
{
    int64_t now_s = clock_wall_us() / 1000000;
    if (now_s != w->date_s) {
        struct tm tm;
        time_t t = (time_t)now_s;
        w->date_s = now_s;
        if (gmtime_r(&t, &tm) == NULL ||
            strftime(w->date, sizeof(w->date), "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm) == 0)
            w->date[0] = '\0';
    }
    buf_puts(&w->out, w->date);
}

/*
 * A browser that was told goes nowhere but to HTTPS, and lets nobody pass a
 * certificate that it does not know: so only with one that somebody vouches
 * for (RFC 6797, 11.3).
 */
static const char *
strict_transport(const struct gateway *g, bool secure)
{
    return secure && !tls_is_self_signed(g->tls)
               ? "Strict-Transport-Security: max-age=31536000\r\n"
               : "";
}

/* Everything up to and with the empty line; 'body_len' < 0: chunked, HTTP/1.0: until the end.
 */
static void
put_head(struct http_call *call, const struct http_reply *reply, int64_t body_len)
{
    struct worker *w = call->worker;
    struct buf *b = &w->out;
    buf_reset(b);
    buf_puts(b, "HTTP/1.1 ");
    put_u64_text(b, (uint64_t)reply->status);
    buf_putc(b, ' ');
    buf_puts(b, reason(reply->status));
    buf_puts(b, "\r\n");
    put_date(w);
    if (reply->content_type != NULL) {
        buf_puts(b, "Content-Type: ");
        buf_puts(b, reply->content_type);
        buf_puts(b, "\r\n");
    }
    if (body_len >= 0 && reply->status != 204 && reply->status != 304) {
        buf_puts(b, "Content-Length: ");
        put_u64_text(b, (uint64_t)body_len);
        buf_puts(b, "\r\n");
    }
    if (body_len < 0 && !call->http10)
        buf_puts(b, "Transfer-Encoding: chunked\r\n");
    static const char digits[] = "0123456789abcdef";
    char id[16];
    for (int i = 0; i < 16; i++)
        id[i] = digits[call->id >> (60 - 4 * i) & 15];
    buf_puts(b, "X-Request-Id: ");
    buf_put(b, id, sizeof(id));
    buf_puts(b, reply->may_cache ? "\r\n" : "\r\n" DATA_HEADERS);
    buf_puts(b, call->gateway->http->fixed);
    buf_puts(b, strict_transport(call->gateway, call->secure));
    if (call->origin != NULL)
        buf_printf(b, "Access-Control-Allow-Origin: %s\r\n" CORS_ANSWER, call->origin);
    if (reply->retry_after_s != 0)
        buf_printf(b, "Retry-After: %u\r\n", reply->retry_after_s);
    if (reply->headers != NULL)
        buf_puts(b, reply->headers);
    if (call->close)
        buf_puts(b, "Connection: close\r\n");
    else if (call->http10)
        buf_puts(b, "Connection: keep-alive\r\n");
    buf_puts(b, "\r\n");
    call->status = reply->status;
}

/* Around what depends on the client's pace. */
static void
wait_begin(struct http_call *call, uint64_t allowed_us)
{
    if (call->conn != NULL) {
        uint64_t now_us = clock_mono_us();
        conn_deadline(call->conn, now_us + allowed_us);
        conn_waits(call->conn, now_us);
    }
}

static void
wait_end(struct http_call *call)
{
    if (call->conn != NULL) {
        conn_deadline(call->conn, 0);
        conn_busy(call->conn);
    }
}

/* How long 'n' bytes may take, in µs. */
static uint64_t
time_for(size_t n)
{
    return HTTP_TIMEOUT_MS * 1000ull + n * 1000000ull / HTTP_BYTES_PER_S;
}

static int
write_all(struct http_call *call, const void *bytes, size_t n, uint64_t allowed_us)
{
    wait_begin(call, allowed_us);
    int r = mg_write(call->server_conn, bytes, n) == (int)n ? 0 : -EPIPE;
    wait_end(call);
    if (r < 0) {
        call->close = true;
        mg_disable_connection_keep_alive(call->server_conn);
    }
    return r;
}

/*
 * Whether the connection ends: others wait for its thread; a body stays unread, and more of it
 * than is worth reading; or a body waits for our 100: whether it comes is not known, so the
 * next request may be taken for it.
 */
static void
settle_end(struct http_call *call)
{
    if (call->conn != NULL && conn_yields(call->conn))
        call->close = true;
    if (!call->body_done &&
        (call->chunked || call->expects_continue ||
         (uint64_t)call->content_length - call->body_read > HTTP_DISCARD_MAX))
        call->close = true;
}

int
http_answer(struct http_call *call, const struct http_reply *reply)
{
    settle_end(call);
    bool head = call->method == METHOD_HEAD;
    put_head(call, reply, (int64_t)reply->len);
    struct buf *b = &call->worker->out;
    bool at_once = reply->len <= WRITE_ONCE_MAX;
    if (!head && at_once)
        buf_put(b, reply->body, reply->len);
    if (b->err != 0) {
        call->close = true;
        return -EPIPE;
    }
    int r = write_all(call, b->data, b->len, time_for(b->len));
    if (r == 0 && !head && !at_once)
        r = write_all(call, reply->body, reply->len, time_for(reply->len));
    return r;
}

static int
fail(struct http_call *call, int status, const char *message, const char *daemon,
     const char *headers)
{
    struct buf b;
    buf_init(&b, 4096);
    jw_open(&b, '{');
    jw_name(&b, "error");
    jw_open(&b, '{');
    jw_ki64(&b, "code", status);
    jw_kstr(&b, "message", message);
    if (daemon != NULL) {
        jw_name(&b, "details");
        jw_open(&b, '[');
        jw_open(&b, '{');
        jw_kstr(&b, "pointer", "");
        jw_kstr(&b, "message", daemon);
        jw_close(&b, '}');
        jw_close(&b, ']');
    }
    jw_close(&b, '}');
    jw_close(&b, '}');
    struct http_reply reply = {
        .status = status,
        .content_type = "application/json",
        .body = b.data,
        .len = b.len,
        .headers = headers,
        .retry_after_s = status == 503 ? 1 : 0,
    };
    int r = http_answer(call, &reply);
    buf_done(&b);
    return r;
}

int
http_fail(struct http_call *call, int status, const char *message)
{
    return fail(call, status, message, NULL,
                status == 401 ? "WWW-Authenticate: Bearer\r\n" : NULL);
}

int
http_fail_method(struct http_call *call, const char *allow)
{
    return fail(call, 405, "method not allowed", NULL, allow);
}

int
http_fail_away(struct http_call *call, const char *name)
{
    return fail(call, 503, "service unavailable", name, NULL);
}

int
http_begin(struct http_call *call, const struct http_reply *reply, uint64_t body_len)
{
    settle_end(call);
    put_head(call, reply, (int64_t)body_len);
    struct buf *b = &call->worker->out;
    return b->err != 0 ? -EPIPE : write_all(call, b->data, b->len, time_for(b->len));
}

int
http_put(struct http_call *call, const void *bytes, size_t n)
{
    return write_all(call, bytes, n, time_for(n));
}

/* ---- bodies of unknown length ---- */

/* The header, whatever becomes of the connection after the body. */
static int
put_open_head(struct http_call *call, const struct http_reply *reply)
{
    put_head(call, reply, -1);
    struct buf *b = &call->worker->out;
    return b->err != 0 ? -EPIPE : write_all(call, b->data, b->len, time_for(b->len));
}

static int
put_chunk(struct http_call *call, const void *bytes, size_t n, uint64_t allowed_us)
{
    struct buf *b = &call->worker->out;
    buf_reset(b);
    if (!call->http10)
        buf_printf(b, "%zx\r\n", n);
    buf_put(b, bytes, n);
    if (!call->http10)
        buf_puts(b, "\r\n");
    if (b->err != 0)
        return -EPIPE;
    return write_all(call, b->data, b->len, allowed_us);
}

int
http_chunked_begin(struct http_call *call, const struct http_reply *reply)
{
    settle_end(call);
    if (call->http10) /* only the connection's end can end the body */
        call->close = true;
    return put_open_head(call, reply);
}

int
http_chunk(struct http_call *call, const void *bytes, size_t n)
{
    return put_chunk(call, bytes, n, time_for(n));
}

int
http_chunked_end(struct http_call *call)
{
    return call->http10 ? 0 : write_all(call, "0\r\n\r\n", 5, time_for(0));
}

void
http_break(struct http_call *call)
{
    const struct sockaddr nobody = { .sa_family = AF_UNSPEC };
    call->close = true;
    /* Without chunks an orderly end would look like that of the body: reset it instead. */
    if (call->http10 && call->conn != NULL)
        (void)connect(call->conn->fd, &nobody, sizeof(nobody)); /* fails when it is gone */
}

/* ---- event streams ---- */

int
http_stream_begin(struct http_call *call)
{
    call->is_stream = true;
    call->close = true;
    if (call->conn != NULL) {
        conn_stays(call->conn);
        /* What a slow client has not read yet waits here, not in megabytes of the kernel's. */
        int bytes = 128 * 1024;
        (void)setsockopt(call->conn->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    }
    struct http_reply reply = {
        .status = 200,
        .content_type = "text/event-stream",
        .headers = "X-Accel-Buffering: no\r\n",
    };
    return put_open_head(call, &reply);
}

int
http_stream_put(struct http_call *call, const void *bytes, size_t n, unsigned timeout_ms)
{
    return put_chunk(call, bytes, n, timeout_ms * 1000ull);
}

bool
http_client_is_gone(struct http_call *call)
{
    if (call->conn == NULL)
        return false;
    struct pollfd p = { .fd = call->conn->fd, .events = POLLRDHUP };
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

/* ---- bodies ---- */

int
http_read(struct http_call *call, char *out, size_t n)
{
    if (call->body_done)
        return 0;
    if (call->expects_continue) {
        call->expects_continue = false;
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        if (write_all(call, go_on, sizeof(go_on) - 1, time_for(0)) < 0)
            return -EPIPE;
    }
    wait_begin(call, time_for(n));
    int got = mg_read(call->server_conn, out, n);
    wait_end(call);
    if (got > 0) {
        call->body_read += (size_t)got;
        if (!call->chunked && call->body_read == (size_t)call->content_length)
            call->body_done = true;
        return got;
    }
    if (got == 0 && call->chunked) {
        call->body_done = true;
        return 0;
    }
    call->close = true;
    mg_disable_connection_keep_alive(call->server_conn);
    return -EPIPE;
}

int
http_read_body(struct http_call *call, size_t max)
{
    struct buf *b = &call->worker->body;
    buf_reset(b);
    b->max = max + 1; /* one more, to see that there is more */
    if (call->content_length > (int64_t)max) {
        (void)http_fail(call, 413, "request too large"); /* the result is the same */
        return -E2BIG;
    }
    while (!call->body_done) {
        size_t n = call->chunked ? 16384 : (size_t)call->content_length - call->body_read;
        if (n > max + 1 - b->len)
            n = max + 1 - b->len;
        char *at = buf_reserve(b, n);
        if (at == NULL) {
            (void)http_fail(call, 503, "out of memory");
            return -ENOMEM;
        }
        int got = http_read(call, at, n);
        if (got < 0) {
            (void)http_fail(call, 400, "the request body is incomplete");
            return got;
        }
        b->len += (size_t)got;
        if (b->len > max) {
            (void)http_fail(call, 413, "request too large");
            return -E2BIG;
        }
    }
    return 0;
}

/* ---- the library's callbacks ---- */

/* Of each thread of the library's. */
struct thread {
    struct worker *worker; /* made at the first request: most threads never see one */
    bool library_spoke;    /* to the client of the connection at hand */
};

static struct worker *
worker_get(struct mg_connection *server_conn)
{
    struct thread *t = mg_get_thread_pointer(server_conn);
    if (t == NULL)
        return NULL;
    if (t->worker == NULL) {
        struct worker *w = malloc(sizeof(*w));
        if (w == NULL)
            return NULL;
        buf_init(&w->out, OUT_MAX);
        buf_init(&w->body, 0);
        w->date_s = -1;
        w->head = NULL;
        t->worker = w;
    }
    return t->worker;
}

static void *
on_thread(const struct mg_context *ctx, int kind)
{
    (void)ctx;
    return kind == 1 ? calloc(1, sizeof(struct thread)) : NULL;
}

/* The unread rest of a refused request: taken for a moment, else a reset may eat the reply. */
static void
drain(struct http_call *call)
{
    uint64_t until_us = clock_mono_us() + DRAIN_MS * 1000;
    size_t left = 1 << 20;
    char *bytes = buf_reserve(&call->worker->out, 16384);
    struct pollfd p = { .fd = call->conn->fd, .events = POLLIN };
    while (bytes != NULL && left > 0 && clock_mono_us() < until_us &&
           poll(&p, 1, DRAIN_MS / 2) > 0) {
        /* Not through the library: it would wait for all of the length asked for. */
        ssize_t n = recv(call->conn->fd, bytes, 16384, MSG_DONTWAIT);
        if (n <= 0)
            break;
        left -= (size_t)n < left ? (size_t)n : left;
    }
}

static void
finish(struct http_call *call, struct mg_connection *server_conn)
{
    if (call->close)
        mg_disable_connection_keep_alive(server_conn);
    if (call->close && !call->body_done && !call->expects_continue && call->conn != NULL)
        drain(call);
    struct worker *w = call->worker;
    if (w->out.cap > HTTP_KEEP_BUFFER) {
        buf_done(&w->out);
        buf_init(&w->out, OUT_MAX);
    }
    if (w->body.cap > HTTP_KEEP_BUFFER)
        buf_done(&w->body);
}

static bool
is_loopback(const char *addr)
{
    return strncmp(addr, "127.", 4) == 0;
}

/* Ours for the library's; known by then: a handshake, or a request. */
static struct conn *
lookup(const struct mg_connection *server_conn)
{
    struct gateway *g = mg_get_user_context_data(server_conn);
    struct conn *conn = mg_get_user_connection_data(server_conn);
    if (conn != NULL)
        return conn;
    const struct mg_request_info *ri = mg_get_request_info(server_conn);
    struct in_addr ip;
    conn = conns_find_handshake(g->conns, server_conn);
    if (conn == NULL && ri != NULL && !ri->is_ssl &&
        inet_pton(AF_INET, ri->remote_addr, &ip) == 1)
        conn = conns_find(g->conns, ip.s_addr, (uint16_t)ri->remote_port,
                          (uint16_t)ri->server_port);
    return conn;
}

static void
run(struct gateway *g, struct mg_connection *server_conn, struct http_call *call)
{
    const struct mg_request_info *ri = mg_get_request_info(server_conn);
    const char *fault = NULL;
    *call = (struct http_call){
        .gateway = g,
        .worker = worker_get(server_conn),
        .server_conn = server_conn,
        .conn = lookup(server_conn),
        .id = atomic_fetch_add_explicit(&g->next_request_id, 1, memory_order_relaxed),
        .start_us = clock_mono_us(),
        .method = method_parse(ri->request_method),
        .secure = ri->is_ssl != 0,
        .loopback = is_loopback(ri->remote_addr),
        .http10 = str_eq(ri->http_version, "1.0"),
        .local_port = (uint16_t)ri->server_port,
        .path = ri->local_uri_raw,
        .query = ri->query_string,
    };
    if (call->worker == NULL) {
        mg_disable_connection_keep_alive(server_conn);
        call->status = 500;
        return;
    }
    (void)str_copy(call->addr, sizeof(call->addr), ri->remote_addr); /* IPv4: fits */
    if (call->conn != NULL) {
        mg_set_user_connection_data(server_conn, call->conn);
        conn_asked(call->conn);
        conn_busy(call->conn);
    }
    log_set_request(call->id);
    fault = read_request(call, ri);
    if (gateway_is_stopping(g)) {
        call->close = true;
        (void)http_fail(call, 503, "service unavailable");
    } else if (fault != NULL) {
        call->close = true;
        (void)http_fail(call, 400, fault);
    } else {
        front_handle(call);
    }
    finish(call, server_conn);
    log_set_request(0);
}

static int
on_request(struct mg_connection *server_conn)
{
    struct gateway *g = mg_get_user_context_data(server_conn);
    struct http_call call;
    atomic_fetch_add(&g->n_running, 1); /* before it is asked whether the gateway stops */
    run(g, server_conn, &call);
    uint64_t now_us = clock_mono_us();
    gateway_metrics_count(call.method, call.status,
                          call.is_stream ? 0 : now_us - call.start_us);
    if (call.conn != NULL)
        conn_idle(call.conn, now_us);
    atomic_fetch_sub(&g->n_running, 1); /* who waits for 0 sees all that was done */
    return call.status != 0 ? call.status : 499;
}

/* For what never became a request, in the form of our other refusals. */
static void
refuse_unread(struct mg_connection *server_conn, int status, const char *message)
{
    struct gateway *g = mg_get_user_context_data(server_conn);
    char text[1024], body[256];
    int len = snprintf(body, sizeof(body), "{\"error\":{\"code\":%d,\"message\":\"%s\"}}",
                       status, message);
    int n = snprintf(text, sizeof(text),
                     "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n"
                     "Content-Length: %d\r\n" DATA_HEADERS "%s%sConnection: close\r\n\r\n%s",
                     status, reason(status), len, g->http->fixed,
                     strict_transport(g, mg_get_request_info(server_conn)->is_ssl != 0), body);
    (void)mg_write(server_conn, text, (size_t)n); /* the connection ends either way */
    gateway_metrics_count(METHOD_OTHER, status, 0);
}

/* The library told the client of an error: nothing more is said before the connection closes.
 */
static bool *
library_spoke(const struct mg_connection *server_conn)
{
    struct thread *t = mg_get_thread_pointer(server_conn);
    return t != NULL ? &t->library_spoke : NULL;
}

/* Errors that the library finds before a request is one. */
static int
on_library_error(struct mg_connection *server_conn, int status, const char *message)
{
    (void)message;     /* may quote the client */
    if (status == 411) /* what it says of a Content-Length that is no number */
        status = 400;
    refuse_unread(server_conn, status,
                  status == 413 ? "request headers too large" : "bad request");
    bool *spoke = library_spoke(server_conn);
    if (spoke != NULL)
        *spoke = true;
    return 0;
}

static int
on_library_log(const struct mg_connection *server_conn, const char *message)
{
    char safe[256];
    (void)server_conn;
    log_debug("http: %s", log_safe(message, safe, sizeof(safe)));
    return 1;
}

/*
 * The library gives up on a target that is no path ("http://…", "*") without a
 * word. It forgets a request only when it begins to read the next one, so that
 * after a handshake that failed the one of an earlier connection is still
 * there: what was answered is made to be none.
 */
static void
answer_given_up(struct mg_connection *server_conn)
{
    const struct mg_request_info *ri = mg_get_request_info(server_conn);
    bool *spoke = library_spoke(server_conn);
    if (spoke == NULL || ri == NULL)
        return;
    if (!*spoke && ri->request_uri != NULL && ri->local_uri_raw == NULL)
        refuse_unread(server_conn, 400, "the target must be a path");
    *spoke = false;
    ((struct mg_request_info *)(uintptr_t)ri)->request_uri = NULL;
}

static void
on_connection_close(const struct mg_connection *server_conn)
{
    struct gateway *g = mg_get_user_context_data(server_conn);
    answer_given_up((struct mg_connection *)(uintptr_t)server_conn);
    conns_leave(g->conns, lookup(server_conn));
}

static int
on_tls_context(void **ret_ctx, void *arg)
{
    struct gateway *g = arg;
    *ret_ctx = tls_context(g->tls);
    return 1;
}

/* ---- start ---- */

static struct mg_context *
listen_on(struct gateway *g, const char *ports, unsigned n_workers)
{
    static const struct mg_callbacks callbacks = {
        .begin_request = on_request,
        .log_message = on_library_log,
        .external_ssl_ctx = on_tls_context,
        .connection_close = on_connection_close,
        .http_error = on_library_error,
        .init_thread = on_thread,
    };
    char workers[16], head_max[16], timeout[16], keep_alive[16];
    (void)snprintf(workers, sizeof(workers), "%u", n_workers);
    (void)snprintf(head_max, sizeof(head_max), "%d", HTTP_HEAD_MAX);
    (void)snprintf(timeout, sizeof(timeout), "%d", HTTP_TIMEOUT_MS);
    (void)snprintf(keep_alive, sizeof(keep_alive), "%d", HTTP_KEEP_ALIVE_MS);
    /* clang-format off */
    const char *options[] = {
        "listening_ports", ports,
        "num_threads", workers,
        "max_request_size", head_max,
        "request_timeout_ms", timeout,
        "enable_keep_alive", "yes",
        "keep_alive_timeout_ms", keep_alive,
        "tcp_nodelay", "1",
        "connection_queue", "128",
        "listen_backlog", "1024",
        "decode_url", "no",
        "decode_query_string", "no",
        "enable_directory_listing", "no",
        "cgi_pattern", "",
        "ssi_pattern", "",
        "access_control_allow_origin", "",
        "access_control_allow_methods", "",
        "access_control_allow_headers", "",
        NULL,
    };
    /* clang-format on */
    struct mg_context *ctx = mg_start(&callbacks, g, options);
    if (ctx == NULL)
        log_err("http: cannot listen ports=%s", ports);
    return ctx;
}

static void
fill_fixed_headers(struct http *h, const struct gateway *g)
{
    const char *profile =
        g->svc->profile == SVC_PROFILE_BENCH ? "X-Fieldgate-Profile: bench\r\n" : "";
    (void)snprintf(h->fixed, sizeof(h->fixed),
                   "X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n"
                   "Referrer-Policy: no-referrer\r\n%s%s",
                   g->cors.n > 0 ? "Vary: Origin\r\n" : "", profile); /* fits */
}

/* Descriptors: connections, spooled files and the bus. */
static void
raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < 4096) {
        limit.rlim_cur = limit.rlim_max < 4096 ? limit.rlim_max : 4096;
        (void)setrlimit(RLIMIT_NOFILE, &limit); /* fewer connections then */
    }
}

static int
make_doors(struct mg_context *ctx)
{
    struct mg_server_port ports[DOOR_N];
    int n = mg_get_server_ports(ctx, DOOR_N, ports);
    int r = n == DOOR_N ? 0 : -ENOENT;
    for (int i = 0; i < n && r == 0; i++)
        r = door_adopt(ports[i].is_ssl ? DOOR_HTTPS : DOOR_REDIRECT, (uint16_t)ports[i].port);
    if (r < 0)
        log_err("http: cannot take over the listeners error=%s", strerror(-r));
    return r;
}

int
http_start(struct gateway *g)
{
    struct http *h = calloc(1, sizeof(*h));
    if (h == NULL)
        return -ENOMEM;
    g->http = h;
    raise_file_limit();
    fill_fixed_headers(h, g);
    if ((mg_init_library(MG_FEATURES_TLS) & MG_FEATURES_TLS) == 0) {
        log_err("http: the HTTP library cannot use OpenSSL; are libssl.so and libcrypto.so "
                "beside it?");
        return -EOPNOTSUPP;
    }
    /* Any two ports: their sockets become the doors. */
    h->secure = listen_on(g, "127.0.0.1:0s,127.0.0.1:0", HTTP_WORKERS_SECURE);
    return h->secure == NULL ? -EADDRINUSE : make_doors(h->secure);
}

int
http_start_local(struct gateway *g)
{
    char ports[64];
    if (g->http_port == 0)
        return 0;
    (void)snprintf(ports, sizeof(ports), "127.0.0.1:%u", g->http_port);
    g->http->plain = listen_on(g, ports, HTTP_WORKERS_PLAIN);
    return g->http->plain == NULL ? -EADDRINUSE : 0;
}
