/*
 * The default payload of a message group:
 *
 *   {"tags":{"<provider>":{"<source>":{"<tag>":{"values":[
 *     {"updateTimeStamp":"2026-03-02T02:11:12Z","value":42}]}}}}}
 *
 * A value that is not good carries null and a member "quality"; the group's
 * properties follow as member "properties".
 */
#ifndef FIELDGATE_CLOUDD_PAYLOAD_H
#define FIELDGATE_CLOUDD_PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>

#include "libcommon/buf.h"
#include "libcommon/tagbus.h"

struct payload_property {
    const char *key, *value;
};

/* A message being written; tags must come grouped by provider and source. */
struct payload {
    struct buf *b;
    const char *provider, *source; /* open now; NULL: none */
    bool in_tag;
};

/* One element of "values". */
void payload_put_value(struct buf *b, const struct tag_sample *s);

void payload_begin(struct payload *p, struct buf *b);
/* The values that follow belong to this tag. The texts are kept until payload_end. */
void payload_tag(struct payload *p, const char *provider, const char *source, const char *name);
/* An element made by payload_put_value. */
void payload_value(struct payload *p, const char *json, size_t len);
void payload_end(struct payload *p, const struct payload_property *properties, size_t n);

#endif
