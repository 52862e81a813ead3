#!/usr/bin/python3
"""Turns proto/api/*.yaml into C tables, types and prototypes, openapi.json, and
what fieldgatectl knows of the operations.

It emits data, never logic, and stops on anything outside the closed subset
that proto/README.md section 1 describes: a missing bound, summary, permission
or audit class is an error here, not a surprise at run time.

usage: apigen.py --out DIR FRAGMENT.yaml...
"""
import copy
import json
import os
import re
import sys

import yaml

import apictl

HERE = os.path.dirname(os.path.abspath(__file__))
METHODS = ("get", "post", "put", "patch", "delete")
CALLERS = ("open", "token", "self", "session")  # permissions that are none of permissions.yaml
OP_KEYS = {
    "operationId", "summary", "description", "tags", "parameters", "x-permission", "x-audit",
    "x-event", "x-timeout-ms", "x-lane", "x-defer", "x-success", "x-body", "x-body-max", "x-items-max",
    "x-form", "x-reply", "x-errors", "x-worker",
}
FIELD_KEYS = {
    "type", "description", "enum", "minimum", "maximum", "minLength", "maxLength", "default",
    "format", "items", "minItems", "maxItems", "readOnly", "writeOnly", "$ref", "x-always",
    "x-unsigned", "x-any",
}
API_VERSION = "1.4.0"
BODY_MAX_DEFAULT = 64 * 1024
TIMEOUT_DEFAULT = 5000
SUCCESSES = (200, 201, 202, 204)
FIELDS_MAX = 64              # of libcommon/api_codec.c
PATH_MAX, QUERY_MAX = 6, 16  # of libcommon/bus.h


class Stop(Exception):
    pass


def fnv1a(text):
    h = 0x811C9DC5
    for byte in text.encode():
        h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
    return h


def snake(name):
    name = re.sub(r"[^A-Za-z0-9]", "_", name)
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name).lower()


C_WORDS = {"default", "register", "int", "float", "double", "long", "short", "char", "bool",
           "enum", "struct", "union", "static", "const", "switch", "case", "break", "return"}


def member(name):
    name = snake(name)
    return name + "_" if name in C_WORDS else name


def c_str(text):
    if text is None:
        return "NULL"
    out = []
    for ch in text:
        if ch in '"\\':
            out.append("\\" + ch)
        elif ch == "\n":
            out.append("\\n")
        else:
            out.append(ch)
    return '"' + "".join(out) + '"'


def load_yaml(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as f:
        return yaml.safe_load(f)


def load_formats():
    with open(os.path.join(HERE, "..", "libcommon", "format.h"), encoding="utf-8") as f:
        return dict(re.findall(r'X\("([a-z0-9-]+)", (\w+)\)', f.read()))


def bounds(where, spec, least, most, default=None):
    low, high = spec.get(least, default), spec[most]
    if low > high:
        raise Stop(f"{where}: {least} is above {most}")
    return low, high


class Field:
    """One member of an object, ready for C."""

    def __init__(self, where, name, spec, required, formats):
        unknown = set(spec) - FIELD_KEYS
        if unknown:
            raise Stop(f"{where}: unknown key {sorted(unknown)[0]}")
        self.where, self.name, self.cname = where, name, member(name)
        self.flags = set()
        self.doc = spec.get("description", "")
        self.sub = self.names = self.set = self.format = self.dflt = None
        self.min, self.max = "INT64_MIN", "INT64_MAX"
        self.dmin, self.dmax = "-DBL_MAX", "DBL_MAX"
        self.len = (0, 0)
        self.items = (0, 0)
        self.range = None
        if spec.get("readOnly"):
            self.flags.add("READ_ONLY")
        if spec.get("writeOnly"):
            self.flags.add("WRITE_ONLY")
        element = spec
        if spec.get("type") == "array":
            if "maxItems" not in spec or "items" not in spec:
                raise Stop(f"{where}: an array needs items and maxItems")
            self.flags.add("ARRAY")
            self.items = bounds(where, spec, "minItems", "maxItems", 0)
            element = spec["items"]
            if isinstance(element.get("type"), list):
                raise Stop(f"{where}: elements of an array are never null")
        self.read_type(where, element, formats)
        if required:
            self.flags.add("REQUIRED")
        if "default" in spec:
            self.check_default(where, spec["default"])
            self.dflt = json.dumps(spec["default"], separators=(",", ":"))
        if (not required and self.dflt is None and not spec.get("x-always")
                and "ARRAY" not in self.flags and self.type not in ("STRING", "RAW")):
            self.flags.add("HAS")

    def read_type(self, where, spec, formats):
        kind = spec.get("type")
        if isinstance(kind, list):
            if len(kind) != 2 or kind[1] != "null":
                raise Stop(f"{where}: a type list must be [T, 'null']")
            self.flags.add("NULLABLE")
            kind = kind[0]
        if "$ref" in spec:
            self.type, self.sub = "OBJECT", spec["$ref"].rsplit("/", 1)[-1]
            return
        if spec.get("x-any"):
            self.type = "RAW"
            if "maxLength" not in spec:
                raise Stop(f"{where}: x-any needs maxLength (bytes of JSON)")
            self.len = (0, spec["maxLength"])
            return
        if kind == "boolean":
            self.type = "BOOL"
        elif kind == "integer":
            self.type = "UINT" if spec.get("x-unsigned") else "INT"
            if "enum" in spec:
                self.set = [int(v) for v in spec["enum"]]
                self.min, self.max = str(min(self.set)), str(max(self.set))
            else:
                if "minimum" not in spec or "maximum" not in spec:
                    if not spec.get("readOnly"):
                        raise Stop(f"{where}: an integer needs minimum and maximum")
                else:
                    self.range = bounds(where, spec, "minimum", "maximum")
                    self.min, self.max = str(spec["minimum"]), str(spec["maximum"])
                    if self.type == "UINT":
                        self.max += "u"
                if spec.get("x-unsigned") and "maximum" not in spec:
                    self.min, self.max = "0", "UINT64_MAX"
        elif kind == "number":
            self.type = "NUMBER"
            if "minimum" in spec and "maximum" in spec:
                self.range = bounds(where, spec, "minimum", "maximum")
                self.dmin, self.dmax = repr(float(spec["minimum"])), repr(float(spec["maximum"]))
            elif not spec.get("readOnly"):
                raise Stop(f"{where}: a number needs minimum and maximum")
        elif kind == "string" and "enum" in spec:
            if not all(isinstance(v, str) for v in spec["enum"]):
                raise Stop(f"{where}: quote the enum values")
            self.type, self.names = "ENUM", spec["enum"]
        elif kind == "string":
            self.type = "STRING"
            if "maxLength" not in spec and not spec.get("readOnly"):
                raise Stop(f"{where}: a string needs maxLength")
            self.len = bounds(where, {"maxLength": 65535, **spec}, "minLength", "maxLength", 0)
            if "format" in spec and spec["format"] != "date-time":
                if spec["format"] not in formats:
                    raise Stop(f"{where}: unknown format {spec['format']}")
                self.format = spec["format"]
        else:
            raise Stop(f"{where}: type {kind!r} is outside the subset")

    def check_default(self, where, value):
        """It is decoded without these checks: what it says must hold here."""
        values = [value]
        if "ARRAY" in self.flags:
            if not isinstance(value, list) or not self.items[0] <= len(value) <= self.items[1]:
                raise Stop(f"{where}: default {value!r} is no such list")
            values = value
        for v in values:
            is_int = isinstance(v, int) and not isinstance(v, bool)
            good = {
                "BOOL": lambda: isinstance(v, bool),
                "INT": lambda: is_int and (v in self.set if self.set else self.in_range(v)),
                "UINT": lambda: is_int and v >= 0 and self.in_range(v),
                "NUMBER": lambda: (is_int or isinstance(v, float)) and self.in_range(v),
                "STRING": lambda: isinstance(v, str) and self.len[0] <= len(v) <= self.len[1],
                "ENUM": lambda: v in self.names,
                "RAW": lambda: len(json.dumps(v, separators=(",", ":"))) <= self.len[1],
            }.get(self.type, lambda: False)()
            if not good:
                raise Stop(f"{where}: default {v!r} is none of its values")

    def in_range(self, value):
        return self.range is None or self.range[0] <= value <= self.range[1]


class Schema:
    def __init__(self, daemon, name, spec, formats):
        where = f"{daemon}.{name}"
        if spec.get("type") != "object":
            raise Stop(f"{where}: a schema is an object")
        unknown = set(spec) - {"type", "description", "required", "properties", "x-strict"}
        if unknown:
            raise Stop(f"{where}: unknown key {sorted(unknown)[0]}")
        self.name, self.cname, self.strict = name, snake(name), bool(spec.get("x-strict"))
        self.spec = spec
        required = set(spec.get("required", []))
        props = spec.get("properties", {})
        for r in required - set(props):
            raise Stop(f"{where}: required {r} is no property")
        if len(props) > FIELDS_MAX:
            raise Stop(f"{where}: more than {FIELDS_MAX} properties")
        self.fields = [Field(f"{where}.{k}", k, v, k in required, formats)
                       for k, v in props.items()]


class Op:
    def __init__(self, daemon, path, method, spec, schemas, permissions, events, formats):
        where = f"{daemon} {method.upper()} {path}"
        unknown = set(spec) - OP_KEYS
        if unknown:
            raise Stop(f"{where}: unknown key {sorted(unknown)[0]}")
        for key in ("operationId", "summary", "x-permission", "x-audit", "x-reply", "tags"):
            if key not in spec:
                raise Stop(f"{where}: {key} is missing")
        self.daemon, self.path, self.method, self.spec = daemon, path, method, spec
        self.name = spec["operationId"]
        self.id = fnv1a(self.name)
        self.fn = f"{daemon}_{snake(self.name)}"
        perm = spec["x-permission"]
        if perm not in permissions and perm not in CALLERS:
            raise Stop(f"{where}: unknown permission {perm}")
        self.permission = f"API_PERMISSION_{perm.upper()}"
        self.audit = spec["x-audit"]
        if self.audit not in ("none", "change"):
            raise Stop(f"{where}: x-audit is none or change")
        self.event = spec.get("x-event")
        if self.audit == "change" and self.event is None:
            raise Stop(f"{where}: x-audit change needs x-event")
        if self.event is not None and self.event not in events:
            raise Stop(f"{where}: unknown event {self.event}")
        self.timeout = spec.get("x-timeout-ms", TIMEOUT_DEFAULT)
        if spec.get("x-errors", "modbus") != "modbus":
            raise Stop(f"{where}: x-errors is modbus or absent")
        self.defer = bool(spec.get("x-defer"))
        self.worker = bool(spec.get("x-worker"))
        if self.worker and self.defer:
            raise Stop(f"{where}: what runs in a thread of its own is not deferred")
        self.read_body(where, spec, schemas)
        self.read_reply(where, spec, schemas)
        self.read_parameters(where, spec, formats)
        self.read_lane(where, spec)

    def read_lane(self, where, spec):
        streams = "text/event-stream" in self.reply_types
        waits = self.defer or self.worker or streams
        self.lane = spec.get("x-lane", "shared" if self.method == "get" and not waits else "own")
        if self.lane not in ("shared", "own"):
            raise Stop(f"{where}: x-lane is shared or own")
        if self.lane == "shared" and (waits or self.audit == "change"):
            raise Stop(f"{where}: the shared lane is for what is answered at once")

    def read_body(self, where, spec, schemas):
        self.body = self.partial = self.many = self.optional = None
        words = spec.get("x-body", "").split()
        if words:
            self.partial, self.many = "partial" in words, "many" in words
            self.optional = "optional" in words
            self.body = words[-1]
            if self.body not in schemas or set(words[:-1]) - {"partial", "many", "optional"}:
                raise Stop(f"{where}: x-body is [partial] [many] [optional] Schema")
        if [self.partial, self.many, self.optional].count(True) > 1:
            raise Stop(f"{where}: x-body is partial, many or optional, only one of them")
        self.body_fields = [f for f in schemas[self.body].fields
                            if "READ_ONLY" not in f.flags] if self.body else []
        self.items_max = spec.get("x-items-max", 0)
        if bool(self.many) != (self.items_max > 0):
            raise Stop(f"{where}: x-items-max goes with many, and many with it")
        self.form = spec.get("x-form", [])
        self.body_max = spec.get("x-body-max", BODY_MAX_DEFAULT if self.body or self.form else 0)

    def read_reply(self, where, spec, schemas):
        words = spec["x-reply"].split()
        kinds = {"data": "DATA", "bare": "BARE", "list": "LIST", "items": "ITEMS",
                 "empty": "EMPTY", "own": "OWN"}
        if words[0] not in kinds:
            raise Stop(f"{where}: x-reply is data|bare|list|items|own Schema, own TYPE, own string or empty")
        self.reply_kind = kinds[words[0]]
        self.reply = words[1] if len(words) > 1 and words[1] in schemas else None
        self.reply_or = words[2] if len(words) > 2 and words[2] in schemas else None
        self.reply_types = [w for w in words[1:] if "/" in w]
        self.reply_text = words[1:] == ["string"]
        if self.reply_kind in ("DATA", "BARE", "LIST", "ITEMS") and self.reply is None:
            raise Stop(f"{where}: x-reply {words[0]} needs a schema")
        self.success = spec.get("x-success", 200)
        if self.success not in SUCCESSES:
            raise Stop(f"{where}: x-success is one of {SUCCESSES}")

    def read_parameters(self, where, spec, formats):
        self.path_fields, self.query_fields = [], []
        in_template = re.findall(r"\{(\w+)\}", self.path)
        by_name = {}
        for p in spec.get("parameters", []):
            if set(p) - {"name", "in", "schema", "description", "required"}:
                raise Stop(f"{where}: parameter {p.get('name')} has an unknown key")
            if p["in"] not in ("path", "query"):
                raise Stop(f"{where}: parameter {p['name']} is in path or query")
            schema = dict(p["schema"])
            schema.setdefault("description", p.get("description", ""))
            field = Field(f"{where} {p['name']}", p["name"], schema,
                          p["in"] == "path" or p.get("required", False), formats)
            if field.type in ("OBJECT", "RAW"):
                raise Stop(f"{where}: parameter {p['name']} must be plain")
            if field.name in apictl.OPTIONS:
                raise Stop(f"{where}: {p['name']} is an option of 'fieldgatectl call'")
            if p["in"] == "path":
                by_name[p["name"]] = field
            else:
                self.query_fields.append(field)
        for name in in_template:
            if name not in by_name:
                raise Stop(f"{where}: path value {name} is not described")
            self.path_fields.append(by_name[name])
        if len(by_name) != len(in_template):
            raise Stop(f"{where}: a path parameter is not in the template")
        if len(self.path_fields) > PATH_MAX or len(self.query_fields) > QUERY_MAX:
            raise Stop(f"{where}: at most {PATH_MAX} path and {QUERY_MAX} query values")


C_TYPES = {"BOOL": "bool ", "INT": "int64_t ", "UINT": "uint64_t ", "NUMBER": "double ",
           "STRING": "const char *", "ENUM": "int ", "RAW": "const char *"}


def c_struct(name, fields, schemas):
    lines = [f"struct {name} {{"]
    if not fields:
        lines.append("    char unused_;")
    for f in fields:
        ctype = f"struct {schemas[f.sub].cname} " if f.type == "OBJECT" else C_TYPES[f.type]
        if "HAS" in f.flags:
            lines.append(f"    bool has_{f.cname};")
        star = "*" if "ARRAY" in f.flags else ""
        note = f" /* {f.doc.strip()} */" if f.doc and "\n" not in f.doc.strip() else ""
        lines.append(f"    {ctype}{star}{f.cname};{note}")
        if "ARRAY" in f.flags:
            lines.append(f"    size_t n_{f.cname};")
    lines.append("};")
    return "\n".join(lines)


def c_enums(prefix, fields):
    out = []
    for f in fields:
        if f.type == "ENUM":
            base = f"{prefix}_{f.cname}".upper()
            items = ", ".join(f"{base}_{snake(v).upper() or 'NONE'}" for v in f.names)
            out.append(f"enum {{ {items} }};")
    return "\n".join(out)


def c_desc(name, fields, schemas, strict, formats):
    out = []
    rows = []
    for f in fields:
        base = f"{name}_{f.cname}"
        parts = [f".name = {c_str(f.name)}", f".type = API_T_{f.type}",
                 f".offset = offsetof(struct {name}, {f.cname})"]
        if f.flags:
            parts.append(".flags = " + " | ".join(f"API_F_{x}" for x in sorted(f.flags)))
        if "ARRAY" in f.flags:
            parts.append(f".n_offset = offsetof(struct {name}, n_{f.cname})")
            parts.append(f".items_min = {f.items[0]}, .items_max = {f.items[1]}")
        if "HAS" in f.flags:
            parts.append(f".has_offset = offsetof(struct {name}, has_{f.cname})")
        if f.type in ("INT", "UINT"):
            parts.append(f".min = {f.min}, .max = (uint64_t)({f.max})")
        if f.type == "NUMBER":
            parts.append(f".dmin = {f.dmin}, .dmax = {f.dmax}")
        if f.type in ("STRING", "RAW"):
            parts.append(f".len_min = {f.len[0]}, .len_max = {f.len[1]}")
        if f.sub:
            parts.append(f".sub = &{schemas[f.sub].cname}_desc")
        if f.names:
            out.append(f"static const char *const {base}_names[] = {{ "
                       + ", ".join(c_str(v) for v in f.names) + " };")
            parts.append(f".names = {base}_names, .n_names = {len(f.names)}")
        if f.set:
            out.append(f"static const int64_t {base}_set[] = {{ "
                       + ", ".join(str(v) for v in f.set) + " };")
            parts.append(f".set = {base}_set, .n_names = {len(f.set)}")
        if f.format:
            parts.append(f".format = format_{formats[f.format]}, .format_name = {c_str(f.format)}")
        if f.dflt is not None:
            parts.append(f".dflt = {c_str(f.dflt)}")
        rows.append("    { " + ", ".join(parts) + " },")
    if fields:
        out.append(f"static const struct api_field {name}_fields[] = {{")
        out += rows
        out.append("};")
        ref, n = f"{name}_fields", f"ARRAY_LEN({name}_fields)"
    else:
        ref, n = "NULL", "0"
    out.append(f"const struct api_desc {name}_desc = {{")
    out.append(f"    .name = {c_str(name)}, .size = sizeof(struct {name}), .fields = {ref},")
    out.append(f"    .n_fields = {n}, .strict = {'true' if strict else 'false'},")
    out.append("};")
    return "\n".join(out)


def schema_order(schemas):
    done, order = set(), []

    def visit(name, trail):
        if name in done:
            return
        if name in trail:
            raise Stop(f"schema {name} contains itself")
        for f in schemas[name].fields:
            if f.sub:
                if f.sub not in schemas:
                    raise Stop(f"{f.where}: unknown schema {f.sub}")
                visit(f.sub, trail | {name})
        done.add(name)
        order.append(schemas[name])

    for name in schemas:
        visit(name, frozenset())
    return order


HEAD = "/* Made by proto/apigen.py from proto/api/{}.yaml. */\n"


def prototype(daemon, op, schemas):
    args = [f"struct {daemon} *self", "struct api_call *call"]
    if op.path_fields:
        args.append(f"const struct {op.fn}_path *path")
    if op.query_fields:
        args.append(f"const struct {op.fn}_query *query")
    if op.body and not op.partial:
        args.append(f"const struct {schemas[op.body].cname} *body")
        if op.many:
            args.append("size_t n_body")
    if op.reply_kind in ("DATA", "BARE"):
        args.append(f"struct {schemas[op.reply].cname} *reply")
    return f"enum api_status {op.fn}({', '.join(args)})"


def emit_header(daemon, ops, schemas):
    guard = f"FIELDGATE_GEN_API_{daemon.upper()}_H"
    out = [HEAD.format(daemon), f"#ifndef {guard}\n#define {guard}\n",
           f'#define API_VERSION "{API_VERSION}"\n',
           '#include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n',
           '#include "libcommon/api.h"\n', f"struct {daemon};\n"]
    for s in schema_order(schemas):
        enums = c_enums(s.cname, s.fields)
        if enums:
            out.append(enums)
        out.append(c_struct(s.cname, s.fields, schemas))
        out.append(f"extern const struct api_desc {s.cname}_desc;\n")
    for op in ops:
        for kind, fields in (("path", op.path_fields), ("query", op.query_fields)):
            if fields:
                enums = c_enums(f"{op.fn}_{kind}", fields)
                if enums:
                    out.append(enums)
                out.append(c_struct(f"{op.fn}_{kind}", fields, schemas))
    out.append("\nenum {")
    out += [f"    API_OP_{snake(op.name).upper()} = (int)0x{op.id:08x}u," for op in ops]
    out.append("};\n")
    for op in ops:
        out.append(f"/* {op.method.upper()} {op.path}: {op.spec['summary']} */")
        out.append(prototype(daemon, op, schemas) + ";")
    out.append(f"\nextern const struct api_op {daemon}_ops[];")
    out.append(f"extern const size_t {daemon}_n_ops;\n\n#endif")
    return "\n".join(out) + "\n"


def emit_source(daemon, ops, schemas, formats):
    out = [HEAD.format(daemon), '#include <float.h>\n', f'#include "gen/api_{daemon}.h"',
           '#include "gen/permissions.h"', '#include "libcommon/format.h"\n']
    for s in schema_order(schemas):
        out.append(c_desc(s.cname, s.fields, schemas, s.strict, formats))
    for op in ops:
        for kind, fields in (("path", op.path_fields), ("query", op.query_fields)):
            if fields:
                text = c_desc(f"{op.fn}_{kind}", fields, schemas, False, formats)
                out.append(text.replace(f"const struct api_desc {op.fn}",
                                        f"static const struct api_desc {op.fn}"))
    for op in ops:
        args = ["self", "call"]
        if op.path_fields:
            args.append("call->path")
        if op.query_fields:
            args.append("call->query")
        if op.body and not op.partial:
            args.append("call->body")
            if op.many:
                args.append("call->n_body")
        if op.reply_kind in ("DATA", "BARE"):
            args.append("call->reply")
        out.append(f"static enum api_status\nrun_{op.fn}(void *self, struct api_call *call)\n{{")
        out.append(f"    return {op.fn}({', '.join(args)});\n}}")
    out.append(f"const struct api_op {daemon}_ops[] = {{")
    for op in ops:
        has = lambda flag: "true" if flag else "false"
        out.append(f"    {{ .id = 0x{op.id:08x}u, .name = {c_str(op.name)},"
                   f" .method = {c_str(op.method.upper())}, .path = {c_str(op.path)},")
        out.append(f"      .permission = {op.permission}, .audit = API_AUDIT_{op.audit.upper()},"
                   f" .reply_kind = API_REPLY_{op.reply_kind},")
        style = "MODBUS" if op.spec.get("x-errors") == "modbus" else "PLAIN"
        out.append(f"      .error_style = API_ERRORS_{style}, .partial = {has(op.partial)},"
                   f" .many = {has(op.many)}, .optional = {has(op.optional)},"
                   f" .defer = {has(op.defer)}, .form = {has(op.form)},"
                   f" .worker = {has(op.worker)},")
        out.append(f"      .success = {op.success}, .timeout_ms = {op.timeout},"
                   f" .items_max = {op.items_max},"
                   f" .event = {c_str(op.event)}, .summary = {c_str(op.spec['summary'])},")
        refs = []
        if op.path_fields:
            refs.append(f".path_desc = &{op.fn}_path_desc")
        if op.query_fields:
            refs.append(f".query_desc = &{op.fn}_query_desc")
        if op.body:
            refs.append(f".body_desc = &{schemas[op.body].cname}_desc")
        if op.reply:
            refs.append(f".reply_desc = &{schemas[op.reply].cname}_desc")
        out.append("      " + ", ".join(refs + [f".fn = run_{op.fn}"]) + " },")
    out.append("};")
    out.append(f"const size_t {daemon}_n_ops = ARRAY_LEN({daemon}_ops);")
    return "\n".join(out) + "\n"


def emit_permissions(permissions):
    bits = [p["bit"] for p in permissions]
    if len(set(bits)) != len(bits) or max(bits) > 31:
        raise Stop("permissions.yaml: bits must be unique and below 32, where add-ons begin")
    out = ["/* Made by proto/apigen.py from proto/permissions.yaml. */",
           "#ifndef FIELDGATE_GEN_PERMISSIONS_H\n#define FIELDGATE_GEN_PERMISSIONS_H\n",
           "/* bit, id, name, description */", "#define PERMISSION_TABLE(X) \\"]
    out.append(" \\\n".join(f"    X({p['bit']}, {p['id']}, {c_str(p['name'])}, "
                            f"{c_str(p['description'])})" for p in permissions))
    out.append("\n#define X(bit, id, name, description) API_PERMISSION_##id = (bit),")
    out.append("enum api_permission { PERMISSION_TABLE(X) };\n#undef X\n\n#endif")
    return "\n".join(out) + "\n"


def emit_events(events):
    out = ["/* Made by proto/apigen.py from proto/audit.yaml. */",
           "#ifndef FIELDGATE_GEN_AUDIT_EVENTS_H\n#define FIELDGATE_GEN_AUDIT_EVENTS_H\n",
           "/* id, name, category, severity */", "#define AUDIT_EVENT_TABLE(X) \\"]
    out.append(" \\\n".join(f"    X({c_str(e['id'])}, {c_str(e['name'])}, {c_str(e['category'])}, "
                            f"{c_str(e['severity'])})" for e in events))
    out.append("\n#endif")
    return "\n".join(out) + "\n"


def emit_routes(daemons, ops):
    head = """/* Made by proto/apigen.py: what the gateway knows of each operation. */
#ifndef FIELDGATE_GEN_ROUTES_H
#define FIELDGATE_GEN_ROUTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct route {
    const char *method, *path; /* path below /api/v1, with {name} for a value */
    const char *name;          /* operationId */
    uint32_t op;
    uint8_t daemon;     /* index of route_daemons */
    uint8_t permission; /* bit, or API_PERMISSION_OPEN, _TOKEN, _SELF, _SESSION (libcommon/api.h) */
    bool gather;        /* x-lane: shared */
    bool form;          /* multipart/form-data is accepted */
    bool stream;        /* may answer with text/event-stream */
    uint32_t timeout_ms, body_max; /* body_max 0: no body */
};
extern const struct route routes[]; /* sorted: fixed segments before values */
extern const size_t n_routes;
extern const char *const route_daemons[];
extern const size_t n_route_daemons;
extern const char route_openapi_json[];
extern const size_t route_openapi_json_size;

#endif
"""
    out = ['#include "gen/routes.h"\n', '#include "gen/permissions.h"',
           '#include "libcommon/api.h"\n', "const char *const route_daemons[] = {"]
    out += [f"    {c_str(d)}," for d in daemons]
    out.append("};\nconst size_t n_route_daemons = ARRAY_LEN(route_daemons);\n")
    out.append("const struct route routes[] = {")
    key = lambda op: ([(1, "") if s.startswith("{") else (0, s) for s in op.path.split("/")],
                      op.method)
    for op in sorted(ops, key=key):
        flag = lambda x: "true" if x else "false"
        out.append(f"    {{ {c_str(op.method.upper())}, {c_str(op.path)}, {c_str(op.name)}, "
                   f"0x{op.id:08x}u, {daemons.index(op.daemon)}, {op.permission},")
        out.append(f"      {flag(op.lane == 'shared')}, {flag(op.form)}, "
                   f"{flag('text/event-stream' in op.reply_types)}, {op.timeout}, "
                   f"{op.body_max} }},")
    out.append("};\nconst size_t n_routes = ARRAY_LEN(routes);")
    return head, "\n".join(out) + "\n"


# ---- openapi.json ----

def openapi_schema(spec):
    if isinstance(spec, dict):
        out = {}
        for k, v in spec.items():
            if k == "$ref":
                out[k] = "#/components/schemas/" + v.rsplit("/", 1)[-1]
            elif k == "properties":
                out[k] = {n: openapi_schema(p) for n, p in v.items()}
            elif k == "x-any":
                continue
            elif k == "format" and v not in ("date-time", "email", "uuid", "ipv4"):
                out[k] = v
            elif k in ("x-always", "x-unsigned", "x-strict"):
                continue
            else:
                out[k] = openapi_schema(v)
        if spec.get("x-any"):
            out.pop("maxLength", None)
            out.pop("type", None)
        if spec.get("x-strict"):
            out["additionalProperties"] = False
        return out
    if isinstance(spec, list):
        return [openapi_schema(v) for v in spec]
    return spec


def ref(name):
    return {"$ref": f"#/components/schemas/{name}"}


def openapi_op(op):
    out = {"operationId": op.name, "summary": op.spec["summary"], "tags": op.spec["tags"],
           "x-permission": op.spec["x-permission"], "x-audit": op.audit, "x-daemon": op.daemon}
    if op.event:
        out["x-event"] = op.event
    if op.spec.get("description"):
        out["description"] = op.spec["description"]
    if op.spec["x-permission"] == "open":
        out["security"] = []
    params = []
    for p in op.spec.get("parameters", []):
        entry = {"name": p["name"], "in": p["in"], "required": p["in"] == "path"
                 or p.get("required", False), "schema": openapi_schema(p["schema"])}
        if p.get("description"):
            entry["description"] = p["description"]
        if p["schema"].get("type") == "array":
            entry["style"], entry["explode"] = "form", False
        params.append(entry)
    if params:
        out["parameters"] = params
    content = {}
    if op.body:
        schema = ref(op.body + "Part" if op.partial else op.body)
        if op.many:
            schema = {"oneOf": [schema, {"type": "array", "minItems": 1, "maxItems": op.items_max,
                                         "items": ref(op.body)}]}
        content["application/json"] = {"schema": schema}
    if op.form:
        content["multipart/form-data"] = {"schema": {
            "type": "object",
            "properties": {n: {"type": "string", "format": "binary"} for n in op.form}}}
    if content:
        out["requestBody"] = {"required": not op.optional, "content": content}
    success = {"description": "success"}
    wrap = None
    if op.reply_kind == "DATA":
        data = ref(op.reply)
        wrap = {"type": "object", "required": ["data"], "properties": {"data": data}}
    elif op.reply_kind == "BARE":
        wrap = ref(op.reply)
    elif op.reply_kind in ("LIST", "ITEMS"):
        wrap = {"type": "object", "required": ["data"],
                "properties": {"data": {"type": "array", "items": ref(op.reply)}}}
        if op.reply_kind == "LIST":
            wrap["required"] = ["count", "data"]
            wrap["properties"]["count"] = {"type": "integer"}
    elif op.reply_or:
        wrap = {"oneOf": [ref(op.reply), ref(op.reply_or)]}
    elif op.reply:
        wrap = ref(op.reply)
    elif op.reply_text:
        wrap = {"type": "string"}
    types = {}
    if wrap:
        types["application/json"] = {"schema": wrap}
    for t in op.reply_types:
        types[t] = {"schema": {"type": "string"}}
    if types:
        success["content"] = types
    out["responses"] = {str(op.success): success, "default": {
        "description": "refused or failed",
        "content": {"application/json": {"schema": ref(
            "ModbusError" if op.spec.get("x-errors") == "modbus" else "Error")}}}}
    return out


def emit_openapi(ops, schemas_by_daemon):
    schemas = {"Error": {
        "type": "object", "required": ["error"], "properties": {"error": {
            "type": "object", "required": ["code", "message"], "properties": {
                "code": {"type": "integer"}, "message": {"type": "string"},
                "details": {"type": "array", "items": {"type": "object", "properties": {
                    "pointer": {"type": "string"}, "message": {"type": "string"},
                    "line": {"type": "integer", "minimum": 1},
                    "column": {"type": "integer", "minimum": 1}}}}}}}}}
    modbus = copy.deepcopy(schemas["Error"])
    modbus["properties"]["error"]["required"] = ["message"]
    modbus["properties"]["error"]["properties"]["i18n"] = {
        "type": "object", "properties": {"message": {"type": "object", "properties": {
            "key": {"type": "string"}, "variables": {"type": "object"}}}}}
    schemas["ModbusError"] = modbus
    for daemon, named in schemas_by_daemon.items():
        for name, s in named.items():
            plain = openapi_schema(s.spec)
            if name in schemas and schemas[name] != plain:
                raise Stop(f"schema {name} of {daemon} differs from the one of another daemon")
            schemas[name] = plain
    for name in sorted({op.body for op in ops if op.partial}):
        schemas[name + "Part"] = {**{k: v for k, v in schemas[name].items() if k != "required"},
                                  "description": f"Any subset of the members of {name}."}
    paths = {}
    for op in ops:
        paths.setdefault(op.path, {})[op.method] = openapi_op(op)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Fieldgate", "version": API_VERSION,
                 "description": "REST API of an industrial IoT gateway (AIG-302 1.4.0)."},
        "servers": [{"url": "/api/v1"}],
        "security": [{"bearer": []}, {"mxApiToken": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "mxApiToken": {"type": "apiKey", "in": "header", "name": "mx-api-token"}}},
    }


def emit_blob(text):
    data = text.encode()
    rows = [", ".join(str(b if b < 128 else b - 256) for b in data[i:i + 24])
            for i in range(0, len(data), 24)]
    return ('#include "gen/routes.h"\n\n/* openapi.json */\nconst char route_openapi_json[] = {\n    '
            + ",\n    ".join(rows) + ",\n};\n"
            + "const size_t route_openapi_json_size = sizeof(route_openapi_json);\n")


# ---- fieldgatectl ----

def client_schemas(ops, schemas_by_daemon):
    """Those that bodies consist of, each once, with names of the client's own."""
    every = {}
    for named in schemas_by_daemon.values():
        for name, schema in named.items():
            every[name] = copy.copy(schema)
            every[name].cname = "ctl_" + schema.cname
    reached, ahead = {}, sorted({op.body for op in ops if op.body})
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached[name] = every[name]
            ahead += [f.sub for f in every[name].fields if f.sub]
    return reached


def emit_client(ops, schemas_by_daemon, formats):
    out = ["/* Made by proto/apigen.py: the operations, for fieldgatectl. */\n", "#include <float.h>\n",
           '#include "libcommon/api.h"', '#include "libcommon/format.h"',
           '#include "services/fieldgatectl/ops.h"\n']
    schemas = client_schemas(ops, schemas_by_daemon)
    described = []

    def describe(name, fields, strict=False):
        text = c_desc(name, fields, schemas, strict, formats)
        out.append(c_struct(name, fields, schemas))
        out.append(re.sub("^const struct api_desc", "static const struct api_desc", text,
                          flags=re.M))
        if fields:
            docs = ", ".join(c_str(apictl.one_line(f.doc)) for f in fields)
            out.append(f"static const char *const {name}_docs[] = {{ {docs} }};")
            described.append(f"    {{ &{name}_desc, {name}_docs }},")

    for s in schema_order(schemas):
        describe(s.cname, s.fields, s.strict)
    for op in ops:
        for kind, fields in (("path", op.path_fields), ("query", op.query_fields)):
            if fields:
                describe(f"ctl_{op.fn}_{kind}", fields)
    out.append("const struct ctl_doc ctl_docs[] = {")
    out += described + ["};", "const size_t ctl_n_docs = ARRAY_LEN(ctl_docs);"]
    out.append("const struct ctl_op ctl_ops[] = {")
    out += apictl.rows(ops, c_str,
                       lambda op: f"&ctl_{op.fn}_path_desc" if op.path_fields else "NULL",
                       lambda op: f"&ctl_{op.fn}_query_desc" if op.query_fields else "NULL",
                       lambda op: f"&{schemas[op.body].cname}_desc" if op.body else "NULL")
    out.append("};\nconst size_t ctl_n_ops = ARRAY_LEN(ctl_ops);")
    out.append(f"const char ctl_version[] = {c_str(f'fieldgatectl {API_VERSION}' + chr(10))};")
    return "\n".join(out) + "\n"


def write(path, text):
    try:
        with open(path, encoding="utf-8") as f:
            if f.read() == text:
                return
    except FileNotFoundError:
        pass
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def read_fragments(names):
    """{daemon: (paths, schemas)}; a daemon may have several fragments."""
    found = {}
    for name in sorted(names):
        with open(name, encoding="utf-8") as f:
            doc = yaml.safe_load(f)
        if set(doc) - {"daemon", "paths", "schemas"}:
            raise Stop(f"{name}: only daemon, paths, schemas")
        there = found.setdefault(doc["daemon"], ({}, {}))
        for mine, more in zip(there, (doc.get("paths", {}), doc.get("schemas", {}))):
            twice = sorted(set(mine) & set(more))
            if twice:
                raise Stop(f"{name}: {twice[0]} is in another fragment, too")
            mine.update(more)
    return found


def load(fragments):
    permissions = load_yaml("permissions.yaml")
    events = load_yaml("audit.yaml")
    formats = load_formats()
    permission_ids = {p["id"] for p in permissions}
    event_names = {e["name"] for e in events}
    daemons, ops, schemas_by_daemon, ids = [], [], {}, {}
    for daemon, (paths, specs) in read_fragments(fragments).items():
        schemas = {n: Schema(daemon, n, s, formats) for n, s in specs.items()}
        daemons.append(daemon)
        schemas_by_daemon[daemon] = schemas
        for path, methods in paths.items():
            for method, spec in methods.items():
                if method not in METHODS:
                    raise Stop(f"{path}: {method} is not a method")
                op = Op(daemon, path, method, spec, schemas, permission_ids, event_names, formats)
                if op.id in ids:
                    raise Stop(f"{op.name}: id of {ids[op.id]}")
                ids[op.id] = op.name
                ops.append(op)
    return permissions, events, formats, daemons, ops, schemas_by_daemon


def main(argv):
    if len(argv) < 4 or argv[1] != "--out":
        sys.exit(__doc__)
    out = argv[2]
    os.makedirs(out, exist_ok=True)
    permissions, events, formats, daemons, ops, schemas = load(argv[3:])
    write(f"{out}/permissions.h", emit_permissions(permissions))
    write(f"{out}/audit_events.h", emit_events(events))
    for d in daemons:
        mine = [op for op in ops if op.daemon == d]
        write(f"{out}/api_{d}.h", emit_header(d, mine, schemas[d]))
        write(f"{out}/api_{d}.c", emit_source(d, mine, schemas[d], formats))
    head, body = emit_routes(daemons, ops)
    write(f"{out}/routes.h", head)
    write(f"{out}/routes.c", body)
    text = json.dumps(emit_openapi(ops, schemas), separators=(",", ":"))
    write(f"{out}/openapi.json", text)
    write(f"{out}/openapi_json.c", emit_blob(text))
    write(f"{out}/ctl_ops.c", emit_client(ops, schemas, formats))
    write(f"{out}/fieldgatectl.bash", apictl.completion(ops))
    write(f"{out}/fieldgatectl.1", apictl.manual(ops))


if __name__ == "__main__":
    try:
        main(sys.argv)
    except Stop as e:
        sys.exit(f"apigen: {e}")
