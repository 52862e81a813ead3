/*
 * Hashing and verifying of passwords, in workers. Argon2id by libsodium.
 *
 * Cost: 2 passes over 19 MiB, the first of the choices that OWASP's password
 * storage cheat sheet calls equal (19 MiB, t=2, p=1). The smallest memory
 * among those with two passes, since a DIN-rail box has 512 MiB to 1 GiB for
 * everything: two at once take 38 MiB, about 20 ms each on a server core and
 * a few hundred ms on a small ARM core.
 *
 * Half of the processors at most verify at once, and no more than
 * PASSWORD_WORKERS_MAX; they give way to everybody else (PASSWORD_NICE: a tenth of
 * a share where all are busy), so that a flood of sign-ins costs the signed-in
 * little. PASSWORD_PLACES requests are verified or wait; the next is told 429 at
 * once. One source address has PASSWORD_PER_ADDRESS of these places, so that
 * it cannot keep others from signing in. Programs on the device share one
 * address: theirs are PASSWORD_LOCAL places, which nobody from outside can take.
 */
#ifndef FIELDGATE_AUTHD_PASSWORD_H
#define FIELDGATE_AUTHD_PASSWORD_H

#include "services/authd/authd.h"

enum {
    PASSWORD_PASSES = 2,
    PASSWORD_MEMORY = 19 << 20,
    PASSWORD_WORKERS_MAX = 2,
    PASSWORD_PLACES = 18,
    PASSWORD_PER_ADDRESS = 4,
    PASSWORD_LOCAL = 8,
    PASSWORD_REMOTE = PASSWORD_PLACES - PASSWORD_LOCAL,
    PASSWORD_NICE = 10,
    PASSWORD_SIZE = 257,
};

struct password_job {
    /* in */
    char verify[PASSWORD_SIZE]; /* "": nothing to verify */
    char against[RECORD_PASSWORD_SIZE];
    char make[PASSWORD_SIZE]; /* "": nothing to hash */
    bool make_must_differ;    /* refuse when 'make' is the password of 'against' */
    /* out */
    bool verified, is_same;
    char made[RECORD_PASSWORD_SIZE]; /* "" when not made */
    int error;                       /* -ENOMEM: could not hash */
    /* for who asked */
    struct authd *a;
    struct api_call *call;
    void (*done)(struct password_job *job); /* on the loop; must end in password_job_free */
    char name[RECORD_NAME_SIZE];            /* account the attempt counts for; "": none */
    uint64_t user_id;                       /* 0: no such account */
    enum api_status status;
    struct password_job *next;
};

/*
 * Places for the jobs, in guarded memory, and the threads. 0 or -ENOMEM. All
 * at once: what maps memory waits for a worker that maps its own, and may
 * wait long, since workers give way.
 */
int passwords_open(struct authd *a);

/* Zeroed; NULL when there is no place: then it is refused with API_TOO_MANY. Freed by wiping. */
struct password_job *password_job_new(struct authd *a, struct api_call *call);
void password_job_free(struct password_job *job);

/* Starts it: job->done runs later. Returns API_PENDING, or a refusal with the job freed. */
enum api_status password_start(struct password_job *job);

/* Attempts of 'name' under way. */
unsigned password_under_way(const struct authd *a, const char *name);

/* Hashes here and now (first start only). 0 or -ENOMEM. */
int password_hash_now(const char *password, char ret_hash[RECORD_PASSWORD_SIZE]);

#endif
