"""Modbus units at the far end of a serial line that misbehave on order.

    device = HostileSerial(tty)         # opened again whenever it is hung up
    device.mode = "crc"                 # from now on, for all units
    device.unit_mode[7] = "mute"        # for one unit

The pace is the line's own; what is said here is queued there. Values are those
of Hostile (hostile_modbus.py). Modes:
    ok, exception, mute, wrong_func     as there
    late        answers after .delay seconds
    crc         answers with a wrong checksum
    cut         sends the first half of the answer, then nothing more
    foreign     the answer of another unit, then its own
    noise       bytes that mean nothing, then the answer
    collide     two answers at once: each byte is the and of both
    babble      noise without end, until the mode is another
.echo = True: what is heard is on the line for all, as on two wires.
"""
import collections
import os
import select
import termios
import threading
import time
import tty

from hostile_modbus import Hostile

NOISE = bytes([0x00, 0xFF, 0x80, 0x3A, 0x01, 0x00])


def crc16(data):
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc.to_bytes(2, "little")


class HostileSerial(Hostile):
    def __init__(self, path, is_ascii=False):  # pylint: disable=super-init-not-called
        self.mode, self.unit_mode, self.echo = "ok", {}, False
        self.delay, self.code, self.base = 0.5, 2, 0
        self.requests, self.answered, self.writes = {}, {}, []
        self.pdus = collections.defaultdict(lambda: collections.deque(maxlen=4))
        self.lock = threading.Lock()
        self.path, self.is_ascii, self.over = path, is_ascii, False
        self.thread = threading.Thread(target=self.live, daemon=True)
        self.thread.start()

    def live(self):
        while not self.over:
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_NOCTTY)
            except OSError:
                time.sleep(0.02)
                continue
            try:
                tty.setraw(fd, termios.TCSANOW)
                self.attend(fd)
            except (OSError, termios.error):
                pass
            finally:
                os.close(fd)

    def attend(self, fd):
        heard = b""
        while not self.over:
            if not select.select([fd], [], [], 0.05)[0]:
                heard = b""
                continue
            got = os.read(fd, 512)
            if not got:
                raise OSError("hung up")
            heard += got
            if self.is_ascii:  # requests may have gathered while this one was talking
                heard = heard[max(0, heard.rfind(b":")):]
            if self.is_whole(heard):
                if self.echo:
                    os.write(fd, heard)
                self.react(fd, heard)
                heard = b""

    def is_whole(self, heard):
        if self.is_ascii:
            return heard.startswith(b":") and heard.endswith(b"\r\n")
        return len(heard) >= 8 and crc16(heard[:-2]) == heard[-2:]

    def frame(self, unit, pdu):
        data = bytes([unit]) + pdu
        if self.is_ascii:
            return b":" + (data + bytes([-sum(data) & 0xFF])).hex().upper().encode() + b"\r\n"
        return data + crc16(data)

    def react(self, fd, heard):
        data = bytes.fromhex(heard[1:-4].decode()) if self.is_ascii else heard[:-2]
        unit, pdu = data[0], data[1:]
        with self.lock:
            self.requests[unit] = self.requests.get(unit, 0) + 1
            self.pdus[unit].append(pdu)
        mode = self.unit_mode.get(unit, self.mode)
        if unit == 0:
            self.good(unit, pdu)
        elif mode != "mute":
            self.say(fd, mode, unit, pdu)

    def last_pdus(self, unit):
        """The last four requests to a unit."""
        with self.lock:
            return list(self.pdus[unit])

    def say(self, fd, mode, unit, pdu):
        good = self.frame(unit, self.good(unit, pdu))
        if mode == "ok":
            with self.lock:
                self.answered[unit] = self.answered.get(unit, 0) + 1
            os.write(fd, good)
        elif mode == "late":
            time.sleep(self.delay)
            os.write(fd, good)
        elif mode == "exception":
            os.write(fd, self.frame(unit, bytes([pdu[0] | 0x80, self.code])))
        elif mode == "wrong_func":
            os.write(fd, self.frame(unit, bytes([pdu[0] ^ 7]) + self.good(unit, pdu)[1:]))
        elif mode == "crc":
            os.write(fd, good[:-3] + bytes([good[-3] ^ 1]) + good[-2:])
        elif mode == "cut":
            os.write(fd, good[:len(good) // 2])
        elif mode == "foreign":
            os.write(fd, self.frame(unit + 1, self.good(unit, pdu)) + good)
        elif mode == "noise":
            os.write(fd, NOISE + good)
        elif mode == "collide":
            other = self.frame(unit ^ 0x55, self.good(unit, pdu))
            os.write(fd, bytes(a & b for a, b in zip(good, other)))
        elif mode == "babble":
            while self.mode == mode and not self.over:
                os.write(fd, b"\xFE" * 16)
                time.sleep(0.005)
        else:
            raise ValueError(mode)

    def stop(self):
        self.over = True
        self.thread.join(5)
