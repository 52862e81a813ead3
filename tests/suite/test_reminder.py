"""What time does to passwords, with a clock that can be set."""
from harness import PASSWORD, ShiftedClock, Suite

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
