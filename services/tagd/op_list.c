/* GET /tags/list. */
#include "gen/api_tagd.h"
#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/tagd/tagd.h"
#include "libcommon/banned.h"

static bool
asked_for(const struct tagd_get_tags_list_query *q, const struct tagview_tag *t)
{
    return (q->provider == NULL || str_eq(q->provider, t->provider)) &&
           (q->source == NULL || str_eq(q->source, t->source)) &&
           (q->name == NULL || str_eq(q->name, t->name));
}

static void
put_info(struct buf *b, const struct tagview_tag *t)
{
    static const char *const access[] = { "", "r", "w", "rw" };
    jw_open(b, '{');
    jw_kstr(b, "prvdName", t->provider);
    jw_kstr(b, "srcName", t->source);
    jw_kstr(b, "tagName", t->name);
    jw_kstr(b, "dataType", tag_type_text(t->type));
    if (t->type == TAG_STRING || t->type == TAG_RAW)
        jw_ki64(b, "dataSize", t->size);
    if (t->interval_ms > 0)
        jw_ki64(b, "duration", t->interval_ms);
    if (t->unit[0] != '\0')
        jw_kstr(b, "dataUnit", t->unit);
    jw_kstr(b, "access", access[t->access & (TAG_ACCESS_READ | TAG_ACCESS_WRITE)]);
    jw_close(b, '}');
}

enum api_status
tagd_get_tags_list(struct tagd *self, struct api_call *call,
                   const struct tagd_get_tags_list_query *query)
{
    if (!tagd_is_ready(self))
        return api_fail(call, API_UNAVAILABLE, NULL, "the tag providers have not answered yet");
    struct buf *b = api_reply_buf(call);
    jw_open(b, '{');
    jw_name(b, "data");
    jw_open(b, '[');
    size_t at = 0;
    int64_t skip = query->offset, left = query->limit;
    for (struct tagview_tag *t; left > 0 && (t = tagview_next(self->view, &at)) != NULL;) {
        if (!asked_for(query, t) || skip-- > 0)
            continue;
        put_info(b, t);
        left--;
    }
    jw_close(b, ']');
    jw_close(b, '}');
    if (b->err != 0)
        return api_fail(call, API_TOO_LARGE, "/limit",
                        "the list is too long for one answer: use limit and offset");
    return API_OK;
}
