/*
 * cloudd: publishes tags to MQTT brokers. A client (client.c) is one broker
 * connection with its queue; its message groups (policy.c) sample tags from
 * the tag bus and make its messages. What is configured lives in the store;
 * memory follows it after each commit, one client or group at a time.
 */
#ifndef FIELDGATE_CLOUDD_H
#define FIELDGATE_CLOUDD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gen/api_cloudd.h"
#include "libcommon/svc.h"
#include "libcommon/tagview.h"
#include "services/cloudd/forward.h"

/* Tables of the store; the audit outbox is the last. */
enum {
    CLOUDD_DB_META,     /* "next-client": u32 */
    CLOUDD_DB_CLIENTS,  /* client u32 -> MQTTConfiguration */
    CLOUDD_DB_FORWARD,  /* client u32 -> StoreAndForward */
    CLOUDD_DB_GROUPS,   /* client u32, group u32 -> MessagePolicy */
    CLOUDD_DB_CERTS,    /* client u32, enum cert_kind u8 -> PEM */
    CLOUDD_DB_MESSAGES, /* forward.c */
    CLOUDD_DB_OUTBOX,
    CLOUDD_N_DBS
};

enum {
    CLOUDD_CLIENTS_MAX = 16,
    CLOUDD_GROUPS_MAX = 32,        /* of a client */
    CLOUDD_TAGS_MAX = 50000,       /* of all groups together */
    CLOUDD_MEMORY_MESSAGES = 1000, /* of a client without store and forward */
    CLOUDD_MEMORY_BYTES = 4 << 20,
    CLOUDD_COMMIT_US = 20000, /* stored messages are committed this often at most */
    CLOUDD_RETRY_COMMIT_US = 1000000,
    CLOUDD_CERT_MAX = 64 << 10,
    CLOUDD_RECORD_MAX = 1 << 20, /* memory of one decoded record */
};

struct cert_publish;
struct client;
struct policy;

struct cloudd {
    struct svc *svc;
    struct tagview *view;
    struct forward *forward;
    struct loop_timer commit_timer;
    uint64_t committed_us; /* the last commit of messages */
    bool commit_failed;
    bool stopping;          /* what is stored is not sent any more */
    struct client *clients; /* by id */
    struct client *leaving; /* deleted, still disconnecting */
    struct policy *touched; /* had updates in this round */
    struct loop_timer purge_timer;
    uint32_t purge[CLOUDD_CLIENTS_MAX * 4]; /* clients whose messages are to be removed */
    size_t n_purge;
    struct cert_publish *published; /* certificates, to authd */
};

/* ---- keys ---- */
const void *cloudd_key(uint8_t out[4], uint32_t client);
const void *cloudd_group_key(uint8_t out[8], uint32_t client, uint32_t group);

/* ---- client.c: memory that follows the store ---- */

/* All of them, at the start. 0 or -errno. */
int cloudd_load_clients(struct cloudd *d);
struct client *cloudd_client(const struct cloudd *d, uint32_t id);
/*
 * After a commit: take over the client's configuration, or that it is gone.
 * Only this client reconnects. 'arg' points to its id (a uint32_t).
 */
void cloudd_client_changed(void *self, void *arg);
/* The same for its store-and-forward settings. */
void cloudd_forward_changed(void *self, void *arg);
/* Takes a message of a group for delivery. */
void cloudd_client_send(struct client *c, const char *topic, const char *payload, size_t len);
/* So many values of its groups found no memory. */
void cloudd_client_lost(struct client *c, uint64_t n);
uint32_t cloudd_client_id(const struct client *c);
bool cloudd_client_is_enabled(const struct client *c);
/* Status for replies: MQTT_CONFIGURATION_STATUS_…. Unknown ids: disconnect. */
int cloudd_client_status(const struct cloudd *d, uint32_t id);
void cloudd_client_runtime(const struct client *c, struct api_call *call,
                           struct cloud_runtime_information *ret_info);
struct client *cloudd_next_client(const struct cloudd *d, const struct client *c);
struct policy **cloudd_client_policies(struct client *c);
/* Commits gathered messages when it is time, and sends what can be sent. */
void cloudd_commit_messages(struct cloudd *d);
/*
 * Sends what has gathered and disconnects; waits at most 'wait_us' for the
 * brokers to take each of both.
 */
void cloudd_stop_clients(struct cloudd *d, uint64_t wait_us);

struct cloudd_counts {
    uint64_t clients, connected, messages, acknowledged, dropped, refused, expired, queued,
        queued_bytes;
};
void cloudd_count(const struct cloudd *d, struct cloudd_counts *ret_counts);

/* ---- facts.c: SECURITY_FACTS (proto/README.md section 4) ---- */
void cloudd_security_facts(void *self, struct bus_incoming *in);

/* ---- policy.c: message groups ---- */

/* Checks 'tags' of a group: {provider: {source: [names]}}. An enum api_status. */
enum api_status cloudd_check_tags(struct api_call *call, const char *tags, size_t *ret_n);
/* All groups of a client from the store. 0 or -errno. */
int cloudd_load_policies(struct cloudd *d, struct client *c);
struct cloudd_policy_key {
    uint32_t client, group;
};
/* After a commit; 'arg' is a struct cloudd_policy_key. */
void cloudd_policy_changed(void *self, void *arg);
/* Begins or ends sampling as the client was enabled or disabled. */
void cloudd_restart_policies(struct client *c);
/* Sends what has gathered and frees them. */
void cloudd_drop_policies(struct client *c);
/* At the end of a round: groups with updates send what is due. */
void cloudd_run_policies(struct cloudd *d);
/* Tags of all groups but this one; for the bound. */
size_t cloudd_count_tags(const struct cloudd *d, uint32_t but_client, uint32_t but_group);

/* ---- cert.c ---- */
enum cert_kind { CERT_ROOT, CERT_CLIENT, CERT_KEY, CERT_KINDS };
extern const char *const cert_part_names[CERT_KINDS]; /* as in the form */

enum { CERT_PATH_MAX = 4096 };
struct cert_files {
    char path[CERT_KINDS][CERT_PATH_MAX]; /* "": none */
};
/* 0 or -EINVAL. */
int cert_check(enum cert_kind kind, const char *pem, size_t n);
int cert_put(struct store_txn *txn, uint32_t client, enum cert_kind kind, const char *pem,
             size_t n);
int cert_delete(struct store_txn *txn, uint32_t client);
/* Writes what the store holds for paho to read (0600). 0 or -errno. */
int cert_write_files(struct cloudd *d, uint32_t client, struct cert_files *ret_files);
void cert_remove_files(struct cloudd *d, uint32_t client);
/* At the start: those of all clients. They are written again before each connection. */
void cert_sweep_files(struct cloudd *d);
/* cert_told.c: tells authd those of all clients from now on, after each change of a client. */
int cert_tell(struct cloudd *d);

#endif
