/*
 * A Modbus TCP device for measuring: one thread, epoll, raw frames, so that it
 * costs little and notes when it answered.
 *
 * usage: bench_plant PORT[-PORT] [LOG [DELAY [MUTE]]]
 *
 * Serves functions 3 and 4 for every unit and address on all ports, and takes
 * what function 6 writes. Register 0 of the first port counts up at each read
 * of it; with LOG (not "-"), "count seconds" (monotonic) of each such answer is
 * appended as soon as it was sent. Registers that were not written hold their
 * address plus the number of seconds since the start. Answers leave DELAY µs
 * after their request came; unit MUTE gives none.
 *
 * SIGUSR1 prints "requests seconds peak" since the last one on standard
 * output, peak being the requests of the busiest SLOT_S.
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

enum { BUFFER = 4096, MAX_FD = 4096, FRAME_MAX = 260, PENDING = 8192 };
#define SLOT_S 0.01

struct peer {
    bool listener, first_port;
    uint32_t serial; /* tells it from a later one with its descriptor */
    size_t n;
    uint8_t in[BUFFER];
};

/* An answer that waits for its time; all wait equally long, so they leave in order. */
struct pending {
    double due_s;
    int fd;
    uint32_t serial;
    size_t size;
    uint8_t frame[FRAME_MAX];
};
static struct pending pending[PENDING];
static size_t first_pending, n_pending;
static double delay_s;
static long mute_unit = -1;

/* What function 6 wrote; -1: nothing. */
static int32_t written[65536];

static struct peer *peers[MAX_FD];
static int epoll_fd;
static int log_fd = -1;
static uint16_t counter;
static uint64_t requests, slot_requests, peak_requests;
static double slot_end_s;
static uint32_t serial;
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
    p->serial = ++serial;
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

static void
count_request(void)
{
    double now = now_s();
    requests++;
    if (now >= slot_end_s) {
        slot_end_s = now + SLOT_S;
        slot_requests = 0;
    }
    if (++slot_requests > peak_requests)
        peak_requests = slot_requests;
}

/* The PDU that answers the one at 'in' in 'out'; its size. */
static size_t
answer_pdu(const uint8_t *in, bool counts, uint8_t *out)
{
    uint16_t address = (uint16_t)(in[1] << 8 | in[2]), count = (uint16_t)(in[3] << 8 | in[4]);
    out[0] = in[0];
    if (in[0] == 6) {
        written[address] = count;
        memcpy(out, in, 5);
        return 5;
    }
    if ((in[0] != 3 && in[0] != 4) || count == 0 || count > 125) {
        out[0] |= 0x80;
        out[1] = 1;
        return 2;
    }
    uint16_t base = (uint16_t)now_s();
    out[1] = (uint8_t)(2 * count);
    for (unsigned i = 0; i < count; i++) {
        uint16_t at = (uint16_t)(address + i), v = (uint16_t)(at + base);
        if (written[at] >= 0)
            v = (uint16_t)written[at];
        if (counts && i == 0)
            v = counter;
        out[2 + 2 * i] = (uint8_t)(v >> 8);
        out[3 + 2 * i] = (uint8_t)v;
    }
    return 2u + 2u * count;
}

static void
send_later(int fd, const uint8_t *frame, size_t size)
{
    if (n_pending == PENDING)
        return; /* as a device that is asked too much */
    struct pending *q = &pending[(first_pending + n_pending++) % PENDING];
    q->due_s = now_s() + delay_s;
    q->fd = fd;
    q->serial = peers[fd]->serial;
    q->size = size;
    memcpy(q->frame, frame, size);
}

/* Sends what is due; µs until the next, or -1. */
static long
send_pending(void)
{
    for (; n_pending > 0; n_pending--, first_pending = (first_pending + 1) % PENDING) {
        const struct pending *q = &pending[first_pending];
        double left_s = q->due_s - now_s();
        if (left_s > 0)
            return (long)(left_s * 1e6) + 1;
        if (peers[q->fd] != NULL && peers[q->fd]->serial == q->serial)
            (void)!write(q->fd, q->frame, q->size);
    }
    return -1;
}

/* Answers the whole frame at 'in'. */
static void
answer(int fd, const struct peer *p, const uint8_t *in)
{
    uint8_t out[FRAME_MAX];
    count_request();
    if (in[6] == mute_unit)
        return;
    bool counts = p->first_port && in[7] != 6 && in[8] == 0 && in[9] == 0;
    if (counts)
        counter++;
    memcpy(out, in, 7);
    size_t n = answer_pdu(in + 7, counts, out + 7);
    out[4] = 0;
    out[5] = (uint8_t)(1 + n);
    if (delay_s > 0)
        send_later(fd, out, 7 + n);
    else
        (void)!write(fd, out, 7 + n);
    if (counts && log_fd >= 0) {
        char line[64];
        int size = snprintf(line, sizeof(line), "%u %.6f\n", counter, now_s());
        (void)!write(log_fd, line, (size_t)size);
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

static void
tell_report(void)
{
    static double since;
    printf("%llu %.6f %llu\n", (unsigned long long)requests, now_s() - since,
           (unsigned long long)peak_requests);
    (void)fflush(stdout);
    requests = slot_requests = peak_requests = 0;
    since = now_s();
}

static void
accept_peer(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), yes = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    if (fd >= 0)
        watch(fd, false, peers[listener]->first_port);
}

static void
take_options(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[2], "-") != 0)
        log_fd = open(argv[2], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (argc > 3)
        delay_s = (double)strtoul(argv[3], NULL, 10) / 1e6;
    if (argc > 4)
        mute_unit = strtol(argv[4], NULL, 10);
    memset(written, 0xFF, sizeof(written));
}

int
main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    char *end;
    unsigned long first = strtoul(argv[1], &end, 10);
    unsigned long last = *end == '-' ? strtoul(end + 1, NULL, 10) : first;
    take_options(argc, argv);
    struct rlimit limit = { MAX_FD, MAX_FD };
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (unsigned long port = first; port <= last; port++)
        listen_on((uint16_t)port, port == first);
    struct sigaction action = { .sa_handler = on_usr1 };
    (void)sigaction(SIGUSR1, &action, NULL);
    puts("ready");
    (void)fflush(stdout);
    for (;;) {
        struct epoll_event events[64];
        long wait_us = send_pending();
        struct timespec wait = { wait_us / 1000000, wait_us % 1000000 * 1000 };
        int n = epoll_pwait2(epoll_fd, events, 64, wait_us < 0 ? NULL : &wait, NULL);
        if (report) {
            report = 0;
            tell_report();
        }
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (peers[fd] == NULL)
                continue;
            if (peers[fd]->listener)
                accept_peer(fd);
            else
                serve(fd);
        }
    }
}
