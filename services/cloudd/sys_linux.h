/* What cloudd asks of the machine. */
#ifndef FIELDGATE_CLOUDD_SYS_H
#define FIELDGATE_CLOUDD_SYS_H

#include <stdint.h>

enum { SYS_NAME_MAX = 256 };

/* The file system that holds a directory. */
struct sys_disk {
    char mount[SYS_NAME_MAX], device[SYS_NAME_MAX];
    uint64_t total, free; /* bytes */
};
/* 0 or -errno. */
int sys_disk_of(const char *dir, struct sys_disk *ret_disk);
/*
 * A number that names this run of the kernel: the kernel's own name of it, or,
 * where a unit hides that (ProcSubset=), a random one kept in the file
 * 'marker', which must lie where nothing survives a boot. 0: not known.
 */
uint64_t sys_boot_id(const char *kernel_id, const char *marker);
extern const char sys_kernel_boot_id[]; /* the path of the first */

#endif
