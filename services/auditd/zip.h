/*
 * A zip file that is written front to back, never sought in: entries of any
 * size, which nobody has to know before (data descriptors, Zip64). Memory does
 * not grow with what is written. PKWARE APPNOTE 6.3.10, sections 4.3.9 and 4.5.3.
 */
#ifndef FIELDGATE_AUDITD_ZIP_H
#define FIELDGATE_AUDITD_ZIP_H

#include <stddef.h>
#include <stdint.h>

struct buf;
struct zip;

/* Takes the next bytes of the file; may block. 0 or -errno, which ends it. */
typedef int zip_sink_fn(void *arg, const void *bytes, size_t n);

/* 0 or -ENOMEM. */
int zip_new(zip_sink_fn *sink, void *arg, struct zip **ret_zip);
/*
 * Begins the entry 'name' (ASCII), last changed at 'mtime_us' (wall clock),
 * and ends the one before. 0; what the sink returned; -EIO.
 */
int zip_entry(struct zip *z, const char *name, int64_t mtime_us);
/* Bytes of the entry begun last. Errors as above. */
int zip_write(struct zip *z, const void *bytes, size_t n);
/* The entries that were begun, with the bytes of each: a JSON array. */
void zip_put_list(const struct zip *z, struct buf *b);
/* Ends the file: without it, it is cut short. Errors as above. */
int zip_finish(struct zip *z);
/* NULL does nothing. Writes nothing more. */
void zip_free(struct zip *z);
void zip_freep(struct zip **z);

#endif
