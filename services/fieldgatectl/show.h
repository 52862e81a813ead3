/*
 * Shows what a device sent, as it comes and without keeping it: as it is, as
 * harmless text, or as harmless JSON with one member on each line.
 */
#ifndef FIELDGATE_CTL_SHOW_H
#define FIELDGATE_CTL_SHOW_H

#include <stdbool.h>
#include <stddef.h>

#include "services/fieldgatectl/out.h"
#include "services/fieldgatectl/safe.h"

enum show_how { SHOW_RAW, SHOW_TEXT, SHOW_JSON };

struct show {
    struct out *out;
    enum show_how how;
    struct safe safe;
    /* JSON */
    unsigned depth;
    bool in_string, escaped;
    bool opened; /* a bracket, and nothing after it yet */
    char last;   /* byte that was shown */
};

void show_init(struct show *s, struct out *out, enum show_how how);
void show_put(struct show *s, const char *bytes, size_t n);
/* It is over; what is for a person ends a line. */
void show_end(struct show *s);

#endif
