/*
 * When files are checked (fim.h), what becomes of the result, and who is told:
 * clients that ask, the audit log, and authd, which tells it at sign-in.
 */
#ifndef FIELDGATE_AUDITD_INTEGRITY_H
#define FIELDGATE_AUDITD_INTEGRITY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "libcommon/loop.h"
#include "services/auditd/fim.h"

struct api_call;
struct auditd;
struct bus_peer;

/* As in the store. */
struct integrity_state {
    bool is_known;    /* a check ran; else nothing below counts */
    bool is_insecure; /* by the last one */
    bool has_accepted;
    uint8_t accepted[FIM_HASH_SIZE]; /* SHA-256 of the manifest that is trusted */
    uint8_t seen[FIM_HASH_SIZE];     /* of what was found last: not recorded again and again */
};

struct integrity {
    const char *manifest; /* --set manifest, NULL: nothing is checked */
    struct integrity_state state;
    struct integrity_job *job; /* under way */
    struct api_call *waiting;  /* for that one to end; then its own begins */
    atomic_bool hurry;         /* somebody waits */
    struct loop_timer daily;
    struct bus_peer *authd;
    bool is_told, is_telling; /* authd knows the state */
    struct loop_timer tell;
};

/* Reads the state and begins the first check. 0 or -errno. */
int integrity_start(struct auditd *a);
void integrity_stop(struct auditd *a);

#endif
