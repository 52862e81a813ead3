"""What the gateway refuses reaches authd as reports, and what authd makes of these."""
import contextlib
import json
import time

import buspeer
import harness
from buspeer import reply
from harness import Client, wait_for
from onedaemon import GUEST, OneDaemon
from test_gateway import FakeAuthd


class Rights(FakeAuthd):
    """A fake authd that keeps reports, or answers .answer to them."""

    def __init__(self):
        super().__init__()
        self.kept, self.tries, self.answer = [], 0, 200

    def __call__(self, r):
        if r.op != buspeer.AUTH_REFUSED:
            return super().__call__(r)
        self.tries += 1
        if self.answer == 200:
            self.kept += r.json["refused"]
        return reply(r.id, self.answer)


class Reports(OneDaemon):
    name = "gateway"

    @classmethod
    def prepare(cls):
        cls.rights = Rights()
        cls.rights.grant("admin-token")
        cls.rights.grant("guest-token", userId=2, sessionId=22, name="guest", permissions="0")
        cls.authd = cls.stand_in("authd", cls.rights)
        cls.cloudd = cls.stand_in("cloudd", cls.empty)

    @staticmethod
    def empty(r):
        return reply(r.id, 200, {"data": []})

    @classmethod
    def begin(cls):
        cls.anyone = Client(cls.fleet)
        cls.admin, cls.guest = (cls.anyone.with_token(t) for t in ("admin-token", "guest-token"))
        wait_for("cloudd", cls.serves)

    @classmethod
    def serves(cls):
        with contextlib.suppress(harness.Unanswered):
            return cls.admin.get("/mqtt").status == 200
        return False

    def setUp(self):
        """A gateway that has refused nothing yet."""
        self.rights.answer = 200
        self.cloudd.handler = self.empty
        self.daemon.stop()
        self.start_again()
        wait_for("cloudd", self.serves)
        self.rights.kept, self.rights.tries = [], 0

    def reported(self, n):
        return wait_for(f"{n} reported", lambda: len(self.rights.kept) >= n and self.rights.kept)

    def test_a_first_refusal_is_reported_at_once_with_who_where_what_and_why(self):
        got = self.guest.put("/mqtt/7", {})
        self.assertEqual(got.status, 403)
        row, = self.reported(1)
        self.assertAlmostEqual(row.pop("at") / 1e6, time.time(), delta=5 * harness.SLOW)
        self.assertEqual(row, {"source": "guest", "addr": "127.0.0.1", "more": 0,
                               "operation": "PUT /mqtt/{id}", "reason": "permission denied",
                               "requestId": got.headers["X-Request-Id"]})
        for client in (self.anyone, self.anyone.with_token("unknown")):
            self.assertEqual(client.get("/mqtt").status, 401)
        self.assertEqual([(r["source"], r["operation"], r["reason"]) for r in self.reported(3)[1:]],
                         [("", "GET /mqtt", "no token"), ("", "GET /mqtt", "the token is not good")])
        self.assertEqual(self.guest.request("GET", "/metrics", base="").status, 403)
        self.assertEqual(self.reported(4)[3]["operation"], "GET /metrics")

    def test_what_a_daemon_refuses_is_reported_unless_it_says_that_it_recorded_it(self):
        error = {"error": {"code": 403, "message": "the last of its kind"}}
        self.cloudd.handler = lambda r: reply(r.id, 403, error)
        self.assertEqual(self.admin.get("/mqtt").status, 403)
        row, = self.reported(1)
        self.assertEqual((row["source"], row["reason"]), ("admin", "the last of its kind"))
        self.cloudd.handler = lambda r: reply(r.id, 403)  # the bus itself, without a text
        self.assertEqual(self.admin.get("/mqtt").status, 403)
        self.assertEqual(self.reported(2)[1]["reason"], "permission denied")
        self.cloudd.handler = lambda r: reply(r.id, 403, dict(error, error={
            "code": 403, "message": "kept already"}), flags=4)
        self.assertEqual(self.admin.get("/mqtt").status, 403)
        self.cloudd.handler = lambda r: reply(r.id, 404)
        self.assertEqual(self.admin.get("/mqtt").status, 404)
        self.daemon.stop()  # reports all there is
        self.assertEqual(len(self.rights.kept), 2)
        self.start_again()

    def test_a_flood_is_reported_as_few_and_none_is_missing_when_the_gateway_stops(self):
        refused = 0
        for _ in range(300):
            refused += self.anyone.get("/mqtt").status == 401
        self.reported(1)
        for path in [f"/mqtt/{i}" for i in range(300)]:
            refused += self.guest.get(path).status == 403
        self.daemon.stop()
        told = [r["more"] or 1 for r in self.rights.kept]
        self.assertEqual(sorted(told), [1, 1, 299, 299])
        self.assertEqual(sum(told), refused)
        self.start_again()

    def test_reports_wait_for_an_authd_that_is_away_or_cannot_record_now(self):
        self.rights.answer = 503
        for _ in range(3):
            self.assertEqual(self.anyone.get("/mqtt").status, 401)
        wait_for("tries", lambda: self.rights.tries > 2)
        self.assertEqual(self.rights.kept, [])
        self.authd.stop()
        self.assertEqual(self.anyone.get("/tags/list").status, 401)  # needs no authd
        self.rights.answer = 200
        self.authd.start()
        self.assertEqual([r["operation"] for r in self.reported(2)], ["GET /mqtt", "GET /tags/list"])

    def test_a_stop_without_authd_does_not_take_long(self):
        self.authd.stop()
        self.assertEqual(self.anyone.get("/mqtt").status, 401)
        self.assert_stops_in_order(3)
        self.authd.start()


class Records(OneDaemon):
    name = "authd"

    @classmethod
    def prepare(cls):
        cls.audit = cls.fake_auditd()

    def row(self, **members):
        return {"source": "guest", "addr": "192.0.2.8", "operation": "GET /users",
                "reason": "permission denied", "more": 0, "requestId": "00000000000000AB",
                "at": 1700000000000000, **members}

    def report(self, *rows):
        return self.tell(buspeer.AUTH_REFUSED, {"refused": list(rows)}).status

    def test_a_report_becomes_records_through_the_outbox(self):
        self.assertEqual(self.report(
            self.row(), self.row(more=12), self.row(source="", addr="", operation="", more=7)), 200)
        rows = wait_for("the records", lambda: len(self.audit.named("accessRefused")) >= 3
                        and self.audit.named("accessRefused"))
        self.assertEqual([r["message"] for r in rows], [
            "GET /users refused: permission denied",
            "12 more: GET /users refused: permission denied", "7 more requests refused"])
        self.assertEqual({k: rows[0][k] for k in ("source", "addr", "requestId", "at", "detail")},
                         {"source": "guest", "addr": "192.0.2.8", "detail": "",
                          "requestId": "00000000000000ab", "at": 1700000000000000})

    def test_a_report_that_cannot_be_read_is_refused_whole(self):
        n = len(self.audit.named("accessRefused"))
        bad = [{k: v for k, v in self.row().items() if k != out} for out in self.row()]
        bad += [self.row(source=1), self.row(more=-1), self.row(more="1"), self.row(operation=""),
                self.row(requestId="12"), self.row(requestId="x" * 16), self.row(at="now"), 7, None]
        for row in bad:
            self.assertEqual(self.report(self.row(), row), 400, row)
        self.assertEqual(self.report(*[self.row()] * 65), 400)
        for body in (b"", b"{", b"[]", b"null", b'{"refused":7}'):
            self.assertEqual(self.tell(buspeer.AUTH_REFUSED, body,
                                       body_kind=buspeer.JSON).status, 400, body)
        self.assertEqual(self.report(self.row(reason="x" * 4000)), 200)  # cut
        rows = wait_for("the record", lambda: self.audit.named("accessRefused")[n:])
        self.assertEqual(len(rows), 1)
        self.alive()

    def test_a_refused_sign_in_says_that_it_is_recorded_and_other_refusals_do_not(self):
        wrong = json.dumps({"name": "ghost", "password": "wrong-password"}).encode()
        got = self.call("postAuth", wrong, body_kind=buspeer.JSON, who=GUEST)
        self.assertEqual((got.status, got.flags), (401, 4))
        got = self.call("getUsers", who=GUEST)
        self.assertEqual((got.status, got.flags), (403, 0))
