/*
 * What the library needs to verify a password, and to look up one of 32 bytes
 * that a token was hashed to: nothing of ours.
 *
 * usage: bare_pwhash verify PASSES MEMORY THREADS SECONDS    prints verifications, CPU µs of
 * each bare_pwhash token BYTES N                           prints ns of each
 */
#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SLOTS = 4096, DIGEST = 32 };

static char hash[crypto_pwhash_STRBYTES];
static _Atomic unsigned long n_verified;
static _Atomic int stopping;

static uint64_t
clock_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void *
verify(void *arg)
{
    while (!atomic_load(&stopping))
        if (crypto_pwhash_str_verify(hash, "wrong-password", 14) != 0)
            atomic_fetch_add(&n_verified, 1);
    return arg;
}

static int
run_verify(unsigned long long passes, size_t memory, unsigned threads, unsigned seconds)
{
    pthread_t all[64];
    if (threads > 64 || crypto_pwhash_str_alg(hash, "right-password", 14, passes, memory,
                                              crypto_pwhash_ALG_ARGON2ID13) != 0)
        return 1;
    uint64_t began = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (unsigned i = 0; i < threads; i++)
        if (pthread_create(&all[i], NULL, verify, NULL) != 0)
            return 1;
    (void)nanosleep(&(struct timespec){ .tv_sec = seconds }, NULL); /* a little less is fine */
    atomic_store(&stopping, 1);
    for (unsigned i = 0; i < threads; i++)
        pthread_join(all[i], NULL);
    uint64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - began;
    printf("%lu %.1f\n", n_verified, (double)cpu / 1000.0 / (double)n_verified);
    return 0;
}

/* BLAKE2b of a token and a probe of a table, as many as the gateway knows. */
static int
run_token(size_t bytes, unsigned long n)
{
    static unsigned char table[SLOTS][DIGEST];
    unsigned char *token = malloc(bytes);
    unsigned found = 0;
    if (token == NULL)
        return 1;
    randombytes_buf(token, bytes);
    uint64_t began = clock_ns(CLOCK_MONOTONIC);
    for (unsigned long i = 0; i < n; i++) {
        unsigned char digest[DIGEST];
        uint32_t at;
        token[i % bytes]++;
        crypto_generichash(digest, sizeof(digest), token, bytes, NULL, 0);
        memcpy(&at, digest, sizeof(at));
        found += memcmp(table[at % SLOTS], digest, sizeof(digest)) == 0;
    }
    printf("%.0f %u\n", (double)(clock_ns(CLOCK_MONOTONIC) - began) / (double)n, found);
    free(token);
    return 0;
}

int
main(int argc, char **argv)
{
    if (sodium_init() < 0)
        return 1;
    if (argc == 6 && strcmp(argv[1], "verify") == 0)
        return run_verify(strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10),
                          (unsigned)strtoul(argv[4], NULL, 10),
                          (unsigned)strtoul(argv[5], NULL, 10));
    if (argc == 4 && strcmp(argv[1], "token") == 0)
        return run_token(strtoull(argv[2], NULL, 10), strtoul(argv[3], NULL, 10));
    return 2;
}
