/*
 * The slave's records (config.h) as its rules and its engine want them.
 * Functions return 0, STORE_NOT_FOUND or -errno.
 */
#ifndef FIELDGATE_SL_CONFIG_H
#define FIELDGATE_SL_CONFIG_H

#include "services/modbusd/config.h"
#include "services/modbusd/sl_engine.h"
#include "services/modbusd/sl_line.h"
#include "services/modbusd/sl_space.h"

static inline bool
sl_format_is_bits(int64_t format)
{
    return format == SL_COILS || format == SL_INPUT_BITS;
}
/* What offsets of tags count in a zone: its bits, or the bytes of its registers. */
static inline uint32_t
sl_zone_size(const struct szone *zone)
{
    return (uint32_t)zone->quan * (sl_format_is_bits(zone->data_format) ? 1u : 2u);
}

/* Slave and parameters exist from the first start on. */
int sl_config_ensure_defaults(struct api_arena *a, struct store_txn *txn);

/* The zone without its tags. */
void sl_config_to_zone(const struct szone *in, struct sl_zone_config *ret_zone);
/* The running configuration, in memory of 'a'. -EPROTO: a record cannot be read. */
int sl_config_load_slave(struct api_arena *a, struct store_txn *txn,
                         struct sl_config *ret_cfg); /* without its zones */
int sl_config_load(struct api_arena *a, struct store_txn *txn, struct sl_config *ret_cfg);
/* The running parameters. */
int sl_config_load_params(struct api_arena *a, struct store_txn *txn,
                          struct slave_param *ret_params);

/* The serial slave of an interface's number (1..SERIAL_PORTS_MAX), in one of its tables. */
struct config_key sl_config_ser_key(uint32_t id);
/* Are there staged zones that only it shows? 1, 0 or -errno. Reads all zones. */
int sl_config_has_zones(struct store_txn *txn, uint32_t id);
/*
 * Those that run, by portValue, in memory of 'a'; NULL where there is none, it
 * is off, or iod has told of no such port.
 */
int sl_config_load_lines(struct api_arena *a, struct store_txn *txn,
                         const struct sl_line_config *ret_lines[SERIAL_PORTS_MAX]);

/* What the staged zones take of the table of a format. */
int sl_config_space(struct store_txn *txn, int64_t format, struct sl_space *ret_space);
/* A staged zone other than 'id' that has units of these; STORE_NOT_FOUND: none. */
int sl_config_overlap(struct store_txn *txn, uint32_t id, const struct szone *zone,
                      uint32_t *ret_other);

/*
 * Walks the records of one kind, staged or running ('db'), from one zone to
 * the next: at each zone, in order, those below it.
 */
struct sl_walk {
    struct store_iter it;
    bool more;
    uint8_t kind;
};
int sl_walk_begin(struct sl_walk *w, struct store_txn *txn, unsigned db, uint8_t kind,
                  uint32_t first_zone);
/* The next one of this zone; STORE_NOT_FOUND: no more in it. */
int sl_walk_next(struct sl_walk *w, uint32_t zone, struct config_key *ret_key,
                 struct bus_str *ret_text);
/* Ends the walk; not needed when begin failed. */
void sl_walk_done(struct sl_walk *w);

#endif
