/*
 * Records of the store: structs kept as JSON of all members. Apart from
 * api_codec.c, which clients without a store use too.
 */
#include "libcommon/api.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <string.h>

#include "libcommon/json.h"

#include "libcommon/banned.h"

enum { RECORD_MAX = 1 << 20 };

int
api_store_put(struct store_txn *txn, unsigned db, const void *key, size_t key_size,
              const struct api_desc *desc, const void *record)
{
    struct buf b;
    buf_init(&b, RECORD_MAX);
    api_encode(&b, desc, record, true);
    int r = b.err ? b.err : store_put(txn, db, key, key_size, b.data, b.len);
    buf_done(&b);
    return r;
}

int
api_store_value(struct api_arena *a, const void *value, size_t size,
                const struct api_desc *desc, void *ret_record)
{
    CLEANUP(json_freep) cJSON *tree = NULL;
    struct json_error e;
    int r = json_parse(value, size, &tree, &e);
    if (r < 0)
        return r == -ENOMEM ? r : -EPROTO;
    memset(ret_record, 0, desc->size);
    r = api_decode(a, desc, tree, API_DECODE_STORE, ret_record, NULL);
    return r == -EINVAL ? -EPROTO : r;
}

int
api_store_get(struct api_arena *a, struct store_txn *txn, unsigned db, const void *key,
              size_t key_size, const struct api_desc *desc, void *ret_record)
{
    const void *value;
    size_t size;
    int r = store_get(txn, db, key, key_size, &value, &size);
    if (r != STORE_OK)
        return r;
    r = api_store_value(a, value, size, desc, ret_record);
    return r < 0 ? r : STORE_OK;
}
