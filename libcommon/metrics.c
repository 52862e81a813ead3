/*
 * Metrics as Prometheus text. The registered ones hang in two lists in order
 * of their names, since the format wants all lines of a name together below
 * one HELP and TYPE.
 */
#include "libcommon/metrics.h"

#include <dirent.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "libcommon/base.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

enum { DUMP_HOOKS_MAX = 8, FIRST_BUCKET_US = 50 };

static pthread_mutex_t lists_lock = PTHREAD_MUTEX_INITIALIZER;
static struct metric_counter *counters;
static struct metric_histogram *histograms;
static struct {
    void (*fn)(void *arg);
    void *arg;
} dump_hooks[DUMP_HOOKS_MAX];
static size_t n_dump_hooks;
static struct {
    void (*fn)(void *arg, struct buf *b, const char *daemon);
    void *arg;
} families;

void
metric_register(struct metric_counter *m)
{
    (void)pthread_mutex_lock(&lists_lock); /* cannot fail for this kind of mutex */
    struct metric_counter **at = &counters;
    while (*at != NULL && strcmp((*at)->name, m->name) <= 0)
        at = &(*at)->next;
    m->next = *at;
    *at = m;
    (void)pthread_mutex_unlock(&lists_lock);
}

void
metric_histogram_register(struct metric_histogram *h)
{
    (void)pthread_mutex_lock(&lists_lock);
    struct metric_histogram **at = &histograms;
    while (*at != NULL && strcmp((*at)->name, h->name) <= 0)
        at = &(*at)->next;
    h->next = *at;
    *at = h;
    (void)pthread_mutex_unlock(&lists_lock);
}

void
metric_observe(struct metric_histogram *h, uint64_t us)
{
    /* The least n with us <= 50 * 2^n. */
    uint64_t units = us / FIRST_BUCKET_US + (us % FIRST_BUCKET_US != 0);
    int n = units <= 1 ? 0 : 64 - __builtin_clzll(units - 1);
    if (n >= METRIC_BUCKETS)
        n = METRIC_BUCKETS - 1;
    atomic_fetch_add_explicit(&h->bucket[n], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_us, us, memory_order_relaxed);
}

void
metric_on_dump(void (*fn)(void *arg), void *arg)
{
    (void)pthread_mutex_lock(&lists_lock);
    MUST(n_dump_hooks < DUMP_HOOKS_MAX);
    dump_hooks[n_dump_hooks].fn = fn;
    dump_hooks[n_dump_hooks++].arg = arg;
    (void)pthread_mutex_unlock(&lists_lock);
}

void
metric_on_families(void (*fn)(void *arg, struct buf *b, const char *daemon), void *arg)
{
    (void)pthread_mutex_lock(&lists_lock);
    MUST(families.fn == NULL);
    families.fn = fn;
    families.arg = arg;
    (void)pthread_mutex_unlock(&lists_lock);
}

/* ---- text ---- */

static void
put_head(struct buf *b, const char *name, const char *help, const char *type)
{
    buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* 'le' is the bound of a bucket, or NULL. */
static void
put_labels(struct buf *b, const char *daemon, const char *labels, const char *le)
{
    buf_printf(b, "{daemon=\"%s\"", daemon);
    if (labels != NULL && *labels != '\0')
        buf_printf(b, ",%s", labels);
    if (le != NULL)
        buf_printf(b, ",le=\"%s\"", le);
    buf_puts(b, "} ");
}

void
metric_put_sample(struct buf *b, const char *name, const char *daemon, const char *labels,
                  uint64_t value)
{
    buf_puts(b, name);
    put_labels(b, daemon, labels, NULL);
    buf_printf(b, "%" PRIu64 "\n", value);
}

void
metric_put_head(struct buf *b, const char *name, const char *help, bool gauge)
{
    put_head(b, name, help, gauge ? "gauge" : "counter");
}

void
metric_put_label(struct buf *labels, const char *key, const char *value)
{
    buf_printf(labels, "%s=\"", key);
    for (const char *c = value; *c != '\0'; c++) {
        if (*c == '\\' || *c == '"')
            buf_printf(labels, "\\%c", *c);
        else if (*c == '\n')
            buf_puts(labels, "\\n");
        else
            buf_putc(labels, *c);
    }
    buf_puts(labels, "\"");
}

static void
put_seconds(struct buf *b, uint64_t us)
{
    buf_printf(b, "%" PRIu64 ".%06" PRIu64 "\n", us / 1000000, us % 1000000);
}

static void
put_histogram(struct buf *b, const struct metric_histogram *h, const char *daemon)
{
    uint64_t n = 0;
    for (int i = 0; i < METRIC_BUCKETS; i++) {
        uint64_t bound_us = (uint64_t)FIRST_BUCKET_US << i;
        char le[32] = "+Inf";
        if (i < METRIC_BUCKETS - 1)
            (void)snprintf(le, sizeof(le), "%" PRIu64 ".%06" PRIu64, bound_us / 1000000,
                           bound_us % 1000000); /* fits */
        n += atomic_load_explicit(&h->bucket[i], memory_order_relaxed);
        buf_printf(b, "%s_bucket", h->name);
        put_labels(b, daemon, h->labels, le);
        buf_printf(b, "%" PRIu64 "\n", n);
    }
    buf_printf(b, "%s_sum", h->name);
    put_labels(b, daemon, h->labels, NULL);
    put_seconds(b, atomic_load_explicit(&h->sum_us, memory_order_relaxed));
    buf_printf(b, "%s_count", h->name);
    put_labels(b, daemon, h->labels, NULL);
    buf_printf(b, "%" PRIu64 "\n", n);
}

/* ---- this process ---- */

/* The number after 'key' in a file of "key:  number unit" lines; false when not readable. */
static bool
read_proc(const char *path, const char *key, uint64_t *ret_value)
{
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return false;

    char line[256];
    bool found = false;
    size_t key_len = strlen(key);
    while (!found && fgets(line, sizeof(line), f) != NULL) {
        if (strncmp(line, key, key_len) != 0 || line[key_len] != ':')
            continue;
        char *number = line + key_len + 1;
        number += strspn(number, " \t");
        number[strspn(number, "0123456789")] = '\0';
        found = parse_u64(number, 0, UINT64_MAX, ret_value) == 0;
    }
    (void)fclose(f); /* only read */
    return found;
}

/* Open descriptors, without the one that counts them. */
static bool
count_fds(uint64_t *ret_n)
{
    DIR *dir = opendir("/proc/self/fd");
    if (dir == NULL)
        return false;
    uint64_t n = 0;
    /* A stream of its own: as safe as readdir_r, which glibc deprecates. */
    /* cppcheck-suppress readdirCalled */
    for (const struct dirent *e; (e = readdir(dir)) != NULL;)
        n += e->d_name[0] != '.';
    (void)closedir(dir);
    *ret_n = n - 1;
    return true;
}

static void
put_gauge(struct buf *b, const char *daemon, const char *name, const char *help, uint64_t value)
{
    put_head(b, name, help, "gauge");
    metric_put_sample(b, name, daemon, NULL, value);
}

static void
put_process(struct buf *b, const char *daemon)
{
    static const char cpu[] = "fieldgate_process_cpu_seconds_total";
    uint64_t n;
    struct timespec ts;

    if (read_proc("/proc/self/status", "VmRSS", &n))
        put_gauge(b, daemon, "fieldgate_process_resident_memory_bytes",
                  "Memory in use, shared pages counted in full.", n * 1024);
    if (read_proc("/proc/self/smaps_rollup", "Pss", &n))
        put_gauge(b, daemon, "fieldgate_process_proportional_memory_bytes",
                  "Memory in use, shared pages divided among those who share.", n * 1024);
    if (read_proc("/proc/self/status", "Threads", &n))
        put_gauge(b, daemon, "fieldgate_process_threads", "Threads.", n);
    if (count_fds(&n))
        put_gauge(b, daemon, "fieldgate_process_open_fds", "Open descriptors.", n);
    /* The same sum as utime and stime of /proc/self/stat, but not in whole ticks. */
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts) == 0) {
        put_head(b, cpu, "Processor time, user and system.", "counter");
        buf_puts(b, cpu);
        put_labels(b, daemon, NULL, NULL);
        put_seconds(b, (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000);
    }
}

void
metrics_dump(struct buf *b, const char *daemon)
{
    (void)pthread_mutex_lock(&lists_lock);
    size_t n_hooks = n_dump_hooks;
    (void)pthread_mutex_unlock(&lists_lock);
    for (size_t i = 0; i < n_hooks; i++)
        dump_hooks[i].fn(dump_hooks[i].arg); /* may register */

    (void)pthread_mutex_lock(&lists_lock);
    const char *last = "";
    for (const struct metric_counter *m = counters; m != NULL; m = m->next) {
        if (!str_eq(m->name, last))
            put_head(b, m->name, m->help, m->gauge ? "gauge" : "counter");
        last = m->name;
        metric_put_sample(b, m->name, daemon, m->labels,
                   atomic_load_explicit(&m->value, memory_order_relaxed));
    }
    last = "";
    for (const struct metric_histogram *h = histograms; h != NULL; h = h->next) {
        if (!str_eq(h->name, last))
            put_head(b, h->name, h->help, "histogram");
        last = h->name;
        put_histogram(b, h, daemon);
    }
    (void)pthread_mutex_unlock(&lists_lock);
    put_process(b, daemon);
    if (families.fn != NULL)
        families.fn(families.arg, b, daemon);
}
