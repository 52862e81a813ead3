"""The Modbus configuration on a full disk: what does not fit is refused and
changes nothing, what runs goes on, and it goes in when there is room."""
import os
import socket

from harness import SmallDisk, Suite, free_port, wait_for
from hostile_modbus import Hostile

PRIVATE_MOUNTS = True
M, S = "/modbusmaster", "/modbusslave"


def many(n_devices, n_tags):
    """A file of masters that takes some MiB in the store."""
    devices = [f"1,d{i},{i % 250 + 1},192.0.2.{i // 250 + 1},502" for i in range(n_devices)]
    commands = [f"d{i},c,3,0,{n_tags}" for i in range(n_devices)]
    tags = [f"d{i},c,t{k},uint16,{2 * k}" for i in range(n_devices) for k in range(n_tags)]
    return "\r\n".join(["version,1", "remoteDevs",
                        "masterTcpIfaceId,name,slaveId,slaveIpaddr,slaveTcpPort", *devices,
                        "mcmds", "remoteDevName,name,func,readAddress,readQuantity", *commands,
                        "tags", "remoteDevName,mcmdName,name,dataType,offset", *tags, ""])


class FullDisk(SmallDisk, Suite):
    daemons = ("auditd", "authd", "tagd", "iod", "modbusd", "gateway")
    MIB = 24

    @classmethod
    def prepare(cls):
        cls.device = Hostile()
        cls.add_device("pump", cls.device.port, [("regs", 3, 0, 1, 100, [("a", "uint16", 0)])])
        cls.apply()
        cls.port = free_port()

    @classmethod
    def tearDownClass(cls):
        cls.device.stop()
        super().tearDownClass()

    def setUp(self):
        self.n = 0
        self.pump = self.admin.get(f"{M}/config/remote-devs").data[0]["remoteDevId"]
        self.polled()

    def tearDown(self):
        self.taken(lambda: self.admin.put(f"{M}/control/config/undo"))
        self.taken(lambda: self.admin.put(f"{S}/control/config/undo"))

    def fill(self, leave=0):
        """All but some bytes."""
        super().fill()
        os.truncate(self.big, os.path.getsize(self.big) - leave)

    def commands(self, n):
        self.n += n
        return [{"remoteDevId": self.pump, "name": f"x{self.n - i}".ljust(120, "_")}
                for i in range(n)]

    def exhaust(self):
        """Not even what the store had put by is free any more."""
        self.fill()
        for size in (500, 50, 5, 1, 1):
            while True:
                reply = self.admin.post(f"{M}/config/mcmds", self.commands(size))
                if reply.status != 200:
                    break
            self.assertEqual(reply.status, 507)

    def empty(self):
        if os.path.exists(self.big):
            os.unlink(self.big)

    @staticmethod
    def zone(address):
        return {"address": address, "quan": 500, "tags": [
            {"name": f"z{address}_{k}", "dataType": "uint16", "offset": 2 * k}
            for k in range(500)]}

    def polled(self):
        n = self.device.requests.get(1, 0)
        wait_for("the pump is asked", lambda: self.device.requests.get(1, 0) > n + 2)

    def staged(self):
        return (self.admin.get(f"{M}/config/remote-devs").json,
                self.admin.get(f"{S}/config/szones").json,
                self.admin.get(f"{M}/status/config/change").json,
                self.admin.get(f"{S}/status/config/change").json)

    def refused(self, ask):
        """507, and all is as it was."""
        before = self.staged()
        self.assertEqual(ask().status, 507)
        self.assertEqual(self.staged(), before)
        self.polled()

    def taken(self, ask, status=200):
        """Once there is room, which may be noticed a moment later."""
        self.empty()
        wait_for("room", lambda: ask().status == status, 90)

    def test_an_import_that_does_not_fit_is_refused_whole(self):
        def send(text):
            return self.admin.form("POST", f"{M}/control/config/masters/import",
                                   mastersFile=("m.csv", text))
        text = many(250, 100)
        self.fill(leave=2 << 20)
        self.refused(lambda: send(text))
        self.taken(lambda: send(many(2, 1)), 201)
        self.polled()

    def test_what_cannot_be_applied_is_not_in_force(self):
        self.assert_ok(self.admin.post(f"{M}/config/remote-devs", {
            "masterTcpIfaceId": 1, "name": "later", "slaveIpaddr": "192.0.2.9"}))
        self.exhaust()
        self.refused(lambda: self.admin.put(f"{M}/control/config/apply"))
        self.assertEqual(self.admin.get(f"{M}/status/config/change").data["result"], 1)
        self.taken(lambda: self.admin.put(f"{M}/control/config/apply"))
        self.assertEqual(self.admin.get(f"{M}/status/config/change").data["result"], 0)

    def test_a_port_that_was_opened_for_what_cannot_be_stored_is_given_back(self):
        self.assert_ok(self.admin.put(f"{S}/config/tcp-slaves/1",
                                      {"enable": 1, "listenPort": self.port}))
        self.assert_ok(self.admin.put(f"{S}/control/config/apply"))
        other = free_port()
        self.assert_ok(self.admin.post(f"{S}/config/szones", [self.zone(500 * i)
                                                              for i in range(8)]))
        self.assert_ok(self.admin.patch(f"{S}/config/tcp-slaves/1", {"listenPort": other}))
        self.exhaust()
        self.refused(lambda: self.admin.put(f"{S}/control/config/apply"))
        socket.create_connection(("127.0.0.1", self.port), 5).close()
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", other), 5)
        self.taken(lambda: self.admin.put(f"{S}/control/config/apply"))
        socket.create_connection(("127.0.0.1", other), 5).close()

    def test_zones_go_in_until_the_disk_is_full_and_no_further(self):
        self.assert_ok(self.admin.delete(f"{S}/config/szones"), 204)
        self.fill(leave=1 << 20)
        address, status = 0, 200
        while status == 200 and address < 65000:
            before = self.admin.get(f"{S}/config/szones").json
            status = self.admin.post(f"{S}/config/szones", self.zone(address)).status
            address += 500
        self.assertEqual((status, self.admin.get(f"{S}/config/szones").json), (507, before))
        self.polled()
        self.taken(lambda: self.admin.delete(f"{S}/config/szones"), 204)

    def test_a_daemon_that_dies_on_a_full_disk_comes_back_and_polls(self):
        self.assert_ok(self.admin.post(f"{M}/config/mcmds", self.commands(1000)))
        self.exhaust()
        self.kill("modbusd")
        self.start("modbusd")
        self.refused(lambda: self.admin.put(f"{M}/control/config/apply"))
