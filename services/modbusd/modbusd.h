/*
 * modbusd: the Modbus master, over TCP and serial lines. Configuration (config.c) is kept
 * twice, staged and running; the engine (mb_engine.c) polls what is running.
 */
#ifndef FIELDGATE_MODBUSD_H
#define FIELDGATE_MODBUSD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/api.h"
#include "libcommon/loop.h"
#include "libcommon/svc.h"
#include "services/modbusd/mb_engine.h"

struct sl_engine;
struct tagview;

/* The one TCP master and its one interface; the one serial master has the same number. */
enum {
    MODBUSD_MASTER_ID = 1,
    MODBUSD_IFACE_ID = 1,
    MODBUSD_CONFIG_ID = 1,
    MODBUSD_PARAMS_ID = 1,
};
/* The one TCP slave, and the source of its own tags in the tag hub. */
enum { MODBUSD_SLAVE_ID = 1 };
#define MODBUSD_SL_SOURCE "local_device"
/*
 * Limits of this implementation; the original's, which hold instead with
 * --set original-limits=1.
 */
enum {
    MODBUSD_DEVS_MAX = 1000,
    MODBUSD_CMDS_MAX = 20000,
    MODBUSD_TAGS_MAX = 100000,
    MODBUSD_ORIGINAL_DEVS_MAX = 32, /* over TCP */
    MODBUSD_ORIGINAL_SER_DEVS_MAX = 31,
    MODBUSD_ORIGINAL_CMDS_MAX = 2048,
    MODBUSD_ORIGINAL_PORT_CMDS_MAX = 128, /* of the devices on a serial port */
    MODBUSD_ORIGINAL_TAGS_MAX = 2048,
    MODBUSD_ORIGINAL_SL_MAX = 2048, /* zones, own tags and reference tags, of each */
    MODBUSD_AUTO_TAGS_MAX = 5000, /* tags that one request makes by itself: polling waits */
    MODBUSD_ZONES_MAX = 100000,
    MODBUSD_SL_TAGS_MAX = 100000,
    MODBUSD_REFS_MAX = 100000,
};

enum { MODBUSD_NAME_SIZE = 129 }; /* of a device, command or tag, terminated */

struct apply_waiter {
    struct apply_waiter *next;
    struct api_call *call;
    uint32_t *devs; /* that its change touches, of the call's memory; 0: a single record */
    size_t n, cap;
};

struct modbusd {
    struct svc *svc;
    struct mb_engine *engine;
    struct sl_engine *slave;
    struct tagview *view;  /* the hub, as the slave shows it */
    bool slave_shows_ours; /* tags of this daemon are among them */
    /* devices whose running configuration the engine does not have yet */
    uint32_t *stale;
    size_t n_stale, cap_stale;
    bool iface_stale;
    bool original_limits;
    bool load_failed; /* what was applied could not be taken over; it is tried again */
    bool tcp_off, ser_off; /* by the master parameters */
    bool stopped;     /* by control/daemon/stop */
    bool restarting;  /* started again as soon as it has stopped */
    struct traffic traffic; /* of all TCP connections */
    struct traffic ser_traffic[SERIAL_PORTS_MAX];
    struct loop_timer reload_timer;
    struct apply_waiter *waiters;
    struct events *events;
};

/*
 * Audit records of what happens by itself: gathered for a moment, so that many
 * at once are one transaction, and kept back while the store is being written
 * or the disk is full. 'event' (static) is of the catalogue, 'message' shorter
 * than AUDIT_MESSAGE_MAX. modbusd_event: hooks.event. 'new' returns 0 or
 * -ENOMEM; 'free' writes what is left, and takes NULL.
 */
int modbusd_events_new(struct modbusd *d);
void modbusd_events_free(struct modbusd *d);
void modbusd_record(struct modbusd *d, const char *event, const char *message);
void modbusd_event(void *arg, const struct mb_event *event);

/* TAG_READ and TAG_WRITE of proto/internal.h. */
void modbusd_serve_tag_read(void *self, struct bus_incoming *in);
void modbusd_serve_tag_write(void *self, struct bus_incoming *in);
/* SECURITY_FACTS (proto/README.md section 4). */
void modbusd_serve_security_facts(void *self, struct bus_incoming *in);
void modbusd_put_metrics(void *self, struct buf *b, const char *daemon);

/* SERIAL_CHANGED (proto/README.md section 4). */
void modbusd_serve_serial_changed(void *self, struct bus_incoming *in);
/* Tells the engine the running serial interfaces and their ports; 0 or -errno. */
int modbusd_load_ports(struct modbusd *d, struct store_txn *txn);

/* Reads the whole running configuration into the engine; 0 or -errno. */
int modbusd_load(struct modbusd *d);
/*
 * All devices are handed to the engine again, by modbusd_reload: what they
 * are to do has changed. 0 or -errno.
 */
int modbusd_all_stale(struct modbusd *d, struct store_txn *txn);
/*
 * For api_after_commit, with a struct apply_waiter from api_alloc that has its
 * call: begins to hand over what is stale; the call is answered when that is done.
 */
void modbusd_reload(void *self, void *waiter);
/* Starts the slave with its running configuration; 0 or -errno. */
int modbusd_load_slave(struct modbusd *d);
/* Tells the slave on which serial ports it listens, as stored; what cannot be read is logged. */
void modbusd_load_ser_slaves(struct modbusd *d);
/* Sets the level kept in the store; 0 or -errno. */
int modbusd_load_log_level(struct modbusd *d);

/*
 * 'json' is the whole body of the reply; consumed. A large one travels as a
 * file, because the bus has a limit.
 */
enum api_status modbusd_reply(struct api_call *call, struct buf *json);

#endif
