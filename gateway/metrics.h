/*
 * What the gateway counts, and GET /metrics for the whole suite.
 */
#ifndef FIELDGATE_GATEWAY_METRICS_H
#define FIELDGATE_GATEWAY_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "gateway/route.h"
#include "libcommon/buf.h"

struct gateway;
struct http_call;

/* Before the listeners open. */
void gateway_metrics_register(struct gateway *g);
/* One exchange; 'us' 0: it has no latency worth counting. Any thread. */
void gateway_metrics_count(enum http_method method, int status, uint64_t us);

/* Answers with the metrics of all daemons that are up. */
void gateway_metrics_answer(struct http_call *call);
/* Answers with which daemons are up. */
void gateway_metrics_answer_health(struct http_call *call);

/*
 * Puts several expositions (Prometheus text 0.0.4) into one: the samples of a
 * name stand together behind one HELP and TYPE. 0, -E2BIG or -ENOMEM.
 */
struct metrics_text {
    const char *p;
    size_t len;
};
int metrics_join(struct buf *out, const struct metrics_text *texts, size_t n);

#endif
