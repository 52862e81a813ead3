/*
 * What libmodbus reaches with nothing of ours: one connection, one request
 * after the other, each for the same 125 registers.
 *
 * usage: bare_modbus PORT SECONDS    prints "requests seconds cpu_seconds"
 */
#include <modbus/modbus.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double
now_s(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

int
main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    modbus_t *modbus = modbus_new_tcp("127.0.0.1", (int)strtol(argv[1], NULL, 10));
    double seconds = strtod(argv[2], NULL);
    uint16_t registers[MODBUS_MAX_READ_REGISTERS];
    if (!modbus || modbus_connect(modbus) < 0) {
        perror("bare_modbus");
        return 1;
    }
    unsigned long n = 0;
    double began = now_s(CLOCK_MONOTONIC), cpu = now_s(CLOCK_PROCESS_CPUTIME_ID), took;
    do {
        if (modbus_read_registers(modbus, 1, MODBUS_MAX_READ_REGISTERS, registers) < 0) {
            perror("bare_modbus");
            return 1;
        }
        n++;
        took = now_s(CLOCK_MONOTONIC) - began;
    } while (took < seconds);
    printf("%lu %.6f %.6f\n", n, took, now_s(CLOCK_PROCESS_CPUTIME_ID) - cpu);
    modbus_free(modbus);
    return 0;
}
