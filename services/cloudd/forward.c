/*
 * Store and forward: see forward.h. A record's key is client (4 bytes) and
 * sequence (8); its value is
 *
 *   u8 format = 1, u8 0, u8 retain, u64 boot, u64 monotonic µs, u64 wall µs,
 *   u16 length and topic, payload
 *
 * Age counts by the monotonic clock within one boot, so that setting the date
 * neither expires nor revives a message. Boot 0 is an unknown one: then the
 * date counts.
 */
#include "services/cloudd/forward.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/log.h"
#include "libcommon/banned.h"

enum { KEY_SIZE = 12, FORMAT = 1, TOPIC_MAX = 65535, READ_MAX = 2 << 20 };

/* A message not yet committed. */
struct pending {
    struct pending *next;
    uint64_t seq;
    uint32_t size;
    char bytes[];
};

struct forward_queue {
    struct forward_queue *next, **at;
    struct forward *f;
    uint32_t client;
    struct forward_limits limits;
    uint64_t next_seq; /* of the next message */
    uint64_t cursor;   /* messages below were handed out by forward_next */
    uint64_t on_disk;  /* messages below are committed */
    struct pending *first, **last;
    size_t pending_bytes;
    uint64_t *done; /* removals that wait for the next flush */
    size_t n_done, cap_done;
    size_t n_sorted;  /* of them: those that a rewound cursor may meet, in order */
    uint64_t leaving; /* bytes of expired messages among 'done' */
    struct forward_stats stats;
    struct buf read; /* what forward_next gave */
};

struct forward {
    struct store *store;
    unsigned db;
    struct forward_clock clock;
    struct forward_queue *queues;
    size_t gathered; /* bytes of all 'pending' */
};

static void
make_key(uint8_t out[KEY_SIZE], uint32_t client, uint64_t seq)
{
    put_u32(out, client);
    put_u64(out + 4, seq);
}

/* True when the key is one of 'client'. */
static bool
read_key(const void *key, size_t size, uint32_t client, uint64_t *ret_seq)
{
    const uint8_t *k = key;
    if (size != KEY_SIZE || get_u32(k) != client)
        return false;
    *ret_seq = get_u64(k + 4);
    return true;
}

int
forward_new(struct store *s, unsigned db, const struct forward_clock *clock,
            struct forward **ret_forward)
{
    struct forward *f = calloc(1, sizeof(*f));
    if (f == NULL)
        return -ENOMEM;
    f->store = s;
    f->db = db;
    f->clock = *clock;
    *ret_forward = f;
    return 0;
}

void
forward_free(struct forward *f)
{
    if (f == NULL)
        return;
    MUST(f->queues == NULL);
    free(f);
}

/* Counts what earlier lives left. */
static int
scan(struct forward_queue *q)
{
    struct store_txn *txn = NULL;
    struct store_iter it;
    uint8_t from[KEY_SIZE];
    make_key(from, q->client, 0);
    int r = store_read(q->f->store, &txn);
    if (r < 0)
        return r;
    r = store_iter_init(&it, txn, q->f->db, from, sizeof(from), false);
    if (r == 0) {
        uint64_t seq;
        while ((r = store_iter_next(&it)) == STORE_OK &&
               read_key(it.key, it.key_size, q->client, &seq)) {
            q->stats.messages++;
            q->stats.bytes += it.size;
            q->next_seq = seq + 1;
        }
        store_iter_done(&it);
    }
    store_abort(txn);
    return r < 0 ? r : 0;
}

int
forward_open(struct forward *f, uint32_t client, const struct forward_limits *limits,
             struct forward_queue **ret_queue)
{
    struct forward_queue *q = calloc(1, sizeof(*q));
    if (q == NULL)
        return -ENOMEM;
    q->f = f;
    q->client = client;
    q->limits = *limits;
    q->next_seq = 1;
    q->last = &q->first;
    buf_init(&q->read, READ_MAX);
    int r = scan(q);
    if (r < 0) {
        free(q);
        return r;
    }
    q->on_disk = q->next_seq;
    q->next = f->queues;
    q->at = &f->queues;
    if (q->next != NULL)
        q->next->at = &q->next;
    f->queues = q;
    *ret_queue = q;
    return 0;
}

void
forward_close(struct forward_queue *q)
{
    if (q == NULL)
        return;
    while (q->first != NULL) {
        struct pending *p = q->first;
        q->first = p->next;
        free(p);
    }
    q->f->gathered -= q->pending_bytes;
    *q->at = q->next;
    if (q->next != NULL)
        q->next->at = q->at;
    buf_done(&q->read);
    free(q->done);
    free(q);
}

void
forward_limit(struct forward_queue *q, const struct forward_limits *limits)
{
    q->limits = *limits;
}

bool
forward_is_dirty(const struct forward *f)
{
    for (const struct forward_queue *q = f->queues; q != NULL; q = q->next)
        if (q->first != NULL || q->n_done > 0)
            return true;
    return false;
}

/* ---- messages on disk ---- */

static uint64_t
age_us(const struct forward *f, uint64_t boot, uint64_t mono_us, int64_t wall_us)
{
    if (boot != 0 && boot == f->clock.boot) {
        uint64_t now = f->clock.mono_us();
        return now > mono_us ? now - mono_us : 0;
    }
    int64_t now = f->clock.wall_us();
    return now > wall_us ? (uint64_t)(now - wall_us) : 0;
}

struct record {
    bool retain;
    const char *topic, *payload;
    size_t topic_len, len;
};

/* 0, -ETIME (too old) or -EPROTO. */
static int
read_record(const struct forward_queue *q, const void *bytes, size_t n,
            struct record *ret_record)
{
    struct rd in;
    rd_init(&in, bytes, n);
    uint8_t format = rd_u8(&in);
    (void)rd_u8(&in); /* of no meaning */
    ret_record->retain = rd_u8(&in) != 0;
    uint64_t boot = rd_u64(&in), mono_us = rd_u64(&in);
    int64_t wall_us = (int64_t)rd_u64(&in);
    ret_record->topic = rd_str16(&in, &ret_record->topic_len);
    if (in.bad || format != FORMAT)
        return -EPROTO;
    if (q->limits.ttl_us > 0 && age_us(q->f, boot, mono_us, wall_us) > q->limits.ttl_us)
        return -ETIME;
    ret_record->len = rd_left(&in);
    ret_record->payload = (const char *)in.at;
    return 0;
}

/* Into the queue's own buffer. 0 or -errno. */
static int
copy_record(struct forward_queue *q, const struct record *r,
            struct forward_message *ret_message)
{
    buf_reset(&q->read);
    buf_put(&q->read, r->topic, r->topic_len);
    buf_putc(&q->read, '\0');
    buf_put(&q->read, r->payload, r->len);
    if (q->read.err != 0)
        return q->read.err;
    *ret_message = (struct forward_message){ .retain = r->retain,
                                             .topic = q->read.data,
                                             .payload = q->read.data + r->topic_len + 1,
                                             .len = r->len };
    return 0;
}

int
forward_done(struct forward_queue *q, uint64_t seq)
{
    if (q->n_done == q->cap_done) {
        size_t cap = q->cap_done > 0 ? q->cap_done * 2 : 64;
        uint64_t *more = realloc(q->done, cap * sizeof(*more));
        if (more == NULL)
            return -ENOMEM; /* it will be sent again after a restart */
        q->done = more;
        q->cap_done = cap;
    }
    q->done[q->n_done++] = seq;
    return 0;
}

static int
by_seq(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* What was done after the last rewind lies behind the cursor. */
static bool
is_done(const struct forward_queue *q, uint64_t seq)
{
    return q->n_sorted > 0 &&
           bsearch(&seq, q->done, q->n_sorted, sizeof(q->done[0]), by_seq) != NULL;
}

/* A message that is not to be sent any more: its removal waits for the next flush. */
static void
pass_over(struct forward_queue *q, uint64_t seq, size_t size, int why)
{
    q->stats.expired++;
    if (forward_done(q, seq) == 0) /* else: found again after a restart */
        q->leaving += size;
    if (why == -EPROTO)
        log_err("forward: a stored message cannot be read client=%u", q->client);
}

/* Begins a walk of the queue's messages at the cursor. 0 or -errno. */
static int
walk(struct forward_queue *q, struct store_txn **ret_txn, struct store_iter *ret_it)
{
    uint8_t from[KEY_SIZE];
    struct store_txn *txn = NULL;
    int r = store_read(q->f->store, &txn);
    if (r < 0)
        return r;
    make_key(from, q->client, q->cursor);
    r = store_iter_init(ret_it, txn, q->f->db, from, sizeof(from), false);
    if (r < 0)
        store_abort(txn);
    else
        *ret_txn = txn;
    return r;
}

/* ---- accepting ---- */

static void
put_head(struct buf *b, struct forward *f, const char *topic, bool retain)
{
    buf_put_u8(b, FORMAT);
    buf_put_u8(b, 0);
    buf_put_u8(b, retain);
    buf_put_u64(b, f->clock.boot);
    buf_put_u64(b, f->clock.mono_us());
    buf_put_u64(b, (uint64_t)f->clock.wall_us());
    buf_put_str16(b, topic, strlen(topic));
}

static bool
is_full(const struct forward_queue *q, size_t size)
{
    return q->stats.bytes - q->leaving + size > q->limits.max_bytes;
}

/* The oldest that are past their time make room for a new message. */
static void
expire_oldest(struct forward_queue *q, size_t size)
{
    struct store_txn *txn = NULL;
    struct store_iter it;
    uint64_t seq;
    if (q->limits.ttl_us == 0 || q->cursor >= q->on_disk || walk(q, &txn, &it) < 0)
        return;
    for (unsigned n = 0; n < FORWARD_EXPIRE_STEP && is_full(q, size); n++) {
        if (store_iter_next(&it) != STORE_OK || !read_key(it.key, it.key_size, q->client, &seq))
            break;
        struct record record;
        int r = is_done(q, seq) ? 1 : read_record(q, it.value, it.size, &record);
        if (r == 0)
            break;
        q->cursor = seq + 1;
        if (r < 0)
            pass_over(q, seq, it.size, r);
    }
    store_iter_done(&it);
    store_abort(txn);
}

int
forward_put(struct forward_queue *q, const char *topic, const void *payload, size_t len,
            bool retain)
{
    struct buf head;
    buf_init(&head, TOPIC_MAX + 64);
    put_head(&head, q->f, topic, retain);
    size_t size = head.len + len;
    struct pending *p = NULL;
    if (q->limits.drop_newest && is_full(q, size))
        expire_oldest(q, size);
    bool full = is_full(q, size);
    if (head.err == 0 && size <= q->limits.max_bytes && !(full && q->limits.drop_newest) &&
        q->f->gathered + size <= FORWARD_GATHER_MAX)
        p = malloc(sizeof(*p) + size);
    if (p == NULL) {
        buf_done(&head);
        q->stats.dropped++;
        return -ENOBUFS;
    }
    memcpy(p->bytes, head.data, head.len);
    memcpy(p->bytes + head.len, payload, len);
    buf_done(&head);
    p->size = (uint32_t)size;
    p->seq = q->next_seq++;
    p->next = NULL;
    *q->last = p;
    q->last = &p->next;
    q->pending_bytes += size;
    q->f->gathered += size;
    q->stats.messages++;
    q->stats.bytes += size;
    return 0;
}

/* ---- committing ---- */

/* What a transaction does to the counters, taken over when it is durable. */
struct delta {
    uint64_t messages, bytes, dropped;
};

static int
remove_one(struct forward_queue *q, struct store_txn *txn, uint64_t seq, struct delta *d)
{
    uint8_t key[KEY_SIZE];
    const void *value;
    size_t size;
    make_key(key, q->client, seq);
    int r = store_get(txn, q->f->db, key, sizeof(key), &value, &size);
    if (r != STORE_OK)
        return r < 0 ? r : 0; /* dropped meanwhile */
    r = store_del(txn, q->f->db, key, sizeof(key));
    if (r < 0)
        return r;
    d->messages++;
    d->bytes += size;
    return 0;
}

/* Removes the oldest messages that are not under way until the bound is kept. */
static int
drop_oldest(struct forward_queue *q, struct store_txn *txn, struct delta *d)
{
    uint8_t from[KEY_SIZE];
    struct store_iter it;
    uint64_t seq;
    if (q->stats.bytes - d->bytes <= q->limits.max_bytes)
        return 0;
    make_key(from, q->client, q->cursor);
    int r = store_iter_init(&it, txn, q->f->db, from, sizeof(from), false);
    if (r < 0)
        return r;
    while (q->stats.bytes - d->bytes > q->limits.max_bytes &&
           (r = store_iter_next(&it)) == STORE_OK &&
           read_key(it.key, it.key_size, q->client, &seq)) {
        size_t size = it.size;
        r = store_iter_del(&it);
        if (r < 0)
            break;
        d->messages++;
        d->bytes += size;
        d->dropped++;
    }
    store_iter_done(&it);
    return r < 0 ? r : 0;
}

static int
flush_queue(struct forward_queue *q, struct store_txn *txn, struct delta *d)
{
    uint8_t key[KEY_SIZE];
    int r = 0;
    for (size_t i = 0; r == 0 && i < q->n_done; i++)
        r = remove_one(q, txn, q->done[i], d);
    for (struct pending *p = q->first; r == 0 && p != NULL; p = p->next) {
        make_key(key, q->client, p->seq);
        r = store_put(txn, q->f->db, key, sizeof(key), p->bytes, p->size);
    }
    return r == 0 ? drop_oldest(q, txn, d) : r;
}

static void
settle_queue(struct forward_queue *q, const struct delta *d)
{
    while (q->first != NULL) {
        struct pending *p = q->first;
        q->first = p->next;
        free(p);
    }
    q->last = &q->first;
    q->f->gathered -= q->pending_bytes;
    q->pending_bytes = 0;
    q->n_done = q->n_sorted = 0;
    q->leaving = 0;
    q->on_disk = q->next_seq;
    q->stats.messages -= d->messages;
    q->stats.bytes -= d->bytes;
    q->stats.dropped += d->dropped;
}

int
forward_flush(struct forward *f)
{
    struct store_txn *txn = NULL;
    size_t n = 0, k = 0;
    for (const struct forward_queue *q = f->queues; q != NULL; q = q->next)
        n++;
    if (!forward_is_dirty(f))
        return 0;
    struct delta *deltas = calloc(n, sizeof(*deltas));
    if (deltas == NULL)
        return -ENOMEM;
    int r = store_begin(f->store, &txn);
    for (struct forward_queue *q = f->queues; r == 0 && q != NULL; q = q->next, k++)
        r = flush_queue(q, txn, &deltas[k]);
    if (r == 0)
        r = store_commit(MOVE_PTR(txn));
    store_abort(txn);
    k = 0;
    for (struct forward_queue *q = f->queues; r == 0 && q != NULL; q = q->next, k++)
        settle_queue(q, &deltas[k]);
    free(deltas);
    return r;
}

/* ---- sending ---- */

int
forward_next(struct forward_queue *q, struct forward_message *ret_message)
{
    struct store_txn *txn = NULL;
    struct store_iter it;
    uint64_t seq;
    if (q->cursor >= q->on_disk)
        return STORE_NOT_FOUND;
    int r = walk(q, &txn, &it);
    if (r < 0)
        return r;
    bool found = false, ended = false;
    for (unsigned n = 0; !found && n < FORWARD_EXPIRE_STEP;) {
        r = store_iter_next(&it);
        ended = r != STORE_OK || !read_key(it.key, it.key_size, q->client, &seq);
        if (ended)
            break;
        q->cursor = seq + 1;
        if (is_done(q, seq))
            continue;
        struct record record;
        r = read_record(q, it.value, it.size, &record);
        if (r < 0) {
            pass_over(q, seq, it.size, r);
            n++;
            r = STORE_NOT_FOUND;
            continue;
        }
        r = copy_record(q, &record, ret_message);
        if (r < 0) {
            q->cursor = seq;
            break;
        }
        ret_message->seq = seq;
        found = true;
    }
    if (ended && r >= 0)
        q->cursor = q->on_disk;
    store_iter_done(&it);
    store_abort(txn);
    return found ? STORE_OK : r < 0 ? r : STORE_NOT_FOUND;
}

void
forward_rewind(struct forward_queue *q)
{
    q->cursor = 0;
    if (q->n_done > 0)
        qsort(q->done, q->n_done, sizeof(q->done[0]), by_seq);
    q->n_sorted = q->n_done;
}

void
forward_get_stats(const struct forward_queue *q, struct forward_stats *ret_stats)
{
    *ret_stats = q->stats;
}

uint64_t
forward_next_seq(const struct forward_queue *q)
{
    return q->next_seq;
}

int
forward_purge(struct forward *f, uint32_t client)
{
    struct store_txn *txn = NULL;
    struct store_iter it;
    uint8_t from[KEY_SIZE];
    uint64_t seq;
    size_t n = 0;
    make_key(from, client, 0);
    int r = store_begin(f->store, &txn);
    if (r < 0)
        return r;
    r = store_iter_init(&it, txn, f->db, from, sizeof(from), false);
    if (r == 0) {
        while (n < FORWARD_PURGE_STEP && (r = store_iter_next(&it)) == STORE_OK &&
               read_key(it.key, it.key_size, client, &seq)) {
            r = store_iter_del(&it);
            if (r < 0)
                break;
            n++;
        }
        store_iter_done(&it);
    }
    if (r >= 0 && n > 0)
        r = store_commit(MOVE_PTR(txn));
    store_abort(txn);
    if (r < 0)
        return r;
    return n == FORWARD_PURGE_STEP ? STORE_OK : STORE_NOT_FOUND;
}
