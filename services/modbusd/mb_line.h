/*
 * A serial line as a way to devices (struct mb_conn): one request at a time,
 * RTU or ASCII, on the loop, without a thread and without blocking.
 *
 * A request waits until the line was silent for a frame interval; what was
 * heard before is dropped. Its time-out begins when its last bit has left: by
 * the baud rate, and by what the driver still holds; what flow control holds
 * back for as long as the time-out is thrown away. An answer that has begun
 * in time is heard to its end. What is no answer (noise, the answer of a unit
 * that came too late) is passed over while time is left; a frame of the unit
 * that is cut off or has a wrong checksum ends the request as MB_DONE_BAD. A
 * line that never becomes silent ends it as MB_DONE_TIMEOUT.
 *
 * Unit 0 is all units (2.2): nobody answers, and the request is done when all
 * have had MB_TURNAROUND_US to do it (2.4.1).
 *
 * Echo: on a two-wire line without suppression everything sent is heard. It is
 * recognised where an answer cannot equal its request, and remembered; see
 * is_echo for functions 5 and 6, whose answer does.
 *
 * A port that is lost (an adapter pulled) is opened again with growing pauses.
 */
#ifndef FIELDGATE_MB_LINE_H
#define FIELDGATE_MB_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcommon/serial.h"
#include "services/modbusd/mb_conn.h"
#include "services/modbusd/mb_serial.h"

enum { MB_TURNAROUND_US = 100000 };

struct mb_line_config {
    char device[SERIAL_DEVICE_SIZE]; /* "": there is no such port (any more), nor settings */
    struct serial_settings settings;
    bool ascii;
    uint32_t frame_interval_ms, char_interval_ms; /* 0: as the standard has it */
};

/* Since the start. */
struct mb_line_stats {
    uint64_t sent, valid, invalid, checksum, exceptions, timeouts;
    uint64_t noise;   /* bytes that were no part of an answer, echo not among them */
    uint64_t foreign; /* whole frames of other units */
    const char *mode; /* as the API has it: RTU, ASCII */
    bool has_uart;    /* the driver counts these: */
    uint64_t breaks, frame_errors, parity_errors, overruns;
};

enum mb_line_phase {
    MB_LINE_IDLE,
    MB_LINE_QUEUED,  /* waits for silence */
    MB_LINE_SENDING, /* until the last bit has left */
    MB_LINE_AWAITING,
};

enum mb_line_echo { MB_ECHO_UNKNOWN, MB_ECHO_NONE, MB_ECHO_ALWAYS };

/* All of it is private. */
struct mb_line {
    struct mb_conn conn;
    struct mb_line_config cfg;
    const struct mb_framing *framing;
    uint64_t char_ns, frame_us, gap_us;
    enum mb_line_phase phase;
    enum mb_line_echo echo;
    bool heard_echo; /* of this request */
    bool begun;      /* an answer may have */
    bool has_uart;
    bool failed;       /* writing did */
    uint64_t quiet_us; /* nothing may be sent before */
    uint64_t gone_us;  /* the last bit has left */
    uint64_t heard_us; /* the last byte */
    uint64_t timeout_us;
    struct mb_line_stats stats;
    uint16_t n_out, n_written;
    uint8_t out[MB_SERIAL_MAX];
};

/* Stopped; opens when started. */
void mb_line_init(struct mb_line *line, struct loop *loop, const struct mb_line_config *cfg,
                  const struct mb_conn_events *events, struct mb_conn_counters *counters);
/*
 * Other settings, from the next request on. One in flight ends as MB_DONE_LOST
 * (by us) if the port is to be opened anew.
 */
void mb_line_configure(struct mb_line *line, const struct mb_line_config *cfg);
/* Asks the driver, which does not block. */
void mb_line_get_stats(const struct mb_line *line, struct mb_line_stats *ret_stats);

#endif
