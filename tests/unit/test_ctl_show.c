/* What devices send: harmless on a terminal, laid out, and cut into events, in pieces of any
 * size. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "services/fieldgatectl/show.h"
#include "services/fieldgatectl/sig.h"
#include "services/fieldgatectl/sse.h"
#include "tests/unit/ctl_said.h"

/* What is shown of 'text' when it comes in pieces of 'piece' bytes. */
static const char *
shown(enum show_how how, const char *text, size_t len, size_t piece)
{
    static char result[8192];
    int ends[2];
    struct out out = { .path = "" };
    struct show s;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    out.fd = ends[1];
    show_init(&s, &out, how);
    for (size_t at = 0; at < len; at += piece)
        show_put(&s, text + at, piece < len - at ? piece : len - at);
    show_end(&s);
    out_flush(&out);
    assert_int_equal(out.err, 0);
    close(ends[1]);
    ssize_t n = read(ends[0], result, sizeof(result) - 1);
    close(ends[0]);
    assert_true(n >= 0);
    result[n] = '\0';
    return result;
}

static void
test_json_is_laid_out_and_its_strings_are_not_touched(void **state)
{
    (void)state;
    static const char json[] =
        "{\"a\" : [1,-2.5e3, true,null],\n\"b\":{},\"c\":[],\"d\":{\"e\":\"x, {y}: "
        "[\\\"\\\\\"},"
        "\"\xC3\xA4\":[[{}]]}";
    static const char want[] = "{\n  \"a\": [\n    1,\n    -2.5e3,\n    true,\n    null\n  ],\n"
                               "  \"b\": {},\n  \"c\": [],\n  \"d\": {\n"
                               "    \"e\": \"x, {y}: [\\\"\\\\\"\n  },\n"
                               "  \"\xC3\xA4\": [\n    [\n      {}\n    ]\n  ]\n}\n";
    for (size_t piece = 1; piece < sizeof(json); piece++)
        assert_string_equal(shown(SHOW_JSON, json, sizeof(json) - 1, piece), want);
    assert_string_equal(shown(SHOW_RAW, json, sizeof(json) - 1, 7), json);
    assert_string_equal(shown(SHOW_JSON, "", 0, 1), "");
    assert_string_equal(shown(SHOW_JSON, "}]", 2, 1), "\n}\n]\n");
}

static void
test_what_steers_a_terminal_becomes_visible(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want;
    } cases[] = {
        { "\x1b[2J", "\\u001b[2J\n" },
        { "a\rb\bc\x7f", "a\\u000db\\u0008c\\u007f\n" },
        { "\xC2\x9B"
          "31m",
          "\\u009b31m\n" }, /* C1 CSI */
        { "\xE2\x80\xAE"
          "x\xE2\x81\xA6",
          "\\u202ex\\u2066\n" }, /* RLO, LRI */
        { "tab\tline\n", "tab\tline\n" },
        { "\xC3\xA4 \xE2\x82\xAC \xF0\x9F\x98\x80",
          "\xC3\xA4 \xE2\x82\xAC \xF0\x9F\x98\x80\n" },
        { "\x9B"
          "31m",
          "\xEF\xBF\xBD"
          "31m\n" },                                  /* bare C1 byte */
        { "\xC0\x9B", "\xEF\xBF\xBD\xEF\xBF\xBD\n" }, /* overlong ESC */
        { "\xE2\x82", "\xEF\xBF\xBD\n" },             /* cut off */
        { "\xE2\x82x", "\xEF\xBF\xBDx\n" },
        { "\xED\xA0\x80", "\xEF\xBF\xBD\n" }, /* surrogate */
        { "\xC3\xC3\xA4", "\xEF\xBF\xBD\xC3\xA4\n" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (size_t piece = 1; piece <= strlen(cases[i].text); piece++)
            assert_string_equal(shown(SHOW_TEXT, cases[i].text, strlen(cases[i].text), piece),
                                cases[i].want);
    assert_string_equal(shown(SHOW_JSON, "\"\x1b\"", 3, 3), "\"\\u001b\"\n");
    assert_string_equal(shown(SHOW_TEXT, "a\0b", 3, 3), "a\\u0000b\n");
}

static void
test_a_line_stays_one_line(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 100);
    safe_line(&b, "a\nb\tc\x1b", 6, false);
    assert_string_equal(buf_text(&b), "a\\nb\\tc\\u001b");
    buf_reset(&b);
    safe_line(&b, "\xC5\x9B\xF0\x9F\x98\x80\xFF\n", 8, true);
    assert_string_equal(buf_text(&b), "\\u015b\\U0001f600\\ufffd\\n");
    buf_done(&b);
}

static int
gather(void *arg, const char *data, size_t len)
{
    struct buf *b = arg;
    assert_int_equal(strlen(data), len);
    buf_puts(b, data);
    buf_putc(b, '|');
    return 0;
}

static void
test_events_come_whole_whatever_the_pieces(void **state)
{
    (void)state;
    static const struct {
        const char *stream, *events;
    } cases[] = {
        { "data:1\n\ndata: 2\n\n", "1|2|" },
        { "data:1\r\n\r\ndata:2\r\n\r\n", "1|2|" },
        { "data:1\r\rdata:2\r\r", "1|2|" },
        { ": hello\n\n:\n\ndata:a\ndata:b\n\n", "a\nb|" },
        { "event:x\nid:5\ndata:a\nretry:1\n\n\n\n", "a|" },
        { "data:  two\n\ndata:\n\n", " two||" },
        { "datax:1\n\ndata:no end", "" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (size_t piece = 1; piece <= strlen(cases[i].stream); piece++) {
            struct sse s;
            struct buf got;
            sse_init(&s);
            buf_init(&got, 1000);
            size_t len = strlen(cases[i].stream);
            for (size_t at = 0; at < len; at += piece)
                assert_int_equal(sse_put(&s, cases[i].stream + at,
                                         piece < len - at ? piece : len - at, gather, &got),
                                 0);
            assert_string_equal(got.len > 0 ? buf_text(&got) : "", cases[i].events);
            sse_done(&s);
            buf_done(&got);
        }
}

static int
refuse(void *arg, const char *data, size_t len)
{
    (void)arg;
    (void)data;
    (void)len;
    return -EPIPE;
}

static void
test_an_event_has_a_largest_size(void **state)
{
    (void)state;
    static char line[SSE_EVENT_MAX];
    struct sse s;
    struct buf got;
    sse_init(&s);
    buf_init(&got, 2 * SSE_EVENT_MAX);
    memset(line, 'x', sizeof(line));
    memcpy(line, "data:", 5);
    assert_int_equal(sse_put(&s, line, sizeof(line), gather, &got), 0);
    assert_int_equal(sse_put(&s, "\n\n", 2, gather, &got), 0);
    assert_int_equal(got.len, sizeof(line) - 5 + 1);
    assert_int_equal(sse_put(&s, line, sizeof(line), gather, &got), 0);
    assert_int_equal(sse_put(&s, "x", 1, gather, &got), -E2BIG);
    sse_reset(&s);
    /* of many lines */
    assert_int_equal(sse_put(&s, line, sizeof(line), gather, &got), 0);
    assert_int_equal(sse_put(&s, "\n", 1, gather, &got), 0);
    assert_int_equal(sse_put(&s, "data:12345\n", 11, gather, &got), -E2BIG);
    sse_reset(&s);
    assert_int_equal(sse_put(&s, "data:1\n\n", 8, refuse, NULL), -EPIPE);
    sse_done(&s);
    buf_done(&got);
}

/* Of 'path', after it was replaced. */
static mode_t
mode_after(int (*begin)(struct out *o, const char *path), const char *path)
{
    static struct out o;
    struct stat st;
    assert_int_equal(begin(&o, path), 0);
    out_puts(&o, "anew");
    assert_int_equal(out_end(&o), CTL_OK);
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 0777;
}

static void
test_a_file_is_there_whole_or_not_at_all(void **state)
{
    (void)state;
    char dir[] = "/tmp/ctlXXXXXX", path[64];
    static struct out o;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/f", dir);
    assert_int_equal(out_file(&o, path), 0);
    out_puts(&o, "half");
    out_flush(&o);
    assert_int_equal(access(path, F_OK), -1);
    out_abandon(&o);
    assert_int_equal(rmdir(dir), 0); /* nothing is left */
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(out_file(&o, path), 0);
    out_puts(&o, "whole");
    assert_int_equal(out_commit(&o), 0);
    out_abandon(&o);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(mode_after(out_file, path), 0640);
    assert_int_equal(mode_after(out_private, path), 0600);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
    assert_int_equal(out_file(&o, path), -ENOENT);
    assert_int_equal(out_failed(&o, -ENOENT), CTL_LOCAL);
    assert_int_equal(out_file(&o, "/dev/full"), 0);
    out_puts(&o, "x");
    assert_int_equal(out_commit(&o), -ENOSPC);
}

static int
open_signals(void **state)
{
    (void)state;
    return sig_open();
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_is_laid_out_and_its_strings_are_not_touched),
        cmocka_unit_test(test_what_steers_a_terminal_becomes_visible),
        cmocka_unit_test(test_a_line_stays_one_line),
        cmocka_unit_test(test_events_come_whole_whatever_the_pieces),
        cmocka_unit_test(test_an_event_has_a_largest_size),
        cmocka_unit_test(test_a_file_is_there_whole_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, open_signals, NULL);
}
