/*
 * /system/httpserver: what clients send and see. The change itself is front.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "libcommon/str.h"
#include "services/sysd/sysd.h"

#include "libcommon/banned.h"

enum { PORT_HTTPS = 443, PORT_FREE_MIN = 1024, PEM_MAX = 64 * 1024, WORD_SIZE = 16 };
static const char shipped_cert[] = "thingspro_https_default.crt";
static const char shipped_key[] = "thingspro_https_default.key";
static const char *const cert_suffixes[] = { ".crt", ".cer", ".pem", NULL };
static const char *const key_suffixes[] = { ".key", ".pk", ".pem", NULL };

void
httpserver_show(const struct sysd *d, const struct wanted *w,
                struct httpserver_config *ret_config)
{
    const struct front_state *s = &d->front.state;
    *ret_config = (struct httpserver_config){
        .has_redirect_to_https = true,
        .redirect_to_https =
            w->redirect == REDIRECT_UNSET ? s->http_port != 0 : w->redirect == REDIRECT_ON,
        .has_https_enable = true,
        .https_enable = true,
        .has_http_port = true,
        .http_port = s->http_port,
        .has_https_port = true,
        .https_port = w->port != 0 ? w->port : s->default_port,
        .cert_file_name = w->cert_name[0] != '\0' ? w->cert_name : shipped_cert,
        .key_file_name = w->key_name[0] != '\0' ? w->key_name : shipped_key,
    };
}

enum api_status
sysd_get_system_httpserver(struct sysd *self, struct api_call *call,
                           struct httpserver_config *reply)
{
    if (!self->front.is_known)
        return api_fail(call, API_UNAVAILABLE, NULL, "the gateway has not told its state yet");
    httpserver_show(self, &self->wanted, reply);
    reply->fault = self->front.fault[0] != '\0' ? self->front.fault : NULL;
    return API_OK;
}

/* ---- a form ---- */

/* False: it was not sent. What is no word of ours, being too long or no text, is "". */
static bool
part_word(const struct api_call *call, const char *name, char ret_word[WORD_SIZE])
{
    const char *file_name, *bytes;
    size_t n;
    if (api_form_part(call, name, &file_name, &bytes, &n) < 0)
        return false;
    if (memchr(bytes, 0, n) != NULL || str_copy_len(ret_word, WORD_SIZE, bytes, n) < 0)
        ret_word[0] = '\0';
    return true;
}

static enum api_status
part_bool(struct api_call *call, const char *name, bool *ret_has, bool *ret_value)
{
    char word[WORD_SIZE];
    if (!part_word(call, name, word))
        return API_OK;
    *ret_value = str_eq(word, "true");
    *ret_has = true;
    if (*ret_value || str_eq(word, "false"))
        return API_OK;
    return api_fail(call, API_INVALID, api_printf(call, "/%s", name),
                    "true or false is expected");
}

static enum api_status
part_port(struct api_call *call, const char *name, bool *ret_has, int64_t *ret_value)
{
    char word[WORD_SIZE];
    if (!part_word(call, name, word))
        return API_OK;
    *ret_has = true;
    if (parse_i64(word, 1, 65535, ret_value) == 0)
        return API_OK;
    return api_fail(call, API_INVALID, api_printf(call, "/%s", name), "no port");
}

static bool
has_suffix(const char *name, const char *const *suffixes)
{
    size_t len = strlen(name);
    for (; *suffixes != NULL; suffixes++) {
        size_t n = strlen(*suffixes);
        if (len > n && strcasecmp(name + len - n, *suffixes) == 0)
            return true;
    }
    return false;
}

static bool
is_file_name(const char *name)
{
    size_t len = strlen(name);
    for (const char *p = name; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20 || *p == '/' || *p == '\\' || *p == 0x7f)
            return false;
    return len < FILE_NAME_SIZE && utf8_valid(name, len);
}

/* Whether it is any good, the gateway finds out. */
static enum api_status
part_file(struct api_call *call, const char *name, const char *const *suffixes,
          const char **ret_text, const char **ret_name)
{
    const char *bytes, *pointer = api_printf(call, "/%s", name);
    size_t n;
    if (api_form_part(call, name, ret_name, &bytes, &n) < 0)
        return API_OK;
    if (*ret_name == NULL || !is_file_name(*ret_name) || !has_suffix(*ret_name, suffixes))
        return api_fail(call, API_INVALID, pointer, "its name must end in %s, %s or %s",
                        suffixes[0], suffixes[1], suffixes[2]);
    if (n == 0 || n > PEM_MAX || memchr(bytes, 0, n) != NULL)
        return api_fail(call, API_INVALID, pointer, "no PEM file of at most %d bytes", PEM_MAX);
    *ret_text = api_printf(call, "%.*s", (int)n, bytes);
    return *ret_text != NULL ? API_OK : API_TOO_LARGE;
}

static enum api_status
read_form(struct api_call *call, struct change *c)
{
    struct httpserver_update *u = &c->update;
    enum api_status status =
        part_file(call, "certFile", cert_suffixes, &c->cert, &c->cert_name);
    if (status == API_OK)
        status = part_file(call, "keyFile", key_suffixes, &c->key, &c->key_name);
    if (status == API_OK)
        status = part_bool(call, "redirectToHttps", &u->has_redirect_to_https,
                           &u->redirect_to_https);
    if (status == API_OK)
        status = part_bool(call, "httpsEnable", &u->has_https_enable, &u->https_enable);
    if (status == API_OK)
        status = part_port(call, "httpsPort", &u->has_https_port, &u->https_port);
    if (status == API_OK)
        status = part_port(call, "httpPort", &u->has_http_port, &u->http_port);
    return status;
}

/* ---- a change ---- */

enum api_status
httpserver_resolve(struct sysd *d, struct change *c)
{
    const struct httpserver_update *u = &c->update;
    struct wanted *t = &c->target;
    if (!d->front.is_known)
        return api_fail(c->call, API_UNAVAILABLE, NULL,
                        "the gateway has not told its state yet");
    if (u->has_https_enable && !u->https_enable)
        return api_fail(c->call, API_INVALID, "/httpsEnable", "HTTPS cannot be turned off");
    if (u->has_http_port && u->http_port != d->front.state.http_port)
        return api_fail(c->call, API_INVALID, "/httpPort",
                        "the port of HTTP cannot be changed");
    if (u->has_https_port && u->https_port != PORT_HTTPS && u->https_port < PORT_FREE_MIN)
        return api_fail(c->call, API_INVALID, "/httpsPort", "443 or 1024..65535 is expected");
    *t = d->wanted;
    if (u->has_https_port)
        t->port = (uint16_t)u->https_port;
    if (u->has_redirect_to_https)
        t->redirect = u->redirect_to_https ? REDIRECT_ON : REDIRECT_OFF;
    if (c->cert != NULL) /* lengths were checked */
        (void)str_copy(t->cert_name, sizeof(t->cert_name), c->cert_name);
    if (c->key != NULL) /* as above */
        (void)str_copy(t->key_name, sizeof(t->key_name), c->key_name);
    return API_OK;
}

static enum api_status
change(struct sysd *d, struct api_call *call)
{
    struct change *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return api_fail_errno(call, -ENOMEM, "cannot change");
    c->call = call;
    bool is_form = call->request->body_kind == BUS_BODY_FILE;
    enum api_status status =
        is_form ? read_form(call, c) : api_merge(call, &httpserver_update_desc, &c->update);
    if (status == API_OK)
        return front_change(d, c);
    free(c);
    return status;
}

enum api_status
sysd_put_system_httpserver(struct sysd *self, struct api_call *call,
                           struct httpserver_config *reply)
{
    (void)reply; /* filled when the gateway has prepared it */
    return change(self, call);
}

enum api_status
sysd_patch_system_httpserver(struct sysd *self, struct api_call *call,
                             struct httpserver_config *reply)
{
    (void)reply; /* as above */
    return change(self, call);
}
