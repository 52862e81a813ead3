/*
 * auditd: see auditd.h.
 */
#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "libcommon/log.h"
#include "libcommon/str.h"
#include "proto/internal.h"
#include "services/auditd/auditd.h"

#include "libcommon/banned.h"

/*
 * One limits the log and one checks files, which may take long: each begins the next when it
 * has ended. One is left for the security advisor.
 */
enum { AUDITD_WORKERS = 3 };

static int
load_setting(struct auditd *a, struct store_txn *txn)
{
    CLEANUP(api_arena_freep) struct api_arena *arena = api_arena_new(1 << 16);
    if (!arena)
        return -ENOMEM;
    int r = api_store_get(arena, txn, TRAIL_DB_CONFIG, "setting", strlen("setting"),
                          &audit_setting_desc, &a->setting);
    return r == STORE_NOT_FOUND ? api_defaults(arena, &audit_setting_desc, &a->setting) : r;
}

/* Records of a schema that had no index, or of another one, get into it. */
static int
complete_index(struct auditd *a)
{
    enum { STEP = 20000 }; /* in one transaction, whose pages are in memory */
    int n = STEP;
    for (uint64_t sum = 0; n == STEP; sum += STEP) {
        CLEANUP(store_abortp) struct store_txn *txn = NULL;
        int r = store_begin(a->svc->store, &txn);
        if (r == 0)
            r = n = trail_index_catch_up(txn, &a->state, STEP);
        if (r > 0)
            r = store_commit(MOVE_PTR(txn));
        if (r < 0)
            return r;
        if (n == STEP)
            log_info("auditd: making the index records=%llu", (unsigned long long)sum + STEP);
    }
    return 0;
}

static int
auditd_open(void *self, struct svc *svc)
{
    struct auditd *a = self;
    a->svc = svc;
    (void)trail_event_by_code(0); /* makes its table, which other threads read later */
    loop_set_workers(svc->loop, AUDITD_WORKERS, ADVISOR_WORKS_MAX);
    return sodium_init() < 0 ? -EIO : advisor_open(a);
}

static int
auditd_start(void *self, struct svc *svc)
{
    struct auditd *a = self;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    int r = store_read(svc->store, &txn);
    if (r == 0)
        r = trail_load(txn, &a->state);
    if (r == 0)
        r = load_setting(a, txn);
    if (r < 0) {
        log_err("auditd: cannot read the store error=%s", strerror(-r));
        return r;
    }
    store_abort(MOVE_PTR(txn));
    r = complete_index(a);
    if (r < 0) {
        log_err("auditd: cannot complete the index error=%s", strerror(-r));
        return r;
    }
    /* On a small disk the default may be more than there can be. */
    int64_t max_mb = auditd_max_size_mb(a);
    if (a->setting.desired_disk_cache_size_mb > max_mb)
        a->setting.desired_disk_cache_size_mb = max_mb;
    auditd_init_timers(a);
    auditd_init_pages(a);
    r = system_log_start(a);
    return r == 0 ? integrity_start(a) : r;
}

static void
auditd_stop(void *self, struct svc *svc)
{
    struct auditd *a = self;
    (void)svc;
    integrity_stop(a);
    system_log_stop(a);
    auditd_stop_timers(a);
    auditd_stop_pages(a);
    advisor_stop(a->advisor);
}

static int
set_age_check(void *self, const char *value)
{
    struct auditd *a = self;
    uint32_t s;
    if (parse_u32(value, 1, 86400, &s) < 0)
        return -EINVAL;
    a->age_check_us = s * UINT64_C(1000000);
    return 0;
}

static int
set_log_dir(void *self, const char *value)
{
    ((struct auditd *)self)->log.dir = value;
    return value[0] ? 0 : -EINVAL;
}

static int
set_manifest(void *self, const char *value)
{
    ((struct auditd *)self)->integrity.manifest = value;
    return value[0] == '/' ? 0 : -EINVAL;
}

int
main(int argc, char **argv)
{
    static const struct svc_internal internals[] = {
        { INTERNAL_AUDIT_APPEND, auditd_append },
        { 0, NULL },
    };
    static const struct svc_option options[] = {
        { "age-check-s", "how often the age of records is looked at (default 3600)",
          set_age_check },
        { "log-dir", "bench: where the programs' logs are (default <state>/log)", set_log_dir },
        { "manifest", "of installed files, to check them against (default: none)",
          set_manifest },
        { NULL, NULL, NULL },
    };
    static const struct svc_info info = {
        .name = "auditd",
        .ops = auditd_ops,
        .n_ops = &auditd_n_ops,
        .internals = internals,
        .options = options,
        .dbs = trail_dbs,
        .n_dbs = TRAIL_N_DBS,
        .schema = TRAIL_SCHEMA,
        .migrate = trail_migrate,
        .open = auditd_open,
        .start = auditd_start,
        .stop = auditd_stop,
    };
    static struct auditd auditd = { .age_check_us = UINT64_C(3600) * 1000000 };
    return svc_main(&info, &auditd, argc, argv);
}
