/*
 * Doors: the socket behind a listener is exchanged while connections come in.
 */
#include "gateway/doors.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "libcommon/clock.h"

static uint16_t
port_of(int fd)
{
    struct sockaddr_in at = { 0 };
    socklen_t size = sizeof(at);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &size), 0);
    return ntohs(at.sin_port);
}

/* A listener on a port that is free. */
static int
listener(void)
{
    int fd = door_bind(0);
    assert_true(fd >= 0);
    return fd;
}

static int
dial(uint16_t port)
{
    const struct sockaddr_in to = { .sin_family = AF_INET,
                                    .sin_port = htons(port),
                                    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (connect(fd, (const struct sockaddr *)&to, sizeof(to)) == 0)
        return fd;
    int r = -errno;
    close(fd);
    return r;
}

static bool
is_ready(int fd, int timeout_ms)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    return poll(&p, 1, timeout_ms) == 1 && (p.revents & POLLIN) != 0;
}

static int https_door; /* of the first test, for the others */

/* As the HTTP library: waits for its descriptor and accepts. */
struct library {
    pthread_t thread;
    int fd;
    _Atomic bool stop, runs;
    _Atomic unsigned n_accepted;
};

static void *
accept_all(void *arg)
{
    struct library *l = arg;
    while (!atomic_load(&l->stop)) {
        atomic_store(&l->runs, true);
        int fd = is_ready(l->fd, 2000) ? door_accept(l->fd, NULL, NULL) : -1;
        if (fd >= 0) {
            atomic_fetch_add(&l->n_accepted, 1);
            close(fd);
        }
    }
    return NULL;
}

static void
test_one_process_has_each_door_once(void **state)
{
    (void)state;
    assert_int_equal(door_adopt(DOOR_HTTPS, 1), -ENOENT);

    int fd = https_door = listener(); /* the library's, from here on the door */
    uint16_t first = port_of(fd);
    assert_int_equal(door_adopt(DOOR_HTTPS, first), 0);
    assert_int_equal(dial(first), -ECONNREFUSED);
    assert_true(is_ready(fd, 0)); /* a knock, and nobody there */
    assert_int_equal(door_accept(fd, NULL, NULL), -1);
    assert_false(is_ready(fd, 0));
    assert_int_equal(errno, EAGAIN);

    /* connections come from the socket behind it, and only when it is used */
    int one = listener();
    uint16_t port = port_of(one);
    int client = dial(port);
    assert_true(client >= 0);
    assert_false(is_ready(fd, 0));
    assert_int_equal(door_use(DOOR_HTTPS, one), 0);
    assert_true(is_ready(fd, 1000));
    int accepted = door_accept(fd, NULL, NULL);
    assert_true(accepted >= 0);
    assert_int_equal(port_of(accepted), port);
    assert_false(is_ready(fd, 0));

    /* an exchange leaves what was accepted; the old port is closed and free at once */
    int two = listener();
    assert_int_equal(door_use(DOOR_HTTPS, two), 0);
    assert_int_equal(dial(port), -ECONNREFUSED);
    int again = door_bind(port);
    assert_true(again >= 0);
    close(again);
    assert_int_equal(write(client, "x", 1), 1);
    assert_true(is_ready(accepted, 1000));
    close(client);
    close(accepted);

    /* what cannot be used leaves all as it was */
    assert_int_equal(door_use(DOOR_HTTPS, 1000000), -EBADF);
    client = dial(port_of(two));
    assert_true(client >= 0);
    accepted = door_accept(fd, NULL, NULL);
    assert_true(accepted >= 0);
    close(client);
    close(accepted);

    assert_int_equal(door_use(DOOR_HTTPS, -1), 0);
    assert_false(is_ready(fd, 0));
    assert_int_equal(door_accept(fd, NULL, NULL), -1);
}

static void
test_who_waits_at_a_socket_that_goes_is_served(void **state)
{
    (void)state;
    struct library l = { .fd = listener() };
    uint16_t first = port_of(l.fd);
    assert_int_equal(pthread_create(&l.thread, NULL, accept_all, &l), 0);
    while (!atomic_load(&l.runs))
        (void)poll(NULL, 0, 1);
    (void)poll(NULL, 0, 20); /* now it waits for the socket that goes */
    assert_int_equal(door_adopt(DOOR_REDIRECT, first), 0);
    int sockets[2] = { listener(), listener() };
    uint16_t port = port_of(sockets[0]);
    assert_int_equal(door_use(DOOR_REDIRECT, sockets[0]), 0);
    int clients[21];
    uint64_t began_us = clock_mono_us();
    for (int i = 0; i < 20; i++) {
        clients[i] = dial(port);
        assert_true(clients[i] >= 0);
    }
    assert_int_equal(door_use(DOOR_REDIRECT, sockets[1]), 0);
    while (atomic_load(&l.n_accepted) < 20 && clock_mono_us() - began_us < 1000000)
        (void)poll(NULL, 0, 1);
    assert_int_equal(atomic_load(&l.n_accepted), 20);
    atomic_store(&l.stop, true);
    clients[20] = dial(port_of(sockets[1]));
    assert_true(clients[20] >= 0);
    assert_int_equal(pthread_join(l.thread, NULL), 0);
    for (int i = 0; i < 21; i++)
        close(clients[i]);
    assert_int_equal(door_use(DOOR_REDIRECT, -1), 0);
}

/* Clients that come until the port is closed; a few are always waiting. */
struct crowd {
    pthread_t thread;
    uint16_t port;
    _Atomic unsigned n_served;
    unsigned n_reset;
};
enum { CROWD = 32 };

static void
see_off(struct crowd *c, int fd)
{
    char byte;
    if (read(fd, &byte, 1) == 0) /* accepted, and closed by the library */
        atomic_fetch_add(&c->n_served, 1);
    else
        c->n_reset++;
    close(fd);
}

static void *
come_and_go(void *arg)
{
    struct crowd *c = arg;
    int fds[CROWD];
    unsigned n = 0;
    for (int fd; (fd = dial(c->port)) >= 0; n++) {
        if (n >= CROWD)
            see_off(c, fds[n % CROWD]);
        fds[n % CROWD] = fd;
    }
    for (unsigned i = 0; i < n && i < CROWD; i++)
        see_off(c, fds[i]);
    return NULL;
}

static void
test_under_load_nobody_who_got_through_is_reset(void **state)
{
    (void)state;
    struct library l = { .fd = https_door };
    assert_int_equal(pthread_create(&l.thread, NULL, accept_all, &l), 0);
    for (int round = 0; round < 3; round++) {
        struct crowd crowds[4] = { 0 };
        int fd = listener();
        assert_int_equal(door_use(DOOR_HTTPS, fd), 0);
        for (int i = 0; i < 4; i++) {
            crowds[i].port = port_of(fd);
            assert_int_equal(pthread_create(&crowds[i].thread, NULL, come_and_go, &crowds[i]),
                             0);
        }
        for (int i = 0; i < 4; i++)
            while (atomic_load(&crowds[i].n_served) < 2 * CROWD)
                (void)poll(NULL, 0, 1);
        assert_int_equal(door_use(DOOR_HTTPS, -1), 0);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(pthread_join(crowds[i].thread, NULL), 0);
            assert_int_equal(crowds[i].n_reset, 0);
        }
    }
    atomic_store(&l.stop, true);
    assert_int_equal(pthread_join(l.thread, NULL), 0);
}

static void
test_other_sockets_pass_and_a_port_in_use_is_told(void **state)
{
    (void)state;
    int fd = listener();
    assert_int_equal(door_bind(port_of(fd)), -EADDRINUSE);
    int client = dial(port_of(fd));
    int accepted = door_accept(fd, NULL, NULL);
    assert_true(accepted >= 0);
    close(accepted);
    close(client);
    close(fd);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_process_has_each_door_once),
        cmocka_unit_test(test_who_waits_at_a_socket_that_goes_is_served),
        cmocka_unit_test(test_under_load_nobody_who_got_through_is_reset),
        cmocka_unit_test(test_other_sockets_pass_and_a_port_in_use_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
