/*
 * The slave among the tags of the hub: what it shows of them, how its clients'
 * writes reach their owners, and its own tags as others see them.
 *
 * The daemon's own tags come straight from its engines, and only those that
 * the slave shows; a write goes over the bus whoever owns the tag, the daemon
 * itself too: so it is judged, counted and bounded as everybody's.
 */
#ifndef FIELDGATE_SL_HUB_H
#define FIELDGATE_SL_HUB_H

#include "services/modbusd/modbusd.h"

/* Makes view and engine, without a configuration. 0 or -errno. */
int sl_hub_open(struct modbusd *d);
/* Begins to follow the hub's other providers. 0 or -errno. */
int sl_hub_start(struct modbusd *d);
void sl_hub_stop(struct modbusd *d);

/* Hooks of both engines ('arg': struct modbusd): a sample, another catalogue, for the tag bus
 * and for what the slave shows of them. */
void sl_hub_publish(void *arg, const struct tag_sample *s);
void sl_hub_changed(void *arg);

/* The catalogue of the whole daemon: the masters' tags, then the slave's. For tag_pub_source.
 */
bool sl_hub_def(void *arg, size_t at, struct tag_def *ret_def);
bool sl_hub_last(void *arg, size_t at, struct tag_sample *ret_sample);

/* What the hub lists by this name, of this daemon or another; false: nothing. */
bool sl_hub_lookup(const struct modbusd *d, const char *provider, const char *source,
                   const char *name, struct tag_def *ret_def);

/* TAG_READ and TAG_WRITE of a slave's own tag (from SL_TAG_BASE on). */
void sl_hub_read(struct modbusd *d, uint32_t no, struct mb_direct_result *ret_result);
void sl_hub_write(struct modbusd *d, uint32_t no, const struct tag_value *v,
                  struct mb_direct_result *ret_result);

#endif
