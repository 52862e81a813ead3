/*
 * The table of ports. One gets its number when it is seen for the first time,
 * and keeps it: what is set for P2 never becomes that of another port because
 * an adapter was pulled.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "services/iod/iod.h"

#include "libcommon/banned.h"

const char *const iod_dbs[IOD_N_DBS] = { "ports", "outbox" };

/* The API's names are in the order of serial.h. */
_Static_assert((int)SERIAL_RECORD_MODE_RS4854W == (int)SERIAL_RS485_4W, "modes");
_Static_assert((int)SERIAL_RECORD_PARITY_MARK == (int)SERIAL_PARITY_MARK, "parities");
_Static_assert((int)SERIAL_RECORD_FLOW_CONTROL_HARDWARE == (int)SERIAL_FLOW_HARDWARE, "flows");

enum { AGAIN_US = 2000000 };

/* ---- the store ---- */

int
port_save(struct store_txn *txn, uint32_t number, const struct port *p)
{
    struct serial_record record = {
        .location = p->sys.location,
        .can_rs485 = p->sys.can_rs485,
        .baud_max = p->sys.baud_max,
        .mode = p->settings.mode,
        .baud_rate = p->settings.baud_rate,
        .parity = p->settings.parity,
        .data_bits = p->settings.data_bits,
        .stop_half_bits = p->settings.stop_half_bits,
        .flow_control = p->settings.flow,
    };
    uint8_t key[8];
    return api_store_put(txn, IOD_DB_PORTS, store_key_u64(key, number), sizeof(key),
                         &serial_record_desc, &record);
}

static int
read_record(const struct store_iter *it, struct port *ret_port)
{
    CLEANUP(api_arena_freep) struct api_arena *arena = api_arena_new(1 << 16);
    struct serial_record record;
    struct port p = { 0 };
    if (arena == NULL)
        return -ENOMEM;
    int r = api_store_value(arena, it->value, it->size, &serial_record_desc, &record);
    if (r < 0)
        return r;
    p.settings = (struct serial_settings){
        .baud_rate = (uint32_t)record.baud_rate,
        .mode = (uint8_t)record.mode,
        .parity = (uint8_t)record.parity,
        .flow = (uint8_t)record.flow_control,
        .data_bits = (uint8_t)record.data_bits,
        .stop_half_bits = (uint8_t)record.stop_half_bits,
    };
    p.sys.can_rs485 = record.can_rs485;
    p.sys.baud_max = (uint32_t)record.baud_max;
    if (record.location == NULL ||
        str_copy(p.sys.location, sizeof(p.sys.location), record.location) < 0 ||
        !serial_settings_are_possible(&p.settings))
        return -EPROTO;
    *ret_port = p;
    return 0;
}

int
ports_load(struct iod *d)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    struct store_iter it;
    int r = store_read(d->svc->store, &txn);
    if (r == 0)
        r = store_iter_init(&it, txn, IOD_DB_PORTS, NULL, 0, false);
    if (r < 0)
        return r;
    while ((r = store_iter_next(&it)) == STORE_OK) {
        if (d->n_ports == SERIAL_PORTS_MAX || it.key_size != 8 ||
            store_u64_key(it.key) != d->n_ports)
            return -EPROTO;
        r = read_record(&it, &d->ports[d->n_ports]);
        if (r < 0)
            return r;
        d->n_ports++;
    }
    return r == STORE_NOT_FOUND ? 0 : r;
}

/* ---- what is there ---- */

static int
find(const struct iod *d, struct sys_port ret_ports[SERIAL_PORTS_MAX])
{
    if (d->listed != NULL)
        return sys_listed(d->listed, ret_ports);
    return d->bench != NULL ? bench_find(d->bench, ret_ports) : sys_find("/sys", ret_ports);
}

static struct port *
port_at(struct iod *d, const char *location)
{
    for (size_t i = 0; i < d->n_ports; i++)
        if (str_eq(d->ports[i].sys.location, location))
            return &d->ports[i];
    return NULL;
}

/* A new one: 9,600 8N1, on RS-485 where that is possible. NULL: there is no number left. */
static struct port *
add(struct iod *d, const struct sys_port *sys)
{
    if (d->n_ports == SERIAL_PORTS_MAX)
        return NULL;
    struct port *p = &d->ports[d->n_ports++];
    p->sys = *sys;
    p->sys.can_rs485 = sys->can_rs485 || sys_can_rs485(sys->device);
    p->settings = (struct serial_settings){
        .baud_rate = 9600,
        .mode = p->sys.can_rs485 ? SERIAL_RS485_2W : SERIAL_RS232,
        .data_bits = 8,
        .stop_half_bits = 2,
    };
    return p;
}

/* Those that were not known get a number: all of them, or none and -errno. */
static int
add_new(struct iod *d, const struct sys_port *found, int n)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    size_t n_before = d->n_ports;
    int r = store_begin(d->svc->store, &txn);
    for (int i = 0; i < n && r == 0; i++) {
        if (port_at(d, found[i].location) != NULL)
            continue;
        const struct port *p = add(d, &found[i]);
        if (p != NULL)
            r = port_save(txn, (uint32_t)(p - d->ports), p);
        else
            log_warn("iod: no number left for a port device=%s", found[i].device);
    }
    if (r == 0)
        r = store_commit(MOVE_PTR(txn));
    if (r < 0)
        d->n_ports = n_before;
    return r;
}

/* They may have other names than before. */
static void
meet(struct iod *d, const struct sys_port *found, int n)
{
    for (size_t i = 0; i < d->n_ports; i++)
        d->ports[i].is_here = false;
    for (int i = 0; i < n; i++) {
        struct port *p = port_at(d, found[i].location);
        if (p == NULL)
            continue;                                                          /* no number */
        (void)str_copy(p->sys.device, sizeof(p->sys.device), found[i].device); /* as long */
        p->is_here = true;
        port_set(d, (uint32_t)(p - d->ports), &p->settings);
    }
}

int
ports_look(struct iod *d)
{
    struct sys_port found[SERIAL_PORTS_MAX];
    int n = find(d, found);
    if (n < 0)
        return n;
    int r = add_new(d, found, n);
    meet(d, found, n);
    if (r == 0)
        return 0;
    log_warn("iod: new ports wait until they can be stored error=%s", strerror(-r));
    return loop_timer_set(d->svc->loop, &d->look, clock_mono_us() + AGAIN_US);
}

void
port_set(struct iod *d, uint32_t number, const struct serial_settings *settings)
{
    struct port *p = &d->ports[number];
    p->settings = *settings;
    if (d->bench != NULL)
        bench_set(d->bench, p->sys.device, settings);
}

/* ---- as others see them ---- */

void
port_display_name(uint32_t number, char ret_name[SERIAL_DISPLAY_SIZE])
{
    (void)snprintf(ret_name, SERIAL_DISPLAY_SIZE, "P%u", number + 1); /* fits */
}

size_t
ports_list(const struct iod *d, struct serial_port ret_ports[SERIAL_PORTS_MAX])
{
    size_t n = 0;
    for (uint32_t i = 0; i < d->n_ports; i++) {
        const struct port *p = &d->ports[i];
        if (!p->is_here)
            continue;
        struct serial_port *out = &ret_ports[n++];
        *out = (struct serial_port){ .port_value = i, .id = i + 1, .settings = p->settings };
        (void)str_copy(out->device, sizeof(out->device), p->sys.device); /* as long */
        port_display_name(i, out->display_name);
    }
    return n;
}
