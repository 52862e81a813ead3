"""Daemons that have a user each, as on a device: what one may ask of another
follows from the uid that the kernel reports, whatever the bytes say."""
import json
import os
import shutil
import subprocess
import sys
import time
import unittest

import buspeer
import harness
from harness import Daemon, wait_for

PRIVATE_MOUNTS = True  # a passwd of our own
GROUP = 61000
USERS = {"gateway": 61001, "authd": 61002, "auditd": 61003, "modbusd": 61004}

ASK = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import buspeer
op, kind, body, user = json.loads(sys.argv[3])
who = (buspeer.WHO_USER, 1, 1, 0xFFFF, "admin", "") if user else (buspeer.WHO_DAEMON, 0, 0, 0, "x", "")
reply, = buspeer.Peer(sys.argv[2]).ask(buspeer.request(op, body or b"", kind=kind, who=who,
                                                       query=[("limit", "100")] if user else ()))
print(json.dumps([reply.status, reply.body.decode()]))
"""


def may_become_others():
    with open("/proc/self/uid_map", encoding="ascii") as f:
        return os.getuid() == 0 and int(f.read().split()[2]) > max(USERS.values())


@unittest.skipIf(not may_become_others(), "needs root to become others")
class Callers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # where every user may go, with what they run: a checkout may be closed to them
        cls.dir = cls.logs = "/mnt"
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", cls.dir], check=True)
        shutil.copy(f"{harness.BUILD}/bin/auditd", cls.dir)
        shutil.copy(buspeer.__file__, cls.dir)
        passwd = os.path.join(cls.dir, "passwd")
        with open("/etc/passwd", encoding="utf-8") as f:
            text = f.read()
        with open(passwd, "w", encoding="utf-8") as f:
            f.write(text)
            for name, uid in USERS.items():
                f.write(f"fieldgate-{name}:x:{uid}:{GROUP}::/:/bin/false\n")
        subprocess.run(["mount", "--bind", passwd, "/etc/passwd"], check=True)
        state, run = os.path.join(cls.dir, "state"), os.path.join(cls.dir, "run")
        for d, mode in ((state, 0o770), (run, 0o770), (f"{run}/bus", 0o770), (f"{run}/spool", 0o770)):
            os.mkdir(d)
            os.chown(d, 0, GROUP)
            os.chmod(d, mode)
        cls.path = f"{run}/bus/auditd.rpc"
        cls.auditd = Daemon(cls, "auditd", cls.as_user("auditd") + [
            f"{cls.dir}/auditd", "--profile", "device", "--state", state, "--run", run],
            harness.sanitizer_env()).start()
        wait_for("the socket", lambda: os.path.exists(cls.path))

    @classmethod
    def tearDownClass(cls):
        code = cls.auditd.stop()
        with open(cls.auditd.log, encoding="utf-8") as f:
            text = f.read()
        if code != 0 or "Sanitizer" in text:
            raise AssertionError(f"auditd ended with {code}\n{text}")

    @staticmethod
    def as_user(name):
        return ["setpriv", f"--reuid={USERS[name]}", f"--regid={GROUP}", "--clear-groups"]

    def ask(self, name, op, kind=buspeer.KIND_INTERNAL, body=None, user=False):
        done = subprocess.run(
            self.as_user(name) + [sys.executable, "-c", ASK, self.dir, self.path,
                                  json.dumps([op, kind, body, user])],
            capture_output=True, text=True, timeout=30 * harness.SLOW)
        self.assertEqual(done.returncode, 0, done.stderr)
        status, text = json.loads(done.stdout)
        return status, text

    def append(self, name, store, says, message, seq=1):
        return self.ask(name, buspeer.AUDIT_APPEND, body={
            "store": store, "daemon": says, "records": [{
                "seq": seq, "event": "signIn", "message": message, "detail": "", "source": "x",
                "addr": "", "requestId": "0" * 16, "at": int(time.time() * 1e6)}]})

    def rows(self):
        status, text = self.ask("gateway", buspeer.fnv1a("getAudits"), buspeer.KIND_API, user=True)
        self.assertEqual(status, 200, text)
        return {r["message"]: r for r in json.loads(text)["data"]}

    def test_an_operation_is_for_the_callers_of_its_table(self):
        self.assertEqual(self.ask("modbusd", buspeer.PING)[0], 200)
        self.assertEqual(self.ask("gateway", buspeer.METRICS)[0], 200)
        self.assertEqual(self.ask("modbusd", buspeer.METRICS)[0], 403)
        self.assertEqual(self.ask("modbusd", buspeer.AUTH_CHECK)[0], 403)
        self.assertEqual(self.ask("modbusd", buspeer.INTEGRITY_TOLD)[0], 403)
        self.assertEqual(self.ask("modbusd", buspeer.fnv1a("getAudits"), buspeer.KIND_API,
                                  user=True)[0], 403)

    def test_records_are_those_of_the_daemon_whose_user_brought_them(self):
        store = "ab" * 16
        self.assertEqual(self.append("modbusd", store, "authd", "forged", 1000)[0], 200)
        self.assertEqual(self.rows()["forged"]["daemon"], "modbusd")
        # and cost the one it played no record
        self.assertEqual(self.append("authd", store, "authd", "real"), (200, '{"acked":1}'))
        self.assertEqual(self.rows()["real"]["daemon"], "authd")
