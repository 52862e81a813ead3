/*
 * Requests over the tables of a slave. The order of checks is that of the
 * state diagrams in section 6 of the Modbus Application Protocol V1.1b3:
 * function (01), quantities and their agreement with the length (03),
 * addresses (02), and only then the work (04 and beyond).
 */
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/loop.h"
#include "services/modbusd/sl_table.h"
#include "libcommon/banned.h"

/* Section 7. */
enum {
    SL_OK = 0,
    ILLEGAL_FUNCTION = 1,
    ILLEGAL_ADDRESS = 2,
    ILLEGAL_VALUE = 3,
    SERVER_FAILURE = 4,
    SERVER_BUSY = 6,
    NO_PATH = 10,
    NO_ANSWER = 11,
};

enum { SL_CELLS_MAX = MB_WRITE_BITS_MAX };

struct span {
    uint32_t first, n; /* units; 0: none */
};

/* What one request asks. */
struct request {
    uint8_t func;
    const struct sl_table *table; /* what it reads and writes is in the same */
    struct span read, write;
    const uint8_t *data; /* to write, as in the PDU */
};

struct sl_job {
    struct sl_map *map;
    const struct sl_table *table;
    uint32_t lo, hi; /* cells */
    size_t at;       /* index of the tag that is written next */
    uint64_t deadline_us;
    uint8_t failed; /* exception */
    bool answered;  /* the owner has, of the tag written now */
    bool waiting;   /* for it */
    sl_answer_fn *fn;
    void *arg;
    struct span read;
    uint8_t head[MB_HEAD_SIZE];
    uint8_t cells[SL_CELLS_MAX]; /* lo..hi */
};

static size_t
refuse(uint8_t func, uint8_t code, uint8_t out[MB_PDU_MAX])
{
    out[0] = func | 0x80;
    out[1] = code;
    return 2;
}

/* ---- parsing ---- */

static const struct sl_table *
table_of(const struct sl_map *m, uint8_t func)
{
    switch (func) {
    case MB_READ_COILS:
    case MB_WRITE_COIL:
    case MB_WRITE_COILS:
        return &m->tables[SL_COILS];
    case MB_READ_INPUT_BITS:
        return &m->tables[SL_INPUT_BITS];
    case MB_READ_INPUT:
        return &m->tables[SL_INPUT];
    default:
        return &m->tables[SL_HOLDING];
    }
}

static bool
quantity_ok(unsigned n, unsigned max)
{
    return n >= 1 && n <= max;
}

/* 6.1 to 6.4: function, address, quantity. */
static uint8_t
parse_read(struct request *q, const uint8_t *pdu, size_t n)
{
    if (n != 5 || !quantity_ok(get_u16(pdu + 3), mb_func_read_max(q->func)))
        return ILLEGAL_VALUE;
    q->read.first = get_u16(pdu + 1);
    q->read.n = get_u16(pdu + 3);
    return SL_OK;
}

/* 6.5 and 6.6: function, address, value. */
static uint8_t
parse_single(struct request *q, const uint8_t *pdu, size_t n)
{
    if (n != 5)
        return ILLEGAL_VALUE;
    if (q->func == MB_WRITE_COIL && get_u16(pdu + 3) != 0 && get_u16(pdu + 3) != 0xFF00)
        return ILLEGAL_VALUE;
    q->write.first = get_u16(pdu + 1);
    q->write.n = 1;
    q->data = pdu + 3;
    return SL_OK;
}

/* Quantity, count byte and bytes that end the PDU: 6.11, 6.12, 6.17. */
static uint8_t
parse_data(struct request *q, const uint8_t *pdu, size_t n, size_t at)
{
    if (n < at + 5)
        return ILLEGAL_VALUE;
    unsigned quantity = get_u16(pdu + at + 2);
    if (!quantity_ok(quantity, mb_func_write_max(q->func)))
        return ILLEGAL_VALUE;
    unsigned want = mb_func_bits(q->func) ? (quantity + 7) / 8 : quantity * 2;
    if (pdu[at + 4] != want || n != at + 5 + want)
        return ILLEGAL_VALUE;
    q->write.first = get_u16(pdu + at);
    q->write.n = quantity;
    q->data = pdu + at + 5;
    return SL_OK;
}

/* 6.17: both quantities before any address. */
static uint8_t
parse_both(struct request *q, const uint8_t *pdu, size_t n)
{
    if (n < 10)
        return ILLEGAL_VALUE;
    uint8_t wrong = parse_read(q, pdu, 5);
    return wrong ? wrong : parse_data(q, pdu, n, 5);
}

static uint8_t
parse(const struct sl_map *m, const uint8_t *pdu, size_t n, struct request *ret_request)
{
    struct request q = { .func = pdu[0], .table = table_of(m, pdu[0]) };
    uint8_t wrong;
    switch (q.func) {
    case MB_READ_COILS:
    case MB_READ_INPUT_BITS:
    case MB_READ_HOLDING:
    case MB_READ_INPUT:
        wrong = parse_read(&q, pdu, n);
        break;
    case MB_WRITE_COIL:
    case MB_WRITE_REG:
        wrong = parse_single(&q, pdu, n);
        break;
    case MB_WRITE_COILS:
    case MB_WRITE_REGS:
        wrong = parse_data(&q, pdu, n, 1);
        break;
    case MB_READ_WRITE_REGS:
        wrong = parse_both(&q, pdu, n);
        break;
    default:
        return ILLEGAL_FUNCTION;
    }
    *ret_request = q;
    return wrong;
}

/* ---- states ---- */

/* All that is wrong with any unit of the span. */
static uint8_t
state_of(const struct sl_table *t, const struct span *s)
{
    uint8_t state = 0;
    if (s->first + s->n > t->units)
        return SL_UNMAPPED;
    const uint8_t *at = t->state + s->first;
    for (uint32_t i = 0; i < s->n; i++)
        state |= at[i];
    return state;
}

static bool
is_shown(const struct sl_table *t, const struct span *s, uint8_t slave)
{
    if (t->only == NULL || s->first + s->n > t->units)
        return true; /* state_of says the rest */
    for (uint32_t i = s->first; i < s->first + s->n; i++)
        if (t->only[i] != 0 && t->only[i] != slave)
            return false;
    return true;
}

static uint8_t
check_addresses(const struct request *q, uint8_t slave)
{
    if (!is_shown(q->table, &q->read, slave) || !is_shown(q->table, &q->write, slave))
        return ILLEGAL_ADDRESS;
    if (q->read.n && (state_of(q->table, &q->read) & (SL_UNMAPPED | SL_NO_READ)))
        return ILLEGAL_ADDRESS;
    if (q->write.n && (state_of(q->table, &q->write) & (SL_UNMAPPED | SL_NO_WRITE)))
        return ILLEGAL_ADDRESS;
    return SL_OK;
}

static uint8_t
check_values(uint8_t state)
{
    if (state & SL_NO_PATH)
        return NO_PATH;
    if (state & SL_NO_ANSWER)
        return NO_ANSWER;
    return state & SL_NO_ROOM ? SERVER_FAILURE : SL_OK;
}

/* ---- reading ---- */

static size_t
read_bits(const struct sl_table *t, const struct span *s, uint8_t *out)
{
    const uint8_t *bits = t->cells + s->first;
    size_t n = (s->n + 7) / 8;
    memset(out, 0, n);
    for (uint32_t i = 0; i < s->n; i++)
        out[i / 8] |= (uint8_t)(bits[i] << i % 8);
    return n;
}

static size_t
answer_read(uint8_t func, const struct sl_table *t, const struct span *s,
            uint8_t out[MB_PDU_MAX])
{
    uint8_t wrong = check_values(state_of(t, s));
    if (wrong)
        return refuse(func, wrong, out);
    size_t n = 2 * s->n;
    if (t->wide == 1)
        n = read_bits(t, s, out + 2);
    else
        memcpy(out + 2, t->cells + 2 * s->first, n);
    out[0] = func;
    out[1] = (uint8_t)n;
    return 2 + n;
}

/* ---- writing ---- */

/* The first five bytes again (6.5, 6.6, 6.11, 6.12), or what is read after it (6.17). */
static size_t
answer_write(const struct sl_job *j, uint8_t out[MB_PDU_MAX])
{
    if (j->failed)
        return refuse(j->head[0], j->failed, out);
    if (j->read.n)
        return answer_read(j->head[0], j->table, &j->read, out);
    memcpy(out, j->head, MB_HEAD_SIZE);
    return MB_HEAD_SIZE;
}

static void
unpack(struct sl_job *j, const struct request *q)
{
    j->table = q->table;
    j->lo = q->write.first * j->table->wide;
    j->hi = j->lo + q->write.n * j->table->wide;
    if (q->func == MB_WRITE_COIL)
        j->cells[0] = q->data[0] & 1; /* FF00 or 0000 */
    else if (mb_func_bits(q->func))
        for (uint32_t i = 0; i < q->write.n; i++)
            j->cells[i] = q->data[i / 8] >> i % 8 & 1;
    else
        memcpy(j->cells, q->data, 2 * q->write.n);
}

/* The tag to write next; NULL: that was the last. */
static struct sl_tag *
tag_at(const struct sl_job *j)
{
    if (j->at >= j->table->n_tags || j->table->tags[j->at]->at >= j->hi)
        return NULL;
    return j->table->tags[j->at];
}

/* Could all hub tags be written so? Nothing has been yet. */
static uint8_t
check_refs(struct sl_job *j, bool *ret_any)
{
    uint8_t room[TAG_BYTES_MAX];
    struct tag_value v;
    size_t begin = j->at;
    uint8_t wrong = SL_OK;
    *ret_any = false;
    for (struct sl_tag *t; !wrong && (t = tag_at(j)) != NULL; j->at++) {
        if (!t->is_ref)
            continue;
        *ret_any = true;
        if (t->at < j->lo || t->at + t->n > j->hi)
            wrong = ILLEGAL_VALUE;
        else if (sl_tag_decode(t, j->cells + (t->at - j->lo), room, &v) < 0)
            wrong = ILLEGAL_VALUE;
        else if (t->state & SL_NO_PATH)
            wrong = NO_PATH;
    }
    j->at = begin;
    return wrong;
}

static uint8_t
exception_of(enum sl_written outcome)
{
    switch (outcome) {
    case SL_WRITTEN:
        return SL_OK;
    case SL_WRITE_REFUSED:
        return SERVER_FAILURE;
    case SL_WRITE_BUSY:
        return SERVER_BUSY;
    case SL_WRITE_AWAY:
    case SL_WRITE_UNSURE:
        break;
    }
    return NO_ANSWER;
}

static void go_on(struct sl_job *j);

static void
on_written(void *arg, enum sl_written outcome)
{
    struct sl_job *j = arg;
    j->failed = exception_of(outcome);
    j->answered = true;
    if (j->waiting)
        go_on(j);
}

/* Asks the owner of a hub tag. True: it has answered already. */
static bool
write_ref(struct sl_job *j, struct sl_tag *t)
{
    const struct sl_engine_hooks *hooks = &t->map->hooks;
    uint8_t room[TAG_BYTES_MAX];
    struct tag_value v;
    (void)sl_tag_decode(t, j->cells + (t->at - j->lo), room, &v); /* was checked */
    if (hooks->write == NULL) {
        j->failed = NO_ANSWER;
        return true;
    }
    j->answered = false;
    hooks->write(hooks->arg, t->tap.tag, &v, j->deadline_us, on_written, j);
    j->waiting = !j->answered;
    return j->answered;
}

static void
write_own(struct sl_job *j, struct sl_tag *t)
{
    if (j->map->retired)
        j->failed = SERVER_BUSY; /* its registers are elsewhere now */
    else
        sl_tag_set_cells(t, j->lo, j->hi, j->cells);
}

/* Writes until an owner must be waited for. True: the end was reached. */
static bool
run(struct sl_job *j)
{
    struct sl_tag *t;
    while (!j->failed && (t = tag_at(j)) != NULL) {
        j->at++;
        if (!t->is_ref)
            write_own(j, t);
        else if (!write_ref(j, t))
            return false;
    }
    return true;
}

static void
go_on(struct sl_job *j)
{
    uint8_t out[MB_PDU_MAX];
    j->waiting = false;
    if (!run(j))
        return;
    struct sl_map *m = j->map;
    size_t n = answer_write(j, out);
    if (j->fn != NULL)
        j->fn(j->arg, out, n);
    free(j);
    m->n_jobs--;
    if (m->retired && m->n_jobs == 0)
        sl_map_free(m);
}

void
sl_job_forget(struct sl_job *job)
{
    job->fn = NULL;
}

/* With hub tags: as a job of its own, that may outlive this call. */
static size_t
write_later(struct sl_job *now, uint8_t out[MB_PDU_MAX], struct sl_job **ret_job)
{
    struct sl_job *j = malloc(sizeof(*j));
    if (j == NULL)
        return refuse(now->head[0], SERVER_BUSY, out);
    *j = *now;
    j->deadline_us = loop_now_us(j->map->loop) + SL_WRITE_US;
    j->map->n_jobs++;
    if (!run(j)) {
        *ret_job = j;
        return 0;
    }
    size_t n = answer_write(j, out);
    j->map->n_jobs--;
    free(j);
    return n;
}

static size_t
serve_write(struct sl_map *m, const struct request *q, const uint8_t *pdu,
            uint8_t out[MB_PDU_MAX], sl_answer_fn *fn, void *arg, struct sl_job **ret_job)
{
    struct sl_job j = { .map = m, .fn = fn, .arg = arg, .read = q->read };
    bool any_ref = false;
    memcpy(j.head, pdu, MB_HEAD_SIZE);
    unpack(&j, q);
    j.at = sl_table_find(j.table, j.lo);
    j.failed = check_refs(&j, &any_ref);
    if (!j.failed && any_ref)
        return write_later(&j, out, ret_job);
    if (!j.failed)
        (void)run(&j); /* own tags do not wait */
    return answer_write(&j, out);
}

size_t
sl_serve(struct sl_map *m, uint8_t slave, const uint8_t *pdu, size_t n, uint8_t out[MB_PDU_MAX],
         sl_answer_fn *fn, void *arg, struct sl_job **ret_job)
{
    struct request q;
    MUST(n >= 1);
    uint8_t wrong = parse(m, pdu, n, &q);
    if (!wrong)
        wrong = check_addresses(&q, slave);
    if (wrong)
        return refuse(pdu[0], wrong, out);
    if (q.write.n == 0)
        return answer_read(q.func, q.table, &q.read, out);
    return serve_write(m, &q, pdu, out, fn, arg, ret_job);
}
