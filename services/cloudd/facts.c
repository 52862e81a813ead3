/*
 * What the security advisor is told: how each client reaches its broker
 * (proto/README.md section 4, SECURITY_FACTS).
 */
#include <errno.h>
#include <string.h>

#include "libcommon/json.h"
#include "libcommon/log.h"
#include "services/cloudd/cloudd.h"

#include "libcommon/banned.h"

enum { FACTS_MAX = 64 << 10 };

/* To the broker: by name, or by a certificate, which only TLS shows. */
static bool
is_identified(const struct mqtt_configuration *cfg)
{
    return cfg->user_name[0] != '\0' ||
           (cfg->certificate_over_tls && cfg->certificate.ca_cert_file[0] != '\0' &&
            cfg->certificate.ca_pk_file[0] != '\0');
}

static void
put_client(struct buf *b, uint32_t id, const struct mqtt_configuration *cfg)
{
    static const char *const versions[] = { "1.3", "1.2", "1.1", "1.0" };
    _Static_assert(MQTT_CONFIGURATION_TLS_VERSION_1_0 == ARRAY_LEN(versions) - 1,
                   "versions are the contract's");
    jw_open(b, '{');
    jw_ku64(b, "id", id);
    jw_kstr(b, "server", cfg->server);
    jw_kbool(b, "tls", cfg->certificate_over_tls);
    jw_kbool(b, "verify", !cfg->insecure_skip_verify);
    jw_kstr(b, "tlsVersion", versions[cfg->tls_version]);
    jw_kbool(b, "identified", is_identified(cfg));
    jw_close(b, '}');
}

/* The enabled ones. 0 or -errno. */
static int
put_clients(struct buf *b, const struct cloudd *d, struct api_arena *arena)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    int r = store_read(d->svc->store, &txn);
    if (r == 0)
        r = store_iter_init(&it, txn, CLOUDD_DB_CLIENTS, NULL, 0, false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct mqtt_configuration cfg = { 0 };
        r = it.key_size == 4
                ? api_store_value(arena, it.value, it.size, &mqtt_configuration_desc, &cfg)
                : -EPROTO;
        if (r == 0 && cfg.enable)
            put_client(b, get_u32(it.key), &cfg);
    }
    return r < 0 ? r : 0;
}

void
cloudd_security_facts(void *self, struct bus_incoming *in)
{
    const struct cloudd *d = self;
    CLEANUP(api_arena_freep)
    struct api_arena *arena = api_arena_new(CLOUDD_CLIENTS_MAX * CLOUDD_RECORD_MAX);
    struct buf b;
    buf_init(&b, FACTS_MAX);
    jw_open(&b, '{');
    jw_name(&b, "mqtt");
    jw_open(&b, '[');
    int r = arena != NULL ? put_clients(&b, d, arena) : -ENOMEM;
    jw_close(&b, ']');
    jw_close(&b, '}');
    if (r < 0) {
        log_err("cloudd: cannot tell the facts error=%s", strerror(-r));
        b.err = r;
    }
    bus_answer_json(in, &b);
    buf_done(&b);
}
