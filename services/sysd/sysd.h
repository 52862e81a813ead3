/*
 * sysd: the system section. It owns what is wanted of the machine; what is in
 * force is asked for and mended until both are the same.
 *
 * Of the HTTPS front the gateway has what is in force, with the certificates
 * and keys; here are the wishes, and the name that the gateway gave a pair.
 */
#ifndef FIELDGATE_SYSD_H
#define FIELDGATE_SYSD_H

#include <stdbool.h>
#include <stdint.h>

#include "gen/api_sysd.h"
#include "libcommon/api.h"
#include "libcommon/loop.h"
#include "libcommon/svc.h"

enum { SYSD_DB_CONFIG, SYSD_DB_OUTBOX, SYSD_N_DBS };
extern const char *const sysd_dbs[SYSD_N_DBS];

enum {
    FILE_NAME_SIZE = 256,
    PAIR_NAME_SIZE = 65, /* the gateway's name of a certificate with its key */
    CHANGES_MAX = 8,     /* that wait for the one under way */
};

/* ---- wanted.c: what clients set ---- */

enum wanted_redirect { REDIRECT_UNSET, REDIRECT_OFF, REDIRECT_ON };

/* What nobody set is as the gateway was started. */
struct wanted {
    uint16_t port;                                            /* 0: not set */
    uint8_t redirect;                                         /* enum wanted_redirect */
    char cert_name[FILE_NAME_SIZE], key_name[FILE_NAME_SIZE]; /* as uploaded; "": not set */
    char pair[PAIR_NAME_SIZE];                                /* "": the gateway's own */
};

/* 0 with nothing set when there is no record; -errno (-EPROTO: it cannot be read). */
int wanted_load(struct store_txn *txn, struct wanted *ret_wanted);
/* 0 or -errno. */
int wanted_save(struct store_txn *txn, const struct wanted *w);

/* ---- front.c: the gateway's HTTPS front ---- */

/* What the gateway has, as it said last. */
struct front_state {
    uint16_t port;
    bool redirect;
    char pair[PAIR_NAME_SIZE], cert_name[FILE_NAME_SIZE];
    uint16_t http_port, default_port; /* it was started with these; the first may be 0 */
    char fault[200]; /* why it does not have what it had before its start; or "" */
};

/* One change that a client asked for; owned by the front from front_change on. */
struct change {
    struct change *next;
    struct api_call *call;
    struct httpserver_update update;
    const char *cert, *key;           /* texts that live in the call; NULL: not sent */
    const char *cert_name, *key_name; /* as above */
    struct wanted target;
    uint64_t id;  /* of what the gateway prepared */
    bool is_held; /* committed here; the call waits for the gateway to switch */
};

struct front {
    struct bus_peer *gateway;
    struct loop_timer timer; /* looks at what is in force */
    bool is_up, is_busy;
    bool is_known; /* 'state' was told in this life */
    bool is_told;  /* the present difference has its alert */
    struct front_state state;
    char fault[256];               /* why what is wanted is not in force; "": it is */
    struct change *current;        /* NULL: mending, when busy */
    struct change *waiting, **end; /* in order */
    unsigned n_waiting;
};

struct sysd {
    struct svc *svc;
    struct wanted wanted; /* as committed */
    struct front front;
};

int front_start(struct sysd *d);
void front_stop(struct sysd *d);

/* Takes a change over: begins it, or lets it wait. API_PENDING, or a refusal ('c' is freed). */
enum api_status front_change(struct sysd *d, struct change *c);

/* ---- op_httpserver.c ---- */

/* What clients see; the texts are those of 'd' and 'w'. The gateway's state must be known. */
void httpserver_show(const struct sysd *d, const struct wanted *w,
                     struct httpserver_config *ret_config);
/* The change's update over what is wanted now. API_OK with c->target, or a refusal. */
enum api_status httpserver_resolve(struct sysd *d, struct change *c);

#endif
