/*
 * What becomes of an answer. See reply.h.
 */
#include "services/fieldgatectl/reply.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/fieldgatectl/ctl.h"
#include "services/fieldgatectl/peer.h"
#include "services/fieldgatectl/sig.h"

#include "libcommon/banned.h"

void
reply_init(struct reply *r, const char *file, bool raw)
{
    *r = (struct reply){ .file = file, .raw = raw, .out.fd = -1 };
    buf_init(&r->refusal, REPLY_REFUSAL_MAX);
}

void
reply_done(struct reply *r)
{
    if (r->has_out)
        out_abandon(&r->out);
    buf_done(&r->refusal);
}

static bool
is_type(const char *type, const char *wanted)
{
    size_t n = strlen(wanted);
    return strncasecmp(type, wanted, n) == 0 &&
           (wanted[n - 1] == '/' || strchr("; \t", type[n]) != NULL);
}

static int
open_file(struct reply *r)
{
    int error = out_file(&r->out, r->file);
    if (error < 0) {
        r->code = out_failed(&r->out, error);
        return error;
    }
    r->has_out = true;
    show_init(&r->show, &r->out, SHOW_RAW);
    return 0;
}

static int
open_stdout(struct reply *r, const char *type)
{
    out_stdout(&r->out);
    bool is_json = is_type(type, "application/json");
    bool is_text = is_json || is_type(type, "text/") || type[0] == '\0';
    if (r->out.is_terminal && !is_text) {
        complain(
            "the answer is binary (%s) and would spoil the terminal: give -o FILE, or a pipe",
            type);
        r->code = CTL_USAGE;
        return -EINVAL;
    }
    r->has_out = true;
    show_init(&r->show, &r->out,
              !r->out.is_terminal  ? SHOW_RAW
              : is_json && !r->raw ? SHOW_JSON
                                   : SHOW_TEXT);
    return 0;
}

int
reply_head(void *arg, int status, const char *type)
{
    struct reply *r = arg;
    r->is_refusal = status < 200 || status >= 300;
    r->is_stream = !r->is_refusal && is_type(type, "text/event-stream");
    if (r->is_refusal)
        return 0;
    return r->file != NULL ? open_file(r) : open_stdout(r, type);
}

int
reply_data(void *arg, const char *bytes, size_t n)
{
    struct reply *r = arg;
    if (r->is_refusal) {
        size_t room = r->refusal.max - r->refusal.len;
        buf_put(&r->refusal, bytes, n < room ? n : room);
        return 0;
    }
    show_put(&r->show, bytes, n);
    if (r->is_stream)
        out_flush(&r->out);
    return r->out.err;
}

/* ---- refusals ---- */

static void
tell_detail(const struct cJSON *detail)
{
    const char *pointer = json_text(json_get(detail, "pointer"));
    const char *message = json_text(json_get(detail, "message"));
    if (pointer != NULL)
        say("  %s%s%s\n", pointer, message != NULL ? ": " : "", message != NULL ? message : "");
}

int
reply_tell_refusal(const char *what, int status, const char *body, size_t len)
{
    CLEANUP(json_freep) struct cJSON *tree = NULL;
    struct json_error fault;
    const struct cJSON *error = NULL;
    if (body != NULL && json_parse(body, len, &tree, &fault) == 0)
        error = json_get(tree, "error");
    const char *message = json_text(json_get(error, "message"));
    complain("%s: %s (HTTP %d)", what, message != NULL ? message : "refused without a reason",
             status);
    const struct cJSON *details = json_get(error, "details");
    if (cJSON_IsArray(details))
        for (const struct cJSON *e = details->child; e != NULL; e = e->next)
            tell_detail(e);
    if (status != 401)
        return CTL_REFUSED;
    return CTL_SIGNED_OUT;
}

/* ---- the end ---- */

/* What came before the answer broke off is shown; a file is not left behind. */
static int
give_up(struct reply *r, const struct peer *peer, const struct http_transfer *t)
{
    if (r->has_out && r->file == NULL) {
        show_end(&r->show);
        out_flush(&r->out);
    }
    if (r->is_stream && t->result == HTTP_STOPPED && sig_taken() == SIGINT)
        return CTL_OK; /* a stream has no other end */
    return peer_failed(peer, t);
}

int
reply_finish(struct reply *r, const struct peer *peer, const struct http_transfer *t)
{
    if (r->code != CTL_OK)
        return r->code;
    if (r->has_out && r->out.err < 0 && r->out.err != -EINTR)
        return out_failed(&r->out, r->out.err);
    if (t->result != HTTP_DONE)
        return give_up(r, peer, t);
    if (r->is_refusal) {
        char what[600];
        (void)snprintf(what, sizeof(what), "%s %s", t->method, t->target); /* may be cut */
        int code = reply_tell_refusal(what, t->status, r->refusal.data, r->refusal.len);
        if (code == CTL_SIGNED_OUT)
            say("Sign in again: 'fieldgatectl sign-in'.\n");
        return code;
    }
    show_end(&r->show);
    return out_end(&r->out);
}
