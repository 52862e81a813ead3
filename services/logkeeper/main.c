/*
 * logkeeper: gives journald the limits that auditd asks for. What needs root
 * is here and nothing else: auditd leaves a request, a path unit starts this
 * (systemd/fieldgate-logkeeper.service), which takes the request away, checks
 * it and writes a drop-in of journald's configuration (journald.conf(5)).
 *
 *   logkeeper REQUEST DROP-IN
 *
 * The only request there is, two lines:
 *   megabytes <1..4096>
 *   days <0..30>           0: of any age
 *
 * Ends with 0: the drop-in was changed, journald must read it; 1: nothing to
 * do; 255: it failed. The unit's ExecCondition= understands them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/log.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

enum { MEGABYTES_MAX = 4096, DAYS_MAX = 30, TEXT_SIZE = 512, PATH_SIZE = 4096 };
enum outcome { CHANGED = 0, UNCHANGED = 1, FAILED = 255 };

static int
read_file(const char *path, char ret_text[TEXT_SIZE])
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    ssize_t n = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? read(fd, ret_text, TEXT_SIZE) : -1;
    (void)close(fd); /* was only read */
    if (n < 0 || n == TEXT_SIZE || memchr(ret_text, '\0', (size_t)n))
        return -EBADMSG;
    ret_text[n] = '\0';
    return 0;
}

/* The number after "<word> " at '*at', which moves behind its line. */
static int
take_number(char **at, const char *word, uint32_t min, uint32_t max, uint32_t *ret_value)
{
    size_t n = strlen(word);
    char *end = strchr(*at, '\n');
    if (!end || strncmp(*at, word, n) != 0 || (*at)[n] != ' ')
        return -EBADMSG;
    *end = '\0';
    int r = parse_u32(*at + n + 1, min, max, ret_value);
    *at = end + 1;
    return r;
}

static int
read_request(char *text, uint32_t *ret_megabytes, uint32_t *ret_days)
{
    int r = take_number(&text, "megabytes", 1, MEGABYTES_MAX, ret_megabytes);
    if (r == 0)
        r = take_number(&text, "days", 0, DAYS_MAX, ret_days);
    return r == 0 && *text != '\0' ? -EBADMSG : r;
}

/* 0 or -errno; whole or not at all. */
static int
write_file(const char *path, const char *text)
{
    char fresh[PATH_SIZE];
    size_t n = strlen(text);
    if (snprintf(fresh, sizeof(fresh), "%s.new", path) >= PATH_SIZE)
        return -ENAMETOOLONG;
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return -errno;
    ssize_t written = write(fd, text, n);
    int r = written == (ssize_t)n ? 0 : written < 0 ? -errno : -ENOSPC;
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    if (close(fd) < 0 && r == 0)
        r = -errno;
    if (r == 0 && rename(fresh, path) < 0)
        r = -errno;
    if (r < 0)
        (void)unlink(fresh); /* is not read by anybody */
    return r;
}

static enum outcome
give(const char *path, uint32_t megabytes, uint32_t days)
{
    char wanted[TEXT_SIZE], there[TEXT_SIZE];
    (void)snprintf(wanted, sizeof(wanted),
                   "# Made by fieldgate-logkeeper from what PUT /system/log asks for.\n"
                   "[Journal]\nStorage=persistent\nSystemMaxUse=%uM\nMaxRetentionSec=%u%s\n",
                   megabytes, days, days > 0 ? "day" : ""); /* fits */
    if (read_file(path, there) == 0 && str_eq(there, wanted))
        return UNCHANGED;
    int r = write_file(path, wanted);
    if (r < 0) {
        log_err("logkeeper: cannot write path=%s error=%s", path, strerror(-r));
        return FAILED;
    }
    log_info("logkeeper: the system log is limited megabytes=%u days=%u", megabytes, days);
    return CHANGED;
}

/*
 * The text of the request, which is taken away first and whatever it is: the
 * path unit starts us for as long as there is one, and what auditd asks while
 * we read is another. 0 or -errno (-ENOENT: there is none).
 */
static int
take_request(const char *path, char ret_text[TEXT_SIZE])
{
    char taken[PATH_SIZE];
    if (snprintf(taken, sizeof(taken), "%s.taken", path) >= PATH_SIZE)
        return -ENAMETOOLONG;
    if (rename(path, taken) < 0)
        return -errno;
    int r = read_file(taken, ret_text);
    if (remove(taken) < 0)
        log_warn("logkeeper: cannot remove a request path=%s error=%s", taken, strerror(errno));
    return r == -ENOENT ? -EBADMSG : r;
}

int
main(int argc, char **argv)
{
    char text[TEXT_SIZE] = "";
    uint32_t megabytes = 0, days = 0;
    if (argc != 3) {
        fprintf(stderr, "usage: logkeeper REQUEST DROP-IN\n");
        return FAILED;
    }
    log_open("logkeeper", LOG_LEVEL_INFO);
    int r = take_request(argv[1], text);
    if (r == -ENOENT)
        return UNCHANGED;
    if (r == 0)
        r = read_request(text, &megabytes, &days);
    if (r < 0) {
        log_err("logkeeper: no request could be taken error=%s", strerror(-r));
        return FAILED;
    }
    return give(argv[2], megabytes, days);
}
