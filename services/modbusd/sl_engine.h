/*
 * The Modbus slave: its map (sl_map.h) of tags over the four tables of Modbus,
 * the TCP server (sl_tcp.h) that clients ask, and serial lines (sl_line.h). The engine holds
 * them together, takes a configuration while it runs, and is the provider of the slave's own
 * tags on the tag bus.
 *
 * Everything runs on the loop thread and nothing blocks.
 */
#ifndef FIELDGATE_SL_ENGINE_H
#define FIELDGATE_SL_ENGINE_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/loop.h"
#include "libcommon/serial.h"
#include "libcommon/tagbus.h"
#include "services/modbusd/mb_value.h"

struct tagview;
struct tagview_tag;

/* Number of an own tag on the tag bus: this and the tag's id. */
#define SL_TAG_BASE 0x80000000u
enum { SL_CONNS_MAX = 256, SL_UNITS_MAX = 65536, SL_KEEP_ALIVE_MAX_S = 99 };

/* ---- configuration, as the engine wants it ---- */

/* Values of dataFormat. */
enum sl_format { SL_COILS, SL_INPUT_BITS, SL_HOLDING, SL_INPUT, SL_N_FORMATS };

/*
 * A tag in its zone. 'offset' is where it lies from the zone's first unit on:
 * bytes among registers, bits among coils and inputs (as of a command's tags,
 * mb_value.h). 'size' is dataSize of string, bytearray and raw.
 *
 * Access is the tag's on the hub, as everywhere: what users of the hub can do
 * with it.
 *   own tag: clients read it always; they write it, in coils and holding
 *   registers, when the hub can read it ("r", "rw").
 *   hub tag: clients do what users of the hub may: read "r" and "rw", write
 *   "w" and "rw" in coils and holding registers.
 */
struct sl_tag_config {
    uint32_t id; /* unique among own tags, below SL_TAG_BASE */
    enum mb_type type;
    uint8_t access; /* TAG_ACCESS_… */
    uint16_t size;
    uint32_t offset;
    const char *name, *unit;
};

struct sl_ref_config {
    enum mb_type type; /* must be that of the hub, else the tag is unavailable */
    uint8_t access;
    uint16_t size;
    uint32_t offset;
    const char *provider, *source, *name;
};

struct sl_zone_config {
    uint32_t id;
    uint8_t only;              /* the serial slave that shows it; 0: all slaves do */
    uint8_t format;            /* enum sl_format */
    int32_t address;           /* 0..65535; -1: not placed, its tags are in no table */
    uint32_t n;                /* registers or bits, 1..65536; address + n <= 65536 */
    uint8_t swap;              /* 0..MB_SWAP_MAX */
    struct mb_scaling scaling; /* value = slope * register + offset, as of the masters */
    bool from_hub;             /* refs count, else tags */
    const struct sl_tag_config *tags;
    size_t n_tags;
    const struct sl_ref_config *refs;
    size_t n_refs;
};

/*
 * A register (byte, bit) belongs to one tag: of two that overlap the later one
 * is in no table and counted as misplaced, likewise one that sl_place_check
 * refuses. Units of a zone that no tag covers read as 0 and are not writable.
 */
struct sl_config {
    bool enable;
    uint16_t port;                 /* 0: any (tests; sl_engine_get_stats tells) */
    uint8_t unit;                  /* 1..255; 0 and 255 are always heard */
    bool fail_event;               /* hooks.fail is told */
    unsigned keep_alive_s;         /* a silent peer is asked after so long; 0: never */
    const char *provider, *source; /* of the own tags */
    const struct sl_zone_config *zones;
    size_t n_zones;
};

/* Can a tag of this type lie there in the zone? NULL, or what is wrong (static text). */
const char *sl_place_check(const struct sl_zone_config *zone, enum mb_type type,
                           uint32_t offset, uint16_t size);

/* ---- the engine ---- */

struct sl_engine;

/* The owner's answer to a write. */
enum sl_written {
    SL_WRITTEN,
    SL_WRITE_REFUSED, /* it was told so: value, access */
    SL_WRITE_BUSY,    /* not begun, may be tried again */
    SL_WRITE_AWAY,    /* nobody provides the tag, or its daemon or device is not reachable */
    SL_WRITE_UNSURE,  /* no answer in time: it may have happened */
};
typedef void sl_written_fn(void *arg, enum sl_written outcome);

struct sl_engine_hooks {
    /* A value of an own tag, for the tag bus. */
    void (*sample)(void *arg, const struct tag_sample *s);
    /* The catalogue of own tags is another now. */
    void (*changed)(void *arg);
    /*
     * Write a tag of the hub; 'fn' is called exactly once, maybe before this
     * returns, by deadline_us at the latest. NULL: writes end as SL_WRITE_AWAY.
     */
    void (*write)(void *arg, const struct tagview_tag *tag, const struct tag_value *v,
                  uint64_t deadline_us, sl_written_fn *fn, void *fn_arg);
    /* With fail_event: the port of an enabled slave could not be opened ('error' is errno) or,
     * 0, is open after all. Once per change. */
    void (*fail)(void *arg, uint16_t port, int error);
    void *arg;
};

/*
 * Without a configuration: closed. 'view' gives the last values of hub tags
 * and outlives the engine. Returns 0 or -ENOMEM.
 */
int sl_engine_new(struct loop *loop, struct tagview *view, const struct sl_engine_hooks *hooks,
                  struct sl_engine **ret_engine);
/* Takes NULL. Clients are disconnected; the answers of writes under way go nowhere. */
void sl_engine_free(struct sl_engine *e);

/*
 * From now on 'cfg' (copied) is what runs. Only what differs is touched:
 * values of own tags that stay (same id and form) are kept, connections too
 * unless the port changed or the slave was switched off.
 *
 * 'fd' (owned, whatever this returns) listens on the port already: who has to
 * know before the change is kept whether the port can be opened does it by
 * sl_tcp_listen, in any thread. -1: it is opened here if it is not the one
 * that is open; if it cannot be, the slave is configured and closed,
 * hooks.fail is told and it is tried again every SL_REOPEN_S.
 *
 * Returns 0, or -ENOMEM: then the old configuration goes on as it was.
 */
int sl_engine_set(struct sl_engine *e, const struct sl_config *cfg, int fd);
enum { SL_REOPEN_S = 10 };

/*
 * Where else the slave is asked: a configuration for each serial port by its
 * portValue, NULL: not on this one. Lines whose configuration stays notice
 * nothing. Independent of cfg.enable, which is TCP's.
 */
struct sl_line_config;
struct sl_line_stats;
void sl_engine_set_lines(struct sl_engine *e,
                         const struct sl_line_config *const lines[SERIAL_PORTS_MAX]);
/*
 * Where the frames of clients and of the lines, SERIAL_PORTS_MAX by
 * portValue, are kept when that is on; they outlive the engine.
 */
struct traffic;
void sl_engine_set_traffic(struct sl_engine *e, struct traffic *tcp, struct traffic *serial);
/* 'port' below SERIAL_PORTS_MAX. */
void sl_engine_line_stats(const struct sl_engine *e, uint32_t port,
                          struct sl_line_stats *ret_stats);

/* Catalogue and last values of the own tags, for tag_pub_source; 'at' from 0. */
bool sl_engine_def(const struct sl_engine *e, size_t at, struct tag_def *ret_def);
bool sl_engine_last(const struct sl_engine *e, size_t at, struct tag_sample *ret_sample);
size_t sl_engine_n_tags(const struct sl_engine *e);

/*
 * TAG_READ and TAG_WRITE of an own tag by its number on the bus. 0; -ENOENT:
 * no such tag; -EACCES: not readable, not writable; -EINVAL: wrong type;
 * -ERANGE: does not fit.
 */
int sl_engine_read(const struct sl_engine *e, uint32_t no, struct tag_sample *ret_sample);
int sl_engine_write(struct sl_engine *e, uint32_t no, const struct tag_value *v);

/* ---- looking at it (TcpSlaveDiag) ---- */

enum sl_conn_status {
    SL_CONN_OK,
    SL_CONN_INVALID,   /* the last request was no Modbus, or malformed */
    SL_CONN_EXCEPTION, /* … was answered with an exception */
    SL_CONN_DROPPED,   /* … was for another unit */
};
/* "OK", "Invalid request", "Exception response", "Drop command" */
const char *sl_conn_status_text(enum sl_conn_status s);

struct sl_counters {
    uint64_t valid, invalid; /* requests */
    uint64_t responses, exceptions;
};

struct sl_stats {
    bool enabled, open; /* open: the port is */
    uint16_t port;
    int error; /* errno of the last attempt to open it; 0: none */
    size_t n_conns;
    struct sl_counters all;          /* since the start of the daemon */
    uint64_t accepted, refused, cut; /* connections: taken; over the limit; ended by us */
    size_t n_tags, n_refs;           /* configured */
    size_t n_misplaced;              /* in no table: "Invalid address" */
    size_t n_unknown;                /* hub tags that nobody lists: "Unknown tag" */
};
void sl_engine_get_stats(const struct sl_engine *e, struct sl_stats *ret_stats);

struct sl_conn_stats {
    enum sl_conn_status status;
    uint32_t id;                       /* grows; never used again */
    char remote[INET6_ADDRSTRLEN + 8]; /* "192.0.2.1:40000", "[2001:db8::1]:40000" */
    struct sl_counters n;
};
/* Open connections by age, from 0; false past the end. */
bool sl_engine_conn_stats(const struct sl_engine *e, size_t at,
                          struct sl_conn_stats *ret_stats);

#endif
