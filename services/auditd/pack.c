/*
 * See pack.h.
 */
#include "services/auditd/pack.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <sys/stat.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/json.h"

#include "libcommon/banned.h"

enum { LIST_MAX = 1 << 20 };

struct pack {
    struct archive *archive;
    struct archive_entry *entry;
    pack_sink_fn *sink;
    void *arg;
    struct buf list;      /* of the entries before this one */
    char *name;           /* of this one; NULL: none was begun */
    uint64_t bytes, size; /* written of it; tar: of it in all */
    enum pack_kind kind;
    int error; /* of the sink: nothing is sent after it */
};

static la_ssize_t
on_bytes(struct archive *archive, void *arg, const void *bytes, size_t n)
{
    struct pack *p = arg;
    if (p->error == 0)
        p->error = p->sink(p->arg, bytes, n);
    if (p->error == 0)
        return (la_ssize_t)n;
    archive_set_error(archive, -p->error, "the receiver wants no more");
    return -1;
}

/* libarchive tells of trouble by its own numbers; the sink's reason comes first. */
static int
outcome(const struct pack *p, la_ssize_t r)
{
    if (p->error < 0)
        return p->error;
    return r < ARCHIVE_WARN ? -EIO : 0;
}

static bool
set_format(struct archive *archive, enum pack_kind kind)
{
    return kind == PACK_ZIP
               ? archive_write_set_format_zip(archive) == ARCHIVE_OK
               : archive_write_add_filter_gzip(archive) == ARCHIVE_OK &&
                     archive_write_set_format_pax_restricted(archive) == ARCHIVE_OK;
}

int
pack_new(enum pack_kind kind, pack_sink_fn *sink, void *arg, struct pack **ret_pack)
{
    struct pack *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    *p = (struct pack){ .archive = archive_write_new(),
                        .entry = archive_entry_new(),
                        .sink = sink,
                        .arg = arg,
                        .kind = kind };
    buf_init(&p->list, LIST_MAX);
    if (!p->archive || !p->entry || !set_format(p->archive, kind) ||
        archive_write_set_bytes_in_last_block(p->archive, 1) != ARCHIVE_OK ||
        archive_write_open(p->archive, p, NULL, on_bytes, NULL) != ARCHIVE_OK) {
        pack_free(p);
        return -ENOMEM;
    }
    *ret_pack = p;
    return 0;
}

static void
put_listed(const struct pack *p, struct buf *b)
{
    if (!p->name)
        return;
    jw_open(b, '{');
    jw_kstr(b, "name", p->name);
    jw_ku64(b, "bytes", p->bytes);
    jw_close(b, '}');
}

void
pack_put_list(const struct pack *p, struct buf *b)
{
    jw_open(b, '[');
    if (p->list.len > 0)
        jw_raw(b, p->list.data, p->list.len);
    put_listed(p, b);
    jw_close(b, ']');
}

int
pack_entry(struct pack *p, const char *name, uint64_t size, int64_t mtime_us)
{
    put_listed(p, &p->list);
    free(p->name);
    p->name = strdup(name);
    p->bytes = 0;
    p->size = size;
    if (!p->name || p->list.err)
        return -ENOMEM;
    archive_entry_clear(p->entry);
    archive_entry_set_pathname(p->entry, name);
    archive_entry_set_filetype(p->entry, S_IFREG);
    archive_entry_set_perm(p->entry, 0640);
    if (p->kind == PACK_TAR_GZ)
        archive_entry_set_size(p->entry, (la_int64_t)size);
    archive_entry_set_mtime(p->entry, (time_t)(mtime_us / 1000000), 0);
    return outcome(p, archive_write_header(p->archive, p->entry));
}

int
pack_write(struct pack *p, const void *bytes, size_t n)
{
    if (p->kind == PACK_TAR_GZ && n > p->size - p->bytes)
        return -EIO;
    p->bytes += n;
    return outcome(p, archive_write_data(p->archive, bytes, n));
}

int
pack_finish(struct pack *p)
{
    if (p->kind == PACK_TAR_GZ && p->bytes < p->size)
        return -EIO;
    return outcome(p, archive_write_close(p->archive));
}

void
pack_free(struct pack *p)
{
    if (!p)
        return;
    p->error = p->error < 0 ? p->error : -ECANCELED; /* libarchive would end the file */
    if (p->archive)
        (void)archive_write_free(p->archive); /* whatever it says, it is gone */
    archive_entry_free(p->entry);
    buf_done(&p->list);
    free(p->name);
    free(p);
}

void
pack_freep(struct pack **p)
{
    pack_free(*p);
}
