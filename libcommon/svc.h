/*
 * The life of a daemon. main.c states facts; svc_main does the rest: options,
 * log, identity of peers, store, bus, audit outbox, readiness, watchdog,
 * signals, orderly stop.
 *
 *   <daemon> [--profile device|bench] [--state DIR] [--run DIR]
 *            [--log-level L] [--check-config] [--describe] [--set KEY=VALUE]
 *
 * State lives in <state>/<daemon>/, sockets in <run>/bus/, passed files in
 * <run>/spool/. Signals: TERM and INT stop, HUP reloads.
 */
#ifndef FIELDGATE_SVC_H
#define FIELDGATE_SVC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/bus.h"
#include "libcommon/loop.h"
#include "libcommon/store.h"

struct api_op;
struct tag_pub;
struct svc;

enum svc_profile { SVC_PROFILE_DEVICE, SVC_PROFILE_BENCH };

/* An operation between daemons; answers through bus_answer, now or later. */
struct svc_internal {
    uint32_t op; /* proto/internal.h */
    void (*fn)(void *self, struct bus_incoming *in);
};

/* A --set KEY=VALUE the daemon knows; value checked by 'set' (0 or -EINVAL). */
struct svc_option {
    const char *key, *help;
    int (*set)(void *self, const char *value);
};

struct svc_info {
    const char *name;
    const struct api_op *ops; /* generated, may be NULL */
    const size_t *n_ops;
    const struct svc_internal *internals; /* ends with .op 0; may be NULL */
    const struct svc_option *options;     /* ends with .key NULL; may be NULL */
    const char *const *dbs; /* tables of the store; NULL and 0: no store */
    size_t n_dbs;
    uint32_t schema; /* of the store, from 1 */
    store_migrate_fn *migrate;
    int (*open)(void *self, struct svc *svc);   /* store is open, bus is not bound */
    int (*start)(void *self, struct svc *svc);  /* load, apply desired state, arm timers */
    int (*reload)(void *self, struct svc *svc); /* HUP; may be NULL */
    void (*stop)(void *self, struct svc *svc);  /* copes with half of it done */
};

/* What a daemon may use of its frame. */
struct svc {
    const struct svc_info *info;
    void *self;
    struct loop *loop;
    struct bus *bus;
    struct store *store; /* NULL when info has no dbs */
    enum svc_profile profile;
    const char *state_dir; /* <state>/<daemon> */
    const char *run_dir;
    const char *spool_dir;
    struct tag_pub *tags; /* set by the daemon when it is a tag provider */
    struct audit_outbox *outbox;
    struct api_server *api;
    const struct bus_user *users; /* the daemons that have a user; none: all run as one */
    size_t n_users;
};

/* The daemon whose user asks ("": none's); NULL when all run as one user: nobody can tell. */
const char *svc_caller(const struct svc *svc, const struct bus_incoming *in);

int svc_main(const struct svc_info *info, void *self, int argc, char **argv);

#endif
