/*
 * What a Modbus slave is inside: four tables of registers and bits in the form
 * of the wire, the tags that lie in them, and the server of requests over
 * them. It knows nothing of connections and frames: TCP and serial lines ask
 * it alike.
 *
 * A value of the hub goes into its table when it arrives, so a read copies
 * bytes and cannot see a tag half changed. A read of a hub tag that has no good
 * value is refused rather than answered with an old one: exception 0B when its
 * device or daemon is silent, 0A when nobody provides such a tag, 04 when its
 * value does not fit into its registers.
 *
 * A write is checked whole before anything is written. Its tags are then written
 * one after the other, lowest address first, each hub tag by its owner; the
 * first failure ends it: what lies before was done, what lies behind was not
 * begun. Registers of an own tag may be written one by one, those of a
 * hub tag only together (exception 03), because its owner would get a value
 * that nobody meant. Outcomes: refused by the owner 04, busy 06, tag
 * unknown 0A, no answer in SL_WRITE_US 0B. The read of function 23 follows its write; a hub tag
 * is read as its owner told it last.
 *
 * Modbus Application Protocol V1.1b3, section numbers in sl_serve.c.
 */
#ifndef FIELDGATE_SL_MAP_H
#define FIELDGATE_SL_MAP_H

#include "services/modbusd/mb_pdu.h"
#include "services/modbusd/sl_engine.h"

enum { SL_WRITE_US = 5000000 };

struct sl_map;

/* Of 'hooks' (copied) sample and write count; 'view' outlives the map. 0 or -ENOMEM. */
int sl_map_new(struct loop *loop, struct tagview *view, const struct sl_engine_hooks *hooks,
               const struct sl_config *cfg, struct sl_map **ret_map);
/* Own tags of the same number and form get the values that they have in 'old'. */
void sl_map_inherit(struct sl_map *m, const struct sl_map *old);
/*
 * The owner needs it no more: writes under way end first. Their own tags that
 * are not written yet never are (exception 06). NULL does nothing.
 */
void sl_map_retire(struct sl_map *m);

/* ---- serving ---- */

struct sl_job;
typedef void sl_answer_fn(void *arg, const uint8_t *pdu, size_t n);
/*
 * Serves the request 'pdu' (n bytes, at least 1) of a client of 'slave', a
 * serial one's number or 0 for TCP: zones that only another slave shows are
 * not there for it. Returns the size of the answer in 'out'; or
 * 0: 'fn' will be called once with the answer, after this call, and *ret_job is what is under
 * way.
 */
size_t sl_serve(struct sl_map *m, uint8_t slave, const uint8_t *pdu, size_t n,
                uint8_t out[MB_PDU_MAX], sl_answer_fn *fn, void *arg, struct sl_job **ret_job);
/* Nobody wants the answer any more; the writes go on. */
void sl_job_forget(struct sl_job *job);

/* ---- own tags ---- */

size_t sl_map_n_tags(const struct sl_map *m);
bool sl_map_def(const struct sl_map *m, size_t at, struct tag_def *ret_def);
/* Bytes are valid until the next call. */
bool sl_map_last(struct sl_map *m, size_t at, struct tag_sample *ret_sample);
/* As sl_engine_read and sl_engine_write. */
int sl_map_read(struct sl_map *m, uint32_t no, struct tag_sample *ret_sample);
int sl_map_write(struct sl_map *m, uint32_t no, const struct tag_value *v);
/* Fills n_tags, n_refs, n_misplaced, n_unknown. */
void sl_map_count(const struct sl_map *m, struct sl_stats *ret_stats);

#endif
