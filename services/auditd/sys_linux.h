/*
 * What the security advisor is told of the machine itself.
 */
#ifndef FIELDGATE_AUDITD_SYS_LINUX_H
#define FIELDGATE_AUDITD_SYS_LINUX_H

#include "libcommon/buf.h"

struct sys_places {
    const char *root;      /* before /etc, /proc, /run and /var; "" for this machine */
    const char *state_dir; /* as they are */
    const char *program_dir;
};
enum { SYS_FACTS_MAX = 256 << 10, SYS_SOCKETS_MAX = 512 };

/*
 * Looks at everything and writes the facts of the machine (proto/README.md
 * section 4) into 'b', an object. What cannot be read is left out. Reads
 * files, so it may block: for a worker.
 */
void sys_machine_facts(const struct sys_places *places, struct buf *b);

#endif
