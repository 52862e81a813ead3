/*
 * Which serial ports there are, and how they are set: iod owns that and tells
 * it (proto/README.md section 4, SERIAL_CHANGED). It is kept in the store, so
 * that lines are polled while iod is away. Each port gets its interface.
 */
#include <errno.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "services/modbusd/config.h"
#include "libcommon/banned.h"

enum { LOAD_ARENA_MAX = 1 << 20 };

static const struct serial_port *
port_of(const struct serial_port *ports, size_t n, uint32_t port_value)
{
    for (size_t i = 0; i < n; i++)
        if (ports[i].port_value == port_value)
            return &ports[i];
    return NULL;
}

int
modbusd_load_ports(struct modbusd *d, struct store_txn *txn)
{
    CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(LOAD_ARENA_MAX);
    struct serial_port ports[SERIAL_PORTS_MAX];
    size_t n;
    int r = a ? config_get_ports(txn, ports, &n) : -ENOMEM;
    if (r == -EPROTO)
        log_err("modbusd: what is stored of the serial ports cannot be read");
    else if (r < 0)
        return r;
    for (uint32_t id = 1; id <= SERIAL_PORTS_MAX; id++) {
        struct mb_port_config cfg;
        r = config_load_port(a, txn, id, port_of(ports, n, id - 1), &cfg);
        if (r == -EPROTO)
            log_err("modbusd: the configuration of a serial interface cannot be read id=%u",
                    id);
        else if (r == 0)
            r = mb_engine_set_port(d->engine, &cfg);
        mb_engine_set_traffic(d->engine, id, &d->ser_traffic[id - 1]);
        if (r < 0 && r != -EPROTO)
            return r;
    }
    return 0;
}

/* Stores them, with an interface for each. */
static int
keep_ports(struct modbusd *d, const struct serial_port *ports, size_t n,
           const struct bus_str *json)
{
    CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(LOAD_ARENA_MAX);
    struct store_txn *txn = NULL;
    int r = a ? store_try_begin(d->svc->store, &txn) : -ENOMEM;
    if (r < 0)
        return r;
    r = config_put_ports(txn, json->p, json->len);
    for (size_t i = 0; i < n && r == 0; i++)
        if (ports[i].port_value < SERIAL_PORTS_MAX)
            r = config_ensure_ser_iface(a, txn, ports[i].port_value);
    if (r < 0) {
        store_abort(txn);
        return r;
    }
    return store_commit(txn);
}

void
modbusd_serve_serial_changed(void *self, struct bus_incoming *in)
{
    struct modbusd *d = self;
    const struct bus_str *json = &bus_incoming_request(in)->body;
    struct serial_port ports[SERIAL_PORTS_MAX];
    size_t n;
    if (serial_ports_decode(json->p, json->len, ports, &n) < 0) {
        bus_answer_status(in, API_INVALID);
        return;
    }
    int r = keep_ports(d, ports, n, json);
    if (r == -EBUSY) { /* a long change is under way; iod tells it again */
        bus_answer_status(in, API_UNAVAILABLE);
        return;
    }
    if (r == 0) {
        d->iface_stale = true;
        r = loop_timer_set(d->svc->loop, &d->reload_timer, clock_mono_us());
        modbusd_load_ser_slaves(d);
    }
    if (r < 0)
        log_err("modbusd: cannot keep the serial ports error=%s", strerror(-r));
    bus_answer_status(in, r < 0 ? API_INTERNAL : API_OK); /* iod tells it again */
}
