/*
 * The log of the bench: each program of the suite appends to a file
 * <name>.log of one directory, for as long as it lives. So a file that has
 * grown is copied beside (<name>.log.<time in UTC>) and emptied, and copies go,
 * the oldest first. Between the last look at a file and its emptying a line
 * may slip away: the price of writers who know nothing of it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "services/auditd/sys_log.h"
#include "services/auditd/pack.h"

#include "libcommon/banned.h"

enum {
    FILES_MAX = 1024,    /* looked at; a suite has a dozen */
    SHARE = 16,          /* of all that is wanted one file may take before it is copied */
    SHARE_MAX = 4 << 20, /* bytes: a copy is quick */
    BLOCK = 64 << 10,
    STAMP_LEN = 23, /* 20260302T021112.964368Z */
};
static const int64_t day_us = INT64_C(24) * 60 * 60 * 1000000;

struct log_file {
    char name[NAME_MAX + 1];
    size_t base_len; /* of "<name>.log" */
    bool is_copy;
    uint64_t bytes;
    int64_t changed_us, began_us; /* wall clock: of its last and first line, about */
};

struct listing {
    struct log_file *all; /* FILES_MAX */
    size_t n;
    uint64_t bytes;
};

static void
listing_done(struct listing *l)
{
    free(l->all);
}

/* ---- what is there ---- */

static bool
is_stamp(const char *text)
{
    static const char form[] = "dddddddd"
                               "T"
                               "dddddd"
                               "."
                               "dddddd"
                               "Z";
    for (size_t i = 0; i < STAMP_LEN; i++)
        if (form[i] == 'd' ? !str_is_digit(text[i]) : text[i] != form[i])
            return false;
    return text[STAMP_LEN] == '\0';
}

/* False: no log. */
static bool
read_name(const char *name, struct log_file *f)
{
    static const char ending[] = ".log";
    size_t len = strlen(name), n = strlen(ending);
    if (str_copy(f->name, sizeof(f->name), name) < 0 || name[0] == '.')
        return false;
    f->is_copy = len > STAMP_LEN + 1 + n && name[len - STAMP_LEN - 1] == '.' &&
                 is_stamp(name + len - STAMP_LEN);
    f->base_len = f->is_copy ? len - STAMP_LEN - 1 : len;
    return f->base_len > n && memcmp(name + f->base_len - n, ending, n) == 0;
}

static int64_t
us_of(const struct statx_timestamp *t)
{
    return t->tv_sec * INT64_C(1000000) + t->tv_nsec / 1000;
}

/* False: it is gone, or no plain file. */
static bool
read_state(int dir, struct log_file *f)
{
    struct statx st;
    if (statx(dir, f->name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &st) < 0 ||
        !S_ISREG(st.stx_mode))
        return false;
    f->bytes = st.stx_size;
    f->changed_us = us_of(&st.stx_mtime);
    f->began_us = f->changed_us;
    if ((st.stx_mask & STATX_BTIME) && us_of(&st.stx_btime) < f->began_us)
        f->began_us = us_of(&st.stx_btime);
    return true;
}

/* A log goes on where its last copy ended. */
static void
find_beginnings(struct listing *l)
{
    for (size_t i = 0; i < l->n; i++)
        for (size_t k = 0; k < l->n && !l->all[i].is_copy; k++)
            if (l->all[k].is_copy && l->all[k].base_len == l->all[i].base_len &&
                memcmp(l->all[k].name, l->all[i].name, l->all[i].base_len) == 0 &&
                l->all[k].changed_us > l->all[i].began_us)
                l->all[i].began_us = l->all[k].changed_us;
}

static int
by_age(const void *a, const void *b)
{
    const struct log_file *x = a, *y = b;
    if (x->changed_us != y->changed_us)
        return x->changed_us < y->changed_us ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The oldest first. 0 or -errno. */
static int
list(const char *path, int *ret_dir, struct listing *ret_list)
{
    struct listing l = { .all = calloc(FILES_MAX, sizeof(*l.all)) };
    DIR *dir = l.all ? opendir(path) : NULL;
    int fd = dir ? fcntl(dirfd(dir), F_DUPFD_CLOEXEC, 0) : -1;
    if (fd < 0) {
        int r = l.all ? -errno : -ENOMEM;
        if (dir)
            (void)closedir(dir); /* was only read */
        listing_done(&l);
        return r;
    }
    const struct dirent *e;
    while ((e = readdir(dir)) != NULL && l.n < FILES_MAX) {
        struct log_file *f = &l.all[l.n];
        if (read_name(e->d_name, f) && read_state(fd, f)) {
            l.bytes += f->bytes;
            l.n++;
        }
    }
    (void)closedir(dir); /* was only read */
    find_beginnings(&l);
    qsort(l.all, l.n, sizeof(*l.all), by_age);
    *ret_dir = fd;
    *ret_list = l;
    return 0;
}

/* ---- limiting ---- */

static int
copy_bytes(int from, int to)
{
    char block[BLOCK];
    for (;;) {
        ssize_t n = read(from, block, sizeof(block));
        if (n <= 0)
            return n < 0 ? -errno : 0;
        for (ssize_t at = 0; at < n;) {
            ssize_t w = write(to, block + at, (size_t)(n - at));
            if (w < 0)
                return -errno;
            at += w;
        }
    }
}

static void
close_fd(const int *fd)
{
    if (*fd >= 0)
        (void)close(*fd); /* what was written is a log: nobody waits for it to be on disk */
}

/* Moves what is in a log into a copy that was last changed when it was. 0 or -errno. */
static int
move_away(int dir, const struct log_file *f)
{
    char at[CLOCK_TEXT_SIZE], stamp[CLOCK_TEXT_SIZE], name[NAME_MAX + 1 + CLOCK_TEXT_SIZE];
    size_t n = 0;
    clock_format(clock_wall_us(), 6, at);
    for (const char *p = at; *p; p++)
        if (*p != '-' && *p != ':')
            stamp[n++] = *p;
    stamp[n] = '\0';
    (void)snprintf(name, sizeof(name), "%s.%s", f->name, stamp); /* fits */
    CLEANUP(close_fd) int from = openat(dir, f->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    CLEANUP(close_fd)
    int to = from < 0 ? -1 : openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (to < 0)
        return -errno;
    struct timespec times[2] = { { .tv_nsec = UTIME_OMIT },
                                 { .tv_sec = f->changed_us / 1000000,
                                   .tv_nsec = f->changed_us % 1000000 * 1000 } };
    int r = copy_bytes(from, to);
    if (r == 0 && ftruncate(from, 0) < 0)
        r = -errno;
    if (r == 0)
        (void)futimens(to, times); /* else it counts as younger */
    else
        (void)unlinkat(dir, name, 0); /* what it holds is in the log still */
    return r;
}

static void
move_what_is_large_or_old(int dir, const struct listing *l, const struct sys_log_limits *limits)
{
    uint64_t share = (limits->megabytes << 20) / SHARE;
    int64_t yesterday = clock_wall_us() - day_us;
    share = share < SHARE_MAX ? share : SHARE_MAX;
    for (size_t i = 0; i < l->n; i++) {
        const struct log_file *f = &l->all[i];
        bool is_old = limits->days > 0 && f->began_us < yesterday;
        if (f->is_copy || f->bytes == 0 || (f->bytes < share && !is_old))
            continue;
        int r = move_away(dir, f);
        if (r < 0) /* a full disk: see empty_the_largest */
            log_warn("auditd: cannot copy a log name=%s error=%s", f->name, strerror(-r));
    }
}

static void
delete_copies(int dir, struct listing *l, uint64_t most, int64_t before_us)
{
    for (size_t i = 0; i < l->n; i++) {
        struct log_file *f = &l->all[i];
        if (!f->is_copy || (l->bytes <= most && f->changed_us >= before_us))
            continue;
        if (unlinkat(dir, f->name, 0) < 0 && errno != ENOENT) {
            log_warn("auditd: cannot delete a log name=%s error=%s", f->name, strerror(errno));
            continue;
        }
        l->bytes -= f->bytes;
        f->bytes = 0;
    }
}

static int
empty(int dir, const char *name)
{
    CLEANUP(close_fd) int fd = openat(dir, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 || ftruncate(fd, 0) < 0 ? -errno : 0;
}

/* Where copies could not be made, or logs are too many: what was promised is the size. */
static int
empty_the_largest(int dir, struct listing *l, uint64_t most)
{
    while (l->bytes > most) {
        struct log_file *largest = &l->all[0];
        for (size_t i = 1; i < l->n; i++)
            if (l->all[i].bytes > largest->bytes)
                largest = &l->all[i];
        int r = empty(dir, largest->name);
        if (r < 0)
            return r;
        log_warn("auditd: a log was emptied name=%s bytes=%llu", largest->name,
                 (unsigned long long)largest->bytes);
        l->bytes -= largest->bytes;
        largest->bytes = 0;
    }
    return 0;
}

static int
limit(const struct sys_log *l, const struct sys_log_limits *limits)
{
    CLEANUP(listing_done) struct listing before = { 0 }, after = { 0 };
    CLEANUP(close_fd) int dir = -1, again = -1;
    uint64_t most = limits->megabytes << 20;
    int64_t before_us = limits->days > 0 ? clock_wall_us() - limits->days * day_us : INT64_MIN;
    int r = list(l->dir, &dir, &before);
    if (r < 0)
        return r == -ENOENT ? 0 : r; /* no directory, no logs */
    move_what_is_large_or_old(dir, &before, limits);
    r = list(l->dir, &again, &after);
    if (r < 0)
        return r;
    delete_copies(dir, &after, most, before_us);
    return empty_the_largest(dir, &after, most);
}

/* ---- reading ---- */

/* What is in the file at this moment: it grows while we read. */
static int
put_file(int dir, const struct log_file *f, struct pack *z)
{
    char block[BLOCK];
    CLEANUP(close_fd) int fd = openat(dir, f->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno; /* just deleted */
    int r = pack_entry(z, f->name, 0, f->changed_us);
    uint64_t left = f->bytes;
    while (r == 0 && left > 0) {
        ssize_t n = read(fd, block, left < sizeof(block) ? (size_t)left : sizeof(block));
        if (n <= 0)
            return n < 0 ? -errno : 0; /* just emptied */
        left -= (uint64_t)n;
        r = pack_write(z, block, (size_t)n);
    }
    return r;
}

static int
put(const struct sys_log *l, struct pack *z)
{
    CLEANUP(listing_done) struct listing all = { 0 };
    CLEANUP(close_fd) int dir = -1;
    int r = list(l->dir, &dir, &all);
    for (size_t i = 0; i < all.n && r == 0; i++)
        r = put_file(dir, &all.all[i], z);
    return r == -ENOENT ? 0 : r;
}

static const char *
place(const struct sys_log *l)
{
    return l->dir;
}

int
sys_log_bench(struct sys_log *ret_log, const char *dir)
{
    *ret_log =
        (struct sys_log){ .limit = limit, .period_us = 1000000, .put = put, .place = place };
    return str_copy(ret_log->dir, sizeof(ret_log->dir), dir) < 0 ? -ENAMETOOLONG : 0;
}
