/*
 * The HTTPS setting. See https.h.
 */
#include "gateway/https.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/doors.h"
#include "gateway/gateway.h"
#include "gateway/https_files.h"
#include "gateway/tls.h"
#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "libcommon/svc.h"
#include "libcommon/x509.h"

#include "libcommon/banned.h"

/* What commit needs, and nothing that can fail. */
struct prepared {
    bool there;
    uint64_t id;
    struct https_setting setting;
    int listener, redirect_listener; /* -1: the door stays as it is, or is closed */
    struct tls_pair *pair;           /* NULL: stays as it is */
};

struct https {
    struct gateway *gateway;
    const char *dir;
    struct https_setting in_force;
    _Atomic uint16_t port;
    char fault[200]; /* why 'in_force' is not what was wanted at the start; or "" */
    struct prepared prepared;
    struct loop_timer drop_timer;
    uint64_t next_id;
};

/* Why something cannot be done, and which member of a request is to blame ("": none). */
struct refusal {
    uint16_t status;
    const char *pointer;
    char text[160];
};

static int PRINTF_LIKE(4, 5)
    refuse(struct refusal *ret, uint16_t status, const char *pointer, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    ret->status = status;
    ret->pointer = pointer;
    (void)vsnprintf(ret->text, sizeof(ret->text), fmt, args); /* cut is fine: for a person */
    va_end(args);
    return -EINVAL;
}

static int
refuse_errno(struct refusal *ret, int error, const char *what)
{
    log_err("https: %s error=%s", what, strerror(-error));
    return refuse(ret, error == -ENOSPC || error == -EDQUOT ? 507 : 500, "", "%s: %s", what,
                  strerror(-error));
}

/* ---- what a setting needs ---- */

static int
bind_port(uint16_t port, const char *pointer, struct refusal *ret_refusal)
{
    int fd = door_bind(port);
    if (fd >= 0)
        return fd;
    if (fd == -EADDRINUSE)
        return refuse(ret_refusal, 400, pointer, "port %u is in use", port);
    if (fd == -EACCES || fd == -EPERM)
        return refuse(ret_refusal, 400, pointer, "port %u needs a privilege that is not there",
                      port);
    return refuse(ret_refusal, 500, pointer, "port %u: %s", port, strerror(-fd));
}

static int
load_pair(const struct https *h, const char *name, struct tls_pair **ret_pair,
          struct refusal *ret_refusal)
{
    char cert_path[PATH_MAX], key_path[PATH_MAX];
    const char *fault;
    https_pair_paths(h->dir, name, cert_path, key_path);
    int r = tls_pair_load(cert_path, key_path, ret_pair, &fault);
    return r == 0 ? 0 : refuse(ret_refusal, 400, "/certFile", "%s", fault);
}

static void
prepared_done(struct prepared *p)
{
    if (p->listener >= 0)
        close(p->listener);
    if (p->redirect_listener >= 0)
        close(p->redirect_listener);
    tls_pair_free(p->pair);
    *p = (struct prepared){ .listener = -1, .redirect_listener = -1 };
}

/* Sockets and certificate of 's', as far as they differ from what is in force. */
static int
acquire(const struct https *h, const struct https_setting *s, struct prepared *ret,
        struct refusal *ret_refusal)
{
    uint16_t redirect_port = (uint16_t)h->gateway->redirect_port;
    struct prepared p = { .listener = -1, .redirect_listener = -1, .setting = *s };
    int r = 0;
    if (s->redirect && redirect_port == 0)
        r = refuse(ret_refusal, 400, "/redirectToHttps", "plain HTTP is off on this machine");
    else if (s->redirect && redirect_port == s->port)
        r = refuse(ret_refusal, 400, "/httpsPort", "port %u is that of plain HTTP", s->port);
    bool is_same_pair =
        str_eq(s->pair, h->in_force.pair) && str_eq(s->cert_name, h->in_force.cert_name);
    if (r == 0 && !is_same_pair)
        r = load_pair(h, s->pair, &p.pair, ret_refusal);
    if (r == 0 && s->port != h->in_force.port) {
        p.listener = bind_port(s->port, "/httpsPort", ret_refusal);
        r = p.listener < 0 ? p.listener : 0;
    }
    if (r == 0 && s->redirect && !h->in_force.redirect) {
        p.redirect_listener = bind_port(redirect_port, "/redirectToHttps", ret_refusal);
        r = p.redirect_listener < 0 ? p.redirect_listener : 0;
    }
    if (r < 0)
        prepared_done(&p);
    else
        *ret = p;
    return r;
}

/* From now on 'p' is in force; consumes it. 0 or -errno of a door, which then stays as it was.
 */
static int
put_into_force(struct https *h, struct prepared *p)
{
    int r = 0;
    if (p->pair != NULL) {
        const struct https_setting *s = &p->setting;
        tls_use(h->gateway->tls, MOVE_PTR(p->pair), s->pair[0] != '\0' ? s->cert_name : NULL);
        memcpy(h->in_force.pair, s->pair, sizeof(s->pair));
        memcpy(h->in_force.cert_name, s->cert_name, sizeof(s->cert_name));
    }
    if (p->listener >= 0)
        r = door_use(DOOR_HTTPS, p->listener);
    if (r == 0 && p->listener >= 0) {
        p->listener = -1;
        h->in_force.port = p->setting.port;
        atomic_store(&h->port, p->setting.port);
    }
    if (r == 0 && p->setting.redirect != h->in_force.redirect) {
        r = door_use(DOOR_REDIRECT, p->redirect_listener);
        if (r == 0) {
            p->redirect_listener = -1;
            h->in_force.redirect = p->setting.redirect;
        }
    }
    prepared_done(p);
    return r;
}

/* ---- at the start ---- */

/* HTTPS must be; the redirect may follow later. */
static int
try_setting(struct https *h, const struct https_setting *s)
{
    struct prepared p;
    struct refusal refusal = { .text = "the port cannot be opened" }; /* unless told better */
    struct https_setting without = *s;
    without.redirect = false;
    int r = acquire(h, &without, &p, &refusal);
    if (r == 0)
        r = put_into_force(h, &p);
    if (r == 0 && s->redirect) {
        r = acquire(h, s, &p, &refusal);
        if (r == 0)
            r = put_into_force(h, &p);
        if (r < 0) {
            log_warn("https: no redirect reason=%s", refusal.text);
            (void)str_copy(h->fault, sizeof(h->fault), refusal.text); /* fits */
        }
        return 0;
    }
    if (r < 0) {
        log_err("https: setting not used port=%u pair=%s reason=%s", s->port, s->pair,
                refusal.text);
        if (h->fault[0] == '\0')
            (void)str_copy(h->fault, sizeof(h->fault), refusal.text); /* fits */
    }
    return r;
}

static void
fault_of_file(struct https *h, const char *name, int error)
{
    if (error == -ENOENT)
        return;
    log_err("https: file not used name=%s error=%s", name, strerror(-error));
    if (h->fault[0] == '\0')
        (void)snprintf(h->fault, sizeof(h->fault), "the file %s is damaged", name); /* fits */
}

static int
choose(struct https *h)
{
    static const char *const names[] = { "https.conf", "https.last" };
    const struct gateway *g = h->gateway;
    struct https_setting s;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        int r = https_file_read(h->dir, names[i], &s);
        if (r < 0)
            fault_of_file(h, names[i], r);
        else if (try_setting(h, &s) == 0)
            return 0;
    }
    s = (struct https_setting){ .port = (uint16_t)g->https_port,
                                .redirect = g->redirect_port != 0 };
    return try_setting(h, &s) == 0 ? 0 : -EADDRINUSE;
}

/* deploy/run.sh reads it. */
static void
log_in_force(const struct https *h)
{
    log_info("https: setting in force port=%u redirect=%d pair=%s", h->in_force.port,
             h->in_force.redirect, h->in_force.pair);
}

static void
drop(void *arg)
{
    struct https *h = arg;
    log_warn("https: a prepared setting was not committed, and is dropped port=%u",
             h->prepared.setting.port);
    prepared_done(&h->prepared);
}

int
https_start(struct gateway *g, struct https **ret_https)
{
    struct https *h = calloc(1, sizeof(*h));
    if (h == NULL)
        return -ENOMEM;
    h->gateway = g;
    h->dir = g->svc->state_dir;
    h->prepared = (struct prepared){ .listener = -1, .redirect_listener = -1 };
    h->next_id = clock_mono_us(); /* ids of an earlier life mean nothing */
    loop_timer_init(&h->drop_timer, drop, h);
    *ret_https = h;
    int r = choose(h);
    if (r == 0)
        log_in_force(h);
    return r;
}

uint16_t
https_port(const struct https *h)
{
    return atomic_load_explicit(&h->port, memory_order_relaxed);
}

uint16_t
https_redirect_port(const struct https *h)
{
    return h->in_force.redirect ? (uint16_t)h->gateway->redirect_port : 0;
}

/* ---- sysd asks ---- */

static void
answer_body(struct bus_incoming *in, uint16_t status, struct buf *body)
{
    struct bus_reply reply = { .status = status };
    if (body->err != 0) {
        reply.status = 500;
    } else {
        reply.body_kind = BUS_BODY_JSON;
        reply.body = (struct bus_str){ body->data, (uint32_t)body->len };
    }
    bus_answer(in, &reply);
    buf_done(body);
}

static void
answer_refusal(struct bus_incoming *in, const struct refusal *refusal)
{
    struct buf b;
    buf_init(&b, 1024);
    jw_open(&b, '{');
    jw_kstr(&b, "pointer", refusal->pointer);
    jw_kstr(&b, "message", refusal->text);
    jw_close(&b, '}');
    answer_body(in, refusal->status, &b);
}

static void
answer_state(const struct https *h, struct bus_incoming *in)
{
    struct buf b;
    buf_init(&b, 4096);
    jw_open(&b, '{');
    https_setting_write(&b, &h->in_force);
    jw_ki64(&b, "httpPort", h->gateway->redirect_port);
    jw_ki64(&b, "defaultPort", h->gateway->https_port);
    jw_kstr(&b, "fault", h->fault);
    jw_close(&b, '}');
    answer_body(in, 200, &b);
}

/* Whether the two are good enough, and a pair; 'only_key': the certificate is the one that was
 * there. */
static int
judge_pair(const char *cert, const char *key, bool only_key, struct refusal *ret_refusal)
{
    struct x509_info info;
    struct x509_key_info key_info;
    char reason[X509_REASON_SIZE];
    int r = x509_check_certs(cert, strlen(cert), clock_wall_us(), &info, reason);
    if (r > 0)
        return refuse(ret_refusal, 400, "/certFile", "%s", reason);
    if (r == 0)
        r = x509_check_key(key, strlen(key), &key_info, reason);
    if (r > 0)
        return refuse(ret_refusal, 400, "/keyFile", "%s", reason);
    if (r < 0)
        return refuse_errno(ret_refusal, r, "cannot check the certificate");
    if (memcmp(info.key.hash, key_info.hash, X509_HASH_SIZE) != 0)
        return refuse(ret_refusal, 400, only_key ? "/keyFile" : "/certFile",
                      "certificate and key are no pair");
    return 0;
}

/*
 * Uploaded texts, either of which may be missing: then it is the one of the
 * pair that was there. Names the new pair in 's'.
 */
static int
take_pair(const struct https *h, const char *cert, const char *key, struct https_setting *s,
          struct refusal *ret_refusal)
{
    char cert_path[PATH_MAX], key_path[PATH_MAX];
    CLEANUP(freep) char *old = NULL;
    https_pair_paths(h->dir, s->pair, cert_path, key_path);
    if (cert == NULL)
        cert = old = https_pem_read(cert_path);
    else if (key == NULL)
        key = old = https_pem_read(key_path);
    if (cert == NULL || key == NULL)
        return refuse(ret_refusal, 400, cert == NULL ? "/certFile" : "/keyFile",
                      "the stored one cannot be read: send both");
    int r = judge_pair(cert, key, cert == old, ret_refusal);
    if (r == 0) {
        const char *const keep[] = { h->in_force.pair, s->pair };
        https_pairs_sweep(h->dir, keep, ARRAY_LEN(keep));
        r = https_pair_keep(h->dir, cert, key, s->pair);
        if (r < 0)
            r = refuse_errno(ret_refusal, r, "cannot keep the certificate");
    }
    if (old != NULL)
        explicit_bzero(old, strlen(old));
    return r;
}

static int
prepare(struct https *h, const struct cJSON *tree, struct refusal *ret_refusal)
{
    struct https_setting s;
    const char *cert = json_text(json_get(tree, "cert"));
    const char *key = json_text(json_get(tree, "key"));
    if (https_setting_parse(tree, &s) < 0)
        return refuse(ret_refusal, 400, "", "not understood");
    int r = 0;
    if (cert != NULL || key != NULL)
        r = take_pair(h, cert, key, &s, ret_refusal);
    if (r == 0)
        r = acquire(h, &s, &h->prepared, ret_refusal);
    if (r < 0)
        return r;
    r = https_file_stage(h->dir, &s);
    if (r == 0)
        r = loop_timer_set(h->gateway->svc->loop, &h->drop_timer,
                           clock_mono_us() + HTTPS_PREPARED_MS * 1000ull);
    if (r < 0) {
        prepared_done(&h->prepared);
        return refuse_errno(ret_refusal, r, "cannot keep the setting");
    }
    h->prepared.there = true;
    h->prepared.id = h->next_id++;
    return 0;
}

/* sysd does one thing at a time: whoever prepared something will not commit it any more. */
static void
abandon(struct https *h)
{
    loop_timer_cancel(h->gateway->svc->loop, &h->drop_timer);
    prepared_done(&h->prepared);
}

static void
serve_prepare(struct https *h, struct bus_incoming *in, const struct cJSON *tree)
{
    struct refusal refusal;
    abandon(h);
    if (prepare(h, tree, &refusal) < 0) {
        answer_refusal(in, &refusal);
        return;
    }
    struct buf b;
    buf_init(&b, 256);
    jw_open(&b, '{');
    jw_ku64(&b, "id", h->prepared.id);
    jw_kstr(&b, "pair", h->prepared.setting.pair);
    jw_close(&b, '}');
    answer_body(in, 200, &b);
}

static int
commit(struct https *h, uint64_t id, struct refusal *ret_refusal)
{
    if (!h->prepared.there || h->prepared.id != id)
        return refuse(ret_refusal, 404, "", "it is not prepared any more");
    loop_timer_cancel(h->gateway->svc->loop, &h->drop_timer);
    int r = https_file_commit(h->dir);
    if (r < 0) {
        prepared_done(&h->prepared);
        return refuse_errno(ret_refusal, r, "cannot keep the setting");
    }
    r = put_into_force(h, &h->prepared);
    if (r < 0)
        return refuse_errno(ret_refusal, r, "cannot open the port");
    h->fault[0] = '\0';
    https_pairs_sweep(h->dir, NULL, 0);
    log_in_force(h);
    return 0;
}

static void
serve_commit(struct https *h, struct bus_incoming *in, const struct cJSON *tree)
{
    struct refusal refusal;
    uint64_t id = 0;
    if (json_u64(json_get(tree, "id"), &id) < 0)
        bus_answer_status(in, 400);
    else if (commit(h, id, &refusal) < 0)
        answer_refusal(in, &refusal);
    else
        answer_state(h, in);
}

void
https_serve_apply(struct https *h, struct bus_incoming *in)
{
    const struct bus_request *request = bus_incoming_request(in);
    CLEANUP(json_freep) struct cJSON *tree = NULL;
    struct json_error error;
    if (json_parse(request->body.p, request->body.len, &tree, &error) < 0) {
        bus_answer_status(in, 400);
        return;
    }
    const char *step = json_text(json_get(tree, "step"));
    if (step != NULL && str_eq(step, "show")) {
        abandon(h);
        answer_state(h, in);
    } else if (step != NULL && str_eq(step, "prepare")) {
        serve_prepare(h, in, tree);
    } else if (step != NULL && str_eq(step, "commit")) {
        serve_commit(h, in, tree);
    } else {
        bus_answer_status(in, 400);
    }
}
