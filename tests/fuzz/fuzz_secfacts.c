/*
 * What the security advisor is told, by daemons and by files of the machine.
 * The first byte chooses: facts of every source at once, a line of a socket
 * table, sshd_config that includes itself, apt.conf. A finding says what was
 * seen in one line of UTF-8, whatever that was.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/auditd/sec_parse.h"
#include "services/auditd/secadvisor.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
try_facts(const char *text, size_t size)
{
    static struct sec_report report;
    struct sec_facts facts = { .now_s = 1772417472 };
    struct json_error e;
    for (int i = 0; i < SEC_N_SOURCES; i++)
        if (json_parse(text, size, &facts.of[i], &e) < 0)
            facts.of[i] = NULL;
    sec_judge(&facts, &report);
    sec_facts_done(&facts);
    struct buf b;
    buf_init(&b, 1 << 20);
    sec_report_json(&report, &b);
    MUST(b.err == 0 && json_check(b.data, b.len, &e) == 0);
    buf_done(&b);
    for (size_t i = 0; i < report.n; i++) {
        const char *evidence = report.findings[i].evidence;
        MUST(*evidence && utf8_valid(evidence, strlen(evidence)) && !strchr(evidence, '\n'));
    }
}

struct included {
    struct sec_sshd *config;
    const char *text;
    size_t size;
    unsigned n_read;
};

static void
include(void *arg, const char *pattern, bool in_match, unsigned depth)
{
    struct included *in = arg;
    MUST(depth <= SEC_SSHD_DEPTH_MAX && strlen(pattern) < 256);
    if (in->n_read++ < 64)
        sec_parse_sshd(in->config, in->text, in->size, in_match, depth, include, in);
}

static void
try_sshd(const char *text, size_t size)
{
    struct sec_sshd config;
    struct included in = { &config, text, size, 0 };
    sec_sshd_init(&config);
    sec_parse_sshd(&config, text, size, false, 0, include, &in);
    for (int i = 0; i < SEC_SSHD_N; i++) {
        MUST(memchr(config.value[i], '\0', SEC_SSHD_VALUE_SIZE) != NULL);
        MUST(config.in_match[i][0] == '\0' ||
             sec_sshd_is_weak((enum sec_sshd_key)i, config.in_match[i]));
    }
}

static void
try_socket(const char *text, size_t size)
{
    struct sec_socket s;
    char *line = malloc(size + 1);
    MUST(line != NULL);
    memcpy(line, text, size);
    line[size] = '\0';
    for (int udp = 0; udp < 2; udp++)
        if (sec_parse_socket(line, udp != 0, &s))
            MUST(s.addr[0] != '\0' && (!s.is_loopback || sec_addr_is_private(s.addr)));
    free(line);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const char *text = (const char *)data + 1;
    char value[8];
    switch (data[0] & 3) {
    case 0:
        try_facts(text, size - 1);
        break;
    case 1:
        try_socket(text, size - 1);
        break;
    case 2:
        try_sshd(text, size - 1);
        break;
    default:
        (void)sec_parse_apt(text, size - 1, "A", value, sizeof(value)); /* both are fine */
    }
    return 0;
}
