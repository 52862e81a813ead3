/*
 * Finding operations, and checking values as the device will. See ops.h.
 */
#include "services/fieldgatectl/ops.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/fieldgatectl/ctl.h"

#include "libcommon/banned.h"

enum { NEAR_MAX = 5, NAME_MAX_LEN = 63, VALUES_MAX = 32, ARENA_MAX = 64 << 20 };

const struct ctl_op *
ops_find(const char *name)
{
    for (size_t i = 0; i < ctl_n_ops; i++)
        if (str_eq(ctl_ops[i].name, name))
            return &ctl_ops[i];
    return NULL;
}

bool
ops_like(const char *text, const char *part)
{
    return strcasestr(text, part) != NULL;
}

/* How many letters must be changed, added or taken away (Levenshtein); case does not count. */
static unsigned
distance(const char *a, const char *b)
{
    size_t n = strlen(b);
    unsigned row[NAME_MAX_LEN + 1];
    if (n > NAME_MAX_LEN || strlen(a) > NAME_MAX_LEN)
        return NAME_MAX_LEN;
    for (size_t k = 0; k <= n; k++)
        row[k] = (unsigned)k;
    for (size_t i = 1; a[i - 1] != '\0'; i++) {
        unsigned before = row[0]++;
        for (size_t k = 1; k <= n; k++) {
            bool same = tolower((unsigned char)a[i - 1]) == tolower((unsigned char)b[k - 1]);
            unsigned change = before + (same ? 0 : 1);
            before = row[k];
            unsigned step = (row[k] < row[k - 1] ? row[k] : row[k - 1]) + 1;
            row[k] = change < step ? change : step;
        }
    }
    return row[n];
}

void
ops_suggest(const char *name)
{
    struct buf near;
    buf_init(&near, 1024);
    unsigned found = 0;
    for (unsigned d = 0; d <= 4 && found < NEAR_MAX; d++)
        for (size_t i = 0; i < ctl_n_ops && found < NEAR_MAX; i++) {
            unsigned far = distance(name, ctl_ops[i].name);
            if (far > 3)
                far = strlen(name) > 2 && ops_like(ctl_ops[i].name, name) ? 4 : 5;
            if (far == d)
                buf_printf(&near, "%s%s", found++ > 0 ? ", " : "", ctl_ops[i].name);
        }
    const char *text = found > 0 ? buf_text(&near) : NULL;
    if (text != NULL)
        complain("there is no operation %s; near it: %s", name, text);
    else
        complain("there is no operation %s; 'fieldgatectl list' shows all", name);
    buf_done(&near);
}

const struct api_field *
ops_field(const struct api_desc *desc, const char *name)
{
    for (size_t i = 0; desc != NULL && i < desc->n_fields; i++)
        if (str_eq(desc->fields[i].name, name))
            return &desc->fields[i];
    return NULL;
}

const char *
ops_doc(const struct api_desc *desc, const struct api_field *f)
{
    for (size_t i = 0; i < ctl_n_docs; i++)
        if (ctl_docs[i].desc == desc)
            return ctl_docs[i].texts[f - desc->fields];
    return "";
}

/* ---- values in words ---- */

static void
put_choice(struct buf *b, const struct api_field *f)
{
    for (size_t i = 0; i < f->n_names; i++) {
        buf_puts(b, i > 0 ? ", " : "one of ");
        if (f->names == NULL)
            buf_printf(b, "%lld", (long long)f->set[i]);
        else
            buf_puts(b, f->names[i][0] != '\0' ? f->names[i] : "\"\"");
    }
}

static void
put_kind(struct buf *b, const struct api_field *f)
{
    switch ((enum api_type)f->type) {
    case API_T_BOOL:
        buf_puts(b, "true or false");
        break;
    case API_T_INT:
        if (f->set != NULL)
            put_choice(b, f);
        else
            buf_printf(b, "integer %lld..%lld", (long long)f->min, (long long)(int64_t)f->max);
        break;
    case API_T_UINT:
        buf_printf(b, "integer %llu..%llu", (unsigned long long)f->min,
                   (unsigned long long)f->max);
        break;
    case API_T_NUMBER:
        buf_printf(b, "number %g..%g", f->dmin, f->dmax);
        break;
    case API_T_STRING:
        buf_printf(b, "text of %u..%u characters%s%s", f->len_min, f->len_max,
                   f->format_name != NULL ? ", " : "",
                   f->format_name != NULL ? f->format_name : "");
        break;
    case API_T_ENUM:
        put_choice(b, f);
        break;
    case API_T_OBJECT:
        buf_puts(b, "object");
        break;
    case API_T_RAW:
        buf_printf(b, "any JSON up to %u bytes", f->len_max);
        break;
    }
}

void
ops_limits(const struct api_field *f, char *out, size_t size)
{
    struct buf b;
    buf_init(&b, 4096);
    if (f->flags & API_F_ARRAY)
        buf_printf(&b, "list of %u..%u: ", f->items_min, f->items_max);
    put_kind(&b, f);
    if (f->flags & API_F_NULLABLE)
        buf_puts(&b, ", or null");
    if (f->dflt != NULL)
        buf_printf(&b, "; default %s", f->dflt);
    const char *text = buf_text(&b);
    if (text == NULL || str_copy_len(out, size, text, utf8_cut(text, b.len, size - 1)) < 0)
        out[0] = '\0'; /* no memory: nothing is said */
    buf_done(&b);
}

/* ---- checks ---- */

int
ops_check_values(const struct api_desc *desc, const char *const *names,
                 const char *const *values, size_t n, struct api_fault *ret_fault)
{
    if (desc == NULL)
        return 0;
    struct bus_str name[VALUES_MAX], value[VALUES_MAX];
    MUST(n <= VALUES_MAX);
    for (size_t i = 0; i < n; i++) {
        name[i] = (struct bus_str){ .p = names[i], .len = strlen(names[i]) };
        value[i] = (struct bus_str){ .p = values[i], .len = strlen(values[i]) };
    }
    CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(ARENA_MAX);
    void *record = a == NULL ? NULL : api_arena_alloc(a, desc->size);
    if (record == NULL)
        return -ENOMEM;
    return api_decode_values(a, desc, name, value, n, record, ret_fault);
}

static int
check_list(struct api_arena *a, const struct ctl_op *op, const cJSON *tree, void *record,
           struct api_fault *ret_fault)
{
    size_t n = 0;
    for (const cJSON *e = tree->child; e != NULL; e = e->next, n++) {
        int r = api_decode_item(a, op->body_desc, e, n, record, ret_fault);
        if (r < 0)
            return r;
    }
    if (n >= 1 && n <= op->items_max)
        return 0;
    *ret_fault = (struct api_fault){ .kind = API_FAULT_VALUE };
    (void)snprintf(ret_fault->message, sizeof(ret_fault->message),
                   "the list must have 1..%u elements", op->items_max);
    return -EINVAL;
}

int
ops_check_body(const struct ctl_op *op, const char *text, size_t len,
               struct api_fault *ret_fault)
{
    CLEANUP(json_freep) cJSON *tree = NULL;
    struct json_error error;
    int r = json_parse(text, len, &tree, &error);
    if (r == -ENOMEM)
        return r;
    *ret_fault = (struct api_fault){ .kind = API_FAULT_VALUE };
    if (r < 0) {
        (void)snprintf(ret_fault->message, sizeof(ret_fault->message),
                       "no JSON: %s at byte %zu", error.reason, error.at);
        return -EINVAL;
    }
    CLEANUP(api_arena_freep) struct api_arena *a = api_arena_new(ARENA_MAX);
    void *record = a == NULL ? NULL : api_arena_alloc(a, op->body_desc->size);
    if (record == NULL)
        return -ENOMEM;
    if (op->many && cJSON_IsArray(tree))
        return check_list(a, op, tree, record, ret_fault);
    return api_decode(a, op->body_desc, tree,
                      op->partial ? API_DECODE_PARTIAL : API_DECODE_REQUEST, record, ret_fault);
}
