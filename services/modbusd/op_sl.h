/*
 * What the operations of the slave share: the rules of zones and of the tags
 * in them, and how these are staged.
 */
#ifndef FIELDGATE_OP_SL_H
#define FIELDGATE_OP_SL_H

#include "services/modbusd/op.h"
#include "services/modbusd/sl_config.h"

/* A request that changes zones. */
struct sl_stage {
    struct modbusd *d;
    struct api_call *call;
    struct store_txn *txn;
    size_t n_made; /* tags that autoCreate made */
};
/* API_OK, or a refusal to return. */
enum api_status sl_stage_begin(struct modbusd *d, struct api_call *call,
                               struct sl_stage *ret_stage);

/* 400 "Input value failed: <text>" at a member of the i-th zone of the body. */
enum api_status sl_wrong(struct api_call *call, size_t i, const char *member, const char *fmt,
                         ...) PRINTF_LIKE(4, 5);
/* The key of a zone that is there; else 404. */
enum api_status sl_find_zone(struct api_call *call, struct store_txn *txn, int64_t id,
                             struct config_key *ret_key);
/* A number for a new zone, when there is room for one more. */
enum api_status sl_new_zone(struct sl_stage *s, struct config_key *ret_key);

/* Stages the zone, whose rules with all its tags sl_stage_check tells; 'i' as for op_pointer.
 */
enum api_status sl_stage_zone(struct sl_stage *s, size_t i, const struct config_key *key,
                              struct szone zone);
/* The zone has these own (reference) tags and no others from now on. */
enum api_status sl_stage_tags(struct sl_stage *s, size_t i, const struct config_key *key,
                              const struct szone *zone);
enum api_status sl_stage_refs(struct sl_stage *s, size_t i, const struct config_key *key,
                              const struct szone *zone);
/* Do all tags that are staged in the zone fit, without overlap and of the kind it has? */
enum api_status sl_stage_check(struct sl_stage *s, size_t i, const struct config_key *key,
                               const struct szone *zone);
/* The rules of one own tag in its zone; 'member' is where it is in the body, "" or "tags/3/".
 */
enum api_status sl_check_tag(struct api_call *call, size_t i, const char *member,
                             const struct szone *zone, const struct tag_for_szone *tag);
/* What the tag hub says of a reference tag goes into it; refused if nobody knows it. */
enum api_status sl_resolve_ref(struct sl_stage *s, size_t i, size_t j, struct ref_tag *ref);
/* Units (as sl_zone_size counts) that the tag takes, behind 'end' of the one before. */
uint32_t sl_ref_size(const struct szone *zone, const struct ref_tag *ref);
uint32_t sl_ref_offset(const struct szone *zone, const struct ref_tag *ref, uint32_t end);

/* op_sl_auto.c: autoCreate=tags and createFromRefTag=true for a new or changed zone. */
enum api_status sl_auto_tags(struct sl_stage *s, size_t i, const struct config_key *key,
                             struct szone *zone);
/* Format, quan and offsets of the zone follow from its refTags, which are resolved. */
enum api_status sl_shape_for_refs(struct sl_stage *s, size_t i, struct szone *zone);

/* {"data":…}: one zone, or those of 'keys' as a list. */
enum api_status sl_reply_zones(struct api_call *call, const struct config_key *keys, size_t n);
/* PUT of zones, without the reply; 'keys' has room for n_body. */
enum api_status sl_put_zones(struct sl_stage *s, const struct szone *body, size_t n_body,
                             struct config_key *keys);

/* op_sl_control.c: the staged configuration becomes the running one with this call. */
enum api_status sl_apply(struct api_call *call);

#endif
