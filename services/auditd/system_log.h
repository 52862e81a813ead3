/*
 * /system/log: how much of the machine's log is kept (sys_log.h does it), and
 * the log as a zip file.
 */
#ifndef FIELDGATE_AUDITD_SYSTEM_LOG_H
#define FIELDGATE_AUDITD_SYSTEM_LOG_H

#include <stdbool.h>

#include "gen/api_auditd.h"
#include "libcommon/loop.h"
#include "services/auditd/sys_log.h"

struct system_log {
    const char *dir; /* --set log-dir, NULL: not given */
    struct sys_log machine;
    struct system_log_setting setting; /* as committed; without disks */
    struct loop_timer timer;           /* the next time the machine is told */
    bool is_telling;                   /* a worker does */
    bool changed;                      /* since it began */
};

struct auditd;
/* Reads the setting and begins to see to it. 0 or -errno. */
int system_log_start(struct auditd *a);
void system_log_stop(struct auditd *a);

#endif
