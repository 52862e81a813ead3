#!/usr/bin/python3
"""A Modbus TCP device that misbehaves on order, on raw sockets.

    device = Hostile()              # listens at device.port
    device.mode = "wrong_tid"       # from now on, for all units
    device.unit_mode[7] = "mute"    # for one unit behind the shared connection

Register n of unit u holds n + device.base (mod 65536). Modes:
    ok          answers at once
    wrong_tid   answers with the transaction id of nobody
    late        answers after .delay seconds
    short       sends the first half of the answer, then nothing more
    garbage     sends random bytes
    exception   refuses with exception .code
    mute        never answers
    slow        answers one byte each .delay seconds
    close       closes the connection instead of answering
    wrong_unit, wrong_func, wrong_count    answers of the right length class, wrong inside
    long        announces more bytes than a frame may have
"""
import os
import socket
import struct
import sys
import threading
import time


class Hostile:
    def __init__(self, port=0):
        self.mode, self.unit_mode = "ok", {}
        self.delay, self.code, self.base = 0.5, 2, 0
        self.requests = {}      # unit -> number of requests
        self.answered = {}      # unit -> number of good answers
        self.connections = 0    # open now
        self.accepted = 0
        self.writes = []        # (unit, address, values)
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
        address, value = struct.unpack(">HH", pdu[1:5])
        with self.lock:
            self.writes.append((unit, address, pdu[5:].hex() or value))
        return pdu[:5]

    def answer(self, peer, tid, unit, pdu):
        mode = self.unit_mode.get(unit, self.mode)
        body = self.good(unit, pdu)
        frame = struct.pack(">HHHB", tid, 0, len(body) + 1, unit) + body
        if mode == "ok":
            peer.sendall(frame)
            with self.lock:
                self.answered[unit] = self.answered.get(unit, 0) + 1
        elif mode == "wrong_tid":
            peer.sendall(struct.pack(">H", (tid + 1000) & 0xFFFF) + frame[2:])
        elif mode == "late":
            time.sleep(self.delay)
            peer.sendall(frame)
        elif mode == "short":
            peer.sendall(frame[:max(1, len(frame) // 2)])
        elif mode == "garbage":
            peer.sendall(os.urandom(64))
        elif mode == "exception":
            peer.sendall(struct.pack(">HHHBBB", tid, 0, 3, unit, pdu[0] | 0x80, self.code))
        elif mode == "slow":
            for i in range(len(frame)):
                peer.sendall(frame[i:i + 1])
                time.sleep(self.delay)
        elif mode == "close":
            raise OSError("on order")
        elif mode == "wrong_unit":
            peer.sendall(frame[:6] + bytes([unit ^ 1]) + frame[7:])
        elif mode == "wrong_func":
            peer.sendall(frame[:7] + bytes([frame[7] ^ 7]) + frame[8:])
        elif mode == "wrong_count":
            body = body[:1] + bytes([max(0, body[1] - 2)]) + body[2:-2]
            peer.sendall(struct.pack(">HHHB", tid, 0, len(body) + 1, unit) + body)
        elif mode == "long":
            peer.sendall(struct.pack(">HHHB", tid, 0, 60000, unit) + b"\x03" * 300)
        elif mode != "mute":
            raise ValueError(mode)

    def stop(self):
        try:
            self.gone()
        except OSError:
            pass


if __name__ == "__main__":
    device = Hostile(int(sys.argv[1]))
    device.mode = sys.argv[2]
    threading.Event().wait()
