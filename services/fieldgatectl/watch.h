/*
 * Streams of tag values of several sources at once, each connected again when
 * it breaks; see tags.c for the command.
 */
#ifndef FIELDGATE_CTL_WATCH_H
#define FIELDGATE_CTL_WATCH_H

#include <stdbool.h>
#include <stddef.h>

struct peer;
struct watch;

/* Sources at once: the device has so many streams for all its clients. */
enum { WATCH_SOURCES_MAX = 32 };

/* 'interval': ms as text, or NULL for every update. NULL: no memory. */
struct watch *watch_new(const struct peer *peer, const char *interval, bool json);
void watch_free(struct watch *w);
/* "provider/source" or "provider/source/tag"; once or several times. Exit code. */
int watch_add(struct watch *w, const char *what);
/* Without watch_add: all sources that the device has now. Exit code. */
int watch_add_all(struct watch *w);
/* Prints values until a signal or a refusal. Exit code; CTL_OK after SIGINT. */
int watch_run(struct watch *w);

#endif
