/*
 * The log of a device: journald's.
 *
 * What limits it needs root: auditd leaves a request in a directory of its own
 * (<run>/journal), the unit fieldgate-logkeeper takes it from there and gives
 * it to journald. Reading needs the group systemd-journal.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/clock.h"
#include "libcommon/str.h"
#include "proto/internal.h"
#include "services/auditd/sys_log.h"
#include "services/auditd/pack.h"

#include "libcommon/banned.h"

enum {
    LINE_MAX_BYTES = 256 << 10, /* journald hands out at most 64 KiB of a field */
    UNIT_SIZE = 64,
};
#define UNIT(name) "fieldgate-" #name ".service"
#define X(name) UNIT(name),
static const char *const units[] = { INTERNAL_DAEMON_TABLE(X) };
#undef X

/* ---- limiting ---- */

static int
write_request(const char *path, const struct sys_log_limits *limits)
{
    char text[64];
    int n = snprintf(text, sizeof(text), "megabytes %llu\ndays %u\n",
                     (unsigned long long)limits->megabytes, limits->days); /* fits */
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return -errno;
    /* The reader is root without any capability: to him it must be readable by all. */
    int r = fchmod(fd, 0644) < 0 ? -errno : 0;
    ssize_t written = r == 0 ? write(fd, text, (size_t)n) : 0;
    if (r == 0 && written != n)
        r = written < 0 ? -errno : -ENOSPC;
    if (close(fd) < 0 && r == 0)
        r = -errno;
    return r;
}

static int
limit(const struct sys_log *l, const struct sys_log_limits *limits)
{
    char path[PATH_MAX + 16], fresh[PATH_MAX + 16];
    (void)snprintf(path, sizeof(path), "%s/limits", l->run);       /* fits */
    (void)snprintf(fresh, sizeof(fresh), "%s/limits.new", l->run); /* fits */
    int r = write_request(fresh, limits);
    if (r == 0 && rename(fresh, path) < 0)
        r = -errno;
    if (r < 0)
        (void)unlink(fresh); /* mostly it is not there */
    return r;
}

/* ---- reading ---- */

struct moment { /* on the clock of a boot, which nobody sets */
    sd_id128_t boot;
    uint64_t mono_us;
};

struct reading {
    sd_journal *journal;
    struct pack *pack;
    struct moment until; /* of the newest entry: what is written while we read is not read */
    struct buf line;
};

static void
journal_closep(sd_journal **j)
{
    sd_journal_close(*j); /* NULL does nothing */
}

/* The value of a field of this entry; {NULL, 0}: it has none. Valid until the next field. */
static int
field(sd_journal *j, const char *name, const char **ret_value, size_t *ret_len)
{
    const void *data;
    size_t size, skip = strlen(name) + 1;
    *ret_value = NULL;
    *ret_len = 0;
    int r = sd_journal_get_data(j, name, &data, &size);
    if (r == -ENOENT)
        return 0;
    if (r < 0 || size < skip)
        return r < 0 ? r : -EBADMSG;
    *ret_value = (const char *)data + skip;
    *ret_len = size - skip;
    return 0;
}

/* Text as journalctl shows it: further lines are indented, what does not print is '?'. */
static void
put_text(struct buf *b, const char *text, size_t len)
{
    bool is_utf8 = utf8_valid(text, len);
    while (len > 0 && text[len - 1] == '\n')
        len--;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '\n')
            buf_puts(b, "\n    ");
        else if ((c < ' ' && c != '\t') || c == 0x7f || (c >= 0x80 && !is_utf8))
            buf_putc(b, '?');
        else
            buf_putc(b, (char)c);
    }
}

/* The first of two fields that is there. */
static int
put_field(struct reading *in, const char *name, const char *or_name, const char *or_text)
{
    const char *value;
    size_t len;
    int r = field(in->journal, name, &value, &len);
    if (r == 0 && !value && or_name)
        r = field(in->journal, or_name, &value, &len);
    if (r == 0 && value)
        put_text(&in->line, value, len);
    else if (r == 0)
        buf_puts(&in->line, or_text);
    return r;
}

/* When it happened: as the sender noted it, else when journald had it. */
static int
find_time(sd_journal *j, uint64_t *ret_us)
{
    const char *value;
    char text[24];
    size_t len;
    int r = field(j, "_SOURCE_REALTIME_TIMESTAMP", &value, &len);
    if (r == 0 && value && str_copy_len(text, sizeof(text), value, len) == 0 &&
        parse_u64(text, 0, INT64_MAX, ret_us) == 0)
        return 0;
    return r < 0 ? r : sd_journal_get_realtime_usec(j, ret_us);
}

/* As journalctl -o short-iso-precise in UTC: when host program[pid]: message */
static int
put_line(struct reading *in)
{
    struct buf *b = &in->line;
    uint64_t at_us;
    char at[CLOCK_TEXT_SIZE];
    const char *pid;
    size_t len;
    buf_reset(b);
    int r = find_time(in->journal, &at_us);
    if (r < 0)
        return r;
    clock_format((int64_t)at_us, 6, at);
    buf_put(b, at, strlen(at) - 1); /* 'Z' */
    buf_puts(b, "+0000 ");
    r = put_field(in, "_HOSTNAME", NULL, "-");
    buf_putc(b, ' ');
    if (r == 0)
        r = put_field(in, "SYSLOG_IDENTIFIER", "_COMM", "unknown");
    if (r == 0)
        r = field(in->journal, "_PID", &pid, &len);
    if (r == 0 && pid) {
        buf_putc(b, '[');
        put_text(b, pid, len);
        buf_putc(b, ']');
    }
    buf_puts(b, ": ");
    if (r == 0)
        r = put_field(in, "MESSAGE", NULL, "");
    buf_putc(b, '\n');
    if (r == 0)
        r = b->err;
    return r < 0 ? r : pack_write(in->pack, b->data, b->len);
}

/* One of our daemons wrote it, or systemd about one of them. */
static int
is_ours(sd_journal *j, bool *ret_is)
{
    static const char *const names[] = { "_SYSTEMD_UNIT", "UNIT" };
    *ret_is = false;
    for (size_t n = 0; n < ARRAY_LEN(names); n++) {
        const char *value;
        size_t len;
        int r = field(j, names[n], &value, &len);
        if (r < 0)
            return r;
        for (size_t i = 0; i < ARRAY_LEN(units) && value; i++)
            if (strlen(units[i]) == len && memcmp(units[i], value, len) == 0)
                *ret_is = true;
    }
    return 0;
}

static int
is_later(const struct reading *in, bool *ret_is)
{
    struct moment at;
    int r = sd_journal_get_monotonic_usec(in->journal, &at.mono_us, &at.boot);
    *ret_is =
        r >= 0 && sd_id128_equal(at.boot, in->until.boot) && at.mono_us > in->until.mono_us;
    return r < 0 ? r : 0;
}

/* 0, also when there is no entry at all, or -errno. */
static int
find_end(struct reading *in)
{
    int r = sd_journal_seek_tail(in->journal);
    if (r >= 0)
        r = sd_journal_previous(in->journal);
    if (r > 0)
        r = sd_journal_get_monotonic_usec(in->journal, &in->until.mono_us, &in->until.boot);
    return r < 0 ? r : 0;
}

/* A file that is cut (the plug was pulled) costs what cannot be read of it, not the download.
 */
static bool
is_damage(int error)
{
    return error == -EBADMSG || error == -ENOENT || error == -EADDRNOTAVAIL;
}

/* All entries that match; without 'unit' all that are of none of our units. */
static int
put_entries(struct reading *in, const char *name, const char *unit)
{
    bool is_begun = false, skip = false;
    int r = sd_journal_seek_head(in->journal);
    while (r == 0 && (r = sd_journal_next(in->journal)) > 0) {
        r = is_later(in, &skip);
        if (r == 0 && skip)
            break;
        if (r == 0 && !unit)
            r = is_ours(in->journal, &skip);
        if (r == 0 && skip)
            continue;
        if (r == 0 && !is_begun)
            r = pack_entry(in->pack, name, 0, clock_wall_us());
        is_begun = is_begun || r == 0;
        if (r == 0)
            r = put_line(in);
        r = is_damage(r) ? 0 : r;
    }
    return r;
}

/* What the unit wrote, and what systemd wrote about it. */
static int
match_unit(sd_journal *j, const char *unit)
{
    char by[32 + UNIT_SIZE], about[32 + UNIT_SIZE];
    (void)snprintf(by, sizeof(by), "_SYSTEMD_UNIT=%s", unit); /* fits */
    (void)snprintf(about, sizeof(about), "UNIT=%s", unit);    /* fits */
    int r = sd_journal_add_match(j, by, 0);
    if (r >= 0)
        r = sd_journal_add_disjunction(j);
    if (r >= 0)
        r = sd_journal_add_match(j, "_PID=1", 0);
    if (r >= 0)
        r = sd_journal_add_match(j, about, 0);
    return r < 0 ? r : 0;
}

static int
put_all(struct reading *in)
{
    int r = find_end(in);
    for (size_t i = 0; i < ARRAY_LEN(units) && r == 0; i++) {
        char name[UNIT_SIZE];
        size_t len = strlen(units[i]) - strlen(".service");
        (void)snprintf(name, sizeof(name), "%.*s.log", (int)len, units[i]); /* fits */
        r = match_unit(in->journal, units[i]);
        if (r == 0)
            r = put_entries(in, name, units[i]);
        sd_journal_flush_matches(in->journal);
    }
    return r < 0 ? r : put_entries(in, "system.log", NULL);
}

static int
put(const struct sys_log *l, struct pack *z)
{
    (void)l;
    CLEANUP(journal_closep) sd_journal *journal = NULL;
    struct reading in = { .pack = z };
    int r = sd_journal_open(&journal, SD_JOURNAL_LOCAL_ONLY);
    if (r < 0)
        return r;
    in.journal = journal;
    buf_init(&in.line, LINE_MAX_BYTES);
    r = put_all(&in);
    buf_done(&in.line);
    return r;
}

static const char *
place(const struct sys_log *l)
{
    (void)l;
    static const char persistent[] = "/var/log/journal";
    return access(persistent, F_OK) == 0 ? persistent : "/var/log";
}

int
sys_log_device(struct sys_log *ret_log, const char *run_dir)
{
    *ret_log = (struct sys_log){
        .limit = limit,
        /* Somebody may have removed what was told; journald is not restarted for the same
           again. */
        .period_us = UINT64_C(60) * 60 * 1000000,
        .pause_us = 5 * 1000000, /* each change restarts journald */
        .put = put,
        .place = place,
    };
    int n = snprintf(ret_log->run, sizeof(ret_log->run), "%s/journal", run_dir);
    return n > 0 && (size_t)n < sizeof(ret_log->run) ? 0 : -ENAMETOOLONG;
}
