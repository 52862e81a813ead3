/*
 * The schedule, what becomes of answers, and changes while it runs: the real
 * engine, connections and sockets on a clock that moves only when nobody has
 * anything left to do.
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

enum { WAIT_US = 20000000, STEP_US = 1000, TAGS_MAX = 64, UNITS = 256 };

struct world {
    struct loop *loop;
    struct fake fake;
    struct mb_engine *engine;
    struct tag_sample last[TAGS_MAX]; /* by number */
    unsigned n_samples[TAGS_MAX];
    int status[TAGS_MAX]; /* last status by device, -1: none */
    unsigned n_status;    /* times that one was told */
    unsigned n_changed;
    unsigned asked[UNITS]; /* requests by unit */
    int mute;              /* a unit that does not answer, or -1 */
    uint8_t exception;     /* everybody refuses with this code, 0: nobody */
    uint16_t exception_at; /* only there; 0: everywhere */
    uint8_t wrote[MB_PDU_MAX];
    size_t n_wrote;
    unsigned n_writes;
    struct mb_direct_result result;
    unsigned n_results;
};
static struct world w;

static void
answer(struct fake_request *r)
{
    w.asked[r->unit]++;
    if (!mb_func_reads(r->pdu[0])) {
        memcpy(w.wrote, r->pdu, r->n);
        w.n_wrote = r->n;
        w.n_writes++;
    }
    if (w.exception && (w.exception_at == 0 || get_u16(r->pdu + 1) == w.exception_at))
        fake_answer_exception(r, w.exception);
    else if (r->unit != w.mute)
        fake_answer_good(r);
}

static void
on_sample(void *arg, const struct tag_sample *s)
{
    (void)arg;
    if (s->no >= MB_STATUS_TAG_BASE) {
        w.status[s->no - MB_STATUS_TAG_BASE] = (int)s->value.i;
        w.n_status++;
        return;
    }
    assert_true(s->no < TAGS_MAX);
    w.last[s->no] = *s;
    w.n_samples[s->no]++;
}

static void
on_changed(void *arg)
{
    (void)arg;
    w.n_changed++;
}

static void
on_event(void *arg, const struct mb_event *event)
{
    (void)arg;
    (void)event;
}

static void
on_direct(void *arg, const struct mb_direct_result *r)
{
    (void)arg;
    w.result = *r;
    w.n_results++;
}

static int
set_up(void **state)
{
    (void)state;
    memset(&w, 0, sizeof(w));
    memset(w.status, 0xFF, sizeof(w.status));
    w.mute = -1;
    struct mb_engine_hooks hooks = { on_sample, on_changed, on_event, &w };
    if (loop_new(&w.loop) < 0 || fake_open(&w.fake, w.loop, answer, &w) < 0)
        return -1;
    return mb_engine_new(w.loop, &hooks, &w.engine);
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

#define UNTIL(cond)                                                                            \
    do {                                                                                       \
        uint64_t until_us_ = clock_us + WAIT_US;                                               \
        while (!(cond)) {                                                                      \
            assert_true(clock_us < until_us_);                                                 \
            clock_step(w.loop, STEP_US);                                                       \
        }                                                                                      \
    } while (0)

static void
run_for(uint64_t us)
{
    clock_run(w.loop, us, STEP_US);
}

static void
set_iface(uint32_t retries, uint32_t timeout_ms)
{
    struct mb_iface_config iface = { .provider = "modbus_tcp_master",
                                     .retry_count = retries,
                                     .timeout_ms = timeout_ms };
    mb_engine_set_iface(w.engine, &iface);
}

/* A command with one uint16 tag (number 'id') at 'addr'. */
static struct mb_tag_config tags[TAGS_MAX];
static struct mb_cmd_config
command(uint32_t id, uint8_t func, uint16_t addr, uint32_t interval_ms)
{
    tags[id] = (struct mb_tag_config){ .id = id,
                                       .type = MB_UINT16,
                                       .access = TAG_ACCESS_READ | TAG_ACCESS_WRITE,
                                       .name = "value",
                                       .unit = "bar" };
    return (struct mb_cmd_config){ .id = id,
                                   .name = "command",
                                   .enable = true,
                                   .cyclic = true,
                                   .func = func,
                                   .read_addr = addr,
                                   .read_n = 1,
                                   .write_addr = addr,
                                   .write_n = 1,
                                   .interval_ms = interval_ms,
                                   .tags = &tags[id],
                                   .n_tags = 1 };
}

static struct mb_dev_config
device(uint32_t id, const char *name, uint8_t unit, const struct mb_cmd_config *cmds, size_t n)
{
    return (struct mb_dev_config){ .id = id,
                                   .enable = true,
                                   .name = name,
                                   .unit = unit,
                                   .addr = "127.0.0.1",
                                   .port = w.fake.port,
                                   .limit = 1,
                                   .cmds = cmds,
                                   .n_cmds = n };
}

static void
add_device(uint32_t id, const char *name, uint8_t unit, const struct mb_cmd_config *cmds,
           size_t n)
{
    struct mb_dev_config cfg = device(id, name, unit, cmds, n);
    assert_int_equal(mb_engine_set_device(w.engine, &cfg), 0);
    assert_int_equal(mb_engine_publish_changes(w.engine), 0);
}

/* Devices 1..n with units 1..n, each polling its own address. */
static void
add_units(unsigned n, uint32_t interval_ms)
{
    static const char *const names[] = { "a", "b", "c", "d", "e", "f" };
    for (unsigned i = 1; i <= n; i++) {
        struct mb_cmd_config c = command(i, 3, (uint16_t)(100 * i), interval_ms);
        add_device(i, names[i - 1], (uint8_t)i, &c, 1);
    }
}

static void
values_arrive_at_the_pace_of_their_command(void **state)
{
    (void)state;
    struct mb_cmd_config c[2] = { command(1, 3, 10, 50), command(2, 4, 20, 100) };
    add_device(1, "pump", 1, c, 2);
    UNTIL(w.n_samples[1] && w.n_samples[2]);
    unsigned fast = w.n_samples[1], slow = w.n_samples[2];
    uint64_t began = clock_us;
    UNTIL(w.n_samples[1] == fast + 20);
    assert_in_range(clock_us - began, 1000000 - 50000, 1000000 + STEP_US);
    assert_in_range(w.n_samples[2] - slow, 9, 10);
    assert_int_equal(w.last[1].value.u, 10);
    assert_int_equal(w.last[2].value.u, 20);
    assert_int_equal(w.last[1].quality, TAG_GOOD);
    assert_int_equal(w.status[1], MB_STATUS_OK);
    assert_int_equal(w.fake.n_accepted, 1);
}

static void
a_period_that_was_missed_is_skipped_and_the_grid_stays(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 3, 0, 100);
    struct mb_engine_stats s;
    add_device(1, "pump", 1, &c, 1);
    UNTIL(w.n_samples[1] == 3);
    uint64_t grid = clock_us;
    clock_us += 350000; /* the loop stands still for 3 1/2 periods */
    unsigned before = w.n_samples[1];
    UNTIL(w.n_samples[1] == before + 2);
    mb_engine_get_stats(w.engine, &s);
    assert_int_equal(s.overruns, 2);
    assert_in_range((clock_us - grid) % 100000, 0, STEP_US);
}

static void
every_kind_of_failure_has_its_quality(void **state)
{
    (void)state;
    set_iface(0, 100);
    struct mb_cmd_config c = command(1, 3, 7, 100);
    add_device(1, "pump", 1, &c, 1);
    UNTIL(w.last[1].quality == TAG_GOOD && w.n_samples[1]);
    w.exception = 3;
    UNTIL(w.last[1].quality == TAG_BAD_EXCEPTION);
    assert_int_equal(w.last[1].aux, 3);
    assert_int_equal(w.last[1].value.u, 7); /* the last good one */
    assert_int_equal(w.status[1], MB_STATUS_EXCEPTION);
    w.exception = 0;
    UNTIL(w.last[1].quality == TAG_GOOD);
    uint64_t began = clock_us;
    w.mute = 1;
    UNTIL(w.last[1].quality == TAG_BAD_TIMEOUT);
    assert_true(clock_us - began <= 200000 + 2 * STEP_US); /* a period and its time-out */
    assert_int_equal(w.status[1], MB_STATUS_TIMEOUT);
    unsigned told = w.n_samples[1];
    run_for(500000);
    assert_int_equal(w.n_samples[1], told); /* lasting: not told at each try */
    w.mute = -1;
    UNTIL(w.last[1].quality == TAG_GOOD && w.status[1] == MB_STATUS_OK);
    uint16_t port = w.fake.port;
    fake_close(&w.fake);
    UNTIL(w.last[1].quality == TAG_BAD_CONNECTION);
    assert_int_equal(w.status[1], MB_STATUS_NO_CONNECTION);
    w.fake.port = port;
    assert_int_equal(fake_open(&w.fake, w.loop, answer, &w), 0);
    UNTIL(w.last[1].quality == TAG_GOOD && w.status[1] == MB_STATUS_OK);
}

static void
the_status_is_the_worst_of_the_commands_and_does_not_flap(void **state)
{
    (void)state;
    struct mb_cmd_config c[2] = { command(1, 3, 10, 50), command(2, 3, 20, 50) };
    tags[2].name = "other";
    w.exception = 2;
    w.exception_at = 20;
    add_device(1, "pump", 1, c, 2);
    UNTIL(w.n_samples[1] >= 3 && w.n_samples[2] >= 1);
    assert_int_equal(w.status[1], MB_STATUS_EXCEPTION);
    unsigned told = w.n_status, before = w.n_samples[1];
    UNTIL(w.n_samples[1] >= before + 5);
    assert_int_equal(w.n_status, told);
    w.exception = 0;
    UNTIL(w.status[1] == MB_STATUS_OK);
    w.exception = 2;
    UNTIL(w.status[1] == MB_STATUS_EXCEPTION);
    c[1].enable = false; /* the bad one */
    add_device(1, "pump", 1, c, 2);
    UNTIL(w.status[1] == MB_STATUS_OK);
}

static void
what_became_bad_is_asked_at_once_when_the_device_is_back(void **state)
{
    (void)state;
    struct mb_cmd_config c[2] = { command(1, 3, 10, 100), command(2, 3, 20, 86400000) };
    tags[2].name = "other";
    add_device(1, "pump", 1, c, 2);
    UNTIL(w.n_samples[1] && w.n_samples[2]);
    uint16_t port = w.fake.port;
    fake_close(&w.fake);
    UNTIL(w.last[2].quality == TAG_BAD_CONNECTION);
    w.fake.port = port;
    assert_int_equal(fake_open(&w.fake, w.loop, answer, &w), 0);
    UNTIL(w.last[1].quality == TAG_GOOD && w.last[2].quality == TAG_GOOD);
    assert_int_equal(w.status[1], MB_STATUS_OK);
}

static void
neighbours_of_a_mute_unit_keep_their_pace(void **state)
{
    (void)state;
    set_iface(0, 400);
    w.mute = 2;
    add_units(5, 50);
    UNTIL(w.last[2].quality == TAG_BAD_TIMEOUT && w.n_samples[5] > 0);
    unsigned before[6];
    for (int i = 1; i <= 5; i++)
        before[i] = w.n_samples[i];
    run_for(3000000);
    for (int i = 1; i <= 5; i++)
        if (i != 2)
            assert_true(w.n_samples[i] - before[i] >= 57); /* 95 % of 60 */
    assert_int_equal(w.fake.n_accepted, 1);
    struct mb_engine_stats s;
    mb_engine_get_stats(w.engine, &s);
    assert_int_equal(s.strict, 0);
    w.mute = -1;
    UNTIL(w.last[2].quality == TAG_GOOD);
}

static void
a_silent_unit_that_is_left_alone_is_asked_at_its_pace(void **state)
{
    (void)state;
    set_iface(0, 100);
    w.mute = 1;
    add_units(2, 50);
    UNTIL(w.last[1].quality == TAG_BAD_TIMEOUT && w.n_samples[2] > 3);
    mb_engine_remove_device(w.engine, 2);
    assert_int_equal(mb_engine_publish_changes(w.engine), 0);
    unsigned asked = w.asked[1];
    run_for(1000000);
    assert_true(w.asked[1] - asked >= 4); /* a time-out each */
    w.mute = -1;
    UNTIL(w.last[1].quality == TAG_GOOD);
}

/*
 * A gateway that waits 150 ms for a unit behind it, and closes when another
 * request comes meanwhile.
 */
static void
answer_one_at_a_time(struct fake_request *r)
{
    static uint64_t busy_until_us;
    uint64_t now = clock_us;
    if (now < busy_until_us) {
        busy_until_us = 0;
        (void)shutdown(r->fd, SHUT_RDWR);
        return;
    }
    if (r->unit == w.mute)
        busy_until_us = now + 150000;
    answer(r);
}

static void
a_peer_that_takes_one_request_only_is_asked_one_by_one(void **state)
{
    (void)state;
    set_iface(0, 200);
    w.fake.answer = answer_one_at_a_time;
    w.mute = 2;
    add_units(3, 50);
    struct mb_engine_stats s = { 0 };
    while (s.strict == 0) {
        clock_step(w.loop, STEP_US);
        mb_engine_get_stats(w.engine, &s);
    }
    unsigned accepted = w.fake.n_accepted, before = w.n_samples[1];
    UNTIL(w.n_samples[1] >= before + 20);
    assert_true(w.fake.n_accepted <= accepted + 1);
    assert_int_equal(s.strict, 1);
}

/* A gateway that serves one after the other: while it waits for a unit, nobody is answered. */
static struct {
    uint64_t busy_until_us;
    struct fake_request waiting[16];
    uint8_t frames[16][MB_ADU_MAX];
    size_t n_frames[16];
    unsigned n;
    struct loop_timer timer;
} queue;

static void
answer_waiting(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < queue.n; i++)
        fake_send(&queue.waiting[i], queue.frames[i], queue.n_frames[i]);
    queue.n = 0;
    queue.busy_until_us = 0;
}

static void
answer_in_turn(struct fake_request *r)
{
    w.asked[r->unit]++;
    if (r->unit == w.mute) {
        queue.busy_until_us = clock_us + 220000;
        assert_int_equal(loop_timer_set(w.loop, &queue.timer, queue.busy_until_us), 0);
    } else if (queue.busy_until_us && queue.n < 16) {
        queue.waiting[queue.n] = *r;
        queue.n_frames[queue.n] = fake_good(r, queue.frames[queue.n]);
        queue.n++;
    } else {
        fake_answer_good(r);
    }
}

static void
a_mute_unit_that_blocks_the_others_is_asked_seldom(void **state)
{
    (void)state;
    set_iface(0, 200);
    loop_timer_init(&queue.timer, answer_waiting, NULL);
    w.fake.answer = answer_in_turn;
    w.mute = 2;
    add_units(4, 50);
    UNTIL(w.last[2].quality == TAG_BAD_TIMEOUT && w.asked[2] >= 1);
    run_for(500000);
    unsigned asked = w.asked[2], before = w.n_samples[1];
    run_for(3000000);
    assert_true(w.asked[2] - asked <= 1); /* each costs 200 ms of 4 s */
    assert_true(w.n_samples[1] - before >= 54);
    for (int i = 1; i <= 4; i++)
        if (i != 2)
            assert_int_equal(w.last[i].quality, TAG_GOOD);
    loop_timer_cancel(w.loop, &queue.timer);
}

static bool
read_now(uint32_t no, uint64_t timeout_us)
{
    struct mb_direct_result now;
    bool pending = mb_engine_read(w.engine, no, clock_us + timeout_us, on_direct, NULL, &now);
    if (!pending)
        w.result = now;
    return pending;
}

static bool
write_now(uint32_t no, uint16_t value)
{
    struct mb_direct_result now;
    struct tag_value v = { .type = TAG_UINT16, .u = value };
    bool pending = mb_engine_write(w.engine, no, &v, clock_us + 1000000, on_direct, NULL, &now);
    if (!pending)
        w.result = now;
    return pending;
}

static void
a_direct_read_asks_the_device(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 3, 77, 86400000);
    add_device(1, "pump", 1, &c, 1);
    UNTIL(w.n_samples[1] == 1);
    assert_true(read_now(1, 1000000));
    UNTIL(w.n_results == 1);
    assert_int_equal(w.result.status, MB_DIRECT_OK);
    assert_int_equal(w.result.sample.value.u, 77);
    assert_int_equal(w.n_samples[1], 2);
    assert_false(read_now(99, 1000000));
    assert_int_equal(w.result.status, MB_DIRECT_NOT_FOUND);
    assert_false(read_now(MB_STATUS_TAG_BASE + 1, 1000000));
    assert_int_equal(w.result.status, MB_DIRECT_OK);
    assert_int_equal(w.result.sample.value.i, MB_STATUS_OK);
}

static void
a_direct_request_ends_at_its_deadline_and_with_what_the_device_said(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 3, 77, 86400000);
    add_device(1, "pump", 1, &c, 1);
    UNTIL(w.n_samples[1] == 1);
    w.exception = 2;
    assert_true(write_now(1, 5));
    UNTIL(w.n_results == 1);
    assert_int_equal(w.result.status, MB_DIRECT_EXCEPTION);
    assert_int_equal(w.result.exception, 2);
    assert_false(mb_direct_is_unsure(&w.result));
    w.exception = 4; /* it failed while it did it */
    assert_true(write_now(1, 5));
    UNTIL(w.n_results == 2);
    assert_true(mb_direct_is_unsure(&w.result));
    w.n_results = 1;
    w.exception = 0;
    w.mute = 1;
    uint64_t began = clock_us;
    assert_true(read_now(1, 150000));
    UNTIL(w.n_results == 2);
    assert_int_equal(w.result.status, MB_DIRECT_TIMEOUT);
    assert_true(w.result.sent);
    assert_true(clock_us - began <= 150000 + 2 * STEP_US);
    fake_close(&w.fake);
    struct mb_engine_stats s = { 0 };
    while (s.conn.connect_failures < 2) {
        clock_step(w.loop, STEP_US);
        mb_engine_get_stats(w.engine, &s);
    }
    assert_false(write_now(1, 5));
    assert_int_equal(w.result.status, MB_DIRECT_NO_CONNECTION);
    assert_false(mb_direct_is_unsure(&w.result));
}

static void
a_readable_tag_is_written_where_it_is_read_and_read_back(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 3, 0x1234, 86400000);
    add_device(1, "pump", 1, &c, 1);
    UNTIL(w.n_samples[1] == 1);
    assert_true(write_now(1, 0xABCD));
    UNTIL(w.n_results == 1 && w.n_samples[1] == 2);
    assert_int_equal(w.result.status, MB_DIRECT_OK);
    assert_int_equal(w.n_wrote, 5);
    assert_memory_equal(w.wrote, "\x06\x12\x34\xAB\xCD", 5);
}

static void
a_write_command_tells_what_was_written_and_repeats_it(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 6, 9, 100);
    add_device(1, "pump", 1, &c, 1);
    run_for(300000);
    assert_int_equal(w.n_writes, 0); /* nothing is written before somebody has */
    assert_true(write_now(1, 321));
    UNTIL(w.n_results == 1);
    assert_int_equal(w.last[1].value.u, 321);
    assert_int_equal(w.last[1].quality, TAG_GOOD);
    UNTIL(w.n_writes >= 4);
    assert_memory_equal(w.wrote, "\x06\x00\x09\x01\x41", 5);
    assert_false(read_now(1, 1000000));
    assert_int_equal(w.result.status, MB_DIRECT_ACCESS);
    c.cyclic = false;
    add_device(1, "pump", 1, &c, 1);
    unsigned n = w.n_writes;
    run_for(300000);
    assert_true(w.n_writes <= n + 1); /* one may have been under way */
    assert_true(write_now(1, 5));
    UNTIL(w.last[1].value.u == 5);
}

static void
what_cannot_be_written_is_refused(void **state)
{
    (void)state;
    struct mb_cmd_config c[2] = { command(1, 4, 0, 1000), command(2, 3, 0, 1000) };
    tags[2].type = MB_INT16;
    add_device(1, "pump", 1, c, 2);
    assert_false(write_now(1, 5));
    assert_int_equal(w.result.status, MB_DIRECT_ACCESS);
    assert_false(write_now(2, 5)); /* a uint16 for an int16 */
    assert_int_equal(w.result.status, MB_DIRECT_VALUE);
    c[0].enable = false;
    add_device(1, "pump", 1, c, 2);
    assert_false(read_now(1, 1000000));
    assert_int_equal(w.result.status, MB_DIRECT_DISABLED);
}

static void
other_devices_notice_nothing_of_a_change(void **state)
{
    (void)state;
    add_units(2, 50);
    UNTIL(w.n_samples[1] > 2 && w.n_samples[2] > 2);
    unsigned before = w.n_samples[1], changed = w.n_changed;
    uint64_t began = clock_us;
    for (int i = 0; i < 20; i++) {
        struct mb_cmd_config c = command(2, 3, (uint16_t)(500 + i), 50);
        add_device(2, "b", 2, &c, 1);
        run_for(50000);
    }
    unsigned periods = (unsigned)((clock_us - began) / 50000);
    assert_true(w.n_samples[1] - before >= periods - 1);
    assert_int_equal(w.n_changed, changed + 20);
    assert_int_equal(w.fake.n_accepted, 1);
    UNTIL(w.last[2].value.u == 519);
    mb_engine_remove_device(w.engine, 2);
    assert_int_equal(mb_engine_publish_changes(w.engine), 0);
    unsigned gone = w.n_samples[2];
    before = w.n_samples[1];
    UNTIL(w.n_samples[1] >= before + 5);
    assert_int_equal(w.n_samples[2], gone);
    assert_int_equal(w.fake.n_accepted, 1);
}

static void
values_of_a_tag_that_stays_are_kept(void **state)
{
    (void)state;
    struct mb_cmd_config c[2] = { command(1, 3, 11, 86400000), command(2, 3, 22, 86400000) };
    struct tag_sample s;
    tags[2].name = "other";
    add_device(1, "pump", 1, c, 1);
    UNTIL(w.n_samples[1] == 1);
    add_device(1, "pump", 1, c, 2);
    assert_true(mb_engine_last(w.engine, 0, &s));
    assert_int_equal(s.no, 1);
    assert_int_equal(s.quality, TAG_GOOD);
    assert_int_equal(s.value.u, 11);
    assert_true(mb_engine_last(w.engine, 1, &s));
    assert_int_equal(s.no, 2);
    assert_int_equal(s.quality, TAG_BAD_NEVER);
    assert_true(mb_engine_last(w.engine, 2, &s));
    assert_int_equal(s.no, MB_STATUS_TAG_BASE + 1);
    assert_int_equal(s.quality, TAG_GOOD);
    assert_false(mb_engine_last(w.engine, 3, &s));
    struct tag_def def;
    assert_true(mb_engine_def(w.engine, 1, &def));
    assert_string_equal(def.provider, "modbus_tcp_master");
    assert_string_equal(def.source, "pump");
    assert_string_equal(def.name, "other");
    assert_string_equal(def.unit, "bar");
    assert_int_equal(def.access, TAG_ACCESS_READ | TAG_ACCESS_WRITE);
    assert_int_equal(mb_engine_find(w.engine, "modbus_tcp_master", "pump", "other"), 2);
    assert_int_equal(mb_engine_find(w.engine, "modbus_tcp_master", "pump", "status"),
                     MB_STATUS_TAG_BASE + 1);
    assert_int_equal(mb_engine_find(w.engine, "other", "pump", "other"), 0);
}

static uint8_t
quality_of(size_t at)
{
    struct tag_sample s;
    assert_true(mb_engine_last(w.engine, at, &s));
    return s.quality;
}

/* The value that is shown must be of what is configured. */
static void
a_value_does_not_outlive_its_meaning(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 3, 11, 86400000);
    c.read_n = 4;
    for (int change = 0; change < 7; change++) {
        struct mb_tag_config *tag = &tags[1];
        struct mb_cmd_config d = c;
        struct mb_dev_config cfg = device(1, "pump", 1, &d, 1);
        mb_engine_remove_device(w.engine, 1);
        w.n_samples[1] = 0;
        *tag = (struct mb_tag_config){
            .id = 1, .type = MB_UINT32, .access = TAG_ACCESS_READ, .name = "v", .unit = ""
        };
        add_device(1, "pump", 1, &c, 1);
        UNTIL(w.n_samples[1] == 1);
        switch (change) {
        case 0:
            cfg.unit = 2;
            break;
        case 1:
            cfg.addr = "127.0.0.2";
            break;
        case 2:
            tag->offset = 2;
            break;
        case 3:
            d.swap = 2;
            break;
        case 4:
            tag->type = MB_INT32;
            break;
        case 5:
            d.read_addr = 12;
            break;
        default:
            tag->name = "another";
            break;
        }
        assert_int_equal(mb_engine_set_device(w.engine, &cfg), 0);
        assert_int_equal(mb_engine_publish_changes(w.engine), 0);
        assert_int_equal(quality_of(0), change < 6 ? TAG_BAD_NEVER : TAG_GOOD);
        assert_int_equal(quality_of(1), change < 2 ? TAG_BAD_NEVER : TAG_GOOD);
        if (change >= 2 && change < 6)
            UNTIL(w.n_samples[1] == 2); /* and not only tomorrow */
    }
    c.scaling = (struct mb_scaling){ .on = true, .slope = 2 };
    add_device(1, "pump", 1, &c, 1);
    UNTIL(w.last[1].quality == TAG_GOOD && w.n_samples[1] == 2);
    c.scaling.slope = 3;
    struct mb_dev_config cfg = device(1, "pump", 1, &c, 1);
    assert_int_equal(mb_engine_set_device(w.engine, &cfg), 0);
    assert_int_equal(mb_engine_publish_changes(w.engine), 0);
    assert_int_equal(quality_of(0), TAG_BAD_NEVER);
}

static void
a_device_that_was_switched_off_begins_anew(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 3, 11, 50);
    struct mb_dev_config cfg = device(1, "pump", 1, &c, 1);
    struct mb_engine_stats before, after;
    add_device(1, "pump", 1, &c, 1);
    UNTIL(w.n_samples[1] == 3);
    cfg.enable = false;
    assert_int_equal(mb_engine_set_device(w.engine, &cfg), 0);
    run_for(1000000);
    mb_engine_get_stats(w.engine, &before);
    cfg.enable = true;
    assert_int_equal(mb_engine_set_device(w.engine, &cfg), 0);
    UNTIL(w.n_samples[1] == 6);
    mb_engine_get_stats(w.engine, &after);
    assert_true(after.overruns - before.overruns < 10); /* of 20 periods */
}

static void
a_device_that_is_changed_ends_what_waits_for_it(void **state)
{
    (void)state;
    w.mute = 1;
    struct mb_cmd_config c = command(1, 3, 0, 86400000);
    add_device(1, "pump", 1, &c, 1);
    UNTIL(w.asked[1] == 1);
    assert_true(read_now(1, 5000000));
    assert_true(write_now(1, 5));
    mb_engine_remove_device(w.engine, 1);
    assert_int_equal(w.n_results, 2);
    assert_int_equal(w.result.status, MB_DIRECT_GONE);
    assert_false(mb_direct_is_unsure(&w.result)); /* it had not been sent */
}

static void
a_device_without_address_or_switched_off_is_not_asked(void **state)
{
    (void)state;
    struct mb_cmd_config c = command(1, 3, 0, 100);
    struct mb_dev_config cfg = device(1, "pump", 1, &c, 1);
    struct tag_sample s;
    cfg.enable = false;
    assert_int_equal(mb_engine_set_device(w.engine, &cfg), 0);
    cfg.id = 2;
    cfg.name = "valve";
    cfg.enable = true;
    cfg.addr = "0.0.0.0";
    tags[1].id = 3;
    assert_int_equal(mb_engine_set_device(w.engine, &cfg), 0);
    assert_int_equal(mb_engine_publish_changes(w.engine), 0);
    int64_t now = (int64_t)clock_us, ts[4];
    run_for(300000);
    assert_int_equal(w.fake.n_accepted, 0);
    for (size_t i = 0; i < 4; i++) {
        assert_true(mb_engine_last(w.engine, i, &s));
        assert_int_equal(s.quality, TAG_BAD_CONFIG);
        assert_in_range(now - s.ts_us, 0, 10000000); /* since it is so, not since 1970 */
        ts[i] = s.ts_us;
    }
    assert_int_equal(mb_engine_set_device(w.engine, &cfg), 0);
    assert_int_equal(mb_engine_publish_changes(w.engine), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_true(mb_engine_last(w.engine, i, &s));
        assert_int_equal(s.ts_us, ts[i]);
    }
}

static void
concurrent_transactions_are_used_where_they_are_allowed(void **state)
{
    (void)state;
    struct mb_cmd_config c[4] = { command(1, 3, 0, 1000), command(2, 3, 1, 1000),
                                  command(3, 3, 2, 1000), command(4, 3, 3, 1000) };
    struct mb_dev_config cfg = device(1, "pump", 1, c, 4);
    tags[2].name = "b";
    tags[3].name = "c";
    tags[4].name = "d";
    cfg.limit = 3;
    w.mute = 1;
    assert_int_equal(mb_engine_set_device(w.engine, &cfg), 0);
    assert_int_equal(mb_engine_publish_changes(w.engine), 0);
    UNTIL(w.asked[1] == 3);
    run_for(100000);
    assert_int_equal(w.asked[1], 3);
}

int
main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(values_arrive_at_the_pace_of_their_command),
        T(a_period_that_was_missed_is_skipped_and_the_grid_stays),
        T(every_kind_of_failure_has_its_quality),
        T(the_status_is_the_worst_of_the_commands_and_does_not_flap),
        T(what_became_bad_is_asked_at_once_when_the_device_is_back),
        T(neighbours_of_a_mute_unit_keep_their_pace),
        T(a_silent_unit_that_is_left_alone_is_asked_at_its_pace),
        T(a_peer_that_takes_one_request_only_is_asked_one_by_one),
        T(a_mute_unit_that_blocks_the_others_is_asked_seldom),
        T(a_direct_read_asks_the_device),
        T(a_direct_request_ends_at_its_deadline_and_with_what_the_device_said),
        T(a_readable_tag_is_written_where_it_is_read_and_read_back),
        T(a_write_command_tells_what_was_written_and_repeats_it),
        T(what_cannot_be_written_is_refused),
        T(other_devices_notice_nothing_of_a_change),
        T(values_of_a_tag_that_stays_are_kept),
        T(a_value_does_not_outlive_its_meaning),
        T(a_device_that_was_switched_off_begins_anew),
        T(a_device_that_is_changed_ends_what_waits_for_it),
        T(a_device_without_address_or_switched_off_is_not_asked),
        T(concurrent_transactions_are_used_where_they_are_allowed),
    };
#undef T
    return cmocka_run_group_tests(tests, NULL, NULL);
}
