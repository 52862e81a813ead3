#include "services/auditd/integrity.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "libcommon/audit.h"
#include "libcommon/buf.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "proto/internal.h"
#include "services/auditd/auditd.h"

#include "libcommon/banned.h"

enum { STATE_SIZE = 3 + 2 * FIM_HASH_SIZE };
static const char state_key[] = "integrity";
static const uint64_t day_us = UINT64_C(24) * 60 * 60 * 1000000;
static const uint64_t tell_timeout_us = 5 * 1000000, tell_again_us = 5 * 1000000;

_Static_assert((int)FIM_MISSING == (int)INTEGRITY_FINDING_PROBLEM_MISSING &&
                   (int)FIM_UNUSABLE == (int)INTEGRITY_FINDING_PROBLEM_UNUSABLE,
               "problems are the contract's");

struct integrity_job {
    struct auditd *a;
    struct api_call *call; /* NULL: nobody asked */
    bool any_manifest;     /* what is there is right */
    int error;
    struct fim_result result;
    struct integrity_state state; /* after it */
    int64_t at_us;
};

/* ---- the state ---- */

static int
load_state(struct auditd *a, struct integrity_state *ret_state)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    const void *value;
    size_t size;
    int r = store_read(a->svc->store, &txn);
    if (r == 0)
        r = store_get(txn, TRAIL_DB_CONFIG, state_key, strlen(state_key), &value, &size);
    if (r != STORE_OK)
        return r < 0 ? r : 0;
    if (size != STATE_SIZE)
        return -EPROTO;
    const uint8_t *p = value;
    ret_state->is_known = p[0];
    ret_state->is_insecure = p[1];
    ret_state->has_accepted = p[2];
    memcpy(ret_state->accepted, p + 3, FIM_HASH_SIZE);
    memcpy(ret_state->seen, p + 3 + FIM_HASH_SIZE, FIM_HASH_SIZE);
    return 0;
}

static int
save_state(struct store_txn *txn, const struct integrity_state *s)
{
    uint8_t v[STATE_SIZE] = { s->is_known, s->is_insecure, s->has_accepted };
    memcpy(v + 3, s->accepted, FIM_HASH_SIZE);
    memcpy(v + 3 + FIM_HASH_SIZE, s->seen, FIM_HASH_SIZE);
    return store_put(txn, TRAIL_DB_CONFIG, state_key, strlen(state_key), v, sizeof(v));
}

static void
hash_findings(const struct fim_result *result, uint8_t ret_hash[FIM_HASH_SIZE])
{
    crypto_hash_sha256_state h;
    uint8_t number[8];
    (void)crypto_hash_sha256_init(&h); /* these three return 0 */
    put_u64(number, result->n_problems);
    (void)crypto_hash_sha256_update(&h, number, sizeof(number));
    for (size_t i = 0; i < result->n_findings; i++) {
        const struct fim_finding *f = &result->findings[i];
        uint8_t problem = (uint8_t)f->problem;
        (void)crypto_hash_sha256_update(&h, &problem, 1);
        (void)crypto_hash_sha256_update(&h, (const uint8_t *)f->path, strlen(f->path) + 1);
    }
    (void)crypto_hash_sha256_final(&h, ret_hash);
}

/* The state after the check. */
static void
conclude(struct integrity_job *job)
{
    struct integrity_state s = job->a->integrity.state;
    s.is_known = true;
    s.is_insecure = job->result.n_problems > 0;
    if (job->result.is_read && (job->any_manifest || !s.has_accepted)) {
        s.has_accepted = true;
        memcpy(s.accepted, job->result.manifest, FIM_HASH_SIZE);
    }
    hash_findings(&job->result, s.seen);
    job->state = s;
    job->at_us = clock_wall_us();
}

/* ---- authd ---- */

static void
tell_later(struct auditd *a)
{
    if (loop_timer_set(a->svc->loop, &a->integrity.tell, clock_mono_us() + tell_again_us) < 0)
        log_warn("auditd: out of memory for a timer");
}

static void tell_authd(void *arg);

static void
on_told(void *arg, int error, const struct bus_reply *reply)
{
    struct auditd *a = arg;
    a->integrity.is_telling = false;
    if (error == 0 && reply->status == API_OK) {
        tell_authd(a); /* there may be news since */
    } else {
        a->integrity.is_told = false;
        tell_later(a);
    }
}

/* What there is to tell, when authd is there; it is asked again until it has confirmed. */
static void
tell_authd(void *arg)
{
    struct auditd *a = arg;
    struct integrity *in = &a->integrity;
    if (in->is_telling || in->is_told || !bus_peer_is_up(in->authd))
        return;
    const char *status = !in->manifest || !in->state.is_known ? "off"
                         : in->state.is_insecure              ? "insecure"
                                                              : "good";
    char body[32];
    int n = snprintf(body, sizeof(body), "{\"status\":\"%s\"}", status); /* fits */
    struct bus_request request = {
        .kind = BUS_KIND_INTERNAL,
        .op = INTERNAL_INTEGRITY_TOLD,
        .deadline_us = clock_mono_us() + tell_timeout_us,
        .who = { .kind = BUS_WHO_DAEMON, .name = "auditd" },
        .body_kind = BUS_BODY_JSON,
        .body = { body, (uint32_t)n },
    };
    in->is_telling = bus_call(in->authd, &request, on_told, a) == 0;
    in->is_told = in->is_telling;
    if (!in->is_telling)
        tell_later(a);
}

static void
on_authd(void *arg, bool up)
{
    struct auditd *a = arg;
    a->integrity.is_told = false;
    if (up)
        tell_authd(a);
}

/* ---- records ---- */

/* {"problems":n,"findings":[…]}, as many as a record holds. */
static void
put_detail(struct buf *b, const struct fim_result *result)
{
    size_t fits = AUDIT_DETAIL_MAX - 2; /* "]}" */
    buf_printf(b, "{\"problems\":%llu,\"findings\":[", (unsigned long long)result->n_problems);
    for (size_t i = 0; i < result->n_findings; i++) {
        size_t before = b->len;
        jw_open(b, '{');
        jw_kstr(b, "path", result->findings[i].path);
        jw_kstr(b, "problem",
                integrity_finding_desc.fields[1].names[result->findings[i].problem]);
        jw_close(b, '}');
        if (b->len > fits) {
            b->len = before;
            break;
        }
    }
    buf_puts(b, "]}");
}

/* The alert, when there is reason for one. 0 or -errno. */
static int
put_alert(const struct integrity_job *job, struct store_txn *txn)
{
    const struct api_call *call = job->call;
    char message[96];
    struct buf detail;
    if (!job->state.is_insecure)
        return 0;
    (void)snprintf(message, sizeof(message), "File integrity: %llu problems",
                   (unsigned long long)job->result.n_problems); /* fits */
    buf_init(&detail, 2 * AUDIT_DETAIL_MAX + PATH_MAX);
    put_detail(&detail, &job->result);
    struct audit_record record = { .event = "integrityFail",
                                   .message = message,
                                   .detail = detail.err ? "" : buf_text(&detail),
                                   .source = call ? call->who->name : "auditd",
                                   .addr = call ? call->who->addr : "",
                                   .request_id = call ? call->request->id : 0,
                                   .at_us = job->at_us };
    int r = audit_put(job->a->svc->outbox, txn, &record);
    buf_done(&detail);
    return r;
}

static int
put_notice(const struct integrity_job *job, struct store_txn *txn)
{
    char message[96];
    (void)snprintf(message, sizeof(message), "%llu files checked, %llu problems",
                   (unsigned long long)job->result.n_files,
                   (unsigned long long)job->result.n_problems); /* fits */
    struct audit_record record = { .event = "integrityCheck",
                                   .message = message,
                                   .detail = "",
                                   .source = "auditd",
                                   .addr = "",
                                   .at_us = job->at_us };
    return audit_put(job->a->svc->outbox, txn, &record);
}

/* ---- a check ---- */

static void
state_committed(void *self, void *arg)
{
    struct auditd *a = self;
    a->integrity.state = *(const struct integrity_state *)arg;
    a->integrity.is_told = false;
    tell_authd(a);
}

static enum api_status
fill_report(const struct integrity_job *job, struct integrity_report *reply)
{
    struct api_call *call = job->call;
    char at[CLOCK_TEXT_SIZE];
    const struct fim_result *result = &job->result;
    clock_format(job->at_us, 6, at);
    *reply = (struct integrity_report){
        .has_status = true,
        .status = job->state.is_insecure ? INTEGRITY_REPORT_STATUS_INSECURE
                                         : INTEGRITY_REPORT_STATUS_GOOD,
        .checked_at = api_strdup(call, at),
        .files = (int64_t)result->n_files,
        .problems = (int64_t)result->n_problems,
        .findings = api_alloc(call, (result->n_findings + 1) * sizeof(*reply->findings)),
    };
    if (!reply->checked_at || !reply->findings)
        return API_TOO_LARGE;
    for (size_t i = 0; i < result->n_findings; i++) {
        const char *path = api_strdup(call, result->findings[i].path);
        if (!path)
            return API_TOO_LARGE;
        reply->findings[reply->n_findings++] = (struct integrity_finding){
            .path = path, .has_problem = true, .problem = (int)result->findings[i].problem
        };
    }
    return API_OK;
}

/* Whoever asked: the state, both records and the answer are one. */
static enum api_status
answer(struct integrity_job *job)
{
    struct api_call *call = job->call;
    if (job->error < 0)
        return api_fail_errno(call, job->error, "cannot check the files");
    struct integrity_state *state = api_alloc(call, sizeof(*state));
    struct store_txn *txn = state ? api_txn(call) : NULL;
    if (!txn)
        return API_INTERNAL;
    *state = job->state;
    int r = save_state(txn, state);
    if (r == 0)
        r = put_alert(job, txn);
    if (r < 0)
        return api_fail_errno(call, r, "cannot save the result");
    api_audit_message(
        call, "%llu files checked, %llu problems%s", (unsigned long long)job->result.n_files,
        (unsigned long long)job->result.n_problems,
        job->any_manifest && job->result.is_read ? "; the manifest was accepted" : "");
    api_after_commit(call, state_committed, state);
    return fill_report(job, call->reply);
}

/* Nobody asked: kept, and recorded, when it found something else than the last one. */
static int
keep(struct integrity_job *job)
{
    struct auditd *a = job->a;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    const struct integrity_state *was = &a->integrity.state;
    if (job->error < 0)
        return job->error;
    if (was->is_known && was->is_insecure == job->state.is_insecure &&
        memcmp(was->seen, job->state.seen, FIM_HASH_SIZE) == 0)
        return 0;
    int r = store_begin(a->svc->store, &txn);
    if (r == 0)
        r = save_state(txn, &job->state);
    if (r == 0)
        r = put_notice(job, txn);
    if (r == 0)
        r = put_alert(job, txn);
    if (r == 0)
        r = store_commit(MOVE_PTR(txn));
    if (r == 0)
        audit_kick(a->svc->outbox);
    else
        memset(job->state.seen, 0, FIM_HASH_SIZE); /* so the next check records it */
    state_committed(a, &job->state); /* sign-ins tell the truth on a full disk, too */
    return r;
}

static void
work(void *arg)
{
    struct integrity_job *job = arg;
    const struct integrity *in = &job->a->integrity;
    const uint8_t *accepted =
        job->any_manifest || !job->state.has_accepted ? NULL : job->state.accepted;
    job->error = fim_check(in->manifest, accepted, &in->hurry, &job->result);
}

static int begin_check(struct auditd *a, struct api_call *call);

/* The result is answered, or kept. */
static void
use(struct integrity_job *job)
{
    if (job->error == 0)
        conclude(job);
    if (job->result.n_problems > 0)
        log_warn("auditd: files are not as installed problems=%llu first=%s",
                 (unsigned long long)job->result.n_problems,
                 job->result.n_findings ? job->result.findings[0].path : "");
    if (job->call) {
        api_finish(job->call, answer(job));
        return;
    }
    int r = keep(job);
    if (r < 0)
        log_err("auditd: a file integrity check failed error=%s", strerror(-r));
}

static void
done(void *arg)
{
    struct integrity_job *job = arg;
    struct auditd *a = job->a;
    a->integrity.job = NULL;
    use(job);
    fim_result_done(&job->result);
    free(job);
    struct api_call *next = MOVE_PTR(a->integrity.waiting);
    int r = next ? begin_check(a, next) : 0;
    if (r < 0)
        api_finish(next, api_fail_errno(next, r, "cannot check the files"));
}

/* For 'call', or NULL. None is under way. 0 or -errno: then it is not begun. */
static int
begin_check(struct auditd *a, struct api_call *call)
{
    struct integrity_job *job = calloc(1, sizeof(*job));
    if (!job)
        return -ENOMEM;
    const struct auditd_put_system_fim_query *query = call ? call->query : NULL;
    *job = (struct integrity_job){ .a = a,
                                   .call = call,
                                   .any_manifest = query && query->accept,
                                   .state = a->integrity.state };
    atomic_store(&a->integrity.hurry, call != NULL);
    int r = loop_work(a->svc->loop, work, done, job);
    if (r < 0)
        free(job);
    else
        a->integrity.job = job;
    return r;
}

static void
daily(void *arg)
{
    struct auditd *a = arg;
    int r = a->integrity.job ? 0 : begin_check(a, NULL);
    if (r < 0)
        log_err("auditd: cannot check the files error=%s", strerror(-r));
    if (loop_timer_set(a->svc->loop, &a->integrity.daily, clock_mono_us() + day_us) < 0)
        log_warn("auditd: out of memory for a timer");
}

enum api_status
auditd_put_system_fim(struct auditd *self, struct api_call *call,
                      const struct auditd_put_system_fim_query *query,
                      struct integrity_report *reply)
{
    (void)query; /* read when the check begins, from the call */
    (void)reply; /* filled when it has ended */
    struct integrity *in = &self->integrity;
    if (!in->manifest)
        return api_fail(call, API_NOT_FOUND, NULL,
                        "there is no manifest of installed files here");
    if (in->waiting || (in->job && in->job->call))
        return api_fail(call, API_CONFLICT, NULL, "a check is running already");
    if (in->job) { /* one that nobody asked for: it need not be gentle any more */
        in->waiting = call;
        atomic_store(&in->hurry, true);
        return API_PENDING;
    }
    int r = begin_check(self, call);
    return r < 0 ? api_fail_errno(call, r, "cannot check the files") : API_PENDING;
}

int
integrity_start(struct auditd *a)
{
    struct integrity *in = &a->integrity;
    loop_timer_init(&in->daily, daily, a);
    loop_timer_init(&in->tell, tell_authd, a);
    int r = load_state(a, &in->state);
    if (r == 0)
        r = bus_peer(a->svc->bus, "authd", &in->authd);
    if (r == 0)
        r = bus_peer_watch(in->authd, on_authd, a);
    if (r == 0 && in->manifest)
        daily(a);
    if (r == 0)
        tell_authd(a);
    else
        log_err("auditd: cannot see to file integrity error=%s", strerror(-r));
    return r;
}

void
integrity_stop(struct auditd *a)
{
    if (!a->svc || !a->integrity.daily.fn)
        return;
    loop_timer_cancel(a->svc->loop, &a->integrity.daily);
    loop_timer_cancel(a->svc->loop, &a->integrity.tell);
}
