/*
 * iod: the serial ports of the machine. It knows which there are, keeps what
 * is set for each, and tells modbusd, which opens them.
 */
#ifndef FIELDGATE_IOD_H
#define FIELDGATE_IOD_H

#include <stdbool.h>
#include <stdint.h>

#include "gen/api_iod.h"
#include "libcommon/api.h"
#include "libcommon/loop.h"
#include "libcommon/serial.h"
#include "libcommon/svc.h"
#include "services/iod/sys.h"

enum { IOD_DB_PORTS, IOD_DB_OUTBOX, IOD_N_DBS };
extern const char *const iod_dbs[IOD_N_DBS];

/* A port that is or was there; its index is its portValue. */
struct port {
    struct sys_port sys;
    struct serial_settings settings; /* as committed */
    bool is_here;
};

struct told {
    struct bus_peer *modbusd;
    struct loop_timer again;
    uint64_t wanted, known; /* counts changes; equal: modbusd knows all */
    uint64_t asked;         /* what is under way tells that */
    bool is_busy;
};

struct iod {
    struct svc *svc;
    const char *listed; /* --set serial-ports, NULL: what is found */
    struct port ports[SERIAL_PORTS_MAX];
    size_t n_ports;
    struct bench *bench;     /* NULL on a device */
    struct sys_watch *watch; /* NULL where ports do not come and go */
    struct loop_timer look;  /* for a port that could not be stored */
    struct told told;
};

/* ---- ports.c ---- */

/* Reads what the store has. 0 or -errno. */
int ports_load(struct iod *d);
/*
 * Looks at what is there: new ports get their number, which is kept. One that
 * cannot be stored is not there yet: 'look' is set. 0 or -errno.
 */
int ports_look(struct iod *d);
/* Keeps one port in 'txn'. 0 or -errno. */
int port_save(struct store_txn *txn, uint32_t number, const struct port *p);
/* The ports that are there. */
size_t ports_list(const struct iod *d, struct serial_port ret_ports[SERIAL_PORTS_MAX]);
/* As printed on the case. */
void port_display_name(uint32_t number, char ret_name[SERIAL_DISPLAY_SIZE]);
/* What is set has changed, as committed: the line of the bench follows. */
void port_set(struct iod *d, uint32_t number, const struct serial_settings *settings);

/* ---- told.c ---- */

/* 0 or -errno. */
int told_start(struct iod *d);
void told_stop(struct iod *d);
/* Something changed: modbusd is told until it has taken it. */
void told_change(struct iod *d);

#endif
