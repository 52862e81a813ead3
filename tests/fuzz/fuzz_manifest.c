/*
 * Whatever bytes stand where the manifest of installed files should: refused,
 * or entries that say the same when they are written down again.
 */
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/str.h"
#include "services/auditd/fim_manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
must_be_sound(const struct fim_manifest *m)
{
    size_t n_files = 0;
    MUST(m->n > 0);
    for (size_t i = 0; i < m->n; i++) {
        const struct fim_entry *e = &m->entries[i];
        MUST(e->path[0] == '/' && strlen(e->path) < PATH_MAX && !strchr(e->path, '\n'));
        MUST(e->mode <= 07777);
        MUST(i == 0 || strcmp(m->entries[i - 1].path, e->path) <= 0);
        MUST(fim_manifest_has(m, e->path));
        n_files += !e->is_dir;
    }
    MUST(m->n_files == n_files);
    MUST(!fim_manifest_has(m, "no path"));
}

static void
write_down(const struct fim_manifest *m, struct buf *b)
{
    char hash[2 * FIM_HASH_SIZE + 1];
    buf_puts(b, "fieldgate-manifest 1\n");
    for (size_t i = 0; i < m->n; i++) {
        const struct fim_entry *e = &m->entries[i];
        buf_printf(b, "%c %o ", e->is_dir ? 'd' : 'f', (unsigned)e->mode);
        if (!e->is_dir) {
            hex_encode(e->hash, FIM_HASH_SIZE, hash);
            buf_printf(b, "%s ", hash);
        }
        buf_printf(b, "%s\n", e->path);
    }
    MUST(b->err == 0);
}

static bool
is_twice(const struct fim_manifest *m, size_t i)
{
    const char *path = m->entries[i].path;
    return (i > 0 && str_eq(m->entries[i - 1].path, path)) ||
           (i + 1 < m->n && str_eq(m->entries[i + 1].path, path));
}

static void
must_be_equal(const struct fim_manifest *a, const struct fim_manifest *b)
{
    MUST(a->n == b->n && a->n_files == b->n_files);
    for (size_t i = 0; i < a->n; i++) {
        const struct fim_entry *x = &a->entries[i], *y = &b->entries[i];
        MUST(str_eq(x->path, y->path));
        MUST(is_twice(a, i) || /* in whatever order */
             (x->is_dir == y->is_dir && x->mode == y->mode &&
              memcmp(x->hash, y->hash, FIM_HASH_SIZE) == 0));
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fim_manifest m, again;
    struct buf b;
    char *text = malloc(size + 1);
    MUST(text != NULL);
    if (size > 0)
        memcpy(text, data, size);
    text[size] = '\0';
    int r = fim_manifest_parse(text, size, &m);
    MUST(r == 0 || r == -EBADMSG);
    if (r == 0) {
        must_be_sound(&m);
        buf_init(&b, 2 * size + 64);
        write_down(&m, &b);
        buf_putc(&b, '\0');
        MUST(fim_manifest_parse(b.data, b.len - 1, &again) == 0);
        must_be_equal(&m, &again);
        fim_manifest_done(&again);
        buf_done(&b);
    }
    fim_manifest_done(&m);
    free(text);
    return 0;
}
