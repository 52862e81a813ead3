"""The Modbus slave in front of a device: what its clients read comes from there,
what they write goes there, and they hear what became of it.
"""
import socket
import time
import unittest

from pymodbus.client import ModbusTcpClient

import harness
from harness import Plant, Suite, free_port, is_open, wait_for

TEST_SECONDS = 120
S = "/modbusslave"
NO_ANSWER = 11  # gateway target device failed to respond
WRITE_S = 5     # SL_WRITE_US


class Gateway(Suite):
    daemons = ("auditd", "authd", "tagd", "modbusd", "gateway")

    @classmethod
    def prepare(cls):
        cls.plant = Plant(cls.fleet)
        cls.plant.set(0, 11, 12, 13, 14)
        cls.set_interface(retryCount=0, responseTout=300)
        cls.add_device("pump", cls.plant.port, [
            ("regs", 3, 0, 4, 100, [("flow", "uint16", 0, "r"), ("set", "uint32", 4, "rw")])])
        cls.apply()
        wait_for("the tags", lambda: cls.values("pump").get("set", {}).get("quality") == "good")
        cls.port = free_port()
        hub = {"prvdName": "modbus_tcp_master", "srcName": "pump"}
        cls.zone({"dataFormat": 3, "address": 0, "refTags": [{**hub, "tagName": "flow"}]})
        cls.zone({"dataFormat": 2, "address": 10, "quan": 2,
                  "refTags": [{**hub, "tagName": "set"}]})
        reply = cls.admin.patch(f"{S}/config/tcp-slaves/1", {"listenPort": cls.port, "enable": 1})
        assert reply.status == 200, reply
        reply = cls.admin.put(f"{S}/control/config/apply")
        assert reply.status == 200, reply

    @classmethod
    def zone(cls, body):
        reply = cls.admin.post(f"{S}/config/szones", {**body, "fromRefTaglist": 1})
        assert reply.status in (200, 201), reply

    @classmethod
    def tearDownClass(cls):
        cls.plant.stop()
        super().tearDownClass()

    def setUp(self):
        self.client = ModbusTcpClient("127.0.0.1", port=self.port, timeout=WRITE_S + 5)
        wait_for("the slave", lambda: is_open(self.port))
        self.assertTrue(self.client.connect())
        self.addCleanup(self.client.close)

    def reads(self, address, count, call=None):
        reply = (call or self.client.read_holding_registers)(address, count, slave=1)
        return reply.exception_code if reply.isError() else reply.registers

    def test_a_change_in_the_device_is_read_by_a_client(self):
        inputs = self.client.read_input_registers
        wait_for("the value", lambda: self.reads(0, 1, inputs) == [11])
        self.plant.set(0, 4711)
        wait_for("the change", lambda: self.reads(0, 1, inputs) == [4711])
        self.plant.set(0, 11)
        wait_for("the change", lambda: self.reads(0, 1, inputs) == [11])

    def test_a_write_is_in_the_device_when_its_answer_comes(self):
        for value in (0x00010002, 0xFFFF0000, 0):
            reply = self.client.write_registers(10, [value >> 16, value & 0xFFFF], slave=1)
            self.assertFalse(reply.isError(), reply)
            self.assertEqual(self.plant.get(2, 2), [value >> 16, value & 0xFFFF])
            wait_for("it to be read back",
                     lambda: self.reads(10, 2) == [value >> 16, value & 0xFFFF])

    def test_a_device_that_is_gone_is_an_exception_for_reads_and_writes(self):
        self.plant.stop()
        wait_for("the exception", lambda: self.reads(10, 2) == NO_ANSWER)
        began = time.monotonic()
        reply = self.client.write_registers(10, [0, 1], slave=1)
        self.assertEqual(reply.exception_code, NO_ANSWER)
        self.assertLess(time.monotonic() - began, (WRITE_S + 1) * harness.SLOW)
        self.plant.start()
        wait_for("the device to be back", lambda: self.reads(10, 2) == [0, 0], 20)

    def test_a_port_that_is_taken_at_the_start_is_recorded_and_opened_later(self):
        self.client.close()
        self.kill("modbusd")
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("0.0.0.0", self.port))
            other.listen()
            self.start("modbusd")
            self.assert_audited("modbusSlaveFail", f"port {self.port}", source="modbusd")
        wait_for("the port", lambda: is_open(self.port), 15)
        self.plant.set(0, 11)
        self.assertTrue(self.client.connect())
        wait_for("the value", lambda: self.reads(0, 1, self.client.read_input_registers) == [11])


if __name__ == "__main__":
    unittest.main()
