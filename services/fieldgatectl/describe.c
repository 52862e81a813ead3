/*
 * fieldgatectl list and help: what the contract says.
 */
#include <string.h>
#include <strings.h>

#include "libcommon/buf.h"
#include "libcommon/str.h"
#include "services/fieldgatectl/args.h"
#include "services/fieldgatectl/ctl.h"
#include "services/fieldgatectl/ops.h"
#include "services/fieldgatectl/out.h"

#include "libcommon/banned.h"

enum { NAME_WIDTH = 28, METHOD_WIDTH = 7, DEPTH_MAX = 8 };

static void
put_padded(struct out *out, const char *text, size_t width)
{
    out_puts(out, text);
    for (size_t n = strlen(text); n < width; n++)
        out_puts(out, " ");
    out_puts(out, " ");
}

/* ---- list ---- */

static void
list_op(struct out *out, const struct ctl_op *op)
{
    out_puts(out, "  ");
    put_padded(out, op->name, NAME_WIDTH);
    put_padded(out, op->method, METHOD_WIDTH);
    out_puts(out, op->path);
    out_puts(out, "\n");
    out_puts(out, "      ");
    out_puts(out, op->summary);
    out_puts(out, "\n");
}

static int
no_section(const char *name)
{
    complain("there is no section like %s; there are:", name);
    for (size_t i = 0; i < ctl_n_ops; i++)
        if (i == 0 || !str_eq(ctl_ops[i].section, ctl_ops[i - 1].section))
            say("  %s\n", ctl_ops[i].section);
    return CTL_USAGE;
}

static bool
is_section(const char *name)
{
    for (size_t i = 0; i < ctl_n_ops; i++)
        if (strcasecmp(ctl_ops[i].section, name) == 0)
            return true;
    return false;
}

/* Those of the section of that name, or else of all whose names hold it. */
static int
list(const char *section)
{
    struct out out;
    const char *last = "";
    bool exact = section != NULL && is_section(section);
    out_stdout(&out);
    for (size_t i = 0; i < ctl_n_ops; i++) {
        const struct ctl_op *op = &ctl_ops[i];
        if (section != NULL &&
            (exact ? strcasecmp(op->section, section) != 0 : !ops_like(op->section, section)))
            continue;
        if (!str_eq(op->section, last)) {
            out_puts(&out, op->section);
            out_puts(&out, "\n");
        }
        last = op->section;
        list_op(&out, op);
    }
    return last[0] == '\0' ? no_section(section) : out_end(&out);
}

int
ctl_list(struct ctl *ctl, struct args *args)
{
    const char *section = NULL;
    for (enum args_kind kind; (kind = args_next(args)) != ARGS_END;) {
        if (kind == ARGS_WORD && section == NULL)
            section = args->text;
        else if (kind == ARGS_WORD || !args_common(args, ctl) || args->faulty)
            return args_unexpected(args, kind);
    }
    return list(section);
}

/* ---- help ---- */

static void
show_field(struct out *out, const struct api_desc *desc, const struct api_field *f,
           const char *before, unsigned depth)
{
    char limits[1200];
    ops_limits(f, limits, sizeof(limits));
    out_puts(out, "  ");
    for (unsigned i = 0; i < depth; i++)
        out_puts(out, "  ");
    out_puts(out, before);
    out_puts(out, f->name);
    out_puts(out, ": ");
    out_puts(out, limits);
    out_puts(out, f->flags & API_F_REQUIRED ? "; required" : "");
    out_puts(out, f->flags & API_F_WRITE_ONLY ? "; secret" : "");
    const char *doc = ops_doc(desc, f);
    out_puts(out, doc[0] != '\0' ? ". " : "");
    out_puts(out, doc);
    out_puts(out, "\n");
}

static void
show_fields(struct out *out, const struct api_desc *desc, const char *before, unsigned depth)
{
    for (size_t i = 0; desc != NULL && i < desc->n_fields; i++) {
        const struct api_field *f = &desc->fields[i];
        if (f->flags & API_F_READ_ONLY)
            continue;
        show_field(out, desc, f, before, depth);
        if (f->sub != NULL && depth < DEPTH_MAX)
            show_fields(out, f->sub, before, depth + 1);
    }
}

static void
show_body(struct out *out, const struct ctl_op *op)
{
    if (op->body_desc != NULL) {
        out_puts(out, "Members of the body");
        out_puts(out, op->partial
                          ? ", of which any subset may be sent, also of the required ones"
                      : op->many ? "; with --body also a list of such objects"
                                 : "");
        out_puts(out, ":\n");
        show_fields(out, op->body_desc, "", 0);
    }
    if (op->parts[0] != NULL)
        out_puts(out, "Parts of a form, with --field and --file:\n");
    for (size_t i = 0; op->parts[i] != NULL; i++) {
        out_puts(out, "  ");
        out_puts(out, op->parts[i]);
        out_puts(out, "\n");
    }
}

int
ops_show(const struct ctl_op *op)
{
    struct out out;
    out_stdout(&out);
    const char *const head[] = { op->name,        ": ",
                                 op->summary,     "\n",
                                 op->description, op->description[0] != '\0' ? "\n" : "",
                                 op->method,      " /api/v1",
                                 op->path,        "\nPermission: ",
                                 op->permission,  "\nAnswers ",
                                 op->reply,       "\n" };
    for (size_t i = 0; i < ARRAY_LEN(head); i++)
        out_puts(&out, head[i]);
    if (op->path_desc != NULL || op->query_desc != NULL)
        out_puts(&out, "Parameters:\n");
    show_fields(&out, op->path_desc, "--", 0);
    show_fields(&out, op->query_desc, "--", 0);
    show_body(&out, op);
    return out_end(&out);
}

int
ctl_help(struct ctl *ctl, struct args *args)
{
    const char *name = NULL;
    for (enum args_kind kind; (kind = args_next(args)) != ARGS_END;) {
        if (kind == ARGS_WORD && name == NULL)
            name = args->text;
        else if (kind == ARGS_WORD || !args_common(args, ctl) || args->faulty)
            return args_unexpected(args, kind);
    }
    if (name == NULL)
        return ctl_usage();
    const struct ctl_op *op = ops_find(name);
    if (op != NULL)
        return ops_show(op);
    ops_suggest(name);
    return CTL_USAGE;
}
