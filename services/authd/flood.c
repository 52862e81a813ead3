/*
 * Failed sign-ins of the present minute by source address. An address past its
 * share is refused unverified until the minute is over, and its failures make
 * one audit record together: a flood must not roll the audit log over.
 *
 * Not refused, but recorded together all the same, are programs on the device
 * (they share one address, and one with an old password must not shut out the
 * others) and addresses that found the table full.
 */
#include <string.h>

#include "libcommon/audit.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "services/authd/authd.h"

#include "libcommon/banned.h"

enum { MINUTE_US = 60 * 1000000 };

static void
tell(struct authd *a, const struct flood_entry *e)
{
    char message[160];
    bool is_rest = e == &a->floods.all[FLOOD_ADDRESSES_MAX];
    (void)snprintf(message, sizeof(message), "%u more failed or refused sign-ins from %s",
                   e->n_untold, is_rest ? "other addresses" : "this address"); /* fits */
    struct audit_record record = {
        .event = "signInFail",
        .message = message,
        .detail = "",
        .source = "authd",
        .addr = e->addr,
        .at_us = clock_wall_us(),
    };
    int r = audit_event(a->svc->outbox, &record);
    if (r < 0)
        log_warn("authd: failed sign-ins are not recorded n=%u error=%s", e->n_untold,
                 strerror(-r));
}

static void
minute_is_over(void *arg)
{
    struct authd *a = arg;
    for (size_t i = 0; i < ARRAY_LEN(a->floods.all); i++)
        if (a->floods.all[i].n_untold > 0)
            tell(a, &a->floods.all[i]);
    memset(a->floods.all, 0, sizeof(a->floods.all));
}

static struct flood_entry *
find(struct authd *a, const char *addr)
{
    size_t i = 0;
    while (i < FLOOD_ADDRESSES_MAX && a->floods.all[i].addr[0] != '\0' &&
           !str_eq(a->floods.all[i].addr, addr))
        i++;
    return &a->floods.all[i];
}

bool
floods_refuse(struct authd *a, const char *addr)
{
    struct flood_entry *e = find(a, addr);
    if (e->n_fails < FLOOD_FAILS_MAX || e == &a->floods.all[FLOOD_ADDRESSES_MAX] ||
        addr_is_local(addr))
        return false;
    e->n_untold++;
    return true;
}

bool
floods_fail(struct authd *a, const char *addr)
{
    struct flood_entry *e = find(a, addr);
    if (e != &a->floods.all[FLOOD_ADDRESSES_MAX])
        (void)str_copy(e->addr, sizeof(e->addr), addr); /* fits: as in the request */
    if (!loop_timer_is_set(&a->floods.minute) &&
        loop_timer_set(a->svc->loop, &a->floods.minute, loop_now_us(a->svc->loop) + MINUTE_US) <
            0)
        return true; /* without memory for a minute there is no share of it */
    if (e->n_fails++ < FLOOD_FAILS_MAX)
        return true;
    e->n_untold++;
    return false;
}

void
floods_open(struct authd *a)
{
    loop_timer_init(&a->floods.minute, minute_is_over, a);
}

void
floods_close(struct authd *a)
{
    if (!a->svc || !loop_timer_is_set(&a->floods.minute))
        return;
    loop_timer_cancel(a->svc->loop, &a->floods.minute);
    minute_is_over(a);
}
