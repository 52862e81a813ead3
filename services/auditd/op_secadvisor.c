/*
 * The security advisor's scan: asks the daemons and the machine for facts,
 * beside the loop, judges them when all have answered or had their time, and
 * answers everybody who waits. One scan at a time, at most one a second.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/spool.h"
#include "libcommon/str.h"
#include "proto/internal.h"
#include "services/auditd/auditd.h"
#include "services/auditd/secadvisor.h"
#include "services/auditd/sys_linux.h"

#include "libcommon/banned.h"

enum {
    FRESH_US = 1000000, /* a scan is good for so long */
    ASK_US = 2000000,   /* a daemon answers within, or is away */
    CHECK_US = 4000000, /* the audit log's chain is checked so long, … */
    CHECK_STEP = 1000,  /* … so many records at a time */
    STOP_US = 3000000,  /* documents that are being made may take so long to end */
    WAITERS_MAX = 32,   /* requests that wait for a scan */
    DOCUMENTS_MAX = ADVISOR_WORKS_MAX - 1, /* that are made or wait for a worker */
    FACTS_MAX = 512 << 10,                 /* bytes of what a source says */
};

static const char stopping_text[] = "the daemon is stopping";

/* A daemon that is asked. */
struct source {
    struct advisor *s;
    enum sec_source which;
    struct bus_peer *peer;
};

struct waiter {
    struct api_call *call;
    bool download;
};

struct advisor {
    struct auditd *a;
    struct source sources[SEC_N_PEERS];
    struct sec_facts facts;
    unsigned n_pending; /* parts of the scan under way; 0: none is */
    struct trail_check check;
    uint64_t check_until_us;
    struct loop_timer check_timer;
    struct buf machine; /* the worker's until it is done */
    char program_dir[PATH_MAX];
    struct sec_report report;
    uint64_t scanned_us; /* monotonic; 0: never */
    struct waiter waiters[WAITERS_MAX];
    size_t n_waiters;
    unsigned n_documents;
    bool stopping;
};

/* ---- the document ---- */

struct document {
    struct advisor *s;
    struct api_call *call;
    struct sec_report report;
    char name[64]; /* in the spool */
    char path[PATH_MAX];
    int error;
};

static void
document_work(void *arg)
{
    struct document *doc = arg;
    struct buf bytes;
    buf_init(&bytes, SEC_PDF_MAX);
    doc->error = sec_pdf(&doc->report, &bytes);
    if (doc->error == 0)
        doc->error = spool_write(doc->path, bytes.data, bytes.len);
    buf_done(&bytes);
}

static enum api_status
document_answer(struct document *doc)
{
    char offered[128], at[CLOCK_TEXT_SIZE];
    if (doc->error == -ENOENT)
        return api_fail(doc->call, API_INTERNAL, NULL,
                        "the document needs the fonts of the package fonts-dejavu-core");
    if (doc->error < 0)
        return api_fail_errno(doc->call, doc->error, "cannot make the document");
    clock_format(doc->report.at_s * 1000000, 0, at);
    (void)snprintf(offered, sizeof(offered), "security-report-%s-%.10s.pdf", doc->report.host,
                   at); /* fits */
    for (char *c = offered; *c; c++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-", *c))
            *c = '_';
    api_reply_file(doc->call, "application/pdf", doc->name, offered);
    return API_OK;
}

static void
document_done(void *arg)
{
    struct document *doc = arg;
    struct advisor *s = doc->s;
    enum api_status status = document_answer(doc);
    s->n_documents--;
    if (status != API_OK)
        spool_remove(s->a->svc->spool_dir, doc->name, strlen(doc->name));
    api_finish(doc->call, status);
    free(doc);
}

static enum api_status
document_start(struct advisor *s, struct api_call *call)
{
    static unsigned n_made; /* of this process, whose number is in the name too */
    struct svc *svc = s->a->svc;
    if (s->n_documents == DOCUMENTS_MAX)
        return api_fail(call, API_UNAVAILABLE, NULL, "too many reports are being made");
    struct document *doc = calloc(1, sizeof(*doc));
    if (!doc)
        return api_fail_errno(call, -ENOMEM, "cannot make the document");
    doc->s = s;
    doc->call = call;
    doc->report = s->report;
    (void)snprintf(doc->name, sizeof(doc->name), "auditd-report-%d-%u", (int)getpid(),
                   ++n_made); /* fits */
    int r =
        spool_path(svc->spool_dir, doc->name, strlen(doc->name), doc->path, sizeof(doc->path));
    if (r == 0)
        r = loop_work(svc->loop, document_work, document_done, doc);
    if (r < 0) {
        free(doc);
        return api_fail_errno(call, r, "cannot make the document");
    }
    s->n_documents++;
    return API_PENDING;
}

/* ---- the result ---- */

static enum api_status
answer(struct advisor *s, struct api_call *call, bool download)
{
    if (download)
        return document_start(s, call);
    sec_report_json(&s->report, api_reply_buf(call));
    return API_OK;
}

static void
answer_all(struct advisor *s)
{
    size_t n = s->n_waiters;
    s->n_waiters = 0;
    for (size_t i = 0; i < n; i++) {
        struct waiter w = s->waiters[i];
        enum api_status status = answer(s, w.call, w.download);
        if (status != API_PENDING)
            api_finish(w.call, status);
    }
}

/* Since when it is so. The report is as true without it. */
static void
remember(struct advisor *s)
{
    struct store *store = s->a->svc->store;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    bool changed = false;
    int r = store_read(store, &txn);
    if (r == 0)
        r = sec_history_read(txn, TRAIL_DB_CONFIG, &s->report, &changed);
    store_abort(MOVE_PTR(txn));
    if (r == 0 && changed) {
        r = store_begin(store, &txn);
        if (r == 0)
            r = sec_history_write(txn, TRAIL_DB_CONFIG, &s->report);
        if (r == 0)
            r = store_commit(MOVE_PTR(txn));
    }
    if (r < 0)
        log_warn("auditd: cannot keep since when findings are so error=%s", strerror(-r));
}

/* A part of the scan is over. */
static void
part_done(struct advisor *s)
{
    if (--s->n_pending > 0)
        return;
    if (!s->stopping) {
        s->facts.now_s = clock_wall_us() / 1000000;
        sec_judge(&s->facts, &s->report);
        s->scanned_us = clock_mono_us();
        remember(s);
    }
    sec_facts_done(&s->facts);
    answer_all(s);
}

/* An object, or the source has not answered. */
static void
take_facts(struct advisor *s, enum sec_source which, const char *json, size_t n)
{
    struct json_error e;
    struct cJSON *tree = NULL;
    if (n > FACTS_MAX || json_parse(json, n, &tree, &e) < 0)
        log_warn("auditd: facts that cannot be read source=%s", sec_source_names[which]);
    s->facts.of[which] = tree;
}

/* ---- daemons ---- */

static void
on_facts(void *arg, int error, const struct bus_reply *reply)
{
    struct source *source = arg;
    if (error == 0 && reply->status == API_OK && reply->body_kind == BUS_BODY_JSON)
        take_facts(source->s, source->which, reply->body.p, reply->body.len);
    part_done(source->s);
}

static void
ask(struct source *source)
{
    const struct bus_request request = {
        .kind = BUS_KIND_INTERNAL,
        .op = INTERNAL_SECURITY_FACTS,
        .deadline_us = clock_mono_us() + ASK_US,
        .who = { .kind = BUS_WHO_DAEMON, .name = "auditd" },
    };
    source->s->n_pending++;
    if (bus_call(source->peer, &request, on_facts, source) < 0)
        source->s->n_pending--; /* away: its part of the scan is unknown */
}

/* ---- the audit log ---- */

static void
tell_own_facts(struct advisor *s, const char *chain)
{
    const struct auditd *a = s->a;
    struct buf b;
    buf_init(&b, FACTS_MAX);
    jw_open(&b, '{');
    jw_name(&b, "setting");
    api_encode(&b, &audit_setting_desc, &a->setting, true);
    jw_name(&b, "systemLog");
    api_encode(&b, &system_log_setting_desc, &a->log.setting, true);
    if (a->integrity.state.is_known)
        jw_kstr(&b, "integrity", a->integrity.state.is_insecure ? "insecure" : "good");
    jw_ku64(&b, "bytes", a->state.bytes);
    jw_ku64(&b, "records", a->state.n);
    jw_ku64(&b, "checked", s->check.n);
    jw_ku64(&b, "badId", s->check.bad_id);
    jw_kstr(&b, "chain", chain);
    jw_close(&b, '}');
    if (b.err == 0)
        take_facts(s, SEC_AUDITD, b.data, b.len);
    buf_done(&b);
    part_done(s);
}

static void
check_on(void *arg)
{
    struct advisor *s = arg;
    struct loop *loop = s->a->svc->loop;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    int r = store_read(s->a->svc->store, &txn);
    if (r == 0)
        r = trail_check_step(txn, &s->a->state, &s->check, CHECK_STEP);
    store_abort(MOVE_PTR(txn));
    uint64_t now_us = clock_mono_us();
    if (r == TRAIL_CHECK_MORE && now_us < s->check_until_us &&
        loop_timer_set(loop, &s->check_timer, now_us) == 0)
        return;
    bool is_done = r == TRAIL_CHECK_DONE, is_broken = is_done && s->check.bad_id > 0;
    if (is_broken)
        log_err("auditd: the audit log is damaged id=%llu reason=%s",
                (unsigned long long)s->check.bad_id, s->check.reason);
    else if (r < 0)
        log_err("auditd: cannot check the audit log error=%s", strerror(-r));
    tell_own_facts(s, is_broken ? "broken" : is_done ? "intact" : "unchecked");
}

static void
check_start(struct advisor *s)
{
    uint64_t now_us = clock_mono_us();
    s->n_pending++;
    trail_check_begin(&s->check, &s->a->state);
    s->check_until_us = now_us + CHECK_US;
    if (loop_timer_set(s->a->svc->loop, &s->check_timer, now_us) < 0)
        s->n_pending--; /* out of memory: unknown */
}

/* ---- the machine ---- */

static void
machine_work(void *arg)
{
    struct advisor *s = arg;
    const struct sys_places places = {
        .root = "",
        .state_dir = s->a->svc->state_dir,
        .program_dir = s->program_dir,
    };
    sys_machine_facts(&places, &s->machine);
}

static void
machine_done(void *arg)
{
    struct advisor *s = arg;
    if (s->machine.err == 0)
        take_facts(s, SEC_MACHINE, s->machine.data, s->machine.len);
    buf_done(&s->machine);
    part_done(s);
}

static void
machine_start(struct advisor *s)
{
    buf_init(&s->machine, SYS_FACTS_MAX);
    s->n_pending++;
    if (loop_work(s->a->svc->loop, machine_work, machine_done, s) < 0)
        s->n_pending--; /* the worker is busy with documents: unknown */
}

/* ---- the operation ---- */

/* No part of it ends before this returns. */
static void
scan_start(struct advisor *s)
{
    char host[sizeof(s->report.host)] = "";
    if (gethostname(host, sizeof(host) - 1) < 0 || !host[0] || !utf8_valid(host, strlen(host)))
        (void)str_copy(host, sizeof(host), "unnamed"); /* fits */
    memcpy(s->report.host, host, sizeof(host));
    const char *profile = s->a->svc->profile == SVC_PROFILE_BENCH ? "bench" : "device";
    (void)str_copy(s->report.profile, sizeof(s->report.profile), profile); /* fits */
    for (size_t i = 0; i < SEC_N_PEERS; i++)
        ask(&s->sources[i]);
    machine_start(s);
    check_start(s);
}

enum api_status
auditd_get_security_report(struct auditd *self, struct api_call *call,
                           const struct auditd_get_security_report_query *query)
{
    struct advisor *s = self->advisor;
    if (s->n_pending == 0 && s->scanned_us != 0 &&
        loop_now_us(self->svc->loop) - s->scanned_us < FRESH_US)
        return answer(s, call, query->download);
    if (s->stopping)
        return api_fail(call, API_UNAVAILABLE, NULL, "%s", stopping_text);
    if (s->n_waiters == WAITERS_MAX)
        return api_fail(call, API_UNAVAILABLE, NULL, "too many requests wait for a scan");
    if (s->n_pending == 0)
        scan_start(s);
    if (s->n_pending == 0)
        return api_fail_errno(call, -ENOMEM, "cannot begin a scan");
    s->waiters[s->n_waiters++] = (struct waiter){ call, query->download };
    return API_PENDING;
}

/* ---- life ---- */

static void
find_program_dir(struct advisor *s)
{
    ssize_t n = readlink("/proc/self/exe", s->program_dir, sizeof(s->program_dir) - 1);
    s->program_dir[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(s->program_dir, '/');
    if (slash)
        *slash = '\0';
}

int
advisor_open(struct auditd *a)
{
    struct advisor *s = calloc(1, sizeof(*s));
    int r = s ? 0 : -ENOMEM;
    a->advisor = s;
    for (size_t i = 0; i < SEC_N_PEERS && r == 0; i++) {
        s->sources[i] = (struct source){ .s = s, .which = (enum sec_source)i };
        r = bus_peer(a->svc->bus, sec_source_names[i], &s->sources[i].peer);
    }
    if (r < 0)
        return r;
    s->a = a;
    loop_timer_init(&s->check_timer, check_on, s);
    find_program_dir(s);
    return 0;
}

void
advisor_stop(struct advisor *s)
{
    if (!s)
        return;
    s->stopping = true;
    if (!s->a)
        return; /* half open */
    for (size_t i = 0; i < s->n_waiters; i++)
        api_finish(s->waiters[i].call,
                   api_fail(s->waiters[i].call, API_UNAVAILABLE, NULL, "%s", stopping_text));
    s->n_waiters = 0;
    loop_timer_cancel(s->a->svc->loop, &s->check_timer);
    uint64_t until_us = clock_mono_us() + STOP_US;
    while (s->n_documents > 0 && clock_mono_us() < until_us)
        if (loop_round(s->a->svc->loop, STOP_US / 100) < 0)
            break;
}
