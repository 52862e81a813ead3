/*
 * Files passed between the gateway and the daemons by name: <run>/spool. Who
 * receives a name removes the file; the gateway's sweep takes what was
 * forgotten. proto/README.md section 2, body kind 3.
 */
#ifndef FIELDGATE_SPOOL_H
#define FIELDGATE_SPOOL_H

#include <stddef.h>

/*
 * The path of the file 'name' ('len' bytes: 1..64 letters, digits and '-') in
 * 'dir', svc.spool_dir. 0; -EINVAL: no such name; -ENAMETOOLONG.
 */
int spool_path(const char *dir, const char *name, size_t len, char *out, size_t out_size);

/*
 * Makes the file 'path' (of spool_path) for the group to read, with these
 * bytes. Blocks. 0 or -errno; after an error part of it may be there: remove it.
 */
int spool_write(const char *path, const void *bytes, size_t n);

/* Removes that file; what is no name of the spool is left alone. */
void spool_remove(const char *dir, const char *name, size_t len);

#endif
