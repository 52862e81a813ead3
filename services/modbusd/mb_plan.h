/*
 * The insides of the engine, shared by its files: mb_engine.c asks and takes
 * answers, mb_group.c reads commands together, mb_device.c exchanges devices
 * while it runs, mb_access.c is catalogue, direct access and statistics,
 * mb_fault.c writes when nobody else does, mb_health.c tells who fails. Not
 * for others.
 */
#ifndef FIELDGATE_MB_PLAN_H
#define FIELDGATE_MB_PLAN_H

#include "services/modbusd/mb_engine.h"
#include "services/modbusd/mb_line.h"

struct mb_dev;
struct mb_link;
struct mb_cmd;

/* What a request in flight is for. First member of struct mb_cmd and struct mb_direct. */
struct mb_op {
    bool is_direct;
    struct mb_dev *dev;
    struct mb_cmd *cmd;
};

struct mb_tag {
    uint32_t no;
    struct mb_codec codec;
    uint8_t type; /* enum tag_type */
    uint8_t access;
    uint8_t quality, aux;
    bool is_fault; /* fault protection wrote its value, nobody since */
    uint16_t n_bytes;
    uint64_t bits; /* the last value: union of struct tag_value */
    int64_t ts_us;
    uint8_t *bytes; /* room of codec.size for string and raw */
    const char *name, *unit;
    struct mb_cmd *cmd; /* NULL: the status tag */
    struct mb_dev *dev;
};

/* Fault protection of a command; mb_fault.c. */
struct mb_fault {
    uint8_t *data; /* to write then, room as of mb_cmd.written; NULL: keep */
    uint64_t tout_us;
    uint64_t deadline_us; /* it begins; 0: it cannot, or has */
    bool due;             /* it has begun, and the device does not have the data yet */
    bool sent;            /* they are in flight */
};

/* So many events since then. */
struct mb_budget {
    uint64_t since_us;
    unsigned n;
};

/* Is the device failing? mb_health.c. */
struct mb_health {
    bool failed, told;
    uint8_t why;        /* quality */
    uint64_t heard_us;  /* its last answer */
    unsigned n_changes; /* since it was told */
    struct mb_budget device, command;
};

struct mb_cmd {
    struct mb_op op;
    uint32_t id;
    const char *name;
    uint8_t func;
    bool enable, cyclic;
    bool in_flight, parked;
    bool first; /* not polled yet */
    uint8_t tries;
    uint8_t quality, aux; /* told last for all its tags */
    uint16_t read_addr, read_n, write_addr, write_n;
    struct mb_scaling scaling;
    uint64_t interval_us;
    uint64_t grid_us; /* the present period began */
    uint64_t due_us;  /* when to ask: grid_us, or later for a repetition */
    uint64_t bad_told_us;
    size_t heap_index; /* 0: not in the heap */
    struct mb_cmd *next_parked;
    struct mb_tag *tags;
    size_t n_tags;
    /* of a writing function: what was written, and which units of it */
    uint8_t *written, *is_written;
    unsigned n_written;
    struct mb_fault fault;
    uint8_t *status_data; /* what its tags show while they are bad; NULL: their last value */
    uint64_t begun_us;    /* the first try of this poll was sent */
    uint64_t failed_us;   /* it was given up last; 0: its last poll went well */
    bool fail_told;
    /* Reads that go together, see mb_group.c: */
    bool merge;                 /* may be read with its neighbours */
    bool proven;                /* of the first: the group was answered once */
    struct mb_cmd *asked_by;    /* whose request brings its data: itself, or the first's */
    struct mb_cmd *next_merged; /* in the group, by address */
    struct mb_range whole;      /* of the first: what is asked */
    uint64_t apart_until_us;    /* the device did not stand it with others */
    struct mb_counts counts;
};

struct mb_dev {
    uint32_t id;
    struct mb_engine *e;
    struct mb_link *link; /* NULL: not polled */
    const struct mb_iface_config *iface;
    uint32_t port_id; /* of its serial interface; 0: TCP */
    struct mb_dev *next_in_link;
    char *name;
    char addr[INET6_ADDRSTRLEN];
    uint16_t port;
    uint8_t unit;
    unsigned limit, n_in_flight;
    /* On a shared connection: */
    unsigned silent;       /* so many times in a row; 0: not */
    uint8_t why, why_aux;  /* the quality that its silence gives */
    unsigned excused;      /* time-outs put down to a crowded link */
    uint64_t asked_us;     /* the last request was sent */
    uint64_t failed_us;    /* what was sent before counts no more */
    struct mb_cmd *parked; /* commands that are due and wait: for others of it, or its turn */
    struct mb_cmd *cmds;
    size_t n_cmds;
    struct mb_tag *tags; /* of all commands */
    size_t n_tags;
    struct mb_tag status;
    bool status_stale; /* a command's quality has changed */
    struct mb_health health;
    uint8_t *bytes; /* room of all sized tags */
    char *names;    /* texts of all tags */
    struct mb_counts counts;
};

struct mb_direct {
    struct mb_op op;
    struct mb_direct *next;
    struct mb_tag *tag;
    bool write, sent;
    uint64_t deadline_us;
    mb_direct_fn *fn; /* NULL: nobody waits */
    void *arg;
    uint8_t pdu[MB_PDU_MAX];
    uint16_t n;
    uint8_t data[MB_PDU_MAX]; /* what is written, as in the PDU */
    uint16_t at, n_units;     /* where in the command's data */
};

/* A serial interface. */
struct mb_port {
    struct mb_port *next;
    uint32_t id;
    struct mb_iface_config iface;
    struct mb_line_config line;
    struct traffic *traffic;
    struct mb_link *link; /* NULL: no device on it is polled */
};

struct mb_link {
    struct mb_engine *e;
    struct mb_link *next;
    const struct mb_iface_config *iface;
    struct mb_port *port; /* NULL: TCP */
    union {
        struct mb_conn conn;
        struct mb_tcp tcp;
        struct mb_line line;
    };
    struct loop_timer timer;
    struct mb_dev *devs;
    unsigned n_devs, n_silent;
    unsigned limit;       /* requests in flight, of all; those overtaken do not count */
    unsigned share;       /* … of one device */
    struct mb_cmd **heap; /* from 1 */
    size_t n_heap, cap_heap;
    struct mb_direct *directs, **directs_end;
    bool direct_was_last;
    uint64_t srtt_us, rttvar_us;
    uint64_t probe_after_us; /* silent units are left alone until then */
    uint64_t again_after_us; /* the next one that falls silent is asked again at once */
    uint64_t owed_us;        /* what the first silence of that one has cost */
    uint64_t strict_until_us, strict_for_us;
    unsigned crowded_timeouts;
    uint64_t answered_us; /* when last an answer came */
    uint64_t extended_us; /* … those that wait for a blocked peer were given time */
    int lost_unit;        /* the peer closed on it, and nobody answered since; -1: none */
    bool lost_two;        /* … and on another one */
    bool was_open;
    bool down_told; /* the log knows that there is no connection */
};

struct mb_engine {
    struct loop *loop;
    struct mb_engine_hooks hooks;
    struct mb_iface_config iface; /* of TCP */
    struct mb_port *ports;
    uint64_t start_us;
    uint64_t start_requests; /* conn.requests then */
    uint64_t connect_us;     /* the last first attempt of a connection is then */
    struct mb_dev **devs;    /* by id */
    size_t n_devs, cap_devs;
    struct mb_link *links;
    struct mb_tag **all; /* by number */
    size_t n_all, cap_all;
    bool is_listed; /* 'all' is that of 'devs' */
    size_t n_directs;
    struct mb_conn_counters conn;
    struct loop_timer fault_timer;
    struct traffic *traffic; /* of all TCP connections */
    uint64_t overruns, directs, strict, fault_writes;
};

/* ---- mb_engine.c: the schedule ---- */

/* Sends what may be sent now and sets the link's timer for the rest. */
void mb_link_pump(struct mb_link *l);
/* Pumps at that time, or earlier. */
void mb_link_wake_at(struct mb_link *l, uint64_t when_us);
/* For the connection and the timer of a link. */
void mb_link_done(void *arg, void *owner, const struct mb_result *r);
void mb_link_state(void *arg, enum mb_conn_state state, bool useful);
void mb_link_timer(void *arg);

/* Is it asked by itself? Writes are, once all their data is known. */
bool mb_cmd_is_polled(const struct mb_cmd *c);
/* What the quality of a command says of its device. */
enum mb_status mb_status_of(uint8_t quality);
/* Gives a command its phase, from now on. */
void mb_cmd_first_due(struct mb_engine *e, struct mb_cmd *c);
/* Puts it into its link's heap if it is to be polled and is in no other place. */
void mb_cmd_plan(struct mb_cmd *c);
void mb_link_unplan(struct mb_link *l, struct mb_cmd *c);
/* Out of the heap, or of those that wait for their device. */
void mb_cmd_unplan(struct mb_cmd *c);
/* The request that polls (or cyclically writes) a command; its size. */
int mb_cmd_pdu(const struct mb_cmd *c, uint8_t pdu[MB_PDU_MAX]);

/* What is parked is planned again. */
void mb_dev_unpark(struct mb_dev *d);

/* Tells who waits, and frees it; it is in no list and not in flight. */
void mb_direct_finish(struct mb_engine *e, struct mb_direct *q,
                      const struct mb_direct_result *r);
void mb_directs_finish(struct mb_engine *e, struct mb_direct *list,
                       const struct mb_direct_result *r);
/* After a removal from the middle of the queue. */
void mb_link_find_end(struct mb_link *l);

/* ---- mb_group.c ---- */

/*
 * Makes the groups of a device anew and plans its commands, reads in flight
 * too. Without memory each is asked by itself.
 */
void mb_dev_regroup(struct mb_dev *d);
/*
 * The device is back: that merged reads were not answered told nothing of
 * them. With the next end of a poll of each.
 */
void mb_dev_merge_again(struct mb_dev *d, uint64_t now);
/* Number of commands that the request of this one serves. */
unsigned mb_group_size(const struct mb_cmd *first);
/* The others take over the periods of the first. */
void mb_group_follow(struct mb_cmd *first);
/* Did the request fail in a way that its commands may be spared one by one? */
bool mb_group_fails(const struct mb_cmd *first, const struct mb_result *r,
                    uint32_t retry_count);
/* Its commands are due one by one now, and for the next hour; none is in flight. */
void mb_group_split(struct mb_cmd *first, uint64_t now);

/* ---- mb_device.c ---- */

struct mb_port *mb_port_find(const struct mb_engine *e, uint32_t id);

/* Units (bits or registers) of a codec. */
unsigned mb_codec_units(const struct mb_codec *c);
/* The function that writes 'n' units of a command's data; 0: none does. */
uint8_t mb_writing_func(uint8_t func, unsigned n);

/* ---- mb_fault.c ---- */

/* The bytes of a text like "00 FF", at most 'size'. */
void mb_user_data(const char *text, uint8_t *out, size_t size);
/* A tag of the command was written (or may have been): its time begins anew. */
void mb_fault_written(struct mb_cmd *c, uint64_t now);
/* A write of one of its tags is on its way, until then at the latest. */
void mb_fault_hold(struct mb_cmd *c, uint64_t until_us);
/* A poll of the command has ended. */
void mb_fault_polled(struct mb_cmd *c, bool done, uint64_t now);
/* 'c' takes the place of 'old'; what was written is kept already. */
void mb_fault_keep(struct mb_cmd *c, const struct mb_cmd *old, uint64_t now);
void mb_fault_timer(void *arg);

/* ---- mb_health.c ---- */

void mb_health_answered(struct mb_dev *d, uint64_t now);
/* There is no connection. */
void mb_health_lost(struct mb_dev *d);
/* A poll went well; or was given up until its next period. */
void mb_health_polled(struct mb_cmd *c);
void mb_health_given_up(struct mb_cmd *c, uint8_t quality, uint8_t aux, uint64_t now);
/* Tells of the device what is to be told. */
void mb_health_tell(struct mb_dev *d);

/* ---- mb_access.c ---- */

/* The tag's value out of the data of its command. */
void mb_tag_take(struct mb_tag *t, const struct mb_scaling *scaling, const uint8_t *data);
void mb_tag_sample(const struct mb_tag *t, struct tag_sample *s);
/* A direct request without a PDU yet at the end of its link's queue; NULL: no memory. */
struct mb_direct *mb_direct_enqueue(struct mb_tag *t, bool write, uint64_t deadline_us,
                                    mb_direct_fn *fn, void *arg);

#endif
