"""Peers on the bus that share no code with ours: the SP handshake and framing
of NNG's ipc transport, and the envelopes of proto/README.md section 2, by hand.

    Peer        asks a daemon
    Server      stands in for a daemon that is asked
    Publisher, Listener    the two ends of a tag bus (batches: tagwire.py)
"""
import contextlib
import json
import os
import socket
import struct
import threading
import time

KIND_API, KIND_INTERNAL, KIND_STREAM_NEXT, KIND_STREAM_CLOSE = 1, 2, 3, 4
NONE, JSON, BYTES, FILE, STREAM, PIPE = range(6)
PING, METRICS = 1, 2
AUTH_CHECK, AUTH_TOUCH, AUTH_FORGET, AUTH_REFUSED = 16, 17, 18, 19
CERT_PUBLISH = 20
HTTP_APPLY = 24
INTEGRITY_TOLD = 21
AUDIT_APPEND = 32
AUDIT_APPEND, SECURITY_FACTS = 32, 33
TAG_CATALOGUE, TAG_SNAPSHOT, TAG_READ, TAG_WRITE = 48, 49, 50, 51
SERIAL_CHANGED = 65
WHO_NOBODY, WHO_USER, WHO_SERVICE, WHO_DAEMON = range(4)


def fnv1a(text):
    h = 0x811C9DC5
    for byte in text.encode():
        h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
    return h


def str8(text):
    data = text.encode()
    return bytes([len(data)]) + data


def str16(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack(">H", len(data)) + data


def request(op, body=b"", kind=KIND_INTERNAL, body_kind=None, id_=1, deadline_us=None,
            who=(WHO_DAEMON, 0, 0, 0, "test", ""), path=(), query=(), content_type=""):
    """One envelope."""
    if isinstance(body, (dict, list)):
        body, body_kind = json.dumps(body).encode(), JSON
    if body_kind is None:
        body_kind = BYTES if body else NONE
    if deadline_us is None:
        deadline_us = int(time.monotonic() * 1e6) + 5000000
    p = bytes([kind, body_kind, len(path), len(query)])
    p += struct.pack(">IQQ", op, id_, deadline_us)
    p += struct.pack(">BqqQ", *who[:4]) + str8(who[4]) + str8(who[5])
    for value in path:
        p += str16(value)
    for name, value in query:
        p += str16(name) + (b"\0" if value is None else b"\1" + str16(value))
    p += str16(content_type) + struct.pack(">I", len(body)) + body
    return struct.pack(">I", len(p)) + p


def message(*envelopes):
    return b"FG\x01" + struct.pack(">H", len(envelopes)) + b"".join(envelopes)


class Reply:
    def __init__(self, p):
        self.id, self.status, self.body_kind, self.flags, self.retry_after = \
            struct.unpack(">QHBBI", p[:16])
        at = 16
        n, = struct.unpack(">H", p[at:at + 2])
        self.content_type, at = p[at + 2:at + 2 + n].decode(), at + 2 + n
        n, = struct.unpack(">H", p[at:at + 2])
        self.file_name, at = p[at + 2:at + 2 + n].decode(), at + 2 + n
        n, = struct.unpack(">I", p[at:at + 4])
        self.body = p[at + 4:at + 4 + n]
        assert at + 4 + n == len(p)

    @property
    def json(self):
        return json.loads(self.body)


def envelopes_of(data, kind):
    """The envelopes of a message, each made a 'kind'."""
    assert data[:3] == b"FG\x01", data[:16]
    n, = struct.unpack(">H", data[3:5])
    out, at = [], 5
    for _ in range(n):
        size, = struct.unpack(">I", data[at:at + 4])
        out.append(kind(data[at + 4:at + 4 + size]))
        at += 4 + size
    assert at == len(data)
    return out


def replies(data):
    return envelopes_of(data, Reply)


class Request:
    """A request as a daemon gets it."""

    def __init__(self, p):
        self.at, self.p = 0, p
        self.kind, self.body_kind, n_path, n_query = self.numbers(">BBBB")
        self.op, self.id, self.deadline_us = self.numbers(">IQQ")
        self.who = self.numbers(">BqqQ") + (self.text(">B"), self.text(">B"))
        self.path = [self.text(">H") for _ in range(n_path)]
        self.query = [(self.text(">H"), self.text(">H") if self.numbers(">B")[0] else None)
                      for _ in range(n_query)]
        self.content_type = self.text(">H")
        self.body = self.bytes(">I")
        assert self.at == len(p)

    def numbers(self, form):
        self.at += struct.calcsize(form)
        return struct.unpack(form, self.p[self.at - struct.calcsize(form):self.at])

    def bytes(self, form):
        n, = self.numbers(form)
        self.at += n
        assert self.at <= len(self.p)
        return self.p[self.at - n:self.at]

    def text(self, form):
        return self.bytes(form).decode()

    @property
    def json(self):
        return json.loads(self.body)


def reply(id_, status=200, body=b"", body_kind=None, flags=0, retry_after=0, content_type="",
          file_name=""):
    """One envelope of an answer."""
    if isinstance(body, (dict, list)):
        body, body_kind = json.dumps(body).encode(), JSON
    if body_kind is None:
        body_kind = BYTES if body else NONE
    p = struct.pack(">QHBBI", id_, status, body_kind, flags, retry_after)
    p += str16(content_type) + str16(file_name) + struct.pack(">I", len(body)) + body
    return struct.pack(">I", len(p)) + p


REQ, REP, PUB, SUB = 0x30, 0x31, 0x20, 0x21


class Pipe:
    """One end of one connection: 'mine' and 'other' are SP protocol numbers."""

    def __init__(self, s, mine, other, timeout=None):
        self.s, self.sending = s, threading.Lock()
        self.s.settimeout(timeout)
        self.s.sendall(b"\0SP\0" + struct.pack(">HH", mine, 0))
        if self.take(8) != b"\0SP\0" + struct.pack(">HH", other, 0):
            raise OSError(f"the other end is no {other:#x}")

    def take(self, n):
        data = bytearray()
        while len(data) < n:
            got = self.s.recv(n - len(data))
            if not got:
                raise ConnectionResetError("closed")
            data += got
        return bytes(data)

    def frame(self, data):
        with self.sending:
            self.s.sendall(b"\x01" + struct.pack(">Q", len(data)) + data)

    def take_frame(self):
        head = self.take(9)
        assert head[0] == 1
        size, = struct.unpack(">Q", head[1:])
        return self.take(size)

    def close(self):
        with contextlib.suppress(OSError):
            self.s.shutdown(socket.SHUT_RDWR)
        self.s.close()


def dial(path, timeout):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(timeout)
    try:
        s.connect(path)
    except OSError:
        s.close()
        raise
    return s


def is_served(path):
    try:
        dial(path, 5).close()
        return True
    except OSError:
        return False


class Peer(Pipe):
    """A REQ socket's end of one connection."""

    def __init__(self, path, timeout=5.0):
        super().__init__(dial(path, timeout), REQ, REP, timeout)
        self.n = 0

    def send(self, data):
        self.n += 1
        self.frame(struct.pack(">I", 0x80000000 | self.n) + data)

    def receive(self):
        return self.take_frame()[4:]

    def ask(self, *envelopes):
        """Sends one message, returns its replies."""
        self.send(message(*envelopes))
        return replies(self.receive())


class Listener(Pipe):
    """A SUB socket's end of one connection."""

    def __init__(self, path, timeout=5.0):
        super().__init__(dial(path, timeout), SUB, PUB, timeout)


class Listening:
    """A socket of the bus that others connect to; each connection has a thread."""

    mine, other = REP, REQ

    def __init__(self, path):
        self.path, self.pipes, self.lock = path, set(), threading.Condition()
        self.listener = None
        self.start()

    def start(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(16)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()
        return self

    def accept(self, listener):
        while True:
            try:
                s, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self.live, args=(s,), daemon=True).start()

    def live(self, s):
        pipe = None
        try:
            pipe = Pipe(s, self.mine, self.other)
            with self.lock:
                self.pipes.add(pipe)
                self.lock.notify_all()
            self.run(pipe)
        except OSError:
            pass
        finally:
            with self.lock:
                self.pipes.discard(pipe)
            s.close()

    def run(self, pipe):
        while pipe.s.recv(4096):
            pass

    def drop(self):
        """Breaks all connections; the other ends may come again."""
        with self.lock:
            pipes = list(self.pipes)
        for pipe in pipes:
            pipe.close()

    def stop(self):
        """Nobody listens any more. start() begins anew."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.drop()


class Server(Listening):
    """A REP socket that stands in for a daemon.

    'handler' gets each Request, in a thread of its own, and returns the
    envelope of its reply (reply()), bytes of a whole message to send instead
    (Raw), or None: it is never answered. .asked keeps all requests.
    """

    class Raw(bytes):
        pass

    def __init__(self, path, handler):
        self.handler, self.asked = handler, []
        super().__init__(path)

    def run(self, pipe):
        while True:
            data = pipe.take_frame()
            threading.Thread(target=self.serve, args=(pipe, data), daemon=True).start()

    def serve(self, pipe, data):
        envelopes = []
        for r in envelopes_of(data[4:], Request):
            with self.lock:
                self.asked.append(r)
                self.lock.notify_all()
            if r.kind == KIND_INTERNAL and r.op == PING:
                envelopes.append(reply(r.id))
            else:
                envelopes.append(self.handler(r))
        if None in envelopes:
            return
        raw = [e for e in envelopes if isinstance(e, Server.Raw)]
        with contextlib.suppress(OSError):
            pipe.frame(data[:4] + (raw[0] if raw else message(*envelopes)))

    def asked_for(self, op):
        with self.lock:
            return [r for r in self.asked if r.op == op]


class Publisher(Listening):
    """A PUB socket."""

    mine, other = PUB, SUB

    def send(self, data):
        with self.lock:
            pipes = list(self.pipes)
        for pipe in pipes:
            with contextlib.suppress(OSError):
                pipe.frame(data)


def drop_to_nobody():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
