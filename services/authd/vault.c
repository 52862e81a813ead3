#include "services/authd/vault.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"

#include "libcommon/banned.h"

enum { KEY_SIZE = crypto_secretbox_KEYBYTES, NONCE_SIZE = crypto_secretbox_NONCEBYTES };

static int
sync_dir(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int r = fsync(fd) < 0 ? -errno : 0;
    close(fd);
    return r;
}

static int
write_key(int fd, const uint8_t key[KEY_SIZE])
{
    ssize_t n = write(fd, key, KEY_SIZE);
    if (n < 0)
        return -errno;
    if (n != KEY_SIZE)
        return -ENOSPC;
    return fsync(fd) < 0 ? -errno : 0;
}

/* Whole and durable under its name, or not there. */
static int
make_file(const char *dir, const char *path)
{
    char temp[PATH_MAX];
    uint8_t key[KEY_SIZE];
    if (snprintf(temp, sizeof(temp), "%s.new", path) >= (int)sizeof(temp))
        return -ENAMETOOLONG;
    (void)unlink(temp); /* left by a start that was cut short */
    int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    randombytes_buf(key, sizeof(key));
    int r = write_key(fd, key);
    sodium_memzero(key, sizeof(key));
    if (close(fd) < 0 && r == 0)
        r = -errno;
    if (r == 0 && rename(temp, path) < 0)
        r = -errno;
    if (r < 0) {
        (void)unlink(temp); /* nothing to keep */
        return r;
    }
    return sync_dir(dir);
}

/* 0, or -errno (-EPROTO: not the size of a key). */
static int
read_key(int fd, uint8_t key[KEY_SIZE])
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || st.st_size != KEY_SIZE)
        return -EPROTO;
    if ((st.st_mode & 077) != 0 && fchmod(fd, 0600) < 0)
        return -errno;
    ssize_t n = read(fd, key, KEY_SIZE);
    if (n < 0)
        return -errno;
    return n == KEY_SIZE ? 0 : -EPROTO;
}

int
vault_open(struct vault *v, const char *dir)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s/" VAULT_FILE, dir) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    int r = access(path, F_OK) < 0 && errno == ENOENT ? make_file(dir, path) : 0;
    if (r < 0)
        return r;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    v->key = sodium_malloc(KEY_SIZE);
    r = v->key ? read_key(fd, v->key) : -ENOMEM;
    close(fd);
    if (r < 0)
        vault_close(v);
    return r;
}

void
vault_close(struct vault *v)
{
    sodium_free(v->key);
    v->key = NULL;
}

bool
vault_is_open(const struct vault *v)
{
    return v->key != NULL;
}

void
vault_seal(const struct vault *v, const void *secret, size_t n, struct buf *out)
{
    size_t box_size = n + crypto_secretbox_MACBYTES;
    uint8_t *at = (uint8_t *)buf_reserve(out, NONCE_SIZE + box_size);
    if (!at)
        return;
    randombytes_buf(at, NONCE_SIZE);
    (void)crypto_secretbox_easy(at + NONCE_SIZE, secret, n, at,
                                v->key); /* fails on size only */
    out->len += NONCE_SIZE + box_size;
}

bool
vault_fits(const struct vault *v, const void *box, size_t size)
{
    const uint8_t *b = box;
    if (!v->key || size < NONCE_SIZE + crypto_secretbox_MACBYTES)
        return false;
    size_t n = size - NONCE_SIZE - crypto_secretbox_MACBYTES;
    uint8_t *secret = malloc(n + 1);
    bool fits = secret && crypto_secretbox_open_easy(secret, b + NONCE_SIZE, size - NONCE_SIZE,
                                                     b, v->key) == 0;
    if (secret)
        sodium_memzero(secret, n);
    free(secret);
    return fits;
}
