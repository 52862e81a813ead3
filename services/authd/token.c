/*
 * Making tokens. What the store keeps of one is its hash: with a copy of the
 * store in hand, signing key included, the random part is still to be guessed.
 */
#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "services/authd/authd.h"
#include "services/authd/permission.h"

#include "libcommon/banned.h"

int
token_make(struct authd *a, struct api_call *call, struct jwt_claims *claims,
           uint64_t permissions, uint8_t ret_hash[JWT_HASH_SIZE], const char **ret_text)
{
    char text[JWT_TEXT_MAX + 1];
    const char **ids;
    int r = permission_ids(call, api_view(call), permissions, &ids, &claims->n_permissions);
    if (r < 0)
        return r;
    claims->serial_number = a->serial;
    claims->permissions = ids;
    randombytes_buf(claims->id, sizeof(claims->id));
    r = jwt_make(a->key, claims, text);
    if (r < 0)
        return r;
    char *copy = api_strdup(call, text);
    if (copy) {
        jwt_hash(text, strlen(text), ret_hash);
        *ret_text = copy;
    }
    sodium_memzero(text, sizeof(text));
    return copy ? 0 : -ENOMEM;
}
