/* GET /tags/monitor/{provider}/{source}: last values, or a stream of updates. */
#include "gen/api_tagd.h"
#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/tagd/tagd.h"
#include "libcommon/banned.h"

/* The names of all tags of a source, in the call's memory. Returns their number. */
static size_t
all_of_source(struct tagd *d, struct api_call *call,
              const struct tagd_get_tags_monitor_path *path, const char ***ret_names)
{
    const char **names = api_alloc(call, (TAGD_MONITOR_TAGS_MAX + 1) * sizeof(names[0]));
    size_t n = 0, at = 0;
    for (struct tagview_tag *t; names != NULL && n <= TAGD_MONITOR_TAGS_MAX &&
                                (t = tagview_next(d->view, &at)) != NULL;)
        if (str_eq(t->source, path->source) && str_eq(t->provider, path->provider)) {
            names[n] = api_strdup(call, t->name);
            n += names[n] != NULL;
        }
    *ret_names = names;
    return n;
}

static enum api_status
answer_once(struct tagd *d, struct api_call *call,
            const struct tagd_get_tags_monitor_path *path, const char *const *names, size_t n)
{
    struct buf *b = api_reply_buf(call);
    jw_open(b, '{');
    jw_name(b, "data");
    jw_open(b, '[');
    for (size_t i = 0; i < n; i++) {
        const struct tagview_tag *t =
            tagview_find(d->view, path->provider, path->source, names[i]);
        if (t == NULL || !tagview_tag_is_listed(t))
            return api_fail(call, API_NOT_FOUND, "/tags", "tag not found");
        tagd_put_json(b, t);
    }
    jw_close(b, ']');
    jw_close(b, '}');
    return b->err != 0 ? api_fail(call, API_TOO_LARGE, "/tags", "ask for fewer tags") : API_OK;
}

enum api_status
tagd_get_tags_monitor(struct tagd *self, struct api_call *call,
                      const struct tagd_get_tags_monitor_path *path,
                      const struct tagd_get_tags_monitor_query *query)
{
    const char **names = query->tags;
    size_t n = query->n_tags;
    bool stream = query->has_stream_interval || (query->has_on_changed && query->on_changed);
    bool all = n == 0;
    if (!tagd_is_ready(self) && (all || !stream))
        return api_fail(call, API_UNAVAILABLE, NULL, "the tag providers have not answered yet");
    if (all)
        n = all_of_source(self, call, path, &names);
    if (n > TAGD_MONITOR_TAGS_MAX)
        return api_fail(call, API_INVALID, "/tags", "at most %d tags at once",
                        TAGD_MONITOR_TAGS_MAX);
    if (n == 0)
        return api_fail(call, API_NOT_FOUND, "/source", "tag not found");
    if (!stream)
        return answer_once(self, call, path, (const char *const *)names, n);
    uint32_t interval_ms = query->has_stream_interval ? (uint32_t)query->stream_interval : 0;
    return (enum api_status)tagd_follow(self, call, path->provider, path->source,
                                        (const char *const *)names, n, interval_ms);
}
