/*
 * Short-lived tokens of a session, for what a program hands on to a part that
 * it trusts less: a WebSocket library, a page with an event stream. Such a
 * token is its session's owner and ends with the session, or after 15 minutes;
 * it cannot make another.
 */
#include <errno.h>
#include <string.h>

#include "libcommon/clock.h"
#include "services/authd/authd.h"

#include "libcommon/banned.h"

static void
token_committed(void *self, void *arg)
{
    sessions_set_tokens(self, arg, SESSION_TOKEN_LIFE_US);
}

/* The session as it will be in the store: without tokens that are over, with room for one. */
static enum api_status
make_room(struct authd *a, struct api_call *call, const struct live_session *s,
          struct session_record *ret_record)
{
    *ret_record = s->record;
    ret_record->n_tokens = 0;
    for (size_t i = 0; i < s->record.n_tokens; i++)
        if (s->token_end_mono_us[i] > mono_us(a))
            ret_record->tokens[ret_record->n_tokens++] = s->record.tokens[i];
    return ret_record->n_tokens < SESSION_TOKENS_MAX
               ? API_OK
               : api_fail(call, API_FORBIDDEN, NULL,
                          "token creation failed: maximum token limit of the session reached");
}

enum api_status
authd_put_auth_websocket_token(struct authd *self, struct api_call *call,
                               struct websocket_token *reply)
{
    struct user_record user;
    uint64_t permissions;
    struct session_record *record = api_alloc(call, sizeof(*record));
    struct store_txn *txn = api_txn(call);
    const struct live_session *s = sessions_find(self, (uint64_t)call->who->session_id);
    if (!txn || !record)
        return API_INTERNAL;
    if (!s || !sessions_is_live(self, s))
        return api_fail(call, API_UNAUTHENTICATED, NULL, "authentication required");
    enum api_status status = make_room(self, call, s, record);
    if (status == API_OK)
        status = account_of_caller(call, txn, &user);
    if (status != API_OK)
        return status;
    int64_t now_us = clock_wall_us();
    struct session_token *token = &record->tokens[record->n_tokens++];
    token->end_us = now_us + SESSION_TOKEN_LIFE_US;
    struct jwt_claims claims = {
        .user_id = (int64_t)user.id,
        .session_id = (int64_t)record->id,
        .name = user.name,
        .iat = now_us / 1000000,
        .exp = token->end_us / 1000000,
    };
    int r = user_permissions(txn, &user, &permissions);
    if (r == 0)
        r = token_make(self, call, &claims, permissions, token->hash, &reply->token);
    if (r == 0)
        r = session_put(txn, record);
    if (r < 0)
        return api_fail_errno(call, r, "cannot save the token");
    reply->expires_at = time_text(call, token->end_us, 0);
    api_audit_message(call, "Short-lived token made by %s", call->who->name);
    api_after_commit(call, token_committed, record);
    return API_OK;
}
