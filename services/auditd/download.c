/*
 * The audit log as a file: rows as CSV in a gzipped tar, written while the
 * client reads it.
 *
 * A tar says the size of a file before its bytes, so the rows are read twice:
 * once to count, once to write. Records never change; and rotation waits for
 * a download, so that both readings find the same ones. It waits only so long
 * (auditd_download_holds): after that the download is cut short.
 */
#include <errno.h>
#include <string.h>

#include "libcommon/audit.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "services/auditd/auditd.h"
#include "services/auditd/csv.h"
#include "services/auditd/select.h"
#include "services/auditd/pack.h"

#include "libcommon/banned.h"

enum {
    ARENA_MAX = 64 << 10,
    STEP_ROWS = 1000, /* read in one transaction */
    STEP_BYTES = 512 << 10,
    LINE_MAX_BYTES = 64 << 10, /* of one row, which is at most twice a record and its rest */
    HOLD_PERCENT = 110,        /* of the size that the log should have */
};
static const uint64_t hold_us = UINT64_C(600) * 1000000;

struct download {
    struct download *next; /* of those that are under way */
    struct auditd *a;
    struct api_arena *arena; /* of the filter's words */
    struct trail_filter filter;
    struct trail_walk walk;
    uint64_t began_us;
    /* a step: made on the loop, used by the writer's thread */
    struct trail_key *keys; /* rows found and not read yet: at .. n_keys - 1 */
    size_t at, n_keys;
    struct buf records; /* of this step: u64 id, u32 size, bytes each */
    int error;
    /* the writer's */
    struct buf lines;
    struct pack *pack; /* NULL: it only counts */
    uint64_t size;
};

static void
download_free(struct download *d)
{
    pack_free(d->pack);
    buf_done(&d->lines);
    buf_done(&d->records);
    free(d->keys);
    trail_filter_done(&d->filter);
    api_arena_free(d->arena);
    free(d);
}

/* ---- on the loop ---- */

static int
read_one(struct download *d, struct store_txn *txn, uint64_t id)
{
    uint8_t key[8];
    const void *value;
    size_t size;
    int r =
        store_get(txn, TRAIL_DB_RECORDS, store_key_u64(key, id), sizeof(key), &value, &size);
    if (r != STORE_OK)
        return r < 0 ? r : -ESTALE;
    buf_put_u64(&d->records, id);
    buf_put_u32(&d->records, (uint32_t)size);
    buf_put(&d->records, value, size);
    return d->records.err;
}

/* The next records, in one short transaction; none: there are no more. */
static void
read_step(void *arg)
{
    struct download *d = arg;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    buf_reset(&d->records);
    int r = store_read(d->a->svc->store, &txn);
    if (r == 0 && d->at == d->n_keys) {
        d->at = 0;
        r = trail_walk_next(txn, &d->a->state, &d->walk, SELECT_PAGE_MAX, d->keys, &d->n_keys);
    }
    size_t end = d->at + STEP_ROWS < d->n_keys ? d->at + STEP_ROWS : d->n_keys;
    while (r == 0 && d->at < end && d->records.len < STEP_BYTES)
        r = read_one(d, txn, d->keys[d->at++].id);
    d->error = r;
}

static void
download_done(void *arg)
{
    struct download *d = arg;
    for (struct download **p = &d->a->downloads; *p; p = &(*p)->next)
        if (*p == d) {
            *p = d->next;
            break;
        }
    auditd_trim_soon(d->a); /* it may have waited */
    download_free(d);
}

bool
auditd_download_holds(const struct auditd *a)
{
    uint64_t limit = (uint64_t)a->setting.desired_disk_cache_size_mb << 20;
    if (a->state.bytes > limit / 100 * HOLD_PERCENT)
        return false;
    for (const struct download *d = a->downloads; d; d = d->next)
        if (clock_mono_us() - d->began_us < hold_us)
            return true;
    return false;
}

/* ---- the writer ---- */

static int
to_pipe(void *arg, const void *bytes, size_t n)
{
    return api_pipe_write(arg, bytes, n);
}

static int
put_lines(struct download *d)
{
    int r = d->lines.err;
    d->size += d->lines.len;
    if (r == 0 && d->pack)
        r = pack_write(d->pack, d->lines.data, d->lines.len);
    buf_reset(&d->lines);
    return r;
}

/* The rows of a step as lines. */
static int
put_step(struct download *d)
{
    struct rd in;
    int r = 0;
    rd_init(&in, d->records.data, d->records.len);
    while (r == 0 && in.at < in.end) {
        struct trail_record t;
        uint64_t id = rd_u64(&in);
        uint32_t size = rd_u32(&in);
        r = trail_decode(id, rd_bytes(&in, size), size, &t);
        if (r == 0 && trail_filter_passes(&d->filter, &t))
            csv_put_record(&d->lines, &t);
        if (r == 0 && d->lines.len >= STEP_BYTES)
            r = put_lines(d);
    }
    return r == 0 ? put_lines(d) : r;
}

/* All rows once: to be counted, or into the archive. */
static int
put_all(struct download *d, struct api_pipe *p)
{
    d->size = 0;
    d->at = d->n_keys = 0;
    d->walk.has_begun = false;
    csv_put_header(&d->lines);
    int r = put_lines(d);
    while (r == 0) {
        r = api_pipe_on_loop(p, read_step, d);
        if (r == 0)
            r = d->error;
        if (r < 0 || d->records.len == 0)
            return r;
        r = put_step(d);
    }
    return r;
}

static int
write_download(struct api_pipe *p, void *arg)
{
    struct download *d = arg;
    int r = put_all(d, p);
    if (r == 0)
        r = pack_new(PACK_TAR_GZ, to_pipe, p, &d->pack);
    if (r == 0)
        r = pack_entry(d->pack, "audit.csv", d->size, clock_wall_us());
    if (r == 0)
        r = put_all(d, p);
    return r == 0 ? pack_finish(d->pack) : r;
}

/* ---- the call ---- */

static struct download *
download_new(struct auditd *a, const struct auditd_get_audits_query *query,
             const struct trail_filter *filter)
{
    struct download *d = calloc(1, sizeof(*d));
    if (!d)
        return NULL;
    d->a = a;
    d->began_us = clock_mono_us();
    buf_init(&d->records, STEP_BYTES + TRAIL_VALUE_MAX + 64);
    buf_init(&d->lines, STEP_BYTES + LINE_MAX_BYTES);
    d->keys = calloc(SELECT_PAGE_MAX, sizeof(*d->keys));
    d->arena = api_arena_new(ARENA_MAX);
    if (!d->keys || !d->arena || auditd_copy_filter(d->arena, filter, &d->filter) < 0) {
        download_free(d);
        return NULL;
    }
    d->walk = (struct trail_walk){
        .filter = &d->filter,
        .order = (enum trail_order)query->order,
        .descending = query->sort == AUDITD_GET_AUDITS_QUERY_SORT_DESC,
        .first_id = a->state.next_id - a->state.n,
        .end_id = a->state.next_id,
    };
    return d;
}

enum api_status
auditd_download(struct auditd *a, struct api_call *call,
                const struct auditd_get_audits_query *query, const struct trail_filter *filter)
{
    struct download *d = download_new(a, query, filter);
    if (!d)
        return api_fail_errno(call, -ENOMEM, "cannot begin the download");
    d->next = a->downloads;
    a->downloads = d;
    enum api_status status = api_reply_pipe(call, "application/tar+gz", "audit.tar.gz",
                                            write_download, download_done, d);
    if (status != API_OK)
        return status;
    /* A refusal takes the pipe back before it is begun. */
    int r = auditd_record_download(a, call, "auditDownload", "Download the audit log");
    return r < 0 ? api_fail_errno(call, r, "cannot record the download") : API_OK;
}
