/*
 * The tty side of serial.h. The kernel's own struct termios2 is used, since
 * it alone takes any baud rate; it does not go with <termios.h>.
 */
#include "libcommon/serial.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/serial.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "libcommon/base.h"

#include "libcommon/banned.h"

/* Of kernels from 6.9 on; others drop it. */
#ifndef SER_RS485_MODE_RS422
#define SER_RS485_MODE_RS422 (1u << 8)
#endif

#define X(name, text) text,
const char *const serial_mode_names[SERIAL_N_MODES] = { SERIAL_MODE_TABLE(X) };
const char *const serial_parity_names[SERIAL_N_PARITIES] = { SERIAL_PARITY_TABLE(X) };
const char *const serial_flow_names[SERIAL_N_FLOWS] = { SERIAL_FLOW_TABLE(X) };
#undef X

bool
serial_settings_are_possible(const struct serial_settings *s)
{
    bool has_stop = s->data_bits == 5 ? s->stop_half_bits == 2 || s->stop_half_bits == 3
                                      : s->stop_half_bits == 2 || s->stop_half_bits == 4;
    return s->baud_rate >= SERIAL_BAUD_MIN && s->baud_rate <= SERIAL_BAUD_MAX &&
           s->mode < SERIAL_N_MODES && s->parity < SERIAL_N_PARITIES &&
           s->flow < SERIAL_N_FLOWS && s->data_bits >= 5 && s->data_bits <= 8 && has_stop;
}

bool
serial_settings_equal(const struct serial_settings *a, const struct serial_settings *b)
{
    return a->baud_rate == b->baud_rate && a->mode == b->mode && a->parity == b->parity &&
           a->flow == b->flow && a->data_bits == b->data_bits &&
           a->stop_half_bits == b->stop_half_bits;
}

uint64_t
serial_char_ns(const struct serial_settings *s)
{
    unsigned parity_bits = s->parity == SERIAL_PARITY_NONE ? 0 : 1;
    unsigned half_bits = 2u * (1u + s->data_bits + parity_bits) + s->stop_half_bits;
    return half_bits * UINT64_C(500000000) / s->baud_rate;
}

/* ---- setting up ---- */

static tcflag_t
control_flags(const struct serial_settings *s)
{
    static const tcflag_t sizes[] = { CS5, CS6, CS7, CS8 };
    static const tcflag_t parities[SERIAL_N_PARITIES] = {
        [SERIAL_PARITY_ODD] = PARENB | PARODD,
        [SERIAL_PARITY_EVEN] = PARENB,
        [SERIAL_PARITY_SPACE] = PARENB | CMSPAR,
        [SERIAL_PARITY_MARK] = PARENB | CMSPAR | PARODD,
    };
    tcflag_t flags = CREAD | CLOCAL | BOTHER | sizes[s->data_bits - 5] | parities[s->parity];
    if (s->stop_half_bits != 2)
        flags |= CSTOPB;
    if (s->flow == SERIAL_FLOW_HARDWARE)
        flags |= CRTSCTS;
    return flags;
}

/* Characters with a parity or framing error are dropped: a frame's checksum then fails. */
static struct termios2
raw_termios(const struct serial_settings *s)
{
    struct termios2 t = {
        .c_iflag = (s->parity != SERIAL_PARITY_NONE ? INPCK | IGNPAR : 0) | IGNBRK,
        .c_cflag = control_flags(s),
        .c_ispeed = s->baud_rate,
        .c_ospeed = s->baud_rate,
    };
    if (s->flow == SERIAL_FLOW_SOFTWARE)
        t.c_iflag |= IXON | IXOFF;
    t.c_cc[VMIN] = 1; /* nothing there is EAGAIN; 0 bytes are the end */
    t.c_cc[VSTART] = 0x11;
    t.c_cc[VSTOP] = 0x13;
    return t;
}

/* Major numbers 136..143 (kernel, admin-guide/devices.txt). */
static bool
is_pty(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && major(st.st_rdev) >= 136 && major(st.st_rdev) <= 143;
}

/* A driver sets what it can and says so only in what it shows afterwards. A pty has no bits. */
static int
set_termios(int fd, const struct serial_settings *s)
{
    const tcflag_t bits = CSIZE | CSTOPB | PARENB | PARODD | CMSPAR | CRTSCTS;
    const tcflag_t watched = is_pty(fd) ? 0 : bits;
    struct termios2 t = raw_termios(s), got;
    if (ioctl(fd, TCSETS2, &t) < 0 || ioctl(fd, TCGETS2, &got) < 0)
        return -errno;
    uint32_t off =
        got.c_ospeed > t.c_ospeed ? got.c_ospeed - t.c_ospeed : t.c_ospeed - got.c_ospeed;
    bool is_taken = (got.c_cflag & watched) == (t.c_cflag & watched) &&
                    off <= t.c_ospeed / 50; /* a receiver bears 2 % */
    return is_taken ? 0 : -EINVAL;
}

static uint32_t
rs485_flags(enum serial_mode mode)
{
    switch (mode) {
    case SERIAL_RS422:
        return SER_RS485_ENABLED | SER_RS485_RTS_ON_SEND | SER_RS485_RX_DURING_TX |
               SER_RS485_MODE_RS422;
    case SERIAL_RS485_2W:
        return SER_RS485_ENABLED | SER_RS485_RTS_ON_SEND;
    case SERIAL_RS485_4W:
        return SER_RS485_ENABLED | SER_RS485_RTS_ON_SEND | SER_RS485_RX_DURING_TX;
    default:
        return 0;
    }
}

/* RS-232 is what a driver without modes does. */
static int
set_mode(int fd, enum serial_mode mode)
{
    const uint32_t watched = SER_RS485_ENABLED | SER_RS485_RX_DURING_TX;
    struct serial_rs485 rs485 = { .flags = rs485_flags(mode) };
    if (ioctl(fd, TIOCSRS485, &rs485) == 0)
        return (rs485.flags & watched) == (rs485_flags(mode) & watched) ? 0 : -EOPNOTSUPP;
    if (errno != ENOTTY && errno != EINVAL && errno != EOPNOTSUPP)
        return -errno;
    return mode == SERIAL_RS232 || is_pty(fd) ? 0 : -EOPNOTSUPP;
}

int
serial_apply(int fd, const struct serial_settings *s)
{
    if (!serial_settings_are_possible(s))
        return -EINVAL;
    int r = set_mode(fd, (enum serial_mode)s->mode);
    return r < 0 ? r : set_termios(fd, s);
}

/*
 * flock() stops root too. TIOCEXCL stops programs that do not lock; it stays
 * until the last descriptor closes, which for a pty is not ours.
 */
static int
make_exclusive(int fd)
{
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? -EBUSY : -errno;
    if (!is_pty(fd) && ioctl(fd, TIOCEXCL) < 0)
        return -errno;
    return 0;
}

int
serial_open(const char *device, const struct serial_settings *s, int *ret_fd)
{
    int fd = open(device, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int r = isatty(fd) ? make_exclusive(fd) : -ENOTTY;
    if (r == 0)
        r = serial_apply(fd, s);
    if (r == 0 && ioctl(fd, TCFLSH, TCIOFLUSH) < 0)
        r = -errno;
    if (r < 0) {
        (void)close(fd); /* nothing was written */
        return r;
    }
    *ret_fd = fd;
    return 0;
}
