"""PUT /system/fim: one changed byte of what is installed is found, recorded and told at sign-in."""
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import time

import harness
from harness import Suite, wait_for


class Integrity(Suite):
    """Copies of two programs and a library directory, "installed" with a manifest."""

    daemons = ("auditd", "authd", "gateway")

    @classmethod
    def make_fleet(cls):
        fleet = harness.Fleet(cls.daemons)
        cls.place = os.path.join(fleet.dir, "installed")
        cls.manifest = os.path.join(cls.place, "MANIFEST")
        os.makedirs(os.path.join(cls.place, "lib"), mode=0o755)
        fleet.d["auditd"].argv += ["--set", f"manifest={cls.manifest}"]
        cls.install()
        return fleet

    @classmethod
    def install(cls):
        for name in os.listdir(cls.place):
            path = os.path.join(cls.place, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        os.makedirs(os.path.join(cls.place, "lib"))
        os.chmod(os.path.join(cls.place, "lib"), 0o755)
        for name in ("authd", "auditd"):
            shutil.copy(os.path.join(harness.BUILD, "bin", name), cls.path(name))
            os.chmod(cls.path(name), 0o755)
        with open(cls.path("lib/with a blank"), "w", encoding="ascii") as f:
            f.write("library\n")
        os.chmod(cls.path("lib/with a blank"), 0o644)
        cls.make_manifest()

    @classmethod
    def make_manifest(cls):
        made = subprocess.run([f"{harness.ROOT}/deploy/manifest.sh", "", cls.place], check=True,
                              capture_output=True).stdout
        with open(cls.manifest, "wb") as f:
            f.write(made)

    @classmethod
    def path(cls, name):
        return os.path.join(cls.place, name)

    def setUp(self):
        self.install()
        self.assertEqual(self.check(accept=True)["problems"], 0)

    def check(self, accept=False):
        """A check that had to wait for nobody."""
        def done():
            reply = self.admin.put("/system/fim" + ("?accept=true" if accept else ""))
            return None if reply.status == 409 else self.assert_ok(reply).data
        return wait_for("a check of our own", done, 60)

    def problems(self):
        data = self.check()
        self.assertEqual(data["problems"], len(data["findings"]))
        self.assertEqual(data["status"], "insecure" if data["problems"] else "good")
        return sorted((os.path.relpath(f["path"], self.place), f["problem"])
                      for f in data["findings"])

    def told(self):
        reply = self.anyone.post("/auth", {"name": "admin", "password": harness.PASSWORD})
        status = self.assert_ok(reply).data.get("systemIntegrityStatus")
        client = self.anyone.with_token(reply.data["token"])
        self.assert_ok(client.delete("/auth"), 204)
        return status

    def wait_found(self, status):
        """What the security advisor finds; its last scan may be a second old."""
        def found():
            groups = self.assert_ok(self.admin.get("/secadvisor/report")).data
            return {f["id"]: f for f in groups["system"]}["SEC-SYS-09"]["status"] == status
        wait_for(f"SEC-SYS-09 to be {status}", found, 6, 0.1)

    def wait_told(self, status):
        wait_for(f"sign-ins to say {status}", lambda: self.told() == status)

    def test_what_is_as_installed_is_good(self):
        data = self.check()
        self.assertEqual((data["status"], data["problems"], data["findings"]), ("good", 0, []))
        self.assertEqual(data["files"], 3)
        self.assertRegex(data["checkedAt"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
        self.assert_audited("integrityCheck", "3 files checked, 0 problems")
        self.wait_told("good")

    def test_one_changed_byte_of_a_program_is_found_recorded_and_told(self):
        at = os.path.getsize(self.path("authd")) // 2
        with open(self.path("authd"), "r+b") as f:
            f.seek(at)
            byte = f.read(1)
            f.seek(at)
            f.write(bytes([byte[0] ^ 1]))
        self.assertEqual(self.problems(), [("authd", "changed")])
        row = self.assert_audited("integrityFail", self.path("authd"))[-1]
        self.assertEqual((row["eventId"], row["severity"]), ("MT42", "alert"))
        self.assert_audited("integrityCheck", "3 files checked, 1 problem")
        self.wait_told("insecure")
        self.wait_found("fail")
        with open(self.path("authd"), "r+b") as f:
            f.seek(at)
            f.write(byte)
        self.assertEqual(self.problems(), [])
        self.wait_told("good")
        self.wait_found("pass")

    def test_each_kind_of_change_has_its_name(self):
        os.chmod(self.path("auditd"), 0o4755)
        os.unlink(self.path("lib/with a blank"))
        with open(self.path("lib/libc.so"), "w", encoding="ascii") as f:
            f.write("mine")
        os.chmod(self.path("lib"), 0o777)
        os.rename(self.path("authd"), self.fleet.dir + "/authd")
        os.symlink(self.fleet.dir + "/authd", self.path("authd"))
        self.assertEqual(self.problems(), [("auditd", "mode"), ("authd", "kind"), ("lib", "mode"),
                                           ("lib/libc.so", "added"),
                                           ("lib/with a blank", "missing")])

    @harness.unittest.skipIf(os.getuid() != 0, "giving files away needs root")
    def test_a_file_that_belongs_to_somebody_else_is_found(self):
        os.chown(self.path("auditd"), 65534, -1)
        self.assertEqual(self.problems(), [("auditd", "owner")])

    def test_a_pipe_in_the_place_of_a_program_blocks_nobody(self):
        os.unlink(self.path("authd"))
        os.mkfifo(self.path("authd"), 0o755)
        self.assertEqual(self.problems(), [("authd", "kind")])

    def test_a_new_manifest_is_a_finding_until_somebody_accepts_it(self):
        with open(self.path("authd"), "ab") as f:
            f.write(b"new version")
        self.make_manifest()  # as whoever changed the program could
        self.assertEqual(self.problems(), [("MANIFEST", "notAccepted")])
        self.restart("auditd")
        self.assertEqual(self.problems(), [("MANIFEST", "notAccepted")])
        self.wait_told("insecure")
        self.assertEqual(self.check(accept=True)["status"], "good")
        self.assert_audited("integrityCheck", "the manifest was accepted")
        self.restart("auditd")
        self.assertEqual(self.problems(), [])

    def test_a_manifest_that_is_gone_or_none_is_never_accepted(self):
        for text, problem in ((b"", "unusable"), (b"fieldgate-manifest 1\n", "unusable"),
                              (b"fieldgate-manifest 2\nd 755 /tmp\n", "unusable"),
                              (b"fieldgate-manifest 1\nf 755 " + b"0" * 64 + b" /x\nf 755\n", "unusable"),
                              (None, "missing")):
            os.unlink(self.manifest)
            if text is not None:
                with open(self.manifest, "wb") as f:
                    f.write(text)
            for accept in (False, True):
                data = self.check(accept)
                self.assertEqual((data["status"], data["problems"], data["files"]),
                                 ("insecure", 1, 0))
                self.assertEqual(data["findings"], [{"path": self.manifest, "problem": problem}])

        def said():
            return [r["message"] for r in self.audits(names="integrityCheck")
                    if r["message"].startswith("0 files checked, 1 problems")]
        wait_for("the records", lambda: len(said()) == 10)
        self.assertEqual([m for m in said() if "accepted" in m], [])

    def test_many_findings_are_counted_and_the_first_shown(self):
        for i in range(150):
            with open(self.path(f"lib/{i}"), "w", encoding="ascii"):
                pass
        data = self.check()
        self.assertEqual((data["problems"], len(data["findings"])), (150, 100))
        row = wait_for("the record", lambda: [r for r in self.audits(names="integrityFail")
                                              if "150 problems" in r["message"]])[-1]
        self.assertLessEqual(len(row["detail"].encode()), 4096)
        self.assertEqual(harness.json.loads(row["detail"])["problems"], 150)

    def test_a_start_finds_what_changed_meanwhile_and_records_it_once(self):
        before = len(self.audits(names="integrityFail"))
        self.fleet.d["auditd"].stop()
        with open(self.path("authd"), "ab") as f:
            f.write(b"!")
        for _ in range(2):
            self.start("auditd")
            self.wait_told("insecure")
            self.fleet.d["auditd"].stop()
        self.start("auditd")
        wait_for("the record", lambda: len(self.audits(names="integrityFail")) == before + 1)
        self.assertEqual(self.problems(), [("authd", "changed")])

    def test_sign_ins_say_it_right_after_a_start_and_without_auditd(self):
        os.chmod(self.path("auditd"), 0o775)
        self.assertEqual(self.problems(), [("auditd", "mode")])
        self.wait_told("insecure")
        self.kill("auditd")
        self.kill("authd")
        self.start("authd")
        self.assertEqual(self.told(), "insecure")
        self.start("auditd")

    def test_a_check_that_is_asked_for_waits_for_no_gentle_one(self):
        lines = ["fieldgate-manifest 1"]
        for i in range(4000):
            path = self.path(f"lib/{i}")
            with open(path, "w", encoding="ascii") as f:
                f.write("x")
            os.chmod(path, 0o644)
            lines.append(f"f 644 {hashlib.sha256(b'x').hexdigest()} {path}")
        with open(self.manifest, "w", encoding="ascii") as f:
            f.write("\n".join(lines) + "\n")
        self.restart("auditd")  # begins one that leaves the disk to others for 10 ms after each
        began = time.monotonic()
        self.assertEqual(self.check()["files"], 4000)
        self.assertLess(time.monotonic() - began, 30)  # 40 s by pauses alone

    def test_one_check_runs_at_a_time(self):
        refused, end = [], time.monotonic() + 30 * harness.SLOW

        def ask():
            while not refused and time.monotonic() < end:
                reply = self.admin.put("/system/fim")
                if reply.status != 200:
                    refused.append(reply)
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertTrue(refused)
        self.assert_refused(refused[0], 409, word="a check is running already")

    def test_only_who_maintains_the_device_may_check_it(self):
        role = self.admin.post("/roles", {"name": "tags", "permissions": ["SYS_MANAGEMENT_RW"]})
        self.admin.post("/users", {"name": "tess", "password": harness.PASSWORD, "isActive": True,
                                   "roles": [{"id": role.data["id"]}]})
        self.assert_refused(self.sign_in("tess").put("/system/fim"), 403)
        self.assert_refused(self.admin.put("/system/fim?accept=perhaps"), 400)


class Manifest(harness.unittest.TestCase):
    """deploy/manifest.sh: all of it, or none."""

    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="fg-")
        self.addCleanup(shutil.rmtree, self.root)
        os.mkdir(self.root + "/lib")
        os.chmod(self.root + "/lib", 0o755)
        for name in ("lib/a", "lib/ two  blanks ", "lib/back\\slash\\", "z"):
            with open(f"{self.root}/{name}", "w", encoding="ascii") as f:
                f.write("abc")
            os.chmod(f"{self.root}/{name}", 0o4755)

    def run_it(self, *paths):
        return subprocess.run([f"{harness.ROOT}/deploy/manifest.sh", self.root, *paths],
                              capture_output=True, text=True)

    def assert_fails(self, *paths, what):
        done = self.run_it(*paths)
        self.assertNotEqual(done.returncode, 0, done.stdout)
        self.assertIn(what, done.stderr)

    def test_names_are_written_as_they_are(self):
        abc = hashlib.sha256(b"abc").hexdigest()
        done = self.run_it("/lib", "/z")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout, "fieldgate-manifest 1\nd 755 /lib\n" + "".join(
            f"f 4755 {abc} {name}\n" for name in ("/lib/ two  blanks ", "/lib/a", "/lib/back\\slash\\",
                                                  "/z")))

    def test_a_path_that_is_not_there_fails_the_whole(self):
        self.assert_fails("/missing", "/z", what="No such file")
        self.assert_fails("/lib", "/missing", "/z", what="No such file")

    def test_what_a_manifest_cannot_say_fails_the_whole(self):
        os.symlink("a", self.root + "/lib/link")
        self.assert_fails("/lib", what="/lib/link")
        os.unlink(self.root + "/lib/link")
        os.mkfifo(self.root + "/lib/pipe")
        self.assert_fails("/lib", what="/lib/pipe")
        os.unlink(self.root + "/lib/pipe")
        os.mkdir(self.root + "/lib/a\nf 644 b")
        self.assert_fails("/lib", what="line break")


class NoManifest(Suite):
    daemons = ("auditd", "authd", "gateway")

    def test_where_nothing_was_installed_nothing_is_checked_and_sign_ins_say_nothing(self):
        self.assert_refused(self.admin.put("/system/fim"), 404)
        reply = self.anyone.post("/auth", {"name": "admin", "password": harness.PASSWORD})
        self.assertNotIn("systemIntegrityStatus", self.assert_ok(reply).data)
