/*
 * Cross-origin requests: pages of which other origins may call the API from a
 * browser (Fetch standard, CORS protocol). Nobody, unless the operator names
 * an origin. Credentials of a browser (cookies) do not exist here: a caller
 * sends his token himself.
 */
#ifndef FIELDGATE_GATEWAY_CORS_H
#define FIELDGATE_GATEWAY_CORS_H

enum { CORS_ORIGINS_MAX = 8, CORS_ORIGIN_SIZE = 128 };

/* Filled from the options, read by all workers afterwards. */
struct cors {
    char origins[CORS_ORIGINS_MAX][CORS_ORIGIN_SIZE];
    unsigned n;
};

/*
 * Allows one more: "https://host" or "https://host:port" (or http), in lower
 * case, as browsers send it (RFC 6454, 6.2). 0; -EINVAL for anything else,
 * "*" and "null" included; -ENOSPC.
 */
int cors_allow(struct cors *c, const char *origin);

/* The allowed origin that a header's value names, or NULL. Lives as long as 'c'. */
const char *cors_find(const struct cors *c, const char *value);

/* What an answer to such an origin tells the browser; each line ends with CR LF. */
#define CORS_ANSWER                                                                            \
    "Access-Control-Expose-Headers: X-Request-Id, X-Fieldgate-Profile, Retry-After\r\n"
/* … and the answer to its question before (preflight), besides the methods. */
#define CORS_PREFLIGHT                                                                         \
    "Access-Control-Allow-Headers: authorization, content-type, mx-api-token, mx-api-ts\r\n"   \
    "Access-Control-Max-Age: 600\r\n"

#endif
