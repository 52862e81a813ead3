/*
 * The configuration in the store. A record is the JSON object that the API
 * shows, without the lists nested in it. Staged and running records have the
 * same keys, made of the numbers on the way to them:
 *
 *   device (dev)   command (dev, cmd)   tag (dev, cmd, tag)
 *   zone (zone)    own tag (zone, tag)  reference tag (zone, ref)
 *
 * so that a walk over a key's prefix finds what is below it. "touched" holds
 * the keys whose staged and running records differ, nothing else: applying
 * copies these, undoing copies them back, and none means "no change". Master
 * and slave have one each.
 *
 * Functions return 0, STORE_NOT_FOUND or -errno. They change records and
 * their indexes together; the rules (op_*.c) come before.
 */
#ifndef FIELDGATE_MODBUSD_CONFIG_H
#define FIELDGATE_MODBUSD_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gen/api_modbusd.h"
#include "libcommon/api.h"
#include "libcommon/serial.h"
#include "libcommon/store.h"
#include "services/modbusd/mb_engine.h"
#include "services/modbusd/modbusd.h"

/* Order matters: the running table of a kind follows at a fixed distance. */
enum config_db {
    DB_ONE, /* single records: interface, master, counters, log level */
    DB_DEV,
    DB_CMD,
    DB_TAG,
    DB_SL_ONE, /* TCP slave, slave parameters */
    DB_ZONE,
    DB_SL_TAG,
    DB_REF,
    DB_ONE_RUN,
    DB_DEV_RUN,
    DB_CMD_RUN,
    DB_TAG_RUN,
    DB_SL_ONE_RUN,
    DB_ZONE_RUN,
    DB_SL_TAG_RUN,
    DB_REF_RUN,
    DB_TOUCHED,
    DB_SL_TOUCHED,
    DB_CMD_ID,      /* cmd -> key */
    DB_TAG_ID,      /* tag -> key */
    DB_DEV_NAME,    /* name -> dev */
    DB_DEV_ADDR,    /* address, port, unit -> dev */
    DB_CMD_NAME,    /* dev, name -> cmd */
    DB_TAG_NAME,    /* dev, name -> tag */
    DB_ZONE_PLACE,  /* format, address, quan -> zone; format, -1, zone -> zone */
    DB_SL_TAG_ID,   /* tag -> key */
    DB_SL_TAG_NAME, /* name -> tag */
    DB_REF_ID,      /* ref -> key */
    DB_REF_NAME,    /* provider/source/tag -> ref */
    DB_NOTES,       /* of direct writes: api_note */
    DB_OUTBOX,
    N_DBS
};
extern const char *const config_dbs[N_DBS];

enum config_kind {
    KIND_ONE,
    KIND_DEV,
    KIND_CMD,
    KIND_TAG,
    KIND_SL_ONE,
    KIND_ZONE,
    KIND_SL_TAG,
    KIND_REF,
    N_KINDS
};
/* Serial interfaces follow: ONE_SER_IFACES and their number, 1..SERIAL_PORTS_MAX. */
enum {
    ONE_IFACE = 1,
    ONE_MASTER = 2,
    ONE_PARAMS = 10,
    ONE_SER_MASTER = 0x80,
    ONE_SER_IFACES = 0x100
};
/* Serial slaves follow: SL_ONE_SER_SLAVES and their number, 1..SERIAL_PORTS_MAX. */
enum { SL_ONE_SLAVE = 1, SL_ONE_PARAMS = 2, SL_ONE_SER_SLAVES = 0x100 };
/* Whose records: each side is applied and undone by itself. */
enum config_side { SIDE_MASTER, SIDE_SLAVE };

struct config_key {
    uint8_t kind; /* enum config_kind */
    uint8_t size;
    uint8_t bytes[12];
};
struct config_key config_key_one(uint32_t which);
struct config_key config_key_ser_iface(uint32_t id);
struct config_key config_key_dev(uint32_t dev);
struct config_key config_key_cmd(uint32_t dev, uint32_t cmd);
struct config_key config_key_tag(uint32_t dev, uint32_t cmd, uint32_t tag);
struct config_key config_key_sl_one(uint32_t which);
struct config_key config_key_zone(uint32_t zone);
/* 'kind': KIND_SL_TAG or KIND_REF. */
struct config_key config_key_in_zone(enum config_kind kind, uint32_t zone, uint32_t id);
/* The i-th number of a key, and the last: its own. */
uint32_t config_key_part(const struct config_key *k, unsigned i);
uint32_t config_key_id(const struct config_key *k);
/* The key of a record from its bytes in a table of 'kind'; -EPROTO: it is none. */
int config_key_of(uint8_t kind, const void *bytes, size_t size, struct config_key *ret_key);

/* The key of a command or tag, own tag or reference tag of a zone by its own number. */
int config_find_cmd(struct store_txn *txn, uint32_t cmd, struct config_key *ret_key);
int config_find_tag(struct store_txn *txn, uint32_t tag, struct config_key *ret_key);
int config_find_in_zone(struct store_txn *txn, enum config_kind kind, uint32_t id,
                        struct config_key *ret_key);

/* The record, decoded with memory from 'a'. */
int config_get(struct api_arena *a, struct store_txn *txn, const struct config_key *key,
               void *ret_record);
/*
 * Which number has this name (place: address, port, unit; serial interface, unit)?
 * STORE_NOT_FOUND: none. TCP and serial devices have names apart.
 */
int config_dev_named(struct store_txn *txn, const char *name, uint32_t *ret_id);
int config_ser_dev_named(struct store_txn *txn, const char *name, uint32_t *ret_id);
int config_dev_at(struct store_txn *txn, const struct remote_dev *dev, uint32_t *ret_id);
int config_cmd_named(struct store_txn *txn, uint32_t dev, const char *name, uint32_t *ret_id);
int config_tag_named(struct store_txn *txn, uint32_t dev, const char *name, uint32_t *ret_id);
int config_sl_tag_named(struct store_txn *txn, const char *name, uint32_t *ret_id);
int config_ref_to(struct store_txn *txn, const struct ref_tag *ref, uint32_t *ret_id);

/* A number that no other of this kind ever had. -EOVERFLOW: no more of them. */
int config_next_id(struct store_txn *txn, enum config_kind kind, uint32_t *ret_id);
/* Stages 'record' (struct of the key's kind); its indexes follow. */
int config_put(struct api_arena *a, struct store_txn *txn, const struct config_key *key,
               const void *record);
/* Removes the record and everything below it, or only the latter. */
int config_del(struct api_arena *a, struct store_txn *txn, const struct config_key *key);
int config_del_below(struct store_txn *txn, const struct config_key *key);
/*
 * Keys of the staged records of 'kind' below 'key', in order, in memory of
 * 'a': for a walk during which the table is written.
 */
int config_keys_below(struct api_arena *a, struct store_txn *txn, const struct config_key *key,
                      enum config_kind kind, struct config_key **ret_keys, size_t *ret_n);
/* Removes all of this kind, and what is below. */
int config_del_all(struct store_txn *txn, enum config_kind kind);

/* The single records exist from the start on that first knew them. */
int config_ensure_defaults(struct api_arena *a, struct store_txn *txn);
/* Stages what the first start made: no devices, all settings at their defaults. */
int config_reset(struct api_arena *a, struct store_txn *txn);

/* Makes 'record' exist, staged and running alike, if there is none at 'key'. */
int config_ensure(struct api_arena *a, struct store_txn *txn, const struct config_key *key,
                  const void *record);

int config_count_touched(struct store_txn *txn, enum config_side side, uint64_t *ret_n);
/*
 * Makes the staged records the running ones. 'changed' hears of each device
 * that differs (maybe several times), and of 0 for interface or master; NULL
 * for the slave.
 */
int config_apply(struct store_txn *txn, enum config_side side,
                 int (*changed)(void *arg, uint32_t dev), void *arg);
int config_undo(struct store_txn *txn, enum config_side side);

/* ---- as JSON, with what is nested inside ---- */
/* Appends the staged record at 'key' and, in it, what is below. */
int config_write(struct store_txn *txn, const struct config_key *key, struct buf *b);
/* Appends the commands of a device, in order of their numbers, parted by commas. */
int config_write_cmds(struct store_txn *txn, const struct config_key *dev, struct buf *b);
/* Appends all of a kind, in order of their own numbers, parted by commas. */
int config_write_all(struct store_txn *txn, enum config_kind kind, struct buf *b,
                     uint64_t *ret_n);

/* Are there staged devices on a serial interface? 1, 0 or -errno. */
int config_ser_iface_has_devs(struct store_txn *txn, uint32_t id);
/* Appends all serial interfaces, parted by commas. */
int config_write_ser_ifaces(struct store_txn *txn, struct buf *b, uint64_t *ret_n);

/* ---- serial ports, as iod told them last ---- */
int config_put_ports(struct store_txn *txn, const char *json, size_t n);
/* None, as long as iod has told nothing. -EPROTO: what is stored cannot be read. */
int config_get_ports(struct store_txn *txn, struct serial_port ret_ports[SERIAL_PORTS_MAX],
                     size_t *ret_n);
/* A serial interface exists since its port is known. */
int config_ensure_ser_iface(struct api_arena *a, struct store_txn *txn, uint32_t port_value);

/* ---- as the engine wants it ---- */
/* A running serial interface; 'port' NULL: there is no such port now. */
int config_load_port(struct api_arena *a, struct store_txn *txn, uint32_t id,
                     const struct serial_port *port, struct mb_port_config *ret_port);
/* A scaling of the API: off, slope and offset, or two points; not checked. */
struct mb_scaling config_scaling(int64_t func, double slope, double offset,
                                 const double source[2], const double target[2]);
void config_to_cmd(const struct mcmd *in, struct mb_cmd_config *ret_cmd);
void config_to_tag(const struct tag_for_mcmds *in, struct mb_tag_config *ret_tag);
/* The running device with all below it, in memory of 'a'. */
int config_load_dev(struct api_arena *a, struct store_txn *txn, uint32_t dev,
                    struct mb_dev_config *ret_dev);
int config_load_iface(struct api_arena *a, struct store_txn *txn,
                      struct mb_iface_config *ret_iface);
/* The parameters in force. */
int config_load_params(struct api_arena *a, struct store_txn *txn,
                       struct master_param *ret_params);

#endif
