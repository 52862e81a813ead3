/* cloudd: what it is made of. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/api.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/metrics.h"
#include "proto/internal.h"
#include "services/cloudd/cloudd.h"
#include "services/cloudd/sys_linux.h"
#include "libcommon/banned.h"

enum {
    STOP_WAIT_US = 1000000,
    /* Names are looked up beside the loop: one slow server must not hold up the others. */
    LOOKUP_THREADS = 4,
    PURGE_PAUSE_US = 20000,
    PURGE_RETRY_US = 5000000,
};

/* name, metric, help, is it a gauge */
#define METRIC_TABLE(X)                                                                        \
    X(clients, "fieldgate_mqtt_clients", "Clients configured", true)                           \
    X(connected, "fieldgate_mqtt_connected", "Clients connected", true)                        \
    X(messages, "fieldgate_mqtt_messages_total", "Messages made", false)                       \
    X(acknowledged, "fieldgate_mqtt_acknowledged_total", "Messages taken by a broker", false)  \
    X(dropped, "fieldgate_mqtt_dropped_total", "Lost to a bound or lack of memory", false)     \
    X(refused, "fieldgate_mqtt_refused_total", "Messages a broker ended connections on",       \
      false)                                                                                   \
    X(expired, "fieldgate_mqtt_expired_total", "Messages lost to their time to live", false)   \
    X(queued, "fieldgate_mqtt_queued_messages", "Messages not yet acknowledged", true)         \
    X(queued_bytes, "fieldgate_mqtt_queued_bytes", "Bytes not yet acknowledged", true)

#define X(id, metric, text, is_gauge)                                                          \
    static struct metric_counter m_##id = { .name = metric, .help = text, .gauge = is_gauge };
METRIC_TABLE(X)
#undef X

static void
update_metrics(void *arg)
{
    const struct cloudd *d = arg;
    struct cloudd_counts n;
    cloudd_count(d, &n);
    metric_set(&m_clients, n.clients);
    metric_set(&m_connected, n.connected);
    metric_set(&m_messages, n.messages);
    metric_set(&m_acknowledged, n.acknowledged);
    metric_set(&m_dropped, n.dropped);
    metric_set(&m_refused, n.refused);
    metric_set(&m_expired, n.expired);
    metric_set(&m_queued, n.queued);
    metric_set(&m_queued_bytes, n.queued_bytes);
}

static void
before_sleep(void *arg)
{
    struct cloudd *d = arg;
    cloudd_run_policies(d);
    cloudd_commit_messages(d);
}

static void
on_commit_timer(void *arg)
{
    cloudd_commit_messages(arg);
}

/* ---- messages of clients that are gone ---- */

static void
on_purge_timer(void *arg)
{
    struct cloudd *d = arg;
    if (d->n_purge == 0)
        return;
    int r = forward_purge(d->forward, d->purge[d->n_purge - 1]);
    if (r == STORE_NOT_FOUND)
        d->n_purge--;
    else if (r < 0)
        log_err("cloudd: cannot remove messages error=%s", strerror(-r));
    uint64_t pause = r < 0 ? PURGE_RETRY_US : PURGE_PAUSE_US;
    if (d->n_purge > 0 &&
        loop_timer_set(d->svc->loop, &d->purge_timer, clock_mono_us() + pause) < 0)
        log_err("cloudd: no memory for a timer");
}

/*
 * The next client from 'from' on that has stored messages; STORE_OK,
 * STORE_NOT_FOUND or -errno. It is an orphan when its configuration is gone:
 * one that could only not be loaded keeps its messages.
 */
static int
next_with_messages(struct cloudd *d, uint32_t from, uint32_t *ret_client, bool *ret_orphan)
{
    struct store_txn *txn = NULL;
    struct store_iter it;
    uint8_t key[4];
    const void *value;
    size_t size;
    int r = store_read(d->svc->store, &txn);
    if (r < 0)
        return r;
    r = store_iter_init(&it, txn, CLOUDD_DB_MESSAGES, cloudd_key(key, from), sizeof(key),
                        false);
    if (r == 0) {
        r = store_iter_next(&it);
        if (r == STORE_OK)
            *ret_client = get_u32(it.key); /* keys are forward.c's: 12 bytes */
        store_iter_done(&it);
    }
    if (r == STORE_OK) {
        int there = store_get(txn, CLOUDD_DB_CLIENTS, cloudd_key(key, *ret_client), sizeof(key),
                              &value, &size);
        *ret_orphan = there == STORE_NOT_FOUND;
        r = there < 0 ? there : STORE_OK;
    }
    store_abort(txn);
    return r;
}

/* Finds messages whose client was deleted before a restart. */
static int
find_orphans(struct cloudd *d)
{
    uint32_t client = 0;
    bool orphan = false;
    int r;
    while ((r = next_with_messages(d, client, &client, &orphan)) == STORE_OK) {
        if (orphan && d->n_purge < ARRAY_LEN(d->purge))
            d->purge[d->n_purge++] = client; /* else: at the next start */
        if (client++ == UINT32_MAX)
            break;
    }
    if (d->n_purge > 0)
        return loop_timer_set(d->svc->loop, &d->purge_timer, clock_mono_us());
    return r < 0 ? r : 0;
}

/* ---- life ---- */

static int
cloudd_open(void *self, struct svc *svc)
{
    struct cloudd *d = self;
    d->svc = svc;
    loop_timer_init(&d->commit_timer, on_commit_timer, d);
    loop_timer_init(&d->purge_timer, on_purge_timer, d);
    loop_set_workers(svc->loop, LOOKUP_THREADS, CLOUDD_CLIENTS_MAX * 4);
    char marker[4096];
    /* The sockets' directory is open to us and empty after a boot. */
    int n = snprintf(marker, sizeof(marker), "%s/bus/cloudd.boot", svc->run_dir);
    if (n < 0 || (size_t)n >= sizeof(marker))
        return -ENAMETOOLONG;
    struct forward_clock clock = { .mono_us = clock_mono_us,
                                   .wall_us = clock_wall_us,
                                   .boot = sys_boot_id(sys_kernel_boot_id, marker) };
#define X(id, metric, text, is_gauge) metric_register(&m_##id);
    METRIC_TABLE(X)
#undef X
    int r = tagview_new(&d->view);
    return r == 0 ? forward_new(svc->store, CLOUDD_DB_MESSAGES, &clock, &d->forward) : r;
}

static int
cloudd_start(void *self, struct svc *svc)
{
    struct cloudd *d = self;
    int r = tagview_follow(d->view, svc->bus, svc->loop);
    if (r < 0)
        log_err("cloudd: cannot follow the providers of tags error=%s", strerror(-r));
    if (r == 0)
        r = cloudd_load_clients(d);
    if (r == 0)
        r = find_orphans(d);
    if (r == 0)
        r = cert_tell(d);
    metric_on_dump(update_metrics, d);
    return r == 0 ? loop_before_sleep(svc->loop, before_sleep, d) : r;
}

static void
cloudd_stop(void *self, struct svc *svc)
{
    struct cloudd *d = self;
    (void)svc;
    if (d->forward != NULL)
        cloudd_stop_clients(d, STOP_WAIT_US);
}

int
main(int argc, char **argv)
{
    static const char *const dbs[CLOUDD_N_DBS] = {
        [CLOUDD_DB_META] = "meta",       [CLOUDD_DB_CLIENTS] = "mqtt",
        [CLOUDD_DB_FORWARD] = "forward", [CLOUDD_DB_GROUPS] = "groups",
        [CLOUDD_DB_CERTS] = "certs",     [CLOUDD_DB_MESSAGES] = "messages",
        [CLOUDD_DB_OUTBOX] = "outbox",
    };
    static const struct svc_internal internals[] = {
        { INTERNAL_SECURITY_FACTS, cloudd_security_facts },
        { 0, NULL },
    };
    static const struct svc_info info = {
        .name = "cloudd",
        .ops = cloudd_ops,
        .n_ops = &cloudd_n_ops,
        .internals = internals,
        .dbs = dbs,
        .n_dbs = CLOUDD_N_DBS,
        .schema = 1,
        .open = cloudd_open,
        .start = cloudd_start,
        .stop = cloudd_stop,
    };
    static struct cloudd cloudd;
    return svc_main(&info, &cloudd, argc, argv);
}
