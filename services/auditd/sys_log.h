/*
 * The log of the machine, as auditd limits and reads it. Two builds of one
 * interface: sys_log_journal.c is a device, whose log is journald's;
 * sys_log_files.c the bench, where each program writes a file of a directory.
 */
#ifndef FIELDGATE_AUDITD_SYS_LOG_H
#define FIELDGATE_AUDITD_SYS_LOG_H

#include <limits.h>
#include <stdint.h>

struct pack;

/* How much of it is wanted. */
struct sys_log_limits {
    uint64_t megabytes; /* 2^20 bytes, all together */
    unsigned days;      /* lines older than that go; 0: of any age */
};

struct sys_log {
    char dir[PATH_MAX]; /* bench: where the files are */
    char run[PATH_MAX]; /* device: where requests to fieldgate-logkeeper go */
    /*
     * Makes the log keep no more than that. Blocks. Called again every
     * 'period_us', since logs grow, and not sooner than 'pause_us' after the
     * last time. 0 or -errno.
     */
    int (*limit)(const struct sys_log *l, const struct sys_log_limits *limits);
    uint64_t period_us, pause_us;
    /*
     * Writes what there is at this moment as entries of 'z'. Blocks; reads
     * nothing of 'l' that ever changes. 0 or -errno, also that of 'z'.
     */
    int (*put)(const struct sys_log *l, struct pack *z);
    /* A path on the file system that holds the log. */
    const char *(*place)(const struct sys_log *l);
};

/* 'dir': of the log files. 0 or -ENAMETOOLONG. */
int sys_log_bench(struct sys_log *ret_log, const char *dir);
/* 'run_dir': /run/fieldgate. 0 or -ENAMETOOLONG. */
int sys_log_device(struct sys_log *ret_log, const char *run_dir);

#endif
