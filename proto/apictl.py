"""What fieldgatectl says of the operations: rows of its table in C, its shell
completion and its manual page, from the operations that apigen.py has read.

Data only: the program's own words are in services/fieldgatectl/.
"""
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
CLIENT = os.path.join(HERE, "..", "services", "fieldgatectl")
# Options of 'fieldgatectl call', which no parameter can have for a name.
OPTIONS = ("body", "set", "field", "file", "output", "dry-run", "help",
           "profile", "url", "cacert", "fingerprint", "raw")
CALLERS = {"open": "none, not even to be signed in", "token": "any signed-in account",
           "self": "any signed-in account, also one that must change its password",
           "session": "the token of a sign-in itself, of any account"}


def sections(ops):
    """{section: [operation...]}, both in order."""
    out = {}
    for op in sorted(ops, key=lambda op: (op.spec["tags"][0].lower(), op.path, op.method)):
        out.setdefault(op.spec["tags"][0], []).append(op)
    return out


def permission(op):
    return CALLERS.get(op.spec["x-permission"], op.spec["x-permission"])


def one_line(text):
    return " ".join((text or "").split())


def reply(op):
    """What the answer is, in words."""
    kinds = {"DATA": "{} in data", "BARE": "{}", "LIST": "a list of {} with its count",
             "ITEMS": "a list of {}", "EMPTY": "nothing"}
    if op.reply_kind != "OWN":
        return kinds[op.reply_kind].format(op.reply)
    return " or ".join(([op.reply] if op.reply else []) + op.reply_types
                       + (["a text"] if op.reply_text else []))


def limits(f):
    """The values that a field takes, in words."""
    kind = {"BOOL": "true or false", "INT": "integer", "UINT": "integer", "NUMBER": "number",
            "STRING": "text", "OBJECT": "object", "RAW": "any JSON"}.get(f.type, "")
    if f.names:
        kind = "one of " + ", ".join(v or '""' for v in f.names)
    elif f.set:
        kind = "one of " + ", ".join(str(v) for v in f.set)
    elif f.range:
        kind += f" {f.range[0]}..{f.range[1]}"
    elif f.type == "STRING":
        kind = f"text of {f.len[0]}..{f.len[1]} characters"
        kind += f", {f.format}" if f.format else ""
    elif f.type == "RAW":
        kind += f" up to {f.len[1]} bytes"
    if "ARRAY" in f.flags:
        kind = f"list of {f.items[0]}..{f.items[1]}: {kind}"
    if "NULLABLE" in f.flags:
        kind += ", or null"
    return kind + (f"; default {f.dflt}" if f.dflt is not None else "")


# ---- the table ----

def rows(ops, c_str, path_desc, query_desc, body_desc):
    """Initialisers of struct ctl_op; the last three name a descriptor or give NULL."""
    flag = lambda on: "true" if on else "false"
    out = []
    for section, mine in sections(ops).items():
        for op in mine:
            form = ", ".join(c_str(n) for n in op.form)
            out.append(f"    {{ {c_str(op.name)}, {c_str(op.method.upper())}, {c_str(op.path)},\n"
                       f"      {c_str(section)}, {c_str(one_line(op.spec['summary']))},\n"
                       f"      {c_str(one_line(op.spec.get('description')))},\n"
                       f"      {c_str(permission(op))}, {c_str(reply(op))},\n"
                       f"      {path_desc(op)}, {query_desc(op)}, {body_desc(op)},\n"
                       f"      {{ {form or 'NULL'} }}, "
                       f"{flag(op.spec['x-permission'] == 'open')}, {flag(op.partial)}, {flag(op.many)}, {flag(op.optional)}, "
                       f"{flag('text/event-stream' in op.reply_types)},\n"
                       f"      {op.items_max}, {op.body_max}, {op.timeout} }},")
    return out


# ---- completion ----

def fill(name, marks):
    with open(os.path.join(CLIENT, name), encoding="utf-8") as f:
        text = f.read()
    for mark, value in marks.items():
        text = text.replace(f"@{mark}@", value)
    return text


def completion(ops):
    def words(values):
        return " ".join(f"{v}" for v in values)

    names, values, members, parts = [], [], [], []
    for op in sorted(ops, key=lambda op: op.name):
        fields = op.path_fields + op.query_fields
        names.append(f"        {op.name}) options='{words('--' + f.name for f in fields)}' ;;")
        for f in fields:
            given = [v for v in f.names or (["true", "false"] if f.type == "BOOL" else [])
                     if re.fullmatch(r"[A-Za-z0-9_.+-]+", v)]  # a shell leaves these as they are
            if given:
                values.append(f"        {op.name}:--{f.name}) values='{words(given)}' ;;")
        if op.body_fields:
            members.append(f"        {op.name}:--set) values='"
                           + words(f.name + "=" for f in op.body_fields) + "' ;;")
        if op.form:
            text = words(n + "=" for n in op.form)
            parts.append(f"        {op.name}:--field | {op.name}:--file) values='{text}' ;;")
    return fill("fieldgatectl.bash.in", {
        "NAMES": words(sorted(op.name for op in ops)),
        "SECTIONS": "\n".join(s.replace("'", "") for s in sections(ops)),
        "OPTIONS": "\n".join(names), "VALUES": "\n".join(values + members + parts)})


# ---- manual page ----

def roff(text):
    text = one_line(text).replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    text = text.replace("`", "\\(ga").replace("~", "\\(ti").replace("^", "\\(ha")
    text = "".join(c if ord(c) < 128 else f"\\[u{ord(c):04X}]" for c in text)
    return "\\&" + text if text.startswith(".") else text


def man_field(f, how):
    out = [".TP", f".BI \\-\\-{roff(f.name)} \" value\"" if how == "option"
           else f".B {roff(f.name)}"]
    what = limits(f)
    if "REQUIRED" in f.flags:
        what += "; required"
    return out + [roff(what + ".")] + ([roff(f.doc)] if f.doc else [])


def man_op(op):
    fields = op.path_fields + op.query_fields
    synopsis = ""
    for f in fields:
        option = f"\\fB\\-\\-{roff(f.name)}\\fR \\fIvalue\\fR"
        synopsis += f" {option}" if "REQUIRED" in f.flags else f" [{option}]"
    if op.optional:
        synopsis += " [\\fB\\-\\-body\\fR \\fIJSON\\fR|\\fB\\-\\-set\\fR \\fImember\\fR=\\fIvalue\\fR...]"
    elif op.body:
        synopsis += " {\\fB\\-\\-body\\fR \\fIJSON\\fR|\\fB\\-\\-set\\fR \\fImember\\fR=\\fIvalue\\fR...}"
    if op.form:
        synopsis += " [\\fB\\-\\-file\\fR \\fIpart\\fR=@\\fIpath\\fR...]"
    out = [f".SS {roff(op.name)}", f"\\fBcall {roff(op.name)}\\fR{synopsis}", ".PP",
           roff(op.spec["summary"].rstrip(".") + ".")]
    if op.spec.get("description"):
        out.append(roff(op.spec["description"]))
    out += [".PP", roff(f"{op.method.upper()} /api/v1{op.path}. Permission: {permission(op)}."),
            roff(f"Answers {reply(op)}.")]
    for f in fields:
        out += man_field(f, "option")
    if op.body_fields:
        out += [".PP", "Members of the body"
                + (", of which any subset may be sent, also of the required ones:" if op.partial else ":")]
        for f in op.body_fields:
            out += man_field(f, "member")
    if op.form:
        out += [".PP", roff(f"Parts of a form: {', '.join(op.form)}.")]
    return out


def manual(ops):
    out = []
    for section, mine in sections(ops).items():
        out += [f".SH \"OPERATIONS: {roff(re.sub(r'[^A-Za-z0-9 -]', ' ', section).upper())}\""]
        for op in mine:
            out += man_op(op)
    return fill("fieldgatectl.1.in", {"OPERATIONS": "\n".join(out)})
