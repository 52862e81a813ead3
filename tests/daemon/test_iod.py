"""iod alone: ports, what modbusd is told of them, and the lines of the bench."""
import contextlib
import os
import resource
import select
import subprocess
import termios
import threading
import time

import buspeer
import harness
from buspeer import reply
from harness import wait_for
from onedaemon import GUEST, OneDaemon

FIRST = {"mode": "rs4852w", "baudRate": 9600, "parity": "none", "dataBits": 8, "stopBits": 1,
         "flowControl": "none"}


class FakeModbusd:
    """Keeps what it is told, or not: .mode is take, refuse or mute."""

    def __init__(self):
        self.mode, self.told, self.lock = "take", [], threading.Lock()

    def __call__(self, r):
        if r.op != buspeer.SERIAL_CHANGED:
            return reply(r.id, 404)
        with self.lock:
            self.told.append(r.json)
            mode = self.mode
        return {"take": reply(r.id, 200), "refuse": reply(r.id, 500), "mute": None}[mode]

    def last(self):
        with self.lock:
            return self.told[-1] if self.told else None

    def knows(self, port, **settings):
        last = self.last()
        return last is not None and settings.items() <= last[port - 1].items()


class Iod(OneDaemon):
    name = "iod"

    @classmethod
    def prepare(cls):
        cls.audit = cls.fake_auditd()
        cls.modbus = FakeModbusd()
        cls.modbusd = cls.stand_in("modbusd", cls.modbus)

    def setUp(self):
        self.modbus.mode = "take"
        self.set([{"id": i, **FIRST} for i in (1, 2)])

    def set(self, body):
        return self.done("patchSerials", body)

    def port(self, number=1):
        return self.done("getSerial", path=(str(number),))

    def patch(self, number, **body):
        return self.call("patchSerial", body, path=(str(number),))

    def refused(self, got, status, pointer):
        self.assertEqual(got.status, status, got.body)
        self.assertEqual([d["pointer"] for d in got.json["error"]["details"]], [pointer])

    def dev(self, name):
        return f"{self.fleet.state}/iod/dev/{name}"

    @contextlib.contextmanager
    def open(self, name):
        """As a program that sets nothing up."""
        fd = os.open(self.dev(name), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            yield fd
        finally:
            os.close(fd)


def arrivals(fd, n, timeout=5.0):
    """The next n bytes, and when each was there."""
    got, times, end = b"", [], time.monotonic() + timeout * harness.SLOW
    while len(got) < n and time.monotonic() < end:
        if select.select([fd], [], [], 0.1)[0]:
            part = os.read(fd, 4096)
            got += part
            times += [time.monotonic()] * len(part)
    return got, times


class Ports(Iod):
    def test_ports_have_number_name_settings_and_what_they_can_do(self):
        p = self.port(2)
        self.assertEqual(p["capabilities"], {
            "mode": ["rs232", "rs422", "rs4852w", "rs4854w"],
            "baudRate": {"special": True, "range": [
                300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400,
                460800, 921600]},
            "parities": ["none", "odd", "even", "space", "mark"], "dataBits": [5, 6, 7, 8],
            "stopBits": [1, 1.5, 2], "flowControl": ["none", "software", "hardware"]})
        del p["capabilities"]
        self.assertEqual(p, {"type": "serials", "id": 2, "device": self.dev("ttyM1"),
                             "displayName": "P2", **FIRST})

    def test_modbusd_is_told_of_a_change_that_is_kept(self):
        self.assertEqual(self.patch(2, mode="rs422", stopBits=2).status, 200)
        wait_for("modbusd to know", lambda: self.modbus.knows(2, mode="rs422"))
        self.assertEqual(self.modbus.last(), [
            {"portValue": 0, "id": 1, "device": self.dev("ttyM0"), "displayName": "P1", **FIRST},
            {"portValue": 1, "id": 2, "device": self.dev("ttyM1"), "displayName": "P2", **FIRST,
             "mode": "rs422", "stopBits": 2}])
        n = len(self.modbus.told)
        self.refused(self.patch(1, baudRate=12), 400, "/baudRate")
        self.assertEqual(len(self.modbus.told), n)

    def test_modbusd_is_told_again_until_it_has_taken_it(self):
        self.modbus.mode = "refuse"
        self.assertEqual(self.patch(1, dataBits=7).status, 200)
        n = len(self.modbus.told)
        wait_for("another try", lambda: len(self.modbus.told) > n + 1)
        self.modbus.mode = "take"
        n = len(self.modbus.told)
        wait_for("a try that succeeds", lambda: len(self.modbus.told) > n)
        self.assertEqual(self.modbus.last()[0]["dataBits"], 7)

    def test_modbusd_that_was_away_is_told_when_it_is_back(self):
        self.modbusd.stop()
        self.assertEqual(self.patch(1, parity="even").status, 200)
        self.modbus.told.clear()
        self.modbusd.start()
        wait_for("modbusd to know", lambda: self.modbus.knows(1, parity="even"))

    def test_a_change_while_modbusd_is_being_told_is_told_too(self):
        self.modbus.mode = "mute"
        self.assertEqual(self.patch(1, baudRate=1200).status, 200)
        wait_for("the first", lambda: self.modbus.knows(1, baudRate=1200))
        self.assertEqual(self.patch(1, baudRate=2400).status, 200)
        self.modbus.mode = "take"
        self.modbusd.drop()
        wait_for("the second", lambda: self.modbus.knows(1, baudRate=2400))

    def test_settings_and_their_record_survive_a_kill(self):
        self.audit.mode = "refuse"  # the record stays here
        want = {"mode": "rs232", "baudRate": 12345, "parity": "mark", "dataBits": 5,
                "stopBits": 1.5, "flowControl": "hardware"}
        self.assertEqual(self.patch(2, **want).status, 200)
        self.kill_and_start()
        self.assertEqual({k: self.port(2)[k] for k in want}, want)
        self.assertEqual({k: self.port(1)[k] for k in FIRST}, FIRST)
        self.audit.mode = "take"
        record = wait_for("the record", lambda: [
            r for r in self.audit.named("serialUpdate") if "12345" in r["detail"]])
        self.assertEqual(len(record), 1)

    def test_who_has_no_right_sees_and_changes_nothing(self):
        for operation, path in (("getSerials", ()), ("patchSerials", ()), ("getSerial", ("1",)),
                                ("patchSerial", ("1",))):
            body = {"id": 1, "parity": "odd"} if operation.startswith("patch") else b""
            self.assertEqual(self.call(operation, body, path=path, who=GUEST).status, 403)
        self.assertEqual(self.port()["parity"], "none")


class Listed(Iod):
    """Ports that the configuration names; one is a tty without a line driver."""

    @classmethod
    def prepare(cls):
        super().prepare()
        cls.master, cls.slave = os.openpty()
        cls.tty = os.ttyname(cls.slave)
        cls.listed(f"{cls.tty},/dev/is-not-there")

    def setUp(self):
        self.restart(f"{self.tty},/dev/is-not-there")

    @classmethod
    def listed(cls, ports):
        argv = cls.daemon.argv
        cls.daemon.argv = [*(argv[:argv.index("--set")] if "--set" in argv else argv),
                           "--set", f"serial-ports={ports}"]

    def restart(self, ports):
        self.daemon.stop()
        self.listed(ports)
        self.start_again()

    def devices(self):
        return {p["id"]: p["device"] for p in self.done("getSerials")}

    def test_a_port_keeps_its_number_while_others_come_and_go(self):
        self.assertEqual(self.devices(), {1: self.tty, 2: "/dev/is-not-there"})
        self.assertEqual(self.patch(2, baudRate=1200).status, 200)
        self.restart("/dev/another-one,/dev/is-not-there")
        self.assertEqual(self.devices(), {2: "/dev/is-not-there", 3: "/dev/another-one"})
        self.assertEqual(self.port(2)["baudRate"], 1200)
        self.assertEqual(self.port(3)["baudRate"], 9600)
        self.refused(self.call("getSerial", path=("1",)), 404, "/id")
        self.refused(self.patch(1, baudRate=1200), 404, "/id")
        self.refused(self.call("patchSerials", [{"id": 1}]), 400, "/0/id")
        wait_for("modbusd to know", lambda: self.modbus.last() and
                 [p["portValue"] for p in self.modbus.last()] == [1, 2])

    def test_a_port_without_line_driver_is_rs232_only(self):
        p = self.port(1)
        self.assertEqual((p["mode"], p["capabilities"]["mode"]), ("rs232", ["rs232"]))
        for mode in ("rs422", "rs4852w", "rs4854w"):
            self.refused(self.patch(1, mode=mode), 400, "/mode")
        self.assertEqual(self.patch(1, mode="rs232").status, 200)

    def test_a_port_that_cannot_be_stored_is_there_as_soon_as_it_can(self):
        here = self.devices()
        self.daemon.stop()
        self.listed(f"{self.tty},/dev/is-not-there,/dev/is-new")
        argv = self.daemon.argv
        self.addCleanup(setattr, self.daemon, "argv", argv)
        self.daemon.argv = ["sh", "-c", "trap '' XFSZ; exec prlimit --fsize=0:unlimited \"$@\"",
                            "sh", *argv]  # as a full disk, for the sanitizer's own files too
        self.start_again()
        self.assertEqual(self.devices(), here)
        self.assertEqual(self.patch(1, baudRate=2400).status, 507)
        resource.prlimit(self.daemon.process.pid, resource.RLIMIT_FSIZE,
                         (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait_for("the new port", lambda: "/dev/is-new" in self.devices().values(), 30)
        self.assertLessEqual(here.items(), self.devices().items())

    def test_a_list_that_is_none_does_not_start(self):
        for bad in ("", "ttyS1", "/dev/ttyS1,", ",".join(["/dev/ttyS0"] * 33)):
            self.daemon.stop()
            self.listed(bad)
            self.daemon.start()
            self.assertEqual(self.daemon.process.wait(10 * harness.SLOW), 2, bad)
            self.daemon.wanted = False


def framed(*body):
    """As a Modbus RTU frame (serial line V1.02, 6.2.2)."""
    crc = 0xFFFF
    for byte in body:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return bytes([*body, crc & 0xFF, crc >> 8])


class Lines(Iod):
    """The two ptys of a port, and the wire between them."""

    def setUp(self):
        super().setUp()
        self.assertEqual(self.patch(1, baudRate=4000000).status, 200)
        with self.open("ttyM0") as near, self.open("line0") as far:
            for fd in (near, far):  # what an earlier test left on the wire
                while select.select([fd], [], [], 0.05)[0]:
                    os.read(fd, 4096)
        self.assertEqual(self.patch(1, **FIRST).status, 200)

    def carry(self, sender, receiver, data, timeout=10.0):
        """Seconds from the write until each byte was there."""
        began = time.monotonic()
        self.assertEqual(os.write(sender, data), len(data))
        got, times = arrivals(receiver, len(data), timeout)
        self.assertEqual(got, data)
        return [t - began for t in times]

    def test_bytes_of_all_values_go_both_ways_unchanged(self):
        self.assertEqual(self.patch(1, baudRate=921600).status, 200)
        with self.open("ttyM0") as near, self.open("line0") as far:
            self.carry(near, far, bytes(range(256)))
            self.carry(far, near, bytes(range(256)))

    def test_characters_take_as_long_as_on_a_line(self):
        # (what is set, bits of a character in halves)
        for settings, half_bits in (({"baudRate": 9600}, 20),
                                    ({"baudRate": 9600, "parity": "even", "stopBits": 1}, 22),
                                    ({"baudRate": 1000, "dataBits": 5, "stopBits": 1.5}, 15),
                                    ({"baudRate": 115200, "stopBits": 2}, 22)):
            self.assertEqual(self.patch(1, **{**FIRST, **settings}).status, 200)
            char = half_bits / 2 / settings["baudRate"]
            data = bytes(40 if char > 0.001 else 400)
            with self.subTest(settings), self.open("ttyM0") as near, self.open("line0") as far:
                for sender, receiver in ((near, far), (far, near)):
                    took = self.carry(sender, receiver, data)
                    for i in (0, len(data) - 1):
                        self.assertGreaterEqual(took[i], (i + 1) * char - 0.0001)
                    # until one is as exact: the machine has other things to do
                    harness.wait_for("a line as fast as it is", lambda: self.carry(
                        sender, receiver, data)[-1] - len(data) * char < 0.0006 * harness.SLOW ** 2)

    def test_both_ways_at_once_do_not_slow_each_other(self):
        with self.open("ttyM0") as near, self.open("line0") as far:
            data, char = bytes(96), 10 / 9600

            def both():
                began = time.monotonic()
                os.write(near, data)
                os.write(far, data)
                return max(arrivals(fd, len(data))[1][-1] - began for fd in (near, far))
            wait_for("both as fast as one", lambda: both() < len(data) * char * 1.2)

    def test_a_new_rate_counts_at_once(self):
        self.assertEqual(self.patch(1, baudRate=600).status, 200)
        with self.open("ttyM0") as near, self.open("line0") as far:
            began = time.monotonic()
            os.write(near, bytes(600))  # 10 s
            self.assertEqual(self.patch(1, baudRate=115200).status, 200)
            self.assertEqual(len(arrivals(far, 600)[0]), 600)
            self.assertLess(time.monotonic() - began, min(5 * harness.SLOW, 9))

    def test_what_nobody_reads_is_lost_and_not_kept(self):
        self.assertEqual(self.patch(1, baudRate=115200).status, 200)
        with self.open("ttyM0") as near:
            lost = self.metric("fieldgate_serial_line_lost_bytes_total")
            os.write(near, b"nobody is there")
            wait_for("the loss", lambda:
                     self.metric("fieldgate_serial_line_lost_bytes_total") == lost + 15)
            with self.open("line0") as far:
                self.assertEqual(arrivals(far, 1, 0.2)[0], b"")
                self.carry(near, far, b"somebody is")

    def test_both_ends_survive_that_others_come_and_go(self):
        self.assertEqual(self.patch(1, baudRate=921600).status, 200)
        for n in range(20):
            with self.open("ttyM0") as near:
                with self.open("line0") as far:
                    self.carry(near, far, b"%d" % n)
                with self.open("line0") as far:
                    self.carry(far, near, b"%d" % -n)
            with self.open("line0") as far, self.open("ttyM0") as near:
                self.carry(far, near, b"again")
                self.carry(near, far, b"and back")
        self.assertLess(self.daemon.cpu_seconds(), 30)

    def test_a_reader_that_does_not_read_holds_nobody_up(self):
        self.assertEqual(self.patch(1, baudRate=4000000).status, 200)
        with self.open("ttyM0") as near, self.open("line0") as far:
            sent = 0
            end = time.monotonic() + 10 * harness.SLOW
            while sent < 200000 and time.monotonic() < end:
                if select.select([], [near], [], 0.1)[1]:
                    sent += os.write(near, bytes(1000))
            self.assertGreaterEqual(sent, 200000)
            self.carry(far, near, b"the other way is free")

    def test_idle_lines_cost_nothing(self):
        def switches():
            with open(f"/proc/{self.daemon.pid}/status", encoding="ascii") as f:
                return sum(int(line.split()[1]) for line in f if "ctxt_switches" in line)
        with self.open("ttyM0") as near, self.open("line0") as far:
            self.carry(near, far, b"warm")
        wait_for("nothing to do", lambda: switches() == (time.sleep(0.3), switches())[1])
        before = switches()
        time.sleep(1)  # the time is what is measured
        self.assertLess(switches() - before, 10)

    def test_the_names_lead_to_new_ends_after_a_kill(self):
        with self.open("ttyM0") as old:
            self.kill_and_start()
            wait_for("the end of the old one", lambda: select.select([old], [], [], 0)[0])
            with self.assertRaises(OSError):
                os.write(old, b"x")
            with self.open("ttyM0") as near, self.open("line0") as far:
                self.carry(near, far, b"new")

    def test_the_names_are_gone_when_it_has_stopped(self):
        self.daemon.stop()
        self.assertEqual(os.listdir(self.dev("")), [])
        self.start_again()

    def test_no_end_echoes_or_changes_line_ends(self):
        self.assertEqual(self.patch(1, baudRate=921600).status, 200)
        with self.open("ttyM0") as near, self.open("line0") as far:
            for fd in (near, far):
                iflag, oflag, _, lflag, *_ = termios.tcgetattr(fd)
                self.assertFalse(iflag & (termios.ICRNL | termios.IXON))
                self.assertFalse(oflag & termios.OPOST)
                self.assertFalse(lflag & (termios.ECHO | termios.ICANON | termios.ISIG))
            self.carry(near, far, b"\r\n\x03\x11\x13\x00\xff")
            self.assertEqual(arrivals(near, 1, 0.1)[0], b"")

    def test_the_demo_plant_is_a_device_at_the_far_end(self):
        self.assertEqual(self.patch(1, baudRate=115200).status, 200)
        plant = self.fleet.spawn([f"{harness.BUILD}/bin/demoplant", "--serial", self.dev("line0")],
                                 stdout=subprocess.DEVNULL)
        ask = framed(1, 3, 0, 0, 0, 3)
        want = framed(1, 3, 6, 0, 100, 0, 100, 0, 20)

        def answer(fd, request, timeout=0.3):
            os.write(fd, request)
            return arrivals(fd, len(want), timeout)[0]
        for _ in range(2):
            with self.open("ttyM0") as near:
                wait_for("the plant", lambda fd=near: answer(fd, ask) == want)
                self.assertEqual(answer(near, framed(2, 3, 0, 0, 0, 3)), b"")  # another unit
                self.assertEqual(answer(near, ask), want)
                self.assertEqual(answer(near, ask[:-1] + b"!"), b"")
                self.assertEqual(answer(near, ask), want)
            self.kill_and_start()  # the line is a new one
        plant.terminate()
        self.assertEqual(plant.wait(5 * harness.SLOW), 0)
