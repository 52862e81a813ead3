/*
 * GET /audits/verify, and the anchors that make it worth something: whoever
 * can rewrite the whole store can make a new chain, but not the hashes that
 * were noted outside before. So the newest one is told to the journal at
 * start and once a day, and a client may bring one.
 */
#include <errno.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "services/auditd/auditd.h"

#include "libcommon/banned.h"

enum {
    STEP = 1000, /* records checked in one transaction; then others have their turn */
    CHECKS_MAX = 4,
    HASH_TEXT_SIZE = 2 * TRAIL_HASH_SIZE + 1,
};

struct check {
    struct auditd *a;
    struct api_call *call;
    struct audit_check *reply;
    struct trail_check trail;
    struct loop_timer timer;
};

static void
finish(struct check *c, enum api_status status)
{
    struct api_call *call = c->call;
    c->a->n_checks--;
    free(c);
    api_finish(call, status);
}

static enum api_status
refuse_rotated(struct api_call *call)
{
    return api_fail(call, API_NOT_FOUND, "/sinceId", "that record was rotated away");
}

static void
tell(struct check *c)
{
    const struct trail_check *t = &c->trail;
    if (t->since_id > 0 && !t->has_compared && !t->reason) { /* while we checked */
        finish(c, refuse_rotated(c->call));
        return;
    }
    char *hash = api_alloc(c->call, HASH_TEXT_SIZE);
    if (!hash) {
        finish(c, API_TOO_LARGE);
        return;
    }
    hex_encode(t->hash, TRAIL_HASH_SIZE, hash);
    *c->reply = (struct audit_check){
        .ok = !t->reason,
        .records = (int64_t)t->n,
        .first_id = (int64_t)t->first_id,
        .last_id = (int64_t)(t->next_id - 1),
        .last_hash = hash,
        .bad_id = (int64_t)t->bad_id,
        .reason = t->reason ? t->reason : "",
    };
    if (t->reason)
        log_err("auditd: the chain of the audit log is broken id=%llu reason=\"%s\"",
                (unsigned long long)t->bad_id, t->reason);
    finish(c, API_OK);
}

static void
go_on(void *arg)
{
    struct check *c = arg;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    if (c->call->request->deadline_us <= clock_mono_us()) {
        finish(c,
               api_fail(c->call, API_TIMEOUT, NULL, "the log is too large to check in time"));
        return;
    }
    int r = store_read(c->a->svc->store, &txn);
    if (r == 0)
        r = trail_check_step(txn, &c->a->state, &c->trail, STEP);
    store_abort(MOVE_PTR(txn));
    if (r == TRAIL_CHECK_MORE)
        r = loop_timer_set(c->a->svc->loop, &c->timer, clock_mono_us());
    else if (r == TRAIL_CHECK_DONE) {
        tell(c);
        return;
    }
    if (r < 0)
        finish(c, api_fail_errno(c->call, r, "cannot read the audit log"));
}

/* The anchor that a client brought, or a refusal. */
static enum api_status
read_anchor(struct api_call *call, const struct auditd_get_audits_verify_query *query,
            struct trail_check *t)
{
    if (!query->has_since_id && !query->since_hash)
        return API_OK;
    if (!query->has_since_id || !query->since_hash)
        return api_fail(call, API_INVALID, query->has_since_id ? "/sinceHash" : "/sinceId",
                        "sinceId and sinceHash go together");
    if (hex_decode(query->since_hash, strlen(query->since_hash), t->since_hash,
                   TRAIL_HASH_SIZE) != TRAIL_HASH_SIZE)
        return api_fail(call, API_INVALID, "/sinceHash", "sinceHash must be %d hex digits",
                        2 * TRAIL_HASH_SIZE);
    t->since_id = (uint64_t)query->since_id;
    if (t->since_id + 1 < t->first_id)
        return refuse_rotated(call);
    return API_OK;
}

enum api_status
auditd_get_audits_verify(struct auditd *self, struct api_call *call,
                         const struct auditd_get_audits_verify_query *query,
                         struct audit_check *reply)
{
    struct trail_check trail;
    trail_check_begin(&trail, &self->state);
    enum api_status status = read_anchor(call, query, &trail);
    if (status != API_OK)
        return status;
    if (self->n_checks == CHECKS_MAX)
        return api_fail(call, API_UNAVAILABLE, NULL, "too many checks at once");
    struct check *c = calloc(1, sizeof(*c));
    if (!c)
        return api_fail_errno(call, -ENOMEM, "cannot check");
    *c = (struct check){ .a = self, .call = call, .reply = reply, .trail = trail };
    loop_timer_init(&c->timer, go_on, c);
    if (loop_timer_set(self->svc->loop, &c->timer, clock_mono_us()) < 0) {
        free(c);
        return api_fail_errno(call, -ENOMEM, "cannot check");
    }
    self->n_checks++;
    return API_PENDING;
}

void
auditd_tell_head(const struct auditd *a)
{
    char hash[HASH_TEXT_SIZE];
    if (a->state.next_id == 1)
        return;
    hex_encode(a->state.last_hash, TRAIL_HASH_SIZE, hash);
    log_info("auditd: newest record id=%llu hash=%s",
             (unsigned long long)(a->state.next_id - 1), hash);
}
