/*
 * The device of a command. See peer.h.
 */
#include "services/fieldgatectl/peer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/str.h"
#include "services/fieldgatectl/ctl.h"
#include "services/fieldgatectl/sig.h"

#include "libcommon/banned.h"

/* An empty variable is none, but an empty option is a fault: who wrote --url "$X" meant one. */
static const char *
first_of(const char *option, const char *variable)
{
    const char *text = getenv(variable);
    if (option != NULL)
        return option;
    return text != NULL && text[0] != '\0' ? text : NULL;
}

static int
take_url(const char *url, struct peer *p)
{
    const char *why;
    char base[HTTP_URL_MAX];
    if (http_base(url, base, &why) < 0) {
        complain("%s is no address of a device: %s", url, why);
        return CTL_USAGE;
    }
    if (!str_eq(base, p->saved.url)) {
        explicit_bzero(&p->use, sizeof(p->use));
        (void)str_copy(p->use.url, sizeof(p->use.url), base); /* of the same size */
    }
    return CTL_OK;
}

static int
take_cacert(const char *path, struct peer *p)
{
    char full[PATH_MAX];
    if (realpath(path, full) == NULL || access(full, R_OK) < 0) {
        complain("cannot read %s: %s", path, strerror(errno));
        return CTL_LOCAL;
    }
    (void)str_copy(p->use.cacert, sizeof(p->use.cacert), full); /* of the same size */
    p->use.fingerprint[0] = '\0';                               /* verified from now on */
    return CTL_OK;
}

static int
take_token(const char *token, struct peer *p)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=";
    if (strspn(token, plain) != strlen(token) ||
        str_copy(p->use.token, sizeof(p->use.token), token) < 0) {
        complain("what FIELDGATE_TOKEN holds is no token");
        return CTL_USAGE;
    }
    p->use.name[0] = '\0'; /* not known */
    return CTL_OK;
}

static int
take_fingerprint(const char *text, struct peer *p)
{
    uint8_t sha256[TRUST_SIZE];
    if (trust_read(text, sha256) < 0) {
        complain("%s is no SHA-256 fingerprint: 64 hexadecimal digits, with or without colons",
                 text);
        return CTL_USAGE;
    }
    peer_pin(p, sha256);
    return CTL_OK;
}

static int
take_all(const struct ctl *ctl, struct peer *p)
{
    const char *url = first_of(ctl->url, "FIELDGATE_URL");
    const char *token = first_of(NULL, "FIELDGATE_TOKEN");
    const char *print = first_of(ctl->fingerprint, "FIELDGATE_FINGERPRINT");
    int r = url != NULL ? take_url(url, p) : CTL_OK;
    if (r == CTL_OK && token != NULL)
        r = take_token(token, p);
    if (r == CTL_OK && ctl->cacert != NULL)
        r = take_cacert(ctl->cacert, p);
    if (r == CTL_OK && print == NULL && p->use.fingerprint[0] != '\0')
        print = p->use.fingerprint;
    return r == CTL_OK && print != NULL ? take_fingerprint(print, p) : r;
}

int
peer_load(const struct ctl *ctl, struct peer *p)
{
    *p = (struct peer){ .profile = ctl->profile != NULL ? ctl->profile : "default" };
    int r = config_load(p->profile, &p->saved);
    if (r != CTL_OK)
        return r;
    p->use = p->saved;
    r = take_all(ctl, p);
    p->http = (struct http_peer){
        .base = p->use.url,
        .token = p->use.token[0] != '\0' ? p->use.token : NULL,
        .cacert = p->use.cacert[0] != '\0' ? p->use.cacert : NULL,
        .trust = &p->trust,
    };
    return r;
}

int
peer_need(const struct peer *p, bool token)
{
    if (p->use.url[0] == '\0')
        complain("no device is known: 'fieldgatectl sign-in --url https://HOST:8443'");
    else if (token && p->use.token[0] == '\0')
        complain("not signed in to %s: 'fieldgatectl sign-in'", p->use.url);
    else
        return CTL_OK;
    return CTL_SIGNED_OUT;
}

void
peer_pin(struct peer *p, const uint8_t sha256[TRUST_SIZE])
{
    p->trust.is_pinned = true;
    memcpy(p->trust.pin, sha256, TRUST_SIZE);
    trust_text(sha256, p->use.fingerprint);
}

static void
explain_trust(const struct peer *p, const char *why)
{
    char wanted[TRUST_TEXT_SIZE], offered[TRUST_TEXT_SIZE];
    trust_text(p->trust.pin, wanted);
    trust_text(p->trust.offered, offered);
    if (p->trust.is_pinned) {
        complain("the certificate of %s is not the one that is trusted; nothing was sent",
                 p->use.url);
        say("  trusted SHA256 %s\n  offered SHA256 %s\nSomebody may be in between. If you know "
            "that it was changed, sign in again with\n--fingerprint and the new one.\n",
            wanted, offered);
        return;
    }
    complain("the certificate of %s is not trusted: %s", p->use.url,
             p->trust.was_refused ? p->trust.why : why);
    if (p->trust.was_offered)
        say("  offered SHA256 %s\n'fieldgatectl sign-in' asks whether to trust it; --cacert "
            "and "
            "--fingerprint tell.\n",
            offered);
}

int
peer_failed(const struct peer *p, const struct http_transfer *t)
{
    switch (t->result) {
    case HTTP_DONE:
        return CTL_OK;
    case HTTP_UNTRUSTED:
        explain_trust(p, t->why);
        return CTL_UNREACHABLE;
    case HTTP_UNREACHABLE:
        complain("cannot reach %s: %s", p->use.url, t->why);
        return CTL_UNREACHABLE;
    case HTTP_CUT:
        complain("the answer of %s was cut off: %s", p->use.url, t->why);
        return CTL_UNREACHABLE;
    case HTTP_NO_FILE:
        complain("%s", t->why);
        return CTL_LOCAL;
    case HTTP_STOPPED:
        break;
    }
    return sig_taken() != 0 ? CTL_SIGNAL + sig_taken() : CTL_LOCAL;
}

void
peer_done(struct peer *p)
{
    explicit_bzero(p, sizeof(*p));
}
