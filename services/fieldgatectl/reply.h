/*
 * What becomes of an answer: shown on stdout, put into a file, or, when it is
 * a refusal, told on stderr. An answer is never held as a whole.
 */
#ifndef FIELDGATE_CTL_REPLY_H
#define FIELDGATE_CTL_REPLY_H

#include <stdbool.h>

#include "libcommon/buf.h"
#include "services/fieldgatectl/http.h"
#include "services/fieldgatectl/out.h"
#include "services/fieldgatectl/show.h"

struct peer;

enum { REPLY_REFUSAL_MAX = 64 * 1024 };

struct reply {
    const char *file; /* NULL: stdout */
    bool raw;         /* on a terminal: JSON as it is */
    struct out out;
    struct show show;
    struct buf refusal; /* its body; what is past the maximum is dropped */
    bool is_refusal, is_stream, has_out;
    int code; /* exit code of a fault that was complained of */
};

void reply_init(struct reply *r, const char *file, bool raw);
void reply_done(struct reply *r);
/* For struct http_transfer, with the reply as its arg. */
int reply_head(void *arg, int status, const char *type);
int reply_data(void *arg, const char *bytes, size_t n);
/* The transfer has ended: completes what was begun, or takes it back. Exit code. */
int reply_finish(struct reply *r, const struct peer *peer, const struct http_transfer *t);

/* Tells a refusal as {"error":{"message","details":[{"pointer","message"}]}}; exit code. */
int reply_tell_refusal(const char *what, int status, const char *body, size_t len);

#endif
