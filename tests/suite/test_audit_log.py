"""The audit log through the gateway: as a file, checked, added to, on a disk that
is full, with a clock that jumps.
"""
import csv
import io
import os
import subprocess
import tarfile
import time
import uuid

import buspeer
import harness
from harness import ShiftedClock, SmallDisk, Suite, wait_for

TEST_SECONDS = 180
PRIVATE_MOUNTS = True  # run.py gives us a mount namespace


def table(data):
    """The rows of the file in an archive."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        member, = tar.getmembers()
        text = tar.extractfile(member).read().decode()
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


class AuditLog(Suite):
    daemons = ("auditd", "authd", "gateway")

    def write_events(self, n, word):
        for i in range(n):
            self.assert_ok(self.admin.post("/audits", {"auditId": "MT30",
                                                       "message": f"{word} {i}"}), 204)
        wait_for("the records", lambda: self.admin.get(f"/audits?messages={word}&limit=1")
                 .json["total"] == n)

    def test_the_file_is_what_the_query_answers(self):
        word = uuid.uuid4().hex
        self.write_events(30, word)
        for query in (f"messages={word}", f"messages={word}&order=id&sort=asc", "names=signIn&sources=admin"):
            rows = self.assert_ok(self.admin.get(f"/audits?limit=1000&{query}")).json["data"]
            got = self.assert_ok(self.admin.get(f"/audits?download=true&{query}"))
            self.assertEqual(got.headers["Content-Type"], "application/tar+gz")
            self.assertEqual(got.headers["Content-Disposition"],
                             'attachment; filename="audit.tar.gz"')
            self.assertEqual(table(got.body), [{k: str(v) for k, v in r.items()} for r in rows])
        self.assert_audited("auditDownload", containing="Download the audit log")

    def test_tar_reads_what_curl_took(self):
        path = os.path.join(self.fleet.run, "audit.tar.gz")
        done = subprocess.run(
            ["curl", "-sSf", "-o", path, "-H", f"Authorization: Bearer {self.admin.token}",
             f"http://127.0.0.1:{self.fleet.http_port}/api/v1/audits?download=true"],
            timeout=60, check=False, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        listed = subprocess.run(["tar", "-tzf", path], check=True, capture_output=True, text=True)
        self.assertEqual(listed.stdout, "audit.csv\n")

    def test_a_client_learns_that_auditd_was_killed_in_the_middle_of_its_file(self):
        rows = [{"seq": i, "event": "signIn", "message": os.urandom(200).hex(), "detail": "",
                 "source": "big", "addr": "", "requestId": "", "at": int(time.time() * 1e6)}
                for i in range(1, 10001)]
        self.append(rows)
        url = f"http://127.0.0.1:{self.fleet.http_port}/api/v1/audits?download=true&sources=big"
        curl = subprocess.Popen(
            ["curl", "-s", "--limit-rate", "200k", "-H",
             f"Authorization: Bearer {self.admin.token}", url], stdout=subprocess.PIPE)
        self.assertTrue(curl.stdout.read(1000))
        self.fleet.d["auditd"].kill()
        rest = curl.stdout.read()
        self.assertEqual(curl.wait(30 * harness.SLOW), 18)
        self.assertLess(len(rest), 2500000)
        self.fleet.d["auditd"].start()
        wait_for("auditd", lambda: self.admin.get("/audits?limit=1").status == 200)
        whole = self.assert_ok(self.admin.get("/audits?download=true&sources=big"))
        self.assertEqual(len(table(whole.body)), 10000)

    def append(self, rows):

        peer = buspeer.Peer(f"{self.fleet.run}/bus/auditd.rpc", 30 * harness.SLOW)
        try:
            for i in range(0, len(rows), 2000):
                got, = peer.ask(buspeer.request(
                    buspeer.AUDIT_APPEND, {"store": uuid.uuid4().hex, "daemon": "authd",
                                           "records": rows[i:i + 2000]}))
                self.assertEqual(got.status, 200)
        finally:
            peer.close()

    def test_the_chain_is_checked_and_the_check_is_refused_without_both_of_an_anchor(self):
        got = self.assert_ok(self.admin.get("/audits/verify")).data
        self.assertEqual((got["ok"], got["badId"]), (True, 0))
        self.assertGreater(got["records"], 0)
        again = self.admin.get(f"/audits/verify?sinceId={got['lastId']}"
                               f"&sinceHash={got['lastHash']}")
        self.assertTrue(self.assert_ok(again).data["ok"])
        self.assert_refused(self.admin.get("/audits/verify?sinceId=1"), 400, "/sinceHash")

    def test_an_application_cannot_record_a_sign_in(self):
        self.assert_refused(self.admin.post("/audits", {"auditId": "AA10", "message": "x"}), 400,
                            "/auditId")


class SmallLog(SmallDisk, Suite):
    """A log of a few MiB on a disk that gets full."""

    MIB = 24
    daemons = ("auditd", "authd", "gateway")

    def test_records_wait_where_they_were_made_until_there_is_room_again(self):
        made = []

        def change(n):
            got = self.admin.put("/users/me", {"description": f"word-{n}-end"})
            if got.status == 200:
                made.append(n)
            return got.status
        change(0)
        self.fill()
        statuses = [change(n) for n in range(1, 400)]
        self.assertIn(507, statuses)  # in the end not even the change itself has room
        self.assert_ok(self.admin.get("/audits?limit=1"))
        os.unlink(self.big)

        def numbers():
            rows = self.audits(names="accountUpdate")
            return [int(r["detail"].split("word-")[1].split("-end")[0]) for r in rows
                    if "word-" in r["detail"]]
        wait_for("all of them", lambda: sorted(numbers()) == sorted(made), 60)
        self.assertTrue(self.admin.get("/audits/verify").data["ok"])


class Age(ShiftedClock, Suite):
    """Records that get old, by a clock that jumps."""

    daemons = ("auditd", "authd", "gateway")
    daemon_options = {"auditd": ["--set", "age-check-s=2"]}
    DAY = 86400

    def jump(self, seconds):
        self.shift(seconds)
        type(self).admin = self.sign_in()

    def write(self, word):
        self.assert_ok(self.admin.post("/audits", {"auditId": "MT30", "message": word}), 204)
        wait_for("the record", lambda: self.there(word))

    def there(self, word):
        return self.assert_ok(self.admin.get(f"/audits?messages={word}")).json["total"] == 1

    def looked(self, times=3):
        """The age was looked at so often since."""
        began = time.monotonic()
        wait_for("looks at the age", lambda: time.monotonic() - began > 2.1 * times)

    def test_records_end_with_their_time_and_no_clock_that_jumps_takes_them(self):
        self.assert_ok(self.admin.put("/audits/configuration", {"timeToLiveDay": 2,
                                                                "enableTimeToLive": True}))
        self.write("first-of-all")
        # far ahead for a moment: the change of the setting looks at the age at once
        self.jump(3650 * self.DAY)
        self.assert_ok(self.admin.put("/audits/configuration", {"timeToLiveDay": 1}))
        self.write("far-ahead")
        self.jump(0)
        self.looked()
        self.assertTrue(self.there("first-of-all"))
        # back: what is made then is old at once, but what came before it is not
        self.jump(-400 * self.DAY)
        self.write("far-back")
        self.looked()
        self.jump(0)
        self.looked()
        for word in ("first-of-all", "far-ahead", "far-back"):
            self.assertTrue(self.there(word), word)
        # a day later the first one goes; what the wrong clock made keeps the rest
        self.jump(self.DAY + 600)
        wait_for("the first to go", lambda: not self.there("first-of-all"), 30)
        self.write("today")
        self.looked()
        for word in ("far-ahead", "far-back", "today"):
            self.assertTrue(self.there(word), word)
        self.assertTrue(self.admin.get("/audits/verify").data["ok"])
        ids = [r["id"] for r in self.audits()]
        self.assertEqual(ids, sorted(set(ids)))
