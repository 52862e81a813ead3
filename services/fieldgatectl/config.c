/*
 * Profiles on disk. See config.h.
 */
#include "services/fieldgatectl/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libcommon/buf.h"
#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/fieldgatectl/ctl.h"
#include "services/fieldgatectl/out.h"

#include "libcommon/banned.h"

enum { FILE_MAX = 16 * 1024 };

static int
fail(const char *what, const char *path, int r)
{
    complain("cannot %s %s: %s", what, path, strerror(-r));
    return CTL_LOCAL;
}

/* ---- where ---- */

/* false: neither variable names one. */
static bool
find_directory(char dir[PATH_MAX])
{
    const char *base = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    int n = -1;
    if (base != NULL && base[0] == '/')
        n = snprintf(dir, PATH_MAX, "%s/fieldgate", base);
    else if (home != NULL && home[0] == '/')
        n = snprintf(dir, PATH_MAX, "%s/.config/fieldgate", home);
    return n > 0 && n < PATH_MAX;
}

static bool
is_profile_name(const char *name)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._";
    size_t n = strlen(name);
    return n >= 1 && n <= 64 && name[0] != '.' && strspn(name, plain) == n;
}

static int
find_file(const char *profile, char dir[PATH_MAX], char path[PATH_MAX])
{
    if (!is_profile_name(profile)) {
        complain("a profile's name has 1..64 letters, digits and -._, and begins with no dot");
        return CTL_USAGE;
    }
    if (!find_directory(dir)) {
        complain("neither XDG_CONFIG_HOME nor HOME names a directory to remember devices in");
        return CTL_LOCAL;
    }
    int n = snprintf(path, PATH_MAX, "%s/%s.json", dir, profile);
    return n > 0 && n < PATH_MAX ? CTL_OK : fail("use", dir, -ENAMETOOLONG);
}

/* Is it ours, and nobody else's business? 'wrong' are the mode bits that it must not have. */
static int
check_owner(const char *path, const struct stat *st, mode_t wrong)
{
    if (st->st_uid == geteuid() && (st->st_mode & wrong) == 0)
        return CTL_OK;
    complain("%s is not safe: it must belong to you and be open to nobody else; see its owner, "
             "and 'chmod go= %s'",
             path, path);
    return CTL_LOCAL;
}

/* The directory and those above it, 0700 where they are not there. */
static int
make_directory(char dir[PATH_MAX])
{
    for (char *p = dir + 1;; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        bool is_last = *p == '\0';
        *p = '\0';
        bool made = mkdir(dir, 0700) == 0 || errno == EEXIST || (!is_last && errno == EROFS);
        int error = errno;
        if (!is_last)
            *p = '/';
        if (!made)
            return fail("make", dir, -error);
        if (is_last)
            break;
    }
    struct stat st;
    if (stat(dir, &st) < 0)
        return fail("look at", dir, -errno);
    return check_owner(dir, &st, 022);
}

/* ---- reading ---- */

static int
take_text(const struct cJSON *tree, const char *name, char *out, size_t size)
{
    const char *text = json_text(json_get(tree, name));
    return text == NULL ? 0 : str_copy(out, size, text);
}

static int
parse(const char *path, const char *text, size_t len, struct config *ret)
{
    CLEANUP(json_freep) struct cJSON *tree = NULL;
    struct json_error error;
    struct config c = { .url = "" };
    if (json_parse(text, len, &tree, &error) < 0 ||
        take_text(tree, "url", c.url, sizeof(c.url)) < 0 ||
        take_text(tree, "name", c.name, sizeof(c.name)) < 0 ||
        take_text(tree, "token", c.token, sizeof(c.token)) < 0 ||
        take_text(tree, "fingerprint", c.fingerprint, sizeof(c.fingerprint)) < 0 ||
        take_text(tree, "cacert", c.cacert, sizeof(c.cacert)) < 0 || c.url[0] == '\0') {
        complain("%s is not what fieldgatectl wrote; take it away and sign in again", path);
        return CTL_LOCAL;
    }
    *ret = c;
    explicit_bzero(&c, sizeof(c));
    return CTL_OK;
}

static int
read_file(const char *path, int fd, struct config *ret)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return fail("look at", path, -errno);
    if (!S_ISREG(st.st_mode) || st.st_size > FILE_MAX)
        return fail("use", path, -EINVAL);
    int r = check_owner(path, &st, 077);
    if (r != CTL_OK)
        return r;
    char text[FILE_MAX];
    size_t n = 0;
    ssize_t got;
    while ((got = read(fd, text + n, sizeof(text) - n)) > 0)
        n += (size_t)got;
    r = got < 0 ? fail("read", path, -errno) : parse(path, text, n, ret);
    explicit_bzero(text, sizeof(text));
    return r;
}

int
config_load(const char *profile, struct config *ret)
{
    char dir[PATH_MAX], path[PATH_MAX];
    *ret = (struct config){ .url = "" };
    if (is_profile_name(profile) && !find_directory(dir))
        return CTL_OK; /* nothing can be remembered there; a script needs nothing */
    int r = find_file(profile, dir, path);
    if (r != CTL_OK)
        return r;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR ? CTL_OK : fail("open", path, -errno);
    r = read_file(path, fd, ret);
    (void)close(fd); /* was only read */
    return r;
}

/* ---- writing ---- */

static void
put_text(struct buf *b, const char *name, const char *text)
{
    if (text[0] != '\0')
        jw_kstr(b, name, text);
}

static int
write_file(const char *path, const struct buf *b)
{
    struct out out;
    int r = out_private(&out, path);
    if (r < 0)
        return out_failed(&out, r);
    out_put(&out, b->data, b->len);
    r = out_end(&out);
    explicit_bzero(&out, sizeof(out));
    return r;
}

int
config_save(const char *profile, const struct config *c)
{
    char dir[PATH_MAX], path[PATH_MAX];
    int r = find_file(profile, dir, path);
    if (r == CTL_OK)
        r = make_directory(dir);
    if (r != CTL_OK)
        return r;
    struct buf b;
    buf_init(&b, FILE_MAX);
    jw_open(&b, '{');
    put_text(&b, "url", c->url);
    put_text(&b, "name", c->name);
    put_text(&b, "token", c->token);
    put_text(&b, "fingerprint", c->fingerprint);
    put_text(&b, "cacert", c->cacert);
    jw_close(&b, '}');
    buf_putc(&b, '\n');
    r = b.err < 0 ? out_of_memory() : write_file(path, &b);
    if (b.data != NULL)
        explicit_bzero(b.data, b.len);
    buf_done(&b);
    return r;
}

int
config_remove(const char *profile)
{
    char dir[PATH_MAX], path[PATH_MAX];
    int r = find_file(profile, dir, path);
    if (r != CTL_OK)
        return r;
    return unlink(path) == 0 || errno == ENOENT ? CTL_OK : fail("remove", path, -errno);
}
