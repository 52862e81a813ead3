/*
 * A gzipped tar that is written front to back, with one file in it whose size
 * is known before (POSIX.1-2001 pax, where ustar cannot say it). Memory does
 * not grow with what is written.
 */
#ifndef FIELDGATE_AUDITD_TARGZ_H
#define FIELDGATE_AUDITD_TARGZ_H

#include <stddef.h>
#include <stdint.h>

struct targz;

/* Takes the next bytes of the archive; may block. 0 or -errno, which ends it. */
typedef int targz_sink_fn(void *arg, const void *bytes, size_t n);

/*
 * Begins the archive with the head of the file 'name' (ASCII) of 'size'
 * bytes, last changed at 'mtime_us' (wall clock). 0; what the sink returned;
 * -ENOMEM; -EIO.
 */
int targz_new(targz_sink_fn *sink, void *arg, const char *name, uint64_t size, int64_t mtime_us,
              struct targz **ret_targz);
/* The file's next bytes. 0; what the sink returned; -EIO. */
int targz_write(struct targz *t, const void *bytes, size_t n);
/* Ends the archive, which is broken without it. Errors as above; -EIO: bytes are missing. */
int targz_finish(struct targz *t);
/* NULL does nothing. Writes nothing more. */
void targz_free(struct targz *t);

#endif
