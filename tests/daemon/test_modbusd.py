"""modbusd alone: a Modbus device that misbehaves on order, and a listener at its
tag bus that shares no code with it.
"""
import socket
import struct
import time

import buspeer
import harness
import tagwire
from harness import wait_for
from hostile_modbus import Hostile
from modbusdaemon import P, WHO, ModbusDaemon
from onedaemon import GUEST, NOBODY

TIMEOUT_MS = 300
U64 = int.from_bytes(struct.pack(">4H", *range(60000, 60004)), "big")


class Modbusd(ModbusDaemon):
    @classmethod
    def prepare(cls):
        cls.audit = cls.fake_auditd()
        cls.plant = Hostile()
        cls.stand_ins.append(cls.plant)

    @classmethod
    def begin(cls):
        cls.set_iface(retryCount=0, responseTout=TIMEOUT_MS)
        cls.device = cls.add_device("pump", cls.plant.port)
        fast = cls.add_command(cls.device, "fast", 3, readAddress=60000, readQuantity=8,
                               pollInterval=100)
        slow = cls.add_command(cls.device, "slow", 3, readAddress=0, readQuantity=8,
                               pollInterval=86400000)
        out = cls.add_command(cls.device, "out", 16, mode=1, writeAddress=500, writeQuantity=4)
        bits = cls.add_command(cls.device, "bits", 1, readAddress=0, readQuantity=8,
                               pollInterval=100)
        cls.big = cls.add_tag(fast, "big", "uint64", 0, "r")
        cls.deep = cls.add_tag(fast, "deep", "int64", 0, "r")
        cls.raw = cls.add_tag(fast, "raw", "raw", 8, "r", dataSize=5)
        cls.small = cls.add_tag(slow, "small", "uint16", 14, "rw")
        cls.out = cls.add_tag(out, "out", "uint64", 0, "w")
        cls.bit = cls.add_tag(bits, "bit", "boolean", 2, "r")
        cls.done("applyMasterConfig", who=WHO)

    def setUp(self):
        self.plant.mode, self.plant.delay, self.plant.base = "ok", 0.5, 0
        if self.changed():
            self.done("undoMasterConfig", who=WHO)

    def test_the_catalogue_tells_every_tag_by_the_number_of_its_configuration(self):
        tags = self.tags()
        self.assertEqual(tags["pump", "big"], tagwire.Def(
            self.big, tagwire.UINT64, tagwire.READ, 0, 100, P, "pump", "big", ""))
        self.assertEqual((tags["pump", "raw"].type, tags["pump", "raw"].size), (tagwire.RAW, 5))
        self.assertEqual(tags["pump", "small"].access, 3)
        self.assertEqual(tags["pump", "out"].access, tagwire.WRITE)
        self.assertEqual(tags["pump", "status"].type, tagwire.INT32)
        numbers = [d.no for d in self.pages(buspeer.TAG_CATALOGUE)[0]]
        self.assertEqual(numbers, sorted(set(numbers)))

    def test_values_on_the_bus_are_exact_and_batches_are_numbered_one_by_one(self):
        bus = self.bus()
        before = time.time()
        seen = {}
        while bus.batches < 12 or not {self.big, self.deep, self.raw, self.bit} <= set(seen):
            for s in bus.next().samples:
                self.assertEqual((s.quality, s.code), (tagwire.GOOD, 0))
                self.assertTrue(before - 1 < s.at / 1e6 < time.time() + 1)
                seen[s.no] = s
        self.assertEqual((seen[self.big].type, seen[self.big].value), (tagwire.UINT64, U64))
        self.assertEqual((seen[self.deep].type, seen[self.deep].value),
                         (tagwire.INT64, U64 - 2**64))
        self.assertEqual((seen[self.raw].type, seen[self.raw].value),
                         (tagwire.RAW, struct.pack(">3H", 60004, 60005, 60006)[:5]))
        self.assertIs(seen[self.bit].value, True)
        self.plant.base = 5535  # 60001 becomes 0
        s = bus.wait("the new value", lambda s: s.no == self.big and s.value != U64)
        self.assertEqual(s.value, int.from_bytes(
            struct.pack(">4H", *((60000 + i + 5535) & 0xFFFF for i in range(4))), "big"))

    def test_a_snapshot_holds_all_batches_up_to_its_number_and_none_after(self):
        self.wait_good(self.big)
        bus = self.bus()
        heard = [bus.next()]
        for base in range(1, 6):
            self.plant.base = base
            bus.wait("the change", lambda s, b=base: s.no == self.big
                     and s.value & 0xFFFF == 60003 + b)
            page = self.page(buspeer.TAG_SNAPSHOT)
            self.assertEqual((page.epoch, page.generation), (bus.epoch, bus.generation))
            mine = {s.no: s for s in page.items}
            while heard[-1].seq < page.seq + 3:
                heard.append(bus.next())
            for b in heard[-8:]:
                for s in b.samples:
                    if b.seq <= page.seq:
                        self.assertLessEqual(s.at, mine[s.no].at)
                    else:
                        self.assertGreater(s.at, mine[s.no].at)

    def test_pages_begin_where_they_are_asked_to_and_end_with_the_list(self):
        for op in (buspeer.TAG_CATALOGUE, buspeer.TAG_SNAPSHOT):
            whole = [i.no for i in self.page(op).items]
            for first in range(len(whole) + 3):
                page = self.page(op, first)
                self.assertEqual([i.no for i in page.items], whole[first:])
                self.assertEqual(page.next, 0)
            self.assertEqual(self.page(op, 0xFFFFFFFF).items, [])
            for body in (b"", b"\0\0\0", b"\0" * 5):
                self.assertEqual(self.tell(op, body).status, 400)

    def test_a_catalogue_of_many_pages_fits_together(self):
        source = "large-" + "s" * 110
        device = self.add_device(source, harness.free_port())
        command = self.add_command(device, "all", 3, readQuantity=125, pollInterval=86400000)
        names = [f"{i:04}-" + "n" * 120 for i in range(4500)]
        for at in range(0, len(names), 250):
            self.done("postMasterTags", [
                {"mcmdId": command, "name": n, "dataType": "raw", "dataSize": 250, "offset": 0,
                 "access": "r"} for n in names[at:at + 250]], who=WHO)
        self.done("applyMasterConfig", who=WHO)
        defs, n = self.pages(buspeer.TAG_CATALOGUE)
        self.assertGreater(n, 1)
        mine = [d for d in defs if d.source == source and d.name != "status"]
        self.assertEqual(sorted(d.name for d in mine), names)
        lasts, _ = self.pages(buspeer.TAG_SNAPSHOT)
        self.assertEqual([s.no for s in lasts], [d.no for d in defs])
        self.delete_device(device)
        self.done("applyMasterConfig", who=WHO)
        self.assertNotIn((source, names[0]), self.tags())

    def test_an_applied_change_of_the_catalogue_is_told_on_the_bus(self):
        bus = self.bus()
        generation = bus.next().generation
        device = self.add_device("second", self.plant.port, slaveId=9)
        command = self.add_command(device, "r", 3, readAddress=7, pollInterval=100)
        no = self.add_tag(command, "seven", "uint16", 0, "r")
        self.assertEqual(self.page(buspeer.TAG_CATALOGUE).generation, generation)  # staged
        self.done("applyMasterConfig", who=WHO)
        s = bus.wait("the new tag", lambda s: s.no == no)
        self.assertEqual(s.value, 7)
        self.assertGreater(bus.generation, generation)
        self.assertEqual(self.page(buspeer.TAG_CATALOGUE).generation, bus.generation)
        # the other device went on
        bus.wait("the old tag", lambda s: s.no == self.big)
        self.delete_device(device)
        self.done("applyMasterConfig", who=WHO)

    # ---- staged and applied ----

    def test_what_is_staged_survives_kill_9_and_stays_unapplied(self):
        self.add_device("staged", harness.free_port(), slaveId=77)
        self.assertTrue(self.changed())
        before = self.tags()
        self.kill_and_start()
        self.assertTrue(self.changed())
        self.assertEqual(self.devices()["staged"]["slaveId"], 77)
        self.assertEqual(self.tags(), before)
        self.assertNotIn(("staged", "status"), before)
        self.done("undoMasterConfig", who=WHO)
        self.assertFalse(self.changed())
        self.assertNotIn("staged", self.devices())
        self.kill_and_start()
        self.assertNotIn("staged", self.devices())
        self.assertFalse(self.changed())

    def test_what_is_applied_is_polled_after_kill_9_without_another_apply(self):
        self.wait_good(self.big)
        before = self.tags()
        for _ in range(3):
            self.daemon.kill()
            n = self.plant.requests.get(1, 0)
            self.start_again()
            self.assertFalse(self.changed())
            wait_for("polling", lambda k=n: self.plant.requests.get(1, 0) > k + 3)
            self.wait_good(self.big, U64)
            self.assertEqual(self.tags(), before)

    def test_an_unapplied_deletion_is_polled_until_it_is_applied_and_undo_brings_it_back(self):
        self.delete_device(self.device)
        self.assertNotIn("pump", self.devices())
        self.kill_and_start()
        self.wait_good(self.big)
        self.assertTrue(self.changed())
        self.done("undoMasterConfig", who=WHO)
        self.assertIn("pump", self.devices())
        self.assertEqual(self.tags()["pump", "big"].no, self.big)
        self.assertEqual(len(self.done("getMasterTags", who=WHO)), 6)

    def test_each_answered_change_is_recorded_once_also_across_kill_9(self):
        self.audit.server.stop()
        keeper = (*WHO[:4], "keeper", WHO[5])  # others' records may still be on their way
        one = {"masterTcpIfaceId": 1, "name": "noted", "slaveId": 5, "slaveIpaddr": "127.0.0.1",
               "slaveTcpPort": harness.free_port()}
        device = self.done("postRemoteDevs", one, who=keeper)["remoteDevId"]
        self.daemon.kill()
        self.start_again()
        self.done("patchRemoteDev", {"slaveId": 6}, path=(str(device),), who=keeper)
        self.done("deleteRemoteDev", path=(str(device),), who=keeper, status=204)
        self.kill_and_start()
        self.audit.server.start()
        self.done("undoMasterConfig", who=(*WHO[:4], "last", WHO[5]))
        wait_for("the last record", lambda: [r for r in self.audit.kept if r["source"] == "last"])
        self.assertEqual([r["event"] for r in self.audit.kept if r["source"] == "keeper"],
                         ["modbusMasterUpdate"] * 3)
        seqs = [r["seq"] for r in self.audit.kept]
        self.assertEqual(seqs, sorted(set(seqs)))

    def test_a_change_that_is_refused_leaves_all_as_it_was(self):
        before = self.devices()
        good = {"masterTcpIfaceId": 1, "name": "x", "slaveId": 2, "slaveIpaddr": "127.0.0.1",
                "slaveTcpPort": 502}
        for bad in (dict(good, name="pump"), dict(good, slaveId=256), dict(good, slaveId=-1),
                    dict(good, slaveId="1"), dict(good, slaveIpaddr="localhost"),
                    dict(good, slaveTcpPort=0), dict(good, slaveTcpPort=65536),
                    dict(good, masterTcpIfaceId=2), dict(good, unknown=1), {}, [],
                    [good, dict(good, name="pump")], [good, good], b"{", b"", b"7",
                    dict(good, slaveId=1, slaveTcpPort=self.plant.port)):
            got = self.call("postRemoteDevs", bad, who=WHO,
                            body_kind=buspeer.JSON if isinstance(bad, bytes) else None)
            self.assertIn(got.status, (400, 404, 409), bad)
        self.assertEqual(self.devices(), before)
        self.assertFalse(self.changed())
        for who, status in ((NOBODY, 401), (GUEST, 403)):
            for operation in ("getRemoteDevs", "applyMasterConfig", "undoMasterConfig"):
                self.assertEqual(self.call(operation, who=who).status, status)

    # ---- reading and writing now ----

    def test_a_read_asks_the_device_now(self):
        self.plant.base = 1000
        got = self.read(self.small)
        self.assertEqual(got.status, 200, got.body)
        when, quality, code = struct.unpack(">qBB", got.body[:10])
        self.assertEqual((quality, code), (tagwire.GOOD, 0))
        self.assertLess(abs(when / 1e6 - time.time()), 5)
        self.assertEqual(tagwire.value_at(got.body, 10), (tagwire.UINT16, 1007, len(got.body)))

    def test_a_read_that_the_device_spoils_tells_why_within_its_time(self):
        for mode, code, statuses in (
                ("mute", 0, (504,)), ("short", 0, (504,)), ("garbage", 0, (504,)),
                ("wrong_tid", 0, (504,)), ("wrong_unit", 0, (504,)), ("wrong_func", 0, (504,)),
                ("wrong_count", 0, (504,)), ("long", 0, (504,)), ("close", 0, (504,)),
                ("exception", 2, (400,)), ("exception", 11, (400,))):
            self.plant.mode, self.plant.code = mode, code
            began = time.monotonic()
            got = self.read(self.small)
            self.assertIn(got.status, statuses, (mode, got.body))
            self.assertTrue(got.json["error"]["message"], mode)
            self.assertLess(time.monotonic() - began, 3 * TIMEOUT_MS / 1000 + harness.AT_ONCE)
            self.plant.mode = "ok"
            wait_for("the device", lambda: self.read(self.small).status == 200)

    def test_a_read_is_answered_before_its_deadline_however_slow_the_device(self):
        self.set_iface(responseTout=20000)
        self.done("applyMasterConfig", who=WHO)
        self.plant.mode = "mute"
        began = time.monotonic()
        got = self.read(self.small, 3)
        self.assertEqual(got.status, 504)
        self.assertLess(time.monotonic() - began, 3 * harness.SLOW)
        got = self.tell(buspeer.TAG_READ, struct.pack(">I", self.small),
                        deadline_us=int(time.monotonic() * 1e6) - 1)
        self.assertEqual(got.status, 504)
        self.plant.mode = "ok"
        self.plant.gone()
        self.plant.back()  # what is under way ends with its connection
        self.set_iface(responseTout=TIMEOUT_MS)
        self.done("applyMasterConfig", who=WHO)
        wait_for("the device", lambda: self.read(self.small).status == 200)

    def test_a_stop_with_a_read_under_way_is_in_order(self):
        self.plant.mode = "mute"
        p = self.peer(15)
        n = self.plant.requests.get(1, 0)
        p.send(buspeer.message(buspeer.request(buspeer.TAG_READ, struct.pack(">I", self.small))))
        wait_for("the question", lambda: self.plant.requests.get(1, 0) > n)
        self.assert_stops_in_order()
        self.plant.mode = "ok"
        self.wait_good(self.big)

    def test_a_write_is_confirmed_by_the_device_and_exact(self):
        n = len(self.plant.writes)
        for value in (0, 1, 2**53 + 1, 2**63, 2**64 - 1):
            self.assertEqual(self.write(self.out, tagwire.UINT64, value).status, 200)
        self.assertEqual([w[2][-16:] for w in self.plant.writes[n:]],
                         [f"{v:016x}" for v in (0, 1, 2**53 + 1, 2**63, 2**64 - 1)])
        self.assertEqual({w[:2] for w in self.plant.writes[n:]}, {(1, 500)})
        self.assertEqual(self.write(self.small, tagwire.UINT16, 65535).status, 200)
        self.assertEqual(self.plant.writes[-1][:2], (1, 7))

    def test_a_write_that_is_refused_never_reaches_the_device(self):
        n = len(self.plant.writes)
        for no, body in (
                (self.out, b""), (self.out, b"\x09"), (self.out, b"\x09" + b"\0" * 7),
                (self.out, b"\x09" + b"\0" * 9), (self.out, b"\0" * 9), (self.out, b"\x0e" * 9),
                (self.out, tagwire.value(tagwire.UINT16, 5)),
                (self.out, tagwire.value(tagwire.STRING, b"5")),
                (self.small, tagwire.value(tagwire.UINT16, 65536)),
                (self.small, tagwire.value(tagwire.INT16, 5)),
                (self.big, tagwire.value(tagwire.UINT64, 5)),
                (0, tagwire.value(tagwire.UINT64, 5)),
                (4711, tagwire.value(tagwire.UINT64, 5))):
            got = self.tell(buspeer.TAG_WRITE, struct.pack(">I", no) + body)
            self.assertIn(got.status, (400, 404), (no, body))
        self.assertEqual(self.tell(buspeer.TAG_WRITE, b"\0").status, 400)
        for body in (b"", b"\0\0\0", b"\0" * 5):
            self.assertEqual(self.tell(buspeer.TAG_READ, body).status, 400)
        self.assertEqual(self.read(4711).status, 404)
        self.assertEqual(self.read(self.out).status, 400)  # cannot be read
        got = self.tell(buspeer.TAG_WRITE, struct.pack(">I", self.out) + tagwire.value(
            tagwire.UINT64, 1), deadline_us=int(time.monotonic() * 1e6) - 1)
        self.assertEqual(got.status, 504)
        self.assertEqual(len(self.plant.writes), n)

    def test_a_write_that_the_device_spoils_is_told_and_not_repeated(self):
        for mode in ("exception", "mute", "close", "garbage"):
            n = len(self.plant.writes)
            self.plant.mode, self.plant.code = mode, 4
            got = self.write(self.out, tagwire.UINT64, 7)
            # retryCount is 0; a poll may have lost the connection before it got there
            unsent = mode in ("close", "garbage") and got.status == 503
            self.assertEqual((got.status, got.json["error"]["outcome"]),
                             (503, "none") if unsent else (504, "unknown"), (mode, got.body))
            self.plant.mode = "ok"
            wait_for("the device", lambda: self.read(self.small).status == 200)
            wrote = len(self.plant.writes) - n
            self.assertIn(wrote, (1,) if mode in ("exception", "mute") else (0, 1), mode)
            self.assertFalse(unsent and wrote, mode)

    def test_a_device_that_is_gone_is_told_on_the_bus_and_comes_back_by_itself(self):
        bus = self.bus()
        bus.wait("a good value", lambda s: s.no == self.big and s.quality == tagwire.GOOD)
        self.plant.gone()
        s = bus.wait("a bad quality", lambda s: s.no == self.big and s.quality != tagwire.GOOD)
        self.assertIn(s.quality, (tagwire.CONNECTION, tagwire.TIMEOUT))
        self.assertEqual(s.value, U64)  # the last good one stays
        self.assertEqual(self.read(self.small).status, 504)
        self.plant.back()
        bus.wait("a good value", lambda s: s.no == self.big and s.quality == tagwire.GOOD)
        self.plant.mode, self.plant.code = "exception", 6
        s = bus.wait("the exception", lambda s: s.no == self.big
                     and s.quality == tagwire.EXCEPTION)
        self.assertEqual(s.code, 6)

    def test_a_listener_that_does_not_read_holds_up_nobody(self):
        lazy = socket.socket(socket.AF_UNIX)
        self.addCleanup(lazy.close)
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        lazy.connect(self.socket("modbusd", "tags"))
        lazy.sendall(b"\0SP\0\0\x21\0\0")
        bus = self.bus()
        for _ in range(20):
            bus.wait("a value", lambda s: s.no == self.big)
        self.alive()
