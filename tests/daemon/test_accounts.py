"""authd alone: the rules for passwords, and that somebody can always let people in."""
import threading

from authdalone import SPARE, AuthdAlone
from harness import wait_for
from onedaemon import NOBODY


class Passwords(AuthdAlone):
    def change(self, session, new, old=None):
        body = {"newPassword": new, **({"oldPassword": old} if old else {})}
        return self.call("putUsersMePassword", body, who=session["who"])

    def refused(self, got, pointer, word=""):
        self.assertEqual(got.status, 400, got.body)
        self.assertEqual(got.json["error"]["details"][0]["pointer"], pointer)
        self.assertIn(word, got.json["error"]["message"])

    def test_the_policy_holds_wherever_a_password_is_set(self):
        user = self.new_user("policed")
        s = self.sign_in("policed", SPARE)
        before = self.done("getPasswordPolicy")
        rules = (({"lengthMin": 12}, "Short-one-7", "shorter"),
                 ({"atLeastOneDigit": True}, "No-digit-here", "digit"),
                 ({"atLeastOneSpecial": True}, "NoSpecial77", "special"),
                 ({"mixedUpperLowerLetters": True}, "all-lower-77", "upper and lower"),
                 ({}, "ADMIN@123", "blacklist"), ({}, "moxamoxa", "blacklist"))
        for rule, password, word in rules:
            self.done("putPasswordPolicy", {k: before[k] for k in (
                "lengthMin", "atLeastOneDigit", "atLeastOneSpecial", "mixedUpperLowerLetters")})
            self.done("putPasswordPolicy", rule)
            self.refused(self.change(s, password, SPARE), "/newPassword", word)
            self.refused(self.call("putUserPassword", {"newPassword": password},
                                   path=(str(user),)), "/newPassword", word)
            self.refused(self.call("postUsers", {
                "name": "another", "password": password, "isActive": True,
                "roles": [{"id": 1}]}), "/password", word)
        self.assertEqual(self.sign_in("policed", SPARE)["user"], user)
        self.assertNotIn("another", self.names())
        self.done("deleteUser", path=(str(user),), status=204)

    def test_the_policy_outlives_a_restart(self):
        self.done("putPasswordPolicy", {"lengthMin": 20, "reminderFrequencyDay": 10})
        self.kill_and_start()
        got = self.done("getPasswordPolicy")
        self.assertEqual((got["lengthMin"], got["reminderFrequencyDay"], got["blacklist"]),
                         (20, 10, ["admin@123", "moxamoxa"]))
        self.done("putPasswordPolicy", {"lengthMin": 8, "reminderFrequencyDay": 180})

    def test_a_new_password_is_neither_the_name_nor_the_old_one(self):
        user = self.new_user("Same-as-name-1")
        s = self.sign_in("Same-as-name-1", SPARE)
        self.refused(self.change(s, "same-AS-name-1", SPARE), "/newPassword", "name")
        self.refused(self.change(s, SPARE, SPARE), "/newPassword", "old")
        for new, word in (("Same-as-name-1", "name"), (SPARE, "old")):
            self.refused(self.call("putUserPassword", {"newPassword": new}, path=(str(user),)),
                         "/newPassword", word)
        self.assertEqual(self.change(s, SPARE + "x").status, 400)  # without the old one
        self.assertEqual(self.change(s, SPARE + "x", "not-the-old-1").status, 401)
        self.assertEqual(self.sign_in("Same-as-name-1", SPARE)["user"], user)
        self.assertEqual(self.change(s, SPARE + "x", SPARE).status, 200)
        self.assertEqual(self.sign_in("Same-as-name-1", SPARE + "x")["user"], user)
        self.done("deleteUser", path=(str(user),), status=204)

    def test_failed_sign_ins_are_recorded_with_where_they_came_from(self):
        for addr in ("192.0.2.77", "2001:db8::7"):
            who = NOBODY[:5] + (addr,)
            self.assertEqual(self.call("postAuth", {"name": f"from-{addr[-2:]}".replace(":", "-"),
                                                    "password": "wrong-password"}, who=who).status,
                             401)
            wait_for("the record", lambda a=addr: [
                r for r in self.audit.named("signInFail") if r["addr"] == a])


class LastAdministrator(AuthdAlone):
    """Role 1 lets people in: of those who hold it one that is active stays."""

    @classmethod
    def begin(cls):
        super().begin()
        cls.role = cls.done("postRoles", {"name": "plain", "permissions": ["SYS_ACCOUNT_RW"]})["id"]

    def admins(self):
        return [u["id"] for u in self.done("getUsers")
                if u["isActive"] and 1 in [r["id"] for r in u["roles"]]]

    def test_the_last_one_can_be_neither_removed_nor_disabled_nor_stripped(self):
        # a second one that is not active, and one with the permission but not the role
        idle = self.new_user("idle")
        self.done("putUser", {"isActive": False}, path=(str(idle),))
        other = self.new_user("nearly", (self.role,))
        for operation, body in (("deleteUser", b""), ("putUser", {"isActive": False}),
                                ("putUser", {"roles": [{"id": self.role}]}),
                                ("putUser", {"isActive": False, "roles": [{"id": 1}]})):
            got = self.call(operation, body, path=("1",))
            self.assertEqual(got.status, 403, (operation, body))
            self.assertIn("last active administrator", got.json["error"]["message"])
        self.assertEqual(self.admins(), [1])
        self.done("putUser", {"roles": [{"id": self.role}, {"id": 1}]}, path=("1",))
        # by way of the role: it can be neither changed nor deleted
        self.assertEqual(self.call("putRole", {"permissions": ["APP_MQTT_RW"]}, path=("1",)).status,
                         403)
        self.assertEqual(self.call("putRole", {"name": "x"}, path=("1",)).status, 403)
        self.assertEqual(self.call("deleteRole", path=("1",)).status, 403)
        self.done("putUser", {"roles": [{"id": 1}]}, path=("1",))
        for user in (idle, other):
            self.done("deleteUser", path=(str(user),), status=204)

    def test_with_a_second_one_it_can_and_the_second_is_then_the_last(self):
        second = self.new_user("second")
        self.done("putUser", {"roles": [{"id": self.role}]}, path=("1",))
        self.assertEqual(self.call("deleteUser", path=(str(second),)).status, 403)
        self.kill_and_start()
        self.assertEqual(self.call("putUser", {"isActive": False}, path=(str(second),)).status, 403)
        self.done("putUser", {"roles": [{"id": 1}]}, path=("1",))
        self.done("deleteUser", path=(str(second),), status=204)
        self.assertEqual(self.admins(), [1])

    def test_of_requests_that_cross_one_is_refused(self):
        """All that can take an administrator away, for all of them at once."""
        for _ in range(4):
            ids = [1] + [self.new_user(f"crossing{i}") for i in range(3)]
            ways = (("putUser", {"isActive": False}), ("putUser", {"roles": [{"id": self.role}]}))
            start, statuses = threading.Barrier(len(ids) * 2), []

            def take(user, operation, body, start=start, statuses=statuses):
                start.wait()
                statuses.append(self.call(operation, body, path=(str(user),)).status)
            threads = [threading.Thread(target=take, args=(u, *w)) for u in ids for w in ways]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            left = self.admins()
            self.assertEqual(len(left), 1, statuses)
            self.assertLessEqual(set(statuses), {200, 403})
            self.assertIn(403, statuses)
            self.done("putUser", {"isActive": True, "roles": [{"id": 1}]}, path=("1",))
            for user in ids[1:]:
                self.done("deleteUser", path=(str(user),), status=204)
