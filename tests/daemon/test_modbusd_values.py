"""Every data type in every order of bytes, both scalings and all functions, read from and
written to a server of pymodbus and one of jsmodbus; what is expected is computed here, with
nothing of ours.
"""
import math
import os
import struct
import unittest

import buspeer
import tagwire
from harness import JsPlant, Plant, wait_for
from modbusdaemon import WHO, ModbusDaemon

# Where byte A, the highest, to H of a value are sent: the words of the API's document.
ORDERS = ("ABCDEFGH", "BADCFEHG", "CDABGHEF", "DCBAHGFE", "HGFEDCBA", "GHEFCDAB")
NAN, INF = math.nan, math.inf
SUBNORMAL = 5e-324


def f32(value):
    return struct.unpack(">f", struct.pack(">f", value))[0]


TYPES = {  # name: (struct, bytes, type on the tag bus, values)
    "int16": ("h", 2, tagwire.INT16, (0, 1, -1, -2**15, 2**15 - 1, 0x1234)),
    "uint16": ("H", 2, tagwire.UINT16, (0, 1, 2**16 - 1, 0xA55A)),
    "int32": ("i", 4, tagwire.INT32, (0, 1, -1, -2**31, 2**31 - 1, 0x12345678)),
    "uint32": ("I", 4, tagwire.UINT32, (0, 1, 2**32 - 1, 0x89ABCDEF)),
    "int64": ("q", 8, tagwire.INT64, (0, -1, -2**63, 2**63 - 1, 2**53 + 1, 0x0123456789ABCDEF)),
    "uint64": ("Q", 8, tagwire.UINT64, (0, 2**64 - 1, 2**63, 2**53 + 1, 0x0123456789ABCDEF)),
    "float": ("f", 4, tagwire.FLOAT, (0.0, -0.0, 1.5, f32(0.1), f32(3.4028234e38), f32(1e-45),
                                      NAN, INF, -INF)),
    "double": ("d", 8, tagwire.DOUBLE, (0.0, -0.0, 0.1, 1.7976931348623157e308, SUBNORMAL,
                                        NAN, INF, -INF)),
}


def ordered(value_bytes, swap):
    """As they are sent in the order 'swap', for 2, 4 or 8 bytes."""
    n = len(value_bytes)
    if n == 2:
        order = "AB" if ORDERS[swap][0] in "ACG" else "BA"
    elif n == 4:
        order = ("ABCD", "BADC", "CDAB", "DCBA", "DCBA", "CDAB")[swap]
    else:
        order = ORDERS[swap]
    return bytes(value_bytes[ord(letter) - ord("A")] for letter in order)


def same(a, b):
    """Also in sign and kind."""
    if isinstance(a, float) or isinstance(b, float):
        if math.isnan(a) or math.isnan(b):
            return math.isnan(a) and math.isnan(b)
        return struct.pack(">d", a) == struct.pack(">d", b)
    return a == b


def words(data):
    return struct.unpack(f">{len(data) // 2}H", data)


class Values(ModbusDaemon):
    kind, has_23 = Plant, True

    @classmethod
    def prepare(cls):
        cls.fake_auditd()
        cls.plant = cls.kind(cls.fleet)
        cls.stand_ins.append(cls.plant)

    @classmethod
    def begin(cls):
        cls.set_iface(retryCount=0, responseTout=500)

    def setUp(self):
        self.device = self.add_device("plant", self.plant.port)
        self.addCleanup(self.done, "applyMasterConfig", who=WHO)
        self.addCleanup(self.delete_device, self.device)
        self.wanted = []

    def tag(self, command, type_, offset, access, value=None, **members):
        no = self.add_tag(command, f"t{command}-{offset}-{type_}", type_, offset, access,
                          **members)
        self.wanted.append((no, value, (type_, offset, members)))
        return no

    def apply(self):
        self.done("applyMasterConfig", who=WHO)

    def snapshot(self):
        return {s.no: s for s in self.pages(buspeer.TAG_SNAPSHOT)[0]}

    def all_good(self):
        """The snapshot, once all tags of the test have a value."""
        def good():
            shown = self.snapshot()
            return all(shown[no].quality == tagwire.GOOD for no, _, _ in self.wanted) and shown
        self.apply()
        return wait_for("all to be good", good)

    def check_reads(self):
        shown = self.all_good()
        wrong = [(what, value, shown[no].value) for no, value, what in self.wanted
                 if not same(shown[no].value, value)]
        self.assertEqual(wrong, [])

    # ---- reading ----

    def test_every_type_is_read_in_every_order_from_holding_and_input_registers(self):
        for swap in range(6):
            for func, kind in ((3, "holding"), (4, "input")):
                for name, (code, size, _, values) in TYPES.items():
                    address = 1000 * swap + 100 * list(TYPES).index(name)
                    data = b"".join(ordered(struct.pack(">" + code, v), swap) for v in values)
                    self.plant.set(address, *words(data), kind=kind)
                    command = self.add_command(
                        self.device, f"{name}-{swap}-{func}", func, readAddress=address,
                        readQuantity=len(data) // 2, pollInterval=86400000, swap=swap)
                    for i, value in enumerate(values):
                        self.tag(command, name, i * size, "r", value)
        self.check_reads()

    def test_bytes_texts_and_single_bytes_are_read_in_every_order(self):
        text = "Pumpe ä1".encode() + b"\0\0"  # 9 bytes, then NUL; the 12th is a number
        for swap in range(6):
            data = text + b"\x80"
            sent = ordered(data[:8], swap) + ordered(data[8:], swap)
            self.plant.set(6000 + 10 * swap, *words(sent))
            command = self.add_command(self.device, f"bytes-{swap}", 3,
                                       readAddress=6000 + 10 * swap, readQuantity=6,
                                       pollInterval=86400000, swap=swap)
            self.tag(command, "string", 0, "r", text[:9], dataSize=12)
            self.tag(command, "bytearray", 0, "r", data, dataSize=12)
            self.tag(command, "raw", 0, "r", sent, dataSize=12)
            low, high = (10, 11) if ORDERS[swap][0] in "ACG" else (11, 10)
            self.tag(command, "int8", 11, "r", struct.unpack("b", sent[high:high + 1])[0])
            self.tag(command, "uint8", 10, "r", sent[low])
        self.check_reads()

    def test_bits_are_read_from_coils_and_inputs(self):
        bits = [(i * 7 + i // 5) % 3 == 0 for i in range(100)]
        for func, kind in ((1, "coil"), (2, "discrete")):
            self.plant.set(50, *map(int, bits), kind=kind)
            command = self.add_command(self.device, f"bits-{func}", func, readAddress=50,
                                       readQuantity=100, pollInterval=86400000, swap=5)
            def number(at, n):
                return sum(bits[at + i] << i for i in range(n))
            for at in (0, 1, 7, 8, 63, 99):
                self.tag(command, "boolean", at, "r", bits[at])
            for at, type_, n in ((3, "uint8", 8), (4, "uint16", 16), (33, "uint32", 32),
                                 (36, "uint64", 64)):
                self.tag(command, type_, at, "r", number(at, n))
            self.tag(command, "int16", 20, "r",
                     struct.unpack("h", struct.pack("H", number(20, 16)))[0])
            self.tag(command, "raw", 8, "r",
                     bytes(number(at, 8) for at in (8, 16, 24)), dataSize=3)
        self.check_reads()

    SCALINGS = (  # members of a command, and what they make of a number
        ({"scalingFunc": 1, "interceptSlope": 0.1, "interceptOffset": -40},
         lambda raw: raw * 0.1 - 40),
        ({"scalingFunc": 1, "interceptSlope": -2.5, "interceptOffset": 1e6},
         lambda raw: raw * -2.5 + 1e6),
        ({"scalingFunc": 2, "pointSourceMin": 0, "pointSourceMax": 27648,
          "pointTargetMin": -10, "pointTargetMax": 150},
         lambda raw: -10 + (raw - 0) * 160 / 27648),
        ({"scalingFunc": 2, "pointSourceMin": 20, "pointSourceMax": 4,  # falling
          "pointTargetMin": 0, "pointTargetMax": 100},
         lambda raw: (raw - 20) * 100 / (4 - 20)),
    )

    def test_both_scalings_are_what_they_say_in_both_directions(self):
        raws = {"int16": (-2**15, -1, 0, 7, 2**15 - 1), "uint16": (0, 13824, 2**16 - 1),
                "int32": (-2**31, 12345678), "uint32": (2**32 - 1,), "float": (1.5, -1e10),
                "double": (0.25, 1e100), "int64": (-2**40, 2**53), "uint64": (2**40,)}
        address = 7000
        written = []
        for k, (members, meaning) in enumerate(self.SCALINGS):
            for name, values in raws.items():
                code, size = TYPES[name][:2]
                data = b"".join(struct.pack(">" + code, v) for v in values)
                self.plant.set(address, *words(data))
                command = self.add_command(self.device, f"s{k}-{name}", 3, readAddress=address,
                                           readQuantity=len(data) // 2, pollInterval=86400000,
                                           **members)
                for i, raw in enumerate(values):
                    no = self.tag(command, name, i * size, "rw", meaning(float(raw)))
                    written.append((no, address + i * size // 2, code, size, raw,
                                    meaning(float(raw))))
                address += len(data) // 2
        shown = self.all_good()
        for no, value, what in self.wanted:
            self.assertEqual(shown[no].type, tagwire.DOUBLE)
            self.assertTrue(math.isclose(shown[no].value, value, rel_tol=1e-12, abs_tol=1e-9),
                            (what, value, shown[no].value))
        for no, at, code, size, raw, value in written:
            if abs(raw) >= 2**31:
                continue  # more digits than the way back has
            self.plant.set(at, *[0x5555] * (size // 2))
            self.assertEqual(self.write(no, tagwire.DOUBLE, value).status, 200, (code, raw))
            got = struct.unpack(">" + code, struct.pack(
                f">{size // 2}H", *self.plant.get(at, size // 2)))[0]
            self.assertTrue(math.isclose(got, raw, rel_tol=1e-7, abs_tol=1e-9), (code, raw, got))

    def test_a_scaled_number_is_rounded_to_the_nearest_one_that_can_be_sent(self):
        command = self.add_command(self.device, "tenths", 3, readAddress=7900,
                                   pollInterval=86400000, scalingFunc=1, interceptSlope=0.1)
        no = self.tag(command, "int16", 0, "rw")
        self.apply()
        for value, raw in ((0.04, 0), (0.06, 1), (-0.06, -1), (3276.74, 32767),
                           (-3276.84, -32768)):
            self.assertEqual(self.write(no, tagwire.DOUBLE, value).status, 200, value)
            self.assertEqual(self.plant.get(7900)[0], raw & 0xFFFF)
        for value in (3276.76, -3276.86, 1e300, -1e300, NAN, INF, -INF):
            self.assertEqual(self.write(no, tagwire.DOUBLE, value).status, 400, value)
        self.assertEqual(self.plant.get(7900)[0], 0x8000)

    # ---- writing ----

    def test_every_type_is_written_in_every_order(self):
        """Through function 16, through 23, and where a readable tag is read from."""
        targets, ways = [], [(16, "w"), (23, "w"), (3, "rw")]
        if not self.has_23:
            ways.remove((23, "w"))
        for swap in range(6):
            for name, (code, size, bus, values) in TYPES.items():
                base = 10000 + 1000 * swap + 100 * list(TYPES).index(name)
                for i, (func, access) in enumerate(ways):
                    address = base + 10 * i
                    command = self.add_command(
                        self.device, f"w{name}-{swap}-{func}", func, mode=int(func != 3),
                        readAddress=address, readQuantity=size // 2 + 1, writeAddress=address,
                        writeQuantity=size // 2 + 1, pollInterval=86400000, swap=swap)
                    no = self.tag(command, name, 2, access)
                    targets.append((no, address + 1, swap, code, size, bus, values))
        self.apply()
        wait_for("the connection", lambda: self.metric("fieldgate_modbus_connections") >= 1)
        for no, address, swap, code, size, bus, values in targets:
            for value in values:
                got = self.write(no, bus, value)
                if isinstance(value, float) and not math.isfinite(value):
                    self.assertEqual(got.status, 400, (code, value))
                    continue
                self.assertEqual(got.status, 200, (code, swap, value, got.body))
                self.assertEqual(tuple(self.plant.get(address, size // 2)),
                                 words(ordered(struct.pack(">" + code, value), swap)),
                                 (code, swap, value))

    def test_single_registers_and_coils_are_written_by_5_6_and_15(self):
        one = self.add_command(self.device, "one", 6, mode=1, writeAddress=300)
        coil = self.add_command(self.device, "coil", 5, mode=1, writeAddress=300)
        coils = self.add_command(self.device, "coils", 15, mode=1, writeAddress=310,
                                 writeQuantity=40)
        value = self.tag(one, "int16", 0, "w")
        bit = self.tag(coil, "boolean", 0, "w")
        word = self.tag(coils, "uint16", 3, "w")
        some = self.tag(coils, "raw", 24, "w", dataSize=2)
        self.apply()
        for v in (-1, -2**15, 2**15 - 1):
            self.assertEqual(self.write(value, tagwire.INT16, v).status, 200)
            self.assertEqual(self.plant.get(300), [v & 0xFFFF])
        for v in (True, False, True):
            self.assertEqual(self.write(bit, tagwire.BOOLEAN, v).status, 200)
            self.assertEqual(self.plant.get(300, kind="coil"), [int(v)])
        self.assertEqual(self.write(word, tagwire.UINT16, 0xA53C).status, 200)
        self.assertEqual(self.plant.get(310, 24, kind="coil"),
                         [0] * 3 + [0xA53C >> i & 1 for i in range(16)] + [0] * 5)
        self.assertEqual(self.write(some, tagwire.RAW, b"\x81\x0F").status, 200)
        self.assertEqual(self.plant.get(334, 16, kind="coil"),
                         [1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0])

    def test_texts_and_bytes_are_written_whole_or_refused(self):
        command = self.add_command(self.device, "text", 16, mode=1, writeAddress=400,
                                   writeQuantity=20, swap=1)
        text = self.tag(command, "string", 0, "w", dataSize=12)
        array = self.tag(command, "bytearray", 12, "w", dataSize=4)
        raw = self.tag(command, "raw", 16, "w", dataSize=4)
        self.apply()
        for value in ("", "a", "Pumpe ä 1".encode(), b"123456789012"):
            value = value if isinstance(value, bytes) else value.encode()
            self.assertEqual(self.write(text, tagwire.STRING, value).status, 200, value)
            whole = value.ljust(12, b"\0")
            self.assertEqual(tuple(self.plant.get(400, 6)),
                             struct.unpack("<6H", whole), value)
            self.assertEqual(self.last(text).value, value)
        self.assertEqual(self.write(array, tagwire.RAW, b"\1\2\3\4").status, 200)
        self.assertEqual(self.write(raw, tagwire.RAW, b"\1\2\3\4").status, 200)
        self.assertEqual(self.plant.get(406, 4), [0x0201, 0x0403, 0x0102, 0x0304])
        before = self.plant.get(400, 10)
        for no, type_, value in (
                (text, tagwire.STRING, b"1234567890123"), (text, tagwire.STRING, b"a\0b"),
                (text, tagwire.STRING, b"a\0"), (text, tagwire.STRING, b"\xff"),
                (text, tagwire.RAW, b"a"), (raw, tagwire.STRING, b"abcd"),
                (array, tagwire.RAW, b"\1\2\3"), (array, tagwire.RAW, b"\1\2\3\4\5"),
                (raw, tagwire.RAW, b""), (raw, tagwire.RAW, b"\1\2\3\4\5")):
            self.assertEqual(self.write(no, type_, value).status, 400, (no, value))
        self.assertEqual(self.plant.get(400, 10), before)

    def test_numbers_out_of_range_are_refused_and_nothing_is_written(self):
        targets = {}
        for i, (name, (_, size, bus, _)) in enumerate(TYPES.items()):
            command = self.add_command(self.device, f"r{name}", 16, mode=1,
                                       writeAddress=30000 + 10 * i, writeQuantity=size // 2)
            targets[name] = (self.tag(command, name, 0, "w"), bus)
        self.apply()
        for name, value in (
                ("int16", 2**15), ("int16", -2**15 - 1), ("uint16", 2**16), ("uint16", 2**63),
                ("int32", 2**31), ("int32", -2**31 - 1), ("uint32", 2**32),
                ("float", 3.5e38), ("float", -3.5e38), ("float", NAN), ("double", INF)):
            no, bus = targets[name]
            got = self.write(no, bus, value)
            self.assertEqual(got.status, 400, (name, value))
            self.assertEqual(got.json["error"]["outcome"], "none")
        self.assertEqual(self.plant.get(30000, 80), [0] * 80)
        # the nearest that fits
        no, bus = targets["float"]
        self.assertEqual(self.write(no, bus, 3.4028235e38).status, 200)
        self.assertEqual(self.plant.get(30060, 2), [0x7F7F, 0xFFFF])
        self.assertEqual(self.write(no, bus, 1e-60).status, 200)
        self.assertEqual(self.plant.get(30060, 2), [0, 0])

    def test_function_23_writes_and_shows_what_it_reads_back(self):
        self.plant.set(600, 11, 12, 13, 14)
        command = self.add_command(self.device, "both", 23, mode=1, readAddress=600,
                                   readQuantity=4, writeAddress=602, writeQuantity=2)
        first = self.tag(command, "uint16", 0, "r")
        target = self.tag(command, "uint16", 2, "w")
        last = self.tag(command, "uint16", 6, "r")
        self.apply()
        got = self.write(target, tagwire.UINT16, 99)
        if not self.has_23:
            # It does not answer it, nor what follows on that connection: a new one is made.
            self.assertEqual((got.status, got.json["error"]["outcome"]), (504, "unknown"))
            other = self.tag(self.add_command(self.device, "other", 3, readAddress=603,
                                              pollInterval=100),
                             "uint16", 0, "r", 14)
            self.apply()
            self.wait_good(other, 14)
            return
        self.assertEqual(got.status, 200)
        self.assertEqual(self.plant.get(600, 4), [11, 12, 13, 99])
        self.assertEqual((self.last(first).value, self.last(last).value), (11, 99))
        self.assertEqual(self.last(target).value, 99)


@unittest.skipUnless(os.path.isdir(JsPlant.modules),
                     "no jsmodbus: the npm registry was out of reach")
class ValuesOfJsmodbus(Values):
    kind, has_23 = JsPlant, False
