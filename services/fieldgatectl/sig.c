/*
 * Signals as a descriptor. See sig.h.
 */
#include "services/fieldgatectl/sig.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "libcommon/banned.h"

static int signal_fd = -1;
static int taken;

int
sig_open(void)
{
    sigset_t set;
    (void)sigemptyset(&set); /* these fail for bad numbers only */
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGQUIT); /* a terminal must get its echo back */
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -errno;
    (void)signal(SIGPIPE, SIG_IGN); /* as above */
    (void)signal(SIGXFSZ, SIG_IGN); /* the write says it, and the file is taken away */
    signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return signal_fd < 0 ? -errno : 0;
}

int
sig_fd(void)
{
    return signal_fd;
}

int
sig_taken(void)
{
    struct signalfd_siginfo info;
    if (taken == 0 && read(signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        taken = (int)info.ssi_signo;
    return taken;
}

int
sig_wait(int fd, short events)
{
    struct pollfd fds[2] = { { .fd = fd, .events = events },
                             { .fd = signal_fd, .events = POLLIN } };
    for (;;) {
        if (sig_taken() != 0)
            return -EINTR;
        int n = poll(fds, 2, -1);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0 && fds[0].revents != 0)
            return 0;
    }
}
