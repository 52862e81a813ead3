/*
 * Requests. See request.h.
 */
#include "services/fieldgatectl/request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/str.h"
#include "services/fieldgatectl/ctl.h"
#include "services/fieldgatectl/out.h"

#include "libcommon/banned.h"

enum { IDLE_MIN_S = 30, IDLE_MORE_S = 15 };

void
request_init(struct request *rq, const struct ctl_op *op)
{
    *rq = (struct request){ .op = op };
    buf_init(&rq->body, op->body_max);
    buf_init(&rq->target, REQUEST_TARGET_MAX);
}

void
request_done(struct request *rq)
{
    for (size_t i = 0; i < rq->n_parts; i++)
        free(rq->part_names[i]);
    if (rq->body.data != NULL)
        explicit_bzero(rq->body.data, rq->body.len); /* may be a password */
    buf_done(&rq->body);
    buf_done(&rq->target);
}

int
request_value(struct request *rq, const char *name, const char *value)
{
    for (size_t i = 0; i < rq->n_values; i++)
        if (str_eq(rq->names[i], name)) {
            complain("--%s is given twice", name);
            return CTL_USAGE;
        }
    MUST(rq->n_values < REQUEST_VALUES_MAX); /* as many as an operation can have */
    rq->names[rq->n_values] = name;
    rq->values[rq->n_values++] = value;
    return CTL_OK;
}

/* ---- forms ---- */

static int
no_part(const struct ctl_op *op, const char *name)
{
    if (op->parts[0] == NULL) {
        complain("%s takes no form", op->name);
        return CTL_USAGE;
    }
    complain("the form of %s has no part %s; it has:", op->name, name);
    for (size_t i = 0; op->parts[i] != NULL; i++)
        say("  %s\n", op->parts[i]);
    return CTL_USAGE;
}

static bool
has_part(const struct ctl_op *op, const char *name)
{
    for (size_t i = 0; op->parts[i] != NULL; i++)
        if (str_eq(op->parts[i], name))
            return true;
    return false;
}

int
request_part(struct request *rq, const char *assignment, bool is_file)
{
    const char *option = is_file ? "file" : "field", *equals = strchr(assignment, '=');
    if (equals == NULL) {
        complain("--%s %s: it is --%s part=%s", option, assignment, option,
                 is_file ? "@path" : "value");
        return CTL_USAGE;
    }
    char *name = strndup(assignment, (size_t)(equals - assignment));
    if (name == NULL)
        return out_of_memory();
    bool twice = false;
    for (size_t i = 0; i < rq->n_parts; i++)
        twice = twice || str_eq(rq->parts[i].name, name);
    if (twice || !has_part(rq->op, name)) {
        int code = CTL_USAGE;
        if (twice)
            complain("part %s is given twice", name);
        else
            code = no_part(rq->op, name);
        free(name);
        return code;
    }
    const char *path = equals + 1 + (is_file && equals[1] == '@');
    rq->part_names[rq->n_parts] = name;
    rq->parts[rq->n_parts++] = (struct http_part){ .name = name,
                                                   .text = is_file ? NULL : equals + 1,
                                                   .path = is_file ? path : NULL };
    return CTL_OK;
}

/* ---- checks ---- */

static int
explain_fault(const struct request *rq, const struct api_fault *fault, bool in_body)
{
    if (fault->kind == API_FAULT_UNKNOWN)
        complain("%s: there is no member %s", rq->op->name, fault->message);
    else if (in_body)
        complain("%s: %s%sbody: %s", rq->op->name, fault->pointer,
                 fault->pointer[0] ? " of the " : "", fault->message);
    else
        complain("%s: --%s: %s", rq->op->name, fault->pointer + (fault->pointer[0] == '/'),
                 fault->message);
    say("See 'fieldgatectl help %s'.\n", rq->op->name);
    return CTL_USAGE;
}

static int
check_body(const struct request *rq)
{
    const struct ctl_op *op = rq->op;
    struct api_fault fault;
    bool takes_form = op->parts[0] != NULL, takes_json = op->body_desc != NULL;
    if (rq->n_parts > 0 || (!takes_json && !takes_form))
        return CTL_OK;
    if (rq->body.len == 0 && op->optional)
        return CTL_OK;
    if (rq->body.len == 0) {
        complain("%s needs %s%s%s; see 'fieldgatectl help %s'", op->name,
                 takes_json ? "a body: --body or --set" : "",
                 takes_json && takes_form ? ", or " : "",
                 takes_form ? "a form: --field or --file" : "", op->name);
        return CTL_USAGE;
    }
    int r = ops_check_body(op, rq->body.data, rq->body.len, &fault);
    if (r == -ENOMEM)
        return out_of_memory();
    return r < 0 ? explain_fault(rq, &fault, true) : CTL_OK;
}

static const char *
value_of(const struct request *rq, const char *name)
{
    for (size_t i = 0; i < rq->n_values; i++)
        if (str_eq(rq->names[i], name))
            return rq->values[i];
    return "";
}

/* The schema of some lets them be empty, but then it would be another path. */
static int
check_path(const struct request *rq)
{
    const struct api_desc *desc = rq->op->path_desc;
    for (size_t i = 0; desc != NULL && i < desc->n_fields; i++)
        if (value_of(rq, desc->fields[i].name)[0] == '\0') {
            complain("%s: --%s must not be empty", rq->op->name, desc->fields[i].name);
            return CTL_USAGE;
        }
    return CTL_OK;
}

static void
put_path(struct request *rq)
{
    struct buf *b = &rq->target;
    buf_puts(b, "/api/v1");
    size_t next = 0; /* path values are described in the order of the path */
    for (const char *p = rq->op->path; *p != '\0';) {
        size_t len = strcspn(p, "{");
        buf_put(b, p, len);
        p += len;
        if (*p == '{') {
            http_escape(b, value_of(rq, rq->op->path_desc->fields[next++].name));
            p += strcspn(p, "}") + 1;
        }
    }
}

/* Commas stay: a list is a comma list. */
static void
put_value(struct buf *b, const char *value)
{
    for (;;) {
        size_t len = strcspn(value, ",");
        char *one = strndup(value, len);
        if (one == NULL) {
            b->err = -ENOMEM;
            return;
        }
        http_escape(b, one);
        free(one);
        value += len;
        if (*value == '\0')
            return;
        buf_putc(b, *value++);
    }
}

static void
put_query(struct request *rq)
{
    char mark = '?';
    for (size_t i = 0; i < rq->n_values; i++) {
        if (ops_field(rq->op->path_desc, rq->names[i]) != NULL)
            continue;
        buf_putc(&rq->target, mark);
        buf_puts(&rq->target, rq->names[i]);
        buf_putc(&rq->target, '=');
        put_value(&rq->target, rq->values[i]);
        mark = '&';
    }
}

int
request_check(struct request *rq)
{
    const struct api_desc *const descs[] = { rq->op->path_desc, rq->op->query_desc };
    for (size_t i = 0; i < ARRAY_LEN(descs); i++) {
        struct api_fault fault;
        int r = ops_check_values(descs[i], rq->names, rq->values, rq->n_values, &fault);
        if (r == -ENOMEM)
            return out_of_memory();
        if (r < 0)
            return explain_fault(rq, &fault, false);
    }
    int code = check_path(rq);
    if (code == CTL_OK)
        code = check_body(rq);
    if (code != CTL_OK)
        return code;
    put_path(rq);
    put_query(rq);
    if (buf_text(&rq->target) != NULL)
        return CTL_OK;
    complain("%s: the values make a URL that is too long", rq->op->name);
    return CTL_USAGE;
}

void
request_transfer(const struct request *rq, struct http_transfer *t)
{
    unsigned idle_s = rq->op->timeout_ms / 1000 + IDLE_MORE_S;
    *t = (struct http_transfer){
        .method = rq->op->method,
        .target = rq->target.data,
        .body = rq->body.len > 0 ? rq->body.data : NULL,
        .body_len = rq->body.len,
        .parts = rq->n_parts > 0 ? rq->parts : NULL,
        .n_parts = rq->n_parts,
        .idle_s = rq->op->stream        ? HTTP_STREAM_IDLE_S
                  : idle_s < IDLE_MIN_S ? IDLE_MIN_S
                                        : idle_s,
    };
}

void
request_show(const struct request *rq, const char *base, struct out *out)
{
    out_puts(out, rq->op->method);
    out_puts(out, " ");
    out_puts(out, base);
    out_puts(out, rq->target.data);
    out_puts(out, "\n");
    for (size_t i = 0; i < rq->n_parts; i++) {
        out_puts(out, rq->parts[i].name);
        out_puts(out, rq->parts[i].path != NULL ? "=@" : "=");
        out_puts(out, rq->parts[i].path != NULL ? rq->parts[i].path : rq->parts[i].text);
        out_puts(out, "\n");
    }
    if (rq->body.len > 0) {
        out_put(out, rq->body.data, rq->body.len);
        out_puts(out, "\n");
    }
}
