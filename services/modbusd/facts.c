/*
 * What the security advisor is told: where the devices are
 * (proto/README.md section 4, SECURITY_FACTS).
 */
#include <errno.h>
#include <string.h>

#include "libcommon/json.h"
#include "libcommon/log.h"
#include "services/modbusd/config.h"

#include "libcommon/banned.h"

enum { FACTS_MAX = 128 << 10 }; /* MODBUSD_DEVS_MAX addresses take half of it */

void
modbusd_serve_security_facts(void *self, struct bus_incoming *in)
{
    const struct modbusd *d = self;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    struct buf b;
    buf_init(&b, FACTS_MAX);
    jw_open(&b, '{');
    jw_name(&b, "devices");
    jw_open(&b, '[');
    int r = store_read(d->svc->store, &txn);
    if (r == 0)
        r = store_iter_init(&it, txn, DB_DEV_ADDR, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        const char *end = memchr(it.key, '|', it.key_size); /* address|port|unit */
        if (end && end != it.key) /* devices on serial lines have none */
            jw_strn(&b, it.key, (size_t)(end - (const char *)it.key));
    }
    jw_close(&b, ']');
    jw_close(&b, '}');
    if (r < 0) {
        log_err("modbusd: cannot tell the facts error=%s", strerror(-r));
        b.err = r;
    }
    bus_answer_json(in, &b);
    buf_done(&b);
}
