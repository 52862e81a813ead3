"""logkeeper, which is root on a device: it does what it may be asked, and nothing else."""
import os
import shutil
import subprocess
import tempfile
import unittest

import harness

CHANGED, UNCHANGED, FAILED = 0, 1, 255


class Logkeeper(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="fg-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.request, self.drop_in = (os.path.join(self.dir, n) for n in ("limits", "drop.conf"))

    def ask(self, text):
        with open(self.request, "wb") as f:
            f.write(text)
        return self.run_it()

    def run_it(self):
        done = subprocess.run([f"{harness.BUILD}/bin/logkeeper", self.request, self.drop_in],
                              capture_output=True, text=True, timeout=30,
                              env=harness.sanitizer_env())
        self.assertFalse(os.path.lexists(self.request), "a request is taken, whatever it says")
        return done.returncode

    def written(self):
        with open(self.drop_in, encoding="ascii") as f:
            return f.read()

    def test_a_request_becomes_a_drop_in_once(self):
        self.assertEqual(self.ask(b"megabytes 20\ndays 0\n"), CHANGED)
        self.assertIn("\n[Journal]\nStorage=persistent\nSystemMaxUse=20M\nMaxRetentionSec=0\n",
                      self.written())
        self.assertEqual(self.ask(b"megabytes 20\ndays 0\n"), UNCHANGED)
        self.assertEqual(self.ask(b"megabytes 4096\ndays 30\n"), CHANGED)
        self.assertIn("SystemMaxUse=4096M\nMaxRetentionSec=30day\n", self.written())
        self.assertEqual(os.listdir(self.dir), ["drop.conf"])

    def test_without_a_request_nothing_is_done(self):
        self.assertEqual(self.run_it(), UNCHANGED)
        self.assertEqual(os.listdir(self.dir), [])

    def test_what_is_no_request_changes_nothing(self):
        self.assertEqual(self.ask(b"megabytes 20\ndays 1\n"), CHANGED)
        before = self.written()
        for text in (b"", b"\n", b"megabytes 20\n", b"days 1\nmegabytes 20\n",
                     b"megabytes 0\ndays 1\n", b"megabytes 4097\ndays 1\n",
                     b"megabytes 20\ndays 31\n", b"megabytes -1\ndays 1\n",
                     b"megabytes 20\ndays 1", b"megabytes 20\ndays 1\nforward yes\n",
                     b"megabytes 20M\ndays 1\n", b"megabytes 20\ndays 1\nx\0",
                     b"megabytes 20\ndays 1 \n", b"megabytes 20\0\ndays 1\n",
                     b"megabytes 20\ndays 1\n" + b"\n" * 1000, b"\xff" * 5000):
            self.assertEqual(self.ask(text), FAILED, text)
            self.assertEqual(self.written(), before)

    def test_what_is_no_file_is_not_read(self):
        with open(self.dir + "/secret", "wb") as f:
            f.write(b"megabytes 20\ndays 1\n")
        os.symlink(self.dir + "/secret", self.request)
        self.assertEqual(self.run_it(), FAILED)
        os.mkfifo(self.request)
        self.assertEqual(self.run_it(), FAILED)
        os.mkdir(self.request)
        self.assertEqual(self.run_it(), FAILED)
        os.mkdir(self.request)
        os.mkdir(self.request + "/full")  # what no unlink takes away
        self.assertEqual(self.run_it(), FAILED)
        self.assertFalse(os.path.exists(self.drop_in))

    def test_a_full_disk_leaves_the_old_drop_in(self):
        self.assertEqual(self.ask(b"megabytes 20\ndays 1\n"), CHANGED)
        before = self.written()
        with open(self.request, "wb") as f:
            f.write(b"megabytes 30\ndays 1\n")
        done = subprocess.run(["sh", "-c", f"ulimit -f 0; trap '' XFSZ; exec {harness.BUILD}/bin/"
                               f"logkeeper {self.request} {self.drop_in}"], capture_output=True,
                              text=True, env=harness.sanitizer_env())
        self.assertEqual(done.returncode, FAILED, done.stderr)
        self.assertEqual(self.written(), before)
        self.assertEqual(os.listdir(self.dir), ["drop.conf"])
