#include "services/authd/password.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "libcommon/log.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

_Static_assert(RECORD_PASSWORD_SIZE == crypto_pwhash_STRBYTES, "hash size");

static unsigned
password_workers(void)
{
    long half = sysconf(_SC_NPROCESSORS_ONLN) / 2; /* -1 / 2 is 0 */
    return half < 1 ? 1 : half > PASSWORD_WORKERS_MAX ? PASSWORD_WORKERS_MAX : (unsigned)half;
}

int
passwords_open(struct authd *a)
{
    size_t size = PASSWORD_PLACES * sizeof(struct password_job);
    loop_set_workers(a->svc->loop, password_workers(), PASSWORD_PLACES);
    a->job_places = sodium_malloc(size);
    if (!a->job_places)
        return -ENOMEM;
    sodium_memzero(a->job_places, size);
    return 0;
}

static bool
has_place(const struct authd *a, const char *addr)
{
    bool local = addr_is_local(addr);
    unsigned n_same = 0, n_kind = 0;
    for (const struct password_job *job = a->jobs; job; job = job->next) {
        n_same += str_eq(job->call->who->addr, addr);
        n_kind += addr_is_local(job->call->who->addr) == local;
    }
    if (local)
        return n_kind < PASSWORD_LOCAL;
    return n_same < PASSWORD_PER_ADDRESS && n_kind < PASSWORD_REMOTE;
}

struct password_job *
password_job_new(struct authd *a, struct api_call *call)
{
    size_t i = 0;
    while (i < PASSWORD_PLACES && a->job_places[i].a)
        i++;
    if (i == PASSWORD_PLACES || !has_place(a, call->who->addr)) {
        (void)api_fail(call, API_TOO_MANY, NULL,
                       "too many passwords are being checked"); /* kept in the call */
        return NULL;
    }
    struct password_job *job = &a->job_places[i];
    job->a = a;
    job->call = call;
    return job;
}

void
password_job_free(struct password_job *job)
{
    sodium_memzero(job, sizeof(*job));
}

/* Once in the life of a worker. On Linux 0 is the calling thread. */
static void
give_way(void)
{
    static _Thread_local bool is_done;
    if (is_done)
        return;
    is_done = true;
    if (setpriority(PRIO_PROCESS, 0, PASSWORD_NICE) < 0)
        log_warn("authd: passwords are verified at full priority error=%s", strerror(errno));
}

static void
work(void *arg)
{
    struct password_job *job = arg;
    give_way();
    size_t len = strlen(job->make);
    if (job->verify[0])
        job->verified =
            crypto_pwhash_str_verify(job->against, job->verify, strlen(job->verify)) == 0;
    if (job->verify[0] && !job->verified)
        return;
    if (job->make[0] && job->make_must_differ)
        job->is_same = crypto_pwhash_str_verify(job->against, job->make, len) == 0;
    if (job->make[0] && !job->is_same)
        job->error = password_hash_now(job->make, job->made);
}

static void
done(void *arg)
{
    struct password_job *job = arg;
    struct authd *a = job->a;
    for (struct password_job **p = &a->jobs; *p; p = &(*p)->next)
        if (*p == job) {
            *p = job->next;
            break;
        }
    sodium_memzero(job->verify, sizeof(job->verify));
    sodium_memzero(job->make, sizeof(job->make));
    if (a->stopping)
        password_job_free(job); /* the calls are gone */
    else
        job->done(job);
}

enum api_status
password_start(struct password_job *job)
{
    struct authd *a = job->a;
    struct api_call *call = job->call;
    int r = loop_work(a->svc->loop, work, done, job);
    if (r < 0) {
        password_job_free(job);
        return api_fail_errno(call, r, "cannot verify");
    }
    job->next = a->jobs;
    a->jobs = job;
    return API_PENDING;
}

unsigned
password_under_way(const struct authd *a, const char *name)
{
    unsigned n = 0;
    for (const struct password_job *job = a->jobs; job; job = job->next)
        n += str_eq(job->name, name);
    return n;
}

/*
 * The cost, PASSWORD_PASSES over PASSWORD_MEMORY with one lane, is the floor
 * that OWASP's cheat sheet gives for Argon2id (RFC 9106): what a guess costs
 * whoever stole the store. More memory would cost him more, and the device,
 * too: two workers hash at once beside all else in 512 MiB. Measured: 19 ms on
 * a core of an AMD EPYC; a Cortex-A53 or A7 of a small box moves about a tenth
 * of the bytes in that time, so a sign-in there takes some 200 to 300 ms of one
 * core, and 38 MiB while two are under way.
 */
int
password_hash_now(const char *password, char ret_hash[RECORD_PASSWORD_SIZE])
{
    char hash[RECORD_PASSWORD_SIZE];
    if (crypto_pwhash_str_alg(hash, password, strlen(password), PASSWORD_PASSES,
                              PASSWORD_MEMORY, crypto_pwhash_ALG_ARGON2ID13) != 0)
        return -ENOMEM;
    memcpy(ret_hash, hash, sizeof(hash));
    return 0;
}
