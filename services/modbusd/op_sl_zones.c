/* Zones of the slave. */
#include <errno.h>
#include <inttypes.h>

#include "services/modbusd/op_sl.h"
#include "libcommon/banned.h"

enum { REPLY_MAX = 128 << 20 };

/* ---- replies: lists of zones have no count ---- */

/* Closes the reply that began with {"data": and the zones. */
static enum api_status
reply_with(struct api_call *call, struct buf *b, int r, const char *tail)
{
    buf_puts(b, tail);
    if (r == 0)
        return modbusd_reply(call, b);
    buf_done(b);
    return op_store_error(call, r < 0 ? r : -EPROTO);
}

enum api_status
sl_reply_zones(struct api_call *call, const struct config_key *keys, size_t n)
{
    struct store_txn *txn = api_view(call);
    struct buf b;
    int r = 0;
    if (!txn)
        return API_INTERNAL;
    buf_init(&b, REPLY_MAX);
    buf_puts(&b, "{\"data\":[");
    for (size_t i = 0; i < n && r == 0; i++) {
        if (i > 0)
            buf_putc(&b, ',');
        r = config_write(txn, &keys[i], &b);
    }
    return reply_with(call, &b, r, "]}");
}

/* As the body was: one zone or a list of them. */
static enum api_status
reply_as_sent(struct api_call *call, const struct config_key *keys, size_t n)
{
    return op_is_list(call) ? sl_reply_zones(call, keys, n) : op_reply_one(call, &keys[0]);
}

enum api_status
modbusd_get_szones(struct modbusd *self, struct api_call *call)
{
    (void)self;
    struct store_txn *txn = api_view(call);
    struct buf b;
    uint64_t n;
    if (!txn)
        return API_INTERNAL;
    buf_init(&b, REPLY_MAX);
    buf_puts(&b, "{\"data\":[");
    int r = config_write_all(txn, KIND_ZONE, &b, &n);
    return reply_with(call, &b, r, "]}");
}

enum api_status
modbusd_get_szone(struct modbusd *self, struct api_call *call,
                  const struct modbusd_get_szone_path *path)
{
    (void)self;
    struct config_key key = config_key_zone((uint32_t)path->szone_id);
    return op_reply_one(call, &key);
}

/* ---- adding ---- */

static enum api_status
add(struct sl_stage *s, size_t i, struct szone zone,
    const struct modbusd_post_szones_query *query, struct config_key *ret_key)
{
    bool with_tags = query->has_auto_create;
    if (zone.has_data_type && !with_tags)
        return sl_wrong(s->call, i, "dataType", "dataType is for autoCreate=tags");
    enum api_status status = sl_new_zone(s, ret_key);
    if (status == API_OK && query->has_create_from_ref_tag && query->create_from_ref_tag)
        status = sl_shape_for_refs(s, i, &zone);
    if (status == API_OK && with_tags)
        status = sl_auto_tags(s, i, ret_key, &zone);
    if (status == API_OK)
        status = sl_stage_zone(s, i, ret_key, zone);
    if (status == API_OK)
        status = sl_stage_tags(s, i, ret_key, &zone);
    if (status == API_OK)
        status = sl_stage_refs(s, i, ret_key, &zone);
    return status == API_OK ? sl_stage_check(s, i, ret_key, &zone) : status;
}

enum api_status
modbusd_post_szones(struct modbusd *self, struct api_call *call,
                    const struct modbusd_post_szones_query *query, const struct szone *body,
                    size_t n_body)
{
    struct sl_stage s;
    struct config_key *keys = api_alloc(call, n_body * sizeof(*keys));
    enum api_status status = keys ? sl_stage_begin(self, call, &s) : API_TOO_LARGE;
    for (size_t i = 0; i < n_body && status == API_OK; i++)
        status = add(&s, i, body[i], query, &keys[i]);
    return status == API_OK ? reply_as_sent(call, keys, n_body) : status;
}

/* ---- changing ---- */

/* Before the zones of a request take their new places all leave the old: they may exchange
 * them.
 */
static enum api_status
make_way(struct sl_stage *s, const struct config_key *key)
{
    struct szone old;
    int r = config_get(api_call_arena(s->call), s->txn, key, &old);
    if (r != 0)
        return op_store_error(s->call, r);
    old.address = -1;
    r = config_put(api_call_arena(s->call), s->txn, key, &old);
    return r < 0 ? op_store_error(s->call, r) : API_OK;
}

/* Lists that were not sent stay as they are. */
static enum api_status
put(struct sl_stage *s, size_t i, const struct config_key *key, const struct szone *zone)
{
    enum api_status status = sl_stage_zone(s, i, key, *zone);
    if (status == API_OK && api_sent(s->call, op_pointer(s->call, i, "tags")))
        status = sl_stage_tags(s, i, key, zone);
    if (status == API_OK && api_sent(s->call, op_pointer(s->call, i, "refTags")))
        status = sl_stage_refs(s, i, key, zone);
    return status == API_OK ? sl_stage_check(s, i, key, zone) : status;
}

/* The zone that the i-th of the body names. */
static enum api_status
find_named(struct sl_stage *s, const struct szone *body, size_t i, struct config_key *ret_key)
{
    const void *value;
    size_t size;
    const char *at = op_pointer(s->call, i, "szoneId");
    if (!body[i].has_szone_id)
        return api_fail(s->call, API_INVALID, at, "szoneId should exist");
    *ret_key = config_key_zone((uint32_t)body[i].szone_id);
    int r = store_get(s->txn, DB_ZONE, ret_key->bytes, ret_key->size, &value, &size);
    if (r == STORE_NOT_FOUND)
        return api_fail(s->call, API_INVALID, at, "szoneId(%" PRId64 ") not exists",
                        body[i].szone_id);
    if (r < 0)
        return op_store_error(s->call, r);
    for (size_t k = 0; k < i; k++)
        if (body[k].szone_id == body[i].szone_id)
            return api_fail(s->call, API_INVALID, at, "szoneId exists already");
    if (body[i].has_data_type)
        return sl_wrong(s->call, i, "dataType", "dataType is for autoCreate=tags");
    return API_OK;
}

enum api_status
sl_put_zones(struct sl_stage *s, const struct szone *body, size_t n_body,
             struct config_key *keys)
{
    enum api_status status = API_OK;
    for (size_t i = 0; i < n_body && status == API_OK; i++) {
        status = find_named(s, body, i, &keys[i]);
        if (status == API_OK)
            status = make_way(s, &keys[i]);
    }
    for (size_t i = 0; i < n_body && status == API_OK; i++)
        status = put(s, i, &keys[i], &body[i]);
    return status;
}

enum api_status
modbusd_put_szones(struct modbusd *self, struct api_call *call, const struct szone *body,
                   size_t n_body)
{
    struct sl_stage s;
    struct config_key *keys = api_alloc(call, n_body * sizeof(*keys));
    enum api_status status = keys ? sl_stage_begin(self, call, &s) : API_TOO_LARGE;
    if (status == API_OK)
        status = sl_put_zones(&s, body, n_body, keys);
    return status == API_OK ? reply_as_sent(call, keys, n_body) : status;
}

enum api_status
modbusd_put_szones_and_apply(struct modbusd *self, struct api_call *call,
                             const struct szone *body, size_t n_body)
{
    enum api_status status = modbusd_put_szones(self, call, body, n_body);
    return status == API_OK ? sl_apply(call) : status;
}

static enum api_status
replace(struct sl_stage *s, const struct config_key *key, const struct szone *zone)
{
    if (zone->has_szone_id && zone->szone_id != config_key_id(key))
        return sl_wrong(s->call, 0, "szoneId", "szoneId cannot change");
    enum api_status status = put(s, 0, key, zone);
    return status == API_OK ? op_reply_one(s->call, key) : status;
}

enum api_status
modbusd_put_szone(struct modbusd *self, struct api_call *call,
                  const struct modbusd_put_szone_path *path, const struct szone *body)
{
    struct sl_stage s;
    struct config_key key;
    enum api_status status = sl_stage_begin(self, call, &s);
    if (status == API_OK)
        status = sl_find_zone(call, s.txn, path->szone_id, &key);
    if (status != API_OK)
        return status;
    if (body->has_data_type)
        return sl_wrong(call, 0, "dataType", "dataType is for autoCreate=tags");
    return replace(&s, &key, body);
}

/* The new own tags take the place of those that are there. */
static enum api_status
patch_with_tags(struct sl_stage *s, const struct config_key *key, struct szone *zone)
{
    enum api_status status = sl_auto_tags(s, 0, key, zone);
    if (status == API_OK)
        status = sl_stage_zone(s, 0, key, *zone);
    if (status == API_OK)
        status = sl_stage_tags(s, 0, key, zone);
    zone->n_tags = 0;
    return status;
}

enum api_status
modbusd_patch_szone(struct modbusd *self, struct api_call *call,
                    const struct modbusd_patch_szone_path *path,
                    const struct modbusd_patch_szone_query *query)
{
    struct sl_stage s;
    struct config_key key;
    struct szone zone;
    enum api_status status = sl_stage_begin(self, call, &s);
    if (status == API_OK)
        status = sl_find_zone(call, s.txn, path->szone_id, &key);
    if (status == API_OK)
        status = op_patch(call, s.txn, &key, &szone_desc, &zone);
    if (status == API_OK && zone.has_data_type && !query->has_auto_create)
        status = sl_wrong(call, 0, "dataType", "dataType is for autoCreate=tags");
    if (status == API_OK && query->has_auto_create)
        status = patch_with_tags(&s, &key, &zone);
    return status == API_OK ? replace(&s, &key, &zone) : status;
}

/* ---- deleting ---- */

static enum api_status
delete_listed(struct api_call *call, struct store_txn *txn, enum config_kind kind,
              const char *name, const int64_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(1 << 20);
        struct config_key key = config_key_zone((uint32_t)ids[i]);
        int r = a ? 0 : -ENOMEM;
        if (r == 0 && kind != KIND_ZONE)
            r = config_find_in_zone(txn, kind, (uint32_t)ids[i], &key);
        if (r == 0)
            r = config_del(a, txn, &key);
        if (r == STORE_NOT_FOUND)
            return api_fail(call, API_INVALID, api_printf(call, "/%s/%zu", name, i),
                            "%s(%" PRId64 ") not exists", name, ids[i]);
        if (r < 0)
            return op_store_error(call, r);
    }
    return API_OK;
}

enum api_status
modbusd_delete_szones(struct modbusd *self, struct api_call *call,
                      const struct modbusd_delete_szones_query *query,
                      const struct szone_id_list *body)
{
    (void)self;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    if (query->has_del_all) {
        if (!body || !api_sent(call, "/szoneId"))
            return api_fail(call, API_INVALID, "/szoneId", "Key(szoneId) not found");
        return delete_listed(call, txn, KIND_ZONE, "szoneId", body->szone_id, body->n_szone_id);
    }
    if (body)
        return api_fail(call, API_INVALID, "",
                        "Input value failed: a body is for delAll=false");
    int r = config_del_all(txn, KIND_ZONE);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

enum api_status
modbusd_delete_szone(struct modbusd *self, struct api_call *call,
                     const struct modbusd_delete_szone_path *path)
{
    (void)self;
    struct config_key key;
    struct store_txn *txn = api_txn(call);
    enum api_status status = sl_find_zone(call, txn, path->szone_id, &key);
    if (status != API_OK)
        return status;
    int r = config_del(api_call_arena(call), txn, &key);
    return r != 0 ? op_store_error(call, r) : API_OK;
}

enum api_status
modbusd_post_szones_delete(struct modbusd *self, struct api_call *call,
                           const struct szone_delete_list *body)
{
    (void)self;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    if (!api_sent(call, "/szoneId") && !api_sent(call, "/refTagId"))
        return api_fail(call, API_INVALID, "/szoneId", "Key(szoneId) not found");
    enum api_status status =
        delete_listed(call, txn, KIND_REF, "refTagId", body->ref_tag_id, body->n_ref_tag_id);
    return status == API_OK ? delete_listed(call, txn, KIND_ZONE, "szoneId", body->szone_id,
                                            body->n_szone_id)
                            : status;
}
