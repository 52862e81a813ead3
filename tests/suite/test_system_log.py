"""/system/log: what is kept of it is what was asked for, and the zip is what was kept."""
import contextlib
import glob
import io
import json
import os
import re
import time
import zipfile

import harness
from harness import SmallDisk, Suite, wait_for

PRIVATE_MOUNTS = True
MIB = 1 << 20


class Logs(Suite):
    """Files of our own beside those of the suite."""

    daemons = ("auditd", "authd", "gateway")

    def path(self, name):
        return os.path.join(self.fleet.logs, name)

    def write(self, name, text, days_ago=0):
        with open(self.path(name), "a", encoding="ascii") as f:
            f.write(text)
        at = time.time() - days_ago * 86400
        os.utime(self.path(name), (at, at))

    def total(self):
        return sum(os.path.getsize(f) for f in glob.glob(self.path("*.log")) +
                   glob.glob(self.path("*.log.*")) if os.path.exists(f))

    def limit(self, **members):
        return self.assert_ok(self.admin.put("/system/log", members)).data

    def download(self):
        reply = self.assert_ok(self.admin.get("/system/log?download=true"))
        self.assertEqual(reply.headers["Content-Type"], "application/zip")
        self.assertRegex(reply.headers["Content-Disposition"],
                         r'filename="?system-log-\d{4}-\d\d-\d\dT\d{6}\.zip"?')
        z = zipfile.ZipFile(io.BytesIO(reply.body))
        self.assertIsNone(z.testzip())
        return z


class SystemLog(Logs):
    def test_a_fresh_unit_keeps_100_mb_of_the_disk_that_it_tells_of(self):
        data = self.assert_ok(self.admin.get("/system/log")).data
        disk, = data.pop("disks")
        if not self.audits(names="systemLogSettingUpdate"):
            self.assertEqual(data, {"desiredDiskCacheSizeMB": 100, "enableTimeToLive": False,
                                    "timeToLiveDay": 7, "targetDiskName": "System"})
        fs = os.statvfs(self.fleet.logs)
        self.assertEqual(disk["name"], "System")
        self.assertEqual(disk["total"], fs.f_blocks * fs.f_frsize)
        self.assertEqual(disk["maxFree"], disk["total"] // 2)
        self.assertAlmostEqual(disk["free"], fs.f_bavail * fs.f_frsize, delta=disk["total"] // 20)
        self.assertEqual(disk["used"], disk["total"] - disk["free"])
        self.assertAlmostEqual(disk["percent"], 100 * disk["used"] / disk["total"], delta=0.1)

    def test_what_is_not_sent_stays_and_all_survives_a_restart(self):
        self.limit(desiredDiskCacheSizeMB=20, timeToLiveDay=30)
        data = self.limit(enableTimeToLive=True, disks=[{"name": "other"}])
        wanted = {"desiredDiskCacheSizeMB": 20, "enableTimeToLive": True, "timeToLiveDay": 30,
                  "targetDiskName": "System"}
        self.assertEqual({k: data[k] for k in wanted}, wanted)
        self.assertEqual(data["disks"][0]["name"], "System")
        self.assert_audited("systemLogSettingUpdate", '"enableTimeToLive":true')
        self.restart("auditd")
        data = self.admin.get("/system/log").data
        self.assertEqual({k: data[k] for k in wanted}, wanted)
        self.limit(enableTimeToLive=False)

    def test_what_cannot_be_is_refused_and_changes_nothing(self):
        before = self.limit(desiredDiskCacheSizeMB=50)
        for member, values in (("desiredDiskCacheSizeMB", (0, 4097, -1, "50", 1.5)),
                               ("timeToLiveDay", (0, 31)), ("enableTimeToLive", ("yes", 1)),
                               ("targetDiskName", ("USB1", "", "system", "x" * 4097))):
            for value in values:
                reply = self.admin.put("/system/log", {member: value, "timeToLiveDay": 9,
                                                       **{member: value}})
                self.assert_refused(reply, 400, f"/{member}")
        self.assert_refused(self.admin.put("/system/log", {"targetDiskName": "USB1"}), 400,
                            word="disk not found")
        now = self.admin.get("/system/log").data
        for name in ("desiredDiskCacheSizeMB", "timeToLiveDay", "targetDiskName"):
            self.assertEqual(now[name], before[name])

    def test_a_download_holds_every_log_as_it_is_and_a_list(self):
        self.write("mine.log", "one line\n" * 40000)
        self.write("mine.log.20260302T021112.964368Z", "an older one\n")
        self.write("mine.txt", "no log\n")
        self.write("mine.log.old", "no log of ours\n")
        began = time.time()
        z = self.download()
        names = set(z.namelist())
        self.assertLessEqual({"auditd.log", "authd.log", "gateway.log", "mine.log",
                              "mine.log.20260302T021112.964368Z", "manifest.json"}, names)
        self.assertFalse(names & {"mine.txt", "mine.log.old"})
        for name in names - {"manifest.json"}:
            with open(self.path(name), "rb") as f:
                self.assertTrue(f.read().startswith(z.read(name)), name)
        self.assertEqual(z.read("mine.log"), b"one line\n" * 40000)
        self.assertIn(b"svc: ready", z.read("gateway.log"))
        told = json.loads(z.read("manifest.json"))
        self.assertEqual(told["profile"], "bench")
        self.assertEqual({e["name"]: e["bytes"] for e in told["entries"]},
                         {i.filename: i.file_size for i in z.infolist()
                          if i.filename != "manifest.json"})
        made = time.mktime(time.strptime(told["madeAt"], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
        self.assertLess(abs(made - began), 60)
        self.assert_audited("systemLogDownload")

    def test_a_download_shows_no_password_and_no_token(self):
        self.sign_in()
        text = b"".join(map((z := self.download()).read, z.namelist()))
        for secret in (harness.PASSWORD, harness.FIRST_PASSWORD, self.admin.token):
            self.assertNotIn(secret.encode(), text)

    def test_a_large_log_costs_no_memory(self):
        name = "large.log.20260302T021112.964368Z"
        with open(self.path(name), "wb") as f:
            for i in range(1000):
                f.write(b"".join(b"%d lines were written\n" % (1000 * i + k) for k in range(2500)))
        auditd = self.fleet.d["auditd"]
        self.download()  # what it costs once
        before = auditd.memory_kib()
        self.assertEqual(self.download().getinfo(name).file_size, os.path.getsize(self.path(name)))
        if not harness.SANITIZED:  # they keep what was freed
            self.assertLess(auditd.memory_kib() - before, 4096)
        os.unlink(self.path(name))

    def test_only_who_maintains_the_device_may_read_or_limit_it(self):
        role = self.admin.post("/roles", {"name": "tags", "permissions": ["SYS_MANAGEMENT_RW"]})
        self.admin.post("/users", {"name": "tess", "password": harness.PASSWORD, "isActive": True,
                                   "roles": [{"id": role.data["id"]}]})
        other = self.sign_in("tess")
        for reply in (other.get("/system/log"), other.get("/system/log?download=true"),
                      other.put("/system/log", {"timeToLiveDay": 3})):
            self.assert_refused(reply, 403)
        self.assert_refused(self.admin.get("/system/log?download=perhaps"), 400)

    def test_too_much_goes_the_oldest_first_and_the_newest_line_stays(self):
        self.write("quiet.log", "hardly ever says a word\n")
        self.limit(desiredDiskCacheSizeMB=1, enableTimeToLive=False)
        written, block = 0, MIB // 2
        while written < 3 * MIB:
            self.write("noisy.log", "".join(f"line {at:058d}\n"
                                            for at in range(written, written + block, 64)))
            written += block
            wait_for("a copy of it", lambda: os.path.getsize(self.path("noisy.log")) == 0, 20)
        wait_for("the last sweep", lambda: self.total() <= MIB, 20)
        with zipfile.ZipFile(io.BytesIO(self.admin.get("/system/log?download=true").body)) as z:
            kept = b"".join(z.read(n) for n in sorted(
                (n for n in z.namelist() if n.startswith("noisy.log")),
                key=lambda n: n.split("noisy.log")[1] or "~"))
            self.assertIn("quiet.log", z.namelist())
        numbers = [int(n) for n in re.findall(rb"line (\d+)\n", kept)]
        self.assertEqual(numbers[-1], written - 64)
        self.assertEqual(numbers, list(range(numbers[0], written, 64)), "nothing between is lost")
        self.assertGreater(len(numbers) * 64, MIB // 4)
        self.limit(desiredDiskCacheSizeMB=100)

    def test_what_is_too_old_goes(self):
        self.limit(enableTimeToLive=True, timeToLiveDay=2)
        self.write("aged.log", "three days ago\n", days_ago=3)
        self.write("aged.log.20260302T021112.964368Z", "four days ago\n", days_ago=4)
        self.write("young.log", "yesterday\n", days_ago=1.5)
        wait_for("the old lines to go", lambda: self.total_of("aged.log") == 0, 20)
        wait_for("a copy of yesterday's", lambda: os.path.getsize(self.path("young.log")) == 0, 20)
        self.assertEqual(self.total_of("young.log"), len("yesterday\n"))
        self.limit(enableTimeToLive=False)

    def total_of(self, name):
        total = 0
        for path in glob.glob(self.path(name + "*")):
            with contextlib.suppress(FileNotFoundError):  # it goes while we look
                total += os.path.getsize(path)
        return total


class FullDisk(SmallDisk, Logs):
    """State and logs on one small disk, which the logs fill."""

    @classmethod
    def make_fleet(cls):
        return harness.Fleet(cls.daemons, directory=os.path.join(cls.base, "x"))

    def test_half_of_the_disk_is_the_most_and_a_log_that_fills_it_is_cut(self):
        data = self.assert_ok(self.admin.get("/system/log")).data
        self.assertEqual(data["desiredDiskCacheSizeMB"], self.MIB // 2)  # not the shipped 100
        self.assert_refused(self.admin.put("/system/log",
                                           {"desiredDiskCacheSizeMB": self.MIB // 2 + 1}), 400,
                            "/desiredDiskCacheSizeMB", f"size must <= {self.MIB // 2} MB")
        self.limit(desiredDiskCacheSizeMB=1)
        full = False
        with open(self.path("runaway.log"), "ab", buffering=0) as f:
            try:
                while f.tell() < 64 * MIB:
                    f.write(b"this goes on and on\n" * 5000)
            except OSError:
                full = True
        self.assertTrue(full)
        wait_for("the log to be cut", lambda: self.total() <= MIB, 30)
        self.limit(desiredDiskCacheSizeMB=2)  # there is room for a change again


del Logs
