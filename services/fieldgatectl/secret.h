/*
 * Questions to the person at the terminal, and passwords from elsewhere than
 * the command line, which every user of the computer can read.
 */
#ifndef FIELDGATE_CTL_SECRET_H
#define FIELDGATE_CTL_SECRET_H

#include <stdbool.h>
#include <stddef.h>

enum { SECRET_SIZE = 512 };

/* Asks at the terminal without showing what is typed. Exit code; complains. */
int secret_ask(const char *prompt, char ret_secret[SECRET_SIZE]);
/* Lines of a file, or of stdin for NULL: the first 'n' of them. Exit code; complains. */
int secret_read(const char *path, size_t n, char ret_lines[][SECRET_SIZE]);
/* Asks at the terminal; *ret_yes after y or yes. CTL_USAGE: there is no terminal. */
int secret_confirm(const char *question, bool *ret_yes);

#endif
