/*
 * Requests to one device over HTTPS (libcurl). Several may be under way, one
 * thread waits for all of them. Redirections are not followed: a token goes
 * where it belongs and nowhere else.
 */
#ifndef FIELDGATE_CTL_HTTP_H
#define FIELDGATE_CTL_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct trust;

enum { HTTP_URL_MAX = 512, HTTP_CONNECT_S = 10, HTTP_STREAM_IDLE_S = 60 };

/*
 * A base URL as it is kept: https://host[:port]; http only for this computer
 * itself. 0; -EINVAL with *ret_why.
 */
int http_base(const char *url, char ret_base[HTTP_URL_MAX], const char **ret_why);
/* 'text' as part of a URL: all but letters, digits and -._~ become %XX. */
struct buf;
void http_escape(struct buf *b, const char *text);

struct http_peer {
    const char *base;   /* as http_base gave it */
    const char *token;  /* NULL: none */
    const char *cacert; /* file of authorities; NULL: those of the system */
    struct trust *trust;
};

struct http_part { /* of a form: a text, or a file */
    const char *name, *text, *path;
};

enum http_result {
    HTTP_DONE,        /* answered whole: see status */
    HTTP_UNREACHABLE, /* no connection */
    HTTP_UNTRUSTED,   /* its certificate is not */
    HTTP_CUT,         /* the connection broke, or was silent for too long */
    HTTP_STOPPED,     /* by 'head' or 'data', or by a signal */
    HTTP_NO_FILE,     /* a part cannot be read */
};

struct http_transfer {
    const char *method, *target; /* target: /api/v1/… */
    const char *body;            /* JSON; NULL: none */
    size_t body_len;
    const struct http_part *parts; /* a form instead of a body */
    size_t n_parts;
    unsigned idle_s; /* without a byte for so long it is given up */
    /* When the headers have come; type "" for none. <0 stops. */
    int (*head)(void *arg, int status, const char *type);
    int (*data)(void *arg, const char *bytes, size_t n); /* <0 stops */
    void *arg;
    /* when it has ended */
    enum http_result result;
    int status;    /* 0: no answer began */
    char why[256]; /* what went wrong */
};

struct http;
/* 'peer' and what it names stay with the caller. NULL: no memory. */
struct http *http_new(const struct http_peer *peer);
/* Ends what is under way. NULL does nothing. */
void http_free(struct http *h);
void http_freep(struct http **h);
/* Begins 't', which stays as it is until http_wait returns it. 0 or -ENOMEM. */
int http_start(struct http *h, struct http_transfer *t);
/* Blocks until one has ended and returns it; NULL: after 'ms' (<0: never), or a signal came. */
struct http_transfer *http_wait(struct http *h, int64_t ms);
/* Starts 't' and waits for its end; false: no memory (result is HTTP_STOPPED after a signal).
 */
bool http_ask(struct http *h, struct http_transfer *t);

#endif
