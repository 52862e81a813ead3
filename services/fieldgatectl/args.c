/*
 * Command lines. See args.h.
 */
#include "services/fieldgatectl/args.h"

#include <stddef.h>
#include <string.h>

#include "libcommon/str.h"
#include "services/fieldgatectl/ctl.h"

#include "libcommon/banned.h"

void
args_init(struct args *a, int argc, const char *const *argv)
{
    *a = (struct args){ .n = argc, .v = argv };
}

/* The name of an option, up to '='. */
static void
split(struct args *a, const char *word)
{
    size_t len = strcspn(word, "=");
    a->text = word[len] == '=' ? word + len + 1 : NULL;
    /* A longer name is none of ours: it is shown whole. */
    a->name =
        str_copy_len(a->name_buf, sizeof(a->name_buf), word, len) == 0 ? a->name_buf : word;
}

enum args_kind
args_next(struct args *a)
{
    if (a->at == a->n)
        return ARGS_END;
    const char *word = a->v[a->at++];
    a->name = NULL;
    a->text = word;
    if (a->only_words || word[0] != '-' || word[1] == '\0')
        return ARGS_WORD;
    if (str_eq(word, "--")) {
        a->only_words = true;
        return args_next(a);
    }
    split(a, word[1] == '-' ? word + 2 : word + 1);
    if (word[1] != '-' && str_eq(a->name, "o"))
        a->name = "output";
    else if (word[1] != '-' && str_eq(a->name, "h"))
        a->name = "help";
    else if (word[1] != '-')
        a->name = word; /* with its dash, which no long option has */
    return ARGS_OPTION;
}

const char *
args_value(struct args *a)
{
    if (a->text == NULL && a->at < a->n)
        a->text = a->v[a->at++];
    if (a->text == NULL) {
        complain("option --%s needs a value", a->name);
        a->faulty = true;
    }
    return a->text;
}

const char *
args_bool_value(struct args *a)
{
    if (a->text == NULL && a->at < a->n &&
        (str_eq(a->v[a->at], "true") || str_eq(a->v[a->at], "false")))
        a->text = a->v[a->at++];
    return a->text != NULL ? a->text : "true";
}

bool
args_take(struct args *a, const char *name, const char **ret_value)
{
    if (!str_eq(a->name, name))
        return false;
    const char *value = args_value(a);
    if (value != NULL && *ret_value != NULL) {
        complain("option --%s is given twice", name);
        a->faulty = true;
    }
    *ret_value = value;
    return true;
}

bool
args_flag(struct args *a, const char *name, bool *ret_flag)
{
    if (!str_eq(a->name, name))
        return false;
    if (a->text != NULL) {
        complain("option --%s has no value", name);
        a->faulty = true;
    }
    *ret_flag = true;
    return true;
}

bool
args_common(struct args *a, struct ctl *ctl)
{
    return args_take(a, "profile", &ctl->profile) || args_take(a, "url", &ctl->url) ||
           args_take(a, "cacert", &ctl->cacert) ||
           args_take(a, "fingerprint", &ctl->fingerprint) || args_flag(a, "raw", &ctl->raw);
}

int
args_unexpected(const struct args *a, enum args_kind kind)
{
    if (a->faulty)
        return CTL_USAGE;
    if (kind == ARGS_WORD)
        complain("what is '%s' for? See 'man fieldgatectl'", a->text);
    else
        complain("there is no option %s%s here; see 'man fieldgatectl'",
                 a->name[0] == '-' ? "" : "--", a->name);
    return CTL_USAGE;
}
