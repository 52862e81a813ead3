/*
 * The serial ports that are there: those of the machine (sys_linux.c), or
 * ptys (sys_bench.c).
 */
#ifndef FIELDGATE_IOD_SYS_H
#define FIELDGATE_IOD_SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/loop.h"
#include "libcommon/serial.h"

enum { SYS_LOCATION_SIZE = 512 };

struct sys_port {
    char location[SYS_LOCATION_SIZE]; /* where it is plugged in: stays while names change */
    char device[SERIAL_DEVICE_SIZE];
    bool can_rs485; /* RS-422 and RS-485, beside RS-232 */
    uint32_t baud_max;
};

/* ---- sys_linux.c ---- */

/*
 * The ports below 'sys_dir' ("/sys"), in order of their names. Virtual ones,
 * those without hardware and the kernel's console are left out; past
 * SERIAL_PORTS_MAX too. What a line driver can do is not known here. The
 * number of ports, or -errno.
 */
int sys_find(const char *sys_dir, struct sys_port ret_ports[SERIAL_PORTS_MAX]);
/* Those of a comma list of paths. The number, or -EINVAL: no such list. */
int sys_listed(const char *list, struct sys_port ret_ports[SERIAL_PORTS_MAX]);
/*
 * Whether the line driver can do RS-485. Opens the port, so it is asked once
 * in the life of a port; false too while another program has it.
 */
bool sys_can_rs485(const char *device);

/*
 * Runs 'fn' on the loop when a serial port came or went in 'dev_dir' ("/dev"),
 * once for what happens in the same moment. 0 or -errno.
 */
struct sys_watch;
int sys_watch_new(struct loop *loop, const char *dev_dir, void (*fn)(void *arg), void *arg,
                  struct sys_watch **ret_watch);
void sys_watch_free(struct sys_watch *w); /* NULL does nothing */

/* ---- sys_bench.c ---- */

struct bench;
/* Makes the ptys below 'dir'. 0 or -errno. */
int bench_new(struct loop *loop, const char *dir, struct bench **ret_bench);
void bench_free(struct bench *b); /* NULL does nothing */
/* The number of ports. */
int bench_find(const struct bench *b, struct sys_port ret_ports[SERIAL_PORTS_MAX]);
/* The pace of the line behind 'device'; others are none of the bench's. */
void bench_set(struct bench *b, const char *device, const struct serial_settings *settings);

#endif
