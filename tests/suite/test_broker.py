"""A broker that goes, comes back, refuses."""
import json
import os
import socket
import ssl
import subprocess
import threading
import time

import harness
from harness import Broker, Plant, Subscriber, Suite, wait_for

TEST_SECONDS = 180
P = "modbus_tcp_master"


class MuteBroker(threading.Thread):
    """Takes messages (QoS 1) and acknowledges none until told to; .messages holds payloads."""

    def __init__(self, context=None):
        super().__init__(daemon=True)
        self.context = context
        self.messages, self.acknowledges, self.lines = [], False, []
        self.held, self.lock = [], threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            try:
                line = self.listener.accept()[0]
            except OSError:
                return
            self.lines.append(line)
            threading.Thread(target=self.serve, args=(line,), daemon=True).start()

    def serve(self, line):
        try:
            if self.context:
                line = self.context.wrap_socket(line, server_side=True)
            stream = line.makefile("rb")
            while head := stream.read(1):
                size, shift = 0, 0
                while True:
                    byte = stream.read(1)[0]
                    size |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                body = stream.read(size)
                if head[0] >> 4 == 1:
                    line.sendall(b"\x20\x02\x00\x00")
                elif head[0] >> 4 == 12:
                    line.sendall(b"\xd0\x00")
                elif head[0] >> 4 == 3:
                    n = 2 + int.from_bytes(body[:2], "big")
                    self.messages.append(body[n + 2:])
                    self.hold(line, b"\x40\x02" + body[n:n + 2])
        except (OSError, IndexError):
            pass
        line.close()

    def hold(self, line, acknowledgement):
        with self.lock:
            if self.acknowledges:
                line.sendall(acknowledgement)
            else:
                self.held.append((line, acknowledgement))

    def acknowledge(self):
        """All that came on lines that are open, and all that will come."""
        with self.lock:
            self.acknowledges = True
            for line, acknowledgement in self.held:
                if line in self.lines:
                    line.sendall(acknowledgement)

    def hang_up(self):
        """On all that are connected now."""
        for line in self.lines:
            try:
                line.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.lines = []

    def close(self):
        self.listener.close()
        self.hang_up()


class Brokers(Suite):
    @classmethod
    def prepare(cls):
        cls.plant = Plant(cls.fleet)
        cls.add_device("pump", cls.plant.port, [("flow", 3, 0, 1, 100, [("flow", "uint16", 0)])])
        cls.apply()
        wait_for("the tag", lambda: cls.values("pump").get("flow"))

    def status(self, client):
        return next(c["status"] for c in self.admin.get("/mqtt").data if c["id"] == client)

    def wait_status(self, client, *wanted, timeout=30.0):
        return wait_for(f"the client to be {'/'.join(wanted)}, is {self.status(client)}",
                        lambda: self.status(client) in wanted, timeout)

    def has(self, value):
        return lambda topic, payload: any(
            v["value"] == value for v in
            json.loads(payload)["tags"][P]["pump"]["flow"]["values"])

    def test_a_broker_that_goes_and_comes_back(self):
        broker = Broker(self.fleet).start()
        client = self.add_mqtt(broker.port, retryInterval=10)
        self.add_group(client, {P: {"pump": ["flow"]}})
        subscriber = Subscriber(broker.port)
        self.plant.set(0, 1)
        subscriber.wait_message(self.has(1))
        for round_ in range(2):
            broker.stop()
            self.wait_status(client, "disconnect", "connecting", "connectFailure")
            self.assert_ok(self.admin.get("/tags/list"))  # nobody else cares
            broker.start()
            self.wait_status(client, "connected")
            mark = len(subscriber.messages)
            self.plant.set(0, 100 + round_)
            subscriber.wait_message(self.has(100 + round_), since=mark, timeout=30)
        subscriber.close()

    def test_a_broker_that_refuses_and_then_lets_in(self):
        broker = Broker(self.fleet, refuse=True).start()
        client = self.add_mqtt(broker.port, retryInterval=10)
        self.add_group(client, {P: {"pump": ["flow"]}})
        self.wait_status(client, "connectFailure")
        broker.stop()
        broker = Broker(self.fleet, port=broker.port).start()
        self.wait_status(client, "connected", timeout=40)
        subscriber = Subscriber(broker.port)
        self.plant.set(0, 55)
        subscriber.wait_message(self.has(55))
        subscriber.close()

    def test_a_wrong_password_is_told_and_the_right_one_connects_at_once(self):
        broker = Broker(self.fleet, users={"gw": "right-Password-1"}).start()
        client = self.add_mqtt(broker.port, userName="gw", password="wrong", retryInterval=3600)
        self.add_group(client, {P: {"pump": ["flow"]}})
        self.wait_status(client, "connectFailure")
        settings = next(c for c in self.admin.get("/mqtt").data if c["id"] == client)
        self.assertNotIn("wrong", json.dumps(settings))
        settings["password"] = "right-Password-1"
        self.assert_ok(self.admin.put(f"/mqtt/{client}", settings))
        self.wait_status(client, "connected")
        subscriber = Subscriber(broker.port, user="gw", password="right-Password-1")
        self.plant.set(0, 66)
        subscriber.wait_message(self.has(66))
        subscriber.close()
        self.assertNotIn("right-Password-1", json.dumps(self.audits()))

    def test_nobody_listening_at_all_costs_no_processor(self):
        port = harness.free_port()
        client = self.add_mqtt(port, retryInterval=10)
        self.wait_status(client, "connectFailure")
        d = self.fleet.d["cloudd"]
        before, began = d.cpu_seconds(), time.monotonic()
        wait_for("three seconds", lambda: time.monotonic() - began > 3)
        self.assertLess((d.cpu_seconds() - before) / 3, min(0.25 * harness.SLOW, 0.8))
        self.assert_ok(self.admin.delete(f"/mqtt/{client}"))

    def monitor(self, client):
        return next(c for c in self.admin.get("/mqtt/monitor").data["clients"]
                    if c["id"] == client)

    def test_a_message_that_the_broker_refuses_by_closing_does_not_block_the_rest(self):
        broker = Broker(self.fleet, options=("max_packet_size 4000",)).start()
        large = [{"key": f"k{i}", "value": "x" * 1024} for i in range(8)]
        clients = [self.add_mqtt(broker.port, retryInterval=10) for _ in range(2)]
        for client, stored in zip(clients, (False, True)):
            self.assert_ok(self.admin.put(f"/mqtt/{client}/store-and-forward",
                                          {"enable": stored}))
            # one message of it: changes only, and nothing changes
            self.add_group(client, {P: {"pump": ["flow"]}}, topic="large", properties=large,
                           samplingMode="allChangedValues")
        for client in clients:
            wait_for("the message to be given up",
                     lambda c=client: self.monitor(c)["droppedMessages"] == 1, 60)
            subscriber = Subscriber(broker.port)
            self.add_group(client, {P: {"pump": ["flow"]}}, topic=f"small-{client}")
            subscriber.wait_message(lambda topic, payload, c=client: topic == f"small-{c}")
            subscriber.close()
            self.assert_ok(self.admin.delete(f"/mqtt/{client}"))
        self.assertIn("given up", self.fleet.tail("cloudd", 200))
    test_a_message_that_the_broker_refuses_by_closing_does_not_block_the_rest.seconds = 150

    @staticmethod
    def values_of(messages):
        return [v["value"] for m in messages
                for v in json.loads(m)["tags"][P]["pump"]["flow"]["values"]]

    def test_what_was_under_way_when_messages_began_to_be_stored_goes_first(self):
        broker = MuteBroker()
        client = self.add_mqtt(broker.port, retryInterval=10)
        self.wait_status(client, "connected")
        self.plant.set(0, 1)
        self.wait_value("pump", "flow", 1)
        self.add_group(client, {P: {"pump": ["flow"]}}, samplingMode="allChangedValues")
        for value in range(1, 16):
            self.plant.set(0, value)
            self.wait_value("pump", "flow", value)
            if value == 10:
                wait_for("ten messages", lambda: len(broker.messages) >= 10)
                self.assert_ok(self.admin.put(f"/mqtt/{client}/store-and-forward",
                                              {"enable": True}))
        wait_for("all to be stored",
                 lambda: self.monitor(client)["queuedMessages"] == 15)
        mark = len(broker.messages)
        broker.hang_up()
        broker.acknowledge()
        wait_for("all to be acknowledged",
                 lambda: self.monitor(client)["queuedMessages"] == 0, 30)
        self.assertEqual(self.values_of(broker.messages[mark:]), list(range(1, 16)))
        self.assert_ok(self.admin.delete(f"/mqtt/{client}"))
        broker.close()

    def test_an_orderly_stop_sends_what_has_gathered_in_groups(self):
        broker = Broker(self.fleet).start()
        client = self.add_mqtt(broker.port)
        subscriber = Subscriber(broker.port)
        self.wait_status(client, "connected")
        topics = [f"group-{i}" for i in range(30)]
        for topic in topics:
            self.add_group(client, {P: {"pump": ["flow"]}}, topic=topic,
                           sendOutThreshold={"mode": "byTime", "time": 3600})
        for value in (71, 72, 73):
            self.plant.set(0, value)
            self.wait_value("pump", "flow", value)
        self.assertEqual(subscriber.messages, [])
        self.assertEqual(self.fleet.d["cloudd"].stop(), 0)
        self.start("cloudd")
        for topic in topics:
            got = subscriber.wait_message(lambda t, _p, want=topic: t == want)
            for value in (71, 72, 73):
                self.assertTrue(self.has(value)(*got[1:]), got)
        subscriber.close()
        self.assert_ok(self.admin.delete(f"/mqtt/{client}"))

    def test_an_orderly_stop_sends_what_is_behind_the_window(self):
        broker = MuteBroker()
        client = self.add_mqtt(broker.port)
        self.wait_status(client, "connected")
        for i in range(10):
            self.add_group(client, {P: {"pump": ["flow"]}}, topic=f"group-{i}")
        wait_for("more than the window", lambda: self.monitor(client)["queuedMessages"] > 150)
        self.plant.set(0, 4711)
        self.wait_value("pump", "flow", 4711)
        cloudd = self.fleet.d["cloudd"]
        cloudd.process.terminate()
        wait_for("it to stop", lambda: "stopping" in self.fleet.tail("cloudd", 3))
        broker.acknowledge()
        self.assertEqual(cloudd.stop(), 0)
        wait_for("the last value of each group",
                 lambda: self.values_of(broker.messages).count(4711) >= 10)
        self.start("cloudd")
        self.assert_ok(self.admin.delete(f"/mqtt/{client}"))
        broker.close()

    def patch_store(self, old, new):
        """In the file of the stopped daemon: as a damage would."""
        path = os.path.join(self.fleet.state, "cloudd", "data.mdb")
        with open(path, "r+b") as f:
            data = f.read()
            self.assertIn(old, data)
            f.seek(0)
            f.write(data.replace(old, new))

    def test_a_client_that_cannot_be_loaded_keeps_its_messages(self):
        client = self.add_mqtt(harness.free_port(), clientID="damaged")
        self.assert_ok(self.admin.put(f"/mqtt/{client}/store-and-forward", {"enable": True}))
        self.add_group(client, {P: {"pump": ["flow"]}})
        wait_for("messages", lambda: self.monitor(client)["queuedMessages"] >= 5)
        right, wrong = b'"clientID":"damaged"', b'"clientID":"damaged '
        cloudd = self.fleet.d["cloudd"]
        self.assertEqual(cloudd.stop(), 0)
        self.patch_store(right, wrong)
        self.start("cloudd", wait=False)
        wait_for("an answer", lambda: self.admin.get("/mqtt/monitor").status == 200)
        self.assertNotIn(client, [c["id"] for c in
                                  self.admin.get("/mqtt/monitor").data["clients"]])
        self.assertEqual(cloudd.stop(), 0)
        self.patch_store(wrong, right)
        self.start("cloudd")
        self.assertGreaterEqual(self.monitor(client)["queuedMessages"], 5)
        self.assert_ok(self.admin.delete(f"/mqtt/{client}"))

    @staticmethod
    def make_certificate():
        """A key and the certificate that it signed, PEM."""
        text = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-subj", "/CN=fg", "-days", "2", "-keyout", "-", "-out", "-"],
            check=True, capture_output=True, text=True).stdout
        at = text.index("-----BEGIN CERTIFICATE")
        return text[:at], text[at:]

    def test_no_version_of_tls_is_spoken_that_is_lower_than_the_one_asked_for(self):
        pem = os.path.join(self.fleet.dir, "broker.pem")
        with open(pem, "w", encoding="ascii") as f:
            f.write("".join(self.make_certificate()))
        versions = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
        for spoken, version in versions.items():
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pem)
            context.minimum_version = context.maximum_version = version
            broker = MuteBroker(context)
            for asked in versions:
                client = self.add_mqtt(broker.port, certificateOverTLS=True, tlsVersion=asked,
                                       insecureSkipVerify=True)
                self.wait_status(client,
                                 "connected" if asked <= spoken else "connectFailure")
                self.assert_ok(self.admin.delete(f"/mqtt/{client}"))
            broker.close()

    def key_files(self):
        return sorted(f for f in os.listdir(os.path.join(self.fleet.state, "cloudd"))
                      if f.endswith(".pem"))

    def test_a_private_key_is_on_disk_only_while_it_is_used(self):
        client = self.add_mqtt(harness.free_port(), certificateOverTLS=True)
        key, certificate = self.make_certificate()
        form = "".join(
            f'--B\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.pem"'
            f"\r\n\r\n{data}\r\n" for name, data in
            (("caCertFile", certificate), ("caPkFile", key))) + "--B--\r\n"
        self.assert_ok(self.admin.request(
            "PUT", f"/mqtt/{client}", raw=form.encode(),
            headers={"Content-Type": "multipart/form-data; boundary=B"}))
        wait_for("the files", lambda: len(self.key_files()) == 2)
        for change in ({"certificateOverTLS": False}, {"enable": False}):
            self.assert_ok(self.admin.put(f"/mqtt/{client}", change))
            self.assertEqual(self.key_files(), [])
            self.assert_ok(self.admin.put(f"/mqtt/{client}",
                                          {"certificateOverTLS": True, "enable": True}))
            wait_for("the files", lambda: len(self.key_files()) == 2)
        self.assert_ok(self.admin.put(f"/mqtt/{client}", {"enable": False}))
        self.assert_ok(self.admin.delete(f"/mqtt/{client}/certificates"))
        self.assertEqual(self.key_files(), [])
        left = os.path.join(self.fleet.state, "cloudd", f"mqtt-{client}-key.pem")
        self.kill("cloudd")
        for name in (left, left + ".new"):  # what a kill left
            with open(name, "w", encoding="ascii") as f:
                f.write(key)
        self.start("cloudd")
        self.assertFalse(os.path.exists(left) or os.path.exists(left + ".new"))
        self.assert_ok(self.admin.delete(f"/mqtt/{client}"))

    def test_the_version_of_the_protocol_may_be_sent_as_a_number(self):
        client = self.add_mqtt(harness.free_port(), enable=False, protocolVersion=3.1,
                               clientID="short")
        self.assertEqual(self.admin.get(f"/mqtt/{client}").data["protocolVersion"], "3.1")
        self.assert_ok(self.admin.put(f"/mqtt/{client}", {"protocolVersion": "3.1.1"}))
        self.assert_ok(self.admin.put(f"/mqtt/{client}", {"protocolVersion": 3.1}))
        self.assert_refused(self.admin.put(f"/mqtt/{client}", {"protocolVersion": 3.2}), 400,
                            pointer="/protocolVersion")
        self.assert_ok(self.admin.delete(f"/mqtt/{client}"))

    def test_a_name_that_would_be_twice_in_a_message_is_refused(self):
        client = self.add_mqtt(harness.free_port(), enable=False)
        body = {"enable": True, "tags": {P: {"pump": ["flow", "level", "flow"]}},
                "sendOutThreshold": {"mode": "immediately"}}
        path = f"/mqtt/{client}/messages"
        self.assert_refused(self.admin.post(path, body), 400, pointer="/tags", word="flow")
        body["tags"] = {P: {"pump": ["flow"], "other": ["flow"]}}
        body["properties"] = [{"key": k, "value": "v"} for k in ("a", "b", "a")]
        self.assert_refused(self.admin.post(path, body), 400, pointer="/properties/2/key")
        del body["properties"][2]
        group = self.assert_ok(self.admin.post(path, body)).data[-1]["id"]
        self.assert_refused(self.admin.put(f"{path}/{group}",
                                           {"tags": {P: {"pump": ["flow"] * 2}}}), 400,
                            pointer="/tags")
        self.assert_ok(self.admin.delete(f"/mqtt/{client}"))
