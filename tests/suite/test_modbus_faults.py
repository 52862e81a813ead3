"""Devices that are gone, slow or wrong: each tag tells within one time-out,
the other devices keep their pace, and all is back by itself."""
import contextlib
import glob
import os
import time

import harness
from harness import Suite, wait_for
from hostile_modbus import Hostile

TEST_SECONDS = 180
TIMEOUT_MS = 300
INTERVAL_MS = 100


def kept_waiting(fleet):
    """Seconds for which the machine kept modbusd and the devices (threads of
    this process) from a processor: they can have cost samples, and nobody here
    is to blame for them."""
    total = 0
    for pid in (os.getpid(), fleet.d["modbusd"].pid):
        for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
            with contextlib.suppress(OSError), open(path, encoding="ascii") as f:
                total += int(f.read().split()[1])
    return total / 1e9


def pass_time(fleet, seconds):
    """Waits; returns what of that time the machine gave to modbusd and the devices."""
    began, before = time.monotonic(), kept_waiting(fleet)
    wait_for("time to pass", lambda: time.monotonic() - began > seconds, seconds + 5, 0.05)
    return time.monotonic() - began - max(0, kept_waiting(fleet) - before)


class Faults(Suite):
    daemons = ("auditd", "authd", "tagd", "modbusd", "gateway")

    @classmethod
    def prepare(cls):
        cls.bad, cls.good = Hostile(), Hostile()
        cls.set_interface(retryCount=0, responseTout=TIMEOUT_MS)
        for name, device in (("bad", cls.bad), ("good", cls.good)):
            cls.add_device(name, device.port, [
                ("regs", 3, 10, 4, INTERVAL_MS, [("a", "uint16", 0), ("b", "uint16", 6)])])
        cls.apply()
        wait_for("both devices", lambda: cls.values("good").get("a", {}).get("quality") == "good"
                 and cls.values("bad").get("a", {}).get("quality") == "good")

    @classmethod
    def tearDownClass(cls):
        cls.bad.stop()
        cls.good.stop()
        super().tearDownClass()

    def setUp(self):
        self.bad.mode = "ok"
        self.wait_quality("bad", "a", "good", 15)

    def pace(self, seconds):
        """The share of the neighbour's samples that came in that time."""
        before = self.good.answered[1]
        given = pass_time(self.fleet, seconds)
        return (self.good.answered[1] - before + 1) / (given * 1000 / INTERVAL_MS)

    def fault(self, mode, qualities, delay=None, code=2, seconds=2.0):
        """Orders a fault; the tag must tell within one time-out and an interval."""
        self.bad.delay, self.bad.code = delay or 0.5, code
        stream = self.admin.stream("/tags/monitor/modbus_tcp_master/bad?tags=a&onChanged")
        self.addCleanup(stream.close)
        wait_for("the stream", lambda: stream.events)
        began = time.monotonic()
        if mode == "gone":
            self.bad.gone()
            self.addCleanup(lambda: self.bad.is_gone and self.bad.back())
        else:
            self.bad.mode = mode
        stream.wait_event(lambda e: e.get("quality") != "good", 5)
        told = time.monotonic() - began
        limit = (TIMEOUT_MS + 2 * INTERVAL_MS) / 1000 + 0.1
        self.assertLess(told, limit * harness.SLOW, f"{mode}: told after {told:.3f} s")
        row = self.wait_quality("bad", "a", qualities)
        self.assertEqual(row["dataValue"], 10, "the last good value stays")
        share = self.pace(seconds)
        self.assertGreaterEqual(share, 0.95 / harness.SLOW,
                                f"{mode}: the share of the neighbour's samples that came")
        # and back by itself
        mark = len(stream.events)
        if mode == "gone":
            self.bad.back()
        else:
            self.bad.mode = "ok"
        stream.wait_event(lambda e: e.get("quality") == "good" and e["dataValue"] == 10, 10,
                          since=mark)

    def test_a_device_that_is_gone(self):
        self.fault("gone", ("connection", "timeout"))

    def test_a_device_that_is_mute(self):
        self.fault("mute", ("timeout", "connection"))

    def test_a_device_that_answers_too_late(self):
        self.fault("late", ("timeout", "connection"), delay=0.7)

    def test_a_late_answer_is_never_taken_for_the_next_one(self):
        """After a late answer each value must still be its own register's."""
        self.bad.delay = TIMEOUT_MS / 1000 + 0.05
        self.bad.mode = "late"
        wait_for("some late answers", lambda: self.bad.requests[1] > 0)
        self.wait_quality("bad", "a", ("timeout", "connection"))
        self.bad.mode = "ok"
        self.wait_quality("bad", "a", "good", 10)
        for _ in range(20):
            rows = self.values("bad", "a", "b")
            self.assertEqual((rows["a"]["dataValue"], rows["b"]["dataValue"]), (10, 13))

    def test_a_device_with_wrong_transaction_ids(self):
        self.fault("wrong_tid", ("timeout", "reply", "badReply", "connection"))

    def test_a_device_that_sends_half_a_frame(self):
        self.fault("short", ("timeout", "reply", "badReply", "connection"))

    def test_a_device_that_sends_garbage(self):
        self.fault("garbage", ("timeout", "reply", "badReply", "connection"))

    def test_a_device_that_answers_with_an_exception(self):
        self.fault("exception", ("exception",))

    def test_a_device_that_sends_a_byte_at_a_time(self):
        self.fault("slow", ("timeout", "connection", "reply", "badReply"), delay=0.08)

    def test_a_device_that_closes_instead_of_answering(self):
        self.fault("close", ("connection", "timeout", "reply", "badReply"))

    def test_a_device_that_answers_for_another_unit(self):
        self.fault("wrong_unit", ("timeout", "reply", "badReply", "connection"))

    def test_a_device_that_answers_another_function(self):
        self.fault("wrong_func", ("timeout", "reply", "badReply", "connection"))

    def test_a_device_that_answers_fewer_registers(self):
        self.fault("wrong_count", ("timeout", "reply", "badReply", "connection"))

    def test_a_device_that_announces_an_endless_frame(self):
        self.fault("long", ("timeout", "reply", "badReply", "connection"))


class Shared(Suite):
    """One connection, several units: one of them never answers."""

    daemons = ("auditd", "authd", "tagd", "modbusd", "gateway")
    UNITS = 5

    @classmethod
    def prepare(cls):
        cls.device = Hostile()
        cls.set_interface(retryCount=0, responseTout=500)
        for unit in range(1, cls.UNITS + 1):
            cls.add_device(f"unit{unit}", cls.device.port, [
                ("regs", 3, 0, 2, 200, [("a", "uint16", 0)])], unit=unit)
        cls.apply()
        wait_for("all units", lambda: all(
            cls.values(f"unit{u}").get("a", {}).get("quality") == "good"
            for u in range(1, cls.UNITS + 1)))

    @classmethod
    def tearDownClass(cls):
        cls.device.stop()
        super().tearDownClass()

    def count(self, seconds):
        before = dict(self.device.answered)
        given = pass_time(self.fleet, seconds)
        return {u: (self.device.answered[u] - before[u] + 1) / (given / 0.2)
                for u in range(2, self.UNITS + 1)}

    def test_the_neighbours_of_a_mute_unit_keep_95_percent_of_their_samples(self):
        """From the moment it goes mute."""
        self.device.unit_mode[1] = "mute"
        shares = self.count(15)
        self.assertGreaterEqual(min(shares.values()), 0.95 / harness.SLOW, shares)
        self.wait_quality("unit1", "a", ("timeout", "connection"))
        for unit in range(2, self.UNITS + 1):
            self.assertEqual(self.values(f"unit{unit}")["a"]["quality"], "good")
        del self.device.unit_mode[1]
        self.wait_quality("unit1", "a", "good")

    def test_a_peer_that_closes_on_one_unit_keeps_the_others(self):
        self.device.unit_mode[3] = "close"
        self.addCleanup(self.device.unit_mode.pop, 3)
        self.wait_quality("unit3", "a", "connection", 1)
        shares = self.count(5)
        del shares[3]
        self.assertGreaterEqual(min(shares.values()), 0.95 / harness.SLOW, shares)
        for unit in shares:
            self.assertEqual(self.values(f"unit{unit}")["a"]["quality"], "good")
        self.device.unit_mode[3] = "ok"
        self.wait_quality("unit3", "a", "good")


class Bounds(Suite):
    daemons = ("auditd", "authd", "modbusd", "gateway")

    def test_one_request_makes_at_most_5000_tags_by_itself(self):
        self.add_device("plant", 1502, [])
        device = self.admin.get("/modbusmaster/config/remote-devs").data[0]["remoteDevId"]
        def post(n):
            return self.admin.post("/modbusmaster/config/mcmds?autoCreate=tags", [
                {"remoteDevId": device, "name": f"c{n}_{i}", "func": 3, "readQuantity": 125,
                 "dataType": "uint16"} for i in range(n)])
        self.assert_refused(post(41), 400, pointer="/40")
        self.assertEqual(self.admin.get("/modbusmaster/config/tags").json["count"], 0)
        self.assert_ok(post(40))
        self.assertEqual(self.admin.get("/modbusmaster/config/tags").json["count"], 5000)
