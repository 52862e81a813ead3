"""The tag bus without our code: batches, pages and values as in proto/README.md
sections 3 and 4, and a provider of tags made of them.
"""
import collections
import os
import struct
import time

import buspeer
from buspeer import Publisher, Server, reply

BOOLEAN, INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64 = range(1, 10)
FLOAT, DOUBLE, STRING, RAW = range(10, 14)
GOOD, UNCERTAIN, NEVER, TIMEOUT, CONNECTION, EXCEPTION, REPLY, CONFIG, OFFLINE = range(9)
READ, WRITE = 1, 2

Sample = collections.namedtuple("Sample", "no type quality code at value")
Batch = collections.namedtuple("Batch", "epoch seq generation samples")
Def = collections.namedtuple("Def", "no type access size interval provider source name unit")
Page = collections.namedtuple("Page", "epoch generation seq next items")


def sample(no, type_, value, quality=GOOD, code=0, at=None):
    return Sample(no, type_, quality, code, int(time.time() * 1e6) if at is None else at, value)


def number(type_, value):
    """The 8 bytes of a value that is no text."""
    if type_ in (FLOAT, DOUBLE):
        return struct.pack(">d", value)
    return struct.pack(">Q", int(value) & (1 << 64) - 1)


def number_of(type_, data):
    if type_ in (FLOAT, DOUBLE):
        return struct.unpack(">d", data)[0]
    value, = struct.unpack(">q" if INT8 <= type_ <= INT64 else ">Q", data)
    low, high = {BOOLEAN: (0, 1), INT8: (-2**7, 2**7 - 1), INT16: (-2**15, 2**15 - 1),
                 INT32: (-2**31, 2**31 - 1), INT64: (-2**63, 2**63 - 1), UINT8: (0, 2**8 - 1),
                 UINT16: (0, 2**16 - 1), UINT32: (0, 2**32 - 1), UINT64: (0, 2**64 - 1)}[type_]
    assert low <= value <= high, (type_, value)
    return bool(value) if type_ == BOOLEAN else value


def batch(epoch, seq, generation, samples):
    tail = b"".join(s.value for s in samples if s.type in (STRING, RAW))
    head, used = b"", 0
    for s in samples:
        if s.type in (STRING, RAW):
            value = struct.pack(">II", len(tail) - used, len(s.value))
            used += len(s.value)
        else:
            value = number(s.type, s.value)
        head += struct.pack(">IBBBBq", s.no, s.type, s.quality, s.code, 0, s.at) + value
    return b"FT\x01\0" + struct.pack(">QQIHHI", epoch, seq, generation, len(samples), 0,
                                     len(tail)) + head + tail


def batch_of(data):
    assert data[:4] == b"FT\x01\0", data[:8]
    epoch, seq, generation, n, zero, n_tail = struct.unpack(">QQIHHI", data[4:32])
    assert zero == 0 and n <= 1000 and n_tail <= 1 << 20 and len(data) == 32 + 24 * n + n_tail
    samples = []
    for i in range(n):
        at = 32 + 24 * i
        no, type_, quality, code, zero, when = struct.unpack(">IBBBBq", data[at:at + 16])
        assert no > 0 and BOOLEAN <= type_ <= RAW and quality <= OFFLINE and zero == 0
        raw = data[at + 16:at + 24]
        if type_ in (STRING, RAW):
            back, size = struct.unpack(">II", raw)
            assert size <= 4000 and size <= back <= n_tail
            value = data[len(data) - back:len(data) - back + size]
        else:
            value = number_of(type_, raw)
        samples.append(Sample(no, type_, quality, code, when, value))
    return Batch(epoch, seq, generation, samples)


def value(type_, v):
    """A value that stands alone, as in pages, reads and writes."""
    if type_ in (STRING, RAW):
        return bytes([type_]) + struct.pack(">H", len(v)) + v
    return bytes([type_]) + number(type_, v)


def value_at(data, at):
    """(type, value, where it ends)"""
    type_ = data[at]
    if type_ in (STRING, RAW):
        n, = struct.unpack(">H", data[at + 1:at + 3])
        return type_, data[at + 3:at + 3 + n], at + 3 + n
    return type_, number_of(type_, data[at + 1:at + 9]), at + 9


def page(epoch, generation, seq, next_, items):
    return struct.pack(">QIQII", epoch, generation, seq, next_, len(items)) + b"".join(items)


def definition(d):
    return struct.pack(">IBBHI", *d[:5]) + b"".join(buspeer.str8(t) for t in d[5:])


def last_value(s):
    return struct.pack(">IBBq", s.no, s.quality, s.code, s.at) + value(s.type, s.value)


def page_of(data, read):
    """A page; 'read' is definition_at or last_value_at."""
    epoch, generation, seq, next_, n = struct.unpack(">QIQII", data[:28])
    at, items = 28, []
    for _ in range(n):
        item, at = read(data, at)
        items.append(item)
    assert at == len(data)
    return Page(epoch, generation, seq, next_, items)


def definition_at(data, at):
    fields, at = struct.unpack(">IBBHI", data[at:at + 12]), at + 12
    for _ in range(4):
        n = data[at]
        fields += (data[at + 1:at + 1 + n].decode(),)
        at += 1 + n
    return Def(*fields), at


def last_value_at(data, at):
    no, quality, code, when = struct.unpack(">IBBq", data[at:at + 14])
    type_, v, end = value_at(data, at + 14)
    return Sample(no, type_, quality, code, when, v), end


class FakeProvider:
    """Stands in for modbusd: lists tags, publishes what it is told to.

    .page_size bounds the elements of a page. .on_read and .on_write answer
    TAG_READ and TAG_WRITE: functions of the Request, as for a Server.
    """

    def __init__(self, bus_dir, name="modbusd", source="fake"):
        self.source, self.page_size = source, 1000
        self.defs, self.last = [], {}
        self.epoch, self.seq, self.generation = int.from_bytes(os.urandom(8), "big"), 0, 1
        self.on_read = self.on_write = lambda r: reply(r.id, 404)
        self.publisher = Publisher(f"{bus_dir}/{name}.tags")
        self.server = Server(f"{bus_dir}/{name}.rpc", self.serve)

    def add(self, no, type_, name, value_=0, access=READ, unit="", size=0, interval=1000,
            quality=GOOD):
        self.defs.append(Def(no, type_, access, size, interval, "modbus_tcp_master", self.source,
                             name, unit))
        self.last[no] = sample(no, type_, value_, quality)

    def serve(self, r):
        if r.op in (buspeer.TAG_CATALOGUE, buspeer.TAG_SNAPSHOT):
            first, = struct.unpack(">I", r.body)
            items = [definition(d) if r.op == buspeer.TAG_CATALOGUE else last_value(
                self.last[d.no]) for d in self.defs]
            part = items[first:first + self.page_size]
            next_ = first + len(part)
            return reply(r.id, 200, page(self.epoch, self.generation, self.seq,
                                         next_ if next_ < len(items) else 0, part))
        if r.op == buspeer.TAG_READ:
            return self.on_read(r)
        if r.op == buspeer.TAG_WRITE:
            return self.on_write(r)
        return reply(r.id, 404)

    def publish(self, *samples, unsent=False):
        """The next batch; 'unsent' loses it on the way."""
        self.seq += len(samples) > 0
        for s in samples:
            self.last[s.no] = s
        if not unsent:
            self.publisher.send(batch(self.epoch, self.seq, self.generation, samples))

    def set(self, no, v, **more):
        self.publish(sample(no, self.last[no].type, v, **more))

    def changed(self):
        """After a change of .defs: a new generation, told at once."""
        self.generation += 1
        self.publish()

    def stop(self):
        self.publisher.stop()
        self.server.stop()

    def start(self):
        """A new life after stop(): another epoch."""
        self.epoch, self.seq, self.generation = int.from_bytes(os.urandom(8), "big"), 0, 1
        self.publisher.start()
        self.server.start()
