#include "services/auditd/zip.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <sys/stat.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/json.h"

#include "libcommon/banned.h"

enum { LIST_MAX = 1 << 20 };

struct zip {
    struct archive *archive;
    struct archive_entry *entry;
    zip_sink_fn *sink;
    void *arg;
    struct buf list; /* of the entries before this one */
    char *name;      /* of this one; NULL: none was begun */
    uint64_t bytes;
    int error; /* of the sink: nothing is sent after it */
};

static la_ssize_t
on_bytes(struct archive *archive, void *arg, const void *bytes, size_t n)
{
    struct zip *z = arg;
    if (z->error == 0)
        z->error = z->sink(z->arg, bytes, n);
    if (z->error == 0)
        return (la_ssize_t)n;
    archive_set_error(archive, -z->error, "the receiver wants no more");
    return -1;
}

/* libarchive tells of trouble by its own numbers; the sink's reason comes first. */
static int
outcome(const struct zip *z, la_ssize_t r)
{
    if (z->error < 0)
        return z->error;
    return r < ARCHIVE_WARN ? -EIO : 0;
}

int
zip_new(zip_sink_fn *sink, void *arg, struct zip **ret_zip)
{
    struct zip *z = calloc(1, sizeof(*z));
    if (!z)
        return -ENOMEM;
    *z = (struct zip){
        .archive = archive_write_new(), .entry = archive_entry_new(), .sink = sink, .arg = arg
    };
    buf_init(&z->list, LIST_MAX);
    if (!z->archive || !z->entry || archive_write_set_format_zip(z->archive) != ARCHIVE_OK ||
        archive_write_set_bytes_in_last_block(z->archive, 1) != ARCHIVE_OK ||
        archive_write_open(z->archive, z, NULL, on_bytes, NULL) != ARCHIVE_OK) {
        zip_free(z);
        return -ENOMEM;
    }
    *ret_zip = z;
    return 0;
}

static void
put_listed(const struct zip *z, struct buf *b)
{
    if (!z->name)
        return;
    jw_open(b, '{');
    jw_kstr(b, "name", z->name);
    jw_ku64(b, "bytes", z->bytes);
    jw_close(b, '}');
}

void
zip_put_list(const struct zip *z, struct buf *b)
{
    jw_open(b, '[');
    if (z->list.len > 0)
        jw_raw(b, z->list.data, z->list.len);
    put_listed(z, b);
    jw_close(b, ']');
}

int
zip_entry(struct zip *z, const char *name, int64_t mtime_us)
{
    put_listed(z, &z->list);
    free(z->name);
    z->name = strdup(name);
    z->bytes = 0;
    if (!z->name || z->list.err)
        return -ENOMEM;
    archive_entry_clear(z->entry);
    archive_entry_set_pathname(z->entry, name);
    archive_entry_set_filetype(z->entry, S_IFREG);
    archive_entry_set_perm(z->entry, 0640);
    archive_entry_set_mtime(z->entry, (time_t)(mtime_us / 1000000), 0);
    return outcome(z, archive_write_header(z->archive, z->entry));
}

int
zip_write(struct zip *z, const void *bytes, size_t n)
{
    z->bytes += n;
    return outcome(z, archive_write_data(z->archive, bytes, n));
}

int
zip_finish(struct zip *z)
{
    return outcome(z, archive_write_close(z->archive));
}

void
zip_free(struct zip *z)
{
    if (!z)
        return;
    z->error = z->error < 0 ? z->error : -ECANCELED; /* libarchive would end the file */
    if (z->archive)
        (void)archive_write_free(z->archive); /* whatever it says, it is gone */
    archive_entry_free(z->entry);
    buf_done(&z->list);
    free(z->name);
    free(z);
}

void
zip_freep(struct zip **z)
{
    zip_free(*z);
}
