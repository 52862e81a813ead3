/*
 * What happens when a promise of the programmer is broken: say where, abort,
 * let the service manager start a new life from the store.
 */
#include "libcommon/base.h"

#include "libcommon/log.h"

#include "libcommon/banned.h"

void
must_fail(const char *cond, const char *file, int line)
{
    log_err("broken promise: %s file=%s line=%d", cond, file, line);
    abort();
}
