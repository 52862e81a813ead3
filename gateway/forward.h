/*
 * A request on its way to the daemon that owns the operation, and the answer
 * on its way back.
 */
#ifndef FIELDGATE_GATEWAY_FORWARD_H
#define FIELDGATE_GATEWAY_FORWARD_H

#include <stdbool.h>

#include "gateway/auth.h"
#include "gateway/route.h"
#include "libcommon/bus.h"

struct http_call;

struct forward {
    const struct route_match *match;
    struct auth_grant *grant; /* who asks, may be nobody; as of the last check */
    unsigned n_query;
    const struct bus_str *query_name, *query_value;
};

/* Reads the body, asks, answers the client, whatever happens. */
void forward_run(struct http_call *call, const struct forward *f);

/*
 * Asks once more with the same request (no body), with a new deadline. 0 with
 * the answer, or bus_ask's error.
 */
int forward_ask(struct http_call *call, const struct forward *f, struct bus_request *request,
                struct bus_answer *ret_answer);

/*
 * While an answer takes its time: whether its caller is still signed in and
 * may still ask (not known now: yes). 'request' then has the rights they have
 * now. Blocks while authd is asked.
 */
bool forward_may_go_on(struct http_call *call, const struct forward *f,
                       struct bus_request *request);

/* The daemon of the operation: its peer and its name. */
struct bus_peer *forward_peer(const struct http_call *call, const struct forward *f);
const char *forward_daemon(const struct forward *f);

#endif
