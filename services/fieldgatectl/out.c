/*
 * Where results go. See out.h.
 */
#include "services/fieldgatectl/out.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/str.h"
#include "services/fieldgatectl/ctl.h"
#include "services/fieldgatectl/safe.h"
#include "services/fieldgatectl/sig.h"

#include "libcommon/banned.h"

_Static_assert(sizeof(((struct out *)NULL)->bytes) <= PIPE_BUF,
               "a pipe that poll says is ready takes it without blocking");

void
out_stdout(struct out *o)
{
    *o = (struct out){ .fd = STDOUT_FILENO,
                       .is_terminal = isatty(STDOUT_FILENO) == 1,
                       .is_ascii = safe_ascii(STDOUT_FILENO) };
}

/* The mode that open would give a new file. */
static mode_t
usual_mode(void)
{
    mode_t mask = umask(0);
    (void)umask(mask); /* cannot fail */
    return 0666 & ~mask;
}

/* A new file beside the one that is wanted. */
static int
open_temp(struct out *o, mode_t mode)
{
    int n = snprintf(o->temp, sizeof(o->temp), "%s.XXXXXX", o->path);
    if (n < 0 || (size_t)n >= sizeof(o->temp)) {
        o->temp[0] = '\0';
        return -ENAMETOOLONG;
    }
    o->fd = mkostemp(o->temp, O_CLOEXEC);
    if (o->fd < 0) {
        o->temp[0] = '\0';
        return -errno;
    }
    return fchmod(o->fd, mode) < 0 ? -errno : 0;
}

static int
begin(struct out *o, const char *path, mode_t mode)
{
    *o = (struct out){ .fd = -1 };
    if (str_copy(o->path, sizeof(o->path), path) < 0)
        return -ENAMETOOLONG;
    int r = open_temp(o, mode);
    if (r < 0)
        out_abandon(o);
    return r;
}

int
out_file(struct out *o, const char *path)
{
    struct stat st;
    bool is_there = stat(path, &st) == 0;
    if (!is_there && errno == ENOENT)
        return begin(o, path, usual_mode());
    if (is_there && S_ISREG(st.st_mode))
        return begin(o, path, st.st_mode & 0777);
    *o = (struct out){ .fd = -1 };
    if (str_copy(o->path, sizeof(o->path), path) < 0)
        return -ENAMETOOLONG;
    o->fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    return o->fd < 0 ? -errno : 0;
}

int
out_private(struct out *o, const char *path)
{
    return begin(o, path, 0600);
}

void
out_flush(struct out *o)
{
    size_t at = 0;
    while (o->err == 0 && at < o->n) {
        /* a file takes it at once, and a signal is seen where the answer is waited for */
        int r = o->temp[0] != '\0' ? 0 : sig_wait(o->fd, POLLOUT);
        ssize_t wrote = r < 0 ? -1 : write(o->fd, o->bytes + at, o->n - at);
        if (r < 0)
            o->err = r;
        else if (wrote < 0 && errno != EINTR && errno != EAGAIN)
            o->err = -errno;
        else if (wrote > 0)
            at += (size_t)wrote;
    }
    o->n = 0;
}

void
out_put(struct out *o, const char *bytes, size_t n)
{
    while (n > 0 && o->err == 0) {
        size_t room = sizeof(o->bytes) - o->n, some = n < room ? n : room;
        memcpy(o->bytes + o->n, bytes, some);
        o->n += some;
        bytes += some;
        n -= some;
        if (o->n == sizeof(o->bytes))
            out_flush(o);
    }
}

void
out_puts(struct out *o, const char *text)
{
    out_put(o, text, strlen(text));
}

/* A name in a directory is on disk when the directory is. */
static int
sync_directory(const char *path)
{
    char copy[PATH_MAX];
    (void)str_copy(copy, sizeof(copy), path); /* of the same size */
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int r = fsync(fd) < 0 ? -errno : 0;
    (void)close(fd); /* was only read */
    return r;
}

static int
put_in_place(struct out *o)
{
    if (fsync(o->fd) < 0)
        return -errno;
    int fd = o->fd;
    o->fd = -1;
    if (close(fd) < 0 || rename(o->temp, o->path) < 0)
        return -errno;
    o->temp[0] = '\0';
    return sync_directory(o->path);
}

int
out_commit(struct out *o)
{
    out_flush(o);
    if (o->err == 0 && o->temp[0] != '\0')
        o->err = put_in_place(o);
    out_abandon(o); /* of a file that is in its place nothing is left to take away */
    return o->err;
}

int
out_end(struct out *o)
{
    int r = out_commit(o);
    return r < 0 ? out_failed(o, r) : CTL_OK;
}

void
out_abandon(struct out *o)
{
    if (o->fd >= 0 && o->path[0] != '\0')
        (void)close(o->fd); /* not wanted any more */
    o->fd = -1;
    if (o->temp[0] != '\0')
        (void)unlink(o->temp); /* nothing else can be done */
    o->temp[0] = '\0';
}

int
out_failed(const struct out *o, int r)
{
    if (r == -EINTR)
        return CTL_SIGNAL + sig_taken();
    if (r == -EPIPE && o->path[0] == '\0') {
        (void)signal(SIGPIPE, SIG_DFL); /* who read us has left: as programs end then */
        (void)raise(SIGPIPE);
    }
    complain("cannot write %s: %s", o->path[0] != '\0' ? o->path : "to stdout", strerror(-r));
    return CTL_LOCAL;
}
