/*
 * The subscriber's side of the tag bus: follows one provider through its
 * restarts, changes of its catalogue, and losses.
 *
 * Catalogue, then snapshot, then live. What is published while one of the
 * first two is being fetched is held and applied after it, by sequence number,
 * so that nothing is applied twice or out of order. Samples of numbers that
 * the catalogue does not have are skipped.
 */
#include "libcommon/tagbus.h"

#include <errno.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "proto/internal.h"

#include "libcommon/banned.h"

enum {
    FETCH_TIMEOUT_US = 5000000,
    RETRY_US = 500000,
    SNAPSHOT_GAP_US = 100000, /* between two snapshots, when losses go on */
    TAGS_MAX = 200000,        /* of one provider */
    HELD_MAX = 256,           /* batches */
    HELD_BYTES_MAX = 8 << 20,
    PAGE_HEADER = 28,
};

enum sub_state {
    SUB_DOWN,      /* no connection */
    SUB_RETRY,     /* fetching failed; the timer tries again */
    SUB_CATALOGUE, /* being fetched */
    SUB_SNAPSHOT,  /* being fetched */
    SUB_LIVE,
};

/* A batch that arrived while catalogue or snapshot were on their way. */
struct held {
    struct held *next;
    size_t n;
    uint8_t bytes[];
};

/* The numbers of the catalogue: open addressing, consecutive numbers lie side by side. */
struct table {
    uint32_t *nos;       /* 0: free */
    uint64_t *after_seq; /* NULL, or by place: what the snapshot of this tag already holds */
    uint32_t mask;
};

struct tag_sub {
    struct bus *bus;
    struct loop *loop;
    char daemon[32];
    struct tag_sub_events events;
    struct bus_peer *peer;
    struct bus_sub *sub;
    enum sub_state state;
    uint64_t serial; /* of the fetch that counts; answers to older ones are dropped */
    uint64_t epoch;
    uint32_t generation;
    uint64_t seq;                  /* last batch applied, or held by the snapshot */
    uint64_t skip_seq;             /* up to this batch, look at table.after_seq */
    uint64_t seen_epoch, seen_seq; /* last batch that arrived: for counting losses */
    struct tag_def *defs;          /* while they are fetched */
    size_t n_defs, cap_defs;
    struct table table;
    struct held *held, **held_last;
    size_t n_held, held_bytes;
    uint64_t snapshot_us; /* when the last one was begun */
    bool again;           /* something was lost while it was fetched */
    struct loop_timer timer;
    struct tag_sample samples[TAG_BATCH_MAX];
    struct tag_sub_stats stats;
};

/* One question to the provider. */
struct fetch {
    struct tag_sub *s;
    uint64_t serial;
    uint32_t from;
};

/* ---- numbers ---- */

static void
table_done(struct table *t)
{
    free(t->nos);
    free(t->after_seq);
    *t = (struct table){ 0 };
}

/* The place of 'no', or of a free place; the table always has one. */
static inline uint32_t
table_place(const struct table *t, uint32_t no)
{
    uint32_t i = no & t->mask;
    while (t->nos[i] != no && t->nos[i] != 0)
        i = (i + 1) & t->mask;
    return i;
}

static int
table_build(struct table *t, const struct tag_def *defs, size_t n)
{
    uint32_t size = 16;
    while (size < 2 * n)
        size *= 2;
    uint32_t *nos = calloc(size, sizeof(*nos));
    if (nos == NULL)
        return -ENOMEM;
    table_done(t);
    t->nos = nos;
    t->mask = size - 1;
    for (size_t i = 0; i < n; i++)
        nos[table_place(t, defs[i].no)] = defs[i].no;
    return 0;
}

/* ---- held batches ---- */

/* The oldest, now the caller's to free. */
static struct held *
hold_take_first(struct tag_sub *s)
{
    struct held *h = s->held;
    s->held = h->next;
    if (s->held == NULL)
        s->held_last = &s->held;
    s->n_held--;
    s->held_bytes -= h->n;
    return h;
}

static void
hold_drop_all(struct tag_sub *s)
{
    while (s->held != NULL)
        free(hold_take_first(s));
}

/* The oldest give way: the gap they leave is seen when the rest is applied. */
static void
hold(struct tag_sub *s, const void *bytes, size_t n)
{
    struct held *h = malloc(sizeof(*h) + n);
    if (h == NULL) {
        s->stats.lost_batches++;
        return;
    }
    h->next = NULL;
    h->n = n;
    memcpy(h->bytes, bytes, n);
    *s->held_last = h;
    s->held_last = &h->next;
    s->n_held++;
    s->held_bytes += n;
    while (s->n_held > HELD_MAX || s->held_bytes > HELD_BYTES_MAX) {
        s->stats.lost_batches++;
        free(hold_take_first(s));
    }
}

/* ---- asking the provider ---- */

static void got_page(void *arg, int error, const struct bus_reply *reply);

static void
retry_later(struct tag_sub *s)
{
    s->serial++;
    s->state = SUB_RETRY;
    hold_drop_all(s);
    if (loop_timer_set(s->loop, &s->timer, clock_mono_us() + RETRY_US) < 0)
        log_debug("tagbus: no memory for a timer");
}

static void
fetch_page(struct tag_sub *s, uint32_t from)
{
    uint8_t body[4];
    put_u32(body, from);
    struct bus_request request = {
        .kind = BUS_KIND_INTERNAL,
        .op = s->state == SUB_CATALOGUE ? INTERNAL_TAG_CATALOGUE : INTERNAL_TAG_SNAPSHOT,
        .id = s->serial,
        .deadline_us = clock_mono_us() + FETCH_TIMEOUT_US,
        .who = { .kind = BUS_WHO_DAEMON },
        .body_kind = BUS_BODY_BYTES,
        .body = { .p = (const char *)body, .len = sizeof(body) },
    };
    (void)str_copy(request.who.name, sizeof(request.who.name), program_invocation_short_name);
    struct fetch *f = malloc(sizeof(*f));
    if (f != NULL) {
        *f = (struct fetch){ .s = s, .serial = s->serial, .from = from };
        if (bus_call(s->peer, &request, got_page, f) == 0)
            return;
    }
    free(f);
    retry_later(s);
}

static void
defs_drop(struct tag_sub *s)
{
    free(s->defs);
    s->defs = NULL;
    s->n_defs = s->cap_defs = 0;
}

static void
fetch_catalogue(struct tag_sub *s)
{
    s->serial++;
    s->state = SUB_CATALOGUE;
    loop_timer_cancel(s->loop, &s->timer);
    defs_drop(s);
    fetch_page(s, 0);
}

static void
fetch_snapshot(struct tag_sub *s)
{
    s->serial++;
    s->state = SUB_SNAPSHOT;
    s->again = false;
    s->snapshot_us = clock_mono_us();
    s->stats.snapshots++;
    loop_timer_cancel(s->loop, &s->timer);
    fetch_page(s, 0);
}

/* Something was lost: a snapshot now, or, when one was just fetched, a little later. */
static void
want_snapshot(struct tag_sub *s)
{
    uint64_t due = s->snapshot_us + SNAPSHOT_GAP_US;
    if (clock_mono_us() >= due)
        fetch_snapshot(s);
    else if (!loop_timer_is_set(&s->timer) && loop_timer_set(s->loop, &s->timer, due) < 0)
        log_debug("tagbus: no memory for a timer");
}

static void
timer_due(void *arg)
{
    struct tag_sub *s = arg;
    if (s->state == SUB_RETRY)
        fetch_catalogue(s);
    else if (s->state == SUB_LIVE)
        fetch_snapshot(s);
}

/* ---- batches ---- */

/* Does the snapshot of the tag at 'place' hold batch 'seq' already? */
static inline bool
in_snapshot(const struct tag_sub *s, uint32_t place, uint64_t seq)
{
    return seq <= s->skip_seq && s->table.after_seq != NULL && seq <= s->table.after_seq[place];
}

/* Gives the samples to the owner, without those it does not know or has already. */
static void
deliver(struct tag_sub *s, size_t n, uint64_t seq, bool snapshot)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t no = s->samples[i].no;
        uint32_t place = table_place(&s->table, no);
        if (no == 0 || s->table.nos[place] != no || (!snapshot && in_snapshot(s, place, seq)))
            continue;
        if (kept != i)
            s->samples[kept] = s->samples[i];
        kept++;
    }
    s->stats.samples += kept;
    if (kept > 0 && s->events.samples != NULL)
        s->events.samples(s->events.arg, s->daemon, s->samples, kept, snapshot);
}

/* Applies a batch of a live subscription. */
static void
apply(struct tag_sub *s, struct rd *in, const struct tag_batch *batch)
{
    if (batch->epoch != s->epoch || batch->generation > s->generation) {
        fetch_catalogue(s); /* the snapshot after it will hold this batch */
        return;
    }
    if (batch->generation < s->generation)
        return;
    bool gap = batch->seq > s->seq + (batch->count > 0);
    if (batch->count > 0 && batch->seq > s->seq) {
        if (tag_batch_samples(in, batch, s->samples) < 0) {
            s->stats.bad_batches++;
            gap = true;
        } else {
            s->seq = batch->seq;
            deliver(s, batch->count, batch->seq, false);
        }
    }
    if (gap) {
        s->seq = batch->seq;
        want_snapshot(s);
    }
}

/* Applies what was held, until something makes us fetch again. */
static void
apply_held(struct tag_sub *s)
{
    while (s->held != NULL && s->state == SUB_LIVE) {
        struct rd in;
        struct tag_batch batch;
        CLEANUP(freep) struct held *h = hold_take_first(s);
        rd_init(&in, h->bytes, h->n);
        /* another epoch is one before ours: a new one begins with a new connection */
        if (tag_batch_open(&in, &batch) == 0 && batch.epoch == s->epoch)
            apply(s, &in, &batch);
    }
}

/* Notes the number of a batch that arrived, counts those that did not. */
static void
count_lost(struct tag_sub *s, const struct tag_batch *batch)
{
    uint64_t last = batch->seq - (batch->count > 0); /* what should have come before */
    if (batch->epoch == s->seen_epoch && last > s->seen_seq)
        s->stats.lost_batches += last - s->seen_seq;
    if (batch->epoch != s->seen_epoch || batch->seq > s->seen_seq)
        s->seen_seq = batch->seq;
    s->seen_epoch = batch->epoch;
}

static void
got_batch(void *arg, const void *bytes, size_t n)
{
    struct tag_sub *s = arg;
    struct rd in;
    struct tag_batch batch;
    rd_init(&in, bytes, n);
    if (tag_batch_open(&in, &batch) < 0) {
        s->stats.bad_batches++;
        return;
    }
    s->stats.batches++;
    count_lost(s, &batch);
    switch (s->state) {
    case SUB_LIVE:
        apply(s, &in, &batch);
        break;
    case SUB_CATALOGUE:
    case SUB_SNAPSHOT:
        hold(s, bytes, n);
        break;
    case SUB_DOWN:
    case SUB_RETRY:
        break; /* the snapshot to come holds it */
    }
}

/* The publisher was connected, or batches were dropped on this side. */
static void
got_lost(void *arg)
{
    struct tag_sub *s = arg;
    if (s->state == SUB_LIVE)
        want_snapshot(s);
    else if (s->state == SUB_SNAPSHOT)
        s->again = true; /* the one on its way may be from before, but it is to end */
}

/* ---- pages ---- */

struct page {
    uint64_t epoch, seq;
    uint32_t generation, next, count;
};

static int
defs_room(struct tag_sub *s, size_t more)
{
    if (more > TAGS_MAX - s->n_defs)
        return -E2BIG;
    if (s->n_defs + more <= s->cap_defs)
        return 0;
    size_t cap = s->n_defs + more;
    struct tag_def *defs = realloc(s->defs, cap * sizeof(*defs));
    if (defs == NULL)
        return -ENOMEM;
    s->defs = defs;
    s->cap_defs = cap;
    return 0;
}

/* 0 or -errno. */
static int
got_defs(struct tag_sub *s, struct rd *in, const struct page *page, uint32_t from)
{
    if (from == 0) {
        s->epoch = page->epoch;
        s->generation = page->generation;
    }
    int r = defs_room(s, page->count);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < page->count; i++) {
        r = tag_def_decode(in, &s->defs[s->n_defs]);
        if (r < 0)
            return r;
        s->n_defs++;
    }
    if (!rd_ended(in))
        return -EBADMSG;
    if (page->next != 0) {
        fetch_page(s, page->next);
        return 0;
    }
    r = table_build(&s->table, s->defs, s->n_defs);
    if (r < 0)
        return r;
    if (s->events.catalogue != NULL)
        r = s->events.catalogue(s->events.arg, s->daemon, s->defs, s->n_defs);
    defs_drop(s);
    if (r < 0)
        return r;
    fetch_snapshot(s);
    return 0;
}

/* Pages of one snapshot are taken one after the other: note which batches each one holds. */
static int
note_page(struct tag_sub *s, const struct page *page, uint32_t from)
{
    if (from == 0) {
        s->seq = s->skip_seq = page->seq;
        free(s->table.after_seq);
        s->table.after_seq = NULL;
        return 0;
    }
    if (page->seq <= s->skip_seq || s->table.after_seq != NULL) {
        s->skip_seq = page->seq;
        return 0;
    }
    s->table.after_seq = calloc((size_t)s->table.mask + 1, sizeof(*s->table.after_seq));
    s->skip_seq = page->seq;
    return s->table.after_seq != NULL ? 0 : -ENOMEM;
}

/* Decodes up to TAG_BATCH_MAX samples of a page and delivers them. */
static int
deliver_page_part(struct tag_sub *s, struct rd *in, size_t n, uint64_t seq)
{
    for (size_t i = 0; i < n; i++) {
        if (tag_sample_decode(in, &s->samples[i]) < 0)
            return -EBADMSG;
        if (s->table.after_seq != NULL) {
            uint32_t place = table_place(&s->table, s->samples[i].no);
            s->table.after_seq[place] = seq;
        }
    }
    deliver(s, n, seq, true);
    return 0;
}

/* 0 or -errno. */
static int
got_samples(struct tag_sub *s, struct rd *in, const struct page *page, uint32_t from)
{
    int r = note_page(s, page, from);
    if (r < 0)
        return r;
    uint64_t serial = s->serial;
    for (uint32_t left = page->count; left > 0;) {
        uint32_t n = left < TAG_BATCH_MAX ? left : TAG_BATCH_MAX;
        r = deliver_page_part(s, in, n, page->seq);
        if (r < 0)
            return r;
        left -= n;
    }
    if (!rd_ended(in))
        return -EBADMSG;
    if (s->serial != serial)
        return 0;
    if (page->next != 0) {
        fetch_page(s, page->next);
        return 0;
    }
    s->state = SUB_LIVE;
    apply_held(s);
    if (s->again && s->state == SUB_LIVE)
        want_snapshot(s);
    return 0;
}

/* 0 or -errno. */
static int
read_page(struct tag_sub *s, const struct bus_reply *reply, uint32_t from)
{
    struct rd in;
    struct page page;
    if (reply->status != 200 || reply->body_kind != BUS_BODY_BYTES ||
        reply->body.len < PAGE_HEADER)
        return -EBADMSG;
    rd_init(&in, reply->body.p, reply->body.len);
    page.epoch = rd_u64(&in);
    page.generation = rd_u32(&in);
    page.seq = rd_u64(&in);
    page.next = rd_u32(&in);
    page.count = rd_u32(&in);
    if (page.next != 0 && (page.next <= from || page.next - from != page.count))
        return -EBADMSG;
    bool first = s->state == SUB_CATALOGUE && from == 0;
    if (!first && (page.epoch != s->epoch || page.generation != s->generation)) {
        fetch_catalogue(s);
        return 0;
    }
    return s->state == SUB_CATALOGUE ? got_defs(s, &in, &page, from)
                                     : got_samples(s, &in, &page, from);
}

static void
got_page(void *arg, int error, const struct bus_reply *reply)
{
    struct fetch *f = arg;
    struct tag_sub *s = f->s;
    uint32_t from = f->from;
    bool counts = f->serial == s->serial;
    free(f);
    if (!counts)
        return;
    if (error == 0)
        error = read_page(s, reply, from);
    if (error < 0) {
        log_debug("tagbus: cannot fetch from=%s error=%d", s->daemon, error);
        retry_later(s);
    }
}

/* ---- the provider comes and goes ---- */

static void
got_presence(void *arg, bool up)
{
    struct tag_sub *s = arg;
    if (!up) {
        s->serial++;
        s->state = SUB_DOWN;
        loop_timer_cancel(s->loop, &s->timer);
        hold_drop_all(s);
        defs_drop(s);
    }
    if (s->events.presence != NULL)
        s->events.presence(s->events.arg, s->daemon, up);
    if (up)
        fetch_catalogue(s);
}

int
tag_sub_open(struct bus *bus, struct loop *loop, const char *daemon,
             const struct tag_sub_events *events, struct tag_sub **ret_sub)
{
    char name[64];
    struct tag_sub *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return -ENOMEM;
    s->bus = bus;
    s->loop = loop;
    s->events = *events;
    s->held_last = &s->held;
    loop_timer_init(&s->timer, timer_due, s);
    int r = str_copy(s->daemon, sizeof(s->daemon), daemon);
    if (r == 0)
        r = bus_peer(bus, daemon, &s->peer);
    if (r == 0) {
        size_t len = strlen(s->daemon);
        memcpy(name, s->daemon, len);
        memcpy(name + len, ".tags", sizeof(".tags"));
        r = bus_sub_open(bus, name, got_batch, s, &s->sub);
    }
    if (r < 0) {
        free(s);
        return r;
    }
    bus_sub_on_lost(s->sub, got_lost, s);
    r = bus_peer_watch(s->peer, got_presence, s);
    if (r < 0)
        return r; /* 's' is kept: its subscription is open */
    *ret_sub = s;
    return 0;
}

void
tag_sub_get_stats(const struct tag_sub *s, struct tag_sub_stats *ret_stats)
{
    *ret_stats = s->stats;
}
