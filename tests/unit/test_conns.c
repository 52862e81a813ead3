/*
 * The table of connections: who may come in, who has to go.
 */
#include "gateway/conns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { PLAIN = 59000, SECURE = 8443, NOW = 1000000000, SECOND = 1000000 };

/* A table of 'workers' threads each, and sockets whose other ends tell who was ended. */
struct fixture {
    struct conns *conns;
    int ours[64], theirs[64];
    unsigned n, pressed;
};

static void
on_pressure(void *arg)
{
    struct fixture *f = arg;
    f->pressed++;
}

static void
setup(struct fixture *f, unsigned workers, unsigned per_address)
{
    const struct conns_limits limits = { .workers = { workers, workers },
                                         .per_address = per_address,
                                         .plain_port = PLAIN,
                                         .on_pressure = on_pressure,
                                         .arg = f };
    *f = (struct fixture){ 0 };
    assert_int_equal(conns_new(&limits, &f->conns), 0);
}

static void
done(struct fixture *f)
{
    conns_free(f->conns);
    for (unsigned i = 0; i < f->n; i++) {
        close(f->ours[i]);
        close(f->theirs[i]);
    }
}

/* One more connection, from 10.0.0.'host' port 1000 + n. */
static int
enter(struct fixture *f, uint8_t host, uint16_t local_port, uint64_t now_us)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    struct sockaddr_in peer = { .sin_family = AF_INET,
                                .sin_port = htons((uint16_t)(1000 + f->n)),
                                .sin_addr.s_addr = htonl(0x0a000000u | host) };
    struct sockaddr_in local = { .sin_family = AF_INET, .sin_port = htons(local_port) };
    f->ours[f->n] = pair[0];
    f->theirs[f->n++] = pair[1];
    return conns_enter(f->conns, pair[0], &peer, &local, now_us);
}

static struct conn *
conn_at(struct fixture *f, unsigned n, uint8_t host, uint16_t local_port)
{
    return conns_find(f->conns, htonl(0x0a000000u | host), (uint16_t)(1000 + n), local_port);
}

static bool
is_ended(struct fixture *f, unsigned n)
{
    char c;
    return recv(f->theirs[n], &c, 1, MSG_DONTWAIT) == 0;
}

static void
test_connections_of_one_address_are_limited_on_https_alone(void **state)
{
    (void)state;
    struct fixture f;
    setup(&f, 40, 2);
    assert_int_equal(enter(&f, 1, SECURE, NOW), 0);
    assert_int_equal(enter(&f, 1, SECURE, NOW), 0);
    assert_int_equal(enter(&f, 1, SECURE, NOW), -ECONNREFUSED);
    assert_int_equal(enter(&f, 2, SECURE, NOW), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(enter(&f, 1, PLAIN, NOW), 0);
    conns_leave(f.conns, conn_at(&f, 0, 1, SECURE));
    assert_int_equal(enter(&f, 1, SECURE, NOW), 0);
    done(&f);
}

static void
test_idle_for_longest_goes_when_threads_run_short(void **state)
{
    (void)state;
    struct fixture f;
    setup(&f, 12, 0);
    for (unsigned i = 0; i < 12 - CONNS_SPARE; i++)
        assert_int_equal(enter(&f, 1, PLAIN, NOW + i), 0);
    conn_busy(conn_at(&f, 0, 1, PLAIN));
    assert_int_equal(f.pressed, 0);
    assert_false(conns_check(f.conns, NOW + SECOND));
    assert_int_equal(enter(&f, 1, PLAIN, NOW + SECOND), 0);
    assert_int_equal(f.pressed, 1);
    assert_false(conns_check(f.conns, NOW + SECOND));
    assert_false(is_ended(&f, 0)); /* has a request */
    assert_true(is_ended(&f, 1));
    assert_false(is_ended(&f, 2));
    assert_false(is_ended(&f, 12 - CONNS_SPARE));
    done(&f);
}

static void
test_nobody_goes_while_all_are_at_work_or_new(void **state)
{
    (void)state;
    struct fixture f;
    setup(&f, 12, 0);
    for (unsigned i = 0; i < 12; i++) {
        assert_int_equal(enter(&f, 1, PLAIN, NOW), 0);
        if (i > 0)
            conn_busy(conn_at(&f, i, 1, PLAIN));
    }
    assert_true(conns_check(f.conns, NOW + CONNS_IDLE_LEAST_US - 1));
    for (unsigned i = 0; i < 12; i++)
        assert_false(is_ended(&f, i));
    assert_true(conns_check(f.conns, NOW + SECOND)); /* still pressed: the others work */
    assert_true(is_ended(&f, 0));
    assert_false(is_ended(&f, 1));
    done(&f);
}

static void
test_those_that_wait_for_a_thread_stay(void **state)
{
    (void)state;
    struct fixture f;
    setup(&f, 12, 0);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(enter(&f, 1, PLAIN, NOW + i), 0);
        if (i < 12)
            conn_busy(conn_at(&f, i, 1, PLAIN));
    }
    assert_true(conns_check(f.conns, NOW + SECOND));
    for (unsigned i = 0; i < 20; i++)
        assert_false(is_ended(&f, i));
    /* One leaves: the first that waited has its thread, and time for a request. */
    conns_leave(f.conns, conn_at(&f, 0, 1, PLAIN));
    assert_true(conns_check(f.conns, NOW + SECOND + CONNS_FIRST_US));
    assert_false(is_ended(&f, 12));
    assert_true(conns_check(f.conns, NOW + SECOND + CONNS_FIRST_US + CONNS_IDLE_LEAST_US + 1));
    assert_true(is_ended(&f, 12));
    assert_false(is_ended(&f, 13));
    done(&f);
}

static void
test_as_many_busy_ones_yield_as_wait_for_a_thread(void **state)
{
    (void)state;
    struct fixture f;
    setup(&f, 12, 0);
    for (unsigned i = 0; i < 12; i++) {
        assert_int_equal(enter(&f, 1, PLAIN, NOW + i), 0);
        conn_asked(conn_at(&f, i, 1, PLAIN));
        conn_busy(conn_at(&f, i, 1, PLAIN));
    }
    conn_stays(conn_at(&f, 0, 1, PLAIN)); /* an event stream */
    assert_true(conns_check(f.conns, NOW + SECOND));
    for (unsigned i = 0; i < 12; i++)
        assert_false(conn_yields(conn_at(&f, i, 1, PLAIN)));
    for (unsigned i = 12; i < 14; i++)
        assert_int_equal(enter(&f, 1, PLAIN, NOW + i), 0);
    for (int again = 0; again < 2; again++) {
        assert_true(conns_check(f.conns, NOW + SECOND));
        for (unsigned i = 0; i < 14; i++)
            assert_int_equal(conn_yields(conn_at(&f, i, 1, PLAIN)), i == 1 || i == 2);
    }
    conns_leave(f.conns, conn_at(&f, 1, 1, PLAIN)); /* its thread is the next one's */
    conn_asked(conn_at(&f, 12, 1, PLAIN));
    conn_busy(conn_at(&f, 12, 1, PLAIN));
    assert_int_equal(enter(&f, 1, PLAIN, NOW + SECOND), 0); /* in the first one's place */
    assert_false(conn_yields(conn_at(&f, 14, 1, PLAIN)));
    assert_true(conns_check(f.conns, NOW + SECOND));
    assert_true(conn_yields(conn_at(&f, 3, 1, PLAIN)));
    assert_false(conn_yields(conn_at(&f, 4, 1, PLAIN)));
    done(&f);
}

static void
test_slow_within_a_request_counts_as_idle_after_a_while(void **state)
{
    (void)state;
    struct fixture f;
    setup(&f, CONNS_SPARE, 0);
    assert_int_equal(enter(&f, 1, PLAIN, NOW), 0);
    conn_waits(conn_at(&f, 0, 1, PLAIN), NOW);
    assert_true(conns_check(f.conns, NOW + CONNS_SLOW_US));
    assert_false(is_ended(&f, 0));
    assert_false(conns_check(f.conns, NOW + CONNS_SLOW_US + SECOND));
    assert_true(is_ended(&f, 0));
    done(&f);
}

static void
test_late_connection_is_ended(void **state)
{
    (void)state;
    struct fixture f;
    struct conns_stats stats;
    setup(&f, 40, 0);
    assert_int_equal(enter(&f, 1, PLAIN, NOW), 0);
    conn_busy(conn_at(&f, 0, 1, PLAIN));
    conn_deadline(conn_at(&f, 0, 1, PLAIN), NOW + SECOND);
    (void)conns_check(f.conns, NOW + SECOND);
    assert_false(is_ended(&f, 0));
    (void)conns_check(f.conns, NOW + SECOND + 1);
    assert_true(is_ended(&f, 0));
    conns_get_stats(f.conns, &stats);
    assert_int_equal(stats.late, 1);
    assert_int_equal(stats.open[CONN_PLAIN], 0);
    done(&f);
}

static void
test_stop_ends_idle_ones_and_lets_nobody_in(void **state)
{
    (void)state;
    struct fixture f;
    setup(&f, 40, 0);
    assert_int_equal(enter(&f, 1, PLAIN, NOW), 0);
    assert_int_equal(enter(&f, 1, SECURE, NOW), 0);
    conn_busy(conn_at(&f, 0, 1, PLAIN));
    conns_stop(f.conns, NOW + SECOND);
    assert_false(is_ended(&f, 0));
    assert_true(is_ended(&f, 1));
    assert_int_equal(enter(&f, 1, PLAIN, NOW), -ECONNREFUSED);
    done(&f);
}

static void
test_newest_of_the_same_addresses_is_found(void **state)
{
    (void)state;
    struct fixture f;
    setup(&f, 40, 0);
    assert_int_equal(enter(&f, 1, PLAIN, NOW), 0);
    int left = f.ours[0], left_peer = f.theirs[0];
    f.n = 0; /* the same port once more */
    assert_int_equal(enter(&f, 1, PLAIN, NOW), 0);
    assert_int_equal(conn_at(&f, 0, 1, PLAIN)->fd, f.ours[0]);
    close(left);
    close(left_peer);
    done(&f);
}

static void
test_handshake_ties_the_librarys_connection_to_ours(void **state)
{
    (void)state;
    struct fixture f;
    setup(&f, 40, 0);
    int theirs;
    assert_int_equal(enter(&f, 1, SECURE, NOW), 0);
    struct conn *c = conn_at(&f, 0, 1, SECURE);
    assert_null(conns_find_handshake(f.conns, &theirs));
    conns_handshake(c->fd, &theirs);
    assert_ptr_equal(conns_find_handshake(f.conns, &theirs), c);
    conns_leave(f.conns, c);
    assert_null(conns_find_handshake(f.conns, &theirs));
    assert_null(conn_at(&f, 0, 1, SECURE));
    done(&f);
}

int
main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_connections_of_one_address_are_limited_on_https_alone),
        cmocka_unit_test(test_idle_for_longest_goes_when_threads_run_short),
        cmocka_unit_test(test_nobody_goes_while_all_are_at_work_or_new),
        cmocka_unit_test(test_those_that_wait_for_a_thread_stay),
        cmocka_unit_test(test_as_many_busy_ones_yield_as_wait_for_a_thread),
        cmocka_unit_test(test_slow_within_a_request_counts_as_idle_after_a_while),
        cmocka_unit_test(test_late_connection_is_ended),
        cmocka_unit_test(test_stop_ends_idle_ones_and_lets_nobody_in),
        cmocka_unit_test(test_newest_of_the_same_addresses_is_found),
        cmocka_unit_test(test_handshake_ties_the_librarys_connection_to_ours),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
