"""cloudd alone: values from a provider that is not ours, to mosquitto."""
import contextlib
import glob
import json
import os
import socket
import threading

import buspeer
import harness
import tagwire
from harness import Broker, Subscriber, wait_for
from onedaemon import ADMIN, GUEST, NOBODY, OneDaemon
from tagwire import FakeProvider, sample

TEST_SECONDS = 180
P = "modbus_tcp_master"
COUNT, BIG, WORD, LONG = 1, 2, 3, 4
WHO = ADMIN[:3] + (1 << 5,) + ADMIN[4:]  # APP_MQTT_RW and nothing else


class Line:
    """A line to the broker that loses what it is told to: .deaf (to the broker),
    .mute (from it); cut() breaks all connections."""

    def __init__(self, port):
        self.to, self.deaf, self.mute, self.open = port, False, False, set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.to), 5)
            except OSError:
                return
            self.open |= {near, far}
            for args in ((near, far, "deaf"), (far, near, "mute")):
                threading.Thread(target=self.carry, args=args, daemon=True).start()

    def carry(self, source, sink, lost):
        try:
            while data := source.recv(65536):
                if not getattr(self, lost):
                    sink.sendall(data)
        except OSError:
            pass
        for s in (source, sink):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def cut(self):
        self.deaf = self.mute = False
        for s in list(self.open):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()
        self.open.clear()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()


class Cloudd(OneDaemon):
    name = "cloudd"

    @classmethod
    def prepare(cls):
        cls.audit = cls.fake_auditd()
        cls.provider = p = FakeProvider(cls.fleet.run + "/bus")
        cls.stand_ins.append(p)
        p.add(COUNT, tagwire.UINT16, "count", 1)
        p.add(BIG, tagwire.UINT64, "big", 2**64 - 1)
        p.add(WORD, tagwire.STRING, "word", b"-", size=64)
        p.add(LONG, tagwire.STRING, "long", b"-", size=4000)
        cls.broker = Broker(cls.fleet, keep=True).start()

    @classmethod
    def wait_provider(cls):
        wait_for("the subscriber of the tag bus", lambda: cls.provider.publisher.pipes)
        wait_for("the catalogue", lambda: cls.metric("fieldgate_tags") == len(cls.provider.defs))

        def heard():
            n = cls.metric("fieldgate_tag_samples_total")
            cls.provider.set(COUNT, 1)
            return cls.metric("fieldgate_tag_samples_total") > n
        wait_for("a sample to be heard", heard)

    def setUp(self):
        self.wait_provider()
        self.addCleanup(self.clean)

    def clean(self):
        if self.broker.process.poll() is not None:
            self.broker.start()
        for c in self.done("getMqttClients", who=WHO):
            self.done("deleteMqttClient", path=(str(c["id"]),), who=WHO)
        wait_for("nothing queued", lambda: self.metric("fieldgate_mqtt_queued_messages") == 0)

    # ---- clients, groups, subscribers ----

    def add_client(self, port=None, forward=None, **members):
        known = {c["id"] for c in self.done("getMqttClients", who=WHO)}
        rows = self.done("postMqttClient", {
            "enable": True, "server": "127.0.0.1", "port": port or self.broker.port,
            "retryInterval": 10, "clientID": f"c-{self.id()[-40:]}-{len(known)}", **members},
            who=WHO)
        client, = {c["id"] for c in rows} - known
        if forward is not None:
            self.done("putMqttStoreAndForward", {"enable": True, "timeToLiveSec": 0, **forward},
                      path=(str(client),), who=WHO)
        return client

    def add_group(self, client, topic, *names, **members):
        return self.done("postMqttMessage", {
            "enable": True, "outputTopic": topic, "tags": {P: {"fake": list(names)}},
            "samplingMode": "allValues", "sendOutThreshold": {"mode": "immediately"},
            **members}, path=(str(client),), who=WHO)

    def status(self, client):
        return self.done("getMqttClient", path=(str(client),), who=WHO)["status"]

    def wait_connected(self, client):
        wait_for(f"client {client} to connect", lambda: self.status(client) == "connected", 20)

    def lose_broker(self, client):
        self.wait_connected(client)
        self.broker.stop()
        wait_for("the loss", lambda: self.status(client) != "connected")

    def monitor(self, client):
        return next(c for c in self.done("getMqttMonitor", who=WHO)["clients"]
                    if c["id"] == client)

    def subscriber(self, topic):
        s = Subscriber(self.broker.port, topic, keep=True)
        self.addCleanup(s.close)
        return s

    @staticmethod
    def values(subscriber, name):
        """All values of a tag in order of arrival."""
        with subscriber.new:
            payloads = [p for _, _, p in subscriber.messages]
        out = []
        for payload in payloads:
            tag = json.loads(payload)["tags"].get(P, {}).get("fake", {}).get(name)
            out += [v["value"] for v in tag["values"]] if tag else []
        return out

    def say(self, *words):
        for w in words:
            self.provider.publish(sample(WORD, tagwire.STRING, w.encode()))

    def one_by_one(self, *samples):
        """Each in a message of its own: what comes at once travels together."""
        for s in samples:
            n = self.metric("fieldgate_mqtt_messages_total")
            self.provider.publish(s)
            wait_for("its message", lambda k=n: self.metric("fieldgate_mqtt_messages_total") > k,
                     step=0)

    def on_disk(self, word):
        """Whoever finds the word there and then an answer knows that it is committed:
        the thread that writes is the one that answers."""
        for path in glob.glob(f"{self.fleet.state}/cloudd/*"):
            with open(path, "rb") as f:
                if word.encode() in f.read():
                    self.tell(buspeer.PING)
                    return True
        return False

    # ---- what is sent ----

    def test_values_arrive_at_the_broker_exact_and_in_order(self):
        watch = self.subscriber("exact")
        client = self.add_client()
        self.add_group(client, "exact", "big", "count",
                       properties=[{"key": "site", "value": "Nord ü"}])
        self.wait_connected(client)
        for v in range(100, 200):
            self.provider.set(COUNT, v)
        at = 1700000000123456
        self.provider.publish(sample(BIG, tagwire.UINT64, 2**63 + 1, at=at))
        wait_for("all", lambda: 2**63 + 1 in self.values(watch, "big")
                 and 199 in self.values(watch, "count"))
        got = self.values(watch, "count")
        self.assertEqual([v for v in got if v >= 100], list(range(100, 200)))
        with watch.new:
            last = watch.messages[-1][2]
        self.assertIn(b":9223372036854775809", last)
        self.assertIn(b"2023-11-14T22:13:20", last)
        self.assertEqual(json.loads(last)["properties"], {"site": "Nord ü"})

    def test_a_bad_quality_is_sent_as_such(self):
        watch = self.subscriber("bad")
        client = self.add_client()
        self.add_group(client, "bad", "count")
        self.wait_connected(client)
        self.provider.set(COUNT, 5, quality=tagwire.TIMEOUT)
        watch.wait_message(lambda t, p: b'"quality":"timeout"' in p and b'"value":null' in p)
        self.provider.set(COUNT, 6)
        watch.wait_message(lambda t, p: b'"value":6' in p)

    def test_a_group_follows_its_tags_by_name_through_the_lives_of_the_provider(self):
        watch, p = self.subscriber("names"), self.provider
        client = self.add_client()
        self.add_group(client, "names", "word", "later")
        self.wait_connected(client)
        self.say("one")
        watch.wait_message(lambda t, m: b'"one"' in m)
        p.stop()
        p.start()
        self.wait_provider()
        self.say("two")
        watch.wait_message(lambda t, m: b'"two"' in m)
        p.defs.insert(0, p.defs[0]._replace(no=9, name="later"))
        p.last[9] = sample(9, tagwire.UINT16, 77)
        p.changed()
        watch.wait_message(lambda t, m: b'"later"' in m and b'"value":77' in m)
        p.defs.pop(0)
        p.changed()
        self.wait_provider()

    def test_batches_of_nonsense_do_not_hurt(self):
        watch, p = self.subscriber("sane"), self.provider
        client = self.add_client()
        self.add_group(client, "sane", "word")
        self.wait_connected(client)
        good = tagwire.batch(p.epoch, p.seq + 1, p.generation,
                             [sample(WORD, tagwire.STRING, b"abc")])
        for data in [good[:n] for n in range(0, len(good), 3)] + [
                good + b"x", good[:48] + b"\xff" * 8 + good[56:], b"\xff" * 5000]:
            p.publisher.send(data)
        self.say("after-nonsense")
        watch.wait_message(lambda t, m: b'"after-nonsense"' in m)
        self.alive()

    # ---- configuration ----

    def test_clients_and_groups_survive_kill_9_and_connect_by_themselves(self):
        watch = self.subscriber("kept")
        client = self.add_client(userName="u", password="hidden-Password-7")
        self.add_group(client, "kept", "word")
        before = (self.done("getMqttClients", who=WHO), self.done(
            "getMqttMessages", path=(str(client),), who=WHO))
        self.wait_connected(client)
        self.kill_and_start()
        self.wait_provider()
        self.wait_connected(client)
        after = (self.done("getMqttClients", who=WHO), self.done(
            "getMqttMessages", path=(str(client),), who=WHO))
        for rows in (before[0], after[0]):
            rows[0].pop("status")
        self.assertEqual(after, before)
        self.say("after-the-kill")
        watch.wait_message(lambda t, m: b'"after-the-kill"' in m)
        wait_for("the record", lambda: self.audit.named("mqttClientUpdate"))
        self.assertNotIn("hidden-Password-7", json.dumps([after, self.audit.kept]))

    def test_a_change_that_is_refused_leaves_all_as_it_was(self):
        client = self.add_client(enable=False)
        self.add_group(client, "t", "word")
        state = lambda: (self.done("getMqttClients", who=WHO), self.done(
            "getMqttMessages", path=(str(client),), who=WHO))
        before = state()
        for bad in ({}, {"server": "x"}, {"server": "x", "port": 0}, {"server": "", "port": 1},
                    {"server": "x", "port": 65536}, {"server": "a b", "port": 1},
                    {"server": "x", "port": 1, "qos": 3}, {"server": "x", "port": "1"}, [], 7,
                    {"server": "x", "port": 1, "remoteAPI": {"enable": True}}):
            got = self.call("postMqttClient", json.dumps(bad).encode(), who=WHO,
                            body_kind=buspeer.JSON)
            self.assertEqual(got.status, 400, bad)
        group = {"enable": True, "tags": {}, "sendOutThreshold": {}}
        for bad in ({}, dict(group, tags=[]), dict(group, tags={P: []}),
                    dict(group, tags={P: {"fake": "word"}}),
                    dict(group, tags={P: {"fake": [1]}}), dict(group, outputTopic="a/#"),
                    dict(group, outputTopic="+"), dict(group, outputTopic=""),
                    dict(group, format="x"), dict(group, sendOutThreshold={"mode": "never"})):
            got = self.call("postMqttMessage", bad, path=(str(client),), who=WHO)
            self.assertEqual(got.status, 400, bad)
        self.assertEqual(self.call("postMqttMessage", group, path=("99",), who=WHO).status, 404)
        for who, status in ((NOBODY, 401), (GUEST, 403)):
            for operation, path in (("getMqttClients", ()), ("deleteMqttClient", (str(client),)),
                                    ("getMqttMonitor", ())):
                self.assertEqual(self.call(operation, path=path, who=who).status, status)
        self.assertEqual(state(), before)

    def test_a_form_is_read_from_the_spool_only_and_taken_from_there(self):
        client = self.add_client(enable=False)
        spool = f"{self.fleet.run}/spool"
        secret = f"{self.fleet.run}/secret"
        form = (b'--b\r\nContent-Disposition: form-data; name="rootCaCertFile"; '
                b'filename="ca.pem"\r\n\r\nno certificate\r\n--b--\r\n')
        for path in (secret, f"{spool}/good", f"{spool}/.hidden"):
            with open(path, "wb") as f:
                f.write(form)
        os.symlink(secret, f"{spool}/link")

        def put(name, type_="multipart/form-data; boundary=b"):
            try:
                return self.call("putMqttClient", name, who=WHO, path=(str(client),),
                                 body_kind=buspeer.FILE, content_type=type_).status
            except ConnectionResetError:  # not even a message
                return 400
        before = self.done("getMqttClients", who=WHO)
        for name in (b"../secret", b"link", b"", b".", b"..", b"missing", b"x" * 300, b"\0",
                     secret.encode(), b"good/../good"):
            self.assertIn(put(name), (400, 500), name)
            self.assertTrue(os.path.exists(secret), name)
        self.assertEqual(put(b"good"), 400)  # it is no certificate
        self.assertFalse(os.path.exists(f"{spool}/good"))
        for type_ in ("", "multipart/form-data", "multipart/form-data; boundary=",
                      "multipart/form-data; boundary=" + "x" * 300, "text/plain"):
            with open(f"{spool}/again", "wb") as f:
                f.write(form)
            self.assertEqual(put(b"again", type_), 400, type_)
            self.assertFalse(os.path.exists(f"{spool}/again"))
        self.assertEqual(self.done("getMqttClients", who=WHO), before)

    def test_a_stop_while_a_broker_does_not_answer_is_in_order(self):
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        mute = self.add_client(port=listener.getsockname()[1])
        client = self.add_client(forward={})
        self.add_group(client, "stopped", "word")
        watch = self.subscriber("stopped")
        self.wait_connected(client)
        wait_for("an attempt", lambda: self.status(mute) == "connecting")
        words = [f"stop-{i:02}" for i in range(50)]
        self.say(*words)
        wait_for("the last on disk", lambda: self.on_disk(words[-1]))
        self.assert_stops_in_order()
        wait_for("all", lambda: len(self.firsts(watch, words)) == 50)
        self.assertEqual(self.firsts(watch, words), words)

    def test_a_broker_that_is_none_disturbs_no_other_client(self):
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        answers = [b"", b"\x20\x02\x00", b"\xff" * 2000, b"HTTP/1.1 400 Bad Request\r\n\r\n",
                   b"\x20\xff\xff\xff\xff\xff"]

        def serve():
            held = []
            while True:
                try:
                    s, _ = listener.accept()
                except OSError:
                    return
                held.append(s)  # and left open
                s.sendall(answers[len(held) % len(answers)])
        threading.Thread(target=serve, daemon=True).start()
        watch = self.subscriber("calm")
        none = [self.add_client(port=listener.getsockname()[1]) for _ in range(5)]
        client = self.add_client()
        self.add_group(client, "calm", "word")
        self.wait_connected(client)
        for i in range(20):
            self.say(f"calm-{i}")
        wait_for("all", lambda: [w for w in self.values(watch, "word") if w.startswith("calm-")]
                 == [f"calm-{i}" for i in range(20)])
        for c in none:
            self.assertNotEqual(self.status(c), "connected")
        listener.shutdown(socket.SHUT_RDWR)

    # ---- nothing is lost ----

    def test_what_waits_in_memory_is_sent_in_order_when_the_broker_is_back(self):
        watch = self.subscriber("memory")
        client = self.add_client()
        self.add_group(client, "memory", "word")
        self.lose_broker(client)
        words = [f"mem-{i:03}" for i in range(200)]
        n = self.metric("fieldgate_tag_samples_total")
        self.say(*words)
        wait_for("200 samples", lambda: self.metric("fieldgate_tag_samples_total") >= n + 200)
        self.broker.start()
        wait_for("all", lambda: words[-1] in self.values(watch, "word"), 20)
        self.assertEqual(self.firsts(watch, words), words)
        wait_for("nothing queued", lambda: self.monitor(client)["queuedMessages"] == 0)

    def firsts(self, subscriber, words):
        """The words that arrived, in order of their first arrival: some may come again."""
        known = set(words)
        return list(dict.fromkeys(w for w in self.values(subscriber, "word") if w in known))

    def test_stored_messages_outlive_kill_9_and_the_broker_in_turn_and_keep_their_order(self):
        watch = self.subscriber("stored")
        client = self.add_client(forward={"sendDelayMillsecond": 10})
        self.add_group(client, "stored", "word")
        self.wait_connected(client)
        accepted, n = [], 0

        def accept(k):
            nonlocal n
            words = [f"stored-{i:05}-" for i in range(n, n + k)]
            n += k
            self.say(*words)
            wait_for("the last of them on disk", lambda: self.on_disk(words[-1]))
            accepted.extend(words)
        for round_ in range(4):
            accept(25)
            self.daemon.kill()  # some on their way, some acknowledged
            self.start_again()
            self.wait_provider()
            accept(25)
            self.broker.stop()
            accept(25)
            self.daemon.kill()  # none could be sent
            self.start_again()
            self.wait_provider()
            accept(25)
            if round_ % 2:
                self.daemon.kill()
            self.broker.start()
            if round_ % 2:
                self.start_again()
                self.wait_provider()
        wait_for("all that was accepted", lambda: len(self.firsts(watch, accepted)) == n, 30)
        self.assertEqual(self.firsts(watch, accepted), accepted)
        wait_for("nothing queued", lambda: self.monitor(client)["queuedMessages"] == 0)
        # and nothing comes again after that, but for the value that the tag has
        came = len([w for w in self.values(watch, "word") if w in accepted[:-1]])
        self.kill_and_start()
        self.wait_provider()
        self.say("the-end")
        wait_for("the end", lambda: "the-end" in self.values(watch, "word"))
        self.assertEqual(len([w for w in self.values(watch, "word") if w in accepted[:-1]]), came)

    def test_what_a_breaking_line_swallowed_is_sent_again_in_order(self):
        for forward in (None, {}):
            line = Line(self.broker.port)
            self.addCleanup(line.close)
            topic = "stored-line" if forward is not None else "line"
            watch = self.subscriber(topic)
            client = self.add_client(port=line.port, forward=forward)
            self.add_group(client, topic, "word")
            said = []
            for lost in ("mute", "deaf"):
                self.wait_connected(client)
                setattr(line, lost, True)
                words = [f"{topic}-{lost}-{k:02}" for k in range(40)]
                self.one_by_one(*[sample(WORD, tagwire.STRING, w.encode()) for w in words])
                self.assertGreaterEqual(self.monitor(client)["queuedMessages"], 40)
                if lost == "mute":  # sent, and the acknowledgements are lost
                    wait_for("some", lambda k=words: k[0] in self.values(watch, "word"))
                if lost == "mute" and forward is not None:
                    wait_for("the commit", lambda k=words: self.on_disk(k[-1]))
                    self.daemon.kill()
                    line.cut()
                    self.start_again()
                    self.wait_provider()
                else:
                    line.cut()
                    wait_for("the loss", lambda c=client: self.status(c) != "connected")
                said += words
            wait_for("all", lambda k=said: len(self.firsts(watch, k)) == len(k), 30)
            self.assertEqual(self.firsts(watch, said), said)
            wait_for("nothing queued", lambda: self.monitor(client)["queuedMessages"] == 0)

    def test_what_waited_in_memory_becomes_stored_when_storing_is_switched_on(self):
        watch = self.subscriber("switched")
        client = self.add_client()
        self.add_group(client, "switched", "word")
        self.lose_broker(client)
        words = [f"switch-{i:02}" for i in range(20)]
        self.one_by_one(*[sample(WORD, tagwire.STRING, w.encode()) for w in words])
        self.assertEqual(self.monitor(client)["queuedMessages"], 20)
        self.done("putMqttStoreAndForward", {"enable": True}, path=(str(client),), who=WHO)
        wait_for("the last on disk", lambda: self.on_disk(words[-1]))
        self.daemon.kill()
        self.broker.start()
        self.start_again()
        wait_for("all", lambda: words[-1] in self.values(watch, "word"), 20)
        self.assertEqual(self.firsts(watch, words), words)

    def test_a_full_store_drops_the_end_that_it_is_told_and_counts(self):
        for which in ("oldest", "newest"):
            watch = self.subscriber(f"full-{which}")
            client = self.add_client(forward={"desiredDiskCacheSizeMB": 1, "dropBehavior": which})
            self.add_group(client, f"full-{which}", "long")
            self.lose_broker(client)
            texts = [f"{which}-{i:04}-".encode() + b"x" * 3900 for i in range(300)]
            self.one_by_one(*[sample(LONG, tagwire.STRING, t) for t in texts])
            last = f"{which}-{0 if which == 'newest' else 299:04}-"
            wait_for("the commit", lambda k=last: self.on_disk(k))
            row = self.monitor(client)
            dropped = row["droppedMessages"]
            self.assertEqual(row["queuedMessages"] + dropped, 300)
            self.assertTrue(20 < dropped < 100, dropped)
            self.daemon.kill()
            self.broker.start()
            self.start_again()
            kept = [t.decode() for t in (texts[dropped:] if which == "oldest"
                                         else texts[:300 - dropped])]
            wait_for("the rest", lambda w=watch, k=kept: k[-1] in self.values(w, "long"), 30)
            got = [v[:12] for v in dict.fromkeys(self.values(watch, "long"))
                   if v.startswith(which)]
            if which == "oldest":  # the snapshot after the kill is a message too: one more fell
                self.assertIn(got, ([v[:12] for v in kept], [v[:12] for v in kept[1:]]))
            else:
                self.assertEqual(got[:len(kept)], [v[:12] for v in kept])

    def test_a_deleted_client_leaves_no_message_behind(self):
        client = self.add_client(port=harness.free_port(), forward={})
        self.add_group(client, "gone", "word")
        self.say(*[f"gone-{i}" for i in range(50)])
        wait_for("the last on disk", lambda: self.on_disk("gone-49"))
        self.done("deleteMqttClient", path=(str(client),), who=WHO)
        self.kill_and_start()
        self.assertEqual(self.done("getMqttClients", who=WHO), [])
        self.assertEqual(self.metric("fieldgate_mqtt_queued_messages"), 0)
