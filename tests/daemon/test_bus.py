"""Daemons alone, driven over the bus by a peer that is not ours."""
import os
import random
import socket
import struct
import subprocess
import sys
import time
import unittest
import uuid

import buspeer
import harness
from buspeer import Peer, request
from onedaemon import OneDaemon


class Bus(OneDaemon):
    name = "auditd"

    def test_a_ping_is_answered_with_its_own_id(self):
        for n in (1, 2**63, 77):
            reply, = self.peer().ask(request(buspeer.PING, id_=n))
            self.assertEqual((reply.id, reply.status), (n, 200))

    def test_a_message_of_many_requests_is_answered_by_one_of_as_many(self):
        got = self.peer().ask(*[request(buspeer.PING, id_=i) for i in range(100)])
        self.assertEqual(sorted(r.id for r in got), list(range(100)))
        self.assertEqual({r.status for r in got}, {200})

    def test_an_unknown_operation_is_not_found(self):
        self.assertEqual(self.peer().ask(request(4711))[0].status, 404)
        reply, = self.peer().ask(request(4711, kind=buspeer.KIND_API))
        self.assertEqual(reply.status, 404)

    def test_work_past_its_deadline_is_not_begun(self):
        store = uuid.uuid4().hex
        record = {"seq": 1, "event": "signIn", "message": "late-one", "detail": "", "source": "x",
                  "addr": "", "requestId": "0" * 16, "at": int(time.time() * 1e6)}
        p = self.peer(1)
        p.send(buspeer.message(request(buspeer.AUDIT_APPEND, {
            "store": store, "daemon": "authd", "records": [record]},
            deadline_us=int(time.monotonic() * 1e6) - 1)))
        try:
            got = buspeer.replies(p.receive())
            self.assertGreaterEqual(got[0].status, 500)
        except (socket.timeout, ConnectionResetError):
            pass
        # the number is still free: the same record in time is taken as new
        reply, = self.peer().ask(request(buspeer.AUDIT_APPEND, {
            "store": store, "daemon": "authd", "records": [record]}))
        self.assertEqual((reply.status, reply.json["acked"]), (200, 1))

    def test_records_that_come_twice_are_kept_once(self):
        store = uuid.uuid4().hex
        word = f"twice-{store}"
        records = [{"seq": i, "event": "signIn", "message": word, "detail": "", "source": "x",
                    "addr": "", "requestId": "0" * 16, "at": int(time.time() * 1e6)}
                   for i in range(1, 6)]
        body = {"store": store, "daemon": "authd", "records": records}
        for _ in range(3):
            reply, = self.peer().ask(request(buspeer.AUDIT_APPEND, body))
            self.assertEqual((reply.status, reply.json["acked"]), (200, 5))
        body["records"] = records[3:] + [dict(records[0], seq=6)]
        self.assertEqual(self.peer().ask(request(buspeer.AUDIT_APPEND, body))[0].json["acked"], 6)
        reply, = self.peer().ask(request(
            buspeer.fnv1a("getAudits"), kind=buspeer.KIND_API,
            who=(buspeer.WHO_USER, 1, 1, 0xFFFF, "admin", "127.0.0.1"),
            query=[("messages", word), ("limit", "100")]))
        self.assertEqual(reply.status, 200, reply.body)
        self.assertEqual(reply.json["total"], 6)

    def test_permission_is_checked_by_the_daemon_too(self):
        reply, = self.peer().ask(request(
            buspeer.fnv1a("getAudits"), kind=buspeer.KIND_API,
            who=(buspeer.WHO_USER, 1, 1, 0, "guest", "127.0.0.1")))
        self.assertEqual(reply.status, 403)
        reply, = self.peer().ask(request(
            buspeer.fnv1a("getAudits"), kind=buspeer.KIND_API,
            who=(buspeer.WHO_NOBODY, 0, 0, 0, "", "127.0.0.1")))
        self.assertIn(reply.status, (401, 403))

    def test_garbage_on_the_socket_hurts_nobody(self):
        rnd = random.Random(7)
        good = buspeer.message(request(buspeer.PING))
        attempts = [b"", b"F", b"FG\x02\0\1", b"FG\x01\xff\xff", b"FG\x01\0\0", good[:-1],
                    good + b"x", b"FG\x01\0\2" + good[5:], os.urandom(5000),
                    b"FG\x01\0\1" + struct.pack(">I", 0xFFFFFFFF), b"\0" * 65536]
        for _ in range(300):
            data = bytearray(good)
            for _ in range(rnd.randint(1, 6)):
                data[rnd.randrange(len(data))] = rnd.randrange(256)
            attempts.append(bytes(data))
        for data in attempts:
            p = Peer(self.path, 5)
            p.send(data)
            p.close()
        p = Peer(self.path, 5)  # less than a request number
        p.frame(b"\x01\x02")
        p.close()
        self.alive()

    def test_a_frame_larger_than_any_message_is_not_waited_for(self):
        p = self.peer(10)
        p.s.sendall(b"\x01" + struct.pack(">Q", 1 << 40))
        with self.assertRaises((ConnectionResetError, BrokenPipeError)):
            p.take(1)
        self.alive()

    def test_half_a_frame_holds_up_nobody(self):
        p = self.peer()
        p.s.sendall(b"\x01" + struct.pack(">Q", 1000) + b"half")
        self.alive()

    @unittest.skipIf(os.getuid() != 0, "needs root to become somebody else")
    def test_a_stranger_is_known_by_the_uid_of_the_kernel_and_refused(self):
        code = ("import os, sys; sys.path.insert(0, sys.argv[1]); import buspeer\n"
                "s = buspeer.socket.socket(buspeer.socket.AF_UNIX); s.settimeout(5)\n"
                "os.chdir(os.path.dirname(sys.argv[2]))\n"
                "buspeer.drop_to_nobody()\n"
                "p = buspeer.Peer(os.path.basename(sys.argv[2]))\n"
                "r = p.ask(buspeer.request(buspeer.PING))\n"
                "print('answered', r[0].status)\n")
        os.chmod(self.path, 0o777)
        here = os.path.dirname(os.path.abspath(__file__))
        for d in (self.fleet.dir, self.fleet.run, os.path.dirname(self.path)):
            os.chmod(d, 0o755)
        done = subprocess.run([sys.executable, "-c", code, here, self.path], capture_output=True,
                              text=True, timeout=30)
        self.assertNotIn("answered", done.stdout)
        self.assertRegex(done.stderr, "ConnectionResetError|BrokenPipe|timed out")
        self.alive()
        reply, = self.peer().ask(request(buspeer.METRICS))
        self.assertRegex(reply.body.decode(), r"(?m)^fieldgate_bus_refused_peers_total\S* [1-9]")

    def test_a_second_instance_does_not_take_over(self):
        d = self.fleet.d[self.name]
        done = subprocess.run(d.argv, capture_output=True, text=True, timeout=30,
                              env=harness.sanitizer_env())
        self.assertNotEqual(done.returncode, 0)
        self.alive()


class Options(unittest.TestCase):
    def test_each_daemon_describes_itself_and_refuses_what_it_does_not_know(self):
        for name in harness.DAEMONS:
            program = f"{harness.BUILD}/bin/{name}"
            run = lambda *a, p=program: subprocess.run([p, *a], capture_output=True, text=True,
                                                       timeout=20, env=harness.sanitizer_env())
            self.assertEqual(run("--help").returncode, 0, name)
            self.assertEqual(run("--describe").returncode, 0, name)
            self.assertEqual(run("--check-config").returncode, 0, name)
            for bad in (("--no-such",), ("--set", "no-such=1"), ("--profile", "cloud")):
                self.assertEqual(run(*bad).returncode, 2, f"{name} {bad}")

    @unittest.skipIf(os.getuid() != 0, "needs root")
    def test_none_runs_as_root_on_a_device(self):
        for name in harness.DAEMONS:
            done = subprocess.run([f"{harness.BUILD}/bin/{name}", "--profile", "device"],
                                  capture_output=True, text=True, timeout=20,
                                  env=harness.sanitizer_env())
            self.assertEqual(done.returncode, 1, name)
            self.assertIn("root", done.stderr)
