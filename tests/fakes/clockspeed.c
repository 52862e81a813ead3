/*
 * LD_PRELOAD library: makes the clocks of a process run faster, all of them at
 * once and alike in all processes that map the same file. CLOCKSPEED_FILE holds
 * struct speed: two settings and which of them holds now, so that a test can
 * change it while processes run. Waits become shorter by the same factor.
 */
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/fakes/clockcalls.h"

#define SECOND INT64_C(1000000000)

/* From real_… on, which are shown as shown_…; ns. */
struct setting {
    int64_t real_mono, shown_mono, real_wall, shown_wall, factor;
};
struct speed {
    _Atomic int64_t which;
    struct setting settings[2];
};
static const struct setting as_it_is = { 0, 0, 0, 0, 1 };
static const struct speed *speed;

/* No wait is longer, so that all see a new factor soon. */
enum { WAIT_MAX_MS = 50 };

__attribute__((constructor)) static void
map_speed(void)
{
    speed = map_setting("CLOCKSPEED_FILE", sizeof(*speed));
}

static const struct setting *
setting_now(void)
{
    return speed != NULL ? &speed->settings[atomic_load(&speed->which) & 1] : &as_it_is;
}

static int64_t
ns_of(const struct timespec *ts)
{
    return ts->tv_sec * SECOND + ts->tv_nsec;
}

static struct timespec
ts_of(int64_t ns)
{
    return (struct timespec){ .tv_sec = ns / SECOND, .tv_nsec = ns % SECOND };
}

int
clock_gettime(clockid_t id, struct timespec *ret_ts)
{
    const struct setting *s = setting_now();
    long r = syscall(SYS_clock_gettime, id, ret_ts);
    if (r < 0)
        return -1;
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)
        *ret_ts = ts_of(s->shown_wall + (ns_of(ret_ts) - s->real_wall) * s->factor);
    else if (id == CLOCK_MONOTONIC || id == CLOCK_MONOTONIC_COARSE || id == CLOCK_BOOTTIME)
        *ret_ts = ts_of(s->shown_mono + (ns_of(ret_ts) - s->real_mono) * s->factor);
    return 0;
}

/* How long to wait in truth, at most; *ret_whole: this is all of it. */
static struct timespec
shorter(int64_t ns, int *ret_whole)
{
    int64_t real = ns / setting_now()->factor, most = WAIT_MAX_MS * (SECOND / 1000);
    *ret_whole = real <= most;
    return ts_of(real <= most ? real : most);
}

/* ---- waits for descriptors: one that ends early is taken up again by its caller ---- */

int
epoll_pwait2(int fd, struct epoll_event *events, int n, const struct timespec *timeout,
             const sigset_t *mask)
{
    int whole;
    struct timespec ts;
    if (timeout != NULL)
        ts = shorter(ns_of(timeout), &whole);
    return (int)syscall(SYS_epoll_pwait2, fd, events, n, timeout != NULL ? &ts : NULL, mask,
                        sizeof(uint64_t));
}

int
epoll_wait(int fd, struct epoll_event *events, int n, int timeout_ms)
{
    struct timespec ts = ts_of(timeout_ms * (SECOND / 1000));
    return epoll_pwait2(fd, events, n, timeout_ms < 0 ? NULL : &ts, NULL);
}

int
poll(struct pollfd *fds, nfds_t n, int timeout_ms)
{
    struct timespec ts = ts_of(timeout_ms * (SECOND / 1000) / setting_now()->factor);
    return ppoll(fds, n, timeout_ms < 0 ? NULL : &ts, NULL);
}

/* ---- waits for other threads: one that ends early is a spurious wake-up ---- */

/* The true deadline; a wall clock counts since 1970, a monotonic one since boot. */
static struct timespec
true_deadline(const struct timespec *shown, int *ret_whole)
{
    struct timespec now, real;
    clockid_t id = shown->tv_sec > 1000000000 ? CLOCK_REALTIME : CLOCK_MONOTONIC;
    clock_gettime(id, &now);
    syscall(SYS_clock_gettime, id, &real);
    int64_t left = ns_of(shown) - ns_of(&now);
    struct timespec wait = shorter(left > 0 ? left : 0, ret_whole);
    return ts_of(ns_of(&real) + ns_of(&wait));
}

int
pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                       const struct timespec *restrict deadline)
{
    typedef int fn(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    static fn *next;
    if (next == NULL)
        next = (fn *)dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (next == NULL)
        next = (fn *)dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    int whole;
    struct timespec ts = true_deadline(deadline, &whole);
    int r = next(cond, mutex, &ts);
    return r == ETIMEDOUT && !whole ? 0 : r;
}

int
sem_timedwait(sem_t *restrict sem, const struct timespec *restrict deadline)
{
    typedef int fn(sem_t *, const struct timespec *);
    static fn *next;
    if (next == NULL)
        next = (fn *)dlsym(RTLD_NEXT, "sem_timedwait");
    int whole, r;
    do {
        struct timespec ts = true_deadline(deadline, &whole);
        r = next(sem, &ts);
    } while (r < 0 && errno == ETIMEDOUT && !whole);
    return r;
}

int
nanosleep(const struct timespec *wait, struct timespec *ret_left)
{
    struct timespec ts = ts_of(ns_of(wait) / setting_now()->factor);
    return (int)syscall(SYS_nanosleep, &ts, ret_left);
}
