/*
 * fieldgatectl sign-in, sign-out, password: sessions, and whom to trust.
 */
#include <stdlib.h>
#include <string.h>

#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/fieldgatectl/args.h"
#include "services/fieldgatectl/ask.h"
#include "services/fieldgatectl/ctl.h"
#include "services/fieldgatectl/peer.h"
#include "services/fieldgatectl/request.h"
#include "services/fieldgatectl/secret.h"

#include "libcommon/banned.h"

/* Where passwords come from: a file, stdin, or else the terminal. */
struct source {
    const char *file;
    bool from_stdin;
};

static bool
take_source(struct args *args, struct source *from)
{
    return args_take(args, "password-file", &from->file) ||
           args_flag(args, "password-stdin", &from->from_stdin);
}

static bool
is_given(const struct source *from)
{
    return from->file != NULL || from->from_stdin;
}

/* Sends 'body' to the operation and forgets it. */
static int
ask_with_body(const struct peer *peer, const char *op, const struct buf *body,
              struct cJSON **ret_answer)
{
    struct request rq;
    request_init(&rq, ops_find(op));
    if (body != NULL)
        buf_put(&rq.body, body->data, body->len);
    int code = body != NULL && (body->err < 0 || rq.body.err < 0) ? out_of_memory()
                                                                  : ask(peer, &rq, ret_answer);
    request_done(&rq);
    return code;
}

static void
wipe(struct buf *b)
{
    if (b->data != NULL)
        explicit_bzero(b->data, b->len);
    buf_done(b);
}

/* ---- trust at first use ---- */

static int
ask_trust(struct peer *peer)
{
    char print[TRUST_TEXT_SIZE], found[HTTP_URL_MAX + 512], question[sizeof(found) + 128];
    bool yes = false;
    trust_text(peer->trust.offered, print);
    (void)snprintf(found, sizeof(found), /* both fit */
                   "The certificate of %s is vouched for by no authority that this computer\n"
                   "knows (%s). Its fingerprint is\n  SHA256 %s\n",
                   peer->use.url, peer->trust.was_refused ? peer->trust.why : "other name",
                   print);
    (void)snprintf(question, sizeof(question),
                   "%sIs that the fingerprint of the device? Trust it from now on? [y/N] ",
                   found);
    int code = secret_confirm(question, &yes);
    if (code == CTL_USAGE)
        say("%sThere is no terminal to ask at: give --fingerprint or --cacert.\n", found);
    if (code == CTL_USAGE || (code == CTL_OK && !yes)) {
        complain("not trusted, nothing was sent");
        return CTL_UNREACHABLE;
    }
    if (code == CTL_OK)
        peer_pin(peer, peer->trust.offered);
    return code;
}

/* Shakes hands, with nothing to hide yet, to see what the device shows. */
static int
make_trust(struct peer *peer)
{
    struct http_peer nobody = peer->http;
    nobody.token = NULL;
    CLEANUP(http_freep) struct http *http = http_new(&nobody);
    struct http_transfer t = { .method = "GET",
                               .target = "/api/v1/auth",
                               .idle_s = HTTP_CONNECT_S };
    if (http == NULL || !http_ask(http, &t))
        return out_of_memory();
    bool may_ask = t.result == HTTP_UNTRUSTED && !peer->trust.is_pinned &&
                   peer->http.cacert == NULL && peer->trust.was_offered;
    return may_ask ? ask_trust(peer) : peer_failed(peer, &t);
}

/* ---- sign-in ---- */

static int
read_password(const struct source *from, const char *name, char ret_password[SECRET_SIZE])
{
    if (is_given(from))
        return secret_read(from->file, 1, (char(*)[SECRET_SIZE])ret_password);
    char prompt[128];
    (void)snprintf(prompt, sizeof(prompt), "Password of %s: ", name); /* a name fits */
    return secret_ask(prompt, ret_password);
}

/* One that nobody will use again; it may have ended already. */
static void
end_session(const struct peer *peer, const char *token)
{
    struct http_peer owner = peer->http;
    struct http_transfer t = { .method = "DELETE",
                               .target = "/api/v1/auth",
                               .idle_s = HTTP_CONNECT_S };
    owner.token = token;
    CLEANUP(http_freep) struct http *http = http_new(&owner);
    if (http != NULL)
        (void)http_ask(http, &t); /* else it ends by itself, some time later */
}

static int
keep_session(struct peer *peer, const char *name, const struct cJSON *answer)
{
    const struct cJSON *data = json_get(answer, "data");
    const char *token = json_text(json_get(data, "token"));
    const char *flag = json_text(json_get(json_get(data, "user"), "flag"));
    if (token == NULL || str_copy(peer->use.token, sizeof(peer->use.token), token) < 0 ||
        str_copy(peer->use.name, sizeof(peer->use.name), name) < 0) {
        complain("the answer to the sign-in is not what the contract says");
        return CTL_REFUSED;
    }
    int code = config_save(peer->profile, &peer->use);
    if (code != CTL_OK) {
        end_session(peer, peer->use.token);
        return code;
    }
    if (peer->saved.token[0] != '\0' && str_eq(peer->saved.url, peer->use.url))
        end_session(peer, peer->saved.token);
    say("Signed in to %s as %s.\n", peer->use.url, name);
    if (flag != NULL && strstr(flag, "passwordMustChange") != NULL)
        say("The password must be changed before anything else: 'fieldgatectl password'.\n");
    else if (flag != NULL && flag[0] != '\0')
        say("The password is old; 'fieldgatectl password' changes it.\n");
    return CTL_OK;
}

static int
sign_in(struct peer *peer, const char *name, const struct source *from)
{
    char password[SECRET_SIZE];
    struct cJSON *answer = NULL;
    struct buf body;
    int code = read_password(from, name, password);
    buf_init(&body, 4096);
    jw_open(&body, '{');
    jw_kstr(&body, "name", name);
    jw_kstr(&body, "password", code == CTL_OK ? password : "");
    jw_close(&body, '}');
    explicit_bzero(password, sizeof(password));
    if (code == CTL_OK)
        code = ask_with_body(peer, "postAuth", &body, &answer);
    wipe(&body);
    if (code == CTL_OK)
        code = keep_session(peer, name, answer);
    else if (code == CTL_SIGNED_OUT)
        code = CTL_REFUSED; /* 401: that is not the password */
    json_free(answer);
    return code;
}

/*
 * What is known of the device, with the session there was: that it is trusted is
 * not asked again. A session of another one gives way only to the new session.
 */
static int
keep_device(struct peer *peer)
{
    struct config c = peer->use;
    bool same = str_eq(peer->saved.url, c.url);
    (void)str_copy(c.token, sizeof(c.token), same ? peer->saved.token : ""); /* of one size */
    (void)str_copy(c.name, sizeof(c.name), same ? peer->saved.name : "");
    peer->http.token = NULL;
    int code = same || peer->saved.token[0] == '\0' ? config_save(peer->profile, &c) : CTL_OK;
    explicit_bzero(&c, sizeof(c));
    return code;
}

int
ctl_sign_in(struct ctl *ctl, struct args *args)
{
    const char *name = NULL;
    struct source from = { .file = NULL };
    struct peer peer;
    for (enum args_kind kind; (kind = args_next(args)) != ARGS_END;) {
        if (kind == ARGS_WORD && name == NULL)
            name = args->text;
        else if (kind == ARGS_WORD || !(take_source(args, &from) || args_common(args, ctl)) ||
                 args->faulty)
            return args_unexpected(args, kind);
    }
    int code = peer_load(ctl, &peer);
    if (code == CTL_OK)
        code = peer_need(&peer, false);
    if (code == CTL_OK && name == NULL && peer.use.name[0] == '\0') {
        complain("as whom? 'fieldgatectl sign-in NAME'");
        code = CTL_USAGE;
    }
    if (name == NULL)
        name = peer.saved.name;
    if (code == CTL_OK)
        code = make_trust(&peer);
    if (code == CTL_OK)
        code = keep_device(&peer);
    if (code == CTL_OK)
        code = sign_in(&peer, name, &from);
    peer_done(&peer);
    return code;
}

/* ---- sign-out ---- */

static int
forget_session(struct peer *peer, bool forget)
{
    if (forget)
        return config_remove(peer->profile);
    /* A token of the environment is not in the profile. */
    if (peer->saved.url[0] == '\0' || !str_eq(peer->saved.token, peer->use.token))
        return CTL_OK;
    peer->saved.token[0] = '\0';
    return config_save(peer->profile, &peer->saved);
}

int
ctl_sign_out(struct ctl *ctl, struct args *args)
{
    bool forget = false;
    struct peer peer;
    struct cJSON *answer = NULL;
    for (enum args_kind kind; (kind = args_next(args)) != ARGS_END;)
        if (kind == ARGS_WORD ||
            !(args_flag(args, "forget", &forget) || args_common(args, ctl)) || args->faulty)
            return args_unexpected(args, kind);
    int code = peer_load(ctl, &peer);
    if (code == CTL_OK && !(forget && peer.use.token[0] == '\0')) {
        code = peer_need(&peer, true);
        if (code == CTL_OK)
            code = ask_with_body(&peer, "deleteAuth", NULL, &answer);
        if (code == CTL_SIGNED_OUT && peer.use.token[0] != '\0') {
            say("The session had ended already.\n");
            code = CTL_OK;
        }
    }
    int kept = code == CTL_OK || forget ? forget_session(&peer, forget) : CTL_OK;
    json_free(answer);
    peer_done(&peer);
    return code != CTL_OK ? code : kept;
}

/* ---- password ---- */

enum { OLD, NEW, AGAIN, N_SECRETS };

static int
read_change(const struct source *from, char words[N_SECRETS][SECRET_SIZE])
{
    if (is_given(from))
        return secret_read(from->file, 2, words);
    int code = secret_ask("Current password (empty while a change is forced): ", words[OLD]);
    if (code == CTL_OK)
        code = secret_ask("New password: ", words[NEW]);
    if (code == CTL_OK)
        code = secret_ask("New password again: ", words[AGAIN]);
    if (code == CTL_OK && !str_eq(words[NEW], words[AGAIN])) {
        complain("the two are not the same; nothing was changed");
        code = CTL_USAGE;
    }
    return code;
}

static int
change(const struct peer *peer, const struct source *from)
{
    char words[N_SECRETS][SECRET_SIZE] = { "" };
    struct cJSON *answer = NULL;
    struct buf body;
    int code = read_change(from, words);
    buf_init(&body, 4096);
    jw_open(&body, '{');
    jw_kstr(&body, "newPassword", words[NEW]);
    if (words[OLD][0] != '\0')
        jw_kstr(&body, "oldPassword", words[OLD]);
    jw_close(&body, '}');
    explicit_bzero(words, sizeof(words));
    if (code == CTL_OK)
        code = ask_with_body(peer, "putUsersMePassword", &body, &answer);
    wipe(&body);
    json_free(answer);
    if (code == CTL_OK)
        say("The password is changed.\n");
    return code;
}

int
ctl_password(struct ctl *ctl, struct args *args)
{
    struct source from = { .file = NULL };
    struct peer peer;
    for (enum args_kind kind; (kind = args_next(args)) != ARGS_END;)
        if (kind == ARGS_WORD || !(take_source(args, &from) || args_common(args, ctl)) ||
            args->faulty)
            return args_unexpected(args, kind);
    int code = peer_load(ctl, &peer);
    if (code == CTL_OK)
        code = peer_need(&peer, true);
    if (code == CTL_OK)
        code = change(&peer, &from);
    peer_done(&peer);
    return code;
}
