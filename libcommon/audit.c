/*
 * The outbox: records leave in order, several a message, one message at a
 * time. What auditd acknowledged is deleted along with the next writes; the
 * newest record always stays, so that sequence numbers never start again.
 */
#include "libcommon/audit.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/metrics.h"
#include "libcommon/str.h"
#include "libcommon/svc.h"
#include "proto/internal.h"

#include "libcommon/banned.h"

enum {
    SEND_RECORDS_MAX = 200,
    SEND_BYTES_MAX = 512 << 10,
    SEND_TIMEOUT_US = 10 * 1000 * 1000,
    RETRY_FIRST_US = 100 * 1000,
    RETRY_MAX_US = 5 * 1000 * 1000,
    PURGE_WITH_WRITE = 64, /* deliveries deleted along with one write */
    PURGE_ALONE = 2048,    /* so many delivered ones are deleted without waiting for a write */
    KEPT_ROWS = 2,         /* the newest record and the sender's id */
};

/* Before all numbers: the sender's id, when it is no longer the store's uuid. */
static const uint8_t id_key[1];
enum { ID_SIZE = 16 };

struct audit_outbox {
    struct svc *svc;
    unsigned db;
    uint8_t id[ID_SIZE]; /* whose numbers these are, for auditd */
    struct bus_peer *auditd;
    _Atomic uint64_t next;  /* number of the next record: of who writes to the store */
    _Atomic uint64_t acked; /* newest that auditd has: of the loop */
    uint64_t sent;          /* newest that it can have */
    uint64_t may_send;      /* newest that may be sent: see load */
    bool sending;
    uint64_t retry_us;
    struct loop_timer retry;
};

static struct metric_counter backlog = { .name = "fieldgate_audit_outbox_records",
                                         .help = "Records auditd does not have yet",
                                         .gauge = true };

static void send_more(struct audit_outbox *o);

static void
on_retry(void *arg)
{
    send_more(arg);
}

static int
load_id(struct audit_outbox *o, struct store_txn *txn)
{
    const void *value;
    size_t size;
    int r = store_get(txn, o->db, id_key, sizeof(id_key), &value, &size);
    if (r < 0 || (r == STORE_OK && size != ID_SIZE))
        return r < 0 ? r : -EPROTO;
    memcpy(o->id, r == STORE_OK ? value : store_uuid(o->svc->store), ID_SIZE);
    return 0;
}

/* Begins a walk over the records; 'from' 0: from either end. */
static int
walk(const struct audit_outbox *o, struct store_txn *txn, uint64_t from, bool backwards,
     struct store_iter *ret_it)
{
    uint8_t key[8];
    if (from == 0)
        from = backwards ? UINT64_MAX : 1;
    return store_iter_init(ret_it, txn, o->db, store_key_u64(key, from), sizeof(key),
                           backwards);
}

/*
 * Reads the range of kept records. All count as undelivered: auditd drops
 * repeats. Until auditd has answered, no newer ones are sent: by its answer we
 * learn whether the store is an older copy (become_another), in which those
 * would have numbers that auditd has seen.
 */
static int
load(struct audit_outbox *o)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    int r = store_read(o->svc->store, &txn);
    if (r == 0)
        r = load_id(o, txn);
    if (r < 0)
        return r;
    o->next = 1;
    o->acked = 0;
    for (int backwards = 0; backwards < 2; backwards++) {
        struct store_iter it;
        r = walk(o, txn, 0, backwards, &it);
        if (r < 0)
            return r;
        r = store_iter_next(&it);
        if (r == STORE_OK && it.key_size == 8) {
            if (backwards)
                o->next = store_u64_key(it.key) + 1;
            else
                o->acked = store_u64_key(it.key) - 1;
        }
        store_iter_done(&it);
        if (r < 0)
            return r;
    }
    o->sent = o->next - 1;
    o->may_send = o->sent > 0 ? o->sent : UINT64_MAX;
    return 0;
}

int
audit_open(struct svc *svc, unsigned db, struct audit_outbox **ret_outbox)
{
    struct audit_outbox *o = calloc(1, sizeof(*o));
    if (!o)
        return -ENOMEM;
    o->svc = svc;
    o->db = db;
    o->retry_us = RETRY_FIRST_US;
    loop_timer_init(&o->retry, on_retry, o);
    int r = load(o);
    if (r < 0) {
        free(o);
        return r;
    }
    metric_register(&backlog);
    metric_set(&backlog, audit_backlog(o));
    *ret_outbox = o;
    return 0;
}

void
audit_close(struct audit_outbox *o)
{
    if (!o)
        return;
    loop_timer_cancel(o->svc->loop, &o->retry);
    free(o);
}

uint64_t
audit_backlog(const struct audit_outbox *o)
{
    return o->next - 1 - o->acked;
}

/*
 * Deletes up to 'most' delivered records, the oldest first. What is there is
 * read from the table each time: memory would be ahead of it once a
 * transaction is taken back. The caller leaves one record there.
 */
static int
purge(struct audit_outbox *o, struct store_txn *txn, uint64_t most)
{
    struct store_iter it;
    int r = walk(o, txn, 0, false, &it);
    if (r < 0)
        return r;
    for (; most > 0 && (r = store_iter_next(&it)) == STORE_OK; most--) {
        if (it.key_size != 8 || store_u64_key(it.key) > o->acked)
            break;
        r = store_iter_del(&it);
        if (r < 0)
            break;
    }
    store_iter_done(&it);
    return r < 0 ? r : 0;
}

static void
put_text(struct buf *b, const char *name, const char *text, size_t max)
{
    jw_name(b, name);
    jw_strn(b, text ? text : "", text ? utf8_cut(text, strlen(text), max) : 0);
}

static void
record_encode(struct buf *b, const struct audit_record *r)
{
    char id[17];
    (void)snprintf(id, sizeof(id), "%016llx", (unsigned long long)r->request_id); /* fits */
    jw_kstr(b, "event", r->event);
    put_text(b, "message", r->message, AUDIT_MESSAGE_MAX);
    put_text(b, "detail", r->detail, AUDIT_DETAIL_MAX);
    jw_kstr(b, "source", r->source ? r->source : "");
    jw_kstr(b, "addr", r->addr ? r->addr : "");
    jw_kstr(b, "requestId", r->request_id ? id : "");
    jw_ki64(b, "at", r->at_us);
}

/* 0, -ENOSPC when it is full of what may not go, or another -errno. */
static int
check_room(struct audit_outbox *o, struct store_txn *txn)
{
    uint64_t n = 0, bytes = 0;
    int r = store_count(txn, o->db, &n);
    if (r == 0)
        r = store_bytes(txn, o->db, &bytes);
    if (r < 0)
        return r;
    uint64_t left = audit_backlog(o);
    if ((n >= AUDIT_OUTBOX_MAX && left >= AUDIT_OUTBOX_MAX) ||
        (bytes >> 20 >= AUDIT_OUTBOX_MIB && left > 0))
        return -ENOSPC;
    return 0;
}

int
audit_put(struct audit_outbox *o, struct store_txn *txn, const struct audit_record *record)
{
    int r = check_room(o, txn);
    if (r < 0)
        return r;
    struct buf b;
    buf_init(&b, 8 * (AUDIT_DETAIL_MAX + AUDIT_MESSAGE_MAX));
    record_encode(&b, record);
    uint8_t key[8];
    r = b.err;
    if (r == 0)
        r = store_append(txn, o->db, store_key_u64(key, o->next), sizeof(key), b.data, b.len);
    buf_done(&b);
    /* If the transaction is aborted the number is skipped: auditd only wants them growing. */
    if (r == 0) {
        o->next++;
        r = purge(o, txn, PURGE_WITH_WRITE);
    }
    return r;
}

/* Many that were delivered do not wait for a write. The newest stays: it keeps the numbers. */
static void
purge_alone(struct audit_outbox *o)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    uint64_t n = 0;
    int r = store_read(o->svc->store, &txn);
    if (r == 0)
        r = store_count(txn, o->db, &n);
    if (r < 0 || n < audit_backlog(o) + PURGE_ALONE + KEPT_ROWS)
        return;
    store_abort(MOVE_PTR(txn));
    if (store_try_begin(o->svc->store, &txn) == 0 && purge(o, txn, PURGE_ALONE) == 0)
        (void)store_commit(MOVE_PTR(txn)); /* else they are deleted with a later write */
}

static void
retry_later(struct audit_outbox *o)
{
    (void)loop_timer_set(o->svc->loop, &o->retry,
                         clock_mono_us() + o->retry_us); /* else: next kick */
    o->retry_us = o->retry_us * 2 > RETRY_MAX_US ? RETRY_MAX_US : o->retry_us * 2;
}

/*
 * auditd has records of this store that were never sent: the store is an
 * older copy, restored, and its new records would count as repeats of those
 * that came after it was copied. It goes on as a store that auditd does not
 * know, with the records that were not confirmed in this life.
 */
static void
become_another(struct audit_outbox *o)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    uint8_t id[ID_SIZE];
    int r = getrandom(id, sizeof(id), 0) == sizeof(id) ? 0 : -EIO;
    if (r == 0)
        r = store_try_begin(o->svc->store, &txn);
    if (r == 0)
        r = store_put(txn, o->db, id_key, sizeof(id_key), id, sizeof(id));
    if (r == 0)
        r = store_commit(MOVE_PTR(txn));
    if (r == -EBUSY) /* a long change is under way: with the next answer */
        return;
    if (r < 0) {
        log_err("audit: the store is an older copy and cannot be told apart error=%s",
                strerror(-r));
        return;
    }
    memcpy(o->id, id, sizeof(o->id));
    o->may_send = UINT64_MAX;
    log_warn("audit: the store is an older copy of itself: records go on under a new id");
}

static void
on_answer(void *arg, int error, const struct bus_reply *reply)
{
    struct audit_outbox *o = arg;
    o->sending = false;
    uint64_t acked = 0;
    struct cJSON *tree = NULL;
    struct json_error e;
    if (error == 0 && reply->status == 200 &&
        json_parse(reply->body.p, reply->body.len, &tree, &e) == 0)
        if (json_u64(json_get(tree, "acked"), &acked) < 0)
            acked = 0;
    json_free(tree);
    if (acked > o->sent) {
        become_another(o);
        retry_later(o);
        return;
    }
    if (acked <= o->acked) {
        if (error == 0)
            log_warn("audit: auditd did not take the records status=%u", reply->status);
        retry_later(o);
        return;
    }
    o->acked = acked;
    o->may_send = UINT64_MAX;
    o->retry_us = RETRY_FIRST_US;
    metric_set(&backlog, audit_backlog(o));
    purge_alone(o);
    send_more(o);
}

/* The records after 'acked' as a request body; returns how many. */
static int
gather(struct audit_outbox *o, struct buf *b)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    int r = store_read(o->svc->store, &txn);
    if (r < 0)
        return r;
    char id[2 * ID_SIZE + 1];
    hex_encode(o->id, ID_SIZE, id);
    jw_open(b, '{');
    jw_kstr(b, "store", id);
    jw_kstr(b, "daemon", o->svc->info->name);
    jw_name(b, "records");
    jw_open(b, '[');
    struct store_iter it;
    r = walk(o, txn, o->acked + 1, false, &it);
    if (r < 0)
        return r;
    int n = 0;
    while (n < SEND_RECORDS_MAX && b->len < SEND_BYTES_MAX &&
           (r = store_iter_next(&it)) == STORE_OK) {
        uint64_t seq = store_u64_key(it.key);
        if (seq > o->may_send)
            break;
        o->sent = seq > o->sent ? seq : o->sent;
        jw_open(b, '{');
        jw_ku64(b, "seq", seq);
        buf_putc(b, ',');
        buf_put(b, it.value, it.size);
        buf_putc(b, '}');
        n++;
    }
    store_iter_done(&it);
    jw_close(b, ']');
    jw_close(b, '}');
    if (r < 0) /* "none" would count as delivered */
        return r;
    return b->err ? b->err : n;
}

static void
send_more(struct audit_outbox *o)
{
    if (o->sending || !o->auditd || audit_backlog(o) == 0)
        return;
    /* In this order: what another thread writes now may get a number below 'end'. */
    uint64_t end = o->next;
    bool is_settled = !store_is_writing(o->svc->store);
    struct buf b;
    buf_init(&b, BUS_MESSAGE_MAX - 4096);
    int n = gather(o, &b);
    if (n == 0 && is_settled) /* numbers were skipped by transactions that were taken back */
        o->acked = end - 1;
    if (n > 0) {
        struct bus_request rq = {
            .kind = BUS_KIND_INTERNAL,
            .op = INTERNAL_AUDIT_APPEND,
            .deadline_us = clock_mono_us() + SEND_TIMEOUT_US,
            .who = { .kind = BUS_WHO_DAEMON },
            .body_kind = BUS_BODY_JSON,
            .body = { b.data, (uint32_t)b.len },
        };
        (void)str_copy(rq.who.name, sizeof(rq.who.name), o->svc->info->name); /* short */
        loop_timer_cancel(o->svc->loop, &o->retry);
        n = bus_call(o->auditd, &rq, on_answer, o);
        o->sending = n == 0;
    }
    if (n < 0) {
        log_debug("audit: cannot send records error=%s", strerror(-n));
        retry_later(o);
    }
    buf_done(&b);
}

void
audit_kick(struct audit_outbox *o)
{
    metric_set(&backlog, audit_backlog(o));
    /* While auditd is away the retry timer or its return decides. */
    if (!loop_timer_is_set(&o->retry))
        send_more(o);
}

static void
on_auditd(void *arg, bool up)
{
    struct audit_outbox *o = arg;
    if (!up)
        return;
    o->retry_us = RETRY_FIRST_US;
    loop_timer_cancel(o->svc->loop, &o->retry);
    send_more(o);
}

int
audit_start(struct audit_outbox *o)
{
    int r = bus_peer(o->svc->bus, "auditd", &o->auditd);
    if (r == 0)
        r = bus_peer_watch(o->auditd, on_auditd, o);
    if (r == 0)
        send_more(o);
    return r;
}

int
audit_event(struct audit_outbox *o, const struct audit_record *record)
{
    struct store_txn *txn;
    int r = store_begin(o->svc->store, &txn);
    if (r < 0)
        return r;
    r = audit_put(o, txn, record);
    if (r < 0) {
        store_abort(txn);
        return r;
    }
    r = store_commit(txn);
    if (r == 0)
        audit_kick(o);
    return r;
}
