/*
 * Message groups at work: the configuration of a group (MessagePolicy) bound
 * to tags of the view by name, its engine (group.c) and its timer. A tag that
 * no provider lists yet is held all the same and comes alive with its first
 * sample.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/api.h"
#include "libcommon/format.h"
#include "libcommon/json.h"
#include "libcommon/log.h"
#include "services/cloudd/cloudd.h"
#include "services/cloudd/group.h"
#include "libcommon/banned.h"

struct policy {
    struct policy *next;
    struct policy *next_touched;
    bool touched;
    struct cloudd *d;
    struct client *client;
    uint32_t id;
    struct api_arena *arena; /* holds cfg, names and properties */
    struct message_policy cfg;
    struct group_tag_name *names;
    struct payload_property *properties;
    size_t n_tags;
    struct tagview_listener *taps; /* NULL: not sampling */
    size_t n_taps;
    struct group *group;
    struct loop_timer timer;
};

/* ---- the tags of a group ---- */

/* Calls 'fn' for each tag; stops when it returns false. */
static bool
each_tag(const cJSON *tree, bool (*fn)(void *arg, const char *p, const char *s, const char *n),
         void *arg)
{
    for (const cJSON *p = tree->child; p != NULL; p = p->next)
        for (const cJSON *s = p->child; s != NULL; s = s->next)
            for (const cJSON *n = s->child; n != NULL; n = n->next)
                if (!fn(arg, p->string, s->string, n->valuestring))
                    return false;
    return true;
}

struct check {
    struct api_call *call;
    size_t n;
    enum api_status status;
};

static bool
check_tag(void *arg, const char *p, const char *s, const char *n)
{
    struct check *c = arg;
    const char *bad = NULL;
    if (format_tag_name(p) < 0)
        bad = p;
    else if (format_tag_name(s) < 0)
        bad = s;
    else if (n == NULL || format_tag_name(n) < 0)
        bad = n != NULL ? n : "";
    c->n++;
    if (bad != NULL)
        c->status = api_fail(c->call, API_INVALID, "/tags", "%.140s is no name of a tag", bad);
    return bad == NULL;
}

static int
by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A tag that a message names twice would be two members of one name. */
static enum api_status
check_twice(struct api_call *call, const cJSON *source)
{
    size_t n = 0;
    for (const cJSON *e = source->child; e != NULL; e = e->next)
        n++;
    const char **names = api_alloc(call, (n + 1) * sizeof(names[0]));
    if (names == NULL)
        return API_TOO_LARGE;
    n = 0;
    for (const cJSON *e = source->child; e != NULL; e = e->next)
        names[n++] = e->valuestring;
    qsort(names, n, sizeof(names[0]), by_text);
    for (size_t i = 1; i < n; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            return api_fail(call, API_INVALID, "/tags", "%.140s is listed twice", names[i]);
    return API_OK;
}

enum api_status
cloudd_check_tags(struct api_call *call, const char *tags, size_t *ret_n)
{
    CLEANUP(json_freep) cJSON *tree = NULL;
    struct json_error e;
    if (json_parse(tags, strlen(tags), &tree, &e) < 0 || !cJSON_IsObject(tree))
        return api_fail(call, API_INVALID, "/tags", "tags must be an object");
    for (const cJSON *p = tree->child; p != NULL; p = p->next) {
        if (!cJSON_IsObject(p))
            return api_fail(call, API_INVALID, "/tags", "a provider must be an object");
        for (const cJSON *s = p->child; s != NULL; s = s->next) {
            if (!cJSON_IsArray(s))
                return api_fail(call, API_INVALID, "/tags", "a source must be a list of names");
            for (const cJSON *n = s->child; n != NULL; n = n->next)
                if (!cJSON_IsString(n))
                    return api_fail(call, API_INVALID, "/tags", "a tag must be a name");
        }
    }
    struct check c = { .call = call, .status = API_OK };
    (void)each_tag(tree, check_tag, &c); /* the outcome is c.status */
    for (const cJSON *p = tree->child; p != NULL; p = p->next)
        for (const cJSON *s = p->child; s != NULL && c.status == API_OK; s = s->next)
            c.status = check_twice(call, s);
    *ret_n = c.n;
    return c.status;
}

static bool
add_tag(void *arg, const char *provider, const char *source, const char *name)
{
    struct policy *p = arg;
    struct group_tag_name *n = &p->names[p->n_tags];
    /* Names of one provider and source are shared: they follow one another. */
    const struct group_tag_name *before = p->n_tags > 0 ? n - 1 : NULL;
    n->provider = before != NULL && strcmp(before->provider, provider) == 0
                      ? before->provider
                      : api_arena_strdup(p->arena, provider);
    n->source = before != NULL && strcmp(before->source, source) == 0
                    ? before->source
                    : api_arena_strdup(p->arena, source);
    n->name = api_arena_strdup(p->arena, name);
    p->n_tags++;
    return n->provider != NULL && n->source != NULL && n->name != NULL;
}

static bool
count_tag(void *arg, const char *provider, const char *source, const char *name)
{
    (void)provider;
    (void)source;
    (void)name;
    ++*(size_t *)arg;
    return true;
}

static int
read_tags(struct policy *p)
{
    CLEANUP(json_freep) cJSON *tree = NULL;
    struct json_error e;
    size_t n = 0;
    const char *text = p->cfg.tags != NULL ? p->cfg.tags : "{}";
    int r = json_parse(text, strlen(text), &tree, &e);
    if (r < 0)
        return r;
    (void)each_tag(tree, count_tag, &n); /* always true */
    p->names = api_arena_alloc(p->arena, (n + 1) * sizeof(p->names[0]));
    if (p->names == NULL || !each_tag(tree, add_tag, p))
        return -ENOMEM;
    p->properties =
        api_arena_alloc(p->arena, (p->cfg.n_properties + 1) * sizeof(*p->properties));
    if (p->properties == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < p->cfg.n_properties; i++)
        p->properties[i] = (struct payload_property){ .key = p->cfg.properties[i].key,
                                                      .value = p->cfg.properties[i].value };
    return 0;
}

/* ---- sampling ---- */

static uint64_t
now_us(const struct policy *p)
{
    return loop_now_us(p->d->svc->loop);
}

static const struct tag_sample *
current_value(void *arg, size_t i)
{
    const struct policy *p = arg;
    const struct tagview_tag *t = p->taps[i].tag;
    if (!t->has_sample || t->last.quality == TAG_BAD_NEVER ||
        (tag_quality_ok(t->last.quality) && !t->has_value))
        return NULL;
    return &t->last;
}

static void
emit(void *arg, const char *payload, size_t len)
{
    struct policy *p = arg;
    cloudd_client_send(p->client, p->cfg.output_topic, payload, len);
}

static void
touch(struct policy *p)
{
    if (p->touched)
        return;
    p->touched = true;
    p->next_touched = p->d->touched;
    p->d->touched = p;
}

static void
on_update(struct tagview_listener *l)
{
    struct policy *p = l->owner;
    group_update(p->group, (size_t)(l - p->taps), now_us(p));
    touch(p);
}

static void
on_timer(void *arg)
{
    touch(arg); /* runs at the end of this round */
}

static void
run(struct policy *p)
{
    group_round(p->group, now_us(p));
    cloudd_client_lost(p->client, group_take_lost(p->group));
    uint64_t due = group_due_us(p->group);
    if (due == UINT64_MAX)
        loop_timer_cancel(p->d->svc->loop, &p->timer);
    else if (loop_timer_set(p->d->svc->loop, &p->timer, due) < 0)
        log_err("policy: no memory for a timer");
}

void
cloudd_run_policies(struct cloudd *d)
{
    while (d->touched != NULL) {
        struct policy *p = d->touched;
        d->touched = p->next_touched;
        p->touched = false;
        if (p->group != NULL)
            run(p);
    }
}

static struct group_settings
settings_of(const struct policy *p)
{
    const struct message_policy *c = &p->cfg;
    const struct send_out_threshold *t = &c->send_out_threshold;
    static const enum group_sampling sampling[] = {
        [MESSAGE_POLICY_SAMPLING_MODE_ALL_VALUES] = GROUP_ALL_VALUES,
        [MESSAGE_POLICY_SAMPLING_MODE_LATEST_VALUES] = GROUP_LATEST_VALUES,
        [MESSAGE_POLICY_SAMPLING_MODE_ALL_CHANGED_VALUES] = GROUP_ALL_CHANGED_VALUES,
        [MESSAGE_POLICY_SAMPLING_MODE_LATEST_CHANGED_VALUES] = GROUP_LATEST_CHANGED_VALUES,
    };
    static const enum group_threshold threshold[] = {
        [SEND_OUT_THRESHOLD_MODE_BY_TIME] = GROUP_BY_TIME,
        [SEND_OUT_THRESHOLD_MODE_BY_SIZE] = GROUP_BY_SIZE,
        [SEND_OUT_THRESHOLD_MODE_IMMEDIATELY] = GROUP_IMMEDIATELY,
    };
    return (struct group_settings){
        .sampling = sampling[c->sampling_mode],
        .threshold = threshold[t->mode],
        .time_us = (uint64_t)t->time * 1000000,
        .size = (size_t)t->size,
        .idle_us = t->size_idle_timer.enable ? (uint64_t)t->size_idle_timer.time * 1000000 : 0,
        .min_interval_us = (uint64_t)c->min_publish_interval * 1000000,
        .poll_us = c->custom_sampling_rate ? (uint64_t)c->polling_interval * 1000000 : 0,
        .properties = p->properties,
        .n_properties = c->n_properties,
    };
}

static void
stop(struct policy *p)
{
    struct policy **at = &p->d->touched;
    while (p->touched && *at != NULL && *at != p)
        at = &(*at)->next_touched;
    if (p->touched && *at == p)
        *at = p->next_touched;
    p->touched = false;
    loop_timer_cancel(p->d->svc->loop, &p->timer);
    if (p->group != NULL) {
        group_flush(p->group, now_us(p));
        cloudd_client_lost(p->client, group_take_lost(p->group));
    }
    group_free(p->group);
    p->group = NULL;
    for (size_t i = 0; i < p->n_taps; i++) {
        tagview_unlisten(&p->taps[i]);
        tagview_release(p->d->view, p->taps[i].tag);
    }
    free(p->taps);
    p->taps = NULL;
    p->n_taps = 0;
}

static int
start(struct policy *p)
{
    if (p->taps != NULL || !p->cfg.enable || !cloudd_client_is_enabled(p->client))
        return 0;
    p->taps = calloc(p->n_tags + 1, sizeof(p->taps[0]));
    if (p->taps == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < p->n_tags; i++) {
        const struct group_tag_name *n = &p->names[i];
        struct tagview_tag *t = tagview_hold(p->d->view, n->provider, n->source, n->name);
        if (t == NULL) {
            stop(p);
            return -ENOMEM;
        }
        p->taps[i] = (struct tagview_listener){ .fn = on_update, .owner = p, .tag = t };
        p->n_taps++;
        tagview_listen(t, &p->taps[i]);
    }
    struct group_settings s = settings_of(p);
    struct group_events ev = { .current = current_value, .emit = emit, .arg = p };
    int r = group_new(&s, p->names, p->n_tags, &ev, now_us(p), &p->group);
    if (r < 0) {
        stop(p);
        return r;
    }
    for (size_t i = 0; i < p->n_tags; i++)
        group_update(p->group, i, now_us(p)); /* what is known already */
    touch(p);
    return 0;
}

/* ---- memory follows the store ---- */

static void
policy_free(struct policy *p)
{
    stop(p);
    api_arena_free(p->arena);
    free(p);
}

static int
policy_make(struct cloudd *d, struct client *c, uint32_t id, const void *value, size_t size,
            struct policy **ret_policy)
{
    struct policy *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return -ENOMEM;
    p->d = d;
    p->client = c;
    p->id = id;
    loop_timer_init(&p->timer, on_timer, p);
    p->arena = api_arena_new(CLOUDD_RECORD_MAX * 8);
    int r = p->arena == NULL
                ? -ENOMEM
                : api_store_value(p->arena, value, size, &message_policy_desc, &p->cfg);
    if (r == 0)
        r = read_tags(p);
    if (r == 0)
        r = start(p);
    if (r < 0) {
        policy_free(p);
        return r;
    }
    *ret_policy = p;
    return 0;
}

static void
policy_insert(struct client *c, struct policy *p)
{
    struct policy **at = cloudd_client_policies(c);
    while (*at != NULL && (*at)->id < p->id)
        at = &(*at)->next;
    p->next = *at;
    *at = p;
}

int
cloudd_load_policies(struct cloudd *d, struct client *c)
{
    struct store_txn *txn = NULL;
    struct store_iter it;
    uint8_t from[8];
    uint32_t client = cloudd_client_id(c);
    int r = store_read(d->svc->store, &txn);
    if (r < 0)
        return r;
    r = store_iter_init(&it, txn, CLOUDD_DB_GROUPS, cloudd_group_key(from, client, 0),
                        sizeof(from), false);
    if (r < 0) {
        store_abort(txn);
        return r;
    }
    while ((r = store_iter_next(&it)) == STORE_OK && it.key_size == 8 &&
           get_u32(it.key) == client) {
        struct policy *p = NULL;
        uint32_t id = get_u32((const uint8_t *)it.key + 4);
        int e = policy_make(d, c, id, it.value, it.size, &p);
        if (e < 0)
            log_err("policy: cannot load client=%u group=%u error=%s", client, id,
                    strerror(-e));
        else
            policy_insert(c, p);
    }
    store_iter_done(&it);
    store_abort(txn);
    return r < 0 ? r : 0;
}

void
cloudd_policy_changed(void *self, void *arg)
{
    struct cloudd *d = self;
    const struct cloudd_policy_key *which = arg;
    uint32_t client = which->client, id = which->group;
    struct client *c = cloudd_client(d, client);
    if (c == NULL)
        return;
    struct policy **at = cloudd_client_policies(c);
    while (*at != NULL && (*at)->id != id)
        at = &(*at)->next;
    if (*at != NULL) {
        struct policy *old = *at;
        *at = old->next;
        policy_free(old);
    }
    struct store_txn *txn = NULL;
    uint8_t key[8];
    const void *value;
    size_t size;
    struct policy *p = NULL;
    int r = store_read(d->svc->store, &txn);
    if (r == 0)
        r = store_get(txn, CLOUDD_DB_GROUPS, cloudd_group_key(key, client, id), sizeof(key),
                      &value, &size);
    if (r == STORE_OK)
        r = policy_make(d, c, id, value, size, &p);
    store_abort(txn);
    if (r < 0)
        log_err("policy: cannot apply client=%u group=%u error=%s", client, id, strerror(-r));
    if (p != NULL)
        policy_insert(c, p);
}

void
cloudd_restart_policies(struct client *c)
{
    for (struct policy *p = *cloudd_client_policies(c); p != NULL; p = p->next) {
        if (!cloudd_client_is_enabled(c)) {
            stop(p);
            continue;
        }
        int r = start(p);
        if (r < 0)
            log_err("policy: cannot start client=%u group=%u error=%s", cloudd_client_id(c),
                    p->id, strerror(-r));
    }
}

void
cloudd_drop_policies(struct client *c)
{
    struct policy **first = cloudd_client_policies(c);
    while (*first != NULL) {
        struct policy *p = *first;
        *first = p->next;
        policy_free(p);
    }
}

size_t
cloudd_count_tags(const struct cloudd *d, uint32_t but_client, uint32_t but_group)
{
    size_t n = 0;
    for (struct client *c = cloudd_next_client(d, NULL); c != NULL;
         c = cloudd_next_client(d, c))
        for (const struct policy *p = *cloudd_client_policies(c); p != NULL; p = p->next)
            if (cloudd_client_id(c) != but_client || p->id != but_group)
                n += p->n_tags;
    return n;
}
