"""A long change whose commit the disk does not take: nothing else stands still,
and what happens meanwhile is recorded after it."""
import os
import threading

import harness
from harness import Suite, wait_for
from hostile_modbus import Hostile

CONTROL = "/modbusmaster/control/config"
PLANT = ("version,1\r\nremoteDevs\r\nmasterTcpIfaceId,name,slaveId,slaveIpaddr,slaveTcpPort\r\n"
         "1,spare,1,192.0.2.1,502\r\nmcmds\r\nremoteDevName,name\r\ntags\r\n"
         "remoteDevName,mcmdName,name\r\n")


class Held(Suite):
    daemons = ("auditd", "authd", "tagd", "iod", "modbusd", "gateway")

    @classmethod
    def make_fleet(cls):
        fleet = super().make_fleet()
        cls.file = os.path.join(fleet.dir, "held")
        fleet.d["modbusd"].env = {**fleet.d["modbusd"].env, "HELDSYNC_FILE": cls.file,
                                  "LD_PRELOAD": harness.preload("heldsync.so")}
        return fleet

    @classmethod
    def prepare(cls):
        cls.devices = {"steady": Hostile(), "fails": Hostile()}
        for name, device in cls.devices.items():
            cls.add_device(name, device.port, [("regs", 3, 0, 1, 100, [("a", "uint16", 0)])])
        cls.set_interface(retryCount=0, responseTout=300)
        cls.apply()
        for name in cls.devices:
            cls.wait_good(name)

    @classmethod
    def tearDownClass(cls):
        cls.let_go()
        for device in cls.devices.values():
            device.stop()
        super().tearDownClass()

    @classmethod
    def wait_good(cls, name):
        wait_for(f"values of {name}",
                 lambda: cls.values(name, "a").get("a", {}).get("quality") == "good", 30)

    @classmethod
    def let_go(cls):
        for name in (cls.file, cls.file + ".waits"):
            if os.path.exists(name):
                os.remove(name)

    def hold(self):
        """An import that stands in its commit: (its thread, its answer once it has one)."""
        with open(self.file, "w", encoding="ascii"):
            pass
        answers = []
        thread = threading.Thread(target=lambda: answers.append(self.admin.form(
            "POST", f"{CONTROL}/masters/import", mastersFile=("m.csv", PLANT))))
        thread.start()
        wait_for("the commit", lambda: os.path.exists(self.file + ".waits"))
        return thread, answers

    def stamp(self, name):
        return self.values(name, "a")["a"]["ts"]

    def test_polling_and_reading_go_on_and_the_failure_of_a_device_is_recorded_after_it(self):
        failed = len(self.audits(names="modbusDeviceFail"))
        thread, answers = self.hold()
        self.devices["fails"].mode = "close"
        wait_for("the failure",
                 lambda: self.values("fails", "a")["a"]["quality"] != "good")
        # its record is due after 100 ms: the other one is polled for longer than that
        for _ in range(10):
            before = self.stamp("steady")
            wait_for("a new sample", lambda: self.stamp("steady") > before)
        self.assert_ok(self.admin.get("/modbusmaster/config/remote-devs"))
        self.assertEqual(len(self.audits(names="modbusDeviceFail")), failed)
        self.assertEqual(answers, [])
        self.let_go()
        thread.join()
        self.assert_ok(answers[0], 201)
        wait_for("the record", lambda: len(self.audits(names="modbusDeviceFail")) > failed)
        self.devices["fails"].mode = "ok"

    def test_a_change_that_waits_is_answered_in_time_and_not_made_later(self):
        level = self.admin.get("/modbusmaster/control/log-level").json
        thread, answers = self.hold()
        reply = self.admin.put("/modbusmaster/control/log-level", {"logLevel": "ERROR"})
        self.assert_refused(reply, 504)
        self.assertEqual(answers, [])
        self.let_go()
        thread.join()
        self.assert_ok(answers[0], 201)
        self.set_interface(initialDelay=1)  # whatever waited has had its turn
        self.assertEqual(self.admin.get("/modbusmaster/control/log-level").json, level)

    def test_the_serial_ports_are_taken_afterwards(self):
        thread, answers = self.hold()
        port = self.admin.get("/device/serials").data[0]
        baud = 19200 if port["baudRate"] != 19200 else 38400
        self.assert_ok(self.admin.patch(f"/device/serials/{port['id']}", {"baudRate": baud}))
        before = self.stamp("steady")
        wait_for("a new sample", lambda: self.stamp("steady") > before)
        self.let_go()
        thread.join()
        self.assert_ok(answers[0], 201)
