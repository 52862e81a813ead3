/*
 * Serial ports as Linux shows them in /sys/class/tty.
 */
#include "services/iod/sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/serial.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/log.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

enum {
    NAME_SIZE = 32,
    NAMES_MAX = 256,
    SETTLE_US = 500000, /* until the machine has given a new port its group */
};

/* ttyUSB and ttyACM are numbered as they are plugged in: their name is no place. */
static const struct {
    const char *prefix;
    bool is_plugged;
} families[] = {
    { "ttyS", false },   { "ttyM", false },  { "ttyAMA", false },
    { "ttymxc", false }, { "ttyUSB", true }, { "ttyACM", true },
};

/* The index of its family; -1: no serial port by its name. */
static int
family_of(const char *name)
{
    size_t letters = strcspn(name, "0123456789");
    if (name[letters] == '\0' || name[letters + strspn(name + letters, "0123456789")] != '\0')
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(families); i++)
        if (strlen(families[i].prefix) == letters &&
            memcmp(families[i].prefix, name, letters) == 0)
            return (int)i;
    return -1;
}

/* Fixed ports first, each family by number. */
static int
compare_names(const void *a, const void *b)
{
    const char *x = a, *y = b;
    int fx = family_of(x), fy = family_of(y);
    if (fx != fy)
        return fx - fy;
    size_t lx = strlen(x), ly = strlen(y);
    return lx != ly ? (lx < ly ? -1 : 1) : strcmp(x, y);
}

/* The attribute of a tty without its line end; false: it has none. */
static bool
read_attribute(const char *dir, const char *name, char out[NAME_SIZE])
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = n > 0 && (size_t)n < sizeof(path) ? fopen(path, "re") : NULL;
    if (f == NULL)
        return false;
    bool ok = fgets(out, NAME_SIZE, f) != NULL;
    (void)fclose(f); /* was only read */
    if (ok)
        out[strcspn(out, "\n")] = '\0';
    return ok;
}

/* "type" is 0 for a UART that the driver allows for and did not find. */
static bool
is_hardware(const char *dir)
{
    char value[NAME_SIZE];
    if (read_attribute(dir, "type", value) && str_eq(value, "0"))
        return false;
    return !(read_attribute(dir, "console", value) && str_eq(value, "Y"));
}

/* A UART divides its clock by 16 and more. */
static uint32_t
baud_max_of(const char *dir)
{
    char value[NAME_SIZE];
    uint32_t hz = 0;
    if (!read_attribute(dir, "uartclk", value) || parse_u32(value, 0, UINT32_MAX, &hz) < 0)
        return SERIAL_BAUD_MAX;
    hz /= 16;
    return hz < SERIAL_BAUD_MIN || hz > SERIAL_BAUD_MAX ? SERIAL_BAUD_MAX : hz;
}

/* The device that has the tty, and which of its ttys this is. */
static int
locate(const char *sys_dir, const char *dir, const char *name, char out[SYS_LOCATION_SIZE])
{
    char link[PATH_MAX], device[PATH_MAX], which[NAME_SIZE];
    int n = snprintf(link, sizeof(link), "%s/device", dir);
    if (n < 0 || (size_t)n >= sizeof(link) || realpath(link, device) == NULL)
        return -ENODEV; /* virtual */
    size_t skip = strlen(sys_dir), len = strlen(device);
    const char *place = strncmp(device, sys_dir, skip) == 0 ? device + skip : device;
    size_t name_len = strlen(name);
    bool is_plugged = families[family_of(name)].is_plugged;
    if (is_plugged && len > name_len && str_eq(device + len - name_len, name))
        device[len - name_len - 1] = '\0';
    if (!is_plugged)
        (void)str_copy(which, sizeof(which), name); /* as long */
    else if (!read_attribute(link, "port_number", which))
        (void)str_copy(which, sizeof(which), "0"); /* fits */
    n = snprintf(out, SYS_LOCATION_SIZE, "%s:%s", place, which);
    return n < 0 || n >= SYS_LOCATION_SIZE ? -ENAMETOOLONG : 0;
}

static int
read_port(const char *sys_dir, const char *name, struct sys_port *ret_port)
{
    struct sys_port p = { 0 };
    char dir[PATH_MAX];
    int n = snprintf(dir, sizeof(dir), "%s/class/tty/%s", sys_dir, name);
    if (n < 0 || (size_t)n >= sizeof(dir))
        return -ENAMETOOLONG;
    int r = locate(sys_dir, dir, name, p.location);
    if (r < 0)
        return r;
    if (!is_hardware(dir))
        return -ENODEV;
    p.baud_max = baud_max_of(dir);
    (void)snprintf(p.device, sizeof(p.device), "/dev/%s", name); /* fits */
    *ret_port = p;
    return 0;
}

static int
read_names(const char *sys_dir, char ret_names[NAMES_MAX][NAME_SIZE])
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s/class/tty", sys_dir), count = 0;
    DIR *dir = n > 0 && (size_t)n < sizeof(path) ? opendir(path) : NULL;
    if (dir == NULL)
        return -errno;
    const struct dirent *entry;
    while (count < NAMES_MAX && (entry = readdir(dir)) != NULL)
        if (family_of(entry->d_name) >= 0 &&
            str_copy(ret_names[count], NAME_SIZE, entry->d_name) == 0)
            count++;
    (void)closedir(dir); /* was only read */
    return count;
}

int
sys_find(const char *sys_dir, struct sys_port ret_ports[SERIAL_PORTS_MAX])
{
    char names[NAMES_MAX][NAME_SIZE];
    int n = read_names(sys_dir, names), n_ports = 0;
    if (n < 0)
        return n;
    qsort(names, (size_t)n, NAME_SIZE, compare_names);
    for (int i = 0; i < n; i++) {
        if (n_ports == SERIAL_PORTS_MAX) {
            log_warn("iod: more serial ports than %d", SERIAL_PORTS_MAX);
            break;
        }
        if (read_port(sys_dir, names[i], &ret_ports[n_ports]) == 0)
            n_ports++;
    }
    return n_ports;
}

int
sys_listed(const char *list, struct sys_port ret_ports[SERIAL_PORTS_MAX])
{
    int n = 0;
    for (const char *at = list;; at++) {
        size_t len = strcspn(at, ",");
        if (n == SERIAL_PORTS_MAX || at[0] != '/' || len >= SERIAL_DEVICE_SIZE)
            return -EINVAL;
        struct sys_port *p = &ret_ports[n++];
        *p = (struct sys_port){ .baud_max = SERIAL_BAUD_MAX };
        (void)str_copy_len(p->device, sizeof(p->device), at, len);     /* fits */
        (void)str_copy_len(p->location, sizeof(p->location), at, len); /* as above */
        at += len;
        if (*at == '\0')
            return n;
    }
}

bool
sys_can_rs485(const char *device)
{
    struct serial_rs485 rs485;
    int fd = open(device, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool can = ioctl(fd, TIOCGRS485, &rs485) == 0;
    (void)close(fd); /* nothing was written */
    return can;
}

/* ---- coming and going ---- */

struct sys_watch {
    struct loop *loop;
    int fd;
    struct loop_io *io;
    struct loop_timer settled;
};

static void
on_change(void *arg, uint32_t events)
{
    struct sys_watch *w = arg;
    _Alignas(struct inotify_event) char bytes[4096];
    bool is_ours = false;
    ssize_t n;
    (void)events;
    while ((n = read(w->fd, bytes, sizeof(bytes))) > 0)
        for (ssize_t at = 0; at < n;) {
            const struct inotify_event *e = (const void *)(bytes + at);
            /* After too many at once anything may have happened. */
            is_ours |= (e->mask & IN_Q_OVERFLOW) || (e->len > 0 && family_of(e->name) >= 0);
            at += (ssize_t)(sizeof(*e) + e->len);
        }
    if (is_ours && !loop_timer_is_set(&w->settled))
        /* Without memory the next change is the one that counts. */
        (void)loop_timer_set(w->loop, &w->settled, loop_now_us(w->loop) + SETTLE_US);
}

int
sys_watch_new(struct loop *loop, const char *dev_dir, void (*fn)(void *arg), void *arg,
              struct sys_watch **ret_watch)
{
    struct sys_watch *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return -ENOMEM;
    w->loop = loop;
    loop_timer_init(&w->settled, fn, arg);
    w->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    int r = w->fd < 0 ? -errno : 0;
    if (r == 0 && inotify_add_watch(w->fd, dev_dir, IN_CREATE | IN_DELETE) < 0)
        r = -errno;
    if (r == 0)
        r = loop_io_add(loop, w->fd, EPOLLIN, on_change, w, &w->io);
    if (r < 0) {
        sys_watch_free(w);
        return r;
    }
    *ret_watch = w;
    return 0;
}

void
sys_watch_free(struct sys_watch *w)
{
    if (w == NULL)
        return;
    loop_timer_cancel(w->loop, &w->settled);
    loop_io_remove(w->io);
    if (w->fd >= 0)
        (void)close(w->fd); /* was only read */
    free(w);
}
