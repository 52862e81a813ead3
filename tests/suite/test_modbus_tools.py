"""What is around the Modbus master: parameters, the tree, clone, factory settings,
start and stop, the traffic log; and the original's limits and words of refusal."""
from harness import Suite, wait_for
from hostile_modbus import Hostile
from hostile_serial import HostileSerial
from test_modbus_serial import Serial

TEST_SECONDS = 60
TIMEOUT_MS = 300
M = "/modbusmaster"


class Tools(Suite):
    daemons = ("auditd", "authd", "tagd", "modbusd", "gateway")

    @classmethod
    def prepare(cls):
        cls.plant = Hostile()
        cls.set_interface(retryCount=0, responseTout=TIMEOUT_MS)
        cls.pump = cls.add_device("pump", cls.plant.port, [
            ("regs", 3, 10, 4, 100, [("a", "uint16", 0), ("b", "uint16", 6)]),
            ("out", 16, 50, 2, 100, [("c", "uint16", 0)])])
        cls.apply()

    @classmethod
    def tearDownClass(cls):
        cls.plant.stop()
        super().tearDownClass()

    def setUp(self):
        self.wait_quality("pump", "a", "good")

    # ---- in a few words ----

    def done(self, method, path, body=None, status=200):
        return self.assert_ok(self.admin.request(method, M + path, body), status)

    def get(self, path):
        return self.done("GET", path).data

    def changed(self):
        return self.get("/status/config/change")["result"]

    def service(self):
        return self.get("/diagnose/service-info")["serviceInfo"][0]

    def asked(self):
        return sum(self.plant.requests.values())

    def assert_asleep(self, status):
        """No connection, no request, and every tag says so."""
        self.assertEqual(self.service(), {"tcpMasterId": 1, "serviceStatus": status})
        wait_for("the connection to end", lambda: self.plant.connections == 0)
        self.wait_quality("pump", "a", "config")
        self.wait_quality("pump", "status", "config")
        self.assertEqual(self.get("/diagnose/tcp-status")["numConns"], 0)
        self.assert_refused(self.admin.put(M + "/operate/direct-read-tag", {
            "prvdName": "modbus_tcp_master", "srcName": "pump", "tagName": "a"}), 400)

    def assert_awake(self):
        before = self.asked()
        wait_for("requests", lambda: self.asked() > before)
        self.wait_quality("pump", "a", "good")
        self.assertEqual(self.service()["serviceStatus"], "RUNNING")

    # ---- counters ----

    def test_the_diagnosis_counts_what_was_asked_and_how_it_ended(self):
        self.addCleanup(setattr, self.plant, "mode", "ok")
        def diagnosis():
            got = self.get("/diagnose/tcp-status")
            return got, got["conns"][0]
        counters = ("sentReqs", "recvValidResps", "recvInvalidResps", "recvExceptions", "timeout")
        first = diagnosis()[1]
        for mode, counter, status in (("exception", counters[3], "Exception response"),
                                      ("wrong_count", counters[2], "Invalid response"),
                                      ("mute", counters[4], "Request timeout"),
                                      ("ok", counters[1], "OK")):
            before = diagnosis()[1][counter]
            self.plant.mode = mode
            wait_for(mode, lambda: (lambda conn: conn[counter] > before and
                                    conn["status"] == status)(diagnosis()[1]))
        total, conn = diagnosis()
        self.assertEqual((total["mode"], total["numConns"], len(total["conns"])), ("TCP", 1, 1))
        self.assertEqual({c: total[c] for c in counters}, {c: conn[c] for c in counters})
        self.assertEqual(set(conn), {"status", "name", "remoteIpPort", "slaveId", *counters})
        self.assertEqual((conn["name"], conn["remoteIpPort"], conn["slaveId"]),
                         ("pump", f"127.0.0.1:{self.plant.port}", 1))
        sent, *ended = (conn[c] - first[c] for c in counters)
        self.assertIn(sent - sum(ended), (-1, 0, 1))  # one may be under way

    def test_each_command_has_counters_of_its_own_and_each_device_has_metrics(self):
        got = self.get(f"/diagnose/mcmd-status?remoteDevId={self.pump['device']}")
        ids = lambda rows: [(r["remoteDevId"], r["mcmdId"], r["mcmdName"]) for r in rows]
        self.assertEqual(ids(got), ids(self.get("/diagnose/mcmd-status")))
        names = {row["mcmdName"]: row for row in got}
        self.assertEqual({row["remoteDevName"] for row in got}, {"pump"})
        polled = [row for row in got if row["polled"]]
        before = {row["mcmdId"]: row["recvValidResps"] for row in polled}
        self.assertTrue(before, names)
        wait_for("each to be answered", lambda: all(
            row["recvValidResps"] > before[row["mcmdId"]] and row["status"] == "OK"
            for row in self.get("/diagnose/mcmd-status") if row["polled"]))
        self.assertEqual(set(polled[0]), {
            "remoteDevId", "remoteDevName", "mcmdId", "mcmdName", "polled", "status", "sentReqs",
            "recvValidResps", "recvInvalidResps", "recvExceptions", "timeout"})
        self.assertEqual(self.get("/diagnose/mcmd-status?remoteDevId=4000000000"), [])
        self.assert_refused(self.admin.get(M + "/diagnose/mcmd-status?remoteDevId=pump"), 400)
        conn = self.get("/diagnose/tcp-status")["conns"][0]
        metric, metrics = 'fieldgate_modbus_device_{}_total{{{}}}', self.metrics()
        labels = f'daemon="modbusd",device="pump",id="{self.pump["device"]}"'
        self.assertGreaterEqual(metrics[metric.format("requests", labels)], conn["sentReqs"])
        self.assertGreaterEqual(metrics[metric.format("replies", labels)], conn["recvValidResps"])

    # ---- parameters ----

    def test_masters_that_are_switched_off_poll_from_apply_on_nothing_until_switched_on(self):
        self.assertEqual(self.done("GET", "/config/master-params").json, {"data": [{
            "masterParamId": 1, "configId": 1, "enableTcpMasters": 1, "enableSerMasters": 1,
            "enableDevFailEvent": 1, "enableCmdFailEvent": 1}], "count": 1})
        self.assertEqual(self.changed(), 0)
        got = self.done("PATCH", "/config/master-params", {"enableTcpMasters": 0}).data[0]
        self.assertEqual((got["enableTcpMasters"], got["enableSerMasters"]), (0, 1))
        self.assertEqual(self.changed(), 1)
        self.assert_awake()
        self.apply()
        self.assert_asleep("NOT_INITIALIZED")
        asked = self.asked()
        self.done("PUT", "/control/daemon/restart")
        self.assert_asleep("NOT_INITIALIZED")
        self.assertEqual(self.asked(), asked)
        got = self.done("PUT", "/config/master-params", {"enableCmdFailEvent": 0}).data[0]
        self.assertEqual((got["enableTcpMasters"], got["enableCmdFailEvent"]), (1, 0))
        self.apply()
        self.assert_awake()
        self.done("PUT", "/config/master-params", {})
        self.apply()
        self.assert_audited("modbusMasterUpdate", "enableTcpMasters")

    def test_a_parameter_that_is_none_is_refused(self):
        for method in ("PUT", "PATCH"):
            for body, pointer in (({"enableTcpMasters": 2}, "/enableTcpMasters"),
                                  ({"enableSerMasters": "1"}, "/enableSerMasters"),
                                  ({"enableAll": 1}, "/enableAll")):
                self.assert_refused(self.admin.request(method, M + "/config/master-params", body),
                                    400, pointer)
        self.assertEqual(self.changed(), 0)

    # ---- as a whole ----

    def test_the_tree_shows_what_the_lists_show(self):
        tree = self.get("/config")
        self.assertEqual(tree["masterParams"], self.get("/config/master-params"))
        self.assertEqual(tree["tcpMasters"]["data"], self.get("/config/tcp-masters"))
        self.assertEqual(tree["serMasters"]["data"], self.get("/config/ser-masters"))
        device = tree["tcpMasters"]["data"][0]["masterTcpIfaces"][0]["remoteDevs"][0]
        self.assertEqual([t["name"] for t in device["mcmds"][0]["tags"]], ["a", "b"])

    def test_the_overview_counts_what_is_staged(self):
        made = self.add_device("spare", 502, [("x", 3, 0, 1, 1000, [])], enable=0)
        got = self.get("/status/config/master-overview")
        self.assertEqual(got["remoteDevsName"], ["pump", "spare"])
        self.assertEqual(got["tcp"], {"enable": 1, "masterTcpIfaces": [{
            "masterTcpIfaceId": 1, "devCount": 2, "cmdCount": 3, "tagCount": 3,
            "enableDevCount": 1}]})
        self.assertEqual(got["serial"], {"enable": 1, "masterTcpIfaces": [],
                                         "masterSerIfaces": []})
        self.assertTrue(got["version"])
        self.done("DELETE", f"/config/remote-devs/{made['device']}", status=204)

    # ---- clone ----

    def clone(self, dest, src=None, resource="remote-devs"):
        return self.admin.put(M + "/control/config/clone", {
            "resource": resource, "src": {"remoteDevId": src or self.pump["device"]},
            "dest": dest})

    def test_a_clone_has_all_that_is_below_by_numbers_of_its_own(self):
        reply = self.assert_ok(self.clone({"name": "pump2", "slaveId": 2}))
        old = self.get(f"/config/remote-devs/{self.pump['device']}")
        new = reply.data
        self.assertEqual(new, self.get(f"/config/remote-devs/{new['remoteDevId']}"))

        def bare(device):
            """Without numbers, name and unit."""
            return [({k: v for k, v in c.items() if k not in ("mcmdId", "remoteDevId", "tags")},
                     [{k: v for k, v in t.items() if k not in ("tagId", "mcmdId")}
                      for t in c["tags"]]) for c in device["mcmds"]]
        self.assertEqual(bare(new), bare(old))
        self.assertEqual([t["mcmdId"] for c in new["mcmds"] for t in c["tags"]],
                         [c["mcmdId"] for c in new["mcmds"] for t in c["tags"]])
        ids = lambda d: {t["tagId"] for c in d["mcmds"] for t in c["tags"]}
        self.assertFalse(ids(new) & ids(old))
        self.apply()
        self.wait_quality("pump2", "b", "good")
        self.assertIn(2, self.plant.requests)
        self.done("DELETE", f"/config/remote-devs/{new['remoteDevId']}", status=204)
        self.apply()
        self.assert_audited("modbusMasterUpdate", "pump2")

    def test_a_clone_that_would_be_the_same_device_twice_is_refused(self):
        for dest, src, pointer in (
                ({"name": "pump", "slaveId": 2}, None, "/dest/name"),
                ({"name": "pump2"}, None, "/dest/slaveId"),
                ({"name": "pump2", "slaveIpaddr": "here"}, None, "/dest/slaveIpaddr"),
                ({"slaveId": 2}, None, "/dest/name"),
                ({"name": "pump2", "slaveId": 2, "masterSerIfaceIds": [1]}, None,
                 "/dest/masterSerIfaceIds"),
                ({"name": "pump2", "slaveId": 2}, 4000, "/src/remoteDevId")):
            self.assert_refused(self.clone(dest, src), 400, pointer)
        self.assert_refused(self.clone({"name": "x"}, resource="mcmds"), 400, "/resource")
        self.assertEqual(self.changed(), 0)

    # ---- factory settings ----

    def test_factory_settings_wait_for_apply_and_can_be_undone(self):
        self.done("PATCH", "/config/tcp-masters/1", {"name": "plant"})
        self.done("PATCH", "/config/master-params", {"enableSerMasters": 0})
        self.done("PUT", "/control/config/factory-default")
        self.assertEqual(self.get("/config/remote-devs"), [])
        self.assertEqual(self.get("/config/tcp-masters/1")["name"], "modbus_tcp_master")
        self.assertEqual(self.get("/config/master-params")[0]["enableSerMasters"], 1)
        self.assertEqual(self.get("/config/master-tcp-ifaces/1")["responseTout"], 1000)
        self.assertEqual(self.changed(), 1)
        self.assert_awake()
        self.done("PUT", "/control/config/undo")
        self.assertEqual(self.changed(), 0)
        self.assertEqual([d["name"] for d in self.get("/config/remote-devs")], ["pump"])
        self.assertEqual(self.get("/config/master-tcp-ifaces/1")["responseTout"], TIMEOUT_MS)
        self.assert_audited("modbusMasterReset")

    # ---- start and stop ----

    def test_a_stopped_protocol_asks_nobody_until_it_is_started(self):
        value = self.values("pump", "a")["a"]["dataValue"]
        self.done("PUT", "/control/daemon/stop")
        self.assert_asleep("PAUSED")
        asked = self.asked()
        self.apply()
        self.done("PUT", "/control/daemon/stop")
        self.assert_asleep("PAUSED")
        self.assertEqual(self.asked(), asked)
        self.assertEqual(self.values("pump", "a")["a"]["dataValue"], value)
        self.done("PUT", "/control/daemon/start")
        self.assert_awake()
        accepted = self.plant.accepted
        self.done("PUT", "/control/daemon/start")
        self.assertEqual(self.plant.accepted, accepted)
        for what in ("Start", "Stop"):
            self.assert_audited("modbusDaemonControl", f"{what} the protocol daemon")

    def test_a_restart_makes_every_connection_anew(self):
        accepted = self.plant.accepted
        self.done("PUT", "/control/daemon/restart")
        wait_for("a new connection", lambda: self.plant.accepted == accepted + 1)
        self.assert_awake()

    def test_a_start_waits_for_the_initial_delay(self):
        self.set_interface(initialDelay=30000)
        self.apply()
        self.assert_awake()
        self.done("PUT", "/control/daemon/restart")
        self.assertEqual(self.service()["serviceStatus"], "INITIALIZING")
        self.set_interface(initialDelay=0)
        self.apply()
        self.done("PUT", "/control/daemon/restart")
        self.assert_awake()

    def test_the_service_starts_with_the_protocol(self):
        self.done("PUT", "/control/daemon/stop")
        self.assert_asleep("PAUSED")
        self.restart("modbusd")
        self.assert_awake()

    # ---- the traffic log ----

    def capture(self, action="start", mode=1, status=201, **members):
        return self.done("POST", "/traffic-log/master-tcp-interfaces/1",
                         {"action": action, "recordMode": mode, **members}, status)

    def log(self, after=None):
        return self.get("/traffic-log/master-tcp-interfaces/1" +
                        (f"?after={after}" if after is not None else ""))

    def wait_frame(self, what, **members):
        """The first frame with these members, and the whole log."""
        def found():
            log = self.log()
            return next(((f, log["tcp"]) for f in log["tcp"]
                         if all(f.get(k) == v for k, v in members.items())), None)
        return wait_for(what, found)

    def test_the_traffic_log_shows_each_frame_with_its_bytes_and_its_time(self):
        self.capture(remoteDevId=self.pump["device"])
        answer, frames = self.wait_frame("an answer", packetType="Response")
        self.capture("stop")
        request = frames[0]
        self.assertEqual({k: v for k, v in request.items() if k not in ("time", "data")}, {
            "seq": 1, "role": "Master", "packetType": "Request", "direction": "Request",
            "ip": f"127.0.0.1:{self.plant.port}", "slaveId": 1, "functionCode": 3,
            "status": "WRITE", "errorReason": "", "decoded": "read holding registers 10..13"})
        self.assertRegex(request["data"], "^[0-9a-f]{4}" "0000" "0006" "01" "03" "000a" "0004$")
        self.assertEqual(answer["data"], request["data"][:4] + "0000" "000b" "01" "03" "08"
                         "000a" "000b" "000c" "000d")
        self.assertEqual(answer["decoded"], "read holding registers: 10 11 12 13")
        self.assertEqual((answer["status"], answer["errorReason"]), ("READ", ""))
        self.assertNotIn("dataInvalidReason", answer)
        self.assertLessEqual(request["time"], answer["time"])
        self.assertRegex(answer["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
        log = self.log()
        self.assertEqual((log["tcpAction"], log["recordMode"], log["lost"]), (0, 1, 0))
        self.assertEqual(log["tcpCount"], len(log["tcp"]))
        self.assertEqual(log["last"], log["tcp"][-1]["seq"])
        for word in ("start", "stop"):
            self.assert_audited("modbusTrafficLog", word)

    def test_the_traffic_log_is_followed_by_number(self):
        self.capture()
        self.addCleanup(self.capture, "stop")
        seen = wait_for("twenty frames", lambda: (lambda log: log["last"] >= 20 and log)(self.log()))
        def more():
            return self.log(seen["last"])["tcp"]
        self.assertEqual(wait_for("more", more)[0]["seq"], seen["last"] + 1)
        self.assertEqual(self.log(10 ** 9)["tcp"], [])
        self.capture()
        self.assertLess(self.log()["last"], seen["last"])

    def test_the_traffic_log_says_what_is_wrong_with_a_frame(self):
        self.addCleanup(setattr, self.plant, "mode", "ok")
        self.addCleanup(self.capture, "stop")
        for mode, error, reason in (("wrong_tid", "Unknown", 6),
                                    ("wrong_unit", "Server ID Not Matched", 6),
                                    ("wrong_func", "Invalid", 2), ("wrong_count", "Invalid", 5),
                                    ("garbage", "Invalid", 1), ("short", "Invalid", 1)):
            with self.subTest(mode):
                self.plant.mode = mode
                self.capture()
                self.wait_frame(f"a frame of {mode}", packetType="Response", status="READ",
                                errorReason=error, dataInvalidReason=reason)
        self.plant.mode = "exception"
        self.capture()
        frame, _ = self.wait_frame("an exception", functionCode=0x83)
        self.assertEqual((frame["errorReason"], frame["decoded"]), (
            "", "read holding registers: exception 2, illegal data address"))

    def test_the_traffic_log_marks_what_is_sent_again(self):
        self.addCleanup(setattr, self.plant, "mode", "ok")
        self.addCleanup(self.capture, "stop")
        self.addCleanup(self.apply)
        self.addCleanup(self.set_interface, retryCount=0)
        self.set_interface(retryCount=2)
        self.apply()
        self.plant.mode = "mute"
        self.capture()
        again, frames = self.wait_frame("a repetition", errorReason="Resend")
        self.assertEqual(frames[0]["errorReason"], "")
        self.assertEqual(again["decoded"], frames[0]["decoded"])

    def test_the_traffic_log_refuses_what_it_cannot_do(self):
        path = M + "/traffic-log/master-tcp-interfaces/"
        for body, pointer in (({"action": "pause"}, "/action"), ({"recordMode": 2}, "/recordMode"),
                              ({"remoteDevId": 4000}, "/remoteDevId")):
            self.assert_refused(self.admin.post(path + "1", body), 400, pointer)
        self.assert_refused(self.admin.post(path + "2", {}), 404)
        self.assert_refused(self.admin.get(path + "2"), 404)
        serial = M + "/traffic-log/master-ser-interfaces/1"  # there is none without iod
        self.assert_refused(self.admin.get(serial), 404)
        self.assert_refused(self.admin.post(serial, {}), 404)


class SerialTools(Serial):
    """The same for a serial line."""

    @classmethod
    def prepare(cls):
        super().prepare()
        cls.device = HostileSerial(cls.far_end(1), False)
        cls.set_line(1, retryCount=0, responseTout=TIMEOUT_MS)
        cls.pump = cls.add_serial(1, "pump", [("regs", 3, 10, 2, 100, [("a", "uint16", 0)])], 7)
        cls.apply()

    @classmethod
    def tearDownClass(cls):
        cls.device.stop()
        super().tearDownClass()

    def setUp(self):
        self.device.unit_mode = {}
        self.wait_quality("pump", "a", "good")

    def capture(self, **members):
        path = M + "/traffic-log/master-ser-interfaces/1"
        self.assert_ok(self.admin.post(path, {"recordMode": 1, **members}), 201)
        self.addCleanup(self.admin.post, path, {"action": "stop"})

        def frame(what, condition):
            return wait_for(what, lambda: next(
                (f for f in self.admin.get(path).data["serial"] if condition(f)), None))
        return frame

    def test_the_traffic_log_shows_the_frames_of_a_line(self):
        frame = self.capture(remoteDevId=self.pump["device"])
        request = frame("a request", lambda f: f["status"] == "WRITE")
        self.assertRegex(request["data"], "^07" "03" "000a" "0002" "[0-9a-f]{4}$")
        self.assertEqual((request["serialPort"], request["slaveId"], request["functionCode"],
                          request["decoded"]), (0, 7, 3, "read holding registers 10..11"))
        answer = frame("an answer", lambda f: f["status"] == "READ")
        self.assertRegex(answer["data"], "^07" "03" "04" "000a" "000b" "[0-9a-f]{4}$")
        self.assertEqual((answer["packetType"], answer["errorReason"]), ("Response", ""))

    def test_the_traffic_log_tells_a_wrong_checksum(self):
        self.device.unit_mode = {7: "crc"}
        frame = self.capture()
        frame("a bad frame", lambda f: f["errorReason"] == "Invalid"
              and f["dataInvalidReason"] == 1)

    def test_serial_masters_are_switched_off_by_themselves(self):
        params = M + "/config/master-params"
        self.assert_ok(self.admin.patch(params, {"enableSerMasters": 0}))
        self.apply()
        self.wait_quality("pump", "a", "config")
        asked = self.device.requests[7]
        info = self.admin.get(M + "/diagnose/service-info").data["serviceInfo"]
        self.assertEqual([i["serviceStatus"] for i in info], ["RUNNING", "NOT_INITIALIZED",
                                                              "NOT_INITIALIZED"])
        self.assertEqual(self.device.requests[7], asked)
        self.assert_ok(self.admin.put(params, {}))
        self.apply()
        self.wait_quality("pump", "a", "good")

    def test_the_overview_counts_by_interface(self):
        got = self.admin.get(M + "/status/config/master-overview").data
        one = got["serial"]["masterSerIfaces"][0]
        self.assertEqual(one, {"masterSerIfaceId": 1, "portName": "PORT 1", "portNumber": 1,
                               "format": 0, "devCount": 1, "cmdCount": 1, "tagCount": 1,
                               "enableDevCount": 1})
        self.assertEqual(got["tcp"]["masterTcpIfaces"][0]["devCount"], 0)
        self.assertEqual(got["serial"]["masterTcpIfaces"], got["serial"]["masterSerIfaces"])

    def test_a_clone_stays_on_its_line(self):
        clone = lambda **dest: self.admin.put(M + "/control/config/clone", {
            "resource": "remote-devs", "src": {"remoteDevId": self.pump["device"]}, "dest": dest})
        self.assert_refused(clone(name="pump2"), 400, "/dest/slaveId")
        made = self.assert_ok(clone(name="pump2", slaveId=8)).data
        self.assertEqual((made["masterSerIfaceId"], made["slaveId"]), (1, 8))
        self.assert_ok(self.admin.put(M + "/control/config/undo"))

    def test_factory_settings_reset_the_line(self):
        self.assert_ok(self.admin.put(M + "/control/config/factory-default"))
        self.assertEqual(self.admin.get(M + "/config/master-ser-ifaces/1").data["responseTout"],
                         1000)
        self.assert_ok(self.admin.put(M + "/control/config/undo"))
        self.assertEqual(self.admin.get(M + "/config/master-ser-ifaces/1").data["responseTout"],
                         TIMEOUT_MS)


class OriginalWords(Suite):
    """Refusals in the words of the original, and its limits where they are set."""

    daemons = ("auditd", "authd", "modbusd", "gateway")
    daemon_options = {"modbusd": ["--set", "original-limits=1"]}

    def refused(self, method, path, body, status=400):
        """The "error" of the reply; where it is none of a limit, there is no code in it."""
        return self.assert_refused(self.admin.request(method, M + path, body), status).json["error"]

    def test_each_refusal_has_the_words_of_the_original_and_ours_in_its_details(self):
        self.addCleanup(self.admin.delete, M + "/config/remote-devs")
        pump = self.add_device("pump", 502, [("regs", 3, 0, 1, 1000, [("a", "uint16", 0)])])
        command = {"remoteDevId": pump["device"], "name": "new"}
        tag = {"mcmdId": pump["commands"][0], "name": "new", "dataType": "uint16"}
        device = {"masterTcpIfaceId": 1, "name": "new", "slaveId": 2}
        devs, cmds, tags = "/config/remote-devs", "/config/mcmds", "/config/tags"
        level = "/control/log-level"
        for method, path, body, message, pointer, detail in (
                ("POST", devs, {**device, "colour": 1}, "No such column: colour", "/colour", None),
                ("PUT", "/config/master-params", {"enableAll": 1}, "No such column: enableAll",
                 "/enableAll", None),
                ("POST", devs, {"name": "new"}, "masterTcpIfaceId should exist",
                 "/masterTcpIfaceId", None),
                ("POST", cmds, [{"name": "x"}], "remoteDevId should exist", "/0/remoteDevId",
                 "remoteDevId is required"),
                ("POST", devs, {**device, "slaveId": "2"}, "slaveId should be an integer.",
                 "/slaveId", None),
                ("POST", devs, {**device, "slaveId": 2.5}, "slaveId should be an integer.",
                 "/slaveId", "slaveId must be an integer 0..255"),
                ("POST", devs, {**device, "slaveId": 256},
                 "Input value failed: slaveId must be an integer 0..255", "/slaveId",
                 "slaveId must be an integer 0..255"),
                ("POST", devs, {**device, "name": "pump"}, "name exists already", "/name", None),
                ("POST", cmds, {**command, "name": "regs"}, "name exists already", "/name", None),
                ("POST", tags, {**tag, "name": "a"}, "name exists already", "/name", None),
                ("POST", devs, {**device, "slaveId": 1, "slaveIpaddr": "127.0.0.1"},
                 "slaveId exists already", "/slaveId", None),
                ("POST", devs, {**device, "masterTcpIfaceId": 2}, "Parent's data should exist",
                 "/masterTcpIfaceId", None),
                ("POST", cmds, {**command, "remoteDevId": 4000}, "Parent's data should exist",
                 "/remoteDevId", None),
                ("POST", tags, {**tag, "mcmdId": 4000}, "Parent's data should exist", "/mcmdId",
                 None),
                ("POST", tags, {**tag, "dataType": "raw"}, "dataSize should exist", "/dataSize",
                 None),
                ("PUT", level, {}, "get 'level' parameter failed", "/logLevel", None),
                ("PUT", level, {"logLevel": "LOUD"},
                 "invalid 'level' parameter value in level options "
                 "[ALL, TRACE, DEBUG, INFO, WARN, ERROR, FATAL, OFF]", "/logLevel", None)):
            with self.subTest(method=method, path=path, body=body):
                error = self.refused(method, path, body)
                self.assertEqual(error["message"], message)
                self.assertNotIn("code", error)
                self.assertEqual(error["details"][0]["pointer"], pointer)
                if detail:
                    self.assertEqual(error["details"][0]["message"], detail)
        for path in (devs, cmds, tags, "/config/master-tcp-ifaces", "/config/tcp-masters"):
            with self.subTest(path):
                self.assertEqual(self.refused("GET", path + "/4000", None, 404),
                                 {"message": "Member not exists"})

    def test_zones_tags_and_reference_tags_of_the_slave_have_the_originals_limits(self):
        zones, rule = "/modbusslave/config/szones", "Exceed the limit of 2048 "
        post = lambda body: self.admin.post(zones, body)
        self.addCleanup(self.admin.delete, zones)
        for n in (1000, 1000, 48):
            first = len(self.admin.get(zones).data)
            self.assert_ok(post([{"address": first + i} for i in range(n)]))
        self.assert_refused(post({"address": 5000}), 400, None, rule + "zones")
        self.assert_ok(self.admin.delete(zones), 204)
        tags = [{"name": f"t{i}", "dataType": "boolean", "offset": i} for i in range(2049)]
        self.assert_refused(post({"dataFormat": 0, "quan": 4000, "tags": tags}), 400, None,
                            rule + "tags of zones")
        self.assert_ok(post({"dataFormat": 0, "quan": 4000, "tags": tags[1:]}))
        refs = [{"prvdName": "p", "srcName": "s", "tagName": f"t{i}", "dataType": "uint16"}
                for i in range(2049)]
        self.assert_refused(post({"quan": 4000, "fromRefTaglist": 1, "refTags": refs}), 400, None,
                            rule + "reference tags")
        self.assert_ok(post({"quan": 4000, "fromRefTaglist": 1, "refTags": refs[1:]}))

    def test_the_limits_of_the_original_are_refused_with_its_codes(self):
        self.addCleanup(self.admin.delete, M + "/config/remote-devs")
        device = lambda i: {"masterTcpIfaceId": 1, "name": f"d{i}", "slaveId": i}
        self.assert_ok(self.admin.post(M + "/config/remote-devs", [device(i) for i in range(32)]))
        self.assertEqual(self.refused("POST", "/config/remote-devs", device(32)), {
            "code": -1, "message": "Exceed the limit of 32 remote devices"})
        dev = self.admin.get(M + "/config/remote-devs").data[0]["remoteDevId"]
        command = lambda i: {"remoteDevId": dev, "name": f"c{i}", "readQuantity": 125}
        for first, last in ((0, 1000), (1000, 2000), (2000, 2048)):
            made = self.assert_ok(self.admin.post(M + "/config/mcmds", [
                command(i) for i in range(first, last)]))
        self.assertEqual(self.refused("POST", "/config/mcmds", command("last")), {
            "code": -113, "message": "Exceed the limit of 2048 commands per tcp port",
            "i18n": {"message": {"key": "MODBUS_MASTER_EVENT_COMMAND_LIMIT_FAIL",
                                 "variables": {"quan": 2048, "mode": "tcp"}}}})
        parent = made.data[0]["mcmdId"]
        tag = lambda i: {"mcmdId": parent, "name": f"t{i}", "dataType": "uint16"}
        for begin, end in ((0, 1000), (1000, 2000), (2000, 2048)):
            self.assert_ok(self.admin.post(M + "/config/tags", [tag(i) for i in
                                                                range(begin, end)]))
        self.assertEqual(self.refused("POST", "/config/tags", tag("last")), {
            "code": -115, "message": "Exceed the limit of 2048 total tag quantity",
            "i18n": {"message": {"key": "MODBUS_MASTER_EVENT_TAG_LIMIT_FAIL",
                                 "variables": {"quan": 2048, "type": "total"}}}})


class OriginalSerialLimits(Suite):
    """As above, on a serial port."""

    daemons = ("auditd", "authd", "iod", "modbusd", "gateway")
    daemon_options = {"modbusd": ["--set", "original-limits=1"]}

    def test_the_devices_on_a_port_have_128_commands_by_every_way_in(self):
        devs, cmds = M + "/config/remote-devs", M + "/config/mcmds"
        wait_for("the interfaces", lambda: len(self.admin.get(
            M + "/config/master-ser-ifaces").data) == 2)
        made = [self.assert_ok(self.admin.post(devs, {
            "masterSerIfaceId": port, "name": f"d{i}", "slaveId": i})).data["remoteDevId"]
            for i, port in enumerate((1, 1, 2), 1)]
        commands = lambda i, n: [{"remoteDevId": made[i], "name": f"c{k}"} for k in range(n)]
        for i, n in ((0, 100), (1, 28), (2, 128)):
            self.assert_ok(self.admin.post(cmds, commands(i, n)))
        clone = lambda i: self.admin.put(M + "/control/config/clone", {
            "resource": "remote-devs", "src": {"remoteDevId": made[i]},
            "dest": {"name": "more", "slaveId": 9}})
        last = {"remoteDevId": made[0], "name": "last"}
        for reply in (self.admin.post(cmds, last), clone(1), clone(2)):
            self.assertEqual(self.assert_refused(reply, 400).json["error"], {
                "code": -113, "message": "Exceed the limit of 128 commands per serial port",
                "i18n": {"message": {"key": "MODBUS_MASTER_EVENT_COMMAND_LIMIT_FAIL",
                                     "variables": {"quan": 128, "mode": "serial"}}}})
        self.assertEqual(len(self.admin.get(devs).data), 3)
        first = self.admin.get(f"{devs}/{made[0]}").data["mcmds"][0]["mcmdId"]
        self.admin.delete(f"{cmds}/{first}")
        self.assert_ok(self.admin.post(cmds, last))


if __name__ == "__main__":
    import unittest
    unittest.main()
