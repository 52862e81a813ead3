/*
 * The manifest of installed files, read:
 *
 *   fieldgate-manifest 1
 *   d <mode, octal> <path>              a directory that is all ours
 *   f <mode, octal> <SHA-256> <path>    a plain file
 *
 * One entry a line, paths absolute; deploy/manifest.sh writes it.
 */
#ifndef FIELDGATE_AUDITD_FIM_MANIFEST_H
#define FIELDGATE_AUDITD_FIM_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { FIM_HASH_SIZE = 32 };

struct fim_entry {
    const char *path;
    bool is_dir;
    mode_t mode;                 /* with setuid, setgid and sticky */
    uint8_t hash[FIM_HASH_SIZE]; /* of a file */
};

struct fim_manifest {
    struct fim_entry *entries; /* by path */
    size_t n, n_files;
};

/*
 * Parses 'len' bytes, behind which stands a NUL. The text is parted; paths
 * point into it. 0; -EBADMSG: it is none; -ENOMEM. Done in any case with
 * fim_manifest_done.
 */
int fim_manifest_parse(char *text, size_t len, struct fim_manifest *ret_manifest);
bool fim_manifest_has(const struct fim_manifest *m, const char *path);
void fim_manifest_done(struct fim_manifest *m); /* not the text */

#endif
