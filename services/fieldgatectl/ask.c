/*
 * Answers for the program. See ask.h.
 */
#include "services/fieldgatectl/ask.h"

#include <errno.h>
#include <string.h>

#include "libcommon/buf.h"
#include "libcommon/json.h"
#include "services/fieldgatectl/ctl.h"
#include "services/fieldgatectl/peer.h"
#include "services/fieldgatectl/reply.h"
#include "services/fieldgatectl/request.h"

#include "libcommon/banned.h"

static int
gather(void *arg, const char *bytes, size_t n)
{
    struct buf *b = arg;
    buf_put(b, bytes, n);
    return b->err;
}

static int
read_answer(const struct ctl_op *op, const struct http_transfer *t, const struct buf *b,
            struct cJSON **ret_answer)
{
    struct json_error error;
    if (t->status < 200 || t->status >= 300)
        return reply_tell_refusal(op->summary, t->status, b->data, b->len);
    *ret_answer = NULL;
    if (b->len == 0 || json_parse(b->data, b->len, ret_answer, &error) == 0)
        return CTL_OK;
    complain("%s: the answer is not what the contract says", op->name);
    return CTL_REFUSED;
}

static int
end(const struct peer *peer, const struct ctl_op *op, const struct http_transfer *t,
    const struct buf *b, struct cJSON **ret_answer)
{
    if (b->err == -E2BIG) {
        complain("%s: the answer is too large", op->name);
        return CTL_REFUSED;
    }
    if (b->err < 0)
        return out_of_memory();
    return t->result == HTTP_DONE ? read_answer(op, t, b, ret_answer) : peer_failed(peer, t);
}

int
ask(const struct peer *peer, struct request *rq, struct cJSON **ret_answer)
{
    int code = request_check(rq);
    if (code != CTL_OK)
        return code;
    CLEANUP(http_freep) struct http *http = http_new(&peer->http);
    struct http_transfer t;
    struct buf b;
    buf_init(&b, ASK_ANSWER_MAX);
    request_transfer(rq, &t);
    t.data = gather;
    t.arg = &b;
    code = http != NULL && http_ask(http, &t) ? end(peer, rq->op, &t, &b, ret_answer)
                                              : out_of_memory();
    if (b.data != NULL)
        explicit_bzero(b.data, b.len); /* may be a token */
    buf_done(&b);
    return code;
}
