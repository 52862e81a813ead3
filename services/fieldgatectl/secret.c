/*
 * Passwords and questions. See secret.h.
 */
#include "services/fieldgatectl/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <strings.h>
#include <termios.h>
#include <unistd.h>

#include "libcommon/str.h"
#include "services/fieldgatectl/ctl.h"
#include "services/fieldgatectl/safe.h"
#include "services/fieldgatectl/sig.h"

#include "libcommon/banned.h"

/* One line without its end; at the end of the file what there is. 0, -E2BIG, -EINTR, -errno. */
static int
read_line(int fd, char line[SECRET_SIZE])
{
    size_t n = 0;
    for (;;) {
        char c;
        int r = sig_wait(fd, POLLIN);
        ssize_t got = r < 0 ? 0 : read(fd, &c, 1); /* no byte more: others may read on */
        if (r < 0 || (got < 0 && errno != EINTR && errno != EAGAIN))
            return r < 0 ? r : -errno;
        if (got == 0 || (got == 1 && c == '\n'))
            break;
        if (got == 1 && n + 1 >= SECRET_SIZE)
            return -E2BIG;
        if (got == 1)
            line[n++] = c;
    }
    if (n > 0 && line[n - 1] == '\r')
        n--;
    line[n] = '\0';
    return memchr(line, '\0', n) != NULL ? -EINVAL : 0;
}

static int
read_fault(const char *where, int r)
{
    if (r == -EINTR)
        return CTL_SIGNAL + sig_taken();
    complain("cannot read from %s: %s", where,
             r == -E2BIG ? "the line is too long" : strerror(-r));
    return CTL_LOCAL;
}

int
secret_read(const char *path, size_t n, char ret_lines[][SECRET_SIZE])
{
    int fd = path == NULL ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int r = fd < 0 ? -errno : 0;
    for (size_t i = 0; i < n && r == 0; i++)
        r = read_line(fd, ret_lines[i]);
    if (path != NULL && fd >= 0)
        (void)close(fd); /* was only read */
    return r < 0 ? read_fault(path != NULL ? path : "stdin", r) : CTL_OK;
}

static int
open_terminal(void)
{
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return -errno;
    return fd;
}

/* There are names in it. */
static int
put_question(int fd, const char *text)
{
    struct buf b;
    buf_init(&b, 8192);
    safe_lines(&b, text, strlen(text), safe_ascii(fd));
    int r = b.err < 0 ? b.err : write(fd, b.data, b.len) < 0 ? -errno : 0;
    buf_done(&b);
    return r;
}

int
secret_ask(const char *prompt, char ret_secret[SECRET_SIZE])
{
    struct termios before, quiet;
    int fd = open_terminal();
    if (fd < 0 || tcgetattr(fd, &before) < 0) {
        if (fd >= 0)
            (void)close(fd); /* is none */
        complain(
            "there is no terminal to ask for a password: --password-file or --password-stdin");
        return CTL_USAGE;
    }
    quiet = before;
    quiet.c_lflag &= ~(tcflag_t)ECHO;
    int r = tcsetattr(fd, TCSAFLUSH, &quiet) < 0 ? -errno : put_question(fd, prompt);
    if (r == 0)
        r = read_line(fd, ret_secret);
    (void)tcsetattr(fd, TCSAFLUSH, &before); /* as it was, if the terminal is still there */
    (void)!write(fd, "\n", 1);               /* the one that was typed is not shown */
    (void)close(fd);
    return r < 0 ? read_fault("the terminal", r) : CTL_OK;
}

int
secret_confirm(const char *question, bool *ret_yes)
{
    char line[SECRET_SIZE];
    int fd = open_terminal();
    if (fd < 0)
        return CTL_USAGE;
    int r = put_question(fd, question);
    if (r == 0)
        r = read_line(fd, line);
    (void)close(fd); /* a terminal keeps nothing back */
    if (r < 0)
        return read_fault("the terminal", r);
    *ret_yes = strcasecmp(line, "y") == 0 || strcasecmp(line, "yes") == 0;
    return CTL_OK;
}
