/*
 * From the bytes of a request target to a route and its values: segments are
 * decoded once, tricks are refused, a tree finds the route. Knows nothing of
 * the HTTP server or the bus's sockets.
 */
#ifndef FIELDGATE_GATEWAY_ROUTE_H
#define FIELDGATE_GATEWAY_ROUTE_H

#include <stddef.h>
#include <stdint.h>

#include "gen/routes.h"
#include "libcommon/bus.h"

enum http_method {
    METHOD_GET,
    METHOD_POST,
    METHOD_PUT,
    METHOD_PATCH,
    METHOD_DELETE,
    METHOD_N_ROUTED,
    METHOD_HEAD = METHOD_N_ROUTED, /* routed as GET */
    METHOD_OPTIONS,
    METHOD_OTHER,
    METHOD_N,
};
/* METHOD_OTHER for what is not served. */
enum http_method method_parse(const char *name);
const char *method_name(enum http_method method);

enum {
    ROUTE_TARGET_MAX = 2048,  /* bytes of a path, as sent */
    ROUTE_SEGMENTS_MAX = 16,  /* of a path */
    ROUTE_QUERY_BYTES = 8192, /* of a query, as sent */
};

/* A path taken apart; the segments point into the caller's memory. */
struct route_path {
    unsigned n;
    struct bus_str segment[ROUTE_SEGMENTS_MAX];
};

/*
 * Decodes 'target' ("/a/b%20c") into 'out' (ROUTE_TARGET_MAX bytes). Refused
 * with -EINVAL, the reason in *ret_reason: no leading slash, empty or dot
 * segments, bad or double percent encoding, encoded slash, backslash or
 * control characters, bytes that are not UTF-8, too long. One slash at the
 * end makes an empty last segment, which no route has. Returns 0.
 */
int route_split(const char *target, char *out, struct route_path *ret_path,
                const char **ret_reason);

struct route_match {
    const struct route *route;
    unsigned n_values;
    struct bus_str value[BUS_PATH_MAX];
    unsigned methods; /* bit per enum http_method that the path has */
};
enum { ROUTE_FOUND, ROUTE_UNKNOWN, ROUTE_OTHER_METHOD };

struct route_tree;
/* 'routes' must outlive the tree. 0; -ENOMEM; -EINVAL: two routes for one method and path. */
int route_tree_new(const struct route *table, size_t n, struct route_tree **ret_tree);
void route_tree_free(struct route_tree *t); /* NULL does nothing */

/*
 * The route for the segments from 'first' on. ROUTE_FOUND fills all of
 * *ret_match; ROUTE_OTHER_METHOD only 'methods'. A fixed segment is preferred
 * to a value.
 */
int route_find(const struct route_tree *t, enum http_method method,
               const struct route_path *path, unsigned first, struct route_match *ret_match);

/*
 * Query text into names and values, decoded ('+' is a space) into 'out'
 * (ROUTE_QUERY_BYTES). Returns the number; -EINVAL with the reason for bad
 * encoding, NUL, bytes that are not UTF-8, no name, too many, too long;
 * -EEXIST with the name given twice as the reason (in 'out').
 */
int route_query(const char *query, char *out, struct bus_str name[BUS_QUERY_MAX],
                struct bus_str value[BUS_QUERY_MAX], const char **ret_reason);

#endif
