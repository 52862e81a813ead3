/*
 * The rules a new password must follow, beyond its form (8..256 printable
 * ASCII characters, checked by the schema).
 */
#ifndef FIELDGATE_AUTHD_POLICY_H
#define FIELDGATE_AUTHD_POLICY_H

#include "gen/api_authd.h"

/* Passwords of shipped devices of this family: known to everybody. */
extern const char *policy_blacklist[];
extern const size_t policy_n_blacklist;

/*
 * NULL when 'password' is good for the account 'name', else the rule it
 * breaks, for a person. Which is compared without case, so that a capital
 * letter does not make a known password a new one.
 */
const char *policy_refuses(const struct password_policy *policy, const char *name,
                           const char *password);

#endif
