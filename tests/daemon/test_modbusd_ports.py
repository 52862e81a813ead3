"""modbusd alone, told of serial ports (SERIAL_CHANGED) as iod tells them, and otherwise."""
import json
import resource

import buspeer
from harness import wait_for
from modbusdaemon import WHO, ModbusDaemon

GOOD = {"portValue": 0, "id": 1, "device": "/dev/is-not-there", "displayName": "P1",
        "mode": "rs232", "baudRate": 9600, "parity": "none", "dataBits": 8, "stopBits": 1,
        "flowControl": "none"}


def port(value, **members):
    return {**GOOD, "portValue": value, "id": value + 1, "displayName": f"P{value + 1}", **members}


class Ports(ModbusDaemon):
    @classmethod
    def prepare(cls):
        cls.audit = cls.fake_auditd()

    @classmethod
    def begin(cls):
        """Port 1 (portValue 0) is there from the first test on."""
        assert cls.tell_ports([port(0)]) == 200

    @classmethod
    def tell_ports(cls, ports):
        """The status of the answer. bytes: as they are."""
        body = ports if isinstance(ports, bytes) else json.dumps(ports).encode()
        return cls.tell(buspeer.SERIAL_CHANGED, body).status

    def ifaces(self):
        return [i["masterSerIfaceId"] for i in self.done("getMasterSerIfaces", who=WHO)]

    def test_1_what_is_no_list_of_ports_is_refused_and_changes_nothing(self):
        bad = [b"", b"[", b"null", b"{}", b"[]x", b"[[]]", b"[null]", b"\xff", b"[" * 5000,
               [port(i) for i in range(33)]]
        for member in GOOD:
            bad.append([port(1), {k: v for k, v in port(2).items() if k != member}])
        for member, values in (("portValue", (-1, 4294967296, "1", 1.5)), ("id", (-1, "x")),
                               ("device", (1, "/" * 256)), ("displayName", (None, "P" * 16)),
                               ("mode", ("rs486", 1)), ("baudRate", (0, 49, 4000001, "9600")),
                               ("parity", ("Even", 0)), ("dataBits", (4, 9, 264)),
                               ("stopBits", (0, 1.5, 3, "1")), ("flowControl", ("rts", 0))):
            bad += [[port(1), port(2, **{member: value})] for value in values]
        for body in bad:
            with self.subTest(body=body):
                self.assertEqual(self.tell_ports(body), 400)
        self.assertEqual(self.ifaces(), [1])

    def test_2_ports_beyond_those_that_can_have_an_interface_are_passed_over(self):
        self.assertEqual(self.tell_ports([port(0), port(32), port(4294967295, id=1)]), 200)
        self.assertEqual(self.ifaces(), [1])

    def test_3_with_a_full_disk_nothing_is_taken_until_there_is_room(self):
        pid, kind = self.daemon.pid, resource.RLIMIT_FSIZE
        before = resource.prlimit(pid, kind)
        resource.prlimit(pid, kind, (0, before[1]))
        try:
            self.assertEqual(self.tell_ports([port(0), port(4)]), 500)
            self.assertEqual(self.ifaces(), [1])
        finally:
            resource.prlimit(pid, kind, before)
        self.assertEqual(self.tell_ports([port(0), port(4)]), 200)
        self.assertEqual(self.ifaces(), [1, 5])

    def test_4_an_interface_stays_when_its_port_goes_and_when_modbusd_is_killed(self):
        self.assertEqual(self.tell_ports([port(0), port(7)]), 200)
        self.done("patchMasterSerIface", {"serMasterId": 1, "portValue": 7, "responseTout": 77},
                  path=("8",), who=WHO)
        self.assertEqual(self.tell_ports([]), 200)
        self.kill_and_start()
        self.assertIn(8, self.ifaces())
        self.assertEqual(self.done("getMasterSerIface", path=("8",), who=WHO)["responseTout"], 77)

    def test_5_a_device_waits_for_its_port_and_what_was_told_last_is_opened(self):
        """Of a port told twice in one list, the first counts."""
        self.assertEqual(self.tell_ports([]), 200)
        device = self.done("postRemoteDevs", {"masterSerIfaceId": 1, "name": "d"},
                           who=WHO)["remoteDevId"]
        command = self.add_command(device, "c", 3)
        self.add_tag(command, "t", "uint16", 0, "r")
        self.done("applyMasterConfig", who=WHO)

        def tried(path):
            with open(self.daemon.log, encoding="utf-8") as f:
                return f"cannot open device={path} " in f.read()
        self.done("putMasterLogLevel", {"logLevel": "DEBUG"}, who=WHO)
        self.kill_and_start()
        self.assertIn("d", self.devices())
        self.assertEqual(self.tell_ports([port(0, device="/dev/one"),
                                          port(0, device="/dev/two")]), 200)
        wait_for("the first", lambda: tried("/dev/one"))
        self.assertEqual(self.tell_ports([port(0, device="/dev/three")]), 200)
        wait_for("the next", lambda: tried("/dev/three"))
        self.assertFalse(tried("/dev/two"))


if __name__ == "__main__":
    import unittest
    unittest.main()
