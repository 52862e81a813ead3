"""A refused sign-in tells neither by its words nor by its time whether there is such an account."""
import statistics

import harness
from harness import PASSWORD, Client, Suite

TEST_SECONDS = 180
COST = 99  # runs alone: it measures time
SAMPLES = 15 if harness.SANITIZED else 40


class SignInTime(Suite):
    daemons = ("auditd", "authd", "gateway")
    RULE = {"enable": True, "failWindow": 15, "failTimes": 3, "lockWindow": 10}

    @classmethod
    def prepare(cls):
        cls.attempts = {
            "unknown name": ("nobody-at-all", "wrong-password"),
            "wrong password": ("known", "wrong-password"),
            "not active": ("sleeping", PASSWORD),
            "not active, wrong password": ("sleeping", "wrong-password"),
            "password longer than any": ("known", "\U0001f511" * 256),
        }
        cls.admin.put("/auth-lock", {**cls.RULE, "enable": False})
        for name, active in (("known", True), ("sleeping", False), ("to-lock", True)):
            reply = cls.admin.post("/users", {"name": name, "password": PASSWORD,
                                              "isActive": active, "roles": [{"id": 1}]})
            if reply.status != 200:
                raise AssertionError(f"{reply}")

    def measure(self, attempts):
        """Interleaved, so that a busy machine is busy for all: {what: [seconds]}."""
        client, took = Client(self.fleet), {what: [] for what in attempts}
        for _ in range(SAMPLES):
            for what, (name, password) in attempts.items():
                reply = client.post("/auth", {"name": name, "password": password})
                self.assertIn(reply.status, (401, 403), repr(reply))
                took[what].append(reply.took)
        return took

    @staticmethod
    def can_be_told_apart(a, b):
        """By somebody who guesses which of two is slower: right in at least 70 of 100 pairs
        (of all pairs, the rank sum of Mann and Whitney), or by a tenth of the median."""
        wins = sum((x > y) + 0.5 * (x == y) for x in a for y in b) / (len(a) * len(b))
        gap = abs(statistics.median(a) - statistics.median(b)) / statistics.median(a + b)
        return max(wins, 1 - wins) > 0.7 and gap > 0.1

    def test_all_reasons_have_the_same_words(self):
        replies = [self.assert_refused(self.anyone.post("/auth", {"name": n, "password": p}), 401)
                   for n, p in self.attempts.values()]
        self.assertEqual(len({r.body for r in replies}), 1, replies)

    def test_all_reasons_take_the_same_time(self):
        took = self.measure(self.attempts)
        print({k: f"{statistics.median(v) * 1000:.1f} ms" for k, v in took.items()}, flush=True)
        for what, seconds in took.items():
            self.assertFalse(self.can_be_told_apart(took["unknown name"], seconds), what)

    def test_a_locked_name_answers_alike_whether_or_not_there_is_such_an_account(self):
        self.assert_ok(self.admin.put("/auth-lock", self.RULE))
        try:
            for name in ("to-lock", "no-such-name"):
                for _ in range(3):
                    self.assert_refused(self.anyone.post("/auth", {
                        "name": name, "password": "wrong-password"}), 401)
            locked = {"locked": ("to-lock", "wrong-password"),
                      "locked, right password": ("to-lock", PASSWORD),
                      "locked, unknown": ("no-such-name", "wrong-password")}
            replies = [self.assert_refused(self.anyone.post("/auth", {"name": n, "password": p}), 403)
                       for n, p in locked.values()]
            self.assertEqual(len({r.body for r in replies}), 1, replies)
            took = self.measure(locked)
            for what, seconds in took.items():
                self.assertFalse(self.can_be_told_apart(took["locked"], seconds), what)
        finally:
            self.assert_ok(self.admin.put("/auth-lock", {**self.RULE, "enable": False}))
        # and the measure can tell: a locked name is not verified, which shows
        wrong = self.measure({"wrong": self.attempts["wrong password"]})["wrong"]
        self.assertTrue(self.can_be_told_apart(took["locked"], wrong))


class SignInRecords(Suite):
    daemons = ("auditd", "authd", "gateway")

    def test_the_audit_log_tells_what_the_answer_does_not(self):
        self.assert_ok(self.admin.post("/users", {"name": "sleeping", "password": PASSWORD,
                                                  "isActive": False, "roles": [{"id": 1}]}))
        for name, password, why in (("ghost", "wrong-password", "Unknown account"),
                                    ("admin", "wrong-password", "Wrong password"),
                                    ("sleeping", PASSWORD, "The account is not active")):
            reply = self.anyone.post("/auth", {"name": name, "password": password})
            row, = self.assert_audited("signInFail", why, source=name)
            self.assertEqual(row["requestId"], reply.headers["X-Request-Id"])
        self.assertEqual(self.audits(names="accessRefused", messages="/auth"), [])
