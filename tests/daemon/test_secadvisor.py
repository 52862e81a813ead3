"""auditd's security advisor alone: what others say of themselves, or do not say."""
import glob
import json
import os
import threading
import time

import buspeer
from buspeer import reply
from harness import wait_for
from onedaemon import ADMIN, GUEST, OneDaemon

TEST_SECONDS = 120
WAITERS_MAX = 32


class Talker:
    """A stand-in's handler: .says is the body of its facts, or None: no answer."""

    def __init__(self):
        self.says, self.status, self.asked = b"{}", 200, 0
        self.kind = buspeer.JSON

    def __call__(self, r):
        if r.op != buspeer.SECURITY_FACTS:
            return reply(r.id, 404)
        self.asked += 1
        if self.says is None:
            return None
        return reply(r.id, self.status, self.says, self.kind)


class Advisor(OneDaemon):
    name = "auditd"

    @classmethod
    def prepare(cls):
        cls.talkers = {}
        for name in ("authd", "gateway", "cloudd", "modbusd"):
            cls.talkers[name] = Talker()
            cls.stand_in(name, cls.talkers[name])

    def setUp(self):
        for talker in self.talkers.values():
            talker.__init__()

    def findings(self):
        got = self.done("getSecurityReport")
        return {f["id"]: f for group in got.values() for f in group}

    def fresh(self):
        """Of a scan that began after now: the last one is a second old."""
        began = self.talkers["authd"].asked

        def scanned():
            found = self.findings()
            return found if self.talkers["authd"].asked > began else None
        wait_for("another scan", scanned, 10, 0.1)
        return self.findings()

    def test_facts_make_findings(self):
        self.talkers["authd"].says = json.dumps({"locked": 0, "lock": {"enable": False}}).encode()
        found = self.fresh()
        self.assertEqual(found["SEC-LCK-04"]["status"], "pass")
        self.assertEqual(found["SEC-LCK-01"]["status"], "fail")
        self.assertEqual(found["SEC-LCK-02"]["status"], "unknown")

    def test_what_cannot_be_read_makes_unknown_and_does_no_harm(self):
        deep = b"[" * 40 + b"]" * 40
        for says in (b"", b"{", b"[]", b"null", b'"x"', deep, b"{\"lock\":" + deep + b"}", b"\xff\xfe",
                     b'{"locked":0,"locked":0}', b'{"locked":"0"}', b'{"locked":-9223372036854775809}',
                     b'{"locked":1e0}', b'{"x":"' + b"a" * (600 << 10) + b'","locked":0}'):
            self.talkers["authd"].says = says
            self.assertEqual(self.fresh()["SEC-LCK-04"]["status"], "unknown", says[:40])
        self.talkers["authd"].says = b'{"locked":0}'
        self.talkers["authd"].kind = buspeer.BYTES
        self.assertEqual(self.fresh()["SEC-LCK-04"]["status"], "unknown")
        self.talkers["authd"].kind = buspeer.JSON
        self.talkers["authd"].status = 500
        self.assertEqual(self.fresh()["SEC-LCK-04"]["status"], "unknown")
        self.talkers["authd"].status = 200
        self.assertEqual(self.fresh()["SEC-LCK-04"]["status"], "pass")

    def test_the_machine_and_the_own_log_need_nobody(self):
        found = self.fresh()
        for id_ in ("SEC-AUD-01", "SEC-AUD-02", "SEC-SYS-08", "SEC-LOG-03"):
            self.assertIn(found[id_]["status"], ("pass", "fail"), id_)
        self.assertEqual(found["SEC-AUD-01"]["status"], "pass")

    def test_a_changed_record_of_the_log_is_found_however_long_it_is(self):
        self.tell_records(2500)
        found = self.fresh()["SEC-AUD-01"]
        self.assertEqual(found["status"], "pass")
        self.assertGreaterEqual(int(found["evidence"].split()[0]), 2500)
        self.daemon.stop()
        data, = glob.glob(f"{self.fleet.state}/auditd/data.mdb")
        with open(data, "r+b") as f:
            bytes_ = f.read()
            at = bytes_.rindex(b"Changed-later-1234 ")  # small letters: what searches look at
            f.seek(at)
            f.write(b"c")
        self.start_again()
        found = self.fresh()["SEC-AUD-01"]
        self.assertEqual(found["status"], "fail", found)
        with open(data, "r+b") as f:
            f.seek(at)
            f.write(b"C")

    def tell_records(self, n):
        store = os.urandom(16).hex()
        for first in range(1, n + 1, 100):
            records = [{"seq": i, "event": "signIn", "message": f"Changed-later-{i} ", "detail": "",
                        "source": "sam", "addr": "", "requestId": "0" * 16,
                        "at": int(time.time() * 1e6)} for i in range(first, first + 100)]
            got = self.tell(buspeer.AUDIT_APPEND, {
                "store": store, "daemon": "authd", "records": records})
            self.assertEqual(got.status, 200)

    def test_so_many_may_wait_and_the_others_are_told(self):
        self.fresh()
        time_of_scan = self.findings()["SEC-AUD-01"]["timestamp"]
        self.talkers["authd"].says = None
        got, lock = [], threading.Lock()

        def ask():
            answer = self.call("getSecurityReport")
            with lock:
                got.append(answer)
        # the last scan must be too old to be given again
        wait_for("a second to pass", lambda: time.time() > time_of_scan + 2.1)
        threads = [threading.Thread(target=ask) for _ in range(WAITERS_MAX + 8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        statuses = sorted(a.status for a in got)
        self.assertEqual(statuses, [200] * WAITERS_MAX + [503] * 8)
        self.alive()

    def test_it_stops_in_order_with_a_scan_under_way(self):
        self.fresh()
        self.talkers["authd"].says = None
        asked = self.talkers["authd"].asked
        threads = self.ask_for_documents(6)
        wait_for("a scan to be under way", lambda: self.talkers["authd"].asked > asked
                 or self.findings(), 10)
        self.assert_stops_in_order()
        for t in threads:
            t.join()

    def test_it_stops_in_order_with_documents_under_way(self):
        spool = f"{self.fleet.run}/spool"
        for moment in (lambda: True, lambda: os.listdir(spool)):
            self.fresh()
            threads = self.ask_for_documents(6)
            wait_for("a document", lambda when=moment: when() or not any(
                t.is_alive() for t in threads), step=0.001)
            self.assert_stops_in_order()
            for t in threads:
                t.join()
            self.assertEqual(os.listdir(spool), [])

    def ask_for_documents(self, n):
        def ask():
            try:
                got = self.call("getSecurityReport", query=[("download", "true")])
            except OSError:
                return  # it stopped
            if got.body_kind == buspeer.FILE:
                os.unlink(f"{self.fleet.run}/spool/{got.body.decode()}")
        threads = [threading.Thread(target=ask) for _ in range(n)]
        for t in threads:
            t.start()
        return threads

    def test_who_may_not_maintain_the_device_is_refused(self):
        self.assertEqual(self.call("getSecurityReport", who=GUEST).status, 403)
        self.assertEqual(self.call("getSecurityReport", who=ADMIN).status, 200)

    def test_no_place_for_a_document_is_an_error_and_leaves_nothing(self):
        spool = f"{self.fleet.run}/spool"
        os.rename(spool, spool + "-away")
        try:
            got = self.call("getSecurityReport", query=[("download", "true")])
            self.assertEqual(got.status, 500, got.body)
        finally:
            os.rename(spool + "-away", spool)
        got = self.call("getSecurityReport", query=[("download", "true")])
        self.assertEqual((got.status, got.body_kind), (200, buspeer.FILE))
        self.assertEqual(got.content_type, "application/pdf")
        path = f"{spool}/{got.body.decode()}"
        with open(path, "rb") as f:
            self.assertEqual(f.read(5), b"%PDF-")
        os.unlink(path)
        self.assertEqual(os.listdir(spool), [])


class WhileFilesAreChecked(OneDaemon):
    name = "auditd"
    options = ("--set", "manifest={dir}/MANIFEST")

    @classmethod
    def prepare(cls):
        manifest = f"{cls.fleet.dir}/MANIFEST"
        cls.daemon.argv = [a.format(dir=cls.fleet.dir) for a in cls.daemon.argv]
        with open(f"{cls.fleet.dir}/large", "wb") as f:
            f.truncate(512 << 20)  # nobody waits for the check, so it takes 20 s at least
        os.chmod(f.name, 0o644)
        with open(manifest, "w", encoding="ascii") as f:
            f.write(f"fieldgate-manifest 1\nf 644 {'0' * 64} {cls.fleet.dir}/large\n")
        os.chmod(manifest, 0o644)

    def test_a_long_check_of_files_does_not_hold_up_the_report(self):
        found = {f["id"]: f for group in self.done("getSecurityReport").values() for f in group}
        self.assertIn("has ended yet", found["SEC-SYS-09"]["evidence"])
        self.assertEqual(found["SEC-SYS-09"]["status"], "unknown")
        self.assertEqual(found["SEC-SYS-08"]["status"], "pass")
