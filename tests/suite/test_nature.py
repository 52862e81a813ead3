"""A clock that jumps and a disk that is full."""
import os
import time

import harness
from harness import Plant, ShiftedClock, SmallDisk, Suite, wait_for

TEST_SECONDS = 180
PRIVATE_MOUNTS = True  # run.py gives us a mount namespace
P = "modbus_tcp_master"


class Clock(ShiftedClock, Suite):
    @classmethod
    def tearDownClass(cls):
        cls.subscriber.close()
        super().tearDownClass()

    @classmethod
    def prepare(cls):
        cls.plant = Plant(cls.fleet)
        cls.add_device("pump", cls.plant.port, [("flow", 3, 0, 1, 100, [("flow", "uint16", 0)])])
        cls.apply()
        broker = harness.Broker(cls.fleet).start()
        cls.add_group(cls.add_mqtt(broker.port), {P: {"pump": ["flow"]}})
        cls.subscriber = harness.Subscriber(broker.port)
        wait_for("the value", lambda: cls.values("pump").get("flow"))

    def jump(self, seconds):
        stream = self.admin.stream(f"/tags/monitor/{P}/pump?tags=flow&onChanged")
        wait_for("events", lambda: len(stream.events) > 5)
        before, mqtt = len(stream.events), len(self.subscriber.messages)
        old = self.values("pump")["flow"]["ts"] - self.shifted * 1000000
        self.shift(seconds)
        began = time.monotonic()
        wait_for("20 events after the jump", lambda: len(stream.events) >= before + 20, 10)
        self.assertLess(time.monotonic() - began, 8 * harness.SLOW, "polling lost its pace")
        wait_for("messages at the broker", lambda: len(self.subscriber.messages) >= mqtt + 5, 10)
        new = self.values("pump")["flow"]["ts"]
        self.assertLess(abs((new - old) / 1e6 - seconds), 15 * harness.SLOW)
        self.assert_ok(self.admin.get("/users/me"))
        self.assert_ok(self.sign_in().get("/users/me"))
        word = f"jumped {seconds}"
        self.assert_ok(self.admin.put("/users/me", {"description": word}))
        self.assert_audited("accountUpdate", containing=word, count=1)
        stream.close()

    def test_1_an_hour_forward_disturbs_nothing(self):
        # sessions idle for an hour may end: ours did not, it was used a moment ago
        self.jump(3600)

    def test_2_an_hour_back_disturbs_nothing(self):
        self.jump(0)
        self.jump(-3600)

    def test_3_records_stay_in_order_by_their_number(self):
        ids = [r["id"] for r in self.audits()]
        self.assertEqual(ids, sorted(set(ids)))


class FullDisk(SmallDisk, Suite):
    """All state on a tmpfs of a few MiB that a big file fills."""

    def test_a_full_disk_is_an_error_to_the_client_and_costs_nothing_that_was_answered(self):
        answered = []

        def write(n):
            reply = self.admin.put("/users/me", {"description": f"word-{n}-end"})
            if reply.status == 200:
                answered.append(n)
            return reply
        for n in range(20):
            self.assert_ok(write(n))
        self.fill()
        full, n = [], 20
        while len(full) < 20 and n < 3000:
            reply = write(n)
            n += 1
            if reply.status != 200:
                self.assert_refused(reply, 507)
                full.append(n)
        self.assertEqual(len(full), 20, "the disk never got full")
        # reading goes on, what was answered is there, every daemon lives
        self.assertEqual(self.admin.get("/users/me").data["description"],
                         f"word-{answered[-1]}-end")
        for name, path in harness.PROBE.items():
            self.assert_ok(self.admin.get(path))
        body = {"masterTcpIfaceId": 1, "name": "d", "slaveIpaddr": "127.0.0.1"}
        codes = set()
        for i in range(40):
            codes.add(self.admin.post("/modbusmaster/config/remote-devs",
                                      {**body, "name": f"d{i}", "slaveId": i + 1}).status)
        self.assertLessEqual(codes, {200, 201, 400, 507}, codes)
        # a restart on the full disk still serves what is there
        self.restart("authd", wait=False)
        wait_for("authd back", lambda: self.admin.get("/users/me").status == 200, 20)
        self.assertEqual(self.admin.get("/users/me").data["description"],
                         f"word-{answered[-1]}-end")
        # room again: all goes on by itself, every answered change has its record
        os.unlink(self.big)
        wait_for("writes", lambda: write(100000 + n).status == 200, 10)
        rows = wait_for("the records", lambda: self.recorded(answered), 40)
        self.assertEqual(sorted(rows), sorted(set(rows)))
        for name in self.fleet.names:
            self.assertTrue(self.fleet.d[name].alive(), name)

    def recorded(self, answered):
        text = [r["message"] + r["detail"] for r in self.audits(names="accountUpdate")]
        words = [w for t in text for w in t.split("word-")[1:]]
        numbers = [int(w.split("-")[0]) for w in words]
        return numbers if set(answered) <= set(numbers) else None
