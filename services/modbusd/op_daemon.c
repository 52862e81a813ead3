/* Starting and stopping the protocol while the service goes on, and its factory settings. */
#include <string.h>

#include "services/modbusd/op.h"
#include "services/modbusd/sl_engine.h"
#include "services/modbusd/sl_line.h"
#include "libcommon/banned.h"

/* ---- start, stop, restart ---- */

/* All devices are set again, after 'then' has said what they are to do. */
static enum api_status
set_all(struct modbusd *d, struct api_call *call, void (*then)(void *self, void *arg))
{
    struct apply_waiter *w = api_alloc(call, sizeof(*w));
    struct store_txn *txn = api_txn(call);
    if (!txn || !w)
        return API_INTERNAL;
    w->call = call;
    int r = modbusd_all_stale(d, txn);
    if (r < 0)
        return op_store_error(call, r);
    api_after_commit(call, then, w);
    return API_OK;
}

static void
start(void *self, void *waiter)
{
    struct modbusd *d = self;
    d->stopped = d->restarting = false;
    mb_engine_begin(d->engine);
    modbusd_reload(d, waiter);
}

static void
stop(void *self, void *waiter)
{
    struct modbusd *d = self;
    d->stopped = true;
    d->restarting = false;
    modbusd_reload(d, waiter);
}

static void
restart(void *self, void *waiter)
{
    struct modbusd *d = self;
    d->stopped = d->restarting = true;
    modbusd_reload(d, waiter);
}

enum api_status
modbusd_start_master(struct modbusd *self, struct api_call *call)
{
    return self->stopped ? set_all(self, call, start) : API_OK;
}

enum api_status
modbusd_stop_master(struct modbusd *self, struct api_call *call)
{
    return set_all(self, call, stop);
}

enum api_status
modbusd_restart_master(struct modbusd *self, struct api_call *call)
{
    return set_all(self, call, restart);
}

/* ---- factory settings ---- */

enum api_status
modbusd_reset_master_config(struct modbusd *self, struct api_call *call)
{
    (void)self;
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    int r = config_reset(api_call_arena(call), txn);
    return r < 0 ? op_store_error(call, r) : API_OK;
}

/* ---- what it does ---- */

static int64_t
status_of(const struct modbusd *d, bool off)
{
    if (d->load_failed)
        return SERVICE_INSTANCE_SERVICE_STATUS_ERROR;
    if (d->restarting)
        return SERVICE_INSTANCE_SERVICE_STATUS_RESTARTING;
    if (d->stopped)
        return d->n_stale > 0 ? SERVICE_INSTANCE_SERVICE_STATUS_SHUTTING_DOWN
                              : SERVICE_INSTANCE_SERVICE_STATUS_PAUSED;
    if (off)
        return SERVICE_INSTANCE_SERVICE_STATUS_NOT_INITIALIZED;
    return mb_engine_is_delayed(d->engine) ? SERVICE_INSTANCE_SERVICE_STATUS_INITIALIZING
                                           : SERVICE_INSTANCE_SERVICE_STATUS_RUNNING;
}

static int64_t
slave_status(bool wanted, bool open)
{
    if (!wanted)
        return SERVICE_INSTANCE_SERVICE_STATUS_NOT_INITIALIZED;
    return open ? SERVICE_INSTANCE_SERVICE_STATUS_RUNNING
                : SERVICE_INSTANCE_SERVICE_STATUS_ERROR;
}

/* Those of 'all' that are slaves; how many. */
static size_t
list_slaves(const struct modbusd *d, struct service_instance *all)
{
    struct sl_stats tcp;
    struct sl_line_stats line;
    size_t n = 1;
    sl_engine_get_stats(d->slave, &tcp);
    all[0].has_tcp_slave_id = true;
    all[0].tcp_slave_id = MODBUSD_SLAVE_ID;
    all[0].service_status = slave_status(tcp.enabled, tcp.open);
    for (uint32_t port = 0; port < SERIAL_PORTS_MAX; port++) {
        sl_engine_line_stats(d->slave, port, &line);
        if (!line.is_wanted)
            continue;
        all[n].has_ser_slave_id = true;
        all[n].ser_slave_id = port + 1;
        all[n++].service_status = slave_status(true, line.is_open);
    }
    return n;
}

enum api_status
modbusd_get_master_service_info(struct modbusd *self, struct api_call *call,
                                struct service_info *reply)
{
    struct service_instance *all = api_alloc(call, (3 + SERIAL_PORTS_MAX) * sizeof(*all));
    if (!all)
        return API_TOO_LARGE;
    all[0].has_tcp_master_id = all[1].has_ser_master_id = true;
    all[0].tcp_master_id = all[1].ser_master_id = MODBUSD_MASTER_ID;
    all[0].service_status = status_of(self, self->tcp_off);
    all[1].service_status = status_of(self, self->ser_off);
    reply->service_info = all;
    reply->n_service_info = 2 + list_slaves(self, all + 2);
    return API_OK;
}
