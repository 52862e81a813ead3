/*
 * Answers that are written while the client reads them: a thread of their own
 * writes into a FIFO of the spool, the gateway sends on what comes out
 * (proto/README.md section 2, body kind 5). Nothing of them is kept in memory
 * or on disk beyond one block, and a reader that is slow stops the writer.
 *
 * The loop thread makes a pipe and frees it; between the two the writer's
 * thread has it, and lends itself to the loop through 'post' only.
 */
#include "libcommon/api.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "libcommon/api_private.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/metrics.h"
#include "libcommon/spool.h"
#include "libcommon/svc.h"

#include "libcommon/banned.h"

enum {
    PIPES_MAX = 4,         /* of a daemon at once */
    OPEN_MS = 10 * 1000,   /* the gateway opens its end within this */
    OPEN_TRY_MS = 5,       /* how often that is looked for */
    STALL_MS = 60 * 1000,  /* a client that takes nothing for so long is given up */
    STOP_LOOK_MS = 50,     /* a waiting writer sees within this that the daemon stops */
    HEAD = 4,              /* length of a block */
    BLOCK_MAX = 32 * 1024, /* bytes of a block */
};

struct api_pipe {
    struct api_pipe *next;
    struct api_pipes *all;
    api_pipe_fn *fn;
    void (*done)(void *arg);
    void *arg;
    const char *op; /* its name, for the log */
    uint64_t request_id;
    char path[PATH_MAX];

    pthread_t thread;
    pthread_mutex_t lock; /* of 'posted' and 'stopping' */
    pthread_cond_t changed;
    bool posted; /* 'post' is on its way to the loop */
    _Atomic bool stopping;
    struct loop_post post;
    void (*on_loop)(void *arg); /* what 'post' carries; NULL: the thread has ended */
    void *on_loop_arg;
    bool is_orphan; /* forgotten by the loop: 'post' only frees it */

    int fd;
    size_t n; /* bytes gathered in 'block', behind its head */
    uint8_t block[HEAD + BLOCK_MAX];
};

struct api_pipes {
    struct svc *svc;
    struct api_pipe *first;
    size_t n;
};

static struct metric_counter pipes_open = { .name = "fieldgate_pipes_open",
                                            .help = "Answers being written while they are read",
                                            .gauge = true };

/* ---- the writer's thread ---- */

/* Waits for 'fd' to take bytes, or only for the time (fd < 0). -ECANCELED: the daemon stops. */
static int
wait_a_little(struct api_pipe *p, int fd, int ms)
{
    struct pollfd wanted = { .fd = fd, .events = POLLOUT };
    (void)poll(&wanted, fd < 0 ? 0 : 1, ms); /* an early return is one more try */
    return atomic_load(&p->stopping) ? -ECANCELED : 0;
}

/* The FIFO opens for writing only once somebody reads; -ENOENT: nobody will any more. */
static int
open_writer(struct api_pipe *p)
{
    uint64_t until_us = clock_mono_us() + OPEN_MS * 1000ull;
    int r = 0;
    while (r == 0) {
        p->fd = open(p->path, O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
        if (p->fd >= 0)
            return 0;
        if (errno != ENXIO)
            return -errno;
        r = clock_mono_us() < until_us ? wait_a_little(p, -1, OPEN_TRY_MS) : -ETIMEDOUT;
    }
    return r;
}

static int
write_all(struct api_pipe *p, const uint8_t *bytes, size_t n)
{
    uint64_t until_us = clock_mono_us() + STALL_MS * 1000ull;
    int r = 0;
    while (n > 0 && r == 0) {
        ssize_t did = write(p->fd, bytes, n);
        if (did > 0) {
            bytes += did;
            n -= (size_t)did;
            until_us = clock_mono_us() + STALL_MS * 1000ull;
        } else if (did < 0 && errno != EAGAIN && errno != EINTR) {
            r = -errno;
        } else {
            r = clock_mono_us() < until_us ? wait_a_little(p, p->fd, STOP_LOOK_MS) : -EPIPE;
        }
    }
    return r;
}

/* The gathered block; an empty one ends the answer well. */
static int
write_block(struct api_pipe *p)
{
    put_u32(p->block, (uint32_t)p->n);
    int r = write_all(p, p->block, HEAD + p->n);
    p->n = 0;
    return r;
}

int
api_pipe_write(struct api_pipe *p, const void *bytes, size_t n)
{
    const uint8_t *from = bytes;
    while (n > 0) {
        size_t room = BLOCK_MAX - p->n, part = n < room ? n : room;
        memcpy(p->block + HEAD + p->n, from, part);
        p->n += part;
        from += part;
        n -= part;
        int r = p->n == BLOCK_MAX ? write_block(p) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

int
api_pipe_on_loop(struct api_pipe *p, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&p->lock);
    int r = atomic_load(&p->stopping) ? -ECANCELED : 0;
    if (r == 0) {
        p->on_loop = fn;
        p->on_loop_arg = arg;
        p->posted = true;
        loop_post(p->all->svc->loop, &p->post, p->post.fn, p);
        while (p->posted && !atomic_load(&p->stopping))
            pthread_cond_wait(&p->changed, &p->lock);
        r = p->posted ? -ECANCELED : 0;
    }
    pthread_mutex_unlock(&p->lock);
    return r;
}

static int
write_answer(struct api_pipe *p)
{
    int r = open_writer(p);
    if (r < 0)
        return r;
    (void)unlink(p->path); /* both ends are open; the gateway's sweep takes what stays */
    r = p->fn(p, p->arg);
    if (r == 0 && p->n > 0)
        r = write_block(p);
    return r == 0 ? write_block(p) : r;
}

static void *
run(void *arg)
{
    struct api_pipe *p = arg;
    log_set_request(p->request_id);
    int r = write_answer(p);
    if (r < 0 && r != -EPIPE && r != -ENOENT && r != -ECANCELED)
        log_err("api: an answer ended early op=%s error=%s", p->op, strerror(-r));
    if (p->fd >= 0)
        (void)close(p->fd); /* nothing is kept by a FIFO */
    else
        (void)unlink(p->path); /* mostly the gateway did */
    pthread_mutex_lock(&p->lock);
    if (!p->posted) { /* else the daemon stops, and that one will do */
        p->posted = true;
        p->on_loop = NULL;
        loop_post(p->all->svc->loop, &p->post, p->post.fn, p);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---- the loop ---- */

static void
pipe_free(struct api_pipe *p)
{
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* Waits for the thread, which has ended or is about to. */
static void
retire(struct api_pipe *p)
{
    struct api_pipes *all = p->all;
    (void)pthread_join(p->thread, NULL); /* ours, and joined once */
    for (struct api_pipe **at = &all->first; *at; at = &(*at)->next)
        if (*at == p) {
            *at = p->next;
            break;
        }
    all->n--;
    metric_set(&pipes_open, all->n);
    p->done(p->arg);
}

static void
on_post(void *arg)
{
    struct api_pipe *p = arg;
    if (p->is_orphan) {
        pipe_free(p);
    } else if (!p->on_loop) {
        retire(p);
        pipe_free(p);
    } else {
        p->on_loop(p->on_loop_arg);
        pthread_mutex_lock(&p->lock);
        p->posted = false;
        pthread_cond_signal(&p->changed);
        pthread_mutex_unlock(&p->lock);
    }
}

static struct api_pipe *
pipe_new(struct api_pipes *all, const struct api_call *call)
{
    struct api_pipe *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->all = all;
    p->op = call->op->name;
    p->request_id = call->request->id;
    p->fd = -1;
    p->post.fn = on_post;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    return p;
}

/* The FIFO and the thread that will write into it. 0 or -errno. */
static int
start(struct api_pipe *p, const char *name)
{
    int r = spool_path(p->all->svc->spool_dir, name, strlen(name), p->path, sizeof(p->path));
    if (r < 0)
        return r;
    if (mkfifo(p->path, 0640) < 0)
        return -errno;
    r = -pthread_create(&p->thread, NULL, run, p);
    if (r < 0)
        (void)unlink(p->path); /* else the gateway's sweep takes it */
    return r;
}

enum api_status
api_reply_pipe(struct api_call *call, const char *content_type, const char *offered_name,
               api_pipe_fn *fn, void (*done)(void *arg), void *arg)
{
    struct api_pipes *all = api_server_pipes(api_private(call)->server);
    char name[API_SPOOL_NAME_SIZE];
    if (all->n >= PIPES_MAX) {
        done(arg);
        return api_fail(call, API_UNAVAILABLE, NULL, "too many downloads at once");
    }
    struct api_pipe *p = pipe_new(all, call);
    int r = p ? 0 : -ENOMEM;
    if (r == 0) {
        p->fn = fn;
        p->done = done;
        p->arg = arg;
        api_spool_name(all->svc, name);
        r = start(p, name);
    }
    if (r < 0) {
        if (p)
            pipe_free(p);
        done(arg);
        return api_fail_errno(call, r, "cannot begin the answer");
    }
    p->next = all->first;
    all->first = p;
    all->n++;
    metric_set(&pipes_open, all->n);
    api_reply_file(call, content_type, name, offered_name);
    api_private(call)->body_kind = BUS_BODY_PIPE;
    return API_OK;
}

struct api_pipes *
api_pipes_new(struct svc *svc)
{
    struct api_pipes *all = calloc(1, sizeof(*all));
    if (!all)
        return NULL;
    all->svc = svc;
    metric_register(&pipes_open);
    return all;
}

void
api_pipes_stop(struct api_pipes *all)
{
    for (struct api_pipe *p = all->first; p; p = p->next) {
        pthread_mutex_lock(&p->lock);
        atomic_store(&p->stopping, true);
        pthread_cond_signal(&p->changed);
        pthread_mutex_unlock(&p->lock);
    }
    while (all->first) {
        struct api_pipe *p = all->first;
        retire(p);
        p->is_orphan = true; /* the loop, if it lives that long, frees it */
    }
}

void
api_pipes_free(struct api_pipes *all)
{
    if (!all)
        return;
    api_pipes_stop(all);
    free(all);
}
