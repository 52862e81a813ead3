/*
 * What the operations of modbusd share.
 */
#ifndef FIELDGATE_MODBUSD_OP_H
#define FIELDGATE_MODBUSD_OP_H

#include "services/modbusd/config.h"
#include "services/modbusd/modbusd.h"

/* JSON pointer to a member of the i-th object of a body that is one object or a list; NULL: to
 * it. */
const char *op_pointer(struct api_call *call, size_t i, const char *member);
/* True when the body is a list. */
bool op_is_list(const struct api_call *call);
/* 404 as the original words it. */
enum api_status op_not_found(struct api_call *call);
/* For what config.c returned: an error, or a record that must have been there. */
enum api_status op_store_error(struct api_call *call, int r);
/* Refuses more than 'max', or what the original allows where that is set, with those there are.
 */
enum api_status op_check_room(struct api_call *call, struct store_txn *txn, enum config_db db,
                              size_t n, uint64_t max);

/*
 * Where the original's limits hold: refuses what is staged if it has more devices, over TCP or
 * serial, or more commands on a serial port than the original takes.
 */
enum api_status op_check_original_limits(struct api_call *call, struct store_txn *txn);

/* {"data":<the staged record>} of 'key'. */
enum api_status op_reply_one(struct api_call *call, const struct config_key *key);
/* {"data":[<the staged record>],"count":1} of a kind that has one. */
enum api_status op_reply_only(struct api_call *call, const struct config_key *key);
/* {"count":n,"data":[…]} of all records of 'kind'. */
enum api_status op_reply_all(struct api_call *call, enum config_kind kind);
/* The records that a POST made: one as an object, a list as a list. */
enum api_status op_reply_added(struct api_call *call, const struct config_key *keys, size_t n);

/* The staged record at 'key', which is there, with the members that a PATCH sent. */
enum api_status op_patch(struct api_call *call, struct store_txn *txn,
                         const struct config_key *key, const struct api_desc *desc,
                         void *ret_record);
/* Drops what is not applied of a side; tells whether there is such a thing. */
enum api_status op_undo(struct api_call *call, enum config_side side);
enum api_status op_get_change(struct api_call *call, enum config_side side,
                              struct config_change *reply);

/* Refuses slaveId 0 for a device that has commands that read; 'at' as for op_save_dev. */
enum api_status op_check_only_writes(struct api_call *call, struct store_txn *txn,
                                     const char *at, uint32_t dev);
/* How a device does, in the words of the API. */
const char *op_status_text(bool known, enum mb_status status);
/* {"data":[<a single record of this kind>],"count":1}. */
enum api_status op_reply_as_list(struct api_call *call, uint32_t which);
/* Appends the staged tree of the masters (ModbusConfigTree); 0 or -errno. */
int op_write_tree(struct store_txn *txn, struct buf *b);

/*
 * Checks and stages a device at 'key', whose number it gets; 'at': JSON
 * pointer to the object in the body whose members it was made of.
 */
enum api_status op_save_dev(struct api_call *call, struct store_txn *txn, const char *at,
                            const struct config_key *key, struct remote_dev dev);
/* The settings of src.masterSerIfaceId for those of dest.masterSerIfaceIds, which it answers.
 */
enum api_status op_clone_ser_iface(struct api_call *call, struct store_txn *txn,
                                   const struct clone_body *body);
/* Appends a PlatformTag. */
void op_put_platform_tag(struct buf *b, const struct tag_def *def);

/*
 * Stage a record after its rules were checked: the same ones for every way in. The parent's
 * number is that of the key. 'i' as for op_pointer; 'a' is for memory that may go with the
 * record.
 */
enum api_status op_stage_params(struct api_call *call, struct api_arena *a,
                                struct store_txn *txn, struct master_param params);
enum api_status op_stage_master(struct api_call *call, struct api_arena *a,
                                struct store_txn *txn, struct tcp_master master);
enum api_status op_stage_iface(struct api_call *call, struct api_arena *a,
                               struct store_txn *txn, struct master_tcp_iface iface);
enum api_status op_stage_ser_master(struct api_call *call, struct api_arena *a,
                                    struct store_txn *txn, struct ser_master master);
enum api_status op_stage_ser_iface(struct api_call *call, struct api_arena *a,
                                   struct store_txn *txn, const struct config_key *key,
                                   struct master_ser_iface iface);
enum api_status op_stage_cmd(struct api_call *call, struct api_arena *a, struct store_txn *txn,
                             size_t i, const struct config_key *key, struct mcmd cmd);
enum api_status op_stage_tag(struct api_call *call, struct api_arena *a, struct store_txn *txn,
                             size_t i, const struct config_key *key,
                             const struct mb_cmd_config *cmd, struct tag_for_mcmds tag);

/*
 * Takes what the part mcmdsFile of a form has in place of the commands and
 * tags of the device; how many that are.
 */
enum api_status op_import_cmds(struct api_call *call, uint32_t dev, uint64_t *ret_n_cmds,
                               uint64_t *ret_n_tags);
/* autoCreate=tags for those commands of the device that have no tags. */
enum api_status op_auto_tags(struct api_call *call, struct store_txn *txn,
                             const struct config_key *dev);

/* Rules of a tag in its command; 'i' and the body as for op_pointer. */
enum api_status op_check_tag(struct api_call *call, size_t i, const struct mb_cmd_config *cmd,
                             const struct tag_for_mcmds *tag);
/* Stages a new tag below 'cmd': limits, number, name, rules. */
enum api_status op_add_tag(struct api_call *call, struct store_txn *txn, size_t i,
                           const struct config_key *cmd_key, const struct mb_cmd_config *cmd,
                           struct tag_for_mcmds *tag, struct config_key *ret_key);

#endif
