"""A day of a gateway, with its clock and pace speeded up: nothing may grow."""
import os
import signal
import struct
import subprocess
import sys
import time

from harness import BUILD, DAEMONS, Suite, free_port, preload, wait_for
from hostile_modbus import Hostile

TEST_SECONDS = 3600
P = "modbus_tcp_master"
FACTOR = int(os.environ.get("SOAK_FACTOR", 144))
HOURS = int(os.environ.get("SOAK_HOURS", 24))
DEVICES, COMMANDS = 10, 10
FAULTS = ("close", "garbage", "short", "wrong_tid", "exception", "mute", "ok")


class Clock:
    """The file of clockspeed.c: two settings, and which one holds."""

    SETTING = struct.Struct("=5q")

    def __init__(self, path):
        self.path, self.which, self.factor = path, 0, 1
        self.base = (0, 0, 0, 0)
        with open(path, "wb") as f:
            f.write(struct.pack("=q", 0) + 2 * self.SETTING.pack(0, 0, 0, 0, 1))

    def shown(self):
        """(real, shown) of both clocks, now."""
        mono, wall = time.monotonic_ns(), time.time_ns()
        b = self.base
        return (mono, b[1] + (mono - b[0]) * self.factor, wall, b[3] + (wall - b[2]) * self.factor)

    def run_at(self, factor):
        self.base, self.factor, self.which = self.shown(), factor, 1 - self.which
        with open(self.path, "r+b") as f:
            f.seek(8 + self.which * self.SETTING.size)
            f.write(self.SETTING.pack(*self.base, factor))
            f.flush()
            f.seek(0)
            f.write(struct.pack("=q", self.which))


def n_descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


class Day(Suite):
    daemons = DAEMONS  # one that is absent would be dialled a hundred times faster, too

    @classmethod
    def make_fleet(cls):
        fleet = super().make_fleet()
        path = os.path.join(fleet.dir, "speed")
        cls.clock = Clock(path)
        for d in fleet.d.values():
            d.env = {**d.env, "LD_PRELOAD": preload("clockspeed.so"), "CLOCKSPEED_FILE": path}
        return fleet

    @classmethod
    def prepare(cls):
        port, cls.hostile = free_port(), Hostile()
        cls.plant = subprocess.Popen([os.path.join(BUILD, "bin", "bench_plant"), str(port), "-",
                                      "0", "99"], stdout=subprocess.PIPE, text=True)
        cls.plant.stdout.readline()
        cls.set_interface(responseTout=20000)  # 140 ms in truth
        commands = [(f"c{i}", 3, 12 * i, 10, 1000, [(f"t{i}", "uint16", 2)])
                    for i in range(COMMANDS)]
        cls.ids = [cls.add_device(f"d{i}", port, commands, unit=1 + i) for i in range(DEVICES)]
        for i in cls.ids[:DEVICES // 2]:
            for command in i["commands"]:
                cls.admin.patch(f"/modbusmaster/config/mcmds/{command}",
                                {"remoteDevId": i["device"], "mergeRead": 1})
        cls.add_device("writable", port, [("w", 6, 1000, 1, 1000, [("w", "uint16", 0)])], unit=50)
        cls.add_device("mute", port, [("c", 3, 0, 1, 1000, [("t", "uint16", 0)])], unit=99)
        cls.add_device("gone", free_port(), [("c", 3, 0, 1, 1000, [("t", "uint16", 0)])])
        cls.add_device("hostile", cls.hostile.port,
                       [("c", 3, 0, 10, 5000, [("t", "uint16", 0)])])
        cls.apply()
        # Each thread of the gateway touches its stack when it first serves a connection.
        for _ in range(600):
            cls.admin.with_token(cls.admin.token).get("/users/me")

    @classmethod
    def tearDownClass(cls):
        cls.plant.kill()
        cls.plant.wait()
        cls.hostile.stop()
        super().tearDownClass()

    def hour(self, n):
        """At full speed; the hostile device has another fault each time."""
        self.hostile.mode = FAULTS[n % len(FAULTS)]
        stream = self.admin.stream(f"/tags/monitor/{P}/d0?streamInterval=1000")
        self.clock.run_at(FACTOR)
        time.sleep(3600 / FACTOR)
        self.clock.run_at(1)
        stream.close()

    def work(self, n):
        """What people do between the hours: sign in, change, apply, read, write."""
        type(self).admin = self.sign_in()
        one = self.ids[n % DEVICES]
        reply = self.admin.patch(f"/modbusmaster/config/mcmds/{one['commands'][n % COMMANDS]}", {
            "remoteDevId": one["device"], "mergeRead": n // 2 % 2,
            "pollInterval": 1000 + n % 3 * 500})
        self.assertEqual(reply.status, 200, reply)
        self.apply()
        self.all_are_good()
        for tag in range(COMMANDS):
            self.until_done("/modbusmaster/operate/direct-read-tag",
                            {"prvdName": P, "srcName": "d1", "tagName": f"t{tag}"})
            self.until_done("/modbusmaster/operate/direct-write-tag", {
                "prvdName": P, "srcName": "writable", "tagName": "w", "dataType": "uint16",
                "dataValue": n})

    def until_done(self, path, body):
        """A request of before that was in flight at full speed may still be in the way."""
        wait_for(path, lambda: self.admin.put(path, body).status == 200, 30)

    def all_are_good(self):
        now_us = self.clock.shown()[3] / 1000

        def fresh():
            rows = [self.values(f"d{i}") for i in range(DEVICES)]
            return all(len(r) > COMMANDS and all(
                row["quality"] == "good" and (row["tagName"] == "status" or row["ts"] > now_us)
                for row in r.values()) for r in rows)
        wait_for("all values", fresh, 30)

    def state(self):
        """{daemon: (KiB of its own memory, descriptors)}"""
        out = {}
        for name in DAEMONS:
            d = self.fleet.d[name]
            out[name] = (d.memory_kib("Anonymous"), n_descriptors(d.pid))
        return out

    def test_nothing_grows_in_a_day(self):
        states = []
        for n in range(HOURS):
            self.hour(n)
            self.work(n)
            states.append(self.state())
            sys.stderr.write(f"hour {n + 1}: {states[-1]}\n")
        self.plant.send_signal(signal.SIGUSR1)
        requests = int(self.plant.stdout.readline().split()[0])
        sys.stderr.write(f"{requests:,} requests\n")
        self.assertGreater(requests, HOURS * 3600 * 5)  # of 55 a second, on a machine of its own
        # The first hours fill pools and tables to what they need.
        early, late = states[min(2, HOURS - 1)], states[-1]
        for name in DAEMONS:
            self.assertLessEqual(late[name][0], early[name][0] * 1.05 + 1024, (name, states))
            self.assertLessEqual(late[name][1], early[name][1] + 2, (name, states))
