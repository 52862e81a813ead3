"""kill -9 of each daemon in turn, under traffic.

What was answered is kept and recorded once; nothing runs twice; the others
never notice; the killed one's operations answer 503 at once until it is back.
"""
import collections
import os
import re
import threading
import time

import harness
from harness import Broker, Client, Plant, Subscriber, Suite, Unanswered, wait_for

TEST_SECONDS = 600
COST = 99  # runs alone: it measures time
KILLS = int(os.environ.get("KILLS", "4" if harness.SANITIZED else "20"))
P = "modbus_tcp_master"


class Write:
    """One attempt: 'word' is in no other."""

    def __init__(self, word):
        self.word, self.outcome = word, None  # "done", "refused", "unknown"


class Writer(threading.Thread):
    """Writes one unique word after the other; keeps what became of each."""

    def __init__(self, test, owner, name, write, pace=0.03):
        super().__init__(daemon=True)
        self.test, self.owner, self.label, self.write = test, owner, name, write
        self.pace, self.log, self.stopping = pace, [], threading.Event()
        self.faults = []

    def run(self):
        n = 0
        client = Client(self.test.fleet, token=self.test.admin.token)
        while not self.stopping.wait(self.pace):
            n += 1
            w = Write(f"{self.label}-{n}-")
            self.log.append(w)
            try:
                self.judge(w, self.write(client, w.word))
            except Unanswered as e:
                w.outcome = "unknown"
                if self.test.down != "gateway":
                    self.faults.append(f"{self.label}: {e} while {self.test.down} was away")
            except Exception as e:  # a test that dies silently proves nothing
                self.faults.append(f"{self.label}: {e!r}")
                return

    def judge(self, w, reply):
        down = self.test.down_since(reply.took)
        if reply.status in (200, 201):
            w.outcome = "done"
        elif reply.status == 503 and self.owner in down:
            # refused before it was begun, or cut in the middle: only the record tells
            w.outcome = "unknown"
            self.test.refused(reply)
        else:
            w.outcome = "unknown"
            self.faults.append(f"{reply} while {down or 'nothing'} was away")


class Reader(threading.Thread):
    """Asks one operation of one daemon over and over."""

    def __init__(self, test, owner):
        super().__init__(daemon=True)
        self.test, self.owner = test, owner
        self.counts, self.faults = collections.Counter(), []
        self.stopping = threading.Event()

    def run(self):
        client = Client(self.test.fleet, token=self.test.admin.token)
        while not self.stopping.wait(0.005):
            try:
                reply = client.get(harness.PROBE[self.owner])
            except Unanswered as e:
                if "gateway" not in self.test.down_since(0.5):
                    self.faults.append(f"{self.owner}: {e}")
                continue
            self.counts[reply.status] += 1
            down = self.test.down_since(reply.took)
            if reply.status == 503 and self.owner in down:
                self.test.refused(reply)
                if not reply.headers.get("Retry-After"):
                    self.faults.append(f"{reply} has no Retry-After")
            elif reply.status != 200:
                self.faults.append(f"{reply} while {down or 'nothing'} was away")


class Follower(threading.Thread):
    """Keeps a stream open; a stream may end cleanly and is opened again."""

    def __init__(self, test):
        super().__init__(daemon=True)
        self.test, self.stopping = test, threading.Event()
        self.faults, self.events, self.opened = [], 0, 0

    def run(self):
        client = Client(self.test.fleet, token=self.test.admin.token)
        while not self.stopping.wait(0.05):
            try:
                stream = client.stream(f"/tags/monitor/{P}/pump?tags=flow&onChanged")
            except (OSError, Exception):
                continue
            if stream.status != 200:
                continue
            self.opened += 1
            seen = 0
            while not stream.ended and not self.stopping.wait(0.02):
                self.events += len(stream.events) - seen
                seen = len(stream.events)
            if stream.ended and stream.ended != "clean" and \
                    "gateway" not in self.test.down_since(1.0):
                self.faults.append(f"stream {stream.ended} while {self.test.down} was away")
            stream.close()


class Kill(Suite):
    def setUp(self):
        self.down, self.history = None, []  # (name, from, to) of each absence
        self.refusals = []  # seconds that each 503 took

    def refused(self, reply):
        self.refusals.append(reply.took)

    def down_since(self, took):
        """Who was away at any time of a request that took that long and ended now."""
        began = time.monotonic() - took - 0.02
        return {name for name, _, to in self.history if to is None or to > began}

    @classmethod
    def prepare(cls):
        cls.plant = Plant(cls.fleet)
        cls.broker = Broker(cls.fleet).start()
        cls.set_interface(retryCount=0, responseTout=500)
        ids = cls.add_device("pump", cls.plant.port, [
            ("flow", 3, 0, 1, 100, [("flow", "uint16", 0)])])
        cls.command = ids["commands"][0]
        cls.spare = cls.add_device("spare", cls.plant.port, [], unit=9, enable=0)["device"]
        cls.apply()
        cls.mqtt = cls.add_mqtt(cls.broker.port)
        cls.add_group(cls.mqtt, {P: {"pump": ["flow"]}})
        reply = cls.admin.post("/mqtt", {"enable": False, "server": "h", "port": 1883})
        cls.idle = next(c["id"] for c in reply.data if c["id"] != cls.mqtt)
        cls.subscriber = Subscriber(cls.broker.port)
        wait_for("the value", lambda: cls.values("pump").get("flow"))

    @classmethod
    def tearDownClass(cls):
        cls.subscriber.close()
        super().tearDownClass()

    def writers(self):
        put = {
            "device": ("modbusd", lambda c, w: c.patch(
                f"/modbusmaster/config/remote-devs/{self.spare}",
                {"masterTcpIfaceId": 1, "name": w + "end"})),
            "tag": ("modbusd", lambda c, w: c.post(
                "/modbusmaster/config/tags", {"mcmdId": self.command, "name": w + "end",
                                              "dataType": "uint16", "offset": 0,
                                              "access": "r"})),
            "me": ("authd", lambda c, w: c.put("/users/me", {"description": w + "end"})),
            "mqtt": ("cloudd", lambda c, w: c.put(
                f"/mqtt/{self.idle}", {"server": "h", "port": 1883, "enable": False,
                                       "userName": w + "end"})),
        }
        return [Writer(self, owner, name, write, 0.15 if name == "tag" else 0.03)
                for name, (owner, write) in put.items()]

    def kept(self, label):
        """The words that the state holds now."""
        if label == "device":
            return [self.admin.get(f"/modbusmaster/config/remote-devs/{self.spare}").data["name"]]
        if label == "tag":
            return [t["name"] for t in self.admin.get("/modbusmaster/config/tags").data
                    if t["name"] != "flow"]
        if label == "me":
            return [self.admin.get("/users/me").data["description"]]
        return [c["userName"] for c in self.admin.get("/mqtt").data if c["id"] == self.idle]

    def away(self, name):
        d = self.fleet.d[name]
        self.down = name
        self.history.append([name, time.monotonic(), None])
        d.kill()
        if name == "gateway":
            d.start()
            self.fleet.wait_ready()
        else:
            # its operations are refused at once, and again until it is back
            reply = None
            for _ in range(3):
                reply = self.admin.get(harness.PROBE[name])
                if name != "authd" or reply.status != 200:
                    self.assertEqual(reply.status, 503, repr(reply))
                    self.refused(reply)
            d.start()
            self.wait_daemons([name])
        self.history[-1][2] = time.monotonic()
        self.down = None

    def test_kill_9_of_each_daemon_under_traffic_loses_and_repeats_nothing(self):
        writers = self.writers()
        readers = [Reader(self, owner) for owner in harness.PROBE]
        follower = Follower(self)
        everyone = writers + readers + [follower]
        for t in everyone:
            t.start()
        value = 0
        try:
            for _ in range(KILLS):
                for name in harness.DAEMONS:
                    self.away(name)
                    # traffic in between, and the broker gets the next value
                    before = [len(w.log) for w in writers]
                    value += 1
                    self.plant.set(0, value)
                    wait_for("traffic", lambda: all(len(w.log) > b + 2 for w, b in
                                                    zip(writers, before)))
                mark = len(self.subscriber.messages)
                value += 1
                self.plant.set(0, value)
                self.subscriber.wait_message(
                    lambda t, p, v=value: f'"value":{v}}}'.encode() in p, 30, mark)
        finally:
            for t in everyone:
                t.stopping.set()
            for t in everyone:
                t.join(40)
        faults = collections.Counter(re.sub(r"\d+(\.\d+)?", "#", f) for t in everyone
                                     for f in t.faults)
        for text, n in faults.most_common(20):
            print(f"{n} x {text}", flush=True)
        with self.subTest("answers"):
            self.assertEqual(sum(faults.values()), 0, "faults, see above")
        with self.subTest("503 at once"):
            took = sorted(self.refusals)
            self.assertGreater(len(took), KILLS * 5)
            self.assertLess(took[len(took) // 2], 0.1 * harness.SLOW, took[-40:])
            self.assertLess(took[-1], harness.AT_ONCE)
        self.assertGreater(follower.events, 20 * KILLS / harness.SLOW, "events of the stream")

        rows = wait_for("the records of all changes", lambda: self.complete(writers), 60)
        report = []
        for w in writers:
            done = [x for x in w.log if x.outcome == "done"]
            unknown = {x.word for x in w.log if x.outcome == "unknown"}
            count = collections.Counter()
            for text in rows:
                if f"{w.label}-" in text:
                    for x in w.log:
                        if x.word in text:
                            count[x.word] += 1
                            break
            self.assertGreater(len(done), KILLS * 10 / harness.SLOW, w.label)
            lost = [x.word for x in done if count[x.word] == 0]
            self.assertEqual(lost, [], f"{w.label}: answered and not in the audit log")
            twice = {k: n for k, n in count.items() if n > 1}
            self.assertEqual(twice, {}, f"{w.label}: recorded more than once")
            kept = [k[:-3] for k in self.kept(w.label)]
            if w.label == "tag":
                missing = {x.word for x in done} - set(kept)
                self.assertEqual(missing, set(), "answered and not in the store")
                self.assertEqual(len(kept), len(set(kept)))
                self.assertLessEqual(set(kept) - {x.word for x in done}, unknown)
                # what is stored without an answer has its record too
                self.assertEqual({k for k in kept if count[k] != 1}, set())
            else:
                # the last answered one, or one of unknown fate after it
                last = max(i for i, x in enumerate(w.log) if x.outcome == "done")
                possible = [w.log[last].word] + [x.word for x in w.log[last + 1:]]
                self.assertIn(kept[0], possible)
                self.assertEqual(count[kept[0]], 1)
            report.append(f"{w.label}: {len(done)} answered, {len(unknown)} cut off")
        report.append("503 at most after "
                      f"{max(self.refusals) * 1000:.0f} ms, {len(self.refusals)} of them")
        print("; ".join(report), flush=True)

    def complete(self, writers):
        rows = [r["message"] + r["detail"] for r in self.audits()]
        text = "\n".join(rows)
        missing = [x.word for w in writers for x in w.log
                   if x.outcome == "done" and x.word not in text]
        return rows if not missing else None
