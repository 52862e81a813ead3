/* The rules of zones and of the tags in them, and how these are staged. */
#include "services/modbusd/op_sl.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "services/modbusd/sl_hub.h"
#include "libcommon/banned.h"

enum api_status
sl_stage_begin(struct modbusd *d, struct api_call *call, struct sl_stage *ret_stage)
{
    *ret_stage = (struct sl_stage){ .d = d, .call = call, .txn = api_txn(call) };
    return ret_stage->txn ? API_OK : API_INTERNAL;
}

enum api_status
sl_wrong(struct api_call *call, size_t i, const char *member, const char *fmt, ...)
{
    char text[200];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap); /* names are short; a longer text is cut */
    va_end(ap);
    return api_fail(call, API_INVALID, op_pointer(call, i, member), "Input value failed: %s",
                    text);
}

enum api_status
sl_find_zone(struct api_call *call, struct store_txn *txn, int64_t id,
             struct config_key *ret_key)
{
    const void *value;
    size_t size;
    if (!txn)
        return API_INTERNAL;
    *ret_key = config_key_zone((uint32_t)id);
    int r = store_get(txn, DB_ZONE, ret_key->bytes, ret_key->size, &value, &size);
    if (r == STORE_NOT_FOUND)
        return op_not_found(call);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

enum api_status
sl_new_zone(struct sl_stage *s, struct config_key *ret_key)
{
    uint32_t id;
    enum api_status status = op_check_room(s->call, s->txn, DB_ZONE, 1, MODBUSD_ZONES_MAX);
    if (status != API_OK)
        return status;
    int r = config_next_id(s->txn, KIND_ZONE, &id);
    if (r != 0)
        return op_store_error(s->call, r);
    *ret_key = config_key_zone(id);
    return API_OK;
}

/* ---- the zone itself ---- */

static enum api_status
no_parent(struct api_call *call, size_t i, const char *member)
{
    return api_fail(call, API_INVALID, op_pointer(call, i, member),
                    "Parent's data should exist");
}

/* A zone is of the serial slave that it names, else of the TCP slave. */
static enum api_status
settle_parent(struct sl_stage *s, size_t i, struct szone *zone)
{
    const void *value;
    size_t size;
    zone->has_ser_slave_id = zone->has_ser_slave_id && zone->ser_slave_id != 0;
    if (!zone->has_ser_slave_id) {
        if (zone->has_tcp_slave_id && zone->tcp_slave_id != MODBUSD_SLAVE_ID)
            return no_parent(s->call, i, "tcpSlaveId");
        zone->has_tcp_slave_id = true;
        zone->tcp_slave_id = MODBUSD_SLAVE_ID;
        return API_OK;
    }
    zone->has_tcp_slave_id = false;
    if (zone->ser_slave_id > SERIAL_PORTS_MAX)
        return no_parent(s->call, i, "serSlaveId");
    struct config_key key = sl_config_ser_key((uint32_t)zone->ser_slave_id);
    int r = store_get(s->txn, DB_SL_ONE, key.bytes, key.size, &value, &size);
    if (r == STORE_NOT_FOUND)
        return no_parent(s->call, i, "serSlaveId");
    return r < 0 ? op_store_error(s->call, r) : API_OK;
}

static enum api_status
check_values(struct api_call *call, size_t i, const struct szone *zone)
{
    struct sl_zone_config config;
    if (zone->address < 0 && !zone->from_ref_taglist)
        return sl_wrong(call, i, "address", "address -1 is for zones of reference tags");
    if (zone->address >= 0 && zone->address + zone->quan > SL_TABLE_UNITS)
        return sl_wrong(call, i, "quan", "quan reaches past address 65535");
    if (zone->scaling_func == 2 && zone->point_source_min == zone->point_source_max)
        return sl_wrong(call, i, "pointSourceMax",
                        "pointSourceMax must differ from pointSourceMin");
    sl_config_to_zone(zone, &config);
    if (config.scaling.on &&
        (!isfinite(config.scaling.slope) || !isfinite(config.scaling.offset)))
        return sl_wrong(call, i, "scalingFunc",
                        "scalingFunc leads to a slope that is no finite number");
    return API_OK;
}

static enum api_status
check_place(struct sl_stage *s, size_t i, uint32_t id, const struct szone *zone)
{
    uint32_t other;
    if (zone->address < 0)
        return API_OK;
    int r = sl_config_overlap(s->txn, id, zone, &other);
    if (r < 0)
        return op_store_error(s->call, r);
    if (r == STORE_OK)
        return sl_wrong(s->call, i, "address", "address and quan overlap zone %" PRIu32, other);
    return API_OK;
}

enum api_status
sl_stage_zone(struct sl_stage *s, size_t i, const struct config_key *key, struct szone zone)
{
    uint32_t id = config_key_id(key);
    enum api_status status = settle_parent(s, i, &zone);
    if (status == API_OK)
        status = check_values(s->call, i, &zone);
    if (status == API_OK)
        status = check_place(s, i, id, &zone);
    if (status != API_OK)
        return status;
    zone.has_szone_id = true;
    zone.szone_id = id;
    zone.n_tags = zone.n_ref_tags = 0; /* they have their own records */
    int r = config_put(api_call_arena(s->call), s->txn, key, &zone);
    return r < 0 ? op_store_error(s->call, r) : API_OK;
}

/* ---- the tags in it ---- */

static int
by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Appends to 'b' the keys of 'kind' in the zone whose numbers are not in 'kept' (sorted). */
static int
find_others(struct sl_stage *s, uint32_t zone, uint8_t kind, const uint32_t *kept,
            size_t n_kept, struct buf *b)
{
    struct sl_walk w;
    struct config_key key;
    struct bus_str text;
    int r = sl_walk_begin(&w, s->txn, DB_ONE + kind, kind, zone);
    if (r < 0)
        return r;
    while ((r = sl_walk_next(&w, zone, &key, &text)) == STORE_OK) {
        uint32_t id = config_key_id(&key);
        if (!bsearch(&id, kept, n_kept, sizeof(*kept), by_value))
            buf_put(b, &key, sizeof(key));
    }
    sl_walk_done(&w);
    return r < 0 ? r : b->err;
}

static int
drop_others(struct sl_stage *s, const struct config_key *zone, uint8_t kind,
            const uint32_t *kept, size_t n_kept)
{
    struct buf found;
    buf_init(&found, 4 << 20); /* keys of a full zone take a third */
    int r = find_others(s, config_key_id(zone), kind, kept, n_kept, &found);
    for (size_t at = 0; r == 0 && at < found.len; at += sizeof(struct config_key)) {
        CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(1 << 20);
        struct config_key key;
        memcpy(&key, found.data + at, sizeof(key));
        r = a ? config_del(a, s->txn, &key) : -ENOMEM;
    }
    buf_done(&found);
    return r;
}

/* The number that a name has in this zone already, or 0. */
static int
number_here(struct sl_stage *s, const struct config_key *zone, uint8_t kind, int found,
            uint32_t id, uint32_t *ret_id)
{
    struct config_key key;
    *ret_id = 0;
    if (found != STORE_OK)
        return found < 0 ? found : 0;
    int r = config_find_in_zone(s->txn, kind, id, &key);
    if (r == STORE_OK && config_key_part(&key, 0) == config_key_id(zone))
        *ret_id = id;
    return r < 0 ? r : 0;
}

/*
 * 'ids' are the numbers that n tags of the body (list at pointer 'at') have
 * already, 0 for new ones: drops the others, and gives numbers to the new ones.
 */
static enum api_status
number_all(struct sl_stage *s, const char *at, const struct config_key *zone, uint8_t kind,
           uint32_t *ids, size_t n, uint64_t max)
{
    uint32_t *kept = api_alloc(s->call, (n + 1) * sizeof(*kept));
    size_t n_kept = 0;
    if (!kept)
        return API_TOO_LARGE;
    for (size_t j = 0; j < n; j++)
        if (ids[j] != 0)
            kept[n_kept++] = ids[j];
    qsort(kept, n_kept, sizeof(*kept), by_value);
    for (size_t j = 1; j < n_kept; j++)
        if (kept[j] == kept[j - 1])
            return api_fail(s->call, API_INVALID, at, "name exists already");
    int r = drop_others(s, zone, kind, kept, n_kept);
    if (r < 0)
        return op_store_error(s->call, r);
    enum api_status status =
        op_check_room(s->call, s->txn, (enum config_db)(DB_ONE + kind), n - n_kept, max);
    for (size_t j = 0; j < n && status == API_OK; j++)
        if (ids[j] == 0 && (r = config_next_id(s->txn, kind, &ids[j])) != 0)
            status = op_store_error(s->call, r);
    return status;
}

enum api_status
sl_check_tag(struct api_call *call, size_t i, const char *member, const struct szone *zone,
             const struct tag_for_szone *tag)
{
    struct sl_zone_config config;
    enum mb_type type = (enum mb_type)tag->data_type;
    bool sized = mb_type_sized(type);
    const char *at = api_printf(call, "%sdataSize", member);
    if (!at)
        return API_TOO_LARGE;
    if (sized && !tag->has_data_size)
        return api_fail(call, API_INVALID, op_pointer(call, i, at), "dataSize should exist");
    if (!sized && tag->has_data_size)
        return sl_wrong(call, i, at, "dataSize is for string, bytearray and raw");
    sl_config_to_zone(zone, &config);
    const char *text = sl_place_check(&config, type, (uint32_t)tag->offset,
                                      (uint16_t)(sized ? tag->data_size : 0));
    at = api_printf(call, "%soffset", member);
    return text ? sl_wrong(call, i, at ? at : "", "tag %s: %s", tag->name, text) : API_OK;
}

static enum api_status
put_tag(struct sl_stage *s, size_t i, size_t j, const struct config_key *zone_key,
        const struct szone *zone, uint32_t id)
{
    struct tag_for_szone tag = zone->tags[j];
    struct config_key key = config_key_in_zone(KIND_SL_TAG, config_key_id(zone_key), id);
    const char *member = api_printf(s->call, "tags/%zu/", j);
    uint32_t other;
    if (!member)
        return API_TOO_LARGE;
    enum api_status status = sl_check_tag(s->call, i, member, zone, &tag);
    if (status != API_OK)
        return status;
    int r = config_sl_tag_named(s->txn, tag.name, &other);
    if (r == STORE_OK && other != id)
        return api_fail(s->call, API_INVALID,
                        op_pointer(s->call, i, api_printf(s->call, "tags/%zu/name", j)),
                        "name exists already");
    tag.has_tag_id = tag.has_szone_id = true;
    tag.tag_id = id;
    tag.szone_id = config_key_id(zone_key);
    if (r >= 0)
        r = config_put(api_call_arena(s->call), s->txn, &key, &tag);
    return r < 0 ? op_store_error(s->call, r) : API_OK;
}

enum api_status
sl_stage_tags(struct sl_stage *s, size_t i, const struct config_key *key,
              const struct szone *zone)
{
    uint32_t *ids = api_alloc(s->call, (zone->n_tags + 1) * sizeof(*ids));
    if (!ids)
        return API_TOO_LARGE;
    for (size_t j = 0; j < zone->n_tags; j++) {
        uint32_t id = 0;
        int found = config_sl_tag_named(s->txn, zone->tags[j].name, &id);
        int r = number_here(s, key, KIND_SL_TAG, found, id, &ids[j]);
        if (r < 0)
            return op_store_error(s->call, r);
    }
    enum api_status status = number_all(s, op_pointer(s->call, i, "tags"), key, KIND_SL_TAG,
                                        ids, zone->n_tags, MODBUSD_SL_TAGS_MAX);
    for (size_t j = 0; j < zone->n_tags && status == API_OK; j++)
        status = put_tag(s, i, j, key, zone, ids[j]);
    return status;
}

/* ---- reference tags ---- */

_Static_assert(TAG_BOOLEAN - 1 == (int)MB_BOOLEAN && TAG_INT64 - 1 == (int)MB_INT64 &&
                   TAG_UINT64 - 1 == (int)MB_UINT64 && TAG_DOUBLE - 1 == (int)MB_DOUBLE &&
                   TAG_STRING - 1 == (int)MB_STRING,
               "enum mb_type is in the order of enum tag_type");

enum api_status
sl_resolve_ref(struct sl_stage *s, size_t i, size_t j, struct ref_tag *ref)
{
    const char *member = api_printf(s->call, "refTags/%zu", j);
    struct tag_def def;
    if (!member)
        return API_TOO_LARGE;
    if (sl_hub_lookup(s->d, ref->prvd_name, ref->src_name, ref->tag_name, &def)) {
        ref->data_type = def.type == TAG_RAW ? (int)MB_RAW : def.type - 1;
        bool writable = def.access & TAG_ACCESS_WRITE;
        ref->access = !writable                      ? REF_TAG_ACCESS_R
                      : def.access & TAG_ACCESS_READ ? REF_TAG_ACCESS_RW
                                                     : REF_TAG_ACCESS_W;
        ref->data_size = def.size;
        ref->has_data_size = def.size > 0;
    } else if (!ref->has_data_type) {
        return sl_wrong(s->call, i, member, "the tag hub does not list %s/%s/%s",
                        ref->prvd_name, ref->src_name, ref->tag_name);
    } else if (!ref->has_access) {
        ref->access = REF_TAG_ACCESS_R;
    }
    ref->has_data_type = ref->has_access = true;
    bool sized = mb_type_sized((enum mb_type)ref->data_type);
    if (sized && !ref->has_data_size)
        return api_fail(s->call, API_INVALID, op_pointer(s->call, i, member),
                        "dataSize should exist");
    ref->has_data_size = sized;
    return API_OK;
}

uint32_t
sl_ref_size(const struct szone *zone, const struct ref_tag *ref)
{
    return mb_type_size((enum mb_type)ref->data_type, sl_format_is_bits(zone->data_format),
                        (unsigned)ref->data_size);
}

uint32_t
sl_ref_offset(const struct szone *zone, const struct ref_tag *ref, uint32_t end)
{
    if (ref->has_offset)
        return (uint32_t)ref->offset;
    if (!sl_format_is_bits(zone->data_format))
        return (end + 1) & ~1u; /* a register of its own */
    return mb_type_sized((enum mb_type)ref->data_type) ? (end + 7) & ~7u : end;
}

static enum api_status
put_ref(struct sl_stage *s, size_t i, size_t j, const struct config_key *zone_key,
        const struct szone *zone, uint32_t id, uint32_t *end)
{
    struct ref_tag ref = zone->ref_tags[j];
    struct sl_zone_config config;
    struct config_key key = config_key_in_zone(KIND_REF, config_key_id(zone_key), id);
    const char *member = api_printf(s->call, "refTags/%zu", j);
    uint32_t other;
    enum api_status status = sl_resolve_ref(s, i, j, &ref);
    if (status != API_OK || !member)
        return member ? status : API_TOO_LARGE;
    ref.offset = sl_ref_offset(zone, &ref, *end);
    ref.has_offset = true;
    sl_config_to_zone(zone, &config);
    const char *text =
        sl_place_check(&config, (enum mb_type)ref.data_type, (uint32_t)ref.offset,
                       (uint16_t)(ref.has_data_size ? ref.data_size : 0));
    if (text)
        return sl_wrong(s->call, i, member, "tag %s: %s", ref.tag_name, text);
    *end = (uint32_t)ref.offset + sl_ref_size(zone, &ref);
    int r = config_ref_to(s->txn, &ref, &other);
    if (r == STORE_OK && other != id)
        return api_fail(s->call, API_INVALID, op_pointer(s->call, i, member),
                        "tagName exists already");
    ref.has_ref_tag_id = ref.has_szone_id = true;
    ref.ref_tag_id = id;
    ref.szone_id = config_key_id(zone_key);
    if (r >= 0)
        r = config_put(api_call_arena(s->call), s->txn, &key, &ref);
    return r < 0 ? op_store_error(s->call, r) : API_OK;
}

enum api_status
sl_stage_refs(struct sl_stage *s, size_t i, const struct config_key *key,
              const struct szone *zone)
{
    uint32_t *ids = api_alloc(s->call, (zone->n_ref_tags + 1) * sizeof(*ids)), end = 0;
    if (!ids)
        return API_TOO_LARGE;
    for (size_t j = 0; j < zone->n_ref_tags; j++) {
        uint32_t id = 0;
        int found = config_ref_to(s->txn, &zone->ref_tags[j], &id);
        int r = number_here(s, key, KIND_REF, found, id, &ids[j]);
        if (r < 0)
            return op_store_error(s->call, r);
    }
    enum api_status status = number_all(s, op_pointer(s->call, i, "refTags"), key, KIND_REF,
                                        ids, zone->n_ref_tags, MODBUSD_REFS_MAX);
    for (size_t j = 0; j < zone->n_ref_tags && status == API_OK; j++)
        status = put_ref(s, i, j, key, zone, ids[j], &end);
    return status;
}

/* ---- all of a zone ---- */

/* One staged tag, own or of the hub. */
struct placed {
    enum mb_type type;
    uint32_t offset;
    uint16_t size;
    const char *name;
};

static int
decode_placed(struct api_arena *a, uint8_t kind, const struct bus_str *text,
              struct placed *ret_placed)
{
    if (kind == KIND_SL_TAG) {
        struct tag_for_szone tag;
        int r = api_store_value(a, text->p, text->len, &tag_for_szone_desc, &tag);
        if (r == 0)
            *ret_placed =
                (struct placed){ (enum mb_type)tag.data_type, (uint32_t)tag.offset,
                                 (uint16_t)(tag.has_data_size ? tag.data_size : 0), tag.name };
        return r;
    }
    struct ref_tag ref;
    int r = api_store_value(a, text->p, text->len, &ref_tag_desc, &ref);
    if (r == 0)
        *ret_placed =
            (struct placed){ (enum mb_type)ref.data_type, (uint32_t)ref.offset,
                             (uint16_t)(ref.has_data_size ? ref.data_size : 0), ref.tag_name };
    return r;
}

static enum api_status
check_placed(struct sl_stage *s, size_t i, const struct szone *zone, const struct placed *p,
             struct sl_space *space)
{
    struct sl_zone_config config;
    sl_config_to_zone(zone, &config);
    const char *text = sl_place_check(&config, p->type, p->offset, p->size);
    if (text)
        return sl_wrong(s->call, i, NULL, "tag %s: %s", p->name, text);
    uint32_t size = mb_type_size(p->type, sl_format_is_bits(zone->data_format), p->size);
    if (!sl_space_take(space, p->offset, size))
        return sl_wrong(s->call, i, NULL, "tag %s: overlaps another tag of its zone", p->name);
    return API_OK;
}

enum api_status
sl_stage_check(struct sl_stage *s, size_t i, const struct config_key *key,
               const struct szone *zone)
{
    enum api_status status = API_OK;
    struct sl_space space;
    sl_space_init(&space, sl_zone_size(zone));
    for (uint8_t kind = KIND_SL_TAG; kind <= KIND_REF && status == API_OK; kind++) {
        struct sl_walk w;
        struct config_key child;
        struct bus_str text;
        struct placed p;
        int r = sl_walk_begin(&w, s->txn, DB_ONE + kind, kind, config_key_id(key));
        if (r < 0)
            return op_store_error(s->call, r);
        while (status == API_OK &&
               (r = sl_walk_next(&w, config_key_id(key), &child, &text)) == STORE_OK &&
               (r = decode_placed(api_call_arena(s->call), kind, &text, &p)) == 0) {
            if ((kind == KIND_REF) != (zone->from_ref_taglist != 0))
                status = sl_wrong(s->call, i, "fromRefTaglist",
                                  "the zone has %s: fromRefTaglist is %d for these",
                                  kind == KIND_REF ? "refTags" : "tags", kind == KIND_REF);
            else
                status = check_placed(s, i, zone, &p, &space);
        }
        sl_walk_done(&w);
        if (r < 0)
            return op_store_error(s->call, r);
    }
    return status;
}
