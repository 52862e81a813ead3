"""The Modbus TCP slave: against clients that we did not write (pymodbus,
libmodbus), and against clients that mean it no good.
"""
import contextlib
import ctypes
import errno
import socket
import struct
import tempfile
import time
import unittest

from pymodbus.client import ModbusTcpClient

import harness
from harness import wait_for
from slave import Raw, Slave, frame

N_REGS, N_COILS = 130, 2000
READ_ONE = bytes.fromhex("0300000001")
READ_MAX = struct.pack(">BHH", 3, 0, 125)
STALL_S = 10  # SL_STALL_S
CONNS_MAX = 256  # SL_CONNS_MAX


def big_map():
    lines = ["unit 5", "keepalive 20", f"zone 0 0 {N_COILS} 0 own"]
    lines += [f"tag {1000 + i} c{i} boolean rw 0 {i}" for i in range(N_COILS)]
    lines += ["zone 1 0 2048 0 hub"]
    lines += [f"tag {5000 + i} d{i} uint64 r 0 {64 * i}" for i in range(32)]
    lines += [f"zone 2 0 {N_REGS} 0 own"]
    lines += [f"tag {10000 + i} h{i} uint16 rw 0 {2 * i}" for i in range(N_REGS)]
    lines += ["zone 3 0 128 0 hub"]
    lines += [f"tag {6000 + i} i{i} uint64 r 0 {8 * i}" for i in range(32)]
    lines += ["zone 2 200 7 0 hub", "tag 7000 level uint16 rw 0 0", "tag 7001 flow float rw 0 2",
              "tag 7002 total uint64 rw 0 6"]
    return lines


class WithSlave(unittest.TestCase):
    maxDiff = 2000

    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        cls.slave = Slave(cls.dir.name, big_map())
        for i in range(32):
            cls.slave.hub(5000 + i, "uint64", 0xAAAA if i == 0 else 0)
            cls.slave.hub(6000 + i, "uint64", 0x100 + i)
        cls.slave.hub(7000, "uint16", 0x1234)
        cls.slave.hub(7001, "float", 1.5)
        cls.slave.hub(7002, "uint64", 7)

    @classmethod
    def tearDownClass(cls):
        code = cls.slave.stop()
        cls.dir.cleanup()
        if code != 0:
            raise AssertionError(f"the slave ended with {code}")

    def raw(self, **options):
        client = Raw(self.slave.port, **options)
        self.addCleanup(client.close)
        return client

    def assert_serves(self, within=5.0):
        began = time.monotonic()
        self.assertEqual(self.raw().ask(READ_ONE, unit=5)[:2], b"\x03\x02")
        self.assertLess(time.monotonic() - began, within * harness.SLOW)


class Pymodbus(WithSlave):
    """python3-pymodbus as the client."""

    def setUp(self):
        self.client = ModbusTcpClient("127.0.0.1", port=self.slave.port, timeout=10)
        self.assertTrue(self.client.connect())
        self.addCleanup(self.client.close)

    def good(self, reply):
        self.assertFalse(reply.isError(), reply)
        return reply

    def assert_exception(self, reply, code):
        self.assertTrue(reply.isError(), reply)
        self.assertEqual(reply.exception_code, code)

    def test_registers_written_by_6_and_16_are_read_by_3(self):
        self.good(self.client.write_register(0, 0xBEEF, slave=5))
        values = [(7 * i + 1) % 65536 for i in range(123)]
        self.good(self.client.write_registers(7, values, slave=5))
        got = self.good(self.client.read_holding_registers(0, 125, slave=5)).registers
        self.assertEqual((got[0], got[7:]), (0xBEEF, values[:118]))

    def test_coils_written_by_5_and_15_are_read_by_1(self):
        bits = [i % 3 == 0 for i in range(1968)]
        self.good(self.client.write_coils(20, bits, slave=5))
        self.good(self.client.write_coil(3, True, slave=5))
        got = self.good(self.client.read_coils(0, 2000, slave=5)).bits
        self.assertEqual((got[3], got[20:1988]), (True, bits))

    def test_inputs_are_read_by_2_and_4_as_the_hub_has_them(self):
        got = self.good(self.client.read_discrete_inputs(0, 16, slave=5)).bits
        self.assertEqual(got[:16], [i % 2 == 1 for i in range(16)])
        got = self.good(self.client.read_input_registers(0, 125, slave=5)).registers
        self.assertEqual(got[:8], [0, 0, 0, 0x100, 0, 0, 0, 0x101])

    def test_23_writes_first_and_then_reads(self):
        reply = self.good(self.client.readwrite_registers(
            read_address=100, read_count=3, write_address=101, write_registers=[5, 6], slave=5))
        self.assertEqual(reply.registers[1:], [5, 6])

    def test_exceptions_are_those_of_the_book(self):
        self.assert_exception(self.client.read_holding_registers(N_REGS, 1, slave=5), 2)
        self.assert_exception(self.client.read_coils(1999, 2, slave=5), 2)
        self.assert_exception(self.client.write_register(300, 1, slave=5), 2)
        self.assert_exception(self.client.mask_write_register(0, 1, 2, slave=5), 1)

    def test_a_float_and_a_64_bit_number_of_the_hub(self):
        self.slave.hub(7001, "float", -2.5)
        self.slave.hub(7002, "uint64", 2 ** 40 + 3)
        wait_for("the values", lambda: self.client.read_holding_registers(
            201, 6, slave=5).registers == [0xC020, 0, 0, 0x100, 0, 3])

    def test_a_write_reaches_the_owner_as_one_value(self):
        self.slave.order("owner 0")
        mark = len(self.slave.said)
        self.good(self.client.write_registers(201, [0x40A0, 0x0000], slave=5))
        self.assertEqual(self.slave.hears("write", mark), ["write", "flow", "5"])

    def test_the_owners_outcome_is_the_answer(self):
        for outcome, code in ((1, 4), (2, 6), (3, 11), (4, 11)):
            self.slave.order(f"owner {outcome}")
            self.assert_exception(self.client.write_register(200, 1, slave=5), code)
        self.slave.order("owner 0")
        self.good(self.client.write_register(200, 1, slave=5))

    def test_a_value_without_a_source_is_an_exception_until_it_is_back(self):
        self.slave.hub(6000, "uint64", 0x100, quality=3)
        wait_for("the exception", lambda: self.client.read_input_registers(0, 4, slave=5).isError())
        self.assert_exception(self.client.read_input_registers(0, 125, slave=5), 11)
        self.good(self.client.read_input_registers(4, 4, slave=5))
        self.slave.hub(6000, "uint64", 0x100)
        wait_for("the value",
                 lambda: not self.client.read_input_registers(0, 4, slave=5).isError())


class Libmodbus(WithSlave):
    """libmodbus as the client: its checks of answers are its own."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.lib = ctypes.CDLL("libmodbus.so.5", use_errno=True)
        cls.lib.modbus_new_tcp.restype = ctypes.c_void_p

    def setUp(self):
        self.ctx = ctypes.c_void_p(self.lib.modbus_new_tcp(b"127.0.0.1", self.slave.port))
        self.lib.modbus_set_slave(self.ctx, 5)
        self.assertEqual(self.lib.modbus_connect(self.ctx), 0)
        self.addCleanup(self.lib.modbus_free, self.ctx)
        self.addCleanup(self.lib.modbus_close, self.ctx)

    def test_every_function_is_taken_by_it(self):
        lib, ctx = self.lib, self.ctx
        words, bits = (ctypes.c_uint16 * 125)(), (ctypes.c_uint8 * 2000)()
        self.assertEqual(lib.modbus_read_bits(ctx, 0, 2000, bits), 2000)
        self.assertEqual(lib.modbus_read_input_bits(ctx, 0, 2000, bits), 2000)
        self.assertEqual(list(bits[:4]), [0, 1, 0, 1])
        self.assertEqual(lib.modbus_read_input_registers(ctx, 0, 125, words), 125)
        self.assertEqual(words[3], 0x100)
        self.assertEqual(lib.modbus_write_bit(ctx, 9, 1), 1)
        self.assertEqual(lib.modbus_write_bits(ctx, 10, 9, (ctypes.c_uint8 * 9)(*[1] * 9)), 9)
        self.assertEqual(lib.modbus_read_bits(ctx, 9, 10, bits), 10)
        self.assertEqual(list(bits[:10]), [1] * 10)
        self.assertEqual(lib.modbus_write_register(ctx, 3, 77), 1)
        self.assertEqual(lib.modbus_write_registers(ctx, 4, 2, (ctypes.c_uint16 * 2)(78, 79)), 2)
        self.assertEqual(lib.modbus_read_registers(ctx, 3, 3, words), 3)
        self.assertEqual(list(words[:3]), [77, 78, 79])
        written = (ctypes.c_uint16 * 1)(99)
        self.assertEqual(
            lib.modbus_write_and_read_registers(ctx, 3, 1, written, 3, 2, words), 2)
        self.assertEqual(list(words[:2]), [99, 78])

    def test_an_exception_is_understood(self):
        words = (ctypes.c_uint16 * 1)()
        self.assertEqual(self.lib.modbus_read_registers(self.ctx, 500, 1, words), -1)
        self.assertEqual(ctypes.get_errno(), 112345678 + 2)  # EMBXILADD


class Hostile(WithSlave):
    """Each case: what a client does, and that the slave goes on serving others."""

    def tearDown(self):
        self.assert_serves()

    # ---- no Modbus ----

    def test_what_is_no_modbus_ends_the_connection(self):
        cases = {
            "protocol 1": frame(READ_ONE, unit=5, protocol=1),
            "protocol 0x100": frame(READ_ONE, unit=5, protocol=0x100),
            "length 0": frame(READ_ONE, unit=5, length=0),
            "length 1": frame(READ_ONE, unit=5, length=1),
            "length 255": frame(READ_ONE, unit=5, length=255),
            "length 65535": frame(READ_ONE, unit=5, length=65535),
            "http": b"GET / HTTP/1.1\r\nHost: plc\r\n\r\n",
            "tls": bytes.fromhex("16030100c8010000c40303"),
            "noise": b"\xff" * 600,
        }
        for name, data in cases.items():
            with self.subTest(name):
                before = self.slave.stats()
                client = self.raw()
                client.send(data)
                self.assertTrue(client.is_cut())
                after = self.slave.stats()
                self.assertEqual(after["cut"], before["cut"] + 1)
                self.assertEqual(after["invalid"], before["invalid"] + 1)

    def test_a_good_request_before_garbage_is_answered(self):
        client = self.raw()
        client.send(frame(READ_ONE, unit=5, tid=9) + b"\xff" * 40)
        self.assertEqual(client.answer()[0], 9)
        self.assertTrue(client.is_cut())

    def test_endless_bytes_end_at_the_first_frame_that_is_none(self):
        client = self.raw()
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                client.send(b"\x55" * 65536)
        self.assertTrue(client.is_cut())

    # ---- units ----

    def test_only_its_own_unit_and_0_and_255_are_answered(self):
        before = self.slave.stats()
        client = self.raw()
        for tid, unit in enumerate((5, 1, 0, 4, 255, 254, 6, 5)):
            client.send(frame(READ_ONE, tid=tid, unit=unit))
        got = [client.answer()[:2] for _ in range(4)]
        self.assertEqual(got, [(0, 5), (2, 0), (4, 255), (7, 5)])
        self.assertEqual(self.slave.stats()["invalid"], before["invalid"] + 4)
        client.send(frame(READ_ONE, unit=9))
        wait_for("the drop", lambda: "Drop command" in self.slave.conns())

    # ---- pieces ----

    def test_a_request_split_at_every_byte(self):
        client = self.raw()
        request = frame(READ_MAX, tid=77, unit=5)
        for cut in range(1, len(request)):
            client.send(request[:cut])
            time.sleep(0.002)
            client.send(request[cut:])
            tid, unit, pdu = client.answer()
            self.assertEqual((tid, unit, len(pdu)), (77, 5, 252), cut)

    def test_many_requests_in_one_segment_are_answered_in_order(self):
        client = self.raw()
        client.send(b"".join(frame(READ_MAX, tid=i, unit=5) for i in range(1000)))
        for i in range(1000):
            self.assertEqual(client.answer()[0], i)

    def test_a_write_that_waits_keeps_the_order_and_delays_no_other_client(self):
        self.slave.order("owner -1")
        client = self.raw()
        client.send(frame(bytes.fromhex("0600c80001"), tid=1, unit=5) +
                    frame(READ_ONE, tid=2, unit=5))
        mark = len(self.slave.said)
        self.assert_serves()
        self.slave.order("answer 0")
        self.assertEqual([client.answer()[0], client.answer()[0]], [1, 2])
        self.slave.order("owner 0")
        self.assertGreaterEqual(len(self.slave.said), mark)

    def test_a_client_that_goes_while_its_write_waits(self):
        self.slave.order("owner -1")
        for reset in (False, True):
            client = Raw(self.slave.port)
            mark = len(self.slave.said)
            client.send(frame(bytes.fromhex("0600c80001"), unit=5))
            self.slave.hears("write", mark)
            client.close(reset)
            self.assert_serves()
            self.slave.order("answer 0")
        self.slave.order("owner 0")
        wait_for("it to be gone", lambda: self.slave.stats()["conns"] <= 2)

    # ---- coming and going ----

    def test_a_reset_after_each_byte_of_a_request(self):
        request = frame(READ_MAX, unit=5)
        for n in range(len(request) + 1):
            client = Raw(self.slave.port)
            client.send(request[:n])
            client.close(reset=True)
        wait_for("them to be gone", lambda: self.slave.stats()["conns"] <= 1)

    def test_a_half_closed_client_gets_its_answer(self):
        client = self.raw()
        client.send(frame(READ_ONE, unit=5))
        client.s.shutdown(socket.SHUT_WR)
        self.assertEqual(client.answer()[2][:2], b"\x03\x02")
        self.assertTrue(client.is_cut())

    def test_a_thousand_connections_do_not_push_out_one_that_asks(self):
        busy = self.raw()
        self.assertEqual(len(busy.ask(READ_ONE, unit=5)), 4)
        crowd = []
        try:
            for _ in range(1000):
                crowd.append(socket.create_connection(("127.0.0.1", self.slave.port), 10))
            wait_for("the limit", lambda: self.slave.stats()["conns"] == CONNS_MAX)
            self.assertEqual(len(busy.ask(READ_ONE, unit=5)), 4)
            newest = crowd[-1]
            newest.sendall(frame(READ_ONE, unit=5))
            newest.settimeout(10)
            self.assertEqual(len(newest.recv(100)), 11)
        finally:
            for s in crowd:
                s.close()
        wait_for("them to be gone", lambda: self.slave.stats()["conns"] <= 1)

    def test_who_keeps_others_waiting_is_cut_off_after_ten_seconds(self):
        """A frame without its end, one that comes a byte a second, one whose
        answers nobody reads; and one that is only silent, which is no fault."""
        before = self.slave.stats()["cut"]
        half, slow, deaf, idle = (self.raw(timeout=30) for _ in range(4))
        began = time.monotonic()
        half.send(frame(READ_MAX, unit=5)[:9])
        deaf.s.setblocking(False)
        request = frame(READ_MAX, unit=5) * 100
        with contextlib.suppress(BlockingIOError):
            while time.monotonic() - began < 5:
                deaf.s.send(request)
        with contextlib.suppress(ConnectionError):
            for byte in frame(READ_MAX, unit=5)[:11] * 3:
                slow.send(bytes([byte]))
                time.sleep(1)
                self.assert_serves()
                if self.slave.stats()["cut"] >= before + 3:
                    break
        wait_for("all three", lambda: self.slave.stats()["cut"] == before + 3, STALL_S + 5)
        self.assertGreater(time.monotonic() - began, STALL_S - 1)
        self.assertEqual(len(idle.ask(READ_ONE, unit=5)), 4)

    # ---- another configuration ----

    def test_another_map_on_the_same_port_disturbs_no_client(self):
        client = self.raw()
        client.ask(struct.pack(">BHH", 6, 9, 4711), unit=5)
        self.assertEqual(self.slave.apply(big_map()[:-4] + ["keepalive 0"], self.slave.port), 0)
        self.assertEqual(client.ask(struct.pack(">BHH", 3, 9, 1), unit=5)[2:],
                         struct.pack(">H", 4711))
        self.assertEqual(client.ask(struct.pack(">BHH", 3, 200, 1), unit=5), b"\x83\x02")
        self.assertEqual(self.slave.apply(big_map(), self.slave.port), 0)
        self.slave.hub(7000, "uint16", 0x1234)
        wait_for("the hub's tag", lambda: client.ask(struct.pack(">BHH", 3, 200, 1), unit=5)
                 == b"\x03\x02\x12\x34")

    def test_a_port_that_another_has_leaves_the_old_one_open(self):
        client = self.raw()
        with socket.socket() as other:
            other.bind(("0.0.0.0", 0))
            other.listen()
            self.assertEqual(self.slave.apply(big_map(), other.getsockname()[1]), -errno.EADDRINUSE)
        self.assertEqual(len(client.ask(READ_ONE, unit=5)), 4)


if __name__ == "__main__":
    unittest.main()
