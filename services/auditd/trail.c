#include "services/auditd/trail.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "gen/audit_events.h"
#include "libcommon/base.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

const char *const trail_dbs[TRAIL_N_DBS] = {
    [TRAIL_DB_RECORDS] = "records",   [TRAIL_DB_INDEX] = "index",
    [TRAIL_DB_SENDERS] = "senders",   [TRAIL_DB_CONFIG] = "config",
    [TRAIL_DB_MESSAGES] = "messages", [TRAIL_DB_TIMES] = "times",
    [TRAIL_DB_OUTBOX] = "outbox",
};

enum {
    /* What a record costs beyond its bytes: keys, nodes, pages not quite full, the index. */
    RECORD_OVERHEAD = 56,
    STATE_SIZE = 3 * 8 + 2 * TRAIL_HASH_SIZE,
};
static const char state_key[] = "state";

/* ---- the catalogue ---- */

#define CODE(id)                                                                               \
    ((uint32_t)(id)[0] << 24 | (uint32_t)(id)[1] << 16 | (uint32_t)(id)[2] << 8 |              \
     (uint32_t)(id)[3])
#define X(id, name, category, severity) { CODE(id), id, name, category, severity },
const struct trail_event trail_events[] = { AUDIT_EVENT_TABLE(X) };
#undef X
const size_t trail_n_events = ARRAY_LEN(trail_events);

enum { SLOTS = 1024 }; /* several times the catalogue: a query looks up a million codes */
_Static_assert(ARRAY_LEN(trail_events) < SLOTS / 2, "catalogue");

static size_t
slot_of(uint32_t code)
{
    return code * UINT32_C(2654435769) >> 22;
}

size_t
trail_event_by_code(uint32_t code)
{
    static uint16_t slots[SLOTS]; /* index + 1; 0: free */
    static bool is_filled;
    if (!is_filled) {
        for (size_t i = 0; i < trail_n_events; i++) {
            size_t at = slot_of(trail_events[i].code);
            while (slots[at])
                at = (at + 1) % SLOTS;
            slots[at] = (uint16_t)(i + 1);
        }
        is_filled = true;
    }
    for (size_t at = slot_of(code); slots[at]; at = (at + 1) % SLOTS)
        if (trail_events[slots[at] - 1].code == code)
            return slots[at] - 1u;
    return trail_n_events;
}

size_t
trail_event_by_name(const char *name, size_t len)
{
    for (size_t i = 0; len > 0 && i < trail_n_events; i++) {
        const char *event = trail_events[i].name;
        if (event[0] == name[0] && strlen(event) == len && memcmp(event, name, len) == 0)
            return i;
    }
    return trail_n_events;
}

const struct trail_event *
trail_event_of(const struct trail_record *r)
{
    static const struct trail_event unknown = { 0, "", "", "Maintenance", "notice" };
    size_t i = trail_event_by_code(r->event);
    return i < trail_n_events ? &trail_events[i] : &unknown;
}

struct trail_text
trail_name(const struct trail_record *r)
{
    const struct trail_event *e = trail_event_of(r);
    return e->name[0] ? (struct trail_text){ e->name, strlen(e->name) } : r->name;
}

void
trail_request_id(const struct trail_record *r, char ret_text[TRAIL_REQUEST_ID_SIZE])
{
    ret_text[0] = '\0';
    if (r->request_id)
        (void)snprintf(ret_text, TRAIL_REQUEST_ID_SIZE, "%016llx",
                       (unsigned long long)r->request_id); /* fits */
}

/* ---- bytes ---- */

uint64_t
trail_source_key(const char *source, size_t len)
{
    uint8_t hash[crypto_generichash_BYTES_MIN];
    crypto_generichash(hash, sizeof(hash), (const uint8_t *)source, len, NULL, 0);
    return get_u64(hash);
}

static void
chain(const uint8_t before[TRAIL_HASH_SIZE], uint64_t id, const void *value, size_t size,
      uint8_t ret_hash[TRAIL_HASH_SIZE])
{
    uint8_t key[8];
    crypto_generichash_state h;
    crypto_generichash_init(&h, NULL, 0, TRAIL_HASH_SIZE);
    crypto_generichash_update(&h, before, TRAIL_HASH_SIZE);
    crypto_generichash_update(&h, store_key_u64(key, id), sizeof(key));
    crypto_generichash_update(&h, value, size);
    crypto_generichash_final(&h, ret_hash, TRAIL_HASH_SIZE);
}

/* Cut to 'max' bytes, not inside a character. */
static struct trail_text
cut(struct trail_text t, size_t max)
{
    t.len = utf8_cut(t.p, t.len, max);
    return t;
}

static void
put_text8(struct buf *b, struct trail_text t, size_t max)
{
    t = cut(t, max);
    buf_put_str8(b, t.p, t.len);
}

static void
put_text16(struct buf *b, struct trail_text t, size_t max)
{
    t = cut(t, max);
    buf_put_str16(b, t.p, t.len);
}

int
trail_decode(uint64_t id, const void *value, size_t size, struct trail_record *ret_record)
{
    struct rd r;
    struct trail_record t = { .id = id };
    rd_init(&r, value, size);
    t.event = rd_u32(&r);
    t.source_key = rd_u64(&r);
    t.at_us = (int64_t)rd_u64(&r);
    t.request_id = rd_u64(&r);
    t.name.p = rd_str8(&r, &t.name.len);
    t.daemon.p = rd_str8(&r, &t.daemon.len);
    t.addr.p = rd_str8(&r, &t.addr.len);
    t.source.p = rd_str16(&r, &t.source.len);
    t.message.p = rd_str16(&r, &t.message.len);
    t.detail.p = rd_str16(&r, &t.detail.len);
    t.hash = rd_bytes(&r, TRAIL_HASH_SIZE);
    if (!rd_ended(&r))
        return -EPROTO;
    *ret_record = t;
    return STORE_OK;
}

int
trail_get(struct store_txn *txn, uint64_t id, struct trail_record *ret_record)
{
    uint8_t key[8];
    const void *value;
    size_t size;
    int r =
        store_get(txn, TRAIL_DB_RECORDS, store_key_u64(key, id), sizeof(key), &value, &size);
    return r == STORE_OK ? trail_decode(id, value, size, ret_record) : r;
}

/* ---- state ---- */

int
trail_load(struct store_txn *txn, struct trail_state *ret_state)
{
    const void *value;
    size_t size;
    int r = store_get(txn, TRAIL_DB_CONFIG, state_key, strlen(state_key), &value, &size);
    if (r < 0)
        return r;
    struct trail_state s = { .next_id = 1 };
    if (r == STORE_OK) {
        if (size != STATE_SIZE)
            return -EPROTO;
        const uint8_t *p = value;
        s.next_id = get_u64(p);
        s.n = get_u64(p + 8);
        s.bytes = get_u64(p + 16);
        memcpy(s.last_hash, p + 24, TRAIL_HASH_SIZE);
        memcpy(s.base_hash, p + 24 + TRAIL_HASH_SIZE, TRAIL_HASH_SIZE);
    }
    *ret_state = s;
    return 0;
}

static int
save_state(struct store_txn *txn, const struct trail_state *s)
{
    uint8_t v[STATE_SIZE];
    put_u64(v, s->next_id);
    put_u64(v + 8, s->n);
    put_u64(v + 16, s->bytes);
    memcpy(v + 24, s->last_hash, TRAIL_HASH_SIZE);
    memcpy(v + 24 + TRAIL_HASH_SIZE, s->base_hash, TRAIL_HASH_SIZE);
    return store_put(txn, TRAIL_DB_CONFIG, state_key, strlen(state_key), v, sizeof(v));
}

/* What a record takes in all tables; its message may be there a second time. */
static uint64_t
bytes_of(size_t value_size, size_t message_len)
{
    return value_size + message_len + RECORD_OVERHEAD;
}

int
trail_migrate(struct store_txn *txn, uint32_t from)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    struct trail_state s = { 0 };
    struct trail_record t;
    if (from != 1)
        return -EPROTO;
    int r = store_clear(txn, TRAIL_DB_TIMES);
    if (r == 0)
        r = trail_load(txn, &s);
    if (r == 0)
        r = store_iter_init(&it, txn, TRAIL_DB_RECORDS, NULL, 0, false);
    s.bytes = 0; /* counted anew */
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        r = trail_decode(store_u64_key(it.key), it.value, it.size, &t);
        if (r == 0)
            s.bytes += bytes_of(it.size, t.message.len);
    }
    return r < 0 ? r : save_state(txn, &s);
}

/* ---- growing and shrinking ---- */

int
trail_append(struct store_txn *txn, struct trail_state *state, const struct trail_record *in)
{
    size_t index = trail_event_by_name(in->name.p, in->name.len);
    bool known = index < trail_n_events;
    struct trail_text source = cut(in->source, TRAIL_SOURCE_MAX);
    struct trail_text message = cut(in->message, TRAIL_MESSAGE_MAX);
    uint64_t source_key = trail_source_key(source.p, source.len);
    uint32_t event = known ? trail_events[index].code : 0;
    uint64_t id = state->next_id;

    struct buf b;
    buf_init(&b, TRAIL_VALUE_MAX);
    buf_put_u32(&b, event);
    buf_put_u64(&b, source_key);
    buf_put_u64(&b, (uint64_t)in->at_us);
    buf_put_u64(&b, in->request_id);
    put_text8(&b, known ? (struct trail_text){ "", 0 } : in->name, TRAIL_NAME_MAX);
    put_text8(&b, in->daemon, TRAIL_DAEMON_MAX);
    put_text8(&b, in->addr, TRAIL_ADDR_MAX);
    put_text16(&b, source, TRAIL_SOURCE_MAX);
    put_text16(&b, message, TRAIL_MESSAGE_MAX);
    put_text16(&b, in->detail, TRAIL_DETAIL_MAX);
    uint8_t hash[TRAIL_HASH_SIZE];
    if (!b.err)
        chain(state->last_hash, id, b.data, b.len, hash);
    buf_put(&b, hash, sizeof(hash));

    uint8_t key[8];
    const struct trail_record entry = {
        .id = id, .event = event, .source_key = source_key, .at_us = in->at_us
    };
    int r = b.err;
    if (r == 0)
        r = store_append(txn, TRAIL_DB_RECORDS, store_key_u64(key, id), sizeof(key), b.data,
                         b.len);
    if (r == 0)
        r = trail_index_add(txn, &entry);
    if (r == 0) {
        state->next_id++;
        state->n++;
        state->bytes += bytes_of(b.len, message.len);
        memcpy(state->last_hash, hash, sizeof(hash));
        r = save_state(txn, state);
    }
    buf_done(&b);
    return r;
}

int
trail_trim(struct store_txn *txn, struct trail_state *state, uint64_t bytes, int64_t before_us,
           unsigned most)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int r = store_iter_init(&it, txn, TRAIL_DB_RECORDS, NULL, 0, false), n = 0;
    while (r == 0 && (unsigned)n < most && (r = store_iter_next(&it)) == STORE_OK) {
        struct trail_record t;
        uint64_t id = store_u64_key(it.key);
        size_t size = it.size;
        r = trail_decode(id, it.value, it.size, &t);
        /* In order of arrival, so that what remains is a chain without gaps. */
        if (r < 0 || (state->bytes <= bytes && t.at_us >= before_us))
            break;
        memcpy(state->base_hash, t.hash, TRAIL_HASH_SIZE);
        r = trail_index_trim(txn, id);
        if (r >= 0)
            r = store_iter_del(&it);
        if (r < 0)
            break;
        r = 0;
        uint64_t took = bytes_of(size, t.message.len);
        state->bytes = state->bytes > took ? state->bytes - took : 0;
        state->n--;
        n++;
    }
    if (r >= 0 && n > 0)
        r = save_state(txn, state);
    return r < 0 ? r : n;
}

/* ---- checking ---- */

void
trail_check_begin(struct trail_check *c, const struct trail_state *state)
{
    *c = (struct trail_check){ .first_id = state->next_id - state->n,
                               .next_id = state->next_id - state->n,
                               .end_id = state->next_id };
    memcpy(c->hash, state->base_hash, TRAIL_HASH_SIZE);
    memcpy(c->end_hash, state->last_hash, TRAIL_HASH_SIZE);
}

static int
found_bad(struct trail_check *c, uint64_t id, const char *reason)
{
    c->bad_id = id;
    c->reason = reason;
    return TRAIL_CHECK_DONE;
}

/* TRAIL_CHECK_DONE when the record next_id - 1 is not the one noted elsewhere. */
static int
compare_noted(struct trail_check *c)
{
    if (c->since_id == 0 || c->since_id != c->next_id - 1)
        return TRAIL_CHECK_MORE;
    c->has_compared = true;
    if (sodium_memcmp(c->hash, c->since_hash, TRAIL_HASH_SIZE) == 0)
        return TRAIL_CHECK_MORE;
    return found_bad(c, c->since_id, "the record is not the one with that hash");
}

static int
check_record(struct trail_check *c, uint64_t id, const void *value, size_t size)
{
    struct trail_record t;
    uint8_t hash[TRAIL_HASH_SIZE];
    if (id != c->next_id)
        return found_bad(c, c->next_id, "a record is missing");
    if (trail_decode(id, value, size, &t) != STORE_OK)
        return found_bad(c, id, "the record cannot be read");
    chain(c->hash, id, value, size - TRAIL_HASH_SIZE, hash);
    if (sodium_memcmp(hash, t.hash, sizeof(hash)) != 0)
        return found_bad(c, id, "the record or the one before it was changed");
    memcpy(c->hash, hash, sizeof(hash));
    c->next_id++;
    c->n++;
    return compare_noted(c);
}

/* All records are good: is the newest the one that the state says, and was it ever newer? */
static int
check_end(struct trail_check *c)
{
    if (c->next_id > c->end_id) /* all of them were rotated away meanwhile */
        return TRAIL_CHECK_DONE;
    if (c->next_id < c->end_id)
        return found_bad(c, c->next_id, "a record is missing");
    if (sodium_memcmp(c->hash, c->end_hash, TRAIL_HASH_SIZE) != 0)
        return found_bad(c, c->end_id - 1, "the newest record is another one");
    if (c->since_id >= c->end_id)
        return found_bad(c, c->end_id, "a record is missing");
    return TRAIL_CHECK_DONE;
}

/* What was rotated away in the meantime is passed over. */
static void
pass_rotated(const struct trail_state *state, struct trail_check *c)
{
    uint64_t first_id = state->next_id - state->n;
    if (c->next_id >= first_id)
        return;
    c->first_id = c->next_id = first_id;
    c->n = 0;
    memcpy(c->hash, state->base_hash, TRAIL_HASH_SIZE);
}

int
trail_check_step(struct store_txn *txn, const struct trail_state *state, struct trail_check *c,
                 unsigned most)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    uint8_t key[8];
    pass_rotated(state, c);
    int done = compare_noted(c); /* it may be the last that was rotated away */
    int r = store_iter_init(&it, txn, TRAIL_DB_RECORDS, store_key_u64(key, c->next_id),
                            sizeof(key), false);
    for (unsigned i = 0; r == 0 && done == TRAIL_CHECK_MORE && i < most; i++) {
        r = c->next_id < c->end_id ? store_iter_next(&it) : STORE_NOT_FOUND;
        if (r == STORE_OK)
            done = check_record(c, store_u64_key(it.key), it.value, it.size);
    }
    if (r < 0)
        return r;
    return r == STORE_NOT_FOUND ? check_end(c) : done;
}
