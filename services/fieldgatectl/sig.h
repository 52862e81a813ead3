/*
 * Signals that end the program, taken in where it waits: they are blocked and
 * seen as a descriptor that becomes readable, so nothing is left half done.
 */
#ifndef FIELDGATE_CTL_SIG_H
#define FIELDGATE_CTL_SIG_H

/* Blocks INT, TERM, HUP and QUIT, ignores PIPE and XFSZ. 0 or -errno. */
int sig_open(void);
/* Readable when one has come. */
int sig_fd(void);
/* The number of the one that has come; 0: none yet. */
int sig_taken(void);
/*
 * Waits until 'fd' is ready for 'events' of poll(2). 0; -EINTR: a signal came
 * first; another -errno. An error of 'fd' counts as ready.
 */
int sig_wait(int fd, short events);

#endif
