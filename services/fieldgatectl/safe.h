/*
 * Text from elsewhere made harmless for a terminal: what would move it, hide
 * or reorder text (controls, escape sequences, bidirectional overrides)
 * becomes \uXXXX, broken UTF-8 becomes U+FFFD. A terminal without UTF-8 may see
 * controls (ECMA-48, 8-bit C1) in the bytes of any character: for it, all but
 * ASCII becomes \uXXXX.
 */
#ifndef FIELDGATE_CTL_SAFE_H
#define FIELDGATE_CTL_SAFE_H

#include <stdbool.h>
#include <stddef.h>

#include "libcommon/buf.h"

/* Takes harmless text; 'n' is at least 1. */
typedef void safe_emit_fn(void *arg, const char *bytes, size_t n);

/* Bytes come in pieces, which may end inside a character. */
struct safe {
    bool ascii;   /* see safe_ascii */
    char held[4]; /* the beginning of a character */
    size_t n_held;
};

/* Is 'fd' a terminal without UTF-8, by the locale (setlocale(3))? */
bool safe_ascii(int fd);

/* Newlines and tabs pass. */
void safe_put(struct safe *s, const char *bytes, size_t n, safe_emit_fn *emit, void *arg);
/* The text is over: what is held is no character. */
void safe_end(struct safe *s, safe_emit_fn *emit, void *arg);

/* A whole text; newlines and tabs are made visible too, so it stays one line and one column. */
void safe_line(struct buf *b, const char *text, size_t len, bool ascii);

/* As safe_line, but line ends stay, whoever wrote them. */
void safe_lines(struct buf *b, const char *text, size_t len, bool ascii);

#endif
