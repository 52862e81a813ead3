/* Serial lines on ptys: what is set up, what is refused, and the list of ports. */
#include "libcommon/serial.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmocka.h>

#include "libcommon/buf.h"
#include "libcommon/str.h"

static const struct serial_settings usual = { .baud_rate = 9600,
                                              .data_bits = 8,
                                              .stop_half_bits = 2 };

struct pty {
    int master;
    char name[64];
};

static int
setup(void **state)
{
    static struct pty p;
    p.master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (p.master < 0 || grantpt(p.master) < 0 || unlockpt(p.master) < 0 ||
        ptsname_r(p.master, p.name, sizeof(p.name)) != 0)
        return -1;
    *state = &p;
    return 0;
}

static int
teardown(void **state)
{
    const struct pty *p = *state;
    return close(p->master);
}

static struct termios2
termios_of(int fd)
{
    struct termios2 t;
    assert_int_equal(ioctl(fd, TCGETS2, &t), 0);
    return t;
}

static int
open_with(const struct pty *p, struct serial_settings s)
{
    int fd = -1;
    assert_int_equal(serial_open(p->name, &s, &fd), 0);
    return fd;
}

static void
a_line_is_raw_and_does_not_block(void **state)
{
    char byte;
    int fd = open_with(*state, usual);
    struct termios2 t = termios_of(fd);
    assert_int_equal(t.c_lflag, 0);
    assert_int_equal(t.c_oflag & OPOST, 0);
    assert_int_equal(t.c_iflag & (ICRNL | IXON | IXOFF | ISTRIP), 0);
    assert_true(t.c_cflag & CLOCAL);
    assert_true(t.c_cflag & CREAD);
    assert_int_equal(read(fd, &byte, 1), -1);
    assert_int_equal(errno, EAGAIN);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(close(fd), 0);
}

static void
any_rate_is_set_both_ways(void **state)
{
    const struct pty *p = *state;
    static const uint32_t rates[] = { 50, 300, 9600, 12345, 115200, 187500, 921600, 4000000 };
    int fd = open_with(p, usual);
    for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
        struct serial_settings s = usual;
        s.baud_rate = rates[i];
        assert_int_equal(serial_apply(fd, &s), 0);
        assert_int_equal(termios_of(fd).c_ospeed, rates[i]);
        assert_int_equal(termios_of(fd).c_ispeed, rates[i]);
    }
    assert_int_equal(close(fd), 0);
}

static void
stop_bits_and_flow_control_are_set(void **state)
{
    struct serial_settings s = usual;
    s.stop_half_bits = 4;
    s.flow = SERIAL_FLOW_HARDWARE;
    int fd = open_with(*state, s);
    assert_true(termios_of(fd).c_cflag & CSTOPB);
    assert_true(termios_of(fd).c_cflag & CRTSCTS);
    s.stop_half_bits = 2;
    s.flow = SERIAL_FLOW_SOFTWARE;
    assert_int_equal(serial_apply(fd, &s), 0);
    assert_false(termios_of(fd).c_cflag & (CSTOPB | CRTSCTS));
    assert_int_equal(termios_of(fd).c_iflag & (IXON | IXOFF), IXON | IXOFF);
    assert_int_equal(termios_of(fd).c_cc[VSTART], 0x11);
    assert_int_equal(termios_of(fd).c_cc[VSTOP], 0x13);
    assert_int_equal(close(fd), 0);
}

static void
a_pty_takes_every_mode(void **state)
{
    int fd = open_with(*state, usual);
    for (unsigned mode = 0; mode < SERIAL_N_MODES; mode++) {
        struct serial_settings s = usual;
        s.mode = (uint8_t)mode;
        assert_int_equal(serial_apply(fd, &s), 0);
    }
    assert_int_equal(close(fd), 0);
}

static void
a_line_has_one_owner(void **state)
{
    const struct pty *p = *state;
    int second = -1, fd = open_with(p, usual);
    assert_int_equal(serial_open(p->name, &usual, &second), -EBUSY);
    assert_int_equal(second, -1);
    assert_int_equal(close(fd), 0);
    second = open_with(p, usual); /* nothing of the first is left */
    assert_int_equal(close(second), 0);
}

static void
what_was_sent_before_is_not_read(void **state)
{
    const struct pty *p = *state;
    char byte;
    int keep = open(p->name, O_RDWR | O_NOCTTY);
    assert_true(keep >= 0);
    assert_int_equal(write(p->master, "old\n", 4), 4);
    int fd = open_with(p, usual);
    assert_int_equal(read(fd, &byte, 1), -1);
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(close(fd), 0);
    assert_int_equal(close(keep), 0);
}

static void
what_is_no_line_is_refused(void **state)
{
    (void)state;
    int fd = -1;
    assert_int_equal(serial_open("/dev/null", &usual, &fd), -ENOTTY);
    assert_int_equal(serial_open("/no/such/tty", &usual, &fd), -ENOENT);
    assert_int_equal(fd, -1);
}

static bool
is_possible(unsigned data_bits, unsigned stop_half_bits)
{
    struct serial_settings s = usual;
    s.data_bits = (uint8_t)data_bits;
    s.stop_half_bits = (uint8_t)stop_half_bits;
    return serial_settings_are_possible(&s);
}

static void
what_no_uart_can_do_is_refused(void **state)
{
    struct serial_settings s = usual;
    int fd = open_with(*state, usual);
    for (unsigned bits = 5; bits <= 8; bits++) {
        assert_true(is_possible(bits, 2));
        assert_int_equal(is_possible(bits, 3), bits == 5);
        assert_int_equal(is_possible(bits, 4), bits != 5);
        assert_false(is_possible(bits, 1));
        assert_false(is_possible(bits, 5));
    }
    assert_false(is_possible(4, 2));
    assert_false(is_possible(9, 2));
    s.baud_rate = SERIAL_BAUD_MIN - 1;
    assert_int_equal(serial_apply(fd, &s), -EINVAL);
    s.baud_rate = SERIAL_BAUD_MAX + 1;
    assert_int_equal(serial_apply(fd, &s), -EINVAL);
    s = usual;
    s.parity = SERIAL_N_PARITIES;
    assert_int_equal(serial_apply(fd, &s), -EINVAL);
    s = usual;
    s.mode = SERIAL_N_MODES;
    assert_int_equal(serial_apply(fd, &s), -EINVAL);
    s = usual;
    s.flow = SERIAL_N_FLOWS;
    assert_int_equal(serial_apply(fd, &s), -EINVAL);
    assert_int_equal(termios_of(fd).c_ospeed, 9600);
    assert_int_equal(close(fd), 0);
}

static void
a_character_lasts_as_long_as_its_bits(void **state)
{
    (void)state;
    struct serial_settings s = usual;
    assert_int_equal(serial_char_ns(&s), 1041666); /* 10 bits */
    s.parity = SERIAL_PARITY_EVEN;
    s.baud_rate = 19200;
    assert_int_equal(serial_char_ns(&s), 572916); /* 11 bits */
    s = (struct serial_settings){ .baud_rate = 50, .data_bits = 5, .stop_half_bits = 3 };
    assert_int_equal(serial_char_ns(&s), 150000000); /* 7.5 bits */
    s = (struct serial_settings){ .baud_rate = 4000000, .data_bits = 8, .stop_half_bits = 4 };
    assert_int_equal(serial_char_ns(&s), 2750); /* 11 bits */
}

/* ---- the list of ports ---- */

static const struct serial_port two[] = {
    { .port_value = 0,
      .id = 1,
      .device = "/dev/ttyM0",
      .display_name = "P1",
      .settings = { .baud_rate = 9600,
                    .mode = SERIAL_RS485_2W,
                    .data_bits = 8,
                    .stop_half_bits = 2 } },
    { .port_value = 7,
      .id = 8,
      .device = "/dev/ttyM\"7",
      .display_name = "P8",
      .settings = { .baud_rate = 4000000,
                    .mode = SERIAL_RS232,
                    .parity = SERIAL_PARITY_MARK,
                    .flow = SERIAL_FLOW_HARDWARE,
                    .data_bits = 5,
                    .stop_half_bits = 3 } },
};

static void
assert_same(const struct serial_port *a, const struct serial_port *b)
{
    assert_int_equal(a->port_value, b->port_value);
    assert_int_equal(a->id, b->id);
    assert_string_equal(a->device, b->device);
    assert_string_equal(a->display_name, b->display_name);
    assert_true(serial_settings_equal(&a->settings, &b->settings));
}

static void
a_list_is_read_as_it_was_written(void **state)
{
    (void)state;
    struct serial_port got[SERIAL_PORTS_MAX];
    struct buf b;
    size_t n = 99;
    buf_init(&b, 1 << 16);
    serial_ports_encode(&b, two, ARRAY_LEN(two));
    assert_int_equal(serial_ports_decode(b.data, b.len, got, &n), 0);
    assert_int_equal(n, ARRAY_LEN(two));
    for (size_t i = 0; i < n; i++)
        assert_same(&got[i], &two[i]);
    buf_done(&b);
    assert_int_equal(serial_ports_decode("[]", 2, got, &n), 0);
    assert_int_equal(n, 0);
}

/* A port as it is right, with one piece of its text replaced. */
static int
decode_with(const char *piece, const char *by)
{
    static const char right[] =
        "[{\"portValue\":0,\"id\":1,\"device\":\"/dev/ttyM0\",\"displayName\":\"P1\","
        "\"mode\":\"rs232\",\"baudRate\":9600,\"parity\":\"none\",\"dataBits\":8,"
        "\"stopBits\":1,\"flowControl\":\"none\"}]";
    struct serial_port got[SERIAL_PORTS_MAX];
    char text[1024];
    size_t n = 99;
    const char *at = strstr(right, piece);
    assert_non_null(at);
    (void)snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - right), right, by,
                   at + strlen(piece));
    int r = serial_ports_decode(text, strlen(text), got, &n);
    assert_int_equal(n, r == 0 ? 1 : 99);
    return r;
}

static void
a_list_with_a_fault_is_refused_whole(void **state)
{
    (void)state;
    static const char *const faults[][2] = {
        { "\"portValue\":0", "\"portValue\":-1" },
        { "\"portValue\":0,", "" },
        { "\"id\":1", "\"id\":\"1\"" },
        { "\"/dev/ttyM0\"", "null" },
        { "\"P1\"", "\"a name of 16 bytes\"" },
        { "rs232", "rs999" },
        { "9600", "49" },
        { "9600", "4000001" },
        { "9600", "96e2" },
        { "\"none\",\"dataBits\"", "0,\"dataBits\"" },
        { "\"dataBits\":8", "\"dataBits\":9" },
        { "\"stopBits\":1", "\"stopBits\":1.5" },
        { "\"stopBits\":1", "\"stopBits\":3" },
        { "\"flowControl\":\"none\"", "\"x\":1" },
        { "}]", "}" },
        { "[{", "[1,{" },
    };
    assert_int_equal(decode_with("9600", "9601"), 0);
    for (size_t i = 0; i < ARRAY_LEN(faults); i++)
        assert_int_equal(decode_with(faults[i][0], faults[i][1]), -EBADMSG);
}

static void
a_list_has_at_most_32_ports(void **state)
{
    (void)state;
    static struct serial_port many[SERIAL_PORTS_MAX + 1], got[SERIAL_PORTS_MAX];
    struct buf b;
    size_t n = 99;
    for (size_t i = 0; i < ARRAY_LEN(many); i++)
        many[i] = two[0];
    buf_init(&b, 1 << 16);
    serial_ports_encode(&b, many, SERIAL_PORTS_MAX);
    assert_int_equal(serial_ports_decode(b.data, b.len, got, &n), 0);
    assert_int_equal(n, SERIAL_PORTS_MAX);
    buf_reset(&b);
    serial_ports_encode(&b, many, ARRAY_LEN(many));
    assert_int_equal(serial_ports_decode(b.data, b.len, got, &n), -EBADMSG);
    buf_done(&b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_line_is_raw_and_does_not_block, setup, teardown),
        cmocka_unit_test_setup_teardown(any_rate_is_set_both_ways, setup, teardown),
        cmocka_unit_test_setup_teardown(stop_bits_and_flow_control_are_set, setup, teardown),
        cmocka_unit_test_setup_teardown(a_pty_takes_every_mode, setup, teardown),
        cmocka_unit_test_setup_teardown(a_line_has_one_owner, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_sent_before_is_not_read, setup, teardown),
        cmocka_unit_test(what_is_no_line_is_refused),
        cmocka_unit_test_setup_teardown(what_no_uart_can_do_is_refused, setup, teardown),
        cmocka_unit_test(a_character_lasts_as_long_as_its_bits),
        cmocka_unit_test(a_list_is_read_as_it_was_written),
        cmocka_unit_test(a_list_with_a_fault_is_refused_whole),
        cmocka_unit_test(a_list_has_at_most_32_ports),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
