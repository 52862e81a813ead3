/*
 * Request targets. See route.h.
 */
#include "gateway/route.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

/* ---- methods ---- */

static const char *const method_names[METHOD_N] = {
    [METHOD_GET] = "GET",         [METHOD_POST] = "POST",     [METHOD_PUT] = "PUT",
    [METHOD_PATCH] = "PATCH",     [METHOD_DELETE] = "DELETE", [METHOD_HEAD] = "HEAD",
    [METHOD_OPTIONS] = "OPTIONS", [METHOD_OTHER] = "other",
};

enum http_method
method_parse(const char *name)
{
    for (int m = METHOD_GET; m < METHOD_OTHER; m++)
        if (str_eq(name, method_names[m]))
            return (enum http_method)m;
    return METHOD_OTHER;
}

const char *
method_name(enum http_method method)
{
    return method_names[method];
}

/* ---- decoding ---- */

static int
hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* "%41" at 'p' (its end is a NUL): the byte, or -1. */
static int
percent(const char *p)
{
    int high = hex_digit(p[1]);
    int low = high < 0 ? -1 : hex_digit(p[2]);
    return low < 0 ? -1 : high * 16 + low;
}

static bool
is_control(int c)
{
    return c < 0x20 || c == 0x7f;
}

/* One segment, up to '/' or the end; its length in *ret_len; bytes read, or -EINVAL. */
static int
decode_segment(const char *in, char *out, size_t *ret_len, const char **ret_reason)
{
    const char *p = in;
    size_t len = 0;
    bool plain = true; /* ASCII without '%' after decoding */
    while (*p != '\0' && *p != '/') {
        int c = (unsigned char)*p;
        if (c == '%') {
            c = percent(p);
            if (c < 0) {
                *ret_reason = "bad percent encoding in the path";
                return -EINVAL;
            }
            if (c == '/' || is_control(c)) {
                *ret_reason = "encoded slash or control character in the path";
                return -EINVAL;
            }
            p += 3;
            plain = plain && c < 0x80 && c != '%';
        } else {
            if (is_control(c) || c >= 0x7f) {
                *ret_reason = "bytes outside ASCII in the path";
                return -EINVAL;
            }
            p++;
        }
        if (c == '\\') {
            *ret_reason = "backslash in the path";
            return -EINVAL;
        }
        out[len++] = (char)c;
    }
    if ((len == 1 && out[0] == '.') || (len == 2 && out[0] == '.' && out[1] == '.')) {
        *ret_reason = "dot segment in the path";
        return -EINVAL;
    }
    if (!plain) {
        out[len] = '\0'; /* there is room: decoding this shrank it */
        for (size_t i = 0; i < len; i++) {
            if (out[i] == '%' && percent(out + i) >= 0) {
                *ret_reason = "double encoding in the path";
                return -EINVAL;
            }
        }
        if (!utf8_valid(out, len)) {
            *ret_reason = "the path is not UTF-8";
            return -EINVAL;
        }
    }
    *ret_len = len;
    return (int)(p - in);
}

int
route_split(const char *target, char *out, struct route_path *ret_path, const char **ret_reason)
{
    if (target[0] != '/') {
        *ret_reason = "the path must begin with a slash";
        return -EINVAL;
    }
    if (strnlen(target, ROUTE_TARGET_MAX) == ROUTE_TARGET_MAX) {
        *ret_reason = "the path is too long";
        return -EINVAL;
    }
    ret_path->n = 0;
    while (*target == '/') {
        target++;
        if (ret_path->n == ROUTE_SEGMENTS_MAX) {
            *ret_reason = "the path has too many segments";
            return -EINVAL;
        }
        size_t len = 0;
        int n = decode_segment(target, out, &len, ret_reason);
        if (n < 0)
            return n;
        target += n;
        if (len == 0 && *target == '/') {
            *ret_reason = "empty segment in the path";
            return -EINVAL;
        }
        ret_path->segment[ret_path->n++] = (struct bus_str){ .p = out, .len = (uint32_t)len };
        out += len;
    }
    return 0;
}

/* ---- the tree ---- */

struct edge {
    const char *text; /* in the route table's path; not terminated */
    uint32_t len;
    struct node *to;
};

struct node {
    struct edge *edges; /* sorted by length, then bytes */
    unsigned n_edges;
    struct node *value; /* for {name} */
    const struct route *by_method[METHOD_N_ROUTED];
    unsigned methods;
};

struct route_tree {
    struct node root;
};

static int
compare_edge(const char *text, uint32_t len, const struct edge *e)
{
    if (len != e->len)
        return len < e->len ? -1 : 1;
    return memcmp(text, e->text, len);
}

/* The edge's place among the sorted ones; *ret_found tells whether it is there. */
static unsigned
find_edge(const struct node *n, const char *text, uint32_t len, bool *ret_found)
{
    unsigned low = 0, high = n->n_edges;
    while (low < high) {
        unsigned mid = (low + high) / 2;
        int cmp = compare_edge(text, len, &n->edges[mid]);
        if (cmp == 0) {
            *ret_found = true;
            return mid;
        }
        if (cmp < 0)
            high = mid;
        else
            low = mid + 1;
    }
    *ret_found = false;
    return low;
}

static struct node *
add_edge(struct node *n, const char *text, uint32_t len)
{
    bool found;
    unsigned at = find_edge(n, text, len, &found);
    if (found && n->edges != NULL)
        return n->edges[at].to;
    struct edge *edges = realloc(n->edges, (n->n_edges + 1) * sizeof(*edges));
    if (edges == NULL)
        return NULL;
    n->edges = edges;
    struct node *to = calloc(1, sizeof(*to));
    if (to == NULL)
        return NULL;
    memmove(edges + at + 1, edges + at, (n->n_edges - at) * sizeof(*edges));
    edges[at] = (struct edge){ .text = text, .len = len, .to = to };
    n->n_edges++;
    return to;
}

static int
add_route(struct node *n, const struct route *route)
{
    const char *p = route->path;
    while (*p == '/') {
        const char *text = p + 1;
        p = text + strcspn(text, "/");
        if (*text == '{') {
            if (n->value == NULL)
                n->value = calloc(1, sizeof(*n->value));
            n = n->value;
        } else {
            n = add_edge(n, text, (uint32_t)(p - text));
        }
        if (n == NULL)
            return -ENOMEM;
    }
    enum http_method method = method_parse(route->method);
    if (method >= METHOD_N_ROUTED || n->by_method[method] != NULL)
        return -EINVAL;
    n->by_method[method] = route;
    n->methods |= 1u << method;
    return 0;
}

/* Everything below 'n', not 'n' itself. As deep as the longest path of the table. */
static void
free_below(struct node *n)
{
    for (unsigned i = 0; i < n->n_edges; i++) {
        free_below(n->edges[i].to);
        free(n->edges[i].to);
    }
    free(n->edges);
    if (n->value != NULL) {
        free_below(n->value);
        free(n->value);
    }
}

void
route_tree_free(struct route_tree *t)
{
    if (t == NULL)
        return;
    free_below(&t->root);
    free(t);
}

int
route_tree_new(const struct route *table, size_t n, struct route_tree **ret_tree)
{
    struct route_tree *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        int r = add_route(&t->root, &table[i]);
        if (r < 0) {
            route_tree_free(t);
            return r;
        }
    }
    *ret_tree = t;
    return 0;
}

/* The node for segments 'at'.., with the values on the way; at most ROUTE_SEGMENTS_MAX deep. */
static const struct node *
walk(const struct node *n, const struct route_path *path, unsigned at, unsigned n_values,
     struct route_match *match)
{
    if (at == path->n) {
        match->n_values = n_values;
        return n->methods != 0 ? n : NULL;
    }
    struct bus_str s = path->segment[at];
    bool found;
    unsigned i = find_edge(n, s.p, s.len, &found);
    if (found) {
        const struct node *end = walk(n->edges[i].to, path, at + 1, n_values, match);
        if (end != NULL)
            return end;
    }
    if (n->value == NULL || s.len == 0 || n_values == BUS_PATH_MAX)
        return NULL;
    match->value[n_values] = s;
    return walk(n->value, path, at + 1, n_values + 1, match);
}

int
route_find(const struct route_tree *t, enum http_method method, const struct route_path *path,
           unsigned first, struct route_match *ret_match)
{
    const struct node *n = walk(&t->root, path, first, 0, ret_match);
    if (n == NULL)
        return ROUTE_UNKNOWN;
    ret_match->methods = n->methods;
    if (method == METHOD_HEAD)
        method = METHOD_GET;
    if (method >= METHOD_N_ROUTED || n->by_method[method] == NULL)
        return ROUTE_OTHER_METHOD;
    ret_match->route = n->by_method[method];
    return ROUTE_FOUND;
}

/* ---- the query ---- */

/* Up to one of 'stop' or the end, terminated; bytes read, or -EINVAL. */
static int
decode_part(const char *in, const char *stop, char *out, struct bus_str *ret_part,
            const char **ret_reason)
{
    const char *p = in;
    size_t len = 0;
    while (*p != '\0' && strchr(stop, *p) == NULL) {
        int c = (unsigned char)*p;
        if (c == '%') {
            c = percent(p);
            if (c <= 0) {
                *ret_reason = "bad percent encoding in the query";
                return -EINVAL;
            }
            p += 3;
        } else {
            c = c == '+' ? ' ' : c;
            p++;
        }
        out[len++] = (char)c;
    }
    out[len] = '\0';
    if (!utf8_valid(out, len)) {
        *ret_reason = "the query is not UTF-8";
        return -EINVAL;
    }
    *ret_part = (struct bus_str){ .p = out, .len = (uint32_t)len };
    return (int)(p - in);
}

int
route_query(const char *query, char *out, struct bus_str name[BUS_QUERY_MAX],
            struct bus_str value[BUS_QUERY_MAX], const char **ret_reason)
{
    if (strnlen(query, ROUTE_QUERY_BYTES) >= ROUTE_QUERY_BYTES - 1) {
        *ret_reason = "the query is too long";
        return -EINVAL;
    }
    int n = 0;
    while (*query != '\0') {
        if (*query == '&') {
            query++;
            continue;
        }
        if (n == BUS_QUERY_MAX) {
            *ret_reason = "the query has too many parameters";
            return -EINVAL;
        }
        int used = decode_part(query, "=&", out, &name[n], ret_reason);
        if (used < 0)
            return used;
        if (name[n].len == 0) {
            *ret_reason = "a query parameter has no name";
            return -EINVAL;
        }
        query += used;
        out += name[n].len + 1;
        value[n] = (struct bus_str){ 0 };
        if (*query == '=') {
            used = decode_part(query + 1, "&", out, &value[n], ret_reason);
            if (used < 0)
                return used;
            query += 1 + used;
            out += value[n].len + 1;
        }
        for (int i = 0; i < n; i++) {
            if (str_eq(name[i].p, name[n].p)) {
                *ret_reason = name[i].p;
                return -EEXIST;
            }
        }
        n++;
    }
    return n;
}
