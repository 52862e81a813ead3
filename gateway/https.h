/*
 * The HTTPS setting - port, redirect, certificate - and its change while
 * requests run. sysd owns what is wanted and asks for it in two steps
 * (HTTP_APPLY, proto/README.md section 4): prepare does all that can fail,
 * commit switches. proto/decisions/https-front-live-change.md
 */
#ifndef FIELDGATE_GATEWAY_HTTPS_H
#define FIELDGATE_GATEWAY_HTTPS_H

#include <stdint.h>

struct bus_incoming;
struct gateway;
struct https;

enum { HTTPS_PREPARED_MS = 5000 }; /* without a commit, what was prepared goes */

/*
 * Puts into force what was so last; when that cannot be bound or loaded, the
 * one before; then the port of the options with the machine's own certificate.
 * After http_start. 0, or -errno when nothing can be served.
 */
int https_start(struct gateway *g, struct https **ret_https);

/* The port of HTTPS. Any thread. */
uint16_t https_port(const struct https *h);
/* The port of plain HTTP that leads there; 0: nothing listens. Loop thread. */
uint16_t https_redirect_port(const struct https *h);

/* Answers HTTP_APPLY. */
void https_serve_apply(struct https *h, struct bus_incoming *in);

#endif
