/*
 * LD_PRELOAD library: a disk that takes no more. While the file HELDSYNC_FILE
 * exists, fdatasync() does not return; HELDSYNC_FILE with ".waits" is made as
 * soon as one waits.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void
tell(const char *held)
{
    char name[4096];
    (void)snprintf(name, sizeof(name), "%s.waits", held);
    int fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
}

int
fdatasync(int fd)
{
    static const struct timespec moment = { .tv_nsec = 5000000 };
    const char *held = getenv("HELDSYNC_FILE");
    while (held != NULL && access(held, F_OK) == 0) {
        tell(held);
        nanosleep(&moment, NULL);
    }
    return (int)syscall(SYS_fdatasync, fd);
}
