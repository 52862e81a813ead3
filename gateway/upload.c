/*
 * The spool. See upload.h.
 */
#include "gateway/upload.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "gateway/http.h"
#include "gateway/gateway.h"
#include "libcommon/log.h"
#include "libcommon/spool.h"
#include "libcommon/str.h"
#include "libcommon/svc.h"

#include "libcommon/banned.h"

enum { PIECE = 32 * 1024 };

static int
write_all(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, bytes, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return -errno;
        bytes += done;
        n -= (size_t)done;
    }
    return 0;
}

/* 0; < 0 and answered. */
static int
copy_body(struct http_call *call, size_t max, int fd)
{
    struct buf *b = &call->worker->body;
    buf_reset(b);
    b->max = PIECE;
    char *piece = buf_reserve(b, PIECE);
    size_t total = 0;
    while (piece != NULL) {
        size_t want = PIECE;
        if (!call->chunked && (size_t)call->content_length - total < want)
            want = (size_t)call->content_length - total;
        int got = http_read(call, piece, want);
        if (got == 0)
            return 0;
        if (got < 0) {
            (void)http_fail(call, 400, "the request body is incomplete");
            return got;
        }
        total += (size_t)got;
        if (total > max) {
            (void)http_fail(call, 413, "request too large");
            return -E2BIG;
        }
        int r = write_all(fd, piece, (size_t)got);
        if (r < 0) {
            log_err("upload: cannot write to the spool error=%s", strerror(-r));
            (void)http_fail(call, r == -ENOSPC ? 507 : 500,
                            r == -ENOSPC ? "no space left on device" : "internal error");
            return r;
        }
    }
    (void)http_fail(call, 503, "out of memory");
    return -ENOMEM;
}

int
upload_spool(struct http_call *call, size_t max, char ret_name[UPLOAD_NAME_SIZE])
{
    if (call->content_length > (int64_t)max) {
        (void)http_fail(call, 413, "request too large");
        return -E2BIG;
    }
    uint8_t random[12];
    char name[UPLOAD_NAME_SIZE] = "up-";
    char path[PATH_MAX];
    randombytes_buf(random, sizeof(random));
    hex_encode(random, sizeof(random), name + 3);
    int r = spool_path(call->gateway->svc->spool_dir, name, strlen(name), path, sizeof(path));
    int fd =
        r < 0 ? -1 : open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0660);
    if (fd < 0) {
        log_err("upload: cannot make a file in the spool error=%s", strerror(errno));
        (void)http_fail(call, 500, "internal error");
        return -EIO;
    }
    r = copy_body(call, max, fd);
    close(fd);
    if (r < 0) {
        (void)unlink(path); /* nobody knows of it */
        return r;
    }
    return str_copy(ret_name, UPLOAD_NAME_SIZE, name);
}

void
upload_sweep(const struct svc *svc)
{
    DIR *dir = opendir(svc->spool_dir);
    if (dir == NULL) {
        log_warn("upload: cannot read the spool error=%s", strerror(errno));
        return;
    }
    time_t oldest = time(NULL) - UPLOAD_KEEP_S;
    /* cppcheck-suppress readdirCalled ; one thread has this DIR */
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        struct stat st;
        if (fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(st.st_mode) && st.st_mtime < oldest &&
            unlinkat(dirfd(dir), e->d_name, 0) == 0)
            log_info("upload: forgotten file removed age_s=%lld",
                     (long long)(time(NULL) - st.st_mtime));
    }
    closedir(dir);
}
