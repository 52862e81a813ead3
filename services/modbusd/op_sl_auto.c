/* What is placed by itself: own tags of a zone, zones for tags of the hub, all in a row. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "services/modbusd/op_sl.h"
#include "libcommon/banned.h"

/* ---- autoCreate=tags ---- */

/* The n-th of 'n' tags of 'size' units each. */
static enum api_status
name_tag(struct sl_stage *s, uint32_t zone, size_t k, size_t n, struct tag_for_szone *tag)
{
    tag->name = n == 1 ? api_printf(s->call, "szone%" PRIu32, zone)
                       : api_printf(s->call, "szone%" PRIu32 "_t%zu", zone, k + 1);
    return tag->name ? API_OK : API_TOO_LARGE;
}

enum api_status
sl_auto_tags(struct sl_stage *s, size_t i, const struct config_key *key, struct szone *zone)
{
    struct tag_for_szone tag;
    if (!zone->has_data_type)
        return api_fail(s->call, API_INVALID, op_pointer(s->call, i, "dataType"),
                        "dataType should exist");
    if (zone->from_ref_taglist || zone->n_tags > 0)
        return sl_wrong(s->call, i, zone->n_tags > 0 ? "tags" : "fromRefTaglist",
                        "autoCreate is for zones of own tags, without a list of them");
    bool bits = sl_format_is_bits(zone->data_format);
    enum mb_type type = (enum mb_type)zone->data_type;
    uint32_t all = sl_zone_size(zone), bytes = bits ? all / 8 : all;
    if (mb_type_sized(type) && bytes > TAG_BYTES_MAX)
        return sl_wrong(s->call, i, "quan", "a tag has at most %d bytes", TAG_BYTES_MAX);
    uint32_t one = mb_type_size(type, bits, bytes);
    size_t n = one ? all / one : 0;
    if (n == 0)
        return sl_wrong(s->call, i, "dataType", "dataType does not fit into the zone");
    s->n_made += n;
    if (s->n_made > MODBUSD_AUTO_TAGS_MAX)
        return sl_wrong(s->call, i, NULL, "autoCreate makes at most %d tags at once",
                        MODBUSD_AUTO_TAGS_MAX);
    int r = api_defaults(api_call_arena(s->call), &tag_for_szone_desc, &tag);
    struct tag_for_szone *tags = api_alloc(s->call, n * sizeof(*tags));
    if (r < 0 || !tags)
        return tags ? op_store_error(s->call, r) : API_TOO_LARGE;
    tag.data_type = zone->data_type;
    tag.has_data_size = mb_type_sized(type);
    tag.data_size = bytes;
    enum api_status status = API_OK;
    for (size_t k = 0; k < n && status == API_OK; k++) {
        tags[k] = tag;
        tags[k].offset = (int64_t)(k * one);
        status = name_tag(s, config_key_id(key), k, n, &tags[k]);
    }
    zone->tags = tags;
    zone->n_tags = n;
    return status;
}

/* ---- zones for tags of the hub ---- */

static int64_t
format_for(const struct ref_tag *ref)
{
    bool written = (ref->access + 1) & TAG_ACCESS_WRITE;
    if (ref->data_type == REF_TAG_DATA_TYPE_BOOLEAN)
        return written ? SL_COILS : SL_INPUT_BITS;
    return written ? SL_HOLDING : SL_INPUT;
}

/* Format and quan; the references are placed one after the other. */
static enum api_status
fit_refs(struct sl_stage *s, size_t i, struct szone *zone)
{
    uint32_t end = 0;
    for (size_t j = 0; j < zone->n_ref_tags; j++) {
        struct ref_tag *ref = &zone->ref_tags[j];
        enum api_status status = sl_resolve_ref(s, i, j, ref);
        if (status != API_OK)
            return status;
        if (j == 0)
            zone->data_format = format_for(ref);
        else if (format_for(ref) != zone->data_format)
            return sl_wrong(s->call, i, "refTags", "refTags of one zone need one dataFormat");
        ref->has_offset = false;
        ref->offset = sl_ref_offset(zone, ref, end);
        ref->has_offset = true;
        end = (uint32_t)ref->offset + sl_ref_size(zone, ref);
    }
    zone->quan = sl_format_is_bits(zone->data_format) ? end : (end + 1) / 2;
    return zone->quan <= SL_TABLE_UNITS
               ? API_OK
               : sl_wrong(s->call, i, "refTags", "refTags do not fit into one table");
}

enum api_status
sl_shape_for_refs(struct sl_stage *s, size_t i, struct szone *zone)
{
    struct sl_space space;
    if (zone->n_ref_tags == 0 || zone->n_tags > 0)
        return sl_wrong(s->call, i, "refTags", "createFromRefTag needs refTags and no tags");
    /* The body is not changed, since others may look at it. */
    struct ref_tag *refs = api_alloc(s->call, zone->n_ref_tags * sizeof(*refs));
    if (!refs)
        return API_TOO_LARGE;
    memcpy(refs, zone->ref_tags, zone->n_ref_tags * sizeof(*refs));
    zone->ref_tags = refs;
    zone->from_ref_taglist = 1;
    enum api_status status = fit_refs(s, i, zone);
    if (status != API_OK)
        return status;
    int r = sl_config_space(s->txn, zone->data_format, &space);
    if (r < 0)
        return op_store_error(s->call, r);
    zone->address = sl_space_find(&space, 0, (uint32_t)zone->quan);
    return API_OK;
}

/* A zone for one tag of a bulk request. */
static enum api_status
add_for(struct sl_stage *s, const struct bulk_ref_tag *body, size_t j,
        struct sl_space spaces[SL_N_FORMATS], struct config_key *ret_key)
{
    struct szone zone;
    struct ref_tag ref = { .prvd_name = body->ref_tags[j].prvd_name,
                           .src_name = body->ref_tags[j].src_name,
                           .tag_name = body->ref_tags[j].tag_name };
    const char *at = api_printf(s->call, "/refTags/%zu", j);
    int r = api_defaults(api_call_arena(s->call), &szone_desc, &zone);
    if (r < 0)
        return op_store_error(s->call, r);
    zone.has_ser_slave_id = body->has_ser_slave_id;
    zone.ser_slave_id = body->ser_slave_id;
    zone.has_tcp_slave_id = body->has_tcp_slave_id;
    zone.tcp_slave_id = body->tcp_slave_id;
    zone.swap = body->swap;
    zone.from_ref_taglist = 1;
    enum api_status status = sl_resolve_ref(s, 0, j, &ref);
    if (status != API_OK)
        return status;
    uint32_t other;
    r = config_ref_to(s->txn, &ref, &other);
    if (r == STORE_OK)
        return api_fail(s->call, API_INVALID, at, "tagName exists already");
    zone.ref_tags = &ref;
    zone.n_ref_tags = 1;
    zone.data_format = format_for(&ref);
    uint32_t size = sl_ref_size(&zone, &ref);
    zone.quan = sl_format_is_bits(zone.data_format) ? size : (size + 1) / 2;
    struct sl_space *space = &spaces[zone.data_format];
    zone.address = sl_space_find(space, (uint32_t)body->min_start_addr, (uint32_t)zone.quan);
    if (zone.address >= 0)
        (void)sl_space_take(space, (uint32_t)zone.address, (uint32_t)zone.quan); /* was free */
    status = r < 0 ? op_store_error(s->call, r) : sl_new_zone(s, ret_key);
    if (status == API_OK)
        status = sl_stage_zone(s, 0, ret_key, zone);
    return status == API_OK ? sl_stage_refs(s, 0, ret_key, &zone) : status;
}

enum api_status
modbusd_post_bulk_ref_tags(struct modbusd *self, struct api_call *call,
                           const struct bulk_ref_tag *body)
{
    struct sl_stage s;
    struct config_key *keys = api_alloc(call, body->n_ref_tags * sizeof(*keys));
    struct sl_space *spaces = api_alloc(call, SL_N_FORMATS * sizeof(*spaces));
    enum api_status status = keys && spaces ? sl_stage_begin(self, call, &s) : API_TOO_LARGE;
    for (unsigned format = 0; format < SL_N_FORMATS && status == API_OK; format++) {
        int r = sl_config_space(s.txn, format, &spaces[format]);
        if (r < 0)
            status = op_store_error(call, r);
    }
    for (size_t j = 0; j < body->n_ref_tags && status == API_OK; j++)
        status = add_for(&s, body, j, spaces, &keys[j]);
    return status == API_OK ? sl_reply_zones(call, keys, body->n_ref_tags) : status;
}

/* ---- all zones of a format in a row ---- */

/* Puts the i-th of the sequence at *at, or nowhere when there is no room left. */
static enum api_status
move_to(struct sl_stage *s, const struct szone_sort *body, size_t i, bool away, uint32_t *at)
{
    CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(1 << 20);
    int64_t id = body->sequence[i].szone_id;
    struct config_key key = config_key_zone((uint32_t)id);
    struct szone zone;
    int r = a ? config_get(a, s->txn, &key, &zone) : -ENOMEM;
    if (r < 0)
        return op_store_error(s->call, r);
    if (r == STORE_NOT_FOUND || zone.data_format != body->data_format)
        return api_fail(s->call, API_INVALID, api_printf(s->call, "/sequence/%zu/szoneId", i),
                        "szoneId(%" PRId64 ") does not exist in dataFormat(%" PRId64 ").", id,
                        body->data_format);
    zone.address = -1;
    if (!away && *at + zone.quan <= SL_TABLE_UNITS) {
        zone.address = *at;
        *at += (uint32_t)zone.quan;
    } else if (!away && !zone.from_ref_taglist) {
        return sl_wrong(s->call, 0, "sequence", "there is no room for zone %" PRId64, id);
    }
    r = config_put(a, s->txn, &key, &zone);
    return r < 0 ? op_store_error(s->call, r) : API_OK;
}

/* Zones of a format, placed or not. */
static int
count_zones(struct store_txn *txn, int64_t format, size_t *ret_n)
{
    struct store_iter it;
    uint8_t from[4];
    size_t n = 0;
    put_u32(from, (uint32_t)format);
    int r = store_iter_init(&it, txn, DB_ZONE_PLACE, from, sizeof(from), false);
    if (r < 0)
        return r;
    while ((r = store_iter_next(&it)) == STORE_OK && memcmp(it.key, from, sizeof(from)) == 0)
        n++;
    store_iter_done(&it);
    *ret_n = n;
    return r < 0 ? r : 0;
}

static int
by_id(const void *a, const void *b)
{
    const struct szone_sequence *x = a, *y = b;
    return x->szone_id < y->szone_id ? -1 : x->szone_id > y->szone_id;
}

/* All zones of the format, each once. */
static enum api_status
check_sequence(struct sl_stage *s, const struct szone_sort *body)
{
    size_t n_zones, n = body->n_sequence;
    int r = count_zones(s->txn, body->data_format, &n_zones);
    if (r < 0)
        return op_store_error(s->call, r);
    if (n_zones != n)
        return api_fail(s->call, API_INVALID, "/sequence",
                        "Number of szoneId in sequence(%zu) does not match the number of "
                        "records in db(%zu) for dataFormat(%" PRId64 ").",
                        n, n_zones, body->data_format);
    struct szone_sequence *sorted = api_alloc(s->call, (n + 1) * sizeof(*sorted));
    if (!sorted)
        return API_TOO_LARGE;
    if (n > 0)
        memcpy(sorted, body->sequence, n * sizeof(*sorted));
    qsort(sorted, n, sizeof(*sorted), by_id);
    for (size_t i = 1; i < n; i++)
        if (sorted[i].szone_id == sorted[i - 1].szone_id)
            return api_fail(s->call, API_INVALID, "/sequence",
                            "Input value failed: szoneId(%" PRId64 ") is in sequence twice",
                            sorted[i].szone_id);
    return API_OK;
}

enum api_status
modbusd_put_szone_sort(struct modbusd *self, struct api_call *call,
                       const struct szone_sort *body)
{
    struct sl_stage s;
    uint32_t at = 0;
    size_t n = body->n_sequence;
    struct config_key *keys = api_alloc(call, (n + 1) * sizeof(*keys));
    enum api_status status = keys ? sl_stage_begin(self, call, &s) : API_TOO_LARGE;
    if (status == API_OK)
        status = check_sequence(&s, body);
    /* First all leave their places, since no two may have the same for a moment. */
    for (int away = 1; away >= 0; away--)
        for (size_t i = 0; i < n && status == API_OK; i++)
            status = move_to(&s, body, i, away, &at);
    if (status != API_OK)
        return status;
    for (size_t i = 0; i < n; i++)
        keys[i] = config_key_zone((uint32_t)body->sequence[i].szone_id);
    return sl_reply_zones(call, keys, n);
}

/* ---- the lowest free address ---- */

enum api_status
modbusd_get_szone_available_address(
    struct modbusd *self, struct api_call *call,
    const struct modbusd_get_szone_available_address_query *query,
    struct available_address *reply)
{
    (void)self;
    struct sl_space *space = api_alloc(call, sizeof(*space));
    struct store_txn *txn = api_view(call);
    struct szone zone = { .address = -1, .quan = 1, .data_format = SL_HOLDING };
    if (!txn || !space)
        return txn ? API_TOO_LARGE : API_INTERNAL;
    if (query->has_szone_id) {
        struct config_key key = config_key_zone((uint32_t)query->szone_id);
        int r = config_get(api_call_arena(call), txn, &key, &zone);
        if (r != 0)
            return r < 0 ? op_store_error(call, r) : op_not_found(call);
    } else if (query->has_data_format) {
        zone.data_format = query->data_format;
    }
    if (query->has_szone_id && query->has_data_format && query->data_format != zone.data_format)
        return api_fail(call, API_INVALID, "/dataFormat",
                        "Input value failed: dataFormat is not that of the zone");
    int r = sl_config_space(txn, zone.data_format, space);
    if (r < 0)
        return op_store_error(call, r);
    if (zone.address >= 0)
        sl_space_free(space, (uint32_t)zone.address, (uint32_t)zone.quan);
    reply->address = sl_space_find(space, 0, (uint32_t)zone.quan);
    return API_OK;
}
