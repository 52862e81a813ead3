/* A slave on a pty: the frames of a master, and everything else a line carries. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/str.h"
#include "libcommon/tagview.h"
#include "services/modbusd/mb_serial.h"
#include "services/modbusd/sl_line.h"

enum {
    UNIT = 17,
    OTHER = 18,
    NO_TAG = 1, /* on the hub */
    QUIET_US = 20000,
    PLENTY_US = 5000000,
    GAP_US = 2 * MB_LUMP_US,
};

struct world {
    struct loop *loop;
    struct tagview *view;
    struct sl_map *map;
    struct sl_line *line;
    struct sl_line_config cfg;
    char dir[32];
    int master; /* the other end of the pty, to which cfg.device leads */
    bool echo;  /* what the slave sends is heard by it */
    uint64_t echo_after_us;
    unsigned n_samples;
    uint16_t value; /* of the own tag, told last */
    sl_written_fn *written;
    void *written_arg;
};
static struct world w;

/* ---- holding 0 is an own tag, holding 9 one of the hub, whose owner takes its time ---- */

static void
on_sample(void *arg, const struct tag_sample *s)
{
    (void)arg;
    w.n_samples++;
    w.value = (uint16_t)s->value.u;
}

static void
on_write(void *arg, const struct tagview_tag *tag, const struct tag_value *v,
         uint64_t deadline_us, sl_written_fn *fn, void *fn_arg)
{
    (void)arg;
    (void)tag;
    (void)v;
    (void)deadline_us;
    w.written = fn;
    w.written_arg = fn_arg;
}

static struct sl_map *
new_map(void)
{
    static const uint8_t rw = TAG_ACCESS_READ | TAG_ACCESS_WRITE;
    const struct sl_tag_config tag = {
        .id = 1, .name = "own", .type = MB_UINT16, .access = rw
    };
    const struct sl_ref_config ref = {
        .provider = "m", .source = "d", .name = "far", .type = MB_UINT16, .access = rw
    };
    const struct sl_zone_config zones[] = {
        { .format = SL_HOLDING, .address = 0, .n = 1, .tags = &tag, .n_tags = 1 },
        { .format = SL_HOLDING,
          .address = 9,
          .n = 1,
          .from_hub = true,
          .refs = &ref,
          .n_refs = 1 },
    };
    const struct sl_config cfg = {
        .provider = "slave", .source = "s", .zones = zones, .n_zones = ARRAY_LEN(zones)
    };
    const struct sl_engine_hooks hooks = { .sample = on_sample, .write = on_write };
    struct sl_map *map;
    assert_int_equal(sl_map_new(w.loop, w.view, &hooks, &cfg, &map), 0);
    return map;
}

static void
open_pty(void)
{
    char name[64];
    w.master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    assert_true(w.master >= 0);
    assert_int_equal(grantpt(w.master), 0);
    assert_int_equal(unlockpt(w.master), 0);
    assert_int_equal(ptsname_r(w.master, name, sizeof(name)), 0);
    (void)unlink(w.cfg.device); /* of an earlier one */
    assert_int_equal(symlink(name, w.cfg.device), 0);
}

static int
setup(void **state)
{
    struct tag_def def = { .no = NO_TAG,
                           .type = TAG_UINT16,
                           .access = TAG_ACCESS_READ | TAG_ACCESS_WRITE,
                           .provider = "m",
                           .source = "d",
                           .name = "far" };
    struct tag_sample sample = {
        .no = NO_TAG, .quality = TAG_GOOD, .ts_us = 1, .value = { .type = TAG_UINT16, .u = 7 }
    };
    (void)state;
    memset(&w, 0, sizeof(w));
    w.cfg = (struct sl_line_config){
        .settings = { .baud_rate = SERIAL_BAUD_MAX, .data_bits = 8, .stop_half_bits = 2 },
        .unit = UNIT,
    };
    (void)snprintf(w.dir, sizeof(w.dir), "/tmp/test-sl-XXXXXX");
    assert_non_null(mkdtemp(w.dir));
    (void)snprintf(w.cfg.device, sizeof(w.cfg.device), "%s/tty", w.dir);
    open_pty();
    assert_int_equal(loop_new(&w.loop), 0);
    assert_int_equal(tagview_new(&w.view), 0);
    w.map = new_map();
    assert_int_equal(tagview_catalogue(w.view, "modbusd", &def, 1), 0);
    tagview_samples(w.view, "modbusd", &sample, 1, false);
    assert_int_equal(sl_line_new(w.loop, &w.line), 0);
    sl_line_set_map(w.line, w.map);
    sl_line_set(w.line, &w.cfg);
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    sl_line_free(w.line);
    sl_map_retire(w.map);
    tagview_free(w.view);
    loop_free(w.loop);
    (void)unlink(w.cfg.device); /* else the next one complains */
    (void)rmdir(w.dir);
    return close(w.master);
}

/* ---- the master ---- */

static void
run(uint64_t us)
{
    uint64_t end = clock_mono_us() + us, now;
    while ((now = clock_mono_us()) < end)
        assert_int_equal(loop_round(w.loop, end - now), 0);
}

static void
put(const void *bytes, size_t n)
{
    assert_int_equal(write(w.master, bytes, n), n);
}

/* What the slave sent until it was quiet, or at least 'n_want' bytes. */
static size_t
hear(uint8_t *out, size_t size, size_t n_want)
{
    size_t n = 0;
    uint64_t begun = clock_mono_us(), quiet = begun + QUIET_US;
    while (clock_mono_us() < (n < n_want ? begun + PLENTY_US : quiet)) {
        run(1000);
        ssize_t got = read(w.master, out + n, size - n);
        if (got <= 0)
            continue;
        if (w.echo) {
            run(w.echo_after_us);
            put(out + n, (size_t)got);
        }
        n += (size_t)got;
        quiet = clock_mono_us() + QUIET_US;
    }
    return n;
}

static size_t
from_hex(const char *text, uint8_t *out)
{
    size_t n = 0;
    unsigned byte;
    int used;
    for (; sscanf(text, "%2x%n", &byte, &used) == 1; text += used)
        out[n++] = (uint8_t)byte;
    return n;
}

static size_t
frame_of(unsigned unit, const char *pdu, uint8_t out[MB_SERIAL_MAX])
{
    uint8_t bytes[MB_PDU_MAX];
    const struct mb_framing *framing = w.cfg.ascii ? &mb_ascii : &mb_rtu;
    return framing->encode((uint8_t)unit, bytes, from_hex(pdu, bytes), out);
}

static void
ask(unsigned unit, const char *pdu)
{
    uint8_t frame[MB_SERIAL_MAX];
    put(frame, frame_of(unit, pdu, frame));
}

/* "" is none. */
static void
assert_answer(const char *pdu)
{
    uint8_t want[MB_SERIAL_MAX], got[2 * MB_SERIAL_MAX];
    size_t n_want = pdu[0] != '\0' ? frame_of(UNIT, pdu, want) : 0;
    size_t n = hear(got, sizeof(got), n_want);
    assert_int_equal(n, n_want);
    assert_memory_equal(got, want, n);
}

static void
assert_asked(const char *request, const char *answer)
{
    ask(UNIT, request);
    assert_answer(answer);
}

static struct sl_line_stats
stats(void)
{
    struct sl_line_stats s;
    sl_line_get_stats(w.line, &s);
    return s;
}

/* ---- tests ---- */

static void
requests_are_answered_in_turn(void **state)
{
    (void)state;
    assert_asked("03 0000 0001", "03 02 0000");
    assert_asked("06 0000 1234", "06 0000 1234");
    assert_asked("03 0000 0001", "03 02 1234");
    assert_asked("10 0000 0001 02 4321", "10 0000 0001");
    assert_asked("17 0000 0001 0000 0001 02 0007", "17 02 0007");
    assert_asked("03 0001 0001", "83 02");
    assert_int_equal(stats().counts.valid, 6);
    assert_int_equal(stats().counts.responses, 5);
    assert_int_equal(stats().counts.exceptions, 1);
}

static void
what_is_not_for_us_or_damaged_is_passed_over(void **state)
{
    uint8_t frame[MB_SERIAL_MAX];
    (void)state;
    ask(OTHER, "06 0000 0001");
    assert_answer("");
    size_t n = frame_of(UNIT, "06 0000 0001", frame);
    for (size_t i = 0; i < n; i++) {
        frame[i] ^= 0x40;
        put(frame, n);
        assert_answer("");
        frame[i] ^= 0x40;
    }
    for (size_t cut = 1; cut < n; cut++) {
        put(frame, cut);
        run(GAP_US);
    }
    assert_answer("");
    assert_int_equal(w.n_samples, 0);
    assert_asked("03 0000 0001", "03 02 0000");
    assert_int_equal(stats().counts.valid, 1);
}

static void
a_request_is_found_behind_noise_and_the_talk_of_others(void **state)
{
    uint8_t noise[700];
    (void)state;
    ask(OTHER, "03 0000 0001");
    ask(OTHER, "03 02 1111");
    assert_asked("03 0000 0001", "03 02 0000");
    for (size_t i = 0; i < sizeof(noise); i++)
        noise[i] = (uint8_t)(i % 3 == 0 ? UNIT : i * 7);
    put(noise, sizeof(noise));
    assert_asked("03 0000 0001", "03 02 0000");
    put(noise, 3);
    assert_asked("06 0000 0001", "06 0000 0001");
}

/* False: the machine was too busy to keep the pauses short enough for one request. */
static bool
put_in_pieces(const uint8_t *frame, size_t n)
{
    uint64_t longest = 0, before = clock_mono_us();
    for (size_t i = 0; i < n; i++) {
        put(frame + i, 1);
        run(MB_LUMP_US / 4);
        uint64_t now = clock_mono_us();
        longest = now - before > longest ? now - before : longest;
        before = now;
    }
    return longest < MB_LUMP_US / 2;
}

static void
a_request_may_come_in_pieces(void **state)
{
    uint8_t frame[MB_SERIAL_MAX], got[2 * MB_SERIAL_MAX];
    (void)state;
    size_t n = frame_of(UNIT, "06 0000 0005", frame), n_got = 0;
    /* Under load the pty, too, may hand on what was put at once only after a pause. */
    for (unsigned tries = 0; n_got == 0; tries++) {
        assert_true(tries < 100);
        run(GAP_US);
        (void)hear(got, sizeof(got), 0);
        if (put_in_pieces(frame, n))
            n_got = hear(got, sizeof(got), n);
    }
    assert_int_equal(n_got, n); /* the answer is the request */
    assert_memory_equal(got, frame, n);
}

static void
a_request_with_something_right_behind_it_is_none(void **state)
{
    uint8_t frame[MB_SERIAL_MAX + 1];
    (void)state;
    size_t n = frame_of(UNIT, "06 0000 0005", frame);
    frame[n] = 0x55;
    put(frame, n + 1);
    assert_answer("");
    assert_int_equal(w.n_samples, 0);
}

static void
an_unknown_function_is_refused_when_it_is_all_there_is(void **state)
{
    (void)state;
    run(GAP_US);
    assert_asked("2b 0e 01 00", "ab 01");
    ask(OTHER, "03 02 1111");
    assert_asked("2b 0e 01 00", "");
}

static void
all_units_are_told_and_none_answers(void **state)
{
    (void)state;
    ask(0, "06 0000 0bad");
    assert_answer("");
    assert_int_equal(w.value, 0x0bad);
    ask(0, "03 0000 0001");
    assert_answer("");
    assert_int_equal(stats().broadcasts, 2);
    ask(0, "06 0009 0001"); /* its owner answers later */
    assert_answer("");
    assert_non_null(w.written);
    w.written(w.written_arg, SL_WRITTEN);
    assert_answer("");
}

static void
our_own_echo_is_no_request(void **state)
{
    (void)state;
    w.echo = true;
    assert_asked("06 0000 0001", "06 0000 0001"); /* the answer is the same as the request */
    assert_asked("06 0000 0001", "06 0000 0001");
    assert_asked("03 0000 0001", "03 02 0001");
    assert_asked("06 0000 0002", "06 0000 0002");
    assert_int_equal(stats().counts.valid, 4);
    w.echo_after_us = GAP_US; /* it is known by now */
    assert_asked("06 0000 0003", "06 0000 0003");
    assert_asked("06 0000 0003", "06 0000 0003");
    assert_int_equal(stats().counts.valid, 6);
}

static void
a_write_that_is_repeated_is_done_again(void **state)
{
    (void)state;
    assert_asked("03 0000 0001", "03 02 0000");
    for (unsigned i = 1; i <= 3; i++) {
        assert_asked("06 0000 0001", "06 0000 0001");
        assert_int_equal(w.n_samples, i);
    }
}

static void
an_answer_that_comes_when_the_master_has_asked_anew_is_not_sent(void **state)
{
    (void)state;
    assert_asked("06 0009 0001", "");
    sl_written_fn *first = w.written;
    void *first_arg = w.written_arg;
    assert_non_null(first);
    assert_asked("03 0000 0001", "03 02 0000");
    first(first_arg, SL_WRITTEN);
    assert_answer("");
    assert_asked("06 0009 0002", "");
    ask(OTHER, "03 0000 0001"); /* the master has given up */
    assert_answer("");
    w.written(w.written_arg, SL_WRITTEN);
    assert_answer("");
    assert_asked("06 0009 0003", "");
    w.written(w.written_arg, SL_WRITTEN);
    assert_answer("06 0009 0003");
}

static void
ascii_is_spoken_too(void **state)
{
    uint8_t frame[MB_SERIAL_MAX];
    (void)state;
    w.cfg.ascii = true;
    sl_line_set(w.line, &w.cfg);
    assert_asked("03 0000 0001", "03 02 0000");
    assert_asked("06 0000 00aa", "06 0000 00aa");
    assert_asked("06 0000 00aa", "06 0000 00aa"); /* no echo, it is known by now */
    put("noise", 5);
    assert_asked("03 0000 0001", "03 02 00aa");
    ask(OTHER, "03 0000 0001");
    put(":1103\r\n", 7);
    put(":1103000000010", 14);
    assert_asked("03 0000 0001", "03 02 00aa"); /* a colon begins anew */
    size_t n = frame_of(UNIT, "06 0000 00ab", frame);
    for (size_t i = 0; i < n; i++)
        put(frame + i, 1);
    assert_answer("06 0000 00ab");
    ask(0, "06 0000 0001");
    assert_answer("");
    assert_int_equal(w.value, 1);
    assert_int_equal(stats().counts.valid, 7);
}

static void
a_lost_port_is_opened_again(void **state)
{
    (void)state;
    assert_true(stats().is_open);
    assert_int_equal(close(w.master), 0);
    run(QUIET_US);
    assert_false(stats().is_open);
    open_pty();
    run(SL_LINE_REOPEN_US + QUIET_US);
    assert_true(stats().is_open);
    assert_asked("03 0000 0001", "03 02 0000");
}

static void
a_port_that_is_not_there_is_told_and_tried_again(void **state)
{
    struct sl_line_config cfg = w.cfg;
    (void)state;
    (void)str_copy(cfg.device, sizeof(cfg.device), "/no/such/tty");
    sl_line_set(w.line, &cfg);
    assert_false(stats().is_open);
    assert_int_equal(stats().error, ENOENT);
    sl_line_set(w.line, &w.cfg);
    assert_true(stats().is_open);
    assert_int_equal(stats().error, 0);
    sl_line_set(w.line, NULL);
    assert_false(stats().is_open);
    ask(UNIT, "06 0000 0001");
    run(SL_LINE_REOPEN_US + QUIET_US);
    assert_false(stats().is_open);
    assert_int_equal(w.n_samples, 0);
}

static void
another_map_answers_the_next_request(void **state)
{
    (void)state;
    struct sl_map *old = w.map;
    assert_asked("06 0009 0001", ""); /* under way in the old one */
    w.map = new_map();
    sl_line_set_map(w.line, w.map);
    sl_map_retire(old);
    w.written(w.written_arg, SL_WRITTEN);
    assert_answer("06 0009 0001");
    assert_asked("03 0000 0001", "03 02 0000");
    sl_line_set_map(w.line, NULL);
    assert_asked("03 0000 0001", "");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(requests_are_answered_in_turn),
        TEST(what_is_not_for_us_or_damaged_is_passed_over),
        TEST(a_request_is_found_behind_noise_and_the_talk_of_others),
        TEST(a_request_may_come_in_pieces),
        TEST(a_request_with_something_right_behind_it_is_none),
        TEST(an_unknown_function_is_refused_when_it_is_all_there_is),
        TEST(all_units_are_told_and_none_answers),
        TEST(our_own_echo_is_no_request),
        TEST(a_write_that_is_repeated_is_done_again),
        TEST(an_answer_that_comes_when_the_master_has_asked_anew_is_not_sent),
        TEST(ascii_is_spoken_too),
        TEST(a_lost_port_is_opened_again),
        TEST(a_port_that_is_not_there_is_told_and_tried_again),
        TEST(another_map_answers_the_next_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
