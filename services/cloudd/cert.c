/*
 * Certificates and keys of clients. The store holds them, so that they change
 * with the configuration in one transaction; paho reads files, which are
 * written from the store before each connection.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "services/cloudd/cloudd.h"
#include "libcommon/banned.h"

const char *const cert_part_names[CERT_KINDS] = { "rootCaCertFile", "caCertFile", "caPkFile" };
static const char file_prefix[] = "mqtt-";
static const char *const file_kinds[CERT_KINDS] = { "root", "cert", "key" };

int
cert_check(enum cert_kind kind, const char *pem, size_t n)
{
    static const char certificate[] = "-----BEGIN CERTIFICATE-----";
    static const char key[] = "PRIVATE KEY-----";
    const char *mark = kind == CERT_KEY ? key : certificate;
    if (n == 0 || n > CLOUDD_CERT_MAX || memchr(pem, 0, n) != NULL ||
        memmem(pem, n, mark, strlen(mark)) == NULL)
        return -EINVAL;
    return 0;
}

static void
make_key(uint8_t out[5], uint32_t client, unsigned kind)
{
    (void)cloudd_key(out, client); /* the same bytes */
    out[4] = (uint8_t)kind;
}

int
cert_put(struct store_txn *txn, uint32_t client, enum cert_kind kind, const char *pem, size_t n)
{
    uint8_t key[5];
    make_key(key, client, kind);
    return store_put(txn, CLOUDD_DB_CERTS, key, sizeof(key), pem, n);
}

int
cert_delete(struct store_txn *txn, uint32_t client)
{
    for (unsigned kind = 0; kind < CERT_KINDS; kind++) {
        uint8_t key[5];
        make_key(key, client, kind);
        int r = store_del(txn, CLOUDD_DB_CERTS, key, sizeof(key));
        if (r < 0)
            return r;
    }
    return 0;
}

static int
file_path(const struct cloudd *d, uint32_t client, unsigned kind, const char *suffix,
          char out[CERT_PATH_MAX])
{
    int n = snprintf(out, CERT_PATH_MAX, "%s/%s%u-%s.pem%s", d->svc->state_dir, file_prefix,
                     client, file_kinds[kind], suffix);
    return n > 0 && n < CERT_PATH_MAX ? 0 : -ENAMETOOLONG;
}

static int
write_file(const struct cloudd *d, uint32_t client, unsigned kind, const void *bytes, size_t n,
           char out[CERT_PATH_MAX])
{
    char temporary[CERT_PATH_MAX], path[CERT_PATH_MAX];
    int r = file_path(d, client, kind, ".new", temporary);
    if (r == 0)
        r = file_path(d, client, kind, "", path);
    if (r < 0)
        return r;
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    const char *at = bytes;
    while (r == 0 && n > 0) {
        ssize_t k = write(fd, at, n);
        if (k < 0)
            r = errno == EINTR ? 0 : -errno;
        else {
            at += k;
            n -= (size_t)k;
        }
    }
    if (close(fd) < 0 && r == 0)
        r = -errno;
    if (r == 0 && rename(temporary, path) < 0)
        r = -errno;
    if (r < 0)
        (void)unlink(temporary); /* nothing to keep */
    else
        memcpy(out, path, CERT_PATH_MAX);
    return r;
}

int
cert_write_files(struct cloudd *d, uint32_t client, struct cert_files *ret_files)
{
    struct store_txn *txn = NULL;
    int r = store_read(d->svc->store, &txn);
    if (r < 0)
        return r;
    memset(ret_files, 0, sizeof(*ret_files));
    for (unsigned kind = 0; r >= 0 && kind < CERT_KINDS; kind++) {
        uint8_t key[5];
        const void *pem;
        size_t n;
        make_key(key, client, kind);
        r = store_get(txn, CLOUDD_DB_CERTS, key, sizeof(key), &pem, &n);
        char path[CERT_PATH_MAX];
        if (r == STORE_OK)
            r = write_file(d, client, kind, pem, n, ret_files->path[kind]);
        else if (r == STORE_NOT_FOUND && file_path(d, client, kind, "", path) == 0)
            (void)unlink(path); /* of a certificate that was deleted */
    }
    store_abort(txn);
    return r < 0 ? r : 0;
}

void
cert_remove_files(struct cloudd *d, uint32_t client)
{
    for (unsigned kind = 0; kind < CERT_KINDS; kind++) {
        char path[CERT_PATH_MAX];
        if (file_path(d, client, kind, "", path) == 0)
            (void)unlink(path); /* most have none */
    }
}

void
cert_sweep_files(struct cloudd *d)
{
    DIR *dir = opendir(d->svc->state_dir);
    if (dir == NULL)
        return;
    for (const struct dirent *e; (e = readdir(dir)) != NULL;)
        if (strncmp(e->d_name, file_prefix, sizeof(file_prefix) - 1) == 0)
            (void)unlinkat(dirfd(dir), e->d_name, 0); /* else: the next start */
    (void)closedir(dir);                              /* was only read */
}
