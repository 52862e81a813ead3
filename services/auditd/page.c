/*
 * Pages of the audit log. A filter needs a search before, which is made in
 * slices, between which everybody else has a turn. Searches run one after the
 * other: the next one is mostly the next page of the same, which is found
 * already.
 */
#include <errno.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"
#include "services/auditd/auditd.h"

#include "libcommon/banned.h"

enum {
    PAGE_BYTES_MAX = 6 << 20, /* of an answer; a bus message holds 8 MiB */
    SLICE_US = 2000,          /* of a search */
    SEARCHES_MAX = 16,        /* under way and waiting */
    KEPT_BITS_MAX = 1 << 20,  /* bytes of an outcome that are kept for the next page */
};

struct page {
    struct page *next;
    struct auditd *a;
    struct api_call *call;
    const struct auditd_get_audits_query *query;
    struct trail_filter filter; /* its words are the call's */
};

static void
page_free(struct page *p)
{
    trail_filter_done(&p->filter);
    free(p);
}

/* ---- the answer ---- */

static int
put_rows(struct buf *b, struct store_txn *txn, const uint64_t *ids, size_t n, size_t *ret_put)
{
    size_t i = 0;
    for (; i < n && b->len < PAGE_BYTES_MAX; i++) {
        struct trail_record t;
        int r = trail_get(txn, ids[i], &t);
        if (r != STORE_OK)
            return r < 0 ? r : -EPROTO;
        auditd_put_row(b, &t);
    }
    *ret_put = i;
    return b->err;
}

static int
put_page(const struct page *p, struct store_txn *txn)
{
    _Static_assert((int)TRAIL_BY_SEVERITY == (int)AUDITD_GET_AUDITS_QUERY_ORDER_SEVERITY &&
                       (int)TRAIL_BY_ID == (int)AUDITD_GET_AUDITS_QUERY_ORDER_ID,
                   "orders are the contract's");
    const struct auditd_get_audits_query *q = p->query;
    uint64_t ids[TRAIL_PAGE_MAX], total = 0;
    size_t limit = q->limit < TRAIL_PAGE_MAX ? (size_t)q->limit : TRAIL_PAGE_MAX;
    size_t n = 0, put = 0;
    int r =
        trail_query(txn, &p->a->state, &p->filter, &p->a->search, (enum trail_order)q->order,
                    q->sort == AUDITD_GET_AUDITS_QUERY_SORT_DESC, (uint64_t)q->offset, limit,
                    ids, &n, &total);
    CLEANUP(buf_done) struct buf rows;
    buf_init(&rows, PAGE_BYTES_MAX + (1 << 20));
    if (r == 0)
        r = put_rows(&rows, txn, ids, n, &put);
    if (r < 0)
        return r;
    struct buf *b = api_reply_buf(p->call);
    buf_printf(b, "{\"count\":%zu,\"limit\":%zu,\"offset\":%lld,\"total\":%llu,\"data\":[", put,
               put < n ? put : limit, (long long)q->offset, (unsigned long long)total);
    if (rows.len > 0)
        buf_put(b, rows.data, rows.len);
    buf_puts(b, "]}");
    return 0;
}

/* A slice of the search, and the page when it is done; API_PENDING: it is not. */
static enum api_status
go_on(const struct page *p)
{
    CLEANUP(store_abortp) struct store_txn *txn = NULL;
    struct trail_search *search = &p->a->search;
    bool searches = trail_filter_needs_search(&p->filter);
    int r = store_read(p->a->svc->store, &txn);
    if (r == 0 && searches) {
        r = trail_search_step(txn, &p->a->state, &p->filter, search,
                              clock_mono_us() + SLICE_US);
        if (r == TRAIL_SEARCH_MORE)
            return API_PENDING;
    }
    if (r >= 0)
        r = put_page(p, txn);
    if (searches && search->end_id - search->first_id > (uint64_t)KEPT_BITS_MAX * 8)
        trail_search_done(search);
    return r < 0 ? api_fail_errno(p->call, r, "cannot read the audit log") : API_OK;
}

/* ---- searches that take longer ---- */

static void
finish_first(struct auditd *a, enum api_status status)
{
    struct page *p = a->pages;
    struct api_call *call = p->call;
    a->pages = p->next;
    a->n_pages--;
    page_free(p);
    api_finish(call, status);
}

static void
arm(struct auditd *a)
{
    while (a->pages && loop_timer_set(a->svc->loop, &a->page_timer, clock_mono_us()) < 0)
        finish_first(a, api_fail_errno(a->pages->call, -ENOMEM, "cannot search"));
}

static void
go_on_with_first(void *arg)
{
    struct auditd *a = arg;
    struct page *p = a->pages;
    enum api_status status = API_TIMEOUT;
    if (p->call->request->deadline_us > clock_mono_us())
        status = go_on(p);
    else
        (void)api_fail(p->call, status, NULL, "the log is too large to search in time");
    if (status != API_PENDING)
        finish_first(a, status);
    arm(a);
}

static enum api_status
wait_for_turn(struct page *p)
{
    struct auditd *a = p->a;
    if (a->n_pages == SEARCHES_MAX)
        return api_fail(p->call, API_UNAVAILABLE, NULL, "too many searches at once");
    if (!a->pages && loop_timer_set(a->svc->loop, &a->page_timer, clock_mono_us()) < 0)
        return api_fail_errno(p->call, -ENOMEM, "cannot search");
    struct page **last = &a->pages;
    while (*last)
        last = &(*last)->next;
    *last = p;
    a->n_pages++;
    return API_PENDING;
}

enum api_status
auditd_page(struct auditd *a, struct api_call *call,
            const struct auditd_get_audits_query *query, const struct trail_filter *words)
{
    struct page *p = calloc(1, sizeof(*p));
    if (!p)
        return api_fail_errno(call, -ENOMEM, "cannot read the audit log");
    *p = (struct page){ .a = a, .call = call, .query = query, .filter = *words };
    enum api_status status = API_PENDING;
    if (trail_filter_prepare(&p->filter) < 0)
        status = api_fail_errno(call, -ENOMEM, "cannot read the audit log");
    else if (!a->pages || !trail_filter_needs_search(&p->filter))
        status = go_on(p);
    if (status == API_PENDING)
        status = wait_for_turn(p);
    if (status != API_PENDING)
        page_free(p);
    return status;
}

void
auditd_init_pages(struct auditd *a)
{
    loop_timer_init(&a->page_timer, go_on_with_first, a);
}

void
auditd_stop_pages(struct auditd *a)
{
    if (!a->svc)
        return;
    loop_timer_cancel(a->svc->loop, &a->page_timer);
    while (a->pages)
        finish_first(a, api_fail(a->pages->call, API_UNAVAILABLE, NULL, "auditd stops"));
    trail_search_done(&a->search);
}
