/*
 * Memory with one life: chunks that are freed together. A call, a decoded
 * record, a configuration tree each have one.
 */
#include "libcommon/api.h"

#include <string.h>

#include "libcommon/api_private.h"

#include "libcommon/banned.h"

enum { CHUNK_FIRST = 8192, CHUNK_MAX = 1 << 20 };

struct chunk {
    struct chunk *next;
    size_t size, used;
    max_align_t bytes[];
};

struct api_arena {
    struct chunk *chunks; /* newest first */
    size_t total, max;
};

struct api_arena *
api_arena_new(size_t max)
{
    struct api_arena *a = calloc(1, sizeof(*a));
    if (a)
        a->max = max;
    return a;
}

void
api_arena_free(struct api_arena *a)
{
    if (!a)
        return;
    while (a->chunks) {
        struct chunk *next = a->chunks->next;
        free(a->chunks);
        a->chunks = next;
    }
    free(a);
}

void
api_arena_freep(struct api_arena **a)
{
    api_arena_free(*a);
}

void
api_arena_reset(struct api_arena *a)
{
    /* The oldest chunk stays: it is what most calls need. */
    while (a->chunks && a->chunks->next) {
        struct chunk *next = a->chunks->next;
        free(a->chunks);
        a->chunks = next;
    }
    if (a->chunks) {
        if (a->chunks->size > CHUNK_FIRST) {
            free(a->chunks);
            a->chunks = NULL;
        } else {
            a->chunks->used = 0;
        }
    }
    a->total = a->chunks ? a->chunks->size : 0;
}

void *
api_arena_alloc(struct api_arena *a, size_t size)
{
    size_t align = sizeof(max_align_t);
    if (size > a->max)
        return NULL;
    size = (size + align - 1) / align * align;
    struct chunk *c = a->chunks;
    if (!c || c->size - c->used < size) {
        size_t want = c ? c->size * 2 : CHUNK_FIRST;
        if (want > CHUNK_MAX)
            want = CHUNK_MAX;
        if (want < size)
            want = size;
        if (a->total + want > a->max)
            want = size;
        if (a->total + want > a->max)
            return NULL;
        c = malloc(sizeof(*c) + want);
        if (!c)
            return NULL;
        *c = (struct chunk){ .next = a->chunks, .size = want };
        a->chunks = c;
        a->total += want;
    }
    char *p = (char *)c->bytes + c->used;
    c->used += size;
    memset(p, 0, size);
    return p;
}

char *
api_arena_strdup(struct api_arena *a, const char *text)
{
    size_t n = strlen(text) + 1;
    char *copy = api_arena_alloc(a, n);
    if (copy)
        memcpy(copy, text, n);
    return copy;
}
