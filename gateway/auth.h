/*
 * Who sends this request: the token, looked up in the cache, else checked by
 * authd. Workers call auth_check; the rest runs on the loop.
 */
#ifndef FIELDGATE_GATEWAY_AUTH_H
#define FIELDGATE_GATEWAY_AUTH_H

#include <stddef.h>
#include <stdint.h>

#include "gateway/auth_cache.h"

struct svc;
struct auth;

enum {
    AUTH_TOKEN_MAX = 4096,         /* bytes */
    AUTH_CHECKS_MAX = 8,           /* asked of authd at the same time */
    AUTH_WAITERS_MAX = 128,        /* requests that wait for their turn */
    AUTH_CHECK_TIMEOUT_MS = 2000,  /* of one check, and of waiting for the turn */
    AUTH_RECHECK_TIMEOUT_MS = 100, /* of checking a known token again, which is good meanwhile */
    AUTH_FORGET_WAIT_US = 1000000, /* authd's AUTH_FORGET waits so long for our line to it */
    AUTH_RECHECK_US = 60000000,    /* a known token is checked again after this */
    AUTH_RECHECK_NEW_US = 1000000, /* … as long as authd has not spoken to us yet */
    AUTH_TOUCH_INTERVAL_US = 10000000,
    AUTH_TOUCH_MAX = 512, /* sessions in one report */
};

/* 0 or -errno. Lives as long as the process. */
int auth_new(struct svc *svc, struct auth **ret_auth);
/* Begins to report used sessions to authd. 0 or -errno. */
int auth_start(struct auth *a);

/*
 * AUTH_OK fills *ret_grant (who.addr is 'addr'). AUTH_REFUSED: no such token
 * (any more). AUTH_BUSY: too many unknown tokens are being checked. AUTH_AWAY:
 * authd does not answer, and the token is not known from before. May block
 * for 2 * AUTH_CHECK_TIMEOUT_MS. Any thread but the loop's.
 */
enum auth_outcome { AUTH_OK, AUTH_REFUSED, AUTH_BUSY, AUTH_AWAY };
enum auth_outcome auth_check(struct auth *a, const char *token, size_t token_len,
                             const char *addr, struct auth_grant *ret_grant);

/* NULL when 'grant' holds 'permission' (of a route), else why not: 403. */
const char *auth_refusal(const struct auth_grant *grant, uint8_t permission);

/* AUTH_FORGET of authd: answered, perhaps later, when the cache is clean. Loop thread. */
struct bus_incoming;
void auth_serve_forget(struct auth *a, struct bus_incoming *in);

void auth_get_stats(struct auth *a, struct auth_cache_stats *ret_stats);

#endif
