"""Answers that a service writes while the client reads them, through a gateway
that is alone: the service is a stand-in that writes its FIFO by hand.
"""
import contextlib
import http.client
import os
import socket
import struct
import subprocess
import threading
import time

import buspeer
import harness
from buspeer import fnv1a, reply
from harness import wait_for
from onedaemon import OneDaemon
from test_gateway import Client, FakeAuthd

GOOD_END = struct.pack(">I", 0)


def empty(r):
    return reply(r.id, 200, {"data": []})


def block(data):
    return struct.pack(">I", len(data)) + data


class Pipes(OneDaemon):
    name = "gateway"

    @classmethod
    def prepare(cls):
        cls.rights = FakeAuthd()
        cls.rights.grant("admin-token")
        cls.authd = cls.stand_in("authd", cls.rights)
        cls.cloudd = cls.stand_in("cloudd", empty)

    @classmethod
    def begin(cls):
        cls.admin = Client(cls.fleet).with_token("admin-token")
        wait_for("the service", lambda: cls.admin.get("/mqtt").status == 200)

    def setUp(self):
        self.cloudd.handler = empty
        self.token = f"token-of-{self.id().rsplit('.', 1)[1]}"
        self.rights.grant(self.token)
        self.client = Client(self.fleet).with_token(self.token)
        self.fifo = f"{self.fleet.run}/spool/cloudd-1-{fnv1a(self.id())}"
        self.ended = threading.Event()  # the writer's end
        self.error = None               # why it could not go on

    def written_by(self, write):
        """The service answers with a pipe; write(fd) runs when the gateway has opened it."""
        os.mkfifo(self.fifo, 0o640)
        self.addCleanup(lambda: os.path.exists(self.fifo) and os.unlink(self.fifo))

        def run():
            try:
                fd = os.open(self.fifo, os.O_WRONLY)
                os.unlink(self.fifo)
                try:
                    write(fd)
                finally:
                    os.close(fd)
            except OSError as e:
                self.error = e
            finally:
                self.ended.set()

        def serve(r):
            threading.Thread(target=run, daemon=True).start()
            return reply(r.id, 200, os.path.basename(self.fifo).encode(), buspeer.PIPE,
                         content_type="application/tar+gz", file_name="audit.tar.gz")
        self.cloudd.handler = serve

    @staticmethod
    def put(fd, data):
        while data:
            data = data[os.write(fd, data):]

    def chunks_of(self, data, step=70001):
        return b"".join(block(data[i:i + step]) for i in range(0, len(data), step))

    @contextlib.contextmanager
    def asking(self, version="1.1"):
        """A response to read by hand, over plain HTTP."""
        s = socket.create_connection(("127.0.0.1", self.fleet.http_port), 20 * harness.SLOW)
        try:
            s.sendall(f"GET /api/v1/mqtt HTTP/{version}\r\nHost: x\r\n"
                      f"Authorization: Bearer {self.token}\r\n\r\n".encode())
            got = http.client.HTTPResponse(s)
            got.begin()
            with got:
                yield got
        finally:
            s.close()

    def curl(self, *options):
        return subprocess.run(
            ["curl", "-s", "-o", "/dev/null", "-H", f"Authorization: Bearer {self.token}",
             *options, f"http://127.0.0.1:{self.fleet.http_port}/api/v1/mqtt"],
            timeout=60 * harness.SLOW, check=False).returncode

    # ---- good ends ----

    def test_what_the_service_writes_arrives_as_it_was_and_the_connection_goes_on(self):
        for n in (0, 1, 5, 32768, 3000000):
            data = os.urandom(n)
            self.written_by(lambda fd, d=data: self.put(fd, self.chunks_of(d) + GOOD_END))
            got = self.client.get("/mqtt")
            self.assertEqual((got.status, got.body), (200, data))
            self.assertEqual(got.headers["Transfer-Encoding"], "chunked")
            self.assertIsNone(got.headers["Content-Length"])
            self.assertIsNone(got.headers["Connection"])
            self.assertEqual(got.headers["Content-Type"], "application/tar+gz")
            self.assertEqual(got.headers["Content-Disposition"],
                             'attachment; filename="audit.tar.gz"')
            self.assertFalse(os.path.exists(self.fifo))

    def test_blocks_may_be_cut_anywhere(self):
        data = os.urandom(300)
        whole = self.chunks_of(data, 7) + GOOD_END

        def write(fd):
            for i in range(len(whole)):
                self.put(fd, whole[i:i + 1])
        self.written_by(write)
        self.assertEqual(self.client.get("/mqtt").body, data)

    def test_a_client_of_http_1_0_gets_bare_bytes_and_the_end_of_the_connection(self):
        data = os.urandom(100000)
        self.written_by(lambda fd: self.put(fd, self.chunks_of(data) + GOOD_END))
        with self.asking("1.0") as got:
            self.assertEqual((got.status, got.getheader("Transfer-Encoding")), (200, None))
            self.assertEqual(got.read(), data)

    def test_head_has_the_header_alone_and_the_writer_sees_that_nobody_comes(self):
        self.written_by(lambda fd: self.put(fd, block(b"x") + GOOD_END))
        got = self.client.request("HEAD", "/mqtt")
        self.assertEqual((got.status, got.body), (200, b""))
        self.assertEqual(got.headers["Content-Disposition"],
                         'attachment; filename="audit.tar.gz"')
        wait_for("the name to go", lambda: not os.path.exists(self.fifo))

    # ---- bad ends ----

    def test_a_writer_that_ends_before_its_first_byte_is_500(self):
        for begin in (b"", b"\0\0"):
            self.written_by(lambda fd, b=begin: self.put(fd, b))
            got = self.client.get("/mqtt")
            self.assertEqual(got.status, 500)
            self.assertTrue(got.json["error"]["message"])

    def test_a_client_sees_that_an_answer_was_cut_short(self):
        for tail in (b"", b"\0\0", struct.pack(">I", 100) + b"x" * 99):
            self.written_by(lambda fd, t=tail: self.put(fd, block(b"x" * 1000) + t))
            with self.asking() as got, self.assertRaises(http.client.IncompleteRead):
                got.read()
        self.written_by(lambda fd: self.put(fd, block(b"x" * 100000)))
        with self.asking("1.0") as got, self.assertRaises(ConnectionResetError):
            while got.read(10000):
                pass
        self.alive()

    def test_curl_ends_with_an_error_when_an_answer_was_cut_short(self):
        whole = self.chunks_of(b"x" * 100000)
        for options, end, code in (((), GOOD_END, 0), ((), b"", 18),
                                   (("--http1.0",), GOOD_END, 0), (("--http1.0",), b"", 56)):
            self.written_by(lambda fd, e=end: self.put(fd, whole + e))
            self.assertEqual(self.curl(*options), code, (options, end))

    def test_a_name_that_is_no_pipe_of_the_spool_is_500_and_nothing_is_removed(self):
        with open(self.fifo, "wb") as f:
            f.write(b"no pipe")
        for name in (os.path.basename(self.fifo), "..", "../bus", "missing", ""):
            self.cloudd.handler = lambda r, n=name: reply(r.id, 200, n.encode(), buspeer.PIPE)
            self.assertEqual(self.client.get("/mqtt").status, 500, name)
        self.assertTrue(os.path.exists(self.fifo))

    def test_a_service_that_dies_before_it_opens_its_pipe_is_503_soon(self):
        os.mkfifo(self.fifo)

        def die(r):
            threading.Timer(0.2, self.cloudd.stop).start()
            return reply(r.id, 200, os.path.basename(self.fifo).encode(), buspeer.PIPE)
        self.cloudd.handler = die
        got = self.client.get("/mqtt")
        self.assertEqual(got.status, 503)
        self.assertLess(got.took, 5 * harness.SLOW)
        self.assertFalse(os.path.exists(self.fifo))
        self.cloudd.handler = empty
        self.cloudd.start()
        wait_for("the service", lambda: self.client.get("/mqtt").status == 200)

    # ---- in the middle ----

    def endless(self):
        self.written_by(lambda fd: [self.put(fd, block(b"x" * 10000)) for _ in range(10**9)])

    def test_a_client_that_leaves_ends_the_writer(self):
        self.endless()
        with self.asking() as got:
            self.assertEqual(len(got.read(100000)), 100000)
        self.assertTrue(self.ended.wait(5 * harness.SLOW))
        self.assertIsInstance(self.error, BrokenPipeError)

    def test_a_session_that_ends_cuts_its_answer_short_within_seconds(self):
        self.endless()
        with self.asking() as got:
            got.read(100000)
            self.rights.grants.pop(self.token)
            self.rights.epoch += 1
            self.tell(buspeer.AUTH_FORGET, {"epoch": self.rights.epoch, "sessionId": 11})
            began = time.monotonic()
            with self.assertRaises(http.client.IncompleteRead):
                while got.read(1 << 20):
                    pass
            self.assertLess(time.monotonic() - began, 5 * harness.SLOW)
        self.assertTrue(self.ended.wait(20 * harness.SLOW))

    def test_a_slow_reader_holds_back_the_writer_and_nobody_else(self):
        count = [0]

        def write(fd):
            for _ in range(2000):
                self.put(fd, block(b"x" * 10000))
                count[0] += 10000
            self.put(fd, GOOD_END)
        self.written_by(write)
        before = self.daemon.memory_kib()
        with self.asking() as got:
            held = wait_for("the writer to be held back",
                            lambda last=[-1]: count[0] > 0 and (last.append(count[0]) or
                                                                last[-1] == last[-2]) and last[-1])
            self.assertLess(held, 20000000)
            self.assertEqual(self.admin.get("/nothing").status, 404)
            if not harness.SANITIZED:
                self.assertLess(self.daemon.memory_kib() - before, 4096)
            self.assertEqual(len(got.read()), 20000000)

    def test_a_gateway_that_stops_ends_the_answers_that_are_under_way(self):
        self.endless()
        with self.asking() as got:
            got.read(100000)
            reader = threading.Thread(target=self.read_on, args=(got,))
            reader.start()
            self.assert_stops_in_order(5)
            reader.join(20 * harness.SLOW)
        self.assertTrue(self.ended.wait(20 * harness.SLOW))
        wait_for("the service", lambda: self.client.get("/nothing").status == 404)

    @staticmethod
    def read_on(got):
        with contextlib.suppress(OSError, http.client.HTTPException):
            while got.read(1 << 20):
                pass
