/*
 * String formats that schemas name. Lengths that a schema states are checked
 * elsewhere too; here each format stands on its own.
 */
#include "libcommon/format.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "libcommon/str.h"

#include "libcommon/banned.h"

static const char ALNUM[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
static const char HEX[] = "0123456789abcdefABCDEF";

static bool
is_one_of(char c, const char *set)
{
    return c != '\0' && strchr(set, c) != NULL;
}

/* Length in min..max, and every byte alphanumeric or one of 'more'. */
static bool
is_word(const char *text, size_t min, size_t max, const char *more)
{
    size_t n = 0;
    for (; text[n] != '\0'; n++)
        if (n == max || (!is_one_of(text[n], ALNUM) && !is_one_of(text[n], more)))
            return false;
    return n >= min;
}

/* Length in min..max, and every byte in low..high. */
static bool
is_between(const char *text, size_t min, size_t max, char low, char high)
{
    size_t n = 0;
    for (; text[n] != '\0'; n++)
        if (n == max || text[n] < low || text[n] > high)
            return false;
    return n >= min;
}

static int
verdict(bool ok)
{
    return ok ? 0 : -EINVAL;
}

int
format_account_name(const char *text)
{
    return verdict(is_one_of(text[0], ALNUM) && is_word(text, 1, 64, "+=,.@_-"));
}

int
format_password(const char *text)
{
    return verdict(is_between(text, 8, 256, '!', '~'));
}

int
format_tag_name(const char *text)
{
    return verdict(is_word(text, 1, 128, "~._-"));
}

int
format_modbus_name(const char *text)
{
    return verdict(is_word(text, 1, 128, "_.~-"));
}

int
format_ipv4(const char *text)
{
    struct in_addr addr;
    return verdict(inet_pton(AF_INET, text, &addr) == 1);
}

/*
 * RFC 1123 section 2.1: labels of 1..63 letters, digits and inner hyphens, at
 * most 253 in all. The last label is not all digits, so that no mistyped IPv4
 * address passes for a name.
 */
static bool
is_host_name(const char *text)
{
    if (strlen(text) > 253)
        return false;
    for (const char *label = text;;) {
        size_t len = strcspn(label, ".");
        if (len < 1 || len > 63 || label[0] == '-' || label[len - 1] == '-')
            return false;
        bool all_digits = true;
        for (size_t i = 0; i < len; i++) {
            if (!is_one_of(label[i], ALNUM) && label[i] != '-')
                return false;
            all_digits &= str_is_digit(label[i]);
        }
        if (label[len] == '\0')
            return !all_digits;
        label += len + 1;
    }
}

int
format_host(const char *text)
{
    struct in6_addr addr;
    return verdict(format_ipv4(text) == 0 || inet_pton(AF_INET6, text, &addr) == 1 ||
                   is_host_name(text));
}

/* RFC 5321: a local part of 1..64 in dot-atom form, a host name; 254 in all (erratum 1690). */
int
format_email(const char *text)
{
    const char *at = strchr(text, '@');
    if (at == NULL || at == text || at - text > 64 || strlen(text) > 254)
        return -EINVAL;
    for (const char *p = text; p < at; p++) {
        bool dot = *p == '.';
        if (dot && (p == text || p + 1 == at || p[1] == '.'))
            return -EINVAL;
        if (!dot && !is_one_of(*p, ALNUM) && !is_one_of(*p, "!#$%&'*+-/=?^_`{|}~"))
            return -EINVAL;
    }
    return verdict(is_host_name(at + 1));
}

int
format_hex_bytes(const char *text)
{
    for (;; text += 3) {
        if (!is_one_of(text[0], HEX) || !is_one_of(text[1], HEX))
            return -EINVAL;
        if (text[2] == '\0')
            return 0;
        if (text[2] != ' ')
            return -EINVAL;
    }
}

/* MQTT 3.1.1 section 4.7.3: 1..65535 bytes of UTF-8. */
static bool
is_mqtt_text(const char *text)
{
    size_t len = strlen(text);
    return len >= 1 && len <= 65535 && utf8_valid(text, len);
}

int
format_mqtt_topic(const char *text)
{
    return verdict(is_mqtt_text(text) && strpbrk(text, "+#") == NULL);
}

int
format_mqtt_filter(const char *text)
{
    if (!is_mqtt_text(text))
        return -EINVAL;
    /* 4.7.1: a wildcard fills a level alone, '#' the last one. */
    for (const char *p = text; *p != '\0'; p++) {
        if (*p != '+' && *p != '#')
            continue;
        bool starts_level = p == text || p[-1] == '/';
        bool ends_level = p[1] == '\0' || (*p == '+' && p[1] == '/');
        if (!starts_level || !ends_level)
            return -EINVAL;
    }
    return 0;
}

int
format_printable(const char *text)
{
    return verdict(is_between(text, 0, SIZE_MAX, ' ', '~'));
}

/* RFC 4122 section 3, either case. */
int
format_uuid(const char *text)
{
    static const char shape[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    if (strlen(text) != sizeof(shape) - 1)
        return -EINVAL;
    for (size_t i = 0; shape[i] != '\0'; i++)
        if (shape[i] == '-' ? text[i] != '-' : !is_one_of(text[i], HEX))
            return -EINVAL;
    return 0;
}
