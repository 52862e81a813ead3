"""auditd alone: records in over the bus, rows and streams out."""
import json
import os
import struct
import threading
import time
import uuid

import buspeer
import harness
from buspeer import reply, request
from harness import wait_for
from onedaemon import ADMIN, GUEST, NOBODY, OneDaemon

EVENTS = ("signIn", "accountLock", "mqttClientUpdate", "tagWrite", "serviceStart")


def record(seq, message="m", event="signIn", **members):
    return {"seq": seq, "event": event, "message": message, "detail": "", "source": "sam",
            "addr": "192.0.2.1", "requestId": f"{seq:016x}", "at": int(time.time() * 1e6),
            **members}


class Auditd(OneDaemon):
    name = "auditd"

    @classmethod
    def prepare(cls):
        cls.gateway = cls.stand_in("gateway", lambda r: reply(r.id, 404))

    def append(self, store, records, daemon="authd"):
        return self.tell(buspeer.AUDIT_APPEND,
                         {"store": store, "daemon": daemon, "records": records})

    def kept(self, store, records, acked=None, **more):
        got = self.append(store, records, **more)
        self.assertEqual((got.status, got.body and got.json["acked"]),
                         (200, acked or records[-1]["seq"]))

    def rows(self, **query):
        got = self.call("getAudits", query=[(k, str(v)) for k, v in query.items()])
        self.assertEqual(got.status, 200, got.body)
        self.assertEqual(got.json["count"], len(got.json["data"]))
        return got.json

    def messages(self, word, **query):
        query = {"order": "id", "sort": "asc", "limit": 1000, **query}
        return [r["message"] for r in self.rows(messages=word, **query)["data"]]

    def filled(self, n=10):
        """A word, and n rows whose messages hold it, of all events in turn."""
        word, store = uuid.uuid4().hex, uuid.uuid4().hex
        now = int(time.time() * 1e6)
        self.kept(store, [record(i, f"{word} {i}", EVENTS[i % len(EVENTS)],
                                 source=f"{word[:8]}{i % 2}", at=now - i * 1000000)
                          for i in range(1, n + 1)])
        return word

    # ---- in ----

    def test_acknowledged_records_survive_kill_9(self):
        store, word = uuid.uuid4().hex, uuid.uuid4().hex
        for i in range(1, 6):
            self.kept(store, [record(2 * i - 1, f"{word} a{i}"), record(2 * i, f"{word} b{i}")])
            self.daemon.kill()
            self.start_again()
        self.assertEqual(self.messages(word),
                         [f"{word} {c}{i}" for i in range(1, 6) for c in "ab"])
        self.kept(store, [record(9, f"{word} again"), record(10, f"{word} again")])
        self.assertEqual(len(self.messages(word)), 10)

    def test_two_stores_are_counted_apart(self):
        a, b, word = uuid.uuid4().hex, uuid.uuid4().hex, uuid.uuid4().hex
        for i in range(1, 11):
            self.kept(a, [record(i, f"{word} a{i}")])
            self.kept(b, [record(7 * i, f"{word} b{i}")], daemon="tagd")
            self.kept(a, [record(i, f"{word} repeated")])
            self.kept(b, [record(7 * i - 1, f"{word} repeated")], acked=7 * i, daemon="tagd")
        self.assertEqual(self.messages(word),
                         [f"{word} {c}{i}" for i in range(1, 11) for c in "ab"])

    def test_senders_at_the_same_time_lose_nothing(self):
        word, stores = uuid.uuid4().hex, [uuid.uuid4().hex for _ in range(6)]
        faults = []

        def send(store):
            try:
                for first in range(1, 41, 4):
                    self.kept(store, [record(first + i, f"{word} {store} {first + i:02}")
                                      for i in range(4)])
            except Exception as e:
                faults.append(e)
        threads = [threading.Thread(target=send, args=(s,)) for s in stores]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(faults, [])
        rows = self.messages(word)
        self.assertEqual(len(rows), 240)
        for store in stores:
            self.assertEqual([m[-2:] for m in rows if store in m],
                             [f"{i:02}" for i in range(1, 41)])

    def test_a_row_tells_all_that_was_recorded(self):
        store, word = uuid.uuid4().hex, uuid.uuid4().hex
        at = 1700000000123456
        self.kept(store, [record(1, word + " ä€😀\"\\\n", "tagWrite", detail='{"a":1}',
                                 source="Größe", addr="2001:db8::1", at=at,
                                 requestId="00000000deadbeef")], daemon="tagd")
        row, = self.rows(messages=word)["data"]
        self.assertEqual(
            {k: row[k] for k in ("eventId", "name", "category", "severity", "message", "detail",
                                 "source", "sourceIp", "daemon", "requestId")},
            {"eventId": "CU50", "name": "tagWrite", "category": "Configuration Update",
             "severity": "notice", "message": word + " ä€😀\"\\\n", "detail": '{"a":1}',
             "source": "Größe", "sourceIp": "2001:db8::1", "daemon": "tagd",
             "requestId": "00000000deadbeef"})
        self.assertTrue(row["createdAt"].startswith("2023-11-14T22:13:20.123456"), row)

    def test_a_batch_with_one_bad_record_is_refused_as_a_whole(self):
        store, word = uuid.uuid4().hex, uuid.uuid4().hex
        for bad in ({"seq": "2"}, {"seq": -1}, {"seq": 1.5}, {}, 7, None, "x", []):
            got = self.append(store, [record(1, word), bad])
            self.assertEqual(got.status, 400, bad)
        self.assertEqual(self.messages(word), [])
        self.kept(store, [record(1, word)])  # and its number is still free
        self.assertEqual(self.messages(word), [word])

    def test_a_body_that_is_no_batch_is_refused(self):
        good = {"store": uuid.uuid4().hex, "daemon": "authd", "records": []}
        for body in (b"", b"{", b"[]", b"null", {}, dict(good, store="x"),
                     dict(good, store="0" * 31), dict(good, store="0" * 34),
                     dict(good, store=7), dict(good, records={}), dict(good, records=None),
                     dict(good, daemon=None)):
            got = self.tell(buspeer.AUDIT_APPEND, body,
                            body_kind=buspeer.JSON if isinstance(body, bytes) else None)
            self.assertEqual(got.status, 400, body)
        self.assertEqual(self.append(good["store"], []).json, {"acked": 0})
        self.alive()

    def test_texts_that_are_too_long_are_cut_between_characters(self):
        store, word = uuid.uuid4().hex, uuid.uuid4().hex
        self.kept(store, [record(1, word + "€" * 5000, detail="ü" * 50000, source="ß" * 500,
                                 addr="1" * 500)], daemon="d" * 300)
        row, = self.rows(messages=word)["data"]
        for name, most in (("message", 512), ("detail", 4096), ("source", 128),
                           ("sourceIp", 45), ("daemon", 32)):
            size = len(row[name].encode())
            self.assertTrue(most - 3 <= size <= most, (name, size))
        self.assertEqual(row["message"].strip("€"), word)

    def test_a_message_above_the_bound_of_the_bus_is_refused_and_nothing_of_it_kept(self):
        store, word = uuid.uuid4().hex, uuid.uuid4().hex
        p = self.peer(20)
        body = {"store": store, "daemon": "authd",
                "records": [record(i, word, detail="x" * 4000) for i in range(1, 2300)]}
        with self.assertRaises(OSError):
            got, = p.ask(request(buspeer.AUDIT_APPEND, body))
            self.assertGreaterEqual(got.status, 400)
            raise ConnectionError("refused by an answer")
        self.assertEqual(self.messages(word), [])
        self.kept(store, [record(1, word)])

    def test_many_records_in_one_message_are_all_kept(self):
        store, word = uuid.uuid4().hex, uuid.uuid4().hex
        self.kept(store, [record(i, f"{word} {i}") for i in range(1, 5001)])
        self.assertEqual(self.rows(messages=word, limit=1)["total"], 5000)

    # ---- out ----

    def test_pages_fit_together_whatever_their_size(self):
        word = self.filled(11)
        whole = self.messages(word)
        self.assertEqual(len(whole), 11)
        for limit in (1, 2, 5, 10, 11, 12, 2147483647):
            got, offset = [], 0
            while True:
                page = self.rows(messages=word, order="id", sort="asc", limit=limit,
                                 offset=offset)
                self.assertEqual(page["total"], 11)
                self.assertEqual(page["offset"], offset)
                got += [r["message"] for r in page["data"]]
                offset += len(page["data"])
                if not page["data"]:
                    break
            self.assertEqual(got, whole, limit)
        for offset in (11, 12, 1000000, 2147483647):
            self.assertEqual(self.rows(messages=word, offset=offset)["data"], [])

    def large_page(self, word, limit=900):
        """A request whose answer takes nearly 4 MiB; with limit 1000 more than that."""
        return request(buspeer.fnv1a("getAudits"), kind=buspeer.KIND_API, who=ADMIN,
                       query=[("messages", word), ("limit", str(limit))])

    def fill_large(self):
        word = uuid.uuid4().hex
        self.kept(uuid.uuid4().hex, [record(i, word, detail="x" * 4096) for i in range(1, 1001)])
        return word

    def test_answers_that_do_not_fit_into_one_message_are_to_be_asked_for_alone(self):
        ask = self.large_page(self.fill_large())
        got = self.peer(20).ask(*[ask] * 5)
        self.assertEqual(len(got), 5)
        whole = [r for r in got if not r.flags & 2]
        self.assertEqual(len(whole), 2)
        self.assertEqual((whole[0].status, whole[0].json["count"]), (200, 900))
        self.assertEqual([r.body for r in got if r.flags & 2], [b""] * 3)
        self.assertEqual(self.peer(20).ask(ask)[0].json["total"], 1000)

    def test_an_answer_above_4_mib_is_a_file_of_the_spool(self):
        got, = self.peer(20).ask(self.large_page(self.fill_large(), 1000))
        self.assertEqual((got.status, got.body_kind, got.content_type),
                         (200, buspeer.FILE, "application/json"))
        path = os.path.join(self.fleet.run, "spool", got.body.decode())
        with open(path, encoding="utf-8") as f:
            self.assertEqual(json.load(f)["count"], 1000)
        os.unlink(path)  # by who received it

    def test_a_peer_that_does_not_read_its_answers_holds_up_nobody(self):
        ask = self.large_page(self.fill_large())
        lazy = self.peer(20)
        before = self.daemon.memory_kib()
        for _ in range(8):
            lazy.send(buspeer.message(ask))
        for _ in range(10):
            began = time.monotonic()
            self.alive()
            self.assertLess(time.monotonic() - began, harness.AT_ONCE)
        lazy.close()
        self.assertEqual(self.peer(20).ask(ask)[0].json["total"], 1000)
        if not harness.SANITIZED:
            self.assertLess(self.daemon.memory_kib() - before, 100 << 10)

    def test_bounds_of_limit_and_offset_are_checked(self):
        for name, value in (("limit", "0"), ("limit", "-1"), ("limit", "2147483648"),
                            ("limit", "x"), ("limit", ""), ("offset", "-1"),
                            ("offset", "2147483648"), ("order", "size"), ("sort", "up"),
                            ("monitor", "perhaps"), ("messages", "x" * 129),
                            ("names", ",".join("x" for _ in range(65)))):
            got = self.call("getAudits", query=[(name, value)])
            self.assertEqual(got.status, 400, (name, value[:20]))
            self.assertIn("/" + name, [d["pointer"] for d in got.json["error"]["details"]])

    def test_a_row_passes_when_it_matches_one_word_of_each_filter(self):
        word = self.filled(10)
        n = lambda **q: [int(m.split()[1]) for m in self.messages(word, **q)]
        event = lambda *names: [i for i in range(1, 11) if EVENTS[i % 5] in names]
        self.assertEqual(n(names="signIn"), event("signIn"))
        self.assertEqual(n(names="signIn,tagWrite"), event("signIn", "tagWrite"))
        self.assertEqual(n(names="sign"), [])
        self.assertEqual(n(severities="alert"), event("accountLock"))
        self.assertEqual(n(categories="Maintenance"), event("serviceStart"))
        self.assertEqual(n(categories="Maintenance,Account and Access"),
                         event("serviceStart", "signIn", "accountLock"))
        self.assertEqual(n(sources=f"{word[:8]}1"), [1, 3, 5, 7, 9])
        self.assertEqual(n(sources=f"{word[:8]}1", names="signIn,accountLock"),
                         [i for i in event("signIn", "accountLock") if i % 2])
        self.assertEqual(n(sources=word[:8]), [])
        self.assertEqual(self.rows(messages=word.upper())["total"], 10)

    SLOW = [f"no such word {i}" for i in range(15)]

    def fill_long(self):
        """So many long messages, each once, that the search for 16 words takes many turns."""
        word, store = uuid.uuid4().hex, uuid.uuid4().hex
        for at in range(1, 20001, 4000):
            self.kept(store, [record(i, f"{word} {i} {'Long message. ' * 32}")
                              for i in range(at, at + 4000)])
        return word

    def search(self, *words):
        return request(buspeer.fnv1a("getAudits"), kind=buspeer.KIND_API, who=ADMIN,
                       deadline_us=int((time.monotonic() + 20 * harness.SLOW) * 1e6),
                       query=[("messages", ",".join(words)), ("limit", "1")])

    def test_others_are_answered_while_searches_go_on_and_too_many_are_refused(self):
        word, peer = self.fill_long(), self.peer(20)
        # the words of each are others, so that none finds the work done
        peer.send(buspeer.message(*[self.search(f"{word} {i + 1} ", *self.SLOW)
                                    for i in range(20)]))
        began = time.monotonic()
        self.alive()
        took = time.monotonic() - began
        answers = buspeer.replies(peer.receive())
        searched = time.monotonic() - began
        self.assertEqual([a.status for a in answers], [200] * 16 + [503] * 4)
        self.assertEqual([a.json["total"] for a in answers[:16]], [1] * 16)
        self.assertLess(took, searched / 2)
        got, = peer.ask(self.search(word, *self.SLOW))
        self.assertEqual((got.status, got.json["total"]), (200, 20000))

    def test_the_daemon_ends_with_searches_under_way(self):
        word, peer = self.fill_long(), self.peer(20)
        peer.send(buspeer.message(*[self.search(f"{word} {i + 1} ", *self.SLOW)
                                    for i in range(12)]))
        self.alive()
        self.assertEqual(self.daemon.stop(), 0)
        self.start_again()
        self.assertEqual(self.rows(messages=word, limit=1)["total"], 20000)

    def test_searches_find_what_was_acknowledged_before_each_kill_9(self):
        word, store = uuid.uuid4().hex, uuid.uuid4().hex
        for at in range(1, 901, 150):  # whole blocks of 200, and begun ones
            batch = [record(i, f"{word} {i % 7}") for i in range(at, at + 150)]
            self.kept(store, batch)
            lost = [record(i, f"{word} {i % 7}") for i in range(at + 150, at + 300)]
            self.peer().send(buspeer.message(request(
                buspeer.AUDIT_APPEND, {"store": store, "daemon": "authd", "records": lost})))
            self.kill_and_start()
            n = self.rows(messages=word, limit=1)["total"]
            self.assertIn(n, (at + 149, at + 299))
            for k in range(7):
                self.assertEqual(self.rows(messages=f"{word} {k}".upper(), limit=1)["total"],
                                 len([i for i in range(1, n + 1) if i % 7 == k]))

    def test_a_search_past_its_time_is_ended(self):
        word, peer = self.fill_long(), self.peer(20)
        late = request(buspeer.fnv1a("getAudits"), kind=buspeer.KIND_API, who=ADMIN,
                       query=[("messages", word)],
                       deadline_us=int((time.monotonic() + 0.05) * 1e6))
        answers = peer.ask(*[self.search(f"{word} {i + 1} ", *self.SLOW) for i in range(12)],
                           late)
        self.assertEqual([a.status for a in answers], [200] * 12 + [504])

    def test_orders_are_what_they_say(self):
        word = self.filled(10)
        n = lambda **q: [int(m.split()[1]) for m in self.messages(word, **q)]
        self.assertEqual(n(order="id", sort="desc"), list(range(10, 0, -1)))
        self.assertEqual(n(order="time", sort="desc"), list(range(1, 11)))  # later is older
        self.assertEqual(n(order="time", sort="asc"), list(range(10, 0, -1)))
        for order in ("name", "severity", "category"):
            for sort in ("asc", "desc"):
                rows = self.rows(messages=word, order=order, sort=sort)["data"]
                self.assertEqual(len(rows), 10)
                keys = [r[order] for r in rows]
                self.assertEqual(keys, sorted(keys, reverse=sort == "desc"), order)
                whole = [r["id"] for r in rows]
                paged = [self.rows(messages=word, order=order, sort=sort, limit=1,
                                   offset=i)["data"][0]["id"] for i in range(10)]
                self.assertEqual(paged, whole)

    def test_the_rights_to_read_are_checked(self):
        for who, status in ((NOBODY, 401), (GUEST, 403)):
            for operation in ("getAudits", "getAuditsConfiguration", "getAuditsProfile"):
                self.assertEqual(self.call(operation, who=who).status, status)
            self.assertEqual(self.call("putAuditsConfiguration", {"alertThreshold": 50},
                                       who=who).status, status)
            self.assertEqual(self.call("getAudits", who=who,
                                       query=[("monitor", "true")]).status, status)

    def test_a_changed_setting_is_itself_recorded_and_survives_kill_9(self):
        self.done("putAuditsConfiguration", {"alertThreshold": 61})
        self.kill_and_start()
        self.assertEqual(self.done("getAuditsConfiguration")["alertThreshold"], 61)
        wait_for("its record", lambda: self.rows(names="auditSettingUpdate")["total"] >= 1)
        self.assertEqual(self.call("putAuditsConfiguration", {"alertThreshold": 96}).status, 400)
        self.assertEqual(self.done("getAuditsConfiguration")["alertThreshold"], 61)

    # ---- streams ----

    def open_stream(self, **query):
        got = self.call("getAudits", query=[("monitor", "true"), *query.items()])
        return self.stream_of(got)

    def test_a_follower_gets_each_row_that_passes_its_filter_in_order(self):
        word = uuid.uuid4().hex
        stream = self.open_stream(messages=word, names="signIn")
        store = uuid.uuid4().hex
        for i in range(1, 11):
            self.kept(store, [record(3 * i, f"{word} {i}"), record(3 * i + 1, "other"),
                              record(3 * i + 2, f"{word} no", "tagWrite")])
        rows = self.events(stream, 10)
        self.assertEqual([r["message"] for r in rows], [f"{word} {i}" for i in range(1, 11)])
        self.assertEqual(rows[0], self.rows(messages=word + " 1", order="id",
                                            sort="asc")["data"][0])

    def test_a_question_waits_for_the_next_row_and_is_answered_before_its_deadline(self):
        word, store = uuid.uuid4().hex, uuid.uuid4().hex
        stream = self.open_stream(messages=word)
        while self.next_of(stream, seconds=0.6).body:  # the greeting
            pass
        began = time.monotonic()
        got = self.next_of(stream, seconds=1.0)
        self.assertEqual((got.status, got.body, got.flags), (200, b"", 0))
        self.assertTrue(0.3 < time.monotonic() - began < 1.0 * harness.SLOW)
        answered = []
        t = threading.Thread(target=lambda: answered.append(self.next_of(stream, seconds=20)))
        t.start()
        self.kept(store, [record(1, word)])
        t.join(10)
        self.assertIn(word.encode(), answered[0].body)

    def test_only_who_opened_a_stream_may_read_or_close_it(self):
        stream = self.open_stream()
        for who in ((buspeer.WHO_USER, 1, 2, 0, "admin", ""),
                    (buspeer.WHO_USER, 2, 1, 0, "eve", ""), NOBODY):
            for kind in (buspeer.KIND_STREAM_NEXT, buspeer.KIND_STREAM_CLOSE):
                self.assertEqual(self.next_of(stream, kind, who=who).status, 404)
        self.assertEqual(self.next_of(stream).status, 200)
        self.assertEqual(self.next_of(stream + 1).status, 404)

    def test_a_closed_stream_is_over(self):
        before = self.metric("fieldgate_streams_open")
        stream = self.open_stream()
        self.assertEqual(self.metric("fieldgate_streams_open"), before + 1)
        got = self.next_of(stream, buspeer.KIND_STREAM_CLOSE)
        self.assertEqual((got.status, got.flags), (200, 1))
        self.assertEqual(self.metric("fieldgate_streams_open"), before)
        got = self.next_of(stream)
        self.assertEqual((got.status, got.flags), (404, 1))

    def test_streams_end_with_the_connection_to_the_gateway(self):
        wait_for("the daemon at the gateway", lambda: self.gateway.pipes)
        stream = self.open_stream()
        self.next_of(stream)  # the greeting
        p = self.peer(15)
        p.send(buspeer.message(request(
            0, kind=buspeer.KIND_STREAM_NEXT, id_=stream, who=ADMIN,
            deadline_us=int((time.monotonic() + 20) * 1e6))))
        p.send(buspeer.message(request(buspeer.PING, id_=7)))
        self.assertEqual(buspeer.replies(p.receive())[0].id, 7)  # so the other one waits
        self.gateway.drop()
        got, = buspeer.replies(p.receive())
        self.assertEqual((got.id, got.status, got.flags), (stream, 200, 1))
        self.assertEqual(self.metric("fieldgate_streams_open"), 0)
        self.assertEqual(self.next_of(stream).status, 404)
        wait_for("the daemon to come again", lambda: self.gateway.pipes)
        again = self.open_stream()
        self.assertEqual(self.next_of(again).status, 200)

    def test_streams_beyond_the_bound_are_refused_and_close_makes_room(self):
        before, open_now, got = self.metric("fieldgate_streams_open"), [], None
        for _ in range(200):
            got = self.call("getAudits", query=[("monitor", "true")])
            if got.status != 200:
                break
            open_now.append(struct.unpack(">Q", got.body)[0])
        self.assertEqual(got.status, 503)
        self.assertGreater(len(open_now), 8)
        self.next_of(open_now.pop(), buspeer.KIND_STREAM_CLOSE)
        open_now.append(self.open_stream())
        for stream in open_now:
            self.assertEqual(self.next_of(stream, buspeer.KIND_STREAM_CLOSE).status, 200)
        self.assertEqual(self.metric("fieldgate_streams_open"), before)
