/*
 * The slave's server of requests, held against the text of the Modbus
 * Application Protocol V1.1b3 (sections 6 and 7): bytes in, bytes out, over a
 * made-up map, with an owner of hub tags that answers as a test wants it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/tagview.h"
#include "services/modbusd/sl_map.h"

enum { CALLS_MAX = 16 };

struct call {
    char name[16];
    struct tag_value v;
    sl_written_fn *fn;
    void *arg;
};

struct world {
    struct loop *loop;
    struct tagview *view;
    struct sl_map *map;
    uint8_t slave; /* that is asked */
    enum sl_written outcome;
    bool later; /* the owner answers when the test says so */
    struct call calls[CALLS_MAX];
    unsigned n_calls;
    struct tag_sample samples[CALLS_MAX]; /* told to the hub */
    unsigned n_samples;
    uint8_t answer[MB_PDU_MAX]; /* that came later */
    size_t n_answer;
    unsigned n_answers;
};
static struct world w;

static void
on_sample(void *arg, const struct tag_sample *s)
{
    (void)arg;
    assert_true(w.n_samples < CALLS_MAX);
    w.samples[w.n_samples++] = *s;
}

static void
on_write(void *arg, const struct tagview_tag *tag, const struct tag_value *v,
         uint64_t deadline_us, sl_written_fn *fn, void *fn_arg)
{
    (void)arg;
    assert_true(deadline_us > 0);
    assert_true(w.n_calls < CALLS_MAX);
    struct call *c = &w.calls[w.n_calls++];
    *c = (struct call){ .v = *v, .fn = fn, .arg = fn_arg };
    (void)snprintf(c->name, sizeof(c->name), "%s", tag->name);
    if (!w.later)
        fn(fn_arg, w.outcome);
}

static void
on_answer(void *arg, const uint8_t *pdu, size_t n)
{
    (void)arg;
    memcpy(w.answer, pdu, n);
    w.n_answer = n;
    w.n_answers++;
}

/* ---- the map ----
 * coils            0..9    own c0..c9 (0..7), padding 8..9; 20..21 of the hub: on, off
 * discrete inputs  100..115 own di (uint16)
 * holding          0..9    own h0 uint16, h1 int32 (1..2), h3 string of 6 (3..5), padding 6..9
 *                  50..53  of the hub: level uint16, flow float (51..52), only_read uint16 (53)
 *                  60      of the hub: secret uint16, write only
 *                  70      of the hub: nobody (not listed)
 *                  80      of the hub: scaled int16, value = 0.5 * register + 10
 *                  90..91  own int8 pair (90), own "w" uint16 (91)
 *                  65535   own last uint16
 * input            0       own i0 uint16
 */
enum { RW = TAG_ACCESS_READ | TAG_ACCESS_WRITE };
enum { ID_H0 = 100, ID_H1, ID_H3, ID_LAST, ID_LO, ID_HI, ID_W, ID_I0, ID_DI };

#define OWN(id_, name_, type_, size_, offset_)                                                 \
    {                                                                                          \
        .id = (id_), .name = (name_), .type = (type_), .size = (size_), .offset = (offset_),   \
        .access = RW                                                                           \
    }
#define REF(name_, type_, offset_, access_)                                                    \
    {                                                                                          \
        .provider = "m", .source = "d", .name = (name_), .type = (type_), .offset = (offset_), \
        .access = (access_)                                                                    \
    }

static const struct sl_tag_config coils[] = {
    OWN(1, "c0", MB_BOOLEAN, 0, 0), OWN(2, "c1", MB_BOOLEAN, 0, 1),
    OWN(3, "c2", MB_BOOLEAN, 0, 2), OWN(4, "c3", MB_BOOLEAN, 0, 3),
    OWN(5, "c4", MB_BOOLEAN, 0, 4), OWN(6, "c5", MB_BOOLEAN, 0, 5),
    OWN(7, "c6", MB_BOOLEAN, 0, 6), OWN(8, "c7", MB_BOOLEAN, 0, 7),
};
static const struct sl_ref_config ref_coils[] = { REF("on", MB_BOOLEAN, 0, RW),
                                                  REF("off", MB_BOOLEAN, 1, RW) };
static const struct sl_tag_config bits[] = { OWN(ID_DI, "di", MB_UINT16, 0, 0) };
static const struct sl_tag_config holding[] = { OWN(ID_H0, "h0", MB_UINT16, 0, 0),
                                                OWN(ID_H1, "h1", MB_INT32, 0, 2),
                                                OWN(ID_H3, "h3", MB_STRING, 6, 6) };
static const struct sl_ref_config hub[] = { REF("level", MB_UINT16, 0, RW),
                                            REF("flow", MB_FLOAT, 2, RW),
                                            REF("only_read", MB_UINT16, 6, TAG_ACCESS_READ) };
static const struct sl_ref_config secret[] = { REF("secret", MB_UINT16, 0, TAG_ACCESS_WRITE) };
static const struct sl_ref_config nobody[] = { REF("nobody", MB_UINT16, 0, RW) };
static const struct sl_ref_config scaled[] = { REF("scaled", MB_INT16, 0, RW) };
static const struct sl_tag_config halves[] = {
    OWN(ID_HI, "hi", MB_UINT8, 0, 0),
    OWN(ID_LO, "lo", MB_INT8, 0, 1),
    { .id = ID_W, .name = "w", .type = MB_UINT16, .offset = 2, .access = TAG_ACCESS_WRITE },
};
static const struct sl_tag_config last[] = { OWN(ID_LAST, "last", MB_UINT16, 0, 0) };
static const struct sl_tag_config inputs[] = { OWN(ID_I0, "i0", MB_UINT16, 0, 0) };

#define ZONE(format_, address_, n_, list_)                                                     \
    {                                                                                          \
        .format = (format_), .address = (address_), .n = (n_), .tags = (list_),                \
        .n_tags = ARRAY_LEN(list_)                                                             \
    }
#define HUB_ZONE(address_, n_, list_)                                                          \
    {                                                                                          \
        .format = SL_HOLDING, .address = (address_), .n = (n_), .from_hub = true,              \
        .refs = (list_), .n_refs = ARRAY_LEN(list_)                                            \
    }
static const struct sl_zone_config zones[] = {
    ZONE(SL_COILS, 0, 10, coils),
    { .format = SL_COILS,
      .address = 20,
      .n = 2,
      .from_hub = true,
      .refs = ref_coils,
      .n_refs = 2 },
    ZONE(SL_INPUT_BITS, 100, 16, bits),
    ZONE(SL_HOLDING, 0, 10, holding),
    HUB_ZONE(50, 4, hub),
    HUB_ZONE(60, 1, secret),
    HUB_ZONE(70, 1, nobody),
    { .format = SL_HOLDING,
      .address = 80,
      .n = 1,
      .from_hub = true,
      .scaling = { true, 0.5, 10 },
      .refs = scaled,
      .n_refs = 1 },
    ZONE(SL_HOLDING, 90, 2, halves),
    ZONE(SL_HOLDING, 65535, 1, last),
    ZONE(SL_INPUT, 0, 1, inputs),
};
static const struct sl_config config = {
    .provider = "slave", .source = "local_device", .zones = zones, .n_zones = ARRAY_LEN(zones)
};

enum { NO_LEVEL = 1, NO_FLOW, NO_ONLY_READ, NO_SECRET, NO_SCALED, NO_ON, NO_OFF };

static struct tag_def
def(uint32_t no, uint8_t type, const char *name)
{
    struct tag_def d = { .no = no, .type = type, .access = RW, .provider = "m", .source = "d" };
    (void)snprintf(d.name, sizeof(d.name), "%s", name);
    return d;
}

static void
hub_says(uint32_t no, uint8_t quality, struct tag_value v)
{
    struct tag_sample s = { .no = no, .quality = quality, .ts_us = 1, .value = v };
    tagview_samples(w.view, "modbusd", &s, 1, false);
}

static struct tag_value
number(uint8_t type, uint64_t u)
{
    return (struct tag_value){ .type = type, .u = u };
}

static struct tag_value
real(uint8_t type, double d)
{
    return (struct tag_value){ .type = type, .d = d };
}

static int
setup(void **state)
{
    (void)state;
    memset(&w, 0, sizeof(w));
    struct sl_engine_hooks hooks = { .sample = on_sample, .write = on_write };
    const struct tag_def defs[] = {
        def(NO_LEVEL, TAG_UINT16, "level"),
        def(NO_FLOW, TAG_FLOAT, "flow"),
        def(NO_ONLY_READ, TAG_UINT16, "only_read"),
        def(NO_SECRET, TAG_UINT16, "secret"),
        def(NO_SCALED, TAG_INT16, "scaled"),
        def(NO_ON, TAG_BOOLEAN, "on"),
        def(NO_OFF, TAG_BOOLEAN, "off"),
    };
    assert_int_equal(loop_new(&w.loop), 0);
    assert_int_equal(loop_round(w.loop, 0), 0);
    assert_int_equal(tagview_new(&w.view), 0);
    assert_int_equal(sl_map_new(w.loop, w.view, &hooks, &config, &w.map), 0);
    assert_int_equal(tagview_catalogue(w.view, "modbusd", defs, ARRAY_LEN(defs)), 0);
    hub_says(NO_LEVEL, TAG_GOOD, number(TAG_UINT16, 0x1234));
    hub_says(NO_FLOW, TAG_GOOD, real(TAG_FLOAT, 1.0));
    hub_says(NO_ONLY_READ, TAG_GOOD, number(TAG_UINT16, 7));
    hub_says(NO_SCALED, TAG_GOOD, (struct tag_value){ .type = TAG_INT16, .i = -5 });
    hub_says(NO_ON, TAG_GOOD, (struct tag_value){ .type = TAG_BOOLEAN, .b = true });
    hub_says(NO_OFF, TAG_GOOD, (struct tag_value){ .type = TAG_BOOLEAN, .b = false });
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    sl_map_retire(w.map);
    tagview_free(w.view);
    loop_free(w.loop);
    return 0;
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

/* Asks and compares; an answer of "" is one that comes later. */
static struct sl_job *
ask(const char *request, const char *answer)
{
    uint8_t pdu[512], want[512], out[MB_PDU_MAX];
    struct sl_job *job = NULL;
    size_t n = from_hex(request, pdu), n_want = from_hex(answer, want);
    size_t got = sl_serve(w.map, w.slave, pdu, n, out, on_answer, NULL, &job);
    if (got != n_want || memcmp(out, want, got) != 0) {
        print_error("request %s, wanted %s, got", request, answer);
        for (size_t i = 0; i < got; i++)
            print_error(" %02x", out[i]);
        print_error("\n");
        fail();
    }
    return job;
}

struct row {
    const char *request, *answer;
};

static void
ask_all(const struct row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        (void)ask(rows[i].request, rows[i].answer);
}

/* ---- reads ---- */

static void
fresh_tables_read_as_zero(void **state)
{
    (void)state;
    static const struct row rows[] = {
        { "01 0000 000a", "01 02 00 00" },
        { "02 0064 0010", "02 02 00 00" },
        { "03 0000 000a", "03 14 00000000000000000000 00000000000000000000" },
        { "04 0000 0001", "04 02 0000" },
        { "03 ffff 0001", "03 02 0000" },
    };
    ask_all(rows, ARRAY_LEN(rows));
}

static void
hub_tags_are_read_as_the_hub_told_them(void **state)
{
    (void)state;
    static const struct row rows[] = {
        { "03 0032 0004", "03 08 1234 3f800000 0007" },
        { "03 0033 0001", "03 02 3f80" }, /* half of a float: that half */
        { "03 0050 0001", "03 02 ffe2" }, /* (-5 - 10) / 0.5 = -30 */
        { "01 0014 0002", "01 01 01" },
    };
    ask_all(rows, ARRAY_LEN(rows));
    hub_says(NO_FLOW, TAG_UNCERTAIN, real(TAG_FLOAT, -2.0));
    (void)ask("03 0033 0002", "03 04 c0000000");
}

static void
a_hub_tag_without_a_good_value_is_refused_and_so_is_what_contains_it(void **state)
{
    (void)state;
    hub_says(NO_FLOW, TAG_BAD_TIMEOUT, real(TAG_FLOAT, 1.0));
    (void)ask("03 0032 0004", "83 0b");
    (void)ask("03 0032 0001", "03 02 1234"); /* its neighbour has one */
    hub_says(NO_FLOW, TAG_BAD_CONFIG, real(TAG_FLOAT, 1.0));
    (void)ask("03 0033 0002", "83 0a");
    hub_says(NO_FLOW, TAG_GOOD, real(TAG_FLOAT, 1.0));
    (void)ask("03 0033 0002", "03 04 3f800000");
    (void)ask("03 0046 0001", "83 0a"); /* nobody lists it */
    hub_says(NO_SCALED, TAG_GOOD, (struct tag_value){ .type = TAG_INT16, .i = 32767 });
    (void)ask("03 0050 0001", "83 04"); /* (32767 - 10) / 0.5 is no int16 */
    tagview_presence(w.view, "modbusd", false);
    (void)ask("03 0032 0001", "83 0b");
}

static void
a_tag_whose_type_is_another_in_the_hub_is_not_guessed(void **state)
{
    (void)state;
    const struct tag_def d = def(NO_LEVEL, TAG_FLOAT, "level");
    assert_int_equal(tagview_catalogue(w.view, "modbusd", &d, 1), 0);
    hub_says(NO_LEVEL, TAG_GOOD, real(TAG_FLOAT, 1));
    (void)ask("03 0032 0001", "83 0a");
}

static void
reads_are_checked_in_the_order_of_the_state_diagrams(void **state)
{
    (void)state;
    static const struct row rows[] = {
        /* quantity before address (6.1 to 6.4) */
        { "01 0000 0000", "81 03" },
        { "01 0000 07d1", "81 03" },
        { "01 ffff 07d1", "81 03" },
        { "01 0000 07d0", "81 02" },
        { "02 0064 0000", "82 03" },
        { "02 0064 07d1", "82 03" },
        { "02 0063 0001", "82 02" },
        { "02 0064 0011", "82 02" },
        { "03 0000 0000", "83 03" },
        { "03 0000 007e", "83 03" },
        { "03 0000 007d", "83 02" },
        { "03 000a 0001", "83 02" },
        { "03 ffff 0002", "83 02" },
        { "04 0000 0000", "84 03" },
        { "04 0000 007e", "84 03" },
        { "04 0001 0001", "84 02" },
        { "04 ffff 0001", "84 02" },
        { "03 003c 0001", "83 02" }, /* only to be written */
        /* length */
        { "03", "83 03" },
        { "03 0000 00", "83 03" },
        { "03 0000 0001 00", "83 03" },
        { "01 0000 0001 00", "81 03" },
        /* function (7: code 01) */
        { "00", "80 01" },
        { "07", "87 01" },
        { "08 0000 1234", "88 01" },
        { "0b", "8b 01" },
        { "11", "91 01" },
        { "14 00", "94 01" },
        { "16 0000 00f2 0025", "96 01" },
        { "18 0000", "98 01" },
        { "2b 0e 01 00", "ab 01" },
        { "64", "e4 01" },
        { "7f", "ff 01" },
        { "83 01", "83 01" },
    };
    ask_all(rows, ARRAY_LEN(rows));
}

/* ---- writes ---- */

static void
writes_are_answered_by_the_book_and_read_back(void **state)
{
    (void)state;
    static const struct row rows[] = {
        { "05 0001 ff00", "05 0001 ff00" },
        { "01 0000 0008", "01 01 02" },
        { "05 0001 0000", "05 0001 0000" },
        { "01 0000 0008", "01 01 00" },
        { "0f 0002 0005 01 1d", "0f 0002 0005" },
        { "01 0000 0008", "01 01 74" },
        { "06 0000 beef", "06 0000 beef" },
        { "10 0001 0005 0a ffff fffe 616263 000000", "10 0001 0005" },
        { "03 0000 0006", "03 0c beef ffff fffe 616263 000000" },
        { "17 0000 0002 0001 0002 04 0000 0005", "17 04 beef 0000" },
        { "03 0001 0002", "03 04 0000 0005" },
        { "06 ffff 0001", "06 ffff 0001" },
    };
    ask_all(rows, ARRAY_LEN(rows));
    assert_int_equal(w.n_calls, 0);
}

static void
a_faulty_write_is_refused_and_changes_nothing(void **state)
{
    (void)state;
    static const struct row rows[] = {
        { "05 0000 0001", "85 03" }, /* neither ON nor OFF */
        { "05 0000 ff01", "85 03" },
        { "05 ffff 0001", "85 03" }, /* value before address */
        { "05 0008 ff00", "85 02" }, /* in the zone, of no tag */
        { "05 000a ff00", "85 02" },
        { "05 0000 ff", "85 03" },
        { "06 0000", "86 03" },
        { "06 0000 1111 00", "86 03" },
        { "06 0006 1111", "86 02" },
        { "06 0005 1111 ", "06 0005 1111" }, /* a register of a string, by itself */
        { "06 0005 0000 ", "06 0005 0000" },
        { "06 0035 1111", "86 02" }, /* only to be read */
        { "06 005b 1111", "86 02" }, /* own, only for the hub to write */
        { "0f 0000 0000 01 ff", "8f 03" },
        { "0f 0000 07b1 f7", "8f 03" },
        { "0f 0000 0009 01 ff", "8f 03" }, /* count and quantity */
        { "0f 0000 0008 02 ffff", "8f 03" },
        { "0f 0000 0008 01", "8f 03" }, /* count and length */
        { "0f 0000 0008 01 ff 00", "8f 03" },
        { "0f 0000 0009 02 ffff", "8f 02" }, /* reaches what no tag covers */
        { "0f 0000 0008", "8f 03" },
        { "10 0000 0000 00", "90 03" },
        { "10 0000 007c f8", "90 03" },
        { "10 0000 0001 03 1111", "90 03" },
        { "10 0000 0001 02 11", "90 03" },
        { "10 0000 0001 02 1111 22", "90 03" },
        { "10 0005 0002 04 1111 2222", "90 02" },
        { "10 ffff 0002 04 1111 2222", "90 02" },
        { "17 0000 0000 0000 0001 02 1111", "97 03" },
        { "17 0000 007e 0000 0001 02 1111", "97 03" },
        { "17 0000 0001 0000 0000 00", "97 03" },
        { "17 0000 0001 0000 007a f4", "97 03" },
        { "17 0000 0001 0000 0001 04 1111", "97 03" },
        { "17 0000 0001 0000 0001 02", "97 03" },
        { "17 0000 0001 0000", "97 03" },
        { "17 0064 0001 0000 0001 02 1111", "97 02" }, /* where it reads, before it writes */
        { "17 0000 0001 0064 0001 02 1111", "97 02" },
        { "03 0000 0006", "03 0c 0000 0000 0000 0000 0000 0000" },
        { "01 0000 000a", "01 02 0000" },
    };
    ask_all(rows, ARRAY_LEN(rows));
}

static void
the_hub_hears_of_each_tag_that_a_client_wrote(void **state)
{
    (void)state;
    (void)ask("10 0000 0003 06 0102 ffff fffe", "10 0000 0003");
    assert_int_equal(w.n_samples, 2);
    assert_int_equal(w.samples[0].no, SL_TAG_BASE + ID_H0);
    assert_int_equal(w.samples[0].value.u, 0x0102);
    assert_int_equal(w.samples[1].no, SL_TAG_BASE + ID_H1);
    assert_int_equal(w.samples[1].value.i, -2);
    assert_int_equal(w.samples[1].quality, TAG_GOOD);
    (void)ask("06 0002 0000", "06 0002 0000"); /* its lower half */
    assert_int_equal(w.n_samples, 3);
    assert_int_equal(w.samples[2].value.i, -65536);
    (void)ask("06 005a 80ff", "06 005a 80ff"); /* two tags in a register */
    assert_int_equal(w.n_samples, 5);
    assert_int_equal(w.samples[3].value.u, 0x80);
    assert_int_equal(w.samples[4].value.i, -1);
}

static void
the_hub_writes_own_tags_and_clients_read_them(void **state)
{
    (void)state;
    struct tag_value v = number(TAG_UINT16, 0x5aa5);
    assert_int_equal(sl_map_write(w.map, SL_TAG_BASE + ID_I0, &v), 0);
    (void)ask("04 0000 0001", "04 02 5aa5");
    assert_int_equal(sl_map_write(w.map, SL_TAG_BASE + ID_DI, &v), 0);
    (void)ask("02 0064 0010", "02 02 a5 5a"); /* the first bit lowest */
    assert_int_equal(sl_map_write(w.map, SL_TAG_BASE + ID_W, &v), 0);
    (void)ask("03 005b 0001", "03 02 5aa5");
    v.type = TAG_UINT32;
    assert_int_equal(sl_map_write(w.map, SL_TAG_BASE + ID_I0, &v), -EINVAL);
    assert_int_equal(sl_map_write(w.map, SL_TAG_BASE + 99, &v), -ENOENT);
    struct tag_sample s;
    assert_int_equal(sl_map_read(w.map, SL_TAG_BASE + ID_W, &s), -EACCES);
    assert_int_equal(sl_map_read(w.map, SL_TAG_BASE + ID_I0, &s), 0);
    assert_int_equal(s.value.u, 0x5aa5);
    assert_int_equal(sl_map_read(w.map, SL_TAG_BASE + ID_H0, &s), 0);
    assert_int_equal(s.quality, TAG_BAD_NEVER);
}

/* ---- writes to owners ---- */

static void
a_write_to_a_hub_tag_is_answered_with_its_owners_outcome(void **state)
{
    (void)state;
    static const struct {
        enum sl_written outcome;
        const char *answer;
    } rows[] = {
        { SL_WRITTEN, "06 0032 0042" }, { SL_WRITE_REFUSED, "86 04" },
        { SL_WRITE_BUSY, "86 06" },     { SL_WRITE_AWAY, "86 0b" },
        { SL_WRITE_UNSURE, "86 0b" },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        w.outcome = rows[i].outcome;
        (void)ask("06 0032 0042", rows[i].answer);
        assert_int_equal(w.n_calls, i + 1);
        assert_string_equal(w.calls[i].name, "level");
        assert_int_equal(w.calls[i].v.type, TAG_UINT16);
        assert_int_equal(w.calls[i].v.u, 0x42);
    }
    (void)ask("03 0032 0001", "03 02 1234"); /* as the owner told it last */
    (void)ask("06 0046 0001", "86 0a");      /* nobody owns it */
    assert_int_equal(w.n_calls, ARRAY_LEN(rows));
}

static void
a_value_goes_to_the_owner_in_its_own_type(void **state)
{
    (void)state;
    (void)ask("10 0033 0002 04 c0200000", "10 0033 0002");
    assert_int_equal(w.calls[0].v.type, TAG_FLOAT);
    assert_true(w.calls[0].v.d == -2.5);
    (void)ask("06 0050 ffe2", "06 0050 ffe2");
    assert_int_equal(w.calls[1].v.type, TAG_INT16);
    assert_int_equal(w.calls[1].v.i, -5);
    (void)ask("05 0014 0000", "05 0014 0000");
    assert_int_equal(w.calls[2].v.type, TAG_BOOLEAN);
    assert_false(w.calls[2].v.b);
    (void)ask("06 003c 0009", "06 003c 0009"); /* one that can only be written */
    assert_string_equal(w.calls[3].name, "secret");
}

static void
part_of_a_hub_tag_or_no_number_is_not_written(void **state)
{
    (void)state;
    static const struct row rows[] = {
        { "06 0033 c020", "86 03" },
        { "10 0032 0002 04 0001 c020", "90 03" },
        { "10 0033 0002 04 7fc00000", "90 03" }, /* NaN */
        { "10 0033 0002 04 7f800000", "90 03" },
    };
    ask_all(rows, ARRAY_LEN(rows));
    assert_int_equal(w.n_calls, 0);
}

static void
tags_are_written_in_order_and_the_first_failure_ends_it(void **state)
{
    (void)state;
    w.later = true;
    struct sl_job *job = ask("10 0032 0003 06 0001 3f800000", "");
    assert_non_null(job);
    assert_int_equal(w.n_calls, 1);
    assert_string_equal(w.calls[0].name, "level");
    w.calls[0].fn(w.calls[0].arg, SL_WRITTEN);
    assert_int_equal(w.n_answers, 0);
    assert_int_equal(w.n_calls, 2);
    w.calls[1].fn(w.calls[1].arg, SL_WRITTEN);
    assert_int_equal(w.n_answers, 1);
    assert_memory_equal(w.answer, "\x10\x00\x32\x00\x03", 5);

    (void)ask("10 0032 0003 06 0001 3f800000", "");
    w.calls[2].fn(w.calls[2].arg, SL_WRITE_UNSURE);
    assert_int_equal(w.n_calls, 3); /* the second was not begun */
    assert_int_equal(w.n_answers, 2);
    assert_memory_equal(w.answer, "\x90\x0b", 2);
}

static void
function_23_reads_after_its_write_was_confirmed(void **state)
{
    (void)state;
    w.later = true;
    (void)ask("17 0032 0001 0032 0001 02 0042", "");
    hub_says(NO_LEVEL, TAG_GOOD, number(TAG_UINT16, 0x42));
    w.calls[0].fn(w.calls[0].arg, SL_WRITTEN);
    assert_int_equal(w.n_answer, 4);
    assert_memory_equal(w.answer, "\x17\x02\x00\x42", 4);
}

static void
a_write_goes_on_when_nobody_waits_or_the_map_is_exchanged(void **state)
{
    (void)state;
    w.later = true;
    struct sl_job *job = ask("10 0032 0003 06 0001 3f800000", "");
    sl_job_forget(job);
    struct sl_engine_hooks hooks = { .sample = on_sample, .write = on_write };
    struct sl_map *next = NULL;
    assert_int_equal(sl_map_new(w.loop, w.view, &hooks, &config, &next), 0);
    sl_map_inherit(next, w.map);
    sl_map_retire(w.map);
    w.map = next;
    w.calls[0].fn(w.calls[0].arg, SL_WRITTEN);
    assert_int_equal(w.n_calls, 2);
    w.calls[1].fn(w.calls[1].arg, SL_WRITTEN); /* the sanitizer sees whether all is freed */
    assert_int_equal(w.n_answers, 0);
}

/* ---- exchange and places ---- */

static void
own_values_outlive_an_exchange_of_the_map(void **state)
{
    (void)state;
    (void)ask("10 0000 0003 06 beef 0000 0007", "10 0000 0003");
    struct sl_engine_hooks hooks = { .sample = on_sample };
    static const struct sl_tag_config other[] = { OWN(ID_H1, "h1", MB_INT32, 0, 0),
                                                  OWN(ID_H0, "h0", MB_INT16, 0, 4) };
    static const struct sl_zone_config moved[] = { ZONE(SL_INPUT, 500, 10, other) };
    const struct sl_config cfg = {
        .provider = "p", .source = "s", .zones = moved, .n_zones = 1
    };
    struct sl_map *next = NULL;
    assert_int_equal(sl_map_new(w.loop, w.view, &hooks, &cfg, &next), 0);
    sl_map_inherit(next, w.map);
    sl_map_retire(w.map);
    w.map = next;
    (void)ask("04 01f4 0003", "04 06 00000007 0000"); /* h0 has another type now */
    (void)ask("03 0000 0001", "83 02");
}

static void
a_zone_of_one_serial_slave_is_not_there_for_others(void **state)
{
    static const struct sl_zone_config shown[] = {
        { .format = SL_HOLDING, .address = 0, .n = 2 },
        { .format = SL_HOLDING, .address = 2, .n = 2, .only = 3 },
        { .format = SL_COILS, .address = 0, .n = 8, .only = 4 },
    };
    const struct sl_config cfg = {
        .provider = "s", .source = "l", .zones = shown, .n_zones = ARRAY_LEN(shown)
    };
    const struct sl_engine_hooks hooks = { .sample = on_sample };
    (void)state;
    sl_map_retire(w.map);
    assert_int_equal(sl_map_new(w.loop, w.view, &hooks, &cfg, &w.map), 0);
    for (w.slave = 0; w.slave < 5; w.slave++) {
        (void)ask("03 0000 0002", "03 04 0000 0000");
        (void)ask("03 0002 0002", w.slave == 3 ? "03 04 0000 0000" : "83 02");
        (void)ask("03 0001 0002", w.slave == 3 ? "03 04 0000 0000" : "83 02");
        (void)ask("01 0000 0008", w.slave == 4 ? "01 01 00" : "81 02");
        (void)ask("06 0003 0001", "86 02"); /* no tag is there */
        (void)ask("03 0003 ffff", "83 03");
        (void)ask("03 fff0 0010", "83 02");
    }
}

static void
a_tag_in_the_way_of_an_earlier_one_is_left_out_and_counted(void **state)
{
    (void)state;
    static const struct sl_tag_config list[] = { OWN(1, "a", MB_UINT32, 0, 0),
                                                 OWN(2, "b", MB_UINT16, 0, 2),
                                                 OWN(3, "c", MB_UINT16, 0, 4),
                                                 OWN(4, "d", MB_UINT32, 0, 4096) };
    static const struct sl_zone_config both[] = {
        ZONE(SL_HOLDING, 0, 3, list),
        { .format = SL_HOLDING,
          .address = -1,
          .n = 1,
          .from_hub = true,
          .refs = nobody,
          .n_refs = 1 },
    };
    const struct sl_config cfg = {
        .provider = "p", .source = "s", .zones = both, .n_zones = 2
    };
    struct sl_engine_hooks hooks = { .sample = on_sample };
    struct sl_map *m = NULL;
    assert_int_equal(sl_map_new(w.loop, w.view, &hooks, &cfg, &m), 0);
    struct sl_stats s = { 0 };
    sl_map_count(m, &s);
    assert_int_equal(s.n_tags, 4);
    assert_int_equal(s.n_refs, 1);
    assert_int_equal(s.n_misplaced, 3);
    assert_int_equal(s.n_unknown, 1);
    struct tag_sample sample;
    assert_int_equal(sl_map_read(m, SL_TAG_BASE + 2, &sample), 0);
    assert_int_equal(sample.quality, TAG_BAD_CONFIG);
    sl_map_retire(m);
}

static void
every_type_and_swap_has_the_same_bytes_as_in_a_master(void **state)
{
    (void)state;
    static const char *const want[MB_SWAP_MAX + 1] = {
        "03 04 41424344", "03 04 42414443", "03 04 43444142",
        "03 04 44434241", "03 04 44434241", "03 04 43444142",
    };
    for (uint8_t swap = 0; swap <= MB_SWAP_MAX; swap++) {
        static const struct sl_tag_config list[] = { OWN(1, "a", MB_UINT32, 0, 0) };
        struct sl_zone_config z = ZONE(SL_HOLDING, 0, 2, list);
        z.swap = swap;
        const struct sl_config cfg = {
            .provider = "p", .source = "s", .zones = &z, .n_zones = 1
        };
        struct sl_engine_hooks hooks = { .sample = on_sample };
        struct sl_map *m = NULL, *kept = w.map;
        struct tag_value v = number(TAG_UINT32, 0x41424344);
        assert_int_equal(sl_map_new(w.loop, w.view, &hooks, &cfg, &m), 0);
        assert_int_equal(sl_map_write(m, SL_TAG_BASE + 1, &v), 0);
        w.map = m;
        (void)ask("03 0000 0002", want[swap]);
        struct tag_sample s;
        assert_int_equal(sl_map_read(m, SL_TAG_BASE + 1, &s), 0);
        assert_int_equal(s.value.u, 0x41424344);
        w.map = kept;
        sl_map_retire(m);
    }
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
int
main(void)
{
    const struct CMUnitTest all[] = {
        TEST(fresh_tables_read_as_zero),
        TEST(hub_tags_are_read_as_the_hub_told_them),
        TEST(a_hub_tag_without_a_good_value_is_refused_and_so_is_what_contains_it),
        TEST(a_tag_whose_type_is_another_in_the_hub_is_not_guessed),
        TEST(reads_are_checked_in_the_order_of_the_state_diagrams),
        TEST(writes_are_answered_by_the_book_and_read_back),
        TEST(a_faulty_write_is_refused_and_changes_nothing),
        TEST(the_hub_hears_of_each_tag_that_a_client_wrote),
        TEST(the_hub_writes_own_tags_and_clients_read_them),
        TEST(a_write_to_a_hub_tag_is_answered_with_its_owners_outcome),
        TEST(a_value_goes_to_the_owner_in_its_own_type),
        TEST(part_of_a_hub_tag_or_no_number_is_not_written),
        TEST(tags_are_written_in_order_and_the_first_failure_ends_it),
        TEST(function_23_reads_after_its_write_was_confirmed),
        TEST(a_write_goes_on_when_nobody_waits_or_the_map_is_exchanged),
        TEST(own_values_outlive_an_exchange_of_the_map),
        TEST(a_zone_of_one_serial_slave_is_not_there_for_others),
        TEST(a_tag_in_the_way_of_an_earlier_one_is_left_out_and_counted),
        TEST(every_type_and_swap_has_the_same_bytes_as_in_a_master),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
