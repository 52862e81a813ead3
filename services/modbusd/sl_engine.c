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

/* 'r' is what came of opening it. */
static void
take_port(struct sl_engine *e, int r)
{
    if (r < 0)
        plan_reopen(e);
    tell_port(e, -r);
}

static void
open_port(struct sl_engine *e)
{
    int fd = -1;
    int r = sl_tcp_listen(e->port, &fd);
    take_port(e, r < 0 ? r : sl_tcp_serve(e->tcp, fd));
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

static bool
is_open(const struct sl_engine *e)
{
    return sl_tcp_port(e->tcp) != 0;
}

/* What clients ask from now on. */
static void
take_map(struct sl_engine *e, struct sl_map *map, const struct sl_config *cfg)
{
    struct sl_map *old = e->map;
    if (old != NULL)
        sl_map_inherit(map, old);
    e->map = map;
    sl_tcp_set(e->tcp, map, cfg->unit, cfg->keep_alive_s);
    for (size_t i = 0; i < SERIAL_PORTS_MAX; i++)
        sl_line_set_map(e->lines[i], map);
    sl_map_retire(old);
    if (e->hooks.changed != NULL)
        e->hooks.changed(e->hooks.arg);
}

/* 'fd' -1: the port must be opened first, or nothing is wanted. */
static void
move_port(struct sl_engine *e, int fd)
{
    loop_timer_cancel(e->loop, &e->reopen);
    if (e->enabled && fd >= 0) {
        take_port(e, sl_tcp_serve(e->tcp, fd));
        return;
    }
    (void)sl_tcp_serve(e->tcp, -1); /* closing does not fail */
    if (e->enabled)
        open_port(e);
    else
        e->error = 0;
}

int
sl_engine_set(struct sl_engine *e, const struct sl_config *cfg, int fd)
{
    struct sl_map *map;
    int r = sl_map_new(e->loop, e->view, &e->hooks, cfg, &map);
    if (r < 0) {
        if (fd >= 0)
            (void)close(fd); /* nobody heard of it */
        return r;
    }
    bool stays = fd < 0 && cfg->enable && is_open(e) && cfg->port == e->port;
    e->enabled = cfg->enable;
    e->port = cfg->port;
    e->fail_event = cfg->fail_event;
    take_map(e, map, cfg);
    if (!stays)
        move_port(e, fd);
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
sl_engine_set_traffic(struct sl_engine *e, struct traffic *tcp, struct traffic *serial)
{
    sl_tcp_set_traffic(e->tcp, tcp);
    for (size_t i = 0; i < SERIAL_PORTS_MAX; i++)
        sl_line_set_traffic(e->lines[i], &serial[i]);
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
