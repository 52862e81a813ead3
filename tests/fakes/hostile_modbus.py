#!/usr/bin/python3
"""A Modbus TCP device that misbehaves on order, on raw sockets.

    device = Hostile()              # listens at device.port
    device.mode = "wrong_tid"       # from now on, for all units; the names are in MODES
    device.unit_mode[7] = "mute"    # for one unit behind the shared connection

Register n of unit u holds n + device.base (mod 65536). What was asked last is
in device.seen: (monotonic time, unit, PDU).
"""
import collections
import os
import socket
import struct
import sys
import threading
import time


Ask = collections.namedtuple("Ask", "device peer tid unit pdu body frame before")


def frame_of(tid, unit, body, protocol=0, length=None):
    return struct.pack(">HHHB", tid, protocol, len(body) + 1 if length is None else length,
                       unit) + body


def ok(a, before=b"", after=b""):
    a.peer.sendall(before + a.frame + after)
    a.device.good_one(a.unit)


def late(a):
    time.sleep(a.device.delay)
    a.peer.sendall(a.frame)


def in_pieces(a, pause):
    for i in range(len(a.frame)):
        a.peer.sendall(a.frame[i:i + 1])
        time.sleep(pause)


def for_ever(a, piece):
    piece *= 1 << 20 >> len(piece).bit_length()
    while a.device.mode != "ok":
        a.peer.sendall(piece)


def close(_a):
    raise OSError("on order")


def close_after(a):
    ok(a)
    close(a)


def reset(a):
    """After 0, 1, 2, … bytes of the answer, each time one more."""
    a.peer.sendall(a.frame[:a.device.n_resets % len(a.frame)])
    a.device.n_resets += 1
    a.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    close(a)


def send(make):
    """What 'make' makes of the request, instead of the answer."""
    return lambda a: a.peer.sendall(make(a))


def body(make):
    """The same for the PDU, in a frame that is in order."""
    return send(lambda a: frame_of(a.tid, a.unit, make(a)))


NOBODY = frame_of(0xEEEE, 1, b"\x03\x08" + b"\xEE" * 8)  # well formed, and nobody asked

MODES = {
    # in order, whatever it looks like
    "ok": ok,
    "split": lambda a: (in_pieces(a, 0.001), a.device.good_one(a.unit)),
    "merged": lambda a: ok(a, NOBODY, NOBODY),
    "twice": lambda a: ok(a, b"", a.frame),
    "closes_after": close_after,
    # not in order
    "mute": lambda a: None,
    "late": late,
    "slow": lambda a: in_pieces(a, a.device.delay),
    "close": close,
    "reset": reset,
    "exception": body(lambda a: bytes([a.pdu[0] | 0x80, a.device.code])),
    "wrong_exception": body(lambda a: bytes([a.pdu[0] ^ 0x83, a.device.code])),
    "long_exception": body(lambda a: bytes([a.pdu[0] | 0x80, a.device.code, 0])),
    "short_exception": body(lambda a: bytes([a.pdu[0] | 0x80])),
    "wrong_tid": send(lambda a: frame_of((a.tid + 1000) & 0xFFFF, a.unit, a.body)),
    "previous": send(lambda a: a.before),
    "wrong_unit": send(lambda a: frame_of(a.tid, a.unit ^ 1, a.body)),
    "wrong_protocol": send(lambda a: frame_of(a.tid, a.unit, a.body, protocol=1)),
    "wrong_func": body(lambda a: bytes([a.body[0] ^ 7]) + a.body[1:]),
    "wrong_count": body(lambda a: a.body[:1] + bytes([max(0, a.body[1] - 2)]) + a.body[2:-2]),
    "more": body(lambda a: a.body[:1] + bytes([a.body[1] + 2]) + a.body[2:] + b"\xEE\xEE"),
    "count_lies": body(lambda a: a.body[:1] + bytes([a.body[1] + 2]) + a.body[2:]),
    "no_data": body(lambda a: a.body[:1]),
    "header_short": send(lambda a: frame_of(a.tid, a.unit, a.body, length=len(a.body) - 2)),
    "header_long": send(lambda a: frame_of(a.tid, a.unit, a.body, length=len(a.body) + 20)),
    "header_zero": send(lambda a: frame_of(a.tid, a.unit, a.body, length=0)),
    "header_one": send(lambda a: frame_of(a.tid, a.unit, a.body, length=1)),
    "long": send(lambda a: frame_of(a.tid, a.unit, b"\x03" * 300, length=60000)),
    "short": send(lambda a: a.frame[:max(1, len(a.frame) // 2)]),
    "garbage": send(lambda a: os.urandom(64)),
    "endless": lambda a: for_ever(a, os.urandom(1024)),
    "endless_frames": lambda a: for_ever(a, NOBODY),
}


class Hostile:
    def __init__(self, port=0):
        self.mode, self.unit_mode = "ok", {}
        self.delay, self.code, self.base = 0.5, 2, 0
        self.requests = {}      # unit -> number of requests
        self.answered = {}      # unit -> number of good answers
        self.connections = 0    # open now
        self.accepted = 0
        self.writes = []        # (unit, address, values)
        self.seen = collections.deque(maxlen=1000)
        self.frame = b""        # the last answer as it should have been
        self.n_resets = 0
        self.lock = threading.Lock()
        self.is_gone = False
        self.peers = set()
        self.port = port
        self.listen()

    def listen(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def accept(self, listener):
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.accepted += 1
                self.connections += 1
                self.peers.add(peer)
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def gone(self):
        """Power off: nobody listens, connections are reset."""
        self.is_gone = True
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            peers = list(self.peers)
        for peer in peers:
            try:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def back(self):
        self.listen()
        self.is_gone = False

    def take(self, peer, n):
        data = b""
        while len(data) < n:
            got = peer.recv(n - len(data))
            if not got:
                raise OSError("closed")
            data += got
        return data

    def serve(self, peer):
        try:
            while True:
                tid, _, length, unit = struct.unpack(">HHHB", self.take(peer, 7))
                pdu = self.take(peer, length - 1)
                with self.lock:
                    self.requests[unit] = self.requests.get(unit, 0) + 1
                    self.seen.append((time.monotonic(), unit, pdu))
                self.answer(peer, tid, unit, pdu)
        except OSError:
            pass
        finally:
            with self.lock:
                self.connections -= 1
                self.peers.discard(peer)
            peer.close()

    def good(self, unit, pdu):
        func = pdu[0]
        if func in (1, 2):
            _, count = struct.unpack(">HH", pdu[1:5])
            n = (count + 7) // 8
            return struct.pack(">BB", func, n) + b"\x55" * n
        if func in (3, 4):
            address, count = struct.unpack(">HH", pdu[1:5])
            regs = [(address + i + self.base) & 0xFFFF for i in range(count)]
            return struct.pack(f">BB{count}H", func, 2 * count, *regs)
        if func == 23:
            address, count, to = struct.unpack(">HHH", pdu[1:7])
            with self.lock:
                self.writes.append((unit, to, pdu[9:].hex()))
            return self.good(unit, struct.pack(">BHH", 3, address, count)).replace(
                b"\x03", b"\x17", 1)
        address, value = struct.unpack(">HH", pdu[1:5])
        with self.lock:
            self.writes.append((unit, address, pdu[5:].hex() or value))
        return pdu[:5]

    def answer(self, peer, tid, unit, pdu):
        body = self.good(unit, pdu)
        before, self.frame = self.frame, frame_of(tid, unit, body)
        MODES[self.unit_mode.get(unit, self.mode)](
            Ask(self, peer, tid, unit, pdu, body, self.frame, before))

    def good_one(self, unit):
        with self.lock:
            self.answered[unit] = self.answered.get(unit, 0) + 1

    def stop(self):
        try:
            self.gone()
        except OSError:
            pass


if __name__ == "__main__":  # PORT MODE; other modes follow on standard input
    device = Hostile(int(sys.argv[1]))
    device.mode = sys.argv[2]
    for line in sys.stdin:
        device.mode = line.strip()
