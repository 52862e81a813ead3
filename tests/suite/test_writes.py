"""Writes to a device and their records: whatever the device does and whichever
daemon dies when, a value that may have arrived there is in the audit log."""
import os
import threading

from harness import Client, SmallDisk, Suite, Unanswered, wait_for
from hostile_modbus import Hostile

TEST_SECONDS = 180
PRIVATE_MOUNTS = True
P = "modbus_tcp_master"
DAEMONS = ("auditd", "authd", "tagd", "modbusd", "gateway")


class Device(Suite):
    daemons = DAEMONS
    value = 100  # each write has its own

    @classmethod
    def prepare(cls):
        cls.device = Hostile()
        cls.add_device("pump", cls.device.port, [
            ("set", 6, 0, 1, 1000, [("set", "uint16", 0)])])
        cls.time_limit(300)
        wait_for("the tag", lambda: any(t["tagName"] == "set"
                                        for t in cls.admin.get("/tags/list").data))

    @classmethod
    def tearDownClass(cls):
        cls.device.stop()
        super().tearDownClass()

    @classmethod
    def time_limit(cls, ms):
        cls.set_interface(retryCount=0, responseTout=ms)
        cls.apply()

    def setUp(self):
        self.device.mode = "ok"
        self.next_value()

    def next_value(self):
        Device.value += 1
        self.value = Device.value

    def write(self, through="modbusd", client=None):
        client = client or self.admin
        if through == "modbusd":
            return client.put("/modbusmaster/operate/direct-write-tag", {
                "prvdName": P, "srcName": "pump", "tagName": "set", "dataType": "uint16",
                "dataValue": self.value})
        return client.put(f"/tags/access/{P}/pump/set",
                          {"dataType": "uint16", "dataValue": self.value})

    def arrived(self):
        with self.device.lock:
            return self.value in [value for _, _, value in self.device.writes]

    def rows(self):
        return [r["message"] for r in self.audits(names="tagWrite")
                if f"write {self.value} to {P}/pump/set" in r["message"]]

    def assert_recorded(self, unknown):
        rows = wait_for("the record", self.rows)
        self.assertEqual(len(rows), 1, rows)
        self.assertEqual("outcome unknown" in rows[0], unknown, rows)

    def assert_no_record(self, through):
        mark = self.value
        self.next_value()
        self.device.mode = "ok"
        self.assert_ok(self.write(through))  # records come in order: its own is the next
        self.assert_recorded(False)
        self.value = mark
        self.assertEqual(self.rows(), [])

    def both(self, check):
        for through in ("modbusd", "tagd"):
            with self.subTest(through):
                self.next_value()
                check(through)


class Writes(Device):
    def test_a_write_that_the_device_took_is_recorded_as_done(self):
        def check(through):
            self.device.mode = "ok"
            self.assert_ok(self.write(through))
            self.assert_recorded(False)
        self.both(check)

    def test_a_write_that_the_device_refused_before_it_began_leaves_no_record(self):
        def check(through):
            self.device.mode, self.device.code = "exception", 2
            self.assertEqual(self.write(through).status, 400)
            self.assert_no_record(through)
        self.both(check)

    def test_a_write_that_the_device_began_and_failed_is_recorded_as_unknown(self):
        def check(through):
            self.device.mode, self.device.code = "exception", 4
            self.assertEqual(self.write(through).status, 400 if through == "modbusd" else 504)
            self.assert_recorded(True)
        self.both(check)

    def test_a_write_without_an_answer_is_recorded_as_unknown(self):
        def check(through):
            self.device.mode = "mute"
            self.assertEqual(self.write(through).status, 400 if through == "modbusd" else 504)
            self.assertTrue(self.arrived())
            self.assert_recorded(True)
        self.both(check)

    def cut_off(self, through, victim):
        """The victim dies while the device thinks about the write."""
        self.device.mode = "mute"
        self.time_limit(10000)
        def attempt():
            client = Client(self.fleet, token=self.admin.token)
            try:  # tagd may have to find modbusd again first
                while self.write(through, client).status in (404, 503) and not self.arrived():
                    pass
            except Unanswered:
                pass
        thread = threading.Thread(target=attempt)
        thread.start()
        wait_for("the write at the device", self.arrived)
        self.kill(victim)
        thread.join()
        self.start(victim)
        self.assert_recorded(True)
        self.time_limit(300)

    def test_a_write_that_kill_9_of_modbusd_cut_off_is_recorded_as_unknown(self):
        self.cut_off("modbusd", "modbusd")

    def test_a_write_that_kill_9_of_tagd_cut_off_is_recorded_as_unknown(self):
        self.cut_off("tagd", "tagd")

    def test_a_write_whose_device_died_behind_tagd_is_recorded_as_unknown(self):
        self.cut_off("tagd", "modbusd")


class FullDisk(SmallDisk, Device):
    """The state of modbusd and tagd on a small tmpfs."""

    def test_on_a_full_disk_no_device_is_written_without_a_record(self):
        refused, done = [], []
        self.fill()
        for n in range(400):
            self.next_value()
            through = ("modbusd", "tagd")[n % 2]
            reply = self.write(through)
            if reply.status == 507:
                refused.append((self.value, self.arrived()))
            else:
                self.assert_ok(reply)
                done.append(self.value)
            if len(refused) > 20:
                break
        os.unlink(self.big)
        self.assertGreater(len(refused), 20, "the disk never got full")
        written = done + [value for value, arrived in refused if arrived]
        def recorded():
            text = "\n".join(r["message"] for r in self.audits(names="tagWrite"))
            return all(f"write {value} to " in text for value in written)
        wait_for(f"the records of {len(written)} writes", recorded, 30)
        self.assertTrue(any(not arrived for _, arrived in refused), refused)
