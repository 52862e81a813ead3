/*
 * What was on the wire of one interface, kept for a person who looks for a
 * fault: the last frames with the time they were sent or had arrived, and what
 * was wrong with them. A fixed ring; nothing is allocated while frames pass.
 * Off, it costs its callers one branch.
 */
#ifndef FIELDGATE_MODBUSD_TRAFFIC_H
#define FIELDGATE_MODBUSD_TRAFFIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/buf.h"
#include "services/modbusd/mb_serial.h"

enum {
    TRAFFIC_ENTRIES_MAX = 2000, /* some 1.2 MiB, from the first start on */
    TRAFFIC_PEER_SIZE = 46,     /* an IPv6 address as text */
};

enum traffic_framing { TRAFFIC_TCP, TRAFFIC_RTU, TRAFFIC_ASCII };
enum traffic_role { TRAFFIC_MASTER, TRAFFIC_SLAVE };

/* Why a frame is not what it should be: errorReason of the API. */
enum traffic_error {
    TRAFFIC_NO_ERROR,
    TRAFFIC_RESEND,        /* a request that was sent before and not answered */
    TRAFFIC_INVALID,       /* no frame, or not the answer to its request */
    TRAFFIC_UNKNOWN,       /* nobody waits for it (any more) */
    TRAFFIC_NOT_SUPPORTED, /* a function that the slave does not have */
    TRAFFIC_OTHER_SERVER,  /* the unit is not the one that was asked, or is not ours */
};

/* The numbers of dataInvalidReason of the API; 0: none. */
enum traffic_fault {
    TRAFFIC_NO_FAULT = 0,
    TRAFFIC_UNFRAMEABLE = 1,
    TRAFFIC_FUNCTION = 2, /* of the response is not that of the request */
    TRAFFIC_ADDRESS = 3,
    TRAFFIC_VALUE = 4,
    TRAFFIC_LENGTH = 5,
    TRAFFIC_UNASKED = 6,
    TRAFFIC_BROADCAST_READ = 7,
    TRAFFIC_SERVER_ID = 8,
};

/* A frame, or bytes that are none. */
struct traffic_frame {
    enum traffic_framing framing;
    enum traffic_role role; /* whose interface it is */
    bool sent;              /* by us; else received */
    bool request;           /* else a response */
    const char *peer;       /* TCP: address as text; serial: NULL */
    uint16_t port;          /* TCP port, or number of the serial port from 0 */
    enum traffic_error error;
    enum traffic_fault fault;
    const uint8_t *bytes; /* as on the wire; what is past MB_SERIAL_MAX is left out */
    size_t n;
};

struct traffic_entry {
    int64_t at_us; /* wall clock: sent, or the last byte was read */
    enum traffic_framing framing;
    enum traffic_role role;
    enum traffic_error error;
    enum traffic_fault fault;
    bool sent, request;
    uint16_t port;
    uint16_t n;
    char peer[TRAFFIC_PEER_SIZE];
    uint8_t bytes[MB_SERIAL_MAX];
};

/* Which frames are kept. */
struct traffic_filter {
    bool on;
    char peer[TRAFFIC_PEER_SIZE]; /* "" for serial: any */
    uint16_t port;
    uint8_t unit;
};

struct traffic {
    bool on;
    bool rolling; /* the oldest go when it is full; else it is switched off then */
    struct traffic_filter filter;
    uint64_t last;                 /* number of the newest entry, from 1; 0: none */
    struct traffic_entry *entries; /* NULL: never started */
};

/* The ring's memory, before the first start. 0 or -ENOMEM. */
int traffic_reserve(struct traffic *t);
/* Begins anew with an empty ring. */
void traffic_start(struct traffic *t, bool rolling, const struct traffic_filter *filter);
/* What was kept can still be read. */
void traffic_stop(struct traffic *t);
void traffic_done(struct traffic *t);

/* For traffic_note. */
void traffic_keep(struct traffic *t, const struct traffic_frame *f);
static inline bool
traffic_is_on(const struct traffic *t)
{
    return t && t->on;
}
/* 't' may be NULL. The bytes are copied. */
static inline void
traffic_note(struct traffic *t, const struct traffic_frame *f)
{
    if (traffic_is_on(t))
        traffic_keep(t, f);
}

/* Number of the oldest entry that is there; t->last + 1: none. */
uint64_t traffic_oldest(const struct traffic *t);
/* 'number' is one from traffic_oldest to t->last. */
const struct traffic_entry *traffic_entry(const struct traffic *t, uint64_t number);

/*
 * Unit and PDU of a frame as it was on the wire; the PDU is copied to 'pdu'.
 * Returns its size; 0: the bytes are too few, or no ASCII frame, and
 * *ret_unit is not set.
 */
size_t traffic_pdu(enum traffic_framing framing, const uint8_t *bytes, size_t n,
                   uint8_t *ret_unit, uint8_t pdu[MB_PDU_MAX]);

/* Why this PDU does not answer the request that began with 'head'; it is no exception. */
enum traffic_fault traffic_fault_of(const uint8_t head[MB_HEAD_SIZE], const uint8_t *pdu,
                                    size_t n);

/*
 * Appends the PDU in words: "read holding registers 10..13"; the first values
 * of many. Nothing for a function that is not known.
 */
void traffic_put_text(struct buf *b, bool request, const uint8_t *pdu, size_t n);

#endif
