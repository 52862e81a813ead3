/*
 * Where results go: stdout, or a file that is there only when it is whole.
 */
#ifndef FIELDGATE_CTL_OUT_H
#define FIELDGATE_CTL_OUT_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

struct out {
    int fd;
    bool is_terminal;
    bool is_ascii;                       /* one without UTF-8 */
    char path[PATH_MAX], temp[PATH_MAX]; /* "": stdout, or nothing to rename */
    int err;                             /* the first -errno; puts do nothing then */
    size_t n;                            /* bytes of 'bytes' */
    char bytes[4096];                    /* at most PIPE_BUF, see out.c */
};

void out_stdout(struct out *o);
/*
 * Begins 'path': in a new file beside it, or in what is there already and no
 * file. It has the mode of the one that it replaces, or that of any new file. 0
 * or -errno.
 */
int out_file(struct out *o, const char *path);
/* As out_file, for a file that only its owner may read, and that no signal cuts short. */
int out_private(struct out *o, const char *path);
void out_put(struct out *o, const char *bytes, size_t n);
void out_puts(struct out *o, const char *text);
void out_flush(struct out *o);
/* Writes what is gathered; a file appears in its place, on disk. Returns 0 or -errno. */
int out_commit(struct out *o);
/* As out_commit, but complains of faults; exit code. */
int out_end(struct out *o);
/* Takes an unfinished file away. After out_commit it does nothing. */
void out_abandon(struct out *o);
/* Complains of -errno 'r' and returns the exit code; a closed pipe ends the program quietly. */
int out_failed(const struct out *o, int r);

#endif
