/* tagd: what it is made of. */
#include <errno.h>
#include <string.h>

#include "gen/api_tagd.h"
#include "libcommon/api.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/metrics.h"
#include "libcommon/str.h"
#include "services/tagd/tagd.h"
#include "libcommon/banned.h"

/* Who provides tags. A provider that is not installed costs nothing but its line. */
static struct tagd_provider providers[] = {
    { .daemon = "modbusd" },
};

/* name, metric, help, is it a gauge */
#define METRIC_TABLE(X)                                                                        \
    X(tags, "fieldgate_tags", "Tags listed by the providers", true)                            \
    X(samples, "fieldgate_hub_samples_total", "Samples taken from the tag bus", false)         \
    X(updates, "fieldgate_hub_updates_total", "Updates handed to streams", false)              \
    X(refused, "fieldgate_hub_refused_tags_total", "Tags not taken from a catalogue", false)   \
    X(lost, "fieldgate_hub_lost_batches_total", "Batches missing in a sequence", false)        \
    X(snapshots, "fieldgate_hub_snapshots_total", "Snapshots asked for", false)                \
    X(streams, "fieldgate_tag_streams", "Event streams of tag values", true)                   \
    X(backlog, "fieldgate_tag_stream_backlog_bytes", "Waiting for slow clients", true)

#define X(id, metric, text, is_gauge)                                                          \
    static struct metric_counter m_##id = { .name = metric, .help = text, .gauge = is_gauge };
METRIC_TABLE(X)
#undef X

static void
update_metrics(void *arg)
{
    const struct tagd *d = arg;
    struct tagview_stats h;
    struct follow_stats f;
    tagview_get_stats(d->view, &h);
    tagd_follow_get_stats(d, &f);
    uint64_t lost = 0, snapshots = 0;
    for (size_t i = 0; i < d->n_providers; i++) {
        struct tag_sub_stats s;
        tag_sub_get_stats(d->providers[i].sub, &s);
        lost += s.lost_batches;
        snapshots += s.snapshots;
    }
    metric_set(&m_tags, h.tags);
    metric_set(&m_samples, h.samples);
    metric_set(&m_updates, h.updates);
    metric_set(&m_refused, h.refused_tags);
    metric_set(&m_lost, lost);
    metric_set(&m_snapshots, snapshots);
    metric_set(&m_streams, f.streams);
    metric_set(&m_backlog, f.backlog);
}

bool
tagd_is_ready(const struct tagd *d)
{
    if (loop_now_us(d->svc->loop) - d->started_us > TAGD_PATIENCE_US)
        return true;
    for (size_t i = 0; i < d->n_providers; i++)
        if (!tagview_knows(d->view, d->providers[i].daemon))
            return false;
    return true;
}

struct tagd_provider *
tagd_provider_of(struct tagd *d, const struct tagview_tag *t)
{
    const char *daemon = tagview_daemon_of(t);
    for (size_t i = 0; daemon != NULL && i < d->n_providers; i++)
        if (str_eq(d->providers[i].daemon, daemon))
            return &d->providers[i];
    return NULL;
}

static int
tagd_open(void *self, struct svc *svc)
{
    struct tagd *d = self;
    d->svc = svc;
    d->providers = providers;
    d->n_providers = ARRAY_LEN(providers);
#define X(id, metric, text, is_gauge) metric_register(&m_##id);
    METRIC_TABLE(X)
#undef X
    return tagview_new(&d->view);
}

static int
tagd_start(void *self, struct svc *svc)
{
    struct tagd *d = self;
    d->started_us = loop_now_us(svc->loop);
    int r = 0;
    struct tag_sub_events events = { .catalogue = tagview_catalogue,
                                     .samples = tagview_samples,
                                     .presence = tagview_presence,
                                     .arg = d->view };
    for (size_t i = 0; i < d->n_providers; i++) {
        struct tagd_provider *p = &d->providers[i];
        r = bus_peer(svc->bus, p->daemon, &p->peer);
        if (r == 0)
            r = tag_sub_open(svc->bus, svc->loop, p->daemon, &events, &p->sub);
        if (r < 0) {
            log_err("tagd: cannot follow a provider daemon=%s", p->daemon);
            return r;
        }
    }
    metric_on_dump(update_metrics, d);
    return loop_before_sleep(svc->loop, tagd_follow_flush, d);
}

int
main(int argc, char **argv)
{
    static const char *const dbs[TAGD_N_DBS] = {
        [TAGD_DB_NOTES] = "notes",
        [TAGD_DB_OUTBOX] = "outbox",
    };
    static const struct svc_info info = {
        .name = "tagd",
        .ops = tagd_ops,
        .n_ops = &tagd_n_ops,
        .dbs = dbs,
        .n_dbs = TAGD_N_DBS,
        .schema = 1,
        .open = tagd_open,
        .start = tagd_start,
    };
    static struct tagd tagd;
    return svc_main(&info, &tagd, argc, argv);
}
