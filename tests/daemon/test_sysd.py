"""sysd alone: the gateway is a stand-in."""
import os
import threading
import time

import buspeer
from buspeer import reply
from harness import wait_for
from onedaemon import ADMIN, GUEST, OneDaemon


class FakeGateway:
    """Handler of a gateway that only says it switched.

    .mode of each step is do, mute (no answer), refuse (400) or bytes: the body
    of a 200.
    """

    def __init__(self):
        self.mode = {"show": "do", "prepare": "do", "commit": "do"}
        self.in_force = {"httpsPort": 8443, "redirectToHttps": True, "pair": "",
                         "certFileName": ""}
        self.fault, self.prepared, self.n = "", None, 0
        self.lock, self.steps = threading.Lock(), []

    def __call__(self, r):
        if r.op != buspeer.HTTP_APPLY:
            return reply(r.id, 404)
        with self.lock:
            step = r.json["step"]
            self.steps.append((time.monotonic(), r.json))
            mode = self.mode[step]
            if mode == "mute":
                return None
            if mode == "refuse":
                return reply(r.id, 400, {"pointer": "/httpsPort", "message": "port taken"})
            if isinstance(mode, bytes):
                return reply(r.id, 200, mode, buspeer.JSON)
            if step == "prepare":
                self.n += 1
                pair = "AB" * 16 if "cert" in r.json else r.json["pair"]
                self.prepared = {**{k: r.json[k] for k in self.in_force}, "pair": pair}
                return reply(r.id, 200, {"id": self.n, "pair": pair})
            if step == "commit":
                self.in_force, self.fault = self.prepared, ""
            return reply(r.id, 200, {**self.in_force, "httpPort": 80, "defaultPort": 8443,
                                     "fault": self.fault})

    def of(self, step):
        with self.lock:
            return [body for _, body in self.steps if body["step"] == step]


class Sysd(OneDaemon):
    name = "sysd"

    @classmethod
    def prepare(cls):
        cls.audit = cls.fake_auditd()
        cls.front = FakeGateway()
        cls.gateway = cls.stand_in("gateway", cls.front)

    def setUp(self):
        for step in self.front.mode:
            self.front.mode[step] = "do"
        # an earlier test may have left the two apart
        self.again()
        wait_for("the gateway's state", lambda: "fault" not in (self.shown() or {"fault": 1}))
        self.front.steps.clear()

    def again(self):
        """The gateway was away, and is back."""
        n = len(self.front.of("show"))
        self.gateway.drop()
        wait_for("a look at the gateway", lambda: len(self.front.of("show")) > n)

    def shown(self):
        got = self.call("getSystemHttpserver")
        self.assertIn(got.status, (200, 503))
        return got.json["data"] if got.status == 200 else None

    def put(self, body, who=ADMIN, operation="putSystemHttpserver"):
        return self.call(operation, body, who=who)

    def refused(self, got, status, pointer=None):
        self.assertEqual(got.status, status, got.body)
        if pointer:
            self.assertEqual([d["pointer"] for d in got.json["error"]["details"]], [pointer])

    def test_a_change_is_prepared_committed_and_kept_with_its_record(self):
        for operation, port in (("putSystemHttpserver", 9443), ("patchSystemHttpserver", 443)):
            self.front.steps.clear()
            got = self.put({"httpsPort": port}, operation=operation)
            self.assertEqual((got.status, got.json["data"]["httpsPort"]), (200, port))
            self.assertEqual([b["step"] for _, b in self.front.steps], ["prepare", "commit"])
            self.assertEqual(self.front.in_force["httpsPort"], port)
            wait_for("the record", lambda p=port: self.audit.named("httpserverUpdate", f"port {p}"))
        self.kill_and_start()
        wait_for("the state", self.shown)
        self.assertEqual(self.shown()["httpsPort"], 443)
        self.assertEqual(self.front.of("prepare")[1:], [])  # nothing was to be mended

    def test_what_the_gateway_refuses_is_refused_and_not_kept(self):
        before = self.shown()
        self.front.mode["prepare"] = "refuse"
        self.refused(self.put({"httpsPort": 9444}), 400, "/httpsPort")
        self.assertEqual(self.shown(), before)
        self.assertEqual(self.front.of("commit"), [])
        self.kill_and_start()
        wait_for("the state", self.shown)
        self.assertEqual(self.shown(), before)

    def test_a_gateway_that_does_not_answer_is_503_and_nothing_is_kept(self):
        before = self.shown()
        self.front.mode["prepare"] = "mute"
        self.refused(self.put({"httpsPort": 9445}), 503)
        for nonsense in (b"", b"[]", b'{"id":1}', b'{"id":"x","pair":""}', b'{"id":1,"pair":5}',
                         b'{"id":1,"pair":"%s"}' % (b"x" * 200)):
            self.front.mode["prepare"] = nonsense
            self.refused(self.put({"httpsPort": 9445}), 503)
        self.assertEqual(self.shown(), before)
        self.assertEqual(self.front.of("commit"), [])

    def test_a_switch_that_nobody_confirmed_is_said_to_be_saved_and_is_made_later(self):
        self.front.mode["commit"] = "mute"
        got = self.put({"httpsPort": 9446})
        self.refused(got, 503)
        self.assertIn("saved", got.json["error"]["message"])
        self.assertEqual(self.shown()["httpsPort"], 9446)
        self.assertIn("fault", self.shown())
        self.front.mode["commit"] = "do"
        self.again()
        wait_for("the switch", lambda: self.front.in_force["httpsPort"] == 9446)
        wait_for("no fault", lambda: "fault" not in self.shown())

    def test_a_death_between_its_commit_and_the_switch_is_made_good(self):
        self.front.mode["commit"] = "mute"
        asked = threading.Thread(target=lambda: self.unanswered({"httpsPort": 9447}))
        asked.start()
        wait_for("the order to switch", lambda: self.front.of("commit"))
        self.daemon.kill()
        asked.join()
        self.assertNotEqual(self.front.in_force["httpsPort"], 9447)
        self.front.mode["commit"] = "do"
        self.start_again()
        wait_for("the switch", lambda: self.front.in_force["httpsPort"] == 9447)
        wait_for("the record", lambda: self.audit.named("httpserverUpdate", "port 9447"))

    def test_a_death_before_its_commit_leaves_all_as_it_was(self):
        before = self.shown()
        self.front.mode["prepare"] = "mute"
        asked = threading.Thread(target=lambda: self.unanswered({"httpsPort": 9448}))
        asked.start()
        wait_for("the order to prepare", lambda: self.front.of("prepare"))
        self.kill_and_start()
        asked.join()
        wait_for("the state", self.shown)
        self.assertEqual(self.shown(), before)
        self.assertEqual(self.audit.named("httpserverUpdate", "port 9448"), [])

    def unanswered(self, body):
        try:
            self.put(body)
        except OSError:
            pass

    def test_a_gateway_that_came_back_with_another_setting_is_mended_and_told_of(self):
        self.assertEqual(self.put({"httpsPort": 9449}).status, 200)
        n = len(self.audit.named("httpserverRollback"))
        self.front.in_force = {**self.front.in_force, "httpsPort": 8443}
        self.front.fault = "the file https.conf is damaged"
        self.again()
        wait_for("it to be mended", lambda: self.front.in_force["httpsPort"] == 9449)
        rows = wait_for("the alert", lambda: self.audit.named("httpserverRollback")[n:])
        self.assertEqual(len(rows), 1)
        self.assertIn("damaged", rows[0]["message"])
        self.assertIn("8443", rows[0]["message"])

    def test_what_cannot_be_mended_is_told_once_and_tried_at_a_bounded_rate(self):
        self.assertEqual(self.put({"httpsPort": 9450}).status, 200)
        n = len(self.audit.named("httpserverRollback"))
        self.front.steps.clear()
        self.front.mode["prepare"] = "refuse"
        self.front.in_force = {**self.front.in_force, "httpsPort": 8443}
        self.again()
        wait_for("the fault", lambda: self.shown().get("fault") == "port taken")
        wait_for("a second try", lambda: len(self.front.of("prepare")) == 2, 12)
        times = [t for t, body in self.front.steps if body["step"] == "prepare"]
        self.assertGreater(times[1] - times[0], 9)
        self.assertEqual(len(self.audit.named("httpserverRollback")[n:]), 1)
        # a client may choose something else meanwhile
        self.front.mode["prepare"] = "do"
        self.assertEqual(self.put({"httpsPort": 9451}).status, 200)
        self.assertNotIn("fault", self.shown())

    def test_a_gateway_that_talks_nonsense_is_not_believed(self):
        for nonsense in (b"", b"{}", b"[]", b"{", b'{"httpsPort":-1}', b'{"httpsPort":70000}',
                         b'{"httpsPort":1,"httpPort":1,"defaultPort":1,"pair":5,"certFileName":"","fault":""}',
                         b'{"httpsPort":1,"httpPort":1,"defaultPort":1,"pair":"","certFileName":"","fault":"%s"}'
                         % (b"x" * 5000)):
            self.front.mode["show"] = nonsense
            self.again()
            self.alive()
        self.assertNotEqual(self.shown()["httpsPort"], 1)

    def test_changes_wait_for_each_other_and_too_many_are_refused(self):
        self.front.mode["prepare"] = "mute"
        replies = []
        threads = [threading.Thread(target=lambda p=p: replies.append(self.put({"httpsPort": p})))
                   for p in range(9500, 9512)]
        for t in threads:
            t.start()
        wait_for("refusals", lambda: len([r for r in replies if r.status == 409]) == 3)
        self.front.mode["prepare"] = "do"
        for t in threads:
            t.join()
        statuses = sorted(r.status for r in replies)
        self.assertEqual((statuses.count(409), statuses.count(200)), (3, 8), statuses)
        self.assertEqual(self.shown()["httpsPort"], self.front.in_force["httpsPort"])

    def test_a_form_carries_the_files_and_who_may_not_is_refused(self):
        def part(name, value, file=""):
            file = f'; filename="{file}"' if file else ""
            return (f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
                    f"{value}\r\n")
        path = f"{self.fleet.run}/spool/form"

        def put(*parts, who=ADMIN):
            with open(path, "w", encoding="utf-8") as f:
                f.write("".join(parts) + "--b--\r\n")
            got = self.call("putSystemHttpserver", b"form", body_kind=buspeer.FILE, who=who,
                            content_type="multipart/form-data; boundary=b")
            self.assertFalse(os.path.exists(path))
            return got
        got = put(part("certFile", "C", "x.CRT"), part("keyFile", "K", "y.pk"),
                  part("httpsPort", "9452"))
        self.assertEqual(got.status, 200, got.body)
        sent = self.front.of("prepare")[-1]
        self.assertEqual((sent["cert"], sent["key"], sent["httpsPort"]), ("C", "K", 9452))
        self.assertEqual((got.json["data"]["certFileName"], got.json["data"]["keyFileName"]),
                         ("x.CRT", "y.pk"))
        self.assertEqual(self.put({"redirectToHttps": False}).status, 200)
        self.assertEqual(self.front.of("prepare")[-1]["pair"], "AB" * 16)
        for bad, pointer in ((part("certFile", "C", "x.exe"), "/certFile"),
                             (part("certFile", "C"), "/certFile"),
                             (part("keyFile", "", "y.key"), "/keyFile"),
                             (part("keyFile", "K" * 70000, "y.key"), "/keyFile"),
                             (part("certFile", "C", "x" * 252 + ".crt"), "/certFile"),
                             (part("httpsPort", "9443x"), "/httpsPort"),
                             (part("httpsPort", ""), "/httpsPort"),
                             (part("httpsPort", "0000000000009443x"), "/httpsPort"),
                             (part("httpsPort", "9443\0x"), "/httpsPort"),
                             (part("redirectToHttps", "true\0x"), "/redirectToHttps"),
                             (part("redirectToHttps", "1"), "/redirectToHttps"),
                             (part("httpsEnable", "false"), "/httpsEnable"),
                             (part("httpPort", "81"), "/httpPort")):
            self.refused(put(bad), 400, pointer)
        self.refused(put(part("httpsPort", "9453"), who=GUEST), 403)
        self.refused(self.put({"httpsPort": 9453}, who=GUEST), 403)
        self.refused(self.call("getSystemHttpserver", who=GUEST), 403)
        # neither the files nor a word of them is in the store
        with open(f"{self.fleet.state}/sysd/data.mdb", "rb") as f:
            self.assertNotIn(b"BEGIN", f.read())


class Away(OneDaemon):
    """The gateway was never there."""

    name = "sysd"

    def test_without_the_gateway_it_is_503_until_it_comes(self):
        self.assertEqual(self.call("getSystemHttpserver").status, 503)
        self.assertEqual(self.call("putSystemHttpserver", {"httpsPort": 9443}).status, 503)
        front = FakeGateway()
        self.stand_in("gateway", front)
        wait_for("the state", lambda: self.call("getSystemHttpserver").status == 200)
        self.assertEqual(self.done("getSystemHttpserver"), {
            "redirectToHttps": True, "httpsEnable": True, "httpPort": 80, "httpsPort": 8443,
            "certFileName": "thingspro_https_default.crt",
            "keyFileName": "thingspro_https_default.key"})
        self.assertEqual(front.of("prepare"), [])
