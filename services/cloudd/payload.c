/* The default payload: see payload.h. */
#include "services/cloudd/payload.h"

#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/str.h"
#include "libcommon/banned.h"

void
payload_put_value(struct buf *b, const struct tag_sample *s)
{
    char when[CLOCK_TEXT_SIZE];
    clock_format(s->ts_us, 0, when);
    jw_open(b, '{');
    jw_kstr(b, "updateTimeStamp", when);
    jw_name(b, "value");
    if (tag_quality_ok(s->quality)) {
        tag_value_json(b, &s->value);
    } else {
        jw_null(b);
        jw_kstr(b, "quality", tag_quality_text(s->quality));
    }
    jw_close(b, '}');
}

void
payload_begin(struct payload *p, struct buf *b)
{
    *p = (struct payload){ .b = b };
    jw_open(b, '{');
    jw_name(b, "tags");
    jw_open(b, '{');
}

static void
close_to(struct payload *p, bool source_too, bool provider_too)
{
    if (p->in_tag) {
        jw_close(p->b, ']');
        jw_close(p->b, '}');
        p->in_tag = false;
    }
    if (source_too && p->source != NULL) {
        jw_close(p->b, '}');
        p->source = NULL;
    }
    if (provider_too && p->provider != NULL) {
        jw_close(p->b, '}');
        p->provider = NULL;
    }
}

void
payload_tag(struct payload *p, const char *provider, const char *source, const char *name)
{
    bool other_provider = p->provider == NULL || !str_eq(p->provider, provider);
    bool other_source = other_provider || p->source == NULL || !str_eq(p->source, source);
    close_to(p, other_source, other_provider);
    if (other_provider) {
        jw_name(p->b, provider);
        jw_open(p->b, '{');
        p->provider = provider;
    }
    if (other_source) {
        jw_name(p->b, source);
        jw_open(p->b, '{');
        p->source = source;
    }
    jw_name(p->b, name);
    jw_open(p->b, '{');
    jw_name(p->b, "values");
    jw_open(p->b, '[');
    p->in_tag = true;
}

void
payload_value(struct payload *p, const char *json, size_t len)
{
    jw_raw(p->b, json, len);
}

void
payload_end(struct payload *p, const struct payload_property *properties, size_t n)
{
    close_to(p, true, true);
    jw_close(p->b, '}');
    if (n > 0) {
        jw_name(p->b, "properties");
        jw_open(p->b, '{');
        for (size_t i = 0; i < n; i++)
            jw_kstr(p->b, properties[i].key, properties[i].value);
        jw_close(p->b, '}');
    }
    jw_close(p->b, '}');
}
