/*
 * fieldgatectl: the command line of the whole API. A client like any other;
 * what it knows of the operations is made from proto/api/ at build time.
 */
#include <fcntl.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/str.h"
#include "services/fieldgatectl/args.h"
#include "services/fieldgatectl/ctl.h"
#include "services/fieldgatectl/ops.h"
#include "services/fieldgatectl/out.h"
#include "services/fieldgatectl/reply.h"
#include "services/fieldgatectl/safe.h"
#include "services/fieldgatectl/sig.h"

#include "libcommon/banned.h"

enum { MESSAGE_MAX = REPLY_REFUSAL_MAX + 4096 };

static const char usage_text[] =
    "usage: fieldgatectl [OPTION...] COMMAND [WORD...]\n"
    "\n"
    "  sign-in [--url URL] [NAME]    begin a session, which later commands use\n"
    "  sign-out [--forget]           end it; forget: the device too\n"
    "  password                      change your own password\n"
    "  list [SECTION]                show the operations of the API\n"
    "  help OPERATION                show its parameters and its body\n"
    "  call OPERATION [--PARAMETER VALUE]... [--body JSON|@FILE|-]\n"
    "       [--set MEMBER=VALUE]... [--field PART=TEXT]... [--file PART=@PATH]...\n"
    "       [-o FILE] [--dry-run]\n"
    "                                run any of them\n"
    "  tags watch [PROVIDER/SOURCE[/TAG]]... [--interval MS|--changed] [--json]\n"
    "                                follow values\n"
    "  audit verify [--since ID:HASH]\n"
    "                                check that the audit log is unbroken\n"
    "\n"
    "Options of all: --profile NAME, --url URL, --cacert FILE, --fingerprint SHA256, --raw\n"
    "Passwords come from the terminal, --password-file FILE or --password-stdin, never\n"
    "from an argument: every user of the computer can see those.\n"
    "More: man fieldgatectl\n";

static const struct {
    const char *name;
    int (*run)(struct ctl *ctl, struct args *args);
} commands[] = {
    { "list", ctl_list },       { "help", ctl_help },         { "call", ctl_call },
    { "sign-in", ctl_sign_in }, { "sign-out", ctl_sign_out }, { "password", ctl_password },
    { "tags", ctl_tags },       { "audit", ctl_audit },
};

static void PRINTF_LIKE(3, 0)
    tell(const char *before, const char *after, const char *fmt, va_list list)
{
    struct buf text, safe;
    buf_init(&text, MESSAGE_MAX);
    buf_init(&safe, 6 * MESSAGE_MAX); /* of a byte becomes \uXXXX at most */
    buf_vprintf(&text, fmt, list);
    safe_lines(&safe, text.data, text.len, safe_ascii(STDERR_FILENO));
    fprintf(stderr, "%s%.*s%s", before, (int)safe.len, safe.len > 0 ? safe.data : "", after);
    buf_done(&text);
    buf_done(&safe);
}

void
complain(const char *fmt, ...)
{
    va_list list;
    va_start(list, fmt);
    tell("fieldgatectl: ", "\n", fmt, list);
    va_end(list);
}

void
say(const char *fmt, ...)
{
    va_list list;
    va_start(list, fmt);
    tell("", "", fmt, list);
    va_end(list);
}

int
out_of_memory(void)
{
    complain("out of memory");
    return CTL_LOCAL;
}

static int
print(const char *text)
{
    struct out out;
    out_stdout(&out);
    out_puts(&out, text);
    return out_end(&out);
}

int
ctl_usage(void)
{
    return print(usage_text);
}

/* 'call' knows better: it tells of its operation. */
static bool
wants_help(const struct args *args)
{
    for (int i = args->at; i < args->n && !str_eq(args->v[i], "--"); i++)
        if (str_eq(args->v[i], "--help") || str_eq(args->v[i], "-h"))
            return true;
    return false;
}

static int
run_command(struct ctl *ctl, struct args *args)
{
    if (!str_eq(args->text, "call") && wants_help(args))
        return ctl_usage();
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (str_eq(commands[i].name, args->text))
            return commands[i].run(ctl, args);
    complain("there is no command %s; see 'fieldgatectl --help'", args->text);
    return CTL_USAGE;
}

static int
run(struct ctl *ctl, struct args *args)
{
    bool help = false, version = false;
    for (enum args_kind kind; (kind = args_next(args)) != ARGS_END;) {
        if (kind == ARGS_WORD)
            return run_command(ctl, args);
        if (args_flag(args, "help", &help))
            return ctl_usage();
        if (args_flag(args, "version", &version))
            return print(ctl_version);
        if (!args_common(args, ctl) || args->faulty)
            return args_unexpected(args, kind);
    }
    say("%s", usage_text);
    return CTL_USAGE;
}

/* So that no file that is opened becomes one of them. */
static bool
has_standard_files(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR | O_NOCTTY) != fd)
            return false;
    return true;
}

int
main(int argc, char **argv)
{
    struct ctl ctl = { .profile = NULL };
    struct args args;
    static const struct rlimit none = { 0, 0 };
    (void)setlocale(LC_CTYPE, "");       /* else "C": only what a terminal takes hangs on it */
    (void)setrlimit(RLIMIT_CORE, &none); /* less is allowed always; a core has passwords */
    if (!has_standard_files() || sig_open() < 0) {
        complain("cannot start: no descriptors");
        return CTL_LOCAL;
    }
    args_init(&args, argc - 1, (const char *const *)argv + 1);
    return run(&ctl, &args);
}
