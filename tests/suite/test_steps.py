"""What a newcomer does, from the first sign-in to the dead token, in order.

The tests of class Steps run in the order of their numbers on one suite: each
stands on what the one before left behind.
"""
import contextlib
import json
import socket
import struct
import subprocess
import time
import unittest

import harness
from harness import Broker, Plant, Subscriber, Suite, claims, wait_for

P = "modbus_tcp_master"


class Steps(Suite):
    @classmethod
    def sign_in_first_time(cls):  # step 1 does it
        return None

    @classmethod
    def wait_daemons(cls, names=None, client=None, timeout=20.0):
        if cls.admin:
            super().wait_daemons(names, client, timeout)

    @classmethod
    def prepare(cls):
        cls.plant = Plant(cls.fleet)
        cls.plant.set(0, 10, 20, 30, 40)
        cls.plant.set(100, 5)
        cls.broker = Broker(cls.fleet).start()
        cls.subscriber = Subscriber(cls.broker.port)

    @classmethod
    def tearDownClass(cls):
        cls.subscriber.close()
        super().tearDownClass()

    def setUp(self):
        if type(self).admin is None and not self._testMethodName.startswith("test_1"):
            self.fail("step 1 failed")

    def test_1_sign_in_forces_a_new_password_first(self):
        reply = self.assert_ok(self.anyone.post(
            "/auth", {"name": "admin", "password": harness.FIRST_PASSWORD}))
        token = reply.data["token"]
        self.assertEqual(len(token.split(".")), 3, token)
        self.assertEqual(claims(token)["Name"], "admin")
        self.assertIn("passwordMustChange", reply.data["user"].get("flag", ""))
        first = self.anyone.with_token(token)
        self.assert_refused(first.get("/tags/list"), 403)
        self.assert_ok(first.get("/users/me"))
        self.assert_refused(first.put("/users/me/password",
                                      {"newPassword": harness.FIRST_PASSWORD}), 400)
        self.assert_refused(first.put("/users/me/password", {"newPassword": "short"}), 400,
                            pointer="/newPassword")
        self.assert_ok(first.put("/users/me/password", {"newPassword": harness.PASSWORD}))
        reply = self.anyone.post("/auth", {"name": "admin", "password": harness.FIRST_PASSWORD})
        self.assert_refused(reply, 401)
        type(self).admin = self.sign_in()
        self.assertNotIn("passwordMustChange",
                         self.assert_ok(self.admin.get("/users/me")).data.get("flag") or "")
        self.wait_daemons()
        self.assert_audited("passwordChange")
        self.assert_audited("signInFail", source=None)

    def test_2_a_device_its_commands_and_tags_are_staged_and_applied(self):
        master = self.assert_ok(self.admin.get("/modbusmaster/config/tcp-masters/1")).data
        self.assertEqual(master["name"], P)
        self.set_interface(retryCount=0, responseTout=500)
        iface = self.assert_ok(self.admin.get("/modbusmaster/config/master-tcp-ifaces/1")).data
        self.assertEqual((iface["retryCount"], iface["responseTout"]), (0, 500))
        self.add_device("pump1", self.plant.port, [
            ("flow", 3, 0, 4, 100, [("flow", "uint16", 0), ("level", "uint16", 2),
                                    ("both", "uint32", 4)]),
            ("setpoint", 6, 100, 1, 1000, [("setpoint", "uint16", 0)]),
        ])
        devices = self.assert_ok(self.admin.get("/modbusmaster/config/remote-devs")).data
        self.assertEqual([d["name"] for d in devices], ["pump1"])
        # staged: nothing is polled yet
        self.assertEqual(self.admin.get("/tags/list?provider=" + P).data, [])
        change = self.admin.get("/modbusmaster/status/config/change")
        if change.status == 200:
            self.assertEqual(change.data["result"], 1)
        self.apply()
        wait_for("pump1 in the list of tags",
                 lambda: [t for t in self.admin.get("/tags/list").data
                          if t["srcName"] == "pump1" and t["tagName"] == "flow"])

    def test_3a_tags_are_listed_with_type_and_access(self):
        tags = {t["tagName"]: t for t in self.admin.get("/tags/list?provider=" + P).data
                if t["srcName"] == "pump1"}
        self.assertLessEqual({"flow", "level", "both", "setpoint"}, set(tags))
        self.assertEqual((tags["flow"]["prvdName"], tags["flow"]["dataType"],
                          tags["flow"]["access"]), (P, "uint16", "r"))
        self.assertEqual(tags["setpoint"]["access"], "w")
        self.assertEqual(self.admin.get("/tags/list?provider=nobody").data, [])

    def test_3b_values_are_read_and_follow_the_register(self):
        self.wait_value("pump1", "flow", 10)
        rows = self.values("pump1", "flow", "level", "both")
        self.assertEqual(rows["level"]["dataValue"], 20)
        self.assertEqual(rows["both"]["dataValue"], (30 << 16) + 40)
        self.assertLess(abs(rows["flow"]["ts"] / 1e6 - time.time()), 5)
        self.assertEqual(rows["flow"].get("quality"), "good")
        self.plant.set(0, 11)
        self.wait_value("pump1", "flow", 11)
        self.assert_refused(self.admin.get(f"/tags/monitor/{P}/nobody?tags=x"), 404)

    def test_3c_a_stream_on_change_tells_each_update(self):
        stream = self.admin.stream(f"/tags/monitor/{P}/pump1?tags=flow&onChanged")
        self.assertEqual(stream.status, 200)
        self.assertTrue(stream.type.startswith("text/event-stream"), stream.type)
        for value in (101, 102, 103):
            self.plant.set(0, value)
            event = stream.wait_event(lambda e, v=value: e["dataValue"] == v)
            self.assertEqual((event["prvdName"], event["srcName"], event["tagName"]),
                             (P, "pump1", "flow"))
        stream.close()

    def test_3d_a_stream_by_interval_keeps_its_pace(self):
        stream = self.admin.stream(f"/tags/monitor/{P}/pump1?tags=flow,level&streamInterval=200")
        self.assertEqual(stream.status, 200)
        wait_for("20 events", lambda: len(stream.events) >= 20, 10)
        self.assertEqual({e["tagName"] for _, e in stream.events}, {"flow", "level"})
        flow = [t for t, e in stream.events if e["tagName"] == "flow"][1:10]
        mean = (flow[-1] - flow[0]) / (len(flow) - 1)
        self.assertTrue(0.15 < mean < 0.5 * harness.SLOW, flow)
        stream.close()

    def test_3e_one_tag_is_read_from_and_written_to_the_device(self):
        self.plant.set(0, 77)
        row = self.assert_ok(self.admin.get(f"/tags/access/{P}/pump1/flow")).json
        self.assertEqual((row["tagName"], row["dataValue"]), ("flow", 77))
        self.assertIsInstance(row["timestamp"], str)
        reply = self.admin.put(f"/tags/access/{P}/pump1/setpoint",
                               {"dataType": "uint16", "dataValue": 4321})
        self.assert_ok(reply)
        self.assertEqual(self.plant.get(100), [4321])
        self.assert_audited("tagWrite", containing="setpoint")
        self.assert_refused(self.admin.put(f"/tags/access/{P}/pump1/flow",
                                           {"dataType": "uint16", "dataValue": 1}), 400)
        self.assert_refused(self.admin.put(f"/tags/access/{P}/pump1/setpoint",
                                           {"dataType": "uint16", "dataValue": 65536}), 400)
        self.assert_refused(self.admin.put(f"/tags/access/{P}/pump1/setpoint",
                                           {"dataType": "uint16", "dataValue": "x"}), 400)
        self.assert_refused(self.admin.get(f"/tags/access/{P}/pump1/nothing"), 404)
        self.assertEqual(self.plant.get(100), [4321])

    def test_4_an_mqtt_client_carries_the_values_to_the_broker(self):
        client = self.add_mqtt(self.broker.port, qos=1)
        self.add_group(client, {P: {"pump1": ["flow", "level"]}}, topic="plant/pump1")
        wait_for("the client to be connected", lambda: [
            c for c in self.admin.get("/mqtt").data
            if c["id"] == client and c["status"] == "connected"], 15)
        has = lambda v: lambda topic, payload: topic == "plant/pump1" and any(
            x["value"] == v for x in json.loads(payload)["tags"][P]["pump1"]
            .get("flow", {}).get("values", []))
        for value in (201, 202):
            self.plant.set(0, value)
            self.subscriber.wait_message(has(value))
        # another register, without a restart of anything
        self.add_device("pump2", self.plant.port, [
            ("extra", 3, 2, 1, 100, [("extra", "uint16", 0)])], unit=2)
        self.apply()
        self.plant.set(2, 3333)
        self.wait_value("pump2", "extra", 3333)
        groups = self.assert_ok(self.admin.get(f"/mqtt/{client}/messages")).data
        group = groups[0]
        group["tags"] = {P: {"pump1": ["flow"], "pump2": ["extra"]}}
        self.assert_ok(self.admin.put(f"/mqtt/{client}/messages/{group['id']}", group))
        self.subscriber.wait_message(
            lambda topic, payload: b"3333" in payload and b"pump2" in payload)

    def test_5_every_change_is_in_the_audit_log_with_who_when_where_and_what(self):
        for name in ("modbusMasterUpdate", "modbusMasterApply", "tagWrite", "mqttClientUpdate",
                     "mqttMessageGroupUpdate", "passwordChange", "signIn"):
            rows = self.assert_audited(name)
            self.assertEqual(rows[-1]["sourceIp"], "127.0.0.1")
            self.assertRegex(rows[-1]["createdAt"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}")
        written = self.assert_audited("tagWrite", containing="4321", count=1)[0]
        self.assertIn("setpoint", written["message"] + written["detail"])
        rows = self.audits()
        self.assertEqual([r["id"] for r in rows], sorted(r["id"] for r in rows))
        text = json.dumps(rows)
        self.assertNotIn(harness.PASSWORD, text)
        self.assertNotIn(harness.FIRST_PASSWORD, text)
        newest = self.assert_ok(self.admin.get("/audits?limit=1")).json
        self.assertEqual((newest["count"], newest["limit"], newest["offset"]), (1, 1, 0))
        self.assertGreaterEqual(newest["total"], len(rows))

    def test_6_after_signing_out_the_token_is_dead_on_the_next_request(self):
        session = self.sign_in()
        number = claims(session.token)["SessionID"]
        for _ in range(3):  # cached by now
            self.assert_ok(session.get("/tags/list"))
        self.assertEqual(session.delete(f"/sessions/{number}").status, 204)
        self.assert_refused(session.get("/tags/list"), 401)
        self.assert_refused(session.get("/users/me"), 401)
        self.assert_audited("signOut")
        other = self.sign_in()
        self.assert_ok(other.get("/tags/list"))
        reply = other.delete("/auth")
        if reply.status != 405:  # a second way out, beyond the original's list
            self.assertIn(reply.status, (200, 204), repr(reply))
            self.assert_refused(other.get("/tags/list"), 401)

    def test_7_a_second_start_carries_on_from_the_state(self):
        for name in reversed(self.fleet.names):
            self.assertEqual(self.fleet.d[name].stop(), 0, name)
        self.fleet.start()
        self.fleet.wait_ready()
        self.wait_daemons()  # with the same token
        self.plant.set(0, 909)
        self.wait_value("pump1", "flow", 909)
        self.subscriber.wait_message(lambda topic, payload: b"909" in payload)
        self.assert_audited("tagWrite", containing="4321", count=1)


class DemoPlant(Suite):
    """The plant of `make run`: our own, built on libmodbus, a separate program."""

    @classmethod
    def prepare(cls):
        cls.port = harness.free_port()
        cls.fleet.spawn([f"{harness.BUILD}/bin/demoplant", "--port", str(cls.port)],
                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        cls.set_interface(retryCount=0, responseTout=500)
        cls.add_device("plant", cls.port, [
            ("moving", 4, 0, 8, 100, [(f"m{i}", "uint16", 2 * i) for i in range(8)]),
            ("setpoint", 6, 0, 1, 1000, [("setpoint", "uint16", 0)]),
            ("setpoint_is", 3, 0, 1, 100, [("setpoint_is", "uint16", 0)])])
        cls.apply()

    def test_its_registers_move_and_its_set_points_can_be_written(self):
        def moved():
            rows = self.values("plant")
            return len(rows) >= 10 and [r["dataValue"] for r in rows.values()]
        first = wait_for("values of the demo plant", moved)
        wait_for("a register to move", lambda: moved() != first)
        self.assert_ok(self.admin.put(f"/tags/access/{P}/plant/setpoint",
                                      {"dataType": "uint16", "dataValue": 321}))
        self.wait_value("plant", "setpoint_is", 321)

    def ask(self, peer, request):
        """The seconds that the answer took; request: unit and what follows it."""
        began = time.monotonic()
        peer.sendall(struct.pack(">HHH", 1, 0, len(request)) + request)
        self.assertGreater(len(peer.recv(300)), 7)
        return time.monotonic() - began

    def test_no_client_holds_up_the_others(self):
        read = b"\x01\x03\x00\x00\x00\x7d"
        frame = struct.pack(">HHH", 1, 0, len(read)) + read
        with contextlib.ExitStack() as stack:
            def connect():
                peer = socket.create_connection(("127.0.0.1", self.port), 10)
                return stack.enter_context(peer)
            deaf, slow, wrong, good = connect(), connect(), connect(), connect()
            self.ask(good, read)
            slow.sendall(frame[:9])
            deaf.setblocking(False)
            slowest = 0
            for i in range(40):
                with contextlib.suppress(OSError):  # full, or dropped
                    while deaf.send(frame * 100):
                        pass
                slow.sendall(frame[9 + i:10 + i])
                wrong.sendall(struct.pack(">HHH", 1, 0, 6) + b"\x01\x03\x00\x00\x00\x00")
                slowest = max(slowest, self.ask(good, read))
            self.assertLess(slowest, harness.AT_ONCE)
            self.assertGreater(len(slow.recv(300)), 200)  # it came in the end


if __name__ == "__main__":
    unittest.main()
