"""A whole machine: systemd boots the installed units, as on a device.

The machine is this one's root below an overlay in memory, with what make
install lays out, booted by systemd-nspawn with a network of its own. The
checks run inside (machine_inside.py); each is a test here.
"""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import unittest

import harness
import machine_inside
from harness import wait_for

TEST_SECONDS = 240
COST = 99  # runs alone: it measures time
PRIVATE_MOUNTS = True  # run.py gives us a mount namespace: the overlay is seen by nobody else
UNIT = """[Unit]
Requires=basic.target
After=basic.target
[Service]
Type=oneshot
Environment=BUILD=/try/build
ExecStart=/usr/bin/python3 /try/suite/machine_inside.py /try/out {phase}
ExecStopPost=/bin/systemctl --no-block poweroff
StandardOutput=append:/try/log
StandardError=append:/try/log
"""


class Machine(unittest.TestCase):
    process = None

    @classmethod
    def setUpClass(cls):
        if os.getuid() != 0:
            raise unittest.SkipTest("booting a machine needs root")
        if "PRIVATE_MOUNTS" not in os.environ:
            raise unittest.SkipTest("run by tests/run.py only: it mounts")
        cls.top = tempfile.mkdtemp(prefix="fg-")
        cls.mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", cls.top)
        cls.mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")  # nspawn keeps things there
        cls.root = os.path.join(cls.top, "root")
        for d in ("up", "work", "root"):
            os.mkdir(os.path.join(cls.top, d))
        cls.mount("-t", "overlay", "-o", f"lowerdir=/,upperdir={cls.top}/up,workdir={cls.top}/work",
                  "overlay", cls.root)
        subprocess.run(["make", "--no-print-directory", "install-files", f"DESTDIR={cls.root}",
                        f"B={os.path.relpath(harness.BUILD, harness.ROOT)}"], check=True,
                       cwd=harness.ROOT, capture_output=True, text=True)
        shutil.rmtree(f"{cls.root}/var/lib/fieldgate", ignore_errors=True)
        shutil.copytree(f"{harness.ROOT}/tests/suite", f"{cls.root}/try/suite")
        os.makedirs(f"{cls.root}/try/build/gen")
        shutil.copy(f"{harness.BUILD}/gen/openapi.json", f"{cls.root}/try/build/gen/")
        cls.results = {}
        cls.boot("1")
        wait_for(f"the checks to end; {cls.told()}", lambda: os.path.exists(cls.answered())
                 and os.path.getsize(cls.answered()) > 1000 or cls.over(), 200)
        if not os.path.exists(f"{cls.root}/try/out"):
            raise AssertionError(f"the machine did not boot:\n{cls.told()}")
        cls.pull_the_plug()
        cls.boot("2")
        wait_for(f"the second life to end; {cls.told()}", cls.over, 100)
        cls.pull_the_plug()
        with open(f"{cls.root}/try/out", encoding="utf-8") as f:
            for line in f:
                result = json.loads(line)
                cls.results[result["check"]] = result["fault"]

    @classmethod
    def mount(cls, *args):
        done = subprocess.run(["mount", *args], capture_output=True, text=True)
        if done.returncode != 0:
            raise unittest.SkipTest(f"no overlay can be mounted here: {done.stderr}")

    @classmethod
    def boot(cls, phase):
        with open(f"{cls.root}/etc/systemd/system/try.service", "w", encoding="ascii") as f:
            f.write(UNIT.format(phase=phase))
        with open(f"{cls.top}/console", "ab") as console:
            cls.process = subprocess.Popen(
                ["systemd-nspawn", "-q", "-D", cls.root, "-b", "--register=no", "--keep-unit",
                 "--private-network", "--resolv-conf=off", "--timezone=off", "--",
                 "--unit=try.service"], stdin=subprocess.DEVNULL, stdout=console, stderr=console)

    @classmethod
    def answered(cls):
        return f"{cls.root}{machine_inside.ANSWERED}"

    @classmethod
    def over(cls):
        return cls.process.poll() is not None

    @classmethod
    def told(cls):
        text = ""
        for name in (f"{cls.top}/console", f"{cls.root}/try/log"):
            if os.path.exists(name):
                with open(name, encoding="utf-8", errors="replace") as f:
                    text += f.read()[-2000:]
        return text

    @classmethod
    def pull_the_plug(cls):
        """All processes of the machine die at once, with the first of its namespace."""
        if cls.process is None:
            return
        pid = cls.process.pid
        if cls.process.poll() is None:
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
                for child in f.read().split():
                    os.kill(int(child), signal.SIGKILL)
        cls.process.wait(30)

    @classmethod
    def tearDownClass(cls):
        cls.pull_the_plug()
        if hasattr(cls, "top"):
            print(cls.told()[-1500:])
            for path in (cls.root, cls.top):
                subprocess.run(["umount", "-l", path], capture_output=True)
            shutil.rmtree(cls.top, ignore_errors=True)


def add_test(name):
    def test(self):
        self.assertIn(name, self.results, f"it was not reached\n{self.told()}")
        self.assertIsNone(self.results[name], self.results[name])
    setattr(Machine, f"test_{name}", test)


for check in machine_inside.Inside.FIRST + machine_inside.Inside.SECOND:
    add_test(check.__name__)
if harness.VARIANT != "release":
    del Machine  # sanitizers do not live in the sandboxes of the units
