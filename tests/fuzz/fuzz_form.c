/* multipart bodies: the first line is the content type, the rest the body. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/api_private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *line = memchr(data, '\n', size);
    size_t n_type = line ? (size_t)(line - data) : 0;
    char type[256];
    if (!line || n_type >= sizeof(type))
        return 0;
    memcpy(type, data, n_type);
    type[n_type] = '\0';
    size_t n = size - n_type - 1;
    char *body = malloc(n + 1);
    if (!body)
        return 0;
    memcpy(body, line + 1, n);
    body[n] = '\0';
    struct api_form_entry parts[API_FORM_PARTS_MAX];
    size_t n_parts = 0;
    if (api_form_split(type, body, n, parts, API_FORM_PARTS_MAX, &n_parts) == 0)
        for (size_t i = 0; i < n_parts; i++)
            if (parts[i].bytes < body || parts[i].bytes + parts[i].n > body + n)
                abort();
    free(body);
    return 0;
}
