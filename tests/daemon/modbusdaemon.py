"""modbusd alone: configured over the bus, with a listener at its tag bus that
shares no code with it.
"""
import struct
import time

import buspeer
import harness
import tagwire
from buspeer import Listener
from harness import wait_for
from onedaemon import ADMIN, OneDaemon

WHO = ADMIN[:3] + (1 << 9,) + ADMIN[4:]  # APP_MODBUS_RW and nothing else
P = "modbus_tcp_master"


class Bus:
    """What a listener at the tag bus hears; checks the numbers of the batches."""

    def __init__(self, path):
        self.pipe = Listener(path, 10 * harness.SLOW)
        self.epoch = self.seq = self.generation = None
        self.batches = 0

    def next(self):
        b = tagwire.batch_of(self.pipe.take_frame())
        if self.epoch is not None:
            assert b.epoch == self.epoch and b.generation >= self.generation
            assert b.seq == self.seq + (len(b.samples) > 0), (b.seq, self.seq)
        self.epoch, self.seq, self.generation = b.epoch, b.seq, b.generation
        self.batches += 1
        return b

    def wait(self, what, condition):
        """The first sample for which condition holds."""
        end = time.monotonic() + 10 * harness.SLOW
        while time.monotonic() < end:
            for s in self.next().samples:
                if condition(s):
                    return s
        raise AssertionError(f"no sample in time: {what}")


class ModbusDaemon(OneDaemon):
    name = "modbusd"

    # ---- configuration ----

    @classmethod
    def set_iface(cls, **members):
        cls.done("patchMasterTcpIface", {"tcpMasterId": 1, **members}, path=("1",), who=WHO)

    @classmethod
    def add_device(cls, name, port, **members):
        return cls.done("postRemoteDevs", {
            "masterTcpIfaceId": 1, "name": name, "slaveId": 1, "slaveIpaddr": "127.0.0.1",
            "slaveTcpPort": port, **members}, who=WHO)["remoteDevId"]

    @classmethod
    def add_command(cls, device, name, func, **members):
        return cls.done("postMcmds", {"remoteDevId": device, "name": name, "func": func,
                                      **members}, who=WHO)["mcmdId"]

    @classmethod
    def add_tag(cls, command, name, type_, offset, access, **members):
        return cls.done("postMasterTags", {"mcmdId": command, "name": name, "dataType": type_,
                                           "offset": offset, "access": access, **members},
                        who=WHO)["tagId"]

    def delete_device(self, device):
        self.done("deleteRemoteDev", path=(str(device),), who=WHO, status=204)

    def changed(self):
        return self.done("getMasterConfigChange", who=WHO)["result"] == 1

    def devices(self):
        return {d["name"]: d for d in self.done("getRemoteDevs", who=WHO)}

    # ---- the bus ----

    def bus(self):
        b = Bus(self.socket("modbusd", "tags"))
        self.addCleanup(b.pipe.close)
        return b

    def page(self, op, first=0):
        got = self.tell(op, struct.pack(">I", first))
        self.assertEqual(got.status, 200)
        return tagwire.page_of(got.body, tagwire.definition_at if op == buspeer.TAG_CATALOGUE
                               else tagwire.last_value_at)

    def pages(self, op):
        first, out, n = 0, [], 0
        while True:
            p = self.page(op, first)
            out += p.items
            n += 1
            if p.next == 0:
                return out, n
            self.assertEqual(p.next, first + len(p.items))
            first = p.next

    def tags(self):
        return {(d.source, d.name): d for d in self.pages(buspeer.TAG_CATALOGUE)[0]}

    def last(self, no):
        return next(s for s in self.page(buspeer.TAG_SNAPSHOT).items if s.no == no)

    def wait_good(self, no, value=None):
        return wait_for(f"tag {no} to be good", lambda: self.last(no).quality == tagwire.GOOD
                        and (value is None or self.last(no).value == value))

    # ---- reading and writing now ----

    def read(self, no, seconds=5.0):
        return self.tell(buspeer.TAG_READ, struct.pack(">I", no),
                         deadline_us=int((time.monotonic() + seconds) * 1e6))

    def write(self, no, type_, value, seconds=5.0):
        return self.tell(buspeer.TAG_WRITE, struct.pack(">I", no) + tagwire.value(type_, value),
                         deadline_us=int((time.monotonic() + seconds) * 1e6))
