/*
 * Operations: what proto/api/<daemon>.yaml declares, proto/apigen.py turns
 * into tables and prototypes, and this file runs. A handler gets decoded,
 * defaulted and range-checked values and holds only the rules that a schema
 * cannot say.
 *
 *   enum api_status
 *   netd_put_interface(struct netd *d, struct api_call *call,
 *                      const struct netd_put_interface_path *path,
 *                      const struct interface *body, struct interface *reply);
 *
 * Everything that body, path, query and reply point to lives in the call's
 * arena and is freed with it. The audit record of a change is written in the
 * change's own transaction (api_txn), which the frame commits after the
 * handler returned success and before the client is answered.
 */
#ifndef FIELDGATE_API_H
#define FIELDGATE_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/bus.h"
#include "libcommon/store.h"

struct svc;
struct cJSON;

/* name, HTTP status, text when a handler says no more */
#define API_STATUS_TABLE(X)                              \
    X(PENDING, 0, "pending")                             \
    X(OK, 200, "ok")                                     \
    X(CREATED, 201, "created")                           \
    X(ACCEPTED, 202, "accepted")                         \
    X(NO_CONTENT, 204, "no content")                     \
    X(INVALID, 400, "invalid input")                     \
    X(UNAUTHENTICATED, 401, "authentication required")   \
    X(FORBIDDEN, 403, "permission denied")               \
    X(NOT_FOUND, 404, "not found")                       \
    X(CONFLICT, 409, "conflict")                         \
    X(TOO_LARGE, 413, "request too large")               \
    X(TOO_MANY, 429, "too many requests")                \
    X(INTERNAL, 500, "internal error")                   \
    X(UNAVAILABLE, 503, "service unavailable")           \
    X(TIMEOUT, 504, "no answer in time")                 \
    X(NO_SPACE, 507, "no space left on device")
#define X(name, http, text) API_##name = http,
enum api_status { API_STATUS_TABLE(X) };
#undef X

/* ---- descriptors (made by apigen.py) ---- */

enum api_type {
    API_T_BOOL = 1, /* bool */
    API_T_INT,      /* int64_t */
    API_T_UINT,     /* uint64_t */
    API_T_NUMBER,   /* double */
    API_T_STRING,   /* const char *, UTF-8, no NUL; NULL: absent or null */
    API_T_ENUM,     /* int: index into names */
    API_T_OBJECT,   /* struct by value */
    API_T_RAW,      /* const char *: JSON text of any value; NULL: absent */
};

enum {
    API_F_REQUIRED = 1,
    API_F_READ_ONLY = 2,  /* ignored in requests */
    API_F_WRITE_ONLY = 4, /* never in replies; masked in audit records */
    API_F_NULLABLE = 8,   /* null is accepted and shown */
    API_F_ARRAY = 16,     /* member is 'T *x; size_t n_x' */
    API_F_HAS = 32,       /* member has 'bool has_x' */
};

/* Checks a string beyond its length; 0 or -EINVAL. Format functions: libcommon/format.c */
typedef int api_format_fn(const char *text);

struct api_desc;
struct api_field {
    const char *name;
    uint8_t type;   /* enum api_type */
    uint16_t flags; /* API_F_… */
    uint16_t offset, n_offset, has_offset;
    int64_t min;    /* INT: least; NUMBER: see dmin */
    uint64_t max;   /* UINT: most; INT: most as int64_t */
    double dmin, dmax;
    uint32_t len_min, len_max;     /* characters of a string; bytes of RAW */
    uint32_t items_min, items_max; /* of an array */
    const struct api_desc *sub;    /* OBJECT */
    const char *const *names;      /* ENUM: names; INT with a set: NULL */
    const int64_t *set;            /* INT: allowed values */
    uint16_t n_names;              /* of names or set */
    api_format_fn *format;
    const char *format_name;
    const char *dflt; /* default as JSON text, or NULL */
};

struct api_desc {
    const char *name;
    size_t size; /* of the struct */
    const struct api_field *fields;
    size_t n_fields;
    bool strict; /* unknown members are refused */
};

enum api_reply_kind {
    API_REPLY_DATA,  /* {"data": X} */
    API_REPLY_BARE,  /* X */
    API_REPLY_LIST,  /* {"count": n, "data": [X…]} through api_item */
    API_REPLY_ITEMS, /* {"data": [X…]} through api_item */
    API_REPLY_EMPTY, /* no body */
    API_REPLY_OWN,   /* the handler sets it: api_reply_json, _buf, _file, api_stream_open */
};
enum api_audit { API_AUDIT_NONE, API_AUDIT_CHANGE };
/* MODBUS: texts of the original's Modbus sections, and no status in the body. */
enum api_error_style { API_ERRORS_PLAIN, API_ERRORS_MODBUS };
/*
 * Permission bits 0.. come from proto/permissions.yaml; these are no bits. SELF is TOKEN that
 * stays open to who must change the password first; SESSION is TOKEN for the one that a sign-in
 * gave: neither a service account's nor one made with it. The gateway tells them apart.
 */
enum {
    API_PERMISSION_SESSION = 252,
    API_PERMISSION_SELF = 253,
    API_PERMISSION_OPEN = 254,
    API_PERMISSION_TOKEN = 255,
};

struct api_call;
struct api_op {
    uint32_t id; /* FNV-1a of the name */
    const char *name, *method, *path;
    uint8_t permission; /* bit number, or API_PERMISSION_… */
    uint8_t audit;      /* enum api_audit */
    uint8_t reply_kind, error_style;
    bool partial; /* PATCH: body checked, no defaults, no 'required'; see api_merge */
    bool many;    /* body is one object or a list of them */
    bool optional; /* body may be missing: then n_body is 0 and body NULL */
    bool defer;   /* handler may return API_PENDING */
    bool form;    /* multipart/form-data is accepted: see api_form_part */
    bool worker;  /* handler runs in a thread of its own: see below */
    uint16_t success;   /* HTTP status of success */
    uint32_t timeout_ms;
    uint32_t items_max;  /* of a list, with 'many' */
    const char *event;   /* audit event */
    const char *summary; /* used as the audit message */
    const struct api_desc *path_desc, *query_desc, *body_desc, *reply_desc;
    enum api_status (*fn)(void *self, struct api_call *call);
};

/* ---- a call ---- */

/*
 * A handler runs on the loop, which must not be held. One of an operation with
 * x-worker runs in a thread of its own instead, one such at a time, with its
 * transaction and its commit. It uses its call and the store and nothing else
 * of the daemon; what is to be done there it leaves to api_after_commit, whose
 * functions run on the loop. Other changes wait until it has ended.
 */
struct api_call {
    const struct api_op *op;
    struct svc *svc;
    const struct bus_request *request;
    const struct bus_principal *who;
    const void *path, *query; /* decoded structs, as the descriptors say */
    const void *body;         /* struct; with 'many' the first of n_body */
    size_t n_body;
    void *reply;
    struct api_call_private *priv;
};

/* Zeroed memory that lives as long as the call; NULL past 64 MiB (then return API_TOO_LARGE). */
void *api_alloc(struct api_call *call, size_t size);
char *api_strdup(struct api_call *call, const char *text);
char *api_printf(struct api_call *call, const char *fmt, ...) PRINTF_LIKE(2, 3);

/*
 * Refuses. 'pointer' is a JSON pointer to the culprit (body "/a/0", path or
 * query "/name"), NULL for none. The message goes to the client as it is, for
 * 400 after "invalid input, err: " (plain style). Returns 'status', so that
 * handlers say: return api_fail(...).
 */
enum api_status api_fail(struct api_call *call, enum api_status status, const char *pointer,
                         const char *fmt, ...) PRINTF_LIKE(4, 5);
/*
 * After api_fail, where the operation has x-errors modbus: the code in the
 * body, which there is not the status, and 'i18n', the JSON of the member of
 * that name.
 */
void api_fail_code(struct api_call *call, int code, const char *i18n);
/*
 * Several reasons for one refusal: each is added with its place, then api_fail
 * refuses as usual. 'line' and 'column' count from 1 in an uploaded file (a
 * column is a cell); 0: not known. 'message' NULL: that of the last api_fail. False when no
 * more are taken.
 */
enum { API_REASONS_MAX = 100 };
bool api_fail_at(struct api_call *call, const char *pointer, uint64_t line, uint64_t column,
                 const char *message);
/*
 * Takes back what api_fail noted, for who adds it to several reasons. The
 * texts live as long as the call; the pointer may be NULL.
 */
void api_take_failure(struct api_call *call, const char **ret_pointer,
                      const char **ret_message);
/* For -errno of store and system: ENOSPC becomes 507, E2BIG 413, the rest 500; logs err. */
enum api_status api_fail_errno(struct api_call *call, int error, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

/*
 * The write transaction of this call, begun at first use, committed by the
 * frame together with the audit record. NULL: the failure is recorded;
 * return API_INTERNAL. Do not commit or abort it.
 */
struct store_txn *api_txn(struct api_call *call);
/* A reading view (the write transaction when there is one). NULL as above. */
struct store_txn *api_view(struct api_call *call);
/* Runs on the loop after the commit, before the client is answered. At most 4. */
void api_after_commit(struct api_call *call, void (*fn)(void *self, void *arg), void *arg);
/*
 * Runs on the loop instead when the call fails after all, by its commit for
 * example: gives back what the functions above were to take. One; it is not
 * for a call that returns API_PENDING.
 */
void api_on_failure(struct api_call *call, void (*fn)(void *self, void *arg), void *arg);

/*
 * After all, wait before the answer: called inside an after-commit function,
 * the answer leaves when api_finish is called. (authd: tell the gateway first.)
 */
void api_hold(struct api_call *call);
/* Ends a call that returned API_PENDING or was held (then with API_OK). */
void api_finish(struct api_call *call, enum api_status status);

/* Puts the sent members of a partial body over 'record' (a struct of body_desc
 * or of a descriptor with the same member names). API_OK or a refusal. */
enum api_status api_merge(struct api_call *call, const struct api_desc *desc, void *record);
/* Was this member sent? 'pointer' like "/certificate/caPkFile"; many: "/0/name". */
bool api_sent(const struct api_call *call, const char *pointer);

/* Adds one element to a LIST or ITEMS reply (struct of reply_desc). */
void api_item(struct api_call *call, const void *item);
/*
 * OWN replies. json: complete body text. file: name in the spool, given away.
 * A JSON answer of any kind that is too large for the bus becomes a file by
 * itself; past 128 MiB it is refused with 413.
 */
void api_reply_json(struct api_call *call, const char *json, size_t len);
/* A buffer to write the JSON body into. */
struct buf *api_reply_buf(struct api_call *call);
void api_reply_file(struct api_call *call, const char *content_type, const char *spool_name,
                    const char *offered_name);

/* The same for bytes that are in memory, which are copied. API_OK, or a refusal to return. */
enum api_status api_reply_bytes(struct api_call *call, const char *content_type,
                                const void *bytes, size_t n, const char *offered_name);

/*
 * An OWN reply of any size that is written while the client reads it: 'fn'
 * runs in a thread of its own once the answer was sent and the gateway reads.
 * It returns 0, or -errno when it failed: then, as when this process dies,
 * the client sees an error, or, once it has bytes, that they are cut short.
 * 'done' runs on the loop when 'fn' has ended or will never run (the call was
 * refused, nobody came to read), exactly once, here already when this refuses.
 * API_OK, or the refusal to return: 503 when too many are under way.
 */
struct api_pipe;
typedef int api_pipe_fn(struct api_pipe *p, void *arg);
enum api_status api_reply_pipe(struct api_call *call, const char *content_type,
                               const char *offered_name, api_pipe_fn *fn,
                               void (*done)(void *arg), void *arg);
/*
 * For 'fn'. Blocks while the client is slow; bytes are gathered into blocks.
 * 0, or what 'fn' then returns: -EPIPE: the client left, lost its rights or
 * took nothing for 60 s; -ECANCELED: the daemon stops.
 */
int api_pipe_write(struct api_pipe *p, const void *bytes, size_t n);
/*
 * For 'fn': runs 'fn(arg)' on the loop, which owns the daemon's state, and
 * waits for it. Keep it short. 0, or -ECANCELED: the daemon stops; it was not
 * run and will not be.
 */
int api_pipe_on_loop(struct api_pipe *p, void (*fn)(void *arg), void *arg);

/* What the audit record says besides who, when, where: replaces the summary and the body. */
void api_audit_message(struct api_call *call, const char *fmt, ...) PRINTF_LIKE(2, 3);
void api_audit_detail(struct api_call *call, const char *json, size_t len);
/* Where the event depends on what was sent: replaces x-event. From the catalogue. */
void api_audit_event(struct api_call *call, const char *event);
/* The account the record names, when the caller is nobody yet (sign-in). */
void api_audit_source(struct api_call *call, const char *name);
/*
 * A record although the call fails (a refused sign-in): kept in a transaction
 * of its own after the handler returned. 'event' from the catalogue.
 */
void api_audit_refusal(struct api_call *call, const char *event, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

/*
 * This refusal is in the audit log already, alone or counted with others: the
 * gateway, which records those that it answers with 401 or 403, adds no more.
 * api_audit_refusal implies it.
 */
void api_refusal_is_recorded(struct api_call *call);

/*
 * Before an effect outside the store (a write to a device): a durable note of
 * it, in a transaction of its own, so that no end of this process leaves it
 * without a record. 'what' becomes the record's message. The frame turns the
 * note into the record of a call that succeeds, right after its answer, and
 * drops that of one that is refused; what is left over becomes a record
 * "outcome unknown". Once per call, before api_txn; the call is neither held
 * nor has after-commit functions; the daemon's tables have one "notes".
 * API_OK, or the refusal to return: then do nothing.
 */
enum api_status api_note(struct api_call *call, const char *what);
/* The call fails, but the effect may have happened: recorded as "outcome unknown". */
void api_note_unsure(struct api_call *call);

/* multipart: 0 and the part's bytes, or -ENOENT. Bytes live as long as the call. */
int api_form_part(const struct api_call *call, const char *name, const char **ret_file_name,
                  const char **ret_bytes, size_t *ret_n);
/*
 * The bytes of a part, to be changed in place, with one more behind them that may be written.
 * NULL: there is none.
 */
char *api_form_edit(struct api_call *call, const char *name, size_t *ret_n);
/*
 * The parts as members of 'desc', read as the values of a query are. The part
 * 'file' is none of them; any other that is no member is refused. API_OK or the refusal.
 */
enum api_status api_form_decode(struct api_call *call, const struct api_desc *desc,
                                const char *file, void *ret_struct);
/* Overwrites the bytes of a part that holds a secret, once they are not needed any more. */
void api_form_wipe(struct api_call *call, const char *name);

/* ---- streams (text/event-stream) ---- */

struct api_stream;
/*
 * Opens a stream as the reply of this call. Events gather up to 'max_bytes';
 * past it the oldest are dropped whole and counted. 'closed' runs once on the
 * loop when the client left or lost its rights, or the gateway went. NULL: too many streams
 * (refused already: return API_UNAVAILABLE).
 */
struct api_stream *api_stream_open(struct api_call *call, size_t max_bytes,
                                   void (*closed)(void *arg), void *arg);
/* One event block, e.g. "data:{…}\n\n". Sent at once if the client waits. */
void api_stream_send(struct api_stream *s, const char *block, size_t len);
/* Bytes not yet taken by the client. */
size_t api_stream_backlog(const struct api_stream *s);

/* ---- structs and JSON, without a call ---- */

struct api_arena; /* memory with one life */
struct api_arena *api_arena_new(size_t max);
void api_arena_free(struct api_arena *a); /* NULL does nothing */
void api_arena_freep(struct api_arena **a);
/* Empties it; keeps one small chunk. */
void api_arena_reset(struct api_arena *a);
void *api_arena_alloc(struct api_arena *a, size_t size);
char *api_arena_strdup(struct api_arena *a, const char *text);
struct api_arena *api_call_arena(struct api_call *call);

enum api_decode {
    API_DECODE_REQUEST, /* read-only members ignored, required and defaults applied */
    API_DECODE_PARTIAL, /* only what is there is checked and stored */
    API_DECODE_STORE,   /* all members; missing ones get defaults */
};
enum api_fault_kind {
    API_FAULT_VALUE,
    API_FAULT_UNKNOWN, /* there is no such member; 'message' is its name */
    API_FAULT_MISSING,
    API_FAULT_NOT_INTEGER,
};
struct api_fault {
    char pointer[256];
    char message[200];
    enum api_fault_kind kind;
};
/* 0; -EINVAL with *ret_fault; -ENOMEM. */
int api_decode(struct api_arena *a, const struct api_desc *desc, const struct cJSON *tree,
               enum api_decode mode, void *ret_struct, struct api_fault *ret_fault);
/* As api_decode of a request, for element 'index' of a list. */
int api_decode_item(struct api_arena *a, const struct api_desc *desc, const struct cJSON *tree,
                    size_t index, void *ret_struct, struct api_fault *ret_fault);
/*
 * Text values of a path or a query. 'names' NULL: in the order of the fields.
 * Values without a field are passed over. 0; -EINVAL with the fault; -ENOMEM.
 */
int api_decode_values(struct api_arena *a, const struct api_desc *desc,
                      const struct bus_str *names, const struct bus_str *values, size_t n,
                      void *ret_struct, struct api_fault *ret_fault);
/* Sets defaults only. */
int api_defaults(struct api_arena *a, const struct api_desc *desc, void *ret_struct);
/* As reply (write-only members left out) or for the store (all of them). */
void api_encode(struct buf *b, const struct api_desc *desc, const void *record, bool store);

/* Records kept as JSON of all members. */
int api_store_put(struct store_txn *txn, unsigned db, const void *key, size_t key_size,
                  const struct api_desc *desc, const void *record);
/* STORE_OK, STORE_NOT_FOUND or -errno (-EPROTO: the record does not decode). */
int api_store_get(struct api_arena *a, struct store_txn *txn, unsigned db, const void *key,
                  size_t key_size, const struct api_desc *desc, void *ret_record);
int api_store_value(struct api_arena *a, const void *value, size_t size,
                    const struct api_desc *desc, void *ret_record);

/* ---- the frame, used by svc.c ---- */

struct api_server;
int api_server_new(struct svc *svc, const struct api_op *ops, size_t n_ops,
                   struct api_server **ret_server);
void api_server_free(struct api_server *s);
/* Runs one request of kind API, STREAM_NEXT or STREAM_CLOSE. */
void api_serve(struct api_server *s, struct bus_incoming *in);
/* At the start: records of what an earlier life had begun and not recorded. */
void api_server_settle(struct api_server *s);
/* Ends all streams and pipes (stopping). */
void api_server_stop(struct api_server *s);

#endif
