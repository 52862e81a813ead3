/*
 * /device/serials: what clients see and set.
 */
#include <string.h>

#include "libcommon/str.h"
#include "services/iod/iod.h"

#include "libcommon/banned.h"

/* Not const: replies point to them. Nobody writes there. */
#define X(name, text) text,
static const char *modes[] = { SERIAL_MODE_TABLE(X) }; /* RS-232 first */
static const char *parities[] = { SERIAL_PARITY_TABLE(X) };
static const char *flows[] = { SERIAL_FLOW_TABLE(X) };
#undef X
static int64_t rates[] = { 300,   600,   1200,  1800,   2400,   4800,   9600,
                           19200, 38400, 57600, 115200, 230400, 460800, 921600 };
static int64_t data_bits[] = { 5, 6, 7, 8 };
static double stop_bits[] = { 1, 1.5, 2 };

/* ---- showing ---- */

static size_t
n_rates_up_to(uint32_t max)
{
    size_t n = ARRAY_LEN(rates);
    while (n > 0 && rates[n - 1] > max)
        n--;
    return n;
}

static struct serial_capability
capabilities_of(const struct port *p)
{
    return (struct serial_capability){
        .mode = modes,
        .n_mode = p->sys.can_rs485 ? ARRAY_LEN(modes) : 1,
        .baud_rate = { .special = true,
                       .range = rates,
                       .n_range = n_rates_up_to(p->sys.baud_max) },
        .parities = parities,
        .n_parities = ARRAY_LEN(parities),
        .data_bits = data_bits,
        .n_data_bits = ARRAY_LEN(data_bits),
        .stop_bits = stop_bits,
        .n_stop_bits = ARRAY_LEN(stop_bits),
        .flow_control = flows,
        .n_flow_control = ARRAY_LEN(flows),
    };
}

/* With the settings given; texts live in the call or in 'self'. */
static struct serial_item
item_of(struct iod *self, struct api_call *call, uint32_t number,
        const struct serial_settings *s)
{
    char name[SERIAL_DISPLAY_SIZE];
    port_display_name(number, name);
    return (struct serial_item){
        .type = "serials",
        .id = number + 1,
        .device = self->ports[number].sys.device,
        .mode = s->mode,
        .display_name = api_strdup(call, name),
        .baud_rate = s->baud_rate,
        .parity = s->parity,
        .data_bits = s->data_bits,
        .stop_bits = s->stop_half_bits / 2.0,
        .flow_control = s->flow,
    };
}

static struct serial_item
full_item(struct iod *self, struct api_call *call, uint32_t number)
{
    const struct port *p = &self->ports[number];
    struct serial_item item = item_of(self, call, number, &p->settings);
    item.has_capabilities = true;
    item.capabilities = capabilities_of(p);
    return item;
}

enum api_status
iod_get_serials(struct iod *self, struct api_call *call)
{
    for (uint32_t i = 0; i < self->n_ports; i++) {
        if (!self->ports[i].is_here)
            continue;
        struct serial_item item = full_item(self, call, i);
        api_item(call, &item);
    }
    return API_OK;
}

/* API_OK with the port's number, or a refusal. */
static enum api_status
port_of(const struct iod *self, struct api_call *call, enum api_status refusal,
        const char *pointer, int64_t id, uint32_t *ret_number)
{
    if (id < 1 || id > (int64_t)self->n_ports || !self->ports[id - 1].is_here)
        return api_fail(call, refusal, pointer, "there is no serial port %lld", (long long)id);
    *ret_number = (uint32_t)(id - 1);
    return API_OK;
}

enum api_status
iod_get_serial(struct iod *self, struct api_call *call, const struct iod_get_serial_path *path,
               struct serial_item *reply)
{
    uint32_t number = 0;
    enum api_status status = port_of(self, call, API_NOT_FOUND, "/id", path->id, &number);
    if (status == API_OK)
        *reply = full_item(self, call, number);
    return status;
}

/* ---- changing ---- */

/* What one request changes; lives in its call. */
struct change {
    size_t n;
    struct {
        uint32_t number;
        struct serial_settings settings;
    } of[SERIAL_PORTS_MAX];
};

static void
merge(struct serial_settings *s, const struct serial_configuration *sent)
{
    if (sent->has_mode)
        s->mode = (uint8_t)sent->mode;
    if (sent->has_baud_rate)
        s->baud_rate = (uint32_t)sent->baud_rate;
    if (sent->has_parity)
        s->parity = (uint8_t)sent->parity;
    if (sent->has_data_bits)
        s->data_bits = (uint8_t)sent->data_bits;
    if (sent->has_stop_bits)
        s->stop_half_bits = (uint8_t)(sent->stop_bits * 2);
    if (sent->has_flow_control)
        s->flow = (uint8_t)sent->flow_control;
}

/* What the schema cannot say. 'at' is where the body begins: "" or "/0". */
static enum api_status
check(struct api_call *call, const char *at, const struct port *p,
      const struct serial_configuration *sent, const struct serial_settings *s)
{
    double stops = sent->stop_bits;
    if (sent->has_stop_bits && stops != 1 && stops != 1.5 && stops != 2)
        return api_fail(call, API_INVALID, api_printf(call, "%s/stopBits", at),
                        "1, 1.5 or 2 is expected");
    if (s->mode != SERIAL_RS232 && !p->sys.can_rs485)
        return api_fail(call, API_INVALID, api_printf(call, "%s/mode", at),
                        "this port can do rs232 only");
    if (s->baud_rate > p->sys.baud_max)
        return api_fail(call, API_INVALID, api_printf(call, "%s/baudRate", at),
                        "this port can do at most %u", p->sys.baud_max);
    if (s->mode != SERIAL_RS232 && s->flow == SERIAL_FLOW_HARDWARE)
        return api_fail(
            call, API_INVALID,
            api_printf(call, "%s/%s", at, sent->has_flow_control ? "flowControl" : "mode"),
            "hardware flow control is for rs232 only");
    if (!serial_settings_are_possible(s))
        return api_fail(
            call, API_INVALID,
            api_printf(call, "%s/%s", at, sent->has_stop_bits ? "stopBits" : "dataBits"),
            "with 5 data bits there are 1 or 1.5 stop bits, else 1 or 2");
    return API_OK;
}

static enum api_status
add(struct iod *self, struct api_call *call, struct change *c, const char *at, uint32_t number,
    const struct serial_configuration *sent)
{
    const struct port *p = &self->ports[number];
    for (size_t i = 0; i < c->n; i++)
        if (c->of[i].number == number)
            return api_fail(call, API_INVALID, api_printf(call, "%s/id", at),
                            "port %u is in the list twice", number + 1);
    c->of[c->n].number = number;
    c->of[c->n].settings = p->settings;
    merge(&c->of[c->n].settings, sent);
    return check(call, at, p, sent, &c->of[c->n++].settings);
}

static void
apply(void *self, void *arg)
{
    const struct change *c = arg;
    for (size_t i = 0; i < c->n; i++)
        port_set(self, c->of[i].number, &c->of[i].settings);
    told_change(self);
}

static enum api_status
save(struct iod *self, struct api_call *call, struct change *c)
{
    struct store_txn *txn = api_txn(call);
    if (txn == NULL)
        return API_INTERNAL;
    for (size_t i = 0; i < c->n; i++) {
        struct port p = self->ports[c->of[i].number];
        p.settings = c->of[i].settings;
        int r = port_save(txn, c->of[i].number, &p);
        if (r < 0)
            return api_fail_errno(call, r, "cannot keep the settings");
    }
    api_after_commit(call, apply, c);
    return API_OK;
}

enum api_status
iod_patch_serial(struct iod *self, struct api_call *call,
                 const struct iod_patch_serial_path *path,
                 const struct serial_configuration *body, struct serial_item *reply)
{
    struct change *c = api_alloc(call, sizeof(*c));
    uint32_t number = 0;
    if (c == NULL)
        return API_TOO_LARGE;
    enum api_status status = port_of(self, call, API_NOT_FOUND, "/id", path->id, &number);
    if (status == API_OK && body->has_id && body->id != path->id)
        return api_fail(call, API_INVALID, "/id", "the id of the path is %lld",
                        (long long)path->id);
    if (status == API_OK)
        status = add(self, call, c, "", number, body);
    if (status == API_OK)
        status = save(self, call, c);
    if (status == API_OK)
        *reply = item_of(self, call, number, &c->of[0].settings);
    return status;
}

static enum api_status
add_of_list(struct iod *self, struct api_call *call, struct change *c, const char *at,
            const struct serial_configuration *sent)
{
    uint32_t number = 0;
    const char *pointer = api_printf(call, "%s/id", at);
    if (!sent->has_id)
        return api_fail(call, API_INVALID, pointer, "the id of a port is expected");
    enum api_status status = port_of(self, call, API_INVALID, pointer, sent->id, &number);
    return status == API_OK ? add(self, call, c, at, number, sent) : status;
}

enum api_status
iod_patch_serials(struct iod *self, struct api_call *call,
                  const struct serial_configuration *body, size_t n_body)
{
    struct change *c = api_alloc(call, sizeof(*c));
    enum api_status status = c == NULL ? API_TOO_LARGE : API_OK;
    for (size_t i = 0; i < n_body && status == API_OK; i++) {
        const char *at = api_sent(call, "/0") ? api_printf(call, "/%zu", i) : "";
        status = add_of_list(self, call, c, at, &body[i]);
    }
    if (status == API_OK)
        status = save(self, call, c);
    for (size_t i = 0; status == API_OK && i < n_body; i++) {
        struct serial_item item = item_of(self, call, c->of[i].number, &c->of[i].settings);
        api_item(call, &item);
    }
    return status;
}
