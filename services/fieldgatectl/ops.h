/*
 * The operations of the API as the contract declares them: a table that
 * proto/apigen.py makes (gen/ctl_ops.c), finding in it, and checking values.
 */
#ifndef FIELDGATE_CTL_OPS_H
#define FIELDGATE_CTL_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/api.h"

enum { OPS_PARTS_MAX = 16 };

struct ctl_op {
    const char *name, *method, *path; /* path below /api/v1, with {name} for a value */
    const char *section, *summary, *description;
    const char *permission, *reply;                            /* in words */
    const struct api_desc *path_desc, *query_desc, *body_desc; /* NULL: has none */
    const char *parts[OPS_PARTS_MAX + 1]; /* of a form; NULL after the last */
    bool is_open;                         /* needs no session */
    bool partial;                         /* any subset of the members may be sent */
    bool many;                            /* one object, or a list of 1..items_max */
    bool optional;                        /* the body may be missing */
    bool stream;                          /* may answer with an event stream */
    uint32_t items_max, body_max, timeout_ms;
};
extern const struct ctl_op ctl_ops[]; /* by section and path */
extern const size_t ctl_n_ops;
extern const char ctl_version[]; /* a line: the program and the version of the API */

/* What the contract says of each field of a descriptor, in their order; "" for nothing. */
struct ctl_doc {
    const struct api_desc *desc;
    const char *const *texts;
};
extern const struct ctl_doc ctl_docs[];
extern const size_t ctl_n_docs;

/* NULL when there is none of that name. */
const struct ctl_op *ops_find(const char *name);
/* Complains that 'name' is none, and names those it may have been meant for. */
void ops_suggest(const char *name);
/* The field of that name; NULL: none, or 'desc' is NULL. */
const struct api_field *ops_field(const struct api_desc *desc, const char *name);
/* Of a field of 'desc': what it means; "" for nothing. */
const char *ops_doc(const struct api_desc *desc, const struct api_field *f);
/* Prints all that the contract says of an operation; exit code. */
int ops_show(const struct ctl_op *op);
/* What values a field takes, in words; at most 'size' bytes with the terminator. */
void ops_limits(const struct api_field *f, char *out, size_t size);
/* Does 'text' begin or hold 'part', whatever the case of ASCII letters? */
bool ops_like(const char *text, const char *part);

/*
 * Are these the values of a path or a query ('desc' NULL: of one without)?
 * 0, or -EINVAL with *ret_fault, -ENOMEM. Names without a field are passed over.
 */
int ops_check_values(const struct api_desc *desc, const char *const *names,
                     const char *const *values, size_t n, struct api_fault *ret_fault);
/* Is 'text' a body of 'op'? 0, or -EINVAL with *ret_fault, -ENOMEM. */
int ops_check_body(const struct ctl_op *op, const char *text, size_t len,
                   struct api_fault *ret_fault);

#endif
