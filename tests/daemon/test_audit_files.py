"""auditd alone: the log as a file, the check of its chain, records of clients."""
import csv
import io
import os
import re
import shutil
import tarfile
import threading
import time
import uuid

import buspeer
import harness
from buspeer import reply
from harness import wait_for
from onedaemon import ADMIN, GUEST, NOBODY, OneDaemon
from test_auditd import EVENTS, record

MEMBERS = ["id", "eventId", "category", "name", "severity", "message", "detail", "source",
           "sourceIp", "daemon", "requestId", "createdAt"]


class PipeReader:
    """The gateway's end of an answer by pipe, by hand."""

    def __init__(self, daemon, got):
        assert (got.status, got.body_kind) == (200, buspeer.PIPE), (got.status, got.body)
        self.path = os.path.join(daemon.fleet.run, "spool", got.body.decode())
        self.fd = os.open(self.path, os.O_RDONLY)
        os.set_blocking(self.fd, True)

    def take(self, n):
        data = bytearray()
        while len(data) < n:
            got = os.read(self.fd, n - len(data))
            if not got:
                raise EOFError
            data += got
        return bytes(data)

    def blocks(self):
        """Until the good end; EOFError: it was another one."""
        while n := int.from_bytes(self.take(4), "big"):
            yield self.take(n)

    def close(self):
        os.close(self.fd)


class AuditBase(OneDaemon):
    name = "auditd"

    @classmethod
    def prepare(cls):
        cls.gateway = cls.stand_in("gateway", lambda r: reply(r.id, 404))

    def kept(self, records, daemon="authd"):
        for i in range(0, len(records), 2000):
            got = self.tell(buspeer.AUDIT_APPEND,
                            {"store": uuid.uuid4().hex, "daemon": daemon,
                             "records": records[i:i + 2000]})
            self.assertEqual(got.status, 200, got.body)

    def rows(self, **query):
        got = self.call("getAudits", query=[(k, str(v)) for k, v in query.items()])
        self.assertEqual(got.status, 200, got.body)
        return got.json["data"]

    def ask_for_file(self, **query):
        return self.call("getAudits", query=[("download", "true"),
                                             *((k, str(v)) for k, v in query.items())])

    def file(self, **query):
        """The table in the archive, cells as they were recorded, and the archive itself."""
        got = self.ask_for_file(**query)
        self.assertEqual((got.content_type, got.file_name),
                         ("application/tar+gz", "audit.tar.gz"))
        reader = PipeReader(self, got)
        data = b"".join(reader.blocks())
        reader.close()
        return self.table(data)

    def table(self, data):
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            member, = tar.getmembers()
            self.assertEqual(member.name, "audit.csv")
            text = tar.extractfile(member).read().decode()
        self.assertTrue(text.endswith("\r\n"))
        head, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        self.assertEqual(head, MEMBERS)
        return [{k: self.as_recorded(v) for k, v in zip(head, row, strict=True)} for row in rows]

    @staticmethod
    def as_recorded(cell):
        return cell[1:] if re.match(r"'+[=+\-@\t\r\n]", cell) else cell


class AuditFiles(AuditBase):
    # ---- files ----

    def test_a_file_holds_what_the_query_answers_in_its_order(self):
        word, now = uuid.uuid4().hex, int(time.time() * 1e6)
        self.kept([record(i, f"{word} {i}", EVENTS[i % len(EVENTS)], source=f"s{i % 3}",
                          at=now - i * 7919 % 1000 * 1000000, detail='{"a":"b, c"}')
                   for i in range(1, 901)])
        for query in ({}, {"order": "id", "sort": "asc"}, {"order": "id"},
                      {"order": "time", "sort": "asc"}, {"order": "name"},
                      {"order": "severity", "sort": "asc"}, {"sources": "s1"},
                      {"names": "signIn,tagWrite", "order": "category"}):
            rows = self.rows(messages=word, limit=1000, **query)
            self.assertEqual(self.file(messages=word, **query),
                             [{k: str(v) for k, v in row.items()} for row in rows], query)
        self.assertEqual(self.file(messages=uuid.uuid4().hex), [])

    def test_cells_come_back_as_they_were_recorded_and_are_no_formulas(self):
        word = uuid.uuid4().hex
        texts = ['=1+1', '+1', '-1', '@x', '\t=1', '\rx', "'=1", "''", "'x", 'a,b', 'say "x"',
                 'two\r\nlines', 'ünï€😀', '', '"', '","', ' x ', '=cmd|"/c calc"!A1']
        self.kept([record(i, t, source=word, detail=t) for i, t in enumerate(texts, 1)])
        got = self.file(sources=word, order="id", sort="asc")
        self.assertEqual([(r["message"], r["detail"]) for r in got], [(t, t) for t in texts])
        raw = self.ask_for_file(sources=word)
        reader = PipeReader(self, raw)
        with tarfile.open(fileobj=io.BytesIO(b"".join(reader.blocks())), mode="r:gz") as tar:
            text = tar.extractfile("audit.csv").read().decode()
        reader.close()
        for row in csv.reader(io.StringIO(text, newline="")):
            for cell in row:
                self.assertNotIn(cell[:1] or "x", "=+-@\t\r\n")

    def test_a_download_is_recorded_with_who_took_it(self):
        n = len(self.rows(names="auditDownload", limit=1000))
        self.file(messages=uuid.uuid4().hex)
        wait_for("its record", lambda: len(self.rows(names="auditDownload", limit=1000)) == n + 1)
        row = self.rows(names="auditDownload", limit=1)[0]
        self.assertEqual((row["eventId"], row["source"], row["sourceIp"]),
                         ("MT32", "admin", "192.0.2.7"))

    def test_a_file_has_the_records_there_were_at_the_beginning(self):
        source = uuid.uuid4().hex
        self.kept([record(i, f"m{i}" + "x" * 400, source=source) for i in range(1, 6001)])
        reader = PipeReader(self, self.ask_for_file(sources=source, order="id", sort="asc"))
        blocks = reader.blocks()
        data = next(blocks)
        self.kept([record(i, "later", source=source) for i in range(1, 101)])
        data += b"".join(blocks)
        reader.close()
        rows = self.table(data)
        self.assertEqual([r["message"].rstrip("x") for r in rows],
                         [f"m{i}" for i in range(1, 6001)])

    def test_too_many_files_at_once_are_refused_and_not_recorded(self):
        readers = [PipeReader(self, self.ask_for_file()) for _ in range(4)]
        n = self.metric("fieldgate_audit_records_total")
        got = self.ask_for_file()
        self.assertEqual((got.status, got.retry_after), (503, 1))
        for reader in readers:
            reader.close()
        wait_for("their writers to end", lambda: self.metric("fieldgate_pipes_open") == 0)
        self.assertGreaterEqual(n + 4, self.metric("fieldgate_audit_records_total"))
        self.file(messages="x")

    def test_following_and_downloading_exclude_each_other(self):
        got = self.ask_for_file(monitor="true")
        self.assertEqual((got.status, got.json["error"]["details"][0]["pointer"]),
                         (400, "/download"))

    def fill(self, n, source):
        self.kept([record(i, f"{os.urandom(60).hex()} {i}", source=source, detail="y" * 300)
                   for i in range(1, n + 1)])

    def test_a_killed_auditd_leaves_a_file_without_its_end(self):
        self.fill(20000, "kill")
        reader = PipeReader(self, self.ask_for_file(sources="kill"))
        blocks = reader.blocks()
        next(blocks)
        self.daemon.kill()
        with self.assertRaises(EOFError):
            for _ in blocks:
                pass
        reader.close()
        self.start_again()
        self.assertEqual(len(self.rows(sources="kill", limit=1000)), 1000)

    def test_auditd_stops_in_order_while_nobody_reads_its_file(self):
        self.fill(20000, "stop")
        reader = PipeReader(self, self.ask_for_file(sources="stop"))
        next(reader.blocks())
        self.assert_stops_in_order()
        reader.close()

    def test_files_take_little_memory_and_hold_up_nobody(self):
        self.fill(60000, "flat")
        self.file(messages="nothing at all")  # its pages are in memory now
        before, most, answered = self.daemon.memory_kib("Pss_Anon"), [0], [0]
        over = threading.Event()

        def look():
            while not over.is_set():
                self.alive()
                answered[0] += 1
                most[0] = max(most[0], self.daemon.memory_kib("Pss_Anon"))
        looker = threading.Thread(target=look)
        looker.start()
        reader = PipeReader(self, self.ask_for_file(sources="flat"))
        data = b"".join(reader.blocks())
        reader.close()
        over.set()
        looker.join()
        self.assertEqual(len(self.table(data)), 60000)
        self.assertGreater(answered[0], 10)
        if not harness.SANITIZED:
            self.assertLess(most[0] - before, 4 << 10)

    # ---- the chain ----

    def check(self, status=200, **query):
        got = self.call("getAuditsVerify", query=[(k, str(v)) for k, v in query.items()],
                        timeout=70)
        self.assertEqual(got.status, status, got.body)
        return got.json["data"] if status == 200 else got.json["error"]

    def found(self, reason, bad=None, **query):
        got = self.check(**query)
        self.assertEqual((got["ok"], got["reason"]), (False, reason))
        if bad is not None:
            self.assertEqual(got["badId"], bad)
        return got

    def edit(self, change):
        """Changes the bytes of the store while nobody has it open."""
        self.assertEqual(self.daemon.stop(), 0)
        path = os.path.join(self.fleet.state, "auditd", "data.mdb")
        with open(path, "rb") as f:
            data = f.read()
        with open(path, "wb") as f:
            f.write(change(data))
        self.start_again()

    def test_a_chain_that_nobody_touched_is_good_and_can_be_checked_against_later(self):
        self.kept([record(i) for i in range(1, 2501)])
        first = self.check()
        self.assertEqual((first["ok"], first["badId"], first["reason"]), (True, 0, ""))
        self.assertEqual(first["records"], first["lastId"] - first["firstId"] + 1)
        self.assertGreater(first["records"], 2500)
        self.kept([record(1)])
        self.kill_and_start()
        second = self.check(sinceId=first["lastId"], sinceHash=first["lastHash"])
        self.assertTrue(second["ok"])
        self.assertGreater(second["lastId"], first["lastId"])
        self.check(sinceId=second["lastId"], sinceHash=second["lastHash"].lower())
        newer = re.findall(r"newest record id=(\d+) hash=([0-9A-F]{64})",
                           self.fleet.tail("auditd"))[-1]  # told to the journal at the start
        self.assertTrue(self.check(sinceId=newer[0], sinceHash=newer[1])["ok"])

    def test_one_byte_that_was_changed_is_found(self):
        word = uuid.uuid4().hex
        self.kept([record(i, f"{word} {i:02}") for i in range(1, 21)])
        at, = (r["id"] for r in self.rows(messages=f"{word} 07"))

        def swap(a, b):
            self.edit(lambda data: data.replace(f"{word} {a}".encode(), f"{word} {b}".encode()))
        swap("07", "x7")
        got = self.found("the record or the one before it was changed", at)
        self.assertEqual(got["lastId"], at - 1)
        self.assertEqual(len(self.rows(messages=f"{word} x7")), 1)  # it was that one
        self.assertIn("is broken", self.fleet.tail("auditd"))
        swap("x7", "07")
        self.assertTrue(self.check()["ok"])

    def test_a_log_put_back_to_an_earlier_day_is_found_with_a_later_hash(self):
        state = os.path.join(self.fleet.state, "auditd")
        copy = os.path.join(self.fleet.run, "earlier.mdb")
        self.assertEqual(self.daemon.stop(), 0)
        shutil.copy(os.path.join(state, "data.mdb"), copy)
        self.start_again()
        self.kept([record(i) for i in range(1, 101)])
        later = self.check()
        self.assertEqual(self.daemon.stop(), 0)
        shutil.copy(copy, os.path.join(state, "data.mdb"))
        self.start_again()
        anchor = {"sinceId": later["lastId"], "sinceHash": later["lastHash"]}
        self.found("a record is missing", **anchor)
        # and when others took the place of those
        self.kept([record(i, "nothing happened") for i in range(1, 201)])
        self.found("the record is not the one with that hash", later["lastId"], **anchor)
        self.assertTrue(self.check()["ok"])

    def test_bad_anchors_are_refused(self):
        whole = self.check()
        for query, pointer in (({"sinceId": 1}, "/sinceHash"), ({"sinceHash": "00"}, "/sinceId"),
                               ({"sinceId": 1, "sinceHash": "00"}, "/sinceHash"),
                               ({"sinceId": 1, "sinceHash": "x" * 64}, "/sinceHash"),
                               ({"sinceId": 1, "sinceHash": "0" * 65}, "/sinceHash"),
                               ({"sinceId": 0, "sinceHash": "0" * 64}, "/sinceId"),
                               ({"sinceId": "x", "sinceHash": "0" * 64}, "/sinceId")):
            got = self.check(400, **query)
            self.assertEqual(got["details"][0]["pointer"], pointer, query)
        self.assertEqual(whole["firstId"], 1)

    # ---- records of clients ----

    def test_a_client_records_its_own_events_under_its_own_name(self):
        word = uuid.uuid4().hex
        self.done("postAudits", {"auditId": "MT30", "message": word, "source": "line \"4\""},
                  status=204)
        self.done("postAudits", {"auditId": "MT31", "message": word + " alert"}, status=204)
        rows = wait_for("both", lambda: (got := self.rows(messages=word, order="id",
                                                          sort="asc"))[1:] and got)
        self.assertEqual([(r["eventId"], r["name"], r["severity"], r["message"], r["source"],
                           r["sourceIp"], r["detail"]) for r in rows],
                         [("MT30", "applicationEvent", "notice", word, "admin", "192.0.2.7",
                           '{"source":"line \\"4\\""}'),
                          ("MT31", "applicationAlert", "alert", word + " alert", "admin",
                           "192.0.2.7", '{"source":""}')])

    def test_nobody_can_make_a_record_that_looks_like_one_of_the_device(self):
        word = uuid.uuid4().hex
        for event in self.done("getAuditsProfile")["events"]:
            if event["eventId"] not in ("MT30", "MT31"):
                got = self.call("postAudits", {"auditId": event["eventId"], "message": word})
                self.assertEqual((got.status, got.json["error"]["details"][0]["pointer"]),
                                 (400, "/auditId"), event)
        for body, pointer in (({"auditId": "XX99", "message": word}, "/auditId"),
                              ({"auditId": "", "message": word}, "/auditId"),
                              ({"auditId": "applicationEvent", "message": word}, "/auditId"),
                              ({"message": word}, "/auditId"), ({"auditId": "MT30"}, "/message"),
                              ({"auditId": "MT30", "message": ""}, "/message"),
                              ({"auditId": "MT30", "message": "ü" * 300}, "/message"),
                              ({"auditId": "MT30", "message": word, "source": "x" * 65},
                               "/source")):
            got = self.call("postAudits", body)
            self.assertEqual((got.status, got.json["error"]["details"][0]["pointer"]),
                             (400, pointer), body)
        self.assertEqual(self.rows(messages=word), [])

    def test_the_rights_are_checked(self):
        for who, status in ((NOBODY, 401), (GUEST, 403)):
            self.assertEqual(self.call("getAuditsVerify", who=who).status, status)
            self.assertEqual(self.call("postAudits", {"auditId": "MT30", "message": "m"},
                                       who=who).status, status)
            self.assertEqual(self.call("getAudits", who=who,
                                       query=[("download", "true")]).status, status)
        self.assertEqual(self.call("getAuditsVerify", who=ADMIN).status, 200)


class Rotation(AuditBase):
    """A log of 10 MB, the least it can be."""

    @classmethod
    def begin(cls):
        cls.done("putAuditsConfiguration", {"desiredDiskCacheSizeMB": 10})

    def mib(self):
        return self.metric("fieldgate_audit_bytes") / (1 << 20)

    def grow(self, mib):
        self.kept([record(i, "x" * 500, source="grow", detail=os.urandom(2000).hex())
                   for i in range(1, int(mib * (1 << 20) / 5100))])

    def first_id(self):
        return self.rows(order="id", sort="asc", limit=1)[0]["id"]

    def test_1_near_its_size_an_alert_is_recorded_once(self):
        self.grow(7)
        self.assertEqual(self.rows(names="auditStorageThreshold"), [])
        self.grow(1.5)
        wait_for("the alert", lambda: self.rows(names="auditStorageThreshold"))
        self.grow(0.5)
        row, = self.rows(names="auditStorageThreshold")
        self.assertEqual((row["eventId"], row["severity"]), ("MT10", "alert"))
        self.assertRegex(row["message"], r"uses 8\d % of its 10 MB")

    def test_2_past_its_size_the_oldest_go_and_the_chain_stays_whole(self):
        for _ in range(3):
            self.grow(3)
            wait_for("rotation", lambda: self.mib() < 10)
        self.assertGreater(self.mib(), 9)
        self.assertGreater(self.metric("fieldgate_audit_rotated_total"), 1000)
        self.assertGreater(self.first_id(), 1)
        got = self.done("getAuditsVerify")
        self.assertEqual((got["ok"], got["firstId"]), (True, self.first_id()))
        newest = self.rows(order="id", limit=1)[0]["id"]
        self.assertEqual(got["lastId"], newest)
        self.kill_and_start()
        self.assertTrue(self.done("getAuditsVerify")["ok"])
        got = self.call("getAuditsVerify", query=[("sinceId", "1"), ("sinceHash", "0" * 64)])
        self.assertEqual((got.status, got.json["error"]["details"][0]["pointer"]),
                         (404, "/sinceId"))

    def test_3_a_file_holds_up_rotation_and_not_for_ever(self):
        wait_for("rotation", lambda: self.mib() < 10)
        reader = PipeReader(self, self.ask_for_file(order="id", sort="asc"))
        first = self.first_id()
        blocks = reader.blocks()
        data = next(blocks)
        while self.mib() < 10.2:
            self.grow(0.2)
        self.assertEqual(self.first_id(), first)
        data += b"".join(blocks)
        reader.close()
        self.assertEqual(int(self.table(data)[0]["id"]), first)
        wait_for("rotation after it", lambda: self.first_id() > first)
        # another, whose reader sleeps while the log grows by more than a tenth
        reader = PipeReader(self, self.ask_for_file(order="id"))
        blocks = reader.blocks()
        next(blocks)
        for _ in range(4):
            self.grow(1)
        wait_for("rotation all the same", lambda: self.mib() < 10)
        with self.assertRaises(EOFError):
            for _ in blocks:
                pass
        reader.close()
