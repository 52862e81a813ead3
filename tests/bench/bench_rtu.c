/*
 * A Modbus RTU device at the far end of a serial line that answers as soon as
 * it may: 3.5 characters of silence after the request. It reads registers only,
 * all of them zero.
 *
 * usage: bench_rtu TTY SILENCE_NS
 *
 * Says "ready"; at each SIGUSR1, requests since the one before and the
 * microseconds between the first and the last of them.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "services/modbusd/mb_serial.h"

enum { REQUEST_SIZE = 8, SPIN_NS = 200000 };

static volatile sig_atomic_t asked;

static void
on_signal(int signo)
{
    (void)signo;
    asked = 1;
}

static uint64_t
now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t); /* this clock is always there */
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* Sleeps, and spins near the end, so that nobody's wake-up is measured but the product's. */
static void
wait_until(uint64_t ns)
{
    uint64_t wake = ns - SPIN_NS;
    struct timespec t = { (time_t)(wake / 1000000000ull), (long)(wake % 1000000000ull) };
    if (now_ns() < wake)
        (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL); /* else it spins */
    while (now_ns() < ns)
        ;
}

static int
open_raw(const char *path)
{
    struct termios t;
    int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || tcgetattr(fd, &t) < 0)
        return -1;
    cfmakeraw(&t);
    return tcsetattr(fd, TCSANOW, &t) < 0 ? -1 : fd;
}

static void
answer(int fd, const uint8_t *request)
{
    uint8_t pdu[MB_PDU_MAX] = { request[1] }, frame[MB_SERIAL_MAX];
    unsigned quantity = (unsigned)(request[4] << 8 | request[5]);
    pdu[1] = (uint8_t)(2 * quantity);
    size_t n = mb_rtu.encode(request[0], pdu, 2u + 2u * quantity, frame);
    if (write(fd, frame, n) != (ssize_t)n)
        exit(1);
}

int
main(int argc, char **argv)
{
    struct sigaction on = { .sa_handler = on_signal };
    int fd = argc == 3 ? open_raw(argv[1]) : -1;
    if (fd < 0 || sigaction(SIGUSR1, &on, NULL) < 0) {
        (void)fprintf(stderr, "usage: bench_rtu TTY SILENCE_NS: %s\n", strerror(errno));
        return 1;
    }
    uint64_t silence_ns = strtoull(argv[2], NULL, 10), n = 0, first = 0, last = 0;
    uint8_t in[REQUEST_SIZE];
    size_t have = 0;
    (void)puts("ready");
    (void)fflush(stdout);
    for (;;) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        int r = poll(&p, 1, 100);
        if (asked) {
            asked = 0;
            printf("%llu %llu\n", (unsigned long long)n,
                   (unsigned long long)(last - first) / 1000);
            (void)fflush(stdout);
            n = 0;
        }
        if (r <= 0)
            continue;
        ssize_t got = read(fd, in + have, sizeof(in) - have);
        if (got <= 0)
            return 0;
        have += (size_t)got;
        if (have < sizeof(in))
            continue;
        uint64_t now = now_ns();
        have = 0;
        if (mb_crc16(in, sizeof(in)) != 0) {
            (void)tcflush(fd, TCIFLUSH); /* begin anew */
            continue;
        }
        first = n++ == 0 ? now : first;
        last = now;
        wait_until(now + silence_ns);
        answer(fd, in);
    }
}
