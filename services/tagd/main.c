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

/* name, metric, help, is it a gauge */
#define METRIC_TABLE(X)                                                                        \
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
    struct follow_stats f;
    tagd_follow_get_stats(d, &f);
    metric_set(&m_streams, f.streams);
    metric_set(&m_backlog, f.backlog);
}

bool
tagd_is_ready(const struct tagd *d)
{
    return tagview_knows_all(d->view) ||
           loop_now_us(d->svc->loop) - d->started_us > TAGD_PATIENCE_US;
}

static int
tagd_open(void *self, struct svc *svc)
{
    struct tagd *d = self;
    d->svc = svc;
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
    tagview_on_catalogue(d->view, tagd_follow_catalogue, d);
    int r = tagview_follow(d->view, svc->bus, svc->loop);
    if (r < 0) {
        log_err("tagd: cannot follow the providers of tags error=%s", strerror(-r));
        return r;
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
