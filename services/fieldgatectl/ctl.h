/*
 * fieldgatectl: what its commands share. Each returns an exit code.
 */
#ifndef FIELDGATE_CTL_H
#define FIELDGATE_CTL_H

#include <stdbool.h>
#include <stddef.h>

#include "libcommon/base.h"

/* The exit codes; the manual page promises them. */
enum ctl_exit {
    CTL_OK = 0,
    CTL_REFUSED = 1, /* by the device, which said why */
    CTL_USAGE = 2,   /* wrong words or values, nothing was sent; or no terminal for it */
    CTL_UNREACHABLE =
        3, /* no connection, one that broke, or a certificate that is not trusted */
    CTL_SIGNED_OUT = 4, /* no session, or one that has ended */
    CTL_LOCAL = 5,      /* a file, the terminal or memory of this computer */
    CTL_SIGNAL = 128,   /* plus its number */
};

/* The options that all commands have; NULL: not given. */
struct ctl {
    const char *profile, *url, *cacert, *fingerprint;
    bool raw;
};

/* To stderr: "fieldgatectl: …" and a newline, with nothing in it that moves a terminal. */
void complain(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* To stderr as above, without the name before and the newline after. */
void say(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* Complains that there is no memory; CTL_LOCAL. */
int out_of_memory(void);

/* Prints what there is; exit code. */
int ctl_usage(void);

struct args;
int ctl_list(struct ctl *ctl, struct args *args);
int ctl_help(struct ctl *ctl, struct args *args);
int ctl_call(struct ctl *ctl, struct args *args);
int ctl_sign_in(struct ctl *ctl, struct args *args);
int ctl_sign_out(struct ctl *ctl, struct args *args);
int ctl_password(struct ctl *ctl, struct args *args);
int ctl_tags(struct ctl *ctl, struct args *args);
int ctl_audit(struct ctl *ctl, struct args *args);

#endif
