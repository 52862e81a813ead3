/*
 * The way of a request through the gateway.
 */
#ifndef FIELDGATE_GATEWAY_FRONT_H
#define FIELDGATE_GATEWAY_FRONT_H

#include <stdbool.h>

struct auth_grant;
struct http_call;
struct route;

/* The one handler behind it all. Answers, whatever happens. */
void front_handle(struct http_call *call);

/*
 * True when the caller may do what 'route' is for, and *grant tells who that
 * is; else it is answered, and noted for the audit log when it was refused.
 */
bool front_sign_in_check(struct http_call *call, const struct route *route,
                         struct auth_grant *grant);

#endif
