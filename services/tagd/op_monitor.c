/* GET /tags/monitor/{provider}/{source}: last values, or a stream of updates. */
#include "gen/api_tagd.h"
#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/tagd/tagd.h"
#include "libcommon/banned.h"

static enum api_status
put_named(struct tagd *d, struct api_call *call, const struct tagd_get_tags_monitor_path *path,
          const char *const *names, size_t n, struct buf *b)
{
    for (size_t i = 0; i < n; i++) {
        const struct tagview_tag *t =
            tagview_find(d->view, path->provider, path->source, names[i]);
        if (t == NULL || !tagview_tag_is_listed(t))
            return api_fail(call, API_NOT_FOUND, "/tags", "tag not found");
        tagd_put_json(b, t);
    }
    return API_OK;
}

static enum api_status
put_source(struct tagd *d, struct api_call *call, const struct tagd_get_tags_monitor_path *path,
           struct buf *b)
{
    size_t n = 0, at = 0;
    for (struct tagview_tag *t; (t = tagview_next(d->view, &at)) != NULL;)
        if (str_eq(t->source, path->source) && str_eq(t->provider, path->provider)) {
            tagd_put_json(b, t);
            n++;
        }
    return n > 0 ? API_OK : api_fail(call, API_NOT_FOUND, "/source", "tag not found");
}

static enum api_status
answer_once(struct tagd *d, struct api_call *call,
            const struct tagd_get_tags_monitor_path *path, const char *const *names, size_t n)
{
    if (!tagd_is_ready(d))
        return api_fail(call, API_UNAVAILABLE, NULL, "the tag providers have not answered yet");
    struct buf *b = api_reply_buf(call);
    jw_open(b, '{');
    jw_name(b, "data");
    jw_open(b, '[');
    enum api_status status =
        n > 0 ? put_named(d, call, path, names, n, b) : put_source(d, call, path, b);
    jw_close(b, ']');
    jw_close(b, '}');
    if (status == API_OK && b->err != 0)
        return api_fail(call, API_TOO_LARGE, "/tags", "ask for fewer tags");
    return status;
}

enum api_status
tagd_get_tags_monitor(struct tagd *self, struct api_call *call,
                      const struct tagd_get_tags_monitor_path *path,
                      const struct tagd_get_tags_monitor_query *query)
{
    const char *const *names = (const char *const *)query->tags;
    bool stream = query->has_stream_interval || (query->has_on_changed && query->on_changed);
    if (!stream)
        return answer_once(self, call, path, names, query->n_tags);
    uint32_t interval_ms = query->has_stream_interval ? (uint32_t)query->stream_interval : 0;
    return (enum api_status)tagd_follow(self, call, path->provider, path->source, names,
                                        query->n_tags, interval_ms);
}
