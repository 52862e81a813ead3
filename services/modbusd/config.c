#include "services/modbusd/config.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "libcommon/banned.h"

enum { RUN = DB_ONE_RUN - DB_ONE, RECORD_MAX = 64 << 10 };

const char *const config_dbs[N_DBS] = {
    [DB_ONE] = "one",
    [DB_DEV] = "dev",
    [DB_CMD] = "cmd",
    [DB_TAG] = "tag",
    [DB_ONE_RUN] = "one-run",
    [DB_DEV_RUN] = "dev-run",
    [DB_CMD_RUN] = "cmd-run",
    [DB_TAG_RUN] = "tag-run",
    [DB_TOUCHED] = "touched",
    [DB_CMD_ID] = "cmd-id",
    [DB_TAG_ID] = "tag-id",
    [DB_DEV_NAME] = "dev-name",
    [DB_DEV_ADDR] = "dev-addr",
    [DB_CMD_NAME] = "cmd-name",
    [DB_TAG_NAME] = "tag-name",
    [DB_NOTES] = "notes",
    [DB_OUTBOX] = "outbox",
    [DB_SL_ONE] = "sl-one",
    [DB_ZONE] = "zone",
    [DB_SL_TAG] = "sl-tag",
    [DB_REF] = "ref",
    [DB_SL_ONE_RUN] = "sl-one-run",
    [DB_ZONE_RUN] = "zone-run",
    [DB_SL_TAG_RUN] = "sl-tag-run",
    [DB_REF_RUN] = "ref-run",
    [DB_SL_TOUCHED] = "sl-touched",
    [DB_ZONE_PLACE] = "zone-place",
    [DB_SL_TAG_ID] = "sl-tag-id",
    [DB_SL_TAG_NAME] = "sl-tag-name",
    [DB_REF_ID] = "ref-id",
    [DB_REF_NAME] = "ref-name",
};

static unsigned
touched_db(uint8_t kind)
{
    return kind >= KIND_SL_ONE ? DB_SL_TOUCHED : DB_TOUCHED;
}

/* ---- keys ---- */

static struct config_key
key_of(uint8_t kind, unsigned n, uint32_t a, uint32_t b, uint32_t c)
{
    struct config_key k = { .kind = kind, .size = (uint8_t)(4 * n) };
    put_u32(k.bytes, a);
    put_u32(k.bytes + 4, b);
    put_u32(k.bytes + 8, c);
    return k;
}

struct config_key
config_key_one(uint32_t which)
{
    return key_of(KIND_ONE, 1, which, 0, 0);
}

struct config_key
config_key_ser_iface(uint32_t id)
{
    return config_key_one(ONE_SER_IFACES + id);
}

struct config_key
config_key_dev(uint32_t dev)
{
    return key_of(KIND_DEV, 1, dev, 0, 0);
}

struct config_key
config_key_cmd(uint32_t dev, uint32_t cmd)
{
    return key_of(KIND_CMD, 2, dev, cmd, 0);
}

struct config_key
config_key_tag(uint32_t dev, uint32_t cmd, uint32_t tag)
{
    return key_of(KIND_TAG, 3, dev, cmd, tag);
}

struct config_key
config_key_sl_one(uint32_t which)
{
    return key_of(KIND_SL_ONE, 1, which, 0, 0);
}

struct config_key
config_key_zone(uint32_t zone)
{
    return key_of(KIND_ZONE, 1, zone, 0, 0);
}

struct config_key
config_key_in_zone(enum config_kind kind, uint32_t zone, uint32_t id)
{
    return key_of((uint8_t)kind, 2, zone, id, 0);
}

uint32_t
config_key_part(const struct config_key *k, unsigned i)
{
    return get_u32(k->bytes + 4 * i);
}

uint32_t
config_key_id(const struct config_key *k)
{
    return get_u32(k->bytes + k->size - 4);
}

int
config_key_of(uint8_t kind, const void *bytes, size_t size, struct config_key *ret_key)
{
    static const uint8_t parts[N_KINDS] = {
        [KIND_ONE] = 1,    [KIND_DEV] = 1,  [KIND_CMD] = 2,    [KIND_TAG] = 3,
        [KIND_SL_ONE] = 1, [KIND_ZONE] = 1, [KIND_SL_TAG] = 2, [KIND_REF] = 2,
    };
    if (kind >= N_KINDS || size != 4u * parts[kind])
        return -EPROTO;
    *ret_key = (struct config_key){ .kind = kind, .size = (uint8_t)size };
    memcpy(ret_key->bytes, bytes, size);
    return 0;
}

struct record_kind {
    const struct api_desc *desc;
    /* The last member of the schema: kept out of records, put in when shown. */
    const char *list;
};

static const struct record_kind *
kind_of(const struct config_key *key)
{
    static const struct record_kind kinds[] = {
        [KIND_DEV] = { &remote_dev_desc, "mcmds" },
        [KIND_CMD] = { &mcmd_desc, "tags" },
        [KIND_TAG] = { &tag_for_mcmds_desc, NULL },
        [KIND_ZONE] = { &szone_desc, "tags\":[],\"refTags" },
        [KIND_SL_TAG] = { &tag_for_szone_desc, NULL },
        [KIND_REF] = { &ref_tag_desc, NULL },
    };
    static const struct record_kind slave = { &tcp_slave_desc, "szones" };
    static const struct record_kind slave_params = { &slave_param_desc, NULL };
    static const struct record_kind one_ser_slave = { &ser_slave_desc, NULL };
    static const struct record_kind tcp_iface = { &master_tcp_iface_desc, "remoteDevs" };
    static const struct record_kind tcp_master = { &tcp_master_desc, "masterTcpIfaces" };
    static const struct record_kind params = { &master_param_desc, NULL };
    static const struct record_kind ser_iface = { &master_ser_iface_desc, "remoteDevs" };
    static const struct record_kind ser_master = { &ser_master_desc, "masterSerIfaces" };
    if (key->kind == KIND_SL_ONE)
        return config_key_id(key) == SL_ONE_SLAVE    ? &slave
               : config_key_id(key) == SL_ONE_PARAMS ? &slave_params
                                                     : &one_ser_slave;
    if (key->kind != KIND_ONE)
        return &kinds[key->kind];
    switch (config_key_id(key)) {
    case ONE_IFACE:
        return &tcp_iface;
    case ONE_MASTER:
        return &tcp_master;
    case ONE_PARAMS:
        return &params;
    case ONE_SER_MASTER:
        return &ser_master;
    default:
        return &ser_iface;
    }
}

static const struct api_desc *
desc_of(const struct config_key *key)
{
    return kind_of(key)->desc;
}

/* The table of a kind's own numbers; 0: its keys are these. */
static unsigned
id_db(unsigned kind)
{
    static const unsigned dbs[N_KINDS] = {
        [KIND_CMD] = DB_CMD_ID,
        [KIND_TAG] = DB_TAG_ID,
        [KIND_SL_TAG] = DB_SL_TAG_ID,
        [KIND_REF] = DB_REF_ID,
    };
    return dbs[kind];
}

static int
find_by_id(struct store_txn *txn, unsigned db, uint8_t kind, uint32_t id,
           struct config_key *ret_key)
{
    uint8_t bytes[4];
    const void *value;
    size_t size;
    put_u32(bytes, id);
    int r = store_get(txn, db, bytes, sizeof(bytes), &value, &size);
    return r != 0 ? r : config_key_of(kind, value, size, ret_key);
}

int
config_find_cmd(struct store_txn *txn, uint32_t cmd, struct config_key *ret_key)
{
    return find_by_id(txn, DB_CMD_ID, KIND_CMD, cmd, ret_key);
}

int
config_find_tag(struct store_txn *txn, uint32_t tag, struct config_key *ret_key)
{
    return find_by_id(txn, DB_TAG_ID, KIND_TAG, tag, ret_key);
}

int
config_find_in_zone(struct store_txn *txn, enum config_kind kind, uint32_t id,
                    struct config_key *ret_key)
{
    return find_by_id(txn, id_db(kind), (uint8_t)kind, id, ret_key);
}

int
config_get(struct api_arena *a, struct store_txn *txn, const struct config_key *key,
           void *ret_record)
{
    return api_store_get(a, txn, DB_ONE + key->kind, key->bytes, key->size, desc_of(key),
                         ret_record);
}

/* ---- indexes ---- */

/* An index entry: table and key; the value is a number or, for *_ID, the record's key. */
struct entry {
    unsigned db;
    size_t size;
    uint8_t bytes[STORE_KEY_MAX];
};

static void
entry_named(struct entry *e, unsigned db, const uint32_t *dev, const char *name)
{
    size_t at = 0, len = strlen(name);
    e->db = db;
    if (dev) {
        put_u32(e->bytes, *dev);
        at = 4;
    }
    MUST(at + len <= sizeof(e->bytes));
    memcpy(e->bytes + at, name, len);
    e->size = at + len;
}

/* Serial devices are apart: no name or address begins like this. */
#define SERIAL_MARK "|"

static void
entry_dev_name(struct entry *e, const char *name, bool serial)
{
    entry_named(e, DB_DEV_NAME, NULL, serial ? SERIAL_MARK : "");
    size_t len = strlen(name);
    MUST(e->size + len <= sizeof(e->bytes));
    memcpy(e->bytes + e->size, name, len);
    e->size += len;
}

static void
entry_addr(struct entry *e, const struct remote_dev *dev)
{
    struct mb_address address;
    e->db = DB_DEV_ADDR;
    if (dev->has_master_ser_iface_id) {
        int size = snprintf((char *)e->bytes, sizeof(e->bytes), SERIAL_MARK "%d|%d",
                            (int)dev->master_ser_iface_id, (int)dev->slave_id);
        e->size = (size_t)size; /* fits */
        return;
    }
    const char *text = dev->slave_ipaddr;
    if (mb_address_parse(text, (uint16_t)dev->slave_tcp_port, &address) == 0)
        text = address.text;
    int n = snprintf((char *)e->bytes, sizeof(e->bytes), "%s|%d|%d", text,
                     (int)dev->slave_tcp_port, (int)dev->slave_id);
    MUST(n > 0 && n < (int)sizeof(e->bytes));
    e->size = (size_t)n;
}

static void
entry_ref(struct entry *e, const struct ref_tag *ref)
{
    int n = snprintf((char *)e->bytes, sizeof(e->bytes), "%s/%s/%s", ref->prvd_name,
                     ref->src_name, ref->tag_name);
    MUST(n > 0 && n < (int)sizeof(e->bytes));
    e->db = DB_REF_NAME;
    e->size = (size_t)n;
}

static void
entry_place(struct entry *e, const struct config_key *key, const struct szone *zone)
{
    e->db = DB_ZONE_PLACE;
    e->size = 12;
    put_u32(e->bytes, (uint32_t)zone->data_format);
    put_u32(e->bytes + 4, (uint32_t)zone->address);
    put_u32(e->bytes + 8, zone->address < 0 ? config_key_id(key) : (uint32_t)zone->quan);
}

static int
entry_get(struct store_txn *txn, const struct entry *e, uint32_t *ret_id)
{
    const void *value;
    size_t size;
    int r = store_get(txn, e->db, e->bytes, e->size, &value, &size);
    if (r != 0)
        return r;
    if (size != 4)
        return -EPROTO;
    *ret_id = get_u32(value);
    return 0;
}

/* The entries of a record: 'names' at most two; returns how many. */
static size_t
entries_of(const struct config_key *key, const void *record, struct entry names[2])
{
    uint32_t dev = config_key_part(key, 0);
    const struct remote_dev *device = record;
    switch (key->kind) {
    case KIND_DEV:
        entry_dev_name(&names[0], device->name, device->has_master_ser_iface_id);
        entry_addr(&names[1], device);
        return 2;
    case KIND_CMD:
        entry_named(&names[0], DB_CMD_NAME, &dev, ((const struct mcmd *)record)->name);
        return 1;
    case KIND_TAG:
        entry_named(&names[0], DB_TAG_NAME, &dev, ((const struct tag_for_mcmds *)record)->name);
        return 1;
    case KIND_ZONE:
        entry_place(&names[0], key, record);
        return 1;
    case KIND_SL_TAG:
        entry_named(&names[0], DB_SL_TAG_NAME, NULL,
                    ((const struct tag_for_szone *)record)->name);
        return 1;
    case KIND_REF:
        entry_ref(&names[0], record);
        return 1;
    default:
        return 0;
    }
}

static int
index_add(struct store_txn *txn, const struct config_key *key, const void *record)
{
    struct entry names[2];
    uint8_t id[4];
    put_u32(id, config_key_id(key));
    size_t n = entries_of(key, record, names);
    for (size_t i = 0; i < n; i++) {
        int r = store_put(txn, names[i].db, names[i].bytes, names[i].size, id, sizeof(id));
        if (r < 0)
            return r;
    }
    unsigned by_id = id_db(key->kind);
    return by_id ? store_put(txn, by_id, id, sizeof(id), key->bytes, key->size) : 0;
}

static int
index_del(struct store_txn *txn, const struct config_key *key, const void *record)
{
    struct entry names[2];
    uint8_t id[4];
    put_u32(id, config_key_id(key));
    size_t n = entries_of(key, record, names);
    for (size_t i = 0; i < n; i++) {
        int r = store_del(txn, names[i].db, names[i].bytes, names[i].size);
        if (r < 0)
            return r;
    }
    unsigned by_id = id_db(key->kind);
    int r = by_id ? store_del(txn, by_id, id, sizeof(id)) : 0;
    return r < 0 ? r : 0;
}

int
config_dev_named(struct store_txn *txn, const char *name, uint32_t *ret_id)
{
    struct entry e;
    entry_dev_name(&e, name, false);
    return entry_get(txn, &e, ret_id);
}

int
config_ser_dev_named(struct store_txn *txn, const char *name, uint32_t *ret_id)
{
    struct entry e;
    entry_dev_name(&e, name, true);
    return entry_get(txn, &e, ret_id);
}

int
config_dev_at(struct store_txn *txn, const struct remote_dev *dev, uint32_t *ret_id)
{
    struct entry e;
    entry_addr(&e, dev);
    return entry_get(txn, &e, ret_id);
}

int
config_cmd_named(struct store_txn *txn, uint32_t dev, const char *name, uint32_t *ret_id)
{
    struct entry e;
    entry_named(&e, DB_CMD_NAME, &dev, name);
    return entry_get(txn, &e, ret_id);
}

int
config_tag_named(struct store_txn *txn, uint32_t dev, const char *name, uint32_t *ret_id)
{
    struct entry e;
    entry_named(&e, DB_TAG_NAME, &dev, name);
    return entry_get(txn, &e, ret_id);
}

int
config_sl_tag_named(struct store_txn *txn, const char *name, uint32_t *ret_id)
{
    struct entry e;
    entry_named(&e, DB_SL_TAG_NAME, NULL, name);
    return entry_get(txn, &e, ret_id);
}

int
config_ref_to(struct store_txn *txn, const struct ref_tag *ref, uint32_t *ret_id)
{
    struct entry e;
    entry_ref(&e, ref);
    return entry_get(txn, &e, ret_id);
}

int
config_next_id(struct store_txn *txn, enum config_kind kind, uint32_t *ret_id)
{
    static const char *const names[N_KINDS] = {
        [KIND_DEV] = "next-dev",   [KIND_CMD] = "next-cmd",       [KIND_TAG] = "next-tag",
        [KIND_ZONE] = "next-zone", [KIND_SL_TAG] = "next-sl-tag", [KIND_REF] = "next-ref",
    };
    const char *name = names[kind];
    const void *value;
    size_t size;
    uint32_t next = 1;
    int r = store_get(txn, DB_ONE, name, strlen(name), &value, &size);
    if (r < 0)
        return r;
    if (r == 0)
        next = size == 4 ? get_u32(value) : 0;
    if (next == 0 || next >= MB_STATUS_TAG_BASE)
        return -EOVERFLOW;
    uint8_t bytes[4];
    put_u32(bytes, next + 1);
    r = store_put(txn, DB_ONE, name, strlen(name), bytes, sizeof(bytes));
    if (r == 0)
        *ret_id = next;
    return r;
}

/* ---- records ---- */

static void
touched_key(const struct config_key *key, uint8_t out[13])
{
    out[0] = key->kind;
    memcpy(out + 1, key->bytes, key->size);
}

/* Remembers whether the staged record ('text' NULL: none) differs from the running one. */
static int
touch(struct store_txn *txn, const struct config_key *key, const void *text, size_t n)
{
    const void *run;
    size_t run_size;
    uint8_t touched[13];
    touched_key(key, touched);
    int r = store_get(txn, DB_ONE_RUN + key->kind, key->bytes, key->size, &run, &run_size);
    if (r < 0)
        return r;
    bool same = r == STORE_NOT_FOUND ? text == NULL
                                     : text && run_size == n && memcmp(run, text, n) == 0;
    unsigned db = touched_db(key->kind);
    if (!same)
        return store_put(txn, db, touched, 1u + key->size, "", 0);
    r = store_del(txn, db, touched, 1u + key->size);
    return r < 0 ? r : 0;
}

/* The record as JSON without its nested list. */
static int
encode(const struct config_key *key, const void *record, struct buf *b)
{
    const char *list = kind_of(key)->list;
    char tail[40];
    api_encode(b, desc_of(key), record, false);
    if (b->err)
        return b->err;
    if (!list)
        return 0;
    (void)snprintf(tail, sizeof(tail), ",\"%s\":[]}", list); /* fits: those of kind_of */
    size_t n = strlen(tail);
    MUST(b->len > n && memcmp(b->data + b->len - n, tail, n) == 0);
    b->len -= n;
    buf_putc(b, '}');
    return b->err;
}

int
config_put(struct api_arena *a, struct store_txn *txn, const struct config_key *key,
           const void *record)
{
    const struct api_desc *desc = desc_of(key);
    void *old = api_arena_alloc(a, desc->size);
    if (!old)
        return -ENOMEM;
    int r = config_get(a, txn, key, old);
    if (r == 0)
        r = index_del(txn, key, old);
    if (r < 0)
        return r;
    struct buf b;
    buf_init(&b, RECORD_MAX);
    r = encode(key, record, &b);
    if (r == 0)
        r = touch(txn, key, b.data, b.len);
    if (r == 0)
        r = store_put(txn, DB_ONE + key->kind, key->bytes, key->size, b.data, b.len);
    buf_done(&b);
    return r != 0 ? r : index_add(txn, key, record);
}

static int
del_one(struct api_arena *a, struct store_txn *txn, const struct config_key *key)
{
    void *old = api_arena_alloc(a, desc_of(key)->size);
    if (!old)
        return -ENOMEM;
    int r = config_get(a, txn, key, old);
    if (r != 0)
        return r;
    r = index_del(txn, key, old);
    if (r == 0)
        r = store_del(txn, DB_ONE + key->kind, key->bytes, key->size);
    if (r == 0)
        r = touch(txn, key, NULL, 0);
    return r;
}

/* The first record of 'kind' below 'key'. */
static int
first_below(struct store_txn *txn, const struct config_key *key, uint8_t kind,
            struct config_key *ret_key)
{
    struct store_iter it;
    int r = store_iter_init(&it, txn, DB_ONE + kind, key->bytes, key->size, false);
    if (r < 0)
        return r;
    r = store_iter_next(&it);
    if (r == 0 && (it.key_size < key->size || memcmp(it.key, key->bytes, key->size) != 0))
        r = STORE_NOT_FOUND;
    if (r == 0)
        r = config_key_of(kind, it.key, it.key_size, ret_key);
    store_iter_done(&it);
    return r;
}

/* Do records of 'kind' hang below one of kind 'of'? */
static bool
hangs_below(uint8_t kind, uint8_t of)
{
    return kind > KIND_TAG ? of == KIND_ZONE && kind > KIND_ZONE : kind > of;
}

int
config_del_below(struct store_txn *txn, const struct config_key *key)
{
    for (uint8_t kind = N_KINDS - 1; kind > key->kind; kind--)
        while (hangs_below(kind, key->kind)) {
            struct config_key below;
            int r = first_below(txn, key, kind, &below);
            if (r == STORE_NOT_FOUND)
                break;
            /* What is decoded for the indexes is small, but may be many. */
            CLEANUP(api_arena_freep) struct api_arena *one = api_arena_new(RECORD_MAX * 4);
            if (r == 0)
                r = one ? del_one(one, txn, &below) : -ENOMEM;
            if (r != 0)
                return r < 0 ? r : -EPROTO;
        }
    return 0;
}

int
config_del(struct api_arena *a, struct store_txn *txn, const struct config_key *key)
{
    int r = config_del_below(txn, key);
    return r < 0 ? r : del_one(a, txn, key);
}

/* Every running record of this kind differs now: there is no staged one. */
static int
touch_all(struct store_txn *txn, uint8_t kind)
{
    struct store_iter it;
    unsigned db = touched_db(kind);
    int r = store_iter_init(&it, txn, db, &kind, 1, false);
    if (r < 0)
        return r;
    while ((r = store_iter_next(&it)) == STORE_OK && ((const uint8_t *)it.key)[0] == kind)
        if ((r = store_iter_del(&it)) < 0)
            break;
    store_iter_done(&it);
    if (r < 0)
        return r;
    r = store_iter_init(&it, txn, DB_ONE_RUN + kind, NULL, 0, false);
    if (r < 0)
        return r;
    while ((r = store_iter_next(&it)) == STORE_OK) {
        uint8_t touched[13] = { kind };
        if (it.key_size > sizeof(touched) - 1) {
            r = -EPROTO;
            break;
        }
        size_t n = it.key_size;
        memcpy(touched + 1, it.key, n);
        r = store_put(txn, db, touched, 1 + n, "", 0);
        if (r < 0)
            break;
    }
    store_iter_done(&it);
    return r < 0 ? r : 0;
}

int
config_del_all(struct store_txn *txn, enum config_kind kind)
{
    static const struct {
        uint8_t kind;
        uint8_t dbs[4];
    } tables[] = {
        { KIND_TAG, { DB_TAG, DB_TAG_ID, DB_TAG_NAME, 0 } },
        { KIND_CMD, { DB_CMD, DB_CMD_ID, DB_CMD_NAME, 0 } },
        { KIND_DEV, { DB_DEV, DB_DEV_NAME, DB_DEV_ADDR, 0 } },
        { KIND_REF, { DB_REF, DB_REF_ID, DB_REF_NAME, 0 } },
        { KIND_SL_TAG, { DB_SL_TAG, DB_SL_TAG_ID, DB_SL_TAG_NAME, 0 } },
        { KIND_ZONE, { DB_ZONE, DB_ZONE_PLACE, 0 } },
    };
    for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
        if (tables[i].kind != kind && !hangs_below(tables[i].kind, (uint8_t)kind))
            continue;
        for (const uint8_t *db = tables[i].dbs; *db; db++) {
            int r = store_clear(txn, *db);
            if (r < 0)
                return r;
        }
        int r = touch_all(txn, tables[i].kind);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- apply and undo ---- */

static unsigned
touched_of(enum config_side side)
{
    return side == SIDE_MASTER ? DB_TOUCHED : DB_SL_TOUCHED;
}

int
config_count_touched(struct store_txn *txn, enum config_side side, uint64_t *ret_n)
{
    return store_count(txn, touched_of(side), ret_n);
}

static int
copy_record(struct store_txn *txn, const struct config_key *key, unsigned from, unsigned to)
{
    const void *value;
    size_t size;
    int r = store_get(txn, from + key->kind, key->bytes, key->size, &value, &size);
    if (r < 0)
        return r;
    if (r == STORE_NOT_FOUND) {
        r = store_del(txn, to + key->kind, key->bytes, key->size);
        return r < 0 ? r : 0;
    }
    /* The bytes are in the map, which a write may move. */
    void *copy = malloc(size);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, value, size);
    r = store_put(txn, to + key->kind, key->bytes, key->size, copy, size);
    free(copy);
    return r;
}

int
config_ensure(struct api_arena *a, struct store_txn *txn, const struct config_key *key,
              const void *record)
{
    const void *value;
    size_t size;
    uint8_t touched[13];
    int r = store_get(txn, DB_ONE + key->kind, key->bytes, key->size, &value, &size);
    if (r != STORE_NOT_FOUND)
        return r;
    r = config_put(a, txn, key, record);
    if (r == 0)
        r = copy_record(txn, key, DB_ONE, DB_ONE_RUN);
    if (r < 0)
        return r;
    touched_key(key, touched);
    r = store_del(txn, touched_db(key->kind), touched, 1u + key->size);
    return r < 0 ? r : 0;
}

/* ---- single records ---- */

union one {
    struct master_tcp_iface iface;
    struct tcp_master master;
    struct master_param params;
    struct ser_master ser_master;
    struct master_ser_iface ser_iface;
};

static int
default_one(struct api_arena *a, uint32_t which, union one *ret_one)
{
    struct config_key key = config_key_one(which);
    int r = api_defaults(a, desc_of(&key), ret_one);
    if (r < 0)
        return r;
    switch (which) {
    case ONE_IFACE:
        ret_one->iface.has_master_tcp_iface_id = true;
        ret_one->iface.master_tcp_iface_id = MODBUSD_IFACE_ID;
        ret_one->iface.tcp_master_id = MODBUSD_MASTER_ID;
        break;
    case ONE_MASTER:
        ret_one->master.has_tcp_master_id = ret_one->master.has_config_id = true;
        ret_one->master.tcp_master_id = MODBUSD_MASTER_ID;
        ret_one->master.config_id = MODBUSD_CONFIG_ID;
        break;
    case ONE_PARAMS:
        ret_one->params.has_master_param_id = ret_one->params.has_config_id = true;
        ret_one->params.master_param_id = MODBUSD_PARAMS_ID;
        ret_one->params.config_id = MODBUSD_CONFIG_ID;
        break;
    case ONE_SER_MASTER:
        ret_one->ser_master.has_ser_master_id = ret_one->ser_master.has_config_id = true;
        ret_one->ser_master.ser_master_id = MODBUSD_MASTER_ID;
        ret_one->ser_master.config_id = MODBUSD_CONFIG_ID;
        break;
    default:
        ret_one->ser_iface.has_master_ser_iface_id = true;
        ret_one->ser_iface.master_ser_iface_id = which - ONE_SER_IFACES;
        ret_one->ser_iface.ser_master_id = MODBUSD_MASTER_ID;
        ret_one->ser_iface.port_value = which - ONE_SER_IFACES - 1;
        break;
    }
    return 0;
}

static int
ensure_one(struct api_arena *a, struct store_txn *txn, uint32_t which)
{
    union one one;
    struct config_key key = config_key_one(which);
    int r = default_one(a, which, &one);
    return r < 0 ? r : config_ensure(a, txn, &key, &one);
}

int
config_ensure_defaults(struct api_arena *a, struct store_txn *txn)
{
    int r = ensure_one(a, txn, ONE_IFACE);
    if (r == 0)
        r = ensure_one(a, txn, ONE_MASTER);
    if (r == 0)
        r = ensure_one(a, txn, ONE_PARAMS);
    return r == 0 ? ensure_one(a, txn, ONE_SER_MASTER) : r;
}

int
config_ensure_ser_iface(struct api_arena *a, struct store_txn *txn, uint32_t port_value)
{
    return ensure_one(a, txn, ONE_SER_IFACES + port_value + 1);
}

/* One that is there. */
static int
reset_one(struct api_arena *a, struct store_txn *txn, uint32_t which)
{
    union one one;
    const void *value;
    size_t size;
    struct config_key key = config_key_one(which);
    int r = store_get(txn, DB_ONE, key.bytes, key.size, &value, &size);
    if (r != STORE_OK)
        return r < 0 ? r : 0;
    r = default_one(a, which, &one);
    return r < 0 ? r : config_put(a, txn, &key, &one);
}

int
config_reset(struct api_arena *a, struct store_txn *txn)
{
    static const uint32_t ones[] = { ONE_IFACE, ONE_MASTER, ONE_PARAMS, ONE_SER_MASTER };
    int r = config_del_all(txn, KIND_DEV);
    for (size_t i = 0; i < ARRAY_LEN(ones) && r == 0; i++)
        r = reset_one(a, txn, ones[i]);
    for (uint32_t id = 1; id <= SERIAL_PORTS_MAX && r == 0; id++)
        r = reset_one(a, txn, ONE_SER_IFACES + id);
    return r;
}

static int
next_touched(struct store_iter *it, struct config_key *ret_key)
{
    int r = store_iter_next(it);
    if (r != 0)
        return r;
    if (it->key_size < 5)
        return -EPROTO;
    const uint8_t *bytes = it->key;
    return config_key_of(bytes[0], bytes + 1, it->key_size - 1, ret_key);
}

int
config_apply(struct store_txn *txn, enum config_side side,
             int (*changed)(void *arg, uint32_t dev), void *arg)
{
    struct store_iter it;
    struct config_key key;
    int r = store_iter_init(&it, txn, touched_of(side), NULL, 0, false);
    if (r < 0)
        return r;
    while ((r = next_touched(&it, &key)) == STORE_OK) {
        r = copy_record(txn, &key, DB_ONE, DB_ONE_RUN);
        if (r == 0 && changed)
            r = changed(arg, key.kind == KIND_ONE ? 0 : config_key_part(&key, 0));
        if (r < 0)
            break;
    }
    store_iter_done(&it);
    return r < 0 ? r : store_clear(txn, touched_of(side));
}

/* One touched record back to what is running. */
static int
undo_one(struct store_txn *txn, const struct config_key *key, bool put)
{
    CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(RECORD_MAX * 4);
    void *record = a ? api_arena_alloc(a, desc_of(key)->size) : NULL;
    if (!record)
        return -ENOMEM;
    if (!put) {
        int r = config_get(a, txn, key, record);
        if (r != 0)
            return r < 0 ? r : 0;
        r = index_del(txn, key, record);
        return r < 0 ? r : store_del(txn, DB_ONE + key->kind, key->bytes, key->size);
    }
    int r = api_store_get(a, txn, DB_ONE_RUN + key->kind, key->bytes, key->size, desc_of(key),
                          record);
    if (r != 0)
        return r < 0 ? r : 0;
    r = copy_record(txn, key, DB_ONE_RUN, DB_ONE);
    return r < 0 ? r : index_add(txn, key, record);
}

int
config_undo(struct store_txn *txn, enum config_side side)
{
    /* First all out, then all in: names may have been exchanged between records. */
    for (int put = 0; put <= 1; put++) {
        struct store_iter it;
        struct config_key key;
        int r = store_iter_init(&it, txn, touched_of(side), NULL, 0, false);
        if (r < 0)
            return r;
        while ((r = next_touched(&it, &key)) == STORE_OK)
            if ((r = undo_one(txn, &key, put)) < 0)
                break;
        store_iter_done(&it);
        if (r < 0)
            return r;
    }
    return store_clear(txn, touched_of(side));
}

/* ---- JSON ---- */

/* A record without its closing brace, and the head of its nested list. */
static void
put_open(struct buf *b, const char *text, size_t n, const char *list)
{
    buf_put(b, text, n - 1);
    buf_puts(b, ",\"");
    buf_puts(b, list);
    buf_puts(b, "\":[");
}

static int write_below(struct store_txn *txn, const struct config_key *key, uint8_t kind,
                       struct buf *b);
static int write_in_one(struct store_txn *txn, uint32_t which, struct buf *b);

static int
write_zone(struct store_txn *txn, const struct config_key *key, const void *text, size_t n,
           struct buf *b)
{
    put_open(b, text, n, "tags");
    int r = write_below(txn, key, KIND_SL_TAG, b);
    buf_puts(b, "],\"refTags\":[");
    if (r == 0)
        r = write_below(txn, key, KIND_REF, b);
    buf_puts(b, "]}");
    return r;
}

static int
write_slave(struct store_txn *txn, const void *text, size_t n, struct buf *b)
{
    uint64_t n_zones;
    buf_put(b, text, n - 1);
    buf_printf(b, ",\"maxRefTagQuan\":%d,\"maxRefTagByte\":0,", MODBUSD_REFS_MAX);
    buf_printf(b, "\"maxTagAndRefTagQuan\":%d,", MODBUSD_SL_TAGS_MAX + MODBUSD_REFS_MAX);
    buf_printf(b, "\"maxTagAndRefTagByte\":0,\"customTagSrcName\":\"%s\",\"szones\":[",
               MODBUSD_SL_SOURCE);
    int r = config_write_all(txn, KIND_ZONE, b, &n_zones);
    buf_puts(b, "]}");
    return r;
}

static int
write_record(struct store_txn *txn, const struct config_key *key, const void *text, size_t n,
             struct buf *b)
{
    const char *list = kind_of(key)->list;
    if (n < 2)
        return -EPROTO;
    if (key->kind == KIND_ZONE)
        return write_zone(txn, key, text, n, b);
    if (key->kind == KIND_SL_ONE && list)
        return write_slave(txn, text, n, b);
    if (!list) {
        buf_put(b, text, n);
        return 0;
    }
    put_open(b, text, n, list);
    int r = key->kind == KIND_ONE ? write_in_one(txn, config_key_id(key), b)
                                  : write_below(txn, key, key->kind + 1, b);
    buf_puts(b, "]}");
    return r;
}

static int
write_below(struct store_txn *txn, const struct config_key *key, uint8_t kind, struct buf *b)
{
    struct store_iter it;
    int r = store_iter_init(&it, txn, DB_ONE + kind, key->size ? key->bytes : NULL, key->size,
                            false);
    if (r < 0)
        return r;
    bool first = true;
    while ((r = store_iter_next(&it)) == STORE_OK) {
        struct config_key below;
        if (it.key_size < key->size || memcmp(it.key, key->bytes, key->size) != 0)
            break;
        r = config_key_of(kind, it.key, it.key_size, &below);
        if (r == 0 && !first)
            buf_putc(b, ',');
        first = false;
        if (r == 0)
            r = write_record(txn, &below, it.value, it.size, b);
        if (r < 0)
            break;
    }
    store_iter_done(&it);
    return r < 0 ? r : b->err;
}

/* The serial interface that the record of a device names; 0: none. The text is our own. */
static uint32_t
serial_iface_of(const char *text, size_t n)
{
    static const char member[] = "\"masterSerIfaceId\":";
    uint32_t id = 0;
    const char *at = memmem(text, n, member, sizeof(member) - 1);
    if (!at)
        return 0;
    for (at += sizeof(member) - 1; at < text + n && *at >= '0' && *at <= '9'; at++)
        id = id * 10 + (uint32_t)(*at - '0');
    return id;
}

int
config_ser_iface_has_devs(struct store_txn *txn, uint32_t id)
{
    struct store_iter it;
    int has = 0, r = store_iter_init(&it, txn, DB_DEV, NULL, 0, false);
    if (r < 0)
        return r;
    while (!has && (r = store_iter_next(&it)) == STORE_OK)
        has = serial_iface_of(it.value, it.size) == id;
    store_iter_done(&it);
    return r < 0 ? r : has;
}

/* The devices on a serial interface; 0: those of TCP. */
static int
write_devs(struct store_txn *txn, uint32_t serial_iface, struct buf *b)
{
    struct store_iter it;
    int r = store_iter_init(&it, txn, DB_DEV, NULL, 0, false);
    if (r < 0)
        return r;
    bool first = true;
    while ((r = store_iter_next(&it)) == STORE_OK) {
        struct config_key dev;
        if (serial_iface_of(it.value, it.size) != serial_iface)
            continue;
        r = config_key_of(KIND_DEV, it.key, it.key_size, &dev);
        if (r == 0 && !first)
            buf_putc(b, ',');
        first = false;
        if (r == 0)
            r = write_record(txn, &dev, it.value, it.size, b);
        if (r < 0)
            break;
    }
    store_iter_done(&it);
    return r < 0 ? r : b->err;
}

int
config_write_ser_ifaces(struct store_txn *txn, struct buf *b, uint64_t *ret_n)
{
    uint64_t n = 0;
    int r = 0;
    for (uint32_t id = 1; id <= SERIAL_PORTS_MAX && r >= 0; id++) {
        struct config_key key = config_key_ser_iface(id);
        const void *value;
        size_t size;
        r = store_get(txn, DB_ONE, key.bytes, key.size, &value, &size);
        if (r != STORE_OK)
            continue;
        if (n++ > 0)
            buf_putc(b, ',');
        r = write_record(txn, &key, value, size, b);
    }
    if (r < 0)
        return r;
    *ret_n = n;
    return b->err;
}

/* What is nested in a master or an interface. */
static int
write_in_one(struct store_txn *txn, uint32_t which, struct buf *b)
{
    struct config_key iface = config_key_one(ONE_IFACE);
    uint64_t n;
    switch (which) {
    case ONE_IFACE:
        return write_devs(txn, 0, b);
    case ONE_MASTER:
        return config_write(txn, &iface, b);
    case ONE_SER_MASTER:
        return config_write_ser_ifaces(txn, b, &n);
    default:
        return write_devs(txn, which - ONE_SER_IFACES, b);
    }
}

int
config_write(struct store_txn *txn, const struct config_key *key, struct buf *b)
{
    const void *value;
    size_t size;
    int r = store_get(txn, DB_ONE + key->kind, key->bytes, key->size, &value, &size);
    if (r != 0)
        return r;
    r = write_record(txn, key, value, size, b);
    return r < 0 ? r : b->err;
}

int
config_write_cmds(struct store_txn *txn, const struct config_key *dev, struct buf *b)
{
    return write_below(txn, dev, KIND_CMD, b);
}

int
config_write_all(struct store_txn *txn, enum config_kind kind, struct buf *b, uint64_t *ret_n)
{
    /* Tables of commands and tags are in order of their devices; the *_ID ones by number. */
    unsigned by_id = id_db(kind), db = by_id ? by_id : (unsigned)DB_ONE + kind;
    struct store_iter it;
    uint64_t n = 0;
    int r = store_iter_init(&it, txn, db, NULL, 0, false);
    if (r < 0)
        return r;
    while ((r = store_iter_next(&it)) == STORE_OK) {
        struct config_key key;
        if (by_id)
            r = config_key_of((uint8_t)kind, it.value, it.size, &key);
        else
            r = config_key_of((uint8_t)kind, it.key, it.key_size, &key);
        if (r == 0 && n++ > 0)
            buf_putc(b, ',');
        if (r == 0)
            r = config_write(txn, &key, b);
        if (r != 0) {
            r = r < 0 ? r : -EPROTO;
            break;
        }
    }
    store_iter_done(&it);
    if (r < 0)
        return r;
    *ret_n = n;
    return b->err;
}

/* ---- for the engine ---- */

_Static_assert((int)TAG_FOR_MCMDS_DATA_TYPE_BOOLEAN == (int)MB_BOOLEAN &&
                   (int)TAG_FOR_MCMDS_DATA_TYPE_UINT64 == (int)MB_UINT64 &&
                   (int)TAG_FOR_MCMDS_DATA_TYPE_RAW == (int)MB_RAW,
               "enum mb_type is in the order of the schema");
_Static_assert(TAG_FOR_MCMDS_ACCESS_R + 1 == TAG_ACCESS_READ &&
                   TAG_FOR_MCMDS_ACCESS_W + 1 == TAG_ACCESS_WRITE &&
                   TAG_FOR_MCMDS_ACCESS_RW + 1 == (TAG_ACCESS_READ | TAG_ACCESS_WRITE),
               "access bits are the index of the schema's enum and one");

void
config_to_tag(const struct tag_for_mcmds *in, struct mb_tag_config *ret_tag)
{
    *ret_tag = (struct mb_tag_config){
        .id = (uint32_t)in->tag_id,
        .type = (enum mb_type)in->data_type,
        .access = (uint8_t)(in->access + 1),
        .data_size = (uint16_t)(in->has_data_size ? in->data_size : 0),
        .offset = (uint16_t)in->offset,
        .name = in->name,
        .unit = in->data_unit ? in->data_unit : "",
    };
}

struct mb_scaling
config_scaling(int64_t func, double slope, double offset, const double source[2],
               const double target[2])
{
    struct mb_scaling s = { .on = func != 0, .slope = slope, .offset = offset };
    if (func == 2) {
        s.slope = (target[1] - target[0]) / (source[1] - source[0]);
        s.offset = target[0] - s.slope * source[0];
    }
    return s;
}

void
config_to_cmd(const struct mcmd *in, struct mb_cmd_config *ret_cmd)
{
    *ret_cmd = (struct mb_cmd_config){
        .id = (uint32_t)in->mcmd_id,
        .name = in->name,
        .enable = in->enable != 0,
        .cyclic = in->mode == 0,
        .merge = in->merge_read != 0,
        .func = (uint8_t)in->func,
        .read_addr = (uint16_t)in->read_address,
        .read_n = (uint16_t)in->read_quantity,
        .write_addr = (uint16_t)in->write_address,
        .write_n = (uint16_t)in->write_quantity,
        .interval_ms = (uint32_t)in->poll_interval,
        .swap = (uint8_t)in->swap,
        .scaling =
            config_scaling(in->scaling_func, in->intercept_slope, in->intercept_offset,
                           (const double[]){ in->point_source_min, in->point_source_max },
                           (const double[]){ in->point_target_min, in->point_target_max }),
        .fault_func = (enum mb_instead)in->fp_func,
        .fault_tout_s = (uint32_t)in->fp_tout,
        .fault_data = in->fp_data,
        .status_func = (enum mb_instead)in->st_func,
        .status_data = in->st_data,
    };
}

/* Number of records below the device, in the table 'db' of their kind. */
static int
count_below(struct store_txn *txn, const struct config_key *dev, unsigned db, size_t *ret_n)
{
    struct store_iter it;
    size_t n = 0;
    int r = store_iter_init(&it, txn, db, dev->bytes, dev->size, false);
    if (r < 0)
        return r;
    while ((r = store_iter_next(&it)) == STORE_OK && it.key_size >= dev->size &&
           memcmp(it.key, dev->bytes, dev->size) == 0)
        n++;
    store_iter_done(&it);
    if (r < 0)
        return r;
    *ret_n = n;
    return 0;
}

/* Tags of command 'cmd' at 'it', which stands at the next one; fills from 'tags'. */
static int
load_tags(struct api_arena *a, struct store_iter *it, bool *more, struct mb_cmd_config *cmd,
          const struct config_key *cmd_key, struct mb_tag_config *tags, size_t room)
{
    cmd->tags = tags;
    cmd->n_tags = 0;
    while (*more && memcmp(it->key, cmd_key->bytes, cmd_key->size) < 0) {
        int r = store_iter_next(it);
        if (r < 0)
            return r;
        *more = r == STORE_OK;
    }
    while (*more && memcmp(it->key, cmd_key->bytes, cmd_key->size) == 0) {
        struct tag_for_mcmds record = { 0 };
        struct mb_tag_config tag;
        struct mb_codec codec;
        uint8_t access;
        int r = api_store_value(a, it->value, it->size, &tag_for_mcmds_desc, &record);
        if (r < 0)
            return r;
        config_to_tag(&record, &tag);
        const char *wrong = mb_tag_check(cmd, &tag, &codec, &access);
        if (wrong)
            log_err("modbusd: tag left out id=%u reason=\"%s\"", tag.id, wrong);
        else if (cmd->n_tags < room)
            tags[cmd->n_tags++] = tag;
        r = store_iter_next(it);
        if (r < 0)
            return r;
        *more = r == STORE_OK;
    }
    return 0;
}

int
config_keys_below(struct api_arena *a, struct store_txn *txn, const struct config_key *key,
                  enum config_kind kind, struct config_key **ret_keys, size_t *ret_n)
{
    struct store_iter it;
    size_t n, at = 0;
    int r = count_below(txn, key, DB_ONE + kind, &n);
    struct config_key *keys = r == 0 ? api_arena_alloc(a, (n + 1) * sizeof(*keys)) : NULL;
    if (!keys)
        return r < 0 ? r : -ENOMEM;
    r = store_iter_init(&it, txn, DB_ONE + kind, key->bytes, key->size, false);
    if (r < 0)
        return r;
    while (at < n && (r = store_iter_next(&it)) == STORE_OK)
        if ((r = config_key_of((uint8_t)kind, it.key, it.key_size, &keys[at++])) < 0)
            break;
    store_iter_done(&it);
    if (r < 0)
        return r;
    *ret_keys = keys;
    *ret_n = at;
    return 0;
}

static int
load_cmds(struct api_arena *a, struct store_txn *txn, const struct config_key *dev,
          struct mb_dev_config *ret_dev)
{
    size_t n_cmds, n_tags;
    int r = count_below(txn, dev, DB_CMD_RUN, &n_cmds);
    if (r == 0)
        r = count_below(txn, dev, DB_TAG_RUN, &n_tags);
    if (r != 0)
        return r;
    struct mb_cmd_config *cmds = api_arena_alloc(a, (n_cmds + 1) * sizeof(*cmds));
    struct mb_tag_config *tags = api_arena_alloc(a, (n_tags + 1) * sizeof(*tags));
    if (!cmds || !tags)
        return -ENOMEM;
    struct store_iter cmd_it, tag_it;
    r = store_iter_init(&cmd_it, txn, DB_CMD_RUN, dev->bytes, dev->size, false);
    if (r < 0)
        return r;
    r = store_iter_init(&tag_it, txn, DB_TAG_RUN, dev->bytes, dev->size, false);
    if (r < 0) {
        store_iter_done(&cmd_it);
        return r;
    }
    r = store_iter_next(&tag_it);
    bool more = r == STORE_OK;
    size_t n = 0, at = 0;
    while (r >= 0 && n < n_cmds && (r = store_iter_next(&cmd_it)) == STORE_OK) {
        struct config_key key;
        struct mcmd record = { 0 };
        r = config_key_of(KIND_CMD, cmd_it.key, cmd_it.key_size, &key);
        if (r == 0)
            r = api_store_value(a, cmd_it.value, cmd_it.size, &mcmd_desc, &record);
        if (r < 0)
            break;
        config_to_cmd(&record, &cmds[n]);
        r = load_tags(a, &tag_it, &more, &cmds[n], &key, tags + at, n_tags - at);
        at += cmds[n++].n_tags;
    }
    store_iter_done(&cmd_it);
    store_iter_done(&tag_it);
    ret_dev->cmds = cmds;
    ret_dev->n_cmds = n;
    return r < 0 ? r : 0;
}

int
config_load_dev(struct api_arena *a, struct store_txn *txn, uint32_t dev,
                struct mb_dev_config *ret_dev)
{
    struct config_key key = config_key_dev(dev);
    struct remote_dev record = { 0 };
    int r = api_store_get(a, txn, DB_DEV_RUN, key.bytes, key.size, &remote_dev_desc, &record);
    if (r != 0)
        return r;
    *ret_dev = (struct mb_dev_config){
        .id = dev,
        .enable = record.enable != 0,
        .name = record.name,
        .unit = (uint8_t)record.slave_id,
        .port_id = record.has_master_ser_iface_id ? (uint32_t)record.master_ser_iface_id : 0,
        .addr = record.slave_ipaddr,
        .port = (uint16_t)record.slave_tcp_port,
        .limit = record.enable_concurrent_transaction
                     ? (unsigned)record.number_max_of_transaction
                     : 1,
    };
    return load_cmds(a, txn, &key, ret_dev);
}

int
config_load_params(struct api_arena *a, struct store_txn *txn, struct master_param *ret_params)
{
    struct config_key key = config_key_one(ONE_PARAMS);
    int r =
        api_store_get(a, txn, DB_ONE_RUN, key.bytes, key.size, &master_param_desc, ret_params);
    return r == STORE_NOT_FOUND ? -EPROTO : r;
}

int
config_load_iface(struct api_arena *a, struct store_txn *txn, struct mb_iface_config *ret_iface)
{
    struct config_key key = config_key_one(ONE_IFACE), master_key = config_key_one(ONE_MASTER);
    struct master_tcp_iface iface = { 0 };
    struct tcp_master master = { 0 };
    struct master_param params = { 0 };
    int r =
        api_store_get(a, txn, DB_ONE_RUN, key.bytes, key.size, &master_tcp_iface_desc, &iface);
    if (r == 0)
        r = config_load_params(a, txn, &params);
    if (r == 0)
        r = api_store_get(a, txn, DB_ONE_RUN, master_key.bytes, master_key.size,
                          &tcp_master_desc, &master);
    if (r != 0)
        return r < 0 ? r : -EPROTO;
    *ret_iface = (struct mb_iface_config){
        .retry_count = (uint32_t)iface.retry_count,
        .timeout_ms = (uint32_t)iface.response_tout,
        .initial_delay_ms = (uint32_t)iface.initial_delay,
        .dev_fail_event = params.enable_dev_fail_event != 0,
        .cmd_fail_event = params.enable_cmd_fail_event != 0,
        .merge = { (uint32_t)iface.merge_gap, (uint32_t)iface.merge_quantity },
    };
    return str_copy(ret_iface->provider, sizeof(ret_iface->provider), master.name);
}

/* ---- serial ports ---- */

static const char ports_key[] = "serial-ports";

int
config_put_ports(struct store_txn *txn, const char *json, size_t n)
{
    return store_put(txn, DB_ONE, ports_key, strlen(ports_key), json, n);
}

int
config_get_ports(struct store_txn *txn, struct serial_port ret_ports[SERIAL_PORTS_MAX],
                 size_t *ret_n)
{
    const void *value;
    size_t size;
    *ret_n = 0;
    int r = store_get(txn, DB_ONE, ports_key, strlen(ports_key), &value, &size);
    if (r != STORE_OK)
        return r < 0 ? r : 0;
    r = serial_ports_decode(value, size, ret_ports, ret_n);
    return r == -EBADMSG ? -EPROTO : r;
}

int
config_load_port(struct api_arena *a, struct store_txn *txn, uint32_t id,
                 const struct serial_port *port, struct mb_port_config *ret_port)
{
    struct config_key key = config_key_ser_iface(id),
                      master_key = config_key_one(ONE_SER_MASTER);
    struct master_ser_iface iface = { 0 };
    struct ser_master master = { 0 };
    struct master_param params = { 0 };
    int r =
        api_store_get(a, txn, DB_ONE_RUN, key.bytes, key.size, &master_ser_iface_desc, &iface);
    if (r != 0)
        return r;
    r = config_load_params(a, txn, &params);
    if (r < 0)
        return r;
    r = api_store_get(a, txn, DB_ONE_RUN, master_key.bytes, master_key.size, &ser_master_desc,
                      &master);
    if (r != 0)
        return r < 0 ? r : -EPROTO;
    *ret_port = (struct mb_port_config){
        .id = id,
        .iface = { .retry_count = (uint32_t)iface.retry_count,
                   .timeout_ms = (uint32_t)iface.response_tout,
                   .initial_delay_ms = (uint32_t)iface.initial_delay,
                   .dev_fail_event = params.enable_dev_fail_event != 0,
                   .cmd_fail_event = params.enable_cmd_fail_event != 0,
                   .merge = { (uint32_t)iface.merge_gap, (uint32_t)iface.merge_quantity } },
        .line = { .ascii = iface.format == 1,
                  .frame_interval_ms = (uint32_t)iface.frame_interval,
                  .char_interval_ms = (uint32_t)iface.char_interval },
    };
    if (port) {
        ret_port->line.settings = port->settings;
        (void)str_copy(ret_port->line.device, sizeof(ret_port->line.device),
                       port->device); /* the same size */
    }
    return str_copy(ret_port->iface.provider, sizeof(ret_port->iface.provider), master.name);
}
