/* What cloudd asks of Linux: see sys_linux.h. */
#include "services/cloudd/sys_linux.h"

#include <errno.h>
#include <mntent.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "libcommon/str.h"
#include "libcommon/banned.h"

static bool
is_below(const char *dir, const char *mount)
{
    size_t n = strlen(mount);
    if (n == 1)
        return true; /* the root */
    return strncmp(dir, mount, n) == 0 && (dir[n] == '/' || dir[n] == '\0');
}

int
sys_disk_of(const char *dir, struct sys_disk *ret_disk)
{
    struct statvfs st;
    if (statvfs(dir, &st) < 0)
        return -errno;
    *ret_disk = (struct sys_disk){ .total = (uint64_t)st.f_blocks * st.f_frsize,
                                   .free = (uint64_t)st.f_bavail * st.f_frsize };
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    if (mounts == NULL)
        return 0; /* its name is not worth failing for */
    struct mntent entry;
    char text[4096];
    while (getmntent_r(mounts, &entry, text, sizeof(text)) != NULL)
        if (is_below(dir, entry.mnt_dir) && strlen(entry.mnt_dir) >= strlen(ret_disk->mount) &&
            str_copy(ret_disk->mount, SYS_NAME_MAX, entry.mnt_dir) == 0)
            (void)str_copy(ret_disk->device, SYS_NAME_MAX, entry.mnt_fsname); /* else: empty */
    (void)endmntent(mounts);                                                  /* always 1 */
    return 0;
}

uint64_t
sys_boot_id(void)
{
    char text[64] = "";
    uint64_t h = 0xcbf29ce484222325u;
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (f == NULL)
        return 0;
    bool ok = fgets(text, sizeof(text), f) != NULL;
    (void)fclose(f); /* was only read */
    for (const char *p = text; ok && *p != '\0'; p++)
        h = (h ^ (uint8_t)*p) * 0x100000001b3u;
    return ok ? h : 0;
}
