/*
 * See csv.h.
 */
#include "services/auditd/csv.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/clock.h"
#include "libcommon/csv.h"
#include "services/auditd/trail.h"

#include "libcommon/banned.h"

void
csv_put_header(struct buf *b)
{
    buf_puts(b, "id,eventId,category,name,severity,message,detail,source,sourceIp,daemon,"
                "requestId,createdAt\r\n");
}

void
csv_put_record(struct buf *b, const struct trail_record *r)
{
    const struct trail_event *event = trail_event_of(r);
    char id[24], at[CLOCK_TEXT_SIZE], request_id[TRAIL_REQUEST_ID_SIZE];
    (void)snprintf(id, sizeof(id), "%" PRIu64, r->id); /* fits */
    clock_format(r->at_us, 9, at);
    trail_request_id(r, request_id);
#define TEXT(s)                                                                                \
    {                                                                                          \
        (s), strlen(s)                                                                         \
    }
    const struct trail_text cells[] = {
        TEXT(id),
        TEXT(event->id),
        TEXT(event->category),
        trail_name(r),
        TEXT(event->severity),
        r->message,
        r->detail,
        r->source,
        r->addr,
        r->daemon,
        TEXT(request_id),
        TEXT(at),
    };
#undef TEXT
    for (size_t i = 0; i < ARRAY_LEN(cells); i++)
        csv_put_cell(b, i == 0, cells[i].p, cells[i].len);
    csv_end_line(b);
}
