/*
 * A connection to a broker over paho.mqtt.c 1.3.12: see mqtt_conn.h.
 *
 *   loop:   open -> look up -> OPEN … PUBLISH … CLOSE -> (gone) -> down
 *   thread:                    create, connect, send, disconnect, destroy
 *
 * Callbacks of 1.3.12 may come twice or late (paho issue 1341): each posts a
 * note that lives in the connection and is posted once, and connections that
 * are over are kept for a while before their memory is used again.
 */
#include "services/cloudd/mqtt_conn.h"

#include <MQTTAsync.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/loop.h"
#include "libcommon/str.h"
#include "libcommon/banned.h"

enum {
    URI_MAX = 320,
    GRAVES = 16,
    CLOSE_PATIENCE_US = 3000000, /* for the broker to take our DISCONNECT */
    DISCONNECT_MS = 1000,
};

/* A note to the loop, posted at most once at a time. */
struct note {
    struct loop_post node;
    _Atomic bool posted;
    struct mqtt_conn *c;
    unsigned slot;
    bool ok;
};

enum command_kind { COMMAND_OPEN, COMMAND_PUBLISH, COMMAND_CLOSE, COMMAND_DESTROY };

struct command {
    struct command *next;
    enum command_kind kind;
    struct mqtt_conn *c;
    unsigned slot;
    int qos;
    bool retain;
    const char *topic;
    size_t len;
    const char *payload; /* behind the struct, then the topic */
};

struct mqtt_conn {
    struct loop *loop;
    struct mqtt_conn_events ev;
    char *host, *client_id, *user, *password, *root_file, *cert_file, *key_file, *will_topic,
        *will_message;
    struct mqtt_options o; /* its texts are the ones above */
    char address[INET6_ADDRSTRLEN + 2];
    int lookup_error;
    /* loop */
    bool looking_up, up, closing, destroying;
    struct loop_timer patience;
    char why[MQTT_WHY_MAX];
    /* thread */
    MQTTAsync handle;
    bool made;
    /* whoever sets 'broken' first writes 'broke', then posts 'over' */
    _Atomic bool broken;
    char broke[MQTT_WHY_MAX];
    struct note opened, over, closed, gone;
    struct note sent[MQTT_WINDOW];
    struct command close_command, destroy_command, open_command;
};

/* ---- the thread that talks to paho ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t more;
    pthread_t thread;
    bool running;
    struct command *first, **last;
    /* loop only */
    struct mqtt_conn *graves[GRAVES];
    unsigned next_grave;
} talk = { .lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER };

static void run_command(struct command *cmd);

static void *
talk_main(void *arg)
{
    (void)arg;
    for (;;) {
        pthread_mutex_lock(&talk.lock);
        while (talk.first == NULL)
            pthread_cond_wait(&talk.more, &talk.lock);
        struct command *cmd = talk.first;
        talk.first = cmd->next;
        if (talk.first == NULL)
            talk.last = &talk.first;
        pthread_mutex_unlock(&talk.lock);
        run_command(cmd);
    }
    return NULL;
}

static int
talk_start(void)
{
    if (talk.running)
        return 0;
    MQTTAsync_init_options init = MQTTAsync_init_options_initializer;
    init.do_openssl_init = 1;
    MQTTAsync_global_init(&init);
    talk.last = &talk.first;
    int r = pthread_create(&talk.thread, NULL, talk_main, NULL);
    if (r != 0)
        return -r;
    talk.running = true;
    return 0;
}

static void
talk_add(struct command *cmd)
{
    cmd->next = NULL;
    pthread_mutex_lock(&talk.lock);
    *talk.last = cmd;
    talk.last = &cmd->next;
    pthread_cond_signal(&talk.more);
    pthread_mutex_unlock(&talk.lock);
}

static void
talk_simple(struct mqtt_conn *c, struct command *cmd, enum command_kind kind)
{
    cmd->kind = kind;
    cmd->c = c;
    talk_add(cmd);
}

/* ---- notes to the loop ---- */

static void
note_post(struct note *n, loop_post_fn *fn)
{
    if (!atomic_exchange(&n->posted, true))
        loop_post(n->c->loop, &n->node, fn, n);
}

static void on_opened(void *arg);
static void on_over(void *arg);
static void on_closed(void *arg);
static void on_gone(void *arg);
static void on_sent(void *arg);

/* The connection failed or ended; the first reason counts. Any thread. */
static void
broke(struct mqtt_conn *c, const char *why)
{
    if (atomic_exchange(&c->broken, true))
        return;
    (void)str_copy_len(c->broke, sizeof(c->broke), why,
                       strnlen(why, sizeof(c->broke) - 1)); /* fits */
    note_post(&c->over, on_over);
}

/* ---- paho's callbacks: any thread ---- */

static void
cb_lost(void *context, char *cause)
{
    struct mqtt_conn *c = context;
    char text[MQTT_WHY_MAX];
    (void)snprintf(text, sizeof(text), "the connection was lost%s%s", cause != NULL ? ": " : "",
                   cause != NULL ? cause : ""); /* may be cut */
    broke(c, text);
}

static int
cb_arrived(void *context, char *topic, int topic_len, MQTTAsync_message *message)
{
    (void)context;
    (void)topic_len;
    MQTTAsync_freeMessage(&message);
    MQTTAsync_free(topic);
    return 1;
}

static void
cb_connected(void *context, MQTTAsync_successData *data)
{
    (void)data;
    struct mqtt_conn *c = context;
    note_post(&c->opened, on_opened);
}

static const char *
connack_text(int code)
{
    switch (code) {
    case 1:
        return "the broker does not speak this protocol version";
    case 2:
        return "the broker refused the client ID";
    case 3:
        return "the broker is not available";
    case 4:
        return "the broker refused user name or password";
    case 5:
        return "the broker did not authorize the client";
    default:
        return NULL;
    }
}

static void
cb_connect_failed(void *context, MQTTAsync_failureData *data)
{
    struct mqtt_conn *c = context;
    const char *text = data != NULL ? connack_text(data->code) : NULL;
    if (text == NULL)
        text = data != NULL && data->message != NULL ? data->message : "no connection";
    broke(c, text);
}

static void
cb_sent(void *context, MQTTAsync_successData *data)
{
    (void)data;
    struct note *n = context;
    n->ok = true;
    note_post(n, on_sent);
}

static void
cb_not_sent(void *context, MQTTAsync_failureData *data)
{
    (void)data;
    struct note *n = context;
    n->ok = false;
    note_post(n, on_sent);
}

static void
cb_disconnected(void *context, MQTTAsync_successData *data)
{
    (void)data;
    struct mqtt_conn *c = context;
    note_post(&c->closed, on_closed);
}

static void
cb_not_disconnected(void *context, MQTTAsync_failureData *data)
{
    (void)data;
    struct mqtt_conn *c = context;
    note_post(&c->closed, on_closed);
}

/* ---- commands: our thread ---- */

static int
ssl_version(enum mqtt_tls v)
{
    switch (v) {
    case MQTT_TLS_1_2:
        return MQTT_SSL_VERSION_TLS_1_2;
    case MQTT_TLS_1_1:
        return MQTT_SSL_VERSION_TLS_1_1;
    case MQTT_TLS_1_0:
        return MQTT_SSL_VERSION_TLS_1_0;
    case MQTT_TLS_1_3:
        break; /* see do_connect */
    }
    return MQTT_SSL_VERSION_DEFAULT;
}

static void
make_uri(const struct mqtt_conn *c, char out[URI_MAX])
{
    /* The name stays with TLS, whose certificate is checked against it. */
    const char *host = c->o.tls ? c->host : c->address;
    bool v6 = strchr(host, ':') != NULL;
    (void)snprintf(out, URI_MAX, "%s://%s%s%s:%u", c->o.tls ? "ssl" : "tcp", v6 ? "[" : "",
                   host, v6 ? "]" : "", c->o.port); /* a host has at most 255 bytes */
}

static int
do_connect(struct mqtt_conn *c)
{
    char uri[URI_MAX];
    make_uri(c, uri);
    MQTTAsync_createOptions create = MQTTAsync_createOptions_initializer;
    create.MQTTVersion = c->o.v31 ? MQTTVERSION_3_1 : MQTTVERSION_3_1_1;
    create.maxBufferedMessages = MQTT_WINDOW;
    int rc = MQTTAsync_createWithOptions(&c->handle, uri, c->client_id,
                                         MQTTCLIENT_PERSISTENCE_NONE, NULL, &create);
    if (rc != MQTTASYNC_SUCCESS)
        return rc;
    c->made = true;
    rc = MQTTAsync_setCallbacks(c->handle, c, cb_lost, cb_arrived, NULL);
    if (rc != MQTTASYNC_SUCCESS)
        return rc;
    MQTTAsync_connectOptions o = MQTTAsync_connectOptions_initializer;
    MQTTAsync_willOptions will = MQTTAsync_willOptions_initializer;
    MQTTAsync_SSLOptions ssl = MQTTAsync_SSLOptions_initializer;
    o.MQTTVersion = create.MQTTVersion;
    o.keepAliveInterval = c->o.keep_alive_s;
    o.cleansession = c->o.clean_session;
    o.maxInflight = MQTT_WINDOW;
    o.connectTimeout = (int)c->o.handshake_s;
    if (c->user[0] != '\0') {
        o.username = c->user;
        o.password = c->password;
    }
    if (c->will_topic[0] != '\0') {
        will.topicName = c->will_topic;
        will.message = c->will_message;
        will.qos = c->o.will_qos;
        will.retained = c->o.will_retain;
        o.will = &will;
    }
    if (c->o.tls) {
        ssl.sslVersion = ssl_version(c->o.tls_version);
        /*
         * paho 1.3.12 cannot ask for 1.3. Of the suites of 1.2 these are left
         * on, which need a shared key that there is not: none can be chosen.
         */
        if (c->o.tls_version == MQTT_TLS_1_3)
            ssl.enabledCipherSuites = "PSK";
        ssl.enableServerCertAuth = c->o.verify;
        ssl.verify = c->o.verify;
        ssl.trustStore = c->root_file[0] != '\0' ? c->root_file : NULL;
        ssl.keyStore = c->cert_file[0] != '\0' ? c->cert_file : NULL;
        ssl.privateKey = c->key_file[0] != '\0' ? c->key_file : NULL;
        o.ssl = &ssl;
    }
    o.onSuccess = cb_connected;
    o.onFailure = cb_connect_failed;
    o.context = c;
    return MQTTAsync_connect(c->handle, &o);
}

static void
do_publish(struct command *cmd)
{
    struct mqtt_conn *c = cmd->c;
    struct note *n = &c->sent[cmd->slot];
    MQTTAsync_message m = MQTTAsync_message_initializer;
    MQTTAsync_responseOptions r = MQTTAsync_responseOptions_initializer;
    memcpy(&m.payload, &cmd->payload, sizeof(m.payload)); /* paho only reads it */
    m.payloadlen = (int)cmd->len;
    m.qos = cmd->qos;
    m.retained = cmd->retain;
    r.onSuccess = cb_sent;
    r.onFailure = cb_not_sent;
    r.context = n;
    int rc =
        c->made ? MQTTAsync_sendMessage(c->handle, cmd->topic, &m, &r) : MQTTASYNC_DISCONNECTED;
    if (rc != MQTTASYNC_SUCCESS)
        cb_not_sent(n, NULL);
    free(cmd);
}

static void
do_close(struct mqtt_conn *c)
{
    MQTTAsync_disconnectOptions o = MQTTAsync_disconnectOptions_initializer;
    o.timeout = DISCONNECT_MS;
    o.onSuccess = cb_disconnected;
    o.onFailure = cb_not_disconnected;
    o.context = c;
    if (!c->made || !MQTTAsync_isConnected(c->handle) ||
        MQTTAsync_disconnect(c->handle, &o) != MQTTASYNC_SUCCESS)
        note_post(&c->closed, on_closed);
}

static void
run_command(struct command *cmd)
{
    struct mqtt_conn *c = cmd->c;
    int rc;
    switch (cmd->kind) {
    case COMMAND_OPEN:
        rc = do_connect(c);
        if (rc != MQTTASYNC_SUCCESS)
            broke(c, MQTTAsync_strerror(rc));
        break;
    case COMMAND_PUBLISH:
        do_publish(cmd);
        break;
    case COMMAND_CLOSE:
        do_close(c);
        break;
    case COMMAND_DESTROY:
        if (c->made)
            MQTTAsync_destroy(&c->handle);
        c->made = false;
        note_post(&c->gone, on_gone);
        break;
    }
}

/* ---- the loop's side ---- */

static void
destroy(struct mqtt_conn *c)
{
    c->up = false;
    c->closing = true;
    if (c->destroying)
        return;
    c->destroying = true;
    loop_timer_cancel(c->loop, &c->patience);
    talk_simple(c, &c->destroy_command, COMMAND_DESTROY);
}

static void
on_opened(void *arg)
{
    struct note *n = arg;
    struct mqtt_conn *c = n->c;
    atomic_store(&n->posted, false);
    if (c->closing || c->up)
        return;
    c->up = true;
    c->ev.up(c->ev.arg);
}

static void
on_over(void *arg)
{
    struct note *n = arg;
    struct mqtt_conn *c = n->c;
    if (c->why[0] == '\0')
        memcpy(c->why, c->broke, sizeof(c->why));
    atomic_store(&n->posted, false);
    destroy(c);
}

static void
on_closed(void *arg)
{
    struct note *n = arg;
    atomic_store(&n->posted, false);
    destroy(n->c);
}

static void
on_patience(void *arg)
{
    struct mqtt_conn *c = arg;
    if (!c->looking_up) /* else on_looked_up does it */
        destroy(c);
}

static void
on_sent(void *arg)
{
    struct note *n = arg;
    struct mqtt_conn *c = n->c;
    bool ok = n->ok;
    atomic_store(&n->posted, false);
    if (c->ev.sent != NULL && !c->destroying)
        c->ev.sent(c->ev.arg, n->slot, ok);
}

static void
conn_free(struct mqtt_conn *c)
{
    if (c == NULL)
        return;
    if (c->password != NULL)
        explicit_bzero(c->password, strlen(c->password));
    char *texts[] = { c->host,      c->client_id, c->user,       c->password,    c->root_file,
                      c->cert_file, c->key_file,  c->will_topic, c->will_message };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        free(texts[i]);
    free(c);
}

/* A late callback must find memory: the last few stay. */
static void
bury(struct mqtt_conn *c)
{
    c->ev.sent = NULL;
    conn_free(talk.graves[talk.next_grave]);
    talk.graves[talk.next_grave] = c;
    talk.next_grave = (talk.next_grave + 1) % GRAVES;
}

static void
on_gone(void *arg)
{
    struct note *n = arg;
    struct mqtt_conn *c = n->c;
    /* 'posted' stays set: it is gone once. */
    struct mqtt_conn_events ev = c->ev;
    char why[MQTT_WHY_MAX];
    memcpy(why, c->why, sizeof(why));
    bury(c);
    ev.down(ev.arg, why[0] != '\0' ? why : "closed");
}

static void
look_up(void *arg)
{
    struct mqtt_conn *c = arg;
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC };
    struct addrinfo *all = NULL;
    c->lookup_error = getaddrinfo(c->host, NULL, &hints, &all);
    if (c->lookup_error == 0 && all == NULL)
        c->lookup_error = EAI_NONAME;
    if (c->lookup_error != 0)
        return;
    const struct addrinfo *pick = all;
    for (const struct addrinfo *a = all; a != NULL; a = a->ai_next)
        if (a->ai_family == AF_INET) {
            pick = a; /* as paho prefers it */
            break;
        }
    c->lookup_error = getnameinfo(pick->ai_addr, pick->ai_addrlen, c->address,
                                  sizeof(c->address), NULL, 0, NI_NUMERICHOST);
    freeaddrinfo(all);
}

static void
on_looked_up(void *arg)
{
    struct mqtt_conn *c = arg;
    c->looking_up = false;
    if (c->lookup_error != 0 && c->why[0] == '\0')
        (void)snprintf(c->why, sizeof(c->why), "the name of the broker was not found: %s",
                       gai_strerror(c->lookup_error)); /* fits */
    if (c->lookup_error != 0 || c->closing)
        destroy(c);
    else
        talk_simple(c, &c->open_command, COMMAND_OPEN);
}

static bool
copy_text(char **out, const char *text)
{
    *out = strdup(text != NULL ? text : "");
    return *out != NULL;
}

int
mqtt_conn_open(struct loop *loop, const struct mqtt_options *options,
               const struct mqtt_conn_events *events, struct mqtt_conn **ret_conn)
{
    int r = talk_start();
    if (r < 0)
        return r;
    struct mqtt_conn *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return -ENOMEM;
    c->loop = loop;
    c->ev = *events;
    c->o = *options;
    if (!copy_text(&c->host, options->host) || !copy_text(&c->client_id, options->client_id) ||
        !copy_text(&c->user, options->user) || !copy_text(&c->password, options->password) ||
        !copy_text(&c->root_file, options->root_file) ||
        !copy_text(&c->cert_file, options->cert_file) ||
        !copy_text(&c->key_file, options->key_file) ||
        !copy_text(&c->will_topic, options->will_topic) ||
        !copy_text(&c->will_message, options->will_message)) {
        conn_free(c);
        return -ENOMEM;
    }
    c->opened.c = c->over.c = c->closed.c = c->gone.c = c;
    for (unsigned i = 0; i < MQTT_WINDOW; i++) {
        c->sent[i].c = c;
        c->sent[i].slot = i;
    }
    loop_timer_init(&c->patience, on_patience, c);
    c->looking_up = true;
    r = loop_work(loop, look_up, on_looked_up, c);
    if (r < 0) {
        conn_free(c);
        return r;
    }
    *ret_conn = c;
    return 0;
}

int
mqtt_conn_publish(struct mqtt_conn *c, unsigned slot, const char *topic, const void *payload,
                  size_t len, int qos, bool retain)
{
    MUST(slot < MQTT_WINDOW);
    if (!c->up || c->closing)
        return -ENOTCONN;
    size_t topic_size = strlen(topic) + 1;
    struct command *cmd = malloc(sizeof(*cmd) + len + topic_size);
    if (cmd == NULL)
        return -ENOMEM;
    char *bytes = (char *)(cmd + 1);
    *cmd = (struct command){ .kind = COMMAND_PUBLISH,
                             .c = c,
                             .slot = slot,
                             .qos = qos,
                             .retain = retain,
                             .topic = bytes + len,
                             .payload = bytes,
                             .len = len };
    memcpy(bytes, payload, len);
    memcpy(bytes + len, topic, topic_size);
    talk_add(cmd);
    return 0;
}

void
mqtt_conn_close(struct mqtt_conn *c)
{
    if (c->closing)
        return;
    bool was_up = c->up;
    c->closing = true;
    c->up = false;
    /* Still looking up or shaking hands: on_looked_up or CLOSE finds it closing. */
    if (loop_timer_set(c->loop, &c->patience, clock_mono_us() + CLOSE_PATIENCE_US) < 0)
        log_err("mqtt: no memory for a timer");
    if (was_up || c->open_command.c != NULL)
        talk_simple(c, &c->close_command, COMMAND_CLOSE);
}
