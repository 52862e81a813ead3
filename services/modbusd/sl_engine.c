/* The slave's map and server under one configuration, that changes while they run. */
#include "services/modbusd/sl_engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/log.h"
#include "services/modbusd/sl_line.h"
#include "services/modbusd/sl_map.h"
#include "services/modbusd/sl_tcp.h"
#include "libcommon/banned.h"

struct sl_engine {
    struct loop *loop;
    struct tagview *view;
    struct sl_engine_hooks hooks;
    struct sl_map *map; /* NULL: no configuration yet */
    struct sl_tcp *tcp;
    struct sl_line *lines[SERIAL_PORTS_MAX]; /* by portValue */
    struct loop_timer reopen;
    bool enabled;
    bool fail_event;
    uint16_t port; /* wanted */
    int error;     /* why it is not open */
};

const char *
sl_conn_status_text(enum sl_conn_status s)
{
    static const char *const texts[] = {
        [SL_CONN_OK] = "OK",
        [SL_CONN_INVALID] = "Invalid request",
        [SL_CONN_EXCEPTION] = "Exception response",
        [SL_CONN_DROPPED] = "Drop command",
    };
    return texts[s];
}

/* ---- the port ---- */

static void
tell_port(struct sl_engine *e, int error)
{
    bool news = e->error != error;
    e->error = error;
    if (!news)
        return;
    if (error != 0)
        log_err("modbus: slave cannot listen port=%u error=%s", e->port, strerror(error));
    else
        log_info("modbus: slave listens port=%u", e->port);
    if (e->fail_event && e->hooks.fail != NULL)
        e->hooks.fail(e->hooks.arg, e->port, error);
}

static void
plan_reopen(struct sl_engine *e)
{
    if (loop_timer_set(e->loop, &e->reopen, loop_now_us(e->loop) + SL_REOPEN_S * 1000000ull) <
        0)
        log_err("modbus: no memory to try the slave's port again");
}

static void
open_port(struct sl_engine *e)
{
    int fd = -1;
    int r = sl_tcp_listen(e->port, &fd);
    if (r == 0)
        r = sl_tcp_serve(e->tcp, fd);
    if (r < 0)
        plan_reopen(e);
    tell_port(e, -r);
}

static void
on_reopen(void *arg)
{
    open_port(arg);
}

/* ---- configuration ---- */

int
sl_engine_new(struct loop *loop, struct tagview *view, const struct sl_engine_hooks *hooks,
              struct sl_engine **ret_engine)
{
    struct sl_engine *e = calloc(1, sizeof(*e));
    if (e == NULL)
        return -ENOMEM;
    e->loop = loop;
    e->view = view;
    e->hooks = *hooks;
    loop_timer_init(&e->reopen, on_reopen, e);
    int r = sl_tcp_new(loop, &e->tcp);
    for (size_t i = 0; i < SERIAL_PORTS_MAX && r == 0; i++)
        r = sl_line_new(loop, &e->lines[i]);
    if (r < 0) {
        sl_engine_free(e);
        return r;
    }
    *ret_engine = e;
    return 0;
}

void
sl_engine_free(struct sl_engine *e)
{
    if (e == NULL)
        return;
    loop_timer_cancel(e->loop, &e->reopen);
    sl_tcp_free(e->tcp);
    for (size_t i = 0; i < SERIAL_PORTS_MAX; i++)
        sl_line_free(e->lines[i]);
    sl_map_retire(e->map);
    free(e);
}

struct sl_plan {
    struct sl_map *map;
    bool enable, fail_event;
    uint16_t port;
    uint8_t unit;
    unsigned keep_alive_s;
    bool new_port; /* 'fd' takes the place of the listener that is there */
    int fd;        /* -1: none is wanted */
};

static bool
is_open(const struct sl_engine *e)
{
    return sl_tcp_port(e->tcp) != 0;
}

int
sl_engine_prepare(struct sl_engine *e, const struct sl_config *cfg, struct sl_plan **ret_plan)
{
    struct sl_plan *plan = calloc(1, sizeof(*plan));
    if (plan == NULL)
        return -ENOMEM;
    plan->enable = cfg->enable;
    plan->fail_event = cfg->fail_event;
    plan->port = cfg->port;
    plan->unit = cfg->unit;
    plan->keep_alive_s = cfg->keep_alive_s;
    plan->new_port = cfg->enable != is_open(e) || (cfg->enable && cfg->port != e->port);
    plan->fd = -1;
    int r = sl_map_new(e->loop, e->view, &e->hooks, cfg, &plan->map);
    if (r == 0 && plan->new_port && plan->enable)
        r = sl_tcp_listen(cfg->port, &plan->fd);
    if (r < 0) {
        sl_plan_free(plan);
        return r;
    }
    *ret_plan = plan;
    return 0;
}

void
sl_plan_free(struct sl_plan *plan)
{
    if (plan == NULL)
        return;
    sl_map_retire(plan->map);
    if (plan->fd >= 0)
        (void)close(plan->fd); /* nobody heard of it */
    free(plan);
}

/* What clients ask from now on. */
static void
take_map(struct sl_engine *e, const struct sl_plan *plan)
{
    struct sl_map *old = e->map;
    if (old != NULL)
        sl_map_inherit(plan->map, old);
    e->map = plan->map;
    e->enabled = plan->enable;
    e->port = plan->port;
    e->fail_event = plan->fail_event;
    sl_tcp_set(e->tcp, e->map, plan->unit, plan->keep_alive_s);
    for (size_t i = 0; i < SERIAL_PORTS_MAX; i++)
        sl_line_set_map(e->lines[i], e->map);
    sl_map_retire(old);
    if (e->hooks.changed != NULL)
        e->hooks.changed(e->hooks.arg);
}

void
sl_engine_take(struct sl_engine *e, struct sl_plan *plan)
{
    int r = plan->new_port ? sl_tcp_serve(e->tcp, plan->fd) : 0;
    take_map(e, plan);
    free(plan);
    if (r < 0)
        plan_reopen(e);
    else
        loop_timer_cancel(e->loop, &e->reopen);
    tell_port(e, -r);
}

int
sl_engine_apply(struct sl_engine *e, const struct sl_config *cfg)
{
    struct sl_plan *plan;
    int r = sl_engine_prepare(e, cfg, &plan);
    if (r == 0)
        sl_engine_take(e, plan);
    return r;
}

int
sl_engine_start(struct sl_engine *e, const struct sl_config *cfg)
{
    struct sl_config closed = *cfg;
    struct sl_plan *plan;
    closed.enable = false;
    int r = sl_engine_prepare(e, &closed, &plan);
    if (r < 0)
        return r;
    plan->enable = cfg->enable;
    sl_engine_take(e, plan);
    if (cfg->enable)
        open_port(e);
    return 0;
}

void
sl_engine_set_lines(struct sl_engine *e,
                    const struct sl_line_config *const lines[SERIAL_PORTS_MAX])
{
    for (size_t i = 0; i < SERIAL_PORTS_MAX; i++)
        sl_line_set(e->lines[i], lines[i]);
}

void
sl_engine_line_stats(const struct sl_engine *e, uint32_t port, struct sl_line_stats *ret_stats)
{
    MUST(port < SERIAL_PORTS_MAX);
    sl_line_get_stats(e->lines[port], ret_stats);
}

/* ---- own tags ---- */

bool
sl_engine_def(const struct sl_engine *e, size_t at, struct tag_def *ret_def)
{
    return e->map != NULL && sl_map_def(e->map, at, ret_def);
}

bool
sl_engine_last(const struct sl_engine *e, size_t at, struct tag_sample *ret_sample)
{
    return e->map != NULL && sl_map_last(e->map, at, ret_sample);
}

size_t
sl_engine_n_tags(const struct sl_engine *e)
{
    return e->map != NULL ? sl_map_n_tags(e->map) : 0;
}

int
sl_engine_read(const struct sl_engine *e, uint32_t no, struct tag_sample *ret_sample)
{
    return e->map != NULL ? sl_map_read(e->map, no, ret_sample) : -ENOENT;
}

int
sl_engine_write(struct sl_engine *e, uint32_t no, const struct tag_value *v)
{
    return e->map != NULL ? sl_map_write(e->map, no, v) : -ENOENT;
}

/* ---- looking at it ---- */

void
sl_engine_get_stats(const struct sl_engine *e, struct sl_stats *ret_stats)
{
    struct sl_stats s = { .enabled = e->enabled, .error = e->error };
    s.port = sl_tcp_port(e->tcp);
    s.open = s.port != 0;
    if (!s.open)
        s.port = e->port;
    sl_tcp_get_stats(e->tcp, &s);
    if (e->map != NULL)
        sl_map_count(e->map, &s);
    *ret_stats = s;
}

bool
sl_engine_conn_stats(const struct sl_engine *e, size_t at, struct sl_conn_stats *ret_stats)
{
    return sl_tcp_conn_stats(e->tcp, at, ret_stats);
}

void
sl_engine_reset_stats(struct sl_engine *e)
{
    sl_tcp_reset_stats(e->tcp);
}
