/*
 * Files of the HTTPS setting. See https_files.h.
 */
#include "gateway/https_files.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/tls.h"
#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

static const char conf_name[] = "https.conf";
static const char last_name[] = "https.last";
static const char next_name[] = "https.next";
static const char pair_prefix[] = "https-";
enum { PREFIX_LEN = sizeof(pair_prefix) - 1, SETTING_BYTES_MAX = 2048 };

/* ---- a setting as JSON ---- */

static bool
is_pair_name(const char *text)
{
    return text[0] == '\0' || (strlen(text) == HTTPS_PAIR_SIZE - 1 &&
                               strspn(text, "0123456789ABCDEF") == HTTPS_PAIR_SIZE - 1);
}

int
https_setting_parse(const struct cJSON *tree, struct https_setting *ret_setting)
{
    struct https_setting s = { 0 };
    int64_t port;
    const cJSON *redirect = json_get(tree, "redirectToHttps");
    const char *pair = json_text(json_get(tree, "pair"));
    const cJSON *named = json_get(tree, "certFileName"); /* files of before have none */
    const char *cert_name = named == NULL ? "" : json_text(named);
    if (json_i64(json_get(tree, "httpsPort"), &port) < 0 || port < 1 || port > 65535 ||
        !cJSON_IsBool(redirect) || pair == NULL || !is_pair_name(pair) || cert_name == NULL ||
        str_copy(s.cert_name, sizeof(s.cert_name), cert_name) < 0)
        return -EINVAL;
    s.port = (uint16_t)port;
    s.redirect = cJSON_IsTrue(redirect);
    (void)str_copy(s.pair, sizeof(s.pair), pair); /* checked above */
    *ret_setting = s;
    return 0;
}

void
https_setting_write(struct buf *b, const struct https_setting *s)
{
    jw_ki64(b, "httpsPort", s->port);
    jw_kbool(b, "redirectToHttps", s->redirect);
    jw_kstr(b, "pair", s->pair);
    jw_kstr(b, "certFileName", s->cert_name);
}

bool
https_setting_eq(const struct https_setting *a, const struct https_setting *b)
{
    return a->port == b->port && a->redirect == b->redirect && str_eq(a->pair, b->pair) &&
           str_eq(a->cert_name, b->cert_name);
}

/* ---- files ---- */

static void
path_of(const char *dir, const char *name, char out[PATH_MAX])
{
    if (snprintf(out, PATH_MAX, "%s/%s", dir, name) >= PATH_MAX)
        out[0] = '\0'; /* cannot be opened: whoever tries is told */
}

static int
sync_dir(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = fd < 0 || fsync(fd) < 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    return r;
}

static int
write_all(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, bytes, n);
        if (done < 0 && errno != EINTR)
            return -errno;
        bytes += done > 0 ? done : 0;
        n -= done > 0 ? (size_t)done : 0;
    }
    return fsync(fd) < 0 ? -errno : 0;
}

/* Whole or not at all; mode 0600. The directory is not synced yet. */
static int
write_file(const char *path, const char *bytes, size_t n)
{
    char temp[PATH_MAX + 8];
    (void)snprintf(temp, sizeof(temp), "%s.tmp", path); /* fits */
    (void)unlink(temp);                                 /* of a write that was cut short */
    int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int r = write_all(fd, bytes, n);
    if (close(fd) < 0 && r == 0)
        r = -errno;
    if (r == 0 && rename(temp, path) < 0)
        r = -errno;
    if (r < 0)
        (void)unlink(temp); /* nothing to keep */
    return r;
}

char *
https_pem_read(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    char *text = fd < 0 ? NULL : malloc(HTTPS_PEM_MAX + 1);
    ssize_t n = text == NULL ? -1 : read(fd, text, HTTPS_PEM_MAX);
    if (fd >= 0)
        close(fd);
    if (n < 0) {
        free(text);
        return NULL;
    }
    text[n] = '\0';
    return text;
}

int
https_file_read(const char *dir, const char *name, struct https_setting *ret_setting)
{
    char path[PATH_MAX], bytes[SETTING_BYTES_MAX];
    CLEANUP(json_freep) struct cJSON *tree = NULL;
    struct json_error error;
    path_of(dir, name, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, bytes, sizeof(bytes));
    int r = n < 0 ? -errno : 0;
    close(fd);
    if (r == 0)
        r = json_parse(bytes, (size_t)n, &tree, &error);
    return r < 0 ? r : https_setting_parse(tree, ret_setting);
}

int
https_file_stage(const char *dir, const struct https_setting *s)
{
    char path[PATH_MAX];
    struct buf b;
    buf_init(&b, SETTING_BYTES_MAX);
    jw_open(&b, '{');
    https_setting_write(&b, s);
    jw_close(&b, '}');
    path_of(dir, next_name, path);
    int r = b.err != 0 ? b.err : write_file(path, b.data, b.len);
    buf_done(&b);
    return r == 0 ? sync_dir(dir) : r;
}

int
https_file_commit(const char *dir)
{
    char conf[PATH_MAX], last[PATH_MAX], next[PATH_MAX];
    struct https_setting old = { 0 }, new = { 0 };
    path_of(dir, conf_name, conf);
    path_of(dir, last_name, last);
    path_of(dir, next_name, next);
    int r = https_file_read(dir, next_name, &new);
    if (r < 0)
        return r;
    bool had = https_file_read(dir, conf_name, &old) == 0;
    if (had && !https_setting_eq(&old, &new) && rename(conf, last) < 0)
        return -errno;
    if (rename(next, conf) < 0)
        return -errno;
    return sync_dir(dir);
}

/* ---- uploaded pairs ---- */

void
https_pair_paths(const char *dir, const char *pair, char ret_cert[PATH_MAX],
                 char ret_key[PATH_MAX])
{
    char name[64];
    if (pair[0] == '\0') {
        path_of(dir, TLS_CERT_FILE, ret_cert);
        path_of(dir, TLS_KEY_FILE, ret_key);
        return;
    }
    (void)snprintf(name, sizeof(name), "%s%s.crt", pair_prefix, pair); /* fits */
    path_of(dir, name, ret_cert);
    (void)snprintf(name, sizeof(name), "%s%s.key", pair_prefix, pair); /* as above */
    path_of(dir, name, ret_key);
}

int
https_pair_keep(const char *dir, const char *cert, const char *key,
                char ret_pair[HTTPS_PAIR_SIZE])
{
    uint8_t hash[(HTTPS_PAIR_SIZE - 1) / 2];
    char cert_path[PATH_MAX], key_path[PATH_MAX], name[HTTPS_PAIR_SIZE];
    crypto_generichash_state state;
    (void)crypto_generichash_init(&state, NULL, 0, sizeof(hash)); /* cannot fail so */
    (void)crypto_generichash_update(&state, (const unsigned char *)cert, strlen(cert) + 1);
    (void)crypto_generichash_update(&state, (const unsigned char *)key, strlen(key));
    (void)crypto_generichash_final(&state, hash, sizeof(hash));
    hex_encode(hash, sizeof(hash), name);
    https_pair_paths(dir, name, cert_path, key_path);
    int r = write_file(key_path, key, strlen(key));
    if (r == 0)
        r = write_file(cert_path, cert, strlen(cert));
    if (r == 0)
        r = sync_dir(dir);
    if (r == 0)
        memcpy(ret_pair, name, sizeof(name));
    return r;
}

static bool
is_kept(const char *pair, const char *const *keep, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strncmp(pair, keep[i], HTTPS_PAIR_SIZE - 1) == 0)
            return true;
    return false;
}

/* Of the setting in file 'name', or "": there is none, or a damaged one. -errno: not known now.
 */
static int
pair_named(const char *dir, const char *name, char ret_pair[HTTPS_PAIR_SIZE])
{
    struct https_setting s = { 0 };
    int r = https_file_read(dir, name, &s);
    if (r < 0 && r != -ENOENT && r != -EINVAL && r != -E2BIG)
        return r;
    memcpy(ret_pair, s.pair, sizeof(s.pair));
    return 0;
}

void
https_pairs_sweep(const char *dir, const char *const *keep, size_t n)
{
    char conf[HTTPS_PAIR_SIZE], last[HTTPS_PAIR_SIZE];
    const char *const named[] = { conf, last };
    if (pair_named(dir, conf_name, conf) < 0 || pair_named(dir, last_name, last) < 0)
        return; /* what is named must not go */
    DIR *d = opendir(dir);
    if (d == NULL)
        return;
    for (const struct dirent *e; (e = readdir(d)) != NULL;) {
        const char *pair = e->d_name + PREFIX_LEN;
        if (strncmp(e->d_name, pair_prefix, PREFIX_LEN) != 0 || is_kept(pair, keep, n) ||
            is_kept(pair, named, ARRAY_LEN(named)))
            continue;
        if (unlinkat(dirfd(d), e->d_name, 0) == 0)
            log_debug("https: file removed file=%s", e->d_name);
    }
    (void)closedir(d); /* was only read */
}
