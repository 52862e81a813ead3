#include "services/modbusd/sl_config.h"

#include <errno.h>
#include <string.h>

#include "libcommon/log.h"
#include "libcommon/str.h"
#include "libcommon/banned.h"

_Static_assert(TAG_FOR_SZONE_ACCESS_R + 1 == TAG_ACCESS_READ &&
                   TAG_FOR_SZONE_ACCESS_W + 1 == TAG_ACCESS_WRITE &&
                   REF_TAG_ACCESS_RW + 1 == (TAG_ACCESS_READ | TAG_ACCESS_WRITE),
               "access bits are the index of the schema's enum and one");
_Static_assert((int)TAG_FOR_SZONE_DATA_TYPE_RAW == (int)MB_RAW &&
                   (int)REF_TAG_DATA_TYPE_RAW == (int)MB_RAW &&
                   (int)SZONE_DATA_TYPE_RAW == (int)MB_RAW,
               "enum mb_type is in the order of the schema");

int
sl_config_ensure_defaults(struct api_arena *a, struct store_txn *txn)
{
    struct config_key key = config_key_sl_one(SL_ONE_SLAVE);
    struct config_key params_key = config_key_sl_one(SL_ONE_PARAMS);
    struct tcp_slave slave;
    struct slave_param params;
    int r = api_defaults(a, &tcp_slave_desc, &slave);
    if (r == 0)
        r = api_defaults(a, &slave_param_desc, &params);
    if (r != 0)
        return r;
    slave.has_tcp_slave_id = slave.has_config_id = true;
    slave.tcp_slave_id = MODBUSD_SLAVE_ID;
    slave.config_id = MODBUSD_CONFIG_ID;
    params.has_slave_param_id = params.has_config_id = true;
    params.slave_param_id = MODBUSD_SLAVE_ID;
    params.config_id = MODBUSD_CONFIG_ID;
    r = config_ensure(a, txn, &key, &slave);
    return r < 0 ? r : config_ensure(a, txn, &params_key, &params);
}

/* ---- for the engine ---- */

void
sl_config_to_zone(const struct szone *in, struct sl_zone_config *ret_zone)
{
    *ret_zone = (struct sl_zone_config){
        .id = (uint32_t)in->szone_id,
        .only = (uint8_t)(in->has_ser_slave_id ? in->ser_slave_id : 0),
        .format = (uint8_t)in->data_format,
        .address = (int32_t)in->address,
        .n = (uint32_t)in->quan,
        .swap = (uint8_t)in->swap,
        .from_hub = in->from_ref_taglist != 0,
        .scaling =
            config_scaling(in->scaling_func, in->intercept_slope, in->intercept_offset,
                           (const double[]){ in->point_source_min, in->point_source_max },
                           (const double[]){ in->point_target_min, in->point_target_max }),
    };
}

static void
to_tag(const struct tag_for_szone *in, struct sl_tag_config *ret_tag)
{
    *ret_tag = (struct sl_tag_config){
        .id = (uint32_t)in->tag_id,
        .type = (enum mb_type)in->data_type,
        .access = (uint8_t)(in->access + 1),
        .size = (uint16_t)(in->has_data_size ? in->data_size : 0),
        .offset = (uint32_t)in->offset,
        .name = in->name,
        .unit = in->data_unit ? in->data_unit : "",
    };
}

static void
to_ref(const struct ref_tag *in, struct sl_ref_config *ret_ref)
{
    *ret_ref = (struct sl_ref_config){
        .type = (enum mb_type)in->data_type,
        .access = (uint8_t)(in->access + 1),
        .size = (uint16_t)(in->has_data_size ? in->data_size : 0),
        .offset = (uint32_t)in->offset,
        .provider = in->prvd_name,
        .source = in->src_name,
        .name = in->tag_name,
    };
}

/* ---- walks ---- */

static int
walk_step(struct sl_walk *w)
{
    int r = store_iter_next(&w->it);
    w->more = r == STORE_OK;
    if (w->more && w->it.key_size != 8)
        r = -EPROTO;
    return r < 0 ? r : 0;
}

int
sl_walk_begin(struct sl_walk *w, struct store_txn *txn, unsigned db, uint8_t kind,
              uint32_t first_zone)
{
    uint8_t from[4];
    put_u32(from, first_zone);
    w->kind = kind;
    int r = store_iter_init(&w->it, txn, db, from, sizeof(from), false);
    if (r < 0)
        return r;
    r = walk_step(w);
    if (r < 0)
        store_iter_done(&w->it);
    return r;
}

int
sl_walk_next(struct sl_walk *w, uint32_t zone, struct config_key *ret_key,
             struct bus_str *ret_text)
{
    while (w->more && get_u32(w->it.key) < zone) {
        int r = walk_step(w);
        if (r < 0)
            return r;
    }
    if (!w->more || get_u32(w->it.key) != zone)
        return STORE_NOT_FOUND;
    const uint8_t *bytes = w->it.key;
    *ret_key = config_key_in_zone(w->kind, zone, get_u32(bytes + 4));
    *ret_text = (struct bus_str){ w->it.value, (uint32_t)w->it.size };
    return walk_step(w);
}

void
sl_walk_done(struct sl_walk *w)
{
    store_iter_done(&w->it);
}

/* ---- loading ---- */

struct loading {
    struct api_arena *a;
    struct store_txn *txn;
    struct sl_walk tags, refs;
    struct sl_tag_config *tag;
    struct sl_ref_config *ref;
    size_t n_tags, n_refs; /* room left */
};

static int
load_zone_tags(struct loading *l, struct sl_zone_config *z)
{
    struct config_key key;
    struct bus_str text;
    int r;
    z->tags = l->tag;
    while ((r = sl_walk_next(&l->tags, z->id, &key, &text)) == STORE_OK && l->n_tags > 0) {
        struct tag_for_szone record;
        r = api_store_value(l->a, text.p, text.len, &tag_for_szone_desc, &record);
        if (r < 0)
            return r;
        to_tag(&record, l->tag++);
        l->n_tags--;
        z->n_tags++;
    }
    return r < 0 ? r : 0;
}

static int
load_zone_refs(struct loading *l, struct sl_zone_config *z)
{
    struct config_key key;
    struct bus_str text;
    int r;
    z->refs = l->ref;
    while ((r = sl_walk_next(&l->refs, z->id, &key, &text)) == STORE_OK && l->n_refs > 0) {
        struct ref_tag record;
        r = api_store_value(l->a, text.p, text.len, &ref_tag_desc, &record);
        if (r < 0)
            return r;
        to_ref(&record, l->ref++);
        l->n_refs--;
        z->n_refs++;
    }
    return r < 0 ? r : 0;
}

static int
load_zones(struct loading *l, struct sl_zone_config *zones, size_t n, struct sl_config *cfg)
{
    struct store_iter it;
    int r = store_iter_init(&it, l->txn, DB_ZONE_RUN, NULL, 0, false);
    if (r < 0)
        return r;
    cfg->zones = zones;
    while (cfg->n_zones < n && (r = store_iter_next(&it)) == STORE_OK) {
        struct szone record;
        struct sl_zone_config *z = &zones[cfg->n_zones];
        r = api_store_value(l->a, it.value, it.size, &szone_desc, &record);
        if (r < 0)
            break;
        sl_config_to_zone(&record, z);
        r = load_zone_tags(l, z);
        if (r == 0)
            r = load_zone_refs(l, z);
        if (r < 0)
            break;
        cfg->n_zones++;
    }
    store_iter_done(&it);
    return r < 0 ? r : 0;
}

static int
load_tables(struct loading *l, struct sl_config *cfg)
{
    uint64_t n_zones, n_tags, n_refs;
    int r = store_count(l->txn, DB_ZONE_RUN, &n_zones);
    if (r == 0)
        r = store_count(l->txn, DB_SL_TAG_RUN, &n_tags);
    if (r == 0)
        r = store_count(l->txn, DB_REF_RUN, &n_refs);
    if (r != 0)
        return r;
    struct sl_zone_config *zones = api_arena_alloc(l->a, (n_zones + 1) * sizeof(*zones));
    l->tag = api_arena_alloc(l->a, (n_tags + 1) * sizeof(*l->tag));
    l->ref = api_arena_alloc(l->a, (n_refs + 1) * sizeof(*l->ref));
    l->n_tags = n_tags;
    l->n_refs = n_refs;
    if (!zones || !l->tag || !l->ref)
        return -ENOMEM;
    r = sl_walk_begin(&l->tags, l->txn, DB_SL_TAG_RUN, KIND_SL_TAG, 0);
    if (r < 0)
        return r;
    r = sl_walk_begin(&l->refs, l->txn, DB_REF_RUN, KIND_REF, 0);
    if (r == 0) {
        r = load_zones(l, zones, n_zones, cfg);
        sl_walk_done(&l->refs);
    }
    sl_walk_done(&l->tags);
    return r;
}

static int
get_running(struct api_arena *a, struct store_txn *txn, uint32_t which,
            const struct api_desc *desc, void *ret_record)
{
    struct config_key key = config_key_sl_one(which);
    int r = api_store_get(a, txn, DB_SL_ONE_RUN, key.bytes, key.size, desc, ret_record);
    return r > 0 ? -EPROTO : r;
}

int
sl_config_load_params(struct api_arena *a, struct store_txn *txn,
                      struct slave_param *ret_params)
{
    return get_running(a, txn, SL_ONE_PARAMS, &slave_param_desc, ret_params);
}

int
sl_config_load_slave(struct api_arena *a, struct store_txn *txn, struct sl_config *ret_cfg)
{
    struct tcp_slave slave;
    struct slave_param params;
    int r = get_running(a, txn, SL_ONE_SLAVE, &tcp_slave_desc, &slave);
    if (r == 0)
        r = sl_config_load_params(a, txn, &params);
    if (r != 0)
        return r;
    *ret_cfg = (struct sl_config){
        .enable = slave.enable && params.enable_tcp_slaves,
        .port = (uint16_t)slave.listen_port,
        .unit = (uint8_t)slave.slave_id,
        .keep_alive_s = (unsigned)slave.keep_alive_time,
        .provider = slave.name,
        .source = MODBUSD_SL_SOURCE,
        .fail_event = params.enable_fail_event != 0,
    };
    return 0;
}

int
sl_config_load(struct api_arena *a, struct store_txn *txn, struct sl_config *ret_cfg)
{
    struct loading l = { .a = a, .txn = txn };
    int r = sl_config_load_slave(a, txn, ret_cfg);
    return r < 0 ? r : load_tables(&l, ret_cfg);
}

/* ---- serial slaves ---- */

struct config_key
sl_config_ser_key(uint32_t id)
{
    return config_key_sl_one(SL_ONE_SER_SLAVES + id);
}

int
sl_config_has_zones(struct store_txn *txn, uint32_t id)
{
    CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(1 << 20);
    struct store_iter it;
    struct szone zone;
    bool found = false;
    int r = a ? store_iter_init(&it, txn, DB_ZONE, NULL, 0, false) : -ENOMEM;
    if (r < 0)
        return r;
    while (!found && (r = store_iter_next(&it)) == STORE_OK) {
        r = api_store_value(a, it.value, it.size, &szone_desc, &zone);
        if (r < 0)
            break;
        found = zone.has_ser_slave_id && zone.ser_slave_id == id;
        api_arena_reset(a);
    }
    store_iter_done(&it);
    return r < 0 ? r : found;
}

/* NULL: it does not run. */
static int
load_line(struct api_arena *a, struct store_txn *txn, const struct serial_port *port,
          const struct sl_line_config **ret_line)
{
    struct ser_slave slave;
    struct config_key key = sl_config_ser_key(port->port_value + 1);
    int r = api_store_get(a, txn, DB_SL_ONE_RUN, key.bytes, key.size, &ser_slave_desc, &slave);
    if (r == STORE_NOT_FOUND || (r == 0 && !slave.enable))
        return 0;
    if (r < 0)
        return r;
    struct sl_line_config *line = api_arena_alloc(a, sizeof(*line));
    if (!line)
        return -ENOMEM;
    *line = (struct sl_line_config){ .settings = port->settings,
                                     .ascii = slave.format == 1,
                                     .unit = (uint8_t)slave.slave_id,
                                     .slave = (uint8_t)(port->port_value + 1) };
    *ret_line = line;
    return str_copy(line->device, sizeof(line->device), port->device);
}

int
sl_config_load_lines(struct api_arena *a, struct store_txn *txn,
                     const struct sl_line_config *ret_lines[SERIAL_PORTS_MAX])
{
    struct serial_port ports[SERIAL_PORTS_MAX];
    struct slave_param params;
    size_t n = 0;
    for (size_t i = 0; i < SERIAL_PORTS_MAX; i++)
        ret_lines[i] = NULL;
    int r = sl_config_load_params(a, txn, &params);
    if (r == 0)
        r = config_get_ports(txn, ports, &n);
    for (size_t i = 0; i < n && r == 0 && params.enable_ser_slaves; i++)
        if (ports[i].port_value < SERIAL_PORTS_MAX)
            r = load_line(a, txn, &ports[i], &ret_lines[ports[i].port_value]);
    return r;
}

/* ---- places ---- */

struct place {
    uint32_t format, address, quan, id; /* address UINT32_MAX: none */
};

static int
next_place(struct store_iter *it, struct place *ret_place)
{
    int r = store_iter_next(it);
    if (r != 0)
        return r;
    if (it->key_size != 12 || it->size != 4)
        return -EPROTO;
    const uint8_t *k = it->key;
    *ret_place =
        (struct place){ get_u32(k), get_u32(k + 4), get_u32(k + 8), get_u32(it->value) };
    return 0;
}

int
sl_config_space(struct store_txn *txn, int64_t format, struct sl_space *ret_space)
{
    struct store_iter it;
    struct place p;
    uint8_t from[4];
    put_u32(from, (uint32_t)format);
    sl_space_init(ret_space, SL_TABLE_UNITS);
    int r = store_iter_init(&it, txn, DB_ZONE_PLACE, from, sizeof(from), false);
    if (r < 0)
        return r;
    while ((r = next_place(&it, &p)) == STORE_OK && p.format == (uint32_t)format &&
           p.address < SL_TABLE_UNITS)
        (void)sl_space_take(ret_space, p.address, p.quan); /* zones never overlap */
    store_iter_done(&it);
    return r < 0 ? r : 0;
}

int
sl_config_overlap(struct store_txn *txn, uint32_t id, const struct szone *zone,
                  uint32_t *ret_other)
{
    struct store_iter it;
    struct place p;
    uint8_t last[12];
    bool found = false;
    put_u32(last, (uint32_t)zone->data_format);
    put_u32(last + 4, (uint32_t)(zone->address + zone->quan - 1));
    put_u32(last + 8, UINT32_MAX);
    int r = store_iter_init(&it, txn, DB_ZONE_PLACE, last, sizeof(last), true);
    if (r < 0)
        return r;
    /* They do not overlap one another: only the last that begins before the end may. */
    do
        r = next_place(&it, &p);
    while (r == STORE_OK && p.id == id);
    if (r == STORE_OK && p.format == (uint32_t)zone->data_format &&
        (int64_t)p.address + p.quan > zone->address) {
        *ret_other = p.id;
        found = true;
    }
    store_iter_done(&it);
    if (r < 0)
        return r;
    return found ? STORE_OK : STORE_NOT_FOUND;
}
