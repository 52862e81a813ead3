/*
 * What sign-ins say of the integrity of this device's files: auditd checks
 * them and tells. It is kept in the store, so that a sign-in right after a
 * start says it too; none ever waits for auditd.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <string.h>

#include "libcommon/json.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "services/authd/authd.h"

#include "libcommon/banned.h"

static const char key[] = "integrity";
static const char *const names[] = {
    [INTEGRITY_OFF] = "off", [INTEGRITY_GOOD] = "good", [INTEGRITY_INSECURE] = "insecure"
};

int
integrity_load(struct authd *a, struct store_txn *txn)
{
    uint64_t n;
    int r = record_number(txn, key, &n);
    if (r == 0 && n < ARRAY_LEN(names))
        a->integrity = (enum integrity)n;
    return r;
}

void
integrity_show(const struct authd *a, struct auth_result *reply)
{
    reply->has_system_integrity_status = a->integrity != INTEGRITY_OFF;
    reply->system_integrity_status = a->integrity == INTEGRITY_GOOD
                                         ? AUTH_RESULT_SYSTEM_INTEGRITY_STATUS_GOOD
                                         : AUTH_RESULT_SYSTEM_INTEGRITY_STATUS_INSECURE;
}

static int
read_status(const struct bus_request *rq, enum integrity *ret_status)
{
    CLEANUP(json_freep) cJSON *tree = NULL;
    struct json_error e;
    if (rq->body_kind != BUS_BODY_JSON || json_parse(rq->body.p, rq->body.len, &tree, &e) < 0)
        return -EBADMSG;
    const char *text = json_text(json_get(tree, "status"));
    for (size_t i = 0; i < ARRAY_LEN(names) && text; i++)
        if (str_eq(text, names[i])) {
            *ret_status = (enum integrity)i;
            return 0;
        }
    return -EBADMSG;
}

static int
keep_status(struct authd *a, enum integrity status)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    uint8_t value[8];
    int r = store_begin(a->svc->store, &txn);
    if (r == 0)
        r = store_put(txn, DB_CONFIG, key, strlen(key), store_key_u64(value, status),
                      sizeof(value));
    return r < 0 ? r : store_commit(MOVE_PTR(txn));
}

void
authd_integrity_told(void *self, struct bus_incoming *in)
{
    struct authd *a = self;
    enum integrity status;
    if (read_status(bus_incoming_request(in), &status) < 0) {
        bus_answer_status(in, API_INVALID);
        return;
    }
    bool is_kept = a->integrity == status && !a->integrity_is_unkept;
    int r = is_kept ? 0 : keep_status(a, status);
    a->integrity = status; /* sign-ins tell the truth on a full disk, too */
    a->integrity_is_unkept = r < 0;
    if (r < 0)
        log_err("authd: cannot keep the state of integrity error=%s", strerror(-r));
    bus_answer_status(in, r == 0 ? API_OK : r == -ENOSPC ? API_NO_SPACE : API_INTERNAL);
}
