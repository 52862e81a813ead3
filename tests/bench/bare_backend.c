/*
 * The chain with nothing of ours in it, back half: an NNG replier in its
 * fastest form (contexts with callbacks) that answers SIZE bytes from memory.
 *
 * usage: bare_backend URL SIZE
 */
#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CONTEXTS = 16 };

static char answer[8192];
static size_t answer_size;

struct work {
    nng_aio *aio;
    nng_ctx ctx;
    int sending;
};

static void
on_event(void *arg)
{
    struct work *w = arg;
    if (nng_aio_result(w->aio) != 0 || w->sending) {
        w->sending = 0;
        nng_ctx_recv(w->ctx, w->aio);
        return;
    }
    nng_msg *msg = nng_aio_get_msg(w->aio);
    nng_msg_clear(msg);
    if (nng_msg_append(msg, answer, answer_size) != 0)
        abort();
    nng_aio_set_msg(w->aio, msg);
    w->sending = 1;
    nng_ctx_send(w->ctx, w->aio);
}

int
main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    answer_size = strtoul(argv[2], NULL, 10);
    if (answer_size > sizeof(answer))
        return 2;
    memset(answer, 'x', answer_size);
    nng_socket socket;
    static struct work works[CONTEXTS];
    int r = nng_rep0_open(&socket);
    for (int i = 0; i < CONTEXTS && r == 0; i++) {
        r = nng_aio_alloc(&works[i].aio, on_event, &works[i]);
        if (r == 0)
            r = nng_ctx_open(&works[i].ctx, socket);
    }
    if (r == 0)
        r = nng_listen(socket, argv[1], NULL, 0);
    if (r != 0) {
        (void)fprintf(stderr, "bare_backend: %s\n", nng_strerror(r));
        return 1;
    }
    for (int i = 0; i < CONTEXTS; i++)
        nng_ctx_recv(works[i].ctx, works[i].aio);
    puts("ready");
    (void)fflush(stdout);
    (void)pause();
    return 0;
}
