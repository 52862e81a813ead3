/*
 * Answers that go to the gateway as a file of the spool: large JSON (a message
 * of the bus holds 8 MiB, and what is in it is copied several times), and
 * what the client saves as a file.
 */
#include "libcommon/api_private.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/spool.h"
#include "libcommon/svc.h"

#include "libcommon/banned.h"

enum { DIRECT_MAX = 4 << 20 };

void
api_spool_name(const struct svc *svc, char ret_name[API_SPOOL_NAME_SIZE])
{
    static _Atomic uint64_t n_spooled; /* of this process, whose number is in the name too */
    (void)snprintf(ret_name, API_SPOOL_NAME_SIZE, "%.20s-%d-%" PRIu64, svc->info->name,
                   (int)getpid(), ++n_spooled); /* fits */
}

/* Bytes become a file of the spool, and that the answer. */
static enum api_status
reply_in_file(struct api_call *call, const char *content_type, const void *bytes, size_t n,
              const char *offered_name, enum api_status status)
{
    char name[API_SPOOL_NAME_SIZE], path[PATH_MAX];
    const struct api_call_private *p = api_private(call);
    const struct svc *svc = call->svc;
    api_spool_name(svc, name);
    int r = spool_path(svc->spool_dir, name, strlen(name), path, sizeof(path));
    if (r == 0)
        r = spool_write(path, bytes, n);
    if (r < 0) {
        spool_remove(svc->spool_dir, name, strlen(name)); /* whatever of it was written */
        return api_fail_errno(call, r, "cannot write the answer");
    }
    api_reply_file(call, content_type, name, offered_name);
    if (p->spool_name && p->file_name)
        return status;
    spool_remove(svc->spool_dir, name, strlen(name));
    return api_fail(call, API_TOO_LARGE, NULL, "the answer is too large: ask for less");
}

enum api_status
api_spool_reply(struct api_call_private *p, const char *json, size_t n, enum api_status status)
{
    if (n <= DIRECT_MAX)
        return status;
    return reply_in_file(&p->call, "application/json", json, n, "", status);
}

enum api_status
api_reply_bytes(struct api_call *call, const char *content_type, const void *bytes, size_t n,
                const char *offered_name)
{
    return reply_in_file(call, content_type, bytes, n, offered_name, API_OK);
}
