"""authd alone: service accounts, the permissions of add-ons, short-lived tokens."""
import base64
import hashlib
import hmac
import json
import threading
import time

import buspeer
import harness
from authdalone import SPARE, AuthdAlone, FrontDoor
from harness import wait_for
from onedaemon import ADMIN, ALL_RIGHTS

MQTT, AIE, MAINTENANCE = 1 << 5, 1 << 4, 1 << 1
SERVICES_MAX, ADDONS_MAX = 32, 32


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(key, claims, header='{"alg":"HS256","typ":"JWT"}'):
    text = f"{b64(header.encode())}.{b64(json.dumps(claims, separators=(',', ':')).encode())}"
    return f"{text}.{b64(hmac.new(key, text.encode(), hashlib.sha256).digest())}"


class Services(AuthdAlone):
    def tearDown(self):
        super().tearDown()
        for s in self.done("getAzureIotedgeServices"):
            self.done("deleteAzureIotedgeService", path=(s["name"],), status=204)

    def make(self, name, *required, addon=(), who=ADMIN):
        return self.done("postAzureIotedgeServices", {
            "name": name, "displayName": f"The {name}", "source": "AzureIoTEdge",
            "required": list(required), "addon": [{"id": a, "name": f"Name of {a}"} for a in addon]},
            who=who)

    def put(self, name, body, who=ADMIN):
        return self.call("putAzureIotedgeService", body, who=who, path=(name,))

    def delete(self, name):
        return self.call("deleteAzureIotedgeService", path=(name,)).status

    def rights(self, token):
        """Permission bits of a good token, else None."""
        got = self.check(token)
        return int(got.json["permissions"]) if got.status == 200 else None

    def names_of(self):
        return [s["name"] for s in self.done("getAzureIotedgeServices")]

    def catalogue(self):
        return [p["id"] for p in self.done("getPermissions")]

    def service_of(self, made):
        """The principal that the front door makes of it."""
        got = self.check(made["token"]).json
        return (buspeer.WHO_SERVICE, got["userId"], 0, int(got["permissions"]), got["name"],
                "192.0.2.7")

    # ---- tokens ----

    def test_the_token_of_a_service_account_is_told_whose_it_is(self):
        made = self.make("myapp", "APP_MQTT_RW")
        got = self.check(made["token"])
        self.assertEqual(got.status, 200)
        self.assertEqual((got.json["kind"], got.json["sessionId"], got.json["permissions"],
                          got.json["name"], got.json["mustChange"], got.json["derived"]),
                         ("service", 0, str(MQTT), "AzureIoTEdge/myapp", False, False))
        self.assertLess(got.json["userId"], 0)
        self.assertGreater(got.json["validUntil"], (time.time() + 50 * 365 * 86400) * 1e6)
        claims = harness.claims(made["token"])
        self.assertEqual((claims["UserID"], claims["SessionID"], claims["Name"],
                          claims["Permissions"]), (-1, 0, "AzureIoTEdge/myapp", ["APP_MQTT_RW"]))
        self.assertGreater(claims["exp"], time.time() + 50 * 365 * 86400)
        self.assertEqual(len(claims["SerialNumber"]), 12)
        self.assertEqual(self.done("getAzureIotedgeServices"),
                         [{k: v for k, v in made.items() if k != "token"}])

    def test_a_token_with_any_character_changed_is_refused(self):
        token = self.make("exact", "APP_MQTT_RW")["token"]
        p = self.peer(30)
        for i, c in enumerate(token):
            bad = token[:i] + ("A" if c != "A" else "B") + token[i + 1:]
            got, = p.ask(buspeer.request(buspeer.AUTH_CHECK, {"token": bad}))
            self.assertEqual(got.status, 401, i)

    def test_a_copy_of_the_store_opens_nothing(self):
        made, session = self.make("copied", "APP_MQTT_RW"), self.sign_in()
        short = self.done("putAuthWebsocketToken", who=session["who"])["token"]
        with open(f"{self.fleet.state}/authd/data.mdb", "rb") as f:
            copy = f.read()
        for token in (made["token"], session["token"], short):
            self.assertNotIn(token.encode(), copy)
            for part in token.split(".")[1:]:  # the header is no secret
                self.assertNotIn(part.encode(), copy)
            self.assertNotIn(harness.claims(token)["jti"].encode(), copy)
            self.assertNotIn(bytes.fromhex(harness.claims(token)["jti"]), copy)
        # the signing key is in the copy: whoever tries all bytes finds it …
        signed, _, signature = made["token"].rpartition(".")
        mac = base64.urlsafe_b64decode(signature + "=")
        key = next(k for k in (copy[i:i + 32] for i in range(len(copy) - 31))
                   if len(set(k)) > 8 and
                   hmac.digest(k, signed.encode(), "sha256") == mac)
        # … and has signatures, but none of these tokens: their random part is in no store
        claims = harness.claims(made["token"])
        self.assertEqual(sign(key, claims), made["token"])
        for n in range(4):
            jti = f"{n:032x}"
            for forged in (dict(claims, jti=jti), dict(harness.claims(session["token"]), jti=jti),
                           dict(harness.claims(short), jti=jti), dict(claims, Name="x"),
                           dict(claims, Name="AzureIoTEdge/"), dict(claims, Name="admin"),
                           dict(claims, Name="AzureIoTEdge/other"), dict(claims, UserID=1),
                           dict(claims, SessionID=session["session"]),
                           {k: v for k, v in claims.items() if k != "jti"}):
                self.assertEqual(self.check(sign(key, forged)).status, 401, forged)
        self.assertEqual(self.check(made["token"]).status, 200)

    def test_a_token_lives_as_long_as_its_account_whoever_is_killed(self):
        keep, gone = self.make("keep", "APP_MQTT_RW"), self.make("gone", "APP_MQTT_RW")
        self.kill_and_start()
        self.assertEqual(self.rights(keep["token"]), MQTT)
        self.assertEqual(self.delete("gone"), 204)
        self.assertIsNone(self.rights(gone["token"]))
        self.kill_and_start()
        self.assertIsNone(self.rights(gone["token"]))
        self.assertEqual(self.rights(keep["token"]), MQTT)
        # one of the same name is another
        again = self.make("gone", "APP_AWS_RW")
        self.assertIsNone(self.rights(gone["token"]))
        self.assertEqual(self.rights(again["token"]), 1 << 6)

    def test_no_time_out_ends_a_service_account(self):
        made = self.make("lasting", "APP_MQTT_RW")
        conf = self.done("getSessionsConfiguration")
        self.done("putSessionsConfiguration", {"timeoutMin": 60, "idleTimeoutMin": 1})
        self.assertGreater(self.check(made["token"]).json["validUntil"],
                           (time.time() + 50 * 365 * 86400) * 1e6)
        self.done("putSessionsConfiguration", {k: conf[k] for k in ("timeoutMin",
                                                                    "idleTimeoutMin")})
        self.assertNotIn("AzureIoTEdge/lasting",
                         [s["userName"] for s in self.done("getSessions")])

    def test_an_account_stays_when_the_person_who_made_it_goes(self):
        role = self.done("postRoles", {"name": "edge", "permissions": [
            "APP_AIE_RW", "APP_MQTT_RW"]})["id"]
        user = self.new_user("maker", (role,))
        who = self.sign_in("maker", SPARE)["who"]
        made = self.make("left", "APP_MQTT_RW", who=who[:3] + (AIE | MQTT,) + who[4:])
        self.done("putRole", {"permissions": ["APP_AIE_RW"]}, path=(str(role),))
        self.assertEqual(self.rights(made["token"]), MQTT)
        self.done("putUser", {"isActive": False}, path=(str(user),))
        self.assertEqual(self.rights(made["token"]), MQTT)
        self.done("deleteUser", path=(str(user),), status=204)
        self.assertEqual(self.rights(made["token"]), MQTT)
        self.assertIn("left", self.names_of())
        self.done("deleteRole", path=(str(role),), status=204)

    # ---- changes ----

    def test_a_change_is_answered_after_the_front_door_forgot_that_account(self):
        made = self.make("watched", "APP_MQTT_RW")
        user = self.check(made["token"]).json["userId"]
        before = self.check(made["token"]).json["epoch"]
        for change in (lambda: self.put("watched", {"required": ["APP_AWS_RW"]}).status,
                       lambda: self.delete("watched")):
            held, answered = threading.Event(), []

            def hold(r, held=held):
                held.wait(30)
                return FrontDoor.__call__(self.door, r)
            self.gateway.handler = hold
            n = len(self.gateway.asked_for(buspeer.AUTH_FORGET))
            t = threading.Thread(target=lambda c=change, a=answered: a.append(c()))
            t.start()
            try:
                wait_for("the front door to be asked",
                         lambda k=n: len(self.gateway.asked_for(buspeer.AUTH_FORGET)) > k)
                self.assertEqual(self.gateway.asked[-1].json["userId"], user)
                self.assertGreater(self.gateway.asked[-1].json["epoch"], before)
                self.assertNotEqual(self.rights(made["token"]), MQTT)
                self.assertEqual(answered, [])
            finally:
                held.set()
                t.join(10)
                self.gateway.handler = self.door
            self.assertIn(answered[0], (200, 204))

    def test_a_deletion_that_nobody_confirmed_is_503_and_done(self):
        made = self.make("unsure", "APP_MQTT_RW")
        self.door.mode = "mute"
        self.assertEqual(self.delete("unsure"), 503)
        self.door.mode = "forget"
        self.assertIsNone(self.rights(made["token"]))
        self.assertEqual(self.delete("unsure"), 404)

    def test_what_is_not_sent_stays(self):
        made = self.make("part", "APP_MQTT_RW", addon=["APP_PART_RW"])
        same = {k: v for k, v in made.items() if k != "token"}
        self.assertEqual(self.put("part", {}).json["data"], same)
        got = self.put("part", {"displayName": "New", "name": "other", "source": "x"}).json["data"]
        self.assertEqual(got, dict(same, displayName="New"))
        got = self.put("part", {"required": []}).json["data"]
        self.assertEqual(got, dict(same, displayName="New", required=[]))
        self.assertEqual(self.rights(made["token"]), 0)

    def test_both_spellings_of_the_display_name_are_taken_and_one_is_sent(self):
        made = self.done("postAzureIotedgeServices", {"name": "spelled", "displayname": "One"})
        self.assertEqual((made["displayName"], "displayname" in made), ("One", False))
        got = self.put("spelled", {"displayname": "Two"}).json["data"]
        self.assertEqual((got["displayName"], "displayname" in got), ("Two", False))
        got = self.put("spelled", {"displayname": "Three", "displayName": "Four"})
        self.assertEqual(got.status, 400)
        self.assertIn("/displayname", got.body.decode())
        self.assertEqual(self.put("spelled", {"displayname": "5", "displayName": "5"}).status, 200)

    def test_the_security_advisor_is_told_which_may_manage_accounts(self):
        self.make("modest", "APP_MQTT_RW")
        self.make("mighty", "SYS_ACCOUNT_RW")
        managing = lambda: self.tell(buspeer.SECURITY_FACTS).json["managingServices"]
        self.assertEqual(managing(), ["mighty"])
        self.put("mighty", {"required": []})
        self.assertEqual(managing(), [])

    # ---- refusals ----

    def test_nobody_gives_what_he_does_not_hold(self):
        little = (buspeer.WHO_USER, 5, 5, AIE | MQTT, "little", "192.0.2.7")
        refused = lambda got: (got.status, got.json["error"]["details"][0]["pointer"])
        body = {"name": "more", "required": ["APP_MQTT_RW", "SYS_ACCOUNT_RW"]}
        self.assertEqual(refused(self.call("postAzureIotedgeServices", body, who=little)),
                         (403, "/required/1"))
        self.assertEqual(self.names_of(), [])
        mine = self.make("mine", "APP_MQTT_RW", who=little)
        self.assertEqual(refused(self.put("mine", {"required": ["SYS_MAINTENANCE_RW"]}, little)),
                         (403, "/required/0"))
        self.assertEqual(self.rights(mine["token"]), MQTT)
        # what the account holds already he may leave to it, or take from it
        theirs = self.make("theirs", "SYS_MAINTENANCE_RW", "APP_AWS_RW")
        self.assertEqual(self.put("theirs", {"required": ["SYS_MAINTENANCE_RW", "APP_MQTT_RW"]},
                                  little).status, 200)
        self.assertEqual(self.rights(theirs["token"]), MAINTENANCE | MQTT)
        self.assertEqual(refused(self.put("theirs", {"required": ["APP_AWS_RW"]}, little)),
                         (403, "/required/0"))
        # another program's own permission is not his either, nor may he claim it
        self.make("owner", "APP_OWNER_RW", addon=["APP_OWNER_RW"])
        self.assertEqual(refused(self.put("mine", {"required": ["APP_OWNER_RW"]}, little)),
                         (403, "/required/0"))
        self.assertEqual(refused(self.put("mine", {"addon": [{"id": "APP_OWNER_RW"}]}, little)),
                         (400, "/addon/0/id"))
        self.assertEqual(self.rights(mine["token"]), MQTT)
        # nor does a service account give more than it has
        app = self.service_of(self.make("app", "APP_AIE_RW"))
        self.assertEqual(refused(self.call("postAzureIotedgeServices",
                                           {"name": "child", "required": ["APP_MQTT_RW"]},
                                           who=app)), (403, "/required/0"))

    def test_without_the_permission_there_is_nothing_to_see_or_change(self):
        self.make("hidden")
        other = (buspeer.WHO_USER, 5, 5, ALL_RIGHTS & ~AIE, "other", "192.0.2.7")
        for operation, more in (("getAzureIotedgeServices", {}),
                                ("postAzureIotedgeServices", {"body": {"name": "x"}}),
                                ("putAzureIotedgeService", {"body": {}, "path": ("hidden",)}),
                                ("deleteAzureIotedgeService", {"path": ("hidden",)})):
            self.assertEqual(self.call(operation, who=other, **more).status, 403, operation)
        self.assertEqual(self.names_of(), ["hidden"])

    def test_names_are_unique_and_unknown_ones_are_not_found(self):
        self.make("only")
        for body, pointer in (({"name": "only"}, "/name"), ({"name": "a" * 52}, "/name"),
                              ({"name": ""}, "/name"), ({"name": "a/b"}, "/name"), ({}, "/name"),
                              ({"name": "x", "source": "Else"}, "/source"),
                              ({"name": "x", "displayName": "d" * 129}, "/displayName"),
                              ({"name": "x", "required": ["APP_MQTT_RW"] * 65}, "/required"),
                              ({"name": "x", "addon": [{"id": f"APP_{i}_RW"} for i in range(9)]},
                               "/addon"),
                              ({"name": "x", "required": ["NO_SUCH"]}, "/required/0"),
                              ({"name": "x", "required": ["APP_GONE_RW"]}, "/required/0")):
            got = self.call("postAzureIotedgeServices", body)
            self.assertEqual(got.status, 400, body)
            self.assertIn(f'"{pointer}"', got.body.decode())
        self.assertEqual(self.names_of(), ["only"])
        self.assertEqual(self.put("nobody", {}).status, 404)
        self.assertEqual(self.delete("nobody"), 404)
        long = self.make("a" * 51, "APP_MQTT_RW")
        self.assertEqual(self.check(long["token"]).json["name"], "AzureIoTEdge/" + "a" * 51)

    def test_there_are_so_many_and_no_more(self):
        tokens = [self.make(f"n{i}", "APP_MQTT_RW")["token"] for i in range(SERVICES_MAX)]
        got = self.call("postAzureIotedgeServices", {"name": "one-more"})
        self.assertEqual((got.status, got.json["error"]["message"]),
                         (403, "service creation failed: maximum service limit reached"))
        self.assertEqual([self.rights(t) for t in tokens], [MQTT] * SERVICES_MAX)
        self.assertEqual(len(set(self.check(t).json["userId"] for t in tokens)), SERVICES_MAX)
        self.delete("n0")
        self.make("one-more")

    def test_what_only_a_person_has_is_refused_with_a_reason(self):
        app = self.service_of(self.make("robot", "SYS_ACCOUNT_RW"))
        for operation, body in (("getUsersMe", b""), ("putUsersMe", {"description": "x"}),
                                ("putUsersMePassword", {"newPassword": SPARE}),
                                ("deleteAuth", b""), ("putAuthWebsocketToken", b"")):
            got = self.call(operation, body, who=app)
            self.assertEqual(got.status, 403, operation)
            self.assertTrue(got.json["error"]["message"])
        self.assertEqual(self.call("getAuth", who=app).status, 200)
        self.assertEqual([s for s in self.done("getSessions", who=app) if s["isCurrent"]], [])
        little = app[:3] + (0,) + app[4:]
        self.assertEqual(self.done("getSessions", who=little), [])
        self.assertEqual(self.call("deleteSessions", who=little,
                                   query=(("userIds", "1"),)).status, 403)

    def test_changes_by_a_service_account_are_recorded_as_its_own(self):
        app = self.service_of(self.make("writer", "APP_AIE_RW"))
        self.make("written", who=app)
        self.done("putAzureIotedgeService", {"displayName": "y"}, path=("written",), who=app)
        self.done("deleteAzureIotedgeService", path=("written",), status=204, who=app)
        for event in ("serviceAccountCreate", "serviceAccountUpdate", "serviceAccountDelete"):
            row, = wait_for(event, lambda e=event: self.audit.named(e, "account written "))
            self.assertEqual(row["source"], "AzureIoTEdge/writer")
            self.assertIn("by AzureIoTEdge/writer", row["message"])

    def test_the_token_is_in_no_record(self):
        made = self.make("quiet", "APP_MQTT_RW")
        wait_for("the record", lambda: self.audit.named("serviceAccountCreate", "quiet"))
        self.assertNotIn(made["token"].split(".")[2], json.dumps(self.audit.kept))
        self.assertNotIn(made["token"].split(".")[2], self.fleet.tail("authd", 1000))

    # ---- add-ons ----

    def test_the_permission_of_an_add_on_is_in_the_catalogue_while_it_is_there(self):
        before = self.catalogue()
        made = self.make("tool", "APP_TOOL_RW", "APP_MQTT_RW", addon=["APP_TOOL_RW"])
        self.assertEqual(self.catalogue(), before + ["APP_TOOL_RW"])
        self.assertEqual(self.done("getPermissions")[-1]["name"], "Name of APP_TOOL_RW")
        self.assertEqual(made["addon"], [{"id": "APP_TOOL_RW", "name": "Name of APP_TOOL_RW"}])
        bit = self.rights(made["token"]) & ~MQTT
        self.assertGreaterEqual(bit, 1 << 32)
        self.assertIn("APP_TOOL_RW", self.done("getUsersMe")["permissions"])  # an administrator's
        self.assertIn("APP_TOOL_RW", self.done("getRole", path=("1",))["permissions"])
        self.assertTrue(int(self.check(self.sign_in()["token"]).json["permissions"]) & bit)
        self.kill_and_start()
        self.assertEqual(self.rights(made["token"]), bit | MQTT)
        self.put("tool", {"addon": []})
        self.assertEqual(self.catalogue(), before)
        self.assertEqual(self.rights(made["token"]), MQTT)
        self.assertNotIn("APP_TOOL_RW", self.done("getUsersMe")["permissions"])

    def test_a_role_keeps_the_permission_of_an_add_on_until_it_comes_back(self):
        first = self.make("meter", "APP_METER_RW", addon=["APP_METER_RW"])
        bit = self.rights(first["token"])
        role = self.done("postRoles", {"name": "meters", "permissions": ["APP_METER_RW"]})["id"]
        user = self.new_user("reader", (role,))
        s = self.sign_in("reader", SPARE)
        self.assertEqual(harness.claims(s["token"])["Permissions"], ["APP_METER_RW"])
        self.assertEqual(self.rights(s["token"]), bit)
        self.assertEqual(self.done("getUser", path=(str(user),))["permissions"], ["APP_METER_RW"])
        n = len(self.gateway.asked_for(buspeer.AUTH_FORGET))
        self.delete("meter")
        self.assertTrue(self.gateway.asked_for(buspeer.AUTH_FORGET)[n].json.get("all"))
        self.assertEqual(self.rights(s["token"]), 0)
        self.assertEqual(self.done("getUser", path=(str(user),))["permissions"], [])
        self.assertEqual(self.done("getRole", path=(str(role),))["permissions"], ["APP_METER_RW"])
        # nobody new gets it, and the role can be changed without losing it
        self.assertEqual(self.call("postRoles", {"name": "late", "permissions": ["APP_METER_RW"]})
                         .status, 400)
        self.done("putRole", {"description": "d", "permissions": ["APP_METER_RW", "APP_AWS_RW"]},
                  path=(str(role),))
        other = self.make("else", "APP_ELSE_RW", addon=["APP_ELSE_RW"])
        self.assertNotEqual(self.rights(other["token"]), bit)  # the number is still the role's
        self.assertEqual(self.rights(s["token"]), 1 << 6)
        self.kill_and_start()
        again = self.make("meter", "APP_METER_RW", addon=["APP_METER_RW"])
        self.assertEqual(self.rights(again["token"]), bit)
        self.assertEqual(self.rights(s["token"]), bit | 1 << 6)
        self.done("deleteUser", path=(str(user),), status=204)
        self.done("deleteRole", path=(str(role),), status=204)

    def test_an_add_on_defines_nothing_that_is_there(self):
        self.make("first", addon=["APP_FIRST_RW"])
        for id_ in ("SYS_ACCOUNT_RW", "APP_MQTT_RW", "APP_FIRST_RW", "APP__RW", "APP_x_RW",
                    "APP_X", "XAPP_X_RW", "APP_X_RW ", "APP_" + "X" * 26 + "_RW"):
            got = self.call("postAzureIotedgeServices", {"name": "second", "addon": [{"id": id_}]})
            self.assertEqual(got.status, 400, id_)
            self.assertIn('"/addon/0/id"', got.body.decode())
        got = self.call("postAzureIotedgeServices", {
            "name": "second", "addon": [{"id": "APP_TWICE_RW"}, {"id": "APP_TWICE_RW"}]})
        self.assertEqual((got.status, '"/addon/1/id"' in got.body.decode()), (400, True))
        self.assertNotIn("APP_TWICE_RW", self.catalogue())

    def test_add_ons_are_so_many_and_an_administrator_signs_in_with_all_of_them(self):
        before = self.catalogue()
        ids = [f"APP_{i:025}_RW" for i in range(ADDONS_MAX)]  # as long as they may be
        for i in range(0, ADDONS_MAX, 8):
            self.make(f"s{i:02}", *ids[i:i + 8], addon=ids[i:i + 8])
        got = self.call("postAzureIotedgeServices", {"name": "x", "addon": [{"id": "APP_X_RW"}]})
        self.assertEqual((got.status, got.json["error"]["message"]),
                         (403, "add-on creation failed: maximum add-on limit reached"))
        self.assertEqual(self.catalogue(), before + ids)
        s = self.sign_in()
        self.assertEqual(harness.claims(s["token"])["Permissions"], before + ids)
        self.assertEqual(self.rights(s["token"]), ALL_RIGHTS | 0xffffffff << 32)
        full = self.make("full", *before, *ids, who=s["who"][:3] + (self.rights(s["token"]),)
                         + s["who"][4:])
        self.assertEqual(self.rights(full["token"]), self.rights(s["token"]))
        self.delete("s00")
        self.delete("full")
        self.make("x", addon=["APP_X_RW"])

    # ---- short-lived tokens ----

    def test_a_short_lived_token_is_its_sessions_owner_and_ends_with_the_session(self):
        s = self.sign_in()
        made = self.done("putAuthWebsocketToken", who=s["who"])
        mine, short = self.check(s["token"]).json, self.check(made["token"]).json
        self.assertEqual([short[k] for k in ("kind", "userId", "sessionId", "name",
                                             "permissions", "derived")],
                         ["user", 1, s["session"], "admin", mine["permissions"], True])
        self.assertFalse(mine["derived"])
        left = short["validUntil"] / 1e6 - time.time()
        self.assertTrue(890 - 30 * harness.SLOW < left <= 900, left)
        self.assertEqual(harness.claims(made["token"])["SessionID"], s["session"])
        self.assertLessEqual(abs(harness.claims(made["token"])["exp"] - short["validUntil"] / 1e6),
                             5 * harness.SLOW)
        self.kill_and_start()
        again = self.check(made["token"]).json
        self.assertEqual((again["sessionId"], again["derived"]), (s["session"], True))
        self.assertLessEqual(again["validUntil"] / 1e6 - time.time(), left + 0.1)
        self.done("deleteSession", path=(str(s["session"]),), status=204)
        self.assertEqual(self.check(made["token"]).status, 401)
        wait_for("the record", lambda: self.audit.named("sessionTokenCreate", "by admin"))

    def test_a_change_of_the_password_ends_the_short_lived_tokens_of_all_sessions(self):
        user = self.new_user("leaky")
        sessions = [self.sign_in("leaky", SPARE) for _ in range(2)]
        tokens = [self.done("putAuthWebsocketToken", who=s["who"])["token"] for s in sessions]
        self.done("putUsersMePassword", {"oldPassword": SPARE, "newPassword": SPARE + "0"},
                  who=sessions[0]["who"])
        statuses = lambda: [self.check(t).status for t in
                            (sessions[0]["token"], sessions[1]["token"], *tokens)]
        self.assertEqual(statuses(), [200, 401, 401, 401])
        self.kill_and_start()
        self.assertEqual(statuses(), [200, 401, 401, 401])
        self.done("deleteUser", path=(str(user),), status=204)

    def test_a_session_has_so_many_short_lived_tokens(self):
        s, other = self.sign_in(), self.sign_in()
        tokens = [self.done("putAuthWebsocketToken", who=s["who"])["token"] for _ in range(4)]
        got = self.call("putAuthWebsocketToken", who=s["who"])
        self.assertEqual(got.status, 403)
        self.assertIn("maximum token limit", got.json["error"]["message"])
        self.assertEqual({self.check(t).status for t in tokens}, {200})
        self.done("putAuthWebsocketToken", who=other["who"])
        gone = s["who"][:2] + (999999,) + s["who"][3:]
        self.assertEqual(self.call("putAuthWebsocketToken", who=gone).status, 401)
