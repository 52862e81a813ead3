/*
 * What files of the machine say, from their text alone: kernel tables of
 * sockets, sshd_config, apt.conf. The text may be anything.
 */
#ifndef FIELDGATE_AUDITD_SEC_PARSE_H
#define FIELDGATE_AUDITD_SEC_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- /proc/net/tcp, tcp6, udp, udp6 (proc(5)) ---- */

struct sec_socket {
    char addr[46]; /* as inet_ntop writes it; IPv4 in IPv6 as IPv4 */
    uint16_t port;
    uint32_t uid;
    bool is_loopback;
};
/*
 * One line, without its end. True: a socket that waits for others (TCP:
 * LISTEN; UDP: not connected). False: another one, or no such line.
 */
bool sec_parse_socket(const char *line, bool is_udp, struct sec_socket *ret_socket);

/* True for addresses that are not reached from the Internet (RFC 1918, 4193, 6598, 3927, …). */
bool sec_addr_is_private(const char *addr);

/* ---- sshd_config(5) ---- */

/* enum, keyword, value when nothing is set */
#define SEC_SSHD_TABLE(X)                                                                      \
    X(ROOT_LOGIN, "PermitRootLogin", "prohibit-password")                                      \
    X(PASSWORD, "PasswordAuthentication", "yes")                                               \
    X(KEYBOARD, "KbdInteractiveAuthentication", "yes") /* passwords, by PAM */                 \
    X(EMPTY, "PermitEmptyPasswords", "no")                                                     \
    X(TRIES, "MaxAuthTries", "6")                                                              \
    X(X11, "X11Forwarding", "no")
#define X(id, keyword, dflt) SEC_SSHD_##id,
enum sec_sshd_key { SEC_SSHD_TABLE(X) SEC_SSHD_N };
#undef X
extern const char *const sec_sshd_keywords[SEC_SSHD_N];

enum { SEC_SSHD_VALUE_SIZE = 32, SEC_SSHD_DEPTH_MAX = 16 /* of Include, as in sshd */ };

struct sec_sshd {
    bool is_set[SEC_SSHD_N];
    char value[SEC_SSHD_N][SEC_SSHD_VALUE_SIZE]; /* lower case; of the whole server */
    /* The weakest that a Match block sets; "": none is weaker than recommended. */
    char in_match[SEC_SSHD_N][SEC_SSHD_VALUE_SIZE];
};
void sec_sshd_init(struct sec_sshd *c);
/* Weaker than recommended? */
bool sec_sshd_is_weak(enum sec_sshd_key key, const char *value);

/*
 * Reads a file into 'c'. The first value of a keyword counts; Match lasts to
 * the next Match or the end of its file. 'include' is called with the pattern
 * of each Include and reads those files by calling this again, with in_match
 * and depth as they are handed to it. Files deeper than SEC_SSHD_DEPTH_MAX
 * are passed over.
 */
typedef void sec_sshd_include_fn(void *arg, const char *pattern, bool in_match, unsigned depth);
void sec_parse_sshd(struct sec_sshd *c, const char *text, size_t len, bool in_match,
                    unsigned depth, sec_sshd_include_fn *include, void *arg);

/* ---- apt.conf(5) ---- */

/*
 * The last value of 'name' (as in APT::Periodic::Unattended-Upgrade "1";) in
 * the text; lines of blocks { } are not understood. False: it is not there.
 */
bool sec_parse_apt(const char *text, size_t len, const char *name, char *ret_value,
                   size_t value_size);

#endif
