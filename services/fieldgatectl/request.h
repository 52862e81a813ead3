/*
 * A request for one operation: its values, checked against the contract, and
 * the URL and body that they make.
 */
#ifndef FIELDGATE_CTL_REQUEST_H
#define FIELDGATE_CTL_REQUEST_H

#include <stdbool.h>
#include <stddef.h>

#include "libcommon/buf.h"
#include "services/fieldgatectl/http.h"
#include "services/fieldgatectl/ops.h"

struct out;

enum { REQUEST_VALUES_MAX = 22, REQUEST_TARGET_MAX = 64 * 1024 };

struct request {
    const struct ctl_op *op;
    const char *names[REQUEST_VALUES_MAX], *values[REQUEST_VALUES_MAX]; /* of path and query */
    size_t n_values;
    struct http_part parts[OPS_PARTS_MAX];
    char *part_names[OPS_PARTS_MAX]; /* owned */
    size_t n_parts;
    struct buf body;   /* JSON; at most what the operation takes */
    struct buf target; /* made by request_check */
};

/* All text that is given later stays with the caller. Exit codes of ctl.h, complained of. */
void request_init(struct request *rq, const struct ctl_op *op);
void request_done(struct request *rq);
/* A parameter, by a name of the contract. */
int request_value(struct request *rq, const char *name, const char *value);
/* A part of a form: "name=text", or "name=path" or "name=@path" of a file. */
int request_part(struct request *rq, const char *assignment, bool is_file);
/* Is all there, and does it hold what the contract says? Makes the target then. */
int request_check(struct request *rq);
/* What is to be sent; it refers to 'rq'. */
void request_transfer(const struct request *rq, struct http_transfer *t);
/* Prints method, URL and body. */
void request_show(const struct request *rq, const char *base, struct out *out);

#endif
