/*
 * What the files of the api module share: not for daemons.
 */
#ifndef FIELDGATE_API_PRIVATE_H
#define FIELDGATE_API_PRIVATE_H

#include "libcommon/api.h"

enum { API_ARENA_MAX = 64 << 20, API_REPLY_MAX = 128 << 20, API_AFTER_MAX = 4, API_FORM_PARTS_MAX = 16 };

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
    void (*on_failure)(void *self, void *arg); /* NULL: none */
    void *on_failure_arg;
    bool pending, held, committed;
    bool has_written;        /* the commit succeeded */
    bool in_after;           /* the after-commit functions run */
    bool finished;           /* api_finish came from one of them, with 'final' */
    enum api_status final;
    uint64_t began_us;
    /* audit */
    const char *audit_event; /* NULL: the operation's */
    const char *audit_message, *audit_detail, *audit_source;
    const char *refusal_event, *refusal_message;
    bool refusal_recorded;
    /* reasons of a refusal, each with its place: see api_fail_at */
    struct api_reason *reasons, **last_reason;
    unsigned n_reasons;
    uint64_t note; /* its key; 0: none */
    bool note_unsure;
    struct api_call_private *next_noted;
    struct api_call_private *next_turn; /* waiting: see api_turn.c */
    bool resumed;                       /* it was pending, and ends as 'final' says */
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

/*
 * Calls that wait for their turn, and the thread of those that are long.
 * take: true when the call was taken: it runs in that thread, or later.
 * Stopping waits for the thread.
 */
struct api_turns;
struct api_turns *api_turns_new(struct svc *svc);
bool api_turns_take(struct api_turns *t, struct api_call_private *p);
void api_turns_stop(struct api_turns *t);
void api_turns_free(struct api_turns *t); /* NULL does nothing */

/* The parts of a call's life, for api_turn.c: from its handler to its answer, on the loop, */
void api_call_run(struct api_call_private *p);
/* or the handler and the commit in any thread, and the rest on the loop; */
enum api_status api_call_work(struct api_call_private *p);
void api_call_deliver(struct api_call_private *p, enum api_status status);
/* the end of one that was pending. */
void api_call_resume(struct api_call_private *p);

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
