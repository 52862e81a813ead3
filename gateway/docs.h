/*
 * The contract, for programs (openapi.json) and for people (/api/docs).
 */
#ifndef FIELDGATE_GATEWAY_DOCS_H
#define FIELDGATE_GATEWAY_DOCS_H

#include <stdbool.h>

struct http_call;

/* Is 'path' one of these pages? */
bool docs_has(const char *path);
void docs_answer(struct http_call *call);

#endif
