/*
 * A clock for tests of what waits: it moves only when the test says so. The
 * linker puts it in place of libcommon's (--wrap=clock_mono_us,
 * --wrap=clock_wall_us); both show the same.
 */
#ifndef FIELDGATE_TESTS_MB_CLOCK_H
#define FIELDGATE_TESTS_MB_CLOCK_H

#include <stdint.h>

#include "libcommon/loop.h"

static uint64_t clock_us = 1000000;

uint64_t __wrap_clock_mono_us(void);
int64_t __wrap_clock_wall_us(void);

uint64_t
__wrap_clock_mono_us(void)
{
    return clock_us;
}

int64_t
__wrap_clock_wall_us(void)
{
    return (int64_t)clock_us;
}

/* Loop, sockets and peer have nothing left to do after three rounds; then the clock moves. */
static inline void
clock_step(struct loop *loop, uint64_t step_us)
{
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(loop_round(loop, 0), 0);
    clock_us += step_us;
}

static inline void
clock_run(struct loop *loop, uint64_t us, uint64_t step_us)
{
    for (uint64_t until = clock_us + us; clock_us < until;)
        clock_step(loop, step_us);
}

#endif
