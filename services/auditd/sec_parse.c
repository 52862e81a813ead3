#include "services/auditd/sec_parse.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <string.h>
#include <strings.h>

#include "libcommon/base.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

/* ---- words of a line ---- */

struct words {
    const char *at, *end;
};

/* The next run of characters other than white space. */
static bool
next_word(struct words *w, const char **ret_word, size_t *ret_len)
{
    while (w->at < w->end && isspace((unsigned char)*w->at))
        w->at++;
    const char *begin = w->at;
    while (w->at < w->end && !isspace((unsigned char)*w->at))
        w->at++;
    *ret_word = begin;
    *ret_len = (size_t)(w->at - begin);
    return *ret_len > 0;
}

/* The next line of a text; false at its end. */
static bool
next_line(struct words *text, struct words *ret_line)
{
    if (text->at == text->end)
        return false;
    const char *end = memchr(text->at, '\n', (size_t)(text->end - text->at));
    ret_line->at = text->at;
    ret_line->end = end ? end : text->end;
    text->at = end ? end + 1 : text->end;
    return true;
}

/* ---- sockets ---- */

enum { TCP_LISTEN_STATE = 0x0a, UDP_OPEN_STATE = 0x07 }; /* include/net/tcp_states.h */

/* 'len' hexadecimal digits, at most 8, as a number. */
static bool
hex_number(const char *text, size_t len, uint32_t *ret_value)
{
    uint32_t v = 0;
    if (len == 0 || len > 8)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (!isxdigit((unsigned char)text[i]))
            return false;
        int c = tolower((unsigned char)text[i]);
        v = v << 4 | (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    *ret_value = v;
    return true;
}

/* Words of 32 bits in the machine's own order, each as 8 digits. */
static bool
hex_address(const char *text, size_t len, struct sec_socket *out)
{
    uint32_t word[4];
    size_t n = len / 8;
    if (len % 8 != 0 || (n != 1 && n != 4))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!hex_number(text + 8 * i, 8, &word[i]))
            return false;
    struct in6_addr six;
    if (n == 4)
        memcpy(&six, word, sizeof(six));
    if (n == 4 && IN6_IS_ADDR_V4MAPPED(&six))
        word[0] = word[3];
    else if (n == 4) {
        out->is_loopback = IN6_IS_ADDR_LOOPBACK(&six);
        return inet_ntop(AF_INET6, &six, out->addr, sizeof(out->addr)) != NULL;
    }
    struct in_addr four = { .s_addr = word[0] };
    out->is_loopback = ntohl(four.s_addr) >> 24 == IN_LOOPBACKNET;
    return inet_ntop(AF_INET, &four, out->addr, sizeof(out->addr)) != NULL;
}

/* "0100007F:1F90" */
static bool
hex_end(const char *text, size_t len, struct sec_socket *out)
{
    const char *colon = memchr(text, ':', len);
    uint32_t port;
    if (!colon || !hex_number(colon + 1, (size_t)(text + len - colon - 1), &port) ||
        port > UINT16_MAX)
        return false;
    out->port = (uint16_t)port;
    return hex_address(text, (size_t)(colon - text), out);
}

bool
sec_parse_socket(const char *line, bool is_udp, struct sec_socket *ret_socket)
{
    /* sl local_address rem_address st tx:rx tr:when retrnsmt uid … */
    enum { LOCAL = 1, STATE = 3, UID = 7, N_WORDS };
    struct words w = { line, line + strlen(line) };
    const char *word[N_WORDS];
    size_t len[N_WORDS];
    struct sec_socket s = { 0 };
    uint32_t state;
    char uid[12];
    for (size_t i = 0; i < N_WORDS; i++)
        if (!next_word(&w, &word[i], &len[i]))
            return false;
    if (!hex_number(word[STATE], len[STATE], &state) ||
        state != (is_udp ? UDP_OPEN_STATE : TCP_LISTEN_STATE) ||
        !hex_end(word[LOCAL], len[LOCAL], &s) ||
        str_copy_len(uid, sizeof(uid), word[UID], len[UID]) < 0 ||
        parse_u32(uid, 0, UINT32_MAX, &s.uid) < 0)
        return false;
    *ret_socket = s;
    return true;
}

bool
sec_addr_is_private(const char *addr)
{
    static const struct {
        uint32_t net, mask;
    } nets[] = {
        { 0x00000000, 0xff000000 }, { 0x0a000000, 0xff000000 }, { 0x64400000, 0xffc00000 },
        { 0x7f000000, 0xff000000 }, { 0xa9fe0000, 0xffff0000 }, { 0xac100000, 0xfff00000 },
        { 0xc0a80000, 0xffff0000 },
    };
    struct in_addr four;
    struct in6_addr six;
    if (inet_pton(AF_INET6, addr, &six) == 1) {
        if (!IN6_IS_ADDR_V4MAPPED(&six))
            return IN6_IS_ADDR_LOOPBACK(&six) || IN6_IS_ADDR_UNSPECIFIED(&six) ||
                   IN6_IS_ADDR_LINKLOCAL(&six) || (six.s6_addr[0] & 0xfe) == 0xfc;
        memcpy(&four, &six.s6_addr[12], sizeof(four));
    } else if (inet_pton(AF_INET, addr, &four) != 1) {
        return false;
    }
    for (size_t i = 0; i < ARRAY_LEN(nets); i++)
        if ((ntohl(four.s_addr) & nets[i].mask) == nets[i].net)
            return true;
    return false;
}

/* ---- sshd_config ---- */

#define X(id, keyword, dflt) keyword,
const char *const sec_sshd_keywords[SEC_SSHD_N] = { SEC_SSHD_TABLE(X) };
#undef X
#define X(id, keyword, dflt) dflt,
static const char *const sshd_defaults[SEC_SSHD_N] = { SEC_SSHD_TABLE(X) };
#undef X

void
sec_sshd_init(struct sec_sshd *c)
{
    *c = (struct sec_sshd){ 0 };
    for (int i = 0; i < SEC_SSHD_N; i++)
        (void)str_copy(c->value[i], sizeof(c->value[i]), sshd_defaults[i]); /* fits */
}

bool
sec_sshd_is_weak(enum sec_sshd_key key, const char *value)
{
    uint32_t tries;
    if (key == SEC_SSHD_TRIES)
        return parse_u32(value, 0, 6, &tries) < 0;
    return str_eq(value, "yes");
}

/*
 * The next word of a line of sshd_config: words may be quoted, and the
 * keyword may end at '='. False at the end, or at a comment.
 */
static bool
sshd_word(struct words *line, bool is_keyword, char *out, size_t out_size)
{
    while (line->at < line->end && (isspace((unsigned char)*line->at) || *line->at == '='))
        line->at++;
    if (line->at == line->end || *line->at == '#')
        return false;
    bool quoted = *line->at == '"';
    const char *begin = line->at += quoted;
    while (line->at < line->end &&
           (quoted ? *line->at != '"'
                   : !isspace((unsigned char)*line->at) && !(is_keyword && *line->at == '=')))
        line->at++;
    int r = str_copy_len(out, out_size, begin, (size_t)(line->at - begin));
    if (quoted && line->at < line->end)
        line->at++;
    return r == 0;
}

static void
sshd_set(struct sec_sshd *c, enum sec_sshd_key key, const char *value, bool in_match)
{
    char lower[SEC_SSHD_VALUE_SIZE];
    if (str_copy(lower, sizeof(lower), value) < 0)
        return; /* no value of these is so long */
    for (char *p = lower; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    if (in_match ? !sec_sshd_is_weak(key, lower) : c->is_set[key])
        return;
    char *out = in_match ? c->in_match[key] : c->value[key];
    memcpy(out, lower, sizeof(lower));
    if (!in_match)
        c->is_set[key] = true;
}

/* By its present name. */
static const char *
sshd_keyword(const char *word)
{
    bool is_old = strcasecmp(word, "ChallengeResponseAuthentication") == 0;
    return is_old ? sec_sshd_keywords[SEC_SSHD_KEYBOARD] : word;
}

void
sec_parse_sshd(struct sec_sshd *c, const char *text, size_t len, bool in_match, unsigned depth,
               sec_sshd_include_fn *include, void *arg)
{
    enum { WORD_SIZE = 256 };
    struct words all = { text, text + len }, line;
    bool matching = in_match;
    while (next_line(&all, &line)) {
        char keyword[WORD_SIZE], value[WORD_SIZE];
        if (!sshd_word(&line, true, keyword, sizeof(keyword)) ||
            !sshd_word(&line, false, value, sizeof(value)))
            continue;
        if (strcasecmp(keyword, "Match") == 0)
            matching = in_match || strcasecmp(value, "all") != 0;
        else if (strcasecmp(keyword, "Include") == 0 && depth < SEC_SSHD_DEPTH_MAX)
            do
                include(arg, value, matching, depth + 1);
            while (sshd_word(&line, false, value, sizeof(value)));
        for (int i = 0; i < SEC_SSHD_N; i++)
            if (strcasecmp(sshd_keyword(keyword), sec_sshd_keywords[i]) == 0)
                sshd_set(c, (enum sec_sshd_key)i, value, matching);
    }
}

/* ---- apt.conf ---- */

static bool
apt_line(struct words line, const char *name, char *ret_value, size_t value_size)
{
    const char *word;
    size_t len;
    if (!next_word(&line, &word, &len) || len != strlen(name) ||
        strncasecmp(word, name, len) != 0)
        return false;
    const char *open = memchr(line.at, '"', (size_t)(line.end - line.at));
    if (!open)
        return false;
    const char *close = memchr(open + 1, '"', (size_t)(line.end - open - 1));
    return close &&
           str_copy_len(ret_value, value_size, open + 1, (size_t)(close - open - 1)) == 0;
}

bool
sec_parse_apt(const char *text, size_t len, const char *name, char *ret_value,
              size_t value_size)
{
    struct words all = { text, text + len }, line;
    bool found = false;
    while (next_line(&all, &line)) {
        char value[64]; /* a longer one is none that we look for */
        if (apt_line(line, name, value, sizeof(value)) &&
            str_copy(ret_value, value_size, value) == 0)
            found = true;
    }
    return found;
}
