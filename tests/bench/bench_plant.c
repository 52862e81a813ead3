/*
 * A Modbus TCP device for measuring: one thread, epoll, raw frames, so that it
 * costs little and notes when it answered.
 *
 * usage: bench_plant PORT[-PORT] [LOG]
 *
 * Serves functions 3 and 4 for every unit and address on all ports. Register
 * 0 of the first port counts up at each read of it; with LOG, "count seconds"
 * (monotonic) of each such answer is appended as soon as it was sent. All other
 * registers hold their address plus the number of seconds since the start.
 * SIGUSR1 prints "requests seconds" since the last one on standard output.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 4096, MAX_FD = 4096 };

struct peer {
    bool listener, first_port;
    size_t n;
    uint8_t in[BUFFER];
};

static struct peer *peers[MAX_FD];
static int epoll_fd;
static int log_fd = -1;
static uint16_t counter;
static uint64_t requests;
static volatile sig_atomic_t report;

static double
now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void
on_usr1(int signo)
{
    (void)signo;
    report = 1;
}

static void
watch(int fd, bool listener, bool first_port)
{
    if (fd < 0 || fd >= MAX_FD) {
        (void)close(fd);
        return;
    }
    struct peer *p = calloc(1, sizeof(*p));
    if (p == NULL)
        exit(1);
    p->listener = listener;
    p->first_port = first_port;
    peers[fd] = p;
    struct epoll_event e = { .events = EPOLLIN, .data.fd = fd };
    (void)epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
}

static void
drop(int fd)
{
    free(peers[fd]);
    peers[fd] = NULL;
    (void)close(fd);
}

static void
listen_on(uint16_t port, bool first_port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int yes = 1;
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons(port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    if (bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, 128) < 0) {
        perror("bench_plant");
        exit(1);
    }
    watch(fd, true, first_port);
}

/* Answers the frame of 'len' bytes at 'in'. */
static void
answer(int fd, const struct peer *p, const uint8_t *in)
{
    uint8_t out[300];
    uint8_t func = in[7];
    uint16_t address = (uint16_t)(in[8] << 8 | in[9]), count = (uint16_t)(in[10] << 8 | in[11]);
    requests++;
    if ((func != 3 && func != 4) || count == 0 || count > 125) {
        memcpy(out, in, 8);
        out[4] = 0;
        out[5] = 3;
        out[7] = func | 0x80;
        out[8] = 1;
        (void)!write(fd, out, 9);
        return;
    }
    bool counts = p->first_port && address == 0;
    if (counts)
        counter++;
    memcpy(out, in, 8);
    out[4] = 0;
    out[5] = (uint8_t)(3 + 2 * count);
    out[8] = (uint8_t)(2 * count);
    uint16_t base = (uint16_t)now_s();
    for (unsigned i = 0; i < count; i++) {
        uint16_t v = (uint16_t)(address + i + base);
        if (counts && i == 0)
            v = counter;
        out[9 + 2 * i] = (uint8_t)(v >> 8);
        out[10 + 2 * i] = (uint8_t)v;
    }
    (void)!write(fd, out, 9u + 2u * count);
    if (counts && log_fd >= 0) {
        char line[64];
        int n = snprintf(line, sizeof(line), "%u %.6f\n", counter, now_s());
        (void)!write(log_fd, line, (size_t)n);
    }
}

static void
serve(int fd)
{
    struct peer *p = peers[fd];
    ssize_t got = read(fd, p->in + p->n, BUFFER - p->n);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            drop(fd);
        return;
    }
    p->n += (size_t)got;
    size_t at = 0;
    while (p->n - at >= 12) {
        size_t len = 6u + (size_t)(p->in[at + 4] << 8 | p->in[at + 5]);
        if (len > 260 || len < 12) {
            drop(fd);
            return;
        }
        if (p->n - at < len)
            break;
        answer(fd, p, p->in + at);
        at += len;
    }
    memmove(p->in, p->in + at, p->n - at);
    p->n -= at;
}

int
main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    char *end;
    unsigned long first = strtoul(argv[1], &end, 10);
    unsigned long last = *end == '-' ? strtoul(end + 1, NULL, 10) : first;
    if (argc > 2)
        log_fd = open(argv[2], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    struct rlimit limit = { MAX_FD, MAX_FD };
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (unsigned long port = first; port <= last; port++)
        listen_on((uint16_t)port, port == first);
    struct sigaction action = { .sa_handler = on_usr1 };
    (void)sigaction(SIGUSR1, &action, NULL);
    puts("ready");
    (void)fflush(stdout);
    double since = now_s();
    for (;;) {
        struct epoll_event events[64];
        int n = epoll_wait(epoll_fd, events, 64, -1);
        if (report) {
            report = 0;
            printf("%llu %.6f\n", (unsigned long long)requests, now_s() - since);
            (void)fflush(stdout);
            requests = 0;
            since = now_s();
        }
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (peers[fd] == NULL)
                continue;
            if (!peers[fd]->listener) {
                serve(fd);
                continue;
            }
            int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
            int yes = 1;
            (void)setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
            if (peer >= 0)
                watch(peer, false, peers[fd]->first_port);
        }
    }
}
