/*
 * What the gateway's parts share: made in main.c before the listeners open,
 * read by all workers afterwards.
 */
#ifndef FIELDGATE_GATEWAY_GATEWAY_H
#define FIELDGATE_GATEWAY_GATEWAY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/cors.h"
#include "libcommon/loop.h"

struct auth;
struct bus_peer;
struct conns;
struct http;
struct https;
struct refusals;
struct route_tree;
struct svc;
struct tls;

enum {
    GATEWAY_PEERS_MS = 250, /* at start a daemon that is away is not waited for longer */
    GATEWAY_STOP_MS = 5000, /* running requests may take so long to end */
};

struct gateway {
    struct svc *svc;
    struct conns *conns;
    struct route_tree *routes;
    struct auth *auth;
    struct refusals *refusals;
    struct tls *tls;
    struct http *http;
    struct https *https;
    struct bus_peer **peers; /* by index of route_daemons */
    struct loop_timer check_timer;
    struct loop_post pressure;
    _Atomic bool pressure_posted; /* 'pressure' is on its way to the loop */
    _Atomic bool stopping;
    _Atomic unsigned n_running; /* requests, streams included */
    _Atomic unsigned n_streams;
    _Atomic uint64_t next_request_id;
    /* Of the options; 0: off. HTTPS may have moved since: https.h. */
    uint32_t https_port, http_port, redirect_port;
    uint32_t per_address; /* connections; 0: no limit */
    struct cors cors;
};

static inline bool
gateway_is_stopping(const struct gateway *g)
{
    return atomic_load(&g->stopping);
}

/* facts.c: SECURITY_FACTS (proto/README.md section 4). */
struct bus_incoming;
void gateway_security_facts(void *self, struct bus_incoming *in);

#endif
