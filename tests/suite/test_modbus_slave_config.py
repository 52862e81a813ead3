"""The configuration of the Modbus slave: every rule of zones and their tags, staged and
applied, and what a client of another make then reads."""
import random
import socket
import struct

import harness
from harness import Plant, Suite, free_port, wait_for

TEST_SECONDS = 120
S = "/modbusslave"
Z = f"{S}/config/szones"
P = "modbus_tcp_master"
HUB = {"prvdName": P, "srcName": "pump"}


def own(name, kind="uint16", offset=0, **more):
    return {"name": name, "dataType": kind, "offset": offset, **more}


def ref(tag, **more):
    return {**HUB, "tagName": tag, **more}


class Modbus:
    """A client that shares no code with the slave: PDUs over TCP."""

    def __init__(self, port, unit=1):
        self.unit, self.id = unit, 0
        self.socket = socket.create_connection(("127.0.0.1", port), 10 * harness.SLOW)

    def ask(self, pdu):
        self.id += 1
        self.socket.sendall(struct.pack(">HHHB", self.id, 0, len(pdu) + 1, self.unit) + pdu)
        head = self.take(7)
        number, zero, size, unit = struct.unpack(">HHHB", head)
        assert (number, zero, unit) == (self.id, 0, self.unit), head
        return self.take(size - 1)

    def take(self, n):
        out = b""
        while len(out) < n:
            more = self.socket.recv(n - len(out))
            if not more:
                raise ConnectionError("the slave closed")
            out += more
        return out

    def read(self, func, address, n):
        """Registers as numbers, bits as they are packed; or the code of the exception."""
        got = self.ask(struct.pack(">BHH", func, address, n))
        if got[0] & 0x80:
            return got[1]
        return list(struct.unpack(f">{n}H", got[2:])) if func in (3, 4) else list(got[2:])

    def write(self, address, value):
        return self.ask(struct.pack(">BHH", 6, address, value))

    def close(self):
        self.socket.close()


class Slave(Suite):
    daemons = ("auditd", "authd", "tagd", "modbusd", "gateway")

    @classmethod
    def prepare(cls):
        cls.port = free_port()

    def setUp(self):
        self.assert_ok(self.admin.delete(Z), 204)
        self.assert_ok(self.admin.put(f"{S}/config/tcp-slaves/1", {"listenPort": self.port}))
        self.assert_ok(self.admin.put(f"{S}/control/config/apply"))

    def add(self, *zones, query=""):
        reply = self.assert_ok(self.admin.post(Z + query, zones[0] if len(zones) == 1
                                               else list(zones)))
        return reply.data

    def refuse(self, body, pointer, word, query=""):
        return self.assert_refused(self.admin.post(Z + query, body), 400, pointer, word)

    def zones(self):
        return {z["szoneId"]: z for z in self.admin.get(Z).data}

    def changed(self):
        return self.admin.get(f"{S}/status/config/change").data["result"]

    def apply_slave(self):
        self.assert_ok(self.admin.put(f"{S}/control/config/apply"))

    def switch_on(self, **more):
        self.assert_ok(self.admin.patch(f"{S}/config/tcp-slaves/1", {"enable": 1, **more}))
        self.apply_slave()

    def write(self, name, kind, value):
        """Over the hub, once it lists the tag."""
        wait_for(f"{name} in the hub", lambda: self.admin.put(
            f"/tags/access/modbus_tcp_slave/local_device/{name}",
            {"dataType": kind, "dataValue": value}).status == 200)

    def client(self, port=None):
        c = Modbus(port or self.port)
        self.addCleanup(c.close)
        return c

    def free_at(self, query):
        return self.admin.get(f"{S}/status/config/szone-available-address?{query}") \
            .data["address"]


class Zones(Slave):
    def test_the_slave_is_there_as_shipped_and_keeps_what_is_set(self):
        self.assert_ok(self.admin.put(f"{S}/config/tcp-slaves/1", {}))
        slave = self.admin.get(f"{S}/config/tcp-slaves/1").data
        self.assertEqual({k: slave[k] for k in ("tcpSlaveId", "configId", "slaveId", "listenPort",
                                                "keepAliveTime", "name", "enable",
                                                "customTagSrcName", "szones")},
                         {"tcpSlaveId": 1, "configId": 1, "slaveId": 1, "listenPort": 502,
                          "keepAliveTime": 20, "name": "modbus_tcp_slave", "enable": 0,
                          "customTagSrcName": "local_device", "szones": []})
        listed = self.admin.get(f"{S}/config/tcp-slaves").json
        self.assertEqual((listed["count"], listed["data"]), (1, [slave]))
        self.assert_refused(self.admin.get(f"{S}/config/tcp-slaves/2"), 404,
                            word="Member not exists")
        for name in (P, "modbus_serial_master"):
            self.assert_refused(self.admin.put(f"{S}/config/tcp-slaves/1", {"name": name}), 400,
                                "/name", "name exists already")
        self.assert_refused(self.admin.patch("/modbusmaster/config/tcp-masters/1",
                                             {"name": slave["name"]}), 400, "/name", "exists")
        self.assert_ok(self.admin.patch(f"{S}/config/slave-params", {"enableFailEvent": 0}))
        self.assertEqual(self.admin.get(f"{S}/config/slave-params").data,
                         {"slaveParamId": 1, "configId": 1, "enableTcpSlaves": 1,
                          "enableSerSlaves": 1, "enableFailEvent": 0})
        self.assert_ok(self.admin.patch(f"{S}/config/slave-params", {"enableFailEvent": 1}))

    def test_zones_of_one_format_do_not_overlap(self):
        one = self.add({"address": 10, "quan": 10})["szoneId"]
        for address, quan in ((10, 10), (19, 1), (0, 11), (0, 65536), (12, 2), (5, 6)):
            self.refuse({"address": address, "quan": quan}, "/address", f"zone {one}")
        self.add({"address": 0, "quan": 10}, {"address": 20, "quan": 65516},
                 *({"address": 10, "quan": 10, "dataFormat": f} for f in (0, 1, 3)))
        self.assertEqual(len(self.zones()), 6)
        self.refuse([{"dataFormat": 0, "address": 100, "quan": 5},
                     {"dataFormat": 0, "address": 104}], "/1/address", "overlap")
        self.assertEqual(len(self.zones()), 6)
        self.refuse({"address": 65535, "quan": 2}, "/quan", "past address 65535")
        self.refuse({"address": -1}, "/address", "reference tags")
        self.refuse({"tcpSlaveId": 2}, "/tcpSlaveId", "Parent's data should exist")
        self.refuse({"serSlaveId": 1}, "/serSlaveId", "Parent's data should exist")
        self.assert_refused(self.admin.patch(f"{Z}/{one}", {"quan": 11}), 400, "/address")
        self.assert_refused(self.admin.patch(f"{Z}/{one}", {"szoneId": one + 1}), 400, "/szoneId",
                            "cannot change")
        self.refuse({"dataFormat": 1, "address": 50, "scalingFunc": 2, "pointSourceMax": 0},
                    "/pointSourceMax", "must differ")

    def test_own_tags_lie_in_their_zone_apart_and_with_names_of_their_own(self):
        zone = {"address": 0, "quan": 4}
        for tags, pointer, word in (
                ([own("a", "uint32", 6)], "/tags/0/offset", "outside"),
                ([own("a"), own("b", "uint32", 0)], "", "b: overlaps another tag"),
                ([own("a"), own("a", offset=2)], "/tags/1/name", "name exists already"),
                ([own("a", "string")], "/tags/0/dataSize", "dataSize should exist"),
                ([own("a", dataSize=2)], "/tags/0/dataSize", "for string, bytearray and raw"),
                ([own("a", "boolean", 1)], "/tags/0/offset", "even"),
                ([{"dataType": "raw", "dataSize": 9}], "/tags/0/offset", "outside")):
            self.refuse({**zone, "tags": tags}, pointer or None, word)
        self.refuse({"dataFormat": 0, "quan": 64, "tags": [own("f", "float")]},
                    "/tags/0/offset", "bits")
        self.refuse({**zone, "fromRefTaglist": 1, "tags": [own("a")]}, "/fromRefTaglist", "tags")
        self.refuse({**zone, "refTags": [ref("x", dataType="uint16")]}, "/fromRefTaglist",
                    "refTags")
        made = self.add({**zone, "tags": [own("lo", "uint8", 0), own("hi", "uint8", 1),
                                          own("text", "string", 2, dataSize=6)]})
        self.assertEqual([t["name"] for t in made["tags"]], ["lo", "hi", "text"])
        self.refuse({"address": 9, "tags": [own("hi")]}, "/tags/0/name", "name exists already")
        self.assert_refused(self.admin.patch(f"{Z}/{made['szoneId']}", {"quan": 3}), 400,
                            word="text")
        listed = self.admin.get(f"{S}/config/tags").json
        self.assertEqual((listed["count"], listed["data"]), (3, made["tags"]))

    def test_one_own_tag_is_changed_and_deleted(self):
        made = self.add({"quan": 4, "tags": [own("a"), own("b", offset=2)]})
        a, b = (t["tagId"] for t in made["tags"])
        tag = f"{S}/config/tags/{a}"
        self.assert_refused(self.admin.patch(tag, {"name": "b"}), 400, "/name", "exists already")
        self.assert_refused(self.admin.patch(tag, {"offset": 2}), 400, word="overlaps")
        self.assert_refused(self.admin.patch(tag, {"dataType": "raw"}), 400, "/dataSize")
        got = self.assert_ok(self.admin.patch(tag, {"dataType": "raw", "dataSize": 4, "offset": 4,
                                                    "dataUnit": "V", "access": "r"})).data
        self.assertEqual(got, {"tagId": a, "szoneId": made["szoneId"], "name": "a",
                               "dataType": "raw", "dataUnit": "V", "access": "r", "dataSize": 4,
                               "offset": 4})
        got = self.assert_ok(self.admin.patch(tag, {"dataType": "int16"})).data
        self.assertNotIn("dataSize", got)
        self.assert_ok(self.admin.delete(f"{S}/config/tags/{b}"), 204)
        self.assert_refused(self.admin.delete(f"{S}/config/tags/{b}"), 404, word="Member not")
        self.assertEqual([t["tagId"] for t in self.admin.get(f"{S}/config/tags").data], [a])

    def test_a_put_sets_defaults_and_keeps_lists_that_are_not_sent(self):
        made = self.add({"address": 3, "quan": 4, "swap": 2, "rowId": 7,
                         "tags": [own("a"), own("b", offset=2)]})
        zone = f"{Z}/{made['szoneId']}"
        got = self.assert_ok(self.admin.put(zone, {"quan": 4})).data
        self.assertEqual((got["address"], got["swap"], got["tags"], "rowId" in got),
                         (0, 0, made["tags"], False))
        got = self.assert_ok(self.admin.put(zone, {"quan": 4, "tags": [
            own("c"), own("b", offset=4)]})).data
        self.assertEqual({t["name"]: t["offset"] for t in got["tags"]}, {"b": 4, "c": 0})
        kept = next(t for t in got["tags"] if t["name"] == "b")
        self.assertEqual(kept["tagId"], made["tags"][1]["tagId"])
        got = self.assert_ok(self.admin.patch(zone, {"address": 8, "tags": []})).data
        self.assertEqual((got["quan"], got["address"], got["tags"]), (4, 8, []))
        self.assert_refused(self.admin.put(f"{Z}/4000000", {}), 404, word="Member not exists")

    def test_a_put_of_several_exchanges_their_places_or_changes_nothing(self):
        a, b = (z["szoneId"] for z in self.add({"address": 0, "quan": 2},
                                               {"address": 2, "quan": 2}))
        swapped = [{"szoneId": a, "address": 2, "quan": 2}, {"szoneId": b, "quan": 2}]
        got = self.assert_ok(self.admin.put(Z, swapped)).data
        self.assertEqual([(z["szoneId"], z["address"]) for z in got], [(a, 2), (b, 0)])
        before = self.zones()
        for body, pointer, word in (
                ([{"szoneId": a, "address": 9}, {"address": 1}], "/1/szoneId", "should exist"),
                ([{"szoneId": a, "address": 9}, {"szoneId": 77777}], "/1/szoneId",
                 "szoneId(77777) not exists"),
                ([{"szoneId": a, "address": 9}, {"szoneId": a}], "/1/szoneId", "exists already"),
                ([{"szoneId": a, "address": 9}, {"szoneId": b, "address": 9}], "/1/address",
                 f"zone {a}")):
            self.assert_refused(self.admin.put(Z, body), 400, pointer, word)
        self.assertEqual(self.zones(), before)
        self.assertEqual(self.assert_ok(self.admin.put(Z, swapped[0])).data["szoneId"], a)

    def test_zones_are_deleted_by_list_one_by_one_and_all(self):
        a, b, c, d = (z["szoneId"] for z in self.add(*({"address": i} for i in range(4))))
        some = f"{Z}?delAll=false"
        self.assert_refused(self.admin.delete(some), 400, "/szoneId", "Key(szoneId) not found")
        self.assert_refused(self.admin.request("DELETE", some, {}), 400, "/szoneId",
                            "Key(szoneId) not found")
        self.assert_refused(self.admin.request("DELETE", some, {"szoneId": [a, 77777]}), 400,
                            "/szoneId/1", "szoneId(77777) not exists")
        self.assert_refused(self.admin.request("DELETE", Z, {"szoneId": [a]}), 400,
                            word="delAll=false")
        self.assertEqual(list(self.zones()), [a, b, c, d])
        self.assert_ok(self.admin.request("DELETE", some, {"szoneId": [a]}), 204)
        self.assert_ok(self.admin.delete(f"{Z}/{b}"), 204)
        self.assert_refused(self.admin.delete(f"{Z}/{b}"), 404, word="Member not exists")
        self.assert_ok(self.admin.post(f"{Z}/delete", {"szoneId": [c]}), 204)
        self.assertEqual(list(self.zones()), [d])
        self.assert_ok(self.admin.delete(Z), 204)
        self.assertEqual(self.zones(), {})

    def test_autoCreate_cuts_the_zone_into_tags(self):
        auto = "?autoCreate=tags"
        one = self.add({"quan": 2, "dataType": "float"}, query=auto)
        self.assertEqual([t["name"] for t in one["tags"]], [f"szone{one['szoneId']}"])
        many = self.add({"address": 2, "quan": 5, "dataType": "uint32"}, query=auto)
        self.assertEqual([(t["name"], t["offset"]) for t in many["tags"]],
                         [(f"szone{many['szoneId']}_t1", 0), (f"szone{many['szoneId']}_t2", 4)])
        raw = self.add({"address": 7, "quan": 5, "dataType": "raw"}, query=auto)
        self.assertEqual([(t["dataSize"], t["dataType"]) for t in raw["tags"]], [(10, "raw")])
        bits = self.add({"dataFormat": 0, "quan": 3, "dataType": "boolean"}, query=auto)
        self.assertEqual([t["offset"] for t in bits["tags"]], [0, 1, 2])
        self.refuse({"dataFormat": 1}, "/dataType", "dataType should exist", auto)
        self.refuse({"dataFormat": 1, "dataType": "uint16"}, "/dataType", "does not fit", auto)
        self.refuse({"dataFormat": 1, "dataType": "boolean"}, "/dataType", "autoCreate=tags")
        self.refuse({"dataFormat": 3, "quan": 5001, "dataType": "uint16"}, None, "5000", auto)
        self.refuse({"dataFormat": 3, "quan": 2001, "dataType": "raw"}, "/quan", "4000", auto)
        got = self.assert_ok(self.admin.patch(f"{Z}/{many['szoneId']}{auto}",
                                              {"dataType": "uint16"})).data
        self.assertEqual([t["name"][-3:] for t in got["tags"]], [f"_t{i}" for i in range(1, 6)])
        self.assert_refused(self.admin.patch(f"{Z}/{many['szoneId']}{auto}", {}), 400,
                            "/dataType")

    def test_the_lowest_free_address_is_told_for_a_format_and_for_a_zone(self):
        a, _ = (z["szoneId"] for z in self.add({"address": 5, "quan": 3},
                                               {"address": 0, "quan": 2}))
        self.assertEqual(self.free_at(""), 2)
        self.assertEqual(self.free_at("dataFormat=2"), 2)
        self.assertEqual(self.free_at("dataFormat=3"), 0)
        self.assertEqual(self.free_at(f"szoneId={a}"), 2)
        self.assertEqual(self.free_at(f"szoneId={a}&dataFormat=2"), 2)
        where = f"{S}/status/config/szone-available-address"
        self.assert_refused(self.admin.get(f"{where}?szoneId={a}&dataFormat=3"), 400,
                            "/dataFormat")
        self.assert_refused(self.admin.get(f"{where}?szoneId=77777"), 404)
        self.add({"dataFormat": 1, "quan": 65536})
        self.assertEqual(self.free_at("dataFormat=1"), -1)

    def test_sort_puts_all_zones_of_a_format_in_a_row(self):
        a, b, c = (z["szoneId"] for z in self.add(
            {"address": 100, "quan": 3}, {"address": 50, "quan": 2}, {"address": 0, "quan": 4}))
        other = self.add({"dataFormat": 3, "address": 9})["szoneId"]
        before = self.zones()

        def sort(*ids, fmt=2):
            return self.admin.put(f"{S}/control/config/szone/sort", {
                "dataFormat": fmt, "sequence": [{"szoneId": i} for i in ids]})
        self.assert_refused(sort(a, b), 400, "/sequence", "Number of szoneId in sequence(2) does "
                            "not match the number of records in db(3) for dataFormat(2).")
        self.assert_refused(sort(a, b, other), 400, "/sequence/2/szoneId",
                            f"szoneId({other}) does not exist in dataFormat(2).")
        self.assert_refused(sort(a, b, b), 400, "/sequence", "twice")
        self.assertEqual(self.zones(), before)
        got = self.assert_ok(sort(b, a, c)).data
        self.assertEqual([(z["szoneId"], z["address"]) for z in got], [(b, 0), (a, 2), (c, 5)])
        self.assertEqual(self.zones()[other]["address"], 9)
        self.assert_ok(sort(fmt=0))

    def test_the_master_keeps_its_changes_when_the_slave_is_applied_or_undone(self):
        master = "/modbusmaster/status/config/change"
        self.add_device("waiting", 1502, [], slaveIpaddr="0.0.0.0")
        kept = self.add({"address": 1})["szoneId"]
        self.assertEqual((self.changed(), self.admin.get(master).data["result"]), (1, 1))
        self.apply_slave()
        self.assertEqual((self.changed(), self.admin.get(master).data["result"]), (0, 1))
        self.add({"address": 7, "tags": [own("gone")]})
        self.assert_ok(self.admin.delete(f"{Z}/{kept}"), 204)
        self.assert_ok(self.admin.put("/modbusmaster/control/config/undo"))
        self.assertEqual((self.changed(), self.admin.get(master).data["result"]), (1, 0))
        self.assert_ok(self.admin.put(f"{S}/control/config/undo"))
        self.assertEqual((self.changed(), list(self.zones())), (0, [kept]))
        self.add({"address": 8, "tags": [own("gone")]})  # the name is free again
        self.assert_audited("modbusSlaveApply")
        self.assert_audited("modbusSlaveUpdate", "Add slave zones")

    def test_staged_and_running_configuration_outlive_a_kill(self):
        self.switch_on()
        self.add({"quan": 2, "tags": [own("kept", "uint32")]})
        self.apply_slave()
        self.add({"address": 9, "tags": [own("staged")]})
        before = self.admin.get(f"{S}/config/tcp-slaves/1").data
        self.kill("modbusd")
        self.start("modbusd")
        self.assertEqual(self.admin.get(f"{S}/config/tcp-slaves/1").data, before)
        self.assertEqual(self.changed(), 1)
        self.assertEqual(self.client().read(3, 0, 2), [0, 0])
        self.assertEqual(self.client().read(3, 9, 1), 2)
        self.assert_ok(self.admin.put(f"{S}/control/config/undo"))
        self.assertEqual([t["name"] for t in self.admin.get(f"{S}/config/tags").data], ["kept"])

    def test_a_kill_during_apply_leaves_the_old_or_the_new_configuration_whole(self):
        for round_ in range(8):
            self.assert_ok(self.admin.delete(Z), 204)
            word = f"r{round_}"
            self.add(*({"address": 10 * i, "tags": [own(f"{word}_{i}")]} for i in range(100)))
            running = [t["tagName"] for t in
                       self.admin.get(f"{S}/platform/slave-tags").data]
            with self.fleet.spawn(["/bin/sh", "-c", "sleep $0; kill -9 $1",
                                   str(random.random() * 0.05),
                                   str(self.fleet.d["modbusd"].pid)]) as killer:
                try:
                    self.admin.put(f"{S}/control/config/apply")
                except harness.Unanswered:
                    pass
                killer.wait()
            self.kill("modbusd")
            self.start("modbusd")
            now = [t["tagName"] for t in self.admin.get(f"{S}/platform/slave-tags").data]
            new = [f"{word}_{i}" for i in range(100)]
            self.assertIn(now, (running, new))
            self.assertEqual(self.changed(), int(now != new))


class Served(Slave):
    @classmethod
    def prepare(cls):
        super().prepare()
        cls.plant = Plant(cls.fleet)
        cls.plant.set(0, 11, 12, 13, 14)
        cls.set_interface(retryCount=0, responseTout=500)
        cls.add_device("pump", cls.plant.port, [
            ("flow", 3, 0, 4, 100, [("flow", "uint16", 0, "r"), ("set", "uint32", 4, "rw")]),
            ("coils", 1, 0, 8, 100, [("run", "boolean", 0, "rw"), ("ok", "boolean", 1, "r")])])
        cls.apply()
        wait_for("the tags", lambda: len([v for v in cls.values("pump").values()
                                          if v.get("quality") == "good"]) == 5)

    @classmethod
    def tearDownClass(cls):
        cls.plant.stop()
        super().tearDownClass()

    def test_own_tags_are_read_by_clients_and_written_by_the_hub(self):
        self.add({"address": 100, "quan": 4, "tags": [own("level"), own("temp", "int32", 2)]})
        self.switch_on()
        client = self.client()
        self.assertEqual(client.read(3, 100, 4), [0, 0, 0, 0])
        self.write("temp", "int32", -2)
        self.assertEqual(client.read(3, 100, 4), [0, 0xFFFF, 0xFFFE, 0])
        client.write(100, 321)
        wait_for("the value in the hub", lambda: self.values(
            "local_device", provider="modbus_tcp_slave").get("level", {}).get("dataValue") == 321)
        tags = self.admin.get(f"{S}/platform/slave-tags").json
        self.assertEqual((tags["count"], [(t["prvdName"], t["srcName"], t["tagName"])
                                          for t in tags["data"]]),
                         (2, [("modbus_tcp_slave", "local_device", n) for n in ("level", "temp")]))
        diag = self.admin.get(f"{S}/diagnose/tcp-status").data
        self.assertEqual((diag["mode"], diag["numConns"], diag["conns"][0]["status"]),
                         ("TCP", 1, "OK"))
        self.assertGreaterEqual(diag["recvValidReqs"], 3)
        self.assertEqual(self.admin.get(f"{S}/diagnose/protocol-status").data["status"], 1)
        # values and connections outlive an apply that does not concern them
        self.add({"address": 0})
        self.apply_slave()
        self.assertEqual(client.read(3, 100, 4), [321, 0xFFFF, 0xFFFE, 0])

    def test_the_traffic_log_has_the_frames_of_the_slave(self):
        log = "/modbusmaster/traffic-log/master-tcp-interfaces/1"
        self.add({"address": 100, "tags": [own("level")]})
        self.switch_on()
        self.assert_ok(self.admin.post(log, {"recordMode": 1}), 201)
        self.addCleanup(self.admin.post, log, {"action": "stop"})
        client = self.client()
        port = client.socket.getsockname()[1]
        client.write(100, 7)
        client.socket.sendall(bytes.fromhex("0009000000060903006400010008ffff"))
        with self.assertRaises(ConnectionError):
            client.take(1)
        frames = [f for f in self.admin.get(log).data["tcp"] if f["role"] == "Slave"]
        self.assertEqual({f["ip"] for f in frames}, {f"127.0.0.1:{port}"})
        self.assertEqual([(f["packetType"], f["status"], f["errorReason"], f["data"])
                          for f in frames], [
            ("Request", "READ", "", "000100000006" "01" "0600640007"),
            ("Response", "WRITE", "", "000100000006" "01" "0600640007"),
            ("Request", "READ", "Server ID Not Matched", "000900000006" "09" "0300640001"),
            ("Request", "READ", "Invalid", "0008ffff")])
        self.assertEqual(frames[0]["decoded"], "write register 100: 7")

    def test_tags_of_the_hub_are_placed_by_type_and_access_and_served(self):
        place = "?createFromRefTag=true"
        flow = self.add({"refTags": [ref("flow")]}, query=place)
        self.assertEqual((flow["dataFormat"], flow["address"], flow["quan"],
                          flow["fromRefTaglist"]), (3, 0, 1, 1))
        self.assertEqual([(r["dataType"], r["access"]) for r in flow["refTags"]],
                         [("uint16", "r")])
        self.refuse({"refTags": [ref("flow")]}, "/refTags/0", "tagName exists already", place)
        self.refuse({"refTags": [ref("none")]}, "/refTags/0", "does not list", place)
        self.refuse({"refTags": [ref("set"), ref("ok")]}, "/refTags", "one dataFormat", place)
        self.refuse({}, "/refTags", "needs refTags", place)
        got = self.assert_ok(self.admin.post(f"{S}/bulk/ref-tags", {
            "minStartAddr": 40, "refTags": [ref("set"), ref("run"), ref("ok"),
                                            ref("status")]})).data
        self.assertEqual([(z["dataFormat"], z["address"], z["quan"]) for z in got],
                         [(2, 40, 2), (0, 40, 1), (1, 40, 1), (3, 40, 2)])
        self.switch_on()
        client = self.client()
        wait_for("the values", lambda: client.read(4, 0, 1) == [11])
        self.assertEqual(client.read(3, 40, 2), [13, 14])
        self.assertEqual(client.read(4, 40, 2), [0, 0])
        self.assertEqual(len(client.read(1, 40, 1)), 1)
        over = self.admin.get(f"{S}/status/config/slave-overview").data
        self.assertEqual(over["tcp"]["tcpSlaves"], [
            {"tcpSlaveId": 1, "enable": 1, "tagCount": 5, "invalidTagCount": 0,
             "isConfigError": False, "configErrorReason": ""}])
        # a reference tag goes, the one behind it stays where it is
        zone = self.add({"dataFormat": 2, "address": 60, "quan": 4, "fromRefTaglist": 1,
                         "refTags": [ref("a", dataType="uint16"),
                                     ref("b", dataType="uint32", access="rw")]})
        self.assertEqual([r["offset"] for r in zone["refTags"]], [0, 2])
        self.assert_refused(self.admin.post(f"{Z}/delete", {"refTagId": [777777]}), 400,
                            "/refTagId/0", "refTagId(777777) not exists")
        self.assert_ok(self.admin.post(f"{Z}/delete", {
            "refTagId": [zone["refTags"][0]["refTagId"]]}), 204)
        self.assertEqual([(r["tagName"], r["offset"]) for r in
                          self.zones()[zone["szoneId"]]["refTags"]], [("b", 2)])

    def test_a_tag_that_the_hub_does_not_list_is_told_in_the_overview(self):
        zone = {"address": 5, "fromRefTaglist": 1, "refTags": [ref("later")]}
        self.refuse(zone, "/refTags/0", "does not list")
        zone["refTags"][0]["dataType"] = "string"
        self.refuse({**zone, "quan": 2}, "/refTags/0", "dataSize should exist")
        zone["refTags"][0]["dataType"] = "uint16"
        made = self.add(zone)
        self.assertEqual([(r["dataType"], r["access"]) for r in made["refTags"]],
                         [("uint16", "r")])
        entry = self.admin.get(f"{S}/status/config/slave-overview").data["tcp"]["tcpSlaves"][0]
        self.assertEqual((entry["tagCount"], entry["invalidTagCount"], entry["isConfigError"],
                          entry["configErrorReason"]), (1, 1, True, "Unknown tag"))
        self.switch_on()
        self.assertEqual(self.admin.get(f"{S}/diagnose/protocol-status").data["status"], 0)

    def test_a_tag_without_room_is_kept_without_an_address(self):
        self.add({"dataFormat": 3, "quan": 65536})
        flow = self.add({"refTags": [ref("flow")]}, query="?createFromRefTag=true")
        self.assertEqual(flow["address"], -1)
        entry = self.admin.get(f"{S}/status/config/slave-overview").data["tcp"]["tcpSlaves"][0]
        self.assertEqual((entry["invalidTagCount"], entry["configErrorReason"]),
                         (1, "Invalid address"))
        sequence = [{"szoneId": flow["szoneId"]},
                    *({"szoneId": i} for i in self.zones() if i != flow["szoneId"])]
        sort = f"{S}/control/config/szone/sort"
        self.assert_refused(self.admin.put(sort, {"dataFormat": 3, "sequence": sequence}), 400,
                            "/sequence", "no room")
        got = self.assert_ok(self.admin.put(sort, {"dataFormat": 3,
                                                   "sequence": sequence[::-1]})).data
        self.assertEqual([z["address"] for z in got], [0, -1])

    def test_a_port_in_use_is_refused_by_name_and_the_old_one_goes_on(self):
        self.add({"tags": [own("old")]})
        self.switch_on()
        client = self.client()
        with socket.create_server(("::", 0), family=socket.AF_INET6) as taken:
            port = taken.getsockname()[1]
            self.assert_ok(self.admin.patch(f"{S}/config/tcp-slaves/1", {"listenPort": port}))
            zone = self.add({"address": 1, "tags": [own("new")]})
            reply = self.assert_refused(self.admin.put(f"{S}/control/config/apply"), 409,
                                        "/listenPort", f"listenPort {port}")
            self.assertIn("in use", reply.json["error"]["message"])
            body = {k: zone[k] for k in ("szoneId", "address", "quan")}
            self.assert_refused(self.admin.put(f"{S}/config-and-apply/szones", body), 409,
                                "/listenPort")
            self.assertEqual((client.read(3, 0, 1), client.read(3, 1, 1)), ([0], 2))
            self.assertEqual(self.changed(), 1)
        self.assert_ok(self.admin.put(f"{S}/config-and-apply/szones", body))
        self.assertEqual(self.changed(), 0)
        self.assertEqual(self.client(port).read(3, 0, 2), [0, 0])
        with self.assertRaises(OSError):
            self.client(self.port)

    def test_a_port_taken_at_the_start_keeps_nothing_else_from_being_applied(self):
        self.switch_on()
        self.kill("modbusd")
        with socket.create_server(("::", self.port), family=socket.AF_INET6):
            self.start("modbusd")
            status = f"{S}/diagnose/protocol-status"
            self.assertEqual(self.admin.get(status).data["status"], 0)
            self.add({"tags": [own("late")]})
            self.apply_slave()
            self.assertEqual(self.admin.get(status).data["status"], 0)
        self.apply_slave()  # tries the port again at once
        self.assertEqual(self.client().read(3, 0, 1), [0])

    def test_the_order_of_bytes_is_that_of_the_zone(self):
        orders = {0: [0x1122, 0x3344], 1: [0x2211, 0x4433], 2: [0x3344, 0x1122],
                  3: [0x4433, 0x2211], 4: [0x4433, 0x2211], 5: [0x3344, 0x1122]}
        self.add(*({"address": 2 * swap, "quan": 2, "swap": swap,
                    "tags": [own(f"v{swap}", "uint32")]} for swap in orders))
        self.switch_on()
        client = self.client()
        for swap, registers in orders.items():
            self.write(f"v{swap}", "uint32", 0x11223344)
            self.assertEqual(client.read(3, 2 * swap, 2), registers, swap)
