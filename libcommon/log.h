/*
 * One line, one event, on standard error in the form journald understands
 * ("<6>modbusd: device silent device=pump1 tries=3"). Thread-safe; a line is
 * one write. Repeats of one call site are limited to 20 in 10 s; what was
 * left out is counted in the next line of that site.
 *
 * err needs a person, warn will if it lasts, info is a change of state,
 * debug is for us. Never a secret, a body or raw bytes of a client: text that
 * came from outside goes through %s only after log_safe().
 */
#ifndef FIELDGATE_LOG_H
#define FIELDGATE_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "libcommon/base.h"

/* OFF is no level of a line: with it none is written. */
enum log_level {
    LOG_LEVEL_OFF = -1,
    LOG_LEVEL_ERR,
    LOG_LEVEL_WARN,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG
};

/* State of one call site; made by the macros. */
struct log_site {
    uint64_t window_start_us;
    uint32_t n_in_window;
    uint32_t n_left_out;
};

/* Before threads start. 'name' is kept, not copied. */
void log_open(const char *name, enum log_level level);
void log_set_level(enum log_level level);
enum log_level log_get_level(void);

/* "err", "warn", "info", "debug"; returns 0 or -EINVAL. */
int log_parse_level(const char *text, enum log_level *ret_level);

/* The request being handled by this thread, 0 for none: added to each line as req=. */
void log_set_request(uint64_t request_id);

void log_line(struct log_site *site, enum log_level level, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

#define LOG_AT(level, ...)                                                                     \
    do {                                                                                       \
        static struct log_site log_site_;                                                      \
        if ((level) <= log_get_level())                                                        \
            log_line(&log_site_, (level), __VA_ARGS__);                                        \
    } while (0)
#define log_err(...) LOG_AT(LOG_LEVEL_ERR, __VA_ARGS__)
#define log_warn(...) LOG_AT(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) LOG_AT(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) LOG_AT(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* Printable ASCII of 'text' in 'out' (always terminated); other bytes become '?'. */
const char *log_safe(const char *text, char *out, size_t out_size);

#endif
