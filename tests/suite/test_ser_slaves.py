"""The Modbus slave on a serial line of the bench, asked by a master at its far end."""
import os
import select
import struct
import time

import harness
from harness import Suite, wait_for

S = "/modbusslave/config/ser-slaves"
Z = "/modbusslave/config/szones"
DEVS = "/modbusmaster/config/remote-devs"
NAME = "modbus_serial_slave"


def crc_of(data):
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return struct.pack("<H", crc)


def rtu(unit, pdu):
    return bytes([unit]) + pdu + crc_of(bytes([unit]) + pdu)


def ascii_frame(unit, pdu):
    data = bytes([unit]) + pdu
    return b":%s%02X\r\n" % (data.hex().upper().encode(), -sum(data) & 0xFF)


class SerialSlaves(Suite):
    daemons = ("auditd", "authd", "tagd", "modbusd", "iod", "gateway")

    @classmethod
    def prepare(cls):
        wait_for("modbusd to know the ports", lambda: len(
            cls.admin.get("/modbusmaster/config/master-ser-ifaces").data) == 2)
        reply = cls.admin.post(Z, {"address": 0, "quan": 2, "tags": [
            {"name": "level", "dataType": "uint16", "access": "rw"}]})
        assert reply.status in (200, 201), reply
        cls.serial(1, baudRate=115200)

    @classmethod
    def serial(cls, port, **settings):
        reply = cls.admin.patch(f"/device/serials/{port}", settings)
        assert reply.status == 200, reply

    def setUp(self):
        for slave in self.admin.get(S).data:
            self.assertEqual(self.admin.delete(f"{S}/{slave['serSlaveId']}").status, 204)
        self.apply()

    def apply(self):
        self.assertEqual(self.admin.put("/modbusslave/control/config/apply").status, 200)

    def add(self, **members):
        reply = self.admin.post(S, {"portValue": 0, **members})
        self.assertEqual(reply.status, 200, reply)
        self.apply()
        return reply.data

    def ask(self, frame, size, port=0):
        """What the slave answers, at most 'size' bytes."""
        path = f"{self.fleet.state}/iod/dev/line{port}"
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            while select.select([fd], [], [], 0.03)[0]:
                os.read(fd, 4096)
            os.write(fd, frame)
            got, end = b"", time.monotonic() + 0.4 * harness.SLOW
            while len(got) < size and time.monotonic() < end:
                if select.select([fd], [], [], 0.05)[0]:
                    got += os.read(fd, 4096)
            return got
        finally:
            os.close(fd)

    def answers(self, frame, want, port=0):
        wait_for(f"the answer to {frame}", lambda: self.ask(frame, len(want), port) == want)

    READ = b"\x03\x00\x00\x00\x01"

    def test_a_master_reads_and_writes_over_rtu(self):
        added = self.add(slaveId=7)
        self.assertEqual(added, {"serSlaveId": 1, "portValue": 0, "format": 0, "slaveId": 7,
                                 "enable": 1, "name": NAME})
        write = b"\x06\x00\x00\x12\x34"
        self.answers(rtu(7, write), rtu(7, write))
        self.answers(rtu(7, self.READ), rtu(7, b"\x03\x02\x12\x34"))
        self.assertEqual(self.ask(rtu(8, self.READ), 7), b"")
        self.answers(rtu(7, b"\x03\x40\x00\x00\x01"), rtu(7, b"\x83\x02"))

    def test_it_is_in_the_overview_the_diagnosis_and_among_the_services(self):
        self.add(slaveId=7)
        write = b"\x06\x00\x00\x00\x0b"
        self.answers(rtu(7, write), rtu(7, write))
        self.answers(rtu(7, b"\x03\x40\x00\x00\x01"), rtu(7, b"\x83\x02"))
        overview = self.admin.get("/modbusslave/status/config/slave-overview").data["serial"]
        self.assertEqual(overview, {"enable": 1, "serSlaves": [
            {"serSlaveId": 1, "enable": 1, "portName": "PORT 1", "format": 0, "tagCount": 1,
             "invalidTagCount": 0, "isConfigError": False, "configErrorReason": ""}]})
        got = self.admin.get("/modbusslave/diagnose/serial-status").data
        port = got["ports"][0]
        self.assertEqual([port[k] for k in ("serSlaveId", "status", "mode", "portNumber",
                                            "slaveId")], [1, "OK", "RTU", 1, 7])
        self.assertEqual(port["recvValidReqs"], port["sentResps"] + port["sentExceptions"])
        self.assertGreaterEqual(min(port["sentResps"], port["sentExceptions"]), 1)
        self.assertGreaterEqual(port["recvBytes"], 16)
        self.assertEqual(got["recvValidReqs"], port["recvValidReqs"])
        services = lambda: self.admin.get("/modbusmaster/diagnose/service-info") \
            .data["serviceInfo"][2:]
        self.assertEqual(services(), [
            {"tcpSlaveId": 1, "serviceStatus": "NOT_INITIALIZED"},
            {"serSlaveId": 1, "serviceStatus": "RUNNING"}])
        self.admin.patch(f"{S}/1", {"enable": 0})
        self.apply()
        self.assertEqual(len(services()), 1)
        self.assertEqual(self.admin.get("/modbusslave/diagnose/serial-status").data["ports"], [])

    def test_the_traffic_log_has_its_frames(self):
        log = "/modbusmaster/traffic-log/master-ser-interfaces/1"
        self.add(slaveId=7)
        self.assert_ok(self.admin.post(log, {"recordMode": 1}), 201)
        self.addCleanup(self.admin.post, log, {"action": "stop"})
        write = rtu(7, b"\x06\x00\x00\x00\x0d")
        self.answers(write, write)
        frames = self.admin.get(log).data["serial"][-2:]
        self.assertEqual([(f["role"], f["packetType"], f["status"], f["data"]) for f in frames],
                         [("Slave", "Request", "READ", write.hex()),
                          ("Slave", "Response", "WRITE", write.hex())])

    def test_the_master_is_stopped_without_it(self):
        self.add(slaveId=7)
        self.assert_ok(self.admin.put("/modbusmaster/control/daemon/stop"))
        self.addCleanup(self.admin.put, "/modbusmaster/control/daemon/start")
        write = b"\x06\x00\x00\x00\x0c"
        self.answers(rtu(7, write), rtu(7, write))

    def test_a_zone_of_a_serial_slave_is_seen_on_its_line_only(self):
        zone = {"dataFormat": 3, "address": 4, "serSlaveId": 2}
        self.assert_refused(self.admin.post(Z, zone), 400, "/serSlaveId", "Parent's data")
        self.assert_refused(self.admin.post(Z, {"address": 4, "tcpSlaveId": 2}), 400,
                            "/tcpSlaveId", "Parent's data")
        self.add(portValue=0, slaveId=5)
        self.add(portValue=1, slaveId=5)
        made = self.assert_ok(self.admin.post(Z, {**zone, "tcpSlaveId": 0})).data
        at = f"{Z}/{made['szoneId']}"
        self.addCleanup(self.admin.delete, at)
        self.assertEqual((made["serSlaveId"], made.get("tcpSlaveId")), (2, None))
        self.apply()
        read, none = b"\x04\x00\x04\x00\x01", rtu(5, b"\x84\x02")
        self.answers(rtu(5, read), rtu(5, b"\x04\x02\x00\x00"), port=1)
        self.answers(rtu(5, read), none)
        self.assert_refused(self.admin.delete(f"{S}/2"), 400, "/serSlaveId", "zones")
        moved = self.assert_ok(self.admin.patch(at, {"serSlaveId": None})).data
        self.assertEqual((moved.get("serSlaveId"), moved["tcpSlaveId"]), (None, 1))
        self.apply()
        self.answers(rtu(5, read), rtu(5, b"\x04\x02\x00\x00"))

    def test_a_master_reads_over_ascii(self):
        self.add(format=1, slaveId=9)
        write = b"\x06\x00\x00\x00\x2a"
        self.answers(ascii_frame(9, write), ascii_frame(9, write))
        self.answers(ascii_frame(9, self.READ), ascii_frame(9, b"\x03\x02\x00\x2a"))

    def test_what_is_staged_counts_after_apply(self):
        self.add(slaveId=1)
        write = b"\x06\x00\x00\x00\x05"
        self.answers(rtu(1, write), rtu(1, write))
        reply = self.admin.patch(f"{S}/1", {"slaveId": 2})
        self.assertEqual((reply.status, reply.data["slaveId"]), (200, 2))
        self.answers(rtu(1, write), rtu(1, write))
        self.apply()
        self.answers(rtu(2, write), rtu(2, write))
        self.assertEqual(self.admin.patch(f"{S}/1", {"enable": 0}).status, 200)
        self.assertEqual(self.admin.put("/modbusslave/control/config/undo").status, 200)
        self.assertEqual(self.admin.get(f"{S}/1").data["enable"], 1)
        self.assertEqual(self.admin.patch(f"{S}/1", {"enable": 0}).status, 200)
        self.apply()
        self.assertEqual(self.ask(rtu(2, write), 8), b"")

    def test_it_is_there_after_a_kill_and_follows_the_port(self):
        self.add(slaveId=3)
        write = b"\x06\x00\x00\x00\x07"
        self.answers(rtu(3, write), rtu(3, write))
        self.kill("modbusd")
        self.start("modbusd")
        self.answers(rtu(3, write), rtu(3, write))
        self.restart("iod")  # the line is a new one
        self.answers(rtu(3, write), rtu(3, write))
        self.serial(1, parity="even")
        self.answers(rtu(3, write), rtu(3, write))
        self.serial(1, parity="none")

    def test_a_port_has_a_slave_or_devices_of_the_master(self):
        self.add()
        device = {"masterSerIfaceId": 1, "name": "on-the-line", "slaveId": 5}
        self.assert_refused(self.admin.post(DEVS, device), 400, pointer="/masterSerIfaceId",
                            word="slave")
        self.assert_refused(self.admin.post(S, {"portValue": 0}), 400, pointer="/portValue",
                            word="already")
        reply = self.admin.post(DEVS, {**device, "masterSerIfaceId": 2})
        self.assertIn(reply.status, (200, 201), reply)
        self.assert_refused(self.admin.post(S, {"portValue": 1}), 400, pointer="/portValue",
                            word="master")
        self.assertEqual(self.admin.delete(f"{DEVS}/{reply.data['remoteDevId']}").status, 204)
        self.assertEqual(self.admin.post(S, {"portValue": 1}).status, 200)

    def test_what_cannot_be_is_refused(self):
        self.add()
        for body, pointer in (({}, "/portValue"), ({"portValue": 2}, "/portValue"),
                              ({"portValue": 32}, "/portValue"), ({"portValue": -1}, "/portValue"),
                              ({"portValue": 1, "format": 2}, "/format"),
                              ({"portValue": 1, "slaveId": 0}, "/slaveId"),
                              ({"portValue": 1, "slaveId": 248}, "/slaveId"),
                              ({"portValue": 1, "enable": 2}, "/enable")):
            self.assert_refused(self.admin.post(S, body), 400, pointer=pointer)
        self.assertEqual([s["serSlaveId"] for s in self.admin.get(S).data], [1])
        self.assert_refused(self.admin.patch(f"{S}/1", {"portValue": 1}), 400, pointer="/portValue")
        for number in (0, 2, 33, 4294967295):
            self.assert_refused(self.admin.get(f"{S}/{number}"), 404)
            self.assert_refused(self.admin.patch(f"{S}/{number}", {"enable": 0}), 404)
            self.assert_refused(self.admin.delete(f"{S}/{number}"), 404)
        self.assert_audited("modbusSlaveUpdate", "serial slave")
