/* What the security advisor reads of the machine: sockets, sshd_config, apt.conf. */
#include "services/auditd/sec_parse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "libcommon/base.h"
#include "libcommon/str.h"

/* ---- sockets: lines as the kernel writes them on a little-endian machine ---- */

static void
listening_tcp_socket_is_found_with_its_owner(void **state)
{
    (void)state;
    struct sec_socket s;
    assert_true(
        sec_parse_socket("   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 "
                         "00:00000000 00000000  1000        0 12345 1 0000 100 0 0 10 0\n",
                         false, &s));
    assert_string_equal(s.addr, "127.0.0.1");
    assert_int_equal(s.port, 8080);
    assert_int_equal(s.uid, 1000);
    assert_true(s.is_loopback);
    assert_true(
        sec_parse_socket("  12: 00000000:0016 00000000:0000 0A 0:0 0:0 0 0 0 1", false, &s));
    assert_string_equal(s.addr, "0.0.0.0");
    assert_int_equal(s.port, 22);
    assert_false(s.is_loopback);
}

static void
ipv6_addresses_are_read_and_ipv4_in_them_is_ipv4(void **state)
{
    (void)state;
    struct sec_socket s;
    assert_true(sec_parse_socket(
        "0: 00000000000000000000000001000000:0050 0:0 0A 0:0 0:0 0 0 0 1", false, &s));
    assert_string_equal(s.addr, "::1");
    assert_true(s.is_loopback);
    assert_true(sec_parse_socket(
        "0: 00000000000000000000000000000000:0050 0:0 0A 0:0 0:0 0 0 0 1", false, &s));
    assert_string_equal(s.addr, "::");
    assert_false(s.is_loopback);
    assert_true(sec_parse_socket(
        "0: 0000000000000000FFFF00000100007F:0050 0:0 0A 0:0 0:0 0 0 0 1", false, &s));
    assert_string_equal(s.addr, "127.0.0.1");
    assert_true(s.is_loopback);
}

static void
what_does_not_wait_for_others_is_no_open_port(void **state)
{
    (void)state;
    struct sec_socket s;
    static const char established[] = "0: 0100007F:1F90 0100007F:A000 01 0:0 0:0 0 0 0 1";
    static const char udp[] = "0: 00000000:0044 00000000:0000 07 0:0 0:0 0 0 0 1";
    assert_false(sec_parse_socket(established, false, &s));
    assert_false(sec_parse_socket(established, true, &s));
    assert_false(sec_parse_socket(udp, false, &s));
    assert_true(sec_parse_socket(udp, true, &s));
    assert_int_equal(s.port, 68);
}

static void
lines_of_another_form_are_none(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "",
        "\n",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid",
        "0: 0100007F:1F90 0:0 0A 0:0 0:0 0",
        "0: 0100007F 0:0 0A 0:0 0:0 0 0 0 1",
        "0: 0100007F: 0:0 0A 0:0 0:0 0 0 0 1",
        "0: 0100007F:12345 0:0 0A 0:0 0:0 0 0 0 1",
        "0: 0100007:1F90 0:0 0A 0:0 0:0 0 0 0 1",
        "0: 0100007G:1F90 0:0 0A 0:0 0:0 0 0 0 1",
        "0: 0100007F0100007F:1F90 0:0 0A 0:0 0:0 0 0 0 1",
        "0: 0100007F:1F90 0:0 0A 0:0 0:0 0 -1 0 1",
        "0: 0100007F:1F90 0:0 0A 0:0 0:0 0 99999999999 0 1",
        "0: 0100007F:1F90 0:0 000000000A 0:0 0:0 0 0 0 1",
    };
    struct sec_socket s = { .port = 7 };
    for (size_t i = 0; i < ARRAY_LEN(lines); i++)
        assert_false(sec_parse_socket(lines[i], false, &s));
    assert_int_equal(s.port, 7); /* untouched */
}

static void
private_addresses_are_told_from_public_ones(void **state)
{
    (void)state;
    static const char *const private[] = {
        "10.1.2.3",  "172.16.0.1",  "172.31.255.255", "192.168.127.254",
        "127.0.0.1", "169.254.1.1", "100.64.0.1",     "0.0.0.0",
        "::1",       "fe80::1",     "fd12:3456::1",   "::ffff:10.0.0.1"
    };
    static const char *const public[] = {
        "8.8.8.8",  "172.15.255.255", "172.32.0.1",     "192.169.0.1", "100.128.0.1",
        "11.0.0.1", "2001:db8::1",    "::ffff:8.8.8.8", "host",        ""
    };
    for (size_t i = 0; i < ARRAY_LEN(private); i++)
        assert_true(sec_addr_is_private(private[i]));
    for (size_t i = 0; i < ARRAY_LEN(public); i++)
        assert_false(sec_addr_is_private(public[i]));
}

/* ---- sshd_config ---- */

/* Files by name, for Include. */
struct file {
    const char *name, *text;
};
struct reader {
    struct sec_sshd config;
    const struct file *files;
    size_t n_files;
    unsigned n_read;
};

static void
include(void *arg, const char *pattern, bool in_match, unsigned depth)
{
    struct reader *r = arg;
    for (size_t i = 0; i < r->n_files; i++)
        if (str_eq(r->files[i].name, pattern)) {
            r->n_read++;
            sec_parse_sshd(&r->config, r->files[i].text, strlen(r->files[i].text), in_match,
                           depth, include, r);
        }
}

static struct reader
read_sshd(const char *text, const struct file *files, size_t n_files)
{
    struct reader r = { .files = files, .n_files = n_files };
    sec_sshd_init(&r.config);
    sec_parse_sshd(&r.config, text, strlen(text), false, 0, include, &r);
    return r;
}

static void
without_a_word_the_defaults_of_sshd_hold(void **state)
{
    (void)state;
    struct reader r =
        read_sshd("# PermitRootLogin yes\n\n  #PasswordAuthentication no\n", NULL, 0);
    assert_string_equal(r.config.value[SEC_SSHD_ROOT_LOGIN], "prohibit-password");
    assert_string_equal(r.config.value[SEC_SSHD_PASSWORD], "yes");
    assert_string_equal(r.config.value[SEC_SSHD_KEYBOARD], "yes");
    assert_string_equal(r.config.value[SEC_SSHD_EMPTY], "no");
    assert_string_equal(r.config.value[SEC_SSHD_TRIES], "6");
    assert_string_equal(r.config.value[SEC_SSHD_X11], "no");
    assert_false(sec_sshd_is_weak(SEC_SSHD_TRIES, "6"));
    assert_true(sec_sshd_is_weak(SEC_SSHD_TRIES, "7"));
    assert_true(sec_sshd_is_weak(SEC_SSHD_TRIES, "many"));
    assert_false(sec_sshd_is_weak(SEC_SSHD_ROOT_LOGIN, "prohibit-password"));
}

static void
the_first_value_of_a_keyword_counts(void **state)
{
    (void)state;
    struct reader r =
        read_sshd("permitrootlogin NO\nPermitRootLogin yes\n"
                  "PasswordAuthentication=no\n\tPermitEmptyPasswords = \"yes\"\r\n"
                  "MaxAuthTries 3 # few\nX11Forwarding\n",
                  NULL, 0);
    assert_string_equal(r.config.value[SEC_SSHD_ROOT_LOGIN], "no");
    assert_string_equal(r.config.value[SEC_SSHD_PASSWORD], "no");
    assert_string_equal(r.config.value[SEC_SSHD_EMPTY], "yes");
    assert_string_equal(r.config.value[SEC_SSHD_TRIES], "3");
    assert_string_equal(r.config.value[SEC_SSHD_X11], "no");
}

static void
a_match_block_is_kept_apart(void **state)
{
    (void)state;
    struct reader r = read_sshd("PermitRootLogin no\n"
                                "Match Address 10.0.0.0/8\n PermitRootLogin yes\n"
                                " PasswordAuthentication no\n"
                                "Match User bob\n X11Forwarding yes\n"
                                "Match all\nPermitEmptyPasswords yes\n",
                                NULL, 0);
    assert_string_equal(r.config.value[SEC_SSHD_ROOT_LOGIN], "no");
    assert_string_equal(r.config.in_match[SEC_SSHD_ROOT_LOGIN], "yes");
    assert_string_equal(r.config.value[SEC_SSHD_PASSWORD],
                        "yes"); /* the block is not for all */
    assert_string_equal(r.config.in_match[SEC_SSHD_PASSWORD], "");
    assert_string_equal(r.config.in_match[SEC_SSHD_X11], "yes");
    assert_string_equal(r.config.value[SEC_SSHD_EMPTY], "yes"); /* Match all ends the blocks */
}

static void
included_files_are_read_where_they_are_named(void **state)
{
    (void)state;
    static const struct file files[] = {
        { "/etc/ssh/sshd_config.d/*.conf",
          "PermitRootLogin yes\nMatch User x\nX11Forwarding yes\n" },
        { "late", "PermitRootLogin no\nPasswordAuthentication no\n" },
        { "inside", "Match all\nPermitEmptyPasswords yes\n" },
    };
    struct reader r = read_sshd("Include /etc/ssh/sshd_config.d/*.conf\nPermitRootLogin no\n"
                                "Include nothing late\n"
                                "Match User y\nInclude \"inside\"\n",
                                files, ARRAY_LEN(files));
    assert_int_equal(r.n_read, 3);
    assert_string_equal(r.config.value[SEC_SSHD_ROOT_LOGIN], "yes");
    assert_string_equal(r.config.in_match[SEC_SSHD_X11], "yes");
    assert_string_equal(r.config.value[SEC_SSHD_PASSWORD],
                        "no"); /* that Match ended with its file */
    /* a Match of the file cannot leave the block that includes it */
    assert_string_equal(r.config.value[SEC_SSHD_EMPTY], "no");
    assert_string_equal(r.config.in_match[SEC_SSHD_EMPTY], "yes");
}

static void
a_file_that_includes_itself_ends(void **state)
{
    (void)state;
    static const struct file files[] = { { "me", "Include me\nMaxAuthTries 9\n" } };
    struct reader r = read_sshd("Include me\n", files, 1);
    assert_int_equal(r.n_read, SEC_SSHD_DEPTH_MAX);
    assert_string_equal(r.config.value[SEC_SSHD_TRIES], "9");
}

/* ---- apt.conf ---- */

static void
the_last_value_of_apt_counts(void **state)
{
    (void)state;
    static const char name[] = "APT::Periodic::Unattended-Upgrade";
    static const char text[] = "// APT::Periodic::Unattended-Upgrade \"9\";\n"
                               "APT::Periodic::Update-Package-Lists \"1\";\n"
                               "APT::Periodic::Unattended-Upgrade \"0\";\n"
                               "apt::periodic::unattended-upgrade \"1\";";
    static const char *const bad[] = { "APT::Periodic::Unattended-Upgrade",
                                       "APT::Periodic::Unattended-Upgrade \"1", "",
                                       "APT::Periodic::Unattended-Upgrades \"1\";" };
    char value[8] = "x";
    assert_true(sec_parse_apt(text, strlen(text), name, value, sizeof(value)));
    assert_string_equal(value, "1");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(sec_parse_apt(bad[i], strlen(bad[i]), name, value, sizeof(value)));
    assert_string_equal(value, "1");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(listening_tcp_socket_is_found_with_its_owner),
        cmocka_unit_test(ipv6_addresses_are_read_and_ipv4_in_them_is_ipv4),
        cmocka_unit_test(what_does_not_wait_for_others_is_no_open_port),
        cmocka_unit_test(lines_of_another_form_are_none),
        cmocka_unit_test(private_addresses_are_told_from_public_ones),
        cmocka_unit_test(without_a_word_the_defaults_of_sshd_hold),
        cmocka_unit_test(the_first_value_of_a_keyword_counts),
        cmocka_unit_test(a_match_block_is_kept_apart),
        cmocka_unit_test(included_files_are_read_where_they_are_named),
        cmocka_unit_test(a_file_that_includes_itself_ends),
        cmocka_unit_test(the_last_value_of_apt_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
