/*
 * The ways into the HTTPS listener from outside. The HTTP library can neither
 * open nor close a listening socket while it runs; so what it takes for one is
 * a door: an epoll descriptor, ready when a connection waits at the socket
 * behind it. That socket is ours, and can be exchanged at any time: accepted
 * connections do not notice. proto/decisions/https-front-live-change.md
 */
#ifndef FIELDGATE_GATEWAY_DOORS_H
#define FIELDGATE_GATEWAY_DOORS_H

#include <stdint.h>
#include <sys/socket.h>

enum door { DOOR_HTTPS, DOOR_REDIRECT, DOOR_N };
enum {
    DOOR_BACKLOG = 1024,
    DOOR_DRAIN_MS = 100, /* connections that wait at a socket being closed are taken within */
};

/*
 * A socket that listens on 'port' of all IPv4 addresses; not served before
 * door_use. The descriptor, or -errno: -EADDRINUSE, -EACCES (a port that needs
 * privilege), others.
 */
int door_bind(uint16_t port);

/*
 * The socket of this process that listens on 'port' (the library's, of its
 * start) becomes the door, with nothing behind it. 0 or -errno (-ENOENT: there
 * is no such socket). Once for each door.
 */
int door_adopt(enum door door, uint16_t port);

/*
 * From now on connections come from 'listener' (owned from here on; -1: none);
 * the socket that was behind the door lets nobody else in and is closed when
 * the library has taken what waits there, or after DOOR_DRAIN_MS, for which
 * this may block. 0, or -errno with all as before
 * and 'listener' still the caller's. Not from two threads at once.
 */
int door_use(enum door door, int listener);

/*
 * accept4(2), also for doors: there it never blocks (-1 with EAGAIN). For
 * accept() of conns.c; any thread.
 */
int door_accept(int fd, struct sockaddr *addr, socklen_t *addr_len);

#endif
