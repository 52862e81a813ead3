/* Staged and running configuration in a store: indexes, apply, undo; of master and slave. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "services/modbusd/config.h"
#include "services/modbusd/sl_config.h"

static char dir[64];
static struct store *store;
static struct store_txn *txn;
static struct api_arena *arena;

static int
set_up(void **state)
{
    (void)state;
    memcpy(dir, "/tmp/test_mb_config.XXXXXX", sizeof("/tmp/test_mb_config.XXXXXX"));
    arena = api_arena_new(64 << 20);
    if (!mkdtemp(dir) || !arena || store_open(dir, config_dbs, N_DBS, 1, NULL, &store) < 0)
        return -1;
    return store_begin(store, &txn);
}

static int
tear_down(void **state)
{
    (void)state;
    store_abort(txn);
    txn = NULL;
    store_close(store);
    api_arena_free(arena);
    static const char *const names[] = { "data.mdb", "lock.mdb", "lock.owner" };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char path[128];
        (void)snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        (void)unlink(path); /* not all are there */
    }
    return rmdir(dir);
}

/* ---- a device, a command, a tag ---- */

static void
put_dev(uint32_t id, const char *name)
{
    struct remote_dev dev;
    struct config_key key = config_key_dev(id);
    assert_int_equal(api_defaults(arena, &remote_dev_desc, &dev), 0);
    dev.has_remote_dev_id = true;
    dev.remote_dev_id = id;
    dev.has_master_tcp_iface_id = true;
    dev.master_tcp_iface_id = 1;
    dev.name = name;
    dev.slave_id = id;
    dev.slave_ipaddr = "10.0.0.1";
    assert_int_equal(config_put(arena, txn, &key, &dev), 0);
}

static void
put_cmd(uint32_t dev, uint32_t id, const char *name)
{
    struct mcmd cmd;
    struct config_key key = config_key_cmd(dev, id);
    assert_int_equal(api_defaults(arena, &mcmd_desc, &cmd), 0);
    cmd.has_mcmd_id = true;
    cmd.mcmd_id = id;
    cmd.remote_dev_id = dev;
    cmd.name = name;
    cmd.read_quantity = 10;
    assert_int_equal(config_put(arena, txn, &key, &cmd), 0);
}

static void
put_tag(uint32_t dev, uint32_t cmd, uint32_t id, const char *name)
{
    struct tag_for_mcmds tag;
    struct config_key key = config_key_tag(dev, cmd, id);
    assert_int_equal(api_defaults(arena, &tag_for_mcmds_desc, &tag), 0);
    tag.has_tag_id = true;
    tag.tag_id = id;
    tag.mcmd_id = cmd;
    tag.name = name;
    tag.data_type = TAG_FOR_MCMDS_DATA_TYPE_UINT16;
    assert_int_equal(config_put(arena, txn, &key, &tag), 0);
}

static void
put_plant(void)
{
    assert_int_equal(config_ensure_defaults(arena, txn), 0);
    for (uint32_t i = 1; i <= 2; i++) {
        put_dev(i, i == 1 ? "pump" : "valve");
        put_cmd(i, 10 * i, "a");
        put_cmd(i, 10 * i + 1, "b");
        put_tag(i, 10 * i, 100 * i, "x");
        put_tag(i, 10 * i, 100 * i + 1, "y");
        put_tag(i, 10 * i + 1, 100 * i + 2, "z");
    }
}

static uint64_t
touched(void)
{
    uint64_t n;
    assert_int_equal(config_count_touched(txn, SIDE_MASTER, &n), 0);
    return n;
}

static uint64_t
count(unsigned db)
{
    uint64_t n;
    assert_int_equal(store_count(txn, db, &n), 0);
    return n;
}

static int
note(void *arg, uint32_t dev)
{
    *(uint32_t *)arg |= 1u << dev;
    return 0;
}

/* Applies; the devices that differed as bits. */
static uint32_t
apply(void)
{
    uint32_t changed = 0;
    assert_int_equal(config_apply(txn, SIDE_MASTER, note, &changed), 0);
    assert_int_equal(touched(), 0);
    return changed;
}

/* Every record and index, as text. */
static char *
everything(void)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    for (unsigned db = DB_ONE; db <= DB_TAG_NAME; db++) {
        struct store_iter it;
        if ((db >= DB_ONE_RUN && db <= DB_TOUCHED) || db == DB_ONE)
            continue;
        assert_int_equal(store_iter_init(&it, txn, db, NULL, 0, false), 0);
        while (store_iter_next(&it) == STORE_OK) {
            buf_printf(&b, "%u ", db);
            buf_put(&b, it.key, it.key_size);
            buf_putc(&b, '=');
            buf_put(&b, it.value, it.size);
            buf_putc(&b, '\n');
        }
        store_iter_done(&it);
    }
    for (size_t i = 0; i < b.len; i++)
        if (b.data[i] == '\0')
            b.data[i] = '0';
    char *text = api_arena_strdup(arena, buf_text(&b));
    buf_done(&b);
    return text;
}

/* ---- tests ---- */

static void
numbers_grow_and_are_not_used_again(void **state)
{
    (void)state;
    uint32_t id;
    for (uint32_t i = 1; i < 5; i++) {
        assert_int_equal(config_next_id(txn, KIND_TAG, &id), 0);
        assert_int_equal(id, i);
    }
    assert_int_equal(config_del_all(txn, KIND_TAG), 0);
    assert_int_equal(config_next_id(txn, KIND_TAG, &id), 0);
    assert_int_equal(id, 5);
    assert_int_equal(config_next_id(txn, KIND_DEV, &id), 0);
    assert_int_equal(id, 1);
}

static void
names_find_their_records(void **state)
{
    (void)state;
    uint32_t id;
    put_plant();
    assert_int_equal(config_dev_named(txn, "valve", &id), STORE_OK);
    assert_int_equal(id, 2);
    assert_int_equal(config_dev_named(txn, "valv", &id), STORE_NOT_FOUND);
    assert_int_equal(config_cmd_named(txn, 2, "b", &id), STORE_OK);
    assert_int_equal(id, 21);
    assert_int_equal(config_tag_named(txn, 1, "z", &id), STORE_OK);
    assert_int_equal(id, 102);
    assert_int_equal(config_tag_named(txn, 3, "z", &id), STORE_NOT_FOUND);
    put_dev(2, "gate"); /* the old name is free again */
    assert_int_equal(config_dev_named(txn, "valve", &id), STORE_NOT_FOUND);
    assert_int_equal(config_dev_named(txn, "gate", &id), STORE_OK);
    struct remote_dev same = { .slave_ipaddr = "10.0.0.1",
                               .slave_tcp_port = 502,
                               .slave_id = 2 };
    assert_int_equal(config_dev_at(txn, &same, &id), STORE_OK);
    assert_int_equal(id, 2);
}

static void
only_what_differs_is_applied(void **state)
{
    (void)state;
    put_plant();
    assert_int_equal(apply(), 1u << 1 | 1u << 2);
    assert_int_equal(count(DB_TAG_RUN), 6);
    assert_int_equal(apply(), 0);
    put_tag(2, 20, 200, "other");
    assert_int_equal(touched(), 1);
    assert_int_equal(apply(), 1u << 2);
    put_dev(1, "pump"); /* the same as before */
    assert_int_equal(touched(), 0);
    put_dev(1, "gate");
    assert_int_equal(touched(), 1);
    put_dev(1, "pump"); /* and back */
    assert_int_equal(touched(), 0);
}

static void
a_device_takes_its_commands_and_tags_with_it(void **state)
{
    (void)state;
    put_plant();
    (void)apply();
    struct config_key key = config_key_dev(1);
    assert_int_equal(config_del(arena, txn, &key), 0);
    assert_int_equal(count(DB_DEV), 1);
    assert_int_equal(count(DB_CMD), 2);
    assert_int_equal(count(DB_TAG), 3);
    assert_int_equal(count(DB_TAG_ID), 3);
    assert_int_equal(count(DB_TAG_NAME), 3);
    assert_int_equal(count(DB_CMD_NAME), 2);
    assert_int_equal(count(DB_DEV_ADDR), 1);
    assert_int_equal(touched(), 6);
    assert_int_equal(config_del(arena, txn, &key), STORE_NOT_FOUND);
    assert_int_equal(apply(), 1u << 1);
    assert_int_equal(count(DB_TAG_RUN), 3);
}

static void
undo_brings_everything_back(void **state)
{
    (void)state;
    put_plant();
    (void)apply();
    char *before = everything();
    /* names exchanged, one more, one less, all tags gone */
    put_dev(1, "t");
    put_dev(2, "pump");
    put_dev(1, "valve");
    put_dev(3, "new");
    put_cmd(3, 30, "a");
    struct config_key key = config_key_cmd(2, 20);
    assert_int_equal(config_del(arena, txn, &key), 0);
    assert_int_equal(config_del_all(txn, KIND_TAG), 0);
    assert_string_not_equal(everything(), before);
    assert_int_equal(config_undo(txn, SIDE_MASTER), 0);
    assert_int_equal(touched(), 0);
    assert_string_equal(everything(), before);
    assert_int_equal(apply(), 0);
}

static void
deleting_all_is_applied_and_undone(void **state)
{
    (void)state;
    put_plant();
    (void)apply();
    char *before = everything();
    assert_int_equal(config_del_all(txn, KIND_DEV), 0);
    assert_string_equal(everything(), "");
    assert_int_equal(touched(), 12);
    assert_int_equal(config_undo(txn, SIDE_MASTER), 0);
    assert_string_equal(everything(), before);
    assert_int_equal(config_del_all(txn, KIND_CMD), 0);
    assert_int_equal(apply(), 1u << 1 | 1u << 2);
    assert_int_equal(count(DB_DEV_RUN), 2);
    assert_int_equal(count(DB_CMD_RUN), 0);
    assert_int_equal(count(DB_TAG_RUN), 0);
}

static void
records_are_shown_with_what_is_below_them(void **state)
{
    (void)state;
    struct buf b;
    put_plant();
    buf_init(&b, 1 << 20);
    struct config_key key = config_key_cmd(1, 11);
    assert_int_equal(config_write(txn, &key, &b), 0);
    const char *text = buf_text(&b);
    assert_non_null(strstr(text, "\"name\":\"b\""));
    assert_non_null(strstr(text, "\"tags\":[{\"tagId\":102,\"mcmdId\":11,\"name\":\"z\""));
    assert_null(strstr(text, "\"x\""));
    buf_reset(&b);
    uint64_t n;
    assert_int_equal(config_write_all(txn, KIND_TAG, &b, &n), 0);
    assert_int_equal(n, 6);
    assert_non_null(strstr(buf_text(&b), "\"tagId\":202"));
    buf_done(&b);
}

static void
the_engine_gets_the_running_device(void **state)
{
    (void)state;
    struct mb_dev_config dev;
    struct mb_iface_config iface;
    put_plant();
    assert_int_equal(config_load_dev(arena, txn, 1, &dev), STORE_NOT_FOUND);
    (void)apply();
    put_tag(1, 10, 100, "staged-only");
    assert_int_equal(config_load_dev(arena, txn, 1, &dev), 0);
    assert_string_equal(dev.name, "pump");
    assert_int_equal(dev.limit, 1);
    assert_int_equal(dev.n_cmds, 2);
    assert_int_equal(dev.cmds[0].n_tags, 2);
    assert_int_equal(dev.cmds[1].n_tags, 1);
    assert_string_equal(dev.cmds[0].tags[0].name, "x");
    assert_string_equal(dev.cmds[1].tags[0].name, "z");
    assert_int_equal(dev.cmds[1].tags[0].id, 102);
    assert_int_equal(dev.cmds[1].tags[0].type, MB_UINT16);
    assert_int_equal(config_load_iface(arena, txn, &iface), 0);
    assert_string_equal(iface.provider, "modbus_tcp_master");
    assert_int_equal(iface.timeout_ms, 1000);
}

/* ---- serial ---- */

static void
put_serial_dev(uint32_t id, const char *name, uint32_t iface, uint32_t unit)
{
    struct remote_dev dev;
    struct config_key key = config_key_dev(id);
    assert_int_equal(api_defaults(arena, &remote_dev_desc, &dev), 0);
    dev.has_remote_dev_id = dev.has_master_ser_iface_id = true;
    dev.remote_dev_id = id;
    dev.master_ser_iface_id = iface;
    dev.name = name;
    dev.slave_id = unit;
    assert_int_equal(config_put(arena, txn, &key, &dev), 0);
}

static void
serial_devices_have_names_and_places_of_their_own(void **state)
{
    struct remote_dev probe = { .has_master_ser_iface_id = true,
                                .master_ser_iface_id = 2,
                                .slave_id = 1 };
    uint32_t id;
    (void)state;
    put_plant();
    put_serial_dev(7, "pump", 2, 1);
    assert_int_equal(config_dev_named(txn, "pump", &id), STORE_OK);
    assert_int_equal(id, 1);
    assert_int_equal(config_ser_dev_named(txn, "pump", &id), STORE_OK);
    assert_int_equal(id, 7);
    assert_int_equal(config_ser_dev_named(txn, "valve", &id), STORE_NOT_FOUND);
    assert_int_equal(config_dev_at(txn, &probe, &id), STORE_OK);
    assert_int_equal(id, 7);
    probe.master_ser_iface_id = 1;
    assert_int_equal(config_dev_at(txn, &probe, &id), STORE_NOT_FOUND);
}

static void
a_serial_interface_is_made_once_and_is_no_change(void **state)
{
    struct master_ser_iface iface;
    struct config_key key = config_key_ser_iface(2);
    (void)state;
    put_plant();
    (void)apply();
    assert_int_equal(config_ensure_defaults(arena, txn), 0);
    assert_int_equal(config_ensure_ser_iface(arena, txn, 1), 0);
    assert_int_equal(touched(), 0);
    assert_int_equal(config_get(arena, txn, &key, &iface), 0);
    assert_int_equal(iface.port_value, 1);
    iface.format = 1;
    assert_int_equal(config_put(arena, txn, &key, &iface), 0);
    assert_int_equal(touched(), 1);
    assert_int_equal(config_ensure_ser_iface(arena, txn, 1), 0); /* told again */
    assert_int_equal(config_get(arena, txn, &key, &iface), 0);
    assert_int_equal(iface.format, 1);
}

static void
the_engine_gets_a_serial_interface_with_its_port(void **state)
{
    struct mb_port_config port;
    struct mb_dev_config dev;
    struct serial_port known = {
        .port_value = 1,
        .device = "/dev/ttyM1",
        .settings = { .baud_rate = 19200, .data_bits = 8, .stop_half_bits = 2 }
    };
    (void)state;
    put_plant();
    assert_int_equal(config_ensure_defaults(arena, txn), 0);
    assert_int_equal(config_ensure_ser_iface(arena, txn, 1), 0);
    put_serial_dev(7, "drive", 2, 9);
    (void)apply();
    assert_int_equal(config_load_port(arena, txn, 1, NULL, &port), STORE_NOT_FOUND);
    assert_int_equal(config_load_port(arena, txn, 2, &known, &port), 0);
    assert_string_equal(port.iface.provider, "modbus_serial_master");
    assert_string_equal(port.line.device, "/dev/ttyM1");
    assert_int_equal(port.line.settings.baud_rate, 19200);
    assert_int_equal(config_load_port(arena, txn, 2, NULL, &port), 0);
    assert_string_equal(port.line.device, ""); /* the port is gone, the interface stays */
    assert_int_equal(config_load_dev(arena, txn, 7, &dev), 0);
    assert_int_equal(dev.port_id, 2);
    assert_int_equal(dev.unit, 9);
}

/* As it was written before there were serial devices. */
static void
an_old_record_of_a_device_is_that_of_a_tcp_device(void **state)
{
    static const char old[] =
        "{\"remoteDevId\":5,\"masterTcpIfaceId\":1,\"name\":\"old\",\"enable\":1,\"slaveId\":3,"
        "\"slaveIpaddr\":\"10.0.0.9\",\"slaveTcpPort\":502,\"enableConcurrentTransaction\":0,"
        "\"numberMaxOfTransaction\":8}";
    struct config_key key = config_key_dev(5);
    struct mb_dev_config dev;
    struct buf b;
    uint64_t n;
    (void)state;
    put_plant();
    assert_int_equal(store_put(txn, DB_DEV, key.bytes, key.size, old, sizeof(old) - 1), 0);
    assert_int_equal(store_put(txn, DB_DEV_RUN, key.bytes, key.size, old, sizeof(old) - 1), 0);
    assert_int_equal(config_load_dev(arena, txn, 5, &dev), 0);
    assert_int_equal(dev.port_id, 0);
    assert_string_equal(dev.addr, "10.0.0.9");
    buf_init(&b, 1 << 20);
    assert_int_equal(config_write_all(txn, KIND_DEV, &b, &n), 0);
    buf_putc(&b, '\0');
    assert_non_null(strstr(b.data, "\"masterTcpIfaceId\":1,\"name\":\"old\""));
    buf_done(&b);
}

/* Records of versions that did not know a member have its default. */
static void
records_of_before_merged_reads_are_read(void **state)
{
    (void)state;
    struct mb_dev_config dev;
    struct mb_iface_config iface;
    static const char cmd[] = "{\"mcmdId\":10,\"remoteDevId\":1,\"name\":\"a\",\"func\":3}";
    static const char one[] = "{\"masterTcpIfaceId\":1,\"tcpMasterId\":1}";
    put_plant();
    (void)apply();
    struct config_key key = config_key_cmd(1, 10), iface_key = config_key_one(ONE_IFACE);
    assert_int_equal(store_put(txn, DB_CMD_RUN, key.bytes, key.size, cmd, sizeof(cmd) - 1), 0);
    assert_int_equal(
        store_put(txn, DB_ONE_RUN, iface_key.bytes, iface_key.size, one, sizeof(one) - 1), 0);
    assert_int_equal(config_load_dev(arena, txn, 1, &dev), 0);
    assert_false(dev.cmds[0].merge);
    assert_int_equal(config_load_iface(arena, txn, &iface), 0);
    assert_int_equal(iface.merge.gap, 8);
    assert_int_equal(iface.merge.quantity, 125);
}

static void
nobody(void *arg)
{
    (void)arg;
}

static void
no_sample(void *arg, const struct tag_sample *s)
{
    (void)arg;
    (void)s;
}

static void
no_event(void *arg, const struct mb_event *event)
{
    (void)arg;
    (void)event;
}

static void
a_device_that_cannot_be_read_holds_up_no_other(void **state)
{
    (void)state;
    struct mb_engine_hooks hooks = { no_sample, nobody, no_event, NULL };
    struct svc svc = { .store = store };
    struct modbusd modbusd = { .svc = &svc };
    struct mb_engine_stats stats;
    assert_int_equal(loop_new(&svc.loop), 0);
    assert_int_equal(mb_engine_new(svc.loop, &hooks, &modbusd.engine), 0);
    put_plant();
    put_dev(3, "last");
    (void)apply();
    struct config_key key = config_key_dev(2);
    assert_int_equal(store_put(txn, DB_DEV_RUN, key.bytes, key.size, "{\"name\"", 7), 0);
    assert_int_equal(store_commit(txn), 0);
    txn = NULL;
    assert_int_equal(modbusd_load(&modbusd), 0);
    mb_engine_get_stats(modbusd.engine, &stats);
    assert_int_equal(stats.n_devices, 2);
    assert_int_equal(stats.n_tags, 3 + 2);
    struct protocol_status health;
    assert_int_equal(modbusd_get_master_protocol_status(&modbusd, NULL, &health), API_OK);
    assert_int_equal(health.status, 0); /* nobody was heard yet */
    mb_engine_free(modbusd.engine);
    loop_free(svc.loop);
    free(modbusd.stale);
}

/* A store from before the parameters: they begin in force, and no staged change goes with them. */
static void
a_record_that_an_older_store_lacks_is_no_change(void **state)
{
    (void)state;
    struct master_param params;
    struct config_key key = config_key_one(ONE_PARAMS);
    put_plant();
    (void)apply();
    assert_int_equal(store_del(txn, DB_ONE, key.bytes, key.size), 0);
    assert_int_equal(store_del(txn, DB_ONE_RUN, key.bytes, key.size), 0);
    put_dev(3, "staged");
    assert_int_equal(config_ensure_defaults(arena, txn), 0);
    assert_int_equal(touched(), 1);
    assert_int_equal(count(DB_DEV_RUN), 2);
    assert_int_equal(config_load_params(arena, txn, &params), 0);
    assert_int_equal(params.enable_tcp_masters, 1);
    assert_int_equal(config_get(arena, txn, &key, &params), 0);
    assert_int_equal(params.enable_dev_fail_event, 1);
}

static void
a_reset_is_applied_and_undone(void **state)
{
    (void)state;
    struct tcp_master master;
    struct config_key key = config_key_one(ONE_MASTER);
    put_plant();
    (void)apply();
    assert_int_equal(config_get(arena, txn, &key, &master), 0);
    master.name = "mine";
    assert_int_equal(config_put(arena, txn, &key, &master), 0);
    assert_int_equal(config_reset(arena, txn), 0);
    assert_int_equal(count(DB_DEV) + count(DB_CMD) + count(DB_TAG) + count(DB_TAG_NAME), 0);
    assert_int_equal(config_get(arena, txn, &key, &master), 0);
    assert_string_equal(master.name, "modbus_tcp_master");
    assert_int_equal(touched(), 2 + 4 + 6);
    assert_int_equal(config_undo(txn, SIDE_MASTER), 0);
    assert_int_equal(count(DB_TAG), 6);
    assert_int_equal(config_reset(arena, txn), 0);
    assert_int_equal(apply(), 1u << 1 | 1u << 2);
    assert_int_equal(count(DB_TAG_RUN), 0);
}

/* ---- the slave's side ---- */

static void
put_zone(uint32_t id, int64_t format, int64_t address, int64_t quan)
{
    struct szone zone;
    struct config_key key = config_key_zone(id);
    assert_int_equal(api_defaults(arena, &szone_desc, &zone), 0);
    zone.has_szone_id = true;
    zone.szone_id = id;
    zone.data_format = format;
    zone.address = address;
    zone.quan = quan;
    zone.swap = 4;
    assert_int_equal(config_put(arena, txn, &key, &zone), 0);
}

static void
put_own_tag(uint32_t zone, uint32_t id, const char *name)
{
    struct tag_for_szone tag;
    struct config_key key = config_key_in_zone(KIND_SL_TAG, zone, id);
    assert_int_equal(api_defaults(arena, &tag_for_szone_desc, &tag), 0);
    tag.has_tag_id = tag.has_szone_id = true;
    tag.tag_id = id;
    tag.szone_id = zone;
    tag.name = name;
    tag.data_type = TAG_FOR_SZONE_DATA_TYPE_UINT16;
    assert_int_equal(config_put(arena, txn, &key, &tag), 0);
}

static void
put_ref(uint32_t zone, uint32_t id, const char *name)
{
    struct ref_tag ref = { .has_ref_tag_id = true,
                           .ref_tag_id = id,
                           .has_szone_id = true,
                           .szone_id = zone,
                           .prvd_name = "p",
                           .src_name = "s",
                           .tag_name = name,
                           .has_data_type = true,
                           .data_type = REF_TAG_DATA_TYPE_UINT32,
                           .has_access = true,
                           .access = REF_TAG_ACCESS_RW,
                           .has_offset = true,
                           .offset = 4 };
    struct config_key key = config_key_in_zone(KIND_REF, zone, id);
    assert_int_equal(config_put(arena, txn, &key, &ref), 0);
}

/* Two zones of holding registers at 10..13 and 20..25, one of coils, one without a place. */
static void
put_zones(void)
{
    assert_int_equal(sl_config_ensure_defaults(arena, txn), 0);
    put_zone(1, SL_HOLDING, 10, 4);
    put_own_tag(1, 7, "a");
    put_own_tag(1, 8, "b");
    put_zone(2, SL_HOLDING, 20, 6);
    put_ref(2, 7, "flow");
    put_zone(3, SL_COILS, 10, 4);
    put_zone(4, SL_HOLDING, -1, 4);
}

static uint64_t
touched_by_slave(void)
{
    uint64_t n;
    assert_int_equal(config_count_touched(txn, SIDE_SLAVE, &n), 0);
    return n;
}

static int
overlap(uint32_t id, int64_t format, int64_t address, int64_t quan, uint32_t *ret_other)
{
    struct szone zone = { .data_format = format, .address = address, .quan = quan };
    return sl_config_overlap(txn, id, &zone, ret_other);
}

static void
a_zone_overlaps_others_of_its_format_and_not_itself(void **state)
{
    (void)state;
    uint32_t other = 0;
    put_zones();
    assert_int_equal(overlap(9, SL_HOLDING, 13, 1, &other), STORE_OK);
    assert_int_equal(other, 1);
    assert_int_equal(overlap(9, SL_HOLDING, 0, 65536, &other), STORE_OK);
    assert_int_equal(overlap(9, SL_HOLDING, 14, 7, &other), STORE_OK);
    assert_int_equal(other, 2);
    assert_int_equal(overlap(9, SL_HOLDING, 14, 6, &other), STORE_NOT_FOUND);
    assert_int_equal(overlap(9, SL_HOLDING, 26, 1, &other), STORE_NOT_FOUND);
    assert_int_equal(overlap(9, SL_HOLDING, 0, 10, &other), STORE_NOT_FOUND);
    assert_int_equal(overlap(9, SL_INPUT, 10, 4, &other), STORE_NOT_FOUND);
    assert_int_equal(overlap(9, SL_INPUT_BITS, 0, 65536, &other), STORE_NOT_FOUND);
    assert_int_equal(overlap(2, SL_HOLDING, 15, 40, &other), STORE_NOT_FOUND);
    assert_int_equal(overlap(2, SL_HOLDING, 13, 40, &other), STORE_OK);
    assert_int_equal(other, 1);
    static struct sl_space space;
    assert_int_equal(sl_config_space(txn, SL_HOLDING, &space), 0);
    assert_int_equal(sl_space_find(&space, 0, 10), 0);
    assert_int_equal(sl_space_find(&space, 1, 10), 26);
    assert_int_equal(sl_space_find(&space, 10, 6), 14);
}

static void
master_and_slave_are_applied_and_undone_by_themselves(void **state)
{
    (void)state;
    put_plant();
    put_zones();
    uint64_t of_master = touched();
    assert_int_equal(touched_by_slave(), 7);
    assert_int_equal(config_apply(txn, SIDE_SLAVE, NULL, NULL), 0);
    assert_int_equal(touched_by_slave(), 0);
    assert_int_equal(touched(), of_master);
    struct config_key zone = config_key_zone(1);
    assert_int_equal(config_del(arena, txn, &zone), 0);
    put_zone(2, SL_HOLDING, 10, 4);
    put_own_tag(2, 9, "a"); /* the name is free */
    assert_int_equal(touched_by_slave(), 5);
    assert_int_equal(config_undo(txn, SIDE_MASTER), 0);
    assert_int_equal(touched(), 0);
    assert_int_equal(touched_by_slave(), 5);
    assert_int_equal(config_undo(txn, SIDE_SLAVE), 0);
    assert_int_equal(touched_by_slave(), 0);
    uint32_t id = 0;
    assert_int_equal(config_sl_tag_named(txn, "a", &id), STORE_OK);
    assert_int_equal(id, 7);
    assert_int_equal(overlap(9, SL_HOLDING, 20, 1, &id), STORE_OK);
    assert_int_equal(id, 2);
    assert_int_equal(config_del_all(txn, KIND_ZONE), 0);
    assert_int_equal(count(DB_REF) + count(DB_SL_TAG) + count(DB_SL_TAG_NAME) +
                         count(DB_ZONE_PLACE) + count(DB_REF_NAME) + count(DB_REF_ID),
                     0);
    assert_int_equal(touched_by_slave(), 7);
}

static void
deleting_an_own_tag_spares_a_reference_tag_of_the_same_numbers(void **state)
{
    (void)state;
    put_zones();
    put_own_tag(2, 9, "c");
    put_ref(2, 9, "set");
    struct config_key key = config_key_in_zone(KIND_SL_TAG, 2, 9);
    assert_int_equal(config_del(arena, txn, &key), 0);
    assert_int_equal(count(DB_REF), 2);
    assert_int_equal(count(DB_SL_TAG), 2);
}

static void
the_slave_gets_what_is_running(void **state)
{
    (void)state;
    struct sl_config cfg;
    put_zones();
    assert_int_equal(sl_config_load(arena, txn, &cfg), 0);
    assert_false(cfg.enable);
    assert_int_equal(cfg.port, 502);
    assert_int_equal(cfg.n_zones, 0);
    assert_int_equal(config_apply(txn, SIDE_SLAVE, NULL, NULL), 0);
    assert_int_equal(sl_config_load(arena, txn, &cfg), 0);
    assert_int_equal(cfg.n_zones, 4);
    assert_int_equal(cfg.zones[0].n_tags, 2);
    assert_int_equal(cfg.zones[0].n_refs, 0);
    assert_string_equal(cfg.zones[0].tags[1].name, "b");
    assert_int_equal(cfg.zones[0].swap, 4);
    assert_int_equal(cfg.zones[1].n_refs, 1);
    assert_int_equal(cfg.zones[1].refs[0].access, TAG_ACCESS_READ | TAG_ACCESS_WRITE);
    assert_int_equal(cfg.zones[1].refs[0].offset, 4);
    assert_int_equal(cfg.zones[3].address, -1);
}

int
main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(numbers_grow_and_are_not_used_again),
        T(names_find_their_records),
        T(only_what_differs_is_applied),
        T(a_device_takes_its_commands_and_tags_with_it),
        T(undo_brings_everything_back),
        T(deleting_all_is_applied_and_undone),
        T(records_are_shown_with_what_is_below_them),
        T(the_engine_gets_the_running_device),
        T(records_of_before_merged_reads_are_read),
        T(a_device_that_cannot_be_read_holds_up_no_other),
        T(serial_devices_have_names_and_places_of_their_own),
        T(a_serial_interface_is_made_once_and_is_no_change),
        T(the_engine_gets_a_serial_interface_with_its_port),
        T(an_old_record_of_a_device_is_that_of_a_tcp_device),
        T(a_record_that_an_older_store_lacks_is_no_change),
        T(a_reset_is_applied_and_undone),
        T(a_zone_overlaps_others_of_its_format_and_not_itself),
        T(master_and_slave_are_applied_and_undone_by_themselves),
        T(deleting_an_own_tag_spares_a_reference_tag_of_the_same_numbers),
        T(the_slave_gets_what_is_running),
    };
#undef T
    return cmocka_run_group_tests(tests, NULL, NULL);
}
