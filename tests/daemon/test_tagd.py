"""tagd alone: a provider of tags that is not ours, and misbehaves on order."""
import os
import random
import struct
import threading
import time

import buspeer
import harness
import tagwire
from buspeer import fnv1a, reply, request
from harness import wait_for
from onedaemon import ADMIN, GUEST, NOBODY, OneDaemon
from tagwire import FakeProvider, sample

P = "modbus_tcp_master"
COUNT, BIG, DEEP, TEXT, BYTES, REAL, SINGLE, FLAG, OUT = range(1, 10)
WHO = ADMIN[:3] + (1 << 2,) + ADMIN[4:]  # SYS_MANAGEMENT_RW and nothing else


class Tagd(OneDaemon):
    name = "tagd"

    @classmethod
    def prepare(cls):
        cls.gateway = cls.stand_in("gateway", lambda r: reply(r.id, 404))
        cls.audit = cls.fake_auditd()
        cls.provider = FakeProvider(cls.fleet.run + "/bus")
        cls.stand_ins.append(cls.provider)
        cls.list_tags()

    @classmethod
    def list_tags(cls):
        p = cls.provider
        p.defs.clear()
        p.page_size = 4
        p.add(COUNT, tagwire.UINT16, "count", 7, unit="l/s", interval=500)
        p.add(BIG, tagwire.UINT64, "big", 2**64 - 1, access=3)
        p.add(DEEP, tagwire.INT64, "deep", -2**63)
        p.add(TEXT, tagwire.STRING, "text", "grün\n\"".encode(), size=32, access=3)
        p.add(BYTES, tagwire.RAW, "bytes", b"\0\x01\xff", size=8)
        p.add(REAL, tagwire.DOUBLE, "real", 0.1)
        p.add(SINGLE, tagwire.FLOAT, "single", 0.0, quality=tagwire.NEVER)
        p.add(FLAG, tagwire.BOOLEAN, "flag", True)
        p.add(OUT, tagwire.INT16, "out", 0, access=tagwire.WRITE)

    def setUp(self):
        p = self.provider
        if [d.name for d in p.defs][:2] != ["count", "big"]:
            self.list_tags()
            p.changed()
        wait_for("the subscriber", lambda: p.publisher.pipes)
        wait_for("the tags", lambda: len(self.tags()) == 9)
        v = random.randrange(65536)
        p.set(COUNT, v)
        self.wait_value("count", v)

    def tags(self, **query):
        got = self.call("getTagsList", query=[(k, str(v)) for k, v in query.items()], who=WHO)
        return got.json["data"] if got.status == 200 else []

    def ask(self, *names, source="fake", query=(), who=WHO):
        q = [("tags", ",".join(names))] if names else []
        return self.call("getTagsMonitor", path=(P, source), query=[*q, *query], who=who)

    def row(self, name):
        got = self.ask(name)
        return got.json["data"][0] if got.status == 200 else {}

    def wait_value(self, name, value):
        wait_for(f"{name} to be {value}, is {self.row(name)}",
                 lambda: self.row(name).get("dataValue") == value)

    # ---- catalogue and values ----

    def test_the_catalogue_of_the_provider_is_listed_in_its_order(self):
        rows = self.tags()
        self.assertEqual([r["tagName"] for r in rows],
                         ["count", "big", "deep", "text", "bytes", "real", "single", "flag",
                          "out"])
        self.assertEqual({k: rows[0][k] for k in ("prvdName", "srcName", "dataType", "dataUnit",
                                                  "duration", "access")},
                         {"prvdName": P, "srcName": "fake", "dataType": "uint16",
                          "dataUnit": "l/s", "duration": 500, "access": "r"})
        self.assertEqual([r["access"] for r in rows], ["r", "rw", "r", "rw"] + ["r"] * 4 + ["w"])
        self.assertEqual([r["tagName"] for r in self.tags(limit=2, offset=3)],
                         ["text", "bytes"])
        self.assertEqual([r["tagName"] for r in self.tags(name="deep", source="fake")],
                         ["deep"])
        self.assertEqual(self.tags(offset=9), [])

    def test_values_keep_their_bits_from_the_wire_to_the_text(self):
        p = self.provider
        got = self.ask()
        self.assertEqual(got.status, 200)
        for exact in (b":18446744073709551615,", b":-9223372036854775808,", b':"0001FF"',
                      b":0.1,"):
            self.assertIn(exact, got.body)
        self.assertEqual(self.row("text")["dataValue"], "grün\n\"")
        self.assertEqual((self.row("single")["dataValue"], self.row("single")["quality"]),
                         (None, "never"))
        self.assertIs(self.row("flag")["dataValue"], True)
        at = 1700000000123457
        p.publish(sample(BIG, tagwire.UINT64, 2**63 + 1, at=at),
                  sample(DEEP, tagwire.INT64, -2**53 - 1, at=at),
                  sample(TEXT, tagwire.STRING, b"x", at=at),
                  sample(BYTES, tagwire.RAW, b"", at=at),
                  sample(SINGLE, tagwire.FLOAT, 1.5, at=at))
        self.wait_value("single", 1.5)
        body = self.ask().body
        self.assertIn(b":9223372036854775809,", body)
        self.assertIn(b":-9007199254740993,", body)
        self.assertEqual((self.row("text")["dataValue"], self.row("bytes")["dataValue"]),
                         ("x", ""))
        self.assertEqual(self.row("big")["ts"], at)
        self.list_tags()
        p.publish(*p.last.values())

    def test_a_bad_quality_keeps_the_last_good_value(self):
        p = self.provider
        p.set(COUNT, 41)
        for quality, text in ((tagwire.TIMEOUT, "timeout"), (tagwire.CONNECTION, "connection"),
                              (tagwire.EXCEPTION, "exception"), (tagwire.CONFIG, "config")):
            p.set(COUNT, 41, quality=quality)
            wait_for(text, lambda t=text: self.row("count")["quality"] == t)
            self.assertEqual(self.row("count")["dataValue"], 41)
        p.set(COUNT, 42)
        self.wait_value("count", 42)
        self.assertEqual(self.row("count")["quality"], "good")

    def test_what_is_not_there_is_not_found_and_who_may_not_is_refused(self):
        for path, names in (((P, "nothing"), "x"), (("nobody", "fake"), "count"),
                            ((P, "fake"), "nothing"), ((P, "fake"), "count,nothing")):
            got = self.call("getTagsMonitor", path=path, query=[("tags", names)], who=WHO)
            self.assertEqual(got.status, 404, path)
        for who, status in ((NOBODY, 401), (GUEST, 403)):
            self.assertEqual(self.call("getTagsList", who=who).status, status)
            self.assertEqual(self.ask("count", who=who).status, status)
            self.assertEqual(self.call("putTagsAccess", {"dataValue": 1}, path=(P, "fake", "big"),
                                       who=who).status, status)

    # ---- the provider comes, goes, changes, loses ----

    def test_a_provider_that_goes_makes_its_tags_offline_until_it_is_back(self):
        p = self.provider
        p.set(COUNT, 55)
        self.wait_value("count", 55)
        p.stop()
        wait_for("offline", lambda: self.row("count").get("quality") == "offline")
        self.assertEqual(self.row("count")["dataValue"], 55)
        self.assertEqual(self.call("getTagsAccess", path=(P, "fake", "big"), who=WHO).status, 503)
        p.last[COUNT] = sample(COUNT, tagwire.UINT16, 56)
        p.start()  # another epoch; its first number is lower than the last one
        self.wait_value("count", 56)
        self.assertEqual(self.row("count")["quality"], "good")
        wait_for("the subscriber", lambda: p.publisher.pipes)
        p.set(COUNT, 57)
        self.wait_value("count", 57)

    def test_a_new_epoch_on_the_same_connection_is_a_new_life(self):
        p = self.provider
        p.epoch, p.seq = p.epoch ^ 1, 0
        p.set(COUNT, 58)
        self.wait_value("count", 58)
        p.set(COUNT, 59)
        self.wait_value("count", 59)

    def test_a_changed_catalogue_is_asked_for_and_no_sample_goes_to_another_tag(self):
        p = self.provider
        stream = self.stream_of(self.ask("count", "fresh", query=[("onChanged", "true")]))
        self.events(stream)
        n = len(p.server.asked_for(buspeer.TAG_CATALOGUE))
        p.defs.clear()
        p.add(COUNT, tagwire.STRING, "fresh", b"hello", size=8)  # the number of another
        p.add(20, tagwire.UINT16, "count", 60)
        p.changed()
        wait_for("the new list", lambda: [t["tagName"] for t in self.tags()]
                 == ["fresh", "count"])
        self.assertGreater(len(p.server.asked_for(buspeer.TAG_CATALOGUE)), n)
        self.wait_value("count", 60)
        self.assertEqual(self.row("fresh")["dataValue"], "hello")
        self.assertEqual(self.ask("big").status, 404)
        # of the generation before: not for the tags of now
        p.publisher.send(tagwire.batch(p.epoch, p.seq + 1, p.generation - 1,
                                       [sample(COUNT, tagwire.UINT16, 999)]))
        p.set(20, 61)
        self.wait_value("count", 61)
        self.assertEqual(self.row("fresh")["dataValue"], "hello")
        seen = {}
        wait_for("both in the stream", lambda: [seen.update({e["tagName"]: e["dataValue"]})
                 for e in self.events(stream)] and seen == {"count": 61, "fresh": "hello"})
        self.next_of(stream, buspeer.KIND_STREAM_CLOSE)

    def test_a_gap_is_counted_and_closed_by_a_snapshot(self):
        p = self.provider
        lost = self.metric("fieldgate_tag_lost_batches_total")
        n = len(p.server.asked_for(buspeer.TAG_SNAPSHOT))
        for v in (100, 101, 102):
            p.publish(sample(COUNT, tagwire.UINT16, v), unsent=True)
        p.publish(sample(FLAG, tagwire.BOOLEAN, False))  # the one that shows it
        self.wait_value("count", 102)
        self.assertEqual(self.metric("fieldgate_tag_lost_batches_total"), lost + 3)
        self.assertGreater(len(p.server.asked_for(buspeer.TAG_SNAPSHOT)), n)
        # a lost last batch shows with the next empty one
        p.publish(sample(COUNT, tagwire.UINT16, 103), unsent=True)
        p.publish()
        self.wait_value("count", 103)
        self.assertEqual(self.metric("fieldgate_tag_lost_batches_total"), lost + 4)
        p.set(FLAG, True)

    def test_without_losses_no_snapshot_is_asked_for_and_nothing_counted(self):
        p = self.provider
        lost = self.metric("fieldgate_tag_lost_batches_total")
        n = len(p.server.asked)
        for v in range(200):
            p.set(COUNT, v)
            if v % 10 == 0:
                p.publish()
        self.wait_value("count", 199)
        self.assertEqual(self.metric("fieldgate_tag_lost_batches_total"), lost)
        self.assertEqual(len(p.server.asked), n)

    def test_what_is_published_while_the_catalogue_is_fetched_is_not_lost(self):
        p = self.provider
        held = threading.Event()
        self.addCleanup(held.set)

        def slowly(r):
            if r.op == buspeer.TAG_SNAPSHOT and r.body == b"\0\0\0\0":
                answer = p.serve(r)  # as it is now
                held.wait(20)
                return answer
            return p.serve(r)
        p.server.handler = slowly
        self.addCleanup(setattr, p.server, "handler", p.serve)
        n = len(p.server.asked_for(buspeer.TAG_SNAPSHOT))
        p.changed()
        wait_for("the question", lambda: len(p.server.asked_for(buspeer.TAG_SNAPSHOT)) > n)
        for v in range(300, 310):
            p.set(COUNT, v)
        held.set()
        self.wait_value("count", 309)

    def test_bytes_that_are_no_batch_hurt_nobody(self):
        p = self.provider
        rnd = random.Random(11)
        good = lambda: tagwire.batch(p.epoch, p.seq + 1, p.generation, [
            sample(COUNT, tagwire.UINT16, 1), sample(TEXT, tagwire.STRING, b"abc"),
            sample(BYTES, tagwire.RAW, b"\1\2")])
        whole = good()
        attempts = [b"", b"F", b"FT", whole[:31], whole[:-1], whole + b"x", b"\0" * 100,
                    os.urandom(4000), b"FT\x02" + whole[3:], whole[:32],
                    b"FT\x01\0" + b"\xff" * 28, whole[:24] + b"\xff\xff" + whole[26:]]
        for _ in range(500):
            data = bytearray(good())
            for _ in range(rnd.randint(1, 4)):
                data[rnd.randrange(24, len(data))] = rnd.randrange(256)
            attempts.append(bytes(data))
        for data in attempts:
            p.publisher.send(data)
        p.seq += 2
        p.publish(*self.defaults())
        p.set(COUNT, 77)
        self.wait_value("count", 77)
        self.assertEqual(len(self.tags()), 9)
        self.alive()

    def defaults(self):
        self.list_tags()
        return self.provider.last.values()

    def test_pages_of_nonsense_do_not_hurt_and_are_asked_for_again(self):
        p = self.provider
        rnd = random.Random(12)
        pages = []

        def nonsense(r):
            if r.op != buspeer.TAG_CATALOGUE or not pages:
                return p.serve(r)
            return reply(r.id, 200, pages.pop())
        good = tagwire.page(p.epoch, p.generation + 1, p.seq, 0,
                            [tagwire.definition(d) for d in p.defs])
        pages += [good[:-1], good + b"x", good[:24] + b"\xff\xff\xff\xff" + good[28:],
                  good[:20] + b"\0\0\0\1" + good[24:]]
        p.server.handler = nonsense
        self.addCleanup(setattr, p.server, "handler", p.serve)
        while pages:
            n = len(pages)
            p.changed()
            wait_for("the next page to be taken", lambda k=n: len(pages) < k)
        p.set(COUNT, rnd.randrange(65536))
        self.wait_value("count", p.last[COUNT].value)
        self.assertEqual(len(self.tags()), 9)

    def test_a_sample_of_another_type_than_the_catalogue_tells_is_not_shown(self):
        p = self.provider
        p.set(COUNT, 70)
        self.wait_value("count", 70)
        for type_, v in ((tagwire.STRING, b"seventy"), (tagwire.RAW, b"\7"),
                         (tagwire.UINT64, 2**63), (tagwire.INT64, -1), (tagwire.DOUBLE, 7.5),
                         (tagwire.BOOLEAN, True)):
            p.publish(sample(COUNT, type_, v), sample(TEXT, tagwire.UINT64, 5))
            p.last[COUNT], p.last[TEXT] = (sample(COUNT, tagwire.UINT16, 70),
                                           sample(TEXT, tagwire.STRING, b"x"))
            p.set(FLAG, True)  # after it
            self.assertEqual(self.row("count")["dataValue"], 70)
            self.assertIsInstance(self.row("text")["dataValue"], str)
        p.set(COUNT, 71)
        self.wait_value("count", 71)

    def test_a_catalogue_that_contradicts_itself_does_not_hurt(self):
        p = self.provider
        d = p.defs[0]
        for more in ([d], [d._replace(no=30)], [d._replace(name="twice")], [d._replace(no=0)],
                     [d._replace(no=0xFFFFFFFF, name="far")], [d._replace(no=31, type=0)],
                     [d._replace(no=31, type=14)], [d._replace(no=31, access=255)],
                     [d._replace(no=31, name="")], [d._replace(no=31, name="x" * 129)],
                     [d._replace(no=31, source="", provider="")],
                     [d._replace(no=31, name="\0")], [d._replace(no=31, unit="u" * 255)]):
            p.defs += more
            n = len(p.server.asked_for(buspeer.TAG_CATALOGUE))
            for m in more:
                p.last[m.no] = sample(m.no, tagwire.UINT16, 1)
            p.changed()
            wait_for("the question", lambda k=n: len(
                p.server.asked_for(buspeer.TAG_CATALOGUE)) > k)
            del p.defs[-len(more):]
            p.changed()
            p.set(COUNT, random.randrange(65536))
            self.wait_value("count", p.last[COUNT].value)
        wait_for("the list", lambda: len(self.tags()) == 9)
        self.alive()

    def test_a_stop_with_a_read_and_a_stream_under_way_is_in_order(self):
        p = self.provider
        p.on_read = lambda r: None
        n = len(p.server.asked_for(buspeer.TAG_READ))
        stream = self.stream_of(self.ask("count", query=[("onChanged", "true")]))
        self.events(stream)
        peer = self.peer(15)
        peer.send(buspeer.message(request(fnv1a("getTagsAccess"), kind=buspeer.KIND_API, who=WHO,
                                          path=(P, "fake", "big"))))
        wait_for("the question", lambda: len(p.server.asked_for(buspeer.TAG_READ)) > n)
        self.assert_stops_in_order()
        self.assertEqual(self.next_of(stream).status, 404)

    # ---- streams ----

    def test_a_stream_of_changes_begins_with_the_values_and_tells_each_update_in_order(self):
        p = self.provider
        stream = self.stream_of(self.ask("count", "big", query=[("onChanged", "true")]))
        first = self.events(stream, 2)
        self.assertEqual({e["tagName"] for e in first}, {"count", "big"})
        for v in list(range(500, 600)) + [599, 599]:  # equal values too
            p.set(COUNT, v)
            p.set(FLAG, True)  # of no concern
        got = self.events(stream, 102)
        self.assertEqual([e["dataValue"] for e in got if e["tagName"] == "count"],
                         list(range(500, 600)) + [599, 599])
        self.assertEqual(len(got), 102)
        closed = self.next_of(stream, buspeer.KIND_STREAM_CLOSE)
        self.assertEqual((closed.status, closed.flags), (200, 1))
        self.assertEqual(self.next_of(stream).status, 404)

    def test_a_stream_by_interval_repeats_all_its_tags(self):
        stream = self.stream_of(self.ask("count", "flag", query=[("streamInterval", "100")]))
        got, began = [], time.monotonic()
        while len(got) < 12:
            got += self.events(stream)
        took = time.monotonic() - began
        self.assertEqual({e["tagName"] for e in got}, {"count", "flag"})
        self.assertGreater(took, 0.35)
        self.assertLess(took, 5 * harness.SLOW)
        self.next_of(stream, buspeer.KIND_STREAM_CLOSE)
        for bad in ("99", "0", "-1", "x", "86400001"):
            self.assertEqual(self.ask("count", query=[("streamInterval", bad)]).status, 400)

    def test_a_follower_that_does_not_ask_costs_bounded_memory_and_the_newest_stays(self):
        p = self.provider
        stream = self.stream_of(self.ask("count", "text", query=[("onChanged", "true")]))
        other = self.stream_of(self.ask("count", query=[("onChanged", "true")]))
        self.events(other)
        text = b"y" * 32
        for v in range(150):
            p.publish(*[sample(TEXT, tagwire.STRING, text) for _ in range(100)])
            p.set(COUNT, v)
            if v % 25 == 24:
                self.wait_value("count", v)
        backlog = self.metric("fieldgate_tag_stream_backlog_bytes")
        self.assertTrue(1 << 19 < backlog < 3 << 20, backlog)
        self.assertGreater(self.metric("fieldgate_stream_blocks_dropped_total"), 0)
        got, seen = [], lambda: got and got[-1]["tagName"] == "count"
        wait_for("the newest", lambda: got.extend(self.events(stream))
                 or (seen() and got[-1]["dataValue"] == 149))
        mine = []
        wait_for("all of the other", lambda: mine.extend(self.events(other))
                 or mine[-1]["dataValue"] == 149)
        self.assertEqual([e["dataValue"] for e in mine][-150:], list(range(150)))
        for s in (stream, other):
            self.next_of(s, buspeer.KIND_STREAM_CLOSE)

    def test_streams_end_with_the_connection_to_the_gateway(self):
        streams = [self.stream_of(self.ask("count", query=[("onChanged", "true")]))
                   for _ in range(3)]
        wait_for("the daemon at the gateway", lambda: self.gateway.pipes)
        self.gateway.drop()
        wait_for("no stream", lambda: self.metric("fieldgate_tag_streams") == 0)
        for s in streams:
            self.assertEqual(self.next_of(s).status, 404)
        wait_for("the daemon to come again", lambda: self.gateway.pipes)

    # ---- reading and writing at the device ----

    def test_a_read_goes_to_the_provider_and_comes_back_exact(self):
        p, at = self.provider, 1700000000123456
        p.on_read = lambda r: reply(r.id, 200, struct.pack(">qBB", at, 0, 0)
                                    + tagwire.value(tagwire.UINT64, 2**64 - 2))
        got = self.call("getTagsAccess", path=(P, "fake", "big"), who=WHO)
        self.assertEqual(got.status, 200, got.body)
        self.assertEqual((got.json["dataValue"], got.json["timestamp"]),
                         (2**64 - 2, str(at // 1000)))
        asked = p.server.asked_for(buspeer.TAG_READ)[-1]
        self.assertEqual((asked.body, asked.who[:3]), (struct.pack(">I", BIG), WHO[:3]))
        self.assertEqual(self.call("getTagsAccess", path=(P, "fake", "out"), who=WHO).status, 400)

    def test_what_a_provider_answers_wrongly_is_refused_and_not_believed(self):
        p, head = self.provider, struct.pack(">qBB", 1, 0, 0)
        for body in (b"", b"x", head, head + tagwire.value(tagwire.UINT16, 5),
                     head + tagwire.value(tagwire.UINT64, 5) + b"x",
                     head + b"\xff" * 9, head + b"\x0c\xff\xff"):
            p.on_read = lambda r, b=body: reply(r.id, 200, b)
            got = self.call("getTagsAccess", path=(P, "fake", "big"), who=WHO)
            self.assertEqual(got.status, 500, body)
        for quality, status in ((tagwire.TIMEOUT, 504), (tagwire.CONNECTION, 504),
                                (tagwire.EXCEPTION, 500), (tagwire.NEVER, 500)):
            p.on_read = lambda r, q=quality: reply(r.id, 200, struct.pack(
                ">qBB", 1, q, 2) + tagwire.value(tagwire.UINT64, 5))
            got = self.call("getTagsAccess", path=(P, "fake", "big"), who=WHO)
            self.assertEqual(got.status, status, quality)
        for status in (400, 404, 503, 504):
            p.on_read = lambda r, s=status: reply(r.id, s, {"error": {"message": "because"}})
            got = self.call("getTagsAccess", path=(P, "fake", "big"), who=WHO)
            self.assertEqual(got.status, status)
            self.assertIn("because", got.json["error"]["message"])

    def test_a_write_is_answered_when_the_provider_has_confirmed_and_is_recorded(self):
        p, values = self.provider, []

        def take(r):
            no, = struct.unpack(">I", r.body[:4])
            type_, v, end = tagwire.value_at(r.body, 4)
            self.assertEqual(end, len(r.body))
            values.append((no, type_, v))
            return reply(r.id)
        p.on_write = take
        put = lambda name, v: self.call("putTagsAccess", {"dataValue": v},
                                        path=(P, "fake", name), who=WHO).status
        self.assertEqual([put("big", 2**64 - 1), put("out", -32768), put("text", "ü\tx")],
                         [200, 200, 200])
        self.assertEqual(values, [(BIG, tagwire.UINT64, 2**64 - 1),
                                  (OUT, tagwire.INT16, -32768),
                                  (TEXT, tagwire.STRING, "ü\tx".encode())])
        del values[:]
        for name, v in (("big", 2**64), ("big", -1), ("big", 1.5), ("big", "1"), ("big", None),
                        ("out", 32768), ("out", True), ("text", "x" * 33), ("text", 7),
                        ("count", 1)):
            self.assertEqual(put(name, v), 400, (name, v))
        self.assertEqual(values, [])
        wait_for("the record", lambda: self.audit.named("tagWrite", "write -32768 to"))

    def test_a_write_whose_end_is_unknown_is_recorded_as_such_and_survives_kill_9(self):
        p = self.provider
        p.on_write = lambda r: None
        n = len(p.server.asked_for(buspeer.TAG_WRITE))
        broken = []

        def write():
            try:
                self.call("putTagsAccess", {"dataValue": 4711}, path=(P, "fake", "big"), who=WHO)
            except OSError as e:
                broken.append(e)
        t = threading.Thread(target=write)
        t.start()
        wait_for("the write", lambda: len(p.server.asked_for(buspeer.TAG_WRITE)) > n)
        self.daemon.kill()
        t.join(10)
        self.assertTrue(broken)
        self.start_again()
        wait_for("its record", lambda: self.audit.named("tagWrite", "write 4711 to"))
        self.assertIn("unknown", self.audit.named("tagWrite", "write 4711 to")[0]["message"])
        self.kill_and_start()
        self.assertEqual(len(self.audit.named("tagWrite", "write 4711 to")), 1)

    def test_a_provider_that_does_not_answer_costs_its_own_question_only(self):
        p = self.provider
        p.on_read = lambda r: None
        answered = []
        t = threading.Thread(target=lambda: answered.append(self.call(
            "getTagsAccess", path=(P, "fake", "big"), who=WHO,
            deadline_us=int((time.monotonic() + 1.5 * harness.SLOW) * 1e6))))
        t.start()
        n = len(p.server.asked_for(buspeer.TAG_READ))
        self.assertEqual(self.ask("count").status, 200)
        t.join(10 * harness.SLOW)
        self.assertEqual(answered[0].status, 504, n)


class Early(OneDaemon):
    """A hub without any provider."""

    name = "tagd"

    def test_it_serves_and_finds_the_provider_when_it_comes(self):
        wait_for("an answer that is sure", lambda: self.call("getTagsList").status == 200)
        self.assertEqual(self.call("getTagsList").json["data"], [])
        self.assertEqual(self.call("getTagsAccess", path=(P, "fake", "x")).status, 400)
        provider = FakeProvider(self.fleet.run + "/bus")
        self.stand_ins.append(provider)
        provider.add(1, tagwire.UINT8, "x", 9)
        wait_for("the tag", lambda: self.call("getTagsList").json["data"])
        self.assertEqual(self.call("getTagsMonitor", path=(P, "fake"),
                                   query=[("tags", "x")]).json["data"][0]["dataValue"], 9)
