/*
 * HTTP over libcurl. See http.h.
 */
#include "services/fieldgatectl/http.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/clock.h"
#include "libcommon/str.h"
#include "services/fieldgatectl/sig.h"
#include "services/fieldgatectl/trust.h"

#include "libcommon/banned.h"

enum { WAIT_MAX_MS = 1000 };

struct http {
    CURLM *multi;
    struct http_peer peer;
    struct http_private *first;
};

struct http_private {
    struct http *http;
    struct http_transfer *t;
    struct http_private *next;
    CURL *easy;
    curl_mime *form;
    struct curl_slist *headers;
    char *authorization;
    char *url;
    bool in_multi;
    bool began;       /* the headers are complete */
    bool was_stopped; /* by who takes the answer */
    curl_off_t moved; /* bytes, both ways */
    uint64_t moved_us;
    char error[CURL_ERROR_SIZE];
};

/* ---- URLs ---- */

/* No name but localhost (RFC 6761, 6.3): 127.0.0.1.2 is one, too, and anybody may have it. */
static bool
is_this_computer(const char *host)
{
    struct in_addr address;
    return str_eq(host, "localhost") || str_eq(host, "[::1]") ||
           (inet_pton(AF_INET, host, &address) == 1 && ntohl(address.s_addr) >> 24 == 127);
}

static const char *
fault_of_url(CURLU *u, const char *scheme, const char *host, const char *path)
{
    static const CURLUPart none[] = { CURLUPART_USER, CURLUPART_QUERY, CURLUPART_FRAGMENT };
    for (size_t i = 0; i < ARRAY_LEN(none); i++) {
        char *text = NULL;
        (void)curl_url_get(u, none[i], &text, 0); /* not there: as it should be */
        bool found = text != NULL;
        curl_free(text);
        if (found)
            return "it is https://host or https://host:port, nothing more";
    }
    if (!str_eq(path, "/"))
        return "it ends after the port";
    if (str_eq(scheme, "http") && !is_this_computer(host))
        return "http is for this computer only: over a network the password could be read";
    if (!str_eq(scheme, "https") && !str_eq(scheme, "http"))
        return "it begins with https://";
    return NULL;
}

int
http_base(const char *url, char ret_base[HTTP_URL_MAX], const char **ret_why)
{
    char *scheme = NULL, *host = NULL, *path = NULL, *whole = NULL;
    int r = -EINVAL;
    CURLU *u = curl_url();
    *ret_why = "it is no URL";
    if (u != NULL && strstr(url, "://") != NULL &&
        curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
        curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
        curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
        curl_url_get(u, CURLUPART_PATH, &path, 0) == CURLUE_OK &&
        curl_url_get(u, CURLUPART_URL, &whole, CURLU_NO_DEFAULT_PORT) == CURLUE_OK) {
        *ret_why = fault_of_url(u, scheme, host, path);
        if (*ret_why == NULL) { /* then nothing but "/" is behind host and port */
            r = str_copy_len(ret_base, HTTP_URL_MAX, whole, strlen(whole) - 1);
            *ret_why = "it is too long";
        }
    }
    curl_free(scheme);
    curl_free(host);
    curl_free(path);
    curl_free(whole);
    curl_url_cleanup(u);
    return r < 0 ? -EINVAL : 0;
}

void
http_escape(struct buf *b, const char *text)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    for (; *text != '\0'; text++) {
        if (strchr(plain, *text) != NULL)
            buf_putc(b, *text);
        else
            buf_printf(b, "%%%02X", (unsigned)(unsigned char)*text);
    }
}

/* ---- what libcurl calls ---- */

static int
begin(struct http_private *p, long status)
{
    char *type = NULL;
    (void)curl_easy_getinfo(p->easy, CURLINFO_CONTENT_TYPE, &type); /* stays NULL */
    p->began = true;
    p->t->status = (int)status;
    return p->t->head == NULL ? 0
                              : p->t->head(p->t->arg, (int)status, type != NULL ? type : "");
}

/* One line of the headers; an empty one ends those of an interim answer (1xx), then all. */
static size_t
on_header(char *line, size_t size, size_t n, void *arg)
{
    struct http_private *p = arg;
    long status = 0;
    (void)curl_easy_getinfo(p->easy, CURLINFO_RESPONSE_CODE, &status); /* stays 0 */
    if (line[0] != '\r' && line[0] != '\n')
        return size * n;
    p->was_stopped = status >= 200 && !p->began && begin(p, status) < 0;
    return p->was_stopped ? 0 : size * n;
}

static size_t
on_data(char *bytes, size_t size, size_t n, void *arg)
{
    struct http_private *p = arg;
    int r = p->t->data == NULL ? 0 : p->t->data(p->t->arg, bytes, size * n);
    p->was_stopped = r < 0;
    return r < 0 ? 0 : size * n;
}

/* About once a second at least: has anything moved? */
static int
on_progress(void *arg, curl_off_t down_total, curl_off_t down, curl_off_t up_total,
            curl_off_t up)
{
    struct http_private *p = arg;
    (void)down_total;
    (void)up_total;
    uint64_t now_us = clock_mono_us();
    if (down + up != p->moved) {
        p->moved = down + up;
        p->moved_us = now_us;
    }
    if (now_us - p->moved_us <= p->t->idle_s * 1000000ull)
        return 0;
    (void)snprintf(p->error, sizeof(p->error), "nothing came for %u seconds", p->t->idle_s);
    return 1;
}

static CURLcode
on_tls(CURL *easy, void *ssl_ctx, void *arg)
{
    (void)easy;
    trust_install(ssl_ctx, arg);
    return CURLE_OK;
}

/* ---- one transfer ---- */

static void
private_free(struct http_private *p)
{
    if (p->in_multi)
        (void)curl_multi_remove_handle(p->http->multi, p->easy); /* it is in there */
    curl_easy_cleanup(p->easy);
    curl_mime_free(p->form);
    curl_slist_free_all(p->headers);
    if (p->authorization != NULL)
        explicit_bzero(p->authorization, strlen(p->authorization));
    free(p->authorization);
    free(p->url);
    free(p);
}

static int
add_header(struct http_private *p, const char *text)
{
    struct curl_slist *longer = curl_slist_append(p->headers, text);
    if (longer == NULL)
        return -ENOMEM;
    p->headers = longer;
    return 0;
}

static int
set_headers(struct http_private *p)
{
    const char *token = p->http->peer.token;
    int r = add_header(p, "Expect:"); /* no round trip to ask whether a body is welcome */
    if (r == 0 && p->t->parts == NULL)
        r = add_header(p,
                       p->t->body != NULL ? "Content-Type: application/json" : "Content-Type:");
    if (r == 0 && token != NULL) {
        if (asprintf(&p->authorization, "Authorization: Bearer %s", token) < 0) {
            p->authorization = NULL;
            return -ENOMEM;
        }
        r = add_header(p, p->authorization);
    }
    return r == 0 && curl_easy_setopt(p->easy, CURLOPT_HTTPHEADER, p->headers) != CURLE_OK
               ? -ENOMEM
               : r;
}

/* 0; -ENOENT: a file cannot be read, 'error' says which; -ENOMEM. */
static int
set_form(struct http_private *p)
{
    p->form = curl_mime_init(p->easy);
    for (size_t i = 0; p->form != NULL && i < p->t->n_parts; i++) {
        const struct http_part *from = &p->t->parts[i];
        curl_mimepart *part = curl_mime_addpart(p->form);
        if (part == NULL || curl_mime_name(part, from->name) != CURLE_OK)
            return -ENOMEM;
        CURLcode c = from->path != NULL
                         ? curl_mime_filedata(part, from->path)
                         : curl_mime_data(part, from->text, CURL_ZERO_TERMINATED);
        if (c == CURLE_READ_ERROR) {
            (void)snprintf(p->error, sizeof(p->error), "cannot read %s", from->path);
            return -ENOENT;
        }
        if (c != CURLE_OK)
            return -ENOMEM;
    }
    return p->form != NULL && curl_easy_setopt(p->easy, CURLOPT_MIMEPOST, p->form) == CURLE_OK
               ? 0
               : -ENOMEM;
}

static CURLcode
set_body(struct http_private *p)
{
    bool empty = p->t->body == NULL;
    if (empty && (str_eq(p->t->method, "GET") || str_eq(p->t->method, "DELETE")))
        return curl_easy_setopt(p->easy, CURLOPT_HTTPGET, 1L);
    CURLcode c = curl_easy_setopt(p->easy, CURLOPT_POSTFIELDSIZE_LARGE,
                                  (curl_off_t)(empty ? 0 : p->t->body_len));
    return c != CURLE_OK
               ? c
               : curl_easy_setopt(p->easy, CURLOPT_POSTFIELDS, empty ? "" : p->t->body);
}

/* Each option is checked: one that is refused would be a hole. */
#define SET(option, value)                                                                     \
    do {                                                                                       \
        CURLcode c_ = curl_easy_setopt(easy, option, value);                                   \
        if (c_ != CURLE_OK)                                                                    \
            return c_;                                                                         \
    } while (0)

static CURLcode
set_trust(CURL *easy, const struct http_peer *peer)
{
    bool by_pin = peer->trust->is_pinned;
    /* The callback of trust.c stands in for what is off here. */
    SET(CURLOPT_SSL_VERIFYPEER, by_pin ? 0L : 1L);
    SET(CURLOPT_SSL_VERIFYHOST, by_pin ? 0L : 2L);
    SET(CURLOPT_SSL_SESSIONID_CACHE, 0L);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_SSL_CTX_FUNCTION, on_tls);
    SET(CURLOPT_SSL_CTX_DATA, peer->trust);
    if (peer->cacert != NULL) {
        SET(CURLOPT_CAINFO, peer->cacert);
        SET(CURLOPT_CAPATH, NULL);
    }
    return CURLE_OK;
}

static CURLcode
set_options(struct http_private *p)
{
    CURL *easy = p->easy;
    bool is_plain = strncmp(p->http->peer.base, "http:", 5) == 0;
    SET(CURLOPT_URL, p->url);
    SET(CURLOPT_PATH_AS_IS, 1L);
    SET(CURLOPT_PROTOCOLS_STR, is_plain ? "http" : "https");
    if (is_plain)
        SET(CURLOPT_NOPROXY, "*"); /* the token stays on this computer */
    SET(CURLOPT_CUSTOMREQUEST, p->t->method);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_CONNECTTIMEOUT, (long)HTTP_CONNECT_S);
    SET(CURLOPT_USERAGENT, "fieldgatectl");
    SET(CURLOPT_ERRORBUFFER, p->error);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, p);
    SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L); /* those of a proxy are none of the device */
    SET(CURLOPT_HEADEROPT, (long)CURLHEADER_SEPARATE); /* nor does it get the token */
    SET(CURLOPT_WRITEFUNCTION, on_data);
    SET(CURLOPT_WRITEDATA, p);
    SET(CURLOPT_NOPROGRESS, 0L);
    SET(CURLOPT_XFERINFOFUNCTION, on_progress);
    SET(CURLOPT_XFERINFODATA, p);
    SET(CURLOPT_PRIVATE, p);
    return is_plain ? CURLE_OK : set_trust(easy, &p->http->peer);
}
#undef SET

static int
prepare(struct http_private *p)
{
    if (asprintf(&p->url, "%s%s", p->http->peer.base, p->t->target) < 0) {
        p->url = NULL;
        return -ENOMEM;
    }
    p->easy = curl_easy_init();
    if (p->easy == NULL)
        return -ENOMEM;
    int r = p->t->parts != NULL ? set_form(p) : set_body(p) == CURLE_OK ? 0 : -ENOMEM;
    if (r == 0 && set_options(p) != CURLE_OK)
        r = -ENOMEM;
    return r == 0 ? set_headers(p) : r;
}

/* ---- many ---- */

struct http *
http_new(const struct http_peer *peer)
{
    struct http *h = calloc(1, sizeof(*h));
    if (h == NULL || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        free(h);
        return NULL;
    }
    h->peer = *peer;
    h->multi = curl_multi_init();
    if (h->multi == NULL) {
        http_free(h);
        return NULL;
    }
    return h;
}

void
http_free(struct http *h)
{
    if (h == NULL)
        return;
    for (struct http_private *p = h->first, *next; p != NULL; p = next) {
        next = p->next;
        private_free(p);
    }
    (void)curl_multi_cleanup(h->multi); /* NULL is refused, which is fine */
    curl_global_cleanup();
    free(h);
}

void
http_freep(struct http **h)
{
    http_free(*h);
}

int
http_start(struct http *h, struct http_transfer *t)
{
    struct http_private *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return -ENOMEM;
    *p = (struct http_private){ .http = h, .t = t, .moved_us = clock_mono_us() };
    t->status = 0;
    t->why[0] = '\0';
    t->result = HTTP_STOPPED;
    int r = prepare(p);
    if (r == 0 && curl_multi_add_handle(h->multi, p->easy) != CURLM_OK)
        r = -ENOMEM;
    if (r < 0) {
        (void)str_copy(t->why, sizeof(t->why), p->error); /* of the same size */
        private_free(p);
        return r;
    }
    p->in_multi = true;
    p->next = h->first;
    h->first = p;
    return 0;
}

static enum http_result
judge(struct http_private *p, CURLcode code)
{
    const struct trust *trust = p->http->peer.trust;
    if (code == CURLE_OK)
        return HTTP_DONE;
    if (p->was_stopped)
        return HTTP_STOPPED;
    if (code == CURLE_PEER_FAILED_VERIFICATION || (!p->began && trust->was_refused))
        return HTTP_UNTRUSTED;
    if (code == CURLE_READ_ERROR)
        return HTTP_NO_FILE;
    if (p->began || code == CURLE_ABORTED_BY_CALLBACK || code == CURLE_GOT_NOTHING ||
        code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR)
        return HTTP_CUT;
    return HTTP_UNREACHABLE;
}

static struct http_transfer *
end(struct http_private *p, CURLcode code)
{
    struct http_transfer *t = p->t;
    t->result = judge(p, code);
    const char *why = p->error[0] != '\0' ? p->error : curl_easy_strerror(code);
    (void)snprintf(t->why, sizeof(t->why), "%s", code == CURLE_OK ? "" : why);
    struct http_private **at = &p->http->first;
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    private_free(p);
    return t;
}

static struct http_transfer *
take_ended(struct http *h)
{
    int left;
    CURLMsg *m = curl_multi_info_read(h->multi, &left);
    if (m == NULL)
        return NULL;
    struct http_private *p = NULL;
    CURLcode code = m->data.result;
    (void)curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&p); /* was set */
    return end(p, code);
}

struct http_transfer *
http_wait(struct http *h, int64_t ms)
{
    uint64_t end_us = clock_mono_us() + (uint64_t)(ms < 0 ? 0 : ms) * 1000;
    for (;;) {
        int running;
        if (curl_multi_perform(h->multi, &running) != CURLM_OK)
            return NULL;
        struct http_transfer *t = take_ended(h);
        if (t != NULL)
            return t;
        uint64_t now_us = clock_mono_us();
        if (sig_taken() != 0 || (ms >= 0 && now_us >= end_us))
            return NULL;
        int64_t left_ms = ms < 0 ? WAIT_MAX_MS : (int64_t)(end_us - now_us) / 1000 + 1;
        struct curl_waitfd signal = { .fd = sig_fd(), .events = CURL_WAIT_POLLIN };
        if (curl_multi_poll(h->multi, &signal, 1,
                            (int)(left_ms < WAIT_MAX_MS ? left_ms : WAIT_MAX_MS),
                            NULL) != CURLM_OK)
            return NULL;
    }
}

bool
http_ask(struct http *h, struct http_transfer *t)
{
    int r = http_start(h, t);
    if (r == -ENOENT) {
        t->result = HTTP_NO_FILE;
        return true;
    }
    return r == 0 && (http_wait(h, -1) == t || sig_taken() != 0);
}
