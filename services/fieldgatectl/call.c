/*
 * fieldgatectl call: any operation by its name. Words are gathered, checked
 * against the contract, and only then sent.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <string.h>

#include "libcommon/buf.h"
#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/fieldgatectl/args.h"
#include "services/fieldgatectl/body.h"
#include "services/fieldgatectl/ctl.h"
#include "services/fieldgatectl/http.h"
#include "services/fieldgatectl/ops.h"
#include "services/fieldgatectl/peer.h"
#include "services/fieldgatectl/reply.h"
#include "services/fieldgatectl/request.h"

#include "libcommon/banned.h"

/* ---- the words ---- */

struct words {
    const char *body, *file;
    bool dry_run, help;
    cJSON *set; /* of --set */
};

static int
no_parameter(const struct ctl_op *op, const char *name)
{
    complain("%s has no parameter %s%s", op->name, name[0] == '-' ? "" : "--", name);
    const struct api_desc *const descs[] = { op->path_desc, op->query_desc };
    for (size_t d = 0; d < ARRAY_LEN(descs); d++)
        for (size_t i = 0; descs[d] != NULL && i < descs[d]->n_fields; i++)
            say("  --%s\n", descs[d]->fields[i].name);
    say("See 'fieldgatectl help %s'.\n", op->name);
    return CTL_USAGE;
}

static int
take_parameter(struct request *rq, struct args *args)
{
    const char *name = args->name;
    const struct api_field *f = ops_field(rq->op->path_desc, name);
    if (f == NULL)
        f = ops_field(rq->op->query_desc, name);
    if (f == NULL)
        return no_parameter(rq->op, name);
    bool is_bool = f->type == API_T_BOOL && !(f->flags & API_F_ARRAY);
    const char *value = is_bool ? args_bool_value(args) : args_value(args);
    return value == NULL ? CTL_USAGE : request_value(rq, f->name, value);
}

static int
take_set(struct request *rq, struct words *w, const char *assignment)
{
    if (rq->op->body_desc == NULL) {
        complain("%s takes no JSON body", rq->op->name);
        return CTL_USAGE;
    }
    if (w->set == NULL)
        w->set = cJSON_CreateObject();
    return w->set == NULL ? out_of_memory() : body_set(rq->op, assignment, w->set);
}

static int
take_option(struct ctl *ctl, struct request *rq, struct words *w, struct args *args)
{
    const char *value = NULL;
    if (args_take(args, "set", &value))
        return value == NULL ? CTL_USAGE : take_set(rq, w, value);
    if (args_take(args, "field", &value))
        return value == NULL ? CTL_USAGE : request_part(rq, value, false);
    if (args_take(args, "file", &value))
        return value == NULL ? CTL_USAGE : request_part(rq, value, true);
    if (args_take(args, "body", &w->body) || args_take(args, "output", &w->file) ||
        args_flag(args, "dry-run", &w->dry_run) || args_flag(args, "help", &w->help) ||
        args_common(args, ctl))
        return args->faulty ? CTL_USAGE : CTL_OK;
    return take_parameter(rq, args);
}

static int
take_words(struct ctl *ctl, struct request *rq, struct words *w, struct args *args)
{
    for (enum args_kind kind; (kind = args_next(args)) != ARGS_END;) {
        int r = kind == ARGS_WORD ? args_unexpected(args, kind) : take_option(ctl, rq, w, args);
        if (r != CTL_OK)
            return r;
    }
    return CTL_OK;
}

/* ---- the body ---- */

static int
make_body(struct request *rq, const struct words *w)
{
    if (w->body != NULL && rq->op->body_desc == NULL) {
        complain("%s takes no JSON body", rq->op->name);
        return CTL_USAGE;
    }
    if ((w->body != NULL) + (w->set != NULL) + (rq->n_parts > 0) > 1) {
        complain("one of --body, --set and a form with --field and --file, not several");
        return CTL_USAGE;
    }
    if (w->body != NULL)
        return body_read(w->body, &rq->body);
    if (w->set != NULL)
        jw_tree(&rq->body, w->set);
    if (rq->body.err == -E2BIG)
        complain("the body is larger than the %zu bytes that the operation takes",
                 rq->body.max);
    return rq->body.err == 0 ? CTL_OK : rq->body.err == -E2BIG ? CTL_USAGE : out_of_memory();
}

/* ---- sending ---- */

static int
send_it(struct ctl *ctl, const struct request *rq, const struct words *w)
{
    struct peer peer;
    struct reply reply;
    int code = peer_load(ctl, &peer);
    if (code == CTL_OK)
        code = peer_need(&peer, !rq->op->is_open);
    reply_init(&reply, w->file, ctl->raw);
    if (code == CTL_OK) {
        CLEANUP(http_freep) struct http *http = http_new(&peer.http);
        struct http_transfer t;
        request_transfer(rq, &t);
        t.head = reply_head;
        t.data = reply_data;
        t.arg = &reply;
        code = http != NULL && http_ask(http, &t) ? reply_finish(&reply, &peer, &t)
                                                  : out_of_memory();
    }
    reply_done(&reply);
    peer_done(&peer);
    return code;
}

static int
show_it(struct ctl *ctl, const struct request *rq)
{
    struct peer peer;
    struct out out;
    int code = peer_load(ctl, &peer);
    if (code == CTL_OK) {
        out_stdout(&out);
        request_show(rq, peer.use.url, &out);
        code = out_end(&out);
    }
    peer_done(&peer);
    return code;
}

static int
run(struct ctl *ctl, struct request *rq, struct words *w, struct args *args)
{
    int r = take_words(ctl, rq, w, args);
    if (r == CTL_OK && w->help)
        return ops_show(rq->op);
    if (r == CTL_OK)
        r = make_body(rq, w);
    if (r == CTL_OK)
        r = request_check(rq);
    if (r != CTL_OK)
        return r;
    return w->dry_run ? show_it(ctl, rq) : send_it(ctl, rq, w);
}

int
ctl_call(struct ctl *ctl, struct args *args)
{
    if (args_next(args) != ARGS_WORD) {
        complain("which operation? 'fieldgatectl call OPERATION', see 'fieldgatectl list'");
        return CTL_USAGE;
    }
    const struct ctl_op *op = ops_find(args->text);
    if (op == NULL) {
        ops_suggest(args->text);
        return CTL_USAGE;
    }
    struct request rq;
    struct words w = { .body = NULL };
    request_init(&rq, op);
    int code = run(ctl, &rq, &w, args);
    cJSON_Delete(w.set);
    request_done(&rq);
    return code;
}
