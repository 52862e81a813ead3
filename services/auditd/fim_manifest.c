#include "services/auditd/fim_manifest.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/str.h"

#include "libcommon/banned.h"

enum { ENTRIES_MAX = 8192 };
static const char first_line[] = "fieldgate-manifest 1";

/* The word before the next blank, which becomes its end; NULL: there is none. */
static char *
take_word(char **at)
{
    char *word = *at, *blank = strchr(word, ' ');
    if (!blank || blank == word)
        return NULL;
    *blank = '\0';
    *at = blank + 1;
    return word;
}

static int
parse_mode(const char *text, mode_t *ret_mode)
{
    mode_t mode = 0;
    size_t len = strlen(text);
    if (len < 1 || len > 4 || strspn(text, "01234567") != len)
        return -EBADMSG;
    for (const char *p = text; *p; p++)
        mode = mode << 3 | (mode_t)(*p - '0');
    *ret_mode = mode;
    return 0;
}

static int
parse_line(char *line, struct fim_entry *e)
{
    const char *kind = take_word(&line);
    const char *mode = kind ? take_word(&line) : NULL;
    if (!mode || parse_mode(mode, &e->mode) < 0 || (!str_eq(kind, "d") && !str_eq(kind, "f")))
        return -EBADMSG;
    e->is_dir = str_eq(kind, "d");
    const char *hash = e->is_dir ? NULL : take_word(&line);
    if (!e->is_dir &&
        (!hash || hex_decode(hash, strlen(hash), e->hash, FIM_HASH_SIZE) != FIM_HASH_SIZE))
        return -EBADMSG;
    e->path = line;
    return line[0] == '/' && strlen(line) < PATH_MAX ? 0 : -EBADMSG;
}

static int
by_path(const void *a, const void *b)
{
    const struct fim_entry *x = a, *y = b;
    return strcmp(x->path, y->path);
}

/* The line at '*at', which moves behind it. */
static char *
take_line(char **at)
{
    char *line = *at, *end = strchr(line, '\n');
    *end = '\0'; /* the text ends with one */
    *at = end + 1;
    return line;
}

int
fim_manifest_parse(char *text, size_t len, struct fim_manifest *ret_manifest)
{
    struct fim_manifest *m = ret_manifest;
    char *at = text;
    *m = (struct fim_manifest){ 0 };
    if (len == 0 || text[len - 1] != '\n' || memchr(text, '\0', len) ||
        !str_eq(take_line(&at), first_line))
        return -EBADMSG;
    m->entries = calloc(ENTRIES_MAX, sizeof(*m->entries));
    if (!m->entries)
        return -ENOMEM;
    while (at < text + len) {
        struct fim_entry *e = &m->entries[m->n];
        if (m->n == ENTRIES_MAX || parse_line(take_line(&at), e) < 0)
            return -EBADMSG;
        m->n++;
        m->n_files += !e->is_dir;
    }
    qsort(m->entries, m->n, sizeof(*m->entries), by_path);
    return m->n > 0 ? 0 : -EBADMSG;
}

bool
fim_manifest_has(const struct fim_manifest *m, const char *path)
{
    const struct fim_entry key = { .path = path };
    return bsearch(&key, m->entries, m->n, sizeof(*m->entries), by_path) != NULL;
}

void
fim_manifest_done(struct fim_manifest *m)
{
    free(m->entries);
    *m = (struct fim_manifest){ 0 };
}
