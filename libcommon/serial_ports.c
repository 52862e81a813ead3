/*
 * The list of ports as JSON (proto/README.md section 4, SERIAL_CHANGED).
 */
#include "libcommon/serial.h"

#include <cjson/cJSON.h>
#include <errno.h>

#include "libcommon/json.h"
#include "libcommon/str.h"

#include "libcommon/banned.h"

static void
port_encode(struct buf *json, const struct serial_port *p)
{
    const struct serial_settings *s = &p->settings;
    jw_open(json, '{');
    jw_ku64(json, "portValue", p->port_value);
    jw_ku64(json, "id", p->id);
    jw_kstr(json, "device", p->device);
    jw_kstr(json, "displayName", p->display_name);
    jw_kstr(json, "mode", serial_mode_names[s->mode]);
    jw_ku64(json, "baudRate", s->baud_rate);
    jw_kstr(json, "parity", serial_parity_names[s->parity]);
    jw_ku64(json, "dataBits", s->data_bits);
    jw_name(json, "stopBits");
    jw_double(json, s->stop_half_bits / 2.0);
    jw_kstr(json, "flowControl", serial_flow_names[s->flow]);
    jw_close(json, '}');
}

void
serial_ports_encode(struct buf *json, const struct serial_port *ports, size_t n_ports)
{
    jw_open(json, '[');
    for (size_t i = 0; i < n_ports; i++)
        port_encode(json, &ports[i]);
    jw_close(json, ']');
}

/* ---- reading ---- */

static int
read_u32(const struct cJSON *object, const char *name, uint32_t max, uint32_t *ret_value)
{
    const char *text = json_number(json_get(object, name));
    return text == NULL ? -EBADMSG : parse_u32(text, 0, max, ret_value);
}

static int
read_u8(const struct cJSON *object, const char *name, uint8_t *ret_value)
{
    uint32_t value = 0;
    int r = read_u32(object, name, UINT8_MAX, &value);
    *ret_value = (uint8_t)value;
    return r;
}

static int
read_name(const struct cJSON *object, const char *name, const char *const *names, size_t n,
          uint8_t *ret_index)
{
    const char *text = json_text(json_get(object, name));
    for (size_t i = 0; text != NULL && i < n; i++)
        if (str_eq(text, names[i])) {
            *ret_index = (uint8_t)i;
            return 0;
        }
    return -EBADMSG;
}

static int
read_text(const struct cJSON *object, const char *name, char *out, size_t out_size)
{
    const char *text = json_text(json_get(object, name));
    return text == NULL ? -EBADMSG : str_copy(out, out_size, text);
}

static int
read_stop_bits(const struct cJSON *object, uint8_t *ret_half_bits)
{
    const char *text = json_number(json_get(object, "stopBits"));
    double bits = 0;
    if (text == NULL || parse_double(text, &bits) < 0)
        return -EBADMSG;
    *ret_half_bits = bits == 1 ? 2 : bits == 1.5 ? 3 : bits == 2 ? 4 : 0;
    return 0; /* 0 is not possible: found out with the rest */
}

static int
settings_decode(const struct cJSON *object, struct serial_settings *ret_settings)
{
    struct serial_settings s = { 0 };
    if (read_name(object, "mode", serial_mode_names, SERIAL_N_MODES, &s.mode) < 0 ||
        read_u32(object, "baudRate", SERIAL_BAUD_MAX, &s.baud_rate) < 0 ||
        read_name(object, "parity", serial_parity_names, SERIAL_N_PARITIES, &s.parity) < 0 ||
        read_u8(object, "dataBits", &s.data_bits) < 0 ||
        read_stop_bits(object, &s.stop_half_bits) < 0 ||
        read_name(object, "flowControl", serial_flow_names, SERIAL_N_FLOWS, &s.flow) < 0 ||
        !serial_settings_are_possible(&s))
        return -EBADMSG;
    *ret_settings = s;
    return 0;
}

static int
port_decode(const struct cJSON *object, struct serial_port *ret_port)
{
    struct serial_port p = { 0 };
    if (read_u32(object, "portValue", UINT32_MAX, &p.port_value) < 0 ||
        read_u32(object, "id", UINT32_MAX, &p.id) < 0 ||
        read_text(object, "device", p.device, sizeof(p.device)) < 0 ||
        read_text(object, "displayName", p.display_name, sizeof(p.display_name)) < 0 ||
        settings_decode(object, &p.settings) < 0)
        return -EBADMSG;
    *ret_port = p;
    return 0;
}

int
serial_ports_decode(const char *json, size_t len,
                    struct serial_port ret_ports[SERIAL_PORTS_MAX], size_t *ret_n_ports)
{
    CLEANUP(json_freep) struct cJSON *tree = NULL;
    struct serial_port ports[SERIAL_PORTS_MAX];
    struct json_error error;
    size_t n = 0;
    int r = json_parse(json, len, &tree, &error);
    if (r < 0)
        return r == -ENOMEM ? r : -EBADMSG;
    if (!cJSON_IsArray(tree))
        return -EBADMSG;
    const struct cJSON *item = NULL;
    cJSON_ArrayForEach(item, tree)
    {
        if (n == SERIAL_PORTS_MAX || port_decode(item, &ports[n]) < 0)
            return -EBADMSG;
        n++;
    }
    for (size_t i = 0; i < n; i++)
        ret_ports[i] = ports[i];
    *ret_n_ports = n;
    return 0;
}
