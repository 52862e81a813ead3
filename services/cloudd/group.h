/*
 * A message group: which updates of its tags are sampled, and when what has
 * gathered is sent. Time comes in as an argument (monotonic µs), values come
 * from 'current', messages leave through 'emit': nothing here knows of
 * brokers, stores or buses.
 */
#ifndef FIELDGATE_CLOUDD_GROUP_H
#define FIELDGATE_CLOUDD_GROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/tagbus.h"
#include "services/cloudd/payload.h"

enum {
    GROUP_MESSAGE_MAX = 256 << 10, /* a message leaves at this size, whatever the threshold */
};

enum group_sampling {
    GROUP_ALL_VALUES,
    GROUP_LATEST_VALUES,
    GROUP_ALL_CHANGED_VALUES,
    GROUP_LATEST_CHANGED_VALUES,
};
enum group_threshold { GROUP_BY_TIME, GROUP_BY_SIZE, GROUP_IMMEDIATELY };

struct group_settings {
    enum group_sampling sampling;
    enum group_threshold threshold;
    uint64_t time_us;         /* by time; 0: immediately */
    size_t size;              /* by size; 0: immediately */
    uint64_t idle_us;         /* by size: silence after which all is sent; 0: never */
    uint64_t min_interval_us; /* between two messages */
    uint64_t poll_us;         /* 0: every update is sampled */
    const struct payload_property *properties;
    size_t n_properties;
};

struct group_tag_name {
    const char *provider, *source, *name;
};

struct group_events {
    /* The last value of tag 'i'; NULL when there is none. */
    const struct tag_sample *(*current)(void *arg, size_t i);
    void (*emit)(void *arg, const char *payload, size_t len);
    void *arg;
};

struct group;
/*
 * 'tags' are grouped by provider and source; texts and properties are the
 * caller's and stay. 0 or -ENOMEM.
 */
int group_new(const struct group_settings *settings, const struct group_tag_name *tags,
              size_t n_tags, const struct group_events *events, uint64_t now_us,
              struct group **ret_group);
void group_free(struct group *g); /* NULL does nothing */

/* Tag 'i' was updated. */
void group_update(struct group *g, size_t i, uint64_t now_us);
/* Sends what is due: at the end of a round with updates, and at group_due_us. */
void group_round(struct group *g, uint64_t now_us);
/* When group_round wants to run at the latest; UINT64_MAX: not before an update. */
uint64_t group_due_us(const struct group *g);
/* Sends all that has gathered (the group is about to change). */
void group_flush(struct group *g, uint64_t now_us);
/* Values and messages that found no memory, since it was asked last. */
uint64_t group_take_lost(struct group *g);

#endif
