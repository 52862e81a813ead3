/*
 * Doors: listening sockets that can be exchanged. See doors.h.
 */
#include "gateway/doors.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"

#include "libcommon/banned.h"

enum { DESCRIPTORS_AT_START = 1024 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    int fd;       /* the library's: an epoll descriptor; -1: not adopted yet */
    int listener; /* behind it; -1: none */
    int leaving;  /* the one before, while it is emptied; -1: none */
    int knock;    /* behind it until the library first looks: see door_adopt; -1: none */
} doors[DOOR_N] = { { -1, -1, -1, -1 }, { -1, -1, -1, -1 } };

int
door_bind(uint16_t port)
{
    const int on = 1;
    const struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(port) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    /* Reuse: connections that ended lately must not keep the port from us. */
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        bind(fd, (const struct sockaddr *)&any, sizeof(any)) < 0 ||
        listen(fd, DOOR_BACKLOG) < 0) {
        int r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

static bool
listens_on(int fd, uint16_t port)
{
    int listens = 0;
    struct sockaddr_in at = { 0 };
    socklen_t size = sizeof(listens), at_size = sizeof(at);
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens != 0 &&
           getsockname(fd, (struct sockaddr *)&at, &at_size) == 0 && at.sin_family == AF_INET &&
           at.sin_port == htons(port);
}

/* Also wakes a poll() that waits for it. */
static void
close_listener(int fd)
{
    (void)shutdown(fd, SHUT_RDWR); /* closing is what counts */
    close(fd);
}

/* An epoll descriptor that is ready for a knock. */
static int
make_door(int *ret_knock)
{
    struct epoll_event event = { .events = EPOLLIN };
    int door = epoll_create1(EPOLL_CLOEXEC);
    int knock = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    if (door >= 0 && knock >= 0 && epoll_ctl(door, EPOLL_CTL_ADD, knock, &event) == 0) {
        *ret_knock = knock;
        return door;
    }
    int r = -errno;
    if (door >= 0)
        close(door);
    if (knock >= 0)
        close(knock);
    return r;
}

static int
put_in_place(enum door door, int fd)
{
    int knock = -1;
    int epoll = make_door(&knock);
    if (epoll < 0)
        return epoll;
    pthread_mutex_lock(&lock);
    int r = dup3(epoll, fd, O_CLOEXEC) < 0 ? -errno : 0;
    if (r == 0) {
        doors[door].fd = fd;
        doors[door].knock = knock;
    }
    pthread_mutex_unlock(&lock);
    close(epoll);
    if (r < 0)
        close(knock);
    return r;
}

/*
 * The library's thread is in a poll() that began with the old socket: when that
 * ends, the kernel looks at what has the number now, but never waits for it.
 * So there is something to see (a knock), and the poll() returns.
 */
int
door_adopt(enum door door, uint16_t port)
{
    int fd = 0;
    while (fd < DESCRIPTORS_AT_START && !listens_on(fd, port))
        fd++;
    int old = fd == DESCRIPTORS_AT_START ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (old < 0)
        return fd == DESCRIPTORS_AT_START ? -ENOENT : -errno;
    int r = put_in_place(door, fd);
    if (r == 0)
        close_listener(old);
    else
        close(old);
    return r;
}

/*
 * A segment that only asks for a connection (SYN without ACK, in byte 13 of the
 * header: RFC 9293, 3.1) is dropped from now on, so that the queue ends. Who
 * asks is refused at the next try, when the port is closed; who was let in by
 * then is served.
 */
static void
let_nobody_else_in(int listener)
{
    static struct sock_filter drop_syn[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, TH_SYN | TH_ACK),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TH_SYN, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
    };
    const struct sock_fprog program = { .len = ARRAY_LEN(drop_syn), .filter = drop_syn };
    /* Without it those who come in the last moment are reset. */
    (void)setsockopt(listener, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
}

/* While the library's thread takes what waits there. */
static void
wait_until_empty(int listener)
{
    const struct timespec pause = { .tv_nsec = 1000000 };
    uint64_t until_us = clock_mono_us() + DOOR_DRAIN_MS * 1000ull;
    struct pollfd p = { .fd = listener, .events = POLLIN };
    while (poll(&p, 1, 0) > 0 && (p.revents & POLLIN) != 0 && clock_mono_us() < until_us)
        (void)nanosleep(&pause, NULL); /* shorter is fine */
}

static void
put_behind(enum door door, int listener, int leaving)
{
    pthread_mutex_lock(&lock);
    doors[door].listener = listener;
    doors[door].leaving = leaving;
    pthread_mutex_unlock(&lock);
}

int
door_use(enum door door, int listener)
{
    int old = doors[door].listener; /* written by this function only */
    struct epoll_event event = { .events = EPOLLIN };
    if (listener >= 0 && epoll_ctl(doors[door].fd, EPOLL_CTL_ADD, listener, &event) < 0)
        return -errno;
    put_behind(door, listener, old);
    if (old >= 0) {
        let_nobody_else_in(old);
        wait_until_empty(old);
        put_behind(door, listener, -1);
        close_listener(old); /* and leaves the epoll descriptor */
    }
    return 0;
}

/* From what is behind door 'i', by the lock's owner. */
static int
accept_behind(int i, struct sockaddr *addr, socklen_t *addr_len)
{
    int got = -1;
    errno = EAGAIN;
    if (doors[i].knock >= 0) {
        close(doors[i].knock);
        doors[i].knock = -1;
    }
    if (doors[i].leaving >= 0)
        got = accept4(doors[i].leaving, addr, addr_len, SOCK_CLOEXEC);
    if (got < 0 && doors[i].listener >= 0)
        got = accept4(doors[i].listener, addr, addr_len, SOCK_CLOEXEC);
    return got;
}

int
door_accept(int fd, struct sockaddr *addr, socklen_t *addr_len)
{
    for (int i = 0; i < DOOR_N; i++) {
        pthread_mutex_lock(&lock);
        bool is_door = doors[i].fd == fd;
        int got = is_door ? accept_behind(i, addr, addr_len) : -1;
        pthread_mutex_unlock(&lock);
        if (is_door)
            return got;
    }
    return accept4(fd, addr, addr_len, SOCK_CLOEXEC);
}
