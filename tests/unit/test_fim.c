/* services/auditd/fim.c: manifests as they may be found, and files behind them. */
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "services/auditd/fim.h"

static char dir[64], manifest[128], file[128];
static const atomic_bool hurry = true;
/* SHA-256("abc"), FIPS 180-2 appendix B.1 */
static const char abc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

static void
write_file(const char *path, const char *bytes, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, n), (ssize_t)n);
    assert_int_equal(close(fd), 0);
}

static int
set_up(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/fg-fim-XXXXXX");
    assert_non_null(mkdtemp(dir));
    (void)snprintf(manifest, sizeof(manifest), "%s/MANIFEST", dir);
    (void)snprintf(file, sizeof(file), "%s/abc", dir);
    write_file(file, "abc", 3);
    return 0;
}

static int
tear_down(void **state)
{
    (void)state;
    (void)unlink(manifest);
    (void)unlink(file);
    return rmdir(dir);
}

static struct fim_result
check(const char *text, size_t n, const uint8_t *accepted)
{
    struct fim_result result;
    write_file(manifest, text, n);
    assert_int_equal(fim_check(manifest, accepted, &hurry, &result), 0);
    return result;
}

static void
assert_found(struct fim_result r, enum fim_problem problem, const char *path)
{
    assert_int_equal(r.n_problems, 1);
    assert_int_equal(r.findings[0].problem, problem);
    assert_string_equal(r.findings[0].path, path);
    fim_result_done(&r);
}

static void
the_hash_is_that_of_fips_180_2(void **state)
{
    (void)state;
    char text[512];
    int n = snprintf(text, sizeof(text), "fieldgate-manifest 1\nd 700 %s\nf 600 %s %s\n", dir,
                     abc, file);
    struct fim_result r = check(text, (size_t)n, NULL);
    assert_int_equal(r.n_problems, 0);
    assert_int_equal(r.n_files, 1);
    assert_true(r.is_read);
    /* accepted: this one, and no other */
    struct fim_result again = check(text, (size_t)n, r.manifest);
    assert_int_equal(again.n_problems, 0);
    again.manifest[31] ^= 1;
    assert_found(check(text, (size_t)n, again.manifest), FIM_NOT_ACCEPTED, manifest);
    write_file(file, "abd", 3);
    assert_found(check(text, (size_t)n, NULL), FIM_CHANGED, file);
    write_file(file, "abc", 3);
}

static void
what_is_no_manifest_is_one_finding(void **state)
{
    (void)state;
#define HEAD "fieldgate-manifest 1\n"
#define HASH "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    static const char *const bad[] = {
        "",
        "\n",
        HEAD,
        "fieldgate-manifest 1",
        "fieldgate-manifest 10\nd 755 /tmp\n",
        "d 755 /tmp\n",
        HEAD "d 755 /tmp",
        HEAD "d 755 tmp\n",
        HEAD "d 755 \n",
        HEAD "d 755\n",
        HEAD "d  755 /tmp\n",
        HEAD "x 755 /tmp\n",
        HEAD "d 855 /tmp\n",
        HEAD "d 77777 /tmp\n",
        HEAD "f 755 /tmp\n",
        HEAD "f 755 " HASH "\n",
        HEAD "f 755 " HASH "00 /tmp/x\n",
        HEAD "f 755 0" HASH " /tmp/x\n",
        HEAD "f 755 zz7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad /tmp/x\n",
        HEAD "d 755 /tmp\n\n",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct fim_result r = check(bad[i], strlen(bad[i]), NULL);
        assert_false(r.is_read);
        assert_found(r, FIM_UNUSABLE, manifest);
    }
    static const char nul[] = HEAD "d 755 /tmp\0x\n";
    assert_found(check(nul, sizeof(nul) - 1, NULL), FIM_UNUSABLE, manifest);
}

static void
a_manifest_beyond_the_bounds_is_unusable(void **state)
{
    (void)state;
    char *text = malloc(FIM_MANIFEST_MAX + 1);
    assert_non_null(text);
    size_t n = (size_t)sprintf(text, HEAD "d 755 /");
    memset(text + n, 'x', FIM_MANIFEST_MAX + 1 - n);
    text[n + PATH_MAX] = '\n'; /* one path too long */
    assert_found(check(text, n + PATH_MAX + 1, NULL), FIM_UNUSABLE, manifest);
    text[FIM_MANIFEST_MAX] = '\n';
    assert_found(check(text, FIM_MANIFEST_MAX + 1, NULL), FIM_UNUSABLE, manifest);
    for (n = strlen(HEAD); n + 10 < FIM_MANIFEST_MAX; n += 10) /* too many entries */
        memcpy(text + n, "d 755 /tm\n", 10);
    assert_found(check(text, n, NULL), FIM_UNUSABLE, manifest);
    free(text);
}

static void
a_manifest_that_is_not_there_or_a_directory_is_told_apart(void **state)
{
    (void)state;
    struct fim_result r;
    (void)unlink(manifest);
    assert_int_equal(fim_check(manifest, NULL, &hurry, &r), 0);
    assert_found(r, FIM_MISSING, manifest);
    assert_int_equal(fim_check(dir, NULL, &hurry, &r), 0);
    assert_found(r, FIM_UNUSABLE, dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_hash_is_that_of_fips_180_2),
        cmocka_unit_test(what_is_no_manifest_is_one_finding),
        cmocka_unit_test(a_manifest_beyond_the_bounds_is_unusable),
        cmocka_unit_test(a_manifest_that_is_not_there_or_a_directory_is_told_apart),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
