/* The spool. See spool.h. */
#include "libcommon/spool.h"

#include <errno.h>
#include <fcntl.h>
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

int
spool_write(const char *path, const void *bytes, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (fd < 0)
        return -errno;
    const char *at = bytes;
    int r = 0;
    while (n > 0 && r == 0) {
        ssize_t did = write(fd, at, n);
        if (did < 0 && errno != EINTR)
            r = -errno;
        else if (did > 0) {
            at += did;
            n -= (size_t)did;
        }
    }
    if (close(fd) < 0 && r == 0)
        r = -errno;
    return r;
}

void
spool_remove(const char *dir, const char *name, size_t len)
{
    char path[PATH_MAX];
    if (spool_path(dir, name, len, path, sizeof(path)) == 0)
        (void)unlink(path); /* mostly it is gone already; else the gateway's sweep takes it */
}
