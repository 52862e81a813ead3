/*
 * A serial line on which a slave is asked, RTU or ASCII, on the loop, without
 * a thread and without blocking. Modbus over Serial Line V1.02.
 *
 * An RTU request ends with a silence of 3.5 characters (2.5.1.1), after which
 * it is answered; an ASCII one with CR LF. Because a program hears characters
 * in lumps, silence alone does not cut: a request is what ends where the line
 * became silent, is of its function's length and has the right checksum, even
 * behind noise or the talk of other units. What is for other units, damaged,
 * or an echo of our own answer is passed over. Requests to unit 0 are done
 * and not answered (2.2).
 *
 * A master that asks anew while the owner of a tag is still being asked does
 * not get the old answer any more.
 *
 * A port that cannot be opened, or is lost (an adapter pulled), is tried again
 * every SL_LINE_REOPEN_US.
 */
#ifndef FIELDGATE_SL_LINE_H
#define FIELDGATE_SL_LINE_H

#include <stdbool.h>
#include <stdint.h>

#include "libcommon/loop.h"
#include "libcommon/serial.h"
#include "services/modbusd/sl_map.h"
#include "services/modbusd/traffic.h"

enum { SL_LINE_REOPEN_US = 1000000 };

struct sl_line_config {
    char device[SERIAL_DEVICE_SIZE];
    struct serial_settings settings;
    bool ascii;
    uint8_t unit;  /* 1..247 */
    uint8_t slave; /* its number, for sl_serve */
};

struct sl_line_stats {
    bool is_wanted; /* there is a configuration: of 'ascii' and 'unit' */
    bool is_open;
    bool ascii;
    uint8_t unit;
    int error;                 /* errno of the last attempt to open it; 0: none */
    struct sl_counters counts; /* invalid: not counted, nobody knows whose they were */
    uint64_t heard;            /* bytes */
    uint64_t broadcasts;       /* requests to all units, among the valid ones */
};

struct sl_line;

/* Closed. 0 or -ENOMEM. */
int sl_line_new(struct loop *loop, struct sl_line **ret_line);
/* Takes NULL. A request under way gets no answer. */
void sl_line_free(struct sl_line *l);
/*
 * From now on listens as 'cfg' says (copied; NULL: not at all). The port is
 * opened anew, now or when it can be, if anything differs.
 */
void sl_line_set(struct sl_line *l, const struct sl_line_config *cfg);
/* The map that is asked from now on; NULL: none yet, nothing is answered. */
void sl_line_set_map(struct sl_line *l, struct sl_map *map);
/*
 * Keeps our requests and answers there, when it is on; outlives the line. NULL:
 * nowhere.
 */
void sl_line_set_traffic(struct sl_line *l, struct traffic *traffic);
void sl_line_get_stats(const struct sl_line *l, struct sl_line_stats *ret_stats);

#endif
