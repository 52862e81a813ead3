"""authd alone: a fake front door, and a fake auditd that takes, refuses, stalls."""
import base64
import hashlib
import hmac
import json
import threading
import time

import buspeer
import harness
from authdalone import SPARE, AuthdAlone, FrontDoor
from buspeer import request
from harness import wait_for
from onedaemon import ADMIN, ALL_RIGHTS, GUEST, NOBODY


def part(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Authd(AuthdAlone):
    # ---- tokens ----

    def test_a_token_is_told_whose_it_is(self):
        s = self.sign_in()
        got = self.check(s["token"])
        self.assertEqual(got.status, 200)
        self.assertEqual((got.json["kind"], got.json["userId"], got.json["sessionId"],
                          got.json["name"], got.json["permissions"], got.json["mustChange"]),
                         ("user", 1, s["session"], "admin", str(ALL_RIGHTS), False))
        self.assertGreater(got.json["validUntil"], time.time() * 1e6 + 3000e6)
        self.assertGreater(got.json["epoch"], 0)

    def test_the_token_of_the_first_password_had_no_rights_until_it_was_changed(self):
        self.assertEqual(self.done("getUsersMe").get("flag") or "", "")
        self.assertEqual(self.call("postAuth", {"name": "admin",
                                                "password": harness.FIRST_PASSWORD},
                                   who=NOBODY).status, 401)
        # the session that made the change goes on
        self.assertEqual(self.check(self.signed_in_first["token"]).json["permissions"],
                         str(ALL_RIGHTS))

    def test_a_token_with_any_character_changed_is_refused(self):
        token = self.sign_in()["token"]
        p = self.peer(30)
        for i, c in enumerate(token):
            for other in {"A" if c != "A" else "B", chr(ord(c) ^ 1), "."} - {c}:
                bad = token[:i] + other + token[i + 1:]
                got, = p.ask(request(buspeer.AUTH_CHECK, {"token": bad, "addr": ""}))
                self.assertEqual(got.status, 401, (i, c, other))
                self.assertEqual(set(got.json), {"epoch"})
        self.assertEqual(self.check(token).status, 200)

    def test_every_bit_of_the_signature_counts(self):
        token = self.sign_in()["token"]
        head, _, signature = token.rpartition(".")
        mac = base64.urlsafe_b64decode(signature + "=")
        p = self.peer(30)
        for bit in range(8 * len(mac)):
            flipped = bytearray(mac)
            flipped[bit // 8] ^= 1 << bit % 8
            got, = p.ask(request(buspeer.AUTH_CHECK,
                                 {"token": f"{head}.{part(bytes(flipped))}", "addr": ""}))
            self.assertEqual(got.status, 401, bit)

    def test_a_token_that_somebody_else_signed_is_refused(self):
        s = self.sign_in()
        claims = harness.claims(s["token"])
        signed = s["token"].rpartition(".")[0]
        none = part(json.dumps({"alg": "none", "typ": "JWT"}).encode())
        body = s["token"].split(".")[1]
        forged = dict(claims, SessionID=s["session"], UserID=1)
        other = f"{part(json.dumps({'alg': 'HS256', 'typ': 'JWT'}).encode())}." \
                f"{part(json.dumps(forged).encode())}"
        for bad in (
                f"{none}.{body}.", f"{none}.{body}", f"{none}.{body}.{s['token'].split('.')[2]}",
                signed + ".", signed, "..", ".", "", "x" * 5000, s["token"] + "A",
                s["token"] + ".", s["token"] + "=", " " + s["token"],
                *(f"{other}.{part(hmac.new(k, other.encode(), hashlib.sha256).digest())}"
                  for k in (b"", b"\0" * 32, b"secret", b"\xff" * 32)),
                *(f"{signed}.{part(hmac.new(k, signed.encode(), hashlib.sha256).digest())}"
                  for k in (b"", b"\0" * 32, b"secret"))):
            self.assertEqual(self.check(bad).status, 401, bad[:200])

    def test_sign_ins_say_what_auditd_told_last_and_kill_9_changes_nothing(self):
        def said():
            return self.done("postAuth", {"name": "admin", "password": harness.PASSWORD},
                             who=NOBODY).get("systemIntegrityStatus")
        self.assertIsNone(said())
        for status in ("good", "insecure", "good", "off"):
            self.assertEqual(self.tell(buspeer.INTEGRITY_TOLD, {"status": status}).status, 200)
            self.kill_and_start()
            self.assertEqual(said(), None if status == "off" else status)
        self.tell(buspeer.INTEGRITY_TOLD, {"status": "insecure"})
        for body in (b"", b"{", {}, {"status": 1}, {"status": "fine"}, {"status": None}, []):
            self.assertEqual(self.tell(buspeer.INTEGRITY_TOLD, body).status, 400, body)
        self.assertEqual(said(), "insecure")
        self.tell(buspeer.INTEGRITY_TOLD, {"status": "off"})

    def test_a_check_without_a_token_is_a_fault_of_the_caller(self):
        for body in (b"", b"{", b"[]", {}, {"token": 7}, {"token": None}):
            got = self.tell(buspeer.AUTH_CHECK, body, body_kind=buspeer.JSON if body else None)
            self.assertEqual(got.status, 400, body)
        self.alive()

    def test_the_token_of_an_ended_session_is_refused(self):
        keep, one, two, three = (self.sign_in() for _ in range(4))
        self.done("deleteAuth", who=one["who"], status=204)
        self.assertEqual(self.check(one["token"]).status, 401)
        self.done("deleteSession", path=(str(two["session"]),), status=204)
        self.assertEqual(self.check(two["token"]).status, 401)
        self.done("deleteSessions", query=(("ids", str(three["session"])),), status=204)
        self.assertEqual(self.check(three["token"]).status, 401)
        self.assertEqual(self.check(keep["token"]).status, 200)
        self.kill_and_start()
        for s in (one, two, three):
            self.assertEqual(self.check(s["token"]).status, 401)
        self.assertEqual(self.check(keep["token"]).status, 200)

    def test_the_rights_of_a_check_are_those_of_the_moment(self):
        role = self.done("postRoles", {"name": "watch", "permissions": ["SYS_MANAGEMENT_RW"]})["id"]
        user = self.new_user("watcher", (role,))
        s = self.sign_in("watcher", SPARE)
        self.assertEqual(self.check(s["token"]).json["permissions"], str(1 << 2))
        before = self.check(s["token"]).json["epoch"]
        self.done("putRole", {"permissions": ["APP_MQTT_RW", "SYS_ACCOUNT_RW"]},
                  path=(str(role),))
        got = self.check(s["token"]).json
        self.assertEqual(got["permissions"], str(1 << 5 | 1))
        self.assertGreater(got["epoch"], before)
        self.done("putUser", {"isActive": False}, path=(str(user),))
        self.assertEqual(self.check(s["token"]).status, 401)
        self.done("deleteUser", path=(str(user),), status=204)
        self.done("deleteRole", path=(str(role),), status=204)

    # ---- who may ----

    def test_nobody_may_only_sign_in(self):
        for operation, more in (
                ("getAuth", {}), ("deleteAuth", {}), ("getUsersMe", {}), ("getUsers", {}),
                ("putUsersMePassword", {"body": {"newPassword": SPARE}}),
                ("postUsers", {"body": {"name": "x", "password": SPARE, "isActive": True,
                                        "roles": [{"id": 1}]}}),
                ("deleteSessions", {"query": (("userIds", "1"),)}),
                ("getPasswordPolicy", {}), ("putAuthLock", {"body": {}})):
            got = self.call(operation, who=NOBODY, **more)
            self.assertEqual(got.status, 401, operation)
            self.assertIn("error", got.json)
        self.assertNotIn("x", self.names())

    def test_an_account_without_the_right_is_told_so_and_changes_nothing(self):
        before = self.done("getRoles"), self.names()
        for operation, more in (
                ("getUsers", {}), ("getRoles", {}), ("getAuthLock", {}),
                ("postUsers", {"body": {"name": "x", "password": SPARE, "isActive": True,
                                        "roles": [{"id": 1}]}}),
                ("postRoles", {"body": {"name": "x", "permissions": ["SYS_ACCOUNT_RW"]}}),
                ("deleteUser", {"path": ("1",)}),
                ("putUserPassword", {"body": {"newPassword": SPARE}, "path": ("1",)})):
            got = self.call(operation, who=GUEST, **more)
            self.assertEqual(got.status, 403, operation)
        self.assertEqual((self.done("getRoles"), self.names()), before)

    def test_an_account_ends_its_own_sessions_only(self):
        user = self.new_user("other")
        theirs, mine = self.sign_in("other", SPARE), self.sign_in()
        little = theirs["who"][:3] + (0,) + theirs["who"][4:]  # without SYS_ACCOUNT_RW
        got = self.call("deleteSession", who=little, path=(str(mine["session"]),))
        self.assertIn(got.status, (403, 404))
        self.call("deleteSessions", who=little,
                  query=(("ids", str(mine["session"])), ("userIds", "1")))
        self.assertEqual(self.check(mine["token"]).status, 200)
        self.assertNotIn(mine["session"],
                         [s["id"] for s in self.done("getSessions", who=little)])
        self.done("deleteUser", path=(str(user),), status=204)
        self.assertEqual(self.check(theirs["token"]).status, 401)

    def test_a_body_of_wrong_content_is_refused_and_kept_nowhere(self):
        good = {"name": "bad", "password": SPARE, "isActive": True, "roles": [{"id": 1}]}
        without = lambda k: {a: b for a, b in good.items() if a != k}
        for body in (b"", b"{", b"nonsense", b"[]", b'"x"', b"\xff\xfe", {},
                     *(without(k) for k in good), dict(good, name=7), dict(good, name=""),
                     dict(good, name="a" * 65), dict(good, name="a\nb"), dict(good, roles=[]),
                     dict(good, roles=[{"id": 99}]), dict(good, roles=[{"id": "1"}]),
                     dict(good, roles="1"), dict(good, isActive="yes"), dict(good, password=1),
                     dict(good, password="short"), dict(good, password=harness.FIRST_PASSWORD),
                     dict(good, email="not an address"), dict(good, name="admin")):
            got = self.call("postUsers", body,
                            body_kind=buspeer.JSON if isinstance(body, bytes) else None)
            self.assertEqual(got.status, 400, body)
            self.assertTrue(got.json["error"]["message"])
        for path in ("0", "-1", "x", "", "9007199254740992", "1e0"):
            self.assertIn(self.call("getUser", path=(path,)).status, (400, 404), path)
        self.assertNotIn("bad", self.names())

    def test_work_past_its_deadline_is_not_begun(self):
        p = self.peer(2)
        p.send(buspeer.message(request(
            buspeer.fnv1a("postRoles"), {"name": "late", "permissions": ["APP_MQTT_RW"]},
            buspeer.KIND_API, who=ADMIN, deadline_us=int(time.monotonic() * 1e6) - 1)))
        self.assertEqual(buspeer.replies(p.receive())[0].status, 504)
        self.assertNotIn("late", [r["name"] for r in self.done("getRoles")])

    # ---- the front door ----

    def test_what_revokes_is_answered_after_the_front_door_forgot(self):
        s = self.sign_in()
        held, answered = threading.Event(), []
        self.addCleanup(held.set)

        def hold(r):
            held.wait(30)
            return FrontDoor.__call__(self.door, r)
        self.gateway.handler = hold
        self.addCleanup(setattr, self.gateway, "handler", self.door)
        n = len(self.gateway.asked_for(buspeer.AUTH_FORGET))
        t = threading.Thread(target=lambda: answered.append(
            self.call("deleteSession", path=(str(s["session"]),))))
        t.start()
        wait_for("the front door to be asked",
                 lambda: len(self.gateway.asked_for(buspeer.AUTH_FORGET)) > n)
        self.assertEqual(self.gateway.asked[-1].json["sessionId"], s["session"])
        self.assertEqual(self.check(s["token"]).status, 401)  # others are served meanwhile
        self.assertEqual(answered, [])
        held.set()
        t.join(10)
        self.assertEqual(answered[0].status, 204)

    def test_a_front_door_that_does_not_confirm_makes_it_503_and_the_change_stays(self):
        for mode in ("mute", "refuse"):
            s = self.sign_in()
            self.door.mode = mode
            began = time.monotonic()
            got = self.call("deleteSession", path=(str(s["session"]),))
            self.assertEqual(got.status, 503, mode)
            self.assertLess(time.monotonic() - began, 3 + harness.AT_ONCE)
            self.assertTrue(got.json["error"]["message"])
            self.door.mode = "forget"
            self.assertEqual(self.check(s["token"]).status, 401)
            self.assertEqual(self.call("deleteSession", path=(str(s["session"]),)).status, 404)

    def test_a_front_door_that_was_away_must_forget_all_before_a_check_is_answered(self):
        s, gone = self.sign_in(), self.sign_in()
        self.gateway.stop()
        # nobody is there to forget: 503, but done
        got = self.call("deleteSession", path=(str(gone["session"]),))
        self.assertEqual(got.status, 503)
        checked = []
        t = threading.Thread(target=lambda: checked.append(self.check(s["token"]).status))
        self.door.mode = "mute"
        self.door.forgotten.clear()
        n = len(self.gateway.asked_for(buspeer.AUTH_FORGET))
        self.gateway.start()
        t.start()
        wait_for("forget-all", lambda: any(
            r.json.get("all") for r in self.gateway.asked_for(buspeer.AUTH_FORGET)[n:]))
        self.assertEqual(checked, [])
        self.door.mode = "forget"
        t.join(15 * harness.SLOW)
        self.assertEqual(checked, [200])
        self.assertTrue(self.door.forgotten[0]["all"])
        self.assertEqual(self.check(gone["token"]).status, 401)

    def test_a_change_is_confirmed_by_a_front_door_that_comes_back_in_time(self):
        s = self.sign_in()
        answered = []
        self.gateway.stop()
        t = threading.Thread(target=lambda: answered.append(
            self.call("deleteSession", path=(str(s["session"]),)).status))
        t.start()
        wait_for("the change", lambda: s["session"] not in
                 [x["id"] for x in self.done("getSessions")])
        self.assertEqual(answered, [])
        self.gateway.start()
        t.join(15 * harness.SLOW)
        self.assertEqual(answered, [204])

    # ---- nothing is lost ----

    def test_an_answered_change_and_its_record_survive_kill_9(self):
        self.auditd.stop()
        for i in range(5):
            self.done("postRoles", {"name": f"kept-{i}", "permissions": ["APP_MQTT_RW"]})
            self.daemon.kill()
            self.start_again()
            self.assertIn(f"kept-{i}", [r["name"] for r in self.done("getRoles")])
        self.assertEqual(self.audit.named("roleCreate", "kept-"), [])
        self.auditd.start()
        wait_for("the records", lambda: len(self.audit.named("roleCreate", "kept-")) >= 5)
        self.assert_in_order("roleCreate", [f"kept-{i}" for i in range(5)])

    def test_records_arrive_once_and_in_order_however_auditd_behaves(self):
        names = []

        def change(mode):
            self.audit.mode = mode
            for _ in range(3):
                names.append(f"once-{len(names):02}")
                self.done("postRoles", {"name": names[-1], "permissions": ["APP_MQTT_RW"]})
        change("take")
        for mode in ("refuse", "swallow", "stall"):
            tries = self.audit.tries
            change(mode)
            wait_for("a delivery that fails", lambda n=tries: self.audit.tries > n)
            if mode == "stall":  # the question stays open; with the line it ends
                self.audit.mode = "take"
                self.auditd.drop()
            elif mode == "swallow":
                wait_for("the same again", lambda n=tries: self.audit.tries > n + 1)
            self.audit.mode = "take"
            wait_for("all records", lambda: self.audit.named("roleCreate", names[-1]))
        self.auditd.stop()
        change("take")
        self.auditd.start()
        wait_for("the last record", lambda: self.audit.named("roleCreate", names[-1]))
        self.assertGreater(self.audit.repeats, 0)
        self.assert_in_order("roleCreate", names)
        wait_for("an empty outbox",
                 lambda: self.metric("fieldgate_audit_outbox_records") == 0)

    def test_an_answer_of_auditd_that_says_nothing_counts_as_none(self):
        for i, nonsense in enumerate((
                b"", b"{", b"[]", b"{}", b'{"acked":null}', b'{"acked":"9"}', b'{"acked":0}',
                b'{"acked":-1}', b'{"acked":1e3}', b'{"acked":18446744073709551615}',
                b'{"acked":99999999}')):
            tries, self.audit.mode = self.audit.tries, nonsense
            self.done("postRoles", {"name": f"heard-{i:02}", "permissions": ["APP_MQTT_RW"]})
            wait_for("a delivery", lambda n=tries: self.audit.tries > n)
            self.audit.mode = "take"
            wait_for("the record", lambda k=i: self.audit.named("roleCreate", f"heard-{k:02}"))
        self.assert_in_order("roleCreate", [f"heard-{i:02}" for i in range(11)])

    def test_a_stop_with_calls_under_way_is_in_order(self):
        self.auditd.stop()
        s = self.sign_in()
        self.door.mode = "mute"
        got = []

        def end_session():
            try:
                got.append(self.call("deleteSession", path=(str(s["session"]),)).status)
            except OSError:
                got.append(None)
        n = len(self.gateway.asked_for(buspeer.AUTH_FORGET))
        t = threading.Thread(target=end_session)
        t.start()
        wait_for("the front door to be asked",
                 lambda: len(self.gateway.asked_for(buspeer.AUTH_FORGET)) > n)
        self.assert_stops_in_order()
        t.join(10)
        self.assertNotIn(got[0], (200, 204))
        self.door.mode = "forget"
        self.auditd.start()
        self.assertEqual(self.check(s["token"]).status, 401)
        wait_for("the record", lambda: self.audit.named("signOut"))

    def test_what_auditd_had_before_the_kill_is_not_new_after_it(self):
        self.done("postRoles", {"name": "before-kill", "permissions": ["APP_MQTT_RW"]})
        wait_for("the record", lambda: self.audit.named("roleCreate", "before-kill"))
        self.kill_and_start()
        self.done("postRoles", {"name": "after-kill", "permissions": ["APP_MQTT_RW"]})
        wait_for("the record", lambda: self.audit.named("roleCreate", "after-kill"))
        self.assert_in_order("roleCreate", ["before-kill", "after-kill"])

    def test_a_refused_change_leaves_no_record_of_a_change(self):
        self.call("postRoles", {"name": "refused-1", "permissions": ["NO_SUCH_RIGHT"]})
        self.done("postRoles", {"name": "accepted-1", "permissions": ["APP_MQTT_RW"]})
        wait_for("the record", lambda: self.audit.named("roleCreate", "accepted-1"))
        self.assertEqual(self.audit.named("roleCreate", "refused-1"), [])

    def assert_in_order(self, event, names):
        rows = [r["message"] for r in self.audit.named(event)]
        found = [n for m in rows for n in names if n in m]
        self.assertEqual(found, names)
        seqs = [r["seq"] for r in self.audit.kept]
        self.assertEqual(seqs, sorted(set(seqs)))

    # ---- locks ----

    def test_a_lock_survives_a_restart_and_the_right_password_does_not_open_it(self):
        self.done("putAuthLock", {"enable": True, "failWindow": 5, "failTimes": 3,
                                  "lockWindow": 5})
        user = self.new_user("clumsy")
        s = self.sign_in("clumsy", SPARE)
        wrong = lambda: self.call("postAuth", {"name": "clumsy", "password": "not-this-one"},
                                  who=NOBODY).status
        self.assertEqual([wrong(), wrong()], [401, 401])
        self.kill_and_start()  # two failures are remembered
        self.assertEqual(self.check(s["token"]).status, 200)
        self.assertEqual(wrong(), 401)
        self.assertEqual(self.check(s["token"]).status, 200)  # a lock ends no session
        self.assertIn(user, self.call("getAuthLockUsers").json["data"])
        right = lambda: self.call("postAuth", {"name": "clumsy", "password": SPARE},
                                  who=NOBODY).status
        self.assertEqual(right(), 403)
        self.kill_and_start()
        self.assertEqual(right(), 403)
        self.assertIn(user, self.call("getAuthLockUsers").json["data"])
        self.assertEqual(self.sign_in()["user"], 1)  # of no concern to others
        self.done("putAuthLock", {"enable": False, "failWindow": 5, "failTimes": 3,
                                  "lockWindow": 5})
        self.assertEqual(right(), 200)
        wait_for("the record", lambda: self.audit.named("accountLock"))
        self.assertEqual(len(self.audit.named("accountLock")), 1)
        self.assertEqual(len([r for r in self.audit.named("signInFail", "Wrong password")
                              if r["source"] == "clumsy"]), 3)

    def test_many_wrong_passwords_at_once_get_no_more_attempts_than_the_rule_allows(self):
        self.done("putAuthLock", {"enable": True, "failWindow": 5, "failTimes": 4,
                                  "lockWindow": 5})
        self.new_user("target")
        got = []
        threads = [threading.Thread(target=lambda i=i: got.append(self.call(
            "postAuth", {"name": "target", "password": f"guess-number-{i}"}, who=NOBODY,
            timeout=30).status)) for i in range(16)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(len(got), 16)
        self.assertLessEqual(got.count(401), 4, got)
        self.assertLessEqual(set(got), {401, 403, 429})
        self.done("putAuthLock", {"enable": False, "failWindow": 5, "failTimes": 4,
                                  "lockWindow": 5})
        self.assertEqual(self.sign_in("target", SPARE)["who"][4], "target")
