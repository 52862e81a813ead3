/* Descriptors, deadlines, messages, workers and signals, one round at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "libcommon/clock.h"
#include "libcommon/loop.h"
#include "tests/unit/fail_alloc.h"

enum { DEADLINE_US = 20000000, N_PIPES = 8 };

static struct loop *loop;

static int
set_up(void **state)
{
    (void)state;
    return loop_new(&loop);
}

static int
tear_down(void **state)
{
    (void)state;
    loop_free(loop);
    return 0;
}

/* Rounds until *counter is 'want', with a deadline. */
static void
run_until(const int *counter, int want)
{
    uint64_t deadline_us = clock_mono_us() + DEADLINE_US;
    while (*counter < want) {
        uint64_t now_us = clock_mono_us();
        assert_true(now_us < deadline_us);
        assert_int_equal(loop_round(loop, deadline_us - now_us), 0);
    }
    assert_int_equal(*counter, want);
}

static void
count(void *arg)
{
    ++*(int *)arg;
}

static void
quit(void *arg)
{
    loop_quit(arg);
}

/* ---- descriptors ---- */

struct pipe_io {
    int ends[2];
    struct loop_io *io;
    int n_events;
    struct pipe_io *victims; /* removed by the first event */
};
static struct pipe_io pipes[N_PIPES];

static void
on_pipe(void *arg, uint32_t events)
{
    struct pipe_io *p = arg;
    char c;
    p->n_events++;
    if ((events & EPOLLIN) != 0)
        assert_int_equal(read(p->ends[0], &c, 1), 1);
    for (int i = 0; p->victims != NULL && i < N_PIPES; i++) {
        loop_io_remove(pipes[i].io);
        pipes[i].io = NULL;
    }
}

static void
open_pipes(struct pipe_io *victims)
{
    for (int i = 0; i < N_PIPES; i++) {
        pipes[i] = (struct pipe_io){ .victims = victims };
        assert_int_equal(pipe(pipes[i].ends), 0);
        assert_int_equal(
            loop_io_add(loop, pipes[i].ends[0], EPOLLIN, on_pipe, &pipes[i], &pipes[i].io), 0);
    }
}

static int
close_pipes(void)
{
    int n_events = 0;
    for (int i = 0; i < N_PIPES; i++) {
        loop_io_remove(pipes[i].io);
        (void)close(pipes[i].ends[0]);
        (void)close(pipes[i].ends[1]);
        n_events += pipes[i].n_events;
    }
    return n_events;
}

static void
test_ready_descriptors_are_called(void **state)
{
    (void)state;
    open_pipes(NULL);
    assert_int_equal(loop_round(loop, 0), 0);
    for (int i = 0; i < N_PIPES; i++)
        assert_int_equal(write(pipes[i].ends[1], "x", 1), 1);
    assert_int_equal(loop_round(loop, DEADLINE_US), 0);
    assert_int_equal(loop_round(loop, 0), 0);
    assert_int_equal(close_pipes(), N_PIPES);
}

static void
test_a_callback_may_remove_every_descriptor_of_its_round(void **state)
{
    (void)state;
    open_pipes(pipes);
    for (int i = 0; i < N_PIPES; i++)
        assert_int_equal(write(pipes[i].ends[1], "x", 1), 1);
    assert_int_equal(loop_round(loop, DEADLINE_US), 0);
    assert_int_equal(loop_round(loop, 0), 0);
    assert_int_equal(close_pipes(), 1);
}

static void
test_a_change_of_events_counts_from_the_next_round(void **state)
{
    (void)state;
    open_pipes(NULL);
    assert_int_equal(loop_io_change(pipes[0].io, 0), 0);
    assert_int_equal(write(pipes[0].ends[1], "x", 1), 1);
    assert_int_equal(loop_round(loop, 0), 0);
    assert_int_equal(pipes[0].n_events, 0);
    assert_int_equal(loop_io_change(pipes[0].io, EPOLLIN), 0);
    run_until(&pipes[0].n_events, 1);
    loop_io_remove(NULL);
    assert_int_equal(close_pipes(), 1);
}

static void
test_a_bad_descriptor_is_refused(void **state)
{
    (void)state;
    struct loop_io *io = NULL;
    assert_int_equal(loop_io_add(loop, -1, EPOLLIN, on_pipe, NULL, &io), -EBADF);
    assert_null(io);
}

/* ---- timers ---- */

enum { N_TIMERS = 500 };
static struct loop_timer timers[N_TIMERS];
static uint64_t last_deadline_us;
static int n_fired;

static void
on_ordered_timer(void *arg)
{
    struct loop_timer *t = arg;
    assert_true(t->deadline_us >= last_deadline_us);
    assert_true(clock_mono_us() >= t->deadline_us);
    assert_false(loop_timer_is_set(t));
    last_deadline_us = t->deadline_us;
    n_fired++;
}

static void
test_timers_fire_once_in_order_of_their_deadlines(void **state)
{
    (void)state;
    uint64_t now_us = clock_mono_us();
    uint32_t random = 12345;
    int n_set = 0;
    n_fired = 0;
    last_deadline_us = 0;
    for (int i = 0; i < N_TIMERS; i++) {
        random = random * 1103515245 + 12345;
        loop_timer_init(&timers[i], on_ordered_timer, &timers[i]);
        assert_int_equal(loop_timer_set(loop, &timers[i], now_us + random % 20000), 0);
    }
    for (int i = 0; i < N_TIMERS; i++) { /* move some, cancel some */
        random = random * 1103515245 + 12345;
        if (i % 3 == 0)
            assert_int_equal(loop_timer_set(loop, &timers[i], now_us + random % 20000), 0);
        else if (i % 3 == 1)
            loop_timer_cancel(loop, &timers[i]);
    }
    for (int i = 0; i < N_TIMERS; i++)
        n_set += loop_timer_is_set(&timers[i]);
    assert_int_equal(n_set, N_TIMERS - (N_TIMERS + 1) / 3);
    loop_timer_cancel(loop, &timers[1]); /* again: nothing happens */
    run_until(&n_fired, n_set);
    assert_int_equal(loop_round(loop, 0), 0);
    assert_int_equal(n_fired, n_set);
}

static void
on_eager_timer(void *arg)
{
    n_fired++;
    assert_int_equal(loop_timer_set(loop, arg, 0), 0);
}

static void
test_a_timer_that_sets_itself_for_the_past_lets_others_live(void **state)
{
    (void)state;
    n_fired = 0;
    int others = 0;
    struct loop_timer t, other;
    loop_timer_init(&t, on_eager_timer, &t);
    loop_timer_init(&other, count, &others);
    assert_int_equal(loop_timer_set(loop, &t, 0), 0);
    assert_int_equal(loop_round(loop, DEADLINE_US), 0);
    assert_int_equal(n_fired, 1);
    assert_int_equal(loop_timer_set(loop, &other, clock_mono_us()), 0);
    loop_timer_cancel(loop, &t);
    run_until(&others, 1);
    loop_timer_cancel(loop, &t);
}

static void
on_cancelling_timer(void *arg)
{
    n_fired++;
    loop_timer_cancel(loop, arg);
}

static void
test_a_timer_may_cancel_another_that_is_due(void **state)
{
    (void)state;
    struct loop_timer a, b;
    n_fired = 0;
    loop_timer_init(&a, on_cancelling_timer, &b);
    loop_timer_init(&b, on_cancelling_timer, &a);
    assert_int_equal(loop_timer_set(loop, &a, 1), 0);
    assert_int_equal(loop_timer_set(loop, &b, 2), 0);
    assert_int_equal(loop_round(loop, 0), 0);
    assert_int_equal(n_fired, 1);
    assert_false(loop_timer_is_set(&a) || loop_timer_is_set(&b));
}

static void
test_a_short_wait_is_short_and_never_early(void **state)
{
    (void)state;
    uint64_t best_us = UINT64_MAX;
    for (int i = 0; i < 50; i++) {
        int fired = 0;
        struct loop_timer t;
        uint64_t deadline_us = clock_mono_us() + 300;
        loop_timer_init(&t, count, &fired);
        assert_int_equal(loop_timer_set(loop, &t, deadline_us), 0);
        run_until(&fired, 1);
        assert_true(loop_now_us(loop) >= deadline_us);
        uint64_t late_us = loop_now_us(loop) - deadline_us;
        if (late_us < best_us)
            best_us = late_us;
    }
    assert_true(best_us < 700); /* not rounded up to a millisecond */
}

/* ---- messages ---- */

enum { N_POSTERS = 4, POSTS_EACH = 20000 };

struct message {
    struct loop_post post;
    int thread, no;
};
static struct message messages[N_POSTERS][POSTS_EACH];
static int last_no[N_POSTERS];
static int n_messages;

static void
on_message(void *arg)
{
    struct message *m = arg;
    assert_int_equal(m->no, last_no[m->thread] + 1);
    last_no[m->thread] = m->no;
    n_messages++;
}

static void *
post_many(void *arg)
{
    struct message *mine = arg;
    for (int i = 0; i < POSTS_EACH; i++)
        loop_post(loop, &mine[i].post, on_message, &mine[i]);
    return NULL;
}

static void
test_messages_of_threads_arrive_all_and_in_order(void **state)
{
    (void)state;
    pthread_t threads[N_POSTERS];
    n_messages = 0;
    for (int i = 0; i < N_POSTERS; i++) {
        last_no[i] = 0;
        for (int k = 0; k < POSTS_EACH; k++)
            messages[i][k] = (struct message){ .thread = i, .no = k + 1 };
        assert_int_equal(pthread_create(&threads[i], NULL, post_many, messages[i]), 0);
    }
    run_until(&n_messages, N_POSTERS * POSTS_EACH);
    for (int i = 0; i < N_POSTERS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

/* Two loops that throw a ball: each catch must wake a sleeper. */
enum { THROWS = 5000 };
static struct loop *other_loop;
static struct loop_post ball;
static int n_throws;

static void on_ball_here(void *arg);

static void
on_ball_there(void *arg)
{
    (void)arg;
    loop_post(loop, &ball, on_ball_here, NULL);
}

static void
on_ball_here(void *arg)
{
    (void)arg;
    if (++n_throws < THROWS)
        loop_post(other_loop, &ball, on_ball_there, NULL);
    else
        loop_quit(other_loop);
}

static void *
run_other(void *arg)
{
    assert_int_equal(loop_run(arg), 0);
    return NULL;
}

static void
test_a_sleeping_loop_is_woken_every_time(void **state)
{
    (void)state;
    pthread_t thread;
    n_throws = 0;
    assert_int_equal(loop_new(&other_loop), 0);
    assert_int_equal(pthread_create(&thread, NULL, run_other, other_loop), 0);
    loop_post(other_loop, &ball, on_ball_there, NULL);
    run_until(&n_throws, THROWS);
    assert_int_equal(pthread_join(thread, NULL), 0);
    loop_free(other_loop);
}

/* What is changed both by the loop's own thread and by those that borrow it. */
enum { N_BORROWERS = 3, BORROWS_EACH = 3000 };
struct borrowed {
    struct loop_timer timer;
    struct loop_post quit_post;
    int n, n_hooks, n_timers; /* plain: whoever runs has the loop to himself */
    int n_in_place;
    uint64_t set_us;
};
static struct borrowed borrowed;

static void
on_borrowed_timer(void *arg)
{
    struct borrowed *b = arg;
    assert_true(clock_mono_us() >= b->timer.deadline_us);
    b->n_timers++;
}

static void
in_place(void *arg)
{
    struct borrowed *b = arg;
    b->n++;
    b->n_in_place++;
    /* earlier than what the loop sleeps for, so it must notice */
    assert_int_equal(loop_timer_set(other_loop, &b->timer, clock_mono_us() + 100), 0);
}

static void
in_turn(void *arg)
{
    borrowed.n++;
    (void)arg;
}

static void
count_hook(void *arg)
{
    ((struct borrowed *)arg)->n_hooks++;
}

static void *
borrow_many(void *arg)
{
    static _Atomic int n_done;
    struct loop_post *posts = arg;
    for (int i = 0; i < BORROWS_EACH; i++)
        if (!loop_borrow(other_loop, in_place, &borrowed))
            loop_post(other_loop, &posts[i], in_turn, NULL);
    if (++n_done == N_BORROWERS)
        loop_post(other_loop, &borrowed.quit_post, quit, other_loop);
    return NULL;
}

static void
test_other_threads_may_borrow_the_sleeping_loop(void **state)
{
    (void)state;
    static struct loop_post posts[N_BORROWERS][BORROWS_EACH];
    pthread_t thread, borrowers[N_BORROWERS];
    assert_int_equal(loop_new(&other_loop), 0);
    loop_timer_init(&borrowed.timer, on_borrowed_timer, &borrowed);
    assert_int_equal(loop_before_sleep(other_loop, count_hook, &borrowed), 0);
    assert_false(loop_borrow(other_loop, in_place, &borrowed)); /* it does not run yet */
    assert_int_equal(pthread_create(&thread, NULL, run_other, other_loop), 0);
    uint64_t end = clock_mono_us() + DEADLINE_US;
    while (!loop_borrow(other_loop, in_place, &borrowed))
        assert_true(clock_mono_us() < end);
    for (int i = 0; i < N_BORROWERS; i++)
        assert_int_equal(pthread_create(&borrowers[i], NULL, borrow_many, posts[i]), 0);
    for (int i = 0; i < N_BORROWERS; i++)
        assert_int_equal(pthread_join(borrowers[i], NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(borrowed.n, N_BORROWERS * BORROWS_EACH + 1);
    assert_true(borrowed.n_hooks >= borrowed.n_in_place);
    assert_true(borrowed.n_in_place > 0);
    loop_free(other_loop);
}

static void
wake_by_timer(void *arg)
{
    struct borrowed *b = arg;
    b->n_timers = 0;
    b->set_us = clock_mono_us();
    (void)loop_timer_set(other_loop, &b->timer, b->set_us + 1000);
}

static void
quit_by_timer(void *arg)
{
    (void)arg;
    loop_quit(other_loop);
}

static void
test_a_deadline_set_by_a_borrower_ends_the_sleep(void **state)
{
    (void)state;
    pthread_t thread;
    assert_int_equal(loop_new(&other_loop), 0);
    loop_timer_init(&borrowed.timer, quit_by_timer, NULL);
    assert_int_equal(pthread_create(&thread, NULL, run_other, other_loop), 0); /* for ever */
    uint64_t end = clock_mono_us() + DEADLINE_US;
    while (!loop_borrow(other_loop, wake_by_timer, &borrowed))
        assert_true(clock_mono_us() < end);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(clock_mono_us() >= borrowed.set_us + 1000);
    loop_free(other_loop);
}

static struct loop_post again_post;
static int n_again;

static void
post_again(void *arg)
{
    if (++n_again < 3)
        loop_post(loop, arg, post_again, arg);
}

static void
test_a_message_posted_by_a_message_waits_for_the_next_round(void **state)
{
    (void)state;
    n_again = 0;
    loop_post(loop, &again_post, post_again, &again_post);
    assert_int_equal(loop_round(loop, DEADLINE_US), 0);
    assert_int_equal(n_again, 1);
    assert_int_equal(loop_round(loop, DEADLINE_US), 0);
    assert_int_equal(n_again, 2);
    run_until(&n_again, 3);
}

static void
test_messages_are_delivered_before_the_end(void **state)
{
    (void)state;
    struct loop *mine = NULL;
    struct loop_post node;
    int n = 0;
    assert_int_equal(loop_new(&mine), 0);
    loop_post(mine, &node, count, &n);
    loop_free(mine);
    assert_int_equal(n, 1);
}

/* ---- running ---- */

static void
test_hooks_run_before_each_sleep_in_order(void **state)
{
    (void)state;
    int calls[9] = { 0 };
    for (int i = 0; i < 8; i++)
        assert_int_equal(loop_before_sleep(loop, count, &calls[i]), 0);
    assert_true(loop_before_sleep(loop, count, &calls[8]) < 0);
    assert_int_equal(loop_round(loop, 0), 0);
    assert_int_equal(loop_round(loop, 0), 0);
    for (int i = 0; i < 8; i++)
        assert_int_equal(calls[i], 2);
    assert_int_equal(calls[8], 0);
}

static void
post_from_hook(void *arg)
{
    static struct loop_post node;
    static bool posted;
    if (!posted)
        loop_post(loop, &node, count, arg);
    posted = true;
}

static void
test_what_a_hook_posts_is_not_slept_over(void **state)
{
    (void)state;
    int n = 0;
    assert_int_equal(loop_before_sleep(loop, post_from_hook, &n), 0);
    uint64_t start_us = clock_mono_us();
    assert_int_equal(loop_round(loop, DEADLINE_US), 0);
    assert_int_equal(n, 1);
    assert_true(clock_mono_us() - start_us < DEADLINE_US / 2);
}

static void
test_a_quit_before_the_run_ends_it_at_once(void **state)
{
    (void)state;
    struct loop_timer t;
    loop_quit(loop);
    assert_int_equal(loop_run(loop), 0);
    /* and it can run again */
    loop_timer_init(&t, quit, loop);
    assert_int_equal(loop_timer_set(loop, &t, clock_mono_us() + 1000), 0);
    assert_int_equal(loop_run(loop), 0);
}

static void *
quit_thread(void *arg)
{
    loop_quit(arg);
    return NULL;
}

static void
test_another_thread_may_end_the_run(void **state)
{
    (void)state;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, quit_thread, loop), 0);
    assert_int_equal(loop_run(loop), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void
on_pipe_with_round(void *arg, uint32_t events)
{
    struct pipe_io *p = arg;
    char c;
    (void)events;
    p->n_events++;
    assert_int_equal(read(p->ends[0], &c, 1), 1);
    loop_io_remove(p->io);
    p->io = NULL;
    assert_int_equal(loop_round(loop, 0), 0);
}

static void
test_a_round_within_a_round_frees_nothing_in_use(void **state)
{
    (void)state;
    for (int i = 0; i < N_PIPES; i++) {
        pipes[i] = (struct pipe_io){ 0 };
        assert_int_equal(pipe(pipes[i].ends), 0);
        assert_int_equal(loop_io_add(loop, pipes[i].ends[0], EPOLLIN, on_pipe_with_round,
                                     &pipes[i], &pipes[i].io),
                         0);
        assert_int_equal(write(pipes[i].ends[1], "x", 1), 1);
    }
    assert_int_equal(loop_round(loop, DEADLINE_US), 0);
    assert_int_equal(close_pipes(), N_PIPES);
}

/* ---- workers ---- */

struct work {
    atomic_int *n_at_once, *most_at_once;
    pthread_mutex_t *gate;
    int worked, done;
    pthread_t worker;
};
static int n_done;

static void
do_work(void *arg)
{
    struct work *w = arg;
    int now = atomic_fetch_add(w->n_at_once, 1) + 1;
    int most = atomic_load(w->most_at_once);
    while (now > most && !atomic_compare_exchange_weak(w->most_at_once, &most, now))
        ;
    (void)pthread_mutex_lock(w->gate);
    (void)pthread_mutex_unlock(w->gate);
    w->worked++;
    w->worker = pthread_self();
    atomic_fetch_sub(w->n_at_once, 1);
}

static void
work_done(void *arg)
{
    struct work *w = arg;
    assert_int_equal(w->worked, 1);
    w->done++;
    n_done++;
}

static void
test_workers_take_work_in_bounds_and_report(void **state)
{
    (void)state;
    enum { WORKERS = 2, QUEUE = 3 };
    atomic_int n_at_once = 0, most_at_once = 0;
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    struct work works[WORKERS + QUEUE + 1];
    n_done = 0;
    loop_set_workers(loop, WORKERS, QUEUE);
    (void)pthread_mutex_lock(&gate); /* nobody finishes */
    for (int i = 0; i < WORKERS + QUEUE + 1; i++) {
        works[i] = (struct work){ .n_at_once = &n_at_once,
                                  .most_at_once = &most_at_once,
                                  .gate = &gate };
        assert_int_equal(loop_work(loop, do_work, work_done, &works[i]),
                         i < WORKERS + QUEUE ? 0 : -EAGAIN);
    }
    (void)pthread_mutex_unlock(&gate);
    run_until(&n_done, WORKERS + QUEUE);
    assert_true(atomic_load(&most_at_once) <= WORKERS);
    for (int i = 0; i < WORKERS + QUEUE; i++)
        assert_false(pthread_equal(works[i].worker, pthread_self()));
    assert_int_equal(works[WORKERS + QUEUE].worked, 0);
    /* room again */
    assert_int_equal(loop_work(loop, do_work, work_done, &works[WORKERS + QUEUE]), 0);
    run_until(&n_done, WORKERS + QUEUE + 1);
}

static void
test_queued_work_is_finished_before_the_end(void **state)
{
    (void)state;
    struct loop *mine = NULL;
    atomic_int n_at_once = 0, most_at_once = 0;
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    struct work works[4];
    n_done = 0;
    assert_int_equal(loop_new(&mine), 0);
    for (int i = 0; i < 4; i++) {
        works[i] = (struct work){ .n_at_once = &n_at_once,
                                  .most_at_once = &most_at_once,
                                  .gate = &gate };
        assert_int_equal(loop_work(mine, do_work, work_done, &works[i]), 0);
    }
    loop_quit(mine);
    assert_int_equal(loop_run(mine), 0);
    loop_free(mine);
    assert_int_equal(n_done, 4);
}

static void
use_stack(void *arg)
{
    volatile char deep[100 * 1024];
    memset((void *)(uintptr_t)deep, 1, sizeof(deep));
    *(int *)arg = deep[77];
}

static void
stack_used(void *arg)
{
    assert_int_equal(*(int *)arg, 1);
    n_done++;
}

static void
test_a_worker_has_some_stack(void **state)
{
    (void)state;
    int result = 0;
    n_done = 0;
    assert_int_equal(loop_work(loop, use_stack, stack_used, &result), 0);
    run_until(&n_done, 1);
}

/* ---- signals ---- */

static int signals_seen[NSIG];

static void
on_signal(void *arg, int signo)
{
    assert_ptr_equal(arg, loop);
    signals_seen[signo]++;
}

static void
test_signals_are_events(void **state)
{
    (void)state;
    assert_int_equal(loop_on_signal(loop, SIGUSR1, on_signal, loop), 0);
    assert_int_equal(loop_on_signal(loop, SIGUSR2, on_signal, loop), 0);
    assert_int_equal(loop_on_signal(loop, 0, on_signal, loop), -EINVAL);
    assert_int_equal(loop_on_signal(loop, NSIG, on_signal, loop), -EINVAL);
    assert_int_equal(raise(SIGUSR1), 0);
    run_until(&signals_seen[SIGUSR1], 1);
    assert_int_equal(raise(SIGUSR2), 0);
    assert_int_equal(raise(SIGUSR1), 0);
    run_until(&signals_seen[SIGUSR1], 2);
    run_until(&signals_seen[SIGUSR2], 1);
}

/* ---- memory ---- */

static void
test_no_memory_is_an_error_and_nothing_breaks(void **state)
{
    (void)state;
    struct loop *mine = NULL;
    long n = 0;
    do {
        fail_alloc_begin(n++);
        int r = loop_new(&mine);
        if (fail_alloc_end())
            assert_int_equal(r, -ENOMEM);
        else
            loop_free(mine);
    } while (fail_alloc_hit);

    struct loop_timer t;
    struct loop_io *io;
    loop_timer_init(&t, count, NULL);
    fail_alloc_begin(0);
    assert_int_equal(loop_timer_set(loop, &t, 5), -ENOMEM);
    assert_false(loop_timer_is_set(&t));
    fail_alloc_begin(0);
    assert_int_equal(loop_io_add(loop, 0, EPOLLIN, on_pipe, NULL, &io), -ENOMEM);
    fail_alloc_begin(0);
    assert_int_equal(loop_work(loop, count, count, NULL), -ENOMEM);
    assert_true(fail_alloc_end());
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_ready_descriptors_are_called),
        TEST(test_a_callback_may_remove_every_descriptor_of_its_round),
        TEST(test_a_change_of_events_counts_from_the_next_round),
        TEST(test_a_bad_descriptor_is_refused),
        TEST(test_timers_fire_once_in_order_of_their_deadlines),
        TEST(test_a_timer_that_sets_itself_for_the_past_lets_others_live),
        TEST(test_a_timer_may_cancel_another_that_is_due),
        TEST(test_a_short_wait_is_short_and_never_early),
        TEST(test_messages_of_threads_arrive_all_and_in_order),
        TEST(test_a_sleeping_loop_is_woken_every_time),
        TEST(test_other_threads_may_borrow_the_sleeping_loop),
        TEST(test_a_deadline_set_by_a_borrower_ends_the_sleep),
        TEST(test_a_message_posted_by_a_message_waits_for_the_next_round),
        TEST(test_messages_are_delivered_before_the_end),
        TEST(test_hooks_run_before_each_sleep_in_order),
        TEST(test_what_a_hook_posts_is_not_slept_over),
        TEST(test_a_quit_before_the_run_ends_it_at_once),
        TEST(test_another_thread_may_end_the_run),
        TEST(test_a_round_within_a_round_frees_nothing_in_use),
        TEST(test_workers_take_work_in_bounds_and_report),
        TEST(test_queued_work_is_finished_before_the_end),
        TEST(test_a_worker_has_some_stack),
        TEST(test_signals_are_events),
        TEST(test_no_memory_is_an_error_and_nothing_breaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
