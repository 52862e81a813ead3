/*
 * The tag bus: every value of every tag, from its provider to whoever listens
 * (proto/README.md section 3 has the bytes).
 *
 * A provider daemon owns a catalogue (tag number -> definition) and publishes
 * batches of samples at <run>/bus/<daemon>.tags. A subscriber gets them
 * straight from there. A batch carries provider epoch (one life of the
 * provider), sequence number and catalogue generation; the subscriber here
 * asks the provider (internal operations tag_catalogue and tag_snapshot) when
 * epoch or generation changed or a sequence number is missing, and counts the
 * loss.
 */
#ifndef FIELDGATE_TAGBUS_H
#define FIELDGATE_TAGBUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/buf.h"
#include "libcommon/bus.h"
#include "libcommon/loop.h"

enum tag_type {
    TAG_BOOLEAN = 1,
    TAG_INT8,
    TAG_INT16,
    TAG_INT32,
    TAG_INT64,
    TAG_UINT8,
    TAG_UINT16,
    TAG_UINT32,
    TAG_UINT64,
    TAG_FLOAT,
    TAG_DOUBLE,
    TAG_STRING, /* UTF-8 */
    TAG_RAW,    /* bytes; hex text in JSON */
};

enum tag_quality {
    TAG_GOOD = 0,
    TAG_UNCERTAIN,      /* held beyond its time (fault protection) */
    TAG_BAD_NEVER,      /* no value yet */
    TAG_BAD_TIMEOUT,    /* the device did not answer in time */
    TAG_BAD_CONNECTION, /* no connection to the device */
    TAG_BAD_EXCEPTION,  /* the device refused (exception code in aux) */
    TAG_BAD_REPLY,      /* the device answered nonsense */
    TAG_BAD_CONFIG,     /* the tag cannot be polled as configured */
    TAG_BAD_OFFLINE,    /* the provider is gone; set by subscribers */
};
/* Is the value usable? */
static inline bool
tag_quality_ok(uint8_t q)
{
    return q <= TAG_UNCERTAIN;
}
const char *tag_quality_text(uint8_t q); /* "good", "timeout", … */
const char *tag_type_text(uint8_t type); /* "uint16", …; as in the REST API */

enum { TAG_NAME_MAX = 128, TAG_UNIT_MAX = 16, TAG_BYTES_MAX = 4000, TAG_BATCH_MAX = 1000 };
enum { TAG_ACCESS_READ = 1, TAG_ACCESS_WRITE = 2 };

/* A value: numbers in num (bool, signed, unsigned) or real; text and bytes by pointer. */
struct tag_value {
    uint8_t type; /* enum tag_type */
    union {
        bool b;
        int64_t i;
        uint64_t u;
        double d; /* TAG_FLOAT holds a float's exact value */
    };
    const uint8_t *bytes; /* TAG_STRING, TAG_RAW: not terminated; owner differs by place */
    uint16_t n_bytes;
};

struct tag_sample {
    uint32_t no;
    uint8_t quality;
    uint8_t aux;   /* exception code for TAG_BAD_EXCEPTION */
    int64_t ts_us; /* wall clock when the reply arrived */
    struct tag_value value; /* with a bad quality: the last good one, or zero */
};

/* One tag of a provider's catalogue. */
struct tag_def {
    uint32_t no;     /* unique in the daemon, from 1; stable while the tag exists */
    uint8_t type;    /* enum tag_type */
    uint8_t access;  /* TAG_ACCESS_… */
    uint16_t size;   /* bytes, for string and raw; else 0 */
    uint32_t interval_ms; /* 0: unknown */
    char provider[TAG_NAME_MAX + 1], source[TAG_NAME_MAX + 1], name[TAG_NAME_MAX + 1];
    char unit[TAG_UNIT_MAX * 4 + 1];
};

/* JSON value of a tag value as in the REST API (raw: hex text). Bad doubles: null. */
void tag_value_json(struct buf *b, const struct tag_value *v);
struct cJSON;
/*
 * The reverse, for 'type': checks kind and range exactly. Bytes are allocated
 * (free() them through tag_value_done). 0, -EINVAL (wrong kind), -ERANGE.
 */
int tag_value_from_json(const struct cJSON *item, uint8_t type, size_t max_bytes,
                        struct tag_value *ret_value);
void tag_value_done(struct tag_value *v);
bool tag_value_equal(const struct tag_value *a, const struct tag_value *b);

/* ---- the wire, for providers outside this library and for fuzzing ---- */
struct tag_batch {
    uint64_t epoch, seq; /* seq grows by one per batch of samples, from 1 in each epoch */
    uint32_t generation;
    uint16_t count; /* 0: nothing new, 'seq' was the last one */
};
/*
 * A batch is the whole message: open checks its size, then 'count' times next
 * (bytes of text values point into the message). 0 or -EBADMSG.
 */
int tag_batch_open(struct rd *in, struct tag_batch *ret_batch);
int tag_batch_next(struct rd *in, struct tag_sample *ret_sample);
/* All samples at once, 'samples' has room for batch->count. 0 or -EBADMSG. */
int tag_batch_samples(struct rd *in, const struct tag_batch *batch, struct tag_sample *samples);
void tag_value_encode(struct buf *b, const struct tag_value *v);
int tag_value_decode(struct rd *in, struct tag_value *ret_value);
/* One sample as in a snapshot (a batch has its own, fixed form). */
void tag_sample_encode(struct buf *b, const struct tag_sample *s);
int tag_sample_decode(struct rd *in, struct tag_sample *ret_sample);
void tag_def_encode(struct buf *b, const struct tag_def *d);
int tag_def_decode(struct rd *in, struct tag_def *ret_def);
/*
 * Builds one batch: put samples, then finish; b->data is the message until
 * the next begin. Returns of put: 0, -E2BIG (finish first), -ENOMEM.
 */
struct tag_batch_builder {
    struct buf head; /* header and samples */
    struct buf tail; /* bytes of text values */
    uint16_t count;
};
void tag_batch_builder_init(struct tag_batch_builder *b);
void tag_batch_builder_done(struct tag_batch_builder *b);
int tag_batch_put(struct tag_batch_builder *b, const struct tag_sample *s);
/* The message, owned by 'b', valid until the next put; 0 or -ENOMEM. Then 'b' is empty. */
int tag_batch_finish(struct tag_batch_builder *b, uint64_t epoch, uint64_t seq,
                     uint32_t generation, struct bus_str *ret_message);

/* ---- publishing ---- */
struct tag_pub;

/*
 * The provider tells its catalogue and current values when asked. 'at' counts
 * from 0; return false past the end. Called on the loop.
 */
struct tag_pub_source {
    bool (*def)(void *arg, size_t at, struct tag_def *ret_def);
    bool (*last)(void *arg, size_t at, struct tag_sample *ret_sample);
    void *arg;
};
/* Binds <daemon>.tags. A new epoch begins. 0 or -errno. */
int tag_pub_open(struct bus *bus, struct loop *loop, const char *daemon,
                 const struct tag_pub_source *source, struct tag_pub **ret_pub);
/* The catalogue changed: next batch (sent soon even if empty) has a new generation. */
void tag_pub_changed(struct tag_pub *p);
/*
 * Adds a sample to the batch. Batches leave at TAG_BATCH_MAX samples, and when
 * the loop is about to sleep and the one before left at least 1 ms ago: no
 * longer than that does a sample wait. Bytes are copied.
 */
void tag_pub_add(struct tag_pub *p, const struct tag_sample *s);
/* Answers tag_catalogue and tag_snapshot; svc.c calls it. True if it was one of those. */
bool tag_pub_serve(struct tag_pub *p, struct bus_incoming *in);
struct tag_pub_stats {
    uint64_t samples, batches;
};
void tag_pub_get_stats(const struct tag_pub *p, struct tag_pub_stats *ret_stats);

/* ---- subscribing ---- */
struct tag_sub;
/* All run on the loop. */
struct tag_sub_events {
    /*
     * The catalogue of 'daemon' is now these 'n' tags (whole; old numbers are
     * void). 0; -errno: it could not be taken, and is asked for again.
     */
    int (*catalogue)(void *arg, const char *daemon, const struct tag_def *defs, size_t n);
    /* Samples in order of arrival. 'snapshot': the state after a gap, not new events. */
    void (*samples)(void *arg, const char *daemon, const struct tag_sample *s, size_t n,
                    bool snapshot);
    /* The provider went away or came back (its samples follow). */
    void (*presence)(void *arg, const char *daemon, bool up);
    void *arg;
};
/* Follows the provider 'daemon' (modbusd, iod, …) for ever. 0 or -errno. */
int tag_sub_open(struct bus *bus, struct loop *loop, const char *daemon,
                 const struct tag_sub_events *events, struct tag_sub **ret_sub);
struct tag_sub_stats {
    uint64_t samples, batches, lost_batches, snapshots, bad_batches;
};
void tag_sub_get_stats(const struct tag_sub *s, struct tag_sub_stats *ret_stats);

#endif
