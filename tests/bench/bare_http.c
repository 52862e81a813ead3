/*
 * The chain with nothing of ours in it, front half: a civetweb handler that
 * turns each request into one NNG request and writes what comes back. No
 * sign-in, no store, no JSON; a context per worker thread.
 *
 * usage: bare_http PORT URL THREADS
 */
#include <civetweb.h>
#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static nng_socket backend;

static void
die(const char *what, int r)
{
    (void)fprintf(stderr, "bare_http: %s: %s\n", what, r != 0 ? nng_strerror(r) : "failed");
    exit(1);
}

struct lane {
    nng_ctx ctx;
    nng_aio *aio;
};

static int
lane_open(struct lane *lane)
{
    int r = nng_ctx_open(&lane->ctx, backend);
    return r != 0 ? r : nng_aio_alloc(&lane->aio, NULL, NULL);
}

static int
ask(struct lane *lane, const char *uri, nng_msg **ret_reply)
{
    nng_msg *msg;
    int r = nng_msg_alloc(&msg, 0);
    if (r == 0)
        r = nng_msg_append(msg, uri, strlen(uri));
    if (r != 0)
        return r;
    nng_aio_set_msg(lane->aio, msg);
    nng_ctx_send(lane->ctx, lane->aio);
    nng_aio_wait(lane->aio);
    r = nng_aio_result(lane->aio);
    if (r != 0) {
        nng_msg_free(msg);
        return r;
    }
    nng_ctx_recv(lane->ctx, lane->aio);
    nng_aio_wait(lane->aio);
    r = nng_aio_result(lane->aio);
    if (r == 0)
        *ret_reply = nng_aio_get_msg(lane->aio);
    return r;
}

static int
on_request(struct mg_connection *conn, void *arg)
{
    (void)arg;
    static _Thread_local struct lane lane;
    if (lane.aio == NULL && lane_open(&lane) != 0)
        return 0;
    nng_msg *reply;
    if (ask(&lane, mg_get_request_info(conn)->local_uri, &reply) != 0)
        return 0;
    char out[16384];
    int n = snprintf(out, sizeof(out),
                     "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                     "Content-Length: %zu\r\nConnection: keep-alive\r\n\r\n",
                     nng_msg_len(reply));
    size_t total = (size_t)n + nng_msg_len(reply);
    if (total <= sizeof(out)) {
        memcpy(out + n, nng_msg_body(reply), nng_msg_len(reply));
        (void)mg_write(conn, out, total);
    }
    nng_msg_free(reply);
    return 200;
}

int
main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    int r = nng_req0_open(&backend);
    if (r == 0)
        r = nng_socket_set_ms(backend, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE);
    if (r == 0)
        r = nng_dial(backend, argv[2], NULL, 0); /* it must listen already */
    if (r != 0)
        die("dial", r);
    char port[64];
    (void)snprintf(port, sizeof(port), "127.0.0.1:%s", argv[1]);
    const char *options[] = { "listening_ports", port, "num_threads", argv[3],
                              "enable_keep_alive", "yes", "keep_alive_timeout_ms", "2000",
                              "tcp_nodelay", "1", "connection_queue", "128",
                              "listen_backlog", "1024", NULL };
    mg_init_library(0);
    struct mg_callbacks callbacks = { 0 };
    struct mg_context *server = mg_start(&callbacks, NULL, options);
    if (server == NULL)
        die("mg_start", 0);
    mg_set_request_handler(server, "/", on_request, NULL);
    puts("ready");
    (void)fflush(stdout);
    (void)pause();
    return 0;
}
