/*
 * Whatever bytes come as a file of certificates, of a key, or of both: refused
 * or described in well-formed text. What was judged good was also readable.
 */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/str.h"
#include "libcommon/x509.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
must_be_text(const char *text, size_t size)
{
    size_t len = strnlen(text, size);
    MUST(len < size && utf8_valid(text, len));
}

static void
must_be_texts(const struct x509_values *v)
{
    MUST(v->n <= X509_VALUES_MAX);
    for (size_t i = 0; i < v->n; i++)
        must_be_text(v->text[i], sizeof(v->text[i]));
}

static void
must_be_described(const struct x509_info *i)
{
    must_be_texts(&i->country);
    must_be_texts(&i->state);
    must_be_texts(&i->locality);
    must_be_texts(&i->organization);
    must_be_text(i->common_name, sizeof(i->common_name));
    must_be_text(i->issuer, sizeof(i->issuer));
    must_be_text(i->signature, sizeof(i->signature));
    MUST(i->n_certs >= 1 && i->n_certs <= X509_CERTS_MAX);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const int64_t now_us = INT64_C(1795700000) * 1000000;
    const char *pem = (const char *)data;
    char reason[X509_REASON_SIZE] = "";
    struct x509_info info;
    struct x509_key_info key;
    int readable = x509_read_certs(pem, size, &info, reason);
    if (readable == X509_OK)
        must_be_described(&info);
    int good = x509_check_certs(pem, size, now_us, &info, reason);
    MUST(good != X509_OK || readable == X509_OK);
    must_be_text(reason, sizeof(reason));
    int good_key = x509_check_key(pem, size, &key, reason);
    MUST(good_key != X509_OK || good != X509_OK); /* one file is never both */
    must_be_text(reason, sizeof(reason));
    /* A certificate, and its key behind a NUL. */
    const char *split = size == 0 ? NULL : memchr(pem, '\0', size);
    if (split != NULL) {
        size_t n = (size_t)(split - pem);
        int r = x509_check_pair(pem, n, split + 1, size - n - 1, now_us, &info, reason);
        if (r == X509_OK)
            must_be_described(&info);
    }
    return 0;
}
