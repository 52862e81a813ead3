/*
 * The catalogue of the security advisor: a table of checks, each a small
 * function from facts to a judgement. A new check is a function and a line.
 *
 * The limits follow IEC 62443-4-2 (CR 1.x, 2.x), NIST SP 800-63B and the CIS
 * benchmark for Debian 12 where these give a number.
 */
#include <arpa/inet.h>
#include <cjson/cJSON.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/auditd/sec_parse.h"
#include "services/auditd/secadvisor.h"

#include "libcommon/banned.h"

enum {
    LENGTH_MIN = 12,
    ADMINISTRATORS_MAX = 3,
    FAIL_TIMES_MAX = 10,
    LOCK_MIN = 10,         /* minutes */
    IDLE_MAX = 30,         /* minutes */
    SESSION_MAX = 24 * 60, /* minutes */
    SESSIONS_MAX = 5,      /* of one account */
    STRENGTH_MIN = 112,    /* bits: RSA 2048, P-224, SHA-224 (NIST SP 800-57) */
    CERT_LEFT_MIN = 30,    /* days */
    TLS_1_2 = 0x0303,
    LISTS_AGE_MAX = 14, /* days */
    AUDIT_DAYS_MIN = 90,
    LOG_DAYS_MIN = 30,
    DISK_FREE_MIN = 10, /* percent */
    NAMES_SHOWN = 6,    /* of a list, in evidence */
    DAY_S = 24 * 60 * 60,
};

typedef const struct sec_facts facts;
typedef struct sec_finding finding;

/* ---- saying what was seen ---- */

/* Adds to the evidence; text that does not fit is cut and ends with an ellipsis. */
static void say(finding *o, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void
say(finding *o, const char *fmt, ...)
{
    static const char more[] = "…";
    size_t at = strlen(o->evidence), room = sizeof(o->evidence) - at;
    char *text = o->evidence + at;
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, room, fmt, args);
    va_end(args);
    if (n >= (int)room) {
        size_t size = sizeof(o->evidence);
        size_t keep = utf8_cut(o->evidence, size - 1, size - sizeof(more));
        memcpy(o->evidence + keep, more, sizeof(more));
    }
    for (unsigned char *p = (unsigned char *)o->evidence; *p; p++)
        if (*p < ' ' || *p == 0x7f)
            *p = ' '; /* names that others chose */
}

/* "a, b and 7 more" */
static void
say_names(finding *o, const cJSON *names)
{
    int n = cJSON_GetArraySize(names), i = 0;
    const cJSON *name;
    cJSON_ArrayForEach(name, names)
    {
        if (i == NAMES_SHOWN)
            break;
        const char *text = json_text(name);
        say(o, "%s%s", i++ ? ", " : "", text ? text : "?");
    }
    if (n > i)
        say(o, " and %d more", n - i);
}

/* ---- facts ---- */

/* The member at 'path' ("policy/lengthMin") of what the check's source says; NULL: not said. */
static const cJSON *
fact(facts *f, const finding *o, const char *path)
{
    const cJSON *at = f->of[o->check->source];
    char name[64];
    while (at && *path) {
        size_t len = strcspn(path, "/");
        if (str_copy_len(name, sizeof(name), path, len) < 0)
            return NULL;
        at = json_get(at, name);
        path += len + (path[len] == '/');
    }
    return at;
}

static bool
get_number(facts *f, const finding *o, const char *path, int64_t *ret_value)
{
    return json_i64(fact(f, o, path), ret_value) == 0;
}

static bool
get_bool(facts *f, const finding *o, const char *path, bool *ret_value)
{
    const cJSON *item = fact(f, o, path);
    if (!cJSON_IsBool(item))
        return false;
    *ret_value = cJSON_IsTrue(item);
    return true;
}

static enum sec_status
pass_if(bool good)
{
    return good ? SEC_PASS : SEC_FAIL;
}

/* ---- forms that many checks have ---- */

/* 'what' is "… is %lld …", said in either case. */
static enum sec_status
within(facts *f, finding *o, const char *path, int64_t least, int64_t most, const char *what,
       const char *unit)
{
    int64_t v;
    if (!get_number(f, o, path, &v))
        return SEC_UNKNOWN;
    say(o, "%s: %lld%s", what, (long long)v, unit);
    return pass_if(v >= least && v <= most);
}

static enum sec_status
wants(facts *f, finding *o, const char *path, bool wanted, const char *if_true,
      const char *if_false)
{
    bool v;
    if (!get_bool(f, o, path, &v))
        return SEC_UNKNOWN;
    say(o, "%s", v ? if_true : if_false);
    return pass_if(v == wanted);
}

/* A list that should be empty. */
static enum sec_status
nobody(facts *f, finding *o, const char *path, const char *some, const char *none)
{
    const cJSON *names = fact(f, o, path);
    if (!cJSON_IsArray(names))
        return SEC_UNKNOWN;
    if (cJSON_GetArraySize(names) == 0) {
        say(o, "%s", none);
        return SEC_PASS;
    }
    say(o, "%s: ", some);
    say_names(o, names);
    return SEC_FAIL;
}

/* ---- defaults, accounts ---- */

static enum sec_status
first_password(facts *f, finding *o)
{
    return nobody(f, o, "firstPassword", "Still the password it was shipped with",
                  "The password of the first start was changed, or its account is disabled");
}

static enum sec_status
first_name(facts *f, finding *o)
{
    const cJSON *active = fact(f, o, "active"), *name;
    if (!cJSON_IsArray(active))
        return SEC_UNKNOWN;
    cJSON_ArrayForEach(name, active)
    {
        const char *text = json_text(name);
        if (text && str_eq(text, "admin")) {
            say(o, "The account admin is active");
            return SEC_FAIL;
        }
    }
    say(o, "No active account is named admin");
    return SEC_PASS;
}

static enum sec_status
few_administrators(facts *f, finding *o)
{
    const cJSON *names = fact(f, o, "administrators");
    if (!cJSON_IsArray(names))
        return SEC_UNKNOWN;
    int n = cJSON_GetArraySize(names);
    say(o, "%d active with the role Administrator: ", n);
    say_names(o, names);
    return pass_if(n >= 1 && n <= ADMINISTRATORS_MAX);
}

static enum sec_status
no_unused_account(facts *f, finding *o)
{
    return nobody(f, o, "unused", "Active, but no sign-in for 90 days",
                  "Every active account was made or signed in within 90 days");
}

static enum sec_status
own_passwords(facts *f, finding *o)
{
    return nobody(f, o, "givenPassword", "Password still the one somebody else set",
                  "Every active account has chosen its own password");
}

static enum sec_status
no_disabled_account(facts *f, finding *o)
{
    return nobody(f, o, "disabled", "Disabled, but kept", "No disabled accounts are kept");
}

/* Their tokens have no end and are in files of programs. */
static enum sec_status
no_managing_service(facts *f, finding *o)
{
    return nobody(f, o, "managingServices", "May manage accounts",
                  "No service account may manage accounts");
}

/* ---- passwords, lock, sessions ---- */

static enum sec_status
password_length(facts *f, finding *o)
{
    return within(f, o, "policy/lengthMin", LENGTH_MIN, INT64_MAX, "Shortest password allowed",
                  " characters");
}

static enum sec_status
password_digit(facts *f, finding *o)
{
    return wants(f, o, "policy/atLeastOneDigit", true, "A digit is demanded",
                 "No digit is demanded");
}

static enum sec_status
password_special(facts *f, finding *o)
{
    return wants(f, o, "policy/atLeastOneSpecial", true, "A special character is demanded",
                 "No special character is demanded");
}

static enum sec_status
password_mixed(facts *f, finding *o)
{
    return wants(f, o, "policy/mixedUpperLowerLetters", true,
                 "Upper and lower case are demanded", "Upper and lower case are not demanded");
}

static enum sec_status
password_reminder(facts *f, finding *o)
{
    bool on;
    int64_t days;
    if (!get_bool(f, o, "policy/enableReminder", &on) ||
        !get_number(f, o, "policy/reminderFrequencyDay", &days))
        return SEC_UNKNOWN;
    if (on)
        say(o, "Reminder after %lld days", (long long)days);
    else
        say(o, "Nobody is reminded");
    return pass_if(on);
}

static enum sec_status
password_age(facts *f, finding *o)
{
    return nobody(f, o, "oldPassword", "Older than the reminder allows",
                  "No active account has a password older than the reminder allows");
}

static enum sec_status
lock_enabled(facts *f, finding *o)
{
    return wants(f, o, "lock/enable", true, "The lock is on",
                 "The lock is off: passwords can be tried without end");
}

static enum sec_status
lock_times(facts *f, finding *o)
{
    return within(f, o, "lock/failTimes", 1, FAIL_TIMES_MAX, "Failures until the lock", "");
}

static enum sec_status
lock_minutes(facts *f, finding *o)
{
    return within(f, o, "lock/lockWindow", LOCK_MIN, INT64_MAX, "The lock lasts", " minutes");
}

static enum sec_status
nobody_locked(facts *f, finding *o)
{
    return within(f, o, "locked", 0, 0, "Accounts locked now", "");
}

static enum sec_status
session_idle(facts *f, finding *o)
{
    return within(f, o, "session/idleTimeoutMin", 1, IDLE_MAX, "An idle session ends after",
                  " minutes");
}

static enum sec_status
session_life(facts *f, finding *o)
{
    return within(f, o, "session/timeoutMin", 1, SESSION_MAX, "Every session ends after",
                  " minutes");
}

static enum sec_status
session_count(facts *f, finding *o)
{
    return within(f, o, "session/maxCountByUser", 1, SESSIONS_MAX, "Sessions of one account",
                  " at most");
}

/* ---- TLS ---- */

static enum sec_status
tls_version(facts *f, finding *o)
{
    int64_t v;
    if (!get_number(f, o, "tls/minVersion", &v))
        return SEC_UNKNOWN;
    const char *name = v == 0x0304 ? "1.3" : v == TLS_1_2 ? "1.2" : "older than 1.2";
    say(o, "Lowest version spoken: TLS %s", name);
    return pass_if(v >= TLS_1_2);
}

static enum sec_status
cert_authority(facts *f, finding *o)
{
    const char *subject = json_text(fact(f, o, "tls/subject"));
    const char *issuer = json_text(fact(f, o, "tls/issuer"));
    bool self;
    if (!subject || !issuer || !get_bool(f, o, "tls/selfSigned", &self))
        return SEC_UNKNOWN;
    if (self)
        say(o, "The certificate of %s is signed by itself", subject);
    else
        say(o, "The certificate of %s was issued by %s", subject, issuer);
    return pass_if(!self);
}

static enum sec_status
cert_valid(facts *f, finding *o)
{
    int64_t from, to;
    char text[CLOCK_TEXT_SIZE];
    if (!get_number(f, o, "tls/notBefore", &from) || !get_number(f, o, "tls/notAfter", &to) ||
        to < 0 || to > INT64_MAX / 1000000)
        return SEC_UNKNOWN;
    clock_format(to * 1000000, 0, text);
    if (f->now_s < from) {
        say(o, "Not valid yet");
        return SEC_FAIL;
    }
    say(o, "Valid until %.10s, %lld days from now", text, (long long)((to - f->now_s) / DAY_S));
    return pass_if(to - f->now_s >= (int64_t)CERT_LEFT_MIN * DAY_S);
}

static enum sec_status
cert_key(facts *f, finding *o)
{
    const char *type = json_text(fact(f, o, "tls/keyType"));
    int64_t bits, strength;
    if (!type || !get_number(f, o, "tls/keyBits", &bits) ||
        !get_number(f, o, "tls/keyStrength", &strength))
        return SEC_UNKNOWN;
    say(o, "%s, %lld bits: strength of %lld bits", type, (long long)bits, (long long)strength);
    return pass_if(strength >= STRENGTH_MIN);
}

static enum sec_status
cert_signature(facts *f, finding *o)
{
    const char *name = json_text(fact(f, o, "tls/signature"));
    int64_t strength;
    if (!name || !get_number(f, o, "tls/signatureStrength", &strength) || strength == 0)
        return SEC_UNKNOWN;
    say(o, "%s: strength of %lld bits", name, (long long)strength);
    return pass_if(strength >= STRENGTH_MIN);
}

static enum sec_status
cert_name(facts *f, finding *o)
{
    const char *host = json_text(fact(f, o, "tls/host"));
    bool names;
    if (!host || !get_bool(f, o, "tls/namesHost", &names))
        return SEC_UNKNOWN;
    say(o, "The host name is %s, and the certificate is %s it", host,
        names ? "for" : "not for");
    return pass_if(names);
}

static enum sec_status
cert_key_file(facts *f, finding *o)
{
    const char *file = json_text(fact(f, o, "tls/keyFile"));
    int64_t mode;
    if (!file || !get_number(f, o, "tls/keyFileMode", &mode) || mode == 0)
        return SEC_UNKNOWN;
    say(o, "Mode of %s: %04llo", file, (unsigned long long)mode);
    return pass_if((mode & 077) == 0);
}

static enum sec_status
no_expired_cert(facts *f, finding *o)
{
    return nobody(f, o, "expiredCertificates", "Expired",
                  "No certificate that is kept or in use has expired");
}

static enum sec_status
keys_open(facts *f, finding *o)
{
    return within(f, o, "lostKeys", 0, 0, "Private keys that cannot be opened", "");
}

/* Whoever can change what an http:// page shows, can act for those who look at it. */
static enum sec_status
origins_encrypted(facts *f, finding *o)
{
    const cJSON *origins = fact(f, o, "corsOrigins"), *origin;
    int n_bad = 0;
    if (!cJSON_IsArray(origins))
        return SEC_UNKNOWN;
    cJSON_ArrayForEach(origin, origins)
    {
        const char *text = json_text(origin);
        if (!text)
            return SEC_UNKNOWN;
        if (strncmp(text, "https://", strlen("https://")) != 0)
            say(o, "%s%s", n_bad++ ? ", " : "Without encryption: ", text);
    }
    if (n_bad == 0 && cJSON_GetArraySize(origins) == 0)
        say(o, "No web page of another origin may");
    else if (n_bad == 0) {
        say(o, "Allowed: ");
        say_names(o, origins);
    }
    return pass_if(n_bad == 0);
}

/* ---- cloud connections, field devices ---- */

static bool
is_here(const char *host)
{
    struct in_addr four;
    if (inet_pton(AF_INET, host, &four) == 1)
        return ntohl(four.s_addr) >> 24 == IN_LOOPBACKNET;
    return str_eq(host, "::1") || str_eq(host, "localhost");
}

/* What may be wrong with a connection to a broker: -1 when it is not said. */
typedef int mqtt_fault_fn(const cJSON *client);

static int
mqtt_flag(const cJSON *client, const char *name)
{
    const cJSON *item = json_get(client, name);
    return cJSON_IsBool(item) ? cJSON_IsTrue(item) : -1;
}

static int
mqtt_is_open(const cJSON *client)
{
    const char *server = json_text(json_get(client, "server"));
    int tls = mqtt_flag(client, "tls");
    return !server || tls < 0 ? -1 : !tls && !is_here(server);
}

static int
mqtt_is_blind(const cJSON *client)
{
    int tls = mqtt_flag(client, "tls"), verify = mqtt_flag(client, "verify");
    return tls < 0 || verify < 0 ? -1 : tls && !verify;
}

static int
mqtt_is_old(const cJSON *client)
{
    const char *version = json_text(json_get(client, "tlsVersion"));
    int tls = mqtt_flag(client, "tls");
    return !version || tls < 0 ? -1 : tls && (str_eq(version, "1.0") || str_eq(version, "1.1"));
}

static int
mqtt_is_anonymous(const cJSON *client)
{
    const char *server = json_text(json_get(client, "server"));
    int identified = mqtt_flag(client, "identified");
    return !server || identified < 0 ? -1 : !identified && !is_here(server);
}

static enum sec_status
mqtt_all(facts *f, finding *o, mqtt_fault_fn *fault, const char *what, const char *if_good)
{
    const cJSON *clients = fact(f, o, "mqtt"), *client;
    int n = 0, n_tls = 0, n_bad = 0;
    if (!cJSON_IsArray(clients))
        return SEC_UNKNOWN;
    cJSON_ArrayForEach(client, clients)
    {
        int64_t id;
        int bad = fault(client);
        const char *server = json_text(json_get(client, "server"));
        if (bad < 0 || !server || json_i64(json_get(client, "id"), &id) < 0)
            return SEC_UNKNOWN;
        n++;
        n_tls += mqtt_flag(client, "tls") == 1;
        if (bad)
            say(o, "%sclient %lld (%s)", n_bad++ ? ", " : what, (long long)id, server);
    }
    if (n_bad == 0)
        say(o, "Enabled connections: %d, with TLS: %d%s", n, n_tls, n ? if_good : "");
    return pass_if(n_bad == 0);
}

static enum sec_status
mqtt_tls(facts *f, finding *o)
{
    return mqtt_all(f, o, mqtt_is_open,
                    "Without TLS: ", "; none without TLS leaves this device");
}

static enum sec_status
mqtt_verify(facts *f, finding *o)
{
    return mqtt_all(f, o, mqtt_is_blind,
                    "Believes any certificate: ", "; none with TLS skips the check");
}

static enum sec_status
mqtt_version(facts *f, finding *o)
{
    return mqtt_all(f, o, mqtt_is_old,
                    "Speaks TLS 1.0 or 1.1: ", "; none speaks TLS 1.0 or 1.1");
}

static enum sec_status
mqtt_identity(facts *f, finding *o)
{
    return mqtt_all(f, o, mqtt_is_anonymous, "Without name or certificate of its own: ",
                    "; each that leaves this device has a name or a certificate");
}

static enum sec_status
devices_private(facts *f, finding *o)
{
    const cJSON *devices = fact(f, o, "devices"), *device;
    int n_bad = 0;
    if (!cJSON_IsArray(devices))
        return SEC_UNKNOWN;
    cJSON_ArrayForEach(device, devices)
    {
        const char *addr = json_text(device);
        if (!addr)
            return SEC_UNKNOWN;
        if (!sec_addr_is_private(addr) && n_bad++ < NAMES_SHOWN)
            say(o, "%s%s", n_bad > 1 ? ", " : "At public addresses: ", addr);
    }
    if (n_bad > NAMES_SHOWN)
        say(o, " and %d more", n_bad - NAMES_SHOWN);
    if (n_bad == 0)
        say(o, "Modbus devices: %d, none at a public address", cJSON_GetArraySize(devices));
    return pass_if(n_bad == 0);
}

/* ---- open ports ---- */

struct service {
    int port;
    bool is_plain; /* speaks without encryption */
    const char *name;
};
enum { SSH_PORT = 22 };
static const struct service services[] = {
    { 21, true, "FTP" },          { SSH_PORT, false, "SSH" },
    { 23, true, "Telnet" },       { 68, false, "DHCP client" },
    { 69, true, "TFTP" },         { 80, true, "HTTP" },
    { 110, true, "POP3" },        { 111, true, "RPC" },
    { 143, true, "IMAP" },        { 161, true, "SNMP" },
    { 389, true, "LDAP" },        { 502, true, "Modbus" },
    { 512, true, "rexec" },       { 546, false, "DHCP client" },
    { 513, true, "rlogin" },      { 514, true, "syslog or rsh" },
    { 873, true, "rsync" },       { 1883, true, "MQTT" },
    { 2049, true, "NFS" },        { 3306, true, "MySQL" },
    { 5432, true, "PostgreSQL" }, { 5900, true, "VNC" },
    { 6379, true, "Redis" },      { 8080, true, "HTTP" },
};

struct open_port {
    const char *proto, *addr, *user;
    int64_t port;
    bool is_loopback;
};

static bool
read_port(const cJSON *item, struct open_port *ret_port)
{
    const cJSON *loopback = json_get(item, "loopback");
    struct open_port p = {
        .proto = json_text(json_get(item, "proto")),
        .addr = json_text(json_get(item, "addr")),
        .user = json_text(json_get(item, "user")),
        .is_loopback = cJSON_IsTrue(loopback),
    };
    if (!p.proto || !p.addr || !p.user || !cJSON_IsBool(loopback) ||
        json_i64(json_get(item, "port"), &p.port) < 0)
        return false;
    *ret_port = p;
    return true;
}

static const struct service *
service_at(int64_t port)
{
    for (size_t i = 0; i < ARRAY_LEN(services); i++)
        if (services[i].port == port)
            return &services[i];
    return NULL;
}

/* Ports of the gateway's own listeners, of TCP; false: not said. */
static bool
is_gateway_port(facts *f, const struct open_port *p, bool *ret_ours)
{
    static const char *const names[] = { "httpsPort", "redirectPort", "httpPort" };
    *ret_ours = false;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        int64_t ours;
        if (json_i64(json_get(f->of[SEC_GATEWAY], names[i]), &ours) < 0)
            return false;
        *ret_ours =
            *ret_ours || (ours != 0 && ours == p->port && strncmp(p->proto, "tcp", 3) == 0);
    }
    return true;
}

static void
say_port(finding *o, const struct open_port *p, bool ours, unsigned n_before)
{
    const struct service *s = service_at(p->port);
    const char *name = ours ? "the gateway" : s ? s->name : "";
    bool six = strchr(p->addr, ':') != NULL;
    if (n_before == NAMES_SHOWN)
        say(o, ", …");
    if (n_before < NAMES_SHOWN)
        say(o, "%s%s %s%s%s:%lld (%s%suser %s)", n_before ? ", " : "", p->proto, six ? "[" : "",
            p->addr, six ? "]" : "", (long long)p->port, name, name[0] ? ", " : "", p->user);
}

/* What is said of the ports that are open to the network. */
enum port_kind { PORT_GOOD, PORT_BAD, PORT_N_KINDS };

/* Adds those of one kind to the evidence: how many, or -1 when something is not said. */
static int
say_ports(facts *f, finding *o, bool plain_only, enum port_kind kind)
{
    const cJSON *sockets = fact(f, o, "sockets"), *item;
    unsigned n = 0;
    cJSON_ArrayForEach(item, sockets)
    {
        struct open_port p;
        bool ours;
        if (!read_port(item, &p))
            return -1;
        if (!is_gateway_port(f, &p, &ours)) {
            o->evidence[0] = '\0';
            say(o, "Which ports are the gateway's own is not known");
            return -1;
        }
        const struct service *s = service_at(p.port);
        bool fine = ours || (plain_only ? !(s && s->is_plain) : s != NULL);
        if (!p.is_loopback && fine == (kind == PORT_GOOD))
            say_port(o, &p, ours, n++);
    }
    return (int)n;
}

/*
 * Ports open to the network that are not ours: of plain-text services, or of
 * nobody knows what. The evidence has those, or all that are open.
 */
static enum sec_status
foreign_ports(facts *f, finding *o, bool plain_only)
{
    if (!cJSON_IsArray(fact(f, o, "sockets")))
        return SEC_UNKNOWN;
    int n = say_ports(f, o, plain_only, PORT_BAD);
    if (n < 0)
        return SEC_UNKNOWN;
    if (n > 0)
        return SEC_FAIL;
    say(o, "Open: ");
    if (say_ports(f, o, plain_only, PORT_GOOD) == 0)
        say(o, "none");
    say(o, "; not looked at: UDP ports that clients take");
    return SEC_PASS;
}

static enum sec_status
no_plain_service(facts *f, finding *o)
{
    return foreign_ports(f, o, true);
}

static enum sec_status
no_foreign_port(facts *f, finding *o)
{
    return foreign_ports(f, o, false);
}

/* ---- SSH ---- */

/* A server that is not OpenSSH has settings that nobody here can read. */
static enum sec_status
without_openssh(facts *f, finding *o)
{
    const cJSON *sockets = fact(f, o, "sockets"), *item;
    if (!cJSON_IsArray(sockets)) {
        say(o, "OpenSSH is not installed; whether another server is there is not known");
        return SEC_UNKNOWN;
    }
    cJSON_ArrayForEach(item, sockets)
    {
        struct open_port p;
        if (!read_port(item, &p))
            return SEC_UNKNOWN;
        if (p.port == SSH_PORT && strncmp(p.proto, "tcp", 3) == 0) {
            say(o, "OpenSSH is not installed, but something listens on port %d", SSH_PORT);
            return SEC_UNKNOWN;
        }
    }
    say(o, "OpenSSH is not installed, and nothing listens on port %d", SSH_PORT);
    return SEC_PASS;
}

static enum sec_status
sshd_value_is_safe(facts *f, finding *o, enum sec_sshd_key key)
{
    const char *keyword = sec_sshd_keywords[key];
    char path[64];
    (void)snprintf(path, sizeof(path), "sshd/config/%s", keyword); /* fits */
    const char *value = json_text(fact(f, o, path));
    (void)snprintf(path, sizeof(path), "sshd/match/%s", keyword); /* as above */
    const char *match = json_text(fact(f, o, path));
    if (!value || !match) {
        o->evidence[0] = '\0';
        say(o, "The configuration of the SSH server cannot be read");
        return SEC_UNKNOWN;
    }
    say(o, "%s%s %s", o->evidence[0] ? "; " : "", keyword, value);
    if (match[0])
        say(o, ", in a Match block: %s", match);
    return pass_if(!sec_sshd_is_weak(key, value) && !match[0]);
}

/* All of the keys from 'first' to 'last'. */
static enum sec_status
sshd_is_safe(facts *f, finding *o, enum sec_sshd_key first, enum sec_sshd_key last)
{
    bool installed;
    if (!get_bool(f, o, "sshd/installed", &installed))
        return SEC_UNKNOWN;
    if (!installed)
        return without_openssh(f, o);
    enum sec_status status = SEC_PASS;
    for (int key = (int)first; key <= (int)last; key++) {
        enum sec_status one = sshd_value_is_safe(f, o, (enum sec_sshd_key)key);
        if (one == SEC_UNKNOWN)
            return one;
        status = one == SEC_FAIL ? one : status;
    }
    return status;
}

static enum sec_status
sshd_root(facts *f, finding *o)
{
    return sshd_is_safe(f, o, SEC_SSHD_ROOT_LOGIN, SEC_SSHD_ROOT_LOGIN);
}

static enum sec_status
sshd_passwords(facts *f, finding *o)
{
    return sshd_is_safe(f, o, SEC_SSHD_PASSWORD, SEC_SSHD_KEYBOARD);
}

static enum sec_status
sshd_empty_passwords(facts *f, finding *o)
{
    return sshd_is_safe(f, o, SEC_SSHD_EMPTY, SEC_SSHD_EMPTY);
}

static enum sec_status
sshd_tries(facts *f, finding *o)
{
    return sshd_is_safe(f, o, SEC_SSHD_TRIES, SEC_SSHD_TRIES);
}

static enum sec_status
sshd_x11(facts *f, finding *o)
{
    return sshd_is_safe(f, o, SEC_SSHD_X11, SEC_SSHD_X11);
}

/* ---- the operating system ---- */

static enum sec_status
kernel_value(facts *f, finding *o, const char *name, int64_t least, int64_t most)
{
    int64_t v;
    char path[64];
    (void)snprintf(path, sizeof(path), "sysctl/%s", name); /* fits */
    if (!get_number(f, o, path, &v))
        return SEC_UNKNOWN;
    say(o, "%s%s = %lld", o->evidence[0] ? ", " : "", name, (long long)v);
    return pass_if(v >= least && v <= most);
}

/* 0 for IPv4, and for IPv6 where there is that. */
static enum sec_status
both_zero(facts *f, finding *o, const char *four, const char *six)
{
    bool has_six;
    enum sec_status status = kernel_value(f, o, four, 0, 0);
    if (status != SEC_PASS || !get_bool(f, o, "ipv6", &has_six))
        return status == SEC_FAIL ? SEC_FAIL : SEC_UNKNOWN;
    if (has_six)
        return kernel_value(f, o, six, 0, 0);
    say(o, "; no IPv6");
    return SEC_PASS;
}

static enum sec_status
no_forwarding(facts *f, finding *o)
{
    return both_zero(f, o, "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding");
}

/* Of any interface: with all = 0 one of them may still accept them. */
static enum sec_status
no_redirects(facts *f, finding *o)
{
    return both_zero(f, o, "net.ipv4.conf.*.accept_redirects",
                     "net.ipv6.conf.*.accept_redirects");
}

static enum sec_status
no_source_route(facts *f, finding *o)
{
    return kernel_value(f, o, "net.ipv4.conf.all.accept_source_route", 0, 0);
}

static enum sec_status
syn_cookies(facts *f, finding *o)
{
    return kernel_value(f, o, "net.ipv4.tcp_syncookies", 1, 2);
}

static enum sec_status
random_addresses(facts *f, finding *o)
{
    return kernel_value(f, o, "kernel.randomize_va_space", 2, 2);
}

static enum sec_status
hidden_pointers(facts *f, finding *o)
{
    return kernel_value(f, o, "kernel.kptr_restrict", 1, 2);
}

static enum sec_status
no_setuid_dump(facts *f, finding *o)
{
    return kernel_value(f, o, "fs.suid_dumpable", 0, 0);
}

static enum sec_status
protected_links(facts *f, finding *o)
{
    return kernel_value(f, o, "fs.protected_symlinks", 1, 1);
}

static enum sec_status
one_root(facts *f, finding *o)
{
    return nobody(f, o, "passwd/extraRoots", "With user id 0 besides root",
                  "Only root has user id 0");
}

static enum sec_status
no_empty_password(facts *f, finding *o)
{
    return nobody(f, o, "passwd/noPassword", "Without a password in /etc/passwd",
                  "No system account is without a password in /etc/passwd");
}

static enum sec_status
safe_programs(facts *f, finding *o)
{
    const char *dir = json_text(fact(f, o, "programs/dir"));
    if (!dir)
        return SEC_UNKNOWN;
    say(o, "%s: ", dir);
    return nobody(f, o, "programs/writable", "writable by group or others",
                  "nothing is writable by group or others");
}

static enum sec_status
closed_state(facts *f, finding *o)
{
    const char *dir = json_text(fact(f, o, "stateDir"));
    int64_t mode;
    if (!dir || !get_number(f, o, "stateMode", &mode))
        return SEC_UNKNOWN;
    say(o, "Mode of %s: %04llo", dir, (unsigned long long)mode);
    return pass_if((mode & 077) == 0);
}

static enum sec_status
files_as_installed(facts *f, finding *o)
{
    const char *result = json_text(fact(f, o, "integrity"));
    if (!result) {
        say(o, "No check of the installed files has ended yet");
        return SEC_UNKNOWN;
    }
    bool good = str_eq(result, "good");
    say(o, "The last check found %s",
        good ? "all files as they were installed"
             : "files that are not as they were installed");
    return pass_if(good);
}

/* ---- time, updates ---- */

static enum sec_status
clock_synchronized(facts *f, finding *o)
{
    return wants(f, o, "clock/synchronized", true, "The kernel's clock is synchronized",
                 "The kernel's clock is not synchronized");
}

static enum sec_status
lists_fresh(facts *f, finding *o)
{
    if (cJSON_IsFalse(fact(f, o, "apt/hasLists"))) {
        say(o, "There are no package lists");
        return SEC_FAIL;
    }
    return within(f, o, "apt/listsAgeDays", 0, LISTS_AGE_MAX,
                  "The newest package list was published", " days ago");
}

static enum sec_status
unattended(facts *f, finding *o)
{
    return wants(f, o, "apt/unattended", true,
                 "unattended-upgrades is installed and enabled, and so is its timer",
                 "unattended-upgrades, its setting or its timer (apt-daily-upgrade) is missing "
                 "or off");
}

static enum sec_status
no_reboot_pending(facts *f, finding *o)
{
    if (!fact(f, o, "rebootRequired"))
        say(o, "Nothing on this device would tell: unattended-upgrades is not installed");
    return wants(f, o, "rebootRequired", false, "/run/reboot-required is there",
                 "There is no /run/reboot-required, which updates leave when they need one");
}

/* ---- audit and logs ---- */

static enum sec_status
chain_intact(facts *f, finding *o)
{
    const char *chain = json_text(fact(f, o, "chain"));
    int64_t n, checked, bad;
    if (!chain || !get_number(f, o, "records", &n) || !get_number(f, o, "checked", &checked))
        return SEC_UNKNOWN;
    if (str_eq(chain, "broken") && get_number(f, o, "badId", &bad)) {
        say(o, "Record %lld was changed or is missing", (long long)bad);
        return SEC_FAIL;
    }
    if (!str_eq(chain, "intact")) {
        say(o, "%lld of %lld records were checked in time, none was wrong", (long long)checked,
            (long long)n);
        return SEC_UNKNOWN;
    }
    say(o, "%lld records checked, each linked to the one before", (long long)checked);
    return SEC_PASS;
}

/* Of the setting at 'path'. */
static enum sec_status
kept(facts *f, finding *o, const char *path, const char *what, int64_t days_min)
{
    int64_t days, size_mb;
    const cJSON *setting = fact(f, o, path), *limit = json_get(setting, "enableTimeToLive");
    if (!cJSON_IsBool(limit) || json_i64(json_get(setting, "timeToLiveDay"), &days) < 0 ||
        json_i64(json_get(setting, "desiredDiskCacheSizeMB"), &size_mb) < 0)
        return SEC_UNKNOWN;
    bool limited = cJSON_IsTrue(limit);
    if (limited)
        say(o, "%s are deleted after %lld days", what, (long long)days);
    else
        say(o, "%s are not deleted for their age, only past %lld MB", what, (long long)size_mb);
    return pass_if(!limited || days >= days_min);
}

static enum sec_status
audit_kept(facts *f, finding *o)
{
    return kept(f, o, "setting", "Records", AUDIT_DAYS_MIN);
}

static enum sec_status
audit_warns(facts *f, finding *o)
{
    return within(f, o, "setting/alertThreshold", 1, 90, "Warning when this much is used",
                  " %");
}

static enum sec_status
audit_has_room(facts *f, finding *o)
{
    int64_t used, size_mb, at;
    if (!get_number(f, o, "bytes", &used) || !get_number(f, o, "setting/alertThreshold", &at) ||
        !get_number(f, o, "setting/desiredDiskCacheSizeMB", &size_mb) || size_mb <= 0 ||
        size_mb > INT32_MAX || used < 0 || used > INT64_MAX / 100)
        return SEC_UNKNOWN;
    int64_t percent = used * 100 / (size_mb << 20);
    say(o, "%lld %% of %lld MB used", (long long)percent, (long long)size_mb);
    return pass_if(percent < at);
}

static enum sec_status
journal_persistent(facts *f, finding *o)
{
    return wants(f, o, "journalPersistent", true, "The journal is written to /var/log/journal",
                 "The journal is not written to /var/log/journal: it is lost at each restart");
}

static enum sec_status
log_kept(facts *f, finding *o)
{
    return kept(f, o, "systemLog", "Lines", LOG_DAYS_MIN);
}

static enum sec_status
disk_has_room(facts *f, finding *o)
{
    return within(f, o, "disk/freePercent", DISK_FREE_MIN, 100, "Free where state is kept",
                  " %");
}

static enum sec_status
log_disk_has_room(facts *f, finding *o)
{
    return within(f, o, "disk/logFreePercent", DISK_FREE_MIN, 100, "Free where logs are kept",
                  " %");
}

/* ---- the catalogue ---- */

const struct sec_check sec_checks[] = {
    { "SEC-DEF-01", SEC_GROUP_DEFAULTS, SEC_HIGH, SEC_AUTHD,
      "The password of the first start is not in use.",
      "Sign in with that account and choose a password of its own.", "putUsersMePassword",
      first_password },
    { "SEC-DEF-02", SEC_GROUP_DEFAULTS, SEC_LOW, SEC_AUTHD,
      "The well-known account name admin is not in use.",
      "Give a person an account of their own with the role Administrator, then disable admin.",
      "putUser", first_name },

    { "SEC-ACC-01", SEC_GROUP_ACCOUNT, SEC_MEDIUM, SEC_AUTHD,
      "At most three accounts are administrators.",
      "Give accounts a role with only the permissions that they need.", "putUser",
      few_administrators },
    { "SEC-ACC-02", SEC_GROUP_ACCOUNT, SEC_MEDIUM, SEC_AUTHD,
      "No account stays active without being used.",
      "Disable or delete accounts that nobody uses any more.", "putUser", no_unused_account },
    { "SEC-ACC-03", SEC_GROUP_ACCOUNT, SEC_MEDIUM, SEC_AUTHD,
      "Only the owner of an account knows its password.",
      "Have each owner sign in and change the password.", "putUsersMePassword", own_passwords },
    { "SEC-ACC-04", SEC_GROUP_ACCOUNT, SEC_LOW, SEC_AUTHD,
      "Accounts that are not needed are deleted.",
      "Delete disabled accounts; the audit log keeps their names.", "deleteUser",
      no_disabled_account },
    { "SEC-ACC-05", SEC_GROUP_ACCOUNT, SEC_MEDIUM, SEC_AUTHD, "No program can manage accounts.",
      "Leave the service account only the permissions that its program needs.",
      "putAzureIotedgeService", no_managing_service },

    { "SEC-PWD-01", SEC_GROUP_PASSWORD, SEC_HIGH, SEC_AUTHD,
      "Passwords have at least 12 characters.", "Set lengthMin to 12 or more.",
      "putPasswordPolicy", password_length },
    { "SEC-PWD-02", SEC_GROUP_PASSWORD, SEC_LOW, SEC_AUTHD, "Passwords need a digit.",
      "Set atLeastOneDigit to true.", "putPasswordPolicy", password_digit },
    { "SEC-PWD-03", SEC_GROUP_PASSWORD, SEC_LOW, SEC_AUTHD,
      "Passwords need a special character.", "Set atLeastOneSpecial to true.",
      "putPasswordPolicy", password_special },
    { "SEC-PWD-04", SEC_GROUP_PASSWORD, SEC_LOW, SEC_AUTHD,
      "Passwords need upper and lower case letters.", "Set mixedUpperLowerLetters to true.",
      "putPasswordPolicy", password_mixed },
    { "SEC-PWD-05", SEC_GROUP_PASSWORD, SEC_LOW, SEC_AUTHD,
      "People are reminded to change their password.", "Set enableReminder to true.",
      "putPasswordPolicy", password_reminder },
    { "SEC-PWD-06", SEC_GROUP_PASSWORD, SEC_MEDIUM, SEC_AUTHD,
      "No password is older than the reminder allows.",
      "Have the owners change their passwords.", "putUsersMePassword", password_age },

    { "SEC-LCK-01", SEC_GROUP_LOCK, SEC_HIGH, SEC_AUTHD,
      "Accounts are locked after failed sign-ins.", "Set enable to true.", "putAuthLock",
      lock_enabled },
    { "SEC-LCK-02", SEC_GROUP_LOCK, SEC_MEDIUM, SEC_AUTHD,
      "At most 10 failed sign-ins lock an account.", "Set failTimes to 10 or less.",
      "putAuthLock", lock_times },
    { "SEC-LCK-03", SEC_GROUP_LOCK, SEC_LOW, SEC_AUTHD, "A lock lasts at least 10 minutes.",
      "Set lockWindow to 10 or more.", "putAuthLock", lock_minutes },
    { "SEC-LCK-04", SEC_GROUP_LOCK, SEC_LOW, SEC_AUTHD,
      "No account is locked now, which would be a trace of guessed passwords.",
      "Look in the audit log for signInFail, and where the attempts came from.", "getAudits",
      nobody_locked },

    { "SEC-SES-01", SEC_GROUP_SESSION, SEC_MEDIUM, SEC_AUTHD,
      "Idle sessions end within 30 minutes.", "Set idleTimeoutMin to 30 or less.",
      "putSessionsConfiguration", session_idle },
    { "SEC-SES-02", SEC_GROUP_SESSION, SEC_LOW, SEC_AUTHD, "Every session ends within a day.",
      "Set timeoutMin to 1440 or less.", "putSessionsConfiguration", session_life },
    { "SEC-SES-03", SEC_GROUP_SESSION, SEC_LOW, SEC_AUTHD,
      "An account has at most five sessions at a time.", "Set maxCountByUser to 5 or less.",
      "putSessionsConfiguration", session_count },

    { "SEC-TLS-01", SEC_GROUP_TLS, SEC_HIGH, SEC_GATEWAY, "Only TLS 1.2 and newer are spoken.",
      "Install the current version of Fieldgate.", NULL, tls_version },
    { "SEC-TLS-02", SEC_GROUP_TLS, SEC_MEDIUM, SEC_GATEWAY,
      "The certificate was issued by an authority.",
      "Upload a certificate that your own authority issued, and its key, which clients can "
      "check, instead of the one of the first start.",
      "putSystemHttpserver", cert_authority },
    { "SEC-TLS-03", SEC_GROUP_TLS, SEC_HIGH, SEC_GATEWAY,
      "The certificate is valid for another 30 days at least.",
      "Have the certificate renewed and upload it; new connections get it at once.",
      "putSystemHttpserver", cert_valid },
    { "SEC-TLS-04", SEC_GROUP_TLS, SEC_MEDIUM, SEC_GATEWAY,
      "The key of the certificate is strong (112 bits of security).",
      "Upload a certificate with an ECDSA key on P-256, or RSA with 2048 bits or more.",
      "putSystemHttpserver", cert_key },
    { "SEC-TLS-05", SEC_GROUP_TLS, SEC_MEDIUM, SEC_GATEWAY,
      "The signature of the certificate is strong (112 bits of security).",
      "Have the certificate issued anew with SHA-256, and upload it.", "putSystemHttpserver",
      cert_signature },
    { "SEC-TLS-06", SEC_GROUP_TLS, SEC_LOW, SEC_GATEWAY, "The certificate names this device.",
      "Upload a certificate that has the host name as a subject alternative name.",
      "putSystemHttpserver", cert_name },
    { "SEC-TLS-07", SEC_GROUP_TLS, SEC_HIGH, SEC_GATEWAY,
      "Nobody else can read the private key.", "Set the mode of the key file to 0600 (chmod).",
      NULL, cert_key_file },
    { "SEC-TLS-08", SEC_GROUP_TLS, SEC_MEDIUM, SEC_GATEWAY,
      "Only encrypted web pages of other origins may call the API.",
      "Take the origins that begin with http:// out of the gateway's option cors-origin.", NULL,
      origins_encrypted },
    { "SEC-TLS-09", SEC_GROUP_TLS, SEC_MEDIUM, SEC_AUTHD,
      "No certificate that is kept or in use has expired.",
      "Replace certificates that have expired; delete those that nobody needs.",
      "deleteCertificate", no_expired_cert },
    { "SEC-TLS-10", SEC_GROUP_TLS, SEC_LOW, SEC_AUTHD, "Every private key can be opened.",
      "Put secrets.key back into authd's state directory, or upload the keys again.", "postKey",
      keys_open },

    { "SEC-MQT-01", SEC_GROUP_MQTT, SEC_HIGH, SEC_CLOUDD,
      "Connections to MQTT brokers are encrypted.", "Set certificateOverTLS to true.",
      "putMqttClient", mqtt_tls },
    { "SEC-MQT-02", SEC_GROUP_MQTT, SEC_HIGH, SEC_CLOUDD,
      "Certificates of MQTT brokers are checked.",
      "Set insecureSkipVerify to false, and upload the root certificate that signed the "
      "broker's.",
      "putMqttClient", mqtt_verify },
    { "SEC-MQT-03", SEC_GROUP_MQTT, SEC_MEDIUM, SEC_CLOUDD,
      "MQTT connections use TLS 1.2 or newer.", "Set tlsVersion to 1.2 or 1.3.",
      "putMqttClient", mqtt_version },
    { "SEC-MQT-04", SEC_GROUP_MQTT, SEC_MEDIUM, SEC_CLOUDD, "MQTT brokers know who connects.",
      "Set userName and password, or upload a certificate and its key for use with TLS.",
      "putMqttClient", mqtt_identity },

    { "SEC-FLD-01", SEC_GROUP_FIELDBUS, SEC_HIGH, SEC_MODBUSD,
      "Modbus devices are reached through private networks only.",
      "Modbus neither encrypts nor authenticates: put the devices behind a VPN.",
      "putRemoteDev", devices_private },

    { "SEC-SSH-01", SEC_GROUP_SSH, SEC_HIGH, SEC_MACHINE,
      "Nobody signs in as root with a password over SSH.",
      "Set PermitRootLogin to no or prohibit-password in sshd_config.", NULL, sshd_root },
    { "SEC-SSH-02", SEC_GROUP_SSH, SEC_MEDIUM, SEC_MACHINE, "SSH asks for keys, not passwords.",
      "Set PasswordAuthentication and KbdInteractiveAuthentication to no in sshd_config.", NULL,
      sshd_passwords },
    { "SEC-SSH-03", SEC_GROUP_SSH, SEC_HIGH, SEC_MACHINE, "SSH refuses empty passwords.",
      "Set PermitEmptyPasswords to no in sshd_config.", NULL, sshd_empty_passwords },
    { "SEC-SSH-04", SEC_GROUP_SSH, SEC_LOW, SEC_MACHINE,
      "SSH ends a connection after six failed attempts.",
      "Set MaxAuthTries to 6 or less in sshd_config.", NULL, sshd_tries },
    { "SEC-SSH-05", SEC_GROUP_SSH, SEC_LOW, SEC_MACHINE, "SSH forwards no graphical displays.",
      "Set X11Forwarding to no in sshd_config.", NULL, sshd_x11 },

    { "SEC-NET-01", SEC_GROUP_NETWORK, SEC_HIGH, SEC_MACHINE,
      "No service without encryption is open to the network.",
      "Stop the service, or bind it to 127.0.0.1.", NULL, no_plain_service },
    { "SEC-NET-02", SEC_GROUP_NETWORK, SEC_MEDIUM, SEC_MACHINE,
      "No unknown service is open to the network.",
      "Stop what is not needed, or bind it to 127.0.0.1.", NULL, no_foreign_port },
    { "SEC-NET-03", SEC_GROUP_NETWORK, SEC_MEDIUM, SEC_MACHINE,
      "The device does not route between its networks.",
      "Set net.ipv4.ip_forward and net.ipv6.conf.all.forwarding to 0 in /etc/sysctl.d.", NULL,
      no_forwarding },
    { "SEC-NET-04", SEC_GROUP_NETWORK, SEC_LOW, SEC_MACHINE, "ICMP redirects are ignored.",
      "Set accept_redirects of net.ipv4.conf and net.ipv6.conf to 0 in /etc/sysctl.d, for all, "
      "default and each interface.",
      NULL, no_redirects },
    { "SEC-NET-05", SEC_GROUP_NETWORK, SEC_LOW, SEC_MACHINE,
      "Packets with a source route are dropped.",
      "Set net.ipv4.conf.all.accept_source_route to 0 in /etc/sysctl.d.", NULL,
      no_source_route },
    { "SEC-NET-06", SEC_GROUP_NETWORK, SEC_LOW, SEC_MACHINE,
      "A flood of connection attempts is answered with cookies.",
      "Set net.ipv4.tcp_syncookies to 1 in /etc/sysctl.d.", NULL, syn_cookies },

    { "SEC-SYS-01", SEC_GROUP_SYSTEM, SEC_MEDIUM, SEC_MACHINE,
      "Memory addresses of programs are random.",
      "Set kernel.randomize_va_space to 2 in /etc/sysctl.d.", NULL, random_addresses },
    { "SEC-SYS-02", SEC_GROUP_SYSTEM, SEC_LOW, SEC_MACHINE,
      "Addresses of the kernel are hidden.",
      "Set kernel.kptr_restrict to 1 or 2 in /etc/sysctl.d.", NULL, hidden_pointers },
    { "SEC-SYS-03", SEC_GROUP_SYSTEM, SEC_LOW, SEC_MACHINE,
      "Privileged programs leave no memory dumps.",
      "Set fs.suid_dumpable to 0 in /etc/sysctl.d.", NULL, no_setuid_dump },
    { "SEC-SYS-04", SEC_GROUP_SYSTEM, SEC_LOW, SEC_MACHINE,
      "Links in shared directories are guarded.",
      "Set fs.protected_symlinks to 1 in /etc/sysctl.d.", NULL, protected_links },
    { "SEC-SYS-05", SEC_GROUP_SYSTEM, SEC_HIGH, SEC_MACHINE, "Root is the only superuser.",
      "Remove the other accounts with user id 0.", NULL, one_root },
    { "SEC-SYS-06", SEC_GROUP_SYSTEM, SEC_HIGH, SEC_MACHINE,
      "No account in /etc/passwd is open without a password.",
      "Lock these accounts (passwd -l) or give them a password.", NULL, no_empty_password },
    { "SEC-SYS-07", SEC_GROUP_SYSTEM, SEC_HIGH, SEC_MACHINE,
      "Only their owner can change Fieldgate's programs.",
      "Remove the right to write from group and others (chmod go-w).", NULL, safe_programs },
    { "SEC-SYS-08", SEC_GROUP_SYSTEM, SEC_MEDIUM, SEC_MACHINE,
      "Others cannot look into the stored audit log.",
      "Set the mode of the directory to 0700 (chmod).", NULL, closed_state },
    { "SEC-SYS-09", SEC_GROUP_SYSTEM, SEC_HIGH, SEC_AUDITD,
      "The installed files are as they were installed.",
      "Run the check: it names the files. Install Fieldgate again, and find out who changed "
      "them.",
      "putSystemFim", files_as_installed },

    { "SEC-TIM-01", SEC_GROUP_TIME, SEC_MEDIUM, SEC_MACHINE,
      "The clock is synchronized, so that records can be compared.",
      "Enable time synchronization (systemd-timesyncd or chrony).", NULL, clock_synchronized },

    { "SEC-UPD-01", SEC_GROUP_UPDATE, SEC_MEDIUM, SEC_MACHINE,
      "The lists of updates are at most two weeks old.",
      "Run apt-get update with the archive of security updates among the sources, and install "
      "what is new.",
      NULL, lists_fresh },
    { "SEC-UPD-02", SEC_GROUP_UPDATE, SEC_MEDIUM, SEC_MACHINE,
      "Security updates are installed automatically.",
      "Install unattended-upgrades, enable it with dpkg-reconfigure, and the timers apt-daily "
      "and apt-daily-upgrade with systemctl.",
      NULL, unattended },
    { "SEC-UPD-03", SEC_GROUP_UPDATE, SEC_LOW, SEC_MACHINE,
      "No installed update waits for a restart.", "Restart the device.", NULL,
      no_reboot_pending },

    { "SEC-AUD-01", SEC_GROUP_AUDIT, SEC_HIGH, SEC_AUDITD,
      "No record of the audit log was changed or removed.",
      "Keep a copy of the state directory, and find out who had access to the device.",
      "getAuditsVerify", chain_intact },
    { "SEC-AUD-02", SEC_GROUP_AUDIT, SEC_MEDIUM, SEC_AUDITD,
      "Audit records are kept for at least 90 days.",
      "Set enableTimeToLive to false, or timeToLiveDay to 90 or more.",
      "putAuditsConfiguration", audit_kept },
    { "SEC-AUD-03", SEC_GROUP_AUDIT, SEC_LOW, SEC_AUDITD,
      "There is a warning before old audit records go.", "Set alertThreshold to 90 or less.",
      "putAuditsConfiguration", audit_warns },
    { "SEC-AUD-04", SEC_GROUP_AUDIT, SEC_MEDIUM, SEC_AUDITD,
      "The audit log has room for new records.",
      "Download the records to keep them, and raise desiredDiskCacheSizeMB.",
      "putAuditsConfiguration", audit_has_room },

    { "SEC-LOG-01", SEC_GROUP_LOG, SEC_MEDIUM, SEC_MACHINE,
      "The system log survives a restart.",
      "Set Storage=persistent in /etc/systemd/journald.conf and restart systemd-journald.",
      NULL, journal_persistent },
    { "SEC-LOG-02", SEC_GROUP_LOG, SEC_LOW, SEC_MACHINE, "There is room for logs.",
      "Free space on the file system of /var/log, or lower desiredDiskCacheSizeMB of the "
      "system log.",
      "putSystemLog", log_disk_has_room },
    { "SEC-LOG-03", SEC_GROUP_LOG, SEC_MEDIUM, SEC_MACHINE,
      "There is room for the state of the device.",
      "Free space on the file system of the state directory.", NULL, disk_has_room },
    { "SEC-LOG-04", SEC_GROUP_LOG, SEC_LOW, SEC_AUDITD,
      "The system log is kept for at least 30 days.",
      "Set enableTimeToLive to false, or timeToLiveDay to 30.", "putSystemLog", log_kept },
};
const size_t sec_n_checks = ARRAY_LEN(sec_checks);
_Static_assert(ARRAY_LEN(sec_checks) <= SEC_CHECKS_MAX, "a report holds all of them");

/* ---- running it ---- */

void
sec_judge(const struct sec_facts *f, struct sec_report *ret_report)
{
    ret_report->at_s = f->now_s;
    ret_report->n = sec_n_checks;
    for (size_t i = 0; i < sec_n_checks; i++) {
        const struct sec_check *check = &sec_checks[i];
        const char *source = sec_source_names[check->source];
        finding *o = &ret_report->findings[i];
        *o = (finding){ .check = check, .since_s = f->now_s };
        if (!f->of[check->source]) {
            say(o, "No answer from %s", source);
            continue;
        }
        o->status = check->judge(f, o);
        if (o->status == SEC_UNKNOWN && !o->evidence[0])
            say(o, "Not said by %s", source);
    }
}

void
sec_facts_done(struct sec_facts *f)
{
    for (int i = 0; i < SEC_N_SOURCES; i++) {
        json_free(f->of[i]);
        f->of[i] = NULL;
    }
}
