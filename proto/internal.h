/*
 * Operations between daemons: not reachable from HTTP. Payloads are described
 * in proto/README.md section 4; JSON unless said.
 */
#ifndef FIELDGATE_PROTO_INTERNAL_H
#define FIELDGATE_PROTO_INTERNAL_H

/* The daemons of the suite: on a device each has the user "fieldgate-<name>". */
#define INTERNAL_DAEMON_TABLE(X)                                                       \
    X(gateway) X(authd) X(auditd) X(netd) X(sysd) X(updated) X(modbusd) X(iod)         \
    X(funcd) X(tagd) X(cloudd)

#define X(name) INTERNAL_DAEMON_##name,
enum internal_daemon { INTERNAL_DAEMON_TABLE(X) INTERNAL_N_DAEMONS };
#undef X

#define INTERNAL_BY(name) (1u << INTERNAL_DAEMON_##name)
#define INTERNAL_BY_ALL ((1u << INTERNAL_N_DAEMONS) - 1)

/* Whoever else asks is refused with 403. */
#define INTERNAL_TABLE(X)                                                              \
    /*  name        number  callers */                                                 \
    X(PING,             1,  INTERNAL_BY_ALL)  /* owner: all; 200, empty */             \
    X(METRICS,          2,  INTERNAL_BY(gateway)) /* all: 200, text */                 \
    X(AUTH_CHECK,      16,  INTERNAL_BY(gateway)) /* authd: token -> principal */      \
    X(AUTH_TOUCH,      17,  INTERNAL_BY(gateway)) /* authd: sessions used since */     \
    X(AUTH_FORGET,     18,  INTERNAL_BY(authd)) /* gateway: drop cached principals */  \
    X(AUTH_REFUSED,    19,  INTERNAL_BY(gateway)) /* authd: requests refused since */  \
    X(CERT_PUBLISH,    20,  INTERNAL_BY_ALL) /* authd: certificates that a daemon uses */ \
    X(INTEGRITY_TOLD,  21,  INTERNAL_BY(auditd)) /* authd: what sign-ins say of it */  \
    X(HTTP_APPLY,      24,  INTERNAL_BY(sysd)) /* gateway: port, redirect, certificate */ \
    X(AUDIT_APPEND,    32,  INTERNAL_BY_ALL) /* auditd: records of an outbox */        \
    X(SECURITY_FACTS,  33,  INTERNAL_BY(auditd)) /* owner: any; what a daemon knows of its security */ \
    X(TAG_CATALOGUE,   48,  INTERNAL_BY_ALL) /* provider: definitions, binary, paged */ \
    X(TAG_SNAPSHOT,    49,  INTERNAL_BY_ALL) /* provider: last values, binary, paged */ \
    X(TAG_READ,        50,  INTERNAL_BY(tagd)) /* provider: read from the device now */ \
    X(TAG_WRITE,       51,  INTERNAL_BY(tagd) | INTERNAL_BY(modbusd)) /* provider: write */ \
    X(SERIAL_CHANGED,  65,  INTERNAL_BY(iod)) /* modbusd: serial ports and their settings */

#define X(name, number, callers) INTERNAL_##name = number,
enum internal_op { INTERNAL_TABLE(X) };
#undef X

#endif
