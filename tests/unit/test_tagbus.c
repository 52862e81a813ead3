/*
 * The tag bus: values and bytes, a provider and its subscriber, losses,
 * restarts. Provider and subscriber mostly share this process and its loop;
 * where one must die, this program is started once more.
 *
 * usage: test_tagbus [provide DIR]
 */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "libcommon/tagbus.h"
#include "proto/internal.h"

extern char **environ;

enum { SECOND_US = 1000000 };

/* ---- values ---- */

static void
assert_json(const struct tag_value *v, const char *text)
{
    struct buf b;
    buf_init(&b, 10000);
    tag_value_json(&b, v);
    assert_string_equal(buf_text(&b), text);
    buf_done(&b);
}

static void
values_become_exact_json(void **state)
{
    (void)state;
    assert_json(&(struct tag_value){ .type = TAG_BOOLEAN, .u = 1 }, "true");
    assert_json(&(struct tag_value){ .type = TAG_INT64, .i = INT64_MIN },
                "-9223372036854775808");
    assert_json(&(struct tag_value){ .type = TAG_UINT64, .u = UINT64_MAX },
                "18446744073709551615");
    assert_json(&(struct tag_value){ .type = TAG_FLOAT, .d = (double)0.1f }, "0.1");
    assert_json(&(struct tag_value){ .type = TAG_DOUBLE, .d = 0.1 }, "0.1");
    assert_json(&(struct tag_value){ .type = TAG_DOUBLE, .d = (double)NAN }, "null");
    assert_json(&(struct tag_value){ .type = TAG_STRING,
                                     .bytes = (const uint8_t *)"a\"b",
                                     .n_bytes = 3 },
                "\"a\\\"b\"");
    assert_json(&(struct tag_value){ .type = TAG_RAW,
                                     .bytes = (const uint8_t *)"\x01\xfe",
                                     .n_bytes = 2 },
                "\"01FE\"");
}

static void
json_becomes_a_value_of_its_type_or_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        uint8_t type;
        int expect;
        const char *back; /* NULL: the same */
    } cases[] = {
        { "true", TAG_BOOLEAN, 0, NULL },
        { "1", TAG_BOOLEAN, -EINVAL, NULL },
        { "-128", TAG_INT8, 0, NULL },
        { "-129", TAG_INT8, -ERANGE, NULL },
        { "128", TAG_INT8, -ERANGE, NULL },
        { "1.0", TAG_INT8, -EINVAL, NULL },
        { "\"1\"", TAG_INT16, -EINVAL, NULL },
        { "32767", TAG_INT16, 0, NULL },
        { "2147483648", TAG_INT32, -ERANGE, NULL },
        { "-9223372036854775808", TAG_INT64, 0, NULL },
        { "9223372036854775808", TAG_INT64, -ERANGE, NULL },
        { "255", TAG_UINT8, 0, NULL },
        { "256", TAG_UINT8, -ERANGE, NULL },
        { "-1", TAG_UINT8, -ERANGE, NULL },
        { "-1.5", TAG_UINT8, -EINVAL, NULL },
        { "65536", TAG_UINT16, -ERANGE, NULL },
        { "4294967295", TAG_UINT32, 0, NULL },
        { "18446744073709551615", TAG_UINT64, 0, NULL },
        { "18446744073709551616", TAG_UINT64, -ERANGE, NULL },
        { "9007199254740993", TAG_UINT64, 0, NULL },
        { "0.1", TAG_FLOAT, 0, NULL },
        { "1e39", TAG_FLOAT, -ERANGE, NULL },
        { "1e39", TAG_DOUBLE, 0, "1e+39" },
        { "1e400", TAG_DOUBLE, -ERANGE, NULL },
        { "null", TAG_DOUBLE, -EINVAL, NULL },
        { "\"four\"", TAG_STRING, 0, NULL },
        { "\"fives\"", TAG_STRING, -ERANGE, NULL },
        { "4", TAG_STRING, -EINVAL, NULL },
        { "\"00ff10\"", TAG_RAW, 0, "\"00FF10\"" },
        { "\"00f\"", TAG_RAW, -EINVAL, NULL },
        { "\"0x\"", TAG_RAW, -EINVAL, NULL },
        { "\"0011223344\"", TAG_RAW, -ERANGE, NULL },
        { "1", 0, -EINVAL, NULL },
        { "1", TAG_RAW + 1, -EINVAL, NULL },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct cJSON *tree = NULL;
        struct json_error error;
        struct tag_value v = { 0 };
        assert_int_equal(json_parse(cases[i].json, strlen(cases[i].json), &tree, &error), 0);
        assert_int_equal(tag_value_from_json(tree, cases[i].type, 4, &v), cases[i].expect);
        if (cases[i].expect == 0)
            assert_json(&v, cases[i].back != NULL ? cases[i].back : cases[i].json);
        tag_value_done(&v);
        json_free(tree);
    }
}

static void
types_and_qualities_have_names(void **state)
{
    (void)state;
    assert_string_equal(tag_type_text(TAG_BOOLEAN), "boolean");
    assert_string_equal(tag_type_text(TAG_RAW), "raw");
    assert_string_equal(tag_quality_text(TAG_BAD_TIMEOUT), "timeout");
    assert_string_equal(tag_quality_text(200), "unknown");
}

/* ---- bytes ---- */

static struct tag_sample
number_sample(uint32_t no, uint64_t value)
{
    return (struct tag_sample){
        .no = no,
        .ts_us = 1700000000000000 + (int64_t)value,
        .value = { .type = TAG_UINT64, .u = value },
    };
}

static void
a_batch_comes_back_as_it_was(void **state)
{
    (void)state;
    static const uint8_t text[] = "hello";
    struct tag_batch_builder b;
    struct bus_str message;
    struct tag_batch batch;
    static struct tag_sample got[TAG_BATCH_MAX];
    struct rd in;
    tag_batch_builder_init(&b);
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < TAG_BATCH_MAX; i++) {
            struct tag_sample s = number_sample(i + 1, UINT64_MAX - i);
            s.quality = (uint8_t)(i % (TAG_BAD_OFFLINE + 1));
            s.aux = (uint8_t)i;
            if (i % 3 == 1)
                s.value = (struct tag_value){ .type = TAG_STRING,
                                              .bytes = text,
                                              .n_bytes = (uint16_t)(i % 6) };
            assert_int_equal(tag_batch_put(&b, &s), 0);
        }
        struct tag_sample more = number_sample(1, 1);
        assert_int_equal(tag_batch_put(&b, &more), -E2BIG);
        assert_int_equal(tag_batch_finish(&b, 7, 9, 3, &message), 0);
        rd_init(&in, message.p, message.len);
        assert_int_equal(tag_batch_open(&in, &batch), 0);
        assert_true(batch.epoch == 7 && batch.seq == 9 && batch.generation == 3);
        assert_int_equal(batch.count, TAG_BATCH_MAX);
        assert_int_equal(tag_batch_samples(&in, &batch, got), 0);
        for (uint32_t i = 0; i < TAG_BATCH_MAX; i++) {
            assert_int_equal(got[i].no, i + 1);
            assert_int_equal(got[i].quality, i % (TAG_BAD_OFFLINE + 1));
            assert_int_equal(got[i].aux, (uint8_t)i);
            if (i % 3 == 1) {
                assert_int_equal(got[i].value.type, TAG_STRING);
                assert_int_equal(got[i].value.n_bytes, i % 6);
                assert_memory_equal(got[i].value.bytes, text, i % 6);
            } else {
                assert_true(got[i].value.u == UINT64_MAX - i);
                assert_true(got[i].ts_us == 1700000000000000 + (int64_t)(UINT64_MAX - i));
            }
        }
    }
    assert_int_equal(tag_batch_finish(&b, 7, 10, 3, &message), 0);
    rd_init(&in, message.p, message.len);
    assert_int_equal(tag_batch_open(&in, &batch), 0);
    assert_int_equal(batch.count, 0);
    tag_batch_builder_done(&b);
}

static void
texts_fill_a_batch_before_its_count_does(void **state)
{
    (void)state;
    static const uint8_t text[TAG_BYTES_MAX];
    struct tag_batch_builder b;
    struct bus_str message;
    struct tag_sample s = { .no = 1, .value = { .type = TAG_RAW, .bytes = text } };
    s.value.n_bytes = TAG_BYTES_MAX;
    unsigned n = 0;
    tag_batch_builder_init(&b);
    while (tag_batch_put(&b, &s) == 0)
        n++;
    assert_int_equal(n, (1 << 20) / TAG_BYTES_MAX);
    assert_int_equal(tag_batch_finish(&b, 1, 1, 1, &message), 0);
    assert_int_equal(message.len, 32 + n * 24 + n * TAG_BYTES_MAX);
    assert_int_equal(tag_batch_put(&b, &s), 0);
    tag_batch_builder_done(&b);
}

/* A batch of one number and one text, in 'out'; returns its size. */
static size_t
small_batch(uint8_t out[128])
{
    struct tag_batch_builder b;
    struct bus_str message;
    struct tag_sample s = number_sample(1, 5);
    tag_batch_builder_init(&b);
    assert_int_equal(tag_batch_put(&b, &s), 0);
    s.value =
        (struct tag_value){ .type = TAG_STRING, .bytes = (const uint8_t *)"abc", .n_bytes = 3 };
    assert_int_equal(tag_batch_put(&b, &s), 0);
    assert_int_equal(tag_batch_finish(&b, 1, 1, 1, &message), 0);
    memcpy(out, message.p, message.len);
    tag_batch_builder_done(&b);
    return message.len;
}

static int
read_batch(const uint8_t *bytes, size_t n)
{
    struct rd in;
    struct tag_batch batch;
    struct tag_sample got[8];
    rd_init(&in, bytes, n);
    int r = tag_batch_open(&in, &batch);
    if (r == 0 && batch.count > 8)
        return -EBADMSG;
    return r < 0 ? r : tag_batch_samples(&in, &batch, got);
}

static void
a_damaged_batch_is_refused(void **state)
{
    (void)state;
    /* offset, value: header fields, then the second sample (from 56 on) */
    static const struct {
        size_t at;
        uint8_t value;
    } cases[] = {
        { 0, 'G' }, { 1, 'G' }, { 2, 2 },  { 3, 1 },   { 25, 1 }, { 25, 3 }, { 27, 1 },
        { 31, 2 },  { 31, 4 },  { 36, 0 }, { 36, 14 }, { 36, 1 }, { 37, 9 }, { 39, 1 },
        { 60, 14 }, { 75, 4 },  { 75, 2 }, { 72, 1 },  { 79, 4 }, { 76, 1 },
    };
    uint8_t bytes[128];
    size_t n = small_batch(bytes);
    assert_int_equal(n, 32 + 2 * 24 + 3);
    assert_int_equal(read_batch(bytes, n), 0);
    for (size_t cut = 0; cut < n; cut++)
        assert_int_equal(read_batch(bytes, cut), -EBADMSG);
    assert_int_equal(read_batch(bytes, n + 1), -EBADMSG);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        (void)small_batch(bytes);
        bytes[cases[i].at] = cases[i].value;
        assert_int_equal(read_batch(bytes, n), -EBADMSG);
    }
}

static void
definitions_and_single_samples_come_back(void **state)
{
    (void)state;
    struct tag_def d = {
        .no = 70000,
        .type = TAG_STRING,
        .access = TAG_ACCESS_READ | TAG_ACCESS_WRITE,
        .size = 40,
        .interval_ms = 1000,
        .provider = "modbus_tcp_master",
        .source = "pump",
        .name = "température",
        .unit = "°C",
    };
    struct tag_sample s = number_sample(3, 4);
    struct tag_def got;
    struct tag_sample got_sample;
    struct buf b;
    struct rd in;
    buf_init(&b, 10000);
    tag_def_encode(&b, &d);
    size_t def_size = b.len;
    tag_sample_encode(&b, &s);
    rd_init(&in, b.data, b.len);
    assert_int_equal(tag_def_decode(&in, &got), 0);
    assert_int_equal(got.no, 70000);
    assert_string_equal(got.name, d.name);
    assert_string_equal(got.unit, d.unit);
    assert_int_equal(tag_sample_decode(&in, &got_sample), 0);
    assert_true(rd_ended(&in));
    assert_true(tag_value_equal(&got_sample.value, &s.value));
    for (size_t cut = 0; cut < def_size; cut++) {
        rd_init(&in, b.data, cut);
        assert_int_equal(tag_def_decode(&in, &got), -EBADMSG);
    }
    b.data[def_size - 1] = (char)0xff; /* no UTF-8 any more */
    rd_init(&in, b.data, b.len);
    assert_int_equal(tag_def_decode(&in, &got), -EBADMSG);
    buf_done(&b);
}

/* ---- what a subscriber hears ---- */

static char dir[64];
static struct loop *loop;
static struct bus *bus;

#define RUN_UNTIL(condition)                                                                   \
    do {                                                                                       \
        uint64_t end_ = clock_mono_us() + 20 * SECOND_US;                                      \
        while (!(condition)) {                                                                 \
            assert_true(clock_mono_us() < end_);                                               \
            assert_int_equal(loop_round(loop, 10000), 0);                                      \
        }                                                                                      \
    } while (0)

enum { HEARD_TAGS = 64 };
struct heard {
    unsigned n_catalogue, n_up, n_down;
    bool up;
    size_t n_tags;
    uint64_t n_live, n_snapshot;
    uint64_t last[HEARD_TAGS]; /* value, by number */
    uint64_t backwards;        /* a value smaller than the one before */
    unsigned refuse;           /* so many catalogues */
    bool live_before_snapshot;
};

static int
heard_catalogue(void *arg, const char *daemon, const struct tag_def *defs, size_t n)
{
    (void)daemon;
    struct heard *h = arg;
    assert_true(h->up);
    assert_true(n == 0 || defs[0].no == 1);
    if (h->refuse > 0) {
        h->refuse--;
        return -ENOMEM;
    }
    h->n_catalogue++;
    h->n_tags = n;
    return 0;
}

static void
heard_samples(void *arg, const char *daemon, const struct tag_sample *s, size_t n,
              bool snapshot)
{
    (void)daemon;
    struct heard *h = arg;
    for (size_t i = 0; i < n; i++) {
        assert_true(s[i].no < HEARD_TAGS);
        h->backwards += s[i].value.u < h->last[s[i].no];
        h->last[s[i].no] = s[i].value.u;
    }
    h->live_before_snapshot |= !snapshot && h->n_snapshot == 0;
    *(snapshot ? &h->n_snapshot : &h->n_live) += n;
}

static void
heard_presence(void *arg, const char *daemon, bool up)
{
    (void)daemon;
    struct heard *h = arg;
    assert_true(h->up != up);
    h->up = up;
    h->n_up += up;
    h->n_down += !up;
}

static struct tag_sub *
listen_to(const char *daemon, struct heard *h)
{
    struct tag_sub *sub = NULL;
    struct tag_sub_events events = {
        .catalogue = heard_catalogue,
        .samples = heard_samples,
        .presence = heard_presence,
        .arg = h,
    };
    assert_int_equal(tag_sub_open(bus, loop, daemon, &events, &sub), 0);
    return sub;
}

/* ---- a real provider ---- */

struct provider {
    struct tag_pub *pub;
    size_t n_tags;
    uint64_t last[HEARD_TAGS];
    uint64_t counter;
};

static bool
provider_def(void *arg, size_t at, struct tag_def *d)
{
    struct provider *p = arg;
    if (at >= p->n_tags)
        return false;
    *d = (struct tag_def){ .no = (uint32_t)at + 1,
                           .type = TAG_UINT64,
                           .access = TAG_ACCESS_READ,
                           .provider = "test",
                           .source = "s" };
    (void)snprintf(d->name, sizeof(d->name), "t%zu", at);
    return true;
}

static bool
provider_last(void *arg, size_t at, struct tag_sample *s)
{
    struct provider *p = arg;
    if (at >= p->n_tags)
        return false;
    *s = number_sample((uint32_t)at + 1, p->last[at + 1]);
    return true;
}

static void
provider_add(struct provider *p, uint32_t no)
{
    struct tag_sample s = number_sample(no, ++p->counter);
    p->last[no] = p->counter;
    tag_pub_add(p->pub, &s);
}

static void
provider_serve(void *arg, struct bus_incoming *in)
{
    struct provider *p = arg;
    if (!tag_pub_serve(p->pub, in)) {
        struct bus_reply reply = { .status = 404 };
        bus_answer(in, &reply);
    }
}

static int
provider_open(struct provider *p, struct bus *on_bus, struct loop *on_loop, const char *daemon,
              size_t n_tags)
{
    struct tag_pub_source source = { .def = provider_def, .last = provider_last, .arg = p };
    p->n_tags = n_tags;
    int r = tag_pub_open(on_bus, on_loop, daemon, &source, &p->pub);
    return r < 0 ? r : bus_serve(on_bus, daemon, provider_serve, p);
}

static void
catalogue_then_snapshot_then_every_sample(void **state)
{
    (void)state;
    static struct provider p;
    static struct heard h;
    struct tag_sub_stats stats;
    assert_int_equal(provider_open(&p, bus, loop, "real", 10), 0);
    provider_add(&p, 3);
    struct tag_sub *sub = listen_to("real", &h);
    RUN_UNTIL(h.n_snapshot >= 10);
    assert_int_equal(h.n_tags, 10);
    assert_int_equal(h.n_up, 1);
    assert_true(h.last[3] == 1);
    assert_false(h.live_before_snapshot);
    RUN_UNTIL((provider_add(&p, 4), h.n_live > 0)); /* both ends are connected now */
    RUN_UNTIL(h.last[4] == p.counter);
    tag_sub_get_stats(sub, &stats);
    uint64_t before = h.n_live + stats.lost_batches;
    for (int i = 0; i < 20000; i++)
        provider_add(&p, (uint32_t)i % 10 + 1);
    RUN_UNTIL(h.n_live >= before + 20000);
    assert_true(h.n_live == before + 20000);
    assert_true(h.backwards == 0);
    tag_sub_get_stats(sub, &stats);
    assert_true(stats.lost_batches == 0 && stats.bad_batches == 0);
    struct tag_pub_stats sent;
    tag_pub_get_stats(p.pub, &sent);
    assert_true(sent.samples == p.counter);

    provider_add(&p, 11); /* in no catalogue yet */
    RUN_UNTIL((tag_pub_get_stats(p.pub, &sent), sent.samples == p.counter));
    p.n_tags = 12;
    tag_pub_changed(p.pub);
    RUN_UNTIL(h.n_catalogue == 2 && h.n_tags == 12 && h.last[11] == p.last[11]);
    provider_add(&p, 12);
    RUN_UNTIL(h.last[12] == p.counter);
    assert_true(h.backwards == 0);
}

static unsigned n_full, n_empty;

static void
count_batch(void *arg, const void *bytes, size_t n)
{
    (void)arg;
    struct rd in;
    struct tag_batch batch;
    rd_init(&in, bytes, n);
    assert_int_equal(tag_batch_open(&in, &batch), 0);
    n_full += batch.count > 0;
    n_empty += batch.count == 0;
}

static void
an_empty_batch_follows_a_second_after_a_change(void **state)
{
    (void)state;
    static struct provider p;
    struct bus_sub *raw = NULL;
    assert_int_equal(provider_open(&p, bus, loop, "beat", 1), 0);
    assert_int_equal(bus_sub_open(bus, "beat.tags", count_batch, NULL, &raw), 0);
    RUN_UNTIL((provider_add(&p, 1), n_full > 0));
    uint64_t changed_us = clock_mono_us();
    RUN_UNTIL(n_empty > 0);
    assert_true(clock_mono_us() - changed_us < 5 * SECOND_US); /* the next is 10 s away */
}

enum { BIG = 1 << 20 };
static unsigned n_big, n_big_lost;
static uint8_t last_big;

static void
count_big(void *arg, const void *bytes, size_t n)
{
    (void)arg;
    assert_true(n == BIG || n == 1);
    n_big += n == BIG;
    last_big = *(const uint8_t *)bytes;
}

static void
count_big_lost(void *arg)
{
    (void)arg;
    n_big_lost++;
}

static void
a_slow_subscriber_keeps_a_bounded_number_of_bytes(void **state)
{
    (void)state;
    static uint8_t bytes[BIG];
    struct bus_pub *pub = NULL;
    struct bus_sub *raw = NULL;
    assert_int_equal(bus_pub_open(bus, "big.tags", &pub), 0);
    assert_int_equal(bus_sub_open(bus, "big.tags", count_big, NULL, &raw), 0);
    bus_sub_on_lost(raw, count_big_lost, NULL);
    bytes[0] = 200;
    RUN_UNTIL((bus_pub_send(pub, bytes, 1) == 0) && last_big == 200);
    unsigned lost = n_big_lost;
    for (uint8_t i = 0; i < 60; i++) {
        bytes[0] = i;
        assert_int_equal(bus_pub_send(pub, bytes, BIG), 0);
        (void)usleep(5000);
    }
    RUN_UNTIL(last_big == 59);
    assert_in_range(n_big, 1, 30);
    assert_true(n_big_lost > lost);
}

/* ---- a provider made by hand: its answers wait for the test ---- */

static struct bus_incoming *asked[16];
static unsigned n_asked;
static struct bus_pub *fake_pub;
enum { FAKE_EPOCH = 77 };

static void
fake_serve(void *arg, struct bus_incoming *in)
{
    (void)arg;
    assert_true(n_asked < ARRAY_LEN(asked));
    asked[n_asked++] = in;
}

/* The oldest question: its operation, and where its page begins. */
static uint32_t
question(uint32_t *ret_from)
{
    RUN_UNTIL(n_asked > 0);
    const struct bus_request *r = bus_incoming_request(asked[0]);
    assert_int_equal(r->kind, BUS_KIND_INTERNAL);
    assert_int_equal(r->body.len, 4);
    *ret_from = get_u32((const uint8_t *)r->body.p);
    return r->op;
}

static void
answer_question(const struct buf *b)
{
    struct bus_reply reply = {
        .status = 200,
        .body_kind = BUS_BODY_BYTES,
        .body = { .p = b->data, .len = (uint32_t)b->len },
    };
    bus_answer(asked[0], &reply);
    memmove(asked, asked + 1, --n_asked * sizeof(asked[0]));
}

static void
page_begin(struct buf *b, uint64_t epoch, uint32_t generation, uint64_t seq, uint32_t next,
           uint32_t count)
{
    buf_init(b, 100000);
    buf_put_u64(b, epoch);
    buf_put_u32(b, generation);
    buf_put_u64(b, seq);
    buf_put_u32(b, next);
    buf_put_u32(b, count);
}

/* Answers the question for the catalogue: tags 1 and 2. */
static void
answer_catalogue(uint64_t epoch, uint32_t generation)
{
    struct buf b;
    uint32_t from = 1;
    assert_int_equal(question(&from), INTERNAL_TAG_CATALOGUE);
    assert_int_equal(from, 0);
    page_begin(&b, epoch, generation, 0, 0, 2);
    for (uint32_t no = 1; no <= 2; no++) {
        struct tag_def d = { .no = no, .type = TAG_UINT64, .name = "x" };
        tag_def_encode(&b, &d);
    }
    answer_question(&b);
    buf_done(&b);
}

/* Answers the question for last values with one page that holds tag 'no'. */
static void
answer_snapshot(uint64_t epoch, uint32_t generation, uint64_t seq, uint32_t no, uint64_t value,
                uint32_t expect_from, uint32_t next)
{
    struct buf b;
    uint32_t from = 99;
    assert_int_equal(question(&from), INTERNAL_TAG_SNAPSHOT);
    assert_int_equal(from, expect_from);
    struct tag_sample s = number_sample(no, value);
    page_begin(&b, epoch, generation, seq, next, 1);
    tag_sample_encode(&b, &s);
    answer_question(&b);
    buf_done(&b);
}

/* One sample as batch 'seq'; no sample for number 0. */
static void
send_batch(uint64_t epoch, uint32_t generation, uint64_t seq, uint32_t no, uint64_t value)
{
    struct tag_batch_builder b;
    struct bus_str message;
    tag_batch_builder_init(&b);
    if (no != 0) {
        struct tag_sample s = number_sample(no, value);
        assert_int_equal(tag_batch_put(&b, &s), 0);
    }
    assert_int_equal(tag_batch_finish(&b, epoch, seq, generation, &message), 0);
    assert_int_equal(bus_pub_send(fake_pub, message.p, message.len), 0);
    tag_batch_builder_done(&b);
}

static struct heard heard;
static struct tag_sub *sub;
static struct tag_sub_stats stats;

/* Answers snapshots until the subscriber hears batches; returns the last number sent. */
static uint64_t
go_live(uint64_t epoch, uint32_t generation, uint64_t seq)
{
    uint32_t from = 0;
    uint64_t live = heard.n_live;
    uint64_t end = clock_mono_us() + 20 * SECOND_US;
    while (heard.n_live == live) {
        assert_true(clock_mono_us() < end);
        if (n_asked > 0) {
            assert_int_equal(question(&from), INTERNAL_TAG_SNAPSHOT);
            answer_snapshot(epoch, generation, seq, 1, 0, 0, 0);
        }
        seq++;
        send_batch(epoch, generation, seq, 2, seq);
        assert_int_equal(loop_round(loop, 5000), 0);
    }
    /* all that is still on its way */
    while (heard.last[2] != seq || n_asked > 0) {
        assert_true(clock_mono_us() < end);
        if (n_asked > 0)
            answer_snapshot(epoch, generation, seq, 2, seq, 0, 0);
        assert_int_equal(loop_round(loop, 5000), 0);
    }
    tag_sub_get_stats(sub, &stats);
    return seq;
}

/* Lets the time pass that lies between two snapshots; batch 'seq' was the last. */
static void
rest(uint64_t seq)
{
    uint64_t end = clock_mono_us() + 150000;
    while (clock_mono_us() < end) {
        if (n_asked > 0) {
            answer_snapshot(FAKE_EPOCH, 1, seq, 2, seq, 0, 0);
            end = clock_mono_us() + 150000;
        }
        assert_int_equal(loop_round(loop, 20000), 0);
    }
    tag_sub_get_stats(sub, &stats);
}

static void
a_gap_is_counted_and_filled_by_a_snapshot(void **state)
{
    (void)state;
    assert_int_equal(bus_pub_open(bus, "fake.tags", &fake_pub), 0);
    assert_int_equal(bus_serve(bus, "fake", fake_serve, NULL), 0);
    sub = listen_to("fake", &heard);
    answer_catalogue(FAKE_EPOCH, 1);
    uint64_t seq = go_live(FAKE_EPOCH, 1, 100);
    rest(seq);
    uint64_t lost = stats.lost_batches;
    uint64_t snapshots = stats.snapshots;
    send_batch(FAKE_EPOCH, 1, seq + 3, 2, 1000); /* two are missing */
    RUN_UNTIL(n_asked == 1);
    assert_true(heard.last[2] == 1000); /* what came is not held back */
    answer_snapshot(FAKE_EPOCH, 1, seq + 3, 1, 1001, 0, 0);
    RUN_UNTIL(heard.last[1] == 1001);
    tag_sub_get_stats(sub, &stats);
    assert_true(stats.lost_batches == lost + 2);
    assert_true(stats.snapshots == snapshots + 1);
}

static void
what_comes_during_a_snapshot_is_applied_once_and_in_order(void **state)
{
    (void)state;
    uint64_t seq = go_live(FAKE_EPOCH, 1, 300);
    rest(seq);
    uint64_t live = heard.n_live;
    send_batch(FAKE_EPOCH, 1, seq + 2, 2, 2000); /* a gap */
    RUN_UNTIL(n_asked == 1);
    send_batch(FAKE_EPOCH, 1, seq + 3, 2, 2001);
    send_batch(FAKE_EPOCH, 1, seq + 4, 2, 2002);
    send_batch(FAKE_EPOCH, 1, seq + 5, 2, 2003);
    tag_sub_get_stats(sub, &stats);
    uint64_t batches = stats.batches;
    RUN_UNTIL((tag_sub_get_stats(sub, &stats), stats.batches == batches + 3));
    assert_true(heard.last[2] == 2000); /* held */
    heard.backwards = 0;
    answer_snapshot(FAKE_EPOCH, 1, seq + 4, 2, 2002, 0, 0); /* holds the first two */
    RUN_UNTIL(heard.last[2] == 2003);
    assert_true(heard.n_live == live + 2); /* 2000 and 2003 */
    assert_true(heard.backwards == 0);
}

static void
pages_of_a_snapshot_hold_different_batches(void **state)
{
    (void)state;
    uint64_t seq = go_live(FAKE_EPOCH, 1, 500);
    rest(seq);
    send_batch(FAKE_EPOCH, 1, seq + 2, 2, 3000); /* a gap */
    RUN_UNTIL(n_asked == 1);
    tag_sub_get_stats(sub, &stats);
    uint64_t batches = stats.batches;
    send_batch(FAKE_EPOCH, 1, seq + 3, 1, 3001);
    send_batch(FAKE_EPOCH, 1, seq + 4, 2, 3002);
    send_batch(FAKE_EPOCH, 1, seq + 5, 1, 3003);
    send_batch(FAKE_EPOCH, 1, seq + 6, 2, 3004);
    RUN_UNTIL((tag_sub_get_stats(sub, &stats), stats.batches == batches + 4));
    uint64_t live = heard.n_live;
    heard.backwards = 0;
    answer_snapshot(FAKE_EPOCH, 1, seq + 2, 1, 2999, 0, 1); /* before 3001 */
    answer_snapshot(FAKE_EPOCH, 1, seq + 5, 2, 3002, 1, 0); /* after 3002 */
    RUN_UNTIL(heard.last[2] == 3004);
    assert_true(heard.last[1] == 3003);
    assert_true(heard.n_live == live + 3); /* all but 3002 */
    assert_true(heard.backwards == 0);
}

static void
a_snapshot_ends_however_much_is_lost_meanwhile(void **state)
{
    (void)state;
    uint64_t seq = go_live(FAKE_EPOCH, 1, 600);
    rest(seq);
    uint64_t lost = stats.lost_batches;
    send_batch(FAKE_EPOCH, 1, seq + 2, 2, 3500); /* a gap */
    RUN_UNTIL(n_asked == 1);
    for (seq += 3; stats.lost_batches <= lost + 1; seq++) { /* more than the queue takes */
        for (int i = 0; i < 400; i++) {
            send_batch(FAKE_EPOCH, 1, seq++, 2, 3600);
            (void)usleep(50);
        }
        send_batch(FAKE_EPOCH, 1, seq, 2, 3600);
        assert_int_equal(loop_round(loop, 10000), 0);
        tag_sub_get_stats(sub, &stats);
    }
    for (int i = 0; i < 20; i++)
        assert_int_equal(loop_round(loop, 10000), 0);
    assert_int_equal(n_asked, 1);
    answer_snapshot(FAKE_EPOCH, 1, seq, 1, 3700, 0, 0);
    RUN_UNTIL(heard.last[1] == 3700);
    answer_snapshot(FAKE_EPOCH, 1, seq, 1, 3701, 0, 0); /* for what was lost */
    RUN_UNTIL(heard.last[1] == 3701);
}

static void
an_empty_batch_betrays_a_lost_last_one(void **state)
{
    (void)state;
    uint64_t seq = go_live(FAKE_EPOCH, 1, 700);
    rest(seq);
    uint64_t lost = stats.lost_batches;
    send_batch(FAKE_EPOCH, 1, seq, 0, 0); /* nothing lost */
    send_batch(FAKE_EPOCH, 1, seq + 1, 0, 0);
    RUN_UNTIL(n_asked == 1);
    answer_snapshot(FAKE_EPOCH, 1, seq + 1, 1, 4000, 0, 0);
    RUN_UNTIL(heard.last[1] == 4000);
    tag_sub_get_stats(sub, &stats);
    assert_true(stats.lost_batches == lost + 1);
}

static void
nonsense_is_counted_and_skipped(void **state)
{
    (void)state;
    uint64_t seq = go_live(FAKE_EPOCH, 1, 900);
    uint64_t bad = stats.bad_batches;
    assert_int_equal(bus_pub_send(fake_pub, "", 0), 0);
    assert_int_equal(bus_pub_send(fake_pub, "FT\1", 3), 0);
    send_batch(FAKE_EPOCH, 1, seq + 1, 2, 5000);
    RUN_UNTIL(heard.last[2] == 5000);
    tag_sub_get_stats(sub, &stats);
    assert_true(stats.bad_batches == bad + 2);
}

static void
a_new_generation_or_epoch_asks_for_the_catalogue(void **state)
{
    (void)state;
    unsigned n = heard.n_catalogue;
    uint64_t seq = go_live(FAKE_EPOCH, 1, 1100);
    rest(seq);
    send_batch(FAKE_EPOCH, 2, seq + 1, 0, 0);
    answer_catalogue(FAKE_EPOCH, 2);
    answer_snapshot(FAKE_EPOCH, 2, seq + 1, 1, 6000, 0, 0);
    RUN_UNTIL(heard.n_catalogue == n + 1 && heard.last[1] == 6000);
    send_batch(FAKE_EPOCH + 1, 1, 1, 1, 1);
    answer_catalogue(FAKE_EPOCH + 1, 1);
    /* changes while the snapshot is asked for: from the start */
    answer_snapshot(FAKE_EPOCH + 1, 2, 1, 1, 1, 0, 0);
    answer_catalogue(FAKE_EPOCH + 1, 2);
    answer_snapshot(FAKE_EPOCH + 1, 2, 1, 1, 7000, 0, 0);
    RUN_UNTIL(heard.n_catalogue == n + 3 && heard.last[1] == 7000);
    assert_int_equal(heard.n_down, 0);
}

static void
a_provider_that_cannot_answer_is_asked_again(void **state)
{
    (void)state;
    uint32_t from = 0;
    unsigned n = heard.n_catalogue;
    struct bus_reply no = { .status = 503 };
    send_batch(FAKE_EPOCH + 1, 3, 2, 1, 8000);
    assert_int_equal(question(&from), INTERNAL_TAG_CATALOGUE);
    bus_answer(asked[0], &no);
    n_asked = 0;
    answer_catalogue(FAKE_EPOCH + 1, 3); /* asked again by itself */
    answer_snapshot(FAKE_EPOCH + 1, 3, 2, 1, 8000, 0, 0);
    RUN_UNTIL(heard.n_catalogue == n + 1 && heard.last[1] == 8000);
}

static void
a_catalogue_that_was_not_taken_is_asked_for_again(void **state)
{
    (void)state;
    unsigned n = heard.n_catalogue;
    heard.refuse = 2;
    send_batch(FAKE_EPOCH + 1, 4, 2, 1, 9000);
    answer_catalogue(FAKE_EPOCH + 1, 4);
    answer_catalogue(FAKE_EPOCH + 1, 4);
    answer_catalogue(FAKE_EPOCH + 1, 4);
    answer_snapshot(FAKE_EPOCH + 1, 4, 2, 1, 9000, 0, 0);
    RUN_UNTIL(heard.n_catalogue == n + 1 && heard.last[1] == 9000);
}

/* ---- a provider that dies ---- */

static struct provider child;
static struct loop_timer child_timer;
static struct loop *child_loop;

static void
child_tick(void *arg)
{
    (void)arg;
    for (uint32_t no = 1; no <= 5; no++)
        provider_add(&child, no);
    (void)loop_timer_set(child_loop, &child_timer, loop_now_us(child_loop) + 2000);
}

static int
provide_main(const char *in_dir)
{
    struct bus *child_bus = NULL;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return 3;
    child.counter = (uint64_t)clock_wall_us(); /* grows from life to life */
    int r = loop_new(&child_loop);
    if (r == 0)
        r = bus_open(child_loop, in_dir, NULL, 0, &child_bus);
    if (r == 0)
        r = provider_open(&child, child_bus, child_loop, "mortal", 5);
    loop_timer_init(&child_timer, child_tick, NULL);
    if (r == 0)
        r = loop_timer_set(child_loop, &child_timer, clock_mono_us());
    if (r == 0)
        r = loop_run(child_loop);
    return r == 0 ? 0 : 2;
}

static pid_t
spawn_provider(void)
{
    static char self[] = "/proc/self/exe";
    static char verb[] = "provide";
    char *argv[] = { self, verb, dir, NULL };
    pid_t pid = 0;
    assert_int_equal(posix_spawn(&pid, self, NULL, NULL, argv, environ), 0);
    return pid;
}

static void
a_restarted_provider_is_followed(void **state)
{
    (void)state;
    static struct heard h;
    struct tag_sub *mortal = listen_to("mortal", &h);
    for (unsigned i = 1; i <= 10; i++) {
        pid_t pid = spawn_provider();
        RUN_UNTIL(h.n_up == i && h.n_catalogue >= i);
        uint64_t live = h.n_live;
        RUN_UNTIL(h.n_live > live + 20);
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        RUN_UNTIL(h.n_down == i);
    }
    assert_true(h.backwards == 0);
    struct tag_sub_stats s;
    tag_sub_get_stats(mortal, &s);
    assert_true(s.bad_batches == 0);
}

static int
set_up(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/test_tagbus.XXXXXX");
    if (mkdtemp(dir) == NULL || chmod(dir, 0750) < 0)
        return -1;
    return loop_new(&loop) < 0 || bus_open(loop, dir, NULL, 0, &bus) < 0 ? -1 : 0;
}

static int
tear_down(void **state)
{
    (void)state;
    static const char *const names[] = { "beat.rpc",  "beat.tags",  "big.tags",
                                         "real.rpc",  "real.tags",  "fake.rpc",
                                         "fake.tags", "mortal.rpc", "mortal.tags" };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char path[128];
        (void)snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        (void)unlink(path);
    }
    return rmdir(dir);
}

int
main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "provide") == 0)
        return provide_main(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_become_exact_json),
        cmocka_unit_test(json_becomes_a_value_of_its_type_or_is_refused),
        cmocka_unit_test(types_and_qualities_have_names),
        cmocka_unit_test(a_batch_comes_back_as_it_was),
        cmocka_unit_test(texts_fill_a_batch_before_its_count_does),
        cmocka_unit_test(a_damaged_batch_is_refused),
        cmocka_unit_test(definitions_and_single_samples_come_back),
        cmocka_unit_test(catalogue_then_snapshot_then_every_sample),
        cmocka_unit_test(an_empty_batch_follows_a_second_after_a_change),
        cmocka_unit_test(a_slow_subscriber_keeps_a_bounded_number_of_bytes),
        cmocka_unit_test(a_gap_is_counted_and_filled_by_a_snapshot),
        cmocka_unit_test(what_comes_during_a_snapshot_is_applied_once_and_in_order),
        cmocka_unit_test(pages_of_a_snapshot_hold_different_batches),
        cmocka_unit_test(a_snapshot_ends_however_much_is_lost_meanwhile),
        cmocka_unit_test(an_empty_batch_betrays_a_lost_last_one),
        cmocka_unit_test(nonsense_is_counted_and_skipped),
        cmocka_unit_test(a_new_generation_or_epoch_asks_for_the_catalogue),
        cmocka_unit_test(a_provider_that_cannot_answer_is_asked_again),
        cmocka_unit_test(a_catalogue_that_was_not_taken_is_asked_for_again),
        cmocka_unit_test(a_restarted_provider_is_followed),
    };
    int failed = cmocka_run_group_tests(tests, set_up, tear_down);
    (void)fflush(NULL);
    _exit(failed != 0); /* NNG's threads still run: nothing of it is taken down */
}
