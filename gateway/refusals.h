/*
 * Every request that is answered 401 or 403 has an audit record: that of the
 * daemon that refused it (a failed sign-in, say; it says so in its reply), or
 * else one that the gateway has authd make (AUTH_REFUSED, event accessRefused).
 *
 * Workers only note, in memory. The loop reports what is new after
 * REFUSALS_GATHER_US; what authd cannot take waits (bounds: refusal_table.h).
 * Nothing is lost while the gateway lives, nor when it is stopped and authd is
 * there; killed, it takes with it what was noted in the last 50 ms or waits
 * for authd, and the counts of repeats in the present minute. A report whose
 * answer was lost is made again, so that a record may come twice.
 */
#ifndef FIELDGATE_GATEWAY_REFUSALS_H
#define FIELDGATE_GATEWAY_REFUSALS_H

#include <stdint.h>

struct bus_principal;
struct bus_reply;
struct refusals;
struct route;
struct svc;

enum {
    REFUSALS_GATHER_US = 50000,
    REFUSALS_AGAIN_US = 200000, /* after authd did not take them */
    REFUSALS_STOP_US = 1000000, /* at a stop authd is waited for so long */
    REFUSALS_REPORT_MAX = 64,   /* records in one report */
};

int refusals_new(struct svc *svc, struct refusals **ret_refusals); /* 0 or -errno */
/* On the loop, which it keeps running for a moment: reports all there is. NULL does nothing. */
void refusals_stop(struct refusals *r);

/*
 * Who ('addr' apart, for nobody has one too) was refused which operation, and
 * why. Any thread; does not block.
 */
void refusals_note(struct refusals *r, const struct bus_principal *who, const char *addr,
                   const struct route *route, uint64_t request_id, const char *reason);
/* The same for the refusal of a daemon, unless the daemon recorded it. */
void refusals_note_reply(struct refusals *r, const struct bus_principal *who, const char *addr,
                         const struct route *route, uint64_t request_id,
                         const struct bus_reply *reply);

#endif
