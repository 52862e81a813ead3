/*
 * What the gateway keeps of its HTTPS setting, in its state directory:
 *
 *   https.conf         the setting in force:
 * {"httpsPort","redirectToHttps","pair","certFileName"} https.last         the one before it
 *   https.next         the one that was prepared last, unless it was committed
 *   https-<pair>.crt   a certificate that was uploaded, and its key; <pair> is
 *   https-<pair>.key   a hash of both. No pair: the machine's own (tls.h)
 *
 * Each file is written whole, made durable and then given its name, so that at
 * any moment there is a setting that was good.
 */
#ifndef FIELDGATE_GATEWAY_HTTPS_FILES_H
#define FIELDGATE_GATEWAY_HTTPS_FILES_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;
struct cJSON;

enum {
    HTTPS_PAIR_SIZE = 33, /* 32 hexadecimal digits, terminated; "": the machine's own */
    HTTPS_PEM_MAX = 64 * 1024,
    HTTPS_NAME_SIZE = 256,
};

struct https_setting {
    uint16_t port; /* 1..65535 */
    bool redirect; /* plain HTTP leads to it */
    char pair[HTTPS_PAIR_SIZE];
    char cert_name[HTTPS_NAME_SIZE]; /* of the certificate's file, as uploaded; "": not known */
};

/* From {"httpsPort":1..65535,"redirectToHttps":bool,"pair":"…"} with or
 * without "certFileName"; 0 or -EINVAL. */
int https_setting_parse(const struct cJSON *tree, struct https_setting *ret_setting);
/* Those members, into an open object. */
void https_setting_write(struct buf *b, const struct https_setting *s);
bool https_setting_eq(const struct https_setting *a, const struct https_setting *b);

/* The setting that file 'name' holds. 0, -ENOENT, -EINVAL or -E2BIG (damaged) or -errno. */
int https_file_read(const char *dir, const char *name, struct https_setting *ret_setting);
/* Keeps 's' as the prepared one, durably. 0 or -errno. */
int https_file_stage(const char *dir, const struct https_setting *s);
/* The prepared one becomes the one in force, durably. 0 or -errno: then either may be. */
int https_file_commit(const char *dir);

/* Keeps an uploaded pair, durably; mode 0600. 0 with its name, or -errno. */
int https_pair_keep(const char *dir, const char *cert, const char *key,
                    char ret_pair[HTTPS_PAIR_SIZE]);
/* Where the files of a pair are. */
void https_pair_paths(const char *dir, const char *pair, char ret_cert[PATH_MAX],
                      char ret_key[PATH_MAX]);
/* The text of a PEM file, terminated, the caller's to free; NULL when it cannot be read. */
char *https_pem_read(const char *path);
/*
 * Removes the files of all uploaded pairs but those 'n' and the ones of
 * https.conf and .last; none while either of the two cannot be read.
 */
void https_pairs_sweep(const char *dir, const char *const *keep, size_t n);

#endif
