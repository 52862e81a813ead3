/*
 * fieldgatectl tags watch: values of tags, line by line.
 */
#include <string.h>

#include "libcommon/str.h"
#include "services/fieldgatectl/args.h"
#include "services/fieldgatectl/ctl.h"
#include "services/fieldgatectl/peer.h"
#include "services/fieldgatectl/watch.h"

#include "libcommon/banned.h"

enum { WORDS_MAX = 1000 };

struct words {
    const char *what[WORDS_MAX];
    size_t n;
    const char *interval;
    bool changed, json;
};

static int
take_words(struct ctl *ctl, struct args *args, struct words *w)
{
    for (enum args_kind kind; (kind = args_next(args)) != ARGS_END;) {
        if (kind == ARGS_WORD && w->n < WORDS_MAX)
            w->what[w->n++] = args->text;
        else if (kind == ARGS_WORD ||
                 !(args_take(args, "interval", &w->interval) ||
                   args_flag(args, "changed", &w->changed) ||
                   args_flag(args, "json", &w->json) || args_common(args, ctl)) ||
                 args->faulty)
            return args_unexpected(args, kind);
    }
    if (w->n == 0 || !str_eq(w->what[0], "watch") || (w->changed && w->interval != NULL)) {
        complain("it is 'fieldgatectl tags watch [PROVIDER/SOURCE[/TAG]]... "
                 "[--interval MS|--changed] [--json]'");
        return CTL_USAGE;
    }
    return CTL_OK;
}

static int
watch(const struct peer *peer, const struct words *words)
{
    struct watch *w = watch_new(peer, words->interval, words->json);
    if (w == NULL)
        return out_of_memory();
    int code = CTL_OK;
    for (size_t i = 1; i < words->n && code == CTL_OK; i++)
        code = watch_add(w, words->what[i]);
    if (words->n == 1)
        code = watch_add_all(w);
    if (code == CTL_OK)
        code = watch_run(w);
    watch_free(w);
    return code;
}

int
ctl_tags(struct ctl *ctl, struct args *args)
{
    struct words words = { .n = 0 };
    struct peer peer;
    int code = take_words(ctl, args, &words);
    if (code != CTL_OK)
        return code;
    code = peer_load(ctl, &peer);
    if (code == CTL_OK)
        code = peer_need(&peer, true);
    if (code == CTL_OK)
        code = watch(&peer, &words);
    peer_done(&peer);
    return code;
}
