/*
 * Since when each finding has its status: kept with the store, so that a
 * report can tell what is new from what was so at the last inspection.
 *
 * Record: for each finding text8 id, u8 status, u64 since (Unix seconds).
 */
#include <string.h>

#include "libcommon/buf.h"
#include "libcommon/store.h"
#include "services/auditd/secadvisor.h"

#include "libcommon/banned.h"

enum { RECORD_MAX = SEC_CHECKS_MAX * 32 };
static const char key[] = "secadvisor";

static struct sec_finding *
find(struct sec_report *report, const char *id, size_t len)
{
    for (size_t i = 0; i < report->n; i++) {
        const char *mine = report->findings[i].check->id;
        if (strlen(mine) == len && memcmp(mine, id, len) == 0)
            return &report->findings[i];
    }
    return NULL;
}

int
sec_history_read(struct store_txn *txn, unsigned db, struct sec_report *report,
                 bool *ret_changed)
{
    const void *value;
    size_t size, n_same = 0;
    struct rd rd;
    int r = store_get(txn, db, key, strlen(key), &value, &size);
    if (r < 0)
        return r;
    rd_init(&rd, value, r == STORE_OK ? size : 0);
    while (rd_left(&rd) > 0 && !rd.bad) {
        size_t len;
        const char *id = rd_str8(&rd, &len);
        uint8_t status = rd_u8(&rd);
        int64_t since_s = (int64_t)rd_u64(&rd);
        struct sec_finding *f = rd.bad ? NULL : find(report, id, len);
        if (f && f->status == status) {
            if (since_s < f->since_s) /* else the clock was ahead then */
                f->since_s = since_s;
            n_same++;
        }
    }
    *ret_changed = n_same != report->n;
    return 0;
}

int
sec_history_write(struct store_txn *txn, unsigned db, const struct sec_report *report)
{
    struct buf b;
    buf_init(&b, RECORD_MAX);
    for (size_t i = 0; i < report->n; i++) {
        const struct sec_finding *f = &report->findings[i];
        buf_put_str8(&b, f->check->id, strlen(f->check->id));
        buf_put_u8(&b, (uint8_t)f->status);
        buf_put_u64(&b, (uint64_t)f->since_s);
    }
    int r = b.err;
    if (r == 0)
        r = store_put(txn, db, key, strlen(key), b.data, b.len);
    buf_done(&b);
    return r;
}
