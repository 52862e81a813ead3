/* Promises are kept in releases too, and ownership moves once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libcommon/base.h"

static void
test_a_broken_promise_is_named_and_aborts(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        (void)dup2(ends[1], STDERR_FILENO);
        (void)close(ends[0]);
        (void)signal(SIGABRT, SIG_DFL);
        MUST(1 + 1 == 3);
        _exit(0);
    }
    (void)close(ends[1]);
    char text[512] = { 0 };
    size_t len = 0;
    for (ssize_t n; (n = read(ends[0], text + len, sizeof(text) - 1 - len)) > 0;)
        len += (size_t)n;
    (void)close(ends[0]);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_non_null(strstr(text, "1 + 1 == 3"));
    assert_non_null(strstr(text, "test_base.c"));
}

static void
test_a_kept_promise_costs_nothing(void **state)
{
    (void)state;
    int evaluated = 0;
    MUST(++evaluated == 1);
    assert_int_equal(evaluated, 1);
}

static char *
take_over(void)
{
    CLEANUP(freep) char *text = strdup("kept");
    return MOVE_PTR(text);
}

static void
test_a_moved_pointer_outlives_its_scope(void **state)
{
    (void)state;
    char *text = take_over();
    assert_string_equal(text, "kept");
    free(text);
}

struct outer {
    int before;
    int member;
};

static void
test_container_of_finds_the_struct_around(void **state)
{
    (void)state;
    struct outer o;
    int *p = &o.member;
    assert_ptr_equal(CONTAINER_OF(p, struct outer, member), &o);
    int numbers[7];
    assert_int_equal(ARRAY_LEN(numbers), 7);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_broken_promise_is_named_and_aborts),
        cmocka_unit_test(test_a_kept_promise_costs_nothing),
        cmocka_unit_test(test_a_moved_pointer_outlives_its_scope),
        cmocka_unit_test(test_container_of_finds_the_struct_around),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
