/*
 * What the security advisor is told of the listeners: facts, no judgement
 * (proto/README.md section 4, SECURITY_FACTS).
 */
#include <errno.h>
#include <string.h>

#include "gateway/gateway.h"
#include "gateway/https.h"
#include "gateway/tls.h"
#include "libcommon/bus.h"
#include "libcommon/json.h"
#include "libcommon/log.h"

#include "libcommon/banned.h"

enum { FACTS_MAX = 32 << 10 }; /* names and a path, each character escaped */

static void
put_tls(struct buf *b, const struct tls_facts *f)
{
    jw_name(b, "tls");
    jw_open(b, '{');
    jw_ki64(b, "minVersion", f->min_version);
    jw_kstr(b, "subject", f->subject);
    jw_kstr(b, "issuer", f->issuer);
    jw_kbool(b, "selfSigned", f->self_signed);
    jw_kstr(b, "host", f->host);
    jw_kbool(b, "namesHost", f->names_host);
    jw_ki64(b, "notBefore", f->not_before_s);
    jw_ki64(b, "notAfter", f->not_after_s);
    jw_kstr(b, "keyType", f->key_type);
    jw_ki64(b, "keyBits", f->key_bits);
    jw_ki64(b, "keyStrength", f->key_strength);
    jw_kstr(b, "signature", f->signature);
    jw_ki64(b, "signatureStrength", f->signature_strength);
    jw_kstr(b, "keyFile", f->key_file);
    jw_ki64(b, "keyFileMode", f->key_file_mode);
    jw_close(b, '}');
}

void
gateway_security_facts(void *self, struct bus_incoming *in)
{
    const struct gateway *g = self;
    struct tls_facts tls;
    struct buf b;
    buf_init(&b, FACTS_MAX);
    jw_open(&b, '{');
    jw_ku64(&b, "httpsPort", https_port(g->https));
    jw_ku64(&b, "httpPort", g->http_port);
    jw_ku64(&b, "redirectPort", https_redirect_port(g->https));
    jw_name(&b, "corsOrigins");
    jw_open(&b, '[');
    for (unsigned i = 0; i < g->cors.n; i++)
        jw_str(&b, g->cors.origins[i]);
    jw_close(&b, ']');
    int r = tls_get_facts(g->tls, &tls);
    if (r == 0)
        put_tls(&b, &tls);
    else /* what is not told is unknown to who asks */
        log_err("gateway: cannot read the certificate error=%s", strerror(-r));
    jw_close(&b, '}');
    bus_answer_json(in, &b);
    buf_done(&b);
}
