/*
 * Notes of effects outside the store. A write to a device cannot be part of a
 * transaction, so it is noted before it is begun; the note becomes the record
 * in one transaction (api_call.c). A note that is left over, because its
 * process died or its record could not be kept, becomes a record that says
 * "outcome unknown".
 */
#include "libcommon/api.h"

#include <errno.h>
#include <string.h>

#include "libcommon/api_private.h"
#include "libcommon/audit.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "libcommon/svc.h"

#include "libcommon/banned.h"

enum {
    NOTE_MAX = 2048,
    WHAT_MAX = AUDIT_MESSAGE_MAX - 32, /* leaves room for "outcome unknown" */
    RETRY_US = 5 * 1000 * 1000,
};

struct api_notes {
    struct svc *svc;
    unsigned db;
    uint64_t last;                 /* key of the newest */
    struct api_call_private *open; /* the calls that have one */
    struct loop_timer retry;       /* some were left over */
};

static void
on_retry(void *arg)
{
    api_notes_settle(arg);
}

int
api_notes_new(struct svc *svc, struct api_notes **ret_notes)
{
    const struct svc_info *info = svc->info;
    unsigned db = 0;
    while (db < info->n_dbs && !str_eq(info->dbs[db], "notes"))
        db++;
    *ret_notes = NULL;
    if (db == info->n_dbs)
        return 0;
    struct api_notes *n = calloc(1, sizeof(*n));
    if (!n)
        return -ENOMEM;
    n->svc = svc;
    n->db = db;
    loop_timer_init(&n->retry, on_retry, n);
    *ret_notes = n;
    return 0;
}

void
api_notes_free(struct api_notes *n)
{
    if (!n)
        return;
    loop_timer_cancel(n->svc->loop, &n->retry);
    free(n);
}

static void
put_text(struct buf *b, const char *text, size_t max)
{
    buf_put_str16(b, text, utf8_cut(text, strlen(text), max));
}

static int
put_note(struct api_notes *n, struct api_call *call, const char *what)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    struct buf b;
    uint8_t key[8];
    buf_init(&b, NOTE_MAX);
    buf_put_u64(&b, (uint64_t)clock_wall_us());
    buf_put_u64(&b, call->request->id);
    put_text(&b, call->op->event, AUDIT_MESSAGE_MAX);
    put_text(&b, call->who->name, sizeof(call->who->name));
    put_text(&b, call->who->addr, sizeof(call->who->addr));
    put_text(&b, what, WHAT_MAX);
    int r = b.err;
    if (r == 0)
        r = store_begin(n->svc->store, &txn);
    if (r == 0)
        r = store_put(txn, n->db, store_key_u64(key, n->last + 1), sizeof(key), b.data, b.len);
    if (r == 0)
        r = store_commit(MOVE_PTR(txn));
    buf_done(&b);
    return r;
}

enum api_status
api_note(struct api_call *call, const char *what)
{
    struct api_call_private *p = api_private(call);
    struct api_notes *n = api_server_notes(p->server);
    MUST(n && !p->note && !p->wtxn && call->op->audit == API_AUDIT_CHANGE);
    int r = put_note(n, call, what);
    if (r < 0)
        return api_fail_errno(call, r, "cannot record the change");
    p->note = ++n->last;
    p->next_noted = n->open;
    n->open = p;
    api_audit_message(call, "%s", what);
    return API_OK;
}

void
api_note_unsure(struct api_call *call)
{
    api_private(call)->note_unsure = true;
}

/* ---- the end of a call ---- */

int
api_note_del(struct api_call_private *p)
{
    uint8_t key[8];
    if (!p->note)
        return 0;
    int r = store_del(p->wtxn, api_server_notes(p->server)->db, store_key_u64(key, p->note),
                      sizeof(key));
    return r < 0 ? r : 0;
}

static void
retry_later(struct api_notes *n)
{
    /* Without memory for a timer: with the next one, or at the next start. */
    (void)loop_timer_set(n->svc->loop, &n->retry, clock_mono_us() + RETRY_US);
}

void
api_note_done(struct api_call_private *p, bool kept)
{
    if (!p->note)
        return;
    struct api_notes *n = api_server_notes(p->server);
    struct api_call_private **at = &n->open;
    while (*at != p)
        at = &(*at)->next_noted;
    *at = p->next_noted;
    p->note = 0;
    if (!kept)
        retry_later(n);
}

/* ---- what is left over ---- */

static bool
is_open(const struct api_notes *n, uint64_t key)
{
    const struct api_call_private *p = n->open;
    while (p && p->note != key)
        p = p->next_noted;
    return p != NULL;
}

/* The record of a note; -EPROTO: it cannot be read. */
static int
record_note(struct api_notes *n, struct store_txn *txn, const void *bytes, size_t size)
{
    struct rd in;
    size_t event_len, name_len, addr_len, what_len;
    char event[AUDIT_MESSAGE_MAX + 1], name[sizeof(((struct bus_principal *)0)->name)];
    char addr[sizeof(((struct bus_principal *)0)->addr)], message[AUDIT_MESSAGE_MAX];
    rd_init(&in, bytes, size);
    int64_t at_us = (int64_t)rd_u64(&in);
    uint64_t request_id = rd_u64(&in);
    const char *p_event = rd_str16(&in, &event_len), *p_name = rd_str16(&in, &name_len);
    const char *p_addr = rd_str16(&in, &addr_len), *what = rd_str16(&in, &what_len);
    /* Copied: the bytes are gone with the first write to the transaction. */
    if (!rd_ended(&in) || str_copy_len(event, sizeof(event), p_event, event_len) < 0 ||
        str_copy_len(name, sizeof(name), p_name, name_len) < 0 ||
        str_copy_len(addr, sizeof(addr), p_addr, addr_len) < 0 || what_len > WHAT_MAX)
        return -EPROTO;
    (void)snprintf(message, sizeof(message), "%.*s: outcome unknown", (int)what_len, what); /* fits */
    struct audit_record record = { .event = event,
                                   .message = message,
                                   .detail = "",
                                   .source = name,
                                   .addr = addr,
                                   .request_id = request_id,
                                   .at_us = at_us };
    return audit_put(n->svc->outbox, txn, &record);
}

/* Makes records of all that no call has; returns how many, or -errno. */
static int
record_left(struct api_notes *n, struct store_txn *txn)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int made = 0, r = store_iter_init(&it, txn, n->db, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        uint64_t key = it.key_size == 8 ? store_u64_key(it.key) : 0;
        n->last = key > n->last ? key : n->last;
        if (is_open(n, key))
            continue;
        r = record_note(n, txn, it.value, it.size);
        if (r == -EPROTO) {
            log_err("api: a note of a change cannot be read");
            r = 0;
        }
        if (r == 0)
            r = store_iter_del(&it);
        made++;
    }
    return r < 0 ? r : made;
}

void
api_notes_settle(struct api_notes *n)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    if (!n)
        return;
    int made = 0, r = store_try_begin(n->svc->store, &txn);
    if (r == 0)
        made = r = record_left(n, txn);
    if (r > 0)
        r = store_commit(MOVE_PTR(txn));
    if (r == -EBUSY) { /* a long change is under way */
        retry_later(n);
    } else if (r < 0) {
        log_err("api: cannot record changes of unknown outcome error=%s", strerror(-r));
        retry_later(n);
    } else if (made > 0) {
        audit_kick(n->svc->outbox);
        log_warn("api: recorded changes of unknown outcome n=%d", made);
    }
}
