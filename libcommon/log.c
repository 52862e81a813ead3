/*
 * Log lines to standard error. Under journald (JOURNAL_STREAM names our
 * standard error) a line starts with its priority "<N>"; elsewhere with time
 * and level. Call sites count their repeats under one mutex, held for that
 * only; the line is made and written outside it.
 */
#include "libcommon/log.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libcommon/clock.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

enum { LINE_MAX_SIZE = 2048, WINDOW_US = 10000000, WINDOW_LINES = 20 };

static const struct {
    const char *text;
    char priority; /* of syslog */
} levels[] = {
    [LOG_LEVEL_ERR] = { "err", '3' },
    [LOG_LEVEL_WARN] = { "warn", '4' },
    [LOG_LEVEL_INFO] = { "info", '6' },
    [LOG_LEVEL_DEBUG] = { "debug", '7' },
};

static const char *log_name = "fieldgate";
static atomic_int log_level_now = LOG_LEVEL_INFO;
static bool log_to_journal;
static pthread_mutex_t sites_lock = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local uint64_t thread_request;

/* JOURNAL_STREAM is "device:inode" of what the service manager gave us (systemd.exec(5)). */
static bool
stderr_is_journal(void)
{
    const char *text = getenv("JOURNAL_STREAM");
    struct stat st;
    char want[64];

    if (text == NULL || fstat(STDERR_FILENO, &st) < 0)
        return false;
    (void)snprintf(want, sizeof(want), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    return str_eq(text, want);
}

void
log_open(const char *name, enum log_level level)
{
    log_name = name;
    log_to_journal = stderr_is_journal();
    log_set_level(level);
}

void
log_set_level(enum log_level level)
{
    atomic_store_explicit(&log_level_now, (int)level, memory_order_relaxed);
}

enum log_level
log_get_level(void)
{
    return (enum log_level)atomic_load_explicit(&log_level_now, memory_order_relaxed);
}

int
log_parse_level(const char *text, enum log_level *ret_level)
{
    for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
        if (str_eq(text, levels[i].text)) {
            *ret_level = (enum log_level)i;
            return 0;
        }
    }
    return -EINVAL;
}

void
log_set_request(uint64_t request_id)
{
    thread_request = request_id;
}

/* May this site speak now? Hands out how many of its lines were left out before. */
static bool
site_admit(struct log_site *site, uint32_t *ret_left_out)
{
    uint64_t now_us = clock_mono_us();
    bool admitted;

    (void)pthread_mutex_lock(&sites_lock); /* neither fails for this kind of mutex */
    if (site->n_in_window == 0 || now_us - site->window_start_us >= WINDOW_US) {
        site->window_start_us = now_us;
        site->n_in_window = 0;
    }
    admitted = site->n_in_window < WINDOW_LINES;
    if (admitted) {
        site->n_in_window++;
        *ret_left_out = site->n_left_out;
        site->n_left_out = 0;
    } else {
        site->n_left_out++;
    }
    (void)pthread_mutex_unlock(&sites_lock);
    return admitted;
}

/* A line under construction; what does not fit is cut, the end of the line has its room. */
struct line {
    char text[LINE_MAX_SIZE];
    size_t len;
    size_t limit;
};

static void line_vaddf(struct line *l, const char *fmt, va_list args) PRINTF_LIKE(2, 0);
static void line_addf(struct line *l, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void
line_vaddf(struct line *l, const char *fmt, va_list args)
{
    int n = vsnprintf(l->text + l->len, l->limit - l->len, fmt, args);
    if (n < 0)
        return;
    size_t room = l->limit - l->len - 1;
    l->len += (size_t)n < room ? (size_t)n : room;
}

static void
line_addf(struct line *l, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    line_vaddf(l, fmt, args);
    va_end(args);
}

void
log_line(struct log_site *site, enum log_level level, const char *fmt, ...)
{
    int saved_errno = errno; /* for %m, and for the caller */
    uint32_t n_left_out = 0;
    if (!site_admit(site, &n_left_out)) {
        errno = saved_errno;
        return;
    }

    enum { TAIL_ROOM = 64 };
    struct line line = { .len = 0, .limit = LINE_MAX_SIZE - TAIL_ROOM };
    if (log_to_journal) {
        line_addf(&line, "<%c>%s: ", levels[level].priority, log_name);
    } else {
        char time_text[CLOCK_TEXT_SIZE];
        clock_format(clock_wall_us(), 3, time_text);
        line_addf(&line, "%s %s %s: ", time_text, levels[level].text, log_name);
    }
    va_list args;
    va_start(args, fmt);
    errno = saved_errno;
    line_vaddf(&line, fmt, args);
    va_end(args);
    /* One line, one event, whatever the text held. */
    for (size_t i = 0; i < line.len; i++)
        if ((unsigned char)line.text[i] < ' ')
            line.text[i] = ' ';

    line.limit = LINE_MAX_SIZE;
    if (thread_request != 0)
        line_addf(&line, " req=%016" PRIx64, thread_request);
    if (n_left_out > 0)
        line_addf(&line, " left_out=%" PRIu32, n_left_out);
    line.text[line.len++] = '\n'; /* over the terminator */

    ssize_t n;
    do
        n = write(STDERR_FILENO, line.text, line.len);
    while (n < 0 && errno == EINTR);
    errno = saved_errno; /* nobody to tell when even this failed */
}

const char *
log_safe(const char *text, char *out, size_t out_size)
{
    MUST(out_size > 0);
    size_t n = 0;
    for (; n < out_size - 1 && text[n] != '\0'; n++) {
        char c = text[n];
        out[n] = '?';
        if (c >= ' ' && c <= '~')
            out[n] = c;
    }
    out[n] = '\0';
    return out;
}
