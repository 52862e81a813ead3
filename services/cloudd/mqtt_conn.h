/*
 * One connection to a broker, from its first packet to its last, behind a
 * small interface over paho's MQTTAsync. Reconnecting is the caller's: a
 * connection that is down stays down.
 *
 * paho may block for milliseconds under its global lock. So a thread of ours
 * makes all calls to it, and paho's callbacks only post to the loop. Names are
 * looked up in a worker first. With TLS paho looks the name up once more, to
 * check the certificate against it: a resolver that answered and then hangs
 * holds up the calls of all connections, not the loop.
 */
#ifndef FIELDGATE_CLOUDD_MQTT_CONN_H
#define FIELDGATE_CLOUDD_MQTT_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct loop;
struct mqtt_conn;

enum { MQTT_WINDOW = 100 /* messages under way on a connection */, MQTT_WHY_MAX = 160 };

/* The lowest version that is spoken. */
enum mqtt_tls { MQTT_TLS_1_3, MQTT_TLS_1_2, MQTT_TLS_1_1, MQTT_TLS_1_0 };

/* Texts are copied. */
struct mqtt_options {
    const char *host;
    uint16_t port;
    const char *client_id, *user, *password; /* user "": none */
    bool v31;                                /* MQTT 3.1 instead of 3.1.1 */
    uint16_t keep_alive_s;
    unsigned handshake_s; /* until CONNACK */
    bool clean_session;
    bool tls;
    enum mqtt_tls tls_version;
    bool verify;                                  /* the broker's certificate and name */
    const char *root_file, *cert_file, *key_file; /* PEM; "": none (root: the system's) */
    const char *will_topic;                       /* "": no will */
    const char *will_message;
    int will_qos;
    bool will_retain;
};

/* All run on the loop. */
struct mqtt_conn_events {
    void (*up)(void *arg);
    /* It is over, for the reason 'why', and gone: the pointer is not valid any more. Once. */
    void (*down)(void *arg, const char *why);
    /* Message 'slot' was acknowledged (QoS 0: written), or was not accepted. */
    void (*sent)(void *arg, unsigned slot, bool ok);
    void *arg;
};

/* Begins to connect. 0 or -errno (then no event follows). */
int mqtt_conn_open(struct loop *loop, const struct mqtt_options *options,
                   const struct mqtt_conn_events *events, struct mqtt_conn **ret_conn);
/*
 * Sends a message in 'slot' (0..MQTT_WINDOW - 1), which is taken until 'sent'
 * or 'down'. Copies. 0 or -errno (-ENOTCONN: not up, 'down' follows).
 */
int mqtt_conn_publish(struct mqtt_conn *c, unsigned slot, const char *topic,
                      const void *payload, size_t len, int qos, bool retain);
/* Disconnects; 'down' follows, within seconds. */
void mqtt_conn_close(struct mqtt_conn *c);

#endif
