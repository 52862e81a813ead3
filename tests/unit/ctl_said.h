/*
 * For tests of fieldgatectl's modules: what they complain of is kept instead
 * of printed.
 */
#ifndef FIELDGATE_TEST_CTL_SAID_H
#define FIELDGATE_TEST_CTL_SAID_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "services/fieldgatectl/ctl.h"

static char said[4096]; /* all since said_nothing() */

static inline void
said_nothing(void)
{
    said[0] = '\0';
}

static void PRINTF_LIKE(1, 0)
keep(const char *fmt, va_list list)
{
    size_t n = strlen(said);
    vsnprintf(said + n, sizeof(said) - n, fmt, list);
}

void
complain(const char *fmt, ...)
{
    va_list list;
    va_start(list, fmt);
    keep(fmt, list);
    va_end(list);
}

void
say(const char *fmt, ...)
{
    va_list list;
    va_start(list, fmt);
    keep(fmt, list);
    va_end(list);
}

int
out_of_memory(void)
{
    complain("out of memory");
    return CTL_LOCAL;
}

#endif
