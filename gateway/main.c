/*
 * The gateway: HTTPS and local HTTP outside, the bus inside. It knows
 * sessions, routes, permissions, sizes, streams and files, and no operation
 * by name. Civetweb's workers run the requests (front.c); the loop keeps
 * time, reloads the certificate and takes what authd has to say.
 */
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/auth.h"
#include "gateway/conns.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/https.h"
#include "gateway/metrics.h"
#include "gateway/refusals.h"
#include "gateway/route.h"
#include "gateway/tls.h"
#include "gateway/upload.h"
#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "libcommon/svc.h"
#include "proto/internal.h"

#include "libcommon/banned.h"

enum { CHECK_US = 1000000, SWEEP_US = 600 * CHECK_US };
enum { REDIRECT_PORT = 80, PORT_BY_PROFILE = 65536 };

static int
set_https_port(void *self, const char *value)
{
    struct gateway *g = self;
    return parse_u32(value, 1, 65535, &g->https_port);
}

static int
set_http_port(void *self, const char *value)
{
    struct gateway *g = self;
    return parse_u32(value, 0, 65535, &g->http_port);
}

static int
set_redirect_port(void *self, const char *value)
{
    struct gateway *g = self;
    return parse_u32(value, 0, 65535, &g->redirect_port);
}

static int
set_per_address(void *self, const char *value)
{
    struct gateway *g = self;
    return parse_u32(value, 0, CONNS_MAX, &g->per_address);
}

static int
set_cors_origin(void *self, const char *value)
{
    struct gateway *g = self;
    return cors_allow(&g->cors, value);
}

static void
check(void *arg)
{
    static uint64_t swept_us;
    struct gateway *g = arg;
    uint64_t now_us = clock_mono_us();
    bool pressed = conns_check(g->conns, now_us);
    if (swept_us == 0 || now_us - swept_us >= SWEEP_US) {
        swept_us = now_us;
        upload_sweep(g->svc);
    }
    (void)loop_timer_set(g->svc->loop, &g->check_timer,
                         now_us + (pressed ? CONNS_IDLE_LEAST_US + 1000 : CHECK_US));
}

static void
check_now(void *arg)
{
    struct gateway *g = arg;
    atomic_store(&g->pressure_posted, false);
    check(g);
}

/* The timer's 'check' may have ended the last pressure while its post is still on the way. */
static void
on_pressure(void *arg)
{
    struct gateway *g = arg;
    if (!atomic_exchange(&g->pressure_posted, true))
        loop_post(g->svc->loop, &g->pressure, check_now, g);
}

static int
gateway_open(void *self, struct svc *svc)
{
    struct gateway *g = self;
    const struct conns_limits limits = {
        .workers = { HTTP_WORKERS_SECURE, HTTP_WORKERS_PLAIN },
        .per_address = g->per_address,
        .plain_port = (uint16_t)g->http_port,
        .on_pressure = on_pressure,
        .arg = g,
    };
    g->svc = svc;
    if (g->redirect_port == PORT_BY_PROFILE)
        g->redirect_port = svc->profile == SVC_PROFILE_DEVICE ? REDIRECT_PORT : 0;
    if (sodium_init() < 0)
        return -EIO;
    uint64_t first_id;
    randombytes_buf(&first_id, sizeof(first_id));
    atomic_store(&g->next_request_id, first_id);
    int r = conns_new(&limits, &g->conns);
    if (r == 0)
        r = route_tree_new(routes, n_routes, &g->routes);
    if (r == 0)
        r = auth_new(svc, &g->auth);
    if (r == 0)
        r = refusals_new(svc, &g->refusals);
    g->peers = calloc(n_route_daemons + 1, sizeof(struct bus_peer *));
    if (r == 0 && g->peers == NULL)
        r = -ENOMEM;
    for (size_t i = 0; i < n_route_daemons && r == 0; i++)
        r = bus_peer(svc->bus, route_daemons[i], &g->peers[i]);
    if (r == 0)
        r = tls_new(svc->state_dir, &g->tls);
    return r;
}

/* The daemons that are there are connected before the first client is: else it is told 503. */
static void
wait_for_peers(const struct gateway *g)
{
    const struct timespec pause = { .tv_nsec = 1000000 };
    uint64_t until_us = clock_mono_us() + GATEWAY_PEERS_MS * 1000ull;
    size_t i = 0;
    while (i < n_route_daemons && clock_mono_us() < until_us) {
        if (bus_peer_is_up(g->peers[i]))
            i++;
        else
            (void)nanosleep(&pause, NULL); /* shorter is fine */
    }
}

static int
gateway_start(void *self, struct svc *svc)
{
    struct gateway *g = self;
    gateway_metrics_register(g);
    loop_timer_init(&g->check_timer, check, g);
    int r = loop_timer_set(svc->loop, &g->check_timer, clock_mono_us());
    if (r == 0)
        r = auth_start(g->auth);
    if (r == 0)
        r = tls_watch(g->tls, svc->loop);
    if (r == 0)
        r = tls_publish(g->tls, svc);
    if (r == 0) {
        wait_for_peers(g);
        r = http_start(g);
    }
    if (r == 0)
        r = https_start(g, &g->https);
    if (r == 0)
        r = http_start_local(g);
    if (r == 0)
        log_info("gateway: listening https=%u http=127.0.0.1:%u", https_port(g->https),
                 g->http_port);
    return r;
}

static int
gateway_reload(void *self, struct svc *svc)
{
    struct gateway *g = self;
    (void)svc;
    return tls_reload(g->tls);
}

/*
 * New connections are refused, idle ones end; what runs may finish. The
 * library's threads are left to the end of the process: stopping them takes
 * it up to two seconds.
 */
static void
gateway_stop(void *self, struct svc *svc)
{
    struct gateway *g = self;
    (void)svc;
    atomic_store(&g->stopping, true);
    if (g->conns == NULL)
        return;
    uint64_t until_us = clock_mono_us() + GATEWAY_STOP_MS * 1000ull;
    do {
        conns_stop(g->conns, clock_mono_us());
        if (loop_round(g->svc->loop, 20000) < 0)
            break;
    } while (atomic_load(&g->n_running) > 0 && clock_mono_us() < until_us);
    refusals_stop(g->refusals);
}

static void
serve_http_apply(void *self, struct bus_incoming *in)
{
    struct gateway *g = self;
    https_serve_apply(g->https, in);
}

static void
serve_auth_forget(void *self, struct bus_incoming *in)
{
    struct gateway *g = self;
    auth_serve_forget(g->auth, in);
}

int
main(int argc, char **argv)
{
    static const struct svc_internal internals[] = {
        { INTERNAL_AUTH_FORGET, serve_auth_forget },
        { INTERNAL_HTTP_APPLY, serve_http_apply },
        { INTERNAL_SECURITY_FACTS, gateway_security_facts },
        { 0, NULL },
    };
    static const struct svc_option options[] = {
        { "https-port", "HTTPS on all addresses, unless configured otherwise (default 8443)",
          set_https_port },
        { "http-port", "HTTP on 127.0.0.1; 0: off (default 59000)", set_http_port },
        { "redirect-port", "HTTP that leads to HTTPS; 0: off (default 80, on the bench 0)",
          set_redirect_port },
        { "connections-per-address", "HTTPS connections; 0: no limit (default 64)",
          set_per_address },
        { "cors-origin", "https://host[:port] whose pages may call the API; may be repeated",
          set_cors_origin },
        { NULL, NULL, NULL },
    };
    static const struct svc_info info = {
        .name = "gateway",
        .internals = internals,
        .options = options,
        .open = gateway_open,
        .start = gateway_start,
        .reload = gateway_reload,
        .stop = gateway_stop,
    };
    static struct gateway gateway = { .https_port = 8443,
                                      .http_port = 59000,
                                      .redirect_port = PORT_BY_PROFILE,
                                      .per_address = 64 };
    return svc_main(&info, &gateway, argc, argv);
}
