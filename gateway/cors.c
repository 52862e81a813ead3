/*
 * Which origins may call. See cors.h.
 */
#include "gateway/cors.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "libcommon/str.h"

#include "libcommon/banned.h"

static const char *
after_scheme(const char *origin)
{
    static const char *const schemes[] = { "https://", "http://" };
    for (unsigned i = 0; i < 2; i++)
        if (strncmp(origin, schemes[i], strlen(schemes[i])) == 0)
            return origin + strlen(schemes[i]);
    return NULL;
}

static bool
is_origin(const char *text)
{
    const char *host = after_scheme(text);
    if (host == NULL)
        return false;
    size_t len = strspn(host, "abcdefghijklmnopqrstuvwxyz0123456789.-");
    uint32_t port;
    return len > 0 && (host[len] == '\0' ||
                       (host[len] == ':' && parse_u32(host + len + 1, 1, 65535, &port) == 0));
}

int
cors_allow(struct cors *c, const char *origin)
{
    if (!is_origin(origin) || strlen(origin) >= CORS_ORIGIN_SIZE)
        return -EINVAL;
    if (c->n == CORS_ORIGINS_MAX)
        return -ENOSPC;
    (void)str_copy(c->origins[c->n++], CORS_ORIGIN_SIZE, origin); /* fits */
    return 0;
}

const char *
cors_find(const struct cors *c, const char *value)
{
    for (unsigned i = 0; i < c->n; i++)
        if (str_eq(c->origins[i], value))
            return c->origins[i];
    return NULL;
}
