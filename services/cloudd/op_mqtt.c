/* /mqtt: clients, their certificates, what they are doing. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/format.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "libcommon/x509.h"
#include "services/cloudd/cloudd.h"
#include "libcommon/banned.h"

static const char next_client_key[] = "next-client";

/* STORE_OK, or a refusal is made. */
static enum api_status
load(struct api_call *call, int64_t id, struct mqtt_configuration *ret_cfg)
{
    uint8_t key[4];
    struct store_txn *txn = api_view(call);
    if (txn == NULL)
        return API_INTERNAL;
    int r = api_store_get(api_call_arena(call), txn, CLOUDD_DB_CLIENTS,
                          cloudd_key(key, (uint32_t)id), sizeof(key), &mqtt_configuration_desc,
                          ret_cfg);
    if (r == STORE_NOT_FOUND)
        return api_fail(call, API_NOT_FOUND, "/id", "mqtt client not found");
    return r < 0 ? api_fail_errno(call, r, "cannot read client %lld", (long long)id) : API_OK;
}

static enum api_status
save(struct api_call *call, int64_t id, const struct mqtt_configuration *cfg)
{
    uint8_t key[4];
    struct store_txn *txn = api_txn(call);
    if (txn == NULL)
        return API_INTERNAL;
    int r = api_store_put(txn, CLOUDD_DB_CLIENTS, cloudd_key(key, (uint32_t)id), sizeof(key),
                          &mqtt_configuration_desc, cfg);
    return r < 0 ? api_fail_errno(call, r, "cannot save client %lld", (long long)id) : API_OK;
}

static void
add_state(struct cloudd *d, int64_t id, struct mqtt_configuration *cfg)
{
    cfg->has_id = true;
    cfg->id = id;
    cfg->has_status = true;
    cfg->status = cloudd_client_status(d, (uint32_t)id);
}

/* The status that a change of the configuration leads to, before anything came of it. */
static void
add_new_state(int64_t id, struct mqtt_configuration *cfg)
{
    cfg->has_id = true;
    cfg->id = id;
    cfg->has_status = true;
    cfg->status = cfg->enable ? MQTT_CONFIGURATION_STATUS_CONNECTING
                              : MQTT_CONFIGURATION_STATUS_DISCONNECT;
}

/* The whole list as this call's transaction sees it; 'changed' is the client it changes, or 0.
 */
static enum api_status
answer_list(struct cloudd *d, struct api_call *call, int64_t changed)
{
    struct store_iter it;
    struct store_txn *txn = api_view(call);
    if (txn == NULL)
        return API_INTERNAL;
    int r = store_iter_init(&it, txn, CLOUDD_DB_CLIENTS, NULL, 0, false);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the clients");
    while ((r = store_iter_next(&it)) == STORE_OK && it.key_size == 4) {
        struct mqtt_configuration cfg = { 0 };
        r = api_store_value(api_call_arena(call), it.value, it.size, &mqtt_configuration_desc,
                            &cfg);
        if (r < 0)
            break;
        if (get_u32(it.key) == changed)
            add_new_state(changed, &cfg);
        else
            add_state(d, get_u32(it.key), &cfg);
        api_item(call, &cfg);
    }
    store_iter_done(&it);
    return r < 0 ? api_fail_errno(call, r, "cannot read the clients") : API_OK;
}

static enum api_status
apply_later(struct api_call *call, int64_t id)
{
    uint32_t *arg = api_alloc(call, sizeof(*arg));
    if (arg == NULL)
        return API_TOO_LARGE;
    *arg = (uint32_t)id;
    api_after_commit(call, cloudd_client_changed, arg);
    return API_OK;
}

/* What a schema cannot say. */
static enum api_status
check(struct api_call *call, const struct mqtt_configuration *cfg)
{
    bool v31 = cfg->protocol_version == MQTT_CONFIGURATION_PROTOCOL_VERSION_3_1;
    if (v31 && strlen(cfg->client_id) > 23)
        return api_fail(call, API_INVALID, "/clientID", "at most 23 characters with MQTT 3.1");
    if (cfg->will_message.enable && format_mqtt_topic(cfg->will_message.topic) < 0)
        return api_fail(call, API_INVALID, "/willMessage/topic",
                        "a will needs a topic without wildcards");
    if (cfg->remote_api.enable)
        return api_fail(call, API_INVALID, "/remoteAPI/enable",
                        "the remote API over MQTT is not offered by this version");
    return API_OK;
}

/* A client ID of our own where none was given: stays with the client. */
static enum api_status
complete(struct cloudd *d, struct api_call *call, int64_t id, struct mqtt_configuration *cfg)
{
    if (cfg->client_id[0] == '\0')
        cfg->client_id =
            api_printf(call, "fg-%08x-%lld", get_u32(store_uuid(d->svc->store)), (long long)id);
    return cfg->client_id != NULL ? API_OK : API_TOO_LARGE;
}

static enum api_status
take_id(struct api_call *call, int64_t *ret_id)
{
    const void *value = NULL;
    size_t size = 0;
    uint64_t n = 0;
    uint8_t next[4];
    struct store_txn *txn = api_txn(call);
    if (txn == NULL)
        return API_INTERNAL;
    int r = store_count(txn, CLOUDD_DB_CLIENTS, &n);
    if (r == 0 && n >= CLOUDD_CLIENTS_MAX)
        return api_fail(call, API_FORBIDDEN, NULL,
                        "mqtt client creation failed: maximum mqtt client limit reached");
    if (r == 0)
        r = store_get(txn, CLOUDD_DB_META, next_client_key, sizeof(next_client_key), &value,
                      &size);
    /* Ids are not used again: stored messages of a deleted client may take a while to go. */
    uint32_t id = r == STORE_OK && size == 4 ? get_u32(value) : 1;
    put_u32(next, id + 1);
    if (r >= 0)
        r = store_put(txn, CLOUDD_DB_META, next_client_key, sizeof(next_client_key), next,
                      sizeof(next));
    *ret_id = id;
    return r < 0 ? api_fail_errno(call, r, "cannot make a client") : API_OK;
}

enum api_status
cloudd_get_mqtt_clients(struct cloudd *self, struct api_call *call)
{
    return answer_list(self, call, 0);
}

enum api_status
cloudd_post_mqtt_client(struct cloudd *self, struct api_call *call,
                        const struct mqtt_configuration *body)
{
    struct mqtt_configuration cfg = *body;
    int64_t id = 0;
    enum api_status status = check(call, &cfg);
    if (status == API_OK)
        status = take_id(call, &id);
    if (status == API_OK)
        status = complete(self, call, id, &cfg);
    if (status == API_OK)
        status = save(call, id, &cfg);
    if (status == API_OK)
        status = apply_later(call, id);
    if (status != API_OK)
        return status;
    api_audit_message(call, "MQTT client %lld created: %s:%lld", (long long)id, cfg.server,
                      (long long)cfg.port);
    return answer_list(self, call, id);
}

enum api_status
cloudd_get_mqtt_client(struct cloudd *self, struct api_call *call,
                       const struct cloudd_get_mqtt_client_path *path,
                       struct mqtt_configuration *reply)
{
    enum api_status status = load(call, path->id, reply);
    if (status == API_OK)
        add_state(self, path->id, reply);
    return status;
}

static const char **
file_name_of(struct mqtt_certificate *c, enum cert_kind kind)
{
    switch (kind) {
    case CERT_ROOT:
        return &c->root_ca_cert_file;
    case CERT_CLIENT:
        return &c->ca_cert_file;
    case CERT_KEY:
    case CERT_KINDS:
        break;
    }
    return &c->ca_pk_file;
}

/* paho signs with the key, and holds its lock the while: it must be a good one. */
static enum api_status
check_key(struct api_call *call, const char *part, const char *pem, size_t n)
{
    static const char mark[] = "PRIVATE KEY-----";
    char reason[X509_REASON_SIZE];
    if (memmem(pem, n, mark, strlen(mark)) == NULL)
        return API_OK;
    int r = x509_check_key_among(pem, n, reason);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the key");
    return r == X509_OK ? API_OK
                        : api_fail(call, API_INVALID, api_printf(call, "/%s", part),
                                   "invalid key content: %s", reason);
}

/* The uploaded files of a form. */
static enum api_status
take_files(struct api_call *call, int64_t id, struct mqtt_configuration *cfg)
{
    unsigned n_taken = 0;
    struct store_txn *txn = api_txn(call);
    if (txn == NULL)
        return API_INTERNAL;
    for (unsigned kind = 0; kind < CERT_KINDS; kind++) {
        const char *file_name, *bytes;
        size_t n;
        if (api_form_part(call, cert_part_names[kind], &file_name, &bytes, &n) < 0)
            continue;
        const char *pointer = api_printf(call, "/%s", cert_part_names[kind]);
        if (cert_check((enum cert_kind)kind, bytes, n) < 0)
            return api_fail(call, API_INVALID, pointer, "%s is no PEM file of the right kind",
                            cert_part_names[kind]);
        enum api_status status = check_key(call, cert_part_names[kind], bytes, n);
        if (status != API_OK)
            return status;
        if (file_name == NULL || strlen(file_name) > 255 ||
            !utf8_valid(file_name, strlen(file_name)))
            return api_fail(call, API_INVALID, pointer, "a file name is required");
        int r = cert_put(txn, (uint32_t)id, (enum cert_kind)kind, bytes, n);
        if (r < 0)
            return api_fail_errno(call, r, "cannot keep %s", cert_part_names[kind]);
        *file_name_of(&cfg->certificate, (enum cert_kind)kind) = file_name;
        n_taken++;
    }
    if (n_taken == 0)
        return api_fail(call, API_INVALID, NULL,
                        "the form needs rootCaCertFile, caCertFile or caPkFile");
    return API_OK;
}

enum api_status
cloudd_put_mqtt_client(struct cloudd *self, struct api_call *call,
                       const struct cloudd_put_mqtt_client_path *path,
                       struct mqtt_configuration *reply)
{
    enum api_status status = load(call, path->id, reply);
    bool form = call->request->body_kind == BUS_BODY_FILE;
    if (status == API_OK)
        status = form ? take_files(call, path->id, reply)
                      : api_merge(call, &mqtt_configuration_desc, reply);
    if (status == API_OK)
        status = check(call, reply);
    if (status == API_OK)
        status = complete(self, call, path->id, reply);
    if (status == API_OK)
        status = save(call, path->id, reply);
    if (status == API_OK)
        status = apply_later(call, path->id);
    if (status != API_OK)
        return status;
    api_audit_message(call, "MQTT client %lld %s", (long long)path->id,
                      form ? "given certificates" : "changed");
    add_new_state(path->id, reply);
    return API_OK;
}

/* Removes all records of a table whose key begins with the client. */
static int
remove_all(struct store_txn *txn, unsigned db, uint32_t client)
{
    struct store_iter it;
    uint8_t from[4];
    int r = store_iter_init(&it, txn, db, cloudd_key(from, client), sizeof(from), false);
    if (r < 0)
        return r;
    while ((r = store_iter_next(&it)) == STORE_OK && it.key_size >= 4 &&
           get_u32(it.key) == client) {
        r = store_iter_del(&it);
        if (r < 0)
            break;
    }
    store_iter_done(&it);
    return r < 0 ? r : 0;
}

enum api_status
cloudd_delete_mqtt_client(struct cloudd *self, struct api_call *call,
                          const struct cloudd_delete_mqtt_client_path *path)
{
    struct mqtt_configuration cfg = { 0 };
    enum api_status status = load(call, path->id, &cfg);
    struct store_txn *txn = status == API_OK ? api_txn(call) : NULL;
    if (txn == NULL)
        return status == API_OK ? API_INTERNAL : status;
    static const unsigned tables[] = { CLOUDD_DB_CLIENTS, CLOUDD_DB_FORWARD, CLOUDD_DB_GROUPS,
                                       CLOUDD_DB_CERTS };
    for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
        int r = remove_all(txn, tables[i], (uint32_t)path->id);
        if (r < 0)
            return api_fail_errno(call, r, "cannot delete client %lld", (long long)path->id);
    }
    status = apply_later(call, path->id); /* stored messages go after the commit, in steps */
    if (status != API_OK)
        return status;
    api_audit_message(call, "MQTT client %lld deleted", (long long)path->id);
    return answer_list(self, call, 0);
}

enum api_status
cloudd_delete_mqtt_certificates(struct cloudd *self, struct api_call *call,
                                const struct cloudd_delete_mqtt_certificates_path *path,
                                struct mqtt_configuration *reply)
{
    (void)self;
    enum api_status status = load(call, path->id, reply);
    struct store_txn *txn = status == API_OK ? api_txn(call) : NULL;
    if (txn == NULL)
        return status == API_OK ? API_INTERNAL : status;
    int r = cert_delete(txn, (uint32_t)path->id);
    if (r < 0)
        return api_fail_errno(call, r, "cannot delete the certificates");
    for (unsigned kind = 0; kind < CERT_KINDS; kind++)
        *file_name_of(&reply->certificate, (enum cert_kind)kind) = "";
    status = save(call, path->id, reply);
    if (status == API_OK)
        status = apply_later(call, path->id);
    if (status != API_OK)
        return status;
    api_audit_message(call, "certificates of MQTT client %lld deleted", (long long)path->id);
    add_new_state(path->id, reply);
    return API_OK;
}

enum api_status
cloudd_get_mqtt_monitor(struct cloudd *self, struct api_call *call,
                        struct cloud_runtime_list_information *reply)
{
    size_t n_enabled = 0, n_connected = 0;
    reply->clients = api_alloc(call, CLOUDD_CLIENTS_MAX * sizeof(reply->clients[0]));
    if (reply->clients == NULL)
        return API_TOO_LARGE;
    for (struct client *c = cloudd_next_client(self, NULL);
         c != NULL && reply->n_clients < CLOUDD_CLIENTS_MAX; c = cloudd_next_client(self, c)) {
        struct cloud_runtime_information *info = &reply->clients[reply->n_clients++];
        cloudd_client_runtime(c, call, info);
        n_enabled += cloudd_client_is_enabled(c);
        n_connected +=
            info->connection_status == CLOUD_RUNTIME_INFORMATION_CONNECTION_STATUS_CONNECTED;
    }
    reply->has_status = true;
    reply->status = n_enabled == 0            ? CLOUD_RUNTIME_LIST_INFORMATION_STATUS_DISABLE
                    : n_connected < n_enabled ? CLOUD_RUNTIME_LIST_INFORMATION_STATUS_WARNING
                                              : CLOUD_RUNTIME_LIST_INFORMATION_STATUS_OK;
    return API_OK;
}
