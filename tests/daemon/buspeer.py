"""A peer on the bus that shares no code with ours: the SP handshake and framing
of NNG's ipc transport, and the envelopes of proto/README.md section 2, by hand.
"""
import json
import os
import socket
import struct
import time

KIND_API, KIND_INTERNAL, KIND_STREAM_NEXT, KIND_STREAM_CLOSE = 1, 2, 3, 4
NONE, JSON, BYTES, FILE, STREAM = range(5)
PING, METRICS = 1, 2
AUTH_CHECK, AUTH_TOUCH, AUTH_FORGET = 16, 17, 18
AUDIT_APPEND = 32
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


def replies(data):
    assert data[:3] == b"FG\x01", data[:16]
    n, = struct.unpack(">H", data[3:5])
    out, at = [], 5
    for _ in range(n):
        size, = struct.unpack(">I", data[at:at + 4])
        out.append(Reply(data[at + 4:at + 4 + size]))
        at += 4 + size
    assert at == len(data)
    return out


class Peer:
    """A REQ socket's end of one connection."""

    def __init__(self, path, timeout=5.0):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(timeout)
        self.s.connect(path)
        self.s.sendall(b"\0SP\0\x00\x30\0\0")
        if self.take(8) != b"\0SP\0\x00\x31\0\0":
            raise OSError("not a replier")
        self.n = 0

    def take(self, n):
        data = b""
        while len(data) < n:
            got = self.s.recv(n - len(data))
            if not got:
                raise ConnectionResetError("closed")
            data += got
        return data

    def frame(self, data):
        self.s.sendall(b"\x01" + struct.pack(">Q", len(data)) + data)

    def send(self, data):
        self.n += 1
        self.frame(struct.pack(">I", 0x80000000 | self.n) + data)

    def receive(self):
        head = self.take(9)
        assert head[0] == 1
        size, = struct.unpack(">Q", head[1:])
        return self.take(size)[4:]

    def ask(self, *envelopes):
        """Sends one message, returns its replies."""
        self.send(message(*envelopes))
        return replies(self.receive())

    def close(self):
        self.s.close()


def drop_to_nobody():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
