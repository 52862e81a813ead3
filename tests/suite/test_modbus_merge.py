"""Merged reads, against a server that we did not write and that counts what it is asked."""
import time

from harness import Plant, Suite, wait_for

TEST_SECONDS = 60
P = "modbus_tcp_master"
INTERVAL_MS = 100
N = 20  # commands, of two registers each, three apart


class Merge(Suite):
    daemons = ("auditd", "authd", "tagd", "modbusd", "gateway")

    @classmethod
    def prepare(cls):
        cls.plant = Plant(cls.fleet)
        cls.plant.set(0, *range(1000, 1100))
        cls.device = cls.add_device("plant", cls.plant.port, [
            (f"c{i}", 3, 3 * i, 2, INTERVAL_MS, [(f"t{i}", "uint16", 2)]) for i in range(N)])
        cls.allow_merging(1)
        cls.apply()
        cls.wait_all_good()

    @classmethod
    def tearDownClass(cls):
        cls.plant.stop()
        super().tearDownClass()

    @classmethod
    def allow_merging(cls, on):
        for command in cls.device["commands"]:
            reply = cls.admin.patch(f"/modbusmaster/config/mcmds/{command}", {
                "remoteDevId": cls.device["device"], "mergeRead": on})
            if reply.status != 200:
                raise AssertionError(f"{reply}")

    @classmethod
    def wait_all_good(cls):
        """Every tag was read after now."""
        now_us = time.time() * 1e6

        def fresh():
            rows = cls.values("plant")
            return all(rows.get(f"t{i}", {}).get("quality") == "good"
                       and rows[f"t{i}"]["ts"] > now_us for i in range(N))
        wait_for("all tags", fresh, 20)

    def requests_for(self, samples):
        """Requests for that many samples of the last tag."""
        stream = self.admin.stream(f"/tags/monitor/{P}/plant?tags=t{N - 1}&onChanged")
        self.addCleanup(stream.close)
        wait_for("the stream", lambda: stream.events)
        before, n = self.plant.ask(do="requests"), len(stream.events)
        wait_for("samples", lambda: len(stream.events) >= n + samples, 20)
        return self.plant.ask(do="requests") - before

    def check_values(self):
        rows = self.values("plant")
        self.assertEqual([rows[f"t{i}"]["dataValue"] for i in range(N)],
                         [1001 + 3 * i for i in range(N)])

    def test_1_neighbours_are_read_in_one_request(self):
        self.assertLess(self.requests_for(10), 10 + 5)
        self.check_values()

    def test_2_a_smaller_request_and_no_gap_are_kept_to(self):
        self.set_interface(mergeQuantity=32)
        self.apply()
        self.wait_all_good()
        self.assertGreater(self.requests_for(10), 2 * 9)  # 59 registers in two requests
        self.set_interface(mergeQuantity=125, mergeGap=0)
        self.apply()
        self.wait_all_good()
        self.assertGreater(self.requests_for(10), N * 8)
        self.check_values()
        self.set_interface(mergeGap=8)
        self.apply()

    def test_3_a_direct_read_asks_for_its_command_only(self):
        self.plant.set(4, 77)
        reply = self.admin.put("/modbusmaster/operate/direct-read-tag",
                               {"prvdName": P, "srcName": "plant", "tagName": "t1"})
        self.assertEqual(reply.status, 200, reply)
        self.assertEqual(reply.data["dataValue"], 77)
        self.plant.set(4, 1004)
        self.wait_all_good()

    def test_4_what_the_server_refuses_as_a_whole_is_read_one_by_one(self):
        self.plant.ask(do="hole", address=5)  # in no command
        self.wait_all_good()
        self.assertGreater(self.requests_for(10), N * 8)
        self.check_values()

    def test_5_without_the_option_each_command_is_a_request(self):
        self.plant.ask(do="hole", address=None)
        self.allow_merging(0)
        self.apply()
        self.wait_all_good()
        self.assertGreater(self.requests_for(10), N * 8)
        self.check_values()
