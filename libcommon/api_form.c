/*
 * multipart/form-data (RFC 7578 over RFC 2046 section 5.1): the gateway leaves
 * the body in the spool, here it is split in place. What is read is bounded by
 * the operation's x-body-max, which the gateway enforced.
 */
#include "libcommon/api.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libcommon/api_private.h"
#include "libcommon/spool.h"
#include "libcommon/str.h"
#include "libcommon/svc.h"

#include "libcommon/banned.h"

enum { BOUNDARY_MAX = 70, FORM_MAX = 48 << 20 };

/* A value of a header such as: form-data; name="x"; filename="y.crt". In place; NULL if absent. */
static char *
parameter(char *header, const char *name)
{
    size_t n = strlen(name);
    for (char *p = strchr(header, ';'); p; p = strchr(p, ';')) {
        p++;
        while (*p == ' ' || *p == '\t')
            p++;
        if (strncasecmp(p, name, n) != 0 || p[n] != '=')
            continue;
        p += n + 1;
        if (*p != '"')
            return p;
        return p + 1;
    }
    return NULL;
}

static void
terminate_value(char *value)
{
    bool quoted = value[-1] == '"';
    char *end = quoted ? strchr(value, '"') : value + strcspn(value, "; \t\r\n");
    if (end)
        *end = '\0';
}

/* The headers of a part, terminated by the caller. 0 or -EINVAL. */
static int
read_headers(char *headers, struct api_form_entry *part)
{
    for (char *line = headers; line && *line;) {
        char *next = strstr(line, "\r\n");
        if (next) {
            *next = '\0';
            next += 2;
        }
        if (strncasecmp(line, "Content-Disposition:", 20) == 0) {
            char *name = parameter(line, "name"), *file = parameter(line, "filename");
            if (name)
                terminate_value(name);
            if (file)
                terminate_value(file);
            part->name = name;
            part->file_name = file;
        }
        line = next;
    }
    if (!part->name || !utf8_valid(part->name, strlen(part->name)))
        return -EINVAL;
    return 0;
}

static int
read_boundary(const char *content_type, char *out, size_t out_size)
{
    char copy[256];
    if (str_copy(copy, sizeof(copy), content_type) < 0)
        return -EINVAL;
    char *boundary = parameter(copy, "boundary");
    if (!boundary)
        return -EINVAL;
    terminate_value(boundary);
    if (!*boundary || strlen(boundary) > BOUNDARY_MAX)
        return -EINVAL;
    int n = snprintf(out, out_size, "\r\n--%s", boundary);
    return n > 0 && (size_t)n < out_size ? n : -EINVAL;
}

int
api_form_split(const char *content_type, char *body, size_t n, struct api_form_entry *parts,
               size_t max_parts, size_t *ret_n)
{
    char mark[BOUNDARY_MAX + 8];
    int mark_len = read_boundary(content_type, mark, sizeof(mark));
    if (mark_len < 0)
        return mark_len;
    size_t len = (size_t)mark_len, n_parts = 0;
    char *at = body, *end = body + n;
    /* The first boundary may stand at the very beginning, without its CRLF. */
    if (n >= len - 2 && memcmp(body, mark + 2, len - 2) == 0) {
        at = body + len - 2;
    } else {
        at = memmem(body, n, mark, len);
        if (!at)
            return -EINVAL;
        at += len;
    }
    for (;;) {
        if (end - at >= 2 && at[0] == '-' && at[1] == '-')
            break;
        if (end - at < 2 || at[0] != '\r' || at[1] != '\n')
            return -EINVAL;
        char *head = at + 2;
        char *blank = memmem(at, (size_t)(end - at), "\r\n\r\n", 4);
        if (!blank)
            return -EINVAL;
        char *value = blank + 4;
        char *stop = memmem(blank + 2, (size_t)(end - blank - 2), mark, len);
        if (!stop || (stop < value && stop != blank + 2))
            return -EINVAL;
        if (n_parts == max_parts)
            return -E2BIG;
        struct api_form_entry *part = &parts[n_parts];
        *part = (struct api_form_entry){ .bytes = value };
        if (memchr(at, 0, (size_t)(blank - at)))
            return -EINVAL;
        *blank = '\0';
        int r = head < blank ? read_headers(head, part) : -EINVAL;
        if (r < 0)
            return r;
        part->n = stop > value ? (size_t)(stop - value) : 0;
        n_parts++;
        at = stop + len;
    }
    *ret_n = n_parts;
    return 0;
}

static int
read_spooled(struct api_call *call, const char *path, char **ret_bytes, size_t *ret_n)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    struct stat st;
    int r = fstat(fd, &st) < 0 ? -errno : 0;
    if (r == 0 && (st.st_size < 0 || st.st_size > FORM_MAX))
        r = -E2BIG;
    char *bytes = r == 0 ? api_alloc(call, (size_t)st.st_size + 1) : NULL;
    if (r == 0 && !bytes)
        r = -ENOMEM;
    for (size_t done = 0; r == 0 && done < (size_t)st.st_size;) {
        ssize_t got = read(fd, bytes + done, (size_t)st.st_size - done);
        if (got <= 0)
            r = got < 0 ? -errno : -EIO;
        else
            done += (size_t)got;
    }
    (void)close(fd); /* was only read */
    if (r == 0) {
        *ret_bytes = bytes;
        *ret_n = (size_t)st.st_size;
    }
    return r;
}

int
api_form_load(struct api_call_private *p)
{
    const struct bus_request *rq = p->call.request;
    char path[PATH_MAX], type[256];
    if (spool_path(p->call.svc->spool_dir, rq->body.p, rq->body.len, path, sizeof(path)) < 0 ||
        str_copy_len(type, sizeof(type), rq->content_type.p, rq->content_type.len) < 0)
        return -EINVAL;
    char *bytes = NULL;
    size_t size = 0;
    int r = read_spooled(&p->call, path, &bytes, &size);
    (void)unlink(path); /* ours now, whether or not it could be read */
    if (bytes) /* it could be read */
        r = api_form_split(type, bytes, size, p->parts, ARRAY_LEN(p->parts), &p->n_parts);
    return r;
}

int
api_form_part(const struct api_call *call, const char *name, const char **ret_file_name,
              const char **ret_bytes, size_t *ret_n)
{
    const struct api_call_private *p = api_private(call);
    for (size_t i = 0; i < p->n_parts; i++)
        if (str_eq(p->parts[i].name, name)) {
            *ret_file_name = p->parts[i].file_name;
            *ret_bytes = p->parts[i].bytes;
            *ret_n = p->parts[i].n;
            return 0;
        }
    return -ENOENT;
}

char *
api_form_edit(struct api_call *call, const char *name, size_t *ret_n)
{
    struct api_call_private *p = api_private(call);
    for (size_t i = 0; i < p->n_parts; i++)
        if (str_eq(p->parts[i].name, name)) {
            *ret_n = p->parts[i].n;
            return p->parts[i].bytes;
        }
    return NULL;
}

void
api_form_wipe(struct api_call *call, const char *name)
{
    struct api_call_private *p = api_private(call);
    for (size_t i = 0; i < p->n_parts; i++)
        if (str_eq(p->parts[i].name, name))
            explicit_bzero(p->parts[i].bytes, p->parts[i].n);
}
