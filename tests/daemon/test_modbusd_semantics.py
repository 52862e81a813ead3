"""What the master does with its commands: fault protection and status terms, writes on
change and in cycles, time-outs and retries, broadcasts, and who is told of failures.
"""
import itertools
import time

import harness
import tagwire
from harness import wait_for
from hostile_modbus import Hostile
from modbusdaemon import WHO, ModbusDaemon

DAY = 86400000


class Semantics(ModbusDaemon):
    """One device for each test; all behind one plant, by unit."""

    unit = 0

    @classmethod
    def prepare(cls):
        cls.audit = cls.fake_auditd()
        cls.plant = Hostile()
        cls.stand_ins.append(cls.plant)

    @classmethod
    def begin(cls):
        cls.set_iface(retryCount=0, responseTout=300)

    def setUp(self):
        self.plant.mode, self.plant.base = "ok", 0
        Semantics.unit += 1
        self.name_ = f"device{self.unit}"
        self.device = self.add_device(self.name_, self.plant.port, slaveId=self.unit)
        self.addCleanup(self.clean)

    def clean(self):
        self.plant.mode = "ok"
        self.delete_device(self.device)
        self.set_iface(retryCount=0, responseTout=300, initialDelay=0)
        self.done("applyMasterConfig", who=WHO)

    def command(self, func, tags, **members):
        """Adds a command with tags [(type, offset, access)] and applies; the tags' numbers."""
        command = self.add_command(self.device, f"c{func}", func, **members)
        numbers = [self.add_tag(command, f"t{func}-{i}", *tag) for i, tag in enumerate(tags)]
        self.done("applyMasterConfig", who=WHO)
        return numbers

    def asked(self):
        """(time, PDU) of what this test's device was asked."""
        with self.plant.lock:
            return [(at, pdu) for at, unit, pdu in self.plant.seen if unit == self.unit]

    def wrote(self):
        with self.plant.lock:
            return [w[2] for w in self.plant.writes if w[0] == self.unit]

    def wait_asked(self, n, seconds=10):
        return wait_for(f"{n} requests", lambda: len(self.asked()) >= n and self.asked(), seconds)

    def write_now(self, no, value, type_=tagwire.UINT16):
        self.assertEqual(self.write(no, type_, value).status, 200)

    def pass_time(self, seconds):
        end = time.monotonic() + seconds
        wait_for("time to pass", lambda: time.monotonic() >= end, seconds + 5)

    # ---- fault protection and status terms ----

    def test_a_device_gets_the_fault_data_when_nobody_writes_and_not_after_a_start(self):
        no, other = self.command(16, [("uint16", 0, "w"), ("uint16", 2, "w")], mode=1,
                                 writeAddress=70, writeQuantity=2, fpFunc=2, fpTout=1,
                                 fpData="0A 0B 0C 0D")
        self.pass_time(1.2)
        self.assertEqual(self.wrote(), [])
        bus = self.bus()
        self.write_now(no, 5)
        s = bus.wait("the fault data", lambda s: s.no == no and s.quality == tagwire.UNCERTAIN)
        self.assertEqual(s.value, 0x0A0B)
        self.assertEqual(self.wrote()[-1], "04" + "0a0b0c0d")
        self.assertEqual((self.last(other).quality, self.last(other).value),
                         (tagwire.UNCERTAIN, 0x0C0D))
        self.assertEqual(self.metric("fieldgate_modbus_fault_writes_total"), 1)
        self.write_now(no, 6)
        self.assertEqual((self.last(no).quality, self.last(no).value), (tagwire.GOOD, 6))
        self.kill_and_start()
        n = len(self.wrote())
        self.pass_time(1.5)
        self.assertEqual(len(self.wrote()), n)

    def test_a_tag_without_an_answer_shows_the_status_term_and_why(self):
        kept, = self.command(3, [("uint16", 0, "r")], readAddress=9, pollInterval=100)
        zero, = self.command(4, [("int32", 0, "r")], readAddress=9, readQuantity=2,
                             pollInterval=100, stFunc=1)
        command = self.add_command(self.device, "user", 3, readAddress=20, pollInterval=100,
                                   stFunc=2, stData="FF FE")
        user = self.add_tag(command, "user", "int16", 0, "r")
        self.done("applyMasterConfig", who=WHO)
        for no in (kept, zero, user):
            self.wait_good(no)
        self.plant.mode = "mute"
        for no, value in ((kept, 9), (zero, 0), (user, -2)):
            wait_for("bad", lambda n=no: self.last(n).quality in (
                tagwire.TIMEOUT, tagwire.CONNECTION))
            self.assertEqual(self.last(no).value, value)
        self.plant.mode = "ok"
        self.wait_good(zero, 9 << 16 | 10)
        self.wait_good(user, 20)

    def test_data_of_the_user_that_do_not_fit_are_refused_by_name(self):
        for func, members, pointer in (
                (16, {"writeQuantity": 2, "fpFunc": 2}, "/fpData"),
                (16, {"writeQuantity": 2, "fpFunc": 2, "fpData": "00 00 00"}, "/fpData"),
                (16, {"writeQuantity": 1, "fpFunc": 2, "fpData": "00 00 00"}, "/fpData"),
                (15, {"writeQuantity": 9, "fpFunc": 2, "fpData": "00"}, "/fpData"),
                (5, {"fpFunc": 2}, "/fpData"),
                (23, {"readQuantity": 2, "fpFunc": 2, "stFunc": 2}, "/stData"),
                (16, {"fpFunc": 2, "fpData": "0000"}, "/fpData"),
                (16, {"fpFunc": 2, "fpData": "00  00"}, "/fpData"),
                (16, {"fpFunc": 2, "fpData": "GG 00"}, "/fpData"),
                (16, {"fpFunc": 3}, "/fpFunc"), (16, {"fpTout": 0}, "/fpTout"),
                (16, {"fpTout": 86401}, "/fpTout"), (3, {"fpFunc": 1}, "/fpFunc"),
                (16, {"stFunc": 1}, "/stFunc"), (3, {"stFunc": 3}, "/stFunc"),
                (3, {"readQuantity": 2, "stFunc": 2}, "/stData"),
                (1, {"readQuantity": 17, "stFunc": 2}, "/stData")):
            got = self.call("postMcmds", {"remoteDevId": self.device, "name": "x", "func": func,
                                          **members}, who=WHO)
            self.assertEqual((got.status, got.json["error"]["details"][0]["pointer"]), (400, pointer),
                             (func, members, got.body))
        for func, members in ((15, {"writeQuantity": 9, "fpFunc": 2}), (16, {"fpFunc": 2}),
                              (5, {"fpFunc": 2, "fpData": "01"}), (3, {"stFunc": 2}),
                              (23, {"fpFunc": 2, "stFunc": 2})):
            command = self.add_command(self.device, f"ok{func}", func, **members)
            # What the data were made for cannot change under them.
            got = self.call("patchMcmd", {"remoteDevId": self.device, "writeQuantity": 20,
                                          "readQuantity": 20, "func": {5: 15}.get(func, func)},
                            path=(str(command),), who=WHO)
            self.assertEqual(got.status, 400, (func, members))

    # ---- writes in cycles and on change ----

    def test_a_command_on_data_change_writes_once_for_each_write(self):
        no, = self.command(6, [("uint16", 0, "w")], mode=1, writeAddress=5, pollInterval=100)
        for value in (1, 2, 2, 3):
            self.write_now(no, value)
        self.pass_time(0.5)
        self.assertEqual(self.wrote(), [1, 2, 2, 3])

    def test_a_cyclic_command_repeats_its_data_once_all_of_it_is_known(self):
        low, high = self.command(16, [("uint16", 0, "w"), ("uint16", 2, "w")], writeAddress=5,
                                 writeQuantity=2, pollInterval=100)
        self.write_now(high, 7)
        self.pass_time(0.4)
        self.assertEqual(self.wrote(), ["020007"])
        self.write_now(low, 6)
        self.wait_asked(14)
        self.assertEqual(set(self.wrote()[2:]), {"0400060007"})
        at = [at for at, _ in self.asked()[3:14]]
        gap = sorted(b - a for a, b in itertools.pairwise(at))[5]
        self.assertTrue(0.05 < gap < 0.15 * harness.SLOW, at)
        self.kill_and_start()  # what was written is not known any more
        n = len(self.wrote())
        self.pass_time(0.4)
        self.assertEqual(len(self.wrote()), n)

    # ---- times of the interface ----

    def test_the_first_poll_waits_for_the_initial_delay(self):
        self.set_iface(initialDelay=1500)
        self.command(3, [("uint16", 0, "r")], readAddress=1, pollInterval=100)
        self.daemon.kill()
        n, began = len(self.asked()), time.monotonic()
        self.daemon.start()
        self.wait_asked(n + 1)
        self.assertGreaterEqual(self.asked()[n][0] - began, 1.5)
        self.assertLess(self.asked()[n][0] - began, 1.5 + 5 * harness.SLOW)
        self.wait_up()

    def test_a_mute_device_is_asked_as_often_as_retry_count_says_with_the_time_out_between(self):
        self.set_iface(retryCount=2, responseTout=200)
        no, = self.command(3, [("uint16", 0, "r")], readAddress=1, pollInterval=2000)
        self.wait_good(no)
        self.plant.mode = "mute"
        n = len(self.asked())
        at = [at for at, _ in self.wait_asked(n + 4)[n:]]
        for gap in (at[1] - at[0], at[2] - at[1]):
            self.assertTrue(0.15 <= gap < 0.8 * harness.SLOW, at)
        self.assertTrue(1.0 < at[3] - at[2] < 2.5 * harness.SLOW, at)  # its next period

    def test_an_answer_within_the_time_out_is_taken_and_one_after_it_is_not(self):
        self.plant.delay, self.plant.mode = 0.25, "late"
        self.set_iface(responseTout=1000)
        no, = self.command(3, [("uint16", 0, "r")], readAddress=3, pollInterval=300)
        self.wait_good(no, 3)
        self.set_iface(responseTout=100)
        self.done("applyMasterConfig", who=WHO)
        wait_for("a time-out", lambda: self.last(no).quality == tagwire.TIMEOUT)
        self.pass_time(0.7)
        self.assertEqual(self.last(no).quality, tagwire.TIMEOUT)

    # ---- unit 0 ----

    def test_unit_0_is_a_device_like_others_on_tcp(self):
        """Messaging on TCP/IP V1.0b: 0 and 255 reach the server itself, and it answers."""
        for unit in (0, 255):
            device = self.add_device(f"unit{unit}", self.plant.port, slaveId=unit)
            self.addCleanup(self.delete_device, device)
            read = self.add_command(device, "read", 3, readAddress=7, pollInterval=100)
            out = self.add_command(device, "out", 6, mode=1, writeAddress=8)
            value = self.add_tag(read, "value", "uint16", 0, "r")
            target = self.add_tag(out, "target", "uint16", 0, "w")
            self.done("applyMasterConfig", who=WHO)
            self.wait_good(value, 7)
            self.write_now(target, 99)
            self.assertEqual(self.plant.writes[-1], (unit, 8, 99))
            self.plant.unit_mode[unit] = "mute"
            self.addCleanup(self.plant.unit_mode.pop, unit)
            self.assertEqual(self.write(target, tagwire.UINT16, 98).status, 504)

    # ---- events ----

    def records(self, event):
        return [r for r in self.audit.kept if r["event"] == event
                and self.name_ in r["message"]]

    def test_a_device_that_fails_and_is_back_is_recorded_once_each(self):
        no, = self.command(3, [("uint16", 0, "r")], readAddress=3, pollInterval=100)
        self.wait_good(no)
        self.plant.mode = "mute"
        wait_for("the record", lambda: self.records("modbusDeviceFail"))
        self.plant.mode = "ok"
        wait_for("the record", lambda: self.records("modbusDeviceBack"))
        self.plant.gone()
        wait_for("the record", lambda: len(self.records("modbusDeviceFail")) == 2)
        self.plant.back()
        wait_for("the record", lambda: len(self.records("modbusDeviceBack")) == 2)
        self.assertEqual([r["message"] for r in self.records("modbusDeviceFail")][0],
                         f"device {self.name_} fails: no answer in time")
        self.assertEqual(self.records("modbusDeviceBack")[0]["message"],
                         f"device {self.name_} answers again")
        self.assertEqual({r["source"] for r in self.records("modbusDeviceFail")}, {"modbusd"})

    def test_a_command_that_its_device_refuses_is_recorded_once(self):
        no, = self.command(3, [("uint16", 0, "r")], readAddress=3, pollInterval=100)
        self.wait_good(no)
        self.plant.mode, self.plant.code = "exception", 2
        wait_for("the record", lambda: self.records("modbusCommandFail"))
        n = len(self.asked())
        self.wait_asked(n + 5)
        self.assertEqual([r["message"] for r in self.records("modbusCommandFail")],
                         [f"command c3 of device {self.name_} fails: exception 2 "
                          "(illegal data address)"])

    def test_devices_that_fail_all_at_once_are_recorded_once_each(self):
        port, n = harness.free_port(), 200
        devices = self.done("postRemoteDevs", [
            {"masterTcpIfaceId": 1, "name": f"{self.name_}-{i}", "slaveId": i,
             "slaveIpaddr": "127.0.0.1", "slaveTcpPort": port} for i in range(n)], who=WHO)
        for d in devices:
            self.addCleanup(self.delete_device, d["remoteDevId"])
        self.done("postMcmds", [{"remoteDevId": d["remoteDevId"], "name": "c", "func": 3}
                                for d in devices], who=WHO)
        self.done("applyMasterConfig", who=WHO)
        wait_for("the records", lambda: len(self.records("modbusDeviceFail")) >= n)
        self.assertEqual(sorted(r["message"] for r in self.records("modbusDeviceFail")), sorted(
            f"device {d['name']} fails: no connection" for d in devices))

    def test_failures_are_recorded_also_when_auditd_was_away(self):
        no, = self.command(3, [("uint16", 0, "r")], readAddress=3, pollInterval=100)
        self.wait_good(no)
        self.audit.server.stop()
        backlog = "fieldgate_audit_outbox_records"
        before = self.metric(backlog)
        self.plant.mode = "mute"
        wait_for("it to be kept", lambda: self.metric(backlog) > before)
        self.daemon.kill()
        self.plant.mode = "ok"  # it will not fail again
        self.audit.server.start()
        self.start_again()
        wait_for("the record", lambda: self.records("modbusDeviceFail"))

    # ---- words ----

    def test_refusals_have_the_words_of_the_original(self):
        device = {"masterTcpIfaceId": 1, "name": "x", "slaveIpaddr": "127.0.0.1"}
        for operation, body, words in (
                ("postRemoteDevs", {"name": "x"}, "masterTcpIfaceId should exist"),
                ("postRemoteDevs", dict(device, slave=1), "No such column: slave"),
                ("postRemoteDevs", dict(device, slaveId="1"), "slaveId should be an integer."),
                ("postRemoteDevs", dict(device, masterTcpIfaceId=2),
                 "Parent's data should exist"),
                ("postRemoteDevs", dict(device, name=self.name_), "name exists already"),
                ("postRemoteDevs", dict(device, slaveId=256),
                 "Input value failed: slaveId must be an integer 0..255"),
                ("postMcmds", {"name": "x"}, "remoteDevId should exist"),
                ("postMcmds", [{"remoteDevId": self.device}, {"func": 3}],
                 "remoteDevId should exist"),
                ("postMcmds", {"remoteDevId": 4711}, "Parent's data should exist"),
                ("postMcmds", {"remoteDevId": self.device, "func": 3, "fpFunc": 1},
                 "Input value failed: fpFunc 1 and 2 are for functions that write")):
            got = self.call(operation, body, who=WHO)
            self.assertEqual((got.status, got.json["error"]["message"]), (400, words), body)
        got = self.call("getMcmd", path=("4711",), who=WHO)
        self.assertEqual((got.status, got.json["error"]["message"]), (404, "Member not exists"))
