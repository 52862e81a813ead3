/*
 * The insides of the slave's map, shared by sl_map.c (what lies where, and its
 * values) and sl_serve.c (requests). Not for others.
 *
 * A table has a cell per byte of its registers, or per bit, and a state per
 * unit (register or bit) that is the sum of what is wrong with it: a request
 * ORs the states of what it asks, and that is its whole check, besides the one
 * whether its slave shows them at all.
 */
#ifndef FIELDGATE_SL_TABLE_H
#define FIELDGATE_SL_TABLE_H

#include "libcommon/tagview.h"
#include "services/modbusd/sl_map.h"

enum {
    SL_UNMAPPED = 1,   /* in no zone */
    SL_NO_WRITE = 2,   /* by clients */
    SL_NO_READ = 4,    /* by clients */
    SL_NO_PATH = 8,    /* nobody provides the tag in this type */
    SL_NO_ANSWER = 16, /* its device or daemon is silent */
    SL_NO_ROOM = 32,   /* its value does not fit */
};

struct sl_tag {
    struct sl_map *map;
    struct tagview_listener tap; /* of a hub tag */
    struct mb_codec codec;       /* at offset 0 of the tag's cells */
    struct mb_scaling scaling;
    uint8_t format;
    uint8_t access; /* on the hub */
    uint8_t state;  /* SL_NO_…, of all its units */
    bool is_ref, placed;
    uint32_t at, n; /* cells */
    /* of an own tag: */
    uint32_t no;
    uint16_t size;
    bool written; /* since it exists */
    int64_t ts_us;
    char *name, *unit; /* in the map's texts */
};

struct sl_table {
    uint32_t units;       /* behind the last zone */
    uint8_t *cells;       /* units * wide */
    uint8_t *state;       /* units */
    uint8_t *only;        /* units: sl_zone_config's; NULL: all are shown by all slaves */
    unsigned wide;        /* cells of a unit: 2 or 1 */
    struct sl_tag **tags; /* by 'at'; they do not overlap */
    size_t n_tags;
};

struct sl_map {
    struct loop *loop;
    struct tagview *view;
    struct sl_engine_hooks hooks; /* sample and write */
    struct sl_table tables[SL_N_FORMATS];
    struct sl_tag *own; /* by number */
    size_t n_own;
    struct sl_tag *refs;
    size_t n_refs;
    char *texts;
    char provider[TAG_NAME_MAX + 1], source[TAG_NAME_MAX + 1];
    size_t n_jobs;
    bool retired;
    uint8_t room[TAG_BYTES_MAX]; /* bytes of the last sample told */
};

/* The first tag of the table that ends behind cell 'at'; its index, n_tags: none. */
size_t sl_table_find(const struct sl_table *t, uint32_t at);
/*
 * The value of a tag out of 'cells' (its own n cells), as the hub has it. 'room' has
 * TAG_BYTES_MAX bytes. 0; -ERANGE: no such value of the hub's type.
 */
int sl_tag_decode(const struct sl_tag *t, const uint8_t *cells, uint8_t *room,
                  struct tag_value *ret_value);
/* A client wrote cells lo..hi of the table; 'from' holds them. Tells the hub. */
void sl_tag_set_cells(struct sl_tag *t, uint32_t lo, uint32_t hi, const uint8_t *from);
void sl_map_free(struct sl_map *m);

#endif
