/* What cloudd asks of Linux: the name of a boot. */
#include "services/cloudd/sys_linux.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "libcommon/base.h"

static char dir[64], marker[96];

static int
setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/test-sys-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    (void)snprintf(marker, sizeof(marker), "%s/boot", dir);
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    (void)unlink(marker);
    return rmdir(dir);
}

static void
the_kernel_names_the_boot_where_it_can_be_read(void **state)
{
    (void)state;
    uint64_t id = sys_boot_id(sys_kernel_boot_id, marker);
    assert_true(id != 0);
    assert_true(sys_boot_id(sys_kernel_boot_id, marker) == id);
    assert_int_equal(access(marker, F_OK), -1);
}

static void
a_marker_names_it_where_the_unit_hides_the_kernel(void **state)
{
    (void)state;
    uint64_t id = sys_boot_id("/no/such/file", marker);
    assert_true(id != 0);
    assert_true(sys_boot_id("/no/such/file", marker) == id); /* a restart */
    assert_int_equal(unlink(marker), 0);                     /* a boot */
    assert_true(sys_boot_id("/no/such/file", marker) != id);
    FILE *f = fopen(marker, "w"); /* cut off while it was written */
    assert_non_null(f);
    assert_int_equal(fclose(f), 0);
    assert_true(sys_boot_id("/no/such/file", marker) != 0);
    assert_true(sys_boot_id("/no/such/file", "/no/such/marker") == 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_kernel_names_the_boot_where_it_can_be_read, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_marker_names_it_where_the_unit_hides_the_kernel,
                                        setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
