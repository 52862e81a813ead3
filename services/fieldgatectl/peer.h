/*
 * The device that a command talks to: from options, then the environment
 * (FIELDGATE_URL, FIELDGATE_TOKEN, FIELDGATE_FINGERPRINT), then the profile.
 */
#ifndef FIELDGATE_CTL_PEER_H
#define FIELDGATE_CTL_PEER_H

#include "services/fieldgatectl/config.h"
#include "services/fieldgatectl/http.h"
#include "services/fieldgatectl/trust.h"

struct ctl;

struct peer {
    const char *profile;
    struct config saved; /* the profile as it is on disk */
    struct config use;   /* what holds for this command */
    struct trust trust;
    struct http_peer http; /* points into this struct */
};

/*
 * Fills *p. What a profile remembers of one URL (token, certificate) is never
 * used for another. CTL_OK with use.url "" when no device is known. Complains
 * otherwise.
 */
int peer_load(const struct ctl *ctl, struct peer *p);
/* Complains unless a device is known and, with 'token', signed in to. Exit code. */
int peer_need(const struct peer *p, bool token);
/* From now on its certificate is trusted, and no other. */
void peer_pin(struct peer *p, const uint8_t sha256[TRUST_SIZE]);
/* Complains why a transfer did not come to its end; the exit code. */
int peer_failed(const struct peer *p, const struct http_transfer *t);
/* Wipes the token. */
void peer_done(struct peer *p);

#endif
