/*
 * The security advisor: what daemons and the machine say of themselves
 * (facts) goes through a table of checks, which makes findings.
 *
 * Facts are JSON objects, one per source, as proto/README.md section 4 has
 * them. Nothing in them is trusted beyond its form: a member that is missing
 * or of another type makes the finding "unknown", never "pass".
 */
#ifndef FIELDGATE_AUDITD_SECADVISOR_H
#define FIELDGATE_AUDITD_SECADVISOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/buf.h"

struct cJSON;
struct store_txn;

/* Who states facts: the daemons but auditd and MACHINE are asked over the bus. */
#define SEC_SOURCE_TABLE(X)                                                                    \
    X(GATEWAY, "gateway")                                                                      \
    X(AUTHD, "authd")                                                                          \
    X(CLOUDD, "cloudd")                                                                        \
    X(MODBUSD, "modbusd")                                                                      \
    X(AUDITD, "auditd")                                                                        \
    X(MACHINE, "the machine")
#define X(id, name) SEC_##id,
enum sec_source { SEC_SOURCE_TABLE(X) SEC_N_SOURCES };
#undef X
enum { SEC_N_PEERS = SEC_AUDITD };
extern const char *const sec_source_names[SEC_N_SOURCES];

/* Groups: enum, key in the reply, heading in the document. */
#define SEC_GROUP_TABLE(X)                                                                     \
    X(DEFAULTS, "defaults", "Factory settings")                                                \
    X(ACCOUNT, "account", "Accounts")                                                          \
    X(PASSWORD, "password", "Password policy")                                                 \
    X(LOCK, "lock", "Sign-in lock")                                                            \
    X(SESSION, "session", "Sessions")                                                          \
    X(TLS, "tls", "TLS and certificate")                                                       \
    X(MQTT, "mqtt", "Cloud connections")                                                       \
    X(FIELDBUS, "fieldbus", "Field devices")                                                   \
    X(SSH, "ssh", "SSH server")                                                                \
    X(NETWORK, "network", "Open ports and network")                                            \
    X(SYSTEM, "system", "Operating system")                                                    \
    X(TIME, "time", "Time")                                                                    \
    X(UPDATE, "update", "Updates")                                                             \
    X(AUDIT, "audit", "Audit log")                                                             \
    X(LOG, "log", "System log")
#define X(id, key, title) SEC_GROUP_##id,
enum sec_group { SEC_GROUP_TABLE(X) SEC_N_GROUPS };
#undef X
extern const char *const sec_group_keys[SEC_N_GROUPS], *const sec_group_titles[SEC_N_GROUPS];

enum sec_risk { SEC_LOW, SEC_MEDIUM, SEC_HIGH, SEC_N_RISKS };
extern const char *const sec_risk_names[SEC_N_RISKS];
/* UNKNOWN: the source did not answer, or not this. */
enum sec_status { SEC_UNKNOWN, SEC_PASS, SEC_FAIL, SEC_N_STATUSES };
extern const char *const sec_status_names[SEC_N_STATUSES];

struct sec_facts {
    struct cJSON *of[SEC_N_SOURCES]; /* owned; NULL: no answer */
    int64_t now_s;                   /* Unix seconds */
};
/* Frees the trees. */
void sec_facts_done(struct sec_facts *f);

enum { SEC_EVIDENCE_SIZE = 512, SEC_CHECKS_MAX = 96 };

struct sec_finding {
    const struct sec_check *check;
    enum sec_status status;
    int64_t since_s;                  /* the status is the same since; Unix seconds */
    char evidence[SEC_EVIDENCE_SIZE]; /* what was seen; UTF-8, one line */
};

/* One line of the catalogue. Ids are stable and never reused. */
struct sec_check {
    const char *id; /* SEC-<group>-<number> */
    enum sec_group group;
    enum sec_risk risk;
    enum sec_source source;
    const char *message;   /* what should be so */
    const char *remedy;    /* what to do when it is not */
    const char *operation; /* operationId that does it, or NULL: done outside of Fieldgate */
    /* Says what it saw in 'out' and judges; UNKNOWN when a fact is missing. */
    enum sec_status (*judge)(const struct sec_facts *f, struct sec_finding *out);
};
extern const struct sec_check sec_checks[];
extern const size_t sec_n_checks; /* at most SEC_CHECKS_MAX */
/* Method and path of an operation that a check names, as "PUT /users/{id}". */
const char *sec_route(const char *operation);

/* The result of a scan. */
struct sec_report {
    int64_t at_s;               /* Unix seconds */
    char host[65], profile[16]; /* of the device; UTF-8 */
    size_t n;
    struct sec_finding findings[SEC_CHECKS_MAX]; /* in the order of the catalogue */
};
/* Judges everything; since_s is at_s. Does not block. */
void sec_judge(const struct sec_facts *f, struct sec_report *ret_report);

struct sec_summary {
    unsigned n[SEC_N_STATUSES], failed[SEC_N_RISKS];
    unsigned
        score; /* 0..100: share that passed, weighted 1, 2, 3 by risk; unknown is not passed */
};
void sec_summarize(const struct sec_report *report, struct sec_summary *ret_summary);

/* {"data":{"<group>":[…]},"summary":{…}} as in proto/api/auditd.yaml. */
void sec_report_json(const struct sec_report *report, struct buf *b);

/* ---- sec_history.c: since when ---- */

/*
 * Takes over since_s of findings whose status is as in the last report kept
 * in 'db', unless that is later than now; '*ret_changed': some status is
 * another. 0 or -errno; what cannot be decoded counts as nothing kept.
 */
int sec_history_read(struct store_txn *txn, unsigned db, struct sec_report *report,
                     bool *ret_changed);
/* Keeps it. 0 or -errno. */
int sec_history_write(struct store_txn *txn, unsigned db, const struct sec_report *report);

/* ---- sec_pdf.c ---- */

enum { SEC_PDF_MAX = 4 << 20 /* bytes of the document */ };
/*
 * The report as a document (A4), fonts embedded, into 'out' (made with
 * buf_init and SEC_PDF_MAX). Blocks: for a worker. 0; -ENOENT: no font
 * (package fonts-dejavu-core); -ENOMEM; -E2BIG; -EIO: what libharu refused.
 */
int sec_pdf(const struct sec_report *report, struct buf *out);

#endif
