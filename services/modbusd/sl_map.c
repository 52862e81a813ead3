/* What lies where in a slave's tables, and its values: own ones and those of the hub. */
#include "services/modbusd/sl_map.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/str.h"
#include "services/modbusd/sl_table.h"
#include "libcommon/banned.h"

static bool
is_bits(unsigned format)
{
    return format == SL_COILS || format == SL_INPUT_BITS;
}

static bool
clients_write(unsigned format)
{
    return format == SL_COILS || format == SL_HOLDING;
}

/* ---- places ---- */

/* A codec counts from the tag's own first byte or bit on: zones are larger than it can count.
 */
static const char *
codec_of(const struct sl_zone_config *z, enum mb_type type, uint32_t offset, uint16_t size,
         struct mb_codec *ret_codec)
{
    bool bits = is_bits(z->format);
    uint32_t room = bits ? z->n : 2 * z->n;
    unsigned n = mb_type_size(type, bits, size);
    if (n > 0 && n <= UINT16_MAX && (offset > room || n > room - offset))
        return "offset and size of the tag lie outside the zone";
    unsigned from = offset % 8;
    const char *wrong =
        mb_codec_init(ret_codec, type, bits, from, size, from + n, z->swap, &z->scaling);
    if (wrong == NULL)
        ret_codec->offset = 0;
    return wrong;
}

const char *
sl_place_check(const struct sl_zone_config *zone, enum mb_type type, uint32_t offset,
               uint16_t size)
{
    struct mb_codec codec;
    return codec_of(zone, type, offset, size, &codec);
}

/* Where it would lie; false: nowhere. */
static bool
find_place(struct sl_tag *t, const struct sl_zone_config *z, enum mb_type type, uint32_t offset,
           uint16_t size)
{
    t->format = z->format;
    t->scaling = z->scaling;
    if (codec_of(z, type, offset, size, &t->codec) != NULL)
        return false;
    if (z->address < 0)
        return false;
    t->n = t->codec.size;
    if (is_bits(z->format)) {
        t->at = (uint32_t)z->address + offset;
    } else {
        t->at = 2 * (uint32_t)z->address + offset;
        if (t->n == 1)
            t->at ^= t->codec.mask; /* the other half of the register */
    }
    if (t->n == 1)
        t->codec.mask = 0;
    return true;
}

size_t
sl_table_find(const struct sl_table *t, uint32_t at)
{
    size_t lo = 0, hi = t->n_tags;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (t->tags[mid]->at + t->tags[mid]->n <= at)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* ---- states ---- */

static uint8_t
unit_state(const struct sl_table *table, uint32_t unit)
{
    uint32_t lo = unit * table->wide, hi = lo + table->wide;
    uint8_t state = 0;
    bool any = false;
    for (size_t i = sl_table_find(table, lo); i < table->n_tags; i++) {
        if (table->tags[i]->at >= hi)
            break;
        state |= table->tags[i]->state;
        any = true;
    }
    return any ? state : SL_NO_WRITE;
}

static void
show_state(const struct sl_tag *t)
{
    struct sl_table *table = &t->map->tables[t->format];
    uint32_t first = t->at / table->wide, last = (t->at + t->n - 1) / table->wide;
    for (uint32_t unit = first; unit <= last; unit++)
        table->state[unit] = unit_state(table, unit);
}

static void
set_state(struct sl_tag *t, uint8_t state)
{
    if (t->state == state)
        return;
    t->state = state;
    if (t->placed)
        show_state(t);
}

/* ---- values ---- */

static double
as_double(const struct tag_value *v)
{
    if (v->type == TAG_DOUBLE || v->type == TAG_FLOAT)
        return v->d;
    return v->type <= TAG_INT64 ? (double)v->i : (double)v->u;
}

/* The value of 'type' that is nearest to 'd'. */
static int
from_double(uint8_t type, double d, struct tag_value *ret_value)
{
    struct tag_value v = { .type = type };
    if (!isfinite(d))
        return -ERANGE;
    if (type == TAG_DOUBLE || type == TAG_FLOAT) {
        v.d = type == TAG_FLOAT ? (double)(float)d : d;
        if (!isfinite(v.d))
            return -ERANGE;
        *ret_value = v;
        return 0;
    }
    bool is_signed = type <= TAG_INT64;
    int width = 8 << (type - (is_signed ? TAG_INT8 : TAG_UINT8));
    double top = ldexp(1, is_signed ? width - 1 : width);
    d = round(d);
    if (d >= top || d < (is_signed ? -top : 0))
        return -ERANGE;
    if (is_signed)
        v.i = (int64_t)d;
    else
        v.u = (uint64_t)d;
    *ret_value = v;
    return 0;
}

/* The type in which the hub has it. */
static uint8_t
hub_type(const struct sl_tag *t)
{
    struct mb_codec plain = t->codec;
    plain.scaled = t->codec.scaled && !t->is_ref;
    return mb_codec_tag_type(&plain);
}

static void
pack(uint8_t *out, const uint8_t *cells, uint32_t n)
{
    memset(out, 0, (n + 7) / 8);
    for (uint32_t i = 0; i < n; i++)
        out[i / 8] |= (uint8_t)(cells[i] << i % 8);
}

int
sl_tag_decode(const struct sl_tag *t, const uint8_t *cells, uint8_t *room,
              struct tag_value *ret_value)
{
    uint8_t packed[TAG_BYTES_MAX];
    struct tag_value v;
    if (t->codec.bits) {
        pack(packed, cells, t->n);
        cells = packed;
    }
    mb_decode(&t->codec, &t->scaling, cells, room, &v);
    if (t->is_ref && (v.type == TAG_DOUBLE || v.type == TAG_FLOAT))
        return from_double(hub_type(t), v.d, ret_value);
    *ret_value = v;
    return 0;
}

/* Puts a value of the hub into the tag's cells. */
static int
encode(struct sl_tag *t, const struct tag_value *v)
{
    struct sl_table *table = &t->map->tables[t->format];
    uint8_t wire[TAG_BYTES_MAX];
    struct tag_value raw = *v;
    if (t->codec.scaled) {
        raw.d = as_double(v);
        raw.type = TAG_DOUBLE;
    }
    int r = mb_encode(&t->codec, &t->scaling, &raw, wire);
    if (r < 0 || !t->placed)
        return r;
    if (t->codec.bits)
        for (uint32_t i = 0; i < t->n; i++)
            table->cells[t->at + i] = wire[i / 8] >> i % 8 & 1;
    else
        memcpy(table->cells + t->at, wire, t->n);
    return 0;
}

/* ---- tags of the hub ---- */

static uint8_t
ref_state(struct sl_tag *t)
{
    const struct tagview_tag *hub = t->tap.tag;
    if (!tagview_tag_is_listed(hub) || hub->type != hub_type(t) ||
        hub->last.quality == TAG_BAD_CONFIG)
        return SL_NO_PATH;
    if (!hub->has_value || !tag_quality_ok(hub->last.quality))
        return SL_NO_ANSWER;
    return encode(t, &hub->last.value) < 0 ? SL_NO_ROOM : 0;
}

static uint8_t
rights(const struct sl_tag *t)
{
    uint8_t wanted = t->is_ref ? TAG_ACCESS_WRITE : TAG_ACCESS_READ;
    uint8_t state = 0;
    if (!clients_write(t->format) || !(t->access & wanted))
        state |= SL_NO_WRITE;
    if (t->is_ref && !(t->access & TAG_ACCESS_READ))
        state |= SL_NO_READ;
    return state;
}

static void
on_update(struct tagview_listener *l)
{
    struct sl_tag *t = CONTAINER_OF(l, struct sl_tag, tap);
    if (!t->placed)
        return;
    uint8_t may = rights(t);
    set_state(t, may & SL_NO_READ ? may : may | ref_state(t));
}

/* ---- own tags ---- */

static void
sample_of(struct sl_tag *t, struct tag_sample *s)
{
    *s = (struct tag_sample){ .no = t->no, .ts_us = t->ts_us };
    s->value.type = hub_type(t);
    if (!t->placed)
        s->quality = TAG_BAD_CONFIG;
    else if (!t->written)
        s->quality = TAG_BAD_NEVER;
    else
        (void)sl_tag_decode(t, t->map->tables[t->format].cells + t->at, t->map->room,
                            &s->value); /* an own tag's value is what its registers say */
}

static void
tell(struct sl_tag *t)
{
    struct tag_sample s;
    t->written = true;
    t->ts_us = clock_wall_us();
    sample_of(t, &s);
    if (t->map->hooks.sample != NULL)
        t->map->hooks.sample(t->map->hooks.arg, &s);
}

void
sl_tag_set_cells(struct sl_tag *t, uint32_t lo, uint32_t hi, const uint8_t *from)
{
    uint32_t begin = lo > t->at ? lo : t->at;
    uint32_t end = hi < t->at + t->n ? hi : t->at + t->n;
    memcpy(t->map->tables[t->format].cells + begin, from + (begin - lo), end - begin);
    tell(t);
}

static struct sl_tag *
find_own(const struct sl_map *m, uint32_t no)
{
    size_t lo = 0, hi = m->n_own;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (m->own[mid].no < no)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < m->n_own && m->own[lo].no == no ? &m->own[lo] : NULL;
}

int
sl_map_read(struct sl_map *m, uint32_t no, struct tag_sample *ret_sample)
{
    struct sl_tag *t = find_own(m, no);
    if (t == NULL)
        return -ENOENT;
    if (!(t->access & TAG_ACCESS_READ))
        return -EACCES;
    sample_of(t, ret_sample);
    return 0;
}

int
sl_map_write(struct sl_map *m, uint32_t no, const struct tag_value *v)
{
    struct sl_tag *t = find_own(m, no);
    if (t == NULL)
        return -ENOENT;
    if (!(t->access & TAG_ACCESS_WRITE) || !t->placed)
        return -EACCES;
    if (v->type != hub_type(t))
        return -EINVAL;
    int r = encode(t, v);
    if (r == 0)
        tell(t);
    return r;
}

size_t
sl_map_n_tags(const struct sl_map *m)
{
    return m->n_own;
}

bool
sl_map_def(const struct sl_map *m, size_t at, struct tag_def *ret_def)
{
    if (at >= m->n_own)
        return false;
    const struct sl_tag *t = &m->own[at];
    struct tag_def d = { .no = t->no, .type = hub_type(t), .access = t->access };
    d.size = d.type == TAG_STRING || d.type == TAG_RAW ? t->size : 0;
    /* lengths were limited when they were configured */
    (void)str_copy(d.provider, sizeof(d.provider), m->provider);
    (void)str_copy(d.source, sizeof(d.source), m->source);
    (void)str_copy(d.name, sizeof(d.name), t->name);
    (void)str_copy(d.unit, sizeof(d.unit), t->unit);
    *ret_def = d;
    return true;
}

bool
sl_map_last(struct sl_map *m, size_t at, struct tag_sample *ret_sample)
{
    if (at >= m->n_own)
        return false;
    sample_of(&m->own[at], ret_sample);
    return true;
}

static bool
same_form(const struct sl_tag *a, const struct sl_tag *b)
{
    return a->placed && b->placed && a->n == b->n &&
           memcmp(&a->codec, &b->codec, sizeof(a->codec)) == 0 &&
           (!a->codec.scaled ||
            (a->scaling.slope == b->scaling.slope && a->scaling.offset == b->scaling.offset));
}

void
sl_map_inherit(struct sl_map *m, const struct sl_map *old)
{
    for (size_t i = 0; i < m->n_own; i++) {
        struct sl_tag *t = &m->own[i];
        const struct sl_tag *was = find_own(old, t->no);
        if (was == NULL || !same_form(t, was))
            continue;
        memcpy(m->tables[t->format].cells + t->at, old->tables[was->format].cells + was->at,
               t->n);
        t->written = was->written;
        t->ts_us = was->ts_us;
    }
}

void
sl_map_count(const struct sl_map *m, struct sl_stats *ret_stats)
{
    ret_stats->n_tags = m->n_own;
    ret_stats->n_refs = m->n_refs;
    ret_stats->n_misplaced = ret_stats->n_unknown = 0;
    for (size_t i = 0; i < m->n_own; i++)
        ret_stats->n_misplaced += !m->own[i].placed;
    for (size_t i = 0; i < m->n_refs; i++) {
        ret_stats->n_misplaced += !m->refs[i].placed;
        ret_stats->n_unknown += !tagview_tag_is_listed(m->refs[i].tap.tag);
    }
}

/* ---- building ---- */

/* As long as no tag is there. */
static int
open_zone(struct sl_table *table, const struct sl_zone_config *z)
{
    memset(table->state + z->address, SL_NO_WRITE, z->n);
    if (z->only == 0)
        return 0;
    if (table->only == NULL)
        table->only = calloc(table->units, 1);
    if (table->only == NULL)
        return -ENOMEM;
    memset(table->only + z->address, z->only, z->n);
    return 0;
}

static int
open_tables(struct sl_map *m, const struct sl_config *cfg)
{
    for (size_t i = 0; i < cfg->n_zones; i++) {
        const struct sl_zone_config *z = &cfg->zones[i];
        MUST(z->format < SL_N_FORMATS && z->swap <= MB_SWAP_MAX && z->n <= SL_UNITS_MAX &&
             z->address <= (int32_t)(SL_UNITS_MAX - z->n));
        struct sl_table *table = &m->tables[z->format];
        uint32_t end = z->address < 0 ? 0 : (uint32_t)z->address + z->n;
        table->units = end > table->units ? end : table->units;
    }
    for (unsigned format = 0; format < SL_N_FORMATS; format++) {
        struct sl_table *table = &m->tables[format];
        table->wide = is_bits(format) ? 1 : 2;
        table->cells = calloc(table->units + 1, table->wide);
        table->state = malloc(table->units + 1);
        if (table->cells == NULL || table->state == NULL)
            return -ENOMEM;
        memset(table->state, SL_UNMAPPED, table->units);
    }
    int r = 0;
    for (size_t i = 0; i < cfg->n_zones && r == 0; i++)
        if (cfg->zones[i].address >= 0)
            r = open_zone(&m->tables[cfg->zones[i].format], &cfg->zones[i]);
    return r;
}

static size_t
text_size(const struct sl_zone_config *z)
{
    size_t n = 0;
    for (size_t i = 0; i < z->n_tags; i++)
        n += strlen(z->tags[i].name) + strlen(z->tags[i].unit ? z->tags[i].unit : "") + 2;
    return n;
}

static int
allocate(struct sl_map *m, const struct sl_config *cfg)
{
    size_t n_own = 0, n_refs = 0, n_text = 0;
    for (size_t i = 0; i < cfg->n_zones; i++) {
        const struct sl_zone_config *z = &cfg->zones[i];
        n_own += z->from_hub ? 0 : z->n_tags;
        n_refs += z->from_hub ? z->n_refs : 0;
        n_text += z->from_hub ? 0 : text_size(z);
    }
    m->own = calloc(n_own + 1, sizeof(*m->own));
    m->refs = calloc(n_refs + 1, sizeof(*m->refs));
    m->texts = malloc(n_text + 1);
    return m->own && m->refs && m->texts ? open_tables(m, cfg) : -ENOMEM;
}

static char *
keep_text(char **at, const char *text)
{
    size_t n = text != NULL ? strlen(text) : 0;
    char *kept = *at;
    if (n > 0)
        memcpy(kept, text, n);
    kept[n] = '\0';
    *at += n + 1;
    return kept;
}

static int
fill_zone(struct sl_map *m, const struct sl_zone_config *z, char **text)
{
    for (size_t i = 0; !z->from_hub && i < z->n_tags; i++) {
        const struct sl_tag_config *in = &z->tags[i];
        struct sl_tag *t = &m->own[m->n_own++];
        *t = (struct sl_tag){
            .map = m, .no = SL_TAG_BASE + in->id, .access = in->access, .size = in->size
        };
        t->name = keep_text(text, in->name);
        t->unit = keep_text(text, in->unit);
        t->placed = find_place(t, z, in->type, in->offset, in->size);
    }
    for (size_t i = 0; z->from_hub && i < z->n_refs; i++) {
        const struct sl_ref_config *in = &z->refs[i];
        struct sl_tag *t = &m->refs[m->n_refs];
        *t = (struct sl_tag){ .map = m, .is_ref = true, .access = in->access };
        t->placed = find_place(t, z, in->type, in->offset, in->size);
        struct tagview_tag *hub = tagview_hold(m->view, in->provider, in->source, in->name);
        if (hub == NULL)
            return -ENOMEM;
        m->n_refs++;
        t->tap.fn = on_update;
        tagview_listen(hub, &t->tap);
    }
    return 0;
}

static int
by_no(const void *a, const void *b)
{
    const struct sl_tag *x = a, *y = b;
    return (x->no > y->no) - (x->no < y->no);
}

/* The earlier tag first where two want the same cell. */
static int
by_place(const void *a, const void *b)
{
    const struct sl_tag *x = *(struct sl_tag *const *)a, *y = *(struct sl_tag *const *)b;
    if (x->at != y->at)
        return x->at < y->at ? -1 : 1;
    if (x->is_ref != y->is_ref)
        return x->is_ref ? 1 : -1;
    return (x > y) - (x < y);
}

static size_t
collect(struct sl_tag *tags, size_t n, unsigned format, struct sl_tag **list)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++)
        if (tags[i].placed && tags[i].format == format)
            list[found++] = &tags[i];
    return found;
}

/* Drops those of the sorted list that begin where another has not ended; how many are left. */
static size_t
keep_placed(struct sl_tag **list, size_t n)
{
    uint32_t end = 0;
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        struct sl_tag *t = list[i];
        t->placed = t->at >= end;
        if (!t->placed)
            continue;
        end = t->at + t->n;
        list[kept++] = t;
    }
    return kept;
}

static int
lay_out(struct sl_map *m, unsigned format)
{
    struct sl_tag **list = calloc(m->n_own + m->n_refs + 1, sizeof(struct sl_tag *));
    if (list == NULL)
        return -ENOMEM;
    size_t n = collect(m->own, m->n_own, format, list);
    n += collect(m->refs, m->n_refs, format, list + n);
    if (n > 0)
        qsort(list, n, sizeof(struct sl_tag *), by_place);
    n = keep_placed(list, n);
    m->tables[format].tags = list;
    m->tables[format].n_tags = n;
    for (size_t i = 0; i < n; i++) {
        list[i]->state = rights(list[i]);
        show_state(list[i]);
        if (list[i]->is_ref)
            on_update(&list[i]->tap);
    }
    return 0;
}

int
sl_map_new(struct loop *loop, struct tagview *view, const struct sl_engine_hooks *hooks,
           const struct sl_config *cfg, struct sl_map **ret_map)
{
    struct sl_map *m = calloc(1, sizeof(*m));
    if (m == NULL)
        return -ENOMEM;
    m->loop = loop;
    m->view = view;
    m->hooks = *hooks;
    int r = allocate(m, cfg);
    if (r == 0)
        r = str_copy(m->provider, sizeof(m->provider), cfg->provider);
    if (r == 0)
        r = str_copy(m->source, sizeof(m->source), cfg->source);
    char *text = m->texts;
    for (size_t i = 0; r == 0 && i < cfg->n_zones; i++)
        r = fill_zone(m, &cfg->zones[i], &text);
    if (r == 0 && m->n_own > 0)
        qsort(m->own, m->n_own, sizeof(*m->own), by_no);
    for (unsigned format = 0; r == 0 && format < SL_N_FORMATS; format++)
        r = lay_out(m, format);
    if (r < 0) {
        sl_map_free(m);
        return r;
    }
    *ret_map = m;
    return 0;
}

void
sl_map_free(struct sl_map *m)
{
    for (size_t i = 0; i < m->n_refs; i++) {
        tagview_unlisten(&m->refs[i].tap);
        tagview_release(m->view, m->refs[i].tap.tag);
    }
    for (unsigned i = 0; i < SL_N_FORMATS; i++) {
        free(m->tables[i].cells);
        free(m->tables[i].state);
        free(m->tables[i].only);
        free(m->tables[i].tags);
    }
    free(m->own);
    free(m->refs);
    free(m->texts);
    free(m);
}

void
sl_map_retire(struct sl_map *m)
{
    if (m == NULL)
        return;
    m->retired = true;
    if (m->n_jobs == 0)
        sl_map_free(m);
}
