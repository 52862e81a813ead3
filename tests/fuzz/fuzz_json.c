/*
 * Whatever bytes come: json_parse and json_check agree; a tree that was
 * parsed is written as text that parses again to the same text.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(json_freep) struct cJSON *tree = NULL;
    CLEANUP(json_freep) struct cJSON *again = NULL;
    struct json_error error;

    int checked = json_check((const char *)data, size, &error);
    int r = json_parse((const char *)data, size, &tree, &error);
    MUST(r == checked);
    if (r != 0) {
        MUST(tree == NULL && error.at <= size);
        return 0;
    }

    struct buf first, second;
    buf_init(&first, 16 << 20);
    buf_init(&second, 16 << 20);
    jw_tree(&first, tree);
    MUST(first.err == 0);
    MUST(json_parse(first.data, first.len, &again, &error) == 0);
    jw_tree(&second, again);
    MUST(second.err == 0 && second.len == first.len);
    MUST(memcmp(first.data, second.data, first.len) == 0);
    buf_done(&first);
    buf_done(&second);
    return 0;
}
