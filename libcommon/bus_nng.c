/*
 * What every bus_*.c needs of NNG, and sendmsg() as NNG 1.5.2 can bear it.
 *
 * NNG takes EPIPE for a connection that it has closed itself. When a peer dies
 * at the wrong moment
 *   - a listener that is just greeting it never accepts again,
 *   - a dialer that is just greeting it never dials again,
 *   - a connection on which an answer is half read is never taken down: NNG's
 *     reaper waits for that for ever, and no connection of this process comes
 *     back.
 * The same as the last happens when a message is half sent as the peer dies.
 * All of it was seen with kill -9 under load; none of it happens when a
 * connection's end is noticed by its reading side only. So this program
 * defines sendmsg(), and libnng.so finds it before the C library's: on a unix
 * stream socket bytes for a dead peer are thrown away instead of refused (the
 * reading side learns of the death at the same time), and a message is sent
 * whole when its reader keeps reading.
 */
#include "libcommon/bus.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <nng/nng.h>

#include "libcommon/base.h"
#include "libcommon/bus_private.h"

#include "libcommon/banned.h"

enum { SEND_STALL_MS = 20, SEND_PARTS_MAX = 16 };

static ssize_t
kernel_sendmsg(int fd, const struct msghdr *msg, int flags)
{
    return syscall(SYS_sendmsg, fd, msg, flags);
}

static bool
is_unix_stream(int fd)
{
    int domain = 0;
    int type = 0;
    socklen_t size = sizeof(int);
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX &&
           getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

/* Moves the beginning of what is left behind 'n' sent bytes. */
static void
advance(struct msghdr *left, size_t n)
{
    while (left->msg_iovlen > 0 && n >= left->msg_iov->iov_len) {
        n -= left->msg_iov->iov_len;
        left->msg_iov++;
        left->msg_iovlen--;
    }
    if (left->msg_iovlen > 0) {
        left->msg_iov->iov_base = (char *)left->msg_iov->iov_base + n;
        left->msg_iov->iov_len -= n;
    }
}

/* Sends what a full socket did not take, as long as the reader goes on reading. */
static ssize_t
send_rest(int fd, const struct msghdr *msg, int flags, size_t sent, size_t total)
{
    struct iovec parts[SEND_PARTS_MAX];
    struct msghdr left = { .msg_iov = parts, .msg_iovlen = msg->msg_iovlen };
    memcpy(parts, msg->msg_iov, msg->msg_iovlen * sizeof(parts[0]));
    advance(&left, sent);
    while (sent < total) {
        struct pollfd wait = { .fd = fd, .events = POLLOUT };
        if (poll(&wait, 1, SEND_STALL_MS) <= 0)
            break;
        ssize_t n = kernel_sendmsg(fd, &left, flags);
        if (n < 0 && errno == EPIPE)
            return (ssize_t)total;
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            break;
        if (n > 0) {
            sent += (size_t)n;
            advance(&left, (size_t)n);
        }
    }
    return (ssize_t)sent;
}

ssize_t
sendmsg(int fd, const struct msghdr *msg, int flags)
{
    size_t total = 0;
    for (size_t i = 0; i < msg->msg_iovlen; i++)
        total += msg->msg_iov[i].iov_len;
    ssize_t n = kernel_sendmsg(fd, msg, flags);
    if (n >= 0 && (size_t)n == total)
        return n;
    if (n < 0 && errno != EPIPE)
        return n;
    if (!is_unix_stream(fd)) {
        if (n < 0)
            errno = EPIPE;
        return n;
    }
    if (n < 0)
        return (ssize_t)total;
    return msg->msg_iovlen <= SEND_PARTS_MAX ? send_rest(fd, msg, flags, (size_t)n, total) : n;
}

int
bus_errno(int e)
{
    if (e == 0)
        return 0;
    if ((e & NNG_ESYSERR) != 0)
        return -(e & ~NNG_ESYSERR);
    switch (e) {
    case NNG_ENOMEM:
        return -ENOMEM;
    case NNG_ETIMEDOUT:
    case NNG_ECANCELED:
        return -ETIMEDOUT;
    case NNG_ECONNRESET:
    case NNG_ECONNABORTED:
    case NNG_ECONNSHUT:
    case NNG_ECLOSED:
        return -ECONNRESET;
    case NNG_ECONNREFUSED:
        return -ECONNREFUSED;
    case NNG_EADDRINUSE:
        return -EADDRINUSE;
    case NNG_EADDRINVAL:
    case NNG_EINVAL:
        return -EINVAL;
    case NNG_EMSGSIZE:
        return -E2BIG;
    case NNG_EPERM:
        return -EACCES;
    case NNG_ENOENT:
        return -ENOENT;
    case NNG_ENOFILES:
        return -EMFILE;
    default:
        return -EIO;
    }
}

int
bus_url(const struct bus *bus, const char *name, const char *suffix, char *out, size_t size)
{
    /* a socket's path holds 107 bytes */
    if (strlen(bus->dir) + 1 + strlen(name) + strlen(suffix) > 107)
        return -ENAMETOOLONG;
    int n = snprintf(out, size, "ipc://%s/%s%s", bus->dir, name, suffix);
    return n > 0 && (size_t)n < size ? 0 : -ENAMETOOLONG;
}

static bool
pipe_uid(nng_pipe pipe, uint32_t *ret_uid)
{
    uint64_t uid = 0;
    if (nng_pipe_get_uint64(pipe, NNG_OPT_IPC_PEER_UID, &uid) != 0)
        return false;
    *ret_uid = (uint32_t)uid;
    return true;
}

bool
bus_pipe_allowed(struct bus *bus, nng_pipe pipe, uint32_t *ret_uid)
{
    uint32_t uid = 0;
    bool known = pipe_uid(pipe, &uid);
    bool allowed = known && uid == bus->own_uid;
    for (size_t i = 0; known && i < bus->n_users && !allowed; i++)
        allowed = bus->users[i].uid == uid;
    if (allowed)
        *ret_uid = uid;
    else
        bus_count(&bus->stats.refused_peers);
    return allowed;
}

bool
bus_pipe_is(struct bus *bus, nng_pipe pipe, const char *name, size_t len)
{
    uint32_t uid = 0;
    bool known = pipe_uid(pipe, &uid);
    bool is = known && bus->n_users == 0 && uid == bus->own_uid;
    for (size_t i = 0; known && i < bus->n_users && !is; i++)
        is = bus->users[i].uid == uid && strlen(bus->users[i].name) == len &&
             memcmp(bus->users[i].name, name, len) == 0;
    if (!is)
        bus_count(&bus->stats.refused_peers);
    return is;
}
