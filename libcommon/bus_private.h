/*
 * What the bus_*.c files share. Nobody else includes this.
 */
#ifndef FIELDGATE_BUS_PRIVATE_H
#define FIELDGATE_BUS_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <nng/nng.h>

#include "libcommon/bus.h"
#include "libcommon/loop.h"

enum {
    BUS_HEADER_SIZE = 5,        /* magic, version, count: proto/README.md section 2 */
    BUS_RECV_SLACK = 64,        /* what NNG's own request id adds to a message */
    BUS_PIPES_MAX = 1024,       /* connections to one listener */
    BUS_REPLY_ALONE = 1 << 1,   /* reply flag: did not fit beside the others, ask by itself */
    BUS_REPLY_END = 1 << 0,     /* reply flag: the stream is over */
    BUS_REPLY_RECORDED = 1 << 2, /* reply flag: this refusal is in the audit log already */
};

struct bus_server;
struct bus_pub;
struct bus_sub;

struct bus {
    struct loop *loop;
    char dir[96];
    const struct bus_user *users;
    size_t n_users;
    uint32_t own_uid;
    pthread_mutex_t lock; /* of the lists below */
    struct bus_peer *peers;
    struct bus_server *servers;
    struct bus_pub *pubs;
    struct {
        _Atomic uint64_t served, expired, refused_peers, bad_messages;
        _Atomic uint64_t asked, ask_failed, messages_asked;
    } stats;
};

static inline void
bus_count(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* NNG's error as a negative errno. */
int bus_errno(int nng_error);
/* "ipc://<dir>/<name><suffix>"; 0 or -ENAMETOOLONG. */
int bus_url(const struct bus *bus, const char *name, const char *suffix, char *out, size_t size);
/*
 * Who dialled us: the uid by the kernel, in *ret_uid. True when this process
 * talks with it; else the pipe must be closed.
 */
bool bus_pipe_allowed(struct bus *bus, nng_pipe pipe, uint32_t *ret_uid);
/* Whom we dialled: is it the daemon 'name' ('len' bytes)? Else the pipe must be closed. */
bool bus_pipe_is(struct bus *bus, nng_pipe pipe, const char *name, size_t len);

/*
 * Encoders without a buf: bytes of the envelope with its length, or 0 when it
 * cannot be encoded (a text or the whole is too long); then exactly that many
 * bytes are written.
 */
size_t bus_request_size(const struct bus_request *r);
void bus_request_write(uint8_t *p, const struct bus_request *r);
size_t bus_reply_size(const struct bus_reply *r);
void bus_reply_write(uint8_t *p, const struct bus_reply *r, uint8_t more_flags);
void bus_header_write(uint8_t *p, uint16_t n_envelopes);
/* As bus_reply_decode, and the flags as they came. */
int bus_reply_decode_flags(struct rd *in, struct bus_reply *ret_reply, uint8_t *ret_flags);

#endif
