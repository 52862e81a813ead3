#include "services/modbusd/mb_csv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "gen/api_modbusd.h"
#include "libcommon/csv.h"
#include "libcommon/json.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

enum {
    COLUMNS_MAX = 64,
    CELLS_MAX = 256, /* spreadsheets fill lines up with empty cells */
    ROW_ARENA_MAX = 1 << 20,
    CELL_MAX = 128 << 10, /* of one written cell */
    MESSAGE_MAX = 512,
};

/* Names of the columns with what a record belongs to. */
static const char dev_ref[] = "remoteDevName", cmd_ref[] = "mcmdName";

struct table {
    const char *name;
    const struct api_desc *desc;
    const char *number; /* a read-only member that is shown, because there is no name for it */
    const char *parent; /* member with the parent's number, which a reference stands for */
    bool has_cmd_ref;
    bool of_device; /* in files of one device, too */
};

static const struct table tables[MB_CSV_TABLES] = {
    [MB_CSV_PARAMS] = { .name = "masterParams",
                        .desc = &master_param_desc,
                        .number = "masterParamId" },
    [MB_CSV_TCP_MASTERS] = { .name = "tcpMasters",
                             .desc = &tcp_master_desc,
                             .number = "tcpMasterId" },
    [MB_CSV_TCP_IFACES] = { .name = "masterTcpIfaces",
                            .desc = &master_tcp_iface_desc,
                            .number = "masterTcpIfaceId" },
    [MB_CSV_SER_MASTERS] = { .name = "serMasters",
                             .desc = &ser_master_desc,
                             .number = "serMasterId" },
    [MB_CSV_SER_IFACES] = { .name = "masterSerIfaces",
                            .desc = &master_ser_iface_desc,
                            .number = "masterSerIfaceId" },
    [MB_CSV_DEVS] = { .name = "remoteDevs", .desc = &remote_dev_desc },
    [MB_CSV_CMDS] = { .name = "mcmds",
                      .desc = &mcmd_desc,
                      .parent = "remoteDevId",
                      .of_device = true },
    [MB_CSV_TAGS] = { .name = "tags",
                      .desc = &tag_for_mcmds_desc,
                      .parent = "mcmdId",
                      .has_cmd_ref = true,
                      .of_device = true },
};

bool
mb_csv_has(enum mb_csv_file file, enum mb_csv_table table)
{
    return file == MB_CSV_MASTERS || tables[table].of_device;
}

/* ---- columns ---- */

/* A member, or (field NULL) a reference. */
struct column {
    const char *name;
    const struct api_field *field;
};

static bool
is_shown(const struct table *t, const struct api_field *f)
{
    if (f->flags & (API_F_ARRAY | API_F_WRITE_ONLY) || f->type == API_T_OBJECT ||
        f->type == API_T_RAW || (t->parent && str_eq(f->name, t->parent)))
        return false;
    return !(f->flags & API_F_READ_ONLY) || (t->number && str_eq(f->name, t->number));
}

/* All columns of a table in such a file, in the order of writing. */
static size_t
columns_of(enum mb_csv_file file, const struct table *t, struct column columns[COLUMNS_MAX])
{
    size_t n = 0;
    if (t->parent && file == MB_CSV_MASTERS)
        columns[n++] = (struct column){ .name = dev_ref };
    if (t->has_cmd_ref)
        columns[n++] = (struct column){ .name = cmd_ref };
    for (size_t i = 0; i < t->desc->n_fields; i++)
        if (is_shown(t, &t->desc->fields[i])) {
            MUST(n < COLUMNS_MAX);
            columns[n++] = (struct column){ t->desc->fields[i].name, &t->desc->fields[i] };
        }
    return n;
}

/* Without it a row means nothing. */
static bool
is_needed(const struct column *c)
{
    return !c->field || str_eq(c->name, "name") || c->field->flags & API_F_REQUIRED;
}

/* ---- writing ---- */

void
mb_csv_put_version(struct buf *b)
{
    buf_printf(b, "version,%d", MB_CSV_VERSION);
    csv_end_line(b);
}

void
mb_csv_put_head(struct buf *b, enum mb_csv_file file, enum mb_csv_table table)
{
    struct column columns[COLUMNS_MAX];
    size_t n = columns_of(file, &tables[table], columns);
    csv_put_bare(b, true, tables[table].name);
    csv_end_line(b);
    for (size_t i = 0; i < n; i++)
        csv_put_bare(b, i == 0, columns[i].name);
    csv_end_line(b);
}

static void
put_text(struct buf *b, bool is_first, const char *text)
{
    if (text && text[0])
        csv_put_cell(b, is_first, text, strlen(text));
    else
        csv_put_bare(b, is_first, text ? "\"\"" : "");
}

/* Numbers read as JSON writes them. */
static void
put_member(struct buf *b, bool is_first, const struct api_field *f, const char *record)
{
    const void *at = record + f->offset;
    char memory[64];
    struct buf number = { .data = memory, .cap = sizeof(memory), .max = sizeof(memory) };
    if (f->flags & API_F_HAS && !*(const bool *)(record + f->has_offset)) {
        csv_put_bare(b, is_first, "");
        return;
    }
    switch ((enum api_type)f->type) {
    case API_T_STRING:
        put_text(b, is_first, *(const char *const *)at);
        return;
    case API_T_ENUM:
        put_text(b, is_first, f->names[*(const int *)at]);
        return;
    case API_T_BOOL:
        jw_bool(&number, *(const bool *)at);
        break;
    case API_T_INT:
        jw_i64(&number, *(const int64_t *)at);
        break;
    case API_T_UINT:
        jw_u64(&number, *(const uint64_t *)at);
        break;
    case API_T_NUMBER:
        jw_double(&number, *(const double *)at);
        break;
    case API_T_OBJECT:
    case API_T_RAW:
        break; /* is_shown */
    }
    buf_putc(&number, '\0');
    csv_put_bare(b, is_first, number.err ? "" : memory);
}

void
mb_csv_put_row(struct buf *b, enum mb_csv_file file, enum mb_csv_table table,
               const struct mb_csv_refs *refs, const void *record)
{
    struct column columns[COLUMNS_MAX];
    size_t n = columns_of(file, &tables[table], columns);
    for (size_t i = 0; i < n; i++)
        if (columns[i].field)
            put_member(b, i == 0, columns[i].field, record);
        else
            put_text(b, i == 0, columns[i].name == dev_ref ? refs->dev_name : refs->cmd_name);
    csv_end_line(b);
}

/* ---- reading ---- */

struct mb_csv_reading {
    enum mb_csv_file file;
    const struct mb_csv_hooks *hooks;
    struct csv_reader csv;
    struct csv_cell cells[CELLS_MAX];
    size_t n_cells; /* without the empty ones at the end */
    size_t n_wide;  /* with them */
    bool seen[MB_CSV_TABLES];
    const struct table *table; /* NULL: none yet, or one whose columns are wrong: skip it */
    bool wants_header;
    struct column columns[COLUMNS_MAX]; /* of this file, cell by cell */
    size_t n_columns;
    struct api_arena *arena;
    bool stopped;
};

size_t
mb_csv_cell_of(const struct mb_csv_row *row, const char *member)
{
    const struct mb_csv_reading *r = row->reading;
    for (size_t i = 0; i < r->n_columns; i++)
        if (str_eq(r->columns[i].name, member))
            return i + 1;
    return 0;
}

static void PRINTF_LIKE(3, 4)
    fault(struct mb_csv_reading *r, size_t column, const char *fmt, ...)
{
    char message[MESSAGE_MAX];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(message, sizeof(message), fmt, args); /* a long one is cut */
    va_end(args);
    r->stopped |= !r->hooks->fault(r->hooks->arg, r->csv.line, column, message);
}

static void
read_version(struct mb_csv_reading *r)
{
    uint32_t version;
    if (r->n_cells == 2 && str_eq(r->cells[0].text, "version") &&
        parse_u32(r->cells[1].text, MB_CSV_VERSION, MB_CSV_VERSION, &version) == 0)
        return;
    fault(r, 1, "Version error");
    r->stopped = true; /* what follows may be anything */
}

static const struct table *
find_table(const struct mb_csv_reading *r, const struct csv_cell *name)
{
    for (size_t i = 0; i < MB_CSV_TABLES; i++)
        if (mb_csv_has(r->file, (enum mb_csv_table)i) && str_eq(tables[i].name, name->text))
            return &tables[i];
    return NULL;
}

/* A line with the name of a table: it stands alone, or is one of ours with empty cells behind.
 */
static bool
is_table_line(const struct mb_csv_reading *r)
{
    return !r->wants_header && r->n_cells == 1 &&
           (r->n_wide == 1 || find_table(r, &r->cells[0]));
}

static void
read_table(struct mb_csv_reading *r)
{
    const struct table *t = find_table(r, &r->cells[0]);
    r->table = NULL;
    r->n_columns = 0;
    if (!t || r->seen[t - tables]) {
        fault(r, 1, "Invalid table %.64s",
              utf8_valid(r->cells[0].text, r->cells[0].len) ? r->cells[0].text : "");
        return;
    }
    r->seen[t - tables] = true;
    r->table = t;
    r->wants_header = true;
}

/* Which column this is; NULL: unknown, or it was there before. */
static const struct column *
match_column(const struct mb_csv_reading *r, const struct column *all, size_t n,
             const struct csv_cell *cell)
{
    for (size_t i = 0; i < r->n_columns; i++)
        if (str_eq(r->columns[i].name, cell->text))
            return NULL;
    for (size_t i = 0; i < n; i++)
        if (str_eq(all[i].name, cell->text))
            return &all[i];
    return NULL;
}

static void
read_header(struct mb_csv_reading *r)
{
    struct column all[COLUMNS_MAX];
    size_t n = columns_of(r->file, r->table, all), wrong = 0;
    r->wants_header = false;
    for (size_t i = 0; i < r->n_cells && !wrong; i++) {
        const struct column *c = match_column(r, all, n, &r->cells[i]);
        if (c)
            r->columns[r->n_columns++] = *c;
        else
            wrong = i + 1;
    }
    struct mb_csv_row here = { .reading = r };
    for (size_t i = 0; i < n && !wrong; i++)
        if (is_needed(&all[i]) && mb_csv_cell_of(&here, all[i].name) == 0)
            wrong = r->n_cells + 1; /* it is missing: behind the last */
    if (!wrong)
        return;
    fault(r, wrong, "Column error in %s", r->table->name);
    r->table = NULL;
}

/* Cells that hold something become values; a reference goes into 'row'. */
static size_t
take_cells(struct mb_csv_reading *r, struct mb_csv_row *row, struct bus_str *names,
           struct bus_str *values)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n_columns; i++) {
        struct csv_cell *cell = &r->cells[i];
        const struct column *c = &r->columns[i];
        csv_unguard(cell);
        if (!c->field) {
            *(c->name == dev_ref ? &row->refs.dev_name : &row->refs.cmd_name) = cell->text;
        } else if (cell->len > 0 || cell->quoted) {
            names[n] = (struct bus_str){ c->name, (uint32_t)strlen(c->name) };
            values[n++] = (struct bus_str){ cell->text, (uint32_t)cell->len };
        }
    }
    return n;
}

static int
read_record(struct mb_csv_reading *r)
{
    struct bus_str names[COLUMNS_MAX + 1], values[COLUMNS_MAX + 1];
    struct api_fault f = { .pointer = "" };
    api_arena_reset(r->arena);
    void *record = api_arena_alloc(r->arena, r->table->desc->size);
    if (!record)
        return -ENOMEM;
    struct mb_csv_row row = { .table = (enum mb_csv_table)(r->table - tables),
                              .line = r->csv.line,
                              .record = record,
                              .arena = r->arena,
                              .reading = r };
    size_t n = take_cells(r, &row, names, values);
    if (r->table->parent) {
        names[n] = (struct bus_str){ r->table->parent, (uint32_t)strlen(r->table->parent) };
        values[n++] = (struct bus_str){ "0", 1 };
    }
    int e = api_decode_values(r->arena, r->table->desc, names, values, n, record, &f);
    if (e == -EINVAL)
        fault(r, mb_csv_cell_of(&row, f.pointer[0] ? f.pointer + 1 : ""),
              "Data error at line %" PRIu64 ". %s", r->csv.line, f.message);
    else if (e == 0)
        r->stopped |= !r->hooks->row(r->hooks->arg, &row);
    return e == -ENOMEM ? e : 0;
}

/* The cells of a row of the table: as many as it has columns. */
static int
read_line(struct mb_csv_reading *r)
{
    bool is_short = r->n_wide < r->n_columns;
    if (r->n_cells <= r->n_columns && !is_short)
        return read_record(r);
    fault(r, is_short ? r->n_wide + 1 : r->n_columns + 1, "Fail to parse line %" PRIu64,
          r->csv.line);
    return 0;
}

/* Without cells at the end that hold nothing. */
static void
measure(struct mb_csv_reading *r, size_t n)
{
    r->n_wide = n;
    while (n > 0 && r->cells[n - 1].len == 0 && !r->cells[n - 1].quoted)
        n--;
    r->n_cells = n;
}

static int
read_rows(struct mb_csv_reading *r)
{
    bool has_version = false;
    int r0 = 0, got;
    size_t n;
    while (r0 == 0 && !r->stopped &&
           (got = csv_read_row(&r->csv, r->cells, CELLS_MAX, &n)) != CSV_END) {
        if (got == CSV_BAD) {
            fault(r, r->csv.fault_cell, "Fail to parse line %" PRIu64 ". %s", r->csv.line,
                  r->csv.fault);
            r->stopped |= !has_version; /* what follows may be anything */
            continue;
        }
        measure(r, n);
        if (r->n_cells == 0)
            continue;
        if (!has_version)
            read_version(r);
        else if (is_table_line(r))
            read_table(r);
        else if (r->wants_header)
            read_header(r);
        else if (r->table)
            r0 = read_line(r);
        has_version = true;
    }
    return r0;
}

/* Without these a file would empty the configuration by what it lacks. */
static void
check_tables(struct mb_csv_reading *r)
{
    for (size_t i = MB_CSV_DEVS; i < MB_CSV_TABLES && !r->stopped; i++)
        if (mb_csv_has(r->file, (enum mb_csv_table)i) && !r->seen[i])
            fault(r, 0, "Fail to find %s", tables[i].name);
    if (!r->stopped && r->wants_header)
        fault(r, 0, "Column error in %s", r->table->name);
}

int
mb_csv_read(enum mb_csv_file file, char *bytes, size_t n, const struct mb_csv_hooks *hooks)
{
    struct mb_csv_reading *r = calloc(1, sizeof(*r));
    if (!r)
        return -ENOMEM;
    r->file = file;
    r->hooks = hooks;
    r->arena = api_arena_new(ROW_ARENA_MAX);
    csv_reader_init(&r->csv, bytes, n);
    int e = r->arena ? read_rows(r) : -ENOMEM;
    if (e == 0 && !r->stopped)
        check_tables(r);
    api_arena_free(r->arena);
    free(r);
    return e;
}
