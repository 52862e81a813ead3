#include "services/auditd/sys_linux.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/auditd/sec_parse.h"

#include "libcommon/banned.h"

enum {
    FILE_MAX = 256 << 10, /* bytes of a configuration file */
    LINE_SIZE = 512,      /* of /proc/net/… */
    LINES_MAX = 100000,
    SSHD_FILES_MAX = 64,
    DAY_S = 24 * 60 * 60,
};

/* ---- files below the root ---- */

static const char *
place(const struct sys_places *p, const char *path, char out[PATH_MAX])
{
    int n = snprintf(out, PATH_MAX, "%s%s", p->root, path);
    return n > 0 && n < PATH_MAX ? out : "";
}

/* A plain file; pipes and devices are not waited for. NULL: it is none, or cannot be read. */
static FILE *
open_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    FILE *f = NULL;
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        f = fdopen(fd, "r");
    if (fd >= 0 && !f)
        (void)close(fd); /* was only opened to read */
    return f;
}

static void
closep(FILE **f)
{
    if (*f)
        (void)fclose(*f); /* was only read */
}

/* True with all of it in 'b'. */
static bool
read_file(const char *path, struct buf *b)
{
    CLEANUP(closep) FILE *f = open_file(path);
    if (!f)
        return false;
    buf_init(b, FILE_MAX);
    for (;;) {
        char chunk[4096];
        size_t n = fread(chunk, 1, sizeof(chunk), f);
        if (n == 0)
            break;
        buf_put(b, chunk, n);
    }
    if (b->err == 0 && !ferror(f))
        return true;
    buf_done(b);
    return false;
}

static bool
exists(const struct sys_places *p, const char *path)
{
    char full[PATH_MAX];
    return access(place(p, path, full), F_OK) == 0;
}

/* Of glob(): a directory that is not there has no files. */
static int
stop_unless_absent(const char *path, int error)
{
    (void)path;
    return error != ENOENT;
}

/* Whether there are files of that pattern: 1 or 0; -1 when that cannot be seen. */
static int
any(const struct sys_places *p, const char *pattern)
{
    char full[PATH_MAX];
    glob_t found = { 0 };
    int r = glob(place(p, pattern, full), 0, stop_unless_absent, &found);
    globfree(&found);
    return r == 0 ? 1 : r == GLOB_NOMATCH ? 0 : -1;
}

/* ---- sockets ---- */

static void
put_user(struct buf *b, uint32_t uid)
{
    char memory[4096], number[16];
    struct passwd pw = { 0 }, *found = NULL;
    (void)snprintf(number, sizeof(number), "%u", uid); /* fits */
    int r = getpwuid_r(uid, &pw, memory, sizeof(memory), &found);
    jw_kstr(b, "user", r == 0 && found ? pw.pw_name : number);
}

static void
put_socket(struct buf *b, const char *proto, const struct sec_socket *s)
{
    jw_open(b, '{');
    jw_kstr(b, "proto", proto);
    jw_kstr(b, "addr", s->addr);
    jw_ku64(b, "port", s->port);
    put_user(b, s->uid);
    jw_kbool(b, "loopback", s->is_loopback);
    jw_close(b, '}');
}

/* UDP ports from here on are taken by clients that wait for an answer. */
static uint32_t
first_client_port(const struct sys_places *p)
{
    char path[PATH_MAX], line[64];
    uint32_t first = 32768;
    CLEANUP(closep)
    FILE *f = open_file(place(p, "/proc/sys/net/ipv4/ip_local_port_range", path));
    if (f && fgets(line, sizeof(line), f)) {
        line[strcspn(line, " \t\n")] = '\0';
        if (parse_u32(line, 1, UINT16_MAX, &first) < 0)
            return 32768;
    }
    return first;
}

/* False: the table cannot be read. */
static bool
put_sockets_of(struct buf *b, const struct sys_places *p, const char *proto, unsigned *n)
{
    char path[PATH_MAX], name[32], line[LINE_SIZE];
    (void)snprintf(name, sizeof(name), "/proc/net/%s", proto); /* fits */
    CLEANUP(closep) FILE *f = open_file(place(p, name, path));
    bool is_udp = proto[0] == 'u';
    uint32_t clients = is_udp ? first_client_port(p) : UINT32_MAX;
    if (!f)
        return false;
    for (unsigned i = 0; i < LINES_MAX && fgets(line, sizeof(line), f); i++) {
        struct sec_socket s;
        if (!sec_parse_socket(line, is_udp, &s) || s.port >= clients)
            continue;
        if ((*n)++ == SYS_SOCKETS_MAX)
            return false; /* half a list would be no evidence */
        put_socket(b, proto, &s);
    }
    return true;
}

static void
put_sockets(struct buf *b, const struct sys_places *p)
{
    static const char *const protos[] = { "tcp", "udp", "tcp6", "udp6" };
    enum { WITHOUT_IPV6 = 2 };
    struct buf list;
    unsigned n = 0;
    bool all = true;
    buf_init(&list, SYS_FACTS_MAX / 2);
    jw_open(&list, '[');
    for (size_t i = 0; i < ARRAY_LEN(protos); i++)
        if (!put_sockets_of(&list, p, protos[i], &n) &&
            (i < WITHOUT_IPV6 || exists(p, "/proc/net/if_inet6")))
            all = false;
    jw_close(&list, ']');
    if (all && list.err == 0) {
        jw_name(b, "sockets");
        jw_raw(b, list.data, list.len);
    }
    buf_done(&list);
}

/* ---- SSH ---- */

struct sshd_reader {
    const struct sys_places *places;
    struct sec_sshd config;
    unsigned n_files;
    bool failed; /* some file could not be read: nothing is known */
};

static void sshd_include(void *arg, const char *pattern, bool in_match, unsigned depth);

static void
sshd_read(struct sshd_reader *r, const char *path, bool in_match, unsigned depth)
{
    struct buf text = { 0 };
    if (r->n_files++ == SSHD_FILES_MAX || !read_file(path, &text)) {
        r->failed = true;
        return;
    }
    sec_parse_sshd(&r->config, text.data, text.len, in_match, depth, sshd_include, r);
    buf_done(&text);
}

static void
sshd_include(void *arg, const char *pattern, bool in_match, unsigned depth)
{
    struct sshd_reader *r = arg;
    char path[PATH_MAX];
    glob_t found = { 0 };
    int n = snprintf(path, sizeof(path), "%s%s%s", r->places->root,
                     pattern[0] == '/' ? "" : "/etc/ssh/", pattern);
    int e = n > 0 && n < (int)sizeof(path) ? glob(path, 0, stop_unless_absent, &found)
                                           : GLOB_NOSPACE;
    if (e != 0 && e != GLOB_NOMATCH)
        r->failed = true;
    for (size_t i = 0; e == 0 && i < found.gl_pathc && !r->failed; i++)
        sshd_read(r, found.gl_pathv[i], in_match, depth);
    globfree(&found);
}

static void
put_sshd_values(struct buf *b, const char *name,
                const char values[SEC_SSHD_N][SEC_SSHD_VALUE_SIZE])
{
    jw_name(b, name);
    jw_open(b, '{');
    for (int i = 0; i < SEC_SSHD_N; i++)
        jw_kstr(b, sec_sshd_keywords[i], values[i]);
    jw_close(b, '}');
}

static void
put_sshd(struct buf *b, const struct sys_places *p)
{
    char path[PATH_MAX];
    bool installed = exists(p, "/usr/sbin/sshd");
    struct sshd_reader r = { .places = p };
    sec_sshd_init(&r.config);
    if (installed)
        sshd_read(&r, place(p, "/etc/ssh/sshd_config", path), false, 0);
    jw_name(b, "sshd");
    jw_open(b, '{');
    jw_kbool(b, "installed", installed);
    if (installed && !r.failed) {
        put_sshd_values(b, "config", r.config.value);
        put_sshd_values(b, "match", r.config.in_match);
    }
    jw_close(b, '}');
}

/* ---- kernel settings ---- */

/* False: there is none, or no number. */
static bool
read_sysctl(const char *path, int64_t *ret_value)
{
    char line[64];
    CLEANUP(closep) FILE *f = open_file(path);
    if (!f || !fgets(line, sizeof(line), f))
        return false;
    line[strcspn(line, "\n")] = '\0';
    return parse_i64(line, INT32_MIN, INT32_MAX, ret_value) == 0;
}

/* The largest of those that 'name' stands for, when each can be read. */
static void
put_sysctl(struct buf *b, const struct sys_places *p, const char *name)
{
    char file[128], path[PATH_MAX];
    glob_t found = { 0 };
    int64_t value, most = INT64_MIN;
    (void)snprintf(file, sizeof(file), "/proc/sys/%s", name); /* fits: names are ours */
    for (char *c = file; *c; c++)
        *c = *c == '.' ? '/' : *c;
    bool all = glob(place(p, file, path), 0, stop_unless_absent, &found) == 0;
    for (size_t i = 0; all && i < found.gl_pathc; i++) {
        all = read_sysctl(found.gl_pathv[i], &value);
        most = all && value > most ? value : most;
    }
    globfree(&found);
    if (all)
        jw_ki64(b, name, most);
}

static void
put_sysctls(struct buf *b, const struct sys_places *p)
{
    static const char *const names[] = {
        "net.ipv4.ip_forward",
        "net.ipv6.conf.all.forwarding",
        "net.ipv4.conf.*.accept_redirects",
        "net.ipv6.conf.*.accept_redirects",
        "net.ipv4.conf.all.accept_source_route",
        "net.ipv4.tcp_syncookies",
        "kernel.randomize_va_space",
        "kernel.kptr_restrict",
        "fs.suid_dumpable",
        "fs.protected_symlinks",
    };
    jw_name(b, "sysctl");
    jw_open(b, '{');
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        put_sysctl(b, p, names[i]);
    jw_close(b, '}');
}

/* ---- system accounts ---- */

static void
put_passwd(struct buf *b, const struct sys_places *p)
{
    char path[PATH_MAX], memory[4096];
    CLEANUP(closep) FILE *f = open_file(place(p, "/etc/passwd", path));
    struct buf roots, open;
    struct passwd pw = { 0 }, *found;
    int e;
    if (!f)
        return;
    buf_init(&roots, 4096);
    buf_init(&open, 4096);
    jw_open(&roots, '[');
    jw_open(&open, '[');
    while ((e = fgetpwent_r(f, &pw, memory, sizeof(memory), &found)) == 0) {
        if (pw.pw_uid == 0 && !str_eq(pw.pw_name, "root"))
            jw_str(&roots, pw.pw_name);
        if (pw.pw_passwd[0] == '\0')
            jw_str(&open, pw.pw_name);
    }
    jw_close(&roots, ']');
    jw_close(&open, ']');
    if (e == ENOENT && roots.err == 0 && open.err == 0) { /* read to its end */
        jw_name(b, "passwd");
        jw_open(b, '{');
        jw_name(b, "extraRoots");
        jw_raw(b, roots.data, roots.len);
        jw_name(b, "noPassword");
        jw_raw(b, open.data, open.len);
        jw_close(b, '}');
    }
    buf_done(&roots);
    buf_done(&open);
}

/* ---- our own files ---- */

static void
closedirp(DIR **d)
{
    if (*d)
        closedir(*d);
}

static void
put_programs(struct buf *b, const char *dir)
{
    enum { SHOWN_MAX = 64 };
    CLEANUP(closedirp) DIR *d = opendir(dir);
    const struct dirent *e;
    struct stat st;
    unsigned n = 0;
    if (!d || fstat(dirfd(d), &st) < 0)
        return;
    jw_name(b, "programs");
    jw_open(b, '{');
    jw_kstr(b, "dir", dir);
    jw_name(b, "writable");
    jw_open(b, '[');
    if (st.st_mode & (S_IWGRP | S_IWOTH))
        jw_str(b, ".");
    while ((e = readdir(d)) && n < SHOWN_MAX)
        if (fstatat(dirfd(d), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode) &&
            st.st_mode & (S_IWGRP | S_IWOTH)) {
            jw_str(b, e->d_name);
            n++;
        }
    jw_close(b, ']');
    jw_close(b, '}');
}

static void
put_free(struct buf *b, const char *name, const char *path)
{
    struct statvfs fs;
    if (statvfs(path, &fs) == 0 && fs.f_blocks > 0)
        jw_ku64(b, name, (uint64_t)fs.f_bavail * 100 / fs.f_blocks);
}

static void
put_disks(struct buf *b, const struct sys_places *p)
{
    char path[PATH_MAX];
    struct stat st;
    jw_name(b, "disk");
    jw_open(b, '{');
    put_free(b, "freePercent", p->state_dir);
    put_free(b, "logFreePercent", place(p, "/var/log", path));
    jw_close(b, '}');
    jw_kstr(b, "stateDir", p->state_dir);
    if (stat(p->state_dir, &st) == 0)
        jw_ku64(b, "stateMode", st.st_mode & 07777);
}

/* ---- clock and updates ---- */

static void
put_clock(struct buf *b)
{
    struct timex t = { 0 };
    int state = adjtimex(&t);
    if (state < 0)
        return;
    jw_name(b, "clock");
    jw_open(b, '{');
    jw_kbool(b, "synchronized", state != TIME_ERROR && !(t.status & STA_UNSYNC));
    jw_close(b, '}');
}

/* Of the files of apt.conf.d, apt reads those without an extension or with ".conf". */
static bool
is_apt_conf(const char *path)
{
    const char *name = strrchr(path, '/'), *dot = strrchr(path, '.');
    return name && (!dot || dot < name || str_eq(dot, ".conf"));
}

/* What apt's configuration says of 'name': the last word counts. False: 0, or nothing. */
static bool
apt_is_on(const struct sys_places *p, const char *name, const char *if_unset)
{
    char pattern[PATH_MAX], value[16];
    glob_t found = { 0 };
    (void)str_copy(value, sizeof(value), if_unset); /* fits */
    int r = glob(place(p, "/etc/apt/apt.conf.d/*", pattern), 0, NULL, &found);
    for (size_t i = 0; r == 0 && i < found.gl_pathc; i++) {
        struct buf text = { 0 };
        if (!is_apt_conf(found.gl_pathv[i]) || !read_file(found.gl_pathv[i], &text))
            continue; /* apt cannot read it either */
        (void)sec_parse_apt(text.data, text.len, name, value,
                            sizeof(value)); /* false: stays as it is */
        buf_done(&text);
    }
    globfree(&found);
    return !str_eq(value, "0");
}

/* It is there, its setting says so, and so does the timer that starts it. */
static bool
is_unattended(const struct sys_places *p)
{
    char path[PATH_MAX];
    struct stat st;
    return exists(p, "/usr/bin/unattended-upgrade") &&
           apt_is_on(p, "APT::Periodic::Enable", "1") &&
           apt_is_on(p, "APT::Periodic::Unattended-Upgrade", "0") &&
           lstat(place(p, "/etc/systemd/system/timers.target.wants/apt-daily-upgrade.timer",
                       path),
                 &st) == 0;
}

/*
 * When the newest list was published; 0: there is none. What else apt leaves
 * tells less: an update that reached nobody renews the times of directories.
 */
static int64_t
newest_list_s(const struct sys_places *p)
{
    char pattern[PATH_MAX];
    glob_t found = { 0 };
    struct stat st;
    int64_t newest = 0;
    int r = glob(place(p, "/var/lib/apt/lists/*Release", pattern), 0, NULL, &found);
    for (size_t i = 0; r == 0 && i < found.gl_pathc; i++)
        if (stat(found.gl_pathv[i], &st) == 0 && st.st_mtim.tv_sec > newest)
            newest = st.st_mtim.tv_sec;
    globfree(&found);
    return newest;
}

static void
put_apt(struct buf *b, const struct sys_places *p)
{
    int64_t newest_s = newest_list_s(p), now_s = clock_wall_us() / 1000000;
    if (!exists(p, "/etc/apt"))
        return; /* another kind of system: not known */
    jw_name(b, "apt");
    jw_open(b, '{');
    jw_kbool(b, "hasLists", newest_s > 0);
    if (newest_s > 0)
        jw_ki64(b, "listsAgeDays", (now_s - newest_s) / DAY_S);
    jw_kbool(b, "unattended", is_unattended(p));
    jw_close(b, '}');
}

/* That the file is not there says something only where somebody would make it. */
static void
put_reboot(struct buf *b, const struct sys_places *p)
{
    bool needed = exists(p, "/run/reboot-required");
    if (needed || exists(p, "/etc/kernel/postinst.d/unattended-upgrades") ||
        exists(p, "/usr/share/update-notifier/notify-reboot-required"))
        jw_kbool(b, "rebootRequired", needed);
}

/* ---- the journal ---- */

/* With a volatile one, files of an earlier time may lie in /var/log. */
static void
put_journal(struct buf *b, const struct sys_places *p)
{
    int in_var = any(p, "/var/log/journal/*/system.journal");
    int in_run = any(p, "/run/log/journal/*/system.journal");
    if (in_var >= 0 && in_run >= 0)
        jw_kbool(b, "journalPersistent", in_var && !in_run);
}

void
sys_machine_facts(const struct sys_places *p, struct buf *b)
{
    jw_open(b, '{');
    put_sockets(b, p);
    put_sshd(b, p);
    put_sysctls(b, p);
    put_passwd(b, p);
    put_programs(b, p->program_dir);
    put_disks(b, p);
    put_clock(b);
    put_apt(b, p);
    put_reboot(b, p);
    put_journal(b, p);
    jw_kbool(b, "ipv6", exists(p, "/proc/net/if_inet6"));
    jw_close(b, '}');
}
