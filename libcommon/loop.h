/*
 * The event loop of a daemon: descriptors, absolute deadlines, messages from
 * other threads, and a few workers for what blocks. One thread runs it and
 * owns all state; only loop_post, loop_borrow, loop_work's first half and
 * loop_quit are for other threads. "On the loop" means: never at the same time
 * as anything else of this loop; it may be another thread (loop_borrow), so
 * nothing may depend on which one it is.
 */
#ifndef FIELDGATE_LOOP_H
#define FIELDGATE_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct loop;
struct loop_io;

/* Returns 0 or -errno. */
int loop_new(struct loop **ret_loop);
void loop_free(struct loop *loop);

/* Runs until loop_quit; returns 0 or -errno of a failing epoll. */
int loop_run(struct loop *loop);
/* Lets loop_run return after the current round. Any thread, signal handlers too. */
void loop_quit(struct loop *loop);
/* One round: waits at most 'timeout_us' (0: not at all). For tests and shutdown. */
int loop_round(struct loop *loop, uint64_t timeout_us);

/* Monotonic µs when this round began; cheaper than clock_mono_us. */
uint64_t loop_now_us(const struct loop *loop);

/*
 * Descriptors. 'events' are EPOLLIN, EPOLLOUT, … . The callback may change or
 * remove any io, its own included. The descriptor stays the caller's.
 */
typedef void loop_io_fn(void *arg, uint32_t events);
int loop_io_add(struct loop *loop, int fd, uint32_t events, loop_io_fn *fn, void *arg,
                struct loop_io **ret_io);
int loop_io_change(struct loop_io *io, uint32_t events);
void loop_io_remove(struct loop_io *io); /* NULL does nothing */

/*
 * Timers live in their owner's memory. A deadline is absolute monotonic µs;
 * a timer fires once. Set again to move, cancel is always allowed.
 */
typedef void loop_timer_fn(void *arg);
struct loop_timer {
    loop_timer_fn *fn;
    void *arg;
    uint64_t deadline_us;
    size_t heap_index; /* 0: not set */
};
void loop_timer_init(struct loop_timer *t, loop_timer_fn *fn, void *arg);
/* Returns 0 or -ENOMEM. */
int loop_timer_set(struct loop *loop, struct loop_timer *t, uint64_t deadline_us);
void loop_timer_cancel(struct loop *loop, struct loop_timer *t);
static inline bool
loop_timer_is_set(const struct loop_timer *t)
{
    return t->heap_index != 0;
}

/*
 * Runs before the loop sleeps, each round: flush what gathered.
 * At most 8; in order of adding.
 */
typedef void loop_before_sleep_fn(void *arg);
int loop_before_sleep(struct loop *loop, loop_before_sleep_fn *fn, void *arg);

/*
 * From any thread: run 'fn(arg)' on the loop thread. The node lives in the
 * caller's memory until fn is called. Order is kept. Never blocks.
 */
typedef void loop_post_fn(void *arg);
struct loop_post {
    struct loop_post *next;
    loop_post_fn *fn;
    void *arg;
};
void loop_post(struct loop *loop, struct loop_post *node, loop_post_fn *fn, void *arg);

/*
 * From a thread that is not the loop's and holds no lock that callbacks take:
 * when the loop sleeps, runs 'fn(arg)' here and now in its place, then what
 * runs before each sleep. False: the loop is awake, nothing was run; post it.
 * Saves a system call and a switch of threads; what was posted before and not
 * run yet comes after it.
 */
bool loop_borrow(struct loop *loop, loop_post_fn *fn, void *arg);

/*
 * Blocking work: 'work' runs in one of 'loop_set_workers' threads (default 1,
 * made at first use), then 'done' on the loop. 'done' is always called, after
 * loop_quit too, before loop_free returns. Returns 0, or -EAGAIN when
 * 'max_queue' (loop_set_workers) works wait already: nothing was queued.
 */
typedef void loop_work_fn(void *arg);
int loop_work(struct loop *loop, loop_work_fn *work, loop_work_fn *done, void *arg);
void loop_set_workers(struct loop *loop, unsigned n_threads, unsigned max_queue);

/* Signals as loop events; blocks them in this thread, so call before threads start. */
typedef void loop_signal_fn(void *arg, int signo);
int loop_on_signal(struct loop *loop, int signo, loop_signal_fn *fn, void *arg);

#endif
