"""What openapi.json says of each operation, held against what is answered.

Every reply that harness.Client receives goes through check(): its status is one
that the operation declares, its body is valid for the schema of that status.
Of many equal ones a sample is taken. With CONTRACT_SEEN (a file) each first
success and first refusal of an operation is noted there; tests/run.py asks
unseen() at the end of a whole run.
"""
import json
import os
import re
import threading
import urllib.parse

import jsonschema

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
UNDECLARED = ("/openapi.json",)  # what the contract does not say of itself
LIMIT_CODES = (-1, -113, -115)  # of the Modbus sections, where the status is not in the body
ALWAYS, ONE_IN = 40, 16  # replies of one operation and status that are checked


class Operation:
    def __init__(self, api, method, path, spec):
        self.method, self.path, self.spec = method.upper(), path, spec
        self.name = spec["operationId"]
        self.shape = re.compile("/".join("[^/]+" if s.startswith("{") else re.escape(s)
                                         for s in path.split("/")))
        self.fixed = [not s.startswith("{") for s in path.split("/")]
        self.success = int(next(s for s in spec["responses"] if s != "default"))
        self.content = spec["responses"][str(self.success)].get("content", {})
        refusal = spec["responses"]["default"]["content"]["application/json"]["schema"]
        plain = self.content.get("application/json", {}).get("schema")
        self.valid = api.validator(plain) if plain else None
        self.refused = api.validator(refusal)


class Contract:
    def __init__(self, path):
        with open(path, encoding="utf-8") as f:
            self.doc = json.load(f)
        self.operations = [Operation(self, method, path, spec)
                           for path, methods in self.doc["paths"].items()
                           for method, spec in methods.items()]
        # as the gateway does: a fixed segment goes before a value
        self.operations.sort(key=lambda o: o.fixed, reverse=True)
        self.known, self.counts, self.noted = {}, {}, set()
        self.lock = threading.Lock()

    def validator(self, schema):
        return jsonschema.Draft202012Validator({**schema, "components": self.doc["components"]})

    def resolve(self, schema):
        while "$ref" in schema:
            schema = self.doc["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
        return schema

    def find(self, method, target):
        path = urllib.parse.urlsplit(target).path
        key = (method, path)
        if key not in self.known:
            self.known[key] = next((o for o in self.operations if o.method == method
                                    and o.shape.fullmatch(path)), None)
        return self.known[key]

    def note(self, operation, kind):
        with self.lock:
            if (operation.name, kind) in self.noted:
                return
            self.noted.add((operation.name, kind))
        if os.environ.get("CONTRACT_SEEN"):
            with open(os.environ["CONTRACT_SEEN"], "a", encoding="ascii") as f:
                f.write(f"{operation.name} {kind}\n")

    def check(self, method, target, status, content_type, body):
        """What is wrong with this reply, or None."""
        operation = self.find(method, target)
        if operation is None:
            fine = status >= 400 or target in UNDECLARED or method not in METHODS
            return None if fine else f"{method} {target}: {status}, but not declared"
        with self.lock:
            n = self.counts[operation.name, status] = \
                self.counts.get((operation.name, status), 0) + 1
        if n > ALWAYS and n % ONE_IN:
            return None
        fault = self.fault(operation, status, content_type or "", body)
        if fault is None and status < 500:
            self.note(operation, "success" if status < 400 else "refusal")
        return fault and f"{method} {target} answers {status} {body[:300]!r}: {fault}"

    def fault(self, operation, status, content_type, body):
        if status < 400 and status != operation.success:
            return f"not the {operation.success} that is declared"
        kind = content_type.split(";")[0].strip()
        if status < 400 and kind != "application/json":
            if kind in operation.content or not (kind or body or operation.content):
                return None
            return f"Content-Type {content_type!r} where {list(operation.content)} is declared"
        try:
            data = json.loads(body)
        except ValueError as e:
            return f"no JSON: {e}"
        valid = operation.valid if status < 400 else operation.refused
        if valid is None:
            return "a body where none is declared"
        found = jsonschema.exceptions.best_match(valid.iter_errors(data))
        if found:
            return f"/{'/'.join(str(p) for p in found.absolute_path)}: {found.message[:300]}"
        code = data["error"].get("code", status) if status >= 400 else status
        if code not in (status, *LIMIT_CODES):
            return f"code {code}"
        return None


CONTRACT = None


def load(build):
    global CONTRACT
    if CONTRACT is None:
        CONTRACT = Contract(os.path.join(build, "gen", "openapi.json"))
    return CONTRACT


def unseen(build, seen):
    """Operations that had no success or no refusal, by the file 'seen'."""
    with open(seen, encoding="ascii") as f:
        noted = {tuple(line.split()) for line in f}
    return [f"{o.name} had no {kind}" for o in load(build).operations
            for kind in ("success", "refusal") if (o.name, kind) not in noted]
