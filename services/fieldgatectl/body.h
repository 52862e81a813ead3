/*
 * Bodies of requests: JSON from the command line, a file or stdin, or made of
 * members that are given one by one.
 */
#ifndef FIELDGATE_CTL_BODY_H
#define FIELDGATE_CTL_BODY_H

#include <stddef.h>

#include "libcommon/buf.h"

struct cJSON;
struct ctl_op;

/* The text of --body: JSON, "@file", or "-" for stdin; at most b->max bytes. Exit code. */
int body_read(const char *from, struct buf *b);
/*
 * Puts "a.b=value" of --set into 'tree', an object: the value as the type of
 * the member wants it; a list as comma list or JSON. Exit code.
 */
int body_set(const struct ctl_op *op, const char *assignment, struct cJSON *tree);

#endif
