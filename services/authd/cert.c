#include "services/authd/cert.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/str.h"
#include "services/authd/record.h"

#include "libcommon/banned.h"

enum { RECORD_MAX = X509_PEM_MAX + (32 << 10) };
#define DAY_US (INT64_C(24) * 3600 * 1000000)

void
cert_new_uuid(char ret_uuid[CERT_UUID_SIZE])
{
    uint8_t b[16];
    randombytes_buf(b, sizeof(b));
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40); /* version 4 */
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80); /* variant */
    (void)snprintf(ret_uuid, CERT_UUID_SIZE, "%08x-%04x-%04x-%04x-%04x%08x", get_u32(b),
                   get_u16(b + 4), get_u16(b + 6), get_u16(b + 8), get_u16(b + 10),
                   get_u32(b + 12)); /* fits */
}

int
cert_name(char out[CERT_NAME_SIZE], const char *text, size_t len)
{
    if (len == 0 || len >= CERT_NAME_SIZE || !utf8_valid(text, len) ||
        utf8_count(text, len) > (CERT_NAME_SIZE - 1) / 4)
        return -EINVAL;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
            return -EINVAL;
    return str_copy_len(out, CERT_NAME_SIZE, text, len);
}

enum cert_status
cert_status(const struct cert_record *c, int64_t now_us)
{
    int64_t left_us = c->info.not_after_us - now_us;
    if (left_us < 0)
        return CERT_EXPIRED;
    return left_us <= CERT_EXPIRING_DAYS * DAY_US ? CERT_EXPIRING : CERT_VALID;
}

/* ---- encoding ---- */

static void
put_text(struct buf *b, const char *text)
{
    buf_put_str16(b, text, strlen(text));
}

static void
put_values(struct buf *b, const struct x509_values *v)
{
    buf_put_u8(b, (uint8_t)v->n);
    for (size_t i = 0; i < v->n; i++)
        put_text(b, v->text[i]);
}

static void
get_values(struct rd *r, struct x509_values *ret_values)
{
    ret_values->n = rd_u8(r);
    if (ret_values->n > X509_VALUES_MAX) {
        ret_values->n = 0;
        r->bad = true;
    }
    for (size_t i = 0; i < ret_values->n; i++)
        rd_text16(r, ret_values->text[i], X509_TEXT_SIZE);
}

static void
get_hash(struct rd *r, uint8_t out[X509_HASH_SIZE])
{
    const uint8_t *hash = rd_bytes(r, X509_HASH_SIZE);
    if (hash)
        memcpy(out, hash, X509_HASH_SIZE);
}

/* The bytes at the end, in place. */
static const void *
get_rest(struct rd *r, size_t *ret_n)
{
    *ret_n = rd_left(r);
    return rd_bytes(r, *ret_n);
}

int
cert_put(struct store_txn *txn, const struct cert_record *c)
{
    struct buf b;
    buf_init(&b, RECORD_MAX);
    buf_put_u64(&b, c->id);
    put_text(&b, c->uuid);
    put_text(&b, c->source);
    put_text(&b, c->name);
    buf_put_u8(&b, c->is_system);
    buf_put_u8(&b, c->told);
    put_values(&b, &c->info.country);
    put_values(&b, &c->info.state);
    put_values(&b, &c->info.locality);
    put_values(&b, &c->info.organization);
    put_text(&b, c->info.common_name);
    put_text(&b, c->info.issuer);
    buf_put_u64(&b, (uint64_t)c->info.not_before_us);
    buf_put_u64(&b, (uint64_t)c->info.not_after_us);
    buf_put_u8(&b, c->info.is_ca);
    buf_put_u8(&b, c->info.is_self_signed);
    buf_put(&b, c->info.hash, X509_HASH_SIZE);
    buf_put(&b, c->info.key.hash, X509_HASH_SIZE);
    buf_put(&b, c->pem, c->pem_len);
    return record_put(txn, DB_CERTS, c->id, &b);
}

int
cert_decode(const void *value, size_t size, struct cert_record *ret_cert)
{
    struct rd r;
    struct cert_record *c = ret_cert;
    memset(c, 0, sizeof(*c));
    rd_init(&r, value, size);
    c->id = rd_u64(&r);
    rd_text16(&r, c->uuid, sizeof(c->uuid));
    rd_text16(&r, c->source, sizeof(c->source));
    rd_text16(&r, c->name, sizeof(c->name));
    c->is_system = rd_u8(&r);
    c->told = rd_u8(&r);
    get_values(&r, &c->info.country);
    get_values(&r, &c->info.state);
    get_values(&r, &c->info.locality);
    get_values(&r, &c->info.organization);
    rd_text16(&r, c->info.common_name, sizeof(c->info.common_name));
    rd_text16(&r, c->info.issuer, sizeof(c->info.issuer));
    c->info.not_before_us = (int64_t)rd_u64(&r);
    c->info.not_after_us = (int64_t)rd_u64(&r);
    c->info.is_ca = rd_u8(&r);
    c->info.is_self_signed = rd_u8(&r);
    get_hash(&r, c->info.hash);
    get_hash(&r, c->info.key.hash);
    c->pem = get_rest(&r, &c->pem_len);
    return rd_ended(&r) ? STORE_OK : -EPROTO;
}

int
secret_put(struct store_txn *txn, const struct secret_record *s)
{
    struct buf b;
    buf_init(&b, RECORD_MAX);
    buf_put_u64(&b, s->id);
    put_text(&b, s->uuid);
    put_text(&b, s->source);
    put_text(&b, s->name);
    buf_put(&b, s->hash, X509_HASH_SIZE);
    buf_put(&b, s->box, s->box_size);
    return record_put(txn, DB_SECRETS, s->id, &b);
}

int
secret_decode(const void *value, size_t size, struct secret_record *ret_secret)
{
    struct rd r;
    struct secret_record *s = ret_secret;
    memset(s, 0, sizeof(*s));
    rd_init(&r, value, size);
    s->id = rd_u64(&r);
    rd_text16(&r, s->uuid, sizeof(s->uuid));
    rd_text16(&r, s->source, sizeof(s->source));
    rd_text16(&r, s->name, sizeof(s->name));
    get_hash(&r, s->hash);
    s->box = get_rest(&r, &s->box_size);
    return rd_ended(&r) ? STORE_OK : -EPROTO;
}

/* ---- finding: there are few ---- */

int
cert_by_uuid(struct store_txn *txn, const char *uuid, struct cert_record *ret_cert)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int r = store_iter_init(&it, txn, DB_CERTS, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        r = cert_decode(it.value, it.size, ret_cert);
        if (r == STORE_OK && str_eq(ret_cert->uuid, uuid))
            return STORE_OK;
    }
    return r;
}

int
secret_by_uuid(struct store_txn *txn, const char *uuid, struct secret_record *ret_secret)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int r = store_iter_init(&it, txn, DB_SECRETS, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        r = secret_decode(it.value, it.size, ret_secret);
        if (r == STORE_OK && str_eq(ret_secret->uuid, uuid))
            return STORE_OK;
    }
    return r;
}

static int
delete_id(struct store_txn *txn, unsigned db, uint64_t id)
{
    uint8_t key[8];
    return store_del(txn, db, store_key_u64(key, id), 8);
}

int
cert_delete(struct store_txn *txn, uint64_t id)
{
    return delete_id(txn, DB_CERTS, id);
}

int
secret_delete(struct store_txn *txn, uint64_t id)
{
    return delete_id(txn, DB_SECRETS, id);
}
