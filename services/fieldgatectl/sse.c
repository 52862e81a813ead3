/*
 * Event streams. See sse.h.
 */
#include "services/fieldgatectl/sse.h"

#include <string.h>

#include "libcommon/banned.h"

void
sse_init(struct sse *s)
{
    *s = (struct sse){ .has_data = false };
    buf_init(&s->line, SSE_EVENT_MAX);
    buf_init(&s->data, SSE_EVENT_MAX);
}

void
sse_reset(struct sse *s)
{
    buf_reset(&s->line);
    buf_reset(&s->data);
    s->after_cr = s->has_data = false;
}

void
sse_done(struct sse *s)
{
    buf_done(&s->line);
    buf_done(&s->data);
}

/* An empty line: what was gathered is an event. */
static int
dispatch(struct sse *s, sse_event_fn *event, void *arg)
{
    if (!s->has_data)
        return 0;
    const char *data = buf_text(&s->data);
    int r = data == NULL ? s->data.err : event(arg, data, s->data.len);
    buf_reset(&s->data);
    s->has_data = false;
    return r;
}

static int
end_line(struct sse *s, sse_event_fn *event, void *arg)
{
    static const char field[] = "data:";
    const size_t n = sizeof(field) - 1;
    if (s->line.len == 0)
        return dispatch(s, event, arg);
    if (s->line.len >= n && memcmp(s->line.data, field, n) == 0) {
        size_t from = n + (s->line.len > n && s->line.data[n] == ' ');
        if (s->has_data)
            buf_putc(&s->data, '\n');
        buf_put(&s->data, s->line.data + from, s->line.len - from);
        s->has_data = true;
    }
    buf_reset(&s->line);
    return s->data.err;
}

/* Bytes up to the end of a line. */
static size_t
up_to_end(const char *bytes, size_t n)
{
    size_t len = 0;
    while (len < n && bytes[len] != '\n' && bytes[len] != '\r')
        len++;
    return len;
}

int
sse_put(struct sse *s, const char *bytes, size_t n, sse_event_fn *event, void *arg)
{
    for (size_t at = 0; at < n;) {
        if (s->after_cr && bytes[at] == '\n')
            at++;
        s->after_cr = false;
        size_t len = up_to_end(bytes + at, n - at);
        buf_put(&s->line, bytes + at, len);
        if (s->line.err < 0)
            return s->line.err;
        at += len;
        if (at == n)
            break;
        s->after_cr = bytes[at++] == '\r';
        int r = end_line(s, event, arg);
        if (r < 0)
            return r;
    }
    return 0;
}
