/*
 * The certificates that daemons use, as they tell: listed with the uploaded
 * ones and watched for their end. They are described, not judged, for they are
 * in use whatever we think of them. One that is told again keeps id and uuid,
 * and nothing is written then.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <string.h>

#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "services/authd/authd.h"
#include "services/authd/cert.h"

#include "libcommon/banned.h"

struct published {
    char source[CERT_NAME_SIZE];
    struct cert_record all[PUBLISHED_MAX];
    bool is_known[PUBLISHED_MAX];
    size_t n;
};

/* False: not a text that could be a certificate with a name. One that cannot be read is left
 * out. */
static bool
read_one(struct published *p, const cJSON *item)
{
    char reason[X509_REASON_SIZE];
    struct cert_record *c = &p->all[p->n];
    const char *name = json_text(json_get(item, "name")),
               *pem = json_text(json_get(item, "pem"));
    if (!name || !pem || cert_name(c->name, name, strlen(name)) < 0)
        return false;
    c->pem = pem;
    c->pem_len = strlen(pem);
    int r = x509_read_certs(pem, c->pem_len, &c->info, reason);
    if (r != X509_OK) {
        log_warn("authd: certificate in use cannot be listed name=%s reason=%s", c->name,
                 r < 0 ? strerror(-r) : reason);
        return true;
    }
    memcpy(c->source, p->source, sizeof(c->source));
    c->is_system = true;
    p->n++;
    return true;
}

/* What lives in 'tree' is not copied. 0 or -EINVAL. */
static int
read_published(const cJSON *tree, struct published *p)
{
    const char *source = json_text(json_get(tree, "sourceName"));
    const cJSON *list = json_get(tree, "certificates"), *item;
    if (!source || cert_name(p->source, source, strlen(source)) < 0 || !cJSON_IsArray(list))
        return -EINVAL;
    size_t n = 0;
    cJSON_ArrayForEach(item, list)
    {
        if (n++ == PUBLISHED_MAX || !read_one(p, item))
            return -EINVAL;
    }
    return 0;
}

static bool
is_same(const struct cert_record *a, const struct cert_record *b)
{
    return str_eq(a->name, b->name) && a->pem_len == b->pem_len &&
           memcmp(a->pem, b->pem, a->pem_len) == 0;
}

/* Marks it known. False: it is not told any more. */
static bool
match(struct published *p, const struct cert_record *old)
{
    for (size_t i = 0; i < p->n; i++)
        if (!p->is_known[i] && is_same(&p->all[i], old)) {
            p->is_known[i] = true;
            return true;
        }
    return false;
}

struct difference {
    uint64_t gone[SYSTEM_CERTS_MAX];
    size_t n_gone, n_new;
    size_t n_system; /* of all sources, afterwards */
};

static int
compare(struct store_txn *txn, struct published *p, struct difference *ret_d)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    struct difference d = { 0 };
    int r = store_iter_init(&it, txn, DB_CERTS, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct cert_record c;
        r = cert_decode(it.value, it.size, &c);
        if (r < 0)
            return r;
        if (!c.is_system)
            continue;
        if (str_eq(c.source, p->source) && !match(p, &c) && d.n_gone < SYSTEM_CERTS_MAX)
            d.gone[d.n_gone++] = c.id;
        else
            d.n_system++;
    }
    for (size_t i = 0; i < p->n; i++)
        d.n_new += !p->is_known[i];
    d.n_system += d.n_new;
    *ret_d = d;
    return r < 0 ? r : 0;
}

static int
write_difference(struct store_txn *txn, struct published *p, const struct difference *d)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < d->n_gone; i++)
        r = cert_delete(txn, d->gone[i]);
    for (size_t i = 0; r == 0 && i < p->n; i++) {
        if (p->is_known[i])
            continue;
        cert_new_uuid(p->all[i].uuid);
        r = record_next(txn, "next.certificate", &p->all[i].id);
        if (r == 0)
            r = cert_put(txn, &p->all[i]);
    }
    return r;
}

static int
replace(struct authd *a, struct published *p)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    struct difference d = { 0 };
    int r = store_begin(a->svc->store, &txn);
    if (r == 0)
        r = compare(txn, p, &d);
    if (r < 0 || d.n_gone + d.n_new == 0)
        return r;
    if (d.n_system > SYSTEM_CERTS_MAX)
        return -E2BIG;
    r = write_difference(txn, p, &d);
    if (r == 0)
        r = store_commit(MOVE_PTR(txn));
    if (r == 0)
        cert_expiry_soon(a, NULL);
    return r;
}

static unsigned
status_of(int error)
{
    switch (error) {
    case 0:
        return API_OK;
    case -EINVAL:
        return API_INVALID;
    case -E2BIG:
        return API_FORBIDDEN;
    case -ENOSPC:
        return API_NO_SPACE;
    default:
        return API_INTERNAL;
    }
}

void
authd_cert_publish(void *self, struct bus_incoming *in)
{
    static struct published p; /* too large for the stack; one at a time */
    const struct bus_request *rq = bus_incoming_request(in);
    CLEANUP(json_freep) struct cJSON *tree = NULL;
    struct json_error e;
    int r = -EINVAL;
    memset(&p, 0, sizeof(p));
    if (rq->body_kind == BUS_BODY_JSON && json_parse(rq->body.p, rq->body.len, &tree, &e) == 0)
        r = read_published(tree, &p);
    if (r == 0)
        r = replace(self, &p);
    if (r < 0)
        log_warn("authd: certificates in use not listed source=%s error=%s", p.source,
                 strerror(-r));
    bus_answer_status(in, (uint16_t)status_of(r));
}
