/*
 * The record of what is wanted of the HTTPS front: u16 port, u8 redirect, and
 * with a length byte each the names of certificate, key and pair.
 */
#include <errno.h>
#include <string.h>

#include "libcommon/str.h"
#include "services/sysd/sysd.h"

#include "libcommon/banned.h"

const char *const sysd_dbs[SYSD_N_DBS] = { "config", "outbox" };
static const char key[] = "httpserver";
enum { RECORD_MAX = 1024 };

static int
read_text(struct rd *in, char *out, size_t out_size)
{
    size_t len;
    const char *text = rd_str8(in, &len);
    return text == NULL ? -EPROTO : str_copy_len(out, out_size, text, len);
}

int
wanted_load(struct store_txn *txn, struct wanted *ret_wanted)
{
    struct wanted w = { 0 };
    const void *value;
    size_t size;
    struct rd in;
    int r = store_get(txn, SYSD_DB_CONFIG, key, strlen(key), &value, &size);
    if (r < 0)
        return r;
    if (r == STORE_OK) {
        rd_init(&in, value, size);
        w.port = rd_u16(&in);
        w.redirect = rd_u8(&in);
        if (read_text(&in, w.cert_name, sizeof(w.cert_name)) < 0 ||
            read_text(&in, w.key_name, sizeof(w.key_name)) < 0 ||
            read_text(&in, w.pair, sizeof(w.pair)) < 0 || !rd_ended(&in) ||
            w.redirect > REDIRECT_ON)
            return -EPROTO;
    }
    *ret_wanted = w;
    return 0;
}

int
wanted_save(struct store_txn *txn, const struct wanted *w)
{
    struct buf b;
    buf_init(&b, RECORD_MAX);
    buf_put_u16(&b, w->port);
    buf_put_u8(&b, w->redirect);
    buf_put_str8(&b, w->cert_name, strlen(w->cert_name));
    buf_put_str8(&b, w->key_name, strlen(w->key_name));
    buf_put_str8(&b, w->pair, strlen(w->pair));
    int r =
        b.err != 0 ? b.err : store_put(txn, SYSD_DB_CONFIG, key, strlen(key), b.data, b.len);
    buf_done(&b);
    return r;
}
