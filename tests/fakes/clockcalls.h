/*
 * What libraries that show a process another clock (LD_PRELOAD) share: the
 * file that says which, and the calls that are made of clock_gettime, which
 * each of them replaces.
 */
#ifndef FIELDGATE_TESTS_CLOCKCALLS_H
#define FIELDGATE_TESTS_CLOCKCALLS_H

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* The file that the environment names by 'name', mapped; NULL: there is none. */
static const void *
map_setting(const char *name, size_t size)
{
    const char *path = getenv(name);
    int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return NULL;
    void *p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    return p != MAP_FAILED ? p : NULL;
}

int
gettimeofday(struct timeval *restrict ret_tv, void *restrict zone)
{
    (void)zone;
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    ret_tv->tv_sec = ts.tv_sec;
    ret_tv->tv_usec = ts.tv_nsec / 1000;
    return 0;
}

time_t
time(time_t *ret_time)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    if (ret_time != NULL)
        *ret_time = ts.tv_sec;
    return ts.tv_sec;
}

#endif
