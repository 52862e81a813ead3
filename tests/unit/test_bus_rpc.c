/*
 * Request and reply between processes: this program started once more, with
 * arguments, is the daemon that is asked.
 *
 * usage: test_bus_rpc [serve DIR [UID]]
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "libcommon/bus.h"
#include "libcommon/clock.h"
#include "libcommon/loop.h"

extern char **environ;

enum {
    OP_ECHO = 1,
    OP_COUNT,    /* counts itself, answers how many were counted */
    OP_HANG,     /* never answers */
    OP_HOLD,     /* answers when released, last come first */
    OP_HOLD_BIG, /* the same, with as many bytes as OP_BIG */
    OP_RELEASE,  /* answers how many were held */
    OP_BIG,      /* answers as many bytes as the id says, from bit 32 on */
    OP_BUSY,     /* keeps the loop for 150 ms */
    OP_NOTE_DIE, /* notes that it ran, in a file, and dies without an answer */
    OP_STATS,
    OP_UID,
};
enum { SECOND_US = 1000000, NOBODY = 65534 };

/* ---- the daemon ---- */

static char *daemon_dir;
static struct bus *daemon_bus;
static struct bus_incoming *held[256];
static unsigned n_held;
static uint64_t n_counted;

static void
answer_bytes(struct bus_incoming *in, const void *bytes, size_t n)
{
    struct bus_reply r = {
        .status = 200,
        .body_kind = BUS_BODY_BYTES,
        .body = { .p = bytes, .len = (uint32_t)n },
    };
    bus_answer(in, &r);
}

static void
answer_number(struct bus_incoming *in, uint64_t n)
{
    answer_bytes(in, &n, sizeof(n));
}

static void
answer_big(struct bus_incoming *in, size_t n)
{
    char *bytes = calloc(1, n);
    if (bytes == NULL)
        abort();
    answer_bytes(in, bytes, n);
    free(bytes);
}

static void
keep_busy(void)
{
    uint64_t end = clock_mono_us() + 150000;
    while (clock_mono_us() < end)
        ;
}

static void
note_and_die(void)
{
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/note", daemon_dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, "x", 1) != 1)
        abort();
    (void)kill(getpid(), SIGKILL); /* at once, sanitizers or not */
}

static bool
was_seen(uint64_t id)
{
    static uint64_t seen[64];
    static size_t n;
    for (size_t i = 0; i < n; i++)
        if (seen[i] == id)
            return true;
    seen[n++] = id;
    return false;
}

static void
serve(void *arg, struct bus_incoming *in)
{
    (void)arg;
    const struct bus_request *r = bus_incoming_request(in);
    struct bus_stats stats;
    switch (r->op) {
    case OP_ECHO:
        answer_bytes(in, r->body.p, r->body.len);
        break;
    case OP_COUNT:
        answer_number(in, ++n_counted);
        break;
    case OP_HANG:
        break;
    case OP_HOLD:
        held[n_held++] = in;
        break;
    case OP_HOLD_BIG: /* the second time it is answered at once */
        if (was_seen(r->id))
            answer_big(in, (size_t)(r->id >> 32));
        else
            held[n_held++] = in;
        break;
    case OP_RELEASE: {
        unsigned n = n_held;
        while (n_held > 0) {
            struct bus_incoming *one = held[--n_held];
            const struct bus_request *q = bus_incoming_request(one);
            if (q->op == OP_HOLD_BIG)
                answer_big(one, (size_t)(q->id >> 32));
            else
                answer_bytes(one, q->body.p, q->body.len);
        }
        answer_number(in, n);
        break;
    }
    case OP_BIG:
        answer_big(in, (size_t)(r->id >> 32));
        break;
    case OP_BUSY:
        keep_busy();
        answer_number(in, 0);
        break;
    case OP_NOTE_DIE:
        note_and_die();
        break;
    case OP_STATS:
        bus_get_stats(daemon_bus, &stats);
        answer_bytes(in, &stats, sizeof(stats));
        break;
    default:
        answer_number(in, bus_incoming_uid(in));
    }
}

static int
daemon_main(char *dir, const char *uid)
{
    struct loop *loop = NULL;
    daemon_dir = dir;
    if (uid != NULL && setuid((uid_t)atoll(uid)) < 0)
        return 3;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) /* whatever becomes of the test */
        return 3;
    int r = loop_new(&loop);
    if (r == 0)
        r = bus_open(loop, dir, NULL, 0, &daemon_bus);
    if (r == 0)
        r = bus_serve(daemon_bus, "d", serve, NULL);
    if (r == 0)
        r = loop_run(loop);
    return r == 0 ? 0 : 2;
}

/* ---- the test's side ---- */

static char dir[64];
static struct loop *loop;
static struct bus *bus;
static struct bus_peer *peer;
static pid_t daemon_pid;

static pid_t
spawn(char *in_dir, char *uid)
{
    static char self[] = "/proc/self/exe";
    static char verb[] = "serve";
    char *argv[] = { self, verb, in_dir, uid, NULL };
    pid_t pid = 0;
    assert_int_equal(posix_spawn(&pid, self, NULL, NULL, argv, environ), 0);
    return pid;
}

static void
start_daemon(void)
{
    daemon_pid = spawn(dir, NULL);
    uint64_t end = clock_mono_us() + 10 * SECOND_US;
    while (!bus_peer_is_up(peer)) {
        assert_true(clock_mono_us() < end);
        assert_int_equal(loop_round(loop, 2000), 0);
    }
}

static void
wait_until_down(void)
{
    uint64_t end = clock_mono_us() + 10 * SECOND_US;
    while (bus_peer_is_up(peer)) {
        assert_true(clock_mono_us() < end);
        assert_int_equal(loop_round(loop, 2000), 0);
    }
}

static void
reap_daemon(void)
{
    int status = 0;
    assert_int_equal(waitpid(daemon_pid, &status, 0), daemon_pid);
    daemon_pid = 0;
    wait_until_down();
}

static void
kill_daemon(void)
{
    assert_int_equal(kill(daemon_pid, SIGKILL), 0);
    reap_daemon();
}

static uint64_t
next_id(void)
{
    static _Atomic uint32_t id;
    return ++id;
}

static struct bus_request
request(uint32_t op, const void *body, size_t n)
{
    return (struct bus_request){
        .kind = BUS_KIND_INTERNAL,
        .op = op,
        .id = next_id(),
        .deadline_us = clock_mono_us() + 20 * SECOND_US,
        .who = { .kind = BUS_WHO_DAEMON, .name = "test" },
        .body_kind = n > 0 ? BUS_BODY_BYTES : BUS_BODY_NONE,
        .body = { .p = body, .len = (uint32_t)n },
    };
}

/* Asks for a number. */
static int
ask_number(uint32_t op, bool gather, uint64_t *ret_n)
{
    struct bus_request q = request(op, NULL, 0);
    struct bus_answer a;
    int r = bus_ask(peer, &q, gather, &a);
    if (r == 0 && a.reply.body.len == sizeof(*ret_n))
        memcpy(ret_n, a.reply.body.p, sizeof(*ret_n));
    if (r == 0)
        bus_answer_done(&a);
    return r;
}

static struct bus_stats
daemon_stats(void)
{
    struct bus_request q = request(OP_STATS, NULL, 0);
    struct bus_stats stats;
    struct bus_answer a;
    assert_int_equal(bus_ask(peer, &q, false, &a), 0);
    assert_int_equal(a.reply.body.len, sizeof(stats));
    memcpy(&stats, a.reply.body.p, sizeof(stats));
    bus_answer_done(&a);
    return stats;
}

static void
a_peer_that_is_away_fails_at_once(void **state)
{
    (void)state;
    uint64_t n = 0;
    struct bus_peer *nobody = NULL;
    struct bus_peer *same = NULL;
    assert_int_equal(bus_peer(bus, "nobody", &nobody), 0);
    assert_int_equal(bus_peer(bus, "nobody", &same), 0);
    assert_ptr_equal(nobody, same);
    assert_false(bus_peer_is_up(nobody));
    struct bus_request q = request(OP_ECHO, NULL, 0);
    struct bus_answer a;
    assert_int_equal(bus_ask(nobody, &q, true, &a), -EHOSTUNREACH); /* may use the grace */
    assert_int_equal(ask_number(OP_ECHO, true, &n), -EHOSTUNREACH);
    uint64_t start = clock_mono_us();
    assert_int_equal(bus_ask(nobody, &q, true, &a), -EHOSTUNREACH);
    assert_int_equal(bus_ask(nobody, &q, false, &a), -EHOSTUNREACH);
    assert_true(clock_mono_us() - start < 5 * SECOND_US);
}

static void
a_request_is_answered_on_both_lanes(void **state)
{
    (void)state;
    static const char text[] = "hello";
    start_daemon();
    for (int gather = 0; gather < 2; gather++) {
        struct bus_request q = request(OP_ECHO, text, sizeof(text));
        struct bus_answer a;
        assert_int_equal(bus_ask(peer, &q, gather, &a), 0);
        assert_int_equal(a.reply.status, 200);
        assert_true(a.reply.id == q.id);
        assert_int_equal(a.reply.body.len, sizeof(text));
        assert_memory_equal(a.reply.body.p, text, sizeof(text));
        bus_answer_done(&a);
    }
    uint64_t uid = 1234567;
    assert_int_equal(ask_number(OP_UID, false, &uid), 0);
    assert_true(uid == getuid());
}

struct many {
    pthread_t thread;
    uint32_t op;
    unsigned times;
    uint64_t deadline_us; /* relative */
    uint64_t id_high;
    uint32_t number;
    bool gather;
    int error;
    unsigned wrong;
};

static void *
ask_many(void *arg)
{
    struct many *m = arg;
    for (unsigned i = 0; i < m->times; i++) {
        uint32_t body[4] = { m->number, i, ~i, m->number };
        struct bus_request q = request(m->op, body, sizeof(body));
        struct bus_answer a;
        q.id |= m->id_high << 32;
        q.deadline_us = clock_mono_us() + m->deadline_us;
        int r = bus_ask(peer, &q, m->gather, &a);
        if (r < 0) {
            m->error = r;
            continue;
        }
        if (m->op == OP_HANG && a.reply.status == 504)
            m->error = -ETIMEDOUT; /* it was late already when it arrived */
        else if (m->op == OP_BIG || m->op == OP_HOLD_BIG)
            m->wrong += a.reply.status != 200 || a.reply.body.len != m->id_high;
        else
            m->wrong += a.reply.body.len != sizeof(body) ||
                        memcmp(a.reply.body.p, body, sizeof(body)) != 0;
        bus_answer_done(&a);
    }
    return NULL;
}

static void
start_many(struct many *m, size_t n, struct many like)
{
    for (size_t i = 0; i < n; i++) {
        m[i] = like;
        m[i].number = (uint32_t)i;
        if (m[i].deadline_us == 0)
            m[i].deadline_us = 20 * SECOND_US;
        assert_int_equal(pthread_create(&m[i].thread, NULL, ask_many, &m[i]), 0);
    }
}

static void
join_many(struct many *m, size_t n, int error)
{
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(pthread_join(m[i].thread, NULL), 0);
        assert_int_equal(m[i].error, error);
        assert_int_equal(m[i].wrong, 0);
    }
}

static void
many_threads_share_messages_and_get_their_own_answers(void **state)
{
    (void)state;
    struct many m[32];
    struct bus_stats before, after;
    bus_get_stats(bus, &before);
    start_many(m, 32, (struct many){ .op = OP_ECHO, .times = 200, .gather = true });
    join_many(m, 32, 0);
    bus_get_stats(bus, &after);
    assert_true(after.asked - before.asked == 32 * 200);
    assert_true(after.messages_asked - before.messages_asked < 32 * 200);
    assert_true(after.ask_failed == before.ask_failed);
}

static void
many_threads_on_their_own_lanes(void **state)
{
    (void)state;
    struct many m[32];
    start_many(m, 32, (struct many){ .op = OP_ECHO, .times = 50, .gather = false });
    join_many(m, 32, 0);
}

static void
release(unsigned n)
{
    unsigned released = 0;
    uint64_t end = clock_mono_us() + 10 * SECOND_US;
    while (released < n) {
        uint64_t some = 0;
        assert_true(clock_mono_us() < end);
        assert_int_equal(ask_number(OP_RELEASE, false, &some), 0);
        released += (unsigned)some;
    }
}

static void
answers_out_of_order_reach_their_askers(void **state)
{
    (void)state;
    struct many m[24];
    start_many(m, 24, (struct many){ .op = OP_HOLD, .times = 1, .gather = true });
    release(24);
    join_many(m, 24, 0);
    start_many(m, 24, (struct many){ .op = OP_HOLD, .times = 1, .gather = false });
    release(24);
    join_many(m, 24, 0);
}

static void
more_requests_than_contexts_wait_are_served(void **state)
{
    (void)state;
    struct many m[100];
    uint64_t n = 0;
    start_many(m, 100, (struct many){ .op = OP_HOLD, .times = 1, .gather = false });
    assert_int_equal(ask_number(OP_COUNT, false, &n), 0); /* not behind the held ones */
    release(100);
    join_many(m, 100, 0);
}

static void
an_answer_too_large_becomes_500(void **state)
{
    (void)state;
    for (int gather = 0; gather < 2; gather++) {
        struct bus_request q = request(OP_BIG, NULL, 0);
        struct bus_answer a;
        q.id |= (uint64_t)BUS_MESSAGE_MAX << 32;
        assert_int_equal(bus_ask(peer, &q, gather, &a), 0);
        assert_int_equal(a.reply.status, 500);
        bus_answer_done(&a);
    }
    struct bus_request q = request(OP_ECHO, dir, 1);
    struct bus_answer a;
    q.body.len = BUS_MESSAGE_MAX;
    assert_int_equal(bus_ask(peer, &q, true, &a), -E2BIG);
}

static void
large_answers_do_not_crowd_each_other_out(void **state)
{
    (void)state;
    struct many m[8];
    start_many(m, 8,
               (struct many){ .op = OP_BIG, .times = 2, .gather = true, .id_high = 5 << 20 });
    join_many(m, 8, 0);
    /* Answered from the last to the first: they wait beside the message. */
    start_many(m, 8,
               (struct many){ .op = OP_HOLD_BIG, .times = 1, .gather = true, .id_high = 3 << 20 });
    release(8);
    join_many(m, 8, 0);
}

static void
no_answer_ends_at_the_deadline_and_the_lane_goes_on(void **state)
{
    (void)state;
    uint64_t n = 0;
    for (int gather = 0; gather < 2; gather++) {
        struct bus_request q = request(OP_HANG, NULL, 0);
        struct bus_answer a;
        uint64_t start = clock_mono_us();
        q.deadline_us = start + 300000;
        assert_int_equal(bus_ask(peer, &q, gather, &a), -ETIMEDOUT);
        assert_true(clock_mono_us() >= q.deadline_us);
        assert_true(clock_mono_us() - start < 5 * SECOND_US);
        assert_int_equal(ask_number(OP_COUNT, gather, &n), 0);
    }
    struct many m[16];
    start_many(
        m, 16,
        (struct many){ .op = OP_HANG, .times = 3, .gather = true, .deadline_us = 50000 });
    join_many(m, 16, -ETIMEDOUT);
    assert_int_equal(ask_number(OP_COUNT, true, &n), 0);
}

static void *
ask_busy(void *arg)
{
    uint64_t n = 0;
    *(int *)arg = ask_number(OP_BUSY, false, &n);
    return NULL;
}

static void
what_is_past_its_deadline_is_not_executed(void **state)
{
    (void)state;
    uint64_t before = 0;
    uint64_t after = 0;
    int error = 1;
    pthread_t thread;
    assert_int_equal(ask_number(OP_COUNT, false, &before), 0);
    struct bus_stats stats = daemon_stats();
    assert_int_equal(pthread_create(&thread, NULL, ask_busy, &error), 0);
    unsigned n_expired = 0;
    uint64_t end = clock_mono_us() + 10 * SECOND_US;
    while (daemon_stats().expired == stats.expired) { /* the thread may start late */
        assert_true(clock_mono_us() < end);
        if (n_expired > 0) {
            assert_int_equal(pthread_join(thread, NULL), 0);
            assert_int_equal(error, 0);
            assert_int_equal(pthread_create(&thread, NULL, ask_busy, &error), 0);
        }
        for (int i = 0; i < 20; i++) {
            struct bus_request q = request(OP_HANG, NULL, 0);
            struct bus_answer a;
            q.deadline_us = clock_mono_us() + 3000;
            (void)bus_ask(peer, &q, false, &a); /* until one meets the busy loop */
            n_expired++;
        }
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(error, 0);
    assert_int_equal(ask_number(OP_COUNT, false, &after), 0);
    assert_true(after == before + 1);
}

/* Speaks the transport by hand: what the peer must bear from anyone it lets in. */
static int
raw_connect(void)
{
    static const uint8_t hello[8] = { 0, 'S', 'P', 0, 0, 0x30, 0, 0 };
    uint8_t got[8];
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/d.rpc", dir);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(write(fd, hello, 8), 8);
    assert_int_equal(recv(fd, got, 8, MSG_WAITALL), 8);
    return fd;
}

static void
raw_send(int fd, const void *bytes, size_t n)
{
    uint8_t head[13] = { 1 };
    put_u64(head + 1, n + 4);
    put_u32(head + 9, 0x80000001);
    assert_int_equal(write(fd, head, sizeof(head)), sizeof(head));
    if (n > 0)
        assert_int_equal(write(fd, bytes, n), (ssize_t)n);
}

static void
nonsense_ends_the_connection_and_no_more(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
    } cases[] = {
        { "", 0 },
        { "FG", 2 },
        { "FG\1\0\1", 5 },
        { "FG\1\0\0", 5 },
        { "FG\1\0\1\0\0\0\1x", 10 },
        { "FG\1\0\1\377\377\377\377x", 10 },
        { "GET / HTTP/1.1\r\n\r\n", 18 },
    };
    uint64_t n = 0;
    struct bus_stats before = daemon_stats();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char got;
        int fd = raw_connect();
        raw_send(fd, cases[i].bytes, cases[i].n);
        assert_true(recv(fd, &got, 1, 0) <= 0);
        close(fd);
    }
    int fd = raw_connect(); /* more than any message may hold */
    uint8_t head[9] = { 1 };
    char got;
    put_u64(head + 1, BUS_MESSAGE_MAX + 1000);
    assert_int_equal(write(fd, head, sizeof(head)), sizeof(head));
    assert_true(recv(fd, &got, 1, 0) <= 0);
    close(fd);
    assert_true(daemon_stats().bad_messages - before.bad_messages ==
                sizeof(cases) / sizeof(cases[0]));
    assert_int_equal(ask_number(OP_COUNT, true, &n), 0);
}

/* NNG alone stops to accept for good when a peer is gone before it was greeted. */
static void
peers_that_hang_up_at_once_do_no_harm(void **state)
{
    (void)state;
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct bus *other = NULL;
    struct bus_peer *fresh = NULL;
    struct bus_answer a;
    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/d.rpc", dir);
    for (int i = 0; i < 200; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_true(fd >= 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
        close(fd);
    }
    assert_int_equal(bus_open(loop, dir, NULL, 0, &other), 0);
    assert_int_equal(bus_peer(other, "d", &fresh), 0);
    uint64_t end = clock_mono_us() + 10 * SECOND_US;
    while (!bus_peer_is_up(fresh)) {
        assert_true(clock_mono_us() < end);
        assert_int_equal(loop_round(loop, 5000), 0);
    }
    struct bus_request q = request(OP_ECHO, NULL, 0);
    assert_int_equal(bus_ask(fresh, &q, true, &a), 0);
    bus_answer_done(&a);
}

static void
a_name_in_use_is_refused(void **state)
{
    (void)state;
    uint64_t n = 0;
    assert_int_equal(bus_serve(bus, "d", serve, NULL), -EADDRINUSE);
    assert_int_equal(ask_number(OP_COUNT, false, &n), 0);
}

static size_t
size_of_note(void)
{
    char path[128];
    struct stat st;
    (void)snprintf(path, sizeof(path), "%s/note", dir);
    return stat(path, &st) == 0 ? (size_t)st.st_size : 0;
}

static void
a_dying_peer_is_told_soon_and_nothing_runs_twice(void **state)
{
    (void)state;
    for (int gather = 0; gather < 2; gather++) {
        struct bus_request q = request(OP_NOTE_DIE, NULL, 0);
        struct bus_answer a;
        uint64_t n = 0;
        uint64_t start = clock_mono_us();
        assert_int_equal(bus_ask(peer, &q, gather, &a), -ECONNRESET);
        assert_true(clock_mono_us() - start < 5 * SECOND_US);
        reap_daemon();
        assert_int_equal(ask_number(OP_COUNT, gather, &n), -EHOSTUNREACH);
        start_daemon(); /* takes over the socket that the dead one left */
        assert_int_equal(ask_number(OP_COUNT, gather, &n), 0);
        assert_true(n == 1); /* a new process: the old one's count is gone */
        assert_int_equal(size_of_note(), gather + 1);
    }
}

static void
all_that_wait_learn_that_the_peer_died(void **state)
{
    (void)state;
    for (int gather = 0; gather < 2; gather++) {
        struct many m[16];
        uint64_t n = 0;
        start_many(m, 16, (struct many){ .op = OP_HANG, .times = 1, .gather = gather });
        assert_int_equal(ask_number(OP_COUNT, false, &n), 0);
        kill_daemon();
        for (size_t i = 0; i < 16; i++) {
            assert_int_equal(pthread_join(m[i].thread, NULL), 0);
            assert_true(m[i].error == -ECONNRESET || m[i].error == -EHOSTUNREACH);
        }
        start_daemon();
        assert_int_equal(ask_number(OP_COUNT, gather, &n), 0);
    }
}

/* Requests that count themselves, from several threads, while the daemon is killed. */
struct counting {
    pthread_t thread;
    bool gather;
    _Atomic bool *stop;
    unsigned n_ok, n_maybe, n_not, n_other;
};

static void *
count_on(void *arg)
{
    struct counting *c = arg;
    while (!atomic_load(c->stop)) {
        uint64_t n = 0;
        int r = ask_number(OP_COUNT, c->gather, &n);
        c->n_ok += r == 0;
        c->n_maybe += r == -ECONNRESET;
        c->n_not += r == -EHOSTUNREACH;
        c->n_other += r != 0 && r != -ECONNRESET && r != -EHOSTUNREACH;
    }
    return NULL;
}

static void
killing_the_peer_again_and_again_only_resets(void **state)
{
    (void)state;
    _Atomic bool stop = false;
    struct counting c[6] = { 0 };
    for (size_t i = 0; i < 6; i++) {
        c[i].gather = i % 2 == 0;
        c[i].stop = &stop;
        assert_int_equal(pthread_create(&c[i].thread, NULL, count_on, &c[i]), 0);
    }
    for (int i = 0; i < 10; i++) {
        uint64_t n = 0;
        uint64_t end = clock_mono_us() + 10 * SECOND_US;
        while (n < 100) { /* it works for a while */
            assert_true(clock_mono_us() < end);
            (void)ask_number(OP_COUNT, false, &n); /* the loop above says how often */
        }
        kill_daemon();
        start_daemon();
    }
    atomic_store(&stop, true);
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(pthread_join(c[i].thread, NULL), 0);
        assert_true(c[i].n_ok > 0);
        assert_int_equal(c[i].n_other, 0);
    }
}

/* ---- from the loop ---- */

struct called {
    unsigned times;
    int error;
    uint16_t status;
    char body[16];
};

static void
got_reply(void *arg, int error, const struct bus_reply *reply)
{
    struct called *c = arg;
    c->times++;
    c->error = error;
    assert_true((reply != NULL) == (error == 0));
    if (reply != NULL) {
        c->status = reply->status;
        memcpy(c->body, reply->body.p, reply->body.len < 16 ? reply->body.len : 16);
    }
}

static void
run_until(const struct called *c)
{
    uint64_t end = clock_mono_us() + 10 * SECOND_US;
    while (c->times == 0) {
        assert_true(clock_mono_us() < end);
        assert_int_equal(loop_round(loop, 10000), 0);
    }
    assert_int_equal(c->times, 1);
}

static void
a_call_from_the_loop_is_answered_once(void **state)
{
    (void)state;
    struct called c = { 0 };
    struct bus_request q = request(OP_ECHO, "four", 5);
    assert_int_equal(bus_call(peer, &q, got_reply, &c), 0);
    assert_int_equal(c.times, 0);
    run_until(&c);
    assert_int_equal(c.error, 0);
    assert_int_equal(c.status, 200);
    assert_string_equal(c.body, "four");

    c = (struct called){ 0 };
    q = request(OP_HANG, NULL, 0);
    q.deadline_us = clock_mono_us() + 50000;
    assert_int_equal(bus_call(peer, &q, got_reply, &c), 0);
    run_until(&c);
    assert_int_equal(c.error, -ETIMEDOUT);
}

static void
many_calls_from_the_loop_are_all_answered(void **state)
{
    (void)state;
    static struct called c[500];
    memset(c, 0, sizeof(c));
    for (size_t i = 0; i < 500; i++) {
        struct bus_request q = request(OP_ECHO, &i, sizeof(i));
        assert_int_equal(bus_call(peer, &q, got_reply, &c[i]), 0);
    }
    for (size_t i = 0; i < 500; i++) {
        run_until(&c[i]);
        assert_int_equal(c[i].error, 0);
        assert_memory_equal(c[i].body, &i, sizeof(i));
    }
}

static void
a_call_to_a_dead_peer_fails(void **state)
{
    (void)state;
    struct called c = { 0 };
    struct bus_request q = request(OP_HANG, NULL, 0);
    assert_int_equal(bus_call(peer, &q, got_reply, &c), 0);
    uint64_t n = 0;
    assert_int_equal(ask_number(OP_COUNT, false, &n), 0);
    kill_daemon();
    run_until(&c);
    assert_int_equal(c.error, -ECONNRESET);
    c = (struct called){ 0 };
    assert_int_equal(bus_call(peer, &q, got_reply, &c), 0);
    assert_int_equal(c.times, 0);
    run_until(&c);
    assert_int_equal(c.error, -EHOSTUNREACH);
    start_daemon();
}

static void
a_call_to_a_new_peer_waits_for_it_a_moment(void **state)
{
    (void)state;
    struct called c = { .error = -EHOSTUNREACH };
    /* A busy machine may take longer than the moment; without it, none would ever do. */
    for (int i = 0; c.error == -EHOSTUNREACH && i < 20; i++) {
        struct bus *other = NULL;
        struct bus_peer *fresh = NULL;
        struct bus_request q = request(OP_ECHO, "new", 4);
        c = (struct called){ 0 };
        assert_int_equal(bus_open(loop, dir, NULL, 0, &other), 0);
        assert_int_equal(bus_peer(other, "d", &fresh), 0);
        assert_int_equal(bus_call(fresh, &q, got_reply, &c), 0);
        run_until(&c);
    }
    assert_int_equal(c.error, 0);
    assert_string_equal(c.body, "new");
}

/* Asks the daemon "d" when this is what is known of users. */
static int
ask_as_known(const struct bus_user *users, size_t n)
{
    struct bus *other = NULL;
    struct bus_peer *d = NULL;
    struct bus_request q = request(OP_ECHO, NULL, 0);
    struct bus_answer a;
    assert_int_equal(bus_open(loop, dir, users, n, &other), 0);
    assert_int_equal(bus_peer(other, "d", &d), 0);
    int r = bus_ask(d, &q, true, &a);
    for (int i = 0; r == -EHOSTUNREACH && i < 50; i++) { /* on a busy machine it comes later */
        (void)usleep(10000);
        r = bus_ask(d, &q, true, &a);
    }
    if (r == 0)
        bus_answer_done(&a);
    return r;
}

static void
whoever_is_dialled_must_have_the_uid_of_that_name(void **state)
{
    (void)state;
    const uint32_t uid = (uint32_t)getuid();
    static struct bus_user right[2], wrong[2], none[1];
    right[0] = (struct bus_user){ "e", uid + 1 };
    right[1] = (struct bus_user){ "d", uid };
    wrong[0] = (struct bus_user){ "e", uid }; /* another daemon at the place of "d" */
    wrong[1] = (struct bus_user){ "d", uid + 1 };
    none[0] = (struct bus_user){ "e", uid };
    assert_int_equal(ask_as_known(right, ARRAY_LEN(right)), 0);
    assert_int_equal(ask_as_known(wrong, ARRAY_LEN(wrong)), -EHOSTUNREACH);
    assert_int_equal(ask_as_known(none, ARRAY_LEN(none)), -EHOSTUNREACH);
}

struct watched {
    unsigned up, down;
    bool is_up;
};

static void
watch(void *arg, bool up)
{
    struct watched *w = arg;
    assert_true(up != w->is_up);
    w->is_up = up;
    w->up += up;
    w->down += !up;
}

static void
watchers_hear_of_every_coming_and_going(void **state)
{
    (void)state;
    static struct watched w;
    assert_int_equal(bus_peer_watch(peer, watch, &w), 0);
    for (unsigned i = 0; i < 3; i++) {
        uint64_t end = clock_mono_us() + 10 * SECOND_US;
        while (w.up != i + 1 || w.down != i) {
            assert_true(clock_mono_us() < end);
            assert_int_equal(loop_round(loop, 10000), 0);
        }
        kill_daemon();
        start_daemon();
    }
}

static void
a_peer_with_another_uid_is_no_peer(void **state)
{
    (void)state;
    static char foreign[64] = "/tmp/test_bus_uid.XXXXXX";
    static char uid[] = "65534";
    struct bus *other = NULL;
    struct bus_peer *stranger = NULL;
    struct bus_stats stats = { 0 };
    if (geteuid() != 0)
        skip();
    assert_non_null(mkdtemp(foreign));
    assert_int_equal(chown(foreign, NOBODY, NOBODY), 0);
    pid_t pid = spawn(foreign, uid);
    assert_int_equal(bus_open(loop, foreign, NULL, 0, &other), 0);
    assert_int_equal(bus_peer(other, "d", &stranger), 0);
    uint64_t end = clock_mono_us() + 10 * SECOND_US;
    while (stats.refused_peers == 0) {
        assert_true(clock_mono_us() < end);
        assert_int_equal(loop_round(loop, 5000), 0);
        bus_get_stats(other, &stats);
    }
    struct bus_request q = request(OP_ECHO, NULL, 0);
    struct bus_answer a;
    assert_int_equal(bus_ask(stranger, &q, true, &a), -EHOSTUNREACH);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/d.rpc", foreign);
    (void)unlink(path);
    (void)rmdir(foreign);
}

static void
a_directory_open_to_all_is_refused(void **state)
{
    (void)state;
    struct bus *other = NULL;
    assert_int_equal(chmod(dir, 0755), 0);
    assert_int_equal(bus_open(loop, dir, NULL, 0, &other), -EPERM);
    assert_int_equal(chmod(dir, 0750), 0);
    assert_int_equal(bus_open(loop, "/nonexistent", NULL, 0, &other), -ENOENT);
}

static int
set_up(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/test_bus_rpc.XXXXXX");
    if (mkdtemp(dir) == NULL || chmod(dir, 0750) < 0)
        return -1;
    return loop_new(&loop) < 0 || bus_open(loop, dir, NULL, 0, &bus) < 0 ||
                   bus_peer(bus, "d", &peer) < 0
               ? -1
               : 0;
}

static int
tear_down(void **state)
{
    (void)state;
    char path[128];
    if (daemon_pid > 0) {
        (void)kill(daemon_pid, SIGKILL);
        (void)waitpid(daemon_pid, NULL, 0);
    }
    bus_shutdown(bus, 0);
    (void)snprintf(path, sizeof(path), "%s/d.rpc", dir);
    (void)unlink(path);
    (void)snprintf(path, sizeof(path), "%s/note", dir);
    (void)unlink(path);
    return rmdir(dir);
}

int
main(int argc, char **argv)
{
    if (argc >= 3 && strcmp(argv[1], "serve") == 0)
        return daemon_main(argv[2], argc > 3 ? argv[3] : NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_peer_that_is_away_fails_at_once),
        cmocka_unit_test(a_request_is_answered_on_both_lanes),
        cmocka_unit_test(many_threads_share_messages_and_get_their_own_answers),
        cmocka_unit_test(many_threads_on_their_own_lanes),
        cmocka_unit_test(answers_out_of_order_reach_their_askers),
        cmocka_unit_test(more_requests_than_contexts_wait_are_served),
        cmocka_unit_test(an_answer_too_large_becomes_500),
        cmocka_unit_test(large_answers_do_not_crowd_each_other_out),
        cmocka_unit_test(no_answer_ends_at_the_deadline_and_the_lane_goes_on),
        cmocka_unit_test(what_is_past_its_deadline_is_not_executed),
        cmocka_unit_test(nonsense_ends_the_connection_and_no_more),
        cmocka_unit_test(peers_that_hang_up_at_once_do_no_harm),
        cmocka_unit_test(a_name_in_use_is_refused),
        cmocka_unit_test(a_dying_peer_is_told_soon_and_nothing_runs_twice),
        cmocka_unit_test(all_that_wait_learn_that_the_peer_died),
        cmocka_unit_test(killing_the_peer_again_and_again_only_resets),
        cmocka_unit_test(a_call_from_the_loop_is_answered_once),
        cmocka_unit_test(many_calls_from_the_loop_are_all_answered),
        cmocka_unit_test(a_call_to_a_dead_peer_fails),
        cmocka_unit_test(a_call_to_a_new_peer_waits_for_it_a_moment),
        cmocka_unit_test(whoever_is_dialled_must_have_the_uid_of_that_name),
        cmocka_unit_test(watchers_hear_of_every_coming_and_going),
        cmocka_unit_test(a_peer_with_another_uid_is_no_peer),
        cmocka_unit_test(a_directory_open_to_all_is_refused),
    };
    int failed = cmocka_run_group_tests(tests, set_up, tear_down);
    (void)fflush(NULL);
    _exit(failed != 0); /* NNG's threads still run: nothing of it is taken down */
}
