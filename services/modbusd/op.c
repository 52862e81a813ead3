#include "services/modbusd/op.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/spool.h"
#include "libcommon/str.h"
#include "libcommon/banned.h"

enum { REPLY_DIRECT_MAX = 4 << 20, REPLY_MAX = 128 << 20 };

bool
op_is_list(const struct api_call *call)
{
    return api_sent(call, "/0");
}

const char *
op_pointer(struct api_call *call, size_t i, const char *member)
{
    bool list = op_is_list(call);
    const char *text = "";
    if (member)
        text = list ? api_printf(call, "/%zu/%s", i, member) : api_printf(call, "/%s", member);
    else if (list)
        text = api_printf(call, "/%zu", i);
    return text ? text : "";
}

enum api_status
op_not_found(struct api_call *call)
{
    return api_fail(call, API_NOT_FOUND, NULL, "Member not exists");
}

enum api_status
op_store_error(struct api_call *call, int r)
{
    if (r == -EOVERFLOW)
        return api_fail(call, API_INVALID, NULL, "Input value failed: no numbers are left");
    if (r == -E2BIG)
        return api_fail(call, API_TOO_LARGE, NULL, "the answer is too large: ask for less");
    return api_fail_errno(call, r < 0 ? r : -EPROTO, "cannot use the configuration");
}

enum api_status
op_check_room(struct api_call *call, struct store_txn *txn, enum config_db db, size_t n,
              uint64_t max)
{
    uint64_t there;
    int r = store_count(txn, db, &there);
    if (r < 0)
        return op_store_error(call, r);
    if (there + n > max)
        return api_fail(call, API_INVALID, NULL,
                        "Input value failed: at most %" PRIu64 " in all", max);
    return API_OK;
}

static int
write_file(const char *path, const char *bytes, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (fd < 0)
        return -errno;
    int r = 0;
    while (n > 0 && r == 0) {
        ssize_t did = write(fd, bytes, n);
        if (did < 0 && errno != EINTR)
            r = -errno;
        else if (did > 0) {
            bytes += did;
            n -= (size_t)did;
        }
    }
    if (close(fd) < 0 && r == 0)
        r = -errno;
    return r;
}

enum api_status
modbusd_reply(struct modbusd *d, struct api_call *call, struct buf *json)
{
    if (json->err) {
        int r = json->err;
        buf_done(json);
        return op_store_error(call, r);
    }
    if (json->len <= REPLY_DIRECT_MAX) {
        api_reply_json(call, json->data, json->len);
        buf_done(json);
        return API_OK;
    }
    char name[64], path[PATH_MAX];
    (void)snprintf(name, sizeof(name), "modbusd-%d-%" PRIu64, (int)getpid(),
                   ++d->n_spooled); /* fits */
    int r = spool_path(d->svc->spool_dir, name, strlen(name), path, sizeof(path));
    if (r == 0)
        r = write_file(path, json->data, json->len);
    buf_done(json);
    if (r < 0) {
        spool_remove(d->svc->spool_dir, name, strlen(name)); /* whatever of it was written */
        return api_fail_errno(call, r, "cannot write the answer");
    }
    api_reply_file(call, "application/json", name, "");
    return API_OK;
}

enum api_status
op_reply_one(struct modbusd *d, struct api_call *call, const struct config_key *key)
{
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    struct buf b;
    buf_init(&b, REPLY_MAX);
    buf_puts(&b, "{\"data\":");
    int r = config_write(txn, key, &b);
    buf_putc(&b, '}');
    if (r == 0)
        return modbusd_reply(d, call, &b);
    buf_done(&b);
    return r == STORE_NOT_FOUND ? op_not_found(call) : op_store_error(call, r);
}

enum api_status
op_reply_all(struct modbusd *d, struct api_call *call, enum config_kind kind)
{
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    struct buf b;
    uint64_t n = 0;
    int r = store_count(txn, DB_ONE + kind, &n);
    buf_init(&b, REPLY_MAX);
    buf_printf(&b, "{\"count\":%" PRIu64 ",\"data\":[", n);
    if (r == 0)
        r = config_write_all(txn, kind, &b, &n);
    buf_puts(&b, "]}");
    if (r == 0)
        return modbusd_reply(d, call, &b);
    buf_done(&b);
    return op_store_error(call, r);
}

enum api_status
op_reply_added(struct modbusd *d, struct api_call *call, const struct config_key *keys,
               size_t n)
{
    if (!op_is_list(call))
        return op_reply_one(d, call, &keys[0]);
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    struct buf b;
    int r = 0;
    buf_init(&b, REPLY_MAX);
    buf_printf(&b, "{\"count\":%zu,\"data\":[", n);
    for (size_t i = 0; i < n && r == 0; i++) {
        if (i > 0)
            buf_putc(&b, ',');
        r = config_write(txn, &keys[i], &b);
    }
    buf_puts(&b, "]}");
    if (r == 0)
        return modbusd_reply(d, call, &b);
    buf_done(&b);
    return op_store_error(call, r);
}
