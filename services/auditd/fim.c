#include "services/auditd/fim.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

enum {
    BLOCK = 256 << 10,
    PAUSE_US = 10000, /* after each block: at most 25 MiB/s */
    MODE_BITS = 07777,
};

struct check {
    const char *manifest;
    const atomic_bool *hurry;
    uid_t owner;
    char *text; /* of the manifest; parted once it is parsed */
    size_t len;
    struct fim_manifest named; /* by the manifest */
    uint8_t *block;
    struct fim_result *result;
};

static void
check_done(struct check *c)
{
    free(c->text);
    fim_manifest_done(&c->named);
    free(c->block);
}

static int
find(struct check *c, const char *path, enum fim_problem problem)
{
    struct fim_result *r = c->result;
    r->n_problems++;
    if (r->n_findings == FIM_FINDINGS_MAX)
        return 0;
    struct fim_finding *f = &r->findings[r->n_findings];
    f->problem = problem;
    f->path = strdup(path);
    if (!f->path)
        return -ENOMEM;
    r->n_findings++; /* NOLINT(clang-analyzer-unix.Malloc): fim_result_done frees it */
    return 0;
}

/* ---- the manifest ---- */

static int
read_text(struct check *c, int fd)
{
    c->text = malloc(FIM_MANIFEST_MAX + 1);
    if (!c->text)
        return -ENOMEM;
    for (;;) {
        ssize_t n = read(fd, c->text + c->len, FIM_MANIFEST_MAX + 1 - c->len);
        if (n < 0)
            return -errno;
        c->len += (size_t)n;
        if (c->len > FIM_MANIFEST_MAX)
            return -EBADMSG;
        if (n == 0)
            break;
    }
    c->text[c->len] = '\0';
    (void)crypto_hash_sha256(c->result->manifest, (const uint8_t *)c->text, c->len); /* 0 */
    return 0;
}

/* 0, -EBADMSG (it is none), or what kept it from being read. */
static int
read_manifest(struct check *c)
{
    struct stat st;
    int fd = open(c->manifest, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    bool is_file = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    int r = is_file ? read_text(c, fd) : -EBADMSG;
    c->owner = is_file ? st.st_uid : 0;
    (void)close(fd); /* was only read */
    if (r == 0)
        r = fim_manifest_parse(c->text, c->len, &c->named);
    c->result->n_files = r == 0 ? c->named.n_files : 0;
    return r;
}

/* ---- what is there ---- */

static void
pause_for_others(const struct check *c)
{
    struct timespec pause = { .tv_nsec = PAUSE_US * 1000 };
    if (!atomic_load(c->hurry))
        (void)nanosleep(&pause, NULL); /* cut short is fine too */
}

static int
hash_file(struct check *c, int fd, uint8_t ret_hash[FIM_HASH_SIZE])
{
    crypto_hash_sha256_state state;
    (void)crypto_hash_sha256_init(&state); /* these three return 0 */
    for (;;) {
        ssize_t n = read(fd, c->block, BLOCK);
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        (void)crypto_hash_sha256_update(&state, c->block, (size_t)n);
        pause_for_others(c);
    }
    (void)crypto_hash_sha256_final(&state, ret_hash);
    return 0;
}

/* A name in a directory of ours that the manifest does not know. 0 or -ENOMEM. */
static int
check_names(struct check *c, const struct fim_entry *e, int fd)
{
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    DIR *dir = own < 0 ? NULL : fdopendir(own);
    if (!dir) {
        if (own >= 0)
            (void)close(own);
        return find(c, e->path, FIM_UNREADABLE);
    }
    int r = 0;
    const struct dirent *d;
    while (r == 0 && (errno = 0, d = readdir(dir)) != NULL) {
        char path[PATH_MAX + NAME_MAX + 2];
        (void)snprintf(path, sizeof(path), "%s/%s", e->path, d->d_name); /* fits */
        if (!str_eq(d->d_name, ".") && !str_eq(d->d_name, "..") && !str_eq(path, c->manifest) &&
            !fim_manifest_has(&c->named, path))
            r = find(c, path, FIM_ADDED);
    }
    if (r == 0 && errno != 0)
        r = find(c, e->path, FIM_UNREADABLE);
    (void)closedir(dir); /* was only read */
    return r;
}

static int
check_content(struct check *c, const struct fim_entry *e, int fd)
{
    uint8_t hash[FIM_HASH_SIZE];
    if (e->is_dir)
        return check_names(c, e, fd);
    if (hash_file(c, fd, hash) < 0)
        return find(c, e->path, FIM_UNREADABLE);
    return memcmp(hash, e->hash, sizeof(hash)) == 0 ? 0 : find(c, e->path, FIM_CHANGED);
}

static int
check_open(struct check *c, const struct fim_entry *e, int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return find(c, e->path, FIM_UNREADABLE);
    if (e->is_dir ? !S_ISDIR(st.st_mode) : !S_ISREG(st.st_mode))
        return find(c, e->path, FIM_KIND);
    int r = 0;
    if ((st.st_mode & MODE_BITS) != e->mode)
        r = find(c, e->path, FIM_MODE);
    if (r == 0 && st.st_uid != c->owner)
        r = find(c, e->path, FIM_OWNER);
    return r < 0 ? r : check_content(c, e, fd);
}

static int
check_entry(struct check *c, const struct fim_entry *e)
{
    int fd = open(e->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return find(c, e->path,
                    errno == ENOENT || errno == ENOTDIR ? FIM_MISSING
                    : errno == ELOOP                    ? FIM_KIND /* a link */
                                                        : FIM_UNREADABLE);
    int r = check_open(c, e, fd);
    (void)close(fd); /* was only read */
    return r;
}

/* ---- all of it ---- */

static int
check_all(struct check *c, const uint8_t *accepted)
{
    c->block = malloc(BLOCK);
    if (!c->block)
        return -ENOMEM;
    int r = read_manifest(c);
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        return find(c, c->manifest, r == -ENOENT ? FIM_MISSING : FIM_UNUSABLE);
    c->result->is_read = true;
    if (accepted && memcmp(accepted, c->result->manifest, FIM_HASH_SIZE) != 0)
        r = find(c, c->manifest, FIM_NOT_ACCEPTED);
    for (size_t i = 0; i < c->named.n && r == 0; i++)
        r = check_entry(c, &c->named.entries[i]);
    return r;
}

int
fim_check(const char *manifest, const uint8_t *accepted, const atomic_bool *hurry,
          struct fim_result *ret_result)
{
    struct fim_result result = { 0 };
    struct check c = { .manifest = manifest, .hurry = hurry, .result = &result };
    int r = check_all(&c, accepted);
    check_done(&c);
    if (r < 0)
        fim_result_done(&result);
    else
        *ret_result = result;
    return r;
}

void
fim_result_done(struct fim_result *r)
{
    for (size_t i = 0; i < r->n_findings; i++)
        free(r->findings[i].path);
    r->n_findings = 0;
}
