/*
 * The Modbus slave's engine without daemon and store: a map from a file, a hub
 * and owners of tags that do as they are told.
 *
 * usage: slave_alone MAP PORT
 *
 * Lines of MAP, numbers in decimal:
 *   unit N
 *   keepalive SECONDS
 *   zone FORMAT ADDRESS N SWAP own|hub [SLOPE OFFSET]
 *   tag ID NAME TYPE ACCESS SIZE OFFSET    in the zone before, own or of the hub
 * TYPE and ACCESS as in the REST API, NAME without blanks, SIZE 0 where the
 * type has one.
 *
 * Says "ready PORT", then "write NAME VALUE" (a client writes a hub tag) and
 * "sample ID VALUE" (… an own one). Lines on standard input, each answered with "done" at last:
 *   hub ID TYPE QUALITY VALUE   the hub has this value (uint64 or double)
 *   owner OUTCOME               number of enum sl_written; -1: no answer yet
 *   answer OUTCOME              of the oldest write that waits
 *   apply MAP PORT              another configuration; says "applied RESULT"
 *   stats                       says "stats CONNS VALID INVALID RESPONSES EXCEPTIONS CUT
 * REFUSED" conns                       says "conn ID STATUS" for each, then "end"
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/str.h"
#include "libcommon/tagview.h"
#include "services/modbusd/sl_engine.h"
#include "services/modbusd/sl_tcp.h"
#include "libcommon/banned.h"

enum { ZONES_MAX = 64, TAGS_MAX = 70000, WAITING_MAX = 300, NAME_SIZE = 32 };

struct map {
    struct sl_config cfg;
    struct sl_zone_config zones[ZONES_MAX];
    struct sl_tag_config tags[TAGS_MAX];
    struct sl_ref_config refs[TAGS_MAX];
    char names[TAGS_MAX][NAME_SIZE];
    size_t n_tags;
};

struct alone {
    struct loop *loop;
    struct tagview *view;
    struct sl_engine *engine;
    int outcome;
    struct {
        sl_written_fn *fn;
        void *arg;
    } waiting[WAITING_MAX];
    size_t n_waiting;
    bool is_open;
    unsigned port;
};

static const char *const types[MB_N_TYPES] = { "boolean",   "int8",  "int16",  "int32",
                                               "int64",     "uint8", "uint16", "uint32",
                                               "uint64",    "float", "double", "string",
                                               "bytearray", "raw" };

static enum mb_type
type_named(const char *name)
{
    for (unsigned i = 0; i < MB_N_TYPES; i++)
        if (str_eq(types[i], name))
            return (enum mb_type)i;
    (void)fprintf(stderr, "no type %s\n", name);
    exit(2);
}

static uint8_t
access_named(const char *name)
{
    return (uint8_t)((strchr(name, 'r') ? TAG_ACCESS_READ : 0) |
                     (strchr(name, 'w') ? TAG_ACCESS_WRITE : 0));
}

static void
add_zone(struct map *m, const char *line)
{
    struct sl_zone_config *z = &m->zones[m->cfg.n_zones++];
    char kind[8] = "";
    unsigned format, n, swap;
    int n_read = sscanf(line, "zone %u %d %u %u %7s %lf %lf", &format, &z->address, &n, &swap,
                        kind, &z->scaling.slope, &z->scaling.offset);
    z->format = (uint8_t)format;
    z->n = n;
    z->swap = (uint8_t)swap;
    z->from_hub = str_eq(kind, "hub");
    z->scaling.on = n_read == 7;
    z->tags = &m->tags[m->n_tags];
    z->refs = &m->refs[m->n_tags];
}

static void
add_tag(struct map *m, const char *line)
{
    struct sl_zone_config *z = &m->zones[m->cfg.n_zones - 1];
    char *name = m->names[m->n_tags], type[16], access[4];
    unsigned id, size, offset;
    if (sscanf(line, "tag %u %31s %15s %3s %u %u", &id, name, type, access, &size, &offset) !=
        6)
        exit(2);
    m->refs[m->n_tags] = (struct sl_ref_config){ .type = type_named(type),
                                                 .access = access_named(access),
                                                 .size = (uint16_t)size,
                                                 .offset = offset,
                                                 .provider = "hub",
                                                 .source = "device",
                                                 .name = name };
    m->tags[m->n_tags++] = (struct sl_tag_config){ .id = id,
                                                   .type = type_named(type),
                                                   .access = access_named(access),
                                                   .size = (uint16_t)size,
                                                   .offset = offset,
                                                   .name = name };
    *(z->from_hub ? &z->n_refs : &z->n_tags) += 1;
}

static struct map *
read_map(const char *path, unsigned port)
{
    struct map *m = calloc(1, sizeof(*m));
    FILE *f = fopen(path, "re");
    char line[256];
    unsigned unit = 1;
    if (m == NULL || f == NULL)
        exit(2);
    m->cfg.provider = "modbus_tcp_slave";
    m->cfg.source = "local_device";
    m->cfg.enable = true;
    m->cfg.port = (uint16_t)port;
    while (fgets(line, sizeof(line), f)) {
        (void)sscanf(line, "unit %u", &unit); /* else it stays */
        (void)sscanf(line, "keepalive %u", &m->cfg.keep_alive_s);
        if (strncmp(line, "zone", 4) == 0)
            add_zone(m, line);
        else if (strncmp(line, "tag", 3) == 0)
            add_tag(m, line);
    }
    (void)fclose(f); /* it was only read */
    m->cfg.unit = (uint8_t)unit;
    m->cfg.zones = m->zones;
    return m;
}

/* ---- the hub ---- */

static double
number_of(const struct tag_value *v)
{
    if (v->type == TAG_DOUBLE || v->type == TAG_FLOAT)
        return v->d;
    return v->type <= TAG_INT64 && v->type != TAG_BOOLEAN ? (double)v->i : (double)v->u;
}

static void
on_sample(void *arg, const struct tag_sample *s)
{
    (void)arg;
    if (s->value.type == TAG_STRING || s->value.type == TAG_RAW)
        (void)printf("sample %u %.*s\n", s->no - SL_TAG_BASE, (int)s->value.n_bytes,
                     (const char *)s->value.bytes);
    else
        (void)printf("sample %u %.17g\n", s->no - SL_TAG_BASE, number_of(&s->value));
}

static void
on_write(void *arg, const struct tagview_tag *tag, const struct tag_value *v,
         uint64_t deadline_us, sl_written_fn *fn, void *fn_arg)
{
    struct alone *a = arg;
    (void)deadline_us;
    (void)printf("write %s %.17g\n", tag->name, number_of(v));
    if (a->outcome >= 0) {
        fn(fn_arg, (enum sl_written)a->outcome);
        return;
    }
    MUST(a->n_waiting < WAITING_MAX);
    a->waiting[a->n_waiting].fn = fn;
    a->waiting[a->n_waiting++].arg = fn_arg;
}

static void
answer_oldest(struct alone *a, int outcome)
{
    if (a->n_waiting == 0)
        return;
    sl_written_fn *fn = a->waiting[0].fn;
    void *fn_arg = a->waiting[0].arg;
    a->n_waiting--;
    memmove(a->waiting, a->waiting + 1, a->n_waiting * sizeof(a->waiting[0]));
    fn(fn_arg, (enum sl_written)outcome);
}

static void
list_hub(struct alone *a, const struct map *m)
{
    struct tag_def *defs = calloc(m->n_tags + 1, sizeof(*defs));
    size_t n = 0;
    if (defs == NULL)
        exit(2);
    for (size_t i = 0; i < m->cfg.n_zones; i++) {
        const struct sl_zone_config *z = &m->zones[i];
        for (size_t k = 0; z->from_hub && k < z->n_refs; k++) {
            const struct sl_ref_config *ref = &z->refs[k];
            struct mb_codec c = { .type = (uint8_t)ref->type };
            struct tag_def *d = &defs[n++];
            d->no = m->tags[ref - m->refs].id;
            d->type = mb_codec_tag_type(&c);
            (void)str_copy(d->provider, sizeof(d->provider), ref->provider); /* fit */
            (void)str_copy(d->source, sizeof(d->source), ref->source);
            (void)str_copy(d->name, sizeof(d->name), ref->name);
        }
    }
    (void)tagview_catalogue(a->view, "modbusd", defs, n);
    free(defs);
}

static void
hub_value(struct alone *a, const char *line)
{
    char type[16];
    unsigned id, quality;
    double d;
    if (sscanf(line, "hub %u %15s %u %lf", &id, type, &quality, &d) != 4)
        exit(2);
    struct mb_codec c = { .type = (uint8_t)type_named(type) };
    struct tag_sample s = { .no = id, .quality = (uint8_t)quality, .ts_us = 1 };
    s.value.type = mb_codec_tag_type(&c);
    if (s.value.type == TAG_DOUBLE || s.value.type == TAG_FLOAT)
        s.value.d = d;
    else if (s.value.type == TAG_BOOLEAN)
        s.value.b = d > 0;
    else
        s.value.i = (int64_t)d;
    tagview_samples(a->view, "modbusd", &s, 1, false);
}

/* ---- orders ---- */

static int
apply(struct alone *a, const char *path, unsigned port)
{
    struct map *m = read_map(path, port);
    int fd = -1, r = 0;
    if (!a->is_open || port != a->port)
        r = sl_tcp_listen((uint16_t)port, &fd);
    if (r == 0)
        r = sl_engine_set(a->engine, &m->cfg, fd);
    if (r == 0) {
        a->is_open = true;
        a->port = port;
    }
    if (r == 0)
        list_hub(a, m);
    free(m);
    return r;
}

static void
tell_stats(const struct alone *a)
{
    struct sl_stats s;
    sl_engine_get_stats(a->engine, &s);
    (void)printf("stats %zu %llu %llu %llu %llu %llu %llu\n", s.n_conns,
                 (unsigned long long)s.all.valid, (unsigned long long)s.all.invalid,
                 (unsigned long long)s.all.responses, (unsigned long long)s.all.exceptions,
                 (unsigned long long)s.cut, (unsigned long long)s.refused);
}

static void
tell_conns(const struct alone *a)
{
    struct sl_conn_stats s;
    for (size_t i = 0; sl_engine_conn_stats(a->engine, i, &s); i++)
        (void)printf("conn %u %s\n", s.id, sl_conn_status_text(s.status));
    (void)printf("end\n");
}

static void
obey(struct alone *a, const char *line)
{
    char path[200];
    unsigned port;
    int outcome;
    if (strncmp(line, "hub ", 4) == 0)
        hub_value(a, line);
    else if (sscanf(line, "owner %d", &outcome) == 1)
        a->outcome = outcome;
    else if (sscanf(line, "answer %d", &outcome) == 1)
        answer_oldest(a, outcome);
    else if (sscanf(line, "apply %199s %u", path, &port) == 2)
        (void)printf("applied %d\n", apply(a, path, port));
    else if (strncmp(line, "stats", 5) == 0)
        tell_stats(a);
    else if (strncmp(line, "conns", 5) == 0)
        tell_conns(a);
}

static void
on_input(void *arg, uint32_t events)
{
    struct alone *a = arg;
    static char text[4096];
    static size_t n;
    (void)events;
    ssize_t got = read(STDIN_FILENO, text + n, sizeof(text) - 1 - n);
    if (got <= 0) {
        loop_quit(a->loop);
        return;
    }
    n += (size_t)got;
    text[n] = '\0';
    char *at = text, *end;
    for (; (end = strchr(at, '\n')) != NULL; at = end + 1) {
        *end = '\0';
        obey(a, at);
        (void)printf("done\n");
    }
    n -= (size_t)(at - text);
    memmove(text, at, n);
}

int
main(int argc, char **argv)
{
    static struct alone a;
    struct sl_engine_hooks hooks = { .sample = on_sample, .write = on_write, .arg = &a };
    struct loop_io *io = NULL;
    struct sl_stats s;
    if (argc != 3)
        return 2;
    (void)setvbuf(stdout, NULL, _IOLBF, 0); /* else the lines come late */
    if (loop_new(&a.loop) < 0 || tagview_new(&a.view) < 0 ||
        sl_engine_new(a.loop, a.view, &hooks, &a.engine) < 0 ||
        loop_io_add(a.loop, STDIN_FILENO, EPOLLIN, on_input, &a, &io) < 0)
        return 2;
    int r = apply(&a, argv[1], (unsigned)strtoul(argv[2], NULL, 10));
    if (r < 0)
        return 3;
    sl_engine_get_stats(a.engine, &s);
    (void)printf("ready %u\n", s.port);
    r = loop_run(a.loop);
    sl_engine_free(a.engine);
    tagview_free(a.view);
    loop_io_remove(io);
    loop_free(a.loop);
    return r < 0;
}
