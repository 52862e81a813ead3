/*
 * Tells authd which certificates a daemon uses, so that they are listed with
 * the others and watched for their end (CERT_PUBLISH, proto/README.md
 * section 4): each time authd is connected, after each change, and again
 * until authd has answered. On the loop; nothing here blocks.
 */
#ifndef FIELDGATE_CERT_PUBLISH_H
#define FIELDGATE_CERT_PUBLISH_H

#include <stddef.h>

struct buf;
struct cert_publish;
struct svc;

/* Adds all of them that are in use now (cert_publish_add). 0 or -errno: tried again later. */
typedef int cert_publish_fill_fn(struct buf *list, void *arg);

/*
 * For the sourceName 'source', a literal. 'arg' must outlive the loop, as what
 * is returned does. 0 or -errno.
 */
int cert_publish_new(struct svc *svc, const char *source, cert_publish_fill_fn *fill, void *arg,
                     struct cert_publish **ret_publish);
void cert_publish_changed(struct cert_publish *p);

/* For 'fill': one file of certificates, without any key in it. */
void cert_publish_add(struct buf *list, const char *name, const char *pem, size_t n);

#endif
