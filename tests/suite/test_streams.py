"""Many tags: the list and the streams of a source, with a provider that is not ours."""
import os

import harness
from harness import Daemon, Suite, wait_for

TEST_SECONDS = 120
P = "modbus_tcp_master"
N_SPECIAL = 4  # what tests/fakes/fake_provider.c lists besides its counters


class WithProvider(Suite):
    daemons = ("auditd", "authd", "tagd", "cloudd", "gateway")

    def provide(self, n, interval_ms=86400000):
        """A provider of 'n' counters in the place of modbusd; the one before ends."""
        if "modbusd" in self.fleet.d:
            self.fleet.d["modbusd"].stop()
        self.fleet.d["modbusd"] = Daemon(
            self.fleet, "modbusd",
            [os.path.join(harness.BUILD, "bin", "fake_provider"), "--profile", "bench", "--state",
             self.fleet.state, "--run", self.fleet.run, "--set", f"tags={n}", "--set",
             f"interval-ms={interval_ms}"], harness.sanitizer_env()).start()
        self.addCleanup(self.fleet.d["modbusd"].stop)

    def lists(self, n):
        """Are there so many tags now?"""
        replies = [self.admin.get(f"/tags/list?limit=2&offset={at}") for at in (n - 1, n)]
        return all(r.status == 200 for r in replies) and \
            [len(r.data) for r in replies] == [1, 0]

    @staticmethod
    def names(stream, since=0):
        return {e["tagName"] for _, e in stream.events[since:]}


class Source(WithProvider):
    def test_a_stream_of_a_source_follows_the_tags_it_has(self):
        for how in ("onChanged", "streamInterval=100"):
            stream = self.admin.stream(f"/tags/monitor/{P}/fake?{how}")
            self.assertEqual(stream.status, 200)
            self.provide(3)
            wait_for("the first tags", lambda s=stream: {"big", "t2"} <= self.names(s))
            self.provide(5)
            wait_for("a tag that was added", lambda s=stream: "t4" in self.names(s))
            self.provide(2)
            wait_for("the shorter list", lambda: self.lists(2 + N_SPECIAL))
            mark = len(stream.events)
            wait_for("a while", lambda s=stream, m=mark: len(s.events) > m + 20
                     or how == "onChanged")
            self.assertNotIn("t4", self.names(stream, mark + 1))
            stream.close()
            self.fleet.d["modbusd"].stop()
            wait_for("nothing to be listed", lambda: self.values("fake", "t0") and
                     self.values("fake", "t0")["t0"]["quality"] == "offline")


class ManyTags(WithProvider):
    def test_a_stream_of_many_tags_begins_with_all_of_them_and_so_does_each_round(self):
        n = 20000
        self.provide(n)
        wait_for("the list", lambda: self.lists(n + N_SPECIAL), 30)
        self.assertEqual(len(self.assert_ok(self.admin.get(f"/tags/monitor/{P}/fake")).data),
                         n + N_SPECIAL)
        every = {f"t{i}" for i in range(n)}
        for how in ("onChanged", "streamInterval=1000"):
            stream = self.admin.stream(f"/tags/monitor/{P}/fake?{how}")
            wait_for("all tags", lambda s=stream: every <= self.names(s), 30, step=0.3)
            mark = len(stream.events)
            if how != "onChanged":
                wait_for("all tags again", lambda s=stream, m=mark: every <= self.names(s, m), 60,
                         step=0.3)
            stream.close()

    def test_a_list_that_is_larger_than_a_message_is_answered_whole(self):
        n = 100000
        self.provide(n)
        wait_for("the list", lambda: self.lists(n + N_SPECIAL), 30)
        rows = self.assert_ok(self.admin.get("/tags/list")).data
        self.assertEqual([r["tagName"] for r in rows[N_SPECIAL:]], [f"t{i}" for i in range(n)])
        self.assertEqual(os.listdir(os.path.join(self.fleet.run, "spool")), [])

    def test_message_groups_of_the_largest_size_can_be_listed_and_changed(self):
        client = self.add_mqtt(harness.free_port(), enable=False)
        tags = {f"{i:0128}": {f"{i:0128}": ["t"]} for i in range(970)}
        size = 0
        while True:
            reply = self.admin.post(f"/mqtt/{client}/messages", {
                "enable": False, "tags": tags, "description": "x" * 1024,
                "sendOutThreshold": {"mode": "byTime"}})
            if reply.status == 403:  # all there may be
                break
            self.assert_ok(reply)
            size = len(reply.body)
        self.assertGreater(size, 8 << 20)
        groups = self.assert_ok(self.admin.get(f"/mqtt/{client}/messages")).data
        self.assertEqual(groups[-1]["tags"], tags)
        self.assert_ok(self.admin.delete(f"/mqtt/{client}/messages/{groups[0]['id']}"))


class Access(WithProvider):
    def test_what_the_provider_answers_to_a_write_is_what_the_client_is_told(self):
        self.provide(1)
        wait_for("the list", lambda: self.lists(1 + N_SPECIAL))
        for value, status in ((12, 200), (13, 504), (14, 429)):
            reply = self.admin.put(f"/tags/access/{P}/fake/out",
                                   {"dataType": "int16", "dataValue": value})
            self.assertEqual(reply.status, status, reply)
        self.assertIn("too many requests wait", reply.json["error"]["message"])
        self.assertEqual(reply.headers["Retry-After"], "1")
