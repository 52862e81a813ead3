"""fieldgatectl as a person and a script use it: the real program, the real suite, terminals."""
import array
import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import tempfile
import termios
import threading
import unittest
import urllib.parse

import contract
import harness
import pki
from harness import Suite, wait_for
from test_streams import WithProvider

TEST_SECONDS = 180
CTL = os.path.join(harness.BUILD, "bin", "fieldgatectl")
P = "modbus_tcp_master"
COMMON = {"--profile", "--url", "--cacert", "--fingerprint", "--raw"}


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, argv, env):
        self.text, self.code = "", None
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(argv[0], argv, env)

    def read(self, timeout=0.05):
        if select.select([self.fd], [], [], timeout)[0]:
            try:
                got = os.read(self.fd, 65536)
            except OSError:  # the last one closed it
                return False
            self.text += got.decode(errors="replace").replace("\r\n", "\n")
            return bool(got)
        return None

    def expect(self, part):
        wait_for(f"{part!r} in {self.text!r}", lambda: self.read() is False or part in self.text)
        assert part in self.text, self.text
        return self

    def type(self, text):
        os.write(self.fd, text.encode())
        return self

    def wait(self):
        wait_for(f"the end after {self.text!r}", lambda: self.read() is False)
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return self


class Program:
    """Runs the program with a home of its own."""

    def make_home(self):
        home = tempfile.mkdtemp(prefix="ctl-")
        self.addCleanup(shutil.rmtree, home, True)
        self.env = {**harness.sanitizer_env(), "XDG_CONFIG_HOME": f"{home}/config", "HOME": home}
        self.home, self.dir = home, f"{home}/config/fieldgate"
        for name in ("FIELDGATE_URL", "FIELDGATE_TOKEN", "FIELDGATE_FINGERPRINT"):
            self.env.pop(name, None)

    def run_ctl(self, *args, code=0, stdin="", **env):
        done = subprocess.run([CTL, *map(str, args)], capture_output=True, text=True, input=stdin,
                              env={**self.env, **env}, timeout=60 * harness.SLOW)
        self.assertEqual(done.returncode, code, f"{args}\n{done.stdout[-2000:]}\n{done.stderr}")
        return done

    def terminal(self, *args, **env):
        return Terminal([CTL, *args], {**self.env, "TERM": "xterm", **env})


class WithSession(Program, Suite):
    """Each test has a home; sign_in_here() begins a session there."""

    @property
    def url(self):
        return f"https://127.0.0.1:{self.fleet.https_port}"

    def certificate(self):
        def ask():
            with contextlib.suppress(OSError):
                return ssl.get_server_certificate(("127.0.0.1", self.fleet.https_port))
        return wait_for("the HTTPS port", ask)

    def fingerprint(self):
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate())).hexdigest().upper()
        return ":".join(digest[i:i + 2] for i in range(0, 64, 2))

    def setUp(self):
        self.make_home()

    def sign_in_here(self, name="admin", password=harness.PASSWORD, *more, code=0):
        return self.run_ctl("sign-in", "--url", self.url, "--fingerprint", self.fingerprint(), name,
                            "--password-stdin", *more, stdin=password + "\n", code=code)

    def profile(self, name="default"):
        with open(f"{self.dir}/{name}.json", encoding="utf-8") as f:
            return json.load(f)

    def sessions(self, name):
        return [s for s in self.admin.get("/sessions").data if s["userName"] == name]

    def new_user(self, name):
        role = self.admin.get("/roles").data[0]["id"]
        self.assert_ok(self.admin.post("/users", {
            "name": name, "password": harness.PASSWORD, "isActive": True,
            "roles": [{"id": role}]}))


class SignIn(WithSession):
    daemons = ("auditd", "authd", "gateway")

    def test_the_fingerprint_is_shown_and_asked_for_once(self):
        t = self.terminal("sign-in", "--url", self.url, "admin")
        t.expect("[y/N]")
        self.assertIn(self.fingerprint(), t.text)
        t.type("y\n").expect("Password of admin: ").type(harness.PASSWORD + "\n").wait()
        self.assertEqual(t.code, 0, t.text)
        self.assertIn("Signed in", t.text)
        self.assertNotIn(harness.PASSWORD, t.text, "the password is shown")
        self.assertEqual(self.profile()["fingerprint"], self.fingerprint())
        self.assertEqual(self.profile()["url"], self.url)
        t = self.terminal("sign-in").expect("Password of admin: ")
        self.assertNotIn("[y/N]", t.text)
        t.type(harness.PASSWORD + "\n").wait()
        self.assertEqual(t.code, 0, t.text)

    def test_the_question_has_its_fingerprint_whatever_becomes_of_stderr(self):
        t = Terminal(["/bin/sh", "-c", f"{CTL} sign-in --url {self.url} admin 2>/dev/null"],
                     {**self.env, "TERM": "xterm"})
        self.assertIn(self.fingerprint(), t.expect("[y/N]").text)
        t.type("n\n").wait()

    def test_a_session_that_cannot_be_kept_is_ended(self):
        self.new_user("short")
        self.sign_in_here("short")
        before = self.profile()
        # room for what is known of the device, but not for a token
        limit = len(json.dumps({**before, "token": ""}))
        done = subprocess.run(
            [CTL, "--profile", "full", "sign-in", "--url", self.url, "--fingerprint",
             self.fingerprint(), "short", "--password-stdin"], input=harness.PASSWORD, env=self.env,
            text=True, capture_output=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        self.assertEqual(done.returncode, 5, done.stderr)
        self.assertNotIn("token", self.profile("full"))
        self.assertEqual(len(self.sessions("short")), 1)
        self.assertEqual(sorted(os.listdir(self.dir)), ["default.json", "full.json"])

    def test_a_password_file_that_nobody_writes_can_be_interrupted(self):
        os.mkfifo(f"{self.home}/fifo")
        process = subprocess.Popen([CTL, "sign-in", "--url", self.url, "--fingerprint",
                                    self.fingerprint(), "admin", "--password-file",
                                    f"{self.home}/fifo"], env=self.env)
        wait_for("the device to be kept", lambda: os.path.exists(f"{self.dir}/default.json"))
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(20), 130)

    def test_who_does_not_trust_sends_nothing_and_keeps_nothing(self):
        for answer in ("n\n", "\n", "\x04"):
            t = self.terminal("sign-in", "--url", self.url, "admin").expect("[y/N]")
            t.type(answer).wait()
            self.assertEqual(t.code, 3, t.text)
            self.assertNotIn("Password", t.text)
            self.assertFalse(os.path.exists(self.dir))

    def test_without_a_terminal_an_unknown_certificate_is_refused(self):
        done = subprocess.run(["setsid", CTL, "sign-in", "--url", self.url, "admin",
                               "--password-stdin"], input=harness.PASSWORD, env=self.env, text=True,
                              capture_output=True, timeout=60)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn(self.fingerprint(), done.stderr)
        done = self.run_ctl("call", "getUsersMe", code=3, FIELDGATE_URL=self.url, FIELDGATE_TOKEN="t")
        self.assertIn("not trusted", done.stderr)

    def test_the_terminal_echoes_again_after_an_interrupted_password(self):
        script = f"trap : INT QUIT; {CTL} sign-in --url {self.url} --fingerprint " \
            f"{self.fingerprint()} admin; echo code $?; stty -a"
        for key, code in (("\x03", 130), ("\x1c", 131)):
            t = Terminal(["/bin/sh", "-c", script], {**self.env, "TERM": "xterm"})
            t.expect("Password of admin: ").type(key).wait()
            self.assertIn(f"code {code}", t.text)
            self.assertRegex(t.text, r"[^-]echo ")

    def test_a_crash_leaves_no_core_with_a_password(self):
        t = self.terminal("sign-in", "--url", self.url, "--fingerprint", self.fingerprint(), "admin")
        t.expect("Password of admin: ")
        self.assertEqual(resource.prlimit(t.pid, resource.RLIMIT_CORE), (0, 0))
        t.type("\x03").wait()

    def test_a_session_is_ended_by_sign_out_and_by_the_next_sign_in(self):
        self.new_user("worker")
        self.admin.get("/users/me")
        self.sign_in_here("worker")
        self.assertEqual(len(self.sessions("worker")), 1)
        self.sign_in_here("worker")
        wait_for("the first session to end", lambda: len(self.sessions("worker")) == 1)
        self.run_ctl("call", "getUsersMe")
        self.run_ctl("sign-out")
        self.assertEqual(self.sessions("worker"), [])
        self.assertNotIn("token", self.profile())
        self.assertEqual(self.profile()["fingerprint"], self.fingerprint())
        self.assertIn("sign-in", self.run_ctl("call", "getUsersMe", code=4).stderr)
        self.run_ctl("sign-out", code=4)
        self.run_ctl("sign-out", "--forget")
        self.assertEqual(os.listdir(self.dir), [])

    def test_an_ended_session_is_told_from_a_refusal(self):
        self.sign_in_here()
        token = self.profile()["token"]
        self.anyone.with_token(token).delete("/auth")
        done = self.run_ctl("call", "getUsersMe", code=4)
        self.assertIn("Sign in again", done.stderr)
        self.run_ctl("sign-out")
        self.assertNotIn("token", self.profile())

    def test_a_wrong_password_is_a_refusal_and_keeps_the_session_there_was(self):
        self.sign_in_here()
        before = self.profile()["token"]
        done = self.sign_in_here(password="Not-the-word-1", code=1)
        self.assertIn("HTTP 401", done.stderr)
        self.assertEqual(self.profile()["token"], before)
        self.run_ctl("sign-in", "--url", f"http://127.0.0.1:{self.fleet.http_port}", "admin",
                     "--password-stdin", stdin="Not-the-word-2\n", code=1)  # as if another device
        self.assertEqual((self.profile()["url"], self.profile()["token"]), (self.url, before))
        self.run_ctl("call", "getUsersMe")

    def test_profiles_are_for_their_owner_only(self):
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        self.sign_in_here()
        path = f"{self.dir}/default.json"
        self.assertEqual(stat.S_IMODE(os.stat(self.dir).st_mode), 0o700)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        self.assertEqual(os.listdir(self.dir), ["default.json"])
        for mode in (0o640, 0o604, 0o620):
            os.chmod(path, mode)
            self.assertIn("not safe", self.run_ctl("call", "getUsersMe", code=5).stderr)
        os.chmod(path, 0o600)
        os.rename(path, f"{self.dir}/other.json")
        os.symlink("other.json", path)
        self.run_ctl("call", "getUsersMe", code=5)
        self.run_ctl("--profile", "other", "call", "getUsersMe")
        self.run_ctl("--profile", "../other", "call", "getUsersMe", code=2)
        if os.getuid() == 0:
            os.chown(f"{self.dir}/other.json", 65534, 65534)
            self.assertIn("not safe",
                          self.run_ctl("--profile", "other", "call", "getUsersMe", code=5).stderr)
        os.chmod(self.dir, 0o777)
        self.assertIn("not safe", self.sign_in_here("admin", harness.PASSWORD, "--profile", "new",
                                                    code=5).stderr)

    def test_several_devices_have_a_profile_each(self):
        self.sign_in_here()
        self.sign_in_here("admin", harness.PASSWORD, "--profile", "hall-2")
        self.assertNotEqual(self.profile()["token"], self.profile("hall-2")["token"])
        self.run_ctl("--profile", "hall-2", "sign-out")
        self.run_ctl("call", "getUsersMe")
        self.run_ctl("--profile", "hall-2", "call", "getUsersMe", code=4)

    def test_a_token_goes_to_its_own_device_only(self):
        self.sign_in_here()
        with socket.create_server(("127.0.0.1", 0)) as other:
            url = f"https://127.0.0.1:{other.getsockname()[1]}"
            self.assertIn("not signed in",
                          self.run_ctl("--url", url, "call", "getUsersMe", code=4).stderr)
            self.run_ctl("call", "getUsersMe", code=4, FIELDGATE_URL=url)
            other.settimeout(0)
            with self.assertRaises(BlockingIOError):
                other.accept()

    def test_scripts_need_no_profile(self):
        here = {"FIELDGATE_URL": self.url + "/", "FIELDGATE_TOKEN": self.admin.token,
                "FIELDGATE_FINGERPRINT": self.fingerprint().replace(":", "").lower()}
        self.assertEqual(json.loads(self.run_ctl("call", "getUsersMe", **here).stdout)["data"]["name"],
                         "admin")
        self.assertFalse(os.path.exists(self.dir))
        self.run_ctl("call", "getUsersMe", HOME="", XDG_CONFIG_HOME="", **here)  # as in cron
        self.run_ctl("sign-in", "admin", "--password-stdin", stdin=harness.PASSWORD, code=5, HOME="",
                     XDG_CONFIG_HOME="", **here)
        self.run_ctl("call", "getUsersMe", "--url", self.url, "--profile", "other", **here)
        here["FIELDGATE_FINGERPRINT"] = "00" * 32
        self.run_ctl("call", "getUsersMe", code=3, **here)
        here["FIELDGATE_FINGERPRINT"] = "00" * 31
        self.run_ctl("call", "getUsersMe", code=2, **here)

    def test_plain_http_is_for_this_computer_only(self):
        here = {"FIELDGATE_TOKEN": self.admin.token}
        self.run_ctl("--url", f"http://127.0.0.1:{self.fleet.http_port}", "call", "getUsersMe", **here)
        for url in ("http://192.0.2.1:59000", "ftp://127.0.0.1", "127.0.0.1", "https://a@127.0.0.1",
                    "https://127.0.0.1/x", "https://127.0.0.1/?q", "http://127.0.0.1.example",
                    "http://127.0.0.1.2", "http://localhost.example", "http://a@127.0.0.1", ""):
            self.run_ctl("--url", url, "call", "getUsersMe", code=2, **here)
        done = self.run_ctl("--url", "https://[fe80::1%25eth0]:443", "call", "getUsersMe", "--dry-run")
        self.assertEqual(done.stdout, "GET https://[fe80::1%25eth0]/api/v1/users/me\n")

    def test_an_option_without_its_text_is_a_fault_and_not_the_device_that_is_remembered(self):
        self.sign_in_here()
        for option, code in (("--url", 2), ("--fingerprint", 2), ("--profile", 2), ("--cacert", 5)):
            self.run_ctl("call", "getUsersMe", option, "", code=code)
        self.run_ctl("call", "getUsersMe", FIELDGATE_URL="", FIELDGATE_TOKEN="",
                     FIELDGATE_FINGERPRINT="")

    def test_an_authority_can_vouch(self):
        path = f"{self.home}/ca.pem"
        with open(path, "w", encoding="ascii") as f:
            f.write(self.certificate())
        self.run_ctl("sign-in", "--url", self.url, "--cacert", path, "admin", "--password-stdin",
                     stdin=harness.PASSWORD)
        self.assertNotIn("fingerprint", self.profile())
        self.run_ctl("call", "getUsersMe")
        # the name counts, too
        done = self.run_ctl("--url", self.url.replace("127.0.0.1", "127.0.0.2"), "--cacert", path,
                            "call", "getUsersMe", code=3, FIELDGATE_TOKEN="t")
        self.assertIn("127.0.0.2", done.stderr)

    def test_what_cannot_be_reached_is_told(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))  # taken, but nobody listens
            done = self.run_ctl("--url", f"https://127.0.0.1:{s.getsockname()[1]}", "call",
                                "getUsersMe", code=3, FIELDGATE_TOKEN="t")
        self.assertIn("cannot reach", done.stderr)


class FirstPassword(WithSession):
    daemons = ("authd", "gateway")

    @classmethod
    def sign_in_first_time(cls):
        """Not yet: a test does."""
        return cls.sign_in(password=harness.FIRST_PASSWORD)

    def test_a_forced_change_of_the_password_is_told_and_done(self):
        done = self.sign_in_here(password=harness.FIRST_PASSWORD)
        self.assertIn("'fieldgatectl password'", done.stderr)
        self.run_ctl("call", "getRoles", code=1)
        for again, code in (("Other-word-77", 2), ("One-word-77", 0)):
            t = self.terminal("password").expect("Current").type("\n")
            t.expect("New password: ").type("One-word-77\n").expect("again: ").type(again + "\n").wait()
            self.assertEqual(t.code, code, t.text)
            self.assertNotIn("word-77", t.text)
        done = self.sign_in_here(password="One-word-77")
        self.assertNotIn("'fieldgatectl password'", done.stderr)
        self.run_ctl("call", "getRoles")
        self.run_ctl("password", "--password-stdin", stdin="One-word-77\nNext-word-77\n")
        path = f"{self.home}/secret"
        with open(path, "w", encoding="ascii") as f:
            f.write("Next-word-77\r\n")
        self.run_ctl("sign-in", "--password-file", path)


class ChangedCertificate(WithSession):
    daemons = ("auditd", "authd", "gateway")

    def test_a_changed_certificate_is_refused_with_both_fingerprints(self):
        self.sign_in_here()
        before = self.fingerprint()
        for directory, _, names in os.walk(self.fleet.state):
            for name in names:
                if name.startswith("thingspro_https_default."):
                    os.unlink(os.path.join(directory, name))
        self.restart("gateway")
        after = self.fingerprint()
        self.assertNotEqual(before, after)
        for args in (("call", "getUsersMe"), ("sign-out",), ("tags", "watch", "a/b"),
                     ("sign-in", "--password-stdin")):
            done = self.run_ctl(*args, code=3, stdin=harness.PASSWORD)
            self.assertIn(before, done.stderr)
            self.assertIn(after, done.stderr)
            self.assertIn("nothing was sent", done.stderr)
        self.sign_in_here()
        self.run_ctl("call", "getUsersMe")


class Call(WithSession):
    @classmethod
    def prepare(cls):
        cls.mqtt = cls.add_mqtt(1, enable=False)

    def setUp(self):
        super().setUp()
        self.sign_in_here()

    def test_an_answer_to_a_pipe_is_what_the_device_sent(self):
        self.assertEqual(self.run_ctl("call", "getRoles").stdout.encode(),
                         self.admin.get("/roles").body)

    def test_an_answer_on_a_terminal_is_laid_out(self):
        t = self.terminal("call", "getRoles").wait()
        self.assertEqual(t.code, 0)
        self.assertEqual(t.text, json.dumps(self.admin.get("/roles").json, indent=2,
                                            ensure_ascii=False) + "\n")
        t = self.terminal("call", "getRoles", "--raw").wait()
        self.assertEqual(t.text, self.admin.get("/roles").body.decode() + "\n")

    def test_bodies_come_from_arguments_files_stdin_and_members(self):
        def body(name):
            return {"name": name, "permissions": ["SYS_MANAGEMENT_RW"], "description": "a \u00e4=\"b"}
        path = f"{self.home}/role.json"
        with open(path, "w", encoding="utf-8") as f:
            json.dump(body("r2"), f)
        self.run_ctl("call", "postRoles", "--body", json.dumps(body("r1")))
        self.run_ctl("call", "postRoles", "--body", "@" + path)
        self.run_ctl("call", "postRoles", "--body", "-", stdin=json.dumps(body("r3")))
        self.run_ctl("call", "postRoles", "--set", "name=r4", "--set",
                     "permissions=SYS_MANAGEMENT_RW", "--set", "description=a \u00e4=\"b")
        found = {r["name"]: r for r in self.admin.get("/roles").data}
        for name in ("r1", "r2", "r3", "r4"):
            self.assertEqual({k: found[name][k] for k in body(name)}, body(name))
        self.assertEqual(self.run_ctl("call", "deleteRole", "--id", found["r4"]["id"]).stdout, "")
        self.run_ctl("call", "deleteRole", f"--id={found['r4']['id']}", code=1)

    def test_members_take_the_types_of_the_contract(self):
        def made(*args, op="putMqttClient", path=("--id", "7")):
            sets = [word for a in args for word in ("--set", a)]
            return json.loads(self.run_ctl("call", op, *path, *sets, "--dry-run")
                              .stdout.split("\n", 1)[1])
        self.assertEqual(made("port=1883", "enable=true", "clientID=5", "willMessage.qos=2",
                              "willMessage.topic=a/b"),
                         {"port": 1883, "enable": True, "clientID": "5",
                          "willMessage": {"qos": 2, "topic": "a/b"}})
        self.assertEqual(made("description=null", "email=a@b.io", op="putUsersMe", path=()),
                         {"description": None, "email": "a@b.io"})
        self.assertEqual(made('roles=[{"id":9007199254740991}]', op="putUser"),
                         {"roles": [{"id": 9007199254740991}]})
        self.assertEqual(made("permissions=A,B", op="putRole"), {"permissions": ["A", "B"]})
        access = ("--provider", "p", "--source", "s", "--tag", "t")
        exact = self.run_ctl("call", "putTagsAccess", *access, "--set",
                             "dataValue=18446744073709551615", "--dry-run").stdout
        self.assertIn('{"dataValue":18446744073709551615}', exact)
        self.assertEqual(made("dataValue=up", op="putTagsAccess", path=access), {"dataValue": "up"})

    def test_what_the_contract_forbids_is_not_sent(self):
        before = len(self.audits())
        for args, word in (
                (["getUsrs"], "getUsers"), (["monitor"], "getTagsMonitor"),
                (["getAudits", "--limit", "0"], "1..2147483647"),
                (["getAudits", "--limit", "5x"], "1..2147483647"),
                (["getAudits", "--sort", "up"], "asc, desc"),
                (["getAudits", "--limt", "5"], "--limit"),
                (["getAudits", "--limit"], "needs a value"),
                (["getAudits", "--limit", "5", "--limit", "6"], "twice"),
                (["getAudits", "word"], "word"),
                (["getAudits", "--names", ",".join("a" * 65)], "0..64"),
                (["getUser"], "--id"), (["getUser", "--id="], "--id"),
                (["getUser", "--id", "1", "--body", "{}"], "no JSON body"),
                (["putUser", "--id", "1"], "needs a body"),
                (["putMqttClient", "--id", "1"], "--set, or a form: "),
                (["postRoles", "--set", "name=x"], "permissions is required"),
                (["postRoles", "--set", "name=a b", "--set", "permissions=X"], "account-name"),
                (["postRoles", "--set", "nam=x"], "permissions"),
                (["postRoles", "--set", "id=5"], "name"),
                (["postRoles", "--set", "name=x", "--set", "name=y"], "twice"),
                (["postRoles", "--set", "name.x=5"], "no members"),
                (["postRoles", "--body", "{"], "no JSON"),
                (["postRoles", "--body", "[]"], "object"),
                (["postRoles", "--body", "@/nowhere"], "/nowhere"),
                (["postMcmds", "--body", "[]"], "1.."),
                (["postMcmds", "--body", '[{"name":"x"}]'], "/0/"),
                (["putMqttClient", "--id", "1", "--set", "port=x"], "1..65535"),
                (["putMqttClient", "--id", "1", "--set", "port=0"], "/port"),
                (["putMqttClient", "--id", "1", "--file", "caPk=@/etc/hostname"], "caPkFile"),
                (["putMqttClient", "--id", "1", "--file", "caPkFile"], "part=@path"),
                (["putMqttClient", "--id", "1", "--file", "caPkFile=@/x", "--set", "port=5"],
                 "not several"),
                (["getUsers", "--file", "a=@b"], "no form")):
            code = 5 if "/nowhere" in args[-1] else 2
            done = self.run_ctl("call", *args, code=code)
            self.assertIn(word, done.stderr, args)
            self.assertEqual(done.stdout, "")
        big = self.run_ctl("call", "postAuth", "--body", "-", stdin="x" * 5000, code=2)
        self.assertIn("larger than the 4096 bytes", big.stderr)
        self.assertEqual(len(self.audits()), before)

    def test_a_refusal_goes_to_stderr_with_its_pointers(self):
        done = self.run_ctl("call", "postRoles", "--set", "name=r", "--set", "permissions=NO_SUCH",
                            code=1)
        self.assertEqual(done.stdout, "")
        self.assertIn("HTTP 400", done.stderr)
        self.assertIn("  /permissions/0", done.stderr)

    def test_a_form_sets_certificates(self):
        key, cert = f"{self.home}/c.key", f"{self.home}/c.crt"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", cert, "-days",
                        "2", "-subj", "/CN=x"], check=True, capture_output=True)
        self.run_ctl("call", "putMqttClient", "--id", self.mqtt, "--file", f"caCertFile=@{cert}",
                     "--file", f"caPkFile={key}")
        found = self.admin.get(f"/mqtt/{self.mqtt}").data["certificate"]
        self.assertEqual((found["caCertFile"], found["caPkFile"]), ("c.crt", "c.key"))
        done = self.run_ctl("call", "putMqttClient", "--id", self.mqtt, "--file",
                            "caCertFile=@/nowhere", code=5)
        self.assertIn("/nowhere", done.stderr)

    def test_a_modbus_configuration_goes_out_as_a_file_and_comes_in_again(self):
        path = f"{self.home}/plant.csv"
        self.run_ctl("call", "exportMasters", "-o", path)
        done = self.run_ctl("call", "importMasters", "--file", f"mastersFile=@{path}")
        self.assertEqual(json.loads(done.stdout)["count"], 1)
        with open(path, "a", encoding="ascii") as f:
            f.write("no,row\r\n")
        done = self.run_ctl("call", "importMasters", "--file", f"mastersFile=@{path}", code=1)
        self.assertIn("Fail to parse line", done.stderr)

    def test_a_file_appears_when_it_is_whole(self):
        path = f"{self.home}/roles.json"
        with open(path, "w", encoding="ascii") as f:
            f.write("before")
        self.run_ctl("call", "getRole", "--id", "9999999", "-o", path, code=1)
        with open(path, encoding="ascii") as f:
            self.assertEqual(f.read(), "before")
        self.run_ctl("call", "getRoles", "-o", path)
        with open(path, "rb") as f:
            self.assertEqual(f.read(), self.admin.get("/roles").body)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o644)
        os.chmod(path, 0o600)
        self.run_ctl("call", "getRoles", "-o", path)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        self.run_ctl("call", "getRoles", "-o", f"{self.home}/no/such", code=5)
        self.run_ctl("call", "getRoles", "-o", "/dev/full", code=5)
        self.run_ctl("call", "getRoles", "-o", "/dev/null")
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/null").st_mode))
        self.assertEqual(sorted(os.listdir(self.home)), ["config", "roles.json"])

    def test_a_reader_that_leaves_ends_it_quietly_and_a_full_disk_is_told(self):
        r, w = os.pipe()
        os.close(r)
        done = subprocess.run([CTL, "call", "getRoles"], stdout=w, stderr=subprocess.PIPE,
                              env=self.env, timeout=60)
        os.close(w)
        self.assertEqual((done.returncode, done.stderr), (-signal.SIGPIPE, b""))
        with open("/dev/full", "wb") as full:
            done = subprocess.run([CTL, "call", "getRoles"], stdout=full, stderr=subprocess.PIPE,
                                  env=self.env, timeout=60, text=True)
        self.assertEqual(done.returncode, 5)
        self.assertIn("No space left", done.stderr)

    def test_an_event_stream_is_printed_as_it_comes(self):
        process = subprocess.Popen([CTL, "call", "getAudits", "--monitor"], env=self.env,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        got, names = b"", itertools.count()

        def seen():
            nonlocal got
            self.admin.post("/roles", {"name": f"seen{next(names)}",
                                       "permissions": ["SYS_MANAGEMENT_RW"]})
            if select.select([process.stdout], [], [], 0.2)[0]:
                got += os.read(process.stdout.fileno(), 65536)
            return b"seen" in got
        wait_for("the event", seen)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        self.assertEqual((process.returncode, err), (0, b""))
        for line in (got + out).decode().splitlines():
            self.assertRegex(line, r"^((data|id|event):.*|:.*|)$")

    def test_the_audit_log_knows_who_called(self):
        self.run_ctl("call", "postRoles", "--set", "name=byctl", "--set",
                     "permissions=SYS_MANAGEMENT_RW")
        rows = wait_for("the record", lambda: [r for r in self.audits() if "byctl" in json.dumps(r)])
        self.assertEqual({r["source"] for r in rows}, {"admin"})


class AuditVerify(WithSession):
    daemons = ("auditd", "authd", "gateway")

    def test_the_chain_of_the_audit_log_is_checked_and_its_head_kept(self):
        self.sign_in_here()
        wait_for("records", lambda: len(self.audits()) > 2)
        line = self.run_ctl("audit", "verify").stdout
        found = re.fullmatch(r"(\d+) records, ids (\d+)\.\.(\d+), chain good; "
                             r"head (\d+):([0-9A-F]{64}) \(keep it, and check with --since\)\n", line)
        self.assertTrue(found, line)
        self.assertEqual(found[3], found[4])
        head = f"{found[4]}:{found[5]}"
        self.run_ctl("call", "postRoles", "--set", "name=later", "--set",
                     "permissions=SYS_MANAGEMENT_RW")
        wait_for("the next record", lambda: len(self.audits()) > int(found[1]))
        self.assertIn("chain good", self.run_ctl("audit", "verify", "--since", head).stdout)
        # what was noted is not what the device has now: its log was made anew
        done = self.run_ctl("audit", "verify", "--since", f"{found[4]}:{'0' * 64}", code=1)
        self.assertIn("not as it was written", done.stderr)
        self.assertEqual(done.stdout, "")
        self.run_ctl("audit", "verify", "--since", f"99999999:{found[5]}", code=1)
        for since in ("5", "x:00", ":00", "0:00"):
            self.run_ctl("audit", "verify", "--since", since, code=2)


class EveryOperation(Program, unittest.TestCase):
    """The contract and the program agree, without a device."""

    @classmethod
    def setUpClass(cls):
        cls.api = contract.load(harness.BUILD)

    def setUp(self):
        self.make_home()

    def sample(self, spec):
        if spec.get("type") == "array":
            return ",".join([self.sample(spec["items"])] * max(1, spec.get("minItems", 0)))
        if "enum" in spec:
            return str(spec["enum"][-1])
        if spec.get("type") == "boolean":
            return "true"
        if spec.get("type") in ("integer", "number"):
            return str(spec.get("maximum", spec.get("minimum", 1)))
        plain = {"tag-name": "a.b~c-d_e", "modbus-name": "a.b~c-d_e"}.get(spec.get("format"), "Ab1")
        made = (plain if "format" in spec else "a /?&%#\u00e4+=") * 40
        return {"host": "127.0.0.1", "uuid": "0" * 8 + "-0000" * 3 + "-" + "0" * 12,
                "ipv4": "127.0.0.1", "email": "a@b.io"}.get(
                    spec.get("format"), made[:max(spec.get("minLength", 0), 9)])

    def body(self, schema, whole):
        """Something that the schema takes: its required members."""
        schema = self.api.resolve(schema)
        if "oneOf" in schema:
            return self.body(schema["oneOf"][0], whole)
        out = {}
        for name, spec in schema.get("properties", {}).items():
            spec = {**self.api.resolve(spec), **{k: v for k, v in spec.items() if k != "$ref"}}
            if name in schema.get("required", []) and whole and not spec.get("readOnly"):
                out[name] = self.value(spec)
        return out

    def value(self, spec):
        spec = self.api.resolve(spec)
        kind = spec.get("type")
        kind = kind[0] if isinstance(kind, list) else kind
        if "properties" in spec:
            return self.body(spec, True)
        if kind == "array":
            return [self.value(spec["items"])] * spec.get("minItems", 0)
        if kind == "boolean":
            return True
        if kind in ("integer", "number") or kind is None:
            return spec.get("enum", [spec.get("minimum", 1)])[0]
        return self.sample(spec)

    def expected(self, op, given):
        path, query = op.path, []
        for p in op.spec.get("parameters", []):
            value = given[p["name"]]
            if p["in"] == "path":
                path = path.replace("{%s}" % p["name"], urllib.parse.quote(value, safe="~"))
            else:
                query.append(f"{p['name']}={urllib.parse.quote(value, safe='~,')}")
        return f"{op.method} /api/v1{path}" + ("?" + "&".join(query) if query else "")

    def test_each_is_called_with_the_method_the_url_and_the_body_of_the_contract(self):
        for op in self.api.operations:
            given = {p["name"]: self.sample(p["schema"]) for p in op.spec.get("parameters", [])}
            words = [w for name, value in given.items() for w in (f"--{name}", value)]
            content = op.spec.get("requestBody", {}).get("content", {})
            if "application/json" in content:
                body = self.body(content["application/json"]["schema"], True)
                done = self.run_ctl("call", op.name, *words, "--body", json.dumps(body), "--dry-run")
                self.assertEqual(done.stdout, f"{self.expected(op, given)}\n{json.dumps(body)}\n")
            if "multipart/form-data" in content:
                parts = sorted(content["multipart/form-data"]["schema"]["properties"])
                form = [w for part in parts for w in ("--file", f"{part}=@/x")]
                done = self.run_ctl("call", op.name, *words, *form, "--dry-run")
                self.assertEqual(done.stdout, self.expected(op, given) + "\n"
                                 + "".join(f"{part}=@/x\n" for part in parts))
            if not content:
                done = self.run_ctl("call", op.name, *words, "--dry-run")
                self.assertEqual(done.stdout, self.expected(op, given) + "\n")
        self.assertGreater(len(self.api.operations), 80)

    def test_each_is_listed_and_has_its_help_and_its_place_in_the_manual(self):
        listed = self.run_ctl("list").stdout
        with open(f"{harness.BUILD}/gen/fieldgatectl.1", encoding="ascii") as f:
            manual = f.read()
        for op in self.api.operations:
            self.assertRegex(listed, rf"(?m)^  {op.name} +{op.method} +{re.escape(op.path)}$")
            text = self.run_ctl("help", op.name).stdout
            self.assertIn(f".SS {op.name}\n", manual)
            self.assertIn(op.spec["x-permission"], text.replace("any signed-in account, also", "self")
                          .replace("any signed-in account", "token").replace("none, not", "open"))
            for p in op.spec.get("parameters", []):
                self.assertIn(f"  --{p['name']}: ", text)
                if "maximum" in p["schema"]:
                    self.assertIn(f"{p['schema']['minimum']}..{p['schema']['maximum']}", text)

    def test_words_that_are_none_are_refused(self):
        for args in ((), ("caal",), ("call",), ("--color",), ("list", "roles", "x"),
                     ("list", "no such section"), ("help", "nothing-like-it"), ("tags",),
                     ("tags", "follow"), ("audit",), ("audit", "verify", "--since"),
                     ("sign-in", "a", "b"), ("sign-in", "--password", "x"), ("--raw=5", "list"),
                     ("tags", "watch", "a"), ("tags", "watch", "a/b/c/d"),
                     ("tags", "watch", "--changed", "--interval", "5")):
            self.run_ctl(*args, code=2, FIELDGATE_URL="https://127.0.0.1:1", FIELDGATE_TOKEN="t")
        self.assertIn("usage:", self.run_ctl("--help").stdout)
        self.assertIn("usage:", self.run_ctl("sign-in", "--help").stdout)
        self.assertIn("--limit", self.run_ctl("call", "getAudits", "--help").stdout)
        self.assertRegex(self.run_ctl("--version").stdout, r"^fieldgatectl [0-9.]+\n$")

    def test_the_manual_has_no_fault(self):
        path = f"{harness.BUILD}/gen/fieldgatectl.1"
        for argv in (["groff", "-ww", "-man", "-Tutf8", path], ["man", "--warnings", "-l", path]):
            done = subprocess.run(argv, capture_output=True, text=True, env={
                **os.environ, "MANPAGER": "cat", "LC_ALL": "C.UTF-8", "MANWIDTH": "100"})
            self.assertEqual((done.returncode, done.stderr), (0, ""), argv)
        self.assertIn("getAudits", done.stdout)


class Device(threading.Thread):
    """An evil or broken device: answers each request on plain HTTP with the same bytes."""

    def __init__(self, answer):
        super().__init__(daemon=True)
        self.answer, self.requests = answer, []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.start()

    def run(self):
        while True:
            try:
                conn, _ = self.socket.accept()
            except OSError:
                return
            with conn, contextlib.suppress(OSError):
                self.requests.append(conn.recv(65536))
                for piece in self.answer if not isinstance(self.answer, bytes) else [self.answer]:
                    conn.sendall(piece)

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def reply(body, kind="application/json", status="200 OK", length=None):
    return (f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: "
            f"{len(body) if length is None else length}\r\nConnection: close\r\n\r\n").encode() + body


class BrokenDevices(Program, unittest.TestCase):
    def setUp(self):
        self.make_home()

    def device(self, answer):
        device = Device(answer)
        self.addCleanup(device.close)
        self.env.update(FIELDGATE_URL=device.url, FIELDGATE_TOKEN="t")
        return device

    def test_an_answer_cannot_steer_the_terminal(self):
        evil = "a\x1b[2J\x1b]0;x\x07\x7f\x9b31m\u202e\r\x08b"
        self.device(reply(b'{"data":[{"name":"' + evil.encode() + b'\xff\xc0"}]}'))
        t = self.terminal("call", "getRoles").wait()
        self.assertEqual(t.code, 0, t.text)
        self.assertEqual(re.findall(r"[^\n\x20-\x7e\ufffd]", t.text), [])
        self.assertIn("a\\u001b[2J", t.text)
        self.device(reply(json.dumps({"error": {"message": evil, "details": [
            {"pointer": "/" + evil, "message": evil}]}}).encode(), status="400 Bad"))
        t = self.terminal("call", "getRoles").wait()
        self.assertEqual(t.code, 1, t.text)
        self.assertEqual(re.findall(r"[^\n\x20-\x7e\ufffd]", t.text), [])
        self.device(reply(f"data:{evil}\n\n".encode(), "text/event-stream"))
        t = self.terminal("call", "getAudits", "--monitor").wait()
        self.assertEqual(re.findall(r"[^\n\x20-\x7e\ufffd]", t.text), [])

    def test_binary_goes_to_a_file_and_to_a_pipe_but_to_no_terminal(self):
        blob = bytes(range(256)) * 100
        self.device(reply(blob, "application/octet-stream"))
        t = self.terminal("call", "getRoles").wait()
        self.assertEqual(t.code, 2)
        self.assertIn("-o FILE", t.text)
        done = subprocess.run([CTL, "call", "getRoles"], capture_output=True, env=self.env)
        self.assertEqual((done.returncode, done.stdout), (0, blob))
        self.run_ctl("call", "getRoles", "-o", f"{self.home}/x")
        with open(f"{self.home}/x", "rb") as f:
            self.assertEqual(f.read(), blob)

    def test_a_truncated_answer_is_a_fault_and_leaves_no_file(self):
        self.device(reply(b"x" * 5000, "application/octet-stream", length=6000))
        done = self.run_ctl("call", "getRoles", "-o", f"{self.home}/x", code=3)
        self.assertIn("cut off", done.stderr)
        self.assertEqual(os.listdir(self.home), [])
        chunked = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" \
            b"Transfer-Encoding: chunked\r\n\r\n5\r\n[1,2,\r\n"
        self.device(chunked)
        self.run_ctl("call", "getRoles", "-o", f"{self.home}/x", code=3)
        self.assertEqual(os.listdir(self.home), [])
        self.device(b"")
        self.run_ctl("call", "getRoles", code=3)

    def test_a_file_that_cannot_take_all_is_told_and_taken_away(self):
        self.device(reply(b"x" * 100000, "application/octet-stream"))
        done = subprocess.run(
            [CTL, "call", "getRoles", "-o", f"{self.home}/x"], env=self.env, capture_output=True,
            text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)))
        self.assertEqual(done.returncode, 5, done.stderr)
        self.assertIn(f"cannot write {self.home}/x", done.stderr)
        self.assertEqual(os.listdir(self.home), [])

    def test_an_interrupted_download_leaves_no_file(self):
        self.stop = threading.Event()
        self.addCleanup(self.stop.set)

        def slowly():
            yield reply(b"x" * 5000, "application/octet-stream", length=6000)
            self.stop.wait(60)
        self.device(slowly())
        process = subprocess.Popen([CTL, "call", "getRoles", "-o", f"{self.home}/x"], env=self.env)
        wait_for("the beginning", lambda: os.listdir(self.home))
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(20), 130)
        self.assertEqual(os.listdir(self.home), [])

    def test_who_writes_to_a_pipe_that_nobody_reads_can_be_interrupted(self):
        self.device(reply(b"x" * 1000000, "text/plain"))
        process = subprocess.Popen([CTL, "call", "getRoles"], env=self.env, stdout=subprocess.PIPE)
        wait_for("a full pipe", lambda: self.waiting_bytes(process.stdout) >= 60000)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(20), 130)
        process.stdout.close()

    @staticmethod
    def waiting_bytes(pipe):
        n = array.array("i", [0])
        fcntl.ioctl(pipe.fileno(), termios.FIONREAD, n)
        return n[0]

    def test_a_large_answer_takes_little_memory(self):
        n = 300 * 1000

        def rows():
            body = b'{"name":"' + b"x" * 200 + b'"},'
            yield reply(b"", length=n * len(body))
            for _ in range(n // 1000):
                yield body * 1000
        self.device(rows())
        with open(os.devnull, "wb") as null:
            process = subprocess.Popen([CTL, "call", "getRoles"], env=self.env, stdout=null)
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, 0)
        if not harness.SANITIZED:
            self.assertLess(used.ru_maxrss, 40000, "KiB")
        print(f"{used.ru_maxrss} KiB at most, {used.ru_utime + used.ru_stime:.2f} s of CPU for "
              f"{n * 212 / 1e6:.0f} MB", flush=True)

    def test_a_redirection_is_not_followed(self):
        other = Device(reply(b"{}"))
        self.addCleanup(other.close)
        self.device(f"HTTP/1.1 302 Found\r\nLocation: {other.url}/\r\nContent-Length: 0\r\n\r\n"
                    .encode())
        self.run_ctl("call", "getRoles", code=1)
        self.assertEqual(other.requests, [])

    def test_an_event_without_end_is_given_up(self):
        def forever():
            yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
            while True:
                yield b"data:" + b"x" * 65536
        self.device(forever())
        done = self.run_ctl("tags", "watch", "a/b", code=3)
        self.assertIn("larger than", done.stderr)

    def test_requests_say_who_asks_and_no_more_than_needed(self):
        device = self.device(reply(b"{}"))
        self.run_ctl("call", "applyMasterConfig")
        head = device.requests[0].decode().lower()
        self.assertIn("authorization: bearer t\r\n", head)
        self.assertIn("content-length: 0\r\n", head)
        self.assertNotIn("expect:", head)
        self.assertNotIn("content-type:", head)


    def test_a_long_refusal_is_told_whole(self):
        self.device(reply(json.dumps({"error": {"message": "\x01" * 10000 + "end"}}).encode(),
                          status="400 Bad"))
        said = self.run_ctl("call", "getRoles", code=1).stderr
        self.assertEqual(said[-27:], "\\u0001\\u0001end (HTTP 400)\n")

    def test_a_terminal_without_utf_8_gets_ascii_only(self):
        # \u0142 is C5 82 in UTF-8, \u015b C5 9B: 9B alone is CSI for such a terminal
        body = reply('{"data":"\u0142\u015b2J\U0001f600"}'.encode() + b"\xff")
        self.device(body)
        t = self.terminal("call", "getRoles", LC_ALL="C").wait()
        self.assertIn("\\u0142\\u015b2J\\U0001f600", t.text)
        self.assertTrue(t.text.isascii(), t.text)
        t = self.terminal("call", "getRoles", LC_ALL="C.UTF-8").wait()
        self.assertIn("\u0142\u015b2J\U0001f600", t.text)
        done = subprocess.run([CTL, "call", "getRoles"], capture_output=True,
                              env={**self.env, "LC_ALL": "C"})
        self.assertEqual(done.stdout, body[-len(done.stdout):], "a pipe gets what was sent")
        self.device(reply('{"error":{"message":"\u015b2J"}}'.encode(), status="400 Bad"))
        self.assertTrue(self.terminal("call", "getRoles", LC_ALL="C").wait().text.isascii())

    def test_a_proxy_gets_no_token_and_plain_http_has_none(self):
        proxy = Device(b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n")
        self.addCleanup(proxy.close)
        where = {name: proxy.url for name in ("http_proxy", "https_proxy", "ALL_PROXY")}
        self.run_ctl("call", "getRoles", code=3, **where, FIELDGATE_URL="https://192.0.2.1",
                     FIELDGATE_TOKEN="of-the-device")
        wait_for("the proxy", lambda: proxy.requests)
        self.assertIn(b"CONNECT 192.0.2.1:443 ", proxy.requests[0])
        self.assertNotIn(b"of-the-device", b"".join(proxy.requests))
        n = len(proxy.requests)
        device = self.device(reply(b"{}"))
        self.run_ctl("call", "getRoles", **where)
        self.assertEqual((len(device.requests), len(proxy.requests)), (1, n))

    def test_a_stream_that_breaks_before_its_first_event_is_made_again(self):
        self.device(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                    b"Transfer-Encoding: chunked\r\n\r\n")
        process = subprocess.Popen([CTL, "tags", "watch", "a/b"], env=self.env, text=True,
                                   stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        self.assertIn("a/b: lost (", process.stderr.readline())
        self.assertIn("a/b: connected again after ", process.stderr.readline())
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        self.assertEqual(process.returncode, 0)


class SwappedDevice(threading.Thread):
    """Shows one certificate to the first client and others to those after, and what they say."""

    def __init__(self, home):
        super().__init__(daemon=True)
        self.contexts, self.said = [], []
        for i in range(2):
            key = pki.key()
            path = f"{home}/{i}.pem"
            with open(path, "w", encoding="ascii") as f:
                f.write(pki.cert("127.0.0.1", key) + key)
            self.contexts.append(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            self.contexts[i].load_cert_chain(path)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self.socket.getsockname()[1]}"
        self.start()

    def run(self):
        for context in self.contexts:
            conn, _ = self.socket.accept()
            with contextlib.suppress(OSError), context.wrap_socket(conn, server_side=True) as tls:
                self.said.append(tls.recv(65536))
        self.said.append(b"the end")


class SwappedCertificate(Program, unittest.TestCase):
    def test_the_certificate_that_was_shown_is_the_one_that_gets_the_password(self):
        self.make_home()
        device = SwappedDevice(self.home)
        self.addCleanup(device.socket.close)
        t = self.terminal("sign-in", "--url", device.url, "admin").expect("[y/N]").type("y\n")
        t.expect("Password of admin: ").type("Some-word-1\n").wait()
        self.assertEqual(t.code, 3, t.text)
        self.assertIn("is not the one that is trusted; nothing was sent", t.text)
        wait_for("both connections", lambda: device.said[-1:] == [b"the end"])
        self.assertEqual(device.said, [b"the end"], "something was sent before there was trust")


class Watch(WithSession, WithProvider):
    daemons = WithProvider.daemons

    def follow(self, *args):
        process = subprocess.Popen([CTL, "tags", "watch", *args], env=self.env, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.lines, process.said = [], []
        for stream, into in ((process.stdout, process.lines), (process.stderr, process.said)):
            threading.Thread(target=lambda s=stream, i=into: [i.append(line) for line in s],
                             daemon=True).start()
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def values(self, process, tag):
        return [line.split("\t")[2] for line in process.lines if f"/{tag}\t" in line]

    def test_changes_are_seen_line_by_line_until_ctrl_c(self):
        self.sign_in_here()
        self.provide(3, 50)
        wait_for("the tags", lambda: self.lists(7))
        process = self.follow(f"{P}/fake/t0", f"{P}/fake/big")
        wait_for("updates", lambda: len(self.values(process, "t0")) > 15)
        got = [int(v) for v in self.values(process, "t0")][-5:]
        self.assertEqual(got, list(range(got[0], got[0] + 5)))
        self.assertIn("18446744073709551615", self.values(process, "big"))
        self.assertEqual(self.values(process, "t1"), [])
        self.assert_ok(self.admin.put(f"/tags/access/{P}/fake/big", {"dataValue": 5}))
        wait_for("what was written", lambda: "5" in self.values(process, "big"))
        line = next(line for line in process.lines if "/big\t5\t" in line)
        self.assertRegex(line, rf"^20\d\d-\d\d-\d\dT[\d:]{{8}}\.\d{{3}}Z\t{P}/fake/big\t5\tgood\tl/s\n$")
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(20), 0)
        self.assertEqual(process.said, [])

    def test_an_interval_and_all_sources_and_json(self):
        self.sign_in_here()
        self.provide(3)
        wait_for("the tags", lambda: self.lists(7))
        process = self.follow("--interval", "100", "--json")
        wait_for("rounds", lambda: len(process.lines) > 20)
        rows = [json.loads(line) for line in process.lines[:20]]
        self.assertEqual({r["srcName"] for r in rows}, {"fake"})
        self.assertIn("t2", {r["tagName"] for r in rows})
        self.run_ctl("tags", "watch", "--interval", "99", code=2)

    def test_a_lost_connection_is_told_and_made_again(self):
        self.sign_in_here()
        self.provide(2, 50)
        wait_for("the tags", lambda: self.lists(6))
        process = self.follow(f"{P}/fake/t0")
        wait_for("updates", lambda: self.values(process, "t0"))
        self.kill("gateway")
        wait_for("the notice", lambda: any("lost" in s for s in process.said))
        self.start("gateway")
        wait_for("the stream again", lambda: any("connected again" in s for s in process.said), 40)
        n = len(process.lines)
        wait_for("updates again", lambda: len(process.lines) > n)
        # signed out: there is nothing to come back to
        self.anyone.with_token(self.profile()["token"]).delete("/auth")
        self.assertEqual(process.wait(30 * harness.SLOW), 4)

    def test_what_cannot_be_followed_is_told_at_once(self):
        self.sign_in_here()
        self.assertIn("127.0.0.1:1", self.run_ctl("tags", "watch", "a/b", code=3,
                                                  FIELDGATE_URL="https://127.0.0.1:1",
                                                  FIELDGATE_TOKEN="t").stderr)
        self.run_ctl("tags", "watch", "a/b", code=4, FIELDGATE_TOKEN="no-token")
        self.run_ctl("tags", "watch", "a/b c", code=2)


class Completion(Program, unittest.TestCase):
    """The completion in a real bash, asked as bash asks it."""

    def setUp(self):
        self.make_home()

    def complete(self, *words):
        """What bash would offer for the last word."""
        script = f"source {harness.BUILD}/gen/fieldgatectl.bash\n" + r"""
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            _fieldgatectl fieldgatectl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
            printf '%s\n' "${COMPREPLY[@]}" """
        done = subprocess.run(["bash", "-u", "-c", script, "bash", "fieldgatectl", *words],
                              capture_output=True, text=True, env=self.env, cwd=self.home)
        self.assertEqual((done.returncode, done.stderr), (0, ""), words)
        return done.stdout.split("\n")[:-1]

    def test_commands_operations_parameters_and_values(self):
        api = contract.load(harness.BUILD)
        self.assertIn("sign-in", self.complete(""))
        self.assertEqual(self.complete("ca"), ["call"])
        self.assertEqual(sorted(self.complete("call", "")), sorted(o.name for o in api.operations))
        self.assertEqual(set(self.complete("help", "getAudits")),
                         {o.name for o in api.operations if o.name.startswith("getAudits")})
        for op in api.operations:
            options = self.complete("call", op.name, "--")
            for p in op.spec.get("parameters", []):
                self.assertIn(f"--{p['name']}", options)
            self.assertEqual("application/json" in op.spec.get("requestBody", {}).get("content", {}),
                             "--set" in options, op.name)
        self.assertEqual(self.complete("call", "getAudits", "--sort", ""), ["asc", "desc"])
        self.assertEqual(self.complete("call", "getAudits", "--limit", "5", "--sort", "d"), ["desc"])
        self.assertEqual(self.complete("call", "getAudits", "--limit", ""), [""])
        self.assertEqual(self.complete("call", "postRoles", "--set", "na"), ["name="])
        self.assertIn("caPkFile=", self.complete("call", "putMqttClient", "--file", ""))
        self.assertEqual(self.complete("list", "aud"), ["audit\\ log"])
        self.assertEqual(self.complete("tags", "w"), ["watch"])
        self.assertEqual(self.complete("--profile", "x", "audit", ""), ["verify"])

    def test_options_of_all_commands_come_behind_the_operation_too(self):
        self.assertLessEqual(COMMON, set(self.complete("call", "getRoles", "--")))

    def test_nothing_in_a_name_is_expanded(self):
        os.makedirs(self.dir)
        for name in ("$(touch pwned).json", "a b.json", "*.json", "hall.json"):
            open(f"{self.dir}/{name}", "w", encoding="ascii").close()
        for name in ("f*", "f1", "f2"):
            open(f"{self.home}/{name}", "w", encoding="ascii").close()
        self.assertEqual(self.complete("--profile", ""), ["hall"])
        self.assertEqual(sorted(self.complete("call", "getRoles", "-o", "f")), ["f*", "f1", "f2"])
        self.assertEqual(sorted(os.listdir(self.home)), ["config", "f*", "f1", "f2"])

    def test_files_and_profiles(self):
        open(f"{self.home}/some file", "w", encoding="ascii").close()
        os.makedirs(self.dir)
        open(f"{self.dir}/hall.json", "w", encoding="ascii").close()
        self.assertEqual(self.complete("call", "getRoles", "-o", "so"), ["some file"])
        self.assertEqual(self.complete("call", "postRoles", "--body", "@so"), ["@some file"])
        self.assertEqual(self.complete("call", "putMqttClient", "--file", "caPkFile", "=", "@so"),
                         ["@some file"])
        self.assertEqual(self.complete("--profile", ""), ["hall"])
        self.assertEqual(set(self.complete("sign-out", "--")), COMMON | {"--forget"})
