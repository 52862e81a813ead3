/* The slave's map and server under one configuration, that changes while they run. */
#include "services/modbusd/sl_engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/log.h"
#include "services/modbusd/sl_map.h"
#include "services/modbusd/sl_tcp.h"
#include "libcommon/banned.h"

struct sl_engine {
    struct loop *loop;
    struct tagview *view;
    struct sl_engine_hooks hooks;
    struct sl_map *map; /* NULL: no configuration yet */
    struct sl_tcp *tcp;
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
    if (r < 0) {
        free(e);
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
    sl_map_retire(e->map);
    free(e);
}

/* The listener of a port that is not open yet; -1: none is wanted. */
static int
prepare_port(const struct sl_engine *e, const struct sl_config *cfg, bool *ret_differs,
             int *ret_fd)
{
    *ret_fd = -1;
    *ret_differs = cfg->enable != e->enabled || (cfg->enable && cfg->port != e->port);
    return *ret_differs && cfg->enable ? sl_tcp_listen(cfg->port, ret_fd) : 0;
}

/* From here on nothing fails. */
static void
take(struct sl_engine *e, const struct sl_config *cfg, struct sl_map *map)
{
    struct sl_map *old = e->map;
    if (old != NULL)
        sl_map_inherit(map, old);
    e->map = map;
    e->enabled = cfg->enable;
    e->port = cfg->port;
    e->fail_event = cfg->fail_event;
    sl_tcp_set(e->tcp, map, cfg->unit, cfg->keep_alive_s);
    sl_map_retire(old);
    if (e->hooks.changed != NULL)
        e->hooks.changed(e->hooks.arg);
}

int
sl_engine_apply(struct sl_engine *e, const struct sl_config *cfg)
{
    struct sl_map *map = NULL;
    bool differs;
    int fd;
    int r = sl_map_new(e->loop, e->view, &e->hooks, cfg, &map);
    if (r < 0)
        return r;
    r = prepare_port(e, cfg, &differs, &fd);
    if (r == 0 && differs)
        r = sl_tcp_serve(e->tcp, fd);
    if (r < 0) {
        sl_map_retire(map);
        return r;
    }
    take(e, cfg, map);
    if (differs) {
        loop_timer_cancel(e->loop, &e->reopen);
        tell_port(e, 0);
    }
    return 0;
}

int
sl_engine_start(struct sl_engine *e, const struct sl_config *cfg)
{
    struct sl_map *map = NULL;
    int r = sl_map_new(e->loop, e->view, &e->hooks, cfg, &map);
    if (r < 0)
        return r;
    take(e, cfg, map);
    if (cfg->enable)
        open_port(e);
    return 0;
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
