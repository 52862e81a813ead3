/* /mqtt/{id}/store-and-forward. */
#include <string.h>

#include "libcommon/str.h"
#include "services/cloudd/cloudd.h"
#include "services/cloudd/sys_linux.h"
#include "libcommon/banned.h"

/* The disk that holds the state: the only one messages are kept on. */
static const char disk_name[] = "System";

static enum api_status
load(struct cloudd *d, struct api_call *call, int64_t id,
     struct store_and_forward *ret_settings)
{
    uint8_t key[4];
    struct api_arena *a = api_call_arena(call);
    if (cloudd_client(d, (uint32_t)id) == NULL)
        return api_fail(call, API_NOT_FOUND, "/id", "mqtt client not found");
    struct store_txn *txn = api_view(call);
    if (txn == NULL)
        return API_INTERNAL;
    int r = api_store_get(a, txn, CLOUDD_DB_FORWARD, cloudd_key(key, (uint32_t)id), sizeof(key),
                          &store_and_forward_desc, ret_settings);
    if (r == STORE_NOT_FOUND)
        r = api_defaults(a, &store_and_forward_desc, ret_settings);
    return r < 0 ? api_fail_errno(call, r, "cannot read the settings") : API_OK;
}

static enum api_status
add_disk(struct cloudd *d, struct api_call *call, struct store_and_forward *s)
{
    struct sys_disk now;
    struct disk *disk = api_alloc(call, sizeof(*disk));
    if (disk == NULL)
        return API_TOO_LARGE;
    int r = sys_disk_of(d->svc->state_dir, &now);
    if (r < 0)
        return api_fail_errno(call, r, "cannot read the state of the disk");
    uint64_t used = now.total > now.free ? now.total - now.free : 0;
    uint64_t tenths = now.total > 0 ? used * 1000 / now.total : 0;
    *disk = (struct disk){
        .name = disk_name,
        .mount = api_strdup(call, now.mount),
        .device = api_strdup(call, now.device),
        .has_total = true,
        .total = (int64_t)now.total,
        .has_used = true,
        .used = (int64_t)used,
        .has_free = true,
        .free = (int64_t)now.free,
        .has_percent = true,
        .percent = (double)tenths / 10,
        .has_tags = true,
        .tags = { .used = "systemDiskUsed",
                  .free = "systemDiskFree",
                  .percent = "systemDiskPercent" },
    };
    s->disks = disk;
    s->n_disks = 1;
    return API_OK;
}

enum api_status
cloudd_get_mqtt_store_and_forward(struct cloudd *self, struct api_call *call,
                                  const struct cloudd_get_mqtt_store_and_forward_path *path,
                                  struct store_and_forward *reply)
{
    enum api_status status = load(self, call, path->id, reply);
    return status == API_OK ? add_disk(self, call, reply) : status;
}

enum api_status
cloudd_put_mqtt_store_and_forward(struct cloudd *self, struct api_call *call,
                                  const struct cloudd_put_mqtt_store_and_forward_path *path,
                                  struct store_and_forward *reply)
{
    uint8_t key[4];
    enum api_status status = load(self, call, path->id, reply);
    if (status == API_OK)
        status = api_merge(call, &store_and_forward_desc, reply);
    if (status != API_OK)
        return status;
    if (!str_eq(reply->target_disk_name, disk_name))
        return api_fail(call, API_INVALID, "/targetDiskName", "there is no such disk: use %s",
                        disk_name);
    reply->disks = NULL;
    reply->n_disks = 0;
    uint32_t *arg = api_alloc(call, sizeof(*arg));
    struct store_txn *txn = arg != NULL ? api_txn(call) : NULL;
    if (txn == NULL)
        return arg != NULL ? API_INTERNAL : API_TOO_LARGE;
    *arg = (uint32_t)path->id;
    int r = api_store_put(txn, CLOUDD_DB_FORWARD, cloudd_key(key, *arg), sizeof(key),
                          &store_and_forward_desc, reply);
    if (r < 0)
        return api_fail_errno(call, r, "cannot save the settings");
    api_after_commit(call, cloudd_forward_changed, arg);
    api_audit_message(call, "store and forward of MQTT client %lld %s", (long long)path->id,
                      reply->enable ? "enabled" : "disabled");
    return add_disk(self, call, reply);
}
