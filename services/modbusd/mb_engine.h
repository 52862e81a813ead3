/*
 * What is asked of which device, when, and what becomes of the answers.
 *
 * One link is one connection (address and port) or one serial line, shared by
 * the devices (unit ids) behind it. A link keeps its commands in a heap by due time. Due times
 * lie on a grid: phase + n * interval on the monotonic clock, so they neither
 * drift nor bunch up; periods that could not be kept are skipped whole and
 * counted. Direct reads and writes go before polls.
 *
 * One request is in flight per link, more if a device allows concurrent
 * transactions. A request that stays unanswered for longer than usual is
 * overtaken by requests to other units, whose answers its transaction id
 * keeps apart (never on a serial line); a peer that cannot bear that (closes, mixes up, drops,
 * answers nobody meanwhile) is from then on asked strictly one by one.
 *
 * A unit on a shared connection that does not answer, or on which the peer
 * closes, is silent from then on, until it answers. What it cost the others is
 * measured, and no silent unit is asked before they have had forty times as
 * much; one of them at a time, in turn. The first silence of a short time-out
 * may be a lost answer: then it is asked again at once.
 *
 * Commands that allow it are read together with their neighbours. A device
 * that does not stand that is asked for each of them, at once and from then on.
 *
 * Everything runs on the loop thread and nothing blocks.
 */
#ifndef FIELDGATE_MB_ENGINE_H
#define FIELDGATE_MB_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/loop.h"
#include "libcommon/tagbus.h"
#include "services/modbusd/mb_conn.h"
#include "services/modbusd/mb_line.h"
#include "services/modbusd/mb_merge.h"
#include "services/modbusd/mb_value.h"

/* Number of a device's status tag on the tag bus: this and the device's id. */
enum { MB_STATUS_TAG_BASE = 0x40000000, MB_DIRECTS_MAX = 1000 };

/* Value of a device's status tag (int32): the worst of its commands, in this order: 2 1 4 3 0.
 */
enum mb_status {
    MB_STATUS_OK = 0,
    MB_STATUS_TIMEOUT = 1,
    MB_STATUS_NO_CONNECTION = 2,
    MB_STATUS_EXCEPTION = 3,
    MB_STATUS_BAD_REPLY = 4,
};

/* ---- configuration, as the engine wants it ---- */

struct mb_tag_config {
    uint32_t id; /* its number on the tag bus, below MB_STATUS_TAG_BASE */
    enum mb_type type;
    uint8_t access; /* TAG_ACCESS_… wanted; what the command cannot do is dropped */
    uint16_t data_size;
    uint16_t offset;
    const char *name, *unit;
};

/* What takes the place of data that there is none of. */
enum mb_instead { MB_KEEP, MB_ZERO, MB_USER_DATA };

struct mb_cmd_config {
    uint32_t id;
    const char *name;
    bool enable;
    bool cyclic; /* of a writing function: repeat the data at each interval */
    uint8_t func;
    bool merge; /* of a reading function: may be read together with its neighbours */
    uint16_t read_addr, read_n, write_addr, write_n;
    uint32_t interval_ms;
    uint8_t swap;
    struct mb_scaling scaling;
    /* of a writing function: written when its tags have not been for so long */
    enum mb_instead fault_func;
    uint32_t fault_tout_s;
    const char *fault_data; /* "00 FF", of mb_cmd_write_size bytes */
    /* of a reading function: what its tags show while there is no answer */
    enum mb_instead status_func;
    const char *status_data;          /* "00 FF", of mb_cmd_read_size bytes */
    const struct mb_tag_config *tags; /* by ascending id */
    size_t n_tags;
};

struct mb_dev_config {
    uint32_t id;
    bool enable;
    const char *name;
    uint8_t unit;
    uint32_t port_id; /* of the serial interface it is on (mb_port_config); 0: TCP */
    const char *addr; /* TCP: literal; 0.0.0.0 is "none yet" */
    uint16_t port;
    unsigned limit;                   /* requests in flight, 1..MB_IN_FLIGHT_MAX; serial: 1 */
    const struct mb_cmd_config *cmds; /* by ascending id */
    size_t n_cmds;
};

struct mb_iface_config {
    char provider[TAG_NAME_MAX + 1];
    uint32_t retry_count, timeout_ms, initial_delay_ms;
    bool dev_fail_event, cmd_fail_event; /* tell hooks.event */
    struct mb_merge_limits merge;
};

/* A serial interface: one port, one request at a time. */
struct mb_port_config {
    uint32_t id; /* not 0 */
    struct mb_iface_config iface;
    struct mb_line_config line;
};
/* Bytes of the data that a command reads, writes: bits are packed. */
size_t mb_cmd_read_size(const struct mb_cmd_config *cmd);
size_t mb_cmd_write_size(const struct mb_cmd_config *cmd);
/* Bytes that a text like "00 FF" (format hex-bytes) stands for. */
size_t mb_user_data_size(const char *text);

/*
 * Can this tag be part of this command? NULL, or what is wrong (static text);
 * then with what may really be done with it in *ret_access.
 */
const char *mb_tag_check(const struct mb_cmd_config *cmd, const struct mb_tag_config *tag,
                         struct mb_codec *ret_codec, uint8_t *ret_access);

/* ---- the engine ---- */

struct mb_engine;

/*
 * A device begins to fail, after its retries, or is back; or a command begins
 * to fail while its device answers. In ten minutes a device is told 6 times
 * at most and its commands 20 times; the last state is told in any case.
 */
enum mb_event_kind { MB_EVENT_DEVICE_FAIL, MB_EVENT_DEVICE_BACK, MB_EVENT_COMMAND_FAIL };
struct mb_event {
    enum mb_event_kind kind;
    const char *device, *command; /* command: of MB_EVENT_COMMAND_FAIL only */
    uint8_t quality;              /* enum tag_quality: why it fails */
    uint8_t exception;            /* of TAG_BAD_EXCEPTION */
    unsigned n_left_out;          /* changes of the device that were not told */
};

struct mb_engine_hooks {
    void (*sample)(void *arg, const struct tag_sample *s);
    void (*changed)(void *arg); /* the catalogue is another now */
    void (*event)(void *arg, const struct mb_event *event);
    void *arg;
};

/* Returns 0 or -ENOMEM. The first polls wait for the interface's initial delay. */
int mb_engine_new(struct loop *loop, const struct mb_engine_hooks *hooks,
                  struct mb_engine **ret_engine);
/* Takes NULL. Direct requests under way end as MB_DIRECT_GONE. */
void mb_engine_free(struct mb_engine *e);

/*
 * Notes of the frames of all TCP connections (port 0) or of a serial
 * interface that was set go there from now on. It must outlive the engine; NULL: nowhere.
 */
void mb_engine_set_traffic(struct mb_engine *e, uint32_t port, struct traffic *traffic);

/* The initial delay begins now, for devices that are set from now on. */
void mb_engine_begin(struct mb_engine *e);
/* Does it still wait for the end of the initial delay? Not, once a request was sent. */
bool mb_engine_is_delayed(const struct mb_engine *e);

/* That of all TCP devices. Takes effect for the next requests; no connection is touched. */
void mb_engine_set_iface(struct mb_engine *e, const struct mb_iface_config *cfg);
/*
 * Makes a serial interface known, or changes it: the port is opened anew only
 * when device, line settings or framing differ. It is open while enabled
 * devices are on it. Returns 0 or -ENOMEM (then nothing changed).
 */
int mb_engine_set_port(struct mb_engine *e, const struct mb_port_config *cfg);
/*
 * Adds the device, or puts it in place of the one with this id: values, grid
 * and connection of what is the same are kept. 'cfg' is copied; it has passed
 * mb_tag_check. Returns 0 or, with nothing changed, -ENOMEM or -ENODEV (a serial
 * interface that is not known).
 */
int mb_engine_set_device(struct mb_engine *e, const struct mb_dev_config *cfg);
void mb_engine_remove_device(struct mb_engine *e, uint32_t id);
/*
 * The group of changes is complete: hooks.changed is called. Returns 0 or
 * -ENOMEM (then the catalogue is empty).
 */
int mb_engine_publish_changes(struct mb_engine *e);

/*
 * The catalogue and the last values, for tag_pub_source; 'at' from 0. Made
 * anew by the first who asks after devices were changed.
 */
size_t mb_engine_n_tags(struct mb_engine *e);
bool mb_engine_def(struct mb_engine *e, size_t at, struct tag_def *ret_def);
/* The same by number; false: there is none. */
bool mb_engine_def_of(struct mb_engine *e, uint32_t no, struct tag_def *ret_def);
bool mb_engine_last(struct mb_engine *e, size_t at, struct tag_sample *ret_sample);
/* Number of a tag by its names; 0: none. */
uint32_t mb_engine_find(const struct mb_engine *e, const char *provider, const char *source,
                        const char *name);
/* Bus type of the tag; 0: no such tag. */
uint8_t mb_engine_tag_type(struct mb_engine *e, uint32_t no, uint16_t *ret_size);

/* ---- direct access ---- */

enum mb_direct_status {
    MB_DIRECT_OK,
    MB_DIRECT_NOT_FOUND,
    MB_DIRECT_ACCESS,    /* not readable, or not writable */
    MB_DIRECT_VALUE,     /* wrong type, or does not fit */
    MB_DIRECT_DISABLED,  /* device or command is off, or has no address */
    MB_DIRECT_BUSY,      /* MB_DIRECTS_MAX are waiting */
    MB_DIRECT_EXCEPTION, /* the device refused, see 'exception' */
    MB_DIRECT_BAD_REPLY,
    MB_DIRECT_TIMEOUT,
    MB_DIRECT_NO_CONNECTION,
    MB_DIRECT_GONE, /* the device was reconfigured meanwhile */
};

struct mb_direct_result {
    enum mb_direct_status status;
    uint8_t exception;
    bool sent;                /* the device may have seen it */
    struct tag_sample sample; /* of a read that is OK; bytes valid during the call */
};
/* One sentence for a client. */
const char *mb_direct_text(const struct mb_direct_result *r, char *room, size_t room_size);

/* Of a write that failed: may the device have done it nevertheless? */
bool mb_direct_is_unsure(const struct mb_direct_result *r);

typedef void mb_direct_fn(void *arg, const struct mb_direct_result *r);
/*
 * Poll the tag's command now, or write the tag now. True: 'fn' will be called
 * once, later, by deadline_us at the latest. False: *ret_now says why not (or,
 * for a status tag, is the answer) and fn is not called. A write that was
 * sent is never sent again.
 */
bool mb_engine_read(struct mb_engine *e, uint32_t no, uint64_t deadline_us, mb_direct_fn *fn,
                    void *arg, struct mb_direct_result *ret_now);
bool mb_engine_write(struct mb_engine *e, uint32_t no, const struct tag_value *v,
                     uint64_t deadline_us, mb_direct_fn *fn, void *arg,
                     struct mb_direct_result *ret_now);

/* ---- looking at it ---- */

struct mb_engine_stats {
    struct mb_conn_counters conn;
    uint64_t overruns; /* periods skipped */
    uint64_t directs;
    uint64_t strict;       /* times a link fell back to one request at a time */
    uint64_t fault_writes; /* times fault protection wrote its data */
    size_t n_tags, n_devices;
    size_t n_connecting, n_open, n_waiting; /* connections and lines by state */
    size_t n_tcp_open;
};
void mb_engine_get_stats(const struct mb_engine *e, struct mb_engine_stats *ret_stats);

/* Requests, and how they ended. */
struct mb_counts {
    uint64_t sent, valid, invalid, exceptions, timeouts;
};

struct mb_dev_stats {
    uint32_t id;
    const char *name, *addr; /* valid until the next change */
    uint32_t port_id;        /* 0: TCP */
    uint16_t port;
    uint8_t unit;
    enum mb_status status;
    bool polled; /* enabled, with an address */
    bool known;  /* status has been seen */
    struct mb_counts counts;
};
/* By order of id; false past the end. */
bool mb_engine_dev_stats(const struct mb_engine *e, size_t at, struct mb_dev_stats *ret_stats);

struct mb_cmd_stats {
    uint32_t id;
    const char *name; /* valid until the next change */
    enum mb_status status;
    bool polled; /* enabled and cyclic, of a device that is polled */
    bool known;  /* status has been seen */
    /* Of its polls, alone or merged with neighbours; direct requests are the device's only. */
    struct mb_counts counts;
};
/* Of the device at 'dev_at', by order of id; false past the end. */
bool mb_engine_cmd_stats(const struct mb_engine *e, size_t dev_at, size_t at,
                         struct mb_cmd_stats *ret_stats);

/* Of a serial interface, since it came into use last; false: it is not in use. */
bool mb_engine_line_stats(const struct mb_engine *e, uint32_t port_id,
                          struct mb_line_stats *ret_stats);

#endif
