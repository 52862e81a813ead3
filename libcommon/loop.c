/*
 * The event loop: epoll for descriptors, a binary heap for deadlines, a
 * lock-free list for messages of other threads, an eventfd to wake up by.
 *
 * Waking costs a system call in the thread that posts and a switch to ours,
 * so it is done only while the loop sleeps or is about to: the loop says so in
 * 'asleep' and then looks at the list once more; a thread that posts puts its
 * node first and then looks at 'asleep'. One of both sees the other.
 *
 * While it sleeps the loop lets go of 'own', so that another thread may run
 * something in its place (loop_borrow) and spare both that call and the switch.
 */
#include "libcommon/loop.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"

#include "libcommon/banned.h"

enum {
    LOOP_EVENTS_PER_ROUND = 64,
    LOOP_HOOKS_MAX = 8,
    LOOP_WORKERS_MAX = 16,
    LOOP_QUEUE_DEFAULT = 64,
    /* libharu has tables of 128 KiB on it; what is not touched takes no memory. */
    LOOP_WORKER_STACK = 1024 * 1024,
};

struct loop_io {
    struct loop *loop;
    int fd;
    loop_io_fn *fn;
    void *arg;
    bool dead; /* removed; freed when the round is over */
    struct loop_io *next_dead;
};

struct signal_handler {
    loop_signal_fn *fn;
    void *arg;
};

struct job {
    struct loop_post post; /* carries 'done' to the loop */
    struct job *next;
    struct loop *loop;
    loop_work_fn *work;
    loop_work_fn *done;
    void *arg;
};

struct loop {
    int epoll_fd;
    int wake_fd;
    struct loop_io *wake_io;
    uint64_t now_us;
    unsigned n_rounds; /* that run now: a callback may run one inside */
    bool no_pwait2;    /* the kernel has no epoll_pwait2 */

    struct loop_io *dead;

    struct loop_timer **heap; /* from index 1; the earliest first */
    size_t n_timers, cap_timers;

    struct {
        loop_before_sleep_fn *fn;
        void *arg;
    } hooks[LOOP_HOOKS_MAX];
    size_t n_hooks;

    _Atomic(struct loop_post *) posts; /* newest first */
    atomic_bool asleep;
    atomic_bool quit;

    pthread_mutex_t own;     /* held while callbacks run */
    uint64_t sleep_until_us; /* what the sleep was told; UINT64_MAX: for ever */

    int signal_fd; /* -1: none yet */
    struct loop_io *signal_io;
    sigset_t signals;
    struct signal_handler handlers[NSIG];

    /* Workers; 'lock' guards from here on. */
    pthread_mutex_t lock;
    pthread_cond_t work_ready;
    pthread_t workers[LOOP_WORKERS_MAX];
    unsigned n_workers, max_workers, max_queue;
    unsigned n_jobs; /* waiting or being worked on */
    struct job *first_job, *last_job;
    bool stopping;
};

/* ---- life ---- */

static void
on_wake(void *arg, uint32_t events)
{
    struct loop *loop = arg;
    uint64_t n;
    (void)events;
    (void)!read(loop->wake_fd, &n, sizeof(n)); /* empty is fine: somebody was faster */
}

int
loop_new(struct loop **ret_loop)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    if (loop == NULL)
        return -ENOMEM;
    loop->signal_fd = -1;
    loop->max_workers = 1;
    loop->max_queue = LOOP_QUEUE_DEFAULT;
    loop->now_us = clock_mono_us();
    (void)sigemptyset(&loop->signals);
    (void)pthread_mutex_init(&loop->own, NULL); /* none fails with default attributes */
    (void)pthread_mutex_init(&loop->lock, NULL);
    (void)pthread_cond_init(&loop->work_ready, NULL);
    loop->wake_fd = -1;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd >= 0)
        loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = loop->wake_fd < 0 ? -errno : 0;
    if (r == 0)
        r = loop_io_add(loop, loop->wake_fd, EPOLLIN, on_wake, loop, &loop->wake_io);
    if (r < 0) {
        loop_free(loop);
        return r;
    }
    *ret_loop = loop;
    return 0;
}

static void
close_fd(int fd)
{
    if (fd >= 0)
        (void)close(fd); /* nothing was written that could be lost */
}

static void
free_dead(struct loop *loop)
{
    while (loop->dead != NULL) {
        struct loop_io *io = loop->dead;
        loop->dead = io->next_dead;
        free(io);
    }
}

static void run_posts(struct loop *loop);
static void stop_workers(struct loop *loop);

void
loop_free(struct loop *loop)
{
    if (loop == NULL)
        return;
    stop_workers(loop);
    while (atomic_load(&loop->posts) != NULL)
        run_posts(loop);
    for (size_t i = 1; i <= loop->n_timers; i++)
        loop->heap[i]->heap_index = 0;
    loop_io_remove(loop->signal_io);
    loop_io_remove(loop->wake_io);
    free_dead(loop);
    close_fd(loop->signal_fd);
    close_fd(loop->wake_fd);
    close_fd(loop->epoll_fd);
    free(loop->heap);
    (void)pthread_cond_destroy(&loop->work_ready);
    (void)pthread_mutex_destroy(&loop->lock);
    (void)pthread_mutex_destroy(&loop->own);
    free(loop);
}

static void
wake(struct loop *loop)
{
    uint64_t one = 1;
    (void)!write(loop->wake_fd, &one, sizeof(one)); /* full means: is being woken already */
}

void
loop_quit(struct loop *loop)
{
    int saved_errno = errno; /* signal handlers come here */
    atomic_store(&loop->quit, true);
    wake(loop);
    errno = saved_errno;
}

uint64_t
loop_now_us(const struct loop *loop)
{
    return loop->now_us;
}

/* ---- descriptors ---- */

int
loop_io_add(struct loop *loop, int fd, uint32_t events, loop_io_fn *fn, void *arg,
            struct loop_io **ret_io)
{
    struct loop_io *io = calloc(1, sizeof(*io));
    if (io == NULL)
        return -ENOMEM;
    *io = (struct loop_io){ .loop = loop, .fd = fd, .fn = fn, .arg = arg };
    struct epoll_event event = { .events = events, .data.ptr = io };
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        int r = -errno;
        free(io);
        return r;
    }
    *ret_io = io;
    return 0;
}

int
loop_io_change(struct loop_io *io, uint32_t events)
{
    MUST(!io->dead);
    struct epoll_event event = { .events = events, .data.ptr = io };
    if (epoll_ctl(io->loop->epoll_fd, EPOLL_CTL_MOD, io->fd, &event) < 0)
        return -errno;
    return 0;
}

void
loop_io_remove(struct loop_io *io)
{
    if (io == NULL)
        return;
    MUST(!io->dead);
    /* Fails when the descriptor was closed first: then the kernel has forgotten it already. */
    (void)epoll_ctl(io->loop->epoll_fd, EPOLL_CTL_DEL, io->fd, NULL);
    io->dead = true;
    io->next_dead = io->loop->dead;
    io->loop->dead = io;
}

/* ---- timers ---- */

void
loop_timer_init(struct loop_timer *t, loop_timer_fn *fn, void *arg)
{
    *t = (struct loop_timer){ .fn = fn, .arg = arg };
}

static void
heap_place(struct loop *loop, size_t i, struct loop_timer *t)
{
    loop->heap[i] = t;
    t->heap_index = i;
}

/* Puts 't' where it belongs, starting from the hole at 'i'. */
static void
heap_fix(struct loop *loop, size_t i, struct loop_timer *t)
{
    for (; i > 1 && loop->heap[i / 2]->deadline_us > t->deadline_us; i /= 2)
        heap_place(loop, i, loop->heap[i / 2]);
    for (;;) {
        size_t child = 2 * i;
        if (child > loop->n_timers)
            break;
        if (child < loop->n_timers &&
            loop->heap[child + 1]->deadline_us < loop->heap[child]->deadline_us)
            child++;
        if (loop->heap[child]->deadline_us >= t->deadline_us)
            break;
        heap_place(loop, i, loop->heap[child]);
        i = child;
    }
    heap_place(loop, i, t);
}

int
loop_timer_set(struct loop *loop, struct loop_timer *t, uint64_t deadline_us)
{
    if (t->heap_index == 0) {
        if (loop->n_timers + 1 >= loop->cap_timers) {
            size_t cap = loop->cap_timers == 0 ? 32 : 2 * loop->cap_timers;
            struct loop_timer **heap = realloc(loop->heap, cap * sizeof(struct loop_timer *));
            if (heap == NULL)
                return -ENOMEM;
            loop->heap = heap;
            loop->cap_timers = cap;
        }
        t->heap_index = ++loop->n_timers;
    }
    t->deadline_us = deadline_us;
    heap_fix(loop, t->heap_index, t);
    return 0;
}

void
loop_timer_cancel(struct loop *loop, struct loop_timer *t)
{
    size_t i = t->heap_index;
    if (i == 0)
        return;
    MUST(i <= loop->n_timers && loop->heap[i] == t);
    t->heap_index = 0;
    struct loop_timer *last = loop->heap[loop->n_timers--];
    if (last != t)
        heap_fix(loop, i, last);
}

/* Fires what is due, no more timers than there are now: one set again at once can wait. */
static void
run_timers(struct loop *loop)
{
    for (size_t n = loop->n_timers; n > 0 && loop->n_timers > 0; n--) {
        struct loop_timer *t = loop->heap[1];
        if (t->deadline_us > loop->now_us)
            return;
        loop_timer_cancel(loop, t);
        t->fn(t->arg);
    }
}

/* ---- messages of other threads ---- */

void
loop_post(struct loop *loop, struct loop_post *node, loop_post_fn *fn, void *arg)
{
    node->fn = fn;
    node->arg = arg;
    struct loop_post *head = atomic_load_explicit(&loop->posts, memory_order_relaxed);
    do
        node->next = head;
    while (!atomic_compare_exchange_weak(&loop->posts, &head, node));
    /* From here on the node may be gone. */
    if (atomic_load(&loop->asleep) && atomic_exchange(&loop->asleep, false))
        wake(loop);
}

static void
run_posts(struct loop *loop)
{
    struct loop_post *newest = atomic_exchange(&loop->posts, NULL);
    struct loop_post *oldest = NULL;
    while (newest != NULL) {
        struct loop_post *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest != NULL) {
        struct loop_post *next = oldest->next; /* fn may free the node or post it again */
        oldest->fn(oldest->arg);
        oldest = next;
    }
}

/* ---- rounds ---- */

int
loop_before_sleep(struct loop *loop, loop_before_sleep_fn *fn, void *arg)
{
    if (loop->n_hooks == LOOP_HOOKS_MAX)
        return -ENOSPC;
    loop->hooks[loop->n_hooks].fn = fn;
    loop->hooks[loop->n_hooks++].arg = arg;
    return 0;
}

/* Waits for events, 'timeout_us' at most; UINT64_MAX: for ever. */
static int
wait_events(struct loop *loop, struct epoll_event *events, uint64_t timeout_us)
{
    if (!loop->no_pwait2) {
        struct timespec ts = { .tv_sec = (time_t)(timeout_us / 1000000),
                               .tv_nsec = (long)(timeout_us % 1000000) * 1000 };
        int n = epoll_pwait2(loop->epoll_fd, events, LOOP_EVENTS_PER_ROUND,
                             timeout_us == UINT64_MAX ? NULL : &ts, NULL);
        if (n >= 0)
            return n;
        /* Old system-call filters answer EPERM to calls that they do not know. */
        if (errno != ENOSYS && errno != EPERM)
            return -errno;
        loop->no_pwait2 = true;
    }
    int timeout_ms = -1;
    if (timeout_us != UINT64_MAX) {
        uint64_t ms = timeout_us / 1000 + (timeout_us % 1000 != 0); /* never too early */
        timeout_ms = ms > INT_MAX ? INT_MAX : (int)ms;
    }
    int n = epoll_wait(loop->epoll_fd, events, LOOP_EVENTS_PER_ROUND, timeout_ms);
    return n < 0 ? -errno : n;
}

/* How long this round may sleep. */
static uint64_t
sleep_time(const struct loop *loop, uint64_t timeout_us)
{
    if (timeout_us == 0 || atomic_load(&loop->posts) != NULL || atomic_load(&loop->quit))
        return 0;
    if (loop->n_timers == 0)
        return timeout_us;
    uint64_t deadline_us = loop->heap[1]->deadline_us;
    uint64_t now_us = clock_mono_us();
    uint64_t left_us = deadline_us > now_us ? deadline_us - now_us : 0;
    return left_us < timeout_us ? left_us : timeout_us;
}

static void
run_hooks(struct loop *loop)
{
    for (size_t i = 0; i < loop->n_hooks; i++)
        loop->hooks[i].fn(loop->hooks[i].arg);
}

/* The sleep of a round: 'own' is held before and after it, not meanwhile. */
static int
sleep_round(struct loop *loop, struct epoll_event *events, uint64_t timeout_us)
{
    atomic_store(&loop->asleep, true);
    uint64_t left_us = sleep_time(loop, timeout_us);
    loop->sleep_until_us = left_us == UINT64_MAX ? UINT64_MAX : clock_mono_us() + left_us;
    pthread_mutex_unlock(&loop->own);
    int n = wait_events(loop, events, left_us);
    pthread_mutex_lock(&loop->own);
    atomic_store(&loop->asleep, false);
    loop->now_us = clock_mono_us();
    return n;
}

/* A round inside a round holds 'own' already. */
static void
round_begin(struct loop *loop)
{
    if (loop->n_rounds == 0)
        pthread_mutex_lock(&loop->own);
    loop->n_rounds++;
}

static void
round_end(struct loop *loop)
{
    if (--loop->n_rounds == 0) {
        free_dead(loop);
        pthread_mutex_unlock(&loop->own);
    }
}

int
loop_round(struct loop *loop, uint64_t timeout_us)
{
    struct epoll_event events[LOOP_EVENTS_PER_ROUND];

    round_begin(loop);
    run_hooks(loop);
    int n = sleep_round(loop, events, timeout_us);
    if (n >= 0 || n == -EINTR) {
        for (int i = 0; i < n; i++) {
            struct loop_io *io = events[i].data.ptr;
            if (!io->dead)
                io->fn(io->arg, events[i].events);
        }
        run_posts(loop);
        run_timers(loop);
        n = 0;
    }
    round_end(loop);
    return n;
}

bool
loop_borrow(struct loop *loop, loop_post_fn *fn, void *arg)
{
    if (!atomic_load(&loop->asleep) || pthread_mutex_trylock(&loop->own) != 0)
        return false;
    bool mine = atomic_load(&loop->asleep);
    if (mine) {
        loop->now_us = clock_mono_us();
        fn(arg);
        run_hooks(loop);
        if (loop->n_timers > 0 && loop->heap[1]->deadline_us < loop->sleep_until_us &&
            atomic_exchange(&loop->asleep, false))
            wake(loop);
    }
    pthread_mutex_unlock(&loop->own);
    return mine;
}

int
loop_run(struct loop *loop)
{
    int r = 0;
    while (r == 0 && !atomic_load(&loop->quit))
        r = loop_round(loop, UINT64_MAX);
    atomic_store(&loop->quit, false);
    return r;
}

/* ---- workers ---- */

static void
job_done(void *arg)
{
    struct job *job = arg;
    loop_work_fn *done = job->done;
    void *done_arg = job->arg;
    free(job);
    done(done_arg);
}

static void *
worker_main(void *arg)
{
    struct loop *loop = arg;

    (void)pthread_mutex_lock(&loop->lock);
    for (;;) {
        struct job *job = loop->first_job;
        if (job != NULL) {
            loop->first_job = job->next;
            (void)pthread_mutex_unlock(&loop->lock);
            job->work(job->arg);
            (void)pthread_mutex_lock(&loop->lock);
            loop->n_jobs--; /* before 'done' runs, which may bring the next one */
            loop_post(loop, &job->post, job_done, job);
        } else if (loop->stopping) {
            break;
        } else {
            (void)pthread_cond_wait(&loop->work_ready, &loop->lock);
        }
    }
    (void)pthread_mutex_unlock(&loop->lock);
    return NULL;
}

/* One more worker; with the lock held. All signals stay with the loop's thread. */
static int
add_worker(struct loop *loop)
{
    pthread_attr_t attr;
    sigset_t all, old;
    pthread_t *thread = &loop->workers[loop->n_workers];

    int r = pthread_attr_init(&attr);
    if (r != 0)
        return -r;
    r = pthread_attr_setstacksize(&attr, LOOP_WORKER_STACK);
    if (r == 0) {
        (void)sigfillset(&all);
        (void)pthread_sigmask(SIG_SETMASK, &all, &old); /* cannot fail with these arguments */
        r = pthread_create(thread, &attr, worker_main, loop);
        (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    }
    (void)pthread_attr_destroy(&attr);
    if (r != 0)
        return -r;
    char name[16];
    (void)snprintf(name, sizeof(name), "worker-%u", loop->n_workers);
    (void)pthread_setname_np(*thread, name); /* a convenience for whoever looks */
    loop->n_workers++;
    return 0;
}

int
loop_work(struct loop *loop, loop_work_fn *work, loop_work_fn *done, void *arg)
{
    struct job *job = calloc(1, sizeof(*job));
    if (job == NULL)
        return -ENOMEM;
    *job = (struct job){ .loop = loop, .work = work, .done = done, .arg = arg };

    int r = 0;
    (void)pthread_mutex_lock(&loop->lock);
    if (!loop->stopping && loop->n_jobs >= loop->n_workers &&
        loop->n_workers < loop->max_workers)
        r = add_worker(loop);
    if (r < 0 && loop->n_workers > 0)
        r = 0; /* those that are there will do it */
    if (loop->stopping || loop->n_jobs >= loop->n_workers + loop->max_queue)
        r = -EAGAIN;
    if (r == 0) {
        if (loop->first_job == NULL)
            loop->first_job = job;
        else
            loop->last_job->next = job;
        loop->last_job = job;
        loop->n_jobs++;
        (void)pthread_cond_signal(&loop->work_ready);
    }
    (void)pthread_mutex_unlock(&loop->lock);
    if (r != 0)
        free(job);
    return r;
}

void
loop_set_workers(struct loop *loop, unsigned n_threads, unsigned max_queue)
{
    MUST(n_threads >= 1 && n_threads <= LOOP_WORKERS_MAX);
    (void)pthread_mutex_lock(&loop->lock);
    loop->max_workers = n_threads;
    loop->max_queue = max_queue;
    (void)pthread_mutex_unlock(&loop->lock);
}

/* Lets the workers finish what is queued, and joins them. */
static void
stop_workers(struct loop *loop)
{
    (void)pthread_mutex_lock(&loop->lock);
    loop->stopping = true;
    (void)pthread_cond_broadcast(&loop->work_ready);
    (void)pthread_mutex_unlock(&loop->lock);
    for (unsigned i = 0; i < loop->n_workers; i++)
        (void)pthread_join(loop->workers[i], NULL); /* each is ours and joined once */
}

/* ---- signals ---- */

static void
on_signal_fd(void *arg, uint32_t events)
{
    struct loop *loop = arg;
    struct signalfd_siginfo info;
    (void)events;
    while (read(loop->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        const struct signal_handler *h = &loop->handlers[info.ssi_signo];
        if (h->fn != NULL)
            h->fn(h->arg, (int)info.ssi_signo);
    }
}

int
loop_on_signal(struct loop *loop, int signo, loop_signal_fn *fn, void *arg)
{
    if (signo < 1 || signo >= NSIG || sigaddset(&loop->signals, signo) < 0)
        return -EINVAL;
    int r = pthread_sigmask(SIG_BLOCK, &loop->signals, NULL);
    if (r != 0)
        return -r;
    int fd = signalfd(loop->signal_fd, &loop->signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    loop->signal_fd = fd;
    loop->handlers[signo] = (struct signal_handler){ .fn = fn, .arg = arg };
    if (loop->signal_io != NULL)
        return 0;
    return loop_io_add(loop, fd, EPOLLIN, on_signal_fd, loop, &loop->signal_io);
}
