/*
 * Bodies of requests. See body.h.
 */
#include "services/fieldgatectl/body.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/fieldgatectl/ctl.h"
#include "services/fieldgatectl/ops.h"
#include "services/fieldgatectl/sig.h"

#include "libcommon/banned.h"

enum { READ_SIZE = 8192, NAME_SIZE = 64 };

/* ---- --body ---- */

static int
read_all(int fd, struct buf *b)
{
    for (;;) {
        int r = sig_wait(fd, POLLIN);
        if (r < 0)
            return r;
        char bytes[READ_SIZE];
        ssize_t got = read(fd, bytes, sizeof(bytes));
        if (got < 0 && errno != EINTR && errno != EAGAIN)
            return -errno;
        if (got == 0)
            return 0;
        if (got > 0)
            buf_put(b, bytes, (size_t)got);
        if (b->err < 0)
            return b->err;
    }
}

static int
read_fault(const char *name, int r, const struct buf *b)
{
    if (r == -EINTR)
        return CTL_SIGNAL + sig_taken();
    if (r == -E2BIG)
        complain("%s is larger than the %zu bytes that the operation takes", name, b->max);
    else
        complain("cannot read %s: %s", name, strerror(-r));
    return r == -E2BIG ? CTL_USAGE : CTL_LOCAL;
}

int
body_read(const char *from, struct buf *b)
{
    if (str_eq(from, "-")) {
        int r = read_all(STDIN_FILENO, b);
        return r < 0 ? read_fault("stdin", r, b) : CTL_OK;
    }
    if (from[0] != '@') {
        buf_puts(b, from);
        return b->err < 0 ? read_fault("the body", b->err, b) : CTL_OK;
    }
    int fd = open(from + 1, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int r = fd < 0 ? -errno : read_all(fd, b);
    if (fd >= 0)
        (void)close(fd); /* was only read */
    return r < 0 ? read_fault(from + 1, r, b) : CTL_OK;
}

/* ---- --set ---- */

static cJSON *
parse(const char *text)
{
    cJSON *tree = NULL;
    struct json_error error;
    return json_parse(text, strlen(text), &tree, &error) == 0 ? tree : NULL;
}

/* One value; NULL: none of that type, or no memory. */
static cJSON *
value_of(const struct api_field *f, const char *text)
{
    if ((f->flags & API_F_NULLABLE) && str_eq(text, "null"))
        return cJSON_CreateNull();
    if (f->type == API_T_STRING || f->type == API_T_ENUM)
        return cJSON_CreateString(text);
    cJSON *tree = parse(text);
    if (tree == NULL && f->type == API_T_RAW)
        return cJSON_CreateString(text); /* no JSON: then it is a text */
    return tree;
}

static cJSON *
list_of(const struct api_field *f, const char *text)
{
    if (text[0] == '[' || f->type == API_T_OBJECT)
        return parse(text);
    cJSON *list = cJSON_CreateArray();
    while (list != NULL && text[0] != '\0') {
        size_t len = strcspn(text, ",");
        char *one = strndup(text, len);
        cJSON *value = one == NULL ? NULL : value_of(f, one);
        free(one);
        if (value == NULL || !cJSON_AddItemToArray(list, value)) {
            cJSON_Delete(value);
            cJSON_Delete(list);
            return NULL;
        }
        text += len + (text[len] == ',');
    }
    return list;
}

/* Only the name is shown: the value may be a secret, and stderr a log. */
static int
name_len(const char *assignment)
{
    return (int)strcspn(assignment, "=");
}

static int
unknown_member(const struct ctl_op *op, const struct api_desc *desc, const char *name,
               const char *assignment)
{
    if (desc == NULL) {
        complain("--set %.*s: what is before '.%s' has no members", name_len(assignment),
                 assignment, name);
        return CTL_USAGE;
    }
    complain("--set %.*s: there is no member %s that can be set; there are:",
             name_len(assignment), assignment, name);
    for (size_t i = 0; i < desc->n_fields; i++)
        if (!(desc->fields[i].flags & API_F_READ_ONLY))
            say("  %s\n", desc->fields[i].name);
    say("See 'fieldgatectl help %s'.\n", op->name);
    return CTL_USAGE;
}

/* The object 'name' in 'tree', made when it is not there; NULL: no memory. */
static cJSON *
enter(cJSON *tree, const char *name)
{
    cJSON *at = cJSON_GetObjectItemCaseSensitive(tree, name);
    return at != NULL ? at : cJSON_AddObjectToObject(tree, name);
}

static int
put_value(const struct api_field *f, const char *text, const char *assignment, cJSON *tree)
{
    if (cJSON_GetObjectItemCaseSensitive(tree, f->name) != NULL) {
        complain("--set %.*s: %s is set twice", name_len(assignment), assignment, f->name);
        return CTL_USAGE;
    }
    if (f->flags & API_F_WRITE_ONLY)
        complain(
            "every user of this computer can see %s in an argument; --body @FILE or - hides it",
            f->name);
    cJSON *value = f->flags & API_F_ARRAY ? list_of(f, text) : value_of(f, text);
    if (value == NULL) {
        char limits[600];
        ops_limits(f, limits, sizeof(limits));
        complain("--set %.*s: the value is to be %s", name_len(assignment), assignment, limits);
        return CTL_USAGE;
    }
    if (cJSON_AddItemToObject(tree, f->name, value))
        return CTL_OK;
    cJSON_Delete(value);
    return out_of_memory();
}

int
body_set(const struct ctl_op *op, const char *assignment, struct cJSON *tree)
{
    const char *equals = strchr(assignment, '='), *at = assignment;
    const struct api_desc *desc = op->body_desc;
    if (equals == NULL) {
        complain("--set %s: it is --set member=value", assignment);
        return CTL_USAGE;
    }
    for (;;) {
        char name[NAME_SIZE];
        size_t len = strcspn(at, ".=");
        const struct api_field *f = NULL;
        if (str_copy_len(name, sizeof(name), at, len) == 0)
            f = ops_field(desc, name);
        if (f == NULL || (f->flags & API_F_READ_ONLY))
            return unknown_member(op, desc, name, assignment);
        at += len;
        if (at == equals)
            return put_value(f, equals + 1, assignment, tree);
        at++;
        desc = f->flags & API_F_ARRAY ? NULL : f->sub;
        tree = enter(tree, name);
        if (tree == NULL)
            return out_of_memory();
        if (!cJSON_IsObject(tree)) {
            complain("--set %.*s: %s is set twice", name_len(assignment), assignment, name);
            return CTL_USAGE;
        }
    }
}
