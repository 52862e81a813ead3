/*
 * What is remembered of a device between two commands: a file
 * $XDG_CONFIG_HOME/fieldgate/<profile>.json (~/.config without the variable),
 * readable by its owner only, for it holds the token.
 */
#ifndef FIELDGATE_CTL_CONFIG_H
#define FIELDGATE_CTL_CONFIG_H

#include <limits.h>

#include "services/fieldgatectl/http.h"
#include "services/fieldgatectl/trust.h"

enum { CONFIG_TOKEN_MAX = 4096, CONFIG_NAME_MAX = 64 };

struct config {
    char url[HTTP_URL_MAX];            /* as http_base gives it; "": nothing is remembered */
    char name[CONFIG_NAME_MAX + 1];    /* of the account */
    char token[CONFIG_TOKEN_MAX + 1];  /* "": signed out */
    char fingerprint[TRUST_TEXT_SIZE]; /* "": verified by authorities */
    char cacert[PATH_MAX];             /* "": those of the system */
};

/*
 * Reads it; CTL_OK and an empty one when there is none. A file or directory
 * that others may read or write, or that is somebody else's, is refused: it
 * complains, as of all faults, and returns the exit code.
 */
int config_load(const char *profile, struct config *ret);
/* Puts it in place of the one before, whole or not at all, on disk. As above. */
int config_save(const char *profile, const struct config *c);
/* Takes it away; there may be none. As above. */
int config_remove(const char *profile);

#endif
