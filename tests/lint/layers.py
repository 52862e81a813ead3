#!/usr/bin/python3
"""Checks who includes whom: arrows run services, gateway -> libcommon ->
libraries, services meet only in proto/ and on the bus, and each library is
known to few files. Also: calls that are banned, and what each file must be.
"""
import fnmatch
import glob
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# library header -> files that may include it
LIBRARIES = {
    "nng/*": ["libcommon/bus*.[ch]", "tests/unit/test_bus*.c", "tests/bench/bare_*.c"],
    "lmdb.h": ["libcommon/store.c", "tests/bench/audit_fill.c"],
    "curl/*": ["services/fieldgatectl/http.c"],
    "civetweb.h": ["gateway/http.c", "tests/bench/bare_http.c"],
    "modbus.h": ["services/demoplant/*.c"],
    "modbus/*": ["services/demoplant/*.c", "tests/bench/bare_*.c"],
    "MQTTAsync.h": ["services/cloudd/mqtt_paho.c", "services/cloudd/*.c"],
    "MQTTClient.h": [],
    "sodium.h": ["services/authd/*.c", "gateway/*.c", "libcommon/*.c", "services/cloudd/*.c",
                 "services/auditd/*.c", "tests/unit/test_jwt.c", "tests/unit/test_cert.c",
                 "tests/unit/test_audit_trail.c", "tests/bench/audit_fill.c",
                 "tests/fuzz/fuzz_token.c", "tests/bench/bare_pwhash.c"],
    "openssl/*": ["libcommon/x509.c", "gateway/tls.c", "tests/unit/test_x509.c",
                  "services/fieldgatectl/trust.c"],
    "cjson/cJSON.h": ["libcommon/*.c", "services/*/*.c", "tests/unit/*.c", "tests/fuzz/*.c",
                      "gateway/auth.c", "gateway/https_files.c"],
    "archive*.h": ["services/auditd/pack.c"],
    "systemd/*": ["services/auditd/sys_log_journal.c"],
    "cmocka.h": ["tests/unit/*"],
    "hpdf.h": ["services/auditd/sec_pdf.c"],
}
ONE_FILE = {"MQTTAsync.h", "hpdf.h", "civetweb.h", "lmdb.h"}  # of the product: exactly one file
# component -> prefixes of "…" includes it may use
COMPONENTS = [
    ("libcommon/", ["libcommon/", "proto/", "gen/audit_events.h", "gen/permissions.h"]),
    ("gateway/", ["gateway/", "libcommon/", "proto/", "gen/routes.h", "gen/permissions.h",
                  "gen/gateway_docs.h"]),
    ("proto/", ["proto/"]),
    ("tests/", ["libcommon/", "proto/", "gateway/", "services/", "gen/", "tests/"]),
]
BANNED = re.compile(r"(?<![\w.>])(strcpy|strcat|sprintf|vsprintf|strncpy|strncat|strtok|atoi|atol|"
                    r"strtol|gmtime|localtime|gets|system|popen|alloca|rand|srand)\s*\(")
COMMENT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\])+\'', re.S)


def blank(text):
    """Without comments and literals, lines kept."""
    return COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def allowed(path):
    if path.startswith("services/"):
        name = path.split("/")[1]
        return [f"services/{name}/", "libcommon/", "proto/", f"gen/api_{name}.h",
                "gen/audit_events.h", "gen/permissions.h"]
    for prefix, may in COMPONENTS:
        if path.startswith(prefix):
            return may
    return None


def main():
    os.chdir(ROOT)
    faults, users = [], {}
    files = [f for pattern in ("libcommon", "gateway", "services/*", "proto", "tests/*")
             for f in glob.glob(f"{pattern}/*.[ch]")]
    for path in sorted(files):
        with open(path, encoding="utf-8") as f:
            text = f.read()
        may = allowed(path)
        for number, line in enumerate(text.split("\n"), 1):
            m = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
            if not m:
                continue
            name = m.group(2)
            if m.group(1) == '"':
                if not any(name.startswith(p) for p in may):
                    faults.append(f"{path}:{number}: must not include \"{name}\"")
            for library, where in LIBRARIES.items():
                if fnmatch.fnmatch(name, library):
                    users.setdefault(library, set()).add(path)
                    if not any(fnmatch.fnmatch(path, w) for w in where):
                        faults.append(f"{path}:{number}: <{name}> is not for this file")
        bare = blank(text)
        if not path.startswith("tests/"):
            for m in BANNED.finditer(bare):
                number = bare.count("\n", 0, m.start()) + 1
                faults.append(f"{path}:{number}: {m.group(1)} is banned")
        # a source file may leave it to its header
        own_header = path.endswith(".c") and os.path.exists(path[:-2] + ".h")
        if not own_header and "/*" not in text[:3]:
            faults.append(f"{path}:1: begins without saying what it is for")
        if path.endswith(".c") and not path.startswith("tests/"):
            last = re.findall(r'^#include ["<]([^">]+)[">]', text, re.M)[-1]
            if last != "libcommon/banned.h":
                faults.append(f"{path}: libcommon/banned.h must be its last include")
        if path.endswith(".h") and not re.search(r"#ifndef FIELDGATE_\w+_H\n#define FIELDGATE_", text):
            faults.append(f"{path}:1: no include guard FIELDGATE_…_H")
    for library in ONE_FILE:
        mine = {u for u in users.get(library, ()) if not u.startswith("tests/")}
        if len(mine) > 1:
            faults.append(f"{library}: one file only, found {', '.join(sorted(mine))}")
    for fault in faults:
        print(fault)
    print(f"layers: {len(files)} files, {len(faults)} faults")
    return 1 if faults else 0


sys.exit(main())
