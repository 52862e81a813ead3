/*
 * File integrity: what is installed, against the manifest that was made when
 * it was (fim_manifest.h). All of it belongs to the owner of the manifest.
 * proto/decisions/file-integrity.md says what that finds and what it cannot.
 */
#ifndef FIELDGATE_AUDITD_FIM_H
#define FIELDGATE_AUDITD_FIM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "services/auditd/fim_manifest.h"

enum {
    FIM_FINDINGS_MAX = 100,     /* kept; all are counted */
    FIM_MANIFEST_MAX = 1 << 20, /* bytes */
};

/* As the contract names them, in its order (IntegrityFinding.problem). */
enum fim_problem {
    FIM_MISSING,
    FIM_ADDED,
    FIM_KIND,
    FIM_MODE,
    FIM_OWNER,
    FIM_CHANGED,
    FIM_UNREADABLE,
    FIM_NOT_ACCEPTED,
    FIM_UNUSABLE,
};

struct fim_finding {
    enum fim_problem problem;
    char *path;
};

struct fim_result {
    bool is_read;                    /* the manifest, whole: the next two tell of it */
    uint8_t manifest[FIM_HASH_SIZE]; /* its SHA-256 */
    uint64_t n_files;                /* that it names */
    uint64_t n_problems;
    struct fim_finding findings[FIM_FINDINGS_MAX];
    size_t n_findings;
};

/*
 * Compares. 'accepted' is the SHA-256 that the manifest must have, NULL: any.
 * Blocks for as long as reading it all takes, with pauses, so that others get
 * at the disk, while '*hurry' is false. What cannot be read is a finding, not
 * an error: 0 or -ENOMEM.
 */
int fim_check(const char *manifest, const uint8_t *accepted, const atomic_bool *hurry,
              struct fim_result *ret_result);
void fim_result_done(struct fim_result *r);

#endif
