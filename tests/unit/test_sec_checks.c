/* The security advisor: from facts to findings, their history, the document. */
#include "services/auditd/secadvisor.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "libcommon/base.h"
#include "libcommon/json.h"
#include "libcommon/store.h"
#include "libcommon/str.h"
#include "tests/unit/fail_alloc.h"

enum { NOW_S = 1772417472 };

/* What a device says on which everything is as it should be. */
static const char *const good[SEC_N_SOURCES] = {
    [SEC_GATEWAY] =
        "{\"httpsPort\":8443,\"httpPort\":59000,\"redirectPort\":0,\"corsOrigins\":[\"https://"
        "hmi\"],\"tls\":{\"minVersion\":771,"
        "\"subject\":\"CN=gw\",\"issuer\":\"CN=Plant CA\",\"selfSigned\":false,"
        "\"host\":\"gw\",\"namesHost\":true,\"notBefore\":"
        "1700000000,"
        "\"notAfter\":1900000000,\"keyType\":\"EC\",\"keyBits\":256,\"keyStrength\":128,"
        "\"signature\":\"ecdsa-with-SHA256\",\"signatureStrength\":128,"
        "\"keyFile\":\"/s/gw.key\",\"keyFileMode\":384}}",
    [SEC_AUTHD] =
        "{\"active\":[\"sam\"],\"administrators\":[\"sam\"],\"disabled\":[],\"unused\":[],"
        "\"givenPassword\":[],\"oldPassword\":[],\"firstPassword\":[],\"locked\":0,"
        "\"managingServices\":[],\"expiredCertificates\":[],\"lostKeys\":0,"
        "\"policy\":{\"atLeastOneDigit\":true,\"atLeastOneSpecial\":true,\"lengthMin\":12,"
        "\"mixedUpperLowerLetters\":true,\"enableReminder\":true,\"reminderFrequencyDay\":180},"
        "\"lock\":{\"enable\":true,\"failWindow\":15,\"failTimes\":10,\"lockWindow\":10},"
        "\"session\":{\"maxCountByUser\":5,\"timeoutMin\":1440,\"idleTimeoutMin\":30}}",
    [SEC_CLOUDD] = "{\"mqtt\":[{\"id\":1,\"server\":\"broker.example.org\",\"tls\":true,"
                   "\"verify\":true,\"tlsVersion\":\"1.2\",\"identified\":true},"
                   "{\"id\":2,\"server\":\"127.0.0.1\",\"tls\":false,\"verify\":true,"
                   "\"tlsVersion\":\"1.0\",\"identified\":false}]}",
    [SEC_MODBUSD] = "{\"devices\":[\"192.168.1.5\",\"0.0.0.0\"]}",
    [SEC_AUDITD] = "{\"setting\":{\"enableTimeToLive\":false,\"timeToLiveDay\":7,"
                   "\"alertThreshold\":80,\"desiredDiskCacheSizeMB\":100},"
                   "\"systemLog\":{\"enableTimeToLive\":true,\"timeToLiveDay\":30,"
                   "\"desiredDiskCacheSizeMB\":50},\"integrity\":\"good\",\"bytes\":1000,"
                   "\"records\":5,\"checked\":5,\"badId\":6,\"chain\":\"intact\"}",
    [SEC_MACHINE] =
        "{\"sockets\":[{\"proto\":\"tcp\",\"addr\":\"0.0.0.0\",\"port\":8443,\"user\":\"gw\","
        "\"loopback\":false},{\"proto\":\"tcp\",\"addr\":\"127.0.0.1\",\"port\":23,"
        "\"user\":\"root\",\"loopback\":true}],\"sshd\":{\"installed\":false},"
        "\"ipv6\":true,\"sysctl\":{\"net.ipv4.ip_forward\":0,"
        "\"net.ipv6.conf.all.forwarding\":0,\"net.ipv4.conf.*.accept_redirects\":0,"
        "\"net.ipv6.conf.*.accept_redirects\":0,"
        "\"net.ipv4.conf.all.accept_source_route\":0,\"net.ipv4.tcp_syncookies\":1,"
        "\"kernel.randomize_va_space\":2,\"kernel.kptr_restrict\":1,\"fs.suid_dumpable\":0,"
        "\"fs.protected_symlinks\":1},\"passwd\":{\"extraRoots\":[],\"noPassword\":[]},"
        "\"programs\":{\"dir\":\"/lib/"
        "gw\",\"writable\":[]},\"disk\":{\"freePercent\":50,\"logFreePercent\":50},"
        "\"stateDir\":\"/"
        "s\",\"stateMode\":448,\"clock\":{\"synchronized\":true},\"apt\":{\"hasLists\":true,"
        "\"listsAgeDays\":3,"
        "\"unattended\":true},\"rebootRequired\":false,\"journalPersistent\":true}",
};

static struct sec_report report; /* large */

static void
judge(const char *const texts[SEC_N_SOURCES])
{
    struct sec_facts facts = { .now_s = NOW_S };
    struct json_error e;
    for (int i = 0; i < SEC_N_SOURCES; i++)
        if (texts[i])
            assert_int_equal(json_parse(texts[i], strlen(texts[i]), &facts.of[i], &e), 0);
    memset(&report, 0, sizeof(report));
    (void)snprintf(report.host, sizeof(report.host), "gw");
    (void)snprintf(report.profile, sizeof(report.profile), "device");
    sec_judge(&facts, &report);
    sec_facts_done(&facts);
}

/* The good device, but 'source' says 'to' where it said 'from'. */
static void
judge_with(enum sec_source source, const char *from, const char *to)
{
    const char *texts[SEC_N_SOURCES];
    char changed[4096];
    memcpy(texts, good, sizeof(texts));
    const char *at = strstr(good[source], from);
    assert_non_null(at);
    int n = snprintf(changed, sizeof(changed), "%.*s%s%s", (int)(at - good[source]),
                     good[source], to, at + strlen(from));
    assert_in_range(n, 1, sizeof(changed) - 1);
    texts[source] = changed;
    judge(texts);
}

static struct sec_finding *
finding(const char *id)
{
    for (size_t i = 0; i < report.n; i++)
        if (str_eq(report.findings[i].check->id, id))
            return &report.findings[i];
    fail_msg("no check %s", id);
    return NULL;
}

static void
everything_passes_on_a_good_device(void **state)
{
    (void)state;
    struct sec_summary s;
    judge(good);
    for (size_t i = 0; i < report.n; i++) {
        const struct sec_finding *f = &report.findings[i];
        if (f->status != SEC_PASS)
            fail_msg("%s: %s", f->check->id, f->evidence);
        assert_true(f->evidence[0] != '\0');
    }
    sec_summarize(&report, &s);
    assert_int_equal(s.score, 100);
    assert_int_equal(s.n[SEC_PASS], sec_n_checks);
    assert_true(sec_n_checks >= 30);
}

static void
ids_are_of_one_form_and_none_is_given_twice(void **state)
{
    (void)state;
    for (size_t i = 0; i < sec_n_checks; i++) {
        assert_int_equal(strlen(sec_checks[i].id), 10);
        assert_true(strlen(sec_checks[i].message) <= 256 &&
                    strlen(sec_checks[i].remedy) <= 256);
        if (sec_checks[i].operation)
            assert_string_not_equal(sec_route(sec_checks[i].operation), "");
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(sec_checks[i].id, sec_checks[k].id);
    }
}

/* source, what it says on a good device, what instead, the finding that fails, its evidence */
static const struct {
    enum sec_source source;
    const char *from, *to, *id, *evidence;
} faults[] = {
    { SEC_AUTHD, "\"firstPassword\":[]", "\"firstPassword\":[\"admin\"]", "SEC-DEF-01",
      "shipped" },
    { SEC_AUTHD, "\"active\":[\"sam\"]", "\"active\":[\"admin\"]", "SEC-DEF-02", "admin" },
    { SEC_AUTHD, "\"administrators\":[\"sam\"]", "\"administrators\":[\"a\",\"b\",\"c\",\"d\"]",
      "SEC-ACC-01", "4 active with the role Administrator: a, b, c, d" },
    { SEC_AUTHD, "\"administrators\":[\"sam\"]", "\"administrators\":[]", "SEC-ACC-01", "0" },
    { SEC_AUTHD, "\"unused\":[]",
      "\"unused\":[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\"]", "SEC-ACC-02",
      "a, b, c, d, e, f and 2 more" },
    { SEC_AUTHD, "\"givenPassword\":[]", "\"givenPassword\":[\"bob\"]", "SEC-ACC-03", "bob" },
    { SEC_AUTHD, "\"disabled\":[]", "\"disabled\":[\"bob\"]", "SEC-ACC-04", "bob" },
    { SEC_AUTHD, "\"managingServices\":[]", "\"managingServices\":[\"plc\"]", "SEC-ACC-05",
      "plc" },
    { SEC_AUTHD, "\"lengthMin\":12", "\"lengthMin\":11", "SEC-PWD-01", "11" },
    { SEC_AUTHD, "\"atLeastOneDigit\":true", "\"atLeastOneDigit\":false", "SEC-PWD-02", "No" },
    { SEC_AUTHD, "\"atLeastOneSpecial\":true", "\"atLeastOneSpecial\":false", "SEC-PWD-03",
      "No" },
    { SEC_AUTHD, "\"mixedUpperLowerLetters\":true", "\"mixedUpperLowerLetters\":false",
      "SEC-PWD-04", "not" },
    { SEC_AUTHD, "\"enableReminder\":true", "\"enableReminder\":false", "SEC-PWD-05",
      "Nobody" },
    { SEC_AUTHD, "\"oldPassword\":[]", "\"oldPassword\":[\"bob\"]", "SEC-PWD-06", "bob" },
    { SEC_AUTHD, "\"enable\":true", "\"enable\":false", "SEC-LCK-01", "without end" },
    { SEC_AUTHD, "\"failTimes\":10", "\"failTimes\":11", "SEC-LCK-02", "11" },
    { SEC_AUTHD, "\"lockWindow\":10", "\"lockWindow\":9", "SEC-LCK-03", "9" },
    { SEC_AUTHD, "\"locked\":0", "\"locked\":2", "SEC-LCK-04", "2" },
    { SEC_AUTHD, "\"idleTimeoutMin\":30", "\"idleTimeoutMin\":31", "SEC-SES-01", "31" },
    { SEC_AUTHD, "\"timeoutMin\":1440", "\"timeoutMin\":1441", "SEC-SES-02", "1441" },
    { SEC_AUTHD, "\"maxCountByUser\":5", "\"maxCountByUser\":6", "SEC-SES-03", "6" },
    { SEC_GATEWAY, "\"minVersion\":771", "\"minVersion\":770", "SEC-TLS-01", "older" },
    { SEC_GATEWAY, "\"selfSigned\":false", "\"selfSigned\":true", "SEC-TLS-02", "CN=gw" },
    { SEC_GATEWAY, "\"notAfter\":1900000000", "\"notAfter\":1773000000", "SEC-TLS-03",
      "6 days" },
    { SEC_GATEWAY, "\"notBefore\":1700000000", "\"notBefore\":1800000000", "SEC-TLS-03",
      "yet" },
    { SEC_GATEWAY, "\"keyStrength\":128", "\"keyStrength\":80", "SEC-TLS-04", "80" },
    { SEC_GATEWAY, "\"signatureStrength\":128", "\"signatureStrength\":63", "SEC-TLS-05",
      "63" },
    { SEC_GATEWAY, "\"namesHost\":true", "\"namesHost\":false", "SEC-TLS-06",
      "gw, and the certificate is not for it" },
    { SEC_GATEWAY, "\"keyFileMode\":384", "\"keyFileMode\":416", "SEC-TLS-07",
      "/s/gw.key: 0640" },
    { SEC_GATEWAY, "https://hmi", "http://hmi", "SEC-TLS-08", "http://hmi" },
    { SEC_AUTHD, "\"expiredCertificates\":[]", "\"expiredCertificates\":[\"old.crt\"]",
      "SEC-TLS-09", "old.crt" },
    { SEC_AUTHD, "\"lostKeys\":0", "\"lostKeys\":3", "SEC-TLS-10", "3" },
    { SEC_CLOUDD, "\"tls\":true", "\"tls\":false", "SEC-MQT-01",
      "client 1 (broker.example.org)" },
    { SEC_CLOUDD,
      "\"server\":\"127.0.0.1\",\"tls\":false,\"verify\":true,\"tlsVersion\":\"1.0\","
      "\"identified\":false",
      "\"server\":\"127.example.org\",\"tls\":false,\"verify\":true,\"tlsVersion\":\"1.0\","
      "\"identified\":true",
      "SEC-MQT-01", "client 2 (127.example.org)" },
    { SEC_CLOUDD, "\"verify\":true", "\"verify\":false", "SEC-MQT-02", "client 1" },
    { SEC_CLOUDD, "\"tlsVersion\":\"1.2\"", "\"tlsVersion\":\"1.1\"", "SEC-MQT-03",
      "client 1" },
    { SEC_CLOUDD, "\"identified\":true", "\"identified\":false", "SEC-MQT-04", "client 1" },
    { SEC_MODBUSD, "192.168.1.5", "8.8.8.8", "SEC-FLD-01", "8.8.8.8" },
    { SEC_MACHINE, "\"127.0.0.1\",\"port\":23,\"user\":\"root\",\"loopback\":true",
      "\"::\",\"port\":23,\"user\":\"root\",\"loopback\":false", "SEC-NET-01",
      "tcp [::]:23 (Telnet, user root)" },
    { SEC_MACHINE, "\"port\":8443", "\"port\":9999", "SEC-NET-02",
      "tcp 0.0.0.0:9999 (user gw)" },
    { SEC_MACHINE, "\"net.ipv4.ip_forward\":0", "\"net.ipv4.ip_forward\":1", "SEC-NET-03",
      "= 1" },
    { SEC_MACHINE, "net.ipv6.conf.all.forwarding\":0", "net.ipv6.conf.all.forwarding\":1",
      "SEC-NET-03", "ipv6.conf.all.forwarding = 1" },
    { SEC_MACHINE, "ipv4.conf.*.accept_redirects\":0", "ipv4.conf.*.accept_redirects\":1",
      "SEC-NET-04", "= 1" },
    { SEC_MACHINE, "ipv6.conf.*.accept_redirects\":0", "ipv6.conf.*.accept_redirects\":1",
      "SEC-NET-04", "ipv6.conf.*.accept_redirects = 1" },
    { SEC_MACHINE, "source_route\":0", "source_route\":1", "SEC-NET-05", "= 1" },
    { SEC_MACHINE, "tcp_syncookies\":1", "tcp_syncookies\":0", "SEC-NET-06", "= 0" },
    { SEC_MACHINE, "va_space\":2", "va_space\":1", "SEC-SYS-01", "= 1" },
    { SEC_MACHINE, "kptr_restrict\":1", "kptr_restrict\":0", "SEC-SYS-02", "= 0" },
    { SEC_MACHINE, "suid_dumpable\":0", "suid_dumpable\":2", "SEC-SYS-03", "= 2" },
    { SEC_MACHINE, "symlinks\":1", "symlinks\":0", "SEC-SYS-04", "= 0" },
    { SEC_MACHINE, "\"extraRoots\":[]", "\"extraRoots\":[\"toor\"]", "SEC-SYS-05", "toor" },
    { SEC_MACHINE, "\"noPassword\":[]", "\"noPassword\":[\"guest\"]", "SEC-SYS-06", "guest" },
    { SEC_MACHINE, "\"writable\":[]", "\"writable\":[\"authd\"]", "SEC-SYS-07", "authd" },
    { SEC_MACHINE, "\"stateMode\":448", "\"stateMode\":488", "SEC-SYS-08", "/s: 0750" },
    { SEC_AUDITD, "\"integrity\":\"good\"", "\"integrity\":\"insecure\"", "SEC-SYS-09",
      "not as" },
    { SEC_MACHINE, "\"synchronized\":true", "\"synchronized\":false", "SEC-TIM-01", "not" },
    { SEC_MACHINE, "\"listsAgeDays\":3", "\"listsAgeDays\":15", "SEC-UPD-01", "15 days" },
    { SEC_MACHINE, "\"hasLists\":true", "\"hasLists\":false", "SEC-UPD-01",
      "no package lists" },
    { SEC_MACHINE, "\"unattended\":true", "\"unattended\":false", "SEC-UPD-02", "off" },
    { SEC_MACHINE, "\"rebootRequired\":false", "\"rebootRequired\":true", "SEC-UPD-03",
      "reboot" },
    { SEC_AUDITD, "\"chain\":\"intact\"", "\"chain\":\"broken\"", "SEC-AUD-01", "Record 6" },
    { SEC_AUDITD, "\"enableTimeToLive\":false", "\"enableTimeToLive\":true", "SEC-AUD-02",
      "7 days" },
    { SEC_AUDITD, "\"alertThreshold\":80", "\"alertThreshold\":95", "SEC-AUD-03", "95" },
    { SEC_AUDITD, "\"bytes\":1000", "\"bytes\":90000000", "SEC-AUD-04", "85 % of 100 MB" },
    { SEC_MACHINE, "\"journalPersistent\":true", "\"journalPersistent\":false", "SEC-LOG-01",
      "no" },
    { SEC_MACHINE, "\"logFreePercent\":50", "\"logFreePercent\":9", "SEC-LOG-02", "9 %" },
    { SEC_MACHINE, "\"freePercent\":50", "\"freePercent\":9", "SEC-LOG-03", "9 %" },
    { SEC_AUDITD, "\"timeToLiveDay\":30", "\"timeToLiveDay\":29", "SEC-LOG-04",
      "Lines are deleted after 29 days" },
};

static void
each_fault_fails_its_check_and_no_other(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        judge_with(faults[i].source, faults[i].from, faults[i].to);
        for (size_t k = 0; k < report.n; k++) {
            const struct sec_finding *f = &report.findings[k];
            bool mine = str_eq(f->check->id, faults[i].id);
            if (f->status != (mine ? SEC_FAIL : SEC_PASS) ||
                (mine && !strstr(f->evidence, faults[i].evidence)))
                fail_msg("fault %zu (%s): %s is %s: %s", i, faults[i].id, f->check->id,
                         sec_status_names[f->status], f->evidence);
        }
    }
}

/* SSH has five checks of one form. */
static void
every_check_can_fail(void **state)
{
    (void)state;
    for (size_t i = 0; i < sec_n_checks; i++) {
        bool found = strncmp(sec_checks[i].id, "SEC-SSH", 7) == 0;
        for (size_t k = 0; k < ARRAY_LEN(faults); k++)
            found = found || str_eq(faults[k].id, sec_checks[i].id);
        if (!found)
            fail_msg("no fault for %s", sec_checks[i].id);
    }
}

static void
ssh_is_judged_by_its_values_and_by_what_match_blocks_weaken(void **state)
{
    (void)state;
    static const char from[] = "\"sshd\":{\"installed\":false}";
#define SSHD(root, match, keys)                                                                \
    "\"sshd\":{\"installed\":true,\"config\":{\"PermitRootLogin\":\"" root                     \
    "\",\"PasswordAuthentication\":\"no\",\"KbdInteractiveAuthentication\":\"" keys            \
    "\",\"PermitEmptyPasswords\":\"no\","                                                      \
    "\"MaxAuthTries\":\"6\",\"X11Forwarding\":\"no\"},\"match\":{\"PermitRootLogin\":\"" match \
    "\",\"PasswordAuthentication\":\"\",\"KbdInteractiveAuthentication\":\"\","                \
    "\"PermitEmptyPasswords\":\"\",\"MaxAuthTries\":\"\","                                     \
    "\"X11Forwarding\":\"yes\"}}"
    judge_with(SEC_MACHINE, from, SSHD("yes", "", "no"));
    assert_int_equal(finding("SEC-SSH-01")->status, SEC_FAIL);
    assert_int_equal(finding("SEC-SSH-02")->status, SEC_PASS);
    assert_int_equal(finding("SEC-SSH-05")->status, SEC_FAIL);
    judge_with(SEC_MACHINE, from, SSHD("no", "yes", "yes"));
    assert_int_equal(finding("SEC-SSH-01")->status, SEC_FAIL);
    assert_non_null(strstr(finding("SEC-SSH-01")->evidence, "Match"));
    assert_int_equal(finding("SEC-SSH-02")->status, SEC_FAIL);
    assert_string_equal(finding("SEC-SSH-02")->evidence,
                        "PasswordAuthentication no; KbdInteractiveAuthentication yes");
    judge_with(SEC_MACHINE, from, "\"sshd\":{\"installed\":true}");
    for (size_t i = 0; i < report.n; i++)
        if (report.findings[i].check->group == SEC_GROUP_SSH)
            assert_int_equal(report.findings[i].status, SEC_UNKNOWN);
}

static void
without_openssh_a_server_on_its_port_is_unknown(void **state)
{
    (void)state;
    judge_with(SEC_MACHINE, "\"127.0.0.1\",\"port\":23", "\"127.0.0.1\",\"port\":22");
    for (size_t i = 0; i < report.n; i++)
        if (report.findings[i].check->group == SEC_GROUP_SSH)
            assert_int_equal(report.findings[i].status, SEC_UNKNOWN);
}

static void
open_ports_are_evidence_when_they_are_good_too(void **state)
{
    (void)state;
    judge(good);
    assert_string_equal(
        finding("SEC-NET-02")->evidence,
        "Open: tcp 0.0.0.0:8443 (the gateway, user gw); not looked at: UDP ports "
        "that clients take");
    /* another protocol on the gateway's port is not the gateway */
    judge_with(SEC_MACHINE, "\"proto\":\"tcp\",\"addr\":\"0.0.0.0\"",
               "\"proto\":\"udp\",\"addr\":\"0.0.0.0\"");
    assert_int_equal(finding("SEC-NET-02")->status, SEC_FAIL);
}

static void
without_ipv6_its_settings_are_not_asked_for(void **state)
{
    (void)state;
    judge_with(SEC_MACHINE, "\"net.ipv6.conf.all.forwarding\":0,", "");
    assert_int_equal(finding("SEC-NET-03")->status, SEC_UNKNOWN);
    judge_with(SEC_MACHINE,
               "\"ipv6\":true,\"sysctl\":{\"net.ipv4.ip_forward\":0,"
               "\"net.ipv6.conf.all.forwarding\":0,",
               "\"ipv6\":false,\"sysctl\":{\"net.ipv4.ip_forward\":0,");
    assert_int_equal(finding("SEC-NET-03")->status, SEC_PASS);
}

static void
who_does_not_answer_makes_its_checks_unknown_and_no_other(void **state)
{
    (void)state;
    for (int source = 0; source < SEC_N_SOURCES; source++) {
        const char *texts[SEC_N_SOURCES];
        memcpy(texts, good, sizeof(texts));
        texts[source] = NULL;
        judge(texts);
        for (size_t i = 0; i < report.n; i++) {
            const struct sec_finding *f = &report.findings[i];
            /* whether a port is ours, the gateway says */
            bool lost = (int)f->check->source == source ||
                        (source == SEC_GATEWAY && (str_eq(f->check->id, "SEC-NET-01") ||
                                                   str_eq(f->check->id, "SEC-NET-02")));
            assert_int_equal(f->status, lost ? SEC_UNKNOWN : SEC_PASS);
            assert_true(f->evidence[0] != '\0');
        }
    }
}

static void
facts_of_another_form_never_pass(void **state)
{
    (void)state;
    static const char *const wrong[] = { "{}", "[]", "5", "\"text\"", "null", "[5]", "true" };
    for (size_t w = 0; w < ARRAY_LEN(wrong); w++) {
        const char *texts[SEC_N_SOURCES];
        for (int i = 0; i < SEC_N_SOURCES; i++)
            texts[i] = wrong[w];
        judge(texts);
        for (size_t i = 0; i < report.n; i++)
            assert_int_equal(report.findings[i].status, SEC_UNKNOWN);
    }
    judge_with(SEC_AUTHD, "\"lengthMin\":12", "\"lengthMin\":\"12\"");
    assert_int_equal(finding("SEC-PWD-01")->status, SEC_UNKNOWN);
    judge_with(SEC_AUTHD, "\"lengthMin\":12", "\"lengthMin\":1e9");
    assert_int_equal(finding("SEC-PWD-01")->status, SEC_UNKNOWN);
    judge_with(SEC_CLOUDD, "\"verify\":true", "\"verify\":1");
    assert_int_equal(finding("SEC-MQT-02")->status, SEC_UNKNOWN);
    judge_with(SEC_MODBUSD, "\"0.0.0.0\"", "7");
    assert_int_equal(finding("SEC-FLD-01")->status, SEC_UNKNOWN);
    judge_with(SEC_MACHINE, "\"port\":8443", "\"port\":\"8443\"");
    assert_int_equal(finding("SEC-NET-01")->status, SEC_UNKNOWN);
}

static void
evidence_is_one_line_of_whole_characters_however_long_names_are(void **state)
{
    (void)state;
    char names[4096] = "\"subject\":\"CN=\\u0007\\n";
    size_t at = strlen(names);
    while (at < 3000)
        at += (size_t)snprintf(names + at, sizeof(names) - at, "ä€");
    names[at] = '"';
    judge_with(SEC_GATEWAY, "\"subject\":\"CN=gw\"", names);
    const char *e = finding("SEC-TLS-02")->evidence;
    assert_true(utf8_valid(e, strlen(e)));
    assert_in_range(strlen(e), SEC_EVIDENCE_SIZE - 8, SEC_EVIDENCE_SIZE - 1);
    assert_memory_equal(e, "The certificate of CN=  ä", 26);
    assert_non_null(strstr(e, "…"));
}

static void
evidence_is_cut_between_characters_wherever_it_ends(void **state)
{
    (void)state;
    for (int first = SEC_EVIDENCE_SIZE - 80; first < SEC_EVIDENCE_SIZE; first++) {
        char names[1024];
        (void)snprintf(names, sizeof(names), "\"unused\":[\"%0*d\",\"€ä€\",\"€€\"]", first, 0);
        judge_with(SEC_AUTHD, "\"unused\":[]", names);
        const char *e = finding("SEC-ACC-02")->evidence;
        if (!utf8_valid(e, strlen(e)))
            fail_msg("a name of %d bytes before", first);
    }
}

/* ---- history ---- */

static void
a_finding_tells_since_when_it_is_so_and_keeps_it_in_the_store(void **state)
{
    (void)state;
    static const char *const dbs[] = { "config" };
    char dir[] = "/tmp/test-sec-XXXXXX", path[64];
    struct store *store = NULL;
    struct store_txn *txn;
    bool changed = false;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(store_open(dir, dbs, 1, 1, NULL, &store), 0);
    judge(good);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(store_begin(store, &txn), 0);
        assert_int_equal(sec_history_read(txn, 0, &report, &changed), 0);
        assert_int_equal(changed, round == 0);
        assert_int_equal(sec_history_write(txn, 0, &report), 0);
        assert_int_equal(store_commit(txn), 0);
    }
    judge_with(SEC_AUTHD, "\"lengthMin\":12", "\"lengthMin\":8");
    for (size_t i = 0; i < report.n; i++)
        report.findings[i].since_s = NOW_S + 100;
    store_close(store);
    assert_int_equal(store_open(dir, dbs, 1, 1, NULL, &store), 0);
    assert_int_equal(store_begin(store, &txn), 0);
    assert_int_equal(sec_history_read(txn, 0, &report, &changed), 0);
    assert_true(changed);
    assert_int_equal(finding("SEC-PWD-01")->since_s, NOW_S + 100);
    assert_int_equal(finding("SEC-PWD-02")->since_s, NOW_S);
    finding("SEC-PWD-02")->since_s = NOW_S - 100; /* the clock was set back */
    assert_int_equal(sec_history_read(txn, 0, &report, &changed), 0);
    assert_int_equal(finding("SEC-PWD-02")->since_s, NOW_S - 100);
    /* what cannot be read is as if it were not there */
    assert_int_equal(store_put(txn, 0, "secadvisor", 10, "\x0aSEC-PWD-02\x01\0\0", 14), 0);
    finding("SEC-PWD-02")->since_s = 1;
    assert_int_equal(sec_history_read(txn, 0, &report, &changed), 0);
    assert_true(changed);
    assert_int_equal(finding("SEC-PWD-02")->since_s, 1);
    store_abort(txn);
    store_close(store);
    (void)snprintf(path, sizeof(path), "rm -r %s", dir);
    assert_int_equal(system(path), 0);
}

/* ---- the document ---- */

static void
the_document_is_made_whatever_the_evidence_is(void **state)
{
    (void)state;
    struct buf b;
    judge(good);
    for (size_t i = 0; i < report.n; i++) {
        char *e = report.findings[i].evidence;
        report.findings[i].status = (enum sec_status)(i % SEC_N_STATUSES);
        memset(e, 'x', SEC_EVIDENCE_SIZE - 1); /* one word that fits no line */
        if (i % 3 == 0)
            (void)snprintf(e, SEC_EVIDENCE_SIZE, "漢字 😀 Ελληνικά \xc3\xa9  (\\) ");
        if (i % 7 == 0)
            e[0] = '\0';
    }
    buf_init(&b, SEC_PDF_MAX);
    assert_int_equal(sec_pdf(&report, &b), 0);
    assert_true(b.len > 10000);
    assert_memory_equal(b.data, "%PDF-1.", 7);
    buf_done(&b);
    buf_init(&b, 1000); /* no room for it */
    assert_int_equal(sec_pdf(&report, &b), -E2BIG);
    assert_int_equal(b.len, 0);
    buf_done(&b);
}

static void
without_memory_the_document_is_refused(void **state)
{
    (void)state;
    bool hit = true;
    judge(good);
    report.n = 4;
    for (long n = 0; hit; n += 1 + n / 8) {
        struct buf b;
        buf_init(&b, SEC_PDF_MAX);
        fail_alloc_begin(n);
        int r = sec_pdf(&report, &b);
        hit = fail_alloc_end();
        assert_true(hit ? r < 0 : r == 0); /* libharu does not always say why */
        buf_done(&b);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_passes_on_a_good_device),
        cmocka_unit_test(ids_are_of_one_form_and_none_is_given_twice),
        cmocka_unit_test(each_fault_fails_its_check_and_no_other),
        cmocka_unit_test(every_check_can_fail),
        cmocka_unit_test(ssh_is_judged_by_its_values_and_by_what_match_blocks_weaken),
        cmocka_unit_test(without_openssh_a_server_on_its_port_is_unknown),
        cmocka_unit_test(open_ports_are_evidence_when_they_are_good_too),
        cmocka_unit_test(without_ipv6_its_settings_are_not_asked_for),
        cmocka_unit_test(who_does_not_answer_makes_its_checks_unknown_and_no_other),
        cmocka_unit_test(facts_of_another_form_never_pass),
        cmocka_unit_test(evidence_is_one_line_of_whole_characters_however_long_names_are),
        cmocka_unit_test(evidence_is_cut_between_characters_wherever_it_ends),
        cmocka_unit_test(a_finding_tells_since_when_it_is_so_and_keeps_it_in_the_store),
        cmocka_unit_test(the_document_is_made_whatever_the_evidence_is),
        cmocka_unit_test(without_memory_the_document_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
