/* What cloudd asks of Linux: see sys_linux.h. */
#include "services/cloudd/sys_linux.h"

#include <errno.h>
#include <mntent.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
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

const char sys_kernel_boot_id[] = "/proc/sys/kernel/random/boot_id";

static uint64_t
kernel_boot_id(const char *path)
{
    char text[64] = "";
    uint64_t h = 0xcbf29ce484222325u;
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return 0;
    bool ok = fgets(text, sizeof(text), f) != NULL;
    (void)fclose(f); /* was only read */
    for (const char *p = text; ok && *p != '\0'; p++)
        h = (h ^ (uint8_t)*p) * 0x100000001b3u;
    return ok ? h : 0;
}

static uint64_t
read_marker(const char *path)
{
    uint64_t id = 0;
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return 0;
    if (fread(&id, sizeof(id), 1, f) != 1)
        id = 0;
    (void)fclose(f); /* was only read */
    return id;
}

static bool
write_marker(const char *path, uint64_t id)
{
    char temporary[4096];
    int n = snprintf(temporary, sizeof(temporary), "%s.new", path);
    FILE *f = n > 0 && (size_t)n < sizeof(temporary) ? fopen(temporary, "we") : NULL;
    if (f == NULL)
        return false;
    bool ok = fwrite(&id, sizeof(id), 1, f) == 1;
    ok = fclose(f) == 0 && ok;
    return ok && rename(temporary, path) == 0;
}

uint64_t
sys_boot_id(const char *kernel_id, const char *marker)
{
    uint64_t id = kernel_boot_id(kernel_id);
    if (id == 0)
        id = read_marker(marker);
    if (id != 0)
        return id;
    /* The first start after a boot. */
    if (getrandom(&id, sizeof(id), 0) != (ssize_t)sizeof(id) || !write_marker(marker, id))
        return 0;
    return id;
}
