/*
 * fieldgatectl audit verify: is the record of what was done unbroken?
 */
#include <string.h>

#include <cjson/cJSON.h>

#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/fieldgatectl/args.h"
#include "services/fieldgatectl/ask.h"
#include "services/fieldgatectl/ctl.h"
#include "services/fieldgatectl/out.h"
#include "services/fieldgatectl/peer.h"
#include "services/fieldgatectl/request.h"
#include "services/fieldgatectl/safe.h"

#include "libcommon/banned.h"

enum { ID_SIZE = 24 };

/* A number as the device wrote it, or a text; "?" for what is not there. */
static const char *
word(const struct cJSON *data, const char *name)
{
    const struct cJSON *item = json_get(data, name);
    const char *text = json_number(item);
    if (text == NULL)
        text = json_text(item);
    return text != NULL ? text : "?";
}

static int
tell_good(const struct cJSON *data)
{
    struct buf b, safe;
    struct out out;
    buf_init(&b, 4096);
    buf_init(&safe, 4096);
    buf_printf(
        &b, "%s records, ids %s..%s, chain good; head %s:%s (keep it, and check with --since)",
        word(data, "records"), word(data, "firstId"), word(data, "lastId"),
        word(data, "lastId"), word(data, "lastHash"));
    out_stdout(&out);
    safe_line(&safe, b.data, b.len, out.is_ascii);
    out_put(&out, safe.data, safe.len);
    out_puts(&out, "\n");
    int code = out_end(&out);
    if (b.err < 0 || safe.err < 0)
        code = out_of_memory();
    buf_done(&b);
    buf_done(&safe);
    return code;
}

static int
tell(const struct cJSON *answer)
{
    const struct cJSON *data = json_get(answer, "data"), *ok = json_get(data, "ok");
    if (cJSON_IsTrue(ok))
        return tell_good(data);
    if (cJSON_IsFalse(ok))
        complain("the audit log is not as it was written: record %s: %s", word(data, "badId"),
                 word(data, "reason"));
    else
        complain("the answer is not what the contract says");
    return CTL_REFUSED;
}

/* "ID:HASH" of an earlier run. */
static int
take_since(struct request *rq, const char *since, char id[ID_SIZE])
{
    size_t len = strcspn(since, ":");
    if (since[len] != ':' || str_copy_len(id, ID_SIZE, since, len) < 0) {
        complain("--since %s: it is ID:HASH, as an earlier 'audit verify' printed it", since);
        return CTL_USAGE;
    }
    int code = request_value(rq, "sinceId", id);
    return code == CTL_OK ? request_value(rq, "sinceHash", since + len + 1) : code;
}

static int
verify(struct ctl *ctl, const char *since)
{
    const struct ctl_op *op = ops_find("getAuditsVerify");
    if (op == NULL) {
        complain("the contract that this program was built with cannot verify the audit log");
        return CTL_USAGE;
    }
    char id[ID_SIZE];
    struct peer peer;
    struct request rq;
    struct cJSON *answer = NULL;
    request_init(&rq, op);
    int code = peer_load(ctl, &peer);
    if (code == CTL_OK && since != NULL)
        code = take_since(&rq, since, id);
    if (code == CTL_OK)
        code = peer_need(&peer, true);
    if (code == CTL_OK)
        code = ask(&peer, &rq, &answer);
    if (code == CTL_OK)
        code = tell(answer);
    json_free(answer);
    request_done(&rq);
    peer_done(&peer);
    return code;
}

int
ctl_audit(struct ctl *ctl, struct args *args)
{
    const char *what = NULL, *since = NULL;
    for (enum args_kind kind; (kind = args_next(args)) != ARGS_END;) {
        if (kind == ARGS_WORD && what == NULL)
            what = args->text;
        else if (kind == ARGS_WORD ||
                 !(args_take(args, "since", &since) || args_common(args, ctl)) || args->faulty)
            return args_unexpected(args, kind);
    }
    if (what == NULL || !str_eq(what, "verify")) {
        complain("it is 'fieldgatectl audit verify [--since ID:HASH]'");
        return CTL_USAGE;
    }
    return verify(ctl, since);
}
