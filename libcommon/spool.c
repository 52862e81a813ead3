/* The spool. See spool.h. */
#include "libcommon/spool.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/str.h"

#include "libcommon/banned.h"

enum { NAME_SIZE = 65 };

int
spool_path(const char *dir, const char *name, size_t len, char *out, size_t out_size)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";
    char text[NAME_SIZE];
    if (len == 0 || str_copy_len(text, sizeof(text), name, len) < 0 ||
        strspn(text, allowed) != len)
        return -EINVAL;
    int n = snprintf(out, out_size, "%s/%s", dir, text);
    return n > 0 && (size_t)n < out_size ? 0 : -ENAMETOOLONG;
}

void
spool_remove(const char *dir, const char *name, size_t len)
{
    char path[PATH_MAX];
    if (spool_path(dir, name, len, path, sizeof(path)) == 0)
        (void)unlink(path); /* mostly it is gone already; else the gateway's sweep takes it */
}
