/*
 * What the files of the api module share: not for daemons.
 */
#ifndef FIELDGATE_API_PRIVATE_H
#define FIELDGATE_API_PRIVATE_H

#include "libcommon/api.h"

enum { API_ARENA_MAX = 64 << 20, API_REPLY_MAX = 128 << 20, API_AFTER_MAX = 4, API_FORM_PARTS_MAX = 16 };

/* Empties it for the next call; keeps one small chunk. */
void api_arena_reset(struct api_arena *a);

struct api_form_entry {
    const char *name, *file_name; /* file_name NULL: a plain value */
    char *bytes;
    size_t n;
};

struct api_call_private {
    struct api_call call; /* first: the handler's view */
    struct api_server *server;
    struct bus_incoming *in;
    struct api_arena *arena;
    struct cJSON *tree; /* the body */
    struct store_txn *wtxn, *rtxn;
    struct buf out; /* reply body, after OUT_HEAD bytes of room */
    size_t begin;   /* where it begins there, once it is written */
    size_t n_items;
    enum api_status status; /* what api_fail said */
    const char *pointer, *message;
    const char *detail; /* of 'pointer', when it says more than 'message' */
    const char *i18n;
    int code; /* of api_fail_code; 0: none */
    struct {
        void (*fn)(void *self, void *arg);
        void *arg;
    } after[API_AFTER_MAX];
    unsigned n_after;
    bool pending, held, committed;
    bool in_after;           /* the after-commit functions run */
    bool finished;           /* api_finish came from one of them, with 'final' */
    enum api_status final;
    uint64_t began_us;
    /* audit */
    const char *audit_event; /* NULL: the operation's */
    const char *audit_message, *audit_detail, *audit_source;
    const char *refusal_event, *refusal_message;
    bool refusal_recorded;
    uint64_t note; /* its key; 0: none */
    bool note_unsure;
    struct api_call_private *next_noted;
    /* own reply */
    uint8_t body_kind;
    const char *content_type, *file_name, *spool_name;
    uint64_t stream_id;
    /* form */
    struct api_form_entry parts[API_FORM_PARTS_MAX];
    size_t n_parts;
    struct api_call_private *next_free;
};

static inline struct api_call_private *
api_private(const struct api_call *call)
{
    return call->priv;
}

/* May 'who' run an operation with this permission? */
bool api_permits(uint8_t permission, const struct bus_principal *who);

/* The body with write-only members masked, for the audit record. */
void api_redact(struct buf *b, const struct api_desc *desc, const struct cJSON *tree);

/* Splits a multipart body (RFC 7578) in place; 0 or -EINVAL, -E2BIG. Fuzzed. */
int api_form_split(const char *content_type, char *body, size_t n, struct api_form_entry *parts,
                   size_t max_parts, size_t *ret_n);
/* Reads the spooled body of a form request and splits it. 0 or -errno. */
int api_form_load(struct api_call_private *p);

/* Notes of a server: NULL when the daemon has no table for them. */
struct api_notes;
int api_notes_new(struct svc *svc, struct api_notes **ret_notes);
void api_notes_free(struct api_notes *n);
struct api_notes *api_server_notes(struct api_server *s);
/* Takes the call's note out of the table, in its write transaction. 0 or -errno. */
int api_note_del(struct api_call_private *p);
/* The call has no note any more. Not 'kept': what is in the table is recorded later. */
void api_note_done(struct api_call_private *p, bool kept);
/* Makes records of all notes that no call has. */
void api_notes_settle(struct api_notes *n);

/*
 * Puts a JSON answer that is too large for a message into a file of the spool
 * and makes that the answer. 'status', or a refusal.
 */
enum api_status api_spool_reply(struct api_call_private *p, const char *json, size_t n,
                                enum api_status status);

/* A new name for a file of the spool. */
enum { API_SPOOL_NAME_SIZE = 64 };
void api_spool_name(const struct svc *svc, char ret_name[API_SPOOL_NAME_SIZE]);

/* Pipes of a server. Stopping waits for their writers, which end at once. */
struct api_pipes;
struct api_pipes *api_pipes_new(struct svc *svc);
void api_pipes_stop(struct api_pipes *all);
void api_pipes_free(struct api_pipes *all); /* NULL does nothing */
struct api_pipes *api_server_pipes(struct api_server *s);

/* Streams of a server. */
struct api_streams;
struct api_streams *api_streams_new(struct svc *svc);
void api_streams_free(struct api_streams *s);
void api_streams_serve(struct api_streams *s, struct bus_incoming *in);
void api_streams_stop(struct api_streams *s);
/* Ends the stream of a call whose answer cannot carry it. */
void api_streams_drop(struct api_streams *s, uint64_t id);
struct api_streams *api_server_streams(struct api_server *s);

#endif
