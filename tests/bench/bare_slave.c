/*
 * libmodbus's own server of many clients, with nothing of ours: its example
 * (bandwidth-server-many-up.c), one select loop.
 *
 * usage: bare_slave PORT    says "ready"
 */
#include <errno.h>
#include <modbus/modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 128, REGISTERS = 65536 };

static void
serve(modbus_t *modbus, modbus_mapping_t *map, int fd, fd_set *all)
{
    uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
    modbus_set_socket(modbus, fd);
    int n = modbus_receive(modbus, query);
    if (n > 0) {
        (void)modbus_reply(modbus, query, n, map); /* a client that is gone is seen next */
    } else if (n < 0) {
        (void)close(fd);
        FD_CLR(fd, all);
    }
}

int
main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    modbus_t *modbus = modbus_new_tcp("127.0.0.1", (int)strtol(argv[1], NULL, 10));
    modbus_mapping_t *map = modbus_mapping_new(0, 0, REGISTERS, 0);
    int listener = modbus && map ? modbus_tcp_listen(modbus, BACKLOG) : -1;
    if (listener < 0) {
        perror("bare_slave");
        return 1;
    }
    fd_set all, ready;
    int top = listener;
    FD_ZERO(&all);
    FD_SET(listener, &all);
    puts("ready");
    (void)fflush(stdout);
    for (;;) {
        ready = all;
        if (select(top + 1, &ready, NULL, NULL, NULL) < 0)
            return 1;
        for (int fd = 0; fd <= top; fd++) {
            if (!FD_ISSET(fd, &ready))
                continue;
            if (fd != listener) {
                serve(modbus, map, fd, &all);
                continue;
            }
            int peer = accept(listener, NULL, NULL);
            if (peer >= 0 && peer < FD_SETSIZE) {
                FD_SET(peer, &all);
                top = peer > top ? peer : top;
            }
        }
    }
}
