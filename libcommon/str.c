/*
 * Text without surprises.
 */
#include "libcommon/str.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "libcommon/banned.h"

int
str_copy_len(char *out, size_t out_size, const char *text, size_t len)
{
    if (out_size == 0)
        return -E2BIG;
    if (len >= out_size) {
        out[0] = '\0';
        return -E2BIG;
    }
    if (len > 0)
        memcpy(out, text, len);
    out[len] = '\0';
    return 0;
}

int
str_copy(char *out, size_t out_size, const char *text)
{
    return str_copy_len(out, out_size, text, strlen(text));
}

/* ---- numbers ---- */

/* All of 'text' as digits; -ERANGE past 2^64 - 1. */
static int
parse_digits(const char *text, uint64_t *ret_value)
{
    if (*text == '\0')
        return -EINVAL;
    uint64_t v = 0;
    bool over = false;
    for (const char *p = text; *p != '\0'; p++) {
        if (!str_is_digit(*p))
            return -EINVAL;
        over |= __builtin_mul_overflow(v, (uint64_t)10, &v);
        over |= __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v);
    }
    if (over)
        return -ERANGE;
    *ret_value = v;
    return 0;
}

int
parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret_value)
{
    uint64_t v = 0;
    int r = parse_digits(text, &v);
    if (r < 0)
        return r;
    if (v < min || v > max)
        return -ERANGE;
    *ret_value = v;
    return 0;
}

int
parse_i64(const char *text, int64_t min, int64_t max, int64_t *ret_value)
{
    bool negative = *text == '-';
    uint64_t magnitude = 0;
    int r = parse_digits(text + negative, &magnitude);
    if (r < 0)
        return r;
    if (magnitude > (uint64_t)INT64_MAX + negative)
        return -ERANGE;
    int64_t v = (int64_t)magnitude; /* 2^63 wraps to INT64_MIN */
    if (negative && v > 0)
        v = -v;
    if (v < min || v > max)
        return -ERANGE;
    *ret_value = v;
    return 0;
}

int
parse_u32(const char *text, uint32_t min, uint32_t max, uint32_t *ret_value)
{
    uint64_t v = 0;
    int r = parse_u64(text, min, max, &v);
    if (r < 0)
        return r;
    *ret_value = (uint32_t)v;
    return 0;
}

static locale_t c_locale;

static void
make_c_locale(void)
{
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

locale_t
str_c_locale(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, make_c_locale); /* cannot fail with a valid once */
    return c_locale;
}

/* RFC 8259 section 6, the whole text. */
static bool
is_json_number(const char *p)
{
    if (*p == '-')
        p++;
    if (*p == '0') {
        p++;
    } else {
        if (!str_is_digit(*p))
            return false;
        while (str_is_digit(*p))
            p++;
    }
    if (*p == '.') {
        if (!str_is_digit(*++p))
            return false;
        while (str_is_digit(*p))
            p++;
    }
    if (*p == 'e' || *p == 'E') {
        p++;
        if (*p == '+' || *p == '-')
            p++;
        if (!str_is_digit(*p))
            return false;
        while (str_is_digit(*p))
            p++;
    }
    return *p == '\0';
}

int
parse_double(const char *text, double *ret_value)
{
    if (!is_json_number(text))
        return -EINVAL;
    locale_t c = str_c_locale();
    double v = c == (locale_t)0 ? strtod(text, NULL) : strtod_l(text, NULL, c);
    if (!isfinite(v))
        return -ERANGE;
    *ret_value = v;
    return 0;
}

/* ---- UTF-8 ---- */

bool
utf8_valid(const char *text, size_t len)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t i = 0;

    while (i < len) {
        uint64_t eight;
        if (len - i >= sizeof(eight)) {
            memcpy(&eight, p + i, sizeof(eight));
            if ((eight & 0x8080808080808080u) == 0) {
                i += sizeof(eight);
                continue;
            }
        }
        uint8_t c = p[i];
        if (c < 0x80) {
            i++;
            continue;
        }
        /* The second byte's range excludes overlong forms, surrogates and > U+10FFFF. */
        size_t n;
        uint8_t low = 0x80, high = 0xBF;
        if (c >= 0xC2 && c <= 0xDF) {
            n = 2;
        } else if (c >= 0xE0 && c <= 0xEF) {
            n = 3;
            if (c == 0xE0)
                low = 0xA0;
            else if (c == 0xED)
                high = 0x9F;
        } else if (c >= 0xF0 && c <= 0xF4) {
            n = 4;
            if (c == 0xF0)
                low = 0x90;
            else if (c == 0xF4)
                high = 0x8F;
        } else {
            return false;
        }
        if (len - i < n || p[i + 1] < low || p[i + 1] > high)
            return false;
        for (size_t k = 2; k < n; k++)
            if ((p[i + k] & 0xC0) != 0x80)
                return false;
        i += n;
    }
    return true;
}

size_t
utf8_count(const char *text, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += ((uint8_t)text[i] & 0xC0) != 0x80;
    return n;
}

size_t
utf8_cut(const char *text, size_t len, size_t max)
{
    if (len <= max)
        return len;
    while (max > 0 && ((uint8_t)text[max] & 0xC0) == 0x80)
        max--;
    return max;
}

/* ---- hexadecimal ---- */

void
hex_encode(const void *bytes, size_t n, char *out)
{
    static const char digits[] = "0123456789ABCDEF";
    const uint8_t *p = bytes;
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * n] = '\0';
}

static int
hex_digit(char c)
{
    if (str_is_digit(c))
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

int
hex_decode(const char *text, size_t len, uint8_t *out, size_t out_size)
{
    if (len % 2 != 0 || len / 2 > out_size || len / 2 > INT32_MAX)
        return -EINVAL;
    for (size_t i = 0; i < len; i++)
        if (hex_digit(text[i]) < 0)
            return -EINVAL;
    for (size_t i = 0; i < len / 2; i++)
        out[i] = (uint8_t)((unsigned)hex_digit(text[2 * i]) << 4 |
                           (unsigned)hex_digit(text[2 * i + 1]));
    return (int)(len / 2);
}
