/*
 * Makes the n-th allocation of the code under test fail. The test is linked
 * with -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc; allocations inside
 * shared libraries are not counted.
 */
#ifndef FIELDGATE_TESTS_FAIL_ALLOC_H
#define FIELDGATE_TESTS_FAIL_ALLOC_H

#include <stdbool.h>
#include <stddef.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t size);

/* Allocations until the one that fails; negative: none does. */
static long fail_alloc_in = -1;
static bool fail_alloc_hit;

static inline bool
fail_alloc_now(void)
{
    if (fail_alloc_in < 0)
        return false;
    if (fail_alloc_in-- > 0)
        return false;
    fail_alloc_hit = true;
    return true;
}

void *
__wrap_malloc(size_t size)
{
    return fail_alloc_now() ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t n, size_t size)
{
    return fail_alloc_now() ? NULL : __real_calloc(n, size);
}

void *
__wrap_realloc(void *old, size_t size)
{
    return fail_alloc_now() ? NULL : __real_realloc(old, size);
}

/* n = 0; do { fail_alloc_begin(n++); …the code…; } while (fail_alloc_end()); */
static inline void
fail_alloc_begin(long n)
{
    fail_alloc_hit = false;
    fail_alloc_in = n;
}

/* Did the allocation fail that was chosen? If not, all that there are have been tried. */
static inline bool
fail_alloc_end(void)
{
    fail_alloc_in = -1;
    return fail_alloc_hit;
}

#endif
