/*
 * A small plant to play with: a Modbus server on libmodbus, over TCP or on a
 * serial line, whose values move by themselves and follow set-points that a
 * client writes. A program of its own, no part of the suite; it shares nothing
 * with modbusd.
 *
 * One thread serves all clients in turn, and waits for none: requests gather
 * byte by byte, and who does not read the answers is dropped. Values are functions of the time,
 * so they are computed when they are asked for and an idle plant costs nothing.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <modbus/modbus.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "libcommon/banned.h"

enum {
    CLIENTS_MAX = 200, /* libmodbus selects: descriptors must stay below 1024 */
    UNITS_MAX = 247,
    N_REGS = 10000,
    N_BITS = 2048,
    N_MOVING = 64,    /* input registers that move */
    SETPOINTS = 20,   /* holding 0..19, and again 100..119 */
    MIRROR = 200,     /* holding 200..263 are input 0..63 */
    SEND_US = 100000, /* a client that does not read holds the others up no longer */
    HEAD = 7,         /* bytes of a frame before the function code */
    LINE_UNIT = 1,    /* on a serial line */
    SILENCE_MS = 20,  /* within a frame: it is none */
    AGAIN_MS = 200,   /* between tries to open a serial line */
};

static const char map_text[] =
    "usage: demoplant --port PORT [--bind ADDRESS] [--units N]\n"
    "       demoplant --serial TTY\n"
    "\n"
    "A Modbus TCP server with moving values, for units 1..N (default 1; 0 and 255 are\n"
    "unit 1). Other units answer with exception 11. Or a Modbus RTU device, unit 1, on\n"
    "a serial line: 9600 baud, no parity, 1 stop bit. TERM or Ctrl-C ends it.\n"
    "\n"
    "input registers (function 4)\n"
    "  0        flow, l/s: a sine of 20 around set-point 0, one minute long\n"
    "  1        level, mm: a ramp 0..999 in 100 s, times set-point 1 / 100\n"
    "  2        seconds since start, modulo 65536\n"
    "  3        pressure, mbar: a triangle 900..1100\n"
    "  4..5     counter of 10 ms steps, 32 bit, high word first\n"
    "  6..7     temperature, degree Celsius: float, high word first, around set-point 2\n"
    "  8..15    64-bit counter of microseconds, and double of its seconds, high word first\n"
    "  16..63   sines of other phases, 0..1000\n"
    "  64..9999 their own address\n"
    "holding registers (functions 3, 6, 16, 22, 23)\n"
    "  0..19    set-points: hold what was written. 0 flow 100, 1 level 100 %, 2 temperature "
    "20\n"
    "  100..119 set-points more, without influence\n"
    "  200..263 input registers 0..63 once more; writes are lost\n"
    "  others   hold what was written\n"
    "discrete inputs (function 2)\n"
    "  0..31    blink: input n changes every (n + 1) / 10 s\n"
    "  32..47   coils 0..15\n"
    "coils (functions 1, 5, 15)\n"
    "  0..15    hold what was written; 16..31 blink like inputs 0..15; others hold\n";

struct client {
    size_t n;
    uint8_t in[MODBUS_TCP_MAX_ADU_LENGTH];
};

struct plant {
    modbus_t *ctx;
    modbus_mapping_t *units[UNITS_MAX];
    unsigned n_units;
    struct timespec start;
    struct pollfd fds[1 + CLIENTS_MAX]; /* the listener first */
    struct client clients[1 + CLIENTS_MAX];
    nfds_t n_fds;
};

static volatile sig_atomic_t stopping;

static void
on_signal(int signo)
{
    (void)signo;
    stopping = 1;
}

/* ---- values ---- */

static double
seconds_since(const struct timespec *start)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail */
    return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

static uint16_t
clamp(double v)
{
    return v < 0 ? 0 : v > 65535 ? 65535 : (uint16_t)v;
}

static void
put_words(uint16_t *regs, uint64_t v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        regs[i] = (uint16_t)(v >> 16 * (n - 1 - i));
}

static void
put_float(uint16_t *regs, double v)
{
    float f = (float)v;
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    put_words(regs, bits, 2);
}

static void
put_double(uint16_t *regs, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof(bits));
    put_words(regs, bits, 4);
}

static double
triangle(double t, double period)
{
    return fabs(2 * (t / period - floor(t / period + 0.5)));
}

static void
move(modbus_mapping_t *m, double t)
{
    const double turn = 2 * 3.14159265358979323846;
    const uint16_t *set = m->tab_registers;
    uint16_t *in = m->tab_input_registers;
    in[0] = clamp(set[0] + 20 * sin(turn * t / 60));
    in[1] = clamp(fmod(t * 10, 1000) * set[1] / 100.0);
    in[2] = (uint16_t)(uint64_t)t;
    in[3] = clamp(900 + 200 * triangle(t, 30));
    put_words(in + 4, (uint32_t)(uint64_t)(t * 100), 2);
    put_float(in + 6, set[2] + 2 * sin(turn * t / 300) + 0.1 * sin(turn * t / 7));
    put_words(in + 8, (uint64_t)(t * 1e6), 4);
    put_double(in + 12, t);
    for (int i = 16; i < N_MOVING; i++)
        in[i] = clamp(500 + 500 * sin(turn * (t / (10 + i) + i / 48.0)));
    memcpy(m->tab_registers + MIRROR, in, N_MOVING * sizeof(*in));
    for (int i = 0; i < 32; i++)
        m->tab_input_bits[i] = (uint64_t)(t * 10 / (i + 1)) & 1;
    for (int i = 0; i < 16; i++) {
        m->tab_input_bits[32 + i] = m->tab_bits[i];
        m->tab_bits[16 + i] = m->tab_input_bits[i];
    }
}

static modbus_mapping_t *
new_unit(void)
{
    modbus_mapping_t *m = modbus_mapping_new(N_BITS, N_BITS, N_REGS, N_REGS);
    if (!m)
        return NULL;
    for (int i = 0; i < N_REGS; i++)
        m->tab_input_registers[i] = (uint16_t)i;
    m->tab_registers[0] = 100;
    m->tab_registers[1] = 100;
    m->tab_registers[2] = 20;
    return m;
}

/* ---- clients ---- */

static void
drop(struct plant *p, nfds_t i)
{
    (void)close(p->fds[i].fd); /* nothing of it is of use any more */
    p->fds[i] = p->fds[--p->n_fds];
    p->clients[i] = p->clients[p->n_fds];
}

static void
accept_client(struct plant *p)
{
    struct timeval send_time = { .tv_usec = SEND_US };
    int on = 1, fd = accept4(p->fds[0].fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (p->n_fds == 1 + CLIENTS_MAX || fd >= FD_SETSIZE) {
        (void)close(fd); /* full: the client sees it */
        return;
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* only slower without */
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send_time, sizeof(send_time)) < 0) {
        (void)close(fd); /* it could hold all others up */
        return;
    }
    p->clients[p->n_fds].n = 0;
    p->fds[p->n_fds++] = (struct pollfd){ .fd = fd, .events = POLLIN };
}

/* Answers a whole request; false: the client has left, or does not read. */
static bool
answer(struct plant *p, int fd, const uint8_t *frame, size_t n)
{
    uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH] = { 0 }; /* a short one is read no further */
    memcpy(query, frame, n);
    (void)modbus_set_socket(p->ctx, fd); /* fails for a NULL context only */
    unsigned unit = query[6];
    if (unit == 0 || unit == 255)
        unit = 1;
    if (unit > p->n_units)
        return modbus_reply_exception(p->ctx, query, MODBUS_EXCEPTION_GATEWAY_TARGET) >= 0;
    modbus_mapping_t *m = p->units[unit - 1];
    move(m, seconds_since(&p->start));
    return modbus_reply(p->ctx, query, (int)n, m) >= 0;
}

/* What a client has sent; false: it has left, sends nonsense, or does not read. */
static bool
serve(struct plant *p, nfds_t i)
{
    struct client *c = &p->clients[i];
    ssize_t got = recv(p->fds[i].fd, c->in + c->n, sizeof(c->in) - c->n, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (got <= 0)
        return false;
    c->n += (size_t)got;
    while (c->n > HEAD) {
        size_t n = HEAD - 1 + (size_t)(c->in[4] << 8 | c->in[5]);
        if (n <= HEAD || n > sizeof(c->in) || c->in[2] != 0 || c->in[3] != 0)
            return false;
        if (n > c->n)
            break;
        if (!answer(p, p->fds[i].fd, c->in, n))
            return false;
        c->n -= n;
        memmove(c->in, c->in + n, c->n);
    }
    return true;
}

static void
run(struct plant *p, const sigset_t *wait_mask)
{
    while (!stopping) {
        if (ppoll(p->fds, p->n_fds, NULL, wait_mask) < 0)
            continue; /* a signal */
        for (nfds_t i = p->n_fds; i-- > 1;)
            if (p->fds[i].revents && !serve(p, i))
                drop(p, i);
        if (p->fds[0].revents)
            accept_client(p);
    }
}

/*
 * ---- a serial line ----
 * The framing is ours: libmodbus's takes a request for another unit that stays
 * silent for half of a dialogue, and is out of step from then on.
 */

struct frame {
    size_t n;
    uint8_t bytes[MODBUS_RTU_MAX_ADU_LENGTH];
};

/* Serial line V1.02, 6.2.2: over a whole frame, with its own CRC, it is 0. */
static bool
is_whole(const struct frame *f)
{
    uint16_t crc = 0xffff;
    for (size_t i = 0; i < f->n; i++) {
        crc ^= f->bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (uint16_t)(crc >> 1 ^ (crc & 1 ? 0xa001 : 0));
    }
    return f->n >= 4 && crc == 0;
}

/* Those of other units, and their answers, are passed over. */
static void
answer_frame(struct plant *p, const struct frame *f)
{
    uint8_t query[MODBUS_RTU_MAX_ADU_LENGTH] = { 0 }; /* a short one is read no further */
    if (f->bytes[0] != LINE_UNIT && f->bytes[0] != MODBUS_BROADCAST_ADDRESS)
        return;
    memcpy(query, f->bytes, f->n);
    move(p->units[0], seconds_since(&p->start));
    (void)modbus_reply(p->ctx, query, (int)f->n, p->units[0]); /* the master asks again */
}

/* What was sent since; false: the line is gone. */
static bool
read_line(struct plant *p, int fd, struct frame *f)
{
    ssize_t got = read(fd, f->bytes + f->n, sizeof(f->bytes) - f->n);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (got <= 0)
        return false;
    f->n += (size_t)got;
    if (is_whole(f)) {
        answer_frame(p, f);
        f->n = 0;
    }
    if (f->n == sizeof(f->bytes))
        f->n = 0; /* noise */
    return true;
}

static void
run_on_line(struct plant *p, int fd, const sigset_t *wait_mask)
{
    static const struct timespec silence = { .tv_nsec = SILENCE_MS * 1000000L };
    struct frame f = { .n = 0 };
    struct pollfd line = { .fd = fd, .events = POLLIN };
    while (!stopping) {
        int n = ppoll(&line, 1, f.n == 0 ? NULL : &silence, wait_mask);
        if (n == 0)
            f.n = 0; /* the rest does not come */
        if (n > 0 && ((line.revents & (POLLHUP | POLLERR)) || !read_line(p, fd, &f)))
            return;
    }
}

/* The line may go, with the daemon or the adapter that makes it, and come again. */
static void
run_on_lines(struct plant *p, const sigset_t *wait_mask)
{
    static const struct timespec again = { .tv_nsec = AGAIN_MS * 1000000L };
    while (!stopping) {
        if (modbus_connect(p->ctx) == 0) {
            run_on_line(p, modbus_get_socket(p->ctx), wait_mask);
            modbus_close(p->ctx);
        }
        if (!stopping)
            (void)ppoll(NULL, 0, &again, wait_mask); /* a signal ends it earlier */
    }
}

/* ---- start ---- */

static int
listen_at(const char *address, uint16_t port)
{
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(port) };
    struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
    bool v4 = inet_pton(AF_INET, address, &in.sin_addr) == 1;
    if (!v4 && inet_pton(AF_INET6, address, &in6.sin6_addr) != 1) {
        errno = EINVAL;
        return -1;
    }
    int on = 1,
        fd = socket(v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on,
                     sizeof(on)); /* else a quick restart fails */
    if (bind(fd, v4 ? (struct sockaddr *)&in : (struct sockaddr *)&in6,
             v4 ? sizeof(in) : sizeof(in6)) == 0 &&
        listen(fd, 64) == 0)
        return fd;
    int error = errno;
    (void)close(fd); /* the first error is told */
    errno = error;
    return -1;
}

/* A decimal number low..high; exits with the usage otherwise. */
static unsigned
number(const char *text, unsigned low, unsigned high)
{
    char *end;
    errno = 0;
    unsigned long v = strtoul(text ? text : "", &end, 10);
    if (errno || !text || *end || end == text || v < low || v > high) {
        fputs(map_text, stderr);
        exit(2);
    }
    return (unsigned)v;
}

static void
catch_signals(sigset_t *ret_wait_mask)
{
    struct sigaction action = { .sa_handler = on_signal };
    sigset_t stop;
    (void)sigemptyset(&stop);
    (void)sigaddset(&stop, SIGTERM);
    (void)sigaddset(&stop, SIGINT);
    /* Delivered while waiting only, so that none is missed. */
    (void)sigprocmask(SIG_BLOCK, &stop, ret_wait_mask);
    (void)sigdelset(ret_wait_mask, SIGTERM);
    (void)sigdelset(ret_wait_mask, SIGINT);
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
}

/* 0, or 1 when it cannot listen. */
static int
serve_tcp(struct plant *p, const char *address, uint16_t port)
{
    sigset_t wait_mask;
    p->ctx = modbus_new_tcp(NULL, 0);
    p->fds[0] = (struct pollfd){ .fd = listen_at(address, port), .events = POLLIN };
    p->n_fds = 1;
    if (!p->ctx || p->fds[0].fd < 0) {
        fprintf(stderr, "demoplant: cannot listen at %s port %u: %s\n", address, port,
                strerror(errno));
        return 1;
    }
    /* libmodbus sleeps that long after some of its exceptions. */
    (void)modbus_set_response_timeout(p->ctx, 0, 1); /* fails for bad values only */
    catch_signals(&wait_mask);
    printf("demoplant: %u unit(s) at %s port %u\n", p->n_units, address, port);
    (void)fflush(stdout); /* nobody may be reading */
    run(p, &wait_mask);
    for (nfds_t i = 0; i < p->n_fds; i++)
        (void)close(p->fds[i].fd); /* ending */
    return 0;
}

/* 0, or 1 without memory. */
static int
serve_line(struct plant *p, const char *tty)
{
    sigset_t wait_mask;
    p->ctx = modbus_new_rtu(tty, 9600, 'N', 8, 1);
    if (!p->ctx || modbus_set_slave(p->ctx, LINE_UNIT) < 0) {
        fprintf(stderr, "demoplant: %s: %s\n", tty, strerror(errno));
        return 1;
    }
    catch_signals(&wait_mask);
    printf("demoplant: unit %d on %s\n", LINE_UNIT, tty);
    (void)fflush(stdout); /* nobody may be reading */
    run_on_lines(p, &wait_mask);
    return 0;
}

int
main(int argc, char **argv)
{
    static struct plant plant = { .n_units = 1 };
    const char *address = "127.0.0.1", *tty = NULL;
    unsigned port = 0;
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--help") == 0) {
            fputs(map_text, stdout);
            return 0;
        }
        if (strcmp(argv[i], "--port") == 0)
            port = number(value, 1, 65535);
        else if (strcmp(argv[i], "--units") == 0)
            plant.n_units = number(value, 1, UNITS_MAX);
        else if (strcmp(argv[i], "--bind") == 0 && value)
            address = value;
        else if (strcmp(argv[i], "--serial") == 0 && value)
            tty = value;
        else
            port = number(NULL, 0, 0);
    }
    if ((port == 0) == (tty == NULL))
        port = number(NULL, 0, 0);
    for (unsigned i = 0; i < plant.n_units; i++)
        if (!(plant.units[i] = new_unit())) {
            fputs("demoplant: out of memory\n", stderr);
            return 1;
        }
    (void)clock_gettime(CLOCK_MONOTONIC, &plant.start); /* cannot fail */
    int code = tty ? serve_line(&plant, tty) : serve_tcp(&plant, address, (uint16_t)port);
    for (unsigned i = 0; i < plant.n_units; i++)
        modbus_mapping_free(plant.units[i]);
    modbus_free(plant.ctx);
    return code;
}
