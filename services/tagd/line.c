/*
 * A tag's last value as JSON. For tags that streams carry, the event block is
 * kept until the next sample, so that it is made once however many follow.
 */
#include <stdlib.h>

#include "libcommon/buf.h"
#include "libcommon/json.h"
#include "services/tagd/tagd.h"
#include "libcommon/banned.h"

/* The memo of a tag: begins with 'head' bytes that do not change with the value. */
struct line {
    struct buf text;
    size_t head;
    uint64_t version; /* of the tag that the text shows */
};

static void
put_head(struct buf *b, const struct tagview_tag *t)
{
    jw_open(b, '{');
    jw_kstr(b, "prvdName", t->provider);
    jw_kstr(b, "srcName", t->source);
    jw_kstr(b, "tagName", t->name);
    jw_kstr(b, "dataType", tag_type_text(t->type));
    jw_name(b, "dataValue");
}

static void
put_tail(struct buf *b, const struct tagview_tag *t)
{
    if (t->has_value)
        tag_value_json(b, &t->last.value);
    else
        jw_null(b);
    if (t->unit[0] != '\0')
        jw_kstr(b, "dataUnit", t->unit);
    jw_ki64(b, "ts", t->last.ts_us);
    jw_kstr(b, "quality", tag_quality_text(t->last.quality));
    jw_close(b, '}');
}

void
tagd_put_json(struct buf *b, const struct tagview_tag *t)
{
    put_head(b, t);
    put_tail(b, t);
}

static void
line_free(void *memo)
{
    struct line *l = memo;
    buf_done(&l->text);
    free(l);
}

static struct line *
line_of(struct tagview_tag *t)
{
    if (t->memo != NULL)
        return t->memo;
    struct line *l = calloc(1, sizeof(*l));
    if (l == NULL)
        return NULL;
    buf_init(&l->text, TAGD_LINE_MAX);
    buf_puts(&l->text, "data:");
    put_head(&l->text, t);
    l->head = l->text.len;
    l->version = t->version - 1; /* none made yet */
    t->memo = l;
    t->memo_free = line_free;
    return l;
}

const char *
tagd_line(struct tagview_tag *t, size_t *ret_len)
{
    struct line *l = line_of(t);
    if (l == NULL)
        return NULL;
    if (l->version != t->version) {
        l->text.len = l->head;
        put_tail(&l->text, t);
        buf_puts(&l->text, "\n\n");
        l->version = t->version;
    }
    if (l->text.err != 0) {
        line_free(l);
        t->memo = NULL;
        return NULL;
    }
    *ret_len = l->text.len;
    return l->text.data;
}
