/*
 * Small things every file uses: ownership of locals, sizes, promises.
 */
#ifndef FIELDGATE_BASE_H
#define FIELDGATE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* A local that owns something: 'fn' gets a pointer to it when it leaves scope. */
#define CLEANUP(fn) __attribute__((cleanup(fn)))

/* Hand ownership out of a CLEANUP local: yields the pointer, leaves NULL. */
#define MOVE_PTR(p)                     \
    __extension__({                     \
        __typeof__(p) moved_ptr_ = (p); \
        (p) = NULL;                     \
        moved_ptr_;                     \
    })

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define CONTAINER_OF(ptr, type, member) \
    ((type *)(void *)((char *)(ptr) - offsetof(type, member)))

/*
 * A promise of the programmer, kept in releases too. Never for what a client
 * or a peer sent.
 */
#define MUST(cond) ((cond) ? (void)0 : must_fail(#cond, __FILE__, __LINE__))

_Noreturn void must_fail(const char *cond, const char *file, int line);

/* free() for CLEANUP locals. */
static inline void
freep(void *p)
{
    free(*(void **)p);
}

#endif
