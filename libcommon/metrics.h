/*
 * Counters, gauges and histograms of a process as Prometheus text (exposition
 * format 0.0.4). Register at start; counting is a relaxed atomic add.
 */
#ifndef FIELDGATE_METRICS_H
#define FIELDGATE_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

#include "libcommon/buf.h"

struct metric_counter {
    const char *name;   /* fieldgate_… ; static text */
    const char *help;
    const char *labels; /* e.g. device="x" or NULL; static or owned by the caller */
    _Atomic uint64_t value;
    struct metric_counter *next;
    bool gauge;
};
/* The struct must live as long as the process. */
void metric_register(struct metric_counter *m);
static inline void
metric_add(struct metric_counter *m, uint64_t n)
{
    atomic_fetch_add_explicit(&m->value, n, memory_order_relaxed);
}
static inline void
metric_set(struct metric_counter *m, uint64_t v)
{
    atomic_store_explicit(&m->value, v, memory_order_relaxed);
}

/* Latency in buckets 50 µs · 2^n, n = 0..15, and above. */
enum { METRIC_BUCKETS = 17 };
struct metric_histogram {
    const char *name, *help, *labels;
    _Atomic uint64_t bucket[METRIC_BUCKETS];
    _Atomic uint64_t sum_us;
    struct metric_histogram *next;
};
void metric_histogram_register(struct metric_histogram *h);
void metric_observe(struct metric_histogram *h, uint64_t us);

/* Called before each dump to bring gauges up to date. At most 8. */
void metric_on_dump(void (*fn)(void *arg), void *arg);
/*
 * For samples whose labels come and go: 'fn' runs at the end of each dump, in
 * the thread that dumps, and writes whole families, each a head and then its
 * samples. At most one in a process.
 */
void metric_on_families(void (*fn)(void *arg, struct buf *b, const char *daemon), void *arg);
void metric_put_head(struct buf *b, const char *name, const char *help, bool gauge);
/* 'labels' as in metric_counter. */
void metric_put_sample(struct buf *b, const char *name, const char *daemon, const char *labels,
                       uint64_t value);
/* Appends key="value", escaped as the format wants it. */
void metric_put_label(struct buf *labels, const char *key, const char *value);

/*
 * Everything of this process, each line with the label daemon="<daemon>", and
 * its memory (RSS, PSS when readable), descriptors, threads, CPU seconds.
 */
void metrics_dump(struct buf *b, const char *daemon);

#endif
