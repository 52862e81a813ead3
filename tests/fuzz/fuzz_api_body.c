/*
 * Bodies of operations of authd and modbusd, by their descriptors. The first
 * byte picks the operation; after it a whole body, then behind a new-line a
 * partial one, which goes over the first (or over the defaults). What was
 * accepted is shown as JSON, kept, and comes back from the store the same.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gen/api_authd.h"
#include "gen/api_modbusd.h"
#include "libcommon/api.h"
#include "libcommon/base.h"
#include "libcommon/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ENCODED_MAX = 16 << 20, ARENA_MAX = 256 << 20, BODIES_MAX = 256 };

static size_t
add_bodies(const struct api_op **all, size_t n, const struct api_op *ops, size_t n_ops)
{
    for (size_t i = 0; i < n_ops; i++) {
        if (ops[i].body_desc == NULL)
            continue;
        MUST(n < BODIES_MAX);
        all[n++] = &ops[i];
    }
    return n;
}

static const struct api_op *
pick(uint8_t at)
{
    static const struct api_op *all[BODIES_MAX];
    static size_t n;
    if (n == 0) {
        n = add_bodies(all, n, authd_ops, authd_n_ops);
        n = add_bodies(all, n, modbusd_ops, modbusd_n_ops);
    }
    return all[at % n];
}

static void
encode(struct buf *b, const struct api_desc *desc, const void *record, bool store)
{
    struct json_error error;
    buf_init(b, ENCODED_MAX);
    api_encode(b, desc, record, store);
    MUST(b->err == 0 && json_check(b->data, b->len, &error) == 0);
}

/* Does the store give the record back? Then it is shown, and kept again, as before. */
static bool
is_kept(struct api_arena *a, const struct api_desc *desc, const void *record)
{
    struct buf shown, kept, again;
    encode(&shown, desc, record, false);
    encode(&kept, desc, record, true);
    void *back = api_arena_alloc(a, desc->size);
    MUST(back != NULL);
    int r = api_store_value(a, kept.data, kept.len, desc, back);
    MUST(r == 0 || r == -EPROTO);
    if (r == 0) {
        encode(&again, desc, back, true);
        MUST(again.len == kept.len && memcmp(again.data, kept.data, kept.len) == 0);
        buf_done(&again);
        encode(&again, desc, back, false);
        MUST(again.len == shown.len && memcmp(again.data, shown.data, shown.len) == 0);
        buf_done(&again);
    }
    buf_done(&kept);
    buf_done(&shown);
    return r == 0;
}

/* True when the text was accepted as what 'mode' says and is in 'record'. */
static bool
decode(struct api_arena *a, const struct api_desc *desc, const char *text, size_t len,
       enum api_decode mode, void *record)
{
    CLEANUP(json_freep) struct cJSON *tree = NULL;
    struct json_error error;
    struct api_fault fault;
    if (json_parse(text, len, &tree, &error) < 0)
        return false;
    int r = api_decode(a, desc, tree, mode, record, &fault);
    MUST(r == 0 || r == -EINVAL);
    if (r == 0)
        return true;
    MUST(memchr(fault.pointer, '\0', sizeof(fault.pointer)) != NULL);
    MUST(memchr(fault.message, '\0', sizeof(fault.message)) != NULL);
    MUST(fault.pointer[0] == '\0' || fault.pointer[0] == '/');
    return false;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    const struct api_op *op = pick(data[0]);
    const struct api_desc *desc = op->body_desc;
    const char *text = (const char *)data + 1, *end = (const char *)data + size;
    const char *line = memchr(text, '\n', size - 1);
    CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(ARENA_MAX);
    MUST(a != NULL);
    void *record = api_arena_alloc(a, desc->size);
    MUST(record != NULL);

    size_t len = (size_t)((line != NULL ? line : end) - text);
    bool whole = decode(a, desc, text, len, API_DECODE_REQUEST, record);
    if (!whole)
        MUST(api_defaults(a, desc, record) == 0);
    bool kept = is_kept(a, desc, record);
    /* A body that is only ever partial is no record: it may lack what has no default. */
    MUST(!whole || kept || op->partial);
    if (line != NULL)
        text = line + 1;
    if (decode(a, desc, text, (size_t)(end - text), API_DECODE_PARTIAL, record))
        MUST(!kept || is_kept(a, desc, record));
    return 0;
}
