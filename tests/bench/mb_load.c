/*
 * Clients of a Modbus TCP server, as many as wanted in one thread: each asks
 * for 125 holding registers as soon as it has its answer.
 *
 * usage: mb_load PORT CLIENTS SECONDS    prints "requests seconds p50_us p99_us"
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CLIENTS_MAX = 1000, ANSWER = 9 + 250, SLOT_US = 10, SLOTS = 100000 };

struct client {
    int fd;
    size_t n;
    double sent_s;
    uint8_t in[ANSWER];
};
static struct client clients[CLIENTS_MAX];
static uint64_t taken[SLOTS]; /* answers by time, in SLOT_US */

static double
now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void
fail(const char *what)
{
    perror(what);
    exit(1);
}

static void
ask(struct client *c)
{
    static const uint8_t request[] = { 0, 1, 0, 0, 0, 6, 1, 3, 0, 0, 0, 125 };
    c->n = 0;
    c->sent_s = now_s();
    if (send(c->fd, request, sizeof(request), MSG_NOSIGNAL) != sizeof(request))
        fail("send");
}

static void
join(struct client *c, uint16_t port, int epoll_fd)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = c };
    int on = 1;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof(a)) < 0)
        fail("connect");
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e) < 0)
        fail("epoll");
}

/* True when an answer is complete. */
static int
take(struct client *c)
{
    ssize_t n = recv(c->fd, c->in + c->n, sizeof(c->in) - c->n, 0);
    if (n <= 0)
        fail("recv");
    c->n += (size_t)n;
    if (c->n < sizeof(c->in))
        return 0;
    if (c->in[7] != 3 || c->in[8] != 250) {
        (void)fprintf(stderr, "mb_load: answer %02x %02x\n", c->in[7], c->in[8]);
        exit(1);
    }
    double us = (now_s() - c->sent_s) * 1e6;
    taken[us < SLOTS * SLOT_US ? (size_t)us / SLOT_US : SLOTS - 1]++;
    return 1;
}

static unsigned
quantile(uint64_t total, double q)
{
    uint64_t seen = 0;
    size_t i = 0;
    while (i < SLOTS - 1 && (double)(seen += taken[i]) < q * (double)total)
        i++;
    return (unsigned)(i * SLOT_US);
}

int
main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    unsigned n = (unsigned)strtoul(argv[2], NULL, 10);
    double seconds = strtod(argv[3], NULL);
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (n == 0 || n > CLIENTS_MAX || epoll_fd < 0)
        return 2;
    for (unsigned i = 0; i < n; i++)
        join(&clients[i], (uint16_t)strtoul(argv[1], NULL, 10), epoll_fd);
    double began = now_s();
    uint64_t requests = 0;
    for (unsigned i = 0; i < n; i++)
        ask(&clients[i]);
    while (now_s() - began < seconds) {
        struct epoll_event events[256];
        int got = epoll_wait(epoll_fd, events, 256, 1000);
        for (int i = 0; i < got; i++) {
            struct client *c = events[i].data.ptr;
            if (!take(c))
                continue;
            requests++;
            ask(c);
        }
    }
    double took = now_s() - began;
    (void)printf("%llu %.6f %u %u\n", (unsigned long long)requests, took,
                 quantile(requests, 0.5), quantile(requests, 0.99));
    return 0;
}
