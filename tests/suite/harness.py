"""Starts the suite (or some daemons of it) on free ports in a temporary
directory and talks to it as a client would.

    class Tags(Suite):
        def test_a_new_device_shows_up_in_the_list(self):
            reply = self.admin.get("/tags/list")

One suite serves all tests of a class. Nothing here sleeps to hope: wait_for()
polls a condition up to a deadline. BUILD names the build tree (build/release).
"""
import base64
import contextlib
import glob
import http.client
import json
import os
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse

import contract

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("BUILD", os.path.join(ROOT, "build", "release"))
VARIANT = os.environ.get("VARIANT", "release")
FAKES = os.path.join(ROOT, "tests", "fakes")
SLOW = {"asan": 3.0, "tsan": 6.0}.get(VARIANT, 1.0)  # what sanitizers cost
# How long is waited for what comes by itself: a busy machine may take its time.
PATIENCE = max(SLOW, 3.0)
# Seconds for what is told at once: between what a busy machine may take and the 2 s, or 5 s,
# after which nobody waits any longer. How fast it really is shows make bench.
AT_ONCE = 1.5 * SLOW
SANITIZED = VARIANT in ("asan", "tsan")

FIRST_PASSWORD = "admin@123"
PASSWORD = "Plant-floor-7"
DAEMONS = ("auditd", "authd", "tagd", "modbusd", "cloudd", "sysd", "iod", "gateway")
# an operation of each daemon that a client may ask at any time
PROBE = {
    "authd": "/users/me",
    "auditd": "/audits?limit=1",
    "tagd": "/tags/list",
    "modbusd": "/modbusmaster/config/tcp-masters",
    "cloudd": "/mqtt",
    "sysd": "/system/httpserver",
    "iod": "/device/serials",
}


class Unanswered(Exception):
    """The connection broke before the answer: the request may have run or not."""


def wait_for(what, condition, timeout=10.0, step=0.02):
    """Polls until condition() is true; returns its value. Fails after timeout."""
    end = time.monotonic() + timeout * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout * PATIENCE:.0f} s in vain for {what}")
        time.sleep(step)


PORTS_GIVEN = set()


def give(port):
    """Is it ours alone, also among the tests that run beside us (tests/run.py)?"""
    if port in PORTS_GIVEN:
        return False
    PORTS_GIVEN.add(port)
    if "PORTS_GIVEN" not in os.environ:
        return True
    try:
        os.close(os.open(os.path.join(os.environ["PORTS_GIVEN"], str(port)),
                         os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def free_port():
    """A port nobody listens on. Outside the range of outgoing connections, so
    that it is still free after a daemon of ours was down for a moment."""
    while True:
        port = 20000 + int.from_bytes(os.urandom(2), "big") % 12000
        if not give(port):
            continue
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def is_open(port):
    """Does anybody listen on that port of this machine?"""
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
        return True
    except ConnectionRefusedError:
        return False


class Reply:
    def __init__(self, status, headers, body, took, request):
        self.status, self.headers, self.body = status, headers, body
        self.took = took  # seconds
        self.request = request

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def data(self):
        return self.json["data"]

    def __repr__(self):
        return f"{self.request}: {self.status} {self.body[:400]!r}"


class Client:
    """Keep-alive connections, one per thread, to one listener."""

    IDLE = 1.0  # the server may close a connection that idled longer

    def __init__(self, suite, tls=False, token=None, carrier="bearer", context=None):
        self.suite, self.tls, self.token, self.carrier = suite, tls, token, carrier
        self.context = context or (insecure_tls() if tls else None)
        self.local = threading.local()

    def with_token(self, token, carrier="bearer"):
        return type(self)(self.suite, self.tls, token, carrier, self.context)

    def connect(self, timeout=30.0):
        if self.tls:
            return http.client.HTTPSConnection("127.0.0.1", self.suite.https_port,
                                               timeout=timeout * PATIENCE, context=self.context)
        return http.client.HTTPConnection("127.0.0.1", self.suite.http_port,
                                          timeout=timeout * PATIENCE)

    def headers(self):
        if not self.token:
            return {}
        if self.carrier == "bearer":
            return {"Authorization": f"Bearer {self.token}"}
        return {"mx-api-token": self.token}

    def close(self):
        conn = getattr(self.local, "conn", None)
        if conn:
            conn.close()
        self.local.conn = None

    def usable(self):
        conn = getattr(self.local, "conn", None)
        if conn is None or conn.sock is None:
            return None
        if time.monotonic() - self.local.used > self.IDLE:
            conn.close()
            return None
        if select.select([conn.sock], [], [], 0)[0]:  # closed from the other side
            conn.close()
            return None
        return conn

    def request(self, method, path, body=None, headers=None, raw=None, base="/api/v1"):
        """body: anything JSON; raw: bytes as they are."""
        send = dict(self.headers())
        if body is not None:
            raw = json.dumps(body).encode()
            send["Content-Type"] = "application/json"
        send.update(headers or {})
        conn = self.usable()
        if conn is None:
            conn = self.local.conn = self.connect()
        began = time.monotonic()
        try:
            conn.request(method, base + path, raw, send)
            got = conn.getresponse()
            data = got.read()
        except (OSError, http.client.HTTPException) as e:
            conn.close()
            self.local.conn = None
            raise Unanswered(f"{method} {path}: {e!r}") from e
        self.local.used = time.monotonic()
        if got.will_close:
            conn.close()
            self.local.conn = None
        if base == "/api/v1":
            self.check(method, path, got, data)
        return Reply(got.status, got.headers, data, self.local.used - began, f"{method} {path}")

    @staticmethod
    def check(method, path, got, data):
        """What openapi.json says of the operation holds for each of its replies."""
        fault = contract.load(BUILD).check(method, path, got.status,
                                           got.headers.get("Content-Type"), data)
        if fault:
            raise AssertionError(fault)

    def get(self, path, **kw):
        return self.request("GET", path, **kw)

    def put(self, path, body=None, **kw):
        return self.request("PUT", path, body, **kw)

    def post(self, path, body=None, **kw):
        return self.request("POST", path, body, **kw)

    def patch(self, path, body=None, **kw):
        return self.request("PATCH", path, body, **kw)

    def delete(self, path, **kw):
        return self.request("DELETE", path, **kw)

    def form(self, method, path, **parts):
        """multipart/form-data; a part is text, or (file name, text)."""
        text = ""
        for name, value in parts.items():
            file = f'; filename="{value[0]}"' if isinstance(value, tuple) else ""
            value = value[1] if isinstance(value, tuple) else value
            text += (f'--B\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
                     f"{value}\r\n")
        return self.request(method, path, raw=(text + "--B--\r\n").encode(),
                            headers={"Content-Type": "multipart/form-data; boundary=B"})

    def stream(self, path, **kw):
        return Stream(self, path, **kw)


class Stream:
    """An event stream read by a thread of its own: .events holds (monotonic
    seconds, parsed data), .ended is None, "clean" or what went wrong."""

    def __init__(self, client, path, keep=200000):
        self.events, self.ended, self.keep = [], None, keep
        self.conn = client.connect()
        self.conn.request("GET", "/api/v1" + path, headers=client.headers())
        self.sock = self.conn.sock  # the response takes it over
        self.reply = self.conn.getresponse()
        self.status = self.reply.status
        self.type = self.reply.headers.get("Content-Type", "")
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.new = threading.Condition()
        if self.status == 200:
            client.check("GET", path, self.reply, b"")
            self.thread.start()
        else:
            self.body = self.reply.read()
            client.check("GET", path, self.reply, self.body)
            self.ended = "refused"

    def read(self):
        try:
            while True:
                line = self.reply.readline()
                if not line:
                    self.ended = "clean" if self.reply.chunk_left in (None, 0) else "cut"
                    break
                if line.startswith(b"data:"):
                    event = (time.monotonic(), json.loads(line[5:]))
                    with self.new:
                        if len(self.events) < self.keep:
                            self.events.append(event)
                        self.new.notify_all()
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as e:
            self.ended = f"broken: {e!r}"
        with self.new:
            self.new.notify_all()

    def wait_event(self, condition, timeout=10.0, since=0):
        """The first event (data) from index since on for which condition holds."""
        end = time.monotonic() + timeout * PATIENCE
        with self.new:
            at = since
            while True:
                while at < len(self.events):
                    if condition(self.events[at][1]):
                        return self.events[at][1]
                    at += 1
                left = end - time.monotonic()
                if left <= 0 or self.ended:
                    raise AssertionError(f"no such event in {len(self.events)} events, "
                                         f"stream {self.ended or 'open'}")
                self.new.wait(left)

    def close(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        if self.thread.is_alive():
            self.thread.join(5)
        self.reply.close()
        self.conn.close()


def insecure_tls():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Daemon:
    """One process of the suite."""

    def __init__(self, fleet, name, argv, env=None):
        self.fleet, self.name, self.argv, self.env = fleet, name, argv, env
        self.process = None
        self.log = os.path.join(fleet.logs, f"{name}.log")
        self.wanted = False

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.argv, stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL, env=self.env,
                                            cwd=self.fleet.dir)
        self.wanted = True
        return self

    @property
    def pid(self):
        return self.process.pid

    def kill(self, sig=signal.SIGKILL):
        self.wanted = False
        if self.process and self.process.poll() is None:
            self.process.send_signal(sig)
        if self.process:
            self.process.wait(timeout=15 * PATIENCE)
        return self.process.returncode if self.process else None

    def stop(self):
        """Asks it to end; kills it after a while. Returns the exit code."""
        self.wanted = False
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10 * PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                return "did not stop in time"
        return self.process.returncode

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def memory_kib(self, key="Rss"):
        with open(f"/proc/{self.pid}/smaps_rollup", encoding="ascii") as f:
            for line in f:
                if line.startswith(key + ":"):
                    return int(line.split()[1])
        raise AssertionError(f"no {key} of {self.name}")

    def cpu_seconds(self):
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))


def sanitizer_env():
    env = dict(os.environ)
    env.setdefault("ASAN_OPTIONS", "abort_on_error=0:exitcode=99:detect_stack_use_after_return=1")
    env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1:exitcode=99")
    env.setdefault("LSAN_OPTIONS",
                   f"suppressions={ROOT}/tests/lsan.supp:print_suppressions=0:exitcode=99")
    env.setdefault("TSAN_OPTIONS",
                   f"suppressions={ROOT}/tests/tsan.supp:exitcode=99:second_deadlock_stack=1")
    return env


def preload(library):
    """LD_PRELOAD for a library of tests/fakes: the sanitizer's own must come first."""
    path = f"{BUILD}/tests/{library}"
    if not SANITIZED:
        return path
    first = subprocess.run(["gcc", f"-print-file-name=lib{VARIANT}.so"], check=True,
                           capture_output=True, text=True).stdout.strip()
    return f"{first}:{path}"


class Fleet:
    """The processes of one test class and where they live."""

    def __init__(self, daemons=DAEMONS, directory=None, env=None, options=None):
        self.own_dir = directory is None
        self.dir = directory or tempfile.mkdtemp(prefix="fg-")
        self.state = os.path.join(self.dir, "state")
        self.run = os.path.join(self.dir, "run")
        self.logs = self.dir
        for d in (self.state, os.path.join(self.run, "bus"), os.path.join(self.run, "spool")):
            os.makedirs(d, mode=0o750, exist_ok=True)
        self.https_port, self.http_port, self.redirect_port = free_port(), free_port(), free_port()
        self.names = [d for d in DAEMONS if d in daemons]
        self.d = {}
        environment = sanitizer_env()
        environment.update(env or {})
        for name in self.names:
            argv = [os.path.join(BUILD, "bin", name), "--profile", "bench", "--state", self.state,
                    "--run", self.run]
            if name == "gateway":
                argv += ["--set", f"https-port={self.https_port}",
                         "--set", f"http-port={self.http_port}",
                         "--set", f"redirect-port={self.redirect_port}"]
            if name == "auditd":
                argv += ["--set", f"log-dir={self.logs}"]
            argv += (options or {}).get(name, [])
            self.d[name] = Daemon(self, name, argv, environment)
        self.others = []

    def start(self):
        for name in self.names:
            self.d[name].start()
        return self

    def wait_ready(self, timeout=20.0):
        def up():
            for name in self.names:
                if not self.d[name].alive():
                    raise AssertionError(f"{name} ended at start:\n{self.tail(name)}")
            try:
                if "authd" not in self.names:
                    return Client(self).get("/auth").status == 401
                # a body that authd refuses: it is there
                return Client(self).post("/auth", {}).status == 400
            except Unanswered:
                return False
        if "gateway" in self.names:
            wait_for("the gateway's first answer", up, timeout)

    def tail(self, name, n=30):
        with contextlib.suppress(FileNotFoundError):
            with open(self.d[name].log, encoding="utf-8",
                      errors="replace") as f:
                return "".join(f.readlines()[-n:])
        return ""

    def stop(self):
        """Ends all in the order of a shutdown; returns complaints."""
        complaints = []
        for name in reversed(self.names):
            was = self.d[name]
            if was.process is None:
                continue
            died = was.wanted and not was.alive()
            code = was.stop()
            if died:
                complaints.append(f"{name} died by itself ({code})")
            elif code not in (0, -signal.SIGKILL):
                complaints.append(f"{name} ended with {code}")
        for process in self.others:
            with contextlib.suppress(OSError):
                process.kill()
            process.wait()
        complaints += self.sanitizer_reports()
        return complaints

    def sanitizer_reports(self):
        found = []
        for log in glob.glob(os.path.join(self.logs, "*.log")):
            with open(log, encoding="utf-8", errors="replace") as f:
                text = f.read()
            for word in ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer",
                         "WARNING: ThreadSanitizer", "runtime error:", "panic:"):
                at = text.find(word)
                if at >= 0:
                    found.append(f"{os.path.basename(log)}: {text[max(0, at - 200):at + 5000]}")
                    break
        return found

    def remove(self):
        if self.own_dir:
            shutil.rmtree(self.dir, ignore_errors=True)

    def spawn(self, argv, **kw):
        """Another process (broker, plant) that ends with the fleet."""
        process = subprocess.Popen(argv, **kw)
        self.others.append(process)
        return process


class Broker:
    """mosquitto of our own: loopback, its own port. With 'keep' it is stopped in
    order and remembers sessions and what waits for them."""

    def __init__(self, fleet, users=None, refuse=False, port=None, keep=False, options=()):
        self.fleet, self.port, self.keep = fleet, port or free_port(), keep
        self.conf = os.path.join(fleet.dir, f"mosquitto-{self.port}.conf")
        lines = [f"listener {self.port} 127.0.0.1", "log_type all",
                 f"log_dest file {self.conf}.log", "max_queued_messages 100000", *options]
        lines += ["persistence true", f"persistence_file mosquitto-{self.port}.db",
                  f"persistence_location {fleet.dir}/"] if keep else ["persistence false"]
        if os.getuid() == 0:
            lines.append("user root")
        if refuse:
            users = {"nobody-knows": "this-password"}
        if users is not None:
            pw = self.conf + ".pw"
            with open(pw, "w", encoding="ascii") as f:
                os.fchmod(f.fileno(), 0o600)
                for name, word in users.items():
                    f.write(f"{name}:{word}\n")
            subprocess.run(["mosquitto_passwd", "-U", pw], check=True, capture_output=True)
            lines += ["allow_anonymous false", f"password_file {pw}"]
        else:
            lines.append("allow_anonymous true")
        with open(self.conf, "w", encoding="ascii") as f:
            f.write("\n".join(lines) + "\n")
        self.process = None

    def start(self):
        binary = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self.process = self.fleet.spawn([binary, "-c", self.conf], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        wait_for("the broker", self.listening)
        return self

    def listening(self):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        return False

    def stop(self):
        if self.keep:
            self.process.terminate()
        else:
            self.process.kill()
        self.process.wait(15 * PATIENCE)


class Subscriber:
    """A paho client that keeps what it receives: .messages of (monotonic s, topic, payload).
    With 'keep' the broker keeps its session while it is not connected."""

    def __init__(self, port, topic="#", qos=1, user=None, password=None, keep=False):
        import paho.mqtt.client as mqtt
        self.messages, self.new = [], threading.Condition()
        self.client = mqtt.Client(client_id=f"watch-{os.getpid()}-{id(self)}",
                                  clean_session=not keep)
        if user:
            self.client.username_pw_set(user, password)
        self.ready = threading.Event()
        self.client.on_connect = lambda c, *a: c.subscribe(topic, qos)
        self.client.on_subscribe = lambda *a: self.ready.set()
        self.client.on_message = self.take
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port, 60)
        self.client.loop_start()
        if not self.ready.wait(10 * PATIENCE):
            raise AssertionError("the subscriber did not get through to the broker")

    def take(self, _client, _user, message):
        with self.new:
            self.messages.append((time.monotonic(), message.topic, message.payload))
            self.new.notify_all()

    def wait_message(self, condition=lambda topic, payload: True, timeout=15.0, since=0):
        end = time.monotonic() + timeout * PATIENCE
        with self.new:
            at = since
            while True:
                while at < len(self.messages):
                    if condition(*self.messages[at][1:]):
                        return self.messages[at]
                    at += 1
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"no such message among {len(self.messages)}")
                self.new.wait(left)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


class Plant:
    """A pymodbus server in a process of its own; registers settable while it runs."""

    program, env = ("/usr/bin/python3", os.path.join(FAKES, "plant_pymodbus.py")), {}

    def __init__(self, fleet, port=None, serial=()):
        """serial: ("rtu" or "ascii", tty) in place of a TCP port."""
        self.port = port or (None if serial else free_port())
        self.where = serial or (str(self.port),)
        self.fleet = fleet
        self.start()

    def start(self):
        with open(os.path.join(self.fleet.dir, f"plant-{self.where[0]}.log"), "ab") as log:
            self.process = self.fleet.spawn(
                [*self.program, *self.where], env={**os.environ, **self.env},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        if self.process.stdout.readline().strip() != "ready":
            raise AssertionError(f"{self.program[-1]} did not start")

    def ask(self, **what):
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def set(self, address, *values, kind="holding"):
        return self.ask(do="set", kind=kind, address=address, values=list(values))

    def get(self, address, count=1, kind="holding"):
        return self.ask(do="get", kind=kind, address=address, count=count)

    def stop(self):
        self.process.kill()
        self.process.wait()


class JsPlant(Plant):
    """The same, of jsmodbus."""

    modules = os.path.join(ROOT, "build", "npm", "node_modules")
    program, env = ("node", os.path.join(FAKES, "plant_jsmodbus.js")), {"NODE_PATH": modules}


def claims(token):
    """The claims of a JWT, unverified."""
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


class Suite(unittest.TestCase):
    """A class of tests against one running suite."""

    daemons = DAEMONS
    daemon_options = None
    maxDiff = 4000
    fleet = None

    @classmethod
    def setUpClass(cls):
        cls.fleet = cls.make_fleet()
        try:
            cls.fleet.start()
            cls.fleet.wait_ready()
            if "authd" in cls.daemons and "gateway" in cls.daemons:
                cls.anyone = Client(cls.fleet)
                cls.admin = cls.sign_in_first_time()
                cls.wait_daemons()
            cls.prepare()
        except BaseException:
            for name in cls.fleet.names:
                sys.stderr.write(f"---- {name}\n{cls.fleet.tail(name)}")
            cls.fleet.stop()
            cls.fleet.remove()
            raise

    @classmethod
    def make_fleet(cls):
        """For a class that wants other directories or options."""
        return Fleet(cls.daemons, options=cls.daemon_options)

    @classmethod
    def prepare(cls):
        """For a class: devices, brokers, once the suite runs."""

    @classmethod
    def tearDownClass(cls):
        complaints = cls.fleet.stop()
        if complaints:
            for name in cls.fleet.names:
                sys.stderr.write(f"---- {name}\n{cls.fleet.tail(name)}")
        cls.fleet.remove()
        if complaints:
            raise AssertionError("\n".join(complaints))

    # ---- sign-in ----

    @classmethod
    def sign_in(cls, name="admin", password=PASSWORD, client=None):
        client = client or Client(cls.fleet)
        reply = client.post("/auth", {"name": name, "password": password})
        if reply.status != 200:
            raise AssertionError(f"sign-in: {reply}")
        return client.with_token(reply.data["token"])

    @classmethod
    def sign_in_first_time(cls):
        """The first password, its forced change, and a session with the new one."""
        first = cls.sign_in(password=FIRST_PASSWORD)
        reply = first.put("/users/me/password", {"newPassword": PASSWORD})
        if reply.status != 200:
            raise AssertionError(f"forced change: {reply}")
        admin = cls.sign_in()
        # tests sign in more often than a person
        admin.put("/sessions/configuration", {"maxCountByUser": 32, "timeoutMin": 1440,
                                              "idleTimeoutMin": 60})
        return admin

    @classmethod
    def wait_daemons(cls, names=None, client=None, timeout=20.0):
        client = client or cls.admin
        for name in names or cls.fleet.names:
            if name in PROBE:
                def answers(path=PROBE[name]):
                    try:
                        return client.get(path).status == 200
                    except Unanswered:
                        return False
                wait_for(f"{name} to answer {PROBE[name]}", answers, timeout)

    # ---- processes ----

    def kill(self, name):
        self.fleet.d[name].kill()

    def start(self, name, wait=True):
        self.fleet.d[name].start()
        if wait:
            if name == "gateway":
                self.fleet.wait_ready()
            else:
                self.wait_daemons([name])

    def restart(self, name, wait=True):
        self.fleet.d[name].stop()
        self.start(name, wait)

    # ---- what the suite tells ----

    @classmethod
    def metrics(cls):
        """{'name{labels}': value}"""
        reply = cls.admin.request("GET", "/metrics", base="")
        if reply.status == 404:
            reply = cls.admin.get("/metrics")
        out = {}
        for line in reply.body.decode().splitlines():
            if line and not line.startswith("#"):
                key, value = line.rsplit(" ", 1)
                out[key] = float(value)
        return out

    @classmethod
    def audits(cls, **query):
        """All rows, oldest first."""
        rows, offset = [], 0
        while True:
            q = urllib.parse.urlencode({"limit": 100, "offset": offset, "order": "id",
                                        "sort": "asc", **query})
            reply = cls.admin.get(f"/audits?{q}")
            if reply.status != 200:
                raise AssertionError(f"{reply}")
            page = reply.data
            rows += page
            offset += len(page)
            if not page or offset >= reply.json["total"]:
                return rows

    # ---- assertions ----

    def assert_ok(self, reply, status=200):
        self.assertEqual(reply.status, status, repr(reply))
        return reply

    def assert_refused(self, reply, status, pointer=None, word=None):
        """A clean refusal: status, the body's own code, and where the fault is."""
        self.assertEqual(reply.status, status, repr(reply))
        self.assertIn("application/json", reply.headers.get("Content-Type", ""), repr(reply))
        error = reply.json["error"]
        self.assertTrue(error["message"], repr(reply))
        if error.get("code", -1) >= 0:  # a limit of the Modbus sections has one of its own
            self.assertEqual(error["code"], status, repr(reply))
        if pointer is not None:
            self.assertIn(pointer, [d.get("pointer") for d in error.get("details", [])],
                          repr(reply))
        if word is not None:
            self.assertIn(word, error["message"], repr(reply))
        return reply

    def assert_audited(self, name, containing="", source="admin", count=None, timeout=10.0):
        """Rows of the event 'name' that hold the text. Waits: delivery follows the answer."""
        def found():
            rows = [r for r in self.audits(names=name)
                    if containing in r["message"] + r["detail"]
                    and (source is None or r["source"] == source)]
            if count is None:
                return rows
            return rows if len(rows) >= count else None
        rows = wait_for(f"an audit record {name} with {containing!r}", found, timeout)
        if count is not None:
            self.assertEqual(len(rows), count, rows)
        return rows

    # ---- Modbus in a few words ----

    @classmethod
    def add_device(cls, name, port, commands, unit=1, **members):
        """commands: [(name, func, address, quantity, interval ms, [tags])], a tag being
        (name, type, offset[, access]). Returns the ids. Not yet applied."""
        def made(path, body):
            reply = cls.admin.post(path, body)
            if reply.status not in (200, 201):
                raise AssertionError(f"{reply}")
            data = reply.data
            return data[0] if isinstance(data, list) else data
        body = {"name": name, "slaveId": unit, **members}
        if "masterSerIfaceId" not in body:
            body = {"masterTcpIfaceId": 1, "slaveIpaddr": "127.0.0.1", "slaveTcpPort": port,
                    **body}
        device = made("/modbusmaster/config/remote-devs", body)["remoteDevId"]
        ids = {"device": device, "commands": [], "tags": []}
        for cname, func, address, quantity, interval, tags in commands:
            if func in (5, 6, 15, 16):
                where = {"writeAddress": address, "writeQuantity": quantity}
            else:
                where = {"readAddress": address, "readQuantity": quantity}
            command = made("/modbusmaster/config/mcmds",
                           {"remoteDevId": device, "name": cname, "func": func,
                            "pollInterval": interval, **where})["mcmdId"]
            ids["commands"].append(command)
            for tag in tags:
                tname, kind, offset = tag[:3]
                access = tag[3] if len(tag) > 3 else ("w" if func in (5, 6, 15, 16) else "r")
                ids["tags"].append(made("/modbusmaster/config/tags",
                                        {"mcmdId": command, "name": tname, "dataType": kind,
                                         "offset": offset, "access": access})["tagId"])
        return ids

    @classmethod
    def set_interface(cls, **members):
        reply = cls.admin.patch("/modbusmaster/config/master-tcp-ifaces/1",
                                {"tcpMasterId": 1, **members})
        if reply.status != 200:
            raise AssertionError(f"{reply}")

    @classmethod
    def apply(cls):
        reply = cls.admin.put("/modbusmaster/control/config/apply")
        if reply.status != 200:
            raise AssertionError(f"{reply}")

    @classmethod
    def values(cls, device, *tags, provider="modbus_tcp_master"):
        """{tag: row} of the last values."""
        query = "?tags=" + ",".join(tags) if tags else ""
        reply = cls.admin.get(f"/tags/monitor/{provider}/{device}{query}")
        if reply.status != 200:
            return {}
        return {row["tagName"]: row for row in reply.data}

    def wait_value(self, device, tag, value, timeout=10.0):
        def there():
            row = self.values(device, tag).get(tag)
            return row if row and row.get("dataValue") == value else None
        return wait_for(f"{device}/{tag} to be {value}", there, timeout)

    def wait_quality(self, device, tag, quality, timeout=10.0):
        if isinstance(quality, str):
            quality = (quality,)
        def there():
            row = self.values(device, tag).get(tag)
            return row if row and row.get("quality") in quality else None
        return wait_for(f"{device}/{tag} to be {'/'.join(quality)}, "
                        f"is {self.values(device, tag)}", there, timeout)

    @classmethod
    def add_mqtt(cls, port, **members):
        """Adds and enables a client; returns its id."""
        before = {c["id"] for c in cls.admin.get("/mqtt").data}
        body = {"enable": True, "server": "127.0.0.1", "port": port, "retryInterval": 10,
                "clientID": f"fg-{port}-{len(before)}"}
        body.update(members)
        reply = cls.admin.post("/mqtt", body)
        if reply.status != 200:
            raise AssertionError(f"{reply}")
        return ({c["id"] for c in reply.data} - before).pop()

    @classmethod
    def add_group(cls, client_id, tags, topic="sample", **members):
        body = {"enable": True, "outputTopic": topic, "tags": tags, "format": "",
                "samplingMode": "allValues", "sendOutThreshold": {"mode": "immediately"}}
        body.update(members)
        reply = cls.admin.post(f"/mqtt/{client_id}/messages", body)
        if reply.status not in (200, 201):
            raise AssertionError(f"{reply}")
        return reply.data


class ShiftedClock:
    """Before Suite: shift() makes the wall clock of daemons jump while they run
    (tests/fakes/clockshift.c)."""

    shifted = 0
    shifted_daemons = None  # all of them

    @classmethod
    def make_fleet(cls):
        fleet = super().make_fleet()
        cls.shift_file = os.path.join(fleet.dir, "shift")
        cls.shift(0)
        for name in cls.shifted_daemons or fleet.names:
            daemon = fleet.d[name]
            daemon.env = {**daemon.env, "LD_PRELOAD": preload("clockshift.so"),
                          "CLOCKSHIFT_FILE": cls.shift_file}
        return fleet

    @classmethod
    def shift(cls, seconds):
        cls.shifted = seconds
        handle = os.open(cls.shift_file, os.O_WRONLY | os.O_CREAT, 0o600)  # never empty once it is there
        os.write(handle, struct.pack("=q", seconds))
        os.close(handle)


class SmallDisk:
    """Before Suite: all state on a tmpfs of a few MiB that fill() fills. The file
    says PRIVATE_MOUNTS = True."""

    MIB = 8

    @classmethod
    def setUpClass(cls):
        if "PRIVATE_MOUNTS" not in os.environ:
            raise unittest.SkipTest("no mount namespace here: run as root, or allow user namespaces")
        cls.base = tempfile.mkdtemp(prefix="fg-")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={cls.MIB}m,mode=755", "tmpfs",
                               cls.base], capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"cannot mount a tmpfs here: {done.stderr}")
        super().setUpClass()

    @classmethod
    def make_fleet(cls):
        fleet = Fleet(cls.daemons, directory=os.path.join(cls.base, "x"))
        fleet.logs = tempfile.mkdtemp(prefix="fg-")  # logs are not state
        for d in fleet.d.values():
            d.log = os.path.join(fleet.logs, f"{d.name}.log")
        return fleet

    def fill(self):
        self.big = os.path.join(self.base, "big")
        with open(self.big, "wb", buffering=0) as f:
            for size in (65536, 4096, 512, 1):
                try:
                    while True:
                        f.write(b"x" * size)
                except OSError:
                    pass
