/*
 * Structs from JSON and back, by the descriptors of proto/apigen.py.
 */
#include "libcommon/api.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <string.h>

#include "libcommon/api_private.h"
#include "libcommon/json.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

/* A step of the way down the document; rendered as a JSON pointer only for a fault. */
struct step {
    const struct step *up;
    const char *name; /* NULL: element 'index' */
    size_t index;
};

/* One decoding: where values go, and where in the document it stands. */
struct ctx {
    struct api_arena *a;
    enum api_decode mode;
    struct api_fault *fault;
    const struct step *at;
};

/* One reference token of RFC 6901 at out + len; returns the length then, 'len' when it does not fit. */
static size_t
render_name(const char *name, char *out, size_t len, size_t size)
{
    size_t to = len;
    if (to + 1 < size)
        out[to++] = '/';
    for (const char *p = name; *p; p++) {
        bool escape = *p == '~' || *p == '/';
        if (to + (escape ? 2 : 1) >= size)
            return len;
        if (escape)
            out[to++] = '~';
        out[to++] = *p == '~' ? '0' : *p == '/' ? '1' : *p;
    }
    return to;
}

static size_t
render(const struct step *s, char *out, size_t size)
{
    if (!s)
        return 0;
    size_t len = render(s->up, out, size);
    if (s->name)
        return render_name(s->name, out, len, size);
    int n = snprintf(out + len, size - len, "/%zu", s->index);
    return n > 0 && len + (size_t)n < size ? len + (size_t)n : len;
}

static int PRINTF_LIKE(2, 3)
fault(struct ctx *c, const char *fmt, ...)
{
    if (!c->fault)
        return -EINVAL;
    c->fault->pointer[render(c->at, c->fault->pointer, sizeof(c->fault->pointer))] = '\0';
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(c->fault->message, sizeof(c->fault->message), fmt, args); /* may be cut */
    va_end(args);
    c->fault->kind = API_FAULT_VALUE;
    return -EINVAL;
}

/* The fault just told is of this kind. */
static int
fault_is(struct ctx *c, enum api_fault_kind kind)
{
    if (c->fault)
        c->fault->kind = kind;
    return -EINVAL;
}

static int decode_object(struct ctx *c, const struct api_desc *desc, const cJSON *tree,
                         char *base);

static const char *
leaf(const struct ctx *c)
{
    const struct step *s = c->at;
    while (s && !s->name)
        s = s->up;
    return s ? s->name : "body";
}

static int
decode_int(struct ctx *c, const struct api_field *f, const char *text, void *out)
{
    int r;
    if (f->type == API_T_UINT) {
        uint64_t v;
        r = parse_u64(text, (uint64_t)f->min, f->max, &v);
        if (r < 0) {
            (void)fault(c, "%s must be an integer %llu..%llu", leaf(c),
                        (unsigned long long)f->min, (unsigned long long)f->max);
            return fault_is(c, r == -ERANGE ? API_FAULT_VALUE : API_FAULT_NOT_INTEGER);
        }
        *(uint64_t *)out = v;
        return 0;
    }
    int64_t v;
    r = parse_i64(text, f->min, (int64_t)f->max, &v);
    if (r == 0 && f->set) {
        r = -EINVAL;
        for (size_t i = 0; i < f->n_names && r < 0; i++)
            if (f->set[i] == v)
                r = 0;
        if (r < 0)
            return fault(c, "%s has a value that is not in its list", leaf(c));
    }
    if (r < 0) {
        (void)fault(c, "%s must be an integer %lld..%lld", leaf(c), (long long)f->min,
                    (long long)f->max);
        return fault_is(c, r == -ERANGE ? API_FAULT_VALUE : API_FAULT_NOT_INTEGER);
    }
    *(int64_t *)out = v;
    return 0;
}

static int
decode_number(struct ctx *c, const struct api_field *f, const char *text, double *out)
{
    double v;
    if (parse_double(text, &v) < 0)
        return fault(c, "%s must be a finite number", leaf(c));
    if (v < f->dmin || v > f->dmax)
        return fault(c, "%s must be %g..%g", leaf(c), f->dmin, f->dmax);
    *out = v;
    return 0;
}

static int
decode_string(struct ctx *c, const struct api_field *f, const char *text, const char **out)
{
    size_t len = strlen(text), n = utf8_count(text, len);
    if (n < f->len_min || n > f->len_max)
        return fault(c, "%s must have %u..%u characters", leaf(c), f->len_min, f->len_max);
    /* An empty text is "none" where the schema lets it be empty. */
    if (f->format && (len > 0 || f->len_min > 0) && f->format(text) < 0)
        return fault(c, "%s is no valid %s", leaf(c), f->format_name);
    char *copy = api_arena_strdup(c->a, text);
    if (!copy)
        return -ENOMEM;
    *out = copy;
    return 0;
}

static int
decode_enum(struct ctx *c, const struct api_field *f, const char *text, int *out)
{
    for (uint16_t i = 0; i < f->n_names; i++)
        if (str_eq(f->names[i], text)) {
            *out = i;
            return 0;
        }
    char list[120];
    size_t len = 0;
    list[0] = '\0';
    for (uint16_t i = 0; i < f->n_names && len < sizeof(list) - 1; i++) {
        int n = snprintf(list + len, sizeof(list) - len, "%s%s", i ? ", " : "", f->names[i]);
        len += n > 0 ? (size_t)n : 0;
    }
    return fault(c, "%s must be one of %s", leaf(c), list);
}

static int
decode_raw(struct ctx *c, const struct api_field *f, const cJSON *item, const char **out)
{
    struct buf b;
    buf_init(&b, f->len_max);
    jw_tree(&b, item);
    const char *text = buf_text(&b);
    int r = 0;
    if (!text)
        r = b.err == -ENOMEM ? -ENOMEM : fault(c, "%s is larger than %u bytes", leaf(c), f->len_max);
    else if (!(*out = api_arena_strdup(c->a, text)))
        r = -ENOMEM;
    buf_done(&b);
    return r;
}

static int
decode_value(struct ctx *c, const struct api_field *f, const cJSON *item, void *out)
{
    const char *number = json_number(item), *text = json_text(item);
    switch ((enum api_type)f->type) {
    case API_T_BOOL:
        if (!cJSON_IsBool(item))
            return fault(c, "%s must be true or false", leaf(c));
        *(bool *)out = cJSON_IsTrue(item);
        return 0;
    case API_T_INT:
    case API_T_UINT:
        if (!number) {
            (void)fault(c, "%s should be an integer.", leaf(c));
            return fault_is(c, API_FAULT_NOT_INTEGER);
        }
        return decode_int(c, f, number, out);
    case API_T_NUMBER:
        if (!number)
            return fault(c, "%s must be a number", leaf(c));
        return decode_number(c, f, number, out);
    case API_T_STRING:
        if (!text)
            return fault(c, "%s must be a string", leaf(c));
        return decode_string(c, f, text, out);
    case API_T_ENUM:
        /* Some clients send 3.1 for "3.1". */
        if (!text && !number)
            return fault(c, "%s must be a string", leaf(c));
        return decode_enum(c, f, text ? text : number, out);
    case API_T_OBJECT:
        return decode_object(c, f->sub, item, out);
    case API_T_RAW:
        return decode_raw(c, f, item, out);
    }
    return -EINVAL;
}

static size_t
value_size(const struct api_field *f)
{
    switch ((enum api_type)f->type) {
    case API_T_BOOL:
        return sizeof(bool);
    case API_T_INT:
        return sizeof(int64_t);
    case API_T_UINT:
        return sizeof(uint64_t);
    case API_T_NUMBER:
        return sizeof(double);
    case API_T_STRING:
    case API_T_RAW:
        return sizeof(const char *);
    case API_T_ENUM:
        return sizeof(int);
    case API_T_OBJECT:
        return f->sub->size;
    }
    return 0;
}

static int
check_items(struct ctx *c, const struct api_field *f, size_t n)
{
    if (n < f->items_min || n > f->items_max)
        return fault(c, "%s must have %u..%u elements", leaf(c), f->items_min, f->items_max);
    return 0;
}

static int
decode_array(struct ctx *c, const struct api_field *f, const cJSON *item, char *base)
{
    if (!cJSON_IsArray(item))
        return fault(c, "%s must be a list", leaf(c));
    size_t n = 0, size = value_size(f);
    for (const cJSON *e = item->child; e; e = e->next)
        n++;
    int r = check_items(c, f, n);
    if (r < 0)
        return r;
    char *all = n ? api_arena_alloc(c->a, n * size) : NULL;
    if (n && !all)
        return -ENOMEM;
    size_t i = 0;
    for (const cJSON *e = item->child; e; e = e->next, i++) {
        struct step step = { .up = c->at, .index = i };
        c->at = &step;
        /* Elements are whole, whatever the mode of the object around them. */
        enum api_decode mode = c->mode;
        if (mode == API_DECODE_PARTIAL)
            c->mode = API_DECODE_REQUEST;
        r = decode_value(c, f, e, all + i * size);
        c->mode = mode;
        c->at = step.up;
        if (r < 0)
            return r;
    }
    memcpy(base + f->offset, &all, sizeof(all));
    memcpy(base + f->n_offset, &n, sizeof(n));
    return 0;
}

static void
set_has(const struct api_field *f, char *base, bool has)
{
    if (f->flags & API_F_HAS)
        base[f->has_offset] = has;
}

/* A default without a parser where it is a plain value, as nearly all are. */
static int
decode_default(struct ctx *c, const struct api_field *f, char *base)
{
    char *out = base + f->offset;
    size_t len = strlen(f->dflt);
    if (!(f->flags & API_F_ARRAY)) {
        switch ((enum api_type)f->type) {
        case API_T_BOOL:
            *(bool *)(void *)out = str_eq(f->dflt, "true");
            return 0;
        case API_T_INT:
        case API_T_UINT:
            return decode_int(c, f, f->dflt, out);
        case API_T_NUMBER:
            return parse_double(f->dflt, (double *)(void *)out);
        case API_T_STRING:
        case API_T_ENUM:
            if (len >= 2 && f->dflt[0] == '"' && !strchr(f->dflt, '\\')) {
                char *text = api_arena_strdup(c->a, f->dflt + 1);
                if (!text)
                    return -ENOMEM;
                text[len - 2] = '\0';
                if (f->type == API_T_ENUM)
                    return decode_enum(c, f, text, (int *)(void *)out);
                *(const char **)(void *)out = text;
                return 0;
            }
            break;
        case API_T_RAW:
            *(const char **)(void *)out = f->dflt;
            return 0;
        case API_T_OBJECT:
            break;
        }
    }
    CLEANUP(json_freep) cJSON *tree = NULL;
    struct json_error e;
    int r = json_parse(f->dflt, len, &tree, &e);
    if (r < 0)
        return r;
    return f->flags & API_F_ARRAY ? decode_array(c, f, tree, base) : decode_value(c, f, tree, out);
}

static int
decode_absent(struct ctx *c, const struct api_field *f, char *base)
{
    if (c->mode == API_DECODE_PARTIAL)
        return 0;
    bool read_only = f->flags & API_F_READ_ONLY;
    if ((f->flags & API_F_REQUIRED) && c->mode == API_DECODE_REQUEST && !read_only) {
        (void)fault(c, "%s is required", leaf(c));
        return fault_is(c, API_FAULT_MISSING);
    }
    set_has(f, base, false);
    if (f->dflt)
        return decode_default(c, f, base);
    /* Objects hold their own defaults even when nobody sent them. */
    if (f->type == API_T_OBJECT && !(f->flags & API_F_ARRAY)) {
        enum api_decode mode = c->mode;
        c->mode = API_DECODE_STORE;
        int r = decode_object(c, f->sub, NULL, base + f->offset);
        c->mode = mode;
        return r;
    }
    return 0;
}

static int
decode_member(struct ctx *c, const struct api_field *f, const cJSON *item, char *base)
{
    if (item && c->mode != API_DECODE_STORE && (f->flags & API_F_READ_ONLY))
        item = NULL;
    bool null = item && cJSON_IsNull(item) && f->type != API_T_RAW;
    if (null && c->mode != API_DECODE_STORE && !(f->flags & API_F_NULLABLE))
        return fault(c, "%s must not be null", leaf(c));
    if (!item || (null && c->mode == API_DECODE_STORE))
        return decode_absent(c, f, base);
    if (null) {
        size_t size = f->flags & API_F_ARRAY ? sizeof(void *) : value_size(f);
        memset(base + f->offset, 0, size);
        if (f->flags & API_F_ARRAY)
            memset(base + f->n_offset, 0, sizeof(size_t));
        set_has(f, base, false);
        return 0;
    }
    int r = f->flags & API_F_ARRAY ? decode_array(c, f, item, base)
                                   : decode_value(c, f, item, base + f->offset);
    if (r == 0)
        set_has(f, base, true);
    return r;
}

static const struct api_field *
find_field(const struct api_desc *desc, const char *name, size_t guess)
{
    /* Members mostly come in the order of the schema. */
    if (guess < desc->n_fields && str_eq(desc->fields[guess].name, name))
        return &desc->fields[guess];
    for (size_t i = 0; i < desc->n_fields; i++)
        if (str_eq(desc->fields[i].name, name))
            return &desc->fields[i];
    return NULL;
}

enum { FIELDS_MAX = 64 };

/* 'tree' NULL: an object without members. */
static int
decode_object(struct ctx *c, const struct api_desc *desc, const cJSON *tree, char *base)
{
    if (tree && !cJSON_IsObject(tree))
        return fault(c, "%s must be an object", leaf(c));
    MUST(desc->n_fields <= FIELDS_MAX);
    const cJSON *found[FIELDS_MAX] = { NULL };
    size_t guess = 0;
    for (const cJSON *e = tree ? tree->child : NULL; e; e = e->next) {
        const struct api_field *f = find_field(desc, e->string, guess);
        if (f) {
            guess = (size_t)(f - desc->fields);
            found[guess++] = e;
        } else if (desc->strict && c->mode != API_DECODE_STORE) {
            struct step step = { .up = c->at, .name = e->string };
            c->at = &step;
            (void)fault(c, "%s", e->string); /* -EINVAL, as the next one */
            c->at = step.up;
            return fault_is(c, API_FAULT_UNKNOWN);
        }
    }
    for (size_t i = 0; i < desc->n_fields; i++) {
        struct step step = { .up = c->at, .name = desc->fields[i].name };
        c->at = &step;
        int r = decode_member(c, &desc->fields[i], found[i], base);
        c->at = step.up;
        if (r < 0)
            return r;
    }
    return 0;
}

int
api_decode(struct api_arena *a, const struct api_desc *desc, const struct cJSON *tree,
           enum api_decode mode, void *ret_struct, struct api_fault *ret_fault)
{
    struct ctx c = { .a = a, .mode = mode, .fault = ret_fault };
    return decode_object(&c, desc, tree, ret_struct);
}

int
api_decode_item(struct api_arena *a, const struct api_desc *desc, const struct cJSON *tree,
                size_t index, void *ret_struct, struct api_fault *ret_fault)
{
    struct step step = { .index = index };
    struct ctx c = { .a = a, .mode = API_DECODE_REQUEST, .fault = ret_fault, .at = &step };
    return decode_object(&c, desc, tree, ret_struct);
}

int
api_defaults(struct api_arena *a, const struct api_desc *desc, void *ret_struct)
{
    memset(ret_struct, 0, desc->size);
    struct ctx c = { .a = a, .mode = API_DECODE_STORE };
    return decode_object(&c, desc, NULL, ret_struct);
}

/* ---- path and query ---- */

static int
decode_text(struct ctx *c, const struct api_field *f, const char *text, void *out)
{
    switch ((enum api_type)f->type) {
    case API_T_BOOL:
        if (str_eq(text, "true") || str_eq(text, "1") || str_eq(text, ""))
            *(bool *)out = true;
        else if (str_eq(text, "false") || str_eq(text, "0"))
            *(bool *)out = false;
        else
            return fault(c, "%s must be true or false", leaf(c));
        return 0;
    case API_T_INT:
    case API_T_UINT:
        return decode_int(c, f, text, out);
    case API_T_NUMBER:
        return decode_number(c, f, text, out);
    case API_T_STRING:
        return decode_string(c, f, text, out);
    case API_T_ENUM:
        return decode_enum(c, f, text, out);
    case API_T_OBJECT:
    case API_T_RAW:
        break; /* apigen.py lets no parameter be one */
    }
    return -EINVAL;
}

static int
decode_text_list(struct ctx *c, const struct api_field *f, char *text, char *base)
{
    size_t n = *text ? 1 : 0, size = value_size(f);
    for (const char *p = text; *p; p++)
        n += *p == ',';
    int r = check_items(c, f, n);
    if (r < 0)
        return r;
    char *all = n ? api_arena_alloc(c->a, n * size) : NULL;
    if (n && !all)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        char *comma = strchr(text, ',');
        if (comma)
            *comma = '\0';
        r = decode_text(c, f, text, all + i * size);
        if (r < 0)
            return r;
        text = comma ? comma + 1 : text;
    }
    memcpy(base + f->offset, &all, sizeof(all));
    memcpy(base + f->n_offset, &n, sizeof(n));
    return 0;
}

static int
decode_one_value(struct ctx *c, const struct api_field *f, const struct bus_str *value, char *base)
{
    char *text = api_arena_alloc(c->a, (value ? value->len : 0) + 1);
    if (!text)
        return -ENOMEM;
    if (value && value->p)
        memcpy(text, value->p, value->len);
    if (value && (memchr(text, 0, value->len) || !utf8_valid(text, value->len)))
        return fault(c, "%s is not UTF-8", leaf(c));
    int r = f->flags & API_F_ARRAY ? decode_text_list(c, f, text, base)
                                   : decode_text(c, f, text, base + f->offset);
    if (r == 0)
        set_has(f, base, true);
    return r;
}

int
api_decode_values(struct api_arena *a, const struct api_desc *desc, const struct bus_str *names,
                  const struct bus_str *values, size_t n, void *ret_struct,
                  struct api_fault *ret_fault)
{
    struct ctx c = { .a = a, .mode = API_DECODE_REQUEST, .fault = ret_fault };
    for (size_t i = 0; i < desc->n_fields; i++) {
        const struct api_field *f = &desc->fields[i];
        const struct bus_str *value = NULL;
        /* Path values come in order and without names. */
        if (!names)
            value = i < n ? &values[i] : NULL;
        for (size_t k = 0; names && k < n && !value; k++)
            if (strlen(f->name) == names[k].len && memcmp(f->name, names[k].p, names[k].len) == 0)
                value = &values[k];
        struct step step = { .name = f->name };
        c.at = &step;
        int r = value ? decode_one_value(&c, f, value, ret_struct)
                      : decode_absent(&c, f, ret_struct);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- out ---- */

static void encode_object(struct buf *b, const struct api_desc *desc, const char *base, bool store);

static void
encode_value(struct buf *b, const struct api_field *f, const void *at, bool store)
{
    const char *text;
    switch ((enum api_type)f->type) {
    case API_T_BOOL:
        jw_bool(b, *(const bool *)at);
        break;
    case API_T_INT:
        jw_i64(b, *(const int64_t *)at);
        break;
    case API_T_UINT:
        jw_u64(b, *(const uint64_t *)at);
        break;
    case API_T_NUMBER:
        jw_double(b, *(const double *)at);
        break;
    case API_T_STRING:
        jw_str(b, *(const char *const *)at);
        break;
    case API_T_ENUM: {
        int i = *(const int *)at;
        jw_str(b, i >= 0 && i < f->n_names ? f->names[i] : NULL);
        break;
    }
    case API_T_OBJECT:
        encode_object(b, f->sub, at, store);
        break;
    case API_T_RAW:
        text = *(const char *const *)at;
        if (text)
            jw_raw(b, text, strlen(text));
        else
            jw_null(b);
        break;
    }
}

static bool
is_absent(const struct api_field *f, const char *base)
{
    if (f->flags & API_F_HAS)
        return !base[f->has_offset];
    if (!(f->flags & API_F_ARRAY) && (f->type == API_T_STRING || f->type == API_T_RAW))
        return *(const char *const *)(const void *)(base + f->offset) == NULL;
    return false;
}

static void
encode_object(struct buf *b, const struct api_desc *desc, const char *base, bool store)
{
    jw_open(b, '{');
    for (size_t i = 0; i < desc->n_fields; i++) {
        const struct api_field *f = &desc->fields[i];
        if (!store && (f->flags & API_F_WRITE_ONLY))
            continue;
        if (is_absent(f, base)) {
            if (f->flags & API_F_NULLABLE && !store) {
                jw_name(b, f->name);
                jw_null(b);
            }
            continue;
        }
        jw_name(b, f->name);
        if (!(f->flags & API_F_ARRAY)) {
            encode_value(b, f, base + f->offset, store);
            continue;
        }
        const char *all;
        size_t n, size = value_size(f);
        memcpy(&all, base + f->offset, sizeof(all));
        memcpy(&n, base + f->n_offset, sizeof(n));
        jw_open(b, '[');
        for (size_t k = 0; k < n; k++)
            encode_value(b, f, all + k * size, store);
        jw_close(b, ']');
    }
    jw_close(b, '}');
}

void
api_encode(struct buf *b, const struct api_desc *desc, const void *record, bool store)
{
    encode_object(b, desc, record, store);
}

static void
redact_value(struct buf *b, const struct api_field *f, const cJSON *item)
{
    if (f->flags & API_F_WRITE_ONLY) {
        jw_str(b, "***");
    } else if (f->type == API_T_OBJECT && cJSON_IsObject(item)) {
        api_redact(b, f->sub, item);
    } else if (f->type == API_T_OBJECT && cJSON_IsArray(item)) {
        jw_open(b, '[');
        for (const cJSON *e = item->child; e; e = e->next)
            api_redact(b, f->sub, e);
        jw_close(b, ']');
    } else {
        jw_tree(b, item);
    }
}

void
api_redact(struct buf *b, const struct api_desc *desc, const cJSON *tree)
{
    if (cJSON_IsArray(tree)) {
        jw_open(b, '[');
        for (const cJSON *e = tree->child; e; e = e->next)
            api_redact(b, desc, e);
        jw_close(b, ']');
        return;
    }
    /* Members the schema does not know are left out: nobody can say if they are secret. */
    jw_open(b, '{');
    for (const cJSON *e = cJSON_IsObject(tree) ? tree->child : NULL; e; e = e->next) {
        const struct api_field *f = find_field(desc, e->string, SIZE_MAX);
        if (!f || (f->flags & API_F_READ_ONLY))
            continue;
        jw_name(b, f->name);
        redact_value(b, f, e);
    }
    jw_close(b, '}');
}
