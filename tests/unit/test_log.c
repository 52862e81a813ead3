/* What stands on standard error: one line, one write, nothing that floods. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libcommon/log.h"

static int real_stderr, ends[2];

/* A seqpacket socket keeps the borders of writes. */
static int
set_up(void **state)
{
    (void)state;
    int size = 1 << 20;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) < 0)
        return -1;
    (void)setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    real_stderr = dup(STDERR_FILENO);
    (void)dup2(ends[1], STDERR_FILENO);
    (void)unsetenv("JOURNAL_STREAM");
    log_open("testd", LOG_LEVEL_INFO);
    log_set_request(0);
    return 0;
}

static int
tear_down(void **state)
{
    (void)state;
    (void)dup2(real_stderr, STDERR_FILENO);
    (void)close(real_stderr);
    (void)close(ends[0]);
    (void)close(ends[1]);
    return 0;
}

/* The next write, terminated; "" when there was none. */
static const char *
next_line(void)
{
    static char text[4096];
    ssize_t n = recv(ends[0], text, sizeof(text) - 1, MSG_DONTWAIT);
    text[n < 0 ? 0 : n] = '\0';
    return text;
}

static void
assert_ends_with(const char *text, const char *end)
{
    assert_true(strlen(text) >= strlen(end));
    assert_string_equal(text + strlen(text) - strlen(end), end);
}

static void
test_a_line_has_time_level_name_and_one_end(void **state)
{
    (void)state;
    log_warn("device silent device=%s tries=%d", "pump1", 3);
    const char *line = next_line();
    assert_ends_with(line, "Z warn testd: device silent device=pump1 tries=3\n");
    assert_int_equal(line[4], '-');
    assert_int_equal(line[10], 'T');
    assert_string_equal(next_line(), "");
}

static void
test_the_journal_gets_priorities(void **state)
{
    (void)state;
    struct stat st;
    char text[64];
    assert_int_equal(fstat(STDERR_FILENO, &st), 0);
    (void)snprintf(text, sizeof(text), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    assert_int_equal(setenv("JOURNAL_STREAM", text, 1), 0);
    log_open("testd", LOG_LEVEL_DEBUG);
    log_err("a");
    assert_string_equal(next_line(), "<3>testd: a\n");
    log_warn("b");
    assert_string_equal(next_line(), "<4>testd: b\n");
    log_info("c");
    assert_string_equal(next_line(), "<6>testd: c\n");
    log_debug("d");
    assert_string_equal(next_line(), "<7>testd: d\n");
    /* Someone else's journal does not count. */
    assert_int_equal(setenv("JOURNAL_STREAM", "1:1", 1), 0);
    log_open("testd", LOG_LEVEL_DEBUG);
    log_info("e");
    assert_ends_with(next_line(), "Z info testd: e\n");
}

static void
test_levels_below_are_silent(void **state)
{
    (void)state;
    enum log_level level = LOG_LEVEL_ERR;
    log_debug("not seen");
    assert_string_equal(next_line(), "");
    assert_int_equal(log_parse_level("debug", &level), 0);
    log_set_level(level);
    assert_int_equal(log_get_level(), LOG_LEVEL_DEBUG);
    log_debug("seen");
    assert_ends_with(next_line(), "seen\n");
    assert_int_equal(log_parse_level("loud", &level), -EINVAL);
    assert_int_equal(log_parse_level("", &level), -EINVAL);
    assert_int_equal(level, LOG_LEVEL_DEBUG);
    assert_int_equal(log_parse_level("err", &level), 0);
    assert_int_equal(level, LOG_LEVEL_ERR);
    log_set_level(LOG_LEVEL_OFF);
    log_err("not seen");
    assert_string_equal(next_line(), "");
}

static void
test_the_request_is_named(void **state)
{
    (void)state;
    log_set_request(0xABC);
    log_info("x");
    assert_ends_with(next_line(), "x req=0000000000000abc\n");
    log_set_request(0);
    log_info("x");
    assert_ends_with(next_line(), ": x\n");
}

static void
test_a_line_never_breaks_nor_exceeds_its_size(void **state)
{
    (void)state;
    char text[5000];
    memset(text, 'y', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    log_info("two\nlines\tand \x1B[1m");
    assert_ends_with(next_line(), "two lines and  [1m\n");
    log_set_request(1);
    log_info("%s", text);
    const char *line = next_line();
    assert_true(strlen(line) <= 2048);
    assert_ends_with(line, "yyy req=0000000000000001\n");
    log_set_request(0);
}

static void
test_errno_is_for_the_line_and_stays(void **state)
{
    (void)state;
    errno = ENOENT;
    log_info("cannot open: %m");
    assert_int_equal(errno, ENOENT);
    assert_ends_with(next_line(), "cannot open: No such file or directory\n");
}

static void
test_repeats_are_limited_and_counted(void **state)
{
    (void)state;
    struct log_site site = { 0 };
    int n = 0;
    for (int i = 0; i < 100; i++)
        log_line(&site, LOG_LEVEL_INFO, "again %d", i);
    while (*next_line() != '\0')
        n++;
    assert_int_equal(n, 20);
    /* The window is over: the next line tells what was left out. */
    site.window_start_us -= 10000001;
    log_line(&site, LOG_LEVEL_INFO, "after");
    assert_ends_with(next_line(), "after left_out=80\n");
    log_line(&site, LOG_LEVEL_INFO, "and");
    assert_ends_with(next_line(), ": and\n");
}

enum { THREADS = 4, LINES = 200 };
static struct log_site shared_sites[THREADS * LINES / 20];

static void *
log_a_lot(void *arg)
{
    uint64_t id = (uint64_t)(uintptr_t)arg;
    log_set_request(id);
    for (unsigned i = 0; i < LINES; i++)
        log_line(&shared_sites[i % (sizeof(shared_sites) / sizeof(shared_sites[0]))],
                 LOG_LEVEL_INFO, "thread=%016" PRIx64, id);
    return NULL;
}

static void
test_threads_write_whole_lines_of_their_own(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, log_a_lot, (void *)(i + 1)), 0);
    int n = 0;
    while (n < THREADS * LINES) {
        char text[4096];
        ssize_t got = recv(ends[0], text, sizeof(text) - 1, 0); /* the runner has a deadline */
        assert_true(got > 0);
        text[got] = '\0';
        const char *thread = strstr(text, "thread="), *req = strstr(text, "req=");
        assert_non_null(thread);
        assert_non_null(req);
        assert_memory_equal(thread + 7, req + 4, 16);
        assert_int_equal(text[got - 1], '\n');
        n++;
    }
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

static void
test_foreign_text_is_made_safe(void **state)
{
    (void)state;
    char out[8];
    assert_string_equal(log_safe("a\nb\x80~", out, sizeof(out)), "a?b?~");
    assert_string_equal(log_safe("longer than that", out, sizeof(out)), "longer ");
    assert_string_equal(log_safe("x", out, 1), "");
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_line_has_time_level_name_and_one_end),
        TEST(test_the_journal_gets_priorities),
        TEST(test_levels_below_are_silent),
        TEST(test_the_request_is_named),
        TEST(test_a_line_never_breaks_nor_exceeds_its_size),
        TEST(test_errno_is_for_the_line_and_stays),
        TEST(test_repeats_are_limited_and_counted),
        TEST(test_threads_write_whole_lines_of_their_own),
        TEST(test_foreign_text_is_made_safe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
