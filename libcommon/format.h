/*
 * String formats that schemas name (format: …): each returns 0 or -EINVAL.
 * apigen.py refuses a format that is not in this table.
 */
#ifndef FIELDGATE_FORMAT_H
#define FIELDGATE_FORMAT_H

/* format name in YAML, C name */
#define FORMAT_TABLE(X)                                                              \
    X("account-name", account_name) /* [a-zA-Z0-9][a-zA-Z0-9+=,.@_-]{0,63} */        \
    X("password", password)         /* 8..256 printable ASCII without space */       \
    X("email", email)               /* something@host, at most 254 */                \
    X("tag-name", tag_name)         /* [a-zA-Z0-9~._-]{1,128} */                     \
    X("modbus-name", modbus_name)   /* [A-Za-z0-9_.~-]{1,128} */                     \
    X("host", host)                 /* IPv4, IPv6 literal or host name (RFC 1123) */ \
    X("ipv4", ipv4)                                                                  \
    X("hex-bytes", hex_bytes)       /* "00 FF" pairs parted by one space */          \
    X("mqtt-topic", mqtt_topic)     /* a topic to publish to: no wildcards, no NUL */ \
    X("mqtt-filter", mqtt_filter)   /* MQTT 3.1.1 section 4.7 */                     \
    X("printable", printable)       /* printable ASCII, space included */            \
    X("uuid", uuid)

#define X(name, fn) int format_##fn(const char *text);
FORMAT_TABLE(X)
#undef X

#endif
