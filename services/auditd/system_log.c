#include "services/auditd/system_log.h"

#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>

#include "libcommon/audit.h"
#include "libcommon/buf.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "services/auditd/auditd.h"
#include "services/auditd/pack.h"

#include "libcommon/banned.h"

enum { MANIFEST_MAX = 2 << 20, OFFERED_SIZE = 64 };
static const char disk_name[] = "System";
static const char setting_key[] = "system log";
static const uint64_t retry_us = UINT64_C(60) * 1000000;

/* ---- the disk ---- */

struct room {
    uint64_t total, free, most; /* bytes */
};

/* 0 or -errno. */
static int
find_room(const struct auditd *a, struct room *ret_room)
{
    struct statvfs fs;
    const struct sys_log *l = &a->log.machine;
    if (statvfs(l->place(l), &fs) < 0 && statvfs(a->svc->state_dir, &fs) < 0)
        return -errno;
    uint64_t total = (uint64_t)fs.f_blocks * fs.f_frsize;
    *ret_room = (struct room){ total, (uint64_t)fs.f_bavail * fs.f_frsize, total / 2 };
    return 0;
}

static int64_t
most_mb(const struct room *room)
{
    return room->most >> 20 > 0 ? (int64_t)(room->most >> 20) : 1;
}

static enum api_status
add_disk(struct api_call *call, const struct room *room, struct system_log_setting *s)
{
    struct system_log_disk *disk = api_alloc(call, sizeof(*disk));
    if (!disk)
        return API_TOO_LARGE;
    uint64_t used = room->total > room->free ? room->total - room->free : 0;
    uint64_t tenths = room->total > 0 ? used * 1000 / room->total : 0;
    *disk = (struct system_log_disk){ .name = disk_name,
                                      .total = room->total,
                                      .free = room->free,
                                      .used = used,
                                      .percent = (double)tenths / 10,
                                      .max_free = (double)room->most };
    s->disks = disk;
    s->n_disks = 1;
    return API_OK;
}

/* ---- seeing to it ---- */

struct telling {
    struct auditd *a;
    struct sys_log_limits limits;
    int error;
};

static void tell(void *arg);

static void
tell_in(struct auditd *a, uint64_t us)
{
    if (loop_timer_set(a->svc->loop, &a->log.timer, clock_mono_us() + us) < 0)
        log_warn("auditd: out of memory for a timer");
}

static void
work(void *arg)
{
    struct telling *t = arg;
    const struct sys_log *l = &t->a->log.machine;
    t->error = l->limit(l, &t->limits);
}

static void
told(void *arg)
{
    struct telling *t = arg;
    struct auditd *a = t->a;
    const struct sys_log *l = &a->log.machine;
    a->log.is_telling = false;
    if (t->error < 0)
        log_err("auditd: cannot limit the system log error=%s", strerror(-t->error));
    uint64_t wait = t->error < 0 ? retry_us : l->period_us;
    tell_in(a, a->log.changed ? l->pause_us : wait);
    free(t);
}

static void
tell(void *arg)
{
    struct auditd *a = arg;
    struct telling *t = malloc(sizeof(*t));
    if (t) {
        const struct system_log_setting *s = &a->log.setting;
        *t = (struct telling){
            .a = a,
            .limits = { (uint64_t)s->desired_disk_cache_size_mb,
                        s->enable_time_to_live ? (unsigned)s->time_to_live_day : 0 },
        };
        a->log.changed = false;
        a->log.is_telling = loop_work(a->svc->loop, work, told, t) == 0;
    }
    if (!a->log.is_telling) {
        free(t);
        tell_in(a, retry_us);
    }
}

/* What it points to goes with a call or an arena. */
static void
set_setting(struct auditd *a, const struct system_log_setting *s)
{
    a->log.setting = *s;
    a->log.setting.target_disk_name = disk_name; /* there is no other */
    a->log.setting.disks = NULL;
    a->log.setting.n_disks = 0;
}

/* The machine is told soon: not while it is being told, and not sooner than it wants. */
static void
setting_committed(void *self, void *arg)
{
    struct auditd *a = self;
    set_setting(a, arg);
    a->log.changed = true;
    if (!a->log.is_telling)
        tell_in(a, a->log.machine.pause_us);
}

static int
open_machine(struct auditd *a)
{
    char dir[PATH_MAX];
    if (a->svc->profile == SVC_PROFILE_DEVICE)
        return sys_log_device(&a->log.machine, a->svc->run_dir);
    int n = snprintf(dir, sizeof(dir), "%s/../log", a->svc->state_dir);
    if (n < 0 || (size_t)n >= sizeof(dir))
        return -ENAMETOOLONG;
    return sys_log_bench(&a->log.machine, a->log.dir ? a->log.dir : dir);
}

static int
load_setting(struct auditd *a)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    CLEANUP(api_arena_freep) struct api_arena *arena = api_arena_new(1 << 16);
    struct system_log_setting s = { 0 };
    int r = arena ? store_read(a->svc->store, &txn) : -ENOMEM;
    if (r == 0)
        r = api_store_get(arena, txn, TRAIL_DB_CONFIG, setting_key, strlen(setting_key),
                          &system_log_setting_desc, &s);
    if (r == STORE_NOT_FOUND)
        r = api_defaults(arena, &system_log_setting_desc, &s);
    if (r == 0)
        set_setting(a, &s);
    return r;
}

int
system_log_start(struct auditd *a)
{
    struct room room = { 0 };
    int r = open_machine(a);
    if (r == 0)
        r = load_setting(a);
    if (r == 0)
        r = find_room(a, &room);
    if (r < 0) {
        log_err("auditd: cannot see to the system log error=%s", strerror(-r));
        return r;
    }
    /* On a small disk the default may be more than there can be. */
    if (a->log.setting.desired_disk_cache_size_mb > most_mb(&room))
        a->log.setting.desired_disk_cache_size_mb = most_mb(&room);
    loop_timer_init(&a->log.timer, tell, a);
    tell(a);
    return 0;
}

void
system_log_stop(struct auditd *a)
{
    if (a->svc && a->log.timer.fn)
        loop_timer_cancel(a->svc->loop, &a->log.timer);
}

/* ---- the download ---- */

struct log_zip {
    const struct sys_log *machine;
    struct system_log_setting setting;
    bool is_bench;
    int64_t at_us;
    struct api_pipe *pipe;
};

static int
to_client(void *arg, const void *bytes, size_t n)
{
    return api_pipe_write(arg, bytes, n);
}

/* What the other entries are, the last entry: their sizes are known only now. */
static int
put_manifest(const struct log_zip *d, struct pack *z)
{
    struct buf b;
    char at[CLOCK_TEXT_SIZE];
    clock_format(d->at_us, 0, at);
    buf_init(&b, MANIFEST_MAX);
    jw_open(&b, '{');
    jw_kstr(&b, "profile", d->is_bench ? "bench" : "device");
    jw_kstr(&b, "madeAt", at);
    jw_ki64(&b, "desiredDiskCacheSizeMB", d->setting.desired_disk_cache_size_mb);
    jw_kbool(&b, "enableTimeToLive", d->setting.enable_time_to_live);
    jw_ki64(&b, "timeToLiveDay", d->setting.time_to_live_day);
    jw_name(&b, "entries");
    pack_put_list(z, &b);
    jw_close(&b, '}');
    buf_putc(&b, '\n');
    int r = b.err ? b.err : pack_entry(z, "manifest.json", 0, d->at_us);
    if (r == 0)
        r = pack_write(z, b.data, b.len);
    buf_done(&b);
    return r;
}

static int
send_zip(struct api_pipe *pipe, void *arg)
{
    const struct log_zip *d = arg;
    CLEANUP(pack_freep) struct pack *z = NULL;
    int r = pack_new(PACK_ZIP, to_client, pipe, &z);
    if (r == 0)
        r = d->machine->put(d->machine, z);
    if (r == 0)
        r = put_manifest(d, z);
    if (r == 0)
        r = pack_finish(z);
    if (r < 0 && r != -EPIPE && r != -ECANCELED) /* the client went, or we do */
        log_err("auditd: cannot read the system log error=%s", strerror(-r));
    return r;
}

/* system-log-2026-03-02T021112.zip */
static const char *
name_download(struct api_call *call, int64_t at_us)
{
    char at[CLOCK_TEXT_SIZE];
    clock_format(at_us, 0, at);
    return api_printf(call, "system-log-%.13s%.2s%.2s.zip", at, at + 14, at + 17);
}

static enum api_status
download(struct auditd *a, struct api_call *call)
{
    struct log_zip *d = malloc(sizeof(*d));
    if (!d)
        return api_fail_errno(call, -ENOMEM, "cannot read the system log");
    *d = (struct log_zip){ .machine = &a->log.machine,
                           .setting = a->log.setting,
                           .is_bench = a->svc->profile == SVC_PROFILE_BENCH,
                           .at_us = clock_wall_us() };
    enum api_status status = api_reply_pipe(call, "application/zip",
                                            name_download(call, d->at_us), send_zip, free, d);
    int r = status == API_OK ? auditd_record_download(a, call, "systemLogDownload",
                                                      "The system log was downloaded")
                             : 0;
    return r < 0 ? api_fail_errno(call, r, "cannot record the download") : status;
}

/* ---- operations ---- */

enum api_status
auditd_get_system_log(struct auditd *self, struct api_call *call,
                      const struct auditd_get_system_log_query *query)
{
    struct system_log_answer answer = { .data = self->log.setting };
    struct room room = { 0 };
    if (query->download)
        return download(self, call);
    int r = find_room(self, &room);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the state of the disk");
    enum api_status status = add_disk(call, &room, &answer.data);
    if (status == API_OK)
        api_encode(api_reply_buf(call), &system_log_answer_desc, &answer, false);
    return status;
}

enum api_status
auditd_put_system_log(struct auditd *self, struct api_call *call,
                      struct system_log_setting *reply)
{
    struct room room = { 0 };
    int r = find_room(self, &room);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the state of the disk");
    *reply = self->log.setting;
    enum api_status status = api_merge(call, &system_log_setting_desc, reply);
    if (status != API_OK)
        return status;
    if (!str_eq(reply->target_disk_name, disk_name))
        return api_fail(call, API_INVALID, "/targetDiskName", "disk not found");
    if (reply->desired_disk_cache_size_mb > most_mb(&room))
        return api_fail(call, API_INVALID, "/desiredDiskCacheSizeMB", "size must <= %lld MB",
                        (long long)most_mb(&room));
    reply->disks = NULL;
    reply->n_disks = 0;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    r = api_store_put(txn, TRAIL_DB_CONFIG, setting_key, strlen(setting_key),
                      &system_log_setting_desc, reply);
    if (r < 0)
        return api_fail_errno(call, r, "cannot save");
    api_after_commit(call, setting_committed, reply);
    return add_disk(call, &room, reply);
}
