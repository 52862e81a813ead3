/* ASCII frames (Modbus over Serial Line V1.02, 2.5.2): ":", hexadecimal digits, CR LF. */
#include <string.h>

#include "libcommon/base.h"
#include "services/modbusd/mb_serial.h"
#include "libcommon/banned.h"

enum { FRAME_MIN = 3 }; /* unit, function, LRC */

uint8_t
mb_lrc(const uint8_t *bytes, size_t n)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum = (uint8_t)(sum + bytes[i]);
    return (uint8_t)-sum;
}

/* Returns where the next goes. */
static uint8_t *
put_hex(uint8_t *out, uint8_t byte)
{
    static const char digits[] = "0123456789ABCDEF";
    out[0] = (uint8_t)digits[byte >> 4];
    out[1] = (uint8_t)digits[byte & 15];
    return out + 2;
}

static size_t
encode(uint8_t unit, const uint8_t *pdu, size_t n, uint8_t out[MB_SERIAL_MAX])
{
    MUST(n >= 1 && n <= MB_PDU_MAX);
    uint8_t *at = out;
    *at++ = ':';
    at = put_hex(at, unit);
    for (size_t i = 0; i < n; i++)
        at = put_hex(at, pdu[i]);
    at = put_hex(at, (uint8_t)(mb_lrc(pdu, n) - unit));
    *at++ = '\r';
    *at++ = '\n';
    return (size_t)(at - out);
}

/* Small letters are not in the standard; devices send them. -1: no digit. */
static int
hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Two digits at 'text'; -1: they are none. */
static int
byte_of(const uint8_t *text)
{
    int high = hex_value(text[0]), low = hex_value(text[1]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

/* What is between colon and CR LF. */
static enum mb_seen
decode(const struct mb_awaited *a, const uint8_t *text, size_t n,
       struct mb_serial_frame *ret_frame)
{
    uint8_t bytes[1 + MB_PDU_MAX + 1];
    size_t n_bytes = n / 2;
    if (n < 2 || byte_of(text) != a->unit)
        return MB_SEEN_FOREIGN;
    if (n % 2 || n_bytes < FRAME_MIN || n_bytes > sizeof(bytes))
        return MB_SEEN_CORRUPT;
    for (size_t i = 0; i < n_bytes; i++) {
        int byte = byte_of(text + 2 * i);
        if (byte < 0)
            return MB_SEEN_CORRUPT;
        bytes[i] = (uint8_t)byte;
    }
    if (mb_lrc(bytes, n_bytes) != 0)
        return MB_SEEN_CORRUPT;
    ret_frame->n = (uint16_t)(n_bytes - 2);
    memcpy(ret_frame->pdu, bytes + 1, ret_frame->n);
    return MB_SEEN_FRAME;
}

/* Where the frame that begins at 'from' (a colon) ends: at LF, the next colon, or 'n'. */
static size_t
frame_end(const uint8_t *bytes, size_t from, size_t n)
{
    size_t at = from + 1;
    while (at < n && bytes[at] != '\n' && bytes[at] != ':')
        at++;
    return at;
}

/* Does it look like the beginning of an answer of the unit: all there is of it fits? */
static bool
may_be_ours(const struct mb_awaited *a, const uint8_t *text, size_t n)
{
    uint8_t want[2];
    (void)put_hex(want, a->unit); /* nothing goes after it */
    for (size_t i = 0; i < n && i < 2; i++)
        if (hex_value(text[i]) != hex_value(want[i]))
            return false;
    return true;
}

/* A colon begins a frame anew, wherever it comes; the last word is that of the last frame. */
static enum mb_seen
look(const struct mb_awaited *a, const uint8_t *bytes, size_t n, bool quiet,
     struct mb_serial_frame *ret_frame)
{
    enum mb_seen seen = MB_SEEN_NOTHING;
    for (size_t at = 0; at < n; at++) {
        if (bytes[at] != ':')
            continue;
        const uint8_t *text = bytes + at + 1;
        size_t end = frame_end(bytes, at, n), len = end - at - 1;
        if (end < n && bytes[end] == '\n' && len > 0 && bytes[end - 1] == '\r') {
            seen = decode(a, text, len - 1, ret_frame);
            if (seen == MB_SEEN_FRAME)
                return seen;
        } else if (len > 0 && may_be_ours(a, text, len)) {
            seen = end == n && !quiet ? MB_SEEN_PART : MB_SEEN_CORRUPT;
        } else if (end == n) {
            seen = quiet ? MB_SEEN_NOTHING : MB_SEEN_PART;
        }
    }
    return seen;
}

const struct mb_framing mb_ascii = { "ASCII", encode, look };
