/*
 * The way of a request through the gateway.
 */
#ifndef FIELDGATE_GATEWAY_FRONT_H
#define FIELDGATE_GATEWAY_FRONT_H

#include <stdbool.h>
#include <stdint.h>

struct auth_grant;
struct http_call;

/* The one handler behind it all. Answers, whatever happens. */
void front_handle(struct http_call *call);

/* True when the caller may do what needs 'permission' (of a route); else it is answered. */
bool front_sign_in_check(struct http_call *call, uint8_t permission,
                         struct auth_grant *ret_grant);

#endif
