/*
 * A client: one broker connection that is kept up, and what waits for it.
 *
 * A message of a group goes into the store (store and forward) or into a
 * bounded list in memory, and from there, in order, into the window of the
 * connection. It leaves store or list when the broker has acknowledged it;
 * when the connection breaks, all that was under way is sent again.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/api.h"
#include "libcommon/cert_publish.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "services/cloudd/cloudd.h"
#include "services/cloudd/mqtt_conn.h"
#include "libcommon/banned.h"

enum {
    FIRST_RETRY_US = 1000000,
    STEADY_US = 5000000, /* a connection that lasted so long starts the back-off anew */
    REFUSED_AFTER = 5,   /* connections in a row that ended on the same message */
};

enum state { CLIENT_OFF, CLIENT_WAITING, CLIENT_OPENING, CLIENT_UP, CLIENT_CLOSING };

/* A message in memory. */
struct memory_message {
    struct memory_message *next, *prev;
    char *topic; /* behind the payload */
    size_t len;
    char payload[];
};

/* What a slot of the window carries. */
struct flight {
    bool used;
    struct memory_message *m; /* NULL: stored message 'seq' */
    uint64_t seq;
};

struct client {
    struct client *next;
    struct cloudd *d;
    uint32_t id;
    bool deleted;
    struct api_arena *arena; /* holds cfg */
    struct mqtt_configuration cfg;
    struct store_and_forward forward_cfg; /* its texts are not used */
    struct policy *policies;

    enum state state;
    bool failed;  /* the last attempt to connect failed */
    bool changed; /* the connection is closed for a new configuration */
    struct mqtt_conn *conn;
    struct loop_timer retry;
    unsigned n_failures;
    uint64_t up_us; /* since when; monotonic */
    char why[MQTT_WHY_MAX];

    struct flight flights[MQTT_WINDOW];
    unsigned n_flights;
    struct flight suspect; /* was the oldest under way when the connection broke, … */
    unsigned n_suspected;  /* … so often in a row, and nothing was acknowledged since */
    unsigned careful;      /* so many messages go one at a time, to find the one at fault */

    struct forward_queue *queue;
    uint64_t backlog_end; /* stored messages below waited for this connection: they are paced */
    struct loop_timer pace;

    struct memory_message *first, *last, *unsent;
    size_t n_memory, memory_bytes;

    uint64_t messages, acknowledged, dropped, refused;
    int64_t last_fail_us, last_connected_us, last_upload_us; /* wall; 0: never */
    int upload_status;
};

static void connect_now(struct client *c);
static void kick(struct client *c);

const void *
cloudd_key(uint8_t out[4], uint32_t client)
{
    put_u32(out, client);
    return out;
}

const void *
cloudd_group_key(uint8_t out[8], uint32_t client, uint32_t group)
{
    put_u32(out, client);
    put_u32(out + 4, group);
    return out;
}

uint32_t
cloudd_client_id(const struct client *c)
{
    return c->id;
}

bool
cloudd_client_is_enabled(const struct client *c)
{
    return c->cfg.enable && !c->deleted;
}

struct policy **
cloudd_client_policies(struct client *c)
{
    return &c->policies;
}

struct client *
cloudd_next_client(const struct cloudd *d, const struct client *c)
{
    return c == NULL ? d->clients : c->next;
}

struct client *
cloudd_client(const struct cloudd *d, uint32_t id)
{
    struct client *c = d->clients;
    while (c != NULL && c->id != id)
        c = c->next;
    return c;
}

static uint64_t
now_us(const struct client *c)
{
    return loop_now_us(c->d->svc->loop);
}

static void
set_timer(struct client *c, struct loop_timer *t, uint64_t at_us)
{
    if (loop_timer_set(c->d->svc->loop, t, at_us) < 0)
        log_err("client: no memory for a timer");
}

/* ---- the list in memory ---- */

static void
memory_remove(struct client *c, struct memory_message *m)
{
    if (m->prev != NULL)
        m->prev->next = m->next;
    else
        c->first = m->next;
    if (m->next != NULL)
        m->next->prev = m->prev;
    else
        c->last = m->prev;
    if (c->unsent == m)
        c->unsent = m->next;
    if (c->suspect.m == m)
        c->n_suspected = 0;
    c->n_memory--;
    c->memory_bytes -= m->len;
    free(m);
}

static void
memory_add(struct client *c, const char *topic, const char *payload, size_t len)
{
    while (c->unsent != NULL && (c->n_memory >= CLOUDD_MEMORY_MESSAGES ||
                                 c->memory_bytes + len > CLOUDD_MEMORY_BYTES)) {
        memory_remove(c, c->unsent);
        c->dropped++;
    }
    size_t topic_size = strlen(topic) + 1;
    struct memory_message *m = NULL;
    if (c->n_memory < CLOUDD_MEMORY_MESSAGES && c->memory_bytes + len <= CLOUDD_MEMORY_BYTES)
        m = malloc(sizeof(*m) + len + topic_size);
    if (m == NULL) {
        c->dropped++;
        return;
    }
    memcpy(m->payload, payload, len);
    m->topic = m->payload + len;
    memcpy(m->topic, topic, topic_size);
    m->len = len;
    m->next = NULL;
    m->prev = c->last;
    if (c->last != NULL)
        c->last->next = m;
    else
        c->first = m;
    c->last = m;
    if (c->unsent == NULL)
        c->unsent = m;
    c->n_memory++;
    c->memory_bytes += len;
}

/* ---- sending ---- */

static int
free_slot(const struct client *c)
{
    for (int i = 0; i < MQTT_WINDOW; i++)
        if (!c->flights[i].used)
            return i;
    return -1;
}

static void
take_slot(struct client *c, int slot, struct memory_message *m, uint64_t seq)
{
    c->flights[slot] = (struct flight){ .used = true, .m = m, .seq = seq };
    c->n_flights++;
}

/* One stored message; true when it went. */
static bool
send_stored(struct client *c, int slot)
{
    struct forward_message m;
    int r = forward_next(c->queue, &m);
    if (r < 0)
        log_err("client: cannot read a stored message client=%u error=%s", c->id, strerror(-r));
    if (r != STORE_OK)
        return false;
    int qos = c->cfg.qos > 1 ? (int)c->cfg.qos : 1;
    r = mqtt_conn_publish(c->conn, (unsigned)slot, m.topic, m.payload, m.len, qos, m.retain);
    if (r < 0) {
        mqtt_conn_close(c->conn); /* sent again on the next connection */
        c->state = CLIENT_CLOSING;
        return false;
    }
    take_slot(c, slot, NULL, m.seq);
    if (m.seq < c->backlog_end)
        set_timer(c, &c->pace,
                  now_us(c) + (uint64_t)c->forward_cfg.send_delay_millsecond * 1000);
    return true;
}

static bool
send_memory(struct client *c, int slot)
{
    struct memory_message *m = c->unsent;
    if (m == NULL)
        return false;
    int r = mqtt_conn_publish(c->conn, (unsigned)slot, m->topic, m->payload, m->len,
                              (int)c->cfg.qos, c->cfg.retain);
    if (r < 0) {
        mqtt_conn_close(c->conn);
        c->state = CLIENT_CLOSING;
        return false;
    }
    take_slot(c, slot, m, 0);
    c->unsent = m->next;
    return true;
}

/* Fills the window. Stored messages are older than those in memory. */
static void
kick(struct client *c)
{
    while (c->state == CLIENT_UP && c->n_flights < (c->careful > 0 ? 1 : MQTT_WINDOW)) {
        if (loop_timer_is_set(&c->pace))
            return;
        int slot = free_slot(c);
        bool sent = !c->d->stopping && send_stored(c, slot);
        if (!sent && (c->state != CLIENT_UP || !send_memory(c, slot)))
            return;
    }
}

static void
on_pace(void *arg)
{
    kick(arg);
}

static void
store_message(struct client *c, const char *topic, const char *payload, size_t len)
{
    (void)forward_put(c->queue, topic, payload, len, c->cfg.retain); /* counts drops */
}

/* Store and forward was switched on: what is in memory becomes stored, in order. */
static void
store_memory(struct client *c)
{
    struct memory_message *next;
    if (!c->forward_cfg.enable)
        return;
    for (struct memory_message *m = c->first; m != NULL; m = next) {
        next = m->next;
        store_message(c, m->topic, m->payload, m->len);
        memory_remove(c, m);
    }
}

void
cloudd_client_send(struct client *c, const char *topic, const char *payload, size_t len)
{
    c->messages++;
    if (c->forward_cfg.enable && c->first == NULL) {
        store_message(c, topic, payload, len);
    } else {
        memory_add(c, topic, payload, len);
        kick(c);
    }
}

void
cloudd_client_lost(struct client *c, uint64_t n)
{
    if (n > 0)
        log_err("client: values were lost for lack of memory client=%u values=%llu", c->id,
                (unsigned long long)n);
    c->dropped += n;
}

static void
on_sent(void *arg, unsigned slot, bool ok)
{
    struct client *c = arg;
    struct flight *f = &c->flights[slot];
    if (!f->used)
        return;
    if (!ok) {
        /* It stays where it is and goes again, in order, on a new connection. */
        c->upload_status = CLOUD_RUNTIME_INFORMATION_LAST_D2_C_UPLOAD_STATUS_FAIL;
        if (c->state == CLIENT_UP) {
            c->state = CLIENT_CLOSING;
            mqtt_conn_close(c->conn);
        }
        return;
    }
    f->used = false;
    c->n_flights--;
    c->acknowledged++;
    c->n_suspected = 0;
    if (c->careful > 0)
        c->careful--;
    c->last_upload_us = clock_wall_us();
    c->upload_status = CLOUD_RUNTIME_INFORMATION_LAST_D2_C_UPLOAD_STATUS_SUCCESS;
    if (f->m != NULL)
        memory_remove(c, f->m);
    else
        (void)forward_done(c->queue, f->seq); /* without memory: sent again after a restart */
    kick(c);
}

/* ---- the connection ---- */

static void
client_free(struct client *c)
{
    struct cloudd *d = c->d;
    cloudd_drop_policies(c);
    loop_timer_cancel(d->svc->loop, &c->retry);
    loop_timer_cancel(d->svc->loop, &c->pace);
    forward_close(c->queue);
    struct memory_message *next;
    for (struct memory_message *m = c->first; m != NULL; m = next) {
        next = m->next;
        free(m);
    }
    api_arena_free(c->arena);
    free(c);
}

static uint64_t
retry_delay_us(const struct client *c)
{
    uint64_t most = (uint64_t)c->cfg.retry_interval * 1000000;
    uint64_t delay = (uint64_t)FIRST_RETRY_US << (c->n_failures > 12 ? 12 : c->n_failures);
    return delay < most ? delay : most;
}

static void
connect_later(struct client *c)
{
    c->state = CLIENT_WAITING;
    set_timer(c, &c->retry, clock_mono_us() + retry_delay_us(c));
    c->n_failures++;
}

static void
on_up(void *arg)
{
    struct client *c = arg;
    if (c->state != CLIENT_OPENING)
        return;
    c->state = CLIENT_UP;
    c->failed = false;
    c->up_us = clock_mono_us();
    c->last_connected_us = clock_wall_us();
    c->backlog_end = forward_next_seq(c->queue);
    log_info("client: connected client=%u", c->id);
    kick(c);
}

static void
leave(struct client *c)
{
    struct cloudd *d = c->d;
    struct client **at = &d->leaving;
    while (*at != NULL && *at != c)
        at = &(*at)->next;
    if (*at == c)
        *at = c->next;
    client_free(c);
}

/* Stored messages are older than those in memory. 'used' is false when none is under way. */
static struct flight
oldest_flight(const struct client *c)
{
    struct flight oldest = { 0 };
    for (unsigned i = 0; i < MQTT_WINDOW; i++) {
        const struct flight *f = &c->flights[i];
        if (f->used && f->m == NULL && (!oldest.used || f->seq < oldest.seq))
            oldest = *f;
    }
    if (!oldest.used && c->first != c->unsent)
        oldest = (struct flight){ .used = true, .m = c->first };
    return oldest;
}

/*
 * A broker refuses a message (one above its limit of size) by closing, and
 * would do so for ever: after a few connections that it ended, it must go.
 */
static void
suspect_oldest(struct client *c, const char *why)
{
    struct flight oldest = oldest_flight(c);
    if (!oldest.used)
        return;
    bool again = c->n_suspected > 0 && oldest.m == c->suspect.m && oldest.seq == c->suspect.seq;
    c->n_suspected = again ? c->n_suspected + 1 : 1;
    c->suspect = oldest;
    if (c->n_suspected > 1)
        c->careful = MQTT_WINDOW;
    if (c->n_suspected < REFUSED_AFTER)
        return;
    char safe[MQTT_WHY_MAX];
    log_warn("client: a message is given up, the broker ends the connection on it client=%u "
             "connections=%u reason=\"%s\"",
             c->id, c->n_suspected, log_safe(why, safe, sizeof(safe)));
    c->n_suspected = 0;
    c->refused++;
    if (oldest.m != NULL)
        memory_remove(c, oldest.m);
    else
        (void)forward_done(c->queue, oldest.seq); /* without memory: once more */
}

static void
on_down(void *arg, const char *why)
{
    struct client *c = arg;
    bool was_up = c->up_us > 0, changed = c->changed;
    c->conn = NULL;
    c->changed = false;
    if (was_up && !changed)
        suspect_oldest(c, why);
    for (unsigned i = 0; i < MQTT_WINDOW; i++)
        c->flights[i].used = false;
    c->n_flights = 0;
    c->unsent = c->first;
    loop_timer_cancel(c->d->svc->loop, &c->pace);
    if (c->deleted) {
        leave(c);
        return;
    }
    store_memory(c);
    /* What is done must be gone before sending starts again from the oldest. */
    int r = forward_flush(c->d->forward);
    if (r < 0)
        log_err("client: cannot commit messages error=%s", strerror(-r));
    forward_rewind(c->queue);
    if (!c->cfg.enable) {
        c->state = CLIENT_OFF;
        log_info("client: disconnected client=%u", c->id);
        return;
    }
    (void)str_copy_len(c->why, sizeof(c->why), why,
                       strnlen(why, sizeof(c->why) - 1)); /* fits */
    if (was_up && clock_mono_us() - c->up_us >= STEADY_US)
        c->n_failures = 0;
    c->up_us = 0;
    if (changed) {
        connect_now(c);
        return;
    }
    c->failed = true;
    c->last_fail_us = clock_wall_us();
    char safe[MQTT_WHY_MAX];
    log_warn("client: not connected client=%u reason=\"%s\" failures=%u", c->id,
             log_safe(c->why, safe, sizeof(safe)), c->n_failures + 1);
    connect_later(c);
}

static void
connect_now(struct client *c)
{
    struct cert_files files = { 0 };
    const struct mqtt_configuration *o = &c->cfg;
    int r = o->certificate_over_tls ? cert_write_files(c->d, c->id, &files) : 0;
    struct mqtt_options options = {
        .host = o->server,
        .port = (uint16_t)o->port,
        .client_id = o->client_id,
        .user = o->user_name,
        .password = o->password,
        .v31 = o->protocol_version == MQTT_CONFIGURATION_PROTOCOL_VERSION_3_1,
        .keep_alive_s = o->keep_alive_sec > 65535 ? 65535 : (uint16_t)o->keep_alive_sec,
        .handshake_s = (unsigned)o->handshake_timeout,
        /*
         * With QoS 2 a broker that keeps the session would take a message that
         * is sent again under a used packet number for a repeat of another.
         * Nothing is subscribed, so a clean session loses nothing.
         */
        .clean_session = o->clear_session || o->qos == 2,
        .tls = o->certificate_over_tls,
        .tls_version = (enum mqtt_tls)o->tls_version, /* the same order */
        .verify = !o->insecure_skip_verify,
        .root_file = files.path[CERT_ROOT],
        .cert_file = files.path[CERT_CLIENT],
        .key_file = files.path[CERT_KEY],
        .will_topic = o->will_message.enable ? o->will_message.topic : "",
        .will_message = o->will_message.message,
        .will_qos = (int)o->will_message.qos,
        .will_retain = o->will_message.retain,
    };
    struct mqtt_conn_events ev = { .up = on_up, .down = on_down, .sent = on_sent, .arg = c };
    c->up_us = 0;
    c->state = CLIENT_OPENING;
    if (r == 0)
        r = mqtt_conn_open(c->d->svc->loop, &options, &ev, &c->conn);
    if (r < 0) {
        (void)snprintf(c->why, sizeof(c->why), "cannot connect: %s", strerror(-r)); /* fits */
        log_err("client: cannot connect client=%u error=%s", c->id, strerror(-r));
        c->failed = true;
        c->last_fail_us = clock_wall_us();
        connect_later(c);
    }
}

static void
on_retry(void *arg)
{
    connect_now(arg);
}

/* Brings the connection to what cfg says; a new cfg needs a new connection. */
static void
reconnect(struct client *c)
{
    c->n_failures = 0;
    c->failed = false;
    loop_timer_cancel(c->d->svc->loop, &c->retry);
    if (c->conn != NULL) {
        c->changed = true;
        c->state = CLIENT_CLOSING;
        mqtt_conn_close(c->conn); /* on_down goes on */
    } else if (cloudd_client_is_enabled(c)) {
        connect_now(c);
    } else {
        c->state = CLIENT_OFF;
    }
}

/* ---- memory follows the store ---- */

static struct forward_limits
limits_of(const struct store_and_forward *f)
{
    return (struct forward_limits){
        .max_bytes = (uint64_t)f->desired_disk_cache_size_mb << 20,
        .ttl_us = (uint64_t)f->time_to_live_sec * 1000000,
        .drop_newest = f->drop_behavior == STORE_AND_FORWARD_DROP_BEHAVIOR_NEWEST,
    };
}

static int
read_forward(struct client *c, struct store_txn *txn)
{
    uint8_t key[4];
    struct store_and_forward f = { 0 };
    struct api_arena *a = api_arena_new(CLOUDD_RECORD_MAX);
    if (a == NULL)
        return -ENOMEM;
    int r = api_store_get(a, txn, CLOUDD_DB_FORWARD, cloudd_key(key, c->id), sizeof(key),
                          &store_and_forward_desc, &f);
    if (r == STORE_NOT_FOUND)
        r = api_defaults(a, &store_and_forward_desc, &f);
    f.target_disk_name = NULL;
    f.disks = NULL;
    f.n_disks = 0;
    api_arena_free(a);
    if (r == 0)
        c->forward_cfg = f;
    return r;
}

/* STORE_OK, STORE_NOT_FOUND or -errno. */
static int
read_config(struct client *c, struct store_txn *txn)
{
    uint8_t key[4];
    struct mqtt_configuration cfg = { 0 };
    struct api_arena *a = api_arena_new(CLOUDD_RECORD_MAX);
    if (a == NULL)
        return -ENOMEM;
    int r = api_store_get(a, txn, CLOUDD_DB_CLIENTS, cloudd_key(key, c->id), sizeof(key),
                          &mqtt_configuration_desc, &cfg);
    if (r != STORE_OK) {
        api_arena_free(a);
        return r;
    }
    api_arena_free(c->arena);
    c->arena = a;
    c->cfg = cfg;
    return STORE_OK;
}

static void
client_insert(struct cloudd *d, struct client *c)
{
    struct client **at = &d->clients;
    while (*at != NULL && (*at)->id < c->id)
        at = &(*at)->next;
    c->next = *at;
    *at = c;
}

/* Makes the client of the store; 0 or -errno. */
static int
client_make(struct cloudd *d, struct store_txn *txn, uint32_t id, struct client **ret_client)
{
    struct client *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return -ENOMEM;
    c->d = d;
    c->id = id;
    c->upload_status = CLOUD_RUNTIME_INFORMATION_LAST_D2_C_UPLOAD_STATUS___;
    loop_timer_init(&c->retry, on_retry, c);
    loop_timer_init(&c->pace, on_pace, c);
    int r = read_config(c, txn);
    if (r == STORE_NOT_FOUND)
        r = -ENOENT;
    if (r == 0)
        r = read_forward(c, txn);
    struct forward_limits limits = limits_of(&c->forward_cfg);
    if (r == 0)
        r = forward_open(d->forward, id, &limits, &c->queue);
    if (r < 0) {
        client_free(c);
        return r;
    }
    client_insert(d, c);
    *ret_client = c;
    return 0;
}

static void
client_start(struct client *c)
{
    int r = cloudd_load_policies(c->d, c);
    if (r < 0)
        log_err("client: cannot load message groups client=%u error=%s", c->id, strerror(-r));
    if (c->cfg.enable)
        connect_now(c);
}

int
cloudd_load_clients(struct cloudd *d)
{
    struct store_txn *txn = NULL;
    struct store_iter it;
    cert_sweep_files(d);
    int r = store_read(d->svc->store, &txn);
    if (r < 0)
        return r;
    r = store_iter_init(&it, txn, CLOUDD_DB_CLIENTS, NULL, 0, false);
    if (r == 0) {
        while ((r = store_iter_next(&it)) == STORE_OK && it.key_size == 4) {
            struct client *c;
            uint32_t id = get_u32(it.key);
            int e = client_make(d, txn, id, &c);
            if (e < 0)
                log_err("client: cannot load client=%u error=%s", id, strerror(-e));
        }
        store_iter_done(&it);
    }
    store_abort(txn);
    for (struct client *c = d->clients; r >= 0 && c != NULL; c = c->next)
        client_start(c);
    return r < 0 ? r : 0;
}

static void
client_leave(struct client *c)
{
    struct cloudd *d = c->d;
    struct client **at = &d->clients;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    c->deleted = true;
    cloudd_drop_policies(c);
    int r = forward_flush(d->forward); /* other queues' messages travel with it */
    if (r < 0)
        log_err("client: cannot commit messages error=%s", strerror(-r));
    cert_remove_files(d, c->id);
    if (d->n_purge < ARRAY_LEN(d->purge))
        d->purge[d->n_purge++] = c->id; /* else: at the next start */
    if (loop_timer_set(d->svc->loop, &d->purge_timer, loop_now_us(d->svc->loop)) < 0)
        log_err("client: no memory for a timer");
    if (c->conn == NULL) {
        client_free(c);
        return;
    }
    c->next = d->leaving;
    d->leaving = c;
    reconnect(c);
}

void
cloudd_client_changed(void *self, void *arg)
{
    struct cloudd *d = self;
    uint32_t id = *(const uint32_t *)arg;
    struct client *c = cloudd_client(d, id);
    struct store_txn *txn = NULL;
    int r = store_read(d->svc->store, &txn);
    if (r == 0 && c == NULL) {
        r = client_make(d, txn, id, &c);
        store_abort(MOVE_PTR(txn));
        if (r == 0)
            client_start(c);
    } else if (r == 0) {
        r = read_config(c, txn);
        store_abort(MOVE_PTR(txn));
        if (r == STORE_OK) {
            /* Keys are on disk while they are used; a connection writes them anew. */
            if (!c->cfg.enable || !c->cfg.certificate_over_tls)
                cert_remove_files(d, c->id);
            cloudd_restart_policies(c);
            reconnect(c);
        } else if (r == STORE_NOT_FOUND) {
            client_leave(c);
            r = 0;
        }
    }
    if (r < 0)
        log_err("client: cannot apply client=%u error=%s", id, strerror(-r));
    cert_publish_changed(d->published);
}

void
cloudd_forward_changed(void *self, void *arg)
{
    struct cloudd *d = self;
    struct client *c = cloudd_client(d, *(const uint32_t *)arg);
    struct store_txn *txn = NULL;
    if (c == NULL)
        return;
    int r = store_read(d->svc->store, &txn);
    if (r == 0)
        r = read_forward(c, txn);
    store_abort(txn);
    if (r < 0) {
        log_err("client: cannot apply client=%u error=%s", c->id, strerror(-r));
        return;
    }
    struct forward_limits limits = limits_of(&c->forward_cfg);
    forward_limit(c->queue, &limits);
    if (c->forward_cfg.enable && c->first != c->unsent)
        reconnect(c); /* some are under way: all become stored when the connection is closed */
    else
        store_memory(c);
}

void
cloudd_commit_messages(struct cloudd *d)
{
    if (!forward_is_dirty(d->forward))
        return;
    uint64_t now = clock_mono_us();
    uint64_t step = d->commit_failed ? CLOUDD_RETRY_COMMIT_US : CLOUDD_COMMIT_US;
    if (now < d->committed_us + step) {
        if (!loop_timer_is_set(&d->commit_timer) &&
            loop_timer_set(d->svc->loop, &d->commit_timer, d->committed_us + step) < 0)
            log_err("client: no memory for a timer");
        return;
    }
    int r = forward_flush(d->forward);
    d->committed_us = clock_mono_us();
    d->commit_failed = r < 0;
    if (r < 0) {
        log_err("client: cannot commit messages error=%s", strerror(-r));
        return;
    }
    for (struct client *c = d->clients; c != NULL; c = c->next)
        kick(c);
}

/* ---- what others want to know ---- */

int
cloudd_client_status(const struct cloudd *d, uint32_t id)
{
    const struct client *c = cloudd_client(d, id);
    if (c == NULL)
        return MQTT_CONFIGURATION_STATUS_DISCONNECT;
    switch (c->state) {
    case CLIENT_OFF:
        break;
    case CLIENT_WAITING:
        return MQTT_CONFIGURATION_STATUS_CONNECT_FAILURE;
    case CLIENT_OPENING:
        return c->failed ? MQTT_CONFIGURATION_STATUS_CONNECT_FAILURE
                         : MQTT_CONFIGURATION_STATUS_CONNECTING;
    case CLIENT_UP:
        return MQTT_CONFIGURATION_STATUS_CONNECTED;
    case CLIENT_CLOSING:
        return c->cfg.enable ? MQTT_CONFIGURATION_STATUS_CONNECTING
                             : MQTT_CONFIGURATION_STATUS_DISCONNECT;
    }
    return MQTT_CONFIGURATION_STATUS_DISCONNECT;
}

static uint64_t
dropped_of(const struct client *c)
{
    struct forward_stats s;
    forward_get_stats(c->queue, &s);
    return c->dropped + c->refused + s.dropped + s.expired;
}

static const char *
when(struct api_call *call, int64_t wall_us)
{
    char text[CLOCK_TEXT_SIZE] = "";
    if (wall_us != 0)
        clock_format(wall_us, 0, text);
    return api_strdup(call, text);
}

void
cloudd_client_runtime(const struct client *c, struct api_call *call,
                      struct cloud_runtime_information *ret_info)
{
    struct forward_stats s;
    forward_get_stats(c->queue, &s);
    int status = cloudd_client_status(c->d, c->id);
    *ret_info = (struct cloud_runtime_information){
        .has_id = true,
        .id = c->id,
        .name = api_strdup(call, c->cfg.client_id),
        .has_connection_status = true,
        .connection_status = status == MQTT_CONFIGURATION_STATUS_CONNECTED
                                 ? CLOUD_RUNTIME_INFORMATION_CONNECTION_STATUS_CONNECTED
                             : status == MQTT_CONFIGURATION_STATUS_CONNECT_FAILURE
                                 ? CLOUD_RUNTIME_INFORMATION_CONNECTION_STATUS_CONNECT_FAIL
                                 : CLOUD_RUNTIME_INFORMATION_CONNECTION_STATUS_DISCONNECTED,
        .has_last_d2_c_upload_status = true,
        .last_d2_c_upload_status = c->upload_status,
        .last_d2_c_upload_time = when(call, c->last_upload_us),
        .last_connect_fail_time = when(call, c->last_fail_us),
        .last_connected_time = when(call, c->last_connected_us),
        .last_error = api_strdup(call, c->failed ? c->why : ""),
        .has_queued_messages = true,
        .queued_messages = (int64_t)(s.messages + c->n_memory),
        .has_dropped_messages = true,
        .dropped_messages = (int64_t)dropped_of(c),
    };
}

void
cloudd_count(const struct cloudd *d, struct cloudd_counts *ret_counts)
{
    *ret_counts = (struct cloudd_counts){ 0 };
    for (const struct client *c = d->clients; c != NULL; c = c->next) {
        struct forward_stats s;
        forward_get_stats(c->queue, &s);
        ret_counts->clients++;
        ret_counts->connected += c->state == CLIENT_UP;
        ret_counts->messages += c->messages;
        ret_counts->acknowledged += c->acknowledged;
        ret_counts->dropped += c->dropped + s.dropped;
        ret_counts->refused += c->refused;
        ret_counts->expired += s.expired;
        ret_counts->queued += s.messages + c->n_memory;
        ret_counts->queued_bytes += s.bytes + c->memory_bytes;
    }
}

/* Nothing waits for a client that is up. What is stored stays for the next life. */
static bool
is_drained(const struct cloudd *d)
{
    for (const struct client *c = d->clients; c != NULL; c = c->next)
        if (c->state == CLIENT_UP && (c->n_flights > 0 || c->unsent != NULL))
            return false;
    return true;
}

static bool
is_closed(const struct cloudd *d)
{
    for (const struct client *c = d->clients; c != NULL; c = c->next)
        if (c->conn != NULL)
            return false;
    return d->leaving == NULL;
}

static void
run_until(struct cloudd *d, bool (*is_reached)(const struct cloudd *d), uint64_t wait_us)
{
    uint64_t until = clock_mono_us() + wait_us;
    while (!is_reached(d)) {
        uint64_t now = clock_mono_us();
        if (now >= until || loop_round(d->svc->loop, until - now) < 0)
            break;
    }
}

void
cloudd_stop_clients(struct cloudd *d, uint64_t wait_us)
{
    d->stopping = true;
    for (struct client *c = d->clients; c != NULL; c = c->next) {
        c->cfg.enable = false;
        cloudd_restart_policies(c); /* what has gathered is sent */
        loop_timer_cancel(d->svc->loop, &c->pace);
        kick(c);
        if (c->state != CLIENT_UP)
            reconnect(c);
    }
    /* A window holds fewer messages than memory may. */
    run_until(d, is_drained, wait_us);
    for (struct client *c = d->clients; c != NULL; c = c->next)
        reconnect(c);
    run_until(d, is_closed, wait_us);
    for (struct client *c = d->clients; c != NULL; c = c->next)
        store_memory(c);
    (void)forward_flush(d->forward); /* what fails here was never accepted */
    struct client *next;
    for (struct client *c = d->clients; c != NULL; c = next) {
        next = c->next;
        if (c->conn == NULL)
            client_free(c);
    }
    d->clients = NULL;
}
