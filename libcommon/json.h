/*
 * JSON in and out. In: cJSON behind a strict scan (RFC 8259 grammar, UTF-8,
 * bounded depth and element count, no duplicate names), with every number
 * kept as its text, so that 64-bit integers stay exact. Out: a writer that
 * puts compact text into a buf.
 */
#ifndef FIELDGATE_JSON_H
#define FIELDGATE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/buf.h"

struct cJSON;

enum { JSON_DEPTH_MAX = 32, JSON_VALUES_MAX = 400000 };

struct json_error {
    size_t at;       /* byte offset of the fault */
    char reason[64]; /* what was wrong, for a person */
};

/*
 * Parses exactly 'len' bytes. Numbers come back as cJSON_Raw items whose
 * valuestring is the number's text. \u0000 is refused (C strings end there).
 * The caller frees the tree with json_free. Does not need a terminator.
 * Returns 0; -EINVAL with *ret_error filled; -E2BIG for too deep or too many
 * values (ret_error filled); -ENOMEM.
 */
int json_parse(const char *text, size_t len, struct cJSON **ret_tree,
               struct json_error *ret_error);
void json_free(struct cJSON *tree);
void json_freep(struct cJSON **tree);

/* Checks only: same rules, no tree. */
int json_check(const char *text, size_t len, struct json_error *ret_error);

/* A member by its exact name; NULL when absent or not an object. */
const struct cJSON *json_get(const struct cJSON *object, const char *name);
/* Its text, or NULL unless it is a string. */
const char *json_text(const struct cJSON *item);
/* Its number text, or NULL unless it is a number. */
const char *json_number(const struct cJSON *item);
/* 0 or -EINVAL (not an integer, out of range). Accepts 5, not 5.0 or "5". */
int json_i64(const struct cJSON *item, int64_t *ret_value);
int json_u64(const struct cJSON *item, uint64_t *ret_value);

/*
 * The writer. Commas are put by jw_sep: every value and every name first adds
 * a comma unless it follows '{', '[', ':', white space (of a frame around the
 * text, such as an event's "data: ") or nothing. Invalid UTF-8 becomes U+FFFD.
 */
void jw_open(struct buf *b, char bracket); /* '{' or '[' */
void jw_close(struct buf *b, char bracket); /* '}' or ']' */
void jw_name(struct buf *b, const char *name);
void jw_str(struct buf *b, const char *text); /* NULL writes null */
void jw_strn(struct buf *b, const char *text, size_t len);
void jw_i64(struct buf *b, int64_t v);
void jw_u64(struct buf *b, uint64_t v);
void jw_double(struct buf *b, double v); /* shortest that reads back; NaN, infinity: null */
void jw_float(struct buf *b, float v);   /* shortest that reads back as float */
void jw_bool(struct buf *b, bool v);
void jw_null(struct buf *b);
void jw_raw(struct buf *b, const char *json, size_t len); /* JSON made elsewhere */
/* name and value in one */
void jw_kstr(struct buf *b, const char *name, const char *text);
void jw_ki64(struct buf *b, const char *name, int64_t v);
void jw_ku64(struct buf *b, const char *name, uint64_t v);
void jw_kbool(struct buf *b, const char *name, bool v);
/* A parsed tree (numbers as json_parse keeps them) back as text. */
void jw_tree(struct buf *b, const struct cJSON *tree);

#endif
