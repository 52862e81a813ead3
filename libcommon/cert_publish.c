#include "libcommon/cert_publish.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/buf.h"
#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/loop.h"
#include "libcommon/str.h"
#include "libcommon/svc.h"
#include "proto/internal.h"

#include "libcommon/banned.h"

enum { ANSWER_US = 5000000, AGAIN_US = 5000000, BODY_MAX = 2 << 20 };

struct cert_publish {
    struct svc *svc;
    const char *source;
    cert_publish_fill_fn *fill;
    void *arg;
    struct bus_peer *authd;
    struct loop_timer again;
    bool is_under_way;
    bool is_stale; /* there was a change since it was told */
};

static void
try_again(struct cert_publish *p)
{
    if (loop_timer_set(p->svc->loop, &p->again, loop_now_us(p->svc->loop) + AGAIN_US) < 0)
        log_warn("svc: out of memory for a timer"); /* the next connection tells it */
}

static void
told(void *arg, int error, const struct bus_reply *reply)
{
    struct cert_publish *p = arg;
    p->is_under_way = false;
    if (p->is_stale)
        cert_publish_changed(p);
    else if (error == -EHOSTUNREACH)
        return; /* the next connection tells it */
    else if (error < 0 || reply->status >= 500)
        try_again(p);
    else if (reply->status != 200)
        log_warn("svc: authd does not list the certificates source=%s status=%u", p->source,
                 reply->status);
}

static int
tell(struct cert_publish *p)
{
    struct buf body;
    buf_init(&body, BODY_MAX);
    jw_open(&body, '{');
    jw_kstr(&body, "sourceName", p->source);
    jw_name(&body, "certificates");
    jw_open(&body, '[');
    int r = p->fill(&body, p->arg);
    jw_close(&body, ']');
    jw_close(&body, '}');
    struct bus_request request = {
        .kind = BUS_KIND_INTERNAL,
        .op = INTERNAL_CERT_PUBLISH,
        .deadline_us = clock_mono_us() + ANSWER_US,
        .who = { .kind = BUS_WHO_DAEMON },
        .body_kind = BUS_BODY_JSON,
        .body = { body.data, (uint32_t)body.len },
    };
    if (r == 0)
        r = body.err;
    if (r == 0)
        r = str_copy(request.who.name, sizeof(request.who.name), p->svc->info->name);
    if (r == 0)
        r = bus_call(p->authd, &request, told, p);
    buf_done(&body);
    return r;
}

void
cert_publish_changed(struct cert_publish *p)
{
    p->is_stale = p->is_under_way;
    if (p->is_under_way || !bus_peer_is_up(p->authd))
        return; /* told when the answer, or authd, is there */
    int r = tell(p);
    p->is_under_way = r == 0;
    if (r == 0)
        return;
    log_warn("svc: cannot tell authd the certificates source=%s error=%s", p->source,
             strerror(-r));
    try_again(p);
}

static void
time_is_up(void *arg)
{
    cert_publish_changed(arg);
}

static void
authd_changed(void *arg, bool up)
{
    if (up)
        cert_publish_changed(arg);
}

int
cert_publish_new(struct svc *svc, const char *source, cert_publish_fill_fn *fill, void *arg,
                 struct cert_publish **ret_publish)
{
    struct cert_publish *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return -ENOMEM;
    *p = (struct cert_publish){ .svc = svc, .source = source, .fill = fill, .arg = arg };
    loop_timer_init(&p->again, time_is_up, p);
    int r = bus_peer(svc->bus, "authd", &p->authd);
    if (r == 0)
        r = bus_peer_watch(p->authd, authd_changed, p);
    if (r < 0) {
        free(p);
        return r;
    }
    *ret_publish = p;
    return 0;
}

void
cert_publish_add(struct buf *list, const char *name, const char *pem, size_t n)
{
    jw_open(list, '{');
    jw_kstr(list, "name", name);
    jw_name(list, "pem");
    jw_strn(list, pem, n);
    jw_close(list, '}');
}
