/*
 * See targz.h.
 */
#include "services/auditd/targz.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "libcommon/base.h"

#include "libcommon/banned.h"

struct targz {
    struct archive *archive;
    targz_sink_fn *sink;
    void *arg;
    uint64_t left; /* bytes of the file still to come */
    int error;     /* of the sink: nothing is sent after it */
};

static la_ssize_t
on_bytes(struct archive *archive, void *arg, const void *bytes, size_t n)
{
    struct targz *t = arg;
    if (t->error == 0)
        t->error = t->sink(t->arg, bytes, n);
    if (t->error == 0)
        return (la_ssize_t)n;
    archive_set_error(archive, -t->error, "the receiver wants no more");
    return -1;
}

/* libarchive tells of trouble by its own numbers; the sink's reason comes first. */
static int
outcome(const struct targz *t, la_ssize_t r)
{
    if (t->error < 0)
        return t->error;
    return r < ARCHIVE_WARN ? -EIO : 0;
}

static int
put_head(struct targz *t, const char *name, int64_t mtime_us)
{
    struct archive_entry *entry = archive_entry_new();
    if (entry == NULL)
        return -ENOMEM;
    archive_entry_set_pathname(entry, name);
    archive_entry_set_filetype(entry, S_IFREG);
    archive_entry_set_perm(entry, 0640);
    archive_entry_set_size(entry, (la_int64_t)t->left);
    archive_entry_set_mtime(entry, (time_t)(mtime_us / 1000000), 0);
    int r = outcome(t, archive_write_header(t->archive, entry));
    archive_entry_free(entry);
    return r;
}

static int
open_archive(struct targz *t)
{
    t->archive = archive_write_new();
    if (t->archive == NULL || archive_write_add_filter_gzip(t->archive) != ARCHIVE_OK ||
        archive_write_set_format_pax_restricted(t->archive) != ARCHIVE_OK ||
        archive_write_set_bytes_in_last_block(t->archive, 1) != ARCHIVE_OK ||
        archive_write_open(t->archive, t, NULL, on_bytes, NULL) != ARCHIVE_OK)
        return -ENOMEM;
    return 0;
}

int
targz_new(targz_sink_fn *sink, void *arg, const char *name, uint64_t size, int64_t mtime_us,
          struct targz **ret_targz)
{
    struct targz *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return -ENOMEM;
    *t = (struct targz){ .sink = sink, .arg = arg, .left = size };
    int r = open_archive(t);
    if (r == 0)
        r = put_head(t, name, mtime_us);
    if (r < 0)
        targz_free(t);
    else
        *ret_targz = t;
    return r;
}

int
targz_write(struct targz *t, const void *bytes, size_t n)
{
    if (n > t->left)
        return -EIO;
    t->left -= n;
    return outcome(t, archive_write_data(t->archive, bytes, n));
}

int
targz_finish(struct targz *t)
{
    return t->left > 0 ? -EIO : outcome(t, archive_write_close(t->archive));
}

void
targz_free(struct targz *t)
{
    if (t == NULL)
        return;
    t->error = t->error < 0 ? t->error : -ECANCELED; /* libarchive would end the file */
    if (t->archive != NULL)
        (void)archive_write_free(t->archive); /* whatever it says, it is gone */
    free(t);
}
