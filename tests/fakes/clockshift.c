/*
 * LD_PRELOAD library: shifts the wall clock of a process by the seconds that
 * the file CLOCKSHIFT_FILE holds now (an int64, mapped), so that a test can
 * make the clock jump while the process runs. CLOCK_MONOTONIC is untouched.
 * Waits with an absolute wall-clock deadline are shifted back.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/fakes/clockcalls.h"

static volatile const int64_t *shift;

__attribute__((constructor)) static void
map_shift(void)
{
    shift = map_setting("CLOCKSHIFT_FILE", sizeof(*shift));
}

static int64_t
shift_now(void)
{
    return shift != NULL ? *shift : 0;
}

int
clock_gettime(clockid_t id, struct timespec *ret_ts)
{
    long r = syscall(SYS_clock_gettime, id, ret_ts);
    if (r == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        ret_ts->tv_sec += shift_now();
    return (int)r;
}

/* A deadline of the wall clock counts since 1970, a monotonic one since boot. */
static struct timespec
unshift(const struct timespec *deadline)
{
    struct timespec ts = *deadline;
    if (ts.tv_sec > 1000000000)
        ts.tv_sec -= shift_now();
    return ts;
}

#define NEXT(name, type) ((type)dlsym(RTLD_NEXT, name))

int
pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                       const struct timespec *restrict deadline)
{
    typedef int fn(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    static fn *next;
    if (next == NULL)
        next = (fn *)dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (next == NULL)
        next = NEXT("pthread_cond_timedwait", fn *);
    struct timespec ts = unshift(deadline);
    return next(cond, mutex, &ts);
}

int
sem_timedwait(sem_t *restrict sem, const struct timespec *restrict deadline)
{
    typedef int fn(sem_t *, const struct timespec *);
    static fn *next;
    if (next == NULL)
        next = NEXT("sem_timedwait", fn *);
    struct timespec ts = unshift(deadline);
    return next(sem, &ts);
}
