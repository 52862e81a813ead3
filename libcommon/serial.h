/*
 * Serial lines: what can be set, opening a tty with it, and how iod tells
 * modbusd which ports there are (proto/README.md section 4, SERIAL_CHANGED).
 */
#ifndef FIELDGATE_SERIAL_H
#define FIELDGATE_SERIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/buf.h"

struct cJSON;

/* The names are those of the API. */
#define SERIAL_MODE_TABLE(X)                                                                   \
    X(RS232, "rs232")                                                                          \
    X(RS422, "rs422")      /* two pairs, one talker each */                                    \
    X(RS485_2W, "rs4852w") /* one pair, driven while sending */                                \
    X(RS485_4W, "rs4854w") /* two pairs, ours driven while sending */
#define SERIAL_PARITY_TABLE(X)                                                                 \
    X(NONE, "none") X(ODD, "odd") X(EVEN, "even") X(SPACE, "space") X(MARK, "mark")
#define SERIAL_FLOW_TABLE(X) X(NONE, "none") X(SOFTWARE, "software") X(HARDWARE, "hardware")

#define X(name, text) SERIAL_##name,
enum serial_mode { SERIAL_MODE_TABLE(X) SERIAL_N_MODES };
#undef X
#define X(name, text) SERIAL_PARITY_##name,
enum serial_parity { SERIAL_PARITY_TABLE(X) SERIAL_N_PARITIES };
#undef X
#define X(name, text) SERIAL_FLOW_##name,
enum serial_flow { SERIAL_FLOW_TABLE(X) SERIAL_N_FLOWS };
#undef X

extern const char *const serial_mode_names[SERIAL_N_MODES];
extern const char *const serial_parity_names[SERIAL_N_PARITIES];
extern const char *const serial_flow_names[SERIAL_N_FLOWS];

enum { SERIAL_BAUD_MIN = 50, SERIAL_BAUD_MAX = 4000000 };

struct serial_settings {
    uint32_t baud_rate;     /* SERIAL_BAUD_MIN..SERIAL_BAUD_MAX */
    uint8_t mode;           /* enum serial_mode */
    uint8_t parity;         /* enum serial_parity */
    uint8_t flow;           /* enum serial_flow */
    uint8_t data_bits;      /* 5..8 */
    uint8_t stop_half_bits; /* 2, 3 or 4: 1, 1.5 or 2 stop bits */
};

/*
 * Whether a UART can do it: members in their ranges, and 1.5 stop bits with 5
 * data bits only, where they stand in place of 2 (16550 data sheet, LCR bit 2).
 */
bool serial_settings_are_possible(const struct serial_settings *s);

/* The same settings, member by member. */
bool serial_settings_equal(const struct serial_settings *a, const struct serial_settings *b);

/*
 * How long one character is on the line, in ns: start bit, data, parity, stop
 * bits. 's' is possible.
 */
uint64_t serial_char_ns(const struct serial_settings *s);

/*
 * Opens the tty 'device' for this process alone, non-blocking and close-on-exec,
 * raw, modem lines ignored (CLOCAL), and sets it up; bytes that waited are
 * dropped. Does not block. The caller closes *ret_fd. Returns 0 or -errno:
 *   -EBUSY       another process has it
 *   -ENOTTY      it is no tty
 *   -EINVAL      settings that are not possible, or that the driver did not take
 *   -EOPNOTSUPP  the driver cannot do this mode
 */
int serial_open(const char *device, const struct serial_settings *s, int *ret_fd);

/*
 * Sets up a tty that serial_open opened: at once, without waiting for what is
 * being sent. Returns as serial_open. A pty takes every mode, since there is
 * no line driver that could be wrong.
 */
int serial_apply(int fd, const struct serial_settings *s);

/* ---- the ports of this machine, as iod tells them ---- */

enum { SERIAL_PORTS_MAX = 32, SERIAL_DEVICE_SIZE = 256, SERIAL_DISPLAY_SIZE = 16 };

struct serial_port {
    uint32_t port_value;                    /* from 0: what Modbus calls portValue */
    uint32_t id;                            /* from 1: of /device/serials */
    char device[SERIAL_DEVICE_SIZE];        /* path to open */
    char display_name[SERIAL_DISPLAY_SIZE]; /* as printed on the case: P1 */
    struct serial_settings settings;
};

/* Puts the body of SERIAL_CHANGED. */
void serial_ports_encode(struct buf *json, const struct serial_port *ports, size_t n_ports);
/* Reads it; 'json' need not be terminated. 0, or -EBADMSG and -ENOMEM with nothing changed. */
int serial_ports_decode(const char *json, size_t len,
                        struct serial_port ret_ports[SERIAL_PORTS_MAX], size_t *ret_n_ports);

#endif
