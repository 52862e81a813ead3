/*
 * Text from elsewhere made harmless for a terminal: what would move it, hide
 * or reorder text (controls, escape sequences, bidirectional overrides)
 * becomes \uXXXX, broken UTF-8 becomes U+FFFD.
 */
#ifndef FIELDGATE_CTL_SAFE_H
#define FIELDGATE_CTL_SAFE_H

#include <stddef.h>

#include "libcommon/buf.h"

/* Takes harmless text; 'n' is at least 1. */
typedef void safe_emit_fn(void *arg, const char *bytes, size_t n);

/* Bytes come in pieces, which may end inside a character. */
struct safe {
    char held[4]; /* the beginning of a character */
    size_t n_held;
};

/* Newlines and tabs pass. */
void safe_put(struct safe *s, const char *bytes, size_t n, safe_emit_fn *emit, void *arg);
/* The text is over: what is held is no character. */
void safe_end(struct safe *s, safe_emit_fn *emit, void *arg);

/* A whole text; newlines and tabs are made visible too, so it stays one line and one column. */
void safe_line(struct buf *b, const char *text, size_t len);

#endif
