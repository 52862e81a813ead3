/*
 * Certificates that come to their end: one audit record when one has not long
 * to go, one when it has expired, whatever restarts and whatever the clock
 * does. What was told is kept with the certificate.
 */
#include <errno.h>
#include <string.h>

#include "libcommon/audit.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "services/authd/authd.h"
#include "services/authd/cert.h"

#include "libcommon/banned.h"

enum {
    AGAIN_S = 24 * 3600,
    AFTER_FAILURE_S = 600,
    CHANGES_MAX = CERTS_MAX + SYSTEM_CERTS_MAX,
    NAME_SHOWN = 200, /* bytes */
};

/*
 * A clock that was ahead and is right again takes back what was told, so that
 * the true end is told. One that is before the certificate's beginning (1970,
 * until the time is known) says nothing.
 */
static bool
is_news(const struct cert_record *c, int64_t now_us)
{
    return now_us >= c->info.not_before_us && cert_status(c, now_us) != c->told;
}

/* Bytes of a name in a record; the longest are cut, between characters. */
static int
shown(const char *name)
{
    return (int)utf8_cut(name, strlen(name), NAME_SHOWN);
}

static int
tell(struct authd *a, struct store_txn *txn, struct cert_record *c, int64_t now_us)
{
    enum cert_status status = cert_status(c, now_us);
    bool is_worse = status > c->told;
    char message[AUDIT_MESSAGE_MAX], at[CLOCK_TEXT_SIZE];
    c->told = (uint8_t)status;
    int r = cert_put(txn, c);
    if (r < 0 || !is_worse)
        return r;
    clock_format(c->info.not_after_us, 0, at);
    (void)snprintf(message, sizeof(message), "Certificate %.*s of %.*s %s at %s",
                   shown(c->name), c->name, shown(c->source), c->source,
                   status == CERT_EXPIRED ? "expired" : "expires", at); /* fits */
    struct audit_record record = {
        .event = status == CERT_EXPIRED ? "certificateExpired" : "certificateExpiring",
        .message = message,
        .detail = "",
        .source = "authd",
        .addr = "",
        .at_us = now_us,
    };
    return audit_put(a->svc->outbox, txn, &record);
}

/* The ids first: a table is not written while it is walked. */
static int
find_news(struct store_txn *txn, int64_t now_us, uint64_t ids[CHANGES_MAX], size_t *ret_n)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int r = store_iter_init(&it, txn, DB_CERTS, NULL, 0, false);
    *ret_n = 0;
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK && *ret_n < CHANGES_MAX) {
        struct cert_record c;
        r = cert_decode(it.value, it.size, &c);
        if (r == STORE_OK && is_news(&c, now_us))
            ids[(*ret_n)++] = c.id;
    }
    return r < 0 ? r : 0;
}

static int
tell_id(struct authd *a, struct store_txn *txn, uint64_t id, int64_t now_us)
{
    uint8_t key[8];
    const void *value;
    size_t size;
    struct cert_record c;
    CLEANUP(freep) char *pem = NULL;
    int r = store_get(txn, DB_CERTS, store_key_u64(key, id), 8, &value, &size);
    if (r == STORE_OK)
        r = cert_decode(value, size, &c);
    if (r != STORE_OK)
        return r < 0 ? r : -EPROTO;
    pem = malloc(c.pem_len + 1);
    if (!pem)
        return -ENOMEM;
    memcpy(pem, c.pem, c.pem_len); /* the store's memory ends with the next write */
    c.pem = pem;
    return tell(a, txn, &c, now_us);
}

static int
tell_news(struct authd *a, int64_t now_us)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    uint64_t ids[CHANGES_MAX];
    size_t n = 0;
    int r = store_begin(a->svc->store, &txn);
    if (r == 0)
        r = find_news(txn, now_us, ids, &n);
    for (size_t i = 0; r == 0 && i < n; i++)
        r = tell_id(a, txn, ids[i], now_us);
    if (r < 0 || n == 0)
        return r;
    r = store_commit(MOVE_PTR(txn));
    if (r == 0)
        audit_kick(a->svc->outbox);
    return r;
}

static void
look(void *arg)
{
    struct authd *a = arg;
    int r = tell_news(a, clock_wall_us());
    if (r < 0)
        log_err("authd: cannot record that certificates expire error=%s", strerror(-r));
    uint64_t wait_s = r < 0 ? AFTER_FAILURE_S : AGAIN_S;
    if (loop_timer_set(a->svc->loop, &a->expiry, loop_now_us(a->svc->loop) + wait_s * 1000000) <
        0)
        log_warn("authd: out of memory for a timer");
}

void
cert_expiry_start(struct authd *a)
{
    loop_timer_init(&a->expiry, look, a);
    look(a);
}

void
cert_expiry_stop(struct authd *a)
{
    loop_timer_cancel(a->svc->loop, &a->expiry);
}

void
cert_expiry_soon(void *self, void *unused)
{
    struct authd *a = self;
    (void)unused;
    (void)loop_timer_set(a->svc->loop, &a->expiry, loop_now_us(a->svc->loop)); /* else: daily */
}
