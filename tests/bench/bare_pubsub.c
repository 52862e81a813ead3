/*
 * NNG pub/sub with the bytes of the tag bus and nothing of ours: what the pipe
 * itself carries.
 *
 * usage: bare_pubsub pub URL SAMPLES RATE SECONDS    SAMPLES of 24 B a message,
 *                                                    RATE samples/s, 0: as it can
 *        bare_pubsub sub URL SECONDS [decode]        prints samples received and lost
 * 'decode' reads each sample and keeps the last value of each number.
 */
#include <nng/nng.h>
#include <nng/protocol/pubsub0/pub.h>
#include <nng/protocol/pubsub0/sub.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { HEAD = 32, SAMPLE = 24, TAGS = 10000, QUEUE = 1024 };

static uint64_t
now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static int
publish(const char *url, uint32_t samples, uint64_t rate, uint64_t seconds)
{
    nng_socket s;
    int r = nng_pub0_open(&s);
    if (r == 0)
        r = nng_socket_set_int(s, NNG_OPT_SENDBUF, QUEUE);
    if (r == 0)
        r = nng_listen(s, url, NULL, 0);
    if (r != 0)
        return r;
    puts("ready");
    (void)fflush(stdout);
    (void)getchar(); /* until the subscribers are there */
    uint64_t began = now_us(), sent = 0, seq = 0;
    for (uint64_t now = began; now - began < seconds * 1000000u; now = now_us()) {
        if (rate != 0 && sent * 1000000u > rate * (now - began)) {
            struct timespec pause = { .tv_nsec = 100000 };
            (void)nanosleep(&pause, NULL);
            continue;
        }
        nng_msg *msg;
        if (nng_msg_alloc(&msg, HEAD + (size_t)samples * SAMPLE) != 0)
            return NNG_ENOMEM;
        uint8_t *p = nng_msg_body(msg);
        memset(p, 0, HEAD);
        memcpy(p, &seq, sizeof(seq));
        p += HEAD;
        for (uint32_t i = 0; i < samples; i++, p += SAMPLE) {
            uint32_t no = (uint32_t)(sent + i) % TAGS;
            uint64_t ts = now, value = sent + i;
            memcpy(p, &no, sizeof(no));
            memset(p + 4, 0, 4);
            memcpy(p + 8, &ts, sizeof(ts));
            memcpy(p + 16, &value, sizeof(value));
        }
        if (nng_sendmsg(s, msg, 0) != 0)
            nng_msg_free(msg);
        seq++;
        sent += samples;
    }
    printf("sent %llu in %llu us\n", (unsigned long long)sent,
           (unsigned long long)(now_us() - began));
    (void)fflush(stdout);
    (void)usleep(300000);
    _exit(0);
}

static _Atomic uint64_t received, lost, first_us, last_us;
static struct {
    uint64_t ts, value;
} last[TAGS];

static void
receive(nng_socket s, int decode)
{
    uint64_t next = 0, mine = 0;
    for (;;) {
        nng_msg *msg;
        if (nng_recvmsg(s, &msg, 0) != 0)
            continue;
        const uint8_t *p = nng_msg_body(msg);
        uint64_t seq, n = (nng_msg_len(msg) - HEAD) / SAMPLE;
        memcpy(&seq, p, sizeof(seq));
        lost += (seq - next) * n;
        next = seq + 1;
        p += HEAD;
        for (uint64_t i = 0; decode && i < n; i++, p += SAMPLE) {
            uint32_t no;
            memcpy(&no, p, sizeof(no));
            if (no >= TAGS)
                continue;
            memcpy(&last[no].ts, p + 8, 8);
            memcpy(&last[no].value, p + 16, 8);
        }
        mine += n;
        uint64_t now = now_us();
        if (first_us == 0)
            first_us = now;
        last_us = now;
        received = mine;
        nng_msg_free(msg);
    }
}

struct subscriber {
    nng_socket s;
    int decode;
};

static void *
run(void *arg)
{
    struct subscriber *sub = arg;
    receive(sub->s, sub->decode);
    return NULL;
}

static int
subscribe(const char *url, unsigned seconds, int decode)
{
    static struct subscriber sub;
    sub.decode = decode;
    int r = nng_sub0_open(&sub.s);
    if (r == 0)
        r = nng_socket_set_int(sub.s, NNG_OPT_RECVBUF, QUEUE);
    if (r == 0)
        r = nng_socket_set(sub.s, NNG_OPT_SUB_SUBSCRIBE, "", 0);
    if (r == 0)
        r = nng_dial(sub.s, url, NULL, 0); /* it must listen already */
    if (r != 0)
        return r;
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, &sub) != 0)
        return NNG_ENOMEM;
    puts("ready");
    (void)fflush(stdout);
    (void)sleep(seconds);
    uint64_t us = last_us - first_us;
    printf("received %llu lost %llu in %llu us\n", (unsigned long long)received,
           (unsigned long long)lost, (unsigned long long)us);
    (void)fflush(stdout);
    _exit(0);
}

int
main(int argc, char **argv)
{
    int r = -1;
    if (argc == 6 && strcmp(argv[1], "pub") == 0)
        r = publish(argv[2], (uint32_t)strtoul(argv[3], NULL, 10), strtoull(argv[4], NULL, 10),
                    strtoull(argv[5], NULL, 10));
    else if (argc >= 4 && strcmp(argv[1], "sub") == 0)
        r = subscribe(argv[2], (unsigned)strtoul(argv[3], NULL, 10), argc > 4);
    (void)fprintf(stderr, "bare_pubsub: %s\n", r < 0 ? "usage" : nng_strerror(r));
    return 1;
}
