/*
 * Pages that are part of the program: made at build time from
 * gateway/docs/ and proto/api/. See docs.h.
 */
#include "gateway/docs.h"

#include "gateway/http.h"
#include "gateway/route.h"
#include "libcommon/base.h"
#include "libcommon/str.h"

#include "gen/gateway_docs.h"

#include "libcommon/banned.h"

/* Nothing from elsewhere, no inline code. */
#define PAGE_HEADERS                                                                           \
    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; "       \
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"      \
    "Referrer-Policy: no-referrer\r\nCache-Control: no-cache\r\n"

struct page {
    const char *path, *content_type;
    const char *bytes;
    const size_t *size;
};

static const size_t html_size = sizeof(docs_html), css_size = sizeof(docs_css),
                    js_size = sizeof(docs_js);
static const struct page pages[] = {
    { "/api/v1/openapi.json", "application/json", route_openapi_json,
      &route_openapi_json_size },
    { "/api/docs", "text/html; charset=utf-8", docs_html, &html_size },
    { "/api/docs/docs.css", "text/css; charset=utf-8", docs_css, &css_size },
    { "/api/docs/docs.js", "text/javascript; charset=utf-8", docs_js, &js_size },
    { "/", NULL, NULL, NULL },
};

static const struct page *
find(const char *path)
{
    for (size_t i = 0; i < ARRAY_LEN(pages); i++)
        if (str_eq(pages[i].path, path))
            return &pages[i];
    return NULL;
}

bool
docs_has(const char *path)
{
    return find(path) != NULL;
}

void
docs_answer(struct http_call *call)
{
    const struct page *page = find(call->path);
    struct http_reply reply = { .status = 302, .headers = "Location: /api/docs\r\n" };
    if (page->bytes != NULL) {
        reply = (struct http_reply){ .status = 200,
                                     .content_type = page->content_type,
                                     .body = page->bytes,
                                     .len = *page->size,
                                     .headers = PAGE_HEADERS,
                                     .may_cache = true };
    }
    (void)http_answer(call, &reply);
}
