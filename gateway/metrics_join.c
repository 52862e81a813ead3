/*
 * Several metrics texts made one, so that each name is explained once. See
 * metrics.h.
 */
#include "gateway/metrics.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"

#include "libcommon/banned.h"

enum { FAMILIES_MAX = 1024 };

struct family {
    const char *name;
    size_t name_len;
    struct metrics_text help, type;
};

struct sample {
    unsigned family;
    struct metrics_text line;
};

struct joiner {
    struct family families[FAMILIES_MAX];
    unsigned n_families;
    struct sample *samples;
    size_t n_samples, cap;
};

/* The family 'name', made if need be; FAMILIES_MAX when there are too many. */
static unsigned
family_of(struct joiner *j, const char *name, size_t len)
{
    for (unsigned i = 0; i < j->n_families; i++)
        if (j->families[i].name_len == len && memcmp(j->families[i].name, name, len) == 0)
            return i;
    if (j->n_families == FAMILIES_MAX)
        return FAMILIES_MAX;
    j->families[j->n_families] = (struct family){ .name = name, .name_len = len };
    return j->n_families++;
}

static size_t
name_length(const char *p, const char *end)
{
    const char *at = p;
    while (at < end && *at != ' ' && *at != '{' && *at != '\n')
        at++;
    return (size_t)(at - p);
}

/* "name_bucket" belongs to the family "name", when that is the current one. */
static bool
belongs(const struct family *f, const char *name, size_t len)
{
    static const char *const suffixes[] = { "", "_bucket", "_sum", "_count" };
    if (len < f->name_len || memcmp(name, f->name, f->name_len) != 0)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(suffixes); i++)
        if (strlen(suffixes[i]) == len - f->name_len &&
            memcmp(name + f->name_len, suffixes[i], len - f->name_len) == 0)
            return true;
    return false;
}

static int
add_sample(struct joiner *j, unsigned family, struct metrics_text line)
{
    if (j->n_samples == j->cap) {
        size_t cap = j->cap == 0 ? 1024 : j->cap * 2;
        struct sample *samples = realloc(j->samples, cap * sizeof(*samples));
        if (samples == NULL)
            return -ENOMEM;
        j->samples = samples;
        j->cap = cap;
    }
    j->samples[j->n_samples++] = (struct sample){ .family = family, .line = line };
    return 0;
}

static int
take_line(struct joiner *j, struct metrics_text line, unsigned *current)
{
    const char *end = line.p + line.len;
    bool help = line.len > 7 && memcmp(line.p, "# HELP ", 7) == 0;
    bool type = line.len > 7 && memcmp(line.p, "# TYPE ", 7) == 0;
    if (line.len <= 1 || (line.p[0] == '#' && !help && !type))
        return 0;
    const char *name = help || type ? line.p + 7 : line.p;
    size_t len = name_length(name, end);
    if (help || type) {
        *current = family_of(j, name, len);
        if (*current == FAMILIES_MAX)
            return -E2BIG;
        struct metrics_text *slot =
            help ? &j->families[*current].help : &j->families[*current].type;
        if (slot->p == NULL)
            *slot = line;
        return 0;
    }
    if (*current == FAMILIES_MAX || !belongs(&j->families[*current], name, len))
        *current = family_of(j, name, len);
    return *current == FAMILIES_MAX ? -E2BIG : add_sample(j, *current, line);
}

static int
take_text(struct joiner *j, struct metrics_text text)
{
    unsigned current = FAMILIES_MAX;
    int r = 0;
    const char *end = text.p + text.len;
    for (const char *p = text.p; p < end && r == 0;) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        if (newline == NULL)
            break; /* every line of a whole text ends so */
        size_t len = (size_t)(newline + 1 - p);
        r = take_line(j, (struct metrics_text){ .p = p, .len = len }, &current);
        p += len;
    }
    return r;
}

int
metrics_join(struct buf *out, const struct metrics_text *texts, size_t n)
{
    struct joiner *j = calloc(1, sizeof(*j));
    if (j == NULL)
        return -ENOMEM;
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++)
        r = take_text(j, texts[i]);
    for (unsigned f = 0; f < j->n_families && r == 0; f++) {
        buf_put(out, j->families[f].help.p, j->families[f].help.len);
        buf_put(out, j->families[f].type.p, j->families[f].type.len);
        for (size_t i = 0; i < j->n_samples; i++)
            if (j->samples[i].family == f)
                buf_put(out, j->samples[i].line.p, j->samples[i].line.len);
    }
    free(j->samples);
    free(j);
    return r < 0 ? r : out->err;
}
