/*
 * The certificates of clients, told to authd: an expired one is a connection
 * that fails one night. Only what holds nothing but certificates leaves the
 * store: some people keep the key in the same file.
 */
#include <errno.h>
#include <stdio.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/cert_publish.h"
#include "libcommon/x509.h"
#include "services/cloudd/cloudd.h"
#include "libcommon/banned.h"

static void
add(struct buf *list, uint32_t client, const char *pem, size_t n)
{
    struct x509_info info;
    char name[32], reason[X509_REASON_SIZE];
    if (x509_read_certs(pem, n, &info, reason) != X509_OK)
        return;
    (void)snprintf(name, sizeof(name), "mqtt-%u.crt", client); /* fits */
    cert_publish_add(list, name, pem, n);
}

static int
fill(struct buf *list, void *arg)
{
    const struct cloudd *d = arg;
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    struct store_iter it = { 0 };
    int r = store_read(d->svc->store, &txn);
    if (r == 0)
        r = store_iter_init(&it, txn, CLOUDD_DB_CERTS, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        const uint8_t *key = it.key;
        if (it.key_size == 5 && key[4] == CERT_CLIENT)
            add(list, get_u32(key), it.value, it.size);
    }
    return r < 0 ? r : 0;
}

int
cert_tell(struct cloudd *d)
{
    return cert_publish_new(d->svc, "mqtt", fill, d, &d->published);
}
