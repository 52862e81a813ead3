/*
 * Fault protection, status terms and events: the real engine, connection and
 * sockets, on a clock that moves only when nobody has anything left to do.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "libcommon/base.h"
#include "services/modbusd/mb_engine.h"
#include "tests/unit/mb_clock.h"
#include "tests/unit/mb_fake.h"

enum { SECOND = 1000000, STEP_US = 5000, TAGS_MAX = 8, EVENTS_MAX = 64 };

static struct {
    struct loop *loop;
    struct fake fake;
    struct mb_engine *engine;
    struct tag_sample last[TAGS_MAX];
    uint8_t wrote[MB_PDU_MAX]; /* the last writing request, also one that was not answered */
    size_t n_wrote;
    unsigned n_writes;
    bool mute;
    uint8_t exception;
    uint16_t exception_at; /* only there; 0: everywhere */
    struct mb_direct_result result;
    unsigned n_results;
    struct {
        enum mb_event_kind kind;
        uint8_t quality, exception;
        unsigned n_left_out;
    } events[EVENTS_MAX];
    unsigned n_events;
    unsigned limit; /* requests in flight */
    int status;
} w;

static void
answer(struct fake_request *r)
{
    if (mb_func_writes(r->pdu[0])) {
        memcpy(w.wrote, r->pdu, r->n);
        w.n_wrote = r->n;
        w.n_writes++;
    }
    if (w.exception && (w.exception_at == 0 || get_u16(r->pdu + 1) == w.exception_at))
        fake_answer_exception(r, w.exception);
    else if (!w.mute)
        fake_answer_good(r);
}

static void
on_sample(void *arg, const struct tag_sample *s)
{
    (void)arg;
    if (s->no == MB_STATUS_TAG_BASE + 1)
        w.status = (int)s->value.i;
    else if (s->no < TAGS_MAX)
        w.last[s->no] = *s;
}

static void
on_changed(void *arg)
{
    (void)arg;
}

static void
on_event(void *arg, const struct mb_event *e)
{
    (void)arg;
    assert_true(w.n_events < EVENTS_MAX);
    assert_string_equal(e->device, "pump");
    if (e->kind == MB_EVENT_COMMAND_FAIL)
        assert_string_equal(e->command, "command");
    w.events[w.n_events].kind = e->kind;
    w.events[w.n_events].quality = e->quality;
    w.events[w.n_events].exception = e->exception;
    w.events[w.n_events++].n_left_out = e->n_left_out;
}

static void
on_direct(void *arg, const struct mb_direct_result *r)
{
    (void)arg;
    w.result = *r;
    w.n_results++;
}

static void
set_iface(uint32_t retries, uint32_t timeout_ms, bool events)
{
    struct mb_iface_config iface = { .provider = "modbus_tcp_master",
                                     .retry_count = retries,
                                     .timeout_ms = timeout_ms,
                                     .dev_fail_event = events,
                                     .cmd_fail_event = events };
    mb_engine_set_iface(w.engine, &iface);
}

static int
set_up(void **state)
{
    (void)state;
    struct mb_engine_hooks hooks = { on_sample, on_changed, on_event, NULL };
    memset(&w, 0, sizeof(w));
    clock_us = SECOND;
    w.limit = 1;
    if (loop_new(&w.loop) < 0 || fake_open(&w.fake, w.loop, answer, NULL) < 0 ||
        mb_engine_new(w.loop, &hooks, &w.engine) < 0)
        return -1;
    set_iface(0, 200, true);
    return 0;
}

static int
tear_down(void **state)
{
    (void)state;
    mb_engine_free(w.engine);
    fake_close(&w.fake);
    loop_free(w.loop);
    return 0;
}

static void
run_for(uint64_t us)
{
    clock_run(w.loop, us, STEP_US);
}

/* ---- commands ---- */

static struct mb_tag_config tags[TAGS_MAX];

/* Tags 'id' and 'id' + 1, uint16 at its first and second register. */
static struct mb_cmd_config
command(uint32_t id, uint8_t func, uint16_t addr)
{
    unsigned n = func == MB_WRITE_REG ? 1 : 2;
    for (unsigned i = 0; i < n; i++)
        tags[id + i] = (struct mb_tag_config){ .id = id + i,
                                               .type = MB_UINT16,
                                               .access = TAG_ACCESS_READ | TAG_ACCESS_WRITE,
                                               .offset = (uint16_t)(2 * i),
                                               .name = "value",
                                               .unit = "" };
    return (struct mb_cmd_config){ .id = id,
                                   .name = "command",
                                   .enable = true,
                                   .func = func,
                                   .read_addr = addr,
                                   .read_n = (uint16_t)n,
                                   .write_addr = addr,
                                   .write_n = (uint16_t)n,
                                   .interval_ms = 1000,
                                   .fault_tout_s = 5,
                                   .tags = &tags[id],
                                   .n_tags = n };
}

static void
set_device(const struct mb_cmd_config *cmds, size_t n, bool enable)
{
    struct mb_dev_config cfg = { .id = 1,
                                 .enable = enable,
                                 .name = "pump",
                                 .unit = 1,
                                 .addr = "127.0.0.1",
                                 .port = w.fake.port,
                                 .limit = w.limit,
                                 .cmds = cmds,
                                 .n_cmds = n };
    assert_int_equal(mb_engine_set_device(w.engine, &cfg), 0);
    assert_int_equal(mb_engine_publish_changes(w.engine), 0);
}

static enum mb_direct_status
write_tag(uint32_t no, uint16_t value)
{
    struct tag_value v = { .type = TAG_UINT16, .u = value };
    unsigned before = w.n_results;
    if (!mb_engine_write(w.engine, no, &v, clock_us + SECOND, on_direct, NULL, &w.result))
        return w.result.status;
    while (w.n_results == before)
        run_for(STEP_US);
    return w.result.status;
}

static void
assert_wrote(unsigned n, const char *pdu, size_t size)
{
    assert_int_equal(w.n_writes, n);
    assert_int_equal(w.n_wrote, size);
    assert_memory_equal(w.wrote, pdu, size);
}

/* ---- fault protection ---- */

static void
nothing_is_written_without_a_reason(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 16, 9);
    c.fault_func = MB_ZERO;
    set_device(&c, 1, true);
    run_for(30 * SECOND);
    assert_int_equal(w.n_writes, 0); /* nobody has written since the start */
    w.exception = 3;
    assert_int_equal(write_tag(1, 7), MB_DIRECT_EXCEPTION);
    w.exception = 0;
    run_for(30 * SECOND);
    assert_int_equal(w.n_writes, 1); /* the device did not take it */
    c.fault_func = MB_KEEP;
    set_device(&c, 1, true);
    assert_int_equal(write_tag(1, 7), MB_DIRECT_OK);
    run_for(30 * SECOND);
    assert_int_equal(w.n_writes, 2);
}

static void
the_data_of_the_user_follow_when_nobody_writes(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 16, 9);
    struct mb_engine_stats stats;
    c.fault_func = MB_USER_DATA;
    c.fault_data = "00 0A ff 0B";
    set_device(&c, 1, true);
    for (int i = 0; i < 4; i++) { /* each write begins the time anew, of any tag */
        run_for(4 * SECOND);
        assert_int_equal(write_tag(1 + i % 2, 7), MB_DIRECT_OK);
    }
    run_for(4900000);
    assert_int_equal(w.n_writes, 4);
    assert_int_equal(w.last[1].quality, TAG_GOOD);
    run_for(200000);
    assert_wrote(5, "\x10\0\x09\0\2\4\0\x0A\xFF\x0B", 10);
    assert_int_equal(w.last[1].quality, TAG_UNCERTAIN);
    assert_int_equal(w.last[1].value.u, 0x0A);
    assert_int_equal(w.last[2].value.u, 0xFF0B);
    run_for(60 * SECOND);
    assert_int_equal(w.n_writes, 5); /* once */
    assert_int_equal(write_tag(1, 8), MB_DIRECT_OK);
    assert_int_equal(w.last[1].quality, TAG_GOOD);
    assert_int_equal(w.last[2].quality, TAG_UNCERTAIN);
    run_for(6 * SECOND);
    assert_int_equal(w.n_writes, 7); /* and again */
    mb_engine_get_stats(w.engine, &stats);
    assert_int_equal(stats.fault_writes, 2);
}

static void
a_cyclic_command_repeats_them_until_somebody_writes(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 16, 9);
    c.cyclic = true;
    c.fault_func = MB_ZERO;
    set_device(&c, 1, true);
    assert_int_equal(write_tag(1, 7), MB_DIRECT_OK);
    run_for(5100000); /* the second tag was never written: nothing is repeated before */
    assert_wrote(2, "\x10\0\x09\0\2\4\0\0\0\0", 10);
    run_for(10 * SECOND);
    assert_in_range(w.n_writes, 11, 13);
    assert_memory_equal(w.wrote, "\x10\0\x09\0\2\4\0\0\0\0", 10);
    assert_int_equal(w.last[2].quality, TAG_UNCERTAIN);
    assert_int_equal(write_tag(1, 7), MB_DIRECT_OK);
    run_for(2 * SECOND);
    assert_memory_equal(w.wrote, "\x10\0\x09\0\2\4\0\7\0\0", 10);
    assert_int_equal(w.last[1].quality, TAG_GOOD);
    assert_int_equal(w.last[2].quality, TAG_UNCERTAIN);
}

static void
a_device_that_is_away_gets_them_when_it_is_back(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 16, 9);
    c.fault_func = MB_ZERO;
    set_device(&c, 1, true);
    assert_int_equal(write_tag(1, 7), MB_DIRECT_OK);
    w.mute = true;
    run_for(10 * SECOND);
    assert_in_range(w.n_writes, 4, 7); /* tried at each interval */
    assert_int_equal(w.last[1].quality, TAG_BAD_TIMEOUT);
    w.mute = false;
    w.exception = 6;
    run_for(3 * SECOND);
    assert_int_equal(w.last[1].quality, TAG_BAD_EXCEPTION);
    w.exception = 0;
    run_for(3 * SECOND);
    assert_memory_equal(w.wrote, "\x10\0\x09\0\2\4\0\0\0\0", 10);
    assert_int_equal(w.last[1].quality, TAG_UNCERTAIN);
    unsigned n = w.n_writes;
    run_for(10 * SECOND);
    assert_int_equal(w.n_writes, n);
}

static void
a_write_that_comes_meanwhile_takes_their_place(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 16, 9);
    c.fault_func = MB_ZERO;
    set_device(&c, 1, true);
    assert_int_equal(write_tag(1, 7), MB_DIRECT_OK);
    w.mute = true;
    run_for(7 * SECOND);
    w.mute = false;
    assert_int_equal(write_tag(1, 8), MB_DIRECT_OK);
    unsigned n = w.n_writes;
    run_for(4 * SECOND);
    assert_int_equal(w.n_writes, n);
    assert_int_equal(w.last[1].value.u, 8);
    assert_int_equal(w.last[1].quality, TAG_GOOD);
    /* One that may have been taken counts as taken. */
    w.mute = true;
    assert_int_equal(write_tag(1, 9), MB_DIRECT_TIMEOUT);
    w.mute = false;
    n = w.n_writes;
    run_for(4500000);
    assert_int_equal(w.n_writes, n);
    run_for(SECOND);
    assert_wrote(n + 1, "\x10\0\x09\0\2\4\0\0\0\0", 10);
}

static void
a_write_waits_for_fault_data_under_way(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 16, 9);
    struct tag_value v = { .type = TAG_UINT16, .u = 8 };
    c.fault_func = MB_ZERO;
    w.limit = 2;
    set_device(&c, 1, true);
    assert_int_equal(write_tag(1, 7), MB_DIRECT_OK);
    w.mute = true;
    while (w.n_writes < 2)
        run_for(STEP_US);
    w.mute = false;
    assert_true(
        mb_engine_write(w.engine, 1, &v, clock_us + SECOND, on_direct, NULL, &w.result));
    run_for(150000);
    assert_wrote(2, "\x10\0\x09\0\2\4\0\0\0\0", 10);
    run_for(4 * SECOND);
    assert_memory_equal(w.wrote, "\x10\0\x09\0\1\2\0\x08", 8);
    assert_int_equal(w.last[1].value.u, 8);
    assert_int_equal(w.last[1].quality, TAG_GOOD);
}

static void
fault_data_under_way_are_awaited_when_reads_are_grouped_anew(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 16, 9);
    struct mb_iface_config iface = { .provider = "modbus_tcp_master",
                                     .timeout_ms = 3000,
                                     .merge = { 1, 2 } };
    struct tag_value v = { .type = TAG_UINT16, .u = 8 };
    c.fault_func = MB_ZERO;
    w.limit = 2;
    mb_engine_set_iface(w.engine, &iface);
    set_device(&c, 1, true);
    assert_int_equal(write_tag(1, 7), MB_DIRECT_OK);
    run_for(4500000);
    w.mute = true; /* the answer to a write is late, and fault protection begins meanwhile */
    assert_true(
        mb_engine_write(w.engine, 1, &v, clock_us + SECOND, on_direct, NULL, &w.result));
    while (w.n_writes < 3)
        run_for(STEP_US);
    iface.merge.gap = 2;
    mb_engine_set_iface(w.engine, &iface);
    run_for(SECOND);
    assert_wrote(3, "\x10\0\x09\0\2\4\0\0\0\0", 10);
    run_for(SECOND + 500000); /* the write has timed out: it counts as done */
    w.mute = false;
    run_for(SECOND);
    assert_int_equal(write_tag(1, 9), MB_DIRECT_OK);
    assert_int_equal(w.last[1].value.u, 9);
}

static void
a_write_on_change_is_good_again_with_its_connection(void **state)
{
    (void)state;
    struct mb_cmd_config c[] = { command(1, 16, 9), command(3, 3, 20), command(5, 23, 30) };
    uint16_t port = w.fake.port;
    set_device(c, 3, true);
    assert_int_equal(write_tag(1, 7), MB_DIRECT_OK);
    run_for(SECOND);
    assert_int_equal(w.status, MB_STATUS_OK);
    fake_close(&w.fake);
    run_for(5 * SECOND);
    assert_int_equal(w.last[1].quality, TAG_BAD_CONNECTION);
    assert_int_equal(w.status, MB_STATUS_NO_CONNECTION);
    w.fake.port = port;
    assert_int_equal(fake_open(&w.fake, w.loop, answer, NULL), 0);
    run_for(10 * SECOND);
    assert_int_equal(w.last[3].quality, TAG_GOOD);
    assert_int_equal(w.status, MB_STATUS_OK);
    assert_int_equal(w.last[1].quality, TAG_GOOD);
    assert_int_equal(w.last[1].value.u, 7);
    assert_int_equal(w.n_writes, 1);
}

static void
every_function_that_writes_is_protected(void **state)
{
    (void)state;
    static const struct {
        uint8_t func;
        const char *data, *pdu;
        size_t size;
    } table[] = {
        { 5, "01", "\5\0\x09\xFF\0", 5 },
        { 6, "12 34", "\6\0\x09\x12\x34", 5 },
        { 15, "fF", "\xF\0\x09\0\2\1\3", 7 }, /* bits past the quantity are zero */
        { 23, "AA BB CC DD", "\x17\0\x09\0\2\0\x09\0\2\4\xAA\xBB\xCC\xDD", 14 },
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        bool bits = mb_func_bits(table[i].func);
        struct mb_cmd_config c = command(1, table[i].func, 9);
        struct tag_value v = { .type = bits ? TAG_BOOLEAN : TAG_UINT16, .u = bits };
        c.fault_func = MB_USER_DATA;
        c.fault_data = table[i].data;
        c.n_tags = 1;
        tags[1].type = bits ? MB_BOOLEAN : MB_UINT16;
        c.write_n = table[i].func == 5 ? 1 : c.write_n;
        set_device(&c, 1, true);
        w.n_writes = 0;
        assert_true(
            mb_engine_write(w.engine, 1, &v, clock_us + SECOND, on_direct, NULL, &w.result));
        run_for(6 * SECOND);
        assert_wrote(2, table[i].pdu, table[i].size);
        mb_engine_remove_device(w.engine, 1);
    }
}

static void
a_change_of_the_configuration_keeps_the_time(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 16, 9);
    c.fault_func = MB_ZERO;
    set_device(&c, 1, true);
    assert_int_equal(write_tag(1, 7), MB_DIRECT_OK);
    run_for(3 * SECOND);
    c.fault_tout_s = 10;
    set_device(&c, 1, true);
    run_for(6 * SECOND);
    assert_int_equal(w.n_writes, 1);
    run_for(2 * SECOND);
    assert_int_equal(w.n_writes, 2);
    /* The device has them: a change is no reason to write them again. */
    c.interval_ms = 500;
    set_device(&c, 1, true);
    run_for(20 * SECOND);
    assert_int_equal(w.n_writes, 2);
    assert_int_equal(w.last[1].quality, TAG_UNCERTAIN);
    /* Switched off it waits; then its source has the whole time again. */
    assert_int_equal(write_tag(1, 7), MB_DIRECT_OK);
    set_device(&c, 1, false);
    run_for(20 * SECOND);
    set_device(&c, 1, true);
    run_for(9 * SECOND);
    assert_int_equal(w.n_writes, 3);
    run_for(2 * SECOND);
    assert_int_equal(w.n_writes, 4);
    /* Switched on for what was written before. */
    c.fault_func = MB_KEEP;
    set_device(&c, 1, true);
    assert_int_equal(write_tag(1, 7), MB_DIRECT_OK);
    run_for(20 * SECOND);
    c.fault_func = MB_USER_DATA;
    c.fault_data = "00 01 00 01";
    set_device(&c, 1, true);
    run_for(11 * SECOND);
    assert_wrote(6, "\x10\0\x09\0\2\4\0\1\0\1", 10);
}

/* ---- status terms ---- */

static void
a_tag_without_an_answer_shows_its_status_term(void **state)
{
    (void)state;
    static const struct {
        enum mb_instead func;
        const char *data;
        uint64_t value;
    } table[] = { { MB_KEEP, NULL, 9 },
                  { MB_ZERO, NULL, 0 },
                  { MB_USER_DATA, "80 00 7F 01", 0x8000 } };
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        struct mb_cmd_config c = command(1, 3, 9);
        c.status_func = table[i].func;
        c.status_data = table[i].data;
        set_device(&c, 1, true);
        run_for(3 * SECOND);
        assert_int_equal(w.last[1].quality, TAG_GOOD);
        assert_int_equal(w.last[1].value.u, 9);
        w.mute = true;
        run_for(2 * SECOND);
        assert_int_equal(w.last[1].quality, TAG_BAD_TIMEOUT);
        assert_int_equal(w.last[1].value.u, table[i].value);
        w.mute = false;
        w.exception = 2;
        run_for(2 * SECOND);
        assert_int_equal(w.last[1].quality, TAG_BAD_EXCEPTION);
        assert_int_equal(w.last[1].value.u, table[i].value);
        w.exception = 0;
        run_for(2 * SECOND);
        assert_int_equal(w.last[1].quality, TAG_GOOD);
        assert_int_equal(w.last[1].value.u, 9);
        mb_engine_remove_device(w.engine, 1);
    }
}

static void
a_status_term_is_taken_like_an_answer(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 1, 0);
    c.read_n = 12;
    c.status_func = MB_USER_DATA;
    c.status_data = "00 08";
    tags[1].type = tags[2].type = MB_BOOLEAN;
    tags[1].offset = 11;
    w.mute = true; /* from the start: there is no last value */
    set_device(&c, 1, true);
    run_for(2 * SECOND);
    assert_int_equal(w.last[1].quality, TAG_BAD_TIMEOUT);
    assert_true(w.last[1].value.b);
    assert_false(w.last[2].value.b);
    mb_engine_remove_device(w.engine, 1);
    c = command(1, 4, 0);
    c.status_func = MB_ZERO;
    c.scaling = (struct mb_scaling){ .on = true, .slope = 2, .offset = -40 };
    set_device(&c, 1, true);
    run_for(2 * SECOND);
    assert_true(w.last[1].value.d == -40);
}

/* ---- events ---- */

static void
assert_events(unsigned n, enum mb_event_kind kind, uint8_t quality)
{
    assert_int_equal(w.n_events, n);
    if (n == 0)
        return;
    assert_int_equal(w.events[n - 1].kind, kind);
    assert_int_equal(w.events[n - 1].quality, quality);
}

static void
a_device_that_fails_and_comes_back_is_told_once_each(void **state)
{
    (void)state;
    struct mb_cmd_config c[2] = { command(1, 3, 9), command(3, 3, 90) };
    set_iface(2, 200, true);
    set_device(c, 2, true);
    run_for(10 * SECOND);
    assert_events(0, 0, 0);
    w.mute = true;
    run_for(400000);
    w.mute = false;
    run_for(10 * SECOND);
    assert_events(0, 0, 0); /* it answered a retry */
    w.mute = true;
    run_for(60 * SECOND);
    assert_events(1, MB_EVENT_DEVICE_FAIL, TAG_BAD_TIMEOUT);
    w.mute = false;
    run_for(60 * SECOND);
    assert_events(2, MB_EVENT_DEVICE_BACK, TAG_GOOD);
    uint16_t port = w.fake.port;
    fake_close(&w.fake);
    run_for(60 * SECOND);
    assert_events(3, MB_EVENT_DEVICE_FAIL, TAG_BAD_CONNECTION);
    w.fake.port = port;
    assert_int_equal(fake_open(&w.fake, w.loop, answer, NULL), 0);
    run_for(60 * SECOND);
    assert_events(4, MB_EVENT_DEVICE_BACK, TAG_GOOD);
}

static void
a_command_that_fails_while_its_device_answers_is_told(void **state)
{
    (void)state;
    struct mb_cmd_config c[2] = { command(1, 3, 9), command(3, 3, 90) };
    set_device(c, 2, true);
    run_for(5 * SECOND);
    w.exception = 2;
    w.exception_at = 90;
    run_for(30 * SECOND);
    assert_events(1, MB_EVENT_COMMAND_FAIL, TAG_BAD_EXCEPTION);
    assert_int_equal(w.events[0].exception, 2);
    w.exception = 0;
    run_for(5 * SECOND);
    w.exception = 2;
    run_for(5 * SECOND);
    assert_events(2, MB_EVENT_COMMAND_FAIL, TAG_BAD_EXCEPTION);
    /* When its device fails too, that is what is told. */
    w.mute = true;
    w.exception_at = 1;
    run_for(30 * SECOND);
    assert_events(3, MB_EVENT_DEVICE_FAIL, TAG_BAD_TIMEOUT);
}

static void
what_is_switched_off_is_not_told(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 3, 9);
    set_iface(0, 200, false);
    set_device(&c, 1, true);
    w.exception = 2;
    run_for(10 * SECOND);
    w.mute = true;
    w.exception = 0;
    run_for(10 * SECOND);
    assert_events(0, 0, 0);
    set_iface(0, 200, true);
    run_for(10 * SECOND);
    assert_events(0, 0, 0); /* it began before */
    w.mute = false;
    run_for(10 * SECOND);
    assert_events(1, MB_EVENT_DEVICE_BACK, TAG_GOOD);
}

static void
a_device_that_flaps_is_told_six_times_in_ten_minutes(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 3, 9);
    set_device(&c, 1, true);
    for (unsigned i = 0; i < 50; i++) {
        w.mute = i % 2 == 0;
        run_for(10 * SECOND);
    }
    assert_events(6, MB_EVENT_DEVICE_BACK, TAG_GOOD);
    w.mute = true; /* what lasts is told in the end */
    run_for(120 * SECOND);
    assert_events(7, MB_EVENT_DEVICE_FAIL, TAG_BAD_TIMEOUT);
    assert_int_equal(w.events[6].n_left_out, 44);
}

int
main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(nothing_is_written_without_a_reason),
        T(the_data_of_the_user_follow_when_nobody_writes),
        T(a_cyclic_command_repeats_them_until_somebody_writes),
        T(a_device_that_is_away_gets_them_when_it_is_back),
        T(a_write_that_comes_meanwhile_takes_their_place),
        T(a_write_waits_for_fault_data_under_way),
        T(fault_data_under_way_are_awaited_when_reads_are_grouped_anew),
        T(a_write_on_change_is_good_again_with_its_connection),
        T(every_function_that_writes_is_protected),
        T(a_change_of_the_configuration_keeps_the_time),
        T(a_tag_without_an_answer_shows_its_status_term),
        T(a_status_term_is_taken_like_an_answer),
        T(a_device_that_fails_and_comes_back_is_told_once_each),
        T(a_command_that_fails_while_its_device_answers_is_told),
        T(what_is_switched_off_is_not_told),
        T(a_device_that_flaps_is_told_six_times_in_ten_minutes),
    };
#undef T
    return cmocka_run_group_tests(tests, NULL, NULL);
}
