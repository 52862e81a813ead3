/*
 * What every daemon does alike: see svc.h.
 */
#include "libcommon/svc.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "libcommon/api.h"
#include "libcommon/audit.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/metrics.h"
#include "libcommon/str.h"
#include "libcommon/tagbus.h"
#include "proto/internal.h"

#include "libcommon/banned.h"

enum { PATH_SIZE = 4096, SETTINGS_MAX = 32, DRAIN_MS = 200, METRICS_MAX = 3 << 20 };

#define X(name) #name,
static const char *const daemon_names[INTERNAL_N_DAEMONS] = { INTERNAL_DAEMON_TABLE(X) };
#undef X

struct frame {
    struct svc svc;
    enum log_level level;
    bool check_config, describe;
    const char *state, *run;
    const char *settings[SETTINGS_MAX];
    size_t n_settings;
    char state_dir[PATH_SIZE], spool_dir[PATH_SIZE], bus_dir[PATH_SIZE];
    struct bus_user users[INTERNAL_N_DAEMONS];
    uint32_t gateway_uid;
    bool opened;
    struct loop_timer watchdog;
    uint64_t watchdog_us;
};

static void
usage(const struct svc_info *info, FILE *to)
{
    fprintf(to,
            "usage: %s [options]\n"
            "  --profile device|bench  the machine, or a simulated one (default device)\n"
            "  --state DIR             where state lives (default /var/lib/fieldgate)\n"
            "  --run DIR               where sockets live (default /run/fieldgate)\n"
            "  --log-level LEVEL       err, warn, info, debug (default info)\n"
            "  --set KEY=VALUE         see below; may be repeated\n"
            "  --check-config          stop after reading the options\n"
            "  --describe              print the operations and stop\n",
            info->name);
    for (const struct svc_option *o = info->options; o && o->key; o++)
        fprintf(to, "  --set %s=…  %s\n", o->key, o->help);
}

static int
read_options(struct frame *f, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
        if (str_eq(a, "--check-config")) {
            f->check_config = true;
            continue;
        }
        if (str_eq(a, "--describe")) {
            f->describe = true;
            continue;
        }
        if (str_eq(a, "--help")) {
            usage(f->svc.info, stdout);
            exit(0);
        }
        if (!v) {
            fprintf(stderr, "%s: %s is unknown or needs a value\n", f->svc.info->name, a);
            return -EINVAL;
        }
        i++;
        if (str_eq(a, "--profile") && (str_eq(v, "device") || str_eq(v, "bench"))) {
            f->svc.profile = str_eq(v, "bench") ? SVC_PROFILE_BENCH : SVC_PROFILE_DEVICE;
        } else if (str_eq(a, "--state")) {
            f->state = v;
        } else if (str_eq(a, "--run")) {
            f->run = v;
        } else if (str_eq(a, "--log-level") && log_parse_level(v, &f->level) == 0) {
            continue;
        } else if (str_eq(a, "--set") && f->n_settings < SETTINGS_MAX) {
            f->settings[f->n_settings++] = v;
        } else {
            fprintf(stderr, "%s: bad option %s %s\n", f->svc.info->name, a, v);
            return -EINVAL;
        }
    }
    return 0;
}

static int
apply_setting(struct frame *f, const char *text)
{
    const char *equals = strchr(text, '=');
    size_t len = equals ? (size_t)(equals - text) : 0;
    for (const struct svc_option *o = f->svc.info->options; o && o->key && equals; o++)
        if (strlen(o->key) == len && memcmp(o->key, text, len) == 0) {
            int r = o->set(f->svc.self, equals + 1);
            if (r < 0)
                fprintf(stderr, "%s: bad value: --set %s\n", f->svc.info->name, text);
            return r;
        }
    fprintf(stderr, "%s: unknown setting: --set %s\n", f->svc.info->name, text);
    return -EINVAL;
}

static void
describe(const struct svc_info *info)
{
    for (size_t i = 0; info->ops && i < *info->n_ops; i++)
        printf("%s\t%s\t%s\t%s\n", info->ops[i].method, info->ops[i].path, info->ops[i].name,
               info->ops[i].summary);
}

static int
make_dir(const char *path, mode_t mode)
{
    if (mkdir(path, mode) < 0 && errno != EEXIST) {
        int r = -errno;
        log_err("svc: cannot make directory path=%s error=%s", path, strerror(-r));
        return r;
    }
    return 0;
}

static int
make_dirs(struct frame *f)
{
    const char *name = f->svc.info->name;
    if (snprintf(f->state_dir, PATH_SIZE, "%s/%s", f->state, name) >= PATH_SIZE ||
        snprintf(f->bus_dir, PATH_SIZE, "%s/bus", f->run) >= PATH_SIZE ||
        snprintf(f->spool_dir, PATH_SIZE, "%s/spool", f->run) >= PATH_SIZE)
        return -ENAMETOOLONG;
    int r = make_dir(f->state, 0750);
    if (r == 0)
        r = make_dir(f->state_dir, 0700);
    if (r == 0)
        r = make_dir(f->run, 0750);
    if (r == 0)
        r = make_dir(f->bus_dir, 0770);
    if (r == 0)
        r = make_dir(f->spool_dir, 0770);
    f->svc.state_dir = f->state_dir;
    f->svc.run_dir = f->run;
    f->svc.spool_dir = f->spool_dir;
    return r;
}

/* Who may be at the other end of a socket. */
static void
find_users(struct frame *f)
{
    f->svc.users = f->users;
    f->gateway_uid = geteuid();
    if (f->svc.profile == SVC_PROFILE_BENCH)
        return;
    for (size_t i = 0; i < ARRAY_LEN(daemon_names); i++) {
        char user[32];
        (void)snprintf(user, sizeof(user), "fieldgate-%s", daemon_names[i]); /* fits */
        const struct passwd *pw = getpwnam(user);
        if (!pw)
            continue;
        f->users[f->svc.n_users++] = (struct bus_user){ daemon_names[i], pw->pw_uid };
        if (i == INTERNAL_DAEMON_gateway)
            f->gateway_uid = pw->pw_uid;
    }
}

const char *
svc_caller(const struct svc *svc, const struct bus_incoming *in)
{
    uint32_t uid = bus_incoming_uid(in);
    for (size_t i = 0; i < svc->n_users; i++)
        if (svc->users[i].uid == uid)
            return svc->users[i].name;
    return svc->n_users > 0 ? "" : NULL;
}

/* sd_notify(3): a datagram to $NOTIFY_SOCKET. Nobody listens on the bench. */
static void
notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    if (!path || str_copy(to.sun_path, sizeof(to.sun_path), path) < 0)
        return;
    if (to.sun_path[0] == '@')
        to.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    (void)sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&to,
                 len); /* systemd's time-out finds a lost message */
    (void)close(fd);   /* nothing was written to it */
}

static void
feed_watchdog(void *arg)
{
    struct frame *f = arg;
    notify("WATCHDOG=1");
    (void)loop_timer_set(f->svc.loop, &f->watchdog, clock_mono_us() + f->watchdog_us / 2); /* else: restart */
}

static void
start_watchdog(struct frame *f)
{
    const char *text = getenv("WATCHDOG_USEC");
    uint64_t us;
    if (!text || parse_u64(text, 1000, UINT64_MAX / 2, &us) < 0)
        return;
    f->watchdog_us = us;
    loop_timer_init(&f->watchdog, feed_watchdog, f);
    feed_watchdog(f);
}

static void
on_stop_signal(void *arg, int signo)
{
    struct frame *f = arg;
    log_info("svc: stopping signal=%s", strsignal(signo));
    loop_quit(f->svc.loop);
}

static void
on_reload_signal(void *arg, int signo)
{
    (void)signo;
    struct frame *f = arg;
    if (!f->svc.info->reload)
        return;
    int r = f->svc.info->reload(f->svc.self, &f->svc);
    if (r < 0)
        log_err("svc: reload refused, the old settings stay error=%s", strerror(-r));
    else
        log_info("svc: reloaded");
}

/* ---- metrics ---- */

static struct metric_counter store_commits = { .name = "fieldgate_store_commits_total",
                                               .help = "Durable commits" };
static struct metric_counter store_commit_us = { .name = "fieldgate_store_commit_microseconds_total",
                                                 .help = "Time spent in commits" };
static struct metric_counter store_failed = { .name = "fieldgate_store_commits_failed_total",
                                              .help = "Commits that failed" };
static struct metric_counter store_used = { .name = "fieldgate_store_used_bytes",
                                            .help = "Bytes of the store in use",
                                            .gauge = true };
static struct metric_counter bus_served = { .name = "fieldgate_bus_served_total",
                                            .help = "Bus requests served" };
static struct metric_counter bus_expired = { .name = "fieldgate_bus_expired_total",
                                             .help = "Bus requests dropped past their deadline" };
static struct metric_counter bus_bad = { .name = "fieldgate_bus_bad_messages_total",
                                         .help = "Bus messages that could not be read" };
static struct metric_counter bus_refused = { .name = "fieldgate_bus_refused_peers_total",
                                             .help = "Connections of strangers, closed" };
static struct metric_counter tag_samples = { .name = "fieldgate_tag_samples_published_total",
                                             .help = "Samples published on the tag bus" };
static struct metric_counter tag_batches = { .name = "fieldgate_tag_batches_published_total",
                                             .help = "Batches published on the tag bus" };

static void
update_metrics(void *arg)
{
    struct frame *f = arg;
    if (f->svc.store) {
        struct store_stats s;
        store_get_stats(f->svc.store, &s);
        metric_set(&store_commits, s.commits);
        metric_set(&store_commit_us, s.commit_us_sum);
        metric_set(&store_failed, s.failed_commits);
        metric_set(&store_used, s.used_bytes);
    }
    struct bus_stats b;
    bus_get_stats(f->svc.bus, &b);
    metric_set(&bus_served, b.served);
    metric_set(&bus_expired, b.expired);
    metric_set(&bus_bad, b.bad_messages);
    metric_set(&bus_refused, b.refused_peers);
    if (f->svc.tags) {
        struct tag_pub_stats t;
        tag_pub_get_stats(f->svc.tags, &t);
        metric_set(&tag_samples, t.samples);
        metric_set(&tag_batches, t.batches);
    }
}

static void
register_metrics(struct frame *f)
{
    if (f->svc.store) {
        metric_register(&store_commits);
        metric_register(&store_commit_us);
        metric_register(&store_failed);
        metric_register(&store_used);
    }
    metric_register(&bus_served);
    metric_register(&bus_expired);
    metric_register(&bus_bad);
    metric_register(&bus_refused);
    if (f->svc.tags) {
        metric_register(&tag_samples);
        metric_register(&tag_batches);
    }
    metric_on_dump(update_metrics, f);
}

/* ---- requests ---- */

static void
answer_metrics(struct frame *f, struct bus_incoming *in)
{
    struct buf b;
    buf_init(&b, METRICS_MAX);
    metrics_dump(&b, f->svc.info->name);
    struct bus_reply reply = { .id = bus_incoming_request(in)->id, .status = API_INTERNAL };
    if (!b.err) {
        reply.status = API_OK;
        reply.body_kind = BUS_BODY_BYTES;
        reply.body = (struct bus_str){ b.data, (uint32_t)b.len };
    }
    bus_answer(in, &reply);
    buf_done(&b);
}

/* May whoever asks, ask this? An operation that nobody knows may be asked by all. */
static bool
may_call(const struct svc *svc, const struct bus_incoming *in, uint32_t op)
{
    const char *caller = svc_caller(svc, in);
    uint32_t callers = INTERNAL_BY_ALL;
    if (!caller)
        return true;
    switch (op) {
#define X(name, number, by)                                                                    \
    case INTERNAL_##name:                                                                      \
        callers = (by);                                                                        \
        break;
        INTERNAL_TABLE(X)
#undef X
    default:
        break;
    }
    for (size_t i = 0; i < ARRAY_LEN(daemon_names); i++)
        if (str_eq(daemon_names[i], caller))
            return callers >> i & 1;
    return false;
}

static void
serve_internal(struct frame *f, struct bus_incoming *in)
{
    uint32_t op = bus_incoming_request(in)->op;
    if (!may_call(&f->svc, in, op)) {
        log_warn("svc: refused an operation op=%u uid=%u", op, bus_incoming_uid(in));
        bus_answer_status(in, API_FORBIDDEN);
        return;
    }
    if (op == INTERNAL_PING) {
        bus_answer_status(in, API_OK);
        return;
    }
    if (op == INTERNAL_METRICS) {
        answer_metrics(f, in);
        return;
    }
    if (f->svc.tags && tag_pub_serve(f->svc.tags, in))
        return;
    for (const struct svc_internal *i = f->svc.info->internals; i && i->op; i++)
        if (i->op == op) {
            i->fn(f->svc.self, in);
            return;
        }
    bus_answer_status(in, API_NOT_FOUND);
}

static void
serve(void *arg, struct bus_incoming *in)
{
    struct frame *f = arg;
    if (bus_incoming_request(in)->kind == BUS_KIND_INTERNAL)
        serve_internal(f, in);
    else if (bus_incoming_uid(in) != f->gateway_uid)
        bus_answer_status(in, API_FORBIDDEN); /* only the gateway may say who asks */
    else
        api_serve(f->svc.api, in);
}

/* ---- life ---- */

static int
open_all(struct frame *f)
{
    struct svc *svc = &f->svc;
    const struct svc_info *info = svc->info;
    find_users(f);
    int r = make_dirs(f);
    if (r == 0)
        r = loop_new(&svc->loop);
    if (r == 0)
        r = loop_on_signal(svc->loop, SIGTERM, on_stop_signal, f);
    if (r == 0)
        r = loop_on_signal(svc->loop, SIGINT, on_stop_signal, f);
    if (r == 0)
        r = loop_on_signal(svc->loop, SIGHUP, on_reload_signal, f);
    if (r == 0 && info->n_dbs > 0) {
        r = store_open(svc->state_dir, info->dbs, info->n_dbs, info->schema, info->migrate,
                       &svc->store);
        if (r < 0)
            log_err("svc: cannot open the store dir=%s error=%s", svc->state_dir, strerror(-r));
    }
    if (r == 0)
        r = bus_open(svc->loop, f->bus_dir, svc->users, svc->n_users, &svc->bus);
    if (r == 0)
        r = api_server_new(svc, info->ops, info->ops ? *info->n_ops : 0, &svc->api);
    if (r == 0 && info->n_dbs > 0 && str_eq(info->dbs[info->n_dbs - 1], "outbox"))
        r = audit_open(svc, (unsigned)info->n_dbs - 1, &svc->outbox);
    f->opened = r == 0;
    return r == 0 && info->open ? info->open(svc->self, svc) : r;
}

static int
start_all(struct frame *f)
{
    struct svc *svc = &f->svc;
    int r = svc->outbox ? audit_start(svc->outbox) : 0;
    if (r == 0)
        api_server_settle(svc->api);
    if (r == 0 && svc->info->start)
        r = svc->info->start(svc->self, svc);
    if (r == 0)
        register_metrics(f);
    if (r == 0) {
        r = bus_serve(svc->bus, svc->info->name, serve, f);
        if (r < 0)
            log_err("svc: cannot bind the bus dir=%s error=%s", f->bus_dir, strerror(-r));
    }
    if (r == 0 && svc->outbox) {
        struct audit_record record = { .event = "serviceStart",
                                       .message = svc->info->name,
                                       .source = svc->info->name,
                                       .at_us = clock_wall_us() };
        int logged = audit_event(svc->outbox, &record);
        if (logged < 0) /* a full disk must not keep a daemon down that can still serve reads */
            log_err("svc: cannot record the start error=%s", strerror(-logged));
    }
    return r;
}

static void
stop_all(struct frame *f)
{
    struct svc *svc = &f->svc;
    notify("STOPPING=1");
    api_server_stop(svc->api);
    if (f->opened && svc->info->stop)
        svc->info->stop(svc->self, svc);
    if (svc->bus)
        bus_shutdown(svc->bus, DRAIN_MS);
    /*
     * The process ends here: NNG 1.5.2 can hang when sockets with traffic are
     * closed, so the bus stays as it is and only the store is put away.
     */
    store_close(MOVE_PTR(svc->store));
}

int
svc_main(const struct svc_info *info, void *self, int argc, char **argv)
{
    static struct frame f;
    f = (struct frame){
        .svc = { .info = info, .self = self, .profile = SVC_PROFILE_DEVICE },
        .level = LOG_LEVEL_INFO,
        .state = "/var/lib/fieldgate",
        .run = "/run/fieldgate",
    };
    if (read_options(&f, argc, argv) < 0) {
        usage(info, stderr);
        return 2;
    }
    log_open(info->name, f.level);
    for (size_t i = 0; i < f.n_settings; i++)
        if (apply_setting(&f, f.settings[i]) < 0)
            return 2;
    if (f.describe || f.check_config) {
        if (f.describe)
            describe(info);
        return 0;
    }
    if (geteuid() == 0 && f.svc.profile == SVC_PROFILE_DEVICE) {
        log_err("svc: refusing to run as root; the units in systemd/ give each daemon its user");
        return 1;
    }
    umask(0007);
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); /* the unit sets it too */
    (void)mallopt(M_ARENA_MAX, 2);                /* a dozen idle threads need no heap each */
    (void)signal(SIGPIPE, SIG_IGN);               /* writes report EPIPE */
    (void)signal(SIGXFSZ, SIG_IGN);               /* EFBIG, a kind of full disk */

    int r = open_all(&f);
    if (r == 0)
        r = start_all(&f);
    if (r == 0) {
        start_watchdog(&f);
        notify("READY=1");
        log_info("svc: ready profile=%s", f.svc.profile == SVC_PROFILE_BENCH ? "bench" : "device");
        r = loop_run(f.svc.loop);
    } else {
        log_err("svc: cannot start error=%s", strerror(-r));
    }
    stop_all(&f);
    if (r == 0)
        log_info("svc: stopped");
    (void)fflush(NULL); /* nothing buffered matters any more */
    _exit(r == 0 ? 0 : 1);
}
