"""One daemon in a directory of its own, driven over the bus by peers that are
not ours. Stand-ins for the daemons that it asks are made in prepare().
"""
import json
import struct
import threading
import time
import unittest

import buspeer
import harness
from buspeer import Peer, Server, request
from harness import Fleet, wait_for

ALL_RIGHTS = 0x3FF
ADMIN = (buspeer.WHO_USER, 1, 1, ALL_RIGHTS, "admin", "192.0.2.7")
GUEST = (buspeer.WHO_USER, 2, 2, 0, "guest", "192.0.2.8")
NOBODY = (buspeer.WHO_NOBODY, 0, 0, 0, "", "192.0.2.9")


class OneDaemon(unittest.TestCase):
    name = ""
    options = ()
    fleet = None
    maxDiff = 4000

    @classmethod
    def setUpClass(cls):
        cls.fleet = Fleet((cls.name,), options={cls.name: list(cls.options)})
        cls.daemon = cls.fleet.d[cls.name]
        cls.path = cls.socket(cls.name)
        cls.stand_ins = []
        try:
            cls.prepare()
            cls.fleet.start()
            cls.wait_up()
            cls.begin()
        except BaseException:
            print(cls.fleet.tail(cls.name))
            cls.end()
            raise

    @classmethod
    def tearDownClass(cls):
        complaints = cls.end()
        if complaints:
            print(cls.fleet.tail(cls.name))
            raise AssertionError("\n".join(complaints))

    @classmethod
    def end(cls):
        complaints = cls.fleet.stop()
        for s in cls.stand_ins:
            s.stop()
        cls.fleet.remove()
        return complaints

    @classmethod
    def prepare(cls):
        """For a class: what must be there before the daemon."""

    @classmethod
    def begin(cls):
        """For a class: once the daemon serves."""

    # ---- its life ----

    @classmethod
    def wait_up(cls):
        def answers():
            if not cls.daemon.alive():
                raise AssertionError(f"{cls.name} ended:\n{cls.fleet.tail(cls.name)}")
            try:
                p = Peer(cls.path, 1)
            except OSError:
                return False
            try:
                return p.ask(request(buspeer.PING))[0].status == 200
            except OSError:
                return False
            finally:
                p.close()
        wait_for(f"{cls.name} to serve", answers)

    @classmethod
    def start_again(cls):
        cls.daemon.start()
        cls.wait_up()

    @classmethod
    def kill_and_start(cls):
        cls.daemon.kill()
        cls.start_again()

    @classmethod
    def socket(cls, name, kind="rpc"):
        return f"{cls.fleet.run}/bus/{name}.{kind}"

    @classmethod
    def stand_in(cls, name, handler):
        """Takes the place of the daemon 'name'."""
        server = Server(cls.socket(name), handler)
        cls.stand_ins.append(server)
        return server

    @classmethod
    def fake_auditd(cls):
        audit = FakeAuditd()
        audit.server = cls.stand_in("auditd", audit)
        return audit

    def assert_stops_in_order(self, seconds=8):
        """With whatever is under way now; starts it again."""
        began = time.monotonic()
        self.assertEqual(self.daemon.stop(), 0)
        self.assertLess(time.monotonic() - began, seconds * harness.SLOW)
        self.start_again()

    # ---- asking ----

    def peer(self, timeout=5.0):
        p = Peer(self.path, timeout * harness.SLOW)
        self.addCleanup(p.close)
        return p

    @classmethod
    def call(cls, operation, body=b"", who=ADMIN, timeout=15.0, **more):
        """One operation of the REST API, as the gateway would ask for it."""
        p = Peer(cls.path, timeout * harness.SLOW)
        try:
            return p.ask(request(buspeer.fnv1a(operation), body, buspeer.KIND_API, who=who,
                                 **more))[0]
        finally:
            p.close()

    @classmethod
    def done(cls, operation, body=b"", status=200, **more):
        """The same; it must succeed. Returns the data of the answer."""
        got = cls.call(operation, body, **more)
        if got.status != status:
            raise AssertionError(f"{operation}: {got.status} {got.body!r}")
        return got.json.get("data") if got.body else None

    @classmethod
    def tell(cls, op, body=b"", **more):
        """One operation between daemons."""
        p = Peer(cls.path, 15 * harness.SLOW)
        try:
            return p.ask(request(op, body, **more))[0]
        finally:
            p.close()

    @classmethod
    def metric(cls, name):
        """The sum over its labels."""
        rows = [line.rsplit(" ", 1) for line in
                cls.tell(buspeer.METRICS).body.decode().splitlines()]
        found = [float(value) for key, value in rows
                 if key.split("{")[0] == name and not key.startswith("#")]
        if not found:
            raise AssertionError(f"no metric {name}")
        return sum(found)

    # ---- event streams ----

    def stream_of(self, got):
        """The id of the stream that an answer opened."""
        self.assertEqual((got.status, got.body_kind), (200, buspeer.STREAM), got.body)
        return struct.unpack(">Q", got.body)[0]

    @classmethod
    def next_of(cls, stream, kind=buspeer.KIND_STREAM_NEXT, seconds=5.0, who=ADMIN):
        return cls.tell(0, kind=kind, id_=stream, who=who,
                        deadline_us=int((time.monotonic() + seconds) * 1e6))

    def events(self, stream, n=1):
        """At least the next n."""
        out = []

        def gathered():
            got = self.next_of(stream)
            self.assertEqual(got.status, 200)
            out.extend(json.loads(line[5:]) for line in got.body.decode().split("\n")
                       if line.startswith("data:"))
            return len(out) >= n
        wait_for(f"{n} events", gathered)
        return out

    def alive(self):
        self.assertTrue(self.daemon.alive())
        self.assertEqual(self.peer().ask(request(buspeer.PING))[0].status, 200)


class FakeAuditd:
    """Handler of a stand-in that keeps records as auditd would, or not at all.

    .mode is what happens to the next AUDIT_APPEND: take, refuse (500), stall
    (never answered), swallow (kept, but the connection dies before the answer),
    or bytes: nothing is kept, and these are the body of the answer.
    """

    def __init__(self):
        self.mode, self.server = "take", None
        self.kept, self.last, self.repeats, self.tries = [], {}, 0, 0
        self.lock = threading.Lock()

    def __call__(self, r):
        if r.op != buspeer.AUDIT_APPEND:
            return buspeer.reply(r.id, 404)
        with self.lock:
            self.tries += 1
            mode = self.mode
            if mode == "refuse":
                return buspeer.reply(r.id, 500)
            if mode == "stall":
                return None
            if isinstance(mode, bytes):
                return buspeer.reply(r.id, 200, mode, buspeer.JSON)
            acked = self.take(r.json)
        if mode == "swallow":
            self.server.drop()
            return None
        return buspeer.reply(r.id, 200, {"acked": acked})

    def take(self, batch):
        for record in batch["records"]:
            if record["seq"] <= self.last.get(batch["store"], 0):
                self.repeats += 1
                continue
            self.last[batch["store"]] = record["seq"]
            self.kept.append(record)
        return self.last.get(batch["store"], 0)

    def named(self, event, word=""):
        with self.lock:
            return [k for k in self.kept if k["event"] == event and word in k["message"]]

