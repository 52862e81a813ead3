/*
 * The memory of tokens: 16 shards, each with its own lock, a short hash table
 * and 256 entries. See auth_cache.h.
 */
#include "gateway/auth_cache.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"

#include "libcommon/banned.h"

enum {
    N_BUCKETS = 512,
    NONE = 0xffff,
    REFUSALS_PER_SHARD = AUTH_CACHE_REFUSALS / AUTH_CACHE_SHARDS
};

struct entry {
    uint8_t digest[AUTH_DIGEST_SIZE];
    struct auth_grant grant;
    uint64_t checked_us, claimed_us, used_us, touched_us;
    uint16_t next; /* in its bucket, or NONE */
    bool used;
};

struct refusal {
    uint8_t digest[AUTH_DIGEST_SIZE];
    uint64_t until_us;
};

struct shard {
    pthread_mutex_t lock;
    uint64_t hits, misses;
    unsigned n_slots; /* slots used so far: the rest was never touched */
    unsigned n_used;
    uint16_t bucket[N_BUCKETS];
    struct entry entries[AUTH_CACHE_PER_SHARD];
    struct refusal refusals[REFUSALS_PER_SHARD];
};

struct auth_cache {
    _Atomic uint64_t epoch; /* of the last change we were told of */
    _Atomic uint64_t mark;  /* counts forget_all: after it epochs may begin anew */
    _Atomic bool told;
    struct shard shards[AUTH_CACHE_SHARDS];
};

int
auth_cache_new(struct auth_cache **ret_cache)
{
    struct auth_cache *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return -ENOMEM;
    for (unsigned i = 0; i < AUTH_CACHE_SHARDS; i++) {
        pthread_mutex_init(&c->shards[i].lock, NULL);
        memset(c->shards[i].bucket, 0xff, sizeof(c->shards[i].bucket));
    }
    *ret_cache = c;
    return 0;
}

void
auth_cache_free(struct auth_cache *c)
{
    if (c == NULL)
        return;
    for (unsigned i = 0; i < AUTH_CACHE_SHARDS; i++)
        pthread_mutex_destroy(&c->shards[i].lock);
    explicit_bzero(c, sizeof(*c));
    free(c);
}

static struct shard *
shard_of(struct auth_cache *c, const uint8_t *digest)
{
    return &c->shards[digest[0] % AUTH_CACHE_SHARDS];
}

static uint16_t *
bucket_of(struct shard *s, const uint8_t *digest)
{
    return &s->bucket[(digest[1] << 8 | digest[2]) % N_BUCKETS];
}

static struct entry *
find(struct shard *s, const uint8_t *digest)
{
    for (uint16_t i = *bucket_of(s, digest); i != NONE; i = s->entries[i].next)
        if (memcmp(s->entries[i].digest, digest, AUTH_DIGEST_SIZE) == 0)
            return &s->entries[i];
    return NULL;
}

static void
drop(struct shard *s, struct entry *e)
{
    uint16_t index = (uint16_t)(e - s->entries);
    uint16_t *at = bucket_of(s, e->digest);
    while (*at != index)
        at = &s->entries[*at].next;
    *at = e->next;
    explicit_bzero(e, sizeof(*e));
    s->n_used--;
}

/* A free entry; the one unused for longest when there is none. */
static struct entry *
take_slot(struct shard *s)
{
    struct entry *oldest = NULL;
    for (unsigned i = 0; i < s->n_slots; i++) {
        struct entry *e = &s->entries[i];
        if (!e->used)
            return e;
        if (oldest == NULL || e->used_us < oldest->used_us)
            oldest = e;
    }
    if (s->n_slots < AUTH_CACHE_PER_SHARD)
        return &s->entries[s->n_slots++];
    drop(s, oldest);
    return oldest;
}

static struct refusal *
refusal_of(struct shard *s, const uint8_t *digest)
{
    return &s->refusals[digest[3] % REFUSALS_PER_SHARD];
}

enum auth_cache_outcome
auth_cache_get(struct auth_cache *c, const uint8_t *digest, uint64_t now_us,
               uint64_t recheck_us, struct auth_grant *ret_grant)
{
    struct shard *s = shard_of(c, digest);
    enum auth_cache_outcome outcome = AUTH_CACHE_UNKNOWN;
    pthread_mutex_lock(&s->lock);
    struct entry *e = find(s, digest);
    if (e != NULL && e->grant.valid_until_us <= now_us) {
        drop(s, e);
        e = NULL;
    }
    if (e != NULL) {
        outcome = AUTH_CACHE_KNOWN;
        if (now_us - e->checked_us >= recheck_us &&
            (e->claimed_us == 0 || now_us - e->claimed_us >= AUTH_CACHE_CLAIM_US)) {
            e->claimed_us = now_us;
            outcome = AUTH_CACHE_STALE;
        }
        e->used_us = now_us;
        *ret_grant = e->grant;
        s->hits++;
    } else {
        const struct refusal *no = refusal_of(s, digest);
        if (no->until_us > now_us && memcmp(no->digest, digest, AUTH_DIGEST_SIZE) == 0)
            outcome = AUTH_CACHE_REFUSED;
        s->misses++;
    }
    pthread_mutex_unlock(&s->lock);
    return outcome;
}

uint64_t
auth_cache_mark(struct auth_cache *c)
{
    return atomic_load(&c->mark);
}

/* With the shard's lock held: the sweep of a later forget then comes after us. */
static bool
is_outdated(struct auth_cache *c, uint64_t epoch, uint64_t mark)
{
    return atomic_load(&c->mark) != mark || epoch < atomic_load(&c->epoch);
}

bool
auth_cache_put(struct auth_cache *c, const uint8_t *digest, const struct auth_grant *grant,
               uint64_t epoch, uint64_t mark, uint64_t now_us)
{
    struct shard *s = shard_of(c, digest);
    pthread_mutex_lock(&s->lock);
    bool ok = !is_outdated(c, epoch, mark);
    if (ok) {
        struct entry *e = find(s, digest);
        if (e == NULL) {
            e = take_slot(s);
            memcpy(e->digest, digest, AUTH_DIGEST_SIZE);
            uint16_t *bucket = bucket_of(s, digest);
            e->next = *bucket;
            *bucket = (uint16_t)(e - s->entries);
            e->used = true;
            e->touched_us = 0;
            s->n_used++;
        }
        e->grant = *grant;
        e->checked_us = now_us;
        e->claimed_us = 0;
        e->used_us = now_us;
        refusal_of(s, digest)->until_us = 0;
    }
    pthread_mutex_unlock(&s->lock);
    return ok;
}

bool
auth_cache_refuse(struct auth_cache *c, const uint8_t *digest, uint64_t epoch, uint64_t mark,
                  uint64_t now_us)
{
    struct shard *s = shard_of(c, digest);
    pthread_mutex_lock(&s->lock);
    bool ok = !is_outdated(c, epoch, mark);
    if (ok) {
        struct entry *e = find(s, digest);
        if (e != NULL)
            drop(s, e);
        struct refusal *no = refusal_of(s, digest);
        memcpy(no->digest, digest, AUTH_DIGEST_SIZE);
        no->until_us = now_us + AUTH_CACHE_REFUSAL_US;
    }
    pthread_mutex_unlock(&s->lock);
    return ok;
}

/* 'user' and 'session' 0: all. Refusals go too: a right may have been given. */
static void
sweep(struct auth_cache *c, int64_t user, int64_t session)
{
    for (unsigned n = 0; n < AUTH_CACHE_SHARDS; n++) {
        struct shard *s = &c->shards[n];
        pthread_mutex_lock(&s->lock);
        for (unsigned i = 0; i < s->n_slots; i++) {
            struct entry *e = &s->entries[i];
            if (e->used && (user == 0 || e->grant.who.user_id == user) &&
                (session == 0 || e->grant.who.session_id == session))
                drop(s, e);
        }
        for (unsigned i = 0; i < REFUSALS_PER_SHARD; i++)
            if (s->refusals[i].until_us != 0)
                s->refusals[i].until_us = 0;
        pthread_mutex_unlock(&s->lock);
    }
    atomic_store(&c->told, true);
}

static void
raise_epoch(struct auth_cache *c, uint64_t epoch)
{
    uint64_t now = atomic_load(&c->epoch);
    while (now < epoch && !atomic_compare_exchange_weak(&c->epoch, &now, epoch))
        ;
}

void
auth_cache_forget_all(struct auth_cache *c, uint64_t epoch)
{
    atomic_store(&c->epoch, epoch);
    atomic_fetch_add(&c->mark, 1);
    sweep(c, 0, 0);
}

void
auth_cache_forget_user(struct auth_cache *c, uint64_t epoch, int64_t user_id)
{
    raise_epoch(c, epoch);
    sweep(c, user_id, 0);
}

void
auth_cache_forget_session(struct auth_cache *c, uint64_t epoch, int64_t session_id)
{
    raise_epoch(c, epoch);
    sweep(c, 0, session_id);
}

bool
auth_cache_was_told(const struct auth_cache *c)
{
    return atomic_load_explicit(&c->told, memory_order_relaxed);
}

size_t
auth_cache_touched(struct auth_cache *c, struct auth_touch *out, size_t max)
{
    size_t n_out = 0;
    for (unsigned n = 0; n < AUTH_CACHE_SHARDS; n++) {
        struct shard *s = &c->shards[n];
        pthread_mutex_lock(&s->lock);
        for (unsigned i = 0; i < s->n_slots && n_out < max; i++) {
            struct entry *e = &s->entries[i];
            if (!e->used || e->grant.who.session_id == 0 || e->used_us <= e->touched_us)
                continue;
            e->touched_us = e->used_us;
            out[n_out++] = (struct auth_touch){ .session_id = e->grant.who.session_id,
                                                .used_us = e->used_us };
        }
        pthread_mutex_unlock(&s->lock);
    }
    return n_out;
}

void
auth_cache_get_stats(struct auth_cache *c, struct auth_cache_stats *ret_stats)
{
    *ret_stats = (struct auth_cache_stats){ 0 };
    for (unsigned n = 0; n < AUTH_CACHE_SHARDS; n++) {
        struct shard *s = &c->shards[n];
        pthread_mutex_lock(&s->lock);
        ret_stats->hits += s->hits;
        ret_stats->misses += s->misses;
        ret_stats->size += s->n_used;
        pthread_mutex_unlock(&s->lock);
    }
}
