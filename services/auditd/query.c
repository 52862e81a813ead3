/*
 * Filters, and pages of what passes them: that has been found before, by a
 * search (search.c), as a bit per record.
 */
#include <errno.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/str.h"
#include "services/auditd/select.h"
#include "services/auditd/trail.h"

#include "libcommon/banned.h"

static bool
has_word(const struct trail_words *w, const char *text, size_t len)
{
    for (size_t i = 0; i < w->n; i++)
        if (strlen(w->words[i]) == len && memcmp(w->words[i], text, len) == 0)
            return true;
    return w->n == 0;
}

/* 'word' in lower case; 't' in any. */
static bool
contains(struct trail_text t, const char *word)
{
    size_t n = strlen(word);
    for (size_t i = 0; i + n <= t.len; i++) {
        size_t k = 0;
        while (k < n && trail_lower(t.p[i + k]) == word[k])
            k++;
        if (k == n)
            return true;
    }
    return false;
}

/* The words one behind the other in lower case, each with its NUL; NULL without memory. */
static char *
lower_words(const struct trail_words *w)
{
    size_t size = 1;
    for (size_t i = 0; i < w->n; i++)
        size += strlen(w->words[i]) + 1;
    char *text = malloc(size), *at = text;
    for (size_t i = 0; text != NULL && i < w->n; i++) {
        for (const char *p = w->words[i]; *p != '\0'; p++)
            *at++ = trail_lower(*p);
        *at++ = '\0';
    }
    return text;
}

int
trail_filter_prepare(struct trail_filter *f)
{
    f->event_passes = calloc(trail_n_events + 1, sizeof(*f->event_passes));
    f->source_keys = calloc(f->sources.n + 1, sizeof(*f->source_keys));
    f->lower_messages = lower_words(&f->messages);
    if (!f->event_passes || !f->source_keys || !f->lower_messages)
        return -ENOMEM;
    f->every_event = true;
    /*
     * Of an unknown event's name only the record itself can tell, so it is
     * asked only for names that the catalogue does not have.
     */
    f->unknown_names = false;
    for (size_t i = 0; i < f->names.n; i++)
        f->unknown_names |=
            trail_event_by_name(f->names.words[i], strlen(f->names.words[i])) == trail_n_events;
    for (size_t i = 0; i <= trail_n_events; i++) {
        bool known = i < trail_n_events;
        const char *category = known ? trail_events[i].category : "Maintenance";
        const char *severity = known ? trail_events[i].severity : "notice";
        f->event_passes[i] =
            has_word(&f->categories, category, strlen(category)) &&
            has_word(&f->severities, severity, strlen(severity)) &&
            (known ? has_word(&f->names, trail_events[i].name, strlen(trail_events[i].name))
                   : f->names.n == 0 || f->unknown_names);
        f->every_event &= f->event_passes[i];
    }
    for (size_t i = 0; i < f->sources.n; i++)
        f->source_keys[i] = trail_source_key(f->sources.words[i], strlen(f->sources.words[i]));
    return 0;
}

void
trail_filter_done(struct trail_filter *f)
{
    free(f->event_passes);
    free(f->source_keys);
    free(f->lower_messages);
    f->event_passes = NULL;
    f->source_keys = NULL;
    f->lower_messages = NULL;
}

bool
trail_filter_passes_source(const struct trail_filter *f, uint64_t key)
{
    for (size_t i = 0; i < f->sources.n; i++)
        if (f->source_keys[i] == key)
            return true;
    return f->sources.n == 0;
}

bool
trail_filter_passes(const struct trail_filter *f, const struct trail_record *r)
{
    size_t event = trail_event_by_code(r->event);
    if (!f->event_passes[event] || !trail_filter_passes_source(f, r->source_key))
        return false;
    if (event == trail_n_events && !has_word(&f->names, r->name.p, r->name.len))
        return false;
    const char *word = f->lower_messages;
    for (size_t i = 0; i < f->messages.n; i++, word += strlen(word) + 1)
        if (contains(r->message, word))
            return true;
    return f->messages.n == 0;
}

/* ---- pages ---- */

bool
trail_filter_needs_search(const struct trail_filter *f)
{
    return !f->every_event || f->sources.n > 0 || f->messages.n > 0;
}

int
trail_query(struct store_txn *txn, const struct trail_state *state,
            const struct trail_filter *filter, const struct trail_search *search,
            enum trail_order order, bool descending, uint64_t offset, size_t limit,
            uint64_t ret_ids[TRAIL_PAGE_MAX], size_t *ret_n, uint64_t *ret_total)
{
    MUST(limit <= TRAIL_PAGE_MAX);
    CLEANUP(select_freep) struct select *s = NULL;
    struct trail_key keys[TRAIL_PAGE_MAX];
    struct select_what what = { .txn = txn,
                                .filter = filter,
                                .order = order,
                                .descending = descending,
                                .first_id = state->next_id - state->n,
                                .end_id = state->next_id };
    if (trail_filter_needs_search(filter)) {
        MUST(search->end_id == state->next_id);
        what.bits = search->bits;
        what.bits_id = search->first_id;
    }
    int r = select_new(&what, &s);
    if (r == 0)
        r = select_rows(s, offset, limit, keys, ret_n);
    if (r == 0) {
        *ret_total = select_total(s);
        for (size_t i = 0; i < *ret_n; i++)
            ret_ids[i] = keys[i].id;
    }
    return r;
}

int
trail_walk_next(struct store_txn *txn, const struct trail_state *state, struct trail_walk *walk,
                size_t most, struct trail_key *ret_keys, size_t *ret_n)
{
    CLEANUP(select_freep) struct select *s = NULL;
    struct select_what what = { .txn = txn,
                                .filter = walk->filter,
                                .order = walk->order,
                                .descending = walk->descending,
                                .first_id = walk->first_id,
                                .end_id = walk->end_id,
                                .after = walk->has_begun ? &walk->last : NULL };
    if (state->next_id - state->n > walk->first_id)
        return -ESTALE;
    if (what.after != NULL && walk->order == TRAIL_BY_ID && walk->descending)
        what.end_id = walk->last.id;
    else if (what.after != NULL && walk->order == TRAIL_BY_ID)
        what.first_id = walk->last.id + 1;
    int r = select_new(&what, &s);
    if (r == 0)
        r = select_rows(s, 0, most, ret_keys, ret_n);
    if (r == 0 && *ret_n > 0) {
        walk->has_begun = true;
        walk->last = ret_keys[*ret_n - 1];
    }
    return r;
}
