/*
 * An archive that is written front to back, never sought in. Memory does not
 * grow with what is written. Zip: entries of any size, which nobody has to know
 * before (data descriptors, Zip64; PKWARE APPNOTE 6.3.10, sections 4.3.9 and
 * 4.5.3). Tar, gzipped: the size of each is told first (POSIX.1-2001 pax, where
 * ustar cannot say it).
 */
#ifndef FIELDGATE_AUDITD_PACK_H
#define FIELDGATE_AUDITD_PACK_H

#include <stddef.h>
#include <stdint.h>

struct buf;
struct pack;

enum pack_kind { PACK_ZIP, PACK_TAR_GZ };

/* Takes the next bytes of the archive; may block. 0 or -errno, which ends it. */
typedef int pack_sink_fn(void *arg, const void *bytes, size_t n);

/* 0 or -ENOMEM. */
int pack_new(enum pack_kind kind, pack_sink_fn *sink, void *arg, struct pack **ret_pack);
/*
 * Begins the entry 'name' (ASCII) of 'size' bytes (zip: not looked at), last
 * changed at 'mtime_us' (wall clock), and ends the one before. 0; what the
 * sink returned; -ENOMEM; -EIO.
 */
int pack_entry(struct pack *p, const char *name, uint64_t size, int64_t mtime_us);
/* Bytes of the entry begun last. Errors as above; tar: -EIO for more than its size. */
int pack_write(struct pack *p, const void *bytes, size_t n);
/* The entries that were begun, with the bytes of each: a JSON array. */
void pack_put_list(const struct pack *p, struct buf *b);
/* Ends the archive, which is broken without it. Errors as above; tar: -EIO: bytes are missing.
 */
int pack_finish(struct pack *p);
/* NULL does nothing. Writes nothing more. */
void pack_free(struct pack *p);
void pack_freep(struct pack **p);

#endif
