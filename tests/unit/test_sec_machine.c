/* What the security advisor is told of a machine, here one made of files. */
#include "services/auditd/sys_linux.h"

#include <cjson/cJSON.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "libcommon/base.h"
#include "libcommon/json.h"
#include "libcommon/str.h"

static char root[32], programs[64];

static void
write_file(const char *path, const char *text)
{
    char full[256], command[300];
    (void)snprintf(full, sizeof(full), "%s%s", root, path);
    (void)snprintf(command, sizeof(command), "mkdir -p \"$(dirname %s)\"", full);
    assert_int_equal(system(command), 0);
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(full, 0644), 0);
}

static int
setup(void **state)
{
    (void)state;
    static const char head[] = "  sl  local_address rem_address st\n";
    char text[256];
    (void)snprintf(root, sizeof(root), "/tmp/test-sec-XXXXXX");
    if (!mkdtemp(root))
        return -1;
    (void)snprintf(programs, sizeof(programs), "%s/bin", root);
    (void)snprintf(text, sizeof(text),
                   "%s0: 00000000:0017 0:0 0A 0:0 0:0 0 0 0 1\n"
                   "1: 0100007F:EB30 0:0 01 0:0 0:0 0 0 0 1\n",
                   head);
    write_file("/proc/net/tcp", text);
    write_file("/proc/net/tcp6", head);
    (void)snprintf(text, sizeof(text),
                   "%s0: 00000000:0044 0:0 07 0:0 0:0 0 0 0 1\n"
                   "1: 00000000:C350 0:0 07 0:0 0:0 0 0 0 1\n",
                   head);
    write_file("/proc/net/udp", text);
    write_file("/proc/net/udp6", head);
    write_file("/proc/sys/net/ipv4/ip_local_port_range", "40000\t60999\n");
    write_file("/proc/sys/net/ipv4/ip_forward", "1\n");
    write_file("/proc/sys/kernel/kptr_restrict", "junk\n");
    write_file("/etc/passwd", "root:x:0:0::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\n"
                              "guest::1000:1000::/:/bin/sh\nbroken\n");
    write_file("/bin/authd", "");
    write_file("/bin/auditd", "");
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    char command[64];
    (void)snprintf(command, sizeof(command), "rm -rf %s", root);
    return system(command);
}

static struct cJSON *
look(void)
{
    const struct sys_places places = { .root = root,
                                       .state_dir = root,
                                       .program_dir = programs };
    struct cJSON *tree = NULL;
    struct json_error e;
    struct buf b;
    buf_init(&b, SYS_FACTS_MAX);
    sys_machine_facts(&places, &b);
    assert_int_equal(b.err, 0);
    assert_int_equal(json_parse(b.data, b.len, &tree, &e), 0);
    buf_done(&b);
    return tree;
}

/* The member at 'path' as JSON text; "" when it is not there. */
static const char *
told(const char *path)
{
    static char text[4096];
    CLEANUP(json_freep) struct cJSON *tree = look();
    const struct cJSON *at = tree;
    char name[64];
    while (at && *path) {
        size_t len = strcspn(path, "/");
        assert_int_equal(str_copy_len(name, sizeof(name), path, len), 0);
        at = json_get(at, name);
        path += len + (path[len] == '/');
    }
    struct buf b;
    buf_init(&b, sizeof(text) - 1);
    if (at)
        jw_tree(&b, at);
    assert_int_equal(str_copy_len(text, sizeof(text), b.data, b.len), 0);
    buf_done(&b);
    return text;
}

static void
open_ports_are_listed_and_those_of_clients_are_not(void **state)
{
    (void)state;
    assert_string_equal(
        told("sockets"),
        "[{\"proto\":\"tcp\",\"addr\":\"0.0.0.0\",\"port\":23,\"user\":\"root\","
        "\"loopback\":false},{\"proto\":\"udp\",\"addr\":\"0.0.0.0\",\"port\":68,"
        "\"user\":\"root\",\"loopback\":false}]");
    write_file("/proc/sys/net/ipv4/ip_local_port_range", "junk\n");
    assert_null(strstr(told("sockets"), "50000"));
}

static void
half_a_list_of_ports_is_not_told(void **state)
{
    (void)state;
    char path[64];
    (void)snprintf(path, sizeof(path), "%s/proc/net/tcp6", root);
    assert_int_equal(unlink(path), 0);
    assert_string_not_equal(told("sockets"), ""); /* a machine without IPv6 */
    write_file("/proc/net/if_inet6", "");
    assert_string_equal(told("sockets"), "");
    write_file("/proc/net/tcp6", "");
    (void)snprintf(path, sizeof(path), "%s/proc/net/udp", root);
    assert_int_equal(unlink(path), 0);
    assert_string_equal(told("sockets"), "");
    write_file("/proc/net/udp", "");
    char *many = malloc(100 * (SYS_SOCKETS_MAX + 1));
    assert_non_null(many);
    size_t at = 0;
    for (int i = 0; i <= SYS_SOCKETS_MAX; i++)
        at +=
            (size_t)sprintf(many + at, "%d: 00000000:%04X 0:0 0A 0:0 0:0 0 0 0 1\n", i, i + 1);
    write_file("/proc/net/tcp", many);
    assert_string_equal(told("sockets"), "");
    free(many);
}

static void
an_ssh_server_is_judged_by_all_of_its_files(void **state)
{
    (void)state;
    assert_string_equal(told("sshd"), "{\"installed\":false}");
    write_file("/usr/sbin/sshd", "");
    assert_string_equal(told("sshd"), "{\"installed\":true}"); /* and no configuration */
    write_file("/etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\n"
                                       "PermitRootLogin no\nPasswordAuthentication no\n");
    assert_string_equal(told("sshd/config/PermitRootLogin"), "\"no\"");
    write_file("/etc/ssh/sshd_config.d/a.conf", "PermitRootLogin yes\n");
    write_file("/etc/ssh/sshd_config.d/b.conf", "PermitRootLogin no\nInclude extra\n");
    write_file("/etc/ssh/extra", "Match User x\nX11Forwarding yes\n");
    assert_string_equal(told("sshd/config/PermitRootLogin"), "\"yes\"");
    assert_string_equal(told("sshd/config/PasswordAuthentication"), "\"no\"");
    assert_string_equal(told("sshd/match/X11Forwarding"), "\"yes\"");
    write_file("/etc/ssh/sshd_config.d/c.conf/x", ""); /* no file: sshd would not start */
    assert_string_equal(told("sshd"), "{\"installed\":true}");
}

static void
a_pipe_in_the_place_of_a_file_is_not_waited_for(void **state)
{
    (void)state;
    char path[64];
    write_file("/usr/sbin/sshd", "");
    write_file("/etc/ssh/sshd_config", "Include pipe\n");
    (void)snprintf(path, sizeof(path), "%s/etc/ssh/pipe", root);
    assert_int_equal(mkfifo(path, 0644), 0);
    (void)alarm(10);
    assert_string_equal(told("sshd"), "{\"installed\":true}");
    (void)alarm(0);
}

static void
kernel_settings_are_told_where_they_are_numbers(void **state)
{
    (void)state;
    assert_string_equal(told("sysctl"), "{\"net.ipv4.ip_forward\":1}");
    assert_string_equal(told("ipv6"), "false");
    write_file("/proc/sys/net/ipv4/conf/all/accept_redirects", "0\n");
    write_file("/proc/sys/net/ipv4/conf/eth0/accept_redirects", "1\n");
    write_file("/proc/sys/net/ipv4/conf/lo/accept_redirects", "0\n");
    write_file("/proc/sys/net/ipv6/conf/all/accept_redirects", "0\n");
    write_file("/proc/sys/net/ipv6/conf/eth0/accept_redirects", "junk\n");
    assert_string_equal(told("sysctl"), "{\"net.ipv4.ip_forward\":1,"
                                        "\"net.ipv4.conf.*.accept_redirects\":1}");
}

static void
accounts_with_the_rights_of_root_or_no_password_are_named(void **state)
{
    (void)state;
    assert_string_equal(told("passwd"),
                        "{\"extraRoots\":[\"toor\"],\"noPassword\":[\"guest\"]}");
    char text[6000];
    (void)snprintf(text, sizeof(text),
                   "root:x:0:0::/:/bin/sh\nlong:x:1:1:%05000d:/:/bin/sh\n"
                   "toor::0:0::/:/bin/sh\n",
                   0);
    write_file("/etc/passwd", text); /* half of it would be no evidence */
    assert_string_equal(told("passwd"), "");
}

static void
programs_that_others_can_change_are_named(void **state)
{
    (void)state;
    char path[96];
    assert_string_equal(told("programs/writable"), "[]");
    (void)snprintf(path, sizeof(path), "%s/authd", programs);
    assert_int_equal(chmod(path, 0775), 0);
    assert_string_equal(told("programs/writable"), "[\"authd\"]");
    assert_int_equal(chmod(programs, 0777), 0);
    assert_non_null(strstr(told("programs/writable"), "\".\""));
    assert_int_equal(chmod(root, 0750), 0);
    assert_string_equal(told("stateMode"), "488");
}

static void
updates_are_told_where_there_is_apt(void **state)
{
    (void)state;
    char command[128];
    assert_string_equal(told("apt"), "");
    write_file("/etc/apt/apt.conf.d/20auto-upgrades",
               "APT::Periodic::Unattended-Upgrade \"1\";\n");
    write_file("/etc/systemd/system/timers.target.wants/apt-daily-upgrade.timer", "");
    assert_string_equal(told("apt"), "{\"hasLists\":false,\"unattended\":false}");
    write_file("/usr/bin/unattended-upgrade", "");
    write_file("/var/lib/apt/lists/x_InRelease", "");
    write_file("/var/lib/apt/lists/partial/of-a-failed-update", "");
    (void)snprintf(command, sizeof(command), "touch -d '20 days ago' %s/var/lib/apt/lists/x*",
                   root);
    assert_int_equal(system(command), 0);
    assert_string_equal(told("apt/listsAgeDays"), "20");
    assert_string_equal(told("apt/unattended"), "true");
    write_file("/var/lib/apt/lists/y_Release", "");
    write_file("/etc/apt/apt.conf.d/99off.dpkg-dist", /* apt does not read it */
               "APT::Periodic::Unattended-Upgrade \"0\";\n");
    assert_string_equal(told("apt"),
                        "{\"hasLists\":true,\"listsAgeDays\":0,\"unattended\":true}");
}

static void
unattended_updates_can_be_off_in_three_ways(void **state)
{
    (void)state;
    static const char timer[] =
        "/etc/systemd/system/timers.target.wants/apt-daily-upgrade.timer";
    char path[128];
    write_file("/usr/bin/unattended-upgrade", "");
    write_file("/etc/apt/apt.conf.d/20on.conf", "APT::Periodic::Unattended-Upgrade \"1\";\n");
    assert_string_equal(told("apt/unattended"), "false");
    write_file(timer, "");
    assert_string_equal(told("apt/unattended"), "true");
    write_file("/etc/apt/apt.conf.d/50off", "APT::Periodic::Enable \"0\";\n");
    assert_string_equal(told("apt/unattended"), "false");
    (void)snprintf(path, sizeof(path), "%s/etc/apt/apt.conf.d/50off", root);
    assert_int_equal(unlink(path), 0);
    assert_string_equal(told("apt/unattended"), "true");
    write_file("/etc/apt/apt.conf.d/99off", "APT::Periodic::Unattended-Upgrade \"0\";\n");
    assert_string_equal(told("apt/unattended"), "false");
}

static void
traces_of_restarts_and_logs_are_looked_for(void **state)
{
    (void)state;
    assert_string_equal(told("rebootRequired"), ""); /* nobody would say so */
    assert_string_equal(told("journalPersistent"), "false");
    write_file("/etc/kernel/postinst.d/unattended-upgrades", "");
    assert_string_equal(told("rebootRequired"), "false");
    write_file("/run/reboot-required", "");
    write_file("/var/log/journal/x/y", "");
    assert_string_equal(told("rebootRequired"), "true");
    assert_string_equal(told("journalPersistent"), "false");
    write_file("/var/log/journal/x/system.journal", "");
    assert_string_equal(told("journalPersistent"), "true");
    write_file("/run/log/journal/x/system.journal", ""); /* it is written there now */
    assert_string_equal(told("journalPersistent"), "false");
    assert_string_not_equal(told("disk/freePercent"), "");
    assert_string_not_equal(told("disk/logFreePercent"), "");
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(open_ports_are_listed_and_those_of_clients_are_not),
        TEST(half_a_list_of_ports_is_not_told),
        TEST(an_ssh_server_is_judged_by_all_of_its_files),
        TEST(a_pipe_in_the_place_of_a_file_is_not_waited_for),
        TEST(kernel_settings_are_told_where_they_are_numbers),
        TEST(accounts_with_the_rights_of_root_or_no_password_are_named),
        TEST(programs_that_others_can_change_are_named),
        TEST(updates_are_told_where_there_is_apt),
        TEST(unattended_updates_can_be_off_in_three_ways),
        TEST(traces_of_restarts_and_logs_are_looked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
