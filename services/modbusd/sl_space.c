#include "services/modbusd/sl_space.h"

#include <string.h>

#include "libcommon/base.h"
#include "libcommon/banned.h"

void
sl_space_init(struct sl_space *s, uint32_t n)
{
    MUST(n <= SL_SPACE_MAX);
    memset(s, 0, sizeof(*s));
    s->n = n;
}

/* The bits of word 'at' / 64 from 'at' up to 'end', which lies behind it. */
static uint64_t
mask_from(uint32_t at, uint32_t end)
{
    uint64_t mask = UINT64_MAX << at % 64;
    uint32_t word_end = (at / 64 + 1) * 64;
    return end < word_end ? mask & ~(UINT64_MAX << end % 64) : mask;
}

static uint32_t
next_word(uint32_t at)
{
    return (at / 64 + 1) * 64;
}

/* The first unit from 'at' on that is taken or not, as wanted; s->n: none. */
static uint32_t
next_that_is(const struct sl_space *s, uint32_t at, bool taken)
{
    while (at < s->n) {
        uint64_t word = s->taken[at / 64];
        word = (taken ? word : ~word) & mask_from(at, s->n);
        if (word)
            return at / 64 * 64 + (uint32_t)__builtin_ctzll(word);
        at = next_word(at);
    }
    return s->n;
}

bool
sl_space_take(struct sl_space *s, uint32_t first, uint32_t n)
{
    if (first >= s->n || n > s->n - first)
        return false;
    if (next_that_is(s, first, true) < first + n)
        return false;
    for (uint32_t at = first; at < first + n; at = next_word(at))
        s->taken[at / 64] |= mask_from(at, first + n);
    return true;
}

void
sl_space_free(struct sl_space *s, uint32_t first, uint32_t n)
{
    for (uint32_t at = first; at < first + n; at = next_word(at))
        s->taken[at / 64] &= ~mask_from(at, first + n);
}

int32_t
sl_space_find(const struct sl_space *s, uint32_t least, uint32_t n)
{
    uint32_t at = least;
    for (;;) {
        at = next_that_is(s, at, false);
        if (at >= s->n || n > s->n - at)
            return -1;
        uint32_t end = next_that_is(s, at, true);
        if (end - at >= n)
            return (int32_t)at;
        at = end;
    }
}
