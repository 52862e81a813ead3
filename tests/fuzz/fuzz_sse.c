/*
 * Whatever a device streams: the same events come of it in one piece and byte
 * by byte, and what is shown of them steers no terminal.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/str.h"
#include "services/fieldgatectl/safe.h"
#include "services/fieldgatectl/sse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int
gather(void *arg, const char *data, size_t len)
{
    struct buf *b = arg;
    MUST(data[len] == '\0' && len <= SSE_EVENT_MAX);
    buf_put_u32(b, (uint32_t)len);
    safe_line(b, data, len, false);
    return 0;
}

static int
parse(const char *bytes, size_t n, size_t piece, struct buf *b)
{
    struct sse s;
    int r = 0;
    sse_init(&s);
    for (size_t at = 0; at < n && r == 0; at += piece)
        r = sse_put(&s, bytes + at, piece < n - at ? piece : n - at, gather, b);
    sse_done(&s);
    return r;
}

static void
check_line(const char *text, size_t len)
{
    MUST(utf8_valid(text, len));
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        MUST(c >= 0x20 && c != 0x7F);
        MUST(!(c == 0xC2 && (unsigned char)text[i + 1] < 0xA0));
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf whole, bytewise, line;
    const char *text = (const char *)data;
    buf_init(&whole, 64 << 20);
    buf_init(&bytewise, 64 << 20);
    buf_init(&line, 64 << 20);
    int r = parse(text, size, size + 1, &whole);
    MUST(r == parse(text, size, 1, &bytewise));
    MUST(whole.len == bytewise.len);
    MUST(whole.len == 0 || memcmp(whole.data, bytewise.data, whole.len) == 0);
    safe_line(&line, text, size, false);
    check_line(line.data, line.len);
    buf_reset(&line);
    safe_line(&line, text, size, true);
    for (size_t i = 0; i < line.len; i++)
        MUST(line.data[i] >= 0x20 && line.data[i] < 0x7F);
    buf_done(&whole);
    buf_done(&bytewise);
    buf_done(&line);
    return 0;
}
