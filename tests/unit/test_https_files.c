/*
 * Files of the HTTPS setting: what is kept is there, and nothing that is
 * named goes.
 */
#include "gateway/https_files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "libcommon/str.h"

static char dir[] = "/tmp/test_https_files.XXXXXX";

static const char *
in_dir(const char *name)
{
    static char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name); /* fits */
    return path;
}

static bool
is_kept(const char *pair)
{
    char cert[PATH_MAX], key[PATH_MAX];
    https_pair_paths(dir, pair, cert, key);
    bool is_there = access(cert, F_OK) == 0;
    assert_int_equal(is_there, access(key, F_OK) == 0);
    return is_there;
}

/* Puts a pair into force; its name into 'ret_pair'. */
static void
commit_pair(const char *cert, char ret_pair[HTTPS_PAIR_SIZE])
{
    struct https_setting s = { .port = 8443, .redirect = true }, got = { 0 };
    assert_int_equal(https_pair_keep(dir, cert, "key", ret_pair), 0);
    memcpy(s.pair, ret_pair, sizeof(s.pair));
    memset(s.cert_name, '"', sizeof(s.cert_name) - 1); /* the longest as JSON */
    assert_int_equal(https_file_stage(dir, &s), 0);
    assert_int_equal(https_file_commit(dir), 0);
    assert_int_equal(https_file_read(dir, "https.conf", &got), 0);
    assert_true(https_setting_eq(&s, &got));
}

static void
test_the_pairs_of_two_settings_stay_and_all_others_go(void **state)
{
    (void)state;
    char pairs[4][HTTPS_PAIR_SIZE];
    for (int i = 0; i < 3; i++)
        commit_pair((const char *[]){ "a", "b", "c" }[i], pairs[i]);
    assert_int_equal(https_pair_keep(dir, "d", "key", pairs[3]), 0);
    const char *const keep[] = { pairs[3] };
    https_pairs_sweep(dir, keep, 1);
    assert_false(is_kept(pairs[0]));
    assert_true(is_kept(pairs[1]) && is_kept(pairs[2]) && is_kept(pairs[3]));
    https_pairs_sweep(dir, NULL, 0);
    assert_true(is_kept(pairs[1]) && is_kept(pairs[2]));
    assert_false(is_kept(pairs[3]));
}

static void
test_nothing_goes_while_it_is_not_known_what_is_named(void **state)
{
    (void)state;
    static const char *const names[] = { "https.conf", "https.last" };
    char pair[HTTPS_PAIR_SIZE], aside[PATH_MAX];
    for (int i = 0; i < 2; i++) {
        commit_pair("e", pair);
        (void)str_copy(aside, sizeof(aside), in_dir("aside")); /* fits */
        assert_int_equal(rename(in_dir(names[i]), aside), 0);
        assert_int_equal(mkdir(in_dir(names[i]), 0700), 0); /* opens, and cannot be read */
        https_pairs_sweep(dir, NULL, 0);
        assert_true(is_kept(pair));
        assert_int_equal(rmdir(in_dir(names[i])), 0);
        assert_int_equal(rename(aside, in_dir(names[i])), 0);
    }
}

static int
make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) == NULL;
}

static int
remove_dir(void **state)
{
    (void)state;
    https_pairs_sweep(dir, NULL, 0);
    (void)unlink(in_dir("https.conf")); /* and with these the pairs */
    (void)unlink(in_dir("https.last"));
    https_pairs_sweep(dir, NULL, 0);
    return rmdir(dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_pairs_of_two_settings_stay_and_all_others_go),
        cmocka_unit_test(test_nothing_goes_while_it_is_not_known_what_is_named),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
