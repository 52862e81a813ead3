/*
 * Operations that take longer than the loop may be held (x-worker): their
 * handlers run in a thread of their own, one at a time, up to the commit of
 * what they changed. One transaction writes at a time, and the loop must not
 * wait for it: so while such a change is under way, other changes, and calls
 * that end with one, wait here for their turn. Reading goes on.
 *
 * The loop owns the queue and every call in it; a call is the thread's from
 * its start until its end is posted.
 */
#include "libcommon/api.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "libcommon/api_private.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/svc.h"

#include "libcommon/banned.h"

enum { WAITING_MAX = 256 }; /* calls; a pending one that ends waits in any case */

/* A call in its thread. */
struct worker {
    struct api_turns *turns;
    struct api_call_private *p;
    enum api_status status;
    pthread_t thread;
    struct loop_post post;
    bool is_orphan; /* the loop forgot it: 'post' only frees it */
};

struct api_turns {
    struct svc *svc;
    struct api_call_private *first, **last;
    unsigned n_waiting, n_changes; /* those with an audit record, the running one too */
    struct worker *running;
};

struct api_turns *
api_turns_new(struct svc *svc)
{
    struct api_turns *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    t->svc = svc;
    t->last = &t->first;
    return t;
}

static bool
is_change(const struct api_call_private *p)
{
    return p->call.op->audit == API_AUDIT_CHANGE;
}

static void
enqueue(struct api_turns *t, struct api_call_private *p)
{
    p->next_turn = NULL;
    *t->last = p;
    t->last = &p->next_turn;
    t->n_waiting++;
    t->n_changes += is_change(p);
}

static struct api_call_private *
dequeue(struct api_turns *t)
{
    struct api_call_private *p = t->first;
    t->first = p->next_turn;
    if (!t->first)
        t->last = &t->first;
    t->n_waiting--;
    t->n_changes -= is_change(p);
    return p;
}

/* ---- the thread ---- */

static void *
work(void *arg)
{
    struct worker *w = arg;
    log_set_request(w->p->call.request->id);
    w->status = api_call_work(w->p);
    loop_post(w->turns->svc->loop, &w->post, w->post.fn, w);
    return NULL;
}

/* ---- the loop ---- */

static void take_turns(struct api_turns *t);

/* Waits for the thread, which has ended or will soon; answers. */
static void
retire(struct worker *w)
{
    struct api_turns *t = w->turns;
    (void)pthread_join(w->thread, NULL); /* ours, and joined once */
    t->running = NULL;
    t->n_changes -= is_change(w->p);
    log_set_request(w->p->call.request->id);
    api_call_deliver(w->p, w->status);
    log_set_request(0);
}

static void
on_post(void *arg)
{
    struct worker *w = arg;
    struct api_turns *t = w->turns;
    if (!w->is_orphan)
        retire(w);
    bool goes_on = !w->is_orphan;
    free(w);
    if (goes_on)
        take_turns(t);
}

static int
start(struct api_turns *t, struct api_call_private *p)
{
    struct worker *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    *w = (struct worker){ .turns = t, .p = p, .post = { .fn = on_post } };
    int r = -pthread_create(&w->thread, NULL, work, w);
    if (r < 0) {
        free(w);
        return r;
    }
    t->running = w;
    t->n_changes += is_change(p);
    return 0;
}

static void
take_turn(struct api_turns *t, struct api_call_private *p)
{
    struct api_call *call = &p->call;
    if (p->resumed)
        api_call_resume(p);
    else if (clock_mono_us() > call->request->deadline_us) /* the client has been told so */
        api_call_deliver(p, api_fail(call, API_TIMEOUT, NULL, "no answer in time"));
    else if (!call->op->worker)
        api_call_run(p);
    else if (start(t, p) < 0)
        api_call_deliver(p, api_fail(call, API_UNAVAILABLE, NULL, "out of memory"));
}

static void
take_turns(struct api_turns *t)
{
    while (!t->running && t->first) {
        struct api_call_private *p = dequeue(t);
        log_set_request(p->call.request->id);
        take_turn(t, p);
        log_set_request(0);
    }
}

bool
api_turns_take(struct api_turns *t, struct api_call_private *p)
{
    if (!p->call.op->worker && !(is_change(p) && t->n_changes > 0))
        return false;
    if (t->n_waiting >= WAITING_MAX && !p->resumed)
        api_call_deliver(p, api_fail(&p->call, API_UNAVAILABLE, NULL,
                                     "too many operations wait for a long one"));
    else
        enqueue(t, p);
    take_turns(t);
    return true;
}

void
api_turns_stop(struct api_turns *t)
{
    struct worker *w = t->running;
    if (w) {
        retire(w);
        w->is_orphan = true; /* the loop, if it lives that long, frees it */
    }
    while (t->first) {
        struct api_call_private *p = dequeue(t);
        if (p->resumed)
            api_call_resume(p);
        else
            api_call_deliver(p, api_fail(&p->call, API_UNAVAILABLE, NULL, "service stops"));
    }
}

void
api_turns_free(struct api_turns *t)
{
    if (!t)
        return;
    api_turns_stop(t);
    free(t);
}
