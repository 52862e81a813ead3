/*
 * libssl.so as the web server library expects it: it loads this name at run
 * time and looks for a function that OpenSSL 3 renamed. Everything else comes
 * from libssl.so.3, which this library needs. See
 * proto/decisions/tls-with-civetweb.md.
 */
#include <openssl/ssl.h>

#undef SSL_get_peer_certificate
X509 *SSL_get_peer_certificate(const SSL *ssl);

X509 *
SSL_get_peer_certificate(const SSL *ssl)
{
    return SSL_get1_peer_certificate(ssl);
}
