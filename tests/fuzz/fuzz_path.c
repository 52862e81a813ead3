/*
 * Request targets as the gateway takes them apart: path and query, with the
 * real routes. What comes out must keep its promises.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/route.h"
#include "libcommon/base.h"
#include "libcommon/str.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check_path(const struct route_tree *tree, const char *target)
{
    char out[ROUTE_TARGET_MAX];
    struct route_path path;
    const char *reason = NULL;
    if (route_split(target, out, &path, &reason) < 0) {
        MUST(reason != NULL);
        return;
    }
    MUST(path.n >= 1 && path.n <= ROUTE_SEGMENTS_MAX);
    for (unsigned i = 0; i < path.n; i++) {
        struct bus_str s = path.segment[i];
        MUST(s.p >= out && s.p + s.len <= out + sizeof(out));
        MUST(utf8_valid(s.p, s.len) && memchr(s.p, '\0', s.len) == NULL);
        MUST(memchr(s.p, '/', s.len) == NULL && memchr(s.p, '\\', s.len) == NULL);
        MUST(!(s.len == 1 && s.p[0] == '.') && !(s.len == 2 && memcmp(s.p, "..", 2) == 0));
    }
    for (int m = 0; m < METHOD_N; m++) {
        struct route_match match;
        int r = route_find(tree, (enum http_method)m, &path, path.n > 2 ? 2 : 0, &match);
        MUST(r != ROUTE_FOUND || match.n_values <= BUS_PATH_MAX);
        MUST(r != ROUTE_OTHER_METHOD || match.methods != 0);
    }
}

static void
check_query(const char *query)
{
    char out[ROUTE_QUERY_BYTES];
    struct bus_str name[BUS_QUERY_MAX], value[BUS_QUERY_MAX];
    const char *reason = NULL;
    int n = route_query(query, out, name, value, &reason);
    if (n < 0) {
        MUST(reason != NULL);
        return;
    }
    MUST(n <= BUS_QUERY_MAX);
    for (int i = 0; i < n; i++) {
        MUST(name[i].len > 0 && strlen(name[i].p) == name[i].len);
        MUST(utf8_valid(name[i].p, name[i].len));
        MUST(value[i].p == NULL || strlen(value[i].p) == value[i].len);
        for (int k = 0; k < i; k++)
            MUST(!str_eq(name[i].p, name[k].p));
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct route_tree *tree;
    if (tree == NULL)
        MUST(route_tree_new(routes, n_routes, &tree) == 0);
    char *text = malloc(size + 1);
    if (text == NULL)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    char *query = strchr(text, '?');
    if (query != NULL) {
        *query = '\0';
        check_query(query + 1);
    }
    check_path(tree, text);
    free(text);
    return 0;
}
