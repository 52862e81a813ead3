"""Devices that are gone, slow or wrong: each tag tells within one time-out,
the other devices keep their pace, and all is back by itself."""
import collections
import contextlib
import glob
import os
import subprocess
import sys
import time

import harness
import tagwire
from harness import Suite, wait_for
from hostile_modbus import MODES, Hostile
from modbusdaemon import Bus

TEST_SECONDS = 180
SECONDS = 3.0  # of faults
HELD_UP_S = 0.5  # that modbusd and the devices waited together for a processor
TIMEOUT_MS = 300
INTERVAL_MS = 100


def kept_waiting(fleet, *pids):
    """Seconds for which the machine kept modbusd and the devices (threads of
    this process, or the processes 'pids') from a processor: they can have cost
    samples, and nobody here is to blame for them."""
    total = 0
    for pid in (fleet.d["modbusd"].pid, *(pids or [os.getpid()])):
        for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
            with contextlib.suppress(OSError), open(path, encoding="ascii") as f:
                total += int(f.read().split()[1])
    return total / 1e9


def pass_time(fleet, seconds):
    """Waits; returns what of that time the machine gave to modbusd and the devices."""
    began, before = time.monotonic(), kept_waiting(fleet)
    wait_for("time to pass", lambda: time.monotonic() - began > seconds, seconds + 5, 0.05)
    return time.monotonic() - began - max(0, kept_waiting(fleet) - before)


# what a device does, and the qualities that tell of it; "good": it is in order, though odd
LOST, LATE, WRONG = {tagwire.CONNECTION}, {tagwire.TIMEOUT}, {tagwire.REPLY}
GOOD, REFUSED = {tagwire.GOOD}, {tagwire.EXCEPTION}
CASES = {
    "split": GOOD, "merged": GOOD, "twice": GOOD, "closes_after": GOOD,
    "gone": LOST, "close": LOST, "reset": LOST,
    "mute": LATE, "late": LATE, "slow": LATE, "short": LATE, "header_long": LATE,
    "wrong_tid": LATE, "previous": LATE, "endless_frames": LATE,
    "exception": REFUSED,
    "wrong_exception": WRONG, "long_exception": WRONG, "short_exception": WRONG,
    "wrong_unit": WRONG, "wrong_protocol": WRONG, "wrong_func": WRONG, "wrong_count": WRONG,
    "more": WRONG, "count_lies": WRONG, "no_data": WRONG, "header_short": WRONG,
    "header_zero": WRONG, "header_one": WRONG, "long": WRONG, "garbage": WRONG,
    "endless": WRONG,
}
# A connection that was given up, or is made anew, may be seen as well.
ALSO = LOST | LATE
assert set(CASES) == set(MODES) - {"ok"} | {"gone"}


class Process:
    """One in a process of its own: it takes all the time it gets."""

    def __init__(self, suite):
        self.port, self.mode = harness.free_port(), "ok"
        self.process = suite.fleet.spawn(
            [sys.executable, os.path.join(harness.FAKES, "hostile_modbus.py"), str(self.port),
             "ok"], stdin=subprocess.PIPE, text=True)
        wait_for("the device", lambda: harness.is_open(self.port))

    def order(self, mode):
        self.mode = mode
        self.process.stdin.write(mode + "\n")
        self.process.stdin.flush()

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()


class Faults(Suite):
    """All cases at once, each on a device of its own, beside a healthy one."""

    daemons = ("auditd", "authd", "tagd", "modbusd", "gateway")

    @classmethod
    def prepare(cls):
        cls.good, cls.bad, cls.names, cls.seen = Process(cls), {}, {}, set()
        cls.set_interface(retryCount=0, responseTout=TIMEOUT_MS)
        for name in ("good", *CASES):
            device = cls.good if name == "good" else Process(cls) if name.startswith("endless") \
                else Hostile()
            if device is not cls.good:
                cls.bad[name] = device
            ids = cls.add_device(name, device.port, [
                ("regs", 3, 10, 4, INTERVAL_MS, [("a", "uint16", 0), ("b", "uint16", 6)])])
            cls.names.update({ids["tags"][0]: (name, 10), ids["tags"][1]: (name, 13)})
        cls.apply()
        cls.bus = Bus(f"{cls.fleet.run}/bus/modbusd.tags")

    @classmethod
    def tearDownClass(cls):
        cls.bus.pipe.close()
        for device in (cls.good, *cls.bad.values()):
            device.stop()
        super().tearDownClass()

    def samples(self, seconds):
        """What comes in that time: {device: [(time, quality)]}. No value is ever wrong."""
        out = collections.defaultdict(list)
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            for s in self.bus.next().samples:
                if s.no not in self.names:
                    continue
                name, value = self.names[s.no]
                if s.quality == tagwire.GOOD:
                    self.seen.add(s.no)
                if s.no in self.seen:  # also while it is bad: the last good one
                    self.assertEqual(s.value, value, f"{name}: a value of another register")
                out[name].append((now, s.quality))
        return out

    def wait_all_good(self, seconds):
        missing, end = set(CASES), time.monotonic() + seconds * harness.SLOW
        while missing and time.monotonic() < end:
            missing -= {name for name, rows in self.samples(0.1).items()
                        if rows[-1][1] == tagwire.GOOD}
        self.assertEqual(missing, set(), "not back")

    def order(self, fault):
        for name, device in self.bad.items():
            mode = name if fault else "ok"
            if isinstance(device, Process):
                device.order(mode)
            elif name == "gone" and fault != device.is_gone:
                (device.gone if fault else device.back)()
            elif name != "gone":
                device.mode = mode

    def setUp(self):
        self.order(False)
        self.wait_all_good(15)

    def test_each_fault_is_told_costs_nobody_else_anything_and_passes(self):
        good, began = self.good.process.pid, time.monotonic()
        waits = kept_waiting(self.fleet, good), kept_waiting(self.fleet)
        self.order(True)
        seen = self.samples(SECONDS)
        given = time.monotonic() - began - (kept_waiting(self.fleet, good) - waits[0])
        waited = kept_waiting(self.fleet) - waits[1]
        # Answers that the machine held up are late, whoever they are from.
        held_up = ALSO if waited > HELD_UP_S else set()
        n = sum(quality == tagwire.GOOD for _, quality in seen["good"]) / 2  # tags
        share = (n + 1) / (given * 1000 / INTERVAL_MS)
        wrong, limit = [], ((TIMEOUT_MS + 2 * INTERVAL_MS) / 1000 + 0.1) * harness.SLOW
        for name, qualities in CASES.items():
            rows = [(at - began, quality) for at, quality in seen[name]]
            told = [at for at, quality in rows if quality != tagwire.GOOD]
            late = {quality for at, quality in rows if at > SECONDS / 2}
            if qualities == GOOD:
                if not (set() if held_up else GOOD) <= {quality for _, quality in rows} <= GOOD | held_up:
                    wrong.append(f"{name}: is in order, but has the samples {rows}")
            elif not told or told[0] > limit:
                wrong.append(f"{name}: told after {told[:1]}")
            elif tagwire.GOOD in late or not late <= qualities | ALSO:
                wrong.append(f"{name}: has the qualities {late}")
            elif not qualities & {quality for _, quality in rows}:
                wrong.append(f"{name}: never told {qualities} but {rows}")
        self.assertEqual(wrong, [])
        self.assertLessEqual({q for _, q in seen["good"]}, GOOD | held_up)
        if given > SECONDS / 2:
            self.assertGreaterEqual(share, 0.8 / harness.SLOW, "the neighbour's samples")
        for name in set(CASES) - {"split", "merged", "twice", "closes_after"}:
            self.assertNotEqual(self.values(name)["status"]["dataValue"], 0, name)
        self.order(False)
        self.wait_all_good(10)

    def test_a_late_answer_is_never_taken_for_the_next_one(self):
        """After a late answer each value must still be its own register's."""
        late = self.bad["late"]
        self.addCleanup(setattr, late, "delay", late.delay)
        late.delay, late.mode = TIMEOUT_MS / 1000 + 0.05, "late"
        wait_for("some late answers", lambda: {q for _, q in self.samples(0.1)["late"]} - GOOD)
        late.mode = "ok"
        self.wait_all_good(10)
        self.samples(0.5)


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

    def test_the_neighbours_of_a_mute_unit_keep_their_samples(self):
        """From the moment it goes mute."""
        self.device.unit_mode[1] = "mute"
        shares = self.count(6)
        self.assertGreaterEqual(min(shares.values()), 0.8 / harness.SLOW, shares)
        self.wait_quality("unit1", "a", ("timeout", "connection"))
        for unit in range(2, self.UNITS + 1):
            self.assertEqual(self.values(f"unit{unit}")["a"]["quality"], "good")
        del self.device.unit_mode[1]
        self.wait_quality("unit1", "a", "good")

    def test_a_peer_that_closes_on_one_unit_keeps_the_others(self):
        self.device.unit_mode[3] = "close"
        self.addCleanup(self.device.unit_mode.pop, 3)
        self.wait_quality("unit3", "a", "connection", 1)
        shares = self.count(3)
        del shares[3]
        self.assertGreaterEqual(min(shares.values()), 0.8 / harness.SLOW, shares)
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
