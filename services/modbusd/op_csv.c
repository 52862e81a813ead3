/*
 * Import and export as CSV. Both work beside the loop: an export reads one
 * snapshot in the thread of its answer, an import is one transaction in that
 * of long changes.
 *
 * An import empties what it replaces and stages the rows by the rules of all
 * other ways in (op.h). What has the name it had before keeps its number, so
 * that applying leaves alone what the file does not change.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/str.h"
#include "services/modbusd/mb_csv.h"
#include "services/modbusd/op.h"

#include "libcommon/banned.h"

enum {
    FILE_MAX = 128 << 20,
    REPLY_MAX = 128 << 20,
    RECORD_ARENA_MAX = 1 << 20,
    FILE_NAME_SIZE = 48,
    SERIAL_LEN = sizeof(MB_CSV_SERIAL) - 1,
    DEV_REF_SIZE = MODBUSD_NAME_SIZE + SERIAL_LEN,
};

/* ---- export ---- */

struct export_job {
    struct store *store;
    enum mb_csv_file file;
    uint32_t dev; /* MB_CSV_MCMDS */
    /* while it writes: the parents of the record at hand */
    struct config_key dev_key, cmd_key; /* size 0: none yet */
    char dev_name[DEV_REF_SIZE], cmd_name[MODBUSD_NAME_SIZE];
    struct api_arena *arena; /* of one record */
    struct store_txn *txn;
    struct buf out;
};

static int
get_record(struct export_job *e, const struct config_key *key, void *ret_record)
{
    api_arena_reset(e->arena);
    int r = config_get(e->arena, e->txn, key, ret_record);
    return r > 0 ? -EPROTO : r;
}

/* The name of the device, or of the command, that 'key' is below. */
static int
find_dev_name(struct export_job *e, const struct config_key *key)
{
    struct remote_dev dev;
    struct config_key dev_key = config_key_dev(config_key_part(key, 0));
    if (memcmp(&dev_key, &e->dev_key, sizeof(dev_key)) == 0)
        return 0;
    int r = get_record(e, &dev_key, &dev);
    if (r < 0)
        return r;
    e->dev_key = dev_key;
    (void)snprintf(e->dev_name, sizeof(e->dev_name), "%s%s",
                   dev.has_master_ser_iface_id ? MB_CSV_SERIAL : "", dev.name); /* fits */
    return 0;
}

static int
find_cmd_name(struct export_job *e, const struct config_key *key)
{
    struct mcmd cmd;
    struct config_key cmd_key =
        config_key_cmd(config_key_part(key, 0), config_key_part(key, 1));
    if (memcmp(&cmd_key, &e->cmd_key, sizeof(cmd_key)) == 0)
        return 0;
    int r = get_record(e, &cmd_key, &cmd);
    e->cmd_key = cmd_key;
    return r < 0 ? r : str_copy(e->cmd_name, sizeof(e->cmd_name), cmd.name);
}

union record {
    struct master_param params;
    struct tcp_master master;
    struct master_tcp_iface iface;
    struct ser_master ser_master;
    struct master_ser_iface ser_iface;
    struct remote_dev dev;
    struct mcmd cmd;
    struct tag_for_mcmds tag;
};

static int
put_record(struct export_job *e, enum mb_csv_table table, const struct config_key *key)
{
    union record record;
    struct mb_csv_refs refs = { e->dev_name, e->cmd_name };
    int r = 0;
    if (key->kind >= KIND_CMD)
        r = find_dev_name(e, key);
    if (r == 0 && key->kind == KIND_TAG)
        r = find_cmd_name(e, key);
    if (r == 0)
        r = get_record(e, key, &record);
    if (r == 0)
        mb_csv_put_row(&e->out, e->file, table, &refs, &record);
    return r < 0 ? r : e->out.err;
}

static int
put_one(struct export_job *e, enum mb_csv_table table, uint32_t which)
{
    struct config_key key = config_key_one(which);
    mb_csv_put_head(&e->out, e->file, table);
    return put_record(e, table, &key);
}

/* One for each port that was ever there. */
static int
put_ser_ifaces(struct export_job *e)
{
    int r = 0;
    mb_csv_put_head(&e->out, e->file, MB_CSV_SER_IFACES);
    for (uint32_t id = 1; id <= SERIAL_PORTS_MAX && r == 0; id++) {
        const void *value;
        size_t size;
        struct config_key key = config_key_ser_iface(id);
        r = store_get(e->txn, DB_ONE, key.bytes, key.size, &value, &size);
        if (r == STORE_OK)
            r = put_record(e, MB_CSV_SER_IFACES, &key);
        r = r < 0 ? r : 0;
    }
    return r;
}

/* All records of a kind, or those of the device. */
static int
put_all(struct export_job *e, enum mb_csv_table table, enum config_kind kind)
{
    CLEANUP(store_iter_done) struct store_iter it = { 0 };
    struct config_key above = config_key_dev(e->dev);
    bool of_dev = e->file == MB_CSV_MCMDS;
    mb_csv_put_head(&e->out, e->file, table);
    int r = store_iter_init(&it, e->txn, DB_ONE + kind, of_dev ? above.bytes : NULL, above.size,
                            false);
    while (r == 0 && (r = store_iter_next(&it)) == STORE_OK) {
        struct config_key key;
        if (of_dev && memcmp(it.key, above.bytes, above.size) != 0)
            break;
        r = config_key_of((uint8_t)kind, it.key, it.key_size, &key);
        if (r == 0)
            r = put_record(e, table, &key);
    }
    return r < 0 ? r : 0;
}

static int
write_file(struct export_job *e)
{
    int r = 0;
    mb_csv_put_version(&e->out);
    if (e->file == MB_CSV_MASTERS) {
        r = put_one(e, MB_CSV_PARAMS, ONE_PARAMS);
        if (r == 0)
            r = put_one(e, MB_CSV_TCP_MASTERS, ONE_MASTER);
        if (r == 0)
            r = put_one(e, MB_CSV_TCP_IFACES, ONE_IFACE);
        if (r == 0)
            r = put_one(e, MB_CSV_SER_MASTERS, ONE_SER_MASTER);
        if (r == 0)
            r = put_ser_ifaces(e);
        if (r == 0)
            r = put_all(e, MB_CSV_DEVS, KIND_DEV);
    }
    if (r == 0)
        r = put_all(e, MB_CSV_CMDS, KIND_CMD);
    if (r == 0)
        r = put_all(e, MB_CSV_TAGS, KIND_TAG);
    return r < 0 ? r : e->out.err;
}

/* In the thread of the answer. The snapshot is given back before a slow client is waited for.
 */
static int export(struct api_pipe *pipe, void *arg)
{
    struct export_job *e = arg;
    int r = store_read(e->store, &e->txn);
    if (r == 0)
        r = write_file(e);
    store_abort(MOVE_PTR(e->txn));
    return r < 0 ? r : api_pipe_write(pipe, e->out.data, e->out.len);
}

static void
export_done(void *arg)
{
    struct export_job *e = arg;
    buf_done(&e->out);
    api_arena_free(e->arena);
    free(e);
}

/* modbusmaster_YYMMDDhhmmss.csv, in UTC. */
static void
name_file(char out[FILE_NAME_SIZE])
{
    char at[CLOCK_TEXT_SIZE]; /* 2026-03-02T02:11:12Z */
    clock_format(clock_wall_us(), 0, at);
    (void)snprintf(out, FILE_NAME_SIZE, "modbusmaster_%.2s%.2s%.2s%.2s%.2s%.2s.csv", at + 2,
                   at + 5, at + 8, at + 11, at + 14, at + 17); /* fits */
}

static enum api_status
begin_export(struct modbusd *d, struct api_call *call, enum mb_csv_file file, uint32_t dev)
{
    char name[FILE_NAME_SIZE];
    struct export_job *e = calloc(1, sizeof(*e));
    struct api_arena *a = api_arena_new(RECORD_ARENA_MAX);
    if (!e || !a) {
        free(e);
        api_arena_free(a);
        return api_fail(call, API_UNAVAILABLE, NULL, "Fail to export");
    }
    e->store = d->svc->store;
    e->file = file;
    e->dev = dev;
    e->arena = a;
    buf_init(&e->out, FILE_MAX);
    name_file(name);
    return api_reply_pipe(call, "application/octet-stream", name, export, export_done, e);
}

enum api_status
modbusd_export_masters(struct modbusd *self, struct api_call *call)
{
    return begin_export(self, call, MB_CSV_MASTERS, 0);
}

enum api_status
modbusd_export_mcmds(struct modbusd *self, struct api_call *call,
                     const struct modbusd_export_mcmds_query *query)
{
    struct remote_dev dev;
    struct config_key key = config_key_dev((uint32_t)query->remote_dev_id);
    struct store_txn *txn = api_view(call);
    if (!txn)
        return API_INTERNAL;
    int r = config_get(api_call_arena(call), txn, &key, &dev);
    if (r == STORE_NOT_FOUND)
        return api_fail(call, API_INVALID, "/remoteDevId", "Fail to export");
    if (r < 0)
        return op_store_error(call, r);
    return begin_export(self, call, MB_CSV_MCMDS, config_key_id(&key));
}

/* ---- import ---- */

struct import {
    struct api_call *call;
    enum mb_csv_file file;
    const char *pointer;            /* to the part that holds the file */
    struct store_txn *txn, *before; /* what is written; what was there, for its numbers */
    enum api_status status;         /* of what is not the file's fault */
    char *first;                    /* what is wrong with the file; NULL: nothing yet */
    uint64_t n_devs, n_cmds, n_tags;
    /* the parents of the row at hand: mostly those of the row before */
    char dev_name[DEV_REF_SIZE], cmd_name[MODBUSD_NAME_SIZE]; /* "": none yet */
    uint32_t dev;
    struct config_key cmd_key;
    struct mb_cmd_config cmd;
};

static bool
on_fault(void *arg, uint64_t line, uint64_t column, const char *message)
{
    struct import *m = arg;
    if (!m->first)
        m->first = api_strdup(m->call, message);
    return api_fail_at(m->call, m->pointer, line, column, message);
}

static bool
row_fault(struct import *m, const struct mb_csv_row *row, const char *member,
          const char *message)
{
    return on_fault(m, row->line, mb_csv_cell_of(row, member), message);
}

static bool
data_error(struct import *m, const struct mb_csv_row *row, const char *member, const char *text)
{
    static const char prefix[] = "Input value failed: "; /* of texts that stand alone */
    if (strncmp(text, prefix, sizeof(prefix) - 1) == 0)
        text += sizeof(prefix) - 1;
    const char *message =
        api_printf(m->call, "Data error at line %" PRIu64 ". %s", row->line, text);
    return message && row_fault(m, row, member, message);
}

static bool
not_found(struct import *m, const struct mb_csv_row *row, const char *member)
{
    char message[64];
    (void)snprintf(message, sizeof(message), "Fail to find %s", member); /* fits */
    return row_fault(m, row, member, message);
}

/* Ends the import for a reason that is not in the file. */
static bool
broken(struct import *m, int r)
{
    m->status = op_store_error(m->call, r);
    return false;
}

/* A rule refused the row: its place in the file instead of the one in a body. */
static bool
settle_row(struct import *m, const struct mb_csv_row *row, enum api_status status)
{
    const char *pointer, *text;
    if (status == API_OK)
        return true;
    if (status != API_INVALID) {
        m->status = status;
        return false;
    }
    api_take_failure(m->call, &pointer, &text);
    return data_error(m, row, pointer && pointer[0] ? pointer + 1 : "name", text);
}

/* False: there is no room for one more, or the store fails; either ends the import. */
static bool
has_room(struct import *m, const struct mb_csv_row *row, enum config_db db, uint64_t max)
{
    m->status = op_check_room(m->call, m->txn, db, 1, max);
    if (m->status == API_INVALID)
        (void)api_fail_at(m->call, m->pointer, row->line, 0, NULL); /* or the list is full */
    return m->status == API_OK;
}

/*
 * The number for a record: the one it had before, or a new one. 'found_before'
 * is what the search for its name gave in the state before.
 */
static int
choose_id(struct import *m, enum config_kind kind, int found_before, uint32_t *id)
{
    if (found_before < 0)
        return found_before;
    return found_before == STORE_OK ? 0 : config_next_id(m->txn, kind, id);
}

/* Serial devices have names apart. */
static int
dev_named(struct store_txn *txn, bool serial, const char *name, uint32_t *ret_id)
{
    return serial ? config_ser_dev_named(txn, name, ret_id)
                  : config_dev_named(txn, name, ret_id);
}

static bool
stage_dev(struct import *m, const struct mb_csv_row *row)
{
    const struct remote_dev *dev = row->record;
    bool serial = dev->has_master_ser_iface_id;
    uint32_t id = 0, other;
    if (!has_room(m, row, DB_DEV, MODBUSD_DEVS_MAX))
        return false;
    int r = dev_named(m->txn, serial, dev->name, &other);
    if (r == STORE_OK)
        return data_error(m, row, "name", "name exists already");
    if (r == STORE_NOT_FOUND)
        r = choose_id(m, KIND_DEV, dev_named(m->before, serial, dev->name, &id), &id);
    if (r < 0)
        return broken(m, r);
    struct config_key key = config_key_dev(id);
    m->n_devs++;
    return settle_row(m, row, op_save_dev(m->call, m->txn, "", &key, *dev));
}

/* The device that the row names. 0, STORE_NOT_FOUND or -errno. */
static int
find_dev(struct import *m, const char *name)
{
    if (m->file == MB_CSV_MCMDS)
        return 0;
    if (!name[0] || strlen(name) >= sizeof(m->dev_name))
        return STORE_NOT_FOUND;
    if (str_eq(name, m->dev_name))
        return 0;
    m->dev_name[0] = m->cmd_name[0] = '\0';
    bool serial = strncmp(name, MB_CSV_SERIAL, SERIAL_LEN) == 0;
    int r = dev_named(m->txn, serial, serial ? name + SERIAL_LEN : name, &m->dev);
    if (r == STORE_OK)
        (void)str_copy(m->dev_name, sizeof(m->dev_name), name); /* fits */
    return r;
}

static bool
stage_cmd(struct import *m, const struct mb_csv_row *row)
{
    const struct mcmd *cmd = row->record;
    uint32_t id = 0, other;
    int r = find_dev(m, row->refs.dev_name);
    if (r == STORE_NOT_FOUND)
        return not_found(m, row, "remoteDevName");
    if (r == 0 && !has_room(m, row, DB_CMD, MODBUSD_CMDS_MAX))
        return false;
    if (r == 0)
        r = config_cmd_named(m->txn, m->dev, cmd->name, &other);
    if (r == STORE_OK)
        return data_error(m, row, "name", "name exists already");
    if (r == STORE_NOT_FOUND)
        r = choose_id(m, KIND_CMD, config_cmd_named(m->before, m->dev, cmd->name, &id), &id);
    if (r < 0)
        return broken(m, r);
    struct config_key key = config_key_cmd(m->dev, id);
    m->n_cmds++;
    return settle_row(m, row, op_stage_cmd(m->call, row->arena, m->txn, 0, &key, *cmd));
}

/* The command that the row names, in the device that was found. */
static int
find_cmd(struct import *m, struct api_arena *a, const char *name)
{
    struct mcmd cmd;
    uint32_t id;
    if (!name[0] || strlen(name) >= sizeof(m->cmd_name))
        return STORE_NOT_FOUND;
    if (str_eq(name, m->cmd_name))
        return 0;
    m->cmd_name[0] = '\0';
    int r = config_cmd_named(m->txn, m->dev, name, &id);
    if (r != STORE_OK)
        return r;
    m->cmd_key = config_key_cmd(m->dev, id);
    r = config_get(a, m->txn, &m->cmd_key, &cmd);
    if (r != STORE_OK)
        return r < 0 ? r : -EPROTO;
    config_to_cmd(&cmd, &m->cmd);
    return str_copy(m->cmd_name, sizeof(m->cmd_name), name);
}

static bool
stage_tag(struct import *m, const struct mb_csv_row *row)
{
    const struct tag_for_mcmds *tag = row->record;
    uint32_t id = 0, other;
    int r = find_dev(m, row->refs.dev_name);
    if (r == STORE_NOT_FOUND)
        return not_found(m, row, "remoteDevName");
    if (r == 0)
        r = find_cmd(m, row->arena, row->refs.cmd_name);
    if (r == STORE_NOT_FOUND)
        return not_found(m, row, "mcmdName");
    if (r == 0 && !has_room(m, row, DB_TAG, MODBUSD_TAGS_MAX))
        return false;
    if (r == 0)
        r = config_tag_named(m->txn, m->dev, tag->name, &other);
    if (r == STORE_OK)
        return data_error(m, row, "name", "name exists already");
    if (r == STORE_NOT_FOUND)
        r = choose_id(m, KIND_TAG, config_tag_named(m->before, m->dev, tag->name, &id), &id);
    if (r < 0)
        return broken(m, r);
    struct config_key key = config_key_tag(m->dev, config_key_id(&m->cmd_key), id);
    m->n_tags++;
    return settle_row(m, row,
                      op_stage_tag(m->call, row->arena, m->txn, 0, &key, &m->cmd, *tag));
}

/* The one of its kind: there is no other number. */
static bool
is_the_one(bool has_id, int64_t id, int64_t only)
{
    return !has_id || id == only;
}

static bool
stage_params(struct import *m, const struct mb_csv_row *row)
{
    const struct master_param *p = row->record;
    if (!is_the_one(p->has_master_param_id, p->master_param_id, MODBUSD_PARAMS_ID))
        return not_found(m, row, "masterParamId");
    return settle_row(m, row, op_stage_params(m->call, row->arena, m->txn, *p));
}

static bool
stage_master(struct import *m, const struct mb_csv_row *row)
{
    const struct tcp_master *t = row->record;
    if (!is_the_one(t->has_tcp_master_id, t->tcp_master_id, MODBUSD_MASTER_ID))
        return not_found(m, row, "tcpMasterId");
    return settle_row(m, row, op_stage_master(m->call, row->arena, m->txn, *t));
}

static bool
stage_iface(struct import *m, const struct mb_csv_row *row)
{
    const struct master_tcp_iface *f = row->record;
    if (!is_the_one(f->has_master_tcp_iface_id, f->master_tcp_iface_id, MODBUSD_IFACE_ID))
        return not_found(m, row, "masterTcpIfaceId");
    if (f->tcp_master_id != MODBUSD_MASTER_ID)
        return not_found(m, row, "tcpMasterId");
    return settle_row(m, row, op_stage_iface(m->call, row->arena, m->txn, *f));
}

static bool
stage_ser_master(struct import *m, const struct mb_csv_row *row)
{
    const struct ser_master *s = row->record;
    if (!is_the_one(s->has_ser_master_id, s->ser_master_id, MODBUSD_MASTER_ID))
        return not_found(m, row, "serMasterId");
    return settle_row(m, row, op_stage_ser_master(m->call, row->arena, m->txn, *s));
}

/* An interface is there because its port is. */
static bool
stage_ser_iface(struct import *m, const struct mb_csv_row *row)
{
    const struct master_ser_iface *f = row->record;
    const void *value;
    size_t size;
    int64_t id = f->has_master_ser_iface_id ? f->master_ser_iface_id : 0;
    if (id < 1 || id > SERIAL_PORTS_MAX)
        return not_found(m, row, "masterSerIfaceId");
    struct config_key key = config_key_ser_iface((uint32_t)id);
    int r = store_get(m->txn, DB_ONE, key.bytes, key.size, &value, &size);
    if (r != STORE_OK)
        return r < 0 ? broken(m, r) : not_found(m, row, "masterSerIfaceId");
    return settle_row(m, row, op_stage_ser_iface(m->call, row->arena, m->txn, &key, *f));
}

static bool
on_row(void *arg, const struct mb_csv_row *row)
{
    static bool (*const stage[MB_CSV_TABLES])(struct import * m,
                                              const struct mb_csv_row *row) = {
        [MB_CSV_PARAMS] = stage_params,
        [MB_CSV_TCP_MASTERS] = stage_master,
        [MB_CSV_TCP_IFACES] = stage_iface,
        [MB_CSV_DEVS] = stage_dev,
        [MB_CSV_SER_MASTERS] = stage_ser_master,
        [MB_CSV_SER_IFACES] = stage_ser_iface,
        [MB_CSV_CMDS] = stage_cmd,
        [MB_CSV_TAGS] = stage_tag,
    };
    return stage[row->table](arg, row);
}

/* Reads the part and stages its rows. API_OK, or the refusal with all its reasons. */
static enum api_status
import_part(struct import *m, const char *part)
{
    CLEANUP(store_abortp) struct store_txn *before = NULL;
    struct mb_csv_hooks hooks = { on_row, on_fault, m };
    size_t n;
    char *bytes = api_form_edit(m->call, part, &n);
    if (!bytes)
        return api_fail(m->call, API_INVALID, m->pointer, "Fail to find %s", part);
    m->txn = api_txn(m->call);
    int r = m->txn ? store_read(m->call->svc->store, &before) : 0;
    m->before = before;
    if (m->txn && r == 0)
        r = m->file == MB_CSV_MASTERS ? config_del_all(m->txn, KIND_DEV) : 0;
    if (m->txn && r == 0 && m->file == MB_CSV_MCMDS) {
        struct config_key key = config_key_dev(m->dev);
        r = config_del_below(m->txn, &key);
    }
    if (m->txn && r == 0)
        r = mb_csv_read(m->file, bytes, n, &hooks);
    if (!m->txn)
        return API_INTERNAL;
    if (r < 0)
        return op_store_error(m->call, r);
    if (m->status != API_OK)
        return m->status;
    if (!m->first)
        return op_check_original_limits(m->call, m->txn);
    return api_fail(m->call, API_INVALID, m->pointer, "%s", m->first);
}

static void
tell_audit(struct api_call *call, uint64_t n_devs, uint64_t n_cmds, uint64_t n_tags)
{
    api_audit_message(call, "%s: %" PRIu64 " devices, %" PRIu64 " commands, %" PRIu64 " tags",
                      call->op->summary, n_devs, n_cmds, n_tags);
}

enum api_status
modbusd_import_masters(struct modbusd *self, struct api_call *call)
{
    (void)self; /* the loop's */
    struct import m = {
        .call = call, .file = MB_CSV_MASTERS, .pointer = "/mastersFile", .status = API_OK
    };
    enum api_status status = import_part(&m, "mastersFile");
    if (status != API_OK)
        return status;
    tell_audit(call, m.n_devs, m.n_cmds, m.n_tags);
    struct buf b;
    buf_init(&b, REPLY_MAX);
    buf_puts(&b, "{\"count\":1,\"data\":[");
    int r = op_write_tree(m.txn, &b);
    buf_puts(&b, "]}");
    if (r == 0)
        return modbusd_reply(call, &b);
    buf_done(&b);
    return op_store_error(call, r);
}

/* The device that the form names. */
static enum api_status
find_target(struct api_call *call, uint32_t *ret_dev)
{
    struct remote_dev dev;
    size_t n;
    char *text = api_form_edit(call, "remoteDevId", &n);
    struct store_txn *txn = api_txn(call);
    if (!txn)
        return API_INTERNAL;
    if (text)
        text[n] = '\0';
    if (text && parse_u32(text, 0, UINT32_MAX, ret_dev) == 0) {
        struct config_key key = config_key_dev(*ret_dev);
        int r = config_get(api_call_arena(call), txn, &key, &dev);
        if (r != STORE_NOT_FOUND)
            return r < 0 ? op_store_error(call, r) : API_OK;
    }
    return api_fail(call, API_INVALID, "/remoteDevId", "Fail to find remoteDevId");
}

enum api_status
op_import_cmds(struct api_call *call, uint32_t dev, uint64_t *ret_n_cmds, uint64_t *ret_n_tags)
{
    struct import m = { .call = call,
                        .file = MB_CSV_MCMDS,
                        .pointer = "/mcmdsFile",
                        .dev = dev,
                        .status = API_OK };
    enum api_status status = import_part(&m, "mcmdsFile");
    *ret_n_cmds = m.n_cmds;
    *ret_n_tags = m.n_tags;
    return status;
}

enum api_status
modbusd_import_mcmds(struct modbusd *self, struct api_call *call)
{
    (void)self; /* the loop's */
    uint32_t dev = 0;
    uint64_t n_cmds, n_tags;
    enum api_status status = find_target(call, &dev);
    if (status == API_OK)
        status = op_import_cmds(call, dev, &n_cmds, &n_tags);
    if (status != API_OK)
        return status;
    tell_audit(call, 0, n_cmds, n_tags);
    struct config_key key = config_key_dev(dev);
    struct buf b;
    buf_init(&b, REPLY_MAX);
    buf_puts(&b, "{\"count\":1,\"data\":[[");
    int r = config_write_cmds(api_txn(call), &key, &b);
    buf_puts(&b, "]]}");
    if (r == 0)
        return modbusd_reply(call, &b);
    buf_done(&b);
    return op_store_error(call, r);
}
