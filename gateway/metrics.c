/*
 * Metrics of the gateway and, joined, of the suite. See metrics.h.
 */
#include "gateway/metrics.h"

#include <pthread.h>

#include "gateway/auth.h"
#include "gateway/conns.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/metrics.h"
#include "libcommon/svc.h"
#include "proto/internal.h"

#include "libcommon/banned.h"

enum {
    TEXT_MAX = 8 << 20, /* of all daemons */
    ASK_MS = 1000,
    CLASSES = 5, /* 1xx .. 5xx */
    TEXTS_MAX = 33,
};

/* ---- what is counted ---- */

static struct metric_counter requests[METHOD_N][CLASSES];
static char request_labels[METHOD_N][CLASSES][40];
static struct metric_histogram latency = {
    .name = "fieldgate_http_request_seconds",
    .help = "Time from a request's headers to its answer; event streams are left out",
};

static struct metric_counter streams = { .name = "fieldgate_http_streams",
                                         .help = "Event streams being followed",
                                         .gauge = true };
static struct metric_counter running = { .name = "fieldgate_http_requests_running",
                                         .help = "Requests being handled, streams included",
                                         .gauge = true };
static struct metric_counter connections[CONN_N_GROUPS] = {
    { .name = "fieldgate_http_connections",
      .help = "Open connections",
      .labels = "listener=\"https\"",
      .gauge = true },
    { .name = "fieldgate_http_connections",
      .help = "Open connections",
      .labels = "listener=\"http\"",
      .gauge = true },
};
static struct metric_counter refused = { .name = "fieldgate_http_connections_refused_total",
                                         .help = "Connections refused by a limit" };
static struct metric_counter shed = { .name = "fieldgate_http_connections_shed_total",
                                      .help = "Idle connections ended to make room" };
static struct metric_counter late = { .name = "fieldgate_http_connections_late_total",
                                      .help = "Connections ended because the client was slow" };
static struct metric_counter hits = { .name = "fieldgate_auth_cache_hits_total",
                                      .help = "Tokens that were known" };
static struct metric_counter misses = { .name = "fieldgate_auth_cache_misses_total",
                                        .help = "Tokens that were not known" };
static struct metric_counter cached = { .name = "fieldgate_auth_cache_entries",
                                        .help = "Tokens known now",
                                        .gauge = true };
static struct metric_counter asked = { .name = "fieldgate_bus_asked_total",
                                       .help = "Bus requests sent" };
static struct metric_counter ask_failed = { .name = "fieldgate_bus_ask_failed_total",
                                            .help = "Bus requests without an answer" };
static struct metric_counter messages = { .name = "fieldgate_bus_messages_asked_total",
                                          .help = "Bus messages that carried requests" };

static void
update(void *arg)
{
    struct gateway *g = arg;
    struct conns_stats c;
    struct auth_cache_stats a;
    struct bus_stats b;
    metric_set(&streams, atomic_load(&g->n_streams));
    metric_set(&running, atomic_load(&g->n_running));
    conns_get_stats(g->conns, &c);
    for (int i = 0; i < CONN_N_GROUPS; i++)
        metric_set(&connections[i], c.open[i]);
    metric_set(&refused, c.refused);
    metric_set(&shed, c.shed);
    metric_set(&late, c.late);
    auth_get_stats(g->auth, &a);
    metric_set(&hits, a.hits);
    metric_set(&misses, a.misses);
    metric_set(&cached, a.size);
    bus_get_stats(g->svc->bus, &b);
    metric_set(&asked, b.asked);
    metric_set(&ask_failed, b.ask_failed);
    metric_set(&messages, b.messages_asked);
}

void
gateway_metrics_register(struct gateway *g)
{
    for (int m = 0; m < METHOD_N; m++) {
        for (int c = 0; c < CLASSES; c++) {
            (void)snprintf(request_labels[m][c], sizeof(request_labels[m][c]),
                           "method=\"%s\",status=\"%dxx\"", method_name((enum http_method)m),
                           c + 1);
            requests[m][c].name = "fieldgate_http_requests_total";
            requests[m][c].help = "Requests answered";
            requests[m][c].labels = request_labels[m][c];
            if (c > 0) /* 1xx ends no request */
                metric_register(&requests[m][c]);
        }
    }
    struct metric_counter *const rest[] = {
        &streams, &running, &connections[0], &connections[1], &refused,    &shed,     &late,
        &hits,    &misses,  &cached,         &asked,          &ask_failed, &messages,
    };
    for (size_t i = 0; i < ARRAY_LEN(rest); i++)
        metric_register(rest[i]);
    metric_histogram_register(&latency);
    metric_on_dump(update, g);
}

void
gateway_metrics_count(enum http_method method, int status, uint64_t us)
{
    int class = status / 100 - 1;
    if (class >= 0 && class < CLASSES)
        metric_add(&requests[method][class], 1);
    if (us != 0)
        metric_observe(&latency, us);
}

/* ---- answering ---- */

struct scrape {
    struct buf own;
    struct bus_answer answers[TEXTS_MAX - 1];
    size_t n_answers;
    struct metrics_text texts[TEXTS_MAX];
    size_t n_texts;
};

static void
ask_daemon(struct scrape *s, struct bus_peer *peer)
{
    struct bus_request request = {
        .kind = BUS_KIND_INTERNAL,
        .op = INTERNAL_METRICS,
        .deadline_us = clock_mono_us() + ASK_MS * 1000,
        .who = { .kind = BUS_WHO_DAEMON, .name = "gateway" },
    };
    struct bus_answer *a = &s->answers[s->n_answers];
    if (!bus_peer_is_up(peer) || bus_ask(peer, &request, false, a) < 0)
        return; /* its metrics are missing, as it is */
    s->n_answers++;
    if (a->reply.status == 200)
        s->texts[s->n_texts++] =
            (struct metrics_text){ .p = a->reply.body.p, .len = a->reply.body.len };
}

void
gateway_metrics_answer(struct http_call *call)
{
    static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
    static struct scrape s;
    struct gateway *g = call->gateway;
    struct buf out;
    if (pthread_mutex_trylock(&one_at_a_time) != 0) { /* not one thread more may wait here */
        (void)http_fail(call, 503, "the metrics are being read by somebody else");
        return;
    }
    buf_init(&out, TEXT_MAX);
    s = (struct scrape){ 0 };
    buf_init(&s.own, TEXT_MAX);
    metrics_dump(&s.own, "gateway");
    s.texts[s.n_texts++] = (struct metrics_text){ .p = s.own.data, .len = s.own.len };
    for (size_t i = 0; i < n_route_daemons && s.n_answers < TEXTS_MAX - 1; i++)
        ask_daemon(&s, g->peers[i]);
    int r = metrics_join(&out, s.texts, s.n_texts);
    for (size_t i = 0; i < s.n_answers; i++)
        bus_answer_done(&s.answers[i]);
    buf_done(&s.own);
    pthread_mutex_unlock(&one_at_a_time);

    struct http_reply reply = { .status = 200,
                                .content_type = "text/plain; version=0.0.4; charset=utf-8",
                                .body = out.data,
                                .len = out.len };
    if (r < 0)
        (void)http_fail(call, 500, "internal error");
    else
        (void)http_answer(call, &reply);
    buf_done(&out);
}

void
gateway_metrics_answer_health(struct http_call *call)
{
    struct buf out;
    bool all = true;
    buf_init(&out, 4096);
    for (size_t i = 0; i < n_route_daemons; i++)
        all = all && bus_peer_is_up(call->gateway->peers[i]);
    jw_open(&out, '{');
    jw_kstr(&out, "status", all ? "ok" : "degraded");
    jw_name(&out, "daemons");
    jw_open(&out, '{');
    for (size_t i = 0; i < n_route_daemons; i++)
        jw_kbool(&out, route_daemons[i], bus_peer_is_up(call->gateway->peers[i]));
    jw_close(&out, '}');
    jw_close(&out, '}');
    struct http_reply reply = {
        .status = 200, .content_type = "application/json", .body = out.data, .len = out.len
    };
    (void)http_answer(call, &reply);
    buf_done(&out);
}
