"""The gateway alone: authd and the services are stand-ins on the bus."""
import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import socket
import struct
import sys
import threading
import time

import buspeer
import harness
from buspeer import Server, fnv1a, reply
from harness import wait_for
from onedaemon import ALL_RIGHTS, OneDaemon

HERE = os.path.dirname(os.path.abspath(__file__))
STREAM_IDS = itertools.count(99)


class Client(harness.Client):
    """The stand-ins answer what the contract does not know."""

    @staticmethod
    def check(method, path, got, data):
        pass


class FakeAuthd:
    """Handler of a fake authd: .grants is {token: members of the answer}.

    .mode is answer, mute, fail (500) or nonsense.
    """

    def __init__(self):
        self.mode, self.grants, self.epoch = "answer", {}, 1
        self.held = None  # (token, Event): answers for it wait
        self.nonsense = b"{"

    def grant(self, token, **members):
        self.grants[token] = {"kind": "user", "userId": 1, "sessionId": 11,
                              "permissions": str(ALL_RIGHTS), "name": "admin",
                              "mustChange": False,
                              "validUntil": int((time.time() + 3600) * 1e6), **members}

    def __call__(self, r):
        if r.op == buspeer.AUTH_TOUCH:
            return reply(r.id)
        if r.op != buspeer.AUTH_CHECK:
            return reply(r.id, 404)
        grant, epoch = self.grants.get(r.json["token"]), self.epoch
        if self.held and self.held[0] == r.json["token"]:
            self.held[1].wait(30)
        if self.mode == "mute":
            return None
        if self.mode == "fail":
            return reply(r.id, 500)
        if self.mode == "nonsense":
            return reply(r.id, 200, self.nonsense, buspeer.JSON)
        if grant is None:
            return reply(r.id, 401, {"epoch": epoch})
        return reply(r.id, 200, {"epoch": epoch, **grant})


class Gateway(OneDaemon):
    name = "gateway"

    @classmethod
    def prepare(cls):
        cls.rights = FakeAuthd()
        cls.rights.grant("admin-token")
        cls.authd = cls.stand_in("authd", cls.rights)
        cls.cloudd = cls.stand_in("cloudd", cls.empty)
        cls.tagd = cls.stand_in("tagd", cls.empty)

    @classmethod
    def begin(cls):
        cls.anyone = Client(cls.fleet)
        cls.admin = cls.anyone.with_token("admin-token")
        for path in ("/mqtt", "/tags/list"):
            wait_for(path, lambda p=path: cls.admin.get(p).status == 200)

    @staticmethod
    def empty(r):
        return reply(r.id, 200, {"data": []})

    def setUp(self):
        self.rights.mode, self.rights.held = "answer", None
        self.cloudd.handler = self.tagd.handler = self.empty
        # a number of its own for each test: nothing of an earlier one is cached
        self.token = f"token-of-{self.id().rsplit('.', 1)[1]}"
        self.rights.grant(self.token)
        self.client = self.anyone.with_token(self.token)

    def refused(self, got, status, retry=None):
        self.assertEqual(got.status, status, repr(got))
        self.assertTrue(got.json["error"]["message"], repr(got))
        self.assertIn("application/json", got.headers["Content-Type"])
        self.assertEqual(got.headers["Retry-After"] is not None,
                         status == 503 if retry is None else retry)
        return got

    def checks(self, token=None):
        return len([r for r in self.authd.asked_for(buspeer.AUTH_CHECK)
                    if r.json["token"] == (token or self.token)])

    def hold_check(self):
        """Answers for the test's own token wait until the event is set."""
        free = threading.Event()
        self.rights.held = self.token, free
        self.addCleanup(free.set)
        return free

    def forget(self, **what):
        if "epoch" not in what:
            self.rights.epoch += 1
            what["epoch"] = self.rights.epoch
        got = self.tell(buspeer.AUTH_FORGET, what)
        self.assertEqual(got.status, 200)

    # ---- sign-in ----

    def test_without_a_good_token_nothing_is_asked_of_a_service(self):
        n = len(self.cloudd.asked)
        self.refused(self.anyone.get("/mqtt"), 401)
        self.refused(self.anyone.with_token("unknown").get("/mqtt"), 401)
        for header in ("Bearer", "Bearer ", "Basic YTpi", "bearer", "x" * 5000,
                       "Bearer " + "x" * 4097, "Bearer a b", "Bearer \x01"):
            got = self.anyone.get("/mqtt", headers={"Authorization": header})
            self.assertIn(got.status, (400, 401, 431), header[:20])
        self.assertEqual(len(self.cloudd.asked), n)

    def test_the_service_is_told_who_asks_as_authd_said_and_never_by_the_client(self):
        self.rights.grant(self.token, userId=2**53 - 1, sessionId=77, name="Ünsal",
                          permissions=str(1 << 5 | 1 << 40))
        got = self.client.get("/mqtt", headers={"X-Forwarded-For": "203.0.113.1",
                                                "X-Request-Id": "0123456789abcdef"})
        self.assertEqual(got.status, 200)
        r = self.cloudd.asked[-1]
        self.assertEqual(r.who, (buspeer.WHO_USER, 2**53 - 1, 77, 1 << 5 | 1 << 40, "Ünsal",
                                 "127.0.0.1"))
        self.assertEqual((r.kind, r.op), (buspeer.KIND_API, fnv1a("getMqttClients")))
        left = r.deadline_us / 1e6 - time.monotonic()
        self.assertTrue(0 < left < 5, left)

    def test_the_request_id_of_the_answer_is_that_of_the_bus(self):
        seen = set()
        for _ in range(20):
            got = self.client.get("/mqtt", headers={"X-Request-Id": "0123456789abcdef"})
            self.assertRegex(got.headers["X-Request-Id"], "^[0-9a-f]{16}$")
            self.assertEqual(int(got.headers["X-Request-Id"], 16), self.cloudd.asked[-1].id)
            seen.add(got.headers["X-Request-Id"])
        self.assertEqual(len(seen), 20)
        self.assertNotIn("0123456789abcdef", seen)
        self.assertTrue(self.anyone.get("/nothing").headers["X-Request-Id"])

    def test_a_good_token_is_asked_for_once_in_either_header(self):
        for carrier in ("bearer", "mx"):
            client = self.anyone.with_token(self.token, carrier)
            for _ in range(5):
                self.assertEqual(client.get("/mqtt").status, 200)
        self.assertEqual(self.checks(), 1)

    def test_a_slow_check_is_waited_for_and_others_are_served_meanwhile(self):
        free, answered = self.hold_check(), []
        t = threading.Thread(target=lambda: answered.append(self.client.get("/mqtt").status))
        t.start()
        wait_for("the question", self.checks)
        for _ in range(20):
            self.assertEqual(self.admin.get("/mqtt").status, 200)
        self.assertEqual(answered, [])
        free.set()
        t.join(10)
        self.assertEqual(answered, [200])

    def test_an_authd_that_cannot_tell_is_503_and_nobody_is_let_in(self):
        n = len(self.cloudd.asked)
        self.rights.mode = "mute"
        self.refused(self.client.get("/mqtt"), 503)
        self.rights.mode = "fail"
        self.refused(self.client.get("/mqtt"), 503)
        self.rights.mode = "nonsense"
        good = {"epoch": 1, **self.rights.grants[self.token]}
        without = [{k: v for k, v in good.items() if k != out}
                   for out in ("epoch", "kind", "userId", "permissions", "name", "validUntil")]
        for answer in (b"", b"{", b"[]", b"null", b"\xff", *without,
                       dict(good, kind="daemon"), dict(good, permissions=7),
                       dict(good, permissions="-1"), dict(good, permissions="x"),
                       dict(good, userId="1"), dict(good, name="x" * 66),
                       dict(good, name=None), dict(good, validUntil="soon")):
            self.rights.nonsense = answer if isinstance(answer, bytes) \
                else json.dumps(answer).encode()
            self.refused(self.client.get("/mqtt"), 503)
        self.assertEqual(len(self.cloudd.asked), n)
        self.rights.mode = "answer"
        self.assertEqual(self.client.get("/mqtt").status, 200)

    def test_a_token_past_its_end_is_asked_for_again(self):
        self.rights.grant(self.token, validUntil=int((time.time() + 1) * 1e6))
        self.assertEqual(self.client.get("/mqtt").status, 200)
        wait_for("its end", lambda: self.client.get("/mqtt").status == 200
                 and self.checks() > 1)
        self.rights.grants.pop(self.token)
        wait_for("401", lambda: self.client.get("/mqtt").status == 401)

    def test_who_must_change_the_password_may_only_do_that(self):
        self.rights.grant(self.token, mustChange=True, permissions="0")
        self.rights.epoch += 1
        self.refused(self.client.get("/mqtt"), 403)
        own = self.authd.asked_for(fnv1a("getUsersMe"))
        self.assertEqual(self.client.get("/users/me").status, 404)  # as the fake says
        self.assertEqual(len(self.authd.asked_for(fnv1a("getUsersMe"))), len(own) + 1)

    # ---- forgetting ----

    def test_after_an_answered_forget_no_request_is_served_by_memory(self):
        for what in ({"all": True}, {"userId": 1}, {"sessionId": 11}):
            self.assertEqual(self.client.get("/mqtt").status, 200)
            grant = self.rights.grants.pop(self.token)
            self.assertEqual(self.client.get("/mqtt").status, 200)  # from memory
            self.forget(**what)
            self.refused(self.client.get("/mqtt"), 401)
            self.rights.grants[self.token] = grant
            self.forget(**what)  # refusals are forgotten too
        self.assertEqual(self.client.get("/mqtt").status, 200)

    def test_forgetting_one_keeps_the_others(self):
        self.rights.grant("other-token", userId=2, sessionId=22)
        other = self.anyone.with_token("other-token")
        for c in (self.client, other):
            self.assertEqual(c.get("/mqtt").status, 200)
        mine, theirs = self.checks(), self.checks("other-token")
        self.forget(userId=2)
        for c in (self.client, other):
            self.assertEqual(c.get("/mqtt").status, 200)
        self.assertEqual((self.checks(), self.checks("other-token")), (mine, theirs + 1))
        self.forget(sessionId=11)
        for c in (self.client, other):
            self.assertEqual(c.get("/mqtt").status, 200)
        self.assertEqual((self.checks(), self.checks("other-token")), (mine + 1, theirs + 1))

    def test_service_accounts_are_forgotten_one_by_one(self):
        clients = {}
        for user in (-1, -2):
            self.rights.grant(f"service{user}", kind="service", userId=user, sessionId=0,
                              name=f"AzureIoTEdge/app{-user}")
            clients[user] = self.anyone.with_token(f"service{user}")
            self.assertEqual(clients[user].get("/mqtt").status, 200)
        asked = self.cloudd.asked[-1].who
        self.assertEqual((asked[:3], asked[4]), ((buspeer.WHO_SERVICE, -2, 0), "AzureIoTEdge/app2"))
        for user in (-1, -2):
            self.rights.grants.pop(f"service{user}")
        self.forget(userId=-1)
        self.refused(clients[-1].get("/mqtt"), 401)
        self.assertEqual(clients[-2].get("/mqtt").status, 200)
        self.forget(sessionId=11)
        self.forget(userId=1)
        self.assertEqual(clients[-2].get("/mqtt").status, 200)
        self.forget(userId=-2)
        self.refused(clients[-2].get("/mqtt"), 401)

    def test_a_stream_of_a_service_account_ends_with_it_and_counts_for_it_alone(self):
        self.events_from([b"data:1\n\n"], end=False)
        streams = {}
        for user, n in ((-1, 56), (-2, 1)):
            self.rights.grant(f"streams{user}", kind="service", userId=user, sessionId=0,
                              name=f"AzureIoTEdge/app{-user}")
            client = self.anyone.with_token(f"streams{user}")
            streams[user] = [client.stream("/tags/monitor/a/b?onChanged") for _ in range(n)]
            for s in streams[user]:
                self.addCleanup(s.close)
            self.assertEqual([s.status for s in streams[user]], [200] * n)
        more = self.anyone.with_token("streams-1").stream("/tags/monitor/a/b?onChanged")
        self.addCleanup(more.close)
        self.assertEqual(more.status, 503)
        self.rights.grants.pop("streams-1")
        self.forget(userId=-1)
        wait_for("their end", lambda: all(s.ended for s in streams[-1]))
        self.assertEqual({s.ended for s in streams[-1]}, {"clean"})
        self.assertIsNone(streams[-2][0].ended)

    def test_an_answer_from_before_a_forget_is_not_used(self):
        """authd answered with the old rights, but the answer was on its way for long."""
        for what in ({"userId": 1}, {"sessionId": 11}, {"all": True}):
            self.rights.grant(self.token)
            self.forget(all=True)
            free, answered = self.hold_check(), []
            n = self.checks()
            t = threading.Thread(target=lambda a=answered: a.append(
                self.client.get("/mqtt").status))
            t.start()
            wait_for("the question", lambda k=n: self.checks() > k)
            self.rights.grants.pop(self.token)
            self.forget(**what)
            asked = len(self.cloudd.asked)
            free.set()
            t.join(10)
            self.assertEqual(answered, [401], what)
            self.assertEqual(self.checks(), n + 2)
            self.assertEqual(len(self.cloudd.asked), asked)

    def test_a_forget_that_says_nothing_is_refused(self):
        for body in (b"", b"{", {}, {"epoch": 1}, {"all": True}, {"epoch": "x", "all": True},
                     {"epoch": 5, "userId": 0}, {"epoch": 5, "userId": "1"},
                     {"epoch": 5, "all": False}):
            self.assertEqual(self.tell(buspeer.AUTH_FORGET, body).status, 400, body)
        self.alive()

    # ---- routes and rights ----

    def test_each_route_needs_its_permission_and_goes_to_its_daemon(self):
        with open(f"{harness.BUILD}/gen/openapi.json", encoding="utf-8") as f:
            paths = json.load(f)["paths"]
        with open(f"{harness.ROOT}/proto/permissions.yaml", encoding="utf-8") as f:
            bits = {id_: int(bit) for bit, id_ in re.findall(r"bit: (\d+), id: (\w+)", f.read())}
        servers = {"authd": self.authd, "cloudd": self.cloudd, "tagd": self.tagd}
        for name in ("auditd", "iod", "modbusd", "sysd"):
            servers[name] = Server(self.socket(name), self.empty)
            self.addCleanup(servers[name].stop)
        fresh = lambda name, permissions: self.rights.grant(
            f"{name}-token", permissions=str(permissions)) or \
            self.anyone.with_token(f"{name}-token")
        none = fresh("none", 0)
        self.rights.grant("first-token", permissions="0", mustChange=True)
        first = self.anyone.with_token("first-token")
        self.rights.grant("derived-token", derived=True)
        derived = self.anyone.with_token("derived-token")
        self.rights.grant("service-token", kind="service", userId=-1, sessionId=0,
                          permissions="0", name="AzureIoTEdge/x")
        service = self.anyone.with_token("service-token")
        wait_for("auditd", lambda: fresh("a", 1 << bits["SYS_MAINTENANCE_RW"])
                 .get("/audits").status == 200)
        wait_for("modbusd", lambda: fresh("m", 1 << bits["APP_MODBUS_RW"])
                 .get("/modbusmaster/config/tcp-masters").status == 200)
        wait_for("iod", lambda: fresh("a", 1 << bits["SYS_MAINTENANCE_RW"])
                 .get("/device/serials").status == 200)
        wait_for("sysd", lambda: fresh("a", 1 << bits["SYS_MAINTENANCE_RW"])
                 .get("/system/httpserver").status == 200)
        seen = 0
        for template, methods in paths.items():
            for method, op in methods.items():
                path = re.sub(r"\{\w+\}", "1", template)
                server = servers[op["x-daemon"]]
                id_ = fnv1a(op["operationId"])
                ask = lambda c, m=method, p=path: c.request(
                    m.upper(), p, raw=None if m in ("get", "delete") else b"{}")
                need = op["x-permission"]
                before = len(server.asked_for(id_))
                if need in ("open", "token", "self", "session"):
                    if need != "open":
                        self.refused(ask(self.anyone), 401)
                    if need in ("token", "session"):
                        self.refused(ask(first), 403)
                    if need == "session":
                        self.refused(ask(derived), 403)
                        self.refused(ask(service), 403)
                    self.assertEqual(len(server.asked_for(id_)), before)
                    ask({"open": self.anyone, "token": service, "self": first,
                         "session": none}[need])
                else:
                    self.refused(ask(self.anyone), 401)
                    self.refused(ask(none), 403)
                    self.refused(ask(fresh(f"but-{need}", (1 << 63) - 1 & ~(1 << bits[need]))),
                                 403)
                    self.assertEqual(len(server.asked_for(id_)), before, op["operationId"])
                    ask(fresh(f"only-{need}", 1 << bits[need]))
                asked = server.asked_for(id_)[before:]
                self.assertEqual(len(asked), 1, (method, path))
                self.assertEqual(asked[0].path, ["1"] * template.count("{"))
                seen += 1
        self.assertGreater(seen, 80)

    def test_path_and_query_values_arrive_decoded_and_in_order(self):
        got = self.client.get("/tags/monitor/a%20b/%C3%BC?tags=x%2Cy&onChanged&source=%26")
        self.assertEqual(got.status, 200)
        r = self.tagd.asked[-1]
        self.assertEqual((r.path, r.query), (["a b", "ü"], [
            ("tags", "x,y"), ("onChanged", None), ("source", "&")]))
        n = len(self.tagd.asked)
        for bad in ("a%2Fb/c", "a/%00", "a/%ff", "a/%", "a/%zz", "../a", "a/%2e%2e"):
            self.assertIn(self.client.get(f"/tags/monitor/{bad}").status, (400, 404), bad)
        self.assertEqual(len(self.tagd.asked), n)

    def test_a_body_too_large_is_refused_and_one_that_fits_arrives_untouched(self):
        body = b'{"a":"' + b"\xc3\xbc" * 20000 + b'"}'
        self.assertEqual(self.client.post("/mqtt", raw=body).status, 200)
        self.assertEqual(self.cloudd.asked[-1].body, body)
        n = len(self.cloudd.asked)
        self.refused(self.client.post("/mqtt", raw=b"x" * 262145), 413)
        self.assertEqual(len(self.cloudd.asked), n)

    # ---- what services answer ----

    def answers(self, *args, **more):
        self.cloudd.handler = lambda r: reply(r.id, *args, **more)
        return self.client.get("/mqtt")

    def test_statuses_bodies_and_retry_after_are_passed_on(self):
        for status in (200, 201, 202, 400, 401, 403, 404, 409, 422, 429, 500, 503, 504, 507):
            body = json.dumps({"n": status, "t": "ü"}).encode()
            got = self.answers(status, body, buspeer.JSON)
            self.assertEqual((got.status, got.body), (status, body))
            self.assertTrue(got.headers["Content-Type"].startswith("application/json"))
            self.assertIsNone(got.headers["Retry-After"])
        for seconds in (1, 60, 2**32 - 1):
            self.assertEqual(self.answers(503, {}, retry_after=seconds).headers["Retry-After"],
                             str(seconds))
        got = self.answers(204)
        self.assertEqual((got.status, got.body), (204, b""))
        got = self.answers(200, bytes(range(256)), content_type="application/x-y; a=b")
        self.assertEqual((got.body, got.headers["Content-Type"]),
                         (bytes(range(256)), "application/x-y; a=b"))

    def test_a_status_that_http_does_not_have_is_500(self):
        for status in (0, 1, 99, 100, 101, 199, 600, 999, 65535):
            self.refused(self.answers(status, {}), 500)
            self.spool("f", b"x")
            self.refused(self.answers(status, b"f", buspeer.FILE), 500)
        os.unlink(f"{self.fleet.run}/spool/f")  # else it stays until the sweep
        self.assertEqual(self.answers(200, {}).status, 200)

    def test_an_answer_without_a_body_by_its_status_does_not_spoil_the_connection(self):
        for status in (204, 304):
            got = self.answers(status, b'{"left":"over"}', buspeer.JSON)
            self.assertEqual((got.status, got.body), (status, b""))
            self.assertEqual(self.client.get("/nothing").status, 404)
        self.cloudd.handler = lambda r: reply(r.id, 200, {"a": 1})
        got = self.client.request("HEAD", "/mqtt")
        self.assertEqual((got.status, got.body, got.headers["Content-Length"]), (200, b"", "8"))
        path = self.spool("head", b"bytes")
        self.cloudd.handler = lambda r: reply(r.id, 200, b"head", buspeer.FILE)
        got = self.client.request("HEAD", "/mqtt")
        self.assertEqual((got.status, got.body, got.headers["Content-Length"]), (200, b"", "5"))
        self.assertFalse(os.path.exists(path))
        self.assertEqual(self.client.get("/nothing").status, 404)

    def test_what_did_not_fit_beside_others_is_asked_for_again_alone_and_not_for_ever(self):
        asked = []

        def once(r):
            asked.append(r.id)
            return reply(r.id, 200, flags=2) if len(asked) == 1 else reply(r.id, 200, {"n": 2})
        self.cloudd.handler = once
        self.assertEqual(self.client.get("/mqtt").json, {"n": 2})
        self.assertEqual(len(asked), 2)
        n = len(self.cloudd.asked)
        self.cloudd.handler = lambda r: reply(r.id, 200, flags=2)
        got = self.client.get("/mqtt")
        self.assertIn(got.status, (500, 502, 504), got)
        self.assertLess(got.took, 5 + harness.AT_ONCE)
        self.assertLess(len(self.cloudd.asked) - n, 10)
        self.assertIn(self.client.delete("/mqtt/1").status, (500, 502, 504))

    def test_a_service_cannot_add_header_lines(self):
        got = self.answers(200, b"x", content_type="text/plain\r\nX-Evil: 1\r\n\r\nbody")
        self.assertEqual((got.status, got.headers["X-Evil"], got.body), (200, None, b"x"))
        self.spool("f", b"y")
        got = self.answers(200, b"f", buspeer.FILE, content_type="a/b\r\nX-Evil: 1",
                           file_name='a"\r\nX-Evil: 1\r\n\r\nz')
        self.assertEqual((got.status, got.headers["X-Evil"], got.body), (200, None, b"y"))

    def spool(self, name, data):
        path = f"{self.fleet.run}/spool/{name}"
        with open(path, "wb") as f:
            f.write(data)
        return path

    def test_a_file_is_sent_and_gone_from_the_spool(self):
        for data in (b"", b"x", os.urandom(3000000)):
            path = self.spool("export-1", data)
            got = self.answers(200, b"export-1", buspeer.FILE, content_type="application/gzip",
                               file_name="export.tgz")
            self.assertEqual(got.status, 200)
            self.assertEqual(got.body, data)
            self.assertEqual(got.headers["Content-Length"], str(len(data)))
            self.assertEqual(got.headers["Content-Type"], "application/gzip")
            self.assertEqual(got.headers["Content-Disposition"],
                             'attachment; filename="export.tgz"')
            self.assertFalse(os.path.exists(path))

    def test_a_name_that_is_no_file_of_the_spool_is_500_and_nothing_is_removed(self):
        secret = os.path.join(self.fleet.run, "secret")
        with open(secret, "wb") as f:
            f.write(b"secret")
        os.symlink(secret, f"{self.fleet.run}/spool/link")
        os.mkdir(f"{self.fleet.run}/spool/dir")
        for name in (b"", b".", b"..", b"../secret", secret.encode(), b"link", b"dir", b"missing",
                     b"a/b", b"x" * 300, b"../secret\0", b"link\0x", b"\xff"):
            got = self.answers(200, name, buspeer.FILE)
            self.refused(got, 500)
            self.assertNotIn(b"secret", got.body)
        self.assertTrue(os.path.exists(secret))

    def test_an_answer_that_cannot_be_read_is_500_and_the_next_one_is_served(self):
        whole = buspeer.message(reply(0, 200, {"a": 1}))
        stranger = buspeer.message(reply(1, 200, {"data": "of somebody else"}))
        n_bad = 0
        for raw in (b"", b"F", b"FG\x02\0\1", b"FG\x01\0\0", whole[:-1], whole + b"x",
                    b"FG\x01\0\2" + whole[5:], b"FG\x01\0\1" + b"\xff" * 4,
                    b"FG\x01\xff\xff" + whole[5:], os.urandom(300), b"\0" * 70000, stranger):
            self.cloudd.handler = lambda r, d=raw: Server.Raw(d)
            for path, method in (("/mqtt", "GET"), ("/mqtt/1", "DELETE")):
                got = self.client.request(method, path)
                self.assertIn(got.status, (500, 502, 503), (raw[:20], method))
                self.assertTrue(got.json["error"]["message"])
                self.assertNotIn(b"somebody", got.body)
                n_bad += 1
            self.cloudd.handler = self.empty
            wait_for("a good answer", lambda: self.client.get("/mqtt").status == 200)
        for kind in (5, 9, 255):
            self.refused(self.answers(200, b"x", kind), 500)
        self.refused(self.answers(200, b"short", buspeer.STREAM), 500)
        self.assertEqual(self.answers(200, {}).status, 200)
        self.alive()

    def test_messages_that_nobody_asked_for_are_dropped(self):
        pipe, = self.cloudd.pipes
        for data in (b"", b"x", struct.pack(">I", 0x80000001) + buspeer.message(reply(1)),
                     struct.pack(">I", 1) + b"x", os.urandom(100)):
            with contextlib.suppress(OSError):
                pipe.frame(data)
        wait_for("a good answer", lambda: self.client.get("/mqtt").status == 200)
        self.alive()

    # ---- services that are away, slow, silent ----

    def test_a_service_that_is_away_is_503_at_once_and_no_other_notices(self):
        self.assertEqual(self.client.get("/mqtt").status, 200)
        self.cloudd.stop()
        wait_for("503", lambda: self.client.get("/mqtt").status == 503)
        for method, path, raw in (("GET", "/mqtt", None), ("POST", "/mqtt", b"{}"),
                                  ("DELETE", "/mqtt/1", None)):
            got = self.refused(self.client.request(method, path, raw=raw), 503)
            self.assertLess(got.took, harness.AT_ONCE)
            got = self.client.get("/tags/list")
            self.assertEqual(got.status, 200)
            self.assertLess(got.took, harness.AT_ONCE)
        got = self.refused(self.client.get("/modbusmaster/config/tcp-masters"), 503)  # never was
        self.assertLess(got.took, harness.AT_ONCE)
        self.cloudd.start()
        wait_for("its return", lambda: self.client.get("/mqtt").status == 200)

    def test_a_service_that_dies_under_a_request_is_503_and_nothing_is_sent_twice(self):
        id_ = fnv1a("postMqttClient")
        n = len(self.cloudd.asked_for(id_))
        self.cloudd.handler = lambda r: self.cloudd.drop() if r.op == id_ else self.empty(r)
        self.refused(self.client.post("/mqtt", raw=b"{}"), 503)
        wait_for("its return", lambda: self.client.get("/mqtt").status == 200)
        self.assertEqual(len(self.cloudd.asked_for(id_)), n + 1)

    def assert_served_meanwhile(self, path):
        end, worst = time.monotonic() + 2, 0
        while time.monotonic() < end:
            got = self.admin.get(path)
            self.assertEqual(got.status, 200)
            worst = max(worst, got.took)
        self.assertLess(worst, harness.AT_ONCE)

    def test_a_service_that_never_answers_is_504_at_the_deadline_and_others_go_on(self):
        late, held, answered = [], threading.Event(), []
        self.addCleanup(held.set)

        def mute(r):
            late.append(r.id)
            held.wait(30)
            return reply(r.id, 200, {"data": "too late"})
        self.cloudd.handler = mute
        ask = lambda method, path, raw=None: answered.append(
            self.anyone.with_token(self.token).request(method, path, raw=raw))
        threads = [threading.Thread(target=ask, args=a) for a in (
            ("GET", "/mqtt"), ("GET", "/mqtt/1"), ("POST", "/mqtt", b"{}"),
            ("DELETE", "/mqtt/1"))]
        for t in threads:
            t.start()
        wait_for("the questions", lambda: len(late) >= 3)
        self.assert_served_meanwhile("/tags/list")
        for t in threads:
            t.join(15)
        self.assertEqual(len(answered), 4)
        for got in answered:
            self.refused(got, 504)
            self.assertTrue(4 < got.took < 5 + harness.AT_ONCE, got.took)
        # the late answers come now, and are nobody's
        self.cloudd.handler = lambda r: reply(r.id, 200, {"data": "in time"})
        held.set()
        for _ in range(20):
            for method in ("GET", "DELETE"):
                self.assertEqual(self.client.request(method, "/mqtt/1").data, "in time")

    def test_a_stopped_service_is_504_and_others_go_on(self):
        path = self.socket("auditd")
        process = self.fleet.spawn([sys.executable, f"{HERE}/fakeservice.py", path])
        self.addCleanup(process.kill)
        wait_for("auditd", lambda: self.client.get("/audits").status == 200)
        os.kill(process.pid, signal.SIGSTOP)
        answered = []
        threads = [threading.Thread(target=lambda: answered.append(
            self.anyone.with_token(self.token).get("/audits/profile"))) for _ in range(4)]
        for t in threads:
            t.start()
        self.assert_served_meanwhile("/mqtt")
        for t in threads:
            t.join(15 * harness.SLOW)
        self.assertEqual([a.status for a in answered], [504] * 4)
        os.kill(process.pid, signal.SIGCONT)
        wait_for("its return", lambda: self.client.get("/audits").status == 200)
        process.kill()
        process.wait()
        wait_for("503", lambda: self.client.get("/audits").status == 503)

    def test_a_stop_with_requests_under_way_is_in_order(self):
        self.cloudd.handler = lambda r: None
        self.events_from([b"data:1\n\n"], end=False)
        stream = self.client.stream("/tags/monitor/a/b?onChanged")
        stream.wait_event(lambda e: e == 1)
        answered = []
        n = len(self.cloudd.asked)
        t = threading.Thread(target=lambda: answered.append(
            self.anyone.with_token(self.token).post("/mqtt", raw=b"{}").status))
        t.start()
        wait_for("the question", lambda: len(self.cloudd.asked) > n)
        self.assert_stops_in_order(8)  # what is under way may take its time
        t.join(10)
        self.assertEqual(answered, [504])
        wait_for("the end of the stream", lambda: stream.ended)
        stream.close()
        self.cloudd.handler = self.empty
        self.client.close()
        wait_for("its return", lambda: self.client.get("/mqtt").status == 200)

    # ---- uploads ----

    def test_an_upload_is_a_file_of_the_spool_that_the_service_takes(self):
        got_file = {}

        def take(r):
            path = f"{self.fleet.run}/spool/{r.body.decode()}"
            got_file.update(kind=r.body_kind, type=r.content_type, mode=os.stat(path).st_mode)
            with open(path, "rb") as f:
                got_file["data"] = f.read()
            os.unlink(path)
            return reply(r.id, 200, {"data": {}})
        self.cloudd.handler = take
        body = (b'--b1\r\nContent-Disposition: form-data; name="caPkFile"; filename="k.pem"\r\n'
                b"\r\n" + b"\0\xff" * 5000 + b"\r\n--b1--\r\n")
        form = {"Content-Type": "multipart/form-data; boundary=b1"}
        self.assertEqual(self.client.put("/mqtt/1", raw=body, headers=form).status, 200)
        self.assertEqual((got_file["kind"], got_file["type"], got_file["data"]),
                         (buspeer.FILE, form["Content-Type"], body))
        self.assertEqual(got_file["mode"] & 0o007, 0)
        self.refused(self.client.put("/mqtt/1", raw=b"x" * 524289, headers=form), 413)
        # nobody takes it: the gateway removes it
        self.cloudd.handler = lambda r: self.cloudd.drop()
        self.refused(self.client.put("/mqtt/1", raw=body, headers=form), 503)
        left = [f for f in os.listdir(f"{self.fleet.run}/spool") if f not in ("link", "dir")]
        self.assertEqual(left, [])

    # ---- event streams ----

    def events_from(self, blocks, end=True):
        """A service that opens a stream and gives these blocks one by one."""
        self.closed = []
        self.stream_id = id_ = next(STREAM_IDS)

        def serve(r):
            if r.kind == buspeer.KIND_API:
                return reply(r.id, 200, struct.pack(">Q", id_), buspeer.STREAM)
            if r.kind == buspeer.KIND_STREAM_CLOSE:
                self.closed.append(r.id)
                return reply(r.id)
            if r.id != id_:  # of a test before: it is over
                return reply(r.id, 200, flags=1)
            if blocks:
                return reply(r.id, 200, blocks.pop(0))
            if end:
                return reply(r.id, 200, flags=1)
            self.tagd_wait.wait(1)
            return reply(r.id)
        self.tagd_wait = threading.Event()
        self.addCleanup(self.tagd_wait.set)
        self.tagd.handler = serve

    def test_blocks_of_a_stream_arrive_in_order_until_the_service_ends_it(self):
        self.events_from([b"data:%d\n\n" % i for i in range(100)])
        stream = self.client.stream("/tags/monitor/a/b?onChanged")
        self.assertTrue(stream.type.startswith("text/event-stream"))
        wait_for("its end", lambda: stream.ended)
        self.assertEqual(stream.ended, "clean")
        self.assertEqual([e for _, e in stream.events], list(range(100)))
        asked = [r for r in self.tagd.asked if r.kind == buspeer.KIND_STREAM_NEXT][-1]
        self.assertEqual((asked.id, asked.op, asked.who[:3]), (self.stream_id, 0, (1, 1, 11)))
        stream.close()

    def test_a_client_that_leaves_closes_its_stream_at_the_service(self):
        self.events_from([b"data:1\n\n"], end=False)
        stream = self.client.stream("/tags/monitor/a/b?onChanged")
        stream.wait_event(lambda e: e == 1)
        stream.close()
        wait_for("the close", lambda: self.stream_id in self.closed)

    def test_a_stream_of_a_session_that_ended_ends(self):
        self.events_from([b"data:1\n\n"], end=False)
        stream = self.client.stream("/tags/monitor/a/b?onChanged")
        stream.wait_event(lambda e: e == 1)
        self.rights.grants.pop(self.token)
        self.forget(sessionId=11)
        wait_for("its end", lambda: stream.ended)
        self.assertEqual(stream.ended, "clean")
        wait_for("the close", lambda: self.stream_id in self.closed)
        stream.close()

    def test_a_stream_goes_on_when_the_service_comes_back(self):
        self.events_from([b"data:1\n\n"], end=False)
        stream = self.client.stream("/tags/monitor/a/b?onChanged")
        stream.wait_event(lambda e: e == 1)
        self.tagd.stop()
        self.events_from([b"data:2\n\n"], end=False)
        self.tagd.start()
        stream.wait_event(lambda e: e == 2)
        self.assertIsNone(stream.ended)
        stream.close()


class Away(OneDaemon):
    """authd comes and goes; it never spoke to this gateway."""

    name = "gateway"

    def test_without_authd_it_is_503_at_once_and_what_is_known_goes_on(self):
        client = Client(self.fleet).with_token("t")
        service = self.stand_in("cloudd", Gateway.empty)
        for _ in range(5):
            got = client.get("/mqtt")
            self.assertEqual((got.status, got.headers["Retry-After"] is not None), (503, True))
            self.assertLess(got.took, harness.AT_ONCE)
        self.assertEqual(Client(self.fleet).get("/mqtt").status, 401)
        rights = FakeAuthd()
        rights.grant("t")
        authd = self.stand_in("authd", rights)
        wait_for("the sign-in check", lambda: client.get("/mqtt").status == 200)
        authd.stop()
        got = client.with_token("another").get("/mqtt")
        self.assertEqual(got.status, 503)
        self.assertLess(got.took, harness.AT_ONCE)
        n = len(service.asked)
        self.assertEqual(client.get("/mqtt").status, 200)
        self.assertEqual(len(service.asked), n + 1)

    def test_an_authd_that_stalls_does_not_hold_up_who_is_known(self):
        client = Client(self.fleet).with_token("known")
        self.addCleanup(self.stand_in("cloudd", Gateway.empty).stop)
        rights = FakeAuthd()
        rights.grant("known")
        authd = self.stand_in("authd", rights)
        self.addCleanup(authd.stop)
        wait_for("the sign-in check", lambda: client.get("/mqtt").status == 200)
        rights.mode = "mute"
        n = len(authd.asked)

        def asked_again():
            got = client.get("/mqtt")
            self.assertEqual(got.status, 200)
            self.assertLess(got.took, harness.AT_ONCE)
            return len(authd.asked) > n + 1  # it has not spoken: known tokens are checked again
        wait_for("two more checks", asked_again, 20)

    def test_half_a_request_and_a_client_that_leaves_hold_up_nobody(self):
        held = []
        for data in (b"GET /api/v1/mqtt HTTP/1.1\r\nHost: x\r\n", b"POST /api/v1/auth HTTP/1.1\r\n"
                     b"Host: x\r\nContent-Length: 100\r\n\r\n{", b"", b"\x16\x03\x01"):
            s = socket.create_connection(("127.0.0.1", self.fleet.http_port), 5)
            self.addCleanup(s.close)
            s.sendall(data)
            held.append(s)
        conn = http.client.HTTPConnection("127.0.0.1", self.fleet.http_port, timeout=10)
        self.addCleanup(conn.close)
        conn.request("GET", "/api/v1/nothing")
        self.assertEqual(conn.getresponse().status, 404)
        self.alive()
