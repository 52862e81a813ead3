"""make run, and the walk of README.md exactly as it is printed there."""
import io
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import unittest
import zipfile

import harness
from harness import free_port, wait_for

TEST_SECONDS = 360


class Run:
    """deploy/run.sh on ports of ours: by default with what is built already."""

    def __init__(self, state, ports, argv=(f"{harness.ROOT}/deploy/run.sh",), cwd=harness.ROOT,
                 **env):
        env = env or {"BUILD": os.path.relpath(harness.BUILD, harness.ROOT), "MAKE": "true"}
        env = dict(os.environ, STATE=state, **env, **{k: str(v) for k, v in ports.items()})
        env["XDG_RUNTIME_DIR"] = "/run/user/of-somebody-else"  # as after su
        self.lines = []
        self.process = subprocess.Popen(argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, start_new_session=True)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def text(self):
        return "".join(self.lines)

    def wait(self, word, timeout=30):
        def there():
            if self.process.poll() is not None:
                raise AssertionError(f"run.sh ended: {self.text}")
            return word in self.text
        wait_for(f"{word!r} in {self.text}", there, timeout)

    def stop(self):
        """Ctrl-C in its terminal: all of its process group is told."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(60)
        self.thread.join(5)
        return self.process.returncode


PORTS = ("HTTPS_PORT", "HTTP_PORT", "REDIRECT_PORT", "MQTT_PORT", "PLANT_PORT")


class MakeRun(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="fg-")
        cls.ports = {n: free_port() for n in PORTS}
        cls.state = os.path.join(cls.dir, "state")
        cls.run_ = None

    def setUp(self):
        self.r = Run(self.state, self.ports)
        self.addCleanup(lambda: self.r.process.poll() is None and self.r.stop())
        self.r.wait("Ctrl-C stops everything")

    def processes(self):
        out = subprocess.run(["pgrep", "-fa", self.state], capture_output=True, text=True).stdout
        return [line for line in out.splitlines() if "run.sh" not in line and "pgrep" not in line]

    def walk(self):
        """The shell blocks of README.md's walk and of the PLC on the desk, which is the demo
        plant here, with our ports; their outputs."""
        with open(f"{harness.ROOT}/README.md", encoding="utf-8") as f:
            text = f.read()
        text = text[text.index("## The walk"):text.index("## Map of the code")]
        blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
        self.assertEqual(len(blocks), 8)
        blocks.insert(6, blocks.pop().replace("192.168.1.20 PORT=502 UNIT=1",
                                              "127.0.0.1 PORT=15020 UNIT=2"))
        script = ""
        for block in blocks:
            block = block.replace("$PWD/build/release", harness.BUILD)
            for old, name in (("59000", "HTTP_PORT"), ("18830", "MQTT_PORT"),
                              ("15020", "PLANT_PORT")):
                block = block.replace(old, str(self.ports[name]))
            script += re.sub(r"-C \d", r"\g<0> -W 20", block) + "\necho; echo '@@@@'\n"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True,
                              timeout=120 * harness.SLOW)
        return done.stdout.split("@@@@")

    def test_1_the_walk_of_the_readme_works_word_for_word(self):
        for name in PORTS:
            self.assertIn(str(self.ports[name]), self.r.text)
        out = self.walk()
        self.assertNotIn('"error"', "".join(out[:7]))
        self.assertIn('"name":"admin"', out[0])
        self.assertIn('"plant"', out[1])
        self.assertIn('"tagName":"flow"', out[2])
        self.assertGreaterEqual(out[2].count("data:{"), 4, out[2])
        self.assertIn('"dataValue":42', out[2])
        self.assertEqual(out[3].count('"flow"') + out[3].count('"level"') >= 3, True, out[3])
        for event in ("signIn", "passwordChange", "modbusMasterUpdate", "modbusMasterApply",
                      "tagWrite", "mqttClientUpdate", "mqttMessageGroupUpdate"):
            self.assertIn(event, out[4])
        self.assertIn('"name":"admin"', out[5])
        self.assertRegex(out[5], r"\d+ records, ids 1\.\.\d+, chain good")
        self.assertIn("POST /api/v1/users", out[5])
        self.assertIn('"holding_t10"', out[6])
        self.assertIn('"status":"OK"', out[6])
        self.assertRegex(out[6], r'"plc":\{"holding_t[12]":\{"values"')
        self.assertIn("authentication required", out[7])
        # what dies is started again, with a line that says so
        pid = next(p for p in self.processes() if "/tagd " in p).split()[0]
        os.kill(int(pid), signal.SIGKILL)
        self.r.wait("tagd ended")
        wait_for("tagd back", lambda: any("/tagd " in p for p in self.processes()), 15)
        self.assertEqual(self.r.stop(), 0)
        self.assertEqual(self.processes(), [])

    def test_2_a_second_start_carries_on(self):
        class Fleet:
            http_port = self.ports["HTTP_PORT"]
        client = harness.Client(Fleet)
        reply = wait_for("sign-in", lambda: next(
            (r for r in [client.post("/auth", {"name": "admin", "password": "Plant-floor-7"})]
             if r.status == 200), None))
        client = client.with_token(reply.data["token"])
        wait_for("the tags of before", lambda: (r := client.get("/tags/list")).status == 200
                 and [t for t in r.data if t["tagName"] == "flow"])
        self.assertEqual(client.get("/tags/list").headers["X-Fieldgate-Profile"], "bench")
        # what runs is what was built, and all of it has a log
        self.assertEqual(reply.data["systemIntegrityStatus"], "good")
        logs = zipfile.ZipFile(io.BytesIO(client.get("/system/log?download=true").body))
        self.assertLessEqual({"mosquitto.log", "demoplant.log", "auditd.log", "gateway.log"},
                             set(logs.namelist()))
        # and it says where HTTPS is now
        port = free_port()
        reply = client.put("/system/httpserver", {"httpsPort": port, "redirectToHttps": False})
        self.assertEqual(reply.status, 200)
        self.assertIn(f":{self.ports['REDIRECT_PORT']} leads there", self.r.text)
        self.assertEqual(self.r.stop(), 0)
        self.r = Run(self.state, self.ports)
        self.r.wait("Ctrl-C stops everything")
        self.assertEqual(len(re.findall(rf"https://[^ /]+:{port}/api/", self.r.text)), 2)
        self.assertNotIn(str(self.ports["REDIRECT_PORT"]), self.r.text)
        # the gateway answers, sysd's line to it may come up a moment later: 503 till then
        wait_for("the port of before", lambda: client.put(
            "/system/httpserver", {"httpsPort": self.ports["HTTPS_PORT"]}).status == 200)

    def test_3_a_port_in_use_and_a_second_run_are_told_plainly(self):
        other = subprocess.run([f"{harness.ROOT}/deploy/run.sh"], capture_output=True, text=True,
                               env=dict(os.environ, STATE=self.state + "2", MAKE="true",
                                        BUILD=os.path.relpath(harness.BUILD, harness.ROOT),
                                        **{k: str(v) for k, v in self.ports.items()}))
        self.assertNotEqual(other.returncode, 0)
        self.assertIn("in use", other.stderr)
        other = subprocess.run([f"{harness.ROOT}/deploy/run.sh"], capture_output=True, text=True,
                               env=dict(os.environ, STATE=self.state, MAKE="true",
                                        BUILD=os.path.relpath(harness.BUILD, harness.ROOT)))
        self.assertNotEqual(other.returncode, 0)
        self.assertIn("another run uses", other.stderr)


class FirstBuild(unittest.TestCase):
    def test_a_blank_in_the_state_directory_is_told_plainly(self):
        done = subprocess.run([f"{harness.ROOT}/deploy/run.sh"], capture_output=True, text=True,
                              env=dict(os.environ, STATE="/tmp/a b", MAKE="false"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("there is a blank in '/tmp/a b'", done.stderr)

    def test_in_a_fresh_clone_the_output_of_the_build_is_kept_and_its_end_shown(self):
        with tempfile.TemporaryDirectory(prefix="fg-") as fresh:
            build = os.path.join(fresh, "build", "release")
            make = os.path.join(fresh, "make")
            with open(make, "w", encoding="utf-8") as f:
                f.write("#!/bin/sh\necho the compiler says no\nexit 1\n")
            os.chmod(make, 0o755)
            done = subprocess.run([f"{harness.ROOT}/deploy/run.sh"], capture_output=True, text=True,
                                  env=dict(os.environ, BUILD=build, MAKE=make,
                                           STATE=os.path.join(fresh, "state")))
            self.assertEqual(done.returncode, 1)
            self.assertIn("the compiler says no\nrun: the build failed", done.stderr)
            with open(f"{build}.log", encoding="utf-8") as f:
                self.assertIn("says no", f.read())


if harness.VARIANT == "release":  # it builds by itself, the same in every variant
    class FreshCopy(unittest.TestCase):
        def test_make_run_needs_nothing_but_the_sources(self):
            with tempfile.TemporaryDirectory(prefix="fg-") as top:
                copy = os.path.join(top, "fieldgate")
                shutil.copytree(harness.ROOT, copy, ignore=shutil.ignore_patterns(
                    "build", "state", ".git", "__pycache__"))
                r = Run(os.path.join(copy, "state"), {n: free_port() for n in PORTS},
                        ("make", "run"), copy, BUILD="build/release", MAKEFLAGS="")
                self.addCleanup(lambda: r.process.poll() is None and r.stop())
                r.wait("Ctrl-C stops everything", 300)
                r.stop()
                self.assertIn("run: stopped; state is in", r.text)
                self.assertTrue(os.path.exists(f"{copy}/build/release/bin/gateway"))
