/*
 * Requests that the front door refused become audit records: all of a report
 * in one transaction, or none and it is made again. How many there can be is
 * bounded by who gathers them (gateway/refusal_table.h).
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <string.h>

#include "libcommon/audit.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "proto/internal.h"
#include "services/authd/authd.h"

#include "libcommon/banned.h"

enum { REPORT_MAX = 64 };

/* 0 or -EBADMSG. 'message' (AUDIT_MESSAGE_MAX) is what the record says. */
static int
read_refusal(const cJSON *item, char *message, struct audit_record *ret_record)
{
    const char *operation = json_text(json_get(item, "operation"));
    const char *reason = json_text(json_get(item, "reason"));
    const char *id = json_text(json_get(item, "requestId"));
    struct audit_record record = {
        .event = "accessRefused",
        .message = message,
        .detail = "",
        .source = json_text(json_get(item, "source")),
        .addr = json_text(json_get(item, "addr")),
    };
    uint64_t more = 0;
    uint8_t bytes[8];
    if (!operation || !reason || !record.source || !record.addr || !id ||
        hex_decode(id, strlen(id), bytes, sizeof(bytes)) != 8 ||
        json_u64(json_get(item, "more"), &more) < 0 ||
        json_i64(json_get(item, "at"), &record.at_us) < 0 || (more == 0 && !operation[0]))
        return -EBADMSG;
    record.request_id = get_u64(bytes);
    if (more == 0)
        (void)snprintf(message, AUDIT_MESSAGE_MAX, "%s refused: %s", operation,
                       reason); /* this and the next may cut */
    else if (operation[0])
        (void)snprintf(message, AUDIT_MESSAGE_MAX, "%llu more: %s refused: %s",
                       (unsigned long long)more, operation, reason);
    else
        (void)snprintf(message, AUDIT_MESSAGE_MAX, "%llu more requests refused",
                       (unsigned long long)more);
    *ret_record = record;
    return 0;
}

static int
record_all(struct authd *a, const cJSON *list)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > REPORT_MAX)
        return -EBADMSG;
    int r = store_begin(a->svc->store, &txn);
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        char message[AUDIT_MESSAGE_MAX];
        struct audit_record record;
        if (r == 0)
            r = read_refusal(item, message, &record);
        if (r == 0)
            r = audit_put(a->svc->outbox, txn, &record);
    }
    if (r == 0)
        r = store_commit(MOVE_PTR(txn));
    if (r == 0)
        audit_kick(a->svc->outbox);
    return r;
}

void
authd_auth_refused(void *self, struct bus_incoming *in)
{
    struct authd *a = self;
    const struct bus_request *rq = bus_incoming_request(in);
    CLEANUP(json_freep) cJSON *tree = NULL;
    struct json_error e;
    int r = -EBADMSG;
    if (rq->body_kind == BUS_BODY_JSON && json_parse(rq->body.p, rq->body.len, &tree, &e) == 0)
        r = record_all(a, json_get(tree, "refused"));
    if (r < 0 && r != -EBADMSG)
        log_err("authd: refused requests are not recorded yet error=%s", strerror(-r));
    bus_answer_status(in, r == 0 ? API_OK : r == -EBADMSG ? API_INVALID : API_UNAVAILABLE);
}
