"""What time does to passwords and sessions, with a clock that can be set."""
import harness
from harness import PASSWORD, ShiftedClock, Suite, wait_for

DAY = 86400


class Reminder(ShiftedClock, Suite):
    daemons = ("auditd", "authd", "gateway")

    def flag(self, client=None):
        return (client or self.admin).get("/users/me").data.get("flag") or ""

    def test_an_old_password_is_reminded_of_until_it_is_changed(self):
        self.assert_ok(self.admin.put("/password-policy", {"reminderFrequencyDay": 10}))
        role = self.assert_ok(self.admin.post("/roles", {
            "name": "plain", "permissions": ["APP_MQTT_RW"]})).data["id"]
        self.assert_ok(self.admin.post("/users", {"name": "never-changed", "password": PASSWORD,
                                                  "isActive": True, "roles": [{"id": role}]}))
        other = self.sign_in("never-changed")
        self.assertEqual((self.flag(), self.flag(other)), ("", ""))
        self.shift(9 * DAY + 3600)
        self.assertEqual((self.flag(), self.flag(other)), ("", ""))
        self.shift(10 * DAY + 3600)
        self.assertEqual((self.flag(), self.flag(other)), ("passwordChangeRemind",) * 2)
        self.assertEqual(self.anyone.post("/auth", {"name": "never-changed", "password": PASSWORD})
                         .data["user"]["flag"], "passwordChangeRemind")
        self.assert_ok(self.admin.put("/password-policy", {"enableReminder": False}))
        self.assertEqual(self.flag(), "")
        self.assert_ok(self.admin.put("/password-policy", {"enableReminder": True}))
        self.assert_ok(self.admin.put("/users/me/password", {"oldPassword": PASSWORD,
                                                             "newPassword": PASSWORD + "x"}))
        self.assertEqual((self.flag(), self.flag(other)), ("", "passwordChangeRemind"))


class ShortLived(ShiftedClock, Suite):
    daemons = ("auditd", "authd", "gateway")

    def test_the_clock_ends_a_short_lived_token_only_where_nobody_watched_it(self):
        token = self.assert_ok(self.admin.put("/auth/websocket-token")).data["token"]
        short = self.admin.with_token(token)
        self.shift(20 * 60)  # while authd runs it counts itself
        self.assert_ok(short.get("/users/me"))
        self.restart("authd")  # across a restart only the clock can tell
        wait_for("authd's word", lambda: short.get("/users/me").status == 401)
        self.assert_ok(self.admin.get("/users/me"))


if harness.VARIANT == "tsan":  # there NNG's waits pass by the shifted clock: no peer is redialled
    del ShortLived
