/*
 * Request bodies that go to a daemon as files (libcommon/spool.h).
 */
#ifndef FIELDGATE_GATEWAY_UPLOAD_H
#define FIELDGATE_GATEWAY_UPLOAD_H

#include <stddef.h>

struct http_call;
struct svc;

enum {
    UPLOAD_NAME_SIZE = 40,
    UPLOAD_KEEP_S = 3600, /* what is older was forgotten by somebody who died */
};

/*
 * The body of the request into a new file of the spool, at most 'max' bytes.
 * 0 with its name; < 0: failed, answered, nothing left behind.
 */
int upload_spool(struct http_call *call, size_t max, char ret_name[UPLOAD_NAME_SIZE]);

/* Removes what is older than UPLOAD_KEEP_S. */
void upload_sweep(const struct svc *svc);

#endif
