/*
 * TLS certificate and context. See tls.h.
 */
#include "gateway/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/conns.h"
#include "libcommon/base.h"
#include "libcommon/buf.h"
#include "libcommon/cert_publish.h"
#include "libcommon/clock.h"
#include "libcommon/log.h"
#include "libcommon/loop.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

enum {
    CERT_DAYS = 3653,
    CHAIN_MAX = 8,
    SECURITY_BITS_MIN = 112, /* RSA 2048, P-224 */
    SETTLE_US = 300000,      /* both files of a pair are written within this */
    NAME_SIZE = 128 + 1,     /* authd takes 128 characters */
};

struct tls_pair {
    X509 *cert;
    EVP_PKEY *key;
    STACK_OF(X509) * chain;
    char key_path[PATH_MAX]; /* where it was read */
};

struct tls {
    SSL_CTX *ctx;
    pthread_rwlock_t lock; /* of 'pair' */
    struct tls_pair *pair;
    bool uploaded;        /* 'pair' is not that of the files */
    char name[NAME_SIZE]; /* that the certificate is listed by */
    _Atomic bool self_signed;
    char cert_path[PATH_MAX], key_path[PATH_MAX];
    char dir[PATH_MAX];
    int inotify_fd;
    struct loop *loop;
    struct loop_io *io;
    struct loop_timer settle;
    struct cert_publish *publish; /* NULL until tls_publish */
};

static void
pair_done(struct tls_pair *p)
{
    X509_free(p->cert);
    EVP_PKEY_free(p->key);
    sk_X509_pop_free(p->chain, X509_free);
    *p = (struct tls_pair){ 0 };
}

void
tls_pair_free(struct tls_pair *pair)
{
    if (pair == NULL)
        return;
    pair_done(pair);
    free(pair);
}

/* What OpenSSL says went wrong; empties its queue. */
static const char *
openssl_error(void)
{
    unsigned long code = ERR_get_error();
    const char *text = code == 0 ? NULL : ERR_reason_error_string(code);
    ERR_clear_error();
    return text == NULL ? "unknown error" : text;
}

/* ---- a certificate for this machine ---- */

/*
 * The IPv4 addresses, for the listeners have no others. Not by getifaddrs():
 * it needs a netlink socket, which the unit denies.
 */
static void
add_addresses(struct buf *names)
{
    struct ifreq list[64] = { 0 };
    struct ifconf conf = { .ifc_len = sizeof(list), .ifc_req = list };
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || ioctl(fd, SIOCGIFCONF, &conf) < 0) {
        log_warn("tls: the certificate names no address error=%s", strerror(errno));
        conf.ifc_len = 0;
    }
    if (fd >= 0)
        close(fd);
    for (size_t i = 0; i < (size_t)conf.ifc_len / sizeof(list[0]); i++) {
        const struct sockaddr_in *in =
            (const struct sockaddr_in *)(const void *)&list[i].ifr_addr;
        char text[INET_ADDRSTRLEN];
        if (in->sin_family == AF_INET && ntohl(in->sin_addr.s_addr) >> 24 != IN_LOOPBACKNET &&
            inet_ntop(AF_INET, &in->sin_addr, text, sizeof(text)) != NULL)
            buf_printf(names, ",IP:%s", text);
    }
}

static bool
is_dns_name(const char *name)
{
    return name[0] != '\0' && strlen(name) <= 63 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") ==
               strlen(name);
}

static bool
add_extension(X509 *cert, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, cert, cert, NULL, NULL, 0);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    bool ok = ext != NULL && X509_add_ext(cert, ext, -1) == 1;
    X509_EXTENSION_free(ext);
    return ok;
}

static bool
add_serial(X509 *cert)
{
    BIGNUM *n = BN_new();
    bool ok = n != NULL && BN_rand(n, 127, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1 &&
              BN_to_ASN1_INTEGER(n, X509_get_serialNumber(cert)) != NULL;
    BN_free(n);
    return ok;
}

static bool
fill_certificate(X509 *cert, EVP_PKEY *key)
{
    char host[HOST_NAME_MAX + 1] = "";
    if (gethostname(host, sizeof(host) - 1) < 0 || !is_dns_name(host))
        (void)str_copy(host, sizeof(host), "fieldgate"); /* fits */
    struct buf names;
    buf_init(&names, 8192);
    buf_printf(&names, "DNS:%s,DNS:localhost,IP:127.0.0.1,IP:::1", host);
    add_addresses(&names);
    const char *san = buf_text(&names);
    X509_NAME *subject = X509_get_subject_name(cert);
    bool ok = san != NULL && X509_set_version(cert, X509_VERSION_3) == 1 && add_serial(cert) &&
              X509_gmtime_adj(X509_getm_notBefore(cert), -24L * 3600) != NULL &&
              X509_time_adj_ex(X509_getm_notAfter(cert), CERT_DAYS, 0, NULL) != NULL &&
              X509_set_pubkey(cert, key) == 1 &&
              X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_UTF8,
                                         (const unsigned char *)"Fieldgate", -1, -1, 0) == 1 &&
              X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
                                         (const unsigned char *)host, -1, -1, 0) == 1 &&
              X509_set_issuer_name(cert, subject) == 1 &&
              add_extension(cert, NID_basic_constraints, "critical,CA:FALSE") &&
              add_extension(cert, NID_key_usage, "critical,digitalSignature") &&
              add_extension(cert, NID_ext_key_usage, "serverAuth") &&
              add_extension(cert, NID_subject_key_identifier, "hash") &&
              add_extension(cert, NID_subject_alt_name, san) &&
              X509_sign(cert, key, EVP_sha256()) > 0;
    buf_done(&names);
    return ok;
}

/* A new file under a temporary name. The stream, or NULL with errno. */
static FILE *
create(const char *path, mode_t mode, char *temp, size_t temp_size)
{
    if (snprintf(temp, temp_size, "%s.new", path) >= (int)temp_size) {
        errno = ENAMETOOLONG;
        return NULL;
    }
    (void)unlink(temp); /* left by a start that was cut short */
    int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0)
        return NULL;
    FILE *f = fdopen(fd, "w");
    if (f == NULL)
        close(fd);
    return f;
}

static int
finish(FILE *f, bool written, const char *temp, const char *path)
{
    bool ok = written && fflush(f) == 0 && fsync(fileno(f)) == 0;
    if (fclose(f) != 0)
        ok = false;
    if (ok && rename(temp, path) == 0)
        return 0;
    int r = errno != 0 ? -errno : -EIO;
    (void)unlink(temp);
    return r;
}

static int
write_pair(const struct tls *t, const struct tls_pair *p)
{
    char temp[PATH_MAX + 8];
    FILE *f = create(t->key_path, 0600, temp, sizeof(temp));
    if (f == NULL)
        return -errno;
    int r = finish(f, PEM_write_PrivateKey(f, p->key, NULL, NULL, 0, NULL, NULL) == 1, temp,
                   t->key_path);
    if (r < 0)
        return r;
    f = create(t->cert_path, 0644, temp, sizeof(temp));
    if (f == NULL)
        return -errno;
    return finish(f, PEM_write_X509(f, p->cert) == 1, temp, t->cert_path);
}

/* A key without its certificate may be all that somebody has of it. */
static int
keep_old_key(const struct tls *t)
{
    char old[PATH_MAX + 8];
    (void)snprintf(old, sizeof(old), "%s.old", t->key_path); /* fits */
    if (rename(t->key_path, old) == 0) {
        log_warn("tls: no certificate for the key, which is kept file=%s", old);
        return 0;
    }
    return errno == ENOENT ? 0 : -errno;
}

static int
make_pair(const struct tls *t)
{
    struct tls_pair p = { .cert = X509_new(), .key = EVP_EC_gen("P-256") };
    int r = keep_old_key(t);
    if (r < 0) {
        log_err("tls: cannot put the old key aside error=%s", strerror(-r));
        pair_done(&p);
        return r;
    }
    r = -EIO;
    if (p.cert != NULL && p.key != NULL && fill_certificate(p.cert, p.key))
        r = write_pair(t, &p);
    else
        log_err("tls: cannot make a certificate error=%s", openssl_error());
    pair_done(&p);
    if (r == 0)
        log_info("tls: certificate made file=%s", t->cert_path);
    return r;
}

/* ---- loading ---- */

static bool
read_certificates(FILE *f, struct tls_pair *p)
{
    p->cert = PEM_read_X509(f, NULL, NULL, NULL);
    p->chain = sk_X509_new_null();
    if (p->cert == NULL || p->chain == NULL)
        return false;
    for (X509 *x; (x = PEM_read_X509(f, NULL, NULL, NULL)) != NULL;) {
        if (sk_X509_num(p->chain) == CHAIN_MAX || sk_X509_push(p->chain, x) <= 0) {
            X509_free(x);
            return false;
        }
    }
    ERR_clear_error(); /* the end of the file is one */
    return true;
}

/* Nobody is asked for a pass phrase. */
static int
no_password(char *buf, int size, int rwflag, void *arg)
{
    (void)buf;
    (void)size;
    (void)rwflag;
    (void)arg;
    return 0;
}

/* NULL, or why the files are no pair to use. */
static const char *
read_pair(const char *cert_path, const char *key_path, struct tls_pair *p)
{
    const char *fault = NULL;
    FILE *f = fopen(cert_path, "re");
    if (f == NULL || !read_certificates(f, p))
        fault = "the certificate cannot be read";
    if (f != NULL)
        (void)fclose(f); /* was only read */
    if (fault != NULL)
        return fault;
    f = fopen(key_path, "re");
    p->key = f == NULL ? NULL : PEM_read_PrivateKey(f, NULL, no_password, NULL);
    if (f != NULL)
        (void)fclose(f); /* as above */
    if (p->key == NULL)
        return "the key cannot be read";
    if (X509_check_private_key(p->cert, p->key) != 1)
        return "certificate and key are no pair";
    return EVP_PKEY_get_security_bits(p->key) < SECURITY_BITS_MIN ? "the key is too short"
                                                                  : NULL;
}

int
tls_pair_load(const char *cert_path, const char *key_path, struct tls_pair **ret_pair,
              const char **ret_fault)
{
    struct tls_pair *p = calloc(1, sizeof(*p));
    if (p == NULL) {
        *ret_fault = "out of memory";
        return -ENOMEM;
    }
    const char *fault = read_pair(cert_path, key_path, p);
    ERR_clear_error();
    if (fault != NULL) {
        log_warn("tls: pair not used file=%s reason=%s", cert_path, fault);
        *ret_fault = fault;
        tls_pair_free(p);
        return -EINVAL;
    }
    (void)str_copy(p->key_path, sizeof(p->key_path), key_path); /* fits: it was opened */
    *ret_pair = p;
    return 0;
}

void
tls_use(struct tls *t, struct tls_pair *pair, const char *uploaded_as)
{
    const char *name =
        uploaded_as != NULL && uploaded_as[0] != '\0' ? uploaded_as : TLS_CERT_FILE;
    pthread_rwlock_wrlock(&t->lock);
    struct tls_pair *old = t->pair;
    t->pair = pair;
    pthread_rwlock_unlock(&t->lock);
    t->uploaded = uploaded_as != NULL;
    (void)str_copy_len(t->name, sizeof(t->name), name,
                       utf8_cut(name, strlen(name), sizeof(t->name) - 1)); /* fits */
    atomic_store(&t->self_signed, X509_self_signed(pair->cert, 0) != 0);   /* or not known */
    tls_pair_free(old); /* handshakes under way hold references of their own */
    if (t->publish != NULL)
        cert_publish_changed(t->publish);
}

bool
tls_is_self_signed(const struct tls *t)
{
    return atomic_load_explicit(&t->self_signed, memory_order_relaxed);
}

static int
load_files(struct tls *t)
{
    struct tls_pair *fresh;
    const char *fault;
    int r = tls_pair_load(t->cert_path, t->key_path, &fresh, &fault);
    if (r == 0)
        tls_use(t, fresh, NULL);
    return r;
}

int
tls_reload(struct tls *t)
{
    return t->uploaded ? 0 : load_files(t);
}

static int
fill_published(struct buf *list, void *arg)
{
    const struct tls *t = arg;
    BIO *bio = BIO_new(BIO_s_mem());
    bool ok = bio != NULL && PEM_write_bio_X509(bio, t->pair->cert) == 1;
    for (int i = 0; ok && i < sk_X509_num(t->pair->chain); i++)
        ok = PEM_write_bio_X509(bio, sk_X509_value(t->pair->chain, i)) == 1;
    char *pem = NULL;
    long n = ok ? BIO_get_mem_data(bio, &pem) : 0;
    if (n > 0)
        cert_publish_add(list, t->name, pem, (size_t)n);
    BIO_free(bio);
    return n > 0 ? 0 : -ENOMEM;
}

int
tls_publish(struct tls *t, struct svc *svc)
{
    return cert_publish_new(svc, "httpserver", fill_published, t, &t->publish);
}

/* Each handshake takes the pair of this moment. */
static int
on_handshake(SSL *ssl, void *arg)
{
    struct tls *t = arg;
    pthread_rwlock_rdlock(&t->lock);
    int ok = SSL_use_cert_and_key(ssl, t->pair->cert, t->pair->key, t->pair->chain, 1);
    pthread_rwlock_unlock(&t->lock);
    return ok;
}

/* The library has put its connection into the SSL: the first that we see of it. */
static void
on_tls_event(const SSL *ssl, int where, int value)
{
    (void)value;
    if ((where & SSL_CB_HANDSHAKE_START) != 0)
        conns_handshake(SSL_get_fd(ssl), SSL_get_ex_data(ssl, 0)); /* its "app data" */
}

static SSL_CTX *
make_context(struct tls *t)
{
    static const unsigned char session_name[] = "fieldgate";
    char groups[] = "X25519:P-256:P-384"; /* OpenSSL's macro wants it without const */
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (ctx == NULL)
        return NULL;
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20") != 1 ||
        SSL_CTX_set1_groups_list(ctx, groups) != 1 ||
        SSL_CTX_set_session_id_context(ctx, session_name, sizeof(session_name) - 1) != 1) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS); /* idle connections need no 34 KB each */
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF); /* tickets do, without memory */
    SSL_CTX_set_num_tickets(ctx, 1);
    SSL_CTX_set_cert_cb(ctx, on_handshake, t);
    SSL_CTX_set_info_callback(ctx, on_tls_event);
    return ctx;
}

int
tls_new(const char *dir, struct tls **ret_tls)
{
    struct tls *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return -ENOMEM;
    t->inotify_fd = -1;
    pthread_rwlock_init(&t->lock, NULL);
    int r = 0;
    if (str_copy(t->dir, sizeof(t->dir), dir) < 0 ||
        snprintf(t->cert_path, sizeof(t->cert_path), "%s/" TLS_CERT_FILE, dir) >= PATH_MAX ||
        snprintf(t->key_path, sizeof(t->key_path), "%s/" TLS_KEY_FILE, dir) >= PATH_MAX)
        r = -ENAMETOOLONG;
    /* The certificate is written last: without it there was no complete pair. */
    if (r == 0 && access(t->cert_path, F_OK) < 0)
        r = make_pair(t);
    if (r == 0)
        r = load_files(t);
    if (r == 0) {
        t->ctx = make_context(t);
        if (t->ctx == NULL) {
            log_err("tls: no context error=%s", openssl_error());
            r = -EIO;
        }
    }
    if (r < 0) {
        log_err("tls: cannot start dir=%s error=%s", dir, strerror(-r));
        tls_pair_free(t->pair);
        free(t);
        return r;
    }
    *ret_tls = t;
    return 0;
}

/* ---- what the security advisor is told ---- */

static void
epoch_freep(ASN1_TIME **t)
{
    ASN1_TIME_free(*t);
}

static int
time_of(const ASN1_TIME *t, int64_t *ret_s)
{
    int days, seconds;
    CLEANUP(epoch_freep) ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
    if (epoch == NULL || ASN1_TIME_diff(&days, &seconds, epoch, t) != 1)
        return -EIO;
    *ret_s = (int64_t)days * 24 * 3600 + seconds;
    return 0;
}

static int
name_of(X509_NAME *name, char *out, size_t out_size)
{
    char *text = NULL;
    BIO *bio = BIO_new(BIO_s_mem());
    long n = -1;
    if (bio != NULL &&
        X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB) >= 0)
        n = BIO_get_mem_data(bio, &text);
    int r = n < 0 ? -EIO : 0;
    if (r == 0)
        r = str_copy_len(out, out_size, text, utf8_cut(text, (size_t)n, out_size - 1));
    BIO_free(bio);
    return r;
}

static int
read_facts(X509 *cert, struct tls_facts *f)
{
    int digest, key, strength = 0;
    EVP_PKEY *public = X509_get0_pubkey(cert);
    const char *type = public == NULL ? NULL : EVP_PKEY_get0_type_name(public);
    if (type == NULL ||
        name_of(X509_get_subject_name(cert), f->subject, sizeof(f->subject)) < 0 ||
        name_of(X509_get_issuer_name(cert), f->issuer, sizeof(f->issuer)) < 0 ||
        time_of(X509_get0_notBefore(cert), &f->not_before_s) < 0 ||
        time_of(X509_get0_notAfter(cert), &f->not_after_s) < 0)
        return -EIO;
    (void)str_copy(f->key_type, sizeof(f->key_type), type); /* else it stays empty */
    f->key_bits = EVP_PKEY_get_bits(public);
    f->key_strength = EVP_PKEY_get_security_bits(public);
    f->self_signed = X509_self_signed(cert, 0) == 1;
    if (gethostname(f->host, sizeof(f->host) - 1) < 0)
        f->host[0] = '\0';
    f->names_host = f->host[0] != '\0' && X509_check_host(cert, f->host, 0, 0, NULL) == 1;
    if (X509_get_signature_info(cert, &digest, &key, &strength, NULL) == 1)
        f->signature_strength = strength;
    const char *signature = OBJ_nid2sn(X509_get_signature_nid(cert));
    (void)str_copy(f->signature, sizeof(f->signature),
                   signature ? signature : ""); /* as above */
    return 0;
}

int
tls_get_facts(struct tls *t, struct tls_facts *ret_facts)
{
    struct tls_facts f = { .min_version = (int)SSL_CTX_get_min_proto_version(t->ctx) };
    struct stat st;
    pthread_rwlock_rdlock(&t->lock);
    int r = read_facts(t->pair->cert, &f);
    memcpy(f.key_file, t->pair->key_path, sizeof(f.key_file));
    if (stat(f.key_file, &st) == 0)
        f.key_file_mode = st.st_mode & 07777;
    pthread_rwlock_unlock(&t->lock);
    ERR_clear_error();
    if (r < 0)
        return r;
    *ret_facts = f;
    return 0;
}

void *
tls_context(struct tls *t)
{
    return t->ctx;
}

/* ---- the files change ---- */

static void
settled(void *arg)
{
    struct tls *t = arg;
    if (!t->uploaded && load_files(t) == 0)
        log_info("tls: certificate replaced file=%s", t->cert_path);
}

static void
on_change(void *arg, uint32_t events)
{
    struct tls *t = arg;
    (void)events;
    _Alignas(struct inotify_event) char bytes[4096];
    bool ours = false;
    ssize_t n;
    while ((n = read(t->inotify_fd, bytes, sizeof(bytes))) > 0) {
        for (const char *p = bytes; p < bytes + n;) {
            const struct inotify_event *e = (const struct inotify_event *)(const void *)p;
            ours = ours || (e->len > 0 &&
                            (str_eq(e->name, TLS_CERT_FILE) || str_eq(e->name, TLS_KEY_FILE)));
            p += sizeof(*e) + e->len;
        }
    }
    if (ours)
        (void)loop_timer_set(t->loop, &t->settle,
                             clock_mono_us() + SETTLE_US); /* else: at HUP */
}

int
tls_watch(struct tls *t, struct loop *loop)
{
    t->loop = loop;
    loop_timer_init(&t->settle, settled, t);
    t->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (t->inotify_fd < 0)
        return -errno;
    if (inotify_add_watch(t->inotify_fd, t->dir, IN_CLOSE_WRITE | IN_MOVED_TO) < 0)
        return -errno;
    return loop_io_add(loop, t->inotify_fd, EPOLLIN, on_change, t, &t->io);
}
