"""What make install lays out, judged by systemd itself where it is installed."""
import glob
import os
import re
import shutil
import subprocess
import tempfile
import unittest

import harness

TEST_SECONDS = 300
UNITS = "usr/lib/systemd/system"
HELPERS = ("logkeeper",)  # root, started for one request each


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = tempfile.mkdtemp(prefix="fg-root-")
        build = os.path.relpath(harness.BUILD, harness.ROOT)
        done = subprocess.run(["make", "--no-print-directory", "install-files", f"DESTDIR={cls.root}",
                               f"B={build}", f"VARIANT={harness.VARIANT}"], cwd=harness.ROOT,
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(done.stdout + done.stderr)
        # what units name besides ours
        os.makedirs(f"{cls.root}/bin", exist_ok=True)
        os.makedirs(f"{cls.root}/etc", exist_ok=True)
        for name in ("kill", "systemctl", "journalctl", "sleep"):
            shutil.copy(f"/bin/{name}", f"{cls.root}/bin/{name}")
        for name in glob.glob("/usr/lib/systemd/system/*.target") + \
                glob.glob("/usr/lib/systemd/system/*.slice") + \
                ["/usr/lib/systemd/system/systemd-tmpfiles-setup.service",
                 "/usr/lib/systemd/system/systemd-journald.service"]:
            if os.path.exists(name):
                shutil.copy(name, f"{cls.root}/{UNITS}/")
        cls.units = sorted(os.path.basename(u)
                           for u in glob.glob(f"{cls.root}/{UNITS}/fieldgate-*.service"))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.root, ignore_errors=True)

    def analyze(self, *args):
        if not shutil.which("systemd-analyze"):
            self.skipTest("no systemd-analyze here")
        done = subprocess.run(["systemd-analyze", f"--root={self.root}", *args],
                              capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def test_there_is_a_unit_a_user_and_a_program_for_each_daemon(self):
        self.assertEqual(self.units, sorted(f"fieldgate-{d}.service"
                                            for d in (*harness.DAEMONS, *HELPERS)))
        with open(f"{self.root}/usr/lib/sysusers.d/fieldgate.conf", encoding="utf-8") as f:
            users = f.read()
        with open(f"{self.root}/{UNITS}/fieldgate.target", encoding="utf-8") as f:
            target = f.read()
        for d in harness.DAEMONS:
            self.assertIn(f"u fieldgate-{d} ", users.replace("   ", " ").replace("  ", " "))
            self.assertIn(f"fieldgate-{d}.service", target)
            self.assertTrue(os.access(f"{self.root}/usr/lib/fieldgate/{d}", os.X_OK), d)

    def test_whatever_runs_is_in_the_manifest(self):
        with open(f"{self.root}/usr/lib/fieldgate/MANIFEST", encoding="utf-8") as f:
            named = {line.split(" ", 3)[3] for line in f.read().splitlines() if line[0] == "f"
                     and line != "fieldgate-manifest 1"}
        ours = {os.path.join(top, name)[len(self.root):] for top, _, names in os.walk(self.root)
                for name in names if "fieldgate" in os.path.join(top, name)[len(self.root):]}
        # documents are left out: packages compress them
        documents = {p for p in ours if p.startswith("/usr/share/doc/") and "openapi" not in p} | \
            {p for p in ours if p.startswith("/usr/share/man/")}
        self.assertEqual(named, ours - documents - {"/usr/lib/fieldgate/MANIFEST"})

    def test_systemd_finds_nothing_wrong_with_the_units(self):
        code, text = self.analyze("verify", *self.units, "fieldgate.target")
        faults = [line for line in text.splitlines() if "fieldgate" in line]
        self.assertEqual(faults, [], text)
        self.assertEqual(code, 0, text)

    def test_the_exposure_of_each_unit_is_at_most_2(self):
        for unit in self.units:
            code, text = self.analyze("security", "--offline=yes", "--threshold=20", unit)
            level = re.search(r"exposure level for \S+: ([0-9.]+)", text)
            self.assertLessEqual(float(level.group(1)), 2.0, f"{unit}\n{text}")
            self.assertEqual(code, 0, text)

    def test_installed_programs_find_their_libraries(self):
        for d in harness.DAEMONS:
            done = subprocess.run([f"{self.root}/usr/lib/fieldgate/{d}", "--describe"],
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            text = subprocess.run(["ldd", f"{self.root}/usr/lib/fieldgate/{d}"],
                                  capture_output=True, text=True).stdout
            self.assertNotIn("not found", text)
            self.assertNotIn(harness.ROOT, text, "finds a library in the build tree only")

    def test_the_client_has_its_completion_and_its_manual_page(self):
        done = subprocess.run([f"{self.root}/usr/bin/fieldgatectl", "list"], capture_output=True,
                              text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("getUsersMe", done.stdout)
        # where bash-completion and man look
        for path, word in (("bash-completion/completions/fieldgatectl", "complete -F"),
                           ("man/man1/fieldgatectl.1", ".SS getUsersMe")):
            with open(f"{self.root}/usr/share/{path}", encoding="utf-8") as f:
                self.assertIn(word, f.read())

    def test_users_and_directories_can_be_made_from_the_files(self):
        if not shutil.which("systemd-sysusers"):
            self.skipTest("no systemd-sysusers here")
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(f"{root}/etc")
            subprocess.run(["systemd-sysusers", f"--root={root}",
                            f"{harness.ROOT}/systemd/fieldgate.sysusers"], check=True,
                           capture_output=True)
            with open(f"{root}/etc/passwd", encoding="utf-8") as f:
                text = f.read()
            for d in harness.DAEMONS:
                self.assertIn(f"fieldgate-{d}:", text)
