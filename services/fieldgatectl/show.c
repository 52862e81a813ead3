/*
 * What a device sent, for a person or a program. See show.h.
 */
#include "services/fieldgatectl/show.h"

#include "libcommon/banned.h"

enum { INDENT = 2, INDENT_MAX = 40 };

void
show_init(struct show *s, struct out *out, enum show_how how)
{
    *s = (struct show){ .out = out, .how = how, .safe.ascii = out->is_ascii };
}

static void
put(struct show *s, const char *bytes, size_t n)
{
    out_put(s->out, bytes, n);
    s->last = bytes[n - 1];
}

static void
put_newline(struct show *s)
{
    put(s, "\n", 1);
    for (unsigned i = 0; i < s->depth && i < INDENT_MAX; i++)
        put(s, "  ", INDENT);
}

/* A byte of a string, which may be its end. */
static void
put_inside(struct show *s, const char *bytes, size_t n)
{
    put(s, bytes, n);
    if (s->escaped)
        s->escaped = false;
    else if (bytes[0] == '\\' && n == 1)
        s->escaped = true;
    else if (bytes[0] == '"')
        s->in_string = false;
}

static void
put_close(struct show *s, const char *bracket)
{
    if (s->depth > 0)
        s->depth--;
    if (!s->opened)
        put_newline(s);
    s->opened = false;
    put(s, bracket, 1);
}

static void
put_outside(struct show *s, const char *bytes, size_t n)
{
    char c = bytes[0];
    if (c == ' ' || c == '\t' || c == '\n')
        return;
    if (c == '}' || c == ']') {
        put_close(s, bytes);
        return;
    }
    if (s->opened)
        put_newline(s);
    s->opened = c == '{' || c == '[';
    s->depth += s->opened;
    s->in_string = c == '"';
    put(s, bytes, n);
    if (c == ',')
        put_newline(s);
    else if (c == ':')
        put(s, " ", 1);
}

static void
take(void *arg, const char *bytes, size_t n)
{
    struct show *s = arg;
    if (s->how == SHOW_TEXT)
        put(s, bytes, n);
    else if (s->in_string)
        put_inside(s, bytes, n);
    else
        put_outside(s, bytes, n);
}

void
show_put(struct show *s, const char *bytes, size_t n)
{
    if (n == 0)
        return;
    if (s->how == SHOW_RAW)
        put(s, bytes, n);
    else
        safe_put(&s->safe, bytes, n, take, s);
}

void
show_end(struct show *s)
{
    if (s->how == SHOW_RAW)
        return;
    safe_end(&s->safe, take, s);
    if (s->last != '\n' && s->last != '\0')
        put(s, "\n", 1);
}
