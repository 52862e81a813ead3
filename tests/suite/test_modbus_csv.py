"""CSV import and export of the Modbus masters: what goes out comes in again, a
bad file changes nothing and every error tells its line and cell."""
import csv
import io
import re
import string
import threading

import hypothesis
from hypothesis import strategies as st

from harness import Suite, wait_for

CONTROL = "/modbusmaster/control/config"
TREE = "/modbusmaster/config"
DEV = "masterTcpIfaceId,name,slaveId,slaveIpaddr,slaveTcpPort"
CMD = "remoteDevName,name,func,readAddress,readQuantity,pollInterval"
TAG = "remoteDevName,mcmdName,name,dataType,dataUnit,access,dataSize,offset"


def masters(devices=(), commands=(), tags=(), heads=(DEV, CMD, TAG), end="\r\n"):
    return end.join(["version,1", "remoteDevs", heads[0], *devices, "mcmds", heads[1], *commands,
                     "tags", heads[2], *tags, ""])


PLANT = masters(["1,pump,1,192.0.2.1,502", "1,valve,2,192.0.2.1,502"],
                ["pump,flow,3,0,4,1000", "pump,level,4,10,2,500", "valve,flow,3,0,1,1000"],
                ["pump,flow,a,uint16,l/s,r,,0", "pump,flow,b,string,,r,4,2",
                 "pump,level,c,float,m,r,,0", "valve,flow,a,int16,,r,,0"])


class Csv(Suite):
    daemons = ("auditd", "authd", "tagd", "modbusd", "gateway")

    def setUp(self):
        self.imported(PLANT)

    # ---- in a few words ----

    def send(self, text):
        return self.admin.form("POST", f"{CONTROL}/masters/import", mastersFile=("m.csv", text))

    def imported(self, text):
        return self.assert_ok(self.send(text), 201)

    def send_commands(self, device, text):
        return self.admin.form("POST", f"{CONTROL}/mcmds/import", remoteDevId=str(device),
                               mcmdsFile=("c.csv", text))

    def exported(self, what="masters/export"):
        reply = self.assert_ok(self.admin.get(f"{CONTROL}/{what}"))
        self.assertEqual(reply.headers["Content-Type"], "application/octet-stream")
        self.assertRegex(reply.headers["Content-Disposition"],
                         r'filename="modbusmaster_\d{12}\.csv"')
        return reply.body.decode()

    def devices(self):
        return self.admin.get(f"{TREE}/remote-devs").data

    def number(self, name):
        return next(d["remoteDevId"] for d in self.devices() if d["name"] == name)

    def assert_faults(self, reply, *faults):
        """(line, column, message) of each; the first is what is wrong."""
        self.assert_refused(reply, 400)
        error = reply.json["error"]
        got = [(d.get("line"), d.get("column"), d["message"]) for d in error["details"]]
        self.assertEqual(got, list(faults))
        self.assertEqual(error["message"], faults[0][2])

    # ---- there and back ----

    def test_an_export_that_is_imported_again_is_no_change(self):
        self.apply()
        tree = self.devices()
        self.imported(self.exported())
        self.assertEqual(self.devices(), tree)
        self.assertEqual(self.admin.get("/modbusmaster/status/config/change").data["result"], 0)

    def test_an_export_of_one_gateway_is_the_configuration_of_another(self):
        text = self.exported()
        self.imported(masters())
        self.assertEqual(self.devices(), [])
        self.imported(text)
        self.assertEqual(self.exported(), text)

    def test_an_import_answers_the_whole_tree(self):
        reply = self.imported(PLANT).json
        self.assertEqual(reply["count"], 1)
        master, = reply["data"][0]["tcpMasters"]["data"]
        self.assertEqual(master["masterTcpIfaces"][0]["remoteDevs"], self.devices())

    def test_what_keeps_its_name_keeps_its_number_and_what_is_new_gets_one(self):
        before = {d["name"]: d for d in self.devices()}
        self.imported(PLANT.replace("valve", "gate").replace("pump,flow,a,", "pump,flow,z,"))
        after = {d["name"]: d for d in self.devices()}
        self.assertEqual(after["pump"]["remoteDevId"], before["pump"]["remoteDevId"])
        self.assertGreater(after["gate"]["remoteDevId"], before["valve"]["remoteDevId"])
        tags = {t["name"]: t["tagId"] for c in after["pump"]["mcmds"] for t in c["tags"]}
        old = {t["name"]: t["tagId"] for c in before["pump"]["mcmds"] for t in c["tags"]}
        self.assertEqual((tags["b"], tags["c"]), (old["b"], old["c"]))
        self.assertGreater(tags["z"], max(old.values()))

    def test_addresses_and_names_may_change_places(self):
        text = PLANT.replace("1,pump,1,", "1,pump,X,").replace("1,valve,2,", "1,valve,1,") \
            .replace("X", "2")
        self.imported(text)
        self.assertEqual({d["name"]: d["slaveId"] for d in self.devices()},
                         {"pump": 2, "valve": 1})

    def test_interface_and_master_are_part_of_it(self):
        self.set_interface(retryCount=5, responseTout=777)
        text = self.exported()
        self.set_interface(retryCount=1, responseTout=888)
        self.imported(text)
        iface = self.admin.get(f"{TREE}/master-tcp-ifaces/1").data
        self.assertEqual((iface["retryCount"], iface["responseTout"]), (5, 777))

    def test_without_their_tables_they_stay_as_they_are(self):
        self.set_interface(retryCount=2, responseTout=999)
        self.imported(PLANT)
        iface = self.admin.get(f"{TREE}/master-tcp-ifaces/1").data
        self.assertEqual((iface["retryCount"], iface["responseTout"]), (2, 999))

    def test_files_from_spreadsheets_are_taken(self):
        wanted = self.exported()
        padded = "\ufeff" + "\n".join(
            line + "," * (30 - line.count(",")) for line in PLANT.split("\r\n"))
        for text in (PLANT.replace("\r\n", "\n"), padded, PLANT.replace("pump", '"pump"'),
                     PLANT.replace("mcmds\r\n", "\r\nmcmds\r\n"), PLANT.rstrip()):
            self.imported(masters())
            self.imported(text)
            self.assertEqual(self.exported(), wanted)

    def test_texts_that_look_like_formulas_are_guarded_in_the_file_only(self):
        units = ["=1+2", "-", "+x", "@a", "'=x", 'a"b', "a,b", "'"]
        tags = [f"pump,flow,u{i},uint16,\"{u.replace(chr(34), chr(34) * 2)}\",r,,0"
                for i, u in enumerate(units)]
        # a file made by hand has no guard; "'=x" stands for "=x" there
        self.imported(masters(["1,pump,1,192.0.2.1,502"], ["pump,flow,3,0,4,1000"], tags))
        units[4] = "=x"
        shown = lambda: [t["dataUnit"] for t in self.devices()[0]["mcmds"][0]["tags"]]
        self.assertEqual(shown(), units)
        text = self.exported()
        for row in csv.reader(io.StringIO(text)):
            self.assertFalse([c for c in row if c[:1] in tuple("=+@")], row)
        self.imported(text)
        self.assertEqual(shown(), units)

    def test_a_unit_that_is_empty_is_not_one_that_is_missing(self):
        self.imported(PLANT.replace("l/s", '""'))
        tags = lambda: {t["name"]: t.get("dataUnit") for t in self.devices()[0]["mcmds"][0]["tags"]}
        self.assertEqual(tags(), {"a": "", "b": None})
        self.imported(self.exported())
        self.assertEqual(tags(), {"a": "", "b": None})

    # ---- random plants ----

    names = st.text(string.ascii_letters + string.digits + "_.~-", min_size=1, max_size=12)
    unit = st.one_of(st.none(), st.text("".join(map(chr, range(32, 127))), max_size=16))
    real = st.floats(-1.79e308, 1.79e308, allow_nan=False)

    @staticmethod
    @st.composite
    def plants(draw):
        """Bodies as for POST, device by device."""
        cls, out = Csv, []
        for i, name in enumerate(draw(st.lists(cls.names, unique=True, max_size=3))):
            commands = [{"name": n, "enable": draw(st.integers(0, 1)), "readQuantity": 125,
                         "readAddress": draw(st.integers(0, 65411)),
                         "pollInterval": draw(st.integers(100, 86400000)),
                         "swap": draw(st.integers(0, 5)),
                         "interceptSlope": draw(cls.real), "pointTargetMin": draw(cls.real),
                         "fpData": draw(st.sampled_from(["00 00", "fF 0a", "7e"]))}
                        for n in draw(st.lists(cls.names, unique=True, max_size=3))]
            for c in commands:
                c["tags"] = []
            for n in draw(st.lists(cls.names.filter(lambda t: t != "status"), unique=True,
                                   max_size=5)) if commands else ():
                tag = {"name": n, "dataType": draw(st.sampled_from(
                    ["uint16", "int64", "uint64", "double", "string", "raw"])),
                       "access": "r", "offset": 2 * draw(st.integers(0, 20))}
                if tag["dataType"] in ("string", "raw"):
                    tag["dataSize"] = draw(st.integers(1, 100))
                unit = draw(cls.unit)
                if unit is not None:
                    tag["dataUnit"] = unit
                draw(st.sampled_from(commands))["tags"].append(tag)
            out.append({"name": name, "slaveId": i, "slaveIpaddr": "192.0.2.9",
                        "enable": draw(st.integers(0, 1)), "mcmds": commands})
        return out

    def make(self, plant):
        """By the other way in."""
        self.assert_ok(self.admin.delete(f"{TREE}/remote-devs"), 204)
        for d in plant:
            body = {k: v for k, v in d.items() if k != "mcmds"} | {"masterTcpIfaceId": 1}
            dev = self.assert_ok(self.admin.post(f"{TREE}/remote-devs", body)).data["remoteDevId"]
            for c in d["mcmds"]:
                body = {k: v for k, v in c.items() if k != "tags"} | {"remoteDevId": dev}
                cmd = self.assert_ok(self.admin.post(f"{TREE}/mcmds", body)).data["mcmdId"]
                if c["tags"]:
                    self.assert_ok(self.admin.post(f"{TREE}/tags", [t | {"mcmdId": cmd}
                                                                    for t in c["tags"]]))

    def test_any_plant_comes_back_as_it_was(self):
        @hypothesis.settings(max_examples=25, deadline=None, database=None, derandomize=True,
                             suppress_health_check=list(hypothesis.HealthCheck))
        @hypothesis.given(self.plants())
        def check(plant):
            self.make(plant)
            tree, text = self.devices(), self.exported()
            self.imported(text)
            self.assertEqual(self.devices(), tree)
            self.imported(masters())
            self.imported(text)
            self.assertEqual(self.exported(), text)
            strip = lambda t: re.sub(r'"(remoteDev|mcmd|tag)Id": \d+', "", repr(t).replace("'", '"'))
            self.assertEqual(strip(self.devices()), strip(tree))
        check()

    # ---- commands of one device ----

    COMMANDS = ("version,1\r\nmcmds\r\nname,func,readQuantity\r\nflow,4,2\r\nnew,3,1\r\n"
                "tags\r\nmcmdName,name,dataType,access\r\nnew,a,uint16,r\r\n")

    def test_commands_of_one_device_are_replaced_and_no_others(self):
        pump, valve = self.number("pump"), self.number("valve")
        other = self.admin.get(f"{TREE}/remote-devs/{valve}").data
        flow = self.admin.get(f"{TREE}/remote-devs/{pump}").data["mcmds"][0]["mcmdId"]
        reply = self.assert_ok(self.send_commands(pump, self.COMMANDS), 201).json
        now = self.admin.get(f"{TREE}/remote-devs/{pump}").data["mcmds"]
        self.assertEqual((reply["count"], reply["data"]), (1, [now]))
        self.assertEqual([(c["name"], c["func"], len(c["tags"])) for c in now],
                         [("flow", 4, 0), ("new", 3, 1)])
        self.assertEqual(now[0]["mcmdId"], flow)
        self.assertEqual(self.admin.get(f"{TREE}/remote-devs/{valve}").data, other)

    def test_commands_go_from_one_device_to_another(self):
        text = self.exported(f"mcmds/export?remoteDevId={self.number('pump')}")
        valve = self.number("valve")
        self.assert_ok(self.send_commands(valve, text), 201)
        self.assertEqual(self.exported(f"mcmds/export?remoteDevId={valve}"), text)

    def test_a_device_that_is_not_there_is_told(self):
        for device in (99, "", "x", "4294967296", "-1"):
            self.assert_refused(self.send_commands(device, self.COMMANDS), 400,
                                pointer="/remoteDevId", word="Fail to find remoteDevId")
        self.assert_refused(self.admin.get(f"{CONTROL}/mcmds/export?remoteDevId=99"), 400,
                            pointer="/remoteDevId", word="Fail to export")
        self.assert_refused(self.admin.get(f"{CONTROL}/mcmds/export"), 400, pointer="/remoteDevId")

    # ---- a device with its commands, as a form ----

    NEW = {"masterTcpIfaceId": "1", "name": "fan", "slaveId": "7", "slaveIpaddr": "192.0.2.7"}

    def post_device(self, text, query="", **parts):
        return self.admin.form("POST", f"{TREE}/remote-devs{query}",
                               **({**self.NEW, **parts} | ({"mcmdsFile": ("c.csv", text)}
                                                           if text is not None else {})))

    def test_a_form_makes_a_device_with_its_commands_and_tags(self):
        text = self.exported(f"mcmds/export?remoteDevId={self.number('pump')}")
        made = self.assert_ok(self.post_device(text, remoteDevId="77")).data
        self.assertEqual({k: made[k] for k in ("name", "slaveId", "slaveIpaddr", "slaveTcpPort")},
                         {"name": "fan", "slaveId": 7, "slaveIpaddr": "192.0.2.7",
                          "slaveTcpPort": 502})
        self.assertEqual(made["remoteDevId"], self.number("fan"))
        self.assertEqual(made, self.admin.get(f"{TREE}/remote-devs/{made['remoteDevId']}").data)
        self.assertEqual(
            self.exported(f"mcmds/export?remoteDevId={made['remoteDevId']}"), text)
        self.assert_audited("modbusMasterUpdate", "fan with 2 commands", count=1)

    def test_with_auto_create_commands_of_the_form_without_tags_get_some(self):
        text = ("version,1\r\nmcmds\r\nname,func,readQuantity\r\nregs,3,4\r\nbits,1,3\r\n"
                "own,3,2\r\ntags\r\nmcmdName,name,dataType,access\r\nown,a,uint16,r\r\n")
        tags = lambda made: {c["name"]: [(t["name"], t["dataType"], t.get("dataSize"), t["offset"])
                                         for t in c["tags"]] for c in made["mcmds"]}
        made = self.assert_ok(self.post_device(text, "?autoCreate=tags")).data
        self.assertEqual(tags(made), {
            "regs": [("regs", "raw", 8, 0)],
            "bits": [(f"bits_t{k + 1}", "boolean", None, k) for k in range(3)],
            "own": [("a", "uint16", None, 0)]})
        made = self.assert_ok(self.post_device(text, name="fan2", slaveId="8")).data
        self.assertEqual(tags(made), {"regs": [], "bits": [], "own": [("a", "uint16", None, 0)]})

    def test_a_form_with_anything_wrong_makes_nothing(self):
        good = self.COMMANDS
        many = "version,1\r\nmcmds\r\nname,func,readQuantity\r\n" + "".join(
            f"c{i},1,2000\r\n" for i in range(3)) + "tags\r\nmcmdName,name\r\n"
        clash = ("version,1\r\nmcmds\r\nname,func,readQuantity\r\nx,3,2\r\ny,3,1\r\n"
                 "tags\r\nmcmdName,name,dataType,access\r\nx,y,uint16,r\r\n")
        before = self.exported()
        for text, query, parts, pointer, word in (
                (None, "", {}, "/mcmdsFile", "Fail to find mcmdsFile"),
                (good, "", {"name": "pump"}, "/name", "name exists already"),
                (good, "", {"name": "a b"}, "/name", "Input value failed"),
                (good, "", {"slaveId": "256"}, "/slaveId", "Input value failed"),
                (good, "", {"slaveId": "one"}, "/slaveId", "integer"),
                (good, "", {"color": "red"}, "/color", "No such column: color"),
                (good, "", {"mcmds": "1"}, None, None),
                (good, "", {"masterTcpIfaceId": "2"}, "/masterTcpIfaceId", "Parent's data"),
                (good + "new,a,uint16,r\r\n", "", {}, "/mcmdsFile", "Data error at line 9"),
                (many, "?autoCreate=tags", {}, "/mcmdsFile", "at most 5000 tags"),
                (clash, "?autoCreate=tags", {}, "/mcmdsFile", "command y"),
                (good, "?autoCreate=all", {}, "/autoCreate", "")):
            with self.subTest(parts=parts, pointer=pointer, word=word):
                reply = self.post_device(text, query, **parts)
                if pointer is None:  # a read-only member is passed over, as in a JSON body
                    self.assert_ok(reply)
                    self.assert_ok(self.admin.delete(f"{TREE}/remote-devs/{reply.data['remoteDevId']}"), 204)
                    continue
                self.assert_refused(reply, 400, pointer=pointer, word=word)
                self.assertEqual(self.exported(), before)

    # ---- what is wrong with a file ----

    def test_each_error_is_told_with_line_and_cell(self):
        device, command = "1,pump,1,192.0.2.1,502", "pump,flow,3,0,4,1000"
        error = "Data error at line {}. "
        cases = [
            ("", (None, None, "Fail to find remoteDevs")),
            ("version,2\r\n", (1, 1, "Version error")),
            ("mcmds\r\n", (1, 1, "Version error")),
            ("version;1\r\n", (1, 1, "Version error")),
            ("version,1\r\npumps\r\nname,x\r\na,b\r\n", (2, 1, "Invalid table pumps")),
            ("version,1\r\ntags\r\nmcmdName,name\r\ntags\r\n", (3, 3, "Column error in tags")),
            (masters(heads=(DEV + ",color", CMD, TAG)), (3, 6, "Column error in remoteDevs")),
            (masters(heads=(DEV + ",name", CMD, TAG)), (3, 6, "Column error in remoteDevs")),
            (masters(heads=("masterTcpIfaceId,slaveId", CMD, TAG)),
             (3, 3, "Column error in remoteDevs")),
            (masters([device + ",1"]), (4, 6, "Fail to parse line 4")),
            (masters(["1,pump,1"]), (4, 4, "Fail to parse line 4")),
            (masters(['1,"pump"x,1,192.0.2.1,502']), (4, 2, "Fail to parse line 4")),
            (masters(["1,pump,256,192.0.2.1,502"]), (4, 3, error.format(4))),
            (masters(["1,pump,one,192.0.2.1,502"]), (4, 3, error.format(4))),
            (masters(["1,pump 1,1,192.0.2.1,502"]), (4, 2, error.format(4))),
            (masters(["1,p\xfcmp,1,192.0.2.1,502"]), (4, 2, error.format(4))),
            (masters(["2,pump,1,192.0.2.1,502"]), (4, 1, error.format(4))),
            (masters(["1,pump,1,192.0.2.300,502"]), (4, 4, error.format(4))),
            (masters([device, device]), (5, 2, error.format(5))),
            (masters([device, "1,pump2,1,192.0.2.1,502"]), (5, 3, error.format(5))),
            (masters([device], ["pumps,flow,3,0,4,1000"]), (7, 1, "Fail to find remoteDevName")),
            (masters([device], [",flow,3,0,4,1000"]), (7, 1, "Fail to find remoteDevName")),
            (masters([device], ["pump,flow,3,0,126,1000"]), (7, 5, error.format(7))),
            (masters([device], ["pump,flow,3,65535,2,1000"]), (7, 5, error.format(7))),
            (masters([device], ["pump,flow,7,0,2,1000"]), (7, 3, error.format(7))),
            (masters([device], [command, command]), (8, 2, error.format(8))),
            (masters([device], [command], ["pump,level,a,uint16,,r,,0"]),
             (10, 2, "Fail to find mcmdName")),
            (masters([device], [command], ["pump,flow,a,uint17,,r,,0"]), (10, 4, error.format(10))),
            (masters([device], [command], ["pump,flow,a,string,,r,,0"]), (10, 7, error.format(10))),
            (masters([device], [command], ["pump,flow,status,uint16,,r,,0"]),
             (10, 3, error.format(10))),
            (masters([device], [command], ["pump,flow,a,uint16,,r,,8"]), (10, 3, error.format(10))),
        ]
        before = self.exported()
        for text, (line, column, message) in cases:
            with self.subTest(message=message, text=text[:200]):
                reply = self.assert_refused(self.send(text), 400, pointer="/mastersFile")
                first = reply.json["error"]["details"][0]
                self.assertEqual((first.get("line"), first.get("column")), (line, column), first)
                self.assertTrue(first["message"].startswith(message), first)
                self.assertEqual(reply.json["error"]["message"], first["message"])
                self.assertEqual(self.exported(), before)

    def test_all_errors_of_a_file_are_told_at_once(self):
        text = masters(["1,pump,256,192.0.2.1,502", "1,valve,2,192.0.2.1,0", "1,ok,3,192.0.2.1,502"],
                       ["ok,flow,3,0,4,99"], ["ok,x,a,uint16,,r,,0"])
        reply = self.assert_refused(self.send(text), 400)
        self.assertEqual([(d["line"], d["column"]) for d in reply.json["error"]["details"]],
                         [(4, 3), (5, 5), (9, 6), (12, 2)])

    def test_only_so_many_errors_are_told(self):
        text = masters([f"1,d{i},999,192.0.2.1,502" for i in range(500)])
        reply = self.assert_refused(self.send(text), 400)
        self.assertEqual(len(reply.json["error"]["details"]), 100)

    def test_more_than_the_limit_is_refused(self):
        before = self.exported()
        text = masters([f"1,d{i},{i % 250},192.0.2.{i // 250},502" for i in range(1001)])
        reply = self.assert_refused(self.send(text), 400, pointer="/mastersFile", word="1000")
        self.assertEqual(reply.json["error"]["details"][0]["line"], 1004)
        self.assertEqual(self.exported(), before)

    def test_a_form_without_the_file_is_refused(self):
        self.assert_refused(self.admin.form("POST", f"{CONTROL}/masters/import", other="x"), 400,
                            pointer="/mastersFile", word="Fail to find mastersFile")

    def test_binary_is_refused_at_its_first_line(self):
        reply = self.send("\x00\x01PK\x03,\"\n" * 50)
        self.assertEqual(len(self.assert_refused(reply, 400).json["error"]["details"]), 1)

    # ---- what it does to the rest ----

    def test_an_import_waits_to_be_applied_and_can_be_undone(self):
        self.apply()
        before = self.exported()
        self.imported(masters())
        self.assertEqual(self.admin.get("/modbusmaster/status/config/change").data["result"], 1)
        self.assert_ok(self.admin.put(f"{CONTROL}/undo"))
        self.assertEqual(self.exported(), before)

    def test_an_import_is_in_the_audit_log_and_a_refused_one_is_not(self):
        text = masters(["1,audited,1,192.0.2.1,502"], ["audited,flow,3,0,9,1000"],
                       [f"audited,flow,t{i},uint16,,r,,0" for i in range(9)])
        what = "1 devices, 1 commands, 9 tags"
        self.imported(text)
        self.assert_audited("modbusMasterImport", what, count=1)
        self.assert_refused(self.send(text + "audited,flow,t0,uint16,,r,,0\r\n"), 400)
        self.imported(text)
        self.assert_audited("modbusMasterImport", what, count=2)

    def test_changes_that_come_meanwhile_are_made_after_it(self):
        """All of them, in some order, none lost: each is answered with what it made."""
        big = masters(["1,pump,1,192.0.2.1,502"], ["pump,flow,3,0,100,1000"],
                      [f"pump,flow,t{i},uint16,,r,,0" for i in range(5000)])
        replies = []
        run = threading.Thread(target=lambda: replies.append(self.send(big)))
        run.start()
        names = []
        while run.is_alive() and len(names) < 50:
            names.append(f"extra{len(names)}")
            self.assert_ok(self.admin.post(f"{TREE}/remote-devs", {
                "masterTcpIfaceId": 1, "name": names[-1], "slaveId": len(names),
                "slaveIpaddr": "192.0.2.77"}))
        run.join()
        self.assert_ok(replies[0], 201)
        self.assertTrue(names)
        there = [d["name"] for d in self.devices()]
        # made before the import: gone with it; the last was answered after it or kept waiting
        self.assertEqual(there, ["pump"] + names[len(names) - len(there) + 1:])



class SerialCsv(Suite):
    daemons = ("auditd", "authd", "tagd", "iod", "modbusd", "gateway")
    send, imported, exported, devices = Csv.send, Csv.imported, Csv.exported, Csv.devices

    @classmethod
    def prepare(cls):
        wait_for("the serial interfaces",
                 lambda: len(cls.admin.get(f"{TREE}/master-ser-ifaces").data) >= 2)

    def test_a_serial_device_may_have_the_name_of_a_tcp_device(self):
        text = masters(["1,,pump,1,192.0.2.1,502", ",2,pump,1,0.0.0.0,502"],
                       ["pump,tcp,3,0,4,1000", "serial/pump,line,4,0,4,1000"],
                       ["pump,tcp,a,uint16,,r,,0", "serial/pump,line,b,uint16,,r,,0"],
                       heads=("masterTcpIfaceId,masterSerIfaceId" + DEV[len("masterTcpIfaceId"):],
                              CMD, TAG))
        self.imported(text)
        found = {d.get("masterSerIfaceId"): d["mcmds"][0]["tags"][0]["name"]
                 for d in self.devices()}
        self.assertEqual(found, {None: "a", 2: "b"})
        tree, exported = self.devices(), self.exported()
        self.imported(exported)
        self.assertEqual(self.devices(), tree)
        self.imported(masters())
        self.imported(exported)
        self.assertEqual(self.exported(), exported)

    def test_serial_interfaces_are_part_of_it(self):
        path = f"{TREE}/master-ser-ifaces/1"
        self.assert_ok(self.admin.patch(path, {"frameInterval": 50, "format": 1}))
        text = self.exported()
        self.assert_ok(self.admin.patch(path, {"frameInterval": 0, "format": 0}))
        self.imported(text)
        iface = self.admin.get(path).data
        self.assertEqual((iface["frameInterval"], iface["format"]), (50, 1))

    def test_an_interface_without_a_port_or_with_a_bad_interval_is_told(self):
        head = ("version,1\r\nmasterSerIfaces\r\n"
                "masterSerIfaceId,serMasterId,portValue,frameInterval\r\n")
        rest = masters().split("\r\n", 1)[1]
        for row, column, message in (("32,1,31,0", 1, "Fail to find masterSerIfaceId"),
                                     ("33,1,31,0", 1, "Fail to find masterSerIfaceId"),
                                     ("1,1,1,0", 3, "Data error at line 4. "),
                                     ("1,1,0,5", 4, "Data error at line 4. ")):
            reply = self.assert_refused(self.send(f"{head}{row}\r\n{rest}"), 400)
            first = reply.json["error"]["details"][0]
            self.assertEqual((first["line"], first["column"]), (4, column), first)
            self.assertTrue(first["message"].startswith(message), first)
