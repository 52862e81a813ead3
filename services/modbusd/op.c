#include "services/modbusd/op.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "libcommon/banned.h"

enum { REPLY_MAX = 128 << 20 };

bool
op_is_list(const struct api_call *call)
{
    return api_sent(call, "/0");
}

const char *
op_pointer(struct api_call *call, size_t i, const char *member)
{
    bool list = op_is_list(call);
    const char *text = "";
    if (member)
        text = list ? api_printf(call, "/%zu/%s", i, member) : api_printf(call, "/%s", member);
    else if (list)
        text = api_printf(call, "/%zu", i);
    return text ? text : "";
}

enum api_status
op_not_found(struct api_call *call)
{
    return api_fail(call, API_NOT_FOUND, NULL, "Member not exists");
}

enum api_status
op_store_error(struct api_call *call, int r)
{
    if (r == -EOVERFLOW)
        return api_fail(call, API_INVALID, NULL, "Input value failed: no numbers are left");
    if (r == -E2BIG)
        return api_fail(call, API_TOO_LARGE, NULL, "the answer is too large: ask for less");
    return api_fail_errno(call, r < 0 ? r : -EPROTO, "cannot use the configuration");
}

/*
 * As the original says it; 'i18n' and 'variables' are for a user interface that translates.
 * 'port': of what kind commands have the limit, "tcp" or "serial".
 */
static enum api_status
limit_reached(struct api_call *call, enum config_db db, const char *port, uint64_t max)
{
    enum { OTHER = -1, COMMANDS = -113, TAGS = -115 };
    static const char i18n[] = "{\"message\":{\"key\":\"MODBUS_MASTER_EVENT_%s_LIMIT_FAIL\","
                               "\"variables\":{\"quan\":%" PRIu64 ",\"%s\":\"%s\"}}}";
    switch (db) {
    case DB_CMD:
        (void)api_fail(call, API_INVALID, NULL,
                       "Exceed the limit of %" PRIu64 " commands per %s port", max, port);
        api_fail_code(call, COMMANDS, api_printf(call, i18n, "COMMAND", max, "mode", port));
        break;
    case DB_TAG:
        (void)api_fail(call, API_INVALID, NULL,
                       "Exceed the limit of %" PRIu64 " total tag quantity", max);
        api_fail_code(call, TAGS, api_printf(call, i18n, "TAG", max, "type", "total"));
        break;
    case DB_ZONE:
        return api_fail(call, API_INVALID, NULL, "Exceed the limit of %" PRIu64 " zones", max);
    case DB_SL_TAG:
        return api_fail(call, API_INVALID, NULL,
                        "Exceed the limit of %" PRIu64 " tags of zones", max);
    case DB_REF:
        return api_fail(call, API_INVALID, NULL,
                        "Exceed the limit of %" PRIu64 " reference tags", max);
    default:
        (void)api_fail(call, API_INVALID, NULL,
                       "Exceed the limit of %" PRIu64 " remote devices", max);
        api_fail_code(call, OTHER, NULL);
        break;
    }
    return API_INVALID;
}

static uint64_t
original_max(enum config_db db)
{
    switch (db) {
    case DB_CMD:
        return MODBUSD_ORIGINAL_CMDS_MAX;
    case DB_TAG:
        return MODBUSD_ORIGINAL_TAGS_MAX;
    case DB_ZONE:
    case DB_SL_TAG:
    case DB_REF:
        return MODBUSD_ORIGINAL_SL_MAX;
    default:
        return UINT64_MAX;
    }
}

enum api_status
op_check_room(struct api_call *call, struct store_txn *txn, enum config_db db, size_t n,
              uint64_t max)
{
    const struct modbusd *d = call->svc->self;
    uint64_t there;
    int r = store_count(txn, db, &there);
    if (r < 0)
        return op_store_error(call, r);
    if (d->original_limits && original_max(db) < max)
        max = original_max(db);
    return there + n > max ? limit_reached(call, db, "tcp", max) : API_OK;
}

/* What there is of that which the original limits. */
struct original_counts {
    unsigned n_tcp, n_serial;
    size_t n_cmds[SERIAL_PORTS_MAX + 1]; /* by serial interface, from 1 */
};

static int
count_dev(struct api_call *call, struct store_txn *txn, const struct store_iter *it,
          struct original_counts *counts)
{
    struct api_arena *a = api_call_arena(call);
    struct config_key key, *cmds;
    struct remote_dev dev;
    size_t n;
    int r = api_store_value(a, it->value, it->size, &remote_dev_desc, &dev);
    if (r < 0)
        return r;
    if (!dev.has_master_ser_iface_id) {
        counts->n_tcp++;
        return 0;
    }
    counts->n_serial++;
    r = config_key_of(KIND_DEV, it->key, it->key_size, &key);
    if (r == 0)
        r = config_keys_below(a, txn, &key, KIND_CMD, &cmds, &n);
    if (r == 0 && dev.master_ser_iface_id <= SERIAL_PORTS_MAX)
        counts->n_cmds[dev.master_ser_iface_id] += n;
    return r;
}

static int
count_originals(struct api_call *call, struct store_txn *txn, struct original_counts *counts)
{
    struct store_iter it;
    int r = store_iter_init(&it, txn, DB_DEV, NULL, 0, false);
    if (r < 0)
        return r;
    while ((r = store_iter_next(&it)) == STORE_OK) {
        r = count_dev(call, txn, &it, counts);
        if (r < 0)
            break;
    }
    store_iter_done(&it);
    return r < 0 ? r : 0;
}

enum api_status
op_check_original_limits(struct api_call *call, struct store_txn *txn)
{
    const struct modbusd *d = call->svc->self;
    struct original_counts counts = { 0 };
    if (!d->original_limits)
        return API_OK;
    int r = count_originals(call, txn, &counts);
    if (r < 0)
        return op_store_error(call, r);
    if (counts.n_tcp > MODBUSD_ORIGINAL_DEVS_MAX)
        return limit_reached(call, DB_DEV, "tcp", MODBUSD_ORIGINAL_DEVS_MAX);
    if (counts.n_serial > MODBUSD_ORIGINAL_SER_DEVS_MAX)
        return limit_reached(call, DB_DEV, "serial", MODBUSD_ORIGINAL_SER_DEVS_MAX);
    for (size_t i = 0; i < ARRAY_LEN(counts.n_cmds); i++)
        if (counts.n_cmds[i] > MODBUSD_ORIGINAL_PORT_CMDS_MAX)
            return limit_reached(call, DB_CMD, "serial", MODBUSD_ORIGINAL_PORT_CMDS_MAX);
    return API_OK;
}

enum api_status
modbusd_reply(struct api_call *call, struct buf *json)
{
    int r = json->err;
    if (r == 0)
        api_reply_json(call, json->data, json->len);
    buf_done(json);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

enum api_status
op_patch(struct api_call *call, struct store_txn *txn, const struct config_key *key,
         const struct api_desc *desc, void *ret_record)
{
    if (!txn)
        return API_INTERNAL;
    int r = config_get(api_call_arena(call), txn, key, ret_record);
    return r != 0 ? op_store_error(call, r) : api_merge(call, desc, ret_record);
}

enum api_status
op_undo(struct api_call *call, enum config_side side)
{
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    int r = config_undo(txn, side);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

enum api_status
op_get_change(struct api_call *call, enum config_side side, struct config_change *reply)
{
    uint64_t n;
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    int r = config_count_touched(txn, side, &n);
    if (r < 0)
        return op_store_error(call, r);
    reply->result = n > 0;
    return API_OK;
}

enum api_status
op_reply_one(struct api_call *call, const struct config_key *key)
{
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    struct buf b;
    buf_init(&b, REPLY_MAX);
    buf_puts(&b, "{\"data\":");
    int r = config_write(txn, key, &b);
    buf_putc(&b, '}');
    if (r == 0)
        return modbusd_reply(call, &b);
    buf_done(&b);
    return r == STORE_NOT_FOUND ? op_not_found(call) : op_store_error(call, r);
}

enum api_status
op_reply_only(struct api_call *call, const struct config_key *key)
{
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    struct buf b;
    buf_init(&b, REPLY_MAX);
    buf_puts(&b, "{\"data\":["); /* clients of the original find the data at a fixed place */
    int r = config_write(txn, key, &b);
    buf_puts(&b, "],\"count\":1}");
    if (r == 0)
        return modbusd_reply(call, &b);
    buf_done(&b);
    return op_store_error(call, r);
}

void
op_put_platform_tag(struct buf *b, const struct tag_def *def)
{
    static const char *const access[] = { "", "r", "w", "rw" };
    jw_open(b, '{');
    jw_kstr(b, "prvdName", def->provider);
    jw_kstr(b, "srcName", def->source);
    jw_kstr(b, "tagName", def->name);
    jw_kstr(b, "dataType", tag_type_text(def->type));
    jw_kstr(b, "access", access[def->access & 3]);
    if (def->size)
        jw_ki64(b, "dataSize", def->size);
    if (def->unit[0])
        jw_kstr(b, "dataUnit", def->unit);
    jw_close(b, '}');
}

enum api_status
op_reply_all(struct api_call *call, enum config_kind kind)
{
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    struct buf b;
    uint64_t n = 0;
    int r = store_count(txn, DB_ONE + kind, &n);
    buf_init(&b, REPLY_MAX);
    buf_printf(&b, "{\"count\":%" PRIu64 ",\"data\":[", n);
    if (r == 0)
        r = config_write_all(txn, kind, &b, &n);
    buf_puts(&b, "]}");
    if (r == 0)
        return modbusd_reply(call, &b);
    buf_done(&b);
    return op_store_error(call, r);
}

enum api_status
op_reply_added(struct api_call *call, const struct config_key *keys, size_t n)
{
    if (!op_is_list(call))
        return op_reply_one(call, &keys[0]);
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    struct buf b;
    int r = 0;
    buf_init(&b, REPLY_MAX);
    buf_printf(&b, "{\"count\":%zu,\"data\":[", n);
    for (size_t i = 0; i < n && r == 0; i++) {
        if (i > 0)
            buf_putc(&b, ',');
        r = config_write(txn, &keys[i], &b);
    }
    buf_puts(&b, "]}");
    if (r == 0)
        return modbusd_reply(call, &b);
    buf_done(&b);
    return op_store_error(call, r);
}
