/*
 * The table and the queue of refusals. See refusal_table.h.
 */
#include "gateway/refusal_table.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

enum {
    SLOTS = 2 * REFUSALS_MAX,    /* a power of two; half of them stay free */
    QUEUE_MAX = REFUSALS_MAX + 1 /* one place is for the rest */
};

struct refusal_table {
    pthread_mutex_t lock;
    struct refusal slots[SLOTS]; /* of this minute; path NULL: free */
    unsigned n_slots;
    struct refusal rest; /* what found no place; n_more counts */
    struct refusal queue[QUEUE_MAX];
    size_t first, n_queue;
    uint64_t credit_us; /* what is left of the bound; a record costs RECORD_US */
};

#define RECORD_US ((uint64_t)REFUSAL_MINUTE_US / REFUSALS_A_MINUTE)
#define CREDIT_MAX_US (REFUSALS_MAX * RECORD_US)

int
refusal_table_new(struct refusal_table **ret_table)
{
    struct refusal_table *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return -ENOMEM;
    pthread_mutex_init(&t->lock, NULL);
    t->credit_us = CREDIT_MAX_US;
    *ret_table = t;
    return 0;
}

void
refusal_table_free(struct refusal_table *t)
{
    if (t == NULL)
        return;
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static uint32_t
hash_text(uint32_t h, const char *text)
{
    for (; *text != '\0'; text++)
        h = (h ^ (uint8_t)*text) * 16777619u; /* FNV-1a */
    return (h ^ 0xff) * 16777619u;
}

static uint32_t
hash_kind(const struct refusal *r)
{
    uint32_t h = hash_text(2166136261u, r->method);
    h = hash_text(h, r->path);
    h = hash_text(h, r->source);
    h = hash_text(h, r->addr);
    return hash_text(h, r->reason);
}

static bool
is_same_kind(const struct refusal *a, const struct refusal *b)
{
    return str_eq(a->path, b->path) && str_eq(a->method, b->method) &&
           str_eq(a->addr, b->addr) && str_eq(a->source, b->source) &&
           str_eq(a->reason, b->reason);
}

/* Its slot, or the free one where it belongs. */
static struct refusal *
find(struct refusal_table *t, const struct refusal *what, uint32_t hash)
{
    size_t i = hash % SLOTS;
    while (t->slots[i].path != NULL && !is_same_kind(&t->slots[i], what))
        i = (i + 1) % SLOTS;
    return &t->slots[i];
}

/* A record within the bound? Then it is paid for. */
static bool
take_credit(struct refusal_table *t)
{
    if (t->credit_us < RECORD_US || t->n_queue >= REFUSALS_MAX)
        return false;
    t->credit_us -= RECORD_US;
    return true;
}

static void
push(struct refusal_table *t, const struct refusal *what, uint32_t n_more)
{
    struct refusal *r = &t->queue[(t->first + t->n_queue++) % QUEUE_MAX];
    *r = *what;
    r->n_more = n_more;
}

static void
count(struct refusal *counted, const struct refusal *what, uint32_t n)
{
    counted->n_more += n;
    counted->request_id = what->request_id;
    counted->at_us = what->at_us;
}

static bool
note(struct refusal_table *t, const struct refusal *what, uint32_t hash)
{
    struct refusal *slot = find(t, what, hash);
    if (slot->path != NULL) {
        count(slot, what, 1);
        return false; /* the minute runs since its first */
    }
    if (t->n_slots >= REFUSALS_MAX || !take_credit(t)) {
        count(&t->rest, what, 1);
        return t->rest.n_more == 1;
    }
    *slot = *what;
    slot->n_more = 0;
    t->n_slots++;
    push(t, what, 0);
    return true;
}

bool
refusal_table_note(struct refusal_table *t, const struct refusal *what)
{
    uint32_t hash = hash_kind(what);
    pthread_mutex_lock(&t->lock);
    bool is_new = note(t, what, hash);
    pthread_mutex_unlock(&t->lock);
    return is_new;
}

static void
tell_repeats(struct refusal_table *t)
{
    for (size_t i = 0; i < SLOTS && t->n_slots > 0; i++) {
        struct refusal *slot = &t->slots[i];
        if (slot->path == NULL)
            continue;
        if (slot->n_more > 0 && take_credit(t))
            push(t, slot, slot->n_more);
        else if (slot->n_more > 0)
            count(&t->rest, slot, slot->n_more);
        slot->path = NULL;
        t->n_slots--;
    }
}

bool
refusal_table_turn(struct refusal_table *t, uint64_t elapsed_us)
{
    pthread_mutex_lock(&t->lock);
    t->credit_us += elapsed_us < CREDIT_MAX_US ? elapsed_us : CREDIT_MAX_US;
    if (t->credit_us > CREDIT_MAX_US)
        t->credit_us = CREDIT_MAX_US;
    tell_repeats(t);
    if (t->rest.n_more > 0 && t->n_queue < QUEUE_MAX) {
        push(t, &t->rest, t->rest.n_more);
        t->rest.n_more = 0;
    }
    bool is_left = t->rest.n_more > 0;
    pthread_mutex_unlock(&t->lock);
    return is_left;
}

size_t
refusal_table_peek(struct refusal_table *t, struct refusal *out, size_t max)
{
    pthread_mutex_lock(&t->lock);
    size_t n = t->n_queue < max ? t->n_queue : max;
    for (size_t i = 0; i < n; i++)
        out[i] = t->queue[(t->first + i) % QUEUE_MAX];
    pthread_mutex_unlock(&t->lock);
    return n;
}

void
refusal_table_drop(struct refusal_table *t, size_t n)
{
    pthread_mutex_lock(&t->lock);
    MUST(n <= t->n_queue);
    t->first = (t->first + n) % QUEUE_MAX;
    t->n_queue -= n;
    pthread_mutex_unlock(&t->lock);
}
