/*
 * Certificates and private keys as people see them. A key is the key of a
 * certificate when their public keys are the same: nothing else ties them, so
 * either may come first, go and come back.
 */
#include <errno.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/format.h"
#include "libcommon/str.h"
#include "services/authd/authd.h"
#include "services/authd/cert.h"

#include "libcommon/banned.h"

static const char part_source[] = "sourceName", part_name[] = "name", part_file[] = "file";

/* ---- what belongs to a public key ---- */

struct owners {
    struct {
        uint8_t hash[X509_HASH_SIZE];
        char uuid[CERT_UUID_SIZE];
    } all[CERTS_MAX + SYSTEM_CERTS_MAX];
    size_t n;
};

static void
add_owner(struct owners *o, const uint8_t hash[X509_HASH_SIZE], const char *uuid)
{
    if (o->n == ARRAY_LEN(o->all))
        return;
    memcpy(o->all[o->n].hash, hash, X509_HASH_SIZE);
    memcpy(o->all[o->n++].uuid, uuid, CERT_UUID_SIZE);
}

/* Its uuid, "" for none; lives as long as 'o'. */
static const char *
owner_of(const struct owners *o, const uint8_t hash[X509_HASH_SIZE])
{
    for (size_t i = 0; i < o->n; i++)
        if (memcmp(o->all[i].hash, hash, X509_HASH_SIZE) == 0)
            return o->all[i].uuid;
    return "";
}

/* By the public keys of DB_CERTS or DB_SECRETS. In the call's memory; NULL: refused. */
static const struct owners *
load_owners(struct api_call *call, struct store_txn *txn, unsigned db)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    struct owners *o = api_alloc(call, sizeof(*o));
    int r = o ? store_iter_init(&it, txn, db, NULL, 0, false) : -ENOMEM;
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct cert_record cert;
        struct secret_record secret;
        if (db == DB_CERTS && (r = cert_decode(it.value, it.size, &cert)) == STORE_OK)
            add_owner(o, cert.info.key.hash, cert.uuid);
        if (db == DB_SECRETS && (r = secret_decode(it.value, it.size, &secret)) == STORE_OK)
            add_owner(o, secret.hash, secret.uuid);
    }
    if (r >= 0)
        return o;
    (void)api_fail_errno(call, r, "cannot read certificates and keys"); /* NULL says it */
    return NULL;
}

int
secrets_count(const struct authd *a, struct store_txn *txn, size_t *ret_n, size_t *ret_n_lost)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    *ret_n = *ret_n_lost = 0;
    int r = store_iter_init(&it, txn, DB_SECRETS, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct secret_record s;
        r = secret_decode(it.value, it.size, &s);
        *ret_n += 1;
        *ret_n_lost += r == STORE_OK && !vault_fits(&a->vault, s.box, s.box_size);
    }
    return r < 0 ? r : 0;
}

/* ---- what is shown ---- */

static void
fill_values(struct api_call *call, const struct x509_values *v, const char ***ret_values,
            size_t *ret_n)
{
    *ret_values = api_alloc(call, X509_VALUES_MAX * sizeof(**ret_values));
    for (*ret_n = 0; *ret_values && *ret_n < v->n; (*ret_n)++)
        (*ret_values)[*ret_n] = api_strdup(call, v->text[*ret_n]);
}

static void
fill_cert(struct api_call *call, const struct cert_record *c, const struct owners *secrets,
          struct certificate *ret_cert)
{
    static const int statuses[] = { [CERT_VALID] = CERTIFICATE_STATUS_VALID,
                                    [CERT_EXPIRING] = CERTIFICATE_STATUS_EXPIRING,
                                    [CERT_EXPIRED] = CERTIFICATE_STATUS_EXPIRED };
    *ret_cert = (struct certificate){
        .id = (int64_t)c->id,
        .uuid = api_strdup(call, c->uuid),
        .source_name = api_strdup(call, c->source),
        .name = api_strdup(call, c->name),
        .root_ca = c->info.is_ca && c->info.is_self_signed,
        .expired_at = time_text(call, c->info.not_after_us, 0),
        .status = statuses[cert_status(c, clock_wall_us())],
        .system = c->is_system,
        .key_uuid = owner_of(secrets, c->info.key.hash),
    };
    struct subject_names *names = &ret_cert->subject_names;
    fill_values(call, &c->info.country, &names->country, &names->n_country);
    fill_values(call, &c->info.state, &names->state, &names->n_state);
    fill_values(call, &c->info.locality, &names->locality, &names->n_locality);
    fill_values(call, &c->info.organization, &names->organization, &names->n_organization);
    names->common_name = api_strdup(call, c->info.common_name);
    names->issuer = api_strdup(call, c->info.issuer);
}

static void
fill_secret(struct authd *a, struct api_call *call, const struct secret_record *s,
            const struct owners *certs, struct secret_key *ret_key)
{
    *ret_key = (struct secret_key){
        .id = (int64_t)s->id,
        .uuid = api_strdup(call, s->uuid),
        .source_name = api_strdup(call, s->source),
        .name = api_strdup(call, s->name),
        .paired = owner_of(certs, s->hash)[0] != '\0',
        .usable = vault_fits(&a->vault, s->box, s->box_size),
    };
}

enum api_status
authd_get_certificates(struct authd *self, struct api_call *call)
{
    (void)self;
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    struct store_txn *txn = api_view(call);
    const struct owners *secrets = txn ? load_owners(call, txn, DB_SECRETS) : NULL;
    if (!secrets)
        return API_INTERNAL;
    int r = store_iter_init(&it, txn, DB_CERTS, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct cert_record record;
        struct certificate cert;
        r = cert_decode(it.value, it.size, &record);
        if (r < 0)
            break;
        fill_cert(call, &record, secrets, &cert);
        api_item(call, &cert);
    }
    return r < 0 ? api_fail_errno(call, r, "cannot read the certificates") : API_OK;
}

enum api_status
authd_get_keys(struct authd *self, struct api_call *call)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    struct store_txn *txn = api_view(call);
    const struct owners *certs = txn ? load_owners(call, txn, DB_CERTS) : NULL;
    if (!certs)
        return API_INTERNAL;
    int r = store_iter_init(&it, txn, DB_SECRETS, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct secret_record record;
        struct secret_key key;
        r = secret_decode(it.value, it.size, &record);
        if (r < 0)
            break;
        fill_secret(self, call, &record, certs, &key);
        api_item(call, &key);
    }
    return r < 0 ? api_fail_errno(call, r, "cannot read the private keys") : API_OK;
}

static enum api_status
find_cert(struct api_call *call, struct store_txn *txn, const char *uuid,
          struct cert_record *ret_cert)
{
    if (!txn)
        return API_INTERNAL;
    if (format_uuid(uuid) < 0)
        return api_fail(call, API_INVALID, "/uuid", "UUID is required");
    int r = cert_by_uuid(txn, uuid, ret_cert);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the certificates");
    return r == STORE_OK ? API_OK
                         : api_fail(call, API_NOT_FOUND, "/uuid", "certificate not found");
}

enum api_status
authd_get_certificate(struct authd *self, struct api_call *call,
                      const struct authd_get_certificate_path *path,
                      const struct authd_get_certificate_query *query)
{
    (void)self;
    struct cert_record record = { 0 };
    struct certificate_data reply;
    struct store_txn *txn = api_view(call);
    enum api_status status = find_cert(call, txn, path->uuid, &record);
    if (status != API_OK)
        return status;
    if (query->download)
        return api_reply_bytes(call, "application/pem-certificate-chain", record.pem,
                               record.pem_len, record.name);
    const struct owners *secrets = load_owners(call, txn, DB_SECRETS);
    if (!secrets)
        return API_INTERNAL;
    fill_cert(call, &record, secrets, &reply.data);
    api_encode(api_reply_buf(call), &certificate_data_desc, &reply, false);
    return API_OK;
}

/* ---- uploads ---- */

struct upload {
    char source[CERT_NAME_SIZE], name[CERT_NAME_SIZE];
    const char *pem;
    size_t len;
};

static enum api_status
take_name(struct api_call *call, const char *part, char out[CERT_NAME_SIZE])
{
    const char *file_name, *bytes;
    size_t n;
    const char *pointer = api_printf(call, "/%s", part);
    if (api_form_part(call, part, &file_name, &bytes, &n) < 0)
        return api_fail(call, API_INVALID, pointer,
                        "a form (multipart/form-data) with sourceName, name and file is "
                        "required, %s is missing",
                        part);
    if (cert_name(out, bytes, n) < 0)
        return api_fail(call, API_INVALID, pointer,
                        "%s needs 1 to 128 characters, none of them a control character", part);
    return API_OK;
}

static enum api_status
take_upload(struct api_call *call, struct upload *ret_upload)
{
    const char *file_name;
    enum api_status status = take_name(call, part_source, ret_upload->source);
    if (status == API_OK)
        status = take_name(call, part_name, ret_upload->name);
    if (status != API_OK)
        return status;
    if (api_form_part(call, part_file, &file_name, &ret_upload->pem, &ret_upload->len) < 0)
        return api_fail(call, API_INVALID, "/file", "file is missing");
    return API_OK;
}

/* What the store says against one more. */
struct survey {
    size_t n; /* uploaded ones */
    bool has_content, has_name, is_system_source;
};

static enum api_status
judge_survey(struct api_call *call, const struct survey *s, size_t max, const char *what)
{
    if (s->is_system_source)
        return api_fail(call, API_FORBIDDEN, "/sourceName",
                        "can't change the system's develop certificate");
    if (s->has_content)
        return api_fail(call, API_CONFLICT, "/file", "%s exists", what);
    if (s->has_name)
        return api_fail(call, API_CONFLICT, "/name", "%s exists", what);
    if (s->n >= max)
        return api_fail(call, API_FORBIDDEN, NULL,
                        "%s creation failed: maximum %s limit reached", what, what);
    return API_OK;
}

static enum api_status
survey_certs(struct api_call *call, struct store_txn *txn, const struct upload *u,
             const uint8_t hash[X509_HASH_SIZE])
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    struct survey s = { 0 };
    int r = store_iter_init(&it, txn, DB_CERTS, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct cert_record c;
        r = cert_decode(it.value, it.size, &c);
        if (r < 0)
            break;
        bool same_source = str_eq(c.source, u->source);
        s.n += !c.is_system;
        s.is_system_source |= c.is_system && same_source;
        s.has_content |= memcmp(c.info.hash, hash, X509_HASH_SIZE) == 0;
        s.has_name |= same_source && str_eq(c.name, u->name);
    }
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the certificates");
    return judge_survey(call, &s, CERTS_MAX, "certificate");
}

static enum api_status
survey_secrets(struct api_call *call, struct store_txn *txn, const struct upload *u,
               const uint8_t hash[X509_HASH_SIZE])
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    struct survey s = { 0 };
    int r = store_iter_init(&it, txn, DB_SECRETS, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct secret_record k;
        r = secret_decode(it.value, it.size, &k);
        if (r < 0)
            break;
        s.n++;
        s.has_content |= memcmp(k.hash, hash, X509_HASH_SIZE) == 0;
        s.has_name |= str_eq(k.source, u->source) && str_eq(k.name, u->name);
    }
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the private keys");
    return judge_survey(call, &s, SECRETS_MAX, "key");
}

static enum api_status
check_cert(struct api_call *call, const struct upload *u, struct x509_info *ret_info)
{
    char reason[X509_REASON_SIZE];
    int r = x509_check_certs(u->pem, u->len, clock_wall_us(), ret_info, reason);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the certificate");
    if (r == X509_OUT_OF_DATE)
        return api_fail(call, API_INVALID, "/file", "certificate is out of date (%s)", reason);
    return r == X509_OK ? API_OK
                        : api_fail(call, API_INVALID, "/file",
                                   "invalid certificate content: %s", reason);
}

enum api_status
authd_post_certificate(struct authd *self, struct api_call *call, struct certificate *reply)
{
    (void)self;
    struct upload u;
    struct cert_record record = { 0 };
    enum api_status status = take_upload(call, &u);
    if (status == API_OK)
        status = check_cert(call, &u, &record.info);
    struct store_txn *txn = status == API_OK ? api_txn(call) : NULL;
    if (!txn)
        return status == API_OK ? API_INTERNAL : status;
    status = survey_certs(call, txn, &u, record.info.hash);
    if (status != API_OK)
        return status;
    cert_new_uuid(record.uuid);
    memcpy(record.source, u.source, sizeof(record.source));
    memcpy(record.name, u.name, sizeof(record.name));
    record.pem = u.pem;
    record.pem_len = u.len;
    int r = record_next(txn, "next.certificate", &record.id);
    if (r == 0)
        r = cert_put(txn, &record);
    if (r < 0)
        return api_fail_errno(call, r, "cannot save the certificate");
    const struct owners *secrets = load_owners(call, txn, DB_SECRETS);
    if (!secrets)
        return API_INTERNAL;
    api_after_commit(call, cert_expiry_soon, NULL);
    api_audit_message(call, "Certificate %s of %s uploaded by %s", record.name, record.source,
                      call->who->name);
    fill_cert(call, &record, secrets, reply);
    return API_OK;
}

static enum api_status
check_key(struct authd *a, struct api_call *call, const struct upload *u,
          struct secret_record *record)
{
    char reason[X509_REASON_SIZE];
    struct x509_key_info info;
    int r = vault_is_open(&a->vault) ? 0 : vault_open(&a->vault, a->svc->state_dir);
    if (r == -EPROTO)
        return api_fail(call, API_INTERNAL, NULL,
                        "private keys cannot be kept: the file " VAULT_FILE
                        " in authd's state directory is damaged");
    if (r < 0)
        return api_fail_errno(call, r, "private keys cannot be kept");
    r = x509_check_key(u->pem, u->len, &info, reason);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the key");
    if (r != X509_OK)
        return api_fail(call, API_INVALID, "/file", "invalid key content: %s", reason);
    memcpy(record->hash, info.hash, sizeof(record->hash));
    return API_OK;
}

static enum api_status
keep_key(struct authd *a, struct api_call *call, struct store_txn *txn, const struct upload *u,
         struct secret_record *record)
{
    struct buf box;
    buf_init(&box, X509_PEM_MAX + 64);
    vault_seal(&a->vault, u->pem, u->len, &box);
    cert_new_uuid(record->uuid);
    memcpy(record->source, u->source, sizeof(record->source));
    memcpy(record->name, u->name, sizeof(record->name));
    char *kept = box.err ? NULL : api_alloc(call, box.len);
    if (kept)
        memcpy(kept, box.data, box.len);
    record->box = kept;
    record->box_size = box.len;
    buf_done(&box);
    int r = kept ? record_next(txn, "next.key", &record->id) : -ENOMEM;
    if (r == 0)
        r = secret_put(txn, record);
    return r < 0 ? api_fail_errno(call, r, "cannot save the key") : API_OK;
}

static enum api_status
post_key(struct authd *a, struct api_call *call, struct secret_key *reply)
{
    struct upload u;
    struct secret_record record = { 0 };
    enum api_status status = take_upload(call, &u);
    if (status == API_OK)
        status = check_key(a, call, &u, &record);
    struct store_txn *txn = status == API_OK ? api_txn(call) : NULL;
    if (!txn)
        return status == API_OK ? API_INTERNAL : status;
    status = survey_secrets(call, txn, &u, record.hash);
    if (status == API_OK)
        status = keep_key(a, call, txn, &u, &record);
    if (status != API_OK)
        return status;
    const struct owners *certs = load_owners(call, txn, DB_CERTS);
    if (!certs)
        return API_INTERNAL;
    api_audit_message(call, "Private key %s of %s uploaded by %s", record.name, record.source,
                      call->who->name);
    fill_secret(a, call, &record, certs, reply);
    return API_OK;
}

enum api_status
authd_post_key(struct authd *self, struct api_call *call, struct secret_key *reply)
{
    enum api_status status = post_key(self, call, reply);
    api_form_wipe(call, part_file);
    return status;
}

/* ---- deleting ---- */

enum api_status
authd_delete_certificate(struct authd *self, struct api_call *call,
                         const struct authd_delete_certificate_path *path)
{
    (void)self;
    struct cert_record record = { 0 };
    struct store_txn *txn = api_txn(call);
    enum api_status status = find_cert(call, txn, path->uuid, &record);
    if (status == API_OK && record.is_system)
        status = api_fail(call, API_FORBIDDEN, "/uuid",
                          "can't delete the system's develop certificate");
    if (status != API_OK)
        return status;
    int r = cert_delete(txn, record.id);
    if (r < 0)
        return api_fail_errno(call, r, "cannot delete the certificate");
    api_audit_message(call, "Certificate %s of %s deleted by %s", record.name, record.source,
                      call->who->name);
    return API_OK;
}

enum api_status
authd_delete_key(struct authd *self, struct api_call *call,
                 const struct authd_delete_key_path *path)
{
    (void)self;
    struct secret_record record;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    if (format_uuid(path->uuid) < 0)
        return api_fail(call, API_INVALID, "/uuid", "UUID is required");
    int r = secret_by_uuid(txn, path->uuid, &record);
    if (r == STORE_NOT_FOUND)
        return api_fail(call, API_NOT_FOUND, "/uuid", "key not found");
    if (r == STORE_OK)
        r = secret_delete(txn, record.id);
    if (r < 0)
        return api_fail_errno(call, r, "cannot delete the key");
    api_audit_message(call, "Private key %s of %s deleted by %s", record.name, record.source,
                      call->who->name);
    return API_OK;
}
