/*
 * Text without surprises: copies that refuse to truncate, numbers that refuse
 * junk, UTF-8 that is checked, hexadecimal.
 */
#ifndef FIELDGATE_STR_H
#define FIELDGATE_STR_H

#include <locale.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Returns 0, or -E2BIG and leaves 'out' empty. */
int str_copy(char *out, size_t out_size, const char *text);
int str_copy_len(char *out, size_t out_size, const char *text, size_t len);

static inline bool
str_eq(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

static inline bool
str_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* The "C" locale, for numbers as programs write them; 0 without memory for it. */
locale_t str_c_locale(void);

/*
 * Decimal without leading '+', spaces or anything after it. Return 0, -EINVAL
 * (not a number) or -ERANGE (outside min..max); the output is untouched then.
 */
int parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret_value);
int parse_i64(const char *text, int64_t min, int64_t max, int64_t *ret_value);
int parse_u32(const char *text, uint32_t min, uint32_t max, uint32_t *ret_value);
/* A JSON number (RFC 8259 section 6); -ERANGE when it overflows to infinity. */
int parse_double(const char *text, double *ret_value);

/* True for well-formed UTF-8 (RFC 3629: no overlong, no surrogate, <= U+10FFFF). */
bool utf8_valid(const char *text, size_t len);
/* Characters (code points) in valid UTF-8. */
size_t utf8_count(const char *text, size_t len);
/* At most 'max' of the 'len' bytes, not ending inside a character. */
size_t utf8_cut(const char *text, size_t len, size_t max);

/* Upper-case hexadecimal; 'out' holds 2 * n + 1 bytes. */
void hex_encode(const void *bytes, size_t n, char *out);
/* Returns the number of bytes, or -EINVAL; accepts both cases, no separators. */
int hex_decode(const char *text, size_t len, uint8_t *out, size_t out_size);

#endif
