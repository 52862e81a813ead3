"""Serial masters on the lines of the bench: modbusd, iod and what is at the far
end of the line, at the pace that is set. The devices are pymodbus, and one that
does wrong what goes wrong on serial lines."""
import struct

import harness
from harness import Plant, Suite, wait_for
from hostile_serial import HostileSerial
from test_modbus_faults import pass_time

TEST_SECONDS = 180
P = "modbus_serial_master"
IFACES = "/modbusmaster/config/master-ser-ifaces"
DEVS = "/modbusmaster/config/remote-devs"
TIMEOUT_MS = min(1000, int(400 * harness.SLOW))  # the devices are Python
INTERVAL_MS = 100


class Serial(Suite):
    daemons = ("auditd", "authd", "tagd", "iod", "modbusd", "gateway")
    settings = {"mode": "rs4852w", "baudRate": 115200, "parity": "even", "dataBits": 8,
                "stopBits": 1}

    @classmethod
    def prepare(cls):
        cls.set_port(1)
        cls.set_port(2)
        wait_for("both interfaces", lambda: len(cls.admin.get(IFACES).data) == 2)

    @classmethod
    def set_port(cls, number, **members):
        reply = cls.admin.patch(f"/device/serials/{number}", {**cls.settings, **members})
        assert reply.status == 200, reply

    @classmethod
    def set_line(cls, number, **members):
        reply = cls.admin.patch(f"{IFACES}/{number}", {"serMasterId": 1, "portValue": number - 1,
                                                       **members})
        assert reply.status == 200, reply

    @classmethod
    def far_end(cls, number):
        return f"{cls.fleet.state}/iod/dev/line{number - 1}"

    @classmethod
    def add_serial(cls, port, name, commands, unit=1, **members):
        """As add_device, on a serial interface."""
        return cls.add_device(name, 502, commands, unit, masterSerIfaceId=port, **members)

    @classmethod
    def values(cls, device, *tags, provider=P):
        return super().values(device, *tags, provider=provider)

    def write(self, device, tag, value):
        return self.admin.put("/modbusmaster/operate/direct-write-tag", {
            "prvdName": P, "srcName": device, "tagName": tag, "dataValue": value})

    def read(self, device, tag):
        return self.admin.put("/modbusmaster/operate/direct-read-tag", {
            "prvdName": P, "srcName": device, "tagName": tag})

    def port_status(self, number):
        data = self.assert_ok(self.admin.get("/modbusmaster/diagnose/serial-status")).data
        return next(p for p in data["Ports"] if p["portNumber"] == number)


FUNCTIONS = [
    ("coils", 1, 10, 16, INTERVAL_MS, [("coil", "boolean", 3, "rw")]),
    ("inputs", 2, 20, 16, INTERVAL_MS, [("input", "boolean", 9)]),
    ("regs", 3, 100, 20, INTERVAL_MS, [
        ("i16", "int16", 0, "rw"), ("u32", "uint32", 2, "rw"), ("f32", "float", 6, "rw"),
        ("f64", "double", 10), ("u64", "uint64", 18), ("flag", "boolean", 26)]),
    ("input-regs", 4, 200, 2, INTERVAL_MS, [("in", "uint16", 2)]),
    ("coil-out", 5, 30, 1, INTERVAL_MS, [("coil-out", "boolean", 0)]),
    ("reg-out", 6, 300, 1, INTERVAL_MS, [("reg-out", "uint16", 0)]),
    ("coils-out", 15, 40, 2, INTERVAL_MS, [("coils-out", "boolean", 1)]),
    ("regs-out", 16, 400, 2, INTERVAL_MS, [("regs-out", "uint32", 0)]),
]


class Pymodbus(Serial):
    """Both framings, each on its own line, against an implementation that is not ours."""

    @classmethod
    def prepare(cls):
        super().prepare()
        cls.set_line(1, responseTout=2000)
        cls.set_line(2, responseTout=2000, format=1)
        cls.plants = {}
        for port, name in ((1, "rtu"), (2, "ascii")):
            cls.plants[name] = Plant(cls.fleet, serial=(name, cls.far_end(port)))
            cls.add_serial(port, name, FUNCTIONS)
        cls.apply()

    @classmethod
    def tearDownClass(cls):
        for plant in cls.plants.values():
            plant.stop()
        super().tearDownClass()

    def test_every_function_that_reads(self):
        regs = struct.pack(">hIfdQH", -2, 4000000000, 1.5, -2.25, 2**63 + 1, 7)
        for name, plant in self.plants.items():
            with self.subTest(name):
                plant.set(13, 1, kind="coil")
                plant.set(29, 1, kind="discrete")
                plant.set(201, 4711, kind="input")
                plant.set(100, *struct.unpack(">14H", regs))
                for tag, value in (("coil", True), ("input", True), ("in", 4711), ("i16", -2),
                                   ("u32", 4000000000), ("f32", 1.5), ("f64", -2.25),
                                   ("u64", 2**63 + 1), ("flag", True)):
                    self.wait_value(name, tag, value, 20)

    def test_every_function_that_writes(self):
        for name, plant in self.plants.items():
            with self.subTest(name):
                for tag, value, kind, address, want in (
                        ("coil", True, "coil", 13, [1]), ("i16", -3, "holding", 100, [65533]),
                        ("u32", 65537, "holding", 101, [1, 1]),
                        ("coil-out", True, "coil", 30, [1]),
                        ("reg-out", 4242, "holding", 300, [4242]),
                        ("coils-out", True, "coil", 41, [1]),
                        ("regs-out", 131075, "holding", 400, [2, 3])):
                    self.assert_ok(self.write(name, tag, value))
                    self.assertEqual(plant.get(address, len(want), kind=kind), want, tag)

    def test_function_23_writes_and_reads_in_one(self):
        for port, (name, plant) in enumerate(self.plants.items(), 1):
            with self.subTest(name):
                device = self.made(DEVS, masterSerIfaceId=port, name=f"{name}-23", slaveId=2)
                command = self.made("/modbusmaster/config/mcmds", name="both", func=23, mode=1,
                                    remoteDevId=device["remoteDevId"], readAddress=500,
                                    readQuantity=2, writeAddress=600, writeQuantity=1)
                for tag, access in (("got", "r"), ("put", "w")):
                    self.made("/modbusmaster/config/tags", mcmdId=command["mcmdId"], name=tag,
                              dataType="uint16", access=access)
                plant.set(500, 77, 78)
                self.apply()
                self.assert_ok(self.write(f"{name}-23", "put", 99))
                self.assertEqual(plant.get(600), [99])
                self.wait_value(f"{name}-23", "got", 77)
                self.admin.delete(f"{DEVS}/{device['remoteDevId']}")
                self.apply()

    def made(self, path, **body):
        reply = self.admin.post(path, body)
        self.assertIn(reply.status, (200, 201), reply)
        return reply.data

    def test_settings_that_change_while_it_runs_are_followed(self):
        for n, baud in enumerate((19200, 57600), 1):
            self.set_port(1, baudRate=baud, parity="none")
            self.plants["rtu"].set(201, n, kind="input")
            self.wait_value("rtu", "in", n, 20)
        self.set_port(1)

    def test_kill_9_of_either_daemon_is_overcome(self):
        for daemon in ("modbusd", "iod"):
            self.kill(daemon)
            self.start(daemon)
            for name, plant in self.plants.items():
                plant.set(201, len(daemon), kind="input")
                self.wait_value(name, "in", len(daemon), 30)

    def test_lines_are_known_while_iod_is_away(self):
        """What iod said last is kept: the interfaces stay, and the lines are tried."""
        self.kill("iod")
        self.kill("modbusd")
        self.start("modbusd")
        wait_for("modbusd", lambda: self.admin.get(IFACES).status == 200)
        self.assertEqual([i["portValue"] for i in self.admin.get(IFACES).data], [0, 1])
        self.wait_quality("rtu", "in", ("connection", "never"), 20)
        self.start("iod")
        self.wait_quality("rtu", "in", "good", 20)


class Faults(Serial):
    """One line with a unit that fails, one that does not, and nobody else."""

    is_ascii, char_interval = False, 0

    @classmethod
    def prepare(cls):
        super().prepare()
        cls.device = HostileSerial(cls.far_end(1), cls.is_ascii)
        cls.set_line(1, retryCount=0, responseTout=TIMEOUT_MS, format=int(cls.is_ascii),
                     charInterval=cls.char_interval)
        for name, unit in (("bad", 1), ("good", 2)):
            cls.add_serial(1, name, [
                ("regs", 3, 10, 4, INTERVAL_MS, [("a", "uint16", 0), ("b", "uint16", 6, "rw")])],
                unit)
        cls.add_serial(1, "all", [("out", 6, 50, 1, INTERVAL_MS, [("out", "uint16", 0)])], 0)
        cls.apply()

    @classmethod
    def tearDownClass(cls):
        cls.device.stop()
        super().tearDownClass()

    def setUp(self):
        self.device.mode, self.device.unit_mode, self.device.echo = "ok", {}, False
        for name in ("bad", "good"):  # read now: a unit that was mute is left alone for a while
            wait_for(f"{name} to answer", lambda n=name: self.read(n, "a").status == 200)
            self.wait_quality(name, "a", "good")

    def test_each_fault_is_told_and_costs_the_other_unit_nothing(self):
        for mode, qualities in (("exception", ("exception",)), ("crc", ("reply",)),
                                ("cut", ("reply",)), ("wrong_func", ("reply",))):
            with self.subTest(mode):
                before = self.device.answered.get(2, 0)
                self.device.unit_mode = {1: mode}
                row = self.wait_quality("bad", "a", qualities)
                self.assertEqual(row["dataValue"], 10, "the last good value stays")
                wait_for("the other unit", lambda b=before: self.device.answered[2] > b + 5)
                self.assertEqual(self.values("good")["a"]["quality"], "good")
                self.setUp()

    def test_what_is_no_answer_is_passed_over(self):
        for mode in ("foreign", "noise"):
            with self.subTest(mode):
                self.device.unit_mode = {1: mode}
                before = self.device.requests[1]
                wait_for("answers", lambda b=before: self.device.requests[1] > b + 5)
                self.assertEqual(self.values("bad")["a"]["quality"], "good")

    def test_a_collision_ends_one_request(self):
        before = self.port_status(1)
        self.device.unit_mode = {1: "collide"}
        self.wait_quality("bad", "a", ("reply", "timeout"))
        after = self.port_status(1)
        self.assertGreater(after["recvCrcLrcErrors"] + after["timeout"],
                           before["recvCrcLrcErrors"] + before["timeout"])

    def test_a_late_answer_is_never_that_of_another_unit(self):
        self.device.delay = TIMEOUT_MS / 1000 + 0.01
        self.device.unit_mode = {1: "late"}
        self.wait_quality("bad", "a", "timeout")
        for _ in range(10):
            reply = self.read("good", "b")
            if reply.status == 200:
                self.assertEqual(reply.data["dataValue"], 13)

    def test_an_echo_is_no_answer(self):
        self.device.echo = True
        before = self.device.answered[1]
        wait_for("answers", lambda: self.device.answered[1] > before + 5)
        self.assert_ok(self.write("bad", "b", 5))
        self.device.unit_mode = {1: "mute"}
        self.assertEqual(self.write("bad", "b", 6).status, 400)

    def test_a_line_that_is_never_silent_is_told(self):
        self.device.mode = "babble"
        self.wait_quality("good", "a", ("timeout", "reply"))

    def test_a_write_to_all_units_needs_no_answer(self):
        self.assert_ok(self.write("all", "out", 321))
        self.assertIn((0, 50, 321), self.device.writes)

    def test_neighbours_are_read_in_one_request_as_far_as_the_interface_allows(self):
        made = self.add_serial(1, "pair", [
            (f"c{i}", 3, 3 * i, 1, INTERVAL_MS, [(f"t{i}", "uint16", 0)]) for i in range(3)], 3)
        self.addCleanup(self.apply)
        self.addCleanup(self.admin.delete, f"{DEVS}/{made['device']}")
        for command in made["commands"]:
            self.assert_ok(self.admin.patch(f"/modbusmaster/config/mcmds/{command}", {
                "remoteDevId": made["device"], "mergeRead": 1}))
        one, each = {(0, 7)}, {(0, 1), (3, 1), (6, 1)}
        for members, want in (({"mergeGap": 2}, one), ({"mergeGap": 1}, each),
                              ({"mergeGap": 8}, one), ({"mergeQuantity": 3}, each),
                              ({"mergeQuantity": 125}, one)):
            with self.subTest(members):
                self.set_line(1, **members)
                self.apply()
                wait_for("such requests", lambda w=want: {
                    struct.unpack_from(">HH", pdu, 1) for pdu in self.device.last_pdus(3)} == w)
                for i in range(3):
                    self.wait_value("pair", f"t{i}", 3 * i)
        rows = self.assert_ok(self.admin.get(
            f"/modbusmaster/diagnose/mcmd-status?remoteDevId={made['device']}")).data
        self.assertEqual([row["mcmdName"] for row in rows], ["c0", "c1", "c2"])
        for row in rows:  # of each, also of what was asked together
            self.assertGreater(row["recvValidResps"], 3, rows)
        self.assertGreater(self.metrics()[
            'fieldgate_modbus_line_replies_total{daemon="modbusd",port="1"}'], 3)

    def test_a_mute_unit_leaves_the_other_its_samples(self):
        self.device.unit_mode = {1: "mute"}
        self.wait_quality("bad", "a", "timeout")
        before = self.device.answered[2]
        given = pass_time(self.fleet, 6 * TIMEOUT_MS / 1000)
        share = (self.device.answered[2] - before + 1) / (given * 1000 / INTERVAL_MS)
        self.assertGreaterEqual(share, 0.8 / harness.SLOW, "of the samples of the healthy unit")


class AsciiFaults(Faults):
    is_ascii, char_interval = True, 300


class Configuration(Serial):
    """Rules, and what is shown; nobody is at the far end."""

    def setUp(self):
        self.admin.delete(DEVS)
        self.set_line(1, format=0, frameInterval=0, charInterval=0)
        self.apply()

    def made(self, **members):
        reply = self.admin.post(DEVS, {"masterSerIfaceId": 1, "name": "d", **members})
        self.assertIn(reply.status, (200, 201), reply)
        return reply.data["remoteDevId"]

    def test_there_is_one_interface_for_each_port(self):
        rows = self.assert_ok(self.admin.get(IFACES)).data
        self.assertEqual([(r["masterSerIfaceId"], r["serMasterId"], r["portValue"]) for r in rows],
                         [(1, 1, 0), (2, 1, 1)])
        self.assertEqual(self.admin.get(f"{IFACES}/2").data, rows[1])
        for number in (0, 3, 33, 4294967295):
            self.assertEqual(self.admin.get(f"{IFACES}/{number}").status, 404)
            self.assertEqual(self.admin.put(f"{IFACES}/{number}", {
                "serMasterId": 1, "portValue": 0}).status, 404)

    def test_put_sets_defaults_and_patch_keeps(self):
        self.set_line(1, retryCount=0, responseTout=777, format=1)
        self.assertEqual(self.admin.patch(f"{IFACES}/1", {"retryCount": 2}).data["format"], 1)
        data = self.assert_ok(self.admin.put(f"{IFACES}/1", {"serMasterId": 1,
                                                             "portValue": 0})).data
        self.assertEqual(data, {"masterSerIfaceId": 1, "serMasterId": 1, "portValue": 0,
                                "format": 0, "initialDelay": 0, "retryCount": 3,
                                "responseTout": 1000, "frameInterval": 0, "charInterval": 0,
                                "mergeGap": 8, "mergeQuantity": 125, "remoteDevs": []})

    def test_what_an_interface_cannot_be_is_refused(self):
        good = {"serMasterId": 1, "portValue": 0}
        for body, pointer in (({"serMasterId": 2}, "/serMasterId"), ({"portValue": 1}, "/portValue"),
                              ({"frameInterval": 9}, "/frameInterval"),
                              ({"frameInterval": 501}, "/frameInterval"),
                              ({"charInterval": 1}, "/charInterval"), ({"format": 2}, "/format"),
                              ({"responseTout": 9}, "/responseTout"),
                              ({"mergeGap": 125}, "/mergeGap"),
                              ({"mergeQuantity": 0}, "/mergeQuantity")):
            for send in (self.admin.put, self.admin.patch):
                with self.subTest(body):
                    self.assert_refused(send(f"{IFACES}/1", {**good, **body}), 400, pointer=pointer)
        for body in ({"frameInterval": 10, "charInterval": 500}, {"frameInterval": 500}):
            self.assert_ok(self.admin.patch(f"{IFACES}/1", body))

    def test_rules_of_serial_devices(self):
        device = self.made(name="one", slaveId=7)
        self.add_device("one", 502, [])  # names of TCP devices are apart
        for body, pointer in (({"name": "one"}, "/name"), ({"slaveId": 7}, "/slaveId"),
                              ({"masterSerIfaceId": 3}, "/masterSerIfaceId"),
                              ({"masterSerIfaceId": 0}, "/masterSerIfaceId"),
                              ({"masterTcpIfaceId": 1}, "/masterSerIfaceId"),
                              ({"enableConcurrentTransaction": 1}, "/enableConcurrentTransaction")):
            with self.subTest(body):
                self.assert_refused(self.admin.post(DEVS, {
                    "masterSerIfaceId": 1, "name": "two", "slaveId": 8, **body}), 400,
                    pointer=pointer)
        self.assert_refused(self.admin.post(DEVS, {"name": "two"}), 400,
                            pointer="/masterTcpIfaceId")
        self.made(name="other-port", masterSerIfaceId=2, slaveId=7)
        for body, pointer in (({"masterSerIfaceId": 2, "name": "one"}, "/masterSerIfaceId"),
                              ({"masterTcpIfaceId": 1, "name": "one"}, "/masterTcpIfaceId")):
            self.assert_refused(self.admin.put(f"{DEVS}/{device}", body), 400, pointer=pointer)
        self.assert_refused(self.admin.patch(f"{DEVS}/{device}", {"masterSerIfaceId": 2}), 400,
                            pointer="/masterSerIfaceId")

    def test_unit_0_is_for_commands_that_only_write(self):
        device, mcmds = self.made(slaveId=0), "/modbusmaster/config/mcmds"
        for func in (1, 2, 3, 4, 23):
            self.assert_refused(self.admin.post(mcmds, {
                "remoteDevId": device, "name": "c", "func": func}), 400, pointer="/func")
        for func in (5, 6, 15, 16):
            self.assertIn(self.admin.post(mcmds, {"remoteDevId": device, "name": f"c{func}",
                                                  "func": func}).status, (200, 201))
        other = self.made(name="e", slaveId=1)
        self.admin.post(mcmds, {"remoteDevId": other, "name": "c"})
        self.admin.delete(f"{DEVS}/{device}")
        self.assert_refused(self.admin.patch(f"{DEVS}/{other}", {"slaveId": 0}), 400,
                            pointer="/slaveId")

    def test_lists_hold_both_kinds_and_trees_their_own(self):
        self.made(name="serial")
        self.add_device("tcp", 502, [])
        self.assertEqual({d["name"] for d in self.admin.get(DEVS).data}, {"serial", "tcp"})
        trees = {"tcp": self.admin.get("/modbusmaster/config/tcp-masters/1").data[
                     "masterTcpIfaces"][0],
                 "serial": self.admin.get("/modbusmaster/config/ser-masters/1").data[
                     "masterSerIfaces"][0]}
        for kind, tree in trees.items():
            self.assertEqual([d["name"] for d in tree["remoteDevs"]], [kind])
        self.assertEqual(self.admin.get(f"{IFACES}/2").data["remoteDevs"], [])

    def test_the_master_can_have_another_name(self):
        masters = "/modbusmaster/config/ser-masters"
        self.made(name="named")
        self.assertEqual(self.admin.patch(f"{masters}/1", {"name": "bus"}).data["name"], "bus")
        self.apply()
        wait_for("the new provider", lambda: self.values("named", "status", provider="bus"))
        data = self.admin.put(f"{masters}/1", {}).data
        self.assertEqual(data["name"], P)
        self.assertEqual(self.admin.get(masters).data, [data])
        for send in (self.admin.get, lambda p: self.admin.put(p, {}),
                     lambda p: self.admin.patch(p, {})):
            self.assertEqual(send(f"{masters}/2").status, 404)
        self.assert_refused(self.admin.put(f"{masters}/1", {"name": "a b"}), 400, pointer="/name")

    def test_undo_takes_changes_of_a_line_back(self):
        self.set_line(1, format=1)
        self.made()
        self.assert_ok(self.admin.put("/modbusmaster/control/config/undo"))
        self.assertEqual(self.admin.get(f"{IFACES}/1").data["format"], 0)
        self.assertEqual(self.admin.get(DEVS).data, [])
        self.assertEqual(self.admin.get("/modbusmaster/status/config/change").data["result"], 0)

    def clone(self, src, dest):
        return self.admin.put("/modbusmaster/control/config/clone", {
            "resource": "master-ser-ifaces", "src": src, "dest": dest})

    def test_a_clone_gives_an_interface_the_settings_of_another(self):
        self.made(name="stays", masterSerIfaceId=2)
        self.addCleanup(self.set_line, 2, format=0, responseTout=1000, charInterval=0, mergeGap=8)
        self.set_line(1, format=1, responseTout=432, charInterval=50, mergeGap=3)
        got = self.assert_ok(self.clone({"masterSerIfaceId": 1}, {"masterSerIfaceIds": [2]}))
        want = {**self.admin.get(f"{IFACES}/1").data, "masterSerIfaceId": 2, "portValue": 1,
                "remoteDevs": self.admin.get(f"{IFACES}/2").data["remoteDevs"]}
        self.assertEqual(want["remoteDevs"][0]["name"], "stays")
        self.assertEqual(got.data, [want])
        self.assertEqual(self.admin.get(f"{IFACES}/2").data, want)
        self.assert_audited("modbusMasterUpdate")

    def test_a_clone_to_or_from_no_interface_changes_nothing(self):
        one, two = {"masterSerIfaceId": 1}, {"masterSerIfaceIds": [2]}
        before = self.admin.get(f"{IFACES}/2").data
        self.set_line(1, responseTout=543)
        for src, dest, pointer in (
                ({"masterSerIfaceId": 3}, two, "/src/masterSerIfaceId"),
                ({}, two, "/src/masterSerIfaceId"),
                ({**one, "remoteDevId": 1}, two, "/src/remoteDevId"),
                (one, {"masterSerIfaceIds": [2, 9]}, "/dest/masterSerIfaceIds/1"),
                (one, {"masterSerIfaceIds": [0]}, "/dest/masterSerIfaceIds/0"),
                (one, {"masterSerIfaceIds": []}, "/dest/masterSerIfaceIds"),
                (one, {}, "/dest/masterSerIfaceIds"),
                *((one, {**two, member: value}, f"/dest/{member}") for member, value in (
                    ("name", "x"), ("slaveId", 1), ("slaveIpaddr", "::1"), ("slaveTcpPort", 1),
                    ("enable", 1)))):
            with self.subTest(src=src, dest=dest):
                self.assert_refused(self.clone(src, dest), 400, pointer=pointer)
        self.assertEqual(self.admin.get(f"{IFACES}/2").data, before)

    def test_the_status_tells_ports_in_use(self):
        status = self.assert_ok(self.admin.get("/modbusmaster/diagnose/serial-status")).data
        self.assertEqual((status["role"], status["Ports"]), ("Master", []))
        self.add_serial(2, "nobody", [("r", 3, 0, 1, INTERVAL_MS, [("r", "uint16", 0)])])
        self.set_line(2, responseTout=20, retryCount=0)
        self.apply()
        port = wait_for("time-outs", lambda: (p := self.port_status(2))["timeout"] and p)
        self.assertEqual((port["mode"], port["status"], port["recvValidResps"], port["break"]),
                         ("RTU", "Request timeout", 0, 0))
        self.assertGreaterEqual(port["sentReqs"], port["timeout"])


if __name__ == "__main__":
    harness.main()
