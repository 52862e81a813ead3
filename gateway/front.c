/*
 * The way of a request through the gateway: own pages, route, sign-in,
 * permission, and on to its daemon. It knows no operation by name.
 */
#include "gateway/front.h"

#include <errno.h>
#include <string.h>

#include "gateway/auth.h"
#include "gateway/cors.h"
#include "gateway/docs.h"
#include "gateway/forward.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/https.h"
#include "gateway/metrics.h"
#include "gateway/refusals.h"
#include "gateway/route.h"
#include "libcommon/api.h"
#include "libcommon/log.h"
#include "libcommon/str.h"

#include "gen/permissions.h"

#include "libcommon/banned.h"

static const char base[] = "/api/v1/";

/* "<name>: GET, HEAD, OPTIONS\r\n" */
static void
put_methods(struct buf *b, const char *name, unsigned methods)
{
    buf_puts(b, name);
    buf_puts(b, ": ");
    for (int m = METHOD_GET; m < METHOD_N_ROUTED; m++) {
        if ((methods & 1u << m) == 0)
            continue;
        buf_puts(b, method_name((enum http_method)m));
        buf_puts(b, m == METHOD_GET ? ", HEAD, " : ", ");
    }
    buf_puts(b, "OPTIONS\r\n");
}

static void
answer_other_method(struct http_call *call, unsigned methods)
{
    bool is_question = call->method == METHOD_OPTIONS;
    struct buf b;
    buf_init(&b, 512);
    put_methods(&b, "Allow", methods);
    if (is_question && call->origin != NULL) {
        put_methods(&b, "Access-Control-Allow-Methods", methods);
        buf_puts(&b, CORS_PREFLIGHT);
    }
    struct http_reply options = { .status = 204, .headers = buf_text(&b) };
    if (is_question)
        (void)http_answer(call, &options);
    else
        (void)http_fail_method(call, buf_text(&b));
    buf_done(&b);
}

/* 'grant': who it is as far as known. False, so that callers can return it. */
static bool
refuse(struct http_call *call, const struct route *route, const struct auth_grant *grant,
       int status, const char *reason)
{
    refusals_note(call->gateway->refusals, &grant->who, call->addr, route, call->id, reason);
    (void)http_fail(call, status, status == 401 ? "authentication required" : reason);
    return false;
}

bool
front_sign_in_check(struct http_call *call, const struct route *route, struct auth_grant *grant)
{
    if (call->token == NULL)
        return refuse(call, route, grant, 401, "no token");
    switch (auth_check(call->gateway->auth, call->token, call->token_len, call->addr, grant)) {
    case AUTH_OK:
        break;
    case AUTH_BUSY:
        (void)http_fail(call, 503, "too many sign-ins are being checked");
        return false;
    case AUTH_AWAY:
        (void)http_fail_away(call, "authd");
        return false;
    case AUTH_REFUSED:
    default:
        return refuse(call, route, grant, 401, "the token is not good");
    }
    const char *refusal = auth_refusal(grant, route->permission);
    return refusal == NULL || refuse(call, route, grant, 403, refusal);
}

static void
refuse_query(struct http_call *call, int error, const char *reason)
{
    char message[160];
    char safe[96];
    if (error == -EEXIST)
        (void)snprintf(message, sizeof(message), "invalid input, err: %s is given twice",
                       log_safe(reason, safe, sizeof(safe)));
    else
        (void)snprintf(message, sizeof(message), "invalid input, err: %s", reason);
    (void)http_fail(call, 400, message);
}

static void
handle_route(struct http_call *call, const struct route_match *match)
{
    struct bus_str name[BUS_QUERY_MAX], value[BUS_QUERY_MAX];
    struct auth_grant grant = { .who = { .kind = BUS_WHO_NOBODY } };
    struct forward f = {
        .match = match, .query_name = name, .query_value = value, .grant = &grant
    };
    if (match->route->permission == API_PERMISSION_OPEN)
        (void)str_copy(grant.who.addr, sizeof(grant.who.addr), call->addr); /* fits */
    else if (!front_sign_in_check(call, match->route, &grant))
        return;
    if (call->query != NULL) {
        const char *reason = NULL;
        int n = route_query(call->query, call->worker->query, name, value, &reason);
        if (n < 0) {
            refuse_query(call, n, reason);
            return;
        }
        f.n_query = (unsigned)n;
    }
    forward_run(call, &f);
}

static void
redirect_to_https(struct http_call *call)
{
    char host[256], location[ROUTE_TARGET_MAX + 300];
    size_t len = call->host == NULL ? 0 : strcspn(call->host, ":");
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-";
    if (len == 0 || str_copy_len(host, sizeof(host), call->host, len) < 0 ||
        strspn(host, allowed) != len ||
        snprintf(location, sizeof(location), "Location: https://%s:%u%s%s%s\r\n", host,
                 https_port(call->gateway->https), call->path, call->query != NULL ? "?" : "",
                 call->query != NULL ? call->query : "") >= (int)sizeof(location)) {
        (void)http_fail(call, 400, "use https");
        return;
    }
    struct http_reply reply = { .status = 308, .headers = location };
    (void)http_answer(call, &reply);
}

/* /metrics: for signed-in or local scrapers. */
static void
handle_metrics(struct http_call *call)
{
    static const struct route route = { .method = "GET",
                                        .path = "/metrics",
                                        .permission = API_PERMISSION_SYS_MAINTENANCE_RW };
    struct auth_grant grant = { .who = { .kind = BUS_WHO_NOBODY } };
    if (call->method != METHOD_GET && call->method != METHOD_HEAD)
        answer_other_method(call, 1u << METHOD_GET);
    else if ((!call->secure && call->loopback && call->token == NULL) ||
             front_sign_in_check(call, &route, &grant))
        gateway_metrics_answer(call);
}

static bool
handle_own_page(struct http_call *call)
{
    bool metrics = str_eq(call->path, "/metrics");
    bool health = str_eq(call->path, "/healthz") && !call->secure;
    if (!metrics && !health && !docs_has(call->path))
        return false;
    if (metrics)
        handle_metrics(call);
    else if (call->method != METHOD_GET && call->method != METHOD_HEAD)
        answer_other_method(call, 1u << METHOD_GET);
    else if (health)
        gateway_metrics_answer_health(call);
    else
        docs_answer(call);
    return true;
}

void
front_handle(struct http_call *call)
{
    struct gateway *g = call->gateway;
    if (call->method == METHOD_OTHER) {
        (void)http_fail(call, 501, "method not implemented");
        return;
    }
    if (!call->secure && g->redirect_port != 0 && call->local_port == g->redirect_port) {
        redirect_to_https(call);
        return;
    }
    if (handle_own_page(call))
        return;

    struct route_path path;
    struct route_match match;
    const char *reason = NULL;
    if (route_split(call->path, call->worker->path, &path, &reason) < 0) {
        (void)http_fail(call, 400, reason);
        return;
    }
    if (strncmp(call->path, base, sizeof(base) - 1) != 0) {
        (void)http_fail(call, 404, "not found");
        return;
    }
    switch (route_find(g->routes, call->method, &path, 2, &match)) {
    case ROUTE_FOUND:
        handle_route(call, &match);
        break;
    case ROUTE_OTHER_METHOD:
        answer_other_method(call, match.methods);
        break;
    default:
        (void)http_fail(call, 404, "not found");
        break;
    }
}
