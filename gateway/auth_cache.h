/*
 * What the gateway remembers of tokens: digest -> who that is. Knows neither
 * the HTTP server nor the bus, and never sees a token.
 *
 * authd numbers every change of rights (epoch) and tells the gateway before
 * it answers (AUTH_FORGET). An answer to AUTH_CHECK that was under way then
 * is older than the change and must not be kept: auth_cache_put refuses it.
 *
 * All functions may be called from any thread.
 */
#ifndef FIELDGATE_GATEWAY_AUTH_CACHE_H
#define FIELDGATE_GATEWAY_AUTH_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/bus.h"

enum {
    AUTH_DIGEST_SIZE = 32,
    AUTH_CACHE_SHARDS = 16,
    AUTH_CACHE_PER_SHARD = 256, /* 4096 tokens; the one unused for longest goes */
    AUTH_CACHE_REFUSALS = 1024,
    AUTH_CACHE_REFUSAL_US = 1000000,
};

struct auth_grant {
    struct bus_principal who; /* addr is empty */
    bool must_change;         /* only operations with x-permission self are allowed */
    bool is_derived;          /* none with x-permission session is */
    uint64_t valid_until_us;  /* monotonic */
};

struct auth_cache;
int auth_cache_new(struct auth_cache **ret_cache); /* 0 or -ENOMEM */
void auth_cache_free(struct auth_cache *c);        /* NULL does nothing */

/*
 * STALE: known, but last checked longer than 'recheck_us' ago; this caller
 * is asked to check again, others get KNOWN for the next AUTH_CACHE_CLAIM_US.
 * *ret_grant is filled for KNOWN and STALE.
 */
enum auth_cache_outcome {
    AUTH_CACHE_UNKNOWN,
    AUTH_CACHE_KNOWN,
    AUTH_CACHE_STALE,
    AUTH_CACHE_REFUSED,
};
enum { AUTH_CACHE_CLAIM_US = 5000000 };
enum auth_cache_outcome auth_cache_get(struct auth_cache *c, const uint8_t *digest,
                                       uint64_t now_us, uint64_t recheck_us,
                                       struct auth_grant *ret_grant);

/* Take before asking authd, hand to put and refuse with the answer. */
uint64_t auth_cache_mark(struct auth_cache *c);
/* False: rights changed meanwhile; ask again. */
bool auth_cache_put(struct auth_cache *c, const uint8_t *digest, const struct auth_grant *grant,
                    uint64_t epoch, uint64_t mark, uint64_t now_us);
/* The token is no good: dropped, and refused for a second. False as above. */
bool auth_cache_refuse(struct auth_cache *c, const uint8_t *digest, uint64_t epoch,
                       uint64_t mark, uint64_t now_us);

/* AUTH_FORGET. When these return, no older grant is in the cache or will come. */
void auth_cache_forget_all(struct auth_cache *c, uint64_t epoch);
void auth_cache_forget_user(struct auth_cache *c, uint64_t epoch, int64_t user_id);
void auth_cache_forget_session(struct auth_cache *c, uint64_t epoch, int64_t session_id);
/* Has any of them been called yet? */
bool auth_cache_was_told(const struct auth_cache *c);

/* Sessions used since they were last listed here; at most 'max', the rest next time. */
struct auth_touch {
    int64_t session_id;
    uint64_t used_us; /* monotonic */
};
size_t auth_cache_touched(struct auth_cache *c, struct auth_touch *out, size_t max);

struct auth_cache_stats {
    uint64_t hits, misses;
    unsigned size;
};
void auth_cache_get_stats(struct auth_cache *c, struct auth_cache_stats *ret_stats);

#endif
