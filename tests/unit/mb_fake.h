/*
 * A Modbus TCP server that does as it is told, in the loop of the test: every
 * whole request goes to a function of the test, which sends what bytes it likes.
 */
#ifndef FIELDGATE_TESTS_MB_FAKE_H
#define FIELDGATE_TESTS_MB_FAKE_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "libcommon/buf.h"
#include "libcommon/clock.h"
#include "libcommon/loop.h"
#include "services/modbusd/mb_pdu.h"

#ifndef FAKE_PEERS
#define FAKE_PEERS 8
#endif

struct fake_request {
    struct fake *f;
    int fd; /* of the client */
    uint16_t tid;
    uint8_t unit;
    const uint8_t *pdu;
    size_t n;
};

struct fake_peer {
    struct fake *f;
    struct loop_io *io;
    int fd;
    size_t n_in;
    uint8_t in[4096];
};

struct fake {
    struct loop *loop;
    struct loop_io *io;
    int fd;
    uint16_t port;
    bool any; /* listens at all addresses, 127.0.0.0/8 among them */
    struct fake_peer peers[FAKE_PEERS];
    unsigned n_accepted, n_requests;
    void (*answer)(struct fake_request *r);
    void *arg; /* the test's */
};

static inline void
fake_drop(struct fake_peer *p)
{
    loop_io_remove(p->io);
    p->io = NULL;
    (void)close(p->fd);
    p->fd = -1;
}

static inline void
fake_on_peer(void *arg, uint32_t events)
{
    struct fake_peer *p = arg;
    (void)events;
    ssize_t n = recv(p->fd, p->in + p->n_in, sizeof(p->in) - p->n_in, 0);
    if (n <= 0) {
        fake_drop(p);
        return;
    }
    p->n_in += (size_t)n;
    struct mb_frame frame;
    size_t at = 0;
    while (p->io && mb_frame_cut(p->in + at, p->n_in - at, &frame) == MB_CUT_FRAME) {
        struct fake_request r = { p->f, p->fd, frame.tid, frame.unit, frame.pdu, frame.n };
        at += frame.size;
        p->f->n_requests++;
        p->f->answer(&r);
    }
    memmove(p->in, p->in + at, p->n_in - at);
    p->n_in -= at;
}

static inline void
fake_on_listener(void *arg, uint32_t events)
{
    struct fake *f = arg;
    int on = 1, fd = accept(f->fd, NULL, NULL);
    (void)events;
    if (fd < 0)
        return;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    for (size_t i = 0; i < FAKE_PEERS; i++) {
        struct fake_peer *p = &f->peers[i];
        if (p->io)
            continue;
        f->n_accepted++;
        p->f = f;
        p->fd = fd;
        p->n_in = 0;
        (void)loop_io_add(f->loop, fd, EPOLLIN, fake_on_peer, p, &p->io);
        return;
    }
    (void)close(fd);
}

/* Listens at f->port (0: any free one) on loopback; 0 or -1. */
static inline int
fake_open(struct fake *f, struct loop *loop, void (*answer)(struct fake_request *r), void *arg)
{
    struct sockaddr_in a = { .sin_family = AF_INET,
                             .sin_port = htons(f->port),
                             .sin_addr.s_addr = htonl(f->any ? INADDR_ANY : INADDR_LOOPBACK) };
    socklen_t len = sizeof(a);
    int on = 1;
    f->loop = loop;
    f->answer = answer;
    f->arg = arg;
    f->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (f->fd < 0 || setsockopt(f->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        bind(f->fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(f->fd, 16) < 0 ||
        getsockname(f->fd, (struct sockaddr *)&a, &len) < 0)
        return -1;
    f->port = ntohs(a.sin_port);
    return loop_io_add(loop, f->fd, EPOLLIN, fake_on_listener, f, &f->io);
}

static inline void
fake_close(struct fake *f)
{
    for (size_t i = 0; i < FAKE_PEERS; i++)
        if (f->peers[i].io)
            fake_drop(&f->peers[i]);
    if (f->io) {
        loop_io_remove(f->io);
        (void)close(f->fd);
    }
    f->io = NULL;
}

static inline void
fake_send(const struct fake_request *r, const void *bytes, size_t n)
{
    (void)send(r->fd, bytes, n, MSG_NOSIGNAL);
}

/* The frame of an answer; its size. */
static inline size_t
fake_frame(const struct fake_request *r, const uint8_t *pdu, size_t n, uint8_t out[MB_ADU_MAX])
{
    return mb_frame_encode(r->tid, r->unit, pdu, n, out);
}

/* The right answer: register k holds its own address, every third bit is set; writes are
 * echoed. */
static inline size_t
fake_good(const struct fake_request *r, uint8_t out[MB_ADU_MAX])
{
    uint8_t pdu[MB_PDU_MAX];
    uint16_t addr = get_u16(r->pdu + 1), quantity = get_u16(r->pdu + 3);
    size_t n = 5;
    memcpy(pdu, r->pdu, 5);
    if (mb_func_reads(r->pdu[0]) && mb_func_bits(r->pdu[0])) {
        n = (quantity + 7u) / 8u;
        pdu[1] = (uint8_t)n;
        memset(pdu + 2, 0, n);
        for (unsigned i = 0; i < quantity; i++)
            pdu[2 + i / 8] |= (uint8_t)(((addr + i) % 3 == 0) << i % 8);
        n += 2;
    } else if (mb_func_reads(r->pdu[0])) {
        pdu[1] = (uint8_t)(2 * quantity);
        for (unsigned i = 0; i < quantity; i++)
            put_u16(pdu + 2 + 2 * i, (uint16_t)(addr + i));
        n = 2 + 2u * quantity;
    }
    return fake_frame(r, pdu, n, out);
}

static inline void
fake_answer_good(struct fake_request *r)
{
    uint8_t frame[MB_ADU_MAX];
    fake_send(r, frame, fake_good(r, frame));
}

static inline void
fake_answer_exception(struct fake_request *r, uint8_t code)
{
    uint8_t pdu[2] = { (uint8_t)(r->pdu[0] | 0x80), code }, frame[MB_ADU_MAX];
    fake_send(r, frame, fake_frame(r, pdu, 2, frame));
}

#endif
