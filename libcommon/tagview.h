/*
 * A subscriber's view of the tag bus: the daemons that provide tags, every tag
 * of each by name, with its last value, and who listens to it. A sample costs one look-up by
 * number and the tag's own listeners, nothing else, and allocates nothing.
 *
 * Entries live while a provider lists them or somebody holds them, so that a
 * listener keeps its tags by name while catalogues come and go. Loop thread
 * only.
 */
#ifndef FIELDGATE_TAGVIEW_H
#define FIELDGATE_TAGVIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/tagbus.h"

enum {
    TAGVIEW_TAGS_MAX = 200000, /* entries, of all providers together */
    TAGVIEW_DAEMONS_MAX = 16,
};

struct tagview;
struct tagview_tag;
struct tagview_daemon;

/* Told of each update of a tag; lives in its owner's memory. */
struct tagview_listener {
    void (*fn)(struct tagview_listener *l);
    void *owner;
    struct tagview_tag *tag;
    struct tagview_listener *next, **at; /* in the tag's list */
};

struct tagview_tag {
    struct tagview_tag *next; /* same hash bucket */
    uint64_t hash;
    struct tagview_daemon *daemon; /* who lists it; NULL: nobody does now */
    uint32_t no;                   /* its number there */
    uint32_t interval_ms;
    uint16_t size;
    uint8_t type, access;
    bool has_value;         /* there was a good value in this type */
    bool has_sample;        /* there was any sample */
    struct tag_sample last; /* its bytes point to 'bytes' */
    uint8_t *bytes;
    size_t bytes_cap;
    uint64_t version; /* grows with each sample */
    unsigned n_holds;
    struct tagview_listener *listeners;
    void *memo; /* the user's, e.g. a text made of it; let go with the last hold and */
    void (*memo_free)(void *memo);        /* when the definition changes */
    const char *provider, *source, *name; /* in 'text' */
    char unit[TAG_UNIT_MAX * 4 + 1];
    char text[];
};

struct tagview_stats {
    uint64_t tags, samples, updates, refused_tags;
};

/* Returns 0 or -ENOMEM. */
int tagview_new(struct tagview **ret_view);
/*
 * Follows every daemon that provides tags, for ever, and makes the metrics of
 * that. Once per process. 0 or -errno.
 */
int tagview_follow(struct tagview *v, struct bus *bus, struct loop *loop);
/* The same for the daemon 'self', that provides tags: but its own, which it has at hand. */
int tagview_follow_others(struct tagview *v, struct bus *bus, struct loop *loop,
                          const char *self);
/* Has each of them told its catalogue? */
bool tagview_knows_all(const struct tagview *v);
/* 'fn' runs after each change of a catalogue. One per view. */
void tagview_on_catalogue(struct tagview *v, void (*fn)(void *arg), void *arg);
void tagview_free(struct tagview *v); /* NULL does nothing; listeners must be gone */

/*
 * What the subscriber reports (struct tag_sub_events); 'arg' is the view. A
 * provider that goes away makes its tags "offline" once, a tag that it lists no
 * more and somebody holds becomes "config"; a next snapshot brings them back.
 * A catalogue that finds no memory (-ENOMEM) leaves the old one.
 */
int tagview_catalogue(void *arg, const char *daemon, const struct tag_def *defs, size_t n);
void tagview_samples(void *arg, const char *daemon, const struct tag_sample *s, size_t n,
                     bool snapshot);
void tagview_presence(void *arg, const char *daemon, bool up);

/* Did 'daemon' ever tell its catalogue? */
bool tagview_knows(const struct tagview *v, const char *daemon);

/* The entry, listed or held; NULL when there is none. */
struct tagview_tag *tagview_find(const struct tagview *v, const char *provider,
                                 const char *source, const char *name);
bool tagview_has_provider(const struct tagview *v, const char *provider);
/* Keeps the entry of this name, made if there is none. NULL: no memory or too many. */
struct tagview_tag *tagview_hold(struct tagview *v, const char *provider, const char *source,
                                 const char *name);
void tagview_release(struct tagview *v, struct tagview_tag *t);
/* 'l' has fn and owner set; the tag must be held meanwhile. */
void tagview_listen(struct tagview_tag *t, struct tagview_listener *l);
void tagview_unlisten(struct tagview_listener *l);
/* Walks the listed tags in catalogue order: begin with *at = 0; NULL at the end. */
struct tagview_tag *tagview_next(const struct tagview *v, size_t *at);
static inline bool
tagview_tag_is_listed(const struct tagview_tag *t)
{
    return t->daemon != NULL;
}
const char *tagview_daemon_of(const struct tagview_tag *t);
/* Where to ask the daemon that lists the tag; NULL: nobody lists it. */
struct bus_peer *tagview_peer_of(const struct tagview_tag *t);

void tagview_get_stats(const struct tagview *v, struct tagview_stats *ret_stats);

#endif
