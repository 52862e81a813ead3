/*
 * The words of a command line, one after another: options "--name value",
 * "--name=value", "-o value", words, and "--", after which all are words.
 */
#ifndef FIELDGATE_CTL_ARGS_H
#define FIELDGATE_CTL_ARGS_H

#include <stdbool.h>

struct ctl;

struct args {
    int n, at; /* of 'v'; at: the next */
    const char *const *v;
    bool only_words; /* "--" was seen */
    /* the last one that args_next gave */
    const char *name; /* of an option, without dashes */
    const char *text; /* what follows '=', or the word */
    char name_buf[64];
    bool faulty; /* complained already: an option without its value, or with too many */
};

enum args_kind { ARGS_END, ARGS_WORD, ARGS_OPTION };

void args_init(struct args *a, int argc, const char *const *argv);
/* The next word or option. */
enum args_kind args_next(struct args *a);
/* The value of the option: after '=' or the word that follows. NULL: complained. */
const char *args_value(struct args *a);
/* As args_value, for one that stands alone too: then, or before another option, 'alone'. */
const char *args_bool_value(struct args *a);

/* Is it option 'name'? Then its value goes to *ret_value, once only. */
bool args_take(struct args *a, const char *name, const char **ret_value);
/* Is it option 'name', which has no value? Then *ret_flag is set. */
bool args_flag(struct args *a, const char *name, bool *ret_flag);
/* Is it one of the options that all commands have? */
bool args_common(struct args *a, struct ctl *ctl);
/* Complains of the option or word that nobody took; CTL_USAGE. */
int args_unexpected(const struct args *a, enum args_kind kind);

#endif
