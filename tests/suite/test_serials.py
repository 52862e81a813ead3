"""/device/serials: what clients see and set. What modbusd is told, and the lines
themselves, are in tests/daemon/test_iod.py."""

from harness import Suite

FIRST = {"mode": "rs4852w", "baudRate": 9600, "parity": "none", "dataBits": 8, "stopBits": 1,
         "flowControl": "none"}
PORT = "/device/serials/1"


class Serials(Suite):
    daemons = ("auditd", "authd", "iod", "gateway")

    def setUp(self):
        reply = self.admin.patch("/device/serials", [{"id": i, **FIRST} for i in (1, 2)])
        self.assertEqual(reply.status, 200, reply)

    def settings(self, number=1):
        data = self.admin.get(f"/device/serials/{number}").data
        return {k: data[k] for k in FIRST}

    def refused(self, reply, pointer, status=400):
        self.assert_refused(reply, status, pointer=pointer)
        self.assertEqual((self.settings(1), self.settings(2)), (FIRST, FIRST))

    def test_the_list_has_both_ports_with_what_they_can_do(self):
        reply = self.admin.get("/device/serials")
        self.assertEqual((reply.status, reply.json["count"]), (200, 2))
        self.assertEqual([(p["type"], p["id"], p["displayName"]) for p in reply.data],
                         [("serials", 1, "P1"), ("serials", 2, "P2")])
        for p in reply.data:
            self.assertEqual(p, self.admin.get(f"/device/serials/{p['id']}").data)
            self.assertEqual(p["capabilities"]["mode"], ["rs232", "rs422", "rs4852w", "rs4854w"])

    def test_a_change_is_answered_kept_and_recorded(self):
        reply = self.admin.patch(PORT, {"mode": "rs422", "flowControl": "software"})
        want = {**FIRST, "mode": "rs422", "flowControl": "software"}
        self.assertEqual(reply.status, 200, reply)
        self.assertEqual({k: v for k, v in reply.data.items() if k in FIRST}, want)
        self.assertNotIn("capabilities", reply.data)
        self.assertEqual((self.settings(1), self.settings(2)), (want, FIRST))
        self.assert_audited("serialUpdate", source="admin")
        self.restart("iod")
        self.assertEqual((self.settings(1), self.settings(2)), (want, FIRST))

    def test_a_list_changes_several_ports_at_once(self):
        reply = self.admin.patch("/device/serials", [{"id": 2, "baudRate": 300},
                                                     {"id": 1, "baudRate": 921600}])
        self.assertEqual(reply.status, 200, reply)
        self.assertEqual([(p["id"], p["baudRate"], "capabilities" in p) for p in reply.data],
                         [(2, 300, False), (1, 921600, False)])
        self.assertEqual(reply.json["count"], 2)
        self.assertEqual((self.settings(1)["baudRate"], self.settings(2)["baudRate"]),
                         (921600, 300))

    def test_of_a_list_with_one_fault_nothing_is_changed(self):
        for second, pointer in (({"baudRate": 300}, "/1/id"), ({"id": 3}, "/1/id"),
                                ({"id": 1, "parity": "odd"}, "/1/id"),
                                ({"id": 2, "parity": "both"}, "/1/parity"),
                                ({"id": 2, "baudRate": 49}, "/1/baudRate"),
                                ({"id": 2, "stopBits": 1.5}, "/1/stopBits"),
                                ({"id": 2, "dataBits": 4}, "/1/dataBits"), (7, "/1")):
            with self.subTest(second):
                self.refused(self.admin.patch("/device/serials", [
                    {"id": 1, "baudRate": 1200}, second]), pointer)
        self.refused(self.admin.patch("/device/serials", []), None)
        self.refused(self.admin.patch("/device/serials", [{"id": 1}] * 33), None)
        self.refused(self.admin.patch("/device/serials", {"baudRate": 1200}), "/id")

    def test_bounds_are_what_a_port_can_do(self):
        for body in ({"baudRate": 50}, {"baudRate": 4000000}, {"baudRate": 12345},
                     {"dataBits": 5, "stopBits": 1.5}, {"dataBits": 6, "stopBits": 2},
                     {"dataBits": 8, "stopBits": 1.0}, {"mode": "rs232", "flowControl": "hardware"},
                     *({"parity": p} for p in ("none", "odd", "even", "space", "mark")),
                     {"flowControl": "none", "mode": "rs4854w"}, {"id": 1}, {}):
            reply = self.admin.patch(PORT, body)
            self.assertEqual(reply.status, 200, reply)
            self.assertEqual({k: reply.data[k] for k in body}, body)
        self.setUp()
        for body, pointer in (({"baudRate": 49}, "/baudRate"), ({"baudRate": 4000001}, "/baudRate"),
                              ({"baudRate": 9600.5}, "/baudRate"), ({"baudRate": None}, "/baudRate"),
                              ({"dataBits": 9}, "/dataBits"), ({"dataBits": 5.5}, "/dataBits"),
                              ({"stopBits": 0.5}, "/stopBits"), ({"stopBits": 2.5}, "/stopBits"),
                              ({"stopBits": 1.25}, "/stopBits"), ({"stopBits": "1"}, "/stopBits"),
                              ({"dataBits": 5, "stopBits": 2}, "/stopBits"),
                              ({"mode": "rs485"}, "/mode"), ({"mode": ""}, "/mode"),
                              ({"flowControl": "xonxoff"}, "/flowControl"),
                              ({"flowControl": "hardware"}, "/flowControl"),
                              ({"id": 2}, "/id"), ([], None), ("x", None)):
            with self.subTest(body):
                self.refused(self.admin.patch(PORT, body), pointer)

    def test_what_does_not_go_together_is_found_against_what_is_kept(self):
        self.assertEqual(self.admin.patch(PORT, {"mode": "rs232", "flowControl": "hardware",
                                                 "stopBits": 2}).status, 200)
        before = self.settings()
        self.assert_refused(self.admin.patch(PORT, {"mode": "rs422"}), 400, pointer="/mode")
        self.assert_refused(self.admin.patch(PORT, {"dataBits": 5}), 400, pointer="/dataBits")
        self.assertEqual(self.settings(), before)
        self.assertEqual(self.admin.patch(PORT, {"mode": "rs422", "flowControl": "none"}).status,
                         200)

    def test_what_cannot_be_set_is_passed_over(self):
        before = self.admin.get(PORT).data
        reply = self.admin.patch(PORT, {"device": "/dev/null", "displayName": "mine"})
        self.assertEqual(reply.status, 200, reply)
        self.assertEqual(self.admin.get(PORT).data, before)

    def test_a_port_that_is_not_there_is_not_found(self):
        for number in (3, 33, 4294967295):
            self.refused(self.admin.get(f"/device/serials/{number}"), "/id", 404)
            self.refused(self.admin.patch(f"/device/serials/{number}", {"parity": "odd"}), "/id",
                         404)
        for number in ("0", "-1", "P1", "1.0"):
            self.refused(self.admin.get(f"/device/serials/{number}"), "/id")

    def test_a_kill_before_the_record_is_delivered_loses_neither(self):
        self.kill("auditd")
        self.assertEqual(self.admin.patch(PORT, {"baudRate": 31250}).status, 200)
        self.kill("iod")
        self.start("iod")
        self.assertEqual(self.settings()["baudRate"], 31250)
        self.start("auditd")
        self.assert_audited("serialUpdate", "31250", count=1)

    def test_who_may_not_is_refused(self):
        self.assertEqual(self.anyone.get("/device/serials").status, 401)
        self.assertEqual(self.anyone.patch("/device/serials", [{"id": 1}]).status, 401)
