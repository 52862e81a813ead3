"""Every kind of caller walks every operation of openapi.json.

What is not his to do answers 401 or 403, changes nothing and leaves an audit
record; what is his to do answers neither. An operation takes part by being
declared; that its permission is the right one is said here once more, by path.
"""
import base64
import os
import re
import time

import yaml

import contract
import harness
from harness import Client, PASSWORD, ShiftedClock, Suite, claims, wait_for

TEST_SECONDS = 180
BASE, UNKNOWN = "/api/v1", 9007199254740991

# The permission that opens a path and what is below it; the longest one counts.
PATHS = {
    "/auth": "self", "POST /auth": "open", "/auth/websocket-token": "session", "/users/me": "self", "GET /password-policy": "self",
    "/sessions": "token", "/sessions/configuration": "SYS_ACCOUNT_RW",
    **dict.fromkeys(("/users", "/roles", "/permissions", "/password-policy", "/auth-lock"),
                    "SYS_ACCOUNT_RW"),
    **dict.fromkeys(("/device", "/system", "/audits", "/secadvisor", "/secrets"),
                    "SYS_MAINTENANCE_RW"),
    **dict.fromkeys(("/tags", "/function", "/tpfunc", "/datalogger"), "SYS_MANAGEMENT_RW"),
    "/azure-iotedge": "SRV_AIE_RW", "/azure-iotedge/services": "APP_AIE_RW",
    "/mqtt": "APP_MQTT_RW", "/aws": "APP_AWS_RW", "/azure-device": "APP_AID_RW",
    "/sparkplug": "APP_SPARKPLUG_RW", "/modbusmaster": "APP_MODBUS_RW",
    "/modbusslave": "APP_MODBUS_RW",
    "/modbusslave": "APP_MODBUS_RW",
}

# What tells of records is looked at by itself; the security report has evidence of each moment.
AUDIT_LOG = ("/audits", "/audits/verify", "/secadvisor/report")

# Members that time or the walk itself changes.
RESTLESS = re.compile(r"(last|login|up|since|now|time|stamp|free|used|avail|usage|percent|load|count)", re.I)


def permission_of(method, path):
    found = [p for p in PATHS if f"{path}/".startswith(f"{p}/") or f"{method} {path}" == p]
    return PATHS[max(found, key=len)] if found else None


class Operation:
    def __init__(self, doc, method, path, spec):
        self.doc, self.method, self.path, self.spec = doc, method.upper(), path, spec
        self.permission = spec["x-permission"]
        self.label = f"{self.method} {path}"
        success = next(r for code, r in spec["responses"].items() if code != "default")
        self.streams = list(success.get("content", {})) == ["text/event-stream"]

    def target(self, known):
        """Something that is there, as far as numbers go, or that cannot be."""
        def value(p):
            if p["schema"].get("type") == "integer":
                return "1" if known else str(p["schema"].get("maximum", UNKNOWN))
            return p["schema"].get("enum", ["none-of-them"])[0]
        path = self.path
        for p in self.spec.get("parameters", []):
            if p["in"] == "path":
                path = path.replace("{%s}" % p["name"], value(p))
        return path

    @property
    def body(self):
        """One that the schema takes; None where no JSON is wanted."""
        content = self.spec.get("requestBody", {}).get("content", {})
        return self.sample(content["application/json"]["schema"]) \
            if "application/json" in content else None

    def sample(self, spec):
        while "$ref" in spec:
            spec = self.doc["components"]["schemas"][spec["$ref"].rsplit("/", 1)[-1]]
        if "oneOf" in spec or "anyOf" in spec:
            return self.sample((spec.get("oneOf") or spec["anyOf"])[0])
        if "enum" in spec:
            return spec["enum"][0]
        kind = spec.get("type")
        kind = kind[0] if isinstance(kind, list) else kind
        if kind == "object":
            members = spec.get("properties", {})
            wanted = spec.get("required") or [k for k, v in members.items()
                                              if not v.get("readOnly")][:1]
            return {k: self.sample(members[k]) for k in wanted}
        if kind == "array":
            return [self.sample(spec["items"])] * max(1, spec.get("minItems", 0))
        if kind in ("integer", "number"):
            return spec.get("minimum", 1)
        if kind == "boolean":
            return False
        return "Walker-1-walker-1"[:spec.get("maxLength", 64)].ljust(spec.get("minLength", 0), "x")

    def ask_for_it(self, client):
        """As somebody who means it."""
        return client.request(self.method, self.target(True), self.body)

    def ask_in_vain(self, client):
        """So that nothing happens if it is allowed: of something unknown, with a body that
        is none, or (where neither is possible) with a query that the gateway refuses."""
        if self.streams:
            stream = client.stream(self.target(False))
            stream.close()
            return stream
        if self.method == "GET":
            return client.get(self.target(False))
        if "requestBody" in self.spec:
            return client.request(self.method, self.target(False), raw=b'{"walk":',
                                  headers={"Content-Type": "application/json"})
        query = "" if "{" in self.path else "?walk=%zz"
        return client.request(self.method, self.target(False) + query)


class Who:
    """'holds': ids of permissions; None: no token that is any good."""

    def __init__(self, client, holds, name="", must_change=False, is_service=False,
                 is_derived=False):
        self.client, self.holds, self.name = client, holds, name
        self.must_change, self.is_service, self.is_derived = must_change, is_service, is_derived

    def refusal(self, op):
        """The status that 'op' answers, None when it is allowed."""
        if op.permission == "open":
            return None
        if self.holds is None:
            return 401
        if self.must_change:
            return None if op.permission == "self" else 403
        if op.permission == "session":
            return 403 if self.is_service or self.is_derived else None
        return None if op.permission in ("token", "self", *self.holds) else 403


def forged(token):
    """The same claims, not signed, and signed by nobody we know."""
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    first, body, signature = token.split(".")
    return f"{head}.{body}.", f"{first}.{body}.{signature[::-1]}"


class Walk(ShiftedClock, Suite):
    shifted_daemons = ("authd",)

    @classmethod
    def sign_in_first_time(cls):
        """The account whose password must be changed is there only now."""
        cls.ops = [Operation(contract.load(harness.BUILD).doc, method, path, spec)
                   for path, methods in contract.load(harness.BUILD).doc["paths"].items()
                   for method, spec in methods.items()]
        first = Who(cls.sign_in(password=harness.FIRST_PASSWORD), (), "admin", must_change=True)
        wait_for("authd's line to the gateway", lambda: first.client.get("/users/me").status == 200)
        cls.first_refused = [(op, op.ask_for_it(first.client)) for op in cls.ops
                             if first.refusal(op)]
        cls.first_allowed = [(op, op.ask_in_vain(first.client)) for op in cls.ops
                             if not first.refusal(op)]
        return super().sign_in_first_time()

    @classmethod
    def prepare(cls):
        cls.everything = [p["id"] for p in cls.admin.get("/permissions").data]
        cls.n_users = 0
        cls.let_sessions_expire()

    @classmethod
    def let_sessions_expire(cls):
        """An hour passes for authd: only a restart looks at the clock on the wall."""
        conf = lambda life, idle: cls.admin.put("/sessions/configuration",
                                                {"timeoutMin": life, "idleTimeoutMin": idle})
        conf(60, 60)
        cls.old = cls.add_user("old", "SYS_ACCOUNT_RW")
        conf(1440, 1440)
        cls.idle = cls.add_user("idle", "SYS_ACCOUNT_RW")
        if harness.VARIANT == "tsan":  # NNG's waits pass by the shifted clock there: ended by hand
            cls.admin.delete(f"/sessions?userIds={cls.old.id},{cls.idle.id}")
        else:
            cls.fleet.d["authd"].stop()
            cls.shift(61 * 60)
            cls.fleet.d["authd"].start()
        wait_for("the end by age", lambda: cls.old.client.get("/auth").status == 401)
        wait_for("authd", lambda: cls.admin.get("/auth").status == 200)
        conf(1440, 30)
        cls.old.holds = cls.idle.holds = None

    @classmethod
    def add_role(cls, *permissions):
        cls.n_users += 1
        return cls.admin.post("/roles", {"name": f"role-{cls.n_users}",
                                         "permissions": list(permissions)}).data["id"]

    @classmethod
    def add_user(cls, label, *permissions):
        """With a role of its own: .role, .id."""
        role = cls.add_role(*permissions)
        name = f"walk-{label}"
        user = cls.admin.post("/users", {"name": name, "password": PASSWORD, "isActive": True,
                                         "roles": [{"id": role}]})
        if user.status != 200:
            raise AssertionError(f"{user}")
        who = Who(cls.sign_in(name), permissions, name)
        who.role, who.id = role, user.data["id"]
        return who

    # ---- what there is ----

    def snapshot(self):
        """{operation/member: value} of all that can be read."""
        out = {}
        for op in self.ops:
            if op.method != "GET" or op.streams or op.path in AUDIT_LOG:
                continue
            reply = self.admin.get(op.target(True))
            self.assertLess(reply.status, 500, repr(reply))
            if reply.status == 200 and reply.headers.get("Content-Type") == "application/json":
                self.flatten(out, op.label, reply.json)
        return out

    def flatten(self, out, where, value):
        if isinstance(value, dict):
            for k, v in value.items():
                if not RESTLESS.search(k):
                    self.flatten(out, f"{where}.{k}", v)
        elif isinstance(value, list):
            for i, v in enumerate(value):
                self.flatten(out, f"{where}.{i}", v)
        else:
            out[where] = value

    def rows_since(self, mark):
        return [r for r in self.audits() if r["id"] > mark]

    def newest(self):
        return self.admin.get("/audits?limit=1&order=id&sort=desc").data[0]["id"]

    # ---- the walk ----

    def assert_recorded(self, who, refused, rows):
        """Each has one record, which tells of it."""
        by_id = {}
        for r in rows:
            if r["name"] == "accessRefused":
                by_id.setdefault(r["requestId"].lower(), []).append(r)
        for op, reply in refused:
            row, = by_id[reply.headers["X-Request-Id"].lower()]
            self.assertTrue(row["message"].startswith(f"{op.label} refused: "), row)
            self.assertEqual((row["source"], row["sourceIp"], row["severity"], row["eventId"]),
                             (who.name, "127.0.0.1", "alert", "AA30"), row)

    def assert_walk(self, who):
        """All that is refused, then all that is allowed; nothing comes of either."""
        self.settle()
        mark, before = self.newest(), self.snapshot()
        refused = []
        for op in self.ops:
            status = who.refusal(op)
            if status and not (who.is_service and op.permission == "self"):
                reply = self.assert_refused(op.ask_for_it(who.client), status)
                refused.append((op, reply))
        wait_for("the records of the refused", lambda: sum(
            r["name"] == "accessRefused" for r in self.rows_since(mark)) >= len(refused))
        self.assert_recorded(who, refused, self.rows_since(mark))
        for op in self.ops:
            if who.refusal(op) is None and not (who.is_service and op.permission == "self"):
                reply = op.ask_in_vain(who.client)
                if op.permission == "open":
                    self.assertEqual(reply.status, 400)
                self.assertNotIn(reply.status, (401, 403), f"{op.label}: {reply!r}")
                self.assertLess(reply.status, 500, f"{op.label}: {reply!r}")
        after = self.snapshot()
        self.assertEqual({k: (before.get(k), after.get(k)) for k in {*before, *after}
                          if before.get(k) != after.get(k)}, {})
        self.assertLessEqual({r["name"] for r in self.rows_since(mark)}, {"accessRefused"})

    def begin(self):
        """A gateway that has refused nothing: else a thousand refusals in a minute are
        counted together (gateway/refusal_table.h)."""
        self.restart("gateway")
        self.wait_daemons()

    def walk(self, *everybody):
        for who in everybody:
            with self.subTest(who=who.name or str(who.client.token)[-8:]):
                self.begin()
                self.assert_walk(who)

    def test_the_permission_of_each_operation_is_the_one_of_its_path(self):
        faults = [f"{op.label}: {op.permission}, not {permission_of(op.method, op.path)}"
                  for op in self.ops if op.permission != permission_of(op.method, op.path)]
        self.assertEqual(faults, [])
        for op in self.ops:
            self.assertIn(op.spec["x-audit"], ("none", "change"), op.label)
            if op.method != "GET" and "direct-read" not in op.path:
                self.assertEqual(op.spec["x-audit"], "change", op.label)

    def test_permissions_are_those_of_the_contract(self):
        with open(os.path.join(harness.ROOT, "proto", "permissions.yaml"), encoding="utf-8") as f:
            declared = yaml.safe_load(f)
        wanted = [{k: p[k] for k in ("id", "name", "description")} for p in declared]
        self.assertEqual(self.assert_ok(self.admin.get("/permissions")).data, wanted)
        self.assertEqual(self.admin.get("/users/me").data["permissions"], [p["id"] for p in declared])

    def test_a_change_is_seen_by_the_walk(self):
        self.settle()
        before, mark = self.snapshot(), self.newest()
        self.assert_ok(self.admin.put("/users/me", {"description": "changed"}))
        self.assertNotEqual(self.snapshot(), before)
        wait_for("its record", lambda: "accountUpdate" in
                 {r["name"] for r in self.rows_since(mark)})

    def test_until_the_first_password_is_changed_only_the_own_account_opens(self):
        for op, reply in self.first_refused:
            self.assert_refused(reply, 403, word="password must be changed")
        for op, reply in self.first_allowed:
            self.assertNotIn(reply.status, (401, 403), f"{op.label}: {reply!r}")
        self.assertEqual({op.spec["operationId"] for op, _ in self.first_allowed}, {
            "deleteAuth", "getAuth", "getPasswordPolicy", "getUsersMe", "postAuth", "putUsersMe",
            "putUsersMePassword"})
        rows = self.audits(names="accessRefused")
        self.assert_recorded(Who(None, (), "admin"), self.first_refused, rows)

    def test_nobody_gets_past_sign_in(self):
        ended = self.add_user("ended", "SYS_ACCOUNT_RW")
        self.assert_ok(ended.client.delete("/auth"), 204)
        thrown_out = self.add_user("thrown-out", "SYS_ACCOUNT_RW")
        session = claims(thrown_out.client.token)["SessionID"]
        self.assert_ok(self.admin.delete(f"/sessions/{session}"), 204)
        tokens = [None, "no-token-at-all", ended.client.token, thrown_out.client.token,
                  *forged(self.admin.token)]
        self.walk(*[Who(Client(self.fleet, token=t), None) for t in tokens])

    def test_a_session_that_grew_too_old_or_idle_opens_nothing(self):
        self.walk(*[Who(who.client, None) for who in (self.old, self.idle)])

    def test_each_permission_opens_its_operations_and_no_others(self):
        for permission in self.everything:
            self.walk(self.add_user(permission.lower(), permission))

    def test_an_administrator_may_do_everything(self):
        admin = Who(self.admin, self.everything, "admin")
        self.assertEqual([op.label for op in self.ops if admin.refusal(op)], [])
        self.walk(admin)

    def test_a_changed_role_opens_and_closes_at_once(self):
        who = self.add_user("changed", "APP_MQTT_RW")
        self.begin()
        self.assert_ok(who.client.get("/mqtt"))
        self.assert_ok(self.admin.put(f"/roles/{who.role}",
                                      {"permissions": ["SYS_MANAGEMENT_RW", "APP_MODBUS_RW"]}))
        who.holds = ("SYS_MANAGEMENT_RW", "APP_MODBUS_RW")
        self.assert_walk(who)
        other = self.add_role("SYS_MAINTENANCE_RW")
        self.begin()
        self.assert_ok(who.client.get("/tags/list"))
        self.assert_ok(self.admin.put(f"/users/{who.id}", {"roles": [{"id": other}]}))
        who.holds = ("SYS_MAINTENANCE_RW",)
        self.assert_walk(who)

    def test_a_deactivated_and_a_deleted_account_open_nothing(self):
        for word, change in (
                ("deactivated", lambda w: self.admin.put(f"/users/{w.id}", {"isActive": False})),
                ("deleted", lambda w: self.admin.delete(f"/users/{w.id}"))):
            who = self.add_user(word, *self.everything)
            self.begin()
            self.assert_ok(who.client.get("/users"))
            self.assertIn(change(who).status, (200, 204))
            self.assert_walk(Who(who.client, None))

    def settle(self):
        """The records of what was changed just now are there."""
        reply = self.admin.put("/users/me", {"description": str(time.monotonic())})
        wait_for("the record", lambda: any(r["requestId"] == reply.headers["X-Request-Id"]
                                           for r in self.audits(names="accountUpdate")))

    def test_a_short_lived_token_may_do_what_its_session_may_but_make_others(self):
        token = self.assert_ok(self.admin.put("/auth/websocket-token")).data["token"]
        self.walk(Who(Client(self.fleet, token=token), self.everything, "admin", is_derived=True))

    def test_a_service_account_may_do_what_it_was_given(self):
        reply = self.assert_ok(self.admin.post("/azure-iotedge/services", {
            "name": "walker", "displayName": "Walker", "source": "AzureIoTEdge",
            "required": ["APP_MQTT_RW", "SYS_MANAGEMENT_RW"]}))
        token = reply.data["token"]
        who = Who(Client(self.fleet, token=token), ("APP_MQTT_RW", "SYS_MANAGEMENT_RW"),
                  claims(token)["Name"], is_service=True)
        self.begin()
        self.assert_walk(who)
        self.assert_ok(self.admin.delete("/azure-iotedge/services/walker"), 204)
        self.begin()
        self.assert_walk(Who(who.client, None))
