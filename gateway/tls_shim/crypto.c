/*
 * libcrypto.so as the web server library expects it: a name that leads to
 * libcrypto.so.3. See proto/decisions/tls-with-civetweb.md.
 */
extern const int fieldgate_tls_shim;
const int fieldgate_tls_shim = 1;
