/*
 * Harmless text. See safe.h.
 */
#include "services/fieldgatectl/safe.h"

#include <langinfo.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/str.h"

#include "libcommon/banned.h"

static const char REPLACEMENT[] = "\xEF\xBF\xBD"; /* U+FFFD */

/* Bytes of the character that begins with 'c'; 0: none does. */
static size_t
length_of(unsigned char c)
{
    return c < 0x80 ? 1 : c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
}

static uint32_t
code_point(const char *bytes, size_t n)
{
    static const unsigned char first[] = { 0, 0x7F, 0x1F, 0x0F, 0x07 };
    uint32_t c = (unsigned char)bytes[0] & first[n];
    for (size_t i = 1; i < n; i++)
        c = c << 6 | ((unsigned char)bytes[i] & 0x3F);
    return c;
}

/* C0, DEL, C1; marks, embeddings, overrides and isolates of direction; line separators. */
static bool
is_harmful(uint32_t c)
{
    return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x61C || c == 0x200E || c == 0x200F ||
           (c >= 0x2028 && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

/* One character, valid. */
static void
put_valid(const struct safe *s, const char *bytes, size_t n, safe_emit_fn *emit, void *arg)
{
    uint32_t c = code_point(bytes, n);
    bool passes = c == '\n' || c == '\t' || !(is_harmful(c) || (s->ascii && c >= 0x80));
    char text[12];
    int len = snprintf(text, sizeof(text), c > 0xFFFF ? "\\U%08x" : "\\u%04x", (unsigned)c);
    emit(arg, passes ? bytes : text, passes ? n : (size_t)len);
}

static void
put_broken(const struct safe *s, safe_emit_fn *emit, void *arg)
{
    put_valid(s, REPLACEMENT, sizeof(REPLACEMENT) - 1, emit, arg);
}

bool
safe_ascii(int fd)
{
    return isatty(fd) == 1 && !str_eq(nl_langinfo(CODESET), "UTF-8");
}

void
safe_end(struct safe *s, safe_emit_fn *emit, void *arg)
{
    if (s->n_held > 0)
        put_broken(s, emit, arg);
    s->n_held = 0;
}

void
safe_put(struct safe *s, const char *bytes, size_t n, safe_emit_fn *emit, void *arg)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)bytes[i];
        bool goes_on = (c & 0xC0) == 0x80;
        if (s->n_held > 0 && !goes_on)
            safe_end(s, emit, arg);
        if (s->n_held == 0 && length_of(c) == 0) {
            put_broken(s, emit, arg);
            continue;
        }
        s->held[s->n_held++] = bytes[i];
        if (s->n_held == length_of((unsigned char)s->held[0])) {
            if (utf8_valid(s->held, s->n_held))
                put_valid(s, s->held, s->n_held, emit, arg);
            else
                put_broken(s, emit, arg);
            s->n_held = 0;
        }
    }
}

static void
put_in_line(void *arg, const char *bytes, size_t n)
{
    struct buf *b = arg;
    if (bytes[0] == '\n')
        buf_puts(b, "\\n");
    else if (bytes[0] == '\t')
        buf_puts(b, "\\t");
    else
        buf_put(b, bytes, n);
}

void
safe_line(struct buf *b, const char *text, size_t len, bool ascii)
{
    struct safe s = { .ascii = ascii };
    safe_put(&s, text, len, put_in_line, b);
    safe_end(&s, put_in_line, b);
}

void
safe_lines(struct buf *b, const char *text, size_t len, bool ascii)
{
    while (len > 0) {
        const char *end = memchr(text, '\n', len);
        size_t n = end != NULL ? (size_t)(end - text) : len, used = n + (end != NULL);
        safe_line(b, text, n, ascii);
        if (end != NULL)
            buf_putc(b, '\n');
        text += used;
        len -= used;
    }
}
