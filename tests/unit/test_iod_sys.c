/* Serial ports as /sys shows them, on trees of our own. */
#include "services/iod/sys.h"

#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"

static char root[64];
static struct sys_port ports[SERIAL_PORTS_MAX];

static const char *
at(const char *path)
{
    static char full[1024];
    (void)snprintf(full, sizeof(full), "%s/%s", root, path);
    return full;
}

static void
make_dirs(const char *path)
{
    char part[512];
    for (const char *p = path; (p = strchr(p, '/')) != NULL; p++) {
        (void)snprintf(part, sizeof(part), "%.*s", (int)(p - path), path);
        assert_true(mkdir(at(part), 0700) == 0 || errno == EEXIST);
    }
    assert_true(mkdir(at(path), 0700) == 0 || errno == EEXIST);
}

static void
put(const char *dir, const char *name, const char *text)
{
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(at(path), "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* A tty 'name' of the device 'device' (below the root; NULL: of none). */
static void
add_tty(const char *name, const char *device)
{
    char dir[128], target[256];
    (void)snprintf(dir, sizeof(dir), "class/tty/%s", name);
    make_dirs(dir);
    if (device == NULL)
        return;
    make_dirs(device);
    (void)snprintf(target, sizeof(target), "%s/%s", root, device);
    (void)snprintf(dir, sizeof(dir), "class/tty/%s/device", name);
    assert_int_equal(symlink(target, at(dir)), 0);
}

static void
add_uart(const char *name, const char *device, const char *type)
{
    char dir[128];
    add_tty(name, device);
    (void)snprintf(dir, sizeof(dir), "class/tty/%s", name);
    put(dir, "type", type);
}

static int
setup(void **state)
{
    (void)state;
    (void)snprintf(root, sizeof(root), "/tmp/test-iod-XXXXXX");
    if (mkdtemp(root) == NULL)
        return -1;
    make_dirs("class/tty");
    return 0;
}

static int
remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static int
teardown(void **state)
{
    (void)state;
    return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void
assert_found(const char *const *devices)
{
    int n = sys_find(root, ports), i = 0;
    for (; devices[i] != NULL; i++) {
        assert_true(i < n);
        assert_string_equal(ports[i].device, devices[i]);
    }
    assert_int_equal(n, i);
}

static void
ports_with_hardware_are_found_in_order(void **state)
{
    static const char *const want[] = { "/dev/ttyS1",   "/dev/ttyS2",   "/dev/ttyS10",
                                        "/dev/ttyM0",   "/dev/ttyAMA0", "/dev/ttymxc1",
                                        "/dev/ttyUSB0", "/dev/ttyACM0", NULL };
    (void)state;
    add_tty("ttyUSB0", "devices/usb1/1-2/1-2:1.0/ttyUSB0");
    add_tty("ttyACM0", "devices/usb1/1-3/1-3:1.0");
    add_uart("ttymxc1", "devices/soc/21e8000.serial", "62\n");
    add_uart("ttyAMA0", "devices/soc/fe201000.serial", "32\n");
    add_tty("ttyM0", "devices/pci/0000:01:00.0");
    add_uart("ttyS10", "devices/pnp0/00:0a", "4\n");
    add_uart("ttyS2", "devices/pnp0/00:05", "4\n");
    add_uart("ttyS1", "devices/pnp0/00:04", "4\n");
    assert_found(want);
}

static void
what_is_no_port_is_left_out(void **state)
{
    static const char *const want[] = { "/dev/ttyS1", NULL };
    (void)state;
    add_uart("ttyS0", "devices/pnp0/00:03", "4\n");
    put("class/tty/ttyS0", "console", "Y\n");
    add_uart("ttyS1", "devices/pnp0/00:04", "4\n");
    put("class/tty/ttyS1", "console", "N\n");
    add_uart("ttyS2", "devices/serial8250", "0\n"); /* allowed for, not found */
    add_tty("ttyS3", NULL);
    add_tty("tty0", "devices/none");
    add_tty("ttyS", "devices/none");
    add_tty("ttyprintk", "devices/none");
    add_tty("ttyGS0", "devices/none");
    add_tty("ttyS1x", "devices/none");
    add_tty("ptmx", "devices/none");
    assert_found(want);
}

static void
the_highest_rate_is_that_of_the_clock(void **state)
{
    (void)state;
    add_uart("ttyS0", "devices/pnp0/00:03", "4\n");
    put("class/tty/ttyS0", "uartclk", "1843200\n");
    add_uart("ttyS1", "devices/pnp0/00:04", "4\n");
    put("class/tty/ttyS1", "uartclk", "0\n"); /* the driver does not say */
    add_uart("ttyS2", "devices/pnp0/00:05", "4\n");
    put("class/tty/ttyS2", "uartclk", "200000000\n");
    assert_int_equal(sys_find(root, ports), 3);
    assert_int_equal(ports[0].baud_max, 115200);
    assert_int_equal(ports[1].baud_max, SERIAL_BAUD_MAX);
    assert_int_equal(ports[2].baud_max, SERIAL_BAUD_MAX);
}

static void
an_adapter_is_known_by_its_socket_and_not_by_its_name(void **state)
{
    char first[SYS_LOCATION_SIZE];
    (void)state;
    add_tty("ttyUSB0", "devices/usb1/1-2/1-2:1.0/ttyUSB0");
    assert_int_equal(sys_find(root, ports), 1);
    (void)snprintf(first, sizeof(first), "%s", ports[0].location);
    (void)teardown(NULL);
    (void)setup(NULL);
    add_tty("ttyUSB0", "devices/usb1/1-3/1-3:1.0/ttyUSB0");
    add_tty("ttyUSB1", "devices/usb1/1-2/1-2:1.0/ttyUSB1");
    assert_int_equal(sys_find(root, ports), 2);
    assert_string_equal(ports[1].location, first);
    assert_string_equal(ports[1].device, "/dev/ttyUSB1");
    assert_string_not_equal(ports[0].location, first);
}

static void
ports_of_one_device_are_told_apart(void **state)
{
    (void)state;
    add_uart("ttyS4", "devices/pci/0000:02:00.0", "4\n");
    add_uart("ttyS5", "devices/pci/0000:02:00.0", "4\n");
    add_tty("ttyUSB0", "devices/usb1/1-2/1-2:1.0/ttyUSB0");
    put("devices/usb1/1-2/1-2:1.0/ttyUSB0", "port_number", "0\n");
    add_tty("ttyUSB1", "devices/usb1/1-2/1-2:1.0/ttyUSB1");
    put("devices/usb1/1-2/1-2:1.0/ttyUSB1", "port_number", "1\n");
    assert_int_equal(sys_find(root, ports), 4);
    assert_string_not_equal(ports[0].location, ports[1].location);
    assert_string_not_equal(ports[2].location, ports[3].location);
}

static void
there_are_at_most_32(void **state)
{
    char name[24], device[64];
    (void)state;
    for (int i = 0; i < SERIAL_PORTS_MAX + 3; i++) {
        (void)snprintf(name, sizeof(name), "ttyUSB%d", i);
        (void)snprintf(device, sizeof(device), "devices/usb1/%d/%s", i, name);
        add_tty(name, device);
    }
    assert_int_equal(sys_find(root, ports), SERIAL_PORTS_MAX);
    assert_int_equal(sys_find("/no/such/dir", ports), -ENOENT);
}

/* ---- coming and going ---- */

static void
count(void *arg)
{
    ++*(int *)arg;
}

static void
run_until(struct loop *loop, uint64_t us)
{
    uint64_t end = clock_mono_us() + us, now;
    while ((now = clock_mono_us()) < end)
        assert_int_equal(loop_round(loop, end - now), 0);
}

static void
ports_that_come_and_go_are_told_once(void **state)
{
    struct loop *loop;
    struct sys_watch *w;
    int n = 0;
    (void)state;
    assert_int_equal(loop_new(&loop), 0);
    assert_int_equal(sys_watch_new(loop, "/no/such/dir", count, &n, &w), -ENOENT);
    assert_int_equal(sys_watch_new(loop, root, count, &n, &w), 0);
    put(".", "ttyX0", "");
    put(".", "sda1", "");
    run_until(loop, 700000);
    assert_int_equal(n, 0);
    put(".", "ttyUSB0", "");
    put(".", "ttyUSB1", "");
    run_until(loop, 700000);
    assert_int_equal(n, 1);
    assert_int_equal(unlink(at("ttyUSB0")), 0);
    run_until(loop, 700000);
    assert_int_equal(n, 2);
    sys_watch_free(w);
    loop_free(loop);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(ports_with_hardware_are_found_in_order),
        TEST(what_is_no_port_is_left_out),
        TEST(the_highest_rate_is_that_of_the_clock),
        TEST(an_adapter_is_known_by_its_socket_and_not_by_its_name),
        TEST(ports_of_one_device_are_told_apart),
        TEST(there_are_at_most_32),
        TEST(ports_that_come_and_go_are_told_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
