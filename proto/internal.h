/*
 * Operations between daemons: not reachable from HTTP. Payloads are described
 * in proto/README.md section 4; JSON unless said.
 */
#ifndef FIELDGATE_PROTO_INTERNAL_H
#define FIELDGATE_PROTO_INTERNAL_H

#define INTERNAL_TABLE(X)                                                              \
    /*  name             number  owner     callers */                                  \
    X(PING,                 1)  /* all      all: 200, empty */                         \
    X(METRICS,              2)  /* all      gateway: 200, text */                      \
    X(AUTH_CHECK,          16)  /* authd    gateway: token -> principal */             \
    X(AUTH_TOUCH,          17)  /* authd    gateway: sessions used since */            \
    X(AUTH_FORGET,         18)  /* gateway  authd: drop cached principals */           \
    X(AUDIT_APPEND,        32)  /* auditd   all: records of an outbox */               \
    X(TAG_CATALOGUE,       48)  /* provider all: definitions, binary, paged */         \
    X(TAG_SNAPSHOT,        49)  /* provider all: last values, binary, paged */         \
    X(TAG_READ,            50)  /* provider tagd: read from the device now */          \
    X(TAG_WRITE,           51)  /* provider tagd, modbusd: write to the device */

#define X(name, number) INTERNAL_##name = number,
enum internal_op { INTERNAL_TABLE(X) };
#undef X

#endif
