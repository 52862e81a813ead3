/*
 * A serial line of the bench: two ptys and the wire between them, on which
 * characters take as long as on a real one. Whoever opens the near end (a
 * Modbus master) and the far end (a device) may come and go.
 */
#ifndef FIELDGATE_IOD_LINE_H
#define FIELDGATE_IOD_LINE_H

#include <stdint.h>

#include "libcommon/loop.h"
#include "libcommon/serial.h"

struct line;

/*
 * Makes the ptys and the symbolic links to them, in place of what had these
 * names, and carries characters from now on. 0 or -errno. Owned by the caller.
 */
int line_new(struct loop *loop, const char *near_link, const char *far_link,
             const struct serial_settings *settings, struct line **ret_line);
/* Removes the links, too; NULL does nothing. Who has an end open sees it hung up. */
void line_free(struct line *line);

/* From the next character on, on both ways. */
void line_set(struct line *line, const struct serial_settings *settings);

/* Characters on both ways since line_new. */
struct line_stats {
    uint64_t carried;
    uint64_t lost; /* nobody had the end open, or did not read */
};
void line_get_stats(const struct line *line, struct line_stats *ret_stats);

#endif
